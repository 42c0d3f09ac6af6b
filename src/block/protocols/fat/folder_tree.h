// FolderTree: what lies in a folder of the host, as it was found at one moment, and reading it
// later.
//
// Nothing outside the folder is ever opened: every path is looked up beneath it (openat2(2)).
// Symbolic links are followed as far as they stay inside; those that lead out, or round in a
// circle, and what is neither a file nor a folder, are left out. A file is read only as long as it
// is the one that was found: replaced, cut, or written since, reading it is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <sys/uio.h>

#include "base/result.h"
#include "base/unique_fd.h"

namespace strata::block::fat {

inline constexpr std::size_t kMaxItems = 65536;
inline constexpr unsigned kMaxDepth = 64;

struct FolderItem {
    std::string name;
    bool folder = false, read_only = false;
    std::uint64_t size = 0;  ///< of a file
    std::uint64_t device = 0, inode = 0;
    std::int64_t seconds = 0, nanoseconds = 0;  ///< when it was changed
    std::size_t parent = 0;
    std::size_t first_child = 0, children = 0;  ///< of a folder: places in the list
    unsigned depth = 0;
};

class FolderTree {
  public:
    /// Reads the folder at `path` and all below it. The error names what is wrong.
    static Result<FolderTree> scan(const std::string& path);
    /// A tree that is not read from anywhere, for tests of what is made of it.
    static FolderTree of(std::vector<FolderItem> items);

    /// The folder itself first; then the content of folders, in their order, by name.
    [[nodiscard]] const std::vector<FolderItem>& items() const { return items_; }
    /// From the folder on.
    [[nodiscard]] std::string path_of(std::size_t item) const;
    /// Opens a file. Any thread.
    [[nodiscard]] Result<UniqueFd> open(std::size_t item) const;
    /// Reads all of `into` from `file`, which open() gave, and makes sure that it has not changed
    /// since the folder was read. Any thread.
    [[nodiscard]] Result<> read(std::size_t item, const UniqueFd& file, std::uint64_t offset,
                                std::span<const iovec> into) const;

  private:
    FolderTree() = default;
    Result<> scan_folder(std::size_t item);
    Result<> add(std::size_t parent, const std::string& name);
    [[nodiscard]] bool is_above(std::size_t item, std::uint64_t device, std::uint64_t inode) const;
    [[nodiscard]] Error failed(std::size_t item, int code) const;

    std::string name_;
    UniqueFd root_;
    std::vector<FolderItem> items_;
};

}  // namespace strata::block::fat
