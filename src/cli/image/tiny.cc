// The tiny image: fetch two packages, take what is needed, write the initramfs.
#include "cli/image/tiny.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/image/cpio.h"
#include "cli/image/package_tool.h"

namespace strata::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFile = 64U << 20;

// The drivers of the paravirtual devices, a disk's file system, and what they need in turn; below
// lib/modules/VERSION/kernel/.
constexpr std::array<std::string_view, 42> kModules = {
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/virtio_console.ko",
    "drivers/char/hw_random/virtio-rng.ko",
    "drivers/net/virtio_net.ko",
    "drivers/net/net_failover.ko",
    "net/core/failover.ko",
    "drivers/misc/pvpanic/pvpanic.ko",
    "drivers/misc/pvpanic/pvpanic-mmio.ko",
    "fs/ext4/ext4.ko",
    "fs/jbd2/jbd2.ko",
    "fs/mbcache.ko",
    "lib/crc16.ko",
    "lib/libcrc32c.ko",
    "crypto/crc32c_generic.ko",
    "arch/x86/crypto/crc32c-intel.ko",
    "drivers/misc/pvpanic/pvpanic-pci.ko",
    "fs/isofs/isofs.ko",
    "fs/fat/fat.ko",
    "fs/fat/vfat.ko",
    "fs/nls/nls_cp437.ko",
    "fs/nls/nls_ascii.ko",
    "drivers/acpi/button.ko",
    "drivers/input/evdev.ko",
    // Loaded where there is such a controller.
    "drivers/scsi/virtio_scsi.ko",
    "drivers/ata/ahci.ko",
    "drivers/ata/libahci.ko",
    "drivers/ata/libata.ko",
    "drivers/scsi/scsi_common.ko",
    "drivers/scsi/scsi_mod.ko",
    "drivers/scsi/sd_mod.ko",
    "drivers/scsi/sr_mod.ko",
    "drivers/cdrom/cdrom.ko",
    "block/t10-pi.ko",
    "lib/crc-t10dif.ko",
    "lib/crc64.ko",
    "lib/crc64-rocksoft.ko",
    "crypto/crct10dif_common.ko",
};

// The package that linux-image-amd64 stands for at the moment, "linux-image-6.1.0-…-amd64".
Result<std::string> current_kernel_package() {
    auto text = run_package_tool(
        {.words = {"apt-cache", "show", "--no-all-versions", "linux-image-amd64"}});
    if (!text) {
        return std::move(text).error().context(
            "looking up Debian's kernel package (is apt-get update due?)");
    }
    constexpr std::string_view kPrefix = "linux-image-";
    const auto depends = text->find("\nDepends: ");
    const auto start =
        depends == std::string::npos ? std::string::npos : text->find(kPrefix, depends);
    if (start == std::string::npos) {
        return Error{ErrorKind::NotFound,
                     "apt knows no linux-image-amd64: run apt-get update on a Debian system"};
    }
    return text->substr(start, text->find_first_of(" ,\n", start) - start);
}

// The one file in `folder` whose name begins with `prefix`.
Result<std::string> only_file(const std::string& folder, std::string_view prefix) {
    std::error_code code;
    for (fs::directory_iterator place(folder, code), end; !code && place != end;
         place.increment(code)) {
        if (place->path().filename().string().starts_with(prefix)) {
            return place->path().string();
        }
    }
    return Error{ErrorKind::NotFound, fmt::format("no {}… in '{}'", prefix, folder)};
}

Result<std::string> fetch(const std::string& folder, const std::string& package,
                          const Progress& progress) {
    progress(fmt::format("fetching package {}", package));
    auto done = run_package_tool(
        {.words = {"apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package},
         .folder = folder});
    if (!done) {
        return std::move(done).error().context(fmt::format("fetching package {}", package));
    }
    return only_file(folder, package + "_");
}

// Unpacks `members` of a package into `target`.
Result<> unpack(const std::string& package, const std::string& target,
                const std::vector<std::string>& members) {
    // Positional parameters keep every name a word, whatever is in it.
    std::vector<std::string> words = {
        "sh", "-ec",   R"(p=$1; t=$2; shift 2; dpkg-deb --fsys-tarfile "$p" | tar -x -C "$t" "$@")",
        "sh", package, target};
    words.insert(words.end(), members.begin(), members.end());
    auto done = run_package_tool({.words = words});
    if (!done) {
        return std::move(done).error().context(fmt::format("unpacking '{}'", package));
    }
    return ok();
}

// The modules in an initramfs-shaped tree below `root`, with modules.dep made by busybox itself.
Result<> index_modules(const std::string& root, const std::string& version) {
    auto done = run_package_tool({.words = {root + "/bin/busybox", "depmod", "-b", root, version}});
    if (!done) {
        return std::move(done).error().context("indexing the kernel's modules");
    }
    return ok();
}

Result<> add_tree(CpioWriter& archive, const std::string& root, const std::string& below) {
    std::vector<fs::path> files;
    std::error_code code;
    for (fs::recursive_directory_iterator place(fs::path(root) / below, code), end;
         !code && place != end; place.increment(code)) {
        if (place->is_regular_file(code)) {
            files.push_back(place->path());
        }
    }
    std::sort(files.begin(), files.end());
    for (const fs::path& path : files) {
        archive.file(fs::relative(path, root, code).string(),
                     STRATA_TRY(read_file(path.string(), kMaxFile)));
    }
    return ok();
}

// udhcpc's script: address, route and name server of a lease.
constexpr std::string_view kLeaseScript = R"sh(#!/bin/busybox sh
case "$1" in
    bound | renew)
        ip -4 addr flush dev "$interface"  # those of IPv6 come by router advertisement
        ip addr add "$ip/${mask:-24}" dev "$interface"
        [ -z "$router" ] || ip route replace default via "${router%% *}"
        : >/etc/resolv.conf
        for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
        ;;
esac
)sh";

Result<std::string> make_archive(const std::string& root) {
    CpioWriter archive;
    for (const std::string_view name : {"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"}) {
        archive.folder(name);
    }
    archive.character_device("dev/console", 5, 1, 0600);
    archive.character_device("dev/null", 1, 3, 0666);
    archive.file("bin/busybox", STRATA_TRY(read_file(root + "/bin/busybox", kMaxFile)), 0755);
    archive.link("bin/sh", "busybox");
    archive.file("init", tiny_init_script(), 0755);
    archive.file("bin/selfcheck", tiny_selfcheck_script(), 0755);
    archive.file("usr/share/udhcpc/default.script", kLeaseScript, 0755);
    archive.file("etc/udhcpc/default.script", kLeaseScript, 0755);
    archive.file("etc/passwd", "root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/acpi/PWRF/00000080", "#!/bin/sh\nsync\npoweroff -f\n", 0755);
    archive.file("etc/group", "root:x:0:\n");
    archive.file("etc/profile", "PS1='tiny:\\w# '\nexport PATH=/bin\ncd\n");
    STRATA_TRY_VOID(add_tree(archive, root, "lib/modules"));
    return std::move(archive).finish();
}

}  // namespace

Result<Image> build_tiny(const ImageDraft& draft, const Progress& progress) {
    const std::string work = draft.folder() + "/work";
    const std::string root = work + "/root";
    std::error_code code;
    fs::create_directories(root, code);
    if (code) {
        return Error::from_errno(fmt::format("creating '{}'", root), code.value());
    }
    const std::string kernel_package = STRATA_TRY(current_kernel_package());
    const std::string version = kernel_package.substr(std::string_view("linux-image-").size());
    const std::string kernel_file = STRATA_TRY(fetch(work, kernel_package, progress));
    const std::string busybox_file = STRATA_TRY(fetch(work, "busybox-static", progress));

    progress("making the initramfs");
    std::vector<std::string> members = {"./boot/vmlinuz-" + version};
    for (const std::string_view module : kModules) {
        members.push_back(fmt::format("./lib/modules/{}/kernel/{}", version, module));
    }
    STRATA_TRY_VOID(unpack(kernel_file, root, members));
    STRATA_TRY_VOID(unpack(busybox_file, root, {"./bin/busybox"}));
    STRATA_TRY_VOID(index_modules(root, version));
    const std::string archive = STRATA_TRY(make_archive(root));
    STRATA_TRY_VOID(write_file(draft.folder() + "/initrd.img", archive));
    fs::rename(root + "/boot/vmlinuz-" + version, draft.folder() + "/vmlinuz", code);
    if (code) {
        return Error::from_errno("taking the kernel", code.value());
    }
    fs::remove_all(work, code);
    return Image{.name = "tiny",
                 .description = fmt::format("Demo guest: Debian's Linux {} with busybox", version),
                 .kernel = "vmlinuz",
                 .initrd = "initrd.img",
                 .append = "console=ttyS0",
                 .disks = {},
                 .memory_bytes = 0,
                 .folder = {}};
}

}  // namespace strata::cli
