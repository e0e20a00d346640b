//! A target in miniature: it does to a region and to lanes what the firmware does, in a time that a test sets by hand.
//!
//! It follows `docs/design.md`, "Outcomes": a mailbox word and a bit for each sender, one acknowledge that answers them all,
//! counters that are kept beside the records. What a test wants to go wrong, it does by hand.

pub mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use host::capture::{Attachment, CaptureWriter, Ended, Ending, LaneAccount, PLAN_ATTACHMENT, RunInfo, VerdictScope};
use host::plan::{CompiledPlan, PlanRequest, compile};
use host::report::Report;
use trace_ring::calls::{CallDescriptor, LiveEntry};
use trace_ring::histogram;
use trace_ring::layout::{
    ABI_VERSION, Context, CoreEntry, Directory, FaultEntry, HeadLine, LANES_PER_CORE, LOG_STRIDE, LaneDescriptor,
    MAGIC, NO_HISTOGRAM, PairSlot, PhaseResult, SUSPEND_UNTRIED, Truth, clock_flag, conduit, core_state, lay_out,
    run_state,
};
use trace_ring::plan::{Plan, PlanHeader, checksum};
use trace_ring::reader::Loss;
use trace_ring::record::{
    Event, FLAG_DELIVERED, FLAG_UNTIMED, Kind, PEER_ALL, PROBE_ENABLED, Retired, SLOT_SHIFT, Witness, Words,
};
use zerocopy::{FromZeros, IntoBytes};

/// The counter's frequency: QEMU `virt`'s.
pub const HZ: u64 = 62_500_000;

/// In what order the host gets the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In pieces and in turn, as a drain of a running target does.
    Pieces,
    /// Lane by lane, as from a target that stands still.
    Lanes,
    /// Lane by lane, the last one first.
    Backwards,
    /// In pieces of any length, from any lane: by this seed.
    Shuffled(u64),
}

/// What became of a record that the host never got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Overwritten before it was read.
    Lapped,
    /// Read in pieces.
    Torn,
    /// It stood in the capture, in a chunk that is damaged.
    Damaged,
    /// It stayed in the target; so did all that came after it.
    Left,
    /// The lane was full; all that came after it was turned away too.
    Dropped,
}

/// What a mailbox holds: the newest message of a pair. Its time is `u64::MAX` until it has one.
#[derive(Clone, Copy, Debug)]
struct Mail {
    t: u64,
    msg: u32,
    slot: usize,
}

/// What one acknowledge answered of one sender.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    pub from: u16,
    /// The newest message, and how many it is with the older ones.
    pub msg: u32,
    pub count: u32,
    pub delivered: bool,
}

pub struct Simulator {
    pub compiled: CompiledPlan,
    pub scope: VerdictScope,
    /// Now, ticks.
    pub now: u64,
    pub cores: Vec<CoreEntry>,
    pub slots: Vec<PairSlot>,
    pub histograms: Vec<u32>,
    pub phases: Vec<PhaseResult>,
    pub faults: Vec<FaultEntry>,
    pub truth: Vec<Truth>,
    pub state: u32,
    pub reason: u32,
    /// Records of every lane.
    pub lanes: Vec<Vec<Words>>,
    /// Records `from..to` of a lane are lost before the host sees them.
    pub lapped: BTreeMap<usize, (usize, usize)>,
    /// Other records that are missing, by lane and number.
    pub gone: BTreeMap<(usize, usize), Gone>,
    pub ended: Option<Ended>,
    pub steal: Option<f64>,
    pub with_snapshot: bool,
    pub with_plan: bool,
    pub order: Order,
    pub live: Vec<LiveEntry>,
    pub descriptors: Vec<CallDescriptor>,
    /// How far each core's clock is ahead, ticks.
    pub skew: Vec<u64>,
    /// Records of each lane that were written after the snapshot was taken.
    pub heads_behind: u64,
    /// Descriptors on each core's call single queue, and on its list of work.
    queues: Vec<[Vec<u32>; 2]>,
    /// Newest message, and newest answered, of each (from, to, INTID).
    numbers: BTreeMap<(u16, u16, u8), (u32, u32)>,
    /// The mailbox of each (from, to, INTID).
    mail: BTreeMap<(u16, u16, u8), Mail>,
    /// The bitmap of each (receiver, INTID): senders with something to answer.
    pending: BTreeMap<(u16, u8), BTreeSet<u16>>,
}

impl Simulator {
    pub fn new(request: PlanRequest) -> Self {
        let cores = usize::from(request.cores);
        let deterministic = request.deterministic;
        Simulator::of(compile(&request).expect("the plan compiles"), cores, deterministic)
    }

    fn of(compiled: CompiledPlan, cores: usize, deterministic: bool) -> Self {
        let mut aligned = vec![0_u64; compiled.blob.len().div_ceil(8)];
        aligned.as_mut_bytes()[..compiled.blob.len()].copy_from_slice(&compiled.blob);
        let plan = Plan::parse(aligned.as_bytes()).expect("the plan is one");
        let slots: Vec<PairSlot> = plan
            .slots
            .iter()
            .map(|slot| PairSlot {
                from: slot.from,
                to: slot.to,
                phase: slot.phase,
                intid: slot.intid,
                state: slot.state,
                histogram: slot.histogram,
                kind: slot.kind,
                delivery: slot.delivery,
                min: u64::MAX,
                ..PairSlot::new_zeroed()
            })
            .collect();
        let entry = |id: usize| CoreEntry {
            mpidr: ((id as u64 / 16) << 8) | (id as u64 % 16),
            midr: 0x000F_0510,
            state: core_state::UP,
            cntfrq: HZ as u32,
            read_cost_min: 1,
            resolution: 1,
            clock_flags: clock_flag::SKEW_BEFORE | clock_flag::SKEW_AFTER,
            skew_before_low: -2,
            skew_before_high: 3,
            skew_after_low: -1,
            skew_after_high: 2,
            suspend_error: SUSPEND_UNTRIED,
            ..CoreEntry::new_zeroed()
        };
        Simulator {
            scope: if deterministic { VerdictScope::Instructions } else { VerdictScope::Emulated },
            now: 1_000_000,
            cores: (0..cores).map(entry).collect(),
            histograms: vec![0; plan.header.histogram_count as usize * histogram::STRIDE],
            phases: vec![PhaseResult::new_zeroed(); plan.header.phase_count as usize],
            faults: (0..cores).map(|_| FaultEntry::new_zeroed()).collect(),
            truth: vec![Truth::default(); cores],
            state: run_state::ENDED,
            reason: 0,
            lanes: vec![Vec::new(); cores * LANES_PER_CORE],
            lapped: BTreeMap::new(),
            gone: BTreeMap::new(),
            ended: Some(Ended::Complete),
            steal: None,
            with_snapshot: true,
            with_plan: true,
            order: Order::Pieces,
            skew: vec![0; cores],
            heads_behind: 0,
            live: vec![LiveEntry::default(); cores],
            descriptors: vec![CallDescriptor::default(); plan.descriptors() as usize],
            queues: vec![Default::default(); cores],
            numbers: BTreeMap::new(),
            mail: BTreeMap::new(),
            pending: BTreeMap::new(),
            slots,
            compiled,
        }
    }

    /// Plan `matrix` of so many cores, in counted instructions.
    pub fn matrix(cores: u16) -> Self {
        Simulator::new(PlanRequest {
            plan: Some("matrix".into()),
            cores,
            deterministic: true,
            ..PlanRequest::default()
        })
    }

    /// A plan of all patterns, on a live emulator.
    pub fn standard(cores: u16) -> Self {
        Simulator::new(PlanRequest { cores, ..PlanRequest::default() })
    }

    /// Two senders, one acknowledge; then three messages of one sender, one acknowledge.
    pub fn merge(&mut self) {
        let (a, b) = (self.slot(1, 0), self.slot(2, 0));
        self.send(a, 2);
        self.now += 3;
        self.send(b, 2);
        self.now += 3;
        self.acknowledge(0, 0, self.now);
        self.now += 10;
        for _ in 0..3 {
            self.send(a, 2);
            self.now += 3;
        }
        self.acknowledge(0, 0, self.now);
    }

    /// Four cores with a loss, messages that merged, and an acknowledge that nobody explains.
    pub fn eventful() -> Self {
        let mut target = Simulator::standard(4);
        target.run(30, |from, to, round| 10 + (u64::from(from) + u64::from(to) + round) % 7);
        target.merge();
        target.lose(target.slot(0, 3));
        target.now += 10_000_000;
        target.acknowledge(2, 0, target.now);
        target
    }

    /// A record; its time is that of a clock that is right.
    pub fn emit(&mut self, core: u16, context: Context, event: Event) {
        let event = Event { t: event.t + self.skew[usize::from(core)], ..event };
        let lane = &mut self.lanes[usize::from(core) * LANES_PER_CORE + context as usize];
        lane.push(event.words(lane.len() as u64));
    }

    /// The first slot of a pair.
    pub fn slot(&self, from: u16, to: u16) -> usize {
        self.slots.iter().position(|slot| (slot.from, slot.to) == (from, to)).expect("the plan has this pair")
    }

    /// A message is sent now; its window is `window` ticks long. The SGI is not looked at.
    pub fn send(&mut self, slot: usize, window: u32) -> u32 {
        self.send_from(Context::Thread, slot, window)
    }

    /// The same, from whatever the sender does.
    pub fn send_from(&mut self, context: Context, slot: usize, window: u32) -> u32 {
        let (t, msg) = (self.now, self.post(slot, self.now));
        self.flag(slot);
        self.record_send(context, slot, msg, t, window);
        msg
    }

    /// First step of a send: the message stands in the mailbox. Its number is what it gives.
    pub fn post(&mut self, slot: usize, t: u64) -> u32 {
        let PairSlot { from, to, intid, .. } = self.slots[slot];
        let number = &mut self.numbers.entry((from, to, intid)).or_default().0;
        *number += 1;
        self.mail.insert((from, to, intid), Mail { t, msg: *number, slot });
        self.slots[slot].sent += 1;
        *number
    }

    /// Second step: its sender's bit is set. The SGI itself is whoever's who calls this.
    pub fn flag(&mut self, slot: usize) {
        let PairSlot { from, to, intid, .. } = self.slots[slot];
        self.pending.entry((to, intid)).or_default().insert(from);
    }

    /// Last step: the sender leaves its record.
    pub fn record_send(&mut self, context: Context, slot: usize, msg: u32, t: u64, window: u32) {
        let PairSlot { from, to, intid, .. } = self.slots[slot];
        let arg = (slot as u64) << SLOT_SHIFT | u64::from(window);
        self.emit(from, context, Event { t, kind: Kind::Send, flags: 0, peer: to, msg, intid, extra: 0, arg });
    }

    /// The receiver's vector is entered at `entry`; it answers whatever waits for it. Gives how many senders it answered.
    pub fn acknowledge(&mut self, core: u16, intid: u8, entry: u64) -> usize {
        let answered = self.answer(core, intid, entry, Context::Irq, 0).len();
        if answered == 0 {
            self.empty(core, intid, entry, Context::Irq);
        }
        answered
    }

    /// An acknowledge that finds nothing.
    pub fn empty(&mut self, core: u16, intid: u8, entry: u64, context: Context) {
        self.cores[usize::from(core)].empty_acknowledges += 1;
        let event =
            Event { t: entry, kind: Kind::ReceiveEmpty, flags: 0, peer: PEER_ALL, msg: 0, intid, extra: 0, arg: 0 };
        self.emit(core, context, event);
    }

    /// Answers whatever waits for a core, in a lane of its own and with flags.
    pub fn answer(&mut self, core: u16, intid: u8, entry: u64, context: Context, more: u8) -> Vec<Answered> {
        let senders = std::mem::take(self.pending.entry((core, intid)).or_default());
        self.cores[usize::from(core)].acknowledges += 1;
        let mut all = Vec::new();
        for from in senders {
            let mail = self.mail[&(from, core, intid)];
            let answered = &mut self.numbers.entry((from, core, intid)).or_default().1;
            let count = mail.msg - *answered;
            if count == 0 {
                continue; // answered with the message before it: its word was there, its bit was not yet set
            }
            let delivered = all.is_empty();
            *answered = mail.msg;
            let slot = &mut self.slots[mail.slot];
            let sent = mail.t.saturating_add(self.skew[usize::from(from)]);
            let entered = entry + self.skew[usize::from(core)];
            let timed = sent <= entered;
            slot.delivered += u64::from(delivered);
            slot.coalesced += u64::from(count) - u64::from(delivered);
            match (delivered, timed) {
                (true, false) => slot.timed_adjust = slot.timed_adjust.wrapping_sub(1),
                (false, true) => slot.timed_adjust = slot.timed_adjust.wrapping_add(1),
                _ => {}
            }
            if timed {
                let latency = entered - sent;
                slot.sum += latency;
                slot.min = slot.min.min(latency);
                slot.max = slot.max.max(latency);
                if slot.histogram != NO_HISTOGRAM {
                    self.histograms[slot.histogram as usize * histogram::STRIDE + histogram::bucket(latency)] += 1;
                }
            }
            let flags =
                more | slot.state | if delivered { FLAG_DELIVERED } else { 0 } | if timed { 0 } else { FLAG_UNTIMED };
            let arg = if timed { sent } else { 0 };
            let extra = u8::try_from(count - 1).unwrap_or(u8::MAX);
            let event = Event { t: entry, kind: Kind::Receive, flags, peer: from, msg: mail.msg, intid, extra, arg };
            self.emit(core, context, event);
            all.push(Answered { from, msg: mail.msg, count, delivered });
        }
        all
    }

    /// One message, one answer after so many ticks.
    pub fn ping(&mut self, slot: usize, latency: u64) {
        let PairSlot { to, intid, .. } = self.slots[slot];
        self.send(slot, latency.min(2) as u32);
        self.acknowledge(to, intid, self.now + latency);
        self.now += latency + 20;
    }

    /// One broadcast; `latency` of each receiver.
    pub fn broadcast(&mut self, first_slot: usize, latency: impl Fn(u16) -> u64) {
        let intid = self.slots[first_slot].intid;
        let (t, targets) = (self.now, self.post_broadcast(first_slot));
        self.stamp_broadcast(first_slot, 3);
        for to in targets {
            self.acknowledge(to, intid, t + latency(to));
        }
        self.now += 100;
    }

    /// First step of a broadcast: every other core has a message, with its bit set and no time yet. Gives those cores.
    pub fn post_broadcast(&mut self, first_slot: usize) -> Vec<u16> {
        let from = self.slots[first_slot].from;
        let targets: Vec<u16> = (0..self.cores.len() as u16).filter(|to| *to != from).collect();
        for to in &targets {
            let slot = first_slot + usize::from(*to);
            self.post(slot, u64::MAX);
            self.flag(slot);
        }
        targets
    }

    /// Second step: it is sent now, and has its time and its record.
    pub fn stamp_broadcast(&mut self, first_slot: usize, window: u32) {
        let PairSlot { from, intid, .. } = self.slots[first_slot];
        let t = self.now;
        let of_this = |mail: &&mut Mail| mail.t == u64::MAX && self.slots[mail.slot].from == from;
        self.mail.values_mut().filter(of_this).for_each(|mail| mail.t = t);
        let arg = (first_slot as u64) << SLOT_SHIFT | u64::from(window);
        let event = Event { t, kind: Kind::Send, flags: 0, peer: PEER_ALL, msg: 1, intid, extra: 0, arg };
        self.emit(from, Context::Thread, event);
    }

    /// The sender of the newest message of a slot gives it up: `seen` is what the redistributor showed.
    pub fn retire(&mut self, slot: usize, seen: u64) {
        let PairSlot { from, to, intid, .. } = self.slots[slot];
        self.now += self.compiled.meta.timeout_ns * HZ / 1_000_000_000 + 1;
        self.pending.entry((to, intid)).or_default().remove(&from);
        let (sent, answered) = self.numbers[&(from, to, intid)];
        self.numbers.insert((from, to, intid), (sent, sent));
        let count = u64::from(sent - answered);
        let reason = if seen == PROBE_ENABLED { Retired::Lost } else { Retired::Unknown };
        match reason {
            Retired::Lost => self.slots[slot].lost += count,
            Retired::Unknown => self.slots[slot].unknown += count,
        }
        let arg = seen | count;
        let (t, extra) = (self.now, reason.code());
        let event = Event { t, kind: Kind::Retire, flags: 0, peer: to, msg: sent, intid, extra, arg };
        self.emit(from, Context::Thread, event);
        self.now += 20;
    }

    /// A message that nobody takes.
    pub fn lose(&mut self, slot: usize) {
        self.send(slot, 2);
        self.retire(slot, PROBE_ENABLED);
    }

    /// The plan has its cores watch, in ns.
    pub fn watch(&mut self, heartbeat_ns: u64, gap_ns: u64) {
        let meta = &mut self.compiled.meta;
        (meta.heartbeat_ns, meta.gap_ns) = (heartbeat_ns, gap_ns);
        let blob = &mut self.compiled.blob;
        let mut put = |at: usize, bytes: &[u8]| blob[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset_of!(PlanHeader, heartbeat_ns), &heartbeat_ns.to_le_bytes());
        put(offset_of!(PlanHeader, gap_ns), &gap_ns.to_le_bytes());
        let crc = checksum(&self.compiled.blob).to_le_bytes();
        self.compiled.blob[offset_of!(PlanHeader, crc)..][..4].copy_from_slice(&crc);
    }

    /// A core notices now that it was away since then: its timer does in the IRQ handler, a polling loop in the thread.
    pub fn gap(&mut self, core: u16, context: Context, since: u64) {
        let (t, entry) = (self.now, &mut self.cores[usize::from(core)]);
        let before = entry.gaps;
        entry.gaps += 1;
        entry.gap_ticks += t - since;
        entry.gap_longest = entry.gap_longest.max(t - since);
        let witness = if context == Context::Thread { Witness::Loop } else { Witness::Timer };
        let extra = witness.code();
        let msg = before as u32;
        let (kind, arg) = (Kind::Gap, since + self.skew[usize::from(core)]);
        self.emit(core, context, Event { t, kind, flags: 0, peer: PEER_ALL, msg, intid: 0xFF, extra, arg });
    }

    /// A core takes a heartbeat now that was due then; these SGIs are pending.
    pub fn heartbeat(&mut self, core: u16, due: u64, pending: u32) {
        self.cores[usize::from(core)].heartbeats += 1;
        if pending != 0 {
            let (t, arg) = (self.now, due + self.skew[usize::from(core)]);
            let event =
                Event { t, kind: Kind::Heartbeat, flags: 0, peer: PEER_ALL, msg: pending, intid: 0xFF, extra: 0, arg };
            self.emit(core, Context::Irq, event);
        }
    }

    /// A message is sent now, so far from a transition of its receiver.
    pub fn sweep(&mut self, slot: usize, transition: u8, offset: i64) {
        let PairSlot { from, to, intid, .. } = self.slots[slot];
        let msg = self.numbers.get(&(from, to, intid)).map_or(0, |numbers| numbers.0) + 1;
        let arg = self.now.wrapping_add_signed(-offset);
        let (t, extra) = (self.now, transition);
        self.emit(from, Context::Thread, Event { t, kind: Kind::Sweep, flags: 0, peer: to, msg, intid, extra, arg });
        self.send(slot, 2);
    }

    /// Runs all timed phases: every pair so often, with the latency that `latency(from, to, round)` says.
    pub fn run(&mut self, times: u64, latency: impl Fn(u16, u16, u64) -> u64) {
        for phase in 0..self.phases.len() {
            self.begin(phase);
            if self.compiled.meta.phases[phase].timed {
                for slot in 0..self.slots.len() {
                    if usize::from(self.slots[slot].phase) == phase && self.up(slot) {
                        for round in 0..times {
                            let PairSlot { from, to, .. } = self.slots[slot];
                            self.ping(slot, latency(from, to, round));
                        }
                    }
                }
            }
            self.end(phase);
        }
    }

    fn up(&self, slot: usize) -> bool {
        let up = |core: u16| self.cores[usize::from(core)].state == core_state::UP;
        up(self.slots[slot].from) && up(self.slots[slot].to)
    }

    pub fn begin(&mut self, phase: usize) {
        self.phases[phase].started = self.now;
    }

    pub fn end(&mut self, phase: usize) {
        let result = &mut self.phases[phase];
        result.ended = self.now;
        result.elapsed += self.now - result.started;
        result.rounds += 1;
    }

    pub fn info(&self) -> RunInfo {
        RunInfo {
            created: "2026-01-02T03:04:05Z".into(),
            tool_version: "0.1.0".into(),
            source: "qemu".into(),
            machine: "virt".into(),
            board: "virt".into(),
            cpu: "max".into(),
            accel: "tcg".into(),
            verdict_scope: self.scope,
            deterministic: self.compiled.meta.deterministic,
            qemu_version: "10.0.0".into(),
            qemu_arguments: vec!["-M".into(), "virt".into()],
            tags: [("lot".to_owned(), "7".to_owned())].into(),
            plan: self.compiled.meta.clone(),
            firmware_build_id: "00ff".into(),
            nonce: 42,
            cores: self.cores.len() as u16,
            notes: Vec::new(),
        }
    }

    /// The region up to its records, as the target left it.
    pub fn region_prefix(&self) -> Vec<u8> {
        let mut aligned = vec![0_u64; self.compiled.blob.len().div_ceil(8)];
        aligned.as_mut_bytes()[..self.compiled.blob.len()].copy_from_slice(&self.compiled.blob);
        let plan = Plan::parse(aligned.as_bytes()).expect("the plan is one");
        let (sections, region_len) = lay_out(plan.shape());
        let mut region = vec![0; sections.records as usize];
        let mut directory = Directory::new_zeroed();
        directory.magic = MAGIC;
        directory.version = ABI_VERSION;
        directory.header_len = size_of::<Directory>() as u32;
        directory.nonce = 42;
        directory.region_len = region_len;
        directory.counter_hz = HZ;
        directory.sections = sections;
        directory.core_count = self.cores.len() as u32;
        directory.slot_count = self.slots.len() as u32;
        directory.histogram_count = plan.header.histogram_count;
        directory.phase_count = self.phases.len() as u32;
        directory.descriptor_count = self.descriptors.len() as u32;
        directory.log_stride = LOG_STRIDE as u32;
        directory.gicd_typer = 0x78_0400;
        directory.gicd_iidr = 0x43B;
        directory.gicd_pidr2 = 0x30;
        directory.entry_el = 1;
        directory.run_el = 1;
        directory.psci_conduit = conduit::HVC;
        directory.trace_level = 1;
        directory.status.state = self.state;
        directory.status.reason = self.reason;
        directory.status.rounds = 1;
        directory.status.cores_up = self.cores.iter().filter(|core| core.state == core_state::UP).count() as u32;
        directory.status.started = 1_000_000;
        directory.status.ended = self.now;
        let head_line = |(core, lanes): (usize, &[Vec<Words>])| {
            let dropped = std::array::from_fn(|lane| self.count_gone(core * LANES_PER_CORE + lane, Gone::Dropped));
            let head = |lane: usize| (lanes[lane].len() as u64).saturating_sub(self.heads_behind + dropped[lane]);
            HeadLine { head: std::array::from_fn(head), dropped }
        };
        let heads: Vec<HeadLine> = self.lanes.chunks(LANES_PER_CORE).enumerate().map(head_line).collect();
        let mut offset = sections.records;
        let mut descriptors = Vec::new();
        for (core, program) in plan.programs.iter().enumerate() {
            for (context, log2) in program.log2_records.iter().enumerate() {
                descriptors.push(LaneDescriptor {
                    offset,
                    log2_records: u32::from(*log2),
                    context: context as u16,
                    core: core as u16,
                    reserved: [0; 2],
                });
                offset += 32 << log2;
            }
        }
        let mut put = |offset: u64, bytes: &[u8]| {
            region[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        };
        put(0, directory.as_bytes());
        put(sections.cores, self.cores.as_bytes());
        put(sections.heads, heads.as_bytes());
        put(sections.lanes, descriptors.as_bytes());
        put(sections.phases, self.phases.as_bytes());
        put(sections.slots, self.slots.as_bytes());
        put(sections.histograms, self.histograms.as_bytes());
        put(sections.faults, self.faults.as_bytes());
        put(sections.truth, self.truth.as_bytes());
        put(sections.live, self.live.as_bytes());
        put(sections.calls, self.descriptors.as_bytes());
        region
    }

    fn count_gone(&self, lane: usize, what: Gone) -> u64 {
        self.gone.range((lane, 0)..(lane + 1, 0)).filter(|(_, gone)| **gone == what).count() as u64
    }

    /// What became of a record, if the host has not got it.
    fn gone(&self, lane: usize, record: usize) -> Option<Gone> {
        let lapped = self.lapped.get(&lane).is_some_and(|(from, to)| (*from..*to).contains(&record));
        if lapped { Some(Gone::Lapped) } else { self.gone.get(&(lane, record)).copied() }
    }

    pub fn ending(&self, ended: Ended) -> Ending {
        let lane = |(index, lane): (usize, &Vec<Words>)| {
            let lapped = self.lapped.get(&index).map_or(0, |(from, to)| (to - from) as u64);
            let [lapped_too, torn, left, dropped] =
                [Gone::Lapped, Gone::Torn, Gone::Left, Gone::Dropped].map(|gone| self.count_gone(index, gone));
            let lapped = lapped + lapped_too;
            let written = lane.len() as u64;
            LaneAccount {
                core: (index / LANES_PER_CORE) as u16,
                context: (index % LANES_PER_CORE) as u8,
                written,
                accepted: written - lapped - torn - dropped - left,
                lapped,
                torn,
                dropped,
                left,
            }
        };
        Ending {
            lanes: self.lanes.iter().enumerate().map(lane).collect(),
            steal: self.steal,
            ..Ending::new(ended, 1.5)
        }
    }

    /// The lanes in pieces: index, first record, the one behind the last. Each lane in its own order.
    fn pieces(&self) -> Vec<(usize, usize, usize)> {
        let mut pieces = Vec::new();
        let whole = |index: usize| (index, 0, self.lanes[index].len());
        match self.order {
            Order::Lanes => pieces.extend((0..self.lanes.len()).map(whole)),
            Order::Backwards => pieces.extend((0..self.lanes.len()).rev().map(whole)),
            Order::Pieces => {
                let piece = 100;
                let longest = self.lanes.iter().map(Vec::len).max().unwrap_or(0);
                for start in (0..longest).step_by(piece) {
                    for (index, lane) in self.lanes.iter().enumerate() {
                        pieces.push((index, start.min(lane.len()), (start + piece).min(lane.len())));
                    }
                }
            }
            Order::Shuffled(seed) => {
                let mut next = vec![0; self.lanes.len()];
                let mut state = seed | 1;
                let mut draw = |below: usize| {
                    // xorshift64*
                    state ^= state >> 12;
                    state ^= state << 25;
                    state ^= state >> 27;
                    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
                };
                while let left =
                    (0..next.len()).filter(|index| next[*index] < self.lanes[*index].len()).collect::<Vec<_>>()
                    && !left.is_empty()
                {
                    let index = left[draw(left.len())];
                    let end = (next[index] + 1 + draw(9)).min(self.lanes[index].len());
                    pieces.push((index, next[index], end));
                    next[index] = end;
                }
            }
        }
        pieces
    }

    /// Writes a capture, as a drain would.
    pub fn write(&self, path: &Path) {
        let plan = Attachment {
            name: PLAN_ATTACHMENT.into(),
            media_type: "application/octet-stream".into(),
            data: self.compiled.blob.clone(),
        };
        let attachments = if self.with_plan { vec![plan] } else { Vec::new() };
        let mut writer = CaptureWriter::create(path, &self.info(), &attachments).expect("created");
        for (index, start, end) in self.pieces() {
            let (lane, core) = (&self.lanes[index], (index / LANES_PER_CORE) as u16);
            let context = (index % LANES_PER_CORE) as u8;
            let mut at = start;
            while at < end {
                let gone = self.gone(index, at);
                let until = (at..end).find(|record| self.gone(index, *record) != gone).unwrap_or(end);
                let (first, count) = (at as u64, (until - at) as u64);
                match gone {
                    None => {
                        let bytes: Vec<u8> =
                            lane[at..until].iter().flat_map(|words| words.as_bytes().to_vec()).collect();
                        writer.lane_records(core, context, first, &bytes).expect("written");
                    }
                    Some(Gone::Damaged | Gone::Left) => {}
                    Some(gone) => {
                        let cause = match gone {
                            Gone::Torn => Loss::Torn,
                            Gone::Dropped => Loss::Dropped,
                            _ => Loss::Lapped,
                        };
                        writer.lane_loss(core, context, first, count, cause).expect("written");
                    }
                }
                at = until;
            }
            writer.flush_if_due().expect("flushed");
        }
        if self.with_snapshot {
            writer.snapshot(&self.region_prefix()).expect("written");
        }
        writer.console("START\nEND\n").expect("written");
        match self.ended {
            Some(ended) => writer.finish(&self.ending(ended)).expect("finished"),
            None => {
                // What a kill leaves: nothing after the last flush.
                std::thread::sleep(std::time::Duration::from_millis(260));
                writer.flush_if_due().expect("flushed");
                std::mem::forget(writer);
            }
        }
    }

    pub fn report(&self) -> Report {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.mcap");
        self.write(&path);
        host::report::build(&path).expect("a report")
    }

    pub fn saved(&self, folder: &Path) -> PathBuf {
        let path = folder.join("run.mcap");
        self.write(&path);
        path
    }
}

impl Simulator {
    /// Whether any message waits for this core.
    pub fn waits(&self, core: u16) -> bool {
        self.pending.iter().any(|((to, _), senders)| *to == core && !senders.is_empty())
    }

    /// Whether the newest message of this slot's pair waits, and is of this slot.
    pub fn waits_for(&self, slot: usize) -> bool {
        let PairSlot { from, to, intid, .. } = self.slots[slot];
        let flagged = self.pending.get(&(to, intid)).is_some_and(|senders| senders.contains(&from));
        flagged && self.mail.get(&(from, to, intid)).is_some_and(|mail| mail.slot == slot)
    }

    /// Newest message of a slot's pair, and newest that was answered or given up.
    pub fn numbers(&self, slot: usize) -> (u32, u32) {
        let PairSlot { from, to, intid, .. } = self.slots[slot];
        self.numbers.get(&(from, to, intid)).copied().unwrap_or_default()
    }
}
