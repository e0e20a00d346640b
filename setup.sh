#!/usr/bin/env bash
# setup.sh: install what ipiscope needs and this machine lacks, with package managers only. Safe to run twice.
#
# Three things are needed: a Rust toolchain for the host tool, a way to build for aarch64-unknown-none-softfloat,
# and qemu-system-aarch64. The tests also boot under a real U-Boot (Debian: u-boot-qemu). The second has two sources,
# tried in this order:
#   1. rustup: the target is there, or `rustup target add` gets it (never where RUSTUP_AUTO_INSTALL=0 forbids downloads);
#   2. a distribution compiler with its own standard-library sources (Debian: rustc-web and rust-web-src, elsewhere
#      rustc and rust-src), from which the firmware step builds `core`.
# `cargo run -p host -- doctor` says afterwards what is still missing.
set -euo pipefail
cd "$(dirname "$0")"

target=aarch64-unknown-none-softfloat
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo; then sudo "$@"
    else die "needs root for: $*; run it as root, then run ./setup.sh again"
    fi
}

apt_updated=
apt_update() {
    [ -n "$apt_updated" ] || as_root apt-get update -qq -o Acquire::Retries=3
    apt_updated=yes
}
apt_install() {
    apt_update
    say "installing: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Acquire::Retries=3 "$@" >/dev/null
}
apt_has() { apt-cache show "$1" >/dev/null 2>&1; }

# --- a Rust toolchain for the host ---------------------------------------------------------------------------------
if ! have cargo; then
    have apt-get || die "no cargo here: install Rust with rustup or your distribution's packages, then run ./setup.sh again"
    apt_update
    # Debian bookworm's `cargo` is too old; its `cargo-web` is current.
    if apt_has cargo-web; then apt_install cargo-web rustc-web; else apt_install cargo rustc; fi
fi
if ! have cc && have apt-get; then apt_install gcc libc6-dev; fi

# --- a way to build the firmware -------------------------------------------------------------------------------------
rustup_target() { have rustup && [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$target/lib" ]; }
# A distribution's compiler in /usr with the sources of the same version, and a linker it can call.
distribution_sources() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] \
        && [ -e "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/core/Cargo.toml" ] \
        && { have rust-lld || have ld.lld || compgen -G '/usr/bin/ld.lld-[0-9]*' >/dev/null; }
}
if rustup_target; then
    say "firmware target: $target of rustup's toolchain"
elif distribution_sources; then
    say "firmware target: core is built from the sources of /usr/bin/rustc"
else
    added=
    if have rustup && [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ]; then
        say "adding $target with rustup"
        rustup target add "$target" && added=yes
    fi
    if [ -z "$added" ]; then
        have apt-get || die "no core library for $target: run 'rustup target add $target', or install your distribution's rustc, cargo, rust-src and lld"
        apt_update
        if apt_has rust-web-src; then
            # lld's package carries LLVM's version: take the one that belongs to the compiler, or the newest there is.
            lld=$(apt-cache depends rust-web-llvm 2>/dev/null | sed -n 's/.*Depends: llvm-\([0-9]*\)$/lld-\1/p' | head -n 1)
            apt_install rustc-web cargo-web rust-web-src "${lld:-lld}"
            apt_install rust-web-clippy rustfmt-web || true
        else
            apt_install rustc cargo rust-src lld
        fi
        distribution_sources || die "the distribution's Rust has no library sources: run 'rustup target add $target' instead"
    fi
fi

# --- QEMU ------------------------------------------------------------------------------------------------------------
qemu_major() { qemu-system-aarch64 --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p;1q'; }
if [ "$(qemu_major || true)" -ge 10 ] 2>/dev/null; then
    say "QEMU: $(qemu-system-aarch64 --version | head -n 1)"
elif have apt-get; then
    apt_update
    codename=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")
    packages=(qemu-system-arm)
    if [ "$codename" = bookworm ]; then
        # imx8mp-evk wants QEMU 10.0, which bookworm has in its backports. The mirror is the one this machine already uses.
        if ! apt-cache policy | grep -q "a=stable-backports\|n=bookworm-backports\|a=oldstable-backports"; then
            # apt prints a closed pipe as an error, so its whole output is taken first.
            targets=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null || true)
            mirror=$(printf '%s\n' "$targets" | awk '$1 == "bookworm" { print $2; exit }')
            if [ -n "$mirror" ]; then
                say "adding the bookworm-backports suite"
                printf 'deb %s bookworm-backports main\n' "$mirror" | as_root tee /etc/apt/sources.list.d/bookworm-backports.list >/dev/null
                apt_updated=
                apt_update
            fi
        fi
        packages=(-t bookworm-backports qemu-system-arm)
    fi
    apt_install "${packages[@]}" || apt_install qemu-system-arm
    say "QEMU: $(qemu-system-aarch64 --version | head -n 1)"
elif ! have qemu-system-aarch64; then
    die "no qemu-system-aarch64: install QEMU 7.2 or newer (10.0 for imx8mp-evk) with your package manager"
fi

# --- U-Boot for QEMU: the tests boot the image under it, as a board does ---------------------------------------------------
if [ -e /usr/lib/u-boot/qemu_arm64/u-boot.bin ]; then
    say "U-Boot for QEMU: installed"
elif ! { have apt-get && apt_install u-boot-qemu; }; then
    say "no U-Boot for QEMU (Debian: u-boot-qemu): the tests that boot under it are skipped"
fi

# --- trace-cmd: the tests hold what is read of trace.dat against what it prints ----------------------------------------------
if have trace-cmd; then
    say "trace-cmd: installed"
elif ! { have apt-get && apt_install trace-cmd; }; then
    say "no trace-cmd: the test that compares with it is skipped"
fi

# --- the fuzzers' engine is C++ -------------------------------------------------------------------------------------------------
if ! have c++ && ! { have apt-get && apt_install g++; }; then
    say "no C++ compiler: the fuzzers (fuzz) can't be built"
fi

# --- what shows the exports: the tests open what was written in KernelShark, on a screen of its own, and decode it with protoc ----
viewers=(kernelshark xvfb xauth x11-utils imagemagick protobuf-compiler)
if have kernelshark && have xvfb-run && have xauth && have xwininfo && have import && have protoc; then
    say "KernelShark, Xvfb, ImageMagick, protoc: installed"
elif ! { have apt-get && apt_install "${viewers[@]}"; }; then
    say "not all of ${viewers[*]} (Debian's names): the tests that show exports are skipped"
fi

# --- chromium: the tests open the HTML page in it, without a screen ---------------------------------------------------------------
if have chromium || have chromium-browser || have google-chrome; then
    say "Chromium: installed"
elif ! { have apt-get && apt_install chromium; }; then
    say "no chromium: the tests of the HTML page in a browser are skipped"
fi

# --- faketime: a clock that jumps while a run goes on ------------------------------------------------------------------------------
if have faketime; then
    say "faketime: installed"
elif ! { have apt-get && apt_install faketime; }; then
    say "no faketime: the test of a clock that jumps is skipped"
fi

# --- tmux: the terminal in which the live view is driven ----------------------------------------------------------------------------
if have tmux; then
    say "tmux: installed"
elif ! { have apt-get && apt_install tmux; }; then
    say "no tmux: the tests of the live view in a terminal are skipped"
fi

say "done; try: cargo run --release -p host -- qemu"
