//! Linux ftrace of IPIs, as text or `trace.dat`, read into one stream of events.
//!
//! Knows how kernels write these events down, and nothing of what they mean together: who answered whom is the host's to say
//! (`host::correlate`). Readers give [`Event`]s one at a time, in the order of the file, with names as numbers of one [`Names`]
//! table, so that a trace larger than memory is read in bounded memory. What cannot be read is counted by kind and place, never
//! skipped silently, and nothing in a file makes a reader panic.

// No input makes the host panic. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

pub mod dat;
pub mod event;
pub mod input;
pub mod marks;
pub mod mask;
pub mod names;
pub mod text;
mod words;

pub use event::{Clock, Event, Place, Tally, What};
pub use mask::Mask;
pub use names::{Name, Names, Texts};
