// dd: copies blocks of an image into a new one.
#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <vector>

#include <fmt/format.h>

#include "qemu_img/arguments.h"
#include "qemu_img/commands.h"
#include "qemu_img/create_options.h"
#include "qemu_img/report.h"
#include "qemu_img/session.h"

namespace strata::qemu_img {
namespace {

constexpr std::array kOptions = {OptionSpec{'f', nullptr, true}, OptionSpec{'O', nullptr, true},
                                 kObjectOption, kImageOptsOption, kForceShareOption};

struct Operands {
    std::string input, output;
    std::uint64_t block = 512;
    std::optional<std::uint64_t> count, skip;
};

Result<std::uint64_t> number(const std::string& text) {
    bool too_large = false;
    const auto value = bytes_of(text, &too_large);
    if (!value || *value > INT64_MAX) {
        return failure(fmt::format("invalid number: '{}'", text));
    }
    return *value;
}

Result<> take_operand(Operands& operands, const std::string& word) {
    const auto equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const std::string value = equals == std::string::npos ? std::string() : word.substr(equals + 1);
    if (equals == std::string::npos) {
        return failure(fmt::format("unrecognized operand {}", word));
    }
    if (name == "if") {
        operands.input = value;
    } else if (name == "of") {
        operands.output = value;
    } else if (name == "bs") {
        operands.block = STRATA_TRY(number(value));
        if (operands.block == 0 || operands.block > INT32_MAX) {
            return failure(
                fmt::format("Invalid bs specified. Must be between 1 and {}.", INT32_MAX));
        }
    } else if (name == "count") {
        operands.count = STRATA_TRY(number(value));
    } else if (name == "skip") {
        operands.skip = STRATA_TRY(number(value));
    } else {
        return failure(fmt::format("unrecognized operand {}", name));
    }
    return ok();
}

block::Task<> copy_blocks(block::Node& source, block::Node& target, std::uint64_t from,
                          std::uint64_t end, std::uint64_t block) {
    std::vector<std::byte> buffer(std::max<std::uint64_t>(block, 1U << 20) / block * block);
    for (std::uint64_t at = from; at < end;) {
        const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), end - at));
        Result<> done = co_await source.read(at, block::Buffers(part));
        if (!done.ok()) {
            co_return failure(
                fmt::format("error while reading from input image file: {}", reason(done.error())));
        }
        done = co_await target.write(at - from, block::Buffers(part));
        if (!done.ok()) {
            co_return failure(
                fmt::format("error while writing to output image file: {}", reason(done.error())));
        }
        at += part.size();
    }
    co_return ok();
}

/// Where to begin and to end, of `size` bytes.
std::pair<std::uint64_t, std::uint64_t> range_of(const Operands& operands, std::uint64_t size) {
    if (operands.count && *operands.count <= INT64_MAX / operands.block) {
        size = std::min(size, *operands.count * operands.block);
    }
    if (!operands.skip) {
        return {0, size};
    }
    if (*operands.skip > INT64_MAX / operands.block || *operands.skip * operands.block > size) {
        report_error(fmt::format("{}: cannot skip to specified offset", operands.input));
        return {size, size};
    }
    return {*operands.skip * operands.block, size};
}

Result<int> copy(Session& session, const Arguments& arguments, const Operands& operands) {
    const ImageSpec spec = STRATA_TRY(image_spec(arguments, operands.input, "f"));
    block::NodePtr source = STRATA_TRY(session.open(spec, {.share = arguments.has("force-share")}));
    NewImage image;
    image.path = STRATA_TRY(plain_path(operands.output));
    const std::string format = arguments.last_or("O", "raw");
    STRATA_TRY_VOID(image.use_format(format));
    const auto [from, end] = range_of(operands, source->size());
    image.size = end - from;
    Result<> made = image.create(session);
    if (!made.ok()) {
        return failure(fmt::format("{}: error while creating output image: {}", operands.output,
                                   made.error().text()));
    }
    block::NodePtr target =
        STRATA_TRY(session.open({operands.output, format, false}, {.write = true}));
    STRATA_TRY_VOID(session.run(copy_blocks(*source, *target, from, end, operands.block)));
    STRATA_TRY_VOID(session.close(target));
    STRATA_TRY_VOID(session.close(source));
    return 0;
}

Result<int> run(Session& session, std::span<char*> words) {
    const Arguments arguments = STRATA_TRY(Arguments::parse(words, kOptions));
    if (arguments.help()) {
        print_help();
        return 0;
    }
    Operands operands;
    for (const std::string& word : arguments.positionals()) {
        STRATA_TRY_VOID(take_operand(operands, word));
    }
    if (operands.input.empty() || operands.output.empty()) {
        return failure("Must specify both input and output files");
    }
    STRATA_TRY_VOID(take_objects(session, arguments));
    return copy(session, arguments, operands);
}

}  // namespace

const Command kDd = {"dd",
                     "[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] "
                     "[skip=blocks] if=input of=output",
                     run};

}  // namespace strata::qemu_img
