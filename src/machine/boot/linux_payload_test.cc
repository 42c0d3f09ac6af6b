// LinuxPayload tests: a made-up kernel in every compression, moved and not, and everything that a
// hostile one can claim.
#include "machine/boot/linux_payload.h"

#include <memory>

#include <gtest/gtest.h>
#include <libdeflate.h>
#include <lzma.h>
#include <zstd.h>

#include "machine/boot/linux_bzimage.h"
#include "machine/boot/test_kernels.h"

namespace strata::machine::boot {
namespace {

using testing::Bytes;
using testing::put;

constexpr std::uint64_t kLoad = 0x1000000, kVirtual = 0xffffffff81000000, kAlignment = 0x200000;
constexpr std::size_t kText = 0x1000, kTextSize = 64, kInitSize = 0x100000;
constexpr std::size_t kWord64 = 16, kWordInverse = 32, kWord32 = 48;  // offsets in the text

/// A kernel of one segment with one relocation of each kind behind it.
Bytes vmlinux() {
    Bytes file = testing::elf64();
    file.resize(kText + kTextSize);
    put<std::uint64_t>(file, testing::kElfEntry, kLoad);
    put<std::uint64_t>(file, testing::kElfLoad + 8, kText);
    put<std::uint64_t>(file, testing::kElfLoad + 16, kVirtual);
    put<std::uint64_t>(file, testing::kElfLoad + 24, kLoad);
    put<std::uint64_t>(file, testing::kElfLoad + 32, kTextSize);
    put<std::uint64_t>(file, 40, file.size());  // section headers: none, at the end
    put<std::uint64_t>(file, kText + kWord64, kVirtual);
    put<std::uint32_t>(file, kText + kWordInverse, 0x12345678);
    put<std::uint32_t>(file, kText + kWord32, 0x81000000);
    const auto address = [](std::size_t offset) {
        return static_cast<std::uint32_t>(kVirtual + offset);
    };
    for (const std::uint32_t word :
         {0U, address(kWord64), 0U, address(kWordInverse), 0U, address(kWord32)}) {
        put<std::uint32_t>(file, file.size(), word);
    }
    return file;
}

void add_size(Bytes& packed, std::size_t size) {
    put<std::uint32_t>(packed, packed.size(), static_cast<std::uint32_t>(size));
}

Bytes xz(const Bytes& in) {
    Bytes out(::lzma_stream_buffer_bound(in.size()));
    std::size_t size = 0;
    EXPECT_EQ(::lzma_easy_buffer_encode(
                  0, LZMA_CHECK_CRC32, nullptr, reinterpret_cast<const std::uint8_t*>(in.data()),
                  in.size(), reinterpret_cast<std::uint8_t*>(out.data()), &size, out.size()),
              LZMA_OK);
    out.resize(size);
    add_size(out, in.size());
    return out;
}

Bytes zstd(const Bytes& in) {
    Bytes out(::ZSTD_compressBound(in.size()));
    out.resize(::ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 1));
    add_size(out, in.size());
    return out;
}

Bytes gzip(const Bytes& in) {
    const std::unique_ptr<libdeflate_compressor, void (*)(libdeflate_compressor*)> state(
        ::libdeflate_alloc_compressor(1), &::libdeflate_free_compressor);
    Bytes out(::libdeflate_gzip_compress_bound(state.get(), in.size()));
    out.resize(
        ::libdeflate_gzip_compress(state.get(), in.data(), in.size(), out.data(), out.size()));
    return out;
}

LinuxPayload payload_of(const Bytes& packed) {
    return {packed, kLoad, kInitSize, kAlignment};
}

template <typename T>
T word(const UnpackedKernel& kernel, std::size_t offset) {
    T value{};
    std::memcpy(&value, kernel.image.data() + kText + offset, sizeof(value));
    return value;
}

/// A bzImage with `packed` as its payload, 512 bytes into the protected-mode part.
Bytes bzimage_with(const Bytes& packed) {
    Bytes file = testing::bzimage();
    constexpr std::size_t kSetup = 5 * 512, kStub = 512;
    file.resize(kSetup + kStub);
    file.insert(file.end(), packed.begin(), packed.end());
    file.resize((file.size() + 15) & ~std::size_t{15});
    put<std::uint32_t>(file, 0x1f4, static_cast<std::uint32_t>((file.size() - kSetup) / 16));
    put<std::uint32_t>(file, 0x248, kStub);
    put<std::uint32_t>(file, 0x24c, static_cast<std::uint32_t>(packed.size()));
    return file;
}

std::uint8_t loadflags(const BootPlan& plan) {
    for (const Placement& placement : plan.placements) {
        if (placement.source == Source::Bytes && placement.address == kZeroPageAddress) {
            return static_cast<std::uint8_t>(placement.bytes[0x211]);
        }
    }
    return 0;
}

TEST(LinuxPayloadTest, EveryCompressionGivesTheSameKernel) {
    const Bytes kernel = vmlinux();
    for (const Bytes& packed : {xz(kernel), zstd(kernel), gzip(kernel)}) {
        const auto unpacked = unpack_kernel(payload_of(packed), std::nullopt);
        ASSERT_TRUE(unpacked.ok()) << unpacked.error().text();
        EXPECT_EQ(unpacked->image.size(), kernel.size());
        EXPECT_EQ(std::memcmp(unpacked->image.data(), kernel.data(), kernel.size()), 0);
        EXPECT_EQ(unpacked->elf.entry, kLoad);
        EXPECT_FALSE(unpacked->randomized);
    }
}

TEST(LinuxPayloadTest, RelocationsMoveByOneDistance) {
    const Bytes packed = xz(vmlinux());
    const auto unpacked = unpack_kernel(payload_of(packed), 7);
    ASSERT_TRUE(unpacked.ok()) << unpacked.error().text();
    const std::uint64_t distance = 7 * kAlignment;
    EXPECT_TRUE(unpacked->randomized);
    EXPECT_EQ(word<std::uint64_t>(*unpacked, kWord64), kVirtual + distance);
    EXPECT_EQ(word<std::uint32_t>(*unpacked, kWordInverse), 0x12345678 - distance);
    EXPECT_EQ(word<std::uint32_t>(*unpacked, kWord32), 0x81000000 + distance);
}

TEST(LinuxPayloadTest, EveryPlaceLiesInsideTheKernelsWindow) {
    const Bytes packed = zstd(vmlinux());
    const auto unpacked = unpack_kernel(payload_of(packed), ~0ULL);
    ASSERT_TRUE(unpacked.ok()) << unpacked.error().text();
    const std::uint64_t address = word<std::uint64_t>(*unpacked, kWord64);
    EXPECT_GE(address, kVirtual);
    EXPECT_LE(address + kInitSize, 0xffffffffc0000000);
    EXPECT_EQ(address % kAlignment, 0U);
}

TEST(LinuxPayloadTest, TableWithoutInverseRelocationsIsTaken) {
    Bytes kernel = vmlinux();
    const std::size_t table = kText + kTextSize;
    kernel.erase(kernel.begin() + table + 8, kernel.begin() + table + 16);
    const Bytes packed = gzip(kernel);
    const auto unpacked = unpack_kernel(payload_of(packed), 1);
    ASSERT_TRUE(unpacked.ok()) << unpacked.error().text();
    EXPECT_EQ(word<std::uint64_t>(*unpacked, kWord64), kVirtual + kAlignment);
    EXPECT_EQ(word<std::uint32_t>(*unpacked, kWordInverse), 0x12345678U);
    EXPECT_EQ(word<std::uint32_t>(*unpacked, kWord32), 0x81000000 + kAlignment);
}

TEST(LinuxPayloadTest, KernelWithoutRelocationsStaysWhereItIs) {
    Bytes kernel = vmlinux();
    kernel.resize(kText + kTextSize);
    const Bytes packed = gzip(kernel);
    const auto unpacked = unpack_kernel(payload_of(packed), 5);
    ASSERT_TRUE(unpacked.ok()) << unpacked.error().text();
    EXPECT_FALSE(unpacked->randomized);
    EXPECT_EQ(word<std::uint64_t>(*unpacked, kWord64), kVirtual);
}

TEST(LinuxPayloadTest, HostileRelocationsAreRefused) {
    const std::size_t table = kText + kTextSize;
    for (const std::uint32_t address : {0x80ffffffU, 0x8100003dU, 0x00001000U, 0xffffffffU}) {
        Bytes kernel = vmlinux();
        put<std::uint32_t>(kernel, table + 4, address);
        EXPECT_FALSE(unpack_kernel(payload_of(xz(kernel)), 1).ok()) << address;
    }
    Bytes shape = vmlinux();
    put<std::uint32_t>(shape, table, 0x81000000);  // no terminator in front
    EXPECT_FALSE(unpack_kernel(payload_of(xz(shape)), 1).ok());
    Bytes odd = vmlinux();
    odd.push_back(std::byte{0});
    EXPECT_FALSE(unpack_kernel(payload_of(xz(odd)), 1).ok());
    Bytes sections = vmlinux();
    put<std::uint64_t>(sections, 40, ~0ULL);
    EXPECT_FALSE(unpack_kernel(payload_of(xz(sections)), 1).ok());
}

TEST(LinuxPayloadTest, HostileSegmentsAreRefused) {
    struct Case {
        std::size_t offset;
        std::uint64_t value;
    };
    for (const Case& bad :
         {Case{testing::kElfLoad + 24, 0x100000}, Case{testing::kElfLoad + 24, kLoad + kInitSize},
          Case{testing::kElfLoad + 40, kInitSize + 1}, Case{testing::kElfLoad + 40, ~0ULL},
          Case{testing::kElfLoad + 40, 1}, Case{testing::kElfEntry, kLoad + kTextSize},
          Case{testing::kElfLoad + 8, ~0ULL}}) {
        Bytes kernel = vmlinux();
        put<std::uint64_t>(kernel, bad.offset, bad.value);
        EXPECT_FALSE(unpack_kernel(payload_of(zstd(kernel)), std::nullopt).ok())
            << bad.offset << " " << bad.value;
    }
}

TEST(LinuxPayloadTest, DamageAndHostileSizesAreRefused) {
    for (const auto& pack : {&xz, &zstd, &gzip}) {
        const Bytes packed = pack(vmlinux());
        Bytes damaged = packed;
        damaged[damaged.size() / 2] ^= std::byte{0xff};
        EXPECT_FALSE(unpack_kernel(payload_of(damaged), std::nullopt).ok());
        for (const std::uint32_t size :
             {0U, 1U, static_cast<std::uint32_t>(kInitSize), 0xffffffffU}) {
            Bytes wrong = packed;
            put<std::uint32_t>(wrong, wrong.size() - 4, size);
            EXPECT_FALSE(unpack_kernel(payload_of(wrong), std::nullopt).ok()) << size;
        }
        for (const std::size_t length :
             {std::size_t{0}, std::size_t{3}, std::size_t{8}, packed.size() / 2}) {
            const Bytes cut(packed.begin(), packed.begin() + static_cast<std::ptrdiff_t>(length));
            EXPECT_FALSE(unpack_kernel(payload_of(cut), std::nullopt).ok()) << length;
        }
    }
}

TEST(LinuxPayloadTest, BzImageIsEnteredAtItsKernel) {
    const Bytes file = bzimage_with(xz(vmlinux()));
    BootEnvironment machine = testing::environment();
    machine.random = 3;
    const auto plan = plan_bzimage(file, machine);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->entry.rip, kLoad);
    EXPECT_EQ(plan->entry.gpr[arch::x86::Rsi], kZeroPageAddress);
    EXPECT_EQ(plan->placements.front().source, Source::Unpacked);
    EXPECT_EQ(plan->placements.front().address, kLoad);
    EXPECT_EQ(plan->placements.front().size, kTextSize);
    EXPECT_EQ(loadflags(*plan) & 2, 2);  // told that it was moved
}

TEST(LinuxPayloadTest, NokaslrIsObeyed) {
    const Bytes file = bzimage_with(xz(vmlinux()));
    BootEnvironment machine = testing::environment();
    machine.random = 3;
    machine.command_line = "quiet nokaslr";
    const auto plan = plan_bzimage(file, machine);
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    std::uint64_t first = 0;
    std::memcpy(&first, plan->unpacked.data() + kText + kWord64, sizeof(first));
    EXPECT_EQ(first, kVirtual);
    EXPECT_EQ(loadflags(*plan) & 2, 0);
}

TEST(LinuxPayloadTest, StubIsEnteredWhenAskedForOrInDoubt) {
    BootEnvironment machine = testing::environment();
    const Bytes strange = bzimage_with(Bytes(64, std::byte{0x55}));
    const auto doubt = plan_bzimage(strange, machine);
    ASSERT_TRUE(doubt.ok()) << doubt.error().text();
    EXPECT_EQ(doubt->entry.rip, kLoad + 0x200);
    machine.kernel_entry = KernelEntry::Decompress;
    EXPECT_FALSE(plan_bzimage(strange, machine).ok());
    machine.kernel_entry = KernelEntry::Stub;
    const Bytes good = bzimage_with(xz(vmlinux()));
    const auto asked = plan_bzimage(good, machine);
    ASSERT_TRUE(asked.ok()) << asked.error().text();
    EXPECT_EQ(asked->entry.rip, kLoad + 0x200);
}

TEST(LinuxPayloadTest, PayloadOutsideTheFileIsLeftToTheStub) {
    Bytes file = bzimage_with(xz(vmlinux()));
    put<std::uint32_t>(file, 0x24c, 0xfffffff0);
    const auto plan = plan_bzimage(file, testing::environment());
    ASSERT_TRUE(plan.ok()) << plan.error().text();
    EXPECT_EQ(plan->entry.rip, kLoad + 0x200);
}

TEST(LinuxPayloadTest, WordsAreWholeWords) {
    EXPECT_TRUE(has_word("a nokaslr b", "nokaslr"));
    EXPECT_TRUE(has_word("nokaslr", "nokaslr"));
    EXPECT_FALSE(has_word("nokaslrx xnokaslr nokaslr=1", "nokaslr"));
    EXPECT_FALSE(has_word("", "nokaslr"));
}

}  // namespace
}  // namespace strata::machine::boot
