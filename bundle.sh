#!/usr/bin/env bash
# Makes a release bundle: ./bundle.sh [FOLDER]. All that a lab machine needs to measure, beside QEMU where it has no board: the host
# binary, the firmware image that it finds beside itself, that image's ELF for names, completions, man pages, licences, checksums.
# No Rust is needed where the bundle runs. The same commit and compilers make the same archive, where sources and cargo's crates lie in
# the same folders: the binary's panics name their files.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-target/bundle}
mkdir -p "$out"
out=$(cd "$out" && pwd)

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
machine=$(rustc --version --verbose | sed -n 's/^host: //p')
name=ipiscope-$version-$machine
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
folder=$stage/$name
mkdir -p "$folder/docs"

cargo build --quiet --release --locked -p host
target=${CARGO_TARGET_DIR:-target}
tool=$target/release/ipiscope
# The first line is the image, the second its ELF.
mapfile -t firmware < <("$tool" firmware build)
install -m 755 "$tool" "$folder/ipiscope"
# Debug information is two thirds of the binary, and says where it was built.
if command -v strip >/dev/null; then strip --strip-debug "$folder/ipiscope"; fi
install -m 644 "${firmware[0]}" "$folder/firmware.img"
install -m 644 "${firmware[1]}" "$folder/firmware.elf"
"$tool" generate --out "$folder" >/dev/null 2>&1
install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE-MIT LICENSE-APACHE "$folder"
cp docs/*.md "$folder/docs"
cp -R docs/pictures "$folder/docs"

{
    echo "The binary holds these crates, under these licences:"
    echo
    cargo tree --quiet --locked -p host --edges normal --prefix none --format '{p}|{l}|{r}' |
        sed 's/ (\*)$//; s/ (proc-macro)//; s| (/[^)]*)||' | grep '|' | sort -u |
        awk -F'|' '{ printf "%-40s %s  %s\n", $1, $2, $3 }'
} >"$folder/THIRD-PARTY.txt"

(cd "$folder" && find . -type f ! -name SHA256SUMS -print0 | LC_ALL=C sort -z | xargs -0 sha256sum >SHA256SUMS)
when=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
tar --sort=name --mtime="@$when" --owner=0 --group=0 --numeric-owner --format=gnu -C "$stage" -cf - "$name" | gzip -n -9 >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
echo "$out/$name.tar.gz"
