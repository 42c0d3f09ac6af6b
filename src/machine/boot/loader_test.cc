// Loader tests: each protocol's good file, and every way in which a file can be bad.
#include "machine/boot/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "arch/x86/registers.h"
#include "base/byte_reader.h"
#include "base/endian.h"
#include "machine/boot/test_kernels.h"
#include "memory/guest_ram.h"

namespace strata::machine::boot {
namespace {

using testing::Bytes;
using ::testing::HasSubstr;
using testing::put;

const Placement* placed_at(const BootPlan& plan, std::uint64_t address) {
    for (const Placement& placement : plan.placements) {
        if (placement.address == address) {
            return &placement;
        }
    }
    return nullptr;
}

template <typename T>
T field(const BootPlan& plan, std::uint64_t address, std::size_t offset) {
    const Placement* placement = placed_at(plan, address);
    return placement == nullptr ? T{} : ByteReader(placement->bytes).read_at<T>(offset).value();
}

std::string refusal(const Bytes& file,
                    const BootEnvironment& environment = testing::environment()) {
    const auto plan = plan_boot(file, environment);
    return plan.ok() ? "accepted" : plan.error().text();
}

TEST(BzImageTest, LoadsAtPreferredAddressWithZeroPage) {
    const auto plan = plan_boot(testing::bzimage(), testing::environment());
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->kind, KernelKind::LinuxBzImage);
    const Placement* kernel = placed_at(*plan, 0x1000000);
    ASSERT_NE(kernel, nullptr);
    EXPECT_EQ(kernel->source, Source::Kernel);
    EXPECT_EQ(kernel->file_offset, 5 * 512);
    EXPECT_EQ(kernel->size, 4096);
    EXPECT_EQ(field<Le32>(*plan, kZeroPageAddress, 0x202), 0x53726448);
    EXPECT_EQ(field<Le64>(*plan, kZeroPageAddress, 0x70), 0xe0000);
    EXPECT_EQ(field<std::uint8_t>(*plan, kZeroPageAddress, 0x1e8), 3);
    EXPECT_EQ(field<Le64>(*plan, kZeroPageAddress, 0x2d0 + 40), 0x100000);
    EXPECT_EQ(field<Le32>(*plan, kZeroPageAddress, 0x228), kCommandLineAddress);
    EXPECT_EQ(field<std::uint8_t>(*plan, kZeroPageAddress, 0x210), 0xff);
    EXPECT_EQ(field<char>(*plan, kCommandLineAddress, 0), 'c');
}

TEST(BzImageTest, EntersIn64BitModeWithIdentityMap) {
    const auto plan = plan_boot(testing::bzimage(), testing::environment());
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->entry.rip, 0x1000200);
    EXPECT_EQ(plan->entry.gpr[arch::x86::Rsi], kZeroPageAddress);
    EXPECT_EQ(plan->entry.cr3, kPageTableAddress);
    EXPECT_EQ(plan->entry.efer, arch::x86::efer::kLme | arch::x86::efer::kLma);
    EXPECT_EQ(plan->entry.segments[arch::x86::Cs].selector, 0x10);
    EXPECT_EQ(field<Le64>(*plan, kGdtAddress, 16), 0x00af9b000000ffff);
    EXPECT_EQ(field<Le64>(*plan, kGdtAddress, 24), 0x00cf93000000ffff);
    EXPECT_EQ(field<Le64>(*plan, kPageTableAddress, 0), kPageTableAddress + 0x1003);
    EXPECT_EQ(field<Le64>(*plan, kPageTableAddress, 0x1018), kPageTableAddress + 0x5003);
    EXPECT_EQ(field<Le64>(*plan, kPageTableAddress, 0x5ff8), 0xffe00083);
}

TEST(BzImageTest, InitrdLiesAtTheTopOfRam) {
    BootEnvironment environment = testing::environment();
    environment.initrd_size = 5000;
    const auto plan = plan_boot(testing::bzimage(), environment);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    const Placement* initrd = placed_at(*plan, (64 << 20) - 8192);
    ASSERT_NE(initrd, nullptr);
    EXPECT_EQ(initrd->source, Source::Initrd);
    EXPECT_EQ(field<Le32>(*plan, kZeroPageAddress, 0x218), (64 << 20) - 8192);
    EXPECT_EQ(field<Le32>(*plan, kZeroPageAddress, 0x21c), 5000);
}

TEST(BzImageTest, InitrdThatMeetsTheKernelGoesBelowIt) {
    BootEnvironment environment = testing::environment();
    environment.memory_map[2].size =
        0x1100000 - 0x100000;  // RAM ends where the kernel's init_size ends
    environment.initrd_size = 0x10000;
    const auto plan = plan_boot(testing::bzimage(), environment);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_NE(placed_at(*plan, 0x1000000 - 0x10000), nullptr);
}

TEST(BzImageTest, InitrdThatDoesNotFitIsRefused) {
    BootEnvironment environment = testing::environment();
    environment.initrd_size = 60 << 20;
    EXPECT_THAT(refusal(testing::bzimage(), environment), HasSubstr("does not fit"));
    environment.initrd_size = ~0ULL;
    EXPECT_THAT(refusal(testing::bzimage(), environment), HasSubstr("does not fit"));
}

TEST(BzImageTest, InitrdLimitOfTheKernelIsKept) {
    BootEnvironment environment = testing::environment();
    environment.initrd_size = 4096;
    Bytes file = testing::bzimage();
    put<std::uint32_t>(file, 0x22c, 0x1ffffff);
    const auto plan = plan_boot(file, environment);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_NE(placed_at(*plan, 0x2000000 - 0x1000), nullptr);
}

TEST(BzImageTest, BadHeadersAreRefused) {
    Bytes file = testing::bzimage();
    put<std::uint16_t>(file, 0x206, 0x20b);
    EXPECT_THAT(refusal(file), HasSubstr("boot protocol 2.11 is too old"));
    file = testing::bzimage();
    put<std::uint16_t>(file, 0x236, 0);
    EXPECT_THAT(refusal(file), HasSubstr("no 64-bit entry point"));
    file = testing::bzimage();
    put<std::uint8_t>(file, 0x211, 0);
    EXPECT_THAT(refusal(file), HasSubstr("zImage"));
    file = testing::bzimage();
    put<std::uint64_t>(file, 0x258, ~0ULL);
    EXPECT_THAT(refusal(file), HasSubstr("not below 4 GiB"));
    file = testing::bzimage();
    put<std::uint64_t>(file, 0x258, 0x1000);
    EXPECT_THAT(refusal(file), HasSubstr("loader's area"));
    file = testing::bzimage();
    put<std::uint32_t>(file, 0x1f4, 0);
    EXPECT_THAT(refusal(file), HasSubstr("no kernel behind"));
}

TEST(BzImageTest, TruncatedFilesAreRefused) {
    Bytes file = testing::bzimage();
    file.resize(file.size() - 100);
    EXPECT_THAT(refusal(file), HasSubstr("truncated"));
    file.resize(0x230);
    EXPECT_THAT(refusal(file), HasSubstr("truncated inside the setup header"));
    file.resize(0x206);
    EXPECT_THAT(refusal(file), HasSubstr("truncated"));
}

TEST(BzImageTest, TooLittleMemoryIsRefused) {
    BootEnvironment environment = testing::environment();
    environment.memory_map[2].size = 1 << 20;
    EXPECT_THAT(refusal(testing::bzimage(), environment), HasSubstr("give it more memory"));
}

TEST(BzImageTest, CommandLineLongerThanTheKernelTakesIsRefused) {
    BootEnvironment environment = testing::environment();
    environment.command_line.assign(2048, 'x');
    EXPECT_THAT(refusal(testing::bzimage(), environment), HasSubstr("at most 2047"));
}

TEST(PvhTest, EntersIn32BitModeWithStartInfo) {
    BootEnvironment environment = testing::environment();
    environment.initrd_size = 100;
    const auto plan = plan_boot(testing::elf64(), environment);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->kind, KernelKind::Pvh);
    EXPECT_EQ(plan->entry.rip, 0x100000);
    EXPECT_EQ(plan->entry.gpr[arch::x86::Rbx], kBootInfoAddress);
    EXPECT_EQ(plan->entry.cr0, arch::x86::cr0::kPe | arch::x86::cr0::kEt);
    EXPECT_EQ(field<Le32>(*plan, kBootInfoAddress, 0), 0x336ec578);
    EXPECT_EQ(field<Le32>(*plan, kBootInfoAddress, 12), 1);
    EXPECT_EQ(field<Le64>(*plan, kBootInfoAddress, 32), 0xe0000);
    EXPECT_EQ(field<Le32>(*plan, kBootInfoAddress, 48), 3);
    EXPECT_EQ(field<Le64>(*plan, kBootInfoAddress + 0x100, 8), 100);
}

TEST(PvhTest, EntryOutsideSegmentsIsRefused) {
    Bytes file = testing::elf64();
    put<std::uint64_t>(file, testing::kElfNoteBody + 16, 0x200000);
    EXPECT_THAT(refusal(file), HasSubstr("outside its segments"));
    put<std::uint64_t>(file, testing::kElfNoteBody + 16, 0x100100000);
    EXPECT_THAT(refusal(file), HasSubstr("outside its segments"));
}

TEST(PvhTest, FourByteNoteIsAccepted) {
    Bytes file = testing::elf64();
    put<std::uint32_t>(file, testing::kElfNoteBody + 4, 4);
    EXPECT_EQ(refusal(file), "accepted");
}

TEST(ElfTest, HostileSegmentsAreRefused) {
    Bytes file = testing::elf64();
    put<std::uint64_t>(file, testing::kElfLoad + 8, ~0ULL);
    EXPECT_THAT(refusal(file), HasSubstr("outside the file"));
    file = testing::elf64();
    put<std::uint64_t>(file, testing::kElfLoad + 32, 17);
    EXPECT_THAT(refusal(file), HasSubstr("outside the file"));
    file = testing::elf64();
    put<std::uint64_t>(file, testing::kElfLoad + 40, 8);
    EXPECT_THAT(refusal(file), HasSubstr("larger in the file"));
    file = testing::elf64();
    put<std::uint64_t>(file, testing::kElfLoad + 40, ~0ULL);
    EXPECT_THAT(refusal(file), HasSubstr("wraps around"));
    file = testing::elf64();
    put<std::uint64_t>(file, testing::kElfLoad + 40, 1ULL << 40);
    EXPECT_THAT(refusal(file), HasSubstr("no RAM"));
    file = testing::elf64();
    put<std::uint64_t>(file, testing::kElfLoad + 24, 0xa0000);
    EXPECT_THAT(refusal(file), HasSubstr("no RAM"));
    file = testing::elf64();
    put<std::uint32_t>(file, testing::kElfLoad, 2);
    EXPECT_THAT(refusal(file), HasSubstr("without a segment to load"));
}

TEST(ElfTest, OverlappingSegmentsAreRefused) {
    Bytes file = testing::elf64();
    put<std::uint16_t>(file, testing::kElfHeaderCount, 3);
    std::memcpy(file.data() + testing::kElfLoad + 112, file.data() + testing::kElfLoad, 56);
    put<std::uint64_t>(file, testing::kElfLoad + 112 + 24, 0x101fff);
    EXPECT_THAT(refusal(file), HasSubstr("overlaps"));
}

TEST(ElfTest, BadHeadersAreRefused) {
    Bytes file = testing::elf64();
    put<std::uint16_t>(file, 18, 183);
    EXPECT_THAT(refusal(file), HasSubstr("not for x86"));
    file = testing::elf64();
    put<std::uint16_t>(file, 16, 1);
    EXPECT_THAT(refusal(file), HasSubstr("not an executable"));
    file = testing::elf64();
    put<std::uint64_t>(file, 32, ~0ULL - 10);
    EXPECT_THAT(refusal(file), HasSubstr("truncated"));
    file = testing::elf64();
    put<std::uint16_t>(file, testing::kElfHeaderCount, 0xffff);
    EXPECT_THAT(refusal(file), HasSubstr("too many"));
    file = testing::elf64();
    file.resize(30);
    EXPECT_THAT(refusal(file), HasSubstr("truncated"));
}

TEST(ElfTest, WithoutAnEntryNoteOrMultibootHeaderIsRefused) {
    Bytes file = testing::elf64();
    put<std::uint32_t>(file, testing::kElfNote, 0);
    EXPECT_THAT(refusal(file), HasSubstr("give a bzImage, a PVH or multiboot ELF"));
}

TEST(MultibootTest, ElfIsLoadedBySegments) {
    BootEnvironment environment = testing::environment();
    environment.initrd_size = 3;
    const auto plan = plan_boot(testing::multiboot_elf(), environment);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->kind, KernelKind::Multiboot);
    EXPECT_EQ(plan->entry.gpr[arch::x86::Rax], 0x2badb002);
    EXPECT_EQ(plan->entry.gpr[arch::x86::Rbx], kBootInfoAddress);
    EXPECT_EQ(field<Le32>(*plan, kBootInfoAddress, 4), 0x9fc00 >> 10);
    EXPECT_EQ(field<Le32>(*plan, kBootInfoAddress, 8), (63 << 20) >> 10);
    EXPECT_EQ(field<Le32>(*plan, kBootInfoAddress, 20), 1);
    EXPECT_EQ(field<Le32>(*plan, kBootInfoAddress + 0x100, 4), (64 << 20) - 4096 + 3);
    EXPECT_EQ(placed_at(*plan, kCommandLineAddress)->size, sizeof("k console=ttyS0"));
}

TEST(MultibootTest, VirtualEntryAddressIsTranslated) {
    Bytes file = testing::multiboot_elf();
    put<std::uint64_t>(file, testing::kElfEntry, 0xffffffff80100008);
    const auto plan = plan_boot(file, testing::environment());
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->entry.rip, 0x100008);
}

TEST(MultibootTest, PlainImageIsLoadedByItsHeader) {
    const auto plan = plan_boot(testing::multiboot_plain(), testing::environment());
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->entry.rip, 0x100040);
    EXPECT_EQ(placed_at(*plan, 0x100000)->size, 0x100);
}

TEST(MultibootTest, LowImageLoadsBetweenTheLoadersPieces) {
    Bytes file = testing::multiboot_plain();
    const auto move_to = [&](std::uint32_t base) {
        put<std::uint32_t>(file, 0x1c, base + 0x10);
        put<std::uint32_t>(file, 0x20, base);
        put<std::uint32_t>(file, 0x24, base + 0x100);
        put<std::uint32_t>(file, 0x28, base + 0x6000);
        put<std::uint32_t>(file, 0x2c, base + 0x40);
    };
    move_to(0x8000);
    const auto plan = plan_boot(file, testing::environment());
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    // The firmware's part runs first: it ends in a jump to the entry point. Vector 8 is the tick's.
    const Placement* first = placed_at(*plan, plan->entry.rip);
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(first->bytes[first->size - 5], std::byte{0xe9});
    EXPECT_EQ(plan->entry.rip + first->size + field<Le32>(*plan, plan->entry.rip, first->size - 4),
              0x8040);
    EXPECT_EQ(field<Le32>(*plan, 0, 8 * 4), 0x543);
    move_to(0x6800);
    EXPECT_THAT(refusal(file), HasSubstr("the loader's area below 0x7000"));
    move_to(0x1b000);
    EXPECT_THAT(refusal(file), HasSubstr("the loader's area below 0x30000"));
    move_to(0x30000);
    EXPECT_TRUE(plan_boot(file, testing::environment()).ok());
}

TEST(MultibootTest, HostileHeadersAreRefused) {
    Bytes file = testing::multiboot_plain();
    put<std::uint32_t>(file, 0x20, 0x100020);
    EXPECT_THAT(refusal(file), HasSubstr("own place"));
    file = testing::multiboot_plain();
    put<std::uint32_t>(file, 0x20, 0x0ff000);
    EXPECT_THAT(refusal(file), HasSubstr("own place"));
    file = testing::multiboot_plain();
    put<std::uint32_t>(file, 0x24, 0x200000);
    EXPECT_THAT(refusal(file), HasSubstr("more than the file holds"));
    file = testing::multiboot_plain();
    put<std::uint32_t>(file, 0x28, 0x100001);
    EXPECT_THAT(refusal(file), HasSubstr("bss ends before"));
    file = testing::multiboot_plain();
    put<std::uint32_t>(file, 0x28, 0xffffffff);
    EXPECT_THAT(refusal(file), HasSubstr("no RAM"));
    file = testing::multiboot_plain();
    put<std::uint32_t>(file, 0x2c, 0x300000);
    EXPECT_THAT(refusal(file), HasSubstr("outside what is loaded"));
    file = testing::multiboot_plain();
    put<std::uint32_t>(file, 0x14, 0x10004);
    put<std::uint32_t>(file, 0x18, 0U - 0x1badb002 - 0x10004);
    EXPECT_THAT(refusal(file), HasSubstr("does not offer"));
    file.resize(0x1c);
    EXPECT_NE(refusal(file), "accepted");
}

TEST(LoaderTest, FilesThatAreNoKernelAreNamed) {
    EXPECT_EQ(refusal(Bytes(5000)),
              "'k' is not a kernel: unknown format; give a bzImage, a PVH or multiboot ELF");
    EXPECT_THAT(refusal({}), HasSubstr("the file is empty"));
}

class BootFilesTest : public ::testing::Test {
  protected:
    void TearDown() override { ::unlink(path_.c_str()); }
    void write(const Bytes& bytes) {
        const UniqueFd fd(::mkstemp(path_.data()));
        ASSERT_EQ(::write(fd.get(), bytes.data(), bytes.size()),
                  static_cast<ssize_t>(bytes.size()));
    }
    std::string path_ = "/tmp/strata-loader-XXXXXX";
};

TEST_F(BootFilesTest, LoadFillsGuestMemory) {
    Bytes kernel = testing::multiboot_plain();
    put<std::uint32_t>(kernel, 0x40, 0x12345678);
    write(kernel);
    const auto ram = memory::GuestRam::create(64 << 20, 3ULL << 30).value();
    const auto files = BootFiles::open(path_, path_);
    ASSERT_TRUE(files.ok()) << files.error().text();
    const auto plan = (*files)->load(testing::environment(), *ram);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(ram->load<Le32>(memory::GuestAddress(0x100040)).value(), 0x12345678);
    EXPECT_EQ(ram->load<Le32>(memory::GuestAddress((64 << 20) - 4096 + 0x40)).value(), 0x12345678);
}

TEST_F(BootFilesTest, MissingFileDirectoryAndShrunkFileAreRefused) {
    EXPECT_EQ(BootFiles::open("/nonexistent", "").error().kind(), ErrorKind::NotFound);
    EXPECT_THAT(BootFiles::open("/tmp", "").error().text(), HasSubstr("not a regular file"));
    write(testing::multiboot_plain());
    const auto files = BootFiles::open(path_, "");
    ASSERT_TRUE(files.ok());
    ASSERT_EQ(::truncate(path_.c_str(), 10), 0);
    EXPECT_THAT((*files)->plan(testing::environment()).error().text(), HasSubstr("became shorter"));
}

}  // namespace
}  // namespace strata::machine::boot
