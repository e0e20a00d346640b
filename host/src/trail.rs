//! The event trail around the worst IPIs: what their sender, their receiver and others did while they waited.
//!
//! A percentile says that something was late, a trail says what the cores did meanwhile. The latest IPIs of different pairs are found
//! first; then one pass over the capture's events keeps those of a span around each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use linux_trace::{Texts, What};
use report_page::{Arrow, Trail, TrailEvent};

use crate::capture::Capture;
use crate::choice::Choice;
use crate::correlate::correlate_heard;
use crate::correlate::message::Message;
use crate::detect;
use crate::export::ExportError;
use crate::export::events::{Events, Step};

/// Trails of a report.
const TRAILS: usize = 3;

/// Events of a trail; more of a busy machine would be no picture.
const MOST_EVENTS: usize = 60;

/// Of the time that an IPI took, so much before its send and behind its entry belongs to its trail, but not less than the second, ns.
const MARGIN_SHARE: f64 = 0.25;
const LEAST_MARGIN_NS: f64 = 500.0;

/// The span around one IPI.
struct Span {
    from: u64,
    until: u64,
    latency_ns: f64,
    pair: (u16, u16),
    events: Vec<TrailEvent>,
    /// Sends that were seen in it, by the IPI's number: when, and by whom.
    sent: BTreeMap<u64, (u64, u16)>,
    arrows: Vec<Arrow>,
    left_out: u64,
}

/// The trails around the latest IPIs of a capture, of those that a filter picks, one for each of some pairs; none where it keeps no latencies.
///
/// # Errors
///
/// The capture's, and that its clock is not known.
pub fn trails(capture: &Capture, choice: Option<&Choice>) -> Result<Vec<Trail>, ExportError> {
    let events = Events::prepare(capture)?;
    if !events.is_timed() {
        return Ok(Vec::new());
    }
    let hz = events.hz();
    let mut worst: BTreeMap<(u16, u16), Message> = BTreeMap::new();
    correlate_heard(capture, &mut |message| {
        let picked = choice.is_none_or(|choice| choice.picks(message));
        if let (true, Some(from), Some(latency)) = (picked, message.from, message.latency) {
            let place = worst.entry((from, message.to)).or_insert(*message);
            if place.latency.is_none_or(|before| latency > before) {
                *place = *message;
            }
        }
        true
    })?;
    let mut worst: Vec<Message> = worst.into_values().collect();
    worst.sort_by_key(|message| (Reverse(message.latency), message.sent));
    let ns = |ticks: u64| u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(hz)).unwrap_or(u64::MAX);
    let span = |message: &Message| {
        let latency_ns = message.latency? as f64 * 1e9 / hz as f64;
        let margin = (latency_ns * MARGIN_SHARE).max(LEAST_MARGIN_NS) as u64;
        Some(Span {
            from: ns(message.sent?).saturating_sub(margin),
            until: ns(message.entry?).saturating_add(margin),
            latency_ns,
            pair: (message.from?, message.to),
            events: Vec::new(),
            sent: BTreeMap::new(),
            arrows: Vec::new(),
            left_out: 0,
        })
    };
    let mut spans: Vec<Span> = worst.iter().take(TRAILS).filter_map(span).collect();
    if spans.is_empty() {
        return Ok(Vec::new());
    }
    events.each(None, true, |step, names| {
        for span in &mut spans {
            span.step(step, names);
        }
        Ok(())
    })?;
    Ok(spans.into_iter().map(Span::trail).collect())
}

impl Span {
    fn step(&mut self, step: &Step, names: &dyn Texts) {
        let event = &step.event;
        if !(self.from..=self.until).contains(&event.t) || step.frame.is_some() {
            return;
        }
        let (t, core) = (event.t, event.cpu);
        for arrow in &step.arrows {
            match event.what {
                What::Entry { .. } => {
                    if let Some((from_t, from_core)) = self.sent.remove(&arrow.id) {
                        self.arrows.push(Arrow {
                            from_t: from_t.saturating_sub(self.from) as f64,
                            from_core,
                            to_t: t.saturating_sub(self.from) as f64,
                            to_core: core,
                            latency: arrow.latency_ns,
                        });
                    }
                }
                _ => {
                    self.sent.insert(arrow.id, (t, core));
                }
            }
        }
        let own = core == self.pair.0 || core == self.pair.1;
        // The two cores' own events come first where there is no room for all.
        if self.events.len() >= MOST_EVENTS && !own || self.events.len() >= 2 * MOST_EVENTS {
            self.left_out += 1;
            return;
        }
        let (what, detail) = words(&event.what, names);
        let t_ns = t.saturating_sub(self.from) as f64;
        self.events.push(TrailEvent { t_ns, core, what: what.into(), detail });
    }

    fn trail(self) -> Trail {
        let (from, to) = self.pair;
        let mut cores: BTreeSet<u16> = self.events.iter().map(|event| event.core).collect();
        cores.extend([from, to]);
        // The pair on top.
        let others = cores.into_iter().filter(|core| *core != from && *core != to);
        let mut all = vec![from];
        all.extend(Some(to).filter(|to| *to != from));
        all.extend(others);
        let mut title = format!("core {from} to core {to}: {}", detect::duration(self.latency_ns, 1.0));
        if self.left_out > 0 {
            title.push_str(&format!(" ({} more events of other cores are left out)", self.left_out));
        }
        let shown = |core: u16| all.contains(&core);
        let arrows = self.arrows.into_iter().filter(|arrow| shown(arrow.from_core) && shown(arrow.to_core)).collect();
        Trail { title, cores: all, events: self.events, arrows }
    }
}

/// What an event is called, and what else is known of it.
fn words(what: &What, names: &dyn Texts) -> (&'static str, Option<String>) {
    let some = |name: linux_trace::Name| Some(names.text(name).to_owned()).filter(|text| !text.is_empty());
    let detail = match what {
        What::Raise { targets, reason } => {
            let to = targets.iter().take(8).map(|core| core.to_string()).collect::<Vec<_>>().join(", ");
            Some(format!("to {to}: {}", names.text(*reason)))
        }
        What::Entry { reason } | What::Exit { reason } => some(*reason),
        What::SendCpu { callsite, .. } | What::SendMask { callsite, .. } => some(*callsite),
        What::Queue { cpu, function, .. } => Some(format!("for {cpu}: {}", names.text(*function))),
        What::FunctionEntry { function, .. } | What::FunctionExit { function, .. } => some(*function),
        What::Idle { state: Some(state) } => Some(format!("state {state}")),
        What::Idle { state: None } => Some("ends".into()),
        What::Mark { text, .. } => some(*text),
        What::Lost { count } => count.map(|count| format!("{count} records")),
        What::IrqEntry { name, .. } => some(*name),
        What::IrqExit { .. } | What::Switch { .. } => None,
    };
    (what.name(), detail)
}
