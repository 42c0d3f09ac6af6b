// MetaCache: pages in, pages out.
#include "block/formats/common/meta_cache.h"

#include <algorithm>

namespace strata::block {

MetaCache::Page* MetaCache::find(std::uint64_t number) {
    if (last_ == nullptr || last_number_ != number) {
        const auto it = pages_.find(number);
        if (it == pages_.end()) {
            return nullptr;
        }
        last_ = it->second.get();
        last_number_ = number;
        last_->used = ++clock_;
    }
    return last_;
}

void MetaCache::make_room() {
    if (pages_.size() < limit_) {
        return;
    }
    // An eighth at once, the oldest: rare enough for a sort.
    std::vector<std::pair<std::uint64_t, std::uint64_t>> clean;
    for (const auto& [number, page] : pages_) {
        if (!page->is_dirty() && page->staged == 0) {
            clean.emplace_back(page->used, number);
        }
    }
    std::sort(clean.begin(), clean.end());
    clean.resize(std::min(clean.size(), limit_ / 8 + 1));
    for (const auto& [used, number] : clean) {
        pages_.erase(number);
    }
    last_ = nullptr;
}

Task<> MetaCache::bring(std::uint64_t number) {
    if (find(number) != nullptr) {
        co_return ok();
    }
    auto page = std::make_unique<Page>();
    STRATA_CO_TRY_VOID(
        co_await file_.read(number * kPage, Buffers(std::span<std::byte>(page->bytes))));
    if (find(number) == nullptr) {  // else another was quicker, and may have changed it since
        make_room();
        page->used = ++clock_;
        pages_.emplace(number, std::move(page));
    }
    co_return ok();
}

Task<> MetaCache::load_bytes(std::uint64_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
        const std::uint64_t within = offset % kPage;
        const std::size_t part = std::min<std::size_t>(into.size(), kPage - within);
        STRATA_CO_TRY_VOID(co_await bring(offset / kPage));
        const Page* page = find(offset / kPage);
        STRATA_CHECK(page != nullptr, "a page that was just brought is gone");
        std::memcpy(into.data(), page->bytes.data() + within, part);
        into = into.subspan(part);
        offset += part;
    }
    co_return ok();
}

Task<> MetaCache::store_bytes(std::uint64_t offset, std::span<const std::byte> from,
                              unsigned level) {
    while (!from.empty()) {
        const std::uint64_t within = offset % kPage;
        const std::size_t part = std::min<std::size_t>(from.size(), kPage - within);
        STRATA_CO_TRY_VOID(co_await bring(offset / kPage));
        Page* page = find(offset / kPage);
        STRATA_CHECK(page != nullptr, "a page that was just brought is gone");
        std::memcpy(page->bytes.data() + within, from.data(), part);
        dirty_ += page->is_dirty() ? 0 : 1;
        for (std::uint64_t sector = within / kSector; sector <= (within + part - 1) / kSector;
             ++sector) {
            page->dirty[level] = static_cast<std::uint8_t>(page->dirty[level] | 1U << sector);
        }
        from = from.subspan(part);
        offset += part;
    }
    co_return ok();
}

Task<std::uint64_t> MetaCache::same_bits(std::uint64_t offset, std::uint64_t bit,
                                         std::uint64_t count, BitOrder order, bool& set) {
    std::byte bits{};
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t at = bit + i;
        if (i == 0 || at % 8 == 0) {
            STRATA_CO_TRY(bits, co_await load<std::byte>(offset + at / 8));
        }
        const std::uint64_t shift = order == BitOrder::HighFirst ? 7 - at % 8 : at % 8;
        const bool here = (bits >> shift & std::byte{1}) != std::byte{0};
        if (i == 0) {
            set = here;
        } else if (here != set) {
            co_return i;
        }
    }
    co_return count;
}

MetaCache::Staged MetaCache::stage() {
    Staged staged;
    for (const auto& [number, page] : pages_) {
        if (page->is_dirty()) {
            staged.pages_.emplace_back(number, page->dirty);
        }
    }
    std::sort(staged.pages_.begin(), staged.pages_.end());
    for (const auto& [number, sectors] : staged.pages_) {
        Page& page = *pages_.at(number);
        page.dirty = {};
        ++page.staged;
        for (unsigned level = 0; level < kLevels; ++level) {
            for (unsigned sector = 0; sector < kPage / kSector; ++sector) {
                if ((sectors[level] >> sector & 1) == 0) {
                    continue;
                }
                auto& runs = staged.runs_[level];
                const std::uint64_t at = number * kPage + sector * kSector;
                if (runs.empty() || runs.back().offset + runs.back().bytes.size() != at) {
                    runs.push_back({at, {}});
                }
                const auto* bytes = page.bytes.data() + sector * kSector;
                runs.back().bytes.insert(runs.back().bytes.end(), bytes, bytes + kSector);
            }
        }
    }
    dirty_ = 0;
    return staged;
}

void MetaCache::unstage(const Staged& staged) {
    for (const auto& [number, sectors] : staged.pages_) {
        Page& page = *pages_.at(number);
        --page.staged;
        dirty_ += page.is_dirty() ? 0 : 1;
        for (unsigned level = 0; level < kLevels; ++level) {
            page.dirty[level] = static_cast<std::uint8_t>(page.dirty[level] | sectors[level]);
        }
    }
}

Task<> MetaCache::write_staged(Staged staged) {
    bool written = false;
    Result<> result = ok();
    for (const auto& runs : staged.runs_) {
        if (written && !runs.empty() && result.ok()) {
            result = co_await file_.flush();
        }
        for (const Staged::Run& run : runs) {
            if (result.ok()) {
                result = co_await file_.write(run.offset, Buffers::of(run.bytes));
                written = true;
            }
        }
    }
    if (!result.ok()) {
        unstage(staged);
        co_return result;
    }
    for (const auto& [number, sectors] : staged.pages_) {
        --pages_.at(number)->staged;
    }
    co_return result;
}

}  // namespace strata::block
