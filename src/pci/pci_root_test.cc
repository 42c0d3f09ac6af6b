// PciRoot: configuration mechanisms, BAR mapping, MSI-X and INTx, with a small device.
#include "pci/pci_root.h"

#include <gtest/gtest.h>

namespace strata::pci {
namespace {

constexpr std::uint64_t kEcam = 0xb0000000;
constexpr std::uint64_t kLow = 0xc0000000;

class TestDevice final : public PciDevice {
  public:
    explicit TestDevice(std::string name = "test0")
        : PciDevice(
              {.vendor = 0x1af4, .device = 0x1044, .class_code = 0xff0000, .interrupt_pin = true}),
          name_(std::move(name)) {
        describe().define_bar(0, {.kind = BarKind::Memory64, .size = 0x4000});
        describe().define_bar(2, {.kind = BarKind::Io, .size = 0x20});
        add_msix(3, 0, 0x1000, 0x2000);
        seal();
    }
    [[nodiscard]] std::string_view label() const override { return name_; }
    void bar_read(unsigned bar, std::uint64_t offset, std::span<std::byte> data) override {
        if (bar == 0 && msix()->read(offset, data)) {
            return;
        }
        data[0] = static_cast<std::byte>(offset + bar);
    }
    void bar_write(unsigned bar, std::uint64_t offset, std::span<const std::byte> data) override {
        if (bar == 0) {
            (void)msix()->write(offset, data);  // nothing else is there
        }
    }
    Result<> pause() override { return ok(); }
    Result<> resume() override { return ok(); }
    Result<> save(state::StateWriter& writer) const override {
        save_pci(writer);
        return ok();
    }
    Result<> load(state::StateReader& reader) override { return load_pci(reader); }
    using PciDevice::msix;
    using PciDevice::set_intx;

  private:
    std::string name_;
};

struct Line final : bus::IrqLine {
    void set(bool asserted) override { level = asserted; }
    bool level = false;
};

struct Sink final : bus::MsiSink {
    void send(const bus::MsiMessage& message) override { sent.push_back(message); }
    std::vector<bus::MsiMessage> sent;
};

class PciRootTest : public testing::Test {
  protected:
    void SetUp() override {
        auto made = PciRoot::create({.ecam_base = kEcam,
                                     .mmio32 = {kLow, 0x100000},
                                     .mmio64 = {1ULL << 40, 0x100000},
                                     .io = {0xc000, 0x1000},
                                     .intx = {&lines_[0], &lines_[1], &lines_[2], &lines_[3]},
                                     .intx_gsi = {16, 17, 18, 19}},
                                    mmio_, ports_, sink_);
        ASSERT_TRUE(made.ok());
        root_ = std::move(made).value();
        auto device = std::make_unique<TestDevice>();
        device_ = device.get();
        ASSERT_TRUE(root_->add(3, std::move(device)).ok());
    }
    template <typename T>
    T config(unsigned slot, unsigned offset) {
        T value{};
        (void)mmio_.read(kEcam + (slot << 15) + offset,
                         std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    template <typename T>
    void set_config(unsigned slot, unsigned offset, T value) {
        (void)mmio_.write(kEcam + (slot << 15) + offset, std::as_bytes(std::span(&value, 1)));
    }
    template <typename T>
    T load(std::uint64_t address) {
        T value{};
        (void)mmio_.read(address, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    template <typename T>
    void store(std::uint64_t address, T value) {
        (void)mmio_.write(address, std::as_bytes(std::span(&value, 1)));
    }
    void enable_msix(std::uint16_t bits) { set_config<std::uint16_t>(3, 0x42, bits); }
    void fill_vector(unsigned vector, std::uint32_t masked) {
        const std::uint64_t at = kLow + 0x1000 + vector * 16;
        store<std::uint32_t>(at, 0xfee00000);
        store<std::uint32_t>(at + 4, 0);
        store<std::uint32_t>(at + 8, 0x40 + vector);
        store<std::uint32_t>(at + 12, masked);
    }

    bus::Bus mmio_;
    bus::Bus ports_;
    Sink sink_;
    std::array<Line, 4> lines_;
    std::unique_ptr<PciRoot> root_;
    TestDevice* device_ = nullptr;
};

TEST_F(PciRootTest, PortAndMemoryMechanismShowTheSameRegisters) {
    EXPECT_EQ(config<std::uint32_t>(3, 0), 0x10441af4U);
    const std::uint32_t address = 0x80000000U | 3U << 11;
    (void)ports_.write(0xcf8, std::as_bytes(std::span(&address, 1)));
    std::uint16_t device = 0;
    (void)ports_.read(0xcfe, std::as_writable_bytes(std::span(&device, 1)));
    EXPECT_EQ(device, 0x1044);
    EXPECT_EQ(config<std::uint32_t>(4, 0), 0xffffffffU);
    EXPECT_EQ(config<std::uint32_t>(0, 8) >> 8, 0x060000U);
}

TEST_F(PciRootTest, BarSizingAnswersTheSize) {
    set_config<std::uint32_t>(3, 0x10, 0xffffffff);
    set_config<std::uint32_t>(3, 0x14, 0xffffffff);
    set_config<std::uint32_t>(3, 0x18, 0xffffffff);
    EXPECT_EQ(config<std::uint32_t>(3, 0x10), 0xffffc004U);
    EXPECT_EQ(config<std::uint32_t>(3, 0x14), 0xffffffffU);
    EXPECT_EQ(config<std::uint32_t>(3, 0x18), 0xffffffe1U);
}

TEST_F(PciRootTest, AssignedBarsAnswer) {
    ASSERT_TRUE(root_->assign_resources().ok());
    EXPECT_EQ(load<std::uint8_t>(kLow + 7), 7);
    EXPECT_EQ(config<std::uint8_t>(3, 0x3c), 19);
    std::uint8_t value = 0;
    EXPECT_TRUE(ports_.read(0xc004, std::as_writable_bytes(std::span(&value, 1))));
    EXPECT_EQ(value, 6);
}

TEST_F(PciRootTest, BarMovesAndMemoryEnableHides) {
    ASSERT_TRUE(root_->assign_resources().ok());
    set_config<std::uint32_t>(3, 0x10, kLow + 0x8000);
    EXPECT_EQ(load<std::uint8_t>(kLow + 7), 0xff);
    EXPECT_EQ(load<std::uint8_t>(kLow + 0x8007), 7);
    set_config<std::uint16_t>(3, 4, 0);
    EXPECT_EQ(load<std::uint8_t>(kLow + 0x8007), 0xff);
}

TEST_F(PciRootTest, OverlappingBarStaysUnmappedUntilTheOtherMoves) {
    ASSERT_TRUE(root_->add(4, std::make_unique<TestDevice>("test1")).ok());
    ASSERT_TRUE(root_->assign_resources().ok());
    set_config<std::uint32_t>(4, 0x10, kLow);
    EXPECT_EQ(load<std::uint8_t>(kLow + 7), 7);
    EXPECT_EQ(load<std::uint8_t>(kLow + 0x4007), 0xff);
    set_config<std::uint32_t>(3, 0x10, 0);
    EXPECT_EQ(load<std::uint8_t>(kLow + 7), 7);
}

TEST_F(PciRootTest, BarOutsideTheWindowsStaysUnmapped) {
    ASSERT_TRUE(root_->assign_resources().ok());
    set_config<std::uint32_t>(3, 0x10, 0x10000000);
    EXPECT_EQ(load<std::uint8_t>(0x10000007), 0xff);
}

TEST_F(PciRootTest, MsixVectorIsSentAndMaskedOneWaits) {
    ASSERT_TRUE(root_->assign_resources().ok());
    enable_msix(0x8000);
    fill_vector(1, 0);
    fill_vector(2, 1);
    device_->msix()->raise(1);
    ASSERT_EQ(sink_.sent.size(), 1U);
    EXPECT_EQ(sink_.sent[0], (bus::MsiMessage{0xfee00000, 0x41}));
    device_->msix()->raise(2);
    EXPECT_EQ(sink_.sent.size(), 1U);
    EXPECT_EQ(load<std::uint32_t>(kLow + 0x2000), 4U);
    store<std::uint32_t>(kLow + 0x1000 + 2 * 16 + 12, 0);
    ASSERT_EQ(sink_.sent.size(), 2U);
    EXPECT_EQ(sink_.sent[1].data, 0x42U);
    EXPECT_EQ(load<std::uint32_t>(kLow + 0x2000), 0U);
}

TEST_F(PciRootTest, FunctionMaskHoldsMessagesBack) {
    ASSERT_TRUE(root_->assign_resources().ok());
    enable_msix(0xc000);
    fill_vector(0, 0);
    device_->msix()->raise(0);
    EXPECT_TRUE(sink_.sent.empty());
    enable_msix(0x8000);
    EXPECT_EQ(sink_.sent.size(), 1U);
}

TEST_F(PciRootTest, IntxIsSwizzledSharedAndMaskable) {
    auto other = std::make_unique<TestDevice>("test1");
    TestDevice* seventh = other.get();
    ASSERT_TRUE(root_->add(7, std::move(other)).ok());
    device_->set_intx(true);
    seventh->set_intx(true);
    EXPECT_TRUE(lines_[3].level);
    EXPECT_EQ(config<std::uint16_t>(3, 6) & Status::kInterrupt, Status::kInterrupt);
    device_->set_intx(false);
    EXPECT_TRUE(lines_[3].level);
    set_config<std::uint16_t>(7, 4, Command::kIntxDisable);
    EXPECT_FALSE(lines_[3].level);
}

TEST_F(PciRootTest, LoadedRootBehavesAsTheSavedOne) {
    ASSERT_TRUE(root_->assign_resources().ok());
    enable_msix(0x8000);
    fill_vector(2, 1);
    device_->msix()->raise(2);
    state::StateWriter writer;
    ASSERT_TRUE(root_->save(writer).ok());
    root_->reset();
    EXPECT_EQ(load<std::uint8_t>(kLow + 7), 0xff);
    state::StateReader reader(writer.bytes());
    ASSERT_TRUE(root_->load(reader).ok());
    EXPECT_TRUE(reader.at_end());
    EXPECT_EQ(load<std::uint8_t>(kLow + 7), 7);
    store<std::uint32_t>(kLow + 0x1000 + 2 * 16 + 12, 0);
    EXPECT_EQ(sink_.sent.size(), 1U);
}

TEST_F(PciRootTest, StateOfAnotherDeviceIsRefused) {
    state::StateWriter writer;
    ASSERT_TRUE(root_->save(writer).ok());
    auto bytes = writer.bytes();
    const std::string_view name = "pci:test0";
    const auto at = std::search(bytes.begin(), bytes.end(), std::as_bytes(std::span(name)).begin(),
                                std::as_bytes(std::span(name)).end());
    *(at + static_cast<std::ptrdiff_t>(name.size()) + 6) ^= std::byte{1};
    state::StateReader reader(bytes);
    EXPECT_FALSE(root_->load(reader).ok());
}

}  // namespace
}  // namespace strata::pci
