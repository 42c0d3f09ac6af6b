// XvaBlocks: names; the structures of XML-RPC in ova.xml.
#include "block/formats/xva/blocks.h"

#include <algorithm>

#include "block/formats/archive/xml.h"

namespace strata::block::xva {
namespace {

using archive::child;
using archive::children;

constexpr std::size_t kMaxObjects = 4096;

/// The value of the member that is called `name`.
pugi::xml_node member(pugi::xml_node value, std::string_view name) {
    for (const pugi::xml_node each : children(child(value, "struct"), "member")) {
        if (child(each, "name").child_value() == name) {
            return child(each, "value");
        }
    }
    return {};
}

/// The text of a value, with or without its type.
std::string_view text_of(pugi::xml_node value) {
    const pugi::xml_node typed = child(value, "string");
    return typed ? typed.child_value() : value.child_value();
}

}  // namespace

std::optional<BlockName> parse_block_name(std::string_view name) {
    if (name.starts_with("./")) {
        name.remove_prefix(2);
    }
    const std::size_t slash = name.find('/');
    if (slash == std::string_view::npos || slash == 0 || slash > 64) {
        return std::nullopt;
    }
    BlockName out;
    out.disk = name.substr(0, slash);
    name.remove_prefix(slash + 1);
    const std::size_t dot = std::min(name.find('.'), name.size());
    const auto number = archive::number(name.substr(0, dot));
    if (!number.ok() || *number >= kMaxBlocks || !out.disk.starts_with("Ref:")) {
        return std::nullopt;
    }
    out.block = *number;
    out.ending = name.substr(dot);
    return out;
}

Result<std::map<std::string, std::uint64_t>> parse_disk_sizes(std::string_view text,
                                                              std::string_view name) {
    const auto document = STRATA_TRY(archive::parse_xml(text, "XVA", name));
    std::map<std::string, std::uint64_t> sizes;
    const pugi::xml_node objects = member(child(document->root(), "value"), "objects");
    for (const pugi::xml_node each : children(child(child(objects, "array"), "data"), "value")) {
        if (text_of(member(each, "class")) != "VDI" || sizes.size() == kMaxObjects) {
            continue;
        }
        const auto size =
            archive::number(text_of(member(member(each, "snapshot"), "virtual_size")));
        if (size.ok()) {
            sizes[std::string(text_of(member(each, "id")))] = *size;
        }
    }
    return sizes;
}

}  // namespace strata::block::xva
