// Sandbox: the walls around a VMM process, put up before guest code runs.
//
// The layers, from the outside: resource limits; the root user's powers (namespaces of its own with
// an empty root folder, uid, gid, capabilities); Landlock, which needs no root: only the named
// files can be opened, for reading; no_new_privs; and a seccomp filter that knows every system call
// a VMM needs and refuses the rest. vCPU threads add a stricter filter of their own. A layer that
// the host's kernel does not offer is left out and reported in SandboxReport; seccomp and
// no_new_privs are never left out. docs/threat-model.md says what each is for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/result.h"

namespace strata::host {

/// What happens to a system call that is not allowed.
enum class Violation {
    Deny,  ///< it fails with EPERM
    Kill,  ///< the process dies of SIGSYS
};

struct SandboxConfig {
    bool network = true;             ///< sockets may be made and connected (the user-mode network)
    bool executable_memory = true;   ///< memory may become executable (the translator)
    bool kvm = true;                 ///< ioctl()s of /dev/kvm descriptors
    bool io_uring = false;           ///< io_uring_enter() of rings that exist, whose operations no
                                     ///< filter sees: they are restricted beforehand
    bool makes_processes = false;    ///< clone() of processes with a descriptor: for a helper that
                                     ///< makes them, never where a guest's data is
    bool signals_processes = false;  ///< SIGUSR1 and SIGKILL to processes that it holds a
                                     ///< descriptor of, and their notifications
    Violation violation = Violation::Deny;
    /// What can still be opened, read-only, e.g. "/etc/resolv.conf". Missing ones are skipped.
    std::vector<std::string> readable_files;
    /// If we are root: become these. Nothing: stay who we are (without capabilities all the same).
    std::optional<uid_t> uid;
    std::optional<gid_t> gid;
    std::uint64_t max_descriptors = 4096;
    std::uint64_t max_file_size =
        ~std::uint64_t{0};  ///< bytes; no limit by default: disks are written
};

/// Which optional layers are up.
struct SandboxReport {
    bool namespaces = false;  ///< own mount, IPC and UTS (and network, if not wanted) namespaces,
                              ///< empty root folder
    bool user_changed = false;
    bool landlock = false;
    /// One line for the log: "seccomp, landlock; without: namespaces (not root)".
    std::string text;
};

/// Puts the walls up around the whole process, before it reads anything from a guest. Call it with
/// one thread alive: later threads inherit everything; threads that exist already get the seccomp
/// filter, but namespaces and Landlock are per thread and are left out then. Without those two
/// layers no file can be opened at all. There is no way back.
Result<SandboxReport> enter_sandbox(const SandboxConfig& config);

/// Narrows the calling thread further to what a vCPU thread needs: memory, locks, time, ioctl,
/// reads and writes of open descriptors. After enter_sandbox().
Result<> lock_vcpu_thread(const SandboxConfig& config);

}  // namespace strata::host
