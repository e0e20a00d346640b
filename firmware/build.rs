//! Link arguments of the image, and its build id.
//!
//! They are given here and nowhere else: rustflags of a configuration file and of the environment would be replaced or
//! doubled by one another.

use std::env;
use std::path::Path;

fn main() {
    let manifest = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&manifest).join("../linker/firmware.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=../trace-ring/src");
    println!("cargo::rustc-env=IPISCOPE_BUILD_ID={:016x}", build_id(Path::new(&manifest)));
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
        println!("cargo::rustc-link-arg-bins=-Tdefmt.x");
        println!("cargo::rustc-link-arg-bins=--no-dynamic-linker");
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}

/// FNV-1a over the sources that make the image, so that a region, an image and an ELF can be told to belong together.
fn build_id(manifest: &Path) -> u64 {
    let mut files = Vec::new();
    for folder in ["src", "../trace-ring/src", "../linker"] {
        collect(&manifest.join(folder), &mut files);
    }
    files.sort();
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for file in files {
        for byte in std::fs::read(file).unwrap_or_default() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
    }
    hash
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
