//! From the events of a Linux trace to IPIs: which entry answered which raise, and what became of the calls.
//!
//! A kernel's trace names no message, so the rule is that of the hardware, which has one pending bit for each CPU and kind: an entry
//! answers all raises to its CPU and reason that were open then, the oldest as delivered, the others as coalesced with it. Every
//! one of them waited from its own raise to that entry. The two events that newer kernels log for one IPI are one send: `ipi_send_*`
//! says who asked for what, `ipi_raise` when. Where events were lost, what was open on that CPU is unknown, not late. Entries that
//! nobody raised are told apart and blamed on nobody: a kernel that takes a CPU offline makes some.

use std::collections::{BTreeMap, HashMap};

use linux_trace::{Event, Mask, Name, What};
use trace_ring::calls::IpiKind;
use trace_ring::layout::{CoreEntry, Directory, LANES_PER_CORE, Status, clock_flag, core_state, run_state};
use trace_ring::record::ReceiverState;
use zerocopy::FromZeros;

use super::calls::{Call, CallCounts, Callback, Calls};
use super::message::{Hear, Heard, Message, Outcome};
use super::stages::{Stage, StageFigures};
use super::witness::{Excused, GapTotals, Recovered, Series};
use super::{Counts, Free, From, Ipis, LaneTally, MOST_EVIDENCE, Probes, Slot, View};
use crate::capture::{Capture, CaptureError};
use crate::linux::{Decoder, Table};
use crate::reason::{self, kind};
use crate::stats::{Figures, Samples, Summary};

/// The calls that waited longest are kept, so many of them: as on bare metal.
const MOST_SLOWEST: usize = 64;

/// Latencies that are kept as they are, of each pair and stage; beyond, percentiles come from a histogram, so that a trace of any length is
/// read in bounded memory.
const KEPT: usize = 1 << 16;

/// The same of each sender, receiver, reason and callback, of which there are more.
const KEPT_OF_PATH: usize = 1 << 12;

/// Calls that wait for their function, of all queues; more come of garbage.
const MOST_CALLS: usize = 1 << 20;

/// An IPI that is open at the end counts as unanswered where it waits so many times as long as the longest that was answered.
const UNANSWERED_TIMES: u64 = 2;

/// And at least so long, ns: a trace that is cut in the middle of an IPI is the rule.
const UNANSWERED_LEAST_NS: u64 = 10_000_000;

/// What a Linux trace tells beside what every capture does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linux {
    /// Who sent from where: sender, call site, reason, and how many IPIs (one for each target), the most first.
    pub call_sites: Vec<CallSite>,
    /// Latencies by sender, receiver, reason and callback, those with the longest first.
    pub paths: Vec<PathFigures>,
    /// Handlers that began without a raise in the trace, by CPU and reason.
    pub unannounced: Vec<(u16, String, u64)>,
    /// IPIs that were never answered.
    pub unanswered: Vec<Unanswered>,
    /// IPIs to CPUs of which the trace holds no event at all.
    pub unseen: u64,
    /// Names of the reasons, by INTID of the slots.
    pub reasons: Vec<String>,
    /// Whether the trace's time stamps are times.
    pub timed: bool,
}

/// Who sent from where.
#[derive(Clone, Debug, PartialEq)]
pub struct CallSite {
    /// The sender.
    pub from: u16,
    /// The place in the kernel, as it prints it; empty: not told (`ipi_raise` alone).
    pub site: String,
    /// Which IPI.
    pub reason: String,
    /// How many, one for each target.
    pub count: u64,
}

/// Latencies of the IPIs of one sender, receiver, reason and callback.
#[derive(Clone, Debug, PartialEq)]
pub struct PathFigures {
    /// The sender.
    pub from: u16,
    /// The receiver.
    pub to: u16,
    /// Which IPI, as the kernel words it.
    pub reason: String,
    /// What its handler was asked to call; empty: not told.
    pub callback: String,
    /// Latencies, ns.
    pub latency: Summary,
}

/// An IPI that was never answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Unanswered {
    /// Who sent it.
    pub from: u16,
    /// To whom.
    pub to: u16,
    /// Which IPI.
    pub reason: String,
    /// When, ns of the trace's clock.
    pub t: u64,
    /// How long until the end of the trace, ns.
    pub age: u64,
}

/// An IPI on its way.
struct Raised {
    /// What is known of it so far.
    message: Message,
    t: u64,
    /// Its target was at work on an IPI then, or had one like it open: that explains the wait.
    busy: bool,
}

/// What `ipi_send_*` said, until its `ipi_raise` comes.
struct Asked {
    targets: Mask,
    callsite: Name,
    /// What the handler will call: the queued function where this is for a call that was just queued.
    callback: Name,
    /// When the call was put on the queue that this is for.
    queued: Option<u64>,
}

/// A pair's latencies while they are gathered.
struct Gathered {
    from: u16,
    to: u16,
    reason: Name,
    state: ReceiverState,
    counts: Counts,
    samples: Samples,
    /// Those that no handler and no other IPI explains.
    free: Samples,
    worst: Option<(u64, u64)>,
}

struct Queued {
    caller: u16,
    t: u64,
    callsite: Name,
}

/// What is known of one CPU.
#[derive(Default)]
struct Cpu {
    events: u64,
    lost: u64,
    asked: Option<Asked>,
    /// The newest call that this CPU queued: for whom, when, and the function.
    queued: Option<(u16, u64, Name)>,
    /// The handler that runs: why, and since when.
    handler: Option<(Name, u64)>,
    /// The callback that runs: which call, and since when.
    callback: Option<(Name, u64)>,
    idle: Option<u32>,
    seen_idle: bool,
    up: bool,
}

/// IPIs of one sender, receiver, reason and callback while they are gathered.
struct Path {
    samples: Samples,
    worst: u64,
}

struct Joiner<'a, 'b> {
    table: &'a Table,
    hear: Option<&'a mut Hear<'b>>,
    cpus: Vec<Cpu>,
    slots: HashMap<(u16, u16, Name, u8), usize>,
    gathered: Vec<Gathered>,
    open: BTreeMap<(u16, Name), Vec<Raised>>,
    paths: HashMap<(u16, u16, Name, Name), Path>,
    sites: HashMap<(u16, Name, Name), u64>,
    unannounced: BTreeMap<(u16, Name), u64>,
    stages: BTreeMap<(Stage, Option<IpiKind>, u16), Samples>,
    calls: HashMap<(u16, u64), Queued>,
    counts: CallCounts,
    targets: Vec<(u64, u64)>,
    callbacks: BTreeMap<(Name, u16), Samples>,
    slowest: Vec<Call>,
    /// The kernel logs raises: sends alone are no IPIs then.
    raises: bool,
    queues: bool,
    states: bool,
    timed: bool,
    first: Option<u64>,
    latest: u64,
    longest: u64,
    /// IPIs, and those of them that count.
    told: u64,
    picked: u64,
    /// Functions that ran without having been queued in the trace.
    unqueued: u64,
}

/// Reads a Linux capture.
pub(super) fn correlate(capture: &Capture, table: &Table, hear: Option<&mut Hear<'_>>) -> Result<Ipis, CaptureError> {
    let cores = usize::from(capture.info().cores);
    let mut joiner = Joiner::new(table, cores, hear);
    let mut decoder = Decoder::new(table);
    let mut next = 0;
    let mut missing = 0;
    let damage = capture.linux_rows(|first, rows| {
        if first != next {
            // A damaged chunk: nothing of what is open can be told.
            missing += 1;
            joiner.cut_all();
        }
        next = first + (rows.len() / crate::linux::ROW_BYTES) as u64;
        decoder.events(rows, |event| joiner.event(event));
    })?;
    let strange = decoder.strange;
    let mut ipis = joiner.finish(capture);
    ipis.damage = damage;
    if missing > 0 || next < table.rows {
        ipis.notes.push("a part of the trace is missing in the capture: IPIs that were open there are unknown".into());
    }
    if strange > 0 {
        ipis.notes.push(format!("{strange} rows of the capture are of a newer version, and were left out"));
    }
    Ok(ipis)
}

impl<'a, 'b> Joiner<'a, 'b> {
    fn new(table: &'a Table, cores: usize, hear: Option<&'a mut Hear<'b>>) -> Self {
        Joiner {
            table,
            hear,
            cpus: (0..cores).map(|_| Cpu::default()).collect(),
            slots: HashMap::new(),
            gathered: Vec::new(),
            open: BTreeMap::new(),
            paths: HashMap::new(),
            sites: HashMap::new(),
            unannounced: BTreeMap::new(),
            stages: BTreeMap::new(),
            calls: HashMap::new(),
            counts: CallCounts::default(),
            targets: vec![(0, 0); cores],
            callbacks: BTreeMap::new(),
            slowest: Vec::new(),
            raises: table.count("ipi_raise") > 0,
            queues: table.count("csd_queue_cpu") > 0,
            states: table.count("cpu_idle") > 0,
            timed: table.resolution_ns > 0,
            first: None,
            latest: 0,
            longest: 0,
            told: 0,
            picked: 0,
            unqueued: 0,
        }
    }

    fn event(&mut self, event: &Event) {
        let (t, at) = (event.t, event.cpu);
        self.first.get_or_insert(t);
        self.latest = self.latest.max(t);
        let Some(cpu) = self.cpus.get_mut(usize::from(at)) else { return };
        cpu.events += 1;
        match event.what {
            What::SendCpu { cpu: to, callsite, callback } => {
                let mut targets = Mask::default();
                targets.insert(to.into());
                self.send(event, targets, callsite, callback);
            }
            What::SendMask { targets, callsite, callback } => self.send(event, targets, callsite, callback),
            What::Raise { targets, reason } => {
                let asked = cpu.asked.take();
                let fits =
                    |asked: &Asked| asked.targets.is_empty() || targets.iter().all(|to| asked.targets.contains(to));
                let asked = asked.filter(fits);
                let (site, callback) =
                    asked.as_ref().map_or((Name::NONE, Name::NONE), |asked| (asked.callsite, asked.callback));
                if let Some(queued) = asked.and_then(|asked| asked.queued) {
                    self.stage(Stage::QueueToSend, reason, at, t.saturating_sub(queued));
                }
                self.raise(event, targets, reason, site, callback);
            }
            What::Entry { reason } => {
                cpu.handler = Some((reason, t));
                cpu.up = true;
                self.entry(at, t, reason);
            }
            What::Exit { reason } => {
                cpu.callback = None;
                if let Some((began, since)) = cpu.handler.take().filter(|(began, _)| *began == reason) {
                    self.stage(Stage::EntryToExit, began, at, t.saturating_sub(since));
                }
            }
            What::Queue { cpu: to, callsite, csd, function } => {
                cpu.queued = Some((to, t, function));
                self.queue(at, to, t, callsite, csd);
            }
            What::FunctionEntry { function, csd } => {
                cpu.callback = Some((function, t));
                self.begun(at, t, function, csd);
            }
            What::FunctionExit { function, .. } => {
                if let Some((began, since)) = cpu.callback.take().filter(|(began, _)| *began == function) {
                    self.ran(began, at, t.saturating_sub(since));
                }
            }
            What::Idle { state } => {
                cpu.idle = state;
                cpu.seen_idle = true;
            }
            What::Lost { count } => {
                cpu.lost += count.unwrap_or(1);
                self.cut(at);
            }
            What::IrqEntry { .. } | What::IrqExit { .. } | What::Switch { .. } | What::Mark { .. } => {}
        }
    }

    /// `ipi_send_*`: kept for its raise, or the send itself where the trace has no raises.
    fn send(&mut self, event: &Event, targets: Mask, callsite: Name, callback: Name) {
        let Event { t, cpu: at, .. } = *event;
        let Some(cpu) = self.cpus.get_mut(usize::from(at)) else { return };
        let queued = cpu.queued.take().filter(|(to, ..)| targets.contains(*to));
        // The handler of calls calls what is on the queue.
        let called = queued.map(|(.., function)| function).filter(|function| !function.is_none()).unwrap_or(callback);
        let queued = queued.map(|(_, t, _)| t);
        if self.raises {
            cpu.asked = Some(Asked { targets, callsite, callback: called, queued });
            return;
        }
        // What the handler will be is told by the callback alone.
        let words = reason::of_callback(self.table.name(callback));
        let reason = self.table.names.iter().position(|name| name == words).unwrap_or(0);
        let reason = Name(u32::try_from(reason).unwrap_or(0));
        if let Some(queued) = queued {
            self.stage(Stage::QueueToSend, reason, at, t.saturating_sub(queued));
        }
        self.raise(event, targets, reason, callsite, called);
    }

    fn raise(&mut self, event: &Event, targets: Mask, reason: Name, site: Name, callback: Name) {
        let Event { t, cpu: from, .. } = *event;
        let cores = self.cpus.len();
        let kind = kind(self.table.name(reason));
        for to in targets.iter().filter(|to| usize::from(*to) < cores) {
            let message = Message {
                kind,
                reason,
                state: self.state(to),
                sent: Some(t),
                callback,
                callsite: site,
                task: event.comm,
                pid: event.pid,
                ..Message::new(Some(from), to)
            };
            let mut raised = Raised { message, t, busy: false };
            if self.table.unordered {
                self.settle(raised, None, Outcome::Unknown);
                continue;
            }
            let open = self.open.entry((to, reason)).or_default();
            raised.busy = !open.is_empty() || self.cpus[usize::from(to)].handler.is_some();
            open.push(raised);
        }
    }

    /// An IPI has its outcome: it is told, and counted where it shall count.
    fn settle(&mut self, raised: Raised, entry: Option<u64>, outcome: Outcome) -> bool {
        let Raised { mut message, t, busy } = raised;
        let latency = entry.filter(|_| self.timed).map(|entry| entry.saturating_sub(t));
        (message.entry, message.latency, message.outcome) = (entry, latency, Some(outcome));
        self.told += 1;
        if let Some(hear) = &mut self.hear
            && !hear(&message)
        {
            return false;
        }
        self.picked += 1;
        let Message { to, reason, callback, .. } = message;
        let from = message.from.unwrap_or_default();
        *self.sites.entry((from, message.callsite, reason)).or_default() += 1;
        let slot = self.slot(from, to, reason, message.state);
        let slot = &mut self.gathered[slot];
        slot.counts.sent += 1;
        match outcome {
            Outcome::Delivered => slot.counts.delivered += 1,
            Outcome::Coalesced => slot.counts.coalesced += 1,
            Outcome::Lost => slot.counts.lost += 1,
            Outcome::Misrouted => slot.counts.misrouted += 1,
            Outcome::InFlight => slot.counts.in_flight += 1,
            Outcome::Unknown => slot.counts.unknown += 1,
        }
        let Some((entry, latency)) = entry.zip(latency) else { return true };
        slot.samples.push(latency);
        if !busy {
            slot.free.push(latency);
        }
        if slot.worst.is_none_or(|(_, worst)| latency > worst) {
            slot.worst = Some((entry, latency));
        }
        let key = (Stage::SendToEntry, message.kind, to);
        self.stages.entry(key).or_insert_with(|| Samples::new(KEPT)).push(latency);
        let path = self.paths.entry((from, to, reason, callback));
        let path = path.or_insert_with(|| Path { samples: Samples::new(KEPT_OF_PATH), worst: 0 });
        path.samples.push(latency);
        path.worst = path.worst.max(latency);
        true
    }

    /// What a CPU was doing, where the trace says so.
    fn state(&self, cpu: u16) -> ReceiverState {
        match self.cpus.get(usize::from(cpu)) {
            Some(Cpu { seen_idle: true, idle: Some(0), .. }) if self.states => ReceiverState::Wfi,
            Some(Cpu { seen_idle: true, idle: Some(_), .. }) if self.states => ReceiverState::Suspend,
            _ => ReceiverState::Unknown,
        }
    }

    fn slot(&mut self, from: u16, to: u16, reason: Name, state: ReceiverState) -> usize {
        let gathered = &mut self.gathered;
        *self.slots.entry((from, to, reason, state.code())).or_insert_with(|| {
            gathered.push(Gathered {
                from,
                to,
                reason,
                state,
                counts: Counts::default(),
                samples: Samples::new(KEPT),
                free: Samples::new(KEPT),
                worst: None,
            });
            gathered.len() - 1
        })
    }

    fn entry(&mut self, at: u16, t: u64, reason: Name) {
        if self.table.unordered {
            return;
        }
        let Some(raised) = self.open.get_mut(&(at, reason)).filter(|raised| !raised.is_empty()) else {
            *self.unannounced.entry((at, reason)).or_default() += 1;
            return;
        };
        for (index, raised) in std::mem::take(raised).into_iter().enumerate() {
            let outcome = if index == 0 { Outcome::Delivered } else { Outcome::Coalesced };
            self.longest = self.longest.max(if self.timed { t.saturating_sub(raised.t) } else { 0 });
            self.settle(raised, Some(t), outcome);
        }
    }

    fn stage(&mut self, stage: Stage, reason: Name, at: u16, length: u64) {
        if self.timed {
            let key = (stage, kind(self.table.name(reason)), at);
            self.stages.entry(key).or_insert_with(|| Samples::new(KEPT)).push(length);
        }
    }

    fn queue(&mut self, caller: u16, target: u16, t: u64, callsite: Name, csd: u64) {
        self.counts.queued += 1;
        if let Some((queued, _)) = self.targets.get_mut(usize::from(target)) {
            *queued += 1;
        }
        // Without its number (marks, hidden pointers) a call can't be followed.
        if csd == 0 || self.calls.len() >= MOST_CALLS {
            self.counts.unknown += 1;
            return;
        }
        if self.calls.insert((target, csd), Queued { caller, t, callsite }).is_some() {
            // It was queued again before its function was seen: events of that CPU are missing.
            self.counts.unknown += 1;
        }
    }

    fn begun(&mut self, at: u16, t: u64, function: Name, csd: u64) {
        let Some(call) = self.calls.remove(&(at, csd)) else {
            // A trace that begins in the middle, or a path that no tracepoint shows: nobody's fault.
            self.unqueued += 1;
            return;
        };
        self.counts.executed += 1;
        if !self.timed {
            return;
        }
        let waited = t.saturating_sub(call.t);
        let key = (Stage::QueueToCallback, Some(IpiKind::CallFunction), at);
        self.stages.entry(key).or_insert_with(|| Samples::new(KEPT)).push(waited);
        if self.slowest.len() < MOST_SLOWEST || self.slowest.last().is_some_and(|last| waited > wait(last)) {
            let call = Call {
                caller: call.caller,
                target: at,
                function: function.0.into(),
                call_site: call.callsite.0.into(),
                descriptor: 0,
                kind: IpiKind::CallFunction,
                synchronous: false,
                queued: Some(call.t),
                sent: None,
                entry: Some(t),
                exit: None,
            };
            let place = self.slowest.partition_point(|other| wait(other) >= waited);
            self.slowest.insert(place, call);
            self.slowest.truncate(MOST_SLOWEST);
        }
    }

    fn ran(&mut self, function: Name, at: u16, length: u64) {
        if self.timed {
            self.callbacks.entry((function, at)).or_insert_with(|| Samples::new(KEPT)).push(length);
            let key = (Stage::Callback, Some(IpiKind::CallFunction), at);
            self.stages.entry(key).or_insert_with(|| Samples::new(KEPT)).push(length);
        }
    }

    /// Events of a CPU are missing: what waits for one of them is unknown.
    fn cut(&mut self, at: u16) {
        let open = self.open.range_mut((at, Name(0))..=(at, Name(u32::MAX)));
        let cut: Vec<Raised> = open.flat_map(|(_, raised)| std::mem::take(raised)).collect();
        for raised in cut {
            self.settle(raised, None, Outcome::Unknown);
        }
        let before = self.calls.len();
        self.calls.retain(|(target, _), _| *target != at);
        self.counts.unknown += (before - self.calls.len()) as u64;
        if let Some(cpu) = self.cpus.get_mut(usize::from(at)) {
            (cpu.asked, cpu.queued, cpu.handler, cpu.callback) = (None, None, None, None);
            (cpu.idle, cpu.seen_idle) = (None, false);
        }
    }

    fn cut_all(&mut self) {
        for at in 0..self.cpus.len() {
            self.cut(at as u16);
        }
    }

    fn finish(mut self, capture: &Capture) -> Ipis {
        let resolution = self.table.resolution_ns.max(1);
        let mut linux = Linux { timed: self.timed, ..Linux::default() };
        let patience = (self.longest.saturating_mul(UNANSWERED_TIMES)).max(UNANSWERED_LEAST_NS);
        for ((to, reason), raised) in std::mem::take(&mut self.open) {
            for raised in raised {
                let Raised { t, message, .. } = raised;
                let age = self.latest.saturating_sub(t);
                if self.timed && age <= patience {
                    self.settle(raised, None, Outcome::InFlight);
                    continue;
                }
                // Whether its target had interrupts open, no trace says.
                if !self.settle(raised, None, Outcome::Unknown) {
                    continue;
                }
                // Of a CPU that never says anything, the trace holds nothing: it is that of one CPU, or of some.
                if self.cpus.get(usize::from(to)).is_none_or(|cpu| cpu.events == 0) {
                    linux.unseen += 1;
                } else if self.timed && linux.unanswered.len() < MOST_EVIDENCE {
                    let (from, reason) = (message.from.unwrap_or_default(), self.table.name(reason).to_owned());
                    linux.unanswered.push(Unanswered { from, to, reason, t, age });
                }
            }
        }
        linux.unanswered.sort_by_key(|unanswered| unanswered.t);
        self.counts.in_flight = self.calls.len() as u64;
        let name = |name: Name| self.table.name(name).to_owned();
        linux.unannounced =
            self.unannounced.iter().map(|((cpu, reason), count)| (*cpu, name(*reason), *count)).collect();
        let mut sites: Vec<CallSite> = self
            .sites
            .iter()
            .map(|((from, site, reason), count)| CallSite {
                from: *from,
                site: name(*site),
                reason: name(*reason),
                count: *count,
            })
            .collect();
        sites.sort_by(|a, b| (b.count, a.from, &a.site, &a.reason).cmp(&(a.count, b.from, &b.site, &b.reason)));
        linux.call_sites = sites;
        let mut paths: Vec<_> = std::mem::take(&mut self.paths).into_iter().collect();
        paths.sort_by_key(|((from, to, reason, callback), path)| {
            (std::cmp::Reverse(path.worst), *from, *to, *reason, *callback)
        });
        let figures = paths.into_iter().filter_map(|((from, to, reason, callback), path)| {
            let latency = Figures::of_samples(path.samples).summary(resolution as f64)?;
            Some(PathFigures { from, to, reason: name(reason), callback: name(callback), latency })
        });
        linux.paths = figures.collect();
        let mut totals = Counts::default();
        self.gathered.sort_by_key(|slot| (slot.reason, slot.from, slot.to, slot.state.code()));
        let mut slots = Vec::new();
        for gathered in std::mem::take(&mut self.gathered) {
            let Gathered { from, to, reason, state, counts, samples, free, worst } = gathered;
            totals.add(&counts);
            let words = self.table.name(reason);
            let intid = linux.reasons.iter().position(|known| known == words).unwrap_or_else(|| {
                linux.reasons.push(words.into());
                linux.reasons.len() - 1
            });
            let busy = free.len() < samples.len();
            let exact = samples.is_exact();
            let (mut figures, mut free) = (Figures::of_samples(samples), Figures::of_samples(free));
            slots.push(Slot {
                from,
                to,
                phase: 0,
                intid: u8::try_from(intid).unwrap_or(u8::MAX),
                state,
                kind: kind(words),
                reason: kind(words).is_none().then(|| words.into()),
                delivery: None,
                counts,
                latency: figures.summary(resolution as f64),
                figures,
                exact,
                worst,
                free: busy.then(|| Free { latency: free.summary(resolution as f64), figures: free }),
                probes: Probes::default(),
                excused: Excused::default(),
                recovered: Recovered::default(),
                backwards: 0,
            });
        }
        let notes = self.notes(&linux, &totals);
        let stages = std::mem::take(&mut self.stages);
        let stages =
            stages.into_iter().map(|((stage, kind, core), samples)| StageFigures { stage, kind, core, samples });
        let callbacks = std::mem::take(&mut self.callbacks).into_iter();
        let callbacks = callbacks.map(|((function, core), samples)| Callback {
            function: function.0.into(),
            info: None,
            core,
            samples,
        });
        let calls = Calls {
            counts: self.counts,
            targets: std::mem::take(&mut self.targets),
            callbacks: callbacks.collect(),
            origin: self.first.unwrap_or(0),
            slowest: std::mem::take(&mut self.slowest),
            ..Calls::default()
        };
        let cores = self.cpus.len();
        let mut lanes = vec![LaneTally::default(); cores * LANES_PER_CORE];
        for (cpu, lane) in self.cpus.iter().zip(lanes.iter_mut().step_by(LANES_PER_CORE)) {
            *lane = LaneTally {
                next: cpu.events + cpu.lost,
                records: cpu.events,
                lapped: cpu.lost,
                ..LaneTally::default()
            };
        }
        Ipis {
            from: From::Records,
            slots,
            totals,
            receptions: Vec::new(),
            duplicate: 0,
            spurious: 0,
            misrouted: Vec::new(),
            given_up: Vec::new(),
            stages: stages.collect(),
            calls: (self.queues || self.counts != CallCounts::default()).then_some(calls),
            watching: None,
            gaps: Vec::new(),
            gap_totals: vec![GapTotals::default(); cores],
            step_backs: Vec::new(),
            sweeps: Vec::new(),
            series: Series::default(),
            latest: self.latest,
            records: self.cpus.iter().map(|cpu| cpu.events).sum(),
            lanes,
            view: Some(self.view(capture)),
            damage: Default::default(),
            linux: Some(linux),
            heard: self.hear.is_some().then_some(Heard { told: self.told, counted: self.picked }),
            notes,
        }
    }

    fn notes(&self, linux: &Linux, totals: &Counts) -> Vec<String> {
        let mut notes = Vec::new();
        let unannounced: u64 = linux.unannounced.iter().map(|(.., count)| count).sum();
        if unannounced > 0 {
            notes.push(format!(
                "{} began without a raise in the trace: sent before it began, or by paths that no tracepoint \
                 shows (CPUs that go offline)",
                plural(unannounced, "handler")
            ));
        }
        if self.queues && self.unqueued > 0 {
            notes.push(format!("{} ran that no event of the trace queued", plural(self.unqueued, "function")));
        }
        if totals.in_flight > 0 {
            notes.push(format!("{} on the way when the trace ends", plural(totals.in_flight, "IPI")));
        }
        if linux.unseen > 0 {
            notes.push(format!(
                "{} went to CPUs of which the trace holds nothing: what became of them is unknown",
                plural(linux.unseen, "IPI")
            ));
        }
        notes
    }

    /// The machine as far as a trace shows it: CPUs and a clock of ns.
    fn view(&self, capture: &Capture) -> View {
        let entry = |_| CoreEntry {
            // One without events was idle, or offline: a trace does not say which.
            state: core_state::UP,
            cntfrq: 1_000_000_000,
            resolution: self.table.resolution_ns as u32,
            clock_flags: clock_flag::TESTED_AFTER,
            ..CoreEntry::new_zeroed()
        };
        let cores = u32::from(capture.info().cores);
        View {
            directory: Directory { counter_hz: 1_000_000_000, core_count: cores, ..Directory::new_zeroed() },
            status: Status {
                state: run_state::ENDED,
                started: self.first.unwrap_or(0),
                ended: self.latest,
                ..Status::new_zeroed()
            },
            cores: self.cpus.iter().map(entry).collect(),
            heads: Vec::new(),
            phases: Vec::new(),
            truth: Vec::new(),
            faults: Vec::new(),
            live: Vec::new(),
            descriptors: Vec::new(),
            quiescent: true,
        }
    }
}

fn wait(call: &Call) -> u64 {
    call.queued.zip(call.entry).map_or(0, |(queued, entry)| entry.saturating_sub(queued))
}

fn plural(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
