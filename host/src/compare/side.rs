//! One capture of a comparison: what it measured, of which target, and whether its clocks can be trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trace_ring::calls::IpiKind;
use trace_ring::layout::{CoreEntry, clock_flag, core_state};

use super::Input;
use crate::capture::{Capture, RunInfo, VerdictScope};
use crate::choice::{Choice, ChoiceError};
use crate::correlate::stages::Stage;
use crate::correlate::{Counts, Ipis, Slot, correlate, correlate_heard};
use crate::detect::{self, Evidence, Verdict, distance};
use crate::stats::Figures;
use crate::stats::distribution::Distribution;
use crate::symbols::Symbols;

/// A row of both sides: one pair in one phase, kind and state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub phase: String,
    pub state: &'static str,
    /// [`IpiKind::slot_code`]; 0: a bare SGI.
    code: u8,
    intid: u8,
    pub from: u16,
    pub to: u16,
}

impl Key {
    /// What was sent.
    pub fn kind(&self) -> String {
        IpiKind::from_slot_code(self.code).map_or_else(|| format!("sgi{}", self.intid), |kind| kind.name().into())
    }
}

/// A capture, read and joined.
pub(super) struct Side {
    pub path: PathBuf,
    pub info: RunInfo,
    pub ipis: Ipis,
    pub hz: u64,
    /// The counter's own step, ticks.
    pub step: f64,
    pub verdict: Verdict,
    pub clock_is_suspect: bool,
    /// What a replay of it says it replays.
    identity: String,
    ended_early: bool,
}

impl Side {
    pub fn open(path: &Path, filter: Option<&str>) -> Result<Side, ChoiceError> {
        let capture = Capture::open(path)?;
        let choice = filter.map(|text| Choice::of_counts(text, &capture, "compare")).transpose()?;
        let ipis = match &choice {
            None => correlate(&capture)?,
            Some(choice) => correlate_heard(&capture, &mut |message| choice.picks(message))?,
        };
        // The verdict on a capture is that on all of it.
        let all = choice.map(|_| correlate(&capture)).transpose()?;
        let (info, ending) = (capture.info(), capture.ending());
        let evidence = all.as_ref().unwrap_or(&ipis);
        let findings = detect::detect(&Evidence::new(info, ending, evidence, &Symbols::of(&capture)));
        let hz = ipis.view.as_ref().map_or(0, |view| view.directory.counter_hz);
        let mut side = Side {
            path: path.into(),
            info: info.clone(),
            hz,
            step: 1.0,
            verdict: findings.verdict,
            clock_is_suspect: findings.suspects.iter().any(|suspect| suspect.detector == "clock"),
            identity: crate::replay::identity(&capture),
            ended_early: !matches!(ending.map(|ending| ending.ended), Some(crate::capture::Ended::Complete)),
            ipis,
        };
        side.step = f64::from(side.up().map(|(_, core)| core.resolution).max().unwrap_or(1).max(1));
        Ok(side)
    }

    pub fn input(&self) -> Input {
        let info = &self.info;
        Input {
            file: self.path.display().to_string(),
            created: info.created.clone(),
            verdict: self.verdict,
            machine: info.machine.clone(),
            plan: info.plan.name.clone(),
            firmware: info.firmware_build_id.clone(),
            tags: info.tags.clone(),
            faults: info.plan.faults.clone(),
        }
    }

    fn cores(&self) -> impl Iterator<Item = (u16, &CoreEntry)> {
        let cores = self.ipis.view.as_ref().map_or(&[][..], |view| view.cores.as_slice());
        (0..self.info.plan.cores).zip(cores)
    }

    /// The cores that took part.
    pub fn up(&self) -> impl Iterator<Item = (u16, &CoreEntry)> {
        self.cores().filter(|(_, core)| core.state == core_state::UP)
    }

    /// In what another capture is of another target or plan, each with both values.
    pub fn differs_from(&self, other: &Side) -> Vec<String> {
        let (a, b) = (&self.info, &other.info);
        let mut all = Vec::new();
        // What replays the other is of another machine by intent.
        if b.plan.replays.as_ref() == Some(&self.identity) {
            return all;
        }
        let mut differ = |what: &str, a: &str, b: &str| {
            if a != b {
                let name = |value: &str| if value.is_empty() { "not named".into() } else { format!("`{value}`") };
                all.push(format!("{what} {} and {}", name(a), name(b)));
            }
        };
        differ("machine", &a.machine, &b.machine);
        differ("board", &a.board, &b.board);
        differ("time is of scope", a.verdict_scope.name(), b.verdict_scope.name());
        differ("CPU type", &a.cpu, &b.cpu);
        differ("plan", &a.plan.name, &b.plan.name);
        differ("trace level", &a.plan.level, &b.plan.level);
        if a.plan.cores != b.plan.cores {
            all.push(format!("{} and {} cores", a.plan.cores, b.plan.cores));
        }
        let shape = |info: &RunInfo| -> Vec<_> {
            let phases = info.plan.phases.iter();
            phases
                .map(|phase| (phase.name.clone(), phase.pattern.clone(), phase.state.clone(), phase.intid, phase.pairs))
                .collect()
        };
        if a.plan.name == b.plan.name && a.plan.cores == b.plan.cores && shape(a) != shape(b) {
            let names = |info: &RunInfo| {
                let phase = |phase: &crate::plan::PhaseMeta| format!("{} ({} pairs)", phase.name, phase.pairs);
                info.plan.phases.iter().map(phase).collect::<Vec<_>>().join(", ")
            };
            all.push(format!("phases {} and {}", names(a), names(b)));
        }
        let hz = |hz: u64| if hz == 0 { "unknown".to_owned() } else { format!("{hz} Hz") };
        if self.hz != other.hz {
            all.push(format!("counter {} and {}", hz(self.hz), hz(other.hz)));
        }
        let theirs: BTreeMap<u16, &CoreEntry> = other.up().collect();
        for (id, core) in self.up() {
            let Some(their) = theirs.get(&id) else { continue };
            if core.midr != their.midr {
                all.push(format!("MIDR_EL1 of core {id} {:#010x} and {:#010x}", core.midr, their.midr));
            }
            if core.mpidr != their.mpidr {
                all.push(format!("MPIDR_EL1 of core {id} {:#x} and {:#x}", core.mpidr, their.mpidr));
            }
        }
        all
    }

    /// What is missing of the clocks' test, where latencies between cores rest on it.
    ///
    /// An emulator has one clock for all cores, and a busy host keeps some of them from being tested: there one test tells that the
    /// plan had them.
    pub fn untested_clock(&self) -> Option<String> {
        if self.ipis.view.is_none() {
            return Some("it holds no snapshot of the target, so nobody knows what its counters are".into());
        }
        // A kernel's trace has the clocks that it has: nobody tests them, and a comparison says so by its scope.
        if self.up().count() < 2 || self.info.verdict_scope == VerdictScope::LinuxTrace {
            return None;
        }
        let one_clock = matches!(self.info.verdict_scope, VerdictScope::Emulated | VerdictScope::Instructions);
        let either = clock_flag::SKEW_BEFORE | clock_flag::SKEW_AFTER;
        if one_clock && self.up().any(|(_, core)| core.clock_flags & either != 0) {
            return None;
        }
        for (flag, when) in [(clock_flag::SKEW_BEFORE, "before"), (clock_flag::SKEW_AFTER, "after")] {
            // The boot core is what the others are tested against.
            let untested: Vec<u16> =
                self.up().filter(|(_, core)| core.clock_flags & flag == 0).map(|(core, _)| core).collect();
            if untested.len() > 1 {
                let cores = untested.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                let why = if self.ended_early { " (the run was cut short)" } else { "" };
                return Some(format!("the clocks of cores {cores} were not tested {when} the plan{why}"));
            }
        }
        None
    }

    pub fn distance(&self, from: u16, to: u16) -> u8 {
        let mpidr = |core: u16| self.cores().nth(core.into()).map_or(0, |(_, core)| core.mpidr);
        if from == to { 0 } else { distance(mpidr(from), mpidr(to)) }
    }

    fn key(&self, slot: &Slot) -> Key {
        let meta = self.info.plan.phases.get(usize::from(slot.phase));
        Key {
            phase: meta.map_or_else(|| slot.phase.to_string(), |meta| meta.name.clone()),
            state: slot.state.name(),
            code: slot.kind.map_or(0, IpiKind::slot_code),
            intid: slot.intid,
            from: slot.from,
            to: slot.to,
        }
    }

    /// What became of the messages of each pair.
    pub fn counts(&self) -> BTreeMap<Key, Counts> {
        let mut all: BTreeMap<Key, Counts> = BTreeMap::new();
        for slot in self.ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
            all.entry(self.key(slot)).or_default().add(&slot.counts);
        }
        all
    }

    /// Slots whose latencies speak of the machine: of phases with one IPI under way at a time, where the plan has such.
    /// Counted instructions repeat in every phase.
    pub fn timed(&self, scope: VerdictScope) -> impl Iterator<Item = &Slot> {
        let phases = &self.info.plan.phases;
        let any = scope == VerdictScope::Instructions || !phases.iter().any(|phase| phase.timed);
        let timed = move |slot: &&Slot| any || phases.get(usize::from(slot.phase)).is_some_and(|phase| phase.timed);
        self.ipis.slots.iter().filter(|slot| slot.counts.sent > 0).filter(timed)
    }

    /// The latencies of each pair that nothing else explains.
    pub fn latencies(&self, scope: VerdictScope) -> BTreeMap<Key, Distribution> {
        let mut all: BTreeMap<Key, Distribution> = BTreeMap::new();
        for slot in self.timed(scope) {
            let figures = slot.free.as_ref().map_or(&slot.figures, |free| &free.figures);
            all.entry(self.key(slot)).or_default().merge(&Distribution::of(figures));
        }
        all
    }

    /// The lengths of each stage, by kind and core.
    pub fn stages(&self) -> BTreeMap<(Stage, String, u16), Distribution> {
        let stage = |figures: &crate::correlate::stages::StageFigures| {
            let kind = figures.kind.map_or("sgi", IpiKind::name).to_owned();
            let samples = Figures::of_samples(figures.samples.clone());
            ((figures.stage, kind, figures.core), Distribution::of(&samples))
        };
        self.ipis.stages.iter().map(stage).collect()
    }
}
