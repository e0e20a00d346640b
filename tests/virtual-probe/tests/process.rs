//! The binary: says when it is ready, and ends with all it made whenever it is told to, or whoever started it is gone.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use support::{ap, attach, open, qemu, wait_for, within};
use virtual_probe::stats::Stats;

/// A probe process; killed when the test fails.
struct Probe {
    child: Child,
    input: Option<ChildStdin>,
    selector: String,
}

impl Probe {
    fn start(folder: &Path, arguments: &[&str]) -> Probe {
        let mut child = Command::new(env!("CARGO_BIN_EXE_virtual-probe"))
            .args(["--cores", "2", "--memory", "256M", "--stats"])
            .arg(folder.join("stats.json"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let input = child.stdin.take();
        let output = child.stdout.take().expect("is piped");
        let line = within(60, move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).expect("is read");
            line
        });
        let selector = line.trim().strip_prefix("ready ").expect(&line).to_owned();
        Probe { child, input, selector }
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("it ends", || {
            status = self.child.try_wait().expect("can be asked");
            status.is_some()
        });
        status.expect("ended")
    }

    /// The folder of its machine.
    fn scratch(&self) -> Option<PathBuf> {
        let name = format!("ipiscope-{}-", self.child.id());
        [Path::new("/dev/shm"), &std::env::temp_dir()].iter().find_map(|base| {
            let mut entries = std::fs::read_dir(base).ok()?.flatten();
            entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&name)).map(|entry| entry.path())
        })
    }

    /// Its QEMU's process id.
    fn machine(&self) -> u32 {
        let folder = self.scratch().expect("has a folder");
        std::fs::read_to_string(folder.join("qemu.pid")).expect("is noted").trim().parse().expect("is a number")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lives(process: u32) -> bool {
    // A zombie is dead: its command line is empty.
    std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn it_ends_when_its_input_ends() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", folder.path().join("probe").display());
    let mut probe = Probe::start(folder.path(), &["--listen", &socket]);
    assert_eq!(probe.selector, format!("20b7:9db1:{socket}"));
    let (machine, scratch) = (probe.machine(), probe.scratch().expect("has a folder"));
    let selector = probe.selector.clone();
    within(30, move || {
        let mut arm = attach(open(&selector));
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        assert_eq!(memory.read_word_32(0x4000_0000).expect("is read"), 0xEDFE_0DD0);
    });
    drop(probe.input.take());
    assert!(probe.ended().success());
    assert!(!lives(machine) && !scratch.exists() && !folder.path().join("probe").exists());
    let stats = Stats::read(&folder.path().join("stats.json")).expect("are there");
    assert_eq!((stats.connections, stats.system_reads.outside.bytes), (1, 4));
}

#[test]
fn a_signal_ends_it() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut probe = Probe::start(folder.path(), &["--listen", "tcp:127.0.0.1:0", "--el2"]);
    assert!(probe.selector.starts_with("20b7:9db1:tcp:127.0.0.1:"));
    let machine = probe.machine();
    let signalled = Command::new("kill").args(["-TERM", &probe.child.id().to_string()]).status().expect("kill runs");
    assert!(signalled.success());
    assert!(probe.ended().success());
    assert!(!lives(machine) && probe.scratch().is_none());
}

#[test]
fn a_kill_takes_the_machine_along() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut probe = Probe::start(folder.path(), &["--listen", "tcp:127.0.0.1:0"]);
    let (machine, scratch) = (probe.machine(), probe.scratch().expect("has a folder"));
    probe.child.kill().expect("is killed");
    probe.ended();
    wait_for("QEMU is gone", || !lives(machine));
    // The next probe, or run, clears what is left.
    let mut next = Probe::start(folder.path(), &["--listen", "tcp:127.0.0.1:0"]);
    assert!(!scratch.exists());
    drop(next.input.take());
    assert!(next.ended().success());
}

#[test]
fn its_end_is_told_when_the_machine_ends() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut probe = Probe::start(folder.path(), &["--listen", "tcp:127.0.0.1:0"]);
    let killed = Command::new("kill").args(["-KILL", &probe.machine().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    assert!(!probe.ended().success());
    std::thread::sleep(Duration::from_millis(10));
    assert!(probe.scratch().is_none());
}

#[test]
fn a_wrong_command_line_is_refused() {
    for arguments in [
        &["--listen", "somewhere"][..],
        &["--listen", "unix:/nowhere", "--knob", "bend:3"],
        &["--listen", "unix:/nowhere", "--boot", "shoe"],
        &["--listen", "unix:/nowhere", "--memory", "12"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_virtual-probe")).args(arguments).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}
