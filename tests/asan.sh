#!/usr/bin/env bash
# Runs what touches raw memory under AddressSanitizer: the rings, the firmware's parts that run on the host, and the host's readers of
# regions, dumps and captures. Needs the stable toolchain alone: the sanitizer's runtime comes with its library.
set -euo pipefail
cd "$(dirname "$0")/.."
# A folder of its own: the flags differ from those of all other builds.
target=${CARGO_TARGET_DIR:-$PWD/target}/asan
host=$(rustc --version --verbose | sed -n 's/^host: //p')
# A compiler of stable takes -Z flags with this. The target is named, so that build scripts are built without them.
# Tests that need a 'static slice leak one: leaks are not looked for.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1
export CARGO_INCREMENTAL=0 PROPTEST_CASES=${PROPTEST_CASES:-32}
run() { cargo test --locked --target "$host" --target-dir "$target" "$@"; }
run -p trace-ring --lib --tests
run -p firmware
run -p host --lib -- drain:: memory:: sparse:: qemu:: capture:: serial:: adopt::
