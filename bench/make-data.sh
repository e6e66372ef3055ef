#!/bin/bash
# Makes the benchmark data:
#
#   bench/make-data.sh [DIR]        default: /tmp/bench-data; needs 8 GB there, 15 GB while it works
#
# DIR/tree    ~120,000 small real files, 1.5 GB        v2: 1.5 % edited, 0.4 % removed, 0.4 % added, a directory moved
# DIR/pgdata  stopped PostgreSQL 15 cluster, 1.1 GB    v2: after 6,000 pgbench transactions and ~900 jsonb updates
# DIR/vm      raw ext4 image, 2 GiB                    v2: 1,001 extents, 61.6 MiB, rewritten
# DIR/stream  pg_dump -Fc -Z0 of both states of pgdata, v1.dump and v2.dump
# DIR/rand    512 MiB of random bytes
#
# tree, pgdata and vm are live copies in the state v1; DIR/delta/NAME leads to v2 and back (state.py). All content
# comes from packages of the Debian release this machine runs, downloaded and unpacked, never installed, and from fixed
# seeds. What is there already is kept, so an interrupted run can be repeated; delete DIR/NAME and DIR/delta/NAME to
# make NAME anew. Needs root (owners, PostgreSQL's user), PostgreSQL 15 (package postgresql), e2fsprogs, Python 3.11.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
source "$here/pg.sh"
umask 022

data=${1:-/tmp/bench-data}
mkdir -p "$data/delta"
data=$(realpath "$data")
work=$data/work
trap 'rm -rf "$work"' EXIT

say() { echo "$(date +%T) $*" >&2; }

# Downloads packages and unpacks them below a directory.
unpack() {
    local to=$1 deb
    shift
    rm -rf "$work/deb"
    mkdir -p "$to" "$work/deb"
    (cd "$work/deb" && apt-get -qq -o APT::Sandbox::User=root download "$@")
    # By name, so that files which two packages share come from the same one each time.
    for deb in "$work"/deb/*.deb; do dpkg-deb -x "$deb" "$to"; done
    rm -r "$work/deb"
}

# Puts a finished set in place; a half-made one never has its final name.
finish() {
    sync
    mv "$work/$1" "$data/$1"
}

make_tree() {
    local tree=$work/tree
    # Packages of documentation, man pages, locales, python and web assets.
    unpack "$tree/share" adwaita-icon-theme oxygen-icon-theme gnome-icon-theme freeciv-data libreoffice-help-common \
        octave-doc libjs-mathjax python3-django python3-babel python-babel-localedata nodejs-doc git-doc perl-doc \
        locales tzdata manpages manpages-dev manpages-de manpages-es manpages-fr manpages-ja manpages-pl manpages-ru
    unpack "$work/kernel" linux-source-6.1
    tar -xJf "$work"/kernel/usr/src/linux-source-6.1.tar.xz -C "$tree"
    mv "$tree/linux-source-6.1" "$tree/linux"
    finish tree
}

make_tree_delta() {
    cp -a "$data/tree" "$work/tree"
    python3 "$here/content.py" edit-tree "$work/tree"
    python3 "$here/state.py" diff "$data/tree" "$work/tree" "$data/delta/tree" linux/drivers/staging linux/drivers/retired
}

make_pgdata() {
    local cluster=$work/pgdata
    mkdir "$cluster"
    [ "$(id -u)" != 0 ] || chown postgres: "$cluster"
    pg_socket=$work pg_run initdb -D "$cluster" -U postgres -E UTF8 --locale=C --auth=trust >/dev/null
    # As a server whose log is reused often: less of it lies in the cluster than the default of 1 GB.
    echo 'max_wal_size = 192MB' >>"$cluster/postgresql.conf"
    pg_start "$cluster"

    pg_run createdb bench
    pg_run pgbench -i -q -s 50 bench 2>/dev/null
    pg_run psql -qX bench -c 'CREATE TABLE documents (id int PRIMARY KEY, title text, body text, attrs jsonb)'
    python3 "$here/content.py" documents "$data/tree" 85000 |
        pg_run psql -qX bench -c 'COPY documents FROM STDIN (FORMAT csv)'
    pg_run psql -qX bench -c 'CREATE INDEX ON documents USING gin (attrs)' -c 'VACUUM FREEZE ANALYZE' -c CHECKPOINT
    pg_stop "$cluster"
    finish pgdata
}

make_pgdata_delta() {
    cp -a "$data/pgdata" "$work/pgdata"
    "$here/mutate.sh" pgdata "$work/pgdata" 1
    python3 "$here/state.py" diff "$data/pgdata" "$work/pgdata" "$data/delta/pgdata"
}

make_stream() {
    local state
    mkdir "$work/stream"
    # From a copy: a server that only starts and stops changes its files already.
    cp -a "$data/pgdata" "$work/pgdata"
    for state in v1 v2; do
        python3 "$here/state.py" apply "$data/pgdata" "$data/delta/pgdata" $state
        rm -r "$work/pgdata"
        cp -a "$data/pgdata" "$work/pgdata"
        pg_start "$work/pgdata"
        pg_run pg_dump -Fc -Z0 bench >"$work/stream/$state.dump"
        pg_stop "$work/pgdata"
    done
    python3 "$here/state.py" apply "$data/pgdata" "$data/delta/pgdata" v1
    finish stream
}

make_vm() {
    # What a machine with a desktop and developers on it holds.
    unpack "$work/root" "$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p')" libreoffice-core libllvm15 \
        firefox-esr openjdk-17-jre-headless gcc-12 postgresql-15 libstd-rust-dev mariadb-server-core \
        gimp-data fonts-noto-core python3-scipy
    mkdir "$work/vm"
    # Fixed identifiers, and times from the environment, where mke2fs would draw them.
    SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F -t ext4 -d "$work/root" \
        -U 6a3f0f52-5e1c-4c7e-9d0b-1f2e3d4c5b6a -E hash_seed=6a3f0f52-5e1c-4c7e-9d0b-1f2e3d4c5b6b,root_owner=0:0 \
        "$work/sparse.img" 2048M
    # Fully allocated: holes would help whoever looks for them, and an image in use has few.
    cp --sparse=never "$work/sparse.img" "$work/vm/disk.img"
    finish vm
}

# What the image's rewrites are made of: programs first, then as much of compressed media.
make_donor() {
    unpack "$work/programs" chromium thunderbird
    unpack "$work/media" gnome-backgrounds openclipart-png sonic-pi-samples texlive-latex-base-doc
    for half in programs media; do
        # head closes the pipe early, which is no failure here.
        (find "$work/$half" -type f -size +15k -print0 | sort -z | xargs -0 cat || true) 2>/dev/null |
            head -c 280M >>"$work/donor.bin"
    done
    finish donor.bin
}

make_vm_delta() {
    cp -a "$data/vm" "$work/vm"
    "$here/mutate.sh" vm "$work/vm" 1 "$data/donor.bin"
    python3 "$here/state.py" diff "$data/vm" "$work/vm" "$data/delta/vm"
}

make_rand() {
    mkdir "$work/rand"
    python3 "$here/content.py" random "$work/rand/random.bin" 512
    finish rand
}

# What is made, in order, and by which function.
for step in tree:make_tree delta/tree:make_tree_delta pgdata:make_pgdata delta/pgdata:make_pgdata_delta \
    stream:make_stream vm:make_vm donor.bin:make_donor delta/vm:make_vm_delta rand:make_rand; do
    [ ! -e "$data/${step%%:*}" ] || continue
    say "making ${step%%:*}"
    rm -rf "$work"
    mkdir -p "$work"
    "${step##*:}"
done

say "done"
for name in tree pgdata vm stream rand; do
    echo "$name: $(find "$data/$name" -type f | wc -l) files, $(($(find "$data/$name" -type f -printf '%s+')0 >> 20)) MiB"
done
