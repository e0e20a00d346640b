//! The tree of a filter, its canonical text, and the tree in words.

use std::fmt;

use crate::fields::{Field, FieldId, Type};
use crate::value::{Amount, CpuSet};

/// A filter's tree. Chains of `&&` and `||` are one node, so that depth comes of parentheses and `!` alone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    /// One of them is true: at least two, none an `Any`.
    Any(Vec<Expr>),
    /// Each is true: at least two, none an `All`.
    All(Vec<Expr>),
    Not(Box<Expr>),
    Test(Test),
}

/// A comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Test {
    pub field: FieldId,
    pub what: What,
}

/// With what a field is compared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// A flag's name alone.
    Flag,
    Cpus(CpuRelation, CpuSet),
    /// `==` (or `!=`) of both ends.
    Pair(bool, Ends),
    Pairs(Vec<Ends>),
    Amount(Order, Amount),
    /// `&` of a number: one of these bits is set.
    Bits(u64),
    Range(Range),
    Amounts(Vec<Amount>),
    /// `==` (or `!=`) of an enumeration's word, by its place.
    Word(bool, u8),
    Words(Vec<u8>),
    /// `==` (or `!=`) of a text.
    Text(bool, String),
    Texts(Vec<String>),
    /// `~` (or `!~`) of a text or an enumeration.
    Like(bool, String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum CpuRelation {
    /// `&`: they share a CPU.
    Meets,
    /// `==`: they are the same.
    Is,
    /// `!=`.
    IsNot,
    /// `in`: all of the field's CPUs are in the set.
    Within,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Order {
    Equal,
    Unequal,
    Below,
    AtMost,
    Above,
    AtLeast,
}

impl Order {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Order::Equal => "==",
            Order::Unequal => "!=",
            Order::Below => "<",
            Order::AtMost => "<=",
            Order::Above => ">",
            Order::AtLeast => ">=",
        }
    }
}

/// Both ends of a pair; `None`: `*`, whoever it is, known or not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ends {
    pub from: Option<CpuSet>,
    pub to: Option<CpuSet>,
}

/// `from..until`, the end left out unless `closed` (`..=`), as Rust has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Range {
    pub from: Option<Amount>,
    pub until: Option<Amount>,
    pub closed: bool,
}

impl Test {
    /// The percentiles that it names, in millionths of a percent.
    pub(crate) fn percentiles(&self) -> Vec<u32> {
        let amounts: Vec<Amount> = match &self.what {
            What::Amount(_, amount) => vec![*amount],
            What::Range(range) => range.from.iter().chain(&range.until).copied().collect(),
            What::Amounts(amounts) => amounts.clone(),
            _ => return Vec::new(),
        };
        let millionths = |amount| if let Amount::Percentile(millionths) = amount { Some(millionths) } else { None };
        amounts.into_iter().filter_map(millionths).collect()
    }
}

impl Expr {
    /// Calls for each comparison, left to right.
    pub(crate) fn tests(&self, each: &mut impl FnMut(&Test)) {
        match self {
            Expr::Any(parts) | Expr::All(parts) => parts.iter().for_each(|part| part.tests(each)),
            Expr::Not(part) => part.tests(each),
            Expr::Test(test) => each(test),
        }
    }

    pub(crate) fn shown<'a>(&'a self, fields: &'static [Field]) -> Shown<'a> {
        Shown { expr: self, fields }
    }

    /// One node a line, two blanks a level.
    pub(crate) fn explain(&self, fields: &'static [Field], level: usize, text: &mut String) {
        let indent = "  ".repeat(level);
        let (title, parts): (_, &[Expr]) = match self {
            Expr::Any(parts) => ("any of", parts),
            Expr::All(parts) => ("all of", parts),
            Expr::Not(part) => ("not", std::slice::from_ref(part)),
            Expr::Test(test) => {
                text.push_str(&format!("{indent}{}\n", Words { test, fields }));
                return;
            }
        };
        text.push_str(&format!("{indent}{title}\n"));
        parts.iter().for_each(|part| part.explain(fields, level + 1, text));
    }
}

/// A tree with the names of its fields: prints the canonical text.
pub(crate) struct Shown<'a> {
    expr: &'a Expr,
    fields: &'static [Field],
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Expr], between: &str, all: bool| {
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    f.write_str(between)?;
                }
                let shown = part.shown(self.fields);
                if all && matches!(part, Expr::Any(_)) { write!(f, "({shown})")? } else { write!(f, "{shown}")? }
            }
            Ok(())
        };
        match self.expr {
            Expr::Any(parts) => joined(f, parts, " || ", false),
            Expr::All(parts) => joined(f, parts, " && ", true),
            Expr::Not(part) => match &**part {
                Expr::Not(_) | Expr::Test(Test { what: What::Flag, .. }) => write!(f, "!{}", part.shown(self.fields)),
                _ => write!(f, "!({})", part.shown(self.fields)),
            },
            Expr::Test(test) => self.test(f, test),
        }
    }
}

impl Shown<'_> {
    fn test(&self, f: &mut fmt::Formatter<'_>, test: &Test) -> fmt::Result {
        let field = self.fields.get(usize::from(test.field.0));
        let name = field.map_or("?", |field| field.name);
        let equal = |yes: &bool| if *yes { "==" } else { "!=" };
        match &test.what {
            What::Flag => f.write_str(name),
            What::Cpus(relation, set) => {
                let operator = match relation {
                    CpuRelation::Meets => "&",
                    CpuRelation::Is => "==",
                    CpuRelation::IsNot => "!=",
                    CpuRelation::Within => "in",
                };
                match (relation, set.only()) {
                    (CpuRelation::Is | CpuRelation::IsNot, Some(cpu)) => write!(f, "{name} {operator} {cpu}"),
                    _ => write!(f, "{name} {operator} CPUS{{{set}}}"),
                }
            }
            What::Pair(yes, ends) => write!(f, "{name} {} {ends}", equal(yes)),
            What::Pairs(pairs) => write!(f, "{name} in {{{}}}", list(pairs)),
            What::Amount(order, amount) => write!(f, "{name} {} {amount}", order.text()),
            What::Bits(bits) => write!(f, "{name} & {bits}"),
            What::Range(range) => write!(f, "{name} in {range}"),
            What::Amounts(amounts) => write!(f, "{name} in {{{}}}", list(amounts)),
            What::Word(yes, word) => write!(f, "{name} {} {}", equal(yes), word_of(field, *word)),
            What::Words(words) => {
                write!(f, "{name} in {{{}}}", list(words.iter().map(|word| word_of(field, *word))))
            }
            What::Text(yes, text) => write!(f, "{name} {} {}", equal(yes), Quoted(text)),
            What::Texts(texts) => write!(f, "{name} in {{{}}}", list(texts.iter().map(|text| Quoted(text)))),
            What::Like(yes, text) => write!(f, "{name} {} {}", if *yes { "~" } else { "!~" }, Quoted(text)),
        }
    }
}

fn list(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn word_of(field: Option<&Field>, word: u8) -> &'static str {
    match field.map(|field| field.kind) {
        Some(Type::Enum(words)) => words.get(usize::from(word)).copied().unwrap_or("?"),
        _ => "?",
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: &Option<CpuSet>| match end {
            None => "*".to_string(),
            Some(set) => set.only().map_or_else(|| format!("CPUS{{{set}}}"), |cpu| cpu.to_string()),
        };
        write!(f, "{}->{}", end(&self.from), end(&self.to))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = self.from {
            write!(f, "{from}")?;
        }
        f.write_str(if self.closed { "..=" } else { ".." })?;
        self.until.map_or(Ok(()), |until| write!(f, "{until}"))
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// A comparison in words.
struct Words<'a> {
    test: &'a Test,
    fields: &'static [Field],
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(field) = self.fields.get(usize::from(self.test.field.0)) else { return Ok(()) };
        write!(f, "{} ({}) ", field.name, field.help)?;
        let is = |yes: &bool| if *yes { "is" } else { "is known and is not" };
        match &self.test.what {
            What::Flag => f.write_str("is so"),
            What::Cpus(relation, set) => {
                let cpus = |some: &str| match set.only() {
                    Some(cpu) => format!("CPU {cpu}"),
                    None => format!("{some} CPUs {set}"),
                };
                match relation {
                    CpuRelation::Meets => write!(f, "has {}", cpus("one or more of")),
                    CpuRelation::Is => write!(f, "is {}, no more and no less", cpus("all of")),
                    CpuRelation::IsNot => write!(f, "is known and is not exactly {}", cpus("all of")),
                    CpuRelation::Within => write!(f, "has only {}", cpus("CPUs of the")),
                }
            }
            What::Pair(yes, ends) => write!(f, "{} {ends}", is(yes)),
            What::Pairs(pairs) => write!(f, "is one of {}", list(pairs)),
            What::Amount(order, amount) => {
                let words = match order {
                    Order::Equal => "is exactly",
                    Order::Unequal => "is known and is not",
                    Order::Below => "is below",
                    Order::AtMost => "is at most",
                    Order::Above => "is above",
                    Order::AtLeast => "is at least",
                };
                write!(f, "{words} {amount}")?;
                if matches!(amount, Amount::Percentile(_)) { f.write_str(" of all that are known") } else { Ok(()) }
            }
            What::Bits(bits) => write!(f, "has one or more of the bits {bits:#x}"),
            What::Range(range) => {
                f.write_str("is")?;
                if let Some(from) = range.from {
                    write!(f, " at least {from}")?;
                }
                let Some(until) = range.until else { return Ok(()) };
                f.write_str(if range.from.is_some() { " and" } else { "" })?;
                write!(f, " {} {until}", if range.closed { "at most" } else { "below" })
            }
            What::Amounts(amounts) => write!(f, "is one of {}", list(amounts)),
            What::Word(yes, word) => write!(f, "{} {}", is(yes), word_of(Some(field), *word)),
            What::Words(words) => {
                write!(f, "is one of {}", list(words.iter().map(|word| word_of(Some(field), *word))))
            }
            What::Text(yes, text) => write!(f, "{} {}", is(yes), Quoted(text)),
            What::Texts(texts) => write!(f, "is one of {}", list(texts.iter().map(|text| Quoted(text)))),
            What::Like(true, text) => write!(f, "is like {}", Quoted(text)),
            What::Like(false, text) => write!(f, "is known and is not like {}", Quoted(text)),
        }
    }
}
