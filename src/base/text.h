// Text: parsing and printing of the small things options are made of (sizes, integers, lists).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace strata {

/// "512", "64k", "256M", "256MiB", "1.5G", "2T": bytes, powers of 1024, suffixes in either case. A
/// bare number is in units of `unit` bytes. InvalidArgument with the text and the reason otherwise
/// (empty, negative, overflow).
Result<std::uint64_t> parse_size(std::string_view text, std::uint64_t unit = 1);

/// A decimal or 0x-hexadecimal integer in [low, high].
Result<std::uint64_t> parse_integer(std::string_view text, std::uint64_t low, std::uint64_t high);

/// "1.5 GiB", "512 B": for people.
std::string format_size(std::uint64_t bytes);

/// Splits at each `separator`; "a,,b" has an empty middle part, "" has no part.
std::vector<std::string_view> split(std::string_view text, char separator);

/// The member of `known` nearest to `text` by edit distance, or "" if none is near. For "did you
/// mean".
std::string_view nearest(std::string_view text, const std::vector<std::string_view>& known);

}  // namespace strata
