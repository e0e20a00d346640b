//! Witnesses: what else was seen while IPIs were on their way. Gaps in which a core was away, interrupts that woke an IPI, counters
//! that stepped back, sends timed against a transition, and how latencies went on over time.
//!
//! A latency says *that* somebody was late. These say *who could not help it*: a core that its host took away answers late and
//! is not to blame, nor is the way to it.
//!
//! A gap is recorded when it is over: behind the answers that it made late, and often in another lane. So gaps and heartbeats are
//! gathered from the whole capture before the first message is joined, and each latency, of whatever length, is held against
//! them when it is known. The order in which lanes were drained changes nothing.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use trace_ring::layout::{Context, LANES_PER_CORE};
use trace_ring::record::{Event, Kind, RECORD_BYTES, Record, Witness};

use super::View;
use crate::capture::{Batch, Capture, CaptureError};
use crate::correlate::MOST_EVIDENCE;

/// Gaps and heartbeats that are kept, of all cores together.
const MOST_KEPT: usize = 4 << 20;

/// Messages of sweeps that wait for their answer.
const MOST_SWEPT: usize = 1 << 20;

/// How much older than a due heartbeat a message must be that this heartbeat found pending: a younger one came while the core was on
/// its way into the handler.
const OLDER_NS: u64 = 5_000;

/// How soon after a heartbeat an SGI is taken that waited for it.
const SOON_NS: u64 = 20_000;

/// What the plan has cores watch for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Watching {
    /// How long a waiting core goes without a heartbeat, ns; 0: for ever.
    pub heartbeat_ns: u64,
    /// How late a heartbeat, or how far apart two looks of a polling loop, are a gap, ns; 0: gaps are not looked for.
    pub gap_ns: u64,
}

/// A time in which a core was away while it waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The core.
    pub core: u16,
    /// Since when it was surely away, ticks.
    pub from: u64,
    /// When it was back, ticks.
    pub to: u64,
    /// Who saw it.
    pub witness: Witness,
}

/// A core's gaps by its own count, whole whatever became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GapTotals {
    /// How many.
    pub count: u64,
    /// Ticks of all together.
    pub ticks: u64,
    /// The longest, ticks.
    pub longest: u64,
    /// Heartbeats that the core took: without any, nobody watched.
    pub heartbeats: u64,
    /// Gaps that have no record: latencies in them can't be told from late ones.
    pub unrecorded: u64,
}

/// Latencies of a pair slot that something else than the way of the IPI explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excused {
    /// Latencies of which a gap of the receiver, or a send window as long as one, covers the greater part. They are not judged.
    pub stolen: u64,
    /// The longest of them, ticks.
    pub stolen_longest: u64,
    /// Latencies of which a gap covers a part only: nobody can tell what the rest was. They are not judged either.
    pub doubtful: u64,
    /// The longest of them, ticks.
    pub doubtful_longest: u64,
}

/// Answers of a pair slot that came only after another event had reached the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// How many: the SGI stood pending while the receiver took a heartbeat, and was taken right after it.
    pub count: u64,
    /// The longest of them, ticks.
    pub longest: u64,
}

/// A lane in which time went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBack {
    /// The core.
    pub core: u16,
    /// The context.
    pub context: Context,
    /// The record's time, ticks.
    pub t: u64,
    /// The time of a record before it, ticks.
    pub before: u64,
}

/// One distance of a sweep from the transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepStep {
    /// Ticks from the planned time of the transition to the send stamp, the least of this step.
    pub offset: i64,
    /// Messages sent at this distance.
    pub sent: u64,
    /// Those that have a latency which no gap of their receiver or sender covers.
    pub timed: u64,
    /// The least of these latencies, ticks.
    pub min: u64,
    /// The greatest, ticks.
    pub max: u64,
    /// Those that were given up.
    pub given_up: u64,
}

/// Messages timed against a transition of their receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The sender.
    pub from: u16,
    /// The receiver.
    pub to: u16,
    /// A [`trace_ring::plan::transition`].
    pub transition: u8,
    /// Its steps, by distance; at most [`SWEEP_STEPS`], neighbours joined where there were more.
    pub steps: Vec<SweepStep>,
}

/// The most steps that are kept of a sweep.
pub const SWEEP_STEPS: usize = 256;

/// The most pieces of a series.
pub const SERIES_PIECES: usize = 128;

/// Latencies over time, in equal pieces of the run, at most [`SERIES_PIECES`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Length of a piece, ticks; 0: there is no series.
    pub piece_ticks: u64,
    /// When the first piece begins, ticks.
    pub start: u64,
    /// The cores as receivers.
    pub receivers: Vec<SeriesLine>,
}

/// One core's latencies as a receiver over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SeriesLine {
    /// The core.
    pub core: u16,
    /// The pieces, from the start of the run.
    pub points: Vec<SeriesPoint>,
}

/// What was measured in one piece of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SeriesPoint {
    /// Latencies.
    pub n: u64,
    /// Their sum, ticks.
    pub sum: u64,
    /// The least, ticks.
    pub min: u64,
    /// The greatest, ticks.
    pub max: u64,
}

/// Why a latency is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excuse {
    /// The greater part of it was taken from a core.
    Stolen,
    /// A part of it was.
    Doubtful,
}

/// A heartbeat that found SGIs pending.
#[derive(Clone, Copy, Debug)]
struct Beat {
    t: u64,
    due: u64,
    /// A bit for each INTID.
    pending: u32,
}

/// One core's own witness.
#[derive(Debug, Default)]
struct Watched {
    gaps: Vec<Gap>,
    /// The same as spans that don't meet, by time.
    away: Vec<(u64, u64)>,
    /// Where the newest look into `away` began.
    at: usize,
    /// By time.
    beats: Vec<Beat>,
    /// Gaps that the records number, whether they are there or not.
    numbered: u64,
    ticks: u64,
    longest: u64,
}

impl Watched {
    /// How many ticks of a span the core was away.
    fn away(&mut self, from: u64, to: u64) -> u64 {
        let first = |at: usize| {
            at.checked_sub(1).is_none_or(|before| self.away.get(before).is_some_and(|gap| gap.1 <= from))
                && self.away.get(at).is_none_or(|gap| gap.1 > from)
        };
        if !first(self.at) {
            self.at = self.away.partition_point(|gap| gap.1 <= from);
        }
        let meeting = self.away.iter().skip(self.at).take_while(|gap| gap.0 < to);
        meeting.map(|gap| gap.1.min(to) - gap.0.max(from)).sum()
    }
}

/// All that cores noticed of time in which they were away.
#[derive(Debug)]
pub(super) struct Watch {
    cores: Vec<Watched>,
    kept: usize,
    /// A send window of this length is a gap of the sender; `u64::MAX`: none is.
    window: u64,
    /// [`OLDER_NS`] and [`SOON_NS`] in ticks; `None`: nobody knows how long a tick is.
    near: Option<(u64, u64)>,
}

impl Watch {
    /// Gathers what the records say.
    pub(super) fn gather(
        capture: &Capture,
        view: Option<&View>,
        watching: Option<Watching>,
        cores: usize,
    ) -> Result<Self, CaptureError> {
        let hz = view.map(|view| view.directory.counter_hz).filter(|hz| *hz > 0);
        let ticks = |ns: u64| Some(u64::try_from(u128::from(ns) * u128::from(hz?) / 1_000_000_000).unwrap_or(u64::MAX));
        let gap_ns = watching.map_or(0, |watching| watching.gap_ns);
        let mut watch = Watch {
            cores: std::iter::repeat_with(Watched::default).take(cores).collect(),
            kept: 0,
            window: ticks(gap_ns).filter(|gap| *gap > 0).unwrap_or(u64::MAX),
            near: ticks(OLDER_NS).zip(ticks(SOON_NS)),
        };
        // A second way through the records, where there can be any of these.
        let asked = watching.is_none_or(|watching| watching != Watching::default());
        let counted = |view: &&View| view.quiescent && view.cores.iter().all(|core| core.gaps == 0 && core.heartbeats == 0);
        if asked && view.filter(counted).is_none() {
            let mut next = vec![0; cores * LANES_PER_CORE];
            capture.lanes(|batch| watch.batch(batch, &mut next))?;
            watch.order();
        }
        Ok(watch)
    }

    fn batch(&mut self, batch: Batch<'_>, next: &mut [u64]) {
        let Batch::Records { core, context, first, bytes } = batch else { return };
        let place = usize::from(core) * LANES_PER_CORE + usize::from(context);
        let Some(next) = next.get_mut(place) else { return };
        // Records that were seen already would count twice.
        let skip = next.saturating_sub(first);
        let chunks = bytes.chunks_exact(RECORD_BYTES as usize);
        *next = (*next).max(first.saturating_add(chunks.len() as u64));
        for (chunk, index) in chunks.zip(first..).skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            /// Where a record has its kind.
            const KIND: usize = 12;
            let kind = chunk.get(KIND).copied().map(Kind::from_code);
            if !matches!(kind, Some(Kind::Gap | Kind::Heartbeat)) {
                continue;
            }
            if let Some(record) = chunk.first_chunk().and_then(|chunk| Record::from_bytes(chunk, index)) {
                self.record(core, &record.event);
            }
        }
    }

    fn record(&mut self, core: u16, event: &Event) {
        let room = self.kept < MOST_KEPT;
        let Some(watched) = self.cores.get_mut(usize::from(core)) else { return };
        if event.kind == Kind::Gap {
            let ticks = event.t.saturating_sub(event.arg);
            watched.numbered = watched.numbered.max(u64::from(event.msg) + 1);
            watched.ticks = watched.ticks.saturating_add(ticks);
            watched.longest = watched.longest.max(ticks);
            // One that ends before it began is damage.
            if room && ticks > 0 {
                let witness = Witness::from_code(event.extra);
                watched.gaps.push(Gap { core, from: event.arg, to: event.t, witness });
                self.kept += 1;
            }
        } else if room {
            watched.beats.push(Beat { t: event.t, due: event.arg, pending: event.msg });
            self.kept += 1;
        }
    }

    fn order(&mut self) {
        for watched in &mut self.cores {
            watched.gaps.sort_unstable_by_key(|gap| (gap.from, gap.to, gap.witness.code()));
            watched.beats.sort_unstable_by_key(|beat| (beat.t, beat.due, beat.pending));
            for gap in &watched.gaps {
                match watched.away.last_mut() {
                    Some(last) if gap.from <= last.1 => last.1 = last.1.max(gap.to),
                    _ => watched.away.push((gap.from, gap.to)),
                }
            }
        }
    }

    /// Whether the time between a send and its answer was taken from the receiver, or from the sender before its SGI left.
    /// `end`: of the send window.
    pub(super) fn excuse(&mut self, to: u16, sent: u64, entry: u64, end: Option<u64>) -> Option<Excuse> {
        let latency = entry.checked_sub(sent)?;
        // What the sender's own window explains.
        let from = match end.map(|end| end.saturating_sub(sent)) {
            Some(window) if window >= self.window => sent + window.min(latency),
            _ => sent,
        };
        let watched = self.cores.get_mut(usize::from(to)).filter(|watched| !watched.away.is_empty());
        let away = (from - sent) + watched.map_or(0, |watched| watched.away(from, entry));
        match away {
            0 => None,
            away if away > latency / 2 => Some(Excuse::Stolen),
            _ => Some(Excuse::Doubtful),
        }
    }

    /// Whether an SGI stood pending at its receiver until a heartbeat came, and was taken then.
    pub(super) fn recovered(&self, to: u16, intid: u8, sent: u64, entry: u64) -> bool {
        let beats = self.cores.get(usize::from(to)).map_or(&[][..], |watched| &watched.beats);
        let Some((older, soon)) = self.near.filter(|_| !beats.is_empty()) else { return false };
        let upto = beats.partition_point(|beat| beat.t <= entry);
        let near = beats.iter().take(upto).rev().take_while(|beat| entry - beat.t <= soon);
        // Older than the heartbeat is late, and a little more: it was there when the heartbeat became due.
        let waited = |beat: &Beat| sent.checked_add(older).is_some_and(|ready| ready <= beat.due.min(beat.t));
        near.into_iter().any(|beat| beat.pending.checked_shr(intid.into()).unwrap_or(0) & 1 == 1 && waited(beat))
    }

    /// The gaps of all cores, the first ones by time, and what each core counted.
    pub(super) fn finish(self, view: Option<&View>) -> (Vec<Gap>, Vec<GapTotals>) {
        let totals = (0..).zip(&self.cores).map(|(core, watched): (usize, _)| {
            let recorded = watched.gaps.len() as u64;
            let counted = view.and_then(|view| view.cores.get(core));
            let count = counted.map_or(0, |entry| entry.gaps).max(watched.numbered).max(recorded);
            GapTotals {
                count,
                ticks: counted.map_or(0, |entry| entry.gap_ticks).max(watched.ticks),
                longest: counted.map_or(0, |entry| entry.gap_longest).max(watched.longest),
                heartbeats: counted.map_or(0, |entry| entry.heartbeats),
                unrecorded: count - recorded,
            }
        });
        let totals = totals.collect();
        let mut gaps: Vec<Gap> = self.cores.into_iter().flat_map(|watched| watched.gaps).collect();
        gaps.sort_by_key(|gap| (gap.from, gap.to, gap.core));
        gaps.truncate(MOST_EVIDENCE);
        (gaps, totals)
    }
}
