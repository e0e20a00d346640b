//! A whole distribution in a few numbers: what limits and comparisons look at.
//!
//! Latencies come as values, as the buckets of a histogram, or as extremes alone. Here each becomes pieces: so many values that
//! lie between two bounds (equal ones, where the values are known). A quantile is then an interval, too, and whoever holds it
//! against a limit sees whether it can be told at all.

use trace_ring::histogram;

use super::{Figures, carries};

/// So many values between two bounds, ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// None is less.
    pub low: u64,
    /// None is greater.
    pub high: u64,
    /// How many.
    pub count: u64,
}

/// Values in pieces, by their size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    pieces: Vec<Piece>,
    count: u64,
    sum: u128,
    least: u64,
    greatest: u64,
}

impl Distribution {
    /// That of a slot or a stage; empty where there is no latency.
    pub fn of(figures: &Figures) -> Self {
        match figures {
            Figures::None => Distribution::default(),
            Figures::Samples(samples) => {
                let (least, greatest, sum) = samples.extremes_and_sum();
                Distribution { pieces: samples.pieces(), count: samples.len(), sum, least, greatest }
            }
            Figures::Buckets { counts, min, max, sum, timed } => {
                // The extremes are exact: no value lies outside of them, whatever its bucket.
                let piece = |(bucket, count): (usize, &u32)| Piece {
                    low: histogram::lower(bucket).clamp(*min, (*max).max(*min)),
                    high: histogram::upper(bucket).clamp(*min, (*max).max(*min)),
                    count: u64::from(*count),
                };
                let pieces = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(piece).collect();
                Distribution { pieces, count: *timed, sum: u128::from(*sum), least: *min, greatest: *max }
            }
            Figures::Extremes { min, max, sum, timed } => Distribution {
                pieces: vec![Piece { low: *min, high: (*max).max(*min), count: *timed }],
                count: *timed,
                sum: u128::from(*sum),
                least: *min,
                greatest: *max,
            },
        }
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: &Distribution) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        self.pieces.extend_from_slice(&other.pieces);
        self.pieces.sort_unstable();
        self.pieces.dedup_by(|next, kept| {
            let same = (next.low, next.high) == (kept.low, kept.high);
            kept.count += if same { next.count } else { 0 };
            same
        });
        self.count += other.count;
        self.sum += other.sum;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    /// How many values there are.
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pieces, by their lower bounds.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The greatest value, exactly.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.greatest)
    }

    /// The mean, exactly.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Between which two values a quantile lies; `None`: the sample does not carry it.
    pub fn quantile(&self, share: f64) -> Option<(u64, u64)> {
        if carries(self.count, share) { self.quantile_of_any(share) } else { None }
    }

    /// The same, however few values there are.
    pub fn quantile_of_any(&self, share: f64) -> Option<(u64, u64)> {
        let known: u64 = self.pieces.iter().map(|piece| piece.count).sum();
        if known == 0 {
            return None;
        }
        let rank = ((share * known as f64).ceil() as u64).clamp(1, known);
        let mut seen = 0;
        let low = self.pieces.iter().find_map(|piece| {
            seen += piece.count;
            (seen >= rank).then_some(piece.low)
        })?;
        // The same rank among the upper bounds, which stand in another order where pieces of several widths are mixed.
        let mut highs: Vec<(u64, u64)> = self.pieces.iter().map(|piece| (piece.high, piece.count)).collect();
        highs.sort_unstable();
        let mut seen = 0;
        let high = highs.into_iter().find_map(|(high, count)| {
            seen += count;
            (seen >= rank).then_some(high)
        })?;
        Some((low, high.max(low)))
    }

    /// The middle of the interval that holds the median, however few values there are.
    pub fn median(&self) -> Option<f64> {
        self.quantile_of_any(0.5).map(|(low, high)| (low as f64 + high as f64) / 2.0)
    }

    /// How many values lie above a number of ticks: at least, and at most.
    pub fn above(&self, ticks: u64) -> (u64, u64) {
        let count =
            |of: fn(&Piece) -> u64| self.pieces.iter().filter(|piece| of(piece) > ticks).map(|piece| piece.count).sum();
        (count(|piece| piece.low), count(|piece| piece.high))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Samples;
    use super::*;

    fn samples(values: impl IntoIterator<Item = u64>, limit: usize) -> Distribution {
        let mut samples = Samples::new(limit);
        values.into_iter().for_each(|value| samples.push(value));
        Distribution::of(&Figures::of_samples(samples))
    }

    fn buckets(values: &[u64]) -> Distribution {
        let mut counts = vec![0_u32; histogram::STRIDE].into_boxed_slice();
        for value in values {
            counts[histogram::bucket(*value)] += 1;
        }
        let (min, max) = (values.iter().copied().min().unwrap(), values.iter().copied().max().unwrap());
        Distribution::of(&Figures::Buckets { counts, min, max, sum: values.iter().sum(), timed: values.len() as u64 })
    }

    #[test]
    fn quantiles_of_known_values_are_points_and_need_ten_values_beyond_them() {
        let all = samples((1..=1000).rev(), 10_000);
        assert_eq!(
            (all.quantile(0.5), all.quantile(0.99), all.quantile(0.999)),
            (Some((500, 500)), Some((990, 990)), None)
        );
        assert_eq!((all.len(), all.max(), all.mean(), all.above(990)), (1000, Some(1000), Some(500.5), (10, 10)));
        assert_eq!(samples(1..=999, 10_000).quantile(0.99), None);
        let none = samples([], 10);
        assert!(none.is_empty() && none.max().is_none() && none.mean().is_none() && none.median().is_none());
    }

    #[test]
    fn quantiles_of_buckets_and_of_spilled_values_are_intervals_that_hold_the_truth() {
        let values: Vec<u64> = (1..=2000).collect();
        for (all, width) in [(buckets(&values), 0.126), (samples(values.iter().copied(), 100), 0.02)] {
            for (share, truth) in [(0.5, 1000), (0.9, 1800), (0.99, 1980)] {
                let (low, high) = all.quantile(share).unwrap();
                assert!((low..=high).contains(&truth), "{truth} is not in {low}..={high}");
                assert!((high - low) as f64 <= width * truth as f64, "{low}..={high} is wide");
            }
            assert_eq!((all.len(), all.max(), all.mean()), (2000, Some(2000), Some(1000.5)));
        }
    }

    #[test]
    fn extremes_alone_say_that_a_quantile_lies_between_them() {
        let all = Distribution::of(&Figures::Extremes { min: 10, max: 90, sum: 1000, timed: 40 });
        assert_eq!((all.quantile(0.5), all.max(), all.mean()), (Some((10, 90)), Some(90), Some(25.0)));
    }

    #[test]
    fn distributions_of_any_making_merge_and_still_hold_the_truth() {
        let mut all = samples(1..=1000, 10_000);
        all.merge(&buckets(&(1001..=2000).collect::<Vec<_>>()));
        all.merge(&Distribution::default());
        assert_eq!((all.len(), all.max(), all.mean()), (2000, Some(2000), Some(1000.5)));
        let (low, high) = all.quantile(0.75).unwrap();
        assert!((low..=high).contains(&1500), "{low}..={high}");
        assert_eq!(all.quantile(0.25), Some((500, 500)));
        let mut none = Distribution::default();
        none.merge(&samples([3, 3, 4], 10));
        assert_eq!(none.pieces(), [Piece { low: 3, high: 3, count: 2 }, Piece { low: 4, high: 4, count: 1 }]);
    }
}
