// Crashes of jobs: the power goes at many moments of a commit and of a repair. Whatever is left of
// what was not durable, the chain reads as before, a check finds nothing but leaks, and the same
// job goes on to its end.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/jobs/chains.h"
#include "block/loop.h"
#include "block/registry.h"
#include "recording_node.h"

namespace strata::block {
namespace {

constexpr std::uint64_t kSize = 1U << 20, kPiece = 4096;
using Files = std::map<std::string, std::shared_ptr<RecordingNode>>;

std::vector<std::byte> content_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    std::vector<std::byte> content(bytes.size());
    std::memcpy(content.data(), bytes.data(), bytes.size());
    return content;
}

/// Files in memory in the places of those that were made.
class InMemory final : public ReferencePolicy {
  public:
    explicit InMemory(Files files, NodePtr base)
        : files_(std::move(files)), base_(std::move(base)) {}
    Result<Resolved> resolve(const Reference& reference) const override {
        Resolved open;
        open.node = reference.kind == Reference::Kind::Backing ? base_ : files_.at("data");
        return open;
    }

  private:
    const Files files_;
    const NodePtr base_;
};

/// How the overlay is made, and the format below.
struct Shape {
    friend void PrintTo(const Shape& shown, std::ostream* out) { *out << shown.name; }
    std::string name;
    OptionList top;
    std::string base;
};

class JobCrash : public testing::TestWithParam<Shape> {
  protected:
    void SetUp() override {
        loop_ = std::move(Loop::create({.engine = IoEngine::Threads, .depth = 4, .workers = 1}))
                    .value();
        std::string pattern = testing::TempDir() + "jobcrashXXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
        if (const char* seed = std::getenv("STRATA_CRASH_SEED");  // NOLINT(concurrency-mt-unsafe)
            seed != nullptr) {
            random_.seed(static_cast<unsigned>(std::strtoul(seed, nullptr, 10)));
        }
    }
    void TearDown() override {
        loop_.reset();
        std::filesystem::remove_all(folder_);
    }
    void create(const std::string& name, const std::string& format, OptionList options) {
        CreateRequest request{folder_ + "/" + name, kSize, std::move(options)};
        const auto made = loop_->run(create_image(*loop_, format, std::move(request)));
        ASSERT_TRUE(made.ok()) << made.error().text();
    }
    /// The files as they lie in the folder, on a clock of their own.
    Files load() {
        Files files;
        const auto clock = std::make_shared<std::size_t>(0);
        for (const char* name : {"top", "data", "base"}) {
            if (std::filesystem::exists(folder_ + "/" + name)) {
                files[name] = std::make_shared<RecordingNode>(
                    *loop_, folder_ + "/" + name, content_of(folder_ + "/" + name), 1, clock);
            }
        }
        return files;
    }
    Files after_crash(const Files& files, std::size_t moment) {
        Files left;
        for (const auto& [name, file] : files) {
            left[name] = std::make_shared<RecordingNode>(*loop_, file->name(),
                                                         file->after_crash(moment, random_), 1);
        }
        return left;
    }
    NodePtr open(const Files& files, const std::string& name, const std::string& format,
                 bool read_only = false, NodePtr base = nullptr) {
        OpenOptions options;
        options.path = folder_ + "/" + name;
        options.format = format;
        options.read_only = read_only;
        options.references = std::make_shared<InMemory>(files, std::move(base));
        auto node = loop_->run((*find_format(format))->open(files.at(name), std::move(options)));
        EXPECT_TRUE(node.ok()) << node.error().text();
        return node.ok() ? *node : nullptr;
    }
    NodePtr open_chain(const Files& files) {
        return open(files, "top", "qcow2", false, open(files, "base", GetParam().base, true));
    }
    void write(Node& node, std::uint64_t pieces) {
        for (; pieces != 0; --pieces) {
            const std::uint64_t at = random_() % (kSize / kPiece) * kPiece;
            const auto length = std::min<std::uint64_t>((random_() % 8 + 1) * kPiece, kSize - at);
            const bool zero = random_() % 4 == 0;
            const std::vector<std::byte> bytes(
                length, zero ? std::byte{0} : static_cast<std::byte>(random_()));
            const auto done = zero ? loop_->run(node.write_zeroes(at, length, {}))
                                   : loop_->run(node.write(at, Buffers::of(bytes)));
            ASSERT_TRUE(done.ok()) << done.error().text();
        }
    }
    std::vector<std::byte> read(Node& node) {
        std::vector<std::byte> bytes(node.size());
        EXPECT_TRUE(loop_->run(node.read(0, Buffers(std::span(bytes)))).ok());
        return bytes;
    }
    void expect_sound(Node& node) {
        const auto report = loop_->run(node.check(Repair::Nothing));
        ASSERT_TRUE(report.ok()) << report.error().text();
        EXPECT_EQ(report->corruptions + report->check_errors, 0U)
            << (report->messages.empty() ? "" : report->messages[0]);
    }
    /// Brings the top's content down, step by step, and empties it.
    void commit(Node& top, Node& target) {
        JobControl control;
        ASSERT_TRUE(loop_
                        ->run(commit_layers(top, top.backing(), target, control, true,
                                            std::chrono::milliseconds(0)))
                        .ok());
        ASSERT_TRUE(loop_->run(target.close()).ok());
        ASSERT_TRUE(loop_->run(top.make_empty()).ok());
        ASSERT_TRUE(loop_->run(top.close()).ok());
    }
    void commit(const Files& files) {
        const NodePtr top = open_chain(files), target = open(files, "base", GetParam().base);
        commit(*top, *target);
    }
    std::unique_ptr<Loop> loop_;
    std::string folder_;
    std::mt19937 random_{11};
};

TEST_P(JobCrash, CommitGoesOnAndTheChainReadsAsBefore) {
    create("base", GetParam().base, {});
    OptionList options = GetParam().top;
    options.insert(options.end(),
                   {{"backing_file", folder_ + "/base"}, {"backing_fmt", GetParam().base}});
    for (auto& [name, value] : options) {
        value = name == "data_file" ? folder_ + "/data" : value;
    }
    create("top", "qcow2", options);
    Files files = load();
    {
        const NodePtr base = open(files, "base", GetParam().base);
        write(*base, 40);
        ASSERT_TRUE(loop_->run(base->close()).ok());
    }
    const NodePtr top = open_chain(files);
    write(*top, 60);
    ASSERT_TRUE(loop_->run(top->flush()).ok());
    const std::vector<std::byte> expected = read(*top);
    const std::size_t begin = files.at("top")->now();
    commit(*top, *open(files, "base", GetParam().base));
    const std::size_t end = files.at("top")->now();
    for (unsigned round = 0; round < 120; ++round) {
        const Files left = after_crash(files, begin + random_() % (end + 1 - begin));
        {
            const NodePtr chain = open_chain(left);
            ASSERT_NE(chain, nullptr);
            expect_sound(*chain);
            ASSERT_TRUE(read(*chain) == expected) << "crash " << round;
        }
        if (round % 4 == 0) {
            commit(left);
            ASSERT_TRUE(read(*open(left, "base", GetParam().base, true)) == expected)
                << "after crash " << round;
            ASSERT_TRUE(read(*open_chain(left)) == expected) << "after crash " << round;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, JobCrash,
    testing::Values(
        Shape{"Raw", {{"cluster_size", "4096"}}, "raw"},
        Shape{"Qcow2", {{"cluster_size", "4096"}}, "qcow2"},
        Shape{"DataFile", {{"cluster_size", "4096"}, {"data_file", ""}}, "raw"},
        Shape{"DataFileOverQcow2", {{"cluster_size", "4096"}, {"data_file", ""}}, "qcow2"}),
    [](const testing::TestParamInfo<Shape>& each) { return each.param.name; });

class RepairCrash : public JobCrash {
  protected:
    static std::uint64_t number(const std::vector<std::byte>& image, std::uint64_t at) {
        Be64 value = 0ULL;
        std::memcpy(&value, image.data() + at, sizeof value);
        return value & 0x00FFFFFFFFFFFE00ULL;
    }
    /// Every data cluster of the image has one owner too many by its count, as a snapshot that was
    /// deleted halfway leaves it.
    void leave_leaks() {
        const std::string path = folder_ + "/top";
        std::vector<std::byte> image = content_of(path);
        const std::uint64_t block = number(image, number(image, 48));
        const std::uint64_t l2 = number(image, number(image, 40));
        for (std::uint64_t i = 0; i < kPiece / 8; ++i) {
            const std::uint64_t host = number(image, l2 + i * 8);
            if (host != 0) {
                image.at(block + host / kPiece * 2 + 1) = std::byte{2};
                image.at(l2 + i * 8) &= std::byte{0x7F};
            }
        }
        std::ofstream out(path, std::ios::binary);
        out.write(reinterpret_cast<const char*>(image.data()),  // SAFETY: bytes as characters
                  static_cast<std::streamsize>(image.size()));
    }
};

TEST_P(RepairCrash, LeaksAreTakenBackWithoutErrorsOnTheWay) {
    create("top", "qcow2", GetParam().top);
    {
        Files files = load();
        const NodePtr top = open(files, "top", "qcow2");
        write(*top, 60);
        ASSERT_TRUE(loop_->run(top->close()).ok());
        std::ofstream out(folder_ + "/top", std::ios::binary);
        const auto& bytes = files.at("top")->content();
        out.write(reinterpret_cast<const char*>(bytes.data()),  // SAFETY: bytes as characters
                  static_cast<std::streamsize>(bytes.size()));
    }
    leave_leaks();
    const Files files = load();
    const NodePtr top = open(files, "top", "qcow2");
    const std::vector<std::byte> expected = read(*top);
    const auto version = [](const Files& of) { return of.at("top")->content().at(7); };
    const std::byte before = version(files);
    const auto mended = loop_->run(top->check(Repair::Leaks));
    ASSERT_TRUE(mended.ok()) << mended.error().text();
    EXPECT_TRUE(mended->clean());
    EXPECT_GT(mended->leaks_fixed, 0U);
    EXPECT_EQ(version(files), before);
    const std::size_t end = files.at("top")->now();
    for (std::size_t round = 0; round < 100; ++round) {
        const Files left = after_crash(files, random_() % (end + 1));
        const NodePtr node = open(left, "top", "qcow2");
        ASSERT_NE(node, nullptr);
        expect_sound(*node);
        ASSERT_TRUE(read(*node) == expected) << "crash " << round;
    }
}

INSTANTIATE_TEST_SUITE_P(
    Versions, RepairCrash,
    testing::Values(Shape{"Two", {{"cluster_size", "4096"}, {"compat", "v2"}}, ""},
                    Shape{"Three", {{"cluster_size", "4096"}}, ""}),
    [](const testing::TestParamInfo<Shape>& each) { return each.param.name; });

}  // namespace
}  // namespace strata::block
