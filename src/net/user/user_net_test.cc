// UserNet: option texts, and the stack's answers to ARP, DHCP and a forwarded connection. No
// network is needed.
#include "net/user/user_net.h"

#include <array>
#include <cstring>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/endian.h"
#include "base/unique_fd.h"

namespace strata::net {
namespace {

using Frame = std::vector<std::byte>;

Frame bytes(std::initializer_list<int> values) {
    Frame out;
    for (const int value : values) {
        out.push_back(static_cast<std::byte>(value));
    }
    return out;
}

void append(Frame& frame, const Frame& more) {
    frame.insert(frame.end(), more.begin(), more.end());
}

const Frame kGuestMac = bytes({0x52, 0x54, 0, 0x12, 0x34, 0x56});

Frame ethernet(int type) {
    Frame frame(6, std::byte{0xff});
    append(frame, kGuestMac);
    append(frame, bytes({type >> 8, type & 0xff}));
    return frame;
}

Frame arp_request_for_gateway() {
    Frame frame = ethernet(0x0806);
    append(frame, bytes({0, 1, 8, 0, 6, 4, 0, 1}));
    append(frame, kGuestMac);
    append(frame, bytes({10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2}));
    return frame;
}

void set16(Frame& frame, std::size_t at, unsigned value) {
    frame[at] = static_cast<std::byte>(value >> 8);
    frame[at + 1] = static_cast<std::byte>(value);
}

void set_ip_checksum(Frame& frame) {
    std::uint32_t sum = 0;
    for (std::size_t at = 14; at < 34; at += 2) {
        sum += std::to_integer<unsigned>(frame[at]) << 8 | std::to_integer<unsigned>(frame[at + 1]);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    set16(frame, 24, ~sum & 0xffff);
}

Frame dhcp_discover() {
    Frame frame = ethernet(0x0800);
    append(frame, bytes({0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255}));
    append(frame, bytes({0, 68, 0, 67, 0, 0, 0, 0}));
    append(frame, bytes({1, 1, 6, 0, 1, 2, 3, 4}));
    append(frame, Frame(20));
    append(frame, kGuestMac);
    append(frame, Frame(10 + 64 + 128));
    append(frame, bytes({0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255}));
    append(frame, Frame(60));
    set16(frame, 16, static_cast<unsigned>(frame.size()) - 14);
    set16(frame, 38, static_cast<unsigned>(frame.size()) - 34);
    set_ip_checksum(frame);
    return frame;
}

class UserNetTest : public testing::Test {
  protected:
    void SetUp() override { loop_ = io::EventLoop::create().value(); }
    void make(const UserNetConfig& config) {
        auto made = UserNet::create(config, *loop_);
        ASSERT_TRUE(made.ok()) << made.error().text();
        net_ = std::move(made).value();
        net_->attach([this] { ++readable_; });
    }
    /// The next frame that `wanted` accepts.
    template <typename Wanted>
    std::optional<Frame> receive(Wanted wanted) {
        for (int round = 0; round < 100; ++round) {
            while (const auto next = net_->peek()) {
                Frame frame(next->begin(), next->end());
                net_->pop();
                if (wanted(frame)) {
                    return frame;
                }
            }
            loop_->run_once(std::chrono::milliseconds(20));
        }
        return std::nullopt;
    }
    static bool is_arp(const Frame& frame) {
        return frame[12] == std::byte{8} && frame[13] == std::byte{6};
    }
    static bool is_ipv4(const Frame& frame) {
        return frame[12] == std::byte{8} && frame[13] == std::byte{0};
    }

    std::unique_ptr<io::EventLoop> loop_;
    std::unique_ptr<NetBackend> net_;
    int readable_ = 0;
};

TEST_F(UserNetTest, GatewayAnswersArp) {
    make({});
    net_->send(arp_request_for_gateway());
    const auto reply = receive(is_arp);
    ASSERT_TRUE(reply);
    EXPECT_EQ((*reply)[21], std::byte{2});
    EXPECT_EQ((*reply)[31], std::byte{2});
    loop_->run_once(std::chrono::milliseconds(0));
    EXPECT_GE(readable_, 1);
}

TEST_F(UserNetTest, DiscoverIsAnsweredWithAnOffer) {
    make({});
    net_->send(dhcp_discover());
    const auto offer = receive(is_ipv4);
    ASSERT_TRUE(offer);
    ASSERT_GT(offer->size(), 300U);
    const Frame address((*offer).begin() + 14 + 20 + 8 + 16, (*offer).begin() + 14 + 20 + 8 + 20);
    EXPECT_EQ(address, bytes({10, 0, 2, 15}));
}

TEST_F(UserNetTest, ForwardedConnectionReachesTheGuest) {
    std::uint16_t port = 0;
    {
        // A port that is free now.
        const UniqueFd probe(::socket(AF_INET, SOCK_STREAM, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        ASSERT_EQ(::bind(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
        socklen_t size = sizeof(address);
        ASSERT_EQ(::getsockname(probe.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
        port = ntohs(address.sin_port);
    }
    make({.forwards = {{Transport::Tcp, "127.0.0.1", port, 22}}});
    loop_->run_once(std::chrono::milliseconds(0));
    const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    (void)::connect(client.get(), reinterpret_cast<sockaddr*>(&address),
                    sizeof(address));  // EINPROGRESS
    // Before it can send the SYN, the stack asks who the guest is.
    const auto question = receive(is_arp);
    ASSERT_TRUE(question);
    const Frame asked(question->begin() + 38, question->begin() + 42);
    EXPECT_EQ(asked, bytes({10, 0, 2, 15}));
    net_->send(arp_request_for_gateway());
    const auto syn =
        receive([](const Frame& frame) { return is_ipv4(frame) && frame[23] == std::byte{6}; });
    ASSERT_TRUE(syn);
    EXPECT_EQ((*syn)[37], std::byte{22});
}

TEST_F(UserNetTest, TakenPortIsNamed) {
    const UniqueFd holder(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(holder.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ASSERT_EQ(::listen(holder.get(), 1), 0);
    socklen_t size = sizeof(address);
    ASSERT_EQ(::getsockname(holder.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    const std::uint16_t port = ntohs(address.sin_port);
    const auto made =
        UserNet::create({.forwards = {{Transport::Tcp, "127.0.0.1", port, 22}}}, *loop_);
    ASSERT_FALSE(made.ok());
    EXPECT_NE(made.error().text().find(std::to_string(port)), std::string::npos);
}

TEST_F(UserNetTest, FloodOfGarbageIsHarmlessAndBounded) {
    make({});
    Frame frame = arp_request_for_gateway();
    for (int count = 0; count < 100000; ++count) {
        net_->send(frame);
    }
    EXPECT_GT(net_->counters().dropped, 0U);
    net_->send(Frame(14));
    net_->send(Frame(3));
}

TEST(UserNetConfigTest, ForwardsAreParsed) {
    EXPECT_EQ(*parse_forward("tcp:2222:22"), (Forward{Transport::Tcp, "127.0.0.1", 2222, 22}));
    EXPECT_EQ(*parse_forward("udp:0.0.0.0:53:5353"),
              (Forward{Transport::Udp, "0.0.0.0", 53, 5353}));
    EXPECT_EQ(*parse_forward("tcp:[10.1.2.3]:1:2"), (Forward{Transport::Tcp, "10.1.2.3", 1, 2}));
    EXPECT_EQ(*parse_forward("tcp::1:2"), (Forward{Transport::Tcp, "127.0.0.1", 1, 2}));
    for (const char* bad : {"", "tcp", "tcp:22", "sctp:1:2", "tcp:0:1", "tcp:1:65536",
                            "tcp:host:1:2", "tcp:[::1]:1:2", "tcp:a:b"}) {
        EXPECT_EQ(parse_forward(bad).error().kind(), ErrorKind::InvalidArgument) << bad;
    }
}

TEST(UserNetConfigTest, OptionsAreParsed) {
    const auto config =
        parse_user_net("user,forward=tcp:2222:22,restrict=on,ipv6=off,hostname=box");
    ASSERT_TRUE(config.ok());
    EXPECT_EQ(config->forwards.size(), 1U);
    EXPECT_TRUE(config->restricted);
    EXPECT_FALSE(config->ipv6);
    EXPECT_FALSE(parse_user_net("tap").ok());
    EXPECT_FALSE(parse_user_net("user,restrict=maybe").ok());
    EXPECT_FALSE(parse_user_net("user,what").ok());
}

}  // namespace
}  // namespace strata::net
