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
    for plan in ["ping", "standard", "calls", "kinds"] {
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

/// The instruction words of a function of the firmware, by a part of its symbol.
fn words(part: &str) -> Vec<u32> {
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
    let (code, stdout, stderr) = run(&system_tests::root(), &["firmware", "build"]);
    assert_eq!(code, 0, "{stderr}");
    let path = stdout.lines().nth(1).expect("the ELF's path");
    let bytes = std::fs::read(path).expect("the ELF");
    let elf = object::File::parse(&*bytes).expect("an ELF");
    let symbol = elf.symbols().find(|symbol| symbol.name().is_ok_and(|name| name.contains(part)) && symbol.size() > 0);
    let symbol = symbol.unwrap_or_else(|| panic!("no function {part}"));
    let section = elf.section_by_name(".text").expect("code");
    let start = (symbol.address() - section.address()) as usize;
    let code = &section.data().expect("bytes")[start..start + symbol.size() as usize];
    code.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

// Encodings: DDI 0487, C6.2. `RT` hides the register of MRS and MSR.
const RT: u32 = !0x1F;
const ISB: u32 = 0xD503_3FDF;
const DSB_SY: u32 = 0xD503_3F9F;
const DSB_ISHST: u32 = 0xD503_3A9F;
const DMB_ST: u32 = 0xD503_3EBF;
const READ_IAR1: u32 = 0xD538_CC00;
const WRITE_EOIR1: u32 = 0xD518_CC20;
const WRITE_SGI1R: u32 = 0xD518_CBA0;

#[test]
fn the_measured_path_has_its_barriers_and_a_record_is_two_pairs_and_one_barrier() {
    if !can_run() {
        return;
    }
    let receive = words("irq_ipi");
    let acknowledge = receive.iter().position(|word| word & RT == READ_IAR1).expect("ICC_IAR1_EL1 is read");
    assert_eq!(receive[acknowledge + 1], DSB_SY, "the acknowledge is complete before the mailbox is read");
    let end = receive.iter().position(|word| word & RT == WRITE_EOIR1).expect("ICC_EOIR1_EL1 is written");
    assert_eq!(receive[end + 1], ISB, "the end of interrupt has taken effect before the return");

    let send = words("ping_traced");
    let sgi = send.iter().position(|word| word & RT == WRITE_SGI1R).expect("ICC_SGI1R_EL1 is written");
    assert_eq!((send[sgi - 1], send[sgi + 1]), (DSB_ISHST, ISB), "the send stands between its barriers");

    for (name, function) in [("irq_ipi", &receive), ("ping_traced", &send)] {
        let barriers: Vec<usize> = (0..function.len()).filter(|at| function[*at] == DMB_ST).collect();
        assert_eq!(barriers.len(), 1, "{name} publishes one record");
        let barrier = barriers[0];
        // STP Xt1, Xt2, [Xn] and STP Xt3, Xt4, [Xn, #16], before the barrier.
        let pair = |word: u32| word & 0xFFC0_0000 == 0xA900_0000;
        let offset = |word: u32| (word >> 15 & 0x7F) * 8;
        let base = |word: u32| word >> 5 & 0x1F;
        let stores: Vec<u32> = function[..barrier].iter().rev().take(6).copied().filter(|word| pair(*word)).collect();
        assert_eq!(stores.len(), 2, "{name}: a record is two stores of a pair");
        assert_eq!((offset(stores[0]), offset(stores[1]), base(stores[0])), (16, 0, base(stores[1])), "{name}");
        // STR Xt, [Xn, #offset] twice after it: the writer's own head, and the published one.
        let heads = function[barrier + 1..].iter().take(4).filter(|word| **word & 0xFFC0_0000 == 0xF900_0000).count();
        assert_eq!(heads, 2, "{name}: the head is stored after the barrier");
    }
}
