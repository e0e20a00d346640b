//! The selftest: proves the detectors on faults whose truth is known, and their silence where there is none.
//!
//! Each run boots the firmware on QEMU in counted time with one fault twin, or none, and asks the report whom it suspects. Right is:
//! exactly one suspect, the right detector, the right core or pair. A run differs from another by its seed, which moves the cores
//! that are struck, the random phase of every send, and the draws of the twin. Nothing here looks at a clock, so a busy host changes
//! nothing but how long it takes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use crate::detect::{Role, Suspect, Verdict};
use crate::error::{Failure, exit};
use crate::fault::Fault;
use crate::machine::MachineRequest;
use crate::plan::PlanRequest;
use crate::run::{self, Request};
use crate::scratch::Scratch;
use crate::{interrupt, report};

/// Name and version of the JSON contract.
pub const SCHEMA: &str = "ipiscope.selftest/1";

/// The plan of timed pairs.
const PAIRS: &str = "selftest";
/// The plan of the call layer.
const CALLS: &str = "selftest-calls";

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seeds of each fault.
    pub seeds: u64,
    /// Runs without a fault.
    pub clean: u64,
    /// Numbers of cores; clean runs take turns.
    pub cores: Vec<u16>,
    /// Also look for the smallest delays that are found.
    pub detection_limit: bool,
    /// Only faults whose name holds this.
    pub only: Option<String>,
    /// Runs at a time.
    pub jobs: usize,
    /// The firmware, where it is not built here.
    pub firmware: Option<PathBuf>,
}

/// A fault, and who has to be suspected of it.
struct Case {
    /// The fault's kind and strength, as the table names it.
    name: &'static str,
    plan: &'static str,
    detector: &'static str,
    fault: fn(&Draw) -> String,
    subject: fn(&Draw) -> Subject,
}

/// Whom a suspect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Core(Role, u16),
    Pair(u16, u16),
}

impl Subject {
    fn is(self, suspect: &Suspect) -> bool {
        match self {
            Subject::Core(role, core) => suspect.role == role && suspect.core == Some(core),
            Subject::Pair(from, to) => {
                suspect.role == Role::Pair && (suspect.from, suspect.to) == (Some(from), Some(to))
            }
        }
    }
}

/// The cores that a seed strikes: three different ones where there are so many.
struct Draw {
    a: u16,
    b: u16,
    c: u16,
    /// Not core 0: it boots the others.
    other: u16,
}

impl Draw {
    fn new(seed: u64, cores: u16) -> Draw {
        let count = u64::from(cores);
        // Over the seeds, every pair comes up.
        let a = seed % count;
        let b = (a + 1 + seed / count % (count - 1)) % count;
        let c = (0..count).map(|step| (b + 1 + step) % count).find(|core| ![a, b].contains(core)).unwrap_or(b);
        Draw { a: a as u16, b: b as u16, c: c as u16, other: (1 + seed % (count - 1)) as u16 }
    }
}

/// Every twin at a strength that a person would call a fault. Usual latencies are some 60 instructions.
const CASES: &[Case] = &[
    Case {
        name: "drop 1 %",
        plan: PAIRS,
        detector: "lost",
        fault: |draw| format!("drop:{}:{}:0.01", draw.a, draw.b),
        subject: |draw| Subject::Pair(draw.a, draw.b),
    },
    Case {
        name: "late +200 ns",
        plan: PAIRS,
        detector: "late",
        fault: |draw| format!("late:{}:200", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "late +2 us, 2 %",
        plan: PAIRS,
        detector: "tail",
        fault: |draw| format!("late:{}:2000:0.02", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "slow-sender +200 ns",
        plan: PAIRS,
        detector: "late",
        fault: |draw| format!("slow-sender:{}:200", draw.a),
        subject: |draw| Subject::Core(Role::Sender, draw.a),
    },
    Case {
        name: "slow-sender +2 us, 2 %",
        plan: PAIRS,
        detector: "tail",
        fault: |draw| format!("slow-sender:{}:2000:0.02", draw.a),
        subject: |draw| Subject::Core(Role::Sender, draw.a),
    },
    Case {
        name: "slow-pair +200 ns",
        plan: PAIRS,
        detector: "late",
        fault: |draw| format!("slow-pair:{}:{}:200", draw.a, draw.b),
        subject: |draw| Subject::Pair(draw.a, draw.b),
    },
    Case {
        name: "slow-pair +2 us, 2 %",
        plan: PAIRS,
        detector: "tail",
        fault: |draw| format!("slow-pair:{}:{}:2000:0.02", draw.a, draw.b),
        subject: |draw| Subject::Pair(draw.a, draw.b),
    },
    Case {
        name: "slow-wake wfi +1 us",
        plan: PAIRS,
        detector: "slow_wake",
        fault: |draw| format!("slow-wake:{}:wfi:1000", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "slow-wake suspend +1 us",
        plan: PAIRS,
        detector: "slow_wake",
        fault: |draw| format!("slow-wake:{}:suspend:1000", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "misroute 2 %",
        plan: PAIRS,
        detector: "misrouted",
        fault: |draw| format!("misroute:{}:{}:{}:0.02", draw.a, draw.b, draw.c),
        subject: |draw| Subject::Pair(draw.a, draw.b),
    },
    Case {
        name: "duplicate 1 %",
        plan: PAIRS,
        detector: "duplicate",
        fault: |draw| format!("duplicate:{}:0.01", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "spurious 50 %",
        plan: PAIRS,
        detector: "spurious",
        fault: |draw| format!("spurious:{}:0.5", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "stall 1 %",
        plan: PAIRS,
        detector: "recovery",
        fault: |draw| format!("stall:{}:0.01", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "steal 3 ms, 0.5 %",
        plan: PAIRS,
        detector: "stolen_time",
        fault: |draw| format!("steal:{}:3000000:0.005", draw.a),
        subject: |draw| Subject::Core(Role::Core, draw.a),
    },
    Case {
        name: "skew +2 us",
        plan: PAIRS,
        detector: "clock",
        fault: |draw| format!("skew:{}:2000", draw.a),
        subject: |draw| Subject::Core(Role::Clock, draw.a),
    },
    Case {
        name: "skew -2 us",
        plan: PAIRS,
        detector: "clock",
        fault: |draw| format!("skew:{}:-2000", draw.a),
        subject: |draw| Subject::Core(Role::Clock, draw.a),
    },
    Case {
        name: "jump +5 us",
        plan: PAIRS,
        detector: "clock",
        fault: |draw| format!("jump:{}:5000", draw.a),
        subject: |draw| Subject::Core(Role::Clock, draw.a),
    },
    Case {
        name: "step-back 5 us, 1 %",
        plan: PAIRS,
        detector: "clock",
        fault: |draw| format!("step-back:{}:5000:0.01", draw.a),
        subject: |draw| Subject::Core(Role::Clock, draw.a),
    },
    Case {
        name: "mask 50 us",
        plan: PAIRS,
        detector: "masked",
        fault: |draw| format!("mask:{}:50000", draw.a),
        subject: |draw| Subject::Core(Role::Receiver, draw.a),
    },
    Case {
        name: "dead",
        plan: PAIRS,
        detector: "core_missing",
        fault: |draw| format!("dead:{}", draw.other),
        subject: |draw| Subject::Core(Role::Core, draw.other),
    },
    Case {
        name: "crash",
        plan: PAIRS,
        detector: "fault",
        fault: |draw| format!("crash:{}", draw.a),
        subject: |draw| Subject::Core(Role::Core, draw.a),
    },
    Case {
        name: "overflow",
        plan: PAIRS,
        detector: "fault",
        fault: |draw| format!("overflow:{}", draw.a),
        subject: |draw| Subject::Core(Role::Core, draw.a),
    },
    Case {
        name: "stray",
        plan: PAIRS,
        detector: "fault",
        fault: |draw| format!("stray:{}", draw.a),
        subject: |draw| Subject::Core(Role::Core, draw.a),
    },
    Case {
        name: "slow-callback +20 us",
        plan: CALLS,
        detector: "slow_callback",
        fault: |draw| format!("slow-callback:{}:20000", draw.a),
        subject: |draw| Subject::Core(Role::Callback, draw.a),
    },
    Case {
        name: "stuck",
        plan: CALLS,
        detector: "stuck_core",
        fault: |draw| format!("stuck:{}", draw.a),
        subject: |draw| Subject::Core(Role::Core, draw.a),
    },
    Case {
        name: "csd-lock",
        plan: CALLS,
        detector: "csd_lock",
        fault: |draw| format!("csd-lock:{}", draw.a),
        subject: |draw| Subject::Core(Role::Callback, draw.a),
    },
];

/// How the runs of one line of the table went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Line {
    /// The fault; `clean` for none.
    pub fault: String,
    /// The detector that has to speak; empty for none.
    pub detector: &'static str,
    /// Cores.
    pub cores: u16,
    /// Runs in which the twin struck.
    pub runs: u64,
    /// Runs with exactly the right suspect.
    pub right: u64,
    /// Runs without a suspect, where there should be one.
    pub missed: u64,
    /// Runs that suspect somebody else, or several.
    pub wrong: u64,
    /// Runs in which the twin never struck: they say nothing.
    pub idle: u64,
    /// Runs that could not be made.
    pub failed: u64,
    /// What was wrong, the first few, with the command that repeats it.
    pub examples: Vec<String>,
    /// How long the right ones say that the fault is, ns.
    #[serde(skip)]
    effects: Vec<f64>,
}

impl Line {
    /// Whether it shows what it has to.
    pub fn holds(&self) -> bool {
        self.runs > 0 && self.right == self.runs && self.failed == 0
    }
}

/// The smallest delay that is found in at least 95 of 100 runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// What is delayed.
    pub fault: &'static str,
    /// Samples of each pair.
    pub samples: u32,
    /// The delay that the twin was asked for, ns; `None`: not even the greatest that was tried.
    pub delay_ns: Option<u64>,
    /// The delay that there really was, as the reports measured it (the median of the runs), ns: a twin takes time itself.
    pub effect_ns: Option<f64>,
    /// Runs at that delay, and in how many it was found.
    pub runs: u64,
    /// See above.
    pub found: u64,
    /// The greatest delay that was tried and not found often enough, ns.
    pub missed_ns: Option<u64>,
}

/// What the selftest came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Faults.
    pub sensitivity: Vec<Line>,
    /// Runs without a fault.
    pub specificity: Vec<Line>,
    /// Smallest delays.
    pub detection_limits: Vec<Limit>,
    /// It was ended early.
    pub interrupted: bool,
    /// How long it took, seconds.
    pub seconds: f64,
}

impl Outcome {
    /// 0: all as it has to be; 1: a detector failed; 2: runs could not be made.
    pub fn exit_code(&self) -> u8 {
        let lines = || self.sensitivity.iter().chain(&self.specificity);
        if lines().any(|line| line.missed + line.wrong > 0) {
            exit::FAILED
        } else if self.interrupted || !lines().all(Line::holds) {
            exit::UNMEASURED
        } else {
            exit::CLEAN
        }
    }

    /// As tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (title, lines) in [("Faults", &self.sensitivity), ("No fault", &self.specificity)] {
            if lines.is_empty() {
                continue;
            }
            let mut table = table(["fault", "detector", "cores", "runs", "right", "missed", "wrong", "idle", "failed"]);
            for line in lines {
                let cells = [
                    line.fault.clone(),
                    line.detector.into(),
                    line.cores.to_string(),
                    line.runs.to_string(),
                    line.right.to_string(),
                    line.missed.to_string(),
                    line.wrong.to_string(),
                    line.idle.to_string(),
                    line.failed.to_string(),
                ];
                table.add_row(cells);
            }
            let _ = writeln!(text, "{title}\n{table}\n");
        }
        for line in self.sensitivity.iter().chain(&self.specificity) {
            for example in &line.examples {
                let _ = writeln!(text, "{} on {} cores: {example}", line.fault, line.cores);
            }
        }
        if !self.detection_limits.is_empty() {
            let header = ["smallest delay found at 95 %", "samples a pair", "asked", "really", "found", "missed at"];
            let mut table = table(header);
            for limit in &self.detection_limits {
                let ns = |ns: Option<u64>| ns.map_or("-".into(), |ns| format!("{ns} ns"));
                let cells = [
                    limit.fault.to_string(),
                    limit.samples.to_string(),
                    ns(limit.delay_ns),
                    ns(limit.effect_ns.map(|effect| effect.round() as u64)),
                    format!("{}/{}", limit.found, limit.runs),
                    ns(limit.missed_ns),
                ];
                table.add_row(cells);
            }
            let _ = writeln!(text, "{table}\n");
        }
        let lines = || self.sensitivity.iter().chain(&self.specificity);
        let (runs, right) = lines().fold((0, 0), |sum, line| (sum.0 + line.runs, sum.1 + line.right));
        let _ = writeln!(text, "{right} of {runs} runs as they have to be, in {:.0} s", self.seconds);
        if self.interrupted {
            let _ = writeln!(text, "ended early: the rest was not run");
        }
        text
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-')));
    table.set_header(header);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// One run to make.
struct Job {
    line: usize,
    plan: String,
    cores: u16,
    seed: u64,
    faults: Vec<String>,
    right: Option<(&'static str, Subject)>,
}

/// What a run showed.
enum Shown {
    /// With the length that the report gives the fault, ns.
    Right(Option<f64>),
    Missed,
    Wrong(String),
    Idle,
    Failed(String),
}

/// Runs all of it. `say` gets a line now and then.
pub fn run(settings: &Settings, say: &(dyn Fn(&str) + Sync)) -> Result<Outcome, Failure> {
    let started = Instant::now();
    if let Some(cores) = settings.cores.iter().find(|cores| !(3..=64).contains(*cores)) {
        return Err(Failure {
            kind: "arguments".into(),
            message: format!("--cores {cores}: a selftest needs 3 to 64 cores: of two, nobody can say which is wrong"),
            next_step: "name other numbers, like --cores 4,8".into(),
            exit_code: exit::MISUSED,
        });
    }
    let wanted = |case: &&Case| settings.only.as_ref().is_none_or(|only| case.name.contains(only.as_str()));
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    if let Some(only) = settings.only.as_ref().filter(|_| cases.is_empty()) {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        return Err(Failure {
            kind: "arguments".into(),
            message: format!("--only {only}: no fault of the selftest has that in its name"),
            next_step: format!("its faults are: {}", names.join(", ")),
            exit_code: exit::MISUSED,
        });
    }
    let bench = Bench::new(settings, say)?;
    let mut lines = Vec::new();
    let mut jobs = Vec::new();
    for case in &cases {
        for cores in &settings.cores {
            for seed in 0..settings.seeds {
                let draw = Draw::new(seed, *cores);
                jobs.push(Job {
                    line: lines.len(),
                    plan: case.plan.into(),
                    cores: *cores,
                    seed,
                    faults: vec![(case.fault)(&draw)],
                    right: Some((case.detector, (case.subject)(&draw))),
                });
            }
            let (fault, detector) = (case.name.into(), case.detector);
            lines.push(Line { fault, detector, cores: *cores, ..Line::default() });
        }
    }
    let faults = lines.len();
    let clean = if settings.only.is_some() { 0 } else { settings.clean };
    for (plan, share) in [(PAIRS, clean - clean / 5), (CALLS, clean / 5)] {
        let many = settings.cores.len() as u64;
        for (place, cores) in (0..many).zip(&settings.cores) {
            let seeds = (0..share).filter(|seed| seed % many == place).map(|seed| 1000 + seed);
            let before = jobs.len();
            jobs.extend(seeds.map(|seed| Job {
                line: lines.len(),
                plan: plan.into(),
                cores: *cores,
                seed,
                faults: Vec::new(),
                right: None,
            }));
            if jobs.len() > before {
                lines.push(Line { fault: format!("none ({plan})"), cores: *cores, ..Line::default() });
            }
        }
    }
    let mut lines = bench.all(&jobs, lines);
    let specificity = lines.split_off(faults);
    let detection_limits = if settings.detection_limit { bench.limits() } else { Vec::new() };
    Ok(Outcome {
        schema: SCHEMA,
        sensitivity: lines,
        specificity,
        detection_limits,
        interrupted: interrupt::requests() > 0,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Where runs are made.
struct Bench<'a> {
    settings: &'a Settings,
    say: &'a (dyn Fn(&str) + Sync),
    folder: Scratch,
}

/// The most examples of a line.
const EXAMPLES: usize = 3;

impl<'a> Bench<'a> {
    fn new(settings: &'a Settings, say: &'a (dyn Fn(&str) + Sync)) -> Result<Self, Failure> {
        // Built once, not by each run.
        crate::firmware::find(settings.firmware.as_deref(), &mut |text| say(text))?;
        let folder = Scratch::create(256 << 20, u64::from_le_bytes(*b"selftest"))?;
        Ok(Bench { settings, say, folder })
    }

    /// Makes all runs, several at a time, and counts what they show.
    fn all(&self, jobs: &[Job], lines: Vec<Line>) -> Vec<Line> {
        let next = AtomicUsize::new(0);
        let lines = Mutex::new(lines);
        let told = Mutex::new(Instant::now());
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if interrupt::requests() > 0 {
                    return;
                }
                let shown = self.make(job);
                // Another thread's panic would have poisoned it: then there is nothing to count any more.
                let Ok(mut lines) = lines.lock() else { return };
                let Some(line) = lines.get_mut(job.line) else { return };
                line.count(shown, job);
                drop(lines);
                let done = next.load(Ordering::Relaxed).min(jobs.len());
                if let Ok(mut told) = told.lock()
                    && told.elapsed() > Duration::from_secs(10)
                {
                    *told = Instant::now();
                    (self.say)(&format!("selftest: {done} of {} runs", jobs.len()));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.settings.jobs.max(1) {
                scope.spawn(work);
            }
            work();
        });
        lines.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Makes a run and reports on it.
    fn report(&self, job: &Job) -> Result<report::Report, String> {
        let name = format!("{}-{}-{:x}.mcap", job.line, job.seed, job.faults.concat().len());
        let out = self.folder.file(&name);
        let result = self.report_in(job, &out);
        let _ = std::fs::remove_file(&out);
        result
    }

    fn report_in(&self, job: &Job, out: &Path) -> Result<report::Report, String> {
        let faults = job.faults.iter().map(|fault| fault.parse::<Fault>().map_err(|error| error.to_string()));
        let request = Request {
            machine: MachineRequest { cores: Some(job.cores.into()), deterministic: true, ..MachineRequest::default() },
            plan: PlanRequest {
                plan: Some(job.plan.clone()),
                faults: faults.collect::<Result<_, _>>()?,
                seed: Some(job.seed),
                ..PlanRequest::default()
            },
            firmware: self.settings.firmware.clone(),
            out: Some(out.into()),
            live: false,
            quiet: true,
            ..Request::default()
        };
        // Runs that end by a fault are measured all the same.
        run::qemu(&request, &mut |_| {}).map_err(|failure| failure.message)?;
        report::build(out).map_err(|error| error.to_string())
    }

    fn make(&self, job: &Job) -> Shown {
        let report = match self.report(job) {
            Ok(report) => report,
            Err(message) => return Shown::Failed(message),
        };
        let told = || {
            let suspects = report.suspects.iter().chain(&report.advisories);
            let told: Vec<String> =
                suspects.map(|it| format!("{} ({}): {}", it.subject(), it.detector, it.evidence)).collect();
            format!("verdict {}; {}", report.verdict.name(), told.join("; "))
        };
        let Some((detector, subject)) = job.right else {
            let silent = report.suspects.is_empty() && report.advisories.is_empty();
            return if silent && report.verdict == Verdict::Clean { Shown::Right(None) } else { Shown::Wrong(told()) };
        };
        if report.injected.iter().any(|injected| injected.struck == Some(0)) {
            return match &report.error {
                // It ended before the twin could strike.
                Some(error) => Shown::Failed(error.message.clone()),
                None => Shown::Idle,
            };
        }
        match report.suspects.as_slice() {
            [] => Shown::Missed,
            [one] if one.detector == detector && subject.is(one) => Shown::Right(one.effect_ns),
            _ => Shown::Wrong(told()),
        }
    }

    /// The smallest delays that are found, by halving between found and missed.
    fn limits(&self) -> Vec<Limit> {
        type Delay = fn(u64) -> String;
        let faults: [(&'static str, &'static str, Delay); 3] = [
            ("every IPI of a receiver", "late", |delay| format!("late:1:{delay}")),
            ("1 % of a receiver's IPIs", "tail", |delay| format!("late:1:{delay}:0.01")),
            ("1 % of one pair's IPIs", "tail", |delay| format!("slow-pair:0:1:{delay}:0.01")),
        ];
        let mut limits = Vec::new();
        for samples in [1_000, 10_000] {
            let plan = format!(
                // Without heartbeats: an IPI that meets one waits for its handler, which is no fault and no part of this question.
                "name = \"limit\"\ndefaults = {{ dither = 100 }}\n\n[[phase]]\npattern = \"matrix\"\ncount = {samples}\n"
            );
            let Ok(plan) = self.folder.write(&format!("limit-{samples}.toml"), plan.as_bytes()) else { return limits };
            for (fault, detector, delay) in faults {
                let subject = match fault.contains("pair") {
                    true => Subject::Pair(0, 1),
                    false => Subject::Core(Role::Receiver, 1),
                };
                let found = |ns: u64| {
                    let jobs: Vec<Job> = (0..self.settings.seeds.max(20))
                        .map(|seed| Job {
                            line: 0,
                            plan: plan.display().to_string(),
                            cores: 4,
                            seed,
                            faults: vec![delay(ns)],
                            right: Some((detector, subject)),
                        })
                        .collect();
                    let mut lines = self.all(&jobs, vec![Line::default()]);
                    let line = lines.first_mut();
                    line.map_or((0, 0, None), |line| (line.right, line.runs, crate::stats::median(&mut line.effects)))
                };
                limits.push(smallest(fault, samples, found));
                (self.say)(&format!("selftest: detection limit, {fault}, {samples} samples a pair"));
            }
        }
        limits
    }
}

/// Doubles the delay until it is found, then halves the distance to the greatest that was not, down to an eighth of it. `found`: of a
/// delay, how often it was found, in how many runs, and how long it really was.
fn smallest(fault: &'static str, samples: u32, found: impl Fn(u64) -> (u64, u64, Option<f64>)) -> Limit {
    const MOST_NS: u64 = 100_000;
    let mut limit = Limit { fault, samples, delay_ns: None, effect_ns: None, runs: 0, found: 0, missed_ns: None };
    let try_it = |ns: u64, limit: &mut Limit| {
        let (right, runs, effect) = found(ns);
        // 95 of 100.
        let good = runs > 0 && right * 100 >= runs * 95;
        match good {
            true => {
                (limit.delay_ns, limit.effect_ns) = (Some(ns), effect);
                (limit.found, limit.runs) = (right, runs);
            }
            // What was interrupted says nothing.
            false if interrupt::requests() > 0 => {}
            false => limit.missed_ns = Some(ns),
        }
        good
    };
    let mut ns = 2;
    while ns <= MOST_NS && interrupt::requests() == 0 {
        if try_it(ns, &mut limit) {
            break;
        }
        ns *= 2;
    }
    while let (Some(good), Some(bad)) = (limit.delay_ns, limit.missed_ns) {
        let middle = good.midpoint(bad);
        if good - bad <= (good / 8).max(1) || interrupt::requests() > 0 {
            break;
        }
        try_it(middle, &mut limit);
    }
    limit
}

impl Line {
    fn count(&mut self, shown: Shown, job: &Job) {
        self.runs += 1;
        let repeat = || {
            let inject: String = job.faults.iter().map(|fault| format!(" --inject {fault}")).collect();
            let (plan, cores, seed) = (&job.plan, job.cores, job.seed);
            format!("ipiscope qemu --deterministic --cores {cores} --plan {plan} --seed {seed}{inject}")
        };
        let mut example = |text: String| {
            if self.examples.len() < EXAMPLES {
                self.examples.push(text);
            }
        };
        match shown {
            Shown::Right(effect) => {
                self.right += 1;
                self.effects.extend(effect);
            }
            Shown::Missed => {
                self.missed += 1;
                example(format!("nobody is suspected; {}", repeat()));
            }
            Shown::Wrong(told) => {
                self.wrong += 1;
                example(format!("{told}; {}", repeat()));
            }
            Shown::Idle => {
                self.idle += 1;
                self.runs -= 1;
            }
            Shown::Failed(why) => {
                self.failed += 1;
                self.runs -= 1;
                example(format!("{why}; {}", repeat()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_strike_every_core_and_pair_and_three_different_ones() {
        for cores in [3, 4, 8] {
            let draws: Vec<Draw> = (0..u64::from(cores) * 8).map(|seed| Draw::new(seed, cores)).collect();
            let pairs: BTreeSet<(u16, u16)> = draws.iter().map(|draw| (draw.a, draw.b)).collect();
            assert_eq!(pairs.len(), usize::from(cores * (cores - 1)).min(draws.len()), "{cores} cores");
            assert!(draws.iter().all(|draw| draw.a != draw.b && draw.b != draw.c && draw.a != draw.c));
            assert!(draws.iter().all(|draw| draw.other > 0 && draw.other < cores && draw.c < cores));
        }
    }

    #[test]
    fn every_case_injects_a_fault_that_is_one_and_every_fault_has_a_case() {
        let names: Vec<&str> = crate::detect::detectors().iter().map(|detector| detector.name()).collect();
        for case in CASES {
            assert!(names.contains(&case.detector), "{}: {}", case.name, case.detector);
            let draw = Draw::new(5, 4);
            let fault = (case.fault)(&draw);
            assert!(fault.parse::<Fault>().is_ok(), "{fault}");
        }
        // Every twin of the command line has a case.
        for (kind, _) in crate::fault::FORMS {
            let draw = Draw::new(1, 4);
            assert!(CASES.iter().any(|case| (case.fault)(&draw).starts_with(&format!("{kind}:"))), "{kind}");
        }
    }

    #[test]
    fn the_smallest_delay_lies_between_the_last_miss_and_the_first_find() {
        let limit = smallest("x", 1000, |ns| (if ns >= 77 { 20 } else { 18 }, 20, Some(ns as f64)));
        let (good, bad) = (limit.delay_ns.unwrap(), limit.missed_ns.unwrap());
        assert!((77..=86).contains(&good) && (67..77).contains(&bad), "{limit:?}");
        assert_eq!((limit.found, limit.runs), (20, 20));
        let never = smallest("x", 1000, |_| (0, 20, None));
        assert_eq!((never.delay_ns, never.missed_ns), (None, Some(65_536)));
        let always = smallest("x", 1000, |_| (19, 20, None));
        assert_eq!((always.delay_ns, always.missed_ns), (Some(2), None), "19 of 20 are 95 %");
    }

    #[test]
    fn a_line_tells_what_went_wrong_and_how_to_see_it_again() {
        let job = |faults: &[&str]| Job {
            line: 0,
            plan: PAIRS.into(),
            cores: 4,
            seed: 7,
            faults: faults.iter().map(ToString::to_string).collect(),
            right: None,
        };
        let mut line = Line { fault: "late".into(), cores: 4, ..Line::default() };
        line.count(Shown::Right(None), &job(&[]));
        assert!(line.holds());
        line.count(Shown::Idle, &job(&["late:1:5"]));
        assert!(line.holds() && line.idle == 1);
        line.count(Shown::Wrong("core 3".into()), &job(&["late:1:5"]));
        assert!(!line.holds());
        let outcome = Outcome {
            schema: SCHEMA,
            sensitivity: vec![line],
            specificity: Vec::new(),
            detection_limits: Vec::new(),
            interrupted: false,
            seconds: 1.0,
        };
        let text = outcome.text();
        assert!(
            text.contains("core 3; ipiscope qemu --deterministic --cores 4 --plan selftest --seed 7 --inject late:1:5"),
            "{text}"
        );
        assert!(text.contains("1 of 2 runs"), "{text}");
        assert_eq!(outcome.exit_code(), exit::FAILED);
    }
}
