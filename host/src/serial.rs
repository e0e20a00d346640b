//! Results over a console: from a serial line that answers, or from the log of one that can't be asked any more.
//!
//! ```text
//! bytes -> Collector -> Sparse region -> settled -> adopt::collect -> capture
//!              ^              |
//!              |              v what is missing, most important first
//!            link  <------  Asker
//! ```
//!
//! The firmware says where each piece belongs and adds a checksum (`trace_ring::line`), so that a line is whole or missing.
//! The collector knows nothing of time or devices: it takes bytes. It puts lines together again that a console server has
//! cut with time stamps and text of others, and it sees a target that starts again in the middle: what came of the run
//! before is put aside. The asker asks in small numbers, waits until the line falls silent, and asks again for what is still
//! missing, because its own requests may get lost, too.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::ops::{ControlFlow, Range};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::termios::{self, ControlModes, OptionalActions, SpecialCodeIndex, Termios};
use trace_ring::layout::Directory;
use trace_ring::line::{Line, MOST_BYTES, MOST_LINE, Scanner};

use crate::adopt::{self, Origin};
use crate::capture::ErrorInfo;
use crate::error::{Failure, FileError, exit};
use crate::interrupt;
use crate::progress::Progress;
use crate::run::Finished;
use crate::sparse::{Implausible, Missing, Sparse, Want};

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the bytes come from.
    pub input: Input,
    /// Whether records are wanted.
    pub want: Want,
    /// Pass on what else the console says.
    pub verbose: bool,
    /// `--log-to`.
    pub log_to: Option<PathBuf>,
    /// What the region can't say of itself.
    pub origin: Origin,
}

/// Where bytes come from.
#[derive(Clone, Debug)]
pub enum Input {
    /// A line that answers.
    Device {
        /// Path, `unix:PATH` or `tcp:HOST:PORT`.
        name: String,
        /// Its speed, where it is a terminal.
        baud: u32,
        /// When to give up: nothing new came for so long.
        deadline: Duration,
    },
    /// What somebody recorded; `-`: standard input.
    Log(PathBuf),
}

/// Takes the results and puts them into a capture.
pub fn take(request: &Request, say: &mut dyn FnMut(&str)) -> Result<Finished, Failure> {
    let (collector, source, cut) = match &request.input {
        Input::Device { name, baud, deadline } => {
            let mut session = Session::open(name, *baud, *deadline, request)?;
            let over = session.run(say)?;
            (session.collector, name.clone(), Some(over))
        }
        Input::Log(path) => (read_log(path, request, say)?, path.display().to_string(), None),
    };
    finish(collector, &source, cut, request, say)
}

/// Makes a capture of the best run that came.
fn finish(
    collector: Collector,
    source: &str,
    over: Option<Over>,
    request: &Request,
    say: &mut dyn FnMut(&str),
) -> Result<Finished, Failure> {
    let heard = collector.heard();
    let live = over.is_some();
    let Some((run, number, runs)) = collector.best(request.want) else { return Err(heard.nothing(source, over)) };
    if runs > 1 {
        let which = if number == runs { "the last" } else { "the last whole one" };
        say(&format!("{source} holds {runs} runs; this is number {number}, {which}"));
    }
    let implausible = |error: Implausible| Failure {
        kind: "region".into(),
        message: format!("{source}: {error}"),
        next_step: "use the ipiscope that the board's image was made with".into(),
        exit_code: exit::UNMEASURED,
    };
    let mut region = run.region;
    let missing = Missing::of(&region.all_missing(Want::All).map_err(implausible)?);
    if !region.holds(0..size_of::<Directory>() as u64) {
        return Err(Failure {
            kind: "incomplete".into(),
            message: format!("{source}: {} KiB came, but not {missing}", region.known_bytes().div_ceil(1024)),
            next_step: again(live).into(),
            exit_code: exit::UNMEASURED,
        });
    }
    let mut origin = Origin { source: "serial", console: run.console.text, ..request.origin.clone() };
    match over {
        Some(Over::Interrupted) if !missing.is_empty() => origin.notes.push("stopped before all data had come".into()),
        Some(Over::Deadline(time)) => {
            let time = humantime::format_duration(time);
            origin.notes.push(format!("given up: nothing new came for {time}"));
        }
        Some(Over::Closed(why)) if !missing.is_empty() => {
            origin.notes.push(format!("the line was closed before all data had come: {why}"));
        }
        _ => {}
    }
    if request.want == Want::Summary && missing.records > 0 {
        origin.notes.push(format!("{} trace records were left on the target (--summary)", missing.records));
    }
    let told = if request.want == Want::Summary {
        Missing::of(&region.all_missing(Want::Summary).map_err(implausible)?)
    } else {
        missing
    };
    origin.notes.extend(told.lines.iter().map(|line| format!("missing: {line}")));
    if told.needed {
        let lines: Vec<&str> =
            told.lines.iter().map(String::as_str).filter(|line| line.starts_with("section")).collect();
        origin.lack = Some(ErrorInfo {
            kind: "incomplete".into(),
            message: format!("what a verdict needs did not all come over the console: {}", lines.join("; ")),
            next_step: again(live).into(),
        });
    }
    for note in &origin.notes {
        say(&format!("note: {note}"));
    }
    region.settle().map_err(implausible)?;
    adopt::collect(&mut region, &origin, say)
}

const fn again(live: bool) -> &'static str {
    if live {
        "take it again while the target is still on: it answers until it is reset; check the line's speed and cable"
    } else {
        "take it from the board with `ipiscope serial DEVICE` while it is still on, or boot it again and record more"
    }
}

// --- what came ------------------------------------------------------------------------------------------------------

/// The most console text that is kept of one run.
const CONSOLE_LIMIT: usize = 256 << 10;

/// The longest physical line that is looked at as one.
const TEXT_LIMIT: usize = 4096;

/// What the firmware's own words begin with.
const WORDS: &[u8] = b"ipiscope ";

/// How many lines of others may stand between two halves of one of ours.
const FOREIGN_LINES: u32 = 8;

/// Bytes of the directory that stand still after the run: all but the line that a host writes.
const STANDING: u64 = core::mem::offset_of!(Directory, request) as u64;

/// What the collector found, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// Text of others, a line of it.
    Text(String),
    /// The firmware said that it starts.
    Started(String),
    /// The firmware said that the plan ended.
    Ended(String),
    /// Another run began before this one was complete.
    Another,
}

/// Where the target stands, as far as it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing of it was heard.
    Unknown,
    /// The plan runs.
    Running,
    /// The plan ended: it sends, or answers.
    Over,
}

/// Console text, as much as is kept.
#[derive(Clone, Debug, Default)]
struct Console {
    text: String,
    full: bool,
}

impl Console {
    fn add(&mut self, line: &str) {
        if self.full {
            return;
        }
        self.full = self.text.len() + line.len() > CONSOLE_LIMIT;
        self.text.push_str(if self.full { "(and more that was not kept)" } else { line });
        self.text.push('\n');
    }
}

/// What came of one run.
#[derive(Clone, Debug, Default)]
struct Run {
    region: Sparse,
    nonce: Option<u64>,
    /// The target said that it begins to send.
    begun: bool,
    /// The target said that it has sent all that it sends by itself.
    ended: bool,
    console: Console,
}

impl Run {
    /// How much of it there is: nothing, something, all that a verdict needs, everything.
    fn rank(&self, want: Want) -> u32 {
        // A target that was told to send no records has sent everything when it says so.
        let only_summary = || {
            let (all, summary) = (self.region.wanted_bytes(Want::All), self.region.wanted_bytes(Want::Summary));
            let missing = self.region.all_missing(Want::All).map(|gaps| Missing::of(&gaps).records).unwrap_or(0);
            self.ended && all > summary && all.unwrap_or(0) - summary.unwrap_or(0) == missing * 32
        };
        match () {
            () if self.region.known_bytes() == 0 => 0,
            () if !self.region.is_complete(Want::Summary) => 1,
            () if want == Want::Summary || self.region.is_complete(Want::All) || only_summary() => 3,
            () => 2,
        }
    }
}

/// A line that ended in the middle.
#[derive(Debug)]
struct Torn {
    head: Vec<u8>,
    left: u32,
}

/// Puts a region together from the bytes of a console.
#[derive(Debug)]
struct Collector {
    scanner: Scanner,
    /// The physical line so far, without the lines of ours in it.
    text: Vec<u8>,
    /// One of ours was in it.
    ours: bool,
    torn: Option<Torn>,
    run: Run,
    /// The best of the runs before, and its number.
    best: Option<(Run, u32)>,
    runs: u32,
    want: Want,
    stage: Stage,
    lines: u64,
    joined: u64,
    bytes: u64,
    noise: u64,
    /// Bytes of the region that were new.
    fresh: u64,
    events: Vec<Event>,
}

impl Collector {
    fn new(want: Want) -> Collector {
        Collector {
            scanner: Scanner::new(),
            text: Vec::new(),
            ours: false,
            torn: None,
            run: Run::default(),
            best: None,
            runs: 1,
            want,
            stage: Stage::Unknown,
            lines: 0,
            joined: 0,
            bytes: 0,
            noise: 0,
            fresh: 0,
            events: Vec::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push_byte(*byte);
        }
    }

    fn push_byte(&mut self, byte: u8) {
        self.bytes += 1;
        if byte >= 0x80 || (byte < b' ' && !matches!(byte, b'\r' | b'\n' | b'\t' | 8 | 0x1B)) {
            self.noise += 1;
        }
        if let Some(line) = self.scanner.push(byte).map(Owned::of) {
            self.ours = true;
            match self.text.iter().rposition(|byte| *byte == b'~') {
                Some(start) => self.text.truncate(start),
                // It began on an earlier physical line: a logger folded it.
                None => {
                    self.text.clear();
                    self.torn = None;
                }
            }
            self.take(line);
            return;
        }
        match byte {
            b'\r' | b'\n' => self.end_of_text(),
            _ => {
                self.text.push(byte);
                if self.text.len() >= TEXT_LIMIT {
                    self.end_of_text();
                }
            }
        }
    }

    /// The input ends.
    fn end(&mut self) {
        self.end_of_text();
    }

    /// A physical line ended: what of it was not ours?
    fn end_of_text(&mut self) {
        let text = std::mem::take(&mut self.text);
        let mut ours = std::mem::take(&mut self.ours);
        if text.is_empty() {
            return;
        }
        if let Some(mut torn) = self.torn.take() {
            if let Some(line) = join(&torn.head, &text) {
                ours = true;
                self.joined += 1;
                self.take(line);
            } else if torn.left > 0 {
                torn.left -= 1;
                self.torn = Some(torn);
            }
        }
        let begins =
            |start: &usize| matches!(text[*start..], [b'~', b'd' | b'z' | b'b' | b'e', b'0'..=b'9' | b'a'..=b'f', ..]);
        if let Some(start) = (0..text.len()).rev().find(begins) {
            ours = true;
            let (head, rest) = text[start..].split_at(1 + fitting(text[start + 1..].iter()));
            // Text of others may stand in the middle of a physical line, too.
            match join(head, rest) {
                Some(line) => {
                    self.joined += 1;
                    self.take(line);
                }
                None => {
                    self.torn = Some(Torn { head: head[..head.len().min(MOST_LINE)].to_vec(), left: FOREIGN_LINES })
                }
            }
        }
        // A target that was reset in the middle of a line begins to talk right behind it.
        let words = text.windows(WORDS.len()).position(|window| window == WORDS);
        let text = if ours { words.map(|start| &text[start..]) } else { Some(&text[..]) };
        if let Some(text) = text {
            let text: String = String::from_utf8_lossy(text)
                .chars()
                .map(|letter| if letter.is_control() && letter != '\t' { '\u{B7}' } else { letter })
                .collect();
            self.understand(text);
        }
    }

    /// What the firmware says in words.
    fn understand(&mut self, text: String) {
        let has = |words: &str| text.contains(words);
        if has("ipiscope START nonce=") {
            // The nonce is the plan's: a board that boots the same plan again says the same.
            if self.run.region.known_bytes() > 0 {
                self.put_aside();
            }
            self.stage = Stage::Running;
            self.run.console.add(&text);
            self.events.push(Event::Started(text));
            return;
        }
        self.run.console.add(&text);
        if has("ipiscope END nonce=") {
            self.stage = Stage::Over;
            self.events.push(Event::Ended(text));
        } else {
            self.events.push(Event::Text(text));
        }
    }

    fn take(&mut self, line: Owned) {
        self.lines += 1;
        match line {
            Owned::Begin { nonce } => {
                // Once a boot: a second one is another boot's, though its plan may have the same nonce.
                if self.run.begun || self.run.nonce.is_some_and(|known| known != nonce) {
                    self.put_aside();
                }
                self.run.nonce = Some(nonce);
                self.run.begun = true;
                self.stage = Stage::Over;
            }
            Owned::End { nonce } => {
                if self.run.nonce.is_some_and(|known| known != nonce) {
                    self.put_aside();
                }
                self.run.nonce = Some(nonce);
                self.run.ended = true;
                self.stage = Stage::Over;
            }
            Owned::Data { offset, bytes, length } => {
                let bytes = &bytes[..length];
                let standing = STANDING.saturating_sub(offset).min(length as u64) as usize;
                // The directory stands still after a run: another one is another run's.
                if self.run.region.contradicts(offset, &bytes[..standing]) {
                    self.put_aside();
                }
                self.fresh += self.run.region.put(offset, bytes).fresh;
                self.stage = Stage::Over;
                let at = core::mem::offset_of!(Directory, nonce);
                if offset <= at as u64
                    && let Some(nonce) = bytes.get(at - offset as usize..).and_then(|rest| rest.first_chunk())
                {
                    self.run.nonce = Some(u64::from_le_bytes(*nonce));
                }
            }
            Owned::Zeros { offset, length } => {
                self.fresh += self.run.region.put_zeros(offset, length).fresh;
                self.stage = Stage::Over;
            }
            // A host's words, in a log of both directions.
            Owned::Host => {}
        }
    }

    /// Another run begins. The best of those before is kept; of two that are as good, the later.
    fn put_aside(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.region.known_bytes() == 0 {
            self.run.console = run.console;
            return;
        }
        let rank = run.rank(self.want);
        if self.best.as_ref().is_none_or(|(best, _)| best.rank(self.want) <= rank) {
            self.best = Some((run, self.runs));
        }
        self.runs += 1;
        self.events.push(Event::Another);
    }

    /// Whether the run that comes now is complete.
    fn is_complete(&self) -> bool {
        self.run.region.is_complete(self.want)
    }

    fn heard(&self) -> Heard {
        Heard {
            bytes: self.bytes,
            noise: self.noise,
            lines: self.lines,
            damaged: self.scanner.damaged(),
            stage: self.stage,
        }
    }

    /// The best run, its number, and how many there were.
    fn best(mut self, want: Want) -> Option<(Run, u32, u32)> {
        if self.run.region.known_bytes() == 0 && self.best.is_some() {
            self.runs -= 1;
        }
        let last = (self.run, self.runs);
        let (run, number) = match self.best {
            Some(best) if best.0.rank(want) > last.0.rank(want) => best,
            _ => last,
        };
        (run.region.known_bytes() > 0).then_some((run, number, self.runs))
    }
}

/// A line that borrows nothing.
#[derive(Clone, Copy, Debug)]
enum Owned {
    Data { offset: u64, bytes: [u8; MOST_BYTES], length: usize },
    Zeros { offset: u64, length: u64 },
    Begin { nonce: u64 },
    End { nonce: u64 },
    Host,
}

impl Owned {
    fn of(line: Line<'_>) -> Owned {
        match line {
            Line::Data { offset, bytes: data } => {
                let mut bytes = [0; MOST_BYTES];
                let length = data.len().min(MOST_BYTES);
                bytes[..length].copy_from_slice(&data[..length]);
                Owned::Data { offset, bytes, length }
            }
            Line::Zeros { offset, length } => Owned::Zeros { offset, length },
            Line::Begin { nonce, .. } => Owned::Begin { nonce },
            Line::End { nonce, .. } => Owned::End { nonce },
            Line::Request { .. } | Line::Done { .. } => Owned::Host,
        }
    }
}

/// How many bytes at the front can stand inside a line.
fn fitting<'a>(bytes: impl Iterator<Item = &'a u8>) -> usize {
    bytes.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b':')).count()
}

/// Looks for the end of a line that begins with `head` in the text that came later: whatever stands in front of it (a time
/// stamp) is skipped. The checksum decides.
fn join(head: &[u8], text: &[u8]) -> Option<Owned> {
    let until = text.iter().position(|byte| *byte == b'~').unwrap_or(text.len());
    let end = text[..until].iter().position(|byte| *byte == b';')?;
    let most = fitting(text[..end].iter().rev()).min(MOST_LINE.checked_sub(head.len() + 1)?);
    (0..=most).find_map(|length| {
        let mut scanner = Scanner::new();
        for byte in head.iter().chain(&text[end - length..end]) {
            scanner.push(*byte);
        }
        scanner.push(b';').map(Owned::of)
    })
}

/// What was heard in all, to say why nothing came of it.
#[derive(Clone, Copy, Debug)]
struct Heard {
    bytes: u64,
    noise: u64,
    lines: u64,
    damaged: u64,
    stage: Stage,
}

impl Heard {
    fn nothing(&self, source: &str, over: Option<Over>) -> Failure {
        let mut what = match &over {
            Some(Over::Deadline(time)) => {
                format!(
                    "{source}: the target sent no results, and nothing new for {}",
                    humantime::format_duration(*time)
                )
            }
            Some(Over::Interrupted) => format!("{source}: stopped before any results came"),
            Some(Over::Closed(why)) => format!("{source}: the line was closed before any results came: {why}"),
            Some(Over::Complete) | None => {
                format!("{source} holds no results: no whole line like `~d0:aXBpc2NvcGU:0123abcd;` is in it")
            }
        };
        let _ = write!(what, "; {} bytes came", self.bytes);
        if self.damaged > 0 {
            let _ = write!(what, ", {} damaged lines among them", self.damaged);
        }
        let noisy = self.bytes > 0 && self.noise * 10 > self.bytes;
        let next_step = if noisy {
            let _ = write!(what, ", {} % of them no text", self.noise * 100 / self.bytes);
            "check the speed of the line (--baud)"
        } else {
            match self.stage {
                Stage::Unknown if self.bytes == 0 => {
                    "check cable, port and power; docs/u-boot.md lists what to look at"
                }
                Stage::Unknown => {
                    "the firmware was not heard: boot it with ipiscope.results=console in bootargs (docs/u-boot.md)"
                }
                Stage::Running => "the plan had begun and did not end: wait longer (--deadline), or run a shorter plan",
                Stage::Over => "boot with ipiscope.results=console in bootargs, or connect the line's other direction",
            }
        };
        let exit_code = if over.is_none() { exit::MISUSED } else { exit::UNMEASURED };
        Failure { kind: "serial".into(), message: what, next_step: next_step.into(), exit_code }
    }
}

// --- a log ----------------------------------------------------------------------------------------------------------

fn read_log(path: &Path, request: &Request, say: &mut dyn FnMut(&str)) -> Result<Collector, Failure> {
    let mut collector = Collector::new(request.want);
    let mut input: Box<dyn io::Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).and_then(|file| {
            if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
        });
        // Naming a file that is not there is asking wrongly.
        let file =
            file.map_err(|source| Failure { exit_code: exit::MISUSED, ..FileError::of("read", path)(source).into() })?;
        Box::new(file)
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(FileError::of("read", path)(source).into()),
        };
        collector.push(&buffer[..count]);
        for event in collector.events.drain(..) {
            if let (Event::Text(text) | Event::Started(text) | Event::Ended(text), true) = (event, request.verbose) {
                say(&text);
            }
        }
    }
    collector.end();
    let Heard { lines, damaged, .. } = collector.heard();
    if damaged > 0 {
        let (lost, joined) = (damaged.saturating_sub(collector.joined), collector.joined);
        say(&format!("{}: {lines} lines of results; {lost} came damaged, {joined} in pieces", path.display()));
    }
    Ok(collector)
}

// --- a line that answers --------------------------------------------------------------------------------------------

/// How long one look at the line takes at most.
const LOOK: Duration = Duration::from_millis(100);

/// Before the firmware was heard, it is asked only after the line was silent for so long: what stands on a boot loader's
/// prompt or counts down to a boot shall not be typed at.
const FIRST_SILENCE: Duration = Duration::from_secs(2);
/// The same after a first answer failed to come.
const SILENCE: Duration = Duration::from_secs(4);
/// While the plan runs nobody listens; the line that says that it ended may have been lost.
const RUN_SILENCE: Duration = Duration::from_secs(10);
/// After the plan's end the firmware looks through its records before it sends.
const SEARCH_SILENCE: Duration = Duration::from_secs(1);

/// Requests that are sent together: fewer than the firmware queues.
const MOST_REQUESTS: usize = 12;
/// Bytes asked for by one request.
const MOST_ASKED: u64 = 4096;
/// Two gaps closer than this are asked for as one: a request costs as much as half a line.
const NEAR: u64 = 96;

/// Rounds of requests without any answer, after which the user is told.
const SILENT_ROUNDS: u32 = 8;

/// Why listening ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Over {
    Complete,
    Interrupted,
    Deadline(Duration),
    Closed(String),
}

struct Session {
    link: Link,
    name: String,
    collector: Collector,
    asker: Asker,
    deadline: Duration,
    verbose: bool,
    log: Option<(PathBuf, File)>,
}

impl Session {
    fn open(name: &str, baud: u32, deadline: Duration, request: &Request) -> Result<Session, Failure> {
        let log = match &request.log_to {
            Some(path) => Some((path.clone(), File::create(path).map_err(FileError::of("create", path))?)),
            None => None,
        };
        let link = Link::open(name, baud)?;
        let line_time = Duration::from_secs_f64(MOST_LINE as f64 * 10.0 / f64::from(baud.max(50)));
        Ok(Session {
            link,
            name: name.into(),
            collector: Collector::new(request.want),
            asker: Asker::new(line_time),
            deadline,
            verbose: request.verbose,
            log,
        })
    }

    fn run(&mut self, say: &mut dyn FnMut(&str)) -> Result<Over, Failure> {
        say(&format!(
            "listening on {}: for the firmware's START line, or for what a finished run left (Ctrl-C reports what came)",
            self.name
        ));
        let mut progress = Progress::new(0, None);
        let mut news = Instant::now();
        let (mut last_byte, mut last_line) = (Instant::now(), Instant::now());
        let mut buffer = vec![0; 64 << 10];
        let mut warned = false;
        loop {
            let (fresh, lines) = (self.collector.fresh, self.collector.lines);
            match self.link.read(&mut buffer) {
                Ok(Some(0)) => {}
                Ok(Some(count)) => {
                    last_byte = Instant::now();
                    if let Some((path, log)) = &mut self.log {
                        log.write_all(&buffer[..count]).map_err(FileError::of("write", path))?;
                    }
                    self.collector.push(&buffer[..count]);
                }
                Ok(None) => {
                    self.collector.end();
                    let over =
                        if self.collector.is_complete() { Over::Complete } else { Over::Closed("end of data".into()) };
                    return Ok(over);
                }
                Err(error) => {
                    self.collector.end();
                    return Ok(Over::Closed(error.to_string()));
                }
            }
            let now = Instant::now();
            if self.tell(say) || self.collector.fresh > fresh {
                news = now;
            }
            if self.collector.lines > lines {
                last_line = now;
            }
            if self.collector.fresh > fresh {
                warned = false;
            }
            // Looking for gaps costs time: not after every few bytes, but when something was answered or the line is silent.
            if self.asker.looks(&self.collector.run.region, last_line, now) && self.collector.is_complete() {
                progress.clear();
                self.thank();
                return Ok(Over::Complete);
            }
            if interrupt::requests() > 0 {
                self.collector.end();
                return Ok(Over::Interrupted);
            }
            if news.elapsed() > self.deadline {
                self.collector.end();
                return Ok(Over::Deadline(self.deadline));
            }
            let sends = self.collector.run.begun && !self.collector.run.ended;
            if self.asker.may_ask(self.collector.stage, self.collector.lines, sends, last_byte, last_line, now) {
                let text = self.asker.ask(&self.collector.run.region, self.collector.want, now);
                match self.link.write(text.as_bytes()) {
                    Ok(()) => {}
                    Err(error) => return Ok(Over::Closed(error.to_string())),
                }
                if self.asker.unanswered == SILENT_ROUNDS && self.collector.stage == Stage::Over && !warned {
                    warned = true;
                    say(
                        "the target does not answer: is the line's other direction connected? (Ctrl-C reports what came)",
                    );
                }
            }
            if progress.is_due(Duration::from_millis(250)) {
                self.show(&mut progress);
            }
        }
    }

    /// Tells what the collector found; whether the firmware was among it.
    fn tell(&mut self, say: &mut dyn FnMut(&str)) -> bool {
        let mut heard = false;
        for event in std::mem::take(&mut self.collector.events) {
            match event {
                Event::Started(text) | Event::Ended(text) => {
                    heard = true;
                    say(text.trim());
                }
                Event::Another => {
                    self.asker.forget();
                    say("the target started again: what had come of its last run is put aside");
                }
                Event::Text(text) => {
                    heard |= ["ipiscope ", "KTAP version", "ok ", "not ok "].iter().any(|words| text.contains(words));
                    if self.verbose {
                        say(&text);
                    }
                }
            }
        }
        heard
    }

    fn show(&self, progress: &mut Progress) {
        let region = &self.collector.run.region;
        let Some(wanted) = region.wanted_bytes(self.collector.want) else { return };
        let mut missing = 0;
        let _ = region.missing(self.collector.want, |gap| {
            missing += gap.bytes.end - gap.bytes.start;
            ControlFlow::Continue(())
        });
        progress.fetch(wanted.saturating_sub(missing), wanted, 1);
    }

    /// Says that all is there, more than once: it may get damaged, and nothing depends on it.
    fn thank(&mut self) {
        let Some(nonce) = self.collector.run.nonce else { return };
        let text = encoded(Line::Done { nonce });
        for _ in 0..3 {
            let _ = self.link.write(text.as_bytes());
        }
    }
}

fn encoded(line: Line<'_>) -> String {
    let mut bytes = [0; MOST_LINE];
    let length = line.encode(&mut bytes);
    let mut text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    text.push('\n');
    text
}

/// Decides when to ask, and for what.
#[derive(Debug)]
struct Asker {
    /// What was asked for and may still come.
    outstanding: Vec<Range<u64>>,
    asked: Option<Instant>,
    /// The first of the answers has come.
    begun: bool,
    /// How long answers take to begin: quickly up, slowly down.
    answer: Duration,
    /// Time of a full line on the wire.
    line_time: Duration,
    /// Rounds since something new came.
    unanswered: u32,
    /// When gaps were last looked for.
    looked: Option<Instant>,
    /// Bytes that were known at the last round.
    known: u64,
}

impl Asker {
    fn new(line_time: Duration) -> Asker {
        Asker {
            outstanding: Vec::new(),
            asked: None,
            begun: false,
            answer: Duration::from_millis(150),
            line_time,
            unanswered: 0,
            looked: None,
            known: 0,
        }
    }

    fn forget(&mut self) {
        self.outstanding.clear();
        self.unanswered = 0;
        self.known = 0;
    }

    /// How long the line must be silent before what did not come is taken for lost.
    fn patience(&self) -> Duration {
        (self.answer * 2 + self.line_time * 2).clamp(Duration::from_millis(60), Duration::from_secs(3))
    }

    /// Whether it is worth looking whether all is there.
    fn looks(&mut self, region: &Sparse, last_line: Instant, now: Instant) -> bool {
        self.outstanding.retain(|range| !region.holds(range.clone()));
        let answered = self.outstanding.is_empty() && self.asked.is_some_and(|asked| last_line > asked);
        let silent = now.saturating_duration_since(last_line) > self.patience();
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) > LOOK);
        if due && (answered || silent) {
            self.looked = Some(now);
        }
        due && (answered || silent)
    }

    /// Whether the target can be asked now. `lines`: how many of its lines have come; `sends`: it sends by itself, and has not
    /// said that this was all.
    fn may_ask(
        &mut self,
        stage: Stage,
        lines: u64,
        sends: bool,
        last_byte: Instant,
        last_line: Instant,
        now: Instant,
    ) -> bool {
        let since = |instant: Instant| now.saturating_duration_since(instant);
        let since_asked = self.asked.map_or(Duration::MAX, since);
        match stage {
            Stage::Unknown => {
                let silence = if self.asked.is_none() { FIRST_SILENCE } else { SILENCE };
                since(last_byte) > silence && since_asked > SILENCE
            }
            Stage::Running => since(last_byte) > RUN_SILENCE && since_asked > RUN_SILENCE,
            Stage::Over if lines == 0 => since(last_byte) > SEARCH_SILENCE && since_asked > SEARCH_SILENCE,
            // Either all came that was asked for, or no more comes.
            Stage::Over => {
                if let Some(asked) = self.asked.filter(|asked| !self.begun && last_line > *asked) {
                    self.begun = true;
                    let sample = (last_line - asked).min(Duration::from_secs(1));
                    self.answer = sample.max(self.answer * 7 / 8);
                }
                let answered = self.outstanding.is_empty() && self.asked.is_some_and(|asked| last_line > asked);
                let silent = since(last_line) > self.patience() && since_asked > self.patience();
                (answered && !sends) || silent
            }
        }
    }

    /// The next requests.
    fn ask(&mut self, region: &Sparse, want: Want, now: Instant) -> String {
        if region.known_bytes() > self.known {
            self.unanswered = 0;
        } else {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        self.known = region.known_bytes();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        // A directory that can't be believed is asked for again: it may have been put together from two runs.
        let looked = region.missing(want, |gap| {
            let mut start = gap.bytes.start;
            while start < gap.bytes.end {
                let full = ranges.len() == MOST_REQUESTS;
                let last = ranges
                    .last_mut()
                    .filter(|last| (last.end..=last.end + NEAR).contains(&start) && start - last.start < MOST_ASKED);
                match last {
                    Some(last) => {
                        last.end = gap.bytes.end.min(last.start + MOST_ASKED);
                        start = last.end;
                    }
                    None if full => return ControlFlow::Break(()),
                    None => {
                        let end = gap.bytes.end.min(start + MOST_ASKED);
                        ranges.push(start..end);
                        start = end;
                    }
                }
            }
            ControlFlow::Continue(())
        });
        if looked.is_err() {
            ranges.clear();
            ranges.push(0..size_of::<Directory>() as u64);
        }
        self.asked = Some(now);
        self.begun = false;
        let lines =
            ranges.iter().map(|range| encoded(Line::Request { offset: range.start, length: range.end - range.start }));
        // The first byte ends whatever stands on the line.
        let text = std::iter::once("\n".to_string()).chain(lines).collect();
        self.outstanding = ranges;
        text
    }
}

// --- the link -------------------------------------------------------------------------------------------------------

/// A line, opened.
enum Link {
    Terminal { terminal: OwnedFd, before: Box<Termios>, empty: u32 },
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Link {
    fn open(name: &str, baud: u32) -> Result<Link, Failure> {
        let failure = |message: String, next_step: &str, exit_code| Failure {
            kind: "serial".into(),
            message: format!("{name}: {message}"),
            next_step: next_step.into(),
            exit_code,
        };
        let unreachable = |error: io::Error| {
            failure(
                format!("can't be opened: {error}"),
                "check that it is there and that nobody else has it open",
                exit::UNMEASURED,
            )
        };
        if let Some(path) = name.strip_prefix("unix:") {
            let stream = UnixStream::connect(path).map_err(unreachable)?;
            stream.set_read_timeout(Some(LOOK)).map_err(unreachable)?;
            stream.set_write_timeout(Some(10 * LOOK)).map_err(unreachable)?;
            return Ok(Link::Unix(stream));
        }
        if let Some(place) = name.strip_prefix("tcp:") {
            let wrong =
                |error: io::Error| failure(format!("{error}"), "write it like tcp:console.lab:7001", exit::MISUSED);
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for address in place.to_socket_addrs().map_err(wrong)? {
                match TcpStream::connect_timeout(&address, Duration::from_secs(10)) {
                    Ok(stream) => {
                        stream.set_nodelay(true).map_err(unreachable)?;
                        stream.set_read_timeout(Some(LOOK)).map_err(unreachable)?;
                        stream.set_write_timeout(Some(10 * LOOK)).map_err(unreachable)?;
                        return Ok(Link::Tcp(stream));
                    }
                    Err(error) => last = error,
                }
            }
            return Err(unreachable(last));
        }
        // Without waiting for a carrier, and without becoming anybody's controlling terminal.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name, flags, Mode::empty()).map_err(|error| unreachable(error.into()))?;
        if !termios::isatty(&terminal) {
            let next = "name a serial device, a pseudo terminal, unix:PATH or tcp:HOST:PORT; a recorded console: --from-log FILE";
            return Err(failure("is no terminal".into(), next, exit::MISUSED));
        }
        let before = Box::new(termios::tcgetattr(&terminal).map_err(|error| unreachable(error.into()))?);
        let raw = || -> rustix::io::Result<()> {
            let mut raw = (*before).clone();
            raw.make_raw();
            raw.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
            raw.control_modes &= !(ControlModes::CRTSCTS | ControlModes::CSTOPB | ControlModes::PARENB);
            raw.special_codes[SpecialCodeIndex::VMIN] = 0;
            raw.special_codes[SpecialCodeIndex::VTIME] = 1; // tenths of a second
            raw.set_speed(baud)?;
            termios::tcsetattr(&terminal, OptionalActions::Now, &raw)?;
            termios::ioctl_tiocexcl(&terminal)?;
            rustix::fs::fcntl_setfl(&terminal, flags & !OFlags::NONBLOCK)
        };
        // Restored on every way out, from here on.
        let set = raw();
        let link = Link::Terminal { terminal, before, empty: 0 };
        match set {
            Ok(()) => Ok(link),
            Err(error) => {
                let message = format!("can't be set to {baud} bits/s: {}", io::Error::from(error));
                Err(failure(message, "name a speed that the device has with --baud", exit::MISUSED))
            }
        }
    }

    /// Bytes that came, waiting for [`LOOK`] at most. `None`: no more will come.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let started = Instant::now();
        let (result, is_socket) = match self {
            Link::Terminal { terminal, .. } => {
                (rustix::io::read(&*terminal, &mut *buffer).map_err(io::Error::from), false)
            }
            Link::Unix(stream) => (stream.read(buffer), true),
            Link::Tcp(stream) => (stream.read(buffer), true),
        };
        match result {
            Ok(0) if is_socket => Ok(None),
            Ok(0) => {
                // A terminal whose other end has gone answers at once, for ever.
                let Link::Terminal { empty, .. } = self else { return Ok(Some(0)) };
                *empty = if started.elapsed() < LOOK / 5 { *empty + 1 } else { 0 };
                Ok(if *empty > 100 { None } else { Some(0) })
            }
            Ok(count) => Ok(Some(count)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(Some(0)),
                _ => Err(error),
            },
        }
    }

    /// Sends as much as the line takes within a second: what did not go is asked for again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = match self {
                Link::Terminal { terminal, .. } => rustix::io::write(&*terminal, rest).map_err(io::Error::from),
                Link::Unix(stream) => stream.write(rest),
                Link::Tcp(stream) => stream.write(rest),
            };
            match written {
                Ok(0) => return Ok(()),
                Ok(count) => rest = &rest[count..],
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Link::Terminal { terminal, before, .. } = self {
            // Nobody can be told that it failed.
            let _ = termios::ioctl_tiocnxcl(&*terminal);
            let _ = termios::tcsetattr(&*terminal, OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use trace_ring::layout::run_state;
    use trace_ring::record::RECORD_BYTES;

    use super::*;
    use crate::capture::Capture;
    use crate::sparse::tests::{all_calls, captured_calls, directory_of, region};
    use crate::sparse::{Gap, unknown_live};

    /// What a target says of a region: text, lines, text.
    fn transcript(region: &[u8], nonce: u64) -> Vec<String> {
        let mut lines = vec![format!("ipiscope START nonce={nonce:#x} build=0 cores=2"), "ok 1 phase-0".into()];
        lines.push(format!("ipiscope END nonce={nonce:#x} complete sent=1 lost=0 reason=0"));
        let say = |line: Line<'_>| encoded(line).trim_end().to_string();
        lines.push(say(Line::Begin { region_len: region.len() as u64, nonce }));
        lines.extend(pieces(region, 0..region.len() as u64));
        lines.push(say(Line::End { lines: lines.len() as u64 - 4, nonce }));
        lines
    }

    fn pieces(region: &[u8], range: Range<u64>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut next = range.start;
        while next < range.end {
            let rest = &region[next as usize..range.end as usize];
            let zeros = rest.iter().take_while(|byte| **byte == 0).count() as u64;
            let line = if zeros >= 64 {
                Line::Zeros { offset: next, length: zeros }
            } else {
                Line::Data { offset: next, bytes: &rest[..rest.len().min(MOST_BYTES)] }
            };
            next += if zeros >= 64 { zeros } else { rest.len().min(MOST_BYTES) as u64 };
            lines.push(encoded(line).trim_end().to_string());
        }
        lines
    }

    fn collect(text: &str) -> Collector {
        let mut collector = Collector::new(Want::All);
        collector.push(text.as_bytes());
        collector.end();
        collector
    }

    fn assert_same(collector: &Collector, region: &[u8]) {
        assert!(collector.is_complete(), "{:?}", collector.run.region.all_missing(Want::All));
        let (gaps, known) = (Want::All, &collector.run.region);
        assert_eq!(known.all_missing(gaps), Ok(Vec::<Gap>::new()));
        assert!(!known.contradicts(0, region));
    }

    /// A generator of numbers below `n`.
    fn random(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15);
        move |n| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        }
    }

    #[test]
    fn a_clean_console_gives_the_region_and_its_words() {
        let region = region(5);
        for end in ["\r\n", "\n", "\r", "\n\r\n"] {
            let text = transcript(&region, 5).join(end) + end;
            let mut collector = collect(&text);
            assert_same(&collector, &region);
            assert_eq!((collector.run.nonce, collector.runs, collector.stage), (Some(5), 1, Stage::Over));
            let words = collector.run.console.text.lines().count();
            assert_eq!(words, 3, "{}", collector.run.console.text);
            let events = std::mem::take(&mut collector.events);
            assert!(matches!(events[..], [Event::Started(_), Event::Text(_), Event::Ended(_)]), "{events:?}");
        }
    }

    #[test]
    fn time_stamps_and_lines_of_others_cost_nothing() {
        let region = region(5);
        let mut random = random(1);
        let mut text = String::new();
        let mut cut = 0;
        for (number, line) in transcript(&region, 5).iter().enumerate() {
            text.push_str(&format!("[2026-03-01T12:00:{:02}.{:03}Z] ", number / 50 % 60, number % 50 * 20));
            match random(8) {
                // Others talk between two lines.
                0 => text.push_str("systemd[1]: Started ~something; ok.\r\n[2026-03-01] "),
                // Others cut a line in two, and the console server stamps what follows.
                1 | 2 if line.starts_with('~') && line.len() > 12 => {
                    let at = 8 + random(line.len() as u64 - 10) as usize;
                    cut += 1;
                    text.push_str(&line[..at]);
                    match cut % 3 {
                        0 => text.push_str(
                            "\r\n[12:00] kernel: eth0: link up\r\n[12:01] kernel: eth0: ready; go\r\n[12:02] ",
                        ),
                        1 => text.push_str("\r\nusb 1-1: new device\r\n"),
                        // A plain fold, which the scanner knows itself.
                        _ => text.push_str("\r\n"),
                    }
                    text.push_str(&line[at..]);
                    text.push_str("\r\n");
                    continue;
                }
                _ => {}
            }
            text.push_str(line);
            text.push_str("\r\n");
        }
        let collector = collect(&text);
        assert!(cut > 10, "the test cuts lines");
        assert_same(&collector, &region);
    }

    #[test]
    fn a_flipped_byte_never_becomes_data() {
        let region = region(5);
        let clean = transcript(&region, 5).join("\r\n");
        for seed in 0..8 {
            let mut random = random(seed);
            let damaged: Vec<u8> =
                clean.bytes().map(|byte| if random(100) == 0 { byte ^ (1 << random(8)) } else { byte }).collect();
            let mut collector = Collector::new(Want::All);
            collector.push(&damaged);
            collector.end();
            let (best, _, _) = collector.best(Want::All).expect("something came");
            assert!(!best.region.contradicts(0, &region));
            let gaps = best.region.all_missing(Want::All).expect("plausible");
            assert!(!gaps.is_empty(), "one in a hundred bytes is wrong");
        }
    }

    #[test]
    fn of_several_runs_the_last_whole_one_is_taken() {
        let (first, second) = (region(1), region(2));
        let whole = |region: &[u8], nonce| transcript(region, nonce).join("\n") + "\n";
        let cut = |region: &[u8], nonce| whole(region, nonce)[..1500].to_string();
        let best = |text: String| {
            let (run, number, runs) = collect(&text).best(Want::All)?;
            Some((run.nonce, number, runs))
        };
        assert_eq!(best(whole(&first, 1) + &whole(&second, 2)), Some((Some(2), 2, 2)));
        assert_eq!(best(whole(&first, 1) + &cut(&second, 2)), Some((Some(1), 1, 2)));
        assert_eq!(best(cut(&first, 1) + "\n" + &whole(&second, 2)), Some((Some(2), 2, 2)));
        assert_eq!(best(cut(&first, 1) + "\n" + &cut(&second, 2)), Some((Some(2), 2, 2)));
        // The same plan booted again has the same nonce, whether its first words came or not.
        let again = whole(&first, 1);
        assert_eq!(best(again.clone() + &again), Some((Some(1), 2, 2)));
        let wordless = &again[again.find('~').expect("a line")..];
        assert_eq!(best(again.clone() + wordless), Some((Some(1), 2, 2)));
        // A run that only began to talk is none.
        assert_eq!(best(whole(&first, 1) + "ipiscope START nonce=0x2 build=0\n"), Some((Some(1), 1, 1)));
        assert_eq!(best("nothing\nof ours ~d0:zz:00000000;\n".into()), None);
    }

    #[test]
    fn a_target_that_was_told_to_send_no_records_is_whole_in_a_log() {
        let region = region(1);
        let lines = transcript(&region, 1);
        let records = collect(&lines.join("\n")).run.region.directory().expect("plausible").expect("whole");
        let is_summary = |line: &&String| {
            let mut scanner = Scanner::new();
            !line.bytes().any(|byte| match scanner.push(byte) {
                Some(Line::Data { offset, .. } | Line::Zeros { offset, .. }) => offset >= records.sections.records,
                _ => false,
            })
        };
        let summary: Vec<String> = lines.iter().filter(is_summary).cloned().collect();
        let ranks = |lines: &[String]| collect(&lines.join("\n")).run.rank(Want::All);
        assert_eq!((ranks(&lines), ranks(&summary), ranks(&summary[..summary.len() - 1])), (3, 3, 2));
        assert_eq!(ranks(&summary[..10]), 1);
    }

    #[test]
    fn what_cores_did_and_called_comes_over_a_console_and_is_missed_where_it_does_not() {
        let mut region = region(1);
        region[core::mem::offset_of!(Directory, status)] = run_state::ENDED as u8;
        let (at, folder) = (directory_of(&region).sections, tempfile::tempdir().expect("a folder"));
        let (log, out) = (folder.path().join("log"), folder.path().join("capture.mcap"));
        let told = |lines: &[String]| {
            std::fs::write(&log, lines.join("\n") + "\n").expect("is written");
            let origin = Origin { out: Some(out.clone()), ..Origin::default() };
            let (input, want) = (Input::Log(log.clone()), Want::All);
            let request = Request { input, want, verbose: false, log_to: None, origin };
            let outcome = take(&request, &mut |_| ()).expect("is taken").outcome;
            (outcome.ending.error.map(|error| error.message), captured_calls(&out))
        };
        let lines = transcript(&region, 1);
        assert_eq!(told(&lines), (None, all_calls()));

        // The line that holds the begin of what core 1 did is damaged.
        let lost = at.live + 64;
        let holds = |line: &str| {
            let mut scanner = Scanner::new();
            line.bytes().any(|byte| match scanner.push(byte) {
                Some(Line::Data { offset, bytes }) => (offset..offset + bytes.len() as u64).contains(&lost),
                _ => false,
            })
        };
        let rest: Vec<String> = lines.iter().filter(|line| !holds(line)).cloned().collect();
        assert_eq!(rest.len(), lines.len() - 1);
        let (error, (live, _)) = told(&rest);
        assert!(error.as_ref().is_some_and(|error| error.contains("section `live`")), "{error:?}");
        assert_eq!(live[1], unknown_live(), "half of what it did is not known");
        let notes = &Capture::open(&out).expect("is read").info().notes.join("; ");
        assert!(notes.contains("missing: section `live`"), "{notes}");
    }

    #[test]
    fn what_was_not_heard_says_why_and_what_to_do() {
        for (text, over, names, code) in [
            ("", None, "no whole line", exit::MISUSED),
            ("U-Boot 2023.01\n=> ", None, "18 bytes came", exit::MISUSED),
            (
                "U-Boot 2023.01\n=> ",
                Some(Over::Deadline(Duration::from_secs(60))),
                "nothing new for 1m",
                exit::UNMEASURED,
            ),
            ("ipiscope START nonce=0x1\n", Some(Over::Interrupted), "stopped", exit::UNMEASURED),
            ("", Some(Over::Closed("gone".into())), "gone", exit::UNMEASURED),
        ] {
            let failure = collect(text).heard().nothing("log", over);
            assert!(failure.message.contains(names), "expected {names:?} in {:?}", failure.message);
            assert_eq!(failure.exit_code, code, "{text:?}");
            assert!(!failure.next_step.is_empty());
        }
        let mut noise = Collector::new(Want::All);
        noise.push(&[0x80, 0xFF, 0x00, 0xF8].repeat(10));
        let failure = noise.heard().nothing("ttyUSB0", Some(Over::Interrupted));
        assert!(failure.next_step.contains("--baud") && failure.message.contains("100 %"), "{failure:?}");
    }

    /// Answers requests as the firmware does, over a line that loses things in both directions.
    fn answer(region: &[u8], requests: &str, lost: u64, random: &mut impl FnMut(u64) -> u64) -> String {
        let mut scanner = Scanner::new();
        let mut queue = Vec::new();
        for byte in requests.bytes() {
            if let Some(Line::Request { offset, length }) = scanner.push(byte) {
                queue.push(offset..(offset + length).min(region.len() as u64));
            }
        }
        assert!(queue.len() <= 16, "more requests than the firmware queues");
        assert!(queue.iter().all(|range| range.end - range.start <= MOST_ASKED));
        queue.retain(|_| random(100) >= lost / 3);
        let lines = queue.into_iter().flat_map(|range| pieces(region, range));
        lines.filter(|_| random(100) >= lost).map(|line| line + "\r\n").collect()
    }

    #[test]
    fn all_is_asked_for_in_order_and_again_until_it_came() {
        for lost in [0, 57] {
            let region = region(9);
            let mut random = random(3);
            let mut collector = Collector::new(Want::All);
            let mut asker = Asker::new(Duration::from_millis(8));
            let mut rounds = 0;
            let mut sections_first = true;
            while !collector.is_complete() {
                let requests = asker.ask(&collector.run.region, Want::All, Instant::now());
                let answers = answer(&region, &requests, lost, &mut random);
                collector.push(answers.as_bytes());
                rounds += 1;
                let records = collector.run.region.directory().ok().flatten().map(|found| found.sections.records);
                if let Some(records) = records
                    && !collector.run.region.is_complete(Want::Summary)
                {
                    // Records come in the same batch as the last of the sections at the earliest.
                    sections_first &= !collector.run.region.holds(records + 4096..records + 4096 + RECORD_BYTES);
                }
                assert!(rounds < 200, "it does not come to an end");
            }
            assert!(sections_first || lost > 0);
            assert!(lost > 0 || rounds <= 4, "{rounds} rounds of a line that loses nothing");
            assert_same(&collector, &region);
        }
    }

    #[test]
    fn a_summary_asks_for_no_records() {
        let region = region(9);
        let mut random = random(3);
        let mut collector = Collector::new(Want::Summary);
        let mut asker = Asker::new(Duration::from_millis(8));
        for _ in 0..4 {
            let requests = asker.ask(&collector.run.region, Want::Summary, Instant::now());
            collector.push(answer(&region, &requests, 0, &mut random).as_bytes());
        }
        assert!(collector.is_complete());
        let missing = Missing::of(&collector.run.region.all_missing(Want::All).expect("plausible"));
        assert_eq!((missing.records, missing.needed), (104, false));
    }

    #[test]
    fn a_target_that_was_not_heard_is_asked_after_a_silence_only() {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let mut asker = Asker::new(Duration::from_millis(8));
        // (stage, lines, sends, last byte, last line, now) -> may
        let cases = [
            (Stage::Unknown, 0, false, 0, 0, 1_900, false),
            (Stage::Unknown, 0, false, 0, 0, 2_100, true),
            // A countdown prints.
            (Stage::Unknown, 0, false, 9_000, 0, 10_000, false),
            (Stage::Running, 0, false, 0, 0, 9_000, false),
            (Stage::Running, 0, false, 0, 0, 10_100, true),
            (Stage::Over, 0, false, 9_500, 0, 10_000, false),
            (Stage::Over, 0, false, 9_000, 0, 10_100, true),
            (Stage::Over, 5, true, 10_000, 10_000, 10_050, false),
            (Stage::Over, 5, true, 10_000, 10_000, 10_900, true),
        ];
        for (stage, lines, sends, last_byte, last_line, now, may) in cases {
            let asked = asker.may_ask(stage, lines, sends, at(last_byte), at(last_line), at(now));
            assert_eq!(asked, may, "{stage:?} {now}");
        }
        // All that was asked for came: the next at once, but not while it sends by itself.
        asker.ask(&Sparse::new(), Want::All, at(20_000));
        asker.outstanding.clear();
        assert!(asker.may_ask(Stage::Over, 5, false, at(20_010), at(20_010), at(20_011)));
        assert!(!asker.may_ask(Stage::Over, 5, true, at(20_010), at(20_010), at(20_011)));
    }

    #[test]
    fn a_line_that_is_not_there_or_none_at_all_is_named() {
        for (name, names, code) in [
            ("/dev/null", "no terminal", exit::MISUSED),
            ("/nonexistent/tty", "/nonexistent/tty", exit::UNMEASURED),
            ("unix:/nonexistent/socket", "/nonexistent/socket", exit::UNMEASURED),
            ("tcp:nonsense", "nonsense", exit::MISUSED),
        ] {
            let failure = Link::open(name, 115_200).err().expect(name);
            assert!(failure.message.contains(names), "{failure:?}");
            assert_eq!(failure.exit_code, code, "{failure:?}");
        }
    }
}
