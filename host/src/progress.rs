//! What the user sees while a run goes on: a bar on a terminal, or the live view where that is asked for; nothing elsewhere.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trace_ring::reader::Region;

use crate::live::{About, Live, Moment};
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A bar of messages sent, with the phase's name, on stderr; or the live view.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    live: Option<Box<Live>>,
    drawn: Option<Instant>,
    fetching: bool,
    sent: Arc<AtomicU64>,
    /// The bar's length is time.
    timed: bool,
    /// When the first message was seen to have been sent.
    began: Option<Instant>,
}

impl Progress {
    /// A bar where stderr is a terminal. `expected`: messages of the whole run; 0: nobody knows. `duration`: the plan is
    /// repeated for so long, and time is what passes.
    pub fn new(expected: u64, duration: Option<Duration>) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress::silent();
        }
        let length = match duration {
            Some(duration) => Some(duration.as_millis() as u64),
            None => (expected > 0).then_some(expected),
        };
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        let template = match (duration, length) {
            (Some(_), _) => "  {msg:16} [{bar:30}] {sent} IPIs  {pace}  {left} left",
            (None, Some(_)) => "  {msg:16} [{bar:30}] {human_pos}/{human_len} IPIs  {pace}  {eta} left",
            (None, None) => "  {msg:16} {human_pos} IPIs  {pace}  {elapsed}",
        };
        // A template of our own that did not parse would only cost the bar's looks.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let pace = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let seconds = state.elapsed().as_secs_f64().max(1e-3);
            let _ = write!(out, "{:.0}/s", counted.load(Ordering::Relaxed) as f64 / seconds);
        };
        let counted = Arc::clone(&sent);
        let total = move |_: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}", HumanCount(counted.load(Ordering::Relaxed)));
        };
        let left = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let rest = state.len().unwrap_or(0).saturating_sub(state.pos());
            let _ = write!(out, "{}", HumanDuration(Duration::from_millis(rest)));
        };
        bar.set_style(style.with_key("pace", pace).with_key("sent", total).with_key("left", left));
        let timed = duration.is_some();
        Progress { bar: Some(bar), live: None, drawn: None, fetching: false, sent, timed, began: None }
    }

    /// The live view; where standard error is no terminal that could show it, what [`Progress::new`] gives.
    pub fn live(about: About) -> Progress {
        let (expected, duration) = (about.expected, about.duration);
        let Some(live) = Live::open(about) else { return Progress::new(expected, duration) };
        let mut progress = Progress::silent();
        progress.live = Some(live.into());
        progress
    }

    /// No bar.
    pub fn silent() -> Progress {
        Progress {
            bar: None,
            live: None,
            drawn: None,
            fetching: false,
            sent: Arc::default(),
            timed: false,
            began: None,
        }
    }

    /// Whether it is time to draw again, at most `every` so often: what there is to draw costs something to find out.
    pub fn is_due(&self, every: Duration) -> bool {
        self.is_seen() && self.drawn.is_none_or(|drawn| drawn.elapsed() >= every)
    }

    /// Whether anybody looks.
    pub fn is_seen(&self) -> bool {
        self.bar.is_some() || self.live.is_some()
    }

    /// The live view, where that is what the user sees: it takes more than a bar can show.
    pub fn view(&mut self) -> Option<&mut Live> {
        self.live.as_deref_mut()
    }

    /// The region was found.
    pub fn meet(&mut self, region: &Region) {
        if let Some(live) = &mut self.live {
            live.meet(region);
        }
    }

    /// Hands the live view what it draws.
    pub fn look(&mut self, moment: Moment) {
        self.drawn = Some(Instant::now());
        if let Some(live) = &mut self.live {
            live.show(moment);
        }
    }

    /// Shows where the run stands, on a bar.
    pub fn show(&mut self, doing: &str, sent: u64) {
        self.drawn = Some(Instant::now());
        if let Some(bar) = &self.bar {
            self.sent.store(sent, Ordering::Relaxed);
            bar.set_message(doing.to_string());
            if sent > 0 && self.began.is_none() {
                self.began = Some(Instant::now());
                bar.reset();
            }
            let since = self.began.map_or(0, |began| began.elapsed().as_millis() as u64);
            bar.set_position(if self.timed { since.min(bar.length().unwrap_or(since)) } else { sent });
        }
    }

    /// Shows how far the records are that wait in the target: `done` of `total` pieces of `bytes` bytes, with rate and
    /// time left.
    pub fn fetch(&mut self, done: u64, total: u64, bytes: u64) {
        self.drawn = Some(Instant::now());
        if let Some(live) = &mut self.live {
            live.fetch(done, total);
        }
        let Some(bar) = &self.bar else { return };
        if !self.fetching {
            self.fetching = true;
            let template = "  {msg:16} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message("fetching");
            bar.reset();
        }
        bar.set_length(total * bytes);
        bar.set_position(done * bytes);
    }

    /// Takes the bar away, or gives the terminal back.
    pub fn clear(&mut self) {
        self.live = None;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
