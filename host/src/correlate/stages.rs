//! Where the time of an interrupt goes: stages, from the records of one lane, and which waits the core itself explains.
//!
//! A lane tells an interrupt in this order: the stamp after the acknowledge, what was received, callbacks, the stamp after the
//! end of interrupt; a park comes behind. An interrupt that was sent while its core's handler was at work had to wait for it:
//! that wait says nothing of the core, and is told apart here.

use trace_ring::calls::IpiKind;
use trace_ring::record::{Event, FLAG_UNTIMED, Kind};

use crate::stats::Samples;

/// A stage of an interrupt or of a call (`docs/call-layer.md`, "Stages").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// From a call's record to the send that it made.
    QueueToSend,
    /// From the send to the vector's stamp.
    SendToEntry,
    /// The same of an IPI that came while the core's handler was at work, for most of the time.
    SendToEntryBusy,
    /// From the vector's stamp to after the acknowledge.
    EntryToAcknowledge,
    /// From there to the first callback.
    AcknowledgeToCallback,
    /// A callback.
    Callback,
    /// From the end of the last callback to after the end of interrupt.
    CallbackToEnd,
    /// From after the acknowledge to after the end of interrupt, where no callback ran.
    AcknowledgeToEnd,
    /// From a call's record to its callback, whoever sent the SGI: what the caller felt.
    QueueToCallback,
    /// From a handler's first event to its last: of Linux traces, which know no acknowledge.
    EntryToExit,
}

impl Stage {
    /// All stages, in the order of a call's life.
    pub const ALL: [Stage; 10] = [
        Stage::QueueToSend,
        Stage::SendToEntry,
        Stage::SendToEntryBusy,
        Stage::EntryToAcknowledge,
        Stage::AcknowledgeToCallback,
        Stage::Callback,
        Stage::CallbackToEnd,
        Stage::AcknowledgeToEnd,
        Stage::QueueToCallback,
        Stage::EntryToExit,
    ];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::QueueToSend => "queue_to_send",
            Stage::SendToEntry => "send_to_entry",
            Stage::SendToEntryBusy => "send_to_entry_busy",
            Stage::EntryToAcknowledge => "entry_to_acknowledge",
            Stage::AcknowledgeToCallback => "acknowledge_to_callback",
            Stage::Callback => "callback",
            Stage::CallbackToEnd => "callback_to_end",
            Stage::AcknowledgeToEnd => "acknowledge_to_end",
            Stage::QueueToCallback => "queue_to_callback",
            Stage::EntryToExit => "entry_to_exit",
        }
    }
}

/// How long one stage took on one core.
#[derive(Clone, Debug)]
pub struct StageFigures {
    /// The stage.
    pub stage: Stage,
    /// What was sent; `None`: bare SGIs.
    pub kind: Option<IpiKind>,
    /// The core that it passed on.
    pub core: u16,
    /// Its lengths, ticks.
    pub samples: Samples,
}

/// Values kept as they are, in all stages together, where every core has them all.
const MOST_VALUES: usize = 8 << 20;

/// The kinds, and bare SGIs.
const KINDS: usize = IpiKind::ALL.len() + 1;

/// A free latency of this length is none: the core's own handler explains the wait.
pub(super) const BUSY: u64 = u64::MAX;

/// An interrupt whose end was not seen yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    acknowledged: u64,
    /// What was received was told.
    entered: bool,
    /// The end of its newest callback; 0: it had none.
    called: u64,
}

/// What is known of one lane that interrupts write.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    open: Option<Open>,
    /// When the interrupt before this one ended; `u64::MAX`: records of it are missing.
    free: u64,
    /// When the callback that runs began.
    callback: Option<u64>,
}

/// The stages of all cores.
#[derive(Debug)]
pub(super) struct Interrupts {
    /// IRQ and NMI lane of each core.
    lanes: Vec<[Lane; 2]>,
    /// By core, kind and stage.
    sets: Vec<Option<Box<Samples>>>,
    /// Values that one set keeps.
    limit: usize,
    /// The kind that each INTID stands for, as an index: [`KINDS`] - 1 for bare SGIs.
    kinds: [u8; 256],
}

impl Interrupts {
    /// `kinds`: INTIDs that the plan uses for kinds.
    pub(super) fn new(cores: usize, kinds: impl Iterator<Item = IpiKind>) -> Self {
        let mut by_intid = [KINDS as u8 - 1; 256];
        for kind in kinds {
            if let Some(place) = by_intid.get_mut(usize::from(kind.intid())) {
                *place = kind.intid();
            }
        }
        let sets = cores * KINDS * Stage::ALL.len();
        Interrupts {
            lanes: vec![[Lane::default(); 2]; cores],
            sets: std::iter::repeat_with(|| None).take(sets).collect(),
            limit: (MOST_VALUES / sets.max(1)).clamp(256, 1 << 16),
            kinds: by_intid,
        }
    }

    /// Adds one length.
    pub(super) fn push(&mut self, stage: Stage, core: u16, intid: u8, ticks: u64) {
        let kind = usize::from(self.kinds.get(usize::from(intid)).copied().unwrap_or(KINDS as u8 - 1));
        let place = (usize::from(core) * KINDS + kind) * Stage::ALL.len() + stage as usize;
        if let Some(set) = self.sets.get_mut(place) {
            set.get_or_insert_with(|| Box::new(Samples::new(self.limit))).push(ticks);
        }
    }

    /// Records of a lane are missing: what was under way has no end.
    pub(super) fn forget(&mut self, core: u16, nmi: bool) {
        if let Some(lane) = self.lanes.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(usize::from(nmi))) {
            *lane = Lane { open: None, free: u64::MAX, callback: None };
        }
    }

    /// One record of an IRQ or NMI lane. Of a `Receive`: the part of its latency that the core's handler does not explain,
    /// [`BUSY`] where it explains most; 0 of every other record.
    #[inline]
    pub(super) fn see(&mut self, core: u16, nmi: bool, event: &Event) -> u64 {
        match event.kind {
            // Without stamps of interrupts nothing explains a wait.
            Kind::Receive | Kind::ReceiveEmpty if !self.is_open(core, nmi) => event.t.wrapping_sub(event.arg),
            Kind::Stage
            | Kind::Receive
            | Kind::ReceiveEmpty
            | Kind::FunctionEntry
            | Kind::FunctionExit
            | Kind::Park => self.look(core, nmi, event),
            _ => 0,
        }
    }

    #[inline]
    fn is_open(&self, core: u16, nmi: bool) -> bool {
        let lanes = self.lanes.get(usize::from(core));
        lanes.and_then(|lanes| lanes.get(usize::from(nmi))).is_some_and(|lane| lane.open.is_some())
    }

    fn look(&mut self, core: u16, nmi: bool, event: &Event) -> u64 {
        let Some(lane) = self.lanes.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(usize::from(nmi))) else {
            return 0;
        };
        let Event { t, intid, .. } = *event;
        match (event.kind, event.extra) {
            (Kind::Stage, 0) => lane.open = Some(Open { acknowledged: t, entered: false, called: 0 }),
            (Kind::Stage, _) => {
                let open = lane.open.take();
                lane.free = t;
                // The kit's own wake-ups receive nothing: they are no IPIs.
                if let Some(open) = open.filter(|open| open.entered) {
                    let (stage, from) = match open.called {
                        0 => (Stage::AcknowledgeToEnd, open.acknowledged),
                        exit => (Stage::CallbackToEnd, exit),
                    };
                    if let Some(took) = t.checked_sub(from) {
                        self.push(stage, core, intid, took);
                    }
                }
            }
            // A parked core takes a wake-up only: everything else waits until it leaves.
            (Kind::Park, 1) => lane.free = lane.free.max(t),
            (Kind::Receive | Kind::ReceiveEmpty, _) => return self.entered(core, nmi, event),
            (Kind::FunctionEntry, _) => {
                lane.callback = Some(t);
                if let Some(open) = lane.open.filter(|open| open.called == 0)
                    && let Some(took) = t.checked_sub(open.acknowledged)
                {
                    self.push(Stage::AcknowledgeToCallback, core, intid, took);
                }
            }
            (Kind::FunctionExit, _) => {
                let begun = lane.callback.take();
                if let Some(open) = &mut lane.open {
                    open.called = t;
                }
                if let Some(took) = begun.and_then(|begun| t.checked_sub(begun)) {
                    self.push(Stage::Callback, core, intid, took);
                }
            }
            _ => {}
        }
        0
    }

    fn entered(&mut self, core: u16, nmi: bool, event: &Event) -> u64 {
        let timed = event.kind == Kind::Receive && event.flags & FLAG_UNTIMED == 0;
        let latency = event.t.wrapping_sub(event.arg);
        let Some(lane) = self.lanes.get_mut(usize::from(core)).and_then(|lanes| lanes.get_mut(usize::from(nmi))) else {
            return latency;
        };
        let free = lane.free;
        let Some(open) = &mut lane.open else { return latency };
        let first = !std::mem::replace(&mut open.entered, true);
        let acknowledged = open.acknowledged;
        if first && let Some(took) = acknowledged.checked_sub(event.t) {
            self.push(Stage::EntryToAcknowledge, core, event.intid, took);
        }
        if !timed {
            return latency;
        }
        let explained = free.saturating_sub(event.arg).min(latency);
        let busy = explained > latency / 2;
        self.push(if busy { Stage::SendToEntryBusy } else { Stage::SendToEntry }, core, event.intid, latency);
        if busy { BUSY } else { latency - explained }
    }

    /// The sets with something in them.
    pub(super) fn finish(self) -> Vec<StageFigures> {
        let mut list = Vec::new();
        for (place, samples) in self.sets.into_iter().enumerate() {
            let (Some(samples), Some(stage)) = (samples, Stage::ALL.get(place % Stage::ALL.len())) else { continue };
            let (core, kind) = (place / Stage::ALL.len() / KINDS, place / Stage::ALL.len() % KINDS);
            let kind = u8::try_from(kind).ok().and_then(IpiKind::from_intid);
            list.push(StageFigures { stage: *stage, kind, core: core as u16, samples: *samples });
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use trace_ring::record::FLAG_DELIVERED;

    use super::*;

    fn event(kind: Kind, t: u64, extra: u8) -> Event {
        Event { t, kind, flags: FLAG_DELIVERED, peer: 0, msg: 1, intid: 1, extra, arg: 0 }
    }

    fn receive(t: u64, sent: u64) -> Event {
        Event { arg: sent, ..event(Kind::Receive, t, 0) }
    }

    fn figures(interrupts: Interrupts) -> Vec<(Stage, Option<IpiKind>, u16, u64, f64)> {
        let of = |mut figures: StageFigures| {
            let summary = figures.samples.summary(1.0).unwrap();
            (figures.stage, figures.kind, figures.core, summary.n, summary.max)
        };
        interrupts.finish().into_iter().map(of).collect()
    }

    #[test]
    fn stages_of_an_interrupt_with_callbacks_are_told_apart() {
        let mut interrupts = Interrupts::new(4, [IpiKind::CallFunction].into_iter());
        for (kind, t, extra) in [
            (Kind::Stage, 112, 0),
            (Kind::Receive, 110, 0),
            (Kind::FunctionEntry, 120, 0),
            (Kind::FunctionExit, 150, 0),
            (Kind::FunctionEntry, 152, 0),
            (Kind::FunctionExit, 160, 0),
            (Kind::Stage, 165, 1),
        ] {
            let event = if kind == Kind::Receive { receive(t, 103) } else { event(kind, t, extra) };
            interrupts.see(3, false, &event);
        }
        let call = Some(IpiKind::CallFunction);
        assert_eq!(
            figures(interrupts),
            [
                (Stage::SendToEntry, call, 3, 1, 7.0),
                (Stage::EntryToAcknowledge, call, 3, 1, 2.0),
                (Stage::AcknowledgeToCallback, call, 3, 1, 8.0),
                (Stage::Callback, call, 3, 2, 30.0),
                (Stage::CallbackToEnd, call, 3, 1, 5.0),
            ]
        );
    }

    #[test]
    fn a_wait_for_the_handler_is_not_the_cores() {
        let mut interrupts = Interrupts::new(1, std::iter::empty());
        let mut one = |sent, entry, end| {
            interrupts.see(0, false, &event(Kind::Stage, entry + 2, 0));
            let free = interrupts.see(0, false, &receive(entry, sent));
            interrupts.see(0, false, &event(Kind::Stage, end, 1));
            free
        };
        assert_eq!(one(90, 100, 1000), 10);
        // Sent long before the handler was through, shortly before, and after.
        assert_eq!(one(200, 1005, 1100), BUSY);
        assert_eq!(one(1098, 1110, 1200), 10);
        assert_eq!(one(1300, 1310, 1400), 10);
        // The interrupt before is missing: nobody knows.
        interrupts.forget(0, false);
        interrupts.see(0, false, &event(Kind::Stage, 2002, 0));
        assert_eq!(interrupts.see(0, false, &receive(2000, 1990)), BUSY);
    }

    #[test]
    fn a_parked_core_is_not_late_and_wakeups_of_the_kit_are_no_interrupts() {
        let mut interrupts = Interrupts::new(1, std::iter::empty());
        for (t, extra) in [(100, 0), (105, 1)] {
            interrupts.see(0, false, &event(Kind::Stage, t, extra));
        }
        interrupts.see(0, false, &event(Kind::Park, 110, 0));
        interrupts.see(0, false, &event(Kind::Park, 900, 1));
        interrupts.see(0, false, &event(Kind::Stage, 904, 0));
        assert_eq!(interrupts.see(0, false, &receive(902, 200)), BUSY);
        interrupts.see(0, false, &event(Kind::Stage, 910, 1));
        let seen = figures(interrupts);
        let stages: Vec<Stage> = seen.iter().map(|figures| figures.0).collect();
        assert_eq!(stages, [Stage::SendToEntryBusy, Stage::EntryToAcknowledge, Stage::AcknowledgeToEnd]);
        assert!(seen.iter().all(|figures| figures.1.is_none() && figures.3 == 1), "{seen:?}");
    }

    #[test]
    fn nmis_have_stages_of_their_own() {
        let mut interrupts = Interrupts::new(1, std::iter::empty());
        interrupts.see(0, false, &event(Kind::Stage, 100, 0));
        interrupts.see(0, true, &event(Kind::Stage, 210, 0));
        assert_eq!(interrupts.see(0, true, &receive(205, 200)), 5, "the IRQ handler does not hold an NMI up");
        interrupts.see(0, true, &event(Kind::Stage, 220, 1));
        interrupts.see(0, false, &receive(90, 80));
        interrupts.see(0, false, &event(Kind::Stage, 300, 1));
        let ends: Vec<f64> =
            figures(interrupts).into_iter().filter(|f| f.0 == Stage::AcknowledgeToEnd).map(|f| f.4).collect();
        assert_eq!(ends, [200.0]);
    }
}
