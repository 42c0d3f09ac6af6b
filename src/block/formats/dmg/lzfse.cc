// LZFSE: Apple's compression: blocks of literals and (L, M, D) triples under finite state entropy
// coding, LZVN and stored blocks.
//
// A compressed block carries the frequencies of its symbols, from which four decoding tables are
// made (literals; lengths of literal runs, of matches, distances). Both streams of bits are read
// from their ends backwards. Every number from the stream is checked: a damaged stream ends in an
// error, never outside `from` or `into`. Format: Apple's lzfse reference sources (BSD-3), their
// documented structures; the code is our own.
#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/endian.h"
#include "block/formats/common/wire.h"
#include "block/formats/dmg/codecs.h"

namespace strata::block::dmg {
namespace {

constexpr std::uint32_t kStored = 0x2D787662, kV1 = 0x31787662, kV2 = 0x32787662,
                        kLzvn = 0x6E787662, kEnd = 0x24787662;
constexpr unsigned kLSymbols = 20, kMSymbols = 20, kDSymbols = 64, kLiteralSymbols = 256;
constexpr unsigned kLStates = 64, kMStates = 64, kDStates = 256, kLiteralStates = 1024;
constexpr std::uint32_t kMaxLiterals = 40000, kMaxMatches = 10000;
constexpr std::size_t kV1Frequencies = 52, kV2Head = 32;

Error damaged() {
    return {ErrorKind::Failed, "a chunk compressed with LZFSE is damaged", EIO};
}

/// Extra bits of a symbol; its base follows from those before it.
constexpr std::array<std::uint8_t, kLSymbols> kLBits = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                                        0, 0, 0, 0, 0, 0, 2, 3, 5, 8};
constexpr std::array<std::uint8_t, kMSymbols> kMBits = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                                        0, 0, 0, 0, 0, 0, 3, 5, 8, 11};
constexpr std::array<std::uint8_t, kDSymbols> kDBits = [] {
    std::array<std::uint8_t, kDSymbols> bits{};
    for (unsigned i = 0; i < kDSymbols; ++i) {
        bits[i] = static_cast<std::uint8_t>(i / 4);
    }
    return bits;
}();

/// Bits, read from the end of a buffer towards its start.
class BackwardBits {
  public:
    /// `spare`: 0 to -7: so many bits of the last byte are unused.
    BackwardBits(std::span<const std::byte> bytes, int spare)
        : bytes_(bytes), at_(static_cast<std::int64_t>(bytes.size() * 8) + spare) {}
    [[nodiscard]] bool failed() const { return at_ < 0; }
    std::uint32_t pull(unsigned count) {
        at_ -= count;
        if (at_ < 0 || count == 0) {
            return 0;
        }
        const auto byte = static_cast<std::size_t>(at_ / 8);
        std::array<std::byte, 8> window{};
        std::memcpy(window.data(), bytes_.data() + byte,
                    std::min<std::size_t>(8, bytes_.size() - byte));
        const std::uint64_t value = std::bit_cast<Le64>(window) >> (at_ % 8);
        return static_cast<std::uint32_t>(value & ((1ULL << count) - 1));
    }

  private:
    std::span<const std::byte> bytes_;
    std::int64_t at_;
};

/// One state of a decoding table: what it says, and how the next state comes about.
struct State {
    std::uint8_t bits = 0;  ///< to pull: those of the next state and the extra ones
    std::uint8_t extra = 0;
    std::int16_t delta = 0;
    std::uint32_t base = 0;  ///< the value, or the symbol
};

/// Fills `states` from the symbols' frequencies; false if these are more than the states.
bool make_table(std::span<State> states, std::span<const std::uint16_t> frequencies,
                std::span<const std::uint8_t> extra_bits) {
    const int zeros = std::countl_zero(static_cast<std::uint32_t>(states.size()));
    const auto count = static_cast<int>(states.size());
    std::size_t at = 0;
    std::uint32_t base = 0;
    for (std::size_t symbol = 0; symbol < frequencies.size(); ++symbol) {
        const int frequency = frequencies[symbol];
        const unsigned extra = extra_bits.empty() ? 0 : extra_bits[symbol];
        if (frequency != 0) {
            if (at + static_cast<std::size_t>(frequency) > states.size()) {
                return false;
            }
            const int k = std::countl_zero(static_cast<std::uint32_t>(frequency)) - zeros;
            const int first = ((2 * count) >> k) - frequency;
            for (int j = 0; j < frequency; ++j) {
                const int bits = j < first ? k : k - 1;
                const int delta =
                    j < first ? ((frequency + j) << k) - count : (j - first) << (k - 1);
                states[at++] = {static_cast<std::uint8_t>(bits + static_cast<int>(extra)),
                                static_cast<std::uint8_t>(extra), static_cast<std::int16_t>(delta),
                                base};
            }
        }
        base += extra_bits.empty() ? 1 : 1U << extra;
    }
    return true;
}

/// The value of `state`, which moves on.
std::uint32_t next_value(std::span<const State> table, std::uint32_t& state, BackwardBits& bits) {
    const State& entry = table[state];
    const std::uint32_t pulled = bits.pull(entry.bits);
    const auto next =
        static_cast<std::uint32_t>(entry.delta + static_cast<std::int32_t>(pulled >> entry.extra));
    state = next < table.size() ? next : 0;
    return entry.base + (pulled & ((1U << entry.extra) - 1));
}

struct Block {
    std::uint32_t raw = 0;
    std::uint32_t literals = 0, matches = 0, literal_bytes = 0, lmd_bytes = 0;
    int literal_bits = 0, lmd_bits = 0;
    std::array<std::uint32_t, 4> literal_state{};
    std::uint32_t l = 0, m = 0, d = 0;
    std::size_t head = 0;  ///< bytes before the payload
    std::array<std::uint16_t, kLSymbols + kMSymbols + kDSymbols + kLiteralSymbols> frequencies{};

    [[nodiscard]] bool sound() const {
        const auto good = [](std::uint32_t state, unsigned states) { return state < states; };
        return literals <= kMaxLiterals && literals % 4 == 0 && matches <= kMaxMatches &&
               literal_bits <= 0 && literal_bits >= -7 && lmd_bits <= 0 && lmd_bits >= -7 &&
               good(l, kLStates) && good(m, kMStates) && good(d, kDStates) &&
               std::all_of(literal_state.begin(), literal_state.end(),
                           [&](std::uint32_t each) { return good(each, kLiteralStates); });
    }
};

/// The frequencies of a v2 block, in codes of 2 to 14 bits.
bool unpack_frequencies(std::span<const std::byte> from, std::span<std::uint16_t> out) {
    constexpr std::array<std::uint8_t, 32> kLengths = {2, 3, 2, 5, 2,  3, 2, 8, 2, 3, 2,
                                                       5, 2, 3, 2, 14, 2, 3, 2, 5, 2, 3,
                                                       2, 8, 2, 3, 2,  5, 2, 3, 2, 14};
    constexpr std::array<std::uint8_t, 32> kValues = {0, 2, 1, 4, 0, 3, 1, 0, 0, 2, 1,
                                                      5, 0, 3, 1, 0, 0, 2, 1, 6, 0, 3,
                                                      1, 0, 0, 2, 1, 7, 0, 3, 1, 0};
    if (from.empty()) {
        return true;
    }
    std::uint32_t bits = 0;
    unsigned count = 0;
    std::size_t at = 0;
    for (std::uint16_t& each : out) {
        for (; at < from.size() && count + 8 <= 32; count += 8) {
            bits |= static_cast<std::uint32_t>(from[at++]) << count;
        }
        const unsigned length = kLengths[bits & 31];
        if (length > count) {
            return false;
        }
        const std::uint32_t value = length == 8    ? 8 + (bits >> 4 & 0xF)
                                    : length == 14 ? 24 + (bits >> 4 & 0x3FF)
                                                   : kValues[bits & 31];
        each = static_cast<std::uint16_t>(value);
        bits >>= length;
        count -= length;
    }
    return count < 8 && at == from.size();
}

bool parse_v1(std::span<const std::byte> from, Block& b) {
    if (from.size() < kV1Frequencies + b.frequencies.size() * 2) {
        return false;
    }
    b.raw = get<Le32>(from, 4);
    b.literals = get<Le32>(from, 12);
    b.matches = get<Le32>(from, 16);
    b.literal_bytes = get<Le32>(from, 20);
    b.lmd_bytes = get<Le32>(from, 24);
    b.literal_bits = static_cast<std::int32_t>(get<Le32>(from, 28).value());
    for (unsigned i = 0; i < 4; ++i) {
        b.literal_state[i] = get<Le16>(from, 32 + i * 2);
    }
    b.lmd_bits = static_cast<std::int32_t>(get<Le32>(from, 40).value());
    b.l = get<Le16>(from, 44);
    b.m = get<Le16>(from, 46);
    b.d = get<Le16>(from, 48);
    for (std::size_t i = 0; i < b.frequencies.size(); ++i) {
        b.frequencies[i] = get<Le16>(from, 50 + i * 2);
    }
    b.head = 772;  // padded to a multiple of four
    return true;
}

bool parse_v2(std::span<const std::byte> from, Block& b) {
    if (from.size() < kV2Head) {
        return false;
    }
    const std::uint64_t p0 = get<Le64>(from, 8), p1 = get<Le64>(from, 16), p2 = get<Le64>(from, 24);
    const auto field = [](std::uint64_t value, unsigned at, unsigned bits) {
        return static_cast<std::uint32_t>(value >> at & ((1ULL << bits) - 1));
    };
    b.raw = get<Le32>(from, 4);
    b.literals = field(p0, 0, 20);
    b.literal_bytes = field(p0, 20, 20);
    b.matches = field(p0, 40, 20);
    b.literal_bits = static_cast<int>(field(p0, 60, 3)) - 7;
    for (unsigned i = 0; i < 4; ++i) {
        b.literal_state[i] = field(p1, i * 10, 10);
    }
    b.lmd_bytes = field(p1, 40, 20);
    b.lmd_bits = static_cast<int>(field(p1, 60, 3)) - 7;
    b.head = field(p2, 0, 32);
    b.l = field(p2, 32, 10);
    b.m = field(p2, 42, 10);
    b.d = field(p2, 52, 10);
    return b.head >= kV2Head && b.head <= from.size() &&
           unpack_frequencies(from.subspan(kV2Head, b.head - kV2Head), b.frequencies);
}

/// The literals of a block, four states in turn.
bool decode_literals(const Block& b, std::span<const std::byte> payload,
                     std::vector<std::byte>& out) {
    std::vector<State> table(kLiteralStates);
    if (!make_table(table, std::span(b.frequencies).subspan(kLSymbols + kMSymbols + kDSymbols),
                    {})) {
        return false;
    }
    BackwardBits bits(payload, b.literal_bits);
    std::array<std::uint32_t, 4> states = b.literal_state;
    out.resize(b.literals);
    for (std::uint32_t i = 0; i < b.literals; ++i) {
        out[i] = static_cast<std::byte>(next_value(table, states[i % 4], bits));
    }
    return !bits.failed();
}

/// One v1 or v2 block at the start of `from`; answers its length, 0 if it is damaged. `at` moves on
/// in `into`.
std::size_t decode_block(std::span<const std::byte> from, const Block& b, std::span<std::byte> into,
                         std::size_t& at) {
    const std::size_t length = b.head + std::size_t{b.literal_bytes} + b.lmd_bytes;
    std::vector<std::byte> literals;
    std::array<State, kLStates> l_table{};
    std::array<State, kMStates> m_table{};
    std::array<State, kDStates> d_table{};
    const std::span<const std::uint16_t> frequencies(b.frequencies);
    // No more literals than bytes that come out: else small blocks without any could keep a worker
    // busy for minutes.
    const std::size_t start = at;
    if (!b.sound() || length > from.size() || b.raw == 0 || b.raw > into.size() - at ||
        b.literals > b.raw + 3 ||
        !decode_literals(b, from.subspan(b.head, b.literal_bytes), literals) ||
        !make_table(l_table, frequencies.first(kLSymbols), kLBits) ||
        !make_table(m_table, frequencies.subspan(kLSymbols, kMSymbols), kMBits) ||
        !make_table(d_table, frequencies.subspan(kLSymbols + kMSymbols, kDSymbols), kDBits)) {
        return 0;
    }
    BackwardBits bits(from.subspan(b.head + b.literal_bytes, b.lmd_bytes), b.lmd_bits);
    std::uint32_t l_state = b.l, m_state = b.m, d_state = b.d;
    std::size_t literal = 0, distance = 0;
    for (std::uint32_t i = 0; i < b.matches; ++i) {
        const std::size_t run = next_value(l_table, l_state, bits);
        const std::size_t match = next_value(m_table, m_state, bits);
        const std::size_t fresh = next_value(d_table, d_state, bits);
        distance = fresh != 0 ? fresh : distance;
        if (bits.failed() || run > literals.size() - literal || run > into.size() - at) {
            return 0;
        }
        std::copy_n(literals.begin() + static_cast<std::ptrdiff_t>(literal), run,
                    into.begin() + static_cast<std::ptrdiff_t>(at));
        literal += run;
        at += run;
        if (match != 0 && !copy_match(into, at, distance, match)) {
            return 0;
        }
        at += match;
    }
    return at - start == b.raw ? length : 0;
}

/// One step of LZVN: what an opcode says.
struct Step {
    std::size_t bytes = 0;                              ///< of the opcode; 0: invalid
    std::size_t literals = 0, match = 0, distance = 0;  ///< distance 0: as before
    bool end = false;
};

Step lzvn_step(std::span<const std::byte> from) {
    const auto byte = [&from](std::size_t i) {
        return i < from.size() ? static_cast<std::size_t>(from[i]) : 0;
    };
    const std::size_t op = byte(0);
    if (op == 0x06) {
        return {8, 0, 0, 0, true};
    }
    if (op == 0x0E || op == 0x16) {
        return {1};
    }
    if (op >= 0xE0) {
        const bool match = op >= 0xF0, large = (op & 0x0F) == 0;
        const std::size_t length = large ? byte(1) + 16 : op & 0x0F;
        return {large ? 2U : 1U, match ? 0 : length, match ? length : 0};
    }
    if (op >= 0xA0 && op < 0xC0) {
        const std::size_t low = byte(1) | byte(2) << 8;
        return {3, op >> 3 & 3, ((op & 7) << 2 | (low & 3)) + 3, low >> 2};
    }
    if ((op >= 0x70 && op < 0x80) || (op >= 0xD0 && op < 0xE0)) {
        return {};
    }
    const std::size_t literals = op >> 6, match = (op >> 3 & 7) + 3;
    if ((op & 7) == 7) {
        return {3, literals, match, byte(1) | byte(2) << 8};
    }
    if ((op & 7) == 6) {
        return literals != 0 ? Step{1, literals, match} : Step{};
    }
    return {2, literals, match, (op & 7) << 8 | byte(1)};
}

bool decode_lzvn(std::span<const std::byte> from, std::span<std::byte> into) {
    std::size_t at = 0, distance = 0;
    while (!from.empty()) {
        const Step step = lzvn_step(from);
        if (step.end) {
            return at == into.size();
        }
        if (step.bytes == 0 || step.bytes + step.literals > from.size() ||
            step.literals > into.size() - at) {
            return false;
        }
        distance = step.distance != 0 ? step.distance : distance;
        std::ranges::copy(from.subspan(step.bytes, step.literals),
                          into.begin() + static_cast<std::ptrdiff_t>(at));
        at += step.literals;
        if (step.match != 0 && !copy_match(into, at, distance, step.match)) {
            return false;
        }
        at += step.match;
        from = from.subspan(step.bytes + step.literals);
    }
    return false;  // without its end
}

/// The stored or LZVN block at the start of `from`; answers its length, 0 if it is damaged.
std::size_t simple_block(std::span<const std::byte> from, std::span<std::byte> into,
                         std::size_t& at) {
    const bool stored = get<Le32>(from, 0) == kStored;
    const std::size_t head = stored ? 8 : 12;
    if (from.size() < head) {
        return 0;
    }
    const std::size_t raw = get<Le32>(from, 4), packed = stored ? raw : get<Le32>(from, 8).value();
    if (packed > from.size() - head || raw > into.size() - at) {
        return 0;
    }
    if (stored) {
        std::ranges::copy(from.subspan(head, raw), into.begin() + static_cast<std::ptrdiff_t>(at));
    } else if (!decode_lzvn(from.subspan(head, packed), into.subspan(at, raw))) {
        return 0;
    }
    at += raw;
    return head + packed;
}

}  // namespace

Result<> unpack_lzfse(std::span<const std::byte> from, std::span<std::byte> into) {
    std::size_t at = 0;
    while (from.size() >= 4) {
        const std::uint32_t magic = get<Le32>(from, 0);
        std::size_t length = 0;
        Block block;
        if (magic == kEnd) {
            return at == into.size() ? ok() : Result<>(damaged());
        }
        if (magic == kStored || magic == kLzvn) {
            length = simple_block(from, into, at);
        } else if ((magic == kV2 && parse_v2(from, block)) ||
                   (magic == kV1 && parse_v1(from, block))) {
            length = decode_block(from, block, into, at);
        }
        if (length == 0) {
            return damaged();
        }
        from = from.subspan(length);
    }
    return damaged();
}

}  // namespace strata::block::dmg
