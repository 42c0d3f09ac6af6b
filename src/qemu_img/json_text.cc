// JSON text: the peer's layout and order.
#include "qemu_img/json_text.h"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>

namespace strata::qemu_img {
namespace {

constexpr std::uint32_t kBuckets = 512;

/// The bucket of a member in the peer's dictionaries: gdbm's hash, as its output shows.
std::uint32_t bucket(std::string_view name) {
    auto value = static_cast<std::uint32_t>(0x238F13AFU * name.size());
    for (std::size_t i = 0; i < name.size(); ++i) {
        value += static_cast<std::uint32_t>(static_cast<unsigned char>(name[i])) << (i * 5 % 24);
    }
    return (1103515243U * value + 12345U) % kBuckets;
}

void append(std::string& out, const api::Json& value, unsigned depth) {
    const std::string inside(4 * (depth + 1), ' ');
    const std::string outside(4 * depth, ' ');
    std::string_view separator = "\n";
    if (value.is_object()) {
        out += '{';
        for (const std::string& name : member_order(value)) {
            out += fmt::format("{}{}{}: ", separator, inside, api::dump_json(api::Json(name)));
            append(out, value.at(name), depth + 1);
            separator = ",\n";
        }
        out += '\n' + outside + '}';
    } else if (value.is_array()) {
        out += '[';
        for (const api::Json& one : value) {
            out += fmt::format("{}{}", separator, inside);
            append(out, one, depth + 1);
            separator = ",\n";
        }
        out += '\n' + outside + ']';
    } else {
        out += api::dump_json(value);
    }
}

std::string scalar(const api::Json& value) {
    return value.is_string() ? value.get<std::string>() : api::dump_json(value);
}

std::string list_text(const api::Json& list, unsigned depth);

std::string value_text(const api::Json& value, unsigned depth) {
    if (value.is_object()) {
        return "\n" + fields_text(value, depth + 1);
    }
    if (value.is_array()) {
        return "\n" + list_text(value, depth + 1);
    }
    return fmt::format(" {}\n", scalar(value));
}

std::string list_text(const api::Json& list, unsigned depth) {
    std::string out;
    for (std::size_t i = 0; i < list.size(); ++i) {
        out += fmt::format("{}[{}]:{}", std::string(4 * depth, ' '), i, value_text(list[i], depth));
    }
    return out;
}

struct ToJson {
    api::Json operator()(bool value) const { return value; }
    api::Json operator()(std::int64_t value) const { return value; }
    api::Json operator()(const std::string& value) const { return value; }
    api::Json operator()(const std::vector<std::string>& values) const { return values; }
    api::Json operator()(const std::vector<block::InfoField>& fields) const {
        return fields_json(fields);
    }
    api::Json operator()(const std::vector<std::vector<block::InfoField>>& list) const {
        api::Json result = api::Json::array();
        for (const auto& fields : list) {
            result.push_back(fields_json(fields));
        }
        return result;
    }
};

}  // namespace

std::vector<std::string> member_order(const api::Json& object) {
    std::vector<std::string> names;
    for (const auto& item : object.items()) {
        names.insert(names.begin(), item.key());  // a later one of the same bucket comes first
    }
    std::ranges::stable_sort(names, {}, bucket);
    return names;
}

std::string json_text(const api::Json& value) {
    std::string out;
    append(out, value, 0);
    return out + '\n';
}

api::Json fields_json(const std::vector<block::InfoField>& fields) {
    api::Json result = api::Json::object();
    for (const block::InfoField& field : fields) {
        result[field.name] = std::visit(ToJson{}, field.value);
    }
    return result;
}

std::string fields_text(const api::Json& object, unsigned depth) {
    std::string out;
    for (const std::string& name : member_order(object)) {
        std::string label = name;
        std::ranges::replace(label, '-', ' ');
        out += fmt::format("{}{}:{}", std::string(4 * depth, ' '), label,
                           value_text(object.at(name), depth));
    }
    return out;
}

}  // namespace strata::qemu_img
