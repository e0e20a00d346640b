//! One IPI as it was told: who, to whom, when, how long, and what became of it.
//!
//! Joining hands every IPI on as soon as it is settled, once for each target, in no order of time: filters choose among them,
//! exports draw arrows of them, a replay sends them again. What the trace does not say of an IPI is `None`, never a guess.

use linux_trace::Name;
use trace_ring::calls::IpiKind;
use trace_ring::record::ReceiverState;

/// What became of an IPI (DESIGN section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An acknowledge answered it.
    Delivered,
    /// Answered by an acknowledge that counts for another one.
    Coalesced,
    /// Nobody acknowledged it, and nobody will.
    Lost,
    /// Another core acknowledged it.
    Misrouted,
    /// On its way when the run was cut short.
    InFlight,
    /// Nobody can say.
    Unknown,
}

impl Outcome {
    /// All, in the order of their codes.
    pub const ALL: [Outcome; 6] = [
        Outcome::Delivered,
        Outcome::Coalesced,
        Outcome::Lost,
        Outcome::Misrouted,
        Outcome::InFlight,
        Outcome::Unknown,
    ];

    /// One by its code (`outcome as u8`).
    pub fn from_code(code: u8) -> Option<Outcome> {
        Outcome::ALL.get(usize::from(code)).copied()
    }

    /// Its name in reports and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Coalesced => "coalesced",
            Outcome::Lost => "lost",
            Outcome::Misrouted => "misrouted",
            Outcome::InFlight => "in_flight",
            Outcome::Unknown => "unknown",
        }
    }
}

/// One IPI, or several of which a trace says the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    /// How many: more than one only of those whose own records are missing.
    pub count: u64,
    /// Who sent it; `None`: an acknowledge that no send explains.
    pub from: Option<u16>,
    /// Who was to take it, or took it.
    pub to: u16,
    /// INTID of bare metal; of a Linux trace 0.
    pub intid: u8,
    /// What it asks for, where it is one of Linux's kinds.
    pub kind: Option<IpiKind>,
    /// How Linux words it; none on bare metal.
    pub reason: Name,
    /// Index of the plan's phase.
    pub phase: u16,
    /// What the receiver did when it was sent.
    pub state: ReceiverState,
    /// The sender's number of it.
    pub number: Option<u32>,
    /// When it was sent, ticks (ns of a Linux trace).
    pub sent: Option<u64>,
    /// When the vector was entered that answered it, ticks.
    pub entry: Option<u64>,
    /// From the one to the other, ticks; `None` too where the times say nothing of lengths.
    pub latency: Option<u64>,
    /// What became of it; `None`: an acknowledge that no send explains.
    pub outcome: Option<Outcome>,
    /// Time was taken from its receiver meanwhile, by the emulator or a hypervisor.
    pub stolen: bool,
    /// What its handler was asked to call; none: not told.
    pub callback: Name,
    /// Who asked for it; none: not told.
    pub callsite: Name,
    /// The task that ran at the sender; none: not told.
    pub task: Name,
    /// Its process id.
    pub pid: Option<u32>,
}

impl Message {
    /// One of which nothing but its ends is known.
    pub const fn new(from: Option<u16>, to: u16) -> Message {
        Message {
            count: 1,
            from,
            to,
            intid: 0,
            kind: None,
            reason: Name::NONE,
            phase: 0,
            state: ReceiverState::Unknown,
            number: None,
            sent: None,
            entry: None,
            latency: None,
            outcome: None,
            stolen: false,
            callback: Name::NONE,
            callsite: Name::NONE,
            task: Name::NONE,
            pid: None,
        }
    }
}

/// Who hears of each IPI, and says whether it counts in what joining returns.
pub type Hear<'a> = dyn FnMut(&Message) -> bool + 'a;

/// How many IPIs were told, and how many of them count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Told.
    pub told: u64,
    /// Counted.
    pub counted: u64,
}
