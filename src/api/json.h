// Json: JSON text to values and back, without exceptions.
//
// The one place that wraps nlohmann::json. Parsing bounds depth and size before the library sees
// the text; values are read through ObjectReader, which checks each type, reports the path of what
// is wrong, and rejects members that nobody asked for.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/result.h"

namespace strata::api {

using Json = nlohmann::ordered_json;

/// The value that `text` is. InvalidArgument if it is no JSON, over 1 MiB, or nested deeper
/// than 32.
Result<Json> parse_json(std::string_view text);
/// One line; bytes that are not UTF-8 become U+FFFD.
std::string dump_json(const Json& value);
/// Indented by two, with a final newline: for people.
std::string dump_json_pretty(const Json& value);

/// Reads the members of one object. Sticky: after the first mistake members read as their defaults,
/// and finish() returns it.
class ObjectReader {
  public:
    /// `path` names the object in errors, e.g. "disks[0]". `value` is borrowed.
    ObjectReader(const Json& value, std::string path);

    [[nodiscard]] bool has(std::string_view name) const;
    /// Optional members: `fallback` if absent.
    std::string text(std::string_view name, std::string_view fallback = "");
    std::uint64_t number(std::string_view name, std::uint64_t fallback, std::uint64_t low,
                         std::uint64_t high);
    std::int64_t integer(std::string_view name, std::int64_t fallback);
    bool boolean(std::string_view name, bool fallback);
    /// The elements of an array member; none if absent. At most `limit`.
    std::vector<const Json*> array(std::string_view name, std::size_t limit);
    /// The member itself; nullptr if absent.
    const Json* member(std::string_view name);
    /// The path of member `name`, for nested readers.
    [[nodiscard]] std::string path_of(std::string_view name) const;
    /// Records a mistake in member `name`.
    void reject(std::string_view name, std::string_view why);
    /// The first mistake, an unknown member included.
    Result<> finish();

  private:
    const Json& value_;
    std::string path_;
    std::set<std::string, std::less<>> seen_;
    std::string mistake_;
};

}  // namespace strata::api
