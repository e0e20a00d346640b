//! The call layer's part of the compiler: function calls, IPI kinds, chains, and the patterns made of them.
//!
//! An IPI kind is counted in pair slots of its own. Operations that choose their targets on the machine (calls, ticks, work) name
//! a *row*: a slot for each core as receiver, in the order of ids. Rows are made when a core first needs one; slots of a row that
//! the plan never reaches have no histogram.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use trace_ring::calls::{CoreMask, Delivery, Function, IpiKind, Onward};
use trace_ring::layout::NO_HISTOGRAM;
use trace_ring::plan::{PlanSlot, TraceLevel, op};
use trace_ring::record::ReceiverState;

use super::super::PlanError;
use super::super::job::{self, Awaited, Called, Cores, Phase, Span, State, Step, contains};
use super::{Compiler, LONGEST_NS, LOOP_DEPTH, Script, Settings, word};
use crate::fault::Fault;

/// How long a host waits for each call of a plan besides, ns: a caller that spins keeps the core that it waits for from an
/// emulator's host cores, for a time slice or two.
pub(super) const HOST_NS_EACH: u64 = 20_000_000;

/// The most calls of a `calls` phase.
const MOST_CALLS: u32 = 1 << 20;

/// The most sets of cores: operations name them by 16 bits.
const MOST_MASKS: usize = 0xFFFF;

/// The most calls of a chain: its route keeps those that are left in 16 bits.
const MOST_HOPS: u32 = 1 << 16;

/// Pairs of each phase that `kinds` makes, where the plan doesn't say.
const KINDS_PAIRS: u32 = 16;

/// After this long a phase of `kinds` has its tick, ns.
const TICK_NS: u64 = 50_000;

/// Frames that IPI `backtrace` has its target record.
const TARGET_FRAMES: u64 = 16;

/// No core in particular, where an operation names one.
const NOBODY: u16 = 0xFFFF;

const WAITS: u8 = op::WAITS;

/// A small generator (splitmix64, Steele et al., OOPSLA 2014): the same seed gives the same plan, on every host.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

/// What an operation has run.
#[derive(Clone, Copy)]
struct Callback {
    function: Function,
    wait: bool,
    /// The SGI is sent even where the queue is not empty.
    always_send: bool,
    info: u64,
}

impl Callback {
    /// As an operation holds function and waiting.
    const fn code(self) -> u8 {
        let wait = if self.wait { WAITS } else { 0 };
        self.function as u8 | wait | if self.always_send { op::ALWAYS_SENDS } else { 0 }
    }

    /// How long it is busy because the plan says so, ns.
    fn slow_ns(self) -> u64 {
        if self.function == Function::Slow { self.info } else { 0 }
    }
}

const DRAIN: Callback = Callback { function: Function::Drain, wait: true, always_send: false, info: 0 };

/// IPIs of a kind from one core to another.
#[derive(Clone, Copy)]
struct Message {
    kind: IpiKind,
    from: u16,
    to: u16,
    /// How the receiver takes crash stops and backtraces: whatever reaches it in its park then belongs to that context.
    delivery: Delivery,
    /// What the receiver does when it comes.
    state: ReceiverState,
}

/// The slots of one phase's IPI kinds.
pub(super) struct Traffic<'a> {
    settings: &'a Settings,
    rows: HashMap<(u16, IpiKind), u32>,
    slots: HashMap<(u16, u16, IpiKind), u32>,
    /// Slots of the plan before the phase's.
    before: usize,
    /// For each of the phase's slots: whether the plan reaches it.
    reached: Vec<bool>,
    /// Slots that the plan reaches.
    pub pairs: usize,
    /// Messages of one round.
    pub sends: u64,
}

impl<'a> Traffic<'a> {
    pub fn new(compiler: &Compiler<'_>, settings: &'a Settings) -> Self {
        Traffic {
            settings,
            rows: HashMap::new(),
            slots: HashMap::new(),
            before: compiler.slots.len(),
            reached: Vec::new(),
            pairs: 0,
            sends: 0,
        }
    }

    /// The slot of a message.
    fn slot(&mut self, compiler: &mut Compiler<'_>, message: Message) -> u32 {
        let Message { kind, from, to, .. } = message;
        let slot = *self.slots.entry((from, to, kind)).or_insert_with(|| compiler.kind_slot(self.settings, message));
        self.reach(compiler, slot);
        slot
    }

    /// The row of a core's messages of one kind, to receivers in the state that `state` gives.
    fn row(
        &mut self,
        compiler: &mut Compiler<'_>,
        from: u16,
        kind: IpiKind,
        state: impl Fn(u16) -> ReceiverState,
    ) -> u32 {
        *self.rows.entry((from, kind)).or_insert_with(|| {
            let first = compiler.slots.len() as u32;
            for to in 0..compiler.request.cores {
                let message = Message { kind, from, to, delivery: Delivery::Irq, state: state(to) };
                compiler.kind_slot(self.settings, message);
            }
            first
        })
    }

    /// The plan sends by this slot: it gets a histogram.
    fn reach(&mut self, compiler: &mut Compiler<'_>, slot: u32) {
        self.reached.resize(compiler.slots.len() - self.before, false);
        let own = (slot as usize).saturating_sub(self.before);
        if let Some(reached @ false) = self.reached.get_mut(own) {
            *reached = true;
            self.pairs += 1;
            let histogram = compiler.histogram();
            if let Some(slot) = compiler.slots.get_mut(slot as usize) {
                slot.histogram = histogram;
            }
        }
    }
}

impl Compiler<'_> {
    fn kind_slot(&mut self, settings: &Settings, message: Message) -> u32 {
        let Message { kind, from, to, delivery, state } = message;
        // A wake-up is no NMI, even where it ends the park of one.
        let delivery = if kind == IpiKind::Wakeup { Delivery::Irq } else { delivery };
        self.slots.push(PlanSlot {
            from,
            to,
            phase: settings.index as u16,
            intid: kind.intid(),
            state: state.code(),
            histogram: NO_HISTOGRAM,
            kind: kind.slot_code(),
            delivery: delivery as u8,
            reserved: 0,
        });
        self.slots.len() as u32 - 1
    }

    /// Where a set of cores stands among the plan's.
    fn mask(&mut self, phase: &str, mask: CoreMask) -> Result<u16, PlanError> {
        if let Some(index) = self.known_masks.get(&mask.0) {
            return Ok(*index);
        }
        if self.masks.len() == MOST_MASKS {
            return Err(self.error(
                phase,
                format!("the plan calls more than {MOST_MASKS} different sets of cores"),
                "name fewer sets, or make fewer calls and repeat the plan with --duration",
            ));
        }
        let index = self.masks.len() as u16;
        self.masks.push(mask);
        self.known_masks.insert(mask.0, index);
        Ok(index)
    }

    /// Records of the call layer alone, where they are written.
    fn call_records(&self, records: u64) -> u64 {
        if self.level == TraceLevel::Calls { records } else { 0 }
    }

    /// Records of one send to a set of cores: a word of it for each 64 cores, the call site and its frames.
    fn mask_records(&self) -> u64 {
        u64::from(self.request.cores.div_ceil(64)) + 1 + self.frame_records()
    }

    /// `times` SGIs that `to` takes as IRQs. A message that was answered early leaves one that finds nothing.
    fn takes(&mut self, to: u16, times: u64) {
        let core = self.core(to);
        core.irq = core.irq.saturating_add(times.saturating_mul(2));
    }

    /// `times` callbacks on `to`, with entry and exit.
    fn runs(&mut self, to: u16, callback: Callback, times: u64) {
        let records = times.saturating_mul(self.call_records(2));
        let core = self.core(to);
        core.irq_more = core.irq_more.saturating_add(records);
        core.callbacks = core.callbacks.saturating_add(times);
        // Whoever begins a chain waits for its end, not for a lock.
        if callback.wait && callback.function != Function::Onward {
            core.awaited = core.awaited.saturating_add(times);
        }
    }

    fn count_calls(&mut self, traffic: &mut Traffic<'_>, calls: u64, sends: u64) {
        self.called = self.called.saturating_add(calls);
        self.call_sends = self.call_sends.saturating_add(sends);
        traffic.sends = traffic.sends.saturating_add(sends);
    }

    /// Operation `CALL`, which runs `times` times in a round.
    fn call_one(
        &mut self,
        traffic: &mut Traffic<'_>,
        (from, to): (u16, u16),
        callback: Callback,
        times: u64,
        state: impl Fn(u16) -> ReceiverState,
    ) {
        let row = traffic.row(self, from, IpiKind::CallFunction, state);
        traffic.reach(self, row + u32::from(to));
        // Queued, and one wait for a lock: before it is used, or after.
        let records = times.saturating_mul(self.send_records() + self.call_records(2));
        let core = self.core(from);
        core.ops.push(word(op::CALL, callback.code(), to, row, callback.info));
        core.thread = core.thread.saturating_add(records);
        self.takes(to, times);
        self.runs(to, callback, times);
        self.count_calls(traffic, times, times);
    }

    /// Operation `CALL_MANY`, which runs `times` times in a round. `mask`: all that are meant; `targets`: those but the caller.
    fn call_many(
        &mut self,
        traffic: &mut Traffic<'_>,
        (from, targets, mask): (u16, &[u16], u16),
        callback: Callback,
        times: u64,
        state: impl Fn(u16) -> ReceiverState,
    ) {
        let row = traffic.row(self, from, IpiKind::CallFunction, state);
        // For each target: queued, a wait for its descriptor from the call before, and one for the function.
        let each = self.call_records(if callback.wait { 3 } else { 2 });
        let records = times.saturating_mul(self.mask_records() + each * targets.len() as u64);
        let core = self.core(from);
        core.ops.push(word(op::CALL_MANY, callback.code(), mask, row, callback.info));
        core.thread = core.thread.saturating_add(records);
        for to in targets {
            traffic.reach(self, row + u32::from(*to));
            self.takes(*to, times);
            self.runs(*to, callback, times);
        }
        self.count_calls(traffic, times, times.saturating_mul(targets.len() as u64));
    }

    /// Operation `CALL` of a chain of `hops` calls, and what its hops leave on the cores that it passes.
    fn call_chain(
        &mut self,
        traffic: &mut Traffic<'_>,
        (from, to): (u16, u16),
        (hops, stride): (u32, u16),
        times: u64,
        state: impl Fn(u16) -> ReceiverState,
    ) {
        let left = hops.saturating_sub(1);
        let route = Onward { origin: from, hops: left as u16, stride };
        let callback = Callback { function: Function::Onward, wait: true, always_send: false, info: route.info() };
        self.call_one(traffic, (from, to), callback, times, &state);
        let records = self.send_records() + self.call_records(1);
        let cores = u32::from(self.request.cores);
        // The route comes round to where it began after so many hops.
        let round = cores / greatest_common_divisor(cores, stride.into());
        for hop in 0..left.min(round) {
            let at = ((u32::from(to) + hop * u32::from(stride)) % cores) as u16;
            let next = ((u32::from(at) + u32::from(stride)) % cores) as u16;
            let passes = times.saturating_mul(u64::from((left - hop).div_ceil(round)));
            let row = traffic.row(self, at, IpiKind::CallFunction, &state);
            traffic.reach(self, row + u32::from(next));
            self.count_calls(traffic, passes, passes);
            // A core that is not up is passed over, and its hops fall to others: room for twice as many.
            let room = passes.saturating_mul(2);
            let core = self.core(at);
            core.irq_more = core.irq_more.saturating_add(room.saturating_mul(records));
            self.takes(next, room);
            let run = room.saturating_mul(self.call_records(2));
            let core = self.core(next);
            core.irq_more = core.irq_more.saturating_add(run);
            core.callbacks = core.callbacks.saturating_add(passes);
        }
    }

    /// Operation `IPI`: `count` messages, `times` times in a round.
    fn send_kind(&mut self, traffic: &mut Traffic<'_>, message: Message, count: u32, times: u64) {
        self.send_kind_and(traffic, message, count, times, true);
    }

    /// The same; `wait`: for each answer.
    fn send_kind_and(&mut self, traffic: &mut Traffic<'_>, message: Message, count: u32, times: u64, wait: bool) {
        let Message { kind, from, to, delivery, .. } = message;
        let slot = traffic.slot(self, message);
        let sent = times.saturating_mul(count.into());
        // Besides: a look at the target's redistributor.
        let records = sent.saturating_mul(self.send_records() + 1);
        let goes_on = if wait { 0 } else { op::GOES_ON };
        let core = self.core(from);
        Self::chunks(core, count, |count| word(op::IPI, kind.intid() | goes_on, to, slot, count.into()));
        core.thread = core.thread.saturating_add(records);
        traffic.sends = traffic.sends.saturating_add(sent);
        let more = match kind {
            IpiKind::Stop | IpiKind::CrashStop => 2, // it parks, and leaves its park
            IpiKind::Backtrace => TARGET_FRAMES,
            _ => 0,
        };
        let more = sent.saturating_mul(self.call_records(more));
        self.takes(to, sent);
        let core = self.core(to);
        core.irq_more = core.irq_more.saturating_add(more);
        // A core that has no NMIs takes it as an IRQ: there is room in both lanes.
        if delivery != Delivery::Irq {
            core.nmi = core.nmi.saturating_add(sent.saturating_mul(2));
            core.nmi_more = core.nmi_more.saturating_add(more);
        }
    }

    /// Operation `TICK`, which runs `times` times in a round.
    fn send_tick(
        &mut self,
        traffic: &mut Traffic<'_>,
        from: u16,
        after_ns: u64,
        times: u64,
        state: impl Fn(u16) -> ReceiverState,
    ) {
        let row = traffic.row(self, from, IpiKind::TimerBroadcast, state);
        self.busy_ns = self.busy_ns.saturating_add(times.saturating_mul(after_ns));
        // The timer's handler sends: these stand in the IRQ lane.
        let records = times.saturating_mul(self.mask_records());
        let core = self.core(from);
        core.ops.push(word(op::TICK, 0, 0, row, after_ns));
        core.irq_more = core.irq_more.saturating_add(records);
        for to in (0..self.request.cores).filter(|to| *to != from) {
            traffic.reach(self, row + u32::from(to));
            self.takes(to, times);
            traffic.sends = traffic.sends.saturating_add(times);
        }
    }

    /// Operation `IRQ_WORK`, which runs `times` times in a round.
    fn send_work(&mut self, traffic: &mut Traffic<'_>, id: u16, callback: Callback, times: u64) {
        // Who interrupts itself was polling.
        let row = traffic.row(self, id, IpiKind::IrqWork, |_| ReceiverState::Spin);
        traffic.reach(self, row + u32::from(id));
        // Queued, and a wait for the lock: before it is used, and after.
        let records = times.saturating_mul(self.send_records() + self.call_records(3));
        let core = self.core(id);
        core.ops.push(word(op::IRQ_WORK, callback.code(), 0, row, callback.info));
        core.thread = core.thread.saturating_add(records);
        self.takes(id, times);
        self.runs(id, callback, times);
        self.count_calls(traffic, times, times);
    }

    /// A stop of either kind and the wake-up that ends it, `count` times. A core that holds is masked again after its park.
    fn stop_and_wake(&mut self, traffic: &mut Traffic<'_>, stop: Message, count: u32) {
        let after = if stop.state == ReceiverState::Masked { Awaited::Masked } else { Awaited::Open };
        // A parked core has its interrupts masked, but for the wake-up's.
        let wake = Message { kind: IpiKind::Wakeup, state: ReceiverState::Masked, ..stop };
        let wait_for = |state: Awaited| word(op::AWAIT, state as u8, stop.to, 0, 0);
        self.looped(stop.from, count, |own| {
            own.send_kind(traffic, stop, 1, count.into());
            own.core(stop.from).ops.push(wait_for(Awaited::Parked));
            own.send_kind(traffic, wake, 1, count.into());
            own.core(stop.from).ops.push(wait_for(after));
        });
    }

    /// From here on all cores take crash stops and backtraces like this. It stands before a phase, whose begin they all wait for.
    fn deliver(&mut self, delivery: Delivery) {
        for core in &mut self.cores {
            core.ops.push(word(op::DELIVERY, delivery as u8, 0, 0, 0));
        }
    }

    /// Operations that run `count` times.
    fn looped(&mut self, id: u16, count: u32, body: impl FnOnce(&mut Self)) {
        if count != 1 {
            self.core(id).ops.push(word(op::LOOP, 0, 0, count, 0));
        }
        body(self);
        if count != 1 {
            self.core(id).ops.push(word(op::LOOP_END, 0, 0, 0, 0));
        }
    }

    // --- patterns ---------------------------------------------------------------------------------------------------

    /// Pattern `calls`: random calls, all cores at once.
    pub(super) fn random_calls(&mut self, phase: &Phase, settings: &Settings, state: State) -> Result<(), PlanError> {
        let count = phase.count.unwrap_or(0);
        if count > MOST_CALLS {
            return Err(self.error(
                &settings.name,
                format!("count = {count} calls"),
                format!("make at most {MOST_CALLS}, and repeat the plan with --duration"),
            ));
        }
        let usual = [Called::Drain, Called::Gather, Called::SyncIcache, Called::Slow];
        let functions = phase.functions.as_deref().unwrap_or(&usual);
        if functions.is_empty() || functions.contains(&Called::Onward) {
            let what = if functions.is_empty() { "`functions` is empty" } else { "`functions` names onward" };
            return Err(self.error(
                &settings.name,
                what,
                "name some of drain, gather, sync_icache and slow; chains have a pattern of their own",
            ));
        }
        let others = |from: u16| settings.to.iter().copied().filter(|to| *to != from).collect::<Vec<_>>();
        let callers: Vec<(u16, Vec<u16>)> =
            settings.from.iter().map(|from| (*from, others(*from))).filter(|caller| !caller.1.is_empty()).collect();
        if callers.is_empty() {
            self.leave_out(settings, "has no pair of two cores");
            return Ok(());
        }
        let state = state.receiver();
        self.begin(settings, |_| state.code());
        let mut traffic = Traffic::new(self, settings);
        // Whoever is called may be calling.
        let receivers = |_| ReceiverState::Unknown;
        // A run's own seed moves every phase to another place.
        let moved = self.request.seed.map_or(0, |seed| seed.wrapping_add(1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let mut random = Random(phase.seed.unwrap_or(1) ^ moved);
        // How long each core is busy with pauses and slow callbacks.
        let mut busy: BTreeMap<u16, u64> = BTreeMap::new();
        let mut spend = |core: u16, time: u64| {
            let sum = busy.entry(core).or_default();
            *sum = sum.saturating_add(time);
        };
        let pause = phase.pause.map_or(0, Span::nanoseconds);
        for _ in 0..count {
            let Some((from, others)) = callers.get(random.index(callers.len())) else { continue };
            let delay = random.below(pause.saturating_add(1));
            if delay > 0 {
                self.core(*from).ops.push(word(op::DELAY, 0, 0, 0, delay));
                spend(*from, delay);
            }
            let function = functions.get(random.index(functions.len())).map_or(Function::Drain, |name| name.function());
            let wait = random.below(2) == 1;
            let info = if function == Function::Slow { 1_000 + random.below(4_001) } else { 0 };
            let callback = Callback { function, wait, always_send: false, info };
            // Half of all calls go to one core, and one in eight to all.
            match random.below(8) {
                7 => {
                    let mask = self.mask(&settings.name, mask_of(&settings.to))?;
                    others.iter().for_each(|to| spend(*to, info));
                    self.call_many(&mut traffic, (*from, others, mask), callback, 1, receivers);
                }
                4..=6 if others.len() > 1 => {
                    let some = some_of(&mut random, others);
                    let mask = self.mask(&settings.name, mask_of(&some))?;
                    some.iter().for_each(|to| spend(*to, info));
                    self.call_many(&mut traffic, (*from, &some, mask), callback, 1, receivers);
                }
                _ => {
                    let to = others.get(random.index(others.len())).copied().unwrap_or_default();
                    spend(to, info);
                    self.call_one(&mut traffic, (*from, to), callback, 1, receivers);
                }
            }
        }
        for (from, _) in &callers {
            self.core(*from).ops.push(word(op::SETTLE, 0, 0, 0, 0));
        }
        // They are busy side by side.
        self.busy_ns = self.busy_ns.saturating_add(busy.into_values().max().unwrap_or(0));
        self.end(settings, false, ReceiverState::Unknown, traffic.pairs, traffic.sends);
        Ok(())
    }

    /// Pattern `kinds`: a phase for each, one pair of neighbours at a time.
    pub(super) fn kinds(
        &mut self,
        phase: &Phase,
        settings: &Settings,
        state: State,
        prefix: &str,
    ) -> Result<(), PlanError> {
        let count = phase.count.unwrap_or(0);
        let most = phase.most_pairs.unwrap_or(KINDS_PAIRS) as usize;
        if most == 0 {
            return Err(self.error(&settings.name, "most_pairs = 0", "name a number above 0, or leave it out"));
        }
        if self.request.to.is_some() {
            self.notes.push(format!("phase `{}`: a tick reaches every core, whatever --to says", settings.name));
        }
        let pairs = self.neighbours(settings, most);
        let alone = |cores: Vec<u16>| cores.into_iter().map(|core| (core, core)).collect::<Vec<_>>();
        let workers: Vec<u16> = settings.from.iter().copied().filter(|core| settings.to.contains(core)).collect();
        let workers = alone(thin_out(&workers, most));
        let others = usize::from(self.request.cores) - 1;
        let tickers = match others {
            0 => Vec::new(),
            others => alone(thin_out(&settings.from, (most / others).max(1))),
        };
        let waiting = state.receiver();
        let sub = |compiler: &Self, name: &str, kind: IpiKind| Settings {
            name: format!("{prefix}{name}"),
            index: compiler.phases.len() as u32,
            pattern: settings.pattern,
            intid: kind.intid(),
            from: Vec::new(),
            to: Vec::new(),
            dither: 0,
            pressure: false,
            transition: None,
        };
        if !pairs.is_empty() {
            self.deliver(Delivery::Irq);
        }
        for kind in IpiKind::ALL {
            let own = sub(self, kind.name(), kind);
            let message = |(from, to)| Message { kind, from, to, delivery: Delivery::Irq, state: waiting };
            match kind {
                IpiKind::Reschedule | IpiKind::Wakeup | IpiKind::Backtrace => {
                    self.in_turns(&own, waiting, &pairs, true, |own, traffic, pair| {
                        own.send_kind(traffic, message(pair), count, 1);
                    });
                }
                // Two kinds in one phase: their latencies are not to be compared.
                IpiKind::Stop | IpiKind::CrashStop => {
                    self.in_turns(&own, waiting, &pairs, false, |own, traffic, pair| {
                        own.stop_and_wake(traffic, message(pair), count);
                    });
                }
                IpiKind::CallFunction => self.in_turns(&own, waiting, &pairs, false, |own, traffic, pair| {
                    own.looped(pair.0, count, |own| own.call_one(traffic, pair, DRAIN, count.into(), |_| waiting));
                }),
                IpiKind::TimerBroadcast => self.in_turns(&own, waiting, &tickers, false, |own, traffic, (core, _)| {
                    own.looped(core, count, |own| own.send_tick(traffic, core, TICK_NS, count.into(), |_| waiting));
                }),
                IpiKind::IrqWork => self.in_turns(&own, waiting, &workers, true, |own, traffic, (core, _)| {
                    own.looped(core, count, |own| own.send_work(traffic, core, DRAIN, count.into()));
                }),
            }
        }
        for kind in [IpiKind::Backtrace, IpiKind::CrashStop] {
            for delivery in [Delivery::PseudoNmi, Delivery::Nmi] {
                let own = sub(self, &format!("{}/masked/{}", kind.name(), delivery.name()), kind);
                self.held(&own, waiting, &pairs, kind, delivery, count);
            }
        }
        if !pairs.is_empty() {
            self.deliver(Delivery::PseudoNmi);
        }
        Ok(())
    }

    /// A phase in which one pair at a time does something. Pairs ascend by sender.
    fn in_turns(
        &mut self,
        settings: &Settings,
        waiting: ReceiverState,
        pairs: &[(u16, u16)],
        timed: bool,
        mut each: impl FnMut(&mut Self, &mut Traffic<'_>, (u16, u16)),
    ) {
        if pairs.is_empty() {
            return self.leave_out(settings, "has nobody to send to or from");
        }
        self.begin(settings, |_| waiting.code());
        let mut traffic = Traffic::new(self, settings);
        let mut starts: Vec<(u16, u32)> = Vec::new();
        for pair in pairs {
            if starts.last().is_none_or(|(id, _)| *id != pair.0) {
                let start = self.turn(pair.0);
                starts.push(start);
            }
            each(self, &mut traffic, *pair);
        }
        self.link(&starts);
        let state = if settings.intid == IpiKind::IrqWork.intid() { ReceiverState::Spin } else { waiting };
        self.end(settings, timed, state, traffic.pairs, traffic.sends);
    }

    /// A phase of a kind to cores that have masked their interrupts: pair by pair, with a barrier in between.
    fn held(
        &mut self,
        settings: &Settings,
        waiting: ReceiverState,
        pairs: &[(u16, u16)],
        kind: IpiKind,
        delivery: Delivery,
        count: u32,
    ) {
        if pairs.is_empty() {
            return self.leave_out(settings, "has nobody to send to or from");
        }
        self.deliver(delivery);
        self.begin(settings, |_| waiting.code());
        let mut traffic = Traffic::new(self, settings);
        for (step, (from, to)) in pairs.iter().copied().enumerate() {
            if step > 0 {
                for core in &mut self.cores {
                    core.ops.push(word(op::BARRIER, 0, 0, 0, 0));
                }
            }
            // On a core that can't take it like this, the mask is one that lets it in as it comes there. Where its sender is not
            // up, nobody would release it: the hold is left out.
            self.core(to).ops.push(word(op::HOLD, job::Hold::Reachable as u8, from, 0, 0));
            self.core(from).ops.push(word(op::AWAIT, Awaited::Masked as u8, to, 0, 0));
            let message = Message { kind, from, to, delivery, state: ReceiverState::Masked };
            if kind == IpiKind::CrashStop {
                self.stop_and_wake(&mut traffic, message, count);
            } else {
                self.send_kind(&mut traffic, message, count, 1);
            }
            self.core(from).ops.push(word(op::RELEASE, 0, to, 0, 0));
        }
        let timed = kind == IpiKind::Backtrace;
        self.end(settings, timed, ReceiverState::Masked, traffic.pairs, traffic.sends);
    }

    /// At most `most` ordered pairs of neighbours in a ring, ascending by sender, both ways of each.
    fn neighbours(&self, settings: &Settings, most: usize) -> Vec<(u16, u16)> {
        let cores = self.request.cores;
        let allowed = |(from, to): &(u16, u16)| from != to && settings.from.contains(from) && settings.to.contains(to);
        let places: Vec<Vec<(u16, u16)>> = (0..cores)
            .map(|core| (core, (core + 1) % cores))
            .map(|(a, b)| [(a, b), (b, a)].into_iter().filter(allowed).collect::<Vec<_>>())
            .filter(|both| !both.is_empty())
            .collect();
        // Of two cores, either's neighbour is the other.
        let pairs: BTreeSet<(u16, u16)> = thin_out(&places, most.div_ceil(2)).into_iter().flatten().collect();
        pairs.into_iter().take(most).collect()
    }

    /// Pattern `chain`: each core in turn begins chains of calls.
    pub(super) fn chains(&mut self, phase: &Phase, settings: &Settings, state: State) -> Result<(), PlanError> {
        let cores = self.request.cores;
        if self.request.to.is_some() {
            self.notes
                .push(format!("phase `{}`: a chain passes whoever is on its way, whatever --to says", settings.name));
        }
        if cores < 2 || settings.from.is_empty() {
            self.leave_out(settings, "has nobody to call");
            return Ok(());
        }
        let stride = phase.stride.unwrap_or(1);
        let hops = phase.hops.unwrap_or(cores.into());
        self.check_route(&settings.name, hops, stride)?;
        let count = self.share(&settings.name, phase, settings.from.len() as u64 * u64::from(hops))?;
        let state = state.receiver();
        let mut traffic = Traffic::new(self, settings);
        self.rows(&mut traffic, |_| state);
        self.begin(settings, |_| state.code());
        let mut starts = Vec::new();
        for from in &settings.from {
            starts.push(self.turn(*from));
            let to = (from + stride) % cores;
            self.looped(*from, count, |own| {
                own.call_chain(&mut traffic, (*from, to), (hops, stride), count.into(), |_| state);
            });
        }
        self.link(&starts);
        self.end(settings, false, state, traffic.pairs, traffic.sends);
        Ok(())
    }

    /// Operation `ROW` of every core: any of them may be one that a chain passes. It stands before a phase, because a chain may
    /// pass a core that has just left the barrier of the phase's begin.
    fn rows(&mut self, traffic: &mut Traffic<'_>, state: impl Fn(u16) -> ReceiverState) {
        for id in 0..self.request.cores {
            let row = traffic.row(self, id, IpiKind::CallFunction, &state);
            self.core(id).ops.push(word(op::ROW, 0, 0, row, 0));
        }
    }

    fn check_route(&self, phase: &str, hops: u32, stride: u16) -> Result<(), PlanError> {
        if hops == 0 || hops > MOST_HOPS {
            let next_step = format!("a chain makes 1 to {MOST_HOPS} calls; name a number in between");
            return Err(self.error(phase, format!("hops = {hops}"), next_step));
        }
        let cores = self.request.cores;
        if stride == 0 || stride >= cores {
            return Err(self.error(
                phase,
                format!("stride = {stride} on {cores} cores"),
                "a chain goes on to another core: name a stride from 1 to one below the number of cores, or raise --cores",
            ));
        }
        Ok(())
    }

    /// Pattern `fan-in`: all call one at once, without waiting and waiting.
    pub(super) fn fan_in(&mut self, phase: &Phase, settings: &Settings, state: State) -> Result<(), PlanError> {
        let pairs: Vec<(u16, u16)> = settings
            .from
            .iter()
            .flat_map(|from| settings.to.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from != to)
            .collect();
        if pairs.is_empty() {
            self.leave_out(settings, "has no pair of two cores");
            return Ok(());
        }
        let count = self.share(&settings.name, phase, 2 * pairs.len() as u64)?;
        let state = state.receiver();
        // A receiver that calls as well does things of its own.
        let callers: BTreeSet<u16> = pairs.iter().map(|pair| pair.0).collect();
        let receivers = |to: u16| if callers.contains(&to) { ReceiverState::Unknown } else { state };
        self.begin(settings, |_| state.code());
        let mut traffic = Traffic::new(self, settings);
        for from in &callers {
            self.looped(*from, count, |own| {
                for pair in pairs.iter().filter(|pair| pair.0 == *from) {
                    for wait in [false, true] {
                        own.call_one(&mut traffic, *pair, Callback { wait, ..DRAIN }, count.into(), receivers);
                    }
                }
            });
            self.core(*from).ops.push(word(op::SETTLE, 0, 0, 0, 0));
        }
        self.end(settings, false, state, traffic.pairs, traffic.sends);
        Ok(())
    }

    // --- what holds for a whole phase or plan -----------------------------------------------------------------------

    /// How cores take crash stops and backtraces in a script, where their programs say so.
    pub(super) fn deliveries(
        &self,
        phase: &str,
        programs: &HashMap<u16, &[Step]>,
    ) -> Result<BTreeMap<u16, Delivery>, PlanError> {
        let mut deliveries = BTreeMap::new();
        for (core, steps) in programs {
            let rest = match steps.split_first() {
                Some((Step::Delivery(taken), rest)) => {
                    deliveries.insert(*core, taken.delivery());
                    rest
                }
                _ => steps,
            };
            if contains(rest, |step| matches!(step, Step::Delivery(_))) {
                return Err(self.error(
                    phase,
                    format!("`delivery` in the middle of the program of core {core}"),
                    "put it first: it holds for the whole phase",
                ));
            }
        }
        Ok(deliveries)
    }

    /// Who ends each core's holds in a script; [`NOBODY`] where several do.
    pub(super) fn releasers(
        &self,
        phase: &str,
        programs: &HashMap<u16, &[Step]>,
    ) -> Result<HashMap<u16, u16>, PlanError> {
        let mut releasers = HashMap::new();
        for (core, steps) in programs {
            let mut left: Vec<&Step> = steps.iter().collect();
            while let Some(step) = left.pop() {
                match step {
                    Step::Loop(inner) => left.extend(&inner.ops),
                    Step::Release(cores) => {
                        for held in self.list(phase, "release", cores)? {
                            let releaser = releasers.entry(held).or_insert(*core);
                            if releaser != core {
                                *releaser = NOBODY;
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(releasers)
    }

    /// A fault that strikes in a callback needs one.
    pub(super) fn check_faults(&mut self) -> Result<(), PlanError> {
        let callbacks = self.cores.iter().fold(0_u64, |sum, core| sum.saturating_add(core.callbacks));
        for fault in &self.request.faults {
            let (id, needed, awaited) = match *fault {
                Fault::SlowCallback { core, .. } => (core, 1, false),
                Fault::Stuck { core, callback } => (core, callback.unwrap_or(Fault::STUCK_IN), false),
                Fault::CsdLock { core, callback } => (core, callback.unwrap_or(Fault::LOCKED_AFTER), true),
                _ => continue,
            };
            if callbacks == 0 {
                return Err(PlanError::Option {
                    option: format!("--inject {fault}"),
                    what: format!(
                        "plan `{}` has no function called on these cores, so there is no callback to strike in; use --plan calls",
                        self.job.name
                    ),
                });
            }
            let (runs, what) = match self.cores.get(usize::from(id)) {
                Some(core) if awaited => (core.awaited, "callbacks that somebody waits for"),
                Some(core) => (core.callbacks, "callbacks"),
                None => continue,
            };
            if runs < needed {
                self.notes.push(format!(
                    "fault `{fault}` strikes too late: core {id} runs {runs} {what} in a round of plan `{}`",
                    self.job.name
                ));
            }
        }
        Ok(())
    }

    /// How long a wait of a plan that calls may take: short enough for a core that is stuck in a callback to end the run in about
    /// a minute.
    pub(super) fn call_deadline(&self, sends: u64, duration_ns: u64) -> u64 {
        let own = sends.saturating_sub(self.call_sends);
        // Calls go on side by side. A live emulator has fewer host cores than there are callers that spin: each call counts as if
        // it had to wait for its turn. Counted instructions are those of all cores together, some hundred for each message; an
        // emulator makes only one or two million of them a second where all cores spin. There, a tick is one of them; else it is
        // taken for a microsecond, as in other plans.
        let (floor, others, calls, tick) = if self.request.deterministic {
            (20_000_000, own.saturating_mul(10_000), self.call_sends.saturating_mul(1_000), 1)
        } else {
            (30_000_000_000, own.saturating_mul(1_000_000), self.called.saturating_mul(3_000_000), 1_000)
        };
        let faults = self.request.faults.iter().map(|fault| match *fault {
            // A call that is dropped has its caller wait until the run ends: only the others' losses are waited for.
            Fault::Drop { rate, .. } => own.saturating_mul((self.timeout_ns as f64 * rate) as u64),
            Fault::Late { ticks, .. }
            | Fault::SlowWake { ticks, .. }
            | Fault::SlowSender { ticks, .. }
            | Fault::SlowPair { ticks, .. }
            | Fault::Steal { ticks, .. }
            | Fault::Mask { ticks, .. } => sends.saturating_mul(ticks.saturating_mul(tick).max(self.timeout_ns / 100)),
            Fault::SlowCallback { core, ticks } => {
                let runs = self.cores.get(usize::from(core)).map_or(0, |core| core.callbacks);
                runs.saturating_mul(ticks.saturating_mul(tick))
            }
            // The others are at the first barrier while the boot core still waits for it.
            Fault::Dead { .. } => self.boot_ns(),
            _ => 0,
        });
        [self.busy_ns, others, calls]
            .into_iter()
            .chain(faults)
            .fold(floor, u64::saturating_add)
            .min(duration_ns.saturating_add(LONGEST_NS))
    }
}

// --- steps of a script ----------------------------------------------------------------------------------------------

impl Script<'_> {
    /// Operation `ROW` of every core.
    pub(super) fn rows(&mut self, compiler: &mut Compiler<'_>) {
        compiler.rows(&mut self.traffic, receivers(&self.scripted, self.state));
    }

    /// What a step has run, of its function, waiting and time.
    fn callback(
        &self,
        compiler: &Compiler<'_>,
        called: Called,
        wait: Option<bool>,
        time: Option<Span>,
    ) -> Result<Callback, PlanError> {
        let phase = &self.settings.name;
        let info = match (called, time) {
            (Called::Slow, Some(time)) => time.nanoseconds(),
            (Called::Slow, None) => {
                return Err(compiler.error(
                    phase,
                    "function = \"slow\" without `time`",
                    "say how long it takes, like time = \"50us\"",
                ));
            }
            (_, Some(_)) => {
                return Err(compiler.error(
                    phase,
                    format!("`time` means nothing to function {}", called.function().name()),
                    "remove it, or call slow",
                ));
            }
            (_, None) => 0,
        };
        Ok(Callback { function: called.function(), wait: wait.unwrap_or(true), always_send: false, info })
    }

    pub(super) fn call(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        call: &job::Call,
        times: u64,
        depth: u32,
    ) -> Result<(), PlanError> {
        let phase = &self.settings.name;
        if call.count == 0 || (call.count > 1 && depth >= LOOP_DEPTH) {
            return Err(compiler.error(
                phase,
                format!("a call with count = {} inside {depth} loops", call.count),
                format!("call at least once; inside {LOOP_DEPTH} loops only once"),
            ));
        }
        let named = compiler.list(phase, "call.to", &call.to)?;
        if named == [id] {
            return Err(compiler.error(
                phase,
                format!("core {id} calls itself"),
                "name another core; a core's own work is { irq_work = { function = .. } }",
            ));
        }
        let targets: Vec<u16> = named.iter().copied().filter(|to| *to != id && compiler.allows(id, *to)).collect();
        let callback = self.callback(compiler, call.function, call.wait, call.time)?;
        let callback = Callback { always_send: call.always_send, ..callback };
        let times = times.saturating_mul(call.count.into());
        let busy = times.saturating_mul(targets.len() as u64).saturating_mul(callback.slow_ns());
        compiler.busy_ns = compiler.busy_ns.saturating_add(busy);
        let state = receivers(&self.scripted, self.state);
        if call.function == Called::Onward {
            let (Cores::One(to), Some(hops)) = (&call.to, call.hops) else {
                return Err(compiler.error(
                    phase,
                    "a chain (function = \"onward\") has no `hops`, or no single core to begin with",
                    "write it like { call = { to = 1, function = \"onward\", hops = 5 } }",
                ));
            };
            if call.wait == Some(false) {
                return Err(compiler.error(
                    phase,
                    "wait = false in a chain",
                    "remove it: a chain is always waited for",
                ));
            }
            let stride = call.stride.unwrap_or(1);
            compiler.check_route(phase, hops, stride)?;
            if !targets.is_empty() {
                compiler.looped(id, call.count, |compiler| {
                    compiler.call_chain(&mut self.traffic, (id, *to), (hops, stride), times, state);
                });
            }
            return Ok(());
        }
        if call.hops.is_some() || call.stride.is_some() {
            return Err(compiler.error(
                phase,
                format!("`hops` and `stride` mean nothing to function {}", callback.function.name()),
                "remove them, or call onward",
            ));
        }
        if targets.is_empty() {
            return Ok(());
        }
        if let Cores::One(to) = &call.to {
            compiler.looped(id, call.count, |compiler| {
                compiler.call_one(&mut self.traffic, (id, *to), callback, times, state);
            });
            return Ok(());
        }
        // The caller may be in the set, which others share: the firmware passes it over.
        let meant: Vec<u16> = named.into_iter().filter(|core| *core == id || targets.contains(core)).collect();
        let mask = compiler.mask(phase, mask_of(&meant))?;
        compiler.looped(id, call.count, |compiler| {
            compiler.call_many(&mut self.traffic, (id, &targets, mask), callback, times, state);
        });
        Ok(())
    }

    pub(super) fn ipi(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        ipi: &job::Ipi,
        times: u64,
        depth: u32,
    ) -> Result<(), PlanError> {
        let phase = &self.settings.name;
        let kind = ipi.kind.kind();
        self.check_count(compiler, ipi.count, depth)?;
        let stops = matches!(kind, IpiKind::Stop | IpiKind::CrashStop);
        if stops && ipi.count > 1 {
            return Err(compiler.error(
                phase,
                format!("{} times {} in a row", ipi.count, kind.name()),
                "a parked core answers a wake-up only: loop over the stop, an await, { ipi = { kind = \"wakeup\", .. } } and an await",
            ));
        }
        for to in compiler.list(phase, "ipi.to", &ipi.to)? {
            if to == id && ipi.to == Cores::All {
                continue;
            }
            if to == id && stops {
                return Err(compiler.error(
                    phase,
                    format!("core {id} sends {} to itself", kind.name()),
                    "name another core: one that is parked can't go on",
                ));
            }
            if !compiler.allows(id, to) {
                continue;
            }
            // A wake-up may find its target in the park of a crash stop.
            let urgent = matches!(kind, IpiKind::CrashStop | IpiKind::Backtrace | IpiKind::Wakeup);
            let own = self.deliveries.get(&to).copied().unwrap_or(Delivery::PseudoNmi);
            let delivery = if urgent { own } else { Delivery::Irq };
            let message = Message { kind, from: id, to, delivery, state: self.state_of(to) };
            compiler.send_kind_and(&mut self.traffic, message, ipi.count, times, ipi.wait.unwrap_or(true));
            let (stopped, woken) = self.parks.entry(to).or_default();
            let sent = times.saturating_mul(ipi.count.into());
            match kind {
                _ if stops => *stopped = stopped.saturating_add(sent),
                IpiKind::Wakeup => *woken = woken.saturating_add(sent),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, compiler: &mut Compiler<'_>, id: u16, tick: &job::Tick, times: u64) {
        if compiler.allows_from(id) {
            let state = receivers(&self.scripted, self.state);
            compiler.send_tick(&mut self.traffic, id, tick.after.nanoseconds(), times, state);
        }
    }

    pub(super) fn irq_work(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        work: &job::IrqWork,
        times: u64,
    ) -> Result<(), PlanError> {
        if work.function == Called::Onward {
            return Err(compiler.error(
                &self.settings.name,
                "irq_work of function onward",
                "a chain begins with { call = .. }; choose drain, gather, sync_icache or slow",
            ));
        }
        let callback = self.callback(compiler, work.function, work.wait, work.time)?;
        if compiler.allows(id, id) {
            compiler.busy_ns = compiler.busy_ns.saturating_add(times.saturating_mul(callback.slow_ns()));
            compiler.send_work(&mut self.traffic, id, callback, times);
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, compiler: &mut Compiler<'_>, id: u16, hold: job::Hold, times: u64) {
        let (holds, _) = self.holds.entry(id).or_default();
        *holds = holds.saturating_add(times);
        let releaser = self.releasers.get(&id).copied().unwrap_or(NOBODY);
        compiler.core(id).ops.push(word(op::HOLD, hold as u8, releaser, 0, 0));
    }

    pub(super) fn release(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        cores: &Cores,
        times: u64,
    ) -> Result<(), PlanError> {
        for to in compiler.list(&self.settings.name, "release", cores)? {
            if to == id && *cores != Cores::All {
                return Err(compiler.error(
                    &self.settings.name,
                    format!("core {id} releases itself"),
                    "name another core: one that holds does nothing else",
                ));
            }
            if to != id {
                let (_, released) = self.holds.entry(to).or_default();
                *released = released.saturating_add(times);
                compiler.core(id).ops.push(word(op::RELEASE, 0, to, 0, 0));
            }
        }
        Ok(())
    }

    pub(super) fn wait_for(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        awaited: &job::Await,
    ) -> Result<(), PlanError> {
        let job::Await { core, state } = *awaited;
        compiler.check_named(&self.settings.name, "await.core", core)?;
        if core == id {
            return Err(compiler.error(
                &self.settings.name,
                format!("core {id} awaits itself"),
                "name another core: one that is masked or parked does nothing else",
            ));
        }
        // Whom --from and --to leave out is not stopped either.
        if state == Awaited::Masked || compiler.allows(id, core) {
            compiler.core(id).ops.push(word(op::AWAIT, state as u8, core, 0, 0));
        }
        Ok(())
    }

    /// Whoever holds or is parked must come back: the phase's end waits for all.
    pub(super) fn check_balance(&self, compiler: &Compiler<'_>) -> Result<(), PlanError> {
        let phase = &self.settings.name;
        if let Some((core, (holds, released))) = self.holds.iter().find(|(_, (holds, released))| holds > released) {
            return Err(compiler.error(
                phase,
                format!("core {core} holds {holds} times and is released {released} times"),
                format!("add {{ release = {core} }} to another core's program: the phase's end waits for all"),
            ));
        }
        if let Some((core, (stopped, woken))) = self.parks.iter().find(|(_, (stopped, woken))| stopped > woken) {
            return Err(compiler.error(
                phase,
                format!("core {core} is stopped {stopped} times and woken {woken} times"),
                format!(
                    "add {{ await = {{ core = {core}, state = \"parked\" }} }} and {{ ipi = {{ kind = \"wakeup\", to = {core} }} }}: the phase's end waits for all"
                ),
            ));
        }
        Ok(())
    }
}

/// What a core of a script does when an interrupt comes: those that have a program do things of their own.
fn receivers(scripted: &HashSet<u16>, state: ReceiverState) -> impl Fn(u16) -> ReceiverState + Copy + '_ {
    move |core| if scripted.contains(&core) { ReceiverState::Unknown } else { state }
}

/// At most `most` of the items, evenly spread, in order.
fn thin_out<T: Clone>(items: &[T], most: usize) -> Vec<T> {
    let chosen = most.min(items.len());
    (0..chosen).filter_map(|index| items.get(index * items.len() / chosen)).cloned().collect()
}

/// Two or more of the cores, ascending: any number of them alike, and any of them.
fn some_of(random: &mut Random, cores: &[u16]) -> Vec<u16> {
    let mut rest = cores.to_vec();
    let count = 2 + random.index(cores.len() - 1);
    for place in 0..count {
        let other = place + random.index(rest.len() - place);
        rest.swap(place, other);
    }
    rest.truncate(count);
    rest.sort_unstable();
    rest
}

fn mask_of(cores: &[u16]) -> CoreMask {
    let mut mask = CoreMask::default();
    for core in cores {
        mask.insert(*core);
    }
    mask
}

const fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
pub(super) mod tests;
