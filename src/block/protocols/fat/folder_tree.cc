// FolderTree: looking up beneath a folder.
#include "block/protocols/fat/folder_tree.h"

#include <algorithm>
#include <cerrno>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace strata::block::fat {
namespace {

constexpr std::uint64_t kMaxFile = 0xffffffff;
constexpr std::size_t kMaxPieces = 1024;  // IOV_MAX

/// Opens `path` without leaving `root`; invalid, and errno, if it cannot be.
UniqueFd open_beneath(const UniqueFd& root, const std::string& path, int flags) {
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags) | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    // SAFETY: the structure and its size are the ones the call wants.
    return UniqueFd(static_cast<int>(
        ::syscall(SYS_openat2, root.get(), path.empty() ? "." : path.c_str(), &how, sizeof how)));
}

struct CloseFolder {
    void operator()(DIR* folder) const { (void)::closedir(folder); }  // it was only read
};

/// What is not there any more, or not to be reached from inside, is left out.
bool is_left_out(int code) {
    return code == ENOENT || code == EXDEV || code == ELOOP || code == ENOTDIR;
}

bool same(const struct stat& status, const FolderItem& item) {
    return status.st_dev == item.device && status.st_ino == item.inode &&
           static_cast<std::uint64_t>(status.st_size) == item.size &&
           status.st_mtim.tv_sec == item.seconds && status.st_mtim.tv_nsec == item.nanoseconds;
}

FolderItem item_of(const struct stat& status) {
    constexpr mode_t kWrite = S_IWUSR | S_IWGRP | S_IWOTH;
    return {.name = {},
            .folder = S_ISDIR(status.st_mode),
            .read_only = (status.st_mode & kWrite) == 0,
            .size = S_ISDIR(status.st_mode) ? 0 : static_cast<std::uint64_t>(status.st_size),
            .device = status.st_dev,
            .inode = status.st_ino,
            .seconds = status.st_mtim.tv_sec,
            .nanoseconds = status.st_mtim.tv_nsec};
}

}  // namespace

Result<FolderTree> FolderTree::scan(const std::string& path) {
    FolderTree tree;
    tree.name_ = path;
    tree.root_.reset(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    struct stat status {};
    if (!tree.root_.valid() || ::fstat(tree.root_.get(), &status) != 0) {
        return Error::from_errno(fmt::format("folder '{}'", path));
    }
    tree.items_.push_back(item_of(status));
    for (std::size_t i = 0; i < tree.items_.size(); ++i) {
        if (tree.items_[i].folder) {
            STRATA_TRY_VOID(tree.scan_folder(i));
        }
    }
    return tree;
}

FolderTree FolderTree::of(std::vector<FolderItem> items) {
    FolderTree tree;
    tree.items_ = std::move(items);
    return tree;
}

Error FolderTree::failed(std::size_t item, int code) const {
    return Error::from_errno(fmt::format("'{}/{}'", name_, path_of(item)), code);
}

std::string FolderTree::path_of(std::size_t item) const {
    std::string path;
    for (; item != 0; item = items_[item].parent) {
        path = path.empty() ? items_[item].name : items_[item].name + "/" + path;
    }
    return path;
}

bool FolderTree::is_above(std::size_t item, std::uint64_t device, std::uint64_t inode) const {
    for (;; item = items_[item].parent) {
        if (items_[item].device == device && items_[item].inode == inode) {
            return true;
        }
        if (item == 0) {
            return false;
        }
    }
}

Result<> FolderTree::scan_folder(std::size_t item) {
    UniqueFd fd = open_beneath(root_, path_of(item), O_RDONLY | O_DIRECTORY);
    if (!fd.valid()) {
        return failed(item, errno);
    }
    const std::unique_ptr<DIR, CloseFolder> folder(::fdopendir(fd.get()));
    if (folder == nullptr) {
        return failed(item, errno);
    }
    (void)fd.release();  // the folder's now
    std::vector<std::string> names;
    errno = 0;
    // One thread has this folder. NOLINTNEXTLINE(concurrency-mt-unsafe)
    for (const dirent* each = ::readdir(folder.get()); each != nullptr;
         each = ::readdir(folder.get())) {  // NOLINT(concurrency-mt-unsafe)
        const std::string name(&each->d_name[0]);
        if (name != "." && name != "..") {
            names.push_back(name);
        }
        if (names.size() > kMaxItems) {
            break;  // add() says so
        }
        errno = 0;
    }
    if (errno != 0) {
        return failed(item, errno);
    }
    std::ranges::sort(names);
    items_[item].first_child = items_.size();
    for (const std::string& each : names) {
        STRATA_TRY_VOID(add(item, each));
    }
    items_[item].children = items_.size() - items_[item].first_child;
    return ok();
}

Result<> FolderTree::add(std::size_t parent, const std::string& name) {
    const std::string above = path_of(parent);
    const std::string path = above.empty() ? name : above + "/" + name;
    const UniqueFd fd = open_beneath(root_, path, O_PATH);
    struct stat status {};
    if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
        return is_left_out(errno)
                   ? ok()
                   : Result<>(Error::from_errno(fmt::format("'{}/{}'", name_, path)));
    }
    if (!S_ISREG(status.st_mode) &&
        (!S_ISDIR(status.st_mode) || is_above(parent, status.st_dev, status.st_ino))) {
        return ok();
    }
    FolderItem item = item_of(status);
    item.name = name;
    item.parent = parent;
    item.depth = items_[parent].depth + 1;
    const auto refuse = [&](std::string_view why) {
        return Error{ErrorKind::NotSupported, fmt::format("'{}/{}': {}", name_, path, why), EFBIG};
    };
    if (item.size > kMaxFile) {
        return refuse("files of 4 GiB and more have no place on a FAT disk");
    }
    if (item.depth > kMaxDepth) {
        return refuse(fmt::format("folders lie in each other more than {} deep", kMaxDepth));
    }
    if (items_.size() >= kMaxItems) {
        return refuse(fmt::format("there are more than {} files and folders", kMaxItems));
    }
    if (::faccessat(root_.get(), path.c_str(), item.folder ? R_OK | X_OK : R_OK, AT_EACCESS) != 0) {
        return Error::from_errno(fmt::format("'{}/{}' cannot be read", name_, path));
    }
    items_.push_back(std::move(item));
    return ok();
}

Result<UniqueFd> FolderTree::open(std::size_t item) const {
    // Not blocking: a FIFO may have taken the file's place.
    UniqueFd fd = open_beneath(root_, path_of(item), O_RDONLY | O_NONBLOCK | O_NOCTTY);
    return fd.valid() ? Result<UniqueFd>(std::move(fd)) : Result<UniqueFd>(failed(item, errno));
}

Result<> FolderTree::read(std::size_t item, const UniqueFd& file, std::uint64_t offset,
                          std::span<const iovec> into) const {
    std::vector<iovec> left(into.begin(), into.end());
    std::size_t at = 0;
    bool whole = true;
    while (at < left.size() && whole) {
        const ssize_t got = ::preadv(file.get(), &left[at],
                                     static_cast<int>(std::min(left.size() - at, kMaxPieces)),
                                     static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return failed(item, errno);
        }
        whole = got != 0;
        offset += static_cast<std::uint64_t>(got);
        for (auto done = static_cast<std::size_t>(got); at < left.size();) {
            const std::size_t part = std::min(done, left[at].iov_len);
            left[at].iov_base = static_cast<std::byte*>(left[at].iov_base) + part;
            left[at].iov_len -= part;
            done -= part;
            if (left[at].iov_len != 0) {
                break;
            }
            ++at;
        }
    }
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) {
        return failed(item, errno);
    }
    if (!whole || !S_ISREG(status.st_mode) || !same(status, items_[item])) {
        return Error{ErrorKind::Failed,
                     fmt::format("'{}/{}' has changed since the disk was made of its folder", name_,
                                 path_of(item)),
                     EIO};
    }
    return ok();
}

}  // namespace strata::block::fat
