// NBD: wire structures, and client and server on one loop, with peers that misbehave.
#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <numeric>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/formats/raw/raw.h"
#include "block/nbd/client/nbd_node.h"
#include "block/nbd/server/server.h"
#include "block/protocols/file/file_node.h"

namespace strata::block::nbd {
namespace {

constexpr std::uint64_t kSize = 4U << 20;

std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
    std::vector<std::byte> all(bytes);
    for (std::size_t i = 0; i < bytes; ++i) {
        all[i] = static_cast<std::byte>((i * 7 + i / 251 + seed) | 1U);
    }
    return all;
}

TEST(NbdWireTest, ListOfWantedInformationOfAnotherLengthIsRefused) {
    Message message;
    message.counted("disk").add(Be16(std::uint16_t{2})).add(Be16(std::uint16_t{3}));
    EXPECT_FALSE(parse_info_request(message.bytes()).ok());
    message.add(Be16(std::uint16_t{1}));
    const auto good = parse_info_request(message.bytes());
    ASSERT_TRUE(good.ok());
    EXPECT_EQ(good->name, "disk");
    EXPECT_EQ(good->types, (std::vector<std::uint16_t>{3, 1}));
}

TEST(NbdWireTest, QueriesThatAreNotThereAreRefusedBeforeAnythingIsAllocated) {
    Message message;
    message.counted("disk").add(Be32(0xffffffffU));
    EXPECT_FALSE(parse_context_request(message.bytes()).ok());
    const std::vector<std::string> queries{"base:", "qemu:"};
    const Message good = context_request("disk", queries);
    EXPECT_EQ(parse_context_request(good.bytes())->queries, queries);
}

TEST(NbdWireTest, NamesAreLimited) {
    Message message;
    message.counted(std::string(kMaxString + 1, 'x')).add(Be16(std::uint16_t{0}));
    EXPECT_FALSE(parse_info_request(message.bytes()).ok());
}

TEST(NbdWireTest, BlockSizesThatMakeNoSenseAreRefused) {
    const auto sizes = [](std::uint32_t low, std::uint32_t best, std::uint32_t high) {
        ExportInfo info;
        return parse_info_reply(bytes_of(InfoBlockSize{std::uint16_t{3}, low, best, high}), info)
            .ok();
    };
    EXPECT_TRUE(sizes(512, 4096, 32U << 20));
    EXPECT_TRUE(sizes(1, 4096, UINT32_MAX));
    EXPECT_FALSE(sizes(0, 4096, 32U << 20));
    EXPECT_FALSE(sizes(513, 4096, 32U << 20));
    EXPECT_FALSE(sizes(512, 256, 32U << 20));
    EXPECT_FALSE(sizes(512, 512, 1000));
}

TEST(NbdWireTest, ErrorsTravel) {
    EXPECT_EQ(system_error(wire_error(ENOSPC)), ENOSPC);
    EXPECT_EQ(system_error(wire_error(EROFS)), EPERM);
    EXPECT_EQ(system_error(wire_error(ENXIO)), EIO);
    EXPECT_EQ(system_error(12345), EINVAL);
}

ExportOptions exported(const std::string& name, bool read_only) {
    ExportOptions options;
    options.name = name;
    options.description = "a disk";
    options.read_only = read_only;
    options.allocation_depth = true;
    return options;
}

ServerOptions several(unsigned clients = 4) {
    ServerOptions options;
    options.max_clients = clients;
    options.persistent = true;
    return options;
}

ServerOptions one_only() {
    return {};
}

/// A server over a file in memory, and what a test does to it, on one loop.
class NbdTest : public testing::Test {
  protected:
    void SetUp() override {
        auto loop = Loop::create({.engine = IoEngine::Threads, .depth = 8, .workers = 1});
        ASSERT_TRUE(loop.ok());
        loop_ = std::move(*loop);
        std::string folder = testing::TempDir() + "nbdXXXXXX";
        ASSERT_NE(mkdtemp(folder.data()), nullptr);
        folder_ = folder;
        location_.address.path = folder_ + "/s";
        OpenOptions options;
        options.path = "memory";
        options.fd = UniqueFd(::memfd_create("disk", MFD_CLOEXEC));
        ASSERT_EQ(::ftruncate(options.fd.get(), kSize), 0);
        options.lock = false;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(node.ok());
        disk_ = *node;
    }
    void TearDown() override {
        ::unlink(location_.address.path.c_str());
        ::rmdir(folder_.c_str());
    }
    void start(ExportOptions what = {}, ServerOptions options = several()) {
        context_.exports = {*loop_->run(Export::create(disk_, std::move(what)))};
        launch(std::move(options));
    }
    /// Again, as start() did; fit for the loop's own thread.
    void restart() { launch(several()); }
    void launch(ServerOptions options) {
        server_ = *Server::create(*loop_, *listen_on(location_.address, 16), std::move(options),
                                  context_);
        ended_ = false;
        loop_->spawn(server_->run(), [this](const Result<>& /*done*/) { ended_ = true; });
    }
    static Task<> wait_for_end(Loop& loop, const bool& ended) {
        while (!ended) {
            co_await loop.sleep(std::chrono::milliseconds(1));
        }
        co_return ok();
    }
    void stop() {
        server_->stop();
        ASSERT_TRUE(loop_->run(wait_for_end(*loop_, ended_)).ok());
        server_.reset();
    }
    template <typename T>
    Result<T> run(Task<T> task) {
        return loop_->run(std::move(task));
    }
    std::unique_ptr<Stream> raw_client() {
        return std::move(*run(Stream::connect(*loop_, location_.address, std::chrono::seconds(5))));
    }

    std::unique_ptr<Loop> loop_;
    std::string folder_;
    Location location_;
    NodePtr disk_;
    SessionContext context_;
    std::unique_ptr<Server> server_;
    bool ended_ = true;
};

TEST_F(NbdTest, WhatIsWrittenIsReadBack) {
    start();
    NodePtr node = *run(NbdNode::open(*loop_, location_, false));
    EXPECT_EQ(node->size(), kSize);
    std::vector<std::byte> data = pattern(300001, 3), got(data.size());
    ASSERT_TRUE(run(node->write(777, Buffers(std::span(data)))).ok());
    ASSERT_TRUE(run(node->flush()).ok());
    ASSERT_TRUE(run(node->read(777, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == data);
    ASSERT_TRUE(run(node->write_zeroes(1000, 1000, {})).ok());
    ASSERT_TRUE(run(node->read(777, Buffers(std::span(got)))).ok());
    std::fill_n(data.begin() + 223, 1000, std::byte{0});
    EXPECT_TRUE(got == data);
    EXPECT_TRUE(run(node->discard(0, 4096)).ok());
    EXPECT_FALSE(run(node->write(kSize - 1, Buffers(std::span(data)))).ok());
    ASSERT_TRUE(run(node->close()).ok());
    stop();
}

/// With keys: a new image of each format, made where the location leads.
class NbdNewImageTest : public NbdTest {
  protected:
    void SetUp() override {
        NbdTest::SetUp();
        write_key("5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
        context_.tls = *TlsCredentials::psk(TlsRole::Server, folder_, "alice");
        location_.tls = location_.tls_psk = true;
        location_.tls_folder = folder_;
        location_.tls_user = "alice";
        start();
    }
    void TearDown() override {
        stop();
        std::remove((folder_ + "/keys.psk").c_str());
        NbdTest::TearDown();
    }
    void write_key(const std::string& digits) const {
        std::ofstream(folder_ + "/keys.psk") << "alice:" << digits << "\n";
    }
    Result<> make(std::string_view format, std::string where) {
        return run(create_image(*loop_, std::string(format),
                                CreateRequest{std::move(where), 64U << 10, {}}));
    }
    bool untouched() {
        std::vector<std::byte> got(kSize, std::byte{1});
        return run(disk_->read(0, Buffers(std::span(got)))).ok() &&
               got == std::vector<std::byte>(kSize);
    }
};

TEST_F(NbdNewImageTest, IsMadeWithTheCredentialsOfTheLocation) {
    for (const FormatDriver& each : format_drivers()) {
        if (each.create == nullptr || each.name == "luks" || each.name == "xva") {
            continue;  // a passphrase is wanted; nothing tells an empty one
        }
        ASSERT_TRUE(run(disk_->write_zeroes(0, kSize, {})).ok());
        const auto made = make(each.name, credentials_uri(location_));
        EXPECT_TRUE(made.ok()) << each.name << ": " << made.error().text();
        EXPECT_EQ(*run(probe_format(*disk_)), each.name);
    }
}

TEST_F(NbdNewImageTest, IsNotMadeWithOthers) {
    EXPECT_FALSE(make("qcow2", location_uri(location_)).ok());  // by the system's authorities
    location_.tls_user = "bob";
    EXPECT_FALSE(make("qcow2", credentials_uri(location_)).ok());
    location_.tls_user = "alice";
    write_key("5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b");
    EXPECT_EQ(make("qcow2", credentials_uri(location_)).error().kind(),
              ErrorKind::PermissionDenied);
    EXPECT_TRUE(untouched());
}

TEST_F(NbdTest, HolesAreSeenAndReadAsZeros) {
    start();
    NodePtr node = *run(NbdNode::open(*loop_, location_, false));
    std::vector<std::byte> data = pattern(65536, 9);
    ASSERT_TRUE(run(node->write(1U << 20, Buffers(std::span(data)))).ok());
    const Extent hole = *run(node->status(0, kSize));
    EXPECT_EQ(hole.kind, Extent::Kind::Zero);
    EXPECT_EQ(hole.length, 1U << 20);
    const Extent full = *run(node->status(1U << 20, kSize - (1U << 20)));
    EXPECT_EQ(full.kind, Extent::Kind::Data);
    EXPECT_EQ(full.length, 65536U);
    std::vector<std::byte> got(kSize, std::byte{1}), expected(kSize);
    std::ranges::copy(data, expected.begin() + (1U << 20));
    ASSERT_TRUE(run(node->read(0, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == expected);
    ASSERT_TRUE(run(node->close()).ok());
    stop();
}

Task<> write_at(Node& node, std::uint64_t offset, std::vector<std::byte> data) {
    co_return co_await node.write(offset, Buffers(std::span(data)));
}

Task<> write_many(Loop& loop, Node& node) {
    TaskGroup group(loop, 64);
    for (unsigned i = 0; i < 200; ++i) {
        STRATA_CO_TRY_VOID(co_await group.add(write_at(node, i * 8192ULL, pattern(8192, i))));
    }
    co_return co_await group.finish();
}

TEST_F(NbdTest, ManyRequestsAtOnce) {
    start();
    NodePtr node = *run(NbdNode::open(*loop_, location_, false));
    ASSERT_TRUE(run(write_many(*loop_, *node)).ok());
    std::vector<std::byte> got(8192);
    ASSERT_TRUE(run(disk_->read(199 * 8192, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == pattern(8192, 199));
    ASSERT_TRUE(run(node->close()).ok());
    stop();
}

TEST_F(NbdTest, ReadOnlyExportIsNotOpenedForWriting) {
    start(exported("", true));
    EXPECT_EQ(run(NbdNode::open(*loop_, location_, false)).error().kind(),
              ErrorKind::PermissionDenied);
    NodePtr node = *run(NbdNode::open(*loop_, location_, true));
    std::vector<std::byte> data(512);
    EXPECT_FALSE(run(node->write(0, Buffers(std::span(data)))).ok());
    ASSERT_TRUE(run(node->close()).ok());
    stop();
}

TEST_F(NbdTest, ExportsAreListedAndChosenByName) {
    start(exported("disk", false));
    EXPECT_EQ(run(NbdNode::open(*loop_, location_, true)).error().kind(), ErrorKind::NotFound);
    location_.export_name = "disk";
    NodePtr node = *run(NbdNode::open(*loop_, location_, true));
    ASSERT_TRUE(run(node->close()).ok());
    const auto stream = raw_client();
    const auto all = run(list_exports(*stream, location_, nullptr));
    ASSERT_TRUE(all.ok());
    ASSERT_EQ(all->size(), 1U);
    EXPECT_EQ((*all)[0].description, "a disk");
    EXPECT_EQ((*all)[0].contexts,
              (std::vector<std::string>{"base:allocation", "qemu:allocation-depth"}));
    stop();
}

Task<> write_while_away(Node& node, std::function<void()> up) {
    std::vector<std::byte> got(4096);
    TaskGroup group(node.loop(), 1);
    group.start(write_at(node, 8192, pattern(4096, 5)));
    co_await node.loop().sleep(std::chrono::milliseconds(150));
    up();
    STRATA_CO_TRY_VOID(co_await group.finish());
    co_return co_await node.read(8192, Buffers(std::span(got)));
}

TEST_F(NbdTest, RequestsWaitForAServerThatComesBack) {
    start();
    location_.reconnect_delay = std::chrono::seconds(20);
    NodePtr node = *run(NbdNode::open(*loop_, location_, false));
    stop();
    const Result<> done = run(write_while_away(*node, [this] { restart(); }));
    EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().text());
    std::vector<std::byte> got(4096);
    ASSERT_TRUE(run(disk_->read(8192, Buffers(std::span(got)))).ok());
    EXPECT_TRUE(got == pattern(4096, 5));
    ASSERT_TRUE(run(node->close()).ok());
    stop();
}

TEST_F(NbdTest, WithoutADelayAVanishedServerIsAnError) {
    start();
    NodePtr node = *run(NbdNode::open(*loop_, location_, false));
    stop();
    std::vector<std::byte> got(512);
    const Result<> done = run(node->read(0, Buffers(std::span(got))));
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().system_errno(), EIO);
    ASSERT_TRUE(run(node->close()).ok());
}

TEST_F(NbdTest, ServerEndsAfterItsLastClientUnlessPersistent) {
    start({}, one_only());
    NodePtr node = *run(NbdNode::open(*loop_, location_, false));
    ASSERT_TRUE(run(node->close()).ok());
    ASSERT_TRUE(run(wait_for_end(*loop_, ended_)).ok());
}

// Hostile peers.

Task<> talk(Stream& stream, std::vector<std::byte> bytes, std::size_t answer) {
    STRATA_CO_TRY_VOID(co_await stream.send(bytes, {}, true));
    std::vector<std::byte> got(answer);
    co_return co_await stream.read(Buffers(std::span(got)));
}

std::vector<std::byte> bytes_from(const Message& message) {
    return {message.bytes().begin(), message.bytes().end()};
}

TEST_F(NbdTest, AnOptionOfGigabytesEndsTheConnection) {
    start();
    const auto stream = raw_client();
    Message message;
    message.add(Be32(3U)).add(OptionHeader{kOptionMagic, 7U, 0xfffffff0U});
    EXPECT_FALSE(run(talk(*stream, bytes_from(message), 19)).ok());  // the greeting has 18 bytes
    stop();
}

TEST_F(NbdTest, OptionsWithoutEndEndTheConnection) {
    start();
    const auto stream = raw_client();
    Message message;
    message.add(Be32(3U));
    for (unsigned i = 0; i <= kMaxOptions; ++i) {
        message.add(OptionHeader{kOptionMagic, 99U, 0U});
    }
    EXPECT_FALSE(run(talk(*stream, bytes_from(message), 1U << 20)).ok());
    stop();
}

TEST_F(NbdTest, AClientThatSaysNothingIsShownTheDoor) {
    context_.handshake_limit = std::chrono::milliseconds(50);
    start();
    const auto stream = raw_client();
    EXPECT_FALSE(run(talk(*stream, {}, 19)).ok());
    stop();
}

TEST_F(NbdTest, AWriteThatIsTooLongEndsTheConnection) {
    start();
    const auto stream = raw_client();
    Message message;
    message.add(Be32(3U)).add(OptionHeader{kOptionMagic, 1U, 0U});
    message.add(
        Request{kRequestMagic, std::uint16_t{0}, std::uint16_t{1}, 1ULL, 0ULL, 0x80000000U});
    EXPECT_FALSE(run(talk(*stream, bytes_from(message), 18 + sizeof(ExportNameReply) + 1)).ok());
    stop();
}

TEST_F(NbdTest, FloodOfConnectionsLeavesTheServerAlive) {
    start({}, several(2));
    for (int round = 0; round < 50; ++round) {
        const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        const auto where = *look_up(location_.address, false);
        // SAFETY: bytes of a sockaddr.
        (void)::connect(fd.get(), reinterpret_cast<const sockaddr*>(where[0].bytes.data()),
                        static_cast<socklen_t>(where[0].bytes.size()));
    }
    NodePtr node = *run(NbdNode::open(*loop_, location_, false));
    ASSERT_TRUE(run(node->close()).ok());
    stop();
}

/// A server that answers each of `answers` after what a client sends; `request`: what it does then.
Task<> false_server(Stream& stream, std::vector<std::byte> greeting, std::vector<std::byte> rest) {
    STRATA_CO_TRY_VOID(co_await stream.send(greeting, {}, true));
    STRATA_CO_TRY_VOID(co_await stream.send(rest, {}, true));
    STRATA_CO_TRY_VOID(co_await stream.skip(1U << 20));
    co_return ok();
}

Task<> moment(Loop& loop) {
    co_await loop.sleep(std::chrono::milliseconds(1));
    co_return ok();
}

TEST_F(NbdTest, AServerThatAnswersWhatWasNotAskedIsLeft) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()), 0);
    const auto server = *Stream::adopt(*loop_, UniqueFd(ends[0]), "test");
    const auto client = *Stream::adopt(*loop_, UniqueFd(ends[1]), "test");
    Message greeting, rest;
    greeting.add(ServerHello{kInitMagic, kOptionMagic, std::uint16_t{3}});
    rest.add(OptionReplyHeader{kOptionReplyMagic, 7U, 1U, 0U});  // to the option 8
    loop_->spawn(false_server(*server, bytes_from(greeting), bytes_from(rest)));
    EXPECT_FALSE(run(agree(*client, location_, nullptr)).ok());
    client->shut();
    while (loop_->spawned() != 0) {
        (void)run(moment(*loop_));
    }
}

}  // namespace
}  // namespace strata::block::nbd
