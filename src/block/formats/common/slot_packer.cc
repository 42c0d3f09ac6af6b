// SlotPacker: zeros, moves, the end.
#include "block/formats/common/slot_packer.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "block/formats/common/wire.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kChunk = 1U << 20, kFirstLook = 64U << 10;
constexpr std::uint64_t kBatch = 32U << 20;  ///< bytes that move between two flushes
constexpr std::size_t kDrops = 4096;         ///< blocks that go between two flushes

Result<> bearing(Result<> done) {
    return !done.ok() && done.error().kind() == ErrorKind::NotSupported ? ok() : std::move(done);
}

}  // namespace

Task<bool> reads_as_zeros(Node& file, std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t end = std::min(offset + length, std::max(file.size(), offset));
    AlignedBuffer buffer;
    for (std::uint64_t chunk = kFirstLook; offset < end; chunk = kChunk) {
        STRATA_CO_TRY(const Extent extent, co_await file.status(offset, end - offset));
        std::uint64_t part = std::min(extent.length, end - offset);
        if (extent.kind == Extent::Kind::Data) {
            part = std::min(part, chunk);
            if (buffer.size() < part) {
                buffer = AlignedBuffer(part);
            }
            const auto bytes = buffer.bytes().first(part);
            STRATA_CO_TRY_VOID(co_await file.read(offset, Buffers(bytes)));
            if (!is_zero(bytes)) {
                co_return false;
            }
        }
        offset += part;
    }
    co_return true;
}

Task<> SlotTable::begin_packing() {
    co_return ok();
}

SlotPacker::SlotPacker(Node& node, SlotTable& table, CompactWatch watch)
    : node_(node), file_(*node.file()), table_(table), watch_(std::move(watch)), buffer_(kChunk) {}

void SlotPacker::advance(std::uint64_t bytes) {
    if (stop_.ok() && watch_.advance) {
        stop_ = watch_.advance(bytes);
    }
}

Task<> SlotPacker::survey() {
    for (std::uint64_t index = 0; index < layout_.blocks; ++index) {
        STRATA_CO_TRY(const auto slot, co_await table_.slot_of(index));
        if (slot) {
            blocks_.push_back({*slot, index});
        }
        if (index % 4096 == 4095) {
            co_await node_.loop().yield();
        }
    }
    std::ranges::sort(blocks_, {}, &Block::slot);
    co_return check_places();
}

/// No two things lie in one place: moving one would take the other along.
Result<> SlotPacker::check_places() const {
    const auto damaged = [&](std::string_view what, const Block& block) {
        return Error{
            ErrorKind::Failed,
            fmt::format("'{}' is damaged and cannot be compacted: the block at {}, which "
                        "lies at {} of the file, {}",
                        node_.name(), block.index * node_.traits().cluster_size, block.slot, what),
            EIO};
    };
    std::uint64_t end = 0;
    for (const Block& each : blocks_) {
        if (each.slot < end) {
            return damaged("has its place together with another", each);
        }
        if (each.slot >= file_.size()) {
            return damaged("is past its end", each);
        }
        end = each.slot + layout_.bytes;
    }
    for (const auto& [offset, length] : layout_.fixed) {
        const auto next = std::ranges::upper_bound(blocks_, offset, {}, &Block::slot);
        if (next != blocks_.begin() && (next - 1)->slot + layout_.bytes > offset && length != 0) {
            return damaged("lies on tables", *(next - 1));
        }
        if (next != blocks_.end() && next->slot - offset < length) {
            return damaged("lies on tables", *next);
        }
    }
    return ok();
}

Task<> SlotPacker::give_back(std::uint64_t slot) {
    if (!node_.traits().discard) {
        co_return ok();
    }
    co_return bearing(co_await file_.discard(slot, layout_.bytes));
}

/// Durable: then their slots are nobody's.
Task<> SlotPacker::end_drops(std::vector<std::uint64_t>& dropped) {
    STRATA_CO_TRY_VOID(co_await node_.flush());
    for (const std::uint64_t slot : dropped) {
        STRATA_CO_TRY_VOID(co_await give_back(slot));
    }
    dropped.clear();
    co_return ok();
}

Task<> SlotPacker::drop_zeroes() {
    if (watch_.begin) {
        watch_.begin(blocks_.size() * layout_.bytes);
    }
    std::vector<std::uint64_t> dropped;
    for (Block& each : blocks_) {
        if (watch_.look && stop_.ok()) {
            stop_ = co_await watch_.look(layout_.bytes);
        }
        if (!stop_.ok()) {
            break;
        }
        STRATA_CO_TRY(const bool gone, co_await table_.expendable(each.slot));
        if (gone) {
            STRATA_CO_TRY_VOID(co_await table_.set_slot(each.index, 0));
            report_.zeroes += layout_.bytes - table_.slot_head();
            dropped.push_back(std::exchange(each.slot, 0));
        }
        if (dropped.size() == kDrops) {
            STRATA_CO_TRY_VOID(co_await end_drops(dropped));
        }
        advance(layout_.bytes);
    }
    STRATA_CO_TRY_VOID(co_await end_drops(dropped));
    std::erase_if(blocks_, [](const Block& each) { return each.slot == 0; });
    co_return ok();
}

/// Begin and end of what nobody has, between the parts of the file.
std::vector<std::pair<std::uint64_t, std::uint64_t>> SlotPacker::gaps() const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> used = layout_.fixed;
    for (const Block& each : blocks_) {
        used.emplace_back(each.slot, layout_.bytes);
    }
    std::ranges::sort(used);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> gaps;
    std::uint64_t end = layout_.base;
    for (const auto& [offset, length] : used) {
        if (offset > end) {
            gaps.emplace_back(end, offset);
        }
        end = std::max(end, offset + length);
    }
    return gaps;
}

/// The last blocks into the first gaps that hold them.
std::vector<SlotPacker::Move> SlotPacker::plan() const {
    std::vector<Move> moves;
    std::size_t block = blocks_.size();
    for (auto [begin, end] : gaps()) {
        begin = layout_.base + round_up(begin - layout_.base, layout_.step);
        while (block != 0 && begin + layout_.bytes <= end && begin < blocks_[block - 1].slot) {
            moves.push_back({--block, begin});
            begin = layout_.base + round_up(begin + layout_.bytes - layout_.base, layout_.step);
        }
    }
    return moves;
}

Task<> SlotPacker::copy(std::uint64_t from, std::uint64_t to) {
    STRATA_CO_TRY_VOID(co_await table_.copy_slot_head(from, to));
    for (std::uint64_t done = table_.slot_head(); done < layout_.bytes;) {
        const std::uint64_t at = from + done;
        std::uint64_t part = layout_.bytes - done;
        bool data = at < file_.size();
        if (data) {
            part = std::min(part, file_.size() - at);
            STRATA_CO_TRY(const Extent extent, co_await file_.status(at, part));
            part = std::min(part, extent.length);
            data = extent.kind == Extent::Kind::Data;
        }
        if (data) {
            part = std::min(part, buffer_.size());
            const auto bytes = buffer_.bytes().first(part);
            STRATA_CO_TRY_VOID(co_await file_.read(at, Buffers(bytes)));
            STRATA_CO_TRY_VOID(co_await file_.write(to + done, Buffers(bytes)));
        } else {
            STRATA_CO_TRY_VOID(
                co_await file_.write_zeroes(to + done, part, ZeroOptions{.may_unmap = true}));
        }
        done += part;
    }
    co_return ok();
}

Task<> SlotPacker::move_blocks() {
    const std::vector<Move> moves = plan();
    if (watch_.begin) {
        watch_.begin(moves.size() * layout_.bytes);
    }
    const std::size_t batch = std::max<std::size_t>(1, kBatch / layout_.bytes);
    for (std::size_t at = 0; at < moves.size() && stop_.ok();) {
        const std::size_t end = std::min(at + batch, moves.size());
        std::vector<std::uint64_t> left;
        for (std::size_t i = at; i < end; ++i) {
            if (watch_.look) {
                stop_ = co_await watch_.look(layout_.bytes);
            }
            if (!stop_.ok()) {
                break;
            }
            Block& block = blocks_[moves[i].block];
            STRATA_CO_TRY_VOID(co_await copy(block.slot, moves[i].to));
            STRATA_CO_TRY_VOID(co_await table_.set_slot(block.index, moves[i].to));
            left.push_back(std::exchange(block.slot, moves[i].to));
        }
        STRATA_CO_TRY_VOID(co_await node_.flush());
        for (const std::uint64_t slot : left) {
            STRATA_CO_TRY_VOID(co_await give_back(slot));
            report_.moved += layout_.bytes;
            advance(layout_.bytes);
        }
        at = end;
    }
    co_return ok();
}

std::uint64_t SlotPacker::end() const {
    std::uint64_t end = layout_.base;
    for (const auto& [offset, length] : layout_.fixed) {
        end = std::max(end, offset + length);
    }
    for (const Block& each : blocks_) {
        end = std::max(end, each.slot + layout_.bytes);
    }
    return end;
}

Task<CompactReport> SlotPacker::run() {
    STRATA_CO_TRY_VOID(co_await node_.flush());
    STRATA_CO_TRY(layout_, co_await table_.slot_layout());
    STRATA_CO_TRY_VOID(co_await survey());
    STRATA_CO_TRY_VOID(co_await table_.begin_packing());
    STRATA_CO_TRY_VOID(co_await drop_zeroes());
    if (stop_.ok()) {
        STRATA_CO_TRY_VOID(co_await move_blocks());
    }
    STRATA_CO_TRY_VOID(co_await table_.cut_file(end()));
    STRATA_CO_TRY_VOID(stop_);
    co_return report_;
}

}  // namespace strata::block
