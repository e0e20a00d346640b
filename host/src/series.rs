//! How a long run went over time, from the target's counters: what is left of drift when no records were kept.
//!
//! While a plan runs, the counters of all pairs are added up by receiver now and then. At most [`MOST_POINTS`] points are kept:
//! when there is room for no more, every other one is dropped, and the time between two doubles. A run of any length
//! thus comes in 256 to 512 points. Points hold what was counted from the begin of the plan on, so that dropping one loses no
//! message: what lies between two is their difference.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use trace_ring::layout::PairSlot;

/// The most points of a series.
pub const MOST_POINTS: usize = 512;

/// Between the first points.
const FIRST: Duration = Duration::from_millis(100);

/// Shorter runs have no series: their records tell more.
const LEAST: Duration = Duration::from_secs(10);

/// Counters over time. All columns are as long as `at_ns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// When, ns after the plan was first seen to run, by the host's clock.
    pub at_ns: Vec<u64>,
    /// The receivers of the plan, by core.
    pub receivers: Vec<Receiver>,
}

/// What was counted of the IPIs to one core, until each point.
///
/// The counters are read one after the other while they move: at a point `n` and `sum` may be an IPI or two apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// The core.
    pub core: u16,
    /// Latencies that were measured.
    pub n: Vec<u64>,
    /// Their sum, ticks, wrapping.
    pub sum: Vec<u64>,
    /// The greatest until then, ticks; 0 while there is none.
    pub max: Vec<u64>,
    /// Messages retired as lost.
    pub lost: Vec<u64>,
}

impl Series {
    /// Whether all columns have a value for each point.
    pub fn is_whole(&self) -> bool {
        let points = self.at_ns.len();
        self.receivers.iter().all(|receiver| {
            [&receiver.n, &receiver.sum, &receiver.max, &receiver.lost].iter().all(|column| column.len() == points)
        })
    }

    /// What the counters say at a moment. The first point says who the receivers are.
    fn push(&mut self, at_ns: u64, slots: &[PairSlot]) {
        let mut totals: BTreeMap<u16, [u64; 4]> = BTreeMap::new();
        for slot in slots {
            let [n, sum, max, lost] = totals.entry(slot.to).or_default();
            *n = n.wrapping_add(slot.timed());
            *sum = sum.wrapping_add(slot.sum);
            *lost = lost.wrapping_add(slot.lost);
            // Without a latency `min` is u64::MAX.
            if slot.min != u64::MAX {
                *max = (*max).max(slot.max);
            }
        }
        if self.at_ns.is_empty() {
            self.receivers = totals.keys().map(|core| Receiver { core: *core, ..Receiver::default() }).collect();
        }
        self.at_ns.push(at_ns);
        for receiver in &mut self.receivers {
            let [n, sum, max, lost] = totals.get(&receiver.core).copied().unwrap_or_default();
            receiver.n.push(n);
            receiver.sum.push(sum);
            receiver.max.push(max);
            receiver.lost.push(lost);
        }
    }

    /// Drops the second, the fourth and so on.
    fn thin(&mut self) {
        let halve = |column: &mut Vec<u64>| {
            let mut index = 0;
            column.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        };
        halve(&mut self.at_ns);
        for receiver in &mut self.receivers {
            [&mut receiver.n, &mut receiver.sum, &mut receiver.max, &mut receiver.lost].into_iter().for_each(halve);
        }
    }
}

/// Gathers a series while a plan runs.
#[derive(Debug)]
pub struct Collector {
    series: Series,
    began: Option<Instant>,
    every: Duration,
    next: Option<Instant>,
}

impl Default for Collector {
    fn default() -> Collector {
        Collector { series: Series::default(), began: None, every: FIRST, next: None }
    }
}

impl Collector {
    /// Whether the counters shall be looked at. Call it from the begin of the plan on.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.began.get_or_insert(now);
        self.next.is_none_or(|next| now >= next)
    }

    /// What they said; `cost`: how long it took to ask them, which may be a `part`th of the time between two looks. True:
    /// the series was thinned, and is worth keeping in case that this process does not live to its end.
    pub fn add(&mut self, now: Instant, slots: &[PairSlot], cost: Duration, part: u32) -> bool {
        let began = *self.began.get_or_insert(now);
        self.next = Some(now + self.every.max(cost.saturating_mul(part)));
        let since = u64::try_from(now.saturating_duration_since(began).as_nanos()).unwrap_or(u64::MAX);
        self.series.push(since, slots);
        let full = self.series.at_ns.len() >= MOST_POINTS;
        if full {
            self.series.thin();
            self.every = self.every.saturating_mul(2);
        }
        full
    }

    /// The series so far.
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// The series of a run that was long enough, with what the counters said at the end.
    pub fn finish(mut self, now: Instant, slots: &[PairSlot]) -> Option<Series> {
        let began = self.began.filter(|began| now.saturating_duration_since(*began) >= LEAST)?;
        let since = u64::try_from(now.saturating_duration_since(began).as_nanos()).unwrap_or(u64::MAX);
        self.series.push(since, slots);
        Some(self.series)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn slots(n: u64) -> [PairSlot; 3] {
        let slot = |to: u16, delivered: u64, max: u64, lost: u64| PairSlot {
            to,
            delivered,
            sum: delivered * 10,
            min: if delivered == 0 { u64::MAX } else { 1 },
            max,
            lost,
            ..PairSlot::new_zeroed()
        };
        [slot(2, n, 30 + n, 0), slot(1, 2 * n, 70, 1), slot(2, 0, 999_999, 4)]
    }

    #[test]
    fn counters_are_added_up_by_receiver() {
        let mut series = Series::default();
        series.push(5, &slots(3));
        series.push(9, &slots(4));
        let expected = [
            Receiver { core: 1, n: vec![6, 8], sum: vec![60, 80], max: vec![70, 70], lost: vec![1, 1] },
            Receiver { core: 2, n: vec![3, 4], sum: vec![30, 40], max: vec![33, 34], lost: vec![4, 4] },
        ];
        assert_eq!((series.at_ns.as_slice(), series.receivers.as_slice()), (&[5, 9][..], &expected[..]));
    }

    #[test]
    fn a_run_of_any_length_comes_in_a_bounded_number_of_even_points_from_its_begin_to_its_end() {
        let zero = Instant::now();
        for seconds in [11, 60, 3600, 3 * 86_400] {
            let mut collector = Collector::default();
            let (mut now, mut kept, mut looks) = (zero, 0, 0_u64);
            while now < zero + Duration::from_secs(seconds) {
                if collector.is_due(now) {
                    looks += 1;
                    kept +=
                        u32::from(collector.add(now, &slots(now.duration_since(zero).as_secs()), Duration::ZERO, 20));
                }
                now += collector.every / 10;
            }
            let series = collector.finish(now, &slots(seconds)).expect("is long enough");
            assert!(series.is_whole(), "{seconds} s");
            let points = series.at_ns.len();
            assert!((100..=MOST_POINTS).contains(&points), "{points} points of {seconds} s");
            assert!(seconds < 60 || points >= MOST_POINTS / 2, "{points} points of {seconds} s");
            assert!(kept < 20 && looks < 10_000, "{looks} looks, kept {kept} times");
            assert_eq!(series.at_ns.first(), Some(&0));
            assert_eq!(series.receivers[1].n.last(), Some(&seconds));
            // But for the last one, the points lie evenly.
            let steps: Vec<u64> = series.at_ns[..points - 1].windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (steps.iter().min().expect("some"), steps.iter().max().expect("some"));
            assert!(most <= &(least + least / 2), "{least} to {most} ns, {seconds} s");
        }
    }

    #[test]
    fn a_short_run_has_no_series() {
        let mut collector = Collector::default();
        let zero = Instant::now();
        assert!(collector.is_due(zero));
        collector.add(zero, &slots(1), Duration::ZERO, 20);
        assert!(!collector.is_due(zero + FIRST / 2) && collector.is_due(zero + FIRST));
        assert_eq!(collector.finish(zero + Duration::from_secs(9), &slots(2)), None);
        // Nor has one whose plan never began.
        assert_eq!(Collector::default().finish(zero, &[]), None);
    }

    #[test]
    fn looks_that_cost_much_are_rare() {
        let mut collector = Collector::default();
        let zero = Instant::now();
        collector.add(zero, &slots(1), Duration::from_secs(2), 20);
        assert!(!collector.is_due(zero + Duration::from_secs(39)) && collector.is_due(zero + Duration::from_secs(40)));
    }
}
