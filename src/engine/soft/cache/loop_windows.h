// LoopWindows: how a block that is a loop checks its memory accesses once for many iterations.
//
// The addresses of a loop are sums of registers that it leaves alone and of one that it steps
// through memory by a constant. When the loop is entered, and when it has come to the end of what
// was found, the helper looks up the page of each base and notes, in TranslatorState::deltas,
//   kBase + i    host minus linear address, plus the part of the address that does not change: an
//   access adds the stepping register and its displacement; kStop        the value that the first
//   stepping register has at the loop's head after the last iteration that stays in all those
//   pages: an iteration
//                compares it before anything is accessed. At most kMostIterations lie before it, so
//                requests need no look of their own.
// As every way through the loop adds the same to each stepping register, one of them tells where
// all are, and it meets kStop exactly.
//
// Where the sums are simple (`quick`) the block does that itself (block_fills.cc) and asks the
// helper only for what the TLB does not have, and now and then for the statistics.
//
// Nothing can flush between a fill and the last access that relies on it: such a block calls no C++
// code but at its head, and what was found only holds while it is not left.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace strata::engine::soft {

struct LoopWindows {
    static constexpr std::uint32_t kBase = 0, kBases = 8;
    static constexpr std::uint32_t kStop = 8;
    static constexpr std::uint32_t kLast =
        9;  ///< where the first stepping register stood when a loop was last left by its end; for
            ///< the statistics,
    static constexpr std::uint32_t kOwner =
        10;  ///< and which loop was entered last: its address, or 0
    static constexpr std::uint32_t kSample =
        11;  ///< as int32: quick fills until one goes through the helper, for the statistics,
    static constexpr std::uint32_t kQuickLast = 12, kQuickOwner = 13;  ///< which has its own places
    static constexpr std::uint32_t kSteppers = 4;
    static constexpr std::int8_t kNone = -1;
    static constexpr std::uint32_t kMostIterations = 4096;

    /// Accesses of bytes [low, low + bytes) relative to constant + base + index * index_scale +
    /// (stepping register << shift). Guest registers.
    struct Base {
        std::uint64_t constant = 0;
        bool anchored = false;  ///< TranslatorState::anchor is a part of the sum as well
        std::int8_t base = kNone, index = kNone;
        std::uint8_t index_scale = 1;
        std::int8_t stepper = kNone;  ///< number in `steppers`
        std::uint8_t shift = 0;
        bool write = false;
        std::int32_t low = 0, bytes = 0;
    };
    /// A register to which every iteration adds `step`, not 0.
    struct Stepper {
        std::int8_t reg = kNone;
        std::int32_t step = 0;
    };

    std::uint64_t ram_offset = 0;  ///< of the block
    std::array<Base, kBases> bases;
    std::array<Stepper, kSteppers> steppers;
    std::uint32_t base_count = 0, stepper_count = 0;
    std::uint32_t accesses = 0;  ///< in an iteration, of those that need no check of their own
    bool quick = false;          ///< the block itself looks its pages up, if the TLB has them
    bool pinned = false;         ///< … and keeps the first bases in r11 and r10 while it runs
    [[nodiscard]] std::uint32_t last() const { return quick ? kQuickLast : kLast; }
    [[nodiscard]] std::uint32_t owner() const { return quick ? kQuickOwner : kOwner; }
    // Whether it pays; by any vCPU, roughly.
    std::atomic<std::uint32_t> fills{0};
    std::atomic<std::uint64_t> way{0};  ///< that the first stepping register made since some fills
    std::atomic<std::uint64_t> first{0};  ///< where it stood at the last fill
};

}  // namespace strata::engine::soft
