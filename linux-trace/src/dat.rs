//! `trace.dat`, what trace-cmd records: versions 6 and 7, any byte order and word size, packed or not.
//!
//! trace-cmd's own reports lose the context flags and take two microseconds an event; this reads the rings themselves, merges the
//! CPUs by time, and keeps one block of each CPU in memory, so that a file may be larger than it. Layouts are the file's own
//! (`trace-cmd.dat.v6(5)`, `trace-cmd.dat.v7(5)`, and the format texts of the kernel that recorded it): nothing is fixed here
//! but names. Only the kinds of [`What`] are read, without the kernel's print formats.
//!
//! A file that is cut or damaged is read as far as it is whole; [`Tally::unknown`] counts the rest.

mod bprint;
mod bytes;
mod decode;
mod file;
mod format;
mod page;
mod symbols;
mod write;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io::{self, Read, Seek};

use bytes::Input;
use decode::Decoder;
use file::{File, Layout};
use page::{Lane, LaneAt, Next};

use crate::mask::MOST_CPUS;
use crate::{Clock, Event, Name, Names, Tally, What};

pub use write::{Counts, Meta, WriteError, Writer};

/// What a file says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Header {
    /// Of the file's layout: 6 or 7.
    pub version: u8,
    /// Whether it was recorded on a big-endian machine.
    pub big_endian: bool,
    /// Bytes of the kernel's `long`, 4 or 8.
    pub long_size: u8,
    /// Bytes of a ring's page.
    pub page_size: u32,
    /// How it is packed: `none`, `zlib`, `zstd`.
    pub compression: String,
    /// The clock of its times.
    pub clock: Clock,
    /// The clock's name as the file has it (`x86-tsc` is none of [`Clock`]).
    pub clock_name: String,
    /// CPUs of the machine.
    pub cpus: u32,
    /// The machine and its kernel, as `uname` says it.
    pub uname: Option<String>,
    /// The version of trace-cmd.
    pub recorder: Option<String>,
    /// What was added to every time, ns (options OFFSET and DATE).
    pub offset: i64,
    /// How ticks of a processor's counter became ns (option TSC2NSEC).
    pub tsc: Option<Tsc>,
    /// What each CPU's ring lost, by the kernel's own count (option CPUSTAT).
    pub stats: Vec<CpuStat>,
    /// Buffers of other instances, which were not read.
    pub other_buffers: Vec<String>,
    /// What a reader should be told of the file.
    pub remarks: Vec<String>,
}

/// Ticks to ns: `ticks * multiplier >> shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tsc {
    /// Times this.
    pub multiplier: u32,
    /// Over two to this.
    pub shift: u32,
    /// The clock's own offset, which is in the stamps already; told only.
    pub offset: u64,
}

/// A CPU's `stats` file of tracefs, as far as it tells of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuStat {
    /// The CPU.
    pub cpu: u32,
    /// Events that newer ones overwrote.
    pub overrun: u64,
    /// Events that were lost as the ring wrapped within one.
    pub commit_overrun: u64,
    /// Events that found the ring full (overwriting off).
    pub dropped: u64,
}

/// Why a file is not read at all.
#[derive(Debug, thiserror::Error)]
pub enum DatError {
    /// The file itself.
    #[error("the file cannot be read: {0}")]
    Io(#[source] io::Error),
    /// Nothing in it.
    #[error("the file is empty, not a trace.dat; record it again with `trace-cmd record`, or copy it again")]
    Empty,
    /// Something else.
    #[error(
        "the file begins with `{first}`, not with `\\x17\\x08Dtracing`: it is no trace.dat; give it as text if it is text"
    )]
    NotDat {
        /// Its first bytes.
        first: String,
    },
    /// A version that is not known.
    #[error("version `{0}` of trace.dat is not known (6 and 7 are); convert it: `trace-cmd convert --file-version 7`")]
    Version(String),
    /// A compression that is not known.
    #[error(
        "compression `{0}` is not known (none, zlib and zstd are); convert it: `trace-cmd convert --compression none`"
    )]
    Compression(String),
    /// The file holds a latency tracer's text.
    #[error("the file holds a latency tracer's text, no events; give that text: `trace-cmd report FILE > trace.txt`")]
    Latency,
    /// The file describes no buffer.
    #[error("the file describes no buffer of events: its recording was broken off; record it again")]
    NoData,
    /// The file ends in front of its data.
    #[error("the file ends at byte {at:#x} within {what}, in front of its events; copy it again")]
    Truncated {
        /// Within what.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// The file points beyond its end.
    #[error("{what} would stand at byte {at:#x}, the file ends at {len:#x}; copy it again")]
    Beyond {
        /// What is not there.
        what: &'static str,
        /// Where it would be.
        at: u64,
        /// The file's length.
        len: u64,
    },
    /// Something that cannot be.
    #[error("at byte {at:#x}: {what} is {value}; the file is damaged, copy it again")]
    Malformed {
        /// What.
        what: &'static str,
        /// Its value.
        value: String,
        /// Where.
        at: u64,
    },
}

/// Whether a file that begins so is a `trace.dat`; ten bytes decide.
#[must_use]
pub fn is_dat(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(file::MAGIC)
}

/// A file whose description was read, and whose events were not.
pub struct Reader<S> {
    input: Input<S>,
    header: Header,
    layout: Layout,
    decoder: Decoder,
    lanes: Vec<LaneAt>,
}

impl<S: Read + Seek> Reader<S> {
    /// Reads the description.
    ///
    /// # Errors
    /// It is no `trace.dat`, one that is not known, or one that ends or is damaged in front of its events.
    pub fn open(source: S) -> Result<Reader<S>, DatError> {
        let mut input = Input::open(source)?;
        let File { header, layout, formats, symbols, lanes } = File::open(&mut input)?;
        let decoder = Decoder { formats, symbols, big: layout.big, long: layout.commit_size };
        Ok(Reader { input, header, layout, decoder, lanes })
    }

    /// What the file says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Gives the events of all CPUs to `sink`, by time; of one time, by CPU. [`Tally::events`] counts all that it was given.
    ///
    /// # Errors
    /// The file cannot be read. Damage is none: it is counted, and reading goes on with the next page.
    pub fn read(mut self, names: &mut Names, sink: &mut dyn FnMut(Event, &mut Names)) -> Result<Tally, DatError> {
        let mut tally = Tally::default();
        page::part(&mut self.lanes, &mut tally);
        let mut lanes = Vec::new();
        for at in &self.lanes {
            if usize::from(at.cpu) >= MOST_CPUS {
                if at.size > 0 {
                    let why =
                        format!("CPU {} is beyond the {MOST_CPUS} that are read: its events are left out", at.cpu);
                    page::unknown(&mut tally, at.at, why);
                }
                continue;
            }
            lanes.push(Lane::open(*at, &mut self.input, self.layout.big, &mut tally)?);
        }
        let mut order = BinaryHeap::new();
        for (at, lane) in lanes.iter_mut().enumerate() {
            if lane.advance(&mut self.input, &self.layout, &mut tally)? {
                order.push(Reverse((lane.t, at)));
            }
        }
        while let Some(mut first) = order.peek_mut() {
            let Reverse((t, at)) = *first;
            let Some(lane) = lanes.get_mut(at) else { break };
            let t = self.header.time(t);
            let event = match lane.next {
                Next::Record(from, to) => self.decoder.event(lane.record(from, to), lane.cpu, t, names),
                Next::Lost(count) => {
                    tally.gaps += 1;
                    tally.lost = tally.lost.saturating_add(count.unwrap_or(0));
                    let what = What::Lost { count };
                    Ok(Some(Event { t, cpu: lane.cpu, pid: None, comm: Name::NONE, flags: [0; 8], what }))
                }
            };
            match event {
                Ok(Some(event)) => {
                    tally.events += 1;
                    sink(event, names);
                }
                Ok(None) => tally.others += 1,
                Err(why) => {
                    let from = if let Next::Record(from, _) = lane.next { from } else { 0 };
                    page::unknown(&mut tally, lane.place(from), format!("CPU {}: {why}", lane.cpu));
                }
            }
            if lane.advance(&mut self.input, &self.layout, &mut tally)? {
                first.0.0 = lane.t;
            } else {
                PeekMut::pop(first);
            }
        }
        Ok(tally)
    }
}

impl Header {
    /// A stamp of a ring as a time, ns.
    fn time(&self, stamp: u64) -> u64 {
        let t = match self.tsc {
            Some(tsc) if tsc.multiplier != 0 => {
                ((u128::from(stamp) * u128::from(tsc.multiplier)) >> tsc.shift).try_into().unwrap_or(u64::MAX)
            }
            _ => stamp,
        };
        t.saturating_add_signed(self.offset)
    }
}

/// Reads a file: what it says of itself, its events by time to `sink`, and what was read.
///
/// # Errors
/// As [`Reader::open`] and [`Reader::read`].
pub fn read<S: Read + Seek>(
    source: S,
    names: &mut Names,
    sink: &mut dyn FnMut(Event, &mut Names),
) -> Result<(Header, Tally), DatError> {
    let reader = Reader::open(source)?;
    let header = reader.header().clone();
    Ok((header, reader.read(names, sink)?))
}
