// Loader: from a kernel file and an initrd file to a guest that is ready to start.
//
// The files stay open for the machine's life and are read again for every boot, so that a reboot
// costs no memory and the process needs no access to the file system after it was locked up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "machine/boot/boot_plan.h"
#include "memory/guest_memory.h"

namespace strata::machine::boot {

/// Recognises the kernel's kind (bzImage, PVH ELF, multiboot) and plans its boot. Every error names
/// the kernel.
Result<BootPlan> plan_boot(std::span<const std::byte> kernel, const BootEnvironment& environment);

/// The files of a direct kernel boot.
class BootFiles {
  public:
    /// Opens both (an empty `initrd` path: none). Errors: NotFound, PermissionDenied, a directory,
    /// larger than 1 GiB (kernel) or 4 GiB (initrd).
    static Result<std::unique_ptr<BootFiles>> open(const std::string& kernel,
                                                   const std::string& initrd);
    /// As open(), of files that are open already; the names are for messages. An invalid `initrd`:
    /// none.
    static Result<std::unique_ptr<BootFiles>> adopt(UniqueFd kernel, const std::string& kernel_name,
                                                    UniqueFd initrd,
                                                    const std::string& initrd_name);

    /// Plans the boot and fills `memory`, which is all zeros before; answers the bootstrap vCPU's
    /// entry state. Called with all vCPUs stopped. `environment`'s kernel_name, initrd_size and
    /// random are filled in here.
    Result<BootPlan> load(BootEnvironment environment, const memory::GuestMemory& memory) const;

    /// Only the plan: to check the files before the machine is built.
    Result<BootPlan> plan(BootEnvironment environment) const;

  private:
    struct File {
        std::string path;
        UniqueFd fd;
        std::uint64_t size = 0;
    };
    BootFiles(File kernel, std::optional<File> initrd)
        : kernel_(std::move(kernel)), initrd_(std::move(initrd)) {}
    static Result<File> open_file(const std::string& path, std::uint64_t limit);
    static Result<File> adopt_file(UniqueFd fd, const std::string& name, std::uint64_t limit);
    static Result<> copy(const File& file, const Placement& placement,
                         const memory::GuestMemory& memory);

    File kernel_;
    std::optional<File> initrd_;
};

}  // namespace strata::machine::boot
