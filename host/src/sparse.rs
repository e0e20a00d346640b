//! A region put together from pieces: which bytes came, and what the missing ones would have said.
//!
//! A console delivers the region line by line, damaged ones not at all. What came is kept in small pages, so that a length
//! that somebody only claims takes no memory. What did not come reads as 0xFF: a record made of it does not carry its own
//! number, and the reader counts it as torn, exactly. [`Sparse::missing`] names the gaps by their meaning, the most
//! important first, so that they can be asked for again, or told to whoever reads the report.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};

use trace_ring::calls::{CallDescriptor, LiveEntry, call_state, doing};
use trace_ring::layout::{
    ABI_VERSION, Context, CoreEntry, Directory, FaultEntry, HISTOGRAM_BYTES, HeadLine, LANES_PER_CORE, LOG_STRIDE,
    LaneDescriptor, LogHeader, MAGIC, MAX_CORES, PairSlot, PhaseResult, Truth, core_state,
};
use trace_ring::plan::{LEAST_LOG2_RECORDS, MOST_LOG2_RECORDS};
use trace_ring::reader::RegionSource;
use trace_ring::record::RECORD_BYTES;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

/// Bytes of a page: a few lines of a console, so that lines scattered by a liar take little more than they bring.
const PAGE: u64 = 512;

/// The longest region that is believed.
const REGION_LIMIT: u64 = 16 << 30;

/// The most bytes in front of the records: slots of 512 x 512 pairs and all histograms that a plan may have, and then some.
const PREFIX_LIMIT: u64 = 512 << 20;

/// Ranges of bytes, none of which touch.
#[derive(Clone, Debug, Default)]
struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Adds a range; returns how many of its bytes are new.
    fn add(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut held = 0;
        // Whatever overlaps or touches becomes part of the new one: the last that begins at or before its end, repeatedly.
        while let Some((&first, &last)) = self.0.range(..=end).next_back() {
            if last < start {
                break;
            }
            held += last.min(range.end).saturating_sub(first.max(range.start));
            (start, end) = (start.min(first), end.max(last));
            self.0.remove(&first);
        }
        self.0.insert(start, end);
        range.end - range.start - held
    }

    /// What of `range` is in.
    fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.0.range(..range.start).next_back();
        let rest = self.0.range(range.start..range.end.max(range.start));
        before
            .into_iter()
            .chain(rest)
            .map(move |(first, last)| (*first).max(range.start)..(*last).min(range.end))
            .filter(|span| !span.is_empty())
    }

    /// What of `range` is not in.
    fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut next = range.start;
        let end = range.end;
        let spans = self.within(range).map(Some).chain([None]);
        spans
            .map(move |span| match span {
                Some(span) => std::mem::replace(&mut next, span.end)..span.start,
                None => next..end,
            })
            .filter(|gap| !gap.is_empty())
    }
}

/// What a stretch of the region says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The directory: without it nothing else can be found.
    Directory,
    /// A section, by its name in the directory.
    Section(&'static str),
    /// Published records of a lane.
    Records {
        /// The core.
        core: u16,
        /// The context.
        context: Context,
        /// Number of the first.
        first: u64,
        /// How many.
        count: u64,
    },
}

impl Part {
    /// Whether a verdict needs it. Logs and the twins' truth only illustrate one, and records only explain it: the totals
    /// are the target's. A call that nobody ran stands in its descriptor and nowhere else.
    pub const fn is_needed(&self) -> bool {
        match self {
            Part::Directory => true,
            Part::Section(name) => !matches!(name.as_bytes(), b"logs" | b"truth"),
            Part::Records { .. } => false,
        }
    }
}

/// A stretch that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What it would have said.
    pub part: Part,
    /// Its bytes, from the region's start.
    pub bytes: Range<u64>,
}

/// Which parts somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All that the target published.
    All,
    /// Everything but the records.
    Summary,
}

/// A directory that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// It is none.
    #[error("what stands at the region's start is no directory: it begins with {0:#018x}")]
    Magic(u64),
    /// It is another version's.
    #[error("the target's trace region has ABI version {0}, this host reads {ABI_VERSION}")]
    Version(u32),
    /// A field contradicts the others.
    #[error("the target's directory contradicts itself: `{field}` is {value:#x}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// One section: name, first byte, bytes of an element, elements.
type Section = (&'static str, u64, u64, u64);

/// The region as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Sparse {
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    known: Spans,
    known_bytes: u64,
}

/// What became of bytes that were put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// How many were not known before.
    pub fresh: u64,
    /// Whether any of the known ones were others.
    pub changed: bool,
}

impl Sparse {
    /// Nothing yet.
    pub fn new() -> Sparse {
        Sparse::default()
    }

    /// Bytes that came.
    pub fn known_bytes(&self) -> u64 {
        self.known_bytes
    }

    /// Whether all of a range came.
    pub fn holds(&self, range: Range<u64>) -> bool {
        self.known.gaps(range).next().is_none()
    }

    /// Whether bytes that came say something else than these.
    pub fn contradicts(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(range) = believed(offset, bytes.len() as u64) else { return false };
        let mut old = vec![0; bytes.len()];
        self.fill(offset, &mut old);
        self.known.within(range).any(|span| {
            let at = (span.start - offset) as usize..(span.end - offset) as usize;
            old[at.clone()] != bytes[at]
        })
    }

    /// Puts bytes in. What lies beyond any region that is believed is not kept.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Put {
        let Some(range) = believed(offset, bytes.len() as u64) else { return Put { fresh: 0, changed: false } };
        let changed = self.contradicts(offset, bytes);
        let mut rest = bytes;
        let mut at = range.start;
        while !rest.is_empty() {
            let inside = (at % PAGE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - inside));
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[inside..inside + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            rest = later;
        }
        let fresh = self.known.add(range);
        self.known_bytes += fresh;
        Put { fresh, changed }
    }

    /// Puts a run of zeros in, which takes no memory however long it is.
    pub fn put_zeros(&mut self, offset: u64, length: u64) -> Put {
        let Some(range) = believed(offset, length) else { return Put { fresh: 0, changed: false } };
        let mut changed = false;
        if !range.is_empty() {
            for (number, page) in self.pages.range_mut(range.start / PAGE..=(range.end - 1) / PAGE) {
                let start = number * PAGE;
                let inside = (range.start.max(start) - start) as usize..(range.end.min(start + PAGE) - start) as usize;
                // A page's bytes that never came are zero, so whatever is not was known.
                changed |= page[inside.clone()].iter().any(|byte| *byte != 0);
                page[inside].fill(0);
            }
        }
        let fresh = self.known.add(range);
        self.known_bytes += fresh;
        Put { fresh, changed }
    }

    /// The directory, once all of it came and it can be believed. `Ok(None)`: not yet.
    pub fn directory(&self) -> Result<Option<Directory>, Implausible> {
        const BYTES: usize = size_of::<Directory>();
        if !self.holds(0..BYTES as u64) {
            return Ok(None);
        }
        let mut bytes = [0; BYTES];
        self.fill(0, &mut bytes);
        let Ok(directory) = Directory::read_from_bytes(&bytes) else { return Ok(None) };
        if directory.magic != MAGIC {
            return Err(Implausible::Magic(directory.magic));
        }
        if directory.version != ABI_VERSION {
            return Err(Implausible::Version(directory.version));
        }
        let require = |holds: bool, field, value| if holds { Ok(()) } else { Err(Implausible::Field { field, value }) };
        let cores = u64::from(directory.core_count);
        require((1..=MAX_CORES as u64).contains(&cores), "core_count", cores)?;
        let length = directory.region_len;
        require(length <= REGION_LIMIT, "region_len", length)?;
        for (name, offset, size, count) in sections(&directory) {
            let end = size.checked_mul(count).and_then(|bytes| offset.checked_add(bytes));
            require(offset.is_multiple_of(8) && end.is_some_and(|end| end <= length), name, offset)?;
            require(end.is_some_and(|end| end <= PREFIX_LIMIT), name, offset)?;
        }
        let records = directory.sections.records;
        require(records <= length.min(PREFIX_LIMIT), "records", records)?;
        Ok(Some(directory))
    }

    /// Tells `sink` what is missing, the most important first, until it breaks. Without the directory there is nothing else
    /// to name; without a core's heads or lanes its records can't be named.
    pub fn missing(&self, want: Want, mut sink: impl FnMut(Gap) -> ControlFlow<()>) -> Result<(), Implausible> {
        let directory = match self.directory() {
            Ok(Some(directory)) => directory,
            Ok(None) => {
                for bytes in self.known.gaps(0..size_of::<Directory>() as u64) {
                    if sink(Gap { part: Part::Directory, bytes }).is_break() {
                        break;
                    }
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (name, stretch) in self.stretches(&directory) {
            for bytes in self.known.gaps(stretch) {
                if sink(Gap { part: Part::Section(name), bytes }).is_break() {
                    return Ok(());
                }
            }
        }
        if want == Want::Summary {
            return Ok(());
        }
        for lane in self.lanes(&directory)? {
            for (numbers, slots) in lane.published() {
                for bytes in self.known.gaps(slots.clone()) {
                    // A record that lacks one byte is missing.
                    let first = (bytes.start - slots.start) / RECORD_BYTES;
                    let end = (bytes.end - slots.start).div_ceil(RECORD_BYTES);
                    let (first, count) = (numbers.start + first, end - first);
                    let part = Part::Records { core: lane.core, context: lane.context, first, count };
                    if sink(Gap { part, bytes }).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// All that is missing.
    pub fn all_missing(&self, want: Want) -> Result<Vec<Gap>, Implausible> {
        let mut gaps = Vec::new();
        self.missing(want, |gap| {
            gaps.push(gap);
            ControlFlow::Continue(())
        })?;
        Ok(gaps)
    }

    /// Whether all that is wanted came.
    pub fn is_complete(&self, want: Want) -> bool {
        let mut complete = true;
        let looked = self.missing(want, |_| {
            complete = false;
            ControlFlow::Break(())
        });
        complete && looked.is_ok()
    }

    /// Bytes that are wanted in all, as far as that can be told; `None`: the directory has not come.
    pub fn wanted_bytes(&self, want: Want) -> Option<u64> {
        let directory = self.directory().ok()??;
        let prefix: u64 = self.stretches(&directory).iter().map(|(_, stretch)| stretch.end - stretch.start).sum();
        let lanes = if want == Want::All { self.lanes(&directory).unwrap_or_default() } else { Vec::new() };
        let published = lanes.iter().flat_map(Lane::published).map(|(_, slots)| slots.end - slots.start);
        Some(size_of::<Directory>() as u64 + prefix + published.sum::<u64>())
    }

    /// Makes what is missing harmless for whoever reads the region without asking what came: an element of a section that
    /// lacks a byte becomes zero as a whole, so that no counter is half of one and half 0xFF. A lane whose place is unknown
    /// is put where no record of its can be, so that its records are counted, and as missing; a core whose entry is unknown gets
    /// a state that nobody knows, so that it is not blamed for one that it was not in, and so do what a core does and a call
    /// descriptor. Records stay as they are.
    pub fn settle(&mut self) -> Result<(), Implausible> {
        let Some(directory) = self.directory()? else { return Ok(()) };
        for (name, offset, size, count) in sections(&directory) {
            if name == "logs" {
                for start in (0..count).map(|core| offset + core * size) {
                    // Half a log would be decoded as another; what was never written is zero.
                    if self.holds(self.log(start)) {
                        self.put_missing_zeros(start..start + size);
                    } else {
                        self.put_zeros(start, size);
                    }
                }
                continue;
            }
            let gaps: Vec<Range<u64>> = self.known.gaps(offset..offset + size * count).collect();
            for gap in gaps {
                let first = (gap.start - offset) / size;
                let end = (gap.end - offset).div_ceil(size);
                // Neither a lane whose records would be looked for in another's place, nor a core that was never started.
                let element: Option<Vec<u8>> = match name {
                    "lanes" => {
                        let mut nowhere = LaneDescriptor::new_zeroed();
                        nowhere.log2_records = LEAST_LOG2_RECORDS.into();
                        Some(nowhere.as_bytes().to_vec())
                    }
                    "cores" => {
                        let mut unknown = CoreEntry::new_zeroed();
                        unknown.state = core_state::UNKNOWN;
                        Some(unknown.as_bytes().to_vec())
                    }
                    "live" => Some(unknown_live().as_bytes().to_vec()),
                    "calls" => Some(unknown_call().as_bytes().to_vec()),
                    _ => None,
                };
                if let Some(element) = element {
                    for number in first..end {
                        self.put(offset + number * size, &element);
                    }
                } else {
                    self.put_zeros(offset + first * size, (end - first) * size);
                }
            }
        }
        Ok(())
    }

    /// The stretches of the sections that say something, the most important first.
    fn stretches(&self, directory: &Directory) -> Vec<(&'static str, Range<u64>)> {
        let mut stretches = Vec::new();
        for (name, offset, size, count) in sections(directory) {
            match name {
                "logs" => stretches.extend((0..count).map(|core| (name, self.log(offset + core * size)))),
                _ => stretches.push((name, offset..offset + size * count)),
            }
        }
        stretches
    }

    /// What says something of the log at `start`: its header, and the bytes of the ring that were written.
    fn log(&self, start: u64) -> Range<u64> {
        const HEADER: u64 = size_of::<LogHeader>() as u64;
        let mut header = LogHeader::new_zeroed();
        if self.holds(start..start + HEADER) {
            self.fill(start, header.as_mut_bytes());
        }
        start..start + HEADER + header.head.min(LOG_STRIDE - HEADER)
    }

    fn put_missing_zeros(&mut self, range: Range<u64>) {
        let gaps: Vec<Range<u64>> = self.known.gaps(range).collect();
        for gap in gaps {
            self.put_zeros(gap.start, gap.end - gap.start);
        }
    }

    /// The lanes whose place and head came.
    fn lanes(&self, directory: &Directory) -> Result<Vec<Lane>, Implausible> {
        let mut lanes = Vec::new();
        let mut total = 0u64;
        for core in 0..directory.core_count as u16 {
            let line = directory.sections.heads + u64::from(core) * size_of::<HeadLine>() as u64;
            let place =
                directory.sections.lanes + u64::from(core) * (LANES_PER_CORE * size_of::<LaneDescriptor>()) as u64;
            if !self.holds(line..line + size_of::<HeadLine>() as u64) {
                continue;
            }
            let mut heads = HeadLine::new_zeroed();
            self.fill(line, heads.as_mut_bytes());
            for (context, place) in Context::ALL.into_iter().zip((place..).step_by(size_of::<LaneDescriptor>())) {
                if !self.holds(place..place + size_of::<LaneDescriptor>() as u64) {
                    continue;
                }
                let mut descriptor = LaneDescriptor::new_zeroed();
                self.fill(place, descriptor.as_mut_bytes());
                let LaneDescriptor { offset, log2_records, .. } = descriptor;
                let require =
                    |holds: bool, field, value| if holds { Ok(()) } else { Err(Implausible::Field { field, value }) };
                let sizes = u32::from(LEAST_LOG2_RECORDS)..=MOST_LOG2_RECORDS.into();
                require(sizes.contains(&log2_records), "lane.log2_records", log2_records.into())?;
                let end = offset.checked_add(RECORD_BYTES << log2_records);
                let inside = end.is_some_and(|end| end <= directory.region_len);
                require(inside && offset.is_multiple_of(RECORD_BYTES), "lane.offset", offset)?;
                // Lanes that overlap would make one byte of the region mean many records.
                total += RECORD_BYTES << log2_records;
                require(total <= directory.region_len, "lane.log2_records", log2_records.into())?;
                lanes.push(Lane { core, context, head: heads.head[context as usize], offset, log2: log2_records });
            }
        }
        Ok(lanes)
    }

    /// Reads without a limit: what is not known is 0xFF.
    fn fill(&self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0xFF);
        let range = offset..offset.saturating_add(buffer.len() as u64);
        for span in self.known.within(range) {
            buffer[(span.start - offset) as usize..(span.end - offset) as usize].fill(0);
            for (number, page) in self.pages.range(span.start / PAGE..=(span.end - 1) / PAGE) {
                let start = number * PAGE;
                let (from, to) = (span.start.max(start), span.end.min(start + PAGE));
                buffer[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
            }
        }
    }
}

/// The range, if any region that is believed could have it.
fn believed(offset: u64, length: u64) -> Option<Range<u64>> {
    let end = offset.checked_add(length).filter(|end| *end <= REGION_LIMIT)?;
    Some(offset..end)
}

/// What stands for a core of which it is not known what it does: a number that nobody knows, and nothing to wait for.
pub(crate) fn unknown_live() -> LiveEntry {
    LiveEntry { doing: doing::UNKNOWN, waits_for: u16::MAX, ..LiveEntry::default() }
}

/// The same for a call descriptor.
pub(crate) fn unknown_call() -> CallDescriptor {
    CallDescriptor { state: call_state::UNKNOWN, ..CallDescriptor::default() }
}

/// The sections in front of the records, the most important first.
fn sections(directory: &Directory) -> [Section; 12] {
    let at = &directory.sections;
    let cores = u64::from(directory.core_count);
    let lanes = cores * LANES_PER_CORE as u64;
    [
        ("cores", at.cores, size_of::<CoreEntry>() as u64, cores),
        ("heads", at.heads, size_of::<HeadLine>() as u64, cores),
        ("lanes", at.lanes, size_of::<LaneDescriptor>() as u64, lanes),
        ("phases", at.phases, size_of::<PhaseResult>() as u64, directory.phase_count.into()),
        ("meta", at.meta, directory.meta_len.max(1), directory.meta_len.min(1)),
        ("slots", at.slots, size_of::<PairSlot>() as u64, directory.slot_count.into()),
        ("histograms", at.histograms, HISTOGRAM_BYTES, directory.histogram_count.into()),
        ("faults", at.faults, size_of::<FaultEntry>() as u64, cores),
        ("live", at.live, size_of::<LiveEntry>() as u64, cores),
        ("calls", at.calls, size_of::<CallDescriptor>() as u64, directory.descriptor_count.into()),
        ("logs", at.logs, LOG_STRIDE, cores),
        ("truth", at.truth, size_of::<Truth>() as u64, cores),
    ]
}

/// A lane and how far it was written.
struct Lane {
    core: u16,
    context: Context,
    head: u64,
    offset: u64,
    log2: u32,
}

impl Lane {
    /// The records that the ring still holds: their numbers, and where they lie. Two stretches where the ring has wrapped.
    fn published(&self) -> impl Iterator<Item = (Range<u64>, Range<u64>)> + use<> {
        let capacity = 1u64 << self.log2;
        let oldest = self.head.saturating_sub(capacity);
        let turn = (oldest | (capacity - 1)).saturating_add(1).min(self.head);
        let (offset, head) = (self.offset, self.head);
        [oldest..turn, turn..head].into_iter().filter(|numbers| !numbers.is_empty()).map(move |numbers| {
            let start = offset + (numbers.start & (capacity - 1)) * RECORD_BYTES;
            let end = start + (numbers.end - numbers.start) * RECORD_BYTES;
            (numbers, start..end)
        })
    }
}

impl RegionSource for Sparse {
    type Error = io::Error;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), io::Error> {
        if believed(offset, buffer.len() as u64).is_none() {
            let message = format!("{} bytes at {offset:#x} lie beyond any region", buffer.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.fill(offset, buffer);
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, io::Error> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// What is missing, in sentences: one for each section, and one for each lane with the numbers of its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Whether a verdict needs any of it.
    pub needed: bool,
    /// Records that are missing.
    pub records: u64,
    /// The sentences.
    pub lines: Vec<String>,
}

/// The most ranges of one lane that a sentence lists. The capture has them all.
const MOST_RANGES: usize = 200;

impl Missing {
    /// Of these gaps, which come in the order of [`Sparse::missing`].
    pub fn of(gaps: &[Gap]) -> Missing {
        let mut missing = Missing::default();
        let mut rest = gaps;
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|gap| alike(&gap.part, &first.part)).count();
            let (now, later) = rest.split_at(same);
            rest = later;
            missing.needed |= first.part.is_needed();
            let bytes: u64 = now.iter().map(|gap| gap.bytes.end - gap.bytes.start).sum();
            let line = match first.part {
                Part::Directory => format!("the directory: {bytes} of {} bytes", size_of::<Directory>()),
                Part::Section(name) => format!("section `{name}`: {bytes} bytes in {}", plural(same as u64, "place")),
                Part::Records { core, context, .. } => {
                    let ranges = record_ranges(now);
                    let count: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                    missing.records += count;
                    let numbers: Vec<String> = ranges.iter().take(MOST_RANGES).map(Numbers::of).collect();
                    let more = ranges.len().saturating_sub(MOST_RANGES);
                    let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
                    format!(
                        "lane {} of core {core}: {}, {}{more}",
                        context.name(),
                        plural(count, "record"),
                        numbers.join(", ")
                    )
                }
            };
            missing.lines.push(line);
        }
        missing
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("; "))
    }
}

struct Numbers;

impl Numbers {
    fn of(range: &Range<u64>) -> String {
        if range.end - range.start == 1 {
            range.start.to_string()
        } else {
            format!("{}-{}", range.start, range.end - 1)
        }
    }
}

fn alike(one: &Part, other: &Part) -> bool {
    match (one, other) {
        (Part::Records { core, context, .. }, Part::Records { core: other_core, context: other_context, .. }) => {
            (core, context) == (other_core, other_context)
        }
        _ => one == other,
    }
}

/// The records of one lane's gaps, each once: two gaps can cut the same record.
fn record_ranges(gaps: &[Gap]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for gap in gaps {
        let Part::Records { first, count, .. } = gap.part else { continue };
        match ranges.last_mut() {
            Some(last) if first <= last.end => last.end = last.end.max(first + count),
            _ => ranges.push(first..first + count),
        }
    }
    ranges
}

fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use trace_ring::layout::{Shape, lay_out};
    use trace_ring::reader::{Drained, Region, Writer};
    use trace_ring::record::{Event, Kind};

    use super::*;
    use crate::capture::Capture;

    pub(crate) const CORES: u64 = 2;
    pub(crate) const LOG2: u32 = 6;
    const CALLS: u64 = 14;

    /// A region of two cores: 40 records in core 0's thread lane, 100 (64 of them left) in core 1's IRQ lane.
    pub(crate) fn region(nonce: u64) -> Vec<u8> {
        let lanes = CORES * LANES_PER_CORE as u64;
        let (descriptors, records) = (CALLS, lanes << LOG2);
        let shape = Shape { cores: CORES, phases: 1, meta: 24, slots: 2, histograms: 1, descriptors, records };
        let (sections, length) = lay_out(shape);
        let mut bytes = vec![0; length as usize];
        let mut put = |offset: u64, piece: &[u8]| bytes[offset as usize..][..piece.len()].copy_from_slice(piece);
        let mut directory = Directory::new_zeroed();
        (directory.magic, directory.version, directory.nonce) = (MAGIC, ABI_VERSION, nonce);
        (directory.region_len, directory.sections, directory.meta_len) = (length, sections, 24);
        (directory.core_count, directory.phase_count, directory.slot_count) = (CORES as u32, 1, 2);
        (directory.histogram_count, directory.log_stride) = (1, LOG_STRIDE as u32);
        directory.descriptor_count = CALLS as u32;
        put(0, directory.as_bytes());
        let mut log = LogHeader::new_zeroed();
        (log.head, log.capacity) = (10, LOG_STRIDE - 64);
        put(sections.logs, log.as_bytes());
        put(sections.logs + 64, b"log of cor");
        put(sections.meta, b"{\"name\":\"a test's plan\"}");
        for core in 0..CORES {
            put(sections.live + core * size_of::<LiveEntry>() as u64, live(core).as_bytes());
        }
        for index in 0..CALLS {
            put(sections.calls + index * size_of::<CallDescriptor>() as u64, call(index).as_bytes());
        }
        for lane in 0..lanes {
            let mut descriptor = LaneDescriptor::new_zeroed();
            descriptor.offset = sections.records + (lane << LOG2) * RECORD_BYTES;
            descriptor.log2_records = LOG2;
            put(sections.lanes + lane * size_of::<LaneDescriptor>() as u64, descriptor.as_bytes());
        }
        for (core, context, head) in [(0, 0, 40), (1, 1, 100)] {
            let mut line = HeadLine::new_zeroed();
            line.head[context as usize] = head;
            put(sections.heads + core * size_of::<HeadLine>() as u64, line.as_bytes());
            let lane = core * LANES_PER_CORE as u64 + context;
            for index in 0..head {
                let event = Event { t: index, kind: Kind::Mark, flags: 0, peer: 0, msg: 0, intid: 0, extra: 0, arg: 7 };
                let slot = (lane << LOG2) + (index & ((1 << LOG2) - 1));
                put(sections.records + slot * RECORD_BYTES, event.words(index).as_bytes());
            }
        }
        bytes
    }

    /// What core `core` does in [`region`].
    pub(crate) fn live(core: u64) -> LiveEntry {
        LiveEntry { doing: doing::CALL, op: 3, since: 50 + core, waits_descriptor: 2, ..LiveEntry::default() }
    }

    /// Call descriptor `index` in [`region`].
    pub(crate) fn call(index: u64) -> CallDescriptor {
        CallDescriptor { queued: 60 + index, state: call_state::QUEUED, target: 1, ..CallDescriptor::default() }
    }

    /// What the newest snapshot of a capture says of cores and calls.
    pub(crate) fn captured_calls(path: &Path) -> (Vec<LiveEntry>, Vec<CallDescriptor>) {
        let capture = Capture::open(path).expect("is read");
        let mut snapshot = capture.snapshot().expect("is there");
        let region = Region::open(&mut snapshot).expect("opens");
        (region.live(&mut snapshot).expect("is read"), region.descriptors(&mut snapshot).expect("are read"))
    }

    /// What [`region`] says of them.
    pub(crate) fn all_calls() -> (Vec<LiveEntry>, Vec<CallDescriptor>) {
        ((0..CORES).map(live).collect(), (0..CALLS).map(call).collect())
    }

    pub(crate) fn directory_of(region: &[u8]) -> Directory {
        Directory::read_from_prefix(region).expect("long enough").0
    }

    fn whole(region: &[u8]) -> Sparse {
        let mut sparse = Sparse::new();
        sparse.put(0, region);
        sparse
    }

    /// `region` without some stretches.
    pub(crate) fn without(region: &[u8], holes: &[Range<u64>]) -> Sparse {
        let mut sparse = Sparse::new();
        let mut next = 0;
        for hole in holes {
            sparse.put(next, &region[next as usize..hole.start as usize]);
            next = hole.end;
        }
        sparse.put(next, &region[next as usize..]);
        sparse
    }

    #[test]
    fn nothing_is_missing_of_a_region_that_came_whole() {
        let region = region(1);
        let sparse = whole(&region);
        assert!(sparse.is_complete(Want::All));
        assert_eq!(sparse.all_missing(Want::All), Ok(Vec::new()));
        assert_eq!(sparse.known_bytes(), region.len() as u64);
        let mut twin = sparse;
        let mut bytes = vec![0; region.len()];
        twin.read(0, &mut bytes).expect("is read");
        assert!(bytes == region);
    }

    #[test]
    fn slots_that_nobody_published_are_not_missed() {
        let region = region(1);
        let at = directory_of(&region).sections;
        // Of core 0's thread lane 40 of 64 are published; what lies between the sections is nobody's.
        let unused = at.records + 40 * RECORD_BYTES..at.records + 64 * RECORD_BYTES;
        let log = at.logs + 64 + 10..at.logs + LOG_STRIDE;
        let padding = at.calls + CALLS * size_of::<CallDescriptor>() as u64..at.records;
        assert!(!padding.is_empty());
        let mut sparse = without(&region, &[log, padding, unused]);
        assert!(sparse.is_complete(Want::All));
        sparse.settle().expect("plausible");
        let (header, bytes) = Region::open(&mut sparse).expect("opens").log(&mut sparse, 0).expect("is read");
        assert_eq!((header.head, &bytes[..12]), (10, &b"log of cor\0\0"[..]));
    }

    #[test]
    fn what_is_missing_is_named_the_most_important_first() {
        let region = region(1);
        let at = directory_of(&region).sections;
        let slot = at.slots + 200..at.slots + 210;
        let head = at.heads + 64..at.heads + 72;
        let log = at.logs + 64 + 5..at.logs + 64 + 6;
        let records = at.records + 10 * RECORD_BYTES - 1..at.records + 12 * RECORD_BYTES;
        let sparse = without(&region, &[head.clone(), slot.clone(), log.clone(), records.clone()]);
        let gaps = sparse.all_missing(Want::All).expect("plausible");
        let parts: Vec<_> = gaps.iter().map(|gap| (gap.part, gap.bytes.clone())).collect();
        let expected = [
            (Part::Section("heads"), head),
            (Part::Section("slots"), slot),
            (Part::Section("logs"), log),
            (Part::Records { core: 0, context: Context::Thread, first: 9, count: 3 }, records),
        ];
        assert_eq!(parts, expected);
        let missing = Missing::of(&gaps);
        assert!(missing.needed);
        assert_eq!(missing.records, 3);
        assert_eq!(
            missing.to_string(),
            "section `heads`: 8 bytes in 1 place; section `slots`: 10 bytes in 1 place; section `logs`: 1 bytes in 1 place; \
             lane thread of core 0: 3 records, 9-11"
        );
        assert_eq!(sparse.all_missing(Want::Summary).map(|gaps| gaps.len()), Ok(3));
    }

    #[test]
    fn records_of_a_ring_that_wrapped_keep_their_numbers() {
        let region = region(1);
        let at = directory_of(&region).sections;
        let lane = at.records + ((LANES_PER_CORE as u64 + 1) << LOG2) * RECORD_BYTES;
        // 36..100 are left: slot 35 holds 99, slot 36 holds 36. Two holes in one record count it once.
        let holes = [
            lane + 35 * RECORD_BYTES..lane + 37 * RECORD_BYTES,
            lane + 50 * RECORD_BYTES + 1..lane + 50 * RECORD_BYTES + 2,
            lane + 50 * RECORD_BYTES + 30..lane + 50 * RECORD_BYTES + 31,
        ];
        let missing = Missing::of(&without(&region, &holes).all_missing(Want::All).expect("plausible"));
        assert!(!missing.needed);
        assert_eq!(missing.to_string(), "lane irq of core 1: 3 records, 36, 50, 99");
    }

    #[test]
    fn a_missing_directory_is_all_that_can_be_named() {
        let region = region(1);
        let at = directory_of(&region).sections;
        let sparse = without(&region, &[100..200, at.slots..at.slots + 1]);
        let gaps = sparse.all_missing(Want::All).expect("plausible");
        assert_eq!(gaps, [Gap { part: Part::Directory, bytes: 100..200 }]);
        assert!(Missing::of(&gaps).needed);
        assert_eq!(Sparse::new().all_missing(Want::All).map(|gaps| gaps.len()), Ok(1));
    }

    #[test]
    fn torn_records_are_counted_exactly_and_sections_read_as_zero() {
        let region = region(1);
        let at = directory_of(&region).sections;
        let lane = at.records;
        let holes = [
            at.lanes + 5 * 32..at.lanes + 5 * 32 + 8, // the IRQ lane of core 1
            at.slots + 192 + 64..at.slots + 192 + 72,
            lane + 3 * RECORD_BYTES..lane + 5 * RECORD_BYTES,
        ];
        let mut sparse = without(&region, &holes);
        sparse.settle().expect("plausible");
        let region = Region::open(&mut sparse).expect("opens");
        let mut lost = Vec::new();
        let mut lane = region.lane(0);
        let sink = |drained: Drained<'_>| {
            if let Drained::Lost { first, count, .. } = drained {
                lost.push((first, count));
            }
        };
        lane.drain(&mut sparse, Writer::Quiescent, sink).expect("is read");
        assert_eq!(lost, [(3, 2)]);
        assert_eq!((lane.account().written, lane.account().accepted, lane.account().torn), (40, 38, 2));
        // The lane whose place is unknown: nothing of it is accepted, all of it is counted.
        let mut homeless = region.lane(LANES_PER_CORE + 1);
        homeless.drain(&mut sparse, Writer::Quiescent, |_| ()).expect("is read");
        assert_eq!((homeless.account().written, homeless.account().accepted), (100, 0));
        assert!(homeless.account().is_whole());
        let slots = region.slots(&mut sparse).expect("are read");
        assert_eq!(slots[1].as_bytes(), [0; 192]);
    }

    #[test]
    fn what_cores_did_and_called_comes_like_any_section_and_is_unknown_where_it_did_not() {
        let region = region(1);
        let at = directory_of(&region).sections;
        // A byte of core 1's line; the end of descriptor 3, all of 4, the begin of 5.
        let (line, calls) = (at.live + 64 + 8..at.live + 64 + 9, at.calls + 3 * 64 + 60..at.calls + 5 * 64 + 1);
        let mut sparse = without(&region, &[line.clone(), calls.clone()]);
        let gaps = sparse.all_missing(Want::Summary).expect("plausible");
        let expected = [("live", line), ("calls", calls)].map(|(name, bytes)| Gap { part: Part::Section(name), bytes });
        assert_eq!(gaps, expected);
        for gap in &gaps {
            assert!(Missing::of(std::slice::from_ref(gap)).needed, "{gap:?}");
        }
        sparse.settle().expect("plausible");
        let opened = Region::open(&mut sparse).expect("opens");
        assert_eq!(opened.live(&mut sparse).expect("is read"), [live(0), unknown_live()]);
        let found = opened.descriptors(&mut sparse).expect("are read");
        let expected: Vec<CallDescriptor> =
            (0..CALLS).map(|index| if (3..6).contains(&index) { unknown_call() } else { call(index) }).collect();
        assert_eq!(found, expected);
        // What stands there is no state that this version knows.
        assert!(unknown_live().doing > doing::DONE && unknown_call().state > call_state::EXECUTED);
    }

    #[test]
    fn what_a_liar_claims_takes_no_memory_and_is_refused() {
        let mut sparse = Sparse::new();
        assert_eq!(sparse.put_zeros(0, 15 << 30).fresh, 15 << 30);
        assert!(sparse.pages.is_empty());
        assert_eq!(sparse.put(u64::MAX - 3, &[1; 8]).fresh, 0);
        assert_eq!(sparse.put_zeros(1, u64::MAX).fresh, 0);
        assert_eq!(sparse.directory().expect_err("zeros"), Implausible::Magic(0));
        assert!(sparse.read(u64::MAX, &mut [0; 4]).is_err());

        type Lie = fn(&mut Directory);
        let lies: [(&str, Lie); 12] = [
            ("version", |directory| directory.version = 99),
            ("core_count", |directory| directory.core_count = 513),
            ("core_count", |directory| directory.core_count = 0),
            ("region_len", |directory| directory.region_len = 1 << 40),
            ("slots", |directory| directory.slot_count = u32::MAX),
            ("histograms", |directory| directory.sections.histograms = u64::MAX - 7),
            ("meta", |directory| directory.meta_len = u64::MAX),
            ("calls", |directory| directory.descriptor_count = u32::MAX),
            ("calls", |directory| directory.sections.calls = u64::MAX - 7),
            ("live", |directory| directory.sections.live += 4),
            ("live", |directory| directory.sections.live = directory.region_len - 64),
            ("records", |directory| directory.sections.records = 1 << 50),
        ];
        for (names, lie) in lies {
            let bytes = region(1);
            let mut directory = directory_of(&bytes);
            lie(&mut directory);
            let mut sparse = whole(&bytes);
            sparse.put(0, directory.as_bytes());
            let error = sparse.directory().expect_err(names).to_string();
            assert!(error.contains(names), "expected {names} in {error:?}");
            assert!(!sparse.is_complete(Want::All) && sparse.all_missing(Want::All).is_err());
            assert!(sparse.settle().is_err());
        }

        // Lanes that overlap, lanes that are too large, heads that can't be.
        let bytes = region(1);
        let at = directory_of(&bytes).sections;
        for (log2, head, refused) in [(41, 0, true), (16, 0, true), (LOG2, u64::MAX, false)] {
            let mut sparse = whole(&bytes);
            for lane in 0..CORES * LANES_PER_CORE as u64 {
                let mut descriptor = LaneDescriptor::new_zeroed();
                (descriptor.offset, descriptor.log2_records) = (0, log2);
                sparse.put(at.lanes + lane * 32, descriptor.as_bytes());
            }
            sparse.put(at.heads, &head.to_le_bytes());
            assert_eq!(sparse.all_missing(Want::All).is_err(), refused, "{log2} {head:#x}");
        }
    }

    #[test]
    fn bytes_that_come_twice_are_new_once_and_a_difference_is_seen() {
        let mut sparse = Sparse::new();
        assert_eq!(sparse.put(510, &[1, 2, 3, 4]), Put { fresh: 4, changed: false });
        assert_eq!(sparse.put(512, &[3, 4, 5]), Put { fresh: 1, changed: false });
        assert_eq!(sparse.put(512, &[3, 9]), Put { fresh: 0, changed: true });
        assert_eq!(sparse.put_zeros(500, 10), Put { fresh: 10, changed: false });
        assert_eq!(sparse.put_zeros(500, 11), Put { fresh: 0, changed: true });
        let mut bytes = [0; 18];
        sparse.read(499, &mut bytes).expect("is read");
        assert_eq!(bytes, [255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 9, 5, 255, 255]);
    }

    proptest! {
        /// Against a plain array: pieces in any order, overlapping, data and zeros.
        #[test]
        fn a_region_of_pieces_is_what_was_put_in(
            pieces in prop::collection::vec((0u64..2000, 0usize..300, 0u8..4), 0..60),
            ask in (0u64..2200, 0u64..2200),
        ) {
            let mut sparse = Sparse::new();
            let mut model: Vec<Option<u8>> = vec![None; 2400];
            for (offset, length, value) in pieces {
                let place = &mut model[offset as usize..][..length];
                let fresh = place.iter().filter(|byte| byte.is_none()).count() as u64;
                let changed = place.iter().any(|byte| byte.is_some_and(|byte| byte != value));
                place.fill(Some(value));
                let put = if value == 0 {
                    sparse.put_zeros(offset, length as u64)
                } else {
                    sparse.put(offset, &vec![value; length])
                };
                prop_assert_eq!(put, Put { fresh, changed });
            }
            let mut bytes = vec![0; model.len()];
            sparse.read(0, &mut bytes).expect("is read");
            prop_assert!(bytes.iter().zip(&model).all(|(byte, model)| *byte == model.unwrap_or(0xFF)));
            prop_assert_eq!(sparse.known_bytes(), model.iter().flatten().count() as u64);
            let range = ask.0.min(ask.1)..ask.0.max(ask.1);
            let gaps: Vec<u64> = sparse.known.gaps(range.clone()).flatten().collect();
            let expected: Vec<u64> = range.clone().filter(|at| model[*at as usize].is_none()).collect();
            prop_assert_eq!(gaps, expected);
            prop_assert_eq!(sparse.holds(range.clone()), range.clone().all(|at| model[at as usize].is_some()));
        }
    }
}
