//! The detector of clocks: counters that go back, jump, or stand apart.
//!
//! Every latency between two cores is a difference of two counters, so this comes before all that judges latencies. All skews are
//! measured against the boot core; who is off is who differs from what most cores agree on, and that may be the boot core itself.
//! Whatever is wrong with one core's counter is one finding, the worst first.

use std::collections::{BTreeMap, BTreeSet};

use trace_ring::layout::{CoreEntry, clock_flag, core_state};

use super::like::Line;
use super::outcomes::fold;
use super::{Detector, Evidence, Role, Suspect, list, plural};

/// Ticks that two roundings explain.
const ROUNDING: i64 = 1;

/// A crystal is good for a hundred parts in a million; so much is another frequency.
const OTHER_RATE: f64 = 0.01;

/// Counters that go back, or apart.
pub(super) struct Clock;

/// What is known of one core's counter: sentences, the worst first, and the worst's size in ticks.
#[derive(Debug, Default)]
struct Faults {
    told: Vec<String>,
    ticks: Option<f64>,
}

impl Faults {
    fn add(&mut self, text: String, ticks: Option<f64>) {
        self.told.push(text);
        self.ticks = self.ticks.or(ticks);
    }
}

/// Where a value lies.
type Interval = (i64, i64);

impl Detector for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn looks_for(&self) -> &'static str {
        "counters that run backwards, jump, stand apart, or run at another rate than they say"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let cores: Vec<(u16, &CoreEntry)> =
            evidence.cores().filter(|(_, entry)| entry.state == core_state::UP).collect();
        let mut faults: BTreeMap<u16, Faults> = BTreeMap::new();
        direction(evidence, &cores, &mut faults);
        apart(evidence, &cores, &mut faults);
        let pairs = order(evidence, &mut faults);
        frequency(evidence, &cores, &mut faults);
        let suspect = |(core, faults): (u16, Faults)| {
            let text = format!("the counter of core {core} {}", faults.told.join("; it "));
            let mut suspect = Suspect::core(self.name(), Role::Clock, core, text);
            suspect.effect_ns = faults.ticks.map(|ticks| evidence.nanoseconds(ticks));
            suspect
        };
        let mut suspects: Vec<Suspect> = faults.into_iter().map(suspect).collect();
        suspects.extend(pairs);
        suspects.extend(rate(evidence));
        suspects
    }
}

fn times(count: u64) -> String {
    format!("{count} {}", plural(count, "time"))
}

/// Reads that went back, alone or in the order of records.
fn direction(evidence: &Evidence<'_>, cores: &[(u16, &CoreEntry)], faults: &mut BTreeMap<u16, Faults>) {
    for (core, entry) in cores {
        for (before, after, what) in [
            (entry.backwards, entry.backwards_after, "went backwards"),
            (entry.misreads, entry.misreads_after, "misread (one read too far on, the next back)"),
        ] {
            let text = match (before, after) {
                (0, 0) => continue,
                (before, 0) => format!("{what} {} in the self-test before the plan", times(before.into())),
                (0, after) => format!("{what} {} in the self-test after the plan", times(after.into())),
                (before, after) => {
                    format!("{what} {before} and {} in the self-tests before and after the plan", times(after.into()))
                }
            };
            faults.entry(*core).or_default().add(text, None);
        }
    }
    let mut lanes: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    for step in &evidence.ipis.step_backs {
        let (count, longest) = lanes.entry(step.core).or_default();
        *count += 1;
        *longest = (*longest).max(step.before.saturating_sub(step.t));
    }
    for (core, (count, longest)) in lanes {
        let text =
            format!("went back {} in the core's own records, by {}", times(count), evidence.length(longest as f64));
        faults.entry(core).or_default().add(text, Some(-(longest as f64)));
    }
}

/// Jumps between the two tests of skew, and skew.
fn apart(evidence: &Evidence<'_>, cores: &[(u16, &CoreEntry)], faults: &mut BTreeMap<u16, Faults>) {
    let boot = evidence.view().map_or(0, |view| view.directory.boot_core as u16);
    let against = |flags: u32, interval: &dyn Fn(&CoreEntry) -> Interval| -> BTreeMap<u16, Interval> {
        let measured = cores.iter().filter(|(core, entry)| *core != boot && entry.clock_flags & flags == flags);
        let mut all: BTreeMap<u16, Interval> = measured.map(|(core, entry)| (*core, interval(entry))).collect();
        // Bounds that cross, or that nobody's counter could have, were never measured.
        all.retain(|_, (low, high)| low <= high && low.unsigned_abs().max(high.unsigned_abs()) < 1 << 62);
        if !all.is_empty() {
            all.insert(boot, (0, 0));
        }
        all
    };
    let both = clock_flag::SKEW_BEFORE | clock_flag::SKEW_AFTER;
    let valid = |entry: &CoreEntry| {
        entry.skew_before_low <= entry.skew_before_high && entry.skew_after_low <= entry.skew_after_high
    };
    let changes = against(both, &|entry| {
        // No valid change where one of the two is none.
        let change = |a: i64, b: i64| a.saturating_sub(b);
        if !valid(entry) {
            return (1, 0);
        }
        (change(entry.skew_after_low, entry.skew_before_high), change(entry.skew_after_high, entry.skew_before_low))
    });
    let (jumps, _) = off(&changes);
    for (core, by) in &jumps {
        let bounds = |core: &CoreEntry, others: &str| {
            format!(
                "; against {others} it was ahead by {} to {} ticks before and {} to {} after",
                core.skew_before_low, core.skew_before_high, core.skew_after_low, core.skew_after_high
            )
        };
        let entry = cores.iter().find(|(id, _)| id == core && *core != boot);
        let text = format!(
            "jumped by at least {} during the plan{}",
            evidence.length((*by as f64).abs()),
            entry.map_or(String::new(), |(_, entry)| bounds(entry, "the boot core"))
        );
        faults.entry(*core).or_default().add(text, Some(*by as f64));
    }
    let mut told: BTreeSet<u16> = BTreeSet::new();
    for (flag, when) in [(clock_flag::SKEW_BEFORE, "before"), (clock_flag::SKEW_AFTER, "after")] {
        let before = flag == clock_flag::SKEW_BEFORE;
        let skews = against(flag, &|entry| match before {
            true => (entry.skew_before_low, entry.skew_before_high),
            false => (entry.skew_after_low, entry.skew_after_high),
        });
        let (skewed, agree) = off(&skews);
        for (core, by) in skewed {
            // After a jump, it is apart because of that.
            let explained = !before && jumps.iter().any(|(id, _)| *id == core);
            if explained || !told.insert(core) {
                continue;
            }
            let text = match skews.get(&core).filter(|_| core != boot) {
                Some((low, high)) if agree.contains(&boot) => format!(
                    "differs from the boot core's by {low} to {high} ticks {when} the plan, at least {}",
                    evidence.length((by as f64).abs())
                ),
                _ => format!(
                    "differs {when} the plan by at least {} from those of {}, which agree with each other",
                    evidence.length((by as f64).abs()),
                    list(agree.iter().copied())
                ),
            };
            faults.entry(core).or_default().add(text, Some(by as f64));
        }
    }
}

/// Who differs from what most agree on, and by how many ticks at least; and who agrees. A tie is the boot core's, whose value is 0.
fn off(intervals: &BTreeMap<u16, Interval>) -> (Vec<(u16, i64)>, BTreeSet<u16>) {
    // The boot core is measured against itself; the others' stamps were rounded.
    let slack = |(low, high): &Interval| {
        if (*low, *high) == (0, 0) { (0, 0) } else { (low.saturating_sub(ROUNDING), high.saturating_add(ROUNDING)) }
    };
    let holds = |own: &Interval, value: i64| {
        let (low, high) = slack(own);
        low <= value && value <= high
    };
    // Most of them share a point, if any do, where one of them begins: a sweep over begins and ends.
    let mut ends: Vec<(i64, bool)> = Vec::new();
    for own in intervals.values() {
        let (low, high) = slack(own);
        ends.extend([(low, false), (high, true)]);
    }
    ends.sort_unstable();
    let (mut open, mut most, mut value) = (0_usize, intervals.values().filter(|own| holds(own, 0)).count(), 0);
    for (at, is_end) in ends {
        if is_end {
            open = open.saturating_sub(1);
        } else {
            open += 1;
            if open > most {
                (most, value) = (open, at);
            }
        }
    }
    // Half of them are no majority that could accuse the boot core.
    if most * 2 <= intervals.len() {
        value = 0;
    }
    let differs = intervals.iter().filter(|(_, own)| !holds(own, value)).map(|(core, (low, high))| {
        (*core, if *low > value { low.saturating_sub(value) } else { high.saturating_sub(value) })
    });
    let agree = intervals.iter().filter(|(_, own)| holds(own, value)).map(|(core, _)| *core).collect();
    (differs.collect(), agree)
}

/// Answers that came before their question: of a core with all its partners, or of a pair, of which nobody can say which is wrong.
fn order(evidence: &Evidence<'_>, faults: &mut BTreeMap<u16, Faults>) -> Vec<Suspect> {
    let mut pairs: BTreeMap<(u16, u16), u64> = BTreeMap::new();
    for slot in evidence.ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
        *pairs.entry((slot.from, slot.to)).or_default() += slot.backwards;
    }
    let measured: Vec<(u16, u16)> = pairs.keys().copied().collect();
    // What a core is already suspected of explains its pairs.
    let early: BTreeSet<(u16, u16)> = pairs
        .iter()
        .filter(|((from, to), count)| **count > 0 && !faults.contains_key(from) && !faults.contains_key(to))
        .map(|(pair, _)| *pair)
        .collect();
    for ((from, to), count) in pairs.iter().filter(|(_, count)| **count > 0) {
        for (core, other) in [(from, to), (to, from)] {
            // Told once, with the first pair.
            if let Some(known) = faults.get_mut(core)
                && !known.told.iter().any(|text| text.contains("before they were sent"))
            {
                let text = format!(
                    "saw IPIs taken before they were sent, or was seen so ({} with core {other})",
                    times(*count)
                );
                known.add(text, None);
            }
        }
    }
    let mut suspects = Vec::new();
    for line in fold(&measured, early) {
        let count: u64 = pairs.iter().filter(|((from, to), _)| line.holds(*from, *to)).map(|(_, count)| count).sum();
        match line {
            Line::Receiver(core) => {
                let text = format!("is behind: {count} IPIs from several senders were taken before they were sent");
                faults.entry(core).or_default().add(text, None);
            }
            Line::Sender(core) | Line::Core(core) => {
                let text = format!("is ahead: {count} IPIs to several receivers were taken before they were sent");
                faults.entry(core).or_default().add(text, None);
            }
            Line::Pair(from, to) => {
                let text = format!(
                    "{count} {} from core {from} to core {to} taken before {} sent: one of the two counters is off",
                    super::plural_verb(count, "IPI"),
                    if count == 1 { "it was" } else { "they were" }
                );
                suspects.push(Suspect { role: Role::Clock, ..Suspect::pair("clock", from, to, text) });
            }
        }
    }
    suspects
}

/// CNTFRQ_EL0 of each core against what most say.
fn frequency(evidence: &Evidence<'_>, cores: &[(u16, &CoreEntry)], faults: &mut BTreeMap<u16, Faults>) {
    let boot = evidence.view().map_or(0, |view| view.directory.counter_hz);
    let mut said: BTreeMap<u64, usize> = BTreeMap::new();
    let told = || cores.iter().map(|(core, entry)| (*core, u64::from(entry.cntfrq))).filter(|(_, hz)| *hz != 0);
    for (_, hz) in told() {
        *said.entry(hz).or_default() += 1;
    }
    let cores_told: usize = said.values().sum();
    let most = said.into_iter().find(|(_, count)| count * 2 > cores_told).map_or(boot, |(hz, _)| hz);
    for (core, hz) in told().filter(|(_, hz)| *hz != most) {
        let others = if most == boot { "the boot core" } else { "most cores" };
        faults
            .entry(core)
            .or_default()
            .add(format!("runs at {hz} Hz by its CNTFRQ_EL0, and {others} say {most}"), None);
    }
}

/// The rate by the host's clock.
fn rate(evidence: &Evidence<'_>) -> Option<Suspect> {
    let hz = evidence.view().map_or(0, |view| view.directory.counter_hz);
    let check = evidence.ending?.counter_check?;
    if evidence.info.deterministic || evidence.live() || hz == 0 {
        return None;
    }
    let off = (check.measured_hz - hz as f64).abs();
    (off > 3.0 * check.uncertainty_hz + OTHER_RATE * hz as f64).then(|| {
        let text = format!(
            "the counter says {hz} Hz and ran at {:.0} Hz (+- {:.0}) by the host's clock",
            check.measured_hz, check.uncertainty_hz
        );
        Suspect { core: None, ..Suspect::core("clock", Role::Clock, 0, text) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::correlate::witness::StepBack;
    use crate::detect::scene::Scene;
    use trace_ring::layout::Context;

    fn clocks(scene: &Scene) -> Vec<(Option<u16>, String)> {
        scene.found("clock").into_iter().map(|suspect| (suspect.core, suspect.evidence)).collect()
    }

    /// Bounds around a skew, before and after.
    fn skew(scene: &mut Scene, core: usize, before: i64, after: i64) {
        let entry = &mut scene.view().cores[core];
        entry.clock_flags |= clock_flag::SKEW_BEFORE | clock_flag::SKEW_AFTER;
        (entry.skew_before_low, entry.skew_before_high) = (before - 5, before + 5);
        (entry.skew_after_low, entry.skew_after_high) = (after - 5, after + 5);
    }

    #[test]
    fn counters_that_agree_within_their_bounds_are_no_fault() {
        let mut scene = Scene::new(4);
        for core in 1..4 {
            skew(&mut scene, core, 5, 6);
        }
        assert_eq!(clocks(&scene), []);
        // A single tick is what two roundings explain.
        skew(&mut scene, 2, 6, 6);
        assert_eq!(clocks(&scene), []);
        skew(&mut scene, 2, 7, 7);
        assert_eq!(clocks(&scene).len(), 1);
    }

    #[test]
    fn a_core_that_stands_apart_is_blamed_and_the_boot_core_where_it_is_the_one() {
        let mut scene = Scene::new(4);
        for core in 1..4 {
            skew(&mut scene, core, 0, 0);
        }
        skew(&mut scene, 2, 400, 400);
        let found = clocks(&scene);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Some(2));
        assert!(found[0].1.contains("395 to 405 ticks before the plan"), "{}", found[0].1);
        // All others differ from the boot core by the same.
        let mut scene = Scene::new(4);
        for core in 1..4 {
            skew(&mut scene, core, -400, -400);
        }
        let found = clocks(&scene);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Some(0));
        assert!(found[0].1.contains("cores 1, 2, 3, which agree"), "{}", found[0].1);
        assert!(scene.found("clock")[0].effect_ns.unwrap() > 0.0, "it is ahead");
        // Of two, the boot core's is the time.
        let mut scene = Scene::new(2);
        skew(&mut scene, 1, 400, 400);
        assert_eq!(clocks(&scene).iter().map(|found| found.0).collect::<Vec<_>>(), [Some(1)]);
    }

    #[test]
    fn a_jump_is_told_as_a_jump_and_not_as_skew_besides() {
        let mut scene = Scene::new(4);
        for core in 1..4 {
            skew(&mut scene, core, 0, 0);
        }
        skew(&mut scene, 3, 0, -1000);
        let found = clocks(&scene);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Some(3));
        assert!(found[0].1.contains("jumped by at least"), "{}", found[0].1);
        assert!(!found[0].1.contains("differs"), "{}", found[0].1);
        // The boot core's jump moves all others.
        let mut scene = Scene::new(4);
        for core in 1..4 {
            skew(&mut scene, core, 0, 1000);
        }
        assert_eq!(clocks(&scene).iter().map(|found| found.0).collect::<Vec<_>>(), [Some(0)]);
    }

    #[test]
    fn all_that_is_wrong_with_one_counter_is_one_finding_worst_first() {
        let mut scene = Scene::new(4);
        for core in 1..4 {
            skew(&mut scene, core, 0, 0);
        }
        skew(&mut scene, 1, 300, 300);
        scene.view().cores[1].backwards = 3;
        scene.view().cores[1].misreads_after = 2;
        scene.view().cores[1].cntfrq = 1;
        scene.ipis.step_backs.push(StepBack { core: 1, context: Context::Irq, t: 100, before: 150 });
        let found = clocks(&scene);
        assert_eq!(found.len(), 1, "{found:?}");
        let text = &found[0].1;
        let order: Vec<usize> = ["went backwards 3", "misread", "went back 1 time", "differs", "CNTFRQ_EL0"]
            .iter()
            .map(|part| text.find(part).unwrap_or_else(|| panic!("{part} in {text}")))
            .collect();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn answers_before_their_question_blame_the_core_that_all_share() {
        let mut scene = Scene::new(4).phase("a", trace_ring::record::ReceiverState::Wfi, |_, _| vec![10; 20]);
        for slot in scene.ipis.slots.iter_mut().filter(|slot| slot.to == 2) {
            slot.backwards = 20;
        }
        let found = clocks(&scene);
        assert_eq!(found.len(), 1);
        assert!(found[0].0 == Some(2) && found[0].1.contains("is behind"), "{found:?}");
        // A skew of that core tells it all.
        skew(&mut scene, 2, -300, -300);
        let found = clocks(&scene);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.contains("differs") && found[0].1.contains("before they were sent"), "{found:?}");
        // One pair: nobody can say which of the two.
        let mut scene = Scene::new(4).phase("a", trace_ring::record::ReceiverState::Wfi, |_, _| vec![10; 20]);
        scene.slot(0, 3).backwards = 1;
        let found = scene.found("clock");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].role, found[0].from, found[0].to), (Role::Clock, Some(0), Some(3)));
    }

    #[test]
    fn cntfrq_is_what_most_cores_say() {
        let mut scene = Scene::new(4);
        scene.view().cores[2].cntfrq = 25_000_000;
        assert_eq!(clocks(&scene).iter().map(|found| found.0).collect::<Vec<_>>(), [Some(2)]);
        // Three of four against the boot core.
        let mut scene = Scene::new(4);
        for core in 1..4 {
            scene.view().cores[core].cntfrq = 25_000_000;
        }
        assert_eq!(clocks(&scene).iter().map(|found| found.0).collect::<Vec<_>>(), [Some(0)]);
    }
}
