// Connection: one connection of an NBD client after its handshake: requests, many at a time.
//
// There is no coroutine of its own: of those that wait for replies one reads for all, and hands
// that on when its own has come. So nothing is left behind when a connection goes, and an idle one
// costs nothing. A connection that broke fails every request with Unreachable, and is not used
// again; whether to make another is the node's business.
#pragma once

#include <coroutine>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "block/nbd/client/handshake.h"

namespace strata::block::nbd {

class Connection {
  public:
    /// Connects and shakes hands, within `limit` each.
    static Task<std::shared_ptr<Connection>> open(Loop& loop, Location location,
                                                  std::shared_ptr<const TlsCredentials> tls,
                                                  std::chrono::milliseconds limit);
    /// The same with a stream that is connected.
    static Task<std::shared_ptr<Connection>> begin(std::unique_ptr<Stream> stream,
                                                   Location location,
                                                   std::shared_ptr<const TlsCredentials> tls,
                                                   std::chrono::milliseconds limit);

    struct Command {
        CommandType type = CommandType::Read;
        std::uint16_t flags = 0;
        std::uint64_t offset = 0;
        std::uint32_t length = 0;
        Buffers buffers{};  ///< of `length` bytes, for Read and Write
    };
    /// `status`: what a BlockStatus answers. Errors of kind Unreachable are the connection's,
    /// others the server's.
    Task<> request(Command command, std::vector<StatusDescriptor>* status);
    /// Takes leave of the server. No request may be under way.
    Task<> disconnect();

    [[nodiscard]] const Agreement& agreement() const { return agreement_; }
    [[nodiscard]] bool lost() const { return lost_; }

  private:
    struct Pending {
        const Command& command;
        std::vector<StatusDescriptor>* status = nullptr;
        Result<> result = ok();
        std::uint64_t received = 0;  ///< bytes that chunks brought
        std::map<std::uint64_t, std::uint64_t>
            pieces{};  ///< where those are: begin and end, never side by side
        unsigned chunks = 0;
        bool done = false;
        std::coroutine_handle<> waiter{};
    };
    struct Wait;
    explicit Connection(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}
    Task<> send(const Command& command, std::uint64_t cookie);
    Task<> receive_one();
    Task<> simple_reply(const SimpleReply& reply, Pending& pending);
    Task<> chunk(const ChunkHeader& header, Pending& pending);
    static Result<> cover(Pending& pending, std::uint64_t from, std::uint64_t bytes);
    Task<> data_chunk(std::uint32_t length, Pending& pending);
    Task<> hole_chunk(std::uint32_t length, Pending& pending);
    Task<> status_chunk(std::uint32_t length, Pending& pending);
    Task<> error_chunk(std::uint32_t length, Pending& pending);
    void finish(std::uint64_t cookie, Pending& pending);
    void wake(Pending& pending);
    void fail_all(const Error& error);

    const std::unique_ptr<Stream> stream_;
    Agreement agreement_;
    std::unordered_map<std::uint64_t, Pending*> pending_;  ///< by cookie
    std::uint64_t next_cookie_ = 1;
    bool receiving_ = false, lost_ = false;
};

}  // namespace strata::block::nbd
