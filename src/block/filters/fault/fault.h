// FaultNode: a filter that makes things go wrong: errors, delays, torn and lost writes, by rule
// (rules.h).
//
// For tests of whatever lies above. The rules may be changed and switched while requests are under
// way, on the graph's thread. Two names open it: "fault" (child "file", rules.N.…) and "blkdebug"
// (child "image", config, inject-error.N.…, set-state.N.…, and the limits of limits_node.h), which
// takes QEMU's configurations.
#pragma once

#include <random>

#include "block/filters/fault/rules.h"
#include "block/filters/filter_node.h"
#include "block/registry.h"

namespace strata::block::fault {

class FaultNode final : public FilterNode {
  public:
    /// `seed`: of all that is left to chance.
    FaultNode(NodePtr child, std::string_view driver, RuleSet rules, std::uint64_t seed);
    [[nodiscard]] std::string_view format() const override { return driver_; }

    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> write_compressed(std::uint64_t offset, Buffers from) override;
    void note(NodeEvent event) override;

    /// Other rules from now on, the state being 1.
    void set_rules(RuleSet rules);
    /// Off: nothing goes wrong, and no rule is used up. Events are still followed.
    void enable(bool on) { enabled_ = on; }
    /// Requests that a rule acted upon.
    [[nodiscard]] std::uint64_t injected() const { return injected_; }

  private:
    /// What to do with a request.
    struct Verdict {
        Effect effect = Effect::Fail;
        int error = 0;
        bool acts = false;
    };
    Task<Verdict> judge(IoKind kind, std::uint64_t offset, std::uint64_t length);
    [[nodiscard]] Rule* find_rule(IoKind kind, std::uint64_t offset, std::uint64_t length);
    bool strikes(Rule& rule);
    [[nodiscard]] Result<> outcome(const Verdict& verdict, std::string_view what,
                                   std::uint64_t offset, std::uint64_t length) const;
    Task<> write_torn(std::uint64_t offset, Buffers from, Verdict verdict);

    const std::string_view driver_;
    RuleSet rules_;
    std::vector<std::size_t> active_;  ///< indices of rules with an event that are in force
    std::uint64_t state_ = 1;
    bool enabled_ = true;
    std::uint64_t injected_ = 0;
    std::mt19937_64 random_;
};

const NodeDriver& driver();
const NodeDriver& blkdebug_driver();

}  // namespace strata::block::fault
