//! What the user sees while a run goes on: a bar on a terminal, nothing elsewhere.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A bar of messages sent, with the phase's name, on stderr.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    drawn: Option<Instant>,
    fetching: bool,
}

impl Progress {
    /// A bar where stderr is a terminal. `expected`: messages of the whole run; 0: nobody knows.
    pub fn new(expected: u64) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress::silent();
        }
        let bar = ProgressBar::with_draw_target((expected > 0).then_some(expected), ProgressDrawTarget::stderr());
        let template = if expected > 0 {
            "  {msg:16} [{bar:30}] {human_pos}/{human_len} IPIs  {rate}"
        } else {
            "  {msg:16} {human_pos} IPIs  {rate}  {elapsed}"
        };
        // A template of our own that did not parse would only cost the bar's looks.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:.0}/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
        Progress { bar: Some(bar), drawn: None, fetching: false }
    }

    /// No bar.
    pub fn silent() -> Progress {
        Progress { bar: None, drawn: None, fetching: false }
    }

    /// Whether it is time to draw again, at most `every` so often: what there is to draw costs something to find out.
    pub fn is_due(&self, every: Duration) -> bool {
        self.bar.is_some() && self.drawn.is_none_or(|drawn| drawn.elapsed() >= every)
    }

    /// Shows where the run stands.
    pub fn show(&mut self, doing: &str, sent: u64) {
        self.drawn = Some(Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_message(doing.to_string());
            bar.set_position(sent);
        }
    }

    /// Shows how far the records are that wait in the target: `done` of `total` pieces of `bytes` bytes, with rate and
    /// time left.
    pub fn fetch(&mut self, done: u64, total: u64, bytes: u64) {
        self.drawn = Some(Instant::now());
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

    /// Takes the bar away.
    pub fn clear(&mut self) {
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
