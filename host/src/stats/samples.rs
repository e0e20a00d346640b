//! Latencies as they were: every value, equal ones together.
//!
//! Clocks tick, so that millions of latencies have some thousand values: how often each came says all, in little memory, and
//! sorted, which figures and pools of many pairs then need not do again. What comes is gathered, and put in its place in batches:
//! adding one costs a few instructions. Beyond a bound on different values a histogram of two significant digits goes on.

use hdrhistogram::Histogram;

use super::Summary;
use super::distribution::Piece;

/// Values that are gathered before they are put in their place.
const BATCH: usize = 256;

/// A value, and how often it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) value: u64,
    pub(super) count: u64,
}

/// Latencies of one kind, in ticks: every one of them up to a bound, then a histogram of two significant digits.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Those that came last, as they came.
    fresh: Vec<u64>,
    /// The others, by their value; none where there is a histogram.
    runs: Vec<Run>,
    /// Different values that are kept as they are.
    limit: usize,
    spilled: Option<Box<Spilled>>,
    /// Of those in their place.
    totals: Totals,
}

/// How many, the least, the greatest and the sum.
#[derive(Clone, Copy, Debug)]
struct Totals {
    count: u64,
    least: u64,
    greatest: u64,
    sum: u128,
}

impl Totals {
    const NONE: Totals = Totals { count: 0, least: u64::MAX, greatest: 0, sum: 0 };

    /// These and as many times a value.
    fn with(self, value: u64, count: u64) -> Totals {
        self.and(Totals { count, least: value, greatest: value, sum: u128::from(value) * u128::from(count) })
    }

    /// Those of both.
    fn and(self, other: Totals) -> Totals {
        Totals {
            count: self.count + other.count,
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
            sum: self.sum + other.sum,
        }
    }
}

/// Those of too many different values.
#[derive(Clone, Debug)]
struct Spilled {
    histogram: Histogram<u64>,
    /// Welford's running mean and sum of squared deviations: no cancellation, whatever the magnitude.
    mean: f64,
    squares: f64,
    count: f64,
}

impl Spilled {
    /// Adds the same latency `count` times (Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances").
    fn add(&mut self, value: u64, count: u64) {
        // Fails only where a histogram may not grow; this one may.
        let _ = self.histogram.record_n(value, count);
        self.combine(value as f64, 0.0, count as f64);
    }

    /// Adds the mean and squares of others.
    fn combine(&mut self, mean: f64, squares: f64, count: f64) {
        let (mine, both) = (self.count, (self.count + count).max(1.0));
        let step = mean - self.mean;
        self.squares += squares + step * step * mine * count / both;
        self.mean += step * count / both;
        self.count += count;
    }
}

impl Samples {
    /// An empty one that keeps up to `limit` different values as they are.
    pub fn new(limit: usize) -> Self {
        Samples { fresh: Vec::new(), runs: Vec::new(), limit, spilled: None, totals: Totals::NONE }
    }

    /// Adds a latency, ticks.
    #[inline]
    pub fn push(&mut self, ticks: u64) {
        if self.fresh.len() == self.fresh.capacity() {
            self.make_room();
        }
        self.fresh.push(ticks);
    }

    /// Room for one more: by more memory up to a batch, then by putting them in their place.
    #[cold]
    fn make_room(&mut self) {
        // As many as there are different ones, so that merging costs each value the same however many there are.
        if self.fresh.len() >= BATCH.max(self.runs.len()) {
            self.order();
        } else {
            self.fresh.reserve(self.fresh.len().max(16));
        }
    }

    /// Adds the same latency `count` times, in one step, to those of a histogram.
    pub(super) fn push_many(&mut self, ticks: u64, count: u64) {
        self.spill();
        if let Some(spilled) = &mut self.spilled {
            spilled.add(ticks, count);
        }
        self.totals = self.totals.with(ticks, count);
    }

    /// Of all, whatever came last.
    fn totals(&self) -> Totals {
        self.fresh.iter().fold(self.totals, |totals, value| totals.with(*value, 1))
    }

    /// Puts the newest in their place.
    fn order(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        self.totals = self.totals();
        let mut fresh = std::mem::take(&mut self.fresh);
        if let Some(spilled) = &mut self.spilled {
            for value in &fresh {
                spilled.add(*value, 1);
            }
        } else {
            self.place(&runs_of(&mut fresh));
        }
        // Its memory serves on.
        fresh.clear();
        self.fresh = fresh;
    }

    /// Adds runs to those that are there. After a while there is hardly a value that is not.
    fn place(&mut self, runs: &[Run]) {
        let mut known = self.runs.iter_mut();
        let mut missing = Vec::new();
        for run in runs {
            // Where the walk stands, everything before is less than what comes.
            while known.as_slice().first().is_some_and(|known| known.value < run.value) {
                known.next();
            }
            match known.as_slice().first() {
                Some(same) if same.value == run.value => {
                    if let Some(same) = known.next() {
                        same.count += run.count;
                    }
                }
                _ => missing.push(*run),
            }
        }
        if !missing.is_empty() {
            self.runs = merged(&self.runs, &missing);
            if self.runs.len() > self.limit {
                self.spill();
            }
        }
    }

    /// From here on in a histogram.
    fn spill(&mut self) {
        self.order();
        if self.spilled.is_some() {
            return;
        }
        // Two significant digits are always a legal precision.
        let Ok(mut histogram) = Histogram::new(2) else { return };
        histogram.auto(true);
        let mut spilled = Spilled { histogram, mean: 0.0, squares: 0.0, count: 0.0 };
        for run in std::mem::take(&mut self.runs) {
            spilled.add(run.value, run.count);
        }
        self.spilled = Some(Box::new(spilled));
    }

    /// All of them in order, whatever came last.
    fn ordered<T>(&self, ask: impl FnOnce(&Samples) -> T) -> T {
        if self.fresh.is_empty() {
            return ask(self);
        }
        let mut ordered = self.clone();
        ordered.order();
        ask(&ordered)
    }

    /// How many lie above a number of ticks; beyond the bound on values, as many as surely do.
    pub fn above(&self, ticks: u64) -> u64 {
        self.beyond(ticks, |piece| piece.low)
    }

    /// The same; beyond the bound on values, as many as may.
    pub(super) fn above_at_most(&self, ticks: u64) -> u64 {
        self.beyond(ticks, |piece| piece.high)
    }

    fn beyond(&self, ticks: u64, bound: fn(&Piece) -> u64) -> u64 {
        self.ordered(|all| match &all.spilled {
            Some(_) => all.pieces().iter().filter(|piece| bound(piece) > ticks).map(|piece| piece.count).sum(),
            None => all.runs.iter().rev().take_while(|run| run.value > ticks).map(|run| run.count).sum(),
        })
    }

    /// The values in pieces, by their size: equal ones together, or as the histogram holds them.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        self.ordered(|all| {
            let Some(spilled) = &all.spilled else {
                let piece = |run: &Run| Piece { low: run.value, high: run.value, count: run.count };
                return all.runs.iter().map(piece).collect();
            };
            let histogram = &spilled.histogram;
            let piece = |bucket: hdrhistogram::iterators::IterationValue<u64>| Piece {
                low: histogram
                    .lowest_equivalent(bucket.value_iterated_to())
                    .clamp(all.totals.least, all.totals.greatest),
                high: histogram
                    .highest_equivalent(bucket.value_iterated_to())
                    .clamp(all.totals.least, all.totals.greatest),
                count: bucket.count_at_value(),
            };
            histogram.iter_recorded().map(piece).collect()
        })
    }

    /// Hands each value, or one that stands for it, to `visit`, and how often it came.
    pub(super) fn visit(&self, mut visit: impl FnMut(u64, u64)) {
        self.ordered(|all| match &all.spilled {
            Some(spilled) => spilled.histogram.iter_recorded().for_each(|bucket| {
                visit(bucket.value_iterated_to().clamp(all.totals.least, all.totals.greatest), bucket.count_at_value());
            }),
            None => all.runs.iter().for_each(|run| visit(run.value, run.count)),
        });
    }

    /// The least value that a share of all are at most.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        // The end of all is known without looking for it.
        if share >= 1.0 && self.spilled.is_none() {
            return Some(self.totals().greatest);
        }
        Some(self.ordered(|all| match &all.spilled {
            Some(spilled) => spilled.histogram.value_at_quantile(share).clamp(all.totals.least, all.totals.greatest),
            None => {
                let rank = ((share * all.totals.count as f64).ceil() as u64).max(1);
                let mut seen = 0;
                let run = all.runs.iter().find(|run| {
                    seen += run.count;
                    seen >= rank
                });
                run.map_or(all.totals.greatest, |run| run.value)
            }
        }))
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.totals.count + self.fresh.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether percentiles are those of the very values.
    pub fn is_exact(&self) -> bool {
        self.spilled.is_none()
    }

    /// The least, the greatest and the sum of all, ticks; exactly.
    pub(super) fn extremes_and_sum(&self) -> (u64, u64, u128) {
        let totals = self.totals();
        (totals.least, totals.greatest, totals.sum)
    }

    /// Adds all values of another.
    pub fn merge(&mut self, other: &Samples) {
        if other.spilled.is_some() {
            self.spill();
        }
        self.order();
        match (&mut self.spilled, &other.spilled) {
            (Some(mine), Some(theirs)) => {
                // Fails only where a histogram may not grow; this one may.
                let _ = mine.histogram.add(&theirs.histogram);
                mine.combine(theirs.mean, theirs.squares, theirs.count);
            }
            (Some(mine), None) => other.runs.iter().for_each(|run| mine.add(run.value, run.count)),
            (None, _) => self.place(&other.runs),
        }
        self.fresh.extend_from_slice(&other.fresh);
        self.order();
        self.totals = self.totals.and(other.totals);
    }

    /// The figures. `resolution`: the counter's smallest step, ticks.
    pub fn summary(&mut self, resolution: f64) -> Option<Summary> {
        if self.is_empty() {
            return None;
        }
        self.order();
        self.fresh = Vec::new();
        let Totals { count, least, greatest, sum } = self.totals;
        let quantile = |share: f64| self.quantile(share).unwrap_or(greatest) as f64;
        let mean = sum as f64 / count as f64;
        // Of values in their order the same to the last bit, in whatever order they came.
        let squares = match &self.spilled {
            Some(spilled) => spilled.squares,
            None => self.runs.iter().map(|run| run.count as f64 * (run.value as f64 - mean).powi(2)).sum(),
        };
        let deviation = if count > 1 { (squares / (count - 1) as f64).max(0.0).sqrt() } else { 0.0 };
        Some(Summary::new(count, least, greatest, mean, deviation, resolution, self.is_exact(), quantile))
    }
}

/// Values, sorted and counted. Those that lie close together are counted without comparing them.
fn runs_of(values: &mut [u64]) -> Vec<Run> {
    let (least, greatest) =
        values.iter().fold((u64::MAX, 0), |(least, most), value| (least.min(*value), most.max(*value)));
    let width = greatest.saturating_sub(least);
    if width < 4 * values.len() as u64 {
        let mut counts = vec![0_u32; width as usize + 1];
        for value in values.iter() {
            if let Some(count) = counts.get_mut(value.wrapping_sub(least) as usize) {
                *count += 1;
            }
        }
        let counted = counts.into_iter().zip(least..).filter(|(count, _)| *count > 0);
        return counted.map(|(count, value)| Run { value, count: count.into() }).collect();
    }
    values.sort_unstable();
    let equal = values.chunk_by(|a, b| a == b);
    equal.filter_map(|run| Some(Run { value: *run.first()?, count: run.len() as u64 })).collect()
}

/// Both together, in order.
fn merged(a: &[Run], b: &[Run]) -> Vec<Run> {
    let mut all = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(one), Some(other)) if one.value == other.value => {
                let count = one.count + other.count;
                b.next();
                a.next().map(|run| Run { count, ..run })
            }
            (Some(one), Some(other)) if one.value < other.value => a.next(),
            (_, Some(_)) => b.next(),
            (_, None) => a.next(),
        };
        let Some(next) = next else { return all };
        all.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern, the same each time (splitmix64).
    fn draw(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ mixed >> 29
    }

    #[test]
    fn whatever_is_asked_is_as_of_the_sorted_values() {
        let mut state = 1;
        for (count, width) in [(1, 5), (40, 3), (5000, 200), (5000, 1 << 40), (3000, u64::MAX)] {
            let values: Vec<u64> = (0..count).map(|_| draw(&mut state) % width).collect();
            let (mut one, mut other) = (Samples::new(10_000), Samples::new(10_000));
            for (at, value) in values.iter().enumerate() {
                if at % 3 == 0 { one.push(*value) } else { other.push(*value) }
            }
            let mut ordered = other.clone();
            let _ = ordered.summary(1.0);
            one.merge(&other);
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let above = |ticks: u64| sorted.iter().filter(|value| **value > ticks).count() as u64;
            for ticks in sorted.iter().step_by(97).flat_map(|value| [value.saturating_sub(1), *value]) {
                assert_eq!((one.above(ticks), one.above_at_most(ticks)), (above(ticks), above(ticks)));
            }
            for share in [0.001, 0.5, 0.99, 1.0] {
                let rank = ((share * count as f64).ceil() as usize).max(1);
                assert_eq!(one.quantile(share), Some(sorted[rank - 1]), "{share} of {count}");
                assert_eq!(other.quantile(share), ordered.quantile(share));
            }
            let pieces: u64 = one.pieces().iter().map(|piece| piece.count).sum();
            assert_eq!((pieces, one.len(), one.is_exact()), (count, count, true));
            let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
            assert_eq!(one.extremes_and_sum(), (sorted[0], sorted[count as usize - 1], sum));
        }
    }

    #[test]
    fn many_equal_values_stay_exact_in_little_memory() {
        let mut samples = Samples::new(64);
        (0..1_000_000_u64).for_each(|index| samples.push(100 + index % 50));
        assert!(samples.is_exact() && samples.fresh.capacity() <= 2 * BATCH && samples.runs.len() == 50);
        assert_eq!((samples.quantile(0.5), samples.above(148)), (Some(124), 20_000));
        // One value too many, whenever it comes, and it is a histogram.
        (0..20_u64).for_each(|value| samples.push(value));
        let summary = samples.summary(1.0);
        assert!(!samples.is_exact() && summary.is_some_and(|summary| summary.n == 1_000_020 && summary.max == 149.0));
    }
}
