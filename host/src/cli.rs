//! The command line: definitions only, parsed into types that can't be wrong.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use trace_ring::plan::{Policy, TraceLevel};

use crate::fault::Fault;
use crate::machine::{Accelerator, MachineRequest};
use crate::plan::{CoreList, DEFAULT_RING_MEMORY, Keep, PlanRequest};
use crate::run::Request;

/// What every help text ends with.
const EXIT_CODES: &str = "Exit codes: 0 clean, 1 the target failed, 2 it could not be measured, 3 asked wrongly.";

/// Drives, traces and times inter-processor interrupts on bare 64-bit Arm cores.
#[derive(Debug, Parser)]
#[command(name = "ipiscope", version, arg_required_else_help = true, subcommand_required = true)]
#[command(after_help = format!("Example:\n  ipiscope qemu --cores 8\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the tool does.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Boot the firmware on QEMU, run a plan, drain the trace while it runs, report.
    #[command(after_help = format!(
        "Examples:\n  ipiscope qemu\n  ipiscope qemu --cores 16 --plan matrix --json report.json\n  \
         ipiscope qemu --plan matrix --deterministic --inject drop:0:1:0.01\n  \
         ipiscope qemu --machine imx8mp-evk -- -d guest_errors\n\n{EXIT_CODES}"
    ))]
    Qemu(Box<QemuArguments>),
    /// Report on a capture.
    #[command(after_help = format!(
        "Examples:\n  ipiscope report runs/first.mcap\n  ipiscope report runs/first.mcap --json -\n\n{EXIT_CODES}"
    ))]
    Report(ReportArguments),
    /// List the built-in plans, or print one as a job file to start from.
    #[command(after_help = "Example:\n  ipiscope plans matrix > mine.toml && ipiscope qemu --plan mine.toml")]
    Plans {
        /// The plan to print.
        name: Option<String>,
    },
    /// List the machines and what was tried on them.
    #[command(after_help = "Example:\n  ipiscope boards")]
    Boards,
    /// Say what this machine lacks for a run, and the command that mends it.
    #[command(after_help = "Example:\n  ipiscope doctor")]
    Doctor,
    /// Build the firmware without running it.
    #[command(hide = true, after_help = "Example:\n  ipiscope firmware build")]
    Firmware {
        /// What to do with it.
        #[command(subcommand)]
        verb: FirmwareVerb,
    },
}

/// What can be done with the firmware alone.
#[derive(Debug, Subcommand)]
pub enum FirmwareVerb {
    /// Build it, or find that it is up to date, and print the paths of image and ELF.
    #[command(after_help = "Example:\n  ipiscope firmware build")]
    Build,
    /// Run clippy over it for its own target, warnings denied.
    #[command(after_help = "Example:\n  ipiscope firmware lint")]
    Lint,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a report is shown.
#[derive(Clone, Debug, Args)]
pub struct Showing {
    /// Write the report as JSON to a file; `-`: to standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Use colours in the text.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// `report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// The capture.
    pub capture: PathBuf,
    /// How the report is shown.
    #[command(flatten)]
    pub showing: Showing,
}

/// `qemu`.
#[derive(Debug, Args)]
pub struct QemuArguments {
    /// Cores that run the plan [default: 4, or all that the machine has].
    #[arg(long, value_name = "N")]
    pub cores: Option<u64>,
    /// Reserved.
    #[arg(long, hide = true, num_args = 0..=1, value_name = "N", default_missing_value = "")]
    pub cpus: Option<String>,
    /// A built-in plan (see `ipiscope plans`) or a job file [default: standard].
    #[arg(long, value_name = "NAME|FILE")]
    pub plan: Option<String>,
    /// Only these senders, like 0-3,7.
    #[arg(long, value_name = "LIST")]
    pub from: Option<CoreList>,
    /// Only these receivers, like 0-3,7.
    #[arg(long, value_name = "LIST")]
    pub to: Option<CoreList>,
    /// Repeat the plan for so long, like 500ms, 10s, 2h.
    #[arg(long, value_name = "T", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Records that the capture keeps: all, worst:N or none. Counters are always whole.
    #[arg(long, value_name = "WHICH", default_value = "all")]
    pub keep: Keep,
    /// The machine (see `ipiscope boards`) [default: virt].
    #[arg(long, value_name = "NAME")]
    pub machine: Option<String>,
    /// QEMU's CPU type, where the machine leaves the choice.
    #[arg(long, value_name = "TYPE")]
    pub cpu: Option<String>,
    /// Who executes the target's instructions.
    #[arg(long, value_name = "WHO", default_value = "tcg")]
    pub accel: Accelerator,
    /// Count instructions instead of time: the same run gives the same trace, bit by bit.
    #[arg(long)]
    pub deterministic: bool,
    /// Put a fault in: drop:FROM:TO:RATE, late:CORE:TICKS, mask:CORE:TICKS, dead:CORE, crash:CORE or overflow:CORE. Can be given again.
    #[arg(long, value_name = "FAULT")]
    pub inject: Vec<Fault>,
    /// Say something about the unit or its surroundings: KEY=VALUE. Can be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// Use this firmware image (or ELF) instead of building one.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Name the capture [default: a dated name in ./runs].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What is recorded.
    #[arg(long, value_name = "LEVEL", default_value = "ipi", value_parser = level())]
    pub level: TraceLevel,
    /// What a full ring does.
    #[arg(long, value_name = "POLICY", default_value = "overwrite", value_parser = policy())]
    pub policy: Policy,
    /// The latency that stops the recording half a ring later (with --policy trigger), like 50us.
    #[arg(long, value_name = "T", value_parser = duration)]
    pub trigger: Option<Duration>,
    /// Records in each ring, rounded up to a power of two [default: as many as the plan can make].
    #[arg(long, value_name = "N")]
    pub ring_records: Option<u32>,
    /// The most memory of all rings together, like 64M or 1G [default: 256M].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub ring_memory: Option<u64>,
    /// Say on standard error how long each step took.
    #[arg(long)]
    pub timings: bool,
    /// How the report is shown.
    #[command(flatten)]
    pub showing: Showing,
    /// Further arguments of QEMU.
    #[arg(last = true, value_name = "QEMU-ARGS")]
    pub qemu: Vec<OsString>,
}

impl QemuArguments {
    /// What a run is made of.
    pub fn request(&self) -> Request {
        Request {
            machine: MachineRequest {
                machine: self.machine.clone(),
                cores: self.cores,
                cpu: self.cpu.clone(),
                accelerator: self.accel,
                deterministic: self.deterministic,
                extra: self.qemu.clone(),
            },
            plan: PlanRequest {
                plan: self.plan.clone(),
                from: self.from.clone(),
                to: self.to.clone(),
                duration: self.duration,
                keep: self.keep,
                faults: self.inject.clone(),
                level: self.level,
                policy: self.policy,
                trigger: self.trigger,
                ring_records: self.ring_records,
                ring_memory_cap: self.ring_memory.unwrap_or(DEFAULT_RING_MEMORY),
                ..PlanRequest::default()
            },
            firmware: self.firmware.clone(),
            out: self.out.clone(),
            tags: self.tag.iter().cloned().collect(),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 50us, 500ms, 10s or 2h")),
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err("write it like unit=A17".into()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("write it like 65536, 512K, 64M or 1G".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "write it like 65536, 512K, 64M or 1G".to_string())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(|| "must lie between 1 byte and 16 EiB".into())
}

/// A parser of the names that a type of the shared crate gives its values.
fn named<T: Copy + Send + Sync + 'static>(
    values: &'static [(&'static str, T)],
) -> impl clap::builder::TypedValueParser<Value = T> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    let fallback = values[0].1;
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name))
        .map(move |text| values.iter().find(|(name, _)| *name == text).map_or(fallback, |(_, value)| *value))
}

fn level() -> impl clap::builder::TypedValueParser<Value = TraceLevel> {
    const VALUES: [(&str, TraceLevel); 3] = [
        (TraceLevel::Ipi.name(), TraceLevel::Ipi),
        (TraceLevel::Off.name(), TraceLevel::Off),
        (TraceLevel::Stages.name(), TraceLevel::Stages),
    ];
    named(&VALUES)
}

fn policy() -> impl clap::builder::TypedValueParser<Value = Policy> {
    const VALUES: [(&str, Policy); 3] = [
        (Policy::Overwrite.name(), Policy::Overwrite),
        (Policy::Stop.name(), Policy::Stop),
        (Policy::Trigger.name(), Policy::Trigger),
    ];
    named(&VALUES)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example_that_parses() {
        fn visit(command: &clap::Command, path: &str, examples: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{path}` shows no example");
            let lines =
                help.lines().filter_map(|line| line.strip_prefix("  ipiscope ")).map(|line| format!("ipiscope {line}"));
            let before = examples.len();
            examples.extend(lines);
            assert!(examples.len() > before, "`{path}` shows no example");
            for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
                visit(verb, &format!("{path} {}", verb.get_name()), examples);
            }
        }
        let mut examples = Vec::new();
        visit(&Cli::command(), "ipiscope", &mut examples);
        for example in examples {
            // What a shell would take out first.
            for command in example.split("&&") {
                let command = command.split('>').next().unwrap_or_default();
                Cli::try_parse_from(command.split_whitespace()).unwrap_or_else(|error| panic!("{command}: {error}"));
            }
        }
    }

    #[test]
    fn a_full_command_line_becomes_a_request() {
        let line = "ipiscope qemu --cores 8 --plan ping --from 0-1 --to 3 --duration 2s --keep worst:10 --machine virt-el2 \
                    --deterministic --inject drop:0:1:0.01 --inject dead:2 --tag unit=A17 --tag lot=3=x --level stages --policy \
                    trigger --trigger 50us --ring-records 64 --ring-memory 64M --out a.mcap -- -d int";
        let Verb::Qemu(arguments) = Cli::try_parse_from(line.split_whitespace()).expect("parses").verb else {
            panic!("another verb")
        };
        let request = arguments.request();
        assert_eq!(request.machine.cores, Some(8));
        assert_eq!(request.machine.extra, ["-d", "int"]);
        assert_eq!(request.plan.from, Some(CoreList(vec![0, 1])));
        assert_eq!(request.plan.keep, Keep::Worst(10));
        assert_eq!(request.plan.faults.len(), 2);
        assert_eq!((request.plan.level, request.plan.policy), (TraceLevel::Stages, Policy::Trigger));
        assert_eq!(request.plan.trigger, Some(Duration::from_micros(50)));
        assert_eq!(request.plan.ring_memory_cap, 64 << 20);
        assert_eq!(request.tags.get("lot").map(String::as_str), Some("3=x"));
    }

    #[test]
    fn what_is_misspelt_is_refused_with_a_hint() {
        for (line, names) in [
            ("--duration 5", "500ms"),
            ("--duration 0s", "longer"),
            ("--tag nothing", "unit=A17"),
            ("--ring-memory 5X", "64M"),
            ("--ring-memory 99999999999G", "EiB"),
            ("--level loud", "stages"),
            ("--policy none", "trigger"),
            ("--keep some", "worst:N"),
            ("--from 3-1", "0-3,7"),
            ("--accel xen", "kvm"),
        ] {
            let line = format!("ipiscope qemu {line}");
            let message = Cli::try_parse_from(line.split_whitespace()).expect_err("is refused").to_string();
            assert!(message.contains(names), "expected {names:?} in {message:?}");
        }
    }

    #[test]
    fn cpus_is_reserved_with_and_without_a_number() {
        for line in ["ipiscope qemu --cpus 4", "ipiscope qemu --cpus=4", "ipiscope qemu --cpus"] {
            let Verb::Qemu(arguments) = Cli::try_parse_from(line.split_whitespace()).expect("parses").verb else {
                panic!("another verb")
            };
            assert!(arguments.cpus.is_some(), "{line}");
        }
    }
}
