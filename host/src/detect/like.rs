//! Like against like: which lines and pairs of a group of pairs stand apart, and how surely.
//!
//! Everything is decided by counts, so no distribution is assumed. What is usual is what the median pair does: its median, its upper
//! tenth, its upper hundredth, its longest. From each of these *usual* lengths follows a *late* one, which grants whoever is tested a
//! quarter more, two ticks, and the spread that the levels of like pairs have anyway. How often somebody exceeds the late length
//! is compared with how often the others exceed half of what is granted: who is like the others to within the other half does so no
//! more often, and how improbable it is that he does is known exactly (Fisher).
//!
//! Whoever has half of his latencies late is shifted as a whole. Of all others, a tail is counted from their own level: a pair that
//! is a little slower has the longer of its latencies a little later, and that is granted.
//!
//! One IPI of each pair may be late for nothing: the first goes through cold caches.

use std::collections::{BTreeMap, BTreeSet};

use crate::stats::{Figures, ln_more_often, median};

/// Shares of a pair's latencies that don't exceed its lengths.
pub(super) const SHARES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

/// One for each of [`SHARES`].
pub(super) type Each<T> = [T; SHARES.len()];

/// A pair's lengths, ticks.
pub(super) type Lengths = Each<f64>;

/// A late length exceeds the usual one by this many ticks …
pub(super) const TICKS: f64 = 2.0;
/// … and by this share: wires differ in length …
pub(super) const SHARE: f64 = 0.25;
/// … and by so many robust deviations of the levels of like pairs (or lines): whatever makes those differ.
const DEVIATIONS: f64 = 5.0;

/// The fewest late ones, beside the one that may be: one event of the world can make two or three in a row late.
const FEWEST_LATE: u64 = 3;

/// The fewest pairs of a group: of two, nobody can say which is wrong.
pub(super) const FEWEST_PAIRS: usize = 3;

/// The chance below which the rest of a line, without its latest quarter, is late by itself. That something is late is then known;
/// this decides between the line and its pairs.
const REST_OF_LINE: f64 = 0.001;

/// The most causes of one group: beyond, nothing is like anything.
const CAUSES: usize = 16;

/// Pairs that are explained together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    /// All to one receiver.
    Receiver(u16),
    /// All from one sender.
    Sender(u16),
    /// All from and to one core.
    Core(u16),
    /// One pair.
    Pair(u16, u16),
}

impl Line {
    pub(super) const fn holds(self, from: u16, to: u16) -> bool {
        match self {
            Line::Receiver(core) => to == core,
            Line::Sender(core) => from == core,
            Line::Core(core) => from == core || to == core,
            Line::Pair(sender, receiver) => from == sender && to == receiver,
        }
    }
}

/// What is usual in a group, and what is late by it, ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bound {
    /// What the median pair does.
    pub usual: u64,
    /// Half of what is granted beyond it.
    pub between: u64,
    /// Beyond this, a pair's are late.
    pub pair: u64,
    /// Beyond this, a line's are late.
    pub line: u64,
}

/// The bounds of a group; the first is that of medians.
pub(super) type Bounds = Each<Bound>;

/// One pair of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    pub from: u16,
    pub to: u16,
    /// Its latencies.
    pub n: u64,
    /// How many exceed the late length for pairs, for each bound: as many as surely do.
    pub pair_late: Each<u64>,
    /// The same, each length moved by what the pair's level exceeds the usual one.
    pub pair_tail: Each<u64>,
    /// How many exceed the late length for lines.
    pub line_late: Each<u64>,
    /// The same, moved.
    pub line_tail: Each<u64>,
    /// How many exceed half of what is granted: as many as may.
    pub above: Each<u64>,
}

impl Cell {
    /// Of these figures.
    pub(super) fn of(from: u16, to: u16, figures: &Figures, bounds: &Bounds) -> Self {
        let above = |by: u64, of: &dyn Fn(&Bound) -> u64| bounds.map(|bound| figures.above(of(&bound) + by));
        let by = moved(figures.quantile(0.5).unwrap_or(0), bounds);
        Cell {
            from,
            to,
            n: figures.len(),
            pair_late: above(0, &|bound| bound.pair),
            pair_tail: above(by, &|bound| bound.pair),
            line_late: above(0, &|bound| bound.line),
            line_tail: above(by, &|bound| bound.line),
            above: bounds.map(|bound| figures.above_at_most(bound.between)),
        }
    }
}

/// By how much a tail's lengths are moved for a pair of this level, ticks.
pub(super) fn moved(level: u64, bounds: &Bounds) -> u64 {
    level.saturating_sub(bounds[0].usual)
}

/// A line or pair that stands apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Apart {
    pub line: Line,
    /// Index of the bound that shows it most clearly.
    pub bound: usize,
    /// Whether half of its latencies or more are late by the first bound: it is shifted as a whole.
    pub middle: bool,
    /// Logarithm of the chance.
    pub chance: f64,
    /// Its latencies.
    pub n: u64,
    /// Its pairs, and those of them that have late ones.
    pub pairs: (usize, usize),
    /// The others' latencies beyond half of what is granted, all the others', and their pairs.
    pub others: (u64, u64, usize),
}

/// The bounds of a group. `levels`: sender, receiver, and the pair's lengths.
pub(super) fn bounds(levels: &[(u16, u16, Lengths)]) -> Bounds {
    // Faults only make slower: the closest half of the values tells how far apart those are that have none.
    let spread = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        let half = values.len() / 2;
        let closest = values.iter().zip(values.iter().skip(half)).map(|(low, high)| high - low).min_by(f64::total_cmp);
        // Half of that range is what the median absolute deviation would be, and half a tick of it is rounding.
        1.4826 * (closest.unwrap_or(0.0) / 2.0 - 0.5).max(0.0)
    };
    let pairs = spread(levels.iter().map(|level| level.2[0]).collect());
    // A line's level is steadier than a pair's: it has many.
    let of_lines = |of: &dyn Fn(&(u16, u16, Lengths)) -> u16| {
        let mut lines: BTreeMap<u16, Vec<f64>> = BTreeMap::new();
        for level in levels {
            lines.entry(of(level)).or_default().push(level.2[0]);
        }
        spread(lines.into_values().filter_map(|mut line| median(&mut line)).collect())
    };
    let lines = of_lines(&|level| level.0).max(of_lines(&|level| level.1));
    let mut bounds = Bounds::default();
    for (at, bound) in bounds.iter_mut().enumerate() {
        let mut lengths: Vec<f64> = levels.iter().map(|level| level.2[at]).collect();
        let usual = median(&mut lengths).unwrap_or(0.0).ceil();
        let granted = |spread: f64| TICKS.max(SHARE * usual).max(DEVIATIONS * spread);
        let lines = granted(lines.min(pairs));
        *bound = Bound {
            usual: usual as u64,
            between: (usual + (lines / 2.0).floor()) as u64,
            pair: (usual + granted(pairs)).ceil() as u64,
            line: (usual + lines).ceil() as u64,
        };
    }
    bounds
}

/// Pairs, rows and columns that are tested in a group.
pub(super) fn tests(cells: &[Cell]) -> u64 {
    if cells.len() < FEWEST_PAIRS {
        return 0;
    }
    let lines = members(cells);
    (cells.len() + lines.iter().filter(|(_, line)| line.len() >= 2).count()) as u64
}

/// The pairs of each row and column; pairs of a core with itself stand in none.
fn members(cells: &[Cell]) -> Vec<(Line, Vec<usize>)> {
    let (mut to, mut from) = (BTreeMap::<u16, Vec<usize>>::new(), BTreeMap::<u16, Vec<usize>>::new());
    for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.from != cell.to) {
        to.entry(cell.to).or_default().push(at);
        from.entry(cell.from).or_default().push(at);
    }
    let receivers = to.into_iter().map(|(core, line)| (Line::Receiver(core), line));
    receivers.chain(from.into_iter().map(|(core, line)| (Line::Sender(core), line))).collect()
}

/// What stands apart, the clearest first, each taken out before the next is looked for. `cut`: the logarithm of the chance that the
/// first may have at most; later ones may have so much more as there were before them.
pub(super) fn peel(cells: &[Cell], bounds: &Bounds, cut: f64) -> Vec<Apart> {
    let mut found: Vec<Apart> = Vec::new();
    if cells.len() < FEWEST_PAIRS {
        return found;
    }
    let mut lines = members(cells);
    let mut there: Vec<bool> = vec![true; cells.len()];
    // Bounds that are the same make one test.
    let different = bounds.iter().map(|bound| bound.usual).collect::<BTreeSet<_>>().len();
    let several = (different as f64).ln();
    while found.len() < CAUSES {
        let cut = cut + ((found.len() + 1) as f64).ln();
        let all = Sum::of(cells.iter().zip(&there).filter(|(_, there)| **there).map(|(cell, _)| cell), true);
        for (_, line) in &mut lines {
            line.retain(|at| there.get(*at).copied().unwrap_or(false));
        }
        lines.retain(|(_, line)| line.len() >= 2);
        let best_line = lines
            .iter()
            .filter_map(|(line, members)| line_apart(*line, members, cells, &all, cut - several))
            .min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.line.cmp(&b.0.line)))
            .map(|(apart, _)| apart);
        let best = best_line.or_else(|| {
            let pairs = cells.iter().zip(&there).filter(|(_, there)| **there);
            let apart = pairs.filter_map(|(cell, _)| {
                let own = Sum::of([cell].into_iter(), false);
                own.apart(Line::Pair(cell.from, cell.to), &all.without(&Sum::of([cell].into_iter(), true)))
            });
            apart.filter(|apart| apart.chance <= cut - several).min_by(|a, b| a.chance.total_cmp(&b.chance))
        });
        let Some(mut best) = best else { break };
        best.chance = (best.chance + several).min(0.0);
        for (cell, there) in cells.iter().zip(&mut there) {
            *there &= !best.line.holds(cell.from, cell.to);
        }
        found.push(best);
    }
    found
}

/// A line that stands apart, with the chance of its rest.
fn line_apart(line: Line, members: &[usize], cells: &[Cell], all: &Sum, cut: f64) -> Option<(Apart, f64)> {
    let own = || members.iter().filter_map(|at| cells.get(*at));
    let sum = Sum::of(own(), true);
    let others = all.without(&sum);
    let apart = sum.apart(line, &others)?;
    if apart.chance > cut {
        return None;
    }
    // One or two bad pairs don't make a bad line: it is late without the latest quarter of its pairs, or not as a line.
    let late = |cell: &Cell| if apart.middle { cell.line_late[apart.bound] } else { cell.line_tail[apart.bound] };
    let mut rest: Vec<&Cell> = own().collect();
    rest.sort_by(|a, b| (late(b) as f64 / b.n.max(1) as f64).total_cmp(&(late(a) as f64 / a.n.max(1) as f64)));
    let rest = Sum::of(rest.into_iter().skip(members.len().div_ceil(4)), true);
    let late = if apart.middle { rest.late[apart.bound] } else { rest.tail[apart.bound] };
    let chance = ln_more_often(late, rest.n, others.above[apart.bound], others.n);
    (chance <= REST_OF_LINE.ln() && rest.middle() == apart.middle).then_some((apart, chance))
}

/// Pairs together.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    pairs: usize,
    n: u64,
    /// Late ones.
    late: Each<u64>,
    /// Late ones by the moved lengths, but the one of each pair that may be late for nothing.
    tail: Each<u64>,
    /// Pairs with any of these.
    late_pairs: Each<usize>,
    tail_pairs: Each<usize>,
    above: Each<u64>,
}

impl Sum {
    fn of<'a>(cells: impl Iterator<Item = &'a Cell>, line: bool) -> Sum {
        let mut sum = Sum::default();
        for cell in cells {
            sum.pairs += 1;
            sum.n += cell.n;
            let (late, tail) =
                if line { (&cell.line_late, &cell.line_tail) } else { (&cell.pair_late, &cell.pair_tail) };
            for at in 0..SHARES.len() {
                sum.late[at] += late[at];
                sum.tail[at] += tail[at].saturating_sub(1);
                sum.late_pairs[at] += usize::from(late[at] > 1);
                sum.tail_pairs[at] += usize::from(tail[at] > 1);
                sum.above[at] += cell.above[at];
            }
        }
        sum
    }

    fn without(&self, other: &Sum) -> Sum {
        let mut rest = *self;
        rest.pairs -= other.pairs;
        rest.n -= other.n;
        for at in 0..SHARES.len() {
            rest.above[at] -= other.above[at];
        }
        rest
    }

    /// Whether it is shifted as a whole.
    fn middle(&self) -> bool {
        self.late[0] * 2 >= self.n
    }

    /// By its clearest bound, if anything of it is late.
    fn apart(&self, line: Line, others: &Sum) -> Option<Apart> {
        if others.pairs < FEWEST_PAIRS - 1 {
            return None;
        }
        let middle = self.middle();
        let (late, pairs) = if middle { (&self.late, &self.late_pairs) } else { (&self.tail, &self.tail_pairs) };
        let test = |bound: usize| {
            (late[bound] >= FEWEST_LATE).then(|| Apart {
                line,
                bound,
                middle,
                chance: ln_more_often(late[bound], self.n, others.above[bound], others.n),
                n: self.n,
                pairs: (self.pairs, pairs[bound]),
                others: (others.above[bound], others.n, others.pairs),
            })
        };
        (0..SHARES.len()).filter_map(test).min_by(|a, b| a.chance.total_cmp(&b.chance))
    }
}
