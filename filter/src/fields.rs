//! What a row can have: names, types, one line of help each.

/// The number of a field: its place in [`Schema::fields`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldId(pub u16);

/// What a field holds, and so what it can be compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    /// The number of one CPU.
    Cpu,
    /// CPUs: one, or several of a broadcast.
    CpuSet,
    /// A length of time, in the rows' unit ([`Clock`]).
    Duration,
    /// A point of time, in the rows' unit since the trace's begin.
    Time,
    /// A whole number.
    Number,
    /// A name or another text.
    Text,
    /// A symbol as the kernel prints it, `name+0x10/0x48 [module]`. Compared with a text without `+` and blank, only
    /// the name counts.
    Symbol,
    /// One of these words, at most 64; a row tells its place among them.
    Enum(&'static [&'static str]),
    /// True or false: its name alone is a predicate.
    Flag,
    /// Both ends of a message: the fields of the sender and of the receiver.
    Pair(FieldId, FieldId),
}

/// What a field is in the events of sending of Linux (`include/trace/events/ipi.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linux {
    /// To whom: `cpu` of `ipi_send_cpu`, `cpumask` of `ipi_send_cpumask`, `target_cpus` of `ipi_raise`.
    Target,
    /// The CPU that records the event, the sender: `CPU`.
    Cpu,
    /// `callsite` of `ipi_send_*`.
    Callsite,
    /// `callback` of `ipi_send_*`.
    Callback,
    /// `reason` of `ipi_raise`.
    Reason,
    /// `COMM` of the task that ran.
    Comm,
    /// `common_pid`.
    Pid,
    /// Which event it is.
    Event,
}

/// A field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// The name that is printed.
    pub name: &'static str,
    /// Other names that are read.
    pub synonyms: &'static [&'static str],
    /// What it holds.
    pub kind: Type,
    /// What it is, one line.
    pub help: &'static str,
    /// What it is in Linux's events of sending; `None`: nothing, or not known when they are recorded.
    pub linux: Option<Linux>,
}

/// The unit of the rows' durations and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Nanoseconds, of a source without a counter: ticks can't be asked for.
    Ns,
    /// Nanoseconds, made of a counter of this many ticks a second by division and rounding down.
    NsOfTicks(u64),
    /// Ticks of a counter of this many ticks a second. Nanoseconds are compared with them exactly.
    Ticks(u64),
}

/// What rows have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schema {
    /// The fields, by [`FieldId`].
    pub fields: &'static [Field],
    /// The unit of their durations and times.
    pub clock: Clock,
}

impl Schema {
    /// A schema of [`FIELDS`].
    #[must_use]
    pub const fn ipi(clock: Clock) -> Schema {
        Schema { fields: FIELDS, clock }
    }

    /// A field by one of its names, upper or lower case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<FieldId> {
        let called = |field: &Field| {
            field.name.eq_ignore_ascii_case(name) || field.synonyms.iter().any(|other| other.eq_ignore_ascii_case(name))
        };
        self.fields.iter().position(called).and_then(|at| u16::try_from(at).ok()).map(FieldId)
    }

    /// A field by its number.
    #[must_use]
    pub fn field(&self, id: FieldId) -> Option<&'static Field> {
        self.fields.get(usize::from(id.0))
    }
}

const fn field(
    name: &'static str,
    synonyms: &'static [&'static str],
    kind: Type,
    linux: Option<Linux>,
    help: &'static str,
) -> Field {
    Field { name, synonyms, kind, help, linux }
}

/// The fields of an IPI, by the names that the reports use. A source may have fewer, and a schema of its own.
pub static FIELDS: &[Field] = &[
    field("target", &["dst", "to"], Type::CpuSet, Some(Linux::Target), "to whom it was sent"),
    field("sender", &["src", "from"], Type::Cpu, Some(Linux::Cpu), "who sent it"),
    field("pair", &[], Type::Pair(FieldId(1), FieldId(0)), None, "who sent it, to whom"),
    field("cpu", &["core"], Type::Cpu, Some(Linux::Cpu), "who recorded the event"),
    field("latency", &["lat"], Type::Duration, None, "from the send to the handler's entry"),
    field("t", &["time"], Type::Time, None, "when, since the trace's begin"),
    field("kind", &[], Type::Enum(KINDS), None, "which IPI"),
    field("outcome", &[], Type::Enum(OUTCOMES), None, "what became of it"),
    field("state", &[], Type::Enum(STATES), None, "what the receiver did when it was sent"),
    field("reason", &[], Type::Text, Some(Linux::Reason), "which IPI, as Linux words it"),
    field("callback", &["func"], Type::Symbol, Some(Linux::Callback), "the function that its handler calls"),
    field("callsite", &[], Type::Symbol, Some(Linux::Callsite), "who asked for it"),
    field("phase", &[], Type::Text, None, "the plan's phase"),
    field("event", &[], Type::Text, Some(Linux::Event), "the event's name"),
    field("task", &["comm"], Type::Text, Some(Linux::Comm), "the task that ran"),
    field("pid", &[], Type::Number, Some(Linux::Pid), "the process id of the task that ran"),
    field("intid", &[], Type::Number, None, "the interrupt's number"),
    field("msg", &[], Type::Number, None, "the sender's number of the message"),
    field("lost", &[], Type::Flag, None, "nobody acknowledged it"),
    field("coalesced", &[], Type::Flag, None, "answered by an acknowledge that counts for another"),
    field("unmatched", &[], Type::Flag, None, "a send without its reception, or the reverse"),
    field("late", &[], Type::Flag, None, "beyond the limit or detector that the row names"),
    field("stolen", &[], Type::Flag, None, "the emulator or hypervisor kept the core away meanwhile"),
];

const KINDS: &[&str] =
    &["reschedule", "call_function", "stop", "crash_stop", "timer_broadcast", "irq_work", "wakeup", "backtrace"];

const OUTCOMES: &[&str] = &["delivered", "coalesced", "lost", "misrouted", "in_flight", "unknown"];

const STATES: &[&str] = &["spin", "wfi", "wfe", "masked", "suspend", "unknown"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_stands_for_one_field() {
        let schema = Schema::ipi(Clock::Ns);
        for (at, field) in FIELDS.iter().enumerate() {
            for name in field.synonyms.iter().chain([&field.name]) {
                assert_eq!(schema.find(name), Some(FieldId(at as u16)), "{name}");
                assert_eq!(schema.find(&name.to_uppercase()), Some(FieldId(at as u16)), "{name}");
            }
            if let Type::Pair(from, to) = field.kind {
                assert_eq!((FIELDS[from.0 as usize].name, FIELDS[to.0 as usize].name), ("sender", "target"));
            }
        }
    }
}
