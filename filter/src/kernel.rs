//! The same filter in the kernel's own language, where the kernel knows what is asked.
//!
//! Linux 6.6 and newer compare masks and CPU numbers with `CPUS{…}`, `&`, `==`, `!=` (`Documentation/trace/events.rst`,
//! 5.1); addresses are compared by `FIELD.function == SYMBOL`, strings by `==`, `!=`, `~`. What is not known when a
//! send is recorded (latency, outcome, state …) can't be asked there.

use std::fmt;

use crate::Filter;
use crate::expr::{CpuRelation, Ends, Expr, Order, Range, Test, What};
use crate::fields::{Linux, Type};
use crate::value::{Amount, CpuSet, like};

/// One event's filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFilter {
    /// The event, of the system `ipi`.
    pub event: &'static str,
    /// What to write to `events/ipi/EVENT/filter`; `0` takes a filter away: all of its events are picked.
    pub expression: String,
    /// What the running kernel must have for it beyond 6.6, if anything.
    pub needs: Option<&'static str>,
}

/// The line that sets it, in the tracefs folder.
impl fmt::Display for KernelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = self.expression.replace('\'', "'\\''");
        write!(f, "echo '{quoted}' > events/ipi/{}/filter", self.event)
    }
}

/// What the kernel can't be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError {
    /// The part, canonical; the whole filter where no part is to blame.
    pub part: String,
    /// Why not, and what to do instead.
    pub why: String,
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel can't filter by `{}`: {}", self.part, self.why)
    }
}

impl std::error::Error for KernelError {}

/// The events of sending.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    SendCpu,
    SendMask,
    Raise,
}

impl Event {
    const ALL: [Event; 3] = [Event::SendCpu, Event::SendMask, Event::Raise];

    const fn name(self) -> &'static str {
        match self {
            Event::SendCpu => "ipi_send_cpu",
            Event::SendMask => "ipi_send_cpumask",
            Event::Raise => "ipi_raise",
        }
    }
}

/// What is left of an expression once the event is known. Unknown is `Never`: negations stand at comparisons only.
enum Left {
    Always,
    Never,
    /// A text, and whether it is a chain of `||`.
    Text(String, bool),
}

/// The kernel takes strings up to here (`MAX_FILTER_STR_VAL`, kernel/trace/trace_events_filter.c), with its final zero.
const LONGEST_STRING: usize = 255;

pub(crate) fn filters(filter: &Filter) -> Result<Vec<KernelFilter>, KernelError> {
    if filter.around.is_some() {
        return Err(KernelError {
            part: filter.to_string(),
            why: "it keeps no neighbours; filter by the expression inside, or record all and filter afterwards".into(),
        });
    }
    let mut lines = Vec::new();
    for event in Event::ALL {
        let expression = match (Writer { filter, event }).expr(&filter.expr, true)? {
            Left::Never => continue,
            Left::Always => "0".into(),
            Left::Text(text, _) => text,
        };
        // Where the mask is an array of longs the kernel takes the word that says where it lies for a CPU's number.
        let needs = (event == Event::Raise && expression.contains("target_cpus")).then_some(
            "`field:__data_loc cpumask_t target_cpus` in events/ipi/ipi_raise/format; where it is `unsigned long[]` (6.12 and \
             older) this filter is taken and compares the wrong word: it picks nothing, negated all",
        );
        lines.push(KernelFilter { event: event.name(), expression, needs });
    }
    if lines.is_empty() {
        return Err(KernelError {
            part: filter.to_string(),
            why: "none of ipi_send_cpu, ipi_send_cpumask and ipi_raise can be picked by it".into(),
        });
    }
    Ok(lines)
}

struct Writer<'a> {
    filter: &'a Filter,
    event: Event,
}

impl Writer<'_> {
    fn refuse<T>(&self, test: &Test, why: &str) -> Result<T, KernelError> {
        let part = Expr::Test(test.clone()).shown(self.filter.schema.fields).to_string();
        Err(KernelError { part, why: why.into() })
    }

    fn expr(&self, expr: &Expr, want: bool) -> Result<Left, KernelError> {
        match expr {
            Expr::Not(part) => self.expr(part, !want),
            Expr::Test(test) => self.test(test, want),
            Expr::All(parts) | Expr::Any(parts) => {
                let lefts: Result<Vec<Left>, _> = parts.iter().map(|part| self.expr(part, want)).collect();
                Ok(chain(lefts?, matches!(expr, Expr::All(_)) == want))
            }
        }
    }

    fn test(&self, test: &Test, want: bool) -> Result<Left, KernelError> {
        let Some(field) = self.filter.schema.field(test.field) else { return Ok(Left::Never) };
        if let Type::Pair(from, to) = field.kind {
            return self.pair(test, from, to, want);
        }
        let Some(role) = field.linux else {
            return self.refuse(test, &format!("`{}` is not known when a send is recorded", field.name));
        };
        let has = match role {
            Linux::Callsite | Linux::Callback => self.event != Event::Raise,
            Linux::Reason => self.event == Event::Raise,
            _ => true,
        };
        if !has {
            return Ok(Left::Never);
        }
        match (&test.what, role) {
            (What::Cpus(relation, set), Linux::Target) => self.target(test, *relation, set, want),
            (What::Cpus(relation, set), Linux::Cpu) => Ok(scalar("CPU", *relation, set, want)),
            (What::Amount(order, Amount::Plain(value)), Linux::Cpu) => {
                Ok(plain(format!("CPU {} {value}", order.text()), want))
            }
            (What::Text(yes, text), Linux::Event) => Ok(constant((text == self.event.name()) == (want == *yes))),
            (What::Texts(texts), Linux::Event) => {
                Ok(constant(texts.iter().any(|text| text == self.event.name()) == want))
            }
            (What::Like(yes, text), Linux::Event) => Ok(constant(like(text, self.event.name()) == (want == *yes))),
            (_, Linux::Pid) => self.number(test, "common_pid", want),
            (_, Linux::Comm) => self.string(test, "COMM", want),
            (_, Linux::Reason) => self.string(test, "reason", want),
            (_, Linux::Callsite) => self.symbol(test, "callsite", want),
            (_, Linux::Callback) => self.symbol(test, "callback", want),
            _ => self.refuse(test, "its schema calls it something that Linux's field is not"),
        }
    }

    fn target(&self, test: &Test, relation: CpuRelation, set: &CpuSet, want: bool) -> Result<Left, KernelError> {
        let name = match self.event {
            Event::SendCpu => return Ok(scalar("cpu", relation, set, want)),
            Event::SendMask => "cpumask",
            Event::Raise => "target_cpus",
        };
        match relation {
            CpuRelation::Meets => Ok(plain(format!("{name} & CPUS{{{set}}}"), want)),
            CpuRelation::Is => {
                Ok(Left::Text(format!("{name} {} CPUS{{{set}}}", if want { "==" } else { "!=" }), false))
            }
            CpuRelation::IsNot => {
                Ok(Left::Text(format!("{name} {} CPUS{{{set}}}", if want { "!=" } else { "==" }), false))
            }
            CpuRelation::Within => self.refuse(test, "it has no `in` of masks; write `&`, and filter again afterwards"),
        }
    }

    fn pair(&self, test: &Test, from: crate::FieldId, to: crate::FieldId, want: bool) -> Result<Left, KernelError> {
        let one = |ends: &Ends, want: bool| {
            let mut parts = Vec::new();
            for (field, end) in [(from, ends.from), (to, ends.to)] {
                if let Some(set) = end {
                    parts.push(self.test(&Test { field, what: What::Cpus(CpuRelation::Meets, set) }, want)?);
                }
            }
            Ok(chain(parts, want))
        };
        match &test.what {
            What::Pair(yes, ends) => one(ends, want == *yes),
            What::Pairs(pairs) => {
                let parts: Result<Vec<Left>, _> = pairs.iter().map(|ends| one(ends, want)).collect();
                Ok(chain(parts?, !want))
            }
            _ => self.refuse(test, "it is no pair"),
        }
    }

    fn number(&self, test: &Test, name: &str, want: bool) -> Result<Left, KernelError> {
        let compare = |order: Order, amount: Amount| match amount {
            Amount::Plain(value) => Ok(format!("{name} {} {value}", order.text())),
            _ => self.refuse(test, "it knows no percentiles; write the number"),
        };
        match &test.what {
            What::Amount(order, amount) => Ok(plain(compare(*order, *amount)?, want)),
            What::Bits(bits) => Ok(plain(format!("{name} & {bits}"), want)),
            What::Amounts(amounts) => {
                let parts: Result<Vec<Left>, _> =
                    amounts.iter().map(|amount| Ok(plain(compare(Order::Equal, *amount)?, want))).collect();
                Ok(chain(parts?, !want))
            }
            What::Range(Range { from, until, closed }) => {
                let mut parts = Vec::new();
                if let Some(from) = from {
                    parts.push(plain(compare(Order::AtLeast, *from)?, want));
                }
                if let Some(until) = until {
                    let order = if *closed { Order::AtMost } else { Order::Below };
                    parts.push(plain(compare(order, *until)?, want));
                }
                Ok(chain(parts, want))
            }
            _ => self.refuse(test, "it is no number"),
        }
    }

    fn string(&self, test: &Test, name: &str, want: bool) -> Result<Left, KernelError> {
        let compare = |operator: &str, text: &str, want: bool| {
            if text.len() > LONGEST_STRING || text.contains('"') && text.contains('\'') {
                return self.refuse(test, "it takes no text of more than 255 bytes, nor one with both quotes");
            }
            // In its patterns these mean more than here.
            if operator == "~" && (text.contains(['[', '\\']) || text.starts_with('!')) {
                return self.refuse(test, "in its patterns `[`, `\\` and a leading `!` mean something else");
            }
            let quote = if text.contains('"') { '\'' } else { '"' };
            Ok(plain(format!("{name} {operator} {quote}{text}{quote}"), want))
        };
        match &test.what {
            What::Text(yes, text) => compare("==", text, want == *yes),
            What::Like(yes, text) => compare("~", text, want == *yes),
            What::Texts(texts) => {
                let parts: Result<Vec<Left>, _> = texts.iter().map(|text| compare("==", text, want)).collect();
                Ok(chain(parts?, !want))
            }
            _ => self.refuse(test, "it is no text"),
        }
    }

    fn symbol(&self, test: &Test, name: &str, want: bool) -> Result<Left, KernelError> {
        let compare = |text: &str, want: bool| {
            let plain =
                !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$'));
            if !plain {
                return self.refuse(test, "it compares addresses with a function's whole name, without an offset");
            }
            Ok(Left::Text(format!("{name}.function {} {text}", if want { "==" } else { "!=" }), false))
        };
        match &test.what {
            What::Text(yes, text) => compare(text, want == *yes),
            What::Texts(texts) => {
                let parts: Result<Vec<Left>, _> = texts.iter().map(|text| compare(text, want)).collect();
                Ok(chain(parts?, !want))
            }
            _ => self.refuse(test, "it compares addresses with whole names only; write `==`"),
        }
    }
}

/// Comparisons of a field that holds one CPU's number.
fn scalar(name: &str, relation: CpuRelation, set: &CpuSet, want: bool) -> Left {
    let yes = want == (relation != CpuRelation::IsNot);
    match (relation, set.only()) {
        (CpuRelation::Is | CpuRelation::IsNot, Some(cpu)) => {
            Left::Text(format!("{name} {} {cpu}", if yes { "==" } else { "!=" }), false)
        }
        // One CPU is never several.
        (CpuRelation::Is | CpuRelation::IsNot, None) => constant(!yes),
        _ => plain(format!("{name} & CPUS{{{set}}}"), want),
    }
}

fn plain(text: String, want: bool) -> Left {
    Left::Text(if want { text } else { format!("!({text})") }, false)
}

const fn constant(value: bool) -> Left {
    if value { Left::Always } else { Left::Never }
}

/// All of them, or any of them.
fn chain(parts: Vec<Left>, all: bool) -> Left {
    let mut texts: Vec<(String, bool)> = Vec::new();
    for part in parts {
        match part {
            Left::Always if all => {}
            Left::Never if !all => {}
            Left::Always => return Left::Always,
            Left::Never => return Left::Never,
            Left::Text(text, any) => texts.push((text, any)),
        }
    }
    if texts.len() < 2 {
        return texts.pop().map_or(constant(all), |(text, any)| Left::Text(text, any));
    }
    let enclosed = |(text, any): (String, bool)| if all && any { format!("({text})") } else { text };
    let texts: Vec<String> = texts.into_iter().map(enclosed).collect();
    Left::Text(texts.join(if all { " && " } else { " || " }), !all)
}
