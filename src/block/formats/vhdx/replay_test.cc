// VHDX images whose log is replayed by opening: hostile logs cost no more than the file is large.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/formats/vhdx/header.h"
#include "block/registry.h"

namespace strata::block::vhdx {
namespace {

constexpr std::uint64_t kFile = 6 * kMiB;
const RawUuid kId = {std::byte{1}, std::byte{2}};

/// A log of one entry: `length` zeros at `offset`.
std::vector<std::byte> log_of_zeros(std::uint64_t offset, std::uint64_t length) {
    std::vector<std::byte> out(4096);
    put(out, 0, Le32(0x65676F6CU));
    put(out, 8, Le32(4096U));
    put(out, 16, Le64(7ULL));
    put(out, 24, Le32(1U));
    put(out, 32, kId);
    put(out, 48, Le64(kFile));
    put(out, 56, Le64(kFile));
    put(out, 64, Le32(0x6F72657AU));
    put(out, 72, Le64(length));
    put(out, 80, Le64(offset));
    put(out, 88, Le64(7ULL));
    put(out, 4, Le32(crc32c(out)));
    return out;
}

void place(int fd, std::uint64_t offset, std::span<const std::byte> bytes) {
    ASSERT_EQ(::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
}

TEST(VhdxReplayTest, ALogOfMoreZerosThanTheFileHoldsWritesNoneBehindIt) {
    UniqueFd fd(::memfd_create("vhdx", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(fd.get(), kFile), 0);
    const UniqueFd same(::dup(fd.get()));
    Parameters parameters{.block = kMiB, .size = 4 * kMiB};
    place(fd.get(), 0, serialise_identifier());
    place(fd.get(), kHeaderOffset[0],
          serialise_header({.sequence = 1, .log = kId, .log_length = kMiB, .log_offset = kMiB}));
    place(fd.get(), kRegionOffset[0],
          serialise_regions({.bat = {3 * kMiB, kMiB}, .metadata = {2 * kMiB, kMiB}}));
    place(fd.get(), 2 * kMiB, serialise_metadata(parameters));
    place(fd.get(), 5 * kMiB, std::vector<std::byte>(kMiB, std::byte{9}));
    place(fd.get(), kMiB, log_of_zeros(5 * kMiB + 4096, 1ULL << 55));
    auto loop = Loop::create({.engine = IoEngine::Threads, .depth = 2, .workers = 1});
    ASSERT_TRUE(loop.ok());
    OpenOptions options;
    options.path = "zeros";
    options.format = "vhdx";
    options.lock = false;
    options.fd = std::move(fd);
    const auto node = (*loop)->run(open_node(**loop, std::move(options)));
    ASSERT_TRUE(node.ok()) << node.error().text();
    EXPECT_EQ((*node)->size(), 4 * kMiB);
    struct stat about {};
    ASSERT_EQ(::fstat(same.get(), &about), 0);
    EXPECT_EQ(about.st_size, static_cast<off_t>(kFile));
    std::vector<std::byte> ends(2);
    ASSERT_EQ(::pread(same.get(), ends.data(), 1, 5 * kMiB + 4095), 1);
    ASSERT_EQ(::pread(same.get(), ends.data() + 1, 1, 6 * kMiB - 1), 1);
    EXPECT_EQ(ends, (std::vector<std::byte>{std::byte{9}, std::byte{0}}));
    EXPECT_TRUE((*loop)->run((*node)->close()).ok());
}

}  // namespace
}  // namespace strata::block::vhdx
