//! The clock's part of the report: what each core's counter was found to be, before the plan and after it.

use serde::Serialize;
use trace_ring::layout::{CoreEntry, clock_flag, core_state};

use crate::capture::Capture;
use crate::correlate::{Ipis, View};

/// The most cores of which the bounds of every pair are listed.
const MOST_PAIRED: usize = 64;

/// The counter.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Clock {
    /// Whether the counters of the cores were compared (of one core: whether its counter was tested).
    pub tested: bool,
    /// Least ticks between two reads, of any core.
    pub read_cost_ticks: Option<u32>,
    /// Greatest ticks between two reads in a row, of any core.
    pub read_cost_max_ticks: Option<u32>,
    /// The greatest distance of a core's counter from the boot core's that the round trips allow, ticks.
    pub max_skew_ticks: Option<u64>,
    /// The greatest distance that they prove, ticks.
    pub proven_skew_ticks: Option<u64>,
    /// Between any two cores, before the plan.
    pub skew_before: Option<Skews>,
    /// Between any two cores, after it.
    pub skew_after: Option<Skews>,
    /// Bounds for each pair of cores, over both tests; empty on more than 64 cores.
    pub skew_pairs: Vec<SkewPair>,
    /// Whether no counter went backwards.
    pub monotonic: Option<bool>,
    /// Lanes in which a time stamp lies before one that was taken before it: how often.
    pub step_backs: u64,
    /// Answers that seem to have come before their message, with one message outstanding, three in a row or more.
    pub backwards_ipis: u64,
    /// Smallest step that was seen, ticks.
    pub step_ticks: Option<u32>,
    /// Whether every core has FEAT_ECV.
    pub ecv: Option<bool>,
    /// Whether every core reads CNTVCTSS_EL0, which orders itself.
    pub self_synchronised: Option<bool>,
    /// Whether every core's counter was tested again after the plan.
    pub tested_after: Option<bool>,
    /// Whether the frequency was held against the host's clock.
    pub host_checked: bool,
    /// Why it was not.
    pub host_unchecked: Option<&'static str>,
    /// Ticks for each second of the host's clock.
    pub measured_hz: Option<f64>,
    /// Half width of the interval of the above.
    pub measured_hz_uncertainty: Option<f64>,
    /// Whether latencies may be trusted.
    pub trusted: bool,
    /// The cores that took part.
    pub cores: Vec<CoreClock>,
}

/// What round trips say of all pairs of cores together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Skews {
    /// Two counters are apart by at least this, ticks.
    pub proven_ticks: u64,
    /// No two counters are further apart, ticks.
    pub possible_ticks: u64,
}

/// Bounds of one core's counter minus another's, ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SkewPair {
    /// The one.
    pub core: u16,
    /// The other.
    pub other: u16,
    /// Not less than this.
    pub low: i64,
    /// Not more than this.
    pub high: i64,
}

/// A core's counter.
#[derive(Clone, Debug, Serialize)]
pub struct CoreClock {
    /// The core.
    pub core: u16,
    /// CNTFRQ_EL0, ticks per second.
    pub cntfrq: u32,
    /// Least ticks between two reads in a row.
    pub read_cost_ticks: u32,
    /// The greatest.
    pub read_cost_max_ticks: u32,
    /// Greatest common divisor of the steps between reads, ticks.
    pub step_ticks: u32,
    /// Reads that went backwards.
    pub backwards: u32,
    /// Reads that were further on than their neighbours allow.
    pub misreads: u32,
    /// Reads that went backwards after the plan; null: nobody looked.
    pub backwards_after: Option<u32>,
    /// The same of misreads.
    pub misreads_after: Option<u32>,
    /// Its counter minus the boot core's, before the plan.
    pub skew_before: Option<Skew>,
    /// The same after the plan.
    pub skew_after: Option<Skew>,
    /// PMCCNTR_EL0 cycles to each tick of a busy loop; null: there are none.
    pub cycles_per_tick_busy: Option<f64>,
    /// Whether cycles go on in WFI.
    pub cycles_run_in_wfi: Option<bool>,
}

/// Bounds of a difference, ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Skew {
    /// Not less than this.
    pub low: i64,
    /// Not more than this.
    pub high: i64,
    /// Of the shortest round trip that bounds it.
    pub round_trip: u32,
}

impl CoreClock {
    fn of(core: u16, entry: &CoreEntry) -> Self {
        let has = |flag: u32| entry.clock_flags & flag != 0;
        let skew = |flag, low: i64, high: i64, round_trip| {
            (has(flag) && low <= high).then_some(Skew { low, high, round_trip })
        };
        let rate = |cycles: u32, ticks: u32| (ticks > 0).then(|| f64::from(cycles) / f64::from(ticks));
        let busy =
            rate(entry.cycles_busy, entry.cycle_ticks_busy).filter(|busy| has(clock_flag::CYCLES) && *busy > 0.0);
        let waiting = rate(entry.cycles_wfi, entry.cycle_ticks_wfi).filter(|_| has(clock_flag::CYCLES));
        let after = |count: u32| has(clock_flag::TESTED_AFTER).then_some(count);
        CoreClock {
            core,
            cntfrq: entry.cntfrq,
            read_cost_ticks: entry.read_cost_min,
            read_cost_max_ticks: entry.read_cost_max,
            step_ticks: entry.resolution,
            backwards: entry.backwards,
            misreads: entry.misreads,
            backwards_after: after(entry.backwards_after),
            misreads_after: after(entry.misreads_after),
            skew_before: skew(
                clock_flag::SKEW_BEFORE,
                entry.skew_before_low,
                entry.skew_before_high,
                entry.round_trip_before,
            ),
            skew_after: skew(
                clock_flag::SKEW_AFTER,
                entry.skew_after_low,
                entry.skew_after_high,
                entry.round_trip_after,
            ),
            cycles_per_tick_busy: busy,
            // Entering and leaving takes a few cycles; a counter that runs on counts as many as when it is busy.
            cycles_run_in_wfi: busy.zip(waiting).map(|(busy, waiting)| waiting > busy / 2.0),
        }
    }

    fn skew(&self, after: bool) -> Option<Skew> {
        if after { self.skew_after } else { self.skew_before }
    }
}

/// Bounds of cores against the boot core, its own among them.
fn bounds(cores: &[CoreClock], boot: u16, after: bool) -> Vec<(u16, i64, i64)> {
    let own = |core: &CoreClock| (core.core == boot).then_some(Skew { low: 0, high: 0, round_trip: 0 });
    let bound = |core: &CoreClock| own(core).or(core.skew(after)).map(|skew| (core.core, skew.low, skew.high));
    let bounds: Vec<_> = cores.iter().filter_map(bound).collect();
    // The boot core alone was compared with nobody.
    if bounds.len() < 2 { Vec::new() } else { bounds }
}

fn skews(cores: &[CoreClock], boot: u16, after: bool) -> Option<Skews> {
    let bounds = bounds(cores, boot, after);
    let highest = |of: fn(&(u16, i64, i64)) -> i64| bounds.iter().map(of).max();
    let lowest = |of: fn(&(u16, i64, i64)) -> i64| bounds.iter().map(of).min();
    Some(Skews {
        // low(a) - high(b), of the pair where it is greatest; what lies on both sides of zero proves nothing.
        proven_ticks: highest(|bound| bound.1)?.saturating_sub(lowest(|bound| bound.2)?).max(0).unsigned_abs(),
        possible_ticks: highest(|bound| bound.2)?.saturating_sub(lowest(|bound| bound.1)?).max(0).unsigned_abs(),
    })
}

fn pairs(cores: &[CoreClock], boot: u16) -> Vec<SkewPair> {
    if cores.len() > MOST_PAIRED {
        return Vec::new();
    }
    let tests = [false, true].map(|after| bounds(cores, boot, after));
    let mut pairs = Vec::new();
    for (at, core) in cores.iter().enumerate() {
        for other in cores.iter().skip(at + 1) {
            let of = |test: &[(u16, i64, i64)], core: u16| test.iter().find(|bound| bound.0 == core).copied();
            let both = |test: &Vec<_>| {
                let ((_, low, high), (_, other_low, other_high)) = of(test, core.core).zip(of(test, other.core))?;
                Some((low.saturating_sub(other_high), high.saturating_sub(other_low)))
            };
            let hull = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
            if let Some((low, high)) = tests.iter().filter_map(both).reduce(hull) {
                pairs.push(SkewPair { core: core.core, other: other.core, low, high });
            }
        }
    }
    pairs
}

pub(super) fn clock(capture: &Capture, ipis: &Ipis, view: Option<&View>, trusted: bool) -> Clock {
    let check = capture.ending().and_then(|ending| ending.counter_check);
    let measured = (check.map(|check| check.measured_hz), check.map(|check| check.uncertainty_hz));
    let measured = (measured.0.filter(|hz| hz.is_finite()), measured.1.filter(|hz| hz.is_finite()));
    let unchecked = match (capture.info().deterministic, capture.ending()) {
        (true, _) => "time counts instructions",
        (false, None) => "the capture has no ending",
        (false, Some(_)) => "the plan was too short, or the host did not see it begin and end",
    };
    let none = Clock {
        host_checked: measured.0.is_some(),
        host_unchecked: measured.0.is_none().then_some(unchecked),
        measured_hz: measured.0,
        measured_hz_uncertainty: measured.1,
        step_backs: ipis.step_backs.len() as u64,
        backwards_ipis: ipis.slots.iter().map(|slot| slot.backwards).sum(),
        trusted,
        ..Clock::default()
    };
    let Some(view) = view else { return none };
    let up = || (0..).zip(&view.cores).filter(|(_, core)| core.state == core_state::UP);
    let cores: Vec<CoreClock> = up().map(|(id, core): (u16, _)| CoreClock::of(id, core)).collect();
    let all = |flag: u32| up().map(|(_, core)| core.clock_flags & flag != 0).reduce(|a, b| a && b);
    let skewed = || cores.iter().flat_map(|core| [core.skew_before, core.skew_after]).flatten();
    let boot = u16::try_from(view.directory.boot_core).unwrap_or(u16::MAX);
    let kept = |core: &CoreClock| core.backwards == 0 && core.backwards_after.unwrap_or(0) == 0;
    Clock {
        tested: match cores.as_slice() {
            [alone] => alone.step_ticks > 0,
            _ => skewed().next().is_some(),
        },
        read_cost_ticks: cores.iter().map(|core| core.read_cost_ticks).max(),
        read_cost_max_ticks: cores.iter().map(|core| core.read_cost_max_ticks).max(),
        max_skew_ticks: skewed().map(|skew| skew.low.unsigned_abs().max(skew.high.unsigned_abs())).max(),
        // What lies on both sides of zero proves nothing.
        proven_skew_ticks: skewed().map(|skew| skew.low.max(skew.high.saturating_neg()).max(0).unsigned_abs()).max(),
        skew_before: skews(&cores, boot, false),
        skew_after: skews(&cores, boot, true),
        skew_pairs: pairs(&cores, boot),
        monotonic: cores.iter().map(kept).reduce(|a, b| a && b),
        step_ticks: cores.iter().map(|core| core.step_ticks).max(),
        ecv: all(clock_flag::ECV),
        self_synchronised: all(clock_flag::SELF_SYNCHRONISED),
        tested_after: all(clock_flag::TESTED_AFTER),
        cores,
        ..none
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn core(core: u16, before: Option<(i64, i64)>, after: Option<(i64, i64)>) -> CoreClock {
        let mut entry = CoreEntry::new_zeroed();
        for (flag, bounds, after) in [(clock_flag::SKEW_BEFORE, before, false), (clock_flag::SKEW_AFTER, after, true)] {
            let Some((low, high)) = bounds else { continue };
            entry.clock_flags |= flag;
            if after {
                (entry.skew_after_low, entry.skew_after_high) = (low, high);
            } else {
                (entry.skew_before_low, entry.skew_before_high) = (low, high);
            }
        }
        CoreClock::of(core, &entry)
    }

    #[test]
    fn bounds_of_pairs_follow_from_theirs_to_the_boot_core() {
        let cores = [core(0, None, None), core(1, Some((-2, 3)), None), core(2, Some((10, 14)), Some((9, 12)))];
        assert_eq!(skews(&cores, 0, false), Some(Skews { proven_ticks: 10, possible_ticks: 16 }));
        assert_eq!(skews(&cores, 0, true), Some(Skews { proven_ticks: 9, possible_ticks: 12 }));
        let pair = |core, other, low, high| SkewPair { core, other, low, high };
        assert_eq!(pairs(&cores, 0), [pair(0, 1, -3, 2), pair(0, 2, -14, -9), pair(1, 2, -16, -7)]);
        // Nobody was compared, or the boot core's own bounds are all that there is.
        assert_eq!(skews(&cores[..1], 0, false), None);
        assert_eq!(pairs(&cores[..2], 7), []);
        // Bounds that can't be are none.
        assert_eq!(skews(&[core(0, None, None), core(1, Some((5, 4)), None)], 0, false), None);
    }

    #[test]
    fn cycles_go_on_in_wfi_or_stop() {
        let mut entry = CoreEntry::new_zeroed();
        (entry.cycles_busy, entry.cycle_ticks_busy) = (48_000, 1000);
        (entry.cycles_wfi, entry.cycle_ticks_wfi) = (900, 1000);
        assert_eq!(CoreClock::of(0, &entry).cycles_per_tick_busy, None, "nobody measured it");
        entry.clock_flags = clock_flag::CYCLES;
        let clock = CoreClock::of(0, &entry);
        assert_eq!((clock.cycles_per_tick_busy, clock.cycles_run_in_wfi), (Some(48.0), Some(false)));
        entry.cycles_wfi = 47_000;
        assert_eq!(CoreClock::of(0, &entry).cycles_run_in_wfi, Some(true));
        entry.cycles_busy = 0;
        let clock = CoreClock::of(0, &entry);
        assert_eq!((clock.cycles_per_tick_busy, clock.cycles_run_in_wfi), (None, None), "it does not run");
    }
}
