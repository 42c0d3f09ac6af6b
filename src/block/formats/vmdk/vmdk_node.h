// VmdkNode: a VMware disk: its extents one behind the other. The content id changes before the
// first write.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block/formats/vmdk/descriptor.h"
#include "block/node.h"
#include "block/sync.h"

namespace strata::block::vmdk {

class VmdkNode final : public Node {
  public:
    struct Extent {
        std::uint64_t start = 0, size = 0;  ///< bytes of the disk
        NodePtr node{};                     ///< null: zeros, or it was not opened
        std::uint64_t offset = 0;           ///< in `node`
        bool flat = false, compressed = false;
        bool closed = false;  ///< was not opened: it is told of, and its data is not to be had
        std::string file{}, type_name{};  ///< as the descriptor names them
    };
    /// Where the descriptor lies in the file: for changing the content id.
    struct DescriptorPlace {
        std::uint64_t offset = 0, length = 0;
    };
    VmdkNode(NodePtr file, std::string name, bool read_only, Descriptor descriptor,
             DescriptorPlace place, std::vector<Extent> extents, NodePtr backing);

    [[nodiscard]] std::string_view format() const override { return "vmdk"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    [[nodiscard]] Node* backing() const override { return backing_.get(); }
    [[nodiscard]] std::vector<Node*> children() const override;
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<block::Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override;
    Task<FormatInfo> info() override;
    Task<CheckReport> check(Repair repair) override;

    [[nodiscard]] std::uint32_t cid() const { return descriptor_.cid; }

  private:
    [[nodiscard]] const Extent& extent_at(std::uint64_t offset) const;
    [[nodiscard]] Result<> check_opened(const Extent& extent) const;
    [[nodiscard]] std::vector<InfoField> extent_info(const Extent& extent) const;
    Task<> begin_write();
    NodePtr file_;
    NodePtr backing_;
    Descriptor descriptor_;
    const DescriptorPlace place_;
    const std::vector<Extent> extents_;
    std::uint64_t size_ = 0;
    NodeTraits traits_;
    AsyncMutex beginning_;
    bool begun_ = false, closed_ = false;
};

}  // namespace strata::block::vmdk
