// BitmapSet: the persistent dirty bitmaps of an open qcow2 image: those in the file, and what
// became of them since.
//
// A bitmap that records writes is marked "in use" in the file, durably, before the first write that
// it should have recorded; its bits are kept in memory from then on and reach the file when the
// image is closed, into new clusters. So after a crash it is still marked, and whoever reads it
// takes everything for dirty. The directory is replaced as a whole: the header names the new one
// after it, and all it refers to, is durable.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "block/formats/qcow2/bitmap_directory.h"
#include "block/formats/qcow2/metadata.h"
#include "block/image_info.h"
#include "block/sync.h"

namespace strata::block::qcow2 {

class BitmapSet {
  public:
    BitmapSet(Node& file, Metadata& metadata)
        : file_(file), metadata_(metadata), marking_(file.loop()) {}

    /// Reads the directory.
    Task<> load();
    [[nodiscard]] bool empty() const { return all_.empty(); }
    /// Some bitmap is not just broken: the disk's content must not change behind its back.
    [[nodiscard]] bool in_effect() const;
    [[nodiscard]] std::vector<BitmapInfo> list() const;
    Task<Bitmap> read(std::string name);
    /// In memory; store() brings it to the file.
    Result<> put(Bitmap bitmap);
    Result<> remove(std::string_view name);
    /// Before [offset, offset + length) changes.
    Task<> record(std::uint64_t offset, std::uint64_t length);
    /// Before and after the disk's size changes: all are in memory and marked; store() is due
    /// afterwards.
    Task<> begin_resize();
    void end_resize(std::uint64_t size);
    /// Something differs from the file.
    [[nodiscard]] bool dirty() const;
    /// Brings all to the file, whole. `write_header` is due when it answers; then release_old().
    Task<> store();
    void release_old();

  private:
    struct Live {
        StoredBitmap stored;
        std::vector<std::uint64_t> bits;
        bool loaded = false;   ///< `bits` are what counts
        bool changed = false;  ///< `bits` or flags differ from the file
        bool marked = false;   ///< "in use" in the file, by this program
        [[nodiscard]] bool records() const {
            return stored.usable() && (stored.flags & kBitmapAuto) != 0;
        }
    };
    Live* find(std::string_view name);
    Task<> load_bits(Live& live);
    Task<> mark(bool all);
    Task<> store_bits(Live& live);
    Task<> read_table_into(const StoredBitmap& stored, std::vector<std::uint64_t>& words);
    Task<> let_go(StoredBitmap stored);
    void update_header(const BitmapExtension& extension);

    Node& file_;
    Metadata& metadata_;
    std::vector<Live> all_;
    BitmapExtension extension_;
    bool marked_ = false;                ///< all that record writes are marked
    std::vector<StoredBitmap> removed_;  ///< in the file, and not wanted any more
    AsyncMutex marking_;
    std::vector<std::pair<std::uint64_t, std::uint64_t>>
        old_;  ///< clusters that nothing names after the next header: place and number
};

}  // namespace strata::block::qcow2
