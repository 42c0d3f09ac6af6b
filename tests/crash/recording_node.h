// RecordingNode: a file in memory that records every change and flush, and can tell what a loss of
// power leaves of it at any moment.
//
// On request some changes fail, wholly or half done, as those of a full or failing disk.
// The files of an image in several share a clock, so that a moment is one of all of them.
// A change is durable once a flush that began after its completion has ended. Of the others a crash
// leaves any part: each one wholly, in some of its sectors, or not at all.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "block/node.h"

namespace strata::block {

class RecordingNode final : public Node {
  public:
    using Clock = std::shared_ptr<std::size_t>;
    RecordingNode(Loop& loop, std::string name, std::vector<std::byte> content, unsigned seed,
                  Clock clock = std::make_shared<std::size_t>(0));
    [[nodiscard]] std::string_view format() const override { return "file"; }
    [[nodiscard]] std::uint64_t size() const override { return content_.size(); }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<> resize(std::uint64_t size, Preallocation preallocation) override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override { return flush(); }

    /// What a discard leaves. Formats whose disk shows the file's own bytes get zeros, as a host's
    /// file has them.
    void discard_as(std::byte left) { discarded_ = left; }
    /// One change in `each` fails from now on; 0: none.
    void fail_one_in(unsigned each) { fail_ = each; }
    /// Moments so far: a crash may be asked for at each, from 0 on.
    [[nodiscard]] std::size_t now() const { return *clock_; }
    /// What a crash at `moment` leaves; `random` says of what was not durable.
    [[nodiscard]] std::vector<std::byte> after_crash(std::size_t moment,
                                                     std::mt19937& random) const;
    [[nodiscard]] const std::vector<std::byte>& content() const { return content_; }

  private:
    struct Change {
        std::size_t begun = 0, ended = ~std::size_t{0}, durable = ~std::size_t{0};
        std::uint64_t offset = 0;
        std::vector<std::byte> bytes;
        bool cut = false;  ///< the file ends at `offset`
    };
    Task<> change(std::uint64_t offset, std::vector<std::byte> bytes);
    Task<> some_turns();

    NodeTraits traits_;
    const std::vector<std::byte> start_;
    std::vector<std::byte> content_;
    std::vector<Change> changes_;
    const Clock clock_;
    std::size_t settled_ = 0;  ///< changes before settled_ are durable
    std::mt19937 random_;
    std::byte discarded_{0xDD};
    unsigned fail_ = 0;
};

}  // namespace strata::block
