// FatNode: a folder of the host as a FAT disk, read only: what QEMU calls vvfat.
//
// The disk shows the folder as it was when it was opened (folder_tree.h). What a file holds is read
// when it is asked for, on worker threads; a few files are kept open.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/unique_fd.h"
#include "block/protocols/fat/folder_tree.h"
#include "block/protocols/fat/volume.h"
#include "block/read_only_node.h"
#include "block/registry.h"

namespace strata::block::fat {

class FatNode final : public ReadOnlyNode {
  public:
    FatNode(Loop& loop, const std::string& folder, FolderTree tree, FatVolume volume);
    [[nodiscard]] std::string_view format() const override { return "vvfat"; }
    [[nodiscard]] std::uint64_t size() const override { return volume_.size(); }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override { co_return ok(); }
    Task<std::uint64_t> allocated_bytes() override;

  private:
    using OpenFile = std::shared_ptr<const UniqueFd>;
    Task<> read_file(std::size_t item, std::uint64_t offset, Buffers into);
    [[nodiscard]] OpenFile kept(std::size_t item) const;
    void keep(std::size_t item, OpenFile file);

    const FolderTree tree_;
    const FatVolume volume_;
    std::deque<std::pair<std::size_t, OpenFile>> open_;  ///< newest first
};

/// "fat:[12:|16:|32:][floppy:][rw:][label=TEXT:]FOLDER".
[[nodiscard]] bool is_location(std::string_view name);
/// What it says, as the driver's options.
OptionList location_options(std::string_view name);

/// Options: dir, fat-type, floppy, label, rw.
const NodeDriver& driver();

}  // namespace strata::block::fat
