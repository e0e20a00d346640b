//! The console: a few lines that let a lab judge a run by its serial log alone. Never on the measured path.
//!
//! One START and one END line a boot, one KTAP line a phase, and a line for whatever ends the run early. Polled output with
//! a bound on every wait: a UART that does not drain loses text, not the run.
// UNSAFETY: UART registers are reached through raw pointers to a mapped device page.
#![expect(unsafe_code)]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::machine::{Uart, UartKind};

static BASE: AtomicU64 = AtomicU64::new(0);
static KIND: AtomicU8 = AtomicU8::new(0);

/// Polls of a full transmit FIFO before a character is given up: about a second at the slowest usual speed.
const PATIENCE: u32 = 1_000_000;

/// Makes `uart` the console. Its page is mapped as device memory.
pub fn open(uart: Uart) {
    match uart.kind {
        UartKind::Pl011 => {
            // UARTCR (DDI 0183, 3.3.8): leave a boot loader's settings alone, else enable transmit.
            if read(uart.base, 0x30) & 1 == 0 {
                write(uart.base, 0x30, 0x101);
            }
            KIND.store(1, Ordering::Relaxed);
        }
        UartKind::Imx => {
            // UCR1.UARTEN and UCR2.TXEN, SRST (i.MX 8M Plus reference manual, UART chapter).
            if read(uart.base, 0x80) & 1 == 0 {
                write(uart.base, 0x80, 1);
                write(uart.base, 0x84, 1 << 2 | 1);
            }
            KIND.store(2, Ordering::Relaxed);
        }
    }
    BASE.store(uart.base, Ordering::Relaxed);
}

fn read(base: u64, offset: u64) -> u32 {
    // SAFETY: the page of a UART that the machine description names is mapped as device memory.
    unsafe { core::ptr::read_volatile((base + offset) as *const u32) }
}

fn write(base: u64, offset: u64, value: u32) {
    // SAFETY: as in `read`.
    unsafe { core::ptr::write_volatile((base + offset) as *mut u32, value) }
}

fn put(byte: u8) {
    let base = BASE.load(Ordering::Relaxed);
    // (status register, bit that says full, data register): UARTFR.TXFF and UARTDR; UTS.TXFULL and UTXD.
    let (status, full, data) = match KIND.load(Ordering::Relaxed) {
        1 => (0x18, 1 << 5, 0x00),
        2 => (0xB4, 1 << 4, 0x40),
        _ => return,
    };
    for _ in 0..PATIENCE {
        if read(base, status) & full == 0 {
            write(base, data, byte.into());
            return;
        }
        crate::arch::yield_now();
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
