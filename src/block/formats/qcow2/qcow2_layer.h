// Qcow2Layer: reads and writes of a qcow2 image and its chain.
//
// Reads and writes in place run side by side; whatever changes the tables runs alone, so that no cluster is freed or
// moved under a transfer.
// Not yet: encryption, external data files, writing images with dirty refcounts; they are refused by name.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "block/formats/qcow2/metadata.h"
#include "block/layer.h"

namespace strata::block::qcow2 {

class Qcow2Layer final : public Layer {
  public:
    /// `depth`: how many layers are above.
    static Result<std::unique_ptr<Qcow2Layer>> open(DiskOptions options, unsigned depth);
    ~Qcow2Layer() override;
    [[nodiscard]] std::string_view name() const override { return name_; }
    [[nodiscard]] std::uint64_t size() const override { return header_.size; }
    [[nodiscard]] bool read_only() const override { return read_only_; }
    [[nodiscard]] Layer* backing() const override { return backing_.get(); }
    Result<> read(std::uint64_t offset, std::span<std::byte> into) override;
    Result<> write(std::uint64_t offset, std::span<const std::byte> from) override;
    Result<> write_zeroes(std::uint64_t offset, std::uint64_t length, bool unmap) override;
    Result<> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<> flush() override;
    Result<Extent> status(std::uint64_t offset, std::uint64_t length) override;

  private:
    Qcow2Layer(std::string name, UniqueFd fd, std::unique_ptr<Metadata> metadata, std::unique_ptr<Layer> backing, bool read_only)
        : name_(std::move(name)),
          fd_(std::move(fd)),
          metadata_(std::move(metadata)),
          header_(metadata_->header()),
          backing_(std::move(backing)),
          read_only_(read_only) {}
    Result<> check(std::uint64_t offset, std::uint64_t length, bool writing) const;
    Result<Mapping> look_up(std::uint64_t offset);
    Result<> read_piece(std::uint64_t offset, std::span<std::byte> into, const Mapping& mapping);
    Result<> read_subclusters(std::uint64_t offset, std::span<std::byte> into, const Mapping& mapping);
    Result<> read_compressed(std::uint64_t offset, std::span<std::byte> into, const Mapping& mapping);
    Result<> read_below(std::uint64_t offset, std::span<std::byte> into);
    Result<bool> write_in_place(std::uint64_t offset, std::span<const std::byte> from);
    Result<> write_piece(std::uint64_t offset, std::span<const std::byte> from);
    Result<> replace(std::uint64_t offset, std::span<const std::byte> content, const Mapping& old);
    Result<> zero_cluster(std::uint64_t offset);
    [[nodiscard]] bool in_place(const Mapping& mapping) const;

    const std::string name_;
    const UniqueFd fd_;
    const std::unique_ptr<Metadata> metadata_;
    const Header header_;  ///< what does not change while it is open
    const std::unique_ptr<Layer> backing_;
    const bool read_only_;
    std::shared_mutex gate_;  ///< exclusive: the tables change
    std::mutex lookup_;       ///< the caches, among those who share gate_
};

}  // namespace strata::block::qcow2
