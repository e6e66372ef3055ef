#!/usr/bin/env bash
# Checks and tests everything: formatting, lints, and every test of the workspace.
#
# Needs Rust (the `rust-version` of Cargo.toml or newer) and a C compiler. On a Debian
# machine, as root, the few programs that some tests trace or compare with are installed if they are
# missing; elsewhere those tests say that they were skipped.
set -euo pipefail
cd "$(dirname "$0")"

# strace: the tests that read the order of a sink's system calls. diff, git: comparing trees.
packages=()
command -v strace >/dev/null || packages+=(strace)
command -v diff >/dev/null || packages+=(diffutils)
command -v git >/dev/null || packages+=(git)
if [ "${#packages[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || true
    apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null ||
        echo "note: could not install ${packages[*]}; the tests that need them are skipped"
fi

# A minimal toolchain has neither of these two; the tests themselves need neither.
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

cargo test --workspace --locked </dev/null
