//! Exceptions and panics: each leaves a fault entry with registers, a line on the console, and ends the run for all.
// UNSAFETY: the fault entry is written through a raw pointer, and the saved registers are read from the exception stack.
#![expect(unsafe_code)]

use core::fmt::Write;
use core::panic::PanicInfo;

use trace_ring::layout::{Context, abort_reason, core_state, fault_kind, run_state};
use trace_ring::record::{Event, Kind, PEER_ALL};

use crate::arch::{self, read_register};
use crate::console::line;
use crate::percore::{Core, Shared};
use crate::{clock, ipi, serial};

core::arch::global_asm!(include_str!("vectors.s"), options(raw));

/// x0..x30 as `fault_common` saved them.
#[repr(C)]
struct Saved([u64; 31]);

/// Text cut to a fault entry's room.
struct Text {
    bytes: [u8; 200],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// A fault entered through a vector. `kind`: [`fault_kind`].
#[unsafe(no_mangle)]
extern "C" fn fault_main(kind: u64, saved: &Saved) -> ! {
    let (esr, elr, far) = (read_register!("esr_el1"), read_register!("elr_el1"), read_register!("far_el1"));
    if let Some(core) = Core::try_this() {
        // SAFETY: this core's own fault entry; `kind` is written last, so a reader that sees it sees the rest.
        unsafe {
            let entry = core.fault;
            core::ptr::addr_of_mut!((*entry).kind).write_volatile(fault_kind::NONE); // a crash stop's registers, perhaps
            arch::publish_stores();
            (*entry).esr = esr;
            (*entry).elr = elr;
            (*entry).far = far;
            (*entry).spsr = read_register!("spsr_el1");
            (*entry).sp = read_register!("sp_el0");
            (*entry).t = arch::counter();
            (*entry).x = saved.0;
            arch::publish_stores();
            core::ptr::addr_of_mut!((*entry).kind).write_volatile(kind as u32);
        }
    }
    line!("ipiscope FAULT core={} kind={kind} esr={esr:#x} elr={elr:#x} far={far:#x}", core_id());
    take_down(esr)
}

fn core_id() -> i64 {
    Core::try_this().map_or(-1, |core| core.id as i64)
}

/// Ends the run for all cores, and this one for good.
fn take_down(esr: u64) -> ! {
    if let (Some(core), Some(shared)) = (Core::try_this(), Shared::try_get()) {
        core.lane(Context::Fault).append_bounded(Event {
            t: crate::twins::now(core),
            kind: Kind::Fault,
            flags: 0,
            peer: PEER_ALL,
            msg: 0,
            intid: 0xFF,
            extra: 0,
            arg: esr,
        });
        shared.stop(abort_reason::FAULT, core.id as u32);
        // SAFETY: this core's own entry, and the status line, which the boot core alone would write.
        unsafe {
            core::ptr::addr_of_mut!((*core.entry).state).write_volatile(core_state::FAULTED);
            if core.id as usize == shared.boot_core {
                core::ptr::addr_of_mut!((*shared.status).state).write_volatile(run_state::ABORTED);
            }
        }
        arch::synchronize();
        ipi::wake_all();
        if core.id as usize == shared.boot_core {
            // The others leave at their next operation; what they write until then is sent, too.
            let patience = arch::counter() + clock::ticks(2_000_000);
            while arch::counter() < patience {
                arch::yield_now();
            }
            serial::serve();
        }
    }
    Core::retire()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    arch::mask_interrupts();
    refuse(fault_kind::PANIC, format_args!("{info}"))
}

/// The text of the newest fault, for a debugger's eye where there is neither a console nor a region yet. Its symbol is in the
/// ELF.
#[unsafe(no_mangle)]
static IPISCOPE_LAST_WORDS: LastWords = LastWords(core::cell::UnsafeCell::new([0; 200]));

struct LastWords(core::cell::UnsafeCell<[u8; 200]>);

// SAFETY: written by cores that stop afterwards; a mixture of two texts is the worst that can happen.
unsafe impl Sync for LastWords {}

/// What the interrupted code was: its program counter, PSTATE and stack pointer.
#[derive(Clone, Copy, Default)]
struct Interrupted {
    elr: u64,
    spsr: u64,
    sp: u64,
}

/// Leaves `message` in the fault entry (if there is one yet) and on the console, and takes the run down.
pub fn refuse(kind: u32, message: core::fmt::Arguments<'_>) -> ! {
    leave(kind, Interrupted::default(), message)
}

/// An interrupt that nobody handles ends the run as an FIQ does: who sent it is unknown, and so is what it does to latencies. One
/// that is level-triggered would come again for ever. In its handler, whose registers are gone but for these.
pub fn unhandled(intid: u64) -> ! {
    let class = match intid {
        0..16 => "SGI",
        16..32 => "PPI",
        32..1020 => "SPI",
        1056..1120 => "extended PPI",
        4096..5120 => "extended SPI",
        _ => "reserved",
    };
    let interrupted =
        Interrupted { elr: read_register!("elr_el1"), spsr: read_register!("spsr_el1"), sp: read_register!("sp_el0") };
    leave(fault_kind::UNHANDLED, interrupted, format_args!("INTID {intid} ({class})"))
}

fn leave(kind: u32, interrupted: Interrupted, message: core::fmt::Arguments<'_>) -> ! {
    line!("ipiscope FAULT core={} kind={kind} {message}", core_id());
    let mut text = Text { bytes: [0; 200], length: 0 };
    let _ = text.write_fmt(message);
    // SAFETY: this core stops here.
    unsafe { *IPISCOPE_LAST_WORDS.0.get() = text.bytes };
    if let Some(core) = Core::try_this() {
        // SAFETY: as in `fault_main`.
        unsafe {
            let entry = core.fault;
            (*entry).message = text.bytes;
            (*entry).message_len = text.length as u32;
            (*entry).t = arch::counter();
            (*entry).elr = interrupted.elr;
            (*entry).spsr = interrupted.spsr;
            (*entry).sp = interrupted.sp;
            arch::publish_stores();
            core::ptr::addr_of_mut!((*entry).kind).write_volatile(kind);
        }
    }
    take_down(0)
}
