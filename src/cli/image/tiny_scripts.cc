// The tiny guest's own programs: /init and /bin/selfcheck, run by busybox.
#include "cli/image/tiny.h"

namespace strata::cli {

namespace {

constexpr std::string_view kInit = R"sh(#!/bin/busybox sh
# Init: mounts, loads the virtio drivers, brings up the network, then a shell or the self-check, then power off.
export PATH=/bin HOME=/root TERM=linux
# What halt, poweroff and reboot ask of process 1.
trap 'sync; halt -f' USR1
trap 'sync; poweroff -f' USR2
trap 'sync; reboot -f' TERM
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev 2>/dev/null
/bin/busybox --install -s /bin
mkdir -p /dev/pts /tmp /run /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
hostname "$(sed -n 's/.*strata\.name=\([^ ]*\).*/\1/p' /proc/cmdline | grep . || echo tiny)"
for module in virtio_pci virtio_blk virtio_net virtio_console virtio-rng pvpanic-mmio button evdev; do
    modprobe -q "$module" 2>/dev/null
done
# Controllers of other disks, if there are any: shell words only, which cost nothing.
for place in /sys/bus/virtio/devices/*/device /sys/bus/pci/devices/*/class; do
    kind=
    read -r kind 2>/dev/null <"$place"
    case "$kind" in
        0x0008) modprobe -q virtio_scsi ;;
        0x010601) modprobe -q ahci ;;
        *) continue ;;
    esac
    modprobe -q sd_mod
    modprobe -q sr_mod
done
acpid -l /dev/null -p /run/acpid.pid  # the power button powers off: /etc/acpi
ip link set lo up
tty=/dev/console
case " $(cat /proc/cmdline) " in
    *" console=hvc0 "*) [ -c /dev/hvc0 ] && tty=/dev/hvc0 ;;
esac
[ -d /sys/class/net/eth0 ] && ip link set eth0 up && udhcpc -i eth0 -q -n -t 4 -T 1 -S >/dev/null 2>&1
grep -qw strata.crash /proc/cmdline && echo c >/proc/sysrq-trigger
if grep -qw strata.selfcheck /proc/cmdline; then
    /bin/selfcheck <"$tty" >"$tty" 2>&1
elif [ -n "$(sed -n 's/.*strata\.run=\([^ ]*\).*/\1/p' /proc/cmdline)" ]; then
    # One command, words separated by commas: strata.run=reboot,-f
    $(sed -n 's/.*strata\.run=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' ') <"$tty" >"$tty" 2>&1
else
    printf '\nThis is Strata'"'"'s tiny guest: Linux %s and busybox. Leave with "poweroff" or Ctrl-].\n\n' "$(uname -r)" >"$tty"
    # In the background: a trap waits for what runs in the foreground.
    setsid -c sh -l <"$tty" >"$tty" 2>&1 &
    wait $!
fi
sync
poweroff -f
)sh";

constexpr std::string_view kSelfcheck = R"sh(#!/bin/busybox sh
# Self-check: looks at every part of the machine from inside; says "self-check: passed" or what failed.
failed=""
fail() { failed="$failed $1"; }
say() { printf '  %-12s %s\n' "$1" "$2"; }
echo "Strata self-check"
say kernel "$(uname -sr)"

online=$(grep -c ^processor /proc/cpuinfo)
possible=$(sed 's/.*-//' /sys/devices/system/cpu/possible)
present=$(sed 's/.*-//' /sys/devices/system/cpu/present)
say processors "$online online ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n1))"
[ "$online" -eq $((present + 1)) ] || fail processors

say memory "$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024)) MiB"
say clock "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
say hypervisor "$(cat /sys/hypervisor/type 2>/dev/null || dmesg | sed -n 's/.*Hypervisor detected: //p' | head -n1)"

# The same sum on every processor at once: they must agree.
cpu=0
while [ $cpu -lt "$online" ]; do
    taskset $((1 << cpu)) sh -c 'head -c 262144 /dev/zero | sha256sum' >/tmp/sum.$cpu &
    cpu=$((cpu + 1))
done
wait
sums=$(cat /tmp/sum.* | sort -u | wc -l)
say arithmetic "sha256 on $online processors: $sums different result(s)"
[ "$sums" -eq 1 ] || fail arithmetic

before=$(cut -d. -f1 /proc/uptime)
sleep 2
slept=$(($(cut -d. -f1 /proc/uptime) - before))
say timers "sleep 2 took about $slept s"
[ $slept -ge 1 ] && [ $slept -le 4 ] || fail timers

if [ -c /dev/hwrng ]; then
    bytes=$(dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c)
    say entropy "$bytes bytes from virtio-rng"
    [ "$bytes" -gt 0 ] || fail entropy
fi
if [ -d /sys/class/net/eth0 ]; then
    address=$(ip -4 addr show eth0 | sed -n 's/.*inet \([^ ]*\).*/\1/p')
    say network "eth0 ${address:-has no address}"
    [ -n "$address" ] || fail network
fi
for disk in /dev/vd?; do
    [ -b "$disk" ] || continue
    say disk "$disk $(($(cat /sys/block/${disk#/dev/}/size) / 2048)) MiB"
    dd if="$disk" of=/dev/null bs=4096 count=1 2>/dev/null || fail "$disk"
done
# A vulnerability that the host's own report shares is not the machine's fault: only what the kernel itself complains about counts.
complaints=$(dmesg | grep -cE 'WARNING:|BUG:|soft lockup|hard LOCKUP|rcu.*stall|Call Trace|unable to handle')
say "kernel log" "$complaints complaint(s)"
[ "$complaints" -eq 0 ] || { dmesg | grep -E -A3 'WARNING:|BUG:|soft lockup|hard LOCKUP|rcu.*stall|unable to handle' | head -n 20; fail kernel-log; }

if [ -z "$failed" ]; then
    echo "self-check: passed"
else
    echo "self-check: FAILED:$failed"
fi
)sh";

}  // namespace

std::string_view tiny_init_script() {
    return kInit;
}

std::string_view tiny_selfcheck_script() {
    return kSelfcheck;
}

}  // namespace strata::cli
