//! Filters on captures: what they pick adds up, what they can't know they leave out, and what is wrong with one is said.

#[expect(dead_code, reason = "each test file uses its own part of the simulator")]
mod simulator;

use host::capture::Capture;
use host::choice::{Choice, ChoiceError, check};
use host::correlate::message::{Message, Outcome};
use host::correlate::{correlate, correlate_heard};
use host::error::{Explain, exit};
use host::plan::{Keep, PlanRequest};
use host::report::{self, Report, Verdict};
use simulator::Simulator;
use trace_ring::plan::TraceLevel;

/// A machine with many outcomes, as a capture.
fn eventful() -> (tempfile::TempDir, Capture) {
    let target = Simulator::eventful();
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(&target.saved(folder.path())).expect("a capture");
    (folder, capture)
}

fn messages(capture: &Capture) -> Vec<Message> {
    let mut all = Vec::new();
    correlate_heard(capture, &mut |message| {
        all.push(*message);
        true
    })
    .expect("a whole capture");
    all
}

fn filtered(capture: &Capture, filter: &str) -> Report {
    let choice = Choice::of_counts(filter, capture, "a report").expect("a filter");
    report::build_of(capture, None, Some(&choice)).expect("a report")
}

fn picked(capture: &Capture, filter: &str) -> u64 {
    filtered(capture, filter).filter.expect("it was filtered").picked
}

#[test]
fn every_ipi_is_told_once_with_the_outcome_that_is_counted() {
    let (_folder, capture) = eventful();
    let all = messages(&capture);
    let counts = correlate(&capture).expect("a whole capture").totals;
    let of = |outcome| all.iter().filter(|m| m.outcome == Some(outcome)).map(|m| m.count).sum::<u64>();
    assert_eq!(counts.sent, all.iter().filter(|m| m.outcome.is_some()).map(|m| m.count).sum::<u64>());
    assert!(counts.lost == 1 && counts.coalesced == 3, "{counts:?}");
    for (outcome, count) in [
        (Outcome::Delivered, counts.delivered),
        (Outcome::Coalesced, counts.coalesced),
        (Outcome::Lost, counts.lost),
        (Outcome::Misrouted, counts.misrouted),
        (Outcome::InFlight, counts.in_flight),
        (Outcome::Unknown, counts.unknown),
    ] {
        assert_eq!(of(outcome), count, "{outcome:?}");
    }
    // Ends are told where there are some, and a latency is what lies between them.
    for message in all.iter().filter(|message| message.outcome == Some(Outcome::Delivered)) {
        let (sent, entry) = message.sent.zip(message.entry).expect("both ends");
        assert_eq!(message.latency, Some(entry - sent));
    }
    let stray: Vec<&Message> = all.iter().filter(|message| message.outcome.is_none()).collect();
    assert_eq!(stray.len(), 1, "an acknowledge that nobody explains");
    assert_eq!((stray[0].from, stray[0].to, stray[0].sent), (None, 2, None));
}

#[test]
fn parts_of_a_capture_add_up_to_it() {
    let (_folder, capture) = eventful();
    let all = correlate(&capture).expect("a whole capture").totals;
    let of = |filter: &str| filtered(&capture, filter).ipis.counts;
    let mut sum = host::correlate::Counts::default();
    for target in 0..4 {
        let part = of(&format!("target == {target}"));
        assert!(part.is_whole(), "{part:?}");
        sum.add(&part);
    }
    assert_eq!(sum, all);
    assert_eq!(of("lost").lost, all.lost);
    assert_eq!(of("lost").sent, all.lost);
    assert_eq!(of("coalesced").sent, all.coalesced);
    assert_eq!(of("outcome in {delivered, coalesced}").sent, all.delivered + all.coalesced);
    assert_eq!(of("pair == 1->0").sent + of("pair != 1->0").sent, all.sent);
    // A lost one has no latency: it is neither above nor below.
    assert_eq!(picked(&capture, "latency > 0ns || latency <= 0ns || unmatched"), all.sent + 1);
    assert_eq!(picked(&capture, "unmatched"), all.lost + 1, "the lost one and the acknowledge without a send");
}

#[test]
fn a_filter_that_asks_for_what_is_sent_is_judged_by_what_it_picks_and_one_for_results_by_all() {
    let (_folder, capture) = eventful();
    assert_eq!(report::build_of(&capture, None, None).expect("a report").verdict, Verdict::Failed);
    assert_eq!(filtered(&capture, "pair == 0->3").verdict, Verdict::Failed);
    let others = filtered(&capture, "pair in {1->2, 2->1}");
    assert_eq!((others.verdict, others.filter.expect("it was filtered").judged), (Verdict::Clean, "picked"));
    let slow = filtered(&capture, "pair == 1->2 && latency > 1ns");
    assert_eq!((slow.verdict, slow.filter.expect("it was filtered").judged), (Verdict::Failed, "all"));
}

#[test]
fn percentiles_are_those_of_the_whole_capture_and_of_a_small_one_unknown() {
    let mut target = Simulator::matrix(2);
    target.run(1000, |_, _, round| 10 + round % 100);
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(&target.saved(folder.path())).expect("a capture");
    let latencies: Vec<u64> = messages(&capture).iter().filter_map(|message| message.latency).collect();
    let mut sorted = latencies.clone();
    sorted.sort_unstable();
    let p90 = sorted[(sorted.len() * 9).div_ceil(10) - 1];
    let above = latencies.iter().filter(|latency| **latency > p90).count() as u64;
    assert!(above > 0);
    assert_eq!(picked(&capture, "latency > p90"), above);
    assert_eq!(
        picked(&capture, "latency >= p100"),
        sorted.iter().filter(|one| **one == sorted[sorted.len() - 1]).count() as u64
    );
    assert_eq!(picked(&capture, "latency > p99.999") + picked(&capture, "latency <= p99.999"), 0, "nobody can say");
}

#[test]
fn what_is_wrong_with_a_filter_is_said_before_anything_runs() {
    let error = check("tarket == 4", Keep::All, TraceLevel::Ipi).expect_err("no such field");
    let text = error.to_string();
    assert!(text.contains("tarket == 4\n^") && text.contains("possible: target, sender"), "{text}");
    assert_eq!((error.exit_code(), error.kind()), (exit::MISUSED, "filter"));
    assert!(matches!(check("lost", Keep::None, TraceLevel::Ipi), Err(ChoiceError::NoRecords(_))));
    assert!(matches!(check("lost", Keep::All, TraceLevel::Off), Err(ChoiceError::NoRecords(_))));
    assert!(matches!(check("around(lost, 3)", Keep::All, TraceLevel::Ipi), Err(ChoiceError::Around(_))));
    // Of Linux alone, and of bare metal alone.
    assert!(matches!(check("callsite == x", Keep::All, TraceLevel::Ipi), Err(ChoiceError::Filter(_))));
    assert!(check("intid == 3 && phase ~ \"matrix*\"", Keep::All, TraceLevel::Ipi).is_ok());
}

#[test]
fn a_capture_without_its_records_has_nothing_to_choose_among() {
    let mut target = Simulator::new(PlanRequest {
        plan: Some("matrix".into()),
        cores: 2,
        keep: Keep::None,
        ..PlanRequest::default()
    });
    target.run(5, |_, _, _| 10);
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(&target.saved(folder.path())).expect("a capture");
    let error = Choice::of("lost", &capture).expect_err("no records");
    assert!(matches!(error, ChoiceError::NoRecords(_)), "{error}");
    assert!(error.next_step().contains("--keep all"), "{}", error.next_step());
}
