//! A capture becomes a plan that does the same on bare metal: who sends what to whom, when, into which state, for how long.
//!
//! Every IPI that a capture's events show being sent becomes an operation of its sender at the same time from the begin: a call whose
//! callback is busy as long as the handler's callbacks were, or an IPI of its kind that nobody waits for. Receivers wait as they did
//! when they were interrupted. Nothing is sent that was not sent, nothing is left out silently, and the order on each core is kept.
//! How far the times were kept is measured when the plan runs ([`crate::report`], `replay`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_trace::{Mask, Texts, What};
use trace_ring::calls::IpiKind;

use crate::capture::{Capture, CaptureError};
use crate::choice::{Choice, ChoiceError};
use crate::correlate::correlate_heard;
use crate::detect::Role;
use crate::error::{Explain, exit};
use crate::export::ExportError;
use crate::export::events::{Events, Step};
use crate::reason;

/// Sends of one plan: its operations are compiled, sent to the target and kept in the capture.
const MOST_SENDS: u64 = 200_000;

/// Before the first send, ns: all cores have entered the phase.
const LEAD_IN_NS: u64 = 1_000_000;

/// A core leaves its waiting state so long before its own send, ns, and polls: a timer's interrupt is answered in less.
const LEAD_NS: u64 = 5_000;

/// A core that was running when an IPI came polls for it from so long before its send, ns, until it came, but not longer than the second.
/// In between it sleeps: under an emulator, cores that poll take their time from all others.
const POLL_BEFORE_NS: u64 = 10_000;
const MOST_POLL_NS: u64 = 20_000;

/// A callback that is shorter is replayed by the shortest function that there is, ns.
const SHORTEST_NS: u64 = 100;

/// What a plan says it replays: of a Linux trace its file and how many events there are, of a run its nonce.
pub fn identity(capture: &Capture) -> String {
    match capture.linux() {
        Some(table) => format!("{} ({} rows)", table.file, table.rows),
        None => format!("run {:#x}", capture.info().nonce),
    }
}

/// What is to be replayed, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The capture.
    pub capture: PathBuf,
    /// Which IPIs.
    pub only: Option<String>,
    /// Only so many of the latest ones, and what happened around them.
    pub around: Option<u32>,
    /// How long before and after each of those.
    pub window: Duration,
    /// Times of the plan are those of the capture times this. Callbacks keep their lengths.
    pub scale: f64,
    /// Sends are moved by up to so much to either side.
    pub jitter: Duration,
    /// Where the random moves begin.
    pub seed: u64,
    /// A longer time in which nothing is sent is cut to this.
    pub longest_gap: Option<Duration>,
}

impl Request {
    /// All of a capture as it was.
    pub fn of(capture: &Path) -> Request {
        Request {
            capture: capture.into(),
            only: None,
            around: None,
            window: Duration::from_millis(1),
            scale: 1.0,
            jitter: Duration::ZERO,
            seed: 1,
            longest_gap: None,
        }
    }
}

/// A plan, and what it is made of.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The job file.
    pub toml: String,
    /// Cores that it needs.
    pub cores: u16,
    /// Sends: a broadcast is one.
    pub sends: u64,
    /// IPIs: one for each target.
    pub ipis: u64,
    /// From the first send to the last, ns of the plan.
    pub span_ns: u64,
    /// Callbacks that are replayed as long as they were: how many, the median, the longest, ns.
    pub callbacks: (u64, u64, u64),
    /// What is not replayed, and how many IPIs of that there are.
    pub left_out: BTreeMap<String, u64>,
    /// The faults that would make bare metal do what the capture's suspects did, as `--inject` takes them in counted time.
    pub twins: Vec<String>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
}

/// Why a capture can't be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The capture's events.
    #[error(transparent)]
    Events(#[from] ExportError),
    /// The filter.
    #[error(transparent)]
    Filter(#[from] ChoiceError),
    /// The capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// It has no times.
    #[error("the trace's clock counts events: it does not say when anything was sent")]
    Untimed,
    /// Nothing is left to send.
    #[error("{} holds no IPI that can be replayed{why}", file.display())]
    Nothing {
        /// The capture.
        file: PathBuf,
        /// What there is instead.
        why: String,
    },
    /// Too much.
    #[error("{sends} sends are more than a plan takes ({MOST_SENDS})")]
    TooMany {
        /// How many.
        sends: u64,
    },
    /// Both ways to choose.
    #[error("`--around` and a filter with `around(…)` both choose neighbours")]
    Twice,
}

impl Explain for ReplayError {
    fn kind(&self) -> &'static str {
        match self {
            ReplayError::Events(error) => error.kind(),
            ReplayError::Filter(error) => error.kind(),
            ReplayError::Capture(error) => error.kind(),
            _ => "replay",
        }
    }

    fn next_step(&self) -> String {
        match self {
            ReplayError::Events(error) => error.next_step(),
            ReplayError::Filter(error) => error.next_step(),
            ReplayError::Capture(error) => error.next_step(),
            ReplayError::Untimed => "record again with `echo mono > trace_clock`".into(),
            ReplayError::Nothing { .. } => "see `ipiscope report` for what it holds".into(),
            ReplayError::TooMany { .. } => {
                "choose some: --around 10 (the latest ones), or --only \"t in 1s..1.2s\"".into()
            }
            ReplayError::Twice => "keep one of them".into(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            ReplayError::Events(error) => error.exit_code(),
            ReplayError::Filter(error) => error.exit_code(),
            ReplayError::Capture(error) => error.exit_code(),
            _ => exit::MISUSED,
        }
    }
}

/// How a core sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sleep {
    #[default]
    Wfi,
    Suspend,
}

impl Sleep {
    const fn name(self) -> &'static str {
        match self {
            Sleep::Wfi => "wfi",
            Sleep::Suspend => "suspend",
        }
    }
}

/// What a core does, and when.
#[derive(Clone, Debug)]
struct Action {
    t: u64,
    what: Does,
}

#[derive(Clone, Debug)]
enum Does {
    /// From now on it sleeps so.
    Sleeps(Sleep),
    /// An IPI is sent to it now, and finds it running: so long after that it comes, ns.
    Polls(u64),
    Sends {
        /// `None`: a bare SGI.
        kind: Option<IpiKind>,
        intid: u8,
        targets: Vec<u16>,
        /// The IPIs, for the lengths of their callbacks.
        ids: Vec<u64>,
    },
}

#[derive(Clone, Debug, Default)]
struct Core {
    actions: Vec<Action>,
    /// Whether it runs, and how it sleeps where it does not: by `cpu_idle`.
    told: Option<bool>,
    sleep: Sleep,
    handler: Option<Handler>,
}

/// A handler at work.
#[derive(Clone, Debug)]
struct Handler {
    since: u64,
    answers: Vec<u64>,
    /// The callback that runs, since when; and how long those before it took.
    callback: Option<u64>,
    busy: u64,
    called: bool,
}

#[derive(Default)]
struct Gatherer {
    cores: Vec<Core>,
    /// How long the callbacks of an IPI were busy, ns.
    lengths: HashMap<u64, u64>,
    left_out: BTreeMap<String, u64>,
    sends: u64,
    ipis: u64,
    kinds: bool,
    unknown: u64,
    /// Sends are `ipi_raise`.
    raises: bool,
    /// Of a broadcast, send to the targets that are picked alone.
    restricts: bool,
    /// The capture says of some receivers whether they ran.
    states: bool,
    /// IPIs that are replayed.
    sent: HashSet<u64>,
}

impl Gatherer {
    fn leave_out(&mut self, what: &str, count: u64) {
        *self.left_out.entry(what.into()).or_default() += count;
    }

    fn step(&mut self, step: &Step, names: &dyn Texts) {
        let event = &step.event;
        let (t, at) = (event.t, usize::from(event.cpu));
        let Some(core) = self.cores.get_mut(at) else { return };
        match event.what {
            What::Raise { targets, reason: words } => self.raise(step, targets, names.text(words)),
            // Without raises these are the sends. What they ask for, only their callback tells.
            What::SendCpu { cpu, callback, .. } if !self.raises => {
                let mut targets = Mask::default();
                targets.insert(cpu.into());
                self.raise(step, targets, reason::of_callback(names.text(callback)));
            }
            What::SendMask { targets, callback, .. } if !self.raises => {
                self.raise(step, targets, reason::of_callback(names.text(callback)));
            }
            What::Entry { .. } => {
                // Without cpu_idle, the task that the interrupt found says whether the core was idle.
                let runs = core.told.or(event.pid.map(|pid| pid != 0));
                self.states |= runs.is_some();
                let waited = step.arrows.iter().filter_map(|arrow| arrow.latency_ns).fold(0.0, f64::max) as u64;
                // Of IPIs that are not replayed nothing will come.
                if runs == Some(true) && step.arrows.iter().any(|arrow| self.sent.contains(&arrow.id)) {
                    core.actions.push(Action { t: t.saturating_sub(waited), what: Does::Polls(waited) });
                }
                let answers = step.arrows.iter().map(|arrow| arrow.id).collect();
                core.handler = Some(Handler { since: t, answers, callback: None, busy: 0, called: false });
            }
            What::FunctionEntry { .. } => {
                if let Some(handler) = &mut core.handler {
                    (handler.callback, handler.called) = (Some(t), true);
                }
            }
            What::FunctionExit { .. } => {
                if let Some(handler) = &mut core.handler
                    && let Some(since) = handler.callback.take()
                {
                    handler.busy += t.saturating_sub(since);
                }
            }
            What::Exit { .. } => {
                let Some(handler) = core.handler.take().filter(|handler| !handler.answers.is_empty()) else { return };
                // Kernels before 6.5 do not trace callbacks: there the handler is as long as they are.
                let busy = if handler.called { handler.busy } else { t.saturating_sub(handler.since) };
                let each = busy / handler.answers.len() as u64;
                self.lengths.extend(handler.answers.iter().map(|id| (*id, each)));
            }
            What::Idle { state } => {
                core.told = Some(state.is_none());
                let sleep = match state {
                    None => core.sleep,
                    Some(0) => Sleep::Wfi,
                    Some(_) => Sleep::Suspend,
                };
                if std::mem::replace(&mut core.sleep, sleep) != sleep {
                    core.actions.push(Action { t, what: Does::Sleeps(sleep) });
                }
            }
            What::Lost { .. } => core.handler = None,
            _ => {}
        }
    }

    fn raise(&mut self, step: &Step, targets: Mask, words: &str) {
        let from = step.event.cpu;
        let kind = reason::kind(words);
        let bare = words.strip_prefix("SGI ").and_then(|number| number.parse::<u8>().ok());
        let cores = self.cores.len();
        let mut list: Vec<u16> = targets.iter().filter(|to| usize::from(*to) < cores).collect();
        if self.restricts {
            list.retain(|to| step.arrows.iter().any(|arrow| arrow.picked && arrow.other == Some(*to)));
        }
        let (kind, intid) = match (kind, bare) {
            (Some(IpiKind::Stop | IpiKind::CrashStop | IpiKind::Wakeup | IpiKind::Backtrace), _) => {
                return self.leave_out(words, list.len() as u64);
            }
            (Some(IpiKind::CallFunction), _) if list.contains(&from) => {
                self.leave_out("calls of a core to itself", 1);
                list.retain(|to| *to != from);
                (kind, 0)
            }
            (Some(_), _) => (kind, 0),
            (None, Some(intid)) => (None, intid),
            (None, None) => {
                self.unknown += 1;
                (Some(IpiKind::Reschedule), 0)
            }
        };
        if list.is_empty() {
            return;
        }
        self.kinds |= kind.is_some();
        self.sends += 1;
        self.ipis += list.len() as u64;
        let ids: Vec<u64> = step.arrows.iter().map(|arrow| arrow.id).collect();
        self.sent.extend(&ids);
        if let Some(core) = self.cores.get_mut(usize::from(from)) {
            core.actions.push(Action { t: step.event.t, what: Does::Sends { kind, intid, targets: list, ids } });
        }
    }
}

/// Makes a plan of a capture.
///
/// # Errors
///
/// The capture's and the filter's; nothing that can be sent, or too much.
pub fn replay(request: &Request) -> Result<Replay, ReplayError> {
    let capture = Capture::open(&request.capture)?;
    let events = Events::prepare(&capture)?;
    if !events.is_timed() {
        return Err(ReplayError::Untimed);
    }
    let only = only(request, &capture)?;
    let choice = only.as_deref().map(|text| Choice::of(text, &capture)).transpose()?;
    // Neighbours are what they were, whole.
    let restricts = choice.as_ref().is_some_and(|choice| choice.filter().neighbours().is_none());
    let cores = vec![Core::default(); events.cpus().into()];
    let mut gatherer = Gatherer { cores, restricts, raises: events.has_raises(), ..Gatherer::default() };
    events.each(choice.as_ref(), true, |step, names| {
        gatherer.step(step, names);
        Ok(())
    })?;
    let (sends, ipis) = (gatherer.sends, gatherer.ipis);
    if sends == 0 {
        let others: u64 = gatherer.left_out.values().sum();
        let why = match (others, &only) {
            (0, None) => String::new(),
            (0, Some(only)) => format!(": `{only}` picks none"),
            (others, _) => format!(": {others} of kinds that would stop its cores"),
        };
        return Err(ReplayError::Nothing { file: request.capture.clone(), why });
    }
    if sends > MOST_SENDS {
        return Err(ReplayError::TooMany { sends });
    }
    let Gatherer { mut cores, lengths, left_out, kinds, unknown, states, .. } = gatherer;
    let span_ns = place(&mut cores, request);
    let mut notes = Vec::new();
    if unknown > 0 {
        notes.push(format!(
            "{unknown} sends have a reason that this kit does not know: they are replayed as reschedule IPIs"
        ));
    }
    if !states {
        notes.push("the capture does not say how receivers waited: they sleep in WFI".into());
    }
    let mut written: Vec<u64> = Vec::new();
    let jitter = u64::try_from(request.jitter.as_nanos()).unwrap_or(u64::MAX);
    let toml = write(&capture, &cores, kinds, &lengths, jitter, &mut written);
    written.sort_unstable();
    let median = written.get(written.len() / 2).copied().unwrap_or(0);
    let report = crate::report::build_of(&capture, None, None)?;
    let suspects = report.suspects.iter().filter(|suspect| suspect.role == Role::Receiver);
    let twin = |suspect: &crate::detect::Suspect| {
        let (core, effect) = suspect.core.zip(suspect.effect_ns)?;
        (effect >= 1.0).then(|| format!("late:{core}:{}", effect.round()))
    };
    Ok(Replay {
        toml,
        cores: cores.len() as u16,
        sends,
        ipis,
        span_ns,
        callbacks: (written.len() as u64, median, written.last().copied().unwrap_or(0)),
        left_out,
        twins: suspects.filter_map(twin).collect(),
        notes,
    })
}

/// The filter that a request comes to.
fn only(request: &Request, capture: &Capture) -> Result<Option<String>, ReplayError> {
    let Some(count) = request.around else { return Ok(request.only.clone()) };
    // The latest ones of those that are asked for.
    let choice = request.only.as_deref().map(|text| Choice::of(text, capture)).transpose()?;
    if choice.as_ref().is_some_and(|choice| choice.filter().neighbours().is_some()) {
        return Err(ReplayError::Twice);
    }
    let mut worst: std::collections::BinaryHeap<std::cmp::Reverse<u64>> = Default::default();
    correlate_heard(capture, &mut |message| {
        if let Some(latency) = message.latency.filter(|_| choice.as_ref().is_none_or(|choice| choice.picks(message))) {
            worst.push(std::cmp::Reverse(latency));
            if worst.len() > count.max(1) as usize {
                worst.pop();
            }
        }
        true
    })?;
    let Some(std::cmp::Reverse(least)) = worst.peek() else {
        return Err(ReplayError::Nothing { file: request.capture.clone(), why: ": none of it has a latency".into() });
    };
    let unit = if capture.linux().is_some() { "ns" } else { "tk" };
    let also = request.only.as_ref().map_or_else(String::new, |only| format!(" && ({only})"));
    Ok(Some(format!("around(latency >= {least}{unit}{also}, {}ns)", request.window.as_nanos())))
}

/// Gives every action its time in the plan; how long it takes from the first send to the last, ns.
fn place(cores: &mut [Core], request: &Request) -> u64 {
    let is_send = |action: &&Action| matches!(action.what, Does::Sends { .. });
    let mut times: Vec<u64> =
        cores.iter().flat_map(|core| &core.actions).filter(is_send).map(|action| action.t).collect();
    times.sort_unstable();
    times.dedup();
    // Where time is cut: from each of these times on, so much is taken away.
    let mut cuts: Vec<(u64, u64)> = Vec::new();
    if let Some(longest) = request.longest_gap.map(|gap| u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX)) {
        let mut taken = 0u64;
        for pair in times.windows(2) {
            let gap = pair[1] - pair[0];
            if gap > longest {
                taken += gap - longest;
                cuts.push((pair[1], taken));
            }
        }
    }
    let first = times.first().copied().unwrap_or(0);
    let mut random = Random(request.seed);
    let jitter = u64::try_from(request.jitter.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX as u64 / 4);
    let (mut begin, mut end) = (u64::MAX, 0);
    for core in cores.iter_mut() {
        // What it polls for was sent before the event that told it.
        core.actions.sort_by_key(|action| action.t);
        let mut newest = 0;
        for action in &mut core.actions {
            let taken = cuts.partition_point(|(from, _)| *from <= action.t).checked_sub(1).map_or(0, |at| cuts[at].1);
            // How a core waited before the first send is how it waits for that.
            let t = action.t.saturating_sub(first).saturating_sub(taken);
            let mut t = LEAD_IN_NS.saturating_add((t as f64 * request.scale).round() as u64);
            let is_send = matches!(action.what, Does::Sends { .. });
            if jitter > 0 && is_send {
                t = t.saturating_add(random.below(2 * jitter + 1)).saturating_sub(jitter);
            }
            // The order on a core is kept.
            t = t.max(newest);
            newest = t;
            action.t = t;
            if is_send {
                (begin, end) = (begin.min(t), end.max(t));
            }
        }
    }
    end.saturating_sub(begin)
}

/// A small generator (splitmix64, Steele et al., OOPSLA 2014): the same seed makes the same plan on every host.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// The job file. `written`: the lengths of the callbacks that it has.
fn write(
    capture: &Capture,
    cores: &[Core],
    kinds: bool,
    lengths: &HashMap<u64, u64>,
    jitter: u64,
    written: &mut Vec<u64>,
) -> String {
    let source = match capture.linux() {
        Some(table) => format!("the Linux trace {}", table.file),
        None => format!("a run of plan {}", capture.info().plan.name),
    };
    let plain = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let mut toml = String::new();
    // Writing into a text does not fail.
    let _ = writeln!(toml, "# Replays {}.", plain(&source));
    let _ =
        writeln!(toml, "# Run it with `ipiscope qemu --cores {} --plan FILE`; docs/replay.md says more.", cores.len());
    let replays = toml::Value::String(identity(capture));
    let _ = writeln!(toml, "name = \"replay\"\nreplays = {replays}\n");
    if !kinds {
        let _ = writeln!(toml, "[defaults]\nlevel = \"stages\"\n");
    }
    let _ = writeln!(toml, "[[phase]]\nname = \"replay\"\npattern = \"script\"\njudged = true");
    for (id, core) in cores.iter().enumerate().filter(|(_, core)| !core.actions.is_empty()) {
        let _ = writeln!(toml, "\n[[phase.program]]\ncores = {id}\nops = [");
        let mut program = Program { toml: &mut toml, sleep: Sleep::Wfi, now: 0, polls: (0, 0) };
        for action in &core.actions {
            match &action.what {
                Does::Sleeps(next) => {
                    program.wait(action.t);
                    program.sleep = *next;
                }
                Does::Polls(waited) => {
                    let before = POLL_BEFORE_NS.saturating_add(jitter);
                    let after = (*waited).min(MOST_POLL_NS).saturating_add(before);
                    let (from, until) = (action.t.saturating_sub(before), action.t.saturating_add(after));
                    program.wait(from);
                    program.polls = (program.now.max(from), program.polls.1.max(until));
                }
                Does::Sends { kind, intid, targets, ids } => {
                    program.wait(action.t.saturating_sub(LEAD_NS));
                    let _ = writeln!(program.toml, "  {{ at = \"{}ns\" }},", action.t);
                    program.now = action.t;
                    sends(program.toml, (*kind, *intid), targets, ids, lengths, written);
                }
            }
        }
        // Past what it polls for: at the phase's end it sleeps.
        let end = program.polls.1.max(program.now).saturating_add(LEAD_NS);
        program.wait(end);
        toml.push_str("]\n");
    }
    toml
}

/// The program of one core while it is written.
struct Program<'a> {
    toml: &'a mut String,
    sleep: Sleep,
    /// Until when the program so far goes, ns.
    now: u64,
    /// From when until when it polls, ns.
    polls: (u64, u64),
}

impl Program<'_> {
    /// Waits until a time: asleep, polling where it shall, asleep again.
    fn wait(&mut self, until: u64) {
        let (from, to) = self.polls;
        let asleep = self.sleep.name();
        for (state, end) in [(asleep, from.min(until)), ("spin", to.min(until)), (asleep, until)] {
            if end > self.now {
                // Writing into a text does not fail.
                let _ = writeln!(self.toml, "  {{ idle = {{ state = \"{state}\", until = \"{end}ns\" }} }},");
                self.now = end;
            }
        }
    }
}

fn sends(
    toml: &mut String,
    (kind, intid): (Option<IpiKind>, u8),
    targets: &[u16],
    ids: &[u64],
    lengths: &HashMap<u64, u64>,
    written: &mut Vec<u64>,
) {
    let to = match targets {
        [one] => one.to_string(),
        many => format!("{many:?}"),
    };
    let _ = match kind {
        Some(IpiKind::CallFunction) => {
            let mut known: Vec<u64> = ids.iter().filter_map(|id| lengths.get(id)).copied().collect();
            known.sort_unstable();
            let function = match known.get(known.len() / 2).copied().filter(|length| *length >= SHORTEST_NS) {
                Some(length) => {
                    written.push(length);
                    format!("function = \"slow\", time = \"{length}ns\"")
                }
                None => "function = \"drain\"".into(),
            };
            writeln!(toml, "  {{ call = {{ to = {to}, {function}, wait = false, always_send = true }} }},")
        }
        Some(kind) => writeln!(toml, "  {{ ipi = {{ kind = \"{}\", to = {to}, wait = false }} }},", kind.name()),
        None => writeln!(toml, "  {{ send = {{ to = {to}, intid = {intid} }} }},"),
    };
}
