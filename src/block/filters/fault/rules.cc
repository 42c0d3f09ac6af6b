// Rules of fault injection: parsing.
#include "block/filters/fault/rules.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "base/text.h"

namespace strata::block::fault {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::size_t kMaxRules = 100'000;
constexpr std::uint64_t kMaxDelayMicroseconds = 3'600'000'000;
constexpr std::array<std::string_view, 6> kKindNames = {"read",    "write", "write-zeroes",
                                                        "discard", "flush", "block-status"};
constexpr std::array<std::pair<std::string_view, int>, 9> kErrors = {{{"EIO", EIO},
                                                                      {"ENOSPC", ENOSPC},
                                                                      {"EROFS", EROFS},
                                                                      {"EAGAIN", EAGAIN},
                                                                      {"ENOMEM", ENOMEM},
                                                                      {"ETIMEDOUT", ETIMEDOUT},
                                                                      {"EBUSY", EBUSY},
                                                                      {"EINVAL", EINVAL},
                                                                      {"ENODEV", ENODEV}}};

Error wrong(std::string text) {
    return {ErrorKind::InvalidArgument, std::move(text), EINVAL};
}

Result<NodeEvent> event_of(std::string_view name) {
    const auto event = find_event(name);
    return event ? Result<NodeEvent>(*event) : wrong(fmt::format("Invalid parameter '{}'", name));
}

Result<std::uint32_t> kinds_of(std::string_view text) {
    std::uint32_t kinds = 0;
    for (const std::string_view each : split(text, '+')) {
        const auto place = std::find(kKindNames.begin(), kKindNames.end(), each);
        if (place == kKindNames.end()) {
            return wrong(fmt::format("Invalid parameter '{}'", each));
        }
        kinds |= 1U << (place - kKindNames.begin());
    }
    return kinds;
}

Result<int> error_of(const std::string& text) {
    for (const auto& [name, number] : kErrors) {
        if (text == name) {
            return number;
        }
    }
    const std::uint64_t number = STRATA_TRY(parse_integer(text, 0, 4095));
    return static_cast<int>(number);
}

Result<> take_range(NodeTree& options, Rule& rule) {
    const auto sector = options.take("sector");
    if (sector && *sector != "-1") {
        rule.from = STRATA_TRY(parse_integer(*sector, 0, UINT64_MAX / kSector - 1)) * kSector;
        rule.until = rule.from + 1;
        rule.anywhere = false;
    }
    if (options.has("from") || options.has("length")) {
        rule.from = STRATA_TRY(options.take_size("from", 0));
        const std::uint64_t length = STRATA_TRY(options.take_size("length", UINT64_MAX));
        rule.until = length > UINT64_MAX - rule.from ? UINT64_MAX : rule.from + length;
        rule.anywhere = false;
    }
    return ok();
}

Result<> take_effect(NodeTree& options, Rule& rule) {
    const std::string effect = options.take("effect").value_or("error");
    const auto error = options.take("errno");
    if (effect == "torn" || effect == "lost") {
        rule.effect = effect == "torn" ? Effect::Torn : Effect::Lost;
    } else if (effect != "error") {
        return wrong(fmt::format("effect={}: error, torn or lost is wanted", effect));
    }
    rule.error = error ? STRATA_TRY(error_of(*error)) : rule.effect == Effect::Fail ? EIO : 0;
    const std::uint64_t delay = STRATA_TRY(options.take_number("delay-us", 0));
    if (delay > kMaxDelayMicroseconds) {
        return wrong(fmt::format("delay-us={}: an hour at most", delay));
    }
    rule.delay = std::chrono::microseconds(delay);
    return ok();
}

/// A line of a configuration without what surrounds it.
std::string_view trimmed(std::string_view line) {
    constexpr std::string_view kBlank = " \t\r";
    const auto first = line.find_first_not_of(kBlank);
    if (first == std::string_view::npos) {
        return {};
    }
    return line.substr(first, line.find_last_not_of(kBlank) - first + 1);
}

/// `name = "value"`.
bool parse_line(std::string_view line, OptionList& out) {
    const auto equals = line.find('=');
    if (equals == std::string_view::npos) {
        return false;
    }
    const std::string_view name = trimmed(line.substr(0, equals));
    const std::string_view value = trimmed(line.substr(equals + 1));
    if (name.empty() || value.size() < 2 || value.front() != '"' || value.back() != '"') {
        return false;
    }
    out.emplace_back(name, value.substr(1, value.size() - 2));
    return true;
}

struct Section {
    std::string name;
    OptionList options;
};

Result<> add_section(Section section, RuleSet& rules) {
    if (section.name == "inject-error") {
        rules.rules.push_back(STRATA_TRY(parse_rule(NodeTree(std::move(section.options)))));
    } else if (section.name == "set-state") {
        rules.changes.push_back(STRATA_TRY(parse_change(NodeTree(std::move(section.options)))));
    } else if (!section.name.empty()) {
        return wrong(fmt::format("There is no option group '{}'", section.name));
    }
    return ok();
}

}  // namespace

bool Rule::fits(IoKind kind, std::uint64_t offset, std::uint64_t length) const {
    if ((kinds >> static_cast<unsigned>(kind) & 1U) == 0) {
        return false;
    }
    return anywhere || (length != 0 && offset < until && from < offset + length);
}

Result<Rule> parse_rule(NodeTree options) {
    Rule rule;
    if (const auto event = options.take("event")) {
        rule.event = STRATA_TRY(event_of(*event));
    }
    rule.state = STRATA_TRY(options.take_number("state", 0));
    if (const auto kinds = options.take("iotype")) {
        rule.kinds = STRATA_TRY(kinds_of(*kinds));
    }
    STRATA_TRY_VOID(take_range(options, rule));
    STRATA_TRY_VOID(take_effect(options, rule));
    rule.count = STRATA_TRY(options.take_number("count", 0));
    if (STRATA_TRY(options.take_flag("once", false))) {
        rule.count = 1;
    }
    rule.rate = STRATA_TRY(options.take_share("rate", 1.0));
    rule.immediately = STRATA_TRY(options.take_flag("immediately", false));
    if (!options.empty()) {
        return wrong(fmt::format("Invalid parameter '{}'", options.options().front().first));
    }
    return rule;
}

Result<StateChange> parse_change(NodeTree options) {
    StateChange change;
    const auto event = options.take("event");
    if (!event) {
        return wrong("Missing event name for rule");
    }
    change.event = STRATA_TRY(event_of(*event));
    change.state = STRATA_TRY(options.take_number("state", 0));
    change.next = STRATA_TRY(options.take_number("new_state", 0));
    if (!options.empty()) {
        return wrong(fmt::format("Invalid parameter '{}'", options.options().front().first));
    }
    return change;
}

Result<RuleSet> parse_config(std::string_view text, std::string_view name) {
    RuleSet rules;
    Section section;
    std::size_t number = 0;
    while (!text.empty()) {
        const auto end = text.find('\n');
        const std::string_view line = trimmed(text.substr(0, end));
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        ++number;
        if (line.empty() || line.front() == '#') {
            continue;
        }
        if (line.front() == '[' && line.back() == ']') {
            STRATA_TRY_VOID(add_section(
                std::exchange(section, {std::string(trimmed(line.substr(1, line.size() - 2))), {}}),
                rules));
            continue;
        }
        if (section.name.empty() || !parse_line(line, section.options)) {
            return wrong(fmt::format("{}:{}: {}", name, number,
                                     section.name.empty() ? "no group defined" : "parse error"));
        }
        if (rules.rules.size() + rules.changes.size() > kMaxRules) {
            return wrong(fmt::format("{}: more than {} rules", name, kMaxRules));
        }
    }
    STRATA_TRY_VOID(add_section(std::move(section), rules));
    return rules;
}

Result<> add_rules(NodeTree& options, RuleSet& rules) {
    for (const std::string_view list : {"inject-error", "rules"}) {
        for (NodeTree& each : options.take_list(list)) {
            rules.rules.push_back(STRATA_TRY(parse_rule(std::move(each))));
        }
    }
    for (NodeTree& each : options.take_list("set-state")) {
        rules.changes.push_back(STRATA_TRY(parse_change(std::move(each))));
    }
    return ok();
}

}  // namespace strata::block::fault
