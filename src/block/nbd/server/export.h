// Export: a node that an NBD server offers: its name, what it can do, what is known about its
// blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/nbd/wire.h"
#include "block/node.h"

namespace strata::block::nbd {

enum class DetectZeroes : std::uint8_t { Off, On, Unmap };

struct ExportOptions {
    std::string name, description;
    bool read_only = false;
    bool multi_conn = true;            ///< say that several connections see one disk, as they do
    bool allocation_depth = false;     ///< offer qemu:allocation-depth
    std::vector<std::string> bitmaps;  ///< offered as qemu:dirty-bitmap:NAME; of the node or the
                                       ///< nearest layer below that has it
    DetectZeroes detect_zeroes = DetectZeroes::Off;
    std::uint32_t minimum_block = 1;  ///< what clients are told, a power of two; requests of less
                                      ///< are carried out all the same
};

class Export {
  public:
    static Task<std::shared_ptr<Export>> create(NodePtr node, ExportOptions options);

    [[nodiscard]] Node& node() const { return *node_; }
    [[nodiscard]] const ExportOptions& options() const { return options_; }
    [[nodiscard]] std::uint64_t size() const { return size_; }
    /// Transmission flags for a client that has structured replies, or has not.
    [[nodiscard]] std::uint16_t flags(bool structured) const;
    /// Metadata contexts; an id is the place in this list.
    [[nodiscard]] const std::vector<std::string>& contexts() const { return contexts_; }
    /// What one context says about a range: at least one descriptor, at most `limit`; they may end
    /// before the range does.
    Task<std::vector<StatusDescriptor>> status(std::size_t context, std::uint64_t offset,
                                               std::uint32_t length, std::size_t limit);
    /// A client changed something: bitmaps that record writes learn of it.
    void note_write(std::uint64_t offset, std::uint64_t length);

  private:
    Export(NodePtr node, ExportOptions options)
        : node_(std::move(node)), options_(std::move(options)), size_(node_->size()) {}
    Task<> load_bitmap(std::string name);
    Task<StatusDescriptor> allocation(std::size_t context, std::uint64_t offset,
                                      std::uint32_t length);
    [[nodiscard]] StatusDescriptor dirty(const Bitmap& bitmap, std::uint64_t offset,
                                         std::uint32_t length) const;

    const NodePtr node_;
    const ExportOptions options_;
    const std::uint64_t size_;
    std::vector<std::string> contexts_;
    std::vector<Bitmap> bitmaps_;
    std::size_t first_bitmap_ = 0;  ///< its context
};

}  // namespace strata::block::nbd
