#!/bin/bash
# Setup: installs, from Debian's packages, what building, testing and running Strata needs.
#
# Usage: tools/setup.sh [build] [image] [test] [lint] [bench] [soak] [all]   (default: build image test)
#
# Idempotent: with everything in place it is a quick no-op and asks for no rights. Otherwise it uses apt-get, through
# sudo when not root. Made for Debian 12; any Debian-like system with the same package names works.
set -euo pipefail

# Each group: the packages, then why.
declare -A groups=(
    # compiler, linker and build tools; decoder (software CPU), formatting, JSON, sandbox filter, user-mode network, disk I/O, decompressors; the tests that
    # every build makes: test library, guest assembler, script interpreter
    [build]="g++ lld make cmake ninja-build pkg-config libzydis-dev libfmt-dev nlohmann-json3-dev libseccomp-dev libslirp-dev liburing-dev libdeflate-dev libzstd-dev libbz2-dev liblzma-dev libssl-dev libargon2-dev libxxhash-dev libpugixml-dev libgtest-dev libgmock-dev nasm python3"
    # guest images: static shell, initramfs archives, Debian root disks, file systems, package fetching and unpacking
    [image]="busybox-static cpio mmdebstrap e2fsprogs zstd xz-utils ca-certificates debian-archive-keyring uidmap fakeroot"
    # the tests' own tools: terminal driver, ACPI compiler, image and disk tools as peers
    [test]="expect acpica-tools qemu-utils cryptsetup-bin libvhdi-utils 7zip nbdkit libnbd-bin file openssl openssh-client socat mtools dosfstools xxhash"
    # second compiler, sanitizer runtimes, static checks
    [lint]="clang-14 clang-tidy-14 clang-format-14 libclang-rt-14-dev llvm-14 libbenchmark-dev"
    # the peers that benchmarks and conformance runs compare with
    [bench]="libbenchmark-dev qemu-system-x86 qemu-utils"
    # the source of the small Linux that the soak builds and boots, and what its build needs
    [soak]="linux-source-6.1 bc bison flex libelf-dev cpio xz-utils"
)

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(build image test)
[ "${wanted[*]}" != "all" ] || wanted=(build image test lint bench soak)

missing=()
for group in "${wanted[@]}"; do
    if [ -z "${groups[$group]+set}" ]; then
        echo "setup: no group '$group': use ${!groups[*]} or all" >&2
        exit 2
    fi
    for package in ${groups[$group]}; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing+=("$package")
    done
done
# Images are made of packages fetched without installing them, which needs package lists: a fresh container may have none.
lists=yes
if [[ " ${wanted[*]} " == *" image "* ]] && [ -z "$(apt-cache search --names-only '^linux-image-amd64$' 2>/dev/null)" ]; then
    lists=no
fi
if [ ${#missing[@]} -eq 0 ] && [ $lists = yes ]; then
    echo "setup: everything needed is installed (${wanted[*]})"
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if [ ${#missing[@]} -eq 0 ]; then
        echo "setup: everything needed is installed (${wanted[*]}); without package lists (apt-get update) no guest image can be made"
        exit 0
    fi
    if ! command -v sudo >/dev/null; then
        echo "setup: these packages are missing and there is no sudo: run as root: apt-get install ${missing[*]}" >&2
        exit 6
    fi
    as_root=(sudo)
fi
if [ ${#missing[@]} -eq 0 ]; then
    echo "setup: fetching the package lists"
    "${as_root[@]}" apt-get update -q || echo "setup: no package source answers: no guest image can be made here"
    exit 0
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}")
# The package lists may be absent (a fresh container) or old: fetch them, and again when a file has moved on.
"${as_root[@]}" apt-get update -q
"${install[@]}" || { "${as_root[@]}" apt-get update -q && "${install[@]}"; }
