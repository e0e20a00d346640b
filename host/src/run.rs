//! One run on QEMU, from the request to the closed capture.
//!
//! What the user may have asked wrongly is checked before anything is started, what this machine may lack before
//! anything is written, and the capture is opened before QEMU is: nothing is left running by a run that can't be kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trace_ring::plan::TraceLevel;

use crate::capture::{
    self, Attachment, CaptureError, CaptureWriter, DEFAULT_MOST_BYTES, ELF_ATTACHMENT, Ended, PLAN_ATTACHMENT, RunInfo,
    VerdictScope,
};
use crate::drain::{self, Outcome, Settings};
use crate::error::{Explain as _, Failure, FileError, exit};
use crate::firmware;
use crate::inspect;
use crate::live::About;
use crate::machine::{HostAbilities, Machine, MachineRequest};
use crate::plan::{self, Keep, PlanMeta, PlanRequest};
use crate::progress::Progress;
use crate::qemu::{Picture, Setup, Version};
use crate::stop::StopOn;
use crate::symbols::Symbols;

/// The folder of captures whose name was not given.
pub const RUNS: &str = "runs";

/// From here on a user should know beforehand how large a capture gets.
const LONG: Duration = Duration::from_secs(60);

/// What a record comes to in a capture, compressed: 3.8 bytes of plan `matrix` on QEMU.
const BYTES_EACH: u64 = 4;

/// The nonce of every deterministic run: nothing in it may differ.
const FIXED_NONCE: u64 = u64::from_le_bytes(*b"ipiscope");

/// What the user asks of a run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The machine.
    pub machine: MachineRequest,
    /// The plan; cores, nonce and mode are taken from the machine.
    pub plan: PlanRequest,
    /// `--firmware`.
    pub firmware: Option<PathBuf>,
    /// `--out`; `None`: a dated name in [`RUNS`].
    pub out: Option<PathBuf>,
    /// `--tag`.
    pub tags: BTreeMap<String, String>,
    /// `--stop-on`.
    pub stop_on: Option<StopOn>,
    /// `--max-capture`; `None`: [`DEFAULT_MOST_BYTES`].
    pub most_bytes: Option<u64>,
    /// `--on-hang`.
    pub on_hang: OnHang,
    /// `--live`.
    pub live: bool,
    /// Shows no progress: runs of the selftest go on side by side.
    pub quiet: bool,
}

/// What to do when a run ends because somebody hangs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnHang {
    /// Report alone; where the cores stood is in the capture.
    #[default]
    Report,
    /// Print where the cores stand, on standard error.
    Inspect,
}

/// A run that was made.
#[derive(Debug)]
pub struct Finished {
    /// The capture.
    pub capture: PathBuf,
    /// How it went.
    pub outcome: Outcome,
    /// How long each step took.
    pub steps: Vec<(&'static str, Duration)>,
}

/// Runs a plan on QEMU. `say` gets what the user should know before and while it runs.
pub fn qemu(request: &Request, say: &mut dyn FnMut(&str)) -> Result<Finished, Failure> {
    let mut steps = Vec::new();
    let mut since = Instant::now();
    let mut step = |name| {
        steps.push((name, since.elapsed()));
        since = Instant::now();
    };

    let machine = Machine::resolve(&request.machine, &HostAbilities::look())?;
    if let Some(stop_on) = request.stop_on.as_ref().filter(|_| !machine.reads_request()) {
        return Err(Failure {
            kind: "arguments".into(),
            message: format!(
                "--stop-on \"{stop_on}\": a deterministic run reads nothing that the host writes, so nobody can ask it to end"
            ),
            next_step: "leave out --stop-on, or --deterministic".into(),
            exit_code: exit::MISUSED,
        });
    }
    let random = RandomState::new().hash_one(std::process::id());
    let nonce = if machine.deterministic { FIXED_NONCE } else { random };
    let wanted =
        PlanRequest { cores: machine.cores, deterministic: machine.deterministic, nonce, ..request.plan.clone() };
    let compiled = plan::compile(&wanted)?;
    step("plan");

    let version = Version::ask()?;
    machine.check_version(version.number)?;
    step("qemu version");

    let firmware = firmware::find(request.firmware.as_deref(), say)?;
    step("firmware");

    for note in &compiled.notes {
        say(&format!("note: {note}"));
    }
    let setup = Setup::new(&machine, &firmware.image, &compiled.blob, compiled.region_bytes)?;
    // The folder's name is unique even where the run's nonce is not.
    let prepared = setup.prepare(random)?;
    let mut attachments = vec![
        attachment(PLAN_ATTACHMENT, "application/octet-stream", &compiled.blob),
        attachment("firmware.img", "application/octet-stream", firmware.image.bytes()),
    ];
    if let Some(elf) = &firmware.elf {
        attachments.push(attachment(ELF_ATTACHMENT, "application/x-elf", &elf.bytes));
    }
    if let Some(tree) = setup.tree() {
        attachments.push(attachment("machine.dtb", "application/octet-stream", tree));
    }
    if let Some(source) = boards::source(&machine.board.name) {
        attachments.push(attachment("board.toml", "application/toml", source.as_bytes()));
    }
    let info = RunInfo {
        created: jiff::Timestamp::now().to_string(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        source: "qemu".into(),
        machine: machine.board.name.clone(),
        board: machine.board.name.clone(),
        cpu: machine.cpu().into(),
        accel: machine.accelerator.name().into(),
        verdict_scope: match machine.verdict_scope() {
            "instructions" => VerdictScope::Instructions,
            "virtualized" => VerdictScope::Virtualized,
            _ => VerdictScope::Emulated,
        },
        deterministic: machine.deterministic,
        qemu_version: version.text,
        qemu_arguments: prepared.arguments(),
        tags: request.tags.clone(),
        plan: compiled.meta.clone(),
        firmware_build_id: firmware.image.build_id().iter().map(|byte| format!("{byte:02x}")).collect(),
        nonce,
        cores: machine.cores,
        notes: compiled.notes.clone(),
    };
    let reserved = Reserved::take(request.out.as_deref(), &compiled.meta.name)?;
    let mut capture = CaptureWriter::create(&reserved.path, &info, &attachments).map_err(unwritable)?;
    let most_bytes = request.most_bytes.unwrap_or(DEFAULT_MOST_BYTES);
    capture.keep_at_most(most_bytes);
    if let Some(growth) = growth(&compiled.meta, most_bytes) {
        say(&format!("note: {growth}"));
    }
    step("capture");

    if let Some(lack) = prepared.lack() {
        say(&format!("note: {lack}"));
    }
    let mut target = prepared.start()?;
    reserved.keep();
    target.announce(&machine.board.name, &compiled.meta.name, &reserved.path)?;
    let meta = &compiled.meta;
    let mut progress = match (request.quiet, request.live) {
        (true, _) => Progress::silent(),
        (false, true) => {
            let symbols = firmware.elf.as_ref().map(|elf| Symbols::from_elf(&elf.bytes)).unwrap_or_default();
            Progress::live(About::new(format!("qemu {}", machine.board.name), meta, symbols))
        }
        (false, false) => Progress::new(meta.expected_sends, meta.duration()),
    };
    let boot_deadline = Duration::from_secs(60) + Duration::from_millis(100) * machine.cores.into();
    let settings = Settings {
        nonce: Some(nonce),
        stall: None,
        reads_request: machine.reads_request(),
        compare_counter: !machine.deterministic,
        deadline: compiled.host_deadline,
        boot_deadline: boot_deadline.min(compiled.host_deadline),
        phases: &compiled.meta.phases,
        stop_on: request.stop_on.as_ref(),
    };
    let mut outcome = drain::drain(&mut target, &mut capture, &mut progress, &settings).map_err(unwritable)?;
    step("run");
    match target.picture() {
        Picture::Never => {}
        Picture::Taken(picture) => capture.picture(picture).map_err(unwritable)?,
        Picture::Failed(why) => outcome.ending.notes.push(format!("where the cores stood is not known: {why}")),
    }
    capture.finish(&outcome.ending).map_err(unwritable)?;
    let complaints = target.complaints();
    drop(target);
    if request.on_hang == OnHang::Inspect && outcome.ending.ended == Ended::Deadline {
        // What can't be inspected can still be reported on.
        match inspect::of_capture(&reserved.path, inspect::LAST) {
            Ok(inspection) => say(&format!("where the cores stood:\n{}", inspection.text(inspect::WIDTH).trim_end())),
            Err(failure) => say(&format!("note: where the cores stood can't be told: {failure}")),
        }
    }
    if !complaints.is_empty() && outcome.ending.error.is_none() {
        say(&format!("QEMU says: {complaints}"));
    }
    step("close");

    if !outcome.measured {
        // QEMU's own words on what the user asked it for.
        let misused =
            ["unable to find CPU model", "Invalid CPU", "invalid option", "invalid accelerator", "Could not open"];
        let misused = misused.iter().any(|words| complaints.contains(words));
        let (kind, message, next_step) = match outcome.ending.error {
            Some(error) => (error.kind, error.message, error.next_step),
            None => ("target".into(), "the target could not be measured".into(), "run again".into()),
        };
        let exit_code = if misused { exit::MISUSED } else { exit::UNMEASURED };
        return Err(Failure { kind, message, next_step, exit_code });
    }
    Ok(Finished { capture: reserved.path.clone(), outcome, steps })
}

/// What the capture of a long run comes to, where every record is kept.
pub(crate) fn growth(plan: &PlanMeta, most_bytes: u64) -> Option<String> {
    let keeps = plan.keep == Keep::All && plan.level != TraceLevel::Off.name();
    let long = plan.duration().is_some_and(|duration| duration >= LONG);
    (keeps && long).then(|| {
        format!(
            "every record is kept, about {} for each round of the plan, until the capture has {} (--max-capture); --keep worst:1000 \
             keeps those of the slowest IPIs alone",
            capture::size(plan.expected_records.saturating_mul(BYTES_EACH)),
            capture::size(most_bytes)
        )
    })
}

fn attachment(name: &str, media_type: &str, data: &[u8]) -> Attachment {
    Attachment { name: name.into(), media_type: media_type.into(), data: data.into() }
}

/// A capture that can't be made is not something asked wrongly: exit code 2.
pub(crate) fn unwritable(error: CaptureError) -> Failure {
    let error = match error {
        CaptureError::Open { path, error: source } => return FileError { action: "create", path, source }.into(),
        error => error,
    };
    let next_step = "make room on that disk, or name a file elsewhere with --out".to_string();
    Failure { kind: error.kind().into(), message: error.to_string(), next_step, exit_code: exit::UNMEASURED }
}

/// The capture's path. A name of our own is taken by creating the file, so that two runs never share one; it is removed
/// again unless the run begins.
pub(crate) struct Reserved {
    pub(crate) path: PathBuf,
    /// The file was made here, and holds no run yet.
    empty: std::cell::Cell<bool>,
}

impl Reserved {
    pub(crate) fn take(out: Option<&Path>, plan: &str) -> Result<Reserved, Failure> {
        match out {
            Some(path) => {
                let empty = !path.exists();
                Ok(Reserved { path: path.to_path_buf(), empty: empty.into() })
            }
            None => {
                let folder = Path::new(RUNS);
                fs::create_dir_all(folder).map_err(FileError::of("create", folder))?;
                let stamp = jiff::Zoned::now().strftime("%Y-%m-%d-%H%M%S").to_string();
                let path = Self::new_name(folder, &stamp, plan)?;
                Ok(Reserved { path, empty: true.into() })
            }
        }
    }

    fn new_name(folder: &Path, stamp: &str, plan: &str) -> Result<PathBuf, FileError> {
        let plan: String = plan
            .chars()
            .map(|letter| if letter.is_alphanumeric() || "-_".contains(letter) { letter } else { '-' })
            .collect();
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for attempt in 1..1000 {
            let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let path = folder.join(format!("{stamp}-{plan}{suffix}.mcap"));
            match File::create_new(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(source) => return Err(FileError { action: "create", path, source }),
            }
        }
        Err(FileError { action: "create", path: folder.join(format!("{stamp}-{plan}.mcap")), source: last })
    }

    /// The file holds a run from now on.
    pub(crate) fn keep(&self) {
        self.empty.set(false);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.empty.get() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_of_one_second_get_two_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Reserved::new_name(folder.path(), "2026-01-02-030405", "my plan/x").expect("is made");
        let second = Reserved::new_name(folder.path(), "2026-01-02-030405", "my plan/x").expect("is made");
        assert!(first.ends_with("2026-01-02-030405-my-plan-x.mcap"), "{first:?}");
        assert!(second.ends_with("2026-01-02-030405-my-plan-x-2.mcap"), "{second:?}");
    }

    #[test]
    fn a_run_that_never_began_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = Reserved::new_name(folder.path(), "now", "ping").expect("is made");
        drop(Reserved { path: path.clone(), empty: true.into() });
        assert!(!path.exists());
        let path = Reserved::new_name(folder.path(), "now", "ping").expect("is made");
        let reserved = Reserved { path: path.clone(), empty: true.into() };
        reserved.keep();
        drop(reserved);
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named_with_exit_code_2() {
        let failure =
            Failure::from(Reserved::new_name(Path::new("/nonexistent/runs"), "now", "ping").expect_err("fails"));
        assert!(failure.message.contains("/nonexistent/runs/now-ping.mcap"), "{}", failure.message);
        assert_eq!(failure.exit_code, exit::UNMEASURED);
    }
}
