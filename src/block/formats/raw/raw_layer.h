// RawLayer: a raw image as a layer.
#pragma once

#include <memory>
#include <string>

#include "block/layer.h"

namespace strata::block {

class RawLayer final : public Layer {
  public:
    static Result<std::unique_ptr<Layer>> open(DiskOptions options);
    [[nodiscard]] std::string_view name() const override { return name_; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] bool read_only() const override { return read_only_; }
    [[nodiscard]] Layer* backing() const override { return nullptr; }
    Result<> read(std::uint64_t offset, std::span<std::byte> into) override;
    Result<> write(std::uint64_t offset, std::span<const std::byte> from) override;
    Result<> write_zeroes(std::uint64_t offset, std::uint64_t length, bool unmap) override;
    Result<> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<> flush() override;
    Result<Extent> status(std::uint64_t offset, std::uint64_t length) override;

  private:
    RawLayer(std::string name, UniqueFd fd, std::uint64_t size, bool read_only)
        : name_(std::move(name)), fd_(std::move(fd)), size_(size), read_only_(read_only) {}
    Result<> check(std::uint64_t offset, std::uint64_t length, bool writing) const;
    const std::string name_;
    const UniqueFd fd_;
    const std::uint64_t size_;
    const bool read_only_;
};

}  // namespace strata::block
