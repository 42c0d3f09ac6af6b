// FileLock: taking, checking, and finding who is in the way.
#include "block/file_lock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/log.h"

namespace strata::block {
namespace {

constexpr off_t kUsed = 100;
constexpr off_t kDenied = 200;
constexpr int kPatience = 25;  ///< looks, 20 ms apart
// QEMU's permissions (block.h): consistent read 0, write 1, write unchanged 2, resize 3.
constexpr int kRead = 0;
constexpr int kWrite = 1;
constexpr int kResize = 3;

/// 0 or an errno.
int take(int fd, off_t byte) {
    struct flock lock {};
    lock.l_type = F_RDLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    return ::fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

/// True if another description holds `byte`.
bool held(int fd, off_t byte) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

std::optional<int> number(std::string_view text) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(value)
                                                                    : std::nullopt;
}

/// True if descriptor `fd` of `pid` holds OFD locks on `inode`, e.g. "lock: 1: OFDLCK ADVISORY READ
/// -1 fe:01:42 100 100".
bool descriptor_holds(int pid, std::string_view fd, std::string_view inode) {
    std::ifstream info(fmt::format("/proc/{}/fdinfo/{}", pid, fd));
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("lock:") && line.find("OFDLCK") != std::string::npos &&
            line.find(inode) != std::string::npos) {
            return true;
        }
    }
    return false;
}

bool process_holds(int pid, std::string_view inode) {
    const Directory files(::opendir(fmt::format("/proc/{}/fdinfo", pid).c_str()), &::closedir);
    if (!files) {
        return false;
    }
    while (const dirent* entry = ::readdir(files.get())) {
        if (number(entry->d_name) && descriptor_holds(pid, entry->d_name, inode)) {
            return true;
        }
    }
    return false;
}

/// "process 42 (qemu-system-x86)"; empty if none is to be seen.
std::string holder(int fd) {
    struct stat status {};
    const Directory processes(::opendir("/proc"), &::closedir);
    if (::fstat(fd, &status) != 0 || !processes) {
        return {};
    }
    const std::string inode =
        fmt::format("{:02x}:{:02x}:{} ", major(status.st_dev), minor(status.st_dev), status.st_ino);
    while (const dirent* entry = ::readdir(processes.get())) {
        const auto pid = number(entry->d_name);
        if (pid && *pid != ::getpid() && process_holds(*pid, inode)) {
            std::string command;
            std::ifstream comm(fmt::format("/proc/{}/comm", *pid));
            std::getline(comm, command);
            return fmt::format("process {} ({})", *pid, command);
        }
    }
    return {};
}

bool contested(int fd, std::span<const std::pair<int, bool>> wanted) {
    return std::any_of(wanted.begin(), wanted.end(), [&](const auto& each) {
        return (each.second && held(fd, kDenied + each.first)) ||
               (each.first != kRead && held(fd, kUsed + each.first));
    });
}

}  // namespace

Result<> lock_image(int fd, bool writing, std::string_view name) {
    std::array<std::pair<int, bool>, 3> wanted{
        {{kRead, true}, {kWrite, writing}, {kResize, writing}}};
    for (const auto& [permission, used] : wanted) {
        const bool denied = permission != kRead;
        const int first = used ? take(fd, kUsed + permission) : 0;
        const int second = denied ? take(fd, kDenied + permission) : 0;
        if (first != 0 || second != 0) {
            log::debug("the file system takes no locks disk='{}'", name);
            return ok();
        }
    }
    // A process that was killed is gone before its requests to io_uring are, and those keep its
    // files open: nobody is to be seen then, for a moment.
    std::string who;
    for (int tries = 0; contested(fd, wanted); ++tries) {
        who = holder(fd);
        if (!who.empty() || tries == kPatience) {
            return Error{ErrorKind::WrongState,
                         fmt::format("disk '{}' is in use by {}; stop it first, or open the disk "
                                     "read-only on both sides",
                                     name, who.empty() ? "another process" : who)};
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return ok();
}

}  // namespace strata::block
