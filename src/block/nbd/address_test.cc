// Tests of locations: URIs, the older form, options, and each as the other.
#include "block/nbd/address.h"

#include <gtest/gtest.h>

namespace strata::block::nbd {
namespace {

TEST(NbdLocationTest, EveryFormIsUnderstood) {
    const auto unix_uri = parse_location("nbd+unix:///a%20b?socket=/run/s");
    ASSERT_TRUE(unix_uri.ok());
    EXPECT_EQ(unix_uri->address.path, "/run/s");
    EXPECT_EQ(unix_uri->export_name, "a b");
    const auto tcp = parse_location("nbds://[::1]:77/x/y");
    ASSERT_TRUE(tcp.ok());
    EXPECT_EQ(tcp->address.host, "::1");
    EXPECT_EQ(tcp->address.port, "77");
    EXPECT_EQ(tcp->export_name, "x/y");
    EXPECT_TRUE(tcp->tls);
    const auto old = parse_location("nbd:localhost:10810:exportname=e");
    ASSERT_TRUE(old.ok());
    EXPECT_EQ(old->address.port, "10810");
    EXPECT_EQ(old->export_name, "e");
    EXPECT_EQ(parse_location("nbd:unix:/run/s:exportname=e")->address.path, "/run/s");
    EXPECT_EQ(parse_location("nbd://host")->address.port, "10809");
}

TEST(NbdLocationTest, NonsenseIsRefused) {
    EXPECT_FALSE(parse_location("nbd:host").ok());
    EXPECT_FALSE(parse_location("nbd+unix:///x").ok());
    EXPECT_FALSE(parse_location("nbd://host/?socket=/s").ok());
    EXPECT_FALSE(parse_location("nbd://host/%zz").ok());
    EXPECT_FALSE(parse_location("nbd://host/?fish=1").ok());
    EXPECT_FALSE(is_location("disk.raw"));
    EXPECT_FALSE(is_location("./nbd:x"));
}

TEST(NbdLocationTest, OptionsKeepEverything) {
    Location location = *parse_location("nbds+unix:///e?socket=/run/s&tls-hostname=h");
    location.reconnect_delay = std::chrono::seconds(7);
    location.context = "qemu:allocation-depth";
    OptionList options = location_options(location);
    const auto again = take_location(options);
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE(options.empty());
    EXPECT_EQ(location_options(*again), location_options(location));
    OptionList neither{{"export", "x"}};
    EXPECT_FALSE(take_location(neither).ok());
}

TEST(NbdLocationTest, UriKeepsTheCredentials) {
    for (const char* each : {"nbds+unix:///a%20b?socket=/run/s%26%3F", "nbds://[::1]:77/x/y",
                             "nbds://host", "nbd+unix://?socket=s"}) {
        Location location = *parse_location(each);
        EXPECT_EQ(credentials_uri(location), location_uri(location));
        if (location.tls) {
            location.tls_folder = "/etc/a&tls-verify=off";
            location.tls_hostname = "h?#=%41";
            location.tls_user = "alice bob";
            location.tls_psk = true;
            location.tls_verify = false;
        }
        const auto again = parse_location(credentials_uri(location));
        ASSERT_TRUE(again.ok()) << credentials_uri(location);
        EXPECT_EQ(location_options(*again), location_options(location));
        EXPECT_EQ(location_uri(location).find("tls-"), std::string::npos);
    }
    EXPECT_TRUE(parse_location("nbds://host?tls-verify=on")->tls_verify);
    EXPECT_TRUE(parse_location("nbd://host?tls-certificates=/etc/t")->tls);
    EXPECT_FALSE(parse_location("nbds://host?tls-verify=no").ok());
    EXPECT_FALSE(parse_location("nbds://host?tls-psk=").ok());
}

}  // namespace
}  // namespace strata::block::nbd
