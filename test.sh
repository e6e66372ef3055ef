#!/usr/bin/env bash
# Checks and tests everything: formatting, lints, what dependencies may be, and every test of the workspace.
#
# Needs Rust (the `rust-version` of Cargo.toml or newer) and a C compiler. On a Debian
# machine, as root, the few programs that some tests trace or compare with are installed if they are
# missing; elsewhere those tests say that they were skipped.
set -euo pipefail
cd "$(dirname "$0")"

# strace: the tests that read the order of system calls, and kill at one. xfsprogs: those of power losses.
# dosfstools, exfatprogs, exfat-fuse, bindfs: file systems without modes and owners. diff, git: comparing trees. age: what opens without these programs. faketime: hosts whose clocks are wrong.
# rclone: remotes of it for tiers, and a WebDAV server.
# openssh-server, openssh-client: a server for tiers reached by SFTP, and keys for it.
packages=()
command -v strace >/dev/null || packages+=(strace)
command -v mkfs.xfs >/dev/null || packages+=(xfsprogs)
command -v mkfs.vfat >/dev/null || packages+=(dosfstools)
command -v mkfs.exfat >/dev/null || packages+=(exfatprogs)
command -v mount.exfat-fuse >/dev/null || packages+=(exfat-fuse)
command -v bindfs >/dev/null || packages+=(bindfs)
command -v diff >/dev/null || packages+=(diffutils)
command -v git >/dev/null || packages+=(git)
command -v age >/dev/null || packages+=(age)
command -v gpg >/dev/null || packages+=(gnupg)
command -v zstd >/dev/null || packages+=(zstd)
command -v setfattr >/dev/null || packages+=(attr)
command -v faketime >/dev/null || packages+=(faketime)
[ -x /usr/sbin/sshd ] || packages+=(openssh-server)
command -v rclone >/dev/null || packages+=(rclone)
command -v ssh-keygen >/dev/null || packages+=(openssh-client)
if [ "${#packages[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || true
    apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null ||
        echo "note: could not install ${packages[*]}; the tests that need them are skipped"
fi

# A minimal toolchain has neither of these two, nor cargo deny; the tests themselves need none of them.
if cargo fmt --version >/dev/null 2>&1; then
    cargo fmt --all -- --check
else
    echo "note: cargo fmt is not installed; formatting is not checked"
fi
if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --workspace --all-targets --locked -- -D warnings
else
    echo "note: cargo clippy is not installed; lints are not checked"
fi

# Advisories need the network, so they are for whoever releases: `cargo deny check`.
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked --offline check bans licenses sources
else
    echo "note: cargo deny is not installed; what dependencies may be is not checked"
fi

cargo test --workspace --locked </dev/null
