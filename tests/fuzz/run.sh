#!/usr/bin/env bash
# Fuzzes every target, two at a time, guided by coverage, from the committed corpora.
#
#   ./tests/fuzz/run.sh [SECONDS for each target, 60] [TARGET...]
#   ./tests/fuzz/run.sh --keep SECONDS [TARGET...]     afterwards the corpora take in, minimised, what reached new code
#
# BYWASH_FUZZ_SEED=N begins elsewhere (1 unless told).
#
# A line for each target: runs, edges and features covered at the start and at the end, inputs. Exits with 1 if a target failed; the input
# is then kept, and the line below says how to run it again.
# Stable Rust: the coverage instrumentation is LLVM's, asked for by -C flags; libFuzzer comes with the crate libfuzzer-sys.
set -euo pipefail
cd "$(dirname "$0")/../.."

keep=
if [[ ${1:-} == --keep ]]; then
    keep=1
    shift
fi
seconds=${1:-60}
shift || true
targets=("$@")
# A run repeats itself as far as its time reaches; another seed looks elsewhere.
seed=${BYWASH_FUZZ_SEED:-1}
((${#targets[@]})) || targets=(on_segment reassembly scoreboard decode options restore rings memory_port control_socket iperf3)

work=${CARGO_TARGET_DIR:-target}/fuzz
mkdir -p "$work/crashes"
work=$(cd "$work" && pwd)
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(-Cpasses=sancov-module -Ccodegen-units=1 --cfg=fuzzing)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done

build() {
    # With --target, build scripts and macros are built without the instrumentation, which they could not link. Assertions and
    # checks of overflow stay in.
    CARGO_TARGET_DIR=$work/build RUSTFLAGS="${flags[*]}" CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
        CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true CARGO_PROFILE_RELEASE_LTO=off \
        cargo build --quiet --locked --release --target "$host" -p bywash-fuzz --features libfuzzer --bin fuzz
}

# The fields behind "NAME: " in libFuzzer's line of the given kind.
field() { sed -n "s/.*$2.* $1: \([0-9]*\).*/\1/p" "$3" | tail -n 1; }

fuzz() {
    local target=$1 log=$work/$1.log found=$work/found/$1 status=0
    rm -rf "$found"
    mkdir -p "$found"
    BYWASH_FUZZ=$target "$program" "$found" "tests/fuzz/corpus/$target" -max_total_time="$seconds" -seed="$seed" -timeout=20 -rss_limit_mb=2048 -max_len=1024 \
        -artifact_prefix="$work/crashes/$target-" -print_final_stats=1 >"$log" 2>&1 || status=$?
    printf '%-15s %9s runs  cov %s -> %s  ft %s -> %s  corpus %s + %s\n' "$target" "$(sed -n 's/stat::number_of_executed_units: //p' "$log")" \
        "$(field cov INITED "$log")" "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)" \
        "$(field ft INITED "$log")" "$(sed -n 's/.* ft: \([0-9]*\).*/\1/p' "$log" | tail -n 1)" \
        "$(find "tests/fuzz/corpus/$target" -type f | wc -l)" "$(find "$found" -type f | wc -l)"
    if ((status != 0)); then
        grep -m 3 -A 1 'panicked at\|ERROR: libFuzzer' "$log" || tail -n 5 "$log"
        local input
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "FAILED: cargo run -p bywash-fuzz --bin replay -- $target ${input:-(no input was kept; see $log)}"
        return 1
    fi
    if [[ -n $keep ]]; then
        local merged=$work/merged/$target
        rm -rf "$merged"
        mkdir -p "$merged"
        # Enough to cover every edge that was covered; not every count of it.
        BYWASH_FUZZ=$target "$program" -set_cover_merge=1 -use_counters=0 -max_len=1024 "$merged" "tests/fuzz/corpus/$target" "$found" \
            >>"$log" 2>&1
        # Inputs that once failed stay, under names that begin with "found-". Of the others, if there are too many, the smallest go:
        # they reach least.
        find "tests/fuzz/corpus/$target" -type f ! -name 'found-*' -delete
        find "$merged" -type f -printf '%s %p\n' | sort -rn | awk 'NR <= 190 { total += $1; if (total < 290000) print $2 }' |
            xargs -r cp -t "tests/fuzz/corpus/$target"
    fi
}

build
program=$work/build/$host/release/fuzz
failed=0
running=0
for target in "${targets[@]}"; do
    if ((running == 2)); then
        wait -n || failed=1
        running=$((running - 1))
    fi
    fuzz "$target" &
    running=$((running + 1))
done
while ((running > 0)); do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
