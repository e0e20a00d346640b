//! What must not break, broken again and again: `docs/reliability.md` is the table of it, line by line with the tests that prove it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::{Run, alone, can_run, command, finish, processes_with, qemu, run, scratch_of, tool, wait};

/// Kills of each kind.
const KILLS: u64 = 50;

/// Runs in a row.
const RUNS: u32 = 100;

/// A number from 0 to `below`, of a seed: the same in every run of the test (splitmix64's mixing).
fn random(seed: u64, below: u64) -> u64 {
    let mut word = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (word ^ word >> 31) % below
}

fn kill(id: u32) {
    // A process that ended meanwhile is no fault of the test.
    let _ = Command::new("kill").args(["-9", &id.to_string()]).output();
}

fn endless(folder: &Path) -> Child {
    let arguments = ["qemu", "--json", "report.json", "--out", "run.mcap", "--plan", "matrix", "--duration", "120s"];
    command(folder, &arguments).spawn().expect("the tool starts")
}

/// What a report says of a capture; `None`: the file holds no run yet.
fn records(folder: &Path, capture: &str) -> Option<(String, u64, u64)> {
    let (code, json, stderr) = run(folder, &["report", capture, "--json", "-"]);
    assert!([0, 1, 2, 3].contains(&code) && !stderr.contains("panicked"), "exit {code}: {stderr}");
    let report: Value = serde_json::from_str(&json).ok()?;
    let number = |at: &str| report.pointer(at).and_then(Value::as_u64);
    Some((report["verdict"].as_str()?.into(), number("/trace/records")?, number("/ipis/lost")?))
}

fn gone(host: u32) {
    let start = Instant::now();
    while !processes_with(&format!("ipiscope-{host}-")).is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "left running: {:?}",
            processes_with(&format!("ipiscope-{host}-"))
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_host_killed_at_any_moment_loses_nothing_that_was_flushed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut hosts = Vec::new();
    let mut with_records = 0;
    for seed in 0..KILLS {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = endless(folder.path());
        std::thread::sleep(Duration::from_millis(random(seed, 2000)));
        // What is in the file now was flushed.
        let flushed = std::fs::read(folder.path().join("run.mcap")).unwrap_or_default();
        kill(child.id());
        let _ = child.wait();
        let mut said = String::new();
        child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        assert!(!said.contains("panicked"), "seed {seed}: {said}");
        gone(child.id());
        hosts.push(child.id());
        std::fs::write(folder.path().join("flushed.mcap"), &flushed).expect("is written");
        let before = records(folder.path(), "flushed.mcap");
        if let Some((_, had, _)) = before {
            let (verdict, has, lost) =
                records(folder.path(), "run.mcap").unwrap_or_else(|| panic!("seed {seed}: unreadable"));
            assert_eq!((verdict.as_str(), lost), ("incomplete", 0), "seed {seed}");
            assert!(has >= had, "seed {seed}: {had} records were flushed, {has} are read");
            with_records += u64::from(had > 0);
        }
    }
    assert!(
        with_records >= KILLS / 4,
        "{with_records} kills of {KILLS} met a capture with records: the test is no test"
    );
    // The next run clears what the kills left.
    let (code, _, stderr) = run(
        tempfile::tempdir().expect("a folder").path(),
        &["qemu", "--plan", "self", "--cores", "1", "--out", "x.mcap"],
    );
    assert_eq!(code, 0, "{stderr}");
    let left: Vec<PathBuf> = hosts.into_iter().flat_map(scratch_of).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn a_qemu_killed_at_any_moment_ends_in_a_report_of_what_was_drained() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut with_records = 0;
    for seed in 0..KILLS {
        let folder = tempfile::tempdir().expect("a folder");
        let start = Instant::now();
        let child = endless(folder.path());
        let host = child.id();
        let qemu = loop {
            let found = processes_with(&format!("ipiscope-{host}-")).into_iter().find(|id| *id != host);
            match found {
                Some(id) => break id,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
            assert!(start.elapsed() < Duration::from_secs(60), "seed {seed}: QEMU does not start");
        };
        std::thread::sleep(Duration::from_millis(random(1000 + seed, 2000)));
        kill(qemu);
        let run: Run = finish(folder, wait(child), start);
        assert_eq!(run.code, 2, "seed {seed}: {run}");
        assert!(run.stderr.contains("QEMU") && !run.stderr.contains("panicked"), "seed {seed}: {run}");
        assert!(run.report["error"]["next_step"].is_string(), "seed {seed}: {run}");
        if run.report.get("ipis").is_some_and(Value::is_object) {
            // Where nothing was written yet, no lane is accounted for.
            if run.number("/trace/records") > 0 {
                run.expect_sums();
            }
            assert_eq!((run.text("/verdict"), run.number("/ipis/lost")), ("incomplete", 0), "seed {seed}: {run}");
            with_records += u64::from(run.number("/trace/records") > 0);
        }
        gone(host);
        assert_eq!(scratch_of(host), Vec::<PathBuf>::new(), "seed {seed}");
    }
    assert!(with_records >= KILLS / 4, "{with_records} kills of {KILLS} met a run with records: the test is no test");
}

#[test]
fn a_hundred_runs_in_a_row_leave_nothing() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    for count in 0..RUNS {
        let child = command(folder.path(), &["qemu", "--plan", "self", "--cores", "1", "--out", "run.mcap"]).spawn();
        let child = child.expect("the tool starts");
        let host = child.id();
        let output = wait(child);
        assert_eq!(output.status.code(), Some(0), "run {count}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(processes_with(&format!("ipiscope-{host}-")), Vec::<u32>::new(), "run {count}");
        assert_eq!(scratch_of(host), Vec::<PathBuf>::new(), "run {count}");
    }
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).expect("is there").flatten().map(|file| file.file_name()).collect();
    assert_eq!(files, ["run.mcap"]);
}

/// Runs the tool on a disk of its own, so many MiB large, of which something else takes what is left after two seconds.
fn on_a_disk(folder: &Path, size: u32, fills: bool) -> Option<(i32, String, String)> {
    let disk = format!("mount -t tmpfs -o size={size}m tmpfs disk");
    std::fs::create_dir_all(folder.join("disk")).expect("is made");
    let in_a_namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "bash", "-c", script]).current_dir(folder);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    };
    let able = in_a_namespace(&disk).output().is_ok_and(|output| output.status.success());
    assert!(able || std::env::var_os("CI").is_none(), "no mount namespace can be had here");
    if !able {
        eprintln!("skipped: no mount namespace can be had here");
        return None;
    }
    let filler = if fills { "(sleep 2; head -c 1G /dev/zero > disk/filler) 2>/dev/null &" } else { "" };
    let script = format!(
        "{disk}; {filler} '{}' qemu --plan storm --duration 6s --out disk/run.mcap; code=$?; wait; cp disk/run.mcap kept.mcap; exit $code",
        tool().display()
    );
    let output = wait(in_a_namespace(&script).spawn().expect("unshare starts"));
    // A note may be wrapped anywhere.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    Some((output.status.code()?, text(&output.stdout), text(&output.stderr)))
}

#[test]
fn a_disk_without_room_keeps_what_it_can_and_the_counters_stay_whole() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    // No room for records from the begin on: they are counted, and the verdict stands on the target's counters.
    let folder = tempfile::tempdir().expect("a folder");
    let Some((code, stdout, stderr)) = on_a_disk(folder.path(), 3, false) else { return };
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("records were not kept; the counters are whole"), "{stdout}");
    let (verdict, _, lost) = records(folder.path(), "kept.mcap").expect("is readable");
    assert_eq!((verdict.as_str(), lost), ("clean", 0));
    // Something else fills the disk while the run goes on: what was flushed stays, whether the tool saw it coming or not.
    let folder = tempfile::tempdir().expect("a folder");
    let Some((code, stdout, stderr)) = on_a_disk(folder.path(), 160, true) else { return };
    let (verdict, kept, lost) = records(folder.path(), "kept.mcap").expect("is readable");
    assert!(kept > 1000 && lost == 0, "{kept} records were kept");
    match code {
        0 => assert!(verdict == "clean" && stdout.contains("records were not kept"), "{stdout}"),
        _ => assert!(code == 2 && verdict == "incomplete" && stderr.contains("next step"), "{code} {verdict} {stderr}"),
    }
}

#[test]
fn a_folder_that_can_t_be_written_is_named() {
    if !can_run() {
        return;
    }
    // Nobody writes there, root included.
    let (code, _, stderr) = run(Path::new("/proc"), &["qemu", "--plan", "self", "--cores", "1"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("runs") && stderr.contains("next step"), "{stderr}");
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = run(folder.path(), &["qemu", "--plan", "self", "--cores", "1", "--out", "/proc/run.mcap"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("/proc/run.mcap") && stderr.contains("next step"), "{stderr}");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let capture = system_tests::root().join("tests/captures/format-1.mcap");
    for (end, what) in [(">&-", "closed"), ("| true", "a pipe that nobody reads"), (">/dev/full", "full")] {
        for verb in ["report", "export --to csv", "inspect"] {
            let script = format!("set -o pipefail; '{}' {verb} '{}' {end}", tool().display(), capture.display());
            let output = Command::new("bash").args(["-c", &script]).output().expect("bash starts");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!stderr.contains("panicked"), "{verb}, {what}: {stderr}");
            let code = output.status.code();
            if end == ">/dev/full" {
                assert!(code == Some(2) && stderr.contains("No space"), "{verb}, {what}: {code:?} {stderr}");
            } else {
                assert_eq!(code, Some(0), "{verb}, {what}: {stderr}");
            }
        }
    }
}

#[test]
fn a_clock_that_jumps_changes_no_run() {
    if !can_run() {
        return;
    }
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .map(|folder| PathBuf::from(folder).join("faketime/libfaketime.so.1"));
    let Some(library) = library.iter().find(|library| library.exists()) else {
        assert!(std::env::var_os("CI").is_none(), "faketime is missing: ./setup.sh installs it");
        eprintln!("skipped: no faketime here (./setup.sh installs it)");
        return;
    };
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let stamp = folder.path().join("time");
    std::fs::write(&stamp, "+0").expect("is written");
    let child = command(folder.path(), &["qemu", "--json", "report.json", "--out", "run.mcap", "--duration", "4s"])
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &stamp)
        .env("FAKETIME_NO_CACHE", "1")
        // The clock that people set jumps; the one that counts from the boot does not.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .spawn()
        .expect("the tool starts");
    let start = Instant::now();
    for time in ["-1d", "+3d", "-20y"] {
        std::thread::sleep(Duration::from_millis(1200));
        std::fs::write(&stamp, time).expect("is written");
    }
    let run = finish(folder, wait(child), start);
    run.expect(0, "clean");
    assert_eq!(run.text("/ended"), "complete", "{run}");
}

/// The machine's own device tree, as QEMU hands it over.
fn tree(folder: &Path) -> Vec<u8> {
    let file = folder.join("virt.dtb");
    let machine = format!("virt,gic-version=3,dumpdtb={}", file.display());
    let output = Command::new("qemu-system-aarch64")
        .args(["-M", &machine, "-cpu", "max", "-smp", "4", "-m", "256M", "-display", "none", "-nic", "none"])
        .output()
        .expect("QEMU starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(file).expect("is there")
}

#[test]
fn a_device_tree_with_missing_or_absurd_nodes_is_named_by_the_firmware() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let good = tree(folder.path());
    // Node names and strings of the same length in place of others: the tree stays whole, and says something else.
    for (what, from, into) in [
        ("no interrupt controller", &b"arm,gic-v3\0"[..], &b"arm,gic-vX\0"[..]),
        ("no cores", b"cpu@0\0", b"xpu@0\0"),
        ("no magic", &good[..4], b"\0\0\0\0"),
    ] {
        let mut bad = good.clone();
        let places: Vec<usize> = (0..bad.len() - from.len()).filter(|at| bad[*at..].starts_with(from)).collect();
        assert!(!places.is_empty(), "{what}: the tree has no {from:?}");
        places.into_iter().take(1).for_each(|at| bad[at..at + into.len()].copy_from_slice(into));
        let file = folder.path().join("bad.dtb");
        std::fs::write(&file, &bad).expect("is written");
        let run = qemu(&["--", "-dtb", file.to_str().expect("a path")]);
        println!("{what}: exit {} {}", run.code, run.stderr);
        assert_eq!((run.code, run.text("/verdict")), (2, "incomplete"), "{what}: {run}");
        assert!(run.report["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {run}");
    }
}
