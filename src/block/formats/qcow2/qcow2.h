// Qcow2Node: a qcow2 image, version 2 and 3.
//
// Reads and writes run side by side; whoever gives clusters to a stretch of the disk, or takes them
// away, announces the stretch, and others who write there wait for it. Snapshots, resizing, checks
// and the like run alone. The tables and the order of writing are metadata.h's.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "block/aligned_buffer.h"
#include "block/amend.h"
#include "block/compact.h"
#include "block/droppable.h"
#include "block/formats/luks/volume.h"
#include "block/formats/qcow2/bitmap_set.h"
#include "block/formats/qcow2/metadata.h"
#include "block/formats/qcow2/snapshot_table.h"
#include "block/node.h"
#include "block/packed_source.h"
#include "block/packed_target.h"
#include "block/registry.h"
#include "block/sync.h"

namespace strata::block::qcow2 {

const FormatDriver& driver();

class Qcow2Node final : public Node,
                        public Amendable,
                        public Compactable,
                        public Droppable,
                        public PackedSource,
                        public PackedTarget {
  public:
    static Task<NodePtr> open(NodePtr file, OpenOptions options);
    ~Qcow2Node() override;

    [[nodiscard]] std::string_view format() const override { return "qcow2"; }
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
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> write_compressed(std::uint64_t offset, Buffers from) override;
    Task<> write_packed(std::uint64_t offset, Buffers from) override;
    Task<> close() override;
    Task<> resize(std::uint64_t size, Preallocation preallocation) override;
    Task<> make_empty() override;
    Task<FormatInfo> info() override;
    Task<> amend(OptionList options) override;
    Task<> change_options(AmendRequest request) override;
    Task<> drop(std::uint64_t offset, std::uint64_t length) override;
    Task<CompactReport> pack_file(CompactWatch watch) override;
    Task<> change_backing(NodePtr backing, std::string name, std::string format) override;
    Task<CheckReport> check(Repair repair) override;
    Task<std::vector<SnapshotInfo>> snapshots() override;
    Task<std::string> create_snapshot(SnapshotInfo snapshot) override;
    Task<> apply_snapshot(std::string which) override;
    Task<> delete_snapshot(std::string which) override;
    Task<> load_snapshot(std::string which) override;
    Task<> read_vm_state(std::uint64_t offset, Buffers into) override;
    Task<> write_vm_state(std::uint64_t offset, Buffers from) override;
    Task<std::vector<BitmapInfo>> bitmaps() override;
    Task<Bitmap> read_bitmap(std::string name) override;
    Task<> store_bitmap(Bitmap bitmap) override;
    Task<> remove_bitmap(std::string name) override;

    std::vector<PackedPiece> packed_pieces(std::uint64_t offset, std::uint64_t length) override;
    [[nodiscard]] const Node* packed_file() const override { return file_.get(); }
    [[nodiscard]] std::size_t packed_cluster() const override { return cluster(); }
    [[nodiscard]] Unpack unpacker() const override;

    /// For create(): a new, empty image is encrypted from now on; without bytes with AES.
    Task<> encrypt(luks::MadeVolume volume);

  private:
    struct Stretch {
        std::uint64_t first = 0, end = 0;  ///< clusters
    };
    /// Keeps other writers out of clusters that are about to change owner.
    class Claim;
    friend class Compactor;
    Qcow2Node(NodePtr file, NodePtr data, NodePtr backing, std::unique_ptr<Metadata> metadata,
              const OpenOptions& options);
    [[nodiscard]] const Header& header() const { return metadata_->header(); }
    [[nodiscard]] std::uint64_t cluster() const { return header().cluster(); }
    [[nodiscard]] bool claimed(std::uint64_t first, std::uint64_t end) const;
    Task<Mapping> look_up(std::uint64_t offset);
    [[nodiscard]] bool in_place(const Mapping& mapping, std::uint64_t within,
                                std::uint64_t length) const;
    [[nodiscard]] bool plain(const Mapping& mapping) const;
    [[nodiscard]] bool nothing_below(std::uint64_t offset) const;
    [[nodiscard]] bool overlay() const { return backing_ != nullptr || !header().backing.empty(); }
    /// check_range() of a write, and whether the data are here to be changed.
    [[nodiscard]] Result<> check_change(std::uint64_t offset, std::uint64_t length) const;
    // The header as a whole (header_switch.cc)
    Task<> write_header();
    Task<> write_pieces(std::span<const std::byte> bytes, std::size_t begin, std::size_t end);

    // Reading (read.cc)
    Task<> read_inside(std::uint64_t offset, Buffers into);
    Task<> read_piece(std::uint64_t offset, Buffers into, Mapping mapping);
    Task<> read_subclusters(std::uint64_t offset, Buffers into, Mapping mapping);
    Task<> read_compressed(std::uint64_t offset, Buffers into, Mapping mapping);
    /// A compressed cluster and where its content goes.
    struct Packed : PackedPiece {
        std::span<std::byte> to;
    };
    std::vector<Packed> packed_run(std::uint64_t offset, const Buffers& into, const Mapping& first);
    Task<> unpack(std::vector<Packed> run);

    // Writing (write.cc)
    Task<> write_inside(std::uint64_t offset, Buffers from);
    Task<std::uint64_t> write_in_place(std::uint64_t offset, Buffers from, Mapping first);
    Task<std::uint64_t> write_new(std::uint64_t offset, Buffers from, Mapping first);
    Task<std::uint64_t> write_into(std::uint64_t offset, Buffers from, std::vector<Mapping> olds,
                                   Allocation place, bool reused);
    Task<> write_between(std::uint64_t offset, Buffers data, Mapping first, Mapping last,
                         Allocation place, std::uint64_t begin, std::uint64_t end);
    Task<AlignedBuffer> old_content(std::uint64_t offset, std::uint64_t length, Mapping mapping,
                                    bool zeroed);
    [[nodiscard]] Entry entry_for(const Mapping& old, std::uint64_t host, std::uint64_t from,
                                  std::uint64_t to, bool reused) const;
    /// A cluster that was compressed: its place among the others' bytes, then in the file. No
    /// bytes: it does not pay.
    struct Pack {
        std::uint64_t guest = 0, from = 0, host = 0;
        std::size_t size = 0;
    };
    [[nodiscard]] Result<> check_packed(std::uint64_t offset, std::uint64_t length) const;
    static std::size_t pack_clusters(std::span<Pack> packs, Compression method,
                                     std::uint64_t offset, std::span<const std::byte> from,
                                     std::span<std::byte> to);
    Task<> place_packs(std::vector<Pack>& packs, std::span<std::byte> bytes);
    Task<> relieve();
    Task<> take_back(std::uint64_t index, Allocation place);
    void forget_unpacked(std::uint64_t host);

    // Zeroing, size (zero.cc, resize.cc)
    enum class Clearing : std::uint8_t { Zero, ZeroKeepSpace, ZeroLasting, Discard, Drop };
    Task<> clear(std::uint64_t first, std::uint64_t end, Clearing how);
    std::uint64_t holes_now(std::uint64_t offset, std::uint64_t end, Clearing how);
    Task<> clear_cluster(std::uint64_t offset, Clearing how);
    Task<> zero_part(std::uint64_t offset, std::uint64_t length, bool lasting = false);
    Task<> zero_inside(std::uint64_t offset, std::uint64_t length, ZeroOptions options);
    Task<> resize_inside(std::uint64_t size, Preallocation preallocation);
    Task<> own_cluster(std::uint64_t offset);
    [[nodiscard]] Entry entry_of_zeros(std::uint64_t host) const;
    Task<> grow_l1(std::uint64_t entries);
    Task<> write_l1_field();
    Task<> write_size_field(std::uint64_t size);
    Task<> preallocate(std::uint64_t offset, std::uint64_t end, Preallocation mode);

    // Encryption (encryption.cc)
    Task<> unlock(std::string passphrase, bool wanted);
    Task<> change_keys(AmendRequest request);
    [[nodiscard]] Error locked() const;
    Task<> encipher(std::uint64_t sector, std::span<std::byte> bytes, bool encrypting) const;
    Task<> read_encrypted(std::uint64_t host, std::uint64_t guest, Buffers into);
    Task<> write_encrypted(std::uint64_t host, std::uint64_t guest, Buffers from);
    /// The data at `host` of the cluster that shows at `guest`.
    Task<> read_data(std::uint64_t host, std::uint64_t guest, Buffers into);
    Task<> write_data(std::uint64_t host, std::uint64_t guest, Buffers from);
    Task<> write_sectors(std::uint64_t offset, Buffers from);
    /// write_inside() of any range.
    Task<> write_bytes(std::uint64_t offset, Buffers from);
    void encryption_info(FormatInfo& info) const;

    // Bitmaps (bitmaps.cc)
    Task<> store_bitmaps();
    [[nodiscard]] InfoField bitmap_info() const;

    // Amending (amend.cc, zero_expansion.cc)
    Task<> upgrade();
    Task<> downgrade(AmendRequest request);
    Task<> check_downgrade();
    Task<> change_features(Header wanted);
    Task<> expand_zeroes(AmendRequest request);
    Task<> expand_table(std::uint64_t host, std::uint64_t owners);
    Task<bool> has_compressed();

    // Snapshots (snapshots.cc)
    using L1Tables = std::vector<std::pair<std::uint64_t, std::uint64_t>>;  ///< offset and entries
    Task<> recount(L1Tables l1_tables);
    Task<> change_version(std::uint32_t version);
    Task<> write_snapshots(std::vector<Snapshot> all, std::uint64_t old_bytes);
    Task<> cut_snapshots(std::uint32_t count);
    Task<SnapshotTable> look_at_snapshots(Repair repair, CheckReport* report);
    Task<CheckReport> count(Repair repair);
    Task<CheckReport> mend(Repair repair, SnapshotTable table, std::uint64_t cut,
                           CheckReport* told);
    Task<std::uint64_t> write_new_l1(std::vector<std::uint64_t> l1);
    [[nodiscard]] std::uint64_t vm_state_offset() const;

    // Status (read.cc)
    Task<bool> detect_holes();
    Task<bool> uses(std::uint64_t clusters);
    Task<Extent> mapped(std::uint64_t offset, std::uint64_t length);

    const NodePtr file_;
    const NodePtr data_;  ///< of its own, or file_
    NodePtr backing_;
    const std::unique_ptr<Metadata> metadata_;
    std::optional<bool> given_ahead_;  ///< the host's file has holes where clusters are in use
    BitmapSet bitmaps_;
    std::optional<luks::SectorCipher> cipher_;  ///< encrypted, and opened with the passphrase
    std::optional<luks::Header> luks_;
    std::string passphrase_;
    AsyncMutex partial_;
    std::uint64_t size_;
    NodeTraits traits_;
    Gate gate_;
    std::list<Stretch> claims_;
    WaitQueue claims_change_;
    bool closed_ = false;
    struct Unpacked {
        std::uint64_t host = 0;
        std::shared_ptr<const std::vector<std::byte>> content;
    };
    std::vector<Unpacked> unpacked_;  ///< the clusters decompressed last
    std::size_t next_unpacked_ = 0;
};

}  // namespace strata::block::qcow2
