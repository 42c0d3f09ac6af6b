// NodeTree: taking options out.
#include "block/node_tree.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "base/text.h"

namespace strata::block {
namespace {

constexpr std::size_t kMaxList = 1U << 20;

bool below(std::string_view option, std::string_view name) {
    return option.size() > name.size() && option.starts_with(name) && option[name.size()] == '.';
}

Error bad_value(std::string_view name, std::string_view value, std::string_view wanted) {
    return {ErrorKind::InvalidArgument, fmt::format("{}={}: {} is wanted", name, value, wanted),
            EINVAL};
}

}  // namespace

bool NodeTree::has(std::string_view name) const {
    return std::any_of(options_.begin(), options_.end(), [&](const auto& each) {
        return each.first == name || below(each.first, name);
    });
}

void NodeTree::graft(std::string_view name, const NodeTree& other) {
    for (const auto& [key, value] : other.options_) {
        options_.emplace_back(fmt::format("{}.{}", name, key), value);
    }
}

std::optional<std::string> NodeTree::take(std::string_view name) {
    std::optional<std::string> found;
    std::erase_if(options_, [&](auto& each) {
        if (each.first != name) {
            return false;
        }
        found = std::move(each.second);
        return true;
    });
    return found;
}

Result<bool> NodeTree::take_flag(std::string_view name, bool fallback) {
    const auto value = take(name);
    if (!value) {
        return fallback;
    }
    if (*value == "on" || *value == "true" || *value == "yes") {
        return true;
    }
    if (*value == "off" || *value == "false" || *value == "no") {
        return false;
    }
    return bad_value(name, *value, "on or off");
}

Result<std::uint64_t> NodeTree::take_size(std::string_view name, std::uint64_t fallback) {
    const auto value = take(name);
    if (!value) {
        return fallback;
    }
    return STRATA_TRY(parse_size(*value));
}

Result<std::uint64_t> NodeTree::take_number(std::string_view name, std::uint64_t fallback) {
    const auto value = take(name);
    if (!value) {
        return fallback;
    }
    auto number = parse_integer(*value, 0, UINT64_MAX);
    return number.ok() ? std::move(number) : bad_value(name, *value, "a whole number");
}

Result<double> NodeTree::take_share(std::string_view name, double fallback) {
    const auto value = take(name);
    if (!value) {
        return fallback;
    }
    double number = -1;
    const auto [end, code] = std::from_chars(value->data(), value->data() + value->size(), number);
    if (code != std::errc() || end != value->data() + value->size() ||
        !(number >= 0 && number <= 1)) {
        return bad_value(name, *value, "a number from 0 to 1");
    }
    return number;
}

NodeTree NodeTree::take_child(std::string_view name) {
    OptionList taken;
    std::erase_if(options_, [&](auto& each) {
        if (!below(each.first, name)) {
            return false;
        }
        taken.emplace_back(each.first.substr(name.size() + 1), std::move(each.second));
        return true;
    });
    return NodeTree(std::move(taken));
}

std::vector<NodeTree> NodeTree::take_list(std::string_view name) {
    std::map<std::size_t, OptionList> items;
    for (auto& [key, value] : take_child(name).options_) {
        const auto dot = key.find('.');
        const auto index = dot == std::string::npos
                               ? Result<std::uint64_t>(0)
                               : parse_integer(key.substr(0, dot), 0, kMaxList);
        if (dot == std::string::npos || !index.ok()) {
            options_.emplace_back(fmt::format("{}.{}", name, key), std::move(value));
        } else {
            items[*index].emplace_back(key.substr(dot + 1), std::move(value));
        }
    }
    std::vector<NodeTree> list;
    for (auto& [index, item] : items) {
        if (index == list.size()) {
            list.emplace_back(std::move(item));
        } else {
            graft(fmt::format("{}.{}", name, index),
                  NodeTree(std::move(item)));  // behind a gap: left over
        }
    }
    return list;
}

Result<> NodeTree::finish(std::string_view kind, std::string_view driver) const {
    if (options_.empty()) {
        return ok();
    }
    return Error{ErrorKind::InvalidArgument,
                 fmt::format("Block {} '{}' does not support the option '{}'", kind, driver,
                             options_.front().first),
                 EINVAL};
}

}  // namespace strata::block
