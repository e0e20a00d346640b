//! The matrix of the live view: what the counters say of each pair, and which pairs share a cell where there are more than the
//! terminal has room for.
//!
//! A cell of several pairs shows the worst of them, and the sum where it counts: nobody's lateness is averaged away.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use trace_ring::histogram;
use trace_ring::layout::{Directory, HISTOGRAM_BYTES, NO_HISTOGRAM, PairSlot};

use super::State;
use crate::detect;
use crate::stats::Figures;

/// What cells show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// The latency that half of the IPIs do not exceed.
    #[default]
    Median,
    /// The latency that 99 of 100 do not exceed.
    P99,
    /// The greatest latency.
    Max,
    /// The mean latency.
    Mean,
    /// IPIs a second.
    Rate,
    /// IPIs that were lost.
    Lost,
}

impl Metric {
    /// All, in the order of their key.
    pub const ALL: [Metric; 6] = [Metric::Median, Metric::P99, Metric::Max, Metric::Mean, Metric::Rate, Metric::Lost];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Median => "median latency",
            Metric::P99 => "p99 latency",
            Metric::Max => "greatest latency",
            Metric::Mean => "mean latency",
            Metric::Rate => "IPIs a second",
            Metric::Lost => "lost IPIs",
        }
    }

    /// The next, or the one before.
    pub fn step(self, back: bool) -> Metric {
        let at = Metric::ALL.iter().position(|metric| *metric == self).unwrap_or(0);
        let by = if back { Metric::ALL.len() - 1 } else { 1 };
        Metric::ALL.get((at + by) % Metric::ALL.len()).copied().unwrap_or_default()
    }

    /// Whether it is a time, ns.
    pub const fn is_latency(self) -> bool {
        !matches!(self, Metric::Rate | Metric::Lost)
    }
}

/// What the counters say of one pair, in the phases that are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairFigures {
    /// Messages sent, delivered, coalesced, lost, unknown.
    pub sent: u64,
    /// See above.
    pub delivered: u64,
    /// See above.
    pub coalesced: u64,
    /// See above.
    pub lost: u64,
    /// See above.
    pub unknown: u64,
    /// Latencies measured.
    pub timed: u64,
    /// Their least, ns.
    pub min: Option<f64>,
    /// Their mean, ns.
    pub mean: Option<f64>,
    /// Their greatest, ns.
    pub max: Option<f64>,
    /// By the target's histograms, buckets of 12.5 %, ns. `None`: the pair has none, or none came yet.
    pub median: Option<f64>,
    /// See above.
    pub p99: Option<f64>,
    /// Sent a second, since the counters were last seen.
    pub rate: Option<f64>,
}

impl PairFigures {
    /// What a cell shows of it.
    pub const fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Median => self.median,
            Metric::P99 => self.p99,
            Metric::Max => self.max,
            Metric::Mean => self.mean,
            Metric::Rate => self.rate,
            Metric::Lost if self.sent == 0 => None,
            Metric::Lost => Some(self.lost as f64),
        }
    }
}

/// All pairs of the phases that are shown.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    figures: HashMap<(u16, u16), PairFigures>,
    /// The cores that send or receive, or will.
    pub cores: Vec<u16>,
}

/// The counters at two times.
#[derive(Clone, Copy, Debug)]
pub struct Counters<'a> {
    /// The region's directory.
    pub directory: &'a Directory,
    /// The pair slots.
    pub slots: &'a [PairSlot],
    /// What was sent when they were last seen, slot by slot, and how long ago that was.
    pub before: &'a [u64],
    /// See above.
    pub since: Duration,
    /// The newest snapshot of all that lies before the records; empty: there is none.
    pub prefix: &'a [u8],
}

impl<'a> Counters<'a> {
    /// The newest; `None`: there are none yet.
    pub fn of(state: &'a State) -> Option<Counters<'a>> {
        let moment = state.moment.as_ref()?;
        let State { before, since, prefix, .. } = state;
        Some(Counters { directory: &moment.directory, slots: &moment.slots, before, since: *since, prefix })
    }
}

/// Sums over the slots of one pair.
#[derive(Default)]
struct Sum {
    figures: PairFigures,
    ticks: u64,
    min: u64,
    max: u64,
    before: u64,
    histograms: Vec<usize>,
    uncounted: bool,
}

impl Pairs {
    /// Of one phase; `None`: of all.
    pub fn of(counters: &Counters<'_>, phase: Option<usize>) -> Pairs {
        let mut sums: HashMap<(u16, u16), Sum> = HashMap::new();
        let mut cores = BTreeSet::new();
        for (index, slot) in counters.slots.iter().enumerate() {
            if phase.is_some_and(|phase| usize::from(slot.phase) != phase) {
                continue;
            }
            // Rows and columns stay where they are from the phase's begin on.
            cores.extend([slot.from, slot.to]);
            if slot.sent == 0 {
                continue;
            }
            let sum = sums.entry((slot.from, slot.to)).or_insert_with(|| Sum { min: u64::MAX, ..Sum::default() });
            let figures = &mut sum.figures;
            figures.sent = figures.sent.wrapping_add(slot.sent);
            figures.delivered = figures.delivered.wrapping_add(slot.delivered);
            figures.coalesced = figures.coalesced.wrapping_add(slot.coalesced);
            figures.lost = figures.lost.wrapping_add(slot.lost);
            figures.unknown = figures.unknown.wrapping_add(slot.unknown);
            // Without a latency `min` is u64::MAX.
            if slot.min != u64::MAX {
                figures.timed = figures.timed.wrapping_add(slot.timed());
                sum.ticks = sum.ticks.wrapping_add(slot.sum);
                sum.min = sum.min.min(slot.min);
                sum.max = sum.max.max(slot.max);
                match slot.histogram {
                    NO_HISTOGRAM => sum.uncounted = true,
                    index => sum.histograms.push(index as usize),
                }
            }
            sum.before = sum.before.wrapping_add(counters.before.get(index).copied().unwrap_or(0));
        }
        let hz = counters.directory.counter_hz.max(1) as f64;
        let ns = |ticks: f64| ticks * 1e9 / hz;
        let figures = sums.into_iter().map(|(pair, sum)| {
            let mut figures = sum.figures;
            if figures.timed > 0 {
                figures.min = Some(ns(sum.min as f64));
                figures.max = Some(ns(sum.max as f64));
                figures.mean = Some(ns(sum.ticks as f64 / figures.timed as f64));
            }
            if !sum.uncounted
                && let Some(spread) = spread(counters, &sum.histograms, sum.min, sum.max)
            {
                figures.median = spread.quantile(0.5).map(|ticks| ns(ticks as f64));
                figures.p99 = spread.quantile(0.99).map(|ticks| ns(ticks as f64));
            }
            let seconds = counters.since.as_secs_f64();
            figures.rate = (seconds > 0.0).then(|| figures.sent.saturating_sub(sum.before) as f64 / seconds);
            (pair, figures)
        });
        Pairs { figures: figures.collect(), cores: cores.into_iter().collect() }
    }

    /// What is known of a pair.
    pub fn get(&self, from: u16, to: u16) -> Option<&PairFigures> {
        self.figures.get(&(from, to))
    }

    /// What a cell of senders and receivers shows, with the pair that it is of.
    pub fn cell(&self, from: &[u16], to: &[u16], metric: Metric) -> Option<Cell> {
        let pairs = from.iter().flat_map(|from| to.iter().map(|to| (*from, *to)));
        let known = pairs.filter_map(|(from, to)| Some((self.get(from, to)?.value(metric)?, (from, to))));
        known.fold(None, |cell, (value, pair)| {
            Some(match cell {
                None => Cell { value, of: pair },
                Some(Cell { value: before, of }) => {
                    let of = if value > before { pair } else { of };
                    let value = if metric.is_latency() { value.max(before) } else { value + before };
                    Cell { value, of }
                }
            })
        })
    }
}

/// How the latencies of some slots spread; `None`: the snapshot has nothing of them.
fn spread(counters: &Counters<'_>, indices: &[usize], min: u64, max: u64) -> Option<Figures> {
    let size = HISTOGRAM_BYTES as usize;
    let begin = usize::try_from(counters.directory.sections.histograms).ok()?;
    let mut counts = vec![0_u32; histogram::STRIDE].into_boxed_slice();
    for index in indices {
        let at = begin.checked_add(index.checked_mul(size)?)?;
        let bytes = counters.prefix.get(at..at.checked_add(size)?)?;
        for (count, bytes) in counts.iter_mut().zip(bytes.chunks_exact(4)) {
            *count = count.saturating_add(u32::from_le_bytes(bytes.try_into().ok()?));
        }
    }
    let timed = counts.iter().map(|count| u64::from(*count)).sum();
    (timed > 0).then_some(Figures::Buckets { counts, min, max, sum: 0, timed })
}

/// A cell's value, and the pair that has it (of a sum: the most of it).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// ns, IPIs a second, or IPIs.
    pub value: f64,
    /// Sender and receiver.
    pub of: (u16, u16),
}

/// The cores of each row and column, neighbours together where there are too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Vec<Vec<u16>>);

impl Groups {
    /// So many groups at most, of as many cores each: 1, 2, 4, 8 and so on, as clusters are built.
    pub fn of(cores: &[u16], most: usize) -> Groups {
        let mut size = 1;
        while cores.len().div_ceil(size) > most.max(1) {
            size *= 2;
        }
        Groups(cores.chunks(size).map(<[u16]>::to_vec).collect())
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cores of a group.
    pub fn get(&self, index: usize) -> &[u16] {
        self.0.get(index).map_or(&[], Vec::as_slice)
    }

    /// Whether groups hold more than one core.
    pub fn are_many(&self) -> bool {
        self.0.first().is_some_and(|group| group.len() > 1)
    }

    /// What stands beside a group: `3`, or `8-15`.
    pub fn label(&self, index: usize) -> String {
        match self.get(index) {
            [] => String::new(),
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
        }
    }

    /// The group that a core is in.
    pub fn find(&self, core: u16) -> Option<usize> {
        self.0.iter().position(|group| group.contains(&core))
    }
}

/// A value in at most so many columns: `1.2u`, `380n`, `41k`.
pub fn brief(value: f64, metric: Metric) -> String {
    let scaled = |value: f64, unit: &str| {
        let digits = if value < 9.95 && !unit.is_empty() { 1 } else { 0 };
        format!("{value:.digits$}{unit}")
    };
    if metric.is_latency() {
        return match value {
            value if value < 999.5 => scaled(value.round(), "n").replace(".0", ""),
            value if value < 999.5e3 => scaled(value / 1e3, "u"),
            value if value < 999.5e6 => scaled(value / 1e6, "m"),
            value => scaled(value / 1e9, "s"),
        };
    }
    match value {
        value if value < 999.5 => format!("{value:.0}"),
        value if value < 999.5e3 => scaled(value / 1e3, "k"),
        value if value < 999.5e6 => scaled(value / 1e6, "M"),
        value => scaled(value / 1e9, "G"),
    }
}

/// A value in words, with its unit.
pub fn words(value: f64, metric: Metric, resolution_ns: f64) -> String {
    match metric {
        Metric::Rate => format!("{value:.0}/s"),
        Metric::Lost => format!("{value:.0}"),
        _ => detect::duration(value, resolution_ns),
    }
}

/// Where a value stands between the least and the greatest that are shown, 0 to `steps - 1`, by powers.
pub fn step(value: f64, range: &Range<f64>, steps: usize) -> usize {
    let last = steps.saturating_sub(1);
    let (low, high) = (range.start.max(1e-3).ln(), range.end.max(1e-3).ln());
    // Figures within a few percent of each other are alike: no colours where there is nothing to see.
    if high - low < 0.05 {
        return 0;
    }
    let share = (value.max(1e-3).ln() - low) / (high - low);
    ((share * last as f64).round().max(0.0) as usize).min(last)
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    fn slot(from: u16, to: u16, phase: u16, latencies: &[u64]) -> PairSlot {
        let mut slot = PairSlot::new_zeroed();
        (slot.from, slot.to, slot.phase, slot.histogram) = (from, to, phase, NO_HISTOGRAM);
        slot.sent = latencies.len() as u64;
        slot.delivered = slot.sent;
        slot.sum = latencies.iter().sum();
        slot.min = latencies.iter().copied().min().unwrap_or(u64::MAX);
        slot.max = latencies.iter().copied().max().unwrap_or(0);
        slot
    }

    fn directory() -> Directory {
        let mut directory = Directory::new_zeroed();
        directory.counter_hz = 500_000_000;
        directory
    }

    fn pairs(slots: &[PairSlot], phase: Option<usize>, prefix: &[u8]) -> Pairs {
        let directory = directory();
        let before: Vec<u64> = slots.iter().map(|_| 1).collect();
        let counters =
            Counters { directory: &directory, slots, before: &before, since: Duration::from_secs(2), prefix };
        Pairs::of(&counters, phase)
    }

    #[test]
    fn figures_are_those_of_the_phase_in_nanoseconds() {
        let slots = [slot(0, 1, 0, &[100, 200]), slot(0, 1, 1, &[5000, 5000, 5000]), slot(1, 0, 0, &[])];
        let one = pairs(&slots, Some(0), &[]);
        let figures = one.get(0, 1).expect("was measured");
        assert_eq!((figures.min, figures.mean, figures.max), (Some(200.0), Some(300.0), Some(400.0)));
        assert_eq!((figures.sent, figures.timed, figures.rate), (2, 2, Some(0.5)));
        // Nothing is said of percentiles that no histogram tells, nor of pairs that sent nothing.
        assert_eq!((figures.median, figures.p99, one.get(1, 0)), (None, None, None));
        assert_eq!(one.cores, [0, 1]);
        let all = pairs(&slots, None, &[]);
        assert_eq!(all.get(0, 1).and_then(|figures| figures.max), Some(10_000.0));
    }

    #[test]
    fn percentiles_come_from_the_histograms_of_all_slots_of_the_pair() {
        let mut counts = [[0_u32; histogram::STRIDE]; 2];
        counts[0][histogram::bucket(100)] = 90;
        counts[1][histogram::bucket(7)] = 8;
        counts[1][histogram::bucket(1000)] = 2;
        let mut slots = [slot(2, 3, 0, &[100; 90]), slot(2, 3, 0, &[7, 7, 7, 7, 7, 7, 7, 7, 1000, 1000])];
        (slots[0].histogram, slots[1].histogram) = (0, 1);
        let prefix = counts.as_bytes();
        let known = pairs(&slots, None, prefix);
        let figures = known.get(2, 3).expect("was measured");
        let upper = |ticks: u64| histogram::upper(histogram::bucket(ticks)) as f64 * 2.0;
        assert_eq!(figures.median, Some(upper(100)));
        assert_eq!(figures.p99, Some(2000.0), "the greatest is known exactly");
        // A snapshot that ends before them tells nothing.
        assert_eq!(pairs(&slots, None, &prefix[..100]).get(2, 3).and_then(|figures| figures.median), None);
    }

    #[test]
    fn a_cell_of_many_pairs_shows_the_worst_and_whose_it_is() {
        let mut slots = [slot(0, 2, 0, &[10]), slot(1, 2, 0, &[70]), slot(1, 3, 0, &[20])];
        (slots[0].lost, slots[2].lost) = (3, 4);
        let known = pairs(&slots, None, &[]);
        assert_eq!(known.cell(&[0, 1], &[2, 3], Metric::Max), Some(Cell { value: 140.0, of: (1, 2) }));
        assert_eq!(known.cell(&[0, 1], &[2, 3], Metric::Lost), Some(Cell { value: 7.0, of: (1, 3) }));
        assert_eq!(known.cell(&[2], &[0, 1], Metric::Max), None);
    }

    #[test]
    fn groups_are_powers_of_two_and_fit() {
        let cores: Vec<u16> = (0..64).collect();
        let groups = Groups::of(&cores, 10);
        assert_eq!((groups.len(), groups.label(1), groups.find(63)), (8, "8-15".to_string(), Some(7)));
        assert!(groups.are_many());
        let all = Groups::of(&cores, 64);
        assert_eq!((all.len(), all.label(63), all.are_many()), (64, "63".to_string(), false));
        assert_eq!(Groups::of(&cores, 0).len(), 1);
        assert!(Groups::of(&[], 5).is_empty());
    }

    #[test]
    fn values_are_brief() {
        let latency = |value| brief(value, Metric::Max);
        assert_eq!((latency(8.0), latency(380.4), latency(1234.0)), ("8n".into(), "380n".into(), "1.2u".into()));
        assert_eq!(
            (latency(12_345.0), latency(999_600.0), latency(2.5e9)),
            ("12u".into(), "1.0m".into(), "2.5s".into())
        );
        let count = |value| brief(value, Metric::Rate);
        assert_eq!((count(0.0), count(41_234.0), count(1.26e6)), ("0".into(), "41k".into(), "1.3M".into()));
    }

    #[test]
    fn steps_are_by_powers_and_alike_where_nothing_differs() {
        let range = 100.0..10_000.0;
        assert_eq!([100.0, 1000.0, 10_000.0, 1e9].map(|value| step(value, &range, 9)), [0, 4, 8, 8]);
        assert_eq!(step(101.0, &(100.0..102.0), 9), 0);
        assert_eq!(step(0.0, &(0.0..0.0), 9), 0);
    }
}
