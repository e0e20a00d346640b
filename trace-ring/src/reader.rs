//! The host's end: plain reads of memory that may change under them, and an exact count of what was missed.
//!
//! A lane of `N` slots is read like this: read the head `h1`; what the rule below would reject already is gone and counted;
//! copy the slots; read the head again, `h2`. The writer may by then be filling the slot of record `h2` *and* of `h2 + 1`
//! (its barrier orders a head only before the record after the next), so record `i` is accepted iff `i + N > h2 + 1`, and
//! only if it carries its own number twice. `docs/ring-protocol.md` has the argument, the model checker runs it.
//!
//! For each lane, always: `written = accepted + lapped + torn + dropped + left`.
#![cfg(not(target_os = "none"))]

use std::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::calls::{CallDescriptor, LiveEntry};
use crate::layout::{
    ABI_VERSION, CoreEntry, Directory, FaultEntry, HISTOGRAM_BYTES, HeadLine, LANES_PER_CORE, LOG_STRIDE,
    LaneDescriptor, LogHeader, MAGIC, MAX_CORES, PairSlot, PhaseResult, Status, Truth,
};
use crate::plan::{LEAST_LOG2_RECORDS, MOST_LOG2_RECORDS, Policy};
use crate::record::{RECORD_BYTES, Record};

/// Something a region can be read from: QEMU's RAM file, a memory access port, halted cores, a dump.
///
/// Offsets count from the region's start. Reads take effect in program order: no read is answered with older data than a
/// read before it (an Acquire fence between them, or a bus that does not reorder).
pub trait RegionSource {
    /// Why a read failed.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Fills `buffer` from `offset`. Bytes may be torn anywhere.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;

    /// Reads the aligned 64-bit word at `offset`, which a writer stores whole, as one value: a source with narrower
    /// accesses reads high, low, high until the high half stands still.
    fn read_u64(&mut self, offset: u64) -> Result<u64, Self::Error>;
}

/// Why a region can't be read.
#[derive(Debug)]
pub enum ReadError<E> {
    /// The source failed.
    Source(E),
    /// There is no region where one was expected.
    Magic(u64),
    /// A region of another version.
    Version(u32),
    /// The region contradicts itself.
    Corrupt {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The run's nonce changed: the target was restarted.
    Restarted {
        /// The nonce at open.
        expected: u64,
        /// The nonce now.
        found: u64,
    },
}

impl<E: core::fmt::Display> core::fmt::Display for ReadError<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ReadError::Source(error) => write!(f, "the target's memory can't be read: {error}"),
            ReadError::Magic(word) => write!(f, "no trace region there: it begins with {word:#018x}"),
            ReadError::Version(version) => {
                write!(f, "trace region of ABI version {version}, this host reads {ABI_VERSION}")
            }
            ReadError::Corrupt { field, value } => write!(f, "trace region is damaged: `{field}` is {value:#x}"),
            ReadError::Restarted { expected, found } => {
                write!(f, "the target was restarted: run nonce {expected:#x} became {found:#x}")
            }
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for ReadError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            ReadError::Source(error) => Some(error),
            _ => None,
        }
    }
}

/// What a lane drain hands on, in the order of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained<'a> {
    /// Records `first ..`, whole and in order: 32 bytes each, as they lay in memory.
    Records {
        /// Number of the first.
        first: u64,
        /// Their bytes.
        bytes: &'a [u8],
    },
    /// Records `first .. first + count` were missed.
    Lost {
        /// Number of the first.
        first: u64,
        /// How many.
        count: u64,
        /// Why.
        cause: Loss,
    },
}

/// Why a record was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// It was overwritten before, or possibly while, it was read.
    Lapped,
    /// What lay in its slot was not it: half-written, or damaged.
    Torn,
    /// The lane's policy turned it away.
    Dropped,
}

/// The accounts of a lane: `written = accepted + lapped + torn + dropped + left`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Records the writer appended or turned away, as far as the reader has come.
    pub written: u64,
    /// Records that were read whole.
    pub accepted: u64,
    /// See [`Loss::Lapped`].
    pub lapped: u64,
    /// See [`Loss::Torn`].
    pub torn: u64,
    /// See [`Loss::Dropped`].
    pub dropped: u64,
    /// Published and never fetched: the link was lost, or nobody waited for it ([`LaneReader::abandon`]).
    pub left: u64,
}

impl Account {
    /// All that was missed.
    pub const fn lost(&self) -> u64 {
        self.lapped + self.torn + self.dropped + self.left
    }

    /// Whether the accounts add up. They always do; callers assert it.
    pub const fn is_whole(&self) -> bool {
        self.written == self.accepted + self.lost()
    }
}

/// Whether the writer may still run while a lane is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// It may, or it may have died in the middle of a record: the guard of [`GUARD_RECORDS`] applies.
    Live,
    /// It has stopped for good between two records (the run's state says that nothing is written any more): every slot
    /// counts. A target that was killed or hangs is not quiescent: the slot it was filling holds half a record.
    Quiescent,
}

/// Records at and past the published head that a live writer may be filling: two, and not one, because its barrier orders
/// a head only before the record after the next.
pub const GUARD_RECORDS: u64 = 2;

/// Records copied at once: what stays in a core's second-level cache between the copy and the check.
const CHUNK_RECORDS: u64 = 8192;

/// A head or a count of dropped records beyond this is damage: a record a nanosecond for 36 years. Sums of two can't
/// overflow below it.
const MOST_RECORDS: u64 = 1 << 60;

/// Bytes read at once where a count from the region says how many there are: memory grows only with bytes that are there.
const PIECE_BYTES: usize = 1 << 20;

/// The reading end of one lane.
#[derive(Debug)]
pub struct LaneReader {
    records: u64,
    head: u64,
    dropped: u64,
    capacity: u64,
    guard: u64,
    policy: Policy,
    next: u64,
    account: Account,
    buffer: Vec<u8>,
}

impl LaneReader {
    /// A reader of the lane whose records begin at byte `records` of the region, `1 << log2` of them, whose head and
    /// dropped words lie at bytes `head` and `dropped`.
    pub fn new(records: u64, log2: u32, head: u64, dropped: u64) -> Self {
        LaneReader {
            records,
            head,
            dropped,
            capacity: 1 << log2,
            guard: GUARD_RECORDS,
            policy: Policy::Overwrite,
            next: 0,
            account: Account::default(),
            buffer: Vec::new(),
        }
    }

    /// Says what the lane does when it is full. One of policy `stop` never overwrites a record, so its reader withholds
    /// none for fear of that: the prefix that the policy promises is complete.
    pub fn with_policy(self, policy: Policy) -> Self {
        LaneReader { policy, ..self }
    }

    /// A reader with another guard, for the model that shows that a smaller one is wrong.
    #[cfg(loom)]
    pub fn with_guard(self, guard: u64) -> Self {
        LaneReader { guard, ..self }
    }

    /// The accounts up to the last drain.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Capacity of the lane in records.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Records that wait to be read, if the head now stands at `head`.
    pub fn backlog(&self, head: u64) -> u64 {
        head.saturating_sub(self.next)
    }

    /// Hands on everything published since the last call. A failed read loses nothing: the next call starts where this one
    /// stopped, and what was handed on is accounted for.
    pub fn drain<S: RegionSource>(
        &mut self,
        source: &mut S,
        writer: Writer,
        sink: impl FnMut(Drained<'_>),
    ) -> Result<(), ReadError<S::Error>> {
        self.drain_some(source, writer, u64::MAX, sink)
    }

    /// The same, of the next `most` records at most: for a link on which a lane takes minutes.
    pub fn drain_some<S: RegionSource>(
        &mut self,
        source: &mut S,
        writer: Writer,
        most: u64,
        mut sink: impl FnMut(Drained<'_>),
    ) -> Result<(), ReadError<S::Error>> {
        let mut buffer = core::mem::take(&mut self.buffer);
        let result = self.drain_through(&mut buffer, source, writer, most, &mut sink);
        self.buffer = buffer;
        self.account.written = self.next + self.account.dropped;
        debug_assert!(self.account.is_whole());
        result
    }

    fn drain_through<S: RegionSource>(
        &mut self,
        buffer: &mut Vec<u8>,
        source: &mut S,
        writer: Writer,
        most: u64,
        sink: &mut impl FnMut(Drained<'_>),
    ) -> Result<(), ReadError<S::Error>> {
        // Before the head: the writer drops only after its last record, so all of them stand before what was dropped.
        let dropped = read_count(source, self.dropped, "dropped", self.account.dropped)?;
        let mut head = read_count(source, self.head, "head", self.next)?;
        let goal = head.min(self.next.saturating_add(most));
        let all = goal == head;
        while self.next < goal {
            // What is overwritten already, or might be, need not be copied.
            let gone = self.first_safe(head, writer).min(goal);
            if self.next < gone {
                self.lose(gone, Loss::Lapped, sink);
                continue;
            }
            // One piece: up to the end of the ring, of the chunk, of what is published.
            let slot = self.next & (self.capacity - 1);
            let count = (goal - self.next).min(self.capacity - slot).min(CHUNK_RECORDS);
            let length = (count * RECORD_BYTES) as usize;
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            let bytes = &mut buffer[..length];
            source.read(self.records + slot * RECORD_BYTES, bytes).map_err(ReadError::Source)?;
            head = read_count(source, self.head, "head", head)?;
            self.accept(bytes, self.first_safe(head, writer), sink);
        }
        if all && dropped > self.account.dropped {
            let count = dropped - self.account.dropped;
            self.account.dropped = dropped;
            sink(Drained::Lost { first: self.next, count, cause: Loss::Dropped });
        }
        Ok(())
    }

    /// Gives up what was published up to `head` and not read: nobody will fetch it any more.
    pub fn abandon(&mut self, head: u64) {
        if head > self.next && head <= MOST_RECORDS {
            self.account.left += head - self.next;
            self.next = head;
            self.account.written = self.next + self.account.dropped;
        }
    }

    /// The first record that can't have been touched by a later one, the head having been `head` after it was copied.
    fn first_safe(&self, head: u64, writer: Writer) -> u64 {
        let guard = match writer {
            Writer::Quiescent => 0,
            // Nothing was ever overwritten, nor will be. A head past the capacity belies the policy.
            Writer::Live if self.policy == Policy::Stop && head <= self.capacity => 0,
            Writer::Live => self.guard,
        };
        // Record i is safe iff i + N > head + guard - 1.
        (head + guard).saturating_sub(self.capacity)
    }

    /// Judges the copied records from `self.next`, of which those below `first_safe` may have been overwritten.
    fn accept(&mut self, bytes: &[u8], first_safe: u64, sink: &mut impl FnMut(Drained<'_>)) {
        let start = self.next;
        let end = start + bytes.len() as u64 / RECORD_BYTES;
        if first_safe > start {
            self.lose(first_safe.min(end), Loss::Lapped, sink);
        }
        while self.next < end {
            let rest = &bytes[((self.next - start) * RECORD_BYTES) as usize..];
            let whole = run(rest, self.next, true);
            if whole > 0 {
                let length = (whole * RECORD_BYTES) as usize;
                sink(Drained::Records { first: self.next, bytes: &rest[..length] });
                self.next += whole;
                self.account.accepted += whole;
            } else {
                self.lose(self.next + run(rest, self.next, false), Loss::Torn, sink);
            }
        }
    }

    fn lose(&mut self, until: u64, cause: Loss, sink: &mut impl FnMut(Drained<'_>)) {
        let count = until - self.next;
        match cause {
            Loss::Lapped => self.account.lapped += count,
            Loss::Torn => self.account.torn += count,
            Loss::Dropped => self.account.dropped += count,
        }
        sink(Drained::Lost { first: self.next, count, cause });
        self.next = until;
    }
}

/// Reads a word that only ever grows, from `least`, and by no more than a writer can have written.
fn read_count<S: RegionSource>(
    source: &mut S,
    offset: u64,
    field: &'static str,
    least: u64,
) -> Result<u64, ReadError<S::Error>> {
    let value = source.read_u64(offset).map_err(ReadError::Source)?;
    if (least..=MOST_RECORDS).contains(&value) { Ok(value) } else { Err(ReadError::Corrupt { field, value }) }
}

/// How many records at the front of `bytes`, numbered from `first`, carry their numbers, or don't.
#[inline]
fn run(bytes: &[u8], first: u64, carry: bool) -> u64 {
    bytes
        .chunks_exact(RECORD_BYTES as usize)
        .zip(first..)
        .take_while(|(record, index)| carries_number(record, *index) == carry)
        .count() as u64
}

/// Whether 32 bytes carry number `index` in both halves.
#[inline(always)]
fn carries_number(record: &[u8], index: u64) -> bool {
    let word = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    word(8) == index as u32 && word(20) >> 16 == index as u32 & 0xFFFF
}

/// Decodes the bytes of [`Drained::Records`].
pub fn records(first: u64, bytes: &[u8]) -> impl Iterator<Item = Record> + '_ {
    bytes.chunks_exact(RECORD_BYTES as usize).zip(first..).filter_map(|(chunk, index)| {
        let mut raw = [0; RECORD_BYTES as usize];
        raw.copy_from_slice(chunk);
        Record::from_bytes(&raw, index)
    })
}

/// A region that was found and checked: every section lies inside it.
#[derive(Debug)]
pub struct Region {
    /// The directory as it was at open.
    pub directory: Directory,
    /// All lanes' places, [`LANES_PER_CORE`] a core.
    pub lanes: Vec<LaneDescriptor>,
}

impl Region {
    /// Reads and checks the directory. No offset or count in it is believed unseen.
    pub fn open<S: RegionSource>(source: &mut S) -> Result<Self, ReadError<S::Error>> {
        let magic = source.read_u64(0).map_err(ReadError::Source)?;
        if magic != MAGIC {
            return Err(ReadError::Magic(magic));
        }
        let directory: Directory = read_value(source, 0)?;
        if directory.version != ABI_VERSION {
            return Err(ReadError::Version(directory.version));
        }
        let corrupt = |field, value| ReadError::Corrupt { field, value };
        let cores = u64::from(directory.core_count);
        if cores == 0 || cores > MAX_CORES as u64 {
            return Err(corrupt("core_count", cores));
        }
        if u64::from(directory.log_stride) != LOG_STRIDE {
            return Err(corrupt("log_stride", directory.log_stride.into()));
        }
        if directory.region_len > 1 << 46 {
            return Err(corrupt("region_len", directory.region_len));
        }
        let each = u64::from(crate::calls::descriptors_per_core(directory.core_count));
        if ![0, cores * each].contains(&directory.descriptor_count.into()) {
            return Err(corrupt("descriptor_count", directory.descriptor_count.into()));
        }
        let sections = directory.sections;
        for (field, offset, bytes) in [
            ("cores", sections.cores, cores * size_of::<CoreEntry>() as u64),
            ("heads", sections.heads, cores * size_of::<HeadLine>() as u64),
            ("lanes", sections.lanes, cores * (LANES_PER_CORE * size_of::<LaneDescriptor>()) as u64),
            ("phases", sections.phases, u64::from(directory.phase_count) * size_of::<PhaseResult>() as u64),
            ("meta", sections.meta, directory.meta_len),
            ("slots", sections.slots, u64::from(directory.slot_count) * size_of::<PairSlot>() as u64),
            ("histograms", sections.histograms, u64::from(directory.histogram_count) * HISTOGRAM_BYTES),
            ("faults", sections.faults, cores * size_of::<FaultEntry>() as u64),
            ("logs", sections.logs, cores * LOG_STRIDE),
            ("truth", sections.truth, cores * size_of::<Truth>() as u64),
            ("live", sections.live, cores * size_of::<LiveEntry>() as u64),
            ("calls", sections.calls, u64::from(directory.descriptor_count) * size_of::<CallDescriptor>() as u64),
            ("records", sections.records, 0),
        ] {
            if offset % 8 != 0 || offset.checked_add(bytes).is_none_or(|end| end > directory.region_len) {
                return Err(corrupt(field, offset));
            }
        }
        let lanes = read_values(source, sections.lanes, directory.core_count as usize * LANES_PER_CORE)?;
        for lane in &lanes {
            let LaneDescriptor { offset, log2_records, .. } = *lane;
            if !(LEAST_LOG2_RECORDS.into()..=MOST_LOG2_RECORDS.into()).contains(&log2_records) {
                return Err(corrupt("lane.log2_records", log2_records.into()));
            }
            let end = offset.checked_add(RECORD_BYTES << log2_records);
            if offset % RECORD_BYTES != 0 || end.is_none_or(|end| end > directory.region_len) {
                return Err(corrupt("lane.offset", offset));
            }
        }
        Ok(Region { directory, lanes })
    }

    /// A reader of lane `index` (core times [`LANES_PER_CORE`] plus context).
    pub fn lane(&self, index: usize) -> LaneReader {
        let lane = self.lanes[index];
        let (core, context) = (index / LANES_PER_CORE, index % LANES_PER_CORE);
        let line = self.directory.sections.heads + (core * size_of::<HeadLine>()) as u64;
        let head = line + (context * 8) as u64;
        LaneReader::new(lane.offset, lane.log2_records, head, head + (LANES_PER_CORE * 8) as u64)
            .with_policy(Policy::from_code(self.directory.policy))
    }

    /// The status line now. Fails where the run's nonce is no longer the one at open.
    pub fn status<S: RegionSource>(&self, source: &mut S) -> Result<Status, ReadError<S::Error>> {
        let found = source.read_u64(core::mem::offset_of!(Directory, nonce) as u64).map_err(ReadError::Source)?;
        if found != self.directory.nonce {
            return Err(ReadError::Restarted { expected: self.directory.nonce, found });
        }
        read_value(source, core::mem::offset_of!(Directory, status) as u64)
    }

    /// All cores' head lines in one read: a hint of where there is work, not a basis for accepting records.
    pub fn heads<S: RegionSource>(&self, source: &mut S) -> Result<Vec<HeadLine>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.heads, self.cores())
    }

    /// The cores.
    pub fn core_entries<S: RegionSource>(&self, source: &mut S) -> Result<Vec<CoreEntry>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.cores, self.cores())
    }

    /// The phases.
    pub fn phases<S: RegionSource>(&self, source: &mut S) -> Result<Vec<PhaseResult>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.phases, self.directory.phase_count as usize)
    }

    /// What the host called the plan: JSON, empty where the plan came without.
    pub fn meta<S: RegionSource>(&self, source: &mut S) -> Result<Vec<u8>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.meta, self.directory.meta_len as usize)
    }

    /// The pair slots.
    pub fn slots<S: RegionSource>(&self, source: &mut S) -> Result<Vec<PairSlot>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.slots, self.directory.slot_count as usize)
    }

    /// Histogram counts, [`crate::histogram::STRIDE`] for each histogram.
    pub fn histograms<S: RegionSource>(&self, source: &mut S) -> Result<Vec<u32>, ReadError<S::Error>> {
        let count = self.directory.histogram_count as usize * crate::histogram::STRIDE;
        read_values(source, self.directory.sections.histograms, count)
    }

    /// The fault entries.
    pub fn faults<S: RegionSource>(&self, source: &mut S) -> Result<Vec<FaultEntry>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.faults, self.cores())
    }

    /// What the twins did.
    pub fn truth<S: RegionSource>(&self, source: &mut S) -> Result<Vec<Truth>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.truth, self.cores())
    }

    /// What each core does now.
    pub fn live<S: RegionSource>(&self, source: &mut S) -> Result<Vec<LiveEntry>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.live, self.cores())
    }

    /// The call descriptors, [`crate::calls::descriptors_per_core`] for each core; none where the plan does not call.
    pub fn descriptors<S: RegionSource>(&self, source: &mut S) -> Result<Vec<CallDescriptor>, ReadError<S::Error>> {
        read_values(source, self.directory.sections.calls, self.directory.descriptor_count as usize)
    }

    /// A core's log ring: its head and all its bytes, oldest and newest alike.
    pub fn log<S: RegionSource>(
        &self,
        source: &mut S,
        core: usize,
    ) -> Result<(LogHeader, Vec<u8>), ReadError<S::Error>> {
        let offset = self.directory.sections.logs + core as u64 * LOG_STRIDE;
        let header: LogHeader = read_value(source, offset)?;
        let bytes =
            read_values(source, offset + size_of::<LogHeader>() as u64, LOG_STRIDE as usize - size_of::<LogHeader>())?;
        Ok((header, bytes))
    }

    fn cores(&self) -> usize {
        self.directory.core_count as usize
    }
}

/// Reads one value of the layout at a byte offset.
pub fn read_value<S: RegionSource, T: FromBytes + IntoBytes + Immutable + KnownLayout>(
    source: &mut S,
    offset: u64,
) -> Result<T, ReadError<S::Error>> {
    let mut value = T::new_zeroed();
    source.read(offset, value.as_mut_bytes()).map_err(ReadError::Source)?;
    Ok(value)
}

/// Reads `count` values of the layout at a byte offset.
pub fn read_values<S: RegionSource, T: FromBytes + IntoBytes + Immutable + KnownLayout>(
    source: &mut S,
    offset: u64,
    count: usize,
) -> Result<Vec<T>, ReadError<S::Error>> {
    // Piece by piece: a count that damage made huge ends at the first byte that is not there, not in an allocation.
    let piece = (PIECE_BYTES / size_of::<T>().max(1)).max(1);
    let mut values = Vec::new();
    while values.len() < count {
        let have = values.len();
        values.resize_with(count.min(have + piece), T::new_zeroed);
        let bytes = values[have..].as_mut_bytes();
        source.read(offset + (have * size_of::<T>()) as u64, bytes).map_err(ReadError::Source)?;
    }
    Ok(values)
}
