// The other formats against qemu-img: what it writes is read here, what is written here it finds
// sound and equal.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "block/registry.h"
#include "block/sync.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = (20U << 20) + 3 * 512;
constexpr unsigned kLanes = 6;

struct Case {
    const char* format;
    const char* options;  ///< of qemu-img convert
    bool check = false;   ///< qemu-img can check it
    bool writable = true;
};
constexpr Case kCases[] = {
    {"vdi", "", true},
    {"vdi", "-o static=on", true},
    {"vpc", ""},
    {"vpc", "-o force_size=on"},
    {"vpc", "-o subformat=fixed"},
    {"vpc", "-o subformat=fixed,force_size=on"},
    {"vhdx", "", true},
    {"vhdx", "-o subformat=fixed", true},
    {"vhdx", "-o block_size=1M", true},
    {"vhdx", "-o block_size=2M,log_size=2M,block_state_zero=off", true},
    {"parallels", "", true},
    {"parallels", "-o cluster_size=64k", true},
    {"qcow", ""},
    {"vmdk", "", true},
    {"vmdk", "-o zeroed_grain=on", true},
    {"vmdk", "-o subformat=monolithicFlat", true},
    {"vmdk", "-o subformat=twoGbMaxExtentSparse", true},
    {"vmdk", "-o subformat=twoGbMaxExtentFlat", true},
    {"vmdk", "-o subformat=streamOptimized", true, false},
};
struct Made {
    const char* format;
    OptionList options;
    bool check = false;
};
const std::vector<Made>& made() {
    static const std::vector<Made> kMade = {
        {"vdi", {}, true},
        {"vdi", {{"static", "on"}}, true},
        {"vpc", {}},
        {"vpc", {{"subformat", "fixed"}}},
        {"vpc", {{"force_size", "off"}}},
        {"vhdx", {}, true},
        {"vhdx", {{"subformat", "fixed"}, {"block_size", "1M"}}, true},
        {"vhdx", {{"block_size", "4M"}}, true},
        {"parallels", {}, true},
        {"parallels", {{"cluster_size", "64k"}}, true},
        {"qcow", {}},
        {"vmdk", {}, true},
        {"vmdk", {{"zeroed_grain", "on"}}, true},
        {"vmdk", {{"subformat", "monolithicFlat"}}, true},
        {"vmdk", {{"subformat", "twoGbMaxExtentSparse"}}, true},
        {"vmdk", {{"subformat", "twoGbMaxExtentFlat"}}, true},
    };
    return kMade;
}

Task<> change_part(Node& node, std::span<std::byte> model, std::uint64_t base, unsigned seed) {
    std::mt19937 random(seed);
    for (int round = 0; round < 12; ++round) {
        const std::uint64_t offset =
            random() % (model.size() / 512) * 512 + (random() % 4 == 0 ? random() % 512 : 0);
        const std::uint64_t wish = random() % 3 == 0 ? random() % 1500000 : random() % 20000;
        const std::uint64_t length = std::min<std::uint64_t>(wish + 1, model.size() - offset);
        const auto part = model.subspan(offset, length);
        const auto what = random() % 10;
        if (what < 2) {
            std::fill(part.begin(), part.end(), std::byte{0});
            STRATA_CO_TRY_VOID(
                co_await node.write_zeroes(base + offset, length, {.may_unmap = what == 0}));
        } else if (what == 2) {
            STRATA_CO_TRY_VOID(co_await node.discard(base + offset, length));
            STRATA_CO_TRY_VOID(co_await node.read(base + offset, Buffers(part)));
        } else {
            std::fill(part.begin(), part.end(), static_cast<std::byte>(random()));
            STRATA_CO_TRY_VOID(co_await node.write(base + offset, Buffers::of(part)));
        }
    }
    co_return ok();
}

// Several requests at a time, no two on the same range.
Task<> change_all(Node& node, std::span<std::byte> model, unsigned seed) {
    TaskGroup group(node.loop(), kLanes);
    const std::uint64_t lane = model.size() / kLanes;
    for (unsigned i = 0; i < kLanes; ++i) {
        const std::uint64_t end = i + 1 == kLanes ? model.size() : (i + 1) * lane;
        group.start(
            change_part(node, model.subspan(i * lane, end - i * lane), i * lane, seed * 100 + i));
    }
    co_return co_await group.finish();
}

class FormatsPeerTest : public testing::Test {
  protected:
    void SetUp() override {
        if (std::system("command -v qemu-img >/dev/null") !=
            0) {  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
            GTEST_SKIP() << "no qemu-img here: install qemu-utils";
        }
        std::string pattern = testing::TempDir() + "peerXXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        auto loop = Loop::create();
        ASSERT_TRUE(loop.ok());
        loop_ = std::move(loop).value();
        fill_model();
    }
    void TearDown() override {
        if (!folder_.empty()) {
            std::filesystem::remove_all(folder_);
        }
    }
    void fill_model() {
        model_.assign(kSize, std::byte{0});
        std::mt19937 random(5);
        for (std::uint64_t at = 0; at + 4096 <= kSize; at += 4096) {
            if ((at >> 20) % 3 != 1 && random() % 3 == 0) {
                for (std::uint64_t i = 0; i < 4096; i += 1 + random() % 7) {
                    model_[at + i] = static_cast<std::byte>(random());
                }
            }
        }
        save("model.raw");
    }
    void save(const std::string& name) const {
        std::ofstream out(folder_ + "/" + name, std::ios::binary);
        // SAFETY: bytes as characters.
        out.write(reinterpret_cast<const char*>(model_.data()),
                  static_cast<std::streamsize>(model_.size()));
    }
    void shell(const std::string& words) const {
        const std::string line =
            fmt::format("cd {} && {{ {}; }} >log 2>&1 || {{ cat log; false; }}", folder_, words);
        EXPECT_EQ(std::system(line.c_str()), 0)
            << words;  // NOLINT(concurrency-mt-unsafe,cert-env33-c): a test
    }
    [[nodiscard]] NodePtr open(const std::string& name, const std::string& format, bool read_only,
                               OptionList extra = {}) const {
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.format = format;
        options.read_only = read_only;
        options.references = follow_references();
        options.extra = std::move(extra);
        auto node = loop_->run(open_node(*loop_, std::move(options)));
        EXPECT_TRUE(node.ok()) << (node.ok() ? "" : node.error().text());
        return node.ok() ? std::move(*node) : nullptr;
    }
    void create(const std::string& name, const std::string& format, OptionList options,
                std::uint64_t size = kSize) const {
        CreateRequest request;
        request.path = folder_ + "/" + name;
        request.size = size;
        request.options = std::move(options);
        const auto done = loop_->run(create_image(*loop_, format, std::move(request)));
        ASSERT_TRUE(done.ok()) << done.error().text();
    }
    void expect_model(const std::string& name, const std::string& format,
                      const OptionList& extra = {}) const {
        const NodePtr node = open(name, format, true, extra);
        ASSERT_NE(node, nullptr);
        ASSERT_GE(node->size(), kSize);
        std::vector<std::byte> got(node->size());
        const auto done = loop_->run(node->read(0, Buffers(std::span(got))));
        ASSERT_TRUE(done.ok()) << done.error().text();
        EXPECT_TRUE(is_zero(std::span(got).subspan(kSize)));
        got.resize(kSize);
        EXPECT_TRUE(got == model_);
        for (std::uint64_t at = 0; at < kSize;) {
            auto extent = loop_->run(status_of_chain(*node, nullptr, at, kSize - at));
            ASSERT_TRUE(extent.ok()) << extent.error().text();
            if (extent->kind != Extent::Kind::Data) {
                EXPECT_TRUE(is_zero(std::span(model_).subspan(at, extent->length))) << at;
            }
            at += extent->length;
        }
        EXPECT_TRUE(loop_->run(node->close()).ok());
    }
    void judge(const std::string& name, const std::string& format, bool check) const {
        save("model.raw");
        if (check) {
            shell(fmt::format("qemu-img check -f {} {}", format, name));
        }
        shell(fmt::format("qemu-img compare -f raw -F {} model.raw {}", format, name));
    }
    /// Changes the image here; after every flush a copy of the file, as a crash would leave it,
    /// must show all of it.
    void change(const std::string& name, const std::string& format, unsigned seed, bool check,
                const OptionList& extra = {}) {
        NodePtr node = open(name, format, false, extra);
        ASSERT_NE(node, nullptr);
        for (unsigned round = 0; round < 3; ++round) {
            const auto done = loop_->run(change_all(*node, model_, seed * 10 + round));
            ASSERT_TRUE(done.ok()) << done.error().text();
            ASSERT_TRUE(loop_->run(node->flush()).ok());
            shell(
                "rm -rf crash && mkdir crash && cp --sparse=always $(ls | grep -vE "
                "'^(crash|log|model.raw)$') crash");
            expect_model("crash/" + name, format, extra);
        }
        ASSERT_TRUE(loop_->run(node->close()).ok());
        node.reset();  // and its lock
        if (extra.empty()) {
            judge(name, format, check);
        }
    }
    std::string folder_;
    std::unique_ptr<Loop> loop_;
    std::vector<std::byte> model_;
};

TEST_F(FormatsPeerTest, ReadsAndChangesWhatQemuImgMade) {
    unsigned seed = 1;
    for (const Case& each : kCases) {
        SCOPED_TRACE(fmt::format("{} {}", each.format, each.options));
        fill_model();
        shell(fmt::format("qemu-img convert -f raw -O {} {} model.raw a.img", each.format,
                          each.options));
        expect_model("a.img", each.format);
        if (each.writable) {
            change("a.img", each.format, seed++, each.check);
        }
        shell("rm a.img; rm -f a-*.img");
    }
}

TEST_F(FormatsPeerTest, WhatIsCreatedHereIsSoundThere) {
    unsigned seed = 100;
    for (const Made& each : made()) {
        SCOPED_TRACE(fmt::format("{} {}", each.format,
                                 each.options.empty() ? "" : each.options.front().second));
        model_.assign(kSize, std::byte{0});
        create("b.img", each.format, each.options);
        judge("b.img", each.format, each.check);
        change("b.img", each.format, seed++, each.check);
        change("b.img", each.format, seed++, each.check);
        shell("rm b.img; rm -f b-*.img");
    }
}

TEST_F(FormatsPeerTest, ADifferencingVhdShowsItsParent) {
    create("base.vhd", "vpc", {});
    model_.assign(kSize, std::byte{0});
    change("base.vhd", "vpc", 7, false);
    const auto below = model_;
    create("child.vhd", "vpc", {{"backing_file", "base.vhd"}}, 0);
    expect_model("child.vhd", "vpc");
    {
        const NodePtr node = open("child.vhd", "vpc", false);
        ASSERT_NE(node, nullptr);
        EXPECT_TRUE(loop_->run(change_all(*node, model_, 8)).ok());
        EXPECT_TRUE(loop_->run(node->close()).ok());
    }
    expect_model("child.vhd", "vpc");
    save("model.raw");
    // libvhdi reads the chain: a second opinion where qemu-img shows the child alone.
    if (std::system("command -v vhdimount >/dev/null && command -v fusermount >/dev/null && test "
                    "-w /dev/fuse") == 0) {  // NOLINT
        shell("mkdir -p m && vhdimount child.vhd m && { cmp -n " + std::to_string(kSize) +
              " m/vhdi2 model.raw || cmp -n " + std::to_string(kSize) +
              " m/vhdi1 model.raw; s=$?; fusermount -u m; test $s = 0; }");
    } else {
        shell("! command -v vhdiinfo || vhdiinfo child.vhd");
    }
    model_ = below;
    judge("base.vhd", "vpc", false);
}

TEST_F(FormatsPeerTest, AVmdkStreamIsWrittenInOrderAndReadEverywhere) {
    create("s.vmdk", "vmdk", {{"subformat", "streamOptimized"}});
    {
        const NodePtr node = open("s.vmdk", "vmdk", false);
        ASSERT_NE(node, nullptr);
        const std::span<const std::byte> all(model_);
        for (std::uint64_t at = 0; at < kSize; at += 2U << 20) {
            const auto part = all.subspan(at, std::min<std::uint64_t>(2U << 20, kSize - at));
            ASSERT_TRUE(loop_->run(node->write(at, Buffers::of(part))).ok());
        }
        EXPECT_FALSE(loop_->run(node->write(0, Buffers::of(all.first(65536)))).ok());
        ASSERT_TRUE(loop_->run(node->close()).ok());
    }
    expect_model("s.vmdk", "vmdk");
    judge("s.vmdk", "vmdk", true);
    shell("! command -v 7z || { 7z e -y -oz s.vmdk && cmp -n " + std::to_string(kSize) +
          " z/* model.raw; }");
}

TEST_F(FormatsPeerTest, QcowChainsAreReadAndWritten) {
    save("base.raw");
    const OptionList raw_below{{"backing_format", "raw"}};
    const auto below = model_;
    create("top.qcow", "qcow", {{"backing_file", "base.raw"}, {"backing_fmt", "raw"}});
    change("top.qcow", "qcow", 31, false, raw_below);
    judge("top.qcow", "qcow", false);
    model_ = below;
    shell(fmt::format("rm top.qcow && qemu-img create -f qcow -b base.raw -F raw top.qcow {}",
                      kSize));
    change("top.qcow", "qcow", 32, false, raw_below);
    judge("top.qcow", "qcow", false);
}

TEST_F(FormatsPeerTest, VmdkChainsAreReadAndWritten) {
    create("base.vmdk", "vmdk", {});
    model_.assign(kSize, std::byte{0});
    change("base.vmdk", "vmdk", 21, true);
    for (const char* subformat : {"monolithicSparse", "twoGbMaxExtentSparse"}) {
        SCOPED_TRACE(subformat);
        const auto below = model_;
        create("top.vmdk", "vmdk", {{"backing_file", "base.vmdk"}, {"subformat", subformat}}, 0);
        judge("top.vmdk", "vmdk", true);
        change("top.vmdk", "vmdk", 22, true);
        model_ = below;
        shell(fmt::format(
            "rm top*.vmdk && qemu-img create -f vmdk -b base.vmdk -F vmdk -o subformat={} top.vmdk",
            subformat));
        change("top.vmdk", "vmdk", 23, true);
        model_ = below;
        judge("base.vmdk", "vmdk", true);
        shell("rm top*.vmdk");
    }
}

}  // namespace
}  // namespace strata::block
