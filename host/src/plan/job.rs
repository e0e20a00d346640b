//! The job file: a plan as its author writes it, in TOML.
//!
//! Everything that can be wrong by itself is wrong here, with the line; what depends on the machine is `compile`'s matter.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};
use trace_ring::calls::{Delivery, Function, IpiKind};
use trace_ring::plan::{TraceLevel, transition};
use trace_ring::record::ReceiverState;

use super::CoreList;

/// A whole job file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    pub name: String,
    /// One line for `ipiscope plans`.
    #[serde(default, rename = "summary")]
    pub _summary: Option<String>,
    /// Which capture it sends again, as `replay` names it.
    #[serde(default)]
    pub replays: Option<String>,
    #[serde(default)]
    pub defaults: Defaults,
    #[serde(rename = "phase")]
    pub phases: Vec<Phase>,
}

impl Job {
    /// Whether it uses the call layer anywhere.
    pub fn calls(&self) -> bool {
        self.phases.iter().any(|phase| {
            phase.pattern.calls() || phase.program.iter().any(|program| contains(&program.ops, Step::is_of_calls))
        })
    }
}

/// What holds for every phase that doesn't say otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Defaults {
    /// T: how long a sender waits for an answer.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// How long it waits before it looks at the target's redistributor.
    #[serde(default)]
    pub probe: Option<Span>,
    /// How long a barrier, a turn or a call may take before the run is given up; a generous guess where it is not said.
    #[serde(default)]
    pub deadline: Option<Span>,
    #[serde(default)]
    pub state: Option<State>,
    #[serde(default)]
    pub intid: Option<u8>,
    /// What is recorded where the command line doesn't say.
    #[serde(default)]
    pub level: Option<Level>,
    /// How long a waiting core goes without a heartbeat; 0s: it has none.
    #[serde(default)]
    pub heartbeat: Option<Span>,
    /// How late a heartbeat, or how far apart two looks of a polling loop, are a gap; 0s: nobody looks.
    #[serde(default)]
    pub gap: Option<Span>,
    /// See [`Phase::dither`].
    #[serde(default)]
    pub dither: Option<u32>,
    /// The power state for PSCI CPU_SUSPEND; left out: the device tree's.
    #[serde(default)]
    pub suspend_state: Option<u32>,
}

/// One phase: all cores meet, do it, meet again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Phase {
    #[serde(default)]
    pub name: Option<String>,
    pub pattern: Pattern,
    #[serde(default)]
    pub from: Option<Cores>,
    #[serde(default)]
    pub to: Option<Cores>,
    /// Messages of each pair (broadcasts of each sender).
    #[serde(default)]
    pub count: Option<u32>,
    /// Messages of the whole phase, shared out over its pairs.
    #[serde(default)]
    pub budget: Option<u64>,
    /// With `budget`: messages that each pair gets at least.
    #[serde(default)]
    pub minimum: Option<u32>,
    #[serde(default)]
    pub state: Option<State>,
    #[serde(default)]
    pub states: Option<Vec<State>>,
    #[serde(default)]
    pub intid: Option<u8>,
    #[serde(default)]
    pub pairs: Option<Pairs>,
    /// With `pairs = "auto"`: the most cores of which every pair is measured.
    #[serde(default)]
    pub all_up_to: Option<u16>,
    /// The phase is left out on machines of more cores.
    #[serde(default)]
    pub most_cores: Option<u16>,
    /// Of pattern `calls`: where its random choices begin.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Of pattern `calls`: the functions that it calls.
    #[serde(default)]
    pub functions: Option<Vec<Called>>,
    /// Of pattern `calls`: the longest a core is busy between two calls.
    #[serde(default)]
    pub pause: Option<Span>,
    /// Of pattern `chain`: calls of each chain.
    #[serde(default)]
    pub hops: Option<u32>,
    /// Of pattern `chain`: from core to core.
    #[serde(default)]
    pub stride: Option<u16>,
    /// Of pattern `kinds`: the most pairs of each of its phases.
    #[serde(default)]
    pub most_pairs: Option<u32>,
    /// Of timed patterns: the most turns of an empty loop, drawn at random, that a sender goes through before each message; 0: none.
    #[serde(default)]
    pub dither: Option<u32>,
    /// Of patterns of pairs: cores that are neither sender nor receiver work over their memory.
    #[serde(default)]
    pub pressure: Option<bool>,
    /// Of pattern `sweep`: what the receiver does at the planned time.
    #[serde(default)]
    pub transition: Option<Transition>,
    /// Of pattern `sweep`: several of them, each in a phase of its own.
    #[serde(default)]
    pub transitions: Option<Vec<Transition>>,
    /// Of pattern `sweep`: where the first message is sent, in ticks behind the planned time; negative: before it.
    #[serde(default)]
    pub first: Option<i64>,
    /// Of pattern `sweep`: ticks from one message's place to the next one's.
    #[serde(default)]
    pub step: Option<u32>,
    /// Of pattern `sweep`: messages of one pass.
    #[serde(default)]
    pub steps: Option<u32>,
    /// Of pattern `script`: its latencies are judged like those of one message at a time.
    #[serde(default)]
    pub judged: Option<bool>,
    /// Of pattern `script`: what each core does.
    #[serde(default)]
    pub program: Vec<Program>,
}

/// What a receiver does while a message is on its way. The number is a [`trace_ring::plan::transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transition {
    /// Enters WFI.
    Wfi,
    /// Unmasks its interrupts.
    Unmask,
    /// Ends an interrupt.
    EndOfInterrupt,
    /// Calls CPU_SUSPEND.
    Suspend,
    /// Enters WFE.
    Wfe,
}

impl Transition {
    pub const fn code(self) -> u8 {
        match self {
            Transition::Wfi => transition::WFI,
            Transition::Unmask => transition::UNMASK,
            Transition::EndOfInterrupt => transition::END_OF_INTERRUPT,
            Transition::Suspend => transition::SUSPEND,
            Transition::Wfe => transition::WFE,
        }
    }

    /// The state in which messages find the receiver once it has made its transition.
    pub const fn state(self) -> ReceiverState {
        match self {
            Transition::Wfi => ReceiverState::Wfi,
            Transition::Unmask => ReceiverState::Masked,
            Transition::EndOfInterrupt => ReceiverState::Spin,
            Transition::Suspend => ReceiverState::Suspend,
            Transition::Wfe => ReceiverState::Wfe,
        }
    }
}

/// The shape of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pattern {
    /// `from` times `to`, one outstanding.
    Ping,
    /// Every ordered pair, one outstanding.
    Matrix,
    /// One write to all others, all answers awaited.
    Broadcast,
    /// No waiting.
    Storm,
    /// Each core to itself, one outstanding.
    #[serde(rename = "self")]
    ToSelf,
    /// One outstanding, each at its own distance from a transition of its receiver.
    Sweep,
    /// Operations by hand.
    Script,
    /// Function calls at random, from a seed.
    Calls,
    /// Every IPI kind by itself.
    Kinds,
    /// Calls whose callback calls on.
    Chain,
    /// Function calls from all to one.
    #[serde(rename = "fan-in")]
    FanIn,
}

impl Pattern {
    /// Whether it is one of the call layer.
    pub const fn calls(self) -> bool {
        matches!(self, Pattern::Calls | Pattern::Kinds | Pattern::Chain | Pattern::FanIn)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Ping => "ping",
            Pattern::Matrix => "matrix",
            Pattern::Broadcast => "broadcast",
            Pattern::Storm => "storm",
            Pattern::ToSelf => "self",
            Pattern::Sweep => "sweep",
            Pattern::Script => "script",
            Pattern::Calls => "calls",
            Pattern::Kinds => "kinds",
            Pattern::Chain => "chain",
            Pattern::FanIn => "fan-in",
        }
    }
}

/// Which of all pairs are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pairs {
    /// Every one.
    All,
    /// Each core to the next, the last to the first.
    Neighbours,
    /// Between the first cores of each cluster of sixteen.
    Clusters,
    /// All up to `all_up_to` cores, neighbours and clusters above.
    Auto,
}

/// How a receiver waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Spin,
    Wfi,
    Wfe,
    Masked,
    Suspend,
}

impl State {
    pub const fn receiver(self) -> ReceiverState {
        match self {
            State::Spin => ReceiverState::Spin,
            State::Wfi => ReceiverState::Wfi,
            State::Wfe => ReceiverState::Wfe,
            State::Masked => ReceiverState::Masked,
            State::Suspend => ReceiverState::Suspend,
        }
    }
}

/// A trace level, as a plan says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Off,
    Ipi,
    Stages,
    Calls,
}

impl Level {
    pub const fn level(self) -> TraceLevel {
        match self {
            Level::Off => TraceLevel::Off,
            Level::Ipi => TraceLevel::Ipi,
            Level::Stages => TraceLevel::Stages,
            Level::Calls => TraceLevel::Calls,
        }
    }
}

/// Cores: `2`, `[0, 3]`, `"0-3,7"` or `"all"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    All,
    One(u16),
    List(CoreList),
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Cores;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("cores: a number, a list of numbers, a text like \"0-3,7\", or \"all\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Cores, E> {
                let core = u16::try_from(value).map_err(|_| E::custom(format!("there is no core {value}")))?;
                Ok(Cores::One(core))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cores, E> {
                if text == "all" {
                    return Ok(Cores::All);
                }
                text.parse().map(Cores::List).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Cores, A::Error> {
                let mut list = Vec::new();
                while let Some(core) = items.next_element()? {
                    list.push(core);
                }
                list.sort_unstable();
                list.dedup();
                Ok(Cores::List(CoreList(list)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A length of time as text: `"10us"`, `"1ms 500us"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub Duration);

impl Span {
    pub fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Span).map_err(|error| {
            de::Error::custom(format!("`{text}` is no length of time ({error}); write \"10us\" or \"2ms\""))
        })
    }
}

/// What some cores do in a `script` phase.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    pub cores: Cores,
    pub ops: Vec<Step>,
}

/// One operation of a `script`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Step {
    /// Sends without waiting.
    Send(Message),
    /// Sends and waits for the answer.
    Ping(Message),
    /// To all others, and waits for all answers.
    Broadcast(Messages),
    /// Waits until all was answered.
    Settle,
    /// Busy for so long.
    Delay(Span),
    /// Busy until so long after the phase's begin.
    At(Span),
    /// Interrupts masked for so long.
    Mask(Span),
    /// Waits in a state for so long.
    Idle(Idle),
    /// Busy with memory for so long.
    Pressure(Pressure),
    /// Over and over.
    Loop(Loop),
    /// A mark in the trace.
    Mark(u32),
    /// All cores meet.
    Barrier,
    /// Has a function run on other cores.
    Call(Call),
    /// Sends an IPI that is no call, and waits for the answer.
    Ipi(Ipi),
    /// A timer's tick, broadcast to all others.
    Tick(Tick),
    /// Has a function run on this core, in interrupt context.
    #[serde(rename = "irq_work")]
    IrqWork(IrqWork),
    /// Masks interrupts until released.
    Hold(Hold),
    /// Ends the hold of other cores.
    Release(Cores),
    /// Waits until another core is masked, parked, or neither.
    Await(Await),
    /// How this core takes crash stops and backtraces in this phase.
    Delivery(Taken),
}

impl Step {
    /// Whether it is one of the call layer.
    pub const fn is_of_calls(&self) -> bool {
        match self {
            Step::Call(_)
            | Step::Ipi(_)
            | Step::Tick(_)
            | Step::IrqWork(_)
            | Step::Hold(_)
            | Step::Release(_)
            | Step::Await(_)
            | Step::Delivery(_) => true,
            Step::Send(_)
            | Step::Ping(_)
            | Step::Broadcast(_)
            | Step::Settle
            | Step::Delay(_)
            | Step::At(_)
            | Step::Mask(_)
            | Step::Idle(_)
            | Step::Pressure(_)
            | Step::Loop(_)
            | Step::Mark(_)
            | Step::Barrier => false,
        }
    }

    /// How long it keeps its core busy because it says so, callbacks apart.
    pub const fn busy(&self) -> Span {
        match self {
            Step::Delay(span) | Step::Mask(span) => *span,
            Step::Idle(Idle { time: Some(time), .. }) | Step::Pressure(Pressure { time, .. }) => *time,
            _ => Span(Duration::ZERO),
        }
    }

    /// Until how long after the phase's begin it keeps its core, where it says that.
    pub const fn until(&self) -> Span {
        match self {
            Step::At(span) | Step::Idle(Idle { until: Some(span), .. }) => *span,
            _ => Span(Duration::ZERO),
        }
    }
}

/// Whether one of these steps, or of their loops', is such a one.
pub(super) fn contains(steps: &[Step], is: impl Fn(&Step) -> bool + Copy) -> bool {
    steps.iter().any(|step| match step {
        Step::Loop(inner) => contains(&inner.ops, is),
        step => is(step),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub to: Cores,
    #[serde(default = "one")]
    pub count: u32,
    #[serde(default)]
    pub intid: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Messages {
    #[serde(default = "one")]
    pub count: u32,
    #[serde(default)]
    pub intid: Option<u8>,
}

/// Exactly one of `time` and `until`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Idle {
    pub state: State,
    /// For so long.
    #[serde(default)]
    pub time: Option<Span>,
    /// Until so long after the phase's begin.
    #[serde(default)]
    pub until: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pressure {
    pub kib: u32,
    pub time: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loop {
    pub count: u32,
    pub ops: Vec<Step>,
}

/// A call of one core, if `to` is a number, or of several at once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    pub to: Cores,
    pub function: Called,
    #[serde(default)]
    pub wait: Option<bool>,
    /// Of `slow`: how long it takes.
    #[serde(default)]
    pub time: Option<Span>,
    /// Of `onward`: calls that the chain makes.
    #[serde(default)]
    pub hops: Option<u32>,
    /// Of `onward`: from core to core.
    #[serde(default)]
    pub stride: Option<u16>,
    #[serde(default = "one")]
    pub count: u32,
    /// The SGI is sent even where the target's queue is not empty.
    #[serde(default)]
    pub always_send: bool,
}

/// A function that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Called {
    Drain,
    Gather,
    SyncIcache,
    Slow,
    Onward,
}

impl Called {
    pub const fn function(self) -> Function {
        match self {
            Called::Drain => Function::Drain,
            Called::Gather => Function::Gather,
            Called::SyncIcache => Function::SyncIcache,
            Called::Slow => Function::Slow,
            Called::Onward => Function::Onward,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ipi {
    pub kind: Sent,
    pub to: Cores,
    /// For the answer.
    #[serde(default)]
    pub wait: Option<bool>,
    #[serde(default = "one")]
    pub count: u32,
}

/// A kind that is sent by itself. Those that come with a tick or a work find none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sent {
    Reschedule,
    Stop,
    CrashStop,
    TimerBroadcast,
    IrqWork,
    Wakeup,
    Backtrace,
}

impl Sent {
    pub const fn kind(self) -> IpiKind {
        match self {
            Sent::Reschedule => IpiKind::Reschedule,
            Sent::Stop => IpiKind::Stop,
            Sent::CrashStop => IpiKind::CrashStop,
            Sent::TimerBroadcast => IpiKind::TimerBroadcast,
            Sent::IrqWork => IpiKind::IrqWork,
            Sent::Wakeup => IpiKind::Wakeup,
            Sent::Backtrace => IpiKind::Backtrace,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tick {
    pub after: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IrqWork {
    pub function: Called,
    #[serde(default)]
    pub wait: Option<bool>,
    /// Of `slow`: how long it takes.
    #[serde(default)]
    pub time: Option<Span>,
}

/// What masks a core that holds. The number is that of operation `HOLD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Hold {
    /// PSTATE.I.
    Daif = 0,
    /// ICC_PMR_EL1.
    Priority = 1,
    /// Whichever lets crash stops and backtraces in, as the core takes them.
    Reachable = 2,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Await {
    pub core: u16,
    pub state: Awaited,
}

/// What is waited for. The number is that of operation `AWAIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Awaited {
    Masked = 0,
    Parked = 1,
    /// Neither.
    Open = 2,
}

/// How crash stops and backtraces are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Taken {
    Irq,
    PseudoNmi,
    Nmi,
}

impl Taken {
    pub const fn delivery(self) -> Delivery {
        match self {
            Taken::Irq => Delivery::Irq,
            Taken::PseudoNmi => Delivery::PseudoNmi,
            Taken::Nmi => Delivery::Nmi,
        }
    }
}

const fn one() -> u32 {
    1
}
