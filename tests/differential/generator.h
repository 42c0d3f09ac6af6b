// Generator: makes TestCases: random encodings that the decoder accepts and that a user program may execute.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "differential/case.h"
#include "engine/soft/decode/classify.h"

namespace strata::differential {

/// How often each instruction was tried, by mnemonic.
struct Coverage {
    struct Row {
        std::string isa;
        std::uint64_t tried = 0;
    };
    std::map<std::string, Row> mnemonics;
};

/// Deterministic: the same seed makes the same case.
class Generator {
  public:
    explicit Generator(const engine::soft::IsaSupport& isa, const arch::x86::ArchState& vector_start);

    /// A case of 1 to `most` instructions.
    TestCase make(std::uint64_t seed, unsigned most);
    [[nodiscard]] const Coverage& coverage() const { return coverage_; }

  private:
    engine::soft::IsaSupport isa_;
    std::array<std::byte, arch::x86::kXsaveBytes> xsave_start_;
    Coverage coverage_;
};

}  // namespace strata::differential
