//! Detectors of the call layer: callbacks that take too long, cores that never come back from one, descriptors that nobody
//! unlocks, calls that were lost or run twice.
//!
//! What stands still is found in the region as the target left it: each core's own line and the descriptors. A callback that runs
//! for longer than T while others wait for its core is the core's doing, whoever gave the run up.

use std::collections::{BTreeMap, BTreeSet};

use trace_ring::calls::{CallDescriptor, LiveEntry, call_flag, call_state, doing};
use trace_ring::layout::{LANES_PER_CORE, core_state, run_state};

use super::like::{SHARE, TICKS};
use super::{Detector, Evidence, FALSE_SHARE, Role, Suspect, list, plural};
use crate::capture::Ended;
use crate::correlate::calls::{Call, Callback, Waiting};
use crate::stats::{Samples, ln_more_often, robust, upper_tail};

/// The fewest callbacks of one core that have a median.
const FEWEST: u64 = 8;

/// The fewest cores of which one can be unlike the others.
const FEWEST_CORES: usize = 3;

/// A callback's median must lie this many robust deviations of its like beyond theirs.
const DEVIATIONS: f64 = 8.0;

/// What each core did when the run was cut short.
struct Standstill<'a> {
    evidence: &'a Evidence<'a>,
    live: &'a [LiveEntry],
    descriptors: &'a [CallDescriptor],
    now: u64,
    /// How long something must have lasted to be standing still, ticks.
    patience: u64,
}

impl<'a> Standstill<'a> {
    /// `None`: the plan ran to its end, or nobody knows what the cores do.
    fn of(evidence: &'a Evidence<'a>) -> Option<Self> {
        let view = evidence.view()?;
        if !matches!(view.status.state, run_state::RUNNING | run_state::ABORTED) {
            return None;
        }
        let timeout = evidence.ticks(evidence.info.plan.timeout_ns);
        // Whoever stops a run by hand may do so in the middle of anything.
        let by_hand = evidence.ending.is_some_and(|ending| ending.ended == Ended::Interrupted);
        Some(Standstill {
            evidence,
            live: &view.live,
            descriptors: &view.descriptors,
            now: view.status.ended.max(evidence.ipis.latest),
            patience: timeout.saturating_mul(if by_hand { 8 } else { 1 }).max(1),
        })
    }

    /// The cores that take part, and what they do.
    fn cores(&self) -> impl Iterator<Item = (u16, &'a LiveEntry)> {
        let live = self.live;
        let up = self.evidence.cores().filter(|(_, entry)| entry.state == core_state::UP);
        up.filter_map(move |(core, _)| Some((core, live.get(usize::from(core))?)))
    }

    /// Those of them that have stood still since their line was read: a snapshot may be older than the newest records.
    fn still(&self) -> impl Iterator<Item = (u16, &'a LiveEntry)> {
        let heads = self.evidence.view().map_or(&[][..], |view| &view.heads);
        let lanes = &self.evidence.ipis.lanes;
        self.cores().filter(move |(core, _)| {
            let lanes = lanes.iter().skip(usize::from(*core) * LANES_PER_CORE).take(LANES_PER_CORE);
            let head = heads.get(usize::from(*core)).map_or([0; LANES_PER_CORE], |line| line.head);
            lanes.zip(head).all(|(lane, head)| lane.written() <= head)
        })
    }

    /// Since when something has lasted, if that is too long.
    fn lasts(&self, since: u64) -> Option<u64> {
        self.now.checked_sub(since).filter(|length| since > 0 && *length > self.patience)
    }

    /// Calls on the queues of a core.
    fn queued(&self, core: u16) -> impl Iterator<Item = &'a CallDescriptor> {
        let locked = |call: &&CallDescriptor| call.flags & call_flag::LOCK != 0 && call.state == call_state::QUEUED;
        self.descriptors.iter().filter(move |call| call.target == core).filter(locked)
    }

    /// Calls that have been on a core's queue for too long.
    fn standing(&self, core: u16) -> Option<Standing<'a>> {
        let old = || self.queued(core).filter(|call| self.lasts(call.queued).is_some());
        // Whoever found the queue empty owes the SGI.
        let oldest = old().min_by_key(|call| call.queued)?;
        let own = |call: &&Call| call.target == core && call.queued == Some(oldest.queued);
        let recorded = self.evidence.ipis.calls.iter().flat_map(|calls| &calls.pending).find(own);
        let sent = recorded.is_some_and(|call| call.sent.is_some());
        let caller = self.live.get(usize::from(oldest.source));
        let elsewhere =
            |live: &LiveEntry| live.doing == doing::CALL && live.waits_for != core && live.since >= oldest.queued;
        let excused = !sent && caller.is_some_and(elsewhere);
        Some(Standing { core, count: old().count(), oldest, sent, excused })
    }

    /// The cores that wait for another.
    fn waiting(&self, core: u16) -> Vec<u16> {
        let waits = |live: &LiveEntry| {
            let descriptor = (live.waits_descriptor as usize).checked_sub(1).and_then(|at| self.descriptors.get(at));
            matches!(live.doing, doing::ANSWER | doing::CALL)
                && (live.waits_for == core || descriptor.is_some_and(|call| call.target == core))
        };
        self.cores().filter(|(id, live)| *id != core && waits(live)).map(|(id, _)| id).collect()
    }
}

/// Calls that stand on a queue and are not run.
struct Standing<'a> {
    core: u16,
    count: usize,
    oldest: &'a CallDescriptor,
    /// The SGI for them was sent, by the records.
    sent: bool,
    /// Their caller has not come to send it.
    excused: bool,
}

fn masked(live: &LiveEntry) -> bool {
    matches!(live.doing, doing::MASKED | doing::PRIORITY_MASKED)
}

/// Cores that never come back.
pub(super) struct StuckCore;

impl Detector for StuckCore {
    fn name(&self) -> &'static str {
        "stuck_core"
    }

    fn looks_for(&self) -> &'static str {
        "cores that stay in a callback, or masked, while others wait for them"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let Some(still) = Standstill::of(evidence) else { return Vec::new() };
        let mut callbacks = Vec::new();
        let mut masks = Vec::new();
        for (core, live) in still.still() {
            let (pending, waiting) = (still.queued(core).count() as u64, still.waiting(core));
            if pending == 0 && waiting.is_empty() {
                continue;
            }
            let (list_of, what, length) = if live.function != 0
                && let Some(length) = still.lasts(live.function_since)
            {
                (&mut callbacks, format!("has been in callback {}", evidence.function(live.function)), length)
            } else if masked(live)
                && let Some(length) = still.lasts(live.since)
            {
                (&mut masks, "has had its interrupts masked".into(), length)
            } else {
                continue;
            };
            let mut text = format!("core {core} {what} for {}", evidence.length(length as f64));
            if pending > 0 {
                let more = if pending == 1 { "is" } else { "are" };
                text += &format!("; {pending} {} {more} pending on its queue", plural(pending, "call"));
            }
            if !waiting.is_empty() {
                text += &format!("; {} for it", waits(&waiting));
            }
            let mut suspect = Suspect::core(self.name(), Role::Core, core, text);
            suspect.effect_ns = Some(evidence.nanoseconds(length as f64));
            list_of.push(suspect);
        }
        // A core that is held until another releases it may only suffer from the one that is stuck.
        if callbacks.is_empty() { masks } else { callbacks }
    }
}

fn waits(cores: &[u16]) -> String {
    format!("{} {}", list(cores.iter().copied()), if cores.len() == 1 { "waits" } else { "wait" })
}

/// Descriptors that stay locked.
pub(super) struct CsdLock;

impl Detector for CsdLock {
    fn name(&self) -> &'static str {
        "csd_lock"
    }

    fn looks_for(&self) -> &'static str {
        "calls whose function has run and whose descriptor stays locked while the caller waits"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let Some(still) = Standstill::of(evidence) else { return Vec::new() };
        let mut suspects = Vec::new();
        for (caller, live) in still.still().filter(|(_, live)| live.doing == doing::CALL) {
            let at = (live.waits_descriptor as usize).checked_sub(1);
            let Some(call) = at.and_then(|at| still.descriptors.get(at)) else { continue };
            let left = call.state == call_state::EXECUTED && call.flags & call_flag::LOCK != 0 && call.source == caller;
            let Some(length) = still.lasts(live.since).filter(|_| left) else { continue };
            let text = format!(
                "core {caller} has waited {} for {} on core {}, which has run: descriptor {} is still locked",
                evidence.length(length as f64),
                evidence.function(call.function),
                call.target,
                at.unwrap_or(0)
            );
            let mut suspect = Suspect::core(self.name(), Role::Callback, call.target, text);
            suspect.effect_ns = Some(evidence.nanoseconds(length as f64));
            suspects.push(suspect);
        }
        suspects
    }
}

/// Calls that were never executed.
pub(super) struct CallLost;

impl Detector for CallLost {
    fn name(&self) -> &'static str {
        "call_lost"
    }

    fn looks_for(&self) -> &'static str {
        "calls that were queued and never executed, though their target takes interrupts"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut suspects = self.by_records(evidence);
        let Some(still) = Standstill::of(evidence) else { return suspects };
        let mut standing: Vec<Standing<'_>> = Vec::new();
        for (core, live) in still.still() {
            let idle = live.irq == 0 && live.nmi == 0 && live.function == 0 && live.parked == 0 && !masked(live);
            let told = suspects.iter().any(|suspect| suspect.core == Some(core));
            if idle && !told {
                standing.extend(still.standing(core));
            }
        }
        // A caller that waits for another core before it sends is that one's victim, and so are the calls that rely on it.
        if standing.iter().any(|calls| !calls.excused) {
            standing.retain(|calls| !calls.excused);
        }
        for Standing { core, count, oldest, sent, .. } in standing {
            let length = evidence.length(still.now.saturating_sub(oldest.queued) as f64);
            let text = format!(
                "{count} {} on the queue of core {core}, which runs none: {} by core {} has stood there for {length}; {}",
                if count == 1 { "call stands" } else { "calls stand" },
                evidence.function(oldest.function),
                oldest.source,
                if sent { "its SGI was sent and did not come" } else { "its SGI was lost, or never sent" },
            );
            let mut suspect = Suspect::core(self.name(), Role::Callback, core, text);
            suspect.effect_ns = Some(evidence.nanoseconds(still.now.saturating_sub(oldest.queued) as f64));
            suspects.push(suspect);
        }
        suspects
    }
}

impl CallLost {
    fn by_records(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let Some(calls) = &evidence.ipis.calls else { return Vec::new() };
        let mut suspects = Vec::new();
        for (core, (queued, never)) in (0..).zip(&calls.targets) {
            if *never == 0 {
                continue;
            }
            let first = calls.lost.iter().find(|call| call.target == core);
            let text = format!(
                "{never} of {queued} calls to core {core} were never executed{}",
                first.map_or(String::new(), |call| format!("; the first: {}", told(evidence, call)))
            );
            suspects.push(Suspect::core(self.name(), Role::Callback, core, text));
        }
        suspects
    }
}

/// A call in words.
fn told(evidence: &Evidence<'_>, call: &Call) -> String {
    let mut text = format!("{} by core {}", evidence.function(call.function), call.caller);
    if call.call_site != 0 {
        text += &format!(" from {}", evidence.symbols.at_return(call.call_site));
    }
    text
}

/// By target: how many, and the first.
fn by_target(calls: &[Call]) -> BTreeMap<u16, (u64, &Call)> {
    let mut targets: BTreeMap<u16, (u64, &Call)> = BTreeMap::new();
    for call in calls {
        targets.entry(call.target).or_insert((0, call)).0 += 1;
    }
    targets
}

/// Calls that were executed twice.
pub(super) struct CallTwice;

impl Detector for CallTwice {
    fn name(&self) -> &'static str {
        "call_twice"
    }

    fn looks_for(&self) -> &'static str {
        "calls that were queued once and executed twice"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let calls = evidence.ipis.calls.as_ref().map_or(&[][..], |calls| &calls.twice);
        let suspect = |(core, (count, call)): (u16, (u64, &Call))| {
            let times = if count == 1 { "a call".into() } else { format!("{count} calls") };
            let text = format!("core {core} executed {times} twice; the first: {}", told(evidence, call));
            Suspect::core(self.name(), Role::Callback, core, text)
        };
        by_target(calls).into_iter().map(suspect).collect()
    }
}

/// Executions that nobody queued.
pub(super) struct CallOrphaned;

impl Detector for CallOrphaned {
    fn name(&self) -> &'static str {
        "call_orphaned"
    }

    fn looks_for(&self) -> &'static str {
        "executions that no record of a call explains"
    }

    fn advises(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let calls = evidence.ipis.calls.as_ref().map_or(&[][..], |calls| &calls.orphaned);
        let suspect = |(core, (count, call)): (u16, (u64, &Call))| {
            let text = format!(
                "core {core} executed {count} {} that no record queued; the first: {}",
                plural(count, "call"),
                told(evidence, call)
            );
            Suspect::core(self.name(), Role::Callback, core, text)
        };
        by_target(calls).into_iter().map(suspect).collect()
    }
}

/// Callers that waited long for a descriptor.
pub(super) struct CallWait;

impl Detector for CallWait {
    fn name(&self) -> &'static str {
        "call_wait"
    }

    fn looks_for(&self) -> &'static str {
        "callers that waited longer than T for a descriptor's lock"
    }

    fn advises(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let waits = evidence.ipis.calls.as_ref().map_or(&[][..], |calls| &calls.waits);
        let mut targets: BTreeMap<u16, Vec<&Waiting>> = BTreeMap::new();
        for wait in waits {
            targets.entry(wait.target).or_default().push(wait);
        }
        let suspect = |(core, waits): (u16, Vec<&Waiting>)| {
            let count: u64 = waits.iter().map(|wait| wait.count).sum();
            let longest = waits.iter().map(|wait| wait.longest).max().unwrap_or(0);
            let callers: BTreeSet<u16> = waits.iter().map(|wait| wait.caller).collect();
            let text = format!(
                "{} waited longer than T for calls to core {core}, {count} {}, at least {}",
                list(callers),
                plural(count, "time"),
                evidence.length(longest as f64)
            );
            let mut suspect = Suspect::core(self.name(), Role::Callback, core, text);
            suspect.effect_ns = Some(evidence.nanoseconds(longest as f64));
            suspect
        };
        targets.into_iter().map(suspect).collect()
    }
}

/// Callbacks that take longer on one core than on its like.
pub(super) struct SlowCallback;

/// Function, argument, and type of core: callbacks with the same may be compared.
type Alike = (u64, u32, u32);

/// A core on which a function is slow.
struct Slow {
    function: u64,
    core: u16,
    /// Ticks.
    effect: f64,
    usual: f64,
    others: usize,
    /// How likely chance alone makes it so slow: by the spread of the cores, and by the lengths of its calls among theirs.
    chance: f64,
}

impl Detector for SlowCallback {
    fn name(&self) -> &'static str {
        "slow_callback"
    }

    fn looks_for(&self) -> &'static str {
        "callbacks that take longer on one core than on its like"
    }

    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let callbacks = evidence.ipis.calls.as_ref().map_or(&[][..], |calls| &calls.callbacks);
        let midr = |core: u16| {
            let cores = evidence.view().map_or(&[][..], |view| &view.cores);
            cores.get(usize::from(core)).map_or(0, |core| core.midr)
        };
        // Like is compared with like: one function with one argument, on one type of core.
        let mut groups: BTreeMap<Alike, Vec<(u16, f64)>> = BTreeMap::new();
        let mut lengths: BTreeMap<Alike, Vec<(u16, &Samples)>> = BTreeMap::new();
        for Callback { function, info, core, samples } in callbacks {
            let summary = samples.clone().summary(1.0).filter(|summary| summary.n >= FEWEST);
            if let Some((summary, info)) = summary.zip(*info) {
                let key = (*function, info, midr(*core));
                groups.entry(key).or_default().push((*core, summary.median));
                lengths.entry(key).or_default().push((*core, samples));
            }
        }
        groups.retain(|_, cores| cores.len() >= FEWEST_CORES);
        let tests: usize = groups.values().map(Vec::len).sum();
        let mut cores: BTreeMap<u16, Vec<Slow>> = BTreeMap::new();
        for (key, medians) in &groups {
            for mut slow in slow_ones(key.0, medians) {
                // Medians of few calls of many lengths stand apart by chance: the calls themselves have to.
                let beyond = (slow.usual + slow.effect / 2.0) as u64;
                let (mut own, mut others) = ((0, 0), (0, 0));
                for (core, samples) in lengths.get(key).into_iter().flatten() {
                    let (late, n) =
                        if *core == slow.core { (&mut own.0, &mut own.1) } else { (&mut others.0, &mut others.1) };
                    *late += samples.above(beyond);
                    *n += samples.len();
                }
                slow.chance = slow.chance.max(ln_more_often(own.0, own.1, others.0, others.1).exp());
                cores.entry(slow.core).or_default().push(slow);
            }
        }
        let clearest = |slow: &[Slow]| slow.iter().map(|slow| slow.chance).fold(1.0, f64::min);
        let mut ordered: Vec<(u16, Vec<Slow>)> = cores.into_iter().collect();
        ordered.sort_by(|a, b| clearest(&a.1).total_cmp(&clearest(&b.1)));
        let mut suspects = Vec::new();
        for (rank, (core, slow)) in ordered.into_iter().enumerate() {
            // Benjamini and Hochberg: the chance of the clearest, times tests over rank.
            let q = (clearest(&slow) * tests.max(1) as f64 / (rank + 1) as f64).min(1.0);
            let Some(worst) = slow.iter().max_by(|a, b| a.effect.total_cmp(&b.effect)) else { continue };
            if q > FALSE_SHARE {
                continue;
            }
            let more = slow.iter().map(|slow| slow.function).collect::<BTreeSet<_>>().len() as u64 - 1;
            let mut text = format!(
                "{} on core {core} takes {} longer than the median of {} on {} other cores",
                evidence.function(worst.function),
                evidence.length(worst.effect),
                evidence.length(worst.usual),
                worst.others
            );
            if more > 0 {
                text +=
                    &format!("; {more} more {} slow there", if more == 1 { "function is" } else { "functions are" });
            }
            let mut suspect = Suspect::core(self.name(), Role::Callback, core, text);
            suspect.effect_ns = Some(evidence.nanoseconds(worst.effect));
            suspect.q_value = Some(q);
            suspects.push(suspect);
        }
        suspects
    }
}

/// The cores whose median is shifted among their like.
fn slow_ones(function: u64, medians: &[(u16, f64)]) -> Vec<Slow> {
    let mut values: Vec<f64> = medians.iter().map(|(_, median)| *median).collect();
    let Some((usual, spread)) = robust(&mut values, 1.0) else { return Vec::new() };
    let threshold = usual + (DEVIATIONS * spread).max(TICKS).max(SHARE * usual);
    let others = medians.len() - 1;
    let slow = medians.iter().filter(|(_, median)| *median > threshold);
    slow.map(|(core, median)| {
        let effect = median - usual;
        Slow { function, core: *core, effect, usual, others, chance: upper_tail(effect / spread) }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_slow_only_among_its_like() {
        let cores = |medians: &[f64]| {
            let medians: Vec<(u16, f64)> = (0..).zip(medians.iter().copied()).collect();
            slow_ones(1, &medians).into_iter().map(|slow| slow.core).collect::<Vec<_>>()
        };
        assert_eq!(cores(&[20.0, 21.0, 900.0, 20.0]), [2]);
        assert_eq!(cores(&[20.0, 900.0, 20.0]), [1]);
        // A tick, a share, a spread: all are within what machines do.
        assert!(cores(&[5.0, 6.0, 7.0]).is_empty());
        assert!(cores(&[1000.0, 1000.0, 1240.0]).is_empty());
        assert!(cores(&[100.0, 130.0, 160.0, 190.0, 220.0]).is_empty());
        assert!(cores(&[20.0, 900.0]).is_empty(), "two can't say which is wrong");
    }

    #[test]
    fn cores_are_listed_in_words() {
        assert_eq!(list([3]), "core 3");
        assert_eq!(list([1, 2]), "cores 1, 2");
        assert_eq!(list(0..7), "cores 0, 1, 2, 3 and 3 more");
        assert_eq!(waits(&[4]), "core 4 waits");
    }
}
