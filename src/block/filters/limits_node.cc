// LimitsNode: rounding and cutting.
#include "block/filters/limits_node.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <vector>

#include <fmt/format.h>

namespace strata::block {
namespace {

constexpr std::uint64_t kPiece = 1U << 20;  ///< of what is written out or read around

bool multiple(std::uint64_t value, std::uint64_t unit) {
    return unit == 0 || value % unit == 0;
}

Result<std::uint64_t> take_limit(NodeTree& options, std::string_view name, std::uint64_t unit) {
    const std::uint64_t value = STRATA_TRY(options.take_size(name, 0));
    if (value >= INT_MAX || !multiple(value, std::max<std::uint64_t>(unit, 1))) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("Cannot meet constraints with {} {}", name, value), EINVAL};
    }
    return value;
}

}  // namespace

Result<Limits> Limits::take(NodeTree& options) {
    Limits limits;
    limits.align = STRATA_TRY(take_limit(options, "align", 1));
    if (limits.align != 0 && !std::has_single_bit(limits.align)) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("Cannot meet constraints with align {}", limits.align), EINVAL};
    }
    limits.max_transfer = STRATA_TRY(take_limit(options, "max-transfer", limits.align));
    limits.zero_unit = STRATA_TRY(take_limit(options, "opt-write-zero", limits.align));
    limits.max_zero =
        STRATA_TRY(take_limit(options, "max-write-zero", std::max(limits.zero_unit, limits.align)));
    limits.discard_unit = STRATA_TRY(take_limit(options, "opt-discard", limits.align));
    limits.max_discard =
        STRATA_TRY(take_limit(options, "max-discard", std::max(limits.discard_unit, limits.align)));
    return limits;
}

LimitsNode::LimitsNode(NodePtr child, std::string_view driver, const Limits& limits)
    : FilterNode(std::move(child)),
      driver_(driver),
      limits_(limits),
      traits_(FilterNode::traits()),
      gate_(loop()) {
    traits_.request_alignment =
        std::max(traits_.request_alignment, static_cast<std::uint32_t>(limits_.align));
    traits_.max_transfer = limits_.max_transfer;
}

bool LimitsNode::aligned(std::uint64_t offset, std::uint64_t length) const {
    return multiple(offset, limits_.align) &&
           (multiple(offset + length, limits_.align) || offset + length == size());
}

std::uint64_t LimitsNode::block_end(std::uint64_t end) const {
    const std::uint64_t rounded = (end + limits_.align - 1) / limits_.align * limits_.align;
    return std::min(rounded, std::max(end, size()));
}

Task<> LimitsNode::read_cut(std::uint64_t offset, Buffers into) {
    const std::uint64_t most = limits_.max_transfer != 0 ? limits_.max_transfer : into.size();
    for (std::uint64_t done = 0; done < into.size(); done += most) {
        STRATA_CO_TRY_VOID(co_await child().read(
            offset + done, into.slice(done, std::min<std::uint64_t>(most, into.size() - done))));
    }
    co_return ok();
}

Task<> LimitsNode::read(std::uint64_t offset, Buffers into) {
    if (aligned(offset, into.size())) {
        co_return co_await read_cut(offset, into);
    }
    const std::uint64_t start = offset / limits_.align * limits_.align;
    std::vector<std::byte> bytes(block_end(offset + into.size()) - start);
    STRATA_CO_TRY_VOID(co_await read_cut(start, Buffers(std::span(bytes))));
    into.copy_from(std::span(bytes).subspan(offset - start));
    co_return ok();
}

Task<> LimitsNode::write_cut(std::uint64_t offset, Buffers from) {
    const std::uint64_t most = limits_.max_transfer != 0 ? limits_.max_transfer : from.size();
    for (std::uint64_t done = 0; done < from.size(); done += most) {
        STRATA_CO_TRY_VOID(co_await child().write(
            offset + done, from.slice(done, std::min<std::uint64_t>(most, from.size() - done))));
    }
    co_return ok();
}

Task<> LimitsNode::write_around(std::uint64_t offset, Buffers from) {
    STRATA_CO_TRY(const auto alone, co_await gate_.exclusive());
    const std::uint64_t start = offset / limits_.align * limits_.align;
    std::vector<std::byte> bytes(block_end(offset + from.size()) - start);
    note(NodeEvent::PwritevRmwHead);
    STRATA_CO_TRY_VOID(co_await read_cut(start, Buffers(std::span(bytes))));
    note(NodeEvent::PwritevRmwAfterHead);
    from.copy_to(std::span(bytes).subspan(offset - start));
    co_return co_await write_cut(start, Buffers::of(bytes));
}

Task<> LimitsNode::write(std::uint64_t offset, Buffers from) {
    if (!aligned(offset, from.size())) {
        co_return co_await write_around(offset, from);
    }
    STRATA_CO_TRY(const auto pass, co_await gate_.shared());
    co_return co_await write_cut(offset, from);
}

Task<> LimitsNode::write_out_zeroes(std::uint64_t offset, std::uint64_t length) {
    const std::vector<std::byte> zeros(std::min(length, kPiece));
    for (std::uint64_t done = 0; done < length; done += kPiece) {
        const std::uint64_t part = std::min(kPiece, length - done);
        STRATA_CO_TRY_VOID(
            co_await write(offset + done, Buffers::of(std::span(zeros).first(part))));
    }
    co_return ok();
}

Task<> LimitsNode::write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) {
    const std::uint64_t unit = std::max({limits_.zero_unit, limits_.align, std::uint64_t{1}});
    const std::uint64_t end = offset + length;
    const std::uint64_t first = (offset + unit - 1) / unit * unit,
                        last = end == size() ? end : end / unit * unit;
    if (options.no_fallback && (first != offset || last != end)) {
        co_return lacks("zeroing of parts");
    }
    if (first >= last) {
        co_return co_await write_out_zeroes(offset, length);
    }
    STRATA_CO_TRY_VOID(co_await write_out_zeroes(offset, first - offset));
    const std::uint64_t most = limits_.max_zero != 0 ? limits_.max_zero : last - first;
    for (std::uint64_t at = first; at < last; at += most) {
        STRATA_CO_TRY_VOID(co_await child().write_zeroes(at, std::min(most, last - at), options));
    }
    co_return co_await write_out_zeroes(last, end - last);
}

Task<> LimitsNode::discard(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t unit = std::max({limits_.discard_unit, limits_.align, std::uint64_t{1}});
    const std::uint64_t end = offset + length;
    const std::uint64_t first = (offset + unit - 1) / unit * unit,
                        last = end == size() ? end : end / unit * unit;
    const std::uint64_t most = limits_.max_discard != 0 ? limits_.max_discard : length;
    for (std::uint64_t at = first; at < last; at += most) {
        STRATA_CO_TRY_VOID(co_await child().discard(at, std::min(most, last - at)));
    }
    co_return ok();
}

Task<Extent> LimitsNode::status(std::uint64_t offset, std::uint64_t length) {
    STRATA_CO_TRY(Extent extent, co_await child().status(offset, length));
    const std::uint64_t end = offset + extent.length;
    if (extent.length == length || multiple(end, limits_.align)) {
        co_return extent;
    }
    if (const std::uint64_t whole = end / limits_.align * limits_.align; whole > offset) {
        extent.length = whole - offset;
        co_return extent;
    }
    // The stretch ends inside a block: the block is what all its parts are together, at worst data.
    co_return Extent{.kind = Extent::Kind::Data,
                     .length = std::min(length, block_end(offset + 1) - offset),
                     .owner = this};
}

}  // namespace strata::block
