//! A Linux trace in a capture: its events as rows of 32 bytes, and the table of what they name.
//!
//! The events are kept as the kernel told them, one stream in the order of time, not as what they mean: who answered whom is found
//! when the capture is read ([`crate::correlate`]), so that a better rule serves old captures too. Rows are folded and compressed
//! like the records of lanes. What a row can't hold in 32 bytes (names, sets of CPUs, the task) is a number of a table, or a row
//! before it.

use std::collections::HashMap;

use linux_trace::{Event, Mask, Name, Names, What};
use serde::{Deserialize, Serialize};

/// Bytes of a row.
pub const ROW_BYTES: usize = 32;

/// What the rows of a trace name, and what was read besides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Names by number; number 0 is the empty one.
    pub names: Vec<String>,
    /// Sets of CPUs by number.
    pub masks: Vec<[u64; 8]>,
    /// Rows in the capture.
    pub rows: u64,
    /// The file that was imported, as it was named.
    pub file: String,
    /// `text`, `trace.dat v6` …
    pub format: String,
    /// ns of the finest time stamp; 0: the clock counts something else than time.
    pub resolution_ns: u64,
    /// Such a clock is so coarse that events of different CPUs have the same stamp: their order is not known.
    #[serde(default)]
    pub unordered: bool,
    /// Events of each kind, by the kernel's name.
    pub counts: Vec<(String, u64)>,
    /// Events that are none of those.
    pub others: u64,
    /// Lines or records that could not be read.
    pub unknown: u64,
    /// The first of them.
    pub first_unknown: Option<String>,
    /// Events that the kernel lost, as far as it says how many.
    pub lost: u64,
    /// How often it says that some are lost.
    pub gaps: u64,
}

impl Table {
    /// How many events of a kind there are.
    pub fn count(&self, kind: &str) -> u64 {
        self.counts.iter().find(|(name, _)| name == kind).map_or(0, |(_, count)| *count)
    }

    /// A name; the empty one where there is no such number.
    pub fn name(&self, name: Name) -> &str {
        self.names.get(name.0 as usize).map_or("", String::as_str)
    }
}

/// The rows' own numbers of kinds: a part of the capture's format.
mod kind {
    pub const RAISE: u8 = 1;
    pub const ENTRY: u8 = 2;
    pub const EXIT: u8 = 3;
    pub const SEND_CPU: u8 = 4;
    pub const SEND_MASK: u8 = 5;
    pub const QUEUE: u8 = 6;
    pub const FUNCTION_ENTRY: u8 = 7;
    pub const FUNCTION_EXIT: u8 = 8;
    pub const IRQ_ENTRY: u8 = 9;
    pub const IRQ_EXIT: u8 = 10;
    pub const IDLE: u8 = 11;
    pub const SWITCH: u8 = 12;
    pub const MARK: u8 = 13;
    pub const LOST: u8 = 14;
    /// The task and the flags of the CPU's events from here on.
    pub const TASK: u8 = 15;
}

/// A row: `t u64 | a u64 | b u64 | kind u8 | 0 | cpu u16 | c u32`, little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// ns of the trace's clock.
    pub t: u64,
    a: u64,
    b: u64,
    kind: u8,
    /// The CPU that recorded it.
    pub cpu: u16,
    c: u32,
}

impl Row {
    fn bytes(&self) -> [u8; ROW_BYTES] {
        let last = u64::from(self.kind) | u64::from(self.cpu) << 16 | u64::from(self.c) << 32;
        let mut bytes = [0; ROW_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip([self.t, self.a, self.b, last]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Row {
        let word = |at: usize| {
            let bytes = bytes.get(at * 8..).and_then(|rest| rest.first_chunk());
            u64::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        let last = word(3);
        Row { t: word(0), a: word(1), b: word(2), kind: last as u8, cpu: (last >> 16) as u16, c: (last >> 32) as u32 }
    }
}

const fn two(first: Name, second: Name) -> u64 {
    first.0 as u64 | (second.0 as u64) << 32
}

const fn first(word: u64) -> Name {
    Name(word as u32)
}

const fn second(word: u64) -> Name {
    Name((word >> 32) as u32)
}

/// Which task ran on a CPU: flags, process id and name, and whether the id was told.
type Task = ([u8; 8], u64, u32);

/// Makes rows of events.
#[derive(Debug, Default)]
pub struct Encoder {
    masks: HashMap<Mask, u32>,
    list: Vec<[u64; 8]>,
    tasks: HashMap<u16, Task>,
}

impl Encoder {
    /// The rows of an event: its own, and one before it where the task or the flags of its CPU changed.
    pub fn encode(&mut self, event: &Event, mut row: impl FnMut(Row)) {
        let plain = Row { t: event.t, cpu: event.cpu, ..Row::default() };
        let task = (event.flags, two(Name(event.pid.unwrap_or(0)), event.comm), u32::from(event.pid.is_some()));
        if self.tasks.get(&event.cpu) != Some(&task) && !matches!(event.what, What::Lost { .. }) {
            self.tasks.insert(event.cpu, task);
            row(Row { kind: kind::TASK, a: u64::from_le_bytes(task.0), b: task.1, c: task.2, ..plain });
        }
        row(match event.what {
            What::Raise { targets, reason } => {
                Row { kind: kind::RAISE, b: two(reason, Name::NONE), c: self.mask(targets), ..plain }
            }
            What::Entry { reason } => Row { kind: kind::ENTRY, b: two(reason, Name::NONE), ..plain },
            What::Exit { reason } => Row { kind: kind::EXIT, b: two(reason, Name::NONE), ..plain },
            What::SendCpu { cpu, callsite, callback } => {
                Row { kind: kind::SEND_CPU, b: two(callsite, callback), c: cpu.into(), ..plain }
            }
            What::SendMask { targets, callsite, callback } => {
                Row { kind: kind::SEND_MASK, b: two(callsite, callback), c: self.mask(targets), ..plain }
            }
            What::Queue { cpu, callsite, function, csd } => {
                Row { kind: kind::QUEUE, a: csd, b: two(callsite, function), c: cpu.into(), ..plain }
            }
            What::FunctionEntry { function, csd } => {
                Row { kind: kind::FUNCTION_ENTRY, a: csd, b: two(function, Name::NONE), ..plain }
            }
            What::FunctionExit { function, csd } => {
                Row { kind: kind::FUNCTION_EXIT, a: csd, b: two(function, Name::NONE), ..plain }
            }
            What::IrqEntry { irq, name } => Row { kind: kind::IRQ_ENTRY, b: two(name, Name::NONE), c: irq, ..plain },
            What::IrqExit { irq } => Row { kind: kind::IRQ_EXIT, c: irq, ..plain },
            What::Idle { state } => Row { kind: kind::IDLE, c: state.unwrap_or(u32::MAX), ..plain },
            What::Switch { from, to } => Row { kind: kind::SWITCH, a: two(Name(from), Name(to)), ..plain },
            What::Mark { function, text, user } => {
                Row { kind: kind::MARK, b: two(function, text), c: user.into(), ..plain }
            }
            What::Lost { count } => Row { kind: kind::LOST, a: count.unwrap_or(0), c: count.is_some().into(), ..plain },
        });
    }

    fn mask(&mut self, mask: Mask) -> u32 {
        let next = self.list.len() as u32;
        *self.masks.entry(mask).or_insert_with(|| {
            self.list.push(*mask.words());
            next
        })
    }

    /// The tables that its rows name.
    pub fn tables(self, names: &Names) -> (Vec<String>, Vec<[u64; 8]>) {
        (names.iter().map(str::to_owned).collect(), self.list)
    }
}

/// Appends a row.
pub fn put(row: &Row, into: &mut Vec<u8>) {
    into.extend_from_slice(&row.bytes());
}

/// Makes events of rows. What is no row of this version is left out and counted.
#[derive(Debug)]
pub struct Decoder<'a> {
    table: &'a Table,
    tasks: HashMap<u16, Task>,
    /// Rows that are none.
    pub strange: u64,
}

impl<'a> Decoder<'a> {
    /// A decoder at the first row.
    pub fn new(table: &'a Table) -> Self {
        Decoder { table, tasks: HashMap::new(), strange: 0 }
    }

    /// Hands the events of some rows to `visit`.
    pub fn events(&mut self, rows: &[u8], mut visit: impl FnMut(&Event)) {
        for bytes in rows.chunks_exact(ROW_BYTES) {
            let row = Row::of_bytes(bytes);
            if row.kind == kind::TASK {
                self.tasks.insert(row.cpu, (row.a.to_le_bytes(), row.b, row.c));
                continue;
            }
            let Some(what) = self.what(&row) else {
                self.strange += 1;
                continue;
            };
            let (flags, task, told) = self.tasks.get(&row.cpu).copied().unwrap_or_default();
            let pid = (told != 0).then_some(first(task).0);
            visit(&Event { t: row.t, cpu: row.cpu, pid, comm: second(task), flags, what });
        }
    }

    fn what(&self, row: &Row) -> Option<What> {
        let mask = || self.table.masks.get(row.c as usize).map(|words| Mask::from_words(*words));
        let cpu = || u16::try_from(row.c).ok();
        Some(match row.kind {
            kind::RAISE => What::Raise { targets: mask()?, reason: first(row.b) },
            kind::ENTRY => What::Entry { reason: first(row.b) },
            kind::EXIT => What::Exit { reason: first(row.b) },
            kind::SEND_CPU => What::SendCpu { cpu: cpu()?, callsite: first(row.b), callback: second(row.b) },
            kind::SEND_MASK => What::SendMask { targets: mask()?, callsite: first(row.b), callback: second(row.b) },
            kind::QUEUE => What::Queue { cpu: cpu()?, callsite: first(row.b), function: second(row.b), csd: row.a },
            kind::FUNCTION_ENTRY => What::FunctionEntry { function: first(row.b), csd: row.a },
            kind::FUNCTION_EXIT => What::FunctionExit { function: first(row.b), csd: row.a },
            kind::IRQ_ENTRY => What::IrqEntry { irq: row.c, name: first(row.b) },
            kind::IRQ_EXIT => What::IrqExit { irq: row.c },
            kind::IDLE => What::Idle { state: (row.c != u32::MAX).then_some(row.c) },
            kind::SWITCH => What::Switch { from: first(row.a).0, to: second(row.a).0 },
            kind::MARK => What::Mark { function: first(row.b), text: second(row.b), user: row.c != 0 },
            kind::LOST => What::Lost { count: (row.c != 0).then_some(row.a) },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_from_rows_as_they_were() {
        let mut names = Names::new();
        let mut name = |text: &str| names.add(text.as_bytes());
        let (reason, site, function) = (name("Function call interrupts"), name("a+0x4/0x8"), name("f"));
        let mut targets = Mask::default();
        targets.insert(1);
        targets.insert(300);
        let whats = [
            What::Raise { targets, reason },
            What::Entry { reason },
            What::Exit { reason },
            What::SendCpu { cpu: 3, callsite: site, callback: Name::NONE },
            What::SendMask { targets: Mask::default(), callsite: site, callback: function },
            What::Queue { cpu: 511, callsite: site, function, csd: u64::MAX },
            What::FunctionEntry { function, csd: 1 },
            What::FunctionExit { function, csd: 1 },
            What::IrqEntry { irq: 2, name: site },
            What::IrqExit { irq: 2 },
            What::Idle { state: Some(1) },
            What::Idle { state: None },
            What::Switch { from: 7, to: 0 },
            What::Mark { function, text: site, user: true },
        ];
        let event = |(t, what): (u64, What)| Event {
            t,
            cpu: (t % 3) as u16,
            pid: (t != 2).then_some(t as u32 / 4),
            comm: function,
            flags: *b"d.h1....",
            what,
        };
        let events: Vec<Event> = (0..).zip(whats).map(event).collect();
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        for event in &events {
            encoder.encode(event, |row| put(&row, &mut bytes));
        }
        let (names, masks) = encoder.tables(&names);
        let table = Table { names, masks, ..Table::default() };
        let (mut decoder, mut back) = (Decoder::new(&table), Vec::new());
        decoder.events(&bytes, |event| back.push(*event));
        assert_eq!((back, decoder.strange), (events, 0));
        assert_eq!(table.name(reason), "Function call interrupts");
        // What a newer version wrote, or what is damaged, is counted.
        bytes.extend([0xEE; ROW_BYTES]);
        let mut decoder = Decoder::new(&table);
        decoder.events(&bytes, |_| {});
        assert_eq!(decoder.strange, 1);
    }
}
