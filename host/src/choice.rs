//! Which IPIs of a capture a filter picks: the crate `filter`'s language, asked of what joining tells.
//!
//! A filter is read against the fields that the capture has (a Linux trace names reasons and callbacks, bare metal phases and
//! INTIDs), so that a field which is not there is an error and not an empty result. A percentile (`latency > p99.9`) takes a
//! pass over the capture first.

use std::sync::LazyLock;

use filter::{Clock, Cpus, FIELDS, Field, FieldId, Filter, FilterError, Percentile, Row, Schema, Type};
use linux_trace::Name;
use trace_ring::calls::IpiKind;
use trace_ring::plan::TraceLevel;
use trace_ring::reader::Region;

use crate::capture::{Capture, CaptureError};
use crate::correlate::correlate_heard;
use crate::correlate::message::{Message, Outcome};
use crate::error::{Explain, exit};
use crate::linux::{Decoder, Table};
use crate::plan::Keep;
use crate::stats::{Samples, carries};

/// Values of a field that a percentile is taken of as they are; beyond, it comes from a histogram of two digits.
const KEPT: usize = 1 << 20;

/// Why a filter can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// It can't be read.
    #[error("the filter can't be read:\n{0}")]
    Filter(#[from] FilterError),
    /// The capture has no records to choose among.
    #[error("the capture keeps {0}: a filter chooses among single IPIs")]
    NoRecords(&'static str),
    /// It asks for neighbours where IPIs are counted.
    #[error("`around(…)` picks neighbours, which `{0}` does not count")]
    Around(&'static str),
    /// The capture can't be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

impl Explain for ChoiceError {
    fn kind(&self) -> &'static str {
        match self {
            ChoiceError::Capture(error) => error.kind(),
            _ => "filter",
        }
    }

    fn next_step(&self) -> String {
        match self {
            ChoiceError::Filter(_) => "docs/filters.md has the language, with examples".into(),
            ChoiceError::NoRecords(_) => "run again with `--keep all` and a trace level other than off".into(),
            ChoiceError::Around(_) => "leave `around(…)` away, or use it with `export` and `replay`".into(),
            ChoiceError::Capture(error) => error.next_step(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            ChoiceError::Capture(error) => error.exit_code(),
            _ => exit::MISUSED,
        }
    }
}

/// What a field of a schema is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Target,
    Sender,
    Latency,
    Time,
    Kind,
    Outcome,
    State,
    Reason,
    Callback,
    Callsite,
    Phase,
    Task,
    Pid,
    Intid,
    Number,
    Lost,
    Coalesced,
    Unmatched,
    Stolen,
    /// Both ends: asked of their own fields.
    Pair,
}

impl Of {
    /// Whether it is known only when an IPI was answered, or was not.
    const fn is_result(self) -> bool {
        matches!(self, Of::Latency | Of::Outcome | Of::Lost | Of::Coalesced | Of::Unmatched | Of::Stolen)
    }
}

/// Fields of every capture. The first two stand where the field `pair` looks for them.
const COMMON: [(&str, Of); 12] = [
    ("target", Of::Target),
    ("sender", Of::Sender),
    ("pair", Of::Pair),
    ("latency", Of::Latency),
    ("t", Of::Time),
    ("kind", Of::Kind),
    ("outcome", Of::Outcome),
    ("state", Of::State),
    ("lost", Of::Lost),
    ("coalesced", Of::Coalesced),
    ("unmatched", Of::Unmatched),
    ("stolen", Of::Stolen),
];

/// Those of bare metal.
const BARE: [(&str, Of); 3] = [("phase", Of::Phase), ("intid", Of::Intid), ("msg", Of::Number)];

/// Those of Linux traces.
const LINUX: [(&str, Of); 5] = [
    ("reason", Of::Reason),
    ("callback", Of::Callback),
    ("callsite", Of::Callsite),
    ("task", Of::Task),
    ("pid", Of::Pid),
];

type Fields = (Vec<Field>, Vec<Of>);

fn fields(own: &[(&str, Of)]) -> Fields {
    let known = COMMON.iter().chain(own);
    known.filter_map(|(name, of)| Some((*FIELDS.iter().find(|field| field.name == *name)?, *of))).unzip()
}

static BARE_FIELDS: LazyLock<Fields> = LazyLock::new(|| fields(&BARE));
static LINUX_FIELDS: LazyLock<Fields> = LazyLock::new(|| fields(&LINUX));

/// What the words of a field's type are, by place.
fn words(schema: &Schema, name: &str) -> &'static [&'static str] {
    match schema.find(name).and_then(|id| schema.field(id)).map(|field| field.kind) {
        Some(Type::Enum(words)) => words,
        _ => &[],
    }
}

/// A filter that is ready to be asked of a capture's IPIs.
#[derive(Debug)]
pub struct Choice {
    filter: Filter,
    of: &'static [Of],
    /// Places of the kinds' names among the words of `kind`, by [`IpiKind::slot_code`].
    kinds: Vec<Option<u64>>,
    outcomes: &'static [&'static str],
    states: &'static [&'static str],
    names: Vec<String>,
    phases: Vec<String>,
    /// When the trace begins, ticks.
    origin: u64,
}

/// Reads a filter for bare metal before there is a capture, and throws it away: what is wrong is said before anything runs.
///
/// # Errors
///
/// What is wrong with it.
pub fn check(text: &str, keep: Keep, level: TraceLevel) -> Result<(), ChoiceError> {
    let filter = Filter::parse(text, &schema(&BARE_FIELDS, Clock::Ticks(1_000_000_000)))?;
    if filter.neighbours().is_some() {
        return Err(ChoiceError::Around("a report"));
    }
    match (keep, level) {
        (_, TraceLevel::Off) => Err(ChoiceError::NoRecords("no records (trace level off)")),
        (Keep::All, _) => Ok(()),
        _ => Err(ChoiceError::NoRecords("not every record")),
    }
}

fn schema(fields: &'static Fields, clock: Clock) -> Schema {
    Schema { fields: &fields.0, clock }
}

/// A filter as people may ask for it explained, without a capture: its parts in words, and what to write to Linux's own filters.
///
/// # Errors
///
/// It can't be read, with all fields that any capture has.
pub fn explain(text: &str) -> Result<String, ChoiceError> {
    let filter = Filter::parse(text, &Schema::ipi(Clock::Ticks(1_000_000_000)))?;
    let mut told = format!("{filter}\n{}", filter.explain());
    match filter.kernel() {
        Ok(filters) => {
            told.push_str("The same in the kernel, under /sys/kernel/tracing:\n");
            for one in filters {
                told.push_str(&format!("  {one}\n"));
            }
        }
        Err(error) => told.push_str(&format!("{error}\n")),
    }
    Ok(told)
}

impl Choice {
    /// Reads a filter for a capture; percentiles take a pass over it.
    ///
    /// # Errors
    ///
    /// The filter's, or the capture's.
    pub fn of(text: &str, capture: &Capture) -> Result<Choice, ChoiceError> {
        let plan = &capture.info().plan;
        let table = capture.linux();
        let (fields, clock, origin) = match table {
            Some(table) => (&LINUX_FIELDS, Clock::Ns, begin(capture, table)?),
            None => {
                if plan.level == TraceLevel::Off.name() {
                    return Err(ChoiceError::NoRecords("no records (trace level off)"));
                }
                if plan.keep != Keep::All {
                    return Err(ChoiceError::NoRecords("not every record"));
                }
                let (hz, started) = bare_clock(capture);
                (&BARE_FIELDS, Clock::Ticks(hz), started)
            }
        };
        let fields: &'static Fields = fields;
        let schema = schema(fields, clock);
        let filter = Filter::parse(text, &schema)?;
        let kinds = words(&schema, "kind");
        let places = IpiKind::ALL.map(|kind| kinds.iter().position(|word| *word == kind.name()).map(|at| at as u64));
        let mut choice = Choice {
            filter,
            of: &fields.1,
            kinds: places.to_vec(),
            outcomes: words(&schema, "outcome"),
            states: words(&schema, "state"),
            names: table.map_or(Vec::new(), |table| table.names.clone()),
            phases: plan.phases.iter().map(|phase| phase.name.clone()).collect(),
            origin,
        };
        choice.resolve(capture)?;
        Ok(choice)
    }

    /// The same for what counts single IPIs and knows no neighbours.
    ///
    /// # Errors
    ///
    /// See [`Choice::of`]; `around(…)` is one, too. `what`: who can't.
    pub fn of_counts(text: &str, capture: &Capture, what: &'static str) -> Result<Choice, ChoiceError> {
        let choice = Choice::of(text, capture)?;
        match choice.filter.neighbours() {
            Some(_) => Err(ChoiceError::Around(what)),
            None => Ok(choice),
        }
    }

    fn resolve(&mut self, capture: &Capture) -> Result<(), CaptureError> {
        let asked = self.filter.percentiles();
        if asked.is_empty() {
            return Ok(());
        }
        let mut fields: Vec<FieldId> = asked.iter().map(|percentile| percentile.field).collect();
        fields.sort_unstable();
        fields.dedup();
        let mut samples: Vec<(FieldId, Samples)> =
            fields.into_iter().map(|field| (field, Samples::new(KEPT))).collect();
        correlate_heard(capture, &mut |message| {
            let row = Told { choice: self, message };
            for (field, samples) in &mut samples {
                if let Some(value) = row.number(*field) {
                    samples.push(value);
                }
            }
            true
        })?;
        self.filter.resolve(|Percentile { field, percent }| {
            let (_, samples) = samples.iter().find(|(of, _)| *of == field)?;
            let (share, n) = (percent / 100.0, samples.len());
            // The ends are values, not estimates.
            let carries = carries(n, share) && carries(n, 1.0 - share) || percent <= 0.0 || percent >= 100.0;
            samples.quantile(share).filter(|_| carries)
        });
        Ok(())
    }

    /// Whether an IPI is picked.
    pub fn picks(&self, message: &Message) -> bool {
        self.filter.picks(&Told { choice: self, message })
    }

    /// Whether it asks for what became of IPIs, and not only for what was known when they were sent: what it picks is then no
    /// fair sample of anything.
    pub fn asks_for_results(&self) -> bool {
        let result = |id: FieldId| self.of.get(usize::from(id.0)).is_some_and(|of| of.is_result());
        self.filter.fields().into_iter().any(result)
    }

    /// The filter itself: its text, its neighbours.
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    fn name(&self, name: Name) -> Option<&str> {
        self.names.get(name.0 as usize).map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// Ticks per second of a bare-metal capture, and when its run began.
fn bare_clock(capture: &Capture) -> (u64, u64) {
    let known = || {
        let mut source = capture.snapshot()?;
        let region = Region::open(&mut source).ok()?;
        let status = region.status(&mut source).ok()?;
        Some((region.directory.counter_hz.max(1), status.started))
    };
    known().unwrap_or((1, 0))
}

/// The time of a Linux trace's first event, ns.
fn begin(capture: &Capture, table: &Table) -> Result<u64, CaptureError> {
    let mut first = None;
    let mut decoder = Decoder::new(table);
    capture.linux_rows_while(|_, rows| {
        decoder.events(rows, |event| {
            first.get_or_insert(event.t);
        });
        first.is_none()
    })?;
    Ok(first.unwrap_or(0))
}

/// An IPI as a filter sees it.
struct Told<'a> {
    choice: &'a Choice,
    message: &'a Message,
}

impl Told<'_> {
    fn of(&self, field: FieldId) -> Option<Of> {
        self.choice.of.get(usize::from(field.0)).copied()
    }
}

impl Row for Told<'_> {
    fn cpus(&self, field: FieldId) -> Cpus<'_> {
        match self.of(field) {
            Some(Of::Target) => Cpus::One(self.message.to.into()),
            Some(Of::Sender) => self.message.from.map_or(Cpus::Unknown, |from| Cpus::One(from.into())),
            _ => Cpus::Unknown,
        }
    }

    fn number(&self, field: FieldId) -> Option<u64> {
        let message = self.message;
        let place = |words: &[&str], name: &str| words.iter().position(|word| *word == name).map(|at| at as u64);
        match self.of(field)? {
            Of::Latency => message.latency,
            Of::Time => message.sent.or(message.entry).map(|t| t.saturating_sub(self.choice.origin)),
            Of::Kind => {
                let kind = message.kind?;
                IpiKind::ALL.iter().position(|other| *other == kind).and_then(|at| *self.choice.kinds.get(at)?)
            }
            Of::Outcome => place(self.choice.outcomes, message.outcome?.name()),
            Of::State => place(self.choice.states, message.state.name()),
            Of::Pid => message.pid.map(u64::from),
            Of::Intid => Some(message.intid.into()),
            Of::Number => message.number.map(u64::from),
            _ => None,
        }
    }

    fn text(&self, field: FieldId) -> Option<&str> {
        match self.of(field)? {
            Of::Reason => self.choice.name(self.message.reason),
            Of::Callback => self.choice.name(self.message.callback),
            Of::Callsite => self.choice.name(self.message.callsite),
            Of::Task => self.choice.name(self.message.task),
            Of::Phase => self.choice.phases.get(usize::from(self.message.phase)).map(String::as_str),
            _ => None,
        }
    }

    fn flag(&self, field: FieldId) -> Option<bool> {
        let outcome = self.message.outcome;
        match self.of(field)? {
            Of::Lost => outcome.map(|outcome| outcome == Outcome::Lost),
            Of::Coalesced => outcome.map(|outcome| outcome == Outcome::Coalesced),
            // A send without its reception, or the reverse.
            Of::Unmatched => Some(self.message.entry.is_none() || outcome.is_none()),
            Of::Stolen => Some(self.message.stolen),
            _ => None,
        }
    }
}
