//! The command line: definitions only, parsed into types that can't be wrong.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use trace_ring::plan::{Policy, TraceLevel};

use crate::adopt::Origin;
use crate::error::Failure;
use crate::export::Format;
use crate::fault::Fault;
use crate::image::{self, Addresses, Results, Rings};
use crate::inspect;
use crate::machine::{Accelerator, MachineError, MachineRequest};
use crate::memory::Memory;
use crate::plan::{CoreList, DEFAULT_RING_MEMORY, Keep, PlanRequest};
use crate::probe;
use crate::replay;
use crate::run::{OnHang, Request};
use crate::selftest;
use crate::serial;
use crate::sparse::Want;
use crate::stop::StopOn;

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

impl Verb {
    /// The filter that shall be explained, and nothing done.
    pub fn explains(&self) -> Option<&str> {
        let (filter, explain) = match self {
            Verb::Qemu(arguments) => (&arguments.showing.filter, arguments.showing.explain),
            Verb::Probe(arguments) => (&arguments.showing.filter, arguments.showing.explain),
            Verb::Serial(arguments) => (&arguments.showing.filter, arguments.showing.explain),
            Verb::Report(arguments) => (&arguments.showing.filter, arguments.showing.explain),
            Verb::Compare(arguments) => (&arguments.filter, arguments.explain),
            Verb::Export(arguments) => (&arguments.filter, arguments.explain),
            Verb::Replay(arguments) => (&arguments.only, arguments.explain),
            _ => return None,
        };
        filter.as_deref().filter(|_| explain)
    }
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
    /// Load a board over a debug probe, run a plan, drain the trace while it runs, report; or attach to what runs.
    #[command(after_help = format!(
        "Examples:\n  ipiscope probe --list\n  ipiscope probe --board imx8mp-evk --plan matrix --tag unit=A17\n  \
         ipiscope probe --board rock-5b --probe 0d28:0204 --cores 4 --json report.json\n  \
         ipiscope probe --board imx8mp-evk --attach\n\n{EXIT_CODES}"
    ))]
    Probe(Box<ProbeArguments>),
    /// Write what boots a board without a probe: image, plan and boot script for U-Boot.
    #[command(after_help = format!(
        "Examples:\n  ipiscope image --board imx8mp-evk\n  \
         ipiscope image --board virt --plan ping --out card --results summary\n\n{EXIT_CODES}"
    ))]
    Image(Box<ImageArguments>),
    /// Take results over a serial console, live or from its log.
    #[command(after_help = format!(
        "Examples:\n  ipiscope serial /dev/ttyUSB0\n  ipiscope serial tcp:console.lab:7001 --board imx8mp-evk --tag unit=A17\n  \
         ipiscope serial --from-log boot.log --json report.json\n\n{EXIT_CODES}"
    ))]
    Serial(Box<SerialArguments>),
    /// Report on a capture, or on memory that was taken from a target.
    #[command(after_help = format!(
        "Examples:\n  ipiscope report runs/first.mcap\n  ipiscope report runs/first.mcap --json -\n  \
         ipiscope report runs/first.mcap --limits board.toml --junit board.xml\n  \
         ipiscope report --memory dump.bin@0x40000000\n  ipiscope report --memory gdb:localhost:3333\n\n{EXIT_CODES}"
    ))]
    Report(Box<ReportArguments>),
    /// Compare two captures, or one with golden ones before it: what changed, and how sure that is. Or make limits of golden ones.
    #[command(after_help = format!(
        "Examples:\n  ipiscope compare runs/golden.mcap runs/today.mcap\n  \
         ipiscope compare runs/golden-1.mcap runs/golden-2.mcap runs/today.mcap --json -\n  \
         ipiscope compare --make-limits runs/golden-1.mcap runs/golden-2.mcap --out board.toml --margin 25%\n\n\
         Exit codes: 0 no difference, 1 something changed, 2 too little to compare, 3 asked wrongly."
    ))]
    Compare(Box<CompareArguments>),
    /// Look inside a target: where each core stands, what it waits for, what waits on its call queue, what it did last.
    #[command(after_help = format!(
        "Examples:\n  ipiscope inspect runs/first.mcap\n  ipiscope inspect --live\n  ipiscope inspect --live 4711 --last 20 --json cores.json\n  \
         ipiscope inspect --memory dump.bin@0x40000000\n  ipiscope inspect --board imx8mp-evk --halt\n\n{EXIT_CODES}"
    ))]
    Inspect(Box<InspectArguments>),
    /// Write a capture's records in the format of another tool.
    #[command(after_help = format!(
        "Examples:\n  ipiscope export runs/first.mcap --to ftrace\n  ipiscope export runs/first.mcap --to ftrace --ns --out first.trace.txt\n  \
         ipiscope export runs/first.mcap --to csv --filter \"latency > p99\" --out slow.csv\n\n{EXIT_CODES}"
    ))]
    Export(Box<ExportArguments>),
    /// Read a Linux trace (ftrace text or trace.dat, packed or not) into a capture: report, compare, limits and export work on it.
    #[command(after_help = format!(
        "Examples:\n  ipiscope import trace.txt --out device.mcap\n  ipiscope import trace.txt.xz --rules marks.toml\n\n{EXIT_CODES}"
    ))]
    Import(ImportArguments),
    /// Make a plan of a capture: the same IPIs at the same times, on bare metal.
    #[command(after_help = format!(
        "Examples:\n  ipiscope replay device.mcap --out replay.toml && ipiscope qemu --cores 8 --plan replay.toml\n  \
         ipiscope replay device.mcap --only \"target == 5\" --scale 10\n  \
         ipiscope replay device.mcap --around 5 --window 2ms --longest-gap 10ms --out worst.toml\n\n{EXIT_CODES}"
    ))]
    Replay(ReplayArguments),
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
    /// Prove the detectors: runs with faults whose truth is known, and runs without any, in counted time on QEMU.
    #[command(after_help = format!(
        "Examples:\n  ipiscope selftest --quick\n  ipiscope selftest --seeds 20 --clean 100 --detection-limit --json selftest.json\n  \
         ipiscope selftest --only late --seeds 50\n\n{EXIT_CODES}"
    ))]
    Selftest(SelftestArguments),
    /// Write shell completions (bash, zsh, fish) and man pages into a folder.
    #[command(after_help = "Example:\n  ipiscope generate --out packaging")]
    Generate {
        /// The folder: it gets `completions` and `man`.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
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
    /// Hold the run against the limits in a TOML file: exit code 1 if one is broken, 2 if the run can't tell.
    #[arg(long, value_name = "FILE")]
    pub limits: Option<PathBuf>,
    /// Write verdict and limits as JUnit XML to a file.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the report as Markdown, for a ticket, to a file; `-`: to standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write the report as one HTML page that needs no network to a file; `-`: to standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Use colours in the text.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// Print the firmware's log on standard error, before the report.
    #[arg(long)]
    pub log: bool,
    /// Report on the IPIs alone that a filter picks, like "target == 4 && latency > 10us" (docs/filters.md).
    #[arg(long, value_name = "EXPR")]
    pub filter: Option<String>,
    /// Say what the filter picks and how Linux would be asked for the same, and do no more.
    #[arg(long, requires = "filter")]
    pub explain: bool,
}

/// `probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// List the debug probes that are plugged in.
    #[arg(long)]
    pub list: bool,
    /// The board (see `ipiscope boards`).
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    pub board: Option<String>,
    /// The probe, as VID:PID or VID:PID:SERIAL [default: the only one].
    #[arg(long, value_name = "SELECTOR")]
    pub probe: Option<String>,
    /// Drain and report a target that runs already: nothing is written, nobody is halted.
    #[arg(long, conflicts_with_all = ["cores", "plan", "dtb", "rings", "stop_on"])]
    pub attach: bool,
    /// Where the image of a running target lies [default: memory is searched].
    #[arg(long, value_name = "ADDRESS", value_parser = number, requires = "attach")]
    pub at: Option<u64>,
    /// The wire [default: the board file's].
    #[arg(long, value_name = "WIRE", value_parser = wire())]
    pub protocol: Option<boards::Wire>,
    /// The wire's clock, kHz [default: the board file's].
    #[arg(long, value_name = "KHZ", value_parser = clap::value_parser!(u32).range(1..))]
    pub speed: Option<u32>,
    /// A device tree in place of the one made from the board file.
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,
    /// How the rings are mapped [default: non-cacheable where the memory access port does not snoop].
    #[arg(long, value_name = "HOW")]
    pub rings: Option<Rings>,
    /// Cores that run the plan [default: all that the board file names].
    #[arg(long, value_name = "N")]
    pub cores: Option<u64>,
    /// Give the target up after so long [default: the plan's own deadline].
    #[arg(long, value_name = "T", value_parser = duration)]
    pub deadline: Option<Duration>,
    /// What the cores shall do.
    #[command(flatten)]
    pub plan: PlanArguments,
    /// End the run early, as Ctrl-C does, when the counters satisfy an expression, like "lost > 0 || latency > 200us".
    #[arg(long, value_name = "EXPR")]
    pub stop_on: Option<StopOn>,
    /// Keep records until the capture has this size, like 500M or 16G; later ones are counted only [default: 16G].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_capture: Option<u64>,
    /// Say something about the unit or its surroundings: KEY=VALUE. Can be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// Use this firmware image (or ELF) instead of building one.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Name the capture [default: a dated name in ./runs].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Watch the run on the whole terminal: matrix, rates, the worst IPIs; ? there tells the keys.
    #[arg(long)]
    pub live: bool,
    /// Say on standard error how long each step took.
    #[arg(long)]
    pub timings: bool,
    /// How the report is shown.
    #[command(flatten)]
    pub showing: Showing,
}

impl ProbeArguments {
    /// What a run is made of.
    pub fn request(&self) -> probe::Request {
        probe::Request {
            board: self.board.clone().unwrap_or_default(),
            probe: self.probe.clone(),
            wire: self.protocol,
            speed_khz: self.speed,
            attach: self.attach,
            at: self.at,
            non_cacheable: self.rings.map(|rings| rings == Rings::NonCacheable),
            tree: self.dtb.clone(),
            cores: self.cores,
            deadline: self.deadline,
            stop_on: self.stop_on.clone(),
            most_bytes: self.max_capture,
            live: self.live,
            plan: self.plan.request(),
            firmware: self.firmware.clone(),
            out: self.out.clone(),
            tags: self.tag.iter().cloned().collect(),
        }
    }
}

/// `image`.
#[derive(Debug, Args)]
pub struct ImageArguments {
    /// The board (see `ipiscope boards`).
    #[arg(long, value_name = "NAME")]
    pub board: String,
    /// Cores that run the plan [default: all that the board file names, or 4].
    #[arg(long, value_name = "N")]
    pub cores: Option<u64>,
    /// What the cores shall do.
    #[command(flatten)]
    pub plan: PlanArguments,
    /// What the firmware sends over the console by itself after the run; it answers what is asked for in every case.
    #[arg(long, value_name = "WHAT", default_value = "console")]
    pub results: Results,
    /// How the rings are mapped: non-cacheable where a debug probe shall read them while the plan runs.
    #[arg(long, value_name = "HOW", default_value = "cacheable")]
    pub rings: Rings,
    /// Say something about the unit or its surroundings: KEY=VALUE. Can be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// Use this firmware image (or ELF) instead of building one.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// The folder to write into [default: ./ipiscope-NAME].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Load addresses where the board's U-Boot does not name them: IMAGE,PLAN,TREE, like 0x40480000,0x43800000,0x43000000.
    #[arg(long, value_name = "LIST", value_parser = addresses)]
    pub addresses: Option<Addresses>,
    /// Write into a folder that holds other files, too.
    #[arg(long)]
    pub force: bool,
}

impl ImageArguments {
    /// What is to be written.
    pub fn request(&self) -> image::Request {
        image::Request {
            board: self.board.clone(),
            cores: self.cores,
            plan: self.plan.request(),
            results: self.results,
            rings: self.rings,
            tags: self.tag.iter().cloned().collect(),
            firmware: self.firmware.clone(),
            out: self.out.clone(),
            addresses: self.addresses,
            force: self.force,
        }
    }
}

/// `serial`.
#[derive(Debug, Args)]
pub struct SerialArguments {
    /// A serial device (/dev/ttyUSB0), a pseudo terminal, unix:PATH or tcp:HOST:PORT.
    #[arg(required_unless_present = "from_log", conflicts_with = "from_log")]
    pub device: Option<String>,
    /// Read a recorded console instead; `-`: from standard input.
    #[arg(long, value_name = "FILE")]
    pub from_log: Option<PathBuf>,
    /// Speed of a serial device.
    #[arg(long, value_name = "BITS/S", default_value = "115200", value_parser = clap::value_parser!(u32).range(50..))]
    pub baud: u32,
    /// Give up when nothing new came for so long.
    #[arg(long, value_name = "T", default_value = "10m", value_parser = duration)]
    pub deadline: Duration,
    /// Leave the trace records on the target: counters and histograms alone.
    #[arg(long)]
    pub summary: bool,
    /// Pass on what else the console says.
    #[arg(long, short, visible_alias = "console")]
    pub verbose: bool,
    /// Keep the bytes as they came.
    #[arg(long, value_name = "FILE")]
    pub log_to: Option<PathBuf>,
    /// The board file's name, for the report.
    #[arg(long, value_name = "NAME")]
    pub board: Option<String>,
    /// Say something about the unit or its surroundings: KEY=VALUE. Can be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// The firmware that runs there (image or ELF), for symbols and log strings.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Name the capture [default: a dated name in ./runs].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How the report is shown.
    #[command(flatten)]
    pub showing: Showing,
}

impl SerialArguments {
    /// What is to be taken.
    pub fn request(&self) -> Result<serial::Request, Failure> {
        if let Some(name) = self.board.as_deref().filter(|name| boards::find(name).is_none()) {
            let known = boards::names().collect::<Vec<_>>().join(", ");
            return Err(MachineError::Unknown { name: name.into(), known }.into());
        }
        let input = match (&self.from_log, &self.device) {
            (Some(file), _) => serial::Input::Log(file.clone()),
            (None, device) => serial::Input::Device {
                name: device.clone().unwrap_or_default(),
                baud: self.baud,
                deadline: self.deadline,
            },
        };
        Ok(serial::Request {
            input,
            want: if self.summary { Want::Summary } else { Want::All },
            verbose: self.verbose,
            log_to: self.log_to.clone(),
            origin: Origin {
                board: self.board.clone(),
                out: self.out.clone(),
                firmware: self.firmware.clone(),
                tags: self.tag.iter().cloned().collect(),
                ..Origin::default()
            },
        })
    }
}

/// `report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// The capture.
    #[arg(required_unless_present = "memory", conflicts_with = "memory")]
    pub capture: Option<PathBuf>,
    /// Report on memory that was taken otherwise: FILE@ADDRESS (a raw dump and the address of its first byte) or
    /// gdb:HOST:PORT@ADDRESS (a GDB server; the address may be left out). A capture is made of it.
    #[arg(long, value_name = "FILE@ADDRESS")]
    pub memory: Option<Memory>,
    /// Name the capture that is made of memory [default: a dated name in ./runs].
    #[arg(long, value_name = "FILE", requires = "memory")]
    pub out: Option<PathBuf>,
    /// The board's name, for the report on memory.
    #[arg(long, value_name = "NAME", requires = "memory")]
    pub board: Option<String>,
    /// The firmware that ran there (image or ELF), for symbols and log strings.
    #[arg(long, value_name = "FILE", requires = "memory")]
    pub firmware: Option<PathBuf>,
    /// Say something about the unit or its surroundings: KEY=VALUE. Can be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag, requires = "memory")]
    pub tag: Vec<(String, String)>,
    /// How the report is shown.
    #[command(flatten)]
    pub showing: Showing,
}

/// `compare`.
#[derive(Debug, Args)]
pub struct CompareArguments {
    /// The captures: golden ones, and last the one that is compared with them. With --make-limits: golden ones alone.
    #[arg(required = true, value_name = "CAPTURE")]
    pub captures: Vec<PathBuf>,
    /// Make a limits file of what the captures show.
    #[arg(long)]
    pub make_limits: bool,
    /// Write the limits to a file [default: standard output].
    #[arg(long, value_name = "FILE", requires = "make_limits")]
    pub out: Option<PathBuf>,
    /// How far above the worst that was measured the limits lie.
    #[arg(long, value_name = "SHARE", default_value = "25%", value_parser = margin, requires = "make_limits")]
    pub margin: f64,
    /// Compare what the data allows, though targets or plans differ or clocks were not tested; take golden captures as they are.
    #[arg(long)]
    pub force: bool,
    /// Compare the IPIs alone that a filter picks, like "kind == reschedule" (docs/filters.md).
    #[arg(long, value_name = "EXPR", conflicts_with = "make_limits")]
    pub filter: Option<String>,
    /// Say what the filter picks and how Linux would be asked for the same, and do no more.
    #[arg(long, requires = "filter")]
    pub explain: bool,
    /// Write the comparison as JSON to a file; `-`: to standard output, in place of the text.
    #[arg(long, value_name = "FILE", conflicts_with = "make_limits")]
    pub json: Option<PathBuf>,
    /// Use colours in the text.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// A share above what was measured.
fn margin(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no share; write 25% or 0.25");
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => text.parse().map_err(|_| wrong())?,
    };
    if (0.0..=100.0).contains(&share) { Ok(share) } else { Err(wrong()) }
}

/// `export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// The capture.
    pub capture: PathBuf,
    /// The format.
    #[arg(long, value_name = "FORMAT")]
    pub to: Format,
    /// Write to a file [default: standard output].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Of ftrace's text: times with nine digits behind the second, not six.
    #[arg(long)]
    pub ns: bool,
    /// Export what a filter picks, like "target == 4 && latency > 10us" or "around(lost, 20)" (docs/filters.md).
    #[arg(long, value_name = "EXPR")]
    pub filter: Option<String>,
    /// Say what the filter picks and how Linux would be asked for the same, and do no more.
    #[arg(long, requires = "filter")]
    pub explain: bool,
}

/// `replay`.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// The capture: of a Linux trace (`import`), or of a run.
    pub capture: PathBuf,
    /// Write the plan to a file [default: standard output].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replay the IPIs alone that a filter picks, like "kind == call_function && target == 4" (docs/filters.md).
    #[arg(long, value_name = "EXPR", visible_alias = "filter")]
    pub only: Option<String>,
    /// Say what the filter picks and how Linux would be asked for the same, and do no more.
    #[arg(long, requires = "only")]
    pub explain: bool,
    /// Replay so many of the latest IPIs and what was sent around them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub around: Option<u32>,
    /// With --around: so long before and after each.
    #[arg(long, value_name = "T", default_value = "1ms", value_parser = duration)]
    pub window: Duration,
    /// Stretch the times between sends by a factor; below 1: faster. Callbacks keep their lengths.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = factor)]
    pub scale: f64,
    /// Move every send by up to so much to either side, at random; the order on each core is kept.
    #[arg(long, value_name = "T", value_parser = duration)]
    pub jitter: Option<Duration>,
    /// Where the random moves begin.
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Cut a time in which nobody sends to at most so much [default with --around: 10ms].
    #[arg(long, value_name = "T", value_parser = duration)]
    pub longest_gap: Option<Duration>,
}

impl ReplayArguments {
    /// What is asked for.
    pub fn request(&self) -> replay::Request {
        let usual = self.around.map(|_| Duration::from_millis(10));
        replay::Request {
            capture: self.capture.clone(),
            only: self.only.clone(),
            around: self.around,
            window: self.window,
            scale: self.scale,
            jitter: self.jitter.unwrap_or_default(),
            seed: self.seed,
            longest_gap: self.longest_gap.or(usual),
        }
    }
}

/// A factor of times.
fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.001..=1000.0).contains(&factor) { Ok(factor) } else { Err(format!("{text} is not between 0.001 and 1000")) }
}

/// `import`.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The trace: trace.dat, or what `cat /sys/kernel/tracing/trace` or `trace-cmd report` prints; plain or packed (gzip, xz,
    /// zstd).
    #[arg(value_name = "FILE")]
    pub trace: PathBuf,
    /// Write the capture to a file [default: a dated name in ./runs/].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Rules for private marks of trace_printk, tried before the kit's own; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub rules: Vec<PathBuf>,
    /// Say something about the unit: KEY=VALUE, kept in the capture; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
}

/// `inspect`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["capture", "memory", "live", "board"])))]
pub struct InspectArguments {
    /// A capture: its newest snapshot, and where the cores stood if the run was cut short.
    pub capture: Option<PathBuf>,
    /// Memory that was taken otherwise: FILE@ADDRESS (a raw dump and the address of its first byte) or gdb:HOST:PORT@ADDRESS
    /// (a GDB server; the address may be left out).
    #[arg(long, value_name = "FILE@ADDRESS")]
    pub memory: Option<Memory>,
    /// A run on QEMU that goes on: by the process id of its host or of QEMU, or by its scratch folder [default: the only one].
    #[arg(long, value_name = "PID|FOLDER", num_args = 0..=1, default_missing_value = "")]
    pub live: Option<String>,
    /// A board behind a debug probe, whose firmware runs: nothing is written, and nobody is halted without --halt.
    #[arg(long, value_name = "NAME")]
    pub board: Option<String>,
    /// The probe, as VID:PID or VID:PID:SERIAL [default: the only one].
    #[arg(long, value_name = "SELECTOR", requires = "board")]
    pub probe: Option<String>,
    /// Halt each core for a moment to read its registers; all at once for the whole look where no memory access port is.
    #[arg(long, requires = "board")]
    pub halt: bool,
    /// Where the image of the target lies [default: memory is searched].
    #[arg(long, value_name = "ADDRESS", value_parser = number, requires = "board")]
    pub at: Option<u64>,
    /// The wire [default: the board file's].
    #[arg(long, value_name = "WIRE", value_parser = wire(), requires = "board")]
    pub protocol: Option<boards::Wire>,
    /// The wire's clock, kHz [default: the board file's].
    #[arg(long, value_name = "KHZ", value_parser = clap::value_parser!(u32).range(1..), requires = "board")]
    pub speed: Option<u32>,
    /// The firmware that runs there (image or ELF), for symbols, where the source does not hold it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["capture", "live"])]
    pub firmware: Option<PathBuf>,
    /// Events that are shown of each core.
    #[arg(long, value_name = "N", default_value_t = inspect::LAST as u16)]
    pub last: u16,
    /// Write the inspection as JSON to a file; `-`: to standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl InspectArguments {
    /// What is asked of a probe.
    pub fn request(&self) -> probe::Look {
        probe::Look {
            board: self.board.clone().unwrap_or_default(),
            probe: self.probe.clone(),
            wire: self.protocol,
            speed_khz: self.speed,
            at: self.at,
            halt: self.halt,
            firmware: self.firmware.clone(),
            last: self.last.into(),
        }
    }
}

/// `selftest`.
#[derive(Debug, Args)]
pub struct SelftestArguments {
    /// Runs of each fault and number of cores.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: u64,
    /// Runs without a fault.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub clean: u64,
    /// Cores of the runs, each number in turn.
    #[arg(long, value_name = "LIST", default_value = "4,8", value_delimiter = ',')]
    pub cores: Vec<u16>,
    /// One seed of each fault on four cores, five runs without.
    #[arg(long, conflicts_with_all = ["seeds", "clean", "cores", "detection_limit"])]
    pub quick: bool,
    /// Also look for the smallest delays that are found in 95 of 100 runs.
    #[arg(long)]
    pub detection_limit: bool,
    /// Only faults whose name holds this text.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Runs at a time [default: as many as there are processors].
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Use this firmware image (or ELF) instead of building one.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Write the outcome as JSON to a file; `-`: to standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl SelftestArguments {
    /// What is to be run.
    pub fn settings(&self) -> selftest::Settings {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let (seeds, clean, cores) =
            if self.quick { (1, 5, vec![4]) } else { (self.seeds, self.clean, self.cores.clone()) };
        selftest::Settings {
            seeds,
            clean,
            cores,
            detection_limit: self.detection_limit,
            only: self.only.clone(),
            jobs: self.jobs.unwrap_or(processors),
            firmware: self.firmware.clone(),
        }
    }
}

/// What a plan is made of, on every verb that compiles one.
#[derive(Clone, Debug, Args)]
pub struct PlanArguments {
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
    /// Put a fault in, like drop:0:1:0.01 or late:2:5000. Can be given again. Kinds: drop, late, slow-sender, slow-pair, slow-wake,
    /// misroute, duplicate, spurious, stall, steal, skew, jump, step-back, mask, dead, crash, overflow, stray; in plans that call
    /// functions slow-callback, stuck, csd-lock. A kind alone shows how it is written.
    #[arg(long, value_name = "FAULT")]
    pub inject: Vec<Fault>,
    /// Begin everything random (dither, faults, calls) elsewhere: the same seed gives the same draws.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What is recorded [default: what the plan says, else `calls` for plans that use the call layer, `ipi` for others].
    #[arg(long, value_name = "LEVEL", value_parser = level())]
    pub level: Option<TraceLevel>,
    /// Record the frames of every call's sender (plans that use the call layer).
    #[arg(long)]
    pub backtrace: bool,
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
}

impl PlanArguments {
    /// The plan that is asked for; cores, nonce and mode are the verb's.
    pub fn request(&self) -> PlanRequest {
        PlanRequest {
            plan: self.plan.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            duration: self.duration,
            keep: self.keep,
            faults: self.inject.clone(),
            seed: self.seed,
            level: self.level,
            backtrace: self.backtrace,
            policy: self.policy,
            trigger: self.trigger,
            ring_records: self.ring_records,
            ring_memory_cap: self.ring_memory.unwrap_or(DEFAULT_RING_MEMORY),
            ..PlanRequest::default()
        }
    }
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
    /// What the cores shall do.
    #[command(flatten)]
    pub plan: PlanArguments,
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
    /// End the run early, as Ctrl-C does, when the counters satisfy an expression, like "lost > 0 || latency > 200us".
    #[arg(long, value_name = "EXPR")]
    pub stop_on: Option<StopOn>,
    /// Keep records until the capture has this size, like 500M or 16G; later ones are counted only [default: 16G].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_capture: Option<u64>,
    /// Say something about the unit or its surroundings: KEY=VALUE. Can be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// Use this firmware image (or ELF) instead of building one.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Name the capture [default: a dated name in ./runs].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Watch the run on the whole terminal: matrix, rates, the worst IPIs; ? there tells the keys.
    #[arg(long)]
    pub live: bool,
    /// Say on standard error how long each step took.
    #[arg(long)]
    pub timings: bool,
    /// When a run ends because somebody hangs: report alone, or also print where all cores stand, on standard error.
    #[arg(long, value_name = "WHAT", default_value = "report")]
    pub on_hang: OnHang,
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
            plan: self.plan.request(),
            firmware: self.firmware.clone(),
            out: self.out.clone(),
            tags: self.tag.iter().cloned().collect(),
            stop_on: self.stop_on.clone(),
            most_bytes: self.max_capture,
            on_hang: self.on_hang,
            live: self.live,
            quiet: false,
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

fn addresses(text: &str) -> Result<Addresses, String> {
    let number = |part: &str| {
        let digits = part.trim().strip_prefix("0x").unwrap_or(part.trim());
        u64::from_str_radix(&digits.replace('_', ""), 16).map_err(|_| format!("`{part}` is no hexadecimal address"))
    };
    let parts: Vec<u64> = text.split(',').map(number).collect::<Result<_, _>>()?;
    let [image, plan, tree] = parts[..] else {
        return Err("write three, of image, plan and tree, like 0x40480000,0x43800000,0x43000000".into());
    };
    Ok(Addresses { image, plan, tree })
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    }
    .map_err(|_| "write it like 0x40200000".to_string())
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

fn wire() -> impl clap::builder::TypedValueParser<Value = boards::Wire> {
    const VALUES: [(&str, boards::Wire); 2] = [("swd", boards::Wire::Swd), ("jtag", boards::Wire::Jtag)];
    named(&VALUES)
}

fn level() -> impl clap::builder::TypedValueParser<Value = TraceLevel> {
    const VALUES: [(&str, TraceLevel); 4] = [
        (TraceLevel::Ipi.name(), TraceLevel::Ipi),
        (TraceLevel::Off.name(), TraceLevel::Off),
        (TraceLevel::Stages.name(), TraceLevel::Stages),
        (TraceLevel::Calls.name(), TraceLevel::Calls),
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
                let command = command.split(" > ").next().unwrap_or_default();
                // Every second piece stood in quotes.
                let pieces = command.split('"').enumerate();
                let words = pieces.flat_map(|(at, piece)| match at % 2 {
                    0 => piece.split_whitespace().collect(),
                    _ => vec![piece],
                });
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
            }
        }
    }

    #[test]
    fn a_full_command_line_becomes_a_request() {
        let line = "ipiscope qemu --cores 8 --plan ping --from 0-1 --to 3 --duration 2s --keep worst:10 --machine virt-el2 \
                    --deterministic --inject drop:0:1:0.01 --inject dead:2 --tag unit=A17 --tag lot=3=x --level stages --policy \
                    trigger --trigger 50us --ring-records 64 --ring-memory 64M --stop-on lost>0||latency>1ms --max-capture 2G --out a.mcap -- -d int";
        let Verb::Qemu(arguments) = Cli::try_parse_from(line.split_whitespace()).expect("parses").verb else {
            panic!("another verb")
        };
        let request = arguments.request();
        assert_eq!(request.machine.cores, Some(8));
        assert_eq!(request.machine.extra, ["-d", "int"]);
        assert_eq!(request.plan.from, Some(CoreList(vec![0, 1])));
        assert_eq!(request.plan.keep, Keep::Worst(10));
        assert_eq!(request.plan.faults.len(), 2);
        assert_eq!((request.plan.level, request.plan.policy), (Some(TraceLevel::Stages), Policy::Trigger));
        assert_eq!(request.plan.trigger, Some(Duration::from_micros(50)));
        assert_eq!(request.plan.ring_memory_cap, 64 << 20);
        assert_eq!(request.most_bytes, Some(2 << 30));
        assert_eq!(request.stop_on.map(|stop_on| stop_on.to_string()).as_deref(), Some("lost>0||latency>1ms"));
        assert_eq!(request.tags.get("lot").map(String::as_str), Some("3=x"));
    }

    #[test]
    fn the_level_is_the_plan_s_where_nobody_names_one() {
        let plan = |line: &str| match Cli::try_parse_from(line.split_whitespace()).expect("parses").verb {
            Verb::Qemu(arguments) => arguments.request().plan,
            _ => panic!("another verb"),
        };
        let usual = plan("ipiscope qemu");
        assert_eq!((usual.level, usual.backtrace), (None, false));
        let line = "ipiscope qemu --plan calls --level calls --backtrace --inject stuck:2 --inject csd-lock:1:4";
        let asked = plan(line);
        assert_eq!((asked.level, asked.backtrace), (Some(TraceLevel::Calls), true));
        let faults: Vec<String> = asked.faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults, ["stuck:2", "csd-lock:1:4"]);
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
            ("--stop-on late>0", "empty"),
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
