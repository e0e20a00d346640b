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
use crate::capture::{Batch, Capture, CaptureError, tells_away};
use crate::correlate::MOST_EVIDENCE;

/// Gaps and heartbeats that are kept, of all cores together.
const MOST_KEPT: usize = 2 << 20;

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
        // Before all other records, where there can be any of these.
        let asked = watching.is_none_or(|watching| watching != Watching::default());
        let counted =
            |view: &&View| view.quiescent && view.cores.iter().all(|core| core.gaps == 0 && core.heartbeats == 0);
        if asked && view.filter(counted).is_none() {
            match capture.away() {
                Some(list) => list.for_each(|(core, index, record)| {
                    if let Some(record) = Record::from_bytes(record, index) {
                        watch.record(core, &record.event);
                    }
                }),
                // The writer was killed, or is of an older version: a second way through all records.
                None => {
                    let mut next = vec![0; cores * LANES_PER_CORE];
                    capture.lanes(|batch| watch.batch(batch, &mut next))?;
                }
            }
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
            if !tells_away(chunk) {
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
    #[inline]
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
    #[inline]
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
            let entry = view.and_then(|view| view.cores.get(core));
            let seen = watched.numbered.max(recorded);
            // The core's own counts, unless they were read before its last records were written.
            let (count, ticks, longest) = match entry.filter(|entry| entry.gaps >= seen) {
                Some(entry) => (entry.gaps, entry.gap_ticks, entry.gap_longest),
                None => (seen, watched.ticks, watched.longest),
            };
            let heartbeats = entry.map_or(0, |entry| entry.heartbeats);
            GapTotals { count, ticks, longest, heartbeats, unrecorded: count - recorded }
        });
        let totals = totals.collect();
        let mut gaps: Vec<Gap> = self.cores.into_iter().flat_map(|watched| watched.gaps).collect();
        gaps.sort_by_key(|gap| (gap.from, gap.to, gap.core));
        gaps.truncate(MOST_EVIDENCE);
        (gaps, totals)
    }
}

/// A message of a sweep that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Swept {
    line: usize,
    offset: i64,
}

/// One sweep as far as it came. A step is all distances that are equal but for their low `shift` bits.
#[derive(Debug)]
struct SweepLine {
    from: u16,
    to: u16,
    transition: u8,
    shift: u32,
    steps: BTreeMap<i64, SweepStep>,
}

impl SweepLine {
    fn step(&mut self, offset: i64) -> &mut SweepStep {
        let place = |shift: u32, steps: &BTreeMap<i64, SweepStep>| (offset >> shift, steps.len() >= SWEEP_STEPS);
        while let (key, true) = place(self.shift, &self.steps)
            && !self.steps.contains_key(&key)
        {
            self.shift += 1;
            for (_, step) in std::mem::take(&mut self.steps) {
                Self::join(self.steps.entry(step.offset >> self.shift), step);
            }
        }
        let empty = SweepStep { offset, sent: 0, timed: 0, min: u64::MAX, max: 0, given_up: 0 };
        let step = self.steps.entry(offset >> self.shift).or_insert(empty);
        step.offset = step.offset.min(offset);
        step
    }

    fn join(place: std::collections::btree_map::Entry<'_, i64, SweepStep>, step: SweepStep) {
        place
            .and_modify(|other| {
                *other = SweepStep {
                    offset: other.offset.min(step.offset),
                    sent: other.sent + step.sent,
                    timed: other.timed + step.timed,
                    min: other.min.min(step.min),
                    max: other.max.max(step.max),
                    given_up: other.given_up + step.given_up,
                };
            })
            .or_insert(step);
    }
}

/// Messages timed against a transition.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    /// The announcement whose send comes next, by core and context.
    announced: HashMap<(u16, u8), Event>,
    /// By flow and number.
    waiting: HashMap<(usize, u32), Swept>,
    lines: Vec<SweepLine>,
}

impl Sweeps {
    /// No message of a sweep is under way: the common case.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// No send is announced: the common case.
    #[inline]
    pub(super) fn expects_none(&self) -> bool {
        self.announced.is_empty()
    }

    /// The next send of this lane is one of a sweep.
    pub(super) fn announce(&mut self, core: u16, context: u8, event: &Event) {
        self.announced.insert((core, context), *event);
    }

    /// Records of a lane are missing: an announced send may be among them.
    pub(super) fn forget(&mut self, core: u16, context: u8) {
        self.announced.remove(&(core, context));
    }

    /// A send, after some announcement.
    pub(super) fn sent(&mut self, core: u16, context: u8, flow: usize, event: &Event) {
        let Some(sweep) = self.announced.remove(&(core, context)) else { return };
        if (sweep.peer, sweep.msg, sweep.intid) != (event.peer, event.msg, event.intid) {
            return;
        }
        let same = |line: &SweepLine| (line.from, line.to, line.transition) == (core, sweep.peer, sweep.extra);
        let line = self.lines.iter().position(same).unwrap_or_else(|| {
            let (to, transition) = (sweep.peer, sweep.extra);
            self.lines.push(SweepLine { from: core, to, transition, shift: 0, steps: BTreeMap::new() });
            self.lines.len() - 1
        });
        let offset = event.t.wrapping_sub(sweep.arg) as i64;
        if let Some(known) = self.lines.get_mut(line) {
            known.step(offset).sent += 1;
        }
        if self.waiting.len() < MOST_SWEPT {
            self.waiting.insert((flow, event.msg), Swept { line, offset });
        }
    }

    /// Messages up to the newest have their end. `latency`: of the newest, if it has one that counts.
    pub(super) fn ended(&mut self, flow: usize, newest: u32, count: u32, given_up: bool, latency: Option<u64>) {
        for older in 0..count.min(1024) {
            let Some(Swept { line, offset }) = self.waiting.remove(&(flow, newest.wrapping_sub(older))) else {
                continue;
            };
            let Some(step) = self.lines.get_mut(line).map(|line| line.step(offset)) else { continue };
            step.given_up += u64::from(given_up);
            if let Some(latency) = latency.filter(|_| older == 0) {
                step.timed += 1;
                step.min = step.min.min(latency);
                step.max = step.max.max(latency);
            }
        }
    }

    /// The sweeps, by sender, receiver and transition.
    pub(super) fn finish(self) -> Vec<Sweep> {
        let sweep = |line: SweepLine| {
            let SweepLine { from, to, transition, steps, .. } = line;
            // Nothing was measured there: no least of nothing.
            let step = |step: SweepStep| SweepStep { min: if step.timed == 0 { 0 } else { step.min }, ..step };
            Sweep { from, to, transition, steps: steps.into_values().map(step).collect() }
        };
        let mut sweeps: Vec<Sweep> = self.lines.into_iter().map(sweep).collect();
        sweeps.sort_by_key(|sweep| (sweep.from, sweep.to, sweep.transition));
        sweeps
    }
}

/// Latencies over time while they come, in whatever order: a piece's number is its time without the low `shift` bits, and its
/// place the number without the high ones, so that pieces stay where they are while the run gets longer at either end.
#[derive(Debug)]
pub(super) struct Pieces {
    shift: u32,
    /// First and last piece.
    range: Option<(u64, u64)>,
    lines: Vec<Option<Box<[SeriesPoint; SERIES_PIECES]>>>,
}

impl Pieces {
    pub(super) fn new(cores: usize) -> Self {
        Pieces { shift: 0, range: None, lines: vec![None; cores] }
    }

    /// A latency that ended at `t`.
    #[inline]
    pub(super) fn add(&mut self, core: u16, t: u64, latency: u64) {
        if self.range.is_none_or(|(first, last)| !(first..=last).contains(&(t >> self.shift))) {
            self.reach(t);
        }
        let Some(line) = self.lines.get_mut(usize::from(core)) else { return };
        let line = line.get_or_insert_with(|| Box::new([SeriesPoint::default(); SERIES_PIECES]));
        if let Some(point) = line.get_mut((t >> self.shift) as usize % SERIES_PIECES) {
            *point = point.with(SeriesPoint { n: 1, sum: latency, min: latency, max: latency });
        }
    }

    #[cold]
    fn reach(&mut self, t: u64) {
        loop {
            let piece = t >> self.shift;
            let (first, last) = self.range.map_or((piece, piece), |(first, last)| (first.min(piece), last.max(piece)));
            if last - first < SERIES_PIECES as u64 {
                self.range = Some((first, last));
                return;
            }
            self.double();
        }
    }

    /// Pieces become twice as long.
    fn double(&mut self) {
        self.shift += 1;
        let Some((first, last)) = self.range else { return };
        self.range = Some((first >> 1, last >> 1));
        for line in self.lines.iter_mut().flatten() {
            let mut joined = [SeriesPoint::default(); SERIES_PIECES];
            for piece in first..=last {
                let point = line.get(piece as usize % SERIES_PIECES).copied().unwrap_or_default();
                if let Some(place) = joined.get_mut((piece >> 1) as usize % SERIES_PIECES) {
                    *place = place.with(point);
                }
            }
            **line = joined;
        }
    }

    pub(super) fn finish(self) -> Series {
        let Some((first, last)) = self.range else { return Series::default() };
        let line = |(core, line): (u16, Option<Box<[SeriesPoint; SERIES_PIECES]>>)| {
            let line = line?;
            let point = |piece: u64| line.get(piece as usize % SERIES_PIECES).copied().unwrap_or_default();
            Some(SeriesLine { core, points: (first..=last).map(point).collect() })
        };
        let receivers = (0..).zip(self.lines).filter_map(line).collect();
        Series { piece_ticks: 1 << self.shift, start: first << self.shift, receivers }
    }
}

impl SeriesPoint {
    fn with(self, other: SeriesPoint) -> SeriesPoint {
        match (self.n, other.n) {
            (_, 0) => self,
            (0, _) => other,
            _ => SeriesPoint {
                n: self.n + other.n,
                sum: self.sum.saturating_add(other.sum),
                min: self.min.min(other.min),
                max: self.max.max(other.max),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(gaps: &[(u64, u64)], beats: &[(u64, u64, u32)]) -> Watch {
        let mut watch = Watch { cores: vec![Watched::default()], kept: 0, window: 500, near: Some((50, 200)) };
        for (msg, (from, to)) in (0..).zip(gaps) {
            let event = Event { t: *to, kind: Kind::Gap, flags: 0, peer: 0, msg, intid: 0, extra: 0, arg: *from };
            watch.record(0, &event);
        }
        for (t, due, pending) in beats {
            let (kind, msg) = (Kind::Heartbeat, *pending);
            watch.record(0, &Event { t: *t, kind, flags: 0, peer: 0, msg, intid: 0, extra: 0, arg: *due });
        }
        watch.order();
        watch
    }

    #[test]
    fn what_a_gap_covers_for_the_greater_part_is_stolen_and_what_it_covers_less_is_doubtful() {
        // Two witnesses of the same time count once.
        let mut watch = watch(&[(5000, 6000), (1000, 2000), (1500, 2100)], &[]);
        for (sent, entry, expected) in [
            (100, 900, None),
            (100, 1000, None),
            (100, 1001, Some(Excuse::Doubtful)),
            (100, 2050, Some(Excuse::Stolen)),
            // Exactly half is not the greater part.
            (0, 2000, Some(Excuse::Doubtful)),
            (1, 2000, Some(Excuse::Stolen)),
            // Short, at the end of a gap.
            (2090, 2104, Some(Excuse::Stolen)),
            (2095, 2130, Some(Excuse::Doubtful)),
            (2100, 2130, None),
            (1000, 6000, Some(Excuse::Doubtful)),
            (4999, 7001, Some(Excuse::Doubtful)),
            (4999, 6999, Some(Excuse::Doubtful)),
            (4999, 6998, Some(Excuse::Stolen)),
            (7000, 9000, None),
            (300, 300, None),
            (400, 300, None),
        ] {
            assert_eq!(watch.excuse(0, sent, entry, None), expected, "{sent} to {entry}");
        }
        assert_eq!(watch.excuse(9, 1000, 2000, None), None, "nobody watched that core");
    }

    #[test]
    fn a_send_window_as_long_as_a_gap_is_one_and_overlaps_count_once() {
        let mut watch = watch(&[(1200, 1700)], &[]);
        assert_eq!(watch.excuse(0, 100, 1000, Some(599)), None);
        assert_eq!(watch.excuse(0, 100, 1000, Some(600)), Some(Excuse::Stolen));
        assert_eq!(watch.excuse(0, 100, 1100, Some(600)), Some(Excuse::Doubtful));
        // The window goes on behind the answer.
        assert_eq!(watch.excuse(0, 100, 110, Some(9000)), Some(Excuse::Stolen));
        // 700 of window and 500 of gap share 200 of 2,200.
        assert_eq!(watch.excuse(0, 700, 2900, Some(1400)), Some(Excuse::Doubtful));
        assert_eq!(watch.excuse(0, 700, 2690, Some(1400)), Some(Excuse::Stolen));
    }

    #[test]
    fn an_sgi_is_recovered_where_it_was_pending_before_the_heartbeat_was_due_and_is_taken_right_after_it() {
        let watch = watch(&[], &[(10_010, 10_000, 0b10), (20_900, 20_000, 0b10)]);
        for (intid, sent, entry, expected) in [
            (1, 9000, 10_020, true),
            (0, 9000, 10_020, false),
            (40, 9000, 10_020, false),
            (1, 9950, 10_020, true),
            (1, 9951, 10_020, false),
            (1, 9000, 10_210, true),
            (1, 9000, 10_211, false),
            (1, 9000, 10_009, false),
            // The heartbeat itself was late: the core was away, and the message came meanwhile.
            (1, 20_500, 20_910, false),
            (1, 19_900, 20_910, true),
        ] {
            assert_eq!(watch.recovered(0, intid, sent, entry), expected, "INTID {intid}, {sent} to {entry}");
        }
    }

    #[test]
    fn gaps_without_a_record_are_counted() {
        let mut watch = watch(&[(10, 20), (40, 45)], &[]);
        let event = Event { t: 99, kind: Kind::Gap, flags: 0, peer: 0, msg: 6, intid: 0, extra: 1, arg: 90 };
        watch.record(0, &event);
        let (gaps, totals) = watch.finish(None);
        assert_eq!(gaps.last(), Some(&Gap { core: 0, from: 90, to: 99, witness: Witness::Loop }));
        let expected = GapTotals { count: 7, ticks: 24, longest: 10, heartbeats: 0, unrecorded: 4 };
        assert_eq!(totals, [expected]);
    }

    #[test]
    fn pieces_of_a_series_are_the_same_in_whatever_order_latencies_come() {
        let points: Vec<(u16, u64, u64)> =
            (0..5000_u64).map(|index| ((index % 3) as u16, 77_000 + index * 977 % 90_001, index % 50 + 1)).collect();
        let series = |points: &mut dyn Iterator<Item = &(u16, u64, u64)>| {
            let mut pieces = Pieces::new(4);
            points.for_each(|(core, t, latency)| pieces.add(*core, *t, *latency));
            pieces.finish()
        };
        let forth = series(&mut points.iter());
        assert_eq!(forth, series(&mut points.iter().rev()));
        assert_eq!(forth.piece_ticks, 1024);
        let lengths: Vec<usize> = forth.receivers.iter().map(|line| line.points.len()).collect();
        assert_eq!(lengths, [forth.receivers[0].points.len(); 3]);
        assert!((64..=SERIES_PIECES).contains(&lengths[0]), "{lengths:?}");
        let all = || forth.receivers.iter().flat_map(|line| &line.points);
        assert_eq!(all().map(|point| point.n).sum::<u64>(), 5000);
        assert_eq!(all().map(|point| point.sum).sum::<u64>(), points.iter().map(|point| point.2).sum::<u64>());
        // Each in its own piece.
        let (core, t, latency) = points[1234];
        let at = ((t - forth.start) / forth.piece_ticks) as usize;
        let point = forth.receivers[usize::from(core)].points[at];
        assert!(point.n > 0 && point.min <= latency && latency <= point.max);
        assert_eq!(Pieces::new(2).finish(), Series::default());
        // The ends of time.
        let mut pieces = Pieces::new(1);
        pieces.add(0, 0, 1);
        pieces.add(0, u64::MAX, 2);
        assert_eq!(pieces.finish().piece_ticks, 1 << 57);
    }

    #[test]
    fn a_sweep_joins_neighbours_where_it_has_too_many_steps_in_whatever_order_they_come() {
        let steps: Vec<i64> = (0..600).map(|step: i64| (step * 389 % 600 - 300) * 3).collect();
        let sweep = |steps: &mut dyn Iterator<Item = &i64>| {
            let mut sweeps = Sweeps::default();
            for (msg, offset) in (1..).zip(steps) {
                let t = 10_000_u64.wrapping_add_signed(*offset);
                let event = Event { t, kind: Kind::Sweep, flags: 0, peer: 1, msg, intid: 0, extra: 2, arg: 10_000 };
                sweeps.announce(0, 0, &event);
                sweeps.sent(0, 0, 7, &Event { kind: Kind::Send, extra: 0, arg: 0, ..event });
                let latency = 20 + offset.unsigned_abs();
                sweeps.ended(7, msg, 1, *offset == 0, (*offset != 0).then_some(latency));
            }
            sweeps.finish()
        };
        let forth = sweep(&mut steps.iter());
        assert_eq!(forth, sweep(&mut steps.iter().rev()));
        let [line] = forth.as_slice() else { panic!("{forth:?}") };
        assert_eq!((line.from, line.to, line.transition), (0, 1, 2));
        // 1,800 ticks in pieces of eight.
        assert!(line.steps.len() > SWEEP_STEPS / 2 && line.steps.len() <= SWEEP_STEPS, "{}", line.steps.len());
        assert!(line.steps.is_sorted_by_key(|step| step.offset));
        assert_eq!(line.steps.iter().map(|step| step.sent).sum::<u64>(), 600);
        assert_eq!(line.steps.iter().map(|step| step.timed).sum::<u64>(), 599);
        assert_eq!(line.steps.iter().map(|step| step.given_up).sum::<u64>(), 1);
        assert_eq!((line.steps[0].offset, line.steps[0].max), (-900, 920));
    }
}
