#!/usr/bin/env bash
# Instructions of the hot paths (bench/stack/src/bin/paths.rs), counted by callgrind: the same on a busy machine as on a quiet one.
#
#   ./bench/instructions.sh            count and show
#   ./bench/instructions.sh --check    fail if a path differs from bench/instructions.txt by more than 2 %
#   ./bench/instructions.sh --write    count, and write bench/instructions.txt
#
# valgrind knows AVX2 and not AVX-512: of the checksum's loops it sees the one for AVX2, whatever the processor has. Another compiler
# makes other code, and a processor without AVX2 runs other code, so counts of another rustc or processor than the file's are shown and do not fail.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-}
case $mode in
    '' | --check | --write) ;;
    *)
        echo "usage: $0 [--check | --write]" >&2
        exit 2
        ;;
esac
for program in valgrind callgrind_annotate; do
    command -v "$program" >/dev/null || {
        echo "$program is missing: on Debian \`apt-get install valgrind\`" >&2
        exit 1
    }
done

file=bench/instructions.txt
# What the counts depend on besides the code: the compiler, and whether valgrind has AVX2 to pass on.
vectors="no AVX2"
if grep -qw avx2 /proc/cpuinfo; then
    vectors=AVX2
fi
rustc="$(rustc --version), $vectors"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cargo build --locked --release --quiet -p bywash-bench-stack --bin paths
program=${CARGO_TARGET_DIR:-target}/release/paths
# Says how often it ran each path.
valgrind --quiet --tool=callgrind --callgrind-out-file="$scratch/out" "$program" >"$scratch/calls"
# Lines read "123,456 (12.3%)  file:paths::path_decode [program]"; inclusive counts.
callgrind_annotate --inclusive=yes --threshold=100 "$scratch/out" 2>"$scratch/warnings" |
    sed -n 's/^ *\([0-9,]*\) .*paths::path_\([a-z_]*\).*/\2 \1/p' | tr -d ',' |
    awk 'NR == FNR { calls[$1] = $2; next } !($1 in seen) { seen[$1] = 1; printf "%s %.1f\n", $1, $2 / calls[$1] }' "$scratch/calls" - |
    LC_ALL=C sort >"$scratch/counts"

paths=$(sed -n 's/^fn path_\([a-z_]*\)(.*/\1/p' bench/stack/src/bin/paths.rs | LC_ALL=C sort)
if [[ $(cut -d' ' -f1 "$scratch/counts") != "$paths" ]]; then
    echo "callgrind did not find every path: $(cut -d' ' -f1 "$scratch/counts" | tr '\n' ' ')" >&2
    exit 1
fi

if [[ $mode == --write ]]; then
    {
        echo "# Instructions of one run of each hot path, mean of a thousand and more; ./bench/instructions.sh --write"
        echo "# $rustc"
        cat "$scratch/counts"
    } >"$file"
    cat "$file"
    exit 0
fi
if [[ ! -f $file ]]; then
    cat "$scratch/counts"
    echo "there is no $file to compare with: ./bench/instructions.sh --write" >&2
    [[ $mode != --check ]]
    exit
fi
counted_with=$(sed -n 's/^# \(rustc .*\)/\1/p' "$file")
grep -v '^#' "$file" | join -a 1 -a 2 -e none -o 0,1.2,2.2 - "$scratch/counts" | awk '
    $2 == "none" || $3 == "none" { printf "%-14s %10s -> %10s  not on both sides\n", $1, $2, $3; bad++; next }
    { change = 100 * ($3 / $2 - 1); out = change > 2 || change < -2; bad += out
      printf "%-14s %10.1f -> %10.1f  %+6.2f %%%s\n", $1, $2, $3, change, out ? "  beyond 2 %" : "" }
    END { exit bad > 0 }' && same=1 || same=0
if ((same)); then
    exit 0
fi
if [[ $counted_with != "$rustc" ]]; then
    echo "NOT COMPARED: the file was counted with $counted_with, this is $rustc"
    exit 0
fi
echo "if the change is meant: ./bench/instructions.sh --write, and say why in the commit"
[[ $mode != --check ]]
