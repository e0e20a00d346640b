//! The capture: one file that holds all that is needed to judge a run, years later, on another machine.
//!
//! The container is MCAP (<https://mcap.dev>): append-only, in compressed chunks with checksums, readable up to its last
//! whole chunk after a kill. Inside, every message of ours begins with a tag and ends up checked by a CRC of its own,
//! because lane bytes must not be believed where a chunk was only nearly whole.
//!
//! | tag | message |
//! |---|---|
//! | `INFO` | [`RunInfo`] as JSON: what the host knew before the run |
//! | `LANE` | records of a lane, as they lay in memory but for their order (`unfold`) |
//! | `LOST` | records of a lane that were missed, and why |
//! | `SKIP` | records of a lane that came after the capture had reached its limit, and were not kept |
//! | `SNAP` | a piece of a snapshot: the region without its records |
//! | `SERI` | [`Series`] as JSON: the counters over time, of a run of more than ten seconds; the newest counts |
//! | `TEXT` | console output |
//! | `PICT` | where the cores stood when the run was cut short, as JSON |
//! | `AWAY` | all records again that tell of time in which a core was away: who judges needs them before all others |
//! | `DONE` | [`Ending`] as JSON |
//!
//! A chunk holds either lane messages or others, never both: opening a capture reads a few bytes of each lane chunk.
//!
//! What grows with the length of a run is bounded: records by a limit ([`CaptureWriter::keep_at_most`]), snapshots because they
//! become rarer (`drain`), the series by its number of points. From the limit on records are counted, and the rest goes on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::{BitOr, Shl};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mcap::records::MessageHeader;
use mcap::write::NoSeek;
use serde::{Deserialize, Serialize};
use trace_ring::layout::{Context, LANES_PER_CORE};
use trace_ring::reader::{self, Loss, RegionSource};
use trace_ring::record::{FLAG_UNTIMED, Kind, RECORD_BYTES};
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U64;

use crate::linux::Table;
use crate::monitor::CorePicture;
use crate::plan::{Keep, PlanMeta};
use crate::scratch;
use crate::series::Series;

/// Bytes gathered before they are compressed and written out.
const CHUNK_BYTES: u64 = 4 << 20;

/// The longest that anything waits in memory.
const FLUSH_EVERY: Duration = Duration::from_millis(250);

/// How often the system is asked to put the file on the disk: what a power cut can cost.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Bytes that a capture takes at most where the command line does not say.
pub const DEFAULT_MOST_BYTES: u64 = 16 << 30;

/// Bytes of the disk that no record takes: what comes after the last one has them.
const RESERVE: u64 = 64 << 20;

/// Bytes of one piece of a snapshot.
const PIECE_BYTES: usize = 8 << 20;

/// The longest record that a reader accepts: a hostile length must not eat the memory.
const RECORD_LIMIT: usize = 256 << 20;

/// The longest snapshot that a reader accepts.
const SNAPSHOT_LIMIT: u64 = 2 << 30;

/// The most console text that a reader keeps.
const CONSOLE_LIMIT: usize = 1 << 20;

/// Version of the messages. Readers refuse newer ones and say so.
const FORMAT: u32 = 1;

/// What the MCAP header names: a file without it is not ours.
const PROFILE: &str = "ipiscope";

/// Whose time a run's latencies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerdictScope {
    /// The machine's own.
    #[serde(rename = "silicon")]
    Silicon,
    /// A hypervisor shares it out.
    #[serde(rename = "virtualized")]
    Virtualized,
    /// An emulator's: its delays are the host's.
    #[serde(rename = "emulated")]
    Emulated,
    /// Counted instructions.
    #[serde(rename = "instructions")]
    Instructions,
    /// Another kernel's trace.
    #[serde(rename = "linux trace")]
    LinuxTrace,
}

impl VerdictScope {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            VerdictScope::Silicon => "silicon",
            VerdictScope::Virtualized => "virtualized",
            VerdictScope::Emulated => "emulated",
            VerdictScope::Instructions => "instructions",
            VerdictScope::LinuxTrace => "linux trace",
        }
    }
}

/// All that the host knows before the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// When, RFC 3339.
    pub created: String,
    /// Version of the host tool.
    pub tool_version: String,
    /// Where the data came from: `qemu`, `probe`, `serial`, `memory`.
    pub source: String,
    /// The machine's name: `virt`, …
    pub machine: String,
    /// The board file's name.
    #[serde(default)]
    pub board: String,
    /// CPU type.
    #[serde(default)]
    pub cpu: String,
    /// `tcg`, `kvm`, `hvf`; empty on hardware.
    #[serde(default)]
    pub accel: String,
    /// Whose time it is.
    pub verdict_scope: VerdictScope,
    /// Whether time counts instructions.
    #[serde(default)]
    pub deterministic: bool,
    /// The emulator's version.
    #[serde(default)]
    pub qemu_version: String,
    /// The emulator's arguments.
    #[serde(default)]
    pub qemu_arguments: Vec<String>,
    /// `--tag KEY=VALUE`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The plan.
    pub plan: PlanMeta,
    /// Build id of the firmware, hexadecimal.
    #[serde(default)]
    pub firmware_build_id: String,
    /// Nonce of the run.
    pub nonce: u64,
    /// Cores that were asked for.
    pub cores: u16,
    /// What the user was told before the run.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A file inside the capture. By convention: `firmware.elf`, `firmware.img`, `machine.dtb`, `plan.bin` (the compiled plan),
/// `board.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Name of the attachment that holds the compiled plan.
pub const PLAN_ATTACHMENT: &str = "plan.bin";

/// Name of the attachment that holds the firmware with its symbols.
pub const ELF_ATTACHMENT: &str = "firmware.elf";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The plan ran to its end.
    Complete,
    /// Somebody asked for an early end.
    Interrupted,
    /// It took too long.
    Deadline,
    /// The target went away or reported a fault.
    TargetDied,
}

impl Ended {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Ended::Complete => "complete",
            Ended::Interrupted => "interrupted",
            Ended::Deadline => "deadline",
            Ended::TargetDied => "target_died",
        }
    }
}

/// Why something could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// A word for scripts.
    pub kind: String,
    /// A sentence for people.
    pub message: String,
    /// What to do.
    pub next_step: String,
}

/// The accounts of a lane: `written = accepted + lapped + torn + dropped + left`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneAccount {
    /// The core.
    pub core: u16,
    /// Index in [`Context::ALL`].
    pub context: u8,
    /// Records the target wrote or turned away.
    pub written: u64,
    /// Records that were read whole.
    pub accepted: u64,
    /// Records that were overwritten before they were read.
    pub lapped: u64,
    /// Records that were damaged.
    pub torn: u64,
    /// Records that the lane's policy turned away.
    pub dropped: u64,
    /// Records that were left in the target: the link was lost, or nobody waited for them.
    #[serde(default)]
    pub left: u64,
}

impl LaneAccount {
    /// All that was missed.
    pub const fn lost(&self) -> u64 {
        self.lapped + self.torn + self.dropped + self.left
    }
}

/// The target's counter against the host's clock, over the span of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterCheck {
    /// Counter ticks for each second of the host.
    pub measured_hz: f64,
    /// Half width of the interval in which the true value lies.
    pub uncertainty_hz: f64,
}

/// How the host shared out its processors while the plan ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostLoad {
    /// Processors of the host that the emulator may use.
    pub processors: u32,
    /// The threads of the cores.
    pub threads: Vec<ThreadLoad>,
}

/// One core's thread on the host, from the begin of the plan to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadLoad {
    /// The core.
    pub core: u16,
    /// Seconds that it ran.
    pub ran_s: f64,
    /// Seconds that it wanted to run and stood in the queue of a processor. A thread that a debugger or a freezer stopped stands
    /// in none: like sleep in WFI, that is time in which it neither ran nor waited.
    pub waited_s: f64,
    /// The most of them in one look of the host, seconds.
    pub waited_longest_s: f64,
}

/// What the host learnt at the end of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// How it ended.
    pub ended: Ended,
    /// Why it could not be measured.
    #[serde(default)]
    pub error: Option<ErrorInfo>,
    /// Accounts of all lanes.
    pub lanes: Vec<LaneAccount>,
    /// Seconds by the host's clock from start to end.
    pub host_seconds: f64,
    /// The counter against the host's clock, where there was time enough for it.
    #[serde(default)]
    pub counter_check: Option<CounterCheck>,
    /// Share (0 to 1) of the host's processor time that others took during the run.
    #[serde(default)]
    pub steal: Option<f64>,
    /// What the host's scheduler says of the emulator's threads; `None` on hardware, and where the host does not tell.
    #[serde(default)]
    pub host_load: Option<HostLoad>,
    /// What the user should know of how the data came here.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The newest snapshot was taken while the target went on, or before it ended: its counters are not the totals.
    #[serde(default)]
    pub counters_moved: bool,
    /// What ended the run early by itself (`--stop-on`).
    #[serde(default)]
    pub stopped_by: Option<StoppedBy>,
}

impl Ending {
    /// One that took so many seconds and of which nothing else is to be said.
    pub fn new(ended: Ended, host_seconds: f64) -> Ending {
        Ending {
            ended,
            error: None,
            lanes: Vec::new(),
            host_seconds,
            counter_check: None,
            steal: None,
            host_load: None,
            notes: Vec::new(),
            counters_moved: false,
            stopped_by: None,
        }
    }
}

/// An expression that ended a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedBy {
    /// As it was given.
    pub expression: String,
    /// What the counters that it names said then, for people.
    pub values: String,
}

/// Why a capture can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file can't be opened or created.
    #[error("capture {}: {error}; check the path and its permissions", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file can't be read.
    #[error("capture {} can't be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file can't be written: a full disk, most likely.
    #[error("capture {} can't be written: {error}; what was flushed before stays readable (see the room on that disk, or choose another with --out)", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the container's writer says.
        error: String,
    },
    /// Not a capture.
    #[error("{} is no capture: {reason}; name a file that `ipiscope qemu` wrote (default: ./runs/)", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A capture of a newer tool.
    #[error("{} has capture format {found}, this tool reads up to {FORMAT}; use a newer ipiscope", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl CaptureError {
    /// Whether the file itself was the wrong thing to ask for (exit code 3), and not a device that failed (2).
    pub const fn asked_wrongly(&self) -> bool {
        !matches!(self, CaptureError::Write { .. } | CaptureError::Read { .. })
    }
}

// --- messages -------------------------------------------------------------------------------------------------------

const INFO: [u8; 4] = *b"INFO";
const LANE: [u8; 4] = *b"LANE";
const LOST: [u8; 4] = *b"LOST";
const SKIP: [u8; 4] = *b"SKIP";
const SNAP: [u8; 4] = *b"SNAP";
/// Events of a Linux trace, and what they name (`crate::linux`).
const LINX: [u8; 4] = *b"LINX";
const LTAB: [u8; 4] = *b"LTAB";
const SERI: [u8; 4] = *b"SERI";
const TEXT: [u8; 4] = *b"TEXT";
const PICT: [u8; 4] = *b"PICT";
const AWAY: [u8; 4] = *b"AWAY";
const DONE: [u8; 4] = *b"DONE";

/// Bytes before the body of a message: tag, format, core, context, cause, two numbers, CRC.
///
/// `tag[4] | format u32 | core u16 | context u8 | cause u8 | crc u32 | first u64 | count u64`, little-endian. The CRC-32
/// covers everything but itself.
const HEAD: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    tag: [u8; 4],
    core: u16,
    context: u8,
    cause: u8,
    /// First record, or offset of a snapshot's piece.
    first: u64,
    /// Records missed, or bytes of the whole snapshot.
    count: u64,
}

impl Head {
    const fn plain(tag: [u8; 4]) -> Self {
        Head { tag, core: 0, context: 0, cause: 0, first: 0, count: 0 }
    }

    fn encode(&self, body: &[u8], into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.tag);
        into.extend_from_slice(&FORMAT.to_le_bytes());
        into.extend_from_slice(&self.core.to_le_bytes());
        into.push(self.context);
        into.push(self.cause);
        let mut crc = crc32fast::Hasher::new();
        crc.update(into);
        let (first, count) = (self.first.to_le_bytes(), self.count.to_le_bytes());
        crc.update(&first);
        crc.update(&count);
        crc.update(body);
        into.extend_from_slice(&crc.finalize().to_le_bytes());
        into.extend_from_slice(&first);
        into.extend_from_slice(&count);
        into.extend_from_slice(body);
    }

    /// The head and body of a message that is whole; `Err` has the format where that is not ours. `checked`: the CRC of its chunk has
    /// shown that.
    fn decode(message: &[u8], checked: bool) -> Option<Result<(Head, &[u8]), u32>> {
        let (head, body) = message.split_first_chunk::<HEAD>()?;
        let [t0, t1, t2, t3, f0, f1, f2, f3, c0, c1, context, cause, r0, r1, r2, r3, ref numbers @ ..] = *head;
        if !checked {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&message[..12]);
            crc.update(numbers);
            crc.update(body);
            if crc.finalize() != u32::from_le_bytes([r0, r1, r2, r3]) {
                return None;
            }
        }
        let format = u32::from_le_bytes([f0, f1, f2, f3]);
        if format > FORMAT {
            return Some(Err(format));
        }
        let (first, count) = numbers.split_first_chunk::<8>()?;
        let count = count.first_chunk::<8>()?;
        let head = Head {
            tag: [t0, t1, t2, t3],
            core: u16::from_le_bytes([c0, c1]),
            context,
            cause,
            first: u64::from_le_bytes(*first),
            count: u64::from_le_bytes(*count),
        };
        Some(Ok((head, body)))
    }
}

/// Writes a batch of records in an order that compresses: each of the four words as the difference from the record before,
/// and of those first all lowest bytes, then all second ones, and so on. Most bytes are then runs of one value: a third of
/// the size, and several times the speed both ways, which the live drain and every analysis pay for.
fn fold(records: &[u8], into: &mut Vec<u8>) {
    let count = records.len() / RECORD_BYTES as usize;
    into.clear();
    into.resize(count * RECORD_BYTES as usize, 0);
    if count == 0 {
        return;
    }
    for (column, planes) in into.chunks_exact_mut(8 * count).enumerate() {
        let mut before = 0;
        for (index, record) in records.chunks_exact(RECORD_BYTES as usize).enumerate() {
            let word = word_of(record, column);
            let step = word.wrapping_sub(before).to_le_bytes();
            before = word;
            for (plane, byte) in planes.chunks_exact_mut(count).zip(step) {
                plane[index] = byte;
            }
        }
    }
}

/// A record, as its words stand in memory.
type Row = [U64; 4];

/// Records that [`unfold`] puts together at a time: their words stay in the nearest cache.
const BLOCK: usize = 64;

/// The inverse of [`fold`]. Block by block, all four words at once: each record is written once, and whole.
fn unfold(folded: &[u8], into: &mut Vec<Row>) {
    let count = folded.len() / RECORD_BYTES as usize;
    // What was in it is written over, so it need not be cleared.
    into.resize(count, Row::default());
    let mut words = [0_u64; 4];
    // The planes of a block that is not whole, with zeroes behind them.
    let mut rest = [[0_u8; BLOCK]; RECORD_BYTES as usize];
    for (block, rows) in into.chunks_mut(BLOCK).enumerate() {
        let plane = |at: usize| folded.get(at * count + block * BLOCK..);
        if rows.len() < BLOCK {
            for (at, place) in rest.iter_mut().enumerate() {
                place
                    .iter_mut()
                    .zip(plane(at).into_iter().flatten().take(rows.len()))
                    .for_each(|(to, from)| *to = *from);
            }
        }
        let mut steps = [[0_u64; BLOCK]; 4];
        for (steps, (column, rest)) in steps.iter_mut().zip(rest.chunks_exact(8).enumerate()) {
            let bytes = |at: usize| match plane(8 * column + at).and_then(|plane| plane.first_chunk::<BLOCK>()) {
                Some(whole) if rows.len() == BLOCK => whole,
                _ => rest.get(at).unwrap_or(&[0; BLOCK]),
            };
            // Bytes to pairs, pairs to quads, quads to words: loops that become vector instructions, whatever is in them.
            let quads = |at: usize| {
                let (low, high) = (joined(bytes(at), bytes(at + 1), 8), joined(bytes(at + 2), bytes(at + 3), 8));
                joined::<u16, u32>(&low, &high, 16)
            };
            *steps = joined(&quads(0), &quads(4), 32);
        }
        let [times, heads, tails, arguments] = &steps;
        let steps = times.iter().zip(heads).zip(tails).zip(arguments);
        for (row, (((time, head), tail), argument)) in rows.iter_mut().zip(steps) {
            for ((word, step), place) in words.iter_mut().zip([time, head, tail, argument]).zip(row) {
                *word = word.wrapping_add(*step);
                place.set(*word);
            }
        }
    }
}

/// Numbers of twice the width: `high` stands `shift` bits above `low`.
#[inline(always)]
fn joined<Half, Whole>(low: &[Half; BLOCK], high: &[Half; BLOCK], shift: u32) -> [Whole; BLOCK]
where
    Half: Copy,
    Whole: Copy + Default + From<Half> + Shl<u32, Output = Whole> + BitOr<Output = Whole>,
{
    let mut whole = [Whole::default(); BLOCK];
    for ((whole, low), high) in whole.iter_mut().zip(low).zip(high) {
        *whole = Whole::from(*low) | Whole::from(*high) << shift;
    }
    whole
}

fn word_of(record: &[u8], column: usize) -> u64 {
    let bytes = record.get(8 * column..).and_then(|rest| rest.first_chunk());
    u64::from_le_bytes(bytes.copied().unwrap_or_default())
}

const fn loss_code(cause: Loss) -> u8 {
    match cause {
        Loss::Lapped => 0,
        Loss::Torn => 1,
        Loss::Dropped => 2,
    }
}

const fn loss_from(code: u8) -> Loss {
    match code {
        0 => Loss::Lapped,
        2 => Loss::Dropped,
        _ => Loss::Torn,
    }
}

// --- writing --------------------------------------------------------------------------------------------------------

/// A record that `--keep worst:N` keeps until the capture is closed: a reader expects the records of a lane in their order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    /// First, so that it orders them; 0 of what is no answer.
    latency: u64,
    core: u16,
    context: u8,
    index: u64,
    bytes: [u8; RECORD_BYTES as usize],
}

/// Beside the worst answers, as many records that tell of trouble are kept, and as many others.
const MOST_OTHERS: usize = 1 << 17;

/// Whether a record that is no answer tells that something went wrong. Others tell what was done.
const fn is_trouble(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ReceiveEmpty
            | Kind::SpuriousIntid
            | Kind::Retire
            | Kind::Probe
            | Kind::Fault
            | Kind::Gap
            | Kind::Heartbeat
            | Kind::Sweep
            | Kind::Unknown(_)
    )
}

/// Records that `AWAY` repeats at most: of more, a reader looks through all records.
const MOST_AWAY: usize = 1 << 19;

/// Bytes of one of them: core u16, context u8, five zeroes, number u64, record.
const AWAY_BYTES: usize = 16 + RECORD_BYTES as usize;

/// Where a record has its kind.
const KIND_AT: usize = 12;

/// Whether a record tells that a core was away, or may have been.
pub(crate) fn tells_away(record: &[u8]) -> bool {
    matches!(record.get(KIND_AT).copied().map(Kind::from_code), Some(Kind::Gap | Kind::Heartbeat))
}

/// What of a lane is told when the capture is closed, in place of a message for each.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// The first record that is not told otherwise.
    first: u64,
    /// Missed, by [`loss_code`].
    missed: [u64; 3],
    /// Read whole, and not kept.
    unkept: u64,
}

/// Why and when a capture ceased to keep records.
#[derive(Clone, Copy, Debug)]
struct Full {
    /// The limit was reached; `None`: the disk had no more room.
    limit: Option<u64>,
    /// After its creation.
    at: Duration,
}

/// Writes a capture while the run goes on.
pub struct CaptureWriter {
    path: PathBuf,
    created: Instant,
    /// To ask how long it is.
    file: File,
    most: Option<u64>,
    full: Option<Full>,
    rest: BTreeMap<(u16, u8), Rest>,
    writer: mcap::Writer<NoSeek<BufWriter<File>>>,
    lanes: u16,
    others: u16,
    /// Bytes in the open chunk, and whether it is one of lanes.
    pending: u64,
    in_lanes: bool,
    flushed: Instant,
    synced: Instant,
    sync: mpsc::Sender<()>,
    buffer: Vec<u8>,
    folded: Vec<u8>,
    sequence: u32,
    keep: Keep,
    worst: BinaryHeap<Reverse<Kept>>,
    troubles: Vec<Kept>,
    marks: Vec<Kept>,
    /// Of these two, what was too much.
    too_many: u64,
    /// What `AWAY` will say; `None`: it is too much.
    away: Option<Vec<u8>>,
}

impl std::fmt::Debug for CaptureWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureWriter")
            .field("path", &self.path)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

impl CaptureWriter {
    /// Creates the file (over an old one), writes attachments and info, and flushes them.
    pub fn create(path: &Path, info: &RunInfo, attachments: &[Attachment]) -> Result<Self, CaptureError> {
        let open = |error| CaptureError::Open { path: path.into(), error };
        let file = File::create(path).map_err(open)?;
        // Syncing can take the disk seconds; the run doesn't wait for it. The thread ends with the writer.
        let (sync, asked) = mpsc::channel::<()>();
        let twin = file.try_clone().map_err(open)?;
        let asked_for_length = file.try_clone().map_err(open)?;
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                // A disk that can't sync fails the next write too, which is reported.
                let _ = twin.sync_data();
            }
        });
        let write = |error: mcap::McapError| write_error(path, error);
        let mut writer = mcap::WriteOptions::new()
            .profile(PROFILE)
            .library(concat!("ipiscope ", env!("CARGO_PKG_VERSION")))
            .compression(Some(mcap::Compression::Zstd))
            .compression_level(1)
            .compression_threads(0)
            .chunk_size(None)
            .disable_seeking(true)
            .emit_message_indexes(false)
            .calculate_chunk_crcs(true)
            .create(NoSeek::new(BufWriter::with_capacity(1 << 20, file)))
            .map_err(write)?;
        for attachment in attachments {
            writer
                .attach(&mcap::Attachment {
                    log_time: nanoseconds_now(),
                    create_time: nanoseconds_now(),
                    name: attachment.name.clone(),
                    media_type: attachment.media_type.clone(),
                    data: attachment.data.as_slice().into(),
                })
                .map_err(write)?;
        }
        let none = BTreeMap::new();
        let lanes = writer.add_channel(0, "lanes", "ipiscope.lane", &none).map_err(write)?;
        let others = writer.add_channel(0, "run", "ipiscope.run", &none).map_err(write)?;
        let now = Instant::now();
        let mut capture = CaptureWriter {
            path: path.into(),
            created: now,
            file: asked_for_length,
            most: None,
            full: None,
            rest: BTreeMap::new(),
            writer,
            lanes,
            others,
            pending: 0,
            in_lanes: false,
            flushed: now,
            synced: now,
            sync,
            buffer: Vec::new(),
            folded: Vec::new(),
            sequence: 0,
            keep: info.plan.keep,
            worst: BinaryHeap::new(),
            troubles: Vec::new(),
            marks: Vec::new(),
            too_many: 0,
            away: Some(Vec::new()),
        };
        capture.other(Head::plain(INFO), &json(info))?;
        capture.flush()?;
        Ok(capture)
    }

    /// Keeps records until the file has so many bytes, or its disk no room: later ones are counted. What is still in memory then
    /// comes on top, and what is no record (snapshots, series, ending).
    pub fn keep_at_most(&mut self, bytes: u64) {
        self.most = Some(bytes);
    }

    /// Records `first ..` of a lane (`context`: its index in [`Context::ALL`]), 32 bytes each.
    pub fn lane_records(&mut self, core: u16, context: u8, first: u64, bytes: &[u8]) -> Result<(), CaptureError> {
        match self.keep {
            Keep::Worst(count) => {
                self.sift(core, context, first, bytes, count);
                Ok(())
            }
            Keep::All | Keep::None if self.full.is_some() => {
                self.rest_of(core, context, first).unkept += bytes.len() as u64 / RECORD_BYTES;
                Ok(())
            }
            Keep::All | Keep::None => self.records(core, context, first, bytes),
        }
    }

    /// Of a lane's records, those that were read whole and came too late to be kept.
    pub fn unkept(&self, core: u16, context: u8) -> u64 {
        self.rest.get(&(core, context)).map_or(0, |rest| rest.unkept)
    }

    /// That records were not kept that somebody may miss, if that is so.
    pub fn shortage(&self) -> Option<String> {
        if self.too_many > 0 {
            let most = 2 * MOST_OTHERS;
            return Some(format!("beside the worst latencies {most} records are kept; {} were not", self.too_many));
        }
        let Full { limit, at } = self.full?;
        let count: u64 = self.rest.values().map(|rest| rest.unkept).sum();
        let why = match limit {
            Some(limit) => format!("the capture reached {} (--max-capture)", size(limit)),
            None => format!("the capture's disk had less than {} left", size(RESERVE)),
        };
        let at = match at.as_secs() {
            0 => "at its begin".to_string(),
            seconds => format!("{} after its begin", humantime::format_duration(Duration::from_secs(seconds))),
        };
        let what = format!("{why} {at}: {count} later records were not kept; the counters are whole");
        (count > 0).then_some(what)
    }

    /// Records `first .. first + count` of a lane were missed.
    pub fn lane_loss(
        &mut self,
        core: u16,
        context: u8,
        first: u64,
        count: u64,
        cause: Loss,
    ) -> Result<(), CaptureError> {
        let cause = loss_code(cause);
        // A lane that is lapped again and again says so with every look. Where it has gaps anyway, one sum says as much.
        if self.full.is_some() || matches!(self.keep, Keep::Worst(_)) {
            let missed = &mut self.rest_of(core, context, first).missed;
            if let Some(missed) = missed.get_mut(usize::from(cause)) {
                *missed += count;
            }
            return Ok(());
        }
        self.lane(Head { core, context, first, count, cause, tag: LOST }, &[])
    }

    fn rest_of(&mut self, core: u16, context: u8, first: u64) -> &mut Rest {
        self.rest.entry((core, context)).or_insert(Rest { first, missed: [0; 3], unkept: 0 })
    }

    /// The region's bytes up to its records: directory, cores, heads, slots, histograms, faults. The newest counts.
    pub fn snapshot(&mut self, region_prefix: &[u8]) -> Result<(), CaptureError> {
        let whole = region_prefix.len() as u64;
        for (piece, index) in region_prefix.chunks(PIECE_BYTES).zip(0..) {
            self.other(Head { first: index * PIECE_BYTES as u64, count: whole, ..Head::plain(SNAP) }, piece)?;
        }
        Ok(())
    }

    /// The counters over time. The newest counts.
    pub fn series(&mut self, series: &Series) -> Result<(), CaptureError> {
        self.other(Head::plain(SERI), &json(series))
    }

    /// What the console said.
    pub fn console(&mut self, text: &str) -> Result<(), CaptureError> {
        self.other(Head::plain(TEXT), text.as_bytes())
    }

    /// Where the cores stood when the run was cut short.
    pub fn picture(&mut self, picture: &[CorePicture]) -> Result<(), CaptureError> {
        self.other(Head::plain(PICT), &json(&picture))
    }

    /// Events of a Linux trace, 32 bytes each ([`crate::linux::Row`]), from number `first` on.
    pub fn linux_rows(&mut self, first: u64, rows: &[u8]) -> Result<(), CaptureError> {
        let mut folded = std::mem::take(&mut self.folded);
        fold(rows, &mut folded);
        let written = self.lane(Head { first, ..Head::plain(LINX) }, &folded);
        self.folded = folded;
        written
    }

    /// What the events of a Linux trace name, and, once it is all read, what is known of the machine.
    pub fn linux_table(&mut self, table: &Table, info: &RunInfo) -> Result<(), CaptureError> {
        self.other(Head::plain(LTAB), &json(table))?;
        self.other(Head::plain(INFO), &json(info))
    }

    /// Writes the ending and closes the file: from here on it is whole.
    pub fn finish(mut self, ending: &Ending) -> Result<(), CaptureError> {
        let worst = std::mem::take(&mut self.worst).into_iter().map(|Reverse(worst)| worst);
        let mut kept: Vec<Kept> = worst.chain(self.troubles.drain(..)).chain(self.marks.drain(..)).collect();
        kept.sort_unstable_by_key(|kept| (kept.core, kept.context, kept.index));
        let follows = |one: &Kept, next: &Kept| {
            (one.core, one.context, one.index.checked_add(1)) == (next.core, next.context, Some(next.index))
        };
        for run in kept.chunk_by(follows) {
            let Some(Kept { core, context, index, .. }) = run.first() else { continue };
            let bytes: Vec<u8> = run.iter().flat_map(|kept| kept.bytes).collect();
            self.records(*core, *context, *index, &bytes)?;
        }
        for ((core, context), Rest { mut first, missed, unkept }) in std::mem::take(&mut self.rest) {
            let causes = missed.into_iter().zip(0..).map(|(count, cause)| (LOST, count, cause));
            for (tag, count, cause) in causes.chain([(SKIP, unkept, 0)]).filter(|(_, count, _)| *count > 0) {
                self.lane(Head { core, context, first, count, cause, tag }, &[])?;
                // What was turned away never had a number.
                if tag == SKIP || loss_from(cause) != Loss::Dropped {
                    first = first.saturating_add(count);
                }
            }
        }
        if let Some(away) = self.away.take() {
            self.other(Head { count: (away.len() / AWAY_BYTES) as u64, ..Head::plain(AWAY) }, &away)?;
        }
        self.other(Head::plain(DONE), &json(ending))?;
        self.writer.finish().map_err(|error| write_error(&self.path, error))?;
        let _ = self.sync.send(());
        let error = |error: std::io::Error| CaptureError::Write { path: self.path.clone(), error: error.to_string() };
        // Drop order: the buffered file is flushed here, so that an error is not lost with it.
        let mut file = self.writer.into_inner().into_inner();
        file.flush().map_err(error)
    }

    /// Writes out what has waited long enough. Call it often; it costs nothing when there is nothing to do.
    pub fn flush_if_due(&mut self) -> Result<(), CaptureError> {
        if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CaptureError> {
        self.flushed = Instant::now();
        if self.pending == 0 {
            return Ok(());
        }
        self.pending = 0;
        self.writer.flush().map_err(|error| write_error(&self.path, error))?;
        self.look_for_room();
        if self.synced.elapsed() >= SYNC_EVERY {
            self.synced = Instant::now();
            // The thread lives as long as the writer.
            let _ = self.sync.send(());
        }
        Ok(())
    }

    /// Whether more records may come, after a flush. What can't be asked (a device, a pipe) has room until a write fails.
    fn look_for_room(&mut self) {
        let Some(most) = self.most.filter(|_| self.full.is_none()) else { return };
        let long = self.file.metadata().is_ok_and(|meta| meta.len() >= most);
        if long || scratch::room(&self.path).is_some_and(|room| room < RESERVE) {
            self.full = Some(Full { limit: long.then_some(most), at: self.created.elapsed() });
        }
    }

    fn records(&mut self, core: u16, context: u8, first: u64, bytes: &[u8]) -> Result<(), CaptureError> {
        for (record, number) in bytes.chunks_exact(RECORD_BYTES as usize).zip(first..) {
            if tells_away(record)
                && let Some(away) = &mut self.away
            {
                away.extend_from_slice(&core.to_le_bytes());
                away.extend_from_slice(&[context, 0, 0, 0, 0, 0]);
                away.extend_from_slice(&number.to_le_bytes());
                away.extend_from_slice(record);
            }
        }
        if self.away.as_ref().is_some_and(|away| away.len() > MOST_AWAY * AWAY_BYTES) {
            self.away = None;
        }
        let mut folded = std::mem::take(&mut self.folded);
        fold(bytes, &mut folded);
        let written = self.lane(Head { core, context, first, ..Head::plain(LANE) }, &folded);
        self.folded = folded;
        written
    }

    fn lane(&mut self, head: Head, body: &[u8]) -> Result<(), CaptureError> {
        self.message(self.lanes, true, head, body)
    }

    fn other(&mut self, head: Head, body: &[u8]) -> Result<(), CaptureError> {
        self.message(self.others, false, head, body)
    }

    fn message(&mut self, channel_id: u16, lanes: bool, head: Head, body: &[u8]) -> Result<(), CaptureError> {
        if self.in_lanes != lanes {
            self.flush()?;
            self.in_lanes = lanes;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        head.encode(body, &mut buffer);
        let now = nanoseconds_now();
        let header = MessageHeader { channel_id, sequence: self.sequence, log_time: now, publish_time: now };
        self.sequence = self.sequence.wrapping_add(1);
        let written = self.writer.write_to_known_channel(&header, &buffer);
        self.pending += buffer.len() as u64;
        self.buffer = buffer;
        written.map_err(|error| write_error(&self.path, error))?;
        if self.pending >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Of all answers only the `count` latest are kept; of what is neither send, answer nor stage, the first of them.
    fn sift(&mut self, core: u16, context: u8, first: u64, bytes: &[u8], count: usize) {
        for (record, raw) in reader::records(first, bytes).zip(bytes.chunks_exact(RECORD_BYTES as usize)) {
            let event = record.event;
            let mut kept = Kept { latency: 0, core, context, index: record.index, bytes: [0; RECORD_BYTES as usize] };
            kept.bytes.copy_from_slice(raw);
            match event.kind {
                Kind::Receive if event.flags & FLAG_UNTIMED == 0 => {
                    kept.latency = event.t.wrapping_sub(event.arg);
                    let full = self.worst.len() >= count;
                    if full && self.worst.peek().is_some_and(|Reverse(least)| least.latency >= kept.latency) {
                        continue;
                    }
                    if full {
                        self.worst.pop();
                    }
                    self.worst.push(Reverse(kept));
                }
                Kind::Send | Kind::Receive | Kind::Stage => {}
                kind => {
                    let list = if is_trouble(kind) { &mut self.troubles } else { &mut self.marks };
                    if list.len() < MOST_OTHERS { list.push(kept) } else { self.too_many += 1 }
                }
            }
        }
    }
}

fn write_error(path: &Path, error: mcap::McapError) -> CaptureError {
    let error = match error {
        mcap::McapError::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    CaptureError::Write { path: path.into(), error }
}

/// "16 GiB", "1.5 MiB": the greatest unit that has a whole one.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit)
        .unwrap_or((1, "B"));
    let (whole, rest) = (bytes / unit, bytes % unit);
    if rest == 0 { format!("{whole} {name}") } else { format!("{:.1} {name}", bytes as f64 / unit as f64) }
}

/// JSON of plain data with text keys, which can't fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn nanoseconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

// --- reading --------------------------------------------------------------------------------------------------------

/// Something that a lane said, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch<'a> {
    /// Records, whole and in order.
    Records {
        /// The core.
        core: u16,
        /// Index in [`Context::ALL`].
        context: u8,
        /// Number of the first.
        first: u64,
        /// 32 bytes each.
        bytes: &'a [u8],
    },
    /// Records that were missed.
    Lost {
        /// The core.
        core: u16,
        /// Index in [`Context::ALL`].
        context: u8,
        /// Number of the first.
        first: u64,
        /// How many.
        count: u64,
        /// Why.
        cause: Loss,
    },
    /// Records that came after the capture had reached its limit.
    Unkept {
        /// The core.
        core: u16,
        /// Index in [`Context::ALL`].
        context: u8,
        /// Number of the first.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// What of the file could not be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Chunks whose checksum or contents are wrong.
    pub chunks: u64,
    /// Messages inside whole chunks that are wrong.
    pub messages: u64,
    /// The file ends in the middle: its writer was killed, or it was cut.
    pub truncated: bool,
}

/// A chunk's place in the file: its record's body.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    length: u64,
}

/// A capture that was opened: everything but the lanes is in memory.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    info: RunInfo,
    ending: Option<Ending>,
    snapshot: Option<Vec<u8>>,
    attachments: Vec<(String, String, Place)>,
    console: String,
    picture: Option<Vec<CorePicture>>,
    series: Option<Series>,
    linux: Option<Table>,
    away: Option<Vec<u8>>,
    lane_chunks: Vec<Place>,
    damage: Damage,
}

/// MCAP's record numbers, of those that matter here.
mod opcode {
    pub const HEADER: u8 = 0x01;
    pub const MESSAGE: u8 = 0x05;
    pub const CHUNK: u8 = 0x06;
    pub const ATTACHMENT: u8 = 0x09;
    pub const DATA_END: u8 = 0x0F;
}

/// Bytes of a record before its body: opcode and length.
const RECORD_HEAD: u64 = 9;

/// Bytes of a message before ours: channel, sequence, two times.
const MESSAGE_HEAD: usize = 22;

impl Capture {
    /// Opens a capture. A damaged or truncated one opens as long as it says what run it is of.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let read = |error| CaptureError::Read { path: path.into(), error };
        let not = |reason: &str| CaptureError::NotACapture { path: path.into(), reason: reason.into() };
        let mut file = File::open(path).map_err(|error| CaptureError::Open { path: path.into(), error })?;
        let meta = file.metadata().map_err(read)?;
        if !meta.is_file() {
            return Err(not("it is not a file"));
        }
        let length = meta.len();
        let mut magic = [0; 8];
        if length < 8 || file.read_exact(&mut magic).is_err() || magic != *mcap::MAGIC {
            return Err(not("it does not begin like one"));
        }
        let mut found = Found::default();
        let mut at = 8;
        let mut first = true;
        loop {
            let mut head = [0; RECORD_HEAD as usize];
            if length - at < RECORD_HEAD {
                found.damage.truncated = true;
                break;
            }
            file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut head)).map_err(read)?;
            let [code, size @ ..] = head;
            let size = u64::from_le_bytes(size);
            let body = Place { offset: at + RECORD_HEAD, length: size };
            if size > length - body.offset {
                found.damage.truncated = true;
                break;
            }
            match code {
                opcode::HEADER => {
                    let mut start = vec![0; size.min(256) as usize];
                    file.read_exact(&mut start).map_err(read)?;
                    let wanted = [&(PROFILE.len() as u32).to_le_bytes(), PROFILE.as_bytes()].concat();
                    if !start.starts_with(&wanted) {
                        return Err(not("it is an MCAP file of another tool"));
                    }
                }
                _ if first => return Err(not("its header is missing")),
                opcode::CHUNK => found.chunk(&mut file, body).map_err(read)?,
                opcode::ATTACHMENT => found.attachment(&mut file, body).map_err(read)?,
                opcode::DATA_END => break,
                _ => {}
            }
            first = false;
            at = body.offset + size;
        }
        if let Some(found) = found.newer {
            return Err(CaptureError::Newer { path: path.into(), found });
        }
        let Some(info) = found.info else {
            return Err(not("it does not say what run it is of (cut or damaged before its first chunk ended)"));
        };
        let info =
            serde_json::from_slice(&info).map_err(|error| not(&format!("its description can't be read: {error}")))?;
        Ok(Capture {
            path: path.into(),
            info,
            ending: found.ending,
            snapshot: found.snapshot,
            attachments: found.attachments,
            console: found.console,
            picture: found.picture,
            series: found.series,
            linux: found.linux,
            away: found.away,
            lane_chunks: found.lane_chunks,
            damage: found.damage,
        })
    }

    /// What the host knew before the run.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// What the host learnt at its end; `None` when the writer was killed.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The newest whole snapshot of the region, up to its records.
    pub fn snapshot(&self) -> Option<SnapshotSource<'_>> {
        self.snapshot.as_deref().map(SnapshotSource)
    }

    /// What the console said, from its beginning.
    pub fn console(&self) -> &str {
        &self.console
    }

    /// Where the cores stood when the run was cut short; `None`: nobody looked.
    pub fn picture(&self) -> Option<&[CorePicture]> {
        self.picture.as_deref()
    }

    /// The counters over time; `None`: the run was short, deterministic or not seen while it went on.
    pub fn series(&self) -> Option<&Series> {
        self.series.as_ref()
    }

    /// What the events of a Linux trace name; `None`: it is no Linux trace.
    pub fn linux(&self) -> Option<&Table> {
        self.linux.as_ref()
    }

    /// All records that tell of time in which a core was away: core, number, 32 bytes; by lane in the order of their numbers.
    /// `None`: the capture does not list them, so that whoever wants them looks through all records.
    pub fn away(&self) -> Option<impl Iterator<Item = (u16, u64, &[u8; RECORD_BYTES as usize])>> {
        let rows = self.away.as_ref()?.chunks_exact(AWAY_BYTES);
        Some(rows.filter_map(|row| {
            let ([core0, core1, ..], rest) = row.split_first_chunk::<8>()?;
            let (number, record) = rest.split_first_chunk::<8>()?;
            Some((u16::from_le_bytes([*core0, *core1]), u64::from_le_bytes(*number), record.first_chunk()?))
        }))
    }

    /// Names and media types of the attachments.
    pub fn attachments(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attachments.iter().map(|(name, media_type, _)| (name.as_str(), media_type.as_str()))
    }

    /// An attachment's bytes; `None` when there is none of this name, or it is damaged.
    pub fn attachment(&self, name: &str) -> Result<Option<Vec<u8>>, CaptureError> {
        let Some((.., place)) = self.attachments.iter().find(|(known, ..)| known == name) else { return Ok(None) };
        let read = |error| CaptureError::Read { path: self.path.clone(), error };
        let mut file = File::open(&self.path).map_err(read)?;
        let body = read_place(&mut file, *place).map_err(read)?;
        Ok(attachment_parts(&body).and_then(|parts| {
            let (checked, crc) = body.split_last_chunk::<4>()?;
            let crc = u32::from_le_bytes(*crc);
            (crc == 0 || crc == crc32fast::hash(checked)).then(|| parts.data.to_vec())
        }))
    }

    /// What could not be used so far: [`Capture::lanes`] finds more.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// Hands all lane batches to `visit`, in the order of the file, in bounded memory. Bad chunks are skipped and counted.
    pub fn lanes(&self, mut visit: impl FnMut(Batch<'_>)) -> Result<Damage, CaptureError> {
        self.lanes_while(|batch| {
            visit(batch);
            true
        })
    }

    /// The same, until `visit` says no.
    pub fn lanes_while(&self, mut visit: impl FnMut(Batch<'_>) -> bool) -> Result<Damage, CaptureError> {
        let mut records = Vec::new();
        self.batches(|head, body| {
            let Head { core, context, first, count, .. } = head;
            match head.tag {
                LANE => {
                    unfold(body, &mut records);
                    visit(Batch::Records { core, context, first, bytes: records.as_bytes() })
                }
                LOST => visit(Batch::Lost { core, context, first, count, cause: loss_from(head.cause) }),
                SKIP => visit(Batch::Unkept { core, context, first, count }),
                _ => true,
            }
        })
    }

    /// Hands the events of a Linux trace to `visit` in their order: the number of the first, and 32 bytes each.
    pub fn linux_rows(&self, mut visit: impl FnMut(u64, &[u8])) -> Result<Damage, CaptureError> {
        self.linux_rows_while(|first, rows| {
            visit(first, rows);
            true
        })
    }

    /// The same, as long as `visit` asks for more.
    pub fn linux_rows_while(&self, mut visit: impl FnMut(u64, &[u8]) -> bool) -> Result<Damage, CaptureError> {
        let mut rows = Vec::new();
        self.batches(|head, body| {
            if head.tag != LINX {
                return true;
            }
            unfold(body, &mut rows);
            visit(head.first, rows.as_bytes())
        })
    }

    fn batches(&self, mut visit: impl FnMut(Head, &[u8]) -> bool) -> Result<Damage, CaptureError> {
        let read = |error| CaptureError::Read { path: self.path.clone(), error };
        let mut file = File::open(&self.path).map_err(read)?;
        let mut unpacker = Unpacker::new().map_err(read)?;
        let mut damage = self.damage;
        let mut bytes = Vec::new();
        let mut more = true;
        for place in &self.lane_chunks {
            if !more {
                break;
            }
            read_into(&mut file, *place, &mut bytes).map_err(read)?;
            let whole = unpacker.messages(&bytes, |message, checked| {
                match Head::decode(message, checked) {
                    Some(Ok((head, body))) if usize::from(head.context) < LANES_PER_CORE => more = visit(head, body),
                    _ => damage.messages += 1,
                }
                more
            });
            if !whole {
                damage.chunks += 1;
            }
        }
        Ok(damage)
    }
}

/// What opening finds.
#[derive(Default)]
struct Found {
    info: Option<Vec<u8>>,
    ending: Option<Ending>,
    snapshot: Option<Vec<u8>>,
    /// The snapshot that is being put together.
    partial: Vec<u8>,
    attachments: Vec<(String, String, Place)>,
    console: String,
    picture: Option<Vec<CorePicture>>,
    series: Option<Series>,
    linux: Option<Table>,
    away: Option<Vec<u8>>,
    lane_chunks: Vec<Place>,
    damage: Damage,
    newer: Option<u32>,
}

impl Found {
    fn chunk(&mut self, file: &mut File, place: Place) -> std::io::Result<()> {
        if place.length > RECORD_LIMIT as u64 {
            self.damage.chunks += 1;
            return Ok(());
        }
        let bytes = read_place(file, place)?;
        // The first message tells what the chunk holds; unchecked, because a lie costs no more than a bad chunk.
        let first = Chunk::of(&bytes).and_then(|chunk| chunk.peek());
        if first.is_some_and(|first| [LANE, LOST, SKIP, LINX].contains(&first)) {
            self.lane_chunks.push(place);
            return Ok(());
        }
        let whole = Unpacker::new()?.messages(&bytes, |message, checked| {
            match Head::decode(message, checked) {
                Some(Ok((head, body))) => self.message(head, body),
                Some(Err(format)) => self.newer = Some(format),
                None => self.damage.messages += 1,
            }
            true
        });
        if !whole {
            self.damage.chunks += 1;
        }
        Ok(())
    }

    fn message(&mut self, head: Head, body: &[u8]) {
        match head.tag {
            INFO => self.info = Some(body.to_vec()),
            DONE => match serde_json::from_slice(body) {
                Ok(ending) => self.ending = Some(ending),
                Err(_) => self.damage.messages += 1,
            },
            TEXT => {
                let room = CONSOLE_LIMIT.saturating_sub(self.console.len());
                self.console.extend(String::from_utf8_lossy(body).chars().take(room));
            }
            PICT => match serde_json::from_slice(body) {
                Ok(picture) => self.picture = Some(picture),
                Err(_) => self.damage.messages += 1,
            },
            SERI => match serde_json::from_slice::<Series>(body) {
                Ok(series) if series.is_whole() => self.series = Some(series),
                _ => self.damage.messages += 1,
            },
            SNAP => {
                if head.first == 0 {
                    self.partial.clear();
                }
                // Pieces follow one another; one that is missing spoils the snapshot, and the one before it stands.
                if head.first != self.partial.len() as u64 || head.count > SNAPSHOT_LIMIT {
                    self.partial.clear();
                    return;
                }
                self.partial.extend_from_slice(body);
                if self.partial.len() as u64 == head.count {
                    self.snapshot = Some(std::mem::take(&mut self.partial));
                }
            }
            AWAY => match body.len().is_multiple_of(AWAY_BYTES) {
                true => self.away = Some(body.to_vec()),
                false => self.damage.messages += 1,
            },
            LTAB => match serde_json::from_slice(body) {
                Ok(table) => self.linux = Some(table),
                Err(_) => self.damage.messages += 1,
            },
            // A lane message among others, or a kind that this version does not know.
            _ => {}
        }
    }

    fn attachment(&mut self, file: &mut File, place: Place) -> std::io::Result<()> {
        // Name and media type stand in front; the data is read when it is asked for.
        let front = read_place(file, Place { length: place.length.min(64 << 10), ..place })?;
        let mut rest = front.as_slice();
        let named = skip(&mut rest, 16).and_then(|_| text(&mut rest)).and_then(|name| Some((name, text(&mut rest)?)));
        match named {
            Some((name, media_type)) => self.attachments.push((name, media_type, place)),
            None => self.damage.messages += 1,
        }
        Ok(())
    }
}

struct AttachmentParts<'a> {
    data: &'a [u8],
}

/// The parts of an attachment record. Not the crate's own parser: that one indexes past the end of a short record.
fn attachment_parts(body: &[u8]) -> Option<AttachmentParts<'_>> {
    let mut rest = body;
    skip(&mut rest, 16)?;
    text(&mut rest)?;
    text(&mut rest)?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (data, crc) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    (crc.len() == 4).then_some(AttachmentParts { data })
}

fn skip(rest: &mut &[u8], bytes: usize) -> Option<()> {
    *rest = rest.get(bytes..)?;
    Some(())
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

fn read_place(file: &mut File, place: Place) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(file, place, &mut bytes)?;
    Ok(bytes)
}

fn read_into(file: &mut File, place: Place, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(place.offset))?;
    bytes.clear();
    // The length was checked against the file's, so it is no more than what is really there.
    file.take(place.length).read_to_end(bytes)?;
    if (bytes.len() as u64) < place.length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// The body of a chunk record (MCAP specification, "Chunk (op=0x06)"). Not the crate's reader: it copies and clears each byte several
/// times, which took longer than unpacking, and it lets a record run on into what lies behind the chunk's.
struct Chunk<'a> {
    /// Bytes of the unpacked records.
    size: u64,
    /// Their CRC-32; 0: nobody made one.
    crc: u32,
    /// How they are packed: `zstd`, or not at all.
    packing: String,
    packed: &'a [u8],
}

impl<'a> Chunk<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        // When its messages were written.
        skip(&mut rest, 16)?;
        let (size, mut rest) = rest.split_first_chunk::<8>()?;
        let (crc, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        let packing = text(&mut rest)?;
        let (length, packed) = rest.split_first_chunk::<8>()?;
        let whole = u64::from_le_bytes(*length) == packed.len() as u64;
        let (size, crc) = (u64::from_le_bytes(*size), u32::from_le_bytes(*crc));
        (whole && size <= RECORD_LIMIT as u64).then_some(Chunk { size, crc, packing, packed })
    }

    /// The first bytes of its first message, unpacked no further and unchecked.
    fn peek(&self) -> Option<[u8; 4]> {
        let mut records: Box<dyn Read + '_> = match self.packing.as_str() {
            "zstd" => Box::new(zstd::Decoder::with_buffer(self.packed).ok()?),
            _ => Box::new(self.packed),
        };
        loop {
            let mut head = [0; RECORD_HEAD as usize];
            records.read_exact(&mut head).ok()?;
            let [code, length @ ..] = head;
            if code == opcode::MESSAGE {
                let mut start = [0; MESSAGE_HEAD + 4];
                records.read_exact(&mut start).ok()?;
                return start.last_chunk().copied();
            }
            let length = u64::from_le_bytes(length);
            let passed = std::io::copy(&mut records.by_ref().take(length), &mut std::io::sink()).ok()?;
            (passed == length).then_some(())?;
        }
    }
}

/// Unpacks one chunk after another into the same memory.
struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    records: Vec<u8>,
}

impl Unpacker {
    fn new() -> std::io::Result<Self> {
        Ok(Unpacker { zstd: zstd::bulk::Decompressor::new()?, records: Vec::new() })
    }

    /// The records of a chunk, checked; `None`: it is not whole.
    fn unpack<'a>(&'a mut self, chunk: &Chunk<'a>) -> Option<&'a [u8]> {
        let records = match chunk.packing.as_str() {
            "" => chunk.packed,
            "zstd" => {
                self.records.clear();
                self.records.reserve(chunk.size as usize);
                self.zstd.decompress_to_buffer(chunk.packed, &mut self.records).ok()?;
                &self.records
            }
            _ => return None,
        };
        let whole = records.len() as u64 == chunk.size && (chunk.crc == 0 || crc32fast::hash(records) == chunk.crc);
        whole.then_some(records)
    }

    /// Hands the messages of a chunk to `visit` until it says no, and whether a CRC of the chunk has shown that they are whole; false
    /// when the chunk is not.
    fn messages(&mut self, chunk: &[u8], mut visit: impl FnMut(&[u8], bool) -> bool) -> bool {
        let Some(chunk) = Chunk::of(chunk) else { return false };
        let checked = chunk.crc != 0;
        let Some(mut rest) = self.unpack(&chunk) else { return false };
        while !rest.is_empty() {
            let Some((head, after)) = rest.split_first_chunk::<{ RECORD_HEAD as usize }>() else { return false };
            let [code, length @ ..] = *head;
            let length = usize::try_from(u64::from_le_bytes(length)).ok();
            let Some((record, after)) = length.and_then(|length| after.split_at_checked(length)) else { return false };
            rest = after;
            if code == opcode::MESSAGE
                && let Some(message) = record.get(MESSAGE_HEAD..)
                && !visit(message, checked)
            {
                return true;
            }
        }
        true
    }
}

/// A snapshot as a source to read a region from. The records are not in it.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSource<'a>(&'a [u8]);

impl<'a> SnapshotSource<'a> {
    /// A source over the region's first bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        SnapshotSource(bytes)
    }
}

/// A read beyond the end of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot ends at byte {have}, {offset} was asked for")]
pub struct BeyondSnapshot {
    /// Bytes there are.
    pub have: u64,
    /// Where the read began.
    pub offset: u64,
}

impl RegionSource for SnapshotSource<'_> {
    type Error = BeyondSnapshot;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), BeyondSnapshot> {
        let error = BeyondSnapshot { have: self.0.len() as u64, offset };
        let start = usize::try_from(offset).map_err(|_| error)?;
        let end = start.checked_add(buffer.len()).ok_or(error)?;
        buffer.copy_from_slice(self.0.get(start..end).ok_or(error)?);
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, BeyondSnapshot> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The name of a lane's context by its index.
pub fn context_name(context: u8) -> &'static str {
    Context::ALL.get(usize::from(context)).map_or("unknown", |context| context.name())
}

#[cfg(test)]
mod tests {
    use trace_ring::record::Event;

    use super::*;
    use crate::plan::{PlanRequest, compile};
    use crate::series::Receiver;

    /// Found by the fuzzer, when the crate's reader was in use: it subtracted with overflow.
    #[test]
    fn a_record_that_runs_beyond_the_records_of_its_chunk_is_damage() {
        let mut message = Vec::new();
        Head::plain(TEXT).encode(b"hello", &mut message);
        let message = [&[0; 22][..], &message].concat();
        let record = [&[opcode::MESSAGE][..], &(message.len() as u64).to_le_bytes(), &message].concat();
        let chunk = |length: usize| {
            let unpacked = (record.len() as u64).to_le_bytes();
            // Times, size, no CRC, packed by nothing, bytes of the records.
            [&[0; 16][..], &unpacked, &[0; 4], &[0; 4], &(length as u64).to_le_bytes(), &record].concat()
        };
        let count = |chunk: &[u8]| {
            let mut count = 0;
            let whole = Unpacker::new().unwrap().messages(chunk, |_, _| {
                count += 1;
                true
            });
            (whole, count)
        };
        assert_eq!(count(&chunk(record.len())), (true, 1));
        assert_eq!(count(&chunk(record.len() - 10)), (false, 0));
        assert_eq!(count(&chunk(record.len() + 10)), (false, 0));
    }

    #[test]
    fn records_come_back_from_folding_as_they_were() {
        for count in [0, 1, 2, 63, 64, 65, 100, 128, 200] {
            let bytes: Vec<u8> =
                (0..count * 32_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let (mut folded, mut unfolded) = (Vec::new(), Vec::new());
            fold(&bytes, &mut folded);
            assert_eq!(folded.len(), bytes.len());
            unfold(&folded, &mut unfolded);
            assert_eq!(unfolded.as_bytes(), bytes);
        }
        // What is no whole number of records gives the whole ones, and no panic.
        let mut unfolded = Vec::new();
        unfold(&[7; 77], &mut unfolded);
        assert_eq!(unfolded.len(), 2);
    }

    /// A capture in the making, of a run that keeps these records.
    fn writer(path: &Path, keep: Keep) -> CaptureWriter {
        let request = PlanRequest { cores: 2, keep, ..PlanRequest::default() };
        let info = RunInfo {
            created: String::new(),
            tool_version: String::new(),
            source: "qemu".into(),
            machine: String::new(),
            board: String::new(),
            cpu: String::new(),
            accel: String::new(),
            verdict_scope: VerdictScope::Emulated,
            deterministic: false,
            qemu_version: String::new(),
            qemu_arguments: Vec::new(),
            tags: BTreeMap::new(),
            plan: compile(&request).expect("compiles").meta,
            firmware_build_id: String::new(),
            nonce: 1,
            cores: 2,
            notes: Vec::new(),
        };
        CaptureWriter::create(path, &info, &[]).expect("is created")
    }

    fn ending() -> Ending {
        Ending::new(Ended::Complete, 1.0)
    }

    /// Records `first .. first + count`, of one kind, each as late as its number.
    fn records(kind: Kind, first: u64, count: u64) -> Vec<u8> {
        let event = |t: u64| Event { t: 1000 + t, kind, flags: 0, peer: 1, msg: 0, intid: 0, extra: 0, arg: 1000 };
        (first..first + count).flat_map(|index| event(index).words(index)).flat_map(u64::to_le_bytes).collect()
    }

    #[test]
    fn what_tells_of_time_away_is_listed_as_it_stands_in_the_lanes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.mcap");
        let beats: [(u16, u64, u64); 3] = [(0, 4, 2), (1, 0, 1), (0, 9, 1)];
        let fill = |writer: &mut CaptureWriter| {
            writer.lane_records(0, 1, 0, &records(Kind::Send, 0, 4)).unwrap();
            for (core, first, count) in beats {
                writer.lane_records(core, 1, first, &records(Kind::Heartbeat, first, count)).unwrap();
            }
            writer.lane_records(0, 1, 6, &records(Kind::Receive, 6, 3)).unwrap();
        };
        let listed = |path: &Path| {
            let capture = Capture::open(path).unwrap();
            capture
                .away()
                .map(|list| list.map(|(core, number, record)| (core, number, record.to_vec())).collect::<Vec<_>>())
        };
        let mut whole = writer(&path, Keep::All);
        fill(&mut whole);
        whole.finish(&ending()).unwrap();
        let expected = beats.iter().flat_map(|(core, first, count)| {
            (*first..first + count).map(|number| (*core, number, records(Kind::Heartbeat, number, 1)))
        });
        assert_eq!(listed(&path), Some(expected.collect()));

        // A writer that was killed has listed nothing, and so has one that had too many.
        let mut killed = writer(&path, Keep::All);
        fill(&mut killed);
        killed.flush().unwrap();
        drop(killed);
        assert_eq!(listed(&path), None);
        let mut many = writer(&path, Keep::All);
        many.lane_records(0, 1, 0, &records(Kind::Gap, 0, MOST_AWAY as u64 + 1)).unwrap();
        many.finish(&ending()).unwrap();
        assert_eq!(listed(&path), None);
    }

    /// What the lanes of a capture say, in its order: core, context, first, count, cause; -1: records, -2: not kept.
    fn lanes(path: &Path) -> Vec<(u16, u8, u64, u64, i32)> {
        let mut lanes = Vec::new();
        let capture = Capture::open(path).expect("opens");
        let damage = capture.lanes(|batch| {
            lanes.push(match batch {
                Batch::Records { core, context, first, bytes } => {
                    (core, context, first, bytes.len() as u64 / RECORD_BYTES, -1)
                }
                Batch::Lost { core, context, first, count, cause } => {
                    (core, context, first, count, loss_code(cause).into())
                }
                Batch::Unkept { core, context, first, count } => (core, context, first, count, -2),
            });
        });
        assert_eq!(damage.expect("is read"), Damage::default());
        lanes
    }

    #[test]
    fn a_capture_that_reached_its_limit_counts_what_it_does_not_keep() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("capture.mcap");
        let mut writer = writer(&path, Keep::All);
        writer.keep_at_most(1);
        let kind = Kind::Receive;
        writer.lane_records(1, 1, 0, &records(kind, 0, 10)).expect("is taken");
        writer.lane_loss(1, 1, 10, 5, Loss::Lapped).expect("is taken");
        assert_eq!(writer.shortage(), None, "nobody has looked yet");
        writer.flush().expect("is written");
        writer.lane_records(1, 1, 15, &records(kind, 15, 20)).expect("is taken");
        writer.lane_loss(1, 1, 35, 7, Loss::Lapped).expect("is taken");
        writer.lane_loss(1, 1, 42, 2, Loss::Torn).expect("is taken");
        writer.lane_records(1, 1, 44, &records(kind, 44, 3)).expect("is taken");
        writer.lane_loss(1, 1, 47, 9, Loss::Dropped).expect("is taken");
        writer.lane_records(0, 0, 0, &records(kind, 0, 4)).expect("is taken");
        writer.snapshot(&[7; 64]).expect("is taken");
        assert_eq!((writer.unkept(1, 1), writer.unkept(0, 0), writer.unkept(0, 1)), (23, 4, 0));
        let note = writer.shortage().expect("says so");
        assert!(note.contains("1 B (--max-capture)") && note.contains("27 later records"), "{note}");
        writer.finish(&ending()).expect("is closed");
        // Lapped, torn, turned away, not kept: 0..10 were kept, and 10..47 is told of without a gap.
        let expected = [
            (1, 1, 0, 10, -1),
            (1, 1, 10, 5, 0),
            (0, 0, 0, 4, -2),
            (1, 1, 15, 7, 0),
            (1, 1, 22, 2, 1),
            (1, 1, 24, 9, 2),
            (1, 1, 24, 23, -2),
        ];
        assert_eq!(lanes(&path), expected);
        assert!(Capture::open(&path).expect("opens").snapshot().is_some(), "what is no record goes on");
    }

    #[test]
    fn the_worst_and_what_tells_of_trouble_stand_in_the_order_of_their_lanes_however_long_the_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("capture.mcap");
        let mut writer = writer(&path, Keep::Worst(3));
        writer.lane_records(1, 1, 0, &records(Kind::Receive, 0, 100)).expect("is taken");
        writer.lane_records(1, 1, 100, &records(Kind::Gap, 100, 2)).expect("is taken");
        // A lane that is lapped a thousand times says it once.
        for round in 0..1000 {
            writer.lane_loss(1, 1, 102 + round, 1, Loss::Lapped).expect("is taken");
        }
        // More of them than are kept, and they don't cost those that tell of trouble their place.
        writer.lane_records(0, 0, 0, &records(Kind::Phase, 0, MOST_OTHERS as u64 + 10)).expect("is taken");
        writer.lane_records(0, 0, 1 << 20, &records(Kind::Retire, 1 << 20, 1)).expect("is taken");
        let note = writer.shortage().expect("says so");
        assert!(note.contains("; 10 were not"), "{note}");
        writer.finish(&ending()).expect("is closed");
        let expected =
            [(0, 0, 0, MOST_OTHERS as u64, -1), (0, 0, 1 << 20, 1, -1), (1, 1, 97, 5, -1), (1, 1, 102, 1000, 0)];
        assert_eq!(lanes(&path), expected);
    }

    #[test]
    fn a_series_comes_back_and_one_with_ragged_columns_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("capture.mcap");
        let receiver = Receiver { core: 1, n: vec![1, 2], sum: vec![3, u64::MAX], max: vec![5, 6], lost: vec![0, 0] };
        let whole = Series { at_ns: vec![0, 100], receivers: vec![receiver] };
        let mut ragged = whole.clone();
        ragged.receivers[0].max.pop();
        let mut writer = writer(&path, Keep::None);
        writer.series(&whole).expect("is taken");
        writer.series(&ragged).expect("is taken");
        writer.finish(&ending()).expect("is closed");
        let capture = Capture::open(&path).expect("opens");
        assert_eq!((capture.series(), capture.damage().messages), (Some(&whole), 1));
    }

    #[test]
    fn sizes_are_told_in_their_greatest_unit() {
        for (bytes, text) in [(1, "1 B"), (1536, "1.5 KiB"), (500 << 20, "500 MiB"), (16 << 30, "16 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_message_with_any_bit_flipped_is_refused() {
        let mut message = Vec::new();
        let head = Head { tag: LANE, core: 511, context: 1, cause: 0, first: 1 << 40, count: 7 };
        head.encode(b"body", &mut message);
        assert_eq!(Head::decode(&message, false), Some(Ok((head, &b"body"[..]))));
        for bit in 0..message.len() * 8 {
            let mut damaged = message.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&damaged, false), None, "bit {bit}");
        }
        assert_eq!(Head::decode(&message[..20], false), None);
    }
}
