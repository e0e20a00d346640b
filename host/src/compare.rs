//! Two captures, or one against golden ones: what changed, how much, how sure.
//!
//! Like is compared with like: the same pair in the same phase, state and kind. A change counts only where a test finds it among
//! all that were made (false discoveries controlled over the whole comparison) *and* where it is larger than what machines do
//! from run to run: a floor in ticks, a share of the usual, and the spread of the same change among like pairs. One cause is one
//! line: a receiver that got slow is not told pair by pair. `docs/compare.md` is the page for users.

mod fold;
mod golden;
mod side;
mod statistics;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use trace_ring::layout::core_state;

use self::fold::{Cause, Shifted, rates, shifts};
use self::side::{Key, Side};
use self::statistics::{Rank, benjamini_hochberg, rank};
use crate::capture::{CaptureError, VerdictScope};
use crate::choice::ChoiceError;
use crate::correlate::Counts;
use crate::detect::{Verdict, duration};
use crate::error::{Explain, Failure, exit};
use crate::stats::distribution::Distribution;

pub use self::fold::Line;

/// Name and version of the JSON contract.
pub const SCHEMA: &str = "ipiscope.compare/1";

/// Latencies that a pair needs on both sides.
const LEAST: u64 = 8;

/// The expected share of false alarms that is allowed.
const FALSE_SHARE: f64 = 0.01;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The captures; the last one is compared with the others.
    pub captures: Vec<PathBuf>,
    /// Compare what the data allows, even if targets differ or clocks were not tested.
    pub force: bool,
    /// Compare the IPIs alone that a filter picks.
    pub filter: Option<String>,
}

/// What golden captures shall become.
#[derive(Clone, Debug)]
pub struct LimitsRequest {
    /// The golden captures.
    pub captures: Vec<PathBuf>,
    /// How far above what was measured the limits lie, as a share.
    pub margin: f64,
    /// Take captures that are not clean, too.
    pub force: bool,
}

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing changed that a run could show.
    NoDifference,
    /// Something did.
    Differs,
    /// There is too little to compare.
    NotComparable,
}

impl Finding {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Finding::NoDifference => "no difference",
            Finding::Differs => "differs",
            Finding::NotComparable => "not comparable",
        }
    }
}

/// How large a change must be to be one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Floors {
    /// Ticks of the counter.
    pub ticks: f64,
    /// The same, ns.
    pub ns: f64,
    /// Share of what it was.
    pub share: f64,
    /// Robust deviations of the same change among like pairs.
    pub spreads: f64,
    /// Difference of two shares of the messages.
    pub rate: f64,
    /// Expected share of false alarms.
    pub false_share: f64,
}

impl Floors {
    fn of(scope: VerdictScope, tick_ns: f64, step: f64) -> Floors {
        // Counted instructions repeat; a machine's memory and wires do not quite; an emulator's host does not at all.
        let share = match scope {
            VerdictScope::Instructions => 0.02,
            VerdictScope::Silicon => 0.10,
            VerdictScope::Emulated | VerdictScope::Virtualized | VerdictScope::LinuxTrace => 0.25,
        };
        Floors {
            ticks: 2.0 * step,
            ns: 2.0 * step * tick_ns,
            share,
            spreads: 6.0,
            rate: 0.05,
            false_share: FALSE_SHARE,
        }
    }
}

/// One of the captures.
#[derive(Clone, Debug, Serialize)]
pub struct Input {
    /// The file.
    pub file: String,
    /// When it ran.
    pub created: String,
    /// Its own verdict.
    pub verdict: Verdict,
    /// The machine.
    pub machine: String,
    /// The plan.
    pub plan: String,
    /// Build id of the firmware.
    pub firmware: String,
    /// `--tag`s.
    pub tags: BTreeMap<String, String>,
    /// Faults that were put in.
    pub faults: Vec<String>,
}

/// Something that changed.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Whose.
    pub subject: Line,
    /// The same in words.
    pub name: String,
    /// `median`, `tail`, `cores_up`, an outcome, or a stage.
    pub figure: String,
    /// Phases in which it changed.
    pub phases: Vec<String>,
    /// Pairs (of a stage: cores) that changed.
    pub pairs: usize,
    /// What it was: ns, or a share.
    pub a: f64,
    /// What it is.
    pub b: f64,
    /// `ns`, `share` or `cores`.
    pub unit: &'static str,
    /// Cliff's delta: how much more often a latency of B is longer than one of A than shorter, -1 to 1.
    pub cliffs_delta: Option<f64>,
    /// Expected share of false alarms among changes at least as clear.
    pub q_value: Option<f64>,
    /// Whether it decides the verdict.
    pub judged: bool,
    /// What was seen, in a sentence.
    pub evidence: String,
}

/// One pair on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct PairChange {
    /// Sender.
    pub from: u16,
    /// Receiver.
    pub to: u16,
    /// What was sent.
    pub kind: String,
    /// The receiver's state.
    pub state: &'static str,
    /// The phase.
    pub phase: String,
    /// Latencies of A and of B.
    pub n: [u64; 2],
    /// Medians, ns.
    pub median_ns: [Option<f64>; 2],
    /// 99th percentiles, where the samples carry them, ns.
    pub p99_ns: [Option<f64>; 2],
    /// Means, ns.
    pub mean_ns: [Option<f64>; 2],
    /// Change of the median, ns; of several golden captures against the one that is nearest.
    pub change_ns: Option<f64>,
    /// Half width of the interval around the change of the mean in which the true one lies 95 times in 100, ns.
    pub mean_change_ci_ns: Option<f64>,
    /// Cliff's delta.
    pub cliffs_delta: Option<f64>,
    /// The chance of such ranks without any change.
    pub p_value: Option<f64>,
    /// The expected share of false alarms among pairs at least as clear.
    pub q_value: Option<f64>,
    /// Messages sent.
    pub sent: [u64; 2],
    /// Messages lost.
    pub lost: [u64; 2],
    /// Messages coalesced.
    pub coalesced: [u64; 2],
}

/// What a comparison came to.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The verdict.
    pub verdict: Finding,
    /// Whose time it is.
    pub verdict_scope: VerdictScope,
    /// What was compared with: the golden captures.
    pub a: Vec<Input>,
    /// What was compared.
    pub b: Input,
    /// How large a change must be.
    pub floors: Floors,
    /// Pairs whose latencies were compared.
    pub compared: usize,
    /// Pairs with too few latencies on one side.
    pub too_few: usize,
    /// What changed, the worst first.
    pub changes: Vec<Change>,
    /// What may have changed and is not judged.
    pub advisories: Vec<Change>,
    /// All pairs.
    pub pairs: Vec<PairChange>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// One tick, ns.
    #[serde(skip)]
    tick_ns: f64,
}

impl Comparison {
    /// The exit code that the verdict stands for.
    pub const fn exit_code(&self) -> u8 {
        match self.verdict {
            Finding::NoDifference => exit::CLEAN,
            Finding::Differs => exit::FAILED,
            Finding::NotComparable => exit::UNMEASURED,
        }
    }

    /// The comparison as JSON.
    pub fn json(&self) -> serde_json::Value {
        // Plain data with text keys: it can't fail, and if it did the verdict would still be told.
        serde_json::to_value(self)
            .unwrap_or_else(|_| serde_json::json!({ "schema": SCHEMA, "verdict": self.verdict.name() }))
    }
}

/// Why captures can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A capture can't be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The filter can't be used.
    #[error(transparent)]
    Filter(#[from] ChoiceError),
    /// They are not of the same target and plan.
    #[error("{} and {} are not of the same target and plan: {differences}", a.display(), b.display())]
    Targets {
        /// The first.
        a: PathBuf,
        /// The other.
        b: PathBuf,
        /// All that differs.
        differences: String,
    },
    /// Its cores' clocks were not tested against each other.
    #[error("{}: {why}, so latencies between its cores can't be compared", file.display())]
    Clock {
        /// The capture.
        file: PathBuf,
        /// What is missing.
        why: String,
    },
    /// It is no example to go by.
    #[error("{} is not golden: its verdict is {verdict}", file.display())]
    NotGolden {
        /// The capture.
        file: PathBuf,
        /// Its verdict.
        verdict: &'static str,
    },
    /// Nothing in it can be bounded.
    #[error("{}: no pair has latencies enough for a limit (20 for a median)", file.display())]
    Nothing {
        /// The capture.
        file: PathBuf,
    },
}

impl Explain for CompareError {
    fn kind(&self) -> &'static str {
        match self {
            CompareError::Capture(error) => error.kind(),
            CompareError::Filter(error) => error.kind(),
            _ => "compare",
        }
    }

    fn next_step(&self) -> String {
        match self {
            CompareError::Capture(error) => error.next_step(),
            CompareError::Filter(error) => error.next_step(),
            CompareError::Targets { .. } => {
                "compare captures of one target and plan; --force compares the pairs that both have".into()
            }
            CompareError::Clock { .. } => {
                "run the plan again, to its end, with the firmware of this version; --force compares all the same"
                    .into()
            }
            CompareError::NotGolden { file, .. } => format!(
                "see `ipiscope report {}`, and make limits from a run that is clean; --force takes this one",
                file.display()
            ),
            CompareError::Nothing { .. } => "run a plan with more IPIs for each pair, like `--plan matrix`".into(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            CompareError::Capture(error) => error.exit_code(),
            CompareError::Filter(error) => error.exit_code(),
            CompareError::Nothing { .. } => exit::UNMEASURED,
            _ => exit::MISUSED,
        }
    }
}

/// What `--json` writes where captures could not be compared.
pub fn error_json(failure: &Failure) -> serde_json::Value {
    let Failure { kind, message, next_step, .. } = failure;
    serde_json::json!({
        "schema": SCHEMA,
        "verdict": Finding::NotComparable,
        "error": { "kind": kind, "message": message, "next_step": next_step },
    })
}

/// Makes a limits file from golden captures: its text.
pub fn make_limits(request: &LimitsRequest) -> Result<String, CompareError> {
    let goldens = open(&request.captures, request.force, None)?;
    golden::limits(&goldens, request.margin, request.force)
}

/// Opens captures and refuses those that can't stand beside the first.
fn open(captures: &[PathBuf], force: bool, filter: Option<&str>) -> Result<Vec<Side>, CompareError> {
    let mut sides: Vec<Side> = Vec::new();
    for path in captures {
        let side = Side::open(path, filter)?;
        if let Some(first) = sides.first().filter(|_| !force) {
            let differences = first.differs_from(&side);
            if !differences.is_empty() {
                let differences = differences.join("; ");
                return Err(CompareError::Targets { a: first.path.clone(), b: side.path, differences });
            }
        }
        if let Some(why) = side.untested_clock().filter(|_| !force) {
            return Err(CompareError::Clock { file: side.path, why });
        }
        sides.push(side);
    }
    Ok(sides)
}

/// Compares the last of some captures with those before it.
pub fn compare(request: &Request) -> Result<Comparison, CompareError> {
    let mut goldens = open(&request.captures, request.force, request.filter.as_deref())?;
    let candidate = match goldens.pop() {
        Some(candidate) if !goldens.is_empty() => candidate,
        _ => return Err(CompareError::Nothing { file: request.captures.first().cloned().unwrap_or_default() }),
    };
    Ok(Comparing::new(&goldens, &candidate, request.force).run())
}

/// A pair that both sides measured.
struct Matched {
    key: Key,
    a: Distribution,
    b: Distribution,
    /// Change of the median, ticks: the nearest golden's.
    shift: f64,
    /// The same at its best: of the tenth percentile.
    best: f64,
    rank: Rank,
    q: f64,
}

struct Comparing<'a> {
    goldens: &'a [Side],
    candidate: &'a Side,
    scope: VerdictScope,
    tick_ns: f64,
    floors: Floors,
    changes: Vec<Change>,
    notes: Vec<String>,
}

impl<'a> Comparing<'a> {
    fn new(goldens: &'a [Side], candidate: &'a Side, force: bool) -> Self {
        let scope = candidate.info.verdict_scope;
        let tick_ns = 1e9 / candidate.hz.max(1) as f64;
        let mut notes = Vec::new();
        for side in goldens.iter().chain([candidate]) {
            if force && let Some(why) = side.untested_clock() {
                notes.push(format!("{}: {why}", side.path.display()));
            }
            if side.clock_is_suspect {
                notes.push(format!(
                    "{}: its clock is suspect, and no latency over it is to be trusted",
                    side.path.display()
                ));
            }
        }
        if let Some(first) = goldens.first() {
            notes.extend(
                first.differs_from(candidate).into_iter().map(|difference| format!("compared by force: {difference}")),
            );
            let (a, b) = (&first.info, &candidate.info);
            if a.firmware_build_id != b.firmware_build_id {
                let short = |id: &str| id.chars().take(12).collect::<String>();
                let (a, b) = (short(&a.firmware_build_id), short(&b.firmware_build_id));
                notes.push(format!("the firmware differs: build {a} and {b}"));
            }
        }
        if goldens.len() == 1 && scope != VerdictScope::Instructions {
            notes.push(
                "one run on each side can't show how much runs differ by themselves: name several golden captures before the last"
                    .into(),
            );
        }
        let floors = Floors::of(scope, tick_ns, candidate.step);
        Comparing { goldens, candidate, scope, tick_ns, floors, changes: Vec::new(), notes }
    }

    const fn is_live(&self) -> bool {
        matches!(self.scope, VerdictScope::Emulated | VerdictScope::Virtualized | VerdictScope::LinuxTrace)
    }

    fn run(mut self) -> Comparison {
        let (mut matched, mut too_few) = self.matched();
        let latencies: Vec<f64> = matched.iter().map(|pair| pair.rank.p).collect();
        for (pair, q) in matched.iter_mut().zip(benjamini_hochberg(&latencies)) {
            pair.q = q;
        }
        self.cores();
        self.outcomes();
        self.medians(&matched);
        self.tails(&matched);
        self.stages();
        too_few.sort_unstable();
        too_few.dedup();
        let changes = std::mem::take(&mut self.changes);
        let (mut changes, mut advisories): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| change.judged);
        // What is lost comes before what is late; then what grew the most for what it was.
        let size = |change: &Change| match (change.unit, change.figure.as_str()) {
            ("ns", _) => (change.b - change.a).abs() / change.a.abs().max(self.floors.ns),
            (_, "tail" | "coalesced") => (change.b - change.a).abs() / change.a.max(0.01),
            _ => f64::MAX,
        };
        changes.sort_by(|a, b| size(b).total_cmp(&size(a)));
        advisories.sort_by(|a, b| size(b).total_cmp(&size(a)));
        let verdict = if !changes.is_empty() {
            Finding::Differs
        } else if matched.is_empty() || too_few.len() > matched.len() {
            Finding::NotComparable
        } else {
            Finding::NoDifference
        };
        let pairs = self.pairs(&matched);
        Comparison {
            schema: SCHEMA,
            verdict,
            verdict_scope: self.scope,
            a: self.goldens.iter().map(Side::input).collect(),
            b: self.candidate.input(),
            floors: self.floors,
            compared: matched.len(),
            too_few: too_few.len(),
            changes,
            advisories,
            pairs,
            notes: self.notes,
            tick_ns: self.tick_ns,
        }
    }

    /// Pairs that all sides have latencies of, and those that some side has too few of.
    fn matched(&self) -> (Vec<Matched>, Vec<Key>) {
        let mut matched = Vec::new();
        let mut too_few = Vec::new();
        let sides: Vec<BTreeMap<Key, Distribution>> =
            self.goldens.iter().map(|side| side.latencies(self.scope)).collect();
        let candidate = self.candidate.latencies(self.scope);
        let mut keys: BTreeSet<&Key> = sides.iter().flat_map(BTreeMap::keys).collect();
        keys.extend(candidate.keys());
        for key in keys {
            let goldens: Option<Vec<&Distribution>> =
                sides.iter().map(|side| side.get(key).filter(|all| all.len() >= LEAST)).collect();
            let b = candidate.get(key).filter(|all| all.len() >= LEAST);
            let (Some(goldens), Some(b)) = (goldens, b) else {
                too_few.push(key.clone());
                continue;
            };
            // Against every golden capture: what one of them shows, too, is no change.
            let against = |a: &Distribution| {
                let shift = |share: f64| {
                    let middle = |all: &Distribution| {
                        all.quantile_of_any(share).map_or(0.0, |(low, high)| (low as f64 + high as f64) / 2.0)
                    };
                    middle(b) - middle(a)
                };
                (shift(0.5), shift(0.1))
            };
            let all: Vec<(f64, f64)> = goldens.iter().map(|golden| against(golden)).collect();
            let nearest = (0..all.len()).min_by(|x, y| {
                let size = |index: usize| all.get(index).map_or(f64::MAX, |(shift, _)| shift.abs());
                size(*x).total_cmp(&size(*y))
            });
            let Some((a, (shift, best))) = nearest.and_then(|index| Some((*goldens.get(index)?, *all.get(index)?)))
            else {
                continue;
            };
            let between = all.iter().any(|(other, _)| other * shift < 0.0);
            let shift = if between { 0.0 } else { shift };
            let least_sure = goldens.iter().map(|golden| rank(golden, b)).max_by(|x, y| x.p.total_cmp(&y.p));
            let rank = Rank { p: least_sure.map_or(1.0, |rank| rank.p), ..rank(a, b) };
            matched.push(Matched { key: key.clone(), a: a.clone(), b: b.clone(), shift, best, rank, q: 1.0 });
        }
        (matched, too_few)
    }

    fn pairs(&self, matched: &[Matched]) -> Vec<PairChange> {
        let latencies: BTreeMap<&Key, &Matched> = matched.iter().map(|pair| (&pair.key, pair)).collect();
        let (a, b) = (self.goldens.first().map(Side::counts).unwrap_or_default(), self.candidate.counts());
        let keys: BTreeSet<&Key> = a.keys().chain(b.keys()).collect();
        let none = Counts::default();
        keys.into_iter()
            .map(|key| {
                let counts = [a.get(key).unwrap_or(&none), b.get(key).unwrap_or(&none)];
                let pair = latencies.get(key);
                let both = |of: &dyn Fn(&Distribution) -> Option<f64>| match pair {
                    Some(pair) => [of(&pair.a), of(&pair.b)].map(|ticks| ticks.map(|ticks| ticks * self.tick_ns)),
                    None => [None, None],
                };
                let p99 = |all: &Distribution| all.quantile(0.99).map(|(low, high)| (low as f64 + high as f64) / 2.0);
                let interval = |pair: &&Matched| statistics::mean_interval(&pair.a, &pair.b, self.candidate.step);
                PairChange {
                    from: key.from,
                    to: key.to,
                    kind: key.kind(),
                    state: key.state,
                    phase: key.phase.clone(),
                    n: pair.map_or([0, 0], |pair| [pair.a.len(), pair.b.len()]),
                    median_ns: both(&Distribution::median),
                    p99_ns: both(&p99),
                    mean_ns: both(&Distribution::mean),
                    change_ns: pair.map(|pair| pair.shift * self.tick_ns),
                    mean_change_ci_ns: pair.map(|pair| interval(pair) * self.tick_ns),
                    cliffs_delta: pair.map(|pair| pair.rank.delta),
                    p_value: pair.map(|pair| pair.rank.p),
                    q_value: pair.map(|pair| pair.q),
                    sent: counts.map(|counts| counts.sent),
                    lost: counts.map(|counts| counts.lost),
                    coalesced: counts.map(|counts| counts.coalesced),
                }
            })
            .collect()
    }

    /// Cores that are up on one side only.
    fn cores(&mut self) {
        let up = |side: &Side| -> BTreeSet<u16> {
            let cores = side.ipis.view.as_ref().map_or(&[][..], |view| view.cores.as_slice());
            let count = usize::from(side.info.plan.cores);
            (0..).zip(cores).take(count).filter(|(_, core)| core.state == core_state::UP).map(|(id, _)| id).collect()
        };
        let before =
            self.goldens.iter().map(up).reduce(|a, b| a.intersection(&b).copied().collect()).unwrap_or_default();
        let now = up(self.candidate);
        for core in before.symmetric_difference(&now).copied() {
            let here = now.contains(&core);
            // Somewhere among several golden captures it was like now.
            if here && self.goldens.iter().any(|side| up(side).contains(&core)) {
                continue;
            }
            let (was, is) = if here { ("was not up", "is up") } else { ("was up", "is not up") };
            self.changes.push(Change {
                subject: Line::Core(core),
                name: Line::Core(core).to_string(),
                figure: "cores_up".into(),
                phases: Vec::new(),
                pairs: 0,
                a: f64::from(u8::from(!here)),
                b: f64::from(u8::from(here)),
                unit: "cores",
                cliffs_delta: None,
                q_value: None,
                judged: true,
                evidence: format!("core {core} {was} in A and {is} in B"),
            });
        }
    }

    /// Shares of messages that were lost, misrouted, coalesced or without a known end.
    fn outcomes(&mut self) {
        type Outcome = (&'static str, fn(&Counts) -> u64);
        let outcomes: [Outcome; 4] = [
            ("lost", |counts| counts.lost),
            ("misrouted", |counts| counts.misrouted),
            ("unknown", |counts| counts.unknown),
            ("coalesced", |counts| counts.coalesced),
        ];
        let sum = |side: &Side| {
            let mut pairs: BTreeMap<(u16, u16), Counts> = BTreeMap::new();
            for (key, counts) in side.counts() {
                pairs.entry((key.from, key.to)).or_default().add(&counts);
            }
            pairs
        };
        let goldens: Vec<_> = self.goldens.iter().map(sum).collect();
        let now = sum(self.candidate);
        for (name, of) in outcomes {
            let hard = matches!(name, "lost" | "misrouted");
            let rate = |counts: &Counts| of(counts) as f64 / counts.sent.max(1) as f64;
            let mut list = Vec::new();
            for (pair, b) in now.iter().filter(|(_, counts)| counts.sent > 0) {
                // Of several golden captures the one whose share is nearest.
                let like = goldens.iter().filter_map(|golden| golden.get(pair)).filter(|counts| counts.sent > 0);
                let nearest = like.min_by(|x, y| (rate(x) - rate(b)).abs().total_cmp(&(rate(y) - rate(b)).abs()));
                if let Some(a) = nearest {
                    list.push((*pair, (of(a), a.sent), (of(b), b.sent)));
                }
            }
            for cause in rates(&list, self.floors, hard) {
                // How many merge, and how many have no known end, is the host's doing on an emulator.
                let judged = hard || !self.is_live();
                let (a, b) = (fold::share(cause.a), fold::share(cause.b));
                let evidence = format!(
                    "{name}: {} of {} IPIs in A, {} of {} in B (exact test: p = {})",
                    cause.a.0,
                    cause.a.1,
                    cause.b.0,
                    cause.b.1,
                    text::chance(cause.p)
                );
                self.changes.push(Change {
                    subject: cause.line,
                    name: cause.line.to_string(),
                    figure: name.into(),
                    phases: Vec::new(),
                    pairs: cause.pairs,
                    a,
                    b,
                    unit: "share",
                    cliffs_delta: None,
                    q_value: Some(cause.q),
                    judged,
                    evidence,
                });
            }
        }
    }

    /// Like pairs: same phase, kind, state and distance.
    fn groups<'m>(&self, matched: &'m [Matched]) -> BTreeMap<(String, String, &'static str, u8), Vec<&'m Matched>> {
        let mut groups: BTreeMap<_, Vec<&Matched>> = BTreeMap::new();
        for pair in matched {
            let key = &pair.key;
            let distance = self.candidate.distance(key.from, key.to);
            groups.entry((key.phase.clone(), key.kind(), key.state, distance)).or_default().push(pair);
        }
        groups
    }

    /// Shifted middles.
    fn medians(&mut self, matched: &[Matched]) {
        let mut found: BTreeMap<(Line, bool), Vec<(String, Cause)>> = BTreeMap::new();
        for ((phase, ..), pairs) in self.groups(matched) {
            let list: Vec<Shifted> = pairs
                .iter()
                .map(|pair| Shifted {
                    from: pair.key.from,
                    to: pair.key.to,
                    usual: pair.a.median().unwrap_or(0.0),
                    shift: pair.shift,
                    best: pair.best,
                    delta: pair.rank.delta,
                    q: pair.q,
                })
                .collect();
            for cause in shifts(&list, self.floors) {
                found.entry((cause.line, cause.effect > 0.0)).or_default().push((phase.clone(), cause));
            }
        }
        self.keep("median", found);
    }

    /// Turns causes in several groups into one change each.
    fn keep(&mut self, figure: &str, found: BTreeMap<(Line, bool), Vec<(String, Cause)>>) {
        let lines: BTreeSet<(Line, bool)> = found.keys().copied().collect();
        let everybody = |slower: bool| lines.contains(&(Line::All, slower));
        for ((line, slower), causes) in &found {
            // Pairs on a line that changed as a whole, in another phase, are the same cause.
            let explained = match line {
                Line::Pair(from, to) => {
                    lines.contains(&(Line::Receiver(*to), *slower)) || lines.contains(&(Line::Sender(*from), *slower))
                }
                _ => false,
            };
            if explained || (*line != Line::All && figure != "median" && everybody(*slower)) {
                continue;
            }
            let Some((_, worst)) = causes.iter().max_by(|x, y| x.1.effect.abs().total_cmp(&y.1.effect.abs())) else {
                continue;
            };
            let mut phases: Vec<String> = causes.iter().map(|(phase, _)| phase.clone()).collect();
            phases.sort();
            phases.dedup();
            // On a live emulator the host makes pairs slow, and whole runs. A sender's turn is one piece of time, and the host's
            // moods come and go with it. A receiver's pairs are spread over the phase: late in all of them, and at its best, too,
            // is the core.
            let judged = !self.is_live()
                || (matches!(line, Line::Receiver(_))
                    && figure == "median"
                    && causes.iter().all(|(_, cause)| cause.at_best));
            let (a, b) = (worst.usual * self.tick_ns, (worst.usual + worst.effect) * self.tick_ns);
            let evidence = format!(
                "{figure} {} by {} ({:+.0} %) in {}: {} of {} pairs, Cliff's delta {:+.2}",
                if *slower { "longer" } else { "shorter" },
                duration((b - a).abs(), self.tick_ns),
                (b - a) / a.max(self.tick_ns) * 100.0,
                phases.join(", "),
                worst.pairs,
                worst.of,
                worst.delta
            );
            self.changes.push(Change {
                subject: *line,
                name: line.to_string(),
                figure: figure.into(),
                phases,
                pairs: worst.pairs,
                a,
                b,
                unit: "ns",
                cliffs_delta: Some(worst.delta),
                q_value: Some(causes.iter().map(|(_, cause)| cause.q).fold(1.0, f64::min)),
                judged,
                evidence,
            });
        }
    }

    /// Shares of latencies beyond what A takes at its longest but one in a hundred.
    fn tails(&mut self, matched: &[Matched]) {
        let shifted: BTreeSet<Line> =
            self.changes.iter().filter(|change| change.figure == "median").map(|change| change.subject).collect();
        let mut found: BTreeMap<Line, (Vec<String>, fold::Rate)> = BTreeMap::new();
        for ((phase, ..), pairs) in self.groups(matched) {
            let mut list = Vec::new();
            for pair in &pairs {
                let key = &pair.key;
                let holds = |line: &Line| line.holds(key.from, key.to);
                // A shifted middle takes its tail along.
                let usual = pair.a.quantile(0.99).filter(|_| !shifted.iter().any(holds));
                let Some((_, usual)) = usual else { continue };
                let threshold = usual as f64 + self.floors.ticks.max(self.floors.share * usual as f64);
                let above = |all: &Distribution| (all.above(threshold as u64).0, all.len());
                list.push(((key.from, key.to), above(&pair.a), above(&pair.b)));
            }
            let floors = Floors { rate: 0.001, share: 2.0, ..self.floors };
            for cause in rates(&list, floors, false) {
                let entry = found.entry(cause.line).or_insert_with(|| (Vec::new(), cause));
                entry.0.push(phase.clone());
                if cause.p < entry.1.p {
                    entry.1 = cause;
                }
            }
        }
        for (line, (mut phases, cause)) in found {
            phases.dedup();
            let evidence = format!(
                "tail: {} of {} latencies beyond A's 99th percentile and the floor in A, {} of {} in B (exact test: p = {}), in {}",
                cause.a.0,
                cause.a.1,
                cause.b.0,
                cause.b.1,
                text::chance(cause.p),
                phases.join(", ")
            );
            self.changes.push(Change {
                subject: line,
                name: line.to_string(),
                figure: "tail".into(),
                phases,
                pairs: cause.pairs,
                a: fold::share(cause.a),
                b: fold::share(cause.b),
                unit: "share",
                cliffs_delta: None,
                q_value: Some(cause.q),
                judged: !self.is_live(),
                evidence,
            });
        }
    }

    /// Stages on each core.
    fn stages(&mut self) {
        let sides: Vec<_> = self.goldens.iter().map(Side::stages).collect();
        let now = self.candidate.stages();
        let mut rows = Vec::new();
        for ((stage, kind, core), b) in &now {
            let like = sides.iter().filter_map(|side| side.get(&(*stage, kind.clone(), *core)));
            let goldens: Vec<&Distribution> = like.filter(|all| all.len() >= LEAST).collect();
            if goldens.len() < sides.len() || b.len() < LEAST {
                continue;
            }
            let middle = |all: &Distribution| all.median().unwrap_or(0.0);
            let nearest =
                goldens.iter().min_by(|x, y| (middle(x) - middle(b)).abs().total_cmp(&(middle(y) - middle(b)).abs()));
            if let Some(a) = nearest {
                let sides = goldens.iter().map(|golden| middle(b) - middle(golden));
                let same = sides.clone().all(|shift| shift > 0.0) || sides.clone().all(|shift| shift < 0.0);
                let shift = if same { middle(b) - middle(a) } else { 0.0 };
                rows.push(((*stage, kind.clone()), *core, middle(a), shift, rank(a, b)));
            }
        }
        let qs = benjamini_hochberg(&rows.iter().map(|row| row.4.p).collect::<Vec<f64>>());
        let mut groups: BTreeMap<_, Vec<Shifted>> = BTreeMap::new();
        for ((group, core, usual, shift, rank), q) in rows.into_iter().zip(qs) {
            let shifted = Shifted { from: core, to: core, usual, shift, best: shift, delta: rank.delta, q };
            groups.entry(group).or_default().push(shifted);
        }
        let known: BTreeSet<Line> = self.changes.iter().map(|change| change.subject).collect();
        for ((stage, kind), list) in groups {
            let mut found: BTreeMap<(Line, bool), Vec<(String, Cause)>> = BTreeMap::new();
            for mut cause in shifts(&list, self.floors) {
                if let Line::Pair(core, _) = cause.line {
                    cause.line = Line::Core(core);
                }
                // The whole way of an IPI is told by its pairs already.
                let told = match cause.line {
                    Line::Core(core) => known.contains(&Line::Receiver(core)),
                    line => known.contains(&line),
                };
                let way = stage.name().starts_with("send_to_entry") || stage.name() == "queue_to_callback";
                if !(way && told) {
                    found.entry((cause.line, cause.effect > 0.0)).or_default().push((kind.clone(), cause));
                }
            }
            self.keep(stage.name(), found);
        }
    }
}

/// Whether two paths name the same file.
pub fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
