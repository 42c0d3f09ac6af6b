// Landlock: the three system calls. Kernel documentation: userspace-api/landlock.
#include "host/landlock.h"

#include <cerrno>
#include <cstdint>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace strata::host {
namespace {

constexpr std::uint64_t kVersion1Rights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
constexpr std::uint64_t kRefer = 1U << 13;     // version 2
constexpr std::uint64_t kTruncate = 1U << 14;  // version 3

std::uint64_t handled_rights(long version) {
    return kVersion1Rights | (version >= 2 ? kRefer : 0) | (version >= 3 ? kTruncate : 0);
}

Result<> allow_reading(int ruleset, const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!file) {
        return ok();  // what is missing cannot be read either
    }
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE;
    rule.parent_fd = file.get();
    if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0U) != 0) {
        return Error::from_errno(fmt::format("cannot keep '{}' readable", path));
    }
    return ok();
}

}  // namespace

Result<> restrict_files(const std::vector<std::string>& readable) {
    const long version =
        ::syscall(SYS_landlock_create_ruleset, nullptr, 0U, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1) {
        return Error{ErrorKind::NotSupported, "this kernel has no Landlock", errno};
    }
    landlock_ruleset_attr attributes{};
    attributes.handled_access_fs = handled_rights(version);
    const UniqueFd ruleset(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes,
                                                      sizeof(attributes.handled_access_fs), 0U)));
    if (!ruleset) {
        return Error::from_errno("cannot make a Landlock ruleset");
    }
    for (const std::string& path : readable) {
        STRATA_TRY_VOID(allow_reading(ruleset.get(), path));
    }
    if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0U) != 0) {
        return Error::from_errno("cannot enter the Landlock ruleset");
    }
    return ok();
}

}  // namespace strata::host
