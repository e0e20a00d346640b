//! Detectors of latencies: a shifted middle, a late tail, a wake-up that takes long in one state only.
//!
//! The three are one analysis. Like pairs form groups, [`super::like`] says what stands apart in each, and all tests of the run share
//! one allowance of false discoveries. Then what was found is told once: a line that is late in several groups is one finding, its
//! pairs are none, a core that is late both ways is one core, and a shifted middle has a late tail by itself.

use std::collections::{BTreeMap, BTreeSet};

use trace_ring::calls::IpiKind;
use trace_ring::layout::CoreEntry;
use trace_ring::record::ReceiverState;

use super::like::{Apart, Bounds, Cell, Lengths, Line, SHARES, bounds, moved, peel, tests};
use super::{Detector, Evidence, FALSE_SHARE, Role, Suspect};
use crate::capture::VerdictScope;
use crate::correlate::Slot;
use crate::stats::{Figures, false_shares, median};

/// The fewest latencies of a pair that are compared.
const FEWEST: u64 = 8;

/// In the states in which it is not late, a slow receiver shows at most this share of what it shows in the others.
const ELSEWHERE: f64 = 0.25;

/// Phases that evidence names one by one.
const NAMED: usize = 3;

/// What is alike: the latencies of pairs with the same key may be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Index of the phase.
    pub phase: u16,
    /// What the SGIs ask for, [`IpiKind::slot_code`]; 0: bare SGIs.
    pub kind: u8,
    /// INTID.
    pub intid: u8,
    /// The receiver's state.
    pub state: u8,
    /// MIDR_EL1 of the sender.
    pub from_midr: u32,
    /// MIDR_EL1 of the receiver.
    pub to_midr: u32,
    /// [`distance`]; 0: a core and itself.
    pub distance: u8,
}

impl Group {
    /// The group of a pair slot.
    pub fn of(slot: &Slot, cores: &[CoreEntry]) -> Self {
        let core = |id: u16| cores.get(usize::from(id)).map_or((0, 0), |core| (core.midr, core.mpidr));
        let ((from_midr, from), (to_midr, to)) = (core(slot.from), core(slot.to));
        Group {
            phase: slot.phase,
            kind: slot.kind.map_or(0, IpiKind::slot_code),
            intid: slot.intid,
            state: slot.state.code(),
            from_midr,
            to_midr,
            distance: if slot.from == slot.to { 0 } else { distance(from, to) },
        }
    }
}

/// How far apart two cores are by their affinities: the highest level that differs, 1 to 4.
pub fn distance(a: u64, b: u64) -> u8 {
    let differs = a ^ b;
    match (differs >> 32 & 0xFF, differs >> 16 & 0xFF, differs >> 8 & 0xFF) {
        (0, 0, 0) => 1,
        (0, 0, _) => 2,
        (0, ..) => 3,
        _ => 4,
    }
}

/// Like pairs with their figures.
#[derive(Debug)]
struct Likes {
    key: Group,
    cells: Vec<Cell>,
    /// Of each cell, its lengths that [`SHARES`] don't exceed, ticks.
    levels: Vec<(u16, u16, Lengths)>,
    /// Of each cell, the index of its slot.
    slots: Vec<usize>,
    bounds: Bounds,
}

/// Something late in one group.
#[derive(Clone, Copy, Debug)]
struct Cause {
    group: usize,
    apart: Apart,
    q: f64,
}

/// What the latencies of a run say.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// By how sure they are.
    findings: Vec<Finding>,
}

/// A suspect, and which latencies are late by it.
#[derive(Debug)]
struct Finding {
    suspect: Suspect,
    /// Index of a slot, and the length beyond which its latencies are late, ticks.
    late: Vec<(usize, u64)>,
}

impl Latencies {
    pub(super) fn of(evidence: &Evidence<'_>) -> Self {
        let groups = groups(evidence);
        let tests: u64 = groups.iter().map(|group| tests(&group.cells)).sum();
        let cut = (FALSE_SHARE / tests.max(1) as f64).ln();
        let mut causes: Vec<(usize, Apart)> = Vec::new();
        for (at, group) in groups.iter().enumerate() {
            let mut found = peel(&group.cells, &group.bounds, cut);
            drop_islands(&mut found, group);
            let replay = evidence.info.plan.replays.is_some();
            if replay || evidence.info.verdict_scope == VerdictScope::LinuxTrace {
                // In a Linux trace, and in its replay, who calls whom, when, and what the receiver does meanwhile is the workload's:
                // pairs and senders differ without fault. A CPU that is late to all is not.
                found.retain(|apart| matches!(apart.line, Line::Receiver(_)));
            }
            causes.extend(found.into_iter().map(|apart| (at, apart)));
        }
        let chances: Vec<f64> = causes.iter().map(|(_, apart)| apart.chance).collect();
        let shares = false_shares(&chances, tests);
        let causes = causes.into_iter().zip(shares).map(|((group, apart), q)| Cause { group, apart, q });
        let mut lines: BTreeMap<Line, Vec<Cause>> = BTreeMap::new();
        for cause in causes.filter(|cause| cause.q <= FALSE_SHARE) {
            lines.entry(cause.apart.line).or_default().push(cause);
        }
        let mut found: Vec<(Line, Vec<Cause>)> = fold(lines).into_iter().collect();
        let clearest = |causes: &[Cause]| causes.iter().map(|cause| cause.apart.chance).fold(0.0, f64::min);
        found.sort_by(|a, b| clearest(&a.1).total_cmp(&clearest(&b.1)));
        let found =
            found.into_iter().filter_map(|(line, causes)| Teller { evidence, groups: &groups }.tell(line, &causes));
        Latencies { findings: found.collect() }
    }

    fn suspects(&self, detector: &str) -> Vec<Suspect> {
        let own = self.findings.iter().filter(|finding| finding.suspect.detector == detector);
        own.map(|finding| finding.suspect.clone()).collect()
    }

    /// Latencies that are late by those of the suspects that are still held.
    pub(super) fn late<'a>(&self, slots: &[Slot], held: impl Iterator<Item = &'a Suspect> + Clone) -> u64 {
        let mut least: BTreeMap<usize, u64> = BTreeMap::new();
        for finding in self.findings.iter().filter(|finding| held.clone().any(|held| *held == finding.suspect)) {
            for (slot, beyond) in &finding.late {
                let bound = least.entry(*slot).or_insert(*beyond);
                *bound = (*bound).min(*beyond);
            }
        }
        least.into_iter().filter_map(|(slot, beyond)| Some(slots.get(slot)?.judged_above(beyond))).sum()
    }
}

/// Timed slots by what is alike.
fn groups(evidence: &Evidence<'_>) -> Vec<Likes> {
    let cores = evidence.view().map_or(&[][..], |view| view.cores.as_slice());
    let mut groups: BTreeMap<Group, Vec<usize>> = BTreeMap::new();
    for (at, slot) in evidence.ipis.slots.iter().enumerate() {
        let timed = evidence.info.plan.phases.get(usize::from(slot.phase)).is_some_and(|phase| phase.timed);
        if timed && slot.judged().is_some_and(|latency| latency.n >= FEWEST) {
            groups.entry(Group::of(slot, cores)).or_default().push(at);
        }
    }
    let group = |(key, slots): (Group, Vec<usize>)| {
        let own = || slots.iter().filter_map(|at| evidence.ipis.slots.get(*at));
        let levels: Vec<_> = own().map(|slot| (slot.from, slot.to, lengths(slot))).collect();
        let bounds = bounds(&levels);
        let cells = own().map(|slot| Cell::of(slot.from, slot.to, figures(slot), &bounds)).collect();
        Likes { key, cells, levels, slots, bounds }
    };
    groups.into_iter().map(group).collect()
}

fn lengths(slot: &Slot) -> Lengths {
    let figures = figures(slot);
    SHARES.map(|share| figures.quantile(share).unwrap_or(0) as f64)
}

/// Cores that are late to all others and not to each other are no bad cores: they are far from the others, and their affinities
/// don't say so.
fn drop_islands(found: &mut Vec<Apart>, group: &Likes) {
    let shifted = |line: Line| found.iter().any(|apart| apart.line == line && apart.middle);
    let both: BTreeSet<u16> = found
        .iter()
        .filter_map(|apart| match apart.line {
            Line::Receiver(core) if shifted(Line::Sender(core)) => Some(core),
            _ => None,
        })
        .collect();
    let mut near = group.cells.iter().filter(|cell| both.contains(&cell.from) && both.contains(&cell.to)).peekable();
    if near.peek().is_some() && near.all(|cell| cell.line_late[0] * 2 < cell.n) {
        found.retain(|apart| {
            !matches!(apart.line, Line::Receiver(core) | Line::Sender(core) if both.contains(&core)) || !apart.middle
        });
    }
}

/// One fault, one line.
fn fold(mut lines: BTreeMap<Line, Vec<Cause>>) -> BTreeMap<Line, Vec<Cause>> {
    let both = |line: &Line| match line {
        Line::Receiver(core) if lines.contains_key(&Line::Sender(*core)) => Some(*core),
        _ => None,
    };
    for core in lines.keys().filter_map(both).collect::<Vec<u16>>() {
        let mut causes = lines.remove(&Line::Receiver(core)).unwrap_or_default();
        causes.extend(lines.remove(&Line::Sender(core)).unwrap_or_default());
        lines.insert(Line::Core(core), causes);
    }
    let whole: Vec<Line> = lines.keys().copied().filter(|line| !matches!(line, Line::Pair(..))).collect();
    // A core that is late to itself and to others is one; so is a pair on a line that is late as a whole.
    lines.retain(|line, _| match line {
        Line::Pair(from, to) => !whole.iter().any(|line| line.holds(*from, *to)),
        _ => true,
    });
    lines
}

/// Puts findings into words.
struct Teller<'a> {
    evidence: &'a Evidence<'a>,
    groups: &'a [Likes],
}

impl Teller<'_> {
    fn tell(&self, line: Line, causes: &[Cause]) -> Option<Finding> {
        // Where the middle is shifted somewhere, late tails elsewhere are the same fault.
        let middle = causes.iter().any(|cause| cause.apart.middle);
        let told: Vec<Cause> = causes.iter().copied().filter(|cause| cause.apart.middle == middle).collect();
        let worst = told.iter().copied().max_by(|a, b| {
            let effect = |cause: &Cause| self.effect(cause).unwrap_or(0.0);
            effect(a).total_cmp(&effect(b)).then(b.apart.chance.total_cmp(&a.apart.chance))
        })?;
        let effect = self.effect(&worst)?;
        let (detector, asleep) = match (self.one_state(line, &told), middle) {
            (Some(states), _) => ("slow_wake", Some(states)),
            (None, true) => ("late", None),
            (None, false) => ("tail", None),
        };
        let mut text = if middle { self.middle(line, &worst)? } else { self.tail(line, &worst)? };
        text += &match asleep {
            Some(states) => format!(" while it is in {states}, and not in its other states"),
            None => String::new(),
        };
        let q = told.iter().map(|cause| cause.q).fold(1.0, f64::min);
        // Below that, a float knows no difference.
        let least = if q < 1e-300 { "q < 1e-300".into() } else { format!("q = {q:.0e}") };
        text += &format!("; {}; {least}", self.phases(&told));
        let mut suspect = match line {
            Line::Receiver(core) => Suspect::core(detector, Role::Receiver, core, text),
            Line::Sender(core) => Suspect::core(detector, Role::Sender, core, text),
            Line::Core(core) => Suspect::core(detector, Role::Core, core, text),
            Line::Pair(from, to) if from == to => Suspect::core(detector, Role::Core, from, text),
            Line::Pair(from, to) => Suspect::pair(detector, from, to, text),
        };
        suspect.effect_ns = Some(self.evidence.nanoseconds(effect));
        suspect.q_value = Some(q);
        let late = causes.iter().flat_map(|cause| self.late(cause)).collect();
        Some(Finding { suspect, late })
    }

    fn group(&self, cause: &Cause) -> Option<&Likes> {
        self.groups.get(cause.group)
    }

    /// Beyond which length the cause makes latencies late, ticks.
    fn beyond(&self, cause: &Cause) -> Option<u64> {
        let bound = self.group(cause)?.bounds.get(if cause.apart.middle { 0 } else { cause.apart.bound })?;
        Some(if matches!(cause.apart.line, Line::Pair(..)) { bound.pair } else { bound.line })
    }

    fn late(&self, cause: &Cause) -> Vec<(usize, u64)> {
        let Some((group, beyond)) = self.group(cause).zip(self.beyond(cause)) else { return Vec::new() };
        let own = group.levels.iter().zip(&group.slots);
        let own = own.filter(|((from, to, _), _)| cause.apart.line.holds(*from, *to));
        let by = |level: f64| if cause.apart.middle { 0 } else { moved(level as u64, &group.bounds) };
        own.map(|((.., lengths), slot)| (*slot, beyond + by(lengths[0]))).collect()
    }

    /// Ticks that the late ones take more than is usual.
    fn effect(&self, cause: &Cause) -> Option<f64> {
        let usual = self.group(cause)?.bounds[0].usual as f64;
        Some(
            if cause.apart.middle { level(self.group(cause)?, cause.apart.line)? } else { self.typical(cause)? }
                - usual,
        )
    }

    /// How many it makes late.
    fn count(&self, cause: &Cause) -> u64 {
        let slots = &self.evidence.ipis.slots;
        self.late(cause).into_iter().filter_map(|(slot, beyond)| Some(slots.get(slot)?.judged_above(beyond))).sum()
    }

    /// What the late ones of a tail take, ticks: their median, pair by pair.
    fn typical(&self, cause: &Cause) -> Option<f64> {
        let mut medians: Vec<f64> = Vec::new();
        for (slot, beyond) in self.late(cause) {
            let figures = figures(self.evidence.ipis.slots.get(slot)?);
            let (late, n) = (figures.above(beyond), figures.len());
            if late > 0 {
                // The middle one of the late ones.
                let share = 1.0 - (late as f64 / 2.0).floor() / n.max(1) as f64;
                medians.extend(figures.quantile(share).map(|ticks| ticks as f64));
            }
        }
        median(&mut medians)
    }

    fn middle(&self, line: Line, cause: &Cause) -> Option<String> {
        let group = self.group(cause)?;
        let (own, usual) = (level(group, cause.apart.line)?, group.bounds[0].usual as f64);
        let Apart { pairs: (pairs, late_pairs), n, others: (_, _, others), .. } = cause.apart;
        let evidence = self.evidence;
        let among = if pairs > 1 { format!(", {late_pairs} of {pairs} pairs") } else { String::new() };
        Some(format!(
            "IPIs {} take {} where {others} like pairs take {} (medians; {} more): {n} IPIs{among}",
            whose(line),
            evidence.length(own),
            evidence.length(usual),
            evidence.length(own - usual),
        ))
    }

    fn tail(&self, line: Line, cause: &Cause) -> Option<String> {
        let group = self.group(cause)?;
        let bound = group.bounds.get(cause.apart.bound)?;
        let Apart { pairs: (pairs, late_pairs), n, others: (above, others, _), .. } = cause.apart;
        let late = self.count(cause);
        let evidence = self.evidence;
        let among = if pairs > 1 { format!(" in {late_pairs} of {pairs} pairs") } else { String::new() };
        Some(format!(
            "{late} of {n} IPIs {} ({}){among} take more than {}, the middle one of them {}; of like pairs {} take more than even \
             {}, and usual is {}",
            whose(line),
            percent(late, n),
            evidence.length(self.beyond(cause)? as f64),
            evidence.length(self.typical(cause)?),
            percent(above, others),
            evidence.length(bound.between as f64),
            evidence.length(group.bounds[0].usual as f64),
        ))
    }

    fn phases(&self, causes: &[Cause]) -> String {
        let phases: BTreeSet<u16> = causes.iter().filter_map(|cause| Some(self.group(cause)?.key.phase)).collect();
        let meta = &self.evidence.info.plan.phases;
        let name =
            |phase: &u16| format!("`{}`", meta.get(usize::from(*phase)).map_or("?", |phase| phase.name.as_str()));
        let names: Vec<String> = phases.iter().take(NAMED).map(name).collect();
        let more = phases.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("in {} {}{more}", super::plural(phases.len() as u64, "phase"), names.join(", "))
    }

    /// The states of a receiver that is late while it sleeps in these and not in its others.
    fn one_state(&self, line: Line, causes: &[Cause]) -> Option<String> {
        let Line::Receiver(core) = line else { return None };
        let late: BTreeSet<u8> = causes.iter().filter_map(|cause| Some(self.group(cause)?.key.state)).collect();
        let sleeps = [ReceiverState::Wfi, ReceiverState::Wfe, ReceiverState::Suspend].map(ReceiverState::code);
        if !late.iter().all(|state| sleeps.contains(state)) {
            return None;
        }
        let mut awake = false;
        for cause in causes {
            let own = self.group(cause)?;
            let alike = |group: &&Likes| {
                let key = Group { phase: own.key.phase, state: own.key.state, ..group.key };
                key == own.key && !late.contains(&group.key.state)
            };
            for other in self.groups.iter().filter(alike) {
                let Some(there) = level(other, line) else { continue };
                let shown = if cause.apart.middle {
                    (there - other.bounds[0].usual as f64) / self.effect(cause)?.max(1.0)
                } else {
                    let bound = cause.apart.bound;
                    let column = || other.cells.iter().filter(|cell| cell.to == core);
                    let late: u64 = column().filter_map(|cell| cell.line_tail.get(bound)).sum();
                    let n: u64 = column().map(|cell| cell.n).sum();
                    late as f64 / n.max(1) as f64 / (self.count(cause) as f64 / cause.apart.n.max(1) as f64)
                };
                if shown >= ELSEWHERE {
                    return None;
                }
                awake = true;
            }
        }
        let names: Vec<&str> = late.iter().map(|state| state_name(ReceiverState::from_code(*state))).collect();
        awake.then(|| names.join(" and "))
    }
}

const fn state_name(state: ReceiverState) -> &'static str {
    match state {
        ReceiverState::Wfi => "WFI",
        ReceiverState::Wfe => "WFE",
        ReceiverState::Suspend => "CPU_SUSPEND",
        other => other.name(),
    }
}

/// The level of a line in a group, ticks: the median of its pairs' medians.
fn level(group: &Likes, line: Line) -> Option<f64> {
    let own = group.levels.iter().filter(|level| line.holds(level.0, level.1));
    median(&mut own.map(|level| level.2[0]).collect::<Vec<f64>>())
}

/// What the judged latencies of a slot are of.
fn figures(slot: &Slot) -> &Figures {
    slot.free.as_ref().map_or(&slot.figures, |free| &free.figures)
}

fn whose(line: Line) -> String {
    match line {
        Line::Receiver(core) => format!("to core {core}"),
        Line::Sender(core) => format!("from core {core}"),
        Line::Core(core) => format!("to and from core {core}"),
        Line::Pair(from, to) if from == to => format!("of core {from} to itself"),
        Line::Pair(from, to) => format!("from core {from} to core {to}"),
    }
}

/// A share for people: two digits.
fn percent(part: u64, whole: u64) -> String {
    if part == 0 {
        return "none".into();
    }
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    format!("{share:.*} %", (1 - share.log10().floor() as i32).max(0) as usize)
}

/// Receivers, senders and pairs whose middle is shifted.
pub(super) struct Late;

impl Detector for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    fn looks_for(&self) -> &'static str {
        "receivers, senders and pairs that are slower than their like"
    }

    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        evidence.latencies().suspects(self.name())
    }
}

/// Receivers, senders and pairs with late ones among the usual.
pub(super) struct Tail;

impl Detector for Tail {
    fn name(&self) -> &'static str {
        "tail"
    }

    fn looks_for(&self) -> &'static str {
        "receivers, senders and pairs of which a share is later than that of their like"
    }

    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        evidence.latencies().suspects(self.name())
    }
}

/// Receivers that are late in one state of sleep and not in others.
pub(super) struct SlowWake;

impl Detector for SlowWake {
    fn name(&self) -> &'static str {
        "slow_wake"
    }

    fn looks_for(&self) -> &'static str {
        "receivers that are slower than their like while they sleep, and not while they are awake"
    }

    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        evidence.latencies().suspects(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Verdict;
    use crate::detect::scene::{Random, Scene, figures as figures_of};

    /// What a clean machine's latencies look like, ticks.
    type Shape = (&'static str, fn(&mut Random) -> f64);

    const SHAPES: [Shape; 8] = [
        ("constant", |_| 12.0),
        ("one tick or the next", |random| 12.0 + (random.share() * 2.0).floor()),
        ("few and discrete", |random| [6.0, 6.0, 6.0, 7.0, 7.0, 9.0, 13.0][(random.share() * 7.0) as usize]),
        ("uniform", |random| 100.0 + 20.0 * random.share()),
        ("normal", |random| 200.0 + 12.0 * random.normal()),
        ("lognormal", |random| 50.0 * (0.5 * random.normal()).exp()),
        ("wide lognormal", |random| 50.0 * random.normal().exp()),
        // A power law: no variance.
        ("heavy tail", |random| 40.0 * (1.0 - random.share()).max(1e-9).powf(-0.6)),
    ];

    /// Who was found: detector, role, core, from, to.
    type Named = (&'static str, Role, Option<u16>, Option<u16>, Option<u16>);

    fn named(scene: &Scene) -> Vec<Named> {
        scene.detect().suspects.iter().map(|s| (s.detector, s.role, s.core, s.from, s.to)).collect()
    }

    fn receiver(detector: &'static str, core: u16) -> Vec<Named> {
        vec![(detector, Role::Receiver, Some(core), None, None)]
    }

    fn sender(detector: &'static str, core: u16) -> Vec<Named> {
        vec![(detector, Role::Sender, Some(core), None, None)]
    }

    fn pair(detector: &'static str, from: u16, to: u16) -> Vec<Named> {
        vec![(detector, Role::Pair, None, Some(from), Some(to))]
    }

    /// A machine in WFI whose pairs take what `shape` draws, times the length of their wires, and what `more` adds.
    fn machine(
        seed: u64,
        cores: u16,
        n: usize,
        shape: fn(&mut Random) -> f64,
        wires: f64,
        more: impl Fn(u16, u16, usize, &mut Random) -> f64,
    ) -> Scene {
        let mut random = Random::new(seed);
        let lengths: Vec<f64> = (0..2 * cores).map(|_| 1.0 + wires * (2.0 * random.share() - 1.0)).collect();
        Scene::new(cores).phase("wfi", ReceiverState::Wfi, |from, to| {
            let wire = (lengths[usize::from(from)] + lengths[usize::from(cores + to)]) / 2.0;
            (0..n)
                .map(|at| {
                    let own = shape(&mut random) * wire;
                    (own + more(from, to, at, &mut random)).round() as u64
                })
                .collect()
        })
    }

    #[test]
    fn clean_machines_are_accused_less_than_once_in_a_hundred() {
        let (mut machines, mut accused) = (0, Vec::new());
        for (at, (name, shape)) in SHAPES.into_iter().enumerate() {
            for (cores, n, count) in [(3, 8, 120), (3, 100, 40), (4, 30, 60), (6, 20, 40), (8, 8, 30)] {
                for seed in 0..count {
                    let seed = seed + 1000 * at as u64 + 77 * u64::from(cores);
                    let wires = [0.0, 0.1][seed as usize % 2];
                    // The first IPI of each pair goes through cold caches on every second machine.
                    let cold = if seed % 4 < 2 { 0.0 } else { 400.0 };
                    let scene = machine(seed, cores, n, shape, wires, |_, _, at, _| if at == 0 { cold } else { 0.0 });
                    machines += 1;
                    let found = scene.detect();
                    accused.extend(
                        found.suspects.into_iter().map(|suspect| format!("{name}, {cores}, {n}: {}", suspect.evidence)),
                    );
                }
            }
        }
        assert!(machines > 2000);
        assert!(accused.len() * 100 < machines, "{} of {machines}: {:#?}", accused.len(), accused);
    }

    #[test]
    fn clusters_at_another_distance_are_no_fault_whether_affinities_say_so_or_not() {
        for (seed, told) in [(1, true), (2, true), (3, false), (4, false)] {
            let far = |core: u16| u64::from(core >= 6);
            let mut scene = machine(
                seed,
                8,
                50,
                SHAPES[4].1,
                0.05,
                |from, to, _, _| {
                    if far(from) == far(to) { 0.0 } else { 300.0 }
                },
            );
            for core in 0..8 {
                scene.view().cores[usize::from(core)].mpidr = u64::from(core) | if told { far(core) << 8 } else { 0 };
            }
            assert_eq!(named(&scene), [], "{seed}");
        }
    }

    #[test]
    fn first_ipis_that_are_slow_are_no_finding_wherever_they_are() {
        for cold in [
            (|_: u16, _: u16| true) as fn(u16, u16) -> bool,
            // The first sender finds all receivers cold.
            |from, _| from == 0,
            |_, to| to == 3,
        ] {
            for n in [8, 50, 300] {
                let scene = machine(
                    5,
                    12,
                    n,
                    SHAPES[0].1,
                    0.0,
                    |from, to, at, _| {
                        if at == 0 && cold(from, to) { 90.0 } else { 0.0 }
                    },
                );
                assert_eq!(named(&scene), [], "{n}");
            }
        }
    }

    #[test]
    fn a_shift_of_some_ticks_or_of_half_is_found_in_the_receiver_the_sender_or_the_pair() {
        for (at, (name, shape)) in SHAPES.into_iter().enumerate() {
            // What is within the spread of one pair's own latencies takes more of them.
            let n = if at < 5 { 30 } else { 300 };
            for cores in [3, 4, 5, 8] {
                let n = if cores == 3 { 2 * n } else { n };
                let usual: f64 = { [12.0, 12.0, 7.0, 110.0, 200.0, 50.0, 50.0, 55.0][at] };
                let by = (0.6 * usual).max(4.0);
                for seed in 0..3 {
                    let shifted = |to: fn(u16, u16) -> bool| {
                        machine(seed, cores, n, shape, 0.05, move |a, b, _, _| if to(a, b) { by } else { 0.0 })
                    };
                    assert_eq!(named(&shifted(|_, to| to == 2)), receiver("late", 2), "{name} {cores} {seed}");
                    assert_eq!(named(&shifted(|from, _| from == 1)), sender("late", 1), "{name} {cores} {seed}");
                    assert_eq!(named(&shifted(|a, b| (a, b) == (2, 0))), pair("late", 2, 0), "{name} {cores} {seed}");
                }
            }
        }
        let scene = machine(1, 4, 1000, SHAPES[0].1, 0.0, |_, to, _, _| if to == 2 { 4.0 } else { 0.0 });
        let suspect = &scene.detect().suspects[0];
        assert_eq!(suspect.effect_ns, Some(4.0 * 16.0));
        assert_eq!(
            suspect.evidence.split("; q").next().unwrap(),
            "IPIs to core 2 take 256 ns where 9 like pairs take 192 ns (medians; 64 ns more): 3000 IPIs, 3 of 3 pairs; in phase `wfi`"
        );
        assert!(suspect.q_value.unwrap() < 1e-100);
    }

    #[test]
    fn eight_latencies_a_pair_are_enough_where_the_shift_is_clear() {
        for cores in [3, 4, 16, 64] {
            let scene = machine(9, cores, 8, SHAPES[4].1, 0.1, |_, to, _, _| if to == 1 { 300.0 } else { 0.0 });
            assert_eq!(named(&scene), receiver("late", 1), "{cores}");
            let scene = machine(9, cores, 8, SHAPES[4].1, 0.1, |a, b, _, _| if (a, b) == (0, 2) { 300.0 } else { 0.0 });
            assert_eq!(named(&scene), pair("late", 0, 2), "{cores}");
        }
    }

    #[test]
    fn what_two_ticks_or_a_quarter_explain_is_none() {
        for by in [1.0, 2.0] {
            assert_eq!(named(&machine(1, 4, 500, |_| 5.0, 0.0, |_, to, _, _| if to == 2 { by } else { 0.0 })), []);
        }
        let quarter = |by: f64| machine(1, 4, 500, |_| 1000.0, 0.0, move |_, to, _, _| if to == 2 { by } else { 0.0 });
        assert_eq!(named(&quarter(250.0)), []);
        assert_eq!(named(&quarter(260.0)), receiver("late", 2));
    }

    #[test]
    fn one_late_in_a_hundred_is_found_in_the_receiver_the_sender_or_the_pair() {
        // 10 us are 625 ticks.
        for (at, (name, shape)) in SHAPES.into_iter().enumerate().take(6) {
            for cores in [3, 4, 8] {
                let late = |seed: u64, of: fn(u16, u16) -> bool| {
                    machine(seed + at as u64, cores, 1000, shape, 0.1, move |from, to, at, _| {
                        if of(from, to) && at % 100 == 7 { 625.0 } else { 0.0 }
                    })
                };
                assert_eq!(named(&late(1, |_, to| to == 2)), receiver("tail", 2), "{name} {cores}");
                assert_eq!(named(&late(2, |from, _| from == 1)), sender("tail", 1), "{name} {cores}");
                assert_eq!(named(&late(3, |a, b| (a, b) == (1, 0))), pair("tail", 1, 0), "{name} {cores}");
            }
        }
        let scene =
            machine(1, 4, 1000, SHAPES[0].1, 0.0, |_, to, at, _| if to == 2 && at % 100 == 7 { 625.0 } else { 0.0 });
        let suspect = &scene.detect().suspects[0];
        assert_eq!(suspect.effect_ns, Some(10_000.0));
        assert_eq!(
            suspect.evidence.split("; q").next().unwrap(),
            "30 of 3000 IPIs to core 2 (1.0 %) in 3 of 3 pairs take more than 240 ns, the middle one of them 10.2 us; of like pairs none \
             take more than even 208 ns, and usual is 192 ns; in phase `wfi`"
        );
    }

    #[test]
    fn one_late_in_a_thousand_is_found_where_there_are_thousands() {
        let scene = machine(
            3,
            4,
            6000,
            SHAPES[4].1,
            0.1,
            |_, to, _, random| {
                if to == 2 && random.share() < 0.001 { 2000.0 } else { 0.0 }
            },
        );
        assert_eq!(named(&scene), receiver("tail", 2));
    }

    #[test]
    fn a_tail_that_all_have_is_nobodys() {
        for share in [0.01, 0.1] {
            let scene = machine(4, 6, 400, SHAPES[0].1, 0.1, |_, _, _, random| {
                if random.share() < share { 5000.0 * random.share() } else { 0.0 }
            });
            assert_eq!(named(&scene), [], "{share}");
        }
    }

    #[test]
    fn several_faults_are_as_many_suspects() {
        let scene = machine(7, 8, 200, SHAPES[4].1, 0.1, |from, to, _, random| {
            let column = if to == 2 { 5000.0 } else { 0.0 };
            let row = if from == 5 && random.share() < 0.1 { 900.0 } else { 0.0 };
            let single = if (from, to) == (6, 0) { 150.0 } else { 0.0 };
            column + row + single
        });
        let mut found = named(&scene);
        found.sort();
        let mut expected = [receiver("late", 2), sender("tail", 5), pair("late", 6, 0)].concat();
        expected.sort();
        assert_eq!(found, expected);
        // Two bad receivers of four are half of all pairs of the others.
        let scene = machine(7, 5, 50, SHAPES[0].1, 0.0, |_, to, _, _| if to >= 3 { 100.0 } else { 0.0 });
        let mut found = named(&scene);
        found.sort();
        assert_eq!(found, [receiver("late", 3), receiver("late", 4)].concat());
    }

    #[test]
    fn a_core_that_is_late_both_ways_is_one_core() {
        let scene =
            machine(7, 6, 50, SHAPES[4].1, 0.1, |from, to, _, _| if from == 4 || to == 4 { 400.0 } else { 0.0 });
        assert_eq!(named(&scene), [("late", Role::Core, Some(4), None, None)]);
    }

    #[test]
    fn a_core_that_is_late_to_itself_is_told_among_its_like_and_not_besides() {
        let mut scene = Scene::new(5);
        let phase = scene.begin("self", ReceiverState::Spin);
        for core in 0..5 {
            scene.pair(phase, core, core, ReceiverState::Spin, vec![if core == 3 { 90 } else { 10 }; 20]);
        }
        assert_eq!(named(&scene), [("late", Role::Core, Some(3), None, None)]);
        let scene = scene.phase("wfi", ReceiverState::Wfi, |_, to| vec![if to == 3 { 90 } else { 10 }; 20]);
        assert_eq!(named(&scene), receiver("late", 3));
    }

    #[test]
    fn of_two_cores_nobody_can_say_which_is_wrong() {
        assert_eq!(named(&machine(1, 2, 1000, SHAPES[0].1, 0.0, |_, to, _, _| if to == 1 { 500.0 } else { 0.0 })), []);
    }

    #[test]
    fn a_receiver_that_is_late_in_one_state_wakes_slowly_and_one_that_is_late_in_all_is_late() {
        use ReceiverState::{Spin, Wfe, Wfi};
        let run = |late: &'static [ReceiverState], by: u64, one_in: u64| {
            let states = [("spin", Spin), ("wfi", Wfi), ("wfe", Wfe)];
            states.into_iter().fold(Scene::new(4), |scene, (name, state)| {
                scene.phase(name, state, |_, to| {
                    let slow = |at: u64| to == 2 && late.contains(&state) && at.is_multiple_of(one_in);
                    (0..1000).map(|at| 20 + u64::from(state.code()) + if slow(at) { by } else { 0 }).collect()
                })
            })
        };
        let found = run(&[Wfi], 400, 1);
        assert_eq!(named(&found), receiver("slow_wake", 2));
        let text = &found.detect().suspects[0].evidence;
        assert!(text.contains("while it is in WFI, and not in its other states; in phase `wfi`"), "{text}");
        assert_eq!(named(&run(&[Wfi, Wfe], 400, 1)), receiver("slow_wake", 2));
        assert_eq!(named(&run(&[Wfi], 4000, 50)), receiver("slow_wake", 2));
        assert_eq!(named(&run(&[Wfi, Wfe, Spin], 400, 1)), receiver("late", 2));
        assert_eq!(named(&run(&[Wfi, Wfe, Spin], 4000, 50)), receiver("tail", 2));
        assert_eq!(named(&run(&[Spin], 400, 1)), receiver("late", 2));
        // A few late ones in another state besides are not what is wrong with it.
        let besides = run(&[Wfi], 400, 1).phase("spin again", Spin, |_, to| {
            (0..1000).map(|at| if to == 2 && at % 100 == 5 { 200 } else { 20 }).collect()
        });
        assert_eq!(named(&besides), receiver("slow_wake", 2));
        // One that is late in another state, too, but too little to be accused of it, is no slow wake-up.
        let little = [(Wfi, 8), (Spin, 4)].into_iter().fold(Scene::new(4), |scene, (state, by)| {
            scene.phase(state.name(), state, |_, to| vec![20 + if to == 2 { by } else { 0 }; 1000])
        });
        assert_eq!(named(&little), receiver("late", 2));
        // Without another state nobody can say that it is the wake-up.
        let alone = Scene::new(4).phase("wfi", Wfi, |_, to| vec![if to == 2 { 400 } else { 20 }; 50]);
        assert_eq!(named(&alone), receiver("late", 2));
    }

    #[test]
    fn a_phase_of_two_interrupts_compares_each_with_its_own_kind() {
        let mut scene = Scene::new(4);
        let phase = scene.begin("two", ReceiverState::Wfi);
        for intid in [0_u8, 3] {
            for from in 0..4 {
                for to in (0..4).filter(|to| *to != from) {
                    let late = if intid == 3 && to == 1 { 600 } else { 0 };
                    let usual = if intid == 3 { 300 } else { 30 };
                    scene.pair(phase, from, to, ReceiverState::Wfi, vec![usual + late; 20]);
                    scene.ipis.slots.last_mut().unwrap().intid = intid;
                }
            }
        }
        assert_eq!(named(&scene), receiver("late", 1));
    }

    #[test]
    fn histograms_and_extremes_find_less_and_invent_nothing() {
        let shrink = |mut scene: Scene, extremes: bool| {
            for slot in &mut scene.ipis.slots {
                let latency = slot.latency.unwrap();
                let (min, max, timed) = (latency.min as u64, latency.max as u64, latency.n);
                let sum = (latency.mean * latency.n as f64).round() as u64;
                let mut counts = vec![0_u32; trace_ring::histogram::STRIDE].into_boxed_slice();
                let mut last = 0;
                for bucket in 0..trace_ring::histogram::BUCKETS {
                    let upto = timed - slot.figures.above(trace_ring::histogram::upper(bucket));
                    counts[bucket] = (upto - last) as u32;
                    last = upto;
                }
                slot.figures = if extremes {
                    Figures::Extremes { min, max, sum, timed }
                } else {
                    Figures::Buckets { counts, min, max, sum, timed }
                };
                slot.latency = slot.figures.summary(1.0);
            }
            scene
        };
        for extremes in [false, true] {
            for (at, (name, shape)) in SHAPES.into_iter().enumerate() {
                for seed in 0..10 {
                    let clean = machine(seed + 50 * at as u64, 4, 100, shape, 0.1, |_, _, _, _| 0.0);
                    assert_eq!(named(&shrink(clean, extremes)), [], "{name} {seed} {extremes}");
                }
            }
            let late = machine(1, 4, 100, SHAPES[4].1, 0.05, |_, to, _, _| if to == 2 { 400.0 } else { 0.0 });
            assert_eq!(named(&shrink(late, extremes)), receiver("late", 2), "{extremes}");
        }
        let tail =
            machine(1, 4, 2000, SHAPES[4].1, 0.05, |_, to, at, _| if to == 2 && at % 100 == 3 { 4000.0 } else { 0.0 });
        assert_eq!(named(&shrink(tail, false)), receiver("tail", 2));
    }

    #[test]
    fn on_a_live_emulator_latencies_are_advice() {
        let scene = machine(1, 4, 100, SHAPES[4].1, 0.0, |_, to, _, _| if to == 2 { 400.0 } else { 0.0 }).emulated();
        let found = scene.detect();
        assert_eq!((found.suspects.len(), found.advisories.len(), found.verdict), (0, 1, Verdict::Clean));
        assert_eq!(found.late, 300);
    }

    #[test]
    fn hundreds_of_cores_are_compared_pair_by_pair() {
        let mut random = Random::new(11);
        let scene = Scene::new(200).phase("wfi", ReceiverState::Wfi, |from, to| {
            let late = u64::from(to == 150) * 200 + u64::from((from, to) == (7, 8)) * 300;
            (0..8).map(|_| 100 + random.next() % 16 + late).collect()
        });
        let mut found = named(&scene);
        found.sort();
        assert_eq!(found, [receiver("late", 150), pair("late", 7, 8)].concat());
    }

    #[test]
    fn shares_have_two_digits() {
        let told = [(0, 10), (1, 3), (1, 30), (1, 3000), (999, 1000)].map(|(part, whole)| percent(part, whole));
        assert_eq!(told, ["none", "33 %", "3.3 %", "0.033 %", "100 %"]);
        assert_eq!(figures_of(vec![3, 1, 2]).quantile(0.5), Some(2));
    }
}
