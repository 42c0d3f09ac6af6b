// StreamWriter: a streamOptimized VMDK while it is being written: grains in ascending order,
// compressed, then the tables.
//
// A grain is a marker, the deflate stream and padding to a sector. When a table's last grain has
// passed, the table follows; closing writes the directory, the footer (the header with the
// directory's place) and the end-of-stream marker. An image that was not closed has no footer and
// is no image: nobody takes half of it for the whole; neither has one of which a write failed
// (common/first_failure.h). Requests come one at a time, ascending, in
// whole grains but for the disk's end; zero grains take no space.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/formats/common/first_failure.h"
#include "block/formats/vmdk/sparse_header.h"
#include "block/node.h"

namespace strata::block::vmdk {

class StreamWriter final : public Node {
  public:
    StreamWriter(NodePtr file, std::string name, const SparseHeader& header);
    [[nodiscard]] std::string_view format() const override { return "vmdk"; }
    [[nodiscard]] std::uint64_t size() const override { return header_.capacity * 512; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> write_compressed(std::uint64_t offset, Buffers from) override;
    Task<> close() override;

  private:
    [[nodiscard]] Result<> check_order(std::uint64_t offset) const;
    Task<> write_grains(std::uint64_t offset, Buffers from);
    Task<> write_grain(std::uint64_t offset, Buffers from);
    Task<> append(std::vector<std::byte> bytes);
    Task<> end_table();
    Task<> write_end();
    Task<> finish();
    NodePtr file_;
    const SparseHeader header_;
    NodeTraits traits_;
    std::uint64_t end_ = 0;   ///< of the file
    std::uint64_t next_ = 0;  ///< grains before it are done
    std::vector<std::uint32_t> directory_;
    std::vector<std::uint32_t> table_;  ///< of the grains of table `current_`
    std::uint64_t current_ = 0;
    FirstFailure failure_;
    bool finished_ = false, closed_ = false;
};

}  // namespace strata::block::vmdk
