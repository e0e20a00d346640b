//! Frames: who called whom, by the chain of frame records (AAPCS64, 6.4.6: x29 points to the caller's x29 and x30).
//!
//! The firmware is built with frame pointers in every function that calls, and the call layer's vector writes a record of the
//! interrupted code, so a chain leads from a handler through the interrupt into the thread.
// UNSAFETY: frame records are read through the pointers found in them, inside this core's own stacks only.
#![expect(unsafe_code)]

use crate::arch;
use crate::memory;

/// Frames that a send records (plan flag `BACKTRACE`).
pub const SENDER_FRAMES: u8 = 8;
/// Frames that IPI backtrace records.
pub const TARGET_FRAMES: u8 = 16;

/// Hands on the return addresses from the frame record at `pointer` outwards, until `tell` says `false` or the chain ends.
///
/// A damaged chain ends: every record must lie on this core's stacks, above the one before it, or on the other stack.
pub fn walk(mut pointer: u64, mut tell: impl FnMut(u64) -> bool) {
    let stacks = memory::stacks_around(arch::stack_pointer());
    let stack_of = |pointer: u64| stacks.iter().position(|(low, high)| pointer >= *low && pointer + 16 <= *high);
    let Some(mut stack) = stack_of(pointer) else { return };
    let mut crossed = false;
    loop {
        if !pointer.is_multiple_of(8) {
            return;
        }
        // SAFETY: both words lie inside a mapped stack of this core.
        let [next, address] = unsafe { core::ptr::read_volatile(pointer as *const [u64; 2]) };
        if address == 0 || !tell(address) {
            return;
        }
        let Some(found) = stack_of(next) else { return };
        if found != stack {
            // From the handler's stack to the thread's, once.
            if core::mem::replace(&mut crossed, true) {
                return;
            }
            stack = found;
        } else if next <= pointer {
            return;
        }
        pointer = next;
    }
}
