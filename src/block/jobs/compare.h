// Compare: whether two images hold the same.
#pragma once

#include <cstdint>
#include <optional>

#include "block/jobs/job.h"
#include "block/node.h"

namespace strata::block {

struct Comparison {
    enum class Verdict : std::uint8_t { Same, Content, Status, Size };
    Verdict verdict = Verdict::Same;
    std::uint64_t offset = 0;   ///< the first difference, of Content (to 512 bytes) and Status
    bool sizes_differ = false;  ///< one is longer, with zeros beyond the other's end
};

struct CompareFailure {
    enum class What : std::uint8_t { Read, Status };
    What what = What::Read;
    bool second = false;
    std::uint64_t offset = 0;
};

/// Compares what guests would read. `strict`: sizes and allocation too. Errors fill `failure`, if
/// it is not null.
Task<Comparison> compare_images(Node& first, Node& second, bool strict, JobControl& control,
                                CompareFailure* failure = nullptr);

}  // namespace strata::block
