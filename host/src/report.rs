//! The report: what a capture comes to, once, and its coats: text for a terminal, JSON for scripts.
//!
//! The JSON is a contract (`"schema": "ipiscope.report/1"`): fields and values may be added, never renamed.

mod calls;
mod clock;
mod json;
mod linux;
mod spread;
mod text;
mod timing;
mod witness;

use std::collections::BTreeMap;
use std::path::Path;

use object::{Object, ObjectSymbol};
use serde::Serialize;
use trace_ring::calls::{Delivery, IpiKind};
use trace_ring::layout::{
    COST_RECORDS, CoreEntry, SUSPEND_UNTRIED, abort_reason, conduit, core_feature, core_state, fault_kind, run_state,
};
use trace_ring::record::ReceiverState;

use crate::capture::{Capture, CaptureError, ELF_ATTACHMENT, Ended, ErrorInfo, StoppedBy, VerdictScope, context_name};
use crate::choice::Choice;
use crate::correlate::message::Heard;
use crate::correlate::stages::{self, StageFigures};
use crate::correlate::{Counts, From, Ipis, Slot, View, correlate, correlate_heard};
use crate::detect::{Evidence, Findings, Suspect, core_error, detect, fault_name, psci_error};
use crate::error::exit;
use crate::fault::Fault;
use crate::limits::{self, Limits, LimitsReport, Outcome};
use crate::plan::{Keep, PlanMeta};
use crate::stats::{Pool, Summary};
use crate::symbols::Symbols;

pub use crate::detect::Verdict;
pub use calls::{CallbackReport, CallsReport, CrashStop, DepthReport, KindReport, SlowCall, WaitReport};
pub use clock::{Clock, CoreClock, Skew, SkewPair, Skews};
pub use json::error_report;
pub use linux::{CallSiteReport, LinuxReport, PathReport, UnansweredReport};
pub use spread::{CoreFigures, Distribution};
pub use timing::Timing;
pub use witness::{SeriesPointReport, SeriesReport, Stolen, StolenCore, SweepReport, SweepStepReport};

/// Name and version of the JSON contract.
pub const SCHEMA: &str = "ipiscope.report/1";

/// How a report is printed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// With colours.
    pub color: bool,
    /// Columns of the terminal.
    pub width: u16,
    /// With line-drawing characters.
    pub unicode: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { color: false, width: 80, unicode: true }
    }
}

/// What a capture comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// Whose time it is.
    pub verdict_scope: VerdictScope,
    /// How the run ended.
    pub ended: Ended,
    /// What ended it early by itself (`--stop-on`).
    pub stopped_by: Option<StoppedBy>,
    /// Why it could not be measured.
    pub error: Option<ErrorInfo>,
    /// The machine.
    pub target: Target,
    /// The counter.
    pub clock: Clock,
    /// The records.
    pub trace: Trace,
    /// The IPIs.
    pub ipis: IpiCounts,
    /// Phases of the plan.
    pub phases: Vec<PhaseReport>,
    /// Measured pairs.
    pub pairs: Vec<Pair>,
    /// How latencies spread, by kind, receiver state and distance.
    pub distributions: Vec<Distribution>,
    /// Each core as sender and as receiver.
    pub core_figures: Vec<CoreFigures>,
    /// Time that was taken from cores.
    pub stolen: Stolen,
    /// Messages timed against a transition of their receiver.
    pub sweeps: Vec<SweepReport>,
    /// Latencies over time.
    pub series: Vec<SeriesReport>,
    /// IPI kinds, where the plan uses them.
    pub kinds: Vec<KindReport>,
    /// Stages of interrupts and calls, where they were recorded.
    pub stages: Vec<Stage>,
    /// Calls; null where they were not recorded.
    pub calls: Option<CallsReport>,
    /// How long functions took, by core.
    pub callbacks: Vec<CallbackReport>,
    /// What stood on the queues of each core.
    pub queue_depth: Vec<DepthReport>,
    /// What the verdict rests on.
    pub suspects: Vec<Suspect>,
    /// What is worth a look.
    pub advisories: Vec<Suspect>,
    /// Limits that the run was held against; null: none were named.
    pub limits: Option<LimitsReport>,
    /// Of a plan that sends at times: how far they were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
    /// Which IPIs the counts, pairs and latencies are of; null: all.
    pub filter: Option<FilterReport>,
    #[serde(skip)]
    heard: Option<Heard>,
    /// Of a Linux trace: what it holds, who sends, and what was never answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<LinuxReport>,
    /// Faults that were put in, and how often they struck.
    pub injected: Vec<Injected>,
    /// Exceptions and panics.
    pub faults: Vec<FaultReport>,
    /// Cores that a crash stop parked, and where they were.
    pub crash_stops: Vec<CrashStop>,
    /// Accounts of the lanes that anything was written to.
    pub lanes: Vec<LaneReport>,
    /// The plan.
    pub plan: PlanMeta,
    /// What ran.
    pub build: Build,
    /// Records written for each IPI.
    pub events_per_ipi: Option<f64>,
    /// Instructions for each IPI: of the phase with one pair and one IPI outstanding, where time counts instructions.
    pub instructions_per_ipi: Option<f64>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// One tick, ns.
    #[serde(skip)]
    tick_ns: f64,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Where the data came from.
    pub source: String,
    /// The machine's name.
    pub machine: String,
    /// The board.
    pub board: String,
    /// The CPU type that was asked for.
    pub cpu: String,
    /// The accelerator.
    pub accel: String,
    /// Cores that were asked for.
    pub core_count: u16,
    /// Cores that took part.
    pub cores_up: u32,
    /// Ticks per second.
    pub counter_hz: Option<u64>,
    /// One tick, ns.
    pub resolution_ns: Option<f64>,
    /// Exception level at entry.
    pub entry_el: Option<u8>,
    /// Exception level of the plan.
    pub run_el: Option<u8>,
    /// `hvc`, `smc`, `none`.
    pub psci_conduit: Option<&'static str>,
    /// UID of a hypervisor that answered.
    pub hypervisor: Option<String>,
    /// `--tag`s.
    pub tags: BTreeMap<String, String>,
    /// The cores.
    pub cores: Vec<CoreReport>,
    /// The interrupt controller.
    pub gic: Option<Gic>,
}

/// A core.
#[derive(Clone, Debug, Serialize)]
pub struct CoreReport {
    /// Its id: its place in the device tree.
    pub id: u16,
    /// Affinity fields of MPIDR_EL1.
    pub mpidr: String,
    /// MIDR_EL1.
    pub midr: String,
    /// REVIDR_EL1.
    pub revidr: String,
    /// The type's name.
    pub class: String,
    /// Number of its cluster: cores that share all affinity levels but the lowest.
    pub cluster: usize,
    /// Whether it took part.
    pub up: bool,
    /// How urgently an IPI can reach it with its interrupts off: `nmi`, `pseudo_nmi`, `none`; null: it was not tried.
    pub nmi: Option<&'static str>,
    /// Why it did not.
    pub error: Option<String>,
    /// GICR_IIDR of its redistributor; null: the core did not take part.
    pub gicr_iidr: Option<String>,
    /// GICR_TYPER.
    pub gicr_typer: Option<String>,
    /// What became of PSCI CPU_SUSPEND where it was tried.
    pub suspend: Option<Suspend>,
}

/// A core in PSCI CPU_SUSPEND.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suspend {
    /// The power state that it asked for.
    pub state: String,
    /// What PSCI answered, if it refused.
    pub error: Option<String>,
}

/// The interrupt controller.
#[derive(Clone, Debug, Serialize)]
pub struct Gic {
    /// GICD_IIDR.
    pub iidr: String,
    /// GICD_TYPER.
    pub typer: String,
    /// GICD_PIDR2.
    pub pidr2: String,
    /// Architecture version.
    pub version: u32,
}

/// The records.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// What was recorded.
    pub level: String,
    /// What a full lane did.
    pub policy: String,
    /// Records that the capture keeps.
    pub keep: Keep,
    /// Records that were read whole.
    pub records: u64,
    /// Records that were missed, torn ones among them.
    pub lost_records: u64,
    /// Records that were damaged when they were read.
    pub torn_records: u64,
    /// Chunks of the capture that are damaged.
    pub damaged_chunks: u64,
    /// The capture ends in the middle.
    pub truncated: bool,
    /// How the rings were mapped: `cacheable` or `non-cacheable`; null: nobody knows.
    pub rings: Option<&'static str>,
    /// What a record took to write there, ns, measured before the plan; null: the target did not say.
    pub record_ns: Option<f64>,
    /// What it takes in cacheable memory, ns.
    pub record_cacheable_ns: Option<f64>,
}

/// The IPIs: `sent = delivered + coalesced + lost + misrouted + in_flight + unknown`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct IpiCounts {
    /// What became of them.
    #[serde(flatten)]
    pub counts: Counts,
    /// Of those answered: as late as a suspect or advisory of detector `late` says.
    pub late: u64,
    /// Receptions that came twice.
    pub duplicate: u64,
    /// Receptions that no message explains.
    pub spurious: u64,
    /// Where the counts come from.
    pub from: From,
}

/// A phase of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Its pattern.
    pub pattern: String,
    /// State of its receivers.
    pub state: String,
    /// Whether one IPI was outstanding at a time.
    pub timed: bool,
    /// Rounds that were completed.
    pub rounds: u32,
    /// What became of its IPIs.
    #[serde(flatten)]
    pub counts: Counts,
    /// Time that its rounds took, ns.
    pub elapsed_ns: Option<f64>,
    /// IPIs a second.
    pub ipis_per_second: Option<f64>,
    /// Its latencies.
    #[serde(flatten)]
    pub latency: Latency,
}

/// Figures of latencies, ns; null where the sample does not carry them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Latencies measured.
    pub n: u64,
    /// The least.
    pub min_ns: Option<f64>,
    /// Half are at most this.
    pub p50_ns: Option<f64>,
    /// Nine tenths are at most this.
    pub p90_ns: Option<f64>,
    /// All but a hundredth are at most this.
    pub p99_ns: Option<f64>,
    /// All but a thousandth are at most this.
    pub p999_ns: Option<f64>,
    /// The greatest.
    pub max_ns: Option<f64>,
    /// The mean, to the digits of its interval.
    pub mean_ns: Option<f64>,
    /// The true mean lies within this on either side, 95 times in 100; two digits.
    pub mean_ci_ns: Option<f64>,
}

/// A mean and its interval: digits below the second of the interval say nothing.
fn rounded(mean: f64, interval: f64) -> (f64, f64) {
    if interval <= 0.0 || !interval.is_finite() || !mean.is_finite() {
        return (mean, interval);
    }
    // By way of text: powers of ten below one are not whole in binary, and a quotient shows it.
    let digits = mean_digits(interval);
    let round = |value: f64| match usize::try_from(digits) {
        Ok(digits) => format!("{value:.digits$}").parse().unwrap_or(value),
        Err(_) => (value / 10_f64.powi(-digits)).round() * 10_f64.powi(-digits),
    };
    (round(mean), round(interval))
}

/// Digits behind the point of a mean with this interval; below 0: in front of it.
fn mean_digits(interval: f64) -> i32 {
    (1 - interval.log10().floor() as i32).clamp(-300, 300)
}

impl Latency {
    fn of(summary: Option<Summary>, tick_ns: f64) -> Self {
        let Some(summary) = summary else { return Latency::default() };
        let ns = |ticks: f64| Some(ticks * tick_ns).filter(|ns| ns.is_finite());
        let (mean, interval) = rounded(summary.mean * tick_ns, summary.mean_ci * tick_ns);
        Latency {
            n: summary.n,
            min_ns: ns(summary.min),
            p50_ns: summary.p50.and_then(ns),
            p90_ns: summary.p90.and_then(ns),
            p99_ns: summary.p99.and_then(ns),
            p999_ns: summary.p999.and_then(ns),
            max_ns: ns(summary.max),
            mean_ns: Some(mean).filter(|ns| ns.is_finite()),
            mean_ci_ns: Some(interval).filter(|ns| ns.is_finite()),
        }
    }
}

/// A measured pair.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// Sender.
    pub from: u16,
    /// Receiver.
    pub to: u16,
    /// What was sent: a kind's name, or `sgi` and the INTID of bare SGIs.
    pub kind: String,
    /// How it came: `irq`, `pseudo_nmi`, `nmi`; null: no record says.
    pub delivery: Option<&'static str>,
    /// The receiver's state.
    pub state: &'static str,
    /// The trace level.
    pub level: String,
    /// The phase.
    pub phase: String,
    /// Its latencies.
    #[serde(flatten)]
    pub latency: Latency,
    /// Points of its cumulative distribution: ns, and how many latencies are at most that long. Left out where there is no latency, and
    /// of the pairs with the least ones where there are many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdf: Option<spread::Cdf>,
    /// Whether the percentiles are those of the very values (else: of a histogram's buckets).
    pub exact: bool,
    /// What became of its IPIs.
    #[serde(flatten)]
    pub counts: Counts,
    /// IPIs whose latency was taken from a core for the greater part. They are in the figures, and are not judged.
    pub stolen: u64,
    /// IPIs of whose latency a smaller part was. They are in the figures, and are not judged.
    pub doubtful: u64,
    /// IPIs that stood pending until a heartbeat came.
    pub recovered: u64,
    /// IPIs that seem to have been taken before they were sent, with one outstanding at a time, three in a row or more.
    pub backwards: u64,
    /// Whether one IPI was outstanding at a time.
    #[serde(skip)]
    timed: bool,
    /// Index of the phase.
    #[serde(skip)]
    phase_index: u16,
    /// The median, whatever the number of samples, ns.
    #[serde(skip)]
    median_ns: Option<f64>,
}

/// A stage of an interrupt.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// What was sent.
    pub kind: String,
    /// The core.
    pub core: u16,
    /// Its latencies.
    #[serde(flatten)]
    pub latency: Latency,
    /// The median, whatever the number of samples, ns.
    #[serde(skip)]
    median_ns: f64,
    /// Its place in the life of a call.
    #[serde(skip)]
    order: stages::Stage,
}

/// The stages of every core that recorded some.
fn stages(ipis: &Ipis, tick_ns: f64) -> Vec<Stage> {
    let figures = |figures: &StageFigures| {
        let summary = figures.samples.clone().summary(1.0);
        Stage {
            stage: figures.stage.name().into(),
            kind: figures.kind.map_or("sgi", IpiKind::name).into(),
            core: figures.core,
            latency: Latency::of(summary, tick_ns),
            median_ns: summary.map_or(0.0, |summary| summary.median * tick_ns),
            order: figures.stage,
        }
    };
    ipis.stages.iter().map(figures).collect()
}

/// A fault that was put in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Injected {
    /// As `--inject` spells it.
    pub fault: String,
    /// How often it struck, by its own count; null where it has none.
    pub struck: Option<u64>,
}

/// An exception or a panic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultReport {
    /// The core.
    pub core: u16,
    /// What happened.
    pub kind: &'static str,
    /// ESR_EL1.
    pub esr: String,
    /// ELR_EL1.
    pub elr: String,
    /// FAR_EL1.
    pub far: String,
    /// SPSR_EL1.
    pub spsr: String,
    /// The stack pointer.
    pub sp: String,
    /// The function that ELR_EL1 points into.
    pub symbol: Option<String>,
    /// What the target said.
    pub message: String,
    /// x0 to x30.
    pub registers: Vec<String>,
}

/// The accounts of a lane: `written = accepted + lapped + torn + dropped + missing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    /// The core.
    pub core: u16,
    /// Who writes it.
    pub context: &'static str,
    /// Records that were written or turned away.
    pub written: u64,
    /// Records that were read whole.
    pub accepted: u64,
    /// Records that were overwritten before they were read.
    pub lapped: u64,
    /// Records that were damaged when they were read.
    pub torn: u64,
    /// Records that the lane's policy turned away.
    pub dropped: u64,
    /// Of those accepted: missing from the capture, because it is damaged or cut.
    pub missing: u64,
}

impl LaneReport {
    /// All that was missed.
    pub const fn lost(&self) -> u64 {
        self.lapped.saturating_add(self.torn).saturating_add(self.dropped).saturating_add(self.missing)
    }
}

/// Which IPIs the report is of.
#[derive(Clone, Debug, Serialize)]
pub struct FilterReport {
    /// The filter, as it is printed.
    pub expression: String,
    /// IPIs that it picked; a reception without a send counts as one.
    pub picked: u64,
    /// IPIs in the capture.
    pub of: u64,
    /// Of which IPIs verdict, suspects and limits are: `picked`, or `all` where the filter asks for results.
    pub judged: &'static str,
}

/// What ran.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// Version of the host tool that ran it.
    pub host: String,
    /// Version of the host tool that reports it.
    pub reporter: &'static str,
    /// Build id of the firmware.
    pub firmware: String,
    /// The emulator's version.
    pub qemu: String,
    /// The emulator's arguments.
    pub qemu_arguments: Vec<String>,
    /// When it ran, RFC 3339.
    pub created: String,
    /// Nonce of the run.
    pub nonce: String,
}

/// Reads a capture and says what it comes to.
pub fn build(path: &Path) -> Result<Report, CaptureError> {
    build_against(path, None)
}

/// The same, held against limits.
pub fn build_against(path: &Path, limits: Option<&Limits>) -> Result<Report, CaptureError> {
    build_of(&Capture::open(path)?, limits, None)
}

/// The same of the IPIs that a filter picks. One that asks for results (latency, outcome) chooses what is shown; verdict, suspects
/// and limits are then those of all IPIs: of slow ones alone, every core looks slow.
pub fn build_of(capture: &Capture, limits: Option<&Limits>, choice: Option<&Choice>) -> Result<Report, CaptureError> {
    let (ipis, all) = match choice {
        None => (correlate(capture)?, None),
        Some(choice) => {
            let picked = correlate_heard(capture, &mut |message| choice.picks(message))?;
            (picked, if choice.asks_for_results() { Some(correlate(capture)?) } else { None })
        }
    };
    let judged = all.as_ref().unwrap_or(&ipis);
    let limits = limits.map(|limits| limits::judge(limits, capture.info(), judged));
    let symbols = Symbols::of(capture);
    let findings = detect(&Evidence::new(capture.info(), capture.ending(), judged, &symbols));
    let mut report = assemble(capture, &ipis, findings, &symbols);
    report.timing = timing::timing(capture, &ipis, report.tick_ns)?;
    report.filter = choice.zip(report.heard).map(|(choice, heard)| FilterReport {
        expression: choice.filter().to_string(),
        picked: heard.counted,
        of: heard.told,
        judged: if choice.asks_for_results() { "all" } else { "picked" },
    });
    if let Some(limits) = limits {
        report.verdict = with_limits(report.verdict, limits.outcome);
        report.limits = Some(limits);
    }
    Ok(report)
}

/// A broken limit is a failure, whatever else was found; one that can't be told leaves a clean run in doubt.
fn with_limits(verdict: Verdict, limits: Outcome) -> Verdict {
    match (limits, verdict) {
        (Outcome::Failed, _) => Verdict::Failed,
        (Outcome::Inconclusive, Verdict::Clean) => Verdict::Inconclusive,
        (_, verdict) => verdict,
    }
}

fn assemble(capture: &Capture, ipis: &Ipis, findings: Findings, symbols: &Symbols) -> Report {
    let (info, ending) = (capture.info(), capture.ending());
    let view = ipis.view.as_ref();
    let hz = view.map_or(0, |view| view.directory.counter_hz);
    let tick_ns = 1e9 / hz.max(1) as f64;
    let mut notes = info.notes.clone();
    notes.extend(ipis.notes.iter().cloned());
    notes.extend(capture.ending().into_iter().flat_map(|ending| ending.notes.iter().cloned()));
    if ipis.damage.chunks > 0 {
        notes.push(format!("{} chunks of the capture are damaged and were left out", ipis.damage.chunks));
    }
    if ipis.damage.messages > 0 {
        notes.push(format!("{} messages of the capture are damaged and were left out", ipis.damage.messages));
    }
    let spurious_intids: u64 =
        view.map_or(0, |view| view.cores.iter().fold(0, |sum, core| sum.saturating_add(core.spurious_intids)));
    if spurious_intids > 0 {
        notes.push(format!(
            "{spurious_intids} acknowledges returned a special INTID (1020 to 1023): an interrupt was withdrawn before it was taken"
        ));
    }
    let directory = view.map(|view| &view.directory);
    // No ticks: an older region, or a piece of one.
    let record_cost = |ticks: u32| (ticks > 0).then(|| f64::from(ticks) * tick_ns / f64::from(COST_RECORDS));
    let lanes = lanes(capture, ipis);
    let phases = phases(capture, ipis, tick_ns);
    let instructions_per_ipi =
        (info.verdict_scope == VerdictScope::Instructions)
            .then(|| {
                let (meta, phase) =
                    info.plan.phases.iter().zip(&phases).find(|(meta, phase)| {
                        meta.timed && meta.pairs == 1 && phase.counts.sent > 0 && phase.rounds > 0
                    })?;
                debug_assert_eq!(meta.name, phase.name);
                Some(phase.elapsed_ns? / phase.counts.sent as f64)
            })
            .flatten();
    let written: u64 = lanes.iter().fold(0, |sum, lane| sum.saturating_add(lane.written));
    let sum = |of: &dyn Fn(&LaneReport) -> u64| lanes.iter().fold(0_u64, |sum, lane| sum.saturating_add(of(lane)));
    let trace = Trace {
        level: info.plan.level.clone(),
        policy: info.plan.policy.clone(),
        keep: info.plan.keep,
        records: sum(&|lane| lane.accepted),
        lost_records: sum(&LaneReport::lost),
        torn_records: sum(&|lane| lane.torn),
        damaged_chunks: ipis.damage.chunks,
        truncated: ipis.damage.truncated,
        rings: directory.map(|directory| if directory.non_cacheable == 0 { "cacheable" } else { "non-cacheable" }),
        record_ns: directory.and_then(|directory| record_cost(directory.record_ticks)),
        record_cacheable_ns: directory.and_then(|directory| record_cost(directory.record_ticks_cacheable)),
    };
    let clock_fault = findings.suspects.iter().any(|suspect| suspect.detector == "clock");
    Report {
        schema: SCHEMA,
        verdict: findings.verdict,
        verdict_scope: info.verdict_scope,
        ended: ending.map_or(Ended::Interrupted, |ending| ending.ended),
        stopped_by: ending.and_then(|ending| ending.stopped_by.clone()),
        error: error(capture, ipis),
        target: target(capture, view, ipis.slots.iter().any(|slot| slot.kind.is_some())),
        clock: clock::clock(capture, ipis, view, !clock_fault),
        trace,
        ipis: IpiCounts {
            counts: ipis.totals,
            late: findings.late,
            duplicate: ipis.duplicate,
            spurious: ipis.spurious,
            from: ipis.from,
        },
        phases,
        pairs: pairs(capture, ipis, tick_ns),
        distributions: spread::distributions(ipis, view, tick_ns),
        core_figures: spread::core_figures(ipis, tick_ns),
        stolen: witness::stolen(ipis, tick_ns),
        sweeps: witness::sweeps(ipis, tick_ns),
        series: witness::series(ipis, view, tick_ns),
        kinds: calls::kinds(ipis, tick_ns),
        stages: stages(ipis, tick_ns),
        calls: calls::calls(capture, ipis, symbols, tick_ns),
        callbacks: calls::callbacks(ipis, symbols, tick_ns),
        queue_depth: calls::queue_depth(ipis, tick_ns),
        suspects: findings.suspects,
        advisories: findings.advisories,
        limits: None,
        timing: None,
        filter: None,
        heard: ipis.heard,
        linux: linux::linux(capture, ipis),
        injected: injected(capture, view),
        faults: faults(capture, view),
        crash_stops: calls::crash_stops(view, symbols),
        lanes,
        plan: info.plan.clone(),
        build: Build {
            host: info.tool_version.clone(),
            reporter: env!("CARGO_PKG_VERSION"),
            firmware: info.firmware_build_id.clone(),
            qemu: info.qemu_version.clone(),
            qemu_arguments: info.qemu_arguments.clone(),
            created: info.created.clone(),
            nonce: format!("{:#x}", info.nonce),
        },
        events_per_ipi: (ipis.totals.sent > 0).then(|| written as f64 / ipis.totals.sent as f64),
        instructions_per_ipi,
        notes,
        tick_ns,
    }
}

fn error(capture: &Capture, ipis: &Ipis) -> Option<ErrorInfo> {
    let info = |kind: &str, message: String, next_step: &str| {
        Some(ErrorInfo { kind: kind.into(), message, next_step: next_step.into() })
    };
    let Some(ending) = capture.ending() else {
        return info(
            "capture_cut",
            "the capture has no ending: the host was killed while it wrote, or the file was cut".into(),
            "run it again; what was flushed is reported here",
        );
    };
    if ending.error.is_some() {
        return ending.error.clone();
    }
    let view = ipis.view.as_ref()?;
    let refused = (0..).zip(&view.faults).find(|(_, fault)| fault.kind == fault_kind::REFUSED);
    if let Some((core, fault)) = refused {
        let text = message_text(fault);
        return info(
            "target_refused",
            format!("core {core} can't run the plan: {text}"),
            "see the message; then run it again",
        );
    }
    if view.status.state != run_state::ABORTED {
        return None;
    }
    let detail = view.status.detail;
    match view.status.reason {
        abort_reason::FAULT => info(
            "target_fault",
            "a core took an exception or panicked; the run was cut short".into(),
            "see the fault below",
        ),
        abort_reason::DEADLINE => info(
            "target_deadline",
            format!("core {detail} waited in vain for the others at a barrier or a turn"),
            "raise the host's share, use fewer cores, or look at the fault entries",
        ),
        abort_reason::BAD_OP => info(
            "bad_plan",
            format!("the firmware does not know operation {detail} of the plan"),
            "use the firmware that belongs to this host tool",
        ),
        _ => None,
    }
}

pub(crate) fn message_text(fault: &trace_ring::layout::FaultEntry) -> String {
    let length = (fault.message_len as usize).min(fault.message.len());
    String::from_utf8_lossy(fault.message.get(..length).unwrap_or_default()).trim_end_matches('\0').to_owned()
}

fn target(capture: &Capture, view: Option<&View>, uses_kinds: bool) -> Target {
    let info = capture.info();
    let directory = view.map(|view| &view.directory);
    let count = usize::from(info.plan.cores);
    let entries = view.map_or(&[][..], |view| view.cores.get(..count).unwrap_or(&view.cores));
    let started = view.is_some_and(|view| view.status.state >= run_state::RUNNING);
    let mut clusters: Vec<u64> = entries.iter().map(|core| core.mpidr >> 8).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let core = |(id, core): (u16, &CoreEntry)| CoreReport {
        id,
        mpidr: format!("{:#x}", core.mpidr),
        midr: format!("{:#x}", core.midr),
        revidr: format!("{:#x}", core.revidr),
        class: class(core.midr),
        cluster: clusters.binary_search(&(core.mpidr >> 8)).unwrap_or(0),
        up: core.state == core_state::UP,
        nmi: (uses_kinds && core.state == core_state::UP).then(|| {
            let has = |feature: u32| core.features & feature != 0;
            match (has(core_feature::NMI), has(core_feature::PSEUDO_NMI)) {
                (true, _) => Delivery::Nmi.name(),
                (false, true) => Delivery::PseudoNmi.name(),
                (false, false) => "none",
            }
        }),
        error: match core.state {
            core_state::UP => None,
            core_state::FAULTED => Some("took an exception or panicked".into()),
            core_state::DISABLED => Some("is disabled in the device tree".into()),
            core_state::UNKNOWN => Some("is unknown: its entry did not come".into()),
            _ => core_error(core, started).or_else(|| Some("was not started".into())),
        },
        gicr_iidr: (core.state == core_state::UP).then(|| format!("{:#x}", core.gicr_iidr)),
        gicr_typer: (core.state == core_state::UP).then(|| format!("{:#x}", core.gicr_typer)),
        suspend: (core.state == core_state::UP && core.suspend_error != SUSPEND_UNTRIED).then(|| Suspend {
            state: format!("{:#x}", core.suspend_state),
            error: (core.suspend_error != 0)
                .then(|| format!("{} ({})", psci_error(core.suspend_error), core.suspend_error)),
        }),
    };
    // A Linux trace says nothing of its CPUs but their numbers.
    let hz = directory.map(|directory| directory.counter_hz);
    let linux = capture.linux();
    let (directory, entries) = if linux.is_some() { (None, &[][..]) } else { (directory, entries) };
    let cores: Vec<CoreReport> = (0..).zip(entries).map(core).collect();
    let uid = directory.map(|directory| directory.hypervisor_uid).filter(|uid| *uid != [0; 4]);
    Target {
        source: info.source.clone(),
        machine: info.machine.clone(),
        board: info.board.clone(),
        cpu: info.cpu.clone(),
        accel: info.accel.clone(),
        core_count: info.cores,
        cores_up: cores.iter().filter(|core| core.up).count() as u32,
        counter_hz: hz,
        resolution_ns: match linux {
            Some(table) => (table.resolution_ns > 0).then_some(table.resolution_ns as f64),
            None => directory.filter(|directory| directory.counter_hz > 0).map(|directory| {
                let step = entries.iter().filter(|core| core.state == core_state::UP).map(|core| core.resolution).max();
                f64::from(step.unwrap_or(1).max(1)) * 1e9 / directory.counter_hz as f64
            }),
        },
        entry_el: directory.map(|directory| directory.entry_el),
        run_el: directory.map(|directory| directory.run_el),
        psci_conduit: directory.map(|directory| match directory.psci_conduit {
            conduit::HVC => "hvc",
            conduit::SMC => "smc",
            _ => "none",
        }),
        hypervisor: uid.map(|uid| uid.map(|word| format!("{word:08x}")).join("-")),
        tags: info.tags.clone(),
        cores,
        gic: directory.map(|directory| Gic {
            iidr: format!("{:#x}", directory.gicd_iidr),
            typer: format!("{:#x}", directory.gicd_typer),
            pidr2: format!("{:#x}", directory.gicd_pidr2),
            version: directory.gicd_pidr2 >> 4 & 0xF,
        }),
    }
}

/// A core type's name by MIDR_EL1 (implementer 31..24, part 15..4); Arm's own, and what QEMU offers.
fn class(midr: u32) -> String {
    let (implementer, part) = (midr >> 24, midr >> 4 & 0xFFF);
    let name = match (implementer, part) {
        (0x41, 0xD03) => "Cortex-A53",
        (0x41, 0xD04) => "Cortex-A35",
        (0x41, 0xD05) => "Cortex-A55",
        (0x41, 0xD07) => "Cortex-A57",
        (0x41, 0xD08) => "Cortex-A72",
        (0x41, 0xD09) => "Cortex-A73",
        (0x41, 0xD0A) => "Cortex-A75",
        (0x41, 0xD0B) => "Cortex-A76",
        (0x41, 0xD0C) => "Neoverse-N1",
        (0x41, 0xD0D) => "Cortex-A77",
        (0x41, 0xD40) => "Neoverse-V1",
        (0x41, 0xD41) => "Cortex-A78",
        (0x41, 0xD44) => "Cortex-X1",
        (0x41, 0xD46) => "Cortex-A510",
        (0x41, 0xD47) => "Cortex-A710",
        (0x41, 0xD49) => "Neoverse-N2",
        (0x41, 0xD4F) => "Neoverse-V2",
        (0x00, 0x051) => "QEMU max",
        (0x46, 0x001) => "A64FX",
        (0x48, 0xD01) => "Kunpeng-920",
        _ => return format!("implementer {implementer:#04x} part {part:#05x}"),
    };
    name.into()
}

fn lanes(capture: &Capture, ipis: &Ipis) -> Vec<LaneReport> {
    let info = capture.info();
    let mut lanes = Vec::new();
    for (index, tally) in ipis.lanes.iter().enumerate() {
        let (core, context) = ((index / 4) as u16, (index % 4) as u8);
        let account = capture
            .ending()
            .and_then(|ending| ending.lanes.iter().find(|lane| lane.core == core && lane.context == context));
        // A capture that keeps the worst records only misses the others on purpose.
        let missing = if info.plan.keep == Keep::All { tally.missing } else { 0 };
        let lane = match account {
            Some(account) => LaneReport {
                core,
                context: context_name(context),
                written: account.written,
                accepted: account.accepted.saturating_sub(missing.saturating_sub(account.left)),
                lapped: account.lapped,
                torn: account.torn,
                dropped: account.dropped,
                missing: missing.max(account.left),
            },
            None => LaneReport {
                core,
                context: context_name(context),
                written: tally.records.saturating_add(tally.lost()),
                accepted: tally.records,
                lapped: tally.lapped,
                torn: tally.torn,
                dropped: tally.dropped,
                missing,
            },
        };
        if lane.written > 0 || lane.lost() > 0 {
            lanes.push(lane);
        }
    }
    lanes
}

fn phases(capture: &Capture, ipis: &Ipis, tick_ns: f64) -> Vec<PhaseReport> {
    let view = ipis.view.as_ref();
    let mut reports = Vec::new();
    for (index, meta) in capture.info().plan.phases.iter().enumerate() {
        let mut counts = Counts::default();
        let mut pool = Pool::default();
        for slot in ipis.slots.iter().filter(|slot| usize::from(slot.phase) == index) {
            counts.add(&slot.counts);
            pool.add(&slot.figures);
        }
        let result = view.and_then(|view| view.phases.get(index)).filter(|result| result.rounds > 0);
        let elapsed_ns = result.map(|result| result.elapsed as f64 * tick_ns).filter(|elapsed| *elapsed > 0.0);
        reports.push(PhaseReport {
            name: meta.name.clone(),
            pattern: meta.pattern.clone(),
            state: meta.state.clone(),
            timed: meta.timed,
            rounds: result.map_or(0, |result| result.rounds),
            counts,
            elapsed_ns,
            // Of some of the IPIs, the time of all says nothing.
            ipis_per_second: elapsed_ns
                .filter(|_| ipis.heard.is_none())
                .map(|elapsed| counts.sent as f64 * 1e9 / elapsed),
            latency: Latency::of(pool.summary(1.0), tick_ns),
        });
    }
    reports
}

/// What was sent: a kind's name, or `sgi` and the INTID of bare SGIs.
fn kind_name(slot: &Slot) -> String {
    slot.kind_name()
}

fn pairs(capture: &Capture, ipis: &Ipis, tick_ns: f64) -> Vec<Pair> {
    let info = capture.info();
    let measured: Vec<_> = ipis.slots.iter().filter(|slot| slot.counts.sent > 0).collect();
    let figures: Vec<_> = measured.iter().map(|slot| vec![&slot.figures]).collect();
    let cdfs = spread::cdfs(&figures, tick_ns);
    measured
        .into_iter()
        .zip(cdfs)
        .map(|(slot, cdf)| {
            let meta = info.plan.phases.get(usize::from(slot.phase));
            Pair {
                from: slot.from,
                to: slot.to,
                kind: kind_name(slot),
                delivery: slot.delivery.map(Delivery::name),
                state: ReceiverState::name(slot.state),
                level: info.plan.level.clone(),
                phase: meta.map_or_else(|| slot.phase.to_string(), |meta| meta.name.clone()),
                latency: Latency::of(slot.latency, tick_ns),
                cdf,
                exact: slot.exact,
                counts: slot.counts,
                stolen: slot.excused.stolen,
                doubtful: slot.excused.doubtful,
                recovered: slot.recovered.count,
                backwards: slot.backwards,
                timed: meta.is_some_and(|meta| meta.timed),
                phase_index: slot.phase,
                median_ns: slot.latency.map(|latency| latency.median * tick_ns),
            }
        })
        .collect()
}

/// The twins' own counts. Nothing but this reads them.
fn injected(capture: &Capture, view: Option<&View>) -> Vec<Injected> {
    let truth = |core: u16| view.and_then(|view| view.truth.get(usize::from(core)));
    let struck = |text: &String| {
        let struck = text.parse().ok().and_then(|fault| match fault {
            Fault::Drop { from, .. } => truth(from).map(|truth| truth.dropped),
            Fault::Late { core, .. } => truth(core).map(|truth| truth.delayed),
            Fault::SlowWake { core, .. } => truth(core).map(|truth| truth.delayed),
            Fault::SlowSender { core, .. } => truth(core).map(|truth| truth.held_back),
            Fault::SlowPair { from, .. } => truth(from).map(|truth| truth.held_back),
            Fault::Misroute { from, .. } => truth(from).map(|truth| truth.misdirected),
            Fault::Duplicate { core, .. } => truth(core).map(|truth| truth.repeated),
            Fault::Spurious { core, .. } => truth(core).map(|truth| truth.invented),
            Fault::Stall { core, .. } => truth(core).map(|truth| truth.stalled),
            Fault::Steal { core, .. } => truth(core).map(|truth| truth.stolen),
            Fault::Skew { core, .. } | Fault::Jump { core, .. } | Fault::StepBack { core, .. } => {
                truth(core).map(|truth| truth.shifted)
            }
            Fault::Mask { core, .. } => truth(core).map(|truth| truth.masked),
            Fault::SlowCallback { core, .. } => truth(core).map(|truth| truth.slowed),
            Fault::Stuck { core, .. } => truth(core).map(|truth| truth.stuck),
            Fault::CsdLock { core, .. } => truth(core).map(|truth| truth.left_locked),
            Fault::Dead { .. } | Fault::Crash { .. } | Fault::Overflow { .. } | Fault::Stray { .. } => None,
        });
        Injected { fault: text.clone(), struck }
    };
    capture.info().plan.faults.iter().map(struck).collect()
}

fn faults(capture: &Capture, view: Option<&View>) -> Vec<FaultReport> {
    let entries = view.map_or(&[][..], |view| view.faults.as_slice());
    let entries: Vec<_> = (0..)
        .zip(entries)
        .filter(|(_, fault)| !matches!(fault.kind, fault_kind::NONE | fault_kind::CRASH_STOP))
        .collect();
    if entries.is_empty() {
        return Vec::new();
    }
    // Symbols are a help, not a condition: a capture without an ELF, or with a bad one, shows addresses.
    let elf = capture.attachment(ELF_ATTACHMENT).ok().flatten();
    let hex = |value: u64| format!("{value:#x}");
    entries
        .into_iter()
        .map(|(core, fault)| FaultReport {
            core,
            kind: fault_name(fault.kind),
            esr: hex(fault.esr),
            elr: hex(fault.elr),
            far: hex(fault.far),
            spsr: hex(fault.spsr),
            sp: hex(fault.sp),
            symbol: elf.as_deref().and_then(|elf| symbol(elf, fault.elr)),
            message: message_text(fault),
            registers: fault.x.iter().map(|register| hex(*register)).collect(),
        })
        .collect()
}

/// The function that an address lies in, and how far.
fn symbol(elf: &[u8], address: u64) -> Option<String> {
    let file = object::File::parse(elf).ok()?;
    let inside = |symbol: &object::Symbol<'_, '_>| {
        symbol.kind() == object::SymbolKind::Text
            && (symbol.address()..symbol.address().saturating_add(symbol.size().max(1))).contains(&address)
    };
    let symbol = file.symbols().find(inside)?;
    let name = symbol.name().ok()?;
    Some(format!("{:#}+{:#x}", rustc_demangle::demangle(name), address - symbol.address()))
}

impl Report {
    /// The exit code that the verdict stands for; limits of another target were asked wrongly.
    pub fn exit_code(&self) -> u8 {
        let mismatch = self.limits.as_ref().is_some_and(|limits| !limits.mismatch.is_empty());
        if mismatch { exit::MISUSED } else { self.verdict.exit_code() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_means_digits_follow_its_interval() {
        for (mean, interval, expected) in [
            (176.123_456, 6.019_331, (176.1, 6.0)),
            (176.123_456, 0.019_331, (176.123, 0.019)),
            (1_234_567.8, 3456.0, (1_234_600.0, 3500.0)),
            (42.0, 16.0, (42.0, 16.0)),
            (41.96, 99.9, (42.0, 100.0)),
            (0.3, 0.0, (0.3, 0.0)),
        ] {
            assert_eq!(rounded(mean, interval), expected, "{mean} +- {interval}");
        }
        assert_eq!(rounded(1.5, f64::INFINITY), (1.5, f64::INFINITY));
        assert!(rounded(1e300, 1e-300).0.is_finite() && rounded(1e-300, 1e300).0.is_finite());
    }
}
