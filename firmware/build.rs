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
    let files = sources(Path::new(&manifest));
    // Four sums from four starts: 256 bits, as long as the field that carries them.
    let id: String = (0..4).map(|start| format!("{:016x}", sum(&files, start))).collect();
    println!("cargo::rustc-env=IPISCOPE_BUILD_ID={id}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
        println!("cargo::rustc-link-arg-bins=-Tdefmt.x");
        println!("cargo::rustc-link-arg-bins=--no-dynamic-linker");
        println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    }
}

/// The contents of the sources that make the image, so that a region, an image and an ELF can be told to belong together.
fn sources(manifest: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for folder in ["src", "../trace-ring/src", "../linker"] {
        collect(&manifest.join(folder), &mut files);
    }
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap_or_default()).collect()
}

/// FNV-1a.
fn sum(files: &[Vec<u8>], start: u64) -> u64 {
    let bytes = files.iter().flatten();
    bytes.fold(0xCBF2_9CE4_8422_2325 ^ start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
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
