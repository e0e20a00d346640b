//! Detectors of waits: time that was taken from cores, and SGIs that stood pending until something else woke their core.
//!
//! Both rest on heartbeats, which are a core's own. A core that was away is late for its heartbeats, too: its host had it, or its
//! firmware, and its IPIs are excused. A core that takes a heartbeat in time while an SGI stands pending was there: that SGI was not
//! signalled, or not taken.
//!
//! The host's own witness, where it has one, is the time that a core's thread stood in the queue of a processor.

use std::collections::BTreeMap;

use trace_ring::layout::core_state;

use super::like::{FEWEST_PAIRS, Line, SHARE, TICKS};
use super::outcomes::fold;
use super::{Detector, Evidence, FALSE_SHARE, Role, Suspect, list, plural};
use crate::correlate::Slot;
use crate::correlate::witness::GapTotals;
use crate::stats::{ln_at_least, median};

/// A core stands apart if so many times the next one's time was taken from it …
const APART: u64 = 4;
/// … in so many gaps.
const FEWEST_APART: u64 = 3;

/// On silicon, one gap is an event; as many are a habit.
const HABIT: u64 = 2;

/// A host that was so busy with others says so even where no gap was seen.
const BUSY: f64 = 0.1;

/// Seconds that a thread must have stood in its queue to excuse a core that did not arrive: its deadline is 5 s and more.
const NO_SHOW_S: f64 = 1.0;

/// The share of a core's latencies that must be excused for the rest to be excused with them.
const MOSTLY: f64 = 0.25;

/// Cores that were taken away.
pub(super) struct StolenTime;

impl Detector for StolenTime {
    fn name(&self) -> &'static str {
        "stolen_time"
    }

    fn looks_for(&self) -> &'static str {
        "cores that were away while they waited: their own timer's interrupt came late"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let gaps: BTreeMap<u16, &GapTotals> =
            (0..).zip(&evidence.ipis.gap_totals).filter(|(_, gaps)| gaps.count > 0).collect();
        if evidence.live() {
            return self.host(evidence, &gaps).into_iter().collect();
        }
        let habit = gaps.into_iter().filter(|(_, gaps)| gaps.count >= HABIT);
        let suspect = |(core, gaps): (u16, &GapTotals)| {
            let text = format!(
                "core {core} was away {} while it waited, {} together, {} at most: its firmware or a hypervisor had it{}{}",
                times(gaps.count),
                evidence.length(gaps.ticks as f64),
                evidence.length(gaps.longest as f64),
                excused(evidence, Some(core)),
                unrecorded(gaps.unrecorded)
            );
            let mut suspect = Suspect::core(self.name(), Role::Core, core, text);
            suspect.effect_ns = Some(evidence.nanoseconds(gaps.longest as f64));
            suspect
        };
        habit.map(suspect).collect()
    }
}

impl StolenTime {
    /// All that the host took, in one finding.
    fn host(&self, evidence: &Evidence<'_>, gaps: &BTreeMap<u16, &GapTotals>) -> Option<Suspect> {
        let (mut parts, mut longest, mut apart) = (Vec::new(), 0, None);
        let mut most: Vec<(u16, &GapTotals)> = gaps.iter().map(|(core, gaps)| (*core, *gaps)).collect();
        most.sort_by_key(|(core, gaps)| (std::cmp::Reverse(gaps.ticks), *core));
        if let Some((core, worst)) = most.first().copied() {
            let (count, ticks) = most.iter().fold((0_u64, 0_u64), |sum, (_, gaps)| {
                (sum.0.saturating_add(gaps.count), sum.1.saturating_add(gaps.ticks))
            });
            longest = most.iter().map(|(_, gaps)| gaps.longest).max().unwrap_or(0);
            let next = most.get(1).map_or(0, |(_, gaps)| gaps.ticks);
            if worst.count >= FEWEST_APART && worst.ticks >= next.saturating_mul(APART) {
                apart = Some(core);
            }
            let mut text = format!(
                "{} {} away {} while waiting, {} together, {} at most",
                list(most.iter().map(|(core, _)| *core)),
                if most.len() == 1 { "was" } else { "were" },
                times(count),
                evidence.length(ticks as f64),
                evidence.length(longest as f64)
            );
            if most.len() > 1 {
                text += &format!(
                    ", core {core} the most ({}, {})",
                    times(worst.count),
                    evidence.length(worst.ticks as f64)
                );
            }
            text += &excused(evidence, None);
            text += &unrecorded(gaps.values().map(|gaps| gaps.unrecorded).sum());
            parts.push(text);
        }
        parts.extend(waited(evidence, gaps));
        let busy = evidence.ending.and_then(|ending| ending.steal).filter(|share| *share >= BUSY);
        parts.extend(
            busy.map(|share| format!("others took {:.0} % of the host's processor time during the run", share * 100.0)),
        );
        // Threads wait a little on every host: that alone is no finding.
        if gaps.is_empty() && busy.is_none() {
            return None;
        }
        Some(Suspect {
            core: apart,
            effect_ns: (longest > 0).then(|| evidence.nanoseconds(longest as f64)),
            ..Suspect::core(self.name(), Role::Host, 0, parts.join("; "))
        })
    }
}

fn times(count: u64) -> String {
    format!("{count} {}", plural(count, "time"))
}

/// What the host's scheduler says of the threads of cores that were away, or of all where none was.
fn waited(evidence: &Evidence<'_>, gaps: &BTreeMap<u16, &GapTotals>) -> Option<String> {
    let load = evidence.ending?.host_load.as_ref()?;
    let concerned = load.threads.iter().filter(|thread| gaps.is_empty() || gaps.contains_key(&thread.core));
    let waited: Vec<_> = concerned.filter(|thread| thread.waited_s > 0.0).collect();
    let seconds: f64 = waited.iter().map(|thread| thread.waited_s).sum();
    let length = super::duration(seconds * 1e9, 1e3);
    Some(if waited.is_empty() {
        "by the host's scheduler their threads did not wait for a processor: something above the host had it, or it was not running the \
         emulator's code"
            .into()
    } else {
        format!(
            "by the host's scheduler the {} of {} stood {length} in the queue of its {} {}",
            plural(waited.len() as u64, "thread"),
            list(waited.iter().map(|thread| thread.core)),
            load.processors,
            plural(load.processors.into(), "processor")
        )
    })
}

/// Latencies that are excused, of one receiver or of all.
fn sum(evidence: &Evidence<'_>, core: Option<u16>) -> (u64, u64, u64) {
    let timed = |slot: &&Slot| {
        let phase = evidence.info.plan.phases.get(usize::from(slot.phase));
        phase.is_some_and(|phase| phase.timed) && core.is_none_or(|core| slot.to == core)
    };
    evidence.ipis.slots.iter().filter(timed).fold((0, 0, 0), |(stolen, doubtful, all), slot| {
        let n = slot.latency.map_or(0, |latency| latency.n);
        (
            stolen.saturating_add(slot.excused.stolen),
            doubtful.saturating_add(slot.excused.doubtful),
            all.saturating_add(n),
        )
    })
}

fn excused(evidence: &Evidence<'_>, core: Option<u16>) -> String {
    match sum(evidence, core) {
        (0, 0, _) => String::new(),
        (stolen, 0, all) => format!("; {stolen} of {all} latencies are excused by that"),
        (stolen, doubtful, all) => format!(
            "; {stolen} of {all} latencies are excused by that, and of {doubtful} more nobody can say whether they were late besides"
        ),
    }
}

fn unrecorded(count: u64) -> String {
    if count == 0 {
        return String::new();
    }
    let verb = if count == 1 { "has" } else { "have" };
    format!("; {count} {} {verb} no record: latencies in them can't be told from late ones", plural(count, "gap"))
}

/// Whether so many of a receiver's latencies are excused that the others are not believed either.
pub(super) fn mostly(evidence: &Evidence<'_>, core: u16) -> bool {
    let (stolen, doubtful, all) = sum(evidence, Some(core));
    all > 0 && (stolen + doubtful) as f64 >= MOSTLY * all as f64
}

/// Whether a host left too few latencies to judge: less than half.
pub(super) fn too_much(evidence: &Evidence<'_>) -> bool {
    let (stolen, doubtful, all) = sum(evidence, None);
    evidence.live() && (stolen + doubtful).saturating_mul(2) > all
}

/// What excuses a core that did not come, or stands still, on a machine whose host decides when cores run: that the core's thread
/// stood in the host's queue, or that the core was away, for as long as it takes. `None`: nothing does.
pub(super) fn starved(evidence: &Evidence<'_>, found: &Suspect) -> Option<String> {
    let core = found.core.filter(|_| evidence.live())?;
    let needed_s = match found.detector {
        "core_missing" => {
            let (_, entry) = evidence.cores().find(|(id, _)| *id == core)?;
            // PSCI's refusal, a missing redistributor, an absent core: no host does that.
            matches!(entry.state, core_state::NO_SHOW | core_state::STARTING).then_some(NO_SHOW_S)?
        }
        // What stood still for long was not waiting for a processor all that time, unless half of it is accounted for.
        "stuck_core" | "csd_lock" | "call_lost" => found.effect_ns? / 2e9,
        _ => return None,
    };
    let thread = evidence.thread(core).map_or(0.0, |thread| thread.waited_longest_s);
    let gaps = evidence.ipis.gap_totals.get(usize::from(core)).map_or(0, |gaps| gaps.longest);
    let away = evidence.nanoseconds(gaps as f64) / 1e9;
    if thread >= needed_s {
        let length = super::duration(thread * 1e9, 1e3);
        return Some(format!("; the host kept the core's thread waiting for {length}, so this may be its doing"));
    }
    (away >= needed_s)
        .then(|| format!("; the core was away for {}, so this may be its host's doing", evidence.length(gaps as f64)))
}

/// SGIs that were taken only after another event.
pub(super) struct Recovery;

impl Detector for Recovery {
    fn name(&self) -> &'static str {
        "recovery"
    }

    fn looks_for(&self) -> &'static str {
        "SGIs that stood pending and enabled until another interrupt woke their core"
    }

    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut pairs: BTreeMap<(u16, u16), Waits> = BTreeMap::new();
        for slot in evidence.ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
            pairs.entry((slot.from, slot.to)).or_default().add(slot);
        }
        let measured: Vec<(u16, u16)> = pairs.keys().copied().collect();
        let mut receivers: BTreeMap<u16, Waits> = BTreeMap::new();
        for ((_, to), waits) in &pairs {
            receivers.entry(*to).or_default().join(waits);
        }
        // A receiver is tested as a whole, so that one event in each of its pairs counts.
        let cut = (FALSE_SHARE / receivers.len().max(1) as f64).ln();
        receivers.retain(|core, waits| waits.beyond_chance(evidence, *core, cut));
        let with = pairs.iter().filter(|((_, to), waits)| waits.count > 0 && receivers.contains_key(to));
        let with = with.map(|(pair, _)| *pair).collect();
        let mut suspects = Vec::new();
        for line in fold(&measured, with) {
            match line {
                Line::Receiver(_) | Line::Pair(..) => suspects.extend(self.suspect(evidence, line, &pairs)),
                // Senders don't wake receivers: a row is as many pairs.
                Line::Sender(_) | Line::Core(_) => {
                    let own = pairs.iter().filter(|((from, to), waits)| line.holds(*from, *to) && waits.count > 0);
                    let own = own.map(|((from, to), _)| Line::Pair(*from, *to));
                    suspects.extend(own.filter_map(|pair| self.suspect(evidence, pair, &pairs)));
                }
            }
        }
        // Several pairs of one receiver that make no whole column are that receiver, too.
        let whole: Vec<u16> = receivers.keys().copied().filter(|core| several(&suspects, *core)).collect();
        for core in whole {
            suspects.retain(|suspect| suspect.to != Some(core));
            suspects.extend(self.suspect(evidence, Line::Receiver(core), &pairs));
        }
        suspects.sort_by_key(|suspect| (suspect.core, suspect.from, suspect.to));
        suspects
    }
}

fn several(suspects: &[Suspect], core: u16) -> bool {
    suspects.iter().filter(|suspect| suspect.to == Some(core)).count() >= FEWEST_PAIRS - 1
}

/// What recovered on a way, and how long it usually waits.
#[derive(Clone, Debug, Default)]
struct Waits {
    count: u64,
    longest: u64,
    sent: u64,
    /// Ticks in which an SGI stood pending that came by itself.
    pending: f64,
    /// Medians of slots, ticks.
    usual: Vec<f64>,
}

impl Waits {
    fn add(&mut self, slot: &Slot) {
        self.count += slot.recovered.count;
        self.longest = self.longest.max(slot.recovered.longest);
        self.sent += slot.counts.sent;
        if let Some(latency) = slot.latency {
            self.pending += latency.median * latency.n as f64;
            self.usual.push(latency.median);
        }
    }

    fn join(&mut self, other: &Waits) {
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
        self.sent += other.sent;
        self.pending += other.pending;
        self.usual.extend(&other.usual);
    }

    fn median(&self) -> f64 {
        median(&mut self.usual.clone()).unwrap_or(0.0)
    }

    /// A heartbeat falls into the wait for an SGI now and then, as often as such waits take of the time between two.
    fn beyond_chance(&self, evidence: &Evidence<'_>, core: u16, cut: f64) -> bool {
        let usual = self.median();
        let long = self.longest as f64 > usual + TICKS.max(SHARE * usual);
        if self.count == 0 || !long {
            return false;
        }
        let beats = evidence.ipis.gap_totals.get(usize::from(core)).map_or(0, |gaps| gaps.heartbeats);
        let span = evidence.view().map_or(0, |view| view.status.ended.saturating_sub(view.status.started));
        let expected = self.pending * beats.max(self.count) as f64 / span.max(1) as f64;
        ln_at_least(self.count, expected) <= cut
    }
}

impl Recovery {
    fn suspect(&self, evidence: &Evidence<'_>, line: Line, pairs: &BTreeMap<(u16, u16), Waits>) -> Option<Suspect> {
        let mut waits = Waits::default();
        pairs.iter().filter(|((from, to), _)| line.holds(*from, *to)).for_each(|(_, own)| waits.join(own));
        let (to, whose) = match line {
            Line::Pair(from, to) => (to, format!("from core {from} to core {to}")),
            Line::Receiver(core) | Line::Sender(core) | Line::Core(core) => (core, format!("to core {core}")),
        };
        let beats = evidence.ipis.gap_totals.get(usize::from(to)).map_or(0, |gaps| gaps.heartbeats);
        let text = format!(
            "{} of {} IPIs {whose} were taken only after another interrupt had woken the core, {} after they were sent at most (usual: {}): \
             the SGI stood pending and enabled while core {to} took a heartbeat in time ({beats} in the run)",
            waits.count,
            waits.sent,
            evidence.length(waits.longest as f64),
            evidence.length(waits.median())
        );
        let mut suspect = match line {
            Line::Pair(from, to) => Suspect::pair(self.name(), from, to, text),
            _ => Suspect::core(self.name(), Role::Receiver, to, text),
        };
        suspect.effect_ns = Some(evidence.nanoseconds(waits.longest as f64 - waits.median()));
        (waits.count > 0).then_some(suspect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{HostLoad, ThreadLoad, VerdictScope};
    use crate::correlate::witness::Recovered;
    use crate::detect::Verdict;
    use crate::detect::scene::{HZ, Scene};
    use trace_ring::record::ReceiverState::Wfi;

    const MS: u64 = HZ / 1000;

    fn quiet(cores: u16) -> Scene {
        Scene::new(cores).phase("wfi", Wfi, |_, _| vec![10; 100])
    }

    fn away(scene: &mut Scene, core: usize, count: u64, longest: u64) {
        scene.ipis.gap_totals[core] =
            GapTotals { count, ticks: longest * count, longest, heartbeats: 1000, unrecorded: 0 };
    }

    fn waited(scene: &mut Scene, waits: &[f64]) {
        let thread = |(core, waited_s): (u16, &f64)| ThreadLoad {
            core,
            ran_s: 1.0,
            waited_s: *waited_s,
            waited_longest_s: *waited_s,
        };
        let threads = (0..).zip(waits).map(thread).collect();
        scene.ending.host_load = Some(HostLoad { processors: 2, threads });
    }

    #[test]
    fn an_emulators_host_is_named_and_never_decides() {
        for scope in [VerdictScope::Emulated, VerdictScope::Virtualized] {
            let mut scene = quiet(4).scope(scope);
            away(&mut scene, 1, 2, 4 * MS);
            away(&mut scene, 2, 3, MS);
            scene.excuse(0, 1, 2, 4 * MS);
            let found = scene.detect();
            assert_eq!((found.suspects.len(), found.verdict), (0, Verdict::Clean));
            let [stolen] = found.advisories.as_slice() else { panic!("{:?}", found.advisories) };
            assert_eq!((stolen.detector, stolen.role, stolen.core), ("stolen_time", Role::Host, None));
            for part in [
                "cores 1, 2 were away 5 times",
                "11.0 ms together, 4.00 ms at most",
                "core 1 the most",
                "2 of 1200 latencies",
            ] {
                assert!(stolen.evidence.contains(part), "{part} in {}", stolen.evidence);
            }
        }
    }

    #[test]
    fn a_core_that_is_taken_away_much_more_than_the_others_is_named() {
        let mut scene = quiet(4).emulated();
        away(&mut scene, 1, 10, 4 * MS);
        away(&mut scene, 2, 1, MS);
        scene.ipis.gap_totals[1].unrecorded = 4;
        scene.slot(0, 1).excused.doubtful = 3;
        scene.slot(0, 1).excused.stolen = 5;
        let found = scene.found("stolen_time");
        assert_eq!(found[0].core, Some(1));
        assert!(found[0].evidence.contains("of 3 more nobody can say"), "{}", found[0].evidence);
        assert!(found[0].evidence.contains("4 gaps have no record"), "{}", found[0].evidence);
    }

    #[test]
    fn the_hosts_own_account_of_threads_is_told() {
        let mut scene = quiet(4).emulated();
        waited(&mut scene, &[0.0, 0.25, 0.0, 0.5]);
        assert_eq!(scene.found("stolen_time"), [], "every host lets threads wait a little");
        away(&mut scene, 1, 1, 4 * MS);
        let text = &scene.found("stolen_time")[0].evidence;
        assert!(text.contains("the thread of core 1 stood 250 ms in the queue of its 2 processors"), "{text}");
        waited(&mut scene, &[0.0; 4]);
        let text = &scene.found("stolen_time")[0].evidence;
        assert!(text.contains("did not wait for a processor"), "{text}");
        let mut scene = quiet(4).emulated();
        scene.ending.steal = Some(0.4);
        assert!(scene.found("stolen_time")[0].evidence.contains("40 %"));
        // Counted instructions don't mind a busy host.
        let mut scene = quiet(4);
        scene.ending.steal = Some(0.9);
        assert_eq!(scene.found("stolen_time"), []);
    }

    #[test]
    fn on_silicon_a_habit_of_gaps_is_the_cores_and_explains_its_tail() {
        let tail = |at: u64| if at.is_multiple_of(100) { 2000 } else { 10 };
        let mut scene = Scene::new(4)
            .phase("wfi", Wfi, |_, to| (0..1000).map(|at| if to == 2 { tail(at) } else { 10 }).collect())
            .scope(VerdictScope::Silicon);
        assert_eq!(scene.detect().suspects[0].detector, "tail");
        away(&mut scene, 2, 1, MS);
        assert_eq!(scene.detect().suspects[0].detector, "tail", "one gap is no habit");
        away(&mut scene, 2, 7, MS);
        let found = scene.detect();
        let [stolen] = found.suspects.as_slice() else { panic!("{found:?}") };
        assert_eq!((stolen.detector, stolen.role, stolen.core), ("stolen_time", Role::Core, Some(2)));
        assert_eq!((found.verdict, stolen.effect_ns), (Verdict::Suspect, Some(1e6)));
        // Another core's tail is another fault.
        away(&mut scene, 2, 0, 0);
        away(&mut scene, 1, 7, MS);
        let found: Vec<_> = scene.detect().suspects.iter().map(|suspect| (suspect.detector, suspect.core)).collect();
        assert_eq!(found, [("stolen_time", Some(1)), ("tail", Some(2))]);
    }

    #[test]
    fn a_shifted_middle_is_not_explained_by_some_gaps_and_is_where_most_is_excused() {
        let mut scene = Scene::new(4)
            .phase("wfi", Wfi, |_, to| vec![if to == 2 { 400 } else { 10 }; 100])
            .scope(VerdictScope::Silicon);
        away(&mut scene, 2, 7, MS);
        let detectors =
            |scene: &Scene| scene.detect().suspects.iter().map(|suspect| suspect.detector).collect::<Vec<_>>();
        assert_eq!(detectors(&scene), ["stolen_time", "late"]);
        for from in [0, 1, 3] {
            scene.slot(from, 2).excused.stolen = 30;
        }
        assert_eq!(detectors(&scene), ["stolen_time"]);
    }

    fn recover(scene: &mut Scene, from: u16, to: u16, count: u64, longest: u64) {
        scene.slot(from, to).recovered = Recovered { count, longest };
        scene.ipis.gap_totals[usize::from(to)].heartbeats = 1000;
    }

    #[test]
    fn sgis_that_only_a_heartbeat_brought_blame_the_receiver_or_the_pair() {
        let mut scene = Scene::new(4)
            .phase("wfi", Wfi, |_, to| (0..1000).map(|at| if to == 2 && at % 50 == 0 { MS } else { 10 }).collect());
        for from in [0, 1, 3] {
            recover(&mut scene, from, 2, 20, MS);
        }
        let found = scene.detect();
        let [suspect] = found.suspects.as_slice() else { panic!("{found:?}") };
        assert_eq!((suspect.detector, suspect.role, suspect.core), ("recovery", Role::Receiver, Some(2)));
        assert!(
            suspect.evidence.starts_with("60 of 3000 IPIs to core 2 were taken only after"),
            "{}",
            suspect.evidence
        );
        assert!(suspect.evidence.contains("1.00 ms after"), "{}", suspect.evidence);

        let mut scene = quiet(4);
        recover(&mut scene, 0, 3, 3, MS);
        let found = scene.detect();
        let [suspect] = found.suspects.as_slice() else { panic!("{found:?}") };
        assert_eq!((suspect.role, suspect.from, suspect.to), (Role::Pair, Some(0), Some(3)));
        // On a live emulator an absent core and a deaf one are hard to tell: it is advice.
        let found = scene.emulated().detect();
        assert_eq!((found.suspects.len(), found.advisories.len(), found.verdict), (0, 1, Verdict::Clean));
    }

    #[test]
    fn heartbeats_that_fall_into_a_wait_by_chance_are_no_recovery() {
        // 300 waits of 10 us with a heartbeat each millisecond: three coincide.
        let mut scene = Scene::new(4).phase("wfi", Wfi, |_, _| vec![MS / 100; 100]);
        for from in [0, 1, 3] {
            recover(&mut scene, from, 2, 1, MS / 50);
        }
        assert_eq!(scene.found("recovery"), []);
        // And are not if they wait no longer than others.
        let mut scene = quiet(4);
        recover(&mut scene, 0, 2, 50, 11);
        assert_eq!(scene.found("recovery"), []);
    }
}
