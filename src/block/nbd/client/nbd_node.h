// NbdNode: an NBD server's export as a protocol node.
//
// Requests are cut to what the server takes; if it wants blocks, parts of them are read and written
// back under a gate. When the connection breaks, requests under way wait for a new one as long as
// reconnect-delay says and are sent again: all of them may be carried out twice without harm. The
// new server must show the same disk (its size and what it allows). status() keeps what the server
// told beyond the range that was asked for, until something is written or a second has passed.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "block/nbd/client/connection.h"
#include "block/nbd/connector.h"
#include "block/node.h"

namespace strata::block::nbd {

class NbdNode final : public Node {
  public:
    /// Connects to `location`, trying again for its open-timeout.
    /// `connector`: who makes connections; null: this process.
    static Task<NodePtr> open(Loop& loop, Location location, bool read_only,
                              std::shared_ptr<Connector> connector = nullptr);

    [[nodiscard]] std::string_view format() const override { return "nbd"; }
    [[nodiscard]] std::uint64_t size() const override { return info_.size; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    Task<> read(std::uint64_t offset, Buffers into) override;
    Task<> write(std::uint64_t offset, Buffers from) override;
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length, ZeroOptions options) override;
    Task<> discard(std::uint64_t offset, std::uint64_t length) override;
    Task<> flush() override;
    Task<Extent> status(std::uint64_t offset, std::uint64_t length) override;
    Task<> close() override;
    Task<> resize(std::uint64_t size, Preallocation preallocation) override;
    Task<std::uint64_t> allocated_bytes() override;

    [[nodiscard]] const ExportInfo& info_of_export() const { return info_; }
    [[nodiscard]] const Location& location() const { return location_; }

  private:
    NbdNode(Loop& loop, Location location, std::shared_ptr<const TlsCredentials> tls,
            std::shared_ptr<Connector> connector, bool read_only);
    Task<std::shared_ptr<Connection>> make_connection();
    Task<> first_connection();
    void learn(const Agreement& agreement);
    Task<std::shared_ptr<Connection>> connected();
    Task<std::shared_ptr<Connection>> reconnect();
    [[nodiscard]] Result<> same_disk(const Agreement& agreement) const;
    Task<> call(Connection::Command command, std::vector<StatusDescriptor>* status = nullptr);
    /// A command over a range, cut into parts of at most `limit` bytes.
    Task<> over_range(CommandType type, std::uint16_t flags, std::uint64_t offset,
                      std::uint64_t length, std::uint64_t limit);
    Task<> transfer(CommandType type, std::uint64_t offset, Buffers buffers);
    Task<> read_in_blocks(std::uint64_t offset, Buffers into);
    Task<> write_in_blocks(std::uint64_t offset, Buffers from);
    Task<> write_out_zeroes(std::uint64_t offset, std::uint64_t length);
    [[nodiscard]] bool aligned(std::uint64_t offset, std::uint64_t length) const;
    [[nodiscard]] bool has(std::uint16_t flag) const { return (info_.flags & flag) != 0; }
    Extent known_extent(std::uint64_t offset, std::uint64_t length) const;
    [[nodiscard]] Error about(Error error) const;

    const Location location_;
    const std::shared_ptr<const TlsCredentials> tls_;
    const std::shared_ptr<Connector> connector_;  ///< shared: a coroutine of its may be under way
    NodeTraits traits_;
    ExportInfo info_;
    bool status_known_ = false;  ///< the server has the context
    std::shared_ptr<Connection> connection_;
    AsyncMutex connecting_;
    Loop::Clock::time_point lost_at_{}, next_try_{};
    bool losing_ = false;  ///< since lost_at_ there is no connection
    bool closed_ = false;
    Gate blocks_;  ///< writers of parts of blocks are alone
    std::vector<StatusDescriptor> extents_;
    std::uint64_t extents_from_ = 0, extents_to_ = 0;
    std::uint64_t writes_ =
        0;  ///< counted, so that an answer about blocks from before one is not kept
    Loop::Clock::time_point extents_until_{};
};

}  // namespace strata::block::nbd
