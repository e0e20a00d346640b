//! Watchdogs that a boot loader left running: named, and fed where their kind is known.
//!
//! Stopping one is not ours to decide (most kinds can't be stopped), and a board that resets in the middle of a soak measures
//! nothing. The boot core feeds between operations of the plan, in waits that nobody measures, and after the run; never on the
//! measured path, and never in a deterministic run, where nothing but the plan may decide what is executed.
// UNSAFETY: watchdog registers are reached through raw pointers to mapped device pages.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::console::line;
use crate::machine::{MAX_WATCHDOGS, Machine, Watchdog, WatchdogKind};
use crate::memory::{Attribute, Tables};
use crate::percore::{Core, Shared};
use crate::{arch, clock};

/// How often they are fed. The shortest timeout that an i.MX watchdog has is 0.5 s; what boot loaders set is 10 s and more.
const PERIOD_NS: u64 = 400_000_000;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static DUE: AtomicU64 = AtomicU64::new(0);
static KINDS: [AtomicU8; MAX_WATCHDOGS] = [const { AtomicU8::new(0) }; MAX_WATCHDOGS];
static PLACES: [AtomicU64; MAX_WATCHDOGS] = [const { AtomicU64::new(0) }; MAX_WATCHDOGS];

const IMX: u8 = 1;
const SBSA: u8 = 2;
const DESIGNWARE: u8 = 3;

fn read16(address: u64) -> u16 {
    // SAFETY: a register of a watchdog that the machine description names, mapped as device memory.
    unsafe { core::ptr::read_volatile(address as *const u16) }
}

fn write16(address: u64, value: u16) {
    // SAFETY: as in `read16`.
    unsafe { core::ptr::write_volatile(address as *mut u16, value) }
}

fn read(address: u64) -> u32 {
    // SAFETY: as in `read16`.
    unsafe { core::ptr::read_volatile(address as *const u32) }
}

fn write(address: u64, value: u32) {
    // SAFETY: as in `read16`.
    unsafe { core::ptr::write_volatile(address as *mut u32, value) }
}

impl WatchdogKind {
    fn name(self) -> &'static str {
        match self {
            WatchdogKind::Imx => "fsl,imx21-wdt",
            WatchdogKind::Sbsa(_) => "arm,sbsa-gwdt",
            WatchdogKind::DesignWare => "snps,dw-wdt",
        }
    }

    fn runs(self, base: u64) -> bool {
        match self {
            WatchdogKind::Imx => read16(base) & 1 << 2 != 0, // WDOG_WCR.WDE (i.MX 8M Plus reference manual, WDOG chapter)
            WatchdogKind::Sbsa(_) => read(base) & 1 != 0,    // WCS.EN (DEN0094, appendix on the generic watchdog)
            WatchdogKind::DesignWare => read(base) & 1 != 0, // WDT_CR.WDT_EN (DesignWare DW_apb_wdt databook)
        }
    }
}

/// Looks which of the machine's watchdogs run, and starts to feed those it can.
pub fn adopt(machine: &Machine, tables: &mut Tables) {
    let known = machine.watchdogs.iter().flatten();
    for (place, Watchdog { kind, base }) in (0..MAX_WATCHDOGS).zip(known) {
        let Some(kind) = *kind else { continue };
        let mut map = |address| tables.map_identity(address, 4096, Attribute::Device).is_some();
        let (code, fed_at) = match kind {
            WatchdogKind::Imx => (IMX, *base),
            WatchdogKind::Sbsa(refresh) => (SBSA, refresh),
            WatchdogKind::DesignWare => (DESIGNWARE, *base),
        };
        if !map(*base) || !map(fed_at) {
            continue;
        }
        tables.publish();
        if kind.runs(*base) {
            PLACES[place].store(fed_at, Ordering::Relaxed);
            KINDS[place].store(code, Ordering::Relaxed);
            ACTIVE.store(true, Ordering::Relaxed);
        }
    }
    feed();
}

/// One line for each watchdog that may end the run.
pub fn report(machine: &Machine) {
    let listens = Shared::get().listens;
    for (place, watchdog) in machine.watchdogs.iter().flatten().enumerate() {
        let base = watchdog.base;
        match watchdog.kind {
            None => line!("ipiscope NOTE the watchdog at {base:#x} is of an unknown kind: it is not fed"),
            Some(kind) if KINDS[place].load(Ordering::Relaxed) != 0 => {
                let name = kind.name();
                if listens {
                    line!("ipiscope NOTE the watchdog at {base:#x} ({name}) runs: the boot core feeds it");
                } else {
                    line!("ipiscope NOTE the watchdog at {base:#x} ({name}) runs: fed before and after this run only");
                }
            }
            Some(_) => {}
        }
    }
}

/// Feeds them now. By the boot core alone.
#[cold]
fn feed() {
    for (kind, place) in KINDS.iter().zip(&PLACES) {
        let address = place.load(Ordering::Relaxed);
        match kind.load(Ordering::Relaxed) {
            IMX => {
                // WDOG_WSR: both words, in this order.
                write16(address + 2, 0x5555);
                write16(address + 2, 0xAAAA);
            }
            SBSA => write(address, 0),                 // WRR: any write is a refresh
            DESIGNWARE => write(address + 0x0C, 0x76), // WDT_CRR: the one value that restarts it
            _ => {}
        }
    }
    DUE.store(arch::counter() + clock::ticks(PERIOD_NS), Ordering::Relaxed);
}

/// Feeds them if it is time.
pub fn feed_if_due() {
    if ACTIVE.load(Ordering::Relaxed) && arch::counter() >= DUE.load(Ordering::Relaxed) {
        feed();
    }
}

/// Whether `core` is the one that feeds during a run, and there is something to feed.
#[inline(always)]
pub fn fed_by(core: &Core) -> bool {
    let shared = Shared::get();
    ACTIVE.load(Ordering::Relaxed) && shared.listens && core.id as usize == shared.boot_core
}

/// When a wait of the core that feeds has to look up, ticks.
pub fn due() -> u64 {
    DUE.load(Ordering::Relaxed)
}

/// Whether any watchdog is fed.
pub fn is_active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}
