// CpioWriter: headers of hexadecimal fields, everything padded to four bytes.
#include "cli/image/cpio.h"

#include <fmt/format.h>

namespace strata::cli {
namespace {

constexpr std::uint32_t kFolder = 0040000;
constexpr std::uint32_t kFile = 0100000;
constexpr std::uint32_t kLink = 0120000;
constexpr std::uint32_t kCharacterDevice = 0020000;
constexpr std::size_t kBlock = 512;

void pad(std::string& bytes, std::size_t unit) {
    bytes.resize((bytes.size() + unit - 1) / unit * unit, '\0');
}

}  // namespace

void CpioWriter::entry(std::string_view path, std::uint32_t mode, std::string_view content,
                       Device device) {
    ++inode_;
    // magic, inode, mode, uid, gid, links, mtime, size, device of the file system, device, name
    // size, check
    bytes_ += fmt::format(
        "070701{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}",
        inode_, mode, 0, 0, 1, 0, content.size(), 0, 0, device.major, device.minor, path.size() + 1,
        0);
    bytes_ += path;
    bytes_ += '\0';
    pad(bytes_, 4);
    bytes_ += content;
    pad(bytes_, 4);
}

void CpioWriter::parents(std::string_view path) {
    for (auto slash = path.find('/'); slash != std::string_view::npos;
         slash = path.find('/', slash + 1)) {
        folder(path.substr(0, slash));
    }
}

void CpioWriter::folder(std::string_view path, std::uint32_t mode) {
    if (!folders_.contains(path)) {
        parents(path);
        folders_.emplace(path);
        entry(path, kFolder | mode, "", {});
    }
}

void CpioWriter::file(std::string_view path, std::string_view content, std::uint32_t mode) {
    parents(path);
    entry(path, kFile | mode, content, {});
}

void CpioWriter::link(std::string_view path, std::string_view target) {
    parents(path);
    entry(path, kLink | 0777, target, {});
}

void CpioWriter::character_device(std::string_view path, std::uint32_t major, std::uint32_t minor,
                                  std::uint32_t mode) {
    parents(path);
    entry(path, kCharacterDevice | mode, "", {major, minor});
}

std::string CpioWriter::finish() && {
    entry("TRAILER!!!", 0, "", {});
    pad(bytes_, kBlock);
    return std::move(bytes_);
}

}  // namespace strata::cli
