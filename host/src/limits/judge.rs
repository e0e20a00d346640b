//! Limits against a run: every rule, every bound, the worst that each found.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use trace_ring::calls::IpiKind;
use trace_ring::layout::{Context, CoreEntry, LANES_PER_CORE, clock_flag, core_state};
use trace_ring::plan::TraceLevel;
use trace_ring::record::ReceiverState;

use super::{Bound, Count, Figure, Limits, Most, Per, Rule, Select};
use crate::capture::{RunInfo, VerdictScope};
use crate::correlate::{Counts, Ipis, Slot};
use crate::detect::{distance, duration};
use crate::plan::Keep;
use crate::stats::distribution::Distribution;

/// How a bound, a rule or a whole file of them ended. Of several, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// The run does not carry what it bounds.
    Inconclusive,
    /// It is broken.
    Failed,
}

impl Outcome {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Inconclusive => "inconclusive",
            Outcome::Failed => "failed",
        }
    }
}

/// Limits held against a run.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsReport {
    /// The file, as it was named.
    pub file: String,
    /// Its own name for itself.
    pub name: Option<String>,
    /// CRC-32 of its text, to tell versions apart.
    pub crc32: String,
    /// Its text.
    pub text: String,
    /// All rules together.
    pub outcome: Outcome,
    /// In what the target is not the one that the limits are for: then no rule was held against it.
    pub mismatch: Vec<String>,
    /// Rules that hold.
    pub passed: usize,
    /// Rules that are broken.
    pub failed: usize,
    /// Rules that the run can't answer.
    pub inconclusive: usize,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// The rules.
    pub rules: Vec<RuleReport>,
}

/// A rule held against a run.
#[derive(Clone, Debug, Serialize)]
pub struct RuleReport {
    /// Its name.
    pub name: String,
    /// The line of the file that it begins in.
    pub line: usize,
    /// What it looks at, in words.
    pub select: String,
    /// What its figures are taken over.
    pub per: Per,
    /// All its bounds together.
    pub outcome: Outcome,
    /// Its bounds.
    pub bounds: Vec<BoundReport>,
}

/// A bound held against a run.
#[derive(Clone, Debug, Serialize)]
pub struct BoundReport {
    /// What it bounds: `p99`, `lost` …
    pub bound: &'static str,
    /// The unit of `limit` and `worst`.
    pub unit: Unit,
    /// The bound.
    pub limit: f64,
    /// The worst that was found; null: nothing was.
    pub worst: Option<f64>,
    /// Whose it is.
    pub subject: Option<Subject>,
    /// Latencies, or messages, that the worst is of.
    pub n: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Figures that it was held against.
    pub figures: u64,
    /// Of those: broken.
    pub broken: u64,
    /// Of those: not to be told.
    pub undecided: u64,
    /// Latencies that were left out because something else explains them.
    pub left_out: u64,
    /// The limit lies below a tick of the clock: a latency between zero and a tick can't be told from it.
    pub finer_than_clock: bool,
    /// Why it is not passed, or what to know about it.
    pub message: Option<String>,
}

/// What a bound counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// A number.
    Count,
    /// A share of the messages sent, 0 to 1.
    Share,
}

/// Whose figure it is; what does not apply is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Subject {
    /// Sender.
    pub from: Option<u16>,
    /// Receiver; of a stage: the core.
    pub to: Option<u16>,
    /// What was sent.
    pub kind: Option<String>,
    /// The receiver's state.
    pub state: Option<&'static str>,
    /// The phase.
    pub phase: Option<String>,
    /// The stage.
    pub stage: Option<&'static str>,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from == to => write!(f, "core {from} to itself")?,
            (Some(from), Some(to)) => write!(f, "pair {from} to {to}")?,
            (Some(from), None) => write!(f, "sender {from}")?,
            (None, Some(to)) if self.stage.is_some() => write!(f, "core {to}")?,
            (None, Some(to)) => write!(f, "receiver {to}")?,
            (None, None) => f.write_str("all")?,
        }
        let rest = [self.kind.as_deref(), self.stage, self.state, self.phase.as_deref()];
        rest.into_iter().flatten().try_for_each(|part| write!(f, ", {part}"))
    }
}

/// A figure of one subject: an interval that holds it, or why there is none.
struct Finding {
    subject: Subject,
    figure: Result<(f64, f64), String>,
    n: u64,
    left_out: u64,
    /// It is of fewer latencies than the rule asks for: it can't pass, and only what can't get better may fail.
    few: Option<String>,
}

/// A bound on its way to a report.
struct Held<'a> {
    run: &'a Run<'a>,
    unit: Unit,
    limit: f64,
    /// A worse value than this can't get better with more samples.
    final_when_broken: bool,
    report: BoundReport,
    worst: Option<(Outcome, f64)>,
}

impl<'a> Held<'a> {
    fn new(run: &'a Run<'a>, bound: &Bound) -> Self {
        let (unit, limit) = match bound {
            Bound::Latency(_, ns) | Bound::WakeUp(ns) | Bound::Skew(ns) => (Unit::Ns, *ns),
            Bound::Count(_, Most::Number(most)) => (Unit::Count, *most as f64),
            Bound::Count(_, Most::Share(share)) => (Unit::Share, *share),
            Bound::CoresUp(cores) => (Unit::Count, f64::from(*cores)),
        };
        let final_when_broken = !matches!(
            bound,
            Bound::Latency(Figure::P50 | Figure::P90 | Figure::P99 | Figure::P999 | Figure::Mean, _) | Bound::WakeUp(_)
        );
        let report = BoundReport {
            bound: bound.name(),
            unit,
            limit,
            worst: None,
            subject: None,
            n: 0,
            outcome: Outcome::Inconclusive,
            figures: 0,
            broken: 0,
            undecided: 0,
            left_out: 0,
            finer_than_clock: unit == Unit::Ns && run.tick_ns.is_some_and(|tick| limit < tick * run.step),
            message: None,
        };
        Held { run, unit, limit, final_when_broken, report, worst: None }
    }

    /// A value in its unit, for people.
    fn show(&self, value: f64) -> String {
        show(value, self.unit, self.run.tick_ns)
    }

    fn take(&mut self, finding: Finding) {
        let Finding { subject, figure, n, left_out, few } = finding;
        // Room for the last bit: limits are decimal, ticks are not.
        let limit = self.limit * (1.0 + 1e-9);
        let (outcome, value, message) = match figure {
            Err(why) => (Outcome::Inconclusive, None, Some(why)),
            Ok((low, high)) if low > limit && (few.is_none() || self.final_when_broken) => {
                let message = (low < high).then(|| format!("between {} and {}", self.show(low), self.show(high)));
                (Outcome::Failed, Some(high), message)
            }
            Ok((_, high)) if few.is_some() => (Outcome::Inconclusive, Some(high), few),
            Ok((_, high)) if high <= limit => (Outcome::Passed, Some(high), None),
            Ok((low, high)) => {
                let message =
                    format!("it lies between {} and {}: the run can't say where", self.show(low), self.show(high));
                (Outcome::Inconclusive, Some(high), Some(message))
            }
        };
        self.report.figures += 1;
        self.report.broken += u64::from(outcome == Outcome::Failed);
        self.report.undecided += u64::from(outcome == Outcome::Inconclusive);
        self.report.left_out += left_out;
        let rank = (outcome, value.unwrap_or(f64::NEG_INFINITY));
        if self.worst.is_none_or(|worst| (worst.0, worst.1) < rank) {
            self.worst = Some(rank);
            let report = &mut self.report;
            (report.worst, report.subject, report.n, report.message) = (value, Some(subject), n, message);
        }
    }

    fn finish(mut self, nothing: impl FnOnce() -> String) -> BoundReport {
        match self.worst {
            Some((outcome, _)) => self.report.outcome = outcome,
            None => self.report.message = Some(nothing()),
        }
        self.report
    }
}

/// A value for people: a measured one shows no digit below its tick, a limit (no tick) all that it was given.
pub(crate) fn show(value: f64, unit: Unit, tick_ns: Option<f64>) -> String {
    match unit {
        Unit::Ns if value == 0.0 => "less than a tick".into(),
        Unit::Ns => duration(value, tick_ns.unwrap_or(0.01)),
        Unit::Count => format!("{value:.0}"),
        // Three digits that mean something, as many behind the point as that takes.
        Unit::Share if value == 0.0 => "0 %".into(),
        Unit::Share => {
            let percent = value * 100.0;
            format!("{percent:.*} %", (2.0 - percent.log10().floor()).clamp(0.0, 9.0) as usize)
        }
    }
}

/// What rules are held against.
struct Run<'a> {
    info: &'a RunInfo,
    ipis: &'a Ipis,
    /// One tick; `None`: nobody knows the counter's frequency.
    tick_ns: Option<f64>,
    /// The counter's own step, ticks.
    step: f64,
    /// Of each phase: whether its plan sends to every pair that it has a slot for.
    complete: Vec<bool>,
}

/// What is never mixed in a latency.
type Group = (u16, u8, u8, &'static str, Option<u16>, Option<u16>);

impl Run<'_> {
    fn timed(&self, slot: &Slot) -> bool {
        self.info.plan.phases.get(usize::from(slot.phase)).is_some_and(|phase| phase.timed)
    }

    fn phase(&self, phase: u16) -> String {
        let meta = self.info.plan.phases.get(usize::from(phase));
        meta.map_or_else(|| phase.to_string(), |meta| meta.name.clone())
    }

    fn distance(&self, from: u16, to: u16) -> Option<u8> {
        if from == to {
            return Some(0);
        }
        let cores = &self.ipis.view.as_ref()?.cores;
        Some(distance(cores.get(usize::from(from))?.mpidr, cores.get(usize::from(to))?.mpidr))
    }

    /// Whether a rule picks a slot; of phases with several IPIs under way, too.
    fn picks(&self, select: &Select, slot: &Slot) -> bool {
        select.kind.is_none_or(|kind| kind.holds(slot.kind, slot.intid))
            && select.state.is_none_or(|state| state == slot.state)
            && select.phase.as_ref().is_none_or(|phase| *phase == self.phase(slot.phase))
            && select.from.as_ref().is_none_or(|cores| cores.0.contains(&slot.from))
            && select.to.as_ref().is_none_or(|cores| cores.0.contains(&slot.to))
            && select.distance.is_none_or(|distance| self.distance(slot.from, slot.to) == Some(distance))
            // That a pair was never sent to is worth telling where the plan meant to: others have slots for whatever may happen.
            && (slot.counts.sent > 0 || self.complete.get(usize::from(slot.phase)).copied().unwrap_or(false))
    }

    fn slots<'a>(&'a self, select: &'a Select) -> impl Iterator<Item = &'a Slot> {
        self.ipis.slots.iter().filter(|slot| self.picks(select, slot))
    }

    fn groups<'a>(&'a self, select: &'a Select, per: Per) -> BTreeMap<Group, Vec<&'a Slot>> {
        let mut groups: BTreeMap<Group, Vec<&Slot>> = BTreeMap::new();
        for slot in self.slots(select).filter(|slot| !select.timed || self.timed(slot)) {
            let (from, to) = divided(per, slot.from, slot.to);
            let key = (slot.phase, slot.kind.map_or(0, IpiKind::slot_code), slot.intid, slot.state.name(), from, to);
            groups.entry(key).or_default().push(slot);
        }
        groups
    }

    fn subject(&self, slots: &[&Slot], per: Per) -> Subject {
        let Some(first) = slots.first() else { return Subject::default() };
        let (from, to) = divided(per, first.from, first.to);
        Subject {
            from,
            to,
            kind: Some(kind_name(first)),
            state: Some(first.state.name()),
            phase: Some(self.phase(first.phase)),
            stage: None,
        }
    }

    /// Why a rule found nothing.
    fn nothing(&self, rule: &Rule) -> String {
        let select = &rule.select;
        if select.stage.is_some() {
            let names: BTreeSet<&str> = self.ipis.stages.iter().map(|stage| stage.stage.name()).collect();
            return match names.is_empty() {
                true => "no stage was recorded; run the plan with --level stages or calls".into(),
                false => format!("no stage of this run matches; it has {}", list(names)),
            };
        }
        if select.timed && self.slots(select).next().is_some() {
            return "only phases with several IPIs under way at a time match; say `timed = false`, or name the phase"
                .into();
        }
        let sent = || self.ipis.slots.iter().filter(|slot| slot.counts.sent > 0);
        let kinds: BTreeSet<String> = sent().map(kind_name).collect();
        let states: BTreeSet<&str> = sent().map(|slot| slot.state.name()).collect();
        let phases: BTreeSet<String> = sent().map(|slot| self.phase(slot.phase)).collect();
        let distances: BTreeSet<String> =
            sent().filter_map(|slot| self.distance(slot.from, slot.to)).map(|distance| distance.to_string()).collect();
        if kinds.is_empty() {
            return "nothing was sent in this run".into();
        }
        format!(
            "nothing of this run matches; it has kinds {}; states {}; distances {}; phases {}",
            list(kinds),
            list(states),
            list(distances),
            list(phases)
        )
    }
}

fn list<T: AsRef<str>>(names: BTreeSet<T>) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
}

fn kind_name(slot: &Slot) -> String {
    slot.kind_name()
}

/// Sender and receiver, as far as figures are told apart by them.
const fn divided(per: Per, from: u16, to: u16) -> (Option<u16>, Option<u16>) {
    match per {
        Per::Pair => (Some(from), Some(to)),
        Per::Receiver => (None, Some(to)),
        Per::Sender => (Some(from), None),
        Per::All => (None, None),
    }
}

/// Latencies that are judged, and how many were left out because something else explains them.
fn judged(slots: &[&Slot]) -> (Distribution, u64) {
    let mut all = Distribution::default();
    let mut measured = 0;
    for slot in slots {
        all.merge(&Distribution::of(slot.free.as_ref().map_or(&slot.figures, |free| &free.figures)));
        measured += slot.latency.map_or(0, |latency| latency.n);
    }
    let left_out = measured.saturating_sub(all.len());
    (all, left_out)
}

/// Holds limits against a run.
pub(crate) fn judge(limits: &Limits, info: &RunInfo, ipis: &Ipis) -> LimitsReport {
    let view = ipis.view.as_ref();
    let hz = view.map_or(0, |view| view.directory.counter_hz);
    let cores = view.map_or(&[][..], |view| view.cores.get(..usize::from(info.plan.cores)).unwrap_or(&view.cores));
    let up = || (0..).zip(cores).filter(|(_, core)| core.state == core_state::UP);
    let run = Run {
        info,
        ipis,
        tick_ns: (hz > 0).then(|| 1e9 / hz as f64),
        complete: complete(info, ipis),
        step: f64::from(up().map(|(_, core)| core.resolution).max().unwrap_or(1).max(1)),
    };
    let midrs: Vec<(u16, u32)> = up().map(|(id, core)| (id, core.midr)).collect();
    let mismatch = limits.target.differs_from_run(info, &midrs);
    let mut notes = Vec::new();
    if mismatch.is_empty() {
        let whose = match info.verdict_scope {
            VerdictScope::Silicon => None,
            VerdictScope::Virtualized => {
                Some("latencies contain a hypervisor's time: these limits hold on this host only")
            }
            VerdictScope::Emulated => Some("latencies are an emulator's: these limits hold on this host only"),
            VerdictScope::Instructions => Some("latencies are counted instructions: 1 ns is one"),
            VerdictScope::LinuxTrace => Some("latencies are another kernel's"),
        };
        let times =
            |rule: &Rule| rule.bounds.iter().any(|bound| matches!(bound, Bound::Latency(..) | Bound::WakeUp(_)));
        notes.extend(whose.filter(|_| limits.rules.iter().any(times)).map(String::from));
    }
    let rules: Vec<RuleReport> =
        if mismatch.is_empty() { limits.rules.iter().map(|rule| held(&run, rule)).collect() } else { Vec::new() };
    let count = |outcome: Outcome| rules.iter().filter(|rule| rule.outcome == outcome).count();
    let worst = rules.iter().map(|rule| rule.outcome).max();
    LimitsReport {
        file: limits.file.display().to_string(),
        name: limits.name.clone(),
        crc32: format!("{:08x}", crc32fast::hash(limits.text.as_bytes())),
        text: limits.text.clone(),
        outcome: worst.unwrap_or(Outcome::Inconclusive),
        mismatch,
        passed: count(Outcome::Passed),
        failed: count(Outcome::Failed),
        inconclusive: count(Outcome::Inconclusive),
        notes,
        rules,
    }
}

/// Of each phase: whether it is timed, and has slots for the pairs that it measures and no others.
fn complete(info: &RunInfo, ipis: &Ipis) -> Vec<bool> {
    let mut slots = vec![0_u64; info.plan.phases.len()];
    for slot in &ipis.slots {
        if let Some(count) = slots.get_mut(usize::from(slot.phase)) {
            *count += 1;
        }
    }
    info.plan.phases.iter().zip(slots).map(|(phase, slots)| phase.timed && slots == u64::from(phase.pairs)).collect()
}

fn held(run: &Run<'_>, rule: &Rule) -> RuleReport {
    let mut bounds: Vec<Held<'_>> = Vec::new();
    let mut reports = Vec::new();
    for bound in &rule.bounds {
        let mut held = Held::new(run, bound);
        match bound {
            Bound::Latency(..) => {
                bounds.push(held);
                continue;
            }
            Bound::WakeUp(_) => wake_up(run, rule, &mut held),
            Bound::Count(count, most) if count.is_of_receptions() => receptions(run, rule, *count, *most, &mut held),
            Bound::Count(count, most) => counts(run, rule, *count, *most, &mut held),
            Bound::CoresUp(cores) => reports.push(cores_up(run, *cores, held.report.clone())),
            Bound::Skew(_) => skew(run, &mut held),
        }
        if !matches!(bound, Bound::CoresUp(_)) {
            reports.push(held.finish(|| run.nothing(rule)));
        }
    }
    let mut samples = rule.min_samples.map(|wanted| Coverage { wanted, least: None, short: 0, figures: 0 });
    if !bounds.is_empty() || (samples.is_some() && rule.bounds.is_empty()) {
        latencies(run, rule, &mut bounds, &mut samples);
    }
    let mut all: Vec<BoundReport> = bounds.into_iter().map(|held| held.finish(|| run.nothing(rule))).collect();
    all.extend(reports);
    all.extend(
        samples
            .filter(|samples| samples.figures > 0 || rule.bounds.is_empty())
            .map(|samples| samples.report(run, rule)),
    );
    RuleReport {
        name: rule.name.clone(),
        line: rule.line,
        select: rule.select.to_string(),
        per: rule.per,
        outcome: all.iter().map(|bound| bound.outcome).max().unwrap_or(Outcome::Inconclusive),
        bounds: all,
    }
}

/// Whether there are as many latencies as a rule asks for.
struct Coverage {
    wanted: u64,
    least: Option<(u64, Subject)>,
    short: u64,
    figures: u64,
}

impl Coverage {
    fn see(&mut self, n: u64, subject: &Subject) -> Option<String> {
        self.figures += 1;
        if self.least.as_ref().is_none_or(|(least, _)| n < *least) {
            self.least = Some((n, subject.clone()));
        }
        let short = n < self.wanted;
        self.short += u64::from(short);
        short.then(|| format!("{n} latencies, and the rule asks for {}", self.wanted))
    }

    fn report(self, run: &Run<'_>, rule: &Rule) -> BoundReport {
        let message = match &self.least {
            None => Some(run.nothing(rule)),
            Some((n, _)) if *n < self.wanted => Some(format!("{n} latencies; the rule asks for {}", self.wanted)),
            Some(_) => None,
        };
        BoundReport {
            bound: "min_samples",
            unit: Unit::Count,
            limit: self.wanted as f64,
            worst: self.least.as_ref().map(|(n, _)| *n as f64),
            n: self.least.as_ref().map_or(0, |(n, _)| *n),
            subject: self.least.map(|(_, subject)| subject),
            outcome: if message.is_none() { Outcome::Passed } else { Outcome::Inconclusive },
            figures: self.figures,
            broken: 0,
            undecided: self.short,
            left_out: 0,
            finer_than_clock: false,
            message,
        }
    }
}

/// All bounds of a rule on latencies: each subject's distribution is made once.
fn latencies(run: &Run<'_>, rule: &Rule, bounds: &mut [Held<'_>], samples: &mut Option<Coverage>) {
    let mut see = |subject: Subject, all: &Distribution, left_out: u64, none: &str| {
        let few = samples.as_mut().and_then(|samples| samples.see(all.len(), &subject));
        for held in bounds.iter_mut() {
            let figure = if all.is_empty() { Err(none.to_owned()) } else { figure(run, held.report.bound, all) };
            held.take(Finding { subject: subject.clone(), figure, n: all.len(), left_out, few: few.clone() });
        }
    };
    if let Some(stage) = rule.select.stage {
        let mut groups: BTreeMap<(Option<u16>, Option<&str>), Distribution> = BTreeMap::new();
        let picked = run.ipis.stages.iter().filter(|figures| {
            figures.stage == stage
                && rule.select.kind.is_none_or(|kind| match figures.kind {
                    // Stages of bare SGIs are kept together, whatever their INTID.
                    None => matches!(kind, super::Kind::AnySgi),
                    Some(_) => kind.holds(figures.kind, 0),
                })
                && rule.select.to.as_ref().is_none_or(|cores| cores.0.contains(&figures.core))
        });
        for figures in picked {
            let core = (rule.per != Per::All).then_some(figures.core);
            let samples = crate::stats::Figures::of_samples(figures.samples.clone());
            let group = groups.entry((core, figures.kind.map(IpiKind::name))).or_default();
            group.merge(&Distribution::of(&samples));
        }
        for ((core, kind), all) in groups {
            let kind = Some(kind.unwrap_or("sgi").to_owned());
            let subject = Subject { to: core, kind, stage: Some(stage.name()), ..Subject::default() };
            see(subject, &all, 0, "it was never passed");
        }
        return;
    }
    for slots in run.groups(&rule.select, rule.per).into_values() {
        let (all, left_out) = judged(&slots);
        let none = match left_out {
            0 => "no latency of it was measured".to_owned(),
            some => format!("all its {some} latencies were left out: something else explains them"),
        };
        see(run.subject(&slots, rule.per), &all, left_out, &none);
    }
}

/// A figure of a distribution, ns: between what and what.
fn figure(run: &Run<'_>, name: &str, all: &Distribution) -> Result<(f64, f64), String> {
    let Some(tick) = run.tick_ns else {
        return Err("the capture holds no snapshot of the target, so nobody knows how long a tick is".into());
    };
    let ticks = |(low, high): (u64, u64)| (low as f64 * tick, high as f64 * tick);
    let figures = [Figure::P50, Figure::P90, Figure::P99, Figure::P999, Figure::Max, Figure::Mean];
    let figure = figures.into_iter().find(|figure| figure.name() == name);
    let none = || "no latency of it was measured".to_owned();
    match figure.map(|figure| (figure, figure.share())) {
        Some((_, Some(share))) => {
            let needed = (10.0 / (1.0 - share)).round();
            all.quantile(share).map(ticks).ok_or_else(|| {
                format!("{} latencies do not carry it: {needed:.0} would (ten must lie beyond a percentile)", all.len())
            })
        }
        Some((Figure::Mean, _)) => all.mean().map(|mean| (mean * tick, mean * tick)).ok_or_else(none),
        _ => all.max().map(|max| ticks((max, max))).ok_or_else(none),
    }
}

/// Kind, sender, receiver: what a wake-up has in common with its reference.
type Awake = (u8, Option<u16>, Option<u16>);

/// By how much the median grows where the same receivers sleep.
fn wake_up(run: &Run<'_>, rule: &Rule, held: &mut Held<'_>) {
    let sleeping = run.groups(&rule.select, rule.per);
    let spinning = Select {
        state: Some(ReceiverState::Spin),
        phase: None,
        timed: rule.select.timed,
        kind: None,
        ..rule.select.clone()
    };
    let mut awake: BTreeMap<Awake, Vec<&Slot>> = BTreeMap::new();
    for ((_, kind, .., from, to), slots) in run.groups(&spinning, rule.per) {
        awake.entry((kind, from, to)).or_default().extend(slots);
    }
    for ((_, kind, _, state, from, to), slots) in sleeping {
        if !["wfi", "wfe", "suspend"].contains(&state) {
            continue;
        }
        let (asleep, left_out) = judged(&slots);
        let (reference, left_out_too) = judged(awake.get(&(kind, from, to)).map_or(&[][..], Vec::as_slice));
        let median = |all: &Distribution, how: &str| match all.is_empty() {
            true => Err(format!("it was not timed {how}, and the difference needs both; run a plan with both states")),
            false => figure(run, "p50", all).map_err(|why| format!("{how}: {why}")),
        };
        let figure = median(&asleep, &format!("in {state}")).and_then(|(low, high)| {
            let (least, most) = median(&reference, "spinning")?;
            Ok((low - most, high - least))
        });
        let n = asleep.len().min(reference.len());
        let few = rule.min_samples.filter(|wanted| n < *wanted);
        held.take(Finding {
            subject: run.subject(&slots, rule.per),
            figure,
            n,
            left_out: left_out + left_out_too,
            few: few.map(|wanted| format!("{n} latencies, and the rule asks for {wanted}")),
        });
    }
}

/// What became of messages.
fn counts(run: &Run<'_>, rule: &Rule, count: Count, most: Most, held: &mut Held<'_>) {
    let mut sums: BTreeMap<(Option<u16>, Option<u16>), Counts> = BTreeMap::new();
    for slot in run.slots(&rule.select) {
        sums.entry(divided(rule.per, slot.from, slot.to)).or_default().add(&slot.counts);
    }
    for ((from, to), sum) in sums {
        let known = match count {
            Count::Lost => sum.lost,
            Count::Misrouted => sum.misrouted,
            Count::Coalesced => sum.coalesced,
            _ => sum.unknown,
        };
        // A message without a known end may have ended in any way.
        let possible = if count == Count::Unknown { known } else { known + sum.unknown };
        let scale = match most {
            Most::Number(_) => 1.0,
            Most::Share(_) => sum.sent.max(1) as f64,
        };
        let figure = match sum.sent {
            0 => Err("nothing was sent".into()),
            _ => Ok((known as f64 / scale, possible as f64 / scale)),
        };
        held.take(Finding {
            subject: Subject { from, to, ..Subject::default() },
            figure,
            n: sum.sent,
            left_out: 0,
            few: None,
        });
    }
}

/// Receptions that no message explains.
fn receptions(run: &Run<'_>, rule: &Rule, count: Count, most: Most, held: &mut Held<'_>) {
    let ipis = run.ipis;
    let select = &rule.select;
    let recorded = run.info.plan.keep == Keep::All && run.info.plan.level != TraceLevel::Off.name();
    let unlisted = (ipis.duplicate + ipis.spurious).saturating_sub(ipis.receptions.len() as u64);
    let mut sums: BTreeMap<Option<u16>, (u64, u64, u64)> = BTreeMap::new();
    for core in (0..run.info.plan.cores).filter(|core| select.to.as_ref().is_none_or(|cores| cores.0.contains(core))) {
        let fits = |intid: u8| match select.kind {
            None | Some(super::Kind::AnySgi) => true,
            Some(super::Kind::Sgi(number)) => intid == number,
            Some(super::Kind::Of(kind)) => intid == kind.intid(),
        };
        let told = ipis.receptions.iter().filter(|reception| {
            reception.core == core && reception.duplicate == (count == Count::Duplicate) && fits(reception.intid)
        });
        let known = told.count() as u64;
        // What the records do not tell, the core's own count of empty acknowledges bounds.
        let place = usize::from(core) * LANES_PER_CORE;
        let lane = |context: Context| ipis.lanes.get(place + context as usize).is_none_or(|lane| lane.lost() == 0);
        let whole = recorded && lane(Context::Irq) && lane(Context::Nmi);
        let empty =
            ipis.view.as_ref().and_then(|view| view.cores.get(usize::from(core))).map(|core| core.empty_acknowledges);
        let possible = match (whole, empty) {
            (true, _) => known + unlisted,
            (false, Some(empty)) => empty.max(known),
            (false, None) => u64::MAX,
        };
        let sent: u64 = ipis.slots.iter().filter(|slot| slot.to == core).map(|slot| slot.counts.sent).sum();
        let key = (rule.per != Per::All).then_some(core);
        let sum = sums.entry(key).or_default();
        *sum = (sum.0 + known, sum.1.saturating_add(possible), sum.2 + sent);
    }
    for (to, (known, possible, sent)) in sums {
        let scale = match most {
            Most::Number(_) => 1.0,
            Most::Share(_) => sent.max(1) as f64,
        };
        let figure = match possible {
            u64::MAX => Err("records are missing, and the capture holds no counters".into()),
            possible => Ok((known as f64 / scale, possible as f64 / scale)),
        };
        held.take(Finding { subject: Subject { to, ..Subject::default() }, figure, n: sent, left_out: 0, few: None });
    }
}

/// How many cores are up. A bound from below: the only one.
fn cores_up(run: &Run<'_>, wanted: u32, mut report: BoundReport) -> BoundReport {
    let Some(view) = &run.ipis.view else {
        report.message = Some("the capture holds no snapshot of the target".into());
        return report;
    };
    let count = usize::from(run.info.plan.cores);
    let cores = || (0..count).zip(&view.cores);
    let up = cores().filter(|(_, core)| core.state == core_state::UP).count();
    let down: Vec<String> =
        cores().filter(|(_, core)| core.state != core_state::UP).map(|(id, _)| id.to_string()).collect();
    report.worst = Some(up as f64);
    (report.figures, report.n) = (1, up as u64);
    report.outcome = if up as u64 >= u64::from(wanted) { Outcome::Passed } else { Outcome::Failed };
    if report.outcome == Outcome::Failed {
        report.broken = 1;
        report.message = Some(match down.as_slice() {
            [] => format!("the run has {count} cores"),
            down => format!("not up: core {}", down.join(", ")),
        });
    }
    report
}

/// How far apart two counters may be, by the round trips: the greatest distance that they prove, and that they allow.
fn skew(run: &Run<'_>, held: &mut Held<'_>) {
    let none =
        |why: &str| Finding { subject: Subject::default(), figure: Err(why.into()), n: 0, left_out: 0, few: None };
    let (Some(view), Some(tick)) = (&run.ipis.view, run.tick_ns) else {
        return held.take(none("the capture holds no snapshot of the target"));
    };
    let cores = (0..run.info.plan.cores).zip(&view.cores);
    let up: Vec<(u16, &CoreEntry)> = cores.filter(|(_, core)| core.state == core_state::UP).collect();
    let mut measured = false;
    for after in [false, true] {
        let flag = if after { clock_flag::SKEW_AFTER } else { clock_flag::SKEW_BEFORE };
        let bounds = |(id, core): &(u16, &CoreEntry)| {
            let (low, high) = match after {
                false => (core.skew_before_low, core.skew_before_high),
                true => (core.skew_after_low, core.skew_after_high),
            };
            (core.clock_flags & flag != 0 && low <= high).then_some((*id, low, high))
        };
        let mut all: Vec<(u16, i64, i64)> = up.iter().filter_map(bounds).collect();
        if all.is_empty() {
            continue;
        }
        // All are against the boot core, which has no distance from itself and so no bounds of its own.
        let boot = up.iter().find(|(id, _)| all.iter().all(|(other, ..)| other != id));
        all.extend(boot.map(|(id, _)| (*id, 0, 0)));
        for (index, (a, a_low, a_high)) in all.iter().enumerate() {
            for (b, b_low, b_high) in all.iter().skip(index + 1) {
                measured = true;
                let (low, high) = (a_low.saturating_sub(*b_high), a_high.saturating_sub(*b_low));
                let proven = low.max(high.saturating_neg()).max(0);
                let allowed = low.saturating_abs().max(high.saturating_abs());
                held.take(Finding {
                    subject: Subject { from: Some(*a.min(b)), to: Some(*a.max(b)), ..Subject::default() },
                    figure: Ok((proven as f64 * tick, allowed as f64 * tick)),
                    n: 1,
                    left_out: 0,
                    few: None,
                });
            }
        }
    }
    if !measured {
        held.take(none(if up.len() < 2 { "one core has no skew" } else { "no skew was measured" }));
    }
}

impl std::fmt::Display for Select {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.kind.map(|kind| format!("kind {kind}")));
        parts.extend(self.stage.map(|stage| format!("stage {}", stage.name())));
        parts.extend(self.state.map(|state| format!("state {}", state.name())));
        parts.extend(self.phase.as_ref().map(|phase| format!("phase {phase}")));
        parts.extend(self.distance.map(|distance| format!("distance {distance}")));
        parts.extend(self.from.as_ref().map(|cores| format!("from {cores}")));
        parts.extend(self.to.as_ref().map(|cores| format!("to {cores}")));
        if parts.is_empty() { f.write_str("everything") } else { f.write_str(&parts.join(", ")) }
    }
}
