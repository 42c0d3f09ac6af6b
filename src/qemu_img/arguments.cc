// Arguments: getopt_long and the small syntaxes inside values.
#include "qemu_img/arguments.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>
#include <getopt.h>

#include "qemu_img/report.h"

namespace strata::qemu_img {
namespace {

constexpr int kLongOnly = 256;

std::string key_of(const OptionSpec& option) {
    return option.name != nullptr ? option.name : std::string(1, option.letter);
}

struct GetoptTables {
    std::string letters = ":";
    std::vector<option> longs;
};

GetoptTables tables(std::span<const OptionSpec> options) {
    GetoptTables result;
    for (std::size_t i = 0; i < options.size(); ++i) {
        const OptionSpec& spec = options[i];
        if (spec.letter != 0) {
            result.letters += spec.letter;
            result.letters += spec.value ? ":" : "";
        }
        if (spec.name != nullptr) {
            result.longs.push_back(
                {spec.name, spec.value ? required_argument : no_argument, nullptr,
                 spec.letter != 0 ? spec.letter : kLongOnly + static_cast<int>(i)});
        }
    }
    result.longs.push_back({nullptr, 0, nullptr, 0});
    return result;
}

}  // namespace

Result<Arguments> Arguments::parse(std::span<char*> words, std::span<const OptionSpec> options) {
    std::vector<OptionSpec> known(options.begin(), options.end());
    known.push_back({'h', "help", false});
    const GetoptTables table = tables(known);
    std::vector<char*> copy(words.begin(), words.end());
    copy.push_back(nullptr);
    Arguments result;
    optind = 0;  // glibc: start anew
    const int count = static_cast<int>(words.size());
    for (int found = 0; (found = getopt_long(count, copy.data(), table.letters.c_str(),
                                             table.longs.data(), nullptr)) != -1;) {
        if (found == ':') {
            return usage_error(fmt::format("missing argument for option '{}'",
                                           copy[static_cast<std::size_t>(optind) - 1]));
        }
        if (found == '?') {
            return usage_error(fmt::format("unrecognized option '{}'",
                                           copy[static_cast<std::size_t>(optind) - 1]));
        }
        const auto spec = found >= kLongOnly
                              ? known.begin() + (found - kLongOnly)
                              : std::ranges::find_if(known, [&](const OptionSpec& one) {
                                    return one.letter == found;
                                });
        result.given_.emplace_back(key_of(*spec), spec->value && optarg != nullptr ? optarg : "");
    }
    for (int i = optind; i < count; ++i) {
        result.positionals_.emplace_back(copy[static_cast<std::size_t>(i)]);
    }
    return result;
}

bool Arguments::has(std::string_view key) const {
    return std::ranges::any_of(given_, [&](const auto& one) { return one.first == key; });
}

std::optional<std::string> Arguments::last(std::string_view key) const {
    const auto place = std::find_if(given_.rbegin(), given_.rend(),
                                    [&](const auto& one) { return one.first == key; });
    return place == given_.rend() ? std::nullopt : std::optional(place->second);
}

std::string Arguments::last_or(std::string_view key, std::string_view fallback) const {
    return last(key).value_or(std::string(fallback));
}

std::vector<std::string> Arguments::all(std::string_view key) const {
    std::vector<std::string> result;
    for (const auto& [name, value] : given_) {
        if (name == key) {
            result.push_back(value);
        }
    }
    return result;
}

Result<std::string> Arguments::only(std::string_view otherwise) const {
    if (positionals_.size() != 1) {
        return usage_error(std::string(otherwise));
    }
    return positionals_[0];
}

std::optional<std::uint64_t> bytes_of(const std::string& text, bool* too_large) {
    const char* start = text.c_str();
    if (text.empty() || std::isspace(static_cast<unsigned char>(text[0])) != 0 || text[0] == '-' ||
        text[0] == '+') {
        return std::nullopt;
    }
    char* end = nullptr;
    errno = 0;
    const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const unsigned long long whole = std::strtoull(start, &end, hex ? 16 : 10);
    bool overflow = errno == ERANGE;
    long double value = static_cast<long double>(whole);
    if (end == start) {
        return std::nullopt;
    }
    bool fraction = false;
    bool whole_number = true;
    if (!hex && *end == '.') {
        const char* point = end;
        value += std::strtold(point, &end);
        fraction = true;
        whole_number = value == std::floor(value);
        if (end == point || std::find_if(point, static_cast<const char*>(end),
                                         [](char c) { return c == 'e' || c == 'E'; }) != end) {
            return std::nullopt;
        }
    }
    static constexpr std::string_view kSuffixes = "BKMGTPE";
    int power = 0;
    if (*end != '\0') {
        const auto place =
            kSuffixes.find(static_cast<char>(std::toupper(static_cast<unsigned char>(*end))));
        if (place == std::string_view::npos || hex || end[1] != '\0') {
            return std::nullopt;
        }
        power = static_cast<int>(place);
    }
    if (!whole_number && power == 0) {
        return std::nullopt;
    }
    if (!fraction && !overflow) {
        overflow = power != 0 && whole > (UINT64_MAX >> (10 * power));
        if (!overflow) {
            return static_cast<std::uint64_t>(whole) << (10 * power);
        }
    }
    const long double bytes = std::ldexp(value, 10 * power);
    if (overflow || bytes >= 18446744073709551615.0L) {
        if (too_large != nullptr) {
            *too_large = true;
        }
        return std::nullopt;
    }
    return static_cast<std::uint64_t>(bytes);
}

Result<std::uint64_t> parse_bytes(std::string_view what, const std::string& text, std::uint64_t low,
                                  std::uint64_t high) {
    bool too_large = false;
    const auto value = bytes_of(text, &too_large);
    if (!value && !too_large) {
        report_error(
            fmt::format("Invalid {} specified. You may use k, M, G, T, P or E suffixes for", what));
        return failure("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    }
    if (too_large || *value < low || *value > high) {
        return failure(
            fmt::format("Invalid {} specified. Must be between {} and {}.", what, low, high));
    }
    return *value;
}

namespace {

/// One part up to an unpaired comma; moves `text` behind it.
std::string take_part(std::string_view& text) {
    std::string part;
    std::size_t at = 0;
    for (; at < text.size(); ++at) {
        if (text[at] == ',') {
            if (at + 1 == text.size() || text[at + 1] != ',') {
                break;
            }
            ++at;
        }
        part += text[at];
    }
    text.remove_prefix(std::min(text.size(), at + 1));
    return part;
}

bool valid_list(std::string_view text) {
    if (text.empty() || text.front() == ',') {
        return false;
    }
    const std::size_t commas = text.size() - 1 - text.find_last_not_of(',');
    return commas % 2 == 0;
}

Result<> check_lists(const std::vector<std::string>& lists) {
    for (const std::string& list : lists) {
        if (!valid_list(list)) {
            return failure(fmt::format("Invalid option list: {}", list));
        }
    }
    return ok();
}

}  // namespace

std::optional<std::string> take(Pairs& pairs, std::string_view name) {
    const auto place =
        std::ranges::find_if(pairs, [&](const auto& pair) { return pair.first == name; });
    if (place == pairs.end()) {
        return std::nullopt;
    }
    std::string value = std::move(place->second);
    pairs.erase(place);
    return value;
}

Result<Pairs> parse_pairs(std::string_view text, std::string_view implied) {
    std::vector<std::pair<std::string, std::string>> result;
    for (bool first = true; !text.empty(); first = false) {
        const std::string part = take_part(text);
        const auto equals = part.find('=');
        if (equals != std::string::npos) {
            result.emplace_back(part.substr(0, equals), part.substr(equals + 1));
        } else if (first && !implied.empty()) {
            result.emplace_back(implied, part);
        } else if (part.starts_with("no") && part.size() > 2) {
            result.emplace_back(part.substr(2), "off");
        } else {
            result.emplace_back(part, "on");
        }
        if (result.back().first.empty()) {
            return failure(fmt::format("Invalid parameter '{}'", part));
        }
    }
    return result;
}

Result<std::vector<std::pair<std::string, std::string>>> option_list(
    const std::vector<std::string>& lists) {
    std::vector<std::pair<std::string, std::string>> result;
    STRATA_TRY_VOID(check_lists(lists));
    for (const std::string& list : lists) {
        for (auto& pair : STRATA_TRY(parse_pairs(list))) {
            result.push_back(std::move(pair));
        }
    }
    return result;
}

Result<bool> asks_for_help(const std::vector<std::string>& lists) {
    STRATA_TRY_VOID(check_lists(lists));
    return std::ranges::any_of(lists, [](std::string_view text) {
        while (!text.empty()) {
            const std::string part = take_part(text);
            if (part == "help" || part == "?") {
                return true;
            }
        }
        return false;
    });
}

}  // namespace strata::qemu_img
