//! From sends and receptions to outcomes: which message was answered by which acknowledge, and what became of the others.
//!
//! Records arrive lane by lane, in whatever order the host drained them, and are joined as they come: a message waits for
//! its answer or an answer for its message, never the whole capture for its end. Counts come from the target's own counters
//! where a snapshot of them is whole; records add exact latencies and evidence, and stand in where there is no snapshot.
//!
//! A core sends from its thread and, in plans that call, from its IRQ handler too: its numbers then come out of order, and an
//! answer waits until both lanes have passed its message's time before it is settled without it. So the order in which lanes
//! were drained changes nothing.
//!
//! For every pair slot, always: `sent = delivered + coalesced + lost + misrouted + in_flight + unknown`.

pub mod calls;
pub mod linux;
pub mod message;
pub mod stages;
pub mod witness;

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use trace_ring::calls::{CallDescriptor, Delivery, IpiKind, LiveEntry};
use trace_ring::histogram;
use trace_ring::layout::{
    Context, CoreEntry, Directory, FaultEntry, HeadLine, LANES_PER_CORE, MAX_CORES, NO_HISTOGRAM, PairSlot,
    PhaseResult, Status, Truth, clock_flag, core_state, run_state,
};
use trace_ring::plan::{Plan, PlanSlot, TraceLevel, plan_flag};
use trace_ring::reader::{Loss, Region};
use trace_ring::record::{
    Event, FLAG_DELIVERED, FLAG_NMI, FLAG_PSEUDO_NMI, FLAG_STATE_MASK, FLAG_UNTIMED, Kind, PEER_ALL, PROBE_ACTIVE,
    PROBE_ENABLED, PROBE_PENDING, RECORD_BYTES, ReceiverState, Record, Retired,
};
use zerocopy::IntoBytes;

use crate::capture::{Batch, Capture, CaptureError, Damage, Ended, PLAN_ATTACHMENT};
use crate::correlate::calls::{CallJoiner, Calls};
use crate::correlate::message::{Hear, Heard, Message, Outcome};
use crate::correlate::stages::{BUSY, Interrupts, StageFigures};
use crate::correlate::witness::{
    Excuse, Excused, Gap, GapTotals, Pieces, Recovered, Series, StepBack, Sweep, Sweeps, Watch, Watching,
};
use crate::plan::Keep;
use crate::stats::{Figures, Samples, Summary};

/// The most messages and answers that wait for each other. What is beyond counts as unknown where records decide.
const MOST_WAITING: usize = 8 << 20;

/// Different latencies kept as they are, in all slots together.
const MOST_VALUES: usize = 8 << 20;

/// The most pieces of evidence of one kind that are kept.
const MOST_EVIDENCE: usize = 65_536;

/// Broadcasts of one sender that are remembered.
const MOST_BROADCASTS: usize = 1 << 20;

/// So many answers in a row that come before their messages prove that counters disagree. One proves nothing: its vector may have
/// been entered for a heartbeat, say, and the SGI have come just before the acknowledge, which then gave the SGI.
const BACKWARDS: u32 = 3;

/// T where nobody says how fast the counter is, ticks: so long that nothing is said to have come after it.
const NO_CLOCK: u64 = 1 << 62;

/// How soon after an interrupt its duplicate comes, ns: what an emulator needs for one. Silicon delivers it in less.
const AGAIN_NS: u64 = 20_000;

/// The same where time counts instructions: a duplicate is taken as soon as the handler ended, 427 to 434 instructions after the
/// entry before it; what a heartbeat that follows the handler raises comes after 700.
const COUNTED_AGAIN_NS: u64 = 600;

/// INTIDs that a flow may have.
const INTIDS: usize = 8;

/// Gaps between settled numbers that are remembered for each flow.
const MOST_HOLES: usize = 1024;

/// Retirements that wait in each flow: each has cost its sender T.
const MOST_RETIREMENTS: usize = 256;

/// Where counts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// The target's counters.
    Target,
    /// The records.
    Records,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages sent: one for each target.
    pub sent: u64,
    /// An acknowledge answered it.
    pub delivered: u64,
    /// Answered by an acknowledge that counts for another message.
    pub coalesced: u64,
    /// Nobody acknowledged it, and nobody will.
    pub lost: u64,
    /// Another core acknowledged it.
    pub misrouted: u64,
    /// On its way when the run was cut short.
    pub in_flight: u64,
    /// Nobody can say.
    pub unknown: u64,
}

impl Counts {
    /// Whether the sum rule holds. It always does; callers assert it.
    pub const fn is_whole(&self) -> bool {
        self.sent == self.delivered + self.coalesced + self.lost + self.misrouted + self.in_flight + self.unknown
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Counts) {
        self.sent = self.sent.saturating_add(other.sent);
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.coalesced = self.coalesced.saturating_add(other.coalesced);
        self.lost = self.lost.saturating_add(other.lost);
        self.misrouted = self.misrouted.saturating_add(other.misrouted);
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.unknown = self.unknown.saturating_add(other.unknown);
    }
}

/// What senders saw when they looked at a target's redistributor while they waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// The INTID was disabled while it was pending.
    pub masked: u64,
    /// It was enabled and pending: the core did not take it.
    pub pending: u64,
    /// It was neither pending nor active.
    pub absent: u64,
    /// It was active.
    pub active: u64,
}

impl Probes {
    fn see(&mut self, seen: u64) {
        let pending = seen & PROBE_PENDING != 0;
        match (seen & PROBE_ACTIVE != 0, pending, seen & PROBE_ENABLED != 0) {
            (true, ..) => self.active += 1,
            (false, true, false) => self.masked += 1,
            (false, true, true) => self.pending += 1,
            (false, false, _) => self.absent += 1,
        }
    }
}

/// One (from, to, phase, INTID, state).
#[derive(Clone, Debug)]
pub struct Slot {
    /// Sender.
    pub from: u16,
    /// Receiver.
    pub to: u16,
    /// Index of the phase.
    pub phase: u16,
    /// INTID.
    pub intid: u8,
    /// The receiver's state.
    pub state: ReceiverState,
    /// What its SGIs ask for; `None`: bare SGIs.
    pub kind: Option<IpiKind>,
    /// How Linux words its reason, where that is none of the kinds.
    pub reason: Option<Box<str>>,
    /// How most of its interrupts came; `None` where no record says.
    pub delivery: Option<Delivery>,
    /// What became of its messages.
    pub counts: Counts,
    /// Latencies in ticks.
    pub latency: Option<Summary>,
    /// What those figures are of.
    pub figures: Figures,
    /// Whether every latency of the slot is in `latency` as it was: its receiver's records are whole.
    pub exact: bool,
    /// The greatest latency among the records: when it was taken (ticks), and how long.
    pub worst: Option<(u64, u64)>,
    /// What remains of the latencies without those that are excused: waits that the receiver's own handler explains, and time
    /// that was taken from a core. `None` where there is nothing of that among the records.
    pub free: Option<Free>,
    /// What probes saw.
    pub probes: Probes,
    /// Latencies that time taken from a core explains: they are in `latency`, and not in what [`Slot::judged`] gives.
    pub excused: Excused,
    /// Answers that came only after another event.
    pub recovered: Recovered,
    /// Answers that seem to have been taken before they were sent, in phases of one IPI at a time, at least three in a row: the
    /// counters disagree.
    pub backwards: u64,
}

/// Latencies without the waits for a handler at work, and without those that somebody took time from.
#[derive(Clone, Debug)]
pub struct Free {
    /// Their figures, ticks; `None`: there is no other latency.
    pub latency: Option<Summary>,
    /// What the figures are of.
    pub figures: Figures,
}

impl Slot {
    /// What its SGIs are for: a kind's name, Linux's words, or the bare SGI.
    pub fn kind_name(&self) -> String {
        match (self.kind, &self.reason) {
            (Some(kind), _) => kind.name().into(),
            (None, Some(reason)) => reason.to_string(),
            (None, None) => format!("sgi{}", self.intid),
        }
    }

    /// The latency that speaks of the receiver and the way to it, not of the handler that was at work there.
    pub fn judged(&self) -> Option<Summary> {
        match &self.free {
            Some(free) => free.latency,
            None => self.latency,
        }
    }

    /// How many of those latencies lie above a number of ticks.
    pub fn judged_above(&self, ticks: u64) -> u64 {
        self.free.as_ref().map_or(&self.figures, |free| &free.figures).above(ticks)
    }
}

/// An acknowledge that no message explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reception {
    /// The core that took it.
    pub core: u16,
    /// INTID.
    pub intid: u8,
    /// Vector entry, ticks.
    pub t: u64,
    /// The same INTID was answered so shortly before that this one is the same again.
    pub duplicate: bool,
}

/// A message that another core took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misrouted {
    /// Sender.
    pub from: u16,
    /// The core it was meant for.
    pub to: u16,
    /// The core that took it.
    pub taken_by: u16,
    /// INTID.
    pub intid: u8,
    /// Vector entry at the core that took it, ticks.
    pub t: u64,
}

/// A message that its sender gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Sender.
    pub from: u16,
    /// Receiver.
    pub to: u16,
    /// INTID.
    pub intid: u8,
    /// Number of the newest message.
    pub msg: u32,
    /// How many.
    pub count: u32,
    /// When the newest was sent, ticks, where its record is there.
    pub sent: Option<u64>,
    /// When it was given up, ticks.
    pub t: u64,
    /// Lost, or unknown.
    pub lost: bool,
    /// Its pair slot, where it is known.
    slot: Option<u32>,
}

/// What was read of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneTally {
    /// The number that the next record should have.
    next: u64,
    /// Records in the capture.
    pub records: u64,
    /// Missed before the capture: lapped.
    pub lapped: u64,
    /// Missed before the capture: torn.
    pub torn: u64,
    /// Turned away on the target.
    pub dropped: u64,
    /// Missing from the capture itself: damaged chunks, or never drained.
    pub missing: u64,
}

impl LaneTally {
    /// Records that the target has written, as far as is known.
    pub const fn written(&self) -> u64 {
        self.next
    }

    /// All that was missed.
    pub const fn lost(&self) -> u64 {
        self.lapped.saturating_add(self.torn).saturating_add(self.dropped).saturating_add(self.missing)
    }
}

/// The newest snapshot, as far as it makes sense.
#[derive(Clone, Debug)]
pub struct View {
    /// The directory.
    pub directory: Directory,
    /// Its status line.
    pub status: Status,
    /// The cores.
    pub cores: Vec<CoreEntry>,
    /// Heads of the lanes.
    pub heads: Vec<HeadLine>,
    /// Phases.
    pub phases: Vec<PhaseResult>,
    /// What the twins did: for the report's `injected` alone.
    pub truth: Vec<Truth>,
    /// Exceptions and panics.
    pub faults: Vec<FaultEntry>,
    /// What each core does.
    pub live: Vec<LiveEntry>,
    /// Call descriptors; none where the plan does not call.
    pub descriptors: Vec<CallDescriptor>,
    /// Nothing was written after it was taken.
    pub quiescent: bool,
}

/// All that the records and counters of a run say together.
#[derive(Clone, Debug)]
pub struct Ipis {
    /// Where counts come from.
    pub from: From,
    /// The pair slots, in the order of the plan.
    pub slots: Vec<Slot>,
    /// The sum of their counts.
    pub totals: Counts,
    /// Receptions that no message explains, the first ones. Misrouted messages are not among them.
    pub receptions: Vec<Reception>,
    /// How many duplicates there are.
    pub duplicate: u64,
    /// How many spurious ones there are.
    pub spurious: u64,
    /// Messages that another core took.
    pub misrouted: Vec<Misrouted>,
    /// Messages that were given up, the first ones.
    pub given_up: Vec<GivenUp>,
    /// Stages of interrupts and calls, where they were recorded (levels `stages` and `calls`).
    pub stages: Vec<StageFigures>,
    /// Calls, where the plan calls and every record was kept.
    pub calls: Option<Calls>,
    /// What the plan had cores watch for; `None`: nobody says.
    pub watching: Option<Watching>,
    /// Times in which cores were away, the first 65,536, by time.
    pub gaps: Vec<Gap>,
    /// The same by the cores' own counts, one for each core.
    pub gap_totals: Vec<GapTotals>,
    /// Lanes in which time went back, the first ones.
    pub step_backs: Vec<StepBack>,
    /// Messages timed against a transition of their receiver.
    pub sweeps: Vec<Sweep>,
    /// Latencies over time.
    pub series: Series,
    /// The newest time in any record, ticks.
    pub latest: u64,
    /// Lanes, [`LANES_PER_CORE`] a core.
    pub lanes: Vec<LaneTally>,
    /// Records in the capture that are ones.
    pub records: u64,
    /// The newest snapshot.
    pub view: Option<View>,
    /// What of the file could not be used.
    pub damage: Damage,
    /// Of a Linux trace: what it tells besides.
    pub linux: Option<linux::Linux>,
    /// Where somebody chose among the IPIs ([`correlate_heard`]): how many there were, and how many of them the counts are of.
    pub heard: Option<Heard>,
    /// What the reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// Reads a capture and joins what it says.
pub fn correlate(capture: &Capture) -> Result<Ipis, CaptureError> {
    joined(capture, None)
}

/// The same; `hear` is told each IPI as it is settled, in no order of time, and says whether it counts. All counts are of the
/// records then: the target's counters know nothing of single IPIs.
pub fn correlate_heard(capture: &Capture, hear: &mut Hear<'_>) -> Result<Ipis, CaptureError> {
    joined(capture, Some(hear))
}

fn joined(capture: &Capture, hear: Option<&mut Hear<'_>>) -> Result<Ipis, CaptureError> {
    if let Some(table) = capture.linux() {
        return linux::correlate(capture, table, hear);
    }
    let mut notes = Vec::new();
    let view = view(capture, &mut notes);
    let mut joiner = Joiner::new(capture, view.as_ref(), hear)?;
    let damage = capture.lanes(|batch| joiner.batch(batch))?;
    joiner.missing_tails(capture, view.as_ref());
    joiner.flush();
    Ok(joiner.finish(capture, view, damage, notes))
}

fn view(capture: &Capture, notes: &mut Vec<String>) -> Option<View> {
    let mut source = capture.snapshot()?;
    let region = match Region::open(&mut source) {
        Ok(region) => region,
        Err(error) => {
            notes.push(format!("the snapshot can't be used: {error}"));
            return None;
        }
    };
    let read = || -> Result<View, trace_ring::reader::ReadError<_>> {
        let status = region.status(&mut source)?;
        Ok(View {
            directory: region.directory,
            status,
            cores: region.core_entries(&mut source)?,
            heads: region.heads(&mut source)?,
            phases: region.phases(&mut source)?,
            truth: region.truth(&mut source)?,
            faults: region.faults(&mut source)?,
            live: region.live(&mut source)?,
            descriptors: region.descriptors(&mut source)?,
            quiescent: matches!(status.state, run_state::ENDED | run_state::ABORTED),
        })
    };
    let mut read = read;
    match read() {
        Ok(view) => Some(view),
        Err(error) => {
            notes.push(format!("the snapshot can't be used: {error}"));
            None
        }
    }
}

/// A message that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Sent {
    t: u64,
    msg: u32,
    window: u64,
    slot: u32,
}

/// No slot: the record that names it is missing.
const NO_SLOT: u32 = u32::MAX;

/// A message of a send to many that waits for its answer: its number is not known, its time lies within a span.
#[derive(Clone, Copy, Debug)]
struct Span {
    t: u64,
    end: u64,
    slot: u32,
}

impl Span {
    const fn holds(&self, t: u64) -> bool {
        self.t <= t && t <= self.end
    }
}

/// An answer, or a retirement, that waits for its message.
#[derive(Clone, Copy, Debug)]
struct Answer {
    t: u64,
    /// Of an answer: the message's send time. Of a retirement: how many messages, and what the sender saw.
    arg: u64,
    /// Of an answer: its latency without the wait that the receiver's handler explains, [`BUSY`] where it explains most.
    free: u64,
    msg: u32,
    extra: u8,
    flags: u8,
    retirement: bool,
}

impl Answer {
    const fn timed(&self) -> bool {
        self.flags & FLAG_UNTIMED == 0
    }

    /// The message's send time, or one that is known to lie before it.
    const fn sent(&self) -> u64 {
        if self.timed() { self.arg } else { self.t }
    }

    /// Older messages that went with the newest; `None`: more than the record can say.
    const fn older(&self) -> Option<u32> {
        match (self.retirement, self.extra) {
            (true, _) => Some((self.arg as u32).saturating_sub(1)),
            (false, u8::MAX) => None,
            (false, extra) => Some(extra as u32),
        }
    }
}

/// One (from, to, INTID).
#[derive(Debug)]
struct Flow {
    from: u16,
    to: u16,
    intid: u8,
    /// By number.
    sent: VecDeque<Sent>,
    /// By time.
    spans: VecDeque<Span>,
    /// By number.
    answers: VecDeque<Answer>,
    retirements: VecDeque<Answer>,
    /// The newest message that was answered or given up.
    settled: Option<u32>,
    /// Numbers before it that were not, first and last of each run.
    holes: Vec<(u32, u32)>,
    /// When the newest of the messages that were answered or given up was sent, or later, ticks.
    until: u64,
    /// It stands in its sender's list of flows that wait.
    listed: bool,
    /// Slots of this flow, for answers whose message is not in the records.
    slots: Vec<u32>,
}

/// A message that was answered together with a newer one.
#[derive(Clone, Copy, Debug)]
struct Older {
    slot: u32,
    t: u64,
    number: Option<u32>,
}

/// Where an answer's own message stands.
#[derive(Clone, Copy, Debug)]
enum Own {
    Sent(usize),
    Span(usize),
}

impl Flow {
    fn waits(&self) -> bool {
        !self.answers.is_empty() || !self.retirements.is_empty()
    }

    /// Whether a message was answered or given up before its own record came.
    fn is_settled(&self, msg: u32) -> bool {
        let Some(settled) = self.settled else { return false };
        !after(msg, settled) && !self.holes.iter().any(|(first, last)| !after(*first, msg) && !after(msg, *last))
    }

    /// Marks `count` messages up to the newest as settled; `false`: the newest was already.
    fn settle(&mut self, newest: u32, count: u32) -> bool {
        let first = newest.wrapping_sub(count - 1);
        let Some(settled) = self.settled else {
            self.settled = Some(newest);
            if first != 1 {
                // Nobody has seen what came before.
                self.holes.push((first.wrapping_sub(1 << 30), first.wrapping_sub(1)));
            }
            return true;
        };
        if after(newest, settled) {
            if after(first, settled.wrapping_add(1)) {
                self.holes.push((settled.wrapping_add(1), first.wrapping_sub(1)));
                if self.holes.len() > MOST_HOLES {
                    self.holes.remove(0);
                }
            }
            self.settled = Some(newest);
            return true;
        }
        let hole = self.holes.iter().rposition(|(low, high)| !after(*low, newest) && !after(newest, *high));
        let Some(at) = hole else { return false };
        let (low, high) = self.holes.remove(at);
        if after(high, newest) {
            self.holes.insert(at, (newest.wrapping_add(1), high));
        }
        if after(first, low) {
            self.holes.insert(at, (low, first.wrapping_sub(1)));
        }
        true
    }

    /// How many messages with a number came, up to this one.
    fn upto(&self, newest: u32) -> usize {
        match self.sent.front() {
            Some(first) if first.msg == newest => 1,
            Some(first) if after(first.msg, newest) => 0,
            _ => self.sent.partition_point(|sent| !after(sent.msg, newest)),
        }
    }

    /// The message that an answer names. `all`: no other is still to come, so that a retirement may take one of a send to many.
    #[inline]
    fn own(&self, answer: &Answer, all: bool) -> Option<Own> {
        if self.sent.is_empty() && self.spans.is_empty() {
            return None;
        }
        if let Some(at) = self.upto(answer.msg).checked_sub(1)
            && self.sent.get(at).is_some_and(|sent| sent.msg == answer.msg)
        {
            return Some(Own::Sent(at));
        }
        if self.spans.is_empty() {
            return None;
        }
        let upto = |t: u64| self.spans.partition_point(|span| span.t <= t);
        let at = match (answer.retirement, answer.timed()) {
            (true, _) if all => upto(answer.t).checked_sub(1)?,
            (true, _) => return None,
            // Answered before its time stood in memory: the next one that was sent, or the last of those that it answered.
            (false, false) => {
                let next = self.spans.iter().position(|span| span.end >= answer.t)?;
                let covered = |sent: &&Sent| answer.msg.wrapping_sub(sent.msg) <= answer.extra.into();
                let numbered = self.sent.iter().filter(covered).count();
                next.max(usize::from(answer.extra).saturating_sub(numbered)).min(self.spans.len() - 1)
            }
            (false, true) => {
                let upto = upto(answer.arg);
                let holds = |at: &usize| self.spans.get(*at).is_some_and(|span| span.holds(answer.arg));
                // Spans may share a tick: an answer to one message takes the older, one to several the newer.
                let mut holding = (upto.saturating_sub(2)..upto).filter(holds);
                if answer.extra == 0 { holding.next()? } else { holding.next_back()? }
            }
        };
        Some(Own::Span(at))
    }
}

#[derive(Clone, Copy, Debug)]
struct Broadcast {
    t: u64,
    window: u64,
    slot: u32,
}

/// An acknowledge that found no message. In the order of their entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Empty {
    /// Vector entry, ticks.
    t: u64,
    /// How long before it the last answer was.
    since: Option<u64>,
    /// When its handler had surely ended: an answer to the same INTID was entered.
    ended: u64,
}

/// What a receiver has to explain, for one INTID.
#[derive(Debug, Default)]
struct Receiver {
    /// The newest acknowledge that answered something.
    answered: Option<u64>,
    /// Empty acknowledges.
    empty: Vec<Empty>,
    /// Spans of time in each of which one empty acknowledge is legal.
    credits: Vec<(u64, u64)>,
    /// Messages given up as unknown: by the records, and by the target's counters where they are whole.
    given_up: u64,
    given_up_in_all: Option<u64>,
    /// How many of both make it worth explaining what can be: more where the last time little could.
    most: usize,
}

impl Receiver {
    /// Whether there are so many that what can be explained should be.
    fn is_full(&self) -> bool {
        let most = self.most.max(MOST_EVIDENCE);
        self.empty.len() >= most || self.credits.len() / 4 >= most
    }
}

/// What the records say of a slot.
struct Tally {
    counts: Counts,
    samples: Samples,
    /// Latencies without those that are excused, once there was one.
    free: Option<Box<Samples>>,
    worst: Option<(u64, u64)>,
    excused: Excused,
    recovered: Recovered,
    backwards: u64,
    /// Answers before their messages, the newest ones in a row.
    behind: u32,
    probes: Probes,
    /// Interrupts by [`Delivery`].
    deliveries: [u64; 3],
}

/// The constant part of a pair slot.
#[derive(Clone, Copy, Debug)]
struct Place {
    from: u16,
    to: u16,
    phase: u16,
    intid: u8,
    state: ReceiverState,
    kind: Option<IpiKind>,
}

struct Joiner<'a, 'b> {
    hear: Option<&'a mut Hear<'b>>,
    heard: Heard,
    cores: usize,
    lanes: Vec<LaneTally>,
    /// Index of each flow, by from, to, INTID; `u32::MAX`: none yet.
    index: Vec<u32>,
    flows: Vec<Flow>,
    flow_slots: HashMap<usize, Vec<u32>>,
    broadcasts: HashMap<(u16, u8), VecDeque<Broadcast>>,
    /// Flows of each sender with answers whose message has not come.
    waiting: Vec<Vec<u32>>,
    /// The newest time in each lane.
    seen: Vec<u64>,
    /// The number behind the last record of each lane that the capture can hold; `u64::MAX` where nobody knows.
    written: Vec<u64>,
    /// The plan uses kinds and calls: IRQ handlers send, too.
    calling: bool,
    /// Words of a send to many whose call site has not come yet, by core, for the thread's lane and the IRQ handler's.
    masks: Vec<[Vec<Event>; 2]>,
    /// By core and INTID.
    receivers: Vec<Receiver>,
    slots: Vec<Place>,
    tallies: Vec<Tally>,
    held: usize,
    interrupts: Interrupts,
    watching: Option<Watching>,
    watch: Watch,
    sweeps: Sweeps,
    pieces: Pieces,
    /// The newest stamps of each lane: of a send, and of a vector's entry.
    stamps: Vec<[u64; 2]>,
    step_backs: Vec<StepBack>,
    /// Nothing between two answers: memory that serves again.
    older: Vec<Older>,
    /// Phases with one message outstanding at a time.
    alone: Vec<bool>,
    calls: Option<CallJoiner>,
    receptions: Vec<Reception>,
    duplicate: u64,
    spurious: u64,
    given_up: Vec<GivenUp>,
    records: u64,
    bad: u64,
    homeless: u64,
    overflowed: u64,
    /// Whether the capture was made to hold every record.
    keeps_all: bool,
    /// T in ticks.
    timeout: u64,
    /// An acknowledge without a message that comes so soon after an answered one is the same again, ticks.
    again: u64,
}

/// What a lane's times are told of, each kind in the order of its times.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    /// A send.
    Send,
    /// A vector's entry.
    Entry,
}

/// Whether message `a` comes after message `b`; numbers wrap.
const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl<'a, 'b> Joiner<'a, 'b> {
    fn new(capture: &Capture, view: Option<&View>, hear: Option<&'a mut Hear<'b>>) -> Result<Self, CaptureError> {
        let info = capture.info();
        let Table { slots, calling, watching } = slot_table(capture);
        let asked = usize::from(info.cores).max(usize::from(info.plan.cores));
        let known = view.map_or(0, |view| view.directory.core_count as usize);
        let cores = asked.max(known).clamp(1, MAX_CORES);
        let hz = view.map(|view| view.directory.counter_hz).filter(|hz| *hz > 0);
        let ticks =
            |ns: u64| u64::try_from(u128::from(ns) * u128::from(hz.unwrap_or(1)) / 1_000_000_000).unwrap_or(u64::MAX);
        let limit = (MOST_VALUES / slots.len().max(1)).clamp(1024, 1 << 20);
        let mut flow_slots: HashMap<usize, Vec<u32>> = HashMap::new();
        for (slot, index) in slots.iter().zip(0..) {
            if usize::from(slot.from) < cores && usize::from(slot.to) < cores && usize::from(slot.intid) < INTIDS {
                flow_slots.entry(flow_key(cores, slot.from, slot.to, slot.intid)).or_default().push(index);
            }
        }
        let keeps_all = info.plan.keep == Keep::All;
        // Records of the call layer have these kinds, whatever slots the plan has.
        let called = [IpiKind::CallFunction, IpiKind::IrqWork].into_iter().filter(|_| calling);
        let interrupts = Interrupts::new(cores, slots.iter().filter_map(|slot| slot.kind).chain(called));
        let calls = (calling && keeps_all).then(|| CallJoiner::new(cores, slack(view)));
        let watch = Watch::gather(capture, view, watching, cores)?;
        let mut receivers: Vec<Receiver> = std::iter::repeat_with(Receiver::default).take(cores * INTIDS).collect();
        if let Some(known) = slots_for_losses(capture, view) {
            receivers.iter_mut().for_each(|receiver| receiver.given_up_in_all = Some(0));
            for slot in known.iter().filter(|slot| usize::from(slot.intid) < INTIDS) {
                let receiver = receivers.get_mut(usize::from(slot.to) * INTIDS + usize::from(slot.intid));
                if let Some(all) = receiver.and_then(|receiver| receiver.given_up_in_all.as_mut()) {
                    *all = all.saturating_add(slot.unknown);
                }
            }
        }
        Ok(Joiner {
            hear,
            heard: Heard::default(),
            cores,
            lanes: vec![LaneTally::default(); cores * LANES_PER_CORE],
            index: vec![u32::MAX; cores * cores * INTIDS],
            flows: Vec::new(),
            flow_slots,
            broadcasts: HashMap::new(),
            waiting: vec![Vec::new(); cores],
            seen: vec![0; cores * LANES_PER_CORE],
            written: written(capture, cores),
            calling,
            masks: std::iter::repeat_with(Default::default).take(cores).collect(),
            receivers,
            tallies: slots
                .iter()
                .map(|_| Tally {
                    counts: Counts::default(),
                    samples: Samples::new(limit),
                    free: None,
                    worst: None,
                    excused: Excused::default(),
                    recovered: Recovered::default(),
                    backwards: 0,
                    behind: 0,
                    probes: Probes::default(),
                    deliveries: [0; 3],
                })
                .collect(),
            slots,
            held: 0,
            interrupts,
            watching,
            watch,
            sweeps: Sweeps::default(),
            pieces: Pieces::new(cores),
            stamps: vec![[0; 2]; cores * LANES_PER_CORE],
            step_backs: Vec::new(),
            older: Vec::new(),
            // A script that is judged has several under way.
            alone: info.plan.phases.iter().map(|phase| phase.timed && phase.pattern != "script").collect(),
            calls,
            receptions: Vec::new(),
            duplicate: 0,
            spurious: 0,
            given_up: Vec::new(),
            records: 0,
            bad: 0,
            homeless: 0,
            overflowed: 0,
            keeps_all,
            timeout: if hz.is_some() { ticks(info.plan.timeout_ns).max(1) } else { NO_CLOCK },
            again: ticks(info.plan.probe_ns.min(if info.deterministic { COUNTED_AGAIN_NS } else { AGAIN_NS })).max(1),
        })
    }

    fn batch(&mut self, batch: Batch<'_>) {
        match batch {
            Batch::Records { core, context, first, bytes } => self.lane_records(core, context, first, bytes),
            Batch::Lost { core, context, first, count, cause } => {
                self.forget(core, context);
                let Some(lane) = self.lane(core, context) else { return };
                match cause {
                    Loss::Dropped => lane.dropped = lane.dropped.saturating_add(count),
                    Loss::Lapped | Loss::Torn => {
                        lane.missing = lane.missing.saturating_add(first.saturating_sub(lane.next));
                        lane.next = lane.next.max(first).saturating_add(count);
                        let lost = if cause == Loss::Lapped { &mut lane.lapped } else { &mut lane.torn };
                        *lost = lost.saturating_add(count);
                    }
                }
            }
            Batch::Unkept { core, context, first, count } => {
                self.forget(core, context);
                let Some(lane) = self.lane(core, context) else { return };
                let end = first.saturating_add(count);
                lane.missing = lane.missing.saturating_add(end.saturating_sub(lane.next));
                lane.next = lane.next.max(end);
            }
        }
    }

    fn lane(&mut self, core: u16, context: u8) -> Option<&mut LaneTally> {
        let lane = usize::from(core) * LANES_PER_CORE + usize::from(context);
        let lane = self.lanes.get_mut(lane);
        if lane.is_none() {
            self.bad += 1;
        }
        lane
    }

    fn lane_records(&mut self, core: u16, context: u8, first: u64, bytes: &[u8]) {
        let Some(lane) = self.lane(core, context) else { return };
        let count = bytes.len() as u64 / RECORD_BYTES;
        // Records that were seen already would count twice: a hostile file, or one that was joined by hand.
        let skip = lane.next.saturating_sub(first).min(count);
        let gap = first.saturating_sub(lane.next);
        lane.missing = lane.missing.saturating_add(gap);
        if gap > 0 {
            self.forget(core, context);
        }
        let place = usize::from(core) * LANES_PER_CORE + usize::from(context);
        let mut whole = 0;
        for (chunk, index) in bytes.chunks_exact(RECORD_BYTES as usize).zip(first..).skip(skip as usize) {
            let Some(chunk) = chunk.first_chunk() else { continue };
            match Record::from_bytes(chunk, index) {
                Some(record) => {
                    whole += 1;
                    if let Some(seen) = self.seen.get_mut(place) {
                        *seen = (*seen).max(record.event.t);
                    }
                    self.record(core, context, &record.event);
                }
                None => self.bad += 1,
            }
        }
        self.records += whole;
        if let Some(lane) = self.lane(core, context) {
            // Only now: what waits for a lane's last record must not be settled before it.
            lane.next = lane.next.max(first.saturating_add(count));
            lane.records += whole;
            lane.torn += count - skip - whole;
        }
        if self.calling && self.is_whole(place) {
            // Nothing follows it: its call site is not in the capture.
            self.send_many(core, context, NO_SLOT);
        }
        // Answers whose message would have come by now.
        if let Some(waiting) = self.waiting.get_mut(usize::from(core)).map(std::mem::take) {
            for flow in waiting {
                if let Some(known) = self.flows.get_mut(flow as usize) {
                    known.listed = false;
                }
                self.expire(flow as usize);
            }
        }
    }

    /// Records of a lane are missing: what was under way in it has no end.
    fn forget(&mut self, core: u16, context: u8) {
        let nmi = context == Context::Nmi as u8;
        if nmi || context == Context::Irq as u8 {
            self.interrupts.forget(core, nmi);
        }
        self.sweeps.forget(core, context);
        if self.calling {
            self.send_many(core, context, NO_SLOT);
            if let Some(calls) = &mut self.calls {
                calls.forget(core, context, &mut self.interrupts);
            }
        }
    }

    fn record(&mut self, core: u16, context: u8, event: &Event) {
        let nmi = context == Context::Nmi as u8;
        let mut free = event.t.wrapping_sub(event.arg);
        if nmi || context == Context::Irq as u8 {
            free = self.interrupts.see(core, nmi, event);
        }
        match event.kind {
            Kind::Send if event.peer == PEER_ALL => {
                self.stamp(core, context, Stamp::Send, event.t);
                let list = self.broadcasts.entry((core, event.intid)).or_default();
                if list.len() >= MOST_BROADCASTS {
                    list.pop_front();
                }
                list.push_back(Broadcast { t: event.t, window: event.window(), slot: event.slot() });
            }
            Kind::Send => {
                self.stamp(core, context, Stamp::Send, event.t);
                if let Some(calls) = &mut self.calls {
                    calls.sent(core, context, event, &mut self.interrupts);
                }
                let Some(flow) = self.flow(core, event.peer, event.intid) else { return };
                if !self.sweeps.expects_none() {
                    self.sweeps.sent(core, context, flow, event);
                }
                self.sent(flow, Sent { t: event.t, msg: event.msg, window: event.window(), slot: event.slot() });
            }
            Kind::Receive => {
                self.stamp(core, context, Stamp::Entry, event.t);
                let Some(flow) = self.flow(event.peer, core, event.intid) else { return };
                if let Some(receiver) = self.receiver(core, event.intid) {
                    receiver.answered = Some(event.t);
                    if let Some(last) = receiver.empty.last_mut().filter(|last| last.ended == u64::MAX) {
                        last.ended = event.t;
                    }
                }
                let Event { t, arg, msg, extra, flags, .. } = *event;
                self.answered(flow, Answer { t, arg, free, msg, extra, flags, retirement: false });
            }
            Kind::Retire => {
                let Some(flow) = self.flow(core, event.peer, event.intid) else { return };
                let Event { t, arg, msg, extra, .. } = *event;
                self.answered(flow, Answer { t, arg, free: 0, msg, extra, flags: 0, retirement: true });
            }
            Kind::ReceiveEmpty => {
                self.stamp(core, context, Stamp::Entry, event.t);
                let Some(receiver) = self.receiver(core, event.intid) else {
                    self.bad += 1;
                    return;
                };
                let since = receiver.answered.and_then(|answered| event.t.checked_sub(answered));
                receiver.empty.push(Empty { t: event.t, since, ended: u64::MAX });
                if receiver.is_full() {
                    self.explain_early(core, event.intid, event.t);
                }
            }
            Kind::Probe => {
                let Some(flow) = self.flow(core, event.peer, event.intid) else { return };
                let slot = self.flows.get(flow).and_then(|flow| {
                    let numbered = flow.sent.iter().rev().find(|sent| sent.msg == event.msg).map(|sent| sent.slot);
                    let before = flow.spans.partition_point(|span| span.t <= event.t).checked_sub(1);
                    let many = before.and_then(|at| flow.spans.get(at)).map(|span| span.slot);
                    numbered.or(many).filter(|slot| *slot != NO_SLOT).or(only(&flow.slots))
                });
                if let Some(tally) = slot.and_then(|slot| self.tallies.get_mut(slot as usize)) {
                    tally.probes.see(event.arg);
                }
            }
            Kind::Heartbeat => self.stamp(core, context, Stamp::Entry, event.t),
            Kind::Sweep => self.sweeps.announce(core, context, event),
            _ if self.calling => self.call_record(core, context, event),
            _ => {}
        }
    }

    /// A record's time, of a kind whose records of one lane are in the order of their times: both are ordered reads, taken in
    /// turn. (Other kinds carry the time of what they explain, or reads that may pass each other.)
    #[inline]
    fn stamp(&mut self, core: u16, context: u8, which: Stamp, t: u64) {
        let place = usize::from(core) * LANES_PER_CORE + usize::from(context);
        let Some(newest) = self.stamps.get_mut(place).and_then(|stamps| stamps.get_mut(which as usize)) else { return };
        let before = std::mem::replace(newest, t);
        if t < before {
            self.stepped_back(core, context, t, before);
        }
    }

    #[cold]
    fn stepped_back(&mut self, core: u16, context: u8, t: u64, before: u64) {
        let context = Context::ALL.get(usize::from(context)).copied();
        if let Some(context) = context.filter(|_| self.step_backs.len() < MOST_EVIDENCE) {
            self.step_backs.push(StepBack { core, context, t, before });
        }
    }

    /// Records of the call layer.
    fn call_record(&mut self, core: u16, context: u8, event: &Event) {
        match event.kind {
            Kind::SendMask => {
                self.stamp(core, context, Stamp::Send, event.t);
                let lanes = self.masks.get_mut(usize::from(core));
                let words = lanes.and_then(|lanes| lanes.get_mut(usize::from(context)));
                if let Some(words) = words.filter(|words| words.len() < MAX_CORES / 64) {
                    words.push(*event);
                }
            }
            Kind::CallSite => self.send_many(core, context, event.msg),
            _ => {}
        }
        let (Some(calls), stages) = (&mut self.calls, &mut self.interrupts) else { return };
        match event.kind {
            Kind::Queued => calls.queued(core, context, event, stages),
            Kind::SendMask => calls.sent_many(core, context, event, stages),
            Kind::FunctionEntry => calls.entry(core, event, stages),
            Kind::FunctionExit => calls.exit(core, event, stages),
            Kind::CallWait => calls.waited(core, event),
            Kind::Phase => calls.saved(core, context, stages),
            _ => {}
        }
    }

    /// A send to many is whole: each of its targets has a message. `row`: the pair slot of core 0.
    fn send_many(&mut self, core: u16, context: u8, row: u32) {
        let lanes = self.masks.get_mut(usize::from(core));
        let Some(words) = lanes.and_then(|lanes| lanes.get_mut(usize::from(context))) else { return };
        for word in std::mem::take(words) {
            let end = if word.msg == u32::MAX { u64::MAX } else { word.t.saturating_add(word.msg.into()) };
            for bit in (0..64_u16).filter(|bit| word.arg >> bit & 1 == 1) {
                let to = word.peer.saturating_add(bit);
                let Some(flow) = self.flow(core, to, word.intid) else { continue };
                let slot = if row == NO_SLOT { row } else { row.saturating_add(to.into()) };
                self.spanned(flow, Span { t: word.t, end, slot });
            }
        }
    }

    fn receiver(&mut self, core: u16, intid: u8) -> Option<&mut Receiver> {
        let inside = usize::from(intid) < INTIDS;
        self.receivers.get_mut(usize::from(core) * INTIDS + usize::from(intid)).filter(|_| inside)
    }

    #[inline]
    fn flow(&mut self, from: u16, to: u16, intid: u8) -> Option<usize> {
        let inside = usize::from(from) < self.cores && usize::from(to) < self.cores && usize::from(intid) < INTIDS;
        if !inside {
            self.bad += 1;
            return None;
        }
        let key = flow_key(self.cores, from, to, intid);
        match self.index.get(key) {
            Some(&u32::MAX) => self.new_flow(key, from, to, intid),
            index => index.map(|index| *index as usize),
        }
    }

    #[cold]
    fn new_flow(&mut self, key: usize, from: u16, to: u16, intid: u8) -> Option<usize> {
        let next = self.flows.len();
        *self.index.get_mut(key)? = u32::try_from(next).ok()?;
        let slots = self.flow_slots.get(&key).cloned().unwrap_or_default();
        self.flows.push(Flow {
            from,
            to,
            intid,
            sent: VecDeque::new(),
            spans: VecDeque::new(),
            answers: VecDeque::new(),
            retirements: VecDeque::new(),
            settled: None,
            holes: Vec::new(),
            until: 0,
            listed: false,
            slots,
        });
        Some(next)
    }

    /// A message to one core.
    #[inline(always)]
    fn sent(&mut self, flow: usize, sent: Sent) {
        let simple = self.is_simple();
        let Some(known) = self.flows.get_mut(flow) else { return };
        let first = known.settled.is_none_or(|settled| after(sent.msg, settled)) && known.sent.is_empty();
        if simple && first && known.retirements.is_empty() {
            let Some(answer) = known.answers.front().copied() else {
                // None waits: the answer is still to come.
                known.sent.push_back(sent);
                self.held += 1;
                return self.bound(flow);
            };
            if let Some(slot) = settles_alone(&self.slots, known, &sent, &answer) {
                known.answers.pop_front();
                self.held = self.held.saturating_sub(1);
                return self.settle_alone(flow, &sent, &answer, slot);
            }
        }
        self.sent_among_others(flow, sent);
    }

    /// The same, whatever else waits.
    fn sent_among_others(&mut self, flow: usize, sent: Sent) {
        let Some(known) = self.flows.get_mut(flow) else { return };
        if known.is_settled(sent.msg) {
            return; // counted with the newer message that was answered
        }
        match known.sent.back() {
            Some(last) if !after(sent.msg, last.msg) => {
                let at = known.sent.partition_point(|other| !after(other.msg, sent.msg));
                known.sent.insert(at, sent);
            }
            _ => known.sent.push_back(sent),
        }
        self.held += 1;
        if known.waits() {
            let at = match known.answers.front() {
                Some(first) if after(sent.msg, first.msg) => {
                    known.answers.partition_point(|answer| after(sent.msg, answer.msg))
                }
                _ => 0,
            };
            self.settle_ready(flow, at);
        }
        self.bound(flow);
    }

    /// A message of a send to many.
    fn spanned(&mut self, flow: usize, span: Span) {
        let Some(known) = self.flows.get_mut(flow) else { return };
        match known.spans.back() {
            Some(last) if span.t < last.t => {
                let at = known.spans.partition_point(|other| other.t <= span.t);
                known.spans.insert(at, span);
            }
            _ => known.spans.push_back(span),
        }
        self.held += 1;
        if known.waits() {
            // The answer that names it, or the first that it may have gone with; before those, one without a time.
            let at = known.answers.partition_point(|answer| answer.sent() < span.t);
            self.settle_ready(flow, at);
            let untimed = |known: &Flow, at: usize| known.answers.get(at).is_some_and(|answer| !answer.timed());
            if let Some(before) = at.checked_sub(1)
                && self.flows.get(flow).is_some_and(|known| untimed(known, before))
            {
                self.settle_ready(flow, before);
            }
        }
        self.bound(flow);
    }

    /// An answer, or a retirement.
    #[inline(always)]
    fn answered(&mut self, flow: usize, answer: Answer) {
        let simple = self.is_simple();
        let Some(known) = self.flows.get_mut(flow) else { return };
        if let Some(sent) = known.sent.front().copied().filter(|_| simple)
            && let Some(slot) = settles_alone(&self.slots, known, &sent, &answer)
        {
            known.sent.pop_front();
            self.held = self.held.saturating_sub(1);
            return self.settle_alone(flow, &sent, &answer, slot);
        }
        self.answered_among_others(flow, answer);
    }

    /// The same, whatever else waits.
    fn answered_among_others(&mut self, flow: usize, answer: Answer) {
        let Some(known) = self.flows.get(flow) else { return };
        let plain = answer.extra == 0 && !answer.retirement;
        if plain && known.sent.front().is_some_and(|sent| sent.msg == answer.msg) {
            return self.settle(flow, answer, false);
        }
        if self.is_ready(flow, &answer) {
            return self.settle(flow, answer, answer.retirement);
        }
        let Some(known) = self.flows.get_mut(flow) else { return };
        if answer.retirement {
            known.retirements.push_back(answer);
        } else {
            match known.answers.back() {
                Some(last) if after(last.msg, answer.msg) => {
                    let at = known.answers.partition_point(|other| !after(other.msg, answer.msg));
                    known.answers.insert(at, answer);
                }
                _ => known.answers.push_back(answer),
            }
        }
        self.held += 1;
        self.list(flow);
        self.bound(flow);
    }

    /// Puts a flow into its sender's list of those that wait.
    fn list(&mut self, flow: usize) {
        if let Some(known) = self.flows.get_mut(flow)
            && !std::mem::replace(&mut known.listed, true)
            && let Some(waiting) = self.waiting.get_mut(usize::from(known.from))
        {
            waiting.push(flow as u32);
        }
    }

    /// Whether all records came that can say what an answer answered.
    fn is_ready(&self, flow: usize, answer: &Answer) -> bool {
        let Some(known) = self.flows.get(flow) else { return true };
        // More messages than its record can say: those that no answer before it took.
        let open = !answer.retirement && answer.extra == u8::MAX;
        if open && known.answers.front().is_some_and(|first| after(answer.msg, first.msg)) {
            return false;
        }
        let own = known.own(answer, false);
        let alone = !answer.retirement && answer.extra == 0;
        let found = match own {
            // Messages of sends to many have no number: which of them went with this one is known when all have come.
            _ if self.calling && !alone => false,
            Some(Own::Span(_)) => answer.timed(),
            Some(Own::Sent(_)) => true,
            None => alone && answer.timed() && self.broadcast(known, answer).is_some(),
        };
        found || self.has_passed(known.from, answer)
    }

    /// Whether all records came that the capture has of a lane.
    fn is_whole(&self, lane: usize) -> bool {
        self.lanes.get(lane).zip(self.written.get(lane)).is_some_and(|(lane, all)| lane.next >= *all)
    }

    /// Whether the sender's records have come to where the message must have been.
    fn has_passed(&self, from: u16, answer: &Answer) -> bool {
        let time = match (answer.retirement, answer.timed()) {
            // It was sent before it was given up, and a lane's order is that of time.
            (true, _) => answer.t.saturating_sub(1),
            (false, true) => answer.arg,
            // It was sent after the entry, and before an acknowledge that a core kept away may have made at any time.
            (false, false) => u64::MAX,
        };
        let passed = |context: Context| {
            let lane = usize::from(from) * LANES_PER_CORE + context as usize;
            self.is_whole(lane) || self.seen.get(lane).is_none_or(|seen| *seen > time)
        };
        passed(Context::Thread) && (!self.calling || passed(Context::Irq))
    }

    /// Settles a waiting answer, and every retirement, that is ready now.
    fn settle_ready(&mut self, flow: usize, at: usize) {
        let answer = self.flows.get(flow).and_then(|known| known.answers.get(at)).copied();
        if let Some(answer) = answer.filter(|answer| self.is_ready(flow, answer)) {
            self.take_answer(flow, at);
            self.settle(flow, answer, false);
        }
        self.settle_retirements(flow, false);
    }

    fn settle_retirements(&mut self, flow: usize, last: bool) {
        let mut at = 0;
        while let Some(known) = self.flows.get_mut(flow)
            && let Some(answer) = known.retirements.get(at).copied()
        {
            let crowded = known.retirements.len() > MOST_RETIREMENTS;
            if last || crowded || self.is_ready(flow, &answer) {
                if let Some(known) = self.flows.get_mut(flow) {
                    known.retirements.remove(at);
                }
                self.held = self.held.saturating_sub(1);
                self.settle(flow, answer, true);
            } else {
                at += 1;
            }
        }
    }

    fn take_answer(&mut self, flow: usize, at: usize) {
        if let Some(known) = self.flows.get_mut(flow) {
            known.answers.remove(at);
            self.held = self.held.saturating_sub(1);
        }
    }

    /// Settles what waits for messages that would have come by now.
    fn expire(&mut self, flow: usize) {
        // What was given up first: an answer without a time takes what is left.
        self.settle_retirements(flow, false);
        loop {
            let answer = self.flows.get(flow).and_then(|known| known.answers.front()).copied();
            let Some(answer) = answer.filter(|answer| self.is_ready(flow, answer)) else { break };
            self.take_answer(flow, 0);
            self.settle(flow, answer, false);
        }
        if self.flows.get(flow).is_some_and(Flow::waits) {
            self.list(flow);
        }
    }

    fn broadcast(&self, flow: &Flow, answer: &Answer) -> Option<Broadcast> {
        if self.broadcasts.is_empty() {
            return None;
        }
        let list = self.broadcasts.get(&(flow.from, flow.intid))?;
        let upto = |t: u64| list.partition_point(|broadcast| broadcast.t <= t);
        if answer.retirement {
            // The newest one before it.
            return list.get(upto(answer.t).checked_sub(1)?).copied();
        }
        if answer.timed() {
            return list.get(upto(answer.arg).checked_sub(1)?).filter(|broadcast| broadcast.t == answer.arg).copied();
        }
        // Answered before its time stood in memory: the next one that was stamped, and was not answered yet.
        let newest = flow.settled.is_none_or(|settled| after(answer.msg, settled));
        list.get(upto(if newest { answer.t.max(flow.until) } else { answer.t })).copied()
    }

    /// Tells a message of a slot; whether it counts.
    #[inline]
    fn tell(&mut self, slot: u32, message: &Message) -> bool {
        if self.hear.is_none() {
            return true;
        }
        let place = self.slots.get(slot as usize);
        let known = |place: &Place| Message {
            kind: place.kind,
            intid: place.intid,
            phase: place.phase,
            state: place.state,
            ..*message
        };
        self.tell_whole(&place.map_or(*message, known))
    }

    fn tell_whole(&mut self, message: &Message) -> bool {
        let Some(hear) = &mut self.hear else { return true };
        let counts = hear(message);
        self.heard.told = self.heard.told.saturating_add(message.count);
        if counts {
            self.heard.counted = self.heard.counted.saturating_add(message.count);
        }
        counts
    }

    /// Whether nobody wants to know of single messages, so that the short way may be gone.
    #[inline]
    fn is_simple(&self) -> bool {
        self.hear.is_none() && self.sweeps.is_idle()
    }

    /// Counts an answer for which [`settles_alone`] gave the slot: what [`Joiner::settle`] does, as far as it comes to pass there.
    #[inline(always)]
    fn settle_alone(&mut self, flow: usize, sent: &Sent, answer: &Answer, slot: u32) {
        let Some(known) = self.flows.get_mut(flow) else { return };
        known.settled = Some(answer.msg);
        known.until = known.until.max(sent.t);
        let (to, intid) = (known.to, known.intid);
        let end = sent.t.saturating_add(sent.window);
        let excuse = self.watch.excuse(to, answer.arg, answer.t, Some(end));
        self.count_answer(slot, (to, intid), answer, excuse, false);
        if answer.t < end {
            self.allow_empty((to, intid), answer, Some((sent.t, end)), 1);
        }
    }

    /// Counts an answer or a retirement. `all`: no message of it is still to come.
    fn settle(&mut self, flow: usize, answer: Answer, all: bool) {
        let Some(known) = self.flows.get(flow) else { return };
        let (from, to, intid) = (known.from, known.to, known.intid);
        let place = known.own(&answer, all);
        let broadcast = if place.is_none() { self.broadcast(known, &answer) } else { None };
        let Some(known) = self.flows.get_mut(flow) else { return };
        // When its own message was sent, and when its window ended.
        let window = match place {
            Some(Own::Sent(at)) => known.sent.get(at).map(|sent| (sent.t, sent.t.saturating_add(sent.window))),
            Some(Own::Span(at)) => known.spans.get(at).map(|span| (span.t, span.end)),
            None => broadcast.map(|sent| (sent.t, sent.t.saturating_add(sent.window))),
        };
        let sent_at = window.map_or(answer.sent(), |(t, _)| t);
        let upto = known.upto(answer.msg);
        // How many messages it settles: the record says it, up to what fits; beyond, the messages that wait do.
        let waiting = || {
            let fresh = |sent: &&Sent| known.settled.is_none_or(|settled| after(sent.msg, settled));
            let numbers = known.sent.iter().take(upto).rev().take_while(fresh).count();
            (numbers + known.spans.partition_point(|span| span.t <= sent_at)) as u32
        };
        let count = match answer.older() {
            Some(older) => older.saturating_add(1),
            None => waiting().max(u32::from(u8::MAX) + 1),
        };
        if !known.settle(answer.msg, count) && !answer.retirement {
            return self.unexplained(Reception { core: to, intid, t: answer.t, duplicate: true });
        }
        known.until = known.until.max(if answer.retirement { answer.t } else { sent_at });
        // Its own message's record, and those of the older ones. Those before them wait on: their own end may stand in a lane that
        // comes later.
        let mut slot = broadcast.map(|broadcast| broadcast.slot.wrapping_add(to.into()));
        let mut older = std::mem::take(&mut self.older);
        if count == 1 && upto == 1 && matches!(place, Some(Own::Sent(_))) {
            slot = known.sent.pop_front().map(|sent| sent.slot);
            self.held = self.held.saturating_sub(1);
        } else {
            let mut gone = 0;
            match place {
                Some(Own::Sent(at)) => slot = known.sent.get(at).map(|sent| sent.slot),
                Some(Own::Span(at)) => {
                    slot = known.spans.remove(at).map(|span| span.slot);
                    gone = 1;
                }
                None => {}
            }
            let covered = |sent: &&Sent| answer.msg.wrapping_sub(sent.msg) < count;
            let numbers = known.sent.iter().take(upto).rev().take_while(covered).count();
            let numbered = known.sent.drain(upto - numbers..upto);
            let numbered = numbered.filter(|sent| sent.msg != answer.msg);
            older.extend(numbered.map(|sent| Older { slot: sent.slot, t: sent.t, number: Some(sent.msg) }));
            let upto = known.spans.partition_point(|span| span.t <= sent_at);
            let many = upto.min((count as usize - 1).saturating_sub(older.len()));
            let spans = known.spans.drain(upto - many..upto);
            older.extend(spans.map(|span| Older { slot: span.slot, t: span.t, number: None }));
            gone += numbers + many;
            self.held = self.held.saturating_sub(gone);
        }
        let slot = slot.filter(|slot| *slot != NO_SLOT);
        let slot = slot.or_else(|| {
            let state = ReceiverState::from_code(answer.flags & FLAG_STATE_MASK);
            let same = |slot: &&u32| self.slots.get(**slot as usize).is_some_and(|slot| slot.state == state);
            only(&known.slots).or_else(|| only(&known.slots.iter().filter(same).copied().collect::<Vec<_>>()))
        });
        // A record that names a slot of another pair is damage.
        let fits = |slot: &u32| self.slots.get(*slot as usize).is_some_and(|slot| (slot.from, slot.to) == (from, to));
        let slot = slot.filter(fits);
        let alone = !answer.timed() && slot.is_some_and(|slot| self.is_alone(slot));
        let Some(slot) = slot.filter(|slot| (*slot as usize) < self.tallies.len()) else {
            self.homeless += 1;
            self.gone_with((from, to), &answer, older);
            return self.allow_empty((to, intid), &answer, window, count);
        };
        if answer.retirement {
            let lost = Retired::from_code(answer.extra) == Retired::Lost;
            // Which of them another core took is known at the end, and only then they are told.
            let kept = self.given_up.len() < MOST_EVIDENCE;
            let told = Message {
                count: count.into(),
                number: Some(answer.msg),
                outcome: Some(if lost { Outcome::Lost } else { Outcome::Unknown }),
                ..Message::new(Some(from), to)
            };
            if (kept || self.tell(slot, &told))
                && let Some(tally) = self.tallies.get_mut(slot as usize)
            {
                let outcome = if lost { &mut tally.counts.lost } else { &mut tally.counts.unknown };
                *outcome += u64::from(count);
                tally.counts.sent += u64::from(count);
                tally.probes.see(answer.arg);
            }
            let sent = place.and(window).map(|(t, _)| t);
            if !self.sweeps.is_idle() {
                self.sweeps.ended(flow, answer.msg, count, true, None);
            }
            if kept {
                let slot = Some(slot);
                self.given_up.push(GivenUp { from, to, intid, msg: answer.msg, count, sent, t: answer.t, lost, slot });
            }
            return self.allow_empty((to, intid), &answer, window, count);
        }
        let timed = answer.timed();
        // The span of a send to many is as long as they are many.
        let end = window.filter(|_| !matches!(place, Some(Own::Span(_)))).map(|(_, end)| end);
        let excuse = if timed { self.watch.excuse(to, answer.arg, answer.t, end) } else { None };
        let delivered = answer.flags & FLAG_DELIVERED != 0;
        let picked = self.hear.is_none() || {
            let message = Message {
                number: Some(answer.msg),
                sent: if timed { Some(answer.arg) } else { window.map(|(t, _)| t) },
                entry: Some(answer.t),
                latency: timed.then(|| answer.t.wrapping_sub(answer.arg)),
                outcome: Some(if delivered { Outcome::Delivered } else { Outcome::Coalesced }),
                stolen: excuse == Some(Excuse::Stolen),
                ..Message::new(Some(from), to)
            };
            self.tell(slot, &message)
        };
        let latency = timed.then(|| answer.t.wrapping_sub(answer.arg));
        let counts = latency.filter(|_| excuse.is_none());
        if picked {
            self.count_answer(slot, (to, intid), &answer, excuse, alone);
        }
        if !self.sweeps.is_idle() {
            self.sweeps.ended(flow, answer.msg, count, false, counts);
        }
        // The older ones: by their own slots where their records are there, else by the newest's.
        let named = older.iter().filter(|older| older.slot != NO_SLOT).count() as u64;
        let rest = u64::from(count - 1).saturating_sub(named);
        let gone_with =
            Message { outcome: Some(Outcome::Coalesced), entry: Some(answer.t), ..Message::new(Some(from), to) };
        if rest > 0
            && self.tell(slot, &Message { count: rest, ..gone_with })
            && let Some(tally) = self.tallies.get_mut(slot as usize)
        {
            tally.counts.coalesced += rest;
            tally.counts.sent += rest;
        }
        self.gone_with((from, to), &answer, older);
        self.allow_empty((to, intid), &answer, window, count);
    }

    /// Where the SGI of what an answer or a retirement names is still to be taken, or may be, an acknowledge will find nothing.
    #[inline]
    fn allow_empty(&mut self, (to, intid): (u16, u8), answer: &Answer, window: Option<(u64, u64)>, count: u32) {
        let Some(receiver) = self.receiver(to, intid) else { return };
        if answer.retirement {
            if Retired::from_code(answer.extra) == Retired::Unknown {
                receiver.credits.push((answer.t, u64::MAX));
                receiver.given_up = receiver.given_up.saturating_add(count.into());
            }
            return;
        }
        // Answered early: its own interrupt came, or may have come, after the acknowledge that answered it.
        let end = window.map(|(_, end)| end);
        if answer.timed() && end.is_some_and(|end| answer.t >= end) {
            return;
        }
        // Where nobody says when its SGI was written, that may have been at any time.
        let until = end.map_or(u64::MAX, |end| end.max(answer.t).saturating_add(self.timeout));
        let Some(receiver) = self.receiver(to, intid) else { return };
        receiver.credits.push((answer.sent(), until));
        if receiver.is_full() {
            self.explain_early(to, intid, answer.t);
        }
    }

    /// Counts messages that were answered, or given up, together with a newer one, by their own slots.
    fn gone_with(&mut self, (from, to): (u16, u16), answer: &Answer, mut older: Vec<Older>) {
        let outcome = match (answer.retirement, Retired::from_code(answer.extra)) {
            (false, _) => Outcome::Coalesced,
            (true, Retired::Lost) => Outcome::Lost,
            (true, Retired::Unknown) => Outcome::Unknown,
        };
        let entry = Some(answer.t).filter(|_| !answer.retirement);
        for older in older.drain(..).filter(|older| older.slot != NO_SLOT) {
            let latency = entry.and_then(|entry| entry.checked_sub(older.t));
            let outcome = Some(outcome);
            let told = Message {
                number: older.number,
                sent: Some(older.t),
                latency,
                entry,
                outcome,
                ..Message::new(Some(from), to)
            };
            if self.tell(older.slot, &told)
                && let Some(tally) = self.tallies.get_mut(older.slot as usize)
            {
                tally.counts.sent += 1;
                *match outcome {
                    Some(Outcome::Lost) => &mut tally.counts.lost,
                    Some(Outcome::Unknown) => &mut tally.counts.unknown,
                    _ => &mut tally.counts.coalesced,
                } += 1;
            }
        }
        self.older = older;
    }

    /// Adds an answer to what is known of its slot.
    #[inline(always)]
    fn count_answer(
        &mut self,
        slot: u32,
        (to, intid): (u16, u8),
        answer: &Answer,
        excuse: Option<Excuse>,
        alone: bool,
    ) {
        let Some(tally) = self.tallies.get_mut(slot as usize) else { return };
        if answer.flags & FLAG_DELIVERED != 0 {
            tally.counts.delivered += 1;
        } else {
            tally.counts.coalesced += 1;
        }
        tally.counts.sent += 1;
        let delivery = match (answer.flags & FLAG_NMI != 0, answer.flags & FLAG_PSEUDO_NMI != 0) {
            (true, _) => Delivery::Nmi,
            (false, true) => Delivery::PseudoNmi,
            (false, false) => Delivery::Irq,
        };
        if let Some(count) = tally.deliveries.get_mut(delivery as usize) {
            *count += 1;
        }
        if answer.timed() {
            let latency = answer.t.wrapping_sub(answer.arg);
            match excuse {
                None => {}
                Some(Excuse::Stolen) => {
                    tally.excused.stolen += 1;
                    tally.excused.stolen_longest = tally.excused.stolen_longest.max(latency);
                }
                Some(Excuse::Doubtful) => {
                    tally.excused.doubtful += 1;
                    tally.excused.doubtful_longest = tally.excused.doubtful_longest.max(latency);
                }
            }
            if excuse != Some(Excuse::Stolen) && self.watch.recovered(to, intid, answer.arg, answer.t) {
                tally.recovered.count += 1;
                tally.recovered.longest = tally.recovered.longest.max(latency);
            }
            self.pieces.add(to, answer.t, latency);
            let judged = if excuse.is_some() { BUSY } else { answer.free };
            if judged != latency && tally.free.is_none() {
                tally.free = Some(Box::new(tally.samples.clone()));
            }
            if let Some(free) = tally.free.as_mut().filter(|_| judged != BUSY) {
                free.push(judged);
            }
            tally.samples.push(latency);
            let worse = |(t, worst): (u64, u64)| latency > worst || (latency == worst && answer.t < t);
            if tally.worst.is_none_or(worse) {
                tally.worst = Some((answer.t, latency));
            }
            tally.behind = 0;
        } else if alone {
            tally.behind = tally.behind.saturating_add(1);
            tally.backwards += match tally.behind {
                ..BACKWARDS => 0,
                BACKWARDS => u64::from(BACKWARDS),
                _ => 1,
            };
        }
    }

    /// Whether a slot's phase has one message outstanding at a time, so that nothing of it can be answered early.
    fn is_alone(&self, slot: u32) -> bool {
        let phase = self.slots.get(slot as usize).map(|slot| usize::from(slot.phase));
        phase.and_then(|phase| self.alone.get(phase)).is_some_and(|alone| *alone)
    }

    /// Keeps the lists of a receiver short: explains what can be explained before the end.
    #[cold]
    fn explain_early(&mut self, core: u16, intid: u8, now: u64) {
        // What an answer makes legal is known when it is settled: one that waits for a lane that comes later holds this up.
        let flows = self.flows.iter().filter(|flow| (flow.to, flow.intid) == (core, intid));
        let waiting = flows.flat_map(|flow| &flow.answers).map(|answer| answer.t.min(answer.sent())).min();
        let horizon = now.saturating_sub(self.timeout.saturating_mul(4));
        self.explain(core, intid, horizon.min(waiting.map_or(u64::MAX, |waiting| waiting.saturating_sub(1))));
        let Some(receiver) = self.receiver(core, intid) else { return };
        receiver.most = (2 * receiver.empty.len()).max(receiver.credits.len() / 2);
        if receiver.credits.len() > MOST_WAITING {
            // Still too many: the newest half explains what is still to come.
            receiver.credits.drain(..MOST_WAITING / 2);
        }
    }

    /// Which of the empty acknowledges up to `horizon` are legal; the others are reported.
    fn explain(&mut self, core: u16, intid: u8, horizon: u64) {
        let timeout = self.timeout;
        let Some(receiver) = self.receiver(core, intid) else { return };
        let mut credits = std::mem::take(&mut receiver.credits);
        let mut empty = std::mem::take(&mut receiver.empty);
        empty.sort_unstable();
        for (start, _) in credits.iter_mut().filter(|(_, until)| *until == u64::MAX) {
            // A message was given up, and its SGI not yet taken: by a handler that begins later, or that is under way.
            let before = empty.partition_point(|empty| empty.t <= *start).checked_sub(1);
            if let Some(under_way) = before.and_then(|at| empty.get(at)).filter(|empty| empty.ended >= *start) {
                *start = under_way.t;
            }
        }
        for (_, until) in &mut credits {
            // An SGI that was answered early stays pending, however long its core is kept away: the next acknowledge after the
            // write takes it.
            let written = until.saturating_sub(timeout);
            let next = empty.partition_point(|empty| empty.t.saturating_sub(empty.since.unwrap_or(empty.t)) <= written);
            let last = next.checked_sub(1).and_then(|at| empty.get(at)).map_or(0, |empty| empty.t);
            *until = last.max(*until);
        }
        credits.sort_unstable();
        let later = empty.split_off(empty.partition_point(|empty| empty.t <= horizon));
        receiver.empty = later;
        let mut credits = credits.into_iter().peekable();
        // Open credits, the one that ends first on top.
        let mut open = std::collections::BinaryHeap::new();
        let mut unexplained = Vec::new();
        for Empty { t, since, .. } in empty {
            while let Some((_, until)) = credits.next_if(|(start, _)| *start <= t) {
                open.push(std::cmp::Reverse(until));
            }
            while open.peek().is_some_and(|std::cmp::Reverse(until)| *until < t) {
                open.pop();
            }
            if open.pop().is_none() {
                unexplained.push((t, since));
            }
        }
        let kept =
            open.into_iter().map(|std::cmp::Reverse(until)| (horizon, until)).filter(|(_, until)| *until > horizon);
        receiver.credits = kept.chain(credits).collect();
        // What explains an acknowledge stands in the same lane, but for messages that were given up: where records are missing, by
        // loss or by choice, nobody can say that nothing does.
        let lossy = [Context::Irq, Context::Nmi].into_iter().any(|context| is_lossy(&self.lanes, core, context));
        let blind = (0..self.cores as u16).any(|from| is_lossy(&self.lanes, from, Context::Thread));
        let gave_up = || {
            let known = self.receivers.get(usize::from(core) * INTIDS + usize::from(intid));
            known.is_none_or(|receiver| receiver.given_up_in_all.is_none_or(|all| all > receiver.given_up))
        };
        if !self.keeps_all || lossy || (blind && gave_up()) {
            return;
        }
        for (t, since) in unexplained {
            let duplicate = since.is_some_and(|since| since <= self.again);
            self.unexplained(Reception { core, intid, t, duplicate });
        }
    }

    fn unexplained(&mut self, reception: Reception) {
        if reception.duplicate {
            self.duplicate += 1;
        } else {
            self.spurious += 1;
        }
        if self.receptions.len() < MOST_EVIDENCE {
            self.receptions.push(reception);
        }
    }

    /// Keeps what waits within bounds.
    #[inline]
    fn bound(&mut self, flow: usize) {
        if self.held > MOST_WAITING {
            self.give_one_up(flow);
        }
    }

    #[cold]
    fn give_one_up(&mut self, flow: usize) {
        let Some(known) = self.flows.get_mut(flow) else { return };
        self.overflowed += 1;
        if let Some(answer) = known.answers.pop_front() {
            self.held = self.held.saturating_sub(1);
            return self.settle(flow, answer, true);
        }
        let (from, to) = (known.from, known.to);
        let numbered = known.sent.pop_front().map(|sent| (sent.slot, sent.t));
        let Some((slot, t)) = numbered.or_else(|| known.spans.pop_front().map(|span| (span.slot, span.t))) else {
            return;
        };
        self.held = self.held.saturating_sub(1);
        let message = Message { sent: Some(t), outcome: Some(Outcome::Unknown), ..Message::new(Some(from), to) };
        if self.tell(slot, &message)
            && let Some(tally) = self.tallies.get_mut(slot as usize)
        {
            tally.counts.sent += 1;
            tally.counts.unknown += 1;
        }
    }

    /// Nothing more will come.
    fn flush(&mut self) {
        for core in 0..self.cores as u16 {
            for context in [Context::Thread, Context::Irq] {
                self.send_many(core, context as u8, NO_SLOT);
            }
        }
        for flow in 0..self.flows.len() {
            self.settle_retirements(flow, true);
            while let Some(answer) = self.flows.get_mut(flow).and_then(|known| known.answers.pop_front()) {
                self.held = self.held.saturating_sub(1);
                self.settle(flow, answer, true);
            }
        }
        for core in 0..self.cores as u16 {
            for intid in 0..INTIDS as u8 {
                self.explain(core, intid, u64::MAX);
            }
        }
    }

    fn finish(mut self, capture: &Capture, view: Option<View>, damage: Damage, mut notes: Vec<String>) -> Ipis {
        let info = capture.info();
        let ending = capture.ending();
        let recorded = info.plan.keep == Keep::All && info.plan.level != TraceLevel::Off.name();
        // Messages without an end: on their way when the run was cut short, if the records can tell that.
        self.open_broadcasts();
        for flow in std::mem::take(&mut self.flows) {
            let numbered = flow.sent.iter().map(|sent| (sent.slot, sent.t, Some(sent.msg)));
            for (slot, t, number) in numbered.chain(flow.spans.iter().map(|span| (span.slot, span.t, None))) {
                let slot = if slot == NO_SLOT { only(&flow.slots).unwrap_or(slot) } else { slot };
                self.open_end((flow.from, flow.to), slot, t, number);
            }
        }
        // Counters that stand still, or that were read after the end of a target that died, are the truth.
        let usable = view.as_ref().filter(|view| stands_still(capture, view));
        let heard = self.hear.is_some();
        let counters = usable.filter(|_| !heard).and_then(|_| counters(capture));
        let from = if counters.is_some() { From::Target } else { From::Records };
        if view.is_some() && from == From::Records && !heard {
            notes.push(
                "the newest snapshot of the counters was taken while the run went on: totals come from records".into(),
            );
        }
        let complete = view.as_ref().is_some_and(|view| view.status.state == run_state::ENDED);
        let resolution = 1.0;
        let whole: Vec<bool> = (0..self.cores)
            .map(|core| {
                let whole = |context: Context| !is_lossy(&self.lanes, core as u16, context);
                recorded && !damage.truncated && whole(Context::Irq) && whole(Context::Nmi)
            })
            .collect();
        let calls = self.calls.take().map(|calls| {
            let lossy = |core: u16, context: Context| damage.truncated || is_lossy(&self.lanes, core, context);
            let status = view.as_ref().map(|view| &view.status);
            let ended = ending.is_some_and(|ending| ending.ended == Ended::Complete);
            let known = calls::Ending {
                lossy: &lossy,
                complete: ended && status.is_none_or(|status| status.state == run_state::ENDED),
                span: status.map_or((0, 0), |status| (status.started, status.ended)),
            };
            calls.finish(&known, &mut self.interrupts)
        });
        notes.extend(calls.iter().flat_map(|calls| calls.notes.iter().cloned()));
        let (mut counter_slots, histograms) = counters.unwrap_or_default();
        reconcile(&mut counter_slots, self.flow_slots.values());
        let mut contradictions = 0;
        let mut saturated = 0;
        let mut slots = Vec::with_capacity(self.slots.len());
        for ((index, place), tally) in self.slots.iter().copied().enumerate().zip(&mut self.tallies) {
            let Place { from: from_core, to, phase, intid, state, kind } = place;
            let receiver_whole = whole.get(usize::from(to)).copied().unwrap_or(false);
            let samples = std::mem::replace(&mut tally.samples, Samples::new(0));
            let counted = counter_slots.get(index);
            let answers = samples.len();
            let mut figures = if recorded { Figures::of_samples(samples) } else { Figures::None };
            let mut exact = receiver_whole;
            let (counts, probes) = match counted {
                Some(slot) => {
                    let (counts, contradicts) = target_counts(slot, complete);
                    contradictions += u64::from(contradicts);
                    exact &= answers == slot.timed();
                    if !exact {
                        figures = slot_figures(slot, &histograms, &mut saturated);
                    }
                    (counts, slot_probes(slot))
                }
                None => (tally.counts, tally.probes),
            };
            let latency = figures.summary(resolution);
            let exact = exact && latency.is_none_or(|latency| latency.exact);
            let free = tally.free.take().filter(|_| recorded).map(|samples| {
                let mut figures = Figures::of_samples(*samples);
                Free { latency: figures.summary(resolution), figures }
            });
            let [irq, pseudo, real] = tally.deliveries;
            // Of as many of both, the less urgent.
            let delivery = [(Delivery::Nmi, real), (Delivery::PseudoNmi, pseudo), (Delivery::Irq, irq)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .max_by_key(|(_, count)| *count)
                .map(|(delivery, _)| delivery);
            slots.push(Slot {
                from: from_core,
                to,
                phase,
                intid,
                state,
                kind,
                reason: None,
                delivery,
                counts,
                latency,
                figures,
                exact,
                worst: tally.worst,
                free,
                probes,
                excused: tally.excused,
                recovered: tally.recovered,
                backwards: tally.backwards,
            });
        }
        // By time, whatever the order of the lanes was.
        self.given_up.sort_by_key(|message| (message.t, message.from, message.to, message.intid));
        self.receptions.sort_by_key(|reception| (reception.t, reception.core, reception.intid));
        self.step_backs.sort_by_key(|step| (step.t, step.core, step.context));
        let mut misrouted = self.route(&mut slots);
        if heard {
            self.tell_ends(&mut slots, &mut misrouted);
        }
        let mut totals = Counts::default();
        for slot in &slots {
            assert!(slot.counts.is_whole(), "outcomes of {} to {} don't add up: {:?}", slot.from, slot.to, slot.counts);
            totals.add(&slot.counts);
        }
        for (count, what) in [
            (self.bad, "records are damaged and were left out"),
            (
                if info.plan.keep == Keep::All { self.homeless } else { 0 },
                "answers belong to no pair of the plan that could be found, and were left out",
            ),
            (self.overflowed, "messages were given up because too many waited for records that did not come"),
            (
                contradictions,
                "pairs have counters that contradict each other; the difference counts as unknown, or as sent",
            ),
            (saturated, "histograms have a counter at its top: their percentiles are bounds"),
        ] {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        }
        let (gaps, gap_totals) = self.watch.finish(view.as_ref());
        Ipis {
            from,
            slots,
            totals,
            receptions: self.receptions,
            duplicate: self.duplicate,
            spurious: self.spurious,
            misrouted,
            given_up: self.given_up,
            stages: self.interrupts.finish(),
            calls,
            watching: self.watching,
            gaps,
            gap_totals,
            step_backs: self.step_backs,
            sweeps: self.sweeps.finish(),
            series: if recorded { self.pieces.finish() } else { Series::default() },
            latest: self.seen.iter().copied().max().unwrap_or(0),
            lanes: self.lanes,
            records: self.records,
            view,
            damage,
            linux: None,
            heard: heard.then_some(self.heard),
            notes,
        }
    }

    /// Counts a message without an end.
    fn open_end(&mut self, (from, to): (u16, u16), slot: u32, t: u64, number: Option<u32>) {
        let senders: &[Context] = if self.calling { &[Context::Thread, Context::Irq] } else { &[Context::Thread] };
        let blind = [Context::Irq, Context::Nmi].iter().any(|lane| is_lossy(&self.lanes, to, *lane))
            || senders.iter().any(|lane| is_lossy(&self.lanes, from, *lane));
        if self.slots.get(slot as usize).map(|slot| (slot.from, slot.to)) != Some((from, to)) {
            self.homeless += 1;
            return;
        }
        let outcome = Some(if blind { Outcome::Unknown } else { Outcome::InFlight });
        let message = Message { number, sent: Some(t), outcome, ..Message::new(Some(from), to) };
        if self.tell(slot, &message)
            && let Some(tally) = self.tallies.get_mut(slot as usize)
        {
            tally.counts.sent += 1;
            if blind { tally.counts.unknown += 1 } else { tally.counts.in_flight += 1 }
        }
    }

    /// Messages of broadcasts without an end. A sender waits for all answers to one before it sends again, so only its newest has any.
    fn open_broadcasts(&mut self) {
        let newest = |((from, intid), list): (&(u16, u8), &VecDeque<Broadcast>)| Some((*from, *intid, *list.back()?));
        let mut newest: Vec<_> = self.broadcasts.iter().filter_map(newest).collect();
        newest.sort_unstable_by_key(|(from, intid, _)| (*from, *intid));
        for (from, intid, Broadcast { t, slot, .. }) in newest {
            for to in (0..self.cores as u16).filter(|to| *to != from) {
                let slot = slot.saturating_add(to.into());
                let place = self.slots.get(slot as usize).map(|slot| (slot.from, slot.to, slot.intid));
                // A core that was never there was not sent to, and left no record either.
                let lanes = self.lanes.iter().skip(usize::from(to) * LANES_PER_CORE).take(LANES_PER_CORE);
                let there = lanes.into_iter().any(|lane| lane.next > 0);
                let flow = self.index.get(flow_key(self.cores, from, to, intid));
                let until = flow.and_then(|flow| self.flows.get(*flow as usize)).map_or(0, |flow| flow.until);
                if place == Some((from, to, intid)) && there && until < t {
                    self.open_end((from, to), slot, t, None);
                }
            }
        }
    }

    /// Tells what is known only at the end: messages that were given up, and acknowledges that no message explains.
    fn tell_ends(&mut self, slots: &mut [Slot], misrouted: &mut Vec<Misrouted>) {
        let mut taken = std::mem::take(misrouted).into_iter().peekable();
        let mut given_up = std::mem::take(&mut self.given_up);
        given_up.retain(|message| {
            let base = Message {
                number: Some(message.msg),
                sent: message.sent,
                ..Message::new(Some(message.from), message.to)
            };
            let same = |other: &Misrouted| {
                (other.from, other.to, other.intid) == (message.from, message.to, message.intid)
                    && message.sent.is_some_and(|sent| (sent..=message.t).contains(&other.t))
            };
            let Some(index) = message.slot else { return true };
            let mut counts = false;
            let mut left = u64::from(message.count);
            while message.lost
                && left > 0
                && let Some(other) = taken.next_if(same)
            {
                left -= 1;
                let told = Message { outcome: Some(Outcome::Misrouted), entry: Some(other.t), ..base };
                if self.tell(index, &told) {
                    counts = true;
                    misrouted.push(other);
                } else if let Some(slot) = slots.get_mut(index as usize) {
                    slot.counts.misrouted = slot.counts.misrouted.saturating_sub(1);
                    slot.counts.sent = slot.counts.sent.saturating_sub(1);
                }
            }
            let outcome = if message.lost { Outcome::Lost } else { Outcome::Unknown };
            if left == 0 {
                return counts;
            }
            if self.tell(index, &Message { count: left, outcome: Some(outcome), ..base }) {
                return true;
            }
            if let Some(slot) = slots.get_mut(index as usize) {
                let count = if message.lost { &mut slot.counts.lost } else { &mut slot.counts.unknown };
                *count = count.saturating_sub(left);
                slot.counts.sent = slot.counts.sent.saturating_sub(left);
            }
            counts
        });
        self.given_up = given_up;
        let mut receptions = std::mem::take(&mut self.receptions);
        receptions.retain(|reception| {
            let entry = Some(reception.t);
            let counts =
                self.tell_whole(&Message { intid: reception.intid, entry, ..Message::new(None, reception.core) });
            if !counts {
                let count = if reception.duplicate { &mut self.duplicate } else { &mut self.spurious };
                *count = count.saturating_sub(1);
            }
            counts
        });
        self.receptions = receptions;
    }

    /// Records that the target published and that never came into the capture: by its own heads, and by those that the host read.
    fn missing_tails(&mut self, capture: &Capture, view: Option<&View>) {
        let view = view.filter(|view| view.quiescent);
        let heads = view.iter().flat_map(|view| (0..).zip(&view.heads)).flat_map(|(core, heads): (usize, _)| {
            (0..).zip(&heads.head).map(move |(context, head): (usize, _)| (core * LANES_PER_CORE + context, *head))
        });
        let accounts = capture.ending().into_iter().flat_map(|ending| &ending.lanes).map(|account| {
            let lane = usize::from(account.core) * LANES_PER_CORE + usize::from(account.context);
            (lane, account.written.saturating_sub(account.dropped))
        });
        for (lane, head) in heads.chain(accounts) {
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.missing = lane.missing.saturating_add(head.saturating_sub(lane.next));
                lane.next = lane.next.max(head);
            }
        }
    }

    /// Gives each lost message the unexplained reception at another core that it may have been, each reception once.
    fn route(&mut self, slots: &mut [Slot]) -> Vec<Misrouted> {
        let mut misrouted = Vec::new();
        let mut used = vec![false; self.receptions.len()];
        for lost in self.given_up.iter().filter(|message| message.lost) {
            let Some(start) = lost.sent else { continue };
            for _ in 0..lost.count.min(1024) {
                let stray = self.receptions.iter().zip(&mut used).find(|(reception, used)| {
                    !**used
                        && reception.intid == lost.intid
                        && reception.core != lost.to
                        && (start..=lost.t).contains(&reception.t)
                });
                let Some((reception, used)) = stray else { break };
                let slot = lost.slot.and_then(|slot| slots.get_mut(slot as usize));
                let Some(slot) = slot.filter(|slot| slot.counts.lost > 0) else { break };
                slot.counts.lost -= 1;
                slot.counts.misrouted += 1;
                *used = true;
                let count = if reception.duplicate { &mut self.duplicate } else { &mut self.spurious };
                *count = count.saturating_sub(1);
                misrouted.push(Misrouted {
                    from: lost.from,
                    to: lost.to,
                    taken_by: reception.core,
                    intid: lost.intid,
                    t: reception.t,
                });
            }
        }
        let mut used = used.into_iter();
        self.receptions.retain(|_| !used.next().unwrap_or(false));
        misrouted
    }
}

const fn flow_key(cores: usize, from: u16, to: u16, intid: u8) -> usize {
    (from as usize * cores + to as usize) * INTIDS + intid as usize
}

/// Whether an answer and the oldest message that waits settle each other and nothing else: what nearly all do. Gives the slot.
#[inline]
fn settles_alone(slots: &[Place], flow: &Flow, sent: &Sent, answer: &Answer) -> Option<u32> {
    let next = flow.settled.map_or(1, |settled| settled.wrapping_add(1));
    let alone = answer.msg == sent.msg
        && answer.extra == 0
        && !answer.retirement
        && answer.timed()
        && sent.msg == next
        && flow.spans.is_empty();
    // A record that names a slot of another pair is damage.
    let place = slots.get(sent.slot as usize).filter(|_| alone)?;
    ((place.from, place.to) == (flow.from, flow.to)).then_some(sent.slot)
}

fn only(slots: &[u32]) -> Option<u32> {
    match slots {
        [one] => Some(*one),
        _ => None,
    }
}

/// How far clocks may be apart where nobody has measured it, ticks.
const SLACK: u64 = 100_000;

/// How far the clocks of two cores may be apart, ticks: what the self-test could not exclude.
fn slack(view: Option<&View>) -> u64 {
    let up = view.map_or(&[][..], |view| &view.cores).iter().filter(|core| core.state == core_state::UP);
    let bound = |core: &CoreEntry| {
        let before = (clock_flag::SKEW_BEFORE, core.skew_before_low, core.skew_before_high);
        let after = (clock_flag::SKEW_AFTER, core.skew_after_low, core.skew_after_high);
        let measured = [before, after].into_iter().filter(|(flag, ..)| core.clock_flags & flag != 0);
        measured.map(|(_, low, high)| low.unsigned_abs().max(high.unsigned_abs())).max()
    };
    up.filter_map(bound).max().map_or(SLACK, |bound| bound.saturating_mul(2).max(2))
}

/// How many records of each lane the host could have fetched, by its own accounts.
fn written(capture: &Capture, cores: usize) -> Vec<u64> {
    let Some(ending) = capture.ending() else { return vec![u64::MAX; cores * LANES_PER_CORE] };
    let mut written = vec![0; cores * LANES_PER_CORE];
    for account in &ending.lanes {
        let lane = usize::from(account.core) * LANES_PER_CORE + usize::from(account.context);
        if let Some(count) = written.get_mut(lane) {
            *count = account.written.saturating_sub(account.dropped).saturating_sub(account.left);
        }
    }
    written
}

/// Whether records of a lane are missing.
fn is_lossy(lanes: &[LaneTally], core: u16, context: Context) -> bool {
    lanes.get(usize::from(core) * LANES_PER_CORE + context as usize).is_none_or(|lane| lane.lost() > 0)
}

/// What the capture says of the plan.
struct Table {
    /// Its pair slots.
    slots: Vec<Place>,
    /// It uses kinds and calls.
    calling: bool,
    /// What it has cores watch for; `None`: nobody says.
    watching: Option<Watching>,
}

/// The plan's pair slots, and what joining needs besides: from the compiled plan in the capture, or from a snapshot.
fn slot_table(capture: &Capture) -> Table {
    let called = capture.info().plan.level == TraceLevel::Calls.name();
    if let Ok(Some(bytes)) = capture.attachment(PLAN_ATTACHMENT) {
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        if let Some(room) = aligned.as_mut_bytes().get_mut(..bytes.len()) {
            room.copy_from_slice(&bytes);
        }
        if let Ok(plan) = Plan::parse(aligned.as_bytes()) {
            let place = |slot: &PlanSlot| Place {
                from: slot.from,
                to: slot.to,
                phase: slot.phase,
                intid: slot.intid,
                state: ReceiverState::from_code(slot.state),
                kind: IpiKind::from_slot_code(slot.kind),
            };
            let header = plan.header;
            return Table {
                slots: plan.slots.iter().map(place).collect(),
                calling: called || header.flags & plan_flag::CALLS != 0,
                watching: Some(Watching { heartbeat_ns: header.heartbeat_ns, gap_ns: header.gap_ns }),
            };
        }
    }
    let place = |slot: &PairSlot| Place {
        from: slot.from,
        to: slot.to,
        phase: slot.phase,
        intid: slot.intid,
        state: ReceiverState::from_code(slot.state),
        kind: IpiKind::from_slot_code(slot.kind),
    };
    let slots: Vec<Place> = counters(capture).map_or(Vec::new(), |(slots, _)| slots.iter().map(place).collect());
    let calling = called || slots.iter().any(|slot| slot.kind.is_some());
    let meta = &capture.info().plan;
    let watching = Watching { heartbeat_ns: meta.heartbeat_ns, gap_ns: meta.gap_ns };
    // Who wrote this may not have known of gaps.
    Table { slots, calling, watching: Some(watching).filter(|watching| *watching != Watching::default()) }
}

/// Whether the counters of a snapshot are the truth: the target had ended, or nothing moved any more.
fn stands_still(capture: &Capture, view: &View) -> bool {
    view.quiescent || capture.ending().is_some_and(|ending| !ending.counters_moved)
}

/// The pair slots of the newest snapshot, where they are needed to tell what missing records would: `None` where all are there, and
/// where nobody knows.
fn slots_for_losses(capture: &Capture, view: Option<&View>) -> Option<Vec<PairSlot>> {
    let lossy = capture.ending().is_none_or(|ending| ending.lanes.iter().any(|lane| lane.lost() > 0));
    view.filter(|view| lossy && stands_still(capture, view))?;
    let mut source = capture.snapshot()?;
    let region = Region::open(&mut source).ok()?;
    region.slots(&mut source).ok()
}

/// Counters and histograms of the newest snapshot.
fn counters(capture: &Capture) -> Option<(Vec<PairSlot>, Vec<u32>)> {
    let mut source = capture.snapshot()?;
    let region = Region::open(&mut source).ok()?;
    let slots = region.slots(&mut source).ok()?;
    let histograms = region.histograms(&mut source).ok()?;
    Some((slots, histograms))
}

/// A message that was answered, or given up, together with a newer one of another slot (a broadcast, say) was counted where the
/// newer one belongs: the target knows no more. Its own slot gets it back.
fn reconcile<'a>(slots: &mut [PairSlot], flows: impl Iterator<Item = &'a Vec<u32>>) {
    let ended = |slot: &PairSlot| {
        slot.delivered.saturating_add(slot.coalesced).saturating_add(slot.lost).saturating_add(slot.unknown)
    };
    let outcomes: [fn(&mut PairSlot) -> &mut u64; 3] =
        [|slot| &mut slot.coalesced, |slot| &mut slot.lost, |slot| &mut slot.unknown];
    for flow in flows.filter(|flow| flow.len() > 1) {
        for outcome in outcomes {
            let mut surplus = 0;
            for index in flow {
                if let Some(slot) = slots.get_mut(*index as usize) {
                    let moved = ended(slot).saturating_sub(slot.sent).min(*outcome(slot));
                    *outcome(slot) -= moved;
                    surplus = moved.saturating_add(surplus);
                }
            }
            for index in flow {
                if let Some(slot) = slots.get_mut(*index as usize).filter(|_| surplus > 0) {
                    let moved = slot.sent.saturating_sub(ended(slot)).min(surplus);
                    *outcome(slot) += moved;
                    surplus -= moved;
                }
            }
            // What no slot lacks stays where it was counted.
            if let Some(slot) = flow.first().and_then(|index| slots.get_mut(*index as usize)) {
                *outcome(slot) = outcome(slot).saturating_add(surplus);
            }
        }
    }
}

/// A slot's outcomes by the target's counters, and whether those contradict each other.
fn target_counts(slot: &PairSlot, complete: bool) -> (Counts, bool) {
    // Hostile counters must not overflow a sum.
    let limit = |count: u64| count.min(1 << 40);
    let (sent, delivered, coalesced) = (limit(slot.sent), limit(slot.delivered), limit(slot.coalesced));
    let (lost, unknown) = (limit(slot.lost), limit(slot.unknown));
    let ended = delivered + coalesced + lost + unknown;
    let left = sent.saturating_sub(ended);
    let counts = Counts {
        // A snapshot of a running target reads the sender's line before the receiver's.
        sent: sent.max(ended),
        delivered,
        coalesced,
        lost,
        misrouted: 0,
        in_flight: if complete { 0 } else { left },
        unknown: unknown + if complete { left } else { 0 },
    };
    (counts, ended > sent || (complete && left > 0))
}

fn slot_probes(slot: &PairSlot) -> Probes {
    Probes {
        masked: slot.probes_masked.into(),
        pending: slot.probes_pending.into(),
        absent: slot.probes_absent.into(),
        active: slot.probes_active.into(),
    }
}

fn slot_figures(slot: &PairSlot, histograms: &[u32], saturated: &mut u64) -> Figures {
    let PairSlot { min, max, sum, .. } = *slot;
    let timed = slot.timed();
    // Hostile counters: none of these can be.
    if timed == 0 || timed > 1 << 60 || min > max {
        return Figures::None;
    }
    let start = (slot.histogram as usize).saturating_mul(histogram::STRIDE);
    let counts = histograms.get(start..).and_then(|rest| rest.get(..histogram::BUCKETS));
    match counts.filter(|_| slot.histogram != NO_HISTOGRAM) {
        Some(counts) => {
            *saturated += u64::from(counts.contains(&u32::MAX));
            Figures::Buckets { counts: counts.into(), min, max, sum, timed }
        }
        None => Figures::Extremes { min, max, sum, timed },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            from: 0,
            to: 1,
            intid: 0,
            sent: VecDeque::new(),
            spans: VecDeque::new(),
            answers: VecDeque::new(),
            retirements: VecDeque::new(),
            settled: None,
            holes: Vec::new(),
            until: 0,
            listed: false,
            slots: Vec::new(),
        }
    }

    #[test]
    fn numbers_are_settled_once_in_whatever_order_their_ends_come() {
        let mut flow = flow();
        assert!(flow.settle(2, 2) && flow.is_settled(1) && flow.is_settled(2) && !flow.is_settled(3));
        // Number 9 with the two before it, then 4 to 5; 3 and 6 are still to come.
        assert!(flow.settle(9, 3) && flow.settle(5, 2));
        let open: Vec<u32> = (1..=10).filter(|number| !flow.is_settled(*number)).collect();
        assert_eq!(open, [3, 6, 10]);
        assert!(!flow.settle(8, 1) && !flow.settle(9, 1) && !flow.settle(4, 1), "these were settled already");
        assert!(flow.settle(6, 1) && flow.settle(3, 1));
        assert!(flow.holes.is_empty() && !flow.settle(3, 1));
    }

    #[test]
    fn numbers_that_were_lapped_before_the_first_answer_are_open_and_numbers_wrap() {
        let mut flow = flow();
        assert!(flow.settle(3_000_000_000, 1));
        assert!(!flow.is_settled(2_999_999_999) && !flow.is_settled(3_000_000_001));
        assert!(flow.settle(2_999_999_999, 4) && flow.is_settled(2_999_999_996) && !flow.is_settled(2_999_999_995));
        flow.settled = Some(u32::MAX);
        flow.holes.clear();
        assert!(flow.settle(2, 2) && flow.is_settled(1));
        assert!(!flow.is_settled(0), "0 comes behind the last number and was not answered");
    }
}
