//! The counter: conversion of the plan's nanoseconds, and the self-test that every run carries.
//!
//! Nothing about the counter is believed: its read cost, its smallest step and its direction are measured on every core, and
//! each core's offset from the boot core is bounded by round trips through memory (F. Cristian's method): the far core's
//! stamp lies between two of ours, so its offset lies between their differences.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::{self, read_register, write_register};
use crate::percore::Core;
use crate::twins;
use trace_ring::layout::clock_flag;

static HZ: AtomicU64 = AtomicU64::new(0);

/// Takes the counter's frequency once, on the boot core. `false`: CNTFRQ_EL0 is 0, nobody set it.
pub fn set_frequency() -> bool {
    HZ.store(arch::counter_hz() & 0xFFFF_FFFF, Ordering::Relaxed);
    frequency() != 0
}

/// Ticks per second.
pub fn frequency() -> u64 {
    HZ.load(Ordering::Relaxed)
}

/// Nanoseconds as ticks, rounded up; at least 1 for anything above 0.
pub fn ticks(ns: u64) -> u64 {
    let ticks = (u128::from(ns) * u128::from(frequency())).div_ceil(1_000_000_000);
    u64::try_from(ticks).unwrap_or(u64::MAX >> 1)
}

/// Whether this core has the self-synchronised counter (FEAT_ECV).
pub fn has_self_synchronised() -> bool {
    read_register!("id_aa64mmfr0_el1") >> 60 != 0
}

fn has_cycle_counter() -> bool {
    !matches!(read_register!("id_aa64dfr0_el1") >> 8 & 0xF, 0 | 0xF) // PMUVer: none, or none that the manual describes
}

/// An ordered read by the way that this core has, as it stamps it. Not for the measured path, whose reads are counted.
fn ordered(core: &Core) -> (u64, u64) {
    let now = if core.self_synchronised.get() { arch::counter_self_synchronised() } else { arch::counter_ordered() };
    (now, twins::stamp(core, now))
}

/// What a core finds out about its own counter.
#[derive(Clone, Copy, Default)]
pub struct SelfTest {
    /// Least ticks between two ordered reads in a row.
    pub read_cost_min: u32,
    /// Most.
    pub read_cost_max: u32,
    /// Greatest common divisor of the steps between reads: the counter's own step.
    pub resolution: u32,
    /// Reads that went backwards.
    pub backwards: u32,
    /// Reads that were too far on: the next was back, and behind none before.
    pub misreads: u32,
    /// [`clock_flag`] bits.
    pub flags: u32,
}

/// Reads the counter 256 times in a row.
pub fn self_test(core: &Core) -> SelfTest {
    let self_synchronised = core.self_synchronised.get();
    let mut test = match (core.twins.clock, self_synchronised) {
        (true, _) => read_in_a_row(|| ordered(core).1),
        (false, true) => read_in_a_row(arch::counter_self_synchronised),
        (false, false) => read_in_a_row(arch::counter_ordered),
    };
    if self_synchronised {
        test.flags |= clock_flag::ECV | clock_flag::SELF_SYNCHRONISED;
    }
    if has_cycle_counter() {
        test.flags |= clock_flag::PMU;
    }
    test
}

/// The reads, with one more instruction before every other.
///
/// Steps between reads are as long as a read takes, so the smallest of them says nothing of the counter's own step. Their
/// greatest common divisor does: a counter that advances by 20 at a time shows multiples of 20 only. The odd instruction keeps
/// a machine of constant speed (counted instructions) from showing one step for ever.
///
/// A read that is too far on (Cortex-A73 erratum 858921, and its kin) shows in the next, which is back: not behind the one before,
/// as a counter that really stepped back would be. Steps to and from a wrong read say nothing and are left out.
#[inline(always)]
fn read_in_a_row(read: impl Fn() -> u64) -> SelfTest {
    let mut test = SelfTest { read_cost_min: u32::MAX, ..SelfTest::default() };
    let mut last = read();
    let mut before = None;
    let mut held = None; // a step that the next read may still show to be wrong
    for round in 0..256 {
        if round & 1 == 1 {
            arch::no_operation();
        }
        let now = read();
        match now.checked_sub(last) {
            Some(step) => {
                if let Some(step) = held.replace(u32::try_from(step).unwrap_or(u32::MAX)) {
                    test.count(step);
                }
                before = Some(last);
            }
            None if before.is_some_and(|before| now >= before) => {
                test.misreads += 1;
                (before, held) = (None, None);
            }
            None => {
                test.backwards += 1;
                if let Some(step) = held.take() {
                    test.count(step);
                }
                before = None;
            }
        }
        if before.is_none() {
            // The step from a wrong read to the next.
            last = now.max(read());
            continue;
        }
        last = now;
    }
    if let Some(step) = held {
        test.count(step);
    }
    test
}

impl SelfTest {
    fn count(&mut self, step: u32) {
        self.read_cost_min = self.read_cost_min.min(step);
        self.read_cost_max = self.read_cost_max.max(step);
        self.resolution = common_divisor(self.resolution, step);
    }
}

/// Cycles of PMCCNTR_EL0, each over so many ticks of the counter.
#[derive(Clone, Copy, Default)]
pub struct Cycles {
    /// (cycles, ticks) of a busy loop.
    pub busy: (u32, u32),
    /// (cycles, ticks) of WFI; zeroes: something else than the timer ended it.
    pub wfi: (u32, u32),
}

/// How long each of them is counted, ns.
const CYCLES_NS: u64 = 20_000;

/// Counts this core's cycles while it is busy and while it sleeps: whether they are worth comparing with ticks. `None`: there is no
/// cycle counter, or whoever is above us keeps it (the ID register then says so; nothing traps). Interrupts are masked.
pub fn count_cycles(core: &Core) -> Option<Cycles> {
    const ENABLE: u64 = 1; // PMCR_EL0.E
    const LONG: u64 = 1 << 6; // PMCR_EL0.LC: overflow at 64 bits
    const CYCLE_COUNTER: u64 = 1 << 31; // of PMCNTENSET_EL0, PMCNTENCLR_EL0
    if !has_cycle_counter() {
        return None;
    }
    let (control, enabled) = (read_register!("pmcr_el0"), read_register!("pmcntenset_el0"));
    let filter = read_register!("pmccfiltr_el0");
    write_register!("pmccfiltr_el0", 0); // EL1 counts
    write_register!("pmcntenset_el0", CYCLE_COUNTER);
    write_register!("pmcr_el0", control | ENABLE | LONG);
    arch::instruction_barrier();
    let both = || (arch::counter_ordered(), read_register!("pmccntr_el0"));
    let narrow = |from: (u64, u64), to: (u64, u64)| {
        let bits = |ticks: u64| u32::try_from(ticks).unwrap_or(u32::MAX);
        (bits(to.1.wrapping_sub(from.1)), bits(to.0.wrapping_sub(from.0)))
    };
    let span = ticks(CYCLES_NS);
    let begun = both();
    while arch::counter().wrapping_sub(begun.0) < span {
        arch::no_operation();
    }
    let busy = narrow(begun, both());
    let begun = both();
    crate::wait::with_timer(core, span, arch::sleep);
    let ended = both();
    let wfi = if ended.0.wrapping_sub(begun.0) < span { (0, 0) } else { narrow(begun, ended) };
    write_register!("pmcr_el0", control);
    if enabled & CYCLE_COUNTER == 0 {
        write_register!("pmcntenclr_el0", CYCLE_COUNTER);
    }
    write_register!("pmccfiltr_el0", filter);
    arch::instruction_barrier();
    Some(Cycles { busy, wfi })
}

/// Euclid's; of 0 and n it is n.
fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Where two cores meet to compare counters.
#[derive(Default)]
pub struct Exchange {
    round: AtomicU64,
    answer: AtomicU64,
    stamp: AtomicU64,
}

/// Round trips for one core: at least, and at most. The shortest bounds the offset best.
const LEAST_ROUNDS: u64 = 8;
const MOST_ROUNDS: u64 = 32;

/// What the round trips to another core say.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Its counter minus ours is at least that many ticks.
    pub low: i64,
    /// And at most that many.
    pub high: i64,
    /// The shortest round trip, ticks of the true counter.
    pub round_trip: u32,
}

impl Exchange {
    /// An exchange that nobody has used.
    pub const fn new() -> Self {
        Exchange { round: AtomicU64::new(0), answer: AtomicU64::new(0), stamp: AtomicU64::new(0) }
    }

    /// The boot core's side: bounds of the other core's counter minus ours, or `None` when it did not answer in time. `enough`: when
    /// it need not be asked again, if it was often enough.
    pub fn ask(&self, core: &Core, enough: u64, deadline: u64) -> Option<Bounds> {
        let mut bounds = Bounds { low: i64::MIN, high: i64::MAX, round_trip: u32::MAX };
        for index in 0..MOST_ROUNDS {
            if index >= LEAST_ROUNDS && arch::counter() > enough {
                break;
            }
            let round = self.round.load(Ordering::Relaxed) + 1;
            let (begun, before) = ordered(core);
            self.round.store(round, Ordering::Release); // pairs with the Acquire in `answer`
            while self.answer.load(Ordering::Acquire) != round {
                if arch::counter() > deadline {
                    return None;
                }
                arch::yield_now();
            }
            let (ended, after) = ordered(core);
            let stamp = self.stamp.load(Ordering::Relaxed);
            bounds.low = bounds.low.max(stamp.wrapping_sub(after) as i64);
            bounds.high = bounds.high.min(stamp.wrapping_sub(before) as i64);
            bounds.round_trip = bounds.round_trip.min(u32::try_from(ended.wrapping_sub(begun)).unwrap_or(u32::MAX));
        }
        Some(bounds)
    }

    /// The other core's side: answers one round if there is a new one.
    pub fn answer(&self, core: &Core) {
        let round = self.round.load(Ordering::Acquire); // pairs with the Release in `ask`
        if round != self.answer.load(Ordering::Relaxed) {
            self.stamp.store(ordered(core).1, Ordering::Relaxed);
            self.answer.store(round, Ordering::Release); // pairs with the Acquire in `ask`
        }
    }
}
