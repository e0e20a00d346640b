//! From pairs that changed to causes: a receiver, a sender, all; what is left, pair by pair.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Floors;
use super::statistics::{benjamini_hochberg, fisher};
use crate::stats::{median, robust};

/// The most causes of one group: beyond, nothing is like anything.
const CAUSES: usize = 16;

/// Whose a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// Everybody's.
    All,
    /// A core's as a receiver.
    Receiver(u16),
    /// A core's as a sender.
    Sender(u16),
    /// A core's.
    Core(u16),
    /// A pair's: sender, receiver.
    Pair(u16, u16),
}

impl Line {
    pub(super) const fn holds(self, from: u16, to: u16) -> bool {
        match self {
            Line::All => true,
            Line::Receiver(core) => to == core,
            Line::Sender(core) => from == core,
            Line::Core(core) => from == core && to == core,
            Line::Pair(sender, receiver) => from == sender && to == receiver,
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Line::All => f.write_str("all"),
            Line::Receiver(core) => write!(f, "receiver {core}"),
            Line::Sender(core) => write!(f, "sender {core}"),
            Line::Core(core) => write!(f, "core {core}"),
            Line::Pair(from, to) if from == to => write!(f, "core {from} to itself"),
            Line::Pair(from, to) => write!(f, "pair {from} to {to}"),
        }
    }
}

/// How a pair of a group changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shifted {
    pub from: u16,
    pub to: u16,
    /// What it took, ticks.
    pub usual: f64,
    /// How much longer it takes, ticks.
    pub shift: f64,
    /// The same of its shortest tenth.
    pub best: f64,
    pub delta: f64,
    pub q: f64,
}

/// Why some pairs of a group changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cause {
    pub line: Line,
    /// Ticks.
    pub effect: f64,
    /// What it was, ticks.
    pub usual: f64,
    pub delta: f64,
    pub q: f64,
    /// Pairs that changed, and those that the line has.
    pub pairs: usize,
    pub of: usize,
    /// The shortest latencies got longer (or shorter) by half of it at least.
    pub at_best: bool,
}

/// What is shifted among like pairs, the clearest first; each taken out before the next is looked for.
pub(super) fn shifts(list: &[Shifted], floors: Floors) -> Vec<Cause> {
    let mut rest = list.to_vec();
    let mut causes: Vec<Cause> = Vec::new();
    while causes.len() < CAUSES {
        // How much the same change differs among like pairs: what one pair shows beyond that is its own.
        let mut all: Vec<f64> = rest.iter().map(|pair| pair.shift).collect();
        let spread = if all.len() >= 4 { robust(&mut all, 0.0).map_or(0.0, |(_, spread)| spread) } else { 0.0 };
        let floor = |pair: &Shifted| floors.ticks.max(floors.share * pair.usual);
        let is_outside = |pair: &Shifted| {
            pair.q <= floors.false_share && pair.shift.abs() >= floor(pair).max(floors.spreads * spread)
        };
        let largest = |a: &&Shifted, b: &&Shifted| a.shift.abs().total_cmp(&b.shift.abs());
        let Some(worst) = rest.iter().filter(|pair| is_outside(pair)).max_by(largest).copied() else { break };
        // Who has half of what the worst has, and more than the floors, has the same: the spread sets one pair apart, and a line
        // of several needs it once.
        let same = rest.iter().filter(|pair| {
            let half = pair.shift.abs() >= worst.shift.abs() / 2.0 && pair.shift.abs() >= floor(pair);
            half && pair.q <= floors.false_share && (pair.shift > 0.0) == (worst.shift > 0.0)
        });
        let outside: BTreeSet<(u16, u16)> = same.map(|pair| (pair.from, pair.to)).collect();
        let measured: Vec<(u16, u16)> = rest.iter().map(|pair| (pair.from, pair.to)).collect();
        let line = whole(&measured, &outside)
            .filter(|line| line.holds(worst.from, worst.to))
            .unwrap_or(Line::Pair(worst.from, worst.to));
        if causes.iter().any(|cause| cause.line == line) {
            break;
        }
        let held = |pair: &&Shifted| line.holds(pair.from, pair.to) && outside.contains(&(pair.from, pair.to));
        let changed: Vec<Shifted> = rest.iter().filter(held).copied().collect();
        let middle =
            |of: &dyn Fn(&Shifted) -> f64| median(&mut changed.iter().map(of).collect::<Vec<f64>>()).unwrap_or(0.0);
        let (effect, best) = (middle(&|pair| pair.shift), middle(&|pair| pair.best));
        causes.push(Cause {
            line,
            effect,
            usual: middle(&|pair| pair.usual),
            delta: middle(&|pair| pair.delta),
            q: changed.iter().map(|pair| pair.q).fold(0.0, f64::max),
            pairs: changed.len(),
            of: measured.iter().filter(|(from, to)| line.holds(*from, *to)).count(),
            at_best: best * effect > 0.0 && best.abs() >= effect.abs() / 2.0,
        });
        for pair in rest.iter_mut().filter(|pair| line.holds(pair.from, pair.to)) {
            pair.shift -= effect;
        }
    }
    causes
}

/// All, or the receiver or sender with the most pairs outside, where at least two and three quarters of its pairs are.
fn whole(measured: &[(u16, u16)], outside: &BTreeSet<(u16, u16)>) -> Option<Line> {
    let is_whole = |all: usize, out: usize| out >= 2 && out * 4 >= all * 3;
    if is_whole(measured.len(), outside.len()) {
        return Some(Line::All);
    }
    let mut lines: BTreeMap<Line, (usize, usize)> = BTreeMap::new();
    for (from, to) in measured.iter().filter(|(from, to)| from != to) {
        for line in [Line::Receiver(*to), Line::Sender(*from)] {
            let (all, out) = lines.entry(line).or_default();
            *all += 1;
            *out += usize::from(outside.contains(&(*from, *to)));
        }
    }
    // The most pairs; of equals the fullest line; of those, receivers before senders.
    let whole = lines.into_iter().filter(|(_, (all, out))| is_whole(*all, *out));
    whole
        .max_by(|(a, (a_all, a_out)), (b, (b_all, b_out))| {
            a_out.cmp(b_out).then(b_all.cmp(a_all)).then_with(|| b.cmp(a))
        })
        .map(|(line, _)| line)
}

/// How often something happened to a pair on both sides: so many of so many.
pub(super) type Often = ((u16, u16), (u64, u64), (u64, u64));

/// Why something happens more or less often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub line: Line,
    pub a: (u64, u64),
    pub b: (u64, u64),
    pub p: f64,
    pub q: f64,
    pub pairs: usize,
}

impl Rate {
    const fn of(line: Line) -> Self {
        Rate { line, a: (0, 0), b: (0, 0), p: 1.0, q: 0.0, pairs: 0 }
    }

    const fn add(&mut self, a: (u64, u64), b: (u64, u64)) {
        self.a = (self.a.0 + a.0, self.a.1 + a.1);
        self.b = (self.b.0 + b.0, self.b.1 + b.1);
        self.pairs += 1;
    }
}

/// So many of so many.
pub(super) fn share((hits, all): (u64, u64)) -> f64 {
    hits as f64 / all.max(1) as f64
}

/// Shares that changed. `hard`: what never happened before and does now is a change, however rare.
pub(super) fn rates(list: &[Often], floors: Floors, hard: bool) -> Vec<Rate> {
    let ps: Vec<f64> = list.iter().map(|(_, a, b)| fisher(*a, *b)).collect();
    let is_outside = |a: (u64, u64), b: (u64, u64), q: f64| {
        if hard && a.0 == 0 && b.0 > 0 {
            return true;
        }
        let change = (share(b) - share(a)).abs();
        q <= floors.false_share && (hard || (change >= floors.rate && change >= floors.share * share(a)))
    };
    let mut causes = Vec::new();
    let mut rest: Vec<(Often, f64)> = list.iter().copied().zip(benjamini_hochberg(&ps)).collect();
    for grew in [true, false] {
        let outside = |rest: &[(Often, f64)]| -> BTreeSet<(u16, u16)> {
            let pairs = rest.iter().filter(|((_, a, b), q)| is_outside(*a, *b, *q) && (share(*b) > share(*a)) == grew);
            pairs.map(|((pair, ..), _)| *pair).collect()
        };
        while let out = outside(&rest)
            && let Some(first) = out.first()
        {
            let measured: Vec<(u16, u16)> = rest.iter().map(|((pair, ..), _)| *pair).collect();
            let line = whole(&measured, &out).unwrap_or(Line::Pair(first.0, first.1));
            let held = |pair: &(u16, u16)| line.holds(pair.0, pair.1) && out.contains(pair);
            let mut cause = Rate::of(line);
            for ((_, a, b), q) in rest.iter().filter(|((pair, ..), _)| held(pair)) {
                cause.add(*a, *b);
                cause.q = cause.q.max(*q);
            }
            cause.p = fisher(cause.a, cause.b);
            rest.retain(|((pair, ..), _)| !held(pair));
            causes.push(cause);
        }
    }
    if !hard {
        causes.extend(common(&rest, |line| is_outside(line.a, line.b, line.q)));
    }
    causes
}

/// What is too rare to be seen pair by pair may show in what the pairs of a core have in common.
fn common(rest: &[(Often, f64)], is_outside: impl Fn(&Rate) -> bool) -> Option<Rate> {
    let mut lines: BTreeMap<Line, Rate> = BTreeMap::new();
    for (((from, to), a, b), _) in rest {
        let several = [Line::Receiver(*to), Line::Sender(*from), Line::All];
        for line in several.into_iter().filter(|line| from != to || *line == Line::All) {
            lines.entry(line).or_insert(Rate::of(line)).add(*a, *b);
        }
    }
    let mut lines: Vec<Rate> = lines.into_values().filter(|line| line.pairs > 1).collect();
    lines.iter_mut().for_each(|line| line.p = fisher(line.a, line.b));
    let qs = benjamini_hochberg(&lines.iter().map(|line| line.p).collect::<Vec<f64>>());
    lines.iter_mut().zip(qs).for_each(|(line, q)| line.q = q);
    // Where one pair has half of the change, it is that pair's, and too rare to be told.
    let is_shared = |line: &Rate| {
        let excess = |b: (u64, u64)| b.0 as f64 - share(line.a) * b.1 as f64;
        let all = excess(line.b).abs();
        let mut pairs = rest.iter().filter(|(((from, to), ..), _)| line.line.holds(*from, *to));
        pairs.all(|((_, _, b), _)| excess(*b).abs() < all / 2.0)
    };
    let shared = lines.into_iter().filter(|line| is_outside(line) && is_shared(line));
    shared.min_by(|a, b| a.p.total_cmp(&b.p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::VerdictScope;

    fn floors() -> Floors {
        Floors::of(VerdictScope::Silicon, 16.0, 1.0)
    }

    fn pairs(cores: u16) -> impl Iterator<Item = (u16, u16)> {
        (0..cores).flat_map(move |from| (0..cores).map(move |to| (from, to))).filter(|(from, to)| from != to)
    }

    fn matrix(cores: u16, shift: impl Fn(u16, u16) -> f64) -> Vec<Shifted> {
        pairs(cores)
            .map(|(from, to)| {
                let shift = shift(from, to);
                Shifted { from, to, usual: 100.0, shift, best: shift, delta: shift.signum(), q: 1e-9 }
            })
            .collect()
    }

    fn lines(list: &[Shifted]) -> Vec<Line> {
        shifts(list, floors()).into_iter().map(|cause| cause.line).collect()
    }

    #[test]
    fn one_cause_is_one_line() {
        assert!(lines(&matrix(4, |_, _| 0.0)).is_empty());
        assert_eq!(lines(&matrix(4, |_, to| if to == 2 { 500.0 } else { 0.0 })), [Line::Receiver(2)]);
        assert_eq!(lines(&matrix(4, |from, _| if from == 1 { -50.0 } else { 0.0 })), [Line::Sender(1)]);
        assert_eq!(lines(&matrix(4, |from, to| if (from, to) == (3, 0) { 90.0 } else { 0.0 })), [Line::Pair(3, 0)]);
        assert_eq!(lines(&matrix(4, |from, to| 40.0 + f64::from(from + to) / 10.0)), [Line::All]);
        let both = matrix(8, |from, to| if to == 2 { 500.0 } else { 0.0 } + if from == 5 { 90.0 } else { 0.0 });
        let mut found = lines(&both);
        found.sort();
        assert_eq!(found, [Line::Receiver(2), Line::Sender(5)]);
        let shift = |from| match from {
            5 => 90.0,
            6 => -60.0,
            _ => 0.0,
        };
        let found: Vec<(Line, f64)> = shifts(&matrix(8, |from, _| shift(from)), floors())
            .into_iter()
            .map(|cause| (cause.line, cause.effect))
            .collect();
        assert_eq!(found, [(Line::Sender(5), 90.0), (Line::Sender(6), -60.0)]);
    }

    #[test]
    fn a_line_of_pairs_need_not_stand_out_one_by_one() {
        // Pairs differ by up to 9 from run to run; those of receiver 2 by 45 to 60 more.
        let shift = |from: u16, to: u16| {
            let own = f64::from((from * 5 + to * 3) % 7) * 3.0 - 9.0;
            own + if to == 2 { 45.0 + f64::from(from) * 5.0 } else { 0.0 }
        };
        assert_eq!(lines(&matrix(4, shift)), [Line::Receiver(2)]);
    }

    #[test]
    fn what_is_below_the_floors_or_not_sure_is_no_change() {
        assert!(lines(&matrix(4, |_, to| if to == 2 { 9.0 } else { 0.0 })).is_empty());
        let unsure: Vec<Shifted> =
            matrix(4, |_, _| 500.0).into_iter().map(|pair| Shifted { q: 0.02, ..pair }).collect();
        assert!(lines(&unsure).is_empty());
        // Pairs that all changed at random: none of them is more than its like.
        assert!(lines(&matrix(5, |from, to| f64::from((from * 7 + to * 5) % 11) * 8.0 - 40.0)).is_empty());
    }

    fn often(cores: u16, b: impl Fn(u16, u16) -> u64) -> Vec<Often> {
        pairs(cores).map(|(from, to)| ((from, to), (0, 1000), (b(from, to), 1000))).collect()
    }

    #[test]
    fn what_was_never_lost_before_is_a_change_and_the_rest_needs_a_test() {
        let of = |list: &[Often], hard: bool| -> Vec<(Line, u64)> {
            rates(list, floors(), hard).into_iter().map(|cause| (cause.line, cause.b.0)).collect()
        };
        let one = often(4, |from, to| u64::from((from, to) == (0, 1)));
        assert_eq!(of(&one, true), [(Line::Pair(0, 1), 1)]);
        assert!(of(&one, false).is_empty());
        assert_eq!(of(&often(4, |_, to| u64::from(to == 2) * 3), true), [(Line::Receiver(2), 9)]);
        assert_eq!(of(&often(4, |_, to| u64::from(to == 2) * 300), false), [(Line::Receiver(2), 900)]);
        assert!(of(&often(4, |_, _| 0), true).is_empty());
        // The other way round it takes a test.
        let back = |list: Vec<Often>| list.into_iter().map(|(pair, a, b)| (pair, b, a)).collect::<Vec<Often>>();
        assert!(of(&back(one), true).is_empty());
        assert_eq!(of(&back(often(4, |_, _| 50)), true), [(Line::All, 0)]);
    }

    #[test]
    fn what_is_too_rare_for_a_pair_may_be_clear_for_a_core() {
        let tail = Floors { rate: 0.001, share: 2.0, ..floors() };
        let list = often(8, |_, to| u64::from(to == 3) * 4);
        let found: Vec<Line> = rates(&list, tail, false).into_iter().map(|cause| cause.line).collect();
        assert_eq!(found, [Line::Receiver(3)]);
        assert!(rates(&often(8, |from, to| u64::from((from, to) == (0, 3)) * 4), tail, false).is_empty());
    }
}
