// BlockParts: what there are several of in a translated block: its exits, and the marks that tell
// which host code belongs to which guest instruction.
//
// A kernel's boot makes 50000 blocks with three exits and 15 marks each, so both are packed into
// one piece of memory behind a pointer to the block. Not thread-safe: the translator's lock guards
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace strata::engine::soft {

struct Block;

/// Where the guest's arithmetic flags are when control passes from block to block. Either:
/// TranslatorState::flags_in_host says, behind a return.
enum class FlagsPlace : std::uint8_t { Dead, Host, Memory, Either };

/// One way out of a block to a known guest address.
struct Exit {
    /// Stale: of a checked block: what it was made from has changed. Settled: it has not, for long.
    enum class Kind : std::uint8_t { Direct, Interpret, Poll, Stale, Settled };
    /// Bytes of a stub: a call, by whose return address the exit is recognised.
    static constexpr std::uint32_t kStubBytes = 5;

    std::uint64_t target = 0;  ///< guest rip; of a floating block relative to its page
    Block* linked = nullptr;   ///< the block that `patch` jumps to, null while it goes to the stub
    Exit* next_incoming = nullptr;  ///< list of exits linked to the same block
    std::uint32_t patch = 0;  ///< offset in the code memory of the jump's rel32; 0: never linked
    std::uint32_t stub = 0;   ///< offset in the code memory of the exit stub
    std::uint16_t index = 0;  ///< among the exits of its block; BlockParts sets it
    Kind kind = Kind::Direct;
    FlagsPlace flags : 2 = FlagsPlace::Dead;
    bool ungrouped : 1 = false;    ///< the target is to be translated without grouped stack checks
    bool second_page : 1 = false;  ///< the owner's second page was not seen to hold: to be looked
                                   ///< up, then the owner is tried again

    /// Of an exit within BlockParts: the block that it leaves.
    [[nodiscard]] Block& owner() const;
};
static_assert(sizeof(Exit) == 40, "there are hundreds of thousands");

/// From this host offset in the block on, the code belongs to the guest instruction at `guest`.
struct InsnMark {
    static constexpr std::uint16_t kHostFlags = 0x8000;
    std::uint16_t host = 0;  ///< cold code counts from the end of the hot
    std::uint16_t guest =
        0;  ///< offset from the block's rip; kHostFlags: the guest's flags are in host RFLAGS here
};

class BlockParts {
  public:
    BlockParts() = default;
    /// Copies both. `owner` stays where it is.
    BlockParts(Block& owner, std::span<const Exit> exits, std::span<const InsnMark> marks);

    /// They stay where they are.
    [[nodiscard]] std::span<Exit> exits();
    [[nodiscard]] std::span<const Exit> exits() const;
    /// Ascending by host.
    [[nodiscard]] std::span<const InsnMark> marks() const;

  private:
    std::unique_ptr<std::byte[]> memory_;  ///< the owner's address, the exits, the marks
    std::uint16_t exits_ = 0, marks_ = 0;
};

}  // namespace strata::engine::soft
