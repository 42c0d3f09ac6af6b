// Loader: recognition of the kernel's kind, reading of files, filling of guest memory.
#include "machine/boot/loader.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mmap_region.h"
#include "base/text.h"
#include "machine/boot/elf.h"
#include "machine/boot/linux_bzimage.h"
#include "machine/boot/multiboot.h"
#include "machine/boot/pvh.h"

namespace strata::machine::boot {
namespace {

constexpr std::uint64_t kMaxKernel = 1ULL << 30;
constexpr std::uint64_t kMaxInitrd = (4ULL << 30) - 1;
constexpr std::size_t kCopyChunk = 1 << 20;

/// Fills `out` from `offset`. A file that shrank since it was opened is an error.
Result<> read_exactly(int fd, std::uint64_t offset, std::span<std::byte> out) {
    while (!out.empty()) {
        const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return Error::from_errno("reading");
        }
        if (got == 0) {
            return Error(ErrorKind::Failed, "the file became shorter while it was in use");
        }
        out = out.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return ok();
}

/// For the kernel's place in its address space.
Result<std::uint64_t> random_word() {
    std::uint64_t word = 0;
    // getrandom gives up to 256 bytes at once and whole (random(7)).
    if (::getrandom(&word, sizeof(word), 0) != static_cast<ssize_t>(sizeof(word))) {
        return Error::from_errno("asking for random numbers");
    }
    return word;
}

Result<BootPlan> plan_by_kind(std::span<const std::byte> kernel,
                              const BootEnvironment& environment) {
    if (is_bzimage(kernel)) {
        return plan_bzimage(kernel, environment);
    }
    if (is_elf(kernel)) {
        const ElfFile elf = STRATA_TRY(ElfFile::parse(kernel));
        if (is_pvh(kernel, elf)) {
            return plan_pvh(kernel, elf, environment);
        }
        if (is_multiboot(kernel)) {
            return plan_multiboot(kernel, environment);
        }
        return Error(ErrorKind::Failed,
                     "an ELF file without a PVH entry note or multiboot header; give a bzImage, a "
                     "PVH or multiboot ELF");
    }
    if (is_multiboot(kernel)) {
        return plan_multiboot(kernel, environment);
    }
    return Error(ErrorKind::Failed,
                 kernel.empty() ? "the file is empty; give a bzImage, a PVH or multiboot ELF"
                                : "unknown format; give a bzImage, a PVH or multiboot ELF");
}

}  // namespace

Result<BootPlan> plan_boot(std::span<const std::byte> kernel, const BootEnvironment& environment) {
    auto plan = plan_by_kind(kernel, environment);
    if (plan.ok()) {
        return plan;
    }
    const bool known = is_bzimage(kernel) || is_elf(kernel) || is_multiboot(kernel);
    return std::move(plan).error().context(
        known ? fmt::format("cannot boot '{}'", environment.kernel_name)
              : fmt::format("'{}' is not a kernel", environment.kernel_name));
}

Result<BootFiles::File> BootFiles::open_file(const std::string& path, std::uint64_t limit) {
    // O_NONBLOCK: a FIFO must not hang us; it is refused below.
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (fd.get() < 0) {
        return Error::from_errno(fmt::format("cannot open '{}'", path));
    }
    return adopt_file(std::move(fd), path, limit);
}

Result<BootFiles::File> BootFiles::adopt_file(UniqueFd fd, const std::string& path,
                                              std::uint64_t limit) {
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) {
        return Error::from_errno(fmt::format("cannot examine '{}'", path));
    }
    if (!S_ISREG(info.st_mode)) {
        return Error(ErrorKind::Failed, fmt::format("'{}' is not a regular file", path));
    }
    const auto size = static_cast<std::uint64_t>(info.st_size);
    if (size > limit) {
        return Error(ErrorKind::Failed,
                     fmt::format("'{}' is larger than {}", path, format_size(limit)));
    }
    return File{path, std::move(fd), size};
}

Result<std::unique_ptr<BootFiles>> BootFiles::open(const std::string& kernel,
                                                   const std::string& initrd) {
    File kernel_file = STRATA_TRY(open_file(kernel, kMaxKernel));
    std::optional<File> initrd_file;
    if (!initrd.empty()) {
        initrd_file = STRATA_TRY(open_file(initrd, kMaxInitrd));
    }
    return std::unique_ptr<BootFiles>(
        new BootFiles(std::move(kernel_file), std::move(initrd_file)));
}

Result<std::unique_ptr<BootFiles>> BootFiles::adopt(UniqueFd kernel, const std::string& kernel_name,
                                                    UniqueFd initrd,
                                                    const std::string& initrd_name) {
    File kernel_file = STRATA_TRY(adopt_file(std::move(kernel), kernel_name, kMaxKernel));
    std::optional<File> initrd_file;
    if (initrd.valid()) {
        initrd_file = STRATA_TRY(adopt_file(std::move(initrd), initrd_name, kMaxInitrd));
    }
    return std::unique_ptr<BootFiles>(
        new BootFiles(std::move(kernel_file), std::move(initrd_file)));
}

Result<> BootFiles::copy(const File& file, const Placement& placement,
                         const memory::GuestMemory& memory) {
    std::vector<std::byte> chunk(std::min<std::uint64_t>(kCopyChunk, placement.size));
    for (std::uint64_t done = 0; done < placement.size;) {
        const auto part =
            std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), placement.size - done));
        auto read = read_exactly(file.fd.get(), placement.file_offset + done, part);
        if (!read.ok()) {
            return std::move(read).error().context(fmt::format("'{}'", file.path));
        }
        STRATA_TRY_VOID(memory.write(memory::GuestAddress(placement.address + done), part));
        done += part.size();
    }
    return ok();
}

Result<BootPlan> BootFiles::plan(BootEnvironment environment) const {
    environment.kernel_name = kernel_.path;
    environment.random = STRATA_TRY(random_word());
    environment.initrd_size = initrd_ ? std::optional(initrd_->size) : std::nullopt;
    // Read into anonymous memory, not mapped from the file: a file that is cut while we parse would
    // be a SIGBUS.
    MmapRegion bytes;
    if (kernel_.size != 0) {
        bytes = STRATA_TRY(
            MmapRegion::map(kernel_.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
        auto read = read_exactly(kernel_.fd.get(), 0, bytes.bytes());
        if (!read.ok()) {
            return std::move(read).error().context(fmt::format("'{}'", kernel_.path));
        }
    }
    return plan_boot(bytes.bytes(), environment);
}

Result<BootPlan> BootFiles::load(BootEnvironment environment,
                                 const memory::GuestMemory& memory) const {
    BootPlan boot = STRATA_TRY(plan(std::move(environment)));
    for (const Placement& placement : boot.placements) {
        switch (placement.source) {
            case Source::Bytes:
                STRATA_TRY_VOID(
                    memory.write(memory::GuestAddress(placement.address), placement.bytes));
                break;
            case Source::Unpacked:
                STRATA_TRY_VOID(memory.write(
                    memory::GuestAddress(placement.address),
                    boot.unpacked.bytes().subspan(placement.file_offset, placement.size)));
                break;
            case Source::Kernel:
                STRATA_TRY_VOID(copy(kernel_, placement, memory));
                break;
            case Source::Initrd:
                STRATA_CHECK(initrd_.has_value(), "a plan places an initrd that was not given");
                STRATA_TRY_VOID(copy(*initrd_, placement, memory));
                break;
        }
    }
    boot.placements.clear();
    boot.unpacked = {};
    return boot;
}

}  // namespace strata::machine::boot
