//! The console: a few lines that let a lab judge a run by its serial log alone. Never on the measured path.
//!
//! One START and one END line a boot, one KTAP line a phase, and a line for whatever ends the run early. Polled output with
//! a bound on every wait: a UART that does not drain loses text, not the run. After the run `serial` sends and receives here.
// UNSAFETY: UART registers are reached through raw pointers to a mapped device page.
#![expect(unsafe_code)]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::arch;
use crate::machine::{Uart, UartKind};

static BASE: AtomicU64 = AtomicU64::new(0);
static KIND: AtomicU8 = AtomicU8::new(0);

/// How long a full transmit FIFO is waited for, ns: at the slowest usual speed a character takes a thousandth of it.
const PATIENCE_NS: u64 = 1_000_000_000;

/// The FIFO did not drain for so long: nobody takes what is said (a line whose reader is gone, with flow control). Until it
/// drains again, what does not fit is lost at once.
static STUCK: AtomicBool = AtomicBool::new(false);

/// What the console is, in [`KIND`]. A 16550's step between registers stands above it, and [`WIDE`].
mod kind {
    pub const NONE: u8 = 0;
    pub const PL011: u8 = 1;
    pub const IMX: u8 = 2;
    pub const NS16550: u8 = 3;
    pub const MASK: u8 = 0b11;
    pub const SHIFT_AT: u8 = 2;
    /// Registers are words.
    pub const WIDE: u8 = 1 << 7;
}

/// Makes `uart` the console. Its page is mapped as device memory. Speed and format are the boot loader's business, and stay.
pub fn open(uart: Uart) {
    let base = uart.base;
    let kind = match uart.kind {
        UartKind::Pl011 => {
            // UARTCR (DDI 0183, 3.3.8): UARTEN, TXE, RXE. One that nobody turned on gets its FIFOs and 8 bits, too: UARTLCR_H
            // (3.3.7) may only be written while it is off.
            const ON: u32 = 1 << 9 | 1 << 8 | 1;
            let control = read(base, 0x30);
            if control & 1 == 0 {
                write(base, 0x2C, 0x70);
            }
            if control & ON != ON {
                write(base, 0x30, control | ON);
            }
            kind::PL011
        }
        UartKind::Sbsa => kind::PL011, // DEN0094, appendix on the generic UART: no register to set up
        UartKind::Imx => {
            // UCR1.UARTEN; UCR2.TXEN, RXEN, SRST (i.MX 8M Plus reference manual, UART chapter).
            const ON: u32 = 1 << 2 | 1 << 1 | 1;
            if read(base, 0x80) & 1 == 0 {
                write(base, 0x80, 1);
            }
            let control = read(base, 0x84);
            if control & ON != ON {
                write(base, 0x84, control | ON);
            }
            kind::IMX
        }
        // A 16550 has no switch: it needs a divisor, which only the boot loader knows.
        UartKind::Ns16550 { shift, wide } => {
            kind::NS16550 | shift << kind::SHIFT_AT | if wide { kind::WIDE } else { 0 }
        }
    };
    KIND.store(kind, Ordering::Relaxed);
    BASE.store(base, Ordering::Relaxed);
}

/// Whether there is one.
pub fn is_open() -> bool {
    KIND.load(Ordering::Relaxed) != kind::NONE
}

fn read(base: u64, offset: u64) -> u32 {
    // SAFETY: the page of a UART that the machine description names is mapped as device memory.
    unsafe { core::ptr::read_volatile((base + offset) as *const u32) }
}

fn write(base: u64, offset: u64, value: u32) {
    // SAFETY: as in `read`.
    unsafe { core::ptr::write_volatile((base + offset) as *mut u32, value) }
}

/// Register `index` of a 16550.
fn read_16550(base: u64, kind: u8, index: u64) -> u8 {
    let offset = index << (kind >> kind::SHIFT_AT & 0x7);
    if kind & kind::WIDE != 0 {
        return read(base, offset) as u8;
    }
    // SAFETY: as in `read`; such a UART answers to bytes only.
    unsafe { core::ptr::read_volatile((base + offset) as *const u8) }
}

/// Whether a byte would be taken now.
fn ready_to_send(base: u64, kind: u8) -> bool {
    match kind & kind::MASK {
        kind::PL011 => read(base, 0x18) & 1 << 5 == 0, // UARTFR.TXFF
        kind::IMX => read(base, 0xB4) & 1 << 4 == 0,   // UTS.TXFULL
        _ => read_16550(base, kind, 5) & 1 << 5 != 0,  // LSR.THRE
    }
}

/// Sends one byte, or gives it up after [`PATIENCE`].
pub fn put(byte: u8) {
    let (base, kind) = (BASE.load(Ordering::Relaxed), KIND.load(Ordering::Relaxed));
    if kind == kind::NONE {
        return;
    }
    let patience = if STUCK.load(Ordering::Relaxed) { 0 } else { crate::clock::ticks(PATIENCE_NS) };
    let start = arch::counter();
    loop {
        if ready_to_send(base, kind) {
            STUCK.store(false, Ordering::Relaxed);
            match kind & kind::MASK {
                kind::PL011 => write(base, 0x00, byte.into()), // UARTDR
                kind::IMX => write(base, 0x40, byte.into()),   // UTXD
                _ if kind & kind::WIDE != 0 => write(base, 0, byte.into()),
                // SAFETY: as in `read_16550`; register 0 is THR.
                _ => unsafe { core::ptr::write_volatile(base as *mut u8, byte) },
            }
            return;
        }
        if arch::counter().wrapping_sub(start) >= patience {
            STUCK.store(true, Ordering::Relaxed);
            return;
        }
        arch::yield_now();
    }
}

/// The next byte that came in, if one did. A byte that the UART calls damaged is handed on: whoever reads it has a checksum.
pub fn get() -> Option<u8> {
    let (base, kind) = (BASE.load(Ordering::Relaxed), KIND.load(Ordering::Relaxed));
    match kind & kind::MASK {
        kind::NONE => None,
        kind::PL011 => (read(base, 0x18) & 1 << 4 == 0).then(|| read(base, 0x00) as u8), // UARTFR.RXFE, UARTDR
        kind::IMX => (read(base, 0x98) & 1 != 0).then(|| read(base, 0x00) as u8),        // USR2.RDR, URXD
        _ => (read_16550(base, kind, 5) & 1 != 0).then(|| read_16550(base, kind, 0)),    // LSR.DR, RBR
    }
}

/// The console as a [`Write`]r.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Prints one line. Only one core at a time prints: the boot core, or the one that takes the run down.
macro_rules! line {
    ($($part:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::console::Console, $($part)*);
    }};
}
pub(crate) use line;
