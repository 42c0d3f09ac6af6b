// SparseExtent: one sparse extent of a VMDK: grain directory, grain tables, grains.
//
// Tables that the directory lacks are made as they are needed: a new table reaches the file before
// the directory refers to it. Both copies of the tables are kept alike. Compressed extents are read
// only.
#pragma once

#include <string>

#include "block/formats/common/table_node.h"
#include "block/formats/vmdk/sparse_header.h"

namespace strata::block::vmdk {

class SparseExtent final : public TableNode {
  public:
    SparseExtent(NodePtr file, std::string name, bool read_only, const SparseHeader& header,
                 NodePtr backing, std::uint64_t backing_shift);
    [[nodiscard]] std::string_view format() const override { return "vmdk"; }

  protected:
    Task<Place> find(std::uint64_t offset, std::uint64_t length) override;
    Task<Reservation> reserve(std::uint64_t block, std::uint64_t count) override;
    Task<> publish(std::uint64_t block, const Reservation& reservation) override;
    Task<bool> publish_zero(std::uint64_t block) override;

  private:
    Task<std::uint64_t> table_of(std::uint64_t directory, std::uint64_t index, bool make);
    Task<> set_entry(std::uint64_t block, std::uint32_t value);
    const SparseHeader header_;
};

/// The header that holds of the extent in `file`: a stream's footer, if its header says so.
/// `fresh`: a stream that was begun and has no footer yet.
Task<SparseHeader> read_sparse_header(Node& file, std::string name, bool& fresh);

}  // namespace strata::block::vmdk
