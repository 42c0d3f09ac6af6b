// PacketSocket tests: messages stay whole, descriptors travel, closing is seen.
#include "io/packet_socket.h"

#include <array>
#include <cerrno>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace strata::io {
namespace {

TEST(PacketSocketTest, MessagesStayWholeAndInOrder) {
    auto pair = PacketSocket::pair();
    ASSERT_TRUE(pair.ok());
    ASSERT_TRUE(pair->first.send("one").ok());
    ASSERT_TRUE(pair->first.send("two").ok());
    EXPECT_EQ((*pair->second.receive())->text, "one");
    EXPECT_EQ((*pair->second.receive())->text, "two");
}

TEST(PacketSocketTest, AFullQueueIsToldAndLosesNothing) {
    auto pair = PacketSocket::pair();
    ASSERT_TRUE(pair.ok());
    const std::string text(60000, 'x');
    Result<> sent = ok();
    unsigned count = 0;
    for (; count < 1000 && sent.ok(); ++count) {
        sent = pair->first.try_send(text);
    }
    ASSERT_FALSE(sent.ok());
    EXPECT_EQ(sent.error().kind(), ErrorKind::WrongState);
    EXPECT_EQ(sent.error().system_errno(), EAGAIN);
    for (; count > 1; --count) {
        EXPECT_EQ((*pair->second.receive())->text.size(), text.size());
    }
    EXPECT_TRUE(pair->first.try_send(text).ok());
}

TEST(PacketSocketTest, DescriptorsTravelAndAreCloseOnExec) {
    auto pair = PacketSocket::pair();
    ASSERT_TRUE(pair.ok());
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    ASSERT_TRUE(pair->first.send("take", {writer.get()}).ok());
    writer.reset();
    auto packet = pair->second.receive();
    ASSERT_TRUE(packet.ok());
    ASSERT_EQ((*packet)->fds.size(), 1U);
    const int fd = (*packet)->fds[0].get();
    EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_EQ(write(fd, "x", 1), 1);
    char got = 0;
    EXPECT_EQ(read(reader.get(), &got, 1), 1);
    EXPECT_EQ(got, 'x');
}

TEST(PacketSocketTest, ClosedPeerIsSeenOnBothSides) {
    auto pair = PacketSocket::pair();
    ASSERT_TRUE(pair.ok());
    { const PacketSocket gone = std::move(pair->second); }
    EXPECT_FALSE(pair->first.receive()->has_value());
    auto sent = pair->first.send("anyone?");
    ASSERT_FALSE(sent.ok());
    EXPECT_EQ(sent.error().kind(), ErrorKind::Unreachable);
}

TEST(PacketSocketTest, MessageOverTheLimitIsRefused) {
    auto pair = PacketSocket::pair();
    ASSERT_TRUE(pair.ok());
    EXPECT_FALSE(pair->first.send(std::string(kMaxPacket + 1, 'x')).ok());
    EXPECT_FALSE(pair->first.send("x", std::vector<int>(kMaxPacketFds + 1, 0)).ok());
}

}  // namespace
}  // namespace strata::io
