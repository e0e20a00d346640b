//! Limits: what a machine is held to, from a file, rule by rule.
//!
//! A rule picks latencies or outcomes (kind, state, distance, cores …), says over what its figures are taken (`per`), and bounds
//! them. Each bound ends in one of three ways: passed, failed, or *inconclusive*, where the run does not carry the figure. A
//! figure that is known as an interval only (a histogram's bucket, messages without a known end, skew within its round trips)
//! passes where the whole interval does, fails where none of it does, and is inconclusive between. `docs/limits.md` is the page
//! for users.

mod file;
mod judge;

use std::path::{Path, PathBuf};

use serde::Serialize;
use trace_ring::calls::IpiKind;
use trace_ring::record::ReceiverState;

use crate::capture::{RunInfo, VerdictScope};
use crate::correlate::stages::Stage;
use crate::error::{Explain, exit};
use crate::plan::CoreList;

#[cfg(test)]
pub(crate) use file::length;
pub use judge::{BoundReport, LimitsReport, Outcome, RuleReport, Subject, Unit};
pub(crate) use judge::{judge, show};

/// A limits file.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Its own name for itself.
    pub name: Option<String>,
    /// Its text.
    pub text: String,
    /// What the limits are for.
    pub target: Expected,
    /// The rules, at least one.
    pub rules: Vec<Rule>,
}

/// The target that limits are for; what is not said may be anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// The machine's name.
    pub machine: Option<String>,
    /// The board file's name.
    pub board: Option<String>,
    /// Cores that the run was asked for.
    pub cores: Option<u16>,
    /// MIDR_EL1 of every core, or of the cores in their order.
    pub midr: Vec<u32>,
    /// Whose time it is.
    pub scope: Option<VerdictScope>,
    /// The plan's name.
    pub plan: Option<String>,
}

impl Expected {
    /// What is known before a run and does not fit, one sentence each.
    pub fn differs_from(&self, known: &Known<'_>) -> Vec<String> {
        let mut differences = Vec::new();
        let mut text = |what: &str, expected: Option<&str>, got: Option<&str>| {
            if let (Some(expected), Some(got)) = (expected, got)
                && expected != got
            {
                let got = if got.is_empty() { "not named".into() } else { format!("`{got}`") };
                differences.push(format!("they are for {what} `{expected}`, and this one is {got}"));
            }
        };
        text("machine", self.machine.as_deref(), known.machine);
        text("board", self.board.as_deref(), known.board);
        text("plan", self.plan.as_deref(), known.plan);
        text("times of scope", self.scope.map(VerdictScope::name), known.scope.map(VerdictScope::name));
        if let (Some(expected), Some(got)) = (self.cores, known.cores)
            && expected != got
        {
            differences.push(format!("they are for {expected} cores, and this run has {got}"));
        }
        differences
    }

    /// The same, and what is known only after it.
    fn differs_from_run(&self, info: &RunInfo, midrs: &[(u16, u32)]) -> Vec<String> {
        let mut differences = self.differs_from(&Known {
            machine: Some(&info.machine),
            board: Some(&info.board),
            cores: Some(info.plan.cores),
            scope: Some(info.verdict_scope),
            plan: Some(&info.plan.name),
        });
        for (core, midr) in midrs {
            let expected = match self.midr.as_slice() {
                [] => continue,
                [every] => Some(every),
                each => each.get(usize::from(*core)),
            };
            match expected {
                Some(expected) if expected == midr => {}
                Some(expected) => {
                    differences.push(format!(
                        "they are for MIDR_EL1 {expected:#010x} on core {core}, and this core has {midr:#010x}"
                    ));
                }
                None => differences.push(format!(
                    "they name MIDR_EL1 of {} cores, and this target has a core {core}",
                    self.midr.len()
                )),
            }
        }
        differences
    }
}

/// What is known of a target, before its run or after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The machine's name.
    pub machine: Option<&'a str>,
    /// The board file's name.
    pub board: Option<&'a str>,
    /// Cores.
    pub cores: Option<u16>,
    /// Whose time it will be.
    pub scope: Option<VerdictScope>,
    /// The plan's name.
    pub plan: Option<&'a str>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name; no two have the same.
    pub name: String,
    /// The line that it begins in.
    pub line: usize,
    /// What it looks at.
    pub select: Select,
    /// What its figures are taken over.
    pub per: Per,
    /// What it bounds, in the order of [`Figure`] and [`Count`].
    pub bounds: Vec<Bound>,
    /// Latencies that each figure must be of.
    pub min_samples: Option<u64>,
}

/// What a rule looks at: all that nothing here excludes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Select {
    /// What was sent.
    pub kind: Option<Kind>,
    /// The receiver's state.
    pub state: Option<ReceiverState>,
    /// The phase's name.
    pub phase: Option<String>,
    /// The highest affinity level in which sender and receiver differ, 1 to 4; 0: a core to itself.
    pub distance: Option<u8>,
    /// Senders.
    pub from: Option<CoreList>,
    /// Receivers; of stages: the core.
    pub to: Option<CoreList>,
    /// A stage instead of the whole way.
    pub stage: Option<Stage>,
    /// Latencies of phases with one IPI under way at a time only. Counts are never restricted so.
    pub timed: bool,
}

/// What was sent, as rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any bare SGI.
    AnySgi,
    /// The bare SGI of an INTID.
    Sgi(u8),
    /// An IPI kind.
    Of(IpiKind),
}

impl Kind {
    /// Whether something sent is of this kind. `kind` is `None` for a bare SGI.
    pub fn holds(self, kind: Option<IpiKind>, intid: u8) -> bool {
        match self {
            Kind::AnySgi => kind.is_none(),
            Kind::Sgi(number) => kind.is_none() && intid == number,
            Kind::Of(wanted) => kind == Some(wanted),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::AnySgi => f.write_str("sgi"),
            Kind::Sgi(number) => write!(f, "sgi{number}"),
            Kind::Of(kind) => f.write_str(kind.name()),
        }
    }
}

/// What a figure is taken over. Kinds, states and phases are never mixed in a latency, whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Each sender with each receiver.
    Pair,
    /// Each receiver, of all senders.
    Receiver,
    /// Each sender, to all receivers.
    Sender,
    /// Everything together.
    All,
}

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// A figure of latencies, ns at most.
    Latency(Figure, f64),
    /// How much longer the median is in a sleeping state than for the same cores spinning, ns at most.
    WakeUp(f64),
    /// So many of an outcome at most.
    Count(Count, Most),
    /// So many cores must be up.
    CoresUp(u32),
    /// No two counters may be further apart, ns.
    Skew(f64),
}

impl Bound {
    /// Its name in files and reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Bound::Latency(figure, _) => figure.name(),
            Bound::WakeUp(_) => "wake_up",
            Bound::Count(count, _) => count.name(),
            Bound::CoresUp(_) => "cores_up",
            Bound::Skew(_) => "skew",
        }
    }
}

/// A figure of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// The median.
    P50,
    /// The 90th percentile.
    P90,
    /// The 99th percentile.
    P99,
    /// The 99.9th percentile.
    P999,
    /// The greatest.
    Max,
    /// The mean.
    Mean,
}

impl Figure {
    /// Its name in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Figure::P50 => "p50",
            Figure::P90 => "p90",
            Figure::P99 => "p99",
            Figure::P999 => "p999",
            Figure::Max => "max",
            Figure::Mean => "mean",
        }
    }

    /// The share below a percentile.
    pub const fn share(self) -> Option<f64> {
        match self {
            Figure::P50 => Some(0.5),
            Figure::P90 => Some(0.9),
            Figure::P99 => Some(0.99),
            Figure::P999 => Some(0.999),
            Figure::Max | Figure::Mean => None,
        }
    }
}

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Messages that nobody acknowledged.
    Lost,
    /// Messages without a known end.
    Unknown,
    /// Messages that another core took.
    Misrouted,
    /// Messages that went with another's acknowledge.
    Coalesced,
    /// Receptions that came twice.
    Duplicate,
    /// Receptions without a message.
    Spurious,
}

impl Count {
    /// Its name in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Count::Lost => "lost",
            Count::Unknown => "unknown",
            Count::Misrouted => "misrouted",
            Count::Coalesced => "coalesced",
            Count::Duplicate => "duplicate",
            Count::Spurious => "spurious",
        }
    }

    /// Whether it counts receptions that no message explains, which name no sender.
    pub const fn is_of_receptions(self) -> bool {
        matches!(self, Count::Duplicate | Count::Spurious)
    }
}

/// A number of something, or a share of the messages sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Most {
    /// So many.
    Number(u64),
    /// Such a share, above 0 and up to 1.
    Share(f64),
}

impl Limits {
    /// Reads a limits file.
    pub fn read(path: &Path) -> Result<Limits, LimitsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LimitsError::Read { file: path.into(), reason: source.to_string() })?;
        Limits::parse(path, text)
    }

    /// Reads the text of one.
    pub fn parse(path: &Path, text: String) -> Result<Limits, LimitsError> {
        file::parse(path, text)
    }

    /// Refuses a run that these limits are not for, before it begins.
    pub fn are_for(&self, known: &Known<'_>) -> Result<(), LimitsError> {
        let differences = self.target.differs_from(known);
        if differences.is_empty() { Ok(()) } else { Err(self.of_another(differences)) }
    }

    /// The error for a target that they are not for.
    pub fn of_another(&self, differences: Vec<String>) -> LimitsError {
        LimitsError::Another { file: self.file.clone(), differences: differences.join("; ") }
    }
}

/// Why limits can't be used: all of it was asked wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// The file can't be read.
    #[error("limits {} can't be read: {reason}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is not one of limits.
    #[error("limits {} are none\n{error}", file.display())]
    Toml {
        /// The file.
        file: PathBuf,
        /// Where and why.
        error: String,
    },
    /// There is no rule in it.
    #[error("limits {} hold no rule: every run would pass", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A rule can't be held.
    #[error("limits {}, line {line}, rule `{rule}`: {what}", file.display())]
    Rule {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// The rule's name.
        rule: String,
        /// What is wrong, with the values.
        what: String,
    },
    /// The header contradicts itself.
    #[error("limits {}, `[target]`: {what}", file.display())]
    Target {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the values.
        what: String,
    },
    /// They are for another target.
    #[error("limits {} are not for this target: {differences}", file.display())]
    Another {
        /// The file.
        file: PathBuf,
        /// All that differs.
        differences: String,
    },
}

impl Explain for LimitsError {
    fn kind(&self) -> &'static str {
        "limits"
    }

    fn next_step(&self) -> String {
        match self {
            LimitsError::Read { file, .. } => format!("check that {} exists and is text", file.display()),
            LimitsError::Toml { .. } | LimitsError::Rule { .. } | LimitsError::Target { .. } => {
                "mend that line; `docs/limits.md` lists what a rule may say".into()
            }
            LimitsError::Empty { .. } => {
                "write a [[limit]], or have one made from a good run: `ipiscope compare --make-limits GOLDEN --out FILE`"
                    .into()
            }
            LimitsError::Another { .. } => {
                "name the limits of this target, or change [target] in the file; `ipiscope report CAPTURE --limits FILE` holds \
                 a finished run against others"
                    .into()
            }
        }
    }

    fn exit_code(&self) -> u8 {
        exit::MISUSED
    }
}
