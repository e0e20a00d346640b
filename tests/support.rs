//! What the system tests share: the tool as a user has it, a folder for each run, and the report as JSON.
//!
//! The tests drive the `ipiscope` binary and look at what a user or a script would: exit code, stdout, stderr, `--json`. They
//! need QEMU and a way to build the firmware. Where either is missing a test says so and passes, but never under CI. Runs are
//! made one at a time, because each takes all of a small machine.

pub mod freeze;

#[path = "terminal.rs"]
pub mod terminal;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest that any single run of the tool may take here.
const PATIENCE: Duration = Duration::from_secs(240);

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The tool, built once. A nested build, because cargo hands a package only its own binaries; it is fresh within a workspace
/// test run.
pub fn tool() -> &'static Path {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    TOOL.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "host", "--bin", "ipiscope", "--message-format=json"])
            .current_dir(root())
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo starts");
        assert!(output.status.success(), "the tool does not build");
        let text = String::from_utf8_lossy(&output.stdout);
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let path = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
        path.expect("cargo names the binary")
    })
}

/// Whether runs on QEMU can be made here. Under CI they must be.
pub fn can_run() -> bool {
    static ABLE: OnceLock<Result<(), String>> = OnceLock::new();
    let able = ABLE.get_or_init(|| {
        let doctor = Command::new(tool()).arg("doctor").output().expect("the tool starts");
        if doctor.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&doctor.stdout).into_owned()) }
    });
    match able {
        Ok(()) => true,
        Err(lack) if std::env::var_os("CI").is_some() => {
            panic!("under CI nothing is skipped, but this machine lacks:\n{lack}")
        }
        Err(lack) => {
            eprintln!("skipped: this machine can't run the firmware\n{lack}");
            false
        }
    }
}

/// Takes the machine: runs are made one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A run of the tool that ended.
#[derive(Debug)]
pub struct Run {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
    /// The report, null where none was written.
    pub report: Value,
    /// The capture.
    pub capture: PathBuf,
    /// Where both lie, for as long as this lives.
    pub folder: tempfile::TempDir,
    /// How long it took.
    pub took: Duration,
}

impl Run {
    /// A number of the report, by JSON pointer.
    pub fn number(&self, pointer: &str) -> u64 {
        let value = self.report.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("{pointer} is no number in {}\n{self}", self.report))
    }

    /// A text of the report, by JSON pointer.
    pub fn text(&self, pointer: &str) -> &str {
        let value = self.report.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_else(|| panic!("{pointer} is no text in {}\n{self}", self.report))
    }

    /// Asserts that the run ended with this code and verdict, and that its accounts add up.
    pub fn expect(&self, code: i32, verdict: &str) -> &Self {
        assert_eq!((self.code, self.text("/verdict")), (code, verdict), "{self}");
        self.expect_sums();
        self
    }

    /// Asserts what holds in every report: `sent` is the sum of the outcomes, and each lane's `written` of its parts.
    pub fn expect_sums(&self) {
        let sum: u64 = ["delivered", "coalesced", "lost", "misrouted", "in_flight", "unknown"]
            .iter()
            .map(|outcome| self.number(&format!("/ipis/{outcome}")))
            .sum();
        assert_eq!(self.number("/ipis/sent"), sum, "outcomes\n{self}");
        let lanes = self.report["lanes"].as_array().expect("lanes are listed");
        let recorded = self.text("/trace/level") != "off";
        assert!(!lanes.is_empty() || !recorded, "no lane is accounted for\n{self}");
        for lane in lanes {
            let field = |name: &str| lane[name].as_u64().unwrap_or_else(|| panic!("{name} of {lane}"));
            let parts = field("accepted") + field("lapped") + field("torn") + field("dropped") + field("missing");
            assert_eq!(field("written"), parts, "lane {lane}\n{self}");
        }
    }

    /// Suspects as (detector, role, core, from, to); -1 for null.
    pub fn suspects(&self) -> Vec<(String, String, i64, i64, i64)> {
        let number = |value: &Value| value.as_i64().unwrap_or(-1);
        let list = self.report["suspects"].as_array().expect("suspects are listed");
        list.iter()
            .map(|suspect| {
                let text = |name: &str| suspect[name].as_str().unwrap_or("").to_owned();
                let (core, from, to) = (number(&suspect["core"]), number(&suspect["from"]), number(&suspect["to"]));
                (text("detector"), text("role"), core, from, to)
            })
            .collect()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// The tool with arguments, in a folder of its own, output caught.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(tool());
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a child, for four minutes at most.
pub fn wait(mut child: Child) -> Output {
    // Output is read by threads, so that a full pipe can't stop the child.
    let mut readers = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        readers.push(std::thread::spawn(move || read_all(&mut stdout)));
    }
    if let Some(mut stderr) = child.stderr.take() {
        readers.push(std::thread::spawn(move || read_all(&mut stderr)));
    }
    let status = wait_status(&mut child);
    let mut texts = readers.into_iter().map(|reader| reader.join().unwrap_or_default());
    Output { status, stdout: texts.next().unwrap_or_default(), stderr: texts.next().unwrap_or_default() }
}

fn read_all(from: &mut impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

fn wait_status(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("the tool did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `ipiscope qemu` with `arguments` to its end and reads its report.
pub fn qemu(arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _alone = alone();
    let start = Instant::now();
    let mut all = vec!["qemu", "--json", "report.json", "--out", "run.mcap"];
    all.extend_from_slice(arguments);
    let child = command(folder.path(), &all).spawn().expect("the tool starts");
    finish(folder, wait(child), start)
}

/// Reads back what a run left.
pub fn finish(folder: tempfile::TempDir, output: Output, start: Instant) -> Run {
    let report = std::fs::read(folder.path().join("report.json")).unwrap_or_default();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        report: serde_json::from_slice(&report).unwrap_or(Value::Null),
        capture: folder.path().join("run.mcap"),
        folder,
        took: start.elapsed(),
    }
}

/// Runs any verb of the tool to its end: (exit code, stdout, stderr).
pub fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = wait(command(folder, arguments).spawn().expect("the tool starts"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Processes whose command line holds `text`: what a run must not leave behind.
pub fn processes_with(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            (id != std::process::id() && String::from_utf8_lossy(&line).contains(text)).then_some(id)
        })
        .collect()
}

/// Scratch folders of the tool whose owner is `host`, wherever it may put them.
pub fn scratch_of(host: u32) -> Vec<PathBuf> {
    let name = format!("ipiscope-{host}-");
    let places = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    let entries = places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name)).map(|entry| entry.path()).collect()
}
