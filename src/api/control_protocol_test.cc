// Control protocol: requests there and back, and what is refused.
#include "api/control_protocol.h"

#include <gtest/gtest.h>

namespace strata::api {
namespace {

Result<ControlRequest> read(std::string_view text, std::size_t fds = 1) {
    const auto line = control_line_from_text(text);
    return line ? control_request_from_json(line->body, fds) : Result<ControlRequest>(line.error());
}

TEST(ControlProtocolTest, RequestsComeBackAsTheyWere) {
    ControlRequest mirror;
    mirror.operation = ControlOperation::DiskMirror;
    mirror.disk = "disk0";
    mirror.file = {.name = "/a/b", .fd = 0};
    mirror.format = "qcow2";
    mirror.empty = true;
    mirror.end = MirrorEnd::Pivot;
    mirror.speed = 1 << 20;
    const auto back = control_request_from_json(to_json(mirror), 1);
    ASSERT_TRUE(back.ok()) << back.error().text();
    EXPECT_EQ(*back, mirror);

    ControlRequest limits;
    limits.operation = ControlOperation::DiskLimits;
    limits.disk = "disk1";
    limits.limits = {{"iops", 100}, {"bps-write", 1 << 20}};
    const auto again = control_request_from_json(to_json(limits), 0);
    ASSERT_TRUE(again.ok()) << again.error().text();
    EXPECT_EQ(*again, limits);
}

TEST(ControlProtocolTest, ExportsGetTheirDescriptorFromTheOwner) {
    ControlRequest mirror;
    mirror.operation = ControlOperation::DiskMirror;
    mirror.disk = "disk0";
    mirror.file = {.name = "nbd://h/e", .fd = kNoFile};
    mirror.nbd = {{"server.host", "h"}, {"server.type", "inet"}};
    Json json = to_json(mirror);
    EXPECT_FALSE(control_request_from_json(json, 0).ok());
    json["arguments"]["fd"] = 0;
    const auto back = control_request_from_json(json, 1);
    ASSERT_TRUE(back.ok()) << back.error().text();
    EXPECT_EQ(back->nbd, mirror.nbd);
    EXPECT_EQ(back->file.fd, 0);
    json["arguments"]["nbd"]["server.host"] = 5;
    EXPECT_FALSE(control_request_from_json(json, 1).ok());
}

TEST(ControlProtocolTest, LinesHaveAnIdThatIsNoPartOfTheRequest) {
    const auto line = control_line_from_text(R"({"id":"x","execute":"pause"})");
    ASSERT_TRUE(line.ok());
    EXPECT_EQ(line->id, Json("x"));
    EXPECT_TRUE(control_request_from_json(line->body, 0).ok());
}

TEST(ControlProtocolTest, WhatIsWrongIsRefused) {
    EXPECT_FALSE(read("").ok());
    EXPECT_FALSE(read("[]").ok());
    EXPECT_FALSE(read(R"({"execute":"dance"})").ok());
    EXPECT_FALSE(read(R"({"execute":"pause","arguments":{"disk":"disk0"}})").ok());
    EXPECT_FALSE(read(R"({"execute":"disk-resize","arguments":{"disk":"d","size":1000}})").ok());
    EXPECT_FALSE(read(R"({"execute":"disk-resize","arguments":{"disk":"d","size":-1}})").ok());
    EXPECT_FALSE(read(R"({"id":{},"execute":"pause"})").ok());
    EXPECT_FALSE(read(std::string(kMaxControlLine + 1, ' ')).ok());
    EXPECT_FALSE(
        read(R"({"execute":"disk-limits","arguments":{"disk":"d","limits":{"x":1}}})").ok());
    EXPECT_FALSE(read(R"({"execute":"job-complete","arguments":{"job":"j","end":"ask"}})").ok());
}

TEST(ControlProtocolTest, FilesAreDescriptorsThatCameAlong) {
    constexpr std::string_view kText =
        R"({"execute":"disk-commit","arguments":{"disk":"d","fd":0,"file":"/f","format":"raw"}})";
    EXPECT_TRUE(read(kText, 1).ok());
    EXPECT_FALSE(read(kText, 0).ok());
    EXPECT_FALSE(read(R"({"execute":"disk-commit","arguments":{"disk":"d"}})").ok());
}

TEST(ControlProtocolTest, ErrorsComeBackAsTheyWere) {
    const Error back = error_from_json(error_json(Error{ErrorKind::WrongState, "busy"}));
    EXPECT_EQ(back.kind(), ErrorKind::WrongState);
    EXPECT_EQ(back.text(), "busy");
}

TEST(ControlProtocolTest, DiscsAreChangedByDescriptor) {
    ControlRequest change;
    change.operation = ControlOperation::DiskChange;
    change.disk = "disk1";
    change.file = {"/a.iso", 0};
    change.force = true;
    EXPECT_FALSE(control_request_from_json(to_json(change), 0).ok());
    const auto back = control_request_from_json(to_json(change), 1);
    ASSERT_TRUE(back.ok()) << back.error().text();
    EXPECT_TRUE(*back == change);
    EXPECT_TRUE(read(R"({"execute":"disk-eject","arguments":{"disk":"disk1"}})").ok());
    EXPECT_FALSE(read(R"({"execute":"disk-eject","arguments":{}})").ok());
    EXPECT_FALSE(read(R"({"execute":"disk-eject","arguments":{"disk":"d","force":1}})").ok());
}

}  // namespace
}  // namespace strata::api
