// Metadata: L1 and L2 tables.
#include "block/formats/qcow2/metadata.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/endian.h"
#include "block/file_access.h"

namespace strata::block::qcow2 {
namespace {

constexpr std::size_t kSlice = 4096, kL2Slices = 8192, kRefcountSlices = 2048;
constexpr std::size_t kMaxPending = 65536;

}  // namespace

Metadata::Metadata(int fd, std::string name, Header header, std::uint64_t file_bytes)
    : fd_(fd),
      name_(std::move(name)),
      header_(std::move(header)),
      end_((file_bytes + header_.cluster() - 1) / header_.cluster() * header_.cluster()),
      l2_(fd, name_, std::min<std::size_t>(kSlice, header_.cluster()), kL2Slices),
      refcounts_(fd, name_, std::min<std::size_t>(kSlice, header_.cluster()), kRefcountSlices) {}

Result<std::unique_ptr<Metadata>> Metadata::load(int fd, std::string name, Header header, std::uint64_t file_bytes) {
    std::unique_ptr<Metadata> made(new Metadata(fd, std::move(name), std::move(header), file_bytes));
    const Header& h = made->header_;
    const std::uint64_t table_bytes = std::uint64_t{h.refcount_table_clusters} << h.cluster_bits;
    if (h.l1_offset + h.l1_entries * 8ULL > made->end_ || h.refcount_table_offset + table_bytes > made->end_) {
        return made->corrupt("its tables lie past the end of the file; is it cut off?");
    }
    made->l1_ = STRATA_TRY(made->read_table(h.l1_offset, h.l1_entries));
    made->table_ = STRATA_TRY(made->read_table(h.refcount_table_offset, table_bytes / 8));
    return made;
}

Error Metadata::corrupt(std::string_view what) const {
    return {ErrorKind::Failed, fmt::format("qcow2 image '{}' is corrupt: {}", name_, what), EIO};
}

bool Metadata::forbidden(std::uint64_t host) const {
    const auto within = [&](std::uint64_t start, std::uint64_t bytes) {
        return host < start + bytes && start < host + header_.cluster();
    };
    return within(0, header_.cluster()) || within(header_.l1_offset, header_.l1_entries * 8ULL) ||
           within(header_.refcount_table_offset, std::uint64_t{header_.refcount_table_clusters} << header_.cluster_bits) ||
           (header_.snapshots != 0 && within(header_.snapshots_offset, 1));
}

Result<std::vector<std::uint64_t>> Metadata::read_table(std::uint64_t offset, std::uint64_t entries) {
    std::vector<Be64> wire(entries);
    STRATA_TRY_VOID(read_file(fd_, offset, std::as_writable_bytes(std::span(wire)), name_));
    return std::vector<std::uint64_t>(wire.begin(), wire.end());
}

Result<Mapping> Metadata::decode(std::uint64_t entry, std::uint64_t bitmap, std::uint64_t guest) const {
    Mapping m;
    if ((entry & kCompressed) != 0) {
        const unsigned split = 62 - (header_.cluster_bits - 8);
        m.kind = Mapping::Kind::Compressed;
        m.host = entry & ((1ULL << split) - 1);
        m.length = static_cast<std::uint32_t>((((entry & (kCompressed - 1)) >> split) + 1) * 512 - (m.host & 511));
        return m.host < header_.cluster() || m.host >= end_
                   ? Result<Mapping>(corrupt(fmt::format("the compressed cluster for {:#x} is at {:#x}", guest, m.host)))
                   : m;
    }
    m.host = entry & kOffsetMask;
    m.copied = (entry & kCopied) != 0;
    if (m.host % header_.cluster() != 0 || m.host >= end_ || (m.host != 0 && forbidden(m.host))) {
        return corrupt(fmt::format("the cluster for {:#x} is at {:#x}, where none can be", guest, m.host));
    }
    m.kind = m.host != 0 ? Mapping::Kind::Normal : Mapping::Kind::Unallocated;
    if (header_.extended()) {
        m.allocated = static_cast<std::uint32_t>(bitmap);
        m.zero = static_cast<std::uint32_t>(bitmap >> 32);
        if ((m.allocated & m.zero) != 0 || (m.host == 0 && m.allocated != 0)) {
            return corrupt(fmt::format("the subclusters of {:#x} contradict each other ({:#x})", guest, bitmap));
        }
        m.kind = m.zero == ~0U ? Mapping::Kind::Zero : (m.allocated | m.zero) == 0 ? Mapping::Kind::Unallocated : Mapping::Kind::Normal;
    } else if (header_.version >= 3 && (entry & kZeroFlag) != 0) {
        m.kind = Mapping::Kind::Zero;
    }
    return m;
}

Result<std::uint64_t> Metadata::l2_table(std::uint64_t guest, bool writing) {
    const std::uint64_t index = guest / header_.cluster() / header_.l2_entries();
    if (index >= l1_.size()) {
        return corrupt(fmt::format("its L1 table ends before {:#x}", guest));
    }
    const std::uint64_t host = l1_[index] & kOffsetMask;
    if (host % header_.cluster() != 0 || host >= end_ || (host != 0 && forbidden(host))) {
        return corrupt(fmt::format("the L2 table for {:#x} is at {:#x}, where none can be", guest, host));
    }
    if (!writing || (host != 0 && (l1_[index] & kCopied) != 0)) {
        return host;
    }
    const std::uint64_t made = STRATA_TRY(new_l2_table(host));
    l1_[index] = made | kCopied;
    l1_dirty_.insert(index);
    if (host != 0) {
        pending_.push_back(host);
    }
    return made;
}

Result<std::uint64_t> Metadata::new_l2_table(std::uint64_t old) {
    const std::uint64_t made = STRATA_TRY(allocate());
    for (std::uint64_t at = 0; at < header_.cluster(); at += l2_.bytes()) {
        std::vector<std::byte> content;
        if (old != 0) {
            const std::byte* from = STRATA_TRY(l2_.load(old + at));
            content.assign(from, from + l2_.bytes());
        }
        std::byte* to = l2_.fresh(made + at);
        std::copy(content.begin(), content.end(), to);
    }
    return made;
}

Result<Mapping> Metadata::look_up(std::uint64_t guest) {
    const std::uint64_t table = STRATA_TRY(l2_table(guest, false));
    if (table == 0) {
        return Mapping{};
    }
    const std::uint64_t at = guest / header_.cluster() % header_.l2_entries() * header_.entry_bytes();
    const std::byte* slice = STRATA_TRY(l2_.load(table + at / l2_.bytes() * l2_.bytes()));
    Be64 words[2] = {0ULL, 0ULL};
    std::memcpy(words, slice + at % l2_.bytes(), header_.entry_bytes());
    return decode(words[0], words[1], guest);
}

Result<> Metadata::set(std::uint64_t guest, std::uint64_t entry, std::uint64_t bitmap) {
    const std::uint64_t table = STRATA_TRY(l2_table(guest, true));
    const std::uint64_t at = guest / header_.cluster() % header_.l2_entries() * header_.entry_bytes();
    std::byte* slice = STRATA_TRY(l2_.change(table + at / l2_.bytes() * l2_.bytes()));
    const Be64 words[2] = {entry, bitmap};
    std::memcpy(slice + at % l2_.bytes(), words, header_.entry_bytes());
    return ok();
}

void Metadata::release(const Mapping& m) {
    if (m.host == 0) {
        return;
    }
    const std::uint64_t last = m.kind == Mapping::Kind::Compressed ? m.host + m.length - 1 : m.host;
    for (std::uint64_t each = m.host / header_.cluster(); each <= last / header_.cluster(); ++each) {
        pending_.push_back(each * header_.cluster());
    }
}

bool Metadata::loaded() const { return l2_.full_of_dirt() || refcounts_.full_of_dirt() || pending_.size() >= kMaxPending; }

Result<> Metadata::write_l1() {
    for (const std::uint64_t index : l1_dirty_) {
        const Be64 entry = l1_[index];
        STRATA_TRY_VOID(write_file(fd_, header_.l1_offset + index * 8, std::as_bytes(std::span(&entry, 1)), name_));
    }
    l1_dirty_.clear();
    return ok();
}

Result<> Metadata::write_back() {
    STRATA_TRY_VOID(refcounts_.write_back());
    STRATA_TRY_VOID(sync_file(fd_, name_));  // the data as well
    if (table_dirty_) {
        STRATA_TRY_VOID(write_table(header_.refcount_table_offset));
        STRATA_TRY_VOID(sync_file(fd_, name_));
        table_dirty_ = false;
    }
    if (l2_.dirty() != 0) {
        STRATA_TRY_VOID(l2_.write_back());
        STRATA_TRY_VOID(sync_file(fd_, name_));
    }
    if (!l1_dirty_.empty()) {
        STRATA_TRY_VOID(write_l1());
        STRATA_TRY_VOID(sync_file(fd_, name_));
    }
    return free_pending();
}

}  // namespace strata::block::qcow2
