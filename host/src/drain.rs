//! The drain: carries what the target writes into the capture while it runs, until the run is over one way or another.
//!
//! Every 2 ms (a debug link: less often) the heads of all lanes are read at once; lanes with work are copied into the
//! capture. Between that the region's other sections are put into the capture as snapshots, so that a kill of this
//! process loses a moment and not the run. The end is one of: the plan ended; the target died; the deadline passed; the
//! user asked to stop. In each case the target is ended first, where it can be, and then drained once more: with nobody
//! writing, every slot counts.

use std::io;
use std::time::{Duration, Instant};

use trace_ring::calls::{CallDescriptor, LiveEntry};
use trace_ring::layout::{
    Directory, FaultEntry, HISTOGRAM_BYTES, LANES_PER_CORE, NO_HISTOGRAM, PairSlot, Status, abort_reason, fault_kind,
    run_state,
};
use trace_ring::reader::{Drained, LaneReader, ReadError, Region, RegionSource, Writer, read_values};
use trace_ring::record::RECORD_BYTES;
use zerocopy::IntoBytes as _;

use crate::capture::{CaptureError, CaptureWriter, CounterCheck, Ended, Ending, ErrorInfo, LaneAccount, StoppedBy};
use crate::interrupt;
use crate::live::{LaneNow, Moment};
use crate::load::Witness;
use crate::plan::PhaseMeta;
use crate::progress::Progress;
use crate::qemu;
use crate::series::Collector;
use crate::sparse;
use crate::stop::{StopOn, Totals};

/// A lane is drained when it holds this many records, or an eighth of its capacity, or at the next sweep of all lanes.
const BATCH: u64 = 8192;

/// Records fetched from a lane between two looks at the user, where the link is slow.
const SLICE: u64 = 2048;

/// Between two searches of all RAM for the image.
const SEARCH: Duration = Duration::from_millis(250);
/// A prefix from here on is large.
const LARGE: u64 = 1 << 20;

/// No run has a prefix beyond this: 512 cores, all pairs, in fifty phases.
const MOST_PREFIX: u64 = 4 << 30;

/// How often a target can be looked at without getting in its way, or in the way of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at the heads.
    pub poll: Duration,
    /// Between two sweeps of all lanes.
    pub sweep: Duration,
    /// Between two snapshots at first: of a long run they become rarer.
    pub snapshot: Duration,
    /// Between two draws of the progress bar: what there is to draw costs reads.
    pub progress: Duration,
    /// Looks are dear: a lane is read when it is half full, and at the end.
    pub patient: bool,
    /// The link is slow: the first snapshot leaves the histograms out, and what is left at the end is fetched in slices.
    pub slow: bool,
}

impl Pace {
    /// Memory that is read as fast as it is written. Looking more often takes host cores from an emulated target.
    /// `prefix`: bytes of a snapshot.
    pub const fn memory(prefix: u64) -> Pace {
        Pace {
            poll: Duration::from_millis(2),
            sweep: Duration::from_millis(20),
            snapshot: if prefix < LARGE { Duration::from_millis(250) } else { Duration::from_secs(2) },
            progress: Duration::from_millis(100),
            patient: false,
            slow: false,
        }
    }

    /// Between two snapshots of a run that has lasted for so long: a hundredth of that, within bounds. What a kill of this process
    /// costs stays small against the run, and days of snapshots against its records.
    fn spacing(&self, lasted: Duration) -> Duration {
        let most = self.snapshot.saturating_mul(MOST_SPACING).min(LONGEST_SPACING);
        (lasted / 100).min(most).max(self.snapshot)
    }

    /// A debug link of `rate` bytes a second. Snapshots take a twentieth of it, looks at the heads as much.
    pub fn link(prefix: u64, rate: f64) -> Pace {
        let share = |bytes: u64, least: f64, most: f64| {
            Duration::from_secs_f64((20.0 * bytes as f64 / rate.max(1000.0)).clamp(least, most))
        };
        Pace {
            poll: share(1024, 0.01, 1.0),
            sweep: share(4096, 0.05, 2.0),
            snapshot: share(prefix, 2.0, 60.0),
            progress: share(4096, 0.1, 2.0),
            patient: false,
            slow: true,
        }
    }
}

/// Snapshots become at most so many times rarer, and never rarer than this.
const MOST_SPACING: u32 = 240;
/// See above.
const LONGEST_SPACING: Duration = Duration::from_secs(600);

/// A look at the counters may take this part of the time between two of them: the records have the rest.
const COUNTING: u32 = 20;

/// How long a target may take to end after it was asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long the boot core may take to end a run that a core has given up, before it counts as one that hangs itself.
const GIVEN_UP_PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });

/// The shortest span over which the counter is compared with the host's clock.
const COUNTER_SPAN: f64 = 0.2;

/// A target that runs: QEMU, later others.
pub trait Live {
    /// How its region is read.
    type Source: RegionSource;

    /// Looks for the region; `None`: not yet. `everywhere`: not only where it usually is.
    fn find_region(&mut self, everywhere: bool) -> io::Result<Option<Self::Source>>;
    /// How the target ended by itself, if it did.
    fn ended(&mut self) -> Option<String>;
    /// Writes the request word.
    fn request_stop(&mut self, source: &mut Self::Source) -> io::Result<()>;
    /// Ends it, or lets go of it. True: nothing writes to the region afterwards.
    fn kill(&mut self) -> bool;
    /// What its console said.
    fn console(&self) -> String;
    /// What whoever runs it complained of.
    fn complaints(&self) -> String;
    /// Its process on this host, if it has one.
    fn process(&self) -> Option<u32>;

    /// The threads of that process that execute the cores, by core, where each has one of its own. Asked once, when the
    /// firmware is up.
    fn threads(&mut self) -> Vec<(u16, u32)> {
        Vec::new()
    }
    /// How often to look. `prefix`: bytes of a snapshot.
    fn pace(&mut self, prefix: u64) -> Pace {
        Pace::memory(prefix)
    }
    /// Makes the region readable for one look, where it is not always.
    fn hold(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// The look is over.
    fn release(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// What to look at when the firmware does not come up.
    fn boot_advice(&self) -> &'static str {
        "check --machine, --cpu and what stands behind --, or name another image with --firmware"
    }
    /// What it means that the region can't be read any more, where the target's kind knows better than the reader.
    fn unreadable(&mut self, _why: &str) -> Option<ErrorInfo> {
        None
    }
    /// What the user should know of how the data came.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }
}

impl Live for qemu::Target {
    type Source = qemu::RamFile;

    fn find_region(&mut self, everywhere: bool) -> io::Result<Option<qemu::RamFile>> {
        qemu::Target::find_region(self, everywhere)
    }

    fn ended(&mut self) -> Option<String> {
        match self.poll() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("QEMU ended ({status})")),
            Err(error) => Some(format!("QEMU can't be watched: {error}")),
        }
    }

    fn request_stop(&mut self, source: &mut qemu::RamFile) -> io::Result<()> {
        source.request_stop()
    }

    fn kill(&mut self) -> bool {
        qemu::Target::kill(self);
        true
    }

    fn console(&self) -> String {
        qemu::Target::console(self)
    }

    fn complaints(&self) -> String {
        qemu::Target::complaints(self)
    }

    fn process(&self) -> Option<u32> {
        Some(qemu::Target::process(self))
    }

    fn threads(&mut self) -> Vec<(u16, u32)> {
        qemu::Target::threads(self)
    }
}

/// What a drain has to know of the run.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Nonce of the run; `None`: whatever runs there.
    pub nonce: Option<u64>,
    /// Whether the firmware reads the request word.
    pub reads_request: bool,
    /// Whether the target's counter runs with the host's clock.
    pub compare_counter: bool,
    /// When the target is given up, from its start.
    pub deadline: Duration,
    /// How long the firmware may take to lay the region out.
    pub boot_deadline: Duration,
    /// How long nothing in the region may change before the target counts as unseen; `None`: until the deadline.
    pub stall: Option<Duration>,
    /// The plan's phases.
    pub phases: &'a [PhaseMeta],
    /// When to ask the firmware to end the run, beside Ctrl-C.
    pub stop_on: Option<&'a StopOn>,
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// For the capture.
    pub ending: Ending,
    /// Whether there was a region to read: without one there is nothing to report on.
    pub measured: bool,
    /// From the target's start to the region, to the plan's start, to its end; as far as it came.
    pub timings: Timings,
}

/// When things happened, from the target's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// The region was found.
    pub region: Option<Duration>,
    /// The plan was seen to run.
    pub running: Option<Duration>,
    /// The plan was seen to have ended.
    pub ended: Option<Duration>,
}

/// Drains `target` into `capture` until the run is over, and ends the target. An error means that the capture can't be
/// written; the target is ended then too.
pub fn drain<T: Live>(
    target: &mut T,
    capture: &mut CaptureWriter,
    progress: &mut Progress,
    settings: &Settings<'_>,
) -> Result<Outcome, CaptureError> {
    let started = Instant::now();
    let mut witness = Witness::new(target.process());
    let mut timings = Timings::default();
    let (ended, error, lanes, counter_check, measured) = match arrive(target, settings, started) {
        Ok((source, region)) => {
            timings.region = Some(started.elapsed());
            witness.watch(&target.threads());
            progress.meet(&region);
            let mut run = Run::new(target, source, region, settings, started);
            let over = run.poll(capture, progress, &mut timings, &mut witness);
            // Accounted while the child's times can still be read.
            let (steal, host_load) = witness.finish();
            let over = over?;
            let quiet = run.target.kill() || matches!(over, Over::Said);
            // Who asked to stop, of a target that goes on, gets what is near.
            let brief = matches!(over, Over::Cut) && run.pace.slow;
            let (ended, error) = run.judge(over);
            run.last(if quiet { Writer::Quiescent } else { Writer::Live }, brief, capture, progress)?;
            let error = error.or_else(|| run.broken_lane());
            let lanes = run.accounts(capture);
            run.notes.extend(capture.shortage());
            let check = if settings.compare_counter { run.watch.check(&run.status) } else { None };
            capture.console(&run.target.console())?;
            progress.clear();
            let host_seconds = started.elapsed().as_secs_f64();
            let mut notes = run.notes;
            if let Some(StoppedBy { expression, values }) = &run.stopped_by {
                notes.push(format!("the run was ended by --stop-on \"{expression}\": {values}"));
            }
            notes.extend(run.target.notes());
            let stopped_by = run.stopped_by;
            let counters_moved = run.counters_moved;
            let ending = Ending {
                ended,
                error,
                lanes,
                host_seconds,
                counter_check: check,
                steal,
                host_load,
                notes,
                counters_moved,
                stopped_by,
            };
            return Ok(Outcome { ending, measured: true, timings });
        }
        Err((ended, error)) => (ended, Some(error), Vec::new(), None, false),
    };
    target.kill();
    capture.console(&target.console())?;
    progress.clear();
    let host_seconds = started.elapsed().as_secs_f64();
    let notes = target.notes();
    let ending = Ending { error, lanes, counter_check, notes, ..Ending::new(ended, host_seconds) };
    Ok(Outcome { ending, measured, timings })
}

/// Waits until the firmware has laid its region out.
fn arrive<T: Live>(
    target: &mut T,
    settings: &Settings<'_>,
    started: Instant,
) -> Result<(T::Source, Region), (Ended, ErrorInfo)> {
    let error = |kind: &str, message: String, next_step: &str| ErrorInfo {
        kind: kind.into(),
        message,
        next_step: next_step.into(),
    };
    let mut looked = Instant::now();
    let mut last = String::from("no ipiscope image was found in the target's RAM");
    loop {
        // The firmware is nearly always where QEMU puts it: the rest of RAM is searched now and then.
        let everywhere = looked.elapsed() > SEARCH;
        if everywhere {
            looked = Instant::now();
        }
        let found = target.hold().and_then(|()| {
            let source = target.find_region(everywhere)?;
            Ok(source.map(|mut source| (Region::open(&mut source), source)))
        });
        // Whoever held it for the look lets go again, whatever came of it.
        let found = target.release().and(found);
        match found {
            Ok(Some((region, source))) => match region {
                Ok(region) if settings.nonce.is_none_or(|nonce| nonce == region.directory.nonce) => {
                    if let Some(message) = unbelievable(&region.directory) {
                        let next = "check the address, or look at the console's text in the capture";
                        return Err((Ended::TargetDied, error("region", message, next)));
                    }
                    return Ok((source, region));
                }
                Ok(region) => {
                    let message = format!(
                        "the target runs another plan than it was given: nonce {:#x}, expected {:#x}",
                        region.directory.nonce,
                        settings.nonce.unwrap_or(0)
                    );
                    return Err((
                        Ended::TargetDied,
                        error("boot", message, "look at the console's text in the capture"),
                    ));
                }
                // The directory's magic word is its last.
                Err(ReadError::Magic(_)) => {
                    last = "the firmware began to lay out its region, and did not finish".into()
                }
                Err(failure) => {
                    let next =
                        "build firmware and host from the same sources, or look at the console's text in the capture";
                    return Err((Ended::TargetDied, error("region", failure.to_string(), next)));
                }
            },
            Ok(None) => {}
            Err(failure) => last = format!("the target's RAM can't be read: {failure}"),
        }
        if let Some(how) = target.ended() {
            if let Some(known) = target.unreadable(&how) {
                return Err((Ended::TargetDied, known));
            }
            let complaints = target.complaints();
            let said =
                if complaints.is_empty() { "it said nothing".to_string() } else { format!("it said:\n{complaints}") };
            let message = format!("{how} before the firmware came up; {said}");
            let next = "mend what it names (--cpu, --machine, what stands behind --)";
            return Err((Ended::TargetDied, error("target", message, next)));
        }
        if everywhere && let Some(line) = target.console().lines().find(|line| line.starts_with("ipiscope FAULT")) {
            // A refusal is words; an exception is registers, told as they are.
            let words = line.split_once(&format!(" kind={} ", fault_kind::REFUSED)).map_or(line, |(_, words)| words);
            let message = format!("the firmware can't run here: {}", words.trim_end());
            let next = "mend what it names, or report it with the capture";
            return Err((Ended::TargetDied, error("boot", message, next)));
        }
        if interrupt::requests() > 0 {
            let message = "stopped before the firmware came up".to_string();
            return Err((Ended::Interrupted, error("interrupted", message, "run again")));
        }
        if started.elapsed() > settings.boot_deadline {
            let console = target.console();
            let lines: Vec<&str> = console.lines().collect();
            let tail = lines[lines.len().saturating_sub(5)..].join("\n");
            let said =
                if tail.is_empty() { "the console is silent".into() } else { format!("the console said:\n{tail}") };
            let seconds = settings.boot_deadline.as_secs();
            let message = format!("the firmware did not come up within {seconds} s: {last}; {said}");
            return Err((Ended::Deadline, error("boot", message, target.boot_advice())));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Says of a directory whose sections would fit anywhere that this is no run's: all that lies before the records is read
/// again and again, and kept in memory.
fn unbelievable(directory: &Directory) -> Option<String> {
    let Directory { sections, core_count, slot_count, histogram_count, descriptor_count, meta_len, .. } = directory;
    let records = sections.records;
    let parts = [
        ("slots", sections.slots, u64::from(*slot_count) * size_of::<PairSlot>() as u64),
        ("histograms", sections.histograms, u64::from(*histogram_count) * HISTOGRAM_BYTES),
        ("meta", sections.meta, *meta_len),
        ("live", sections.live, u64::from(*core_count) * size_of::<LiveEntry>() as u64),
        ("calls", sections.calls, u64::from(*descriptor_count) * size_of::<CallDescriptor>() as u64),
    ];
    let field =
        parts.iter().find(|(_, at, bytes)| at.saturating_add(*bytes) > records).map(|(field, at, _)| (*field, *at));
    let (field, value) = field.or((records > MOST_PREFIX).then_some(("records", records)))?;
    Some(format!("trace region is damaged: `sections.{field}` is {value:#x}"))
}

/// Why polling stopped.
enum Over {
    /// The firmware says that the run is over.
    Said,
    /// The target went away.
    Died(String),
    /// The region can't be read any more.
    Unreadable(String),
    /// A core gave the run up, but the boot core, which ends runs, does not end it.
    GivenUp,
    /// The deadline passed.
    Deadline,
    /// Nothing changes where something should.
    Stalled,
    /// The user asked twice, or the target did not heed the first time.
    Cut,
}

struct Lane {
    core: u16,
    context: u8,
    reader: LaneReader,
    /// Its head as it was last seen.
    head: u64,
    /// Why it is not read any more.
    broken: Option<String>,
}

struct Run<'a, T: Live> {
    target: &'a mut T,
    source: T::Source,
    region: Region,
    lanes: Vec<Lane>,
    settings: &'a Settings<'a>,
    started: Instant,
    status: Status,
    watch: Watch,
    stop_asked: Option<Instant>,
    stopped_by: Option<StoppedBy>,
    /// When the counters are looked at next.
    count_at: Instant,
    /// The counters over time; of time that is the host's own.
    collector: Option<Collector>,
    /// When something in the region was last seen to change, and what it was then.
    stirred: (Instant, u64),
    pace: Pace,
    notes: Vec<String>,
    counters_moved: bool,
    /// The last drain: what can be had is fetched.
    ending: bool,
}

impl<'a, T: Live> Run<'a, T> {
    fn new(target: &'a mut T, source: T::Source, region: Region, settings: &'a Settings<'a>, started: Instant) -> Self {
        let lanes = (0..region.lanes.len())
            .map(|index| Lane {
                core: (index / LANES_PER_CORE) as u16,
                context: (index % LANES_PER_CORE) as u8,
                reader: region.lane(index),
                head: 0,
                broken: None,
            })
            .collect();
        let status = region.directory.status;
        let pace = target.pace(region.directory.sections.records);
        let stirred = (Instant::now(), 0);
        let (watch, stop_asked, notes) = (Watch::new(), None, Vec::new());
        Run {
            target,
            source,
            region,
            lanes,
            settings,
            started,
            status,
            watch,
            stop_asked,
            stopped_by: None,
            count_at: started,
            collector: settings.compare_counter.then(Collector::default),
            stirred,
            pace,
            notes,
            counters_moved: false,
            ending: false,
        }
    }

    /// Until the run is over.
    fn poll(
        &mut self,
        capture: &mut CaptureWriter,
        progress: &mut Progress,
        timings: &mut Timings,
        witness: &mut Witness,
    ) -> Result<Over, CaptureError> {
        let mut swept = Instant::now();
        let mut snapped: Option<Instant> = None;
        let mut seen_running = false;
        let mut given_up: Option<Instant> = None;
        loop {
            if let Err(error) = self.target.hold() {
                return Ok(Over::Unreadable(error.to_string()));
            }
            let before = Instant::now();
            match self.region.status(&mut self.source) {
                Ok(status) => self.status = status,
                Err(error) => return Ok(Over::Unreadable(error.to_string())),
            }
            self.watch.see(&self.status, before, Instant::now());
            match self.status.state {
                run_state::BOOTING | run_state::STARTING => {}
                run_state::RUNNING => {
                    timings.running = timings.running.or(Some(self.started.elapsed()));
                    witness.look_if_due();
                }
                run_state::ENDED | run_state::ABORTED => {
                    timings.ended = Some(self.started.elapsed());
                    return Ok(Over::Said);
                }
                strange => {
                    return Ok(Over::Unreadable(format!("trace region is damaged: `status.state` is {strange:#x}")));
                }
            }
            if let Some(how) = self.target.ended() {
                return Ok(Over::Died(how));
            }
            if let Some(over) = self.asked_to_stop() {
                return Ok(over);
            }
            if self.status.reason != abort_reason::NONE {
                let since = *given_up.get_or_insert(before);
                if since.elapsed() > GIVEN_UP_PATIENCE {
                    return Ok(Over::GivenUp);
                }
            }
            if self.started.elapsed() > self.settings.deadline {
                return Ok(Over::Deadline);
            }

            let sweep = swept.elapsed() >= self.pace.sweep;
            if sweep {
                swept = Instant::now();
            }
            let most = if self.pace.slow { SLICE } else { u64::MAX };
            if let Err(over) = self.pump(Writer::Live, sweep, most, capture, progress)? {
                return Ok(over);
            }
            if let Some(view) = progress.view().filter(|_| sweep) {
                view.swept();
            }
            if self.is_stalled() {
                return Ok(Over::Stalled);
            }
            self.collect(capture)?;
            // On a slow link the first snapshots are light: one at once, one when all cores are up.
            let begins = self.pace.slow && !seen_running && self.status.state == run_state::RUNNING;
            let spacing = self.pace.spacing(self.started.elapsed());
            if begins || snapped.is_none_or(|snapped| snapped.elapsed() >= spacing) {
                self.snapshot(self.pace.slow && (begins || snapped.is_none()), capture, progress)?;
                snapped = Some(Instant::now());
                seen_running |= begins;
            }
            capture.flush_if_due()?;
            if progress.is_due(self.pace.progress) {
                self.show(progress);
            }
            if let Err(error) = self.target.release() {
                return Ok(Over::Unreadable(error.to_string()));
            }
            // A link that has more to fetch than it fetched just now has no time to sleep.
            let busy = self.pace.slow
                && !self.pace.patient
                && self.lanes.iter().any(|lane| lane.broken.is_none() && lane.reader.backlog(lane.head) >= SLICE);
            if busy {
                continue;
            }
            let poll = self.pace.poll;
            std::thread::sleep(poll.saturating_sub(before.elapsed()).max(poll / 8));
        }
    }

    /// Heeds Ctrl-C and `--stop-on`: the first asks the firmware, a second Ctrl-C doesn't.
    fn asked_to_stop(&mut self) -> Option<Over> {
        match (interrupt::requests(), self.stop_asked) {
            (0, None) if !self.is_satisfied() => None,
            (0 | 1, None) if self.settings.reads_request => {
                self.stop_asked = Some(Instant::now());
                self.target.request_stop(&mut self.source).err().map(|_| Over::Cut)
            }
            (0 | 1, Some(asked)) if asked.elapsed() < STOP_PATIENCE => None,
            _ => Some(Over::Cut),
        }
    }

    /// Whether the counters are such that the run is to end.
    fn is_satisfied(&mut self) -> bool {
        let Some(stop_on) = self.settings.stop_on else { return false };
        let began = Instant::now();
        if self.status.state != run_state::RUNNING || began < self.count_at {
            return false;
        }
        let mut look = || {
            let (slots, cores) = (self.region.slots(&mut self.source), self.region.core_entries(&mut self.source));
            let totals = Totals::of(&self.region.directory, &self.status, &slots.ok()?, &cores.ok()?);
            stop_on.holds(&totals).then_some(totals)
        };
        // A link may tear a counter while it carries: what two looks agree on was not torn.
        let satisfied = look().and_then(|_| look());
        self.stopped_by =
            satisfied.map(|totals| StoppedBy { expression: stop_on.to_string(), values: stop_on.values(&totals) });
        self.count_at = began + self.pace.poll.max(began.elapsed() * COUNTING);
        satisfied.is_some()
    }

    /// Adds to the series of counters, if it is time to.
    fn collect(&mut self, capture: &mut CaptureWriter) -> Result<(), CaptureError> {
        let now = Instant::now();
        let Some(collector) = self.collector.as_mut().filter(|_| self.status.state == run_state::RUNNING) else {
            return Ok(());
        };
        if collector.is_due(now)
            // A target that can't be read is found out by the next look at its status.
            && let Ok(slots) = self.region.slots(&mut self.source)
            && collector.add(now, &slots, now.elapsed(), COUNTING)
        {
            capture.series(collector.series())?;
        }
        Ok(())
    }

    /// Whether the region has stood still for longer than it may.
    fn is_stalled(&mut self) -> bool {
        let Some(patience) = self.settings.stall else { return false };
        let status = [self.status.state, self.status.phase, self.status.rounds, self.status.cores_up];
        let sign = self.lanes.iter().map(|lane| lane.head).chain(status.map(u64::from));
        let sign = sign.fold(0u64, |sum, word| sum.rotate_left(7).wrapping_add(word));
        if sign != self.stirred.1 {
            self.stirred = (Instant::now(), sign);
        }
        self.stirred.0.elapsed() > patience
    }

    /// Drains the lanes that have work, `most` records of each. The inner error ends the run.
    fn pump(
        &mut self,
        writer: Writer,
        all: bool,
        most: u64,
        capture: &mut CaptureWriter,
        progress: &mut Progress,
    ) -> Result<Result<(), Over>, CaptureError> {
        let heads = match self.region.heads(&mut self.source) {
            Ok(heads) => heads,
            Err(error) => return Ok(Err(Over::Unreadable(error.to_string()))),
        };
        for lane in &mut self.lanes {
            let (core, context) = (usize::from(lane.core), usize::from(lane.context));
            let Some(line) = heads.get(core) else { continue };
            lane.head = line.head[context];
            let backlog = lane.reader.backlog(lane.head);
            let lately_dropped = line.dropped[context] != lane.reader.account().dropped;
            let worthwhile = match writer {
                Writer::Quiescent => true,
                Writer::Live if self.pace.patient && !self.ending => backlog >= lane.reader.capacity() / 2,
                Writer::Live if all => backlog > 0 || lately_dropped,
                Writer::Live => backlog >= BATCH.min(lane.reader.capacity() / 8),
            };
            if !worthwhile || lane.broken.is_some() {
                continue;
            }
            let mut failure = None;
            let drained = lane.reader.drain_some(&mut self.source, writer, most, |drained| {
                if failure.is_none() {
                    let (core, context) = (lane.core, lane.context);
                    if let (Some(view), Drained::Records { first, bytes }) = (progress.view(), &drained) {
                        view.records(core, context, *first, bytes);
                    }
                    failure = match drained {
                        Drained::Records { first, bytes } => capture.lane_records(core, context, first, bytes),
                        Drained::Lost { first, count, cause } => capture.lane_loss(core, context, first, count, cause),
                    }
                    .err();
                }
            });
            if let Some(error) = failure {
                return Err(error);
            }
            match drained {
                Ok(()) => {}
                // One bad lane costs that lane, not the run.
                Err(error @ ReadError::Corrupt { .. }) => lane.broken = Some(error.to_string()),
                Err(error) => return Ok(Err(Over::Unreadable(error.to_string()))),
            }
        }
        Ok(Ok(()))
    }

    /// Puts the region up to its records into the capture; a light one without histograms, logs and what follows.
    /// False: the target can't be read. It is read from its begin to its end: what cores do is then older than what is seen on
    /// their queues (`docs/ring-protocol.md`).
    fn snapshot(
        &mut self,
        light: bool,
        capture: &mut CaptureWriter,
        progress: &mut Progress,
    ) -> Result<bool, CaptureError> {
        // A target that can't be read is found out by the next look at its status.
        let Some(prefix) = self.prefix(light) else { return Ok(false) };
        capture.snapshot(&prefix)?;
        if let Some(view) = progress.view().filter(|_| !light) {
            view.snapshot(prefix);
        }
        Ok(true)
    }

    /// What a snapshot holds; `None`: the target can't be read.
    fn prefix(&mut self, light: bool) -> Option<Vec<u8>> {
        let sections = self.region.directory.sections;
        let length = usize::try_from(sections.records).unwrap_or(0);
        let until = if light { usize::try_from(sections.histograms).unwrap_or(0).min(length) } else { length };
        let mut prefix = read_values::<_, u8>(&mut self.source, 0, until).ok()?;
        prefix.resize(length, 0);
        if light {
            // Percentiles then come from records, not from histograms of zeroes.
            let slots = usize::try_from(sections.slots).unwrap_or(0).min(until);
            for slot in prefix[slots..until].chunks_exact_mut(size_of::<PairSlot>()) {
                let at = core::mem::offset_of!(PairSlot, histogram);
                slot[at..at + 4].copy_from_slice(&NO_HISTOGRAM.to_le_bytes());
            }
            // Zeroes would say that no core was ever up, and that nobody calls.
            let Directory { core_count, descriptor_count, .. } = self.region.directory;
            repeat(&mut prefix, sections.live, sparse::unknown_live().as_bytes(), core_count);
            repeat(&mut prefix, sections.calls, sparse::unknown_call().as_bytes(), descriptor_count);
        }
        Some(prefix)
    }

    fn show(&mut self, progress: &mut Progress) {
        let doing = match self.status.state {
            run_state::RUNNING => {
                let phase = self.settings.phases.get(self.status.phase as usize);
                phase.map_or("running", |phase| phase.name.as_str())
            }
            _ => "starting cores",
        };
        let slots: Vec<PairSlot> = self.region.slots(&mut self.source).unwrap_or_default();
        if progress.view().is_some() {
            let lanes = self.lanes.iter().map(|lane| LaneNow {
                core: lane.core,
                context: lane.context,
                accepted: lane.reader.account().accepted,
                missed: lane.reader.account().lost(),
                backlog: lane.reader.backlog(lane.head),
                capacity: lane.reader.capacity(),
            });
            let (directory, status) = (self.region.directory, self.status);
            return progress.look(Moment { directory, status, slots: slots.into(), lanes: lanes.collect() });
        }
        let sent = slots.iter().fold(0u64, |sum, slot| sum.wrapping_add(slot.sent));
        progress.show(doing, sent);
    }

    /// What the end means.
    fn judge(&mut self, over: Over) -> (Ended, Option<ErrorInfo>) {
        let error = |kind: &str, message: String, next_step: &str| {
            Some(ErrorInfo { kind: kind.into(), message, next_step: next_step.into() })
        };
        let report = "the report holds what was drained until then; run again";
        match over {
            Over::Said | Over::GivenUp => match (self.status.state, self.status.reason) {
                _ if self.stop_asked.is_some() => (Ended::Interrupted, None),
                (run_state::ENDED, _) => (Ended::Complete, None),
                (_, abort_reason::REQUESTED) => (Ended::Interrupted, None),
                (_, abort_reason::DEADLINE) => {
                    let message = format!(
                        "core {} waited for the others longer than the run's deadline: a core hangs",
                        self.status.detail
                    );
                    let message = match over {
                        Over::GivenUp => format!("{message}, and so does the boot core, which did not end the run"),
                        _ => message,
                    };
                    (Ended::Deadline, error("deadline", message, "see the report for the core that stands still"))
                }
                (_, abort_reason::BAD_OP) => {
                    let message = format!("the firmware does not know operation {} of the plan", self.status.detail);
                    (Ended::TargetDied, error("plan", message, "build firmware and host from the same sources"))
                }
                (_, reason) => {
                    let faults = self.region.faults(&mut self.source).unwrap_or_default();
                    let message = fault_story(&faults)
                        .unwrap_or_else(|| format!("the firmware gave up (reason {reason}) and does not say why"));
                    (
                        Ended::TargetDied,
                        error("fault", message, "report it with the capture, which holds registers and log"),
                    )
                }
            },
            Over::Died(how) => {
                let complaints = self.target.complaints();
                let said = if complaints.is_empty() { String::new() } else { format!("; it said:\n{complaints}") };
                (Ended::TargetDied, error("target", format!("{how} while the plan ran{said}"), report))
            }
            Over::Unreadable(why) => {
                let known = self.target.unreadable(&why);
                (Ended::TargetDied, known.or_else(|| error("region", why, report)))
            }
            Over::Stalled => {
                let seconds = self.settings.stall.unwrap_or_default().as_secs();
                let message = format!(
                    "nothing in the trace region has changed for {seconds} s: the target stands still, or its rings are \
                     cacheable and this memory access port does not see the caches"
                );
                let next = "run it with non-cacheable rings (--rings non-cacheable, or `ipiscope.rings=non-cacheable` in \
                            bootargs)";
                (Ended::Deadline, error("stale_view", message, next))
            }
            Over::Deadline => {
                let seconds = self.settings.deadline.as_secs();
                let phase =
                    self.settings.phases.get(self.status.phase as usize).map_or("?", |phase| phase.name.as_str());
                let message = format!("the plan did not end within {seconds} s; it stood in phase `{phase}`");
                (
                    Ended::Deadline,
                    error("deadline", message, "see the report for the core that stands still, or run a shorter plan"),
                )
            }
            Over::Cut => (Ended::Interrupted, None),
        }
    }

    /// The last drain and snapshot, when nobody writes any more (or nobody will be asked any more).
    fn last(
        &mut self,
        writer: Writer,
        brief: bool,
        capture: &mut CaptureWriter,
        progress: &mut Progress,
    ) -> Result<(), CaptureError> {
        self.ending = true;
        // What can't be read was reported when it was found; the accounts say what is missing.
        let _ = self.target.hold();
        if let Ok(status) = self.region.status(&mut self.source) {
            self.status = status;
        }
        let fetched = self.snapshot(false, capture, progress)?;
        self.counters_moved = !fetched || writer == Writer::Live;
        if let Some(collector) = self.collector.take()
            && let Ok(slots) = self.region.slots(&mut self.source)
            && let Some(series) = collector.finish(Instant::now(), &slots)
        {
            capture.series(&series)?;
        }
        let slice = if self.pace.slow { SLICE } else { u64::MAX };
        // What was published by now. A target that goes on writes more, which nobody waits for.
        let goals: Vec<u64> = match self.region.heads(&mut self.source) {
            Ok(lines) => lines.iter().flat_map(|line| line.head).collect(),
            Err(_) => Vec::new(),
        };
        // A lane that broke is not read any more, and its head may be anything.
        let left = |run: &Self| {
            let sound = run.lanes.iter().zip(&goals).filter(|(lane, _)| lane.broken.is_none());
            sound.map(|(lane, goal)| lane.reader.backlog(*goal)).fold(0, u64::saturating_add)
        };
        let (asked, mut total) = (interrupt::requests(), 0);
        loop {
            if self.pump(writer, true, slice, capture, progress)?.is_err() {
                break;
            }
            capture.flush_if_due()?;
            let rest = left(self);
            total = total.max(rest);
            if rest == 0 || brief {
                break;
            }
            if interrupt::requests() > asked {
                self.notes.push(format!("the last drain was cut short: {rest} records were left in the target"));
                break;
            }
            if progress.is_due(self.pace.progress) {
                progress.fetch(total - rest, total, RECORD_BYTES);
            }
        }
        for lane in &mut self.lanes {
            lane.reader.abandon(lane.head);
        }
        let _ = self.target.release();
        Ok(())
    }

    fn broken_lane(&self) -> Option<ErrorInfo> {
        let lane = self.lanes.iter().find(|lane| lane.broken.is_some())?;
        Some(ErrorInfo {
            kind: "region".into(),
            message: format!(
                "lane {} of core {}: {}",
                lane.context,
                lane.core,
                lane.broken.as_deref().unwrap_or_default()
            ),
            next_step: "its later records are missing from the report; run again".into(),
        })
    }

    fn accounts(&self, capture: &CaptureWriter) -> Vec<LaneAccount> {
        self.lanes
            .iter()
            .map(|lane| {
                let account = lane.reader.account();
                debug_assert!(account.is_whole(), "lane {} of core {}: {account:?}", lane.context, lane.core);
                // What was read and not kept is as good as left.
                let unkept = capture.unkept(lane.core, lane.context);
                LaneAccount {
                    core: lane.core,
                    context: lane.context,
                    written: account.written,
                    accepted: account.accepted.saturating_sub(unkept),
                    lapped: account.lapped,
                    torn: account.torn,
                    dropped: account.dropped,
                    left: account.left.saturating_add(unkept),
                }
            })
            .collect()
    }
}

/// Puts `count` copies of an element where a section begins, as far as they lie inside.
fn repeat(prefix: &mut [u8], section: u64, element: &[u8], count: u32) {
    let places = usize::try_from(section).ok().and_then(|start| prefix.get_mut(start..));
    for place in places.unwrap_or_default().chunks_exact_mut(element.len()).take(count as usize) {
        place.copy_from_slice(element);
    }
}

/// What the fault entries tell, in a sentence. Registers that IPI `crash_stop` saved are no fault.
fn fault_story(faults: &[FaultEntry]) -> Option<String> {
    let is_fault = |fault: &FaultEntry| !matches!(fault.kind, fault_kind::NONE | fault_kind::CRASH_STOP);
    let (core, fault) = faults.iter().enumerate().find(|(_, fault)| is_fault(fault))?;
    let length = fault.message.len().min(fault.message_len as usize);
    let text = String::from_utf8_lossy(&fault.message[..length]).into_owned();
    let registers = format!("ESR_EL1 {:#x}, ELR_EL1 {:#x}, FAR_EL1 {:#x}", fault.esr, fault.elr, fault.far);
    Some(match fault.kind {
        fault_kind::PANIC => format!("core {core} panicked: {text}"),
        fault_kind::REFUSED => format!("core {core} can't run the plan: {text}"),
        fault_kind::SYNCHRONOUS => format!("core {core} took a synchronous exception: {registers}"),
        fault_kind::SERROR => format!("core {core} took an SError: {registers}"),
        fault_kind::FIQ => format!("core {core} took an FIQ, which nobody expects: {registers}"),
        fault_kind::UNHANDLED => {
            format!("core {core} took an interrupt that nobody handles: {text}, ELR_EL1 {:#x}", fault.elr)
        }
        strange => format!("core {core} reports fault {strange}: {registers}"),
    })
}

/// Brackets the plan's start and end by the host's clock, so that the target's counter can be compared with it.
#[derive(Debug)]
struct Watch {
    /// The plan had not started at this instant.
    not_yet: Option<Instant>,
    /// It started between these.
    began: Option<(Instant, Instant)>,
    /// It had not ended at this instant.
    still: Option<Instant>,
    /// It ended between these.
    ended: Option<(Instant, Instant)>,
}

impl Watch {
    fn new() -> Watch {
        Watch { not_yet: None, began: None, still: None, ended: None }
    }

    /// The status line was read between `before` and `after`. The plan has ended once its end is stamped: the state
    /// changes later, after the clocks were compared once more.
    fn see(&mut self, status: &Status, before: Instant, after: Instant) {
        if status.started == 0 {
            self.not_yet = Some(before);
            return;
        }
        if let (None, Some(not_yet)) = (self.began, self.not_yet) {
            self.began = Some((not_yet, after));
        }
        if status.ended == 0 {
            self.still = Some(before);
        } else if let (None, Some(still)) = (self.ended, self.still) {
            self.ended = Some((still, after));
        }
    }

    /// Ticks to each second of the host, if both ends were seen and lie far enough apart.
    fn check(&self, status: &Status) -> Option<CounterCheck> {
        let ((b0, b1), (e0, e1)) = (self.began?, self.ended?);
        // Each end lies in its bracket: their middles are `span` apart, give or take half of both widths.
        let width = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let longest = width(b0, e1);
        let shortest = width(b1, e0);
        let span = (longest + shortest) / 2.0;
        let slack = (longest - shortest) / 2.0;
        if status.ended <= status.started || shortest < COUNTER_SPAN {
            return None;
        }
        let ticks = (status.ended - status.started) as f64;
        Some(CounterCheck { measured_hz: ticks / span, uncertainty_hz: ticks / span * slack / shortest })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;

    use trace_ring::calls::{call_state, doing};
    use trace_ring::layout::{
        ABI_VERSION, Directory, FaultEntry, HeadLine, LOG_STRIDE, LaneDescriptor, MAGIC, Sections, Shape, lay_out,
    };
    use trace_ring::record::{Event, Kind};
    use zerocopy::{FromBytes as _, FromZeros as _};

    use super::*;
    use crate::capture::{Capture, RunInfo, VerdictScope};
    use crate::plan::{PlanRequest, compile};

    const NONCE: u64 = 77;
    const CORES: u64 = 2;
    const LOG2: u32 = 6;
    const CALLS: u64 = 14;

    /// What a target does at a look, by its number.
    type Act = dyn Fn(&Puppet, u32) -> Option<String>;

    /// A target made of a file, and of what it does between two looks.
    struct Puppet {
        ram: File,
        sections: Sections,
        looks: u32,
        /// What happens at each look, and how the target ends by itself, if it does.
        act: Box<Act>,
        console: &'static str,
        /// It is read over a slow link.
        slow: bool,
        /// It was asked to stop at this look, and heeds.
        asked: Option<u32>,
        killed: bool,
    }

    impl Puppet {
        fn new(act: impl Fn(&Puppet, u32) -> Option<String> + 'static) -> Puppet {
            let act = Box::new(act);
            let lanes = CORES * LANES_PER_CORE as u64;
            let (descriptors, records) = (CALLS, lanes << LOG2);
            let shape = Shape { cores: CORES, phases: 1, meta: 0, slots: 1, histograms: 0, descriptors, records };
            let (sections, region_len) = lay_out(shape);
            let mut directory = Directory::new_zeroed();
            (directory.magic, directory.version, directory.nonce) = (MAGIC, ABI_VERSION, NONCE);
            (directory.region_len, directory.sections) = (region_len, sections);
            (directory.core_count, directory.phase_count, directory.log_stride) = (CORES as u32, 1, LOG_STRIDE as u32);
            (directory.descriptor_count, directory.slot_count) = (CALLS as u32, 1);
            directory.counter_hz = 1_000_000_000;
            let ram = tempfile::tempfile().expect("a file");
            ram.set_len(region_len).expect("is grown");
            let puppet =
                Puppet { ram, sections, looks: 0, act, console: "hello\n", slow: false, asked: None, killed: false };
            puppet.put(0, directory.as_bytes());
            puppet.put(sections.slots, pair().as_bytes());
            for lane in 0..lanes {
                let mut descriptor = LaneDescriptor::new_zeroed();
                descriptor.offset = sections.records + (lane << LOG2) * RECORD_BYTES;
                descriptor.log2_records = LOG2;
                puppet.put(sections.lanes + lane * size_of::<LaneDescriptor>() as u64, descriptor.as_bytes());
            }
            puppet
        }

        fn put(&self, offset: u64, bytes: &[u8]) {
            self.ram.write_all_at(bytes, offset).expect("is written");
        }

        fn state(&self, state: u32, reason: u32) {
            let mut status = Status::new_zeroed();
            (status.state, status.reason, status.detail) = (state, reason, 1);
            self.put(core::mem::offset_of!(Directory, status) as u64, status.as_bytes());
        }

        /// So many messages of its one pair were lost, and one took so long.
        fn counted(&self, lost: u64, max: u64) {
            let slot = PairSlot { sent: 1000, lost, delivered: 1, min: 1, max, ..pair() };
            self.put(self.sections.slots, slot.as_bytes());
        }

        /// Core 0 waits for its last descriptor, which is on core 1's queue.
        fn call(&self) {
            self.put(self.sections.live, live().as_bytes());
            self.put(self.sections.calls + (CALLS - 1) * size_of::<CallDescriptor>() as u64, call().as_bytes());
        }

        fn fault(&self, core: u64, kind: u32) {
            let mut fault = FaultEntry::new_zeroed();
            (fault.kind, fault.elr) = (kind, 0xABC + core);
            self.put(self.sections.faults + core * size_of::<FaultEntry>() as u64, fault.as_bytes());
        }

        /// Records `0..head` of core 1's thread lane; the oldest are overwritten where they are too many.
        fn records(&self, head: u64) {
            let lane = LANES_PER_CORE as u64;
            for index in 0..head {
                let event = Event { t: index, kind: Kind::Mark, flags: 0, peer: 0, msg: 0, intid: 0, extra: 0, arg: 0 };
                let slot = (lane << LOG2) + (index & ((1 << LOG2) - 1));
                self.put(self.sections.records + slot * RECORD_BYTES, event.words(index).as_bytes());
            }
            self.head(head);
        }

        fn head(&self, head: u64) {
            let mut line = HeadLine::new_zeroed();
            line.head[0] = head;
            self.put(self.sections.heads + size_of::<HeadLine>() as u64, line.as_bytes());
        }
    }

    impl Live for Puppet {
        type Source = qemu::RamFile;

        fn find_region(&mut self, _: bool) -> io::Result<Option<qemu::RamFile>> {
            qemu::RamFile::new(self.ram.try_clone()?, 0).map(Some)
        }

        fn ended(&mut self) -> Option<String> {
            self.looks += 1;
            (self.act)(self, self.looks)
        }

        fn request_stop(&mut self, source: &mut qemu::RamFile) -> io::Result<()> {
            self.asked = Some(self.looks);
            self.state(run_state::ABORTED, abort_reason::REQUESTED);
            source.request_stop()
        }

        fn kill(&mut self) -> bool {
            self.killed = true;
            true
        }

        fn console(&self) -> String {
            self.console.into()
        }

        fn complaints(&self) -> String {
            String::new()
        }

        fn process(&self) -> Option<u32> {
            None
        }

        fn pace(&mut self, prefix: u64) -> Pace {
            Pace { slow: self.slow, ..Pace::memory(prefix) }
        }
    }

    /// The one pair, of which nothing was measured yet.
    fn pair() -> PairSlot {
        PairSlot { to: 1, histogram: NO_HISTOGRAM, min: u64::MAX, ..PairSlot::new_zeroed() }
    }

    fn live() -> LiveEntry {
        LiveEntry { doing: doing::CALL, waits_for: 1, waits_descriptor: CALLS as u32, ..LiveEntry::default() }
    }

    fn call() -> CallDescriptor {
        CallDescriptor { state: call_state::QUEUED, target: 1, queued: 99, ..CallDescriptor::default() }
    }

    /// Drains a puppet; the ending, and whether there was a region.
    fn run(puppet: &mut Puppet) -> (Ending, bool) {
        let folder = tempfile::tempdir().expect("a folder");
        run_into(puppet, &folder.path().join("capture.mcap"))
    }

    fn run_into(puppet: &mut Puppet, path: &Path) -> (Ending, bool) {
        run_until(puppet, path, None)
    }

    fn run_until(puppet: &mut Puppet, path: &Path, stop_on: Option<&StopOn>) -> (Ending, bool) {
        let compiled = compile(&PlanRequest { cores: 2, ..PlanRequest::default() }).expect("compiles");
        let info = RunInfo {
            created: String::new(),
            tool_version: String::new(),
            source: "qemu".into(),
            machine: String::new(),
            board: String::new(),
            cpu: String::new(),
            accel: String::new(),
            verdict_scope: VerdictScope::Emulated,
            deterministic: false,
            qemu_version: String::new(),
            qemu_arguments: Vec::new(),
            tags: BTreeMap::new(),
            plan: compiled.meta.clone(),
            firmware_build_id: String::new(),
            nonce: NONCE,
            cores: 2,
            notes: Vec::new(),
        };
        let mut capture = CaptureWriter::create(path, &info, &[]).expect("is created");
        let settings = Settings {
            nonce: Some(NONCE),
            stall: None,
            reads_request: true,
            compare_counter: true,
            deadline: Duration::from_secs(3),
            boot_deadline: Duration::from_secs(1),
            phases: &compiled.meta.phases,
            stop_on,
        };
        let outcome = drain(puppet, &mut capture, &mut Progress::silent(), &settings).expect("the capture takes it");
        assert!(puppet.killed, "a target that was drained is ended");
        for lane in &outcome.ending.lanes {
            assert_eq!(lane.written, lane.accepted + lane.lost(), "{lane:?}");
        }
        capture.finish(&outcome.ending).expect("the capture takes it");
        (outcome.ending, outcome.measured)
    }

    #[test]
    fn a_run_ends_when_the_counters_satisfy_its_expression_and_says_which_and_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("capture.mcap");
        // A look that a busy host drew out makes the next one wait: whoever is to be asked has thousands of looks' time.
        const LONG: u32 = 10_000;
        for (text, loses, ends, asked, values) in [
            ("lost > 1", 20, LONG, 20..LONG, "lost 2"),
            ("latency > 200us && !(lost > 0)", LONG, LONG, 10..LONG, "latency 300.0 us, lost 0"),
            ("latency > 1s || unknown > 0", 20, 40, 0..0, ""),
        ] {
            let act = move |puppet: &Puppet, look| {
                match look {
                    1 => puppet.state(run_state::STARTING, 0),
                    // What lies there before the plan runs is none of its results.
                    2 => puppet.counted(9, 500_000),
                    3 => puppet.counted(0, 5),
                    4 => puppet.state(run_state::RUNNING, 0),
                    10 => puppet.counted(0, 300_000),
                    look if look == ends => puppet.state(run_state::ENDED, 0),
                    look if look == loses => puppet.counted(2, 400_000),
                    _ => {}
                }
                None
            };
            let stop_on: StopOn = text.parse().expect("parses");
            let mut puppet = Puppet::new(act);
            let (ending, measured) = run_until(&mut puppet, &path, Some(&stop_on));
            assert!(measured && ending.error.is_none(), "{ending:?}");
            match &ending.stopped_by {
                Some(by) => {
                    assert!(puppet.asked.is_some_and(|look| asked.contains(&look)), "{text}: {:?}", puppet.asked);
                    assert_eq!((by.expression.as_str(), by.values.as_str()), (text, values));
                    assert_eq!(ending.ended, Ended::Interrupted);
                    assert!(ending.notes.iter().any(|note| note.contains(text) && note.contains(values)), "{ending:?}");
                }
                None => assert_eq!((ending.ended, puppet.asked, asked.len()), (Ended::Complete, None, 0), "{text}"),
            }
        }
    }

    fn kind(ending: &Ending) -> &str {
        ending.error.as_ref().map_or("", |error| &error.kind)
    }

    #[test]
    fn a_run_that_ends_is_complete_and_its_records_are_counted() {
        let mut puppet = Puppet::new(|puppet, look| {
            match look {
                1 => puppet.state(run_state::RUNNING, 0),
                2 => puppet.records(40),
                3 => puppet.state(run_state::ENDED, 0),
                _ => {}
            }
            None
        });
        let (ending, measured) = run(&mut puppet);
        assert_eq!((ending.ended, kind(&ending), measured), (Ended::Complete, "", true));
        let lane = ending.lanes[LANES_PER_CORE];
        assert_eq!((lane.core, lane.context, lane.written, lane.accepted), (1, 0, 40, 40));
    }

    #[test]
    fn records_that_were_overwritten_are_lost_and_counted() {
        let mut puppet = Puppet::new(|puppet, _| {
            puppet.records(100);
            puppet.state(run_state::ENDED, 0);
            None
        });
        let lane = run(&mut puppet).0.lanes[LANES_PER_CORE];
        // 64 slots, less the two that a writer who still runs might be filling.
        assert_eq!((lane.written, lane.accepted, lane.lapped), (100, 62, 38));
    }

    #[test]
    fn each_end_says_what_it_was() {
        type Act = fn(&Puppet, u32) -> Option<String>;
        let cases: [(Act, Ended, &str, &str); 8] = [
            (|_, look| (look == 3).then(|| "QEMU ended (signal: 9)".into()), Ended::TargetDied, "target", "signal: 9"),
            (|_, _| None, Ended::Deadline, "deadline", "phase"),
            (
                |puppet, _| {
                    puppet.state(run_state::ABORTED, abort_reason::DEADLINE);
                    None
                },
                Ended::Deadline,
                "deadline",
                "core 1 waited for the others longer than the run's deadline: a core hangs",
            ),
            (
                |puppet, _| {
                    puppet.state(run_state::RUNNING, abort_reason::DEADLINE);
                    None
                },
                Ended::Deadline,
                "deadline",
                "core 1 waited for the others longer than the run's deadline: a core hangs, and so does the boot core",
            ),
            (
                |puppet, _| {
                    puppet.fault(0, fault_kind::SYNCHRONOUS);
                    puppet.state(run_state::ABORTED, abort_reason::FAULT);
                    None
                },
                Ended::TargetDied,
                "fault",
                "ELR_EL1 0xabc",
            ),
            (
                |puppet, _| {
                    puppet.state(run_state::ABORTED, abort_reason::BAD_OP);
                    None
                },
                Ended::TargetDied,
                "plan",
                "operation 1",
            ),
            (
                |puppet, _| {
                    puppet.state(0xDEAD, 0);
                    None
                },
                Ended::TargetDied,
                "region",
                "0xdead",
            ),
            (
                |puppet, _| {
                    puppet.put(core::mem::offset_of!(Directory, nonce) as u64, &1u64.to_le_bytes());
                    None
                },
                Ended::TargetDied,
                "region",
                "restarted",
            ),
        ];
        for (act, ended, word, names) in cases {
            let (ending, measured) = run(&mut Puppet::new(act));
            let error = ending.error.as_ref().expect("says why");
            assert_eq!((ending.ended, error.kind.as_str(), measured), (ended, word, true), "{error:?}");
            assert!(error.message.contains(names), "expected {names:?} in {:?}", error.message);
            assert!(!error.next_step.is_empty());
        }
    }

    #[test]
    fn a_head_that_runs_backwards_or_away_costs_its_lane_only() {
        let acts: [fn(&Puppet, u32) -> Option<String>; 2] = [
            |puppet, look| {
                match look {
                    1 => puppet.records(40),
                    20 => puppet.head(3),
                    30 => puppet.state(run_state::ENDED, 0),
                    _ => {}
                }
                None
            },
            |puppet, look| {
                match look {
                    1 => puppet.records(40),
                    20 => puppet.head(u64::MAX - 5),
                    30 => puppet.state(run_state::ENDED, 0),
                    _ => {}
                }
                None
            },
        ];
        for act in acts {
            let (ending, _) = run(&mut Puppet::new(act));
            assert_eq!((ending.ended, kind(&ending)), (Ended::Complete, "region"));
            assert_eq!(ending.lanes[LANES_PER_CORE].accepted, 40);
        }
    }

    #[test]
    fn a_target_that_never_comes_up_is_given_up_with_its_last_words() {
        let mut puppet = Puppet::new(|_, _| None);
        puppet.put(0, &[0; 8]);
        let (ending, measured) = run(&mut puppet);
        assert_eq!((ending.ended, kind(&ending), measured), (Ended::Deadline, "boot", false));
        assert!(ending.error.is_some_and(|error| error.message.contains("hello")));

        let mut puppet = Puppet::new(|_, _| None);
        puppet.put(16, &1u64.to_le_bytes());
        let (ending, measured) = run(&mut puppet);
        assert_eq!((ending.ended, kind(&ending), measured), (Ended::TargetDied, "boot", false), "another plan's nonce");
    }

    #[test]
    fn a_directory_that_no_run_has_is_refused_before_memory_is_taken_for_it() {
        let sections = core::mem::offset_of!(Directory, sections);
        let records = (sections + core::mem::offset_of!(Sections, records)) as u64;
        let live = (sections + core::mem::offset_of!(Sections, live)) as u64;
        let calls = (sections + core::mem::offset_of!(Sections, calls)) as u64;
        let slot_count = core::mem::offset_of!(Directory, slot_count) as u64;
        let descriptor_count = core::mem::offset_of!(Directory, descriptor_count) as u64;
        for (at, width, value, names) in [
            (records, 8, 1u64 << 45, "sections.records"),
            (slot_count, 4, u32::MAX.into(), "sections.slots"),
            (descriptor_count, 4, u32::MAX.into(), "descriptor_count"),
            (calls, 8, 1 << 32, "sections.calls"),
            (live, 8, 1 << 32, "sections.live"),
        ] {
            let mut puppet = Puppet::new(|_, _| None);
            puppet.put(core::mem::offset_of!(Directory, region_len) as u64, &(1u64 << 46).to_le_bytes());
            puppet.put(at, &value.to_le_bytes()[..width]);
            let (ending, measured) = run(&mut puppet);
            assert_eq!((ending.ended, kind(&ending), measured), (Ended::TargetDied, "region", false));
            assert!(ending.error.is_some_and(|error| error.message.contains(names)));
        }
    }

    #[test]
    fn snapshots_of_a_long_run_become_rarer_and_never_cost_more_than_a_few_minutes() {
        let seconds = Duration::from_secs;
        let paces = [(Pace::memory(1), 60), (Pace::memory(LARGE), 480), (Pace::link(1 << 20, 1e5), 600)];
        for (pace, most) in paces {
            assert_eq!(pace.spacing(Duration::ZERO), pace.snapshot);
            assert_eq!(pace.spacing(pace.snapshot * 200), pace.snapshot * 2);
            assert_eq!(pace.spacing(seconds(30 * 86_400)), seconds(most), "{pace:?}");
        }
    }

    #[test]
    fn the_counter_is_compared_over_the_plans_span_only() {
        let zero = Instant::now();
        let at = |milliseconds: u64| zero + Duration::from_millis(milliseconds);
        let stamped = |started, ended| {
            let mut status = Status::new_zeroed();
            (status.started, status.ended) = (started, ended);
            status
        };
        let (booting, running, over) = (stamped(0, 0), stamped(1_000, 0), stamped(1_000, 1_000 + 62_500_000));
        let mut watch = Watch::new();
        assert!(watch.check(&over).is_none());
        watch.see(&booting, at(0), at(1));
        watch.see(&running, at(4), at(5));
        watch.see(&running, at(998), at(999));
        watch.see(&over, at(1006), at(1007));
        watch.see(&over, at(2000), at(2001));
        let check = watch.check(&over).expect("both ends were seen");
        // Began in 0..5 ms, ended in 998..1007 ms: 1 s and 7 ms to either side.
        assert!((check.measured_hz - 62_500_000.0).abs() < check.uncertainty_hz, "{check:?}");
        assert!(check.uncertainty_hz < 500_000.0, "{check:?}");

        let mut late = Watch::new();
        late.see(&running, at(4), at(5));
        late.see(&over, at(1006), at(1007));
        assert!(late.check(&over).is_none(), "the start was not seen");
    }

    #[test]
    fn a_fault_is_told_with_core_and_cause() {
        let mut faults = vec![FaultEntry::new_zeroed(); 3];
        assert_eq!(fault_story(&faults), None);
        faults[2].kind = fault_kind::PANIC;
        faults[2].message_len = 4;
        faults[2].message[..4].copy_from_slice(b"oops");
        assert_eq!(fault_story(&faults).as_deref(), Some("core 2 panicked: oops"));
        faults[2].message_len = u32::MAX;
        assert!(fault_story(&faults).is_some_and(|story| story.starts_with("core 2 panicked: oops")));
        faults[1].kind = fault_kind::SYNCHRONOUS;
        faults[1].esr = 0x9600_0045;
        assert!(fault_story(&faults).is_some_and(|story| story.contains("core 1") && story.contains("0x96000045")));
        faults[0].kind = fault_kind::CRASH_STOP;
        assert!(fault_story(&faults).is_some_and(|story| story.contains("core 1")), "a crash stop is no fault");
        assert_eq!(fault_story(&faults[..1]), None);
    }

    #[test]
    fn a_core_that_was_crash_stopped_neither_ends_a_run_nor_is_blamed_for_its_end() {
        let (ending, _) = run(&mut Puppet::new(|puppet, look| {
            match look {
                1 => puppet.state(run_state::RUNNING, 0),
                2 => puppet.fault(0, fault_kind::CRASH_STOP),
                10 => puppet.records(40),
                20 => puppet.state(run_state::ENDED, 0),
                _ => {}
            }
            None
        }));
        assert_eq!((ending.ended, kind(&ending)), (Ended::Complete, ""));
        assert_eq!(ending.lanes[LANES_PER_CORE].accepted, 40, "what came after it");

        let (ending, _) = run(&mut Puppet::new(|puppet, _| {
            puppet.fault(0, fault_kind::CRASH_STOP);
            puppet.fault(1, fault_kind::SERROR);
            puppet.state(run_state::ABORTED, abort_reason::FAULT);
            None
        }));
        assert_eq!((ending.ended, kind(&ending)), (Ended::TargetDied, "fault"));
        let message = ending.error.expect("says why").message;
        assert!(message.contains("core 1 took an SError") && message.contains("0xabd"), "{message}");
    }

    #[test]
    fn what_cores_did_and_called_at_the_end_is_in_the_capture_over_links_of_any_speed() {
        for slow in [false, true] {
            let mut puppet = Puppet::new(|puppet, look| {
                match look {
                    1 => puppet.state(run_state::RUNNING, 0),
                    5 => puppet.call(),
                    10 => puppet.state(run_state::ABORTED, abort_reason::DEADLINE),
                    _ => {}
                }
                None
            });
            puppet.slow = slow;
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("capture.mcap");
            run_into(&mut puppet, &path);
            let capture = Capture::open(&path).expect("is read");
            let mut snapshot = capture.snapshot().expect("is there");
            let region = Region::open(&mut snapshot).expect("opens");
            assert_eq!(region.live(&mut snapshot).expect("is read"), [live(), LiveEntry::default()]);
            let descriptors = region.descriptors(&mut snapshot).expect("are read");
            assert_eq!((descriptors.len(), descriptors.last()), (CALLS as usize, Some(&call())));
        }
    }

    #[test]
    fn a_light_snapshot_does_not_say_what_cores_do() {
        let mut puppet = Puppet::new(|_, _| None);
        puppet.call();
        let mut source = puppet.find_region(true).expect("is there").expect("is there");
        let region = Region::open(&mut source).expect("opens");
        let at = region.directory.sections;
        let settings = Settings {
            nonce: None,
            reads_request: false,
            compare_counter: false,
            deadline: Duration::ZERO,
            boot_deadline: Duration::ZERO,
            stall: None,
            phases: &[],
            stop_on: None,
        };
        let mut run = Run::new(&mut puppet, source, region, &settings, Instant::now());
        let prefix = |run: &mut Run<'_, Puppet>, light| run.prefix(light).expect("is read");
        let live = |bytes: &[u8]| LiveEntry::read_from_prefix(&bytes[at.live as usize..]).expect("is whole").0;
        let calls = at.calls as usize..at.calls as usize + CALLS as usize * size_of::<CallDescriptor>();
        let (whole, light) = (prefix(&mut run, false), prefix(&mut run, true));
        assert_eq!(live(&whole), self::live());
        assert_eq!(whole[calls.clone()][size_of::<CallDescriptor>() * 13..], *call().as_bytes());
        assert_eq!(live(&light), sparse::unknown_live());
        let unknown = sparse::unknown_call();
        assert!(light[calls.clone()].chunks_exact(64).all(|descriptor| descriptor == unknown.as_bytes()));
        // Nothing of what lies around them was touched.
        assert_eq!((light.len(), &light[..at.histograms as usize]), (whole.len(), &whole[..at.histograms as usize]));
        assert!(light[calls.end..].iter().all(|byte| *byte == 0));
    }
}
