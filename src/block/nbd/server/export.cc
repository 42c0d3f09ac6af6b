// Export: flags, block status.
#include "block/nbd/server/export.h"

#include <algorithm>

#include <fmt/format.h>

namespace strata::block::nbd {

Task<std::shared_ptr<Export>> Export::create(NodePtr node, ExportOptions options) {
    if (options.name.size() > kMaxString || options.description.size() > kMaxString) {
        co_return Error{
            ErrorKind::InvalidArgument,
            fmt::format("an export's name and description have at most {} bytes", kMaxString)};
    }
    options.read_only |= node->traits().read_only;
    std::shared_ptr<Export> made(new Export(std::move(node), std::move(options)));
    made->contexts_.emplace_back(kAllocationContext);
    if (made->options_.allocation_depth) {
        made->contexts_.emplace_back(kDepthContext);
    }
    made->first_bitmap_ = made->contexts_.size();
    for (const std::string& name : made->options_.bitmaps) {
        STRATA_CO_TRY_VOID(co_await made->load_bitmap(name));
    }
    co_return made;
}

Task<> Export::load_bitmap(std::string name) {
    for (Node* layer = node_.get(); layer != nullptr; layer = layer->backing()) {
        STRATA_CO_TRY(const std::vector<BitmapInfo> all, co_await layer->bitmaps());
        const auto found = std::ranges::find(all, name, &BitmapInfo::name);
        if (found == all.end()) {
            continue;
        }
        if (found->in_use) {
            co_return Error{ErrorKind::WrongState,
                            fmt::format("Bitmap '{}' is inconsistent and cannot be used", name)};
        }
        if (options_.read_only && !layer->traits().read_only && found->automatic) {
            co_return Error{
                ErrorKind::InvalidArgument,
                fmt::format("Enabled bitmap '{}' incompatible with readonly export", name)};
        }
        STRATA_CO_TRY(Bitmap bitmap, co_await layer->read_bitmap(name));
        bitmaps_.push_back(std::move(bitmap));
        contexts_.push_back(fmt::format("{}{}", kBitmapContext, name));
        co_return ok();
    }
    co_return Error{ErrorKind::NotFound, fmt::format("Bitmap '{}' is not found", name)};
}

std::uint16_t Export::flags(bool structured) const {
    unsigned flags = kHasFlags | kSendFlush | kSendFua | kSendCache;
    flags |= options_.read_only ? kReadOnly : kSendTrim | kSendWriteZeroes | kSendFastZero;
    flags |= options_.multi_conn ? kCanMultiConn : 0;
    flags |= structured ? kSendDf : 0;
    return static_cast<std::uint16_t>(flags);
}

Task<StatusDescriptor> Export::allocation(std::size_t context, std::uint64_t offset,
                                          std::uint32_t length) {
    unsigned depth = 0;
    STRATA_CO_TRY(const Extent extent,
                  co_await status_of_chain(*node_, nullptr, offset, length, &depth));
    const bool data = extent.kind == Extent::Kind::Data;
    std::uint32_t flags = data ? 0 : kStateHole | kStateZero;
    if (context != 0) {
        flags = extent.kind == Extent::Kind::Unallocated || extent.owner == nullptr ? 0 : depth + 1;
    }
    co_return StatusDescriptor{static_cast<std::uint32_t>(extent.length), flags};
}

StatusDescriptor Export::dirty(const Bitmap& bitmap, std::uint64_t offset,
                               std::uint32_t length) const {
    const std::uint64_t unit = bitmap.info.granularity, end = offset + length;
    const auto bit = [&](std::uint64_t at) {
        const std::uint64_t index = at / unit;
        return index / 64 < bitmap.bits.size() &&
               (bitmap.bits[index / 64] >> (index % 64) & 1) != 0;
    };
    const bool set = bit(offset);
    std::uint64_t at = (offset / unit + 1) * unit;
    while (at < end && bit(at) == set) {
        const std::uint64_t word = at / unit / 64;
        const bool whole = at / unit % 64 == 0 && word < bitmap.bits.size() &&
                           bitmap.bits[word] == (set ? ~0ULL : 0);
        at += whole ? unit * 64 : unit;
    }
    return {static_cast<std::uint32_t>(std::min(at, end) - offset), set ? 1U : 0U};
}

Task<std::vector<StatusDescriptor>> Export::status(std::size_t context, std::uint64_t offset,
                                                   std::uint32_t length, std::size_t limit) {
    std::vector<StatusDescriptor> all;
    unsigned turns = 0;
    for (std::uint64_t done = 0; done < length;) {
        const auto left = static_cast<std::uint32_t>(length - done);
        StatusDescriptor next{};
        if (context >= first_bitmap_) {
            next = dirty(bitmaps_[context - first_bitmap_], offset + done, left);
        } else {
            STRATA_CO_TRY(next, co_await allocation(context, offset + done, left));
        }
        const auto rest = static_cast<std::uint32_t>((done + next.length) % options_.minimum_block);
        if (context == 0 && rest != 0 && done + next.length < length) {
            // Blocks are not taken apart: what ends within one goes on to its end, as data if need
            // be.
            const bool whole = next.length > rest;
            next.length =
                whole ? next.length - rest
                      : std::min<std::uint32_t>(next.length + options_.minimum_block - rest, left);
            next.flags = whole ? next.flags : Be32(0U);
        }
        done += next.length;
        if (!all.empty() && all.back().flags == next.flags) {
            all.back().length = all.back().length + next.length;
        } else if (all.size() == limit) {
            break;
        } else {
            all.push_back(next);
        }
        if (++turns % 256 == 0) {
            co_await node_->loop().yield();
            if (turns >= 16 * kMaxExtents) {
                break;  // long enough for one request; the client asks on from here
            }
        }
    }
    co_return all;
}

void Export::note_write(std::uint64_t offset, std::uint64_t length) {
    for (Bitmap& bitmap : bitmaps_) {
        if (!bitmap.info.automatic || length == 0) {
            continue;
        }
        const std::uint64_t last = (offset + length - 1) / bitmap.info.granularity;
        for (std::uint64_t index = offset / bitmap.info.granularity;
             index <= last && index / 64 < bitmap.bits.size(); ++index) {
            bitmap.bits[index / 64] |= 1ULL << (index % 64);
        }
    }
}

}  // namespace strata::block::nbd
