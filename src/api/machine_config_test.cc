// MachineConfig tests: JSON round trip, limits, hostile JSON, option texts.
#include "api/machine_config.h"

#include <gtest/gtest.h>

#include "api/option_text.h"
#include "api/vmm_protocol.h"

namespace strata::api {
namespace {

MachineConfig full_config() {
    MachineConfig config;
    config.name = "web";
    config.engine = EngineChoice::Soft;
    config.cpu_model = "x86-64-v3,-avx2";
    config.cpus = {.sockets = 2, .cores = 2, .threads = 1};
    config.memory_bytes = 256ULL << 20;
    config.kernel = {.name = "vmlinuz", .fd = 0};
    config.initrd = {.name = "initrd.img", .fd = 1};
    config.kernel_entry = KernelEntry::Stub;
    config.append = "console=ttyS0 root=\"/dev/vda\"";
    config.disks = {{.file = {.name = "root.raw", .fd = 2},
                     .format = "qcow2",
                     .read_only = true,
                     .follow = true,
                     .pinned = true,
                     .write_errors = WriteErrors::Stop}};
    config.nets = {{.forwards = {{.protocol = Protocol::Udp,
                                  .host_address = "0.0.0.0",
                                  .host_port = 53,
                                  .guest_port = 54}}}};
    config.serial_fd = 3;
    config.console = {.fd = 4, .columns = 132, .rows = 43};
    config.reboot = false;
    config.debug_exit = true;
    return config;
}

constexpr std::size_t kFds = 5;

TEST(MachineConfigTest, JsonRoundTripKeepsEverything) {
    const MachineConfig config = full_config();
    auto parsed = parse_json(dump_json(to_json(config)));
    ASSERT_TRUE(parsed.ok());
    auto again = machine_config_from_json(*parsed, kFds);
    ASSERT_TRUE(again.ok()) << again.error().text();
    EXPECT_EQ(*again, config);
}

TEST(MachineConfigTest, DescriptorThatWasNotPassedIsRejected) {
    EXPECT_FALSE(machine_config_from_json(to_json(full_config()), kFds - 1).ok());
}

TEST(MachineConfigTest, UnknownMemberIsRejectedByName) {
    Json json = to_json(full_config());
    json["disks"][0]["colour"] = "red";
    auto result = machine_config_from_json(json, kFds);
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.error().text().find("disks[0].colour"), std::string::npos)
        << result.error().text();
}

TEST(MachineConfigTest, WrongTypesAreRejectedNotThrown) {
    for (const char* text :
         {"[]", "1", "null", R"({"memory_bytes":"1G"})", R"({"memory_bytes":-1})",
          R"({"cpus":[1]})", R"({"disks":{}})", R"({"kernel":{"fd":1e99}})", R"({"engine":7})",
          R"({"name":null})", R"({"nets":[{"forwards":[{"host_port":70000}]}]})"}) {
        auto json = parse_json(text);
        ASSERT_TRUE(json.ok()) << text;
        EXPECT_FALSE(machine_config_from_json(*json, kFds).ok()) << text;
    }
}

TEST(MachineConfigTest, MemoryOutsideTheLimitsIsRejected) {
    for (const std::uint64_t bytes : {0ULL, 1ULL, (1ULL << 30) + 1, 1ULL << 60}) {
        MachineConfig config;
        config.memory_bytes = bytes;
        EXPECT_FALSE(validate(config).ok()) << bytes;
    }
}

TEST(MachineConfigTest, TopologyProductMayNotOverflowTheLimit) {
    MachineConfig config;
    config.cpus = {.sockets = 0xffffffff, .cores = 0xffffffff, .threads = 1};
    EXPECT_FALSE(validate(config).ok());
}

TEST(JsonTest, DeepNestingAndGarbageAreRejected) {
    EXPECT_FALSE(parse_json(std::string(100000, '[')).ok());
    EXPECT_FALSE(parse_json("{\"a\":").ok());
    EXPECT_FALSE(parse_json(std::string(2 << 20, ' ')).ok());
    EXPECT_TRUE(parse_json(R"({"text":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["})").ok());
}

TEST(JsonTest, InvalidUtf8IsReplacedOnOutput) {
    EXPECT_EQ(dump_json(Json{{"a", "\xff"}}), "{\"a\":\"\xef\xbf\xbd\"}");
}

TEST(OptionTextTest, CpusAsNumberAndTopology) {
    EXPECT_EQ(*parse_cpus("4"), (CpuTopology{1, 4, 1}));
    EXPECT_EQ(*parse_cpus("sockets=2,threads=2"), (CpuTopology{2, 1, 2}));
    for (const char* text : {"0", "10000", "", "four", "cores=0", "cores=16,sockets=16",
                             "sockets=2,sockets=3", "cpus=2", "cores", "1,2"}) {
        EXPECT_FALSE(parse_cpus(text).ok()) << text;
    }
}

TEST(OptionTextTest, DiskWithOptionsAndDoubledComma) {
    auto disk = parse_disk("a,,b.raw,format=raw,readonly");
    ASSERT_TRUE(disk.ok());
    EXPECT_EQ(disk->file.name, "a,b.raw");
    EXPECT_TRUE(disk->read_only);
    EXPECT_FALSE(disk->follow);
    EXPECT_TRUE(parse_disk("a.qcow2,format=qcow2,follow")->follow);
    EXPECT_EQ(disk->write_errors, WriteErrors::Enospc);
    EXPECT_EQ(parse_disk("a.raw,werror=report")->write_errors, WriteErrors::Report);
    EXPECT_FALSE(parse_disk("a.raw,werror=panic").ok());
    EXPECT_EQ(parse_disk("a.raw,iops=100,bps-read-max=2M,limit-group=g")->limits,
              (std::vector<DiskLimit>{{"iops", 100}, {"bps-read-max", 2U << 20}}));
    EXPECT_EQ(parse_disk("a.raw,iops=100,limit-group=g")->limit_group, "g");
    EXPECT_FALSE(parse_disk("a.raw,iops").ok());
    EXPECT_FALSE(parse_disk("a.raw,iops-least=5").ok());
    EXPECT_FALSE(parse_disk("").ok());
    EXPECT_FALSE(parse_disk("a.raw,fast").ok());
    EXPECT_EQ(parse_disk("a.raw,bus=scsi,queues=4")->bus, DiskBus::Scsi);
    EXPECT_EQ(parse_disk("a.raw,bus=scsi,queues=4")->queues, 4U);
    EXPECT_EQ(parse_disk("a.raw,serial=X1")->serial, "X1");
    EXPECT_EQ(parse_disk("a.iso,media=cdrom")->bus, DiskBus::Sata);
    EXPECT_TRUE(parse_disk("a.iso,media=cdrom,bus=scsi")->read_only);
    EXPECT_FALSE(parse_disk("a.iso,media=tape").ok());
    EXPECT_EQ(parse_disk("a.raw")->format, "");
    EXPECT_EQ(parse_disk("a.raw,mode=undoable")->mode, DiskMode::Undoable);
    EXPECT_TRUE(parse_disk("a.raw,mode=readonly")->read_only);
    EXPECT_EQ(parse_disk("a.luks,format=luks,key-secret=k")->key_secret, "k");
    EXPECT_EQ(parse_disk("a.qcow2,format=qcow2,encrypt.key-secret=k")->key_secret, "k");
    EXPECT_FALSE(parse_disk("a.luks,key-secret=").ok());
    EXPECT_EQ(parse_disk("a.raw,rerror=stop")->read_errors, ReadErrors::Stop);
    EXPECT_FALSE(parse_disk("a.raw,rerror=ignore").ok());
    EXPECT_EQ(parse_disk("nbd://h/e,reconnect-delay=9")->nbd,
              (std::vector<std::pair<std::string, std::string>>{{"reconnect-delay", "9"}}));
    EXPECT_FALSE(parse_disk("a.raw,mode=undoable,readonly").ok());
    EXPECT_FALSE(parse_disk("a.raw,mode=rw").ok());
    EXPECT_FALSE(parse_disk("a.raw,bus=ide").ok());
    EXPECT_FALSE(parse_disk("a.raw,queues=0").ok());
}

TEST(OptionTextTest, NetForwards) {
    std::vector<NetConfig> nets;
    ASSERT_TRUE(parse_net("user,forward=tcp:2222:22,forward=udp:0.0.0.0:53:5353", nets).ok());
    ASSERT_EQ(nets.size(), 1U);
    EXPECT_EQ(nets[0].forwards[0], (PortForward{Protocol::Tcp, "127.0.0.1", 2222, 22}));
    EXPECT_EQ(nets[0].forwards[1], (PortForward{Protocol::Udp, "0.0.0.0", 53, 5353}));
    for (const char* text :
         {"", "tap", "user,forward=", "user,forward=tcp:1", "user,forward=tcp:0:22",
          "user,forward=tcp:host:1:2", "none,forward=1:2", "user,mac=1"}) {
        EXPECT_FALSE(parse_net(text, nets).ok()) << text;
    }
}

TEST(OptionTextTest, SerialTargets) {
    EXPECT_EQ(parse_serial("--serial", "file:a.log")->path, "a.log");
    EXPECT_EQ(parse_serial("--console", "unix:/tmp/s")->kind, SerialKind::Unix);
    EXPECT_EQ(parse_serial("--console", "none")->kind, SerialKind::None);
    EXPECT_FALSE(parse_serial("--serial", "file:").ok());
    EXPECT_NE(parse_serial("--console", "tcp:1").error().text().find("--console"),
              std::string::npos);
}

TEST(VmmProtocolTest, EventsRoundTripAndGiveTheExitStatus) {
    VmmEvent event;
    event.cause = ExitCause::DebugExit;
    event.value = 16;
    auto again = vmm_event_from_json(to_json(event));
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(exit_status(*again), 33);
    event.cause = ExitCause::Error;
    event.error_kind = ErrorKind::NotSupported;
    event.error = "no";
    again = vmm_event_from_json(to_json(event));
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(exit_status(*again), 9);
    EXPECT_EQ(again->error, "no");
    event = {};
    event.cause = ExitCause::Panic;
    EXPECT_EQ(exit_status(event), 10);
    EXPECT_FALSE(vmm_event_from_json(Json{{"event", "exited"}, {"cause", "boredom"}}).ok());
}

TEST(VmmProtocolTest, PowerButtonEventRoundTrips) {
    VmmEvent event;
    event.kind = VmmEvent::Kind::PowerButton;
    event.heard = true;
    const auto again = vmm_event_from_json(to_json(event));
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->kind, VmmEvent::Kind::PowerButton);
    EXPECT_TRUE(again->heard);
}

TEST(VmmProtocolTest, RequestsRoundTrip) {
    VmmRequest start;
    start.operation = VmmOperation::Start;
    start.config = full_config();
    auto again = vmm_request_from_json(to_json(start), kFds);
    ASSERT_TRUE(again.ok()) << again.error().text();
    EXPECT_EQ(again->config, full_config());
    EXPECT_FALSE(vmm_request_from_json(Json{{"operation", "start"}}, 0).ok());
    EXPECT_FALSE(vmm_request_from_json(Json{{"operation", "dance"}}, 0).ok());
    VmmRequest size;
    size.operation = VmmOperation::ConsoleSize;
    size.columns = 132;
    size.rows = 43;
    again = vmm_request_from_json(to_json(size), 0);
    ASSERT_TRUE(again.ok()) << again.error().text();
    EXPECT_EQ(again->columns, 132);
}

}  // namespace
}  // namespace strata::api
