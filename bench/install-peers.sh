#!/bin/bash
# Installs the peers the benchmarks compare with, in fixed versions, below one directory:
#
#   bench/install-peers.sh [DIR]        default: /tmp/bench-peers; programs end up in DIR/bin
#
# Everything comes from the package managers as this machine has them configured. Nothing outside DIR is touched.
set -euo pipefail

restic=0.19.1   # Debian's sid suite; stable suites have older ones
borg=1.4.5      # PyPI
rustic=0.11.4   # crates.io, built with its own release profile

dir=${1:-/tmp/bench-peers}
mkdir -p "$dir/bin"
dir=$(realpath "$dir")

# prints what the program says of its version, nothing if it is not there
version_of() { "$dir/bin/$1" "${2:---version}" 2>/dev/null | head -1 || true; }

install_restic() {
    # A private apt state, so that the machine's own package lists never learn of sid.
    local apt=$dir/apt mirror
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/deb"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -1)
    [ -n "$mirror" ] || { echo "no Debian mirror in the apt configuration (run apt-get update first)" >&2; return 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/sources.list"
    local options=(
        -q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none
    )
    apt-get "${options[@]}" update
    (cd "$apt/deb" && apt-get "${options[@]}" download "restic=$restic*")
    dpkg-deb -x "$apt"/deb/restic_*.deb "$apt/restic"
    install -m 0755 "$apt/restic/usr/bin/restic" "$dir/bin/restic"
    rm -r "$apt"
}

install_borg() {
    # PyPI has no built package for Linux. The headers it is built with are unpacked beside it, not installed;
    # at run time borg uses the machine's own libraries, which apt itself needs and so are there.
    local libs=$dir/borg-libs
    mkdir -p "$libs"
    (cd "$libs" && apt-get -q download libssl-dev libssl3 libacl1-dev libacl1 liblz4-dev liblz4-1 \
        libzstd-dev libzstd1 libxxhash-dev libxxhash0)
    for deb in "$libs"/*.deb; do dpkg-deb -x "$deb" "$libs"; done
    python3 -m venv "$dir/borg-venv"
    PKG_CONFIG_SYSROOT_DIR=$libs PKG_CONFIG_PATH=$libs/usr/lib/$(gcc -print-multiarch)/pkgconfig \
        CPATH=$libs/usr/include LIBRARY_PATH=$libs/usr/lib/$(gcc -print-multiarch) \
        "$dir/borg-venv/bin/pip" install --quiet "borgbackup==$borg"
    rm -r "$libs"
    ln -sf "$dir/borg-venv/bin/borg" "$dir/bin/borg"
}

install_rustic() {
    # A folder of its own for the build: the machine may be building other things.
    CARGO_TARGET_DIR=$dir/rustic-build nice -n 19 \
        cargo install rustic-rs --version "$rustic" --locked --no-default-features --root "$dir"
    rm -r "$dir/rustic-build"
}

[[ $(version_of restic version) == "restic $restic "* ]] || install_restic
[[ $(version_of borg) == "borg $borg" ]] || install_borg
[[ $(version_of rustic) == *"$rustic"* ]] || install_rustic

version_of restic version
version_of borg
version_of rustic
