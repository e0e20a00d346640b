//! Instruction counts and bit-identical runs: what `--deterministic` promises, and the numbers that the project stands for.

use std::collections::BTreeMap;

use host::capture::{Batch, Capture};
use system_tests::{Run, can_run, qemu, run};
use trace_ring::layout::PairSlot;
use trace_ring::reader::Region;

/// All that must be the same in two deterministic runs.
struct Content {
    /// By core and context: number of the first record, and all records' bytes.
    lanes: BTreeMap<(u16, u8), (u64, Vec<u8>)>,
    slots: Vec<PairSlot>,
    histograms: Vec<u32>,
}

fn content(run: &Run) -> Content {
    let capture = Capture::open(&run.capture).expect("a capture");
    let mut lanes: BTreeMap<(u16, u8), (u64, Vec<u8>)> = BTreeMap::new();
    capture
        .lanes(|batch| {
            // Batches are cut by the host's polling: only their content counts.
            if let Batch::Records { core, context, first, bytes } = batch {
                let lane = lanes.entry((core, context)).or_insert((first, Vec::new()));
                lane.1.extend_from_slice(bytes);
            }
        })
        .expect("lanes");
    let mut snapshot = capture.snapshot().expect("a snapshot");
    let region = Region::open(&mut snapshot).expect("a region");
    let slots = region.slots(&mut snapshot).expect("slots");
    let histograms = region.histograms(&mut snapshot).expect("histograms");
    Content { lanes, slots, histograms }
}

#[test]
fn two_deterministic_runs_are_bit_identical() {
    if !can_run() {
        return;
    }
    for plan in ["ping", "standard"] {
        let (first, second) = (qemu(&["--deterministic", "--plan", plan]), qemu(&["--deterministic", "--plan", plan]));
        first.expect(0, "clean");
        second.expect(0, "clean");
        let (one, other) = (content(&first), content(&second));
        let bytes: usize = one.lanes.values().map(|lane| lane.1.len()).sum();
        assert!(bytes > 100_000 && one.histograms.iter().any(|count| *count > 0), "there is something to compare");
        assert!(one.lanes == other.lanes, "lane records differ between two runs of {plan}");
        assert!(one.slots == other.slots, "pair counters differ between two runs of {plan}");
        assert!(one.histograms == other.histograms, "histograms differ between two runs of {plan}");
    }
}

#[test]
fn a_traced_ipi_costs_at_most_177_instructions() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--deterministic", "--plan", "ping"]);
    run.expect(0, "clean");
    assert_eq!(run.text("/verdict_scope"), "instructions");
    assert_eq!(run.number("/ipis/sent"), 65_536);
    assert_eq!(run.text("/trace/level"), "ipi");
    assert_eq!(run.number("/trace/lost_records"), 0);
    let cost = run.report["instructions_per_ipi"].as_f64().expect("a count");
    // Below 60 nobody could send, enter, acknowledge, end and return: a count like that would be a fault of the counting.
    assert!((60.0..=177.0).contains(&cost), "{cost} instructions for each traced IPI\n{run}");
}

#[test]
fn a_record_costs_at_most_17_instructions_beside_its_stamp() {
    if !can_run() {
        return;
    }
    let cost = |level| {
        let run = qemu(&["--deterministic", "--plan", "ping", "--level", level]);
        run.expect(0, "clean");
        run.report["instructions_per_ipi"].as_f64().expect("a count")
    };
    // Two records for each IPI: one of the sender, one of the receiver. The stamps are taken in both runs, because mailbox and
    // histogram need them.
    let record = (cost("ipi") - cost("off")) / 2.0;
    assert!(record <= 17.0, "{record} instructions for each record");
    assert!(record > 5.0, "{record} instructions for each record: the untraced run is not untraced");
}

#[test]
fn a_deterministic_run_does_not_hang_on_the_host() {
    if !can_run() {
        return;
    }
    // A ring far too small laps: identical all the same, because the target reads nothing that the host writes.
    let arguments = ["--deterministic", "--plan", "ping", "--ring-records", "16"];
    let (first, second) = (qemu(&arguments), qemu(&arguments));
    assert_eq!(first.report["pairs"], second.report["pairs"]);
    let (code, ..) = run(first.folder.path(), &["report", "run.mcap"]);
    assert_eq!(code, first.code);
}

#[test]
fn stages_are_timed_where_they_are_recorded() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--deterministic", "--plan", "ping", "--level", "stages"]);
    run.expect(0, "clean");
    let stages = run.report["stages"].as_array().expect("stages");
    let of = |name: &str| {
        let stage = stages.iter().find(|stage| stage["stage"] == name && stage["core"] == 1);
        stage.unwrap_or_else(|| panic!("no stage {name} of core 1\n{run}"))
    };
    for name in ["entry_to_acknowledge", "acknowledge_to_end"] {
        assert_eq!(of(name)["n"], 65_536, "{run}");
        assert!(of(name)["p50_ns"].as_f64() > Some(5.0), "{run}");
    }
    // Without it nothing is said of stages.
    let plain = qemu(&["--deterministic", "--plan", "self"]);
    assert_eq!(plain.report["stages"].as_array().map(Vec::len), Some(0));
}
