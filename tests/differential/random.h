// Random: the small deterministic generator (splitmix64) behind the differential tests.
#pragma once

#include <cstdint>

namespace strata::differential {

class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() {
        state_ += 0x9e3779b97f4a7c15ULL;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
    }
    /// 0 … limit-1
    std::uint64_t below(std::uint64_t limit) { return next() % limit; }
    /// True once in `n`.
    bool one_in(std::uint64_t n) { return below(n) == 0; }

  private:
    std::uint64_t state_;
};

}  // namespace strata::differential
