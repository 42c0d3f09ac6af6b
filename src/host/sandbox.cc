// Sandbox: the layers, from the outermost inwards.
#include "host/sandbox.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string_view>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "host/landlock.h"
#include "host/seccomp_filter.h"

namespace strata::host {
namespace {

constexpr const char* kStage =
    "/tmp";  ///< where the new root is put together, in our own mount namespace

Result<> set_limit(int resource, std::uint64_t value) {
    rlimit limit{};
    // SAFETY: glibc's C++ declaration wants its enum; every RLIMIT_ constant is one of its values.
    const auto which = static_cast<__rlimit_resource_t>(resource);
    if (::getrlimit(which, &limit) != 0) {
        return Error::from_errno("cannot read a resource limit");
    }
    limit.rlim_cur = std::min<rlim_t>(value, limit.rlim_max);
    limit.rlim_max = limit.rlim_cur;
    if (::setrlimit(which, &limit) != 0) {
        return Error::from_errno("cannot set a resource limit");
    }
    return ok();
}

Result<> set_limits(const SandboxConfig& config) {
    STRATA_TRY_VOID(set_limit(RLIMIT_CORE, 0));  // a core dump would hold the guest's memory
    STRATA_TRY_VOID(set_limit(RLIMIT_NOFILE, config.max_descriptors));
    return set_limit(RLIMIT_FSIZE, config.max_file_size);
}

// Not knowing is an error: two of the walls depend on it.
Result<bool> single_threaded() {
    const std::unique_ptr<DIR, int (*)(DIR*)> tasks(::opendir("/proc/self/task"), ::closedir);
    if (!tasks) {
        return Error::from_errno("cannot count this process's threads in /proc/self/task");
    }
    unsigned count = 0;
    while (const dirent* entry =
               ::readdir(tasks.get())) {  // NOLINT(concurrency-mt-unsafe): the stream is ours alone
        count += entry->d_name[0] != '.' ? 1 : 0;
    }
    return count == 1;
}

/// Makes the folders above `path` below `root`, and an empty file in the end.
Result<> make_mount_point(const std::string& root, const std::string& path) {
    for (std::size_t slash = path.find('/', 1); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
        if (::mkdir((root + path.substr(0, slash)).c_str(), 0755) != 0 && errno != EEXIST) {
            return Error::from_errno(fmt::format("cannot make '{}' in the new root", path));
        }
    }
    const UniqueFd file(::open((root + path).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0444));
    if (!file) {
        return Error::from_errno(fmt::format("cannot make '{}' in the new root", path));
    }
    return ok();
}

/// Shows `path` in the new root, read-only. The source is opened beforehand, as the stage may hide
/// it.
Result<> bind_file(const std::string& path) {
    const UniqueFd source(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!source || path.empty() || path[0] != '/') {
        return ok();  // missing ones are skipped
    }
    STRATA_TRY_VOID(make_mount_point(kStage, path));
    const std::string from = fmt::format("/proc/self/fd/{}", source.get());
    const std::string to = kStage + path;
    constexpr unsigned long kFlags = MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (::mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr) != 0 ||
        ::mount(nullptr, to.c_str(), nullptr, kFlags | MS_REMOUNT, nullptr) != 0) {
        return Error::from_errno(fmt::format("cannot show '{}' in the new root", path));
    }
    return ok();
}

/// Namespaces of our own, and a root folder with nothing but the readable files. pivot_root(2): the
/// "." trick.
Result<> isolate(const SandboxConfig& config) {
    const int flags =
        CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (config.network ? 0 : CLONE_NEWNET);
    if (::unshare(flags) != 0) {
        return Error::from_errno("cannot have namespaces of our own");
    }
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", kStage, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=755") !=
            0) {
        return Error::from_errno("cannot make a root folder of our own");
    }
    for (const std::string& path : config.readable_files) {
        STRATA_TRY_VOID(bind_file(path));
    }
    if (::chdir(kStage) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
        ::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0) {
        return Error::from_errno("cannot enter the new root folder");
    }
    if (::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                nullptr) != 0) {
        return Error::from_errno("cannot make the new root folder read-only");
    }
    return ok();
}

/// Gives root's identity up. PR_SET_PDEATHSIG does not survive that by itself.
Result<> change_user(const SandboxConfig& config) {
    int death_signal = 0;
    (void)::prctl(PR_GET_PDEATHSIG, &death_signal);  // cannot fail with a valid pointer
    const gid_t gid = config.gid.value_or(::getgid());
    const uid_t uid = config.uid.value_or(::getuid());
    if (::setgroups(0, nullptr) != 0 || ::setresgid(gid, gid, gid) != 0 ||
        ::setresuid(uid, uid, uid) != 0) {
        return Error::from_errno(fmt::format("cannot become user {} of group {}", uid, gid));
    }
    if (death_signal != 0 && ::prctl(PR_SET_PDEATHSIG, death_signal) != 0) {
        return Error::from_errno("cannot keep the parent-death signal");
    }
    return ok();
}

/// Empties every capability set.
Result<> drop_capabilities() {
    for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability) >= 0; ++capability) {
        if (::prctl(PR_CAPBSET_DROP, capability) != 0 &&
            errno != EPERM) {  // EPERM: not root, whose set matters to nobody
            return Error::from_errno("cannot drop a capability");
        }
    }
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
        return Error::from_errno("cannot drop the ambient capabilities");
    }
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> none{};
    if (::syscall(SYS_capset, &header, none.data()) != 0) {
        return Error::from_errno("cannot drop the capabilities");
    }
    return ok();
}

/// Collects what is up and what is not, for the log.
class Summary {
  public:
    bool note(std::string_view layer, const Result<>& result) {
        if (result.ok()) {
            up_ += fmt::format(", {}", layer);
        } else {
            missing_ += fmt::format("{}{} ({})", missing_.empty() ? "" : ", ", layer,
                                    result.error().text());
        }
        return result.ok();
    }
    [[nodiscard]] std::string text() const {
        return missing_.empty() ? up_ : fmt::format("{}; without: {}", up_, missing_);
    }

  private:
    std::string up_ = "seccomp";
    std::string missing_;
};

Result<> wrong_state(std::string_view why) {
    return Error{ErrorKind::WrongState, std::string(why)};
}

}  // namespace

Result<SandboxReport> enter_sandbox(const SandboxConfig& config) {
    SandboxReport report;
    Summary summary;
    const bool root = ::geteuid() == 0;
    STRATA_TRY_VOID(set_limits(config));
    const bool alone = STRATA_TRY(single_threaded());
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return Error::from_errno("cannot give up gaining privileges");
    }
    const Result<> not_possible = wrong_state(root ? "other threads exist" : "not root");
    report.namespaces = summary.note("namespaces", root && alone ? isolate(config) : not_possible);
    report.landlock = summary.note("landlock", alone ? restrict_files(config.readable_files)
                                                     : wrong_state("other threads exist"));
    if (root && (config.uid || config.gid)) {
        STRATA_TRY_VOID(change_user(config));
        report.user_changed = true;
    }
    STRATA_TRY_VOID(drop_capabilities());
    if (::prctl(PR_SET_DUMPABLE, 0) != 0) {
        return Error::from_errno("cannot close the process to others of the same user");
    }
    STRATA_TRY_VOID(load_process_filter(config, report.namespaces || report.landlock));
    report.text = summary.text();
    return report;
}

Result<> lock_vcpu_thread(const SandboxConfig& config) {
    return load_vcpu_filter(config);
}

}  // namespace strata::host
