//! The counter: conversion of the plan's nanoseconds, and the self-test that every run carries.
//!
//! Nothing about the counter is believed: its read cost, its smallest step and its direction are measured on every core, and
//! each core's offset from the boot core is bounded by round trips through memory (F. Cristian's method): the far core's
//! stamp lies between two of ours, so its offset lies between their differences.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::{self, read_register};
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

/// What a core finds out about its own counter.
#[derive(Clone, Copy, Default)]
pub struct SelfTest {
    /// Least ticks between two ordered reads in a row.
    pub read_cost_min: u32,
    /// Greatest common divisor of the steps between reads: the counter's own step.
    pub resolution: u32,
    /// Reads that went backwards.
    pub backwards: u32,
    /// [`clock_flag`] bits.
    pub flags: u32,
}

/// Reads the counter 256 times in a row, with one more instruction before every other read.
///
/// Steps between reads are as long as a read takes, so the smallest of them says nothing of the counter's own step. Their
/// greatest common divisor does: a counter that advances by 20 at a time shows multiples of 20 only. The odd instruction keeps
/// a machine of constant speed (counted instructions) from showing one step for ever.
pub fn self_test(core: &Core) -> SelfTest {
    let mut test = SelfTest { read_cost_min: u32::MAX, ..SelfTest::default() };
    let mut last = twins::now(core);
    for round in 0..256 {
        if round & 1 == 1 {
            arch::no_operation();
        }
        let now = twins::now(core);
        match now.checked_sub(last) {
            None => test.backwards += 1,
            Some(step) => {
                let step = u32::try_from(step).unwrap_or(u32::MAX);
                test.read_cost_min = test.read_cost_min.min(step);
                test.resolution = common_divisor(test.resolution, step);
            }
        }
        last = now;
    }
    if read_register!("id_aa64mmfr0_el1") >> 60 != 0 {
        test.flags |= clock_flag::ECV;
    }
    if !matches!(read_register!("id_aa64dfr0_el1") >> 8 & 0xF, 0 | 0xF) {
        test.flags |= clock_flag::PMU;
    }
    test
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

/// Round trips for one core.
const ROUNDS: u64 = 8;

impl Exchange {
    /// An exchange that nobody has used.
    pub const fn new() -> Self {
        Exchange { round: AtomicU64::new(0), answer: AtomicU64::new(0), stamp: AtomicU64::new(0) }
    }

    /// The boot core's side: bounds of the other core's counter minus ours, or `None` when it did not answer in time.
    pub fn ask(&self, core: &Core, deadline: u64) -> Option<(i64, i64)> {
        let (mut low, mut high) = (i64::MIN, i64::MAX);
        for _ in 0..ROUNDS {
            let round = self.round.load(Ordering::Relaxed) + 1;
            let before = twins::now(core);
            self.round.store(round, Ordering::Release); // pairs with the Acquire in `answer`
            while self.answer.load(Ordering::Acquire) != round {
                if arch::counter() > deadline {
                    return None;
                }
                arch::yield_now();
            }
            let after = twins::now(core);
            let stamp = self.stamp.load(Ordering::Relaxed);
            low = low.max(stamp.wrapping_sub(after) as i64);
            high = high.min(stamp.wrapping_sub(before) as i64);
        }
        Some((low, high))
    }

    /// The other core's side: answers one round if there is a new one.
    pub fn answer(&self, core: &Core) {
        let round = self.round.load(Ordering::Acquire); // pairs with the Release in `ask`
        if round != self.answer.load(Ordering::Relaxed) {
            self.stamp.store(twins::now(core), Ordering::Relaxed);
            self.answer.store(round, Ordering::Release); // pairs with the Acquire in `ask`
        }
    }
}
