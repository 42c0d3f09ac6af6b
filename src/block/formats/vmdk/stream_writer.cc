// StreamWriter: grains, tables, the end.
#include "block/formats/vmdk/stream_writer.h"

#include <algorithm>
#include <cerrno>
#include <memory>

#include <fmt/format.h>
#include <libdeflate.h>

#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::vmdk {
namespace {

constexpr std::size_t kGrainMarker = 12;
constexpr int kLevel = 6;

struct Free {
    void operator()(libdeflate_compressor* each) const { libdeflate_free_compressor(each); }
};

/// Marker, zlib stream, padding.
std::vector<std::byte> pack(std::uint64_t sector, std::span<const std::byte> grain) {
    const std::unique_ptr<libdeflate_compressor, Free> deflater(
        libdeflate_alloc_compressor(kLevel));
    STRATA_CHECK(deflater != nullptr, "no memory for a compressor");
    const std::size_t bound = libdeflate_zlib_compress_bound(deflater.get(), grain.size());
    std::vector<std::byte> out(kGrainMarker + bound);
    const std::size_t made = libdeflate_zlib_compress(deflater.get(), grain.data(), grain.size(),
                                                      out.data() + kGrainMarker, bound);
    STRATA_CHECK(made != 0, "compressing into a buffer of the bound's size failed");
    put(out, 0, Le64(sector));
    put(out, 8, Le32(static_cast<std::uint32_t>(made)));
    out.resize(round_up(kGrainMarker + made, 512));
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(kGrainMarker + made), out.end(),
              std::byte{0});
    return out;
}

void append_entries(std::vector<std::byte>& out, const std::vector<std::uint32_t>& entries) {
    const std::size_t at = out.size();
    out.resize(at + round_up(entries.size() * 4, 512));
    for (std::size_t i = 0; i < entries.size(); ++i) {
        put(out, at + i * 4, Le32(entries[i]));
    }
}

}  // namespace

StreamWriter::StreamWriter(NodePtr file, std::string name, const SparseHeader& header)
    : Node(file->loop(), std::move(name)),
      file_(std::move(file)),
      header_(header),
      end_(header.overhead * 512),
      directory_(header.tables()),
      table_(header.table_entries) {
    traits_.cluster_size = header.grain_bytes();
    traits_.request_alignment = static_cast<std::uint32_t>(header.grain_bytes());
    traits_.fast_zeroes = true;
    traits_.zero_initialised = true;
    traits_.compressed_writes = true;
    traits_.whole_clusters = true;
}

Task<> StreamWriter::read(std::uint64_t /*offset*/, Buffers /*into*/) {
    co_return lacks("reading before a stream's end is written");
}
Task<> StreamWriter::discard(std::uint64_t /*offset*/, std::uint64_t /*length*/) {
    co_return ok();
}
Task<Extent> StreamWriter::status(std::uint64_t /*offset*/, std::uint64_t length) {
    co_return Extent{.kind = Extent::Kind::Data, .length = length, .owner = this};
}

Task<> StreamWriter::append(std::vector<std::byte> bytes) {
    STRATA_CO_TRY_VOID(co_await file_->write(end_, Buffers::of(bytes)));
    end_ += bytes.size();
    co_return ok();
}

// Writes the table under way, if any grain is in it.
Task<> StreamWriter::end_table() {
    if (std::any_of(table_.begin(), table_.end(), [](std::uint32_t each) { return each != 0; })) {
        std::vector<std::byte> bytes =
            serialise_marker(Marker::Table, divide_up(table_.size() * 4, 512));
        append_entries(bytes, table_);
        directory_[current_] = static_cast<std::uint32_t>(end_ / 512 + 1);
        STRATA_CO_TRY_VOID(co_await append(std::move(bytes)));
        std::fill(table_.begin(), table_.end(), 0);
    }
    co_return ok();
}

Result<> StreamWriter::check_order(std::uint64_t offset) const {
    if (finished_ || offset / header_.grain_bytes() < next_) {
        return Error{
            ErrorKind::NotSupported,
            fmt::format("VMDK image '{}': a stream is written once, in ascending order", name()),
            ENOTSUP};
    }
    return ok();
}

Task<> StreamWriter::write_grain(std::uint64_t offset, Buffers from) {
    const std::uint64_t grain = offset / header_.grain_bytes();
    if (grain / header_.table_entries != current_) {
        STRATA_CO_TRY_VOID(co_await end_table());
        current_ = grain / header_.table_entries;
    }
    next_ = grain + 1;
    if (from.is_zero()) {
        co_return ok();
    }
    std::vector<std::byte> content(from.size());
    from.copy_to(content);
    content.resize(header_.grain_bytes());
    std::vector<std::byte> packed =
        co_await loop().offload([&] { return pack(offset / 512, content); });
    if ((end_ + packed.size()) / 512 > 0xFFFFFFFFU) {
        co_return Error{
            ErrorKind::Failed,
            fmt::format("VMDK image '{}': it cannot grow beyond {} bytes", name(), end_), ENOSPC};
    }
    table_[grain % header_.table_entries] = static_cast<std::uint32_t>(end_ / 512);
    co_return co_await append(std::move(packed));
}

Task<> StreamWriter::write(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY_VOID(check_range(offset, from.size(), true));
    const std::uint64_t unit = header_.grain_bytes();
    if (offset % unit != 0 || (from.size() % unit != 0 && offset + from.size() != size())) {
        co_return Error{
            ErrorKind::NotSupported,
            fmt::format("VMDK image '{}': a stream is written in whole grains of {} bytes", name(),
                        unit),
            ENOTSUP};
    }
    STRATA_CO_TRY_VOID(check_order(offset));
    STRATA_CO_TRY_VOID(failure_.so_far());
    co_return failure_.keep(co_await write_grains(offset, from));
}

Task<> StreamWriter::write_grains(std::uint64_t offset, Buffers from) {
    for (std::uint64_t done = 0; done < from.size();) {
        const Buffers part = from.slice(done, std::min(from.size() - done, header_.grain_bytes()));
        STRATA_CO_TRY_VOID(co_await write_grain(offset + done, part));
        done += part.size();
    }
    co_return ok();
}

Task<> StreamWriter::flush() {
    STRATA_CO_TRY_VOID(failure_.so_far());
    co_return failure_.keep(co_await file_->flush());
}

Task<> StreamWriter::write_zeroes(std::uint64_t offset, std::uint64_t length,
                                  ZeroOptions /*options*/) {
    STRATA_CO_TRY_VOID(check_range(offset, length, true));
    STRATA_CO_TRY_VOID(check_order(offset));
    co_return failure_.so_far();  // what is not written is zeros
}

Task<> StreamWriter::write_compressed(std::uint64_t offset, Buffers from) {
    if (from.empty()) {
        co_return co_await finish();
    }
    co_return co_await write(offset, from);
}

Task<> StreamWriter::finish() {
    STRATA_CO_TRY_VOID(failure_.so_far());
    if (!finished_) {
        STRATA_CO_TRY_VOID(failure_.keep(co_await write_end()));
        finished_ = true;
    }
    co_return ok();
}

Task<> StreamWriter::write_end() {
    STRATA_CO_TRY_VOID(co_await end_table());
    std::vector<std::byte> bytes =
        serialise_marker(Marker::Directory, divide_up(directory_.size() * 4, 512));
    SparseHeader footer = header_;
    footer.directory = end_ / 512 + 1;
    append_entries(bytes, directory_);
    const auto marker = serialise_marker(Marker::Footer, 1);
    bytes.insert(bytes.end(), marker.begin(), marker.end());
    const auto header = serialise_sparse_header(footer);
    bytes.insert(bytes.end(), header.begin(), header.end());
    const auto end = serialise_marker(Marker::EndOfStream, 0);
    bytes.insert(bytes.end(), end.begin(), end.end());
    STRATA_CO_TRY_VOID(co_await append(std::move(bytes)));
    co_return co_await file_->flush();
}

Task<> StreamWriter::close() {
    if (closed_) {
        co_return failure_.so_far();
    }
    closed_ = true;
    const Result<> done = co_await finish();
    const Result<> closed = failure_.keep(co_await file_->close());
    co_return done.ok() ? closed : done;
}

}  // namespace strata::block::vmdk
