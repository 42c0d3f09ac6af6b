// DiskImage: the suite that every format and engine passes, and raw's own corners.
#include <cerrno>
#include <fstream>
#include <numeric>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/async_io.h"
#include "block/disk_image.h"

namespace strata::block {
namespace {

struct Mode {
    IoEngine engine;
    CacheMode cache;
};

class DiskImageTest : public testing::TestWithParam<Mode> {
  protected:
    void SetUp() override {
        if (GetParam().engine == IoEngine::Uring && !uring_available()) {
            GTEST_SKIP() << "io_uring is not available here";
        }
        path_ = testing::TempDir() + "disk-" + std::to_string(::getpid()) + ".raw";
        make_file(1 << 20);
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }
    void make_file(off_t size) {
        const UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
        ASSERT_EQ(::ftruncate(fd.get(), size), 0);
    }
    void open() {
        DiskOptions options;
        options.path = path_;
        options.engine = GetParam().engine;
        options.cache = GetParam().cache;
        auto disk = open_disk(std::move(options));
        ASSERT_TRUE(disk.ok()) << disk.error().text();
        disk_ = std::move(disk).value();
        auto queue = disk_->open_queue(4);
        ASSERT_TRUE(queue.ok());
        queue_ = std::move(queue).value();
    }
    int run(DiskOp op, std::uint64_t offset, std::uint64_t length, std::byte* data = nullptr) {
        DiskRequest request;
        request.op = op;
        request.offset = offset;
        request.length = length;
        if (data != nullptr) {
            // Two vectors, the second one misaligned for O_DIRECT.
            request.buffers = {{data, length / 2 + 1},
                               {data + length / 2 + 1, length - length / 2 - 1}};
        }
        return finish(std::move(request));
    }
    int finish(DiskRequest request) {
        request.token = 42;
        queue_->submit(std::move(request));
        queue_->kick();
        std::vector<DiskCompletion> done;
        while (done.empty()) {
            queue_->wait();
            queue_->reap(done);
        }
        EXPECT_EQ(done.front().token, 42U);
        return done.front().error;
    }
    std::string path_;
    std::unique_ptr<DiskImage> disk_;
    std::unique_ptr<DiskQueue> queue_;
};

std::vector<std::byte> pattern(std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t at = 0; at < size; ++at) {
        bytes[at] = static_cast<std::byte>(at * 7 + 1);
    }
    return bytes;
}

TEST_P(DiskImageTest, WrittenBytesAreReadBack) {
    open();
    auto out = pattern(8192);
    EXPECT_EQ(run(DiskOp::Write, 512, out.size(), out.data()), 0);
    EXPECT_EQ(run(DiskOp::Flush, 0, 0), 0);
    std::vector<std::byte> in(8192);
    EXPECT_EQ(run(DiskOp::Read, 512, in.size(), in.data()), 0);
    EXPECT_EQ(in, out);
}

TEST_P(DiskImageTest, AlignedTransferWorks) {
    open();
    alignas(4096) static std::array<std::byte, 8192> buffer;
    buffer.fill(std::byte{0x5a});
    DiskRequest request;
    request.op = DiskOp::Write;
    request.offset = 4096;
    request.length = buffer.size();
    request.buffers = {{buffer.data(), buffer.size()}};
    EXPECT_EQ(finish(request), 0);
    buffer.fill(std::byte{0});
    request.op = DiskOp::Read;
    EXPECT_EQ(finish(request), 0);
    EXPECT_EQ(buffer[8191], std::byte{0x5a});
}

TEST_P(DiskImageTest, ZeroedRangeReadsAsZeros) {
    open();
    auto out = pattern(4096);
    EXPECT_EQ(run(DiskOp::Write, 0, out.size(), out.data()), 0);
    EXPECT_EQ(run(DiskOp::WriteZeroes, 512, 1024), 0);
    EXPECT_EQ(run(DiskOp::Discard, 2048, 512), 0);
    std::vector<std::byte> in(4096);
    EXPECT_EQ(run(DiskOp::Read, 0, in.size(), in.data()), 0);
    EXPECT_EQ(in[511], out[511]);
    EXPECT_TRUE(std::all_of(in.begin() + 512, in.begin() + 1536,
                            [](std::byte each) { return each == std::byte{0}; }));
    EXPECT_EQ(in[1536], out[1536]);
}

TEST_P(DiskImageTest, RequestPastTheEndFails) {
    open();
    auto data = pattern(1024);
    EXPECT_EQ(run(DiskOp::Read, (1 << 20) - 512, 1024, data.data()), EIO);
    EXPECT_EQ(run(DiskOp::Write, ~0ULL - 511, 1024, data.data()), EIO);
    EXPECT_EQ(run(DiskOp::WriteZeroes, 1 << 20, 512), EIO);
}

TEST_P(DiskImageTest, OddSizedFileIsRoundedUp) {
    make_file(1000);
    open();
    EXPECT_EQ(disk_->traits().size, 1024U);
    auto data = pattern(512);
    EXPECT_EQ(run(DiskOp::Read, 512, 512, data.data()), 0);
    EXPECT_EQ(data[500], std::byte{0});
    auto out = pattern(512);
    EXPECT_EQ(run(DiskOp::Write, 512, 512, out.data()), 0);
    EXPECT_EQ(run(DiskOp::Read, 512, 512, data.data()), 0);
    EXPECT_EQ(data, out);
}

TEST_P(DiskImageTest, ManyRequestsBeyondTheDepthComplete) {
    open();
    std::vector<std::vector<std::byte>> buffers;
    for (unsigned index = 0; index < 64; ++index) {
        buffers.push_back(std::vector<std::byte>(512, static_cast<std::byte>(index)));
        DiskRequest request;
        request.op = DiskOp::Write;
        request.offset = index * 512ULL;
        request.length = 512;
        request.buffers = {{buffers.back().data(), 512}};
        request.token = index;
        queue_->submit(std::move(request));
    }
    queue_->kick();
    std::vector<DiskCompletion> done;
    while (done.size() < 64) {
        queue_->wait();
        queue_->reap(done);
    }
    EXPECT_EQ(queue_->in_flight(), 0U);
    std::vector<std::byte> in(512);
    EXPECT_EQ(run(DiskOp::Read, 63 * 512, 512, in.data()), 0);
    EXPECT_EQ(in[0], std::byte{63});
}

INSTANTIATE_TEST_SUITE_P(Modes, DiskImageTest,
                         testing::Values(Mode{IoEngine::Uring, CacheMode::Writeback},
                                         Mode{IoEngine::Threads, CacheMode::Writeback},
                                         Mode{IoEngine::Auto, CacheMode::Writethrough},
                                         Mode{IoEngine::Auto, CacheMode::None},
                                         Mode{IoEngine::Threads, CacheMode::Unsafe}));

class RawOpenTest : public testing::Test {
  protected:
    void SetUp() override {
        path_ = testing::TempDir() + "open-" + std::to_string(::getpid()) + ".raw";
        std::ofstream(path_) << std::string(4096, 'x');
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }
    Result<std::unique_ptr<DiskImage>> open(bool read_only) {
        DiskOptions options;
        options.path = path_;
        options.read_only = read_only;
        return open_disk(std::move(options));
    }
    std::string path_;
};

TEST_F(RawOpenTest, MissingFileIsNamedWithAdvice) {
    DiskOptions options;
    options.path = "/nowhere/disk.raw";
    const auto disk = open_disk(std::move(options));
    ASSERT_FALSE(disk.ok());
    EXPECT_EQ(disk.error().kind(), ErrorKind::NotFound);
    EXPECT_NE(disk.error().text().find("/nowhere/disk.raw"), std::string::npos);
    EXPECT_NE(disk.error().text().find("truncate"), std::string::npos);
}

TEST_F(RawOpenTest, EmptyFileDirectoryAndUnknownFormatAreRefused) {
    std::ofstream(path_, std::ios::trunc).flush();
    EXPECT_EQ(open(false).error().kind(), ErrorKind::InvalidArgument);
    DiskOptions options;
    options.path = "/tmp";
    options.read_only = true;
    EXPECT_FALSE(open_disk(std::move(options)).ok());
    DiskOptions other;
    other.path = path_;
    other.format = "zip";
    EXPECT_EQ(open_disk(std::move(other)).error().kind(), ErrorKind::NotSupported);
}

TEST_F(RawOpenTest, SecondWriterIsRefusedReadersShare) {
    {
        const auto first = open(false);
        ASSERT_TRUE(first.ok());
        EXPECT_EQ(open(false).error().kind(), ErrorKind::WrongState);
        EXPECT_FALSE(open(true).ok());
    }
    const auto reader = open(true);
    EXPECT_TRUE(reader.ok());
    EXPECT_TRUE(open(true).ok());
    EXPECT_FALSE(open(false).ok());
}

TEST_F(RawOpenTest, ReadOnlyDiskRefusesWrites) {
    auto disk = open(true);
    ASSERT_TRUE(disk.ok());
    auto queue = (*disk)->open_queue(1);
    ASSERT_TRUE(queue.ok());
    DiskRequest request;
    request.op = DiskOp::WriteZeroes;
    request.length = 512;
    (*queue)->submit(request);
    std::vector<DiskCompletion> done;
    (*queue)->reap(done);
    ASSERT_EQ(done.size(), 1U);
    EXPECT_EQ(done[0].error, EROFS);
}

TEST_F(RawOpenTest, PassedDescriptorForReadingOnlyNeedsReadonly) {
    DiskOptions options;
    options.path = "handed over";
    options.fd = UniqueFd(::open(path_.c_str(), O_RDONLY));
    const auto disk = open_disk(std::move(options));
    ASSERT_FALSE(disk.ok());
    EXPECT_EQ(disk.error().kind(), ErrorKind::PermissionDenied);
}

TEST_F(RawOpenTest, ModesAreParsed) {
    EXPECT_EQ(*parse_cache_mode("none"), CacheMode::None);
    EXPECT_NE(parse_cache_mode("nine").error().text().find("writeback"), std::string::npos);
    EXPECT_EQ(*parse_io_engine("threads"), IoEngine::Threads);
}

}  // namespace
}  // namespace strata::block
