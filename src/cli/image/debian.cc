// Debian images: mmdebstrap for the tree, mke2fs for the disk; no loop device and no mount.
#include "cli/image/debian.h"

#include <cctype>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <unistd.h>

#include "base/text.h"
#include "cli/image/package_tool.h"

namespace strata::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPackages =
    "systemd,systemd-sysv,systemd-resolved,udev,dbus,libpam-systemd,linux-image-amd64,initramfs-"
    "tools,openssh-server,"
    "ca-certificates,iproute2,iputils-ping,netbase,procps,kmod,less,vim-tiny,apt-utils,login,"
    "passwd,e2fsprogs";

// Before the packages: an initrd with the drivers this machine has, instead of all drivers there
// are.
constexpr std::string_view kEssentialHook = R"sh(#!/bin/sh
set -e
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/strata"
printf '%s\n' virtio_pci virtio_blk virtio_net virtio_console ext4 crc32c-intel >"$1/usr/share/initramfs-tools/modules.d/strata"
)sh";

// After the packages: name, network, mount table, a root that logs in on the console without a
// password (the console is its owner's). $KEY_FILE holds root's public key, if there is one;
// $SOURCES the lines of its package sources.
constexpr std::string_view kCustomizeHook = R"sh(#!/bin/sh
set -e
echo debian >"$1/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$1/etc/hosts"
echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$1/etc/fstab"
chroot "$1" passwd -d root >/dev/null
printf '[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n' >"$1/etc/systemd/network/80-strata.network"
chroot "$1" systemctl enable systemd-networkd systemd-resolved >/dev/null 2>&1
chroot "$1" systemctl disable systemd-networkd-wait-online >/dev/null 2>&1 || true
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
printf '%s\n' "$SOURCES" >"$1/etc/apt/sources.list"
if [ -n "$KEY_FILE" ]; then
    mkdir -p -m 700 "$1/root/.ssh"
    install -m 600 "$KEY_FILE" "$1/root/.ssh/authorized_keys"
fi
: >"$1/etc/machine-id"
rm -f "$1"/var/cache/apt/archives/*.deb
)sh";

// The tree becomes a disk; the kernel and its initrd are copied out for the direct boot. $1 tree,
// $2 output folder, $3 bytes.
constexpr std::string_view kDiskScript = R"sh(set -e
cp "$(ls -1 "$1"/boot/vmlinuz-* | sort -V | tail -n 1)" "$2/vmlinuz"
cp "$(ls -1 "$1"/boot/initrd.img-* | sort -V | tail -n 1)" "$2/initrd.img"
chmod 644 "$2/vmlinuz" "$2/initrd.img"
truncate -s "$3" "$2/root.raw"
/sbin/mke2fs -q -t ext4 -L strata-root -d "$1" "$2/root.raw"
)sh";

Result<> write_script(const std::string& path, std::string_view text) {
    STRATA_TRY_VOID(write_file(path, text));
    std::error_code code;
    fs::permissions(path, fs::perms(0755), code);
    if (code) {
        return Error::from_errno(fmt::format("'{}'", path), code.value());
    }
    return ok();
}

Result<> check_packages(std::string_view packages) {
    for (const char c : packages) {
        if (std::isalnum(static_cast<unsigned char>(c)) == 0 &&
            std::string_view("+-.,:_").find(c) == std::string_view::npos) {
            return Error{ErrorKind::InvalidArgument,
                         fmt::format("--packages {}: names separated by commas, e.g. gcc,python3",
                                     packages)};
        }
    }
    return ok();
}

Result<> run_step(std::vector<std::string> words, std::string_view what, const Progress& progress) {
    auto done = run_package_tool(
        {.words = std::move(words), .folder = {}, .on_line = [&](std::string_view line) {
             if (line.starts_with("I: ")) {
                 progress(line.substr(3));
             }
         }});
    if (!done) {
        return std::move(done).error().context(what);
    }
    return ok();
}

// The host's own sources of Debian 12, as lines of sources.list: the image asks the same mirrors.
Result<std::string> host_sources() {
    const std::string targets = STRATA_TRY(run_package_tool(
        {.words = {"apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
                   "Created-By: Packages"},
         .folder = {},
         .on_line = {}}));
    std::set<std::string_view> lines;
    for (const std::string_view line : split(targets, '\n')) {
        const auto words = split(line, ' ');
        const bool ours = words.size() == 4 && words[3] == "main" &&
                          (words[2] == "bookworm" || words[2] == "bookworm-updates" ||
                           words[2] == "bookworm-security");
        if (ours) {
            lines.insert(line);
        }
    }
    if (lines.empty()) {
        return Error{ErrorKind::NotFound,
                     "no source of Debian 12 packages is known to apt here (run apt-get update, or "
                     "name one with --mirror URI)"};
    }
    return fmt::format("{}", fmt::join(lines, "\n"));
}

std::vector<std::string> mmdebstrap_words(const std::string& work, const DebianOptions& options,
                                          const std::string& sources) {
    const std::string hook_environment =
        options.ssh_key_file.empty() ? "KEY_FILE=" : fmt::format("KEY_FILE={}/key.pub", work);
    std::string include(kPackages);
    if (!options.packages.empty()) {
        include += "," + options.packages;
    }
    std::vector<std::string> words = {"env",
                                      hook_environment,
                                      "SOURCES=" + sources,
                                      "mmdebstrap",
                                      geteuid() == 0 ? "--mode=root" : "--mode=unshare",
                                      "--variant=minbase",
                                      "--architectures=amd64",
                                      "--include=" + include,
                                      "--essential-hook=" + work + "/essential.sh",
                                      "--customize-hook=" + work + "/customize.sh",
                                      "bookworm",
                                      geteuid() == 0 ? work + "/root" : work + "/root.tar"};
    for (const std::string_view line : split(sources, '\n')) {
        words.emplace_back(line);
    }
    return words;
}

}  // namespace

Result<Image> build_debian(const ImageDraft& draft, const DebianOptions& options,
                           const Progress& progress) {
    STRATA_TRY_VOID(check_packages(options.packages));
    STRATA_TRY_VOID(check_subordinate_ids());
    const std::string work = draft.folder() + "/work";
    std::error_code code;
    fs::create_directories(work, code);
    STRATA_TRY_VOID(write_script(work + "/essential.sh", kEssentialHook));
    STRATA_TRY_VOID(write_script(work + "/customize.sh", kCustomizeHook));
    if (!options.ssh_key_file.empty()) {
        const std::string key = STRATA_TRY(read_file(options.ssh_key_file, 64U << 10));
        STRATA_TRY_VOID(write_file(work + "/key.pub", key));
    }
    const std::string sources = options.mirror.empty()
                                    ? STRATA_TRY(host_sources())
                                    : fmt::format("deb {} bookworm main", options.mirror);
    progress("collecting Debian 12's packages (a few minutes)");
    STRATA_TRY_VOID(
        run_step(mmdebstrap_words(work, options, sources), "making the Debian tree", progress));

    progress("writing the root disk");
    const std::string bytes = std::to_string(options.disk_bytes);
    if (geteuid() == 0) {
        STRATA_TRY_VOID(run_step(
            {"sh", "-c", std::string(kDiskScript), "sh", work + "/root", draft.folder(), bytes},
            "writing the root disk (too small? see --size)", progress));
    } else {
        const std::string script =
            R"(mkdir "$1"; tar -C "$1" -xf "$1.tar"; rm "$1.tar"; )" + std::string(kDiskScript);
        STRATA_TRY_VOID(
            run_step({"fakeroot", "sh", "-c", script, "sh", work + "/root", draft.folder(), bytes},
                     "writing the root disk (too small? see --size)", progress));
    }
    fs::remove_all(work, code);
    return Image{
        .name = "debian:12",
        .description =
            "Debian 12 (bookworm): systemd, sshd; root logs in on the console without a password",
        .kernel = "vmlinuz",
        .initrd = "initrd.img",
        .append = "root=/dev/vda rw console=ttyS0",
        .disks = {"root.raw"},
        .memory_bytes = 1ULL << 30,
        .folder = {}};
}

}  // namespace strata::cli
