//! Captures in the formats of other tools.
//!
//! Here the records of all lanes become one sequence of [`Moment`]s in order of time; the submodules put them into words.
//! A capture holds its lanes in the order in which they were drained, so they are merged in two passes over the file: the
//! first notes, for each stretch of it, the earliest time that is still to come; the second holds moments back until nothing
//! earlier can follow. What is held is what the lanes are apart: a sweep of the live drain, or the rings of a target that was
//! read at its end.

pub mod events;
pub mod ftrace;
pub mod perfetto;
pub mod rows;
pub mod trace_dat;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;

use trace_ring::calls::IpiKind;
use trace_ring::layout::{Context, LANES_PER_CORE, MAX_CORES, core_state};
use trace_ring::reader::Region;
use trace_ring::record::{Event, FLAG_DELIVERED, FLAG_STATE_MASK, Kind, PEER_ALL, ReceiverState, code_address};

use crate::capture::{Batch, Capture, CaptureError, Damage};
use crate::choice::{Choice, ChoiceError};
use crate::error::{Explain, exit};
use crate::plan::Keep;
use crate::reason::Reasons;

/// A format to export to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text as Linux's `trace` file has it.
    Ftrace,
    /// Perfetto's protobuf: slices by core and lane, an arrow from each send to each receive.
    Perfetto,
    /// trace.dat version 6, for trace-cmd and KernelShark.
    #[value(name = "trace.dat", alias = "trace-dat")]
    TraceDat,
    /// IPIs, one a line, as comma-separated values.
    Csv,
    /// IPIs, one JSON object a line.
    Json,
}

impl Format {
    /// Whether it is nothing for a terminal.
    pub const fn is_binary(self) -> bool {
        matches!(self, Format::Perfetto | Format::TraceDat)
    }
}

/// Batches of the file between two looks at what may be let go.
const STRETCH: usize = 64;

/// Moments of one tick that are put into causal order. A real target has no more of them.
const MOST_AT_ONCE: usize = 256;

/// Why a capture can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The filter.
    #[error(transparent)]
    Filter(#[from] ChoiceError),
    /// Its ticks can't be turned into seconds.
    #[error("the capture does not tell the frequency of its counter: {0}")]
    NoClock(String),
    /// What it becomes can't be written.
    #[error("can't write: {0}")]
    Write(#[from] io::Error),
    /// IPIs can't be sorted: the folder for temporary files is full, say.
    #[error("can't use a temporary file in {folder}: {error}", folder = std::env::temp_dir().display(), error = .0)]
    Scratch(#[source] io::Error),
}

impl Explain for ExportError {
    fn kind(&self) -> &'static str {
        match self {
            ExportError::Capture(error) => error.kind(),
            ExportError::Filter(error) => error.kind(),
            ExportError::NoClock(_) => "capture",
            ExportError::Write(_) | ExportError::Scratch(_) => "file",
        }
    }

    fn next_step(&self) -> String {
        match self {
            ExportError::Capture(error) => error.next_step(),
            ExportError::Filter(error) => error.next_step(),
            ExportError::NoClock(_) => "`ipiscope report` says what else the capture holds; run again".into(),
            ExportError::Write(_) => "make room there, or name another file with --out".into(),
            ExportError::Scratch(_) => "make room there, or name another folder with TMPDIR".into(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            ExportError::Capture(error) => error.exit_code(),
            ExportError::Filter(error) => error.exit_code(),
            _ => exit::UNMEASURED,
        }
    }
}

/// A capture that was looked through, and can be written: what can't be exported is found out before a file is created.
#[derive(Debug)]
pub struct Export<'a> {
    capture: &'a Capture,
    choice: Option<Choice>,
    to: Format,
    /// Of formats of events: the stream.
    events: Option<events::Events<'a>>,
}

impl<'a> Export<'a> {
    /// Looks through it. `filter`: which IPIs, and what belongs to them.
    ///
    /// # Errors
    ///
    /// The filter's, the capture's, and that its clock is not known.
    pub fn prepare(capture: &'a Capture, to: Format, filter: Option<&str>) -> Result<Export<'a>, ExportError> {
        let choice = filter.map(|text| Choice::of(text, capture)).transpose()?;
        let events = match to {
            Format::Csv | Format::Json => None,
            Format::Ftrace | Format::Perfetto | Format::TraceDat => Some(events::Events::prepare(capture)?),
        };
        Ok(Export { capture, choice, to, events })
    }

    /// Writes it. `nanoseconds`: of ftrace's text, nine digits behind the second, not six.
    ///
    /// # Errors
    ///
    /// The capture's, a scratch file's, the output's.
    pub fn write(&self, nanoseconds: bool, out: &mut dyn io::Write) -> Result<(), ExportError> {
        let choice = self.choice.as_ref();
        match (self.to, &self.events) {
            (Format::Csv, _) => rows::write(self.capture, choice, rows::Form::Csv, out).map(|_| ()),
            (Format::Json, _) => rows::write(self.capture, choice, rows::Form::Json, out).map(|_| ()),
            (Format::Ftrace, Some(events)) => ftrace::write(events, choice, nanoseconds, out),
            (Format::Perfetto, Some(events)) => perfetto::write(self.capture, events, choice, out),
            (Format::TraceDat, Some(events)) => trace_dat::write(self.capture, events, choice, out),
            (Format::Ftrace | Format::Perfetto | Format::TraceDat, None) => Ok(()),
        }
    }

    /// What the output does not say of itself, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.events.as_ref().map_or(Vec::new(), events::Events::notes)
    }
}

/// Targets of an IPI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// One core.
    One(u16),
    /// A set: bit n of word w is core 64 w + n.
    Set(Box<[u64]>),
    /// Every other core that is up.
    Others,
}

/// What happened, in the terms of Linux's tracepoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A call was put on a queue.
    Queue {
        /// The core that is called.
        target: u16,
        /// Address of the function.
        function: u64,
        /// Address behind the call.
        site: u64,
        /// Index of the descriptor.
        descriptor: u32,
        /// Low bits of its generation.
        generation: u8,
    },
    /// An IPI is about to be sent, and by whom.
    Send {
        /// To whom.
        targets: Targets,
        /// Address behind the call.
        site: u64,
        /// Address of what shall run there; 0: nothing in particular.
        callback: u64,
    },
    /// An IPI is sent.
    Raise {
        /// To whom.
        targets: Targets,
        /// What it asks for.
        kind: Option<IpiKind>,
        /// INTID.
        intid: u8,
        /// Until the write that sends it had retired, ticks, where the record says.
        window: Option<u64>,
    },
    /// The vector was entered.
    Entry {
        /// What the IPI asks for.
        kind: Option<IpiKind>,
        /// INTID.
        intid: u8,
    },
    /// A callback begins.
    FunctionEntry {
        /// Its address.
        function: u64,
        /// Index of the descriptor.
        descriptor: u32,
        /// Low bits of its generation.
        generation: u8,
    },
    /// It ended.
    FunctionExit {
        /// Its address.
        function: u64,
        /// Index of the descriptor.
        descriptor: u32,
    },
    /// The end of interrupt was written.
    Exit {
        /// What the IPI asked for.
        kind: Option<IpiKind>,
        /// INTID.
        intid: u8,
    },
    /// A frame of the stack behind the moment before it in the lane: of a sender (`--backtrace`), or of IPI backtrace's target.
    Frame {
        /// The program counter, or where a call returns to.
        address: u64,
        /// The innermost one.
        first: bool,
    },
    /// Records are missing here.
    Lost(u64),
}

/// Something that happened at a moment on a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Ticks.
    pub t: u64,
    /// Its place among all moments of one tick and lane.
    serial: u64,
    /// The core.
    pub core: u16,
    /// In which context of the core.
    pub context: Context,
    /// The interrupt found the core asleep.
    pub idle: bool,
    /// What.
    pub what: What,
}

impl Moment {
    fn lane(&self) -> usize {
        usize::from(self.core) * LANES_PER_CORE + self.context as usize
    }
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.t, self.serial).cmp(&(other.t, other.serial))
    }
}

/// What a capture says of its target, beside the records.
#[derive(Clone, Debug)]
pub struct Target {
    /// Ticks per second.
    pub counter_hz: u64,
    /// Cores in the device tree.
    pub cores: u16,
    /// Those that came up.
    pub up: Vec<bool>,
    /// Physical address of call descriptor 0.
    pub descriptors: u64,
    reasons: Reasons,
}

impl Target {
    /// Reads it from the newest snapshot.
    pub fn of(capture: &Capture) -> Result<Target, ExportError> {
        let no_clock = |why: String| ExportError::NoClock(why);
        let mut source = capture.snapshot().ok_or_else(|| no_clock("it holds no snapshot of the region".into()))?;
        let region = Region::open(&mut source).map_err(|error| no_clock(error.to_string()))?;
        let directory = &region.directory;
        if directory.counter_hz == 0 {
            return Err(no_clock("CNTFRQ_EL0 was 0".into()));
        }
        let entries = region.core_entries(&mut source).map_err(|error| no_clock(error.to_string()))?;
        Ok(Target {
            counter_hz: directory.counter_hz,
            // Region::open has checked that they are 1 to 512.
            cores: directory.core_count as u16,
            up: entries.iter().map(|core| core.state == core_state::UP || core.state == core_state::FAULTED).collect(),
            descriptors: directory.region_pa.wrapping_add(directory.sections.calls),
            reasons: Reasons::of(capture),
        })
    }

    /// Physical address of a call descriptor.
    pub fn descriptor(&self, index: u32) -> u64 {
        self.descriptors.wrapping_add(64 * u64::from(index))
    }

    /// Whether the plan uses IPI kinds.
    pub fn has_kinds(&self) -> bool {
        self.reasons.has_kinds()
    }

    /// A set of targets as words of bits, 64 cores each, for all cores of the machine.
    pub fn mask(&self, from: u16, targets: &Targets) -> Vec<u64> {
        let mut words = vec![0u64; usize::from(self.cores).div_ceil(64)];
        let mut set = |core: usize| {
            if let Some(word) = words.get_mut(core / 64) {
                *word |= 1 << (core % 64);
            }
        };
        match targets {
            Targets::One(core) => set(usize::from(*core)),
            Targets::Set(given) => {
                for (word, given) in words.iter_mut().zip(given) {
                    *word = *given;
                }
            }
            Targets::Others => {
                let others = self.up.iter().enumerate().filter(|(core, up)| **up && *core != usize::from(from));
                others.for_each(|(core, _)| set(core));
            }
        }
        words
    }
}

/// What the first pass finds, and what the user should know.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Moments, those of loss not counted.
    pub moments: u64,
    /// Records that are missing.
    pub lost: u64,
    /// Interrupts.
    pub entries: u64,
    /// Their ends.
    pub exits: u64,
    /// Callbacks of IRQ work, of which Linux traces none.
    pub work: u64,
    /// Sends of which a part is missing.
    pub cut: u64,
    /// What of the file could not be used.
    pub damage: Damage,
    /// The earliest time of each stretch of the file and of all behind it.
    floors: Vec<u64>,
}

/// Looks through a capture: the first pass.
pub fn survey(capture: &Capture, target: &Target) -> Result<Survey, CaptureError> {
    let mut lanes = Lanes::new(capture, target);
    let mut earliest = Vec::new();
    let mut survey = Survey::default();
    let mut batches = 0;
    let mut count = |moment: &Moment| match moment.what {
        What::Lost(count) => survey.lost = survey.lost.saturating_add(count),
        What::Entry { .. } => (survey.moments, survey.entries) = (survey.moments + 1, survey.entries + 1),
        What::Exit { .. } => (survey.moments, survey.exits) = (survey.moments + 1, survey.exits + 1),
        What::Frame { first: false, .. } => {}
        _ => survey.moments += 1,
    };
    let damage = capture.lanes(|batch| {
        if batches % STRETCH == 0 {
            earliest.push(u64::MAX);
        }
        batches += 1;
        lanes.batch(batch, &mut |moment| {
            count(&moment);
            if let Some(earliest) = earliest.last_mut() {
                *earliest = moment.t.min(*earliest);
            }
        });
    })?;
    lanes.last(&mut |moment| count(&moment));
    (survey.work, survey.cut, survey.damage) = (lanes.work, lanes.cut, damage);
    // Behind the last stretch nothing comes.
    let mut floor = u64::MAX;
    for earliest in earliest.iter_mut().rev() {
        floor = floor.min(*earliest);
        *earliest = floor;
    }
    survey.floors = earliest;
    Ok(survey)
}

/// Hands all moments to `visit` in order of time, those of one tick in an order that causes allow: the second pass.
/// `visit` also hears whether the moment of an NMI stands over an open interrupt; its error ends the pass.
pub fn replay<E>(
    capture: &Capture,
    target: &Target,
    survey: &Survey,
    mut visit: impl FnMut(&Moment, bool) -> Result<(), E>,
) -> Result<Result<(), E>, CaptureError> {
    let mut lanes = Lanes::new(capture, target);
    let mut held: BinaryHeap<Reverse<Moment>> = BinaryHeap::new();
    let mut open = Open::new(target.cores);
    let mut batches = 0;
    let mut failed = None;
    let mut let_go = |held: &mut BinaryHeap<Reverse<Moment>>, floor: u64| -> Result<(), E> {
        while let Some(Reverse(first)) = held.peek().filter(|Reverse(first)| first.t < floor || floor == u64::MAX) {
            let t = first.t;
            let mut group = Vec::new();
            while let Some(Reverse(moment)) = held.peek()
                && moment.t == t
            {
                group.extend(held.pop().map(|Reverse(moment)| moment));
            }
            arrange(group, target, &mut open, &mut visit)?;
        }
        Ok(())
    };
    capture.lanes_while(|batch| {
        if batches > 0 && batches % STRETCH == 0 {
            // What stood in stretches before this one was seen; the floor is that of this one and all behind it.
            let floor = survey.floors.get(batches / STRETCH).copied().unwrap_or(0);
            failed = let_go(&mut held, floor).err();
        }
        batches += 1;
        if failed.is_none() {
            lanes.batch(batch, &mut |moment| held.push(Reverse(moment)));
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Ok(Err(error));
    }
    lanes.last(&mut |moment| held.push(Reverse(moment)));
    Ok(let_go(&mut held, u64::MAX))
}

/// Which cores have an interrupt open.
struct Open {
    irq: Vec<bool>,
    nmi: Vec<bool>,
}

impl Open {
    fn new(cores: u16) -> Open {
        Open { irq: vec![false; cores.into()], nmi: vec![false; cores.into()] }
    }

    /// Whether a higher context than this is open: the lane's core does not run it now.
    fn covers(&self, core: u16, context: Context) -> bool {
        let is = |list: &[bool]| list.get(usize::from(core)).copied().unwrap_or(false);
        match context {
            Context::Thread => is(&self.irq) || is(&self.nmi),
            Context::Irq => is(&self.nmi),
            Context::Nmi | Context::Fault => false,
        }
    }

    fn see(&mut self, moment: &Moment) {
        let list = match moment.context {
            Context::Irq => &mut self.irq,
            Context::Nmi => &mut self.nmi,
            Context::Thread | Context::Fault => return,
        };
        let Some(open) = list.get_mut(usize::from(moment.core)) else { return };
        match moment.what {
            What::Entry { .. } => *open = true,
            What::Exit { .. } | What::Lost(_) => *open = false,
            _ => {}
        }
    }
}

/// Puts the moments of one tick into an order that causes allow, and hands them on: lanes keep theirs; a raise stands before
/// the entries that may answer it, a call's queueing before its function; a covered context waits for the one above it.
fn arrange<E>(
    mut group: Vec<Moment>,
    target: &Target,
    open: &mut Open,
    visit: &mut impl FnMut(&Moment, bool) -> Result<(), E>,
) -> Result<(), E> {
    let mut pass = |moment: &Moment, open: &mut Open| {
        let nested = moment.context == Context::Nmi && open.irq.get(usize::from(moment.core)).copied().unwrap_or(false);
        visit(moment, nested)?;
        open.see(moment);
        Ok(())
    };
    // The heap gives them by serial.
    if group.len() == 1 || group.len() > MOST_AT_ONCE {
        return group.iter().try_for_each(|moment| pass(moment, open));
    }
    let mut lanes: BTreeMap<usize, VecDeque<Moment>> = BTreeMap::new();
    for moment in group.drain(..) {
        lanes.entry(moment.lane()).or_default().push_back(moment);
    }
    loop {
        let waits = |front: &Moment| {
            open.covers(front.core, front.context)
                || lanes.values().flatten().any(|other| comes_before(other, front, target))
        };
        let best = lanes
            .iter()
            .filter_map(|(lane, moments)| Some((*lane, moments.front()?)))
            .min_by_key(|(_, front)| (waits(front), rank(&front.what), front.serial))
            .map(|(lane, _)| lane);
        let Some(moment) = best.and_then(|lane| lanes.get_mut(&lane)?.pop_front()) else { return Ok(()) };
        pass(&moment, open)?;
    }
}

/// Whether one moment is the cause of another of the same tick.
fn comes_before(cause: &Moment, effect: &Moment, target: &Target) -> bool {
    match (&cause.what, &effect.what) {
        (What::Raise { targets, intid, .. }, What::Entry { intid: taken, .. }) => {
            let bit = usize::from(effect.core);
            let hits = target.mask(cause.core, targets).get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
            // A lane never waits for itself.
            intid == taken && hits && cause.lane() != effect.lane()
        }
        (What::Queue { descriptor, generation, .. }, What::FunctionEntry { descriptor: run, generation: of, .. }) => {
            (descriptor, generation) == (run, of)
        }
        // A descriptor that is used again was freed by its target.
        (
            What::FunctionEntry { descriptor, generation, .. },
            What::Queue { descriptor: used, generation: again, .. },
        ) => descriptor == used && generation.wrapping_add(1) == *again,
        _ => false,
    }
}

/// Of moments that wait for nothing: what causes others goes first, what is caused goes last.
const fn rank(what: &What) -> u8 {
    match what {
        What::Frame { .. } => 0, // a stack stays in one piece
        What::Queue { .. } | What::Send { .. } | What::Raise { .. } | What::Lost(_) => 1,
        What::FunctionExit { .. } | What::Exit { .. } => 2,
        What::FunctionEntry { .. } => 3,
        What::Entry { .. } => 4,
    }
}

/// What was read of a lane so far.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// The number that the next record should have.
    next: u64,
    /// Records missed since the newest moment.
    missed: u64,
    /// The newest send, which a call site may explain.
    sent: Option<Sent>,
    /// A send to a set of which words are still to come.
    set: Option<Set>,
    /// The newest reception.
    taken: Option<Taken>,
    /// What was turned away at the lane's end.
    dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    t: u64,
    peer: u16,
    intid: u8,
    serial: u64,
}

#[derive(Clone, Debug)]
struct Set {
    t: u64,
    intid: u8,
    left: u8,
    words: Vec<u64>,
    serial: u64,
    /// All words have come: the call site, which comes behind them, needs them again.
    whole: bool,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    t: u64,
    intid: u8,
    kind: Option<IpiKind>,
    idle: bool,
}

/// Turns records into moments, lane by lane.
struct Lanes<'a> {
    target: &'a Target,
    lanes: Vec<Lane>,
    /// Records of each lane that the target wrote, where the capture says.
    written: Vec<Option<u64>>,
    /// A gap in a lane's numbers is a loss: the capture was made to hold every record.
    keeps_all: bool,
    serial: u64,
    work: u64,
    cut: u64,
}

impl<'a> Lanes<'a> {
    fn new(capture: &Capture, target: &'a Target) -> Lanes<'a> {
        let count = MAX_CORES * LANES_PER_CORE;
        let mut written = vec![None; count];
        for account in capture.ending().into_iter().flat_map(|ending| &ending.lanes) {
            let lane = usize::from(account.core) * LANES_PER_CORE + usize::from(account.context);
            if let Some(place) = written.get_mut(lane) {
                *place = Some(account.written);
            }
        }
        Lanes {
            target,
            lanes: vec![Lane::default(); count],
            written,
            keeps_all: capture.info().plan.keep == Keep::All,
            serial: 0,
            work: 0,
            cut: 0,
        }
    }

    fn batch(&mut self, batch: Batch<'_>, sink: &mut dyn FnMut(Moment)) {
        match batch {
            Batch::Records { core, context, first, bytes } => {
                let Some(place) = lane_of(core, context) else { return };
                for record in trace_ring::reader::records(first, bytes) {
                    let lane = &mut self.lanes[place];
                    // Records that were seen already are those of a file that was joined by hand.
                    if record.index < lane.next {
                        continue;
                    }
                    if record.index > lane.next && self.keeps_all {
                        lane.miss(record.index - lane.next, &mut self.cut);
                    }
                    lane.next = record.index + 1;
                    self.record(place, core, context, &record.event, sink);
                }
            }
            Batch::Lost { core, context, first, count, cause } => {
                let Some(place) = lane_of(core, context) else { return };
                let lane = &mut self.lanes[place];
                if cause == trace_ring::reader::Loss::Dropped {
                    lane.dropped = lane.dropped.saturating_add(count);
                    return;
                }
                let end = first.saturating_add(count);
                let gap = if self.keeps_all { first.saturating_sub(lane.next) } else { 0 };
                lane.miss(gap.saturating_add(count.min(end.saturating_sub(lane.next))), &mut self.cut);
                lane.next = lane.next.max(end);
            }
            Batch::Unkept { core, context, first, count } => {
                let Some(place) = lane_of(core, context) else { return };
                let lane = &mut self.lanes[place];
                let end = first.saturating_add(count);
                lane.miss(end.saturating_sub(lane.next), &mut self.cut);
                lane.next = lane.next.max(end);
            }
        }
    }

    /// What is missing at the lanes' ends stands behind all that happened.
    fn last(&mut self, sink: &mut dyn FnMut(Moment)) {
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            let seen = lane.next.saturating_add(lane.dropped);
            let unseen = match self.written[place] {
                Some(written) if self.keeps_all => written.saturating_sub(seen),
                _ => 0,
            };
            let missed = lane.missed.saturating_add(lane.dropped).saturating_add(unseen);
            let core = (place / LANES_PER_CORE) as u16;
            if missed > 0 && core < self.target.cores {
                self.serial += 4;
                sink(Moment {
                    t: u64::MAX,
                    serial: self.serial,
                    core,
                    context: Context::ALL[place % LANES_PER_CORE],
                    idle: false,
                    what: What::Lost(missed),
                });
            }
        }
    }

    fn record(&mut self, place: usize, core: u16, context: u8, event: &Event, sink: &mut dyn FnMut(Moment)) {
        // A core that the region does not have is damage.
        if core >= self.target.cores {
            return;
        }
        let context = Context::ALL[usize::from(context) % LANES_PER_CORE];
        let lane = &mut self.lanes[place];
        let mut put = |serial: u64, missed: u64, idle: bool, what: What| {
            let moment = |serial, what| Moment { t: event.t, serial, core, context, idle, what };
            if missed > 0 {
                sink(moment(serial - 3, What::Lost(missed)));
            }
            sink(moment(serial, what));
        };
        // Room for what stands before it: a loss, and the sender, who is told behind the send.
        self.serial += 4;
        let serial = self.serial;
        let asleep = lane.taken.is_some_and(|taken| taken.idle);
        let missed = lane.missed;
        let reasons = &self.target.reasons;
        match event.kind {
            Kind::Send => {
                let targets = if event.peer == PEER_ALL { Targets::Others } else { Targets::One(event.peer) };
                let kind = reasons.of_slot(event.slot());
                lane.sent = Some(Sent { t: event.t, peer: event.peer, intid: event.intid, serial });
                lane.set = None;
                put(
                    serial,
                    missed,
                    asleep,
                    What::Raise { targets, kind, intid: event.intid, window: Some(event.window()) },
                );
            }
            Kind::SendMask => {
                let joins = lane.set.as_ref().is_some_and(|set| {
                    !set.whole && (set.t, set.intid, set.left) == (event.t, event.intid, event.extra.wrapping_add(1))
                });
                if !joins {
                    self.cut += u64::from(lane.set.as_ref().is_some_and(|set| !set.whole));
                    let (t, intid) = (event.t, event.intid);
                    lane.set = Some(Set { t, intid, left: 0, words: Vec::new(), serial, whole: false });
                }
                lane.sent = None;
                let Some(set) = &mut lane.set else { return };
                let word = usize::from(event.peer / 64);
                if set.words.len() <= word {
                    set.words.resize(word + 1, 0);
                }
                set.words[word] |= event.arg;
                (set.left, set.serial, set.whole) = (event.extra, serial, event.extra == 0);
                if !set.whole {
                    return;
                }
                let targets = Targets::Set(set.words.clone().into());
                let kind = reasons.of_intid(event.intid);
                // As long as the whole send to many took; too long for the record: nobody knows.
                let window = (event.msg != u32::MAX).then(|| event.msg.into());
                put(serial, missed, asleep, What::Raise { targets, kind, intid: event.intid, window });
            }
            Kind::CallSite => {
                let site = code_address(event.arg as u32);
                let callback = code_address((event.arg >> 32) as u32);
                let explained = match (lane.sent.take(), lane.set.take()) {
                    (Some(sent), _) if (sent.t, sent.peer, sent.intid) == (event.t, event.peer, event.intid) => {
                        let targets = if sent.peer == PEER_ALL { Targets::Others } else { Targets::One(sent.peer) };
                        Some((sent.serial, targets))
                    }
                    (_, Some(set)) if set.whole && (set.t, set.intid) == (event.t, event.intid) => {
                        Some((set.serial, Targets::Set(set.words.into())))
                    }
                    _ => None,
                };
                // Linux names the sender before it raises, the records behind it. What it explains may be missing.
                let Some((raised, targets)) = explained else { return };
                put(raised - 2, 0, asleep, What::Send { targets, site, callback });
                return;
            }
            Kind::Queued => {
                // Linux's queue of work has no tracepoint: its IPI tells of it.
                if event.intid != IpiKind::CallFunction.intid() {
                    self.work += 1;
                    return;
                }
                let what = What::Queue {
                    target: event.peer,
                    function: code_address(event.arg as u32),
                    site: code_address((event.arg >> 32) as u32),
                    descriptor: event.msg,
                    generation: event.extra,
                };
                put(serial, missed, asleep, what);
            }
            Kind::Receive | Kind::ReceiveEmpty => {
                // The first answer of an acknowledge counts as delivered, those of further senders do not.
                let more = event.kind == Kind::Receive
                    && event.flags & FLAG_DELIVERED == 0
                    && lane.taken.is_some_and(|taken| (taken.t, taken.intid) == (event.t, event.intid));
                if more {
                    return;
                }
                let kind = match event.kind {
                    Kind::Receive => reasons.of_flow(event.peer, core, event.intid),
                    _ => reasons.of_intid(event.intid),
                };
                let state = ReceiverState::from_code(event.flags & FLAG_STATE_MASK);
                let idle = matches!(state, ReceiverState::Wfi | ReceiverState::Wfe | ReceiverState::Suspend);
                lane.taken = Some(Taken { t: event.t, intid: event.intid, kind, idle });
                put(serial, missed, idle, What::Entry { kind, intid: event.intid });
            }
            Kind::FunctionEntry | Kind::FunctionExit => {
                if event.intid != IpiKind::CallFunction.intid() {
                    self.work += 1;
                    return;
                }
                let function = code_address(event.arg as u32);
                let (descriptor, generation) = (event.msg, event.extra);
                let what = match event.kind {
                    Kind::FunctionEntry => What::FunctionEntry { function, descriptor, generation },
                    _ => What::FunctionExit { function, descriptor },
                };
                put(serial, missed, asleep, what);
            }
            Kind::Frame => put(serial, missed, asleep, What::Frame { address: event.arg, first: event.extra == 0 }),
            Kind::Stage if event.extra == 1 => {
                let taken = lane.taken.take();
                let (kind, intid) = match taken {
                    Some(taken) => (taken.kind, taken.intid),
                    None => (reasons.of_intid(event.intid), event.intid),
                };
                put(serial, missed, asleep, What::Exit { kind, intid });
            }
            _ => return,
        }
        lane.missed = 0;
    }
}

fn lane_of(core: u16, context: u8) -> Option<usize> {
    let inside = usize::from(core) < MAX_CORES && usize::from(context) < LANES_PER_CORE;
    inside.then(|| usize::from(core) * LANES_PER_CORE + usize::from(context))
}

impl Lane {
    /// So many records are missing here: what was under way has no end.
    fn miss(&mut self, count: u64, cut: &mut u64) {
        if count == 0 {
            return;
        }
        self.missed = self.missed.saturating_add(count);
        *cut += u64::from(self.set.take().is_some_and(|set| !set.whole));
        self.sent = None;
        self.taken = None;
    }
}
