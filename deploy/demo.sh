#!/usr/bin/env bash
# Bywash beside the kernel's own TCP, in two network namespaces of this machine, in about 20 seconds after the build.
#
#   ./deploy/demo.sh
#
# On a Debian 12 with cargo: installs what is missing, builds, joins two namespaces by a veth pair, and runs the stock iperf3 client
# against `bywash iperf3 -s` in both directions, then a ping-pong against `bywash echo`. Prints goodput, latency percentiles and what
# `bywash ss` shows. Everything it made goes when it ends, also by Ctrl-C. Without root the same engine runs over a wire in memory.
#
#   BYWASH=path    use this binary instead of building one
#   SECONDS_EACH=n length of each throughput test (3)
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_EACH:-3}
count=20000
root=yes
if ((EUID != 0)); then
    root=no
    echo "not root: the same engine runs over an in-memory wire, both ends in one process, without kernel or NIC (as root: namespaces and iperf3)"
fi

heading() { printf '\n== %s\n' "$1"; }
fail() { echo "demo.sh: $1" >&2; exit 1; }

pids=()

# Runs something in the background, so that a signal is answered at once, and waits for it with a limit.
bounded() {
    local limit=$1 pid status=0
    shift
    timeout --foreground --kill-after=2 "$limit" "$@" &
    pid=$!
    pids+=("$pid")
    wait "$pid" || status=$?
    forget "$pid"
    return "$status"
}

forget() {
    local kept=() pid
    for pid in "${pids[@]}"; do
        [[ $pid == "$1" ]] || kept+=("$pid")
    done
    pids=("${kept[@]}")
}

install_missing() {
    local entry missing=()
    for entry in iperf3:iperf3 iproute2:ip iputils-ping:ping jq:jq build-essential:cc; do
        command -v "${entry#*:}" >/dev/null || missing+=("${entry%%:*}")
    done
    ((${#missing[@]} > 0)) || return 0
    heading "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

build() {
    [[ -z ${BYWASH:-} ]] || return 0
    export PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || fail "cargo is missing: install Rust, see https://rustup.rs"
    heading "building"
    bounded 3600 cargo build --locked --release --quiet
    BYWASH=${CARGO_TARGET_DIR:-target}/release/bywash
}

if [[ $root == no ]]; then
    build
    exec "$BYWASH" demo --time "$seconds" --count "$count"
fi

export PATH=$PATH:/usr/sbin:/sbin
host=bywash-demo-$$-host
peer=bywash-demo-$$-peer
scratch=

# Ends what this script has started, and takes down what it has made. Runs once, whatever the end.
clean_up() {
    local status=$? pid tries alive=()
    trap - EXIT INT TERM HUP
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    # They end within moments; what does not is a fault that must not keep this script.
    for ((tries = 0; tries < 100; tries++)); do
        alive=()
        for pid in "${pids[@]}"; do
            kill -0 "$pid" 2>/dev/null && alive+=("$pid")
        done
        ((${#alive[@]} > 0)) || break
        sleep 0.05
    done
    for pid in "${alive[@]}"; do
        echo "demo.sh: does not end, and is killed: $(tr '\0' ' ' <"/proc/$pid/cmdline")" >&2
        kill -KILL "$pid" 2>/dev/null || true
    done
    ip netns del "$peer" 2>/dev/null || true
    ip netns del "$host" 2>/dev/null || true
    [[ -z $scratch ]] || rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_missing
build
BYWASH=$(realpath "$BYWASH")
scratch=$(mktemp -d)

on_peer() { ip netns exec "$peer" "$@"; }

# Starts a server on the host and waits for its ready line.
serve() {
    : >"$scratch/server"
    ip netns exec "$host" "$BYWASH" "$@" --dev bywash0 >"$scratch/server" 2>&1 &
    server=$!
    pids+=("$server")
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        if grep -qE 'serving|listening' "$scratch/server"; then
            head -n 1 "$scratch/server"
            return
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    cat "$scratch/server" >&2
    fail "the server is not ready"
}

end_server() {
    kill "$server"
    wait "$server" || { cat "$scratch/server" >&2; fail "the server did not end well"; }
    forget "$server"
}

heading "two namespaces: the engine on 10.99.0.1 (device bywash0), the kernel's TCP on 10.99.0.2, a veth pair between them"
ip netns add "$host"
ip netns add "$peer"
ip link add bywash0 netns "$host" type veth peer name kernel0 netns "$peer"
ip -n "$host" address add 10.99.0.1/24 dev bywash0
ip -n "$peer" address add 10.99.0.2/24 dev kernel0
for end in "$host lo" "$host bywash0" "$peer lo" "$peer kernel0"; do
    # Two words: namespace and device.
    read -r namespace device <<<"$end"
    ip -n "$namespace" link set "$device" up
done

throughput() {
    local title=$1
    shift
    heading "throughput, $title: stock iperf3 against bywash iperf3 -s, $seconds s"
    bounded $((seconds + 15)) ip netns exec "$peer" iperf3 -c 10.99.0.1 -J -t "$seconds" "$@" >"$scratch/report" || {
        jq -r '.error // empty' "$scratch/report" >&2 || cat "$scratch/report" >&2
        fail "the test failed"
    }
    jq -r '.intervals[].sum | "  \(.start | floor)-\(.end | round) s  \(.bits_per_second / 1e7 | round / 100) Gbit/s"' "$scratch/report"
    jq -r '"goodput: \(.end.sum_received.bits_per_second / 1e7 | round / 100) Gbit/s, \(.end.sum_sent.retransmits // 0) retransmissions"' \
        "$scratch/report"
}

serve iperf3 -s
throughput "kernel to bywash"
throughput "bywash to kernel" -R

heading "ss, in the middle of one more test with 4 streams"
timeout --foreground --kill-after=2 20 ip netns exec "$peer" iperf3 -c 10.99.0.1 -J -t 2 -P 4 >"$scratch/report" &
client=$!
pids+=("$client")
sleep 1 &
wait $!
"$BYWASH" ss
wait "$client"
forget "$client"
end_server

heading "ping-pong: the kernel's TCP to bywash echo, 64 bytes, $count round trips"
serve echo -p 7
bounded 30 ip netns exec "$peer" "$BYWASH" demo --ping-pong 10.99.0.1:7 --count "$count"
end_server

heading "beside it all, the kernel goes on: ping of the same address"
on_peer ping -q -c 3 -i 0.2 10.99.0.1 | tail -n 2
