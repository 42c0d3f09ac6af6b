// Qcow2Layer: writing, zeroing, discarding.
#include <algorithm>
#include <cerrno>
#include <vector>

#include "block/file_access.h"
#include "block/formats/qcow2/qcow2_layer.h"

namespace strata::block::qcow2 {

bool Qcow2Layer::in_place(const Mapping& m) const {
    return m.kind == Mapping::Kind::Normal && m.copied && (!header_.extended() || m.allocated == ~0U);
}

Result<bool> Qcow2Layer::write_in_place(std::uint64_t offset, std::span<const std::byte> from) {
    const std::shared_lock gate(gate_);
    const Mapping mapping = STRATA_TRY(look_up(offset));
    if (!in_place(mapping)) {
        return false;
    }
    STRATA_TRY_VOID(write_file(fd_.get(), mapping.host + offset % header_.cluster(), from, name_));
    return true;
}

// The new cluster is complete before the tables name it; the old one stays as it is until they are durable.
Result<> Qcow2Layer::replace(std::uint64_t offset, std::span<const std::byte> content, const Mapping& old) {
    const std::uint64_t host = STRATA_TRY(metadata_->allocate());
    Result<> done = write_file(fd_.get(), host, content, name_);
    if (done.ok()) {
        done = metadata_->set(offset, host | kCopied, header_.extended() ? 0xFFFFFFFFULL : 0);
    }
    if (!done.ok()) {
        STRATA_TRY_VOID(metadata_->give_back(host));
        return done;
    }
    metadata_->release(old);
    return ok();
}

Result<> Qcow2Layer::write_piece(std::uint64_t offset, std::span<const std::byte> from) {
    if (STRATA_TRY(write_in_place(offset, from))) {
        return ok();
    }
    const std::unique_lock gate(gate_);
    if (metadata_->loaded()) {
        STRATA_TRY_VOID(metadata_->write_back());
    }
    const Mapping old = STRATA_TRY(metadata_->look_up(offset));
    const std::uint64_t within = offset % header_.cluster();
    if (in_place(old)) {  // somebody was faster
        return write_file(fd_.get(), old.host + within, from, name_);
    }
    const std::uint64_t start = offset - within;
    if (from.size() == header_.cluster()) {
        return replace(start, from, old);
    }
    std::vector<std::byte> whole(header_.cluster());
    STRATA_TRY_VOID(read_piece(start, whole, old));
    std::copy(from.begin(), from.end(), whole.begin() + static_cast<std::ptrdiff_t>(within));
    return replace(start, whole, old);
}

Result<> Qcow2Layer::write(std::uint64_t offset, std::span<const std::byte> from) {
    STRATA_TRY_VOID(check(offset, from.size(), true));
    while (!from.empty()) {
        const std::size_t part = std::min<std::uint64_t>(from.size(), header_.cluster() - offset % header_.cluster());
        STRATA_TRY_VOID(write_piece(offset, from.first(part)));
        from = from.subspan(part);
        offset += part;
    }
    return ok();
}

Result<> Qcow2Layer::zero_cluster(std::uint64_t offset) {
    const std::unique_lock gate(gate_);
    if (metadata_->loaded()) {
        STRATA_TRY_VOID(metadata_->write_back());
    }
    const Mapping old = STRATA_TRY(metadata_->look_up(offset));
    if ((old.kind == Mapping::Kind::Zero && old.host == 0) || (old.kind == Mapping::Kind::Unallocated && !backing_)) {
        return ok();
    }
    const bool flags = header_.version >= 3;
    if (!flags && backing_) {  // version 2 has no way to say zero
        const std::vector<std::byte> zeroes(header_.cluster());
        return in_place(old) ? write_file(fd_.get(), old.host, zeroes, name_) : replace(offset, zeroes, old);
    }
    STRATA_TRY_VOID(metadata_->set(offset, flags && !header_.extended() ? kZeroFlag : 0, header_.extended() ? 0xFFFFFFFFULL << 32 : 0));
    metadata_->release(old);
    return ok();
}

Result<> Qcow2Layer::write_zeroes(std::uint64_t offset, std::uint64_t length, bool /*unmap*/) {
    STRATA_TRY_VOID(check(offset, length, true));
    while (length != 0) {
        const std::uint64_t part = std::min(length, header_.cluster() - offset % header_.cluster());
        if (part == header_.cluster() || (offset % header_.cluster() == 0 && offset + part == size())) {
            STRATA_TRY_VOID(zero_cluster(offset));
        } else {
            STRATA_TRY_VOID(write_piece(offset, std::vector<std::byte>(part)));
        }
        length -= part;
        offset += part;
    }
    return ok();
}

Result<> Qcow2Layer::discard(std::uint64_t offset, std::uint64_t length) {
    STRATA_TRY_VOID(check(offset, length, true));
    if (header_.version < 3 && backing_) {
        return ok();  // what lies below would show
    }
    const std::uint64_t end = offset + length == size() ? (size() + header_.cluster() - 1) / header_.cluster() : (offset + length) / header_.cluster();
    for (std::uint64_t each = (offset + header_.cluster() - 1) / header_.cluster(); each < end; ++each) {
        STRATA_TRY_VOID(zero_cluster(each * header_.cluster()));
    }
    return ok();
}

Result<> Qcow2Layer::flush() {
    if (read_only_) {
        return ok();
    }
    const std::unique_lock gate(gate_);
    return metadata_->write_back();
}

}  // namespace strata::block::qcow2
