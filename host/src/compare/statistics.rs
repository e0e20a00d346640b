//! Tests: of ranks, of counts, and of many at once.

use std::collections::BTreeMap;

use trace_ring::histogram;

use crate::stats::distribution::Distribution;
use crate::stats::upper_tail;

/// Two samples by the ranks of their values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rank {
    /// Cliff's delta: the chance that one of B is longer than one of A, less that it is shorter.
    pub delta: f64,
    /// The chance of such ranks if both were drawn from one distribution (Mann and Whitney, two-sided, ties corrected).
    pub p: f64,
}

/// Compares two samples by rank.
pub(super) fn rank(a: &Distribution, b: &Distribution) -> Rank {
    // Where one side knows buckets only, both are put into buckets: else their middles would differ by the way they are kept.
    let exact = [a, b].iter().all(|all| all.pieces().iter().all(|piece| piece.low == piece.high));
    let place = |low: u64, high: u64| if exact { low } else { histogram::bucket(low / 2 + high / 2) as u64 };
    let mut values: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for piece in a.pieces() {
        values.entry(place(piece.low, piece.high)).or_default().0 += piece.count;
    }
    for piece in b.pieces() {
        values.entry(place(piece.low, piece.high)).or_default().1 += piece.count;
    }
    let sum = |of: fn(&(u64, u64)) -> u64| values.values().map(of).sum::<u64>() as f64;
    let (n_a, n_b) = (sum(|counts| counts.0), sum(|counts| counts.1));
    let all = n_a + n_b;
    if n_a == 0.0 || n_b == 0.0 {
        return Rank { delta: 0.0, p: 1.0 };
    }
    let (mut below, mut balance, mut ties) = (0.0, 0.0, 0.0);
    for (of_a, of_b) in values.values().map(|(a, b)| (*a as f64, *b as f64)) {
        let above = n_a - below - of_a;
        balance += of_b * (below - above);
        below += of_a;
        let tied = of_a + of_b;
        ties += tied * (tied * tied - 1.0);
    }
    let delta = balance / (n_a * n_b);
    let variance = n_a * n_b / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)).max(1.0));
    // U differs from its mean by half the balance; half a step for continuity.
    let z = if variance > 0.0 { ((balance / 2.0).abs() - 0.5).max(0.0) / variance.sqrt() } else { 0.0 };
    Rank { delta, p: (2.0 * upper_tail(z)).min(1.0) }
}

/// Half width of the interval (95 in 100) around the difference of two means; a step where nothing spreads.
pub(super) fn mean_interval(a: &Distribution, b: &Distribution, step: f64) -> f64 {
    let variance = |all: &Distribution| {
        let mean = all.mean().unwrap_or(0.0);
        let square = |low: u64, high: u64| ((low as f64 + high as f64) / 2.0 - mean).powi(2);
        let sum: f64 = all.pieces().iter().map(|piece| piece.count as f64 * square(piece.low, piece.high)).sum();
        sum / (all.len().max(2) - 1) as f64 / all.len().max(1) as f64
    };
    let both = variance(a) + variance(b);
    if both > 0.0 { 1.96 * both.sqrt() } else { step }
}

/// The q-value of each p-value: the expected share of false alarms among all that are at least as clear (Benjamini, Hochberg).
pub(super) fn benjamini_hochberg(ps: &[f64]) -> Vec<f64> {
    let p = |index: usize| ps.get(index).copied().unwrap_or(1.0);
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| p(*b).total_cmp(&p(*a)));
    let mut qs = vec![1.0; ps.len()];
    let mut least: f64 = 1.0;
    for (rank, index) in (1..=ps.len()).rev().zip(order) {
        least = least.min(p(index) * ps.len() as f64 / rank as f64);
        if let Some(q) = qs.get_mut(index) {
            *q = least;
        }
    }
    qs
}

/// The chance that two shares differ as these do if they were one (Fisher's exact test, two-sided).
pub(super) fn fisher(a: (u64, u64), b: (u64, u64)) -> f64 {
    /// Beyond, a normal deviate is as good.
    const MOST: u64 = 10_000;
    let (hits, all) = (a.0 + b.0, a.1 + b.1);
    if hits == 0 || hits >= all || a.1 == 0 || b.1 == 0 || a.0 > a.1 || b.0 > b.1 {
        return 1.0;
    }
    if hits.min(all - hits) > MOST {
        let (p_a, p_b) = (a.0 as f64 / a.1 as f64, b.0 as f64 / b.1 as f64);
        let pooled = hits as f64 / all as f64;
        let deviation = (pooled * (1.0 - pooled) * (1.0 / a.1 as f64 + 1.0 / b.1 as f64)).sqrt();
        return (2.0 * upper_tail((p_a - p_b).abs() / deviation)).min(1.0);
    }
    // The rarer of the two sides: the support is as long as that.
    let (hits, of_a) = if hits <= all - hits { (hits, a.0) } else { (all - hits, a.1 - a.0) };
    let choose = |n: u64, k: u64| ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    let chance = |of_a: u64| (choose(a.1, of_a) + choose(b.1, hits - of_a) - choose(all, hits)).exp();
    let seen = chance(of_a) * (1.0 + 1e-7);
    let support = hits.saturating_sub(b.1)..=hits.min(a.1);
    support.map(chance).filter(|chance| *chance <= seen).sum::<f64>().min(1.0)
}

/// The logarithm of n!, by Stirling's series: nine digits from 16 on.
fn ln_factorial(n: u64) -> f64 {
    if n < 16 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let x = n as f64;
    x * x.ln() - x + (std::f64::consts::TAU * x).ln() / 2.0 + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Figures, Samples};

    fn sample(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut samples = Samples::new(1 << 20);
        values.into_iter().for_each(|value| samples.push(value));
        Distribution::of(&Figures::of_samples(samples))
    }

    #[test]
    fn ranks_tell_a_shift_from_the_same_again() {
        let a = sample((0..1000).map(|index| 100 + index % 7));
        assert_eq!(rank(&a, &a), Rank { delta: 0.0, p: 1.0 });
        let far = rank(&a, &sample((0..1000).map(|index| 200 + index % 7)));
        assert_eq!(far.delta, 1.0);
        assert!(far.p < 1e-100);
        let back = rank(&sample((0..1000).map(|index| 200 + index % 7)), &a);
        assert_eq!(back.delta, -1.0);
        // By hand: of a hundred pairs 72 rise, 7 are tied and 21 fall; the deviate is 1.89.
        let near = rank(&sample(1..=10), &sample(4..=13));
        assert!((near.delta - 0.51).abs() < 1e-9 && (near.p - 0.058).abs() < 0.006, "{near:?}");
        // All values alike: nothing can be said.
        assert_eq!(rank(&sample([5; 50]), &sample([5; 50])).p, 1.0);
    }

    #[test]
    fn a_sample_in_buckets_is_like_itself() {
        let values: Vec<u64> = (0..2000).map(|index| 1000 + index % 300).collect();
        let mut counts = vec![0_u32; histogram::STRIDE].into_boxed_slice();
        for value in &values {
            counts[histogram::bucket(*value)] += 1;
        }
        let figures = Figures::Buckets { counts, min: 1000, max: 1299, sum: values.iter().sum(), timed: 2000 };
        let rank = rank(&sample(values), &Distribution::of(&figures));
        assert!(rank.delta.abs() < 0.02 && rank.p > 0.1, "{rank:?}");
    }

    #[test]
    fn false_discoveries_are_counted_over_all_tests() {
        assert_eq!(benjamini_hochberg(&[0.01, 0.5, 0.02, 1.0]), [0.04, 0.5 * 4.0 / 3.0, 0.04, 1.0]);
        assert!(benjamini_hochberg(&[]).is_empty());
    }

    #[test]
    fn shares_are_compared_exactly() {
        // Fisher's own example: 3 of 4 cups and 1 of 4; then 8 of 10 and 1 of 10.
        assert!((fisher((3, 4), (1, 4)) - 0.4857).abs() < 1e-3);
        assert!((fisher((8, 10), (1, 10)) - 0.0055).abs() < 1e-3);
        assert!((fisher((2, 10), (9, 10)) - 0.0055).abs() < 1e-3, "the other side of the coin");
        assert_eq!((fisher((0, 10), (0, 10)), fisher((10, 10), (10, 10))), (1.0, 1.0));
        assert!((fisher((0, 1000), (1, 1000)) - 1.0).abs() < 1e-6);
        assert!(fisher((0, 1000), (20, 1000)) < 1e-5);
        // Large counts take the normal deviate, and agree.
        assert!(fisher((50_000, 1_000_000), (50_100, 1_000_000)) > 0.7);
        assert!(fisher((50_000, 1_000_000), (52_000, 1_000_000)) < 1e-9);
    }
}
