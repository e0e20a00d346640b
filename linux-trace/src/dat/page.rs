//! One CPU's ring buffer: its pages, a few in memory at a time, and the records in them.
//!
//! A page is a time stamp, the number of bytes behind it (`commit`, whose upper bits tell of lost events), and records. A record's
//! first word is 5 bits of type or length and 27 bits of time since the one in front (`include/linux/ring_buffer.h`, `enum
//! ring_buffer_type`; `kernel/trace/ring_buffer.c`).

use std::io::{Read, Seek};

use super::DatError;
use super::bytes::{Input, number_at};
use super::file::{Layout, Packing};
use crate::{Place, Tally};

/// Types of records that are no data (`enum ring_buffer_type`); 1 to 28 are lengths in words, 0 says that a word has the length.
const PADDING: u32 = 29;
pub(super) const TIME_EXTEND: u32 = 30;
pub(super) const TIME_STAMP: u32 = 31;

/// Bits of the time in a record's first word (`TS_SHIFT`).
pub(super) const TIME_BITS: u32 = 27;

/// The bits that an absolute time stamp does not have (`TS_MSB`): it has 59.
pub(super) const TOP_OF_TIME: u64 = 0xF8 << 56;

/// Bits of `commit` that count bytes; above are the two flags.
const COMMIT: u64 = (1 << 27) - 1;
/// `RB_MISSED_EVENTS`: events were lost in front of this page.
pub(super) const MISSED: u64 = 1 << 31;
/// `RB_MISSED_STORED`: how many, stands behind the data.
pub(super) const MISSED_STORED: u64 = 1 << 30;

/// Bytes that are read from the file at once, where pages are not larger.
const BLOCK: u64 = 64 << 10;

/// The most pages of a chunk, of 64 KiB where they are smaller. trace-cmd packs ten into one.
const LARGEST_CHUNK: u64 = 16;

/// What a CPU has next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    /// A record, as a range of [`Lane::block`].
    Record(usize, usize),
    /// Events are missing: how many.
    Lost(Option<u64>),
}

/// Where the data of a CPU lie in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneAt {
    pub(super) cpu: u16,
    pub(super) at: u64,
    pub(super) size: u64,
    pub(super) packed: bool,
}

/// Ends each CPU's data where another's begin: a damaged size costs one CPU's end, and no byte is read twice.
pub(super) fn part(lanes: &mut [LaneAt], tally: &mut Tally) {
    let mut places: Vec<usize> = (0..lanes.len()).filter(|at| lanes[*at].size > 0).collect();
    places.sort_by_key(|at| lanes[*at].at);
    for pair in places.windows(2) {
        let &[first, second] = pair else { continue };
        let (begin, cpu) = (lanes[second].at, lanes[second].cpu);
        let first = &mut lanes[first];
        let room = begin - first.at;
        if first.size > room {
            unknown(tally, begin, format!("the data of CPU {} would reach into those of CPU {cpu}", first.cpu));
            first.size = room;
        }
    }
}

/// One CPU.
pub(super) struct Lane {
    pub(super) cpu: u16,
    /// Where the file is read next, and where the CPU's data end in it.
    at: u64,
    end: u64,
    /// Chunks that are left, where it is packed.
    chunks: Option<u32>,
    /// The pages in memory, and where they came from.
    block: Vec<u8>,
    block_at: u64,
    /// Where the next page begins in `block`.
    page: usize,
    /// The records of the page that are left.
    pos: usize,
    stop: usize,
    /// The page is cut by the end of the file, which has been told.
    cut: bool,
    /// The time of [`Lane::next`].
    pub(super) t: u64,
    pub(super) next: Next,
}

impl Lane {
    pub(super) fn open<S: Read + Seek>(
        lane: LaneAt,
        input: &mut Input<S>,
        big: bool,
        tally: &mut Tally,
    ) -> Result<Lane, DatError> {
        let mut block = Vec::new();
        let mut at = lane.at;
        let mut wanted = lane.at.saturating_add(lane.size);
        let mut chunks = None;
        if lane.packed && lane.size > 0 {
            input.read_at(at, 4, &mut block)?;
            // The count stands in front of what the size counts.
            chunks = Some(number_at(&block, 0, 4, big).unwrap_or(0) as u32);
            (at, wanted) = (at.saturating_add(4), wanted.saturating_add(4));
        }
        let end = wanted.min(input.len);
        if lane.size > 0 && wanted > input.len {
            let why = format!("the file ends here, the data of CPU {} would end at byte {wanted:#x}", lane.cpu);
            unknown(tally, input.len, why);
        }
        block.clear();
        Ok(Lane {
            cpu: lane.cpu,
            at,
            end,
            chunks,
            block,
            block_at: at,
            page: 0,
            pos: 0,
            stop: 0,
            cut: false,
            t: 0,
            next: Next::Lost(None),
        })
    }

    /// The record of [`Next::Record`].
    #[inline]
    pub(super) fn record(&self, from: usize, to: usize) -> &[u8] {
        self.block.get(from..to).unwrap_or_default()
    }

    /// Where a byte of [`Lane::block`] stands in the file; for packed data, where its chunk does.
    pub(super) fn place(&self, at: usize) -> u64 {
        if self.chunks.is_some() { self.block_at } else { self.block_at + at as u64 }
    }

    /// Goes to the next record or loss. `false`: there is none.
    pub(super) fn advance<S: Read + Seek>(
        &mut self,
        input: &mut Input<S>,
        layout: &Layout,
        tally: &mut Tally,
    ) -> Result<bool, DatError> {
        loop {
            while self.pos < self.stop {
                if self.step(layout.big, tally) {
                    return Ok(true);
                }
            }
            if self.page < self.block.len() {
                if self.open_page(layout, tally) {
                    return Ok(true);
                }
            } else if !self.refill(input, layout, tally)? {
                return Ok(false);
            }
        }
    }

    /// Reads a record's head. `true`: it is data.
    #[inline]
    fn step(&mut self, big: bool, tally: &mut Tally) -> bool {
        let left = self.block.get(self.pos..self.stop).unwrap_or_default();
        let word = |at| number_at(left, at, 4, big).map(|word| word as u32);
        let Some(head) = word(0) else { return self.damaged("a record's head is cut", tally) };
        // The fields of a C bit field begin at the byte order's first end.
        let (kind, delta) =
            if big { (head >> TIME_BITS, head & ((1 << TIME_BITS) - 1)) } else { (head & 31, head >> 5) };
        let delta = u64::from(delta);
        let (skip, len) = match kind {
            // Nothing more in this page (`rb_null_event`).
            PADDING if delta == 0 => {
                self.pos = self.stop;
                return false;
            }
            _ if kind > 0 && kind < PADDING => (4, kind as usize * 4),
            _ => {
                let Some(next) = word(4) else { return self.damaged("a record's second word is cut", tally) };
                let long = u64::from(next) << TIME_BITS | delta;
                match kind {
                    TIME_EXTEND => {
                        self.t = self.t.wrapping_add(long);
                        self.pos += 8;
                        return false;
                    }
                    TIME_STAMP => {
                        self.t = absolute(long, self.t);
                        self.pos += 8;
                        return false;
                    }
                    // The length counts itself.
                    _ if next < 4 => return self.damaged("a record's length is less than its own", tally),
                    _ => (8, next as usize - 4),
                }
            }
        };
        if len > left.len() - skip {
            return self.damaged("a record is longer than what its page holds", tally);
        }
        self.t = self.t.wrapping_add(delta);
        let from = self.pos + skip;
        self.pos = from + len.next_multiple_of(4);
        // A discarded event: its time counts, as those behind it count from there.
        if kind == PADDING {
            return false;
        }
        self.next = Next::Record(from, from + len);
        true
    }

    /// Gives up the page.
    #[cold]
    fn damaged(&mut self, why: &str, tally: &mut Tally) -> bool {
        if !self.cut {
            unknown(tally, self.place(self.pos), format!("CPU {}: {why}; the rest of the page is skipped", self.cpu));
        }
        self.pos = self.stop;
        false
    }

    /// Opens the next page of the block. `true`: events are missing in front of it.
    fn open_page(&mut self, layout: &Layout, tally: &mut Tally) -> bool {
        let from = self.page;
        let page = self.block.get(from..).unwrap_or_default();
        let page = page.get(..layout.page_size).unwrap_or(page);
        self.page = from + page.len();
        // A page that the file's end cuts was told when the lane was opened.
        self.cut = page.len() < layout.page_size && self.block_at + self.block.len() as u64 >= self.end;
        let commit = number_at(page, layout.commit_at, layout.commit_size, layout.big);
        let (Some(t), Some(commit)) = (number_at(page, 0, 8, layout.big), commit) else {
            if !self.cut {
                unknown(tally, self.place(from), format!("CPU {}: a page of {} bytes", self.cpu, page.len()));
            }
            return false;
        };
        let end = layout.data_at + (commit & COMMIT) as usize;
        if end > page.len() && (!self.cut || end > layout.page_size) {
            let why = format!("CPU {}: a page that claims {} bytes is skipped", self.cpu, commit & COMMIT);
            unknown(tally, self.place(from), why);
            return false;
        }
        self.t = t;
        (self.pos, self.stop) = (from + layout.data_at, from + end.min(page.len()));
        if commit & MISSED == 0 {
            return false;
        }
        let count = (commit & MISSED_STORED != 0).then(|| number_at(page, end, layout.commit_size, layout.big));
        self.next = Next::Lost(count.flatten());
        true
    }

    /// Reads the next pages from the file. `false`: there are none.
    fn refill<S: Read + Seek>(
        &mut self,
        input: &mut Input<S>,
        layout: &Layout,
        tally: &mut Tally,
    ) -> Result<bool, DatError> {
        (self.page, self.pos, self.stop) = (0, 0, 0);
        self.block_at = self.at;
        let left = self.end.saturating_sub(self.at);
        let Some(chunks) = &mut self.chunks else {
            let page = layout.page_size as u64;
            input.read_at(self.at, left.min(BLOCK.max(page) / page * page), &mut self.block)?;
            self.at += self.block.len() as u64;
            return Ok(!self.block.is_empty());
        };
        self.block.clear();
        if *chunks == 0 || left == 0 {
            return Ok(false);
        }
        *chunks -= 1;
        let mut packed = Vec::new();
        input.read_at(self.at, 8.min(left), &mut packed)?;
        let size = |at| number_at(&packed, at, 4, layout.big);
        let (Some(len), Some(unpacked)) = (size(0), size(4)) else {
            *chunks = 0;
            return Ok(false);
        };
        let place = self.at;
        let largest = LARGEST_CHUNK * BLOCK.max(layout.page_size as u64);
        if len > largest || unpacked > largest {
            unknown(tally, place, format!("CPU {}: a chunk of {len} bytes ({unpacked} unpacked)", self.cpu));
            *chunks = 0;
            return Ok(false);
        }
        input.read_at(self.at + 8, len.min(left - 8), &mut packed)?;
        self.at += 8 + packed.len() as u64;
        match layout.packing.unpack(&packed, unpacked, &mut self.block) {
            Ok(()) => {}
            Err(_) if (packed.len() as u64) < len => *chunks = 0,
            Err(why) => unknown(tally, place, format!("CPU {}: a chunk does not unpack: {why}", self.cpu)),
        }
        Ok(true)
    }
}

/// An absolute stamp has 59 bits; the rest are those of the time before, and one more where it wrapped (`rb_fix_abs_ts`).
fn absolute(stamp: u64, before: u64) -> u64 {
    let top = before & TOP_OF_TIME;
    if top == 0 {
        return stamp;
    }
    let full = stamp | top;
    if full < before { full.wrapping_add(1 << 59) } else { full }
}

/// Counts what is not understood, and keeps the first.
#[cold]
pub(super) fn unknown(tally: &mut Tally, at: u64, why: String) {
    tally.unknown += 1;
    tally.first_unknown.get_or_insert((Place::Byte(at), why));
}

impl Packing {
    /// Unpacks `len` bytes at most; `out` grows with what comes.
    pub(super) fn unpack(self, packed: &[u8], len: u64, out: &mut Vec<u8>) -> std::io::Result<()> {
        out.clear();
        match self {
            Packing::None => out.extend_from_slice(packed.get(..len as usize).unwrap_or(packed)),
            Packing::Zlib => drop(flate2::read::ZlibDecoder::new(packed).take(len).read_to_end(out)?),
            Packing::Zstd => drop(zstd::stream::read::Decoder::with_buffer(packed)?.take(len).read_to_end(out)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_stamp_keeps_the_top_of_the_time_and_carries() {
        assert_eq!(absolute(5, 3), 5);
        assert_eq!(absolute(5, 1 << 59 | 3), 1 << 59 | 5);
        assert_eq!(absolute(5, 1 << 59 | 7), 2 << 59 | 5, "59 bits wrapped");
    }
}
