// Image names: parsing and printing.
#include "qemu_img/image_name.h"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "api/json.h"
#include "block/protocols/fat/fat_node.h"
#include "block/registry.h"
#include "qemu_img/arguments.h"
#include "qemu_img/json_text.h"
#include "qemu_img/report.h"

namespace strata::qemu_img {
namespace {

using block::NodeTree;
using block::OptionList;

constexpr unsigned kMaxNesting = 16;

std::string text_of(const api::Json& value) {
    if (value.is_boolean()) {
        return value.get<bool>() ? "on" : "off";
    }
    return value.is_string() ? value.get<std::string>() : api::dump_json(value);
}

/// {"a": {"b": 1}} becomes a.b=1.
void flatten(const api::Json& value, const std::string& prefix, OptionList& out) {
    if (!value.is_structured()) {
        out.emplace_back(prefix, text_of(value));
        return;
    }
    std::size_t index = 0;
    for (const auto& item : value.items()) {
        const std::string name = value.is_array() ? std::to_string(index++) : item.key();
        flatten(item.value(), prefix.empty() ? name : fmt::format("{}.{}", prefix, name), out);
    }
}

/// 'single' quotes become "double" ones, as the peer's parser takes both.
std::string double_quoted(std::string_view text) {
    std::string result;
    char open = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (open != 0 && c == '\\' && i + 1 < text.size()) {
            result += c;
            result += text[++i];
        } else if (open == 0 && (c == '\'' || c == '"')) {
            open = c;
            result += '"';
        } else if (c == open) {
            open = 0;
            result += '"';
        } else {
            result += c == '"' ? "\\\"" : std::string(1, c);
        }
    }
    return result;
}

Result<NodeTree> tree_of_json(std::string_view text) {
    const api::Json value = STRATA_TRY(api::parse_json(double_quoted(text)));
    if (!value.is_object()) {
        return failure("Invalid JSON object given");
    }
    OptionList options;
    flatten(value, "", options);
    return NodeTree(std::move(options));
}

Result<NodeTree> parse_name(const std::string& name, unsigned nesting);

/// "CONFIG:IMAGE".
Result<NodeTree> tree_of_blkdebug(const std::string& rest, unsigned nesting) {
    const auto colon = rest.find(':');
    if (colon == std::string::npos) {
        return failure("blkdebug requires both config file and image path");
    }
    NodeTree tree;
    tree.set("driver", "blkdebug");
    if (colon != 0) {
        tree.set("config", rest.substr(0, colon));
    }
    tree.graft("image", STRATA_TRY(parse_name(rest.substr(colon + 1), nesting + 1)));
    return tree;
}

Result<NodeTree> parse_name(const std::string& name, unsigned nesting) {
    if (nesting > kMaxNesting) {
        return failure("names are nested too deeply");
    }
    NodeTree tree;
    if (const auto path = path_of_name(name)) {
        tree.set("driver", "file");
        tree.set("filename", *path);
        return tree;
    }
    if (block::is_location(name)) {
        block::OpenOptions location;
        STRATA_TRY_VOID(block::set_location(location, name));
        tree.set("driver", location.protocol);
        for (auto& [key, value] : location.protocol_options) {
            tree.set(std::move(key), std::move(value));
        }
        return tree;
    }
    const auto colon = name.find(':');
    const std::string protocol = name.substr(0, colon);
    const std::string rest = name.substr(colon + 1);
    if (protocol == "json") {
        return tree_of_json(rest);
    }
    if (protocol == "blkdebug") {
        return tree_of_blkdebug(rest, nesting);
    }
    if (block::fat::is_location(name)) {
        tree = NodeTree(block::fat::location_options(name));
        tree.set("driver", "vvfat");
        return tree;
    }
    if (protocol == "null-co" || protocol == "null-aio") {
        if (rest != "//") {
            return failure(
                fmt::format("The only allowed filename for this driver is '{}://'", protocol));
        }
        tree.set("driver", protocol);
        return tree;
    }
    return failure(fmt::format("Unknown protocol '{}'", protocol));
}

/// What a path says without words: a node that needs no name of its own.
constexpr std::array<std::string_view, 5> kUnsaid = {"force-share", "read-only", "node-name",
                                                     "auto-read-only", "discard"};

/// The name of a protocol node; empty: there is none.
std::string exact_name(NodeTree tree) {
    for (const std::string_view each : kUnsaid) {
        (void)tree.take(each);
    }
    const std::string driver = tree.take("driver").value_or("");
    if (driver == "file" || driver == "host_device") {
        const auto path = tree.take("filename");
        return path && tree.empty() ? *path : std::string();
    }
    if (driver == "null-co" || driver == "null-aio") {
        return tree.empty() ? driver + "://" : std::string();
    }
    if (driver == "blkdebug") {
        const std::string config = tree.take("config").value_or("");
        const std::string image = exact_name(tree.take_child("image"));
        return image.empty() || !tree.empty() ? std::string()
                                              : fmt::format("blkdebug:{}:{}", config, image);
    }
    NodeTree file = tree.take_child("file");
    if (auto path = tree.take("filename"); path && file.empty()) {
        file.set("filename", std::move(*path));
    }
    if (!file.empty() && !file.has("driver")) {
        file.set("driver", "file");
    }
    return tree.empty() && !file.empty() ? exact_name(std::move(file)) : std::string();
}

/// Options with dots as nested objects; numbered members stay objects' members, as the peer shows
/// them.
api::Json nested(const NodeTree& tree) {
    api::Json object = api::Json::object();
    for (const auto& [key, value] : tree.options()) {
        api::Json* place = &object;
        std::string_view rest = key;
        auto dot = rest.find('.');
        for (unsigned depth = 0; dot != std::string_view::npos && depth < kMaxNesting;
             dot = rest.find('.'), ++depth) {
            api::Json& next = (*place)[std::string(rest.substr(0, dot))];
            if (!next.is_object()) {
                next = api::Json::object();
            }
            place = &next;
            rest.remove_prefix(dot + 1);
        }
        (*place)[std::string(rest)] = value;
    }
    return object;
}

std::string one_line(const api::Json& value) {
    if (!value.is_object()) {
        return api::dump_json(value);
    }
    std::string out;
    for (const std::string& name : member_order(value)) {
        out += fmt::format("{}{}: {}", out.empty() ? "" : ", ", api::dump_json(api::Json(name)),
                           one_line(value.at(name)));
    }
    return "{" + out + "}";
}

}  // namespace

bool is_plain_name(std::string_view name) {
    const auto place = name.find_first_of(":/");
    return place == std::string_view::npos || name[place] != ':';
}

std::optional<std::string> path_of_name(const std::string& name) {
    if (is_plain_name(name)) {
        return name;
    }
    constexpr std::string_view kFile = "file:";
    if (!name.starts_with(kFile)) {
        return std::nullopt;
    }
    std::string path = name.substr(kFile.size());
    return is_plain_name(path) ? path : "./" + path;
}

Result<NodeTree> tree_of_name(const std::string& name) {
    return parse_name(name, 0);
}

Result<NodeTree> tree_of_options(const std::string& text) {
    OptionList last;  // of each name the last one counts
    for (auto& [name, value] : STRATA_TRY(parse_pairs(text, "file"))) {
        const auto known = std::ranges::find(last, name, &OptionList::value_type::first);
        if (known == last.end()) {
            last.emplace_back(std::move(name), std::move(value));
        } else {
            known->second = std::move(value);
        }
    }
    NodeTree tree(std::move(last));
    if (auto path = tree.take("file")) {
        tree.graft("file", STRATA_TRY(tree_of_name(*path)));
    }
    return tree;
}

std::string name_of_tree(const NodeTree& tree) {
    const std::string name = exact_name(tree);
    return name.empty() ? "json:" + one_line(nested(tree)) : name;
}

std::string beside(const std::string& referrer, const std::string& name) {
    const auto slash = referrer.rfind('/');
    return name.starts_with('/') || !is_plain_name(name) || slash == std::string::npos
               ? name
               : referrer.substr(0, slash + 1) + name;
}

}  // namespace strata::qemu_img
