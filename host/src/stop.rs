//! `--stop-on`: ends a run early when the target's counters satisfy an expression.
//!
//! ```text
//! expression = all ("||" all)*
//! all        = part ("&&" part)*
//! part       = "!" part | "(" expression ")" | metric operator value
//! operator   = ">" | ">=" | "<" | "<=" | "==" | "!="
//! value      = a count (3, 1_000) or a duration (50us, 1.5ms, 2s), as the metric has it
//! ```
//!
//! Only what the region's counters hold while the run goes on can be asked for: they are whole whatever becomes of the records.
//! A duration that has no value yet (no IPI was answered) compares as false with everything.

use std::fmt;
use std::str::FromStr;

use trace_ring::layout::{CoreEntry, Directory, PairSlot, Status, core_state};

/// Longer expressions are a mistake.
const MOST_BYTES: usize = 1024;

/// Parentheses and negations inside one another: more are a mistake, and each costs stack.
const MOST_DEPTH: usize = 32;

/// What the counters of a target say while it runs: sums over all pairs, and over all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages sent.
    pub sent: u64,
    /// Acknowledges that delivered one.
    pub delivered: u64,
    /// Messages answered by an acknowledge that counts for another.
    pub coalesced: u64,
    /// Messages retired as lost.
    pub lost: u64,
    /// Messages retired as unknown.
    pub unknown: u64,
    /// Acknowledges that found no message.
    pub empty: u64,
    /// Times that a core was away.
    pub gaps: u64,
    /// The longest of them, ns.
    pub gap_ns: Option<u64>,
    /// The greatest latency, ns.
    pub latency_ns: Option<u64>,
    /// Rounds of the whole plan that were completed.
    pub rounds: u64,
}

impl Totals {
    /// Adds up what was read of a region.
    pub fn of(directory: &Directory, status: &Status, slots: &[PairSlot], cores: &[CoreEntry]) -> Totals {
        let hz = u128::from(directory.counter_hz.max(1));
        let ns = |ticks: u64| u64::try_from(u128::from(ticks) * 1_000_000_000 / hz).unwrap_or(u64::MAX);
        let mut totals = Totals { rounds: status.rounds.into(), ..Totals::default() };
        for slot in slots {
            totals.sent = totals.sent.wrapping_add(slot.sent);
            totals.delivered = totals.delivered.wrapping_add(slot.delivered);
            totals.coalesced = totals.coalesced.wrapping_add(slot.coalesced);
            totals.lost = totals.lost.wrapping_add(slot.lost);
            totals.unknown = totals.unknown.wrapping_add(slot.unknown);
            // Without a latency `min` is u64::MAX.
            if slot.min != u64::MAX {
                totals.latency_ns = totals.latency_ns.max(Some(ns(slot.max)));
            }
        }
        for core in cores.iter().filter(|core| core.state == core_state::UP) {
            totals.empty = totals.empty.wrapping_add(core.empty_acknowledges);
            totals.gaps = totals.gaps.wrapping_add(core.gaps);
            if core.gaps > 0 {
                totals.gap_ns = totals.gap_ns.max(Some(ns(core.gap_longest)));
            }
        }
        totals
    }
}

/// Something that is counted while the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    Sent,
    Delivered,
    Coalesced,
    Lost,
    Unknown,
    Empty,
    Gaps,
    Rounds,
    Latency,
    Gap,
}

const METRICS: [(&str, Metric); 10] = [
    ("sent", Metric::Sent),
    ("delivered", Metric::Delivered),
    ("coalesced", Metric::Coalesced),
    ("lost", Metric::Lost),
    ("unknown", Metric::Unknown),
    ("empty", Metric::Empty),
    ("gaps", Metric::Gaps),
    ("rounds", Metric::Rounds),
    ("latency", Metric::Latency),
    ("gap", Metric::Gap),
];

/// What a report tells, and no counter does while the run goes on.
const FROM_RECORDS: [&str; 5] = ["spurious", "duplicate", "misrouted", "late", "in_flight"];

impl Metric {
    const fn is_duration(self) -> bool {
        matches!(self, Metric::Latency | Metric::Gap)
    }

    fn name(self) -> &'static str {
        METRICS.iter().find(|(_, metric)| *metric == self).map_or("", |(name, _)| name)
    }

    const fn of(self, totals: &Totals) -> Option<u64> {
        match self {
            Metric::Sent => Some(totals.sent),
            Metric::Delivered => Some(totals.delivered),
            Metric::Coalesced => Some(totals.coalesced),
            Metric::Lost => Some(totals.lost),
            Metric::Unknown => Some(totals.unknown),
            Metric::Empty => Some(totals.empty),
            Metric::Gaps => Some(totals.gaps),
            Metric::Rounds => Some(totals.rounds),
            Metric::Latency => totals.latency_ns,
            Metric::Gap => totals.gap_ns,
        }
    }

    /// Its value for people.
    fn show(self, totals: &Totals) -> String {
        match self.of(totals) {
            None => format!("{} not measured", self.name()),
            Some(value) if !self.is_duration() => format!("{} {value}", self.name()),
            Some(ns @ 0..10_000) => format!("{} {ns} ns", self.name()),
            Some(ns @ 10_000..1_000_000) => format!("{} {:.1} us", self.name(), ns as f64 / 1e3),
            Some(ns) => format!("{} {:.1} ms", self.name(), ns as f64 / 1e6),
        }
    }
}

// The longer ones first: `>` begins `>=`.
const OPERATORS: [(&str, Operator); 6] = [
    (">=", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    (">", Operator::Above),
    ("<", Operator::Below),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    Unequal,
}

impl Operator {
    const fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Operator::Above => left > right,
            Operator::AtLeast => left >= right,
            Operator::Below => left < right,
            Operator::AtMost => left <= right,
            Operator::Equal => left == right,
            Operator::Unequal => left != right,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    /// The value is a count, or ns.
    Compare(Metric, Operator, u64),
}

impl Expression {
    fn holds(&self, totals: &Totals) -> bool {
        match self {
            Expression::Any(parts) => parts.iter().any(|part| part.holds(totals)),
            Expression::All(parts) => parts.iter().all(|part| part.holds(totals)),
            Expression::Not(part) => !part.holds(totals),
            Expression::Compare(metric, operator, value) => {
                metric.of(totals).is_some_and(|measured| operator.holds(measured, *value))
            }
        }
    }

    /// The metrics that it names, each once, in its order.
    fn metrics(&self, into: &mut Vec<Metric>) {
        match self {
            Expression::Any(parts) | Expression::All(parts) => parts.iter().for_each(|part| part.metrics(into)),
            Expression::Not(part) => part.metrics(into),
            Expression::Compare(metric, ..) => {
                if !into.contains(metric) {
                    into.push(*metric);
                }
            }
        }
    }
}

/// When to end a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopOn {
    text: String,
    expression: Expression,
}

impl StopOn {
    /// Whether the run is to end.
    pub fn holds(&self, totals: &Totals) -> bool {
        self.expression.holds(totals)
    }

    /// The values of what it names: "lost 3, latency 212.4 us".
    pub fn values(&self, totals: &Totals) -> String {
        let mut metrics = Vec::new();
        self.expression.metrics(&mut metrics);
        metrics.iter().map(|metric| metric.show(totals)).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for StopOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {}: {what}\n  {text}\n  {:>width$}\n{next_step}", .column, "^", width = .column)]
pub struct StopOnError {
    text: String,
    /// Of the letter where it goes wrong, from 1.
    column: usize,
    what: String,
    next_step: String,
}

impl FromStr for StopOn {
    type Err = StopOnError;

    fn from_str(text: &str) -> Result<Self, StopOnError> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let parsed = if text.len() > MOST_BYTES {
            Err(parser.wrong(format!("it is longer than {MOST_BYTES} bytes"), "write a shorter one"))
        } else {
            parser.any()
        };
        let expression = parsed.and_then(|expression| {
            parser.space();
            match parser.rest() {
                "" => Ok(expression),
                rest if rest.starts_with(')') => Err(parser.wrong("this parenthesis closes nothing", "take it out")),
                _ => Err(parser.wrong("the expression should have ended here", "join comparisons by && or ||")),
            }
        });
        let at = |wrong: Wrong| StopOnError {
            text: text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(MOST_BYTES).collect(),
            column: text[..wrong.at].chars().count() + 1,
            what: wrong.what,
            next_step: wrong.next_step,
        };
        expression.map(|expression| StopOn { text: text.trim().into(), expression }).map_err(at)
    }
}

/// What is wrong, and at which byte.
struct Wrong {
    at: usize,
    what: String,
    next_step: String,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, what: impl Into<String>, next_step: impl Into<String>) -> Wrong {
        Wrong { at: self.at, what: what.into(), next_step: next_step.into() }
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        let there = self.rest().starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    /// Letters as long as they are of a kind.
    fn letters(&mut self, kind: impl Fn(char) -> bool) -> &'a str {
        self.space();
        let rest = self.rest();
        let word = &rest[..rest.find(|letter| !kind(letter)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn any(&mut self) -> Result<Expression, Wrong> {
        let mut parts = vec![self.all()?];
        while self.take("||") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn all(&mut self) -> Result<Expression, Wrong> {
        let mut parts = vec![self.part()?];
        while self.take("&&") {
            parts.push(self.part()?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn part(&mut self) -> Result<Expression, Wrong> {
        self.space();
        if self.depth == MOST_DEPTH {
            return Err(self.wrong(format!("more than {MOST_DEPTH} parts inside one another"), "write it flatter"));
        }
        self.depth += 1;
        let part = if self.take("!") {
            self.part().map(|part| Expression::Not(Box::new(part)))
        } else if self.take("(") {
            self.any().and_then(|inner| {
                if self.take(")") { Ok(inner) } else { Err(self.wrong("a parenthesis is not closed", "add `)`")) }
            })
        } else {
            self.comparison()
        };
        self.depth -= 1;
        part
    }

    fn comparison(&mut self) -> Result<Expression, Wrong> {
        self.space();
        let start = self.at;
        let word = self.letters(|letter| letter.is_alphanumeric() || letter == '_');
        let Some((_, metric)) = METRICS.iter().find(|(name, _)| *name == word) else {
            self.at = start;
            let what = match word {
                "" => match self.rest().chars().next() {
                    None => "something to compare is missing".into(),
                    Some(letter) => format!("`{letter}` is no counter's name"),
                },
                word if FROM_RECORDS.contains(&word) => {
                    format!(
                        "`{word}` is known from the records, after the run (`empty` counts acknowledges without a message)"
                    )
                }
                word => format!("there is no counter `{word}`"),
            };
            let names = |duration| {
                let names =
                    METRICS.iter().filter(|(_, metric)| metric.is_duration() == duration).map(|(name, _)| *name);
                names.collect::<Vec<_>>().join(", ")
            };
            return Err(self.wrong(what, format!("compare one of {}; or a duration: {}", names(false), names(true))));
        };
        self.space();
        let Some((_, operator)) = OPERATORS.iter().find(|(token, _)| self.take(token)) else {
            return Err(self.wrong(format!("`{word}` is compared with nothing"), "write one of > >= < <= == !="));
        };
        let value = if metric.is_duration() { self.duration(word) } else { self.count(word) }?;
        Ok(Expression::Compare(*metric, *operator, value))
    }

    fn count(&mut self, metric: &str) -> Result<u64, Wrong> {
        self.space();
        let start = self.at;
        let digits = self.letters(|letter| letter.is_alphanumeric() || "_.".contains(letter));
        digits.replace('_', "").parse().map_err(|_| {
            let what = if digits.is_empty() { "a count is missing".into() } else { format!("`{digits}` is no count") };
            Wrong { at: start, what, next_step: format!("write it like `{metric} > 1000`") }
        })
    }

    /// Nanoseconds.
    fn duration(&mut self, metric: &str) -> Result<u64, Wrong> {
        self.space();
        let start = self.at;
        let number = self.letters(|letter| letter.is_ascii_digit() || "_.".contains(letter));
        let unit = self.letters(char::is_alphabetic);
        let scale = match unit {
            "ns" => Some(1.0),
            "us" | "µs" => Some(1e3),
            "ms" => Some(1e6),
            "s" => Some(1e9),
            _ => None,
        };
        let number: Option<f64> = number.replace('_', "").parse().ok();
        let next_step = format!("write it like `{metric} > 50us` (ns, us, ms or s)");
        let ns = number.zip(scale).map(|(number, scale)| (number * scale).round());
        let Some(ns) = ns.filter(|ns| *ns < 1e18) else {
            let text = self.text[start..self.at].trim_end();
            let what = match (text, number) {
                ("", _) => "a duration is missing".into(),
                (_, Some(_)) if unit.is_empty() => format!("`{text}` has no unit"),
                _ => format!("`{text}` is no duration"),
            };
            return Err(Wrong { at: start, what, next_step });
        };
        Ok(ns as u64)
    }
}

fn one_or(mut parts: Vec<Expression>, several: fn(Vec<Expression>) -> Expression) -> Expression {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, Some(last)) => {
            parts.push(last);
            several(parts)
        }
        (_, None) => several(parts),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn totals() -> Totals {
        Totals { sent: 1000, lost: 3, latency_ns: Some(212_400), gaps: 2, ..Totals::default() }
    }

    #[test]
    fn expressions_are_evaluated_as_c_would() {
        for (text, holds) in [
            ("lost > 0", true),
            ("lost>3", false),
            ("lost >= 3 && sent < 1_001", true),
            ("lost == 3", true),
            ("lost != 3", false),
            ("!(lost != 3)", true),
            ("sent <= 999", false),
            ("latency > 200us", true),
            ("latency > 0.2124ms", false),
            ("latency >= 212400ns && latency < 1s", true),
            // && binds closer than ||, and ! closer than both.
            ("lost > 0 || sent > 5 && unknown > 0", true),
            ("(lost > 0 || sent > 5) && unknown > 0", false),
            ("! lost > 5 && gaps == 2", true),
            ("!(lost > 5 && gaps == 2)", true),
            ("unknown > 0 || empty > 0 || coalesced > 0 || delivered > 0 || rounds > 0", false),
        ] {
            let stop: StopOn = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(stop.holds(&totals()), holds, "{text}");
            assert_eq!(stop.to_string(), text);
        }
    }

    #[test]
    fn what_was_not_measured_yet_compares_as_false() {
        for text in ["gap > 0ns", "gap < 1s", "gap == 0ns", "gap != 5us"] {
            let stop: StopOn = text.parse().expect("parses");
            assert!(!stop.holds(&totals()), "{text}");
        }
        assert!("!(gap > 1us)".parse::<StopOn>().expect("parses").holds(&totals()));
    }

    #[test]
    fn the_values_named_are_those_of_the_expression_each_once() {
        let stop: StopOn = "lost > 0 || (latency > 1ms && lost < 9) || !(gap > 5ms)".parse().expect("parses");
        assert_eq!(stop.values(&totals()), "lost 3, latency 212.4 us, gap not measured");
    }

    #[test]
    fn what_is_wrong_is_pointed_at_and_what_is_possible_is_listed() {
        for (text, column, names) in [
            ("", 1, "something to compare is missing"),
            ("   ", 4, "sent, delivered, coalesced, lost, unknown, empty, gaps, rounds; or a duration: latency, gap"),
            ("lost > 0 || latenc > 5us", 13, "no counter `latenc`"),
            ("lost", 5, "> >= < <= == !="),
            ("lost = 3", 6, "compared with nothing"),
            ("lost > ", 8, "a count is missing"),
            ("lost > 1.5", 8, "`1.5` is no count"),
            ("lost > 5us", 8, "`5us` is no count"),
            ("lost > -1", 8, "a count is missing"),
            ("latency > 5", 11, "`5` has no unit"),
            ("latency > us", 11, "`us` is no duration"),
            ("latency > 5 parsecs", 11, "`5 parsecs` is no duration"),
            ("latency > 1.2.3ms", 11, "is no duration"),
            ("latency > 99999999999999s", 11, "is no duration"),
            ("(lost > 0", 10, "not closed"),
            ("lost > 0)", 9, "closes nothing"),
            ("lost > 0 lost", 10, "&& or ||"),
            ("lost > 0 & sent > 1", 10, "&& or ||"),
            ("lost > 0 &&", 12, "missing"),
            ("spurious > 0", 1, "`empty` counts"),
            ("µ > 0", 1, "no counter `µ`"),
            ("lost > 0 ||\t€", 13, "`€` is no counter's name"),
            ("18446744073709551616 > lost", 1, "no counter"),
            ("lost > 18446744073709551616", 8, "is no count"),
        ] {
            let error = text.parse::<StopOn>().expect_err(text);
            let message = error.to_string();
            assert!(message.contains(names), "{text:?}: expected {names:?} in {message}");
            assert_eq!(error.column, column, "{text:?}: {message}");
            let caret = message.lines().find(|line| line.trim() == "^").expect("points");
            assert_eq!(caret.chars().count(), "  ".len() + column, "{message}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth: usize| format!("{}lost > 0{}", "(".repeat(depth), ")".repeat(depth));
        assert!(nested(MOST_DEPTH - 1).parse::<StopOn>().is_ok());
        assert!(nested(MOST_DEPTH).parse::<StopOn>().is_err());
        assert!("!".repeat(500).parse::<StopOn>().is_err());
        assert!(vec!["lost > 0"; 80].join(" || ").parse::<StopOn>().is_ok());
        assert!(vec!["lost > 0"; 800].join(" || ").parse::<StopOn>().is_err());
    }

    #[test]
    fn totals_are_sums_over_pairs_and_cores_and_latencies_are_in_time() {
        let mut directory = Directory::new_zeroed();
        directory.counter_hz = 62_500_000;
        let mut status = Status::new_zeroed();
        status.rounds = 4;
        let mut slots = vec![PairSlot::new_zeroed(); 3];
        for (slot, max) in slots.iter_mut().zip([100, 50, u64::MAX]) {
            (slot.sent, slot.delivered, slot.lost, slot.min, slot.max) = (10, 8, 1, 5, max);
        }
        // Nothing was ever timed in this one: what lies in `max` does not count.
        slots[2].min = u64::MAX;
        let mut cores = vec![CoreEntry::new_zeroed(); 3];
        for (core, longest) in cores.iter_mut().zip([0, 125, 999]) {
            (core.state, core.empty_acknowledges, core.gap_longest) = (core_state::UP, 1, longest);
        }
        cores[1].gaps = 2;
        // A core that never came up: its entry holds whatever the firmware left there.
        (cores[2].state, cores[2].gaps) = (core_state::NO_SHOW, 7);
        let expected = Totals {
            sent: 30,
            delivered: 24,
            lost: 3,
            empty: 2,
            gaps: 2,
            gap_ns: Some(2000),
            latency_ns: Some(1600),
            rounds: 4,
            ..Totals::default()
        };
        assert_eq!(Totals::of(&directory, &status, &slots, &cores), expected);
        // A directory without a frequency is no reason to panic.
        let strange = Totals::of(&Directory::new_zeroed(), &status, &slots, &cores);
        assert_eq!(strange.latency_ns, Some(100_000_000_000));
    }
}
