// PackedSource: a layer that has compressed clusters in a file, and can say where and how packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace strata::block {

class Node;

/// Where a compressed cluster of the disk lies.
struct PackedPiece {
    std::uint64_t guest = 0, host = 0;  ///< on the disk, in the file
    std::size_t length = 0;             ///< at most so many bytes; the file may end before

    /// One read takes both: this one begins in `before` or right behind it, and ends no earlier.
    [[nodiscard]] bool follows(const PackedPiece& before) const {
        return host > before.host && host <= before.host + before.length &&
               host + length >= before.host + before.length;
    }
};

class PackedSource {
  public:
    /// Fills `out`, the size of a cluster; false: `in` is broken. Any thread.
    using Unpack = bool (*)(std::span<const std::byte> in, std::span<std::byte> out);

    virtual ~PackedSource() = default;
    /// The compressed clusters from `offset` on that lie wholly in [offset, offset + length), one
    /// behind the other on the disk, as far as a look at memory tells. They stay where they are as
    /// long as nobody writes to the image.
    virtual std::vector<PackedPiece> packed_pieces(std::uint64_t offset, std::uint64_t length) = 0;
    /// The file that they lie in.
    [[nodiscard]] virtual const Node* packed_file() const = 0;
    [[nodiscard]] virtual std::size_t packed_cluster() const = 0;
    [[nodiscard]] virtual Unpack unpacker() const = 0;
};

}  // namespace strata::block
