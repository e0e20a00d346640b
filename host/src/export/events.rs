//! A capture as one stream of Linux's events in order of time, whoever recorded it, with the IPIs that each event belongs to.
//!
//! Bare-metal moments are put into the terms of Linux's tracepoints here, once, for all formats that have those: text, trace.dat,
//! Perfetto. Where a filter or arrows are asked for, the IPIs that joining found are gathered first, sorted by their two ends, and
//! met again at the events that they are: an IPI's own send, and the entry that answered it. Events that lead to a send (a call that
//! is queued, `ipi_send_*`) come before it and share its fate; what happens inside a handler shares that of its entry.

use std::collections::{HashMap, VecDeque};

use filter::{Clock as FilterClock, Widen};
use linux_trace::{Clock, Event, Mask, Name, Names, Texts, What};
use trace_ring::calls::IpiKind;
use trace_ring::layout::Context;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{ExportError, Moment, Survey, Target, Targets, replay, survey};
use crate::capture::Capture;
use crate::choice::Choice;
use crate::correlate::correlate_heard;
use crate::correlate::message::{Message, Outcome};
use crate::linux::{Decoder, Table};
use crate::plan::Keep;
use crate::reason;
use crate::sorted::{Sorted, Sorter};
use crate::symbols::Symbols;

/// Events that wait for the send that they lead to; the oldest gives up.
const MOST_HELD: usize = 1 << 16;

/// One of the IPIs that an event is an end of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrow {
    /// The same number at both ends, and at no other's.
    pub id: u64,
    /// The core at the other end; `None`: nobody answered, or nobody sent.
    pub other: Option<u16>,
    /// From the send to the entry, ns.
    pub latency_ns: Option<f64>,
    /// What became of it.
    pub outcome: Option<Outcome>,
    /// The other end is an event of this stream, too.
    pub whole: bool,
    /// The filter picks it; true where there is none.
    pub picked: bool,
}

/// An event, and what Linux's own have no place for.
#[derive(Clone, Debug)]
pub struct Step {
    /// The event. Times are ns of the target's counter, rounded down, or of the trace's clock.
    pub event: Event,
    /// In which context of its core. A Linux trace does not say: interrupt.
    pub context: Context,
    /// How long the write that sends it took, ns, where it was measured.
    pub lasts_ns: Option<u64>,
    /// A frame of the stack behind the event before it: its address, and whether it is the innermost one.
    pub frame: Option<(u64, bool)>,
    /// The IPIs that it is the send of, or that it answers; empty where nobody asked.
    pub arrows: Vec<Arrow>,
    /// The time in the capture's own unit.
    t: u64,
    intid: u8,
}

/// The names of a stream's events: a Linux capture's own, or made on the way.
#[derive(Debug)]
pub enum Spoken<'a> {
    /// A Linux capture's.
    Table(&'a Table),
    /// Bare metal's.
    Names(Box<Names>),
}

impl Texts for Spoken<'_> {
    fn text(&self, name: Name) -> &str {
        match self {
            Spoken::Table(table) => table.name(name),
            Spoken::Names(names) => names.text(name),
        }
    }
}

#[derive(Debug)]
enum Source<'a> {
    Linux(&'a Table),
    Bare(Box<Bare>),
}

#[derive(Debug)]
struct Bare {
    target: Target,
    found: Survey,
    symbols: Symbols,
}

/// A capture that was looked through, and can be streamed.
#[derive(Debug)]
pub struct Events<'a> {
    capture: &'a Capture,
    source: Source<'a>,
}

impl<'a> Events<'a> {
    /// Looks through the capture: what can't be exported is found out before anything is written.
    ///
    /// # Errors
    ///
    /// The capture's, and that it does not tell the frequency of its counter.
    pub fn prepare(capture: &'a Capture) -> Result<Events<'a>, ExportError> {
        let source = match capture.linux() {
            Some(table) => Source::Linux(table),
            None => {
                let target = Target::of(capture)?;
                let found = survey(capture, &target)?;
                Source::Bare(Box::new(Bare { target, found, symbols: Symbols::of(capture) }))
            }
        };
        Ok(Events { capture, source })
    }

    /// CPUs of the machine.
    pub fn cpus(&self) -> u16 {
        match &self.source {
            Source::Linux(_) => self.capture.info().cores,
            Source::Bare(bare) => bare.target.cores,
        }
    }

    /// CPUs that came up; of a Linux trace all.
    pub fn online(&self) -> u16 {
        match &self.source {
            Source::Linux(_) => self.capture.info().cores,
            Source::Bare(bare) => bare.target.up.iter().filter(|up| **up).count() as u16,
        }
    }

    /// Events of the stream, those of loss not counted, and how many are missing.
    pub fn counts(&self) -> (u64, u64) {
        match &self.source {
            Source::Linux(table) => (table.counts.iter().map(|(_, count)| count).sum(), table.lost),
            Source::Bare(bare) => (bare.found.moments, bare.found.lost),
        }
    }

    /// The clock of its time stamps.
    pub fn clock(&self) -> Clock {
        match &self.source {
            Source::Linux(table) if table.resolution_ns == 0 => Clock::Counter,
            Source::Linux(_) => Clock::Unknown,
            Source::Bare(_) => Clock::Local,
        }
    }

    /// Whether its time stamps are ns, and not an order alone.
    pub fn is_timed(&self) -> bool {
        self.clock() != Clock::Counter
    }

    /// Whether sends are `ipi_raise`; in a Linux trace without those, they are `ipi_send_*`.
    pub fn has_raises(&self) -> bool {
        match &self.source {
            Source::Linux(table) => table.count("ipi_raise") > 0,
            Source::Bare(_) => true,
        }
    }

    /// Whether it says when handlers ended.
    pub fn has_exits(&self) -> bool {
        match &self.source {
            Source::Linux(table) => table.count("ipi_exit") > 0,
            Source::Bare(bare) => bare.found.exits > 0,
        }
    }

    /// Of bare metal.
    pub fn is_bare(&self) -> bool {
        matches!(self.source, Source::Bare(_))
    }

    /// A frame's function, as the kernel's stack traces print it: the name alone.
    pub fn frame(&self, address: u64) -> String {
        let name = match &self.source {
            Source::Linux(_) => None,
            // Where a call returns to may lie behind its function's end.
            Source::Bare(bare) => {
                let name = |address| bare.symbols.name(address);
                name(address.saturating_sub(1)).or_else(|| name(address))
            }
        };
        name.unwrap_or_else(|| format!("{address:#x}"))
    }

    /// What the stream does not say of itself, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let Source::Bare(bare) = &self.source else { return Vec::new() };
        let Bare { target, found, symbols } = &**bare;
        let mut notes = Vec::new();
        let plan = &self.capture.info().plan;
        if found.entries > 0 && found.exits == 0 {
            notes.push(format!(
                "there is no ipi_exit: trace level `{}` records no end of interrupt (run with --level stages)",
                plan.level
            ));
        }
        if found.moments == 0 {
            notes.push(format!("the capture holds no sends and no receptions (trace level `{}`)", plan.level));
        }
        if plan.keep != Keep::All {
            notes.push(
                "the capture was made to keep a part of the records alone (--keep): most lines are missing".into(),
            );
        }
        if target.has_kinds() && symbols.is_empty() {
            notes.push("the capture holds no ELF of the firmware: functions and call sites stay numbers".into());
        }
        if found.work > 0 {
            notes.push("IRQ work has no csd events, as in Linux: its ipi_send_cpu names the function".into());
        }
        if found.cut > 0 {
            notes.push(format!("{} sends to many cores are left out: a part of their targets was lost", found.cut));
        }
        let damage = found.damage;
        if damage.chunks + damage.messages > 0 || damage.truncated {
            notes.push("the capture is damaged or cut: what could be read is here".into());
        }
        notes
    }

    /// Hands every event to `visit`, in order of time: those that belong to an IPI that `choice` picks, and their neighbours, or all.
    /// `arrows`: with the IPIs that it is an end of.
    ///
    /// # Errors
    ///
    /// The capture's, the scratch file's, and `visit`'s.
    pub fn each(
        &self,
        choice: Option<&Choice>,
        arrows: bool,
        mut visit: impl FnMut(&Step, &dyn Texts) -> Result<(), ExportError>,
    ) -> Result<Spoken<'a>, ExportError> {
        let mut chooser = match choice.is_some() || arrows {
            true => Some(Chooser::new(Ends::gather(self.capture, choice, self.hz())?, choice, self)),
            false => None,
        };
        let mut failed = None;
        let spoken = match &self.source {
            Source::Linux(table) => {
                let mut decoder = Decoder::new(table);
                let names = Spoken::Table(table);
                self.capture.linux_rows_while(|_, rows| {
                    decoder.events(rows, |event| {
                        if failed.is_none() {
                            let step = Step::of_linux(event);
                            failed = pass(&mut chooser, step, &mut |step| visit(step, &names)).err();
                        }
                    });
                    failed.is_none()
                })?;
                if failed.is_none()
                    && let Some(chooser) = &mut chooser
                {
                    failed = chooser.last(&mut |step| visit(step, &names)).err();
                }
                names
            }
            Source::Bare(bare) => {
                let Bare { target, found, symbols } = &**bare;
                let mut words = Words {
                    target,
                    symbols,
                    names: Names::new(),
                    places: HashMap::new(),
                    functions: HashMap::new(),
                    latest: 0,
                };
                // Names are added while events that wait are handed on: two steps.
                let walked = replay(self.capture, target, found, |moment, nested| {
                    let step = words.step(moment, nested);
                    let names = &words.names;
                    pass(&mut chooser, step, &mut |step| visit(step, names))
                })?;
                failed = walked.err();
                if failed.is_none()
                    && let Some(chooser) = &mut chooser
                {
                    failed = chooser.last(&mut |step| visit(step, &words.names)).err();
                }
                Spoken::Names(Box::new(words.names))
            }
        };
        failed.map_or(Ok(spoken), Err)
    }

    /// Ticks per second of the capture's own times.
    pub fn hz(&self) -> u64 {
        match &self.source {
            Source::Linux(_) => 1_000_000_000,
            Source::Bare(bare) => bare.target.counter_hz,
        }
    }
}

/// What is done with each event.
type Visit<'a> = dyn FnMut(&Step) -> Result<(), ExportError> + 'a;

fn pass(chooser: &mut Option<Chooser<'_>>, step: Step, visit: &mut Visit<'_>) -> Result<(), ExportError> {
    match chooser {
        Some(chooser) => chooser.push(step, visit),
        None => visit(&step),
    }
}

impl Step {
    fn of_linux(event: &Event) -> Step {
        Step {
            event: *event,
            context: Context::Irq,
            lasts_ns: None,
            frame: None,
            arrows: Vec::new(),
            t: event.t,
            intid: 0,
        }
    }
}

/// Puts moments into Linux's words.
struct Words<'a> {
    target: &'a Target,
    symbols: &'a Symbols,
    names: Names,
    /// Addresses that calls return to.
    places: HashMap<u64, Name>,
    /// Functions, as `%pS` and as `%ps` print them.
    functions: HashMap<u64, (Name, Name)>,
    /// The time of the newest moment, ns.
    latest: u64,
}

impl Words<'_> {
    fn step(&mut self, moment: &Moment, nested: bool) -> Step {
        use super::What as Moved;
        let ns = |ticks: u64| {
            let ns = u128::from(ticks) * 1_000_000_000 / u128::from(self.target.counter_hz);
            u64::try_from(ns).unwrap_or(u64::MAX)
        };
        let core = moment.core;
        let (mut lasts_ns, mut frame, mut given) = (None, None, 0);
        // A loss at a lane's end stands behind everything that was.
        self.latest = if moment.t == u64::MAX { self.latest } else { ns(moment.t) };
        let t = self.latest;
        let what = match &moment.what {
            Moved::Queue { target, function, site, descriptor, .. } => What::Queue {
                cpu: *target,
                callsite: self.place(*site),
                function: self.function(*function).1,
                csd: self.target.descriptor(*descriptor),
            },
            Moved::Send { targets: Targets::One(target), site, callback } => {
                What::SendCpu { cpu: *target, callsite: self.place(*site), callback: self.function(*callback).0 }
            }
            Moved::Send { targets, site, callback } => What::SendMask {
                targets: self.mask(core, targets),
                callsite: self.place(*site),
                callback: self.function(*callback).0,
            },
            Moved::Raise { targets, kind, intid, window } => {
                (lasts_ns, given) = (window.map(ns), *intid);
                What::Raise { targets: self.mask(core, targets), reason: self.why(*kind, *intid) }
            }
            Moved::Entry { kind, intid } => {
                given = *intid;
                What::Entry { reason: self.why(*kind, *intid) }
            }
            Moved::Exit { kind, intid } => {
                given = *intid;
                What::Exit { reason: self.why(*kind, *intid) }
            }
            Moved::FunctionEntry { function, descriptor, .. } => {
                What::FunctionEntry { function: self.function(*function).1, csd: self.target.descriptor(*descriptor) }
            }
            Moved::FunctionExit { function, descriptor } => {
                What::FunctionExit { function: self.function(*function).1, csd: self.target.descriptor(*descriptor) }
            }
            Moved::Frame { address, first } => {
                frame = Some((*address, *first));
                What::Mark { function: Name::NONE, text: Name::NONE, user: false }
            }
            Moved::Lost(count) => What::Lost { count: Some(*count) },
        };
        let flags: &[u8; 5] = match moment.context {
            Context::Thread | Context::Fault => b".....",
            Context::Irq => b"d.h..",
            Context::Nmi if nested => b"d.Z..",
            Context::Nmi => b"d.z..",
        };
        let mut padded = [0; 8];
        padded[..5].copy_from_slice(flags);
        let (comm, pid) = if moment.idle { ("<idle>", 0) } else { ("ipiscope", u32::from(core) + 1) };
        let comm = self.names.add(comm.as_bytes());
        Step {
            event: Event { t, cpu: core, pid: Some(pid), comm, flags: padded, what },
            context: moment.context,
            lasts_ns,
            frame,
            arrows: Vec::new(),
            t: moment.t,
            intid: given,
        }
    }

    fn place(&mut self, address: u64) -> Name {
        let Words { symbols, names, places, .. } = self;
        *places.entry(address).or_insert_with(|| names.add(symbols.at_return(address).as_bytes()))
    }

    fn function(&mut self, address: u64) -> (Name, Name) {
        let Words { symbols, names, functions, .. } = self;
        *functions.entry(address).or_insert_with(|| {
            let name = symbols.name(address).unwrap_or_else(|| format!("{address:#x}"));
            (names.add(symbols.at(address).as_bytes()), names.add(name.as_bytes()))
        })
    }

    fn why(&mut self, kind: Option<IpiKind>, intid: u8) -> Name {
        self.names.add(reason::text(kind, intid).as_bytes())
    }

    fn mask(&self, from: u16, targets: &Targets) -> Mask {
        let mut mask = Mask::default();
        for (word, first) in self.target.mask(from, targets).iter().zip((0u32..).step_by(64)) {
            (0..64).filter(|bit| word >> bit & 1 == 1).for_each(|bit| {
                mask.insert(first + bit);
            });
        }
        mask
    }
}

// --- which IPIs an event is an end of -------------------------------------------------------------------------------

const SEND: u8 = 0;
const TAKE: u8 = 1;
const PICKED: u8 = 1;
const WHOLE: u8 = 2;

/// One end of an IPI, in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct End {
    t: u64,
    core: u16,
    role: u8,
    intid: u8,
    reason: u32,
    id: u64,
    latency: u64,
    other: u16,
    outcome: u8,
    flags: u8,
    unused: u32,
}

/// What of IPIs is still to be met.
struct Ends {
    sorted: Sorted<End>,
    /// Those whose time has come, until their event does.
    due: HashMap<(u64, u16, u8), Vec<End>>,
    tick_ns: f64,
}

impl Ends {
    fn gather(capture: &Capture, choice: Option<&Choice>, hz: u64) -> Result<Ends, ExportError> {
        let mut sorter = Sorter::default();
        let mut id = 0;
        correlate_heard(capture, &mut |message| {
            let picked = choice.is_none_or(|choice| choice.picks(message));
            id += 1;
            let ends = [
                (message.sent, SEND, message.from, Some(message.to)),
                (message.entry, TAKE, taker(message), message.from),
            ];
            let whole = ends.iter().all(|(t, _, core, _)| t.is_some() && core.is_some());
            for (t, role, core, other) in ends {
                let (Some(t), Some(core)) = (t, core) else { continue };
                sorter.push(End {
                    t,
                    core,
                    role,
                    intid: message.intid,
                    reason: message.reason.0,
                    id,
                    latency: message.latency.unwrap_or(u64::MAX),
                    other: other.unwrap_or(u16::MAX),
                    outcome: message.outcome.map_or(u8::MAX, |outcome| outcome as u8),
                    flags: if picked { PICKED } else { 0 } | if whole { WHOLE } else { 0 },
                    unused: 0,
                });
            }
            true
        })?;
        Ok(Ends {
            sorted: sorter.sorted().map_err(ExportError::Scratch)?,
            due: HashMap::new(),
            tick_ns: 1e9 / hz as f64,
        })
    }

    /// The IPIs of which this event is an end. `fits`: whether one of the same time and core is of it.
    fn take(&mut self, step: &Step, role: u8, fits: impl Fn(&End) -> bool) -> Result<Vec<Arrow>, ExportError> {
        while self.sorted.peek().is_some_and(|end| end.t <= step.t) {
            if let Some(end) = self.sorted.next().map_err(ExportError::Scratch)? {
                self.due.entry((end.t, end.core, end.role)).or_default().push(end);
            }
        }
        let key = (step.t, step.event.cpu, role);
        let Some(waiting) = self.due.get_mut(&key) else { return Ok(Vec::new()) };
        let tick_ns = self.tick_ns;
        let arrow = |end: End| Arrow {
            id: end.id,
            other: Some(end.other).filter(|core| *core != u16::MAX),
            latency_ns: Some(end.latency).filter(|latency| *latency != u64::MAX).map(|ticks| ticks as f64 * tick_ns),
            outcome: Outcome::from_code(end.outcome),
            whole: end.flags & WHOLE != 0,
            picked: end.flags & PICKED != 0,
        };
        let arrows = waiting.extract_if(.., |end| fits(end)).map(arrow).collect();
        if waiting.is_empty() {
            self.due.remove(&key);
        }
        Ok(arrows)
    }
}

/// The core at which a reception stands: of a misrouted IPI not its target, and nobody says here which.
fn taker(message: &Message) -> Option<u16> {
    (message.outcome != Some(Outcome::Misrouted)).then_some(message.to)
}

/// Whether an event is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    /// The send that it leads to has not come.
    Waits,
}

/// Meets events with their IPIs, and hands on what belongs to those that are picked.
struct Chooser<'a> {
    ends: Ends,
    choice: Option<&'a Choice>,
    bare: bool,
    /// The trace has raises, and they are the sends: `ipi_send_*` only lead to them, if at the same stamp.
    raises: bool,
    held: VecDeque<(Step, Fate)>,
    /// The number of the first one that is held.
    first: u64,
    /// Events of a core that wait for its next send.
    leading: HashMap<u16, Vec<u64>>,
    /// Whether the open handler of a core and context belongs.
    handlers: HashMap<(u16, u8), bool>,
    widen: Widen<Step>,
}

impl<'a> Chooser<'a> {
    fn new(ends: Ends, choice: Option<&'a Choice>, events: &Events<'_>) -> Self {
        let (around, clock) = choice
            .map_or((None, FilterClock::Ns), |choice| (choice.filter().neighbours(), choice.filter().schema().clock));
        Chooser {
            ends,
            choice,
            bare: events.is_bare(),
            raises: events.has_raises(),
            held: VecDeque::new(),
            first: 0,
            leading: HashMap::new(),
            handlers: HashMap::new(),
            widen: Widen::new(around, clock),
        }
    }

    fn push(&mut self, mut step: Step, visit: &mut Visit<'_>) -> Result<(), ExportError> {
        let (core, bare) = (step.event.cpu, self.bare);
        let lane = (core, step.context as u8);
        let same = |end: &End, reason: Name| match bare {
            true => end.intid == step.intid,
            false => end.reason == reason.0,
        };
        match step.event.what {
            What::Raise { targets, reason } => {
                step.arrows = self.ends.take(&step, SEND, |end| same(end, reason) && targets.contains(end.other))?;
            }
            // A Linux trace without raises has its sends alone.
            What::SendCpu { cpu, .. } if !self.raises => {
                step.arrows = self.ends.take(&step, SEND, |end| end.other == cpu)?;
            }
            What::SendMask { targets, .. } if !self.raises => {
                step.arrows = self.ends.take(&step, SEND, |end| targets.contains(end.other))?;
            }
            What::Entry { reason } => step.arrows = self.ends.take(&step, TAKE, |end| same(end, reason))?,
            _ => {}
        }
        if self.choice.is_none() {
            return visit(&step);
        }
        let belongs = step.arrows.iter().any(|arrow| arrow.picked);
        let fate_of = |belongs: bool| if belongs { Fate::Goes } else { Fate::Stays };
        let number = self.first + self.held.len() as u64;
        let fate = match step.event.what {
            What::Lost { .. } => Fate::Goes,
            What::Raise { .. } => {
                for number in self.leading.remove(&core).unwrap_or_default() {
                    self.decide(number, fate_of(belongs));
                }
                fate_of(belongs)
            }
            What::SendCpu { .. } | What::SendMask { .. } if belongs => {
                for number in self.leading.remove(&core).unwrap_or_default() {
                    self.decide(number, Fate::Goes);
                }
                Fate::Goes
            }
            What::SendCpu { .. } | What::SendMask { .. } | What::Queue { .. } => {
                self.leading.entry(core).or_default().push(number);
                Fate::Waits
            }
            What::Entry { .. } => {
                self.handlers.insert(lane, belongs);
                fate_of(belongs)
            }
            What::Exit { .. } => fate_of(self.handlers.remove(&lane).unwrap_or(false)),
            What::FunctionEntry { .. } | What::FunctionExit { .. } => {
                fate_of(self.handlers.get(&lane).copied().unwrap_or(false))
            }
            // A stack stands behind its event.
            _ if step.frame.is_some() => self.held.back().map_or(Fate::Stays, |(_, fate)| *fate),
            _ => Fate::Stays,
        };
        self.held.push_back((step, fate));
        if self.held.len() > MOST_HELD {
            self.decide(self.first, Fate::Stays);
        }
        self.hand_on(visit)
    }

    fn decide(&mut self, number: u64, fate: Fate) {
        let held = number.checked_sub(self.first).and_then(|at| self.held.get_mut(at as usize));
        if let Some((_, waiting)) = held.filter(|(_, waiting)| *waiting == Fate::Waits) {
            *waiting = fate;
        }
    }

    fn hand_on(&mut self, visit: &mut Visit<'_>) -> Result<(), ExportError> {
        while self.held.front().is_some_and(|(_, fate)| *fate != Fate::Waits)
            && let Some((step, fate)) = self.held.pop_front()
        {
            self.first += 1;
            let mut failed = None;
            let t = step.t;
            self.widen.push(step, t, fate == Fate::Goes, |step, _| {
                if failed.is_none() {
                    failed = visit(&step).err();
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Nothing more will come.
    fn last(&mut self, visit: &mut Visit<'_>) -> Result<(), ExportError> {
        for (_, fate) in self.held.iter_mut().filter(|(_, fate)| *fate == Fate::Waits) {
            *fate = Fate::Stays;
        }
        self.hand_on(visit)
    }
}
