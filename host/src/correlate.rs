//! From sends and receptions to outcomes: which message was answered by which acknowledge, and what became of the others.
//!
//! Records arrive lane by lane, in whatever order the host drained them, and are joined as they come: a message waits for
//! its answer or an answer for its message, never the whole capture for its end. Counts come from the target's own counters
//! where a snapshot of them is whole; records add exact latencies and evidence, and stand in where there is no snapshot.
//!
//! For every pair slot, always: `sent = delivered + coalesced + lost + misrouted + in_flight + unknown`.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use trace_ring::histogram;
use trace_ring::layout::{
    Context, CoreEntry, Directory, FaultEntry, HeadLine, LANES_PER_CORE, MAX_CORES, NO_HISTOGRAM, PairSlot,
    PhaseResult, Status, Truth, run_state,
};
use trace_ring::plan::{Plan, TraceLevel};
use trace_ring::reader::{Loss, Region};
use trace_ring::record::{
    Event, FLAG_DELIVERED, FLAG_STATE_MASK, FLAG_UNTIMED, Kind, PEER_ALL, PROBE_ACTIVE, PROBE_ENABLED, PROBE_PENDING,
    RECORD_BYTES, ReceiverState, Record, Retired,
};
use zerocopy::IntoBytes;

use crate::capture::{Batch, Capture, CaptureError, Damage, PLAN_ATTACHMENT};
use crate::plan::Keep;
use crate::stats::{Figures, Samples, Summary};

/// The most messages and answers that wait for each other. What is beyond counts as unknown where records decide.
const MOST_WAITING: usize = 8 << 20;

/// Latencies kept as they are, in all slots together.
const MOST_VALUES: usize = 16 << 20;

/// The most pieces of evidence of one kind that are kept.
const MOST_EVIDENCE: usize = 65_536;

/// Broadcasts of one sender that are remembered.
const MOST_BROADCASTS: usize = 1 << 20;

/// INTIDs that a flow may have: plans measure fewer.
const INTIDS: usize = 8;

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
    /// What probes saw.
    pub probes: Probes,
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
    /// Stages of the interrupts of each core, where they were recorded (level `stages`).
    pub stages: Vec<Stages>,
    /// Lanes, [`LANES_PER_CORE`] a core.
    pub lanes: Vec<LaneTally>,
    /// Records in the capture that are ones.
    pub records: u64,
    /// The newest snapshot.
    pub view: Option<View>,
    /// What of the file could not be used.
    pub damage: Damage,
    /// What the reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// Reads a capture and joins what it says.
pub fn correlate(capture: &Capture) -> Result<Ipis, CaptureError> {
    let mut notes = Vec::new();
    let view = view(capture, &mut notes);
    let mut joiner = Joiner::new(capture, view.as_ref());
    let damage = capture.lanes(|batch| joiner.batch(batch))?;
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

/// An answer, or a retirement, that waits for its message.
#[derive(Clone, Copy, Debug)]
struct Answer {
    t: u64,
    /// Of an answer: the message's send time. Of a retirement: how many messages, and what the sender saw.
    arg: u64,
    msg: u32,
    extra: u8,
    flags: u8,
    retirement: bool,
}

/// One (from, to, INTID).
#[derive(Debug)]
struct Flow {
    from: u16,
    to: u16,
    intid: u8,
    sent: VecDeque<Sent>,
    answers: VecDeque<Answer>,
    retirements: VecDeque<Answer>,
    /// The newest message that was answered.
    answered: u32,
    /// Slots of this flow, for answers whose message is not in the records.
    slots: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Broadcast {
    t: u64,
    window: u64,
    slot: u32,
}

/// How long the stages of one core's interrupts took, ticks.
#[derive(Clone, Debug)]
pub struct Stages {
    /// From the vector's stamp to after the acknowledge.
    pub entry_to_acknowledge: Samples,
    /// From there to after the end of interrupt.
    pub acknowledge_to_end: Samples,
    /// The stamp after the acknowledge of the interrupt whose records are being read, and whether its entry was seen.
    open: Option<(u64, bool)>,
}

impl Stages {
    fn new() -> Self {
        const KEPT: usize = 1 << 16;
        Stages { entry_to_acknowledge: Samples::new(KEPT), acknowledge_to_end: Samples::new(KEPT), open: None }
    }

    /// One record of the IRQ lane: the acknowledge's stamp comes first, then what was received, then the end's stamp.
    fn see(&mut self, event: &Event) {
        match (event.kind, event.extra) {
            (Kind::Stage, 0) => self.open = Some((event.t, false)),
            (Kind::Stage, _) => {
                if let Some(took) = self.open.take().and_then(|(acknowledged, _)| event.t.checked_sub(acknowledged)) {
                    self.acknowledge_to_end.push(took);
                }
            }
            (Kind::Receive | Kind::ReceiveEmpty, _) => {
                if let Some((acknowledged, entered @ false)) = &mut self.open {
                    *entered = true;
                    if let Some(took) = acknowledged.checked_sub(event.t) {
                        self.entry_to_acknowledge.push(took);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What a receiver has to explain, for one INTID.
#[derive(Debug, Default)]
struct Receiver {
    /// The newest acknowledge that answered something.
    answered: Option<u64>,
    /// Empty acknowledges, and how long before each the last answer was.
    empty: Vec<(u64, Option<u64>)>,
    /// Spans of time in each of which one empty acknowledge is legal.
    credits: Vec<(u64, u64)>,
}

/// What the records say of a slot.
struct Tally {
    counts: Counts,
    samples: Samples,
    worst: Option<(u64, u64)>,
    probes: Probes,
}

struct Joiner {
    cores: usize,
    lanes: Vec<LaneTally>,
    /// Index of each flow, by from, to, INTID; `u32::MAX`: none yet.
    index: Vec<u32>,
    flows: Vec<Flow>,
    flow_slots: HashMap<usize, Vec<u32>>,
    broadcasts: HashMap<(u16, u8), VecDeque<Broadcast>>,
    /// Flows of each sender with answers that may be those of a broadcast.
    waiting: Vec<Vec<u32>>,
    /// By core and INTID.
    receivers: Vec<Receiver>,
    slots: Vec<(u16, u16, u16, u8, ReceiverState)>,
    tallies: Vec<Tally>,
    held: usize,
    stages: Vec<Stages>,
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
    /// T and the probe's time in ticks.
    timeout: u64,
    probe: u64,
}

/// Whether message `a` comes after message `b`; numbers wrap.
const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl Joiner {
    fn new(capture: &Capture, view: Option<&View>) -> Self {
        let info = capture.info();
        let slots = slot_table(capture);
        let asked = usize::from(info.cores).max(usize::from(info.plan.cores));
        let known = view.map_or(0, |view| view.directory.core_count as usize);
        let cores = asked.max(known).clamp(1, MAX_CORES);
        let hz = view.map_or(0, |view| view.directory.counter_hz).max(1);
        let ticks = |ns: u64| u64::try_from(u128::from(ns) * u128::from(hz) / 1_000_000_000).unwrap_or(u64::MAX);
        let limit = (MOST_VALUES / slots.len().max(1)).clamp(1024, 1 << 20);
        let mut flow_slots: HashMap<usize, Vec<u32>> = HashMap::new();
        for (slot, index) in slots.iter().zip(0..) {
            if usize::from(slot.0) < cores && usize::from(slot.1) < cores && usize::from(slot.3) < INTIDS {
                flow_slots.entry(flow_key(cores, slot.0, slot.1, slot.3)).or_default().push(index);
            }
        }
        Joiner {
            cores,
            lanes: vec![LaneTally::default(); cores * LANES_PER_CORE],
            index: vec![u32::MAX; cores * cores * INTIDS],
            flows: Vec::new(),
            flow_slots,
            broadcasts: HashMap::new(),
            waiting: vec![Vec::new(); cores],
            receivers: std::iter::repeat_with(Receiver::default).take(cores * INTIDS).collect(),
            tallies: slots
                .iter()
                .map(|_| Tally {
                    counts: Counts::default(),
                    samples: Samples::new(limit),
                    worst: None,
                    probes: Probes::default(),
                })
                .collect(),
            slots,
            held: 0,
            stages: std::iter::repeat_with(Stages::new).take(cores).collect(),
            receptions: Vec::new(),
            duplicate: 0,
            spurious: 0,
            given_up: Vec::new(),
            records: 0,
            bad: 0,
            homeless: 0,
            overflowed: 0,
            keeps_all: info.plan.keep == Keep::All,
            timeout: ticks(info.plan.timeout_ns).max(1),
            probe: ticks(info.plan.probe_ns).max(1),
        }
    }

    fn batch(&mut self, batch: Batch<'_>) {
        match batch {
            Batch::Records { core, context, first, bytes } => self.lane_records(core, context, first, bytes),
            Batch::Lost { core, context, first, count, cause } => {
                if context == Context::Irq as u8 {
                    self.forget_stage(core);
                }
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
        lane.next = lane.next.max(first.saturating_add(count));
        if gap > 0 && context == Context::Irq as u8 {
            self.forget_stage(core);
        }
        let mut whole = 0;
        for (chunk, index) in bytes.chunks_exact(RECORD_BYTES as usize).zip(first..).skip(skip as usize) {
            let Some(chunk) = chunk.first_chunk() else { continue };
            match Record::from_bytes(chunk, index) {
                Some(record) => {
                    whole += 1;
                    if context == Context::Irq as u8
                        && let Some(stages) = self.stages.get_mut(usize::from(core))
                    {
                        stages.see(&record.event);
                    }
                    self.record(core, &record);
                }
                None => self.bad += 1,
            }
        }
        self.records += whole;
        if let Some(lane) = self.lane(core, context) {
            lane.records += whole;
            lane.torn += count - skip - whole;
        }
        // Answers that may be those of a broadcast which has come by now.
        if let Some(waiting) = self.waiting.get_mut(usize::from(core)).map(std::mem::take) {
            for flow in waiting {
                self.advance(flow as usize, false);
            }
        }
    }

    /// Records of the core's IRQ lane are missing: what was under way has no end.
    fn forget_stage(&mut self, core: u16) {
        if let Some(stages) = self.stages.get_mut(usize::from(core)) {
            stages.open = None;
        }
    }

    fn record(&mut self, core: u16, record: &Record) {
        let event = record.event;
        match event.kind {
            Kind::Send if event.peer == PEER_ALL => {
                let list = self.broadcasts.entry((core, event.intid)).or_default();
                if list.len() >= MOST_BROADCASTS {
                    list.pop_front();
                }
                list.push_back(Broadcast { t: event.t, window: event.window(), slot: event.slot() });
            }
            Kind::Send => {
                let Some(flow) = self.flow(core, event.peer, event.intid) else { return };
                let sent = Sent { t: event.t, msg: event.msg, window: event.window(), slot: event.slot() };
                if let Some(known) = self.flows.get_mut(flow) {
                    known.sent.push_back(sent);
                    self.held += 1;
                    if !known.answers.is_empty() || !known.retirements.is_empty() {
                        self.advance(flow, false);
                    }
                }
                self.bound(flow);
            }
            Kind::Receive => {
                let Some(flow) = self.flow(event.peer, core, event.intid) else { return };
                if let Some(receiver) = self.receiver(core, event.intid) {
                    receiver.answered = Some(event.t);
                }
                let (t, arg, msg, extra, flags) = (event.t, event.arg, event.msg, event.extra, event.flags);
                if let Some(known) = self.flows.get_mut(flow) {
                    known.answers.push_back(Answer { t, arg, msg, extra, flags, retirement: false });
                    self.held += 1;
                }
                self.advance(flow, false);
                self.bound(flow);
            }
            Kind::Retire => {
                let Some(flow) = self.flow(core, event.peer, event.intid) else { return };
                let (t, arg, msg, extra) = (event.t, event.arg, event.msg, event.extra);
                if let Some(known) = self.flows.get_mut(flow) {
                    known.retirements.push_back(Answer { t, arg, msg, extra, flags: 0, retirement: true });
                    self.held += 1;
                }
                self.advance(flow, false);
            }
            Kind::ReceiveEmpty => {
                let Some(receiver) = self.receiver(core, event.intid) else {
                    self.bad += 1;
                    return;
                };
                let since = receiver.answered.and_then(|answered| event.t.checked_sub(answered));
                receiver.empty.push((event.t, since));
                if receiver.empty.len() >= MOST_EVIDENCE {
                    let horizon = event.t.saturating_sub(self.timeout.saturating_mul(2));
                    self.explain(core, event.intid, horizon);
                }
            }
            Kind::Probe => {
                let Some(flow) = self.flow(core, event.peer, event.intid) else { return };
                let slot = self.flows.get(flow).and_then(|flow| {
                    flow.sent
                        .iter()
                        .rev()
                        .find(|sent| sent.msg == event.msg)
                        .map(|sent| sent.slot)
                        .or(only(&flow.slots))
                });
                if let Some(tally) = slot.and_then(|slot| self.tallies.get_mut(slot as usize)) {
                    tally.probes.see(event.arg);
                }
            }
            _ => {}
        }
    }

    fn receiver(&mut self, core: u16, intid: u8) -> Option<&mut Receiver> {
        let inside = usize::from(intid) < INTIDS;
        self.receivers.get_mut(usize::from(core) * INTIDS + usize::from(intid)).filter(|_| inside)
    }

    fn flow(&mut self, from: u16, to: u16, intid: u8) -> Option<usize> {
        let inside = usize::from(from) < self.cores && usize::from(to) < self.cores && usize::from(intid) < INTIDS;
        if !inside {
            self.bad += 1;
            return None;
        }
        let key = flow_key(self.cores, from, to, intid);
        let next = self.flows.len() as u32;
        let index = self.index.get_mut(key)?;
        if *index == u32::MAX {
            *index = next;
            let slots = self.flow_slots.get(&key).cloned().unwrap_or_default();
            self.flows.push(Flow {
                from,
                to,
                intid,
                sent: VecDeque::new(),
                answers: VecDeque::new(),
                retirements: VecDeque::new(),
                answered: 0,
                slots,
            });
        }
        Some(*index as usize)
    }

    /// Joins what can be joined. `last`: nothing more will come.
    fn advance(&mut self, flow: usize, last: bool) {
        loop {
            let Some(known) = self.flows.get(flow) else { return };
            // A retirement stands behind its message in the same lane: it never waits.
            let Some(answer) = known.retirements.front().or(known.answers.front()).copied() else { return };
            let newest = answer.msg;
            // How many messages came up to it, and whether its own is among them.
            let upto = match known.sent.front() {
                Some(first) if first.msg == newest => 1,
                Some(first) if after(first.msg, newest) => 0,
                _ => known.sent.partition_point(|sent| !after(sent.msg, newest)),
            };
            let own = upto.checked_sub(1).and_then(|at| known.sent.get(at)).filter(|sent| sent.msg == newest).copied();
            let later = upto < known.sent.len();
            let (from, to, intid) = (known.from, known.to, known.intid);
            let mut broadcast = None;
            if own.is_none() {
                broadcast = self.broadcast(from, intid, &answer);
                if !answer.retirement && !later && !last && broadcast.is_none() {
                    // Its send may still come, as a broadcast perhaps.
                    if let Some(waiting) = self.waiting.get_mut(usize::from(from))
                        && waiting.last() != Some(&(flow as u32))
                    {
                        waiting.push(flow as u32);
                    }
                    return;
                }
            }
            self.settle(flow, answer, own, upto, broadcast, to);
        }
    }

    fn broadcast(&self, from: u16, intid: u8, answer: &Answer) -> Option<Broadcast> {
        let list = self.broadcasts.get(&(from, intid))?;
        let upto = |t: u64| list.partition_point(|broadcast| broadcast.t <= t);
        if answer.retirement {
            // The newest one before it.
            return list.get(upto(answer.t).checked_sub(1)?).copied();
        }
        if answer.flags & FLAG_UNTIMED == 0 {
            return list.get(upto(answer.arg).checked_sub(1)?).filter(|broadcast| broadcast.t == answer.arg).copied();
        }
        // Answered before its time stood in memory: the next one that was stamped.
        list.get(upto(answer.t)).copied()
    }

    fn settle(
        &mut self,
        flow: usize,
        answer: Answer,
        own: Option<Sent>,
        upto: usize,
        broadcast: Option<Broadcast>,
        to: u16,
    ) {
        let Some(known) = self.flows.get_mut(flow) else { return };
        if answer.retirement {
            known.retirements.pop_front();
        } else {
            known.answers.pop_front();
        }
        self.held = self.held.saturating_sub(1);
        let before = known.answered;
        if !answer.retirement {
            if !after(answer.msg, before) {
                let reception = Reception { core: to, intid: known.intid, t: answer.t, duplicate: true };
                self.unexplained(reception);
                return;
            }
            known.answered = answer.msg;
        }
        // How many messages it settles: the record says it, up to what fits; beyond, the messages that wait do.
        let waiting = || known.sent.iter().take(upto).rev().take_while(|sent| after(sent.msg, before)).count() as u32;
        let count = match (answer.retirement, answer.extra) {
            (true, _) => answer.arg as u32,
            (false, u8::MAX) => waiting().max(u32::from(u8::MAX) + 1),
            (false, extra) => u32::from(extra) + 1,
        }
        .max(1);
        // Those before them wait on: their own end may stand in a lane that comes later.
        let mut older: Vec<u32> = Vec::new();
        if upto == 1 && own.is_some() {
            known.sent.pop_front();
            self.held = self.held.saturating_sub(1);
        } else {
            let covered = |sent: &&Sent| answer.msg.wrapping_sub(sent.msg) < count;
            let first = known.sent.iter().take(upto).rev().take_while(covered).count();
            self.held = self.held.saturating_sub(first);
            older.extend(
                known.sent.drain(upto - first..upto).filter(|sent| sent.msg != answer.msg).map(|sent| sent.slot),
            );
        }
        let (from, intid) = (known.from, known.intid);
        let slot = own.map(|sent| sent.slot).or(broadcast.map(|broadcast| broadcast.slot.wrapping_add(to.into())));
        let slot = slot.or_else(|| {
            let state = ReceiverState::from_code(answer.flags & FLAG_STATE_MASK);
            let same = |slot: &&u32| self.slots.get(**slot as usize).is_some_and(|slot| slot.4 == state);
            only(&known.slots).or_else(|| only(&known.slots.iter().filter(same).copied().collect::<Vec<_>>()))
        });
        // A record that names a slot of another pair is damage.
        let fits = |slot: &u32| self.slots.get(*slot as usize).is_some_and(|slot| (slot.0, slot.1) == (from, to));
        let slot = slot.filter(fits);
        let Some(tally) = slot.and_then(|slot| self.tallies.get_mut(slot as usize)) else {
            self.homeless += 1;
            return;
        };
        if answer.retirement {
            let lost = Retired::from_code(answer.extra) == Retired::Lost;
            let outcome = if lost { &mut tally.counts.lost } else { &mut tally.counts.unknown };
            *outcome += u64::from(count);
            tally.counts.sent += u64::from(count);
            tally.probes.see(answer.arg);
            let sent = own.map(|sent| sent.t);
            if self.given_up.len() < MOST_EVIDENCE {
                self.given_up.push(GivenUp { from, to, intid, msg: answer.msg, count, sent, t: answer.t, lost, slot });
            }
            if !lost {
                // Its SGI may still be taken, and will then find nothing.
                if let Some(receiver) = self.receiver(to, intid) {
                    receiver.credits.push((answer.t, u64::MAX));
                }
            }
            return;
        }
        let delivered = answer.flags & FLAG_DELIVERED != 0;
        if delivered {
            tally.counts.delivered += 1;
        } else {
            tally.counts.coalesced += 1;
        }
        tally.counts.sent += 1;
        let timed = answer.flags & FLAG_UNTIMED == 0;
        if timed {
            let latency = answer.t.wrapping_sub(answer.arg);
            tally.samples.push(latency);
            if tally.worst.is_none_or(|(_, worst)| latency > worst) {
                tally.worst = Some((answer.t, latency));
            }
        }
        // The older ones: by their own slots where their records are there, else by the newest's.
        let rest = u64::from(count - 1).saturating_sub(older.len() as u64);
        tally.counts.coalesced += rest;
        tally.counts.sent += rest;
        for slot in older {
            if let Some(tally) = self.tallies.get_mut(slot as usize) {
                tally.counts.coalesced += 1;
                tally.counts.sent += 1;
            }
        }
        // Answered early: its own interrupt came, or may have come, after the acknowledge that answered it.
        let start = if timed { answer.arg } else { answer.t };
        let window =
            own.map(|sent| (sent.t, sent.window)).or(broadcast.map(|broadcast| (broadcast.t, broadcast.window)));
        let end = window.map(|(t, window)| t.saturating_add(window));
        let early = !timed || end.is_none_or(|end| answer.t < end);
        if early {
            let until = end.unwrap_or(answer.t).max(answer.t).saturating_add(self.timeout);
            if let Some(receiver) = self.receiver(to, intid) {
                receiver.credits.push((start, until));
            }
            self.shed(to, intid);
        }
    }

    /// Keeps the list of credits short.
    fn shed(&mut self, core: u16, intid: u8) {
        let Some(receiver) = self.receiver(core, intid) else { return };
        if receiver.credits.len() < 4 * MOST_EVIDENCE {
            return;
        }
        let newest = receiver.credits.iter().map(|credit| credit.0).max().unwrap_or(0);
        let horizon = newest.saturating_sub(self.timeout.saturating_mul(4));
        self.explain(core, intid, horizon);
        if let Some(receiver) = self.receiver(core, intid)
            && receiver.credits.len() >= 4 * MOST_EVIDENCE
        {
            // Still too many: the newest half explains what is still to come.
            receiver.credits.drain(..2 * MOST_EVIDENCE);
        }
    }

    /// Which of the empty acknowledges up to `horizon` are legal; the others are reported.
    fn explain(&mut self, core: u16, intid: u8, horizon: u64) {
        let Some(receiver) = self.receiver(core, intid) else { return };
        let mut credits = std::mem::take(&mut receiver.credits);
        let mut empty = std::mem::take(&mut receiver.empty);
        credits.sort_unstable();
        empty.sort_unstable();
        let later = empty.split_off(empty.partition_point(|(t, _)| *t <= horizon));
        receiver.empty = later;
        let mut credits = credits.into_iter().peekable();
        // Open credits, the one that ends first on top.
        let mut open = std::collections::BinaryHeap::new();
        let mut unexplained = Vec::new();
        for (t, since) in empty {
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
        // What explains an acknowledge stands in the same lane: where records of it are missing, by loss or by choice, nobody
        // can say that nothing does.
        let lane = self.lanes.get(usize::from(core) * LANES_PER_CORE + Context::Irq as usize);
        if !self.keeps_all || lane.is_none_or(|lane| lane.lost() > 0) {
            return;
        }
        for (t, since) in unexplained {
            let duplicate = since.is_some_and(|since| since <= self.probe);
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
    fn bound(&mut self, flow: usize) {
        if self.held <= MOST_WAITING {
            return;
        }
        let Some(known) = self.flows.get_mut(flow) else { return };
        let (sent, answer) = (known.sent.pop_front(), known.answers.pop_front());
        let dropped = usize::from(sent.is_some()) + usize::from(answer.is_some());
        self.held = self.held.saturating_sub(dropped);
        self.overflowed += dropped as u64;
        if let Some(tally) = sent.and_then(|sent| self.tallies.get_mut(sent.slot as usize)) {
            tally.counts.sent += 1;
            tally.counts.unknown += 1;
        }
    }

    /// Nothing more will come.
    fn flush(&mut self) {
        for flow in 0..self.flows.len() {
            self.advance(flow, true);
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
        self.missing_tails(view.as_ref());
        let recorded = info.plan.keep == Keep::All && info.plan.level != TraceLevel::Off.name();
        // Messages without an end: on their way when the run was cut short, if the records can tell that.
        let lossy = |lanes: &[LaneTally], core: u16, context: Context| {
            lanes.get(usize::from(core) * LANES_PER_CORE + context as usize).is_none_or(|lane| lane.lost() > 0)
        };
        for flow in &self.flows {
            let blind = lossy(&self.lanes, flow.to, Context::Irq) || lossy(&self.lanes, flow.from, Context::Thread);
            for sent in &flow.sent {
                let pair = self.slots.get(sent.slot as usize).map(|slot| (slot.0, slot.1));
                if pair != Some((flow.from, flow.to)) {
                    self.homeless += 1;
                } else if let Some(tally) = self.tallies.get_mut(sent.slot as usize) {
                    tally.counts.sent += 1;
                    if blind { tally.counts.unknown += 1 } else { tally.counts.in_flight += 1 }
                }
            }
        }
        // Counters that stand still, or that were read after the end of a target that died, are the truth.
        let usable = view.as_ref().filter(|view| view.quiescent || ending.is_some_and(|ending| !ending.counters_moved));
        let counters = usable.and_then(|_| counters(capture));
        let from = if counters.is_some() { From::Target } else { From::Records };
        if view.is_some() && from == From::Records {
            notes.push(
                "the newest snapshot of the counters was taken while the run went on: totals come from records".into(),
            );
        }
        let complete = view.as_ref().is_some_and(|view| view.status.state == run_state::ENDED);
        let resolution = 1.0;
        let whole: Vec<bool> = (0..self.cores)
            .map(|core| recorded && !damage.truncated && !lossy(&self.lanes, core as u16, Context::Irq))
            .collect();
        let (mut counter_slots, histograms) = counters.unwrap_or_default();
        reconcile(&mut counter_slots, self.flow_slots.values());
        let mut contradictions = 0;
        let mut saturated = 0;
        let mut slots = Vec::with_capacity(self.slots.len());
        for ((index, (from_core, to, phase, intid, state)), tally) in
            self.slots.iter().copied().enumerate().zip(&mut self.tallies)
        {
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
            slots.push(Slot {
                from: from_core,
                to,
                phase,
                intid,
                state,
                counts,
                latency,
                figures,
                exact,
                worst: tally.worst,
                probes,
            });
        }
        let misrouted = self.route(&mut slots);
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
        Ipis {
            from,
            slots,
            totals,
            receptions: self.receptions,
            duplicate: self.duplicate,
            spurious: self.spurious,
            misrouted,
            given_up: self.given_up,
            stages: self.stages,
            lanes: self.lanes,
            records: self.records,
            view,
            damage,
            notes,
        }
    }

    /// Records that the target published and that never came into the capture.
    fn missing_tails(&mut self, view: Option<&View>) {
        let Some(view) = view.filter(|view| view.quiescent) else { return };
        for (core, heads) in view.heads.iter().enumerate() {
            for (context, head) in heads.head.iter().enumerate() {
                if let Some(lane) = self.lanes.get_mut(core * LANES_PER_CORE + context) {
                    lane.missing = lane.missing.saturating_add(head.saturating_sub(lane.next));
                    lane.next = lane.next.max(*head);
                }
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

fn only(slots: &[u32]) -> Option<u32> {
    match slots {
        [one] => Some(*one),
        _ => None,
    }
}

/// The plan's pair slots: from the compiled plan in the capture, or from a snapshot.
fn slot_table(capture: &Capture) -> Vec<(u16, u16, u16, u8, ReceiverState)> {
    if let Ok(Some(bytes)) = capture.attachment(PLAN_ATTACHMENT) {
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        if let Some(room) = aligned.as_mut_bytes().get_mut(..bytes.len()) {
            room.copy_from_slice(&bytes);
        }
        if let Ok(plan) = Plan::parse(aligned.as_bytes()) {
            let slot = |slot: &trace_ring::plan::PlanSlot| {
                (slot.from, slot.to, slot.phase, slot.intid, ReceiverState::from_code(slot.state))
            };
            return plan.slots.iter().map(slot).collect();
        }
    }
    let slot = |slot: &PairSlot| (slot.from, slot.to, slot.phase, slot.intid, ReceiverState::from_code(slot.state));
    counters(capture).map_or(Vec::new(), |(slots, _)| slots.iter().map(slot).collect())
}

/// Counters and histograms of the newest snapshot.
fn counters(capture: &Capture) -> Option<(Vec<PairSlot>, Vec<u32>)> {
    let mut source = capture.snapshot()?;
    let region = Region::open(&mut source).ok()?;
    let slots = region.slots(&mut source).ok()?;
    let histograms = region.histograms(&mut source).ok()?;
    Some((slots, histograms))
}

/// A message that was answered together with a newer one of another slot (a broadcast, say) was counted where the newer one
/// belongs: the target knows no more. Its own slot gets it back.
fn reconcile<'a>(slots: &mut [PairSlot], flows: impl Iterator<Item = &'a Vec<u32>>) {
    let ended = |slot: &PairSlot| {
        slot.delivered.saturating_add(slot.coalesced).saturating_add(slot.lost).saturating_add(slot.unknown)
    };
    for flow in flows.filter(|flow| flow.len() > 1) {
        let mut surplus = 0;
        for index in flow {
            if let Some(slot) = slots.get_mut(*index as usize) {
                let moved = ended(slot).saturating_sub(slot.sent).min(slot.coalesced);
                slot.coalesced -= moved;
                surplus = moved.saturating_add(surplus);
            }
        }
        for index in flow {
            if let Some(slot) = slots.get_mut(*index as usize).filter(|_| surplus > 0) {
                let moved = slot.sent.saturating_sub(ended(slot)).min(surplus);
                slot.coalesced += moved;
                surplus -= moved;
            }
        }
        // What no slot lacks stays where it was counted.
        if let Some(slot) = flow.first().and_then(|index| slots.get_mut(*index as usize)) {
            slot.coalesced = slot.coalesced.saturating_add(surplus);
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
