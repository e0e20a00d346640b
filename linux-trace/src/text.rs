//! ftrace's text: `trace`, `trace_pipe`, and what `trace-cmd report` prints.
//!
//! A line is read where the kernel puts its columns (`kernel/trace/trace_output.c`, `trace_print_context`): a task's name may hold
//! anything, brackets and colons too, but its dash stands in column 17. A line that lost its columns (pasted, trimmed, the latency
//! format) is searched for the first place from which all the rest reads well. Times are read as whole numbers, never as floating
//! point. A line is one of: an event, legal and no event, or unknown; each is counted, and the first unknown one is kept.

mod columns;
mod known;

use std::io;

use columns::Columns;
use known::Known;

use crate::words::{self, BLANKS, blank};
use crate::{Event, Mask, Name, Names, Place, Tally, What};

/// Bytes of the buffer: a longer line is no trace.
const LONGEST_LINE: usize = 2 << 20;

/// Bytes that are read at a time: few enough to be still in the second-level cache when their lines are read.
const AT_ONCE: usize = 1 << 17;

/// What text says beside its events.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// CPUs of the machine, where a header names them (`#P:4`, `cpus=4`).
    pub cpus: Option<u32>,
    /// The greatest CPU that recorded something.
    pub highest_cpu: Option<u16>,
    /// The kernel's release, where the latency format's header names it.
    pub release: Option<String>,
    /// Events that stand in the buffer and that were written to it, where a header says so: the rest was overwritten.
    pub entries: Option<(u64, u64)>,
    /// The unit of the finest time stamp, ns; 0: no time at all.
    pub resolution_ns: u64,
    /// Time stamps are whole numbers without a unit (clocks `counter`, `uptime`, or cycles).
    pub ticks: bool,
    /// Lines that name an event, but not when it was or what it held (options `raw`, `hex`, no `context-info`; `function_graph`).
    pub untimed: u64,
    /// What those lines look like.
    pub untimed_layout: Option<&'static str>,
    /// Stamps that were below the one before them.
    pub backwards: u64,
    /// Why the input broke off before its end.
    pub cut: Option<String>,
}

/// Which marks of `trace_printk` are wanted: the name of the function that printed them.
pub trait Wanted {
    /// Whether marks of this function mean something. Asked for each line that is no known event: to be answered fast.
    fn wants(&self, function: &[u8]) -> bool;
}

/// No marks are wanted.
#[derive(Debug, Clone, Copy)]
pub struct NoMarks;

impl Wanted for NoMarks {
    fn wants(&self, _function: &[u8]) -> bool {
        false
    }
}

/// Reads text to its end, and gives its events in the order of its lines.
///
/// An input that breaks off (a packed file that was cut, a disk that fails) gives what it had, and [`Told::cut`] says why. Text that is
/// no trace gives no event, and all its lines are unknown.
///
/// # Errors
///
/// The sink's.
pub fn read<E>(
    mut input: impl io::Read,
    wanted: &impl Wanted,
    names: &mut Names,
    mut sink: impl FnMut(&Event, &mut Names) -> Result<(), E>,
) -> Result<(Told, Tally), E> {
    let mut lines = Lines::new(wanted, names);
    let mut buffer = vec![0; LONGEST_LINE];
    let (mut have, mut overlong) = (0, false);
    loop {
        let room = buffer.len().min(have + AT_ONCE);
        let got = match input.read(&mut buffer[have..room]) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                lines.told.cut = Some(error.to_string());
                0
            }
        };
        let end = have + got;
        let mut begin = 0;
        for newline in memchr::memchr_iter(b'\n', &buffer[have..end]) {
            let newline = have + newline;
            let line = &buffer[begin..newline];
            begin = newline + 1;
            match std::mem::take(&mut overlong) {
                true => lines.skip_overlong(),
                false => lines.line(line, &mut sink)?,
            }
        }
        if got == 0 {
            if overlong {
                lines.skip_overlong();
            } else if end > begin {
                lines.line(&buffer[begin..end], &mut sink)?;
            }
            break;
        }
        if begin == 0 && end == buffer.len() {
            // No line is as long as that: nothing of it is kept, and the next newline ends it.
            (have, overlong) = (0, true);
            continue;
        }
        buffer.copy_within(begin..end, 0);
        have = end - begin;
    }
    let Lines { told, tally, .. } = lines;
    Ok((told, tally))
}

struct Lines<'a, W> {
    told: Told,
    tally: Tally,
    names: &'a mut Names,
    wanted: &'a W,
    /// The line, from 1.
    number: u64,
    /// The last time stamp.
    last: u64,
    columns: Columns,
    known: Fields,
    /// The last event was a text of user space, which may go on in the lines behind it.
    goes_on: bool,
    /// The event that is given, written in place: most kinds are a fraction of it.
    event: Event,
}

/// The last text of each field: mostly the next one's too.
#[derive(Default)]
struct Fields {
    reason: Known,
    raise_reason: Known,
    send_callsite: Known,
    send_callback: Known,
    queue_callsite: Known,
    queue_function: Known,
    function: Known,
}

/// What stands in front of an event.
#[derive(Debug, PartialEq)]
struct Context<'a> {
    /// The task's name, and blanks round it.
    comm: &'a [u8],
    pid: u32,
    cpu: u16,
    flags: [u8; 8],
    /// Its digits, and what stands behind the dot.
    t: u64,
    /// ns of the last digit; 0: no unit.
    unit: u64,
    /// The event's name and all behind it.
    event: &'a [u8],
}

impl<'a, W: Wanted> Lines<'a, W> {
    fn new(wanted: &'a W, names: &'a mut Names) -> Self {
        Lines {
            told: Told::default(),
            tally: Tally::default(),
            names,
            wanted,
            number: 0,
            last: 0,
            columns: Columns::default(),
            known: Fields::default(),
            goes_on: false,
            event: Event { t: 0, cpu: 0, pid: None, comm: Name::NONE, flags: [0; 8], what: What::Lost { count: None } },
        }
    }

    #[inline]
    fn line<E>(&mut self, line: &[u8], sink: &mut impl FnMut(&Event, &mut Names) -> Result<(), E>) -> Result<(), E> {
        self.number += 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let given = match self.columns.context(line) {
            Some((context, task)) => {
                let given = self.event(line, &context);
                if given {
                    self.event.comm = self.columns.comm(task, context.comm, self.names);
                }
                given
            }
            None => self.odd_line(line),
        };
        if given { sink(&self.event, self.names) } else { Ok(()) }
    }

    /// A line that is not all in its columns. `true`: it gave [`Lines::event`].
    #[cold]
    fn odd_line(&mut self, line: &[u8]) -> bool {
        if let Some(context) = context(line) {
            return self.odd_event(line, &context);
        }
        // What was pasted from a web page has its blanks as U+00A0.
        if memchr::memmem::find(line, NO_BREAK).is_some() {
            let plain = String::from_utf8_lossy(line).replace('\u{A0}', " ");
            if let Some(context) = context(plain.as_bytes()) {
                return self.odd_event(plain.as_bytes(), &context);
            }
        }
        match self.no_event(line) {
            Some(event) => {
                self.event = event;
                true
            }
            None => false,
        }
    }

    #[cold]
    fn odd_event(&mut self, line: &[u8], context: &Context<'_>) -> bool {
        let given = self.event(line, context);
        if given {
            self.event.comm = self.names.add(context.comm.trim_ascii());
        }
        given
    }

    /// Reads an event into [`Lines::event`], all but the task's name. `true`: it is one that is given.
    #[inline(always)]
    fn event(&mut self, line: &[u8], context: &Context<'_>) -> bool {
        self.goes_on = matches!(context.event, [b't' | b'p', ..])
            && (context.event.starts_with(b"tracing_mark_write:") || context.event.starts_with(b"print:"));
        if context.unit == 0 {
            self.told.ticks = true;
        } else if self.told.resolution_ns == 0 || context.unit < self.told.resolution_ns {
            self.told.resolution_ns = context.unit;
        }
        match self.what(context.event) {
            Heard::Event => {}
            Heard::Other => {
                self.tally.others += 1;
                return false;
            }
            Heard::Ignored => {
                self.tally.ignored += 1;
                return false;
            }
            Heard::Bad(why) => {
                self.unknown(line, why);
                return false;
            }
        }
        self.told.highest_cpu = self.told.highest_cpu.max(Some(context.cpu));
        self.told.backwards += u64::from(context.t < self.last);
        self.last = context.t;
        self.tally.events += 1;
        self.event.t = context.t;
        self.event.cpu = context.cpu;
        self.event.pid = Some(context.pid);
        self.event.flags = context.flags;
        true
    }

    #[cold]
    fn skip_overlong(&mut self) {
        self.number += 1;
        self.unknown(b"", "the line is longer than a trace's lines can be");
    }

    #[cold]
    fn unknown(&mut self, line: &[u8], why: &str) {
        self.tally.unknown += 1;
        if self.tally.first_unknown.is_none() {
            let shown = String::from_utf8_lossy(line.get(..120).unwrap_or(line)).into_owned();
            let shown: String = shown.chars().filter(|letter| !letter.is_control()).collect();
            self.tally.first_unknown = Some((Place::Line(self.number), format!("{why}: `{}`", shown.trim())));
        }
    }

    /// A line that has no context of an event.
    #[cold]
    fn no_event(&mut self, line: &[u8]) -> Option<Event> {
        let text = line.trim_ascii();
        if let Some(header) = text.strip_prefix(b"#") {
            if let Some(lost) = buffer_start(text) {
                return self.lost(lost, None);
            }
            self.header(header);
            self.tally.ignored += 1;
            return None;
        }
        if let Some(rest) = text.strip_prefix(b"CPU:").or_else(|| text.strip_prefix(b"CPU ")) {
            if let Some((cpu, count)) = lost_line(rest) {
                return self.lost(cpu, count);
            }
            if rest.ends_with(b"is empty") || rest.ends_with(b"[SUBBUFFER START]") {
                self.tally.ignored += 1;
                return None;
            }
        }
        if let Some(cpus) = text.strip_prefix(b"cpus=").and_then(whole) {
            self.told.cpus = u32::try_from(cpus).ok();
            self.tally.ignored += 1;
            return None;
        }
        let chatter: [&[u8]; 5] =
            [b"=> ", b"version = ", b"Dumping ftrace buffer", b"(ftrace buffer empty)", b"--------"];
        if self.goes_on || text.is_empty() || chatter.iter().any(|words| text.starts_with(words)) {
            self.tally.ignored += 1;
            return None;
        }
        if let Some(layout) = untimed(text) {
            self.told.untimed += 1;
            self.told.untimed_layout.get_or_insert(layout);
            return None;
        }
        self.unknown(line, "neither an event nor a line that a tracer prints");
        None
    }

    fn lost(&mut self, cpu: u16, count: Option<u64>) -> Option<Event> {
        self.tally.gaps += 1;
        self.tally.lost += count.unwrap_or(0);
        self.told.highest_cpu = self.told.highest_cpu.max(Some(cpu));
        Some(Event { t: self.last, cpu, pid: None, comm: Name::NONE, flags: [0; 8], what: What::Lost { count } })
    }

    /// `# entries-in-buffer/entries-written: 691/691   #P:4`, and that of the latency format:
    /// `# nop latency trace v1.1.5 on 6.12.95`, `# latency: 0 us, #691/691, CPU#3 | (M:… #P:4)`.
    fn header(&mut self, header: &[u8]) {
        let text = String::from_utf8_lossy(header);
        if let Some((_, rest)) = text.split_once("#P:") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            self.told.cpus = digits.parse().ok().or(self.told.cpus);
        }
        let entries = text
            .split_once("entries-written: ")
            .map(|(_, rest)| rest)
            .or_else(|| text.trim_start().strip_prefix("latency: ").and_then(|rest| Some(rest.split_once('#')?.1)));
        if let Some((have, rest)) = entries.and_then(|rest| rest.split_once('/')) {
            let written: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if let (Ok(have), Ok(written)) = (have.trim().parse(), written.parse()) {
                self.told.entries = Some((have, written));
            }
        }
        if let Some((_, release)) = text.split_once(" latency trace ").and_then(|(_, rest)| rest.split_once(" on ")) {
            self.told.release = Some(release.trim().into());
        }
    }

    /// Reads an event from its name on, into [`Lines::event`].
    #[inline(always)]
    fn what(&mut self, event: &[u8]) -> Heard {
        match self.of_ipis(event) {
            Some(Some(())) => Heard::Event,
            Some(None) => BAD_FIELDS,
            None => self.rare(event),
        }
    }

    /// The same where it is an event of IPIs; else `None`.
    #[inline(always)]
    fn of_ipis(&mut self, event: &[u8]) -> Option<Option<()>> {
        let Lines { names, known, event: Event { what, .. }, .. } = self;
        Some(match event.first_chunk()? {
            b"ipi_rais" => raise(arguments(event, b"ipi_raise:")?, names, known, what),
            b"ipi_entr" => {
                let reason = known.reason.whole(arguments(event, b"ipi_entry:")?, names, reason);
                *what = What::Entry { reason };
                Some(())
            }
            b"ipi_exit" => {
                let reason = known.reason.whole(arguments(event, b"ipi_exit:")?, names, reason);
                *what = What::Exit { reason };
                Some(())
            }
            b"ipi_send" => match arguments(event, b"ipi_send_cpu:") {
                Some(text) => send_cpu(text, names, known, what),
                None => send_mask(arguments(event, b"ipi_send_cpumask:")?, names, known, what),
            },
            b"csd_queu" => queue(arguments(event, b"csd_queue_cpu:")?, names, known, what),
            b"csd_func" => {
                let (text, entry) = match arguments(event, b"csd_function_entry:") {
                    Some(text) => (text, true),
                    None => (arguments(event, b"csd_function_exit:")?, false),
                };
                function(text, names, known).map(|(function, csd)| {
                    *what = match entry {
                        true => What::FunctionEntry { function, csd },
                        false => What::FunctionExit { function, csd },
                    };
                })
            }
            _ => return None,
        })
    }

    /// The same of events that are not of IPIs.
    fn rare(&mut self, event: &[u8]) -> Heard {
        let Some(end) = memchr::memchr2(b':', b' ', event) else {
            return match event {
                b"" => Heard::Bad("an event without a name"),
                _ => Heard::Other,
            };
        };
        let name = &event[..end];
        let Some(arguments) = event[end..].strip_prefix(b":") else {
            // `function <-caller`, of the function tracer; `<stack trace>`.
            return if name.starts_with(b"<") { Heard::Ignored } else { Heard::Other };
        };
        let arguments = arguments.trim_ascii();
        let names = &mut *self.names;
        let what = match name {
            b"irq_handler_entry" => irq(arguments).map(|(irq, rest)| {
                let name = rest.strip_prefix(b"name=").unwrap_or(b"");
                What::IrqEntry { irq, name: names.add(name) }
            }),
            b"irq_handler_exit" => irq(arguments).map(|(irq, _)| What::IrqExit { irq }),
            b"cpu_idle" => value(arguments, b"state=")
                .and_then(number)
                .map(|state| What::Idle { state: u32::try_from(state).ok().filter(|state| *state != u32::MAX) }),
            b"sched_switch" => switch(arguments),
            _ if self.wanted.wants(name) => {
                let user = name == b"tracing_mark_write";
                let function = if user { Name::NONE } else { names.add(name) };
                Some(What::Mark { function, text: names.add(arguments), user })
            }
            // trace-cmd puts what the kernel prints in the event's place behind a name of its own.
            b"bprint" | b"print" | b"bputs" => return self.what(arguments),
            _ => return Heard::Other,
        };
        match what {
            Some(what) => {
                self.event.what = what;
                Heard::Event
            }
            None => BAD_FIELDS,
        }
    }
}

/// What a line with a context holds.
enum Heard {
    /// One that stands in [`Lines::event`].
    Event,
    /// An event of another kind.
    Other,
    /// No event: a part of one.
    Ignored,
    Bad(&'static str),
}

const BAD_FIELDS: Heard = Heard::Bad("an event whose fields can't be read");

/// What stands behind an event's name and colon.
#[inline(always)]
fn arguments<'a>(event: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    event.strip_prefix(name).map(trimmed)
}

// --- the context of an event ----------------------------------------------------------------------------------------

/// Where the dash behind the task's name stands: names are printed 16 wide, and have at most 15 letters (`TASK_COMM_LEN`).
const DASH: usize = 16;

/// A blank at which no line may break, U+00A0.
const NO_BREAK: &[u8] = "\u{A0}".as_bytes();

/// How far into a line a dash is looked for where the columns are lost.
const SEARCHED: usize = 64;

fn context(line: &[u8]) -> Option<Context<'_>> {
    if line.get(DASH) == Some(&b'-')
        && let Some(context) = task(line, DASH)
    {
        return Some(context);
    }
    elsewhere(line)
}

/// Lines without their columns: the first dash behind which all the rest reads well.
fn elsewhere(line: &[u8]) -> Option<Context<'_>> {
    let searched = &line[..line.len().min(SEARCHED)];
    let mut dashes = memchr::memchr_iter(b'-', searched);
    dashes.find_map(|dash| task(line, dash).or_else(|| latency(line, dash))).or_else(|| verbose(line))
}

/// `comm-pid (tgid) [cpu] flags time: event`; `dash` stands before the process id.
fn task(line: &[u8], dash: usize) -> Option<Context<'_>> {
    let comm = line.get(..dash)?;
    let (pid, rest) = leading(line.get(dash + 1..)?)?;
    let mut rest = spaces(rest);
    if let Some(behind) = rest.strip_prefix(b"(") {
        // The thread group: `(    318)`, `(-------)`.
        let end = memchr::memchr(b')', behind.get(..behind.len().min(12))?)?;
        let group = behind[..end].trim_ascii();
        if !group.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
            return None;
        }
        rest = spaces(&behind[end + 1..]);
    }
    let (cpu, rest) = leading(rest.strip_prefix(b"[")?)?;
    let rest = rest.strip_prefix(b"] ")?;
    let rest = spaces(rest);
    let (flags, rest) = match rest.first()? {
        b'0'..=b'9' => (&b""[..], rest),
        _ => {
            let end = memchr::memchr(b' ', rest.get(..rest.len().min(16))?)?;
            (&rest[..end], spaces(&rest[end..]))
        }
    };
    let (t, unit, event) = stamp(rest)?;
    let flags = eight(flags);
    Some(Context { comm, pid: u32::try_from(pid).ok()?, cpu: cpu_number(cpu)?, flags, t, unit, event })
}

/// The latency format: `  <idle>-0         2dnh.. 279159us+: event`, the CPU before its flags, the time relative and marked; trace-cmd
/// prints whole seconds there (`report -l`).
fn latency(line: &[u8], dash: usize) -> Option<Context<'_>> {
    let comm = line.get(..dash)?;
    let (pid, rest) = leading(line.get(dash + 1..)?)?;
    let rest = rest.strip_prefix(b" ").map(spaces)?;
    let (cpu, rest) = leading(rest)?;
    let end = memchr::memchr(b' ', rest.get(..rest.len().min(16))?)?;
    let flags = &rest[..end];
    if flags.is_empty() || flags.iter().any(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'.' | b'#')) {
        return None;
    }
    let flags = eight(flags);
    let rest = spaces(&rest[end..]);
    let (pid, cpu) = (u32::try_from(pid).ok()?, cpu_number(cpu)?);
    if let Some((t, unit, event)) = stamp(rest) {
        return Some(Context { comm, pid, cpu, flags, t, unit, event });
    }
    let (microseconds, rest) = leading(rest)?;
    let rest = rest.strip_prefix(b"us")?;
    // A mark for long waits: ` `, `+`, `!`, `#`, `*`, `@`, `$`.
    let event = rest.get(1..)?.strip_prefix(b": ")?;
    Some(Context { comm, pid, cpu, flags, t: microseconds.checked_mul(1000)?, unit: 1000, event })
}

/// The verbose latency format: `init       1   3 17 00000000 00000000 [0089d5f2] 428.578ms (+1.029ms): event`; the time in brackets is
/// absolute, in microseconds.
fn verbose(line: &[u8]) -> Option<Context<'_>> {
    let bracket = memchr::memchr(b'[', line)?;
    let mut words = line[..bracket].rsplit(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let (entry, preempt) = (words.next()?, words.next()?);
    let hex = |word: &[u8]| word.len() == 8 && word.iter().all(u8::is_ascii_hexdigit);
    let (flags, cpu, pid) = (words.next()?, words.next()?, words.next()?);
    if !hex(entry) || !hex(preempt) || !flags.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let comm = words.next()?;
    // A name of several words is read back from its last.
    let comm_end = comm.as_ptr() as usize - line.as_ptr() as usize + comm.len();
    let rest = &line[bracket + 1..];
    let close = memchr::memchr(b']', rest.get(..rest.len().min(20))?)?;
    let t = hexadecimal(&rest[..close])?.checked_mul(1000)?;
    let event = memchr::memmem::find(rest, b"): ").map(|at| &rest[at + 3..])?;
    Some(Context {
        comm: &line[..comm_end],
        pid: u32::try_from(whole(pid)?).ok()?,
        cpu: cpu_number(whole(cpu)?)?,
        flags: [0; 8],
        t,
        unit: 1000,
        event,
    })
}

/// `seconds.fraction: ` or `ticks: `: the time, the unit of its last digit in ns (0: none), and what stands behind.
fn stamp(text: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (seconds, rest) = leading(text)?;
    let Some(digits) = rest.strip_prefix(b".") else {
        return Some((seconds, 0, spaces(rest.strip_prefix(b":")?)));
    };
    let (fraction, rest) = leading(digits)?;
    let unit = match digits.len() - rest.len() {
        6 => 1000,
        9 => 1,
        places @ 1..=8 => 10u64.pow(9 - places as u32),
        _ => return None,
    };
    let t = seconds.checked_mul(1_000_000_000)?.checked_add(fraction * unit)?;
    Some((t, unit, spaces(rest.strip_prefix(b":")?)))
}

/// The first eight letters of the flags' column.
fn eight(flags: &[u8]) -> [u8; 8] {
    std::array::from_fn(|at| flags.get(at).copied().unwrap_or(0))
}

fn cpu_number(cpu: u64) -> Option<u16> {
    u16::try_from(cpu).ok().filter(|cpu| usize::from(*cpu) < crate::mask::MOST_CPUS)
}

// --- lines that are no events ---------------------------------------------------------------------------------------

/// `##### CPU 1 buffer started ####`: what that CPU recorded before was overwritten.
fn buffer_start(text: &[u8]) -> Option<u16> {
    let rest = text.strip_prefix(b"##### CPU ")?;
    let (cpu, rest) = leading(rest)?;
    rest.starts_with(b" buffer started").then(|| cpu_number(cpu)).flatten()
}

/// `1 [LOST 528 EVENTS]` (trace_pipe), `1 [528 EVENTS DROPPED]`, `1 [EVENTS DROPPED]` (trace-cmd), behind `CPU:`.
fn lost_line(rest: &[u8]) -> Option<(u16, Option<u64>)> {
    let (cpu, rest) = leading(rest.trim_ascii())?;
    let inner = rest.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    let words = |word: &[u8]| inner.split(|byte| *byte == b' ').any(|it| it == word);
    if !words(b"EVENTS") || !(words(b"LOST") || words(b"DROPPED")) {
        return None;
    }
    Some((cpu_number(cpu)?, inner.split(|byte| *byte == b' ').find_map(whole)))
}

/// Lines that tell of an event, but not all that is needed to use it.
fn untimed(text: &[u8]) -> Option<&'static str> {
    const NAMES: [&[u8]; 8] = [
        b"ipi_raise:",
        b"ipi_entry:",
        b"ipi_exit:",
        b"ipi_send_cpu:",
        b"ipi_send_cpumask:",
        b"csd_queue_cpu:",
        b"csd_function_entry:",
        b"csd_function_exit:",
    ];
    if NAMES.iter().any(|name| text.starts_with(name)) {
        return Some("events without time and CPU (option context-info is off)");
    }
    let mut words = text.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let first: [Option<&[u8]>; 4] = std::array::from_fn(|_| words.next());
    if let [Some(pid), Some(cpu), Some(t), Some(b"type:")] = first {
        let all = |digit: fn(&u8) -> bool| [pid, cpu, t].iter().all(|word| word.iter().all(digit));
        if all(u8::is_ascii_digit) || all(u8::is_ascii_hexdigit) {
            return Some("event numbers without their fields (options raw or hex)");
        }
    }
    // ` 0)   1.234 us    |  function() {`, ` ------------------------------------------`, ` 0)  <idle>-0  =>  init-1`.
    let (cpu, rest) = leading(text)?;
    (cpu_number(cpu).is_some() && rest.starts_with(b")"))
        .then_some("function graphs without time stamps (tracer function_graph)")
}

// --- fields ---------------------------------------------------------------------------------------------------------

/// The symbol or address of a field: as printed, without the decimal that option `fields` adds; none for a null.
#[inline]
fn symbol(text: &[u8], names: &mut Names) -> Name {
    let text = trimmed(text);
    match text {
        [b'0' | b'(', ..] => address(text, names),
        _ => names.add(text),
    }
}

#[cold]
fn address(text: &[u8], names: &mut Names) -> Name {
    let mut text = text;
    if text.ends_with(b")")
        && text.starts_with(b"0x")
        && let Some(at) = memchr::memchr(b' ', text)
    {
        text = &text[..at];
    }
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    match digits.iter().all(|byte| *byte == b'0') || text == b"(null)" || text == b"(nil)" {
        true => Name::NONE,
        false => names.add(text),
    }
}

/// `(Function call interrupts)`, `reason=Function call interrupts` or `reason=(0xffffb5b668930af8:Function call interrupts)`.
#[inline]
fn reason(text: &[u8], names: &mut Names) -> Name {
    let text = text.strip_prefix(b"reason=").unwrap_or(text);
    let text = text.strip_prefix(b"(").and_then(|inner| inner.strip_suffix(b")")).unwrap_or(text);
    let text = match text.starts_with(b"0x").then(|| memchr::memchr(b':', text)).flatten() {
        Some(colon) => &text[colon + 1..],
        None => text,
    };
    names.add(text)
}

/// `target_mask=00000000,00000008 (Function call interrupts)`, `target_cpus=ARRAY[04, 00, …] reason=…`.
#[inline]
fn raise(text: &[u8], names: &mut Names, known: &mut Fields, what: &mut What) -> Option<()> {
    let rest = text.strip_prefix(b"target_mask=").or_else(|| text.strip_prefix(b"target_cpus="))?;
    let (targets, rest) = mask(rest)?;
    *what = What::Raise { targets, reason: known.raise_reason.whole(trimmed(rest), names, reason) };
    Some(())
}

/// A mask, and what stands behind it.
#[inline]
fn mask(text: &[u8]) -> Option<(Mask, &[u8])> {
    let end = match text.starts_with(b"ARRAY[") {
        true => memchr::memchr(b']', text)? + 1,
        false => blank(text, 0).unwrap_or(text.len()),
    };
    Some((Mask::parse(&text[..end])?, &text[end..]))
}

#[inline]
fn send_cpu(text: &[u8], names: &mut Names, known: &mut Fields, what: &mut What) -> Option<()> {
    let cpu = cpu_number(number(text.strip_prefix(b"cpu=")?)?)?;
    let (callsite, callback) = sent(text, names, known)?;
    *what = What::SendCpu { cpu, callsite, callback };
    Some(())
}

fn send_mask(text: &[u8], names: &mut Names, known: &mut Fields, what: &mut What) -> Option<()> {
    let text = text.strip_prefix(b"cpumask=")?;
    // Whom it goes to is told by the raise that follows where it is not told here: option `fields` does not know the type, and
    // trace-cmd's raw report (`-R`) prints where the mask lies (its length and offset, 16 bits each).
    let untold = || match text.strip_prefix(b"<INVALID-TYPE>") {
        Some(rest) => Some(rest),
        None => leading(text).filter(|(value, _)| value >> 16 != 0 && value >> 32 == 0).map(|(_, rest)| rest),
    };
    let (targets, rest) = mask(text).or_else(|| untold().map(|rest| (Mask::default(), rest)))?;
    let (callsite, callback) = sent(rest, names, known)?;
    *what = What::SendMask { targets, callsite, callback };
    Some(())
}

/// ` callsite=generic_exec_single+0x54/0x178 callback=0x0`.
#[inline]
fn sent(text: &[u8], names: &mut Names, known: &mut Fields) -> Option<(Name, Name)> {
    let (_, rest) = around(text, b" callsite=")?;
    let (callsite, rest) = known.send_callsite.before(rest, b" callback=", names, symbol)?;
    Some((callsite, known.send_callback.whole(rest, names, symbol)))
}

/// `cpu=2 callsite=generic_exec_single+0x54/0x178 func=nohz_csd_func csd=000000006952b938`.
#[inline]
fn queue(text: &[u8], names: &mut Names, known: &mut Fields, what: &mut What) -> Option<()> {
    let cpu = cpu_number(number(text.strip_prefix(b"cpu=")?)?)?;
    let (_, rest) = around(text, b" callsite=")?;
    let (callsite, rest) = known.queue_callsite.before(rest, b" func=", names, symbol)?;
    let (function, csd) = known.queue_function.before(rest, b" csd=", names, symbol)?;
    *what = What::Queue { cpu, callsite, function, csd: pointer(csd) };
    Some(())
}

/// `func=nohz_csd_func, csd=000000006952b938`; without the comma in raw fields.
#[inline]
fn function(text: &[u8], names: &mut Names, known: &mut Fields) -> Option<(Name, u64)> {
    let rest = text.strip_prefix(b"func=")?;
    let read = |text: &[u8], names: &mut Names| symbol(text.strip_suffix(b",").unwrap_or(text), names);
    let (function, csd) = known.function.before(rest, b" csd=", names, read)?;
    Some((function, pointer(csd)))
}

/// What stands in front of a label that begins with a blank, and what stands behind it. Fields are short: to look from blank to blank is
/// several times as fast as to search for the label.
#[inline(always)]
fn around<'a>(text: &'a [u8], label: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut from = 0;
    loop {
        let at = blank(text, from)?;
        let (front, rest) = text.split_at(at);
        if let Some(behind) = rest.strip_prefix(label) {
            return Some((front, behind));
        }
        from = at + 1;
    }
}

/// `irq=2 name=IPI`: the number, and what stands behind it.
fn irq(text: &[u8]) -> Option<(u32, &[u8])> {
    let (irq, rest) = leading(text.strip_prefix(b"irq=")?)?;
    Some((u32::try_from(irq).ok()?, rest.trim_ascii()))
}

/// `prev_pid=… next_pid=…` of the kernel; `w.sh:172 [120] S ==> swapper/2:0 [120]` of trace-cmd.
fn switch(text: &[u8]) -> Option<What> {
    let pid = |text: &[u8], label: &[u8]| number(&text[memchr::memmem::rfind(text, label)? + label.len()..]);
    let shortly = |text: &[u8]| {
        let text = &text[..memchr::memmem::rfind(text, b" [")?];
        whole(&text[memchr::memrchr(b':', text)? + 1..])
    };
    let (from, to) = match (pid(text, b"prev_pid="), pid(text, b"next_pid=")) {
        (Some(from), Some(to)) => (from, to),
        _ => {
            let arrow = memchr::memmem::find(text, b" ==> ")?;
            (shortly(&text[..arrow])?, shortly(&text[arrow + 5..])?)
        }
    };
    Some(What::Switch { from: u32::try_from(from).ok()?, to: u32::try_from(to).ok()? })
}

/// What stands behind a label.
fn value<'a>(text: &'a [u8], label: &[u8]) -> Option<&'a [u8]> {
    memchr::memmem::find(text, label).map(|at| &text[at + label.len()..])
}

/// The address of call single data, or a hash of it; 0 where it was not told (`(____ptrval____)`).
#[inline]
fn pointer(text: &[u8]) -> u64 {
    if let Ok(sixteen) = text.strip_prefix(b"0x").unwrap_or(text).try_into()
        && let Some(value) = words::long_hexadecimal(sixteen)
    {
        return value;
    }
    short_pointer(text)
}

fn short_pointer(text: &[u8]) -> u64 {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    let digits = text.iter().take(16).map_while(|digit| nibble(*digit));
    digits.fold(0, |value, digit| value << 4 | u64::from(digit))
}

/// A decimal number, or a hexadecimal one behind `0x`, at the begin of a text.
fn number(text: &[u8]) -> Option<u64> {
    match text.strip_prefix(b"0x") {
        Some(rest) => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            hexadecimal(&rest[..digits])
        }
        None => leading(text).map(|(value, _)| value),
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | u64::from(nibble(*digit)?)))
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A decimal number that is the whole text.
fn whole(text: &[u8]) -> Option<u64> {
    leading(text).and_then(|(value, rest)| rest.is_empty().then_some(value))
}

/// The decimal number that a text begins with, and the rest.
fn leading(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    let mut digits = 0;
    while let Some(digit) = text.get(digits).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    (digits > 0).then(|| (value, &text[digits..]))
}

#[inline(always)]
fn spaces(text: &[u8]) -> &[u8] {
    match text {
        [b' ', rest @ ..] if rest.first() != Some(&b' ') => rest,
        [b' ', ..] => many_spaces(text),
        _ => text,
    }
}

fn many_spaces(mut text: &[u8]) -> &[u8] {
    while let Some(word) = words::word(text, 0) {
        let blanks = words::leading_zeros(word ^ BLANKS);
        text = text.get(blanks..).unwrap_or_default();
        if blanks < 8 {
            return text;
        }
    }
    &text[text.iter().take_while(|byte| **byte == b' ').count()..]
}

/// A text without white space at its ends.
#[inline(always)]
fn trimmed(text: &[u8]) -> &[u8] {
    let text = spaces(text);
    match text {
        [b'!'..=b'~', .., b'!'..=b'~'] => text,
        _ => text.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8]) -> (Told, Tally, Vec<Event>, Names) {
        let (mut names, mut events) = (Names::new(), Vec::new());
        let keep = |event: &Event, _: &mut Names| -> Result<(), std::convert::Infallible> {
            events.push(*event);
            Ok(())
        };
        let Ok((told, tally)) = read(text, &NoMarks, &mut names, keep);
        (told, tally, events, names)
    }

    #[test]
    fn a_line_reads_the_same_in_every_layout() {
        for (line, flags, t) in [
            (
                "            init-1       [003] d.h..     8.034540: ipi_entry: (Rescheduling interrupts)",
                "d.h..",
                8_034_540_000,
            ),
            ("            init-1       [003]      8.034540: ipi_entry: (Rescheduling interrupts)", "", 8_034_540_000),
            (
                "            init-1       (      1) [003] d....     8.034540: ipi_entry: (Rescheduling interrupts)",
                "d....",
                8_034_540_000,
            ),
            (
                "          <idle>-0       (-------) [003] d....     8.034540: ipi_entry: (Rescheduling interrupts)",
                "d....",
                8_034_540_000,
            ),
            (
                "            init-1       [003] d.h1...     8.034540: ipi_entry: (Rescheduling interrupts)",
                "d.h1...",
                8_034_540_000,
            ),
            (
                "            init-1     [003]     8.034540123: ipi_entry:            (Rescheduling interrupts)",
                "",
                8_034_540_123,
            ),
            ("init-1 [003] d.h1 8.034540: ipi_entry: (Rescheduling interrupts)", "d.h1", 8_034_540_000),
            ("    init-1         3d.h.. 278088us!: ipi_entry: (Rescheduling interrupts)", "d.h..", 278_088_000),
            (
                "    init-1         3d.h..     8.034540: ipi_entry:  reason=Rescheduling interrupts",
                "d.h..",
                8_034_540_000,
            ),
            (
                "            init       1   3 1 00000000 00000002 [007a98ec] 278.088ms (+0.923ms): ipi_entry: (Rescheduling interrupts)",
                "",
                8_034_540_000,
            ),
            (
                "            init-1       [003] dNh..     8.034540: ipi_entry: reason=(0xffffb5b668930ae0:Rescheduling interrupts)",
                "dNh..",
                8_034_540_000,
            ),
        ] {
            let (_, tally, events, names) = all(line.as_bytes());
            assert_eq!((tally.events, tally.unknown), (1, 0), "{line}: {tally:?}");
            let event = events[0];
            let told = String::from_utf8_lossy(&event.flags).trim_end_matches('\0').to_owned();
            assert_eq!((event.t, event.cpu, told.as_str()), (t, 3, flags), "{line}");
            let What::Entry { reason } = event.what else { panic!("{line}: {event:?}") };
            assert_eq!(names.text(reason), "Rescheduling interrupts", "{line}");
        }
    }

    #[test]
    fn names_of_tasks_may_hold_what_a_line_holds() {
        for (comm, line) in [
            ("a b-12 [001]", "    a b-12 [001]-4242    [003] d.h..     8.000001: ipi_exit: (IRQ work interrupts)"),
            ("x: y-z>", "         x: y-z>-4242    [003] d.h..     8.000001: ipi_exit: (IRQ work interrupts)"),
            ("a b-12 [001]", "a b-12 [001]-4242 [003] d.h.. 8.000001: ipi_exit: (IRQ work interrupts)"),
            ("kworker/2:1H", "    kworker/2:1H-4242    [003] d.h..     8.000001: ipi_exit: (IRQ work interrupts)"),
        ] {
            let (_, tally, events, names) = all(line.as_bytes());
            assert_eq!((tally.events, events[0].pid, events[0].cpu), (1, Some(4242), 3), "{line}");
            assert_eq!(names.text(events[0].comm), comm, "{line}");
        }
    }

    #[test]
    fn what_is_lost_is_told_by_all_tracers() {
        for (line, count) in [
            ("CPU:1 [LOST 528 EVENTS]", Some(528)),
            ("CPU:1 [528 EVENTS DROPPED]", Some(528)),
            ("CPU:1 [EVENTS DROPPED]", None),
            ("##### CPU 1 buffer started ####", None),
        ] {
            let (_, tally, events, _) = all(line.as_bytes());
            assert_eq!((events[0].cpu, events[0].what), (1, What::Lost { count }), "{line}");
            assert_eq!((tally.gaps, tally.lost, tally.unknown), (1, count.unwrap_or(0), 0), "{line}");
        }
    }

    #[test]
    fn a_line_without_end_is_one_unknown_line_and_memory_stays_bounded() {
        let line = "            init-1       [003] d.h..     8.034540: ipi_entry: (Rescheduling interrupts)\n";
        let text = format!("{line}{}\n{line}{}", "x".repeat(3 * LONGEST_LINE), "y".repeat(2 * LONGEST_LINE));
        let (_, tally, events, _) = all(text.as_bytes());
        assert_eq!((events.len(), tally.unknown), (2, 2), "{tally:?}");
    }

    #[test]
    fn an_input_that_breaks_off_gives_what_it_had() {
        struct Broken(usize);
        impl io::Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                const LINE: &[u8] =
                    b"            init-1       [003] d.h..     8.034540: ipi_entry: (Rescheduling interrupts)\n";
                self.0 += 1;
                if self.0 > 3 {
                    return Err(io::Error::other("the disk is gone"));
                }
                buffer[..LINE.len()].copy_from_slice(LINE);
                Ok(LINE.len())
            }
        }
        let mut count = 0;
        let sink = |_: &Event, _: &mut Names| -> Result<(), std::convert::Infallible> {
            count += 1;
            Ok(())
        };
        let Ok((told, _)) = read(Broken(0), &NoMarks, &mut Names::new(), sink);
        assert_eq!((count, told.cut.as_deref()), (3, Some("the disk is gone")));
    }

    /// Lines as both tracers print them, of every kind of event.
    const SAMPLES: [&str; 14] = [
        "            init-1       [003] d....     8.034540: ipi_raise: target_mask=00000000,0000000e (Function call interrupts)",
        "            init-1       [003] d....     8.034540: ipi_raise: target_cpus=ARRAY[04, 00, 00] reason=(0xff:x)",
        "            init-1       [003] d....     8.034540: ipi_entry: (Function call interrupts)",
        "            init-1     [003]     8.034540123: ipi_exit:             (Rescheduling interrupts)",
        "            init-1       [003] d....     8.034540: ipi_send_cpu: cpu=2 callsite=a+0x54/0x98 callback=0x0",
        "            init-1       [003] d....     8.034540: ipi_send_cpu: cpu=2 callsite=a+0x54/0x98 [mod] callback=b+0x0/0x8 [mod]",
        "            init-1       [003] d....     8.034540: ipi_send_cpumask: cpumask=1-3 callsite=a callback=0x0 (0)",
        "            init-1       [003] d....     8.034540: csd_queue_cpu: cpu=0x2 (2) callsite=a func=b csd=000000006952b938",
        "            init-1     [003]     8.034540123: csd_queue_cpu:        cpu=2 callsite=a+0x54 func=b csd=0xffff00006952b938",
        "            init-1       [003] d....     8.034540: csd_function_entry: func=b [mod], csd=000000006952b938",
        "            init-1       [003] d....     8.034540: csd_function_exit: func=b [mod], csd=(____ptrval____)",
        "    init-1         3d.... 278088us!: irq_handler_entry: irq=2 name=IPI",
        "            init       1   3 1 00000000 00000000 [007a98ec] 278.088ms (+0.923ms): cpu_idle: state=1 cpu_id=3",
        "            init-1       [003] d....     8.034540: sched_switch: prev_comm=a prev_pid=1 ==> next_comm=b next_pid=2",
    ];

    /// The event of a line, its names as text: `Name`s are numbered in the order of their use.
    fn shown(event: &Event, names: &Names) -> String {
        let text = |name: Name| names.text(name).to_owned();
        let what = match event.what {
            What::Raise { reason, .. } | What::Entry { reason } | What::Exit { reason } => text(reason),
            What::SendCpu { callsite, callback, .. } | What::SendMask { callsite, callback, .. } => {
                format!("{} {}", text(callsite), text(callback))
            }
            What::Queue { callsite, function, .. } => format!("{} {}", text(callsite), text(function)),
            What::FunctionEntry { function, .. } | What::FunctionExit { function, .. } => text(function),
            What::IrqEntry { name, .. } => text(name),
            _ => String::new(),
        };
        let numbers = match event.what {
            What::Raise { targets, .. } => format!("{targets:?}"),
            What::SendCpu { cpu, .. } => cpu.to_string(),
            What::SendMask { targets, .. } => format!("{targets:?}"),
            What::Queue { cpu, csd, .. } => format!("{cpu} {csd:x}"),
            What::FunctionEntry { csd, .. } | What::FunctionExit { csd, .. } => format!("{csd:x}"),
            What::IrqEntry { irq, .. } => irq.to_string(),
            What::Entry { .. } | What::Exit { .. } => String::new(),
            other => format!("{other:?}"),
        };
        let Event { t, cpu, pid, comm, flags, .. } = event;
        format!("{t} {cpu} {pid:?} {} {flags:?} {} {numbers} {what}", text(*comm), event.what.name())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// What a reader remembers of the lines in front (columns, fields) makes no difference, and neither does reading by columns.
        #[test]
        fn a_line_means_the_same_whatever_was_read_before(
            lines in prop::collection::vec((0..SAMPLES.len(), prop::collection::vec(
                (0_usize..130, prop::sample::select(b" -0189[](),.:=+abxN\xFF".to_vec())), 0..3,
            )), 1..12),
        ) {
            let mut names = Names::new();
            let mut lines_read = Lines::new(&NoMarks, &mut names);
            for (which, changes) in lines {
                let mut line = SAMPLES[which].as_bytes().to_vec();
                for (at, byte) in changes {
                    if let Some(place) = line.get_mut(at) {
                        *place = byte;
                    }
                }
                let mut read = None;
                let keep = |event: &Event, names: &mut Names| -> Result<(), std::convert::Infallible> {
                    read = Some(shown(event, names));
                    Ok(())
                };
                let before = lines_read.tally.clone();
                let Ok(()) = lines_read.line(&line, &mut { keep });
                let mut fresh_names = Names::new();
                let mut fresh = Lines::new(&NoMarks, &mut fresh_names);
                let alone = fresh.odd_line(&line).then(|| shown(&fresh.event, fresh.names));
                prop_assert_eq!(read, alone, "{}", String::from_utf8_lossy(&line));
                let counts = |tally: &Tally| [tally.events, tally.others, tally.ignored, tally.unknown, tally.gaps];
                let (now, then) = (counts(&lines_read.tally), counts(&before));
                let grown: [u64; 5] = std::array::from_fn(|at| now[at] - then[at]);
                prop_assert_eq!(grown, counts(&fresh.tally));
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_in_a_text_makes_a_reader_panic(text in prop::collection::vec(any::<u8>(), 0..4000)) {
            all(&text);
        }

        #[test]
        fn nor_does_a_line_that_was_changed(
            at in 0_usize..400,
            with in any::<u8>(),
            cut in 0_usize..400,
            which in 0..SAMPLES.len(),
        ) {
            let mut line = SAMPLES[which].as_bytes().to_vec();
            let place = at % line.len();
            line[place] = with;
            line.truncate(line.len() - cut % line.len());
            all(&line);
        }
    }
}
