// MetaCache: the tables of an image in memory: pages read on demand, changes kept back until a
// flush brings them out in order.
//
// A store changes the page alone and marks its sectors (512 bytes) dirty, at a level. stage() takes
// a picture of all that is dirty; the owner then makes the data durable that the picture refers to,
// and write_staged() brings the picture out, level 0 first, with a flush of the file before each
// further level. So nothing on the disk ever refers to what is not there, and a page that is
// changed meanwhile waits for the next picture. Only dirty sectors are written: pages may touch
// data. One loop's thread. Dirty and staged pages stay; clean ones go, oldest first, beyond the
// limit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "block/node.h"

namespace strata::block {

class MetaCache {
  public:
    static constexpr std::size_t kPage = 4096, kSector = 512;
    static constexpr unsigned kLevels = 3;
    /// At most `limit` bytes of clean pages.
    explicit MetaCache(Node& file, std::size_t limit = 16U << 20)
        : file_(file), limit_(limit / kPage) {}

    /// The T at `offset`, if its page is here.
    template <typename T>
    [[nodiscard]] bool peek(std::uint64_t offset, T& value) {
        const std::uint64_t within = offset % kPage;
        Page* page = within + sizeof(T) <= kPage ? find(offset / kPage) : nullptr;
        if (page == nullptr) {
            return false;
        }
        std::memcpy(&value, page->bytes.data() + within, sizeof(T));
        return true;
    }
    /// The T at `offset`. What lies past the end of the file reads as zeros.
    template <typename T>
    Task<T> load(std::uint64_t offset) {
        T value{};
        if (!peek(offset, value)) {
            // SAFETY: T is trivially copyable wire data.
            STRATA_CO_TRY_VOID(
                co_await load_bytes(offset, std::as_writable_bytes(std::span<T, 1>(&value, 1))));
        }
        co_return value;
    }
    template <typename T>
    Task<> store(std::uint64_t offset, T value, unsigned level) {
        co_return co_await store_bytes(offset, std::as_bytes(std::span<const T, 1>(&value, 1)),
                                       level);
    }
    Task<> load_bytes(std::uint64_t offset, std::span<std::byte> into);
    Task<> store_bytes(std::uint64_t offset, std::span<const std::byte> from, unsigned level);

    enum class BitOrder : std::uint8_t { HighFirst, LowFirst };
    /// Of the bitmap at `offset`: how many of `count` bits from `bit` on are as the first one,
    /// which is `set` or not.
    Task<std::uint64_t> same_bits(std::uint64_t offset, std::uint64_t bit, std::uint64_t count,
                                  BitOrder order, bool& set);

    [[nodiscard]] std::size_t dirty_pages() const { return dirty_; }

    /// A picture of what is dirty.
    class Staged {
      public:
        [[nodiscard]] bool empty() const {
            return runs_[0].empty() && runs_[1].empty() && runs_[2].empty();
        }

      private:
        friend class MetaCache;
        struct Run {
            std::uint64_t offset = 0;
            std::vector<std::byte> bytes;
        };
        std::array<std::vector<Run>, kLevels> runs_;
        std::vector<std::pair<std::uint64_t, std::array<std::uint8_t, kLevels>>>
            pages_;  ///< number, sectors
    };
    Staged stage();
    /// Brings it out. The last level is not flushed: that is the owner's. What failed is dirty
    /// again.
    Task<> write_staged(Staged staged);
    /// Gives up: all of it is dirty again.
    void unstage(const Staged& staged);

  private:
    struct Page {
        std::array<std::byte, kPage> bytes{};
        std::array<std::uint8_t, kLevels> dirty{};
        unsigned staged = 0;
        std::uint64_t used = 0;
        [[nodiscard]] bool is_dirty() const { return (dirty[0] | dirty[1] | dirty[2]) != 0; }
    };
    [[nodiscard]] Page* find(std::uint64_t number);
    Task<> bring(std::uint64_t number);
    void make_room();

    Node& file_;
    const std::size_t limit_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Page>> pages_;
    Page* last_ = nullptr;
    std::uint64_t last_number_ = 0;
    std::uint64_t clock_ = 0;
    std::size_t dirty_ = 0;
};

}  // namespace strata::block
