# Debian packages unpacked into a cache, nothing installed: QEMU, a static busybox, kernels. Sourced by tests/zero-copy.sh.
#
#   $cache/apt            package lists of our own; the machine's are not touched
#   $cache/qemu           QEMU with the libraries that this machine lacks
#   $cache/kernel-NAME    vmlinuz, and the modules that the guest loads (unpacked), in $cache/kernel-NAME/modules
#
# Versions are looked up at run time, because backports keep a kernel for weeks only. What was found is good for a day; after
# that it is looked up again, and if that is impossible what is there is used as it is.

# The suites of the machine's own release give QEMU; these give kernels.
kernel_suites=(bookworm trixie trixie-backports)
busybox_package=busybox-static

cannot() {
    echo "$1" >"$scratch/reason"
    return 1
}

host_release() { (. /etc/os-release && [[ $ID == debian ]] && echo "$VERSION_CODENAME"); }

# The mirror that the machine itself uses.
mirror() {
    local found
    found=${BYWASH_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)}
    echo "${found:-http://deb.debian.org/debian}"
}

apt_options=()
set_apt_options() {
    apt_options=(
        -o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt/cache"
        -o Dir::Etc::SourceList="$cache/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Debug::NoLocking=1
    )
    # The sandbox's user may not write into a home.
    ((EUID != 0)) || apt_options+=(-o APT::Sandbox::User=root)
}

update_lists() {
    local release at
    release=$(host_release) || { cannot "this is not a Debian: its packages are unpacked"; return 1; }
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/cache/archives/partial"
    at=$(mirror)
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    # QEMU's libraries have to fit the machine's C library: only its own release is asked for them.
    printf "deb [signed-by=$key] $at %s main\n" "$release" "$release-backports" >"$cache/apt/own.list"
    printf '%s\n' "$release" "$release-backports" "${kernel_suites[@]}" | sort -u |
        sed "s|.*|deb [signed-by=$key] $at & main|" >"$cache/apt/sources.list"
    set_apt_options
    timeout 300 apt-get "${apt_options[@]}" -qq --error-on=any update >"$scratch/apt" 2>&1 ||
        { cannot "no package lists from $at: $(grep -m 1 -E '^(E|W):' "$scratch/apt" || tail -n 1 "$scratch/apt")"; return 1; }
}

# Package names with versions or releases behind them, into a fresh folder $1.
fetch() {
    local folder=$1
    shift
    mkdir -p "$folder"
    (cd "$folder" && timeout 600 apt-get "${apt_options[@]}" -qq download "$@") >"$scratch/apt" 2>&1 ||
        { cannot "cannot download $*: $(grep -m 1 '^E:' "$scratch/apt" || tail -n 1 "$scratch/apt")"; return 1; }
}

unpack() {
    local package
    for package in "$1"/*.deb; do
        dpkg-deb -x "$package" "$2" || { cannot "$package cannot be unpacked"; return 1; }
    done
    rm -rf "$1"
}

# QEMU from backports, and what it needs that this machine does not have.
get_qemu() {
    local release wanted package
    release=$(host_release)
    local apt_options=("${apt_options[@]}" -o Dir::Etc::SourceList="$cache/apt/own.list")
    wanted=$(apt-get "${apt_options[@]}" -qq --print-uris install --no-install-recommends -t "$release-backports" qemu-system-x86 2>"$scratch/apt" |
        awk '{ print $2 }' | sed -E 's/^([^_]+)_([^_]+)_.*/\1=\2/; s/%3a/:/g') || true
    # Newer versions of what is installed are not wanted: a C library other than the loader's own does not even start.
    wanted=$(for package in $wanted; do
        dpkg-query -W -f '${Status}' "${package%%=*}" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done)
    # A machine that has QEMU installed needs nothing, but it may be an old one: take the main parts all the same.
    for package in qemu-system-x86 qemu-system-data qemu-system-common seabios; do
        grep -q "^$package=" <<<"$wanted" || wanted+=" $package/$release-backports"
    done
    [[ -n $wanted ]] || { cannot "apt finds no QEMU: $(head -n 1 "$scratch/apt")"; return 1; }
    # shellcheck disable=SC2086 # a list of words
    fetch "$scratch/debs" $wanted "$busybox_package/$release" && unpack "$scratch/debs" "$scratch/qemu" || return 1
    rm -rf "$cache/qemu"
    mkdir -p "$cache/qemu/usr"
    mv "$scratch/qemu/usr/bin" "$scratch/qemu/usr/lib" "$scratch/qemu/usr/share" "$cache/qemu/usr/"
    find "$scratch/qemu" -name busybox -type f -exec cp {} "$cache/qemu/busybox" \;
    [[ -x $cache/qemu/usr/bin/qemu-system-x86_64 && -x $cache/qemu/busybox ]] || { cannot "the packages hold no QEMU or busybox"; return 1; }
}

# $1: newest, 6.12 or 6.1; $2: cloud, or full for drivers of real NICs. Prints the kernel's release.
find_kernel() {
    local suffix=amd64 release=trixie-backports
    [[ $2 == full ]] || suffix=cloud-amd64
    case $1 in
        6.1) release=bookworm ;;
        6.12) release=trixie ;;
    esac
    apt-cache "${apt_options[@]}" show "linux-image-$suffix" 2>/dev/null |
        awk -v suite="$release" '
            /^Version:/ { version = $2 }
            /^Depends:/ && match($0, /linux-image-[0-9][^ ,]*/) {
                name = substr($0, RSTART + 12, RLENGTH - 12)
                newest = version ~ /~bpo13/
                if ((suite == "trixie-backports" && newest) || (suite == "trixie" && version ~ /^6\.12/ && version !~ /~bpo/) || (suite == "bookworm" && version ~ /^6\.1\./)) { print name; exit }
            }'
}

# A kernel and the modules of $3.., in their order, into $cache/kernel-$1-$2.
get_kernel() {
    local name=$1 kind=$2 release folder module file index=0
    shift 2
    release=$(find_kernel "$name" "$kind")
    [[ -n $release ]] || { cannot "the package lists name no $name kernel ($kind)"; return 1; }
    folder=$cache/kernel-$name-$kind
    if [[ -f $folder/release && $(<"$folder/release") == "$release $*" ]]; then
        return
    fi
    rm -rf "$scratch/kernel" "$scratch/new"
    # Since 7.1 image and modules are packages of their own.
    fetch "$scratch/debs" "linux-binary-$release" "linux-modules-$release" || fetch "$scratch/debs" "linux-binary-$release" ||
        fetch "$scratch/debs" "linux-image-$release" || return 1
    unpack "$scratch/debs" "$scratch/kernel" || return 1
    mkdir -p "$scratch/new/modules"
    find "$scratch/kernel" \( -name vmlinuz -o -name "vmlinuz-$release" \) -type f -exec cp {} "$scratch/new/vmlinuz" \;
    [[ -f $scratch/new/vmlinuz ]] || { cannot "the packages of $release hold no kernel"; return 1; }
    for module in "$@"; do
        file=$(find "$scratch/kernel" -name "$module.ko*" | head -n 1)
        # Built in, in some kernels.
        [[ -n $file ]] || continue
        index=$((index + 1))
        case $file in
            *.xz) xz -dc "$file" ;;
            *.zst) zstd -dcq "$file" ;;
            *) cat "$file" ;;
        esac >"$scratch/new/modules/$(printf '%02d' "$index")-$module.ko"
    done
    echo "$release $*" >"$scratch/new/release"
    rm -rf "$folder"
    mv "$scratch/new" "$folder"
    rm -rf "$scratch/kernel"
}

# Everything for a run with the kernels "NAME:KIND:MODULE,MODULE..": looks at the mirror once a day.
get_packages() {
    local kernel name kind modules missing=0 fresh=0
    [[ -n $(find "$cache/looked" -mmin -1440 2>/dev/null) ]] && fresh=1
    [[ -x $cache/qemu/usr/bin/qemu-system-x86_64 ]] || missing=1
    for kernel in "$@"; do
        IFS=: read -r name kind modules <<<"$kernel"
        [[ -f $cache/kernel-$name-$kind/release ]] || missing=1
    done
    ((missing == 1 || fresh == 0)) || return 0
    if update_lists && { [[ -x $cache/qemu/usr/bin/qemu-system-x86_64 ]] || get_qemu; }; then
        local all=1
        for kernel in "$@"; do
            IFS=: read -r name kind modules <<<"$kernel"
            # shellcheck disable=SC2086 # a list of words
            get_kernel "$name" "$kind" ${modules//,/ } || { all=0; break; }
        done
        if ((all == 1)); then
            touch "$cache/looked"
            return 0
        fi
    fi
    ((missing == 0)) || return 1
    echo "note: $(<"$scratch/reason"); going on with what was fetched before"
}
