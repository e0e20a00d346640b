//! Looks inside targets that run: on QEMU beside their own host, and behind a probe. Nobody may notice.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::{alone, can_run, command, finish, root, run, wait};
use virtual_probe::machine::QemuOptions;
use virtual_probe::serve::{Listen, Options, Server};

/// Whether runs can be made here; the firmware is built then, so that no deadline has to hold a build.
fn is_ready() -> bool {
    can_run() && {
        let (code, _, stderr) = run(&root(), &["firmware", "build"]);
        assert_eq!(code, 0, "{stderr}");
        true
    }
}

/// Inspects until `done` likes what it sees; the last inspection.
fn inspect_until(folder: &Path, arguments: &[&str], done: impl Fn(&Value) -> bool) -> Value {
    let all = [&["inspect", "--json", "-"], arguments].concat();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (code, stdout, stderr) = run(folder, &all);
        let seen: Value = if code == 0 { serde_json::from_str(&stdout).expect("is JSON") } else { Value::Null };
        if done(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "exit code {code}: {stderr}\n{seen:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn cores(inspection: &Value) -> &[Value] {
    inspection["cores"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether the plan runs, and every core has said what it does.
fn is_running(inspection: &Value) -> bool {
    let run = inspection["run"].as_str().unwrap_or_default();
    let busy = |core: &Value| core["events"].as_array().is_some_and(|events| !events.is_empty());
    run.ends_with(" runs") && !cores(inspection).is_empty() && cores(inspection).iter().all(busy)
}

/// Whether every core stands in a function that has a name; `still`: called by others that have one. Of a core that went on
/// between the look at its registers and the look at its stack, the chain may be anything.
fn expect_places(inspection: &Value, still: bool) {
    for core in cores(inspection) {
        let named = |place: &Value| place["symbol"].as_str().is_some_and(|symbol| symbol.contains("+0x"));
        assert!(named(&core["pc"]), "core {}: {core:#}", core["id"]);
        assert_eq!(core["level"], 1, "{core:#}");
        let frames = core["frames"].as_array().expect("frames are listed");
        assert!(!still || frames.iter().any(named), "core {}: {core:#}", core["id"]);
    }
}

fn interrupt(child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill is there").success());
}

#[test]
fn a_run_on_qemu_is_looked_into_and_goes_on() {
    if !is_ready() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let arguments = ["qemu", "--plan", "calls", "--duration", "60s", "--json", "report.json", "--out", "run.mcap"];
    let child = command(folder.path(), &arguments).spawn().expect("the tool starts");
    let process = child.id().to_string();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let seen = inspect_until(elsewhere.path(), &["--live", &process], is_running);
    assert_eq!((&seen["plan"], &seen["machine"]), (&"calls".into(), &"virt".into()), "{seen:#}");
    assert_eq!(cores(&seen).len(), 4, "{seen:#}");
    expect_places(&seen, false);
    for core in cores(&seen) {
        assert_eq!(core["sgis"].as_array().map(Vec::len), Some(8), "its redistributor is read: {core:#}");
        assert_eq!(core["sgis"][1]["enabled"], true, "{core:#}");
    }
    // It goes on: later looks see later times.
    let now = seen["now"].as_u64().expect("a time");
    inspect_until(elsewhere.path(), &["--live", &process], |later| later["now"].as_u64() > Some(now));
    interrupt(&child);
    let ended = finish(folder, wait(child), start);
    ended.expect(0, "clean");
    assert_eq!(ended.text("/ended"), "interrupted", "{ended}");
    // Gone with its run.
    let (code, _, stderr) = run(elsewhere.path(), &["inspect", "--live", &process]);
    assert!(code == 2 || code == 3, "{stderr}");
}

#[test]
fn a_run_that_is_ended_at_once_leaves_where_its_cores_stood() {
    if !is_ready() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let arguments = [
        "qemu",
        "--plan",
        "calls",
        "--duration",
        "60s",
        "--deterministic",
        "--json",
        "report.json",
        "--out",
        "run.mcap",
    ];
    let child = command(folder.path(), &arguments).spawn().expect("the tool starts");
    let process = child.id().to_string();
    inspect_until(folder.path(), &["--live", &process], is_running);
    // A deterministic run reads no request: the host ends it, after it has looked.
    interrupt(&child);
    let ended = finish(folder, wait(child), start);
    assert_eq!(ended.text("/ended"), "interrupted", "{ended}");
    let (code, stdout, stderr) = run(ended.folder.path(), &["inspect", "run.mcap", "--json", "-"]);
    assert_eq!(code, 0, "{stderr}");
    expect_places(&serde_json::from_str(&stdout).expect("is JSON"), true);
}

#[test]
fn a_board_behind_a_probe_is_looked_into_and_halted_only_when_asked() {
    if !is_ready() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let listen = Listen::Unix(folder.path().join("probe"));
    let server = Server::start(Options { listen, knobs: Vec::new(), stats: None }, QemuOptions::default());
    let server = server.expect("the board is there");
    let selector = server.selector();
    let load = ["probe", "--board", "qemu-virt", "--probe", selector, "--plan", "calls", "--duration", "60s"];
    let mut child = command(folder.path(), &load).spawn().expect("the tool starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.stats().purposes.payload.data < 5_000 {
        assert!(Instant::now() < deadline, "no records came: {:?}", server.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The host dies, the board goes on.
    child.kill().expect("can be killed");
    wait(child);

    let before = server.stats().halts.cores;
    let board = ["--board", "qemu-virt", "--probe", selector];
    let seen = inspect_until(folder.path(), &board, is_running);
    assert_eq!((&seen["plan"], cores(&seen).len()), (&"calls".into(), 4), "{seen:#}");
    assert!(cores(&seen).iter().all(|core| core["pc"].is_null()), "{seen:#}");
    assert_eq!(server.stats().halts.cores, before, "nobody is halted without --halt");

    let halting = [&board[..], &["--halt"]].concat();
    let seen = inspect_until(folder.path(), &halting, is_running);
    expect_places(&seen, true);
    let halts = server.stats().halts;
    assert!(halts.cores.iter().zip(&before).all(|(now, before)| now > before), "{halts:?}");
    // And all go on.
    let now = seen["now"].as_u64().expect("a time");
    inspect_until(folder.path(), &board, |later| later["now"].as_u64() > Some(now));
}

#[test]
fn without_a_memory_access_port_a_look_has_to_be_allowed_to_halt() {
    if !is_ready() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let listen = Listen::Unix(folder.path().join("probe"));
    let knobs = vec!["no-system-ap".parse().expect("is a knob")];
    let server = Server::start(Options { listen, knobs, stats: None }, QemuOptions::default());
    let server = server.expect("the board is there");
    let selector = server.selector();
    // To its end: a host that is killed while it has a core execute things leaves that core's registers as they are then.
    let load = ["probe", "--board", "qemu-virt", "--probe", selector, "--plan", "chain"];
    let (code, _, stderr) = run(folder.path(), &load);
    assert_eq!(code, 0, "{stderr}");

    let board = ["inspect", "--board", "qemu-virt", "--probe", selector];
    let (code, _, stderr) = run(folder.path(), &board);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--halt"), "{stderr}");
    let board = ["--board", "qemu-virt", "--probe", selector, "--halt"];
    let seen = inspect_until(folder.path(), &board, |seen| seen["run"] == "the plan ended");
    assert!(cores(&seen).iter().all(|core| core["state"] == "done"), "{seen:#}");
    assert!(cores(&seen).iter().all(|core| core["queue"].as_array().is_some_and(Vec::is_empty)), "{seen:#}");
    let boot_core = &seen["cores"][0];
    assert!(boot_core["pc"]["symbol"].as_str().is_some_and(|symbol| symbol.contains("+0x")), "{boot_core:#}");
    let halts = server.stats().halts;
    assert_eq!(halts.since_restart, 0, "all go on: {halts:?}");
}
