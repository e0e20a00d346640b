//! Looks inside a target: where every core stands, what it waits for, what waits on its call queue, what it did last.
//!
//! Linux's crash tool reads a dead machine's `call_single_queue` by its kernel's symbols. Here descriptors and each core's own
//! line lie in the region, so the same look works on a capture, a dump, a run that goes on, and a board behind a probe. What
//! memory does not hold (program counters, masks, redistributors) comes from QEMU's monitor or a probe, where there is one.
//!
//! | source | memory | registers |
//! |---|---|---|
//! | capture | its newest snapshot, its records | as the host saw them before it ended a run that was cut short |
//! | dump, GDB server | what was taken | none |
//! | run on QEMU that goes on | its RAM file, read while the cores run | the monitor's, of about now |
//! | probe | through the memory access port | with `--halt`: each core is halted for a moment |

pub(crate) mod events;
mod live;
mod queue;
mod text;

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;

use serde::Serialize;
use trace_ring::calls::{CallDescriptor, IpiKind, LiveEntry, call_flag, call_state, doing};
use trace_ring::layout::{
    Context, CoreEntry, Directory, FaultEntry, HeadLine, LANES_PER_CORE, PairSlot, PhaseResult, Status, abort_reason,
    core_state, fault_kind, run_state,
};
use trace_ring::plan::{Plan, op};
use trace_ring::reader::{self, GUARD_RECORDS, ReadError, Region, RegionSource};
use trace_ring::record::{RECORD_BYTES, Record};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::adopt::Origin;
use crate::capture::{Batch, Capture, PLAN_ATTACHMENT, RunInfo};
use crate::error::{Failure, exit};
use crate::firmware::LINKED_AT;
use crate::memory::{self, Memory};
use crate::monitor::CorePicture;
use crate::plan::PhaseMeta;
use crate::reason::Reasons;
use crate::scratch::Scratch;
use crate::symbols::Symbols;
use events::Lexicon;

pub use live::of_run;

/// Events that are shown of each core.
pub const LAST: usize = 8;

/// Columns of the text where no terminal says how many it has.
pub const WIDTH: usize = 100;

/// Room that the capture of a dump is sure to need. One that finds less ends with a message on the disk that is full.
const SMALL: u64 = 64 << 20;

/// A count of records beyond this is damage.
const MOST_RECORDS: u64 = 1 << 60;

/// What is known of a target, wherever it came from.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Where it came from, for people.
    pub source: String,
    /// The machine's name; empty: not known.
    pub machine: String,
    /// The plan's name; empty: not known.
    pub plan: String,
    /// Its phases.
    pub phases: Vec<PhaseMeta>,
    /// Codes of its operations.
    pub ops: Vec<u8>,
    /// What its SGIs ask for.
    pub reasons: Reasons,
    /// The firmware's names.
    pub symbols: Symbols,
    /// What the region holds.
    pub region: Contents,
    /// The newest records of each lane, core by core, in the order of the lane.
    pub tails: Vec<Vec<Record>>,
    /// Where the cores stand, and when that was seen, for people.
    pub picture: Option<Vec<CorePicture>>,
    /// What the user should know of how it came here.
    pub notes: Vec<String>,
}

/// The parts of a region that an inspection reads.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The directory.
    pub directory: Directory,
    /// How the run stands.
    pub status: Status,
    /// The cores.
    pub cores: Vec<CoreEntry>,
    /// What each does.
    pub live: Vec<LiveEntry>,
    /// The call descriptors.
    pub descriptors: Vec<CallDescriptor>,
    /// Exceptions and panics.
    pub faults: Vec<FaultEntry>,
    /// When phases began and ended.
    pub phases: Vec<PhaseResult>,
    /// The pair slots.
    pub slots: Vec<PairSlot>,
}

impl Contents {
    /// Of a region that was never laid out, on a machine of so many cores.
    fn blank(cores: usize) -> Contents {
        Contents {
            directory: Directory::new_zeroed(),
            status: Status::new_zeroed(),
            cores: vec![CoreEntry { state: core_state::UNKNOWN, ..CoreEntry::new_zeroed() }; cores],
            live: vec![LiveEntry::default(); cores],
            descriptors: Vec::new(),
            faults: vec![FaultEntry::new_zeroed(); cores],
            phases: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// Reads them all.
    pub fn read<S: RegionSource>(region: &Region, source: &mut S) -> Result<Contents, ReadError<S::Error>> {
        Ok(Contents {
            directory: region.directory,
            status: region.status(source)?,
            cores: region.core_entries(source)?,
            live: region.live(source)?,
            descriptors: region.descriptors(source)?,
            faults: region.faults(source)?,
            phases: region.phases(source)?,
            slots: region.slots(source)?,
        })
    }
}

/// The newest records of all lanes, read from where they lie while they may be written: at most `most` of each lane.
pub fn tails<S: RegionSource>(
    region: &Region,
    source: &mut S,
    most: usize,
) -> Result<Vec<Vec<Record>>, ReadError<S::Error>> {
    let heads = region.directory.sections.heads;
    let read = |(index, lane): (usize, &trace_ring::layout::LaneDescriptor)| {
        let line = heads + (index / LANES_PER_CORE * size_of::<HeadLine>()) as u64;
        let head_at = line + (index % LANES_PER_CORE * 8) as u64;
        let capacity = 1u64 << lane.log2_records;
        let head = source.read_u64(head_at).map_err(ReadError::Source)?;
        if head > MOST_RECORDS {
            return Err(ReadError::Corrupt { field: "head", value: head });
        }
        let count = head.min(most as u64).min(capacity);
        let mut records = Vec::new();
        for index in head - count..head {
            let mut bytes = [0; RECORD_BYTES as usize];
            let slot = index & (capacity - 1);
            source.read(lane.offset + slot * RECORD_BYTES, &mut bytes).map_err(ReadError::Source)?;
            records.extend(Record::from_bytes(&bytes, index));
        }
        // What may have been overwritten since is left out, as the drain does.
        let head = source.read_u64(head_at).map_err(ReadError::Source)?;
        records.retain(|record| record.index + capacity > head + GUARD_RECORDS - 1);
        Ok(records)
    };
    region.lanes.iter().enumerate().map(read).collect()
}

/// Records of each lane that are looked at for so many events: several make one event, and some are no event.
pub fn depth(last: usize) -> usize {
    last.saturating_mul(6).saturating_add(32).min(1 << 16)
}

/// The codes of a compiled plan's operations.
fn operations(plan: &[u8]) -> Option<Vec<u8>> {
    let mut aligned = vec![0_u64; plan.len().div_ceil(8)];
    aligned.as_mut_bytes().get_mut(..plan.len())?.copy_from_slice(plan);
    Plan::parse(aligned.as_bytes()).ok().map(|plan| plan.ops.iter().map(|op| op.code).collect())
}

impl Evidence {
    /// What a run's description says of it, beside what its region holds.
    pub fn new(source: String, info: &RunInfo, symbols: Symbols, contents: Contents) -> Evidence {
        let mut notes = Vec::new();
        if symbols.is_empty() {
            notes.push("there is no ELF of this firmware: addresses stay numbers (--firmware names it)".into());
        }
        Evidence {
            source,
            machine: info.machine.clone(),
            plan: info.plan.name.clone(),
            phases: info.plan.phases.clone(),
            ops: Vec::new(),
            reasons: Reasons::of_slots(contents.directory.descriptor_count > 0, &contents.slots),
            symbols,
            region: contents,
            tails: Vec::new(),
            picture: None,
            notes,
        }
    }

    /// What its records' words need.
    fn lexicon(&self) -> Lexicon<'_> {
        let directory = &self.region.directory;
        Lexicon {
            hz: directory.counter_hz,
            calls_pa: directory.region_pa.wrapping_add(directory.sections.calls),
            reasons: &self.reasons,
            phases: &self.phases,
            symbols: &self.symbols,
        }
    }

    /// The same, with what a capture holds of the run.
    fn of_capture(source: String, capture: &Capture, contents: Contents) -> Evidence {
        let plan = capture.attachment(PLAN_ATTACHMENT).ok().flatten();
        let ops = plan.as_deref().and_then(operations).unwrap_or_default();
        Evidence { ops, ..Evidence::new(source, capture.info(), Symbols::of(capture), contents) }
    }
}

/// Inspects a capture, by its newest snapshot.
pub fn of_capture(path: &Path, last: usize) -> Result<Inspection, Failure> {
    let capture = Capture::open(path)?;
    let nothing = |why: String| Failure {
        kind: "region".into(),
        message: format!("{} holds nothing to inspect: {why}", path.display()),
        next_step: "`ipiscope report` says how far the run came; run again".into(),
        exit_code: exit::UNMEASURED,
    };
    if capture.linux().is_some() {
        return Err(Failure {
            next_step: "`ipiscope report` says what became of its IPIs and calls".into(),
            ..nothing("it is a Linux trace, which tells of events and not of memory".into())
        });
    }
    let (contents, lanes) = match capture.snapshot() {
        Some(mut source) => {
            let region = Region::open(&mut source).map_err(|error| nothing(error.to_string()))?;
            let contents = Contents::read(&region, &mut source).map_err(|error| nothing(error.to_string()))?;
            (contents, region.lanes.len())
        }
        // A firmware that did not come up has a program counter all the same.
        None => match capture.picture() {
            Some(picture) => (Contents::blank(picture.len()), 0),
            None => return Err(nothing("no snapshot of the region".into())),
        },
    };
    let aborted = contents.status.state == run_state::ABORTED;
    let mut evidence = Evidence::of_capture(path.display().to_string(), &capture, contents);
    evidence.tails = captured_tails(&capture, lanes, depth(last))?;
    evidence.picture = capture.picture().map(<[CorePicture]>::to_vec);
    if aborted && evidence.picture.is_some() {
        evidence
            .notes
            .push("registers are of after the run was given up: cores that did not hang have left by then".into());
    }
    let ending = capture.ending();
    evidence.notes.extend(ending.into_iter().flat_map(|ending| ending.notes.iter().cloned()));
    match ending {
        None => evidence.notes.push("the capture was cut: its newest snapshot may be older than its records".into()),
        Some(ending) if ending.counters_moved => {
            evidence
                .notes
                .push("the snapshot was taken while the target went on: its parts may not fit together".into());
        }
        Some(_) => {}
    }
    Ok(Inspection::of(&evidence, last))
}

/// Inspects memory that was taken from a target, by a capture of it that is thrown away.
pub fn of_memory(
    memory: &Memory,
    firmware: Option<&Path>,
    last: usize,
    say: &mut dyn FnMut(&str),
) -> Result<Inspection, Failure> {
    let scratch = Scratch::create(SMALL, RandomState::new().hash_one(std::process::id()))?;
    let path = scratch.file("memory.mcap");
    let origin = Origin {
        source: "memory",
        out: Some(path.clone()),
        firmware: firmware.map(Path::to_path_buf),
        ..Origin::default()
    };
    memory::collect(memory, &origin, say)?;
    let mut inspection = of_capture(&path, last)?;
    inspection.source = match memory {
        Memory::Dump { path, address } => format!("{}, memory from {address:#x}", path.display()),
        Memory::Gdb { server, .. } => format!("GDB server {server}"),
    };
    Ok(inspection)
}

fn captured_tails(capture: &Capture, lanes: usize, most: usize) -> Result<Vec<Vec<Record>>, Failure> {
    let mut tails = vec![VecDeque::new(); lanes];
    capture.lanes(|batch| {
        let Batch::Records { core, context, first, bytes } = batch else { return };
        let lane = usize::from(core) * LANES_PER_CORE + usize::from(context);
        let Some(tail) = tails.get_mut(lane).filter(|_| usize::from(context) < LANES_PER_CORE) else { return };
        let count = bytes.len() / RECORD_BYTES as usize;
        let skip = count.saturating_sub(most);
        let rest = bytes.get(skip * RECORD_BYTES as usize..).unwrap_or_default();
        tail.extend(reader::records(first + skip as u64, rest));
        tail.drain(..tail.len().saturating_sub(most));
    })?;
    Ok(tails.into_iter().map(Vec::from).collect())
}

/// An address and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The address, `0x…`.
    pub address: String,
    /// `name+0xOFFSET/0xSIZE`, or the address again.
    pub symbol: String,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its name; `None`: no symbol covers the address.
    pub name: Option<String>,
    /// The address, `0x…`.
    pub address: String,
}

impl Named {
    /// For people.
    fn text(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.address)
    }
}

/// What a core waits for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wait {
    /// The core, where it is one.
    pub core: Option<u16>,
    /// Where it waits.
    pub site: Option<Place>,
    /// The call, where it is one's lock.
    pub call: Option<Call>,
}

/// A call, by its descriptor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Call {
    /// Index of the descriptor.
    pub descriptor: u32,
    /// Its physical address: what `csd=` names in an exported trace.
    pub address: String,
    /// The function.
    pub function: Named,
    /// Its argument.
    pub info: String,
    /// `queued`, `running`, `executed`, `free`.
    pub state: &'static str,
    /// The descriptor is in use.
    pub locked: bool,
    /// The caller waits.
    pub synchronous: bool,
    /// Who called.
    pub source: u16,
    /// Who is called.
    pub target: u16,
    /// Where.
    pub call_site: Place,
    /// How long ago it was queued, ns.
    pub age_ns: Option<f64>,
    /// How often the descriptor was used.
    pub generation: u32,
}

/// The callback that a core runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Callback {
    /// The function.
    #[serde(flatten)]
    pub function: Named,
    /// Its argument.
    pub info: String,
    /// For how long, ns.
    pub for_ns: Option<f64>,
}

/// A core's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registers {
    /// Program counter.
    pub pc: Place,
    /// PSTATE.
    pub pstate: String,
    /// Exception level.
    pub level: u8,
    /// Whether PSTATE.I masks interrupts.
    pub masked: bool,
    /// What PSTATE masks, of D, A, I and F.
    pub masks: String,
    /// Stack pointer.
    pub sp: String,
    /// x29.
    pub fp: String,
    /// x30.
    pub lr: Place,
    /// Return addresses, the innermost first.
    pub frames: Vec<Place>,
}

/// An SGI in a core's redistributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sgi {
    /// INTID.
    pub intid: u8,
    /// Enabled.
    pub enabled: bool,
    /// Pending.
    pub pending: bool,
    /// Active.
    pub active: bool,
}

/// Something that a core did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Ticks.
    pub t: u64,
    /// How long ago, ns.
    pub ns_ago: Option<f64>,
    /// `thread`, `irq`, `nmi`, `fault`.
    pub context: &'static str,
    /// What.
    pub text: String,
}

/// A core.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoreView {
    /// Its number.
    pub id: u16,
    /// Affinity.
    pub mpidr: String,
    /// A word for scripts: `never_up`, `faulted`, `parked`, `in_nmi`, `in_irq`, `running`, `waiting`, `waiting_answer`,
    /// `waiting_call`, `masked`, `priority_masked`, `done`, `up`.
    pub state: &'static str,
    /// The same for people.
    pub summary: String,
    /// What its thread does, where something stands above it.
    pub thread: Option<String>,
    /// For how long its thread has done that, ns.
    pub for_ns: Option<f64>,
    /// For what its thread waits.
    pub waits: Option<Wait>,
    /// Cores that wait for it.
    pub waited_for_by: Vec<u16>,
    /// The callback that it runs.
    pub function: Option<Callback>,
    /// Callbacks that it has run.
    pub executed: u64,
    /// What waits on its call single queue, or is being run, the oldest first.
    pub queue: Vec<Call>,
    /// The same of its list of IRQ work.
    pub work: Vec<Call>,
    /// Its registers, where the source gives them.
    #[serde(flatten)]
    pub registers: Option<Registers>,
    /// SGIs 0 to 7 in its redistributor, where the source gives that.
    pub sgis: Option<Vec<Sgi>>,
    /// What it did last, the newest last.
    pub events: Vec<Event>,
}

/// What an inspection found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// `ipiscope.inspect/1`: fields may be added, never renamed.
    pub schema: &'static str,
    /// Where it came from.
    pub source: String,
    /// The machine.
    pub machine: String,
    /// The plan.
    pub plan: String,
    /// How the run stands.
    pub run: String,
    /// Ticks per second.
    pub counter_hz: u64,
    /// The newest time that was seen anywhere, ticks: ages are relative to it.
    pub now: u64,
    /// All cores.
    pub cores: Vec<CoreView>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
}

/// The target's time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    hz: u64,
    now: u64,
}

impl Clock {
    /// How long ago something was, ns. A time of 0 was never written.
    fn age(&self, t: u64) -> Option<f64> {
        let ticks = self.now.checked_sub(t).filter(|_| t != 0 && self.hz > 0)?;
        Some(ticks as f64 * 1e9 / self.hz as f64)
    }
}

impl Inspection {
    /// Puts evidence together. `last`: events of each core.
    pub fn of(evidence: &Evidence, last: usize) -> Inspection {
        let region = &evidence.region;
        let clock = Clock { hz: region.directory.counter_hz, now: newest(evidence) };
        let cores: Vec<CoreView> =
            (0..region.cores.len()).map(|core| Viewer { evidence, clock, core }.view(last)).collect();
        let mut notes = evidence.notes.clone();
        let silent = |core: &LiveEntry| core.doing == doing::OFF;
        if region.live.iter().all(silent) && region.cores.iter().any(|core| core.state == core_state::UP) {
            notes.push("no core says what it does: this plan does not record it".into());
        }
        let mut inspection = Inspection {
            schema: "ipiscope.inspect/1",
            source: evidence.source.clone(),
            machine: evidence.machine.clone(),
            plan: evidence.plan.clone(),
            run: run_text(evidence),
            counter_hz: clock.hz,
            now: clock.now,
            cores,
            notes,
        };
        inspection.find_waiters();
        inspection
    }

    /// Tells each core who waits for it.
    fn find_waiters(&mut self) {
        let waits: Vec<(u16, u16)> = self
            .cores
            .iter()
            .filter_map(|core| Some((core.waits.as_ref()?, core.id)))
            // Whose call was unlocked waits no more, and has not noticed yet.
            .filter(|(wait, _)| wait.call.as_ref().is_none_or(|call| call.locked))
            .filter_map(|(wait, who)| Some((wait.core?, who)))
            .filter(|(for_whom, who)| for_whom != who)
            .collect();
        for (for_whom, who) in waits {
            if let Some(core) = self.cores.get_mut(usize::from(for_whom)) {
                core.waited_for_by.push(who);
            }
        }
    }

    /// As JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The newest time anywhere: what a target that stands still did last, or when it gave up.
fn newest(evidence: &Evidence) -> u64 {
    let region = &evidence.region;
    let records = evidence.tails.iter().flatten().map(|record| record.event.t);
    let live = region.live.iter().flat_map(|live| [live.since, live.function_since]);
    let queued = region.descriptors.iter().filter(|call| call.state != call_state::FREE).map(|call| call.queued);
    let faults = region.faults.iter().filter(|fault| fault.kind != fault_kind::NONE).map(|fault| fault.t);
    let phases = region.phases.iter().flat_map(|phase| [phase.started, phase.ended]);
    let run = [region.status.started, region.status.ended];
    records.chain(live).chain(queued).chain(faults).chain(phases).chain(run).max().unwrap_or(0)
}

fn run_text(evidence: &Evidence) -> String {
    let status = &evidence.region.status;
    let phase = || match evidence.phases.get(status.phase as usize) {
        Some(phase) => format!("phase `{}`", phase.name),
        None => format!("phase {}", status.phase),
    };
    match (status.state, status.reason) {
        (run_state::BOOTING, _) => "boots".into(),
        (run_state::STARTING, _) => "cores are being started".into(),
        (run_state::RUNNING, _) => format!("{} runs", phase()),
        (run_state::ENDED, _) => "the plan ended".into(),
        (run_state::ABORTED, abort_reason::REQUESTED) => format!("cut short in {}, as it was asked to", phase()),
        (run_state::ABORTED, abort_reason::FAULT) => format!("cut short in {} by an exception or a panic", phase()),
        (run_state::ABORTED, abort_reason::DEADLINE) => {
            format!("cut short in {}: core {} waited longer than the run's deadline", phase(), status.detail)
        }
        (run_state::ABORTED, abort_reason::BAD_OP) => {
            format!("cut short: operation {} is not known to this firmware", status.detail)
        }
        (state, reason) => format!("state {state}, reason {reason}"),
    }
}

/// Puts together what is known of one core.
struct Viewer<'a> {
    evidence: &'a Evidence,
    clock: Clock,
    core: usize,
}

impl Viewer<'_> {
    fn view(&self, last: usize) -> CoreView {
        let region = &self.evidence.region;
        let (entry, live) = (region.cores[self.core], region.live[self.core]);
        let (state, summary, thread) = self.stand(&entry, &live);
        let waits = matches!(live.doing, doing::WAITING | doing::ANSWER | doing::CALL);
        let for_whom = (live.waits_for != 0xFFFF && live.doing != doing::WAITING && waits).then_some(live.waits_for);
        let call = live.waits_descriptor.checked_sub(1).filter(|_| waits).and_then(|index| self.call(index));
        let site = (live.site != 0).then(|| self.back(live.site));
        let function = (live.function != 0).then(|| Callback {
            function: self.function(live.function),
            info: format!("{:#x}", live.function_info),
            for_ns: self.clock.age(live.function_since),
        });
        let picture = self.evidence.picture.iter().flatten().find(|picture| usize::from(picture.core) == self.core);
        let lanes = self.core * LANES_PER_CORE;
        let tails = self.evidence.tails.get(lanes..lanes + LANES_PER_CORE).unwrap_or_default();
        CoreView {
            id: self.core as u16,
            mpidr: format!("{:#x}", entry.mpidr),
            state,
            summary,
            thread,
            for_ns: self.clock.age(live.since),
            waits: waits.then_some(Wait { core: for_whom, site, call }),
            waited_for_by: Vec::new(),
            function,
            executed: live.executed,
            queue: self.queue(IpiKind::CallFunction),
            work: self.queue(IpiKind::IrqWork),
            registers: picture.map(|picture| self.registers(picture)),
            sgis: picture.and_then(|picture| picture.gicr).map(|gicr| {
                let sgi = |intid: u8| {
                    let [enabled, pending, active] =
                        [gicr.enabled, gicr.pending, gicr.active].map(|bits| bits >> intid & 1 == 1);
                    Sgi { intid, enabled, pending, active }
                };
                (0..8).map(sgi).collect()
            }),
            events: events::last(self.evidence.lexicon(), self.core as u16, tails, last)
                .into_iter()
                .map(|(t, context, text)| Event { t, ns_ago: self.clock.age(t), context: Context::name(context), text })
                .collect(),
        }
    }

    /// A word for scripts, a sentence for people, and what the thread does where something stands above it.
    fn stand(&self, entry: &CoreEntry, live: &LiveEntry) -> (&'static str, String, Option<String>) {
        let fault = &self.evidence.region.faults[self.core];
        let never = |why: String| ("never_up", format!("never up: {why}"), None);
        match entry.state {
            core_state::UP => {}
            core_state::FAULTED => {
                let place = self.evidence.symbols.at(fault.elr);
                let length = fault.message.len().min(fault.message_len as usize);
                let words = String::from_utf8_lossy(&fault.message[..length]).into_owned();
                let what = match fault.kind {
                    fault_kind::SYNCHRONOUS => format!("took an exception at {place} (ESR_EL1 {:#x})", fault.esr),
                    fault_kind::SERROR => format!("took an SError at {place} (ESR_EL1 {:#x})", fault.esr),
                    fault_kind::FIQ => format!("took an FIQ at {place}"),
                    fault_kind::UNHANDLED => format!("took an interrupt that nobody handles, {words}, at {place}"),
                    fault_kind::PANIC => format!("panicked: {words}"),
                    fault_kind::REFUSED => format!("can't run the plan: {words}"),
                    _ => "took an exception or panicked".into(),
                };
                return ("faulted", what, self.thread(live));
            }
            core_state::OFF => return never("it was not started".into()),
            core_state::STARTING => return never("it was started and has not arrived".into()),
            core_state::REFUSED => return never(format!("PSCI refused it (error {})", entry.error)),
            core_state::NO_SHOW => return never("it was started and did not arrive within the boot deadline".into()),
            core_state::NO_REDISTRIBUTOR => return never("no redistributor carries its affinity, or none woke".into()),
            core_state::DISABLED => return never("the device tree says that it is not to be used".into()),
            core_state::UNKNOWN => return ("never_up", "what became of it is not known".into(), None),
            core_state::UNREACHABLE => return never("no SGI reaches its affinity on this GIC".into()),
            other => return never(format!("its state is {other:#x}")),
        }
        let sgi = |number: u8| {
            let intid = number - 1;
            match self.evidence.reasons.of_intid(intid) {
                Some(kind) => format!("SGI {intid} ({})", kind.reason()),
                None if intid < 16 => format!("SGI {intid}"),
                None => format!("interrupt {intid}"),
            }
        };
        let thread = self.thread(live);
        if live.nmi != 0 {
            let below = if live.irq == 0 { String::new() } else { format!(", over that of {}", sgi(live.irq)) };
            return ("in_nmi", format!("in the NMI handler of {}{below}", sgi(live.nmi)), thread);
        }
        if live.parked != 0 {
            return ("parked", format!("parked by {}", sgi(live.parked)), thread);
        }
        if live.irq != 0 {
            return ("in_irq", format!("in the IRQ handler of {}", sgi(live.irq)), thread);
        }
        let state = match live.doing {
            doing::RUNNING => "running",
            doing::WAITING => "waiting",
            doing::ANSWER => "waiting_answer",
            doing::CALL => "waiting_call",
            doing::MASKED => "masked",
            doing::PRIORITY_MASKED => "priority_masked",
            doing::DONE => "done",
            _ => "up",
        };
        (state, thread.unwrap_or_else(|| "up; what it does is not recorded".into()), None)
    }

    /// What the thread does.
    fn thread(&self, live: &LiveEntry) -> Option<String> {
        let op = match self.evidence.ops.get(live.op as usize).and_then(|code| op_name(*code)) {
            Some(name) => format!("operation {} ({name})", live.op),
            None => format!("operation {}", live.op),
        };
        let whom = || match live.waits_for {
            0xFFFF => "others".to_string(),
            core => format!("core {core}"),
        };
        Some(match live.doing {
            doing::RUNNING => format!("runs {op}"),
            doing::WAITING => format!("waits in {op}"),
            doing::ANSWER => format!("waits for an answer of {}, in {op}", whom()),
            doing::CALL => format!("waits for the lock of a call to {}, in {op}", whom()),
            doing::MASKED => format!("has interrupts masked by PSTATE.I, in {op}"),
            doing::PRIORITY_MASKED => format!("has interrupts masked by ICC_PMR_EL1, in {op}"),
            doing::DONE => "its part in the plan is over".into(),
            _ => return None,
        })
    }

    fn queue(&self, kind: IpiKind) -> Vec<Call> {
        let calls = &self.evidence.region.descriptors;
        queue::of(calls, self.core as u16, kind.intid()).into_iter().filter_map(|index| self.call(index)).collect()
    }

    fn call(&self, index: u32) -> Option<Call> {
        let region = &self.evidence.region;
        let call = region.descriptors.get(index as usize)?;
        let directory = &region.directory;
        let offset = directory.sections.calls + u64::from(index) * size_of::<CallDescriptor>() as u64;
        Some(Call {
            descriptor: index,
            address: format!("{:016x}", directory.region_pa.wrapping_add(offset)),
            function: self.function(call.function),
            info: format!("{:#x}", call.info),
            state: match call.state {
                call_state::FREE => "free",
                call_state::QUEUED => "queued",
                call_state::RUNNING => "running",
                call_state::EXECUTED => "executed",
                _ => "unknown",
            },
            locked: call.flags & call_flag::LOCK != 0,
            synchronous: call.flags & call_flag::SYNCHRONOUS != 0,
            source: call.source,
            target: call.target,
            call_site: self.back(call.call_site),
            age_ns: self.clock.age(call.queued),
            generation: call.generation,
        })
    }

    fn registers(&self, picture: &CorePicture) -> Registers {
        // DDI 0487, C5.2.19: SPSR_EL1.D, A, I, F are bits 9 to 6, M[3:2] the exception level.
        let masks = [('D', 9), ('A', 8), ('I', 7), ('F', 6)];
        Registers {
            pc: self.place(picture.pc),
            pstate: format!("{:#x}", picture.pstate),
            level: (picture.pstate >> 2 & 3) as u8,
            masked: picture.pstate >> 7 & 1 == 1,
            masks: masks.iter().filter(|(_, bit)| picture.pstate >> bit & 1 == 1).map(|(name, _)| name).collect(),
            sp: format!("{:#x}", picture.sp),
            fp: format!("{:#x}", picture.fp),
            lr: self.back(picture.lr),
            frames: picture.frames.iter().map(|frame| self.back(*frame)).collect(),
        }
    }

    fn function(&self, address: u64) -> Named {
        Named { name: self.evidence.symbols.name(address), address: format!("{address:#x}") }
    }

    /// A program counter. Before a core's MMU is on, the image is where it was loaded.
    fn place(&self, address: u64) -> Place {
        let Directory { image_pa, image_len, .. } = self.evidence.region.directory;
        let loaded = address.checked_sub(image_pa).filter(|offset| image_pa != 0 && *offset < image_len);
        let linked = loaded.map_or(address, |offset| LINKED_AT.wrapping_add(offset));
        Place { address: format!("{address:#x}"), symbol: self.evidence.symbols.at(linked) }
    }

    fn back(&self, address: u64) -> Place {
        Place { address: format!("{address:#x}"), symbol: self.evidence.symbols.at_return(address) }
    }
}

/// What an operation of a plan is called where its work is told.
const fn op_name(code: u8) -> Option<&'static str> {
    Some(match code {
        op::END => "end",
        op::PHASE | op::PHASE_END | op::AGAIN | op::BARRIER => "barrier",
        op::TURN => "turn",
        op::PASS => "pass",
        op::POSTURE => "posture",
        op::PING => "ping",
        op::SEND => "send",
        op::BROADCAST => "broadcast",
        op::SETTLE => "settle",
        op::DELAY => "delay",
        op::AT => "at",
        op::MASK => "mask",
        op::IDLE | op::IDLE_UNTIL => "idle",
        op::PRESSURE => "pressure",
        op::LOOP | op::LOOP_END => "loop",
        op::MARK => "mark",
        op::CALL => "call",
        op::CALL_MANY => "call many",
        op::IPI => "IPI",
        op::TICK => "tick",
        op::IRQ_WORK => "IRQ work",
        op::HOLD => "hold",
        op::RELEASE => "release",
        op::AWAIT => "await",
        op::DELIVERY => "delivery",
        _ => return None,
    })
}
