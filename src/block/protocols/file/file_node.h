// FileNode: a regular file or block device of the host: the node below every format.
//
// Reads past the end answer zeros, writes past it make a regular file grow. With cache mode None
// the file is open twice, with and without O_DIRECT; what is not aligned goes through the page
// cache, which Linux keeps coherent with direct transfers. A layer below another, which nobody
// writes, is read from the host's cache where it lies there already, so what machines share is not
// fetched for each, and past it elsewhere: it fills no cache. A file that a format lets grow by
// many small pieces is set aside ahead of them (grow_ahead()): writes that move a file's end are
// the slow ones, without the host's cache most of all. size() does not tell of it; close() gives
// back what was not used, a crash leaves it as zeros behind the end. After a failed flush all later
// ones fail: the kernel may have dropped the dirty pages, so a retry that succeeds proves nothing.
#pragma once

#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "block/node.h"
#include "block/registry.h"

namespace strata::block {

class FileNode final : public Node {
  public:
    /// Opens (or takes over) and locks the file of `options`.
    static Result<std::shared_ptr<FileNode>> open(Loop& loop, OpenOptions& options);
    /// Makes `path` an empty file (what was there is dropped) of `size` bytes, opened for writing
    /// and locked. A block device keeps its size, which must do.
    static Result<std::shared_ptr<FileNode>> create(Loop& loop, const std::string& path,
                                                    std::uint64_t size);

    [[nodiscard]] std::string_view format() const override { return "file"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override;
    Task<> resize(std::uint64_t size, Preallocation preallocation) override;
    Task<std::uint64_t> allocated_bytes() override;
    Task<> copy_from(Node& source, std::uint64_t from, std::uint64_t to,
                     std::uint64_t length) override;

    /// The file may be longer than what was written, and zeros at its end do no harm: set space
    /// aside ahead of writes.
    void grow_ahead() {
        may_grow_ = !device_ && !traits_.read_only;
        ahead_ = may_grow_ && direct_.valid();
    }
    /// For a job that writes much and flushes at its end: large writes go past the host's cache, so
    /// its memory is not filled, and not written out in one go in the end. Where the file system
    /// cannot do that, nothing changes.
    void write_in_bulk();
    [[nodiscard]] bool is_device() const { return device_; }
    /// Device and inode: what tells one file from another.
    [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> identity() const { return identity_; }
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] CacheMode cache() const { return cache_; }

  private:
    FileNode(Loop& loop, std::string name, UniqueFd fd, const OpenOptions& options);
    Result<> examine();
    Result<> open_direct();
    [[nodiscard]] int descriptor(std::uint64_t offset, const Buffers& part, bool writing);
    [[nodiscard]] bool in_cache(std::uint64_t offset, std::uint64_t length);
    Task<std::uint64_t> transfer(bool writing, std::uint64_t offset, Buffers buffers);
    Task<> set_aside(std::uint64_t end);
    Task<> write_out_zeroes(std::uint64_t offset, std::uint64_t length);
    Task<int> allocate(int mode, std::uint64_t offset, std::uint64_t length);
    [[nodiscard]] Error failed(std::string_view what, std::uint64_t offset, std::uint64_t length,
                               std::int64_t result) const;

    const UniqueFd fd_;
    UniqueFd direct_;
    const CacheMode cache_;
    const bool discard_;
    bool ask_cache_;  ///< a layer below another: what the host's cache has is read from there
    bool device_ = false;
    std::pair<std::uint64_t, std::uint64_t> identity_{};
    std::uint64_t size_ = 0;
    std::uint64_t reach_ = 0;  ///< end of the farthest write that was begun: the file may be as
                               ///< long before `size_` says so
    bool may_grow_ = false;    ///< grow_ahead() was called
    bool ahead_ = false;       ///< space is set aside
    bool bulk_ = false;        ///< write_in_bulk()
    bool setting_aside_ = false;
    std::uint64_t opened_ = 0;     ///< the size then
    std::uint64_t set_aside_ = 0;  ///< how long the file is, if longer than `size_`
    NodeTraits traits_;
    bool no_zero_range_ = false, no_punch_ = false;  ///< the file system said so
    int flush_error_ = 0;
    std::uint64_t data_from_ = 0, data_to_ = 0;  ///< known not to be a hole
};

}  // namespace strata::block
