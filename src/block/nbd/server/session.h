// Session: one client of an NBD server: haggling over options, then requests, many at a time.
//
// The client is not trusted: every length is limited before anything is allocated or read (wire.h),
// the haggling has a time limit and a limited number of options, and the requests under way are
// limited in number and bytes; what comes beyond waits in the socket. Each request is a coroutine
// of its own; replies go out in the order in which they are ready, gathered by the Stream.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/aligned_buffer.h"
#include "block/nbd/server/export.h"
#include "block/nbd/stream.h"
#include "block/nbd/wire.h"
#include "block/sync.h"

namespace strata::block::nbd {

/// What a server's sessions share.
struct SessionContext {
    std::vector<std::shared_ptr<Export>> exports;
    std::shared_ptr<const TlsCredentials> tls;  ///< null: none
    std::function<bool(const std::string&)>
        authorized;  ///< by the client's certificate's name; empty: all
    std::chrono::milliseconds handshake_limit{10000};
};

class Session {
  public:
    Session(Loop& loop, std::unique_ptr<Stream> stream, const SessionContext& context)
        : loop_(loop), stream_(std::move(stream)), context_(context), change_(loop) {}

    /// From the greeting to the end of the connection. An error is what ended it, if not the
    /// client's wish.
    Task<> run();
    /// Takes no more requests; run() ends when those under way have.
    void stop();
    /// Ends the connection.
    void cut_off() { stream_->shut(); }
    /// The client chose an export.
    [[nodiscard]] bool negotiated() const { return export_ != nullptr; }

  private:
    struct Call {
        CommandType type = CommandType::Read;
        std::uint16_t flags = 0;
        std::uint64_t cookie = 0, offset = 0;
        std::uint32_t length = 0;
        AlignedBuffer buffer{};  ///< what a write brought, or a read fills
    };
    struct Segment {
        std::uint64_t offset = 0;
        std::uint32_t length = 0;
        bool hole = false;
    };

    // Haggling (negotiation.cc).
    Task<> negotiate();
    Task<> greet();
    Task<> option(std::uint32_t code, std::uint32_t length);
    Task<> export_name(std::span<const std::byte> data);
    Task<> list(std::span<const std::byte> data);
    Task<> start_tls(std::uint32_t length);
    Task<> info(std::uint32_t code, std::span<const std::byte> data);
    Task<> meta_context(std::uint32_t code, std::span<const std::byte> data);
    Task<> reply(std::uint32_t code, OptionReply reply, std::span<const std::byte> data = {});
    Task<> refuse(std::uint32_t code, OptionReply reply, std::string text);
    [[nodiscard]] std::shared_ptr<Export> find(std::string_view name) const;

    // Requests (transmission.cc).
    Task<> transmit();
    Task<bool> next_call(Call& call);
    Task<> carry_out(Call call);
    Task<> perform(Call& call);
    Task<> read(Call& call);
    Task<std::vector<Segment>> segments(const Call& call);
    Task<> send_data(const Call& call, const Segment& segment, bool last);
    Task<> write(Call& call);
    Task<> write_zeroes(const Call& call);
    Task<> prefetch(const Call& call);
    Task<> block_status(const Call& call);
    [[nodiscard]] Result<> validate(const Call& call) const;
    Task<> answer(const Call& call, int system_errno);
    AlignedBuffer take_buffer(std::uint32_t bytes);
    void give_buffer(AlignedBuffer buffer);

    Loop& loop_;
    const std::unique_ptr<Stream> stream_;
    const SessionContext& context_;
    std::uint32_t client_flags_ = 0;
    bool structured_ = false, transmitting_ = false, stopping_ = false, aborted_ = false;
    std::shared_ptr<Export> export_;
    std::shared_ptr<Export> context_export_;  ///< of the contexts chosen
    std::vector<std::uint32_t> contexts_;     ///< their ids
    unsigned in_flight_ = 0;
    std::uint64_t bytes_in_flight_ = 0;
    WaitQueue change_;
    std::vector<AlignedBuffer> spare_;
};

}  // namespace strata::block::nbd
