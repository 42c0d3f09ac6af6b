// ChunkMap: a bit for each chunk of a disk, and how many are set.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "block/image_info.h"

namespace strata::block {

class ChunkMap {
  public:
    /// `chunk` is a power of two.
    ChunkMap(std::uint64_t size, std::uint64_t chunk)
        : size_(size), chunk_(chunk), chunks_(size / chunk + (size % chunk != 0 ? 1 : 0)) {
        words_.resize((chunks_ + 63) / 64);
    }
    [[nodiscard]] std::uint64_t chunk() const { return chunk_; }
    [[nodiscard]] std::uint64_t chunks() const { return chunks_; }
    [[nodiscard]] std::uint64_t count() const { return count_; }
    /// Bytes in set chunks, the last one counted whole.
    [[nodiscard]] std::uint64_t bytes() const { return count_ * chunk_; }
    [[nodiscard]] bool test(std::uint64_t index) const {
        return (words_[index / 64] >> (index % 64) & 1U) != 0;
    }
    void set(std::uint64_t index) {
        count_ += test(index) ? 0 : 1;
        words_[index / 64] |= 1ULL << (index % 64);
    }
    void clear(std::uint64_t index) {
        count_ -= test(index) ? 1 : 0;
        words_[index / 64] &= ~(1ULL << (index % 64));
    }
    void set_all() {
        for (std::uint64_t index = 0; index < chunks_; ++index) {
            set(index);
        }
    }
    /// Every chunk that has a byte of the range; what lies beyond the disk is left out.
    void set_range(std::uint64_t offset, std::uint64_t length) {
        for (std::uint64_t at = offset / chunk_;
             length != 0 && at < chunks_ && at <= (offset + length - 1) / chunk_; ++at) {
            set(at);
        }
    }
    /// Every chunk that has a dirty byte.
    void set_from(const Bitmap& bitmap) {
        for (std::uint64_t bit = 0; bit / 64 < bitmap.bits.size(); ++bit) {
            if ((bitmap.bits[bit / 64] >> (bit % 64) & 1U) != 0) {
                set_range(bit * bitmap.info.granularity, bitmap.info.granularity);
            }
        }
    }
    /// The first set chunk from `index` on, from the start again at the end; chunks() if none is.
    [[nodiscard]] std::uint64_t next(std::uint64_t index) const {
        if (count_ == 0) {
            return chunks_;
        }
        const std::uint64_t found = next_before(index < chunks_ ? index : 0, chunks_);
        return found != chunks_ ? found : next_before(0, chunks_);
    }
    /// How far the run of set chunks from `index` reaches, at most `most` of them.
    [[nodiscard]] std::uint64_t run(std::uint64_t index, std::uint64_t most) const {
        std::uint64_t length = 0;
        while (length < most && index + length < chunks_ && test(index + length)) {
            ++length;
        }
        return length;
    }
    [[nodiscard]] std::uint64_t offset_of(std::uint64_t index) const { return index * chunk_; }
    /// Where the run of `count` chunks from `index` ends, at most the disk's end.
    [[nodiscard]] std::uint64_t end_of(std::uint64_t index, std::uint64_t count) const {
        const std::uint64_t end = (index + count) * chunk_;
        return end < size_ ? end : size_;
    }

  private:
    [[nodiscard]] std::uint64_t next_before(std::uint64_t index, std::uint64_t end) const {
        while (index < end) {
            const std::uint64_t word = words_[index / 64] >> (index % 64);
            if (word != 0) {
                return index + static_cast<std::uint64_t>(std::countr_zero(word));
            }
            index = (index / 64 + 1) * 64;
        }
        return end;
    }

    const std::uint64_t size_, chunk_, chunks_;
    std::uint64_t count_ = 0;
    std::vector<std::uint64_t> words_;
};

}  // namespace strata::block
