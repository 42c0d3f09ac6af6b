// BlockProfile: which guest code ran how often: executions of blocks, by guest address.
//
// Blocks count themselves (Block::executions) when TranslateOptions::profile_fd asks for it;
// several vCPUs that run one block lose some. What is evicted is added up here. Bounded: behind
// kMost addresses, what ran least is only summed up.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "engine/soft/cache/block_table.h"

namespace strata::engine::soft {

class BlockProfile {
  public:
    static constexpr std::size_t kMost = 1U << 17U;

    void add(const Block& block);
    /// One line for each address, what took most guest instructions first. Columns are named in the
    /// first line; "code" is where the block's code was last, in the code memory: what `perf
    /// report` prints for samples in memfd:strata-code.
    [[nodiscard]] std::string text() const;

  private:
    struct Entry {
        std::uint64_t executions = 0, guest_instructions = 0;
        std::uint32_t guest_bytes = 0, host_bytes = 0, cold_bytes = 0, code = 0, blocks = 0;
    };
    void shrink();
    std::map<std::pair<std::uint64_t, std::uint32_t>, Entry>
        entries_;               ///< by rip and privilege level
    std::uint64_t others_ = 0;  ///< guest instructions of what was dropped
};

}  // namespace strata::engine::soft
