//! The memory that firmware and host share: its layout, both ends of the ring, histograms, and the words of a plan.
//!
//! The firmware writes a *region* into RAM and never reads what the host wrote (but for one word, `request`). The host
//! reads it at any time by plain memory reads, through a [`reader::RegionSource`], without stopping anything.
//!
//! | module | what it holds |
//! |---|---|
//! | [`layout`] | the region byte by byte: directory, cores, heads, lanes, slots, faults |
//! | [`record`] | the 32-byte record and its kinds |
//! | [`writer`] | the target's end of a lane: never waits, never locks, never reads host memory |
//! | [`reader`] | the host's end: lapped and torn records found, `written = accepted + lost` always |
//! | [`histogram`] | log-linear buckets, the same arithmetic on both ends |
//! | [`mailbox`] | the word that carries a sender's time and number, which a GICv3 SGI does not |
//! | [`calls`] | IPI kinds as Linux numbers them, call descriptors, the call single queue, what each core does now |
//! | [`mod@line`] | pieces of the region as printable, checksummed lines for a console |
//! | [`plan`] | the program that the host compiles and the firmware interprets |
//!
//! Everything is little-endian and built of fixed-width fields; sizes and offsets are asserted at compile time. A change
//! of layout bumps [`layout::ABI_VERSION`] in the same commit.

// Neither a region nor a plan makes its reader panic, and the writer runs in handlers. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]
#![no_std]

#[cfg(any(test, not(target_os = "none")))]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!("the shared layout is little-endian; so are all machines that this kit runs on");

pub mod calls;
pub mod histogram;
pub mod layout;
pub mod line;
pub mod mailbox;
pub mod plan;
pub mod reader;
pub mod record;
pub mod sync;
pub mod writer;
