//! Calls: which queued descriptor was run when, where and by which function; what stood on each queue over time.
//!
//! A call is told by up to three lanes: its caller's (`Queued`, and the send behind it) and its target's (`FunctionEntry` and
//! `FunctionExit`). They come in any order. A descriptor serves one call at a time and knows how often it was used, so both
//! sides of a call are found by descriptor, target, the low bits of that number, and time.
//!
//! Always: `queued = executed + not_executed + in_flight + unknown`. What lossy lanes can't tell is unknown, never claimed.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;
use trace_ring::calls::{IpiKind, descriptors_per_core};
use trace_ring::layout::Context;
use trace_ring::record::{Event, FLAG_SYNCHRONOUS, code_address};

use super::stages::{Interrupts, Stage};
use crate::stats::Samples;

/// The most calls that wait for their other side.
const MOST_WAITING: usize = 4 << 20;

/// The most pieces of evidence of one kind that are kept.
const MOST_EVIDENCE: usize = 1024;

/// The most changes of queues that are kept, on all cores together: 8 bytes each.
const MOST_CHANGES: usize = 16 << 20;

/// Sets of callback durations that are kept (one for each function, argument and core), and the values of all of them.
const MOST_SETS: usize = 1 << 16;
const MOST_VALUES: usize = 8 << 20;

/// Arguments of one function that are told apart.
const MOST_ARGUMENTS: usize = 8;

/// Points of a queue's series, and of all together.
const BUCKETS: u64 = 512;
const MOST_BUCKETS: u64 = 1 << 15;

/// How far a search goes among the uses of one descriptor: the two sides of a call are neighbours there.
const REACH: usize = 64;

/// What became of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallCounts {
    /// Calls that were put on a queue.
    pub queued: u64,
    /// Their function was run, or is running.
    pub executed: u64,
    /// It was not, and never will be.
    pub not_executed: u64,
    /// It was not, when the run was cut short.
    pub in_flight: u64,
    /// Records are missing that would tell.
    pub unknown: u64,
    /// Executions of a call that had been executed before. Not in the sum.
    pub twice: u64,
    /// Executions that nobody queued. Not in the sum.
    pub orphaned: u64,
    /// Calls whose caller waits until the function has run.
    pub synchronous: u64,
    /// Calls that needed no SGI of their own: their queue was not empty.
    pub sends_saved: u64,
}

impl CallCounts {
    /// Whether the sum rule holds. It always does; callers assert it.
    pub const fn is_whole(&self) -> bool {
        self.queued == self.executed + self.not_executed + self.in_flight + self.unknown
    }
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who called.
    pub caller: u16,
    /// Who was called.
    pub target: u16,
    /// Address of the function.
    pub function: u64,
    /// Address behind the call; 0: its record is missing.
    pub call_site: u64,
    /// The descriptor's index.
    pub descriptor: u32,
    /// The queue that it stood on.
    pub kind: IpiKind,
    /// The caller waited.
    pub synchronous: bool,
    /// When it was queued, ticks.
    pub queued: Option<u64>,
    /// When its own SGI was sent, ticks; `None`: it needed none, or nobody knows.
    pub sent: Option<u64>,
    /// When its function began, ticks.
    pub entry: Option<u64>,
    /// When its function ended, ticks.
    pub exit: Option<u64>,
}

/// How long one function took on one core.
#[derive(Clone, Debug)]
pub struct Callback {
    /// Its address.
    pub function: u64,
    /// Low bits of its argument; `None`: of several, because there are too many to tell apart.
    pub info: Option<u32>,
    /// The core.
    pub core: u16,
    /// Its durations, ticks.
    pub samples: Samples,
}

/// What stood on a core's queue over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Depth {
    /// The core.
    pub core: u16,
    /// The queue: that of SGI 1, or that of the core's own work.
    pub kind: IpiKind,
    /// The most calls that stood on it together.
    pub max: u64,
    /// When they first did, ticks.
    pub max_at: u64,
    /// The mean over the run, by time.
    pub mean: f64,
    /// From when on (ticks) which depth was the greatest, in equal pieces of the run.
    pub series: Vec<(u64, u64)>,
}

/// Callers that waited longer than T for descriptors of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who waited.
    pub caller: u16,
    /// For whom.
    pub target: u16,
    /// How often.
    pub count: u64,
    /// The longest wait when its record was written, ticks.
    pub longest: u64,
    /// The descriptor of that wait.
    pub descriptor: u32,
}

/// All that records say of calls.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// What became of them.
    pub counts: CallCounts,
    /// Calls to each core: queued, and of those not executed.
    pub targets: Vec<(u64, u64)>,
    /// How long functions took.
    pub callbacks: Vec<Callback>,
    /// The queues that anything was put on.
    pub depths: Vec<Depth>,
    /// When the depths begin, ticks.
    pub origin: u64,
    /// Calls that were never executed, the first ones.
    pub lost: Vec<Call>,
    /// Calls that were on their way when the run was cut short, some of them.
    pub pending: Vec<Call>,
    /// Second executions, the first ones.
    pub twice: Vec<Call>,
    /// Executions that nobody queued, the first ones.
    pub orphaned: Vec<Call>,
    /// The calls that waited longest for their execution, the longest first.
    pub slowest: Vec<Call>,
    /// Waits for locks, by caller and target.
    pub waits: Vec<Waiting>,
    /// What the reader should know, one sentence each.
    pub notes: Vec<String>,
}

impl Calls {
    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.counts == CallCounts::default() && self.waits.is_empty()
    }
}

/// The calls that waited longest are kept, so many of them.
const SLOWEST: usize = 16;

/// The caller's side of a call.
#[derive(Clone, Copy, Debug)]
struct Queued {
    t: u64,
    sent: Option<u64>,
    function: u32,
    site: u32,
    caller: u16,
    target: u16,
    generation: u8,
    intid: u8,
    synchronous: bool,
}

/// The target's side.
#[derive(Clone, Copy, Debug)]
struct Entry {
    t: u64,
    exit: Option<u64>,
    function: u32,
    info: u32,
    descriptor: u32,
    caller: u16,
    target: u16,
    generation: u8,
    intid: u8,
    synchronous: bool,
    /// The execution before it, of the same descriptor at the same target, was of the same use.
    again: bool,
}

/// What waits of one descriptor, by time.
#[derive(Debug, Default)]
struct Line {
    queued: VecDeque<Queued>,
    entries: VecDeque<Entry>,
}

/// What was found to have no other side, by the core whose lanes decide whether that is certain.
#[derive(Clone, Copy, Debug, Default)]
struct Lonely {
    /// Of a target: calls to it that were passed over.
    skipped: u64,
    /// Of a target: calls to it that were open when the records ended.
    open: u64,
    /// Of a caller: executions that nobody queued.
    orphaned: u64,
    /// Of a caller: second executions.
    twice: u64,
    /// Of a target: all calls to it.
    queued: u64,
}

/// Joins calls from records as they come.
#[derive(Debug)]
pub(super) struct CallJoiner {
    cores: usize,
    /// Queued calls whose send was not seen yet, by core, for the thread's lane and the IRQ handler's.
    pending: Vec<[Vec<(u32, Queued)>; 2]>,
    /// Words of a send to many whose last one did not come yet.
    masks: Vec<[Vec<(u16, u64)>; 2]>,
    /// The callback that runs, by core.
    running: Vec<Option<Entry>>,
    lines: Vec<Line>,
    /// The use of a descriptor that was executed last at a target.
    last: HashMap<(u32, u16), u8>,
    held: usize,
    lonely: Vec<Lonely>,
    counts: CallCounts,
    /// By function, argument and core.
    sets: HashMap<(u32, u32, u16), Samples>,
    /// The arguments of each function, and whether there were more than can be told apart.
    arguments: HashMap<u32, (Vec<u32>, bool)>,
    sets_missing: u64,
    /// Changes of each queue: time times two, plus one where a call left it. By core, for SGI 1 and for the core's own work.
    changes: Vec<[Vec<u64>; 2]>,
    changed: usize,
    changes_missing: u64,
    /// Calls to a core that executed a later use of the same descriptor.
    skipped: Vec<Call>,
    /// Calls that were open when the records ended.
    open: Vec<Call>,
    twice: Vec<Call>,
    orphaned: Vec<Call>,
    slowest: Vec<Call>,
    waits: BTreeMap<(u16, u16), (u64, u64, u32)>,
    overflowed: u64,
    bad: u64,
    /// How far clocks of cores may be apart, ticks.
    slack: u64,
}

/// What must be known of a run to say what became of its calls.
pub(super) struct Ending<'a> {
    /// Whether records of a core's lane are missing.
    pub(super) lossy: &'a dyn Fn(u16, Context) -> bool,
    /// The plan ran to its end.
    pub(super) complete: bool,
    /// When the plan began and ended, ticks; 0 where nobody knows.
    pub(super) span: (u64, u64),
}

const fn kind_of(intid: u8) -> IpiKind {
    if intid == IpiKind::IrqWork.intid() { IpiKind::IrqWork } else { IpiKind::CallFunction }
}

/// The place of a lane that calls: thread, or IRQ handler.
const fn place(context: u8) -> usize {
    (context == Context::Irq as u8) as usize
}

impl CallJoiner {
    /// `slack`: how far clocks of cores may be apart, ticks.
    pub(super) fn new(cores: usize, slack: u64) -> Self {
        CallJoiner {
            cores,
            pending: std::iter::repeat_with(Default::default).take(cores).collect(),
            masks: std::iter::repeat_with(Default::default).take(cores).collect(),
            running: vec![None; cores],
            lines: Vec::new(),
            last: HashMap::new(),
            held: 0,
            lonely: vec![Lonely::default(); cores],
            counts: CallCounts::default(),
            sets: HashMap::new(),
            arguments: HashMap::new(),
            sets_missing: 0,
            changes: std::iter::repeat_with(Default::default).take(cores).collect(),
            changed: 0,
            changes_missing: 0,
            skipped: Vec::new(),
            open: Vec::new(),
            twice: Vec::new(),
            orphaned: Vec::new(),
            slowest: Vec::new(),
            waits: BTreeMap::new(),
            overflowed: 0,
            bad: 0,
            slack,
        }
    }

    /// Whether a descriptor is one of `caller`'s, and the other core is one.
    fn sane(&mut self, descriptor: u32, caller: u16, target: u16) -> bool {
        let each = descriptors_per_core(self.cores as u32);
        let sane = descriptor / each == u32::from(caller)
            && usize::from(caller) < self.cores
            && usize::from(target) < self.cores;
        self.bad += u64::from(!sane);
        sane
    }

    /// A `Queued` of `core`.
    pub(super) fn queued(&mut self, core: u16, context: u8, event: &Event, stages: &mut Interrupts) {
        if !self.sane(event.msg, core, event.peer) {
            return;
        }
        let call = Queued {
            t: event.t,
            sent: None,
            function: event.arg as u32,
            site: (event.arg >> 32) as u32,
            caller: core,
            target: event.peer,
            generation: event.extra,
            intid: event.intid,
            synchronous: event.flags & FLAG_SYNCHRONOUS != 0,
        };
        let Some(pending) = self.pending.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(place(context)))
        else {
            return;
        };
        pending.push((event.msg, call));
        // Calls that needed no SGI stay until the next send: those of two calls to every core are enough to tell.
        if pending.len() > 2 * self.cores + 2 {
            let saved: Vec<_> = pending.drain(..self.cores).collect();
            self.counts.sends_saved += saved.len() as u64;
            for (descriptor, call) in saved {
                self.join_queued(descriptor, call, stages);
            }
        }
    }

    /// A `Send` of `core`: that of the call before it, if it goes to the same core on the same INTID.
    pub(super) fn sent(&mut self, core: u16, context: u8, event: &Event, stages: &mut Interrupts) {
        self.resolve(core, context, event, |target| target == event.peer, stages);
    }

    /// A word of a `SendMask` of `core`.
    pub(super) fn sent_many(&mut self, core: u16, context: u8, event: &Event, stages: &mut Interrupts) {
        let Some(words) = self.masks.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(place(context))) else {
            return;
        };
        words.push((event.peer, event.arg));
        if event.extra > 0 && words.len() < 16 {
            return;
        }
        let words = std::mem::take(words);
        let within = |target: u16| {
            words
                .iter()
                .any(|(first, mask)| target.checked_sub(*first).is_some_and(|bit| bit < 64 && mask >> bit & 1 == 1))
        };
        self.resolve(core, context, event, within, stages);
    }

    /// The newest pending call to each target of a send made it; all others needed none.
    fn resolve(
        &mut self,
        core: u16,
        context: u8,
        event: &Event,
        within: impl Fn(u16) -> bool,
        stages: &mut Interrupts,
    ) {
        let Some(pending) = self.pending.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(place(context)))
        else {
            return;
        };
        if pending.is_empty() {
            return;
        }
        let mut pending = std::mem::take(pending);
        if let [(_, call)] = pending.as_mut_slice() {
            call.sent = (call.intid == event.intid && within(call.target)).then_some(event.t);
        } else {
            let mut told = std::collections::HashSet::new();
            for (_, call) in pending.iter_mut().rev() {
                if call.intid == event.intid && within(call.target) && told.insert(call.target) {
                    call.sent = Some(event.t);
                }
            }
        }
        for (descriptor, call) in pending.drain(..) {
            match call.sent.and_then(|sent| sent.checked_sub(call.t)) {
                Some(took) => stages.push(Stage::QueueToSend, call.caller, call.intid, took),
                None => self.counts.sends_saved += u64::from(call.sent.is_none()),
            }
            self.join_queued(descriptor, call, stages);
        }
        // The room is used again.
        if let Some(place) = self.pending.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(place(context))) {
            *place = pending;
        }
    }

    /// Nothing that stands before this in the lane is the send of a call that waits for one.
    pub(super) fn saved(&mut self, core: u16, context: u8, stages: &mut Interrupts) {
        let pending = self.pending.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(place(context)));
        for (descriptor, call) in pending.map(std::mem::take).unwrap_or_default() {
            self.counts.sends_saved += 1;
            self.join_queued(descriptor, call, stages);
        }
    }

    /// A `FunctionEntry` of `core`.
    pub(super) fn entry(&mut self, core: u16, event: &Event, stages: &mut Interrupts) {
        self.close(core, stages);
        if !self.sane(event.msg, event.peer, core) {
            return;
        }
        if self.last.len() >= MOST_WAITING {
            self.last.clear();
        }
        let again = self.last.insert((event.msg, core), event.extra) == Some(event.extra);
        let entry = Entry {
            t: event.t,
            exit: None,
            function: event.arg as u32,
            info: (event.arg >> 32) as u32,
            descriptor: event.msg,
            caller: event.peer,
            target: core,
            generation: event.extra,
            intid: event.intid,
            synchronous: event.flags & FLAG_SYNCHRONOUS != 0,
            again,
        };
        if let Some(running) = self.running.get_mut(usize::from(core)) {
            *running = Some(entry);
        }
    }

    /// A `FunctionExit` of `core`.
    pub(super) fn exit(&mut self, core: u16, event: &Event, stages: &mut Interrupts) {
        let Some(running) = self.running.get_mut(usize::from(core)) else { return };
        let own = |entry: &mut Entry| (entry.descriptor, entry.generation) == (event.msg, event.extra);
        if let Some(mut entry) = running.take_if(own) {
            entry.exit = Some(event.t);
            if let Some(took) = event.t.checked_sub(entry.t) {
                self.took(&entry, took);
            }
            self.join_entry(entry, stages);
        }
    }

    /// The callback of `core` whose end is not known is handed on as it is.
    fn close(&mut self, core: u16, stages: &mut Interrupts) {
        if let Some(entry) = self.running.get_mut(usize::from(core)).and_then(Option::take) {
            self.join_entry(entry, stages);
        }
    }

    /// A `CallWait` of `core`.
    pub(super) fn waited(&mut self, core: u16, event: &Event) {
        if usize::from(event.peer) >= self.cores {
            self.bad += 1;
            return;
        }
        let (count, longest, descriptor) = self.waits.entry((core, event.peer)).or_default();
        *count += 1;
        if event.arg >= *longest {
            (*longest, *descriptor) = (event.arg, event.msg);
        }
    }

    /// Records of a lane are missing: what waits for the next one waits in vain.
    pub(super) fn forget(&mut self, core: u16, context: u8, stages: &mut Interrupts) {
        if context == Context::Irq as u8 {
            self.close(core, stages);
            // Whether a call was executed twice in a row can't be told over a gap.
            self.last.retain(|(_, target), _| *target != core);
        }
        if context > Context::Irq as u8 {
            return;
        }
        if let Some(words) = self.masks.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(place(context))) {
            words.clear();
        }
        let pending = self.pending.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(place(context)));
        for (descriptor, call) in pending.map(std::mem::take).unwrap_or_default() {
            self.join_queued(descriptor, call, stages);
        }
    }

    /// How long a function took.
    fn took(&mut self, entry: &Entry, ticks: u64) {
        let Entry { function, info, target, .. } = *entry;
        let known = self.sets.contains_key(&(function, info, target));
        if !known && self.sets.len() >= MOST_SETS {
            self.sets_missing += 1;
            return;
        }
        let (arguments, more) = self.arguments.entry(function).or_default();
        if !arguments.contains(&info) {
            if arguments.len() < MOST_ARGUMENTS { arguments.push(info) } else { *more = true }
        }
        let info = if *more { 0 } else { info };
        // So many cores, so few values of each.
        let limit = (MOST_VALUES / (self.cores * 4 * MOST_ARGUMENTS)).clamp(256, 1 << 16);
        let set = self.sets.entry((function, info, target)).or_insert_with(|| Samples::new(limit));
        set.push(ticks);
    }

    fn line(&mut self, descriptor: u32) -> &mut Line {
        // `sane` has bounded it.
        let at = descriptor as usize;
        if self.lines.len() <= at {
            self.lines.resize_with(at + 1, Line::default);
        }
        &mut self.lines[at]
    }

    fn join_queued(&mut self, descriptor: u32, call: Queued, stages: &mut Interrupts) {
        self.counts.queued += 1;
        self.counts.synchronous += u64::from(call.synchronous);
        if let Some(lonely) = self.lonely.get_mut(usize::from(call.target)) {
            lonely.queued += 1;
        }
        let slack = self.slack;
        let line = self.line(descriptor);
        // Of the executions that may be its own, the nearest in time.
        let own = |entry: &Entry| {
            (entry.target, entry.generation) == (call.target, call.generation)
                && entry.t.saturating_add(slack) >= call.t
        };
        let middle = line.entries.partition_point(|entry| entry.t < call.t);
        let Some(at) = nearest(&line.entries, middle, own, |entry| entry.t.abs_diff(call.t)) else {
            let at = line.queued.partition_point(|queued| queued.t <= call.t);
            line.queued.insert(at, call);
            self.held += 1;
            self.bound(descriptor);
            return;
        };
        let entry = line.entries.remove(at);
        // The context that uses a descriptor is one, and its lane comes in order: those before have lost their caller's side.
        let mut before: Vec<Entry> = Vec::new();
        for at in (at.saturating_sub(REACH)..at).rev() {
            if line.entries.get(at).is_some_and(|entry| entry.t.saturating_add(slack) < call.t) {
                before.extend(line.entries.remove(at));
            }
        }
        self.held = self.held.saturating_sub(1 + before.len());
        for entry in before {
            self.unqueued(entry);
        }
        if let Some(entry) = entry {
            self.executed(call, entry, stages);
        }
    }

    fn join_entry(&mut self, entry: Entry, stages: &mut Interrupts) {
        let slack = self.slack;
        let line = self.line(entry.descriptor);
        let own = |queued: &Queued| {
            (queued.target, queued.generation) == (entry.target, entry.generation)
                && queued.t <= entry.t.saturating_add(slack)
        };
        let middle = line.queued.partition_point(|queued| queued.t <= entry.t);
        let Some(at) = nearest(&line.queued, middle, own, |queued| queued.t.abs_diff(entry.t)) else {
            let at = line.entries.partition_point(|other| other.t <= entry.t);
            line.entries.insert(at, entry);
            self.held += 1;
            self.bound(entry.descriptor);
            return;
        };
        let call = line.queued.remove(at);
        // Executions at one target come in order: the uses before it have lost theirs, or never had one.
        let mut before: Vec<Queued> = Vec::new();
        for at in (at.saturating_sub(REACH)..at).rev() {
            if line.queued.get(at).is_some_and(|queued| queued.target == entry.target) {
                before.extend(line.queued.remove(at));
            }
        }
        self.held = self.held.saturating_sub(1 + before.len());
        for queued in before {
            if let Some(lonely) = self.lonely.get_mut(usize::from(queued.target)) {
                lonely.skipped += 1;
            }
            keep(&mut self.skipped, || not_run(entry.descriptor, &queued));
        }
        if let Some(call) = call {
            self.executed(call, entry, stages);
        }
    }

    /// Both sides of a call.
    fn executed(&mut self, call: Queued, entry: Entry, stages: &mut Interrupts) {
        self.counts.executed += 1;
        // Clocks that are apart must not make a wait negative.
        let begun = entry.t.max(call.t);
        stages.push(Stage::QueueToCallback, entry.target, entry.intid, begun - call.t);
        self.change(call.target, call.intid, call.t, Some(begun));
        let whole = Call {
            caller: call.caller,
            target: call.target,
            function: code_address(entry.function),
            call_site: code_address(call.site),
            descriptor: entry.descriptor,
            kind: kind_of(call.intid),
            synchronous: call.synchronous,
            queued: Some(call.t),
            sent: call.sent,
            entry: Some(entry.t),
            exit: entry.exit,
        };
        let wait = begun - call.t;
        // Of equals the one that comes first by time, whatever the order of the lanes.
        let rank = |call: &Call| (waited(call), std::cmp::Reverse((call.queued, call.descriptor)));
        let place = match self.slowest.last() {
            Some(last) if self.slowest.len() >= SLOWEST && wait < waited(last) => return,
            _ => self.slowest.partition_point(|other| rank(other) > rank(&whole)),
        };
        self.slowest.insert(place, whole);
        self.slowest.truncate(SLOWEST);
    }

    fn change(&mut self, core: u16, intid: u8, from: u64, until: Option<u64>) {
        if self.changed >= MOST_CHANGES {
            self.changes_missing += 1;
            return;
        }
        let queue = usize::from(intid == IpiKind::IrqWork.intid());
        if let Some(list) = self.changes.get_mut(usize::from(core)).and_then(|queues| queues.get_mut(queue)) {
            let time = |t: u64| t.min(u64::MAX >> 1) << 1;
            list.push(time(from));
            list.extend(until.map(|until| time(until) | 1));
            self.changed += 2;
        }
    }

    /// An execution that no record queued.
    fn unqueued(&mut self, entry: Entry) {
        if let Some(lonely) = self.lonely.get_mut(usize::from(entry.caller)) {
            *(if entry.again { &mut lonely.twice } else { &mut lonely.orphaned }) += 1;
        }
        keep(if entry.again { &mut self.twice } else { &mut self.orphaned }, || Call {
            caller: entry.caller,
            target: entry.target,
            function: code_address(entry.function),
            call_site: 0,
            descriptor: entry.descriptor,
            kind: kind_of(entry.intid),
            synchronous: entry.synchronous,
            queued: None,
            sent: None,
            entry: Some(entry.t),
            exit: entry.exit,
        });
    }

    /// Keeps what waits within bounds.
    fn bound(&mut self, descriptor: u32) {
        if self.held <= MOST_WAITING {
            return;
        }
        let line = self.line(descriptor);
        let (queued, entry) = (line.queued.pop_front(), line.entries.pop_front());
        let dropped = usize::from(queued.is_some()) + usize::from(entry.is_some());
        self.held = self.held.saturating_sub(dropped);
        self.overflowed += dropped as u64;
        // A call of which one side is known: it was one.
        self.counts.unknown += u64::from(queued.is_some());
    }

    pub(super) fn finish(mut self, ending: &Ending<'_>, stages: &mut Interrupts) -> Calls {
        for core in 0..self.cores as u16 {
            for context in [Context::Thread, Context::Irq] {
                // A call whose caller was cut short before its send needed one, perhaps.
                if ending.complete && !(ending.lossy)(core, context) {
                    self.saved(core, context as u8, stages);
                }
                self.forget(core, context as u8, stages);
            }
        }
        let mut lines = std::mem::take(&mut self.lines);
        for (descriptor, line) in (0..).zip(&mut lines) {
            for call in line.queued.drain(..) {
                if let Some(lonely) = self.lonely.get_mut(usize::from(call.target)) {
                    lonely.open += 1;
                }
                keep(&mut self.open, || not_run(descriptor, &call));
                // It stands on its queue to this day, if its execution is not merely missing from the records.
                if !(ending.lossy)(call.target, Context::Irq) {
                    self.change(call.target, call.intid, call.t, None);
                }
            }
            for entry in line.entries.drain(..) {
                self.unqueued(entry);
            }
        }
        drop(lines);
        // What was given up for want of room may have been the other side of anything.
        let lossy = |core: u16, context: Context| self.overflowed > 0 || (ending.lossy)(core, context);
        let blind_target: Vec<bool> = (0..self.cores as u16).map(|core| lossy(core, Context::Irq)).collect();
        let blind_caller: Vec<bool> =
            (0..self.cores as u16).map(|core| lossy(core, Context::Irq) || lossy(core, Context::Thread)).collect();
        let blind = |list: &[bool], core: u16| list.get(usize::from(core)).copied().unwrap_or(true);
        let mut targets: Vec<(u64, u64)> = Vec::with_capacity(self.cores);
        for (core, lonely) in (0..).zip(&self.lonely) {
            let mut never = 0;
            if blind(&blind_target, core) {
                self.counts.unknown += lonely.skipped + lonely.open;
            } else {
                never = lonely.skipped + if ending.complete { lonely.open } else { 0 };
                self.counts.not_executed += never;
                self.counts.in_flight += if ending.complete { 0 } else { lonely.open };
            }
            if blind(&blind_caller, core) {
                // Its `Queued` is among what is missing.
                self.counts.queued += lonely.orphaned + lonely.twice;
                self.counts.executed += lonely.orphaned + lonely.twice;
            } else {
                self.counts.orphaned += lonely.orphaned;
                self.counts.twice += lonely.twice;
            }
            targets.push((lonely.queued, never));
        }
        let certain = |calls: Vec<Call>, doubtful: &dyn Fn(&Call) -> bool| {
            let mut calls: Vec<Call> = calls.into_iter().filter(|call| !doubtful(call)).collect();
            calls.sort_by_key(|call| (call.queued.or(call.entry), call.descriptor));
            calls
        };
        let caller = |call: &Call| blind(&blind_caller, call.caller);
        let target = |call: &Call| blind(&blind_target, call.target);
        let mut lost = self.skipped;
        if ending.complete {
            lost.append(&mut self.open);
        }
        let pending = certain(self.open, &target);
        let mut notes = Vec::new();
        for (count, what) in [
            (self.bad, "records of calls are damaged and were left out"),
            (self.overflowed, "calls were given up because too many waited for records that did not come"),
            (self.sets_missing, "callbacks have no figures: too many functions and arguments"),
            (self.changes_missing, "calls are missing from the queue depths: too many to keep"),
        ] {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        }
        let (origin, depths) = depths(std::mem::take(&mut self.changes), ending.span);
        let mut callbacks: Vec<Callback> = Vec::new();
        let mut merged: BTreeMap<(u32, u16), Samples> = BTreeMap::new();
        for ((function, info, core), samples) in self.sets {
            if self.arguments.get(&function).is_some_and(|(_, more)| *more) {
                match merged.entry((function, core)) {
                    std::collections::btree_map::Entry::Occupied(mut all) => all.get_mut().merge(&samples),
                    std::collections::btree_map::Entry::Vacant(place) => {
                        place.insert(samples);
                    }
                }
            } else {
                callbacks.push(Callback { function: code_address(function), info: Some(info), core, samples });
            }
        }
        callbacks.extend(merged.into_iter().map(|((function, core), samples)| Callback {
            function: code_address(function),
            info: None,
            core,
            samples,
        }));
        callbacks.sort_by_key(|callback| (callback.function, callback.info, callback.core));
        assert!(self.counts.is_whole(), "calls don't add up: {:?}", self.counts);
        Calls {
            counts: self.counts,
            targets,
            callbacks,
            depths,
            origin,
            lost: certain(lost, &target),
            pending,
            twice: certain(self.twice, &caller),
            orphaned: certain(self.orphaned, &caller),
            slowest: self.slowest,
            waits: self
                .waits
                .into_iter()
                .map(|((caller, target), (count, longest, descriptor))| Waiting {
                    caller,
                    target,
                    count,
                    longest,
                    descriptor,
                })
                .collect(),
            notes,
        }
    }
}

/// The place of the nearest one around `middle`.
fn nearest<T>(
    list: &VecDeque<T>,
    middle: usize,
    own: impl Fn(&T) -> bool,
    distance: impl Fn(&T) -> u64,
) -> Option<usize> {
    let low = middle.saturating_sub(REACH);
    let near = (low..).zip(list.range(low..middle.saturating_add(REACH).min(list.len())));
    near.filter(|(_, item)| own(item)).min_by_key(|(_, item)| distance(item)).map(|(at, _)| at)
}

/// How long a call waited for its execution, ticks.
fn waited(call: &Call) -> u64 {
    call.entry.zip(call.queued).map_or(0, |(entry, queued)| entry.saturating_sub(queued))
}

/// A call whose function was not run, as far as records say.
fn not_run(descriptor: u32, call: &Queued) -> Call {
    Call {
        caller: call.caller,
        target: call.target,
        function: code_address(call.function),
        call_site: code_address(call.site),
        descriptor,
        kind: kind_of(call.intid),
        synchronous: call.synchronous,
        queued: Some(call.t),
        sent: call.sent,
        entry: None,
        exit: None,
    }
}

fn keep(list: &mut Vec<Call>, call: impl FnOnce() -> Call) {
    if list.len() < MOST_EVIDENCE {
        list.push(call());
    }
}

/// The depth of each queue over time, and when the series begin.
fn depths(changes: Vec<[Vec<u64>; 2]>, span: (u64, u64)) -> (u64, Vec<Depth>) {
    let times = || changes.iter().flatten().flatten().map(|change| change >> 1);
    let (Some(first), Some(last)) = (times().min(), times().max()) else { return (span.0, Vec::new()) };
    let start = if span.0 > 0 { span.0.min(first) } else { first };
    let end = span.1.max(last).max(start + 1);
    let queues = changes.iter().flatten().filter(|list| !list.is_empty()).count() as u64;
    let buckets = (MOST_BUCKETS / queues.max(1)).clamp(32, BUCKETS);
    let width = (end - start).div_ceil(buckets).max(1);
    let mut depths = Vec::new();
    for (core, queues) in (0..).zip(changes) {
        for (mut list, kind) in queues.into_iter().zip([IpiKind::CallFunction, IpiKind::IrqWork]) {
            if list.is_empty() {
                continue;
            }
            list.sort_unstable();
            depths.push(depth(core, kind, &list, (start, end), width));
        }
    }
    (start, depths)
}

fn depth(core: u16, kind: IpiKind, changes: &[u64], (start, end): (u64, u64), width: u64) -> Depth {
    let (mut now, mut max, mut max_at, mut area, mut since) = (0_u64, 0, start, 0_u128, start);
    // The greatest depth of the piece of time that is under way, and when it began.
    let (mut greatest, mut piece) = (0, start);
    let mut series: Vec<(u64, u64)> = Vec::new();
    let mut put = |at: u64, depth: u64| {
        if series.last().is_none_or(|(_, before)| *before != depth) {
            series.push((at, depth));
        }
    };
    for change in changes {
        let t = change >> 1;
        if t - piece >= width {
            put(piece, greatest);
            let next = start + (t - start) / width * width;
            if next - piece > width {
                // Nothing changed in between.
                put(piece + width, now);
            }
            (greatest, piece) = (now, next);
        }
        area += u128::from(now) * u128::from(t - since);
        since = t;
        if change & 1 == 0 {
            now += 1
        } else {
            now = now.saturating_sub(1)
        }
        greatest = greatest.max(now);
        if now > max {
            (max, max_at) = (now, t);
        }
    }
    put(piece, greatest);
    if end - piece > width {
        put(piece + width, now);
    }
    area += u128::from(now) * u128::from(end - since);
    Depth { core, kind, max, max_at, mean: area as f64 / (end - start) as f64, series }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls that stood on the queue from then until then.
    fn changes(calls: &[(u64, Option<u64>)]) -> Vec<[Vec<u64>; 2]> {
        let mut joiner = CallJoiner::new(1, 2);
        for (from, until) in calls {
            joiner.change(0, IpiKind::CallFunction.intid(), *from, *until);
        }
        joiner.changes
    }

    #[test]
    fn depth_is_counted_over_time_and_thinned_without_losing_its_peaks() {
        // Pieces are ten ticks long: the run takes 5120.
        let calls = [(100, Some(105)), (101, Some(104)), (2000, Some(2500)), (2001, Some(2002)), (5000, None)];
        let (origin, depths) = depths(changes(&calls), (90, 5210));
        assert_eq!((origin, depths.len()), (90, 1));
        let depth = &depths[0];
        assert_eq!((depth.core, depth.max, depth.max_at), (0, 2, 101));
        let expected = [(90, 0), (100, 2), (110, 0), (2000, 2), (2010, 1), (2510, 0), (5000, 1)];
        assert_eq!(depth.series, expected);
        let area = 5 + 3 + 500 + 1 + 210;
        assert!((depth.mean - f64::from(area) / 5120.0).abs() < 1e-9, "{}", depth.mean);
    }

    #[test]
    fn a_call_that_comes_and_goes_in_one_tick_was_there() {
        let (origin, depths) = depths(changes(&[(7, Some(7)), (7, Some(7))]), (0, 0));
        assert_eq!((origin, depths[0].max, depths[0].max_at), (7, 2, 7));
        assert_eq!(depths[0].series.len(), 1);
        // Times at the very end of the counter don't overflow anything.
        let (_, depths) = super::depths(changes(&[(u64::MAX, Some(u64::MAX)), (3, None)]), (u64::MAX, 1));
        assert_eq!(depths[0].max, 2);
    }

    #[test]
    fn what_is_no_descriptor_of_its_caller_is_damage() {
        let mut joiner = CallJoiner::new(4, 2);
        let each = descriptors_per_core(4);
        assert!(joiner.sane(0, 0, 3) && joiner.sane(4 * each - 1, 3, 0));
        for (descriptor, caller, target) in [(each, 0, 1), (4 * each, 4, 0), (0, 0, 4), (u32::MAX, u16::MAX, 0)] {
            assert!(!joiner.sane(descriptor, caller, target), "{descriptor} {caller} {target}");
        }
        assert_eq!(joiner.bad, 4);
    }
}
