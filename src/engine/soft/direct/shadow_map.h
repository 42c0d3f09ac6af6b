// ShadowMap: what one stub process has mapped: guest linear page to RAM page and rights, and the
// orders that make it so.
//
// The VMM's own book: nothing is asked back from the stub. Changes are entered here at once and
// gathered; take_orders() turns them into as few mmap and munmap calls as neighbouring pages allow.
// It also knows how many mappings of the host's kernel that makes, which has a limit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "engine/soft/direct/stub_layout.h"

namespace strata::engine::soft {

/// A page as mapped: RAM page number and rights, or nothing (0).
class ShadowPage {
  public:
    static constexpr std::uint32_t kRead = 1, kWrite = 2, kExecute = 4;
    constexpr ShadowPage() = default;
    /// `rights`: not 0. At most 2^28 RAM pages.
    constexpr ShadowPage(std::uint64_t ram_page, std::uint32_t rights)
        : word_(static_cast<std::uint32_t>(ram_page << 3U) | rights) {}
    [[nodiscard]] constexpr std::uint64_t ram_page() const { return word_ >> 3U; }
    [[nodiscard]] constexpr std::uint32_t rights() const { return word_ & 7U; }
    [[nodiscard]] constexpr bool mapped() const { return word_ != 0; }
    /// Whether `next`, one page up, can be part of the same mapping.
    [[nodiscard]] constexpr bool continues(ShadowPage next) const {
        return mapped() ? next.mapped() && next.word_ == word_ + 8 : !next.mapped();
    }
    bool operator==(const ShadowPage&) const = default;

  private:
    std::uint32_t word_ = 0;
};

class ShadowMap {
  public:
    static constexpr std::uint64_t kLeafPages = 512;
    using Leaf = std::array<ShadowPage, kLeafPages>;

    /// By linear page number (of the lower half).
    [[nodiscard]] ShadowPage at(std::uint64_t page) const;
    void set(std::uint64_t page, ShadowPage entry);
    /// By number of 2 MiB; nullptr: nothing was mapped there.
    [[nodiscard]] Leaf* leaf(std::uint64_t number) const;
    /// All pages that are mapped, region by region: visit(first page of the region, its Leaf). It
    /// may call set() for pages of that region.
    template <typename Visit>
    void for_each_leaf(Visit visit) {
        for (auto& [number, leaf] : leaves_) {
            visit(number * kLeafPages, *leaf);
        }
    }
    /// Frees regions that have nothing mapped.
    void drop_empty();
    /// Forgets everything, without orders: for a stub that had everything unmapped.
    void clear();
    /// The changes since the last call.
    [[nodiscard]] std::vector<StubMap> take_orders();
    [[nodiscard]] bool changed() const { return !changes_.empty(); }
    /// Mappings of the host's kernel, pages, and regions that hold any.
    [[nodiscard]] std::uint64_t runs() const { return runs_; }
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    [[nodiscard]] std::size_t leaves() const { return leaves_.size(); }

  private:
    [[nodiscard]] bool begins(std::uint64_t page) const;

    std::map<std::uint64_t, std::unique_ptr<Leaf>> leaves_;
    std::vector<std::uint64_t> changes_;
    std::uint64_t runs_ = 0;
    std::uint64_t pages_ = 0;
    // What leaf() found last: mostly neighbours are asked for.
    mutable std::uint64_t last_number_ = 0;
    mutable Leaf* last_ = nullptr;
};

}  // namespace strata::engine::soft
