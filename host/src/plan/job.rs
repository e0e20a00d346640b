//! The job file: a plan as its author writes it, in TOML.
//!
//! Everything that can be wrong by itself is wrong here, with the line; what depends on the machine is `compile`'s matter.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};
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
    #[serde(default)]
    pub defaults: Defaults,
    #[serde(rename = "phase")]
    pub phases: Vec<Phase>,
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
    #[serde(default)]
    pub state: Option<State>,
    #[serde(default)]
    pub intid: Option<u8>,
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
    /// Of pattern `script`: what each core does.
    #[serde(default)]
    pub program: Vec<Program>,
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
    /// Operations by hand.
    Script,
}

impl Pattern {
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Ping => "ping",
            Pattern::Matrix => "matrix",
            Pattern::Broadcast => "broadcast",
            Pattern::Storm => "storm",
            Pattern::ToSelf => "self",
            Pattern::Script => "script",
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
}

impl State {
    pub const fn receiver(self) -> ReceiverState {
        match self {
            State::Spin => ReceiverState::Spin,
            State::Wfi => ReceiverState::Wfi,
            State::Wfe => ReceiverState::Wfe,
        }
    }
}

/// Cores: `2`, `[0, 3]`, `"0-3,7"` or `"all"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    All,
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
                Ok(Cores::List(CoreList(vec![core])))
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Idle {
    pub state: State,
    pub time: Span,
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

const fn one() -> u32 {
    1
}
