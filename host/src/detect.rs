//! Detectors: each checks one thing, names a suspect, and prints what it saw.
//!
//! Like is compared with like only: the same phase, the same types of cores, the same distance in the affinity tree. One
//! fault gives one suspect: a column of late pairs is its receiver, and what a masked core makes late is not late besides.
//! On a live emulator and under a hypervisor, latencies are the host's as much as the machine's: there they are *advised*,
//! and never decide an exit code.

mod calls;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use trace_ring::calls::IpiKind;
use trace_ring::layout::{CoreEntry, clock_flag, core_state, fault_kind};

use crate::capture::{Ended, Ending, RunInfo, VerdictScope};
use crate::correlate::{From, Ipis, Slot, View};
use crate::stats::{robust, upper_tail};
use crate::symbols::Symbols;

/// What a run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was found.
    Clean,
    /// A latency, a clock or a reception is not as it should be.
    Suspect,
    /// An IPI or a call was lost or went astray, or a core is missing or stuck.
    Failed,
    /// The host was too busy to say.
    Inconclusive,
    /// The run did not come to its end, or there is nothing to judge.
    Incomplete,
}

impl Verdict {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Suspect => "suspect",
            Verdict::Failed => "failed",
            Verdict::Inconclusive => "inconclusive",
            Verdict::Incomplete => "incomplete",
        }
    }

    /// The exit code that it stands for.
    pub const fn exit_code(self) -> u8 {
        match self {
            Verdict::Clean => 0,
            Verdict::Suspect | Verdict::Failed => 1,
            Verdict::Inconclusive | Verdict::Incomplete => 2,
        }
    }
}

/// What part a suspect plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The core as a whole.
    Core,
    /// It takes interrupts badly.
    Receiver,
    /// It sends them badly.
    Sender,
    /// One way between two cores.
    Pair,
    /// A callback.
    Callback,
    /// The counter.
    Clock,
    /// The host of an emulator.
    Host,
}

/// Somebody that something is wrong with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// The core; `null` for a pair, and for what concerns no single one.
    pub core: Option<u16>,
    /// Its part.
    pub role: Role,
    /// Sender of a pair.
    pub from: Option<u16>,
    /// Receiver of a pair.
    pub to: Option<u16>,
    /// Who says so.
    pub detector: &'static str,
    /// What was seen, in a sentence.
    pub evidence: String,
    /// By how much, ns.
    pub effect_ns: Option<f64>,
    /// The expected share of false alarms among suspects at least as clear as this one, where a statistic found it.
    pub q_value: Option<f64>,
}

impl Suspect {
    fn core(detector: &'static str, role: Role, core: u16, evidence: String) -> Self {
        Suspect { core: Some(core), role, from: None, to: None, detector, evidence, effect_ns: None, q_value: None }
    }

    fn pair(detector: &'static str, from: u16, to: u16, evidence: String) -> Self {
        Suspect {
            core: None,
            role: Role::Pair,
            from: Some(from),
            to: Some(to),
            detector,
            evidence,
            effect_ns: None,
            q_value: None,
        }
    }

    /// The core or pair, in words.
    pub fn subject(&self) -> String {
        match (self.role, self.core, self.from, self.to) {
            (_, _, Some(from), Some(to)) => format!("pair {from} to {to}"),
            (Role::Clock, Some(core), ..) => format!("clock of core {core}"),
            (Role::Clock, None, ..) => "the counter".into(),
            (Role::Host, ..) => "the host".into(),
            (Role::Receiver, Some(core), ..) => format!("core {core} as receiver"),
            (Role::Sender, Some(core), ..) => format!("core {core} as sender"),
            (Role::Callback, Some(core), ..) => format!("callback on core {core}"),
            (_, Some(core), ..) => format!("core {core}"),
            _ => "the target".into(),
        }
    }
}

/// All that detectors may look at. What the fault twins did is not in it.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What the host knew before.
    pub info: &'a RunInfo,
    /// What it learnt at the end.
    pub ending: Option<&'a Ending>,
    /// The messages.
    pub ipis: &'a Ipis,
    /// Names of the firmware's functions.
    pub symbols: &'a Symbols,
}

impl Evidence<'_> {
    fn view(&self) -> Option<&View> {
        self.ipis.view.as_ref()
    }

    fn hz(&self) -> f64 {
        self.view().map_or(0, |view| view.directory.counter_hz).max(1) as f64
    }

    fn nanoseconds(&self, ticks: f64) -> f64 {
        ticks * 1e9 / self.hz()
    }

    fn ticks(&self, nanoseconds: u64) -> u64 {
        (nanoseconds as f64 * self.hz() / 1e9) as u64
    }

    /// A function by its name, or by its address.
    fn function(&self, address: u64) -> String {
        let name = self.symbols.name(address);
        name.map_or_else(|| format!("the function at {address:#x}"), |name| format!("`{name}`"))
    }

    /// The cores of the plan.
    fn cores(&self) -> impl Iterator<Item = (u16, &CoreEntry)> {
        let count = usize::from(self.info.plan.cores);
        (0..).zip(self.view().map_or(&[][..], |view| view.cores.get(..count).unwrap_or(&view.cores)))
    }

    fn live(&self) -> bool {
        matches!(self.info.verdict_scope, VerdictScope::Emulated | VerdictScope::Virtualized | VerdictScope::LinuxTrace)
    }

    fn length(&self, ticks: f64) -> String {
        duration(self.nanoseconds(ticks), 1e9 / self.hz())
    }
}

/// A length of time for people: never finer than `resolution` (both ns).
pub fn duration(nanoseconds: f64, resolution: f64) -> String {
    let (scale, unit) = match nanoseconds.abs() {
        length if length >= 1e9 => (1e9, "s"),
        length if length >= 1e6 => (1e6, "ms"),
        length if length >= 1e4 => (1e3, "us"),
        _ => (1.0, "ns"),
    };
    // Three digits at most, and none below the resolution.
    let value = nanoseconds / scale;
    let most = 2 - value.abs().max(1.0).log10().floor() as i32;
    let finest = -(resolution / scale).log10().floor() as i32;
    format!("{value:.*} {unit}", most.min(finest).max(0) as usize)
}

/// One check.
pub trait Detector {
    /// Its name in the report.
    fn name(&self) -> &'static str;

    /// What it looks for, in a line.
    fn looks_for(&self) -> &'static str;

    /// Whether it judges latencies, which on a live emulator are the host's.
    fn judges_latency(&self) -> bool {
        false
    }

    /// Whether what it finds is worth a look and no more, wherever it is found.
    fn advises(&self) -> bool {
        false
    }

    /// Whom it suspects.
    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect>;
}

/// All detectors, causes before symptoms.
pub fn detectors() -> [&'static dyn Detector; 17] {
    [
        &CoreMissing,
        &Fault,
        &calls::StuckCore,
        &calls::CsdLock,
        &Clock,
        &Masked,
        &Misroute,
        &Lost,
        &calls::CallLost,
        &calls::CallTwice,
        &NotTaken,
        &Spurious,
        &Duplicate,
        &Late,
        &calls::SlowCallback,
        &calls::CallOrphaned,
        &calls::CallWait,
    ]
}

/// What the detectors found.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// What the verdict rests on.
    pub suspects: Vec<Suspect>,
    /// What is worth a look.
    pub advisories: Vec<Suspect>,
    /// IPIs that were late by what a suspect or advisory of detector `late` names.
    pub late: u64,
    /// The verdict.
    pub verdict: Verdict,
}

/// Runs all detectors and judges.
pub fn detect(evidence: &Evidence<'_>) -> Findings {
    let (mut suspects, mut advisories): (Vec<Suspect>, Vec<Suspect>) = (Vec::new(), Vec::new());
    for detector in detectors() {
        let mut found = detector.check(evidence);
        // Symptoms of what was found already are no findings of their own.
        found.retain(|suspect| !suspects.iter().any(|cause| explains(cause, suspect)));
        if detector.name() == "slow_callback" {
            found.retain(|suspect| !advisories.iter().any(|cause| explains(cause, suspect)));
        }
        let advised = detector.advises() || (detector.judges_latency() && evidence.live());
        let to = if advised { &mut advisories } else { &mut suspects };
        to.extend(found);
    }
    // Counted instructions don't mind a busy host.
    let steal = evidence.ending.and_then(|ending| ending.steal).filter(|_| !evidence.info.deterministic);
    if let Some(steal) = steal.filter(|steal| *steal >= 0.1) {
        advisories.push(Suspect {
            core: None,
            role: Role::Host,
            from: None,
            to: None,
            detector: "steal",
            evidence: format!("others took {:.0} % of the host's processor time during the run", steal * 100.0),
            effect_ns: None,
            q_value: None,
        });
    }
    let late = late_answers(evidence, suspects.iter().chain(&advisories));
    let verdict = judge(evidence, &suspects);
    Findings { suspects, advisories, late, verdict }
}

/// Whether a cause makes another suspect a mere symptom of it.
fn explains(cause: &Suspect, symptom: &Suspect) -> bool {
    let touched = |core: u16| match symptom.role {
        Role::Pair => symptom.to == Some(core) || symptom.from == Some(core),
        _ => symptom.core == Some(core),
    };
    match symptom.detector {
        "not_taken" | "late" | "call_wait" => {}
        // Calls are joined by time.
        "call_orphaned" => return cause.role == Role::Clock,
        // A core that is slow as a whole is slow in its callbacks, too.
        "slow_callback" if matches!(cause.detector, "late" | "clock" | "stuck_core") => {}
        // Calls whose SGI did not come, or whose records can't be joined by time.
        "call_lost" => {
            let way =
                matches!(cause.detector, "core_missing" | "fault" | "stuck_core" | "masked" | "misrouted" | "lost");
            return cause.role == Role::Clock
                || (way && (cause.core.is_some_and(touched) || cause.to.is_some_and(touched)));
        }
        _ => return false,
    }
    match (cause.core, cause.from, cause.to) {
        (Some(core), ..) => touched(core),
        (None, Some(from), Some(to)) => symptom.from == Some(from) && symptom.to == Some(to),
        // A counter that can't be trusted at all.
        _ => cause.role == Role::Clock,
    }
}

fn judge(evidence: &Evidence<'_>, suspects: &[Suspect]) -> Verdict {
    let ipis = evidence.ipis;
    // Whatever ended the run: these are the target's own doing.
    let hard = ["core_missing", "lost", "misrouted", "stuck_core", "csd_lock", "call_lost", "call_twice"];
    if suspects.iter().any(|suspect| hard.contains(&suspect.detector)) {
        return Verdict::Failed;
    }
    // Ctrl-C gives the verdict of what was measured; every other early end leaves the run unmeasured.
    let ended = evidence.ending.map(|ending| ending.ended);
    if !matches!(ended, Some(Ended::Complete | Ended::Interrupted)) || ipis.totals.sent == 0 {
        return Verdict::Incomplete;
    }
    if !suspects.is_empty() {
        return Verdict::Suspect;
    }
    // Messages without a known end because records were lapped are no reason to doubt; those that the target gave up are.
    let given_up = ipis.from == From::Target || ipis.given_up.iter().any(|message| !message.lost);
    if ipis.totals.unknown > 0 && given_up {
        return Verdict::Inconclusive;
    }
    Verdict::Clean
}

// --- detectors ------------------------------------------------------------------------------------------------------

/// Cores that never took part.
struct CoreMissing;

impl Detector for CoreMissing {
    fn name(&self) -> &'static str {
        "core_missing"
    }

    fn looks_for(&self) -> &'static str {
        "cores that could not be started, or never arrived"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let started = evidence.view().is_some_and(|view| view.status.state >= trace_ring::layout::run_state::RUNNING);
        evidence
            .cores()
            .filter_map(|(core, entry)| {
                let text = core_error(entry, started)?;
                let text = format!("core {core} (MPIDR {:#x}) {text}", entry.mpidr);
                Some(Suspect::core(self.name(), Role::Core, core, text))
            })
            .collect()
    }
}

/// The name of a PSCI error.
pub(crate) const fn psci_error(code: i32) -> &'static str {
    match code {
        -1 => "NOT_SUPPORTED",
        -2 => "INVALID_PARAMETERS",
        -3 => "DENIED",
        -4 => "ALREADY_ON",
        -5 => "ON_PENDING",
        -6 => "INTERNAL_FAILURE",
        -7 => "NOT_PRESENT",
        -8 => "DISABLED",
        -9 => "INVALID_ADDRESS",
        _ => "unknown",
    }
}

/// Why a core did not take part; `None` for one that did, or was never meant to. `started`: the plan was begun without it.
pub fn core_error(entry: &CoreEntry, started: bool) -> Option<String> {
    Some(match entry.state {
        core_state::REFUSED => {
            format!("was refused by PSCI CPU_ON: {} ({})", psci_error(entry.error), entry.error)
        }
        core_state::NO_SHOW => "was started and did not arrive within the boot deadline".into(),
        core_state::NO_REDISTRIBUTOR => {
            "arrived, but no redistributor carries its affinity, or that frame did not wake".into()
        }
        core_state::UNREACHABLE => {
            "was not started: its affinity level 0 is above 15, and the distributor has no range selector".into()
        }
        core_state::OFF if started => "was asked for, but the device tree does not describe it".into(),
        core_state::STARTING if started => "was started and had not arrived when the plan began".into(),
        _ => return None,
    })
}

/// Exceptions and panics on the target.
struct Fault;

impl Detector for Fault {
    fn name(&self) -> &'static str {
        "fault"
    }

    fn looks_for(&self) -> &'static str {
        "exceptions and panics on the target"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let faults = evidence.view().map_or(&[][..], |view| view.faults.as_slice());
        (0..)
            .zip(faults)
            .filter(|(_, fault)| !matches!(fault.kind, fault_kind::NONE | fault_kind::REFUSED | fault_kind::CRASH_STOP))
            .map(|(core, fault)| {
                let text = format!(
                    "core {core} took {}: ESR_EL1 {:#x}, ELR_EL1 {:#x}, FAR_EL1 {:#x}",
                    fault_name(fault.kind),
                    fault.esr,
                    fault.elr,
                    fault.far
                );
                Suspect::core(self.name(), Role::Core, core, text)
            })
            .collect()
    }
}

/// What a fault entry tells of, with its article.
pub fn fault_name(kind: u32) -> &'static str {
    match kind {
        fault_kind::SYNCHRONOUS => "a synchronous exception",
        fault_kind::SERROR => "an SError",
        fault_kind::FIQ => "an FIQ",
        fault_kind::PANIC => "a panic",
        fault_kind::REFUSED => "a refusal",
        fault_kind::CRASH_STOP => "a crash stop",
        _ => "an unknown fault",
    }
}

/// Counters that go back, or apart.
struct Clock;

impl Detector for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn looks_for(&self) -> &'static str {
        "counters that run backwards, apart, or at another rate than they say"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        let hz = evidence.view().map_or(0, |view| view.directory.counter_hz);
        for (core, entry) in evidence.cores().filter(|(_, entry)| entry.state == core_state::UP) {
            let mut suspect = |text: String, ticks: f64| {
                let mut suspect = Suspect::core(self.name(), Role::Clock, core, text);
                suspect.effect_ns = (ticks != 0.0).then(|| evidence.nanoseconds(ticks));
                suspects.push(suspect);
            };
            if entry.backwards > 0 {
                suspect(
                    format!("the counter of core {core} went backwards {} times in the self-test", entry.backwards),
                    0.0,
                );
                continue;
            }
            if u64::from(entry.cntfrq) != hz && entry.cntfrq != 0 {
                suspect(format!("CNTFRQ_EL0 is {} on core {core} and {hz} on the boot core", entry.cntfrq), 0.0);
                continue;
            }
            for (flag, low, high, when) in [
                (clock_flag::SKEW_BEFORE, entry.skew_before_low, entry.skew_before_high, "before"),
                (clock_flag::SKEW_AFTER, entry.skew_after_low, entry.skew_after_high, "after"),
            ] {
                // One tick of distance is what two roundings explain.
                if entry.clock_flags & flag != 0 && low <= high && (low > 1 || high < -1) {
                    let least = if low > 1 { low } else { high };
                    let text = format!(
                        "the counter of core {core} differs from the boot core's by {low} to {high} ticks {when} the plan, at least {}",
                        evidence.length((least as f64).abs())
                    );
                    suspect(text, least as f64);
                    break;
                }
            }
        }
        let check = evidence.ending.and_then(|ending| ending.counter_check).filter(|_| !evidence.info.deterministic);
        if let Some(check) = check
            && hz > 0
            && !evidence.live()
        {
            let off = (check.measured_hz - hz as f64).abs();
            // A crystal is good for a hundred parts in a million; 1 % is another frequency.
            if off > 3.0 * check.uncertainty_hz + 0.01 * hz as f64 {
                let text = format!(
                    "the counter says {hz} Hz and ran at {:.0} Hz (+- {:.0}) by the host's clock",
                    check.measured_hz, check.uncertainty_hz
                );
                suspects.push(Suspect {
                    core: None,
                    role: Role::Clock,
                    from: None,
                    to: None,
                    detector: self.name(),
                    evidence: text,
                    effect_ns: None,
                    q_value: None,
                });
            }
        }
        suspects
    }
}

/// Receivers whose redistributor had the SGI disabled.
struct Masked;

impl Detector for Masked {
    fn name(&self) -> &'static str {
        "masked"
    }

    fn looks_for(&self) -> &'static str {
        "cores whose redistributor has the SGI disabled while it is pending"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut receivers: BTreeMap<u16, (u64, u64, f64)> = BTreeMap::new();
        for slot in evidence.ipis.slots.iter().filter(|slot| slot.probes.masked > 0) {
            let (probes, unknown, worst) = receivers.entry(slot.to).or_default();
            *probes += slot.probes.masked;
            *unknown += slot.counts.unknown;
            *worst = worst.max(slot.latency.map_or(0.0, |latency| latency.max));
        }
        receivers
            .into_iter()
            .map(|(core, (probes, unknown, worst))| {
                let mut text = format!(
                    "{probes} {} found the SGI pending and disabled in GICR_ISENABLER0 of core {core}",
                    plural(probes, "probe")
                );
                if unknown > 0 {
                    text += &format!("; {unknown} {} not answered within T", plural_verb(unknown, "message"));
                } else if worst > 0.0 {
                    text += &format!("; the latest answer took {}", evidence.length(worst));
                }
                let mut suspect = Suspect::core(self.name(), Role::Receiver, core, text);
                suspect.effect_ns = (worst > 0.0).then(|| evidence.nanoseconds(worst));
                suspect
            })
            .collect()
    }
}

/// Messages that another core took.
struct Misroute;

impl Detector for Misroute {
    fn name(&self) -> &'static str {
        "misrouted"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that another core took"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut pairs: BTreeMap<(u16, u16), (u64, BTreeSet<u16>)> = BTreeMap::new();
        for message in &evidence.ipis.misrouted {
            let (count, takers) = pairs.entry((message.from, message.to)).or_default();
            *count += 1;
            takers.insert(message.taken_by);
        }
        pairs
            .into_iter()
            .map(|((from, to), (count, takers))| {
                let takers: Vec<String> = takers.iter().take(4).map(|core| format!("core {core}")).collect();
                let text = format!(
                    "{count} {} from core {from} to core {to} went unanswered while {} took the same INTID without a message",
                    plural(count, "IPI"),
                    takers.join(", ")
                );
                Suspect::pair(self.name(), from, to, text)
            })
            .collect()
    }
}

/// Messages that nobody took.
struct Lost;

impl Detector for Lost {
    fn name(&self) -> &'static str {
        "lost"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that were sent and that nobody took"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut pairs: BTreeMap<(u16, u16), (u64, u64)> = BTreeMap::new();
        for slot in evidence.ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
            let (sent, lost) = pairs.entry((slot.from, slot.to)).or_default();
            *sent += slot.counts.sent;
            *lost += slot.counts.lost;
        }
        let measured: Vec<(u16, u16)> = pairs.keys().copied().collect();
        let lossy = pairs.iter().filter(|(_, (_, lost))| *lost > 0).map(|(pair, _)| *pair).collect();
        let sum = |of: &dyn Fn(&(u16, u16)) -> bool| {
            pairs
                .iter()
                .filter(|(pair, _)| of(pair))
                .fold((0, 0), |sum, (_, counts)| (sum.0 + counts.0, sum.1 + counts.1))
        };
        fold(&measured, lossy)
            .into_iter()
            .map(|line| match line {
                Line::Receiver(core) => {
                    let (sent, lost) = sum(&|pair| pair.1 == core);
                    let text = format!("{lost} of {sent} IPIs to core {core} were lost, from several senders");
                    Suspect::core(self.name(), Role::Receiver, core, text)
                }
                Line::Sender(core) => {
                    let (sent, lost) = sum(&|pair| pair.0 == core);
                    let text = format!("{lost} of {sent} IPIs from core {core} were lost, to several receivers");
                    Suspect::core(self.name(), Role::Sender, core, text)
                }
                Line::Pair(from, to) => {
                    let (sent, lost) = sum(&|pair| *pair == (from, to));
                    let text = format!(
                        "{lost} of {sent} IPIs from core {from} to core {to} were lost: enabled, neither pending nor active, unanswered after T"
                    );
                    Suspect::pair(self.name(), from, to, text)
                }
            })
            .collect()
    }
}

/// Interrupts that stood pending and enabled, and were not taken.
struct NotTaken;

impl Detector for NotTaken {
    fn name(&self) -> &'static str {
        "not_taken"
    }

    fn looks_for(&self) -> &'static str {
        "cores that do not take a pending, enabled interrupt within T"
    }

    // On an emulator, a core that does not run takes nothing.
    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut receivers: BTreeMap<u16, u64> = BTreeMap::new();
        for slot in &evidence.ipis.slots {
            let seen = slot.probes.pending + slot.probes.active;
            if slot.counts.unknown > 0 && seen > 0 {
                *receivers.entry(slot.to).or_default() += slot.counts.unknown;
            }
        }
        receivers
            .into_iter()
            .map(|(core, count)| {
                let text = format!(
                    "core {core} did not answer {count} {} within T though the SGI stood pending or active and enabled",
                    plural(count, "IPI")
                );
                Suspect::core(self.name(), Role::Receiver, core, text)
            })
            .collect()
    }
}

fn receptions(evidence: &Evidence<'_>, detector: &'static str, duplicate: bool, what: &str) -> Vec<Suspect> {
    let mut cores: BTreeMap<u16, u64> = BTreeMap::new();
    for reception in evidence.ipis.receptions.iter().filter(|reception| reception.duplicate == duplicate) {
        *cores.entry(reception.core).or_default() += 1;
    }
    let suspect = |(core, count): (u16, u64)| {
        let text = format!("core {core} took {count} {} {what}", plural(count, "interrupt"));
        Suspect::core(detector, Role::Receiver, core, text)
    };
    cores.into_iter().map(suspect).collect()
}

/// Interrupts that nobody sent.
struct Spurious;

impl Detector for Spurious {
    fn name(&self) -> &'static str {
        "spurious"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that nobody sent"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        receptions(evidence, self.name(), false, "that no message explains")
    }
}

/// Interrupts that came twice.
struct Duplicate;

impl Detector for Duplicate {
    fn name(&self) -> &'static str {
        "duplicate"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that came twice"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        receptions(evidence, self.name(), true, "again, shortly after the one that answered the message")
    }
}

// --- late -----------------------------------------------------------------------------------------------------------

/// A shift must be this many robust deviations to be one.
const DEVIATIONS: f64 = 8.0;
/// … and this many ticks.
const TICKS: f64 = 2.0;
/// … and this share of what like pairs take: wires differ in length.
const SHARE: f64 = 0.25;
/// The expected share of false alarms that is allowed.
const FALSE_SHARE: f64 = 0.01;
/// The most causes of one group: beyond, nothing is like anything.
const CAUSES: usize = 16;

/// Receivers, senders and pairs that are slower than their like.
struct Late;

/// What is alike: phase, what is sent, types of sender and receiver, distance.
type Kind = (u16, u8, u32, u32, u8);

/// A cause in one group of like pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cause {
    line: Line,
    /// Ticks.
    effect: f64,
    /// What like pairs take, ticks.
    usual: f64,
    z: f64,
    /// Whether it is the tail that is late, not the middle.
    tail: bool,
    phase: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Receiver(u16),
    Sender(u16),
    Pair(u16, u16),
}

impl Line {
    const fn holds(self, from: u16, to: u16) -> bool {
        match self {
            Line::Receiver(core) => to == core,
            Line::Sender(core) => from == core,
            Line::Pair(sender, receiver) => from == sender && to == receiver,
        }
    }
}

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
        let mut causes: Vec<Cause> = Vec::new();
        let mut tests = 0;
        for ((phase, ..), slots) in groups(evidence) {
            for tail in [false, true] {
                let values: Vec<(u16, u16, f64)> = slots
                    .iter()
                    .filter_map(|slot| {
                        // What waited for a handler at work says nothing of the core.
                        let latency = slot.judged()?;
                        let value = if tail { latency.p99? } else { latency.median };
                        (latency.n >= 8).then_some((slot.from, slot.to, value))
                    })
                    .collect();
                tests += values.len() * 2;
                for cause in shifts(&values, 1.0) {
                    causes.push(Cause { tail, phase, ..cause });
                }
            }
        }
        // A tail that a shifted middle explains is the same finding.
        let middles: Vec<Line> = causes.iter().filter(|cause| !cause.tail).map(|cause| cause.line).collect();
        causes.retain(|cause| !cause.tail || !middles.contains(&cause.line));
        let mut found: BTreeMap<Line, Vec<Cause>> = BTreeMap::new();
        for cause in causes {
            found.entry(cause.line).or_default().push(cause);
        }
        // A core that is late to itself and to others is one; so is a pair on a line that is late as a whole.
        let lines: Vec<Line> = found.keys().copied().collect();
        found.retain(|line, _| match line {
            Line::Pair(from, to) => !lines.contains(&Line::Receiver(*to)) && !lines.contains(&Line::Sender(*from)),
            _ => true,
        });
        let mut ordered: Vec<(Line, Vec<Cause>)> = found.into_iter().collect();
        let clearest = |causes: &[Cause]| causes.iter().map(|cause| cause.z).fold(0.0, f64::max);
        ordered.sort_by(|a, b| clearest(&b.1).total_cmp(&clearest(&a.1)));
        let mut suspects = Vec::new();
        for (rank, (line, causes)) in ordered.into_iter().enumerate() {
            // Benjamini and Hochberg: the chance of the clearest, times tests over rank.
            let q = (upper_tail(clearest(&causes)) * tests.max(1) as f64 / (rank + 1) as f64).min(1.0);
            if q <= FALSE_SHARE {
                suspects.push(late_suspect(evidence, line, &causes, q));
            }
        }
        suspects
    }
}

fn late_suspect(evidence: &Evidence<'_>, line: Line, causes: &[Cause], q: f64) -> Suspect {
    let worst = causes.iter().copied().max_by(|a, b| a.effect.total_cmp(&b.effect));
    let (effect, usual, tail, phase) =
        worst.map_or((0.0, 0.0, false, 0), |worst| (worst.effect, worst.usual, worst.tail, worst.phase));
    let name = evidence.info.plan.phases.get(usize::from(phase)).map_or("?", |phase| phase.name.as_str());
    let figure = if tail { "99th percentile" } else { "median" };
    let against = format!(
        "{} above the {figure} of {} of like pairs in phase `{name}`",
        evidence.length(effect),
        evidence.length(usual)
    );
    let mut suspect = match line {
        Line::Receiver(core) => Suspect::core(
            "late",
            Role::Receiver,
            core,
            format!("IPIs to core {core} from all senders are late: {against}"),
        ),
        Line::Sender(core) => Suspect::core(
            "late",
            Role::Sender,
            core,
            format!("IPIs from core {core} to all receivers are late: {against}"),
        ),
        Line::Pair(from, to) if from == to => {
            Suspect::core("late", Role::Core, from, format!("IPIs of core {from} to itself are late: {against}"))
        }
        Line::Pair(from, to) => {
            Suspect::pair("late", from, to, format!("IPIs from core {from} to core {to} are late: {against}"))
        }
    };
    suspect.effect_ns = Some(evidence.nanoseconds(effect));
    suspect.q_value = Some(q);
    suspect
}

/// Timed slots by what is alike.
fn groups<'a>(evidence: &Evidence<'a>) -> BTreeMap<Kind, Vec<&'a Slot>> {
    let ipis = evidence.ipis;
    let cores = ipis.view.as_ref().map_or(&[][..], |view| view.cores.as_slice());
    let mut groups: BTreeMap<Kind, Vec<&Slot>> = BTreeMap::new();
    for slot in &ipis.slots {
        let timed = evidence.info.plan.phases.get(usize::from(slot.phase)).is_some_and(|phase| phase.timed);
        if !timed || slot.judged().is_none() {
            continue;
        }
        let kind = slot.kind.map_or(0, IpiKind::slot_code);
        let core = |id: u16| cores.get(usize::from(id)).map_or((0, 0), |core| (core.midr, core.mpidr));
        let ((sender, from), (receiver, to)) = (core(slot.from), core(slot.to));
        let distance = if slot.from == slot.to { 0 } else { distance(from, to) };
        groups.entry((slot.phase, kind, sender, receiver, distance)).or_default().push(slot);
    }
    groups
}

/// How far apart two cores are: the highest affinity level that differs, 1 to 4.
pub fn distance(a: u64, b: u64) -> u8 {
    let differs = a ^ b;
    match (differs >> 32 & 0xFF, differs >> 16 & 0xFF, differs >> 8 & 0xFF) {
        (0, 0, 0) => 1,
        (0, 0, _) => 2,
        (0, ..) => 3,
        _ => 4,
    }
}

/// What is shifted among like pairs: lines where whole lines are, else pairs; the clearest first, and each taken out before
/// the next is looked for.
fn shifts(values: &[(u16, u16, f64)], floor: f64) -> Vec<Cause> {
    let mut rest = values.to_vec();
    let mut causes: Vec<Cause> = Vec::new();
    while causes.len() < CAUSES {
        let mut figures: Vec<f64> = rest.iter().map(|value| value.2).collect();
        let Some((usual, spread)) = robust(&mut figures, floor) else { break };
        let threshold = usual + (DEVIATIONS * spread).max(TICKS * floor).max(SHARE * usual);
        let outside: BTreeSet<(u16, u16)> =
            rest.iter().filter(|value| value.2 > threshold).map(|value| (value.0, value.1)).collect();
        let measured: Vec<(u16, u16)> = rest.iter().map(|value| (value.0, value.1)).collect();
        let Some(line) = clearest_line(&measured, &outside, &rest) else { break };
        if causes.iter().any(|cause| cause.line == line) {
            break;
        }
        let mut shifted: Vec<f64> = rest
            .iter()
            .filter(|value| line.holds(value.0, value.1) && outside.contains(&(value.0, value.1)))
            .map(|value| value.2)
            .collect();
        let Some(level) = crate::stats::median(&mut shifted) else { break };
        let effect = level - usual;
        causes.push(Cause { line, effect, usual, z: effect / spread, tail: false, phase: 0 });
        for value in rest.iter_mut().filter(|value| line.holds(value.0, value.1)) {
            value.2 -= effect;
        }
    }
    causes
}

/// The line or pair to blame first.
fn clearest_line(measured: &[(u16, u16)], outside: &BTreeSet<(u16, u16)>, values: &[(u16, u16, f64)]) -> Option<Line> {
    if let Some(line) = whole_line(measured, outside) {
        return Some(line);
    }
    let worst =
        values.iter().filter(|value| outside.contains(&(value.0, value.1))).max_by(|a, b| a.2.total_cmp(&b.2))?;
    Some(Line::Pair(worst.0, worst.1))
}

/// The row or column with the most pairs outside, where at least two and three quarters of its pairs are.
fn whole_line(measured: &[(u16, u16)], outside: &BTreeSet<(u16, u16)>) -> Option<Line> {
    let mut lines: BTreeMap<Line, (usize, usize)> = BTreeMap::new();
    for (from, to) in measured.iter().filter(|(from, to)| from != to) {
        for line in [Line::Receiver(*to), Line::Sender(*from)] {
            let (all, out) = lines.entry(line).or_default();
            *all += 1;
            *out += usize::from(outside.contains(&(*from, *to)));
        }
    }
    let whole = lines.into_iter().filter(|(_, (all, out))| *out >= 2 && out * 4 >= all * 3);
    // The most pairs; of equals the fullest line; of those, receivers before senders.
    whole
        .max_by(|(a, (a_all, a_out)), (b, (b_all, b_out))| {
            a_out.cmp(b_out).then(b_all.cmp(a_all)).then_with(|| b.cmp(a))
        })
        .map(|(line, _)| line)
}

/// Lines and pairs that explain a set of pairs, as few as possible.
fn fold(measured: &[(u16, u16)], mut pairs: BTreeSet<(u16, u16)>) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Some(line) = whole_line(measured, &pairs) {
        pairs.retain(|(from, to)| !line.holds(*from, *to));
        lines.push(line);
    }
    lines.extend(pairs.into_iter().map(|(from, to)| Line::Pair(from, to)));
    lines
}

/// IPIs that were as late as the suspects of detector `late` say.
fn late_answers<'a>(evidence: &Evidence<'_>, suspects: impl Iterator<Item = &'a Suspect>) -> u64 {
    let lines: Vec<Line> = suspects
        .filter(|suspect| suspect.detector == "late")
        .filter_map(|suspect| match (suspect.role, suspect.core, suspect.from, suspect.to) {
            (Role::Receiver, Some(core), ..) => Some(Line::Receiver(core)),
            (Role::Sender, Some(core), ..) => Some(Line::Sender(core)),
            (Role::Core, Some(core), ..) => Some(Line::Pair(core, core)),
            (_, _, Some(from), Some(to)) => Some(Line::Pair(from, to)),
            _ => None,
        })
        .collect();
    if lines.is_empty() {
        return 0;
    }
    let mut late = 0;
    for slots in groups(evidence).into_values() {
        let mut medians: Vec<f64> = slots.iter().filter_map(|slot| Some(slot.judged()?.median)).collect();
        let Some((usual, spread)) = robust(&mut medians, 1.0) else { continue };
        let threshold = usual + (DEVIATIONS * spread).max(TICKS).max(SHARE * usual);
        for slot in slots.iter().filter(|slot| lines.iter().any(|line| line.holds(slot.from, slot.to))) {
            late += slot.judged_above(threshold as u64);
        }
    }
    late
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}

fn plural_verb(count: u64, word: &str) -> String {
    if count == 1 { format!("{word} was") } else { format!("{word}s were") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(cores: u16, latency: impl Fn(u16, u16) -> f64) -> Vec<(u16, u16, f64)> {
        (0..cores)
            .flat_map(|from| (0..cores).map(move |to| (from, to)))
            .filter(|(a, b)| a != b)
            .map(|(a, b)| (a, b, latency(a, b)))
            .collect()
    }

    #[test]
    fn like_pairs_have_no_outlier() {
        assert!(shifts(&matrix(4, |_, _| 100.0), 1.0).is_empty());
        // Spread like that of real wires: up to a tenth.
        assert!(shifts(&matrix(8, |from, to| 100.0 + f64::from((from * 7 + to * 3) % 11)), 1.0).is_empty());
        assert!(shifts(&[], 1.0).is_empty());
        assert!(shifts(&[(0, 1, 5.0), (1, 0, 900.0)], 1.0).is_empty(), "two pairs can't say which is wrong");
    }

    #[test]
    fn a_late_column_is_its_receiver_and_a_late_row_its_sender() {
        let lines = |values: &[_]| shifts(values, 1.0).into_iter().map(|cause| cause.line).collect::<Vec<_>>();
        for cores in [3, 4, 8, 64] {
            assert_eq!(
                lines(&matrix(cores, |_, to| if to == 2 { 5100.0 } else { 100.0 })),
                [Line::Receiver(2)],
                "{cores}"
            );
            assert_eq!(
                lines(&matrix(cores, |from, _| if from == 1 { 180.0 } else { 100.0 })),
                [Line::Sender(1)],
                "{cores}"
            );
        }
        assert_eq!(lines(&matrix(4, |from, to| if (from, to) == (3, 0) { 150.0 } else { 100.0 })), [Line::Pair(3, 0)]);
        // Two faults, two causes.
        let both =
            matrix(8, |from, to| 100.0 + if to == 2 { 5000.0 } else { 0.0 } + if from == 5 { 900.0 } else { 0.0 });
        let mut found = lines(&both);
        found.sort();
        assert_eq!(found, [Line::Receiver(2), Line::Sender(5)]);
    }

    #[test]
    fn a_shift_below_the_tick_or_the_share_is_none() {
        assert!(shifts(&matrix(4, |_, to| if to == 2 { 7.0 } else { 5.0 }), 1.0).is_empty());
        assert!(shifts(&matrix(4, |_, to| if to == 2 { 1200.0 } else { 1000.0 }), 1.0).is_empty());
    }

    #[test]
    fn lossy_pairs_fold_into_their_common_core() {
        let measured: Vec<(u16, u16)> = matrix(4, |_, _| 0.0).into_iter().map(|(a, b, _)| (a, b)).collect();
        let fold = |pairs: &[(u16, u16)]| fold(&measured, pairs.iter().copied().collect());
        assert_eq!(fold(&[(0, 1)]), [Line::Pair(0, 1)]);
        assert_eq!(fold(&[(0, 1), (2, 1), (3, 1)]), [Line::Receiver(1)]);
        assert_eq!(fold(&[(1, 0), (1, 2), (1, 3)]), [Line::Sender(1)]);
        assert_eq!(fold(&[(0, 1), (1, 0)]), [Line::Pair(0, 1), Line::Pair(1, 0)]);
    }

    #[test]
    fn a_length_of_time_shows_no_digit_below_a_tick() {
        assert_eq!(duration(168.0, 16.0), "168 ns");
        assert_eq!(duration(12_345.6, 16.0), "12.3 us");
        assert_eq!(duration(123_456.0, 16.0), "123 us");
        assert_eq!(duration(5.25, 0.01), "5.25 ns");
        assert_eq!(duration(2_500_000_000.0, 16.0), "2.50 s");
    }

    #[test]
    fn distance_is_the_highest_level_that_differs() {
        assert_eq!(distance(0x0, 0x1), 1);
        assert_eq!(distance(0x0, 0x100), 2);
        assert_eq!(distance(0x1_0000, 0x1), 3);
        assert_eq!(distance(0x1_0000_0000, 0x1_0001), 4);
    }
}
