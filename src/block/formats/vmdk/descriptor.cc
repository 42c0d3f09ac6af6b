// VmdkDescriptor: line by line.
#include "block/formats/vmdk/descriptor.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "base/text.h"
#include "block/formats/common/wire.h"

namespace strata::block::vmdk {
namespace {

constexpr std::string_view kFirstLine = "# Disk DescriptorFile";

struct TypeName {
    std::string_view name;
    ExtentType type;
};
constexpr std::array<TypeName, 6> kTypes = {{
    {"FLAT", ExtentType::Flat},
    {"VMFS", ExtentType::Flat},
    {"ZERO", ExtentType::Zero},
    {"SPARSE", ExtentType::Sparse},
    {"VMFSSPARSE", ExtentType::VmfsSparse},
    {"SESPARSE", ExtentType::SeSparse},
}};

std::string_view trim(std::string_view text) {
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
    while (!text.empty() && blank(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && blank(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

std::string_view unquote(std::string_view text) {
    return text.size() >= 2 && text.front() == '"' && text.back() == '"'
               ? text.substr(1, text.size() - 2)
               : text;
}

/// The next word of `line`, which it leaves; a quoted one may hold blanks.
std::string_view next_word(std::string_view& line) {
    line = trim(line);
    std::size_t end = 0;
    if (!line.empty() && line.front() == '"') {
        end = line.find('"', 1);
        end = end == std::string_view::npos ? line.size() : end + 1;
    } else {
        end = std::min(line.find_first_of(" \t"), line.size());
    }
    const std::string_view word = line.substr(0, end);
    line.remove_prefix(end);
    return word;
}

template <typename T>
std::optional<T> number(std::string_view text, int base = 10) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(value)
                                                                    : std::nullopt;
}

bool is_extent_line(std::string_view line) {
    const std::string_view access = next_word(line);
    return access == "RW" || access == "RDONLY" || access == "NOACCESS";
}

Result<ExtentLine> parse_extent(std::string_view line, std::string_view name) {
    const std::string_view whole = line;
    ExtentLine out;
    const std::string_view access = next_word(line);
    out.writable = access == "RW";
    const auto sectors = number<std::uint64_t>(next_word(line));
    out.type_name = next_word(line);
    const auto type = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& each) {
        return each.name == out.type_name;
    });
    out.file = unquote(next_word(line));
    const std::string_view offset_word = next_word(line);
    const auto offset =
        offset_word.empty() ? std::optional<std::uint64_t>(0) : number<std::uint64_t>(offset_word);
    if (!sectors || *sectors == 0 || *sectors > kMaxSectors || !offset || *offset > kMaxSectors) {
        return broken_image("VMDK", name, fmt::format("the extent '{:.200}' cannot be", whole));
    }
    if (type == kTypes.end() || access == "NOACCESS") {
        return unsupported_image("VMDK", name,
                                 fmt::format("extents of the kind '{:.200}' are not read", whole));
    }
    out.sectors = *sectors;
    out.type = type->type;
    out.offset = *offset;
    if (out.file.empty() != (out.type == ExtentType::Zero) ||
        (out.offset != 0 && out.type != ExtentType::Flat)) {
        return broken_image(
            "VMDK", name,
            fmt::format("the extent '{:.200}' has a file or an offset too many or too few", whole));
    }
    return out;
}

Result<> take_value(std::string_view line, Descriptor& d, std::string_view name) {
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) {
        return ok();  // unknown lines are skipped, as everybody does
    }
    const std::string_view key = trim(line.substr(0, equals));
    const std::string_view value = unquote(trim(line.substr(equals + 1)));
    if (key == "createType") {
        d.create_type = value;
    } else if (key == "parentFileNameHint") {
        d.parent = value;
    } else if (key == "CID" || key == "parentCID") {
        const auto id = number<std::uint32_t>(value, 16);
        if (!id) {
            return broken_image("VMDK", name,
                                fmt::format("its {} '{:.40}' is no number", key, value));
        }
        (key == "CID" ? d.cid : d.parent_cid) = *id;
    } else if (key.starts_with("ddb.") && d.disk_database.size() < 256) {
        d.disk_database.emplace_back(key, value);
    }
    return ok();
}

}  // namespace

std::uint64_t Descriptor::size() const {
    std::uint64_t total = 0;
    for (const ExtentLine& each : extents) {
        total += each.sectors;
    }
    return total * 512;
}

bool is_descriptor(std::span<const std::byte> bytes) {
    // Comments, empty lines and `version=` may come before anything that is VMware's own.
    std::string text;
    for (const std::byte each : bytes.first(std::min<std::size_t>(bytes.size(), 2048))) {
        text += static_cast<char>(each);
    }
    for (const std::string_view each : split(text, '\n')) {
        const std::string_view line = trim(each);
        if (line.starts_with("#")) {
            continue;
        }
        if (line.empty()) {
            continue;
        }
        return line == "version=1" || line == "version=2" || line == "version=3" ||
               line == "version = 1";
    }
    return false;
}

Result<Descriptor> parse_descriptor(std::span<const std::byte> bytes, std::string_view name) {
    if (bytes.size() > kMaxDescriptor) {
        return broken_image("VMDK", name,
                            fmt::format("a descriptor of {} bytes is too long", bytes.size()));
    }
    const std::string text = text_until_nul(bytes);
    Descriptor d;
    std::uint64_t total = 0;
    for (const std::string_view each : split(text, '\n')) {
        const std::string_view line = trim(each);
        if (line.empty() || line.starts_with("#")) {
            continue;
        }
        if (!is_extent_line(line)) {
            STRATA_TRY_VOID(take_value(line, d, name));
            continue;
        }
        if (d.extents.size() == kMaxExtents) {
            return broken_image("VMDK", name, "it has too many extents");
        }
        d.extents.push_back(STRATA_TRY(parse_extent(line, name)));
        total += d.extents.back().sectors;
        if (total > kMaxSectors) {
            return broken_image("VMDK", name,
                                fmt::format("a disk of {} sectors is too large", total));
        }
    }
    if (d.create_type.empty()) {
        return broken_image("VMDK", name,
                            "its descriptor names no createType: this is no VMDK image",
                            "invalid VMDK image descriptor");
    }
    if (d.extents.empty()) {
        return broken_image("VMDK", name, "its descriptor names no extent");
    }
    return d;
}

std::string serialise_descriptor(const Descriptor& d) {
    std::string out =
        fmt::format("{}\nversion=1\nCID={:08x}\nparentCID={:08x}\ncreateType=\"{}\"\n", kFirstLine,
                    d.cid, d.parent_cid, d.create_type);
    if (!d.parent.empty()) {
        out += fmt::format("parentFileNameHint=\"{}\"\n", d.parent);
    }
    out += "\n# Extent description\n";
    for (const ExtentLine& each : d.extents) {
        out += fmt::format("{} {} {} \"{}\"", each.writable ? "RW" : "RDONLY", each.sectors,
                           each.type_name, each.file);
        out += each.type == ExtentType::Flat && each.type_name == "FLAT"
                   ? fmt::format(" {}\n", each.offset)
                   : "\n";
    }
    out += "\n# The Disk Data Base\n#DDB\n\n";
    for (const auto& [key, value] : d.disk_database) {
        out += fmt::format("{} = \"{}\"\n", key, value);
    }
    return out;
}

Result<std::string> with_cid(std::string text, std::uint32_t cid, std::string_view name) {
    for (std::size_t at = 0; (at = text.find("CID=", at)) != std::string::npos; at += 4) {
        if (at == 0 || text[at - 1] == '\n') {
            const std::size_t size = text.size();
            const std::size_t end =
                std::min(text.find_first_not_of("0123456789abcdefABCDEF", at + 4), size);
            text.replace(
                at + 4, end - (at + 4),
                fmt::format("{:08x}", cid));  // others write fewer digits, without zeros in front
            while (text.size() > size && text.back() == '\0') {
                text.pop_back();
            }
            return text;
        }
    }
    return broken_image("VMDK", name, "its descriptor has no CID to change");
}

}  // namespace strata::block::vmdk
