// FatNames: conversion, shortening, numbers.
#include "block/protocols/fat/names.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <unordered_map>
#include <unordered_set>

#include <fmt/format.h>

#include "block/formats/common/wire.h"

namespace strata::block::fat {
namespace {

constexpr std::size_t kStem = 8, kEnding = 3;
constexpr std::size_t kUnitsInEntry = 13;
constexpr std::string_view kNotLong = "\"*/:<>?\\|";
constexpr std::string_view kShortMarks = "!#$%&'()-@^_`{}~";

/// One letter for both cases, of the alphabets where the two lie apart evenly.
char16_t fold(char16_t unit) {
    if ((unit >= u'a' && unit <= u'z') || (unit >= 0xe0 && unit <= 0xfe && unit != 0xf7) ||
        (unit >= 0x3b1 && unit <= 0x3c9 && unit != 0x3c2) || (unit >= 0x430 && unit <= 0x44f)) {
        return static_cast<char16_t>(unit - 32);
    }
    return unit >= 0x450 && unit <= 0x45f ? static_cast<char16_t>(unit - 80) : unit;
}

std::u16string folded(std::u16string_view text) {
    std::u16string out(text);
    std::ranges::transform(out, out.begin(), fold);
    return out;
}

bool is_short_mark(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kShortMarks.find(c) != std::string_view::npos;
}

/// "STEM.END" as text.
std::u16string spelled(std::string_view stem, std::string_view ending) {
    std::u16string out(stem.begin(), stem.end());
    if (!ending.empty()) {
        out += u'.';
        out.append(ending.begin(), ending.end());
    }
    return out;
}

ShortName packed(std::string_view stem, std::string_view ending) {
    ShortName name;
    name.fill(' ');
    std::ranges::copy(stem, name.begin());
    std::ranges::copy(ending, name.begin() + kStem);
    return name;
}

/// What of `part` can stand in a short name, at most `most` characters; `exact` becomes false if
/// that is less than what the name says.
std::string brief_part(std::u16string_view part, std::size_t most, bool& exact) {
    std::string out;
    for (const char16_t unit : part) {
        if (unit == u' ' || unit == u'.') {
            exact = false;
            continue;
        }
        const char16_t upper =
            unit >= u'a' && unit <= u'z' ? static_cast<char16_t>(unit - 32) : unit;
        const bool fine = upper < 0x80 && is_short_mark(static_cast<char>(upper));
        if (unit >= 0xdc00 && unit <= 0xdfff) {
            continue;  // the second half of what is one '_'
        }
        exact = exact && fine;
        out += fine ? static_cast<char>(upper) : '_';
    }
    exact = exact && out.size() <= most;
    out.resize(std::min(out.size(), most));
    return out;
}

/// The names of one folder that are in use, and where numbering goes on.
class NameSet {
  public:
    /// `name`, with a number if it is taken.
    std::u16string take_long(const std::u16string& name) {
        if (used_.insert(folded(name)).second) {
            return name;
        }
        const std::size_t dot = name.rfind(u'.');
        const std::size_t stem = dot == std::u16string::npos || dot == 0 ? name.size() : dot;
        unsigned& number = numbers_[folded(name)];
        for (;;) {
            const std::string tail = fmt::format("~{}", ++number);
            const std::u16string end = std::u16string(tail.begin(), tail.end()) +
                                       name.substr(stem).substr(0, kMaxLong / 2);
            std::u16string other = name.substr(0, std::min(stem, kMaxLong - end.size())) + end;
            if (used_.insert(folded(other)).second) {
                return other;
            }
        }
    }
    ShortName take_short(const std::u16string& name, bool& is_all) {
        const std::size_t begin = std::min(name.find_first_not_of(u'.'), name.size());
        const std::size_t dot = name.rfind(u'.');
        const bool ends = dot != std::u16string::npos && dot > begin;
        bool exact = begin == 0;
        std::string stem =
            brief_part(name.substr(begin, ends ? dot - begin : std::u16string::npos), kStem, exact);
        const std::string ending =
            ends ? brief_part(name.substr(dot + 1), kEnding, exact) : std::string();
        exact = exact && !stem.empty() && (!ends || !ending.empty());
        stem = stem.empty() ? "_" : stem;
        const std::u16string text = spelled(stem, ending);
        is_all = exact && text == name;
        if (exact && (folded(text) == folded(name) || used_.insert(text).second)) {
            return packed(stem, ending);
        }
        return numbered(stem, ending);
    }

  private:
    ShortName numbered(const std::string& stem, const std::string& ending) {
        unsigned& number = numbers_[spelled(stem.substr(0, 2), ending)];
        for (;;) {
            const std::string tail = fmt::format("~{}", ++number);
            const std::string start = stem.substr(0, kStem - tail.size()) + tail;
            if (used_.insert(spelled(start, ending)).second) {
                return packed(start, ending);
            }
        }
    }
    std::unordered_set<std::u16string> used_;
    std::unordered_map<std::u16string, unsigned> numbers_;
};

std::uint8_t checksum(const ShortName& name) {
    std::uint8_t sum = 0;
    for (const char each : name) {
        sum = static_cast<std::uint8_t>((sum << 7 | sum >> 1) + static_cast<unsigned char>(each));
    }
    return sum;
}

void put(std::span<std::byte> entry, std::size_t at, std::size_t bytes, std::uint64_t value) {
    for (std::size_t i = 0; i < bytes; ++i) {
        entry[at + i] = static_cast<std::byte>(value >> (8 * i));
    }
}

struct FatTime {
    std::uint16_t date = 0x21, time = 0;  ///< 1 January 1980
};

FatTime fat_time(std::int64_t seconds) {
    const auto moment = static_cast<std::time_t>(seconds);
    std::tm parts{};
    if (::localtime_r(&moment, &parts) == nullptr || parts.tm_year < 80) {
        return {};
    }
    const unsigned year = std::min(static_cast<unsigned>(parts.tm_year) - 80, 127U);
    const auto day = static_cast<unsigned>(parts.tm_mday);
    const auto second = std::min(static_cast<unsigned>(parts.tm_sec), 59U);
    return {static_cast<std::uint16_t>(year << 9 | (static_cast<unsigned>(parts.tm_mon) + 1) << 5 |
                                       day),
            static_cast<std::uint16_t>(static_cast<unsigned>(parts.tm_hour) << 11 |
                                       static_cast<unsigned>(parts.tm_min) << 5 | second / 2)};
}

/// Where the units of a long name stand in an entry.
constexpr std::array<std::uint8_t, kUnitsInEntry> kUnitPlaces{1,  3,  5,  7,  9,  14, 16,
                                                              18, 20, 22, 24, 28, 30};

}  // namespace

std::u16string long_name(std::string_view host) {
    constexpr char16_t kNoCharacter = 0xfffd;
    const auto bytes = utf16_of_utf8(host, false);
    std::u16string out;
    for (std::size_t i = 0; i + 1 < bytes.size() && out.size() < kMaxLong; i += 2) {
        const auto unit = static_cast<char16_t>(std::to_integer<unsigned>(bytes[i]) |
                                                std::to_integer<unsigned>(bytes[i + 1]) << 8);
        const bool bad =
            unit < 0x20 || unit == 0x7f || unit >= kNoCharacter ||
            (unit < 0x80 && kNotLong.find(static_cast<char>(unit)) != std::string_view::npos);
        out += bad ? u'_' : unit;
    }
    if (out.empty() || out.back() == u'.' || out.back() == u' ') {  // nobody keeps such an end
        out.resize(std::max<std::size_t>(out.size(), 1));
        out.back() = u'_';
    }
    return out;
}

std::vector<Names> name_all(std::span<const std::string> hosts) {
    NameSet set;
    std::vector<Names> all(hosts.size());
    for (std::size_t i = 0; i < hosts.size(); ++i) {
        all[i].full = set.take_long(long_name(hosts[i]));
    }
    for (Names& each : all) {
        bool is_all = false;
        each.brief = set.take_short(each.full, is_all);
        if (is_all) {
            each.full.clear();
        }
    }
    return all;
}

ShortName label_of(std::string_view text) {
    ShortName label;
    label.fill(' ');
    for (std::size_t i = 0; i < std::min(text.size(), label.size()); ++i) {
        const char c = text[i] >= 'a' && text[i] <= 'z' ? static_cast<char>(text[i] - 32) : text[i];
        label.at(i) = is_short_mark(c) || c == ' ' ? c : '_';
    }
    return label;
}

std::size_t entries_of(const Names& names) {
    return 1 + (names.full.size() + kUnitsInEntry - 1) / kUnitsInEntry;
}

void append_entry(std::vector<std::byte>& folder, const ShortName& name, const EntryFacts& facts) {
    std::array<std::byte, kEntry> entry{};
    std::memcpy(entry.data(), name.data(), name.size());
    const FatTime time = fat_time(facts.seconds);
    put(entry, 11, 1, facts.attributes);
    put(entry, 14, 2, time.time);
    put(entry, 16, 2, time.date);
    put(entry, 18, 2, time.date);
    put(entry, 22, 2, time.time);
    put(entry, 24, 2, time.date);
    put(entry, 28, 4, facts.size);
    folder.insert(folder.end(), entry.begin(), entry.end());
    set_cluster(folder, folder.size() - kEntry, facts.cluster);
}

void append_entries(std::vector<std::byte>& folder, const Names& names, const EntryFacts& facts) {
    const std::uint8_t sum = checksum(names.brief);
    const std::size_t count = entries_of(names) - 1;
    for (std::size_t number = count; number != 0; --number) {
        std::array<std::byte, kEntry> entry{};
        put(entry, 0, 1, number | (number == count ? 0x40U : 0U));
        put(entry, 11, 1, Attribute::kLongName);
        put(entry, 13, 1, sum);
        for (std::size_t i = 0; i < kUnitsInEntry; ++i) {
            const std::size_t at = (number - 1) * kUnitsInEntry + i;
            const std::uint16_t unit = at < names.full.size()    ? names.full[at]
                                       : at == names.full.size() ? 0
                                                                 : 0xffff;
            put(entry, kUnitPlaces.at(i), 2, unit);
        }
        folder.insert(folder.end(), entry.begin(), entry.end());
    }
    append_entry(folder, names.brief, facts);
}

void set_cluster(std::span<std::byte> folder, std::size_t at, std::uint32_t cluster) {
    const auto entry = folder.subspan(at, kEntry);
    put(entry, 20, 2, cluster >> 16);
    put(entry, 26, 2, cluster & 0xffff);
}

}  // namespace strata::block::fat
