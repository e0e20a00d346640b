//! From a job file to the firmware's words: operations, pair slots, lanes, twins, deadlines.
//!
//! A phase of timed pairs becomes, for each core that sends: `TURN`, then for each of its targets `PING` (between two
//! `POSTURE`s where the receiver shall not wait in WFI), then `PASS` to the next core that sends. Chains ascend in core id,
//! because the firmware gives the first turn to the lowest-numbered live core that has one. What the call layer's patterns
//! and steps become is `calls`' matter.

mod calls;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use trace_ring::calls::{CoreMask, Delivery, IpiKind};
use trace_ring::layout::{ABI_VERSION, LANES_PER_CORE, MAX_CORES, NO_HISTOGRAM, Shape, lay_out};
use trace_ring::plan::{
    CoreProgram, KIND_SGIS, LAST_MEASURED_SGI, LEAST_LOG2_RECORDS, MOST_DITHER, MOST_GAPS, MOST_LOG2_RECORDS, Op,
    PLAN_MAGIC, Plan, PlanHeader, PlanSlot, TraceLevel, Twin, checksum, op, plan_flag, posture,
};
use trace_ring::record::{RECORD_BYTES, ReceiverState};
use zerocopy::IntoBytes;

use super::job::{Called, Cores, Job, Level, Message, Pairs, Pattern, Phase, Span, State, Step, Transition, contains};
use super::{CompiledPlan, CoreList, Keep, PhaseMeta, PlanError, PlanMeta, PlanRequest, STANDARD, builtins};
use crate::fault::Fault;
use calls::Traffic;

/// Messages that one operation sends: between two of them the firmware looks whether somebody asked it to stop.
const CHUNK: u32 = 4096;

/// Cores of a cluster where a plan measures between clusters: the 16 that one target list of ICC_SGI1R_EL1 reaches.
const CLUSTER: u16 = 16;

/// The most bytes of all histograms together.
const HISTOGRAM_BUDGET: u64 = 64 << 20;

/// Cores up to which `pairs = "auto"` means all.
const ALL_UP_TO: u16 = 64;

/// Records that a lane can get beyond those that the plan counts: retirements, probes, legal empty acknowledges, and the
/// two slots that a live reader's guard takes.
const SLACK: u64 = 32;

/// Loops that the firmware nests.
const LOOP_DEPTH: u32 = 4;

/// The most operations of a plan: 256 MiB of them would not pass through an initrd.
const MOST_OPS: usize = 8 << 20;

/// The most pair slots of a plan: records keep 24 bits of a slot's index.
const MOST_SLOTS: usize = 1 << 24;

/// Beyond an hour for one phase, nobody is served.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Frames that a send records where the plan wants them.
const SENDER_FRAMES: u64 = 8;

/// Compiles a plan for a machine.
pub fn compile(request: &PlanRequest) -> Result<CompiledPlan, PlanError> {
    if request.cores == 0 || usize::from(request.cores) > MAX_CORES {
        return Err(PlanError::Cores(request.cores));
    }
    let asked = request.plan.as_deref().unwrap_or(STANDARD);
    let source = match builtins().iter().find(|builtin| builtin.name == asked) {
        Some(builtin) => builtin.toml.to_owned(),
        None => std::fs::read_to_string(asked).map_err(|reason| PlanError::NotFound { name: asked.into(), reason })?,
    };
    let job: Job = toml::from_str(&source).map_err(|error| PlanError::Toml { plan: asked.into(), error })?;
    let mut compiler = Compiler::new(request, &job)?;
    for phase in &job.phases {
        compiler.phase(phase)?;
    }
    compiler.finish(source)
}

/// A core's program and what it will write.
#[derive(Clone, Default)]
struct Core {
    /// Operations; jumps count from the program's first.
    ops: Vec<Op>,
    /// Records of its thread lane in one round.
    thread: u64,
    /// Answers in its IRQ lane in one round: how many records each takes is the level's matter.
    irq: u64,
    /// Other records of its IRQ lane in one round.
    irq_more: u64,
    /// Answers in its NMI lane in one round.
    nmi: u64,
    /// Other records of its NMI lane in one round.
    nmi_more: u64,
    /// Callbacks that it runs in one round.
    callbacks: u64,
    /// Those of them that somebody waits for.
    awaited: u64,
}

struct Compiler<'a> {
    request: &'a PlanRequest,
    job: &'a Job,
    cores: Vec<Core>,
    slots: Vec<PlanSlot>,
    /// Sets of cores that calls to many name.
    masks: Vec<CoreMask>,
    /// Where each of them stands.
    known_masks: HashMap<[u64; 8], u16>,
    /// Whether the plan uses the call layer.
    calls: bool,
    level: TraceLevel,
    /// Calls of one round, each hop of a chain for itself.
    called: u64,
    /// Messages of one round that come of calls.
    call_sends: u64,
    /// How long cores are busy in one round because the plan says so, ns.
    busy_ns: u64,
    /// The latest time of a script that a core waits for, ns behind the phase's begin.
    until_ns: u64,
    histograms: u32,
    without_histogram: u64,
    phases: Vec<PhaseMeta>,
    notes: Vec<String>,
    sgi_count: u8,
    timeout_ns: u64,
    probe_ns: u64,
    heartbeat_ns: u64,
    gap_ns: u64,
    /// Why the last phase that was left out was.
    left_out: String,
    /// Phases that were left out, because they have nobody to send from or to.
    skipped: Vec<String>,
}

/// A phase's choices after the defaults.
struct Settings {
    name: String,
    /// Its index.
    index: u32,
    pattern: Pattern,
    intid: u8,
    from: Vec<u16>,
    to: Vec<u16>,
    dither: u32,
    pressure: bool,
    transition: Option<Transition>,
}

const fn word(code: u8, a: u8, b: u16, c: u32, d: u64) -> Op {
    Op { code, a, b, c, d }
}

impl<'a> Compiler<'a> {
    fn new(request: &'a PlanRequest, job: &'a Job) -> Result<Self, PlanError> {
        for (option, list) in [("--from", &request.from), ("--to", &request.to)] {
            for core in list.iter().flat_map(|list| &list.0) {
                check_core(request.cores, *core, || {
                    format!("{option} {}", list.as_ref().map_or(String::new(), CoreList::to_string))
                })?;
            }
        }
        for fault in &request.faults {
            for core in fault.cores() {
                check_core(request.cores, core, || format!("--inject {fault}"))?;
            }
        }
        let option = |option: &str, what: &str| PlanError::Option { option: option.into(), what: what.into() };
        if job.phases.len() > usize::from(u16::MAX) {
            return Err(option("[[phase]]", "a plan has at most 65,535 phases; split it"));
        }
        if request.ring_records == Some(0) {
            return Err(option("--ring-records 0", "a lane holds at least 16 records; name a larger number"));
        }
        if request.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(option(
                "--duration 0",
                "a plan that is repeated needs time for it; name one, or leave the option out",
            ));
        }
        // T ends the wait only for an SGI that the redistributor shows as neither pending nor active, so a busy host that
        // keeps a core away does not turn into losses. Under a live emulator T is long enough to be seen, short enough for a
        // plan with losses to end.
        let default_timeout = if request.deterministic { 200_000 } else { 100_000_000 };
        let timeout_ns = job.defaults.timeout.map_or(default_timeout, |span| span.nanoseconds());
        // Early: what a probe is there to see is a redistributor that has the SGI disabled, however shortly. It only reads, so
        // it costs the waiting sender some time and a busy host no verdict.
        let default_probe = timeout_ns / 100;
        let probe_ns = job.defaults.probe.map_or(default_probe.max(1), |span| span.nanoseconds());
        if timeout_ns == 0 || timeout_ns > 60_000_000_000 {
            return Err(option("defaults.timeout", "it lies between 1ns and 60s; name a time in between"));
        }
        if job.defaults.deadline.is_some_and(|span| !(timeout_ns..=LONGEST_NS).contains(&span.nanoseconds())) {
            let what = format!(
                "it lies between the timeout ({}) and {}; name a time in between",
                humantime::format_duration(Duration::from_nanos(timeout_ns)),
                humantime::format_duration(Duration::from_nanos(LONGEST_NS))
            );
            return Err(option("defaults.deadline", &what));
        }
        if probe_ns > timeout_ns {
            return Err(option("defaults.probe", "it can't be longer than the timeout; make it shorter"));
        }
        let (heartbeat_ns, gap_ns) = watch(request, job);
        for (field, value) in [("defaults.heartbeat", heartbeat_ns), ("defaults.gap", gap_ns)] {
            if value > 10_000_000_000 {
                return Err(option(field, "it is 10s at most; name a shorter time"));
            }
        }
        if heartbeat_ns != 0 && heartbeat_ns < LEAST_HEARTBEAT_NS {
            let what = format!("a core would do nothing else: name at least {LEAST_HEARTBEAT_NS}ns, or 0s for none");
            return Err(option("defaults.heartbeat", &what));
        }
        let calls = job.calls();
        let usual = if calls { TraceLevel::Calls } else { TraceLevel::Ipi };
        let level = match request.keep {
            Keep::None => TraceLevel::Off,
            _ => request.level.or(job.defaults.level.map(Level::level)).unwrap_or(usual),
        };
        if request.backtrace && !calls {
            return Err(option(
                "--backtrace",
                &format!(
                    "plan `{}` does not use the call layer, so nobody's frames would be recorded; use --plan calls, or leave the option out",
                    job.name
                ),
            ));
        }
        if request.backtrace && level != TraceLevel::Calls {
            return Err(option(
                "--backtrace",
                &format!(
                    "frames are records of level `calls`, and this run records level `{}`; leave out --level and --keep none, or --backtrace",
                    level.name()
                ),
            ));
        }
        Ok(Compiler {
            request,
            job,
            cores: vec![Core::default(); request.cores.into()],
            slots: Vec::new(),
            masks: Vec::new(),
            known_masks: HashMap::new(),
            calls,
            level,
            called: 0,
            call_sends: 0,
            busy_ns: 0,
            until_ns: 0,
            histograms: 0,
            without_histogram: 0,
            phases: Vec::new(),
            notes: Vec::new(),
            sgi_count: if calls { KIND_SGIS } else { 1 },
            timeout_ns,
            probe_ns,
            heartbeat_ns,
            gap_ns,
            left_out: "it has no phase".into(),
            skipped: Vec::new(),
        })
    }

    fn error(&self, phase: &str, what: impl Into<String>, next_step: impl Into<String>) -> PlanError {
        PlanError::Phase {
            plan: self.job.name.clone(),
            phase: phase.into(),
            what: what.into(),
            next_step: next_step.into(),
        }
    }

    /// The cores of a list in a plan, all of them checked.
    fn list(&self, phase: &str, field: &str, cores: &Cores) -> Result<Vec<u16>, PlanError> {
        match cores {
            Cores::All => Ok((0..self.request.cores).collect()),
            Cores::One(core) => {
                self.check_named(phase, field, *core)?;
                Ok(vec![*core])
            }
            Cores::List(list) => {
                for core in &list.0 {
                    self.check_named(phase, field, *core)?;
                }
                Ok(list.0.clone())
            }
        }
    }

    fn check_named(&self, phase: &str, field: &str, core: u16) -> Result<(), PlanError> {
        check_core(self.request.cores, core, || format!("plan `{}`, phase `{phase}`, `{field}`", self.job.name))
    }

    fn intid(&mut self, phase: &str, intid: u8) -> Result<u8, PlanError> {
        if intid > LAST_MEASURED_SGI {
            return Err(self.error(
                phase,
                format!("intid = {intid}"),
                format!("plans measure SGIs 0 to {LAST_MEASURED_SGI}; choose one of them"),
            ));
        }
        if let Some(kind) = IpiKind::from_intid(intid).filter(|kind| self.calls && *kind != IpiKind::Reschedule) {
            return Err(self.error(
                phase,
                format!(
                    "intid = {intid} in a plan that uses the call layer: there SGI {intid} is IPI {}, and makes its target work",
                    kind.name()
                ),
                "use 0 (reschedule) for bare messages, or { call = .. } and { ipi = .. }",
            ));
        }
        self.sgi_count = self.sgi_count.max(intid + 1);
        Ok(intid)
    }

    fn phase(&mut self, phase: &Phase) -> Result<(), PlanError> {
        let pattern = phase.pattern;
        let name = phase.name.clone().unwrap_or_else(|| pattern.name().into());
        self.check_fields(&name, phase)?;
        let intid = match pattern.calls() {
            true => IpiKind::CallFunction.intid(),
            false => self.intid(&name, phase.intid.or(self.job.defaults.intid).unwrap_or(0))?,
        };
        // What the command line names stands in place of what the plan names.
        let own = |field: &str, cores: &Option<Cores>, replaced: &Option<CoreList>| match (replaced, cores) {
            (Some(list), _) => Ok(list.0.clone()),
            (None, Some(cores)) => self.list(&name, field, cores),
            (None, None) => Ok((0..self.request.cores).collect()),
        };
        let from = own("from", &phase.from, &self.request.from)?;
        let to = match (pattern, &phase.to, &self.request.to) {
            // All call one where nobody says whom.
            (Pattern::FanIn, None, None) => vec![0],
            _ => own("to", &phase.to, &self.request.to)?,
        };
        let states = match (&phase.states, phase.state.or(self.job.defaults.state)) {
            (Some(states), _) => states.clone(),
            (None, Some(state)) => vec![state],
            (None, None) => vec![State::Wfi],
        };
        let dither = phase.dither.or(self.job.defaults.dither).unwrap_or(0);
        if dither > MOST_DITHER {
            let what = format!("keep it at {MOST_DITHER} turns or below");
            return Err(self.error(&name, format!("dither = {dither}"), what));
        }
        // A sweep has transitions where others have states.
        let sweep = pattern == Pattern::Sweep;
        let transitions = match (&phase.transitions, phase.transition) {
            (Some(several), _) => several.clone(),
            (None, one) => one.into_iter().collect(),
        };
        let variants: Vec<(State, Option<Transition>)> = match sweep {
            true => transitions.into_iter().map(|transition| (State::Wfi, Some(transition))).collect(),
            false => states.into_iter().map(|state| (state, None)).collect(),
        };
        for (state, transition) in &variants {
            let variant = match transition {
                Some(transition) => trace_ring::plan::transition::name(transition.code()),
                None => state.receiver().name(),
            };
            let (name, prefix) = match (variants.len(), &phase.name) {
                (1, None) => (name.clone(), String::new()),
                (1, Some(own)) => (name.clone(), format!("{own}/")),
                (_, None) => (format!("{name}/{variant}"), format!("{variant}/")),
                (_, Some(own)) => (format!("{name}/{variant}"), format!("{own}/{variant}/")),
            };
            let settings = Settings {
                name,
                index: self.phases.len() as u32,
                pattern,
                intid,
                from: from.clone(),
                to: to.clone(),
                dither,
                pressure: phase.pressure.unwrap_or(false),
                transition: *transition,
            };
            if phase.most_cores.is_some_and(|most| self.request.cores > most) {
                self.leave_out(&settings, "is meant for fewer cores");
                continue;
            }
            match pattern {
                Pattern::Ping | Pattern::Matrix | Pattern::ToSelf => self.pairs(phase, &settings, *state)?,
                Pattern::Sweep => self.sweep(phase, &settings)?,
                Pattern::Broadcast => self.broadcast(phase, &settings, *state)?,
                Pattern::Storm => self.storm(phase, &settings, *state)?,
                Pattern::Script => self.script(phase, &settings, *state)?,
                Pattern::Calls => self.random_calls(phase, &settings, *state)?,
                Pattern::Kinds => self.kinds(phase, &settings, *state, &prefix)?,
                Pattern::Chain => self.chains(phase, &settings, *state)?,
                Pattern::FanIn => self.fan_in(phase, &settings, *state)?,
            }
            // Here, not at the end: a file of some thousand phases must not take the host's memory first.
            if self.slots.len() > MOST_SLOTS {
                return Err(self.error(
                    &settings.name,
                    format!("the plan needs more than {MOST_SLOTS} pair slots, which is what records can name"),
                    "narrow it with --from and --to, fewer phases or fewer cores",
                ));
            }
        }
        Ok(())
    }

    fn check_fields(&self, name: &str, phase: &Phase) -> Result<(), PlanError> {
        let pattern = phase.pattern;
        let says = |field: &str| format!("`{field}` means nothing to pattern `{}`", pattern.name());
        let scripted = pattern == Pattern::Script;
        let counted = matches!(pattern, Pattern::Calls | Pattern::Kinds);
        if counted && phase.count.is_none() && phase.budget.is_none() {
            let next_step = match pattern {
                Pattern::Calls => "say how many calls the phase makes (count)",
                _ => "say how many messages of each kind each pair gets (count)",
            };
            return Err(self.error(name, "it has no `count`", next_step));
        }
        if !scripted && !counted && phase.count.is_some() == phase.budget.is_some() {
            let what = if phase.count.is_some() {
                "it has both `count` and `budget`"
            } else {
                "it has neither `count` nor `budget`"
            };
            return Err(self.error(
                name,
                what,
                "say how many messages each pair gets (count) or the whole phase (budget)",
            ));
        }
        if phase.count == Some(0) || phase.budget == Some(0) {
            return Err(self.error(name, "it sends 0 messages", "name a number above 0, or leave the phase out"));
        }
        if phase.state.is_some() && phase.states.is_some() {
            return Err(self.error(name, "it has both `state` and `states`", "keep one of them"));
        }
        if pattern == Pattern::Broadcast && phase.pairs == Some(Pairs::Neighbours) {
            return Err(self.error(
                name,
                "`pairs` can't be \"neighbours\" in a broadcast",
                "choose all, clusters or auto",
            ));
        }
        if phase.states.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.error(name, "`states` is empty", "name at least one of wfi, spin, wfe, masked, suspend"));
        }
        let paired = matches!(pattern, Pattern::Ping | Pattern::Matrix | Pattern::Broadcast | Pattern::Sweep);
        let sweep = pattern == Pattern::Sweep;
        let timed = matches!(pattern, Pattern::Ping | Pattern::Matrix | Pattern::ToSelf);
        if sweep && phase.transition.is_some() == phase.transitions.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(self.error(
                name,
                "it names no transition, or both `transition` and `transitions`",
                "say what the receiver does: wfi, wfe, unmask, end_of_interrupt or suspend",
            ));
        }
        if sweep && !(1..=CHUNK).contains(&phase.steps.unwrap_or(0)) {
            let steps = phase.steps.map_or("no `steps`".into(), |steps| format!("steps = {steps}"));
            return Err(self.error(name, steps, format!("say how many messages a pass has, 1 to {CHUNK}")));
        }
        for (field, present, legal) in [
            ("pairs", phase.pairs.is_some(), paired),
            ("all_up_to", phase.all_up_to.is_some(), paired),
            ("minimum", phase.minimum.is_some(), phase.budget.is_some()),
            ("program", !phase.program.is_empty(), scripted),
            ("judged", phase.judged.is_some(), scripted),
            ("count", phase.count.is_some(), !scripted),
            ("budget", phase.budget.is_some(), !scripted && !counted),
            ("from", phase.from.is_some(), !scripted),
            (
                "to",
                phase.to.is_some(),
                !matches!(pattern, Pattern::Script | Pattern::Broadcast | Pattern::ToSelf | Pattern::Chain),
            ),
            ("intid", phase.intid.is_some(), !pattern.calls()),
            ("seed", phase.seed.is_some(), pattern == Pattern::Calls),
            ("functions", phase.functions.is_some(), pattern == Pattern::Calls),
            ("pause", phase.pause.is_some(), pattern == Pattern::Calls),
            ("hops", phase.hops.is_some(), pattern == Pattern::Chain),
            ("stride", phase.stride.is_some(), pattern == Pattern::Chain),
            ("most_pairs", phase.most_pairs.is_some(), pattern == Pattern::Kinds),
            ("dither", phase.dither.is_some(), timed),
            ("pressure", phase.pressure.is_some(), timed && pattern != Pattern::ToSelf),
            ("state", phase.state.is_some(), !sweep),
            ("states", phase.states.is_some(), !sweep),
            ("transition", phase.transition.is_some(), sweep),
            ("transitions", phase.transitions.is_some(), sweep),
            ("first", phase.first.is_some(), sweep),
            ("step", phase.step.is_some(), sweep),
            ("steps", phase.steps.is_some(), sweep),
        ] {
            if present && !legal {
                let what =
                    if field == "minimum" { "`minimum` means nothing without `budget`".into() } else { says(field) };
                return Err(self.error(name, what, "remove it"));
            }
        }
        if scripted && phase.program.is_empty() {
            return Err(self.error(name, "it has no program", "add [[phase.program]] with `cores` and `ops`"));
        }
        Ok(())
    }

    /// Messages for each of `pairs` pairs.
    fn share(&self, name: &str, phase: &Phase, pairs: u64) -> Result<u32, PlanError> {
        let share = match (phase.count, phase.budget) {
            (Some(count), _) => u64::from(count),
            (None, budget) => (budget.unwrap_or(0) / pairs.max(1)).max(phase.minimum.unwrap_or(1).into()),
        };
        match u32::try_from(share) {
            Ok(share) if share > 0 => Ok(share),
            _ => {
                Err(self.error(name, format!("{share} messages for each pair"), "keep it between 1 and 4,294,967,295"))
            }
        }
    }

    fn leave_out(&mut self, settings: &Settings, reason: &str) {
        self.left_out = format!("phase `{}` {reason}", settings.name);
        self.skipped.push(settings.name.clone());
    }

    fn begin(&mut self, settings: &Settings, posture: impl Fn(u16) -> u8) {
        for (id, core) in (0..).zip(&mut self.cores) {
            core.ops.push(word(op::PHASE, posture(id), 0, settings.index, 0));
            core.thread = core.thread.saturating_add(2);
        }
    }

    fn end(&mut self, settings: &Settings, timed: bool, state: ReceiverState, pairs: usize, sends: u64) {
        for core in &mut self.cores {
            core.ops.push(word(op::PHASE_END, 0, 0, settings.index, 0));
        }
        self.phases.push(PhaseMeta {
            name: settings.name.clone(),
            pattern: settings.pattern.name().into(),
            timed,
            state: state.name().into(),
            intid: settings.intid,
            pairs: pairs as u32,
            sends,
            dither: settings.dither,
            pressure: settings.pressure,
            transition: settings.transition.map(|it| trace_ring::plan::transition::name(it.code()).into()),
        });
    }

    fn slot(&mut self, settings: &Settings, from: u16, to: u16, intid: u8, state: ReceiverState) -> u64 {
        let index = self.slots.len() as u64;
        // A broadcast's run of slots holds one for its sender, which nothing ever reaches.
        let unused = settings.pattern == Pattern::Broadcast && from == to;
        let histogram = if unused { NO_HISTOGRAM } else { self.histogram() };
        let phase = settings.index as u16;
        let (state, kind, delivery) = (state.code(), 0, Delivery::Irq as u8);
        self.slots.push(PlanSlot { from, to, phase, intid, state, histogram, kind, delivery, reserved: 0 });
        index
    }

    /// A histogram, while there is room for one.
    fn histogram(&mut self) -> u32 {
        if (u64::from(self.histograms) + 1) * trace_ring::layout::HISTOGRAM_BYTES > HISTOGRAM_BUDGET {
            self.without_histogram += 1;
            return NO_HISTOGRAM;
        }
        self.histograms += 1;
        self.histograms - 1
    }

    /// Records that one send to one core leaves in its sender's lane.
    fn send_records(&self) -> u64 {
        1 + u64::from(self.level == TraceLevel::Calls) + self.frame_records()
    }

    /// Records of a sender's frames.
    fn frame_records(&self) -> u64 {
        if self.request.backtrace { SENDER_FRAMES } else { 0 }
    }

    /// Whether --from lets a core of a script send. What others would send is left out.
    fn allows_from(&self, from: u16) -> bool {
        self.request.from.as_ref().is_none_or(|list| list.0.contains(&from))
    }

    /// Whether --from and --to let a core of a script send to another.
    fn allows(&self, from: u16, to: u16) -> bool {
        self.allows_from(from) && self.request.to.as_ref().is_none_or(|list| list.0.contains(&to))
    }

    fn core(&mut self, id: u16) -> &mut Core {
        // Every id was checked against the number of cores when it was read.
        &mut self.cores[usize::from(id)]
    }

    /// `count` messages by operation `word`, in chunks.
    fn messages(core: &mut Core, count: u32, word: Op) {
        Self::chunks(core, count, |count| Op { c: count, ..word });
    }

    /// `count` messages by operations of at most a chunk each.
    fn chunks(core: &mut Core, count: u32, operation: impl Fn(u32) -> Op) {
        let (chunks, rest) = (count / CHUNK, count % CHUNK);
        if chunks > 1 {
            core.ops.push(word(op::LOOP, 0, 0, chunks, 0));
        }
        if chunks > 0 {
            core.ops.push(operation(CHUNK));
        }
        if chunks > 1 {
            core.ops.push(word(op::LOOP_END, 0, 0, 0, 0));
        }
        if rest > 0 {
            core.ops.push(operation(rest));
        }
    }

    /// Links the turns of a phase: `starts` has, ascending, each core that sends and the place of its TURN; its PASS is the
    /// program's last operation.
    fn link(&mut self, starts: &[(u16, u32)]) {
        let nexts = starts.iter().skip(1).copied().map(Some).chain([None]);
        for ((id, turn), next) in starts.iter().zip(nexts) {
            let core = self.core(*id);
            let pass = core.ops.len() as u32;
            let (next, jump) = next.unwrap_or((0xFFFF, 0));
            core.ops.push(word(op::PASS, 0, next, jump, 0));
            if let Some(word) = core.ops.get_mut(*turn as usize) {
                word.c = pass;
            }
        }
    }

    fn turn(&mut self, id: u16) -> (u16, u32) {
        let core = self.core(id);
        core.ops.push(word(op::TURN, 0, 0, 0, 0));
        (id, core.ops.len() as u32 - 1)
    }

    fn pairs(&mut self, phase: &Phase, settings: &Settings, state: State) -> Result<(), PlanError> {
        let list = self.pair_list(phase, settings);
        if list.is_empty() {
            self.leave_out(settings, "has no pair of two cores");
            return Ok(());
        }
        let count = self.share(&settings.name, phase, list.len() as u64)?;
        // Who interrupts itself was polling.
        let to_self = settings.pattern == Pattern::ToSelf;
        let state = if to_self { ReceiverState::Spin } else { state.receiver() };
        let resting = if settings.pressure { posture::PRESSURE } else { ReceiverState::Wfi.code() };
        self.begin(settings, |_| resting);
        let mut starts: Vec<(u16, u32)> = Vec::new();
        for (from, to) in &list {
            if starts.last().is_none_or(|(id, _)| id != from) {
                let start = self.turn(*from);
                starts.push(start);
                self.dither(*from, settings.dither);
            }
            let slot = self.slot(settings, *from, *to, settings.intid, state);
            let posed = !to_self && state.code() != resting;
            let records = u64::from(count) * self.send_records();
            let core = self.core(*from);
            if posed {
                core.ops.push(word(op::POSTURE, state.code(), *to, 0, 0));
            }
            Self::messages(core, count, word(op::PING, settings.intid, *to, 0, slot));
            if posed {
                core.ops.push(word(op::POSTURE, resting, *to, 0, 0));
            }
            core.thread = core.thread.saturating_add(records);
            let receiver = self.core(*to);
            receiver.irq = receiver.irq.saturating_add(count.into());
        }
        self.undither(&starts, settings.dither);
        self.link(&starts);
        self.end(settings, true, state, list.len(), list.len() as u64 * u64::from(count));
        Ok(())
    }

    /// Lets a core draw how long it waits before each message.
    fn dither(&mut self, id: u16, turns: u32) {
        if turns > 0 {
            self.core(id).ops.push(word(op::DITHER, 0, 0, turns, 0));
        }
    }

    fn undither(&mut self, starts: &[(u16, u32)], turns: u32) {
        for (id, _) in starts.iter().filter(|_| turns > 0) {
            self.core(*id).ops.push(word(op::DITHER, 0, 0, 0, 0));
        }
    }

    /// Each pair, one outstanding, each message at its own distance from the receiver's transition.
    fn sweep(&mut self, phase: &Phase, settings: &Settings) -> Result<(), PlanError> {
        let list = self.pair_list(phase, settings);
        let Some(transition) = settings.transition.filter(|_| !list.is_empty()) else {
            self.leave_out(settings, "has no pair of two cores");
            return Ok(());
        };
        let steps = phase.steps.unwrap_or(1);
        let (first, step) = (phase.first.unwrap_or(0), phase.step.unwrap_or(1));
        // Beyond it, a pass would take longer than anything that is raced for.
        const FARTHEST: i64 = 1 << 32;
        let last = first.saturating_add(i64::from(step).saturating_mul(steps.into()));
        if !(-FARTHEST..=FARTHEST).contains(&first) || last > FARTHEST {
            let what = format!("first = {first}, step = {step}, steps = {steps}");
            return Err(self.error(&settings.name, what, format!("stay within {FARTHEST} ticks of the transition")));
        }
        let passes = self.share(&settings.name, phase, list.len() as u64 * u64::from(steps))?;
        let state = transition.state();
        self.begin(settings, |_| ReceiverState::Wfi.code());
        let mut starts: Vec<(u16, u32)> = Vec::new();
        for (from, to) in &list {
            if starts.last().is_none_or(|(id, _)| id != from) {
                let start = self.turn(*from);
                starts.push(start);
            }
            let slot = self.slot(settings, *from, *to, settings.intid, state);
            let messages = u64::from(passes) * u64::from(steps);
            let records = messages.saturating_mul(self.send_records() + 1);
            let core = self.core(*from);
            if passes > 1 {
                core.ops.push(word(op::LOOP, 0, 0, passes, 0));
            }
            core.ops.push(word(op::SWEEP_RANGE, transition.code(), 0, step, first as u64));
            core.ops.push(word(op::SWEEP, settings.intid, *to, steps, slot));
            if passes > 1 {
                core.ops.push(word(op::LOOP_END, 0, 0, 0, 0));
            }
            core.thread = core.thread.saturating_add(records);
            let receiver = self.core(*to);
            receiver.irq = receiver.irq.saturating_add(messages);
        }
        self.link(&starts);
        let sends = list.len() as u64 * u64::from(passes) * u64::from(steps);
        self.end(settings, false, state, list.len(), sends);
        Ok(())
    }

    /// The pairs of a phase, ascending by sender.
    fn pair_list(&self, phase: &Phase, settings: &Settings) -> Vec<(u16, u16)> {
        let cores = self.request.cores;
        let (from, to) = (&settings.from, &settings.to);
        if settings.pattern == Pattern::ToSelf {
            return from.iter().filter(|core| to.contains(core)).map(|core| (*core, *core)).collect();
        }
        let all = || from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))).filter(|(from, to)| from != to);
        let limit = usize::from(phase.all_up_to.unwrap_or(ALL_UP_TO));
        let (near, leaders) = match phase.pairs.unwrap_or(Pairs::All) {
            Pairs::All => return all().collect(),
            Pairs::Auto if from.len().max(to.len()) <= limit => return all().collect(),
            Pairs::Neighbours => (true, false),
            Pairs::Clusters => (false, true),
            Pairs::Auto => (true, true),
        };
        let chosen = |(from, to): &(u16, u16)| {
            near && (from + 1) % cores == *to || leaders && from % CLUSTER == 0 && to % CLUSTER == 0
        };
        all().filter(chosen).collect()
    }

    fn broadcast(&mut self, phase: &Phase, settings: &Settings, state: State) -> Result<(), PlanError> {
        let cores = self.request.cores;
        if self.request.to.is_some() {
            self.notes.push(format!("phase `{}`: a broadcast reaches every core, whatever --to says", settings.name));
        }
        let limit = phase.all_up_to.unwrap_or(ALL_UP_TO);
        let senders: Vec<u16> = match phase.pairs.unwrap_or(Pairs::All) {
            Pairs::All | Pairs::Neighbours => settings.from.clone(),
            Pairs::Auto if cores <= limit || self.request.from.is_some() => settings.from.clone(),
            Pairs::Auto | Pairs::Clusters => settings.from.iter().copied().filter(|core| core % CLUSTER == 0).collect(),
        };
        if cores < 2 || senders.is_empty() {
            self.leave_out(settings, "has nobody to send to or from");
            return Ok(());
        }
        let others = u64::from(cores) - 1;
        let count = self.share(&settings.name, phase, senders.len() as u64 * others)?;
        let state = state.receiver();
        self.begin(settings, |_| state.code());
        let mut starts = Vec::new();
        for from in &senders {
            starts.push(self.turn(*from));
            let mut first = None;
            for to in 0..cores {
                let slot = self.slot(settings, *from, to, settings.intid, state);
                first.get_or_insert(slot);
                if to != *from {
                    let receiver = self.core(to);
                    receiver.irq = receiver.irq.saturating_add(count.into());
                }
            }
            let records = u64::from(count) * self.send_records();
            let core = self.core(*from);
            Self::messages(core, count, word(op::BROADCAST, settings.intid, 0, 0, first.unwrap_or(0)));
            core.thread = core.thread.saturating_add(records);
        }
        self.link(&starts);
        let pairs = senders.len() * usize::from(cores - 1);
        self.end(settings, false, state, pairs, pairs as u64 * u64::from(count));
        Ok(())
    }

    fn storm(&mut self, phase: &Phase, settings: &Settings, state: State) -> Result<(), PlanError> {
        let mut pairs = Vec::new();
        for from in &settings.from {
            pairs.push((*from, settings.to.iter().copied().filter(|to| to != from).collect::<Vec<_>>()));
        }
        pairs.retain(|(_, to)| !to.is_empty());
        let total: usize = pairs.iter().map(|(_, to)| to.len()).sum();
        if total == 0 {
            self.leave_out(settings, "has no pair of two cores");
            return Ok(());
        }
        let count = self.share(&settings.name, phase, total as u64)?;
        let state = state.receiver();
        let receivers = settings.to.clone();
        self.begin(settings, |id| if receivers.contains(&id) { state.code() } else { ReceiverState::Wfi.code() });
        for (from, targets) in &pairs {
            let slots: Vec<u64> =
                targets.iter().map(|to| self.slot(settings, *from, *to, settings.intid, state)).collect();
            let records = u64::from(count) * targets.len() as u64 * self.send_records();
            let core = self.core(*from);
            if let ([to], [slot]) = (targets.as_slice(), slots.as_slice()) {
                Self::messages(core, count, word(op::SEND, settings.intid, *to, 0, *slot));
            } else {
                core.ops.push(word(op::LOOP, 0, 0, count, 0));
                for (to, slot) in targets.iter().zip(&slots) {
                    core.ops.push(word(op::SEND, settings.intid, *to, 1, *slot));
                }
                core.ops.push(word(op::LOOP_END, 0, 0, 0, 0));
            }
            core.ops.push(word(op::SETTLE, 0, 0, 0, 0));
            core.thread = core.thread.saturating_add(records);
            for to in targets {
                // A message that was answered early leaves an interrupt behind that finds nothing: two records.
                let receiver = self.core(*to);
                receiver.irq = receiver.irq.saturating_add(2 * u64::from(count));
            }
        }
        self.end(settings, false, state, total, total as u64 * u64::from(count));
        Ok(())
    }

    fn script(&mut self, phase: &Phase, settings: &Settings, state: State) -> Result<(), PlanError> {
        let mut programs: HashMap<u16, &[Step]> = HashMap::new();
        for program in &phase.program {
            for core in self.list(&settings.name, "program.cores", &program.cores)? {
                if programs.insert(core, &program.ops).is_some() {
                    return Err(self.error(
                        &settings.name,
                        format!("core {core} has two programs"),
                        "name each core in one [[phase.program]] only",
                    ));
                }
            }
        }
        let meets: u64 = phase.program.iter().map(|program| barriers(&program.ops)).max().unwrap_or(0);
        let odd = phase.program.iter().find(|program| barriers(&program.ops) != meets);
        if let Some(odd) = odd {
            return Err(self.error(
                &settings.name,
                format!("one program meets {} barriers, another {meets}", barriers(&odd.ops)),
                "give all programs the same number: a barrier is where all cores meet",
            ));
        }
        let Ok(meets) = u32::try_from(meets) else {
            return Err(self.error(&settings.name, format!("{meets} barriers"), "keep below 4,294,967,296"));
        };
        let state = state.receiver();
        let deliveries = self.deliveries(&settings.name, &programs)?;
        for (id, delivery) in &deliveries {
            self.core(*id).ops.push(word(op::DELIVERY, *delivery as u8, 0, 0, 0));
        }
        // Who only says how it takes interrupts does nothing of its own.
        let acts = |steps: &[Step]| steps.iter().any(|step| !matches!(step, Step::Delivery(_)));
        let mut script = Script {
            slots: HashMap::new(),
            sends: 0,
            settings,
            state,
            scripted: programs.iter().filter(|(_, steps)| acts(steps)).map(|(id, _)| *id).collect(),
            traffic: Traffic::new(self, settings),
            deliveries: &deliveries,
            releasers: self.releasers(&settings.name, &programs)?,
            holds: Default::default(),
            parks: Default::default(),
        };
        let onward = |program: &super::job::Program| {
            contains(&program.ops, |step| matches!(step, Step::Call(call) if call.function == Called::Onward))
        };
        if phase.program.iter().any(onward) {
            script.rows(self);
        }
        self.begin(settings, |_| state.code());
        for id in 0..self.request.cores {
            match programs.get(&id) {
                Some(steps) => {
                    script.steps(self, id, steps, 1, 0)?;
                    self.core(id).ops.push(word(op::SETTLE, 0, 0, 0, 0));
                }
                // Cores that the script doesn't name meet the others all the same.
                None if meets > 0 => self.core(id).ops.extend([
                    word(op::LOOP, 0, 0, meets, 0),
                    word(op::BARRIER, 0, 0, 0, 0),
                    word(op::LOOP_END, 0, 0, 0, 0),
                ]),
                None => {}
            }
        }
        script.check_balance(self)?;
        // Cores wait for their times side by side.
        self.busy_ns = self.busy_ns.saturating_add(std::mem::take(&mut self.until_ns));
        let (pairs, sends) =
            (script.slots.len() + script.traffic.pairs, script.sends.saturating_add(script.traffic.sends));
        self.end(settings, phase.judged.unwrap_or(false), state, pairs, sends);
        for id in deliveries.keys() {
            self.core(*id).ops.push(word(op::DELIVERY, Delivery::PseudoNmi as u8, 0, 0, 0));
        }
        Ok(())
    }

    fn finish(mut self, source: String) -> Result<CompiledPlan, PlanError> {
        let request = self.request;
        if self.phases.is_empty() {
            return Err(PlanError::Nothing {
                plan: self.job.name.clone(),
                cores: request.cores,
                reason: self.left_out,
            });
        }
        if !self.skipped.is_empty() {
            let names = self.skipped.join("`, `");
            self.notes
                .push(format!("phases left out at this number of cores, or with these --from and --to: `{names}`"));
        }
        let duration_ns = request.duration.map_or(0, saturating_ns);
        for core in &mut self.cores {
            if duration_ns > 0 {
                core.ops.push(word(op::AGAIN, 0, 0, 0, 0));
            }
            core.ops.push(word(op::END, 0, 0, 0, 0));
        }
        let (ops, firsts) = self.place();
        if ops.len() > MOST_OPS {
            return Err(PlanError::Option {
                option: format!("plan `{}` on {} cores", self.job.name, request.cores),
                what: format!(
                    "it needs {} operations, the firmware takes {MOST_OPS}; narrow it with --from and --to or fewer cores",
                    ops.len()
                ),
            });
        }
        self.check_faults()?;
        let (lanes, wanted) = self.lanes(duration_ns > 0);
        let programs: Vec<CoreProgram> = firsts
            .iter()
            .zip(&lanes)
            .map(|(first_op, log2_records)| CoreProgram {
                first_op: *first_op,
                reserved: 0,
                log2_records: *log2_records,
                reserved1: 0,
            })
            .collect();
        let records: u64 = lanes.iter().flatten().map(|log2| 1_u64 << log2).sum();
        let ring_bytes = records * RECORD_BYTES;
        if ring_bytes < wanted {
            self.notes.push(format!(
                "rings take {} MiB where {} MiB would hold every record of a round: a lane that is not drained in time is lapped, and the report counts what was lost",
                ring_bytes.div_ceil(1 << 20),
                wanted.div_ceil(1 << 20),
            ));
        }
        if self.without_histogram > 0 {
            self.notes.push(format!(
                "{} of {} pair slots have no histogram ({} MiB of them is the limit): their percentiles come from records only",
                self.without_histogram,
                self.slots.len(),
                HISTOGRAM_BUDGET >> 20,
            ));
        }
        let expected_sends = self.phases.iter().map(|phase| phase.sends).fold(0, u64::saturating_add);
        let per_answer = self.records_per_answer();
        let records = |core: &Core| {
            let answers = core.irq.saturating_add(core.nmi).saturating_mul(per_answer);
            [core.thread, core.irq_more, core.nmi_more].into_iter().fold(answers, u64::saturating_add)
        };
        let expected_records = self.cores.iter().map(records).fold(0, u64::saturating_add);
        let deadline_ns = self.deadline(expected_sends, duration_ns);
        let seed = request.seed.unwrap_or(0);
        let twins: Vec<Twin> =
            request.faults.iter().enumerate().map(|(index, fault)| fault.twin(index, seed)).collect();
        let level = self.level;
        let mut flags = 0;
        for (set, flag) in [
            (request.deterministic, plan_flag::DETERMINISTIC),
            (request.non_cacheable, plan_flag::NON_CACHEABLE),
            (request.clock_test, plan_flag::CLOCK_TEST),
            (self.calls, plan_flag::CALLS),
            (request.backtrace, plan_flag::BACKTRACE),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let boot_ns = self.boot_ns();
        // The host waits longer than the target: the target can say what was missing, the host can't. Counted instructions
        // pass far slower than they would on silicon.
        let virtual_ns = deadline_ns.saturating_add(duration_ns).saturating_add(boot_ns);
        let slowness = if request.deterministic { 40 } else { 1 };
        let start = Duration::from_secs(60) + Duration::from_millis(200) * u32::from(request.cores);
        let host_deadline = start
            + Duration::from_nanos(virtual_ns.saturating_mul(slowness))
            + Duration::from_nanos(self.called.saturating_mul(calls::HOST_NS_EACH));
        let meta = PlanMeta {
            name: self.job.name.clone(),
            replays: self.job.replays.clone(),
            source,
            cores: request.cores,
            phases: self.phases,
            expected_sends,
            expected_records,
            faults: request.faults.iter().map(Fault::to_string).collect(),
            keep: request.keep,
            deterministic: request.deterministic,
            level: level.name().into(),
            policy: request.policy.name().into(),
            timeout_ns: self.timeout_ns,
            probe_ns: self.probe_ns,
            duration_ns,
            ring_bytes,
            slots_without_histogram: self.without_histogram,
            host_deadline_ms: host_deadline.as_millis() as u64,
            heartbeat_ns: self.heartbeat_ns,
            gap_ns: self.gap_ns,
            seed: request.seed,
        };
        let embedded = embedded(&meta);
        let mut header = PlanHeader {
            magic: PLAN_MAGIC,
            version: ABI_VERSION,
            header_len: size_of::<PlanHeader>() as u32,
            total_len: 0,
            crc: 0,
            flags,
            nonce: request.nonce,
            core_count: request.cores.into(),
            phase_count: meta.phases.len() as u32,
            op_count: ops.len() as u32,
            slot_count: self.slots.len() as u32,
            histogram_count: self.histograms,
            twin_count: twins.len() as u32,
            ops: 0,
            programs: 0,
            slots: 0,
            twins: 0,
            timeout_ns: self.timeout_ns,
            probe_ns: self.probe_ns,
            boot_ns,
            deadline_ns,
            duration_ns,
            trigger_ns: request.trigger.map_or(0, saturating_ns),
            trace_level: level.code(),
            policy: request.policy.code(),
            sgi_count: self.sgi_count,
            reserved0: 0,
            reserved1: 0,
            patience_ns: self.timeout_ns.saturating_mul(if request.deterministic { 8 } else { 50 }),
            meta: 0,
            meta_len: embedded.len() as u64,
            masks: 0,
            mask_count: self.masks.len() as u32,
            suspend_state: self.job.defaults.suspend_state.unwrap_or(0),
            heartbeat_ns: self.heartbeat_ns,
            gap_ns: self.gap_ns,
            seed: seed.wrapping_add(1).max(1),
            reserved: 0,
        };
        let mut blob = header.as_bytes().to_vec();
        for (offset, bytes) in [
            (&mut header.ops, ops.as_bytes()),
            (&mut header.programs, programs.as_bytes()),
            (&mut header.slots, self.slots.as_bytes()),
            (&mut header.twins, twins.as_bytes()),
            (&mut header.masks, self.masks.as_bytes()),
            (&mut header.meta, &embedded),
        ] {
            blob.resize(blob.len().next_multiple_of(8), 0);
            *offset = blob.len() as u64;
            blob.extend_from_slice(bytes);
        }
        header.total_len = blob.len() as u64;
        for _ in 0..2 {
            // Twice: the checksum covers the whole header (its own field reads as zero), which must be in place first.
            if let Some(head) = blob.get_mut(..size_of::<PlanHeader>()) {
                head.copy_from_slice(header.as_bytes());
            }
            header.crc = checksum(&blob);
        }
        // The firmware's own check, on an aligned copy of what it will read.
        let mut aligned = vec![0_u64; blob.len().div_ceil(8)];
        if let Some(room) = aligned.as_mut_bytes().get_mut(..blob.len()) {
            room.copy_from_slice(&blob);
        }
        let shape = match Plan::parse(aligned.as_bytes()) {
            Ok(plan) => plan.shape(),
            Err(error) => return Err(PlanError::Internal { plan: self.job.name.clone(), error }),
        };
        let (_, region_bytes) = lay_out(Shape { ..shape });
        Ok(CompiledPlan { blob, meta, region_bytes, notes: self.notes, host_deadline })
    }

    /// Puts the programs one after another; equal ones share their operations. Gives the operations and each program's first.
    fn place(&mut self) -> (Vec<Op>, Vec<u32>) {
        let mut ops: Vec<Op> = Vec::new();
        let mut known: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut firsts = Vec::with_capacity(self.cores.len());
        for core in &self.cores {
            // A program with turns is its core's own: other programs point into it.
            let shared = core.ops.iter().all(|word| word.code != op::TURN);
            let key = shared.then(|| core.ops.as_bytes().to_vec());
            let next = ops.len() as u32;
            let first = key.map_or(next, |key| *known.entry(key).or_insert(next));
            if first == next {
                ops.extend_from_slice(&core.ops);
            }
            firsts.push(first);
        }
        let mut placed = vec![false; ops.len()];
        for (core, first) in self.cores.iter().zip(&firsts) {
            for (word, at) in core.ops.iter().zip(*first..) {
                let base = match word.code {
                    op::TURN | op::AGAIN => *first,
                    op::PASS if word.b != 0xFFFF => firsts.get(usize::from(word.b)).copied().unwrap_or(0),
                    _ => continue,
                };
                let at = at as usize;
                if let (Some(target), Some(placed @ false)) = (ops.get_mut(at), placed.get_mut(at)) {
                    target.c = word.c + base;
                    *placed = true;
                }
            }
        }
        (ops, firsts)
    }

    /// Records that an answer takes: level `stages` adds two to it.
    fn records_per_answer(&self) -> u64 {
        match self.level {
            TraceLevel::Off | TraceLevel::Ipi => 1,
            TraceLevel::Stages | TraceLevel::Calls => 3,
        }
    }

    /// Each lane's capacity as a power of two, and the bytes that would hold every record.
    fn lanes(&self, repeated: bool) -> (Vec<[u8; LANES_PER_CORE]>, u64) {
        // A script can ask for more records than there are numbers: sums stop at the largest.
        let most = 1_u64 << MOST_LOG2_RECORDS;
        let log2 = |records: u64| records.min(most).next_power_of_two().trailing_zeros().max(6) as u8;
        // A plan that is repeated is drained while it runs: rings hold a few rounds of it.
        let rounds = if repeated { 4 } else { 1 };
        let per_answer = self.records_per_answer();
        let least = LEAST_LOG2_RECORDS;
        // Gaps and heartbeats of a waiting core.
        let gaps = if self.gap_ns > 0 || self.heartbeat_ns > 0 { u64::from(MOST_GAPS) } else { 0 };
        let room = |records: u64| match records {
            0 => least,
            records => log2(records.saturating_mul(rounds).saturating_add(SLACK)),
        };
        let interrupts = |answers: u64, more: u64| answers.saturating_mul(per_answer).saturating_add(more);
        let mut lanes: Vec<[u8; LANES_PER_CORE]> = self
            .cores
            .iter()
            .map(|core| match (self.request.ring_records, self.level) {
                (Some(records), _) => {
                    [u64::from(records).next_power_of_two().trailing_zeros().clamp(4, 31) as u8, 0, 0, 0]
                }
                (None, TraceLevel::Off) => [least; LANES_PER_CORE],
                (None, _) => [
                    room(core.thread.saturating_add(gaps)).max(6),
                    room(interrupts(core.irq, core.irq_more).saturating_add(gaps)).max(6),
                    room(interrupts(core.nmi, core.nmi_more)),
                    least,
                ],
            })
            .map(|lane| if self.request.ring_records.is_some() { [lane[0]; LANES_PER_CORE] } else { lane })
            .collect();
        let bytes =
            |lanes: &[[u8; LANES_PER_CORE]]| -> u64 { lanes.iter().flatten().map(|log2| RECORD_BYTES << log2).sum() };
        let wanted = bytes(&lanes);
        if self.request.ring_records.is_some() {
            return (lanes, wanted);
        }
        while bytes(&lanes) > self.request.ring_memory_cap {
            let largest = lanes.iter().flatten().copied().max().unwrap_or(0);
            if largest <= 6 {
                break;
            }
            // All lanes of the largest size at once: alike cores keep alike rings.
            for lane in lanes.iter_mut().flatten().filter(|log2| **log2 == largest) {
                *lane -= 1;
            }
        }
        (lanes, wanted)
    }

    /// How long a core that was started may take to arrive.
    fn boot_ns(&self) -> u64 {
        if self.request.deterministic {
            100_000_000
        } else {
            5_000_000_000 + 20_000_000 * u64::from(self.request.cores)
        }
    }

    /// How long a barrier or a turn may take: everything that the others may be doing meanwhile.
    fn deadline(&self, sends: u64, duration_ns: u64) -> u64 {
        if let Some(span) = self.job.defaults.deadline {
            return span.nanoseconds();
        }
        if self.calls {
            return self.call_deadline(sends, duration_ns);
        }
        let (floor, each) =
            if self.request.deterministic { (1_000_000_000, 50_000) } else { (60_000_000_000, 1_000_000) };
        // A fault makes some messages wait for T, or for as long as it holds the core.
        let faults = self.request.faults.iter().map(|fault| fault.delay_ns(self.timeout_ns));
        let each = faults.fold(each, u64::saturating_add);
        sends.saturating_mul(each).saturating_add(floor).min(duration_ns.saturating_add(LONGEST_NS))
    }
}

/// What a `script` phase gathers while its steps are written.
struct Script<'a> {
    slots: HashMap<(u16, u16, u8), u64>,
    sends: u64,
    settings: &'a Settings,
    state: ReceiverState,
    /// Cores that do things of their own: their state is not known when an interrupt comes.
    scripted: HashSet<u16>,
    /// Slots and messages of the call layer.
    traffic: Traffic<'a>,
    /// How cores take crash stops and backtraces, where their programs say so.
    deliveries: &'a BTreeMap<u16, Delivery>,
    /// Who releases each core that holds, where it is one core alone.
    releasers: HashMap<u16, u16>,
    /// For each core that holds: how often, and how often it is released.
    holds: BTreeMap<u16, (u64, u64)>,
    /// For each core that is stopped: how often, and how often it is woken.
    parks: BTreeMap<u16, (u64, u64)>,
}

impl Script<'_> {
    fn steps(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        steps: &[Step],
        times: u64,
        depth: u32,
    ) -> Result<(), PlanError> {
        let phase = &self.settings.name;
        for step in steps {
            compiler.busy_ns = compiler.busy_ns.saturating_add(times.saturating_mul(step.busy().nanoseconds()));
            compiler.until_ns = compiler.until_ns.max(step.until().nanoseconds());
            let plain = match step {
                Step::Settle => word(op::SETTLE, 0, 0, 0, 0),
                Step::Delay(span) => word(op::DELAY, 0, 0, 0, span.nanoseconds()),
                Step::At(span) => word(op::AT, 0, 0, 0, span.nanoseconds()),
                Step::Mask(span) => word(op::MASK, 0, 0, 0, span.nanoseconds()),
                Step::Idle(idle) => {
                    let state = idle.state.receiver().code();
                    match (idle.time, idle.until) {
                        (Some(time), None) => word(op::IDLE, state, 0, 0, time.nanoseconds()),
                        (None, Some(until)) => word(op::IDLE_UNTIL, state, 0, 0, until.nanoseconds()),
                        _ => {
                            return Err(compiler.error(
                                phase,
                                "an idle that has both `time` and `until`, or neither",
                                "write { idle = { state = \"wfi\", time = \"10us\" } }, or until = \"1ms\" after the phase's begin",
                            ));
                        }
                    }
                }
                Step::Pressure(pressure) => word(op::PRESSURE, 0, 0, pressure.kib, pressure.time.nanoseconds()),
                Step::Barrier => word(op::BARRIER, 0, 0, 0, 0),
                Step::Mark(number) => {
                    let core = compiler.core(id);
                    core.thread = core.thread.saturating_add(times);
                    word(op::MARK, 0, 0, *number, 0)
                }
                Step::Send(message) => {
                    self.send(compiler, id, message, op::SEND, times, depth)?;
                    continue;
                }
                Step::Ping(message) => {
                    self.send(compiler, id, message, op::PING, times, depth)?;
                    continue;
                }
                Step::Broadcast(messages) => {
                    self.broadcast(compiler, id, messages.intid, messages.count, times, depth)?;
                    continue;
                }
                Step::Loop(inner) => {
                    let rounds = times.saturating_mul(inner.count.into());
                    if depth >= LOOP_DEPTH || inner.count == 0 {
                        return Err(compiler.error(
                            phase,
                            format!("a loop of {} rounds, {} deep", inner.count, depth + 1),
                            format!("loops run at least once and nest {LOOP_DEPTH} deep"),
                        ));
                    }
                    compiler.core(id).ops.push(word(op::LOOP, 0, 0, inner.count, 0));
                    self.steps(compiler, id, &inner.ops, rounds, depth + 1)?;
                    word(op::LOOP_END, 0, 0, 0, 0)
                }
                Step::Call(call) => {
                    self.call(compiler, id, call, times, depth)?;
                    continue;
                }
                Step::Ipi(ipi) => {
                    self.ipi(compiler, id, ipi, times, depth)?;
                    continue;
                }
                Step::Tick(tick) => {
                    self.tick(compiler, id, tick, times);
                    continue;
                }
                Step::IrqWork(work) => {
                    self.irq_work(compiler, id, work, times)?;
                    continue;
                }
                Step::Release(cores) => {
                    self.release(compiler, id, cores, times)?;
                    continue;
                }
                Step::Await(awaited) => {
                    self.wait_for(compiler, id, awaited)?;
                    continue;
                }
                Step::Hold(hold) => {
                    self.hold(compiler, id, *hold, times);
                    continue;
                }
                // It stands before the phase.
                Step::Delivery(_) => continue,
            };
            compiler.core(id).ops.push(plain);
        }
        Ok(())
    }

    fn check_count(&self, compiler: &Compiler<'_>, count: u32, depth: u32) -> Result<(), PlanError> {
        // More than one chunk is a loop of its own.
        if count == 0 || (count >= 2 * CHUNK && depth >= LOOP_DEPTH) {
            return Err(compiler.error(
                &self.settings.name,
                format!("count = {count} inside {depth} loops"),
                format!("send at least 1; inside {LOOP_DEPTH} loops at most {}", 2 * CHUNK - 1),
            ));
        }
        Ok(())
    }

    fn send(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        message: &Message,
        code: u8,
        times: u64,
        depth: u32,
    ) -> Result<(), PlanError> {
        self.check_count(compiler, message.count, depth)?;
        let intid = compiler.intid(&self.settings.name, message.intid.unwrap_or(self.settings.intid))?;
        for to in compiler.list(&self.settings.name, "to", &message.to)? {
            let all = message.to == Cores::All && to == id;
            if all || !compiler.allows(id, to) {
                continue;
            }
            let slot = self.slot(compiler, id, to, intid);
            let sent = times.saturating_mul(message.count.into());
            self.sends = self.sends.saturating_add(sent);
            let records = sent.saturating_mul(compiler.send_records());
            let core = compiler.core(id);
            Compiler::messages(core, message.count, word(code, intid, to, 0, slot));
            core.thread = core.thread.saturating_add(records);
            let receiver = compiler.core(to);
            receiver.irq = receiver.irq.saturating_add(sent.saturating_mul(2));
        }
        Ok(())
    }

    fn broadcast(
        &mut self,
        compiler: &mut Compiler<'_>,
        id: u16,
        intid: Option<u8>,
        count: u32,
        times: u64,
        depth: u32,
    ) -> Result<(), PlanError> {
        self.check_count(compiler, count, depth)?;
        let intid = compiler.intid(&self.settings.name, intid.unwrap_or(self.settings.intid))?;
        if !compiler.allows_from(id) {
            return Ok(());
        }
        // The slots of a broadcast stand in a row: they are its own, even where single sends have some already.
        let first = compiler.slots.len() as u64;
        let sent = times.saturating_mul(count.into());
        for to in 0..compiler.request.cores {
            compiler.slot(self.settings, id, to, intid, self.state_of(to));
            if to != id {
                self.sends = self.sends.saturating_add(sent);
                let receiver = compiler.core(to);
                receiver.irq = receiver.irq.saturating_add(sent.saturating_mul(2));
            }
        }
        let records = sent.saturating_mul(compiler.send_records());
        let core = compiler.core(id);
        Compiler::messages(core, count, word(op::BROADCAST, intid, 0, 0, first));
        core.thread = core.thread.saturating_add(records);
        Ok(())
    }

    fn slot(&mut self, compiler: &mut Compiler<'_>, from: u16, to: u16, intid: u8) -> u64 {
        if let Some(slot) = self.slots.get(&(from, to, intid)) {
            return *slot;
        }
        let slot = compiler.slot(self.settings, from, to, intid, self.state_of(to));
        self.slots.insert((from, to, intid), slot);
        slot
    }

    fn state_of(&self, to: u16) -> ReceiverState {
        if self.scripted.contains(&to) { ReceiverState::Unknown } else { self.state }
    }
}

/// Barriers that a script meets.
fn barriers(steps: &[Step]) -> u64 {
    steps.iter().fold(0, |sum, step| {
        sum.saturating_add(match step {
            Step::Barrier => 1,
            Step::Loop(inner) => barriers(&inner.ops).saturating_mul(inner.count.into()),
            _ => 0,
        })
    })
}

/// The shortest heartbeat: a handler takes about a microsecond.
const LEAST_HEARTBEAT_NS: u64 = 10_000;

/// A live run's heartbeat, ns, of up to eight cores. More cores have rarer ones, a millisecond for each core: an emulator makes some
/// hundred thousand interrupts a second, whatever the number of its cores, and at 8,000 heartbeats a second 512 of them got no
/// further.
const HEARTBEAT_NS: u64 = 1_000_000;

/// How late a heartbeat is a gap, ns: longer than any handler of the kit's, shorter than a host's time slice.
const GAP_NS: u64 = 50_000;

/// Heartbeat and gap, ns. None in a counted run that doesn't ask for them: nobody takes time from it.
fn watch(request: &PlanRequest, job: &Job) -> (u64, u64) {
    let live = !request.deterministic;
    let many = if request.cores > 8 { request.cores.into() } else { 1 };
    let usual = if live { HEARTBEAT_NS * many } else { 0 };
    let ns = |span: Option<Span>, usual: u64| span.map_or(usual, Span::nanoseconds);
    let heartbeat = ns(job.defaults.heartbeat, usual);
    (heartbeat, ns(job.defaults.gap, if live || heartbeat > 0 { GAP_NS } else { 0 }))
}

fn check_core(cores: u16, core: u16, place: impl Fn() -> String) -> Result<(), PlanError> {
    if core < cores { Ok(()) } else { Err(PlanError::NoSuchCore { place: place(), core, cores }) }
}

fn saturating_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What the firmware carries along, so that whoever finds the region (a probe that is plugged in late, a memory dump, a
/// console's log) can tell what ran. A job file longer than this stays with the host.
fn embedded(meta: &PlanMeta) -> Vec<u8> {
    const MOST_SOURCE: usize = 16 << 10;
    let mut meta = meta.clone();
    if meta.source.len() > MOST_SOURCE {
        meta.source.clear();
    }
    serde_json::to_vec(&meta).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use trace_ring::calls::Onward;

    use super::*;

    pub(super) fn request(plan: &str, cores: u16) -> PlanRequest {
        PlanRequest { plan: Some(plan.into()), cores, ..PlanRequest::default() }
    }

    /// The words of a compiled plan on an aligned copy.
    pub(super) fn parsed(plan: &CompiledPlan) -> Vec<u64> {
        let mut aligned = vec![0_u64; plan.blob.len().div_ceil(8)];
        aligned.as_mut_bytes()[..plan.blob.len()].copy_from_slice(&plan.blob);
        aligned
    }

    /// Walks a core's program once; gives messages sent and barriers met.
    fn walk(plan: &Plan<'_>, core: usize) -> (u64, u64) {
        let (mut sent, mut met, mut factor, mut loops) = (0_u64, 0_u64, 1_u64, Vec::new());
        for word in &plan.ops[plan.programs[core].first_op as usize..] {
            match word.code {
                op::END => break,
                op::LOOP => {
                    loops.push(factor);
                    assert!(loops.len() <= LOOP_DEPTH as usize);
                    factor *= u64::from(word.c);
                }
                op::LOOP_END => factor = loops.pop().unwrap(),
                op::PING | op::SEND | op::SWEEP => {
                    let slot = plan.slots[word.d as usize];
                    assert_eq!((usize::from(slot.from), slot.to, slot.intid), (core, word.b, word.a));
                    assert!(word.c <= CHUNK);
                    sent += factor * u64::from(word.c);
                }
                op::BROADCAST => {
                    for to in 0..plan.header.core_count {
                        let slot = plan.slots[word.d as usize + to as usize];
                        assert_eq!((usize::from(slot.from), u32::from(slot.to)), (core, to));
                    }
                    sent += factor * u64::from(word.c) * u64::from(plan.header.core_count - 1);
                }
                op::PHASE | op::PHASE_END | op::BARRIER | op::AGAIN => met += factor,
                op::CALL..=op::ROW => sent += factor * calls::tests::sends(plan, core, *word),
                _ => {}
            }
        }
        assert!(loops.is_empty());
        (sent, met)
    }

    pub(super) fn check(compiled: &CompiledPlan) {
        let words = parsed(compiled);
        let plan = Plan::parse(words.as_bytes()).unwrap();
        let cores = plan.programs.len();
        let walks: Vec<_> = (0..cores).map(|core| walk(&plan, core)).collect();
        assert_eq!(walks.iter().map(|walk| walk.0).sum::<u64>(), compiled.meta.expected_sends);
        assert!(walks.iter().all(|walk| walk.1 == walks[0].1), "all cores meet equally often: {walks:?}");
        // Turns: in each phase the chain visits every core that has one, ascending, and every jump hits its partner.
        for (core, program) in plan.programs.iter().enumerate() {
            let mut at = program.first_op as usize;
            while plan.ops[at].code != op::END {
                let word = plan.ops[at];
                if word.code == op::TURN {
                    let pass = plan.ops[word.c as usize];
                    assert_eq!(pass.code, op::PASS);
                    assert!(word.c as usize > at);
                    if pass.b != 0xFFFF {
                        assert!(usize::from(pass.b) > core);
                        assert_eq!(plan.ops[pass.c as usize].code, op::TURN);
                    }
                }
                if word.code == op::AGAIN {
                    assert_eq!(word.c, program.first_op);
                }
                at += 1;
            }
        }
        let (_, region) = lay_out(plan.shape());
        assert_eq!(region, compiled.region_bytes);
    }

    #[test]
    fn every_builtin_plan_compiles_at_every_size() {
        for builtin in builtins() {
            for cores in [1, 2, 4, 17, 64, 65, 128, 512] {
                match compile(&request(builtin.name, cores)) {
                    Ok(compiled) => {
                        check(&compiled);
                        if builtin.name != "matrix" || cores <= 64 {
                            assert!(compiled.region_bytes < 512 << 20, "{} at {cores}", builtin.name);
                        }
                    }
                    Err(PlanError::Nothing { .. } | PlanError::NoSuchCore { .. }) if cores == 1 => {}
                    Err(error) => panic!("{} at {cores}: {error}", builtin.name),
                }
            }
        }
    }

    #[test]
    fn standard_is_budgeted_in_ipis_and_one_core_runs_self() {
        for cores in [2, 4, 8, 17, 64, 128, 256, 512] {
            let sends = compile(&request("standard", cores)).unwrap().meta.expected_sends;
            assert!((10_000..70_000).contains(&sends), "{cores} cores: {sends}");
        }
        let one = compile(&request("standard", 1)).unwrap().meta;
        assert_eq!(one.phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>(), ["self"]);
        let all_pairs = |cores| compile(&request("standard", cores)).unwrap().meta.phases[0].pairs;
        assert_eq!(all_pairs(64), 64 * 63);
        // Every neighbour, and every pair of cluster leaders.
        assert_eq!(all_pairs(512), 512 + 32 * 31);
    }

    #[test]
    fn from_and_to_restrict_every_plan() {
        for builtin in builtins() {
            let mut request = request(builtin.name, 8);
            request.from = Some(CoreList(vec![2, 5]));
            request.to = Some(CoreList(vec![2, 3]));
            let compiled = compile(&request).unwrap();
            check(&compiled);
            let words = parsed(&compiled);
            let plan = Plan::parse(words.as_bytes()).unwrap();
            if builtin.name == "chain" {
                // Its hops are sent by whoever is on the way.
                let begins = plan.ops.iter().filter(|word| word.code == op::CALL);
                let origins: Vec<u16> = begins.map(|word| Onward::from_info(word.d).origin).collect();
                assert_eq!(origins, [2, 5]);
                continue;
            }
            assert!(plan.slots.iter().all(|slot| [2, 5].contains(&slot.from)), "{}", builtin.name);
            for word in plan.ops {
                let one = [op::PING, op::SEND, op::CALL, op::IPI].contains(&word.code);
                assert!(!one || [2, 3].contains(&word.b), "{}: {word:?}", builtin.name);
                if word.code == op::CALL_MANY {
                    assert_eq!(plan.masks[usize::from(word.b)].0[0] & !0b1100, 0, "{}", builtin.name);
                }
            }
        }
    }

    #[test]
    fn a_core_that_the_run_does_not_have_is_named() {
        let mut asked = request("matrix", 4);
        asked.from = Some(CoreList(vec![1, 7]));
        let message = compile(&asked).unwrap_err().to_string();
        assert!(message.contains("--from 1,7: there is no core 7: the run has 4 (0 to 3)"), "{message}");
        let mut asked = request("matrix", 4);
        asked.faults = vec!["dead:4".parse().unwrap()];
        let message = compile(&asked).unwrap_err().to_string();
        assert!(message.contains("--inject dead:4: there is no core 4"), "{message}");
        assert!(matches!(compile(&request("ping", 1)), Err(PlanError::NoSuchCore { core: 1, .. })));
        assert!(matches!(compile(&request("ping", 0)), Err(PlanError::Cores(0))));
        assert!(matches!(compile(&request("ping", 10_000)), Err(PlanError::Cores(10_000))));
        assert!(matches!(compile(&request("no-such-plan", 4)), Err(PlanError::NotFound { .. })));
    }

    #[test]
    fn a_ping_is_chunked_so_that_a_stop_request_is_seen() {
        let compiled = compile(&request("ping", 2)).unwrap();
        let words = parsed(&compiled);
        let plan = Plan::parse(words.as_bytes()).unwrap();
        let codes: Vec<u8> = plan.ops[plan.programs[0].first_op as usize..].iter().map(|word| word.code).collect();
        assert_eq!(
            codes[..8],
            [op::PHASE, op::TURN, op::LOOP, op::PING, op::LOOP_END, op::PASS, op::PHASE_END, op::END]
        );
        assert_eq!(compiled.meta.expected_sends, 65_536);
        assert!(compiled.meta.phases[0].timed);
        // 65,536 records and a few of the phases' own do not fit 2^16.
        assert_eq!(plan.programs[0].log2_records[0], 17);
        assert_eq!(plan.programs[1].log2_records[..2], [9, 17]);
    }

    #[test]
    fn a_spinning_receiver_is_posed_and_reset() {
        let mut asked = request("matrix", 2);
        asked.from = Some(CoreList(vec![0]));
        let compiled = compile(&asked).unwrap();
        let words = parsed(&compiled);
        let plan = Plan::parse(words.as_bytes()).unwrap();
        let postures: Vec<(u8, u16)> =
            plan.ops.iter().filter(|word| word.code == op::POSTURE).map(|word| (word.a, word.b)).collect();
        assert_eq!(postures, [(ReceiverState::Spin.code(), 1), (ReceiverState::Wfi.code(), 1)]);
        assert!(plan.ops.iter().filter(|word| word.code == op::PHASE).all(|word| word.a == ReceiverState::Wfi.code()));
    }

    #[test]
    fn bystanders_under_pressure_go_on_with_it_and_each_receiver_leaves_it_for_its_state() {
        let text = "name = \"x\"\n[[phase]]\npattern = \"matrix\"\ncount = 1\nstates = [\"wfi\", \"masked\", \"suspend\"]\npressure = true";
        let compiled = script(text, 2).unwrap();
        check(&compiled);
        let words = parsed(&compiled);
        let plan = Plan::parse(words.as_bytes()).unwrap();
        assert!(plan.ops.iter().filter(|word| word.code == op::PHASE).all(|word| word.a == posture::PRESSURE));
        let states = [ReceiverState::Wfi, ReceiverState::Masked, ReceiverState::Suspend];
        let first = plan.programs[0].first_op as usize;
        let of_core_0 = plan.ops[first..].iter().take_while(|word| word.code != op::END);
        let postures: Vec<u8> = of_core_0.filter(|word| word.code == op::POSTURE).map(|word| word.a).collect();
        let expected: Vec<u8> = states.iter().flat_map(|state| [state.code(), posture::PRESSURE]).collect();
        assert_eq!(postures, expected);
        assert!(compiled.meta.phases.iter().all(|phase| phase.pressure && phase.timed));
        assert_eq!(plan.slots.iter().map(|slot| slot.state).collect::<Vec<_>>(), [2, 2, 4, 4, 5, 5]);
    }

    #[test]
    fn a_dithered_sender_draws_before_its_messages_and_no_longer_than_its_turn() {
        let text = "name = \"x\"\ndefaults = { dither = 500 }\n[[phase]]\npattern = \"matrix\"\ncount = 9000\n";
        let words = parsed(&script(text, 2).unwrap());
        let plan = Plan::parse(words.as_bytes()).unwrap();
        let codes: Vec<u8> = plan.ops[plan.programs[0].first_op as usize..].iter().map(|word| word.code).collect();
        assert_eq!(
            codes[..9],
            [op::PHASE, op::TURN, op::DITHER, op::LOOP, op::PING, op::LOOP_END, op::PING, op::DITHER, op::PASS]
        );
        let turns: Vec<u32> = plan.ops.iter().filter(|word| word.code == op::DITHER).map(|word| word.c).collect();
        assert_eq!(turns, [500, 0, 500, 0]);
    }

    #[test]
    fn a_sweep_says_where_it_begins_how_far_it_goes_and_what_its_receiver_does() {
        let text = "name = \"x\"\n[[phase]]\npattern = \"sweep\"\ntransitions = [\"wfi\", \"suspend\"]\nfirst = -300\nstep = 2\nsteps = 400\ncount = 3\nto = 1\nfrom = 0\n";
        let compiled = script(text, 2).unwrap();
        check(&compiled);
        let words = parsed(&compiled);
        let plan = Plan::parse(words.as_bytes()).unwrap();
        let ranges: Vec<(u8, u32, i64)> = plan
            .ops
            .iter()
            .filter(|word| word.code == op::SWEEP_RANGE)
            .map(|word| (word.a, word.c, word.d as i64))
            .collect();
        assert_eq!(ranges, [(0, 2, -300), (3, 2, -300)]);
        assert_eq!(compiled.meta.expected_sends, 2 * 3 * 400);
        let phases: Vec<(&str, Option<&str>, bool)> = compiled
            .meta
            .phases
            .iter()
            .map(|phase| (phase.name.as_str(), phase.transition.as_deref(), phase.timed))
            .collect();
        assert_eq!(phases, [("sweep/wfi", Some("wfi"), false), ("sweep/suspend", Some("suspend"), false)]);
        // Each message has a record of its own in front of the send's.
        assert!(plan.programs[0].log2_records[0] >= 13);
    }

    #[test]
    fn heartbeats_watch_live_runs_and_counted_ones_only_where_the_plan_says_so() {
        let header = |request: &PlanRequest| {
            let words = parsed(&compile(request).unwrap());
            let plan = Plan::parse(words.as_bytes()).unwrap();
            (plan.header.heartbeat_ns, plan.header.gap_ns, plan.header.seed, plan.programs[0].log2_records[1])
        };
        let live = request("ping", 2);
        assert_eq!(header(&live), (1_000_000, 50_000, 1, 9), "and room for what they find");
        assert_eq!(header(&PlanRequest { cores: 512, ..live.clone() }).0, 512_000_000);
        let counted = PlanRequest { deterministic: true, seed: Some(6), ..live };
        assert_eq!(header(&counted), (0, 0, 7, 6));
        let of = |defaults: &str| {
            let text = format!("name = \"x\"\ndefaults = {{ {defaults} }}\n[[phase]]\npattern = \"self\"\ncount = 1\n");
            let compiled = script(&text, 2);
            compiled.map(|compiled| (compiled.meta.heartbeat_ns, compiled.meta.gap_ns))
        };
        assert_eq!(of("heartbeat = \"0s\"").unwrap(), (0, 50_000));
        assert_eq!(of("heartbeat = \"2ms\", gap = \"0s\"").unwrap(), (2_000_000, 0));
        assert!(of("heartbeat = \"1us\"").unwrap_err().to_string().contains("defaults.heartbeat"));
        assert!(of("gap = \"1h\"").unwrap_err().to_string().contains("defaults.gap"));
    }

    #[test]
    fn another_seed_moves_twins_and_calls_and_the_same_one_does_not() {
        let blob = |seed| {
            let mut asked = request("calls", 3);
            asked.faults = vec!["late:1:90:0.5".parse().unwrap()];
            asked.seed = seed;
            let words = parsed(&compile(&asked).unwrap());
            let plan = Plan::parse(words.as_bytes()).unwrap();
            (plan.twins[0].seed, plan.ops.iter().map(|word| word.d).fold(0, u64::wrapping_add), plan.ops.len())
        };
        assert_eq!(blob(Some(3)), blob(Some(3)));
        assert_ne!(blob(Some(3)).0, blob(Some(4)).0);
        assert_ne!(blob(Some(3)), blob(None));
        assert_ne!((blob(Some(3)).1, blob(Some(3)).2), (blob(Some(4)).1, blob(Some(4)).2));
    }

    #[test]
    fn rings_are_capped_and_the_run_says_so() {
        let mut asked = request("storm", 4);
        asked.ring_memory_cap = 1 << 20;
        let compiled = compile(&asked).unwrap();
        assert!(compiled.meta.ring_bytes <= 1 << 20);
        assert!(compiled.notes.iter().any(|note| note.contains("lapped")), "{:?}", compiled.notes);
        asked.ring_records = Some(100);
        let forced = compile(&asked).unwrap();
        assert_eq!(forced.meta.ring_bytes, 4 * 4 * 128 * 32);
        asked.ring_records = None;
        asked.keep = Keep::None;
        let none = compile(&asked).unwrap();
        assert_eq!((none.meta.ring_bytes, none.meta.level.as_str()), (4 * 4 * 16 * 32, "off"));
    }

    #[test]
    fn duration_repeats_and_flags_are_set() {
        let mut asked = request("storm", 2);
        asked.duration = Some(Duration::from_secs(3));
        asked.deterministic = true;
        asked.faults = vec!["drop:1:0:0.5".parse().unwrap(), "late:0:10".parse().unwrap()];
        let compiled = compile(&asked).unwrap();
        check(&compiled);
        let words = parsed(&compiled);
        let plan = Plan::parse(words.as_bytes()).unwrap();
        assert_eq!(plan.header.duration_ns, 3_000_000_000);
        assert_eq!(plan.header.flags, plan_flag::DETERMINISTIC | plan_flag::CLOCK_TEST);
        assert_eq!(plan.header.timeout_ns, 200_000);
        assert_eq!(plan.twins.len(), 2);
        assert_eq!(compiled.meta.faults, ["drop:1:0:0.5", "late:0:10"]);
        assert!(plan.ops.iter().any(|word| word.code == op::AGAIN));
    }

    pub(super) fn script(text: &str, cores: u16) -> Result<CompiledPlan, PlanError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        std::fs::write(&path, text).unwrap();
        compile(&request(path.to_str().unwrap(), cores))
    }

    #[test]
    fn a_script_says_every_operation() {
        let compiled = script(
            r#"
            name = "by hand"
            defaults = { timeout = "50ms", probe = "5ms", state = "wfe", intid = 2 }
            [[phase]]
            pattern = "script"
            [[phase.program]]
            cores = [0]
            ops = [
                { send = { to = "1-2", count = 9000, intid = 3 } },
                { ping = { to = 3 } },
                { broadcast = { count = 5 } },
                "settle",
                { delay = "10us" }, { at = "1ms" }, { mask = "5us" },
                { idle = { state = "wfi", time = "1us" } },
                { pressure = { kib = 64, time = "20us" } },
                { loop = { count = 3, ops = [{ mark = 7 }, "barrier"] } },
            ]
            [[phase.program]]
            cores = 1
            ops = ["barrier", { loop = { count = 2, ops = ["barrier"] } }]
            "#,
            4,
        )
        .unwrap();
        check(&compiled);
        let words = parsed(&compiled);
        let plan = Plan::parse(words.as_bytes()).unwrap();
        assert_eq!(compiled.meta.expected_sends, 9000 * 2 + 1 + 5 * 3);
        assert_eq!((plan.header.timeout_ns, plan.header.probe_ns, plan.header.sgi_count), (50_000_000, 5_000_000, 4));
        // Core 1 does things of its own, core 3 waits as the plan says.
        assert_eq!(plan.slots[0].state, ReceiverState::Unknown.code());
        assert_eq!(plan.slots[2].state, ReceiverState::Wfe.code());
        let codes: std::collections::BTreeSet<u8> = plan.ops.iter().map(|word| word.code).collect();
        for code in [
            op::SEND,
            op::PING,
            op::BROADCAST,
            op::SETTLE,
            op::DELAY,
            op::AT,
            op::MASK,
            op::IDLE,
            op::PRESSURE,
            op::LOOP,
            op::MARK,
            op::BARRIER,
        ] {
            assert!(codes.contains(&code), "operation {code}");
        }
    }

    #[test]
    fn a_wrong_file_says_where_and_what_to_do() {
        let phase = |body: &str| format!("name = \"x\"\n[[phase]]\npattern = {body}\n");
        for (text, part) in [
            ("name = 1".to_owned(), "expected a string"),
            ("name = \"x\"\nphase = []\ncolour = 1\n".into(), "unknown field `colour`"),
            (phase("\"pong\""), "unknown variant `pong`"),
            (phase("\"matrix\""), "neither `count` nor `budget`"),
            (phase("\"matrix\"\ncount = 1\nbudget = 1"), "both `count` and `budget`"),
            (phase("\"matrix\"\ncount = 0"), "0 messages"),
            (phase("\"matrix\"\ncount = 1\nintid = 6"), "intid = 6"),
            (phase("\"storm\"\ncount = 1\npairs = \"all\""), "`pairs` means nothing to pattern `storm`"),
            (phase("\"matrix\"\ncount = 1\nto = \"0-9\""), "there is no core 4"),
            (phase("\"matrix\"\ncount = 1\nstates = []"), "`states` is empty"),
            (phase("\"script\""), "it has no program"),
            (phase("\"script\"\n[[phase.program]]\ncores = 0\nops = [{ delay = \"long\" }]"), "no length of time"),
            (
                phase(
                    "\"script\"\n[[phase.program]]\ncores = 0\nops = [\"barrier\"]\n[[phase.program]]\ncores = 1\nops = []",
                ),
                "barriers",
            ),
            (
                phase(
                    "\"script\"\n[[phase.program]]\ncores = \"0-1\"\nops = []\n[[phase.program]]\ncores = 1\nops = []",
                ),
                "two programs",
            ),
            (phase("\"sweep\"\ncount = 1\nsteps = 5"), "no transition"),
            (phase("\"sweep\"\ncount = 1\ntransition = \"wfi\""), "no `steps`"),
            (phase("\"sweep\"\ncount = 1\ntransition = \"wfi\"\nsteps = 5000"), "steps = 5000"),
            (phase("\"sweep\"\ncount = 1\ntransition = \"wfi\"\nsteps = 5\nfirst = -99999999999"), "stay within"),
            (phase("\"sweep\"\ncount = 1\ntransition = \"wfi\"\nsteps = 5\nstate = \"wfi\""), "`state` means nothing"),
            (phase("\"matrix\"\ncount = 1\nsteps = 5"), "`steps` means nothing to pattern `matrix`"),
            (phase("\"storm\"\ncount = 1\npressure = true"), "`pressure` means nothing to pattern `storm`"),
            (phase("\"matrix\"\ncount = 1\ndither = 70000"), "dither = 70000"),
            (phase("\"matrix\"\ncount = 1\nstate = \"awake\""), "unknown variant `awake`"),
            ("name = \"x\"\nphase = []\n".into(), "nothing to do"),
        ] {
            let message = script(&text, 4).unwrap_err().to_string();
            assert!(message.contains(part), "{text}\n-> {message}");
        }
    }

    #[test]
    fn loops_nest_four_deep_and_no_deeper() {
        let nest = |depth: usize| {
            let mut ops = "{ mark = 1 }".to_owned();
            for _ in 0..depth {
                ops = format!("{{ loop = {{ count = 2, ops = [{ops}] }} }}");
            }
            script(
                &format!("name = \"x\"\n[[phase]]\npattern = \"script\"\n[[phase.program]]\ncores = 0\nops = [{ops}]"),
                2,
            )
        };
        assert!(nest(4).is_ok());
        assert!(nest(5).unwrap_err().to_string().contains("nest 4 deep"));
    }
}
