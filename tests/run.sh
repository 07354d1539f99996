#!/usr/bin/env bash
# All checks and all tests, on a Debian 12 that has cargo with rustfmt and clippy. Installs what is missing.
#
#   ./tests/run.sh
#
# Needs root (or sudo, for the packages) and, for the tests in network namespaces, root: without it those tests fail and say so.
# The last line but for the reason of a failure is "N passed, N failed"; the exit status is 0 only if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed_sections=()
notes=()

section() { printf '\n==== %s\n' "$1"; }

# Runs a check; a failure is noted, and the others run all the same.
check() {
    local title=$1
    shift
    section "$title"
    if ! "$@"; then
        failed_sections+=("$title")
        printf -- '---- failed: %s\n' "$title"
    fi
}

# package:program that it is there for. Libraries and headers are told by dpkg.
programs=(
    bpftool:bpftool clang:clang ethtool:ethtool iperf3:iperf3 iproute2:ip iputils-ping:ping llvm:llvm-objdump m4:m4 make:make
    netcat-openbsd:nc nftables:nft pkg-config:pkg-config procps:sysctl socat:socat tcpdump:tcpdump tshark:tshark jq:jq valgrind:valgrind xz-utils:xz build-essential:cc

)
# liblwip-dev: lwIP, as a third TCP to talk to.
libraries=(libclang-dev libelf-dev liblwip-dev zlib1g-dev)

install_missing() {
    # nft, bpftool and the like live here, and a user's PATH need not have it.
    export PATH=$PATH:/usr/sbin:/sbin
    local missing=() entry package
    for entry in "${programs[@]}"; do
        command -v "${entry#*:}" >/dev/null || missing+=("${entry%%:*}")
    done
    for package in "${libraries[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        echo "nothing is missing"
        return
    fi
    echo "installing ${missing[*]}"
    local sudo=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || { echo "packages are missing, and there is neither root nor sudo"; return 1; }
        sudo=(sudo)
    fi
    # iperf3's package asks whether to run a daemon: no.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive sh -ec '
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    ' sh "${missing[@]}"
}

# A target without std lets the compiler hold that wire and tcp need none. Where it cannot be had only the sources are looked at,
# and the summary says so.
install_target() {
    local target=x86_64-unknown-none
    if [[ -d $(rustc --print sysroot)/lib/rustlib/$target ]]; then
        return
    fi
    if ! command -v rustup >/dev/null || ! rustup target add "$target" >/dev/null 2>&1; then
        notes+=("SKIPPED: wire and tcp are not built for $target, which is not installed and could not be fetched")
    fi
}

# Default members for somebody who has neither clang nor libelf: tools that are there by chance are hidden.
build_as_embedder() {
    local hide=$scratch/hide tool
    mkdir -p "$hide"
    for tool in clang clang-14 llvm-config llvm-objdump bpftool pkg-config; do
        printf '#!/bin/sh\necho "%s must not be needed here" >&2\nexit 127\n' "$tool" >"$hide/$tool"
        chmod +x "$hide/$tool"
    done
    PATH=$hide:$PATH LIBCLANG_PATH=/nonexistent cargo build --locked --release
}

tests() {
    # The command stands in target/release; the tests in namespaces run that one, one after the other.
    cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$scratch/tests"
}

# Its last line goes into the summary: what held, or after status 77, for want of packages, SKIPPED and why.
zero_copy() {
    local status=0
    ./tests/zero-copy.sh --short 2>&1 | tee "$scratch/zero-copy" || status=$?
    notes+=("$(tail -n 1 "$scratch/zero-copy")")
    ((status == 0 || status == 77))
}

install_missing
section "tools"
cargo --version
rustc --version
clang --version | head -n 1
iperf3 --version | head -n 1
uname -sr
install_target

check "format" cargo fmt --all --check
check "release build of the default members, without clang and libelf" build_as_embedder
check "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
check "the committed XDP object is what its source compiles to" cargo run --locked --quiet -p bywash-xdp-compile -- --check
check "tests" tests
check "instructions of the hot paths, within 2 %" ./bench/instructions.sh --check
check "zero-copy drivers, in a virtual machine" zero_copy
check "fuzzing, a minute for each target" ./tests/fuzz/run.sh 60

# cargo's lines read "test result: ok. 5 passed; 0 failed; 1 ignored; ...".
sum() { awk -v what="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i == what ";") n += $(i - 1) } END { print n + 0 }' "$scratch/tests"; }
touch "$scratch/tests"
passed=$(sum passed)
failed=$(sum failed)
ignored=$(sum ignored)

section "summary"
for note in "${notes[@]}"; do
    echo "$note"
done
((ignored == 0)) || echo "$ignored ignored"
for title in "${failed_sections[@]}"; do
    echo "failed: $title"
    # Failed tests are counted one by one; a check, or tests that did not even build, count as one.
    if [[ $title != tests ]] || ((failed == 0)); then
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
((failed == 0))
