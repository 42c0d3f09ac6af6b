// TableNode: what all formats share that map blocks of the disk to places in a file: VDI, VHD,
// VHDX, Parallels, VMDK's sparse extents, qcow, QED, Bochs, cloop, DMG, COW. They differ in find()
// and, if they are written, in reserve() and publish().
//
// A write to a block that has no place reserves one at the end of the file, writes the data there
// with what belongs round it (from the backing image, a compressed block, or zeros), and only then
// publishes the place in the table, in memory. A flush makes the data durable, then brings the
// tables out (MetaCache), then makes these durable. So a crash loses at most what was not flushed,
// and never shows a place without its data. Blocks that have a place keep it: discards and zeroes
// go to the file. One allocation of a block at a time; everything else runs side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/common/meta_cache.h"
#include "block/node.h"
#include "block/sync.h"

namespace strata::block {

/// Decompresses `from` (which may have rubbish behind its stream) to exactly `into`. Runs on a
/// worker thread.
using Unpack = Result<> (*)(std::span<const std::byte> from, std::span<std::byte> into);

/// Compresses `from` into `into`; answers how many bytes it became, 0 if they do not fit. Runs on a
/// worker thread.
using Pack = std::size_t (*)(std::span<const std::byte> from, std::span<std::byte> into);

/// What lies at a place of the disk.
struct Place {
    enum class Kind : std::uint8_t {
        Data,    ///< at `offset` of the file
        Zero,    ///< zeros, whatever lies below
        Hole,    ///< the backing image, or zeros
        Packed,  ///< compressed: `packed` bytes at `offset` are block [start, start + bytes) of the
                 ///< disk
        Lost,    ///< what says where it is lay at `offset`, which is past the end of the file
    };
    Kind kind = Kind::Hole;
    std::uint64_t length = 0;  ///< from what was asked for; at least 1
    std::uint64_t offset = 0;
    bool look_below = false;  ///< Data that may be a hole of the file: status() asks it
    std::uint64_t start = 0, bytes = 0, packed = 0;
    Unpack unpack = nullptr;
};

/// Space for whole blocks that nothing refers to yet.
struct Reservation {
    std::uint64_t offset = 0;  ///< of the first block's data; the others follow without a gap
    std::uint64_t blocks = 1;
    bool zeroed = false;    ///< reads as zeros
    bool in_place = false;  ///< the block has its place and lacks parts of its content: what find()
                            ///< calls Data stays
};

/// What becomes of blocks past the end of a file: it was cut short, unless the format lets files
/// end early.
enum class PastEnd : std::uint8_t {
    Zeros,    ///< what is not there reads as zeros
    Refused,  ///< what is not there cannot be read or written
    Begun,    ///< as Refused, but that a block that begins in the file ends in zeros
};

class TableNode : public Node {
  public:
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    [[nodiscard]] Node* backing() const override { return backing_.get(); }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override;
    Task<FormatInfo> info() override;
    /// Finds blocks that lie in two places at once or outside the file.
    Task<CheckReport> check(Repair repair) override;

  protected:
    /// `unit`: bytes of a block. `size` may be set later, by opening.
    TableNode(NodePtr file, std::string name, bool read_only);

    /// What lies at `offset`, for at most `length` bytes; both inside the disk.
    virtual Task<Place> find(std::uint64_t offset, std::uint64_t length) = 0;
    /// Space for at most `count` blocks from `block` on, none of which is wholly Data. Formats that
    /// are only read lack it.
    virtual Task<Reservation> reserve(std::uint64_t block, std::uint64_t count);
    /// The data is written: the tables (in memory) refer to it from now on.
    virtual Task<> publish(std::uint64_t block, const Reservation& reservation);
    /// Makes a block that is no Data read as zeros without space for it. False: the format cannot.
    virtual Task<bool> publish_zero(std::uint64_t block);
    /// Makes `block` refer to `bytes` compressed bytes at `offset`, which are written.
    virtual Task<> publish_packed(std::uint64_t block, std::uint64_t offset, std::uint64_t bytes);
    /// What write_compressed() is, for formats that have compressed blocks: `pack` makes the bytes;
    /// blocks that do not get smaller are written as they are. An empty buffer is the end of a
    /// stream, which means nothing here.
    Task<> write_packed(std::uint64_t offset, Buffers from, Pack pack);
    /// The data at `host` of the file, which shows at `guest` of the disk. An encrypted image's is
    /// another there.
    virtual Task<> read_data(std::uint64_t host, std::uint64_t guest, Buffers into);
    virtual Task<> write_data(std::uint64_t host, std::uint64_t guest, Buffers from);
    virtual Task<> zero_data(std::uint64_t host, std::uint64_t guest, std::uint64_t length,
                             ZeroOptions options);
    /// Before the first write; durable when it returns, if the format wants it so.
    virtual Task<> before_first_write();
    /// After the data and before the tables of a flush: what must follow the last block.
    virtual Task<> write_tail();
    /// Bytes of that.
    [[nodiscard]] virtual std::uint64_t tail_bytes() const { return 0; }
    /// After the last flush of an image that was written.
    virtual Task<> after_last_flush();

    /// Sets unit, size and traits, once they are known. `unit` divides the work of allocation.
    void configure(std::uint64_t size, std::uint64_t unit, bool zero_blocks);
    /// Moves the end of what is used by `bytes` and answers where it was, a multiple of
    /// `alignment`.
    std::uint64_t take_space(std::uint64_t bytes, std::uint64_t alignment);
    /// Flushes; then nothing that is used lies behind `end`, and the file ends there, with its
    /// tail. A file that cannot get smaller (a device, a server's export) stays as long as it is.
    Task<> end_file(std::uint64_t end);
    [[nodiscard]] std::uint64_t unit() const { return unit_; }
    /// What lies before it is there, or was written; whole sectors.
    [[nodiscard]] std::uint64_t readable_end() const;
    /// An error if a block or what says where it is lies past the end of the file: before the first
    /// write, which might use that space.
    Task<> refuse_if_cut();
    [[nodiscard]] bool written() const { return written_; }

    NodePtr file_;
    NodePtr backing_;
    std::uint64_t backing_shift_ = 0;  ///< where in `backing_` this disk begins
    MetaCache meta_;
    NodeTraits traits_;
    std::uint64_t end_ = 0;    ///< of what is used of the file
    bool checks_ends_ = true;  ///< check() finds blocks that are not wholly in the file
    PastEnd past_end_ = PastEnd::Zeros;

  private:
    /// An error if `place`, found at `offset` of the disk, is not in the file.
    [[nodiscard]] Result<> check_place(const Place& place, std::uint64_t offset) const;
    Task<Place> find_long(std::uint64_t offset, std::uint64_t length);
    Task<> read_packed(Place place, std::uint64_t offset, Buffers into);
    Task<> read_below(std::uint64_t offset, Buffers into);
    Task<std::uint64_t> allocate(std::uint64_t offset, std::uint64_t length, const Buffers* from);
    Task<> write_packed_locked(std::uint64_t block, std::span<const std::byte> packed);
    Task<std::uint64_t> allocate_locked(std::uint64_t offset, std::uint64_t length,
                                        const Buffers* from);
    Task<std::uint64_t> without_place(std::uint64_t first, std::uint64_t offset, std::uint64_t end);
    Task<> fill(std::uint64_t from, std::uint64_t to, const Reservation& reservation,
                std::uint64_t base);
    Task<> begin_write();
    Task<> flush_locked();
    [[nodiscard]] bool busy(std::uint64_t first, std::uint64_t last) const;

    struct Unpacked {
        std::uint64_t offset = 0;
        std::shared_ptr<const std::vector<std::byte>> bytes;
    };
    std::uint64_t size_ = 0, unit_ = 65536;
    bool zero_blocks_ = false;
    bool begun_ = false, written_ = false, closed_ = false;
    AsyncMutex flushing_;
    std::set<std::uint64_t> allocating_;
    WaitQueue allocated_;
    std::deque<Unpacked> unpacked_;  ///< newest first
};

/// `length` bytes at `offset`; past the end of `file` they are zeros.
Task<std::vector<std::byte>> read_bytes(Node& file, std::uint64_t offset, std::size_t length);

}  // namespace strata::block
