//! Builds this package, and no other, with `cfg(loom)`: `trace-ring/src/sync.rs` then takes its atomics from the model checker.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
