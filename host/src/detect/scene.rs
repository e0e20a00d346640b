//! Evidence made by hand, for the tests of detectors: what a run would have left, without the run.

use trace_ring::layout::{CoreEntry, Directory, PhaseResult, Status, clock_flag, core_state, run_state};
use trace_ring::record::ReceiverState;
use zerocopy::FromZeros;

use super::{Evidence, Findings, Suspect, detect};
use crate::capture::{Ended, Ending, RunInfo, VerdictScope};
use crate::correlate::witness::{Excused, GapTotals, Recovered, Series};
use crate::correlate::{Counts, Free, From, Ipis, Probes, Slot, View};
use crate::plan::{PhaseMeta, PlanMeta};
use crate::stats::{Figures, Samples};
use crate::symbols::Symbols;

/// Ticks in a second: one is 16 ns.
pub(super) const HZ: u64 = 62_500_000;

/// xorshift64*: enough for samples, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In 0..1.
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 0, variance 1: the polar form of two.
    pub(super) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.share()).ln()).sqrt() * (std::f64::consts::TAU * self.share()).cos()
    }
}

/// A run as detectors see it.
#[derive(Debug)]
pub(super) struct Scene {
    pub info: RunInfo,
    pub ending: Ending,
    pub ipis: Ipis,
}

impl Scene {
    /// A clean run of so many like cores in counted instructions, without a phase.
    pub(super) fn new(cores: u16) -> Self {
        let entry = |id: u16| CoreEntry {
            mpidr: id.into(),
            midr: 0x410F_D0C0,
            state: core_state::UP,
            cntfrq: HZ as u32,
            resolution: 1,
            clock_flags: clock_flag::TESTED_AFTER,
            ..CoreEntry::new_zeroed()
        };
        let directory = Directory { counter_hz: HZ, core_count: cores.into(), ..Directory::new_zeroed() };
        let status = Status { state: run_state::ENDED, started: 1, ended: HZ, ..Status::new_zeroed() };
        let plan = PlanMeta {
            deterministic: true,
            level: "ipi".into(),
            policy: "overwrite".into(),
            timeout_ns: 100_000_000,
            probe_ns: 1_000_000,
            ..PlanMeta::unplanned("scene", cores)
        };
        Scene {
            info: RunInfo {
                created: String::new(),
                tool_version: String::new(),
                source: "scene".into(),
                machine: "scene".into(),
                board: String::new(),
                cpu: String::new(),
                accel: String::new(),
                verdict_scope: VerdictScope::Instructions,
                deterministic: true,
                qemu_version: String::new(),
                qemu_arguments: Vec::new(),
                tags: Default::default(),
                plan,
                firmware_build_id: String::new(),
                nonce: 1,
                cores,
                notes: Vec::new(),
            },
            ending: Ending::new(Ended::Complete, 1.0),
            ipis: Ipis {
                from: From::Target,
                slots: Vec::new(),
                totals: Counts::default(),
                receptions: Vec::new(),
                duplicate: 0,
                spurious: 0,
                misrouted: Vec::new(),
                given_up: Vec::new(),
                stages: Vec::new(),
                calls: None,
                gaps: Vec::new(),
                gap_totals: vec![GapTotals::default(); cores.into()],
                step_backs: Vec::new(),
                sweeps: Vec::new(),
                series: Series::default(),
                watching: None,
                latest: HZ,
                lanes: Vec::new(),
                records: 0,
                view: Some(View {
                    directory,
                    status,
                    cores: (0..cores).map(entry).collect(),
                    heads: Vec::new(),
                    phases: Vec::new(),
                    truth: Vec::new(),
                    faults: Vec::new(),
                    live: Vec::new(),
                    descriptors: Vec::new(),
                    quiescent: true,
                }),
                damage: Default::default(),
                linux: None,
                heard: None,
                notes: Vec::new(),
            },
        }
    }

    pub(super) fn view(&mut self) -> &mut View {
        self.ipis.view.as_mut().unwrap()
    }

    /// Adds a timed phase of all pairs of different cores with these latencies, ticks.
    pub(super) fn phase(
        mut self,
        name: &str,
        state: ReceiverState,
        mut latencies: impl FnMut(u16, u16) -> Vec<u64>,
    ) -> Self {
        let cores = self.info.cores;
        let phase = self.begin(name, state);
        for from in 0..cores {
            for to in (0..cores).filter(|to| *to != from) {
                let samples = latencies(from, to);
                self.pair(phase, from, to, state, samples);
            }
        }
        self
    }

    /// Begins a timed phase.
    pub(super) fn begin(&mut self, name: &str, state: ReceiverState) -> u16 {
        self.info.plan.phases.push(PhaseMeta {
            name: name.into(),
            pattern: "pairs".into(),
            timed: true,
            state: state.name().into(),
            intid: 0,
            ..PhaseMeta::default()
        });
        self.view().phases.push(PhaseResult::new_zeroed());
        self.info.plan.phases.len() as u16 - 1
    }

    /// Adds a pair to a phase.
    pub(super) fn pair(&mut self, phase: u16, from: u16, to: u16, state: ReceiverState, latencies: Vec<u64>) {
        let n = latencies.len() as u64;
        let counts = Counts { sent: n, delivered: n, ..Counts::default() };
        self.ipis.totals.add(&counts);
        let mut figures = figures(latencies);
        self.ipis.slots.push(Slot {
            from,
            to,
            phase,
            intid: 0,
            state,
            kind: None,
            reason: None,
            delivery: None,
            counts,
            latency: figures.summary(1.0),
            figures,
            exact: true,
            worst: None,
            free: None,
            probes: Probes::default(),
            excused: Excused::default(),
            recovered: Recovered::default(),
            backwards: 0,
        });
    }

    /// The first slot of a pair.
    pub(super) fn slot(&mut self, from: u16, to: u16) -> &mut Slot {
        self.ipis.slots.iter_mut().find(|slot| (slot.from, slot.to) == (from, to)).unwrap()
    }

    /// Says that so many of a slot's latencies are excused.
    pub(super) fn excuse(&mut self, from: u16, to: u16, stolen: u64, longest: u64) {
        let slot = self.slot(from, to);
        slot.excused = Excused { stolen, stolen_longest: longest, doubtful: 0, doubtful_longest: 0 };
        let left = slot.latency.unwrap().n.saturating_sub(stolen) as usize;
        let mut kept = figures(vec![10; left]);
        slot.free = Some(Free { latency: kept.summary(1.0), figures: kept });
    }

    /// On a live emulator.
    pub(super) fn emulated(self) -> Self {
        self.scope(VerdictScope::Emulated)
    }

    pub(super) fn scope(mut self, scope: VerdictScope) -> Self {
        self.info.verdict_scope = scope;
        self.info.deterministic = scope == VerdictScope::Instructions;
        self
    }

    /// Runs all detectors.
    pub(super) fn detect(&self) -> Findings {
        detect(&Evidence::new(&self.info, Some(&self.ending), &self.ipis, &Symbols::default()))
    }

    /// Suspects and advisories of one detector.
    pub(super) fn found(&self, detector: &str) -> Vec<Suspect> {
        let findings = self.detect();
        findings.suspects.into_iter().chain(findings.advisories).filter(|found| found.detector == detector).collect()
    }
}

pub(super) fn figures(latencies: Vec<u64>) -> Figures {
    let mut samples = Samples::new(1 << 20);
    latencies.into_iter().for_each(|ticks| samples.push(ticks));
    Figures::of_samples(samples)
}
