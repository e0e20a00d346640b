//! The one expression language of every verb that reads events: `target & CPUS{4} && latency > 10us`.
//!
//! `docs/filters.md` is the language in one page. The spelling is that of Linux's event filters and of trace-cmd
//! (`Documentation/trace/events.rst`, 5.1) where they have one, so that what a kernel engineer types by habit works;
//! what they lack (durations, pairs, ranges, outcomes, neighbours) is added, and a mistake is shown at its place.
//!
//! text -> [`Filter::parse`] with a [`Schema`] -> tree (printed, explained, turned into Linux's filters) -> a flat
//! program that is run against each [`Row`] without allocating.
//!
//! # Three-valued logic
//!
//! A row need not have every field: a reception whose sender's record was lapped has no `latency`. A comparison of a
//! field that the row lacks is neither true nor false but *unknown*, as in SQL: `!` of unknown is unknown, `&&` with
//! false is false, `||` with true is true. A row is picked only where the whole is true, so `latency > 10us` and
//! `!(latency > 10us)` both leave out a row without a latency, and so does `latency != 10us`.

// No input makes the host panic. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

mod error;
mod expr;
mod fields;
mod kernel;
mod parse;
mod program;
#[cfg(test)]
mod tests;
mod value;
mod widen;

pub use error::FilterError;
pub use fields::{Clock, FIELDS, Field, FieldId, Linux, Schema, Type};
pub use kernel::{KernelError, KernelFilter};
pub use parse::{LONGEST, MOST_DEPTH};
pub use program::{Cpus, Row};
pub use value::{Amount, CpuSet, MOST_CPUS};
pub use widen::{MOST_NEIGHBOURS, Widen};

use expr::Expr;
use program::Program;

/// A filter: read from text, ready to be asked of rows.
#[derive(Debug, Clone)]
pub struct Filter {
    schema: Schema,
    expr: Expr,
    around: Option<Around>,
    program: Program,
}

/// How far the neighbours of a picked row reach (`around(EXPR, 20)`), to both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// So many rows before and after.
    Rows(u64),
    /// So long before and after; [`Amount::Ns`] or [`Amount::Ticks`].
    Within(Amount),
}

/// A percentile that a filter compares a field with (`latency > p99.9`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentile {
    /// Of which field's values.
    pub field: FieldId,
    /// In percent, 0 to 100.
    pub percent: f64,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    ///
    /// What is wrong, at which place, and what could stand there.
    pub fn parse(text: &str, schema: &Schema) -> Result<Filter, FilterError> {
        let (expr, around) = parse::parse(text, schema)?;
        let program = Program::new(&expr, schema, &mut |_| None);
        Ok(Filter { schema: *schema, expr, around, program })
    }

    /// Whether a row is picked: the whole is true of it, not false and not unknown.
    #[inline]
    pub fn picks<R: Row + ?Sized>(&self, row: &R) -> bool {
        self.program.picks(row)
    }

    /// Around what is picked, how much more belongs to it: [`Widen`] adds it, told row by row what is picked.
    #[must_use]
    pub fn neighbours(&self) -> Option<Around> {
        self.around
    }

    /// The percentiles that it compares with, each once. Until [`Filter::resolve`] told them, such a comparison is
    /// unknown.
    #[must_use]
    pub fn percentiles(&self) -> Vec<Percentile> {
        let mut all = Vec::new();
        self.expr.tests(&mut |test| {
            for millionths in test.percentiles() {
                let one = Percentile { field: test.field, percent: f64::from(millionths) / 1e6 };
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        });
        all
    }

    /// The fields that it asks for, each once, in the order of the schema.
    #[must_use]
    pub fn fields(&self) -> Vec<FieldId> {
        let mut all = Vec::new();
        self.expr.tests(&mut |test| all.push(test.field));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Tells it the percentiles, in the rows' unit ([`Clock`]); `None` where the sample carries none, and the
    /// comparison stays unknown.
    pub fn resolve(&mut self, mut percentile: impl FnMut(Percentile) -> Option<u64>) {
        self.program = Program::new(&self.expr, &self.schema, &mut percentile);
    }

    /// The schema it was read with.
    #[must_use]
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// What it picks, in words: one node a line, what belongs together indented alike.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = String::new();
        match self.around {
            None => text.push_str("picks what this is true of:\n"),
            Some(Around::Rows(1)) => text.push_str("picks what this is true of, and one row before and after:\n"),
            Some(Around::Rows(rows)) => {
                text.push_str(&format!("picks what this is true of, and {rows} rows before and after:\n"));
            }
            Some(Around::Within(span)) => {
                text.push_str(&format!("picks what this is true of, and all within {span} before and after:\n"));
            }
        }
        self.expr.explain(self.schema.fields, 1, &mut text);
        text.push_str(
            "A comparison of what a row does not have is unknown, and so is its opposite: neither picks the row.\n",
        );
        text
    }

    /// The same in the kernel: what to write to `events/ipi/EVENT/filter` of Linux 6.6 or newer, for each event of
    /// sending that it can pick.
    ///
    /// # Errors
    ///
    /// The first part that the kernel can't ask for, or that it picks none of these events.
    pub fn kernel(&self) -> Result<Vec<KernelFilter>, KernelError> {
        kernel::filters(self)
    }
}

/// As it was read, whatever the rows' clock.
impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.expr == other.expr && self.around == other.around
    }
}

/// The canonical text: what [`Filter::parse`] reads as the same filter.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let expr = self.expr.shown(self.schema.fields);
        match self.around {
            None => write!(f, "{expr}"),
            Some(Around::Rows(rows)) => write!(f, "around({expr}, {rows})"),
            Some(Around::Within(span)) => write!(f, "around({expr}, {span})"),
        }
    }
}
