//! Boards behind a debug probe: loaded, drained live, attached to, unplugged; over the virtual probe, by the tool as shipped.
//!
//! The virtual probe is a register-exact model of a debug port over QEMU's memory and cores, and it counts: no core may be
//! halted while a plan runs, and nearly all that goes over the wire must be trace records.

use std::path::Path;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use host::capture::Capture;
use serde_json::Value;
use system_tests::{Run, alone, can_run, command, finish, qemu, run, wait};
use trace_ring::layout::run_state;
use trace_ring::reader::Region;
use virtual_probe::machine::QemuOptions;
use virtual_probe::serve::{Listen, Options, Server};
use virtual_probe::stats::{Purposes, Stats};

/// A board behind a virtual probe, alone on this machine for as long as it lives.
struct Bench {
    server: Server,
    _folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new(knobs: &[&str]) -> Bench {
        Bench::with(knobs, QemuOptions::default())
    }

    fn with(knobs: &[&str], machine: QemuOptions) -> Bench {
        let alone = alone();
        let folder = tempfile::tempdir().expect("a folder");
        let knobs = knobs.iter().map(|knob| knob.parse().expect("is a knob")).collect();
        let listen = Listen::Unix(folder.path().join("probe"));
        let server = Server::start(Options { listen, knobs, stats: None }, machine).expect("the board is there");
        Bench { server, _folder: folder, _alone: alone }
    }

    /// Runs `ipiscope probe` against it to its end.
    fn probe(&self, arguments: &[&str]) -> Run {
        self.probe_board("qemu-virt", arguments)
    }

    fn probe_board(&self, board: &str, arguments: &[&str]) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let start = Instant::now();
        let child = self.spawn(folder.path(), board, arguments);
        finish(folder, wait(child), start)
    }

    fn spawn(&self, folder: &Path, board: &str, arguments: &[&str]) -> std::process::Child {
        let selector = self.server.selector();
        let mut all =
            vec!["probe", "--board", board, "--probe", &selector, "--json", "report.json", "--out", "run.mcap"];
        all.extend_from_slice(arguments);
        command(folder, &all).spawn().expect("the tool starts")
    }

    fn stats(&self) -> Stats {
        self.server.stats()
    }
}

/// All notes of a report in one text.
fn notes(run: &Run) -> String {
    run.report["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// Sender, receiver, kind and state of each pair that was measured.
fn pairs(run: &Run) -> Vec<String> {
    let mut pairs: Vec<String> = run.report["pairs"]
        .as_array()
        .expect("pairs are listed")
        .iter()
        .map(|pair| format!("{} {} {} {} {}", pair["from"], pair["to"], pair["kind"], pair["state"], pair["phase"]))
        .collect();
    pairs.sort();
    pairs
}

/// The bytes of trace records between two looks, and their share of a drain's transfers; polling of heads stands apart.
/// Signed: a transfer that prepares others is unattributed until they come, so that number also falls.
fn payload_share(before: &Purposes, after: &Purposes) -> (i64, f64) {
    let spent = |class: fn(&Purposes) -> u64| class(after) as i64 - class(before) as i64;
    let data = spent(|purposes| purposes.payload.data);
    let all = data
        + spent(|purposes| purposes.payload.overhead)
        + spent(|purposes| purposes.status.data + purposes.status.overhead)
        + spent(|purposes| purposes.prefix.data + purposes.prefix.overhead)
        + spent(|purposes| purposes.outside.data + purposes.outside.overhead)
        + spent(|purposes| purposes.unattributed);
    (data * 4, data as f64 / all as f64)
}

#[test]
fn standard_and_matrix_come_out_as_on_qemu_and_nobody_is_halted() {
    if !can_run() {
        return;
    }
    for plan in ["standard", "matrix"] {
        let bench = Bench::new(&[]);
        let probed = bench.probe(&["--plan", plan, "--cores", "4"]);
        let stats = bench.stats();
        drop(bench);
        probed.expect(0, "clean");
        // The boot core once, to load; from then on nobody.
        assert_eq!((stats.halts.cores.clone(), stats.halts.since_restart), (vec![1, 0, 0, 0], 0), "{probed}");
        assert_eq!(stats.faults, 0, "{probed}");
        assert_eq!(probed.number("/trace/lost_records"), 0, "{probed}");
        assert_eq!((probed.text("/target/source"), probed.text("/target/board")), ("probe", "qemu-virt"));
        assert!(notes(&probed).contains("no core was halted"), "{probed}");
        for words in ["link: ", "records a second", "the plan makes up to"] {
            assert!(probed.stderr.contains(words), "says before the run what the link can do\n{probed}");
        }

        let plain = qemu(&["--plan", plan, "--cores", "4"]);
        plain.expect(0, "clean");
        assert_eq!(probed.number("/ipis/sent"), plain.number("/ipis/sent"), "{probed}\n{plain}");
        for outcome in ["lost", "misrouted", "in_flight", "unknown", "spurious", "duplicate"] {
            let pointer = format!("/ipis/{outcome}");
            assert_eq!((probed.number(&pointer), plain.number(&pointer)), (0, 0), "{outcome}\n{probed}\n{plain}");
        }
        assert_eq!(pairs(&probed), pairs(&plain));
        // How many merge is the emulator's timing, except where one is outstanding at a time.
        if plan == "matrix" {
            assert_eq!(probed.number("/ipis/delivered"), plain.number("/ipis/delivered"));
        }
    }
}

#[test]
fn nine_tenths_of_a_live_drains_transfers_are_records() {
    if !can_run() {
        return;
    }
    let bench = Bench::new(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let child = bench.spawn(folder.path(), "qemu-virt", &["--plan", "ping", "--cores", "2", "--duration", "12s"]);
    // Well into the run, and before its end: all that goes over the wire then is the live drain.
    let deadline = Instant::now() + Duration::from_secs(60);
    while bench.stats().purposes.payload.data < 50_000 {
        assert!(Instant::now() < deadline, "no records came: {:?}", bench.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = bench.stats().purposes;
    std::thread::sleep(Duration::from_secs(4));
    let after = bench.stats().purposes;
    let run = finish(folder, wait(child), start);
    let (bytes, share) = payload_share(&before, &after);
    assert!(bytes >= 64 << 10, "{bytes} bytes came in four seconds\n{run}");
    assert!(share >= 0.9, "{share:.3} of the transfers carry records: {before:?} {after:?}");
    let heads = after.heads.data + after.heads.overhead - before.heads.data - before.heads.overhead;
    println!("{bytes} bytes of records live, {:.1} % of the transfers, {heads} transfers for heads", share * 100.0);
    // The rings are lapped by then; what was missed is counted, the totals are whole.
    run.expect(0, "clean");
    assert_eq!(bench.stats().halts.since_restart, 0);
}

#[test]
fn a_core_without_power_is_reported_and_left_alone() {
    if !can_run() {
        return;
    }
    // Its debug registers say that it has no power, or do not answer: PSCI is left to start it, which it does here.
    for (knob, words) in [("core-off:3", "core 3: it has no power"), ("core-fault:3", "core 3: its debug registers")] {
        let bench = Bench::new(&[knob, "no-system-ap"]);
        let run = bench.probe(&["--plan", "matrix", "--cores", "4"]);
        assert!(notes(&run).contains(words), "{knob}\n{run}");
        // Others are halted for a look (there is no memory access port), this one never.
        let halts = bench.stats().halts.cores;
        assert!(halts[0] > 0 && halts[3] == 0, "{halts:?}\n{run}");
        assert_eq!(run.number("/ipis/lost"), 0, "{run}");
        run.expect(0, "clean");
    }
    // One that is not there at all can't be started: it is named, and the others are measured.
    let bench = Bench::with(&[], QemuOptions { cores: 3, ..QemuOptions::default() });
    let run = bench.probe(&["--plan", "matrix", "--cores", "4"]);
    assert!(notes(&run).contains("core 3: its debug registers"), "{run}");
    assert_eq!((run.code, run.number("/target/cores_up")), (1, 3), "{run}");
    let suspects = run.suspects();
    assert_eq!(suspects.len(), 1, "{run}");
    assert_eq!((suspects[0].0.as_str(), suspects[0].2), ("core_missing", 3), "{run}");
    run.expect_sums();
    assert!(run.number("/ipis/delivered") > 0 && run.number("/ipis/lost") == 0, "{run}");
}

#[test]
fn without_a_memory_access_port_all_cores_are_halted_for_each_look() {
    if !can_run() {
        return;
    }
    let bench = Bench::new(&["no-system-ap"]);
    let run = bench.probe(&["--plan", "standard", "--cores", "4"]);
    run.expect(0, "clean");
    assert_eq!(run.number("/trace/lost_records"), 0, "{run}");
    let said = notes(&run);
    assert!(said.contains("no memory access port") && said.contains("group halts while the plan ran"), "{run}");
    let halts = bench.stats().halts;
    assert!(halts.stops > 1 && halts.cores.iter().all(|halts| *halts > 0), "{halts:?}");
    // All go on at the end.
    assert_eq!(halts.since_restart, 0, "{halts:?}");
    let attached = bench.probe(&["--attach"]);
    assert_eq!((attached.code, attached.report["error"]["kind"].as_str()), (2, Some("access_port")), "{attached}");
}

#[test]
fn a_run_read_through_halted_cores_is_ended_early_and_its_cores_go_on() {
    if !can_run() {
        return;
    }
    let bench = Bench::new(&["no-system-ap"]);
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    // Three of four cores: the fourth is none of the run's business.
    let child = bench.spawn(
        folder.path(),
        "qemu-virt",
        &["--plan", "ping", "--cores", "3", "--duration", "60s", "--ring-memory", "1M"],
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    let halts_of = |core: usize| bench.stats().halts.cores.get(core).copied().unwrap_or(0);
    while halts_of(1) < 2 {
        assert!(Instant::now() < deadline, "no look was taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill is there").success());
    let ended = finish(folder, wait(child), start);
    // The request is written through core 0, which must not notice: the plan ends by itself.
    ended.expect(0, "clean");
    assert_eq!(ended.text("/ended"), "interrupted", "{ended}");
    let capture = Capture::open(&ended.capture).expect("is a capture");
    let region = Region::open(&mut capture.snapshot().expect("has a snapshot")).expect("is a region");
    assert!(region.directory.status.state > run_state::RUNNING, "{ended}");
    let halts = bench.stats().halts;
    assert_eq!((halts_of(3), halts.since_restart), (0, 0), "{halts:?}\n{ended}");
}

#[test]
fn a_narrow_port_a_gate_that_does_not_mask_and_a_port_that_does_not_snoop_change_nothing() {
    if !can_run() {
        return;
    }
    for knob in ["no-ld", "no-input-gate", "stale"] {
        let bench = Bench::new(&[knob]);
        let run = bench.probe(&["--plan", "ping", "--cores", "4"]);
        run.expect(0, "clean");
        assert_eq!(run.number("/ipis/delivered"), 65_536, "{knob}\n{run}");
        assert_eq!(bench.stats().halts.cores, [1, 0, 0, 0], "{knob}");
        assert_eq!(notes(&run).contains("32 bits at a time"), knob == "no-ld", "{run}");
    }
}

#[test]
fn a_board_is_loaded_again_without_a_reset() {
    if !can_run() {
        return;
    }
    // The boot core stands in the last run's firmware, with its own map; the others were given back to PSCI.
    for knobs in [&[][..], &["no-system-ap"]] {
        let bench = Bench::new(knobs);
        for plan in ["ping", "matrix"] {
            let run = bench.probe(&["--plan", plan, "--cores", "3"]);
            run.expect(0, "clean");
            assert_eq!((run.number("/target/cores_up"), run.number("/ipis/lost")), (3, 0), "{run}");
        }
    }
}

#[test]
fn a_stale_view_is_named() {
    if !can_run() {
        return;
    }
    let bench = Bench::new(&["stale"]);
    let run = bench.probe(&["--plan", "ping", "--cores", "2", "--rings", "cacheable"]);
    assert_eq!((run.code, run.text("/error/kind"), run.text("/verdict")), (2, "stale_view", "incomplete"), "{run}");
    assert!(run.text("/error/next_step").contains("non-cacheable"), "{run}");
}

#[test]
fn memory_that_faults_is_named_before_and_during_a_run() {
    if !can_run() {
        return;
    }
    let bench = Bench::new(&["fault:0x42000000:0x1000"]);
    let run = bench.probe(&["--plan", "ping", "--cores", "2"]);
    assert_eq!((run.code, run.report["error"]["kind"].as_str()), (2, Some("access_port")), "{run}");
    assert!(run.stderr.contains("0x42000000: it answers FAULT"), "{run}");
    assert!(!run.capture.exists(), "nothing ran, nothing is left");
    drop(bench);

    // Where the rings lie is known from a run that went well.
    let bench = Bench::new(&[]);
    let good = bench.probe(&["--plan", "ping", "--cores", "2"]);
    good.expect(0, "clean");
    drop(bench);
    let capture = Capture::open(&good.capture).expect("is a capture");
    let region = Region::open(&mut capture.snapshot().expect("has a snapshot")).expect("is a region");
    let irq_of_core_1 = region.lanes[5].offset;
    let hole = region.directory.region_pa + irq_of_core_1 + 0x8000;
    let bench = Bench::new(&[&format!("fault:{hole:#x}:0x400")]);
    let run = bench.probe(&["--plan", "ping", "--cores", "2"]);
    assert_eq!((run.code, run.text("/error/kind"), run.text("/verdict")), (2, "access_port", "incomplete"), "{run}");
    assert!(run.text("/error/message").contains("FAULT"), "{run}");
    run.expect_sums();
    assert!(run.number("/trace/records") > 0, "what was fetched before is kept\n{run}");
}

#[test]
fn a_cut_wire_leaves_a_capture_and_the_run_is_picked_up_again() {
    if !can_run() {
        return;
    }
    let bench = Bench::new(&["cut:400000"]);
    let cut = bench.probe(&["--plan", "ping", "--cores", "4", "--duration", "8s", "--tag", "unit=A17"]);
    assert_eq!((cut.code, cut.text("/error/kind"), cut.text("/verdict")), (2, "probe", "incomplete"), "{cut}");
    assert!(cut.text("/error/next_step").contains("--attach"), "{cut}");
    cut.expect_sums();
    assert!(cut.number("/trace/records") > 1000, "{cut}");
    assert_eq!(bench.stats().cuts, 1);
    // The capture is whole as far as it goes.
    let (code, text, error) = run(cut.folder.path(), &["report", "run.mcap", "--json", "again.json"]);
    assert_eq!(code, 2, "{text}{error}");
    assert!(text.contains("the probe was lost"), "{text}");

    // Plugged in again: nothing is written, nobody is halted, the same run goes on.
    let before = bench.stats();
    let attached = bench.probe(&["--attach"]);
    let after = bench.stats();
    attached.expect(0, "clean");
    assert!(attached.stderr.contains("attached to plan `ping`"), "{attached}");
    let nonce = |run: &Run| Capture::open(&run.capture).expect("is a capture").info().nonce;
    assert_eq!(nonce(&attached), nonce(&cut), "it is the same run");
    assert!(attached.number("/ipis/delivered") > cut.number("/ipis/delivered"), "{attached}");
    assert_eq!(after.purposes.system_writes.data, before.purposes.system_writes.data, "attaching writes nothing");
    assert_eq!((after.halts.total, after.restarts), (before.halts.total, before.restarts), "nor halts anybody");
}

#[test]
fn a_wire_that_is_cut_early_or_falls_silent_ends_in_time() {
    if !can_run() {
        return;
    }
    // While it is checked, while it is loaded.
    for knob in ["cut:300", "cut:30000"] {
        let bench = Bench::new(&[knob]);
        let run = bench.probe(&["--plan", "ping", "--cores", "2"]);
        assert_eq!((run.code, run.report["error"]["kind"].as_str()), (2, Some("probe")), "{knob}\n{run}");
    }
    let bench = Bench::new(&["hang:200000"]);
    let run = bench.probe(&["--plan", "ping", "--cores", "2"]);
    assert_eq!((run.code, run.text("/error/kind")), (2, "probe"), "{run}");
    assert!(run.text("/error/message").contains("has not answered"), "{run}");
    run.expect_sums();
}

#[test]
fn another_board_is_refused_before_anything_is_written() {
    if !can_run() {
        return;
    }
    let bench = Bench::new(&[]);
    let run = bench.probe_board("rock-5b", &["--plan", "ping"]);
    assert_eq!((run.code, run.report["error"]["kind"].as_str()), (2, Some("board")), "{run}");
    assert!(run.stderr.contains("another chip"), "{run}");
    // The same debug addresses, but the plan asks for more than the board has.
    let run = bench.probe_board("imx8mp-evk", &["--cores", "5"]);
    assert_eq!(run.code, 3, "{run}");
    let stats = bench.stats();
    assert_eq!((stats.purposes.system_writes.data, stats.halts.total), (0, 0), "{stats:?}");
}

#[test]
fn a_board_without_known_debug_addresses_says_where_else_to_go() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, words) in [
        (&["probe", "--board", "vck190"][..], &["can't reach", "ipiscope image --board vck190"][..]),
        (&["probe", "--board", "nope"], &["no board `nope`", "adding-a-board"]),
        (&["probe", "--board", "virt"], &["ipiscope qemu --machine virt"]),
        (&["probe"], &["--board"]),
        (&["probe", "--board", "qemu-virt", "--attach", "--plan", "ping"], &["--attach"]),
    ] {
        let (code, _, said) = run(folder.path(), arguments);
        assert_eq!(code, 3, "{arguments:?}: {said}");
        assert!(words.iter().all(|words| said.contains(words)), "{arguments:?}: {said}");
    }
    let (code, _, said) =
        run(folder.path(), &["probe", "--board", "qemu-virt", "--probe", "20b7:9db1:unix:/nonexistent", "--attach"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("no such socket"), "{said}");
    let (code, _, said) = run(folder.path(), &["probe", "--list"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn ctrl_c_ends_a_run_early_and_a_kill_leaves_a_readable_capture() {
    if !can_run() {
        return;
    }
    for signal in ["-INT", "-KILL"] {
        let bench = Bench::new(&[]);
        let folder = tempfile::tempdir().expect("a folder");
        let start = Instant::now();
        let child = bench.spawn(folder.path(), "qemu-virt", &["--plan", "ping", "--cores", "2", "--duration", "60s"]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while bench.stats().purposes.payload.data < 200_000 {
            assert!(Instant::now() < deadline, "no records came");
            std::thread::sleep(Duration::from_millis(20));
        }
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().expect("kill is there").success());
        let ended = finish(folder, wait(child), start);
        if signal == "-INT" {
            ended.expect(0, "clean");
            assert_eq!(ended.text("/ended"), "interrupted", "{ended}");
        } else {
            let (code, text, error) = run(ended.folder.path(), &["report", "run.mcap"]);
            assert_eq!(code, 2, "{text}{error}");
            assert!(text.contains("ping"), "{text}");
            // The board runs on, and can be attached to.
            let attached = bench.probe(&["--attach", "--deadline", "3s"]);
            assert_eq!((attached.code, attached.text("/ended")), (2, "deadline"), "{attached}");
            assert!(attached.number("/trace/records") > 0, "{attached}");
        }
    }
}
