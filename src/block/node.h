// Node: one member of a block graph: a file, an image format over it, a filter. Every request is a
// coroutine.
//
// A graph belongs to one Loop, and all its nodes run on that loop's thread: calls from elsewhere
// are errors. Requests of one node run side by side and end in any order; overlapping ones have no
// order but what their callers make. Any byte range is accepted (a node pads and aligns what its
// children want); traits() tells what is quick. Buffers go down as they came. Errors carry an errno
// (system_errno()) for guests, and name file, offset and operation. An ability that a format lacks
// answers NotSupported with its name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "block/buffers.h"
#include "block/extent.h"
#include "block/image_info.h"
#include "block/loop.h"
#include "block/node_event.h"
#include "block/task.h"

namespace strata::block {

class Node;
using NodePtr = std::shared_ptr<Node>;

struct NodeTraits {
    bool read_only = false;
    std::uint32_t request_alignment =
        1;  ///< requests of multiples of this cost no read-modify-write
    std::uint32_t memory_alignment = 1;  ///< of buffers, to go without a copy
    std::uint64_t max_transfer = 0;      ///< bytes; longer requests are cut inside. 0: any
    std::uint64_t cluster_size = 0;      ///< allocation unit; 0: none
    std::uint32_t discard_alignment = 512;
    bool discard = false;           ///< discards give space back
    bool fast_zeroes = false;       ///< write_zeroes() writes no data
    bool zero_initialised = false;  ///< a new image reads as zeros
    bool compressed_writes = false;
    bool whole_clusters = false;  ///< takes nothing but whole clusters, in order (streams)
    bool sparse = false;          ///< status() knows more than "data"
};

struct ZeroOptions {
    bool may_unmap = false;    ///< space may be given back
    bool no_fallback = false;  ///< NotSupported rather than writing zeros out
    bool lasting = false;  ///< zeros also when another layer comes below (rebase); else a hole may
                           ///< do where none is
};

class Node : public std::enable_shared_from_this<Node> {
  public:
    /// `name`: the path or what stands for it, for messages.
    Node(Loop& loop, std::string name) : loop_(loop), name_(std::move(name)) {}
    virtual ~Node() = default;
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    [[nodiscard]] Loop& loop() const { return loop_; }
    [[nodiscard]] const std::string& name() const { return name_; }
    /// "file", "raw", "qcow2", "throttle" …
    [[nodiscard]] virtual std::string_view format() const = 0;
    /// Bytes.
    [[nodiscard]] virtual std::uint64_t size() const = 0;
    [[nodiscard]] virtual const NodeTraits& traits() const = 0;
    /// What this node's metadata lies in, the layer below, and all it uses (with these). Null:
    /// none.
    [[nodiscard]] virtual Node* file() const { return nullptr; }
    [[nodiscard]] virtual Node* backing() const { return nullptr; }
    [[nodiscard]] virtual std::vector<Node*> children() const;

    // Data. Ranges beyond size() are errors (EIO), but for protocol nodes (file), where reads
    // answer zeros and writes grow it.
    virtual Task<> read(std::uint64_t offset, Buffers into) = 0;
    virtual Task<> write(std::uint64_t offset, Buffers from) = 0;
    /// Reads as zeros afterwards.
    virtual Task<> write_zeroes(std::uint64_t offset, std::uint64_t length,
                                ZeroOptions options) = 0;
    /// Gives space back; what was there reads as its old content or as zeros. Parts of clusters may
    /// stay.
    virtual Task<> discard(std::uint64_t offset, std::uint64_t length) = 0;
    /// All writes completed before are durable afterwards.
    virtual Task<> flush() = 0;
    /// What lies at `offset`, of this layer alone (status_of_chain() follows the chain). `length`
    /// is at least 1.
    virtual Task<Extent> status(std::uint64_t offset, std::uint64_t length) = 0;
    /// Writes a whole cluster compressed, where none is yet; the last one of the disk may be short.
    /// An empty buffer ends a stream (formats that must be written in order).
    virtual Task<> write_compressed(std::uint64_t offset, Buffers from);
    /// Brings everything to the file and marks it cleanly closed, with its children. No writes
    /// afterwards. A node that goes without close() leaves its image as a crash would: whole,
    /// perhaps with leaks. Twice is once.
    virtual Task<> close() = 0;

    /// The layer above tells of a moment in its work: for fault injection.
    virtual void note(NodeEvent /*event*/) {}

    // Size and contents as a whole.
    virtual Task<> resize(std::uint64_t size, Preallocation preallocation);
    /// Drops everything this layer has; all of it is as unallocated (after a commit).
    virtual Task<> make_empty();
    /// Bytes on the host, as du(1) counts, of this node's own files.
    virtual Task<std::uint64_t> allocated_bytes();
    /// Copies within the host (reflink, copy_file_range) from `source`; both are files.
    /// NotSupported: read and write instead.
    virtual Task<> copy_from(Node& source, std::uint64_t from, std::uint64_t to,
                             std::uint64_t length);

    // The image.
    virtual Task<FormatInfo> info();
    virtual Task<CheckReport> check(Repair repair);
    virtual Task<> amend(OptionList options);
    /// Writes `name` and `format` into the image as its backing file and uses `backing` (may be
    /// null) from now on.
    virtual Task<> change_backing(NodePtr backing, std::string name, std::string format);

    // Internal snapshots. `which` is an id, else a name.
    virtual Task<std::vector<SnapshotInfo>> snapshots();
    /// Makes a snapshot of what is there; a VM state written with write_vm_state() goes with it.
    /// Answers its id.
    virtual Task<std::string> create_snapshot(SnapshotInfo snapshot);
    virtual Task<> apply_snapshot(std::string which);
    virtual Task<> delete_snapshot(std::string which);
    /// Reads go to the snapshot from now on; the node is read-only then.
    virtual Task<> load_snapshot(std::string which);
    virtual Task<> read_vm_state(std::uint64_t offset, Buffers into);
    virtual Task<> write_vm_state(std::uint64_t offset, Buffers from);

    // Persistent dirty bitmaps.
    virtual Task<std::vector<BitmapInfo>> bitmaps();
    virtual Task<Bitmap> read_bitmap(std::string name);
    /// Adds it, or replaces the one of its name.
    virtual Task<> store_bitmap(Bitmap bitmap);
    virtual Task<> remove_bitmap(std::string name);

  protected:
    /// "'NAME': qcow2 images have no SUBJECT".
    [[nodiscard]] Error lacks(std::string_view subject) const;
    /// The error of a range beyond `size`, or of a write to what is read-only.
    [[nodiscard]] Result<> check_range(std::uint64_t offset, std::uint64_t length,
                                       bool writing) const;

  private:
    Loop& loop_;
    const std::string name_;
};

/// What shows at `offset` through `top` and the layers below it, down to but without `base` (null:
/// all of them): Unallocated only if no layer has it. Where a layer ends the rest is Zero, of the
/// layer above it. `depth` (may be null): how many layers below `top` the answer is from.
Task<Extent> status_of_chain(Node& top, const Node* base, std::uint64_t offset,
                             std::uint64_t length, unsigned* depth = nullptr);

/// Reads [offset, offset + size) of `node`, which may be null or shorter: zeros beyond it.
Task<> read_or_zero(Node* node, std::uint64_t offset, Buffers into);

}  // namespace strata::block
