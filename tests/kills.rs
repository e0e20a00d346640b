//! Runs that are cut short, by every hand: what was drained is reported, and nothing is left behind.

use std::io::Read as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use system_tests::{Run, alone, can_run, command, finish, processes_with, run, scratch_of, wait};

/// A run that lasts until somebody ends it, under way: records were flushed to its capture.
fn started(folder: &std::path::Path) -> Child {
    let arguments = ["qemu", "--json", "report.json", "--out", "run.mcap", "--plan", "matrix", "--duration", "120s"];
    let child = command(folder, &arguments).spawn().expect("the tool starts");
    let start = Instant::now();
    let size = || std::fs::metadata(folder.join("run.mcap")).map_or(0, |data| data.len());
    // The capture begins with attachments; then it stands still until the firmware is up, and grows with every flush.
    let mut begun = None;
    loop {
        let now = size();
        match begun {
            None if now > 0 && start.elapsed() > Duration::from_millis(300) => begun = Some(now),
            Some(first) if now > first + 400_000 => return child,
            _ => {}
        }
        assert!(start.elapsed() < Duration::from_secs(120), "the run does not get under way");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(name: &str, id: u32) {
    let status = Command::new("kill").args([name, &id.to_string()]).status().expect("kill starts");
    assert!(status.success(), "kill {name} {id}");
}

fn left_behind(host: u32) -> (Vec<u32>, Vec<std::path::PathBuf>) {
    (processes_with(&format!("ipiscope-{host}-")), scratch_of(host))
}

fn nothing_left(host: u32) {
    let start = Instant::now();
    while left_behind(host) != (Vec::new(), Vec::new()) {
        assert!(start.elapsed() < Duration::from_secs(5), "left behind: {:?}", left_behind(host));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_qemu_ends_in_a_message_and_a_report_of_what_was_drained() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let _alone = alone();
    let child = started(folder.path());
    let host = child.id();
    let qemu = processes_with(&format!("ipiscope-{host}-")).into_iter().find(|id| *id != host).expect("QEMU runs");
    signal("-9", qemu);
    let run: Run = finish(folder, wait(child), start);
    assert_eq!((run.code, run.text("/verdict"), run.text("/ended")), (2, "incomplete", "target_died"), "{run}");
    assert!(run.stderr.contains("QEMU"), "{run}");
    assert!(run.report["error"]["next_step"].is_string(), "{run}");
    assert!(run.number("/trace/records") > 1000, "{run}");
    run.expect_sums();
    nothing_left(host);
}

#[test]
fn a_killed_host_leaves_a_readable_capture_and_the_next_run_clears_the_rest() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let mut child = started(folder.path());
    let host = child.id();
    signal("-9", host);
    let _ = child.wait();
    let mut rest = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        let _ = stdout.read_to_string(&mut rest);
    }
    // QEMU goes with its host, at once.
    let start = Instant::now();
    while !processes_with(&format!("ipiscope-{host}-")).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "QEMU outlives its host");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, stdout, stderr) = run(folder.path(), &["report", "run.mcap", "--json", "report.json"]);
    assert_eq!(code, 2, "{stdout}\n{stderr}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("report.json")).expect("a report")).expect("JSON");
    assert_eq!(report["verdict"], "incomplete", "{report}");
    assert!(report["trace"]["records"].as_u64() > Some(1000), "{report}");
    // The next run sweeps the folder.
    let (code, stdout, stderr) = run(folder.path(), &["qemu", "--plan", "self", "--cores", "1", "--out", "next.mcap"]);
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    nothing_left(host);
}

#[test]
fn an_interrupt_ends_the_run_and_reports_in_full() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let _alone = alone();
    let child = started(folder.path());
    let host = child.id();
    signal("-INT", host);
    let run = finish(folder, wait(child), start);
    assert_eq!((run.code, run.text("/verdict"), run.text("/ended")), (0, "clean", "interrupted"), "{run}");
    assert!(run.number("/ipis/delivered") > 1000, "{run}");
    assert_eq!(run.number("/ipis/lost"), 0, "{run}");
    run.expect_sums();
    nothing_left(host);
}

#[test]
fn a_full_disk_ends_in_a_message_and_leaves_nothing_running() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let child =
        command(folder.path(), &["qemu", "--plan", "ping", "--out", "/dev/full"]).spawn().expect("the tool starts");
    let host = child.id();
    let output = wait(child);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("/dev/full"), "{stderr}");
    nothing_left(host);
}

#[test]
fn two_runs_at_once_do_not_disturb_each_other() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let start = Instant::now();
    let children = folders.each_ref().map(|folder| {
        let arguments = ["qemu", "--json", "report.json", "--out", "run.mcap"];
        command(folder.path(), &arguments).spawn().expect("the tool starts")
    });
    for (child, folder) in children.into_iter().zip(folders) {
        let host = child.id();
        let run = finish(folder, wait(child), start);
        run.expect(0, "clean");
        nothing_left(host);
    }
}
