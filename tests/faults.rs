//! Fault twins: each is found, named as what it is, and nothing else is.

use system_tests::{Run, can_run, qemu};

fn deterministic(fault: &str) -> Run {
    qemu(&["--deterministic", "--plan", "matrix", "--inject", fault])
}

fn suspect(detector: &str, role: &str, core: i64, from: i64, to: i64) -> Vec<(String, String, i64, i64, i64)> {
    vec![(detector.into(), role.into(), core, from, to)]
}

#[test]
fn dropped_sends_are_lost_and_the_pair_is_named() {
    if !can_run() {
        return;
    }
    let run = deterministic("drop:0:1:0.01");
    run.expect(1, "failed");
    let lost = run.number("/ipis/lost");
    assert!(lost > 0, "{run}");
    assert_eq!(lost, run.number("/injected/0/struck"), "lost is what the twin says it dropped\n{run}");
    assert_eq!(run.number("/ipis/unknown"), 0, "{run}");
    assert_eq!(run.suspects(), suspect("lost", "pair", -1, 0, 1), "{run}");
}

#[test]
fn a_late_core_is_named_as_a_receiver() {
    if !can_run() {
        return;
    }
    let run = deterministic("late:2:5000");
    run.expect(1, "suspect");
    assert_eq!(run.number("/ipis/lost"), 0, "{run}");
    let suspects = run.suspects();
    assert_eq!(suspects.len(), 1, "{run}");
    assert_eq!((suspects[0].0.as_str(), suspects[0].1.as_str(), suspects[0].2), ("late", "receiver", 2), "{run}");
    let effect = run.report["suspects"][0]["effect_ns"].as_f64().expect("an effect");
    assert!((4_900.0..5_300.0).contains(&effect), "5000 ticks of 1 ns, found {effect}\n{run}");
}

#[test]
fn a_masked_core_is_told_from_a_late_one() {
    if !can_run() {
        return;
    }
    let run = deterministic("mask:2:5000");
    run.expect(1, "suspect");
    assert_eq!(run.number("/ipis/lost"), 0, "{run}");
    let suspects = run.suspects();
    assert_eq!(suspects.len(), 1, "{run}");
    assert_eq!((suspects[0].0.as_str(), suspects[0].1.as_str(), suspects[0].2), ("masked", "receiver", 2), "{run}");
}

#[test]
fn a_dead_core_is_named_and_the_others_are_measured() {
    if !can_run() {
        return;
    }
    for live in [true, false] {
        let mut arguments = vec!["--plan", "matrix", "--inject", "dead:2"];
        if !live {
            arguments.push("--deterministic");
        }
        let run = qemu(&arguments);
        run.expect(1, "failed");
        assert_eq!(run.number("/target/cores_up"), 3, "{run}");
        let suspects = run.suspects();
        assert_eq!(suspects.len(), 1, "{run}");
        assert_eq!((suspects[0].0.as_str(), suspects[0].2), ("core_missing", 2), "{run}");
        let pairs = run.report["pairs"].as_array().expect("pairs");
        assert!(!pairs.is_empty(), "{run}");
        assert!(pairs.iter().all(|pair| pair["from"] != 2 && pair["to"] != 2), "only measured pairs are listed\n{run}");
    }
}

#[test]
fn clean_deterministic_runs_have_no_suspect() {
    if !can_run() {
        return;
    }
    for (plan, cores) in [("matrix", "4"), ("standard", "8"), ("standard", "17"), ("broadcast", "4"), ("self", "2")] {
        let run = qemu(&["--deterministic", "--plan", plan, "--cores", cores]);
        run.expect(0, "clean");
        assert!(run.suspects().is_empty(), "{run}");
        let advisories = run.report["advisories"].as_array().expect("advisories");
        // What the host was busy with is said, and is nobody's fault.
        assert!(advisories.iter().all(|advisory| advisory["role"] == "host"), "{run}");
    }
}

#[test]
fn a_storm_coalesces_and_loses_nothing() {
    if !can_run() {
        return;
    }
    for arguments in [vec!["--plan", "storm"], vec!["--plan", "storm", "--deterministic"]] {
        let run = qemu(&arguments);
        run.expect(0, "clean");
        assert!(run.number("/ipis/coalesced") > 0, "{run}");
        assert_eq!(run.number("/ipis/lost"), 0, "{run}");
        assert_eq!(run.number("/trace/lost_records"), 0, "default rings and a live drain lose no record\n{run}");
        assert_eq!(run.text("/ipis/from"), "target", "{run}");
    }
}

#[test]
fn a_ring_far_too_small_loses_many_and_says_how_many() {
    if !can_run() {
        return;
    }
    // No drain can keep up with 16 slots: the target laps them in microseconds.
    let run = qemu(&["--plan", "storm", "--ring-records", "16"]);
    run.expect(0, "clean");
    let (kept, lost) = (run.number("/trace/records"), run.number("/trace/lost_records"));
    assert!(lost > 1000, "{run}");
    let written: u64 =
        run.report["lanes"].as_array().expect("lanes").iter().filter_map(|lane| lane["written"].as_u64()).sum();
    assert_eq!(written, kept + lost, "{run}");
    // The totals are the target's own and whole.
    let whole = qemu(&["--plan", "storm"]);
    assert_eq!(run.number("/ipis/sent"), whole.number("/ipis/sent"), "{run}");
    let timed: u64 = run.report["pairs"].as_array().expect("pairs").iter().filter_map(|pair| pair["n"].as_u64()).sum();
    assert!(timed > 0 && timed <= run.number("/ipis/sent"), "{run}");
}

#[test]
fn an_exception_leaves_its_core_registers_and_symbol() {
    if !can_run() {
        return;
    }
    for (fault, core, symbol) in [
        ("crash:1", 1, "undefined_instruction"),
        ("crash:0", 0, "undefined_instruction"),
        ("overflow:3", 3, "overflow"),
    ] {
        let run = qemu(&["--inject", fault]);
        assert_eq!(run.code, 2, "{run}");
        assert_eq!(run.text("/verdict"), "incomplete", "{run}");
        assert_eq!(run.number("/faults/0/core"), core, "{run}");
        assert!(run.report["faults"][0]["esr"].is_string() || run.report["faults"][0]["esr"].is_number(), "{run}");
        assert!(run.stdout.contains(symbol), "the report names `{symbol}`\n{run}");
    }
}

#[test]
fn an_interrupt_that_nobody_handles_leaves_its_core_intid_and_symbol() {
    if !can_run() {
        return;
    }
    // On the boot core and on another, in both of the firmware's ways of taking interrupts.
    for (core, plan) in [(1, "standard"), (0, "standard"), (2, "calls")] {
        let run = qemu(&["--plan", plan, "--inject", &format!("stray:{core}")]);
        assert_eq!((run.code, run.text("/verdict")), (2, "incomplete"), "{run}");
        assert_eq!(run.number("/faults/0/core"), core, "{run}");
        assert_eq!(run.report["faults"].as_array().map(Vec::len), Some(1), "{run}");
        assert_eq!(run.text("/faults/0/kind"), "an interrupt that nobody handles", "{run}");
        // QEMU's virt has 288 INTIDs without those of LPIs: this is the last.
        assert_eq!(run.text("/faults/0/message"), "INTID 287 (SPI)", "{run}");
        let symbol = run.text("/faults/0/symbol");
        assert!(!symbol.is_empty() && run.stdout.contains(symbol), "{run}");
        assert!(run.stdout.contains("INTID 287 (SPI)"), "{run}");
    }
}

#[test]
fn a_plan_for_more_cores_than_the_machine_has_is_no_clean_run() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--", "-smp", "2"]);
    run.expect(1, "failed");
    let missing: Vec<i64> = run.suspects().iter().map(|suspect| suspect.2).collect();
    assert_eq!(missing, [2, 3], "{run}");
    assert!(run.number("/ipis/delivered") > 0, "the others are measured\n{run}");
}

#[test]
fn a_damaged_plan_is_refused_by_the_firmware_and_said_by_the_host() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("garbage");
    std::fs::write(&file, [0xA5; 4096]).expect("a file");
    let run = qemu(&["--", "-initrd", file.to_str().expect("a path")]);
    assert_eq!((run.code, run.text("/verdict")), (2, "incomplete"), "{run}");
    assert!(run.stderr.contains("not a plan") || run.stdout.contains("not a plan"), "{run}");
}
