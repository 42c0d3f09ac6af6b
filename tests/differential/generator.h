// Generator: makes TestCases: random encodings that the decoder accepts and that a user program may
// execute.
#pragma once

#include <cstdint>
#include <set>

#include "differential/case.h"
#include "engine/soft/decode/classify.h"

namespace strata::differential {

/// Deterministic: the same seed makes the same case.
class Generator {
  public:
    explicit Generator(const engine::soft::IsaSupport& isa,
                       const arch::x86::ArchState& vector_start);

    /// A case of 1 to `most` instructions.
    TestCase make(std::uint64_t seed, unsigned most);

  private:
    engine::soft::IsaSupport isa_;
    std::array<std::byte, arch::x86::kXsaveBytes> xsave_start_;
    std::set<std::uint16_t>
        common_;  // mnemonics that random encodings yield often: thrown back now and then
};

}  // namespace strata::differential
