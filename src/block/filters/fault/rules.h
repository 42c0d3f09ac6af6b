// Rules of fault injection: what goes wrong, when and where. Read from options, or from a
// configuration file in blkdebug's form.
//
// A rule without an event is in force all the time. One with an event is in force from that event
// on until another event puts other rules in its place (as blkdebug has it); "none" is the opening.
// Of the rules in force the first that fits a request acts.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "block/node_event.h"
#include "block/node_tree.h"

namespace strata::block::fault {

enum class IoKind : std::uint8_t { Read, Write, WriteZeroes, Discard, Flush, BlockStatus };

enum class Effect : std::uint8_t {
    Fail,  ///< nothing is done; the error is answered
    Torn,  ///< of a write only the first sectors arrive, how many is chance
    Lost,  ///< nothing is done, and success is answered unless there is an error
};

struct Rule {
    std::optional<NodeEvent> event;
    std::uint64_t state = 0;                     ///< in this state only; 0: in any
    std::uint32_t kinds = 0x1F;                  ///< a bit for each IoKind: all but block status
    std::uint64_t from = 0, until = UINT64_MAX;  ///< bytes of which a request must touch one
    bool anywhere = true;                        ///< requests without a range (flushes) too
    Effect effect = Effect::Fail;
    int error = 0;            ///< errno
    double rate = 1.0;        ///< how often of all times
    std::uint64_t count = 0;  ///< so many times, then no more; 0: always
    std::chrono::nanoseconds delay{0};
    bool immediately = false;  ///< without going through the scheduler

    [[nodiscard]] bool fits(IoKind kind, std::uint64_t offset, std::uint64_t length) const;
};

struct StateChange {
    NodeEvent event = NodeEvent::None;
    std::uint64_t state = 0;  ///< 0: in any
    std::uint64_t next = 0;
};

struct RuleSet {
    std::vector<Rule> rules;
    std::vector<StateChange> changes;
};

/// "event", "state", "iotype" (joined by '+'), "errno" (a number or a name such as ENOSPC),
/// "sector" or "from" and "length", "once" or "count", "rate", "delay-us", "effect" (error, torn,
/// lost), "immediately".
Result<Rule> parse_rule(NodeTree options);
/// "event", "state", "new_state".
Result<StateChange> parse_change(NodeTree options);
/// A file of [inject-error] and [set-state] sections with lines `name = "value"`. `name` is for
/// messages.
Result<RuleSet> parse_config(std::string_view text, std::string_view name);
/// Takes "inject-error.N", "rules.N" and "set-state.N" out of `options`.
Result<> add_rules(NodeTree& options, RuleSet& rules);

}  // namespace strata::block::fault
