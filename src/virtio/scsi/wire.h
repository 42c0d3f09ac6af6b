// Wire: wire structures of virtio-scsi. VIRTIO 1.2, 5.6.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/endian.h"

namespace strata::virtio::scsi_wire {

struct Features {
    static constexpr std::uint64_t kHotplug = 1ULL << 1;
    static constexpr std::uint64_t kChange = 1ULL << 2;
};

/// VIRTIO 1.2, 5.6.4.
struct Config {
    Le32 num_queues;
    Le32 seg_max;
    Le32 max_sectors;
    Le32 cmd_per_lun;
    Le32 event_info_size;
    Le32 sense_size;
    Le32 cdb_size;
    Le16 max_channel;
    Le16 max_target;
    Le32 max_lun;
};
static_assert(sizeof(Config) == 36 && offsetof(Config, sense_size) == 20);

using Address = std::array<std::uint8_t, 8>;

/// What a request begins with; the command of cdb_size bytes follows. VIRTIO 1.2, 5.6.6.1.
struct RequestHeader {
    Address lun{};
    Le64 id;
    std::uint8_t task_attribute = 0;
    std::uint8_t priority = 0;
    std::uint8_t reference = 0;
};
static_assert(sizeof(RequestHeader) == 19);

/// What the answer begins with; sense of sense_size bytes follows.
struct ResponseHeader {
    Le32 sense_length;
    Le32 residual;
    Le16 status_qualifier;
    std::uint8_t status = 0;
    std::uint8_t response = 0;
};
static_assert(sizeof(ResponseHeader) == 12);

enum class Response : std::uint8_t {
    Ok = 0,
    Overrun = 1,
    Aborted = 2,
    BadTarget = 3,
    Failure = 9,
    FunctionSucceeded = 10,
    FunctionRejected = 11,
    IncorrectLun = 12,
};

struct ControlType {
    static constexpr std::uint32_t kTaskManagement = 0;
    static constexpr std::uint32_t kNotificationQuery = 1;
    static constexpr std::uint32_t kNotificationSubscribe = 2;
};

/// VIRTIO 1.2, 5.6.6.2.
struct TaskManagement {
    Le32 type;
    Le32 function;
    Address lun{};
    Le64 id;
};
static_assert(sizeof(TaskManagement) == 24);

struct Function {
    static constexpr std::uint32_t kAbortTask = 0;
    static constexpr std::uint32_t kAbortTaskSet = 1;
    static constexpr std::uint32_t kClearAca = 2;
    static constexpr std::uint32_t kClearTaskSet = 3;
    static constexpr std::uint32_t kNexusReset = 4;
    static constexpr std::uint32_t kUnitReset = 5;
    static constexpr std::uint32_t kQueryTask = 6;
    static constexpr std::uint32_t kQueryTaskSet = 7;
};

struct Notification {
    Le32 type;
    Address lun{};
    Le32 events;
};
static_assert(sizeof(Notification) == 16);

struct NotificationAnswer {
    Le32 events;
    std::uint8_t response = 0;
};
static_assert(sizeof(NotificationAnswer) == 5);

/// VIRTIO 1.2, 5.6.6.3.
struct Event {
    Le32 event;
    Address lun{};
    Le32 reason;
};
static_assert(sizeof(Event) == 16);

struct EventType {
    static constexpr std::uint32_t kNone = 0;
    static constexpr std::uint32_t kTransportReset = 1;
    static constexpr std::uint32_t kParameterChange = 3;
    static constexpr std::uint32_t kMissed = 0x80000000;
};

struct ResetReason {
    static constexpr std::uint32_t kRescan = 1;
    static constexpr std::uint32_t kRemoved = 2;
};

}  // namespace strata::virtio::scsi_wire
