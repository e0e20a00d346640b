//! Perfetto traces of tracks, slices, flows and counters, written as they come.
//!
//! Knows Perfetto's format (TrackEvent, in protobuf), and nothing of what the events mean. A trace is a list of packets, and each is
//! written when its event is pushed: in memory are the names that the trace gives by number, and a count for each track that lost
//! records. Events may be pushed in any order of time, for Perfetto sorts them; slices that begin or end on one track at one time keep
//! the order in which they were pushed.
//!
//! ```
//! use perfetto_writer::{Mark, Note, Options, Unit, Writer};
//!
//! # fn main() -> std::io::Result<()> {
//! let mut trace = Vec::new();
//! let mut writer = Writer::new(&mut trace, &Options { root: "IPI" })?;
//! let root = writer.root();
//! let core = writer.track(root, "core 0", 0)?;
//! let (send, handler) = (writer.track(core, "send", 0)?, writer.track(core, "handler", 1)?);
//! let pending = writer.counter(core, "in flight", Unit::Count, 2)?;
//! // An arrow from the first to the second: one id for each target, as a flow cannot fork.
//! writer.begin(send, 1000, &Mark { name: "SGI 1", category: "ipi", flows: &[7], ..Mark::default() })?;
//! writer.end(send, 1080, &[])?;
//! writer.count(pending, 1000, 1)?;
//! let notes = [("latency_ns", Note::Uint(500))];
//! writer.begin(handler, 1500, &Mark { name: "SGI 1", category: "ipi", ends: &[7], notes: &notes, ..Mark::default() })?;
//! writer.end(handler, 1700, &[])?;
//! writer.lost(handler, 1800, Some(12))?;
//! let finish = writer.finish()?;
//! assert_eq!((finish.begins, finish.ends, finish.instants, finish.bytes), (2, 2, 1, trace.len() as u64));
//! # Ok(())
//! # }
//! ```

// No input makes the host panic. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

mod messages;

use std::collections::HashMap;
use std::io::{self, Write};

use prost::Message;

use messages::{
    BOOTTIME, CounterDescriptor, DebugAnnotation, InternedData, InternedName, TracePacket, TracePacketDefaults,
    TrackDescriptor, TrackEvent, kind, sequence,
};

/// The one sequence of packets. Which number it has says nothing; 0 is none.
const SEQUENCE: u32 = 1;

/// `TrackDescriptor.ChildTracksOrdering`: `EXPLICIT`.
const EXPLICIT: i32 = 3;
/// `TrackDescriptor.SiblingMergeBehavior`: `SIBLING_MERGE_BEHAVIOR_NONE`.
const NO_MERGE: i32 = 2;

/// The most names of a kind that are kept and given by number; later ones are written out with each event.
const MOST_NAMES: usize = 1 << 16;

/// A packet's tag and length: field 1 of `Trace`, and ten bytes at most.
const PACKET_HEAD: usize = 11;

/// What [`Writer::lost`] calls its instants and its counters.
const LOST: &str = "records lost";

/// What a trace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options<'a> {
    /// The name of the track that all others stand under.
    pub root: &'a str,
}

/// A track of one trace: a row of the viewer, with rows under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Track(u64);

/// A counter's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit<'a> {
    /// ns.
    Ns,
    /// How many.
    Count,
    /// Bytes.
    Bytes,
    /// Another, by its name.
    Named(&'a str),
}

/// The value of an annotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Note<'a> {
    /// A number from 0.
    Uint(u64),
    /// A number.
    Int(i64),
    /// A fraction.
    Double(f64),
    /// A text.
    Text(&'a str),
    /// Whether.
    Bool(bool),
}

/// What is told of a slice's begin, or of an instant.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mark<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its category; empty: none.
    pub category: &'a str,
    /// Flows that begin here, or pass through. Ids are the caller's own.
    pub flows: &'a [u64],
    /// Flows that end here.
    pub ends: &'a [u64],
    /// Annotations: name and value.
    pub notes: &'a [(&'a str, Note<'a>)],
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finish {
    /// Packets, of tracks and events.
    pub packets: u64,
    /// Tracks, with the root and the counters.
    pub tracks: u64,
    /// Begins of slices.
    pub begins: u64,
    /// Ends of slices.
    pub ends: u64,
    /// Instants, with those of lost records.
    pub instants: u64,
    /// Values of counters, with those of lost records.
    pub counts: u64,
    /// Records that were told to be lost, where it was told how many.
    pub lost: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Names by number.
#[derive(Debug, Default)]
struct Interned {
    numbers: HashMap<String, u64>,
}

impl Interned {
    /// A name's number, and its text where the number is new; `Err`: the table is full, the text stays with the event.
    fn number(&mut self, name: &str, new: &mut Vec<InternedName>) -> Result<u64, String> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        if self.numbers.len() >= MOST_NAMES {
            return Err(name.to_owned());
        }
        // 0 is no number.
        let number = self.numbers.len() as u64 + 1;
        self.numbers.insert(name.to_owned(), number);
        new.push(InternedName { iid: Some(number), name: Some(name.to_owned()) });
        Ok(number)
    }
}

/// A trace in the making.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    names: Interned,
    categories: Interned,
    notes: Interned,
    /// The counter of what a track lost, and how much.
    lost: HashMap<Track, (Track, i64)>,
    /// A packet's bytes, for the next to reuse.
    buffer: Vec<u8>,
    finish: Finish,
}

impl<W: Write> Writer<W> {
    /// Begins a trace. Each packet is one write: give a `BufWriter` where a write costs much.
    ///
    /// # Errors
    /// `out` cannot be written; so of all that follow.
    pub fn new(out: W, options: &Options<'_>) -> io::Result<Writer<W>> {
        let mut writer = Writer {
            out,
            names: Interned::default(),
            categories: Interned::default(),
            notes: Interned::default(),
            lost: HashMap::new(),
            buffer: Vec::new(),
            finish: Finish::default(),
        };
        let descriptor = writer.descriptor(options.root);
        // The first packet says that nothing was given a number before, and in which clock the times of all that follow are.
        writer.packet(TracePacket {
            sequence_flags: Some(sequence::INCREMENTAL_STATE_CLEARED | sequence::NEEDS_INCREMENTAL_STATE),
            trace_packet_defaults: Some(TracePacketDefaults { timestamp_clock_id: Some(BOOTTIME) }),
            first_packet_on_sequence: Some(true),
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        })?;
        Ok(writer)
    }

    /// The track that all others stand under.
    #[must_use]
    pub fn root(&self) -> Track {
        Track(1)
    }

    /// A new track under `parent`, of slices and instants or of further tracks. Siblings stand in the order of their ranks; tracks of one
    /// name stay apart.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn track(&mut self, parent: Track, name: &str, rank: i32) -> io::Result<Track> {
        self.child(parent, name, rank, None)
    }

    /// A new track of a counter's values.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn counter(&mut self, parent: Track, name: &str, unit: Unit<'_>, rank: i32) -> io::Result<Track> {
        // `CounterDescriptor.Unit`.
        let (unit, unit_name) = match unit {
            Unit::Ns => (Some(1), None),
            Unit::Count => (Some(2), None),
            Unit::Bytes => (Some(3), None),
            Unit::Named(name) => (None, Some(name.to_owned())),
        };
        self.child(parent, name, rank, Some(CounterDescriptor { unit, unit_name }))
    }

    /// A slice begins at `t` (ns). Slices of one track nest.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn begin(&mut self, track: Track, t: u64, mark: &Mark<'_>) -> io::Result<()> {
        self.finish.begins += 1;
        self.mark(kind::SLICE_BEGIN, track, t, mark)
    }

    /// The slice that began last on the track and has no end yet ends at `t` (ns). The notes join those of its begin.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn end(&mut self, track: Track, t: u64, notes: &[(&str, Note<'_>)]) -> io::Result<()> {
        self.finish.ends += 1;
        let mut new = InternedData::default();
        let debug_annotations = self.annotations(notes, &mut new);
        let event = TrackEvent { debug_annotations, ..TrackEvent::default() };
        self.event(kind::SLICE_END, track, t, event, new)
    }

    /// Something at `t` (ns) that has no length.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn instant(&mut self, track: Track, t: u64, mark: &Mark<'_>) -> io::Result<()> {
        self.finish.instants += 1;
        self.mark(kind::INSTANT, track, t, mark)
    }

    /// A counter's value from `t` (ns) on.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn count(&mut self, counter: Track, t: u64, value: i64) -> io::Result<()> {
        self.finish.counts += 1;
        let event = TrackEvent { counter_value: Some(value), ..TrackEvent::default() };
        self.event(kind::COUNTER, counter, t, event, InternedData::default())
    }

    /// Records of a track are missing at `t` (ns), `count` of them where that is known: an instant `records lost` on the track, and a
    /// counter of the same name under it with all that it lost so far, in the order of the calls.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn lost(&mut self, track: Track, t: u64, count: Option<u64>) -> io::Result<()> {
        let notes = count.map(|count| ("count", Note::Uint(count)));
        self.instant(track, t, &Mark { name: LOST, category: "loss", notes: notes.as_slice(), ..Mark::default() })?;
        let (counter, before) = match self.lost.get(&track) {
            Some(known) => *known,
            None => (self.counter(track, LOST, Unit::Count, i32::MAX)?, 0),
        };
        let count = count.unwrap_or(0);
        self.finish.lost = self.finish.lost.saturating_add(count);
        let total = before.saturating_add_unsigned(count);
        self.lost.insert(track, (counter, total));
        self.count(counter, t, total)
    }

    /// Ends the trace.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn finish(mut self) -> io::Result<Finish> {
        self.out.flush()?;
        Ok(self.finish)
    }

    fn descriptor(&mut self, name: &str) -> TrackDescriptor {
        self.finish.tracks += 1;
        TrackDescriptor {
            uuid: Some(self.finish.tracks),
            name: Some(name.to_owned()),
            child_ordering: Some(EXPLICIT),
            sibling_merge_behavior: Some(NO_MERGE),
            ..TrackDescriptor::default()
        }
    }

    fn child(&mut self, parent: Track, name: &str, rank: i32, counter: Option<CounterDescriptor>) -> io::Result<Track> {
        let mut descriptor = self.descriptor(name);
        let track = Track(self.finish.tracks);
        descriptor.parent_uuid = Some(parent.0);
        descriptor.sibling_order_rank = Some(rank);
        if counter.is_some() {
            descriptor.child_ordering = None;
        }
        descriptor.counter = counter;
        self.packet(TracePacket {
            sequence_flags: Some(sequence::NEEDS_INCREMENTAL_STATE),
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        })?;
        Ok(track)
    }

    fn annotations(&mut self, notes: &[(&str, Note<'_>)], new: &mut InternedData) -> Vec<DebugAnnotation> {
        let annotation = |(name, note): &(&str, Note<'_>)| {
            let mut annotation = DebugAnnotation::default();
            match self.notes.number(name, &mut new.debug_annotation_names) {
                Ok(number) => annotation.name_iid = Some(number),
                Err(name) => annotation.name = Some(name),
            }
            match *note {
                Note::Uint(value) => annotation.uint_value = Some(value),
                Note::Int(value) => annotation.int_value = Some(value),
                Note::Double(value) => annotation.double_value = Some(value),
                Note::Text(value) => annotation.string_value = Some(value.to_owned()),
                Note::Bool(value) => annotation.bool_value = Some(value),
            }
            annotation
        };
        notes.iter().map(annotation).collect()
    }

    fn mark(&mut self, kind: i32, track: Track, t: u64, mark: &Mark<'_>) -> io::Result<()> {
        let mut new = InternedData::default();
        let mut event = TrackEvent {
            flow_ids: mark.flows.to_vec(),
            terminating_flow_ids: mark.ends.to_vec(),
            debug_annotations: self.annotations(mark.notes, &mut new),
            ..TrackEvent::default()
        };
        match self.names.number(mark.name, &mut new.event_names) {
            Ok(number) => event.name_iid = Some(number),
            Err(name) => event.name = Some(name),
        }
        if !mark.category.is_empty() {
            match self.categories.number(mark.category, &mut new.event_categories) {
                Ok(number) => event.category_iids.push(number),
                Err(name) => event.categories.push(name),
            }
        }
        self.event(kind, track, t, event, new)
    }

    fn event(&mut self, kind: i32, track: Track, t: u64, event: TrackEvent, new: InternedData) -> io::Result<()> {
        self.packet(TracePacket {
            timestamp: Some(t),
            track_event: Some(TrackEvent { kind: Some(kind), track_uuid: Some(track.0), ..event }),
            interned_data: (new != InternedData::default()).then_some(new),
            sequence_flags: Some(sequence::NEEDS_INCREMENTAL_STATE),
            ..TracePacket::default()
        })
    }

    /// Writes a packet, as field 1 of `Trace`.
    fn packet(&mut self, packet: TracePacket) -> io::Result<()> {
        let packet = TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..packet };
        let len = packet.encoded_len();
        self.buffer.clear();
        self.buffer.reserve(len + PACKET_HEAD);
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut self.buffer);
        packet.encode_length_delimited(&mut self.buffer)?;
        self.out.write_all(&self.buffer)?;
        self.finish.packets += 1;
        self.finish.bytes += self.buffer.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
