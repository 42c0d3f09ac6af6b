// FaultNode: judging requests by the rules.
#include "block/filters/fault/fault.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "block/filters/limits_node.h"
#include "block/protocols/file/file_node.h"

namespace strata::block::fault {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kMaxConfig = 1U << 20;

Task<RuleSet> read_config(Loop& loop, std::string path) {
    OpenOptions options;
    options.path = path;
    options.read_only = true;
    options.lock = false;
    auto opened = FileNode::open(loop, options);
    if (!opened.ok()) {
        co_return std::move(opened).error().context("Could not read blkdebug config file");
    }
    std::string text(std::min((*opened)->size(), kMaxConfig), ' ');
    STRATA_CO_TRY_VOID(
        co_await (*opened)->read(0, Buffers(std::as_writable_bytes(std::span(text)))));
    STRATA_CO_TRY_VOID(co_await (*opened)->close());
    co_return parse_config(text, path);
}

Task<NodePtr> open(Loop& loop, NodeTree tree, OpenOptions options) {
    RuleSet rules;
    STRATA_CO_TRY_VOID(add_rules(tree, rules));
    STRATA_CO_TRY(const std::uint64_t seed, tree.take_number("seed", 1));
    STRATA_CO_TRY(const bool enabled, tree.take_flag("enabled", true));
    STRATA_CO_TRY(NodePtr child, co_await open_child(loop, tree, "file", options));
    STRATA_CO_TRY_VOID(tree.finish("format", "fault"));
    auto node = std::make_shared<FaultNode>(std::move(child), "fault", std::move(rules), seed);
    node->enable(enabled);
    co_return NodePtr(std::move(node));
}

Task<NodePtr> open_blkdebug(Loop& loop, NodeTree tree, OpenOptions options) {
    RuleSet rules;
    if (const auto config = tree.take("config"); config && !config->empty()) {
        if (options.named_by_image) {
            co_return Error{ErrorKind::PermissionDenied,
                            "an image may not name a configuration file of blkdebug", EPERM};
        }
        STRATA_CO_TRY(rules, co_await read_config(loop, *config));
    }
    STRATA_CO_TRY_VOID(add_rules(tree, rules));
    for (Rule& each : rules.rules) {
        if (!each.event) {
            co_return Error{ErrorKind::InvalidArgument, "Missing event name for rule", EINVAL};
        }
    }
    STRATA_CO_TRY(const Limits limits, Limits::take(tree));
    (void)tree.take_child("take-child-perms");
    (void)tree.take_child("unshare-child-perms");
    STRATA_CO_TRY(NodePtr child, co_await open_child(loop, tree, "image", options));
    STRATA_CO_TRY_VOID(tree.finish("protocol", "blkdebug"));
    NodePtr node = std::make_shared<FaultNode>(std::move(child), "blkdebug", std::move(rules), 1);
    if (limits.any()) {
        node = std::make_shared<LimitsNode>(std::move(node), "blkdebug", limits);
    }
    co_return node;
}

constexpr NodeDriver kDriver{.name = "fault", .open = &open};
constexpr NodeDriver kBlkdebug{.name = "blkdebug", .open = &open_blkdebug};

}  // namespace

const NodeDriver& driver() {
    return kDriver;
}
const NodeDriver& blkdebug_driver() {
    return kBlkdebug;
}

FaultNode::FaultNode(NodePtr child, std::string_view driver, RuleSet rules, std::uint64_t seed)
    : FilterNode(std::move(child)), driver_(driver), random_(seed) {
    set_rules(std::move(rules));
}

void FaultNode::set_rules(RuleSet rules) {
    rules_ = std::move(rules);
    active_.clear();
    state_ = 1;
    note(NodeEvent::None);
}

void FaultNode::note(NodeEvent event) {
    std::vector<std::size_t> found;
    for (std::size_t at = 0; at < rules_.rules.size(); ++at) {
        const Rule& rule = rules_.rules[at];
        if (rule.event == event && (rule.state == 0 || rule.state == state_)) {
            found.push_back(at);
        }
    }
    if (!found.empty()) {
        active_ = std::move(found);
    }
    const std::uint64_t before = state_;
    for (const StateChange& change : rules_.changes) {
        if (change.event == event && (change.state == 0 || change.state == before)) {
            state_ = change.next;
            break;
        }
    }
    if (event != NodeEvent::None) {
        child().note(event);
    }
}

bool FaultNode::strikes(Rule& rule) {
    if (rule.rate < 1.0 && std::uniform_real_distribution<double>(0.0, 1.0)(random_) >= rule.rate) {
        return false;
    }
    if (rule.count != 0 && --rule.count == 0) {
        rule.kinds = 0;  // used up: it fits nothing any more
    }
    return true;
}

Rule* FaultNode::find_rule(IoKind kind, std::uint64_t offset, std::uint64_t length) {
    for (const std::size_t at : active_) {
        if (rules_.rules[at].fits(kind, offset, length)) {
            return &rules_.rules[at];
        }
    }
    for (Rule& rule : rules_.rules) {
        if (!rule.event && rule.fits(kind, offset, length)) {
            return &rule;
        }
    }
    return nullptr;
}

Task<FaultNode::Verdict> FaultNode::judge(IoKind kind, std::uint64_t offset, std::uint64_t length) {
    Rule* rule = enabled_ ? find_rule(kind, offset, length) : nullptr;
    if (rule == nullptr || !strikes(*rule)) {
        co_return Verdict{};
    }
    ++injected_;
    // Only a delay: the request goes on.
    const Verdict verdict{rule->effect, rule->error,
                          rule->effect != Effect::Fail || rule->error != 0};
    const auto delay = rule->delay;
    const bool immediately = rule->immediately;
    if (delay.count() != 0) {
        co_await loop().sleep(delay);
    } else if (!immediately) {
        co_await loop().yield();
    }
    co_return verdict;
}

Result<> FaultNode::outcome(const Verdict& verdict, std::string_view what, std::uint64_t offset,
                            std::uint64_t length) const {
    if (verdict.error == 0) {
        return ok();
    }
    return Error::from_errno(
        fmt::format("'{}': {} of {} bytes at {} was made to fail", name(), what, length, offset),
        verdict.error);
}

Task<> FaultNode::read(std::uint64_t offset, Buffers into) {
    STRATA_CO_TRY(const Verdict verdict, co_await judge(IoKind::Read, offset, into.size()));
    if (verdict.acts && verdict.error != 0) {
        co_return outcome(verdict, "a read", offset, into.size());
    }
    co_return co_await child().read(offset, into);
}

Task<> FaultNode::write_torn(std::uint64_t offset, Buffers from, Verdict verdict) {
    const std::uint64_t sectors = (from.size() + kSector - 1) / kSector;
    const std::uint64_t kept =
        std::uniform_int_distribution<std::uint64_t>(0, sectors - 1)(random_) * kSector;
    if (kept != 0) {
        STRATA_CO_TRY_VOID(co_await child().write(offset, from.slice(0, kept)));
    }
    co_return outcome(verdict, "a write", offset, from.size());
}

Task<> FaultNode::write(std::uint64_t offset, Buffers from) {
    note(NodeEvent::Pwritev);
    STRATA_CO_TRY(const Verdict verdict, co_await judge(IoKind::Write, offset, from.size()));
    if (verdict.acts && verdict.effect == Effect::Torn && from.size() != 0) {
        co_return co_await write_torn(offset, from, verdict);
    }
    if (verdict.acts) {
        co_return outcome(verdict, "a write", offset, from.size());
    }
    auto done = co_await child().write(offset, from);
    note(NodeEvent::PwritevDone);
    co_return done;
}

Task<> FaultNode::write_compressed(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY(const Verdict verdict, co_await judge(IoKind::Write, offset, from.size()));
    if (verdict.acts) {
        co_return outcome(verdict, "a compressed write", offset, from.size());
    }
    co_return co_await child().write_compressed(offset, from);
}

Task<> FaultNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    note(NodeEvent::PwritevZero);
    STRATA_CO_TRY(const Verdict verdict, co_await judge(IoKind::WriteZeroes, offset, length));
    if (verdict.acts) {
        co_return outcome(verdict, "a write of zeros", offset, length);
    }
    auto done = co_await child().write_zeroes(offset, length, options);
    note(NodeEvent::PwritevDone);
    co_return done;
}

Task<> FaultNode::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY(const Verdict verdict, co_await judge(IoKind::Discard, offset, length));
    if (verdict.acts) {
        co_return outcome(verdict, "a discard", offset, length);
    }
    co_return co_await child().discard(offset, length);
}

Task<> FaultNode::flush() {
    note(NodeEvent::FlushToOs);
    note(NodeEvent::FlushToDisk);
    STRATA_CO_TRY(const Verdict verdict, co_await judge(IoKind::Flush, 0, 0));
    if (verdict.acts) {
        co_return outcome(verdict, "a flush", 0, 0);
    }
    co_return co_await child().flush();
}

Task<Extent> FaultNode::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY(const Verdict verdict, co_await judge(IoKind::BlockStatus, offset, length));
    if (verdict.acts && verdict.error != 0) {
        STRATA_CO_TRY_VOID(outcome(verdict, "a question for the status", offset, length));
    }
    co_return co_await child().status(offset, length);
}

}  // namespace strata::block::fault
