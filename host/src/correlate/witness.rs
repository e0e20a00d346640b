//! Witnesses: what else was seen while IPIs were on their way. Gaps in which a core was away, interrupts that woke an IPI, counters
//! that stepped back, sends timed against a transition, and how latencies went on over time.
//!
//! A latency says *that* somebody was late. These say *who could not help it*: a core that its host took away answers late and
//! is not to blame, nor is the way to it.

use serde::Serialize;
use trace_ring::layout::Context;
use trace_ring::record::Witness;

/// A time in which a core was away while it waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The core.
    pub core: u16,
    /// Since when it was surely away, ticks.
    pub from: u64,
    /// When it was back, ticks.
    pub to: u64,
    /// Who saw it.
    pub witness: Witness,
}

/// A core's gaps by its own count, whole whatever became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GapTotals {
    /// How many.
    pub count: u64,
    /// Ticks of all together.
    pub ticks: u64,
    /// The longest, ticks.
    pub longest: u64,
    /// Heartbeats that the core took: without any, nobody watched.
    pub heartbeats: u64,
    /// Gaps that have no record: latencies in them can't be told from late ones.
    pub unrecorded: u64,
}

/// Latencies of a pair slot that something else than the way of the IPI explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excused {
    /// Latencies of which a gap of the receiver, or a send window as long as one, covers the greater part. They are not judged.
    pub stolen: u64,
    /// The longest of them, ticks.
    pub stolen_longest: u64,
    /// Latencies of which a gap covers a part only: nobody can tell what the rest was. They are not judged either.
    pub doubtful: u64,
    /// The longest of them, ticks.
    pub doubtful_longest: u64,
}

/// Answers of a pair slot that came only after another event had reached the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// How many: the SGI stood pending while the receiver took a heartbeat, and was taken right after it.
    pub count: u64,
    /// The longest of them, ticks.
    pub longest: u64,
}

/// A lane in which time went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBack {
    /// The core.
    pub core: u16,
    /// The context.
    pub context: Context,
    /// The record's time, ticks.
    pub t: u64,
    /// The time of a record before it, ticks.
    pub before: u64,
}

/// One distance of a sweep from the transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepStep {
    /// Ticks from the planned time of the transition to the send stamp, the least of this step.
    pub offset: i64,
    /// Messages sent at this distance.
    pub sent: u64,
    /// Those that have a latency.
    pub timed: u64,
    /// The least latency, ticks.
    pub min: u64,
    /// The greatest latency, ticks.
    pub max: u64,
    /// Those that were given up.
    pub given_up: u64,
}

/// Messages timed against a transition of their receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The sender.
    pub from: u16,
    /// The receiver.
    pub to: u16,
    /// A [`trace_ring::plan::transition`].
    pub transition: u8,
    /// Its steps, by distance; at most [`SWEEP_STEPS`], neighbours joined where there were more.
    pub steps: Vec<SweepStep>,
}

/// The most steps that are kept of a sweep.
pub const SWEEP_STEPS: usize = 256;

/// Latencies over time, in equal pieces of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Length of a piece, ticks; 0: there is no series.
    pub piece_ticks: u64,
    /// When the first piece begins, ticks.
    pub start: u64,
    /// The cores as receivers.
    pub receivers: Vec<SeriesLine>,
}

/// One core's latencies as a receiver over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SeriesLine {
    /// The core.
    pub core: u16,
    /// The pieces, from the start of the run.
    pub points: Vec<SeriesPoint>,
}

/// What was measured in one piece of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SeriesPoint {
    /// Latencies.
    pub n: u64,
    /// Their sum, ticks.
    pub sum: u64,
    /// The least, ticks.
    pub min: u64,
    /// The greatest, ticks.
    pub max: u64,
}
