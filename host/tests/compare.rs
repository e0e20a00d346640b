//! Captures of targets in miniature, compared: the same machine twice, one fault each, and what can't be compared. No QEMU.

// What other tests need of it stands unused here.
#[expect(dead_code, reason = "each test file uses its own part of the simulator")]
mod simulator;

use std::path::{Path, PathBuf};

use host::capture::{Ended, VerdictScope};
use host::compare::{CompareError, Comparison, Finding, LimitsRequest, Line, Request, compare, make_limits};
use host::error::{Explain as _, exit};
use host::limits::Limits;
use host::plan::PlanRequest;
use host::report::{self, Options, Verdict};
use proptest::prelude::*;
use simulator::Simulator;
use trace_ring::layout::{Context, core_state};

/// A run's own noise: 40 to 49 ticks, another in every run.
fn noise(run: u64) -> impl Fn(u16, u16, u64) -> u64 {
    move |from, to, round| {
        let mut state = (run << 40) ^ (u64::from(from) << 32) ^ (u64::from(to) << 24) ^ round ^ 0x9E37_79B9_7F4A_7C15;
        for _ in 0..3 {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        }
        40 + (state >> 33) % 10
    }
}

/// Plan `matrix` on a machine of its own time.
fn silicon(cores: u16, times: u64, latency: impl Fn(u16, u16, u64) -> u64) -> Simulator {
    let request = PlanRequest { plan: Some("matrix".into()), cores, ..PlanRequest::default() };
    let mut target = Simulator::new(request);
    target.scope = VerdictScope::Silicon;
    target.run(times, latency);
    target
}

fn saved(folder: &Path, targets: &[&Simulator]) -> Vec<PathBuf> {
    let save = |(index, target): (usize, &&Simulator)| {
        let path = folder.join(format!("run-{index}.mcap"));
        target.write(&path);
        path
    };
    targets.iter().enumerate().map(save).collect()
}

fn asked(targets: &[&Simulator], force: bool) -> Result<Comparison, CompareError> {
    let folder = tempfile::tempdir().expect("a folder");
    compare(&Request { captures: saved(folder.path(), targets), force, filter: None })
}

fn compared(targets: &[&Simulator]) -> Comparison {
    asked(targets, false).unwrap_or_else(|error| panic!("{error}"))
}

fn named(comparison: &Comparison) -> Vec<(Line, &str)> {
    comparison.changes.iter().map(|change| (change.subject, change.figure.as_str())).collect()
}

fn verdict_line(comparison: &Comparison) -> String {
    let page = comparison.text(&Options::default());
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("Verdict: ")).collect();
    assert_eq!(lines.len(), 1, "{page}");
    assert!(page.ends_with(&format!("{}\n", lines[0])), "the verdict comes last\n{page}");
    lines[0].to_owned()
}

#[test]
fn all_but_the_verdict_fits_the_terminal() {
    let golden = silicon(8, 60, noise(1));
    let target = silicon(8, 60, |from, to, round| noise(2)(from, to, round) + if to % 4 == 1 { 400 } else { 0 });
    let comparison = compared(&[&golden, &target]);
    assert!(comparison.changes.len() > 1, "{:?}", comparison.changes);
    for (width, unicode) in [(40, true), (80, true), (80, false), (200, true)] {
        let page = comparison.text(&Options { color: false, width, unicode });
        let lines = page.lines().filter(|line| !line.starts_with("Verdict: "));
        let widest = lines.map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= usize::from(width), "{widest} of {width} columns\n{page}");
        assert!(unicode || page.is_ascii(), "{page}");
        assert_eq!(page.contains("left out to fit"), width < 200, "{width} columns\n{page}");
    }
}

#[test]
fn two_runs_of_one_machine_show_no_difference() {
    for scope in [VerdictScope::Silicon, VerdictScope::Emulated, VerdictScope::Virtualized] {
        let runs: Vec<Simulator> = (0..2)
            .map(|run| {
                let mut target = silicon(4, 120, noise(run));
                target.scope = scope;
                target
            })
            .collect();
        let comparison = compared(&[&runs[0], &runs[1]]);
        assert_eq!(
            (comparison.verdict, comparison.exit_code()),
            (Finding::NoDifference, exit::CLEAN),
            "{comparison:#?}"
        );
        assert!(comparison.advisories.is_empty(), "{:#?}", comparison.advisories);
        assert_eq!((comparison.compared, comparison.too_few), (24, 0));
        let line = verdict_line(&comparison);
        assert!(line.starts_with("Verdict: no difference: 24 pairs"), "{line}");
        // Each pair is there all the same, with its figures.
        let pair = &comparison.pairs[0];
        assert_eq!(pair.n, [120, 120]);
        assert!(pair.median_ns[0].is_some() && pair.mean_change_ci_ns.is_some() && pair.p_value.is_some(), "{pair:?}");
    }
}

#[test]
fn one_fault_is_one_line_that_names_it() {
    let golden = silicon(4, 120, noise(1));
    type Fault = fn(u16, u16) -> i64;
    let faults: [(Line, Fault); 6] = [
        (Line::Receiver(2), |_, to| i64::from(to == 2) * 5000),
        (Line::Sender(1), |from, _| i64::from(from == 1) * 30),
        (Line::Pair(3, 0), |from, to| i64::from((from, to) == (3, 0)) * 40),
        (Line::All, |_, _| 20),
        (Line::Receiver(3), |_, to| -i64::from(to == 3) * 20),
        (Line::Core(1), |_, _| 0),
    ];
    for (line, fault) in faults {
        let again = noise(2);
        let mut target =
            silicon(4, 120, |from, to, round| again(from, to, round).saturating_add_signed(fault(from, to)));
        if line == Line::Core(1) {
            target.cores[1].state = core_state::NO_SHOW;
        }
        let comparison = compared(&[&golden, &target]);
        let figure = if line == Line::Core(1) { "cores_up" } else { "median" };
        assert_eq!(named(&comparison), [(line, figure)], "{:#?}", comparison.changes);
        assert_eq!((comparison.verdict, comparison.exit_code()), (Finding::Differs, exit::FAILED));
        assert!(verdict_line(&comparison).contains(&line.to_string()), "{}", verdict_line(&comparison));
        let change = &comparison.changes[0];
        let expected = fault(0, 2) + fault(1, 2) + fault(3, 0) + fault(0, 3);
        assert_eq!((change.b - change.a).signum() as i64, if figure == "median" { expected.signum() } else { -1 });
        if figure == "median" {
            assert!(
                change.q_value.is_some_and(|q| q < 1e-6) && change.cliffs_delta.is_some_and(|delta| delta.abs() > 0.9)
            );
            assert_eq!(change.phases, ["matrix/spin", "matrix/wfi"]);
        }
    }
}

#[test]
fn on_an_emulator_pairs_and_whole_runs_are_advice_and_a_core_at_its_best_is_not() {
    let live = |mut target: Simulator| {
        target.scope = VerdictScope::Emulated;
        target
    };
    let golden = live(silicon(4, 120, noise(1)));
    type Delay = fn(u16, u16, u64) -> u64;
    let delays: [(Line, bool, Delay); 5] = [
        (Line::Receiver(2), true, |_, to, _| if to == 2 { 5000 } else { 0 }),
        (Line::All, false, |_, _, _| 5000),
        // A sender's turn is one piece of time.
        (Line::Sender(1), false, |from, _, _| if from == 1 { 5000 } else { 0 }),
        (Line::Pair(0, 1), false, |from, to, _| if (from, to) == (0, 1) { 5000 } else { 0 }),
        // A core that its host often keeps away: late in the middle, and as fast as ever at its best.
        (Line::Receiver(2), false, |_, to, round| if to == 2 && round % 3 > 0 { 5000 } else { 0 }),
    ];
    for (line, judged, delay) in delays {
        let again = noise(2);
        let target = live(silicon(4, 120, |from, to, round| again(from, to, round) + delay(from, to, round)));
        let comparison = compared(&[&golden, &target]);
        let found = if judged { &comparison.changes } else { &comparison.advisories };
        assert!(
            found.iter().any(|change| (change.subject, change.figure.as_str()) == (line, "median")),
            "{comparison:#?}"
        );
        assert_eq!(comparison.changes.is_empty(), !judged, "{comparison:#?}");
        assert_eq!(comparison.verdict, if judged { Finding::Differs } else { Finding::NoDifference });
    }
}

#[test]
fn what_one_of_several_golden_captures_shows_is_no_difference() {
    let slow = |run: u64, by: u64| {
        let again = noise(run);
        silicon(4, 120, move |from, to, round| again(from, to, round) + if to == 2 { by } else { 0 })
    };
    let (first, second, third) = (slow(1, 0), slow(2, 30), slow(3, 30));
    assert_eq!(compared(&[&first, &third]).verdict, Finding::Differs);
    let comparison = compared(&[&first, &second, &third]);
    assert_eq!((comparison.verdict, comparison.a.len()), (Finding::NoDifference, 2), "{:#?}", comparison.changes);
    // Between two golden captures nothing is new, beyond both it is.
    assert_eq!(compared(&[&first, &second, &slow(4, 15)]).verdict, Finding::NoDifference);
    assert_eq!(named(&compared(&[&first, &second, &slow(4, 90)])), [(Line::Receiver(2), "median")]);
}

#[test]
fn losses_are_a_difference_however_few() {
    let golden = silicon(4, 100, noise(1));
    let mut target = silicon(4, 100, noise(2));
    let slot = target.slot(0, 1);
    target.lose(slot);
    let comparison = compared(&[&golden, &target]);
    assert_eq!(named(&comparison), [(Line::Pair(0, 1), "lost")]);
    assert!(
        comparison.changes[0].evidence.contains("0 of 200 IPIs in A, 1 of 201 in B"),
        "{:?}",
        comparison.changes[0]
    );
    // On an emulator, too: a lost SGI is nobody's delay.
    let live = |mut target: Simulator| {
        target.scope = VerdictScope::Emulated;
        target
    };
    assert_eq!(compared(&[&live(golden), &live(target)]).verdict, Finding::Differs);
    let golden = silicon(4, 100, noise(1));
    let mut target = silicon(4, 100, noise(2));
    for from in [0, 1, 3] {
        let slot = target.slot(from, 2);
        target.lose(slot);
    }
    assert_eq!(named(&compared(&[&golden, &target])), [(Line::Receiver(2), "lost")]);
}

#[test]
fn a_tail_that_grew_is_told_where_the_middle_stands() {
    let golden = silicon(3, 1200, noise(1));
    let again = noise(2);
    let target =
        silicon(3, 1200, |from, to, round| again(from, to, round) + if to == 1 && round % 50 == 0 { 700 } else { 0 });
    let comparison = compared(&[&golden, &target]);
    assert_eq!(named(&comparison), [(Line::Receiver(1), "tail")], "{:#?}", comparison.changes);
    assert_eq!((comparison.changes[0].a, comparison.changes[0].b), (0.0, 0.02));
}

#[test]
fn a_stage_that_got_longer_names_its_core() {
    use simulator::calls::Wish;
    let run = |slow: u64| {
        let mut target = Simulator::calls(4);
        for round in 0..60 {
            for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to) {
                target.call(Context::Thread, from, to, Wish::drain(true));
                let lasts = 100 + round % 5 + if to == 2 { slow } else { 0 };
                let entry = target.now + 10 + round % 3;
                target.now = target.interrupt(to, trace_ring::calls::IpiKind::CallFunction, entry, |_| lasts) + 50;
            }
        }
        target.end(0);
        target
    };
    assert_eq!(compared(&[&run(0), &run(0)]).verdict, Finding::NoDifference);
    let comparison = compared(&[&run(0), &run(900)]);
    assert!(named(&comparison).contains(&(Line::Core(2), "callback")), "{:#?}", comparison.changes);
    assert!(comparison.changes.iter().all(|change| change.subject == Line::Core(2)), "{:#?}", comparison.changes);
}

#[test]
fn captures_of_different_targets_are_refused_with_both_values() {
    let golden = silicon(3, 60, noise(1));
    type Twist = fn(&mut Simulator);
    let twists: [(Twist, &[&str]); 4] = [
        (|target| target.cores[1].midr = 0x410F_D034, &["MIDR_EL1 of core 1", "0x000f0510", "0x410fd034"]),
        (|target| target.cores[2].mpidr = 0x100, &["MPIDR_EL1 of core 2", "0x2", "0x100"]),
        (|target| target.scope = VerdictScope::Virtualized, &["`silicon`", "`virtualized`"]),
        (|target| target.compiled.meta.level = "stages".into(), &["trace level", "`ipi`", "`stages`"]),
    ];
    for (twist, words) in twists {
        let mut other = silicon(3, 60, noise(2));
        twist(&mut other);
        let error = asked(&[&golden, &other], false).expect_err("is refused");
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message:?}");
        }
        assert_eq!(error.exit_code(), exit::MISUSED);
        assert!(error.next_step().contains("--force"));
        let forced = asked(&[&golden, &other], true).expect("is compared by force");
        assert!(forced.notes.iter().any(|note| note.starts_with("compared by force: ")), "{:?}", forced.notes);
    }
    let message = asked(&[&golden, &silicon(4, 60, noise(2))], false).expect_err("is refused").to_string();
    assert!(message.contains("3 and 4 cores"), "{message}");
    let mut ping = Simulator::standard(3);
    ping.scope = VerdictScope::Silicon;
    ping.run(30, noise(2));
    let message = asked(&[&golden, &ping], false).expect_err("is refused").to_string();
    assert!(message.contains("plan `matrix` and `standard`"), "{message}");
    // Pairs that both have are compared by force, and there are none here.
    let forced = asked(&[&golden, &ping], true).expect("is compared by force");
    assert_eq!((forced.verdict, forced.exit_code()), (Finding::NotComparable, exit::UNMEASURED));
    assert!(verdict_line(&forced).contains("not comparable"));
}

#[test]
fn captures_without_a_clock_test_are_refused() {
    let golden = silicon(3, 60, noise(1));
    type Twist = fn(&mut Simulator);
    let twists: [(Twist, &str); 3] = [
        (|target| target.cores.iter_mut().for_each(|core| core.clock_flags = 0), "not tested before"),
        (|target| target.cores.iter_mut().for_each(|core| core.clock_flags = 4), "not tested after"),
        (|target| target.with_snapshot = false, "no snapshot"),
    ];
    for (twist, words) in twists {
        let mut other = silicon(3, 60, noise(2));
        twist(&mut other);
        // Only the later one lacks it, so that nothing else is in the way.
        let error = asked(&[&other, &golden], false).expect_err("is refused");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.exit_code(), exit::MISUSED);
        assert!(error.next_step().contains("run the plan again"), "{}", error.next_step());
        assert!(asked(&[&other, &golden], true).is_ok());
    }
    // A single core has no other clock. An emulator's cores have one, and a busy host need not have tested them all.
    let mut other = silicon(3, 60, noise(2));
    let mut live = silicon(3, 60, noise(1));
    for target in [&mut other, &mut live] {
        target.scope = VerdictScope::Emulated;
        target.cores[0].clock_flags = 0;
        target.cores[2].clock_flags = 0;
    }
    assert!(asked(&[&live, &other], false).is_ok());
}

#[test]
fn too_few_latencies_are_no_difference_and_no_comparison() {
    let comparison = compared(&[&silicon(3, 7, noise(1)), &silicon(3, 200, noise(2))]);
    assert_eq!((comparison.verdict, comparison.compared, comparison.too_few), (Finding::NotComparable, 0, 12));
    assert_eq!(comparison.exit_code(), exit::UNMEASURED);
    let json = comparison.json();
    assert_eq!(
        (json["schema"].as_str(), json["verdict"].as_str()),
        (Some("ipiscope.compare/1"), Some("not_comparable"))
    );
}

#[test]
fn limits_made_of_golden_captures_hold_for_them_and_not_for_a_slow_core() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut standard = Simulator::standard(4);
    standard.run(200, noise(5));
    let mut calls = Simulator::calls(3);
    for (from, to) in (0..30).flat_map(|_| [(0, 1), (1, 2), (2, 0)]) {
        target_call(&mut calls, from, to);
    }
    calls.end(0);
    let (first, second) = (silicon(3, 1200, noise(1)), silicon(3, 1200, noise(2)));
    for (goldens, margin, carries_p99) in [
        (vec![&first, &second], 0.25, true),
        (vec![&first, &second], 0.0, true),
        // 200 a pair: all together carry it.
        (vec![&standard], 0.25, true),
        (vec![&calls], 0.1, false),
    ] {
        let captures = saved(folder.path(), &goldens);
        let text = make_limits(&LimitsRequest { captures: captures.clone(), margin, force: false })
            .unwrap_or_else(|error| panic!("{error}"));
        let limits =
            Limits::parse(Path::new("made.toml"), text.clone()).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for capture in &captures {
            let report = report::build_against(capture, Some(&limits)).expect("a report");
            let held = report.limits.as_ref().expect("limits were held");
            assert_eq!((report.verdict, held.passed), (Verdict::Clean, held.rules.len()), "{text}\n{held:#?}");
        }
        assert!(text.contains("min_samples") && text.contains("lost = 0") && text.contains("cores_up"), "{text}");
        // Only what the samples carry with room to spare is bounded.
        assert_eq!(text.contains("p99 = "), carries_p99, "{text}");
    }
    let captures = saved(folder.path(), &[&first, &second]);
    let text = make_limits(&LimitsRequest { captures, margin: 0.25, force: false }).expect("limits");
    let limits = Limits::parse(Path::new("made.toml"), text).expect("is taken");
    let again = noise(3);
    let slow = silicon(3, 1200, |from, to, round| again(from, to, round) + if to == 1 { 40 } else { 0 });
    let report = report::build_against(&saved(folder.path(), &[&slow])[0], Some(&limits)).expect("a report");
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Failed, exit::FAILED));
}

fn target_call(target: &mut Simulator, from: u16, to: u16) {
    target.call(Context::Thread, from, to, simulator::calls::Wish::drain(true));
    target.now = target.interrupt(to, trace_ring::calls::IpiKind::CallFunction, target.now + 10, |_| 20) + 50;
}

#[test]
fn what_is_not_golden_makes_no_limits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut lossy = silicon(3, 100, noise(1));
    let slot = lossy.slot(0, 1);
    lossy.lose(slot);
    let mut cut = silicon(3, 100, noise(1));
    cut.ended = Some(Ended::Deadline);
    for (target, verdict) in [(&lossy, "failed"), (&cut, "incomplete")] {
        let captures = saved(folder.path(), &[target]);
        let error = make_limits(&LimitsRequest { captures, margin: 0.25, force: false }).expect_err("is refused");
        assert!(error.to_string().contains(verdict), "{error}");
        assert_eq!(error.exit_code(), exit::MISUSED);
    }
    let captures = saved(folder.path(), &[&lossy]);
    assert!(make_limits(&LimitsRequest { captures, margin: 0.25, force: true }).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_capture_compared_with_itself_shows_no_difference(
        cores in 2_u16..5,
        times in 8_u64..40,
        latencies in proptest::collection::vec(0_u64..100_000, 1..50),
        scope in 0_usize..4,
        losses in 0_usize..3,
    ) {
        let pick = |from: u16, to: u16, round: u64| {
            latencies[(usize::from(from) * 31 + usize::from(to) * 7 + round as usize) % latencies.len()]
        };
        let mut target = silicon(cores, times, pick);
        for _ in 0..losses {
            let slot = target.slot(0, 1);
            target.lose(slot);
        }
        target.scope =
            [VerdictScope::Silicon, VerdictScope::Emulated, VerdictScope::Instructions, VerdictScope::Virtualized][scope];
        let comparison = compared(&[&target, &target]);
        prop_assert_eq!(comparison.verdict, Finding::NoDifference, "{:#?}", comparison.changes);
        prop_assert!(comparison.advisories.is_empty(), "{:#?}", comparison.advisories);
    }
}
