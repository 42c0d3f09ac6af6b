// HostileDriver: plays fuzz input as a guest that drives one virtio-pci device: registers, rings,
// notifications, save and load.
//
// The device is first brought to DRIVER_OK with rings at known places, so that the input reaches
// the queues at once; the input may reset and reconfigure it as it likes. Operations are one byte
// and their operands.
#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "io/event_loop.h"
#include "memory/guest_ram.h"
#include "virtio/transport/pci/virtio_pci.h"

namespace strata::fuzz {

inline constexpr std::uint64_t kRamSize = 1ULL << 20;
inline constexpr std::uint64_t kRingBase = 0x1000;
inline constexpr std::uint64_t kRingStride = 0x1000;
inline constexpr std::uint16_t kRingSize = 16;

/// Guest RAM that is shared by all inputs; its first 64 KiB are zeroed for each.
inline memory::GuestRam& ram() {
    static const std::unique_ptr<memory::GuestRam> instance =
        memory::GuestRam::create(kRamSize, kRamSize).value();
    return *instance;
}

class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : left_(data, size) {}
    [[nodiscard]] bool empty() const { return left_.empty(); }
    template <typename T>
    T take() {
        T value{};
        const std::size_t size = std::min(sizeof(T), left_.size());
        std::memcpy(&value, left_.data(), size);
        left_ = left_.subspan(size);
        return value;
    }

  private:
    std::span<const std::uint8_t> left_;
};

struct NullSink final : bus::MsiSink {
    void send(const bus::MsiMessage& /*message*/) override {}
};
struct NullLine final : bus::IrqLine {
    void set(bool /*asserted*/) override {}
};

class HostileDriver {
  public:
    HostileDriver(std::unique_ptr<virtio::VirtioDevice> device, io::EventLoop& loop)
        : loop_(loop), transport_(std::move(device), ram(), virtio::RingFormats::SplitAndPacked) {
        std::memset(ram().base(), 0, 64 * 1024);
        transport_.connect(sink_, line_);
    }
    void play(Input input) {
        start(input);
        for (int steps = 0; !input.empty() && steps < 4096; ++steps) {
            step(input);
        }
        run();
        (void)transport_.pause();  // waits for what is under way
    }

  private:
    template <typename T>
    void set(std::uint64_t offset, T value) {
        transport_.bar_write(0, offset, std::as_bytes(std::span(&value, 1)));
    }
    void run() {
        for (int round = 0; round < 3; ++round) {
            loop_.run_once(std::chrono::milliseconds(0));
        }
    }
    void start(Input& input) {
        const std::uint64_t features =
            ((transport_.device().offered_features() | virtio::Feature::kRingPacked) &
             input.take<std::uint64_t>()) |
            virtio::Feature::kVersion1;
        set<std::uint8_t>(0x14, 3);
        set<std::uint32_t>(8, 0);
        set<std::uint32_t>(12, static_cast<std::uint32_t>(features));
        set<std::uint32_t>(8, 1);
        set<std::uint32_t>(12, static_cast<std::uint32_t>(features >> 32));
        set<std::uint8_t>(0x14, 11);
        for (std::uint16_t queue = 0; queue < transport_.device().queue_sizes().size(); ++queue) {
            const std::uint64_t base = kRingBase + queue * kRingStride;
            set<std::uint16_t>(0x16, queue);
            set<std::uint16_t>(0x18, kRingSize);
            set<std::uint64_t>(0x20, base);
            set<std::uint64_t>(0x28, base + 0x400);
            set<std::uint64_t>(0x30, base + 0x800);
            set<std::uint16_t>(0x1c, 1);
        }
        set<std::uint8_t>(0x14, 15);
    }
    /// Writes a descriptor and makes it available.
    void descriptor(Input& input) {
        const auto queue = input.take<std::uint8_t>() % transport_.device().queue_sizes().size();
        const std::uint64_t base = kRingBase + queue * kRingStride;
        const auto index = input.take<std::uint8_t>() % kRingSize;
        const std::uint64_t address = input.take<std::uint8_t>() == 0xff
                                          ? input.take<std::uint64_t>()
                                          : input.take<std::uint16_t>();
        const virtio::Descriptor made{address, std::uint32_t{input.take<std::uint16_t>()},
                                      input.take<std::uint16_t>(), input.take<std::uint16_t>()};
        (void)ram().store(memory::GuestAddress(base + 16ULL * static_cast<unsigned>(index)), made);
    }
    void publish(Input& input) {
        const auto queue = input.take<std::uint8_t>() % transport_.device().queue_sizes().size();
        const std::uint64_t base = kRingBase + queue * kRingStride + 0x400;
        const std::uint16_t count = *ram().load<std::uint16_t>(memory::GuestAddress(base + 2));
        (void)ram().store(memory::GuestAddress(base + 4 + 2ULL * (count % kRingSize)),
                          static_cast<std::uint16_t>(input.take<std::uint8_t>()));
        (void)ram().store(memory::GuestAddress(base + 2), static_cast<std::uint16_t>(count + 1));
        set<std::uint16_t>(0x3000 + 4 * queue, 0);
        run();
    }
    /// A save and a load, of a damaged state if the input says so: that may be refused, and leaves
    /// a device that still works.
    void reload(Input& input) {
        (void)transport_.pause();
        state::StateWriter writer;
        STRATA_CHECK(transport_.save(writer).ok(), "a device can always be saved");
        std::vector<std::byte> bytes = writer.bytes();
        const unsigned damage = input.take<std::uint8_t>() & 3U;
        for (unsigned i = 0; i < damage; ++i) {
            bytes[input.take<std::uint16_t>() % bytes.size()] = input.take<std::byte>();
        }
        state::StateReader reader(bytes);
        const auto loaded = transport_.load(reader);
        STRATA_CHECK(loaded.ok() || damage != 0, "what was saved can be loaded");
        (void)transport_.resume();
    }
    void step(Input& input) {
        switch (input.take<std::uint8_t>() % 8) {
            case 0: {
                const std::uint64_t offset = input.take<std::uint16_t>() & 0x7fff;
                const auto value = input.take<std::uint64_t>();
                const std::size_t size = std::size_t{1} << (input.take<std::uint8_t>() & 3);
                transport_.bar_write(0, offset, std::as_bytes(std::span(&value, 1)).first(size));
                break;
            }
            case 1: {
                std::uint64_t value = 0;
                const std::uint64_t offset = input.take<std::uint16_t>() & 0x7fff;
                transport_.bar_read(
                    0, offset,
                    std::as_writable_bytes(std::span(&value, 1)).first(1 + (offset & 7)));
                break;
            }
            case 2: {
                const auto value = input.take<std::uint32_t>();
                transport_.config_write(input.take<std::uint16_t>() & 0xfff,
                                        std::as_bytes(std::span(&value, 1)));
                break;
            }
            case 3: {
                std::uint32_t value = 0;
                transport_.config_read(input.take<std::uint16_t>() & 0xfff,
                                       std::as_writable_bytes(std::span(&value, 1)));
                break;
            }
            case 4: {
                const auto address = input.take<std::uint16_t>();
                (void)ram().store(memory::GuestAddress(address),
                                  input.take<std::array<std::uint8_t, 16>>());
                break;
            }
            case 5:
                descriptor(input);
                break;
            case 6:
                publish(input);
                break;
            default:
                reload(input);
                break;
        }
    }

    io::EventLoop& loop_;
    NullSink sink_;
    NullLine line_;
    virtio::VirtioPciTransport transport_;
};

}  // namespace strata::fuzz
