//! defmt's global logger: a byte ring for each core, whole frames only, dropped and counted when full. Never on the measured
//! path, never a lock, never a wait.
//!
//! The ring is not overwritten: the first 4 KiB of a core's log are its boot, which is what one wants to read. The host
//! decodes it with the ELF of the same build.
// UNSAFETY: defmt's logger trait is unsafe; the ring is written through a raw pointer.
#![expect(unsafe_code)]

use trace_ring::layout::{LOG_STRIDE, LogHeader};

use crate::arch::{self, read_register};
use crate::percore::Core;

#[defmt::global_logger]
struct Logger;

defmt::timestamp!("{=u64}", arch::counter());

const CAPACITY: usize = LOG_STRIDE as usize - size_of::<LogHeader>();

// SAFETY: frames of one core never interleave: interrupts are masked between `acquire` and `release`, handlers don't log.
// defmt's raw encoding is used: each frame is stored behind its length.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        let daif = read_register!("daif");
        arch::mask_interrupts();
        if let Some(core) = Core::try_this() {
            core.log_daif.set(daif);
            core.log_length.set(2);
        }
    }

    unsafe fn flush() {}

    unsafe fn release() {
        if let Some(core) = Core::try_this() {
            commit(core);
            if core.log_daif.get() & 1 << 7 == 0 {
                arch::unmask_interrupts(); // DAIF.I was clear
            }
        }
    }

    unsafe fn write(bytes: &[u8]) {
        let Some(core) = Core::try_this() else { return };
        let mut frame = core.log_frame.get();
        let mut length = core.log_length.get();
        for byte in bytes {
            if let Some(place) = frame.get_mut(length) {
                *place = *byte;
            }
            length += 1;
        }
        core.log_frame.set(frame);
        core.log_length.set(length);
    }
}

/// Appends the frame to the core's ring: two bytes of length (little-endian), then the frame.
fn commit(core: &Core) {
    let mut frame = core.log_frame.get();
    let length = core.log_length.get();
    // SAFETY: this core's own log, written by it alone.
    unsafe {
        let head = (*core.log).head as usize;
        if length > frame.len() || head + length > CAPACITY {
            (*core.log).dropped += 1;
            return;
        }
        let body = (length - 2) as u16;
        frame[..2].copy_from_slice(&body.to_le_bytes());
        let ring = core.log.cast::<u8>().add(size_of::<LogHeader>());
        core::ptr::copy_nonoverlapping(frame.as_ptr(), ring.add(head), length);
        arch::publish_stores();
        core::ptr::addr_of_mut!((*core.log).head).write_volatile((head + length) as u64);
    }
}
