//! Latencies become figures, and only such figures as the sample carries.
//!
//! Ticks stay integers until the last step. A percentile is null unless some ten samples lie beyond it; a mean carries an
//! interval that holds when the counter is coarser than what it measures; nothing is capped or averaged over percentiles.

pub mod distribution;
mod samples;

use trace_ring::histogram;

pub use self::samples::Samples;

/// Figures of a sample, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Latencies in it.
    pub n: u64,
    /// The least.
    pub min: f64,
    /// The median, whatever the number of samples: for comparing, not for printing.
    pub median: f64,
    /// Half of them are at most this; where at least 20 are there.
    pub p50: Option<f64>,
    /// Where at least 100 are there.
    pub p90: Option<f64>,
    /// Where at least 1000 are there.
    pub p99: Option<f64>,
    /// Where at least 10,000 are there.
    pub p999: Option<f64>,
    /// The greatest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The true mean lies within this on either side, 95 times in 100.
    pub mean_ci: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Whether the percentiles are those of the very values (else: of buckets).
    pub exact: bool,
}

/// What figures are taken from.
#[derive(Clone, Debug, Default)]
pub enum Figures {
    /// There is no latency.
    #[default]
    None,
    /// The values themselves.
    Samples(Box<Samples>),
    /// A histogram that the target kept ([`histogram`]), with its exact extremes and sum.
    Buckets {
        /// Counts, [`histogram::BUCKETS`] of them.
        counts: Box<[u32]>,
        /// The least, ticks.
        min: u64,
        /// The greatest, ticks.
        max: u64,
        /// Their sum, ticks.
        sum: u64,
        /// How many.
        timed: u64,
    },
    /// Extremes and sum alone.
    Extremes {
        /// The least, ticks.
        min: u64,
        /// The greatest, ticks.
        max: u64,
        /// Their sum, ticks.
        sum: u64,
        /// How many.
        timed: u64,
    },
}

impl Figures {
    /// Those of some values.
    pub fn of_samples(samples: Samples) -> Self {
        if samples.is_empty() { Figures::None } else { Figures::Samples(Box::new(samples)) }
    }

    /// The figures. `resolution`: the counter's smallest step, ticks.
    pub fn summary(&mut self, resolution: f64) -> Option<Summary> {
        match self {
            Figures::None => None,
            Figures::Samples(samples) => samples.summary(resolution),
            Figures::Buckets { counts, min, max, sum, timed } => {
                Summary::from_buckets(counts, *min, *max, *sum, *timed, resolution)
            }
            Figures::Extremes { min, max, sum, timed } => Summary::from_extremes(*min, *max, *sum, *timed, resolution),
        }
    }

    /// The cumulative distribution, see [`Spread::points`].
    pub fn cdf(&self) -> Vec<(u64, u64)> {
        let mut spread = Spread::default();
        spread.add(self);
        spread.points()
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        match self {
            Figures::None => 0,
            Figures::Samples(samples) => samples.len(),
            Figures::Buckets { timed, .. } | Figures::Extremes { timed, .. } => *timed,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many lie above a number of ticks: exactly, or as many as surely do.
    pub fn above(&self, ticks: u64) -> u64 {
        match self {
            Figures::None => 0,
            Figures::Samples(samples) => samples.above(ticks),
            Figures::Buckets { counts, .. } => {
                let sure = |bucket: &usize| histogram::lower(*bucket) > ticks;
                counts.iter().enumerate().filter(|(bucket, _)| sure(bucket)).map(|(_, count)| u64::from(*count)).sum()
            }
            Figures::Extremes { min, max, sum, timed } => match (*min > ticks, *max > ticks) {
                (true, _) => *timed,
                // The others take `ticks` at most, and these the greatest at most: so many make up the sum.
                (false, true) => {
                    let beyond = sum.saturating_sub(ticks.saturating_mul(*timed));
                    beyond.div_ceil(max - ticks).clamp(1, *timed)
                }
                (false, false) => 0,
            },
        }
    }

    /// How many lie above a number of ticks: exactly, or as many as may.
    pub fn above_at_most(&self, ticks: u64) -> u64 {
        match self {
            Figures::None => 0,
            Figures::Samples(samples) => samples.above_at_most(ticks),
            Figures::Buckets { counts, .. } => {
                let may = |bucket: &usize| histogram::upper(*bucket) > ticks;
                counts.iter().enumerate().filter(|(bucket, _)| may(bucket)).map(|(_, count)| u64::from(*count)).sum()
            }
            Figures::Extremes { min, max, sum, timed } => match (*min > ticks, *max > ticks) {
                (true, _) => *timed,
                // Markov's inequality, of what is above the least; one is the least.
                (false, true) => {
                    let beyond = sum.saturating_sub(min.saturating_mul(*timed));
                    (beyond / (ticks + 1 - min)).min(timed - 1)
                }
                (false, false) => 0,
            },
        }
    }

    /// A number of ticks that at least the share `share` of the latencies does not exceed: the least that is known.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        match self {
            Figures::None => None,
            Figures::Samples(samples) => samples.quantile(share),
            Figures::Buckets { counts, max, .. } => {
                let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
                let rank = (share * total as f64).ceil().max(1.0) as u64;
                let mut seen = 0;
                let bucket = counts.iter().position(|count| {
                    seen += u64::from(*count);
                    seen >= rank
                });
                Some(bucket.map_or(*max, |bucket| histogram::upper(bucket).min(*max)))
            }
            Figures::Extremes { min, max, sum, timed } => {
                let mean = *sum as f64 / (*timed).max(1) as f64;
                // Markov's inequality again.
                let bound = *min as f64 + (mean - *min as f64) / (1.0 - share).max(f64::MIN_POSITIVE);
                Some((bound.ceil() as u64).min(*max))
            }
        }
    }
}

/// The most points of a cumulative distribution.
const MOST_POINTS: usize = 100;

/// How latencies spread, on the grid of [`histogram`].
#[derive(Clone, Debug)]
pub struct Spread {
    counts: Vec<u64>,
    min: u64,
    max: u64,
}

impl Default for Spread {
    fn default() -> Self {
        Spread { counts: vec![0; histogram::BUCKETS], min: u64::MAX, max: 0 }
    }
}

impl Spread {
    fn put(&mut self, ticks: u64, count: u64) {
        if let Some(bucket) = self.counts.get_mut(histogram::bucket(ticks)) {
            *bucket = bucket.saturating_add(count);
        }
    }

    /// Adds what figures are taken from.
    pub fn add(&mut self, figures: &Figures) {
        let (min, max) = match figures {
            Figures::None => return,
            Figures::Samples(samples) => {
                samples.visit(|ticks, count| self.put(ticks, count));
                let (least, greatest, _) = samples.extremes_and_sum();
                (least, greatest)
            }
            Figures::Buckets { counts, min, max, .. } => {
                for (mine, theirs) in self.counts.iter_mut().zip(counts) {
                    *mine = mine.saturating_add(u64::from(*theirs));
                }
                (*min, *max)
            }
            // All that is known: one of each extreme, and the others on their mean.
            Figures::Extremes { min, max, sum, timed } => {
                self.put(*min, 1);
                self.put(*max, timed.saturating_sub(1).min(1));
                self.put((sum / (*timed).max(1)).clamp(*min, (*max).max(*min)), timed.saturating_sub(2));
                (*min, *max)
            }
        };
        self.min = self.min.min(min);
        self.max = self.max.max(max);
    }

    /// Ascending lengths in ticks, and how many latencies are at most that long: the least, the ends of buckets, the greatest.
    pub fn points(&self) -> Vec<(u64, u64)> {
        let total = self.counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        if total == 0 || self.min > self.max {
            return Vec::new();
        }
        let mut points = Vec::new();
        let mut seen = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen = seen.saturating_add(*count);
            let end = histogram::upper(bucket);
            // Where a bucket is wider than one value, nobody kept how many are equal to the least; one is.
            if points.is_empty() && end > self.min {
                points.push((self.min, 1));
            }
            points.push((end.min(self.max), seen));
        }
        points.dedup_by(|later, earlier| {
            let same = later.0 <= earlier.0;
            if same {
                earlier.1 = later.1;
            }
            same
        });
        // Coarser, but from the least to the greatest.
        while points.len() > MOST_POINTS {
            let last = points.len() - 1;
            let mut at = 0..;
            points.retain(|_| at.next().is_none_or(|at: usize| at.is_multiple_of(2) || at == last));
        }
        points
    }
}

/// Latencies of several pairs together: of the values where all have them, of buckets else.
#[derive(Clone, Debug)]
pub struct Pool {
    samples: Samples,
    buckets: Vec<u64>,
    extremes: (u64, u64),
    sum: u128,
    count: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { samples: Samples::new(1 << 20), buckets: Vec::new(), extremes: (u64::MAX, 0), sum: 0, count: 0 }
    }
}

impl Pool {
    /// Adds a pair's.
    pub fn add(&mut self, figures: &Figures) {
        let (counts, (min, max, sum, timed)) = match figures {
            Figures::None => return,
            Figures::Samples(samples) => return self.samples.merge(samples),
            Figures::Buckets { counts, min, max, sum, timed } => (Some(counts), (*min, *max, *sum, *timed)),
            // Without a histogram there is nothing to pool percentiles from; the mean stands for all.
            Figures::Extremes { min, max, sum, timed } => (None, (*min, *max, *sum, *timed)),
        };
        self.buckets.resize(histogram::BUCKETS, 0);
        match counts {
            Some(counts) => {
                for (mine, theirs) in self.buckets.iter_mut().zip(counts) {
                    *mine += u64::from(*theirs);
                }
            }
            None => {
                if let Some(bucket) = self.buckets.get_mut(histogram::bucket(sum / timed.max(1))) {
                    *bucket += timed;
                }
            }
        }
        self.extremes = (self.extremes.0.min(min), self.extremes.1.max(max));
        self.sum += u128::from(sum);
        self.count += timed;
    }

    /// The figures of all. `resolution`: the counter's smallest step, ticks.
    pub fn summary(&mut self, resolution: f64) -> Option<Summary> {
        if self.buckets.is_empty() {
            return self.samples.summary(resolution);
        }
        let mut all = self.samples.clone();
        for (bucket, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (low, high) = (histogram::lower(bucket), histogram::upper(bucket));
            let middle = (low / 2 + high / 2).clamp(self.extremes.0, self.extremes.1.max(self.extremes.0));
            all.push_many(middle, *count);
        }
        let summary = all.summary(resolution)?;
        let n = self.count + self.samples.len();
        let sum = self.sum + self.samples.extremes_and_sum().2;
        let mean = sum as f64 / n.max(1) as f64;
        Some(Summary {
            n,
            min: summary.min.min(self.extremes.0 as f64),
            max: summary.max.max(self.extremes.1 as f64),
            mean,
            exact: false,
            ..summary
        })
    }
}

/// Whether `n` samples carry the percentile `share`: some ten must lie beyond it.
pub fn carries(n: u64, share: f64) -> bool {
    // 1 - 0.99 is a little more than 0.01: compare products, with room for the last bit.
    n as f64 * (1.0 - share) >= 10.0 - 1e-6
}

impl Summary {
    #[expect(clippy::too_many_arguments, reason = "one caller a source of figures, all of them here")]
    fn new(
        n: u64,
        least: u64,
        greatest: u64,
        mean: f64,
        deviation: f64,
        resolution: f64,
        exact: bool,
        quantile: impl Fn(f64) -> f64,
    ) -> Self {
        let percentile = |share: f64| carries(n, share).then(|| quantile(share));
        Summary {
            n,
            min: least as f64,
            median: quantile(0.5),
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p999: percentile(0.999),
            max: greatest as f64,
            mean,
            mean_ci: mean_interval(n, deviation, resolution),
            deviation,
            exact,
        }
    }

    /// The figures of a histogram that the target kept. `None` when nothing is in it.
    ///
    /// Minimum, maximum and mean are exact; percentiles lie in the right bucket, which is at most 12.5 % wide.
    pub fn from_buckets(counts: &[u32], min: u64, max: u64, sum: u64, timed: u64, resolution: f64) -> Option<Self> {
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if timed == 0 {
            return None;
        }
        let middle = |bucket: usize| {
            let (low, high) = (histogram::lower(bucket), histogram::upper(bucket));
            (low as f64 / 2.0 + high as f64 / 2.0).clamp(min as f64, max.max(min) as f64)
        };
        let mean = sum as f64 / timed as f64;
        let squares: f64 =
            counts.iter().enumerate().map(|(bucket, count)| f64::from(*count) * (middle(bucket) - mean).powi(2)).sum();
        let deviation = if total > 1 { (squares / (total - 1) as f64).sqrt() } else { 0.0 };
        let quantile = |share: f64| {
            let rank = (share * total as f64).ceil().max(1.0) as u64;
            let mut seen = 0;
            for (bucket, count) in counts.iter().enumerate() {
                seen += u64::from(*count);
                if seen >= rank {
                    return middle(bucket);
                }
            }
            max as f64
        };
        Some(Summary::new(timed, min, max, mean, deviation, resolution, false, quantile))
    }

    /// The figures of a slot beyond the histograms' budget: least, greatest, mean.
    pub fn from_extremes(min: u64, max: u64, sum: u64, timed: u64, resolution: f64) -> Option<Self> {
        (timed > 0).then(|| {
            let mean = sum as f64 / timed as f64;
            // No spread is known: the widest that these extremes allow (Popoviciu's inequality) bounds the interval.
            let deviation = (max.saturating_sub(min)) as f64 / 2.0;
            Summary {
                n: timed,
                min: min as f64,
                median: mean,
                p50: None,
                p90: None,
                p99: None,
                p999: None,
                max: max as f64,
                mean,
                mean_ci: mean_interval(timed, deviation, resolution),
                deviation,
                exact: false,
            }
        })
    }
}

/// Half width of the interval around a mean of `n` differences of two stamps.
///
/// A difference of two stamps, each cut down to a whole step, is off by up to one step, with a variance of a sixth of a step
/// squared when the two phases are independent (dithered). That variance is inside the sample's where values spread over
/// more than one step, and its floor where they don't quite. Where **all** values are equal, nothing shows that the phases
/// were independent: all may be off by the same amount, and no number of samples helps. The interval is then a whole step.
pub fn mean_interval(n: u64, deviation: f64, resolution: f64) -> f64 {
    if n == 0 {
        return f64::INFINITY;
    }
    if deviation == 0.0 {
        return resolution;
    }
    1.96 * deviation.max(resolution / 6_f64.sqrt()) / (n as f64).sqrt()
}

/// The median of some values; `None` of none.
pub fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let high = values.get(middle).copied()?;
    if values.len() % 2 == 1 {
        return Some(high);
    }
    Some((values.get(middle - 1).copied()? + high) / 2.0)
}

/// Median and robust spread of some values: the median absolute deviation, scaled to a normal distribution's deviation,
/// never below `floor` (one tick), because a spread of zero would make every difference infinite.
pub fn robust(values: &mut [f64], floor: f64) -> Option<(f64, f64)> {
    let center = median(values)?;
    let mut distances: Vec<f64> = values.iter().map(|value| (value - center).abs()).collect();
    let spread = 1.4826 * median(&mut distances)?;
    Some((center, spread.max(floor)))
}

/// The chance that a normal deviate lies `z` deviations or more above its mean.
///
/// A bound within 8 % for z >= 0 (Sampford's, of Mills' ratio): it only orders and bounds q-values.
pub fn upper_tail(z: f64) -> f64 {
    let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if z <= 0.0 { 1.0 } else { density * 4.0 / (3.0 * z + (z * z + 8.0).sqrt()) }
}

/// Natural logarithm of n!.
fn ln_factorial(n: u64) -> f64 {
    if n < 16 {
        return (2..=n).map(|factor| factor as f64).product::<f64>().ln();
    }
    // Stirling's series: from 16 on, what is left out is below 1e-11.
    let n = n as f64;
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n.saturating_sub(k))
}

/// Logarithm of the chance that of `late + others_late` late ones at least `late` fall among these `n`, and not among the others, if
/// it makes no difference who is who (Fisher's exact test, one side). Never less than the true chance.
pub fn ln_more_often(late: u64, n: u64, others_late: u64, others: u64) -> f64 {
    let (late, others_late) = (late.min(n), others_late.min(others));
    let (all, all_late) = (n.saturating_add(others), late.saturating_add(others_late));
    if late == 0 || late as f64 * all as f64 <= all_late as f64 * n as f64 {
        return 0.0;
    }
    let exactly = ln_choose(all_late, late) + ln_choose(all - all_late, n - late) - ln_choose(all, n);
    // Each further term is smaller than the one before by at least this ratio: a geometric series bounds them all.
    let ratio = others_late as f64 * (n - late) as f64 / ((late + 1) as f64 * (others - others_late + 1) as f64);
    if ratio < 1.0 { (exactly - (-ratio).ln_1p()).min(0.0) } else { 0.0 }
}

/// Logarithm of the chance that something which is expected `mean` times happens `count` times or more (Poisson). Never less than
/// the true chance.
pub fn ln_at_least(count: u64, mean: f64) -> f64 {
    let k = count as f64;
    if count == 0 || k <= mean {
        return 0.0;
    }
    if mean <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let exactly = k * mean.ln() - mean - ln_factorial(count);
    (exactly - (-(mean / (k + 1.0))).ln_1p()).min(0.0)
}

/// For each of some findings, the expected share of false ones among those at least as clear (Y. Benjamini, Y. Hochberg). The findings are
/// those of `tests` tests whose chance was small, given by its logarithm.
pub fn false_shares(chances: &[f64], tests: u64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..chances.len()).collect();
    let chance = |at: usize| chances.get(at).copied().unwrap_or(0.0);
    order.sort_by(|a, b| chance(*a).total_cmp(&chance(*b)));
    let mut shares = vec![1.0; chances.len()];
    let mut least = 1.0_f64;
    for (rank, at) in order.into_iter().enumerate().rev() {
        let share = (chance(at) + (tests.max(1) as f64).ln() - ((rank + 1) as f64).ln()).exp();
        least = least.min(share);
        if let Some(place) = shares.get_mut(at) {
            *place = least;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: impl IntoIterator<Item = u64>, limit: usize) -> Samples {
        let mut samples = Samples::new(limit);
        values.into_iter().for_each(|value| samples.push(value));
        samples
    }

    #[test]
    fn percentiles_need_ten_samples_beyond_them() {
        for (n, p50, p90, p99) in [
            (19, false, false, false),
            (20, true, false, false),
            (100, true, true, false),
            (999, true, true, false),
            (1000, true, true, true),
        ] {
            let summary = samples(1..=n, 10_000).summary(1.0).unwrap();
            assert_eq!((summary.p50.is_some(), summary.p90.is_some(), summary.p99.is_some()), (p50, p90, p99), "{n}");
        }
    }

    #[test]
    fn percentiles_of_kept_values_are_exact() {
        let summary = samples((1..=1000).rev(), 10_000).summary(1.0).unwrap();
        assert_eq!(
            (summary.min, summary.p50, summary.p90, summary.p99, summary.max),
            (1.0, Some(500.0), Some(900.0), Some(990.0), 1000.0)
        );
        assert_eq!(summary.mean, 500.5);
        assert!(summary.exact);
    }

    #[test]
    fn beyond_the_bound_extremes_and_mean_stay_exact_and_percentiles_within_a_percent() {
        let summary = samples(1..=100_000, 1000).summary(1.0).unwrap();
        assert_eq!((summary.n, summary.min, summary.max, summary.mean), (100_000, 1.0, 100_000.0, 50_000.5));
        assert!(!summary.exact);
        assert!((summary.p50.unwrap() / 50_000.0 - 1.0).abs() < 0.011, "{summary:?}");
        assert!((summary.p99.unwrap() / 99_000.0 - 1.0).abs() < 0.011, "{summary:?}");
    }

    #[test]
    fn merging_keeps_extremes_mean_and_count() {
        let mut whole = samples(1..=50, 100);
        whole.merge(&samples(51..=5000, 100));
        whole.merge(&samples([9000], 100));
        let summary = whole.summary(1.0).unwrap();
        assert_eq!((summary.n, summary.min, summary.max), (5001, 1.0, 9000.0));
        let expected = (5000.0 * 5001.0 / 2.0 + 9000.0) / 5001.0;
        assert!((summary.mean - expected).abs() < 1e-6);
        let alone = samples((1..=5000).chain([9000]), 10_000).summary(1.0).unwrap();
        assert!((summary.deviation / alone.deviation - 1.0).abs() < 1e-9, "{} {}", summary.deviation, alone.deviation);
    }

    #[test]
    fn a_mean_below_one_tick_keeps_an_honest_interval() {
        // All equal: no number of samples shows what lies between the ticks.
        assert_eq!(samples(std::iter::repeat_n(5, 100_000), 1_000_000).summary(1.0).unwrap().mean_ci, 1.0);
        // Dithered: true latency 5.3 ticks, send phase spread evenly. The interval is small and holds the truth.
        let dithered = (0..10_000_u64).map(|index| ((index % 1000) as f64 / 1000.0 + 5.3) as u64);
        let summary = samples(dithered, 1_000_000).summary(1.0).unwrap();
        assert!(summary.mean_ci < 0.02);
        assert!((summary.mean - 5.3).abs() <= summary.mean_ci, "{} +- {}", summary.mean, summary.mean_ci);
    }

    #[test]
    fn a_histogram_gives_percentiles_of_the_right_bucket() {
        let mut counts = vec![0_u32; histogram::STRIDE];
        let values: Vec<u64> = (1..=2000).collect();
        for value in &values {
            counts[histogram::bucket(*value)] += 1;
        }
        let summary = Summary::from_buckets(&counts, 1, 2000, values.iter().sum(), 2000, 1.0).unwrap();
        assert_eq!((summary.n, summary.min, summary.max, summary.mean), (2000, 1.0, 2000.0, 1000.5));
        assert!((summary.p50.unwrap() / 1000.0 - 1.0).abs() < 0.125);
        assert!((summary.p99.unwrap() / 1980.0 - 1.0).abs() < 0.125);
        assert!(Summary::from_buckets(&counts, u64::MAX, 0, 0, 0, 1.0).is_none());
    }

    #[test]
    fn a_thousandth_needs_ten_thousand() {
        assert_eq!(samples(1..=9999, 20_000).summary(1.0).unwrap().p999, None);
        assert_eq!(samples(1..=10_000, 20_000).summary(1.0).unwrap().p999, Some(9990.0));
    }

    #[test]
    fn a_cumulative_distribution_ascends_between_exact_extremes() {
        let values: Vec<u64> = (0..3000_u64).map(|index| 37 + index * index % 7919 * 3).collect();
        let (least, greatest) = (*values.iter().min().unwrap(), *values.iter().max().unwrap());
        for limit in [10_000, 100] {
            let figures = Figures::of_samples(samples(values.iter().copied(), limit));
            let points = figures.cdf();
            assert!(points.len() <= MOST_POINTS && points.len() > 20, "{}", points.len());
            assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{points:?}");
            assert_eq!((points[0].0, points.last().unwrap()), (least, &(greatest, 3000)));
            for (ticks, count) in &points[1..] {
                let true_count = values.iter().filter(|value| *value <= ticks).count() as u64;
                let slack = if limit == 100 { 60 } else { 0 };
                assert!(count.abs_diff(true_count) <= slack, "{ticks}: {count}, not {true_count}");
            }
        }
        // Small values each have their own bucket, and a wide range is made coarser.
        assert_eq!(Figures::of_samples(samples([3, 3, 5], 10)).cdf(), [(3, 2), (5, 3)]);
        let points = Figures::of_samples(samples((0..2000).map(|index| 1 << (index % 60) | index), 10_000)).cdf();
        assert!(points.len() <= MOST_POINTS && points.last().unwrap().1 == 2000);
        let extremes = Figures::Extremes { min: 4, max: 9, sum: 70, timed: 10 };
        assert_eq!(extremes.cdf(), [(4, 1), (7, 9), (9, 10)]);
        assert!(Figures::None.cdf().is_empty());
        let hostile = Figures::Extremes { min: 9, max: 4, sum: 0, timed: 2 };
        assert!(hostile.cdf().is_empty());
    }

    #[test]
    fn a_spread_of_zero_has_a_floor_of_one_tick() {
        assert_eq!(robust(&mut [7.0; 9], 1.0), Some((7.0, 1.0)));
        assert_eq!(robust(&mut [], 1.0), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0, 10.0]), Some(2.5));
    }

    #[test]
    fn the_tail_is_that_of_a_normal_distribution() {
        for (z, expected) in [(1.0, 0.1587), (2.0, 0.02275), (4.0, 3.167e-5)] {
            assert!((upper_tail(z) / expected - 1.0).abs() < 0.05, "{z}: {}", upper_tail(z));
        }
    }

    #[test]
    fn factorials_are_exact_to_ten_digits() {
        let mut sum = 0.0;
        for n in 1..300_u64 {
            sum += (n as f64).ln();
            assert!((ln_factorial(n) - sum).abs() < 1e-10 * sum.max(1.0), "{n}");
        }
        assert_eq!(ln_factorial(0), 0.0);
    }

    /// Fisher's test, term by term.
    fn more_often(late: u64, n: u64, others_late: u64, others: u64) -> f64 {
        let choose = |n: u64, k: u64| (0..k).map(|at| (n - at) as f64 / (at + 1) as f64).product::<f64>();
        let (all, all_late) = (n + others, late + others_late);
        let term = |k: u64| {
            if all - all_late < n - k {
                0.0
            } else {
                choose(all_late, k) * choose(all - all_late, n - k) / choose(all, n)
            }
        };
        (late..=n.min(all_late)).map(term).sum()
    }

    #[test]
    fn the_chance_of_late_ones_is_never_understated_and_close_where_it_matters() {
        for n in [1, 5, 8, 20] {
            for others in [8, 40] {
                for late in 0..=n {
                    for others_late in [0, 1, 4, 8] {
                        let (bound, truth) = (
                            ln_more_often(late, n, others_late, others).exp(),
                            more_often(late, n, others_late, others),
                        );
                        assert!(
                            bound >= truth * (1.0 - 1e-9),
                            "{late} of {n}, {others_late} of {others}: {bound} {truth}"
                        );
                        assert!(
                            truth > 0.01 || bound <= 1.5 * truth,
                            "{late} of {n}, {others_late} of {others}: {bound} {truth}"
                        );
                    }
                }
            }
        }
        // Beyond what a float can hold.
        assert!(ln_more_often(100_000, 100_000, 0, 10_000_000) < -400_000.0);
    }

    #[test]
    fn a_rare_event_that_happens_often_is_improbable() {
        for (count, mean, truth) in [(1, 0.1_f64, 0.095_163), (3, 0.5, 0.014_388), (10, 2.0, 4.65e-5)] {
            let bound = ln_at_least(count, mean).exp();
            assert!(bound >= truth * 0.999 && bound < 1.1 * truth, "{count} {mean}: {bound}");
        }
        assert_eq!((ln_at_least(0, 3.0), ln_at_least(3, 3.0)), (0.0, 0.0));
        assert_eq!(ln_at_least(1, 0.0), f64::NEG_INFINITY);
    }

    #[test]
    fn the_share_of_false_ones_is_that_of_benjamini_and_hochberg() {
        let shares = false_shares(&[0.03_f64, 0.001, 0.01].map(f64::ln), 10);
        for (share, expected) in shares.iter().zip([0.1, 0.01, 0.05]) {
            assert!((share - expected).abs() < 1e-12, "{shares:?}");
        }
        // A weaker one that is one of many makes the stronger no weaker than itself.
        let shares = false_shares(&[0.02_f64, 0.019].map(f64::ln), 2);
        assert!(shares.iter().all(|share| (share - 0.02).abs() < 1e-12), "{shares:?}");
        assert_eq!(false_shares(&[], 5), [0.0; 0]);
    }

    #[test]
    fn what_a_histogram_or_extremes_say_of_counts_bounds_the_truth() {
        for seed in 1..40_u64 {
            let values: Vec<u64> = (0..50).map(|at| 5 + (at * seed * seed * 7919) % (10 * seed * seed)).collect();
            let truth = Figures::of_samples(samples(values.iter().copied(), 100));
            let (min, max) = (*values.iter().min().unwrap(), *values.iter().max().unwrap());
            let (sum, timed) = (values.iter().sum(), values.len() as u64);
            let mut counts = vec![0_u32; histogram::STRIDE].into_boxed_slice();
            values.iter().for_each(|value| counts[histogram::bucket(*value)] += 1);
            let buckets = Figures::Buckets { counts, min, max, sum, timed };
            let extremes = Figures::Extremes { min, max, sum, timed };
            for figures in [&buckets, &extremes] {
                assert_eq!(figures.len(), 50);
                for ticks in [min - 1, min, min + 1, (min + max) / 2, max - 1, max] {
                    let (surely, exactly, maybe) =
                        (figures.above(ticks), truth.above(ticks), figures.above_at_most(ticks));
                    assert!(
                        surely <= exactly && exactly <= maybe && maybe <= 50,
                        "{ticks}: {surely} {exactly} {maybe}"
                    );
                }
                for share in [0.1, 0.5, 0.9, 0.99, 1.0] {
                    let (most, exactly) = (figures.quantile(share).unwrap(), truth.quantile(share).unwrap());
                    assert!(most >= exactly && most <= max, "{share}: {most} {exactly}");
                }
            }
            assert_eq!(truth.quantile(1.0), Some(max));
        }
        assert_eq!(Figures::None.quantile(0.5), None);
    }
}
