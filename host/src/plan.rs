//! Plans: what the cores shall do, as a job file (TOML) or a built-in one, compiled into the words that the firmware runs.
//!
//! The compiler knows what every core will do, so it also knows how many records each lane can get: rings are sized so that
//! none is lost, and where memory is too short for that, the run says so before it starts.

mod compile;
mod job;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trace_ring::plan::{Policy, TraceLevel};

use crate::fault;

pub use compile::compile;

/// Which records a capture keeps. Counters are always whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Keep {
    /// Every record.
    #[default]
    All,
    /// Those of the so many greatest latencies.
    Worst(usize),
    /// None: the target doesn't even write them.
    None,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::All => f.write_str("all"),
            Keep::Worst(count) => write!(f, "worst:{count}"),
            Keep::None => f.write_str("none"),
        }
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> String {
        keep.to_string()
    }
}

impl TryFrom<String> for Keep {
    type Error = KeepError;

    fn try_from(text: String) -> Result<Self, KeepError> {
        text.parse()
    }
}

/// A text that is no [`Keep`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not say which records to keep; write all, worst:N (N above 0) or none")]
pub struct KeepError(String);

impl FromStr for Keep {
    type Err = KeepError;

    fn from_str(text: &str) -> Result<Self, KeepError> {
        match text {
            "all" => Ok(Keep::All),
            "none" => Ok(Keep::None),
            _ => match text.strip_prefix("worst:").and_then(|count| count.parse().ok()) {
                Some(count) if count > 0 => Ok(Keep::Worst(count)),
                _ => Err(KeepError(text.into())),
            },
        }
    }
}

/// Core ids, ascending, each once. Written `0-3,7`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreList(pub Vec<u16>);

/// A text that is no [`CoreList`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no list of cores: `{part}` is neither a core nor a range; write 0-3,7")]
pub struct CoreListError {
    text: String,
    part: String,
}

impl FromStr for CoreList {
    type Err = CoreListError;

    fn from_str(text: &str) -> Result<Self, CoreListError> {
        let mut cores = Vec::new();
        for part in text.split(',') {
            let range = match part.trim().split_once('-') {
                Some((first, last)) => first.trim().parse().ok().zip(last.trim().parse().ok()),
                None => part.trim().parse().ok().map(|core: u16| (core, core)),
            };
            match range {
                Some((first, last)) if first <= last => cores.extend(first..=last),
                _ => return Err(CoreListError { text: text.into(), part: part.into() }),
            }
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(CoreList(cores))
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(first) = rest.first() {
            let run = rest.iter().zip(*first..=u16::MAX).take_while(|(core, expected)| *core == expected).count();
            let last = rest.get(run - 1).unwrap_or(first);
            match run {
                1 => write!(f, "{comma}{first}")?,
                2 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
            rest = rest.get(run..).unwrap_or_default();
        }
        Ok(())
    }
}

/// All that the command line says about a run's plan.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// Name of a built-in plan or path of a job file; `None`: `standard`.
    pub plan: Option<String>,
    /// Cores of the machine, 1..=512.
    pub cores: u16,
    /// Senders, in place of those that the plan names.
    pub from: Option<CoreList>,
    /// Receivers, in place of those that the plan names.
    pub to: Option<CoreList>,
    /// Repeat the whole plan until so much time has passed.
    pub duration: Option<Duration>,
    /// Which records to keep.
    pub keep: Keep,
    /// Instruction-counted time: no host timing gets in.
    pub deterministic: bool,
    /// Faults to put in.
    pub faults: Vec<fault::Fault>,
    /// What to record; `None`: what the plan says, else `calls` if it uses the call layer, and `ipi` if not.
    pub level: Option<TraceLevel>,
    /// Have each send of the call layer record its sender's frames.
    pub backtrace: bool,
    /// What a full lane does.
    pub policy: Policy,
    /// The latency that fires policy `trigger`.
    pub trigger: Option<Duration>,
    /// Every lane's capacity in records, rounded up to a power of two.
    pub ring_records: Option<u32>,
    /// The most bytes that all lanes may take together.
    pub ring_memory_cap: u64,
    /// Map the region non-cacheable, for a memory access port that doesn't snoop.
    pub non_cacheable: bool,
    /// Where everything random of the run begins: dither, twins, calls; `None`: at the same place each time.
    pub seed: Option<u64>,
    /// Nonce of the run.
    pub nonce: u64,
    /// Measure clock skew before and after the plan.
    pub clock_test: bool,
}

impl Default for PlanRequest {
    fn default() -> Self {
        PlanRequest {
            plan: None,
            cores: 4,
            from: None,
            to: None,
            duration: None,
            keep: Keep::All,
            deterministic: false,
            faults: Vec::new(),
            level: None,
            backtrace: false,
            policy: Policy::Overwrite,
            trigger: None,
            ring_records: None,
            ring_memory_cap: DEFAULT_RING_MEMORY,
            non_cacheable: false,
            seed: None,
            nonce: 0,
            clock_test: true,
        }
    }
}

/// The most bytes of all lanes together where the command line doesn't say: 256 MiB, 8 million records.
pub const DEFAULT_RING_MEMORY: u64 = 256 << 20;

/// A plan in the words of the firmware, and what the host has to know about it.
#[derive(Clone, Debug)]
pub struct CompiledPlan {
    /// The plan as [`trace_ring::plan::Plan::parse`] takes it.
    pub blob: Vec<u8>,
    /// What goes into the capture.
    pub meta: PlanMeta,
    /// Bytes of RAM that the region takes.
    pub region_bytes: u64,
    /// What the user should know before the run, one sentence each.
    pub notes: Vec<String>,
    /// When the host gives the target up: generous.
    pub host_deadline: Duration,
}

/// A plan as the capture tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanMeta {
    /// Its name.
    pub name: String,
    /// The job file's text.
    pub source: String,
    /// Cores that it was compiled for.
    pub cores: u16,
    /// Its phases, in the order of the region's phase results.
    pub phases: Vec<PhaseMeta>,
    /// Messages of one round, one for each target of a broadcast.
    pub expected_sends: u64,
    /// Records of one round, at most.
    pub expected_records: u64,
    /// Faults that were put in, as `--inject` spells them.
    pub faults: Vec<String>,
    /// Records that the capture keeps.
    pub keep: Keep,
    /// Whether time counts instructions.
    pub deterministic: bool,
    /// [`TraceLevel::name`].
    pub level: String,
    /// [`Policy::name`].
    pub policy: String,
    /// T, ns.
    pub timeout_ns: u64,
    /// When a sender looks at the target's redistributor, ns.
    pub probe_ns: u64,
    /// The plan is repeated until this much time has passed, ns; 0: it runs once.
    pub duration_ns: u64,
    /// Bytes of all lanes together.
    pub ring_bytes: u64,
    /// Pair slots that have no histogram: beyond the budget.
    pub slots_without_histogram: u64,
    /// When a host gives the target up, ms from its start; 0: nobody said.
    #[serde(default)]
    pub host_deadline_ms: u64,
    /// How long a waiting core goes without a heartbeat, ns; 0: it has none.
    #[serde(default)]
    pub heartbeat_ns: u64,
    /// How late a heartbeat is a gap, ns; 0: nobody looks.
    #[serde(default)]
    pub gap_ns: u64,
    /// The seed that was asked for.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Which capture it sends again ([`crate::replay::identity`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<String>,
}

impl PlanMeta {
    /// That of a run that no plan of ours made: nothing of it is known but its name and its cores.
    pub fn unplanned(name: impl Into<String>, cores: u16) -> PlanMeta {
        PlanMeta {
            name: name.into(),
            source: String::new(),
            cores,
            phases: Vec::new(),
            expected_sends: 0,
            expected_records: 0,
            faults: Vec::new(),
            keep: Keep::All,
            deterministic: false,
            level: String::new(),
            policy: String::new(),
            timeout_ns: 0,
            probe_ns: 0,
            duration_ns: 0,
            ring_bytes: 0,
            slots_without_histogram: 0,
            host_deadline_ms: 0,
            heartbeat_ns: 0,
            gap_ns: 0,
            seed: None,
            replays: None,
        }
    }

    /// How long the plan is repeated, if it is.
    pub fn duration(&self) -> Option<Duration> {
        (self.duration_ns > 0).then(|| Duration::from_nanos(self.duration_ns))
    }
}

/// A phase as the capture tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseMeta {
    /// Its name.
    pub name: String,
    /// The pattern's name.
    pub pattern: String,
    /// One message is outstanding in the whole machine: latencies are judged.
    pub timed: bool,
    /// State of the receivers, [`trace_ring::record::ReceiverState::name`].
    pub state: String,
    /// INTID of its SGIs (of a script: the one it names for the phase).
    pub intid: u8,
    /// Pairs that it measures.
    pub pairs: u32,
    /// Messages of one round.
    pub sends: u64,
    /// The most turns of an empty loop before each message.
    #[serde(default)]
    pub dither: u32,
    /// Cores that are neither sender nor receiver worked over their memory.
    #[serde(default)]
    pub pressure: bool,
    /// Of a sweep: the receivers' transition, [`trace_ring::plan::transition::name`].
    #[serde(default)]
    pub transition: Option<String>,
}

/// A plan that comes with the tool.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// The job file's text.
    pub toml: &'static str,
}

/// The plan that runs where none is named.
pub const STANDARD: &str = "standard";

/// The plans that come with the tool, the default first.
pub fn builtins() -> &'static [Builtin] {
    macro_rules! builtin {
        ($name:literal, $summary:literal) => {
            Builtin { name: $name, summary: $summary, toml: include_str!(concat!("plan/builtin/", $name, ".toml")) }
        };
    }
    const {
        &[
            builtin!("standard", "the default: a second's mix of matrix, broadcast, storm and self"),
            builtin!("ping", "core 0 to core 1, one outstanding, 65,536 times, receiver in WFI"),
            builtin!("matrix", "every ordered pair, one outstanding, receiver in WFI and spinning"),
            builtin!("broadcast", "each core in turn to all others with one write, and all answers awaited"),
            builtin!("storm", "all to core 0 without waiting: more sends than acknowledges"),
            builtin!("self", "each core to itself"),
            builtin!(
                "qualify",
                "every pair in every receiver state at random phase, 1,000 times, and under memory pressure"
            ),
            builtin!(
                "sweep",
                "neighbours, each send at its own distance from entry into WFI, unmasking, end of interrupt"
            ),
            builtin!("calls", "function calls at random: to one, some or all, waited for or not, 12,000 of them"),
            builtin!("kinds", "every IPI kind by itself between neighbours, crash stop and backtrace as NMIs, too"),
            builtin!("chain", "calls whose callback calls the next core, from each core in turn"),
            builtin!("fan-in", "all call core 0 at once: a queue as deep as there are callers"),
            builtin!(
                "selftest",
                "the plan that proves the detectors (`ipiscope selftest`): every pair in every state, watched"
            ),
            builtin!(
                "selftest-calls",
                "the plan that proves the call layer's detectors (`ipiscope selftest`): random calls"
            ),
        ]
    }
}

/// Why a plan can't be compiled. The command line was wrong, or the file: exit code 3.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Neither built in nor a file.
    #[error(
        "there is no plan `{name}`: it is not built in (`ipiscope plans` lists those), and as a file it can't be read: {reason}"
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The file is not a job file.
    #[error("plan `{plan}` is no job file\n{error}")]
    Toml {
        /// Name or path.
        plan: String,
        /// Where and why.
        error: toml::de::Error,
    },
    /// A machine that the firmware can't drive.
    #[error("--cores {0}: a run has 1 to 512 cores")]
    Cores(u16),
    /// A core that the run doesn't have.
    #[error("{place}: there is no core {core}: the run has {cores} (0 to {last}); name another core or raise --cores", last = cores - 1)]
    NoSuchCore {
        /// Where it is named.
        place: String,
        /// The core.
        core: u16,
        /// Cores of the run.
        cores: u16,
    },
    /// A field of a phase that can't be.
    #[error("plan `{plan}`, phase `{phase}`: {what}; {next_step}")]
    Phase {
        /// The plan.
        plan: String,
        /// The phase.
        phase: String,
        /// What is wrong, with the value.
        what: String,
        /// What to do.
        next_step: String,
    },
    /// Nothing is left to do.
    #[error(
        "plan `{plan}` has nothing to do on {cores} core(s) with these --from and --to: {reason}; widen --from and --to, raise --cores, or use --plan self"
    )]
    Nothing {
        /// The plan.
        plan: String,
        /// Cores of the run.
        cores: u16,
        /// Why the last phase was left out.
        reason: String,
    },
    /// An option that can't be.
    #[error("{option}: {what}")]
    Option {
        /// The option, with its value.
        option: String,
        /// What is wrong, and the next step.
        what: String,
    },
    /// The compiler wrote what the firmware would refuse.
    #[error(
        "plan `{plan}` was compiled into something that the firmware would refuse ({error}); please report it with the plan"
    )]
    Internal {
        /// The plan.
        plan: String,
        /// What the firmware would say.
        error: trace_ring::plan::PlanError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_read_and_printed() {
        for (text, cores, printed) in [
            ("0-3,7", vec![0, 1, 2, 3, 7], "0-3,7"),
            ("7, 0 - 1", vec![0, 1, 7], "0,1,7"),
            ("5", vec![5], "5"),
            ("1,1,1-2", vec![1, 2], "1,2"),
        ] {
            let list: CoreList = text.parse().unwrap();
            assert_eq!(list.0, cores, "{text}");
            assert_eq!(list.to_string(), printed, "{text}");
        }
        for text in ["", "a", "3-1", "1,", "0-70000", "-1"] {
            let message = text.parse::<CoreList>().unwrap_err().to_string();
            assert!(message.contains("write 0-3,7"), "{text}: {message}");
        }
    }

    #[test]
    fn keep_is_read_and_printed() {
        for text in ["all", "worst:100", "none"] {
            assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
        }
        for text in ["", "worst", "worst:0", "worst:x", "some"] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_summaries_of_the_list_are_those_of_the_files() {
        for builtin in builtins() {
            let file: toml::Table = builtin.toml.parse().unwrap();
            assert_eq!(file["name"].as_str(), Some(builtin.name));
            assert_eq!(file["summary"].as_str(), Some(builtin.summary));
        }
    }
}
