//! A filter as a flat list of checks with two jumps each, and what a row must tell.
//!
//! Negations are pushed down to the comparisons first (De Morgan's laws hold with three values), so that each check
//! needs to know one thing only: does its comparison hold (or, negated, is it known not to hold)? Unknown then fails
//! like false, and the two jumps give `&&` and `||` their short cuts. Linux compiles its filters the same way
//! (`kernel/trace/trace_events_filter.c`).

use crate::Percentile;
use crate::expr::{CpuRelation, Ends, Expr, Order, Range, Test, What};
use crate::fields::{Clock, FieldId, Schema, Type};
use crate::value::{Amount, CpuSet, like};

/// CPUs of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpus<'a> {
    /// The row has none.
    Unknown,
    /// One CPU.
    One(u32),
    /// Several: bit *n* of the words, lowest first, is CPU *n*.
    Set(&'a [u64]),
}

/// What an event tells a filter, by the fields of its [`Schema`]. What a row does not have is `None`; a source
/// implements only the methods of the types that it has.
pub trait Row {
    /// A [`Type::Cpu`] or [`Type::CpuSet`] field.
    fn cpus(&self, _: FieldId) -> Cpus<'_> {
        Cpus::Unknown
    }

    /// A [`Type::Duration`] or [`Type::Time`] field in the unit of the schema's [`Clock`], a [`Type::Number`], or the
    /// place of a [`Type::Enum`]'s word.
    fn number(&self, _: FieldId) -> Option<u64> {
        None
    }

    /// A [`Type::Text`] or [`Type::Symbol`] field.
    fn text(&self, _: FieldId) -> Option<&str> {
        None
    }

    /// A [`Type::Flag`] field.
    fn flag(&self, _: FieldId) -> Option<bool> {
        None
    }
}

const PICKED: u32 = u32::MAX;
const LEFT_OUT: u32 = u32::MAX - 1;

#[derive(Debug, Clone)]
pub(crate) struct Program {
    steps: Vec<Step>,
    first: u32,
}

#[derive(Debug, Clone)]
struct Step {
    check: Check,
    field: FieldId,
    /// The answer that goes on with `yes`; every other, unknown included, goes on with `no`.
    want: bool,
    yes: u32,
    no: u32,
}

#[derive(Debug, Clone)]
enum Check {
    Flag,
    Meets(Box<CpuSet>),
    Is(Box<CpuSet>),
    Within(Box<CpuSet>),
    /// One CPU from the first to the last.
    CpuFrom(u64, u64),
    /// A number from the first to the last; none where the first is above the last.
    From(u64, u64),
    Bits(u64),
    /// The place of a word is one of these bits.
    Places(u64),
    Same(Box<str>),
    SameSymbol(Box<str>),
    Like(Box<str>),
    LikeSymbol(Box<str>),
    /// A percentile that nobody told.
    Unknown,
}

/// A tree without negations.
enum Node {
    Leaf(FieldId, Check, bool),
    All(Vec<Node>),
    Any(Vec<Node>),
}

impl Program {
    pub(crate) fn new(expr: &Expr, schema: &Schema, told: &mut dyn FnMut(Percentile) -> Option<u64>) -> Program {
        let node = Lower { schema, told }.expr(expr, true);
        let mut program = Program { steps: Vec::new(), first: PICKED };
        program.first = program.emit(node, PICKED, LEFT_OUT);
        program
    }

    /// Appends what a node needs, the last first, and returns where it begins.
    fn emit(&mut self, node: Node, yes: u32, no: u32) -> u32 {
        match node {
            Node::Leaf(field, check, want) => {
                self.steps.push(Step { check, field, want, yes, no });
                // A filter's length bounds its steps.
                self.steps.len() as u32 - 1
            }
            Node::All(parts) => parts.into_iter().rev().fold(yes, |yes, part| self.emit(part, yes, no)),
            Node::Any(parts) => parts.into_iter().rev().fold(no, |no, part| self.emit(part, yes, no)),
        }
    }

    #[inline]
    pub(crate) fn picks<R: Row + ?Sized>(&self, row: &R) -> bool {
        let mut at = self.first;
        while let Some(step) = self.steps.get(at as usize) {
            at = if step.check.ask(row, step.field) == Some(step.want) { step.yes } else { step.no };
        }
        at == PICKED
    }
}

impl Check {
    #[inline]
    fn ask<R: Row + ?Sized>(&self, row: &R, field: FieldId) -> Option<bool> {
        match self {
            Check::Flag => row.flag(field),
            Check::Meets(set) => match row.cpus(field) {
                Cpus::Unknown => None,
                Cpus::One(cpu) => Some(set.contains(cpu)),
                Cpus::Set(words) => Some(set.words().iter().zip(words).any(|(ours, theirs)| ours & theirs != 0)),
            },
            Check::Is(set) => match row.cpus(field) {
                Cpus::Unknown => None,
                Cpus::One(cpu) => Some(set.only() == Some(cpu)),
                Cpus::Set(words) => {
                    let longer = set.words().len().max(words.len());
                    let word = |words: &[u64], at| words.get(at).copied().unwrap_or(0);
                    Some((0..longer).all(|at| word(set.words(), at) == word(words, at)))
                }
            },
            Check::Within(set) => match row.cpus(field) {
                Cpus::Unknown => None,
                Cpus::One(cpu) => Some(set.contains(cpu)),
                Cpus::Set(words) => {
                    let ours = |at| set.words().get(at).copied().unwrap_or(0);
                    let within = words.iter().enumerate().all(|(at, word)| word & !ours(at) == 0);
                    Some(within && words.iter().any(|word| *word != 0))
                }
            },
            Check::CpuFrom(first, last) => match row.cpus(field) {
                Cpus::One(cpu) => Some((*first..=*last).contains(&u64::from(cpu))),
                _ => None,
            },
            Check::From(first, last) => row.number(field).map(|value| (*first..=*last).contains(&value)),
            Check::Bits(bits) => row.number(field).map(|value| value & bits != 0),
            Check::Places(places) => row.number(field).map(|place| place < 64 && places >> place & 1 != 0),
            Check::Same(text) => row.text(field).map(|value| value == &**text),
            Check::SameSymbol(text) => row.text(field).map(|value| symbol(value) == &**text),
            Check::Like(pattern) => row.text(field).map(|value| like(pattern, value)),
            Check::LikeSymbol(pattern) => row.text(field).map(|value| like(pattern, symbol(value))),
            Check::Unknown => None,
        }
    }
}

/// The name of `name+0x10/0x48 [module]`.
fn symbol(text: &str) -> &str {
    let end = text.bytes().position(|byte| matches!(byte, b'+' | b' '));
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

struct Lower<'a> {
    schema: &'a Schema,
    told: &'a mut dyn FnMut(Percentile) -> Option<u64>,
}

/// An amount in the rows' unit: the whole part, and whether there is no other. `None`: beyond all rows.
pub(crate) type Bound = Option<(u64, bool)>;

impl Lower<'_> {
    fn expr(&mut self, expr: &Expr, want: bool) -> Node {
        match expr {
            Expr::Not(part) => self.expr(part, !want),
            Expr::All(parts) | Expr::Any(parts) => {
                let nodes = parts.iter().map(|part| self.expr(part, want)).collect();
                if matches!(expr, Expr::All(_)) == want { Node::All(nodes) } else { Node::Any(nodes) }
            }
            Expr::Test(test) => self.test(test, want),
        }
    }

    fn test(&mut self, test: &Test, want: bool) -> Node {
        let field = test.field;
        let kind = self.schema.field(field).map(|field| field.kind);
        let leaf = |check, yes: bool| Node::Leaf(field, check, want == yes);
        let one_of = |nodes| if want { Node::Any(nodes) } else { Node::All(nodes) };
        match &test.what {
            What::Flag => leaf(Check::Flag, true),
            What::Cpus(relation, set) => {
                let set = Box::new(*set);
                match relation {
                    CpuRelation::Meets => leaf(Check::Meets(set), true),
                    CpuRelation::Is => leaf(Check::Is(set), true),
                    CpuRelation::IsNot => leaf(Check::Is(set), false),
                    CpuRelation::Within => leaf(Check::Within(set), true),
                }
            }
            What::Pair(yes, ends) => pair(kind, ends, want == *yes),
            What::Pairs(pairs) => one_of(pairs.iter().map(|ends| pair(kind, ends, want)).collect()),
            What::Amount(order, amount) => {
                let yes = *order != Order::Unequal;
                leaf(self.order(test, kind, *order, *amount), yes)
            }
            What::Bits(bits) => leaf(Check::Bits(*bits), true),
            What::Range(range) => leaf(self.range(test, range), true),
            What::Amounts(amounts) => {
                one_of(amounts.iter().map(|amount| leaf(self.order(test, kind, Order::Equal, *amount), true)).collect())
            }
            What::Word(yes, word) => leaf(Check::Places(bit(*word)), *yes),
            What::Words(words) => leaf(Check::Places(words.iter().fold(0, |bits, word| bits | bit(*word))), true),
            What::Text(yes, text) => leaf(same(kind, text), *yes),
            What::Texts(texts) => one_of(texts.iter().map(|text| leaf(same(kind, text), true)).collect()),
            What::Like(yes, pattern) => leaf(alike(kind, pattern), *yes),
        }
    }

    fn order(&mut self, test: &Test, kind: Option<Type>, order: Order, amount: Amount) -> Check {
        let Some(bound) = self.bound(test, amount) else { return Check::Unknown };
        let (first, last) = match order {
            Order::Equal | Order::Unequal => match bound {
                Some((value, true)) => (value, value),
                _ => (1, 0),
            },
            Order::Above => (at_least(bound, false), u64::MAX),
            Order::AtLeast => (at_least(bound, true), u64::MAX),
            Order::Below => at_most(bound, false).map_or((1, 0), |last| (0, last)),
            Order::AtMost => at_most(bound, true).map_or((1, 0), |last| (0, last)),
        };
        // Above all numbers: nothing is.
        let (first, last) = if matches!(order, Order::Above | Order::AtLeast) && self.beyond(bound, order) {
            (1, 0)
        } else {
            (first, last)
        };
        if kind == Some(Type::Cpu) { Check::CpuFrom(first, last) } else { Check::From(first, last) }
    }

    fn beyond(&self, bound: Bound, order: Order) -> bool {
        match bound {
            None => true,
            Some((u64::MAX, exact)) => !(exact && order == Order::AtLeast),
            _ => false,
        }
    }

    fn range(&mut self, test: &Test, range: &Range) -> Check {
        let mut ends = (0, u64::MAX);
        if let Some(from) = range.from {
            match self.order(test, None, Order::AtLeast, from) {
                Check::From(first, last) if first <= last => ends.0 = first,
                Check::From(..) => return Check::From(1, 0),
                _ => return Check::Unknown,
            }
        }
        if let Some(until) = range.until {
            match self.order(test, None, if range.closed { Order::AtMost } else { Order::Below }, until) {
                Check::From(first, last) if first <= last => ends.1 = last,
                Check::From(..) => return Check::From(1, 0),
                _ => return Check::Unknown,
            }
        }
        Check::From(ends.0, ends.1)
    }

    /// An amount in the rows' unit. `None`: a percentile that nobody told.
    fn bound(&mut self, test: &Test, amount: Amount) -> Option<Bound> {
        if let Amount::Percentile(millionths) = amount {
            let percentile = Percentile { field: test.field, percent: f64::from(millionths) / 1e6 };
            return Some(Some(((self.told)(percentile)?, true)));
        }
        convert(amount, self.schema.clock)
    }
}

/// An amount in the unit of a clock. `None`: it is no amount of that clock.
pub(crate) fn convert(amount: Amount, clock: Clock) -> Option<Bound> {
    let divide = |value: u64, by: u64, of: u64| {
        let product = u128::from(value) * u128::from(by);
        let of = u128::from(of.max(1));
        u64::try_from(product / of).ok().map(|whole| (whole, product % of == 0))
    };
    Some(match (amount, clock) {
        (Amount::Plain(value), _) => Some((value, true)),
        (Amount::Ns(ns), Clock::Ns | Clock::NsOfTicks(_)) => Some((ns, true)),
        (Amount::Ns(ns), Clock::Ticks(hz)) => divide(ns, hz, NS),
        (Amount::Ticks(ticks), Clock::Ticks(_)) => Some((ticks, true)),
        // Rows were rounded down in the same way; up to 1 GHz no two ticks fall together, and the comparison stays
        // exact.
        (Amount::Ticks(ticks), Clock::NsOfTicks(hz)) => divide(ticks, NS, hz).map(|(ns, _)| (ns, true)),
        (Amount::Ticks(_), Clock::Ns) | (Amount::Percentile(_), _) => return None,
    })
}

/// Nanoseconds of a second.
const NS: u64 = 1_000_000_000;

fn at_least(bound: Bound, itself: bool) -> u64 {
    match bound {
        Some((whole, exact)) if itself && exact => whole,
        Some((whole, _)) => whole.saturating_add(1),
        None => u64::MAX,
    }
}

fn at_most(bound: Bound, itself: bool) -> Option<u64> {
    match bound {
        Some((whole, exact)) if !itself && exact => whole.checked_sub(1),
        Some((whole, _)) => Some(whole),
        None => Some(u64::MAX),
    }
}

const fn bit(word: u8) -> u64 {
    if word < 64 { 1 << word } else { 0 }
}

fn pair(kind: Option<Type>, ends: &Ends, want: bool) -> Node {
    let mut leaves = Vec::new();
    if let Some(Type::Pair(from, to)) = kind {
        for (field, end) in [(from, ends.from), (to, ends.to)] {
            if let Some(set) = end {
                leaves.push(Node::Leaf(field, Check::Meets(Box::new(set)), want));
            }
        }
    }
    if want { Node::All(leaves) } else { Node::Any(leaves) }
}

/// Whether only the name of a symbol counts.
fn by_name(kind: Option<Type>, text: &str) -> bool {
    kind == Some(Type::Symbol) && !text.contains(['+', ' '])
}

fn same(kind: Option<Type>, text: &str) -> Check {
    if by_name(kind, text) { Check::SameSymbol(text.into()) } else { Check::Same(text.into()) }
}

fn alike(kind: Option<Type>, pattern: &str) -> Check {
    match kind {
        Some(Type::Enum(words)) => Check::Places(places(words, pattern)),
        _ if by_name(kind, pattern) => Check::LikeSymbol(pattern.into()),
        _ => Check::Like(pattern.into()),
    }
}

/// The words of an enumeration that are like a pattern, upper or lower case, as bits.
pub(crate) fn places(words: &[&str], pattern: &str) -> u64 {
    let pattern = pattern.to_ascii_lowercase();
    let alike = |(_, word): &(usize, &&str)| like(&pattern, &word.to_ascii_lowercase());
    words.iter().enumerate().filter(alike).fold(0, |bits, (at, _)| bits | bit(u8::try_from(at).unwrap_or(u8::MAX)))
}
