//! Regions whose run was started elsewhere: found in a dump, over a console, by a probe that was plugged in late.
//!
//! The region names its plan itself (section `meta`), so a capture of it is as good as one of a run that was made here.
//! What it can't tell (the board's name, the unit's tags) the caller adds.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use trace_ring::layout::{CoreEntry, Directory, core_state, platform_flag, run_state};
use trace_ring::plan::{Policy, TraceLevel};
use trace_ring::reader::{ReadError, Region, RegionSource};

use crate::capture::{Attachment, CaptureWriter, ELF_ATTACHMENT, Ended, ErrorInfo, RunInfo, VerdictScope};
use crate::drain::{self, Live, Pace, Settings};
use crate::error::{Failure, exit};
use crate::firmware;
use crate::plan::{PhaseMeta, PlanMeta};
use crate::progress::Progress;
use crate::run::{Finished, Reserved, unwritable};

/// A plan's description beyond this is damage: it is read over slow links, and kept in memory.
const MOST_META: u64 = 16 << 20;

/// Where a region was found, and what it can't say of itself.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// `serial`, `memory`, `probe`.
    pub source: &'static str,
    /// Name of the board file, if the user named one.
    pub board: Option<String>,
    /// `--out`.
    pub out: Option<PathBuf>,
    /// `--firmware`: for symbols and log strings.
    pub firmware: Option<PathBuf>,
    /// `--tag`.
    pub tags: BTreeMap<String, String>,
    /// What the user should know of how the data came.
    pub notes: Vec<String>,
    /// What the console said.
    pub console: String,
    /// What a verdict needs and the source lacks, if it does: the run then counts as not measured.
    pub lack: Option<ErrorInfo>,
}

/// Puts a region that nobody writes any more into a capture. A run that had not ended is captured all the same, and its
/// report says so.
pub fn collect<S: RegionSource>(
    source: &mut S,
    origin: &Origin,
    say: &mut dyn FnMut(&str),
) -> Result<Finished, Failure> {
    let started = Instant::now();
    let region = Region::open(source).map_err(|error| no_region(origin, &error))?;
    let status = region.status(source).map_err(|error| no_region(origin, &error))?;
    let info = describe(&region, source, origin, say);
    let (mut capture, reserved) = open_capture(&info, origin, say)?;
    reserved.keep();
    let settings = Settings {
        nonce: None,
        reads_request: false,
        compare_counter: false,
        deadline: Duration::from_secs(24 * 3600),
        stall: None,
        boot_deadline: Duration::ZERO,
        phases: &info.plan.phases,
        stop_on: None,
    };
    let whole = matches!(status.state, run_state::ENDED | run_state::ABORTED);
    let mut still = Still { source: Some(source), whole, origin };
    let mut outcome = drain::drain(&mut still, &mut capture, &mut Progress::silent(), &settings).map_err(unwritable)?;
    if let Some(lack) = &origin.lack {
        outcome.ending.error.get_or_insert_with(|| lack.clone());
        if outcome.ending.ended == Ended::Complete {
            outcome.ending.ended = Ended::TargetDied;
        }
    }
    capture.finish(&outcome.ending).map_err(unwritable)?;
    Ok(Finished { capture: reserved.path.clone(), outcome, steps: vec![("collect", started.elapsed())] })
}

/// Why there is nothing to collect.
fn no_region<E: std::fmt::Display>(origin: &Origin, error: &ReadError<E>) -> Failure {
    Failure {
        kind: "region".into(),
        message: format!("{}: {error}", origin.source),
        next_step: "check the address, and that firmware and host were built from the same sources".into(),
        exit_code: exit::UNMEASURED,
    }
}

/// Opens a capture for a region that was found, with the firmware's symbols where they can be had.
pub(crate) fn open_capture(
    info: &RunInfo,
    origin: &Origin,
    say: &mut dyn FnMut(&str),
) -> Result<(CaptureWriter, Reserved), Failure> {
    let mut attachments = Vec::new();
    // An ELF of another build would name wrong functions.
    let elf = firmware::existing(origin.firmware.as_deref())?;
    match elf.filter(|found| hex(&found.image.build_id()) == info.firmware_build_id).and_then(|found| found.elf) {
        Some(elf) => attachments.push(Attachment {
            name: ELF_ATTACHMENT.into(),
            media_type: "application/x-elf".into(),
            data: elf.bytes,
        }),
        None => say(&format!(
            "note: no ELF of firmware build {}: addresses stay numbers and logs unread (--firmware names it)",
            info.firmware_build_id.get(..16).unwrap_or(&info.firmware_build_id)
        )),
    }
    if let Some(text) = origin.board.as_deref().and_then(boards::source) {
        let (name, media_type) = ("board.toml".into(), "application/toml".into());
        attachments.push(Attachment { name, media_type, data: text.as_bytes().to_vec() });
    }
    let reserved = Reserved::take(origin.out.as_deref(), &info.plan.name)?;
    let capture = CaptureWriter::create(&reserved.path, info, &attachments).map_err(unwritable)?;
    Ok((capture, reserved))
}

/// What a capture says of a run, as far as its region tells.
pub(crate) fn describe<S: RegionSource>(
    region: &Region,
    source: &mut S,
    origin: &Origin,
    say: &mut dyn FnMut(&str),
) -> RunInfo {
    let directory = &region.directory;
    let cores = region.core_entries(source).unwrap_or_default();
    let mut notes = origin.notes.clone();
    let meta = if directory.meta_len <= MOST_META { region.meta(source).ok() } else { None };
    let told = meta.and_then(|text| serde_json::from_slice::<PlanMeta>(&text).ok());
    let plan = told.filter(|plan| plan.phases.len() == directory.phase_count as usize).unwrap_or_else(|| {
        notes.push("the region does not name its plan: phases are numbered, and no record counts as expected".into());
        nameless(directory)
    });
    // What the caller notes, the caller has said.
    for note in &notes[origin.notes.len()..] {
        say(&format!("note: {note}"));
    }
    let board = origin.board.clone().unwrap_or_default();
    RunInfo {
        created: jiff::Timestamp::now().to_string(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        source: origin.source.into(),
        machine: board.clone(),
        verdict_scope: scope(directory, &cores, &board),
        board,
        cpu: String::new(),
        accel: String::new(),
        deterministic: directory.deterministic != 0,
        qemu_version: String::new(),
        qemu_arguments: Vec::new(),
        tags: origin.tags.clone(),
        firmware_build_id: hex(&directory.build_id),
        nonce: directory.nonce,
        cores: plan.cores,
        plan,
        notes,
    }
}

/// Whose time a region tells: a hypervisor that answers, an emulator's generic machine or its made-up processor, silicon.
fn scope(directory: &Directory, cores: &[CoreEntry], board: &str) -> VerdictScope {
    /// MIDR_EL1.Implementer 0 is reserved for software use (DDI 0487, D24.2.122): an emulator's own processor.
    const SOFTWARE: u32 = 0;
    let emulated = boards::find(board).is_some_and(|board| board.is_ok_and(|board| board.emulator));
    let up = cores.iter().find(|core| core.state == core_state::UP);
    if emulated || up.is_some_and(|core| core.midr >> 24 == SOFTWARE) {
        VerdictScope::Emulated
    } else if directory.hypervisor_uid != [0; 4] {
        VerdictScope::Virtualized
    } else if directory.platform & platform_flag::VIRT_TREE != 0 {
        VerdictScope::Emulated
    } else {
        VerdictScope::Silicon
    }
}

/// A plan of which only the numbers are known.
fn nameless(directory: &Directory) -> PlanMeta {
    let phase = |index: u32| PhaseMeta {
        name: format!("phase {index}"),
        pattern: "unknown".into(),
        timed: false,
        state: "unknown".into(),
        ..PhaseMeta::default()
    };
    PlanMeta {
        phases: (0..directory.phase_count.min(1024)).map(phase).collect(),
        deterministic: directory.deterministic != 0,
        level: TraceLevel::from_code(directory.trace_level).name().into(),
        policy: Policy::from_code(directory.policy).name().into(),
        ..PlanMeta::unplanned("unknown", directory.core_count as u16)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A target that stands still: its memory was taken.
struct Still<'a, S> {
    source: Option<&'a mut S>,
    /// The run had ended when it was taken.
    whole: bool,
    origin: &'a Origin,
}

/// A borrowed source.
pub(crate) struct Borrowed<'a, S>(&'a mut S);

impl<S: RegionSource> RegionSource for Borrowed<'_, S> {
    type Error = S::Error;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), S::Error> {
        self.0.read(offset, buffer)
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, S::Error> {
        self.0.read_u64(offset)
    }
}

impl<'a, S: RegionSource> Live for Still<'a, S> {
    type Source = Borrowed<'a, S>;

    fn find_region(&mut self, _: bool) -> io::Result<Option<Self::Source>> {
        Ok(self.source.take().map(Borrowed))
    }

    fn ended(&mut self) -> Option<String> {
        (!self.whole).then(|| format!("the plan had not ended when its data was taken ({})", self.origin.source))
    }

    fn request_stop(&mut self, _: &mut Self::Source) -> io::Result<()> {
        Ok(())
    }

    /// A run that had not ended may have been taken in the middle of a record.
    fn kill(&mut self) -> bool {
        self.whole
    }

    fn console(&self) -> String {
        self.origin.console.clone()
    }

    fn complaints(&self) -> String {
        String::new()
    }

    fn process(&self) -> Option<u32> {
        None
    }

    fn pace(&mut self, prefix: u64) -> Pace {
        Pace { snapshot: Duration::from_secs(3600), ..Pace::memory(prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::tests::{all_calls, captured_calls, directory_of, region, without};
    use crate::sparse::unknown_call;

    #[test]
    fn what_cores_did_and_called_goes_into_the_capture_and_what_did_not_come_stays_unknown() {
        let region = region(1);
        let calls = directory_of(&region).sections.calls;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("capture.mcap");
        let collected = |hole: std::ops::Range<u64>| {
            let mut source = without(&region, &[hole]);
            source.settle().expect("plausible");
            let origin = Origin { source: "memory", out: Some(path.clone()), ..Origin::default() };
            let finished = collect(&mut source, &origin, &mut |_| ()).expect("is collected");
            assert_eq!(finished.capture, path);
            captured_calls(&path)
        };
        assert_eq!(collected(0..0), all_calls());
        let (live, mut descriptors) = all_calls();
        descriptors[7] = unknown_call();
        assert_eq!(collected(calls + 7 * 64 + 5..calls + 7 * 64 + 6), (live, descriptors));
    }
}
