//! `--live`: a run seen while it goes on, on the whole terminal.
//!
//! The drain hands over what it has in hand anyway: the counters that it reads for the progress line, the snapshots that it puts
//! into the capture (for percentiles), the records as they pass (for the worst IPIs and their trails). Nothing is read from
//! the target for the view alone. What is drawn, and when, is the business of a thread of its own: the newest state lies under a
//! lock that is held to put it there or to copy a few words, never while a terminal is written to.
//!
//! ```text
//! drain ── records ──▶ worst::Tracker ─┐
//!       ── counters, snapshots ────────┴▶ State (newest wins) ──▶ keyboard (View) ──▶ matrix::Pairs ──▶ screen
//! ```

mod keyboard;
pub mod matrix;
pub mod screen;
pub mod worst;

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use trace_ring::layout::{Directory, LANES_PER_CORE, PairSlot, Status, run_state};
use trace_ring::reader::Region;

use crate::inspect::events::Lexicon;
use crate::plan::{PhaseMeta, PlanMeta};
use crate::reason::Reasons;
use crate::symbols::Symbols;
use crate::terminal;
use keyboard::Screen;
use worst::{Tracker, Worst};

/// Rates are averaged over about so much time.
const SMOOTH: Duration = Duration::from_secs(1);

/// What does not change while a run goes on.
#[derive(Debug)]
pub struct About {
    /// What runs it: `qemu virt`, `probe rock-5b`.
    pub title: String,
    /// The plan's name.
    pub plan: String,
    /// Its phases.
    pub phases: Vec<PhaseMeta>,
    /// Messages of the whole run; 0: nobody knows.
    pub expected: u64,
    /// The plan is repeated for so long.
    pub duration: Option<Duration>,
    /// The firmware's names.
    pub symbols: Symbols,
    /// With colours.
    pub color: bool,
    /// With other letters than ASCII's.
    pub unicode: bool,
}

impl About {
    /// Of a run of a plan. `title`: what runs it.
    pub fn new(title: String, plan: &PlanMeta, symbols: Symbols) -> About {
        About {
            title,
            plan: plan.name.clone(),
            phases: plan.phases.clone(),
            expected: plan.expected_sends,
            duration: plan.duration(),
            symbols,
            color: !terminal::is_set("NO_COLOR"),
            unicode: terminal::is_utf8(),
        }
    }
}

/// A lane as the drain sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneNow {
    /// Its core.
    pub core: u16,
    /// Its context.
    pub context: u8,
    /// Records that were read.
    pub accepted: u64,
    /// Records that were missed.
    pub missed: u64,
    /// Records that wait.
    pub backlog: u64,
    /// Records that it has room for.
    pub capacity: u64,
}

/// What the drain sees at a time.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The region's directory.
    pub directory: Directory,
    /// Where the run stands.
    pub status: Status,
    /// The counters.
    pub slots: Arc<[PairSlot]>,
    /// The lanes.
    pub lanes: Arc<[LaneNow]>,
}

/// Sums over all pair slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages sent.
    pub sent: u64,
    /// Answered by an acknowledge that counts for another.
    pub coalesced: u64,
    /// Retired as lost.
    pub lost: u64,
    /// Retired as unknown.
    pub unknown: u64,
}

impl Totals {
    fn of(slots: &[PairSlot]) -> Totals {
        slots.iter().fold(Totals::default(), |sum, slot| Totals {
            sent: sum.sent.wrapping_add(slot.sent),
            coalesced: sum.coalesced.wrapping_add(slot.coalesced),
            lost: sum.lost.wrapping_add(slot.lost),
            unknown: sum.unknown.wrapping_add(slot.unknown),
        })
    }
}

/// All that is drawn.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Rises with every change.
    pub number: u64,
    /// The newest look; `None`: there was none.
    pub moment: Option<Moment>,
    /// What had been sent at the look before, slot by slot, and how long before.
    pub before: Arc<[u64]>,
    /// See above.
    pub since: Duration,
    /// Sums of the newest look.
    pub totals: Totals,
    /// IPIs and records a second.
    pub ipi_rate: Option<f64>,
    /// See above.
    pub record_rate: Option<f64>,
    /// The newest snapshot.
    pub prefix: Arc<[u8]>,
    /// The worst IPIs so far.
    pub worst: Arc<[Worst]>,
    /// Since the drain began, and since the plan was first seen to run.
    pub elapsed: Duration,
    /// See above.
    pub running: Duration,
    /// Of the last drain: pieces that were fetched, and all.
    pub fetching: Option<(u64, u64)>,
}

/// The drain's side of the view.
#[derive(Debug)]
pub struct Live {
    about: Arc<About>,
    state: Arc<Mutex<State>>,
    tracker: Option<Tracker>,
    reasons: Option<Reasons>,
    directory: Option<Directory>,
    began: Instant,
    running: Option<Instant>,
    looked: Option<Instant>,
    rates: [Option<f64>; 2],
    /// Goes first: the terminal is given back before anything else is said.
    _screen: Screen,
}

impl Live {
    /// Takes the terminal. `None`: standard error is none, or one that can do nothing.
    pub fn open(about: About) -> Option<Live> {
        let able = io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let (about, state) = (Arc::new(about), Arc::new(Mutex::new(State::default())));
        let screen = able.then(|| Screen::open(Arc::clone(&about), Arc::clone(&state)))?.ok()?;
        Some(Live {
            about,
            state,
            tracker: None,
            reasons: None,
            directory: None,
            began: Instant::now(),
            running: None,
            looked: None,
            rates: [None; 2],
            _screen: screen,
        })
    }

    /// The region was found.
    pub fn meet(&mut self, region: &Region) {
        self.tracker = Some(Tracker::new(region.lanes.len().next_multiple_of(LANES_PER_CORE)));
        self.directory = Some(region.directory);
    }

    /// Records of a lane passed by.
    pub fn records(&mut self, core: u16, context: u8, first: u64, bytes: &[u8]) {
        if let Some(tracker) = &mut self.tracker {
            tracker.records(core, context, first, bytes);
        }
    }

    /// All lanes were read.
    pub fn swept(&mut self) {
        // What an SGI asks for is known from the first counters on.
        let (Some(tracker), Some(reasons), Some(directory)) = (&mut self.tracker, &self.reasons, &self.directory)
        else {
            return;
        };
        tracker.swept(Lexicon {
            hz: directory.counter_hz,
            calls_pa: directory.region_pa.wrapping_add(directory.sections.calls),
            reasons,
            phases: &self.about.phases,
            symbols: &self.about.symbols,
        });
    }

    /// A snapshot was taken.
    pub fn snapshot(&mut self, prefix: Vec<u8>) {
        self.put(|state| state.prefix = prefix.into());
    }

    /// The counters were read.
    pub fn show(&mut self, moment: Moment) {
        let now = Instant::now();
        if self.reasons.is_none() {
            self.reasons = Some(Reasons::of_slots(moment.directory.descriptor_count > 0, &moment.slots));
        }
        if moment.status.state == run_state::RUNNING {
            self.running.get_or_insert(now);
        }
        let since = self.looked.map_or(Duration::ZERO, |looked| now.duration_since(looked));
        self.looked = Some(now);
        let totals = Totals::of(&moment.slots);
        let accepted: u64 = moment.lanes.iter().map(|lane| lane.accepted).sum();
        let (elapsed, running) = (self.began.elapsed(), self.running.map_or(Duration::ZERO, |began| began.elapsed()));
        let worst: Arc<[Worst]> = self.tracker.as_ref().map_or(Arc::default(), |tracker| tracker.worst().into());
        let [ipis, records] = &mut self.rates;
        let (seen, sent) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.moment.clone(), state.totals.sent)
        };
        let before: Option<Arc<[u64]>> = seen.as_ref().map(|seen| seen.slots.iter().map(|slot| slot.sent).collect());
        if let Some(seen) = &seen {
            let had: u64 = seen.lanes.iter().map(|lane| lane.accepted).sum();
            smooth(ipis, totals.sent.saturating_sub(sent), since);
            smooth(records, accepted.saturating_sub(had), since);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before {
            (state.before, state.since) = (before, since);
        }
        (state.ipi_rate, state.record_rate) = (*ipis, *records);
        (state.totals, state.worst, state.elapsed, state.running) = (totals, worst, elapsed, running);
        state.moment = Some(moment);
        state.number += 1;
    }

    /// The last drain goes on.
    pub fn fetch(&mut self, done: u64, total: u64) {
        self.put(|state| state.fetching = Some((done, total)));
    }

    fn put(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.number += 1;
    }
}

/// A rate that follows `count` in `since`, within about [`SMOOTH`].
fn smooth(rate: &mut Option<f64>, count: u64, since: Duration) {
    let seconds = since.as_secs_f64();
    if seconds <= 0.0 {
        return;
    }
    let newest = count as f64 / seconds;
    let weight = 1.0 - (-seconds / SMOOTH.as_secs_f64()).exp();
    *rate = Some(rate.map_or(newest, |rate| rate + weight * (newest - rate)));
}

#[cfg(test)]
mod tests;
