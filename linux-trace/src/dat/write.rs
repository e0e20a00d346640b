//! Writes `trace.dat`, so that trace-cmd and KernelShark show what no kernel recorded.
//!
//! Version 6, little endian, 64-bit, rings of 4 KiB pages, with the kernel's own event names and formats: what greps and filters a
//! kernel's trace does so with these. A file begins with the names and the places of the data, which are known last: pages go to
//! a scratch file as they fill, and [`Writer::finish`] writes the file in one sequence. In memory are one page of each CPU, the names,
//! and eight bytes for each page that was written.
//!
//! A record holds addresses, an [`Event`] names. Each symbol gets sixteen MiB of an address space of the file's own, in which no
//! kernel's address lies, and the file's kallsyms name it; `name+0x54/0x178` is the address 0x54 behind its begin (the length is not
//! kept: trace-cmd does not print it either). A name that is a number (`0xffff800080012345`) is that address.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::decode::flag;
use super::file::{MAGIC, option};
use super::page::{MISSED, MISSED_STORED, TIME_BITS, TIME_EXTEND, TIME_STAMP, TOP_OF_TIME};
use super::symbols::LONGEST_FUNCTION;
use crate::mask::MOST_CPUS;
use crate::{Clock, Event, Mask, Name, Texts, What};

/// Bytes of a ring's page.
const PAGE: usize = 4096;

/// Bytes in front of a page's records: the time, and `commit`.
const PAGE_HEAD: usize = 16;

/// The longest record whose length stands in its head's type, bytes (`RINGBUF_TYPE_DATA_TYPE_LEN_MAX` words).
const SHORT: usize = 28 * 4;

/// Where the symbols and the kernel's strings lie: no kernel's address is there, for with bit 55 clear it is in the lower half of
/// AArch64's address space, which is the user's, and with bit 52 set beyond the 52 bits that a user has without FEAT_LVA3.
const SYMBOLS: u64 = 0x0010 << 48;
const STRINGS: u64 = 0x0018 << 48;

/// What each has of it, bytes: a symbol as far as the reader looks for one.
const SYMBOL_SIZE: u64 = LONGEST_FUNCTION;
const STRING_SIZE: u64 = 1 << 10;

/// The function whose `print` is a text that user space wrote (kernel/trace/trace.c).
const MARKER: &str = "tracing_mark_write";

/// `DEFAULT_PRIO` (include/linux/sched/prio.h): what tasks have that asked for no other.
const DEFAULT_PRIORITY: u64 = 120;

/// The number of the event that is none, of those that no kernel has in this file.
const NOTHING: u16 = 1000;

/// A field: its declaration, its bytes (0: open to the record's end), whether it is signed.
type Declared = (&'static str, usize, bool);

/// One event's format.
struct Format {
    system: &'static str,
    name: &'static str,
    id: u16,
    fields: &'static [Declared],
    print: &'static str,
}

/// What every record begins with.
const COMMON: [Declared; 4] = [
    ("unsigned short common_type", 2, false),
    ("unsigned char common_flags", 1, false),
    ("unsigned char common_preempt_count", 1, false),
    ("int common_pid", 4, true),
];

const REASON: Declared = ("const char * reason", 8, false);
const CALLSITE: Declared = ("void * callsite", 8, false);
const CALLBACK: Declared = ("void * callback", 8, false);
const CPU: Declared = ("unsigned int cpu", 4, false);
const FUNCTION: Declared = ("void * func", 8, false);
const CSD: Declared = ("void * csd", 8, false);

/// The events that are written, as kernel 6.12 declares them (`events/*/*/format` of tracefs). Numbers are a kernel's own choice, but for
/// `print`, which is 5 in all (`enum trace_type`, kernel/trace/trace.h).
const FORMATS: [Format; 14] = [
    Format {
        system: "ftrace",
        name: "print",
        id: 5,
        fields: &[("unsigned long ip", 8, false), ("char buf[]", 0, false)],
        print: r#""%ps: %s", (void *)REC->ip, REC->buf"#,
    },
    Format {
        system: "irq",
        name: "irq_handler_exit",
        id: 100,
        fields: &[("int irq", 4, true), ("int ret", 4, true)],
        print: r#""irq=%d ret=%s", REC->irq, REC->ret ? "handled" : "unhandled""#,
    },
    Format {
        system: "irq",
        name: "irq_handler_entry",
        id: 101,
        fields: &[("int irq", 4, true), ("__data_loc char[] name", 4, false)],
        print: r#""irq=%d name=%s", REC->irq, __get_str(name)"#,
    },
    Format { system: "ipi", name: "ipi_exit", id: 225, fields: &[REASON], print: r#""(%s)", REC->reason"# },
    Format { system: "ipi", name: "ipi_entry", id: 226, fields: &[REASON], print: r#""(%s)", REC->reason"# },
    Format {
        system: "ipi",
        name: "ipi_send_cpumask",
        id: 227,
        fields: &[("__data_loc cpumask_t cpumask", 4, false), CALLSITE, CALLBACK],
        print: r#""cpumask=%s callsite=%pS callback=%pS", __get_cpumask(cpumask), REC->callsite, REC->callback"#,
    },
    Format {
        system: "ipi",
        name: "ipi_send_cpu",
        id: 228,
        fields: &[CPU, CALLSITE, CALLBACK],
        print: r#""cpu=%u callsite=%pS callback=%pS", REC->cpu, REC->callsite, REC->callback"#,
    },
    Format {
        system: "ipi",
        name: "ipi_raise",
        id: 229,
        fields: &[("__data_loc unsigned long[] target_cpus", 4, false), REASON],
        print: r#""target_mask=%s (%s)", __get_bitmask(target_cpus), REC->reason"#,
    },
    Format {
        system: "sched",
        name: "sched_switch",
        id: 250,
        fields: &[
            ("char prev_comm[16]", 16, false),
            ("pid_t prev_pid", 4, true),
            ("int prev_prio", 4, true),
            ("long prev_state", 8, true),
            ("char next_comm[16]", 16, false),
            ("pid_t next_pid", 4, true),
            ("int next_prio", 4, true),
        ],
        // Without the letters of the states: all are written as runnable, 0.
        print: r#""prev_comm=%s prev_pid=%d prev_prio=%d prev_state=%s ==> next_comm=%s next_pid=%d next_prio=%d", REC->prev_comm, REC->prev_pid, REC->prev_prio, REC->prev_state ? "?" : "R", REC->next_comm, REC->next_pid, REC->next_prio"#,
    },
    Format {
        system: "power",
        name: "cpu_idle",
        id: 300,
        fields: &[("u32 state", 4, false), ("u32 cpu_id", 4, false)],
        print: r#""state=%lu cpu_id=%lu", (unsigned long)REC->state, (unsigned long)REC->cpu_id"#,
    },
    Format {
        system: "csd",
        name: "csd_function_exit",
        id: 402,
        fields: &[FUNCTION, CSD],
        print: r#""func=%ps, csd=%p", REC->func, REC->csd"#,
    },
    Format {
        system: "csd",
        name: "csd_function_entry",
        id: 403,
        fields: &[FUNCTION, CSD],
        print: r#""func=%ps, csd=%p", REC->func, REC->csd"#,
    },
    Format {
        system: "csd",
        name: "csd_queue_cpu",
        id: 404,
        fields: &[CPU, CALLSITE, FUNCTION, CSD],
        print: r#""cpu=%u callsite=%pS func=%ps csd=%p", REC->cpu, REC->callsite, REC->func, REC->csd"#,
    },
    // No kernel's: what trace-cmd needs to print a loss behind which no event of the CPU stands.
    Format { system: "ipiscope", name: "nothing", id: NOTHING, fields: &[], print: r#""no event behind this loss""# },
];

impl Format {
    /// The text that the kernel would give of it, with the fields where a compiler puts them.
    fn text(&self) -> String {
        let mut text = format!("name: {}\nID: {}\nformat:\n", self.name, self.id);
        let mut at = 0_usize;
        for (place, (declaration, size, signed)) in COMMON.iter().chain(self.fields).enumerate() {
            // An array of characters stands anywhere.
            at = at.next_multiple_of(if *size > 8 { 1 } else { (*size).max(1) });
            let signed = u8::from(*signed);
            text += &format!("\tfield:{declaration};\toffset:{at};\tsize:{size};\tsigned:{signed};\n");
            at += size;
            if place + 1 == COMMON.len() {
                text.push('\n');
            }
        }
        text + "\nprint fmt: " + self.print + "\n"
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    /// CPUs of the machine. Where an event comes from one beyond, the file has more.
    pub cpus: u16,
    /// The clock of its times; a capture of bare metal has [`Clock::Local`]. [`Clock::Unknown`]: the file does not say.
    pub clock: Clock,
    /// The machine, as `uname` would say it (`trace-cmd dump --options` shows it); empty: not told.
    pub machine: String,
    /// Who wrote it, with its version; empty: not told.
    pub recorder: String,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events, without losses.
    pub events: u64,
    /// Losses that were told ([`What::Lost`]).
    pub gaps: u64,
    /// Events that they told of, where they said how many.
    pub lost: u64,
    /// Events that are earlier than the one in front of them on their CPU. They are written with their own times; trace-cmd gives them in
    /// the order of the file.
    pub backwards: u64,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why a file is not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file itself.
    #[error("the trace.dat cannot be written: {0}")]
    Out(#[source] io::Error),
    /// The scratch file.
    #[error("the scratch file of a trace.dat cannot be used: {0}")]
    Scratch(#[source] io::Error),
    /// A CPU beyond those that are read again.
    #[error("an event of CPU {0}: a trace.dat has CPUs 0 to {last}", last = MOST_CPUS - 1)]
    Cpu(u16),
}

/// One CPU's ring.
#[derive(Debug, Default)]
struct Lane {
    /// The page that is being filled, with its head; empty: none is.
    page: Vec<u8>,
    /// The time of the last record or page.
    t: u64,
    /// Events are missing in front of the page: how many.
    missed: Option<Option<u64>>,
    /// Where the full pages stand in the scratch file, in pages.
    written: Vec<u64>,
}

impl Lane {
    /// Begins a page at a time.
    fn open(&mut self, t: u64, missed: Option<Option<u64>>) {
        self.page.clear();
        self.page.extend_from_slice(&t.to_le_bytes());
        self.page.extend_from_slice(&[0; 8]);
        (self.t, self.missed) = (t, missed);
    }

    /// Ends the page: its `commit`, the number of lost events behind the records, and zeros.
    fn close(&mut self) {
        if self.missed.is_some() && self.page.len() == PAGE_HEAD {
            let mut nothing = Record::default();
            nothing.common(NOTHING, (0, 0), 0);
            self.put(self.t, &nothing.bytes);
        }
        let mut commit = (self.page.len() - PAGE_HEAD) as u64;
        match self.missed.take() {
            None => {}
            Some(None) => commit |= MISSED,
            Some(Some(count)) => {
                commit |= MISSED | MISSED_STORED;
                self.page.extend_from_slice(&count.to_le_bytes());
            }
        }
        if let Some(place) = self.page.get_mut(8..PAGE_HEAD) {
            place.copy_from_slice(&commit.to_le_bytes());
        }
        self.page.resize(PAGE, 0);
    }

    /// Whether a record fits behind the two words that may stand in front of it, and those of its own head, and in front of the number of
    /// lost events.
    fn has_room(&self, record: usize) -> bool {
        self.page.len() + 8 + 8 + record.next_multiple_of(4) + 8 <= PAGE
    }

    fn word(&mut self, word: u32) {
        self.page.extend_from_slice(&word.to_le_bytes());
    }

    /// A record's head: its type, 27 bits of time.
    fn head(&mut self, kind: u32, time: u64) {
        self.word((time as u32 & ((1 << TIME_BITS) - 1)) << 5 | kind);
    }

    /// Puts a record into the open page.
    fn put(&mut self, t: u64, record: &[u8]) {
        let mut delta = t.wrapping_sub(self.t);
        if t < self.t {
            self.head(TIME_STAMP, t);
            self.word((t >> TIME_BITS) as u32);
            delta = 0;
        } else if delta >> TIME_BITS != 0 {
            self.head(TIME_EXTEND, delta);
            self.word((delta >> TIME_BITS) as u32);
            delta = 0;
        }
        self.t = t;
        let len = record.len().next_multiple_of(4);
        if len <= SHORT {
            self.head(len as u32 / 4, delta);
        } else {
            self.head(0, delta);
            self.word(len as u32 + 4);
        }
        let end = self.page.len() + len;
        self.page.extend_from_slice(record);
        self.page.resize(end, 0);
    }
}

/// Names to addresses.
#[derive(Debug, Default)]
struct Addresses {
    /// The number of a symbol, by its line of kallsyms: `name`, or `name\t[module]`.
    symbols: HashMap<String, u64>,
    /// The number of a string.
    strings: HashMap<String, u64>,
    /// What was found before, by the name's number; 0: not yet.
    places: Vec<u64>,
    texts: Vec<u64>,
}

/// A number in hexadecimal behind `0x`.
fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    u64::from_str_radix(digits, 16).ok()
}

impl Addresses {
    /// The address of a place (`%pS`) or a function (`%ps`).
    fn place(&mut self, name: Name, names: &(impl Texts + ?Sized)) -> u64 {
        if name.is_none() {
            return 0;
        }
        if let Some(address @ 1..) = self.places.get(name.0 as usize) {
            return *address;
        }
        let address = self.symbol(names.text(name));
        keep(&mut self.places, name, address);
        address
    }

    /// The address of a string that the kernel has.
    fn string(&mut self, name: Name, names: &(impl Texts + ?Sized)) -> u64 {
        if name.is_none() {
            return 0;
        }
        if let Some(address @ 1..) = self.texts.get(name.0 as usize) {
            return *address;
        }
        let text = names.text(name);
        let number = self.strings.len() as u64;
        let address = hexadecimal(text)
            .unwrap_or_else(|| STRINGS + *self.strings.entry(text.into()).or_insert(number) * STRING_SIZE);
        keep(&mut self.texts, name, address);
        address
    }

    fn symbol(&mut self, text: &str) -> u64 {
        if let Some(address) = hexadecimal(text) {
            return address;
        }
        let (place, module) = match text.strip_suffix(']').and_then(|text| text.rsplit_once(" [")) {
            Some((place, module)) => (place, Some(module)),
            None => (text, None),
        };
        let offset = |text: &str| hexadecimal(text.split_once('/').map_or(text, |(offset, _)| offset));
        let (symbol, offset) = match place.rsplit_once('+').map(|(symbol, rest)| (symbol, offset(rest))) {
            Some((symbol, Some(offset))) if !symbol.is_empty() && offset < SYMBOL_SIZE => (symbol, offset),
            _ => (place, 0),
        };
        // A line of kallsyms is words, and a symbol with `$` an assembler's mark.
        let word = |text: &str| -> String {
            let letter = |letter: char| if letter.is_whitespace() || letter.is_control() { '_' } else { letter };
            text.chars().map(letter).collect()
        };
        let mut line = word(symbol);
        if line.starts_with('$') || line.is_empty() {
            line.insert(0, '_');
        }
        if let Some(module) = module {
            line = format!("{line}\t[{}]", word(module));
        }
        let number = self.symbols.len() as u64;
        SYMBOLS + *self.symbols.entry(line).or_insert(number) * SYMBOL_SIZE + offset
    }

    fn kallsyms(&self) -> String {
        let mut lines: Vec<_> = self.symbols.iter().map(|(line, number)| (number, line)).collect();
        lines.sort_unstable();
        // trace-cmd ends a function where the next begins, and takes the last one's first byte alone.
        let (end, last) = (lines.len() as u64, String::from("_end"));
        lines.push((&end, &last));
        lines.iter().map(|(number, line)| format!("{:016x} t {line}\n", SYMBOLS + *number * SYMBOL_SIZE)).collect()
    }

    fn printk_formats(&self) -> String {
        let mut lines: Vec<_> = self.strings.iter().map(|(text, number)| (number, text)).collect();
        lines.sort_unstable();
        let escaped = |text: &str| -> String {
            text.chars().fold(String::new(), |text, letter| match letter {
                '\n' => text + "\\n",
                '\t' => text + "\\t",
                '\r' => text + "\\r",
                '"' => text + "\\\"",
                '\\' => text + "\\\\",
                '\0' => text,
                letter => text + letter.encode_utf8(&mut [0; 4]),
            })
        };
        let line = |(number, text): &(&u64, &String)| {
            format!("{:#x} : \"{}\"\n", STRINGS + *number * STRING_SIZE, escaped(text))
        };
        lines.iter().map(line).collect()
    }
}

/// Keeps an address under a name's number.
fn keep(list: &mut Vec<u64>, name: Name, address: u64) {
    let at = name.0 as usize;
    if list.len() <= at {
        list.resize(at + 1, 0);
    }
    if let Some(place) = list.get_mut(at) {
        *place = address;
    }
}

/// A record in the making.
#[derive(Debug, Default)]
struct Record {
    bytes: Vec<u8>,
}

impl Record {
    /// What every record begins with ([`COMMON`]).
    fn common(&mut self, id: u16, (flags, preempt): (u64, u64), pid: u32) {
        self.bytes.clear();
        self.number(id.into(), 2);
        self.number(flags, 1);
        self.number(preempt, 1);
        self.number(pid.into(), 4);
    }

    /// A number of `size` bytes, at the next multiple of that.
    fn number(&mut self, value: u64, size: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(size), 0);
        self.bytes.extend_from_slice(value.to_le_bytes().get(..size).unwrap_or_default());
    }

    /// The word that will say where bytes stand behind the fields.
    fn location(&mut self) -> usize {
        self.number(0, 4);
        self.bytes.len() - 4
    }

    /// Puts those bytes there.
    fn behind(&mut self, location: usize, bytes: impl IntoIterator<Item = u8>) {
        let at = self.bytes.len();
        self.bytes.extend(bytes);
        let word = ((self.bytes.len() - at) << 16 | at) as u32;
        if let Some(place) = self.bytes.get_mut(location..location + 4) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// A task's name: 15 bytes and a zero (`TASK_COMM_LEN`, include/linux/sched.h).
    fn comm(&mut self, text: &str) {
        let end = self.bytes.len() + 16;
        self.bytes.extend(text.bytes().take(15));
        self.bytes.resize(end, 0);
    }
}

/// Bits and preempt count of a flags column, as far as it says them; the reverse of what the reader prints.
///
/// Five letters, or four in front of 5.15 (no migrate-disable depth); RT kernels have a letter of the lazy wish behind the second, and
/// a lazy count that no field of these formats holds.
fn flags(text: &[u8; 8]) -> (u64, u64) {
    let len = text.iter().position(|letter| *letter == 0).unwrap_or(8);
    let letter = |at: usize| text.get(at).copied().unwrap_or(0);
    let digit = |letter: u8| u64::from(char::from(letter).to_digit(16).unwrap_or(0));
    let mut bits = match letter(0) {
        b'd' => flag::IRQS_OFF,
        b'D' => flag::IRQS_OFF | flag::BH_OFF,
        b'b' => flag::BH_OFF,
        _ => 0,
    };
    bits |= match letter(1) {
        b'B' => flag::RESCHED | flag::PREEMPT_RESCHED | flag::RESCHED_LAZY,
        b'N' => flag::RESCHED | flag::PREEMPT_RESCHED,
        b'L' => flag::PREEMPT_RESCHED | flag::RESCHED_LAZY,
        b'b' => flag::RESCHED | flag::RESCHED_LAZY,
        b'n' => flag::RESCHED,
        b'l' => flag::RESCHED_LAZY,
        b'p' => flag::PREEMPT_RESCHED,
        _ => 0,
    };
    let lazy = usize::from(len >= 6);
    if lazy == 1 && matches!(letter(2), b'L' | b'l') {
        bits |= flag::RESCHED_LAZY;
    }
    bits |= match letter(2 + lazy) {
        b'Z' => flag::NMI | flag::HARDIRQ,
        b'z' => flag::NMI,
        b'H' => flag::HARDIRQ | flag::SOFTIRQ,
        b'h' => flag::HARDIRQ,
        b's' => flag::SOFTIRQ,
        _ => 0,
    };
    (bits, digit(letter(4 + 2 * lazy)) << 4 | digit(letter(3 + lazy)))
}

/// A `trace.dat` in the making. Events are pushed, each CPU's in the order of their times.
pub struct Writer<W, S> {
    out: W,
    scratch: S,
    meta: Meta,
    lanes: Vec<Lane>,
    addresses: Addresses,
    /// The last name that each process id had.
    tasks: HashMap<u32, Name>,
    marker: u64,
    record: Record,
    /// Pages in the scratch file.
    pages: u64,
    counts: Counts,
}

impl<W: Write, S: Read + Write + Seek> Writer<W, S> {
    /// Begins a file. Nothing is written to `out` before [`Writer::finish`]; `scratch` is an empty file that nobody needs afterwards
    /// (`tempfile::tempfile()`), which gets as large as the data.
    pub fn new(out: W, scratch: S, meta: Meta) -> Writer<W, S> {
        let mut addresses = Addresses::default();
        let marker = addresses.symbol(MARKER);
        let mut lanes = Vec::new();
        lanes.resize_with(usize::from(meta.cpus.clamp(1, MOST_CPUS as u16)), Lane::default);
        Writer {
            out,
            scratch,
            meta,
            lanes,
            addresses,
            tasks: HashMap::new(),
            marker,
            record: Record::default(),
            pages: 0,
            counts: Counts::default(),
        }
    }

    /// Takes an event. `names` is the same table for all of them.
    ///
    /// Times may be any `u64`; where the way from one event of a CPU to the next, or back, does not fit 59 bits, a new page begins. A
    /// [`What::Lost`] begins a page, at which the loss is told; where no event of the CPU follows, the page has one of a kind that no kernel
    /// has (`ipiscope:nothing`), for trace-cmd prints a loss with the event behind it.
    ///
    /// What a record has and an event does not is written as it is most often: interrupts were handled, tasks are runnable and of the
    /// default priority. Flags that are not told are those of a task that may be interrupted; a process id that is not told is -1.
    /// KernelShark draws bars of tasks only, not of process id 0 (idle) or -1: give each core of a bare-metal capture a process id.
    ///
    /// # Errors
    /// The scratch file cannot be written, or the CPU is beyond what a `trace.dat` can have.
    pub fn event(&mut self, event: &Event, names: &(impl Texts + ?Sized)) -> Result<(), WriteError> {
        let cpu = usize::from(event.cpu);
        if cpu >= MOST_CPUS {
            return Err(WriteError::Cpu(event.cpu));
        }
        if cpu >= self.lanes.len() {
            self.lanes.resize_with(cpu + 1, Lane::default);
        }
        if let (Some(pid @ 1..), false) = (event.pid, event.comm.is_none()) {
            self.tasks.insert(pid, event.comm);
        }
        let lost = if let What::Lost { count } = event.what { Some(count) } else { None };
        if lost.is_none() {
            self.encode(event, names);
        }
        let Some(lane) = self.lanes.get_mut(cpu) else { return Ok(()) };
        let begun = !lane.page.is_empty();
        let earlier = event.t < lane.t && (begun || !lane.written.is_empty());
        self.counts.backwards += u64::from(earlier);
        // An absolute stamp says nothing of the upper bits, an extended delta neither.
        let far = if earlier { event.t | lane.t } else { event.t.wrapping_sub(lane.t) } & TOP_OF_TIME != 0;
        if begun && (lost.is_some() || far || !lane.has_room(self.record.bytes.len())) {
            lane.close();
            self.scratch.write_all(&lane.page).map_err(WriteError::Scratch)?;
            lane.written.push(self.pages);
            lane.page.clear();
            self.pages += 1;
        }
        if lane.page.is_empty() {
            lane.open(event.t, lost);
        }
        match lost {
            Some(count) => {
                self.counts.gaps += 1;
                self.counts.lost = self.counts.lost.saturating_add(count.unwrap_or(0));
            }
            None => {
                self.counts.events += 1;
                lane.put(event.t, &self.record.bytes);
            }
        }
        Ok(())
    }

    /// Makes the record of an event.
    fn encode(&mut self, event: &Event, names: &(impl Texts + ?Sized)) {
        let (addresses, record) = (&mut self.addresses, &mut self.record);
        let name = match event.what {
            What::Mark { .. } => "print",
            what => what.name(),
        };
        let id = FORMATS.iter().find(|format| format.name == name).map_or(0, |format| format.id);
        record.common(id, flags(&event.flags), event.pid.unwrap_or(u32::MAX));
        let cpus = self.meta.cpus;
        // As many longs as the machine's CPUs need, more where the mask has more.
        let bitmap = |mask: &Mask| {
            let words = mask.words();
            let used = words.iter().rposition(|word| *word != 0).map_or(1, |at| at + 1);
            let len = used.max(usize::from(cpus).div_ceil(64)).min(words.len());
            words.iter().take(len).flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        match event.what {
            What::Raise { targets, reason } => {
                let location = record.location();
                record.number(addresses.string(reason, names), 8);
                record.behind(location, bitmap(&targets));
            }
            What::Entry { reason } | What::Exit { reason } => record.number(addresses.string(reason, names), 8),
            What::SendCpu { cpu, callsite, callback } => {
                record.number(cpu.into(), 4);
                record.number(addresses.place(callsite, names), 8);
                record.number(addresses.place(callback, names), 8);
            }
            What::SendMask { targets, callsite, callback } => {
                let location = record.location();
                record.number(addresses.place(callsite, names), 8);
                record.number(addresses.place(callback, names), 8);
                record.behind(location, bitmap(&targets));
            }
            What::Queue { cpu, callsite, function, csd } => {
                record.number(cpu.into(), 4);
                record.number(addresses.place(callsite, names), 8);
                record.number(addresses.place(function, names), 8);
                record.number(csd, 8);
            }
            What::FunctionEntry { function, csd } | What::FunctionExit { function, csd } => {
                record.number(addresses.place(function, names), 8);
                record.number(csd, 8);
            }
            What::IrqEntry { irq, name } => {
                record.number(irq.into(), 4);
                let location = record.location();
                record.behind(location, names.text(name).bytes().chain([0]));
            }
            What::IrqExit { irq } => {
                record.number(irq.into(), 4);
                record.number(1, 4);
            }
            What::Idle { state } => {
                record.number(state.unwrap_or(u32::MAX).into(), 4);
                record.number(event.cpu.into(), 4);
            }
            What::Switch { from, to } => {
                let comm = |pid: u32| match pid {
                    0 => format!("swapper/{}", event.cpu),
                    // As the kernel prints a task whose name it does not have.
                    _ => self.tasks.get(&pid).map_or("<...>", |name| names.text(*name)).to_owned(),
                };
                record.comm(&comm(from));
                record.number(from.into(), 4);
                record.number(DEFAULT_PRIORITY, 4);
                record.number(0, 8);
                record.comm(&comm(to));
                record.number(to.into(), 4);
                record.number(DEFAULT_PRIORITY, 4);
            }
            What::Mark { function, text, user } => {
                record.number(if user { self.marker } else { addresses.place(function, names) }, 8);
                record.bytes.extend(names.text(text).bytes().chain([0]));
            }
            What::Lost { .. } => {}
        }
    }

    /// Writes the file: the formats, the names, and the pages of each CPU.
    ///
    /// # Errors
    /// The file cannot be written, or the scratch file not read.
    pub fn finish(mut self, names: &(impl Texts + ?Sized)) -> Result<Counts, WriteError> {
        let head = self.head(names);
        self.out.write_all(&head).map_err(WriteError::Out)?;
        let mut page = vec![0; PAGE];
        for lane in &mut self.lanes {
            for at in &lane.written {
                self.scratch.seek(SeekFrom::Start(at * PAGE as u64)).map_err(WriteError::Scratch)?;
                self.scratch.read_exact(&mut page).map_err(WriteError::Scratch)?;
                self.out.write_all(&page).map_err(WriteError::Out)?;
            }
            if !lane.page.is_empty() {
                lane.close();
                self.out.write_all(&lane.page).map_err(WriteError::Out)?;
            }
        }
        self.out.flush().map_err(WriteError::Out)?;
        let pages: u64 = self.lanes.iter().map(pages).sum();
        Ok(Counts { pages, bytes: head.len() as u64 + pages * PAGE as u64, ..self.counts })
    }

    /// All that stands in front of the data (`trace-cmd.dat.v6(5)`).
    fn head(&self, names: &(impl Texts + ?Sized)) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(b"6\0");
        // Little endian, long of 8 bytes.
        out.extend_from_slice(&[0, 8]);
        put(&mut out, PAGE as u64, 4);
        out.extend_from_slice(b"header_page\0");
        let page = format!(
            "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
             \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
             \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
             \tfield: char data;\toffset:{PAGE_HEAD};\tsize:{};\tsigned:0;\n",
            PAGE - PAGE_HEAD
        );
        sized(&mut out, page.as_bytes(), 8);
        out.extend_from_slice(b"header_event\0");
        let event = "# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\
                     \tarray       :   32 bits\n\n\tpadding     : type == 29\n\ttime_extend : type == 30\n\
                     \ttime_stamp : type == 31\n\tdata max type_len  == 28\n";
        sized(&mut out, event.as_bytes(), 8);
        let mut systems: Vec<(&str, Vec<&Format>)> = vec![("ftrace", Vec::new())];
        for format in &FORMATS {
            match systems.iter_mut().find(|(system, _)| *system == format.system) {
                Some((_, formats)) => formats.push(format),
                None => systems.push((format.system, vec![format])),
            }
        }
        // ftrace's own stand in front, under no name.
        for (at, (system, formats)) in systems.iter().enumerate() {
            if at == 1 {
                put(&mut out, systems.len() as u64 - 1, 4);
            }
            if at > 0 {
                out.extend_from_slice(system.as_bytes());
                out.push(0);
            }
            put(&mut out, formats.len() as u64, 4);
            for format in formats {
                sized(&mut out, format.text().as_bytes(), 8);
            }
        }
        sized(&mut out, self.addresses.kallsyms().as_bytes(), 4);
        sized(&mut out, self.addresses.printk_formats().as_bytes(), 4);
        let mut tasks: Vec<_> = self.tasks.iter().collect();
        tasks.sort_unstable();
        let task = |(pid, name): &(&u32, &Name)| format!("{pid} {}\n", names.text(**name).replace(['\n', '\0'], "_"));
        sized(&mut out, tasks.iter().map(task).collect::<String>().as_bytes(), 8);
        put(&mut out, self.lanes.len() as u64, 4);
        out.extend_from_slice(b"options  \0");
        let clock = clock_name(self.meta.clock).map(|name| format!("[{name}]")).unwrap_or_default();
        let texts =
            [(option::TRACECLOCK, &clock), (option::UNAME, &self.meta.machine), (option::VERSION, &self.meta.recorder)];
        for (id, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            put(&mut out, id.into(), 2);
            sized(&mut out, &[text.as_bytes(), b"\0"].concat(), 4);
        }
        put(&mut out, option::DONE.into(), 2);
        out.extend_from_slice(b"flyrecord\0");
        let begin = (out.len() + self.lanes.len() * 16).next_multiple_of(PAGE);
        let mut at = begin as u64;
        for lane in &self.lanes {
            let size = pages(lane) * PAGE as u64;
            put(&mut out, at, 8);
            put(&mut out, size, 8);
            at += size;
        }
        out.resize(begin, 0);
        out
    }
}

/// A number of `size` bytes.
fn put(out: &mut Vec<u8>, value: u64, size: usize) {
    out.extend_from_slice(value.to_le_bytes().get(..size).unwrap_or_default());
}

/// A text behind its length.
fn sized(out: &mut Vec<u8>, text: &[u8], size: usize) {
    put(out, text.len() as u64, size);
    out.extend_from_slice(text);
}

/// Pages of a CPU, with the one that is being filled.
fn pages(lane: &Lane) -> u64 {
    lane.written.len() as u64 + u64::from(!lane.page.is_empty())
}

/// What tracefs calls a clock (`trace_clock`).
fn clock_name(clock: Clock) -> Option<&'static str> {
    Some(match clock {
        Clock::Unknown => return None,
        Clock::Local => "local",
        Clock::Global => "global",
        Clock::Counter => "counter",
        Clock::Uptime => "uptime",
        Clock::Perf => "perf",
        Clock::Mono => "mono",
        Clock::MonoRaw => "mono_raw",
        Clock::Boot => "boot",
        Clock::Tai => "tai",
    })
}
