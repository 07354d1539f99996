#!/usr/bin/env bash
# Bywash over zero-copy drivers, in a small virtual machine: no NIC needed, no root, no KVM.
#
#   ./tests/zero-copy.sh [--short] [--kernel newest|6.12|6.1] [--device virtio|igb] [--keep]
#
#   --short    the newest kernel on virtio-net only, small transfers: under a minute once packages and build are there
#   --kernel   one kernel instead of all; kernels before 6.13 have no zero copy on virtio-net: copy mode, and why
#   --device   one device instead of both; igb is QEMU's emulated 82576, on the newest kernel
#   --keep     keep the scratch folder with the consoles' logs, and say where
#
# QEMU, busybox and kernels are Debian packages, unpacked into ${XDG_CACHE_HOME:-~/.cache}/bywash/vm and not installed. The
# machine is emulated (TCG): its figures order modes and say nothing of real hardware.
# Exit status: 0 all held, 1 something did not, 2 wrong usage, 77 SKIPPED for want of the packages (the last line says why).
set -euo pipefail
cd "$(dirname "$0")/.."

short=0 keep=0 only_kernel='' only_device=''
usage() {
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
}
while (($#)); do
    case $1 in
        --short) short=1 ;;
        --keep) keep=1 ;;
        --kernel) only_kernel=${2:-} && shift ;;
        --device) only_device=${2:-} && shift ;;
        *) usage ;;
    esac
    shift
done
[[ $only_kernel =~ ^(newest|6\.12|6\.1|)$ && $only_device =~ ^(virtio|igb|)$ ]] || usage
[[ $only_device != igb || $only_kernel =~ ^(newest|)$ ]] || usage

cache=${XDG_CACHE_HOME:-$HOME/.cache}/bywash/vm
scratch=$(mktemp -d)
machine=''
leave() {
    # The emulator must not outlive a Ctrl-C. What has its number is `timeout`, which passes TERM on and KILL after it.
    if [[ -n $machine ]]; then
        kill -TERM "$machine" 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    if ((keep)); then
        echo "kept: $scratch"
    else
        rm -rf "$scratch"
    fi
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

skip() {
    echo "SKIPPED: zero copy in a VM: $1"
    exit 77
}

# shellcheck source=tests/vm/packages.sh
. tests/vm/packages.sh

# What is built in, or not there yet, in a kernel is passed over.
virtio_modules=failover,net_failover,virtio,virtio_ring,virtio_pci_legacy_dev,virtio_pci_modern_dev,virtio_pci,dimlib,virtio_net
igb_modules=dca,i2c-algo-bit,igb

# What to boot: NAME KERNEL:KIND:MODULES DEVICE IOMMU RUN
runs=()
want() { [[ -z $only_kernel || $only_kernel == "$1" ]] && [[ -z $only_device || $only_device == "$2" ]]; }
if want newest virtio; then
    runs+=("virtio-net newest:cloud:$virtio_modules virtio on zero-copy")
    runs+=("virtio-net-without-iommu newest:cloud:$virtio_modules virtio off refused")
fi
if ((short == 0)); then
    if want newest virtio; then runs+=("virtio-net-modes newest:cloud:$virtio_modules virtio on table"); fi
    if want newest igb; then runs+=("igb newest:full:$igb_modules igb on igb"); fi
    if want 6.12 virtio; then runs+=("linux-6.12 6.12:cloud:$virtio_modules virtio on refused"); fi
    if want 6.1 virtio; then runs+=("linux-6.1 6.1:cloud:$virtio_modules virtio on refused"); fi
fi
((${#runs[@]})) || usage

for tool in apt-get apt-cache dpkg-deb xz; do
    command -v "$tool" >/dev/null || skip "there is no $tool here"
done
[[ $(uname -m) == x86_64 ]] || skip "the packages are for x86-64"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -w 600 9 || skip "another run has held $cache for ten minutes"
set_apt_options
mapfile -t kernels < <(printf '%s\n' "${runs[@]}" | awk '{ print $2 }' | sort -u)
get_packages "${kernels[@]}" || skip "$(<"$scratch/reason")"
flock -u 9

# glibc, linked statically: no other target than the machine's own is needed.
target=x86_64-unknown-linux-gnu
CARGO_INCREMENTAL=0 RUSTFLAGS='-C target-feature=+crt-static -C strip=debuginfo' cargo build --locked --quiet --target $target -p bywash-vm -p bywash
built=${CARGO_TARGET_DIR:-target}/$target/debug

# boot NAME KERNEL-FOLDER DEVICE IOMMU RUN: the console's lines of interest, and 0 if the guest came to its end without a failure.
boot() {
    local name=$1 kernel=$2 device=$3 iommu=$4 run=$5 options size=whole limit=600 index=0
    local files=(init="$built/bywash-vm-guest" bin/bywash="$built/bywash" bin/busybox="$cache/qemu/busybox") module
    for module in "$kernel"/modules/*.ko; do
        files+=("modules/${module##*/}=$module")
    done
    "$built/bywash-vm-pack" "$scratch/initrd" "${files[@]}"
    if ((short)); then
        size=short
        limit=300
    fi
    case $device-$iommu in
        # Zero copy wants rings that the driver maps itself, which a device behind an IOMMU has.
        virtio-on) options=virtio-net-pci,rx_queue_size=1024,iommu_platform=on,disable-legacy=on ;;
        virtio-off) options=virtio-net-pci,rx_queue_size=1024 ;;
        # No boot ROM: it is in a package of its own, and nobody boots from the net.
        igb-*) options=igb,romfile= ;;
    esac
    local line=("$cache/qemu/usr/bin/qemu-system-x86_64"
        -L "$cache/qemu/usr/share/qemu" -L "$cache/qemu/usr/share/seabios" -L "$cache/qemu/usr/lib/ipxe/qemu"
        -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 768
        -nodefaults -no-user-config -display none -serial stdio -monitor none -no-reboot
        -kernel "$kernel/vmlinuz" -initrd "$scratch/initrd"
        -append "console=ttyS0 quiet panic=-1 mitigations=off bywash_run=$run bywash_size=$size")
    for address in 02 06; do
        # Both NICs on one hub. QEMU filters by destination MAC.
        line+=(-netdev "hubport,id=h$index,hubid=0" -device "$options,netdev=h$index,mac=52:54:00:99:00:$address,addr=$address.0")
        index=$((index + 1))
    done
    printf '\n==== %s, Linux %s\n' "$name" "$(cut -d ' ' -f 1 "$kernel/release")"
    LD_LIBRARY_PATH=$cache/qemu/usr/lib/x86_64-linux-gnu timeout --foreground -k 5 "$limit" "${line[@]}" </dev/null >"$scratch/$name.log" 2>&1 &
    machine=$!
    local status=0
    wait "$machine" || status=$?
    machine=''
    tr -d '\r' <"$scratch/$name.log" | sed -n 's/^.*\(VM \(ok\|FAIL\|row\|note\|end\) \)/\1/p' >"$scratch/$name.lines"
    cat "$scratch/$name.lines"
    if ((status != 0)) || ! grep -q '^VM end [0-9]* ok, 0 failed$' "$scratch/$name.lines"; then
        echo "$name: the guest did not come to a good end (status $status; 124: no end within $limit s); the console's last lines:"
        grep -av 'VM [a-zA-Z]* ' "$scratch/$name.log" | tail -n 25
        return 1
    fi
}

failed=()
for entry in "${runs[@]}"; do
    read -r name kernel device iommu run <<<"$entry"
    IFS=: read -r version kind _ <<<"$kernel"
    boot "$name" "$cache/kernel-$version-$kind" "$device" "$iommu" "$run" || failed+=("$name")
done

if cat "$scratch"/*.lines | grep -q '^VM row'; then
    printf '\nReceiving from the guest kernel'"'"'s TCP, MTU 1500, EMULATED (TCG): compare rows, never with hardware.\n\n'
    echo '| driver | asked for | mode | frames/s | MB/s | core time, us a frame (both ends) |'
    echo '|---|---|---|---|---|---|'
    cat "$scratch"/*.lines | sed -n 's/^VM row //p'
fi
count=$(cat "$scratch"/*.lines | grep -c '^VM ok' || true)
printf '\nzero copy in a VM: %s cases held, %s runs failed%s\n' "$count" "${#failed[@]}" "${failed:+: ${failed[*]}}"
((${#failed[@]} == 0))
