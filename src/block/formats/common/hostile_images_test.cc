// Hostile images of every format: bytes changed, files cut off: clear errors or reads in bounds,
// never more.
#include <random>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/registry.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 3U << 20;

struct Kind {
    const char* format;
    OptionList options;
};

class HostileImagesTest : public testing::Test {
  protected:
    void SetUp() override {
        auto loop = Loop::create({.engine = IoEngine::Threads, .depth = 4, .workers = 1});
        ASSERT_TRUE(loop.ok());
        loop_ = std::move(loop).value();
        path_ = testing::TempDir() + "hostile-" + std::to_string(::getpid());
    }
    void TearDown() override { (void)::unlink(path_.c_str()); }

    [[nodiscard]] Result<NodePtr> open(const char* format, bool read_only) const {
        OpenOptions options;
        options.path = path_;
        options.format = format;
        options.read_only = read_only;
        return loop_->run(open_node(*loop_, std::move(options)));
    }
    /// A small image with a little in it; its bytes.
    std::vector<std::byte> image(const Kind& kind) {
        CreateRequest request;
        request.path = path_;
        request.size = kSize;
        request.options = kind.options;
        const auto made = loop_->run(create_image(*loop_, kind.format, std::move(request)));
        EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().text());
        auto node = open(kind.format, false);
        EXPECT_TRUE(node.ok()) << (node.ok() ? "" : node.error().text());
        if (node.ok()) {
            const std::vector<std::byte> content(131072, std::byte{7});
            EXPECT_TRUE(loop_->run((*node)->write(131072, Buffers::of(content))).ok());
            EXPECT_TRUE(loop_->run((*node)->close()).ok());
            *node = nullptr;  // and its lock
        }
        return whole_file();
    }
    [[nodiscard]] std::vector<std::byte> whole_file() const {
        OpenOptions options;
        options.path = path_;
        options.format = "file";
        options.read_only = true;
        auto file = loop_->run(open_node(*loop_, std::move(options)));
        std::vector<std::byte> bytes(file.ok() ? (*file)->size() : 0);
        EXPECT_TRUE(file.ok() && loop_->run((*file)->read(0, Buffers(std::span(bytes)))).ok());
        return bytes;
    }
    /// Opens `bytes` as an image and does everything to it that an image is for.
    void use(const char* format, std::span<const std::byte> bytes) const {
        OpenOptions options;
        options.path = "bad";
        options.format = format;
        options.fd = UniqueFd(::memfd_create("bad", MFD_CLOEXEC));
        ASSERT_EQ(::pwrite(options.fd.get(), bytes.data(), bytes.size(), 0),
                  static_cast<ssize_t>(bytes.size()));
        options.lock = false;
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        if (!node.ok()) {
            EXPECT_FALSE(node.error().text().empty());
            return;
        }
        std::vector<std::byte> into(std::min<std::uint64_t>((*node)->size(), kSize));
        (void)loop_->run((*node)->read(0, Buffers(std::span(into))));
        for (std::uint64_t at = 0, n = 0; at < (*node)->size() && n < 200; ++n) {
            const auto extent = loop_->run((*node)->status(at, (*node)->size() - at));
            if (!extent.ok()) {
                break;
            }
            ASSERT_GE(extent->length, 1U);
            ASSERT_LE(extent->length, (*node)->size() - at);
            at += extent->length;
        }
        if (into.size() >= 8192 && (*node)->size() <= kSize * 2) {
            (void)loop_->run((*node)->check(Repair::Nothing));
            (void)loop_->run(
                (*node)->write(into.size() / 2, Buffers::of(std::span(into).first(4096))));
            (void)loop_->run((*node)->write_zeroes(100, 8000, {}));
        }
        (void)loop_->run((*node)->close());
    }
    void mutate(const Kind& kind, unsigned rounds) {
        const std::vector<std::byte> good = image(kind);
        ASSERT_FALSE(good.empty());
        std::mt19937 random(17);
        constexpr std::uint8_t kValues[] = {0, 1, 0x7F, 0x80, 0xFF};
        for (unsigned round = 0; round < rounds; ++round) {
            std::vector<std::byte> bad = good;
            const std::size_t field =
                (round % 2 == 0 ? random() % 512
                                : random() % std::min<std::size_t>(bad.size(), 400000)) %
                bad.size() / 4 * 4;
            const auto value =
                static_cast<std::byte>(round % 3 == 0 ? random() : kValues[random() % 5]);
            std::fill_n(bad.begin() + static_cast<std::ptrdiff_t>(field),
                        std::min<std::size_t>(round % 5 == 0 ? 1 : 4, bad.size() - field), value);
            if (round % 16 == 0) {
                bad.resize(random() % bad.size() + 1);
            }
            use(kind.format, bad);
        }
    }
    std::string path_;
    std::unique_ptr<Loop> loop_;
};

TEST_F(HostileImagesTest, Vdi) {
    mutate({"vdi", {}}, 300);
}
TEST_F(HostileImagesTest, VhdDynamic) {
    mutate({"vpc", {}}, 200);
}
TEST_F(HostileImagesTest, VhdFixed) {
    mutate({"vpc", {{"subformat", "fixed"}}}, 60);
}
TEST_F(HostileImagesTest, Vhdx) {
    mutate({"vhdx", {{"block_size", "1M"}}}, 120);
}
TEST_F(HostileImagesTest, Parallels) {
    mutate({"parallels", {{"cluster_size", "64k"}}}, 300);
}
TEST_F(HostileImagesTest, Qcow) {
    mutate({"qcow", {}}, 300);
}
TEST_F(HostileImagesTest, VmdkSparse) {
    mutate({"vmdk", {}}, 300);
}
TEST_F(HostileImagesTest, VmdkStream) {
    mutate({"vmdk", {{"subformat", "streamOptimized"}}}, 200);
}

TEST_F(HostileImagesTest, NoImageOpensAnotherFileUnasked) {
    const std::string text =
        "# Disk "
        "DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 "
        "FLAT \"/etc/passwd\" 0\n";
    OpenOptions options;
    options.path = "bad";
    options.format = "vmdk";
    options.fd = UniqueFd(::memfd_create("bad", MFD_CLOEXEC));
    ASSERT_EQ(::pwrite(options.fd.get(), text.data(), text.size(), 0),
              static_cast<ssize_t>(text.size()));
    options.lock = false;
    const auto node = loop_->run(open_node(*loop_, std::move(options)));
    ASSERT_FALSE(node.ok());
    EXPECT_EQ(node.error().kind(), ErrorKind::PermissionDenied);
}

}  // namespace
}  // namespace strata::block
