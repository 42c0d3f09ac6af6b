// Json: parsing with bounds, and reading with types checked.
#include "api/json.h"

#include <algorithm>

#include <fmt/format.h>

namespace strata::api {
namespace {

constexpr std::size_t kMaxText = 1U << 20;
constexpr int kMaxDepth = 32;

// The deepest nesting of brackets outside strings.
int depth_of(std::string_view text) {
    int depth = 0;
    int deepest = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            i += c == '\\' ? 1 : 0;
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            deepest = std::max(deepest, ++depth);
        } else if (c == '}' || c == ']') {
            --depth;
        }
    }
    return deepest;
}

}  // namespace

Result<Json> parse_json(std::string_view text) {
    if (text.size() > kMaxText) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("JSON of {} bytes is over the limit of 1 MiB", text.size())};
    }
    if (depth_of(text) > kMaxDepth) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("JSON is nested deeper than {}", kMaxDepth)};
    }
    Json value = Json::parse(text.begin(), text.end(), nullptr, false);
    if (value.is_discarded()) {
        return Error{ErrorKind::InvalidArgument, "not valid JSON"};
    }
    return value;
}

std::string dump_json(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string dump_json_pretty(const Json& value) {
    return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ObjectReader::ObjectReader(const Json& value, std::string path)
    : value_(value), path_(std::move(path)) {
    if (!value_.is_object()) {
        mistake_ = fmt::format("{}: must be an object", path_.empty() ? "JSON" : path_);
    }
}

bool ObjectReader::has(std::string_view name) const {
    return value_.is_object() && value_.contains(std::string(name));
}

const Json* ObjectReader::member(std::string_view name) {
    if (!value_.is_object()) {
        return nullptr;
    }
    seen_.emplace(name);
    const auto place = value_.find(std::string(name));
    return place == value_.end() ? nullptr : &*place;
}

std::string ObjectReader::text(std::string_view name, std::string_view fallback) {
    const Json* value = member(name);
    if (value == nullptr) {
        return std::string(fallback);
    }
    if (!value->is_string()) {
        reject(name, "must be a text");
        return std::string(fallback);
    }
    return value->get<std::string>();
}

std::uint64_t ObjectReader::number(std::string_view name, std::uint64_t fallback, std::uint64_t low,
                                   std::uint64_t high) {
    const Json* value = member(name);
    if (value == nullptr) {
        return fallback;
    }
    // A number made in memory is signed though it is not negative; one that was parsed is unsigned.
    const bool whole = value->is_number_unsigned() ||
                       (value->is_number_integer() && value->get<std::int64_t>() >= 0);
    if (!whole || value->get<std::uint64_t>() < low || value->get<std::uint64_t>() > high) {
        reject(name, fmt::format("must be a number from {} to {}", low, high));
        return fallback;
    }
    return value->get<std::uint64_t>();
}

std::int64_t ObjectReader::integer(std::string_view name, std::int64_t fallback) {
    const Json* value = member(name);
    if (value == nullptr) {
        return fallback;
    }
    if (!value->is_number_integer()) {
        reject(name, "must be an integer");
        return fallback;
    }
    return value->get<std::int64_t>();
}

bool ObjectReader::boolean(std::string_view name, bool fallback) {
    const Json* value = member(name);
    if (value == nullptr) {
        return fallback;
    }
    if (!value->is_boolean()) {
        reject(name, "must be true or false");
        return fallback;
    }
    return value->get<bool>();
}

std::vector<const Json*> ObjectReader::array(std::string_view name, std::size_t limit) {
    std::vector<const Json*> elements;
    const Json* value = member(name);
    if (value == nullptr) {
        return elements;
    }
    if (!value->is_array() || value->size() > limit) {
        reject(name, fmt::format("must be an array of at most {}", limit));
        return elements;
    }
    for (const Json& element : *value) {
        elements.push_back(&element);
    }
    return elements;
}

std::string ObjectReader::path_of(std::string_view name) const {
    return path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name);
}

void ObjectReader::reject(std::string_view name, std::string_view why) {
    if (mistake_.empty()) {
        mistake_ = fmt::format("{}: {}", path_of(name), why);
    }
}

Result<> ObjectReader::finish() {
    if (mistake_.empty()) {
        for (const auto& item : value_.items()) {
            if (!seen_.contains(item.key())) {
                reject(item.key(), "no such member");
                break;
            }
        }
    }
    if (!mistake_.empty()) {
        return Error{ErrorKind::InvalidArgument, mistake_};
    }
    return ok();
}

}  // namespace strata::api
