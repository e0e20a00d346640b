//! `import`: a Linux trace -> a capture, on which all other verbs work.
//!
//! Reads once, in bounded memory: events go through a window that puts those in order which a tracer printed a little late, and on
//! into the capture. Nothing is paired here, and nothing is judged. What was left out is in the capture's table and in its notes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use linux_trace::marks::{Rules, RulesError, SHIPPED};
use linux_trace::text::{self, Told};
use linux_trace::{Event, Names, Tally, What, dat, input};

use crate::capture::{CaptureError, CaptureWriter, Ended, Ending, ErrorInfo, RunInfo, VerdictScope};
use crate::error::{Explain, Failure, FileError, exit};
use crate::linux::{self, Encoder, ROW_BYTES, Row, Table};
use crate::plan::{PhaseMeta, PlanMeta};
use crate::run::Reserved;

/// What is to be imported.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The trace.
    pub file: PathBuf,
    /// The capture; `None`: a dated name in `./runs/`.
    pub out: Option<PathBuf>,
    /// Rules for private marks, which come before those of the kit.
    pub rules: Vec<PathBuf>,
    /// Tags of the unit.
    pub tags: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Imported {
    /// The capture.
    pub capture: PathBuf,
    /// What it holds.
    pub table: Table,
    /// CPUs of the machine.
    pub cpus: u16,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
    /// How long it took, s.
    pub seconds: f64,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The trace can't be read.
    #[error("can't read {}: {error}", path.display())]
    Read {
        /// The trace.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no event in it.
    #[error("{} holds no IPI event: {reason}", path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        reason: String,
    },
    /// A `trace.dat` that can't be read.
    #[error("{}: {error}", path.display())]
    Dat {
        /// The file.
        path: PathBuf,
        /// Why.
        error: dat::DatError,
    },
    /// A file of rules is none.
    #[error("{}: {error}", path.display())]
    Rules {
        /// The file.
        path: PathBuf,
        /// Why.
        error: RulesError,
    },
}

impl Explain for ImportError {
    fn kind(&self) -> &'static str {
        "import"
    }

    fn next_step(&self) -> String {
        match self {
            ImportError::Read { .. } | ImportError::Dat { .. } => "name a file that `cat /sys/kernel/tracing/trace` or `trace-cmd` wrote".into(),
            ImportError::Nothing { .. } => {
                "record with `trace-cmd record -e ipi -e csd`, or enable events/ipi and events/csd in tracefs and save `trace`".into()
            }
            ImportError::Rules { .. } => "see the kit's own rules in linux-trace/src/marks.toml for the form".into(),
        }
    }

    fn exit_code(&self) -> u8 {
        exit::MISUSED
    }
}

/// Events that wait for those which were printed late: a tracer that merges the buffers of its CPUs is off by less.
const WINDOW: usize = 1 << 18;

/// Rows of one message of a capture.
const BATCH: usize = 1 << 14;

/// From what is read to the capture.
struct Sink<'a> {
    /// `None` until there is an IPI: a file that is no trace must not cost a capture of the same name.
    writer: Option<CaptureWriter>,
    path: &'a Path,
    info: &'a RunInfo,
    /// Events before the first IPI that the window had no room for.
    early: u64,
    encoder: Encoder,
    window: Vec<Event>,
    rows: Vec<u8>,
    written: u64,
    /// The newest time that was written.
    newest: u64,
    /// Who wrote it.
    newest_cpu: u16,
    /// Events that came too late for the window: they stand where they came.
    late: u64,
    /// Neighbours of different CPUs with the same stamp.
    ties: u64,
    counts: BTreeMap<&'static str, u64>,
    /// The highest CPU that an event names.
    highest: u16,
    rules: Rules,
    /// Marks that no rule knows.
    unruled: u64,
}

impl Sink<'_> {
    fn event(&mut self, event: &Event, names: &mut Names) -> Result<(), CaptureError> {
        let event = match event.what {
            What::Mark { .. } => match self.rules.meaning(event, names) {
                Some(event) => event,
                None => {
                    self.unruled += 1;
                    return Ok(());
                }
            },
            _ => *event,
        };
        *self.counts.entry(event.what.name()).or_default() += 1;
        let named = match event.what {
            What::Raise { targets, .. } | What::SendMask { targets, .. } => targets.iter().last().unwrap_or(0),
            What::SendCpu { cpu, .. } | What::Queue { cpu, .. } => cpu,
            _ => 0,
        };
        self.highest = self.highest.max(event.cpu).max(named);
        self.window.push(event);
        if self.window.len() >= WINDOW { self.emit(WINDOW / 2) } else { Ok(()) }
    }

    /// Whether there is anything to make a capture of.
    fn has_ipis(&self) -> bool {
        self.counts.keys().any(|kind| kind.starts_with("ipi_") || kind.starts_with("csd_"))
    }

    /// Writes the first `count` events of the window, in order of time.
    fn emit(&mut self, count: usize) -> Result<(), CaptureError> {
        if !self.has_ipis() {
            self.early += self.window.drain(..count.min(self.window.len())).len() as u64;
            return Ok(());
        }
        // Stable, and nearly nothing to do where they are in order.
        self.window.sort_by_key(|event| event.t);
        let Sink { window, encoder, rows, newest, newest_cpu, late, ties, .. } = self;
        for event in window.drain(..count.min(window.len())) {
            *late += u64::from(event.t < *newest);
            *ties += u64::from(event.t == *newest && event.cpu != *newest_cpu);
            (*newest, *newest_cpu) = (event.t.max(*newest), event.cpu);
            encoder.encode(&event, |row: Row| linux::put(&row, rows));
        }
        let whole = self.rows.len() / (BATCH * ROW_BYTES) * (BATCH * ROW_BYTES);
        self.write(whole)
    }

    /// Writes so many bytes of rows, in messages of a batch; what is more waits.
    fn write(&mut self, bytes: usize) -> Result<(), CaptureError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(CaptureWriter::create(self.path, self.info, &[])?),
        };
        for rows in self.rows[..bytes].chunks(BATCH * ROW_BYTES) {
            writer.linux_rows(self.written, rows)?;
            self.written += (rows.len() / ROW_BYTES) as u64;
        }
        self.rows.drain(..bytes);
        writer.flush_if_due()
    }
}

/// Imports a trace.
///
/// # Errors
///
/// What the file is not; a capture that can't be written.
pub fn import(request: &Request) -> Result<Imported, Failure> {
    let began = Instant::now();
    let path = &request.file;
    let read = |error| ImportError::Read { path: path.clone(), error };
    if path.is_dir() {
        return Err(read(io::Error::from(io::ErrorKind::IsADirectory)).into());
    }
    let (packing, mut file) = input::open(path).map_err(read)?;
    if request.out.as_deref().is_some_and(|out| crate::compare::same_file(out, path)) {
        return Err(Failure {
            kind: "arguments".into(),
            message: format!("--out {} is the trace itself", path.display()),
            next_step: "name another file".into(),
            exit_code: exit::MISUSED,
        });
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    let (wanted, rules) = (rules(&request.rules)?, rules(&request.rules)?);
    let reserved = Reserved::take(request.out.as_deref(), if stem.is_empty() { "trace" } else { stem })?;
    let began_as = describe(request);
    let mut names = Names::new();
    let mut sink = Sink {
        writer: None,
        path: &reserved.path,
        info: &began_as,
        early: 0,
        encoder: Encoder::default(),
        window: Vec::new(),
        rows: Vec::new(),
        written: 0,
        newest: 0,
        newest_cpu: 0,
        late: 0,
        ties: 0,
        counts: BTreeMap::new(),
        highest: 0,
        rules,
        unruled: 0,
    };
    let mut first = Vec::new();
    // What can't be unpacked from its first byte on is told by the reader.
    let begin = io::Read::read_to_end(&mut io::Read::take(&mut file, 16), &mut first);
    let told = if begin.is_ok() && dat::is_dat(&first) {
        let spooled = match packing {
            input::Packing::Plain => std::fs::File::open(path).map_err(read)?,
            // It is read from several places at once: unpacked beside the capture, without a name.
            _ => spool(&reserved.path, &first, &mut file)?,
        };
        binary(path, spooled, packing, &mut names, &mut sink)?
    } else {
        let input = io::Read::chain(&first[..], Rest(begin.err(), file));
        let (told, tally) = text::read(input, &wanted, &mut names, |event, names| sink.event(event, names))?;
        Source::of_text(told, tally, packing)
    };
    if !sink.has_ipis() {
        return Err(ImportError::Nothing { path: path.clone(), reason: nothing(&told) }.into());
    }
    reserved.keep();
    sink.emit(usize::MAX)?;
    sink.write(sink.rows.len())?;
    let cpus = told.cpus.unwrap_or(0).clamp(u32::from(sink.highest) + 1, linux_trace::mask::MOST_CPUS as u32) as u16;
    let notes = notes(&told, &sink);
    let mut info = began_as.clone();
    info.machine = match &told.release {
        Some(release) => format!("Linux {release}"),
        None => "Linux".into(),
    };
    (info.cores, info.plan.cores) = (cpus, cpus);
    info.notes.clone_from(&notes);
    if let Some(phase) = info.plan.phases.first_mut() {
        phase.timed = told.resolution_ns > 0;
    }
    let unordered = told.resolution_ns == 0 && sink.ties > 0;
    let Sink { writer, encoder, written, counts, .. } = sink;
    let (names, masks) = encoder.tables(&names);
    let Source { format, resolution_ns, tally, cut, .. } = told;
    let table = Table {
        names,
        masks,
        rows: written,
        file: name,
        format,
        resolution_ns,
        unordered,
        counts: counts.into_iter().map(|(kind, count)| (kind.into(), count)).collect(),
        others: tally.others,
        unknown: tally.unknown,
        first_unknown: tally.first_unknown.map(|(place, why)| format!("{place}: {why}")),
        lost: tally.lost,
        gaps: tally.gaps,
    };
    // It was created with the first row.
    let Some(mut writer) = writer else {
        return Err(ImportError::Nothing { path: path.clone(), reason: "none was written".into() }.into());
    };
    writer.linux_table(&table, &info)?;
    let seconds = began.elapsed().as_secs_f64();
    let error = cut.map(|why| ErrorInfo {
        kind: "input".into(),
        message: format!("the trace breaks off: {why}"),
        next_step: "the capture holds what came before; get the file again".into(),
    });
    let ended = if error.is_some() { Ended::Interrupted } else { Ended::Complete };
    writer.finish(&Ending { error, ..Ending::new(ended, seconds) })?;
    Ok(Imported { capture: reserved.path.clone(), table, cpus, notes, seconds })
}

fn packed(packing: input::Packing) -> &'static str {
    match packing {
        input::Packing::Plain => "",
        input::Packing::Gzip => ", gzip",
        input::Packing::Xz => ", xz",
        input::Packing::Zstd => ", zstd",
    }
}

/// The kit's rules behind those of the user.
fn rules(files: &[PathBuf]) -> Result<Rules, Failure> {
    let mut texts = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path).map_err(FileError::of("read", path))?;
        // Each file is read alone first, so that an error names it.
        Rules::parse(&[&text]).map_err(|error| ImportError::Rules { path: path.clone(), error })?;
        texts.push(text);
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).chain([SHIPPED]).collect();
    Rules::parse(&texts).map_err(|error| ImportError::Rules { path: Path::new("marks.toml").into(), error }.into())
}

/// What a reader learnt of its file, whatever it was.
struct Source {
    format: String,
    tally: Tally,
    cpus: Option<u32>,
    release: Option<String>,
    /// ns; 0: the stamps are no times.
    resolution_ns: u64,
    /// Why it breaks off.
    cut: Option<String>,
    /// Lines that tell of events without their time or fields: how many, and what they look like.
    untimed: (u64, Option<&'static str>),
    /// Events that were overwritten before they were saved, and how many are left.
    overwritten: Option<(u64, u64)>,
    remarks: Vec<String>,
}

impl Source {
    fn of_text(told: Told, tally: Tally, packing: input::Packing) -> Source {
        let overwritten = told.entries.filter(|(entries, written)| entries < written);
        Source {
            format: format!("text{}", packed(packing)),
            tally,
            cpus: told.cpus,
            release: told.release,
            resolution_ns: if told.ticks { 0 } else { told.resolution_ns },
            cut: told.cut,
            untimed: (told.untimed, told.untimed_layout),
            overwritten: overwritten.map(|(entries, written)| (written - entries, entries)),
            remarks: Vec::new(),
        }
    }

    fn of_dat(header: &dat::Header, tally: Tally, packing: input::Packing) -> Source {
        let overrun = |stat: &dat::CpuStat| stat.overrun.saturating_add(stat.dropped);
        let overrun = header.stats.iter().map(overrun).fold(0, u64::saturating_add);
        // `Linux (none) 6.12.95 aarch64`: its third word is the release.
        let release = header.uname.as_deref().and_then(|uname| uname.split_whitespace().nth(2)).map(str::to_owned);
        let mut remarks = header.remarks.clone();
        if !header.other_buffers.is_empty() {
            remarks.push(format!("buffers of other instances were not read: {}", header.other_buffers.join(", ")));
        }
        Source {
            format: format!("trace.dat v{}{}", header.version, packed(packing)),
            cpus: Some(header.cpus).filter(|cpus| *cpus > 0),
            release,
            resolution_ns: u64::from(header.clock.is_time()),
            cut: None,
            untimed: (0, None),
            overwritten: (overrun > 0).then_some((overrun, tally.events)),
            remarks,
            tally,
        }
    }
}

/// An unpacked file's bytes, and then the error that was met while its first were read.
struct Rest(Option<io::Error>, Box<dyn io::Read>);

impl io::Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.take() {
            Some(error) => Err(error),
            None => self.1.read(buffer),
        }
    }
}

/// Unpacks the rest of a file into one that has no name, in the folder of the capture: there is room for it where there is for that.
fn spool(capture: &Path, first: &[u8], rest: &mut dyn io::Read) -> Result<std::fs::File, FileError> {
    let folder = capture.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::tempfile_in(folder).map_err(FileError::of("create", folder))?;
    let written = io::Write::write_all(&mut file, first).and_then(|()| io::copy(rest, &mut file));
    // A packed file that is cut gives what it has: the reader says where it ends.
    match written {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(FileError::of("write", folder)(error)),
        _ => Ok(file),
    }
}

/// Reads a `trace.dat`.
fn binary(
    path: &Path,
    file: std::fs::File,
    packing: input::Packing,
    names: &mut Names,
    sink: &mut Sink,
) -> Result<Source, Failure> {
    let bad = |error| ImportError::Dat { path: path.into(), error };
    let reader = dat::Reader::open(io::BufReader::new(file)).map_err(bad)?;
    let header = reader.header().clone();
    let mut failed = None;
    let tally = reader
        .read(names, &mut |event, names| {
            if failed.is_none() {
                failed = sink.event(&event, names).err();
            }
        })
        .map_err(bad)?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Source::of_dat(&header, tally, packing)),
    }
}

/// Why there is no event.
fn nothing(told: &Source) -> String {
    let known = told.tally.events + told.tally.others;
    match (told.untimed, &told.tally.first_unknown, &told.cut) {
        (.., Some(cut)) => format!("it can't be unpacked: {cut}"),
        ((count, Some(layout)), ..) => format!("its {count} lines are {layout}"),
        (_, Some((place, why)), _) if known == 0 => format!("it is no ftrace text ({place}: {why})"),
        _ if known == 0 => "it is empty".into(),
        _ => format!("its {known} events are of other kinds"),
    }
}

fn notes(told: &Source, sink: &Sink) -> Vec<String> {
    let tally = &told.tally;
    let mut notes = told.remarks.clone();
    if let Some((place, why)) = &tally.first_unknown {
        let things = if told.format.starts_with("text") { "lines" } else { "places" };
        notes.push(format!(
            "{} {things} could not be read and were left out; the first is {place}: {why}",
            tally.unknown
        ));
    }
    if let (count, Some(layout)) = told.untimed {
        notes.push(format!("{count} lines were left out: {layout}"));
    }
    if tally.gaps > 0 {
        notes.push(format!(
            "the kernel lost events in {} places ({} of them counted): IPIs that were open there are unknown",
            tally.gaps, tally.lost
        ));
    }
    if let Some((overwritten, left)) = told.overwritten {
        notes.push(format!(
            "{overwritten} events were overwritten in the buffer before it was saved ({left} are left): raise buffer_size_kb"
        ));
    }
    if told.resolution_ns == 0 {
        let told = match sink.ties {
            0 => "outcomes are told, latencies are not",
            _ => {
                "and so coarsely that the order of events on different CPUs is not known: who answered whom can't be told"
            }
        };
        notes.push(format!(
            "the trace's clock counts events or jiffies, not time: {told}; record with `echo mono_raw > trace_clock`"
        ));
    }
    if sink.late > 0 {
        notes.push(format!("{} events stand out of their order of time", sink.late));
    }
    if sink.early > 0 {
        notes.push(format!("{} events before the first IPI were left out", sink.early));
    }
    if sink.unruled > 0 {
        notes.push(format!("{} marks fit no rule", sink.unruled));
    }
    notes
}

/// What the capture says of itself before anything is read.
fn describe(request: &Request) -> RunInfo {
    RunInfo {
        created: jiff::Timestamp::now().to_string(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        source: SOURCE.into(),
        machine: "Linux".into(),
        board: String::new(),
        cpu: String::new(),
        accel: String::new(),
        verdict_scope: VerdictScope::LinuxTrace,
        deterministic: false,
        qemu_version: String::new(),
        qemu_arguments: Vec::new(),
        tags: request.tags.clone(),
        plan: PlanMeta {
            phases: vec![PhaseMeta {
                name: "trace".into(),
                pattern: "linux".into(),
                timed: true,
                state: "unknown".into(),
                ..PhaseMeta::default()
            }],
            level: "calls".into(),
            policy: "stop".into(),
            ..PlanMeta::unplanned(PLAN, 1)
        },
        firmware_build_id: String::new(),
        nonce: 0,
        cores: 1,
        notes: Vec::new(),
    }
}

/// `target.source` of an imported capture.
pub const SOURCE: &str = "linux";

/// The plan's name in such a capture. Not the file's: two traces of one machine are of the same "plan".
const PLAN: &str = "linux-trace";
