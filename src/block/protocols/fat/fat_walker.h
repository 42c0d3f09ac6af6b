// FatWalker: reads a FAT disk as a guest would, from its sectors alone: for tests of who makes one.
//
// Written after the specification and not after volume.cc, of which it uses nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/endian.h"
#include "block/formats/common/wire.h"

namespace strata::block::fat {

class FatWalker {
  public:
    struct File {
        bool folder = false;
        std::uint8_t attributes = 0;
        std::uint32_t size = 0;
        std::string short_name{};
        std::vector<std::byte> content{};
    };
    using Read = std::function<std::vector<std::byte>(std::uint64_t offset, std::uint64_t length)>;

    /// Reads all of it; what is not as it should be ends the program.
    FatWalker(Read read, bool floppy) : read_(std::move(read)) {
        if (!floppy) {
            const auto table = read_(0, 512);
            STRATA_CHECK(number(table, 510, 2) == 0xaa55, "no partition table");
            start_ = number(table, 446 + 8, 4) * 512;
        }
        const auto boot = read_(start_, 512);
        STRATA_CHECK(number(boot, 510, 2) == 0xaa55 && number(boot, 11, 2) == 512,
                     "no boot sector");
        cluster_ = number(boot, 13, 1) * 512;
        const std::uint64_t root_bytes = number(boot, 17, 2) * 32;
        std::uint64_t table_sectors = number(boot, 22, 2);
        table_sectors = table_sectors != 0 ? table_sectors : number(boot, 36, 4);
        std::uint64_t sectors = number(boot, 19, 2);
        sectors = sectors != 0 ? sectors : number(boot, 32, 4);
        tables_ = start_ + number(boot, 14, 2) * 512;
        table_bytes_ = table_sectors * 512;
        const std::uint64_t root = tables_ + 2 * table_bytes_;
        data_ = root + root_bytes;
        clusters_ = (start_ + sectors * 512 - data_) / cluster_;
        bits_ = clusters_ < 4085 ? 12 : clusters_ < 65525 ? 16 : 32;
        STRATA_CHECK((bits_ == 32) == (root_bytes == 0), "a root folder of the wrong kind");
        STRATA_CHECK(table_bytes_ * 8 / bits_ >= clusters_ + 2, "a table that is too small");
        table_ = read_(tables_, table_bytes_);
        STRATA_CHECK(table_ == read_(tables_ + table_bytes_, table_bytes_), "tables that differ");
        walk("", bits_ == 32 ? content_of(number(boot, 44, 4), ~0ULL) : read_(root, root_bytes), 0);
    }

    [[nodiscard]] unsigned bits() const { return bits_; }
    [[nodiscard]] const std::string& label() const { return label_; }
    /// By their paths, in UTF-8.
    [[nodiscard]] const std::map<std::string, File>& files() const { return files_; }

  private:
    static std::uint64_t number(std::span<const std::byte> bytes, std::size_t at,
                                std::size_t size) {
        std::uint64_t value = 0;
        for (std::size_t i = size; i != 0; --i) {
            value = value << 8 | std::to_integer<std::uint64_t>(bytes[at + i - 1]);
        }
        return value;
    }
    [[nodiscard]] std::uint64_t next_of(std::uint64_t cluster) const {
        if (bits_ == 12) {
            return number(table_, cluster * 3 / 2, 2) >> (cluster % 2 * 4) & 0xfff;
        }
        return number(table_, cluster * bits_ / 8, bits_ / 8) & 0x0fffffff;
    }
    std::vector<std::byte> content_of(std::uint64_t cluster, std::uint64_t size) {
        const std::uint64_t end = bits_ == 12 ? 0xff8 : bits_ == 16 ? 0xfff8 : 0x0ffffff8;
        std::vector<std::byte> content;
        for (; cluster < end; cluster = next_of(cluster)) {
            STRATA_CHECK(cluster >= 2 && cluster < clusters_ + 2, "a cluster that is none");
            STRATA_CHECK(used_.insert(cluster).second, "a cluster with two owners");
            const auto part = read_(data_ + (cluster - 2) * cluster_, cluster_);
            content.insert(content.end(), part.begin(), part.end());
        }
        STRATA_CHECK(size == ~0ULL || content.size() == (size + cluster_ - 1) / cluster_ * cluster_,
                     "a chain of the wrong length");
        content.resize(size == ~0ULL ? content.size() : size);
        return content;
    }
    void walk(const std::string& path, const std::vector<std::byte>& folder, std::uint64_t self) {
        std::vector<std::byte> long_name;
        std::set<std::string> names;
        for (std::size_t at = 0; at + 32 <= folder.size(); at += 32) {
            const auto entry = std::span(folder).subspan(at, 32);
            const auto first = std::to_integer<std::uint8_t>(entry[0]);
            const auto attributes = std::to_integer<std::uint8_t>(entry[11]);
            if (first == 0) {
                break;
            }
            if (attributes == 15) {
                take_part(long_name, entry);
                continue;
            }
            std::string brief;
            for (std::size_t i = 0; i < 11; ++i) {
                brief += static_cast<char>(entry[i]);
            }
            const std::uint64_t cluster = number(entry, 26, 2) | number(entry, 20, 2) << 16;
            if ((attributes & 8) != 0) {
                label_ = brief;
                continue;
            }
            if (first == '.') {
                STRATA_CHECK(entry[1] == std::byte{'.'} || cluster == self, "'.' leads elsewhere");
                continue;
            }
            STRATA_CHECK(names.insert(brief).second, "a short name twice");
            add(path, brief, long_name, entry, cluster);
            long_name.clear();
        }
    }
    static void take_part(std::vector<std::byte>& name, std::span<const std::byte> entry) {
        std::vector<std::byte> part;
        for (const auto& [from, size] : {std::pair{1, 10}, std::pair{14, 12}, std::pair{28, 4}}) {
            const auto piece =
                entry.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(size));
            part.insert(part.end(), piece.begin(), piece.end());
        }
        if ((std::to_integer<unsigned>(entry[0]) & 0x40) != 0) {
            name.clear();
        }
        name.insert(name.begin(), part.begin(), part.end());
    }
    void add(const std::string& path, const std::string& brief, std::span<const std::byte> name,
             std::span<const std::byte> entry, std::uint64_t cluster) {
        std::string text = utf8_of_utf16(name, false);
        if (text.empty()) {
            text = brief.substr(0, brief.find_last_not_of(' ', 7) + 1);
            const std::string ending = brief.substr(8, brief.find_last_not_of(' ') - 7);
            text += ending.empty() || ending[0] == ' ' ? "" : "." + ending;
        }
        File file;
        file.attributes = std::to_integer<std::uint8_t>(entry[11]);
        file.folder = (file.attributes & 16) != 0;
        file.size = static_cast<std::uint32_t>(number(entry, 28, 4));
        file.short_name = brief;
        const std::string whole = path + text;
        if (file.folder) {
            STRATA_CHECK(file.size == 0 && cluster != 0, "a folder without a place");
            walk(whole + "/", content_of(cluster, ~0ULL), cluster);
        } else if (cluster != 0 || file.size != 0) {
            file.content = content_of(cluster, file.size);
        }
        STRATA_CHECK(files_.emplace(whole, std::move(file)).second, "a name twice");
    }

    const Read read_;
    std::uint64_t start_ = 0, cluster_ = 0, tables_ = 0, table_bytes_ = 0, data_ = 0, clusters_ = 0;
    unsigned bits_ = 0;
    std::vector<std::byte> table_;
    std::set<std::uint64_t> used_;
    std::string label_;
    std::map<std::string, File> files_;
};

}  // namespace strata::block::fat
