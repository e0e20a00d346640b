//! Boards behind a debug probe: load and start, or attach to what runs already; drain live; report.
//!
//! The memory access port reads the target's memory while the cores run, and halts nobody: the cores do not notice. Where
//! a board has no such port, all cores are halted at one moment for each look, and the report says so. Nothing is written
//! before the board was checked (debug port, access ports, who the cores are); with `--attach` nothing is written at all.
//!
//! A load does what a boot loader does, for a core that stands in one: the boot core alone is halted, and sent through the
//! image's launcher, which cleans and turns off its caches; image, device tree and plan go into memory behind it; then
//! it is let go, and from there on nobody is halted any more.

mod debug;
mod link;
mod look;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use boards::{AccessPort, Board, Conduit, Debug, Status, TreeOptions, Wire};
use trace_ring::layout::{
    Directory, LOCATOR_MAGIC, LOCATOR_OFFSET, Locator, REGION_ALIGN, Request as RequestLine, run_state,
};
use trace_ring::reader::{ReadError, Region, RegionSource};
use zerocopy::FromBytes as _;

use crate::adopt::{self, Origin};
use crate::capture::{
    Attachment, CaptureWriter, DEFAULT_MOST_BYTES, ELF_ATTACHMENT, ErrorInfo, PLAN_ATTACHMENT, RunInfo, VerdictScope,
};
use crate::drain::{self, Live, Pace, Settings};
use crate::error::{Failure, FileError, exit};
use crate::firmware::{self, Image, LINKED_AT};
use crate::interrupt;
use crate::live::About;
use crate::plan::{self, CompiledPlan, PlanMeta, PlanRequest};
use crate::progress::Progress;
use crate::run::{self, Finished, Reserved, unwritable};
use crate::stop::StopOn;
use crate::symbols::Symbols;

use debug::{CoreError, Cores, Level, Seen, Standing};
use link::{Link, LinkError};

pub use link::list;
pub use look::{Look, look};

/// Bytes that are read to find out how fast the link is.
const SAMPLE: usize = 32 << 10;

/// How long a region behind a port that does not snoop may stand still, its rings being cacheable, before it counts as unseen.
const STALE: Duration = Duration::from_secs(10);

/// How long the launcher may take: a clean of 64 MiB by virtual address.
const LAUNCH: Duration = Duration::from_secs(10);

/// How long the boot core may stand where no image can be started: in its firmware's exception level, for a call.
const BUSY: Duration = Duration::from_secs(2);

/// How long an attached target may take to lay its region out.
const ARRIVAL: Duration = Duration::from_secs(20);

/// Between two looks where each look halts all cores.
const LOOK: Duration = Duration::from_secs(2);

/// What the user asks of a probe.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `--board`.
    pub board: String,
    /// `--probe`: VID:PID or VID:PID:SERIAL; `None`: the only one.
    pub probe: Option<String>,
    /// `--protocol`; `None`: the board file's.
    pub wire: Option<Wire>,
    /// `--speed`, kHz; `None`: the board file's.
    pub speed_khz: Option<u32>,
    /// `--attach`: what runs already.
    pub attach: bool,
    /// `--at`: physical address of the image of a target that runs.
    pub at: Option<u64>,
    /// `--rings`: whether the region is mapped non-cacheable; `None`: where the port needs it.
    pub non_cacheable: Option<bool>,
    /// `--dtb`: a device tree in place of the board file's.
    pub tree: Option<PathBuf>,
    /// `--cores`.
    pub cores: Option<u64>,
    /// `--deadline`; `None`: the plan's own.
    pub deadline: Option<Duration>,
    /// `--stop-on`; not with `attach`.
    pub stop_on: Option<StopOn>,
    /// `--max-capture`; `None`: [`DEFAULT_MOST_BYTES`].
    pub most_bytes: Option<u64>,
    /// `--live`.
    pub live: bool,
    /// The plan; cores, nonce and mode are set here.
    pub plan: PlanRequest,
    /// `--firmware`.
    pub firmware: Option<PathBuf>,
    /// `--out`.
    pub out: Option<PathBuf>,
    /// `--tag`.
    pub tags: BTreeMap<String, String>,
}

/// Loads and runs a plan, or attaches; gives the closed capture. `say` gets what the user should know.
pub fn run(request: &Request, say: &mut dyn FnMut(&str)) -> Result<Finished, Failure> {
    let (board, debug) = board(&request.board)?;
    let started = Instant::now();
    // What can be asked wrongly is found out before anything is touched.
    let job = if request.attach { None } else { Some(Job::new(request, &board, &debug, say)?) };
    let mut link = Link::open(request.probe.as_deref(), &debug, request.wire, request.speed_khz)?;
    say(&format!("probe: {}, debug port {:#010x}", link.name(), link.dpidr()));
    let checked = check(&mut link, &board, &debug, job.as_ref().map(|job| job.cores), say)?;
    let mut steps = vec![("check", started.elapsed())];
    let mut finished = match job {
        Some(job) => load(request, &board, &debug, link, checked, &job, say),
        None => attach(request, &board, &debug, link, checked, say),
    }?;
    steps.append(&mut finished.steps);
    finished.steps = steps;
    Ok(finished)
}

/// The board file, and how a probe reaches it.
fn board(name: &str) -> Result<(Board, Debug), Failure> {
    let misused = |message: String, next_step: String| Failure {
        kind: "board".into(),
        message,
        next_step,
        exit_code: exit::MISUSED,
    };
    let board = match boards::find(name) {
        Some(Ok(board)) => board,
        Some(Err(error)) => return Err(misused(error.to_string(), "mend the board file".into())),
        None => {
            let reachable: Vec<&str> = boards::names()
                .filter(|name| matches!(boards::find(name), Some(Ok(board)) if board.debug.is_some()))
                .collect();
            let next = format!("a probe reaches {}; docs/adding-a-board.md says how to add one", reachable.join(", "));
            return Err(misused(format!("there is no board `{name}`"), next));
        }
    };
    match board.debug.clone() {
        Some(debug) => Ok((board, debug)),
        None => {
            let why = board.no_debug.clone().unwrap_or_else(|| "its file has no [debug] section".into());
            let next = match board.qemu {
                Some(_) => format!("run it with `ipiscope qemu --machine {name}`"),
                None => format!("use `ipiscope image --board {name}` and take the results with `ipiscope serial`"),
            };
            Err(misused(format!("a probe can't reach board `{name}`: {why}"), next))
        }
    }
}

/// What a load writes, ready before the probe is opened.
struct Job {
    cores: u16,
    nonce: u64,
    compiled: CompiledPlan,
    firmware: firmware::Firmware,
    tree: Vec<u8>,
    places: Places,
    non_cacheable: bool,
}

/// Where a load puts what, physical addresses.
#[derive(Clone, Copy, Debug)]
struct Places {
    image: u64,
    tree: u64,
    plan: u64,
    launcher: u64,
    end: u64,
}

impl Job {
    fn new(request: &Request, board: &Board, debug: &Debug, say: &mut dyn FnMut(&str)) -> Result<Job, Failure> {
        let misused = |message: String, next_step: &str| Failure {
            kind: "arguments".into(),
            message,
            next_step: next_step.into(),
            exit_code: exit::MISUSED,
        };
        let cores = match request.cores {
            None => board.cores.max,
            Some(cores) => {
                u16::try_from(cores).ok().filter(|cores| (1..=board.cores.max).contains(cores)).ok_or_else(|| {
                    misused(
                        format!("--cores {cores}: board `{}` has {}", board.name, board.cores.max),
                        "name fewer cores, or none for all",
                    )
                })?
            }
        };
        let nonce = RandomState::new().hash_one(std::process::id());
        let port_sees_memory_only = debug.memory.is_some_and(|port| !port.coherent);
        let non_cacheable = request.non_cacheable.unwrap_or(port_sees_memory_only);
        let wanted = PlanRequest { cores, nonce, non_cacheable, deterministic: false, ..request.plan.clone() };
        let compiled = plan::compile(&wanted)?;
        let firmware = firmware::find(request.firmware.as_deref(), say)?;
        let size = board.memory.size.unwrap_or(0);
        let tree = match &request.tree {
            Some(path) => std::fs::read(path).map_err(FileError::of("read", path))?,
            None => board
                .device_tree(TreeOptions { cores, memory_bytes: size })
                .map_err(|error| misused(format!("board `{}`: {error}", board.name), "name a tree with --dtb"))?,
        };
        let image = debug.load;
        let page = |address: u64| address.next_multiple_of(4096);
        let tree_at = image + firmware.image.memory_bytes().next_multiple_of(REGION_ALIGN);
        let plan_at = page(tree_at + tree.len() as u64);
        let launcher = page(plan_at + compiled.blob.len() as u64);
        let places = Places { image, tree: tree_at, plan: plan_at, launcher, end: launcher + 4096 };
        if places.end > image + Board::LOAD_ROOM {
            return Err(misused(
                format!(
                    "image, tree and plan `{}` take {} MiB, there is room for {}",
                    compiled.meta.name,
                    (places.end - image) >> 20,
                    Board::LOAD_ROOM >> 20
                ),
                "run a shorter plan",
            ));
        }
        let needed = Board::LOAD_ROOM + compiled.region_bytes + (32 << 20);
        if size < needed {
            return Err(misused(
                format!("the run needs {} MiB, board `{}` has {} MiB", needed >> 20, board.name, size >> 20),
                "lower --ring-memory",
            ));
        }
        for note in &compiled.notes {
            say(&format!("note: {note}"));
        }
        Ok(Job { cores, nonce, compiled, firmware, tree, places, non_cacheable })
    }
}

/// How the target's memory is reached.
#[derive(Clone, Copy, Debug)]
enum Via {
    /// A memory access port, while the cores run. `wide`: it reads 64 bits whole.
    Port { port: AccessPort, wide: bool },
    /// The boot core, halted with all others for each look.
    Halted,
}

/// What the check of a board found.
struct Checked {
    cores: Cores,
    seen: Vec<Seen>,
    via: Via,
    /// For the capture.
    notes: Vec<String>,
}

/// Looks whether this is the board that its file describes. Writes nothing.
fn check(
    link: &mut Link,
    board: &Board,
    debug: &Debug,
    wanted: Option<u16>,
    say: &mut dyn FnMut(&str),
) -> Result<Checked, Failure> {
    let wrong = |message: String| Failure {
        kind: "board".into(),
        message,
        next_step: format!(
            "see that this is a {} and powered, and compare boards/{}.toml with its documents (docs/adding-a-board.md)",
            board.name, board.name
        ),
        exit_code: exit::UNMEASURED,
    };
    if board.status == Status::Untested {
        say(&format!("note: board `{}` is {}: treat the first run as bring-up", board.name, board.status.name()));
    }
    if let Some(expected) = debug.dpidr.filter(|expected| *expected != link.dpidr()) {
        return Err(wrong(format!(
            "the debug port says {:#010x}, board `{}` has {expected:#010x}: this is another chip, or another of its ports",
            link.dpidr(),
            board.name
        )));
    }
    let mut notes = Vec::new();
    let mut note = |text: String, say: &mut dyn FnMut(&str)| {
        say(&text);
        notes.push(text);
    };
    let components = link::spell(debug.components);
    match link.port_identity(debug.components) {
        Ok(identity) if identity != 0 => {}
        Err(lost @ LinkError::Lost(_)) => return Err(lost.into()),
        Ok(_) => {
            return Err(wrong(format!(
                "there is no access port {components}, where the cores' debug registers should be"
            )));
        }
        Err(error) => return Err(wrong(format!("the cores' debug registers can't be reached: {error}"))),
    }
    let via = match debug.memory {
        None => Via::Halted,
        Some(port) => match link.port_identity(port).and_then(|identity| Ok((identity, link.is_wide(port)?))) {
            Ok((identity, wide)) if identity != 0 => {
                if !wide {
                    note(
                        format!(
                            "access port {} reads 32 bits at a time: counters are read until they agree",
                            link::spell(port)
                        ),
                        say,
                    );
                }
                Via::Port { port, wide }
            }
            Ok(_) => {
                note(format!("there is no memory access port {}", link::spell(port)), say);
                Via::Halted
            }
            Err(LinkError::Access { what, .. }) => {
                note(format!("there is no memory access port {}: {what}", link::spell(port)), say);
                Via::Halted
            }
            Err(error) => return Err(error.into()),
        },
    };
    // Cores that the run does not use are none of its business.
    let wanted = usize::from(wanted.unwrap_or(board.cores.max));
    let cores = Cores::new(debug.components, debug.cores.get(..wanted).unwrap_or(&debug.cores));
    let mut seen = Vec::new();
    for core in 0..cores.count() {
        let found = cores.look(link, core)?;
        match (&found.trouble, found.midr, found.affinity) {
            (Some(trouble), ..) => {
                note(format!("core {core}: {trouble}; the probe leaves it alone, PSCI may start it"), say)
            }
            (None, Some(midr), Some(affinity)) => {
                let expected = board.cores.affinity.get(core).copied();
                // Debug logic without EDDEVAFF reads as zero.
                if affinity & 0xFF_00FF_FFFF != 0 && expected.is_some_and(|expected| expected != affinity) {
                    return Err(wrong(format!(
                        "core {core} says that its affinity is {affinity:#x}, the board file says {:#x}",
                        expected.unwrap_or(0)
                    )));
                }
                say(&format!("core {core}: MIDR {midr:#010x}, affinity {affinity:#x}"));
            }
            _ => {}
        }
        seen.push(found);
    }
    if matches!(via, Via::Halted) {
        note("no memory access port: all cores are halted for each look at the trace".into(), say);
    }
    Ok(Checked { cores, seen, via, notes })
}

/// Writes image, tree and plan, starts the boot core, drains.
fn load(
    request: &Request,
    board: &Board,
    debug: &Debug,
    mut link: Link,
    checked: Checked,
    job: &Job,
    say: &mut dyn FnMut(&str),
) -> Result<Finished, Failure> {
    let Checked { mut cores, seen, via, notes } = checked;
    if let Some(trouble) = seen.first().and_then(|core| core.trouble.clone()) {
        return Err(Failure {
            kind: "board".into(),
            message: format!("boot core 0 can't be halted: {trouble}"),
            next_step: format!(
                "let the boot loader come up first ({}), or check the debug addresses in boards/{}.toml",
                board.psci.provider.as_deref().unwrap_or("it brings DRAM and PSCI"),
                board.name
            ),
            exit_code: exit::UNMEASURED,
        });
    }
    let mut steps = Vec::new();
    let mut since = Instant::now();
    let mut step = |name| {
        steps.push((name, since.elapsed()));
        since = Instant::now();
    };
    let rate = match via {
        Via::Port { port, .. } => Some(measure(&mut link, port, job.places.image)?),
        Via::Halted => None,
    };
    forecast(rate, &job.compiled, say);

    let info = RunInfo {
        created: jiff::Timestamp::now().to_string(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        source: "probe".into(),
        machine: board.name.clone(),
        board: board.name.clone(),
        cpu: String::new(),
        accel: String::new(),
        verdict_scope: if board.emulator { VerdictScope::Emulated } else { VerdictScope::Silicon },
        deterministic: false,
        qemu_version: String::new(),
        qemu_arguments: Vec::new(),
        tags: request.tags.clone(),
        plan: job.compiled.meta.clone(),
        firmware_build_id: adopt::hex(&job.firmware.image.build_id()),
        nonce: job.nonce,
        cores: job.cores,
        notes: notes.into_iter().chain(job.compiled.notes.iter().cloned()).collect(),
    };
    let reserved = Reserved::take(request.out.as_deref(), &job.compiled.meta.name)?;
    let mut capture = CaptureWriter::create(&reserved.path, &info, &attachments(job, board)).map_err(unwritable)?;
    let most_bytes = request.most_bytes.unwrap_or(DEFAULT_MOST_BYTES);
    capture.keep_at_most(most_bytes);
    if let Some(growth) = run::growth(&job.compiled.meta, most_bytes) {
        say(&format!("note: {growth}"));
    }

    let mut progress = Progress::new(0, None);
    let started = start(&mut link, &mut cores, via, board, job, &mut progress, say);
    progress.clear();
    if let Err(error) = started {
        // Cores are never left halted by a load that failed, where they can still be reached.
        let _ = cores.restart(&mut link, &[0]);
        let _ = cores.release(&mut link);
        return Err(error);
    }
    reserved.keep();
    if matches!(via, Via::Port { .. })
        && let Err(error) = cores.release(&mut link)
    {
        // The plan runs all the same, and is drained as far as the link carries.
        say(&format!("note: core 0's debug logic is not as it was found: {error}"));
    }
    step("load");

    let deadline = request.deadline.unwrap_or(job.compiled.host_deadline);
    let coherent = debug.memory.is_some_and(|port| port.coherent);
    let settings = Settings {
        nonce: Some(job.nonce),
        reads_request: true,
        compare_counter: matches!(via, Via::Port { .. }),
        deadline,
        boot_deadline: Duration::from_secs(30).min(deadline),
        stall: (matches!(via, Via::Port { .. }) && !coherent && !job.non_cacheable).then_some(STALE),
        phases: &job.compiled.meta.phases,
        stop_on: request.stop_on.as_ref(),
    };
    let target = Target::new(Rc::new(RefCell::new(link)), cores, via, rate, job.places.image, false);
    let symbols = job.firmware.elf.as_ref().map(|elf| Symbols::from_elf(&elf.bytes)).unwrap_or_default();
    let progress = shown(request, board, &job.compiled.meta, symbols);
    finish(target, capture, &reserved, &settings, progress, steps, since)
}

/// Drains a target that runs already. Writes and halts nothing.
fn attach(
    request: &Request,
    board: &Board,
    debug: &Debug,
    mut link: Link,
    checked: Checked,
    say: &mut dyn FnMut(&str),
) -> Result<Finished, Failure> {
    let Via::Port { port, .. } = checked.via else {
        return Err(Failure {
            kind: "access_port".into(),
            message: "--attach halts nobody, and without a memory access port nothing can be read from running cores"
                .into(),
            next_step:
                "load and run with `ipiscope probe` without --attach, or take the results with `ipiscope serial`".into(),
            exit_code: exit::UNMEASURED,
        });
    };
    let since = Instant::now();
    let rate = measure(&mut link, port, debug.load).unwrap_or(50_000.0);
    let link = Rc::new(RefCell::new(link));
    let image = locate(&link, checked.via, board, debug, request.at, say)?;
    let mut target = Target::new(link, checked.cores, checked.via, Some(rate), image, true);
    let unfinished = |why: String| Failure {
        kind: "region".into(),
        message: format!("the image at {image:#x} has laid out no trace region that can be read: {why}"),
        next_step: "look at its console; --at names another image".into(),
        exit_code: exit::UNMEASURED,
    };
    let deadline = Instant::now() + ARRIVAL;
    let (mut source, region) = loop {
        if let Some(mut source) = target.find_region(false).map_err(|error| unfinished(error.to_string()))? {
            match Region::open(&mut source) {
                Ok(region) => break (source, region),
                // The directory's magic word is its last.
                Err(ReadError::Magic(_)) => {}
                Err(error) => return Err(unfinished(error.to_string())),
            }
        }
        if interrupt::requests() > 0 {
            return Err(stopped("the firmware was waited for"));
        }
        if Instant::now() > deadline {
            return Err(unfinished(format!("it did not come up within {} s", ARRIVAL.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let cacheable = region.directory.non_cacheable == 0;
    let mut notes = checked.notes;
    if cacheable && debug.memory.is_some_and(|port| !port.coherent) && !board.emulator {
        notes.push(
            "the rings are cacheable and the access port does not snoop: what is read may be older than what was written \
             (boot with `ipiscope.rings=non-cacheable`)"
                .into(),
        );
    }
    let origin = Origin {
        source: "probe",
        board: Some(board.name.clone()),
        out: request.out.clone(),
        firmware: request.firmware.clone(),
        tags: request.tags.clone(),
        notes,
        ..Origin::default()
    };
    let info = adopt::describe(&region, &mut source, &origin, say);
    drop(source);
    let (mut capture, reserved) = adopt::open_capture(&info, &origin, say)?;
    capture.keep_at_most(request.most_bytes.unwrap_or(DEFAULT_MOST_BYTES));
    reserved.keep();
    say(&format!("attached to plan `{}`, nonce {:#x}; link: {}", info.plan.name, info.nonce, speed(rate)));
    let usual = Duration::from_millis(info.plan.host_deadline_ms).max(Duration::from_secs(60));
    let settings = Settings {
        nonce: Some(info.nonce),
        reads_request: false,
        compare_counter: true,
        deadline: request.deadline.unwrap_or(usual),
        boot_deadline: Duration::from_secs(20),
        stall: (cacheable && debug.memory.is_some_and(|port| !port.coherent)).then_some(STALE),
        phases: &info.plan.phases,
        // Nothing is written to a target that one attaches to.
        stop_on: None,
    };
    let progress = shown(request, board, &info.plan, Symbols::default());
    finish(target, capture, &reserved, &settings, progress, Vec::new(), since)
}

/// What the user sees meanwhile.
fn shown(request: &Request, board: &Board, plan: &PlanMeta, symbols: Symbols) -> Progress {
    if request.live {
        Progress::live(About::new(format!("probe {}", board.name), plan, symbols))
    } else {
        Progress::new(plan.expected_sends, plan.duration())
    }
}

/// Drains, closes the capture, leaves the board as it is.
fn finish(
    mut target: Target,
    mut capture: CaptureWriter,
    reserved: &Reserved,
    settings: &Settings<'_>,
    mut progress: Progress,
    mut steps: Vec<(&'static str, Duration)>,
    mut since: Instant,
) -> Result<Finished, Failure> {
    let drained = drain::drain(&mut target, &mut capture, &mut progress, settings).map_err(unwritable);
    drop(target);
    let outcome = drained?;
    steps.push(("run", since.elapsed()));
    since = Instant::now();
    capture.finish(&outcome.ending).map_err(unwritable)?;
    steps.push(("close", since.elapsed()));
    if !outcome.measured {
        let (kind, message, next_step) = match outcome.ending.error {
            Some(error) => (error.kind, error.message, error.next_step),
            None => ("target".into(), "the target could not be measured".into(), "run again".into()),
        };
        return Err(Failure { kind, message, next_step, exit_code: exit::UNMEASURED });
    }
    Ok(Finished { capture: reserved.path.clone(), outcome, steps })
}

fn attachments(job: &Job, board: &Board) -> Vec<Attachment> {
    let make = |name: &str, media_type: &str, data: &[u8]| Attachment {
        name: name.into(),
        media_type: media_type.into(),
        data: data.into(),
    };
    let mut all = vec![
        make(PLAN_ATTACHMENT, "application/octet-stream", &job.compiled.blob),
        make("firmware.img", "application/octet-stream", job.firmware.image.bytes()),
        make("machine.dtb", "application/octet-stream", &job.tree),
    ];
    if let Some(elf) = &job.firmware.elf {
        all.push(make(ELF_ATTACHMENT, "application/x-elf", &elf.bytes));
    }
    if let Some(source) = boards::source(&board.name) {
        all.push(make("board.toml", "application/toml", source.as_bytes()));
    }
    all
}

/// Bytes a second that the link reads: from memory that is about to be overwritten anyway.
fn measure(link: &mut Link, port: AccessPort, address: u64) -> Result<f64, LinkError> {
    let mut sample = vec![0; SAMPLE];
    let started = Instant::now();
    link.read(port, address, &mut sample)?;
    Ok(SAMPLE as f64 / started.elapsed().as_secs_f64().max(1e-6))
}

/// "437 kB/s (13,656 records a second)".
fn speed(rate: f64) -> String {
    format!("{:.0} kB/s, {:.0} records a second", rate / 1000.0, rate / trace_ring::record::RECORD_BYTES as f64)
}

/// Says before the run what the link can keep up with.
fn forecast(rate: Option<f64>, compiled: &CompiledPlan, say: &mut dyn FnMut(&str)) {
    let Some(rate) = rate else { return };
    let meta = &compiled.meta;
    let bytes = meta.expected_records.saturating_mul(trace_ring::record::RECORD_BYTES);
    let left = Duration::from_secs((bytes as f64 / rate).ceil() as u64);
    let fits = if meta.duration_ns > 0 || meta.ring_bytes < bytes {
        "what comes faster is lapped and counted; counters stay whole"
    } else {
        "the rings hold all of it, what is not fetched while it runs is fetched afterwards"
    };
    say(&format!(
        "link: {}; the plan makes up to {} records{}, {} to fetch them: {fits}",
        speed(rate),
        meta.expected_records,
        if meta.duration_ns > 0 { " a round" } else { "" },
        humantime::format_duration(left),
    ));
}

/// The user did not want to wait for this.
fn stopped(doing: &str) -> Failure {
    Failure {
        kind: "interrupted".into(),
        message: format!("stopped while {doing}"),
        next_step: "run again".into(),
        exit_code: exit::UNMEASURED,
    }
}

/// Puts everything into memory and lets the boot core go.
fn start(
    link: &mut Link,
    cores: &mut Cores,
    via: Via,
    board: &Board,
    job: &Job,
    progress: &mut Progress,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let Places { image, tree, plan, launcher, .. } = job.places;
    let total = (job.firmware.image.bytes().len() + job.tree.len() + job.compiled.blob.len()) as u64;
    let code = job.firmware.image.launcher().ok_or_else(|| Failure {
        kind: "firmware".into(),
        message: "the firmware image holds no launcher".into(),
        next_step: "build firmware and host from the same sources".into(),
        exit_code: exit::UNMEASURED,
    })?;
    let level = halt_boot_core(link, cores, board)?;
    let stood = cores.standing(link, 0, level).map_err(told)?;
    say(&format!("core 0 stood at {:#x} in EL{level}; the image goes to {image:#x}", stood.pc));
    let flag = launcher + 2048;
    if let Err(error) = send(link, cores, &stood, job, code, flag) {
        // What the boot loader had in its registers, it gets back.
        let _ = cores.put_back(link, 0, &stood);
        return Err(told(error));
    }
    cores.restart(link, &[0]).map_err(told)?;
    await_launcher(link, cores, via, flag)?;

    let patched = job.firmware.image.patched(|locator| {
        locator.device_tree_pa = tree;
        locator.plan_pa = plan;
        locator.plan_len = job.compiled.blob.len() as u64;
    });
    let mut done = 0;
    for (address, bytes) in [(image, &patched), (tree, &job.tree), (plan, &job.compiled.blob)] {
        for (piece, index) in bytes.chunks(link::MOST).zip(0u64..) {
            if interrupt::requests() > 0 {
                return Err(stopped("image and plan were loaded"));
            }
            let address = address + index * link::MOST as u64;
            match via {
                Via::Port { port, .. } => link.write(port, address, piece)?,
                Via::Halted => cores.store(link, 0, address, &link::words_of(piece)).map_err(told)?,
            }
            done += piece.len() as u64;
            if progress.is_due(Duration::from_millis(100)) {
                progress.fetch(done, total, 1);
            }
        }
        if let Via::Port { port, .. } = via {
            verify(link, port, address, bytes)?;
        }
    }
    match via {
        Via::Port { port, .. } => link.write_word(port, flag, 2)?,
        Via::Halted => {
            cores.store(link, 0, flag, &[2]).map_err(told)?;
            cores.restart(link, &[0]).map_err(told)?;
        }
    }
    Ok(())
}

/// Halts the boot core where an image can be started: not in the middle of a call to the firmware that serves PSCI.
fn halt_boot_core(link: &mut Link, cores: &mut Cores, board: &Board) -> Result<u8, Failure> {
    let deadline = Instant::now() + BUSY;
    loop {
        cores.halt(link, &[0]).map_err(told)?;
        let Level { level, wide, secure } = cores.level(link, 0)?;
        let wrong = |what: &str, next_step: &str| Failure {
            kind: "board".into(),
            message: format!("boot core 0 stands at EL{level}{what}"),
            next_step: next_step.into(),
            exit_code: exit::UNMEASURED,
        };
        let main = "stop a 64-bit boot loader instead (the main one, not its first stage)";
        if !wide {
            return Err(wrong(" in AArch32 state", main));
        }
        if level == 0 {
            return Err(wrong(": an operating system runs", "reset the board and stop it in its boot loader"));
        }
        // Without PSCI the image is meant to start at EL3.
        if board.psci.conduit == Conduit::None || level < 3 && !secure {
            return Ok(level);
        }
        if Instant::now() > deadline {
            return Err(wrong(", in the firmware that serves PSCI", main));
        }
        cores.restart(link, &[0]).map_err(told)?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes the launcher and makes the halted boot core go on there.
fn send(link: &mut Link, cores: &Cores, stood: &Standing, job: &Job, code: &[u8], flag: u64) -> Result<(), CoreError> {
    let Places { image, tree, launcher, end, .. } = job.places;
    cores.set_physical(link, 0, stood)?;
    cores.store(link, 0, launcher, &link::words_of(code))?;
    // The launcher's word, zero.
    cores.store(link, 0, flag, &[0])?;
    for (number, value) in [(1, end), (2, image), (3, tree), (4, flag)] {
        cores.set_x(link, 0, number, value)?;
    }
    cores.set_start(link, 0, launcher)?;
    cores.set_x(link, 0, 0, image)
}

/// Reads back what was written.
fn verify(link: &mut Link, port: AccessPort, address: u64, bytes: &[u8]) -> Result<(), Failure> {
    let mut back = vec![0; bytes.len()];
    let asked = interrupt::requests();
    let read = link.read_while(port, address, &mut back, || interrupt::requests() == asked);
    if interrupt::requests() > asked {
        return Err(stopped("image and plan were loaded"));
    }
    read?;
    let Some(at) = back.iter().zip(bytes).position(|(read, written)| read != written) else { return Ok(()) };
    Err(Failure {
        kind: "memory".into(),
        message: format!(
            "memory at {:#x} reads {:#04x} where {:#04x} was written",
            address + at as u64,
            back[at],
            bytes[at]
        ),
        next_step: "see that DRAM is set up there (debug.load in the board file) and not secure, or slow the wire down (--speed)"
            .into(),
        exit_code: exit::UNMEASURED,
    })
}

/// Waits until the launcher says that the caches are off. Where memory is read through the core, it is halted then.
fn await_launcher(link: &mut Link, cores: &mut Cores, via: Via, flag: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + LAUNCH;
    loop {
        let word = match via {
            Via::Port { port, .. } => link.read_word(port, flag)?,
            Via::Halted => {
                std::thread::sleep(Duration::from_millis(200));
                cores.halt(link, &[0]).map_err(told)?;
                cores.load(link, 0, flag, 1).map_err(told)?.first().copied().unwrap_or(0) as u32
            }
        };
        if word == 1 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure {
                kind: "launch".into(),
                message: format!("boot core 0 did not run the launcher at {flag:#x} within {} s", LAUNCH.as_secs()),
                next_step: "see that the boot loader maps memory where it is, and that the board file's debug.load is \
                            memory that core 0 and the access port both see"
                    .into(),
                exit_code: exit::UNMEASURED,
            });
        }
        if matches!(via, Via::Halted) {
            cores.restart(link, &[0]).map_err(told)?;
        }
    }
}

fn told(error: CoreError) -> Failure {
    match error {
        CoreError::Link(error) => error.into(),
        error => Failure {
            kind: "core".into(),
            message: error.to_string(),
            next_step:
                "check the debug and CTI addresses in the board file, and that debug is allowed (authentication)".into(),
            exit_code: exit::UNMEASURED,
        },
    }
}

/// Searches memory for an image that runs. Its header is where an image may start: on 2 MiB boundaries.
fn locate(
    link: &Rc<RefCell<Link>>,
    via: Via,
    board: &Board,
    debug: &Debug,
    at: Option<u64>,
    say: &mut dyn FnMut(&str),
) -> Result<u64, Failure> {
    let nothing = |message: String| Failure {
        kind: "region".into(),
        message,
        next_step: "see on its console that the firmware started; --at ADDRESS says where its image lies".into(),
        exit_code: exit::UNMEASURED,
    };
    let locator = |address: u64| -> Result<Option<Locator>, LinkError> {
        let mut source = Source { link: Rc::clone(link), via, base: address, held: None };
        match source.read_u64(LOCATOR_OFFSET) {
            Ok(LOCATOR_MAGIC) => {
                let mut bytes = [0; size_of::<Locator>()];
                source.read(LOCATOR_OFFSET, &mut bytes).map_err(SourceError::link)?;
                Ok(Locator::read_from_bytes(&bytes).ok())
            }
            Ok(_) => Ok(None),
            Err(error) => match SourceError::link(error) {
                lost @ LinkError::Lost(_) => Err(lost),
                // There is no memory there, or not for us.
                _ => Ok(None),
            },
        }
    };
    if let Some(address) = at {
        return match locator(address)? {
            Some(_) => Ok(address),
            None => Err(nothing(format!("there is no ipiscope image at {address:#x}"))),
        };
    }
    let size = board.memory.size.unwrap_or(0);
    say(&format!("searching {} MiB from {:#x} for a running image", size >> 20, board.memory.base));
    let everywhere = (0..size / REGION_ALIGN).map(|block| board.memory.base + block * REGION_ALIGN);
    let secure = |address: u64| {
        board.memory.reserved.iter().any(|frame| address >= frame.base && address - frame.base < frame.size)
    };
    let mut asleep = None;
    let mut found: Vec<(u64, u64)> = Vec::new();
    for address in std::iter::once(debug.load).chain(everywhere.filter(|address| *address != debug.load)) {
        if interrupt::requests() > 0 {
            return Err(stopped("a running image was searched for"));
        }
        if secure(address) {
            continue;
        }
        match locator(address)? {
            Some(locator) if locator.directory_pa != 0 => found.push((address, locator.directory_pa)),
            Some(_) => asleep = asleep.or(Some(address)),
            None => {}
        }
        // Copies of an image lie about (where a loader read it to first): the one that runs knows its own place.
        if let Some((image, directory)) = found.last().copied() {
            let mut source = Source { link: Rc::clone(link), via, base: directory, held: None };
            match Region::open(&mut source) {
                Ok(region) if region.directory.image_pa == image => return Ok(image),
                _ => {
                    found.pop();
                }
            }
        }
    }
    asleep.ok_or_else(|| {
        nothing(format!(
            "no ipiscope image was found in the {} MiB of memory from {:#x}",
            size >> 20,
            board.memory.base
        ))
    })
}

/// A target behind a probe.
struct Target {
    link: Rc<RefCell<Link>>,
    cores: Cores,
    via: Via,
    rate: Option<f64>,
    image: u64,
    attached: bool,
    /// Halts while the plan ran, and how long the cores stood still in all of them.
    looks: u32,
    still: Duration,
    /// Cores that are halted for a look, and since when.
    held: Vec<usize>,
    held_at: Option<Instant>,
    /// Where the region lies, once that is known, and whether the plan runs: all cores are up then, or never will be.
    region: Option<u64>,
    all_up: bool,
    in_run: bool,
}

impl Target {
    fn new(link: Rc<RefCell<Link>>, cores: Cores, via: Via, rate: Option<f64>, image: u64, attached: bool) -> Target {
        Target {
            link,
            cores,
            via,
            rate,
            image,
            attached,
            looks: 0,
            still: Duration::ZERO,
            held: Vec::new(),
            held_at: None,
            region: None,
            all_up: false,
            in_run: false,
        }
    }

    fn source(&self, base: u64) -> Source {
        let held = matches!(self.via, Via::Halted).then(|| self.cores.clone());
        Source { link: Rc::clone(&self.link), via: self.via, base, held }
    }

    /// Reads the locator of the image.
    fn locator(&mut self, image: u64) -> io::Result<Option<Locator>> {
        let mut bytes = [0; size_of::<Locator>()];
        match self.via {
            Via::Port { .. } => self.source(image).read(LOCATOR_OFFSET, &mut bytes)?,
            Via::Halted => {
                // A core that runs the firmware sees the image where it was linked; before that, where it is.
                let found = [LINKED_AT, image].into_iter().any(|base| {
                    let read = self.source(base).read(LOCATOR_OFFSET, &mut bytes);
                    read.is_ok() && bytes.starts_with(&LOCATOR_MAGIC.to_le_bytes())
                });
                if !found {
                    return Ok(None);
                }
            }
        }
        Ok(Locator::read_from_bytes(&bytes).ok().filter(|locator| locator.magic == LOCATOR_MAGIC))
    }

    /// Leaves the debug logic as it was found, cores running.
    fn let_go(&mut self) {
        let _ = self.release();
        let _ = self.cores.release(&mut self.link.borrow_mut());
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Live for Target {
    type Source = Source;

    fn find_region(&mut self, _everywhere: bool) -> io::Result<Option<Source>> {
        let locator = match self.locator(self.image) {
            // A dead link is not a target that is not ready yet.
            Err(error) if self.link.borrow().dead().is_none() => {
                let _ = error;
                return Ok(None);
            }
            other => other?,
        };
        match locator {
            Some(locator) if locator.directory_pa != 0 && locator.directory_pa % REGION_ALIGN == 0 => {
                self.region = Some(locator.directory_pa);
                Ok(Some(self.source(locator.directory_pa)))
            }
            _ => Ok(None),
        }
    }

    fn ended(&mut self) -> Option<String> {
        self.link.borrow().dead().map(|why| format!("the probe was lost ({why})"))
    }

    fn request_stop(&mut self, source: &mut Source) -> io::Result<()> {
        let word = core::mem::offset_of!(Directory, request) + core::mem::offset_of!(RequestLine, stop);
        match self.via {
            Via::Port { port, .. } if !self.attached => {
                Ok(self.link.borrow_mut().write_word(port, source.base + word as u64, 1)?)
            }
            Via::Halted if !self.attached => {
                let mut link = self.link.borrow_mut();
                // The word and the reserved one behind it.
                self.cores.store(&mut link, 0, source.base + word as u64, &[1]).map_err(io::Error::other)
            }
            _ => Err(io::Error::other("an attached target is not written to")),
        }
    }

    /// It runs on: a board is nobody's child.
    fn kill(&mut self) -> bool {
        false
    }

    fn console(&self) -> String {
        String::new()
    }

    fn complaints(&self) -> String {
        String::new()
    }

    fn process(&self) -> Option<u32> {
        None
    }

    fn pace(&mut self, prefix: u64) -> Pace {
        match self.rate {
            Some(rate) => Pace::link(prefix, rate),
            // Through halted cores: seldom, and as little as can be.
            None => Pace {
                poll: LOOK,
                sweep: LOOK,
                snapshot: Duration::from_secs(3600),
                progress: LOOK,
                patient: true,
                slow: true,
            },
        }
    }

    fn hold(&mut self) -> io::Result<()> {
        if matches!(self.via, Via::Port { .. }) || !self.held.is_empty() {
            return Ok(());
        }
        // Each look costs a halt: not too many while the firmware comes up.
        if self.region.is_none() {
            std::thread::sleep(LOOK / 4);
        }
        let mut reachable = vec![0];
        if self.all_up {
            for core in 1..self.cores.count() {
                if self.cores.look(&mut self.link.borrow_mut(), core)?.is_usable() {
                    reachable.push(core);
                }
            }
        }
        // Held from here on: where that fails half-way, all are let go.
        self.held_at = Some(Instant::now());
        self.held.clone_from(&reachable);
        self.cores.halt(&mut self.link.borrow_mut(), &reachable).map_err(io::Error::other)?;
        // Until the plan runs the others are being started, which a halt would upset: the boot core alone is held.
        if let Some(region) = self.region {
            let state =
                core::mem::offset_of!(Directory, status) + core::mem::offset_of!(trace_ring::layout::Status, state);
            let mut word = [0; 4];
            self.source(region).read(state as u64, &mut word)?;
            let state = u32::from_le_bytes(word);
            self.all_up |= state >= run_state::RUNNING;
            self.in_run = state == run_state::RUNNING;
        }
        self.looks += u32::from(self.in_run);
        Ok(())
    }

    fn release(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let result = self.cores.restart(&mut self.link.borrow_mut(), &held).map_err(io::Error::other);
        let stood = self.held_at.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.still += if self.in_run { stood } else { Duration::ZERO };
        result
    }

    fn unreadable(&mut self, why: &str) -> Option<ErrorInfo> {
        let link = self.link.borrow();
        let (kind, message, next_step) = match link.dead() {
            Some(dead) if !self.held.is_empty() => (
                "probe",
                format!("the probe was lost while cores {:?} were halted, and they still are: {dead}", self.held),
                "reset the board, then plug the probe in again and run again; what was fetched is in this capture",
            ),
            Some(dead) => (
                "probe",
                format!("the probe was lost: {dead}"),
                "plug it in again: `ipiscope probe --attach --board NAME` drains a target that still runs; what was fetched is in \
                 this capture",
            ),
            None => {
                ("access_port", why.to_string(), "the report holds what was fetched until then; check power and wire")
            }
        };
        Some(ErrorInfo { kind: kind.into(), message, next_step: next_step.into() })
    }

    fn boot_advice(&self) -> &'static str {
        "look at the board's serial console; check memory, debug.load and PSCI in the board file, or the tree (--dtb)"
    }

    fn notes(&mut self) -> Vec<String> {
        match (self.via, self.rate) {
            (Via::Port { port, .. }, Some(rate)) => vec![format!(
                "fetched through memory access port {} at {}, no core was halted while the plan ran",
                link::spell(port),
                speed(rate)
            )],
            _ => vec![format!(
                "fetched through halted cores: {} group halts while the plan ran, {:.3} s in all; an IPI under way during one looks late",
                self.looks,
                self.still.as_secs_f64()
            )],
        }
    }
}

/// The region of a target behind a probe.
pub struct Source {
    link: Rc<RefCell<Link>>,
    via: Via,
    base: u64,
    /// The cores through which it is read, where there is no port.
    held: Option<Cores>,
}

/// Why the region can't be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SourceError(#[from] CoreError);

impl SourceError {
    fn link(self) -> LinkError {
        match self.0 {
            CoreError::Link(error) => error,
            error => LinkError::Access { port: "of the cores".into(), address: 0, what: error.to_string() },
        }
    }
}

impl From<LinkError> for SourceError {
    fn from(error: LinkError) -> SourceError {
        SourceError(CoreError::Link(error))
    }
}

impl From<SourceError> for io::Error {
    fn from(error: SourceError) -> io::Error {
        io::Error::other(error)
    }
}

fn beyond(port: &str, address: u64, what: &str) -> LinkError {
    LinkError::Access { port: port.into(), address, what: what.into() }
}

impl Source {
    /// Where `length` bytes from `offset` lie, and the word that the last of them is part of.
    fn address(&self, offset: u64, length: u64) -> Result<u64, LinkError> {
        let address = self.base.checked_add(offset);
        address
            .filter(|address| address.checked_add(length).is_some_and(|end| end <= u64::MAX - 8))
            .ok_or_else(|| beyond("of the target", offset, "the region's offsets leave the address space"))
    }
}

impl RegionSource for Source {
    type Error = SourceError;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let address = self.address(offset, buffer.len() as u64)?;
        // A long read ends with a run that is ended at once, by asking twice.
        let asked = interrupt::requests();
        let go_on = || interrupt::requests() < asked.saturating_add(2);
        let mut link = self.link.borrow_mut();
        match (self.via, &self.held) {
            (Via::Port { port, .. }, _) => link.read_while(port, address, buffer, go_on)?,
            (Via::Halted, Some(cores)) => {
                for (piece, index) in buffer.chunks_mut(link::MOST).zip(0u64..) {
                    if !go_on() {
                        return Err(beyond("of the cores", address, "stopped while it was read").into());
                    }
                    let at = address + index * link::MOST as u64;
                    let first = at & !7;
                    let words = (at + piece.len() as u64 - first).div_ceil(8) as usize;
                    let read = cores.load(&mut link, 0, first, words)?;
                    let bytes = read.iter().flat_map(|word| word.to_le_bytes()).skip((at - first) as usize);
                    for (place, byte) in piece.iter_mut().zip(bytes) {
                        *place = byte;
                    }
                }
            }
            (Via::Halted, None) => {}
        }
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, SourceError> {
        if let Via::Port { port, wide: false } = self.via {
            let address = self.address(offset, 8)?;
            let mut link = self.link.borrow_mut();
            let mut high = link.read_word(port, address + 4)?;
            // The low half wraps every four thousand million records: one more turn settles it.
            for _ in 0..8 {
                let steps = vec![link::Step::Read(address), link::Step::Read(address + 4)];
                let halves = link.registers(port, steps)?;
                let [low, again] = halves[..] else { break };
                if again == high {
                    return Ok(u64::from(high) << 32 | u64::from(low));
                }
                high = again;
            }
        }
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The launcher of an image, for the boot core.
impl Image {
    /// Code that makes room for the image on a board whose boot loader runs (`launch.s` in the firmware).
    pub fn launcher(&self) -> Option<&[u8]> {
        let locator = self.locator();
        let start = locator.launcher_offset as usize;
        let length = locator.launcher_len as usize;
        self.bytes().get(start..start.checked_add(length)?).filter(|code| !code.is_empty())
    }
}
