// Formats that are not made by this program, made here byte by byte or by qemu-img: what they show
// is what was put in, and qemu-img agrees where it can.
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <libdeflate.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/formats/common/wire.h"
#include "block/registry.h"

namespace strata::block {
namespace {

using Bytes = std::vector<std::byte>;
constexpr std::uint64_t kSize = 1U << 20;

Bytes deflate(std::span<const std::byte> content) {
    libdeflate_compressor* compressor = libdeflate_alloc_compressor(6);
    Bytes out(libdeflate_zlib_compress_bound(compressor, content.size()));
    out.resize(libdeflate_zlib_compress(compressor, content.data(), content.size(), out.data(),
                                        out.size()));
    libdeflate_free_compressor(compressor);
    return out;
}
void append(Bytes& out, std::span<const std::byte> more) {
    out.insert(out.end(), more.begin(), more.end());
}
void append_text(Bytes& out, std::string_view text) {
    append(out, std::as_bytes(std::span(text)));
}

std::string base64(std::span<const std::byte> bytes) {
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t bits = 0;
        for (std::size_t j = 0; j < 3; ++j) {
            bits =
                bits << 8 | (i + j < bytes.size() ? static_cast<std::uint32_t>(bytes[i + j]) : 0U);
        }
        for (std::size_t j = 0; j < 4; ++j) {
            out += i + j > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * j) & 63];
        }
        out += i % 57 == 54 ? "\n\t\t\t" : "";
    }
    return out;
}

class ForeignFormatsTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "foreignXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        loop_ = Loop::create().value();
        std::mt19937 random(9);
        model_.resize(kSize);
        for (std::uint64_t at = 0; at < kSize; at += 4096) {
            if (random() % 3 != 0) {
                std::fill_n(model_.begin() + static_cast<std::ptrdiff_t>(at), 4096,
                            static_cast<std::byte>(random()));
                model_[at + random() % 4096] = static_cast<std::byte>(random());
            }
        }
        save("model.raw", model_);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    void save(const std::string& name, const Bytes& bytes) const {
        std::ofstream out(folder_ + "/" + name, std::ios::binary);
        // SAFETY: bytes as characters.
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
    }
    void expect_model(const std::string& name, const std::string& format, bool peer) const {
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.format = format;
        options.read_only = true;
        options.references = follow_references();
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(node.ok()) << node.error().text();
        ASSERT_EQ((*node)->size(), kSize);
        Bytes got(kSize);
        const auto done = loop_->run((*node)->read(0, Buffers(std::span(got))));
        ASSERT_TRUE(done.ok()) << done.error().text();
        EXPECT_TRUE(got == model_);
        // NOLINTNEXTLINE(concurrency-mt-unsafe,cert-env33-c): a test
        if (peer && std::system("command -v qemu-img >/dev/null") == 0) {
            const std::string line = fmt::format(
                "cd {} && qemu-img compare -f raw -F {} model.raw {}", folder_, format, name);
            EXPECT_EQ(std::system(line.c_str()),
                      0);  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        }
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
    Bytes model_;
};

TEST_F(ForeignFormatsTest, DmgOfZlibRawAndZeroChunks) {
    constexpr std::uint64_t kChunk = 65536;
    Bytes file(777), table(204);  // the data fork begins behind something else
    put(table, 0, Be32(0x6D697368U));
    put(table, 16, Be64(kSize / 512));
    std::uint32_t count = 0;
    const auto add = [&](std::uint32_t type, std::uint64_t start, std::uint64_t length,
                         std::uint64_t offset, std::uint64_t packed) {
        table.resize(table.size() + 40);
        const std::size_t at = table.size() - 40;
        put(table, at, Be32(type));
        put(table, at + 8, Be64(start / 512));
        put(table, at + 16, Be64(length / 512));
        put(table, at + 24, Be64(offset));
        put(table, at + 32, Be64(packed));
        ++count;
    };
    std::fill_n(model_.begin(), kChunk, std::byte{0});
    save("model.raw", model_);
    for (std::uint64_t at = 0; at < kSize; at += kChunk) {
        const auto part = std::span(model_).subspan(at, kChunk);
        const Bytes packed = deflate(part);
        const std::uint64_t offset = file.size() - 777;
        if (at == 0) {
            add(0, at, kChunk, offset, 0);
        } else if (at % (3 * kChunk) == 0) {
            add(1, at, kChunk, offset, kChunk);
            append(file, part);
        } else {
            add(0x80000005, at, kChunk, offset, packed.size());
            append(file, packed);
        }
    }
    add(0xFFFFFFFF, kSize, 0, file.size() - 777, 0);
    put(table, 200, Be32(count));
    const std::uint64_t plist = file.size();
    append_text(file,
                "<?xml version=\"1.0\"?><plist "
                "version=\"1.0\"><dict><key>resource-fork</key><dict>\n<key>blkx</"
                "key><array><dict>\n<key>Data</key>\n<data>\n");
    append_text(file, base64(table));
    append_text(file, "\n</data></dict></array></dict></dict></plist>\n");
    const std::uint64_t plist_end = file.size();
    Bytes trailer(512);
    put(trailer, 0, Be32(0x6B6F6C79U));
    put(trailer, 4, Be32(4U));
    put(trailer, 8, Be32(512U));
    put(trailer, 0x18, Be64(777));
    put(trailer, 0x20, Be64(plist - 777));
    put(trailer, 0xD8, Be64(plist));
    put(trailer, 0xE0, Be64(plist_end - plist));
    put(trailer, 0x1EC, Be64(kSize / 512));
    append(file, trailer);
    save("a.dmg", file);
    expect_model("a.dmg", "dmg", true);
}

TEST_F(ForeignFormatsTest, Cloop) {
    constexpr std::uint32_t kBlock = 32768, kBlocks = kSize / kBlock;
    Bytes file(136 + (kBlocks + 1) * 8);
    const std::string_view head =
        "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
    std::memcpy(file.data(), head.data(), head.size());
    put(file, 128, Be32(kBlock));
    put(file, 132, Be32(kBlocks));
    for (std::uint32_t i = 0; i <= kBlocks; ++i) {
        put(file, 136 + i * 8, Be64(file.size()));
        if (i < kBlocks) {
            append(file, deflate(std::span(model_).subspan(std::size_t{i} * kBlock, kBlock)));
        }
    }
    save("a.cloop", file);
    expect_model("a.cloop", "cloop", true);
}

TEST_F(ForeignFormatsTest, Bochs) {
    constexpr std::uint32_t kExtent = 16384, kCatalog = kSize / kExtent;
    Bytes file(512 + kCatalog * 4);
    const auto text = [&file](std::size_t at, std::string_view what) {
        std::memcpy(file.data() + at, what.data(), what.size());
    };
    text(0, "Bochs Virtual HD Image");
    text(32, "Redolog");
    text(48, "Growing");
    put(file, 64, Le32(0x20000U));
    put(file, 68, Le32(512U));
    put(file, 72, Le32(kCatalog));
    put(file, 76, Le32(kExtent / 512 / 8));
    put(file, 80, Le32(kExtent));
    put(file, 88, Le64(kSize));
    std::uint32_t next = 0;
    for (std::uint32_t i = 0; i < kCatalog; ++i) {
        const auto part = std::span(model_).subspan(std::size_t{i} * kExtent, kExtent);
        put(file, 512 + i * 4, Le32(is_zero(part) ? 0xFFFFFFFFU : next));
        if (is_zero(part)) {
            continue;
        }
        ++next;
        Bytes bitmap(512);
        for (std::size_t sector = 0; sector < kExtent / 512; ++sector) {
            if (!is_zero(part.subspan(sector * 512, 512))) {
                bitmap[sector / 8] |= std::byte{1} << (sector % 8);
            }
        }
        append(file, bitmap);
        append(file, part);
    }
    save("a.bochs", file);
    expect_model("a.bochs", "bochs", true);
}

TEST_F(ForeignFormatsTest, CowOverItsBackingFile) {
    Bytes below = model_;
    Bytes file(32 + 4096);
    put(file, 0, Be32(0x4F4F4F4DU));
    put(file, 4, Be32(3U));
    put(file, 12, Be64(kSize));
    put(file, 20, Be32(512U));
    put(file, 24, Be32(4096U));
    const std::string_view name = "below.raw";
    std::memcpy(file.data() + 32, name.data(), name.size());
    const std::size_t bitmap = file.size();
    const std::size_t data = round_up(bitmap + kSize / 512 / 8, 4096);
    file.resize(data + kSize);
    for (std::size_t sector = 0; sector < kSize / 512; sector += 1 + sector % 7) {
        file[bitmap + sector / 8] |= std::byte{1} << (sector % 8);
        std::memcpy(file.data() + data + sector * 512, model_.data() + sector * 512, 512);
        std::fill_n(below.begin() + static_cast<std::ptrdiff_t>(sector * 512), 512,
                    std::byte{0xEE});
    }
    save("below.raw", below);
    save("a.cow", file);
    expect_model("a.cow", "cow", false);
}

TEST_F(ForeignFormatsTest, QedAsQemuImgWritesIt) {
    if (std::system("command -v qemu-img >/dev/null") !=
        0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        GTEST_SKIP() << "no qemu-img here: install qemu-utils";
    }
    for (const char* options : {"", "-o cluster_size=4k,table_size=2"}) {
        SCOPED_TRACE(options);
        const std::string line = fmt::format(
            "cd {} && qemu-img convert -f raw -O qed {} model.raw a.qed", folder_, options);
        ASSERT_EQ(std::system(line.c_str()),
                  0);  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        expect_model("a.qed", "qed", true);
    }
}

TEST_F(ForeignFormatsTest, CompressedQcowAsQemuImgWritesIt) {
    if (std::system("command -v qemu-img >/dev/null") !=
        0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        GTEST_SKIP() << "no qemu-img here: install qemu-utils";
    }
    // qemu-img 7.2 ends with status 1 and no message here, though the image is right.
    const std::string line =
        fmt::format("cd {} && qemu-img convert -c -f raw -O qcow model.raw a.qcow; true", folder_);
    ASSERT_EQ(std::system(line.c_str()), 0);  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
    expect_model("a.qcow", "qcow", true);
}

TEST_F(ForeignFormatsTest, LuksAsQemuImgWritesIt) {
    if (std::system("command -v qemu-img >/dev/null") !=
        0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
        GTEST_SKIP() << "no qemu-img here: install qemu-utils";
    }
    for (const char* how :
         {"",
          "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1,",
          "cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha512,"}) {
        SCOPED_TRACE(how);
        save("model.raw", model_);
        // On a busy host qemu-img may fail to measure its own key derivation: it is asked again.
        const std::string make = fmt::format(
            "cd {} && for i in 1 2 3 4 5; do qemu-img convert --object secret,id=s,data=geheim -f "
            "raw -O luks "
            "-o {}key-secret=s,iter-time=10 model.raw a.luks 2>log && exit 0; done; exit 1",
            folder_, how);
        if (std::system(make.c_str()) != 0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
            GTEST_SKIP() << "qemu-img cannot make a LUKS volume here";
        }
        OpenOptions options, wrong;
        wrong.path = options.path = folder_ + "/a.luks";
        wrong.format = options.format = "luks";
        wrong.extra = {{"key", "falsch"}};
        EXPECT_EQ(loop_->run(open_node(*loop_, std::move(wrong))).error().kind(),
                  ErrorKind::PermissionDenied);
        options.extra = {{"key", "geheim"}};
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        ASSERT_TRUE(node.ok()) << node.error().text();
        Bytes got(kSize);
        ASSERT_TRUE(loop_->run((*node)->read(0, Buffers(std::span(got)))).ok());
        EXPECT_TRUE(got == model_);
        const Bytes fresh(100000, std::byte{0x5A});
        std::copy(fresh.begin(), fresh.end(), model_.begin() + 777);
        std::fill_n(model_.begin() + 300000, 5000, std::byte{0});
        ASSERT_TRUE(loop_->run((*node)->write(777, Buffers::of(fresh))).ok());
        ASSERT_TRUE(loop_->run((*node)->write_zeroes(300000, 5000, {})).ok());
        ASSERT_TRUE(loop_->run((*node)->close()).ok());
        *node = nullptr;
        save("model.raw", model_);
        const std::string compare = fmt::format(
            "cd {} && qemu-img compare --object secret,id=s,data=geheim --image-opts "
            "driver=raw,file.filename=model.raw driver=luks,key-secret=s,file.filename=a.luks",
            folder_);
        EXPECT_EQ(std::system(compare.c_str()),
                  0);  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
    }
}

}  // namespace
}  // namespace strata::block
