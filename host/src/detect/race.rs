//! The detector of races: distances from a transition of the receiver at which IPIs are late or lost.
//!
//! A sweep sends at every distance around the moment at which a core goes to sleep, unmasks, or ends an interrupt. Latencies may
//! change there, and do: a sleeping core is slower than a polling one. A race is different: it is a *narrow* range of distances that is
//! slower than both its sides. One late message at one distance is a tail; a race hits all messages of a step, or neighbouring steps.

use std::collections::BTreeMap;

use trace_ring::plan::transition;

use super::{Detector, Evidence, FALSE_SHARE, Role, Suspect};
use crate::correlate::witness::{Sweep, SweepStep};
use crate::stats::{median, robust};

/// A step must lie this many robust deviations beyond both its sides …
const DEVIATIONS: f64 = 8.0;
/// … and so many ticks.
const TICKS: f64 = 2.0;

/// The fewest steps with latencies that say what is usual.
const FEWEST_STEPS: usize = 12;

/// Steps on either side of a range that it is compared with.
const SIDE: usize = 8;

/// The fewest of them: at the end of a sweep, nobody can tell a range from a change that stays.
const FEWEST_SIDE: usize = 3;

/// The greatest part of a sweep that is a narrow range.
const NARROW: usize = 8;

/// Distances at which IPIs are late or lost.
pub(super) struct Race;

/// A range of steps that stands apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Range {
    first: i64,
    last: i64,
    sent: u64,
    given_up: u64,
    /// Ticks.
    longest: u64,
    /// Ticks, of the slower of its two sides.
    usual: f64,
}

impl Range {
    fn of(steps: &[SweepStep], usual: f64) -> Range {
        Range {
            first: steps.first().map_or(0, |step| step.offset),
            last: steps.last().map_or(0, |step| step.offset),
            sent: steps.iter().map(|step| step.sent).sum(),
            given_up: steps.iter().map(|step| step.given_up).sum(),
            longest: steps.iter().filter(|step| step.timed > 0).map(|step| step.max).max().unwrap_or(0),
            usual,
        }
    }

    fn join(&self, other: &Range) -> Range {
        Range {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            sent: self.sent + other.sent,
            given_up: self.given_up + other.given_up,
            longest: self.longest.max(other.longest),
            usual: self.usual.max(other.usual),
        }
    }
}

impl Detector for Race {
    fn name(&self) -> &'static str {
        "race"
    }

    fn looks_for(&self) -> &'static str {
        "distances from a transition of the receiver at which IPIs are late or lost"
    }

    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let sweeps = &evidence.ipis.sweeps;
        let chance = FALSE_SHARE / sweeps.len().max(1) as f64;
        let mut found: BTreeMap<(u16, u8), (Range, usize, usize)> = BTreeMap::new();
        for sweep in sweeps {
            let entry = found.entry((sweep.to, sweep.transition)).or_default();
            entry.2 += 1;
            let Some(range) = narrow(sweep, chance) else { continue };
            entry.0 = if entry.1 == 0 { range } else { entry.0.join(&range) };
            entry.1 += 1;
        }
        let found = found.into_iter().filter(|(_, (_, senders, _))| *senders > 0);
        let suspect = |((to, code), (range, senders, of)): ((u16, u8), (Range, usize, usize))| {
            let mut text = format!(
                "IPIs to core {to} sent {} its transition `{}` are ",
                distance(evidence, range.first, range.last),
                transition::name(code)
            );
            let effect = range.longest as f64 - range.usual;
            if effect > TICKS {
                text += &format!(
                    "late: up to {}, where {} is the most before and after that range",
                    evidence.length(range.longest as f64),
                    evidence.length(range.usual)
                );
            }
            if range.given_up > 0 {
                let also = if effect > TICKS { ", and " } else { "" };
                text += &format!("{also}given up: {} of {}", range.given_up, range.sent);
            }
            text += &format!(" ({} messages in that range; {senders} of {of} sweeps show it)", range.sent);
            let mut suspect = Suspect::core(self.name(), Role::Receiver, to, text);
            suspect.effect_ns = (effect > TICKS).then(|| evidence.nanoseconds(effect));
            suspect
        };
        found.map(suspect).collect()
    }
}

/// The share of the usual that a range must exceed its sides by.
fn share(code: u8) -> f64 {
    match code {
        // What comes while the handler runs waits for its end.
        transition::END_OF_INTERRUPT => 3.0,
        // Firmware that was entered has to be left again.
        transition::SUSPEND => 1.0,
        _ => 0.25,
    }
}

/// The narrow range of a sweep that stands apart from both its sides, if there is one. `chance`: of a range of tails.
fn narrow(sweep: &Sweep, chance: f64) -> Option<Range> {
    let steps: Vec<SweepStep> = sweep.steps.iter().copied().filter(|step| step.sent > 0).collect();
    let most = (steps.len() / NARROW).max(1);
    if let Some(range) = gone(&steps, most) {
        return Some(range);
    }
    let timed: Vec<SweepStep> = steps.into_iter().filter(|step| step.timed > 0).collect();
    if timed.len() < FEWEST_STEPS {
        return None;
    }
    // Each side is what it is around each step: what changes over the whole sweep is no range of it.
    let peaks = |of: &dyn Fn(&SweepStep) -> u64| -> Vec<Option<f64>> {
        let values: Vec<f64> = timed.iter().map(|step| of(step) as f64).collect();
        let around: Vec<f64> =
            (0..values.len()).filter_map(|at| Some((values.get(at)? - beside(&values, at, at)?).abs())).collect();
        let spread = robust(&mut around.clone(), 0.0).map_or(0.0, |(center, spread)| center + spread);
        let peak = |at: usize| {
            // The range may be a few steps wide: its own steps are not its sides.
            let first = at.saturating_sub(most - 1);
            let usual = (first..=at).filter_map(|from| sides(&values, from, from + most - 1)).min_by(f64::total_cmp)?;
            let beyond = usual + (DEVIATIONS * spread).max(TICKS).max(share(sweep.transition) * usual);
            (*values.get(at)? > beyond).then_some(usual)
        };
        (0..values.len()).map(peak).collect()
    };
    let (latest, earliest) = (peaks(&|step| step.max), peaks(&|step| step.min));
    let late = latest.iter().flatten().count();
    // The longest run of late steps.
    let (mut best, mut start) = (0..0, 0);
    for at in 0..=latest.len() {
        if latest.get(at).copied().flatten().is_none() {
            if at - start > best.len() {
                best = start..at;
            }
            start = at + 1;
        }
    }
    if best.is_empty() || best.len() > most {
        return None;
    }
    let all = best
        .clone()
        .any(|at| earliest.get(at).copied().flatten().is_some() && timed.get(at).is_some_and(|step| step.timed >= 2));
    // So many late steps would lie side by side by chance.
    let run = timed.len() as f64 * (late as f64 / timed.len() as f64).powi(best.len() as i32);
    if !all && (best.len() < 2 || run > chance.max(f64::MIN_POSITIVE)) {
        return None;
    }
    let usual = latest.get(best.clone())?.iter().flatten().copied().fold(0.0, f64::max);
    Some(Range::of(timed.get(best)?, usual))
}

/// Messages that were given up in a narrow range, and nowhere else.
fn gone(steps: &[SweepStep], most: usize) -> Option<Range> {
    let first = steps.iter().position(|step| step.given_up > 0)?;
    let last = steps.iter().rposition(|step| step.given_up > 0)?;
    if last - first + 1 > most || steps.len() < FEWEST_STEPS {
        return None;
    }
    let range = steps.get(first..=last)?;
    let mut others: Vec<f64> = steps.iter().filter(|step| step.timed > 0).map(|step| step.max as f64).collect();
    Some(Range { longest: 0, ..Range::of(range, median(&mut others).unwrap_or(0.0)) })
}

/// The slower side of a range of values.
fn sides(values: &[f64], first: usize, last: usize) -> Option<f64> {
    let left = values.get(first.saturating_sub(SIDE)..first)?;
    let right = values.get(last + 1..(last + 1 + SIDE).min(values.len()))?;
    if left.len().min(right.len()) < FEWEST_SIDE {
        return None;
    }
    Some(median(&mut left.to_vec())?.max(median(&mut right.to_vec())?))
}

/// What is usual around a value, as near to the ends as they go.
fn beside(values: &[f64], first: usize, last: usize) -> Option<f64> {
    let left = values.get(first.saturating_sub(SIDE)..first)?;
    let right = values.get(last + 1..(last + 1 + SIDE).min(values.len()))?;
    median(&mut left.iter().chain(right).copied().collect::<Vec<f64>>())
}

/// A range of distances in words.
fn distance(evidence: &Evidence<'_>, first: i64, last: i64) -> String {
    let length = |ticks: i64| evidence.length(ticks.unsigned_abs() as f64);
    match (first, last) {
        (0, 0) => "at the time of".into(),
        (first, last) if first == last && first < 0 => format!("{} before", length(first)),
        (first, last) if first == last => format!("{} after", length(first)),
        (first, last) if last <= 0 => format!("{} to {} before", length(first), length(last)),
        (first, last) if first >= 0 => format!("{} to {} after", length(first), length(last)),
        (first, last) => format!("{} before to {} after", length(first), length(last)),
    }
}

/// Where the lost messages of a pair were sent, if a sweep knows it: the end of a sentence.
pub(super) fn lost_at(evidence: &Evidence<'_>, from: u16, to: u16) -> String {
    let own = evidence.ipis.sweeps.iter().filter(|sweep| (sweep.from, sweep.to) == (from, to));
    let told = own.filter_map(|sweep| {
        let lost: Vec<SweepStep> = sweep.steps.iter().copied().filter(|step| step.given_up > 0).collect();
        let range = Range::of(&lost, 0.0);
        (range.given_up > 0).then(|| {
            format!(
                "; {} of them {} sent {} the receiver's transition `{}`",
                range.given_up,
                if range.given_up == 1 { "was" } else { "were" },
                distance(evidence, range.first, range.last),
                transition::name(sweep.transition)
            )
        })
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::scene::{Random, Scene};
    use trace_ring::record::ReceiverState::Wfi;

    /// A sweep of 64 steps of 10 ticks around a transition, ten messages each.
    fn sweep(code: u8, mut latency: impl FnMut(i64, u64) -> u64) -> Sweep {
        let steps = (-32..32).map(|at| {
            let values: Vec<u64> = (0..10).map(|message| latency(at * 10, message)).collect();
            let (min, max) = (*values.iter().min().unwrap(), *values.iter().max().unwrap());
            SweepStep { offset: at * 10, sent: 10, timed: 10, min, max, given_up: 0 }
        });
        Sweep { from: 0, to: 2, transition: code, steps: steps.collect() }
    }

    fn races(sweeps: Vec<Sweep>) -> Vec<(Option<u16>, String)> {
        let mut scene = Scene::new(4).phase("wfi", Wfi, |_, _| vec![10; 20]);
        scene.ipis.sweeps = sweeps;
        scene.found("race").into_iter().map(|suspect| (suspect.core, suspect.evidence)).collect()
    }

    #[test]
    fn what_a_transition_changes_for_good_is_no_race() {
        let mut random = Random::new(3);
        let mut noise = || random.next() % 4;
        for code in [transition::WFI, transition::SUSPEND, transition::UNMASK, transition::END_OF_INTERRUPT] {
            // Constant; a step up at the transition, near the end, and down; a ramp of waits for the unmasking.
            assert_eq!(races(vec![sweep(code, |_, _| 20)]), []);
            assert_eq!(races(vec![sweep(code, |at, _| 20 + noise() + if at > 0 { 300 } else { 0 })]), []);
            assert_eq!(races(vec![sweep(code, |at, _| 20 + noise() + if at > 280 { 300 } else { 0 })]), []);
            assert_eq!(races(vec![sweep(code, |at, _| 20 + noise() + if at < -280 { 300 } else { 0 })]), []);
            assert_eq!(races(vec![sweep(code, |at, _| 20 + noise() + (-at).max(0) as u64)]), []);
        }
        // What comes while a handler runs waits for its end.
        let handler = |at: i64, _| if (0..40).contains(&at) { 60 - at as u64 } else { 20 };
        assert_eq!(races(vec![sweep(transition::END_OF_INTERRUPT, handler)]), []);
    }

    #[test]
    fn single_late_messages_anywhere_are_a_tail_and_no_race() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let heavy = sweep(transition::WFI, |_, _| (20.0 * random.normal().exp()) as u64);
            assert_eq!(races(vec![heavy]), [], "{seed}");
            let rare = sweep(transition::WFI, |_, _| if random.next().is_multiple_of(200) { 5000 } else { 20 });
            assert_eq!(races(vec![rare]), [], "{seed}");
        }
    }

    #[test]
    fn a_narrow_range_that_is_late_is_named_with_its_distance() {
        let mut random = Random::new(3);
        let found = races(vec![sweep(transition::WFI, |at, _| {
            20 + random.next() % 4 + if at > 0 { 30 } else { 0 } + if (10..=20).contains(&at) { 6000 } else { 0 }
        })]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, Some(2));
        let text = &found[0].1;
        assert!(
            text.starts_with("IPIs to core 2 sent 160 ns to 320 ns after its transition `wfi` are late: up to 96."),
            "{text}"
        );
        assert!(text.ends_with("(20 messages in that range; 1 of 1 sweeps show it)"), "{text}");
        // Some messages of several neighbours, none of the others.
        let some = |at: i64, message: u64| if (-30..=0).contains(&at) && message == 3 { 4000 } else { 20 };
        assert_eq!(races(vec![sweep(transition::UNMASK, some)]).len(), 1);
        // The same in the sweeps of two senders is one finding.
        let late = |at: i64, _| if at == 50 { 4000 } else { 20 };
        let two = vec![sweep(transition::WFI, late), Sweep { from: 1, ..sweep(transition::WFI, late) }];
        let found = races(two);
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("2 of 2 sweeps"), "{found:?}");
    }

    #[test]
    fn messages_given_up_at_a_distance_are_a_race_and_given_up_everywhere_are_none() {
        let lossy = |from: i64, to: i64| {
            let mut lossy = sweep(transition::WFI, |_, _| 20);
            for step in lossy.steps.iter_mut().filter(|step| (from..=to).contains(&step.offset)) {
                (step.given_up, step.timed) = (3, 7);
            }
            lossy
        };
        let found = races(vec![lossy(-10, 10)]);
        assert!(
            found[0].1.contains("160 ns before to 160 ns after its transition `wfi` are given up: 9 of 30"),
            "{found:?}"
        );
        assert_eq!(races(vec![lossy(-400, 400)]), []);
    }
}
