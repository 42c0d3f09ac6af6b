// ShadowMap: leaves of 512 pages, and merging of neighbours.
#include "engine/soft/direct/shadow_map.h"

#include <algorithm>

#include <sys/mman.h>

namespace strata::engine::soft {
namespace {

constexpr std::uint64_t kPopulate = 64;  // pages: longer runs are filled as they are touched

std::uint32_t protection(ShadowPage page) {
    const std::uint32_t rights = page.rights();
    return ((rights & ShadowPage::kRead) != 0 ? PROT_READ : 0U) |
           ((rights & ShadowPage::kWrite) != 0 ? PROT_WRITE : 0U) |
           ((rights & ShadowPage::kExecute) != 0 ? PROT_EXEC : 0U);
}

}  // namespace

ShadowPage ShadowMap::at(std::uint64_t page) const {
    const Leaf* found = leaf(page / kLeafPages);
    return found == nullptr ? ShadowPage() : (*found)[page % kLeafPages];
}

ShadowMap::Leaf* ShadowMap::leaf(std::uint64_t number) const {
    if (number != last_number_ || last_ == nullptr) {
        const auto found = leaves_.find(number);
        last_ = found == leaves_.end() ? nullptr : found->second.get();
        last_number_ = number;
    }
    return last_;
}

// Whether a mapping of the host begins at `page`.
bool ShadowMap::begins(std::uint64_t page) const {
    const ShadowPage entry = at(page);
    return entry.mapped() && (page == 0 || !at(page - 1).continues(entry));
}

void ShadowMap::set(std::uint64_t page, ShadowPage entry) {
    const std::uint64_t number = page / kLeafPages;
    Leaf* found = leaf(number);
    if (found == nullptr) {
        if (!entry.mapped()) {
            return;
        }
        leaves_[number] = std::make_unique<Leaf>();
        found = leaf(number);
    }
    ShadowPage& place = (*found)[page % kLeafPages];
    if (place == entry) {
        return;
    }
    runs_ -= (begins(page) ? 1U : 0U) + (begins(page + 1) ? 1U : 0U);
    pages_ += entry.mapped() ? 1U : 0U;
    pages_ -= place.mapped() ? 1U : 0U;
    place = entry;
    runs_ += (begins(page) ? 1U : 0U) + (begins(page + 1) ? 1U : 0U);
    changes_.push_back(page);
}

void ShadowMap::drop_empty() {
    last_ = nullptr;
    std::erase_if(leaves_, [](const auto& leaf) {
        return std::none_of(leaf.second->begin(), leaf.second->end(),
                            [](ShadowPage page) { return page.mapped(); });
    });
}

void ShadowMap::clear() {
    last_ = nullptr;
    leaves_.clear();
    changes_.clear();
    runs_ = pages_ = 0;
}

std::vector<StubMap> ShadowMap::take_orders() {
    std::sort(changes_.begin(), changes_.end());
    changes_.erase(std::unique(changes_.begin(), changes_.end()), changes_.end());
    std::vector<StubMap> orders;
    for (std::size_t i = 0; i < changes_.size();) {
        const ShadowPage first = at(changes_[i]);
        std::size_t end = i + 1;
        for (ShadowPage last = first;
             end < changes_.size() && changes_[end] == changes_[end - 1] + 1; ++end) {
            const ShadowPage next = at(changes_[end]);
            if (!last.continues(next)) {
                break;
            }
            last = next;
        }
        const std::uint64_t pages = end - i;
        const std::uint32_t populate = pages <= kPopulate ? MAP_POPULATE : 0U;
        orders.push_back({changes_[i] << 12U, pages << 12U, first.ram_page() << 12U,
                          protection(first),
                          first.mapped() ? MAP_SHARED | MAP_FIXED | populate : 0U});
        i = end;
    }
    changes_.clear();
    return orders;
}

}  // namespace strata::engine::soft
