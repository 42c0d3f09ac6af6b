#!/bin/bash
# BuildTinyLinux: a small Linux for hosts where KVM emulates whole guests: tinyconfig, serial console, ACPI, PVH entry, KVM guest.
#
# Usage: tools/tiny_linux/build.sh [OUT]  (default build/soak/tiny-linux; JOBS=n). Leaves OUT/vmlinux (a PVH ELF), OUT/bzImage and OUT/initrd.cpio,
# whose init (init.c) checks a few things, says "tiny: passed" and powers off. What is there and newer than this folder's files stays. Takes the
# kernel's source from Debian's linux-source-6.1; needs bc, bison, flex, libelf-dev, cpio and xz-utils besides ("tools/setup.sh soak").
set -euo pipefail
here=$(dirname "$(realpath "$0")")
out=$(realpath -m "${1:-build/soak/tiny-linux}")
source=/usr/src/linux-source-6.1.tar.xz

# Beyond tinyconfig. Fast code and few ticks, because every instruction counts on such a host; no keyboard, no screen.
on="64BIT SMP PRINTK BLK_DEV_INITRD RD_GZIP BINFMT_ELF TTY SERIAL_8250 SERIAL_8250_CONSOLE PCI PCI_MMCONFIG ACPI HYPERVISOR_GUEST PARAVIRT
    KVM_GUEST PVH X86_X2APIC HIGH_RES_TIMERS NO_HZ_IDLE HZ_100 FUTEX POSIX_TIMERS MULTIUSER PROC_FS SYSFS CC_OPTIMIZE_FOR_PERFORMANCE INIT_STACK_NONE"
off="CC_OPTIMIZE_FOR_SIZE INIT_STACK_ALL_ZERO HZ_250 VT INPUT SERIO HID THERMAL"

fail() {
    echo "tiny_linux: $*" >&2
    exit 3
}

[ -e "$source" ] || fail "no $source: apt-get install linux-source-6.1"
for tool in bc bison flex cpio xz gcc make; do
    command -v "$tool" >/dev/null || fail "no $tool: apt-get install $tool"
done
mkdir -p "$out/src" "$out/root"

if [ "$out/vmlinux" -nt "$source" ] && [ "$out/vmlinux" -nt "$here/build.sh" ] && [ "$out/bzImage" -nt "$here/build.sh" ]; then
    echo "tiny_linux: $out/vmlinux is there already"
else
    if [ ! -e "$out/src/.unpacked" ]; then
        tar -xJf "$source" -C "$out/src" --strip-components=1
        touch "$out/src/.unpacked"
    fi
    make -s -C "$out/src" tinyconfig >/dev/null
    for option in $off; do
        "$out/src/scripts/config" --file "$out/src/.config" --disable "$option"
    done
    for option in $on; do
        "$out/src/scripts/config" --file "$out/src/.config" --enable "$option"
    done
    make -s -C "$out/src" olddefconfig
    for option in $on; do
        grep -q "^CONFIG_$option=y" "$out/src/.config" || fail "CONFIG_$option did not stay enabled"
    done
    nice -n 10 make -s -C "$out/src" -j"${JOBS:-1}" vmlinux bzImage
    cp "$out/src/arch/x86/boot/bzImage" "$out/bzImage"
    strip -s -o "$out/vmlinux" "$out/src/vmlinux"
fi

gcc -O1 -Wall -Wextra -Werror -nostdlib -static -ffreestanding -fno-stack-protector -fcf-protection=none -o "$out/root/init" "$here/init.c"
# The kernel opens /dev/console for init; the archive is made by the kernel's own tool, which needs no root for the device node.
printf 'dir /dev 0755 0 0\nnod /dev/console 0600 0 0 c 5 1\nfile /init %s 0755 0 0\n' "$out/root/init" >"$out/initrd.list"
"$out/src/usr/gen_init_cpio" "$out/initrd.list" >"$out/initrd.cpio"
echo "tiny_linux: $out/vmlinux, bzImage, initrd.cpio"
