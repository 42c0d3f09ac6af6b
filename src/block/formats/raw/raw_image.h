// RawImage: the disk's bytes are the file's bytes: regular files and block devices.
//
// A file whose size is no multiple of 512 appears rounded up: the missing bytes read as zeros and
// come into being when written. Caching None opens the file a second time with O_DIRECT; requests
// whose place or memory is not aligned for it take the page cache instead, which the kernel keeps
// coherent. Discards and zeroes are fallocate(2); where the file system has none, a discard does
// nothing and zeroes are written.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/async_io.h"
#include "block/disk_image.h"
#include "block/live_image.h"

namespace strata::block {

/// An opened raw image, shared by its queues. Only its size may change.
struct RawFile {
    UniqueFd fd;
    UniqueFd direct;  ///< O_DIRECT, with cache None only
    std::uint32_t memory_alignment = 1;
    std::uint32_t offset_alignment = 1;
    CacheMode cache = CacheMode::Writeback;
    bool discard = true;
    DiskTraits traits;
};

class RawImage final : public LiveImage {
  public:
    static Result<std::unique_ptr<DiskImage>> open(DiskOptions options);
    [[nodiscard]] std::string_view name() const override { return name_; }
    [[nodiscard]] std::string_view format() const override { return "raw"; }
    [[nodiscard]] const DiskTraits& traits() const override { return file_.traits; }
    [[nodiscard]] LiveAccess* live() override { return nullptr; }
    Result<std::unique_ptr<DiskImage>> as_graph() override;
    void grow(std::uint64_t size, std::function<void(Result<>)> done) override;
    void settle_size(std::uint64_t /*size*/) override {}  // grow() did
    Result<std::unique_ptr<DiskQueue>> open_queue(unsigned depth) override;

  private:
    RawImage(std::string name, IoEngine engine, RawFile file)
        : name_(std::move(name)), engine_(engine), file_(std::move(file)) {}
    const std::string name_;
    const IoEngine engine_;
    RawFile file_;
};

class RawQueue final : public DiskQueue {
  public:
    RawQueue(const RawFile& file, std::unique_ptr<AsyncIo> io) : file_(file), io_(std::move(io)) {}
    ~RawQueue() override;
    void submit(DiskRequest request) override;
    void kick() override { io_->kick(); }
    [[nodiscard]] int completion_fd() const override { return io_->completion_fd(); }
    void reap(std::vector<DiskCompletion>& out) override;
    void wait() override;
    [[nodiscard]] std::size_t in_flight() const override { return under_way_ + finished_.size(); }

  private:
    /// What a request is doing: a zeroing may turn from Allocate into writing, and anything may end
    /// with a Sync.
    enum class Phase : std::uint8_t { Transfer, Allocate, Sync };
    struct Operation {
        DiskRequest request;
        Phase phase = Phase::Transfer;
        std::uint64_t done = 0;      ///< bytes transferred
        std::vector<iovec> vectors;  ///< what is left of them
        std::size_t first = 0;       ///< the first of `vectors` with bytes left
        bool busy = false;
    };
    [[nodiscard]] int refuse(const DiskRequest& request) const;
    std::size_t place();
    void start(std::size_t at);
    void transfer(std::size_t at);
    void allocate(std::size_t at);
    void sync(std::size_t at);
    void completed(std::size_t at, std::int64_t result);
    void transferred(std::size_t at, std::int64_t result);
    void finish(std::size_t at, int error);
    void aim_at_zeroes(Operation& operation) const;
    [[nodiscard]] bool direct_fits(const Operation& operation) const;

    const RawFile& file_;
    std::unique_ptr<AsyncIo> io_;
    std::vector<Operation> operations_;  ///< the place is the engine's token
    std::vector<std::size_t> free_;
    std::vector<DiskCompletion> finished_;
    std::vector<IoCompletion> scratch_;
    std::size_t under_way_ = 0;
};

}  // namespace strata::block
