//! A debug probe that is a program: an Arm debug port, register by register, over a machine that runs in QEMU.
//!
//! Debuggers reach it through the unmodified `probe-rs` 0.32.0, as they reach hardware: in process, or over a socket by
//! the wire protocol of its Glasgow driver. So the kit's probe source is tested end to end without a board. What such a
//! test does not show: caches, memory ordering and any latency, for QEMU has none of the first two and its own of the
//! third.
//!
//! | module | what it is |
//! |---|---|
//! | [`layout`] | where access ports, RAM and debug components are; the ROM table |
//! | [`port`] | the debug port and its two memory access ports |
//! | [`debug`] | external debug registers, instruction transfer, cross triggers |
//! | [`machine`] | what is debugged: an array of bytes, or QEMU |
//! | [`knobs`] | what can be made to go wrong |
//! | [`stats`] | what is counted |
//! | [`front`] | how debuggers reach the port: in process, or by socket |
//! | [`serve`] | machine, port and socket put together and kept alive |

pub mod debug;
pub mod front;
pub mod knobs;
pub mod layout;
pub mod machine;
pub mod port;
mod region;
pub mod serve;
pub mod stats;
