//! A capture as a Perfetto trace: a track for each core, in it lanes of slices, and an arrow from each send to each of its receives.
//!
//! A send is a slice as long as the write took, a receive is the handler from entry to exit with its callbacks inside; at trace levels
//! without exits a receive is an instant. An arrow stands for one IPI to one target that was answered, and has an id of its own, since a
//! flow cannot fork. The latency is an annotation of the receive, so that SQL finds it (`args`). What is lost is an instant on its lane.

use std::collections::HashMap;
use std::io::{self, Write};

use linux_trace::{Mask, Name, Texts, What};
use perfetto_writer::{Mark, Note, Options, Track, Unit, Writer};
use trace_ring::layout::Context;

use super::ExportError;
use super::events::{Arrow, Events, Step};
use crate::capture::Capture;
use crate::choice::Choice;

/// Writes it.
///
/// # Errors
///
/// The capture's, the scratch file's, the output's.
pub fn write(
    capture: &Capture,
    events: &Events<'_>,
    choice: Option<&Choice>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let info = capture.info();
    let root = match capture.linux() {
        Some(table) => format!("IPIs of {}", table.file),
        None => format!("IPIs of {} on {}", info.plan.name, info.machine),
    };
    let mut page = Page {
        writer: Writer::new(out, &Options { root: &root })?,
        cores: HashMap::new(),
        lanes: HashMap::new(),
        open: HashMap::new(),
        flight: HashMap::new(),
        asked: HashMap::new(),
        ends: events.has_exits(),
        bare: events.is_bare(),
        latest: 0,
    };
    events.each(choice, true, |step, names| Ok(page.step(step, names)?))?;
    page.close_all()?;
    page.writer.finish()?;
    Ok(())
}

/// A row of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Send(u8),
    Handler(u8),
    Idle,
    Marks,
}

impl Lane {
    /// Its name, and its place among its core's.
    const fn name(self, bare: bool) -> (&'static str, i32) {
        const NMI: u8 = Context::Nmi as u8;
        const THREAD: u8 = Context::Thread as u8;
        match self {
            Lane::Send(_) if !bare => ("sends", 0),
            Lane::Send(THREAD) => ("sends", 0),
            Lane::Send(NMI) => ("sends of NMIs", 2),
            Lane::Send(_) => ("sends of handlers", 1),
            Lane::Handler(NMI) => ("NMIs", 4),
            Lane::Handler(_) => ("handlers", 3),
            Lane::Idle => ("idle", 5),
            Lane::Marks => ("marks", 6),
        }
    }
}

/// Who asked for the next send of a core.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    callsite: Name,
    callback: Name,
}

struct Page<'a> {
    writer: Writer<&'a mut dyn Write>,
    cores: HashMap<u16, Track>,
    lanes: HashMap<(u16, Lane), Track>,
    /// How many slices are open on a lane.
    open: HashMap<(u16, Lane), u32>,
    /// IPIs on their way to a core: the counter, and how many.
    flight: HashMap<u16, (Track, i64)>,
    asked: HashMap<u16, Asked>,
    ends: bool,
    bare: bool,
    latest: u64,
}

impl Page<'_> {
    fn core(&mut self, core: u16) -> io::Result<Track> {
        if let Some(track) = self.cores.get(&core) {
            return Ok(*track);
        }
        let noun = if self.bare { "core" } else { "CPU" };
        let track = self.writer.track(self.writer.root(), &format!("{noun} {core}"), core.into())?;
        self.cores.insert(core, track);
        Ok(track)
    }

    fn lane(&mut self, core: u16, lane: Lane) -> io::Result<Track> {
        if let Some(track) = self.lanes.get(&(core, lane)) {
            return Ok(*track);
        }
        let parent = self.core(core)?;
        let (name, rank) = lane.name(self.bare);
        let track = self.writer.track(parent, name, rank)?;
        self.lanes.insert((core, lane), track);
        Ok(track)
    }

    fn in_flight(&mut self, core: u16, t: u64, change: i64) -> io::Result<()> {
        let (track, count) = match self.flight.get(&core) {
            Some(known) => *known,
            None => {
                let parent = self.core(core)?;
                (self.writer.counter(parent, "IPIs on their way here", Unit::Count, 7)?, 0)
            }
        };
        let count = count + change;
        self.flight.insert(core, (track, count));
        self.writer.count(track, t, count)
    }

    fn begin(&mut self, core: u16, lane: Lane, t: u64, mark: &Mark<'_>) -> io::Result<()> {
        let track = self.lane(core, lane)?;
        *self.open.entry((core, lane)).or_default() += 1;
        self.writer.begin(track, t, mark)
    }

    /// Ends the innermost slice of a lane, if one is open.
    fn end(&mut self, core: u16, lane: Lane, t: u64) -> io::Result<()> {
        let track = self.lane(core, lane)?;
        match self.open.get_mut(&(core, lane)) {
            Some(open) if *open > 0 => {
                *open -= 1;
                self.writer.end(track, t, &[])
            }
            _ => Ok(()),
        }
    }

    /// Ends all slices of a lane: what they were the begin of has no end in the trace.
    fn close(&mut self, core: u16, lane: Lane, t: u64) -> io::Result<()> {
        while self.open.get(&(core, lane)).is_some_and(|open| *open > 0) {
            self.end(core, lane, t)?;
        }
        Ok(())
    }

    fn close_all(&mut self) -> io::Result<()> {
        let mut open: Vec<(u16, Lane)> = self.open.keys().copied().collect();
        open.sort_unstable_by_key(|(core, lane)| (*core, lane.name(self.bare).1));
        open.into_iter().try_for_each(|(core, lane)| self.close(core, lane, self.latest))
    }

    fn step(&mut self, step: &Step, names: &dyn Texts) -> io::Result<()> {
        let event = &step.event;
        let (t, core) = (event.t, event.cpu);
        self.latest = self.latest.max(t);
        let context = if self.bare { step.context as u8 } else { Context::Irq as u8 };
        let (sends, handlers) = (Lane::Send(context), Lane::Handler(context));
        match event.what {
            What::SendCpu { callsite, callback, .. } | What::SendMask { callsite, callback, .. } => {
                self.asked.insert(core, Asked { callsite, callback });
                // Without raises, this is the send.
                if step.arrows.is_empty() { Ok(()) } else { self.send(step, sends, "ipi_send", names, Mask::default()) }
            }
            What::Raise { targets, reason } => self.send(step, sends, names.text(reason), names, targets),
            What::Entry { reason } => {
                // One that began before has no end in the trace.
                self.close(core, handlers, t)?;
                self.receive(step, handlers, names.text(reason))
            }
            What::Exit { .. } => self.close(core, handlers, t),
            What::FunctionEntry { function, .. } => {
                let name = names.text(function);
                self.begin(core, handlers, t, &Mark { name, category: "callback", ..Mark::default() })
            }
            What::FunctionExit { .. } => self.end(core, handlers, t),
            What::Idle { state: Some(state) } => {
                self.close(core, Lane::Idle, t)?;
                let name = format!("idle state {state}");
                self.begin(core, Lane::Idle, t, &Mark { name: &name, category: "idle", ..Mark::default() })
            }
            What::Idle { state: None } => self.close(core, Lane::Idle, t),
            What::Lost { count } => {
                self.close(core, handlers, t)?;
                self.close(core, Lane::Idle, t)?;
                let track = self.lane(core, handlers)?;
                self.writer.lost(track, t, count)
            }
            What::Mark { function, text, .. } if step.frame.is_none() => {
                let name = if text.is_none() { names.text(function) } else { names.text(text) };
                let track = self.lane(core, Lane::Marks)?;
                self.writer.instant(track, t, &Mark { name, category: "mark", ..Mark::default() })
            }
            What::Mark { .. }
            | What::Queue { .. }
            | What::Switch { .. }
            | What::IrqEntry { .. }
            | What::IrqExit { .. } => Ok(()),
        }
    }

    fn send(&mut self, step: &Step, lane: Lane, name: &str, names: &dyn Texts, targets: Mask) -> io::Result<()> {
        let (t, core) = (step.event.t, step.event.cpu);
        let asked = self.asked.remove(&core).unwrap_or_default();
        let flows: Vec<u64> = step.arrows.iter().filter(|arrow| arrow.whole).map(|arrow| arrow.id).collect();
        let mut to: Vec<u16> = targets.iter().collect();
        if to.is_empty() {
            to.extend(step.arrows.iter().filter_map(|arrow| arrow.other));
        }
        let to = to.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let mut notes = vec![("to", Note::Text(&to))];
        if !asked.callsite.is_none() {
            notes.push(("callsite", Note::Text(names.text(asked.callsite))));
        }
        if !asked.callback.is_none() {
            notes.push(("callback", Note::Text(names.text(asked.callback))));
        }
        let unanswered = step.arrows.iter().filter(|arrow| !arrow.whole).filter_map(|arrow| arrow.outcome);
        let unanswered = unanswered.map(|outcome| outcome.name()).collect::<Vec<_>>().join(",");
        if !unanswered.is_empty() {
            notes.push(("without an answer", Note::Text(&unanswered)));
        }
        self.begin(core, lane, t, &Mark { name, category: "send", flows: &flows, ends: &[], notes: &notes })?;
        self.end(core, lane, t.saturating_add(step.lasts_ns.unwrap_or(0)))?;
        for arrow in step.arrows.iter().filter(|arrow| arrow.whole) {
            if let Some(other) = arrow.other {
                self.in_flight(other, t, 1)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, step: &Step, lane: Lane, name: &str) -> io::Result<()> {
        let (t, core) = (step.event.t, step.event.cpu);
        let whole = || step.arrows.iter().filter(|arrow| arrow.whole);
        let ends: Vec<u64> = whole().map(|arrow| arrow.id).collect();
        let from = whole().filter_map(|arrow| arrow.other).map(|core| core.to_string()).collect::<Vec<_>>().join(",");
        let latency = |arrow: &Arrow| arrow.latency_ns;
        let mut notes = Vec::new();
        if !from.is_empty() {
            notes.push(("from", Note::Text(&from)));
        }
        // Of several that one handler answered, the one that waited longest.
        if let Some(longest) = whole().filter_map(latency).max_by(f64::total_cmp) {
            notes.push(("latency_ns", Note::Double(longest)));
        }
        if ends.len() > 1 {
            notes.push(("answers", Note::Uint(ends.len() as u64)));
        }
        if step.arrows.is_empty() {
            notes.push(("unannounced", Note::Bool(true)));
        }
        let mark = Mark { name, category: "receive", flows: &[], ends: &ends, notes: &notes };
        if self.ends {
            self.begin(core, lane, t, &mark)?;
        } else {
            let track = self.lane(core, lane)?;
            self.writer.instant(track, t, &mark)?;
        }
        match ends.len() {
            0 => Ok(()),
            count => self.in_flight(core, t, -(count as i64)),
        }
    }
}
