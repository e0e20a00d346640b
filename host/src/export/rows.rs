//! IPIs as rows, one for each sender and target, in the order in which they were sent: CSV and JSON lines.
//!
//! The columns are the same for bare metal and Linux traces; what a capture does not say is empty (`null`). Times are ns of the
//! target's counter, or of the trace's clock, rounded down: those of the other exports. A latency is exact, so it may be fractional.

use std::io::{self, Write};

use filter::{Clock, Widen};
use linux_trace::Name;
use serde::Serialize;
use trace_ring::calls::IpiKind;
use trace_ring::reader::Region;
use trace_ring::record::ReceiverState;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::ExportError;
use crate::capture::Capture;
use crate::choice::Choice;
use crate::correlate::correlate_heard;
use crate::correlate::message::{Message, Outcome};
use crate::sorted::{Sorted, Sorter};

/// No value, of the fields that have no other way to say so.
const NONE: u64 = u64::MAX;

const STOLEN: u8 = 1;
const NUMBERED: u8 = 2;
const PICKED: u8 = 4;

/// A [`Message`] as plain bytes, ordered by `key` and then by its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Packed {
    /// The time by which rows are ordered, ticks.
    pub key: u64,
    from: u16,
    to: u16,
    phase: u16,
    intid: u8,
    kind: u8,
    sent: u64,
    entry: u64,
    latency: u64,
    count: u64,
    state: u8,
    outcome: u8,
    flags: u8,
    unused: u8,
    number: u32,
    reason: u32,
    callback: u32,
    callsite: u32,
    task: u32,
    pid: u64,
}

impl Packed {
    /// `key`: the time by which it is ordered.
    pub fn of(message: &Message, key: u64, picked: bool) -> Packed {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        Packed {
            key,
            from: message.from.unwrap_or(u16::MAX),
            to: message.to,
            phase: message.phase,
            intid: message.intid,
            kind: message.kind.map_or(0, IpiKind::slot_code),
            sent: message.sent.unwrap_or(NONE),
            entry: message.entry.unwrap_or(NONE),
            latency: message.latency.unwrap_or(NONE),
            count: message.count,
            state: message.state.code(),
            outcome: message.outcome.map_or(u8::MAX, |outcome| outcome as u8),
            flags: flag(message.stolen, STOLEN) | flag(message.number.is_some(), NUMBERED) | flag(picked, PICKED),
            unused: 0,
            number: message.number.unwrap_or(0),
            reason: message.reason.0,
            callback: message.callback.0,
            callsite: message.callsite.0,
            task: message.task.0,
            pid: message.pid.map_or(NONE, u64::from),
        }
    }

    /// The message again.
    pub fn message(&self) -> Message {
        let value = |value: u64| Some(value).filter(|value| *value != NONE);
        Message {
            count: self.count,
            from: Some(self.from).filter(|from| *from != u16::MAX),
            to: self.to,
            intid: self.intid,
            kind: IpiKind::from_slot_code(self.kind),
            reason: Name(self.reason),
            phase: self.phase,
            state: ReceiverState::from_code(self.state),
            number: (self.flags & NUMBERED != 0).then_some(self.number),
            sent: value(self.sent),
            entry: value(self.entry),
            latency: value(self.latency),
            outcome: Outcome::from_code(self.outcome),
            stolen: self.flags & STOLEN != 0,
            callback: Name(self.callback),
            callsite: Name(self.callsite),
            task: Name(self.task),
            pid: value(self.pid).and_then(|pid| u32::try_from(pid).ok()),
        }
    }
}

/// All IPIs of a capture in the order of their sends, those that a filter picks and their neighbours.
///
/// # Errors
///
/// The capture's, the scratch file's, and `visit`'s.
pub fn in_order<E: From<ExportError>>(
    capture: &Capture,
    choice: Option<&Choice>,
    mut visit: impl FnMut(&Message) -> Result<(), E>,
) -> Result<(), E> {
    let widens = choice.is_some_and(|choice| choice.filter().neighbours().is_some());
    let mut sorter = Sorter::default();
    let heard = correlate_heard(capture, &mut |message| {
        let picked = choice.is_none_or(|choice| choice.picks(message));
        if picked || widens {
            let key = message.sent.or(message.entry).unwrap_or(NONE);
            sorter.push(Packed::of(message, key, picked));
        }
        true
    });
    heard.map_err(ExportError::from)?;
    let mut sorted: Sorted<Packed> = sorter.sorted().map_err(ExportError::Scratch)?;
    let (around, clock) =
        choice.map_or((None, Clock::Ns), |choice| (choice.filter().neighbours(), choice.filter().schema().clock));
    let mut widen = Widen::new(around, clock);
    let mut failed = None;
    while let Some(row) = sorted.next().map_err(ExportError::Scratch)? {
        widen.push(row, row.key, row.flags & PICKED != 0, |row, _| {
            if failed.is_none() {
                failed = visit(&row.message()).err();
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}

/// The names of the columns, in their order.
pub const COLUMNS: [&str; 18] = [
    "from",
    "to",
    "kind",
    "reason",
    "state",
    "outcome",
    "count",
    "sent_ns",
    "entry_ns",
    "latency_ns",
    "phase",
    "intid",
    "msg",
    "stolen",
    "callback",
    "callsite",
    "task",
    "pid",
];

/// What a line says.
#[derive(Debug, Serialize)]
struct Line<'a> {
    from: Option<u16>,
    to: u16,
    kind: String,
    reason: Option<&'a str>,
    state: &'static str,
    outcome: Option<&'static str>,
    count: u64,
    sent_ns: Option<u64>,
    entry_ns: Option<u64>,
    latency_ns: Option<f64>,
    phase: Option<&'a str>,
    intid: Option<u8>,
    msg: Option<u32>,
    stolen: bool,
    callback: Option<&'a str>,
    callsite: Option<&'a str>,
    task: Option<&'a str>,
    pid: Option<u32>,
}

/// The two forms of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Comma-separated values with a line of names (RFC 4180).
    Csv,
    /// One JSON object a line.
    Json,
}

/// Writes the IPIs of a capture as lines; how many.
///
/// # Errors
///
/// The capture's and the output's.
pub fn write(capture: &Capture, choice: Option<&Choice>, form: Form, out: &mut dyn Write) -> Result<u64, ExportError> {
    let table = capture.linux();
    let hz = match table {
        Some(_) => 1_000_000_000,
        None => hz(capture)?,
    };
    let ns = |ticks: u64| (u128::from(ticks) * 1_000_000_000 / u128::from(hz)) as u64;
    let name = |name: Name| table.map(|table| table.name(name)).filter(|name| !name.is_empty());
    let mut lines = match form {
        Form::Csv => {
            let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(out);
            csv.write_record(COLUMNS).map_err(unwritten)?;
            Lines::Csv(Box::new(csv))
        }
        Form::Json => Lines::Json(out),
    };
    let mut count = 0;
    in_order::<ExportError>(capture, choice, |message| {
        let bare = table.is_none();
        let reason = name(message.reason);
        let kind = match (message.kind, reason) {
            (Some(kind), _) => kind.name().into(),
            (None, Some(reason)) => reason.into(),
            (None, None) => format!("sgi{}", message.intid),
        };
        let line = Line {
            from: message.from,
            to: message.to,
            kind,
            reason,
            state: message.state.name(),
            outcome: message.outcome.map(Outcome::name),
            count: message.count,
            sent_ns: message.sent.map(ns),
            entry_ns: message.entry.map(ns),
            latency_ns: message.latency.map(|ticks| ticks as f64 * 1e9 / hz as f64),
            phase: capture.info().plan.phases.get(usize::from(message.phase)).map(|phase| phase.name.as_str()),
            intid: bare.then_some(message.intid),
            msg: message.number,
            stolen: message.stolen,
            callback: name(message.callback),
            callsite: name(message.callsite),
            task: name(message.task),
            pid: message.pid,
        };
        count += 1;
        match &mut lines {
            Lines::Csv(csv) => csv.serialize(line).map_err(unwritten),
            Lines::Json(out) => {
                serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
                Ok(out.write_all(b"\n")?)
            }
        }
    })?;
    match lines {
        Lines::Csv(mut csv) => csv.flush()?,
        Lines::Json(out) => out.flush()?,
    }
    Ok(count)
}

enum Lines<'a> {
    Csv(Box<csv::Writer<&'a mut dyn Write>>),
    Json(&'a mut dyn Write),
}

fn unwritten(error: csv::Error) -> ExportError {
    ExportError::Write(match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    })
}

fn hz(capture: &Capture) -> Result<u64, ExportError> {
    let no_clock = |why: String| ExportError::NoClock(why);
    let mut source = capture.snapshot().ok_or_else(|| no_clock("it holds no snapshot of the region".into()))?;
    let region = Region::open(&mut source).map_err(|error| no_clock(error.to_string()))?;
    match region.directory.counter_hz {
        0 => Err(no_clock("CNTFRQ_EL0 was 0".into())),
        hz => Ok(hz),
    }
}
