//! The firmware: boots anywhere on 64-bit Arm with a GICv3, runs the plan it was given, records every IPI.
//!
//! `boot.s` enters at EL1..EL3 and turns the MMU on; `boot_main` in `target` is bring-up as a list of steps. On a host this is
//! a stub, so that the workspace builds without a bare-metal target.
//!
//! | module | what it is |
//! |---|---|
//! | `boot.s`, `vectors.s` | entry and exception vectors |
//! | `arch` | what only assembly can say |
//! | `machine`, `fdt` | what the machine is, which of its memory is free, and the tree that says so |
//! | `memory` | page tables, work memory |
//! | `gic`, `psci`, `console` | set-up of what the tree named |
//! | `region` | the memory that the host reads |
//! | `percore` | what each core owns and all share |
//! | `sgi`, `ipi` | the measured path |
//! | `calls`, `kinds`, `callbacks`, `unwind` | the call layer: call single queues, the eight IPI kinds, frames |
//! | `wait`, `interpreter` | barriers, turns, postures; the plan's operations |
//! | `sweep` | messages at a chosen distance from a receiver's transition |
//! | `watch` | heartbeats and gaps: when the core was away |
//! | `clock` | the counter and its self-test |
//! | `exception`, `log` | faults and panics; defmt |
//! | `options`, `serial` | boot arguments; results over the console after the run |
//! | `twins` | fault twins |
//! | `watchdog` | those that a boot loader left running |
#![cfg_attr(target_os = "none", no_std, no_main)]
// On a host only what knows no hardware is built, for its tests.
#![cfg_attr(test, allow(dead_code, reason = "what uses it knows hardware"))]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod callbacks;
#[cfg(target_os = "none")]
mod calls;
#[cfg(target_os = "none")]
mod clock;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod exception;
#[cfg(any(test, target_os = "none"))]
mod fdt;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod interpreter;
#[cfg(target_os = "none")]
mod ipi;
#[cfg(target_os = "none")]
mod kinds;
#[cfg(target_os = "none")]
mod log;
#[cfg(any(test, target_os = "none"))]
mod machine;
#[cfg(target_os = "none")]
mod memory;
#[cfg(any(test, target_os = "none"))]
mod options;
#[cfg(target_os = "none")]
mod percore;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod region;
#[cfg(any(test, target_os = "none"))]
mod serial;
#[cfg(target_os = "none")]
mod sgi;
#[cfg(target_os = "none")]
mod sweep;
#[cfg(target_os = "none")]
mod target;
#[cfg(target_os = "none")]
mod twins;
#[cfg(target_os = "none")]
mod unwind;
#[cfg(target_os = "none")]
mod wait;
#[cfg(target_os = "none")]
mod watch;
#[cfg(target_os = "none")]
mod watchdog;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the firmware runs on bare metal; on this machine run `cargo run --release -p host -- qemu`");
    std::process::exit(3);
}
