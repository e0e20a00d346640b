//! Detectors: each checks one thing, names a suspect, and prints what it saw.
//!
//! Like is compared with like only: the same phase, the same types of cores, the same distance in the affinity tree. One
//! fault gives one suspect: a column of late pairs is its receiver, and what a masked core makes late is not late besides.
//! On a live emulator and under a hypervisor, latencies are the host's as much as the machine's: there they are *advised*,
//! and never decide an exit code. Nor does a core that did not come, or stands still, where the host itself says that it kept the
//! core's thread waiting for as long.

mod calls;
mod clock;
mod latency;
mod like;
mod outcomes;
mod race;
#[cfg(test)]
mod scene;
mod stolen;

use std::cell::OnceCell;

use serde::Serialize;
use trace_ring::layout::CoreEntry;

use crate::capture::{Ended, Ending, RunInfo, ThreadLoad, VerdictScope};
use crate::correlate::{From, Ipis, View};
use crate::symbols::Symbols;

use latency::Latencies;
pub use latency::{Group, distance};
pub(crate) use outcomes::psci_error;
pub use outcomes::{core_error, fault_name};

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
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What the host knew before.
    pub info: &'a RunInfo,
    /// What it learnt at the end.
    pub ending: Option<&'a Ending>,
    /// The messages.
    pub ipis: &'a Ipis,
    /// Names of the firmware's functions.
    pub symbols: &'a Symbols,
    /// What the latencies say, once it was asked for: three detectors share it.
    latencies: OnceCell<Latencies>,
}

impl<'a> Evidence<'a> {
    /// That of a run.
    pub fn new(info: &'a RunInfo, ending: Option<&'a Ending>, ipis: &'a Ipis, symbols: &'a Symbols) -> Self {
        Evidence { info, ending, ipis, symbols, latencies: OnceCell::new() }
    }
}

impl Evidence<'_> {
    fn latencies(&self) -> &Latencies {
        self.latencies.get_or_init(|| Latencies::of(self))
    }

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

    /// Whether a host decides when the cores run.
    fn live(&self) -> bool {
        matches!(self.info.verdict_scope, VerdictScope::Emulated | VerdictScope::Virtualized)
    }

    /// The host's own account of a core's thread.
    fn thread(&self, core: u16) -> Option<&ThreadLoad> {
        self.ending?.host_load.as_ref()?.threads.iter().find(|thread| thread.core == core)
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
pub fn detectors() -> [&'static dyn Detector; 23] {
    [
        &outcomes::CoreMissing,
        &outcomes::Fault,
        &calls::StuckCore,
        &calls::CsdLock,
        &clock::Clock,
        &outcomes::Masked,
        &outcomes::Misroute,
        &outcomes::Lost,
        &calls::CallLost,
        &calls::CallTwice,
        &stolen::StolenTime,
        &stolen::Recovery,
        &outcomes::NotTaken,
        &outcomes::Unanswered,
        &outcomes::Spurious,
        &outcomes::Duplicate,
        &latency::SlowWake,
        &latency::Late,
        &latency::Tail,
        &race::Race,
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
    /// IPIs that were late by what a suspect or advisory of detector `late`, `tail` or `slow_wake` names.
    pub late: u64,
    /// The verdict.
    pub verdict: Verdict,
}

/// The expected share of false alarms that is allowed among what statistics find.
const FALSE_SHARE: f64 = 0.01;

/// Runs all detectors and judges.
pub fn detect(evidence: &Evidence<'_>) -> Findings {
    let (mut suspects, mut advisories): (Vec<Suspect>, Vec<Suspect>) = (Vec::new(), Vec::new());
    let mut starved = false;
    for detector in detectors() {
        // What one detector finds does not explain what it finds besides.
        let (before, advised_before) = (suspects.len(), advisories.len());
        for mut found in detector.check(evidence) {
            let excuse = stolen::starved(evidence, &found);
            let advised = detector.advises()
                || (detector.judges_latency() && evidence.live())
                || found.role == Role::Host
                || excuse.is_some();
            // Symptoms of what was found already are no findings of their own; what is only advised accuses nobody else.
            let also = if advised { advised_before } else { 0 };
            let mut causes = suspects.iter().take(before).chain(advisories.iter().take(also));
            if causes.any(|cause| explains(evidence, cause, &found)) {
                continue;
            }
            if let Some(excuse) = excuse {
                starved = true;
                found.evidence += &excuse;
            }
            if advised { advisories.push(found) } else { suspects.push(found) }
        }
    }
    let late = evidence.latencies().late(&evidence.ipis.slots, suspects.iter().chain(&advisories));
    let verdict = judge(evidence, &suspects, starved);
    Findings { suspects, advisories, late, verdict }
}

/// Whether a cause makes another suspect a mere symptom of it.
fn explains(evidence: &Evidence<'_>, cause: &Suspect, symptom: &Suspect) -> bool {
    let touched = |core: u16| [symptom.core, symptom.from, symptom.to].contains(&Some(core));
    let clock = cause.role == Role::Clock;
    // A counter that can't be trusted at all.
    let whole_counter = clock && (cause.core, cause.from) == (None, None);
    let general = || match (cause.core, cause.from, cause.to) {
        (Some(core), ..) => touched(core),
        (None, Some(from), Some(to)) => symptom.from == Some(from) && symptom.to == Some(to),
        _ => whole_counter,
    };
    // Whether the messages that a finding is about are among those of the cause.
    let covers = |from: u16, to: u16| match (cause.role, cause.core) {
        (Role::Receiver, Some(core)) => to == core,
        (Role::Sender, Some(core)) => from == core,
        (Role::Pair, _) => cause.from == Some(from) && cause.to == Some(to),
        (_, core) => core.is_none_or(|core| from == core || to == core),
    };
    match symptom.detector {
        // A counter that jumps while its core waits looks like time that somebody took.
        "stolen_time" => clock && (whole_counter || general()),
        // Messages whose stray receptions could not be told from others'.
        "lost" if cause.detector == "misrouted" => match (symptom.from, symptom.to) {
            (Some(from), Some(to)) => covers(from, to),
            _ => cause.core.is_none() || (cause.core == symptom.core && cause.role == symptom.role),
        },
        "lost" => false,
        // Receptions are joined by time, and one that went astray is somebody's.
        "spurious" | "duplicate" => {
            let taken = |core: u16| {
                let astray = &evidence.ipis.misrouted;
                astray.iter().any(|message| message.taken_by == core && covers(message.from, message.to))
            };
            clock || (cause.detector == "misrouted" && symptom.core.is_some_and(taken))
        }
        // Calls are joined by time.
        "call_orphaned" => clock,
        // Calls whose SGI did not come, or whose records can't be joined by time.
        "call_lost" => {
            let way =
                matches!(cause.detector, "core_missing" | "fault" | "stuck_core" | "masked" | "misrouted" | "lost");
            // Calls that stand since a core got stuck wait, or their callers do, for that one.
            let since = cause.detector == "stuck_core"
                && symptom.effect_ns.zip(cause.effect_ns).is_some_and(|(standing, stuck)| standing <= stuck);
            clock || since || (way && (cause.core.is_some_and(touched) || cause.to.is_some_and(touched)))
        }
        // A core that is slow as a whole is slow in its callbacks, too.
        "slow_callback" => {
            matches!(cause.detector, "late" | "tail" | "slow_wake" | "stolen_time" | "clock" | "stuck_core")
                && general()
        }
        // An IPI that comes while its core is busy with an interrupt too many is late; more of them than of those have another cause.
        "late" | "tail" | "slow_wake" if matches!(cause.detector, "spurious" | "duplicate") => {
            let late = evidence.latencies().late(&evidence.ipis.slots, std::iter::once(symptom));
            let strays = outcomes::strays(evidence);
            let strays = cause.core.and_then(|core| strays.get(&core)).map_or(0, |(spurious, twice)| spurious + twice);
            symptom.detector == "tail" && general() && late <= 2 * strays
        }
        // What time was taken from is excused; what else is late on that core is so because some of it was not seen.
        "late" | "tail" | "slow_wake" | "recovery" if cause.detector == "stolen_time" => {
            general() && (symptom.detector == "tail" || cause.core.is_some_and(|core| stolen::mostly(evidence, core)))
        }
        "recovery" | "not_taken" | "late" | "tail" | "slow_wake" | "race" | "call_wait" => general(),
        _ => false,
    }
}

fn judge(evidence: &Evidence<'_>, suspects: &[Suspect], starved: bool) -> Verdict {
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
    // Of a Linux trace in which nothing was seen to be answered, nothing is known.
    let blind = ipis.linux.is_some() && ipis.totals.delivered == 0;
    if blind || starved || (ipis.totals.unknown > 0 && given_up) || stolen::too_much(evidence) {
        return Verdict::Inconclusive;
    }
    Verdict::Clean
}

/// Cores that a sentence names one by one.
const NAMED: usize = 4;

/// `core 1`, `cores 1, 2 and 5 more`.
fn list(cores: impl IntoIterator<Item = u16>) -> String {
    let cores: Vec<u16> = cores.into_iter().collect();
    let names: Vec<String> = cores.iter().take(NAMED).map(u16::to_string).collect();
    let more = cores.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} {}{more}", plural(cores.len() as u64, "core"), names.join(", "))
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
    use crate::capture::{HostLoad, ThreadLoad};
    use crate::correlate::witness::{Excused, GapTotals};
    use crate::correlate::{Misrouted, Reception};
    use scene::{HZ, Scene};
    use trace_ring::layout::core_state;
    use trace_ring::record::ReceiverState::Wfi;

    fn quiet(cores: u16) -> Scene {
        Scene::new(cores).phase("wfi", Wfi, |_, _| vec![10; 100])
    }

    fn detectors_of(found: &[Suspect]) -> Vec<&str> {
        found.iter().map(|suspect| suspect.detector).collect()
    }

    /// The host's account of one core's thread.
    fn waited(scene: &mut Scene, core: u16, seconds: f64) {
        let thread = ThreadLoad { core, ran_s: 1.0, waited_s: seconds, waited_longest_s: seconds };
        scene.ending.host_load = Some(HostLoad { processors: 2, threads: vec![thread] });
    }

    #[test]
    fn a_core_that_did_not_come_is_missing_unless_its_host_kept_it_waiting() {
        let missing = |state: u32, scope: VerdictScope, seconds: f64| {
            let mut scene = quiet(4).scope(scope);
            scene.view().cores[3].state = state;
            waited(&mut scene, 3, seconds);
            let found = scene.detect();
            (found.verdict, found.suspects.len(), found.advisories.len())
        };
        use VerdictScope::{Emulated, Silicon};
        assert_eq!(missing(core_state::NO_SHOW, Emulated, 0.4), (Verdict::Failed, 1, 0));
        assert_eq!(missing(core_state::NO_SHOW, Emulated, 1.5), (Verdict::Inconclusive, 0, 1));
        assert_eq!(missing(core_state::STARTING, Emulated, 1.5), (Verdict::Inconclusive, 0, 1));
        // What firmware refuses, no host does; and silicon has none.
        assert_eq!(missing(core_state::REFUSED, Emulated, 1.5), (Verdict::Failed, 1, 0));
        assert_eq!(missing(core_state::NO_SHOW, Silicon, 1.5), (Verdict::Failed, 1, 0));
    }

    #[test]
    fn a_core_that_stands_still_while_its_host_keeps_it_waiting_is_inconclusive() {
        let stuck = |seconds: f64| {
            let mut scene = quiet(4).emulated();
            waited(&mut scene, 1, seconds);
            let mut found = Suspect::core("stuck_core", Role::Core, 1, String::new());
            found.effect_ns = Some(4e9);
            let symbols = Symbols::default();
            let evidence = Evidence::new(&scene.info, Some(&scene.ending), &scene.ipis, &symbols);
            stolen::starved(&evidence, &found).is_some()
        };
        assert!(!stuck(1.9), "half of the time is not accounted for");
        assert!(stuck(2.1));
    }

    #[test]
    fn what_the_target_gave_up_is_inconclusive_on_a_live_emulator_and_a_suspect_on_silicon() {
        let scene = |scope: VerdictScope| {
            let mut scene = quiet(4).scope(scope);
            let slot = scene.slot(0, 1);
            slot.counts.unknown = 1;
            slot.probes.pending = 1;
            scene.ipis.totals.unknown = 1;
            scene
        };
        let found = scene(VerdictScope::Emulated).detect();
        assert_eq!((found.verdict, detectors_of(&found.advisories)), (Verdict::Inconclusive, vec!["not_taken"]));
        let found = scene(VerdictScope::Silicon).detect();
        assert_eq!((found.verdict, detectors_of(&found.suspects)), (Verdict::Suspect, vec!["not_taken"]));
    }

    #[test]
    fn lost_and_masked_are_the_targets_doing_however_busy_the_host_is() {
        let busy = |mut scene: Scene| {
            waited(&mut scene, 1, 100.0);
            scene.ending.steal = Some(0.9);
            scene.ipis.gap_totals[1] =
                GapTotals { count: 100, ticks: 100 * HZ, longest: HZ, heartbeats: 10, unrecorded: 0 };
            let found = scene.detect();
            (found.verdict, found.suspects.iter().map(|suspect| suspect.detector).collect::<Vec<_>>())
        };
        let mut scene = quiet(4).emulated();
        scene.slot(0, 1).counts.lost = 1;
        assert_eq!(busy(scene), (Verdict::Failed, vec!["lost"]));
        let mut scene = quiet(4).emulated();
        scene.slot(0, 1).probes.masked = 1;
        assert_eq!(busy(scene), (Verdict::Suspect, vec!["masked"]));
        assert_eq!(busy(quiet(4).emulated()), (Verdict::Clean, vec![]));
    }

    #[test]
    fn a_host_that_left_too_few_latencies_to_judge_is_inconclusive() {
        let taken = |stolen: u64, doubtful: u64, scope: VerdictScope| {
            let mut scene = quiet(4).scope(scope);
            for slot in &mut scene.ipis.slots {
                slot.excused = Excused { stolen, stolen_longest: HZ, doubtful, doubtful_longest: HZ };
            }
            scene.detect().verdict
        };
        assert_eq!(taken(40, 10, VerdictScope::Emulated), Verdict::Clean);
        assert_eq!(taken(40, 11, VerdictScope::Emulated), Verdict::Inconclusive);
        assert_eq!(taken(51, 0, VerdictScope::Virtualized), Verdict::Inconclusive);
        assert_eq!(taken(51, 0, VerdictScope::Instructions), Verdict::Clean, "no host takes counted instructions");
    }

    #[test]
    fn sends_that_go_elsewhere_are_one_suspect_with_what_they_leave_behind() {
        let mut scene = quiet(4);
        let astray = |from: u16, to: u16, by: u16| Misrouted { from, to, taken_by: by, intid: 0, t: 100 };
        scene.ipis.misrouted = vec![astray(0, 1, 2); 3];
        // Two more could not be told apart: one is lost, one core took one too many.
        scene.slot(0, 1).counts.lost = 1;
        scene.ipis.receptions = vec![Reception { core: 2, intid: 0, t: 200, duplicate: false }];
        scene.ipis.given_up = vec![];
        let found = scene.detect();
        let [suspect] = found.suspects.as_slice() else { panic!("{found:?}") };
        assert_eq!((suspect.detector, suspect.from, suspect.to), ("misrouted", Some(0), Some(1)));
        assert_eq!(found.verdict, Verdict::Failed);
        // A core that took one and is no taker, and a loss elsewhere, are others' faults.
        scene.ipis.receptions[0].core = 3;
        scene.slot(2, 1).counts.lost = 1;
        assert_eq!(detectors_of(&scene.detect().suspects), ["misrouted", "lost", "spurious"]);
        // All to one core: it is the receiver; all of a machine: the distributor.
        let mut scene = quiet(4);
        scene.ipis.misrouted = [0, 2, 3].map(|from| astray(from, 1, 3)).to_vec();
        let found = scene.detect();
        assert_eq!(found.suspects.len(), 1);
        assert_eq!((found.suspects[0].role, found.suspects[0].core), (Role::Receiver, Some(1)));
        let all = (0..4).flat_map(|from| (0..4).filter(move |to| *to != from).map(move |to| astray(from, to, from)));
        scene.ipis.misrouted = all.collect();
        let found = scene.detect();
        assert_eq!(found.suspects.len(), 1, "{found:?}");
        assert_eq!(found.suspects[0].subject(), "the target");
    }

    #[test]
    fn a_cores_strays_are_one_finding_and_explain_as_many_late_ones() {
        let late = |at: u64| at % 100 == 7;
        let mut scene = Scene::new(4)
            .phase("wfi", Wfi, |_, to| (0..1000).map(|at| if to == 2 && late(at) { 100 } else { 10 }).collect());
        let stray = |duplicate: bool| Reception { core: 2, intid: 0, t: 200, duplicate };
        assert_eq!(detectors_of(&scene.detect().suspects), ["tail"]);
        scene.ipis.receptions = [vec![stray(true); 13], vec![stray(false)]].concat();
        let found = scene.detect();
        assert_eq!(detectors_of(&found.suspects), ["duplicate", "tail"], "thirty late ones have another cause");
        assert!(
            found.suspects[0].evidence.ends_with("and 1 that no message explains"),
            "{}",
            found.suspects[0].evidence
        );
        scene.ipis.receptions = [vec![stray(true); 2], vec![stray(false); 28]].concat();
        let found = scene.detect();
        assert_eq!(detectors_of(&found.suspects), ["spurious"]);
        assert!(
            found.suspects[0].evidence.ends_with("and 2 shortly after an answer"),
            "{}",
            found.suspects[0].evidence
        );
    }

    #[test]
    fn calls_that_stand_since_a_core_got_stuck_are_not_lost_besides() {
        let scene = quiet(4);
        let symbols = Symbols::default();
        let evidence = Evidence::new(&scene.info, Some(&scene.ending), &scene.ipis, &symbols);
        let standing = |effect_ns: Option<f64>| {
            let stuck = Suspect::core("stuck_core", Role::Core, 1, String::new());
            let lost = Suspect::core("call_lost", Role::Callback, 0, String::new());
            explains(&evidence, &Suspect { effect_ns: Some(350e3), ..stuck }, &Suspect { effect_ns, ..lost })
        };
        assert!(standing(Some(330e3)));
        assert!(!standing(Some(360e3)), "they stood there before");
        assert!(!standing(None), "the records of a run that ended say that they never ran");
    }

    #[test]
    fn a_clock_fault_explains_what_it_touches_and_a_counters_rate_all() {
        let late = || {
            let mut scene = Scene::new(5).phase("wfi", Wfi, |_, to| vec![if to == 2 { 900 } else { 10 }; 50]);
            for from in [0, 1, 3, 4] {
                scene.slot(from, 2).recovered.count = 20;
                scene.slot(from, 2).recovered.longest = 90_000;
            }
            scene.ipis.receptions = vec![Reception { core: 1, intid: 0, t: 200, duplicate: true }];
            scene.ipis.gap_totals[2] = GapTotals { count: 9, ticks: 900, longest: 100, heartbeats: 9, unrecorded: 0 };
            scene
        };
        let mut scene = late();
        scene.view().cores[2].backwards_after = 1;
        assert_eq!(detectors_of(&scene.detect().suspects), ["clock"]);
        // Another core's clock does not; receptions are joined by all.
        let mut scene = late();
        scene.view().cores[3].backwards_after = 1;
        assert_eq!(detectors_of(&scene.detect().suspects), ["clock", "stolen_time", "recovery"]);
        let mut scene = late().scope(VerdictScope::Silicon);
        scene.ending.counter_check =
            Some(crate::capture::CounterCheck { measured_hz: 0.9 * HZ as f64, uncertainty_hz: 1.0 });
        let found = scene.detect();
        assert_eq!(detectors_of(&found.suspects), ["clock"]);
        assert_eq!((found.suspects[0].core, found.late), (None, 0));
    }

    #[test]
    fn linux_traces_and_silicon_give_latencies_their_full_voice() {
        for (scope, full) in [
            (VerdictScope::Silicon, true),
            (VerdictScope::Instructions, true),
            (VerdictScope::LinuxTrace, true),
            (VerdictScope::Emulated, false),
            (VerdictScope::Virtualized, false),
        ] {
            let scene = Scene::new(4).phase("wfi", Wfi, |_, to| vec![if to == 2 { 900 } else { 10 }; 50]).scope(scope);
            let found = scene.detect();
            assert_eq!((found.suspects.len(), found.advisories.len()), (usize::from(full), usize::from(!full)));
        }
    }

    #[test]
    fn messages_that_only_records_lack_are_no_reason_to_doubt() {
        let mut scene = quiet(4).emulated();
        scene.ipis.from = From::Records;
        scene.ipis.totals.unknown = 3;
        assert_eq!(scene.detect().verdict, Verdict::Clean);
        scene.ipis.from = From::Target;
        assert_eq!(scene.detect().verdict, Verdict::Inconclusive);
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
