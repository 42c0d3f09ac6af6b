// XvaWriter: members appended one after the other.
#include "block/formats/xva/writer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "base/text.h"
#include "block/formats/archive/tar.h"
#include "block/formats/archive/xml.h"
#include "block/formats/common/first_failure.h"
#include "block/formats/common/new_image.h"
#include "block/formats/common/table_node.h"
#include "block/formats/common/wire.h"
#include "block/formats/xva/blocks.h"
#include "block/formats/xva/description.h"
#include "block/formats/xva/sums.h"

namespace strata::block::xva {
namespace {

using archive::kTarBlock;
using archive::Member;

using Kind = CreateOption::Kind;
constexpr std::array kOptions{
    CreateOption{"size", Kind::Size, "Virtual disk size"},
    CreateOption{"name", Kind::Text, "Name of the machine (default: the file's)"},
    CreateOption{"cpus", Kind::Number, "Processors of the machine", "1"},
    CreateOption{"memory", Kind::Size, "Memory of the machine", "1G"},
    CreateOption{"checksum", Kind::Text, "Of the blocks: sha1, or xxhash (XenServer 8)", "sha1"},
};
constexpr std::string_view kDescription = "ova.xml";

std::vector<std::byte> member(const std::string& name, std::span<const std::byte> content) {
    std::vector<std::byte> out =
        archive::tar_header(name, content.size(), static_cast<std::uint64_t>(std::time(nullptr)));
    out.insert(out.end(), content.begin(), content.end());
    out.resize(round_up(out.size(), kTarBlock));
    return out;
}

std::string unfinished_name(const SumStyle& style) {
    return style.kind == kSumStyles[0].kind
               ? fmt::format("{}/{}", kUnfinished, kDescription)
               : fmt::format("{}-{}/{}", kUnfinished, style.name, kDescription);
}

class XvaWriter final : public Node {
  public:
    XvaWriter(NodePtr file, std::string name, std::uint64_t size, std::uint64_t description,
              const SumStyle& sums)
        : Node(file->loop(), std::move(name)),
          file_(std::move(file)),
          size_(size),
          description_(description),
          sums_(sums),
          end_(file_->size()) {
        traits_.cluster_size = kBlock;
        traits_.request_alignment = kBlock;
        traits_.fast_zeroes = true;
        traits_.zero_initialised = true;
        traits_.compressed_writes = true;
        traits_.whole_clusters = true;
    }
    [[nodiscard]] std::string_view format() const override { return "xva"; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] const NodeTraits& traits() const override { return traits_; }
    [[nodiscard]] Node* file() const override { return file_.get(); }
    Task<> read(std::uint64_t /*offset*/, Buffers /*into*/) override {
        co_return lacks("reading before an export's end is written");
    }
    Task<> write(std::uint64_t offset, Buffers from) override {
        STRATA_CO_TRY_VOID(check_order(offset, from.size(), true));
        STRATA_CO_TRY_VOID(failure_.so_far());
        co_return failure_.keep(co_await write_blocks(offset, from));
    }
    Task<> write_zeroes(std::uint64_t offset, std::uint64_t length,
                        ZeroOptions /*options*/) override {
        STRATA_CO_TRY_VOID(check_order(offset, length, false));
        co_return failure_.so_far();  // what is not written is zeros
    }
    Task<> discard(std::uint64_t /*offset*/, std::uint64_t /*length*/) override { co_return ok(); }
    Task<> flush() override {
        STRATA_CO_TRY_VOID(failure_.so_far());
        co_return failure_.keep(co_await file_->flush());
    }
    Task<Extent> status(std::uint64_t /*offset*/, std::uint64_t length) override {
        co_return Extent{.kind = Extent::Kind::Data, .length = length, .owner = this};
    }
    Task<> write_compressed(std::uint64_t offset, Buffers from) override {
        if (from.empty()) {
            co_return co_await finish();
        }
        co_return co_await write(offset, from);
    }
    Task<> close() override {
        if (closed_) {
            co_return failure_.so_far();
        }
        closed_ = true;
        const Result<> done = co_await finish();
        const Result<> closed = failure_.keep(co_await file_->close());
        co_return done.ok() ? closed : done;
    }

  private:
    [[nodiscard]] Result<> check_order(std::uint64_t offset, std::uint64_t length,
                                       bool whole) const {
        STRATA_TRY_VOID(check_range(offset, length, true));
        const bool ends = offset + length == size_ || length % kBlock == 0;
        if (finished_ || offset / kBlock < next_ || (whole && (offset % kBlock != 0 || !ends))) {
            return Error{
                ErrorKind::NotSupported,
                fmt::format("XVA image '{}': an export is written once, in ascending order "
                            "and whole blocks of {} bytes",
                            name(), kBlock),
                ENOTSUP};
        }
        return ok();
    }
    [[nodiscard]] std::uint64_t blocks() const { return divide_up(size_, kBlock); }
    Task<> append(std::vector<std::byte> bytes) {
        STRATA_CO_TRY_VOID(co_await file_->write(end_, Buffers::of(bytes)));
        end_ += bytes.size();
        co_return ok();
    }
    Task<> write_blocks(std::uint64_t offset, Buffers from) {
        for (std::uint64_t done = 0; done < from.size(); done += kBlock) {
            const Buffers part = from.slice(done, std::min(from.size() - done, kBlock));
            STRATA_CO_TRY_VOID(co_await write_block((offset + done) / kBlock, part));
        }
        co_return ok();
    }
    Task<> write_block(std::uint64_t block, Buffers from) {
        if (block != 0 && next_ == 0) {  // the first is always there
            const std::vector<std::byte> zeros(std::min(size_, kBlock));
            STRATA_CO_TRY_VOID(co_await append_block(0, zeros));
        }
        next_ = block + 1;
        if (block != 0 && block + 1 != blocks() && from.is_zero()) {
            co_return ok();
        }
        std::vector<std::byte> content(from.size());
        from.copy_to(content);
        co_return co_await append_block(block, content);
    }
    Task<> append_block(std::uint64_t block, const std::vector<std::byte>& content) {
        const std::string path = fmt::format("{}/{:08}", kNewDisk, block);
        auto work = [&] {
            std::vector<std::byte> both = member(path, content);
            const std::string sum = sum_of(sums_.kind, content);
            const auto second =
                member(path + std::string(sums_.ending), std::as_bytes(std::span(sum)));
            both.insert(both.end(), second.begin(), second.end());
            return both;
        };
        std::vector<std::byte> both = co_await loop().offload(std::move(work));
        co_return co_await append(std::move(both));
    }
    Task<> finish() {
        STRATA_CO_TRY_VOID(failure_.so_far());
        if (!finished_) {
            STRATA_CO_TRY_VOID(failure_.keep(co_await write_end()));
            finished_ = true;
        }
        co_return ok();
    }
    Task<> write_end() {
        if (next_ < blocks()) {
            const std::uint64_t last = blocks() - 1;
            const std::vector<std::byte> zeros(size_ - last * kBlock);
            STRATA_CO_TRY_VOID(co_await write_block(last, Buffers::of(zeros)));
        }
        STRATA_CO_TRY_VOID(co_await append(std::vector<std::byte>(2 * kTarBlock)));
        STRATA_CO_TRY_VOID(co_await file_->flush());
        const auto header = archive::tar_header(std::string(kDescription), description_,
                                                static_cast<std::uint64_t>(std::time(nullptr)));
        STRATA_CO_TRY_VOID(co_await file_->write(0, Buffers::of(header)));
        co_return co_await file_->flush();
    }

    const NodePtr file_;
    const std::uint64_t size_, description_;
    const SumStyle& sums_;
    NodeTraits traits_;
    std::uint64_t end_;       ///< of the file
    std::uint64_t next_ = 0;  ///< blocks before it are done
    FirstFailure failure_;
    bool finished_ = false, closed_ = false;
};

}  // namespace

std::span<const CreateOption> create_options() {
    return kOptions;
}

Task<> create(Loop& loop, CreateRequest request) {
    STRATA_CO_TRY(const std::uint64_t size, disk_size_of(request, "XVA", kMaxBlocks * kBlock));
    NewMachine machine;
    machine.disk_size = size;
    const std::string own = std::filesystem::path(request.path).stem().string();
    machine.name = request.option("name", own);
    STRATA_CO_TRY(machine.cpus, parse_integer(request.option("cpus", "1"), 1, 4096));
    STRATA_CO_TRY(machine.memory, request.number("memory", 1U << 30));
    constexpr std::array<std::string_view, 2> kSums{kSumStyles[0].name, kSumStyles[1].name};
    STRATA_CO_TRY(const std::string_view sums, choice(request, "checksum", kSums));
    STRATA_CO_TRY(const std::string text, describe_machine(machine));
    if (text.size() > archive::kMaxXml / 2) {
        co_return Error{ErrorKind::InvalidArgument, "the machine's name is too long", EINVAL};
    }
    const SumStyle& style = *std::ranges::find(kSumStyles, sums, &SumStyle::name);
    std::vector<std::byte> start = member(unfinished_name(style), std::as_bytes(std::span(text)));
    const std::uint64_t length = start.size();
    Pieces pieces;
    pieces.emplace_back(0, std::move(start));
    co_return co_await write_new_image(loop, request.path, std::move(pieces), length);
}

Task<NodePtr> open_new_export(NodePtr file, OpenOptions options) {
    const Error refused =
        unsupported_image("XVA", options.path, "exports can be read only; open it read-only");
    STRATA_CO_TRY(const auto header, co_await read_bytes(*file, 0, kTarBlock));
    const std::string name = archive::name_in_header(header);
    const auto style = std::ranges::find_if(
        kSumStyles, [&](const SumStyle& each) { return unfinished_name(each) == name; });
    if (style == kSumStyles.end()) {
        co_return refused;
    }
    std::vector<Member> members;
    STRATA_CO_TRY_VOID(co_await archive::walk_tar(*file, 2, [&](const Member& each) {
        members.push_back(each);
        return ok();
    }));
    if (members.size() != 1 || members[0].size > archive::kMaxXml ||
        round_up(members[0].offset + members[0].size, kTarBlock) != file->size()) {
        co_return refused;  // it has blocks
    }
    STRATA_CO_TRY(const auto bytes, co_await read_bytes(*file, members[0].offset, members[0].size));
    // SAFETY: bytes as characters.
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    STRATA_CO_TRY(const auto sizes, parse_disk_sizes(text, options.path));
    const auto size = sizes.find(std::string(kNewDisk));
    if (size == sizes.end() || size->second == 0 || size->second > kMaxBlocks * kBlock) {
        co_return refused;
    }
    co_return NodePtr(std::make_shared<XvaWriter>(std::move(file), options.path, size->second,
                                                  members[0].size, *style));
}

}  // namespace strata::block::xva
