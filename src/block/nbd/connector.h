// Connector, ConnectionOpener: connections for a client that may not make sockets itself.
//
// A machine's process has locked itself up when a server comes back. So whoever started it keeps a
// ConnectionOpener for each disk on a server: a thread that connects, to that one address, whenever
// the other end of its channel asks, and hands the socket over. What is said on the channel
// (io/packet_socket.h): "NUMBER" asks; "NUMBER" with a descriptor, or "NUMBER why not", answers.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"
#include "block/loop.h"
#include "block/nbd/address.h"
#include "block/task.h"
#include "io/packet_socket.h"

namespace strata::block::nbd {

class Connector {
  public:
    virtual ~Connector() = default;
    /// A connected socket, within `limit`. Unreachable; WrongState: there will be none any more.
    /// One at a time, on the loop's thread.
    virtual Task<UniqueFd> connect(Loop& loop, std::chrono::milliseconds limit) = 0;
};

/// Asks an opener.
class ChannelConnector final : public Connector {
  public:
    /// `channel`: what ConnectionOpener::create() made.
    explicit ChannelConnector(UniqueFd channel) : channel_(std::move(channel)) {}
    Task<UniqueFd> connect(Loop& loop, std::chrono::milliseconds limit) override;

  private:
    /// The answer to the request `number`, which has arrived; nothing: it was another's.
    [[nodiscard]] static std::optional<Result<UniqueFd>> take_answer(io::Packet packet,
                                                                     std::uint64_t number);
    const io::PacketSocket channel_;
    std::uint64_t number_ = 0;  ///< of the last request
};

class ConnectionOpener {
  public:
    /// An opener for `address`, and the other end of its channel. It works from start() on.
    static Result<std::pair<std::unique_ptr<ConnectionOpener>, UniqueFd>> create(Address address);
    /// The same for a server that has no address: `connect` gives a socket, on the opener's thread.
    static Result<std::pair<std::unique_ptr<ConnectionOpener>, UniqueFd>> create(
        std::function<Result<UniqueFd>()> connect);
    Result<> start();
    /// The other end is gone: nobody will ask any more.
    [[nodiscard]] bool over() const { return over_.load(std::memory_order_acquire); }
    /// Ends a connection that is being made; waits for a name that is being looked up.
    ~ConnectionOpener();
    ConnectionOpener(const ConnectionOpener&) = delete;
    ConnectionOpener& operator=(const ConnectionOpener&) = delete;

  private:
    ConnectionOpener(Address address, std::function<Result<UniqueFd>()> connect,
                     io::PacketSocket channel)
        : address_(std::move(address)),
          connect_(std::move(connect)),
          channel_(std::move(channel)) {}
    void work();
    void serve() const;
    [[nodiscard]] Result<UniqueFd> connect() const;
    [[nodiscard]] Result<UniqueFd> connect_to(const Candidate& candidate) const;

    const Address address_;
    const std::function<Result<UniqueFd>()> connect_;  ///< empty: to address_
    const io::PacketSocket channel_;
    std::atomic<bool> over_{false};
    std::thread thread_;
};

}  // namespace strata::block::nbd
