// CountMap: a number for each cluster of an image file, in pages made when one of theirs is not 0.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>

namespace strata::block::qcow2 {

class CountMap {
  public:
    static constexpr std::uint64_t kPage = 4096;
    using Page = std::array<std::uint32_t, kPage>;

    [[nodiscard]] std::uint32_t get(std::uint64_t index) const {
        const Page* page = find(index / kPage);
        return page != nullptr ? (*page)[index % kPage] : 0;
    }
    void set(std::uint64_t index, std::uint32_t value) {
        if (value != 0 || find(index / kPage) != nullptr) {
            make(index / kPage)[index % kPage] = value;
        }
    }
    /// Stays at the largest number.
    void add(std::uint64_t index, std::uint64_t value) {
        std::uint32_t& place = make(index / kPage)[index % kPage];
        place = static_cast<std::uint32_t>(std::min<std::uint64_t>(0xFFFFFFFFU, place + value));
    }
    /// Same for `count` numbers, from `index` on.
    void add_run(std::uint64_t index, std::uint64_t count, std::uint64_t value) {
        while (count != 0) {
            const std::uint64_t first = index % kPage, here = std::min(count, kPage - first);
            Page& page = make(index / kPage);
            for (std::uint64_t i = first; i < first + here; ++i) {
                page[i] = static_cast<std::uint32_t>(
                    std::min<std::uint64_t>(0xFFFFFFFFU, page[i] + value));
            }
            index += here;
            count -= here;
        }
    }
    [[nodiscard]] const std::map<std::uint64_t, std::unique_ptr<Page>>& pages() const {
        return pages_;
    }

  private:
    Page* find(std::uint64_t number) const {
        if (number == last_number_) {
            return last_;
        }
        const auto found = pages_.find(number);
        if (found == pages_.end()) {
            return nullptr;
        }
        last_number_ = number;
        return last_ = found->second.get();
    }
    Page& make(std::uint64_t number) {
        if (Page* page = find(number)) {
            return *page;
        }
        auto& place = pages_[number];
        place = std::make_unique<Page>();
        place->fill(0);
        last_number_ = number;
        last_ = place.get();
        return *place;
    }
    std::map<std::uint64_t, std::unique_ptr<Page>> pages_;
    mutable std::uint64_t last_number_ = ~0ULL;
    mutable Page* last_ = nullptr;
};

}  // namespace strata::block::qcow2
