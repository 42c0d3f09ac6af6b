// Stream: a connected socket of a loop: buffered reading, gathered writing, TLS inside if asked
// for.
//
// One coroutine reads at a time; many may send: messages queue up, and whoever comes first sends
// for all, as many in one system call as there are. Payloads go straight between the socket and the
// caller's buffers; only what happened to arrive with a header is copied. Errors of a broken
// connection are Unreachable.
#pragma once

#include <array>
#include <chrono>
#include <coroutine>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "block/buffers.h"
#include "block/loop.h"
#include "block/nbd/address.h"
#include "block/nbd/tls.h"
#include "block/sync.h"
#include "block/task.h"

namespace strata::block::nbd {

class Stream {
  public:
    /// Takes a connected socket over.
    static Result<std::unique_ptr<Stream>> adopt(Loop& loop, UniqueFd socket, std::string peer);
    /// Connects to the first address that answers.
    static Task<std::unique_ptr<Stream>> connect(Loop& loop, Address address,
                                                 std::chrono::milliseconds limit);

    /// Fills `into`.
    Task<> read(Buffers into);
    /// Reads `into`; false: the stream had ended before its first byte.
    Task<bool> read_or_end(std::span<std::byte> into);
    /// Fills `into` if all of it is here already.
    bool take(std::span<std::byte> into);
    Task<> skip(std::uint64_t bytes);
    /// Sends `head`, then `data`; both stay in place until it has ended. `hurry`: nothing else is
    /// about to be sent.
    Task<> send(std::span<const std::byte> head, Buffers data, bool hurry);

    /// Encrypts from here on. Nothing may be under way, nothing of the peer's read too early.
    Task<> start_tls(std::shared_ptr<const TlsCredentials> credentials, std::string host);
    [[nodiscard]] bool encrypted() const { return tls_ != nullptr; }
    [[nodiscard]] const TlsSession* tls() const { return tls_.get(); }

    /// Reads end as if the peer had gone; sending goes on.
    void end_input();
    /// Tells the peer that nothing more comes; reading goes on.
    void end_output();
    /// Ends all that is under way with errors, and all that comes.
    void shut();
    /// Bytes that arrived and were not read: a peer that does not wait for our word.
    [[nodiscard]] bool has_input() const { return begin_ != end_; }
    [[nodiscard]] Loop& loop() const { return loop_; }
    [[nodiscard]] const std::string& peer() const { return peer_; }

  private:
    struct Outgoing {
        std::span<const std::byte> head;
        Buffers data;
        std::coroutine_handle<> waiter{};
        bool done = false;
    };
    struct Turn;
    Stream(Loop& loop, UniqueFd socket, std::string peer);
    [[nodiscard]] Error broken(std::string_view doing, int number) const;
    /// Moves at least one byte into `into` (and what follows into our own buffer); 0: the end.
    Task<std::size_t> receive(Buffers into);
    Task<std::size_t> receive_plain(Buffers into);
    Task<std::size_t> receive_tls(Buffers into);
    /// Bytes of the socket into `buffer`, as they come.
    Task<std::size_t> receive_raw(std::span<std::byte> buffer);
    Task<> send_vectors(std::vector<iovec> vectors);
    Task<> send_queued();
    void wake(Outgoing& message);
    Task<> send_tls_output();
    Task<> encrypt(std::vector<iovec> vectors);
    std::size_t from_buffer(std::span<std::byte> into);

    Loop& loop_;
    const UniqueFd socket_;
    const std::string peer_;
    std::unique_ptr<Loop::Watch> watch_;
    std::unique_ptr<TlsSession> tls_;
    std::vector<std::byte> buffer_;
    std::size_t begin_ = 0, end_ = 0;  ///< of what lies in buffer_
    std::deque<Outgoing*> outgoing_;
    bool sending_ = false;
    Result<> send_error_ = ok();
};

/// Does something when something else takes too long: `limit.end()` is awaited when that is over.
class TimeLimit {
  public:
    TimeLimit(Loop& loop, std::chrono::milliseconds limit, std::function<void()> expire);
    ~TimeLimit() { STRATA_CHECK(ended_, "a time limit goes before its end"); }
    TimeLimit(const TimeLimit&) = delete;
    TimeLimit& operator=(const TimeLimit&) = delete;
    /// True if the time ran out.
    Task<bool> end();

  private:
    Task<> watch(std::chrono::milliseconds limit);
    const std::function<void()> expire_;
    Loop::Alarm alarm_;
    WaitQueue gone_;
    bool over_ = false, ended_ = false, expired_ = false;
};

}  // namespace strata::block::nbd
