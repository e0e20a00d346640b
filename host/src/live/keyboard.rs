//! The terminal of the live view: a thread that draws and takes keys, so that a terminal that takes no more text stops nobody.
//!
//! It draws on standard error, on the screen's other page; standard output is the report's. However the run ends, the terminal
//! is given back as it was: at the end, when a thread panics, and on the signals that end a run. After a kill -9 `reset` does it.

use std::io::{self, BufWriter, Stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{cursor, execute};

use super::matrix::{Counters, Pairs};
use super::screen::{self, Shown, View};
use super::{About, State};
use crate::interrupt;

/// Between two looks at what is new; a key is answered at once.
const TICK: Duration = Duration::from_millis(100);

/// How long the terminal may take to be given back: one that is stopped (Ctrl-S) takes for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// The screen is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A terminal that shows a run.
#[derive(Debug)]
pub struct Screen {
    over: Arc<AtomicBool>,
    done: Receiver<()>,
}

impl Screen {
    /// Takes the terminal and begins to draw.
    ///
    /// # Errors
    ///
    /// The terminal's: it can't be had.
    pub fn open(about: Arc<About>, state: Arc<Mutex<State>>) -> io::Result<Screen> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        let terminal = take()?;
        let over = Arc::new(AtomicBool::new(false));
        let (sender, done) = mpsc::channel();
        let end = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("live view".into()).spawn(move || {
            run(terminal, &about, &state, &end);
            give_back();
            let _ = sender.send(());
        });
        // Nobody would give it back else.
        thread.inspect_err(|_| give_back())?;
        Ok(Screen { over, done })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // The run's end does not wait for a terminal that takes nothing.
        let _ = self.done.recv_timeout(PATIENCE);
    }
}

type Screened = Terminal<CrosstermBackend<BufWriter<Stderr>>>;

fn take() -> io::Result<Screened> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    let taken = || {
        execute!(io::stderr(), EnterAlternateScreen, cursor::Hide)?;
        Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(1 << 16, io::stderr())))
    };
    taken().inspect_err(|_| give_back())
}

/// Once for each time that it was taken, whoever comes first.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stderr(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}

fn run(mut terminal: Screened, about: &About, state: &Mutex<State>, over: &AtomicBool) {
    let mut view = View::default();
    let mut seen = None;
    let mut pairs = Pairs::default();
    let mut matrix_of = None;
    let mut drawn: Option<Instant> = None;
    while !over.load(Ordering::Relaxed) {
        let state = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        view.asked = interrupt::requests();
        let of = (state.number, view.phase(&state));
        if let Some(counters) = Counters::of(&state).filter(|_| matrix_of != Some(of)) {
            pairs = Pairs::of(&counters, of.1);
            matrix_of = Some(of);
        }
        // The clock goes on where nothing else does.
        let stale = drawn.is_none_or(|drawn| drawn.elapsed() > Duration::from_millis(500));
        if stale || seen.as_ref() != Some(&(state.number, view.clone())) {
            if terminal.draw(|frame| screen::draw(frame, about, &state, &mut view, &pairs)).is_err() {
                // Nobody sees it any more: the run goes on without.
                return;
            }
            drawn = Some(Instant::now());
            seen = Some((state.number, view.clone()));
        }
        match event::poll(TICK) {
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => press(key, &mut view, &state, about),
                Ok(Event::Resize(..)) => seen = None,
                Ok(_) => {}
                Err(_) => return,
            },
            Ok(false) => {}
            // A terminal that went away: SIGHUP ends the run.
            Err(_) => return,
        }
    }
}

/// What a key does.
fn press(key: KeyEvent, view: &mut View, state: &State, about: &About) {
    let phases = state.moment.as_ref().map_or(about.phases.len(), |moment| moment.directory.phase_count as usize);
    let phase = view.phase(state).unwrap_or(0);
    let worst = state.worst.len().max(1);
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => interrupt::ask(),
        KeyCode::Char('q') => interrupt::ask(),
        KeyCode::Char('?') => view.help = !view.help,
        KeyCode::Esc if view.help => view.help = false,
        KeyCode::Esc | KeyCode::Backspace => view.zoom = None,
        KeyCode::Char('m') => view.metric = view.metric.step(false),
        KeyCode::Char('M') => view.metric = view.metric.step(true),
        KeyCode::Char('p') => view.shown = Shown::Phase((phase + 1) % phases.max(1)),
        KeyCode::Char('P') => view.shown = Shown::Phase((phase + phases.max(1) - 1) % phases.max(1)),
        KeyCode::Char('f') => view.shown = Shown::Newest,
        KeyCode::Char('a') => view.shown = Shown::All,
        KeyCode::Char('w') => view.worst = (view.worst + 1) % worst,
        KeyCode::Char('W') => view.worst = (view.worst.min(worst - 1) + worst - 1) % worst,
        KeyCode::Enter => view.zoom_in(),
        KeyCode::Up | KeyCode::Char('k') => view.go(-1, 0),
        KeyCode::Down | KeyCode::Char('j') => view.go(1, 0),
        KeyCode::Left | KeyCode::Char('h') => view.go(0, -1),
        KeyCode::Right | KeyCode::Char('l') => view.go(0, 1),
        _ => {}
    }
}
