// Tests of NBD connections: servers whose replies are not what they seem.
#include "block/nbd/client/connection.h"

#include <array>

#include <gtest/gtest.h>
#include <sys/socket.h>

namespace strata::block::nbd {
namespace {

constexpr std::uint32_t kLength = 64U << 10;

Task<> say(Stream& stream, std::vector<std::byte> all) {
    STRATA_CO_TRY_VOID(co_await stream.send(all, {}, true));
    co_return co_await stream.skip(1U << 20);  // until the client goes
}

Task<> moment(Loop& loop) {
    co_await loop.sleep(std::chrono::milliseconds(1));
    co_return ok();
}

struct Piece {
    std::uint32_t offset = 0, length = 0;
    bool hole = false;
};

/// What a server says, handshake and all, when a client reads kLength bytes at 0.
std::vector<std::byte> script(const std::vector<Piece>& pieces) {
    Message all;
    all.add(ServerHello{kInitMagic, kOptionMagic, std::uint16_t{3}});
    all.add(OptionReplyHeader{kOptionReplyMagic, 8U, 1U, 0U});            // structured replies
    all.add(OptionReplyHeader{kOptionReplyMagic, 10U, 0x80000001U, 0U});  // no contexts
    all.add(OptionReplyHeader{kOptionReplyMagic, 7U, 3U, std::uint32_t{sizeof(InfoExport)}});
    all.add(InfoExport{std::uint16_t{0}, std::uint64_t{1U << 20}, std::uint16_t{1}});
    all.add(OptionReplyHeader{kOptionReplyMagic, 7U, 1U, 0U});
    std::vector<std::byte> bytes(all.bytes().begin(), all.bytes().end());
    const auto add = [&bytes](const auto& wire) {
        bytes.insert(bytes.end(), bytes_of(wire).begin(), bytes_of(wire).end());
    };
    for (const Piece& each : pieces) {
        const auto type =
            static_cast<std::uint16_t>(each.hole ? ChunkType::OffsetHole : ChunkType::OffsetData);
        add(ChunkHeader{kStructuredReplyMagic, std::uint16_t{0}, type, 1ULL,
                        each.hole ? 12U : each.length + 8});
        add(Be64(std::uint64_t{each.offset}));
        if (each.hole) {
            add(Be32(each.length));
        } else {
            bytes.insert(bytes.end(), each.length, std::byte{7});
        }
    }
    add(ChunkHeader{kStructuredReplyMagic, kChunkDone, std::uint16_t{0}, 1ULL, 0U});
    return bytes;
}

Result<> read_from(const std::vector<Piece>& pieces) {
    const auto loop =
        std::move(*Loop::create({.engine = IoEngine::Threads, .depth = 8, .workers = 1}));
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()), 0);
    const auto server = *Stream::adopt(*loop, UniqueFd(ends[0]), "server");
    auto stream = *Stream::adopt(*loop, UniqueFd(ends[1]), "client");
    loop->spawn(say(*server, script(pieces)));
    Result<> done = ok();
    {
        const auto connection = loop->run(
            Connection::begin(std::move(stream), Location{}, nullptr, std::chrono::seconds(5)));
        EXPECT_TRUE(connection.ok()) << connection.error().text();
        std::vector<std::byte> got(kLength);
        done = loop->run(
            (*connection)
                ->request({.length = kLength, .buffers = Buffers(std::span(got))}, nullptr));
        EXPECT_TRUE(loop->run((*connection)->disconnect()).ok());
    }
    while (loop->spawned() != 0) {
        (void)loop->run(moment(*loop));
    }
    return done;
}

TEST(NbdConnectionTest, PiecesInAnyOrderMakeAWhole) {
    for (const auto& pieces : std::vector<std::vector<Piece>>{
             {{0, kLength}},
             {{32768, 32768}, {0, 32768, true}},
             {{0, 512}, {1024, 512, true}, {512, 512}, {1536, kLength - 1536}},
             {{kLength - 1, 1}, {1, kLength - 2, true}, {0, 1}}}) {
        const auto done = read_from(pieces);
        EXPECT_TRUE(done.ok()) << done.error().text();
    }
}

TEST(NbdConnectionTest, DataThatComesTwiceIsNoneForTheRest) {
    for (const auto& pieces :
         std::vector<std::vector<Piece>>{{{0, 32768}, {0, 32768}},
                                         {{0, 32768, true}, {0, 32768}},
                                         {{0, 32768}, {16384, 32768, true}},
                                         {{16384, 32768}, {0, 32768}},
                                         {{512, 512}, {0, 2048}, {4096, kLength - 2560}}}) {
        EXPECT_FALSE(read_from(pieces).ok());
    }
}

TEST(NbdConnectionTest, AnAnswerOfSpecksIsLeft) {
    std::vector<Piece> specks;
    for (std::uint32_t at = 0; at < kLength; at += 2) {
        specks.push_back({at, 1, true});
    }
    for (std::uint32_t at = 1; at < kLength; at += 2) {
        specks.push_back({at, 1, true});
    }
    EXPECT_FALSE(read_from(specks).ok());
}

}  // namespace
}  // namespace strata::block::nbd
