//! The way from a capture to a verdict, on targets in miniature: one fault each, every outcome, hostile files. No QEMU.

#[path = "synthetic/calls.rs"]
mod calls;
#[path = "synthetic/outcomes.rs"]
mod outcomes;
mod simulator;
#[path = "synthetic/witness.rs"]
mod witness;

use host::capture::{Capture, Ended, VerdictScope};
use host::correlate::From;
use host::detect::{Role, Suspect};
use host::fault::Fault;
use host::plan::{Keep, PlanRequest};
use host::report::{Options, Report, Verdict};
use proptest::prelude::*;
use simulator::{HZ, Simulator};
use trace_ring::layout::{Context, LANES_PER_CORE, clock_flag, core_state, fault_kind, run_state};
use trace_ring::record::{PROBE_ENABLED, PROBE_PENDING};

/// A latency of a quiet machine: 10 to 12 ticks.
fn quiet(from: u16, to: u16, round: u64) -> u64 {
    10 + (u64::from(from) + 2 * u64::from(to) + round) % 3
}

fn sum_holds(report: &Report) {
    assert!(report.ipis.counts.is_whole(), "{:?}", report.ipis);
    for pair in &report.pairs {
        assert!(pair.counts.is_whole(), "{pair:?}");
    }
}

/// Detector, role, core, from, to.
type Named<'a> = (&'a str, Role, Option<u16>, Option<u16>, Option<u16>);

fn named(suspects: &[Suspect]) -> Vec<Named<'_>> {
    suspects.iter().map(|s| (s.detector, s.role, s.core, s.from, s.to)).collect()
}

#[test]
fn a_clean_run_has_no_suspect() {
    for mut target in [Simulator::matrix(2), Simulator::matrix(4), Simulator::standard(17)] {
        target.run(20, quiet);
        let report = target.report();
        sum_holds(&report);
        assert_eq!((report.verdict, report.exit_code()), (Verdict::Clean, 0), "{:?}", report.suspects);
        assert!(report.suspects.is_empty() && report.advisories.is_empty());
        assert_eq!(report.ipis.counts.delivered, report.ipis.counts.sent);
        assert_eq!(report.trace.lost_records, 0);
        assert_eq!(report.events_per_ipi, Some(2.0));
        assert!(report.pairs.iter().all(|pair| pair.exact && pair.latency.n == 20));
        assert_eq!(report.error, None);
    }
}

#[test]
fn latencies_are_exact_and_percentiles_only_where_the_sample_carries_them() {
    let mut target = Simulator::matrix(2);
    target.run(100, |_, _, round| 10 + round % 10);
    let report = target.report();
    let pair = &report.pairs[0].latency;
    let tick = 1e9 / HZ as f64;
    assert_eq!((pair.n, pair.p99_ns), (100, None));
    assert_eq!(
        (pair.min_ns, pair.p50_ns, pair.p90_ns, pair.max_ns),
        (Some(10.0 * tick), Some(14.0 * tick), Some(18.0 * tick), Some(19.0 * tick))
    );
    assert_eq!(pair.mean_ns, Some(14.5 * tick));
}

#[test]
fn a_dropped_send_is_lost_and_its_pair_is_the_only_suspect() {
    let mut target = Simulator::new(PlanRequest {
        plan: Some("matrix".into()),
        cores: 4,
        deterministic: true,
        faults: vec![Fault::Drop { from: 0, to: 1, rate: 0.01 }],
        ..PlanRequest::default()
    });
    target.run(50, quiet);
    let slots: Vec<usize> =
        (0..target.slots.len()).filter(|s| (target.slots[*s].from, target.slots[*s].to) == (0, 1)).collect();
    for slot in slots {
        target.lose(slot);
        target.ping(slot, 11);
        target.truth[0].dropped += 1;
    }
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Failed, 1));
    assert_eq!(named(&report.suspects), [("lost", Role::Pair, None, Some(0), Some(1))]);
    assert_eq!(report.ipis.counts.lost, 2);
    assert_eq!(report.injected[0].struck, Some(report.ipis.counts.lost));
}

#[test]
fn many_outcomes_at_once_are_told_apart() {
    let report = Simulator::eventful().report();
    sum_holds(&report);
    let counts = report.ipis.counts;
    assert_eq!((counts.lost, counts.coalesced, counts.unknown, counts.in_flight), (1, 3, 0, 0));
    assert_eq!(report.ipis.spurious + report.ipis.duplicate, 1);
}

#[test]
fn a_ticket_in_markdown_begins_with_the_verdict_and_its_tables_are_whole() {
    let report = Simulator::eventful().report();
    let text = report.markdown();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("## ipiscope: failed: pair 0 to 3 (lost)"), "{}", lines[0]);
    assert!(lines.contains(&"- **pair 0 to 3**: lost"), "{text}");
    let mut tables = 0;
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("|---")) {
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        tables += 1;
        assert_eq!(cells(lines[at - 1]), cells(line), "{}", lines[at - 1]);
        let rows = lines[at + 1..].iter().take_while(|line| line.starts_with('|'));
        assert!(rows.clone().count() > 0 && rows.clone().all(|row| cells(row) == cells(line)), "{text}");
        assert_eq!(lines[at + 1 + rows.count()], "", "a table ends with an empty line");
    }
    assert!(tables >= 2, "{text}");
    // What the capture says is text, not Markdown.
    let mut hostile = report;
    hostile.target.tags.insert("unit".into(), "a|b *c* <script>_d_".into());
    assert!(hostile.markdown().contains("a\\|b \\*c\\* &lt;script>\\_d\\_"), "{}", hostile.markdown());
}

#[test]
fn losses_from_all_senders_are_the_receivers() {
    let mut target = Simulator::matrix(4);
    target.run(50, quiet);
    for from in [0, 1, 3] {
        let slot = target.slot(from, 2);
        target.lose(slot);
    }
    let report = target.report();
    assert_eq!(named(&report.suspects), [("lost", Role::Receiver, Some(2), None, None)]);
}

/// Two senders, one acknowledge; then three messages of one sender, one acknowledge.
fn storm() -> Simulator {
    let mut target = Simulator::standard(4);
    target.run(20, quiet);
    target.merge();
    target.now += 10;
    target
}

#[test]
fn messages_that_share_an_acknowledge_are_coalesced_and_not_lost() {
    let report = storm().report();
    sum_holds(&report);
    assert_eq!((report.verdict, report.ipis.counts.coalesced, report.ipis.counts.lost), (Verdict::Clean, 3, 0));
    assert_eq!(report.ipis.from, From::Target);
}

#[test]
fn answers_to_more_messages_than_a_record_can_say_are_settled_in_turn() {
    let mut target = Simulator::standard(3);
    target.run(20, quiet);
    let slot = target.slot(1, 0);
    let first = target.lanes[LANES_PER_CORE].len();
    for _ in 0..2 {
        for _ in 0..300 {
            target.send(slot, 2);
            target.now += 3;
        }
        target.acknowledge(0, 0, target.now);
        target.now += 10;
    }
    // The message that the first of the answers names is not in the records.
    target.lapped.insert(LANES_PER_CORE, (first + 299, first + 300));
    for order in [simulator::Order::Pieces, simulator::Order::Lanes, simulator::Order::Backwards] {
        target.order = order;
        let report = target.report();
        sum_holds(&report);
        assert_eq!((report.ipis.duplicate, report.verdict), (0, Verdict::Clean), "{order:?}: {:?}", report.suspects);
    }
}

#[test]
fn records_alone_give_the_same_outcomes_as_the_counters() {
    let mut target = storm();
    let slot = target.slot(3, 1);
    target.lose(slot);
    let first = target.slots.iter().position(|slot| slot.phase == 2).unwrap();
    target.broadcast(first, |to| 10 + u64::from(to));
    let by_counters = target.report();
    target.with_snapshot = false;
    let by_records = target.report();
    sum_holds(&by_records);
    assert_eq!((by_counters.ipis.from, by_records.ipis.from), (From::Target, From::Records));
    assert_eq!(by_counters.ipis.counts, by_records.ipis.counts);
    let counts =
        |report: &Report| report.pairs.iter().map(|p| (p.phase.clone(), p.from, p.to, p.counts)).collect::<Vec<_>>();
    assert_eq!(counts(&by_counters), counts(&by_records));
    let latencies = |report: &Report| report.pairs.iter().map(|p| p.latency.n).collect::<Vec<_>>();
    assert_eq!(latencies(&by_counters), latencies(&by_records));
}

#[test]
fn an_empty_acknowledge_is_legal_once_after_an_early_answer() {
    let mut target = Simulator::standard(3);
    target.run(20, quiet);
    let (a, b) = (target.slot(1, 0), target.slot(2, 0));
    // The handler for a's message is entered, then b sends: its bit is seen, its own interrupt comes after.
    target.send(a, 2);
    let entry = target.now + 10;
    target.now = entry + 2;
    target.send(b, 5);
    target.acknowledge(0, 0, entry);
    target.acknowledge(0, 0, entry + 30);
    target.now += 200;
    let report = target.report();
    sum_holds(&report);
    assert_eq!(
        (report.ipis.spurious, report.ipis.duplicate, report.verdict),
        (0, 0, Verdict::Clean),
        "{:?}",
        report.suspects
    );
    // A second one is not.
    target.acknowledge(0, 0, entry + 60);
    let report = target.report();
    assert_eq!((report.ipis.spurious + report.ipis.duplicate, report.verdict), (1, Verdict::Suspect));
}

#[test]
fn an_interrupt_that_nobody_sent_is_spurious_and_one_that_came_twice_a_duplicate() {
    let mut target = Simulator::matrix(3);
    target.run(30, quiet);
    target.now += 10_000_000;
    target.acknowledge(1, 0, target.now);
    let report = target.report();
    assert_eq!((report.ipis.spurious, report.ipis.duplicate), (1, 0));
    assert_eq!(named(&report.suspects), [("spurious", Role::Receiver, Some(1), None, None)]);

    let mut target = Simulator::matrix(3);
    target.run(30, quiet);
    let slot = target.slot(0, 2);
    target.ping(slot, 10);
    target.acknowledge(2, 0, target.now);
    let report = target.report();
    assert_eq!((report.ipis.spurious, report.ipis.duplicate), (0, 1));
    assert_eq!(named(&report.suspects), [("duplicate", Role::Receiver, Some(2), None, None)]);
}

#[test]
fn an_interrupt_that_another_core_took_is_misrouted() {
    let mut target = Simulator::matrix(4);
    target.run(30, quiet);
    target.now += 10_000_000;
    let slot = target.slot(0, 1);
    target.send(slot, 2);
    target.acknowledge(3, 0, target.now + 12);
    target.retire(slot, PROBE_ENABLED);
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.ipis.counts.misrouted, report.ipis.counts.lost, report.ipis.spurious), (1, 0, 0));
    assert_eq!(named(&report.suspects), [("misrouted", Role::Pair, None, Some(0), Some(1))]);
    assert!(report.suspects[0].evidence.contains("core 3"), "{}", report.suspects[0].evidence);
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn a_run_that_was_interrupted_keeps_what_is_under_way_and_is_judged() {
    let mut target = Simulator::standard(4);
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    target.send(slot, 2);
    target.state = run_state::ABORTED;
    target.reason = 1;
    target.ended = Some(Ended::Interrupted);
    for with_snapshot in [true, false] {
        target.with_snapshot = with_snapshot;
        let report = target.report();
        sum_holds(&report);
        assert_eq!(report.ipis.counts.in_flight, 1);
        assert_eq!((report.verdict, report.ended), (Verdict::Clean, Ended::Interrupted));
    }
}

#[test]
fn a_busy_host_is_inconclusive_and_a_deaf_core_on_silicon_is_suspect() {
    let mut target = Simulator::standard(4);
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    target.send(slot, 2);
    target.slots[slot].probes_pending += 1;
    target.retire(slot, PROBE_ENABLED | PROBE_PENDING);
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.ipis.counts.unknown, report.ipis.counts.lost), (1, 0));
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Inconclusive, 2));
    target.scope = VerdictScope::Silicon;
    let report = target.report();
    assert_eq!(named(&report.suspects), [("not_taken", Role::Receiver, Some(1), None, None)]);
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn a_masked_receiver_is_masked_and_not_late_besides() {
    let mut target = Simulator::matrix(4);
    target.run(30, |from, to, round| quiet(from, to, round) + if to == 2 { 5000 } else { 0 });
    for slot in target.slots.iter_mut().filter(|slot| slot.to == 2) {
        slot.probes_masked = 30;
    }
    let report = target.report();
    assert_eq!(named(&report.suspects), [("masked", Role::Receiver, Some(2), None, None)]);
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn a_late_receiver_is_suspect_in_instructions_and_advised_on_an_emulator() {
    let late = |from, to, round| quiet(from, to, round) + if to == 2 { 5000 } else { 0 };
    let mut target = Simulator::matrix(4);
    target.run(30, late);
    let report = target.report();
    assert_eq!(named(&report.suspects), [("late", Role::Receiver, Some(2), None, None)]);
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Suspect, 1));
    let effect = report.suspects[0].effect_ns.unwrap();
    assert!((effect / 80_000.0 - 1.0).abs() < 0.01, "{effect}");
    assert!(report.suspects[0].q_value.unwrap() < 1e-6);
    // Three senders, thirty times, in both phases.
    assert_eq!(report.ipis.late, 3 * 30 * 2);
    sum_holds(&report);

    let mut target = Simulator::standard(4);
    target.run(30, late);
    let report = target.report();
    assert_eq!((report.verdict, report.exit_code(), report.suspects.len()), (Verdict::Clean, 0, 0));
    assert_eq!(named(&report.advisories), [("late", Role::Receiver, Some(2), None, None)]);
}

#[test]
fn a_late_tail_is_found_where_the_middle_is_not() {
    let mut target = Simulator::matrix(4);
    target.run(1000, |from, to, round| quiet(from, to, round) + if from == 3 && round % 50 == 0 { 900 } else { 0 });
    let report = target.report();
    assert_eq!(named(&report.suspects), [("tail", Role::Sender, Some(3), None, None)]);
    assert!(report.suspects[0].evidence.contains("(2.0 %) in 3 of 3 pairs"), "{}", report.suspects[0].evidence);
    // Three receivers, one in fifty of a thousand, in both phases.
    assert_eq!(report.ipis.late, 3 * 20 * 2);
}

#[test]
fn a_core_that_never_came_is_named_and_the_others_are_measured() {
    for (state, error, words) in [
        (core_state::NO_SHOW, 0, "did not arrive"),
        (core_state::REFUSED, -2, "INVALID_PARAMETERS"),
        (core_state::NO_REDISTRIBUTOR, 0, "no redistributor"),
    ] {
        let mut target = Simulator::standard(4);
        target.cores[2].state = state;
        target.cores[2].error = error;
        target.run(20, quiet);
        let report = target.report();
        assert_eq!(named(&report.suspects), [("core_missing", Role::Core, Some(2), None, None)]);
        assert_eq!((report.verdict, report.exit_code(), report.target.cores_up), (Verdict::Failed, 1, 3));
        assert!(report.suspects[0].evidence.contains(words), "{}", report.suspects[0].evidence);
        assert!(report.target.cores[2].error.is_some());
        assert!(report.pairs.iter().all(|pair| pair.from != 2 && pair.to != 2) && !report.pairs.is_empty());
    }
}

#[test]
fn a_clock_fault_is_reported_and_no_latency_is_trusted_over_it() {
    let mut target = Simulator::matrix(4);
    target.run(30, |from, to, round| quiet(from, to, round) + if to == 1 { 400 } else { 0 });
    target.cores[1].skew_before_low = 380;
    target.cores[1].skew_before_high = 420;
    let report = target.report();
    assert_eq!(named(&report.suspects), [("clock", Role::Clock, Some(1), None, None)]);
    assert_eq!(
        (report.verdict, report.clock.trusted, report.clock.proven_skew_ticks),
        (Verdict::Suspect, false, Some(380))
    );

    let mut target = Simulator::matrix(2);
    target.run(30, quiet);
    target.cores[1].backwards = 3;
    target.cores[1].clock_flags &= !clock_flag::SKEW_AFTER;
    let report = target.report();
    assert_eq!(named(&report.suspects), [("clock", Role::Clock, Some(1), None, None)]);
    assert_eq!(report.clock.monotonic, Some(false));
}

#[test]
fn an_interval_of_skew_that_holds_zero_is_no_fault() {
    let mut target = Simulator::matrix(2);
    target.run(30, quiet);
    target.cores[1].skew_before_low = -100_000;
    target.cores[1].skew_before_high = 1;
    assert_eq!(target.report().verdict, Verdict::Clean);
}

#[test]
fn a_lapped_lane_is_counted_and_totals_stay_whole() {
    let mut target = Simulator::standard(4);
    target.run(200, quiet);
    let lane = LANES_PER_CORE + Context::Irq as usize;
    target.lapped.insert(lane, (10, 510));
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.verdict, report.trace.lost_records, report.ipis.from), (Verdict::Clean, 500, From::Target));
    assert_eq!(report.ipis.counts.delivered, report.ipis.counts.sent);
    assert_eq!(report.ipis.spurious + report.ipis.duplicate, 0);
    for pair in &report.pairs {
        assert_eq!(pair.exact, pair.to != 1);
        assert_eq!(pair.latency.n, 200, "histograms stand in for records");
    }
    let lossy: Vec<_> = report.lanes.iter().filter(|lane| lane.lost() > 0).collect();
    assert_eq!(lossy.len(), 1);
    assert_eq!((lossy[0].core, lossy[0].context, lossy[0].lapped), (1, "irq", 500));
    // Without counters, what was lapped is unknown, and the sum holds all the same.
    target.with_snapshot = false;
    let report = target.report();
    sum_holds(&report);
    assert_eq!(report.ipis.from, From::Records);
    assert!(report.ipis.counts.unknown > 0 && report.ipis.counts.lost == 0);
}

#[test]
fn only_the_worst_records_are_kept_when_asked() {
    let mut target = Simulator::new(PlanRequest { cores: 2, keep: Keep::Worst(5), ..PlanRequest::default() });
    target.run(100, |_, _, round| 10 + round);
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.verdict, report.trace.lost_records), (Verdict::Clean, 0));
    assert!(report.pairs.iter().all(|pair| !pair.exact && pair.latency.n == 100));
    let folder = tempfile::tempdir().unwrap();
    let capture = Capture::open(&target.saved(folder.path())).unwrap();
    let mut kept = 0;
    capture
        .lanes(|batch| {
            if let host::capture::Batch::Records { bytes, .. } = batch {
                kept += bytes.len() / 32;
            }
        })
        .unwrap();
    assert_eq!(kept, 5);
}

#[test]
fn a_killed_writer_leaves_a_capture_that_says_so() {
    let mut target = Simulator::standard(4);
    target.run(50, quiet);
    target.ended = None;
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Incomplete, 2));
    assert_eq!(report.error.as_ref().unwrap().kind, "capture_cut");
    assert!(report.trace.truncated);
    assert_eq!(report.ipis.counts.delivered, report.ipis.counts.sent);
    assert!(report.ipis.counts.sent > 0);
}

#[test]
fn a_target_that_died_is_incomplete_and_its_fault_is_shown() {
    let mut target = Simulator::standard(4);
    target.run(20, quiet);
    target.state = run_state::ABORTED;
    target.reason = 2;
    target.ended = Some(Ended::TargetDied);
    let fault = &mut target.faults[3];
    fault.kind = fault_kind::PANIC;
    fault.elr = 0xFFFF_FFFF_8000_1000;
    let message = b"index out of bounds";
    fault.message[..message.len()].copy_from_slice(message);
    fault.message_len = message.len() as u32;
    target.cores[3].state = core_state::FAULTED;
    let report = target.report();
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Incomplete, 2));
    assert_eq!((report.faults[0].core, report.faults[0].kind), (3, "a panic"));
    assert_eq!(report.faults[0].message, "index out of bounds");
    let text = report.text(&Options::default());
    assert!(text.contains("core 3: a panic") && text.contains("index out of bounds"), "{text}");
}

#[test]
fn a_capture_without_its_plan_takes_the_pairs_from_the_snapshot() {
    let mut target = Simulator::standard(4);
    target.run(20, quiet);
    target.with_plan = false;
    let report = target.report();
    assert_eq!(report.verdict, Verdict::Clean);
    assert!(report.pairs.iter().all(|pair| pair.exact));
    // With neither, there is nothing to judge.
    target.with_snapshot = false;
    let report = target.report();
    assert_eq!((report.verdict, report.ipis.counts.sent), (Verdict::Incomplete, 0));
}

#[test]
fn instructions_an_ipi_are_those_of_the_phase_with_one_pair() {
    let mut target = Simulator::new(PlanRequest {
        plan: Some("ping".into()),
        cores: 2,
        deterministic: true,
        ..PlanRequest::default()
    });
    target.run(1000, |_, _, _| 6);
    let report = target.report();
    // A ping takes 26 ticks of 16 ns here.
    assert_eq!(report.instructions_per_ipi, Some(26.0 * 16.0));
    assert_eq!(target_scope(VerdictScope::Emulated).instructions_per_ipi, None);
}

fn target_scope(scope: VerdictScope) -> Report {
    let mut target = Simulator::matrix(2);
    target.scope = scope;
    target.run(20, quiet);
    target.report()
}

#[test]
fn the_text_fits_its_terminal_and_ends_with_the_verdict() {
    for (cores, width) in [(2, 80), (8, 80), (17, 80), (64, 100)] {
        let mut target = Simulator::standard(cores);
        target.run(20, quiet);
        let report = target.report();
        for unicode in [true, false] {
            let text = report.text(&Options { color: false, width, unicode });
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= usize::from(width), "{cores} cores: {widest} columns\n{text}");
            assert!(text.lines().last().unwrap().starts_with("Verdict: clean"), "{text}");
            assert!(unicode || text.is_ascii(), "{text}");
            assert!(!text.contains('\u{1b}'));
        }
        assert!(report.text(&Options { color: true, width, unicode: true }).contains('\u{1b}'));
        if std::env::var_os("SHOW").is_some() {
            println!("{}", report.text(&Options { color: false, width, unicode: true }));
        }
    }
}

#[test]
fn the_json_is_the_contract() {
    let mut target = Simulator::new(PlanRequest {
        plan: Some("matrix".into()),
        cores: 2,
        deterministic: true,
        faults: vec![Fault::Drop { from: 0, to: 1, rate: 0.5 }],
        ..PlanRequest::default()
    });
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    target.lose(slot);
    target.truth[0].dropped = 1;
    let mut json = target.report().json();
    // The plan's text is that of another file.
    json["plan"]["source"] = "".into();
    compare_golden("report.json", &json);
}

/// Compares with a golden file, which `IPISCOPE_BLESS=1` writes anew.
fn compare_golden(name: &str, json: &serde_json::Value) {
    let text = serde_json::to_string_pretty(json).unwrap() + "\n";
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("IPISCOPE_BLESS").is_some() {
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::write(&golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(text == expected, "set IPISCOPE_BLESS=1 to write {} anew, and look at the difference", golden.display());
}

#[test]
fn what_is_no_capture_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, part) in [
        (folder.path().join("absent"), "check the path"),
        (folder.path().to_path_buf(), "not a file"),
        (write("empty", b""), "does not begin like one"),
        (write("text", b"# tracer: nop\n"), "does not begin like one"),
        (write("magic", mcap::MAGIC), "does not say what run"),
    ] {
        let error = Capture::open(&path).unwrap_err();
        assert!(error.to_string().contains(part), "{}: {error}", path.display());
        assert!(error.asked_wrongly());
    }
}

/// A small capture's bytes, and where to put damaged copies of it.
fn small() -> (tempfile::TempDir, Vec<u8>) {
    let mut target = Simulator::new(PlanRequest { cores: 2, ..PlanRequest::default() });
    target.run(10, quiet);
    let folder = tempfile::tempdir().unwrap();
    let path = target.saved(folder.path());
    (folder, std::fs::read(path).unwrap())
}

/// Whatever comes out, it is a report whose sum holds, or an error; never a panic.
fn survives(folder: &tempfile::TempDir, bytes: &[u8]) {
    let path = folder.path().join("damaged.mcap");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(report) = host::report::build(&path) {
        sum_holds(&report);
        report.text(&Options::default());
        report.json();
    }
}

#[test]
fn a_capture_cut_anywhere_never_panics() {
    let (folder, bytes) = small();
    let step = (bytes.len() / 400).max(1);
    for length in (0..bytes.len()).step_by(step).chain(bytes.len().saturating_sub(64)..bytes.len()) {
        survives(&folder, &bytes[..length]);
    }
}

#[test]
fn a_capture_with_flipped_bytes_never_panics() {
    let (folder, bytes) = small();
    let step = (bytes.len() / 400).max(1);
    for at in (0..bytes.len()).step_by(step).chain(0..200) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xFF;
        survives(&folder, &damaged);
    }
}

#[test]
fn one_bad_chunk_costs_that_chunk_and_the_report_says_so() {
    let mut target = Simulator::standard(4);
    target.run(50, quiet);
    let folder = tempfile::tempdir().unwrap();
    let path = target.saved(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    // Walk to the first chunk that holds lanes: the second one.
    let (mut at, mut chunks) = (8, 0);
    while chunks < 2 {
        let length = u64::from_le_bytes(bytes[at + 1..at + 9].try_into().unwrap()) as usize;
        if bytes[at] == 6 {
            chunks += 1;
        }
        if chunks == 2 {
            bytes[at + 9 + length / 2] ^= 0x55;
        }
        at += 9 + length;
    }
    std::fs::write(&path, bytes).unwrap();
    let report = host::report::build(&path).unwrap();
    sum_holds(&report);
    assert_eq!((report.trace.damaged_chunks, report.verdict), (1, Verdict::Clean));
    assert_eq!(report.ipis.counts.delivered, report.ipis.counts.sent, "counters are whole");
    assert!(report.notes.iter().any(|note| note.contains("1 chunks of the capture are damaged")), "{:?}", report.notes);
    assert!(report.trace.lost_records > 0);
}

/// What can happen next in a storm.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(usize),
    Acknowledge(u16),
    GiveUp(usize),
    Broadcast,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12_usize).prop_map(Step::Send),
        4 => (0..4_u16).prop_map(Step::Acknowledge),
        1 => (0..12_usize).prop_map(Step::GiveUp),
        1 => Just(Step::Broadcast),
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn outcomes_add_up_and_records_agree_with_counters(steps in steps(), interrupted in any::<bool>()) {
        let mut target = Simulator::standard(4);
        let broadcast = target.slots.iter().position(|slot| slot.phase == 2).unwrap();
        for step in steps {
            match step {
                Step::Send(slot) => { target.send(slot, 1); }
                Step::Acknowledge(core) => {
                    // An interrupt comes only where one was sent.
                    target.now += 1;
                    if target.waits(core) {
                        target.acknowledge(core, 0, target.now);
                    }
                }
                Step::GiveUp(slot) => if target.waits_for(slot) { target.retire(slot, PROBE_ENABLED); },
                Step::Broadcast => target.broadcast(broadcast, |to| 5 + u64::from(to)),
            }
            target.now += 2;
        }
        if interrupted {
            target.state = run_state::ABORTED;
            target.ended = Some(Ended::Interrupted);
        } else {
            for core in 0..4 {
                if target.waits(core) {
                    target.acknowledge(core, 0, target.now);
                }
            }
        }
        let by_counters = target.report();
        sum_holds(&by_counters);
        prop_assert_eq!(by_counters.ipis.spurious, 0);
        target.with_snapshot = false;
        let by_records = target.report();
        sum_holds(&by_records);
        prop_assert_eq!(by_counters.ipis.counts, by_records.ipis.counts);
    }
}
