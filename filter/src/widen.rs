//! The neighbours of what is picked, in one pass and bounded memory.

use std::collections::VecDeque;

use crate::Around;
use crate::fields::Clock;
use crate::program::convert;

/// The most rows that are kept for a pick that may come, and so the most that `around` can ask for.
pub const MOST_NEIGHBOURS: u64 = 1 << 20;

/// Gives rows on with their neighbours ([`Filter::neighbours`](crate::Filter::neighbours)), each once, in the order in
/// which they came.
#[derive(Debug, Clone)]
pub struct Widen<T> {
    reach: Reach,
    /// Rows that were not given on, the oldest first, with their times.
    before: VecDeque<(u64, T)>,
    /// What the last pick still reaches: so many rows, or rows up to this time.
    after: u64,
    forgotten: u64,
}

#[derive(Debug, Clone, Copy)]
enum Reach {
    Nothing,
    Rows(u64),
    /// In the rows' unit.
    Span(u64),
}

impl<T> Widen<T> {
    /// For rows whose times have this unit.
    #[must_use]
    pub fn new(around: Option<Around>, clock: Clock) -> Widen<T> {
        let reach = match around {
            None => Reach::Nothing,
            Some(Around::Rows(rows)) => Reach::Rows(rows.min(MOST_NEIGHBOURS)),
            // A span that is no time of this clock reaches nothing; the parser lets none pass.
            Some(Around::Within(span)) => match convert(span, clock) {
                Some(Some((span, _))) => Reach::Span(span),
                Some(None) => Reach::Span(u64::MAX),
                None => Reach::Nothing,
            },
        };
        Widen { reach, before: VecDeque::new(), after: 0, forgotten: 0 }
    }

    /// Takes the next row, its time and whether it is picked; gives on what is known to belong to the result, and
    /// whether that was itself picked.
    pub fn push(&mut self, row: T, t: u64, picked: bool, mut give: impl FnMut(T, bool)) {
        if let Reach::Span(span) = self.reach {
            while self.before.front().is_some_and(|(then, _)| t.saturating_sub(*then) > span) {
                self.before.pop_front();
            }
        }
        if picked {
            self.before.drain(..).for_each(|(_, row)| give(row, false));
            give(row, true);
            self.after = match self.reach {
                Reach::Nothing => 0,
                Reach::Rows(rows) => rows,
                // Exclusive, so that 0 is nothing.
                Reach::Span(span) => t.saturating_add(span).saturating_add(1),
            };
            return;
        }
        match self.reach {
            Reach::Nothing => {}
            Reach::Rows(_) if self.after > 0 => {
                self.after -= 1;
                give(row, false);
            }
            Reach::Span(_) if t < self.after => give(row, false),
            Reach::Rows(rows) => {
                self.before.push_back((t, row));
                if self.before.len() as u64 > rows {
                    self.before.pop_front();
                }
            }
            Reach::Span(_) => {
                self.before.push_back((t, row));
                if self.before.len() as u64 > MOST_NEIGHBOURS {
                    self.before.pop_front();
                    self.forgotten += 1;
                }
            }
        }
    }

    /// How many rows were let go for want of memory while they lay within the span of a pick that might have come.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Amount;

    fn widened(around: Option<Around>, clock: Clock, rows: &[(u64, bool)]) -> Vec<(u64, bool)> {
        let mut widen = Widen::new(around, clock);
        let mut all = Vec::new();
        for (t, picked) in rows {
            widen.push(*t, *t, *picked, |t, picked| all.push((t, picked)));
        }
        assert_eq!(widen.forgotten(), 0);
        all
    }

    #[test]
    fn neighbours_come_once_and_in_order() {
        let picks = |which: &[u64]| (0..20).map(|t| (t * 10, which.contains(&t))).collect::<Vec<_>>();
        let times = |all: Vec<(u64, bool)>| all.into_iter().map(|(t, _)| t / 10).collect::<Vec<_>>();
        let rows = |n| Some(Around::Rows(n));
        assert_eq!(times(widened(None, Clock::Ns, &picks(&[3, 9]))), [3, 9]);
        assert_eq!(times(widened(rows(1), Clock::Ns, &picks(&[3, 9]))), [2, 3, 4, 8, 9, 10]);
        assert_eq!(times(widened(rows(2), Clock::Ns, &picks(&[0, 3, 19]))), [0, 1, 2, 3, 4, 5, 17, 18, 19]);
        assert_eq!(widened(rows(1), Clock::Ns, &picks(&[5, 6])), [(40, false), (50, true), (60, true), (70, false)]);
        let span = |ns| Some(Around::Within(Amount::Ns(ns)));
        assert_eq!(times(widened(span(20), Clock::Ns, &picks(&[3, 9]))), [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]);
        assert_eq!(times(widened(span(9), Clock::Ns, &picks(&[3]))), [3]);
        assert_eq!(times(widened(span(u64::MAX), Clock::Ns, &picks(&[19]))).len(), 20);
        // 10 ticks of 1 MHz are 10 us.
        assert_eq!(times(widened(span(10_000), Clock::Ticks(1_000_000), &picks(&[3]))), [2, 3, 4]);
        assert_eq!(times(widened(Some(Around::Within(Amount::Ticks(10))), Clock::Ticks(1), &picks(&[3]))), [2, 3, 4]);
    }

    #[test]
    fn a_long_span_keeps_no_more_than_it_may() {
        let mut widen = Widen::new(Some(Around::Within(Amount::Ns(u64::MAX))), Clock::Ns);
        for t in 0..MOST_NEIGHBOURS + 3 {
            widen.push((), t, false, |(), _| panic!("nothing is picked"));
        }
        assert_eq!((widen.before.len() as u64, widen.forgotten()), (MOST_NEIGHBOURS, 3));
    }
}
