#!/usr/bin/env bash
# Bywash over zero-copy drivers, in a small virtual machine: no NIC needed, no root, no KVM.
#
#   ./tests/zero-copy.sh [--short | --table] [--kernel newest|6.12|6.1] [--device virtio|igb] [--keep]
#
#   --short    the newest kernel on virtio-net only, small transfers: under a minute once packages and build are there
#   --table    only the table that compares modes, on the newest kernel: for a machine on which nothing else runs
#   --kernel   one kernel instead of all; kernels before 6.13 have no zero copy on virtio-net: copy mode, and why
#   --device   one device instead of both; igb is QEMU's emulated 82576, on the newest kernel
#   --keep     keep the scratch folder with the consoles' logs, and say where
#
# Without any: everything, a quarter of an hour and more. BYWASH_DEBIAN_MIRROR names another mirror than the machine's own.
# QEMU, busybox and kernels are Debian packages, unpacked into ${XDG_CACHE_HOME:-~/.cache}/bywash/vm and not installed. The
# machine is emulated (TCG): its figures order modes and say nothing of real hardware.
# Exit status: 0 all held, 1 something did not, 2 wrong usage, 77 SKIPPED for want of the packages (the last line says why).
set -euo pipefail
cd "$(dirname "$0")/.."

size=whole only_table=0 keep=0 only_kernel='' only_device=''
usage() {
    sed -n '2,15s/^# \{0,1\}//p' "$0"
    exit 2
}
while (($#)); do
    case $1 in
        --short) size=short ;;
        --table) only_table=1 ;;
        --keep) keep=1 ;;
        --kernel | --device)
            (($# > 1)) || usage
            if [[ $1 == --kernel ]]; then only_kernel=$2; else only_device=$2; fi
            shift
            ;;
        *) usage ;;
    esac
    shift
done
[[ $only_kernel =~ ^(newest|6\.12|6\.1|)$ && $only_device =~ ^(virtio|igb|)$ ]] || usage
[[ $only_device != igb || $only_kernel =~ ^(newest|)$ ]] || usage
[[ $size == whole || $only_table == 0 ]] || usage

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

# What to boot: NAME KERNEL:KIND:MODULES DEVICE IOMMU WHAT, of --short, --table and neither.
runs=()
want() {
    local kernel=$1 device=$2
    shift 2
    if [[ -z $only_kernel || $only_kernel == "$kernel" ]] && [[ -z $only_device || $only_device == "$device" ]]; then
        runs+=("$*")
    fi
}
cloud=newest:cloud:$virtio_modules
full=newest:full:$igb_modules
if ((only_table == 0)); then
    want newest virtio "virtio-net $cloud virtio on zero-copy+claims"
    want newest virtio "virtio-net-without-iommu $cloud virtio off refused+claims"
fi
if ((only_table == 0)) && [[ $size == whole ]]; then
    want newest virtio "virtio-net-driver-copy $cloud virtio on driver-copy"
    want newest virtio "virtio-net-generic $cloud virtio on generic"
    want newest igb "igb $full igb on zero-copy+claims"
    want 6.12 virtio "linux-6.12 6.12:cloud:$virtio_modules virtio on refused+claims"
    want 6.1 virtio "linux-6.1 6.1:cloud:$virtio_modules virtio on refused+claims"
fi
if [[ $size == whole ]]; then
    want newest virtio "virtio-net-table $cloud virtio on table"
    want newest igb "igb-table $full igb on table"
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

# boot NAME KERNEL-FOLDER DEVICE IOMMU WHAT: the console's lines of interest, and 0 if the guest came to its end without a failure.
boot() {
    local name=$1 kernel=$2 device=$3 iommu=$4 what=$5 options limit=900 index=0 module address
    local files=(init="$built/bywash-vm-guest" bin/bywash="$built/bywash" bin/busybox="$cache/qemu/busybox")
    for module in "$kernel"/modules/*.ko; do
        files+=("modules/${module##*/}=$module")
    done
    "$built/bywash-vm-pack" "$scratch/initrd" "${files[@]}"
    [[ $size == whole ]] || limit=300
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
        -append "console=ttyS0 quiet panic=-1 mitigations=off bywash_run=$what bywash_size=$size")
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
    if ((status != 0)) || ! grep -q '^VM end [1-9][0-9]* ok, 0 failed$' "$scratch/$name.lines"; then
        echo "$name: the guest did not come to a good end (status $status; 124: no end within $limit s); the console's last lines:"
        grep -av 'VM [a-zA-Z]* ' "$scratch/$name.log" | tail -n 25
        return 1
    fi
}

failed=() summary=()
for entry in "${runs[@]}"; do
    read -r name kernel device iommu what <<<"$entry"
    IFS=: read -r version kind _ <<<"$kernel"
    folder=$cache/kernel-$version-$kind
    begin=$SECONDS outcome=held
    boot "$name" "$folder" "$device" "$iommu" "$what" || { failed+=("$name"); outcome=FAILED; }
    summary+=("$(printf '%-26s %-28s %-7s %3s cases held, %s failed, %4s s' "$name" "$(cut -d ' ' -f 1 "$folder/release")" "$outcome" \
        "$(grep -c '^VM ok' "$scratch/$name.lines")" "$(grep -c '^VM FAIL' "$scratch/$name.lines")" $((SECONDS - begin)))")
done

if cat "$scratch"/*.lines | grep -q '^VM row'; then
    printf '\nReceiving from the guest kernel'"'"'s TCP, MTU 1500, EMULATED (TCG): compare rows, never with hardware.\n\n'
    echo '| driver | asked for | mode | frames/s | MB/s | core time, us a frame (both ends) |'
    echo '|---|---|---|---|---|---|'
    cat "$scratch"/*.lines | sed -n 's/^VM row //p'
fi
printf '\n==== summary\n'
printf '%s\n' "${summary[@]}"
count=$(cat "$scratch"/*.lines | grep -c '^VM ok' || true)
printf 'zero copy in a VM: %s cases held, %s of %s runs failed%s\n' "$count" "${#failed[@]}" "${#runs[@]}" "${failed:+: ${failed[*]}}"
((${#failed[@]} == 0))
