// NullNode: a disk of nothing: writes are dropped, reads answer zeros. For measurements of what
// lies above, and for tests.
//
// Names and options are QEMU's: null-co and null-aio (no difference here), size (1 GiB),
// latency-ns, read-zeroes. Without read-zeroes nothing says that the zeros are zeros: status()
// calls them data.
#pragma once

#include <chrono>

#include "block/node.h"
#include "block/registry.h"

namespace strata::block::null {

struct Options {
    std::uint64_t size = 1ULL << 30;
    std::chrono::nanoseconds latency{0};
    bool read_zeroes = false;
};

class NullNode final : public Node {
  public:
    NullNode(Loop& loop, std::string_view driver, Options options, bool read_only);
    [[nodiscard]] std::string_view format() const override { return driver_; }
    [[nodiscard]] std::uint64_t size() const override { return options_.size; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override { co_return ok(); }
    Task<std::uint64_t> allocated_bytes() override { co_return std::uint64_t{0}; }

  private:
    Task<> delay();
    const std::string_view driver_;
    const Options options_;
    NodeTraits traits_;
};

const NodeDriver& driver();
const NodeDriver& aio_driver();

}  // namespace strata::block::null
