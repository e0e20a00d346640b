//! What the user sees while a run goes on: a bar on a terminal, nothing elsewhere.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// How often the bar is drawn.
const EVERY: Duration = Duration::from_millis(100);

/// A bar of messages sent, with the phase's name, on stderr.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    drawn: Option<Instant>,
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
        Progress { bar: Some(bar), drawn: None }
    }

    /// No bar.
    pub fn silent() -> Progress {
        Progress { bar: None, drawn: None }
    }

    /// Whether it is time to draw again: what there is to draw costs something to find out.
    pub fn is_due(&self) -> bool {
        self.bar.is_some() && self.drawn.is_none_or(|drawn| drawn.elapsed() >= EVERY)
    }

    /// Shows where the run stands.
    pub fn show(&mut self, doing: &str, sent: u64) {
        self.drawn = Some(Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_message(doing.to_string());
            bar.set_position(sent);
        }
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
