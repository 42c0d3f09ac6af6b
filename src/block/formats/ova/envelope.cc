// OvfEnvelope: references, disks, units.
#include "block/formats/ova/envelope.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "block/formats/archive/xml.h"
#include "block/formats/common/wire.h"

namespace strata::block::ova {
namespace {

using archive::attribute;
using archive::child;
using archive::children;

constexpr std::size_t kMaxDisks = 256;
constexpr std::uint64_t kMaxCapacity = 1ULL << 62;

/// "byte", "byte * 2^30", "byte * 1024" …
Result<std::uint64_t> unit_of(std::string_view text) {
    std::string bare;
    std::ranges::copy_if(text, std::back_inserter(bare), [](char each) { return each != ' '; });
    std::string_view rest = bare;
    const Error unknown{ErrorKind::NotSupported, fmt::format("the unit '{:.40}' is unknown", text)};
    if (rest.empty() || rest == "byte" || rest == "bytes") {
        return std::uint64_t{1};
    }
    if (!rest.starts_with("byte*")) {
        return unknown;
    }
    rest.remove_prefix(5);
    if (!rest.starts_with("2^")) {
        auto factor = archive::number(rest);
        return factor.ok() && *factor != 0 ? factor : unknown;
    }
    const auto power = archive::number(rest.substr(2));
    if (!power.ok() || *power > 60) {
        return unknown;
    }
    return std::uint64_t{1} << *power;
}

Result<std::uint64_t> capacity_of(pugi::xml_node disk) {
    const std::uint64_t count = STRATA_TRY(archive::number(attribute(disk, "capacity")));
    const std::uint64_t unit = STRATA_TRY(unit_of(attribute(disk, "capacityAllocationUnits")));
    if (count > kMaxCapacity / unit) {
        return Error{ErrorKind::Failed, "a disk larger than any can be"};
    }
    return count * unit;
}

/// A name inside the archive, or beside the description: no path.
bool is_plain(std::string_view name) {
    return !name.empty() && name.size() <= 1024 && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\\:\0", 4)) == std::string_view::npos;
}

Result<OvfDisk> read_disk(pugi::xml_node disk, pugi::xml_node references) {
    OvfDisk out;
    out.id = attribute(disk, "diskId");
    out.format = attribute(disk, "format");
    out.capacity = STRATA_TRY(capacity_of(disk));
    const std::string_view reference = attribute(disk, "fileRef");
    for (const pugi::xml_node file : children(references, "File")) {
        if (attribute(file, "id") != reference) {
            continue;
        }
        if (!attribute(file, "compression").empty() &&
            attribute(file, "compression") != "identity") {
            return Error{ErrorKind::NotSupported, "its files are compressed once more"};
        }
        if (!attribute(file, "chunkSize").empty()) {
            return Error{ErrorKind::NotSupported, "its files are cut into chunks"};
        }
        out.file = attribute(file, "href");
    }
    if (!is_plain(out.file)) {
        return Error{ErrorKind::Failed,
                     fmt::format("disk '{:.64}' has the file '{:.64}', which is none of its own",
                                 out.id, out.file)};
    }
    return out;
}

}  // namespace

Result<std::vector<OvfDisk>> parse_ovf(std::string_view text, std::string_view name) {
    const auto document = STRATA_TRY(archive::parse_xml(text, "OVF", name));
    const pugi::xml_node envelope = child(document->root(), "Envelope");
    const pugi::xml_node references = child(envelope, "References");
    // "Section" of type DiskSection in version 0.9.
    pugi::xml_node section = child(envelope, "DiskSection");
    for (const pugi::xml_node each : children(envelope, "Section")) {
        if (!section && attribute(each, "type").ends_with("DiskSection_Type")) {
            section = each;
        }
    }
    std::vector<OvfDisk> disks;
    for (const pugi::xml_node each : children(section, "Disk")) {
        if (attribute(each, "fileRef").empty()) {
            continue;  // made empty when the machine is
        }
        if (disks.size() == kMaxDisks) {
            return broken_image("OVF", name, "too many disks");
        }
        auto disk = read_disk(each, references);
        if (!disk.ok()) {
            return broken_image("OVF", name, disk.error().text());
        }
        disks.push_back(std::move(*disk));
    }
    return disks;
}

// "SHA256(disk1.vmdk)= 0123…"
std::map<std::string, Digest> parse_manifest(std::string_view text) {
    std::map<std::string, Digest> all;
    while (!text.empty() && all.size() < 4 * kMaxDisks) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        const std::size_t open = line.find('('), close = line.rfind(')'), equals = line.rfind('=');
        if (open == std::string_view::npos || close == std::string_view::npos ||
            equals == std::string_view::npos || open > close || close > equals) {
            continue;
        }
        Digest digest;
        digest.algorithm = line.substr(0, open);
        for (const char each : line.substr(equals + 1)) {
            if (std::isxdigit(static_cast<unsigned char>(each)) != 0) {
                digest.hex += static_cast<char>(std::tolower(static_cast<unsigned char>(each)));
            }
        }
        all.emplace(line.substr(open + 1, close - open - 1), std::move(digest));
    }
    return all;
}

}  // namespace strata::block::ova
