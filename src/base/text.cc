// Text: parsing and printing of sizes, integers and lists.
#include "base/text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <limits>

#include <fmt/format.h>

namespace strata {
namespace {

Error bad_size(std::string_view text, std::string_view why) {
    return {ErrorKind::InvalidArgument,
            fmt::format("'{}' is not a size: {} (write e.g. 512M, 4G or 1.5T)", text, why)};
}

// The power of 1024 that a suffix such as "k", "MiB" or "GB" names; -1 if it is none.
int suffix_shift(std::string_view suffix) {
    constexpr std::string_view kLetters = "bkmgtpe";
    if (suffix.empty()) {
        return 0;
    }
    const auto letter = static_cast<char>(std::tolower(static_cast<unsigned char>(suffix.front())));
    const auto place = kLetters.find(letter);
    const std::string_view rest = suffix.substr(1);
    if (place == std::string_view::npos ||
        !(rest.empty() || rest == "B" || rest == "b" || rest == "iB")) {
        return -1;
    }
    return static_cast<int>(place) * 10;
}

// "5" of "1.5": thousandths-free exact fraction of `scale`, rounded down.
std::uint64_t fraction_of(std::string_view digits, std::uint64_t scale) {
    unsigned __int128 numerator = 0;
    unsigned __int128 denominator = 1;
    for (const char digit : digits.substr(0, 18)) {
        numerator = numerator * 10 + static_cast<unsigned>(digit - '0');
        denominator *= 10;
    }
    return static_cast<std::uint64_t>(numerator * scale / denominator);
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text, std::uint64_t unit) {
    std::uint64_t whole = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), whole);
    if (status == std::errc::result_out_of_range) {
        return bad_size(text, "too large");
    }
    if (status != std::errc{}) {
        return bad_size(text, "no number");
    }
    std::string_view rest = text.substr(static_cast<std::size_t>(end - text.data()));
    std::string_view fraction;
    if (!rest.empty() && rest.front() == '.') {
        const auto stop =
            std::find_if(rest.begin() + 1, rest.end(), [](char c) { return c < '0' || c > '9'; });
        fraction = rest.substr(1, static_cast<std::size_t>(stop - rest.begin()) - 1);
        rest.remove_prefix(1 + fraction.size());
    }
    const int shift = suffix_shift(rest);
    if (shift < 0) {
        return bad_size(text, fmt::format("unknown unit '{}'", rest));
    }
    const std::uint64_t scale = rest.empty() ? unit : std::uint64_t{1} << shift;
    std::uint64_t size = 0;
    if (__builtin_mul_overflow(whole, scale, &size) ||
        __builtin_add_overflow(size, fraction_of(fraction, scale), &size)) {
        return bad_size(text, "too large");
    }
    return size;
}

Result<std::uint64_t> parse_integer(std::string_view text, std::uint64_t low, std::uint64_t high) {
    const bool hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    const std::string_view digits = hexadecimal ? text.substr(2) : text;
    std::uint64_t value = 0;
    const auto [end, status] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, hexadecimal ? 16 : 10);
    const bool whole = status == std::errc{} && end == digits.data() + digits.size();
    if (!whole || value < low || value > high) {
        return Error{ErrorKind::InvalidArgument,
                     fmt::format("'{}' is not a number from {} to {}", text, low, high)};
    }
    return value;
}

std::string format_size(std::uint64_t bytes) {
    constexpr std::array<std::string_view, 7> kUnits = {"B",   "KiB", "MiB", "GiB",
                                                        "TiB", "PiB", "EiB"};
    std::size_t unit = 0;
    std::uint64_t tenths =
        bytes > std::numeric_limits<std::uint64_t>::max() / 10 ? bytes / 1024 * 10 : bytes * 10;
    if (tenths != bytes * 10) {
        unit = 1;
    }
    while (tenths >= 10240 && unit + 1 < kUnits.size()) {
        tenths /= 1024;
        ++unit;
    }
    return tenths % 10 == 0 ? fmt::format("{} {}", tenths / 10, kUnits[unit])
                            : fmt::format("{}.{} {}", tenths / 10, tenths % 10, kUnits[unit]);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (!text.empty() || !parts.empty()) {
        const auto place = text.find(separator);
        parts.push_back(text.substr(0, place));
        if (place == std::string_view::npos) {
            break;
        }
        text.remove_prefix(place + 1);
    }
    return parts;
}

std::string_view nearest(std::string_view text, const std::vector<std::string_view>& known) {
    std::string_view best;
    std::size_t best_distance = std::max<std::size_t>(2, text.size() / 3) + 1;
    for (const std::string_view candidate : known) {
        std::vector<std::size_t> row(candidate.size() + 1);
        for (std::size_t j = 0; j < row.size(); ++j) {
            row[j] = j;
        }
        for (std::size_t i = 0; i < text.size(); ++i) {
            std::size_t diagonal = row[0];
            row[0] = i + 1;
            for (std::size_t j = 0; j < candidate.size(); ++j) {
                const std::size_t above = row[j + 1];
                row[j + 1] = std::min(
                    {row[j] + 1, above + 1, diagonal + (text[i] == candidate[j] ? 0U : 1U)});
                diagonal = above;
            }
        }
        if (row.back() < best_distance) {
            best_distance = row.back();
            best = candidate;
        }
    }
    return best;
}

}  // namespace strata
