//! Joining against a model that knows what became of every message: any order of what cores and the GIC may do, any records missing.
//!
//! A message goes in steps, as the firmware's do: its word, its bit, its SGI. A handler has an entry and an acknowledge. Between any
//! two of them anybody else may act, so SGIs merge, are answered early, meet a masked core or a handler that stands still. The GIC
//! is one pending bit for each core and INTID; it may lose an SGI, give it to another core, or give it twice.

use std::collections::{BTreeMap, BTreeSet};

use host::correlate::message::{Message, Outcome};
use host::correlate::{Counts, Ipis, correlate, correlate_heard};
use trace_ring::calls::IpiKind;
use trace_ring::layout::PairSlot;
use trace_ring::record::{Event, FLAG_NMI, Kind, PEER_ALL, Record};

use super::simulator::{Gone, Order};
use super::*;

const CORES: u16 = 3;

/// Kinds that carry no call; the second half come as NMIs.
const KINDS: [IpiKind; 4] = [IpiKind::Reschedule, IpiKind::TimerBroadcast, IpiKind::CrashStop, IpiKind::Backtrace];

const fn is_nmi(intid: u8) -> bool {
    intid == IpiKind::CrashStop.intid() || intid == IpiKind::Backtrace.intid()
}

/// Sender, receiver, INTID.
type Pair = (u16, u16, u8);

/// What the GIC does with an SGI.
#[derive(Clone, Copy, Debug)]
enum Way {
    Right,
    Dropped,
    /// To the core so many further.
    Wrong(u16),
    Twice,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A core begins to send: to which of its pairs.
    Post(u16, usize, Way),
    /// A core begins to send to all others; in a plan that calls it sends to a set of cores at once.
    PostMany(u16, u8),
    /// A core goes on with what it sends.
    Go(u16),
    /// A vector is entered, for an SGI or for something else.
    Enter(u16, bool),
    /// The newest handler acknowledges, answers and ends.
    Finish(u16),
    Mask(u16, bool),
    /// The measured SGIs are disabled in the redistributor.
    Disable(u16, bool),
    /// A sender looks at the redistributor.
    Probe(u16, usize),
    GiveUp(u16, usize),
    Gap(u16, bool, u64),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let core = || 0..CORES;
    let way = prop_oneof![
        12 => Just(Way::Right),
        2 => Just(Way::Dropped),
        1 => (1..CORES).prop_map(Way::Wrong),
        1 => Just(Way::Twice),
    ];
    let step = prop_oneof![
        8 => (core(), any::<usize>(), way).prop_map(|(core, pair, way)| Step::Post(core, pair, way)),
        2 => (core(), any::<u8>()).prop_map(|(core, set)| Step::PostMany(core, set)),
        14 => core().prop_map(Step::Go),
        8 => (core(), any::<bool>()).prop_map(|(core, other)| Step::Enter(core, other)),
        10 => core().prop_map(Step::Finish),
        1 => (core(), any::<bool>()).prop_map(|(core, on)| Step::Mask(core, on)),
        1 => (core(), any::<bool>()).prop_map(|(core, on)| Step::Disable(core, on)),
        1 => (core(), any::<usize>()).prop_map(|(core, pair)| Step::Probe(core, pair)),
        2 => (core(), any::<usize>()).prop_map(|(core, pair)| Step::GiveUp(core, pair)),
        1 => (core(), any::<bool>(), 1..5000_u64).prop_map(|(core, timer, long)| Step::Gap(core, timer, long)),
        1 => (1..10_000_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..220)
}

/// Which records are missing: lane, where and how many in thousandths of it, and why.
type Hole = (usize, usize, usize, Gone);

fn holes() -> impl Strategy<Value = Vec<Hole>> {
    let why = prop_oneof![
        4 => Just(Gone::Lapped),
        2 => Just(Gone::Torn),
        2 => Just(Gone::Damaged),
        1 => Just(Gone::Left),
        1 => Just(Gone::Dropped),
    ];
    proptest::collection::vec((0..usize::from(CORES) * 3, 0..1000_usize, 1..700_usize, why), 1..5)
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Delivered,
    Coalesced,
    Lost,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Truth {
    /// When it was sent; `u64::MAX`: no time yet.
    t: u64,
    fate: Fate,
    /// When the vector was entered that answered it.
    entry: u64,
    /// Its time in the records is that of a send to many.
    many: bool,
}

impl Truth {
    fn latency(&self) -> Option<u64> {
        self.entry.checked_sub(self.t)
    }
}

/// A send under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    slot: usize,
    msg: u32,
    t: u64,
    way: Way,
    flagged: bool,
    broadcast: bool,
}

struct World {
    target: Simulator,
    calling: bool,
    ledger: BTreeMap<(Pair, u32), Truth>,
    /// SGIs pending in the GIC.
    pending: BTreeSet<(u16, u8)>,
    /// Those of them that will be so again once they were taken.
    again: BTreeSet<(u16, u8)>,
    masked: Vec<bool>,
    disabled: Vec<bool>,
    /// Sends of each core's thread and of its IRQ handler.
    open: Vec<[Option<Open>; 2]>,
    /// Handlers of each core, the innermost last: context and entry.
    handlers: Vec<Vec<(Context, u64)>>,
    /// SGIs that nobody sent to where they came.
    strays: u64,
}

impl World {
    fn new(calling: bool) -> Self {
        let target = if calling { Simulator::calls(CORES) } else { Simulator::standard(CORES) };
        let cores = usize::from(CORES);
        let mut target = target;
        for core in 0..CORES {
            // Whatever a core does, it begins with a phase.
            let t = target.now;
            let event = Event { t, kind: Kind::Phase, flags: 0, peer: PEER_ALL, msg: 0, intid: 0xFF, extra: 0, arg: 0 };
            target.emit(core, Context::Thread, event);
        }
        World {
            target,
            calling,
            ledger: BTreeMap::new(),
            pending: BTreeSet::new(),
            again: BTreeSet::new(),
            masked: vec![false; cores],
            disabled: vec![false; cores],
            open: vec![[None; 2]; cores],
            handlers: vec![Vec::new(); cores],
            strays: 0,
        }
    }

    /// Steps played to an end: all is answered or given up, or the run was cut short.
    fn played(calling: bool, steps: &[Step], interrupted: bool) -> Self {
        let mut world = World::new(calling);
        for step in steps {
            world.play(*step);
            world.target.now += 1;
        }
        world.end(interrupted);
        world
    }

    fn pair(&self, slot: usize) -> Pair {
        let PairSlot { from, to, intid, .. } = self.target.slots[slot];
        (from, to, intid)
    }

    /// First slots of a core's broadcasts.
    fn broadcast_slot(&self, core: u16) -> Option<usize> {
        let phase = self.target.compiled.meta.phases.iter().position(|phase| phase.pattern == "broadcast")?;
        let first = self.target.slots.iter().position(|slot| usize::from(slot.phase) == phase)?;
        (self.target.slots[first].from == core).then_some(first)
    }

    /// The pair slots that a core sends to by itself.
    fn slots(&self, core: u16) -> Vec<usize> {
        let phases = &self.target.compiled.meta.phases;
        let usable = |slot: &PairSlot| {
            let single = phases[usize::from(slot.phase)].pattern != "broadcast";
            slot.from == core && single && (!self.calling || KINDS.iter().any(|kind| kind.intid() == slot.intid))
        };
        (0..self.target.slots.len()).filter(|slot| usable(&self.target.slots[*slot])).collect()
    }

    /// Slots of a core whose newest message waits for an answer.
    fn waiting(&self, core: u16) -> Vec<usize> {
        let open = |slot: &usize| {
            let (newest, answered) = self.target.numbers(*slot);
            self.target.slots[*slot].from == core && self.target.waits_for(*slot) && newest != answered
        };
        (0..self.target.slots.len()).filter(open).collect()
    }

    /// Who may send on a core now: its thread, its IRQ handler, or nobody. Who broadcasts waits for all answers.
    fn sender(&self, core: u16) -> Option<Context> {
        let first = self.broadcast_slot(core);
        if let Some(first) = first.filter(|_| self.open[usize::from(core)][0].is_none())
            && self.waiting(core).iter().any(|slot| (first..first + usize::from(CORES)).contains(slot))
        {
            return None;
        }
        match self.handlers[usize::from(core)].last() {
            None => Some(Context::Thread),
            Some((Context::Irq, _)) if self.calling => Some(Context::Irq),
            Some(_) => None,
        }
    }

    /// The INTID that an acknowledge in this context gives.
    fn highest(&self, core: u16, nmi: bool) -> Option<u8> {
        let class = |intid: &u8| (self.calling && is_nmi(*intid)) == nmi;
        let enabled = !self.disabled[usize::from(core)];
        self.pending.range((core, 0)..(core + 1, 0)).map(|(_, intid)| *intid).find(|intid| enabled && class(intid))
    }

    fn sent(&mut self, slot: usize, msg: u32, t: u64, many: bool) {
        let truth = Truth { t, fate: Fate::Open, entry: 0, many };
        assert!(self.ledger.insert((self.pair(slot), msg), truth).is_none(), "a number was given twice");
    }

    /// An SGI is written.
    fn write(&mut self, (_, to, intid): Pair, way: Way) {
        match way {
            Way::Right => {
                self.pending.insert((to, intid));
            }
            Way::Dropped => {}
            Way::Wrong(further) => {
                self.strays += 1;
                self.pending.insert(((to + further) % CORES, intid));
            }
            Way::Twice => {
                self.pending.insert((to, intid));
                self.again.insert((to, intid));
            }
        }
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Post(core, pair, way) => self.post(core, pair, way),
            Step::PostMany(core, set) => self.post_many(core, set),
            Step::Go(core) => self.go_on(core),
            Step::Enter(core, other) => self.enter(core, other),
            Step::Finish(core) => self.finish(core),
            Step::Mask(core, on) => self.masked[usize::from(core)] = on,
            Step::Disable(core, on) => self.disabled[usize::from(core)] = on,
            Step::Probe(core, pair) => {
                let waiting = self.waiting(core);
                if self.is_idle(core) && !waiting.is_empty() {
                    let slot = waiting[pair % waiting.len()];
                    let (_, to, intid) = self.pair(slot);
                    let (t, msg) = (self.target.now, self.target.numbers(slot).0);
                    let arg = self.look(slot);
                    let event = Event { t, kind: Kind::Probe, flags: 0, peer: to, msg, intid, extra: 0, arg };
                    self.target.emit(core, Context::Thread, event);
                }
            }
            Step::GiveUp(core, pair) => {
                let waiting = self.waiting(core);
                if self.is_idle(core) && !waiting.is_empty() {
                    self.give_up(waiting[pair % waiting.len()]);
                }
            }
            Step::Gap(core, timer, long) => {
                let context = if timer { Context::Irq } else { Context::Thread };
                if self.is_idle(core) {
                    self.target.gap(core, context, self.target.now - long);
                }
            }
            Step::Pass(ticks) => self.target.now += ticks,
        }
    }

    /// A core's thread runs and sends nothing.
    fn is_idle(&self, core: u16) -> bool {
        self.handlers[usize::from(core)].is_empty() && self.open[usize::from(core)][0].is_none()
    }

    fn post(&mut self, core: u16, pair: usize, way: Way) {
        let Some(context) = self.sender(core) else { return };
        if self.open[usize::from(core)][context as usize].is_some() {
            return;
        }
        let slots = self.slots(core);
        let slot = slots[pair % slots.len()];
        let t = self.target.now;
        let msg = self.target.post(slot, t);
        self.sent(slot, msg, t, false);
        let open = Open { slot, msg, t, way, flagged: false, broadcast: false };
        self.open[usize::from(core)][context as usize] = Some(open);
    }

    fn post_many(&mut self, core: u16, set: u8) {
        let Some(context) = self.sender(core) else { return };
        if self.open[usize::from(core)][context as usize].is_some() {
            return;
        }
        if self.calling {
            let kind = IpiKind::TimerBroadcast;
            let targets: Vec<u16> = (0..CORES).filter(|to| set >> to & 1 == 1).collect();
            let t = self.target.now;
            self.target.send_many(context, kind, core, &targets);
            for (place, to) in targets.iter().enumerate() {
                let slot = self.target.row(kind, core, *to);
                let msg = self.target.numbers(slot).0;
                self.sent(slot, msg, t + place as u64 / 2, true);
                self.write(self.pair(slot), Way::Right);
            }
        } else if let Some(first) = self.broadcast_slot(core) {
            for to in self.target.post_broadcast(first) {
                let slot = first + usize::from(to);
                self.sent(slot, self.target.numbers(slot).0, u64::MAX, false);
            }
            let open = Open { slot: first, msg: 0, t: 0, way: Way::Right, flagged: true, broadcast: true };
            self.open[usize::from(core)][context as usize] = Some(open);
        }
    }

    fn go_on(&mut self, core: u16) {
        let Some(context) = self.sender(core) else { return };
        let place = &mut self.open[usize::from(core)][context as usize];
        let Some(open) = place else { return };
        if !open.flagged {
            open.flagged = true;
            self.target.flag(open.slot);
            return;
        }
        let open = *open;
        *place = None;
        if open.broadcast {
            let t = self.target.now;
            self.target.stamp_broadcast(open.slot, 1);
            for truth in self.ledger.iter_mut().filter(|((pair, _), truth)| pair.0 == core && truth.t == u64::MAX) {
                truth.1.t = t;
            }
            for to in (0..CORES).filter(|to| *to != core) {
                self.write(self.pair(open.slot + usize::from(to)), Way::Right);
            }
            return;
        }
        self.write(self.pair(open.slot), open.way);
        let window = (self.target.now - open.t) as u32;
        self.target.record_send(context, open.slot, open.msg, open.t, window);
    }

    /// `other`: for the timer, say, where there is no SGI.
    fn enter(&mut self, core: u16, other: bool) {
        let place = usize::from(core);
        let now = self.target.now;
        // A plan that calls sends with interrupts masked.
        let sending = self.calling && self.open[place].iter().any(Option::is_some);
        let stack = &self.handlers[place];
        let in_nmi = stack.iter().any(|(context, _)| *context == Context::Nmi);
        let context = match (self.highest(core, true), self.highest(core, false)) {
            (Some(_), _) if !in_nmi => Context::Nmi,
            (_, irq) if stack.is_empty() && !self.masked[place] && !sending && (irq.is_some() || other) => Context::Irq,
            _ => return,
        };
        self.handlers[place].push((context, now));
    }

    fn finish(&mut self, core: u16) {
        let place = usize::from(core);
        let Some((context, entry)) = self.handlers[place].last().copied() else { return };
        if context == Context::Irq && self.open[place][1].is_some() {
            return;
        }
        self.handlers[place].pop();
        let Some(intid) = self.highest(core, context == Context::Nmi) else {
            return self.target.heartbeat(core, entry, 0);
        };
        self.pending.remove(&(core, intid));
        if self.again.remove(&(core, intid)) {
            self.strays += 1;
            self.pending.insert((core, intid));
        }
        let (kind, flags) = (IpiKind::from_intid(intid).unwrap(), if context == Context::Nmi { FLAG_NMI } else { 0 });
        if self.calling {
            self.target.stage(core, context, kind, self.target.now, 0);
        }
        let answers = self.target.answer(core, intid, entry, context, flags);
        if answers.is_empty() {
            self.target.empty(core, intid, entry, context);
        }
        for answer in answers {
            let pair = (answer.from, core, intid);
            for number in answer.msg + 1 - answer.count..=answer.msg {
                let truth = self.ledger.get_mut(&(pair, number)).expect("sent");
                assert_eq!(truth.fate, Fate::Open, "{pair:?} {number}");
                let newest = number == answer.msg;
                truth.fate = if newest && answer.delivered { Fate::Delivered } else { Fate::Coalesced };
                truth.entry = entry;
            }
        }
        if self.calling {
            self.target.stage(core, context, kind, self.target.now + 1, 1);
        }
        self.target.now += 2;
    }

    /// What a target's redistributor shows of a slot's SGI.
    fn look(&self, slot: usize) -> u64 {
        let (_, to, intid) = self.pair(slot);
        let enabled = if self.disabled[usize::from(to)] { 0 } else { PROBE_ENABLED };
        enabled | if self.pending.contains(&(to, intid)) { PROBE_PENDING } else { 0 }
    }

    fn give_up(&mut self, slot: usize) {
        let seen = self.look(slot);
        let (newest, answered) = self.target.numbers(slot);
        self.target.retire(slot, seen);
        let fate = if seen == PROBE_ENABLED { Fate::Lost } else { Fate::Unknown };
        for number in answered + 1..=newest {
            self.ledger.get_mut(&(self.pair(slot), number)).expect("sent").fate = fate;
        }
    }

    /// Sends and handlers under way end; then all that is pending is taken, and what nobody will answer is given up.
    fn end(&mut self, interrupted: bool) {
        for core in 0..CORES {
            while !self.handlers[usize::from(core)].is_empty() || self.open[usize::from(core)][0].is_some() {
                self.go_on(core);
                self.finish(core);
                self.target.now += 1;
            }
        }
        if interrupted {
            self.target.state = run_state::ABORTED;
            self.target.ended = Some(Ended::Interrupted);
            return;
        }
        self.masked.fill(false);
        self.disabled.fill(false);
        while let Some((core, _)) = self.pending.first().copied() {
            self.enter(core, false);
            self.target.now += 1;
            self.finish(core);
        }
        for core in 0..CORES {
            for slot in self.waiting(core) {
                self.give_up(slot);
            }
        }
        for phase in 0..self.target.phases.len() {
            self.target.end(phase);
        }
    }

    /// What became of the messages of each pair.
    fn counts(&self) -> BTreeMap<Pair, Counts> {
        let mut all: BTreeMap<Pair, Counts> = BTreeMap::new();
        for ((pair, _), truth) in &self.ledger {
            let counts = all.entry(*pair).or_default();
            counts.sent += 1;
            match truth.fate {
                Fate::Open => counts.in_flight += 1,
                Fate::Delivered => counts.delivered += 1,
                Fate::Coalesced => counts.coalesced += 1,
                Fate::Lost => counts.lost += 1,
                Fate::Unknown => counts.unknown += 1,
            }
        }
        all
    }

    fn joined(&self) -> Ipis {
        let folder = tempfile::tempdir().unwrap();
        correlate(&Capture::open(&self.target.saved(folder.path())).unwrap()).unwrap()
    }

    fn told(&self) -> (Ipis, Vec<Message>) {
        let folder = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        let capture = Capture::open(&self.target.saved(folder.path())).unwrap();
        let hear = &mut |message: &Message| {
            told.push(*message);
            true
        };
        let ipis = correlate_heard(&capture, hear).unwrap();
        (ipis, told)
    }

    /// Messages whose record with their number the host got, of each pair.
    fn surviving(&self) -> BTreeMap<Pair, u64> {
        let mut all = BTreeMap::new();
        for (lane, records) in self.target.lanes.iter().enumerate() {
            for (at, words) in records.iter().enumerate().filter(|(at, _)| !self.target.gone.contains_key(&(lane, *at)))
            {
                let event = Record::from_words(*words, at as u64).unwrap().event;
                if event.kind == Kind::Send && event.peer < CORES {
                    *all.entry(((lane / LANES_PER_CORE) as u16, event.peer, event.intid)).or_default() += 1;
                }
            }
        }
        all
    }

    /// What nobody explains is at most what the GIC made up.
    fn holds_strays(&self, ipis: &Ipis) {
        let found = ipis.spurious + ipis.duplicate + ipis.totals.misrouted;
        assert!(found <= self.strays, "{found} of {}: {:?}", self.strays, ipis.receptions);
    }

    fn lose(&mut self, holes: &[Hole]) {
        for (lane, from, count, why) in holes {
            let lane = lane / 3 * LANES_PER_CORE + lane % 3;
            let records = self.target.lanes[lane].len();
            let from = from * records / 1000;
            let until = match why {
                Gone::Left | Gone::Dropped => records,
                _ => (from + (count * records).div_ceil(1000)).min(records),
            };
            let tail = (0..records).find_map(|at| {
                let gone = self.target.gone.get(&(lane, at)).copied();
                gone.filter(|gone| matches!(gone, Gone::Left | Gone::Dropped)).map(|_| at)
            });
            // A lane ends once.
            for at in from..until.min(tail.unwrap_or(until)) {
                self.target.gone.insert((lane, at), *why);
            }
        }
    }
}

/// The counts of a joined run by pair; slots without a message are left out.
fn by_pair(ipis: &Ipis) -> BTreeMap<Pair, Counts> {
    let mut all: BTreeMap<Pair, Counts> = BTreeMap::new();
    for slot in ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
        assert!(slot.counts.is_whole(), "{slot:?}");
        all.entry((slot.from, slot.to, slot.intid)).or_default().add(&slot.counts);
    }
    let mut totals = Counts::default();
    all.values().for_each(|counts| totals.add(counts));
    assert_eq!(totals, ipis.totals);
    all
}

/// A message that another core took is one that its own never got.
fn without_routes(all: &BTreeMap<Pair, Counts>) -> BTreeMap<Pair, Counts> {
    let fold = |counts: &Counts| Counts { lost: counts.lost + counts.misrouted, misrouted: 0, ..*counts };
    all.iter().map(|(pair, counts)| (*pair, fold(counts))).collect()
}

/// Holds every message that was told against the truth; gives what was told, by pair.
fn check(world: &World, told: &[Message], lossless: bool) -> BTreeMap<Pair, Counts> {
    let mut all: BTreeMap<Pair, Counts> = BTreeMap::new();
    let mut numbers = BTreeSet::new();
    for message in told {
        let Some(from) = message.from else { continue };
        let pair = (from, message.to, message.intid);
        let outcome = message.outcome.expect("a send has one");
        let counts = all.entry(pair).or_default();
        counts.sent += message.count;
        *match outcome {
            Outcome::Delivered => &mut counts.delivered,
            Outcome::Coalesced => &mut counts.coalesced,
            Outcome::Lost => &mut counts.lost,
            Outcome::Misrouted => &mut counts.misrouted,
            Outcome::InFlight => &mut counts.in_flight,
            Outcome::Unknown => &mut counts.unknown,
        } += message.count;
        let Some(number) = message.number else {
            if let Some(latency) = message.latency {
                // One of a send to many, whose own time nobody recorded: it lies within the send's.
                let near = |truth: &Truth| {
                    truth.many && truth.latency().is_some_and(|true_one| true_one.abs_diff(latency) <= 1)
                };
                let of_pair = world.ledger.range((pair, 0)..=(pair, u32::MAX));
                assert!(of_pair.map(|(_, truth)| truth).any(near), "no such latency: {message:?}");
            }
            continue;
        };
        let truth = world.ledger.get(&(pair, number)).unwrap_or_else(|| panic!("never sent: {message:?}"));
        let right = match outcome {
            Outcome::Delivered => truth.fate == Fate::Delivered,
            Outcome::Coalesced => truth.fate == Fate::Coalesced,
            Outcome::Lost | Outcome::Misrouted => truth.fate == Fate::Lost,
            Outcome::InFlight => truth.fate == Fate::Open,
            Outcome::Unknown => !lossless || truth.fate == Fate::Unknown,
        };
        assert!(right, "{message:?} is {truth:?}");
        if matches!(outcome, Outcome::Delivered | Outcome::Coalesced | Outcome::InFlight) {
            assert!(numbers.insert((pair, number)), "told twice: {message:?}");
        }
        if matches!(outcome, Outcome::Delivered | Outcome::Coalesced) {
            assert_eq!(message.entry, Some(truth.entry), "{message:?} is {truth:?}");
            match message.latency {
                None => assert!(!lossless || truth.latency().is_none(), "{message:?} is {truth:?}"),
                latency => assert_eq!(latency, truth.latency(), "{message:?} is {truth:?}"),
            }
        }
    }
    all
}

/// Whole records tell of every message what became of it, by the counters and without them, in any order of the lanes.
fn tell_all(calling: bool, steps: &[Step], interrupted: bool, seed: u64) {
    let mut world = World::played(calling, steps, interrupted);
    let truth = world.counts();
    for order in [Order::Pieces, Order::Backwards, Order::Shuffled(seed)] {
        world.target.order = order;
        world.target.with_snapshot = true;
        let ipis = world.joined();
        assert_eq!((ipis.from, &without_routes(&by_pair(&ipis))), (From::Target, &truth), "{order:?}");
        world.holds_strays(&ipis);
        for with_snapshot in [true, false] {
            world.target.with_snapshot = with_snapshot;
            let (ipis, told) = world.told();
            let counts = check(&world, &told, true);
            assert_eq!(without_routes(&counts), truth, "{order:?}, {with_snapshot}");
            assert_eq!(by_pair(&ipis), counts);
            world.holds_strays(&ipis);
        }
        let ipis = world.joined();
        assert_eq!((ipis.from, &without_routes(&by_pair(&ipis))), (From::Records, &truth), "{order:?}");
    }
}

/// Whatever is missing: nothing is told that is not so, and what the host got is told.
fn make_nothing_up(calling: bool, steps: &[Step], holes: &[Hole], interrupted: bool, seed: u64) {
    let mut world = World::played(calling, steps, interrupted);
    world.lose(holes);
    let (truth, surviving) = (world.counts(), world.surviving());
    for order in [Order::Pieces, Order::Backwards, Order::Shuffled(seed)] {
        world.target.order = order;
        world.target.with_snapshot = true;
        let ipis = world.joined();
        assert_eq!(without_routes(&by_pair(&ipis)), truth, "counters know all the same, {order:?}");
        world.holds_strays(&ipis);
        for with_snapshot in [true, false] {
            world.target.with_snapshot = with_snapshot;
            let (ipis, told) = world.told();
            let counts = check(&world, &told, false);
            assert_eq!(by_pair(&ipis), counts);
            world.holds_strays(&ipis);
            for (pair, counts) in without_routes(&counts) {
                let truth = truth[&pair];
                let most = counts.sent <= truth.sent
                    && counts.delivered <= truth.delivered
                    && counts.coalesced <= truth.coalesced
                    && counts.lost <= truth.lost
                    && counts.in_flight <= truth.in_flight;
                assert!(counts.is_whole() && most, "{order:?} {pair:?}: {counts:?} of {truth:?}");
                let least = surviving.get(&pair).copied().unwrap_or(0);
                assert!(counts.sent >= least, "{order:?} {pair:?}: {counts:?} of at least {least}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whole_records_tell_of_every_message_what_became_of_it(
        calling in any::<bool>(), steps in steps(), interrupted in any::<bool>(), seed in any::<u64>()
    ) {
        tell_all(calling, &steps, interrupted, seed);
    }

    #[test]
    fn missing_records_make_outcomes_unknown_and_never_others(
        calling in any::<bool>(), steps in steps(), holes in holes(), interrupted in any::<bool>(), seed in any::<u64>()
    ) {
        make_nothing_up(calling, &steps, &holes, interrupted, seed);
    }
}

/// What the properties found, each as the shortest sequence that shows it.
mod found {
    use super::Step::{Enter, Finish, GiveUp, Go, Pass, Post, PostMany};
    use super::{Gone, Way, make_nothing_up, tell_all};

    #[test]
    fn a_broadcast_that_was_on_its_way_at_the_end_is_told_by_records_alone() {
        tell_all(false, &[PostMany(0, 0)], true, 1);
    }

    #[test]
    fn messages_of_two_phases_that_are_given_up_together_are_counted_once() {
        // The first pair and the next one of core 0 to core 2, in different phases.
        let twice = [Post(0, 1, Way::Right), Go(0), Go(0), Post(0, 3, Way::Right), Go(0), Go(0), GiveUp(0, 1)];
        tell_all(false, &twice, true, 1);
    }

    #[test]
    fn a_handler_that_was_under_way_when_its_message_was_given_up_is_not_spurious() {
        tell_all(false, &[Post(0, 0, Way::Right), Go(0), Go(0), Enter(1, false), GiveUp(0, 0), Finish(1)], false, 1);
    }

    #[test]
    fn an_answer_to_two_sends_to_many_before_their_times_takes_both() {
        tell_all(true, &[Enter(1, true), PostMany(0, 2), PostMany(0, 2)], false, 1);
    }

    #[test]
    fn an_sgi_that_was_answered_early_stays_legal_however_long_its_core_is_kept_away() {
        // Another core's giving up takes longer than T.
        let away = [Post(2, 0, Way::Dropped), Go(2), Go(2), GiveUp(2, 0)];
        let early =
            [Post(0, 0, Way::Right), Go(0), Post(2, 1, Way::Right), Go(2), Go(2), Enter(1, false), Finish(1), Go(0)];
        tell_all(false, &[&early[..], &away].concat(), false, 1);
    }

    #[test]
    fn the_last_record_of_a_lane_is_missed_though_no_snapshot_says_so() {
        let steps = [Post(1, 0, Way::Right), Go(1), Go(1), Enter(0, false), Finish(0)];
        make_nothing_up(false, &steps, &[(1, 0, 1, Gone::Damaged)], false, 1);
    }

    #[test]
    fn a_message_given_up_in_a_missing_record_does_not_make_its_acknowledge_spurious() {
        let steps = [Post(0, 0, Way::Right), Go(0), Go(0), GiveUp(0, 0), Pass(3)];
        make_nothing_up(true, &steps, &[(0, 600, 400, Gone::Lapped)], false, 1);
    }
}
