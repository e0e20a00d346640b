//! Limits held against targets in miniature: every kind of rule holds, breaks, and says where the run can't tell. No QEMU.

// What other tests need of it stands unused here.
#[expect(dead_code, reason = "each test file uses its own part of the simulator")]
mod simulator;

use std::path::Path;

use host::capture::{Ended, VerdictScope};
use host::error::{Explain as _, exit};
use host::limits::{Known, Limits, Outcome, RuleReport};
use host::plan::{Keep, PlanRequest};
use host::report::{Options, Report, Verdict};
use host::{junit, report};
use simulator::{HZ, Simulator};
use trace_ring::layout::{Context, LANES_PER_CORE, core_state};
use trace_ring::record::{Event, Kind, PEER_ALL};

/// One tick, ns.
const TICK: f64 = 1e9 / HZ as f64;

/// A latency of a quiet machine: 10 to 12 ticks, 160 to 192 ns.
fn quiet(from: u16, to: u16, round: u64) -> u64 {
    10 + (u64::from(from) + 2 * u64::from(to) + round) % 3
}

fn held(target: &Simulator, text: &str) -> Report {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits::parse(Path::new("board.toml"), text.into()).unwrap_or_else(|error| panic!("{text}\n{error}"));
    report::build_against(&target.saved(folder.path()), Some(&limits)).expect("a report")
}

/// The only rule of a file.
fn rule(target: &Simulator, text: &str) -> RuleReport {
    let report = held(target, &format!("[[limit]]\n{text}\n"));
    let rules = report.limits.expect("limits were held").rules;
    assert_eq!(rules.len(), 1);
    rules.into_iter().next().expect("one rule")
}

/// Asserts how a rule's bounds end: name, outcome, whose the worst is, the worst.
fn expect(target: &Simulator, text: &str, expected: &[(&str, Outcome, &str, Option<f64>)]) {
    let rule = rule(target, text);
    let got: Vec<_> = rule
        .bounds
        .iter()
        .map(|bound| {
            let subject = bound.subject.as_ref().map_or_else(String::new, ToString::to_string);
            (bound.bound, bound.outcome, subject, bound.worst)
        })
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(bound, outcome, subject, worst)| (*bound, *outcome, (*subject).to_owned(), *worst))
        .collect();
    assert_eq!(got, expected, "{text}\n{rule:#?}");
    let worst = expected.iter().map(|bound| bound.1).max().expect("a bound");
    assert_eq!(rule.outcome, worst);
}

fn message(target: &Simulator, text: &str) -> String {
    let rule = rule(target, text);
    assert_eq!(rule.outcome, Outcome::Inconclusive, "{rule:#?}");
    let bound = rule.bounds.iter().find(|bound| bound.outcome == Outcome::Inconclusive);
    bound.and_then(|bound| bound.message.clone()).expect("it says why")
}

/// Plan `matrix`, each pair so often, with latencies of 10 to 12 ticks, 5 more where the receiver sleeps; core 2 takes 100 more.
fn slow_core_2(times: u64) -> Simulator {
    let mut target = Simulator::matrix(4);
    assert_eq!(target.compiled.meta.phases[0].state, "wfi");
    let states: Vec<bool> = target.compiled.meta.phases.iter().map(|phase| phase.state == "wfi").collect();
    for (phase, asleep) in states.into_iter().enumerate() {
        for slot in 0..target.slots.len() {
            let (from, to) = (target.slots[slot].from, target.slots[slot].to);
            if usize::from(target.slots[slot].phase) != phase {
                continue;
            }
            for round in 0..times {
                let latency = quiet(from, to, round) + if asleep { 5 } else { 0 } + if to == 2 { 100 } else { 0 };
                target.ping(slot, latency);
            }
        }
        target.end(phase);
    }
    target
}

#[test]
fn limits_that_hold_leave_a_clean_run_clean() {
    let mut target = Simulator::matrix(4);
    target.run(1000, quiet);
    let text = r#"
        name = "quiet"
        [target]
        machine = "virt"
        board = "virt"
        cores = 4
        midr = [0x000f0510]
        scope = "instructions"
        plan = "matrix"
        [[limit]]
        name = "all pairs"
        kind = "sgi0"
        p50 = "176ns"
        p90 = "192ns"
        p99 = "192ns"
        max = "192ns"
        mean = "177ns"
        lost = 0
        unknown = 0
        misrouted = 0
        coalesced = "1%"
        min_samples = 1000
        [[limit]]
        name = "each receiver"
        per = "receiver"
        state = "wfi"
        p99 = "1us"
        [[limit]]
        per = "all"
        distance = "same-cluster"
        p999 = "1us"
        [[limit]]
        duplicate = 0
        spurious = 0
        [[limit]]
        cores_up = 4
        [[limit]]
        skew = "100ns"
    "#;
    let report = held(&target, text);
    let limits = report.limits.as_ref().expect("limits were held");
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Clean, exit::CLEAN), "{limits:#?}");
    assert_eq!((limits.passed, limits.failed, limits.inconclusive, limits.outcome), (6, 0, 0, Outcome::Passed));
    // What was measured stands beside what was asked.
    let p50 = &limits.rules[0].bounds[0];
    assert_eq!((p50.bound, p50.limit, p50.worst, p50.n, p50.figures), ("p50", 176.0, Some(11.0 * TICK), 1000, 24));
    let json = report.json();
    assert_eq!(json["limits"]["file"], "board.toml");
    assert_eq!(json["limits"]["text"], text);
    assert_eq!(json["limits"]["crc32"].as_str().map(str::len), Some(8));
    assert_eq!(json["limits"]["rules"][0]["bounds"][0]["unit"], "ns");
    assert_eq!(json["limits"]["rules"][0]["outcome"], "passed");
    let page = report.text(&Options::default());
    assert!(page.contains("Limits: board.toml (quiet)") && page.contains("6 of 6 rules passed"), "{page}");
    assert!(page.contains("Verdict: clean"), "{page}");
}

#[test]
fn a_broken_limit_fails_the_run_and_names_the_worst() {
    let target = slow_core_2(340);
    // The slowest pair in its slower state.
    let worst = Some(117.0 * TICK);
    for (text, subject) in [
        ("max = \"1us\"", "pair 0 to 2, sgi0, wfi, matrix"),
        ("max = \"1us\"\nper = \"receiver\"", "receiver 2, sgi0, wfi, matrix"),
        ("max = \"1us\"\nper = \"sender\"", "sender 0, sgi0, wfi, matrix"),
        ("max = \"1us\"\nper = \"all\"", "all, sgi0, wfi, matrix"),
        ("max = \"1us\"\nfrom = 1", "pair 1 to 2, sgi0, wfi, matrix"),
        ("max = \"1us\"\nto = \"1-2\"\nfrom = [3]", "pair 3 to 2, sgi0, wfi, matrix"),
    ] {
        let found = rule(&target, text);
        let bound = &found.bounds[0];
        let subject = subject.replace("matrix", &target.compiled.meta.phases[0].name);
        assert_eq!(bound.subject.as_ref().map(ToString::to_string), Some(subject), "{text}");
        assert_eq!((bound.outcome, bound.worst), (Outcome::Failed, worst), "{text}");
    }
    // Each figure.
    let phase = &target.compiled.meta.phases[1].name;
    let spin = format!("receiver 2, sgi0, spin, {phase}");
    for (figure, ticks) in [("p50", 111.0), ("p90", 112.0), ("p99", 112.0), ("max", 112.0), ("mean", 111.0)] {
        let text = format!("state = \"spin\"\nper = \"receiver\"\n{figure} = \"1us\"");
        let found = rule(&target, &text);
        let bound = &found.bounds[0];
        assert_eq!((bound.outcome, bound.figures, bound.broken), (Outcome::Failed, 4, 1), "{text}");
        assert_eq!(bound.subject.as_ref().map(ToString::to_string).as_deref(), Some(spin.as_str()));
        let got = bound.worst.expect("a worst") / TICK;
        assert!((got - ticks).abs() < 0.01, "{figure}: {got}");
    }
    // Cores that are not picked don't matter.
    assert_eq!(rule(&target, "max = \"1us\"\nto = [0, 1, 3]").outcome, Outcome::Passed);
    assert_eq!(rule(&target, "max = \"1us\"\ndistance = 0").outcome, Outcome::Inconclusive);
    let report = held(&target, "[[limit]]\nname = \"tail\"\nmax = \"1us\"\n");
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Failed, exit::FAILED));
    let page = report.text(&Options::default());
    assert!(page.contains("6 of 24 figures broken") && page.contains("1 limit is broken"), "{page}");
}

#[test]
fn waking_up_is_the_median_asleep_less_the_median_spinning() {
    let target = slow_core_2(100);
    let phase = target.compiled.meta.phases[0].name.clone();
    // The delay of core 2 is in both, and is no wake-up.
    let text = |bound: &str| format!("wake_up = \"{bound}\"\nper = \"receiver\"");
    let five = Some(5.0 * TICK);
    expect(&target, &text("80ns"), &[("wake_up", Outcome::Passed, &format!("receiver 0, sgi0, wfi, {phase}"), five)]);
    expect(&target, &text("79ns"), &[("wake_up", Outcome::Failed, &format!("receiver 0, sgi0, wfi, {phase}"), five)]);
    assert_eq!(rule(&target, "wake_up = \"80ns\"\nstate = \"wfi\"").bounds[0].figures, 12);
    assert!(message(&target, "wake_up = \"80ns\"\nstate = \"suspend\"").contains("states spin, wfi"));
    // Without the other state there is nothing to compare with.
    let mut ping = Simulator::new(PlanRequest {
        plan: Some("ping".into()),
        cores: 2,
        deterministic: true,
        ..PlanRequest::default()
    });
    ping.run(100, quiet);
    let why = message(&ping, "wake_up = \"80ns\"");
    assert!(why.contains("spinning") && why.contains("both states"), "{why}");
}

#[test]
fn what_the_run_does_not_carry_is_neither_passed_nor_failed() {
    let mut target = Simulator::standard(4);
    target.run(200, quiet);
    let why = message(&target, "p99 = \"1us\"\nstate = \"wfi\"");
    assert!(why.contains("200 latencies") && why.contains("1000 would"), "{why}");
    let why = message(&target, "p50 = \"1us\"\nmin_samples = 201\nstate = \"wfi\"");
    assert!(why.contains("200") && why.contains("201"), "{why}");
    for (text, words) in [
        ("lost = 0\nkind = \"call_function\"", &["kinds sgi0", "states"][..]),
        ("lost = 0\nphase = \"strom\"", &["matrix", "spin"]),
        ("max = \"1us\"\ndistance = 3", &["distances 0, 1"]),
        ("max = \"1us\"\nto = 9", &["nothing of this run matches"]),
        ("max = \"1us\"\nstage = \"callback\"", &["no stage was recorded", "--level"]),
        ("min_samples = 9\nkind = \"stop\"", &["kinds sgi0"]),
    ] {
        let why = message(&target, text);
        for word in words {
            assert!(why.contains(word), "{text}: no {word:?} in {why:?}");
        }
    }
    // Storms queue, so a rule that does not name one means phases with one IPI under way.
    let to_0 =
        target.slots.iter().position(|slot| target.compiled.meta.phases[usize::from(slot.phase)].pattern == "storm");
    target.ping(to_0.expect("a storm"), 5000);
    assert_eq!(rule(&target, "max = \"1us\"").outcome, Outcome::Passed);
    assert_eq!(rule(&target, "max = \"1us\"\ntimed = false").outcome, Outcome::Failed);
    assert_eq!(rule(&target, "max = \"1us\"\nphase = \"storm\"").outcome, Outcome::Failed);
    let why = message(&target, "max = \"1us\"\ntimed = true\nphase = \"storm\"");
    assert!(why.contains("timed = false"), "{why}");
    // A run in doubt exits with 2; a broken rule decides all the same.
    let doubt = "[[limit]]\np99 = \"1us\"\n";
    let report = held(&target, doubt);
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Inconclusive, exit::UNMEASURED));
    assert!(report.text(&Options::default()).contains("1 limits could not be told"));
    let report = held(&target, &format!("{doubt}[[limit]]\nmax = \"170ns\"\n"));
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Failed, exit::FAILED));
}

#[test]
fn few_samples_excuse_a_percentile_and_not_a_greatest() {
    let target = slow_core_2(100);
    let outcomes = |text: &str| {
        let rule = rule(&target, text);
        rule.bounds.iter().map(|bound| (bound.bound, bound.outcome)).collect::<Vec<_>>()
    };
    assert_eq!(
        outcomes("p50 = \"1us\"\nmax = \"1us\"\nmin_samples = 101"),
        [("p50", Outcome::Inconclusive), ("max", Outcome::Failed), ("min_samples", Outcome::Inconclusive)]
    );
    assert_eq!(
        outcomes("p50 = \"1us\"\nmax = \"1us\"\nmin_samples = 100"),
        [("p50", Outcome::Failed), ("max", Outcome::Failed), ("min_samples", Outcome::Passed)]
    );
}

#[test]
fn outcomes_are_held_to_numbers_and_to_shares() {
    let mut target = Simulator::standard(4);
    target.run(99, quiet);
    let slot = target.slot(3, 1);
    target.lose(slot);
    let one = |text: &str, outcome: Outcome| assert_eq!(rule(&target, text).outcome, outcome, "{text}");
    expect(&target, "lost = 0", &[("lost", Outcome::Failed, "pair 3 to 1", Some(1.0))]);
    one("lost = 1", Outcome::Passed);
    one("lost = 0\nper = \"sender\"", Outcome::Failed);
    one("lost = 0\nfrom = [0, 1, 2]", Outcome::Passed);
    // One of the 199 that this pair was sent in all phases.
    one("lost = 0.0051", Outcome::Passed);
    one("lost = \"0.50%\"", Outcome::Failed);
    let report = held(&target, "[[limit]]\nlost = 0\n");
    assert_eq!(report.verdict, Verdict::Failed);
    // Whoever may have been lost is not known to be there.
    let mut target = Simulator::standard(4);
    target.run(100, quiet);
    let slot = target.slot(0, 1);
    target.send(slot, 2);
    target.retire(slot, 0);
    let why = message(&target, "lost = 0\nper = \"all\"");
    assert!(why.contains("between 0 and 1"), "{why}");
    expect(&target, "unknown = 0\nper = \"all\"", &[("unknown", Outcome::Failed, "all", Some(1.0))]);
    expect(&target, "lost = 1\nper = \"all\"", &[("lost", Outcome::Passed, "all", Some(1.0))]);
}

#[test]
fn receptions_without_a_message_are_held_by_receiver() {
    let mut target = Simulator::standard(4);
    target.run(50, quiet);
    let t = target.now + 5_000_000;
    target.cores[2].empty_acknowledges += 1;
    target.emit(
        2,
        Context::Irq,
        Event { t, kind: Kind::ReceiveEmpty, flags: 0, peer: PEER_ALL, msg: 0, intid: 0, extra: 0, arg: 0 },
    );
    expect(
        &target,
        "spurious = 0\nduplicate = 0",
        &[
            ("duplicate", Outcome::Passed, "receiver 0", Some(0.0)),
            ("spurious", Outcome::Failed, "receiver 2", Some(1.0)),
        ],
    );
    assert_eq!(rule(&target, "spurious = 0\nto = [0, 1, 3]").outcome, Outcome::Passed);
    assert_eq!(rule(&target, "spurious = 0\nkind = \"sgi1\"").outcome, Outcome::Passed);
    expect(&target, "spurious = 1\nper = \"all\"", &[("spurious", Outcome::Passed, "all", Some(1.0))]);
    // Without its records the core's own count of empty acknowledges is all there is.
    target.lapped.insert(2 * LANES_PER_CORE + Context::Irq as usize, (10, 20));
    let why = message(&target, "spurious = 0");
    assert!(why.contains("between 0 and 1"), "{why}");
}

#[test]
fn cores_and_clocks_are_the_machine_s() {
    let mut target = Simulator::matrix(4);
    target.cores[3].state = core_state::NO_SHOW;
    target.run(50, quiet);
    expect(&target, "cores_up = 4", &[("cores_up", Outcome::Failed, "", Some(3.0))]);
    expect(&target, "cores_up = 3", &[("cores_up", Outcome::Passed, "", Some(3.0))]);
    assert!(rule(&target, "cores_up = 4").bounds[0].message.as_deref().is_some_and(|why| why.contains("core 3")));
    // The simulator's cores lie within -2 to 3 ticks of the boot core, so two of them within 5 of each other.
    let mut target = Simulator::matrix(2);
    target.run(50, quiet);
    expect(&target, "skew = \"80ns\"", &[("skew", Outcome::Passed, "pair 0 to 1", Some(5.0 * TICK))]);
    let why = message(&target, "skew = \"79ns\"");
    assert!(why.contains("between less than a tick and 80 ns"), "{why}");
    // Proven apart.
    (target.cores[1].skew_after_low, target.cores[1].skew_after_high) = (1000, 1005);
    expect(&target, "skew = \"1us\"", &[("skew", Outcome::Failed, "pair 0 to 1", Some(1006.0 * TICK))]);
    for core in &mut target.cores {
        core.clock_flags = 0;
    }
    assert!(message(&target, "skew = \"1us\"").contains("no skew was measured"));
}

#[test]
fn a_percentile_of_buckets_passes_or_fails_only_where_the_whole_bucket_does() {
    let mut target = Simulator::matrix(2);
    target.run(2000, |_, _, round| 1000 + round % 100);
    // Records of core 1 are missing, so its histogram stands in: 1000 to 1099 lie in two buckets, 960..1023 and 1024..1151.
    target.lapped.insert(LANES_PER_CORE + Context::Irq as usize, (10, 20));
    let p99 = |bound: f64| {
        let text = format!("p99 = \"{}ns\"\nto = 1\nstate = \"wfi\"", bound * TICK);
        rule(&target, &text).bounds[0].outcome
    };
    assert_eq!([p99(1000.0), p99(1090.0), p99(1151.0)], [Outcome::Failed, Outcome::Inconclusive, Outcome::Passed]);
    // The greatest is exact whatever became of the records.
    assert_eq!(rule(&target, "max = \"17584ns\"\nto = 1").outcome, Outcome::Passed);
    assert_eq!(rule(&target, "max = \"17583ns\"\nto = 1").outcome, Outcome::Failed);
}

#[test]
fn a_limit_below_a_tick_is_held_and_says_so() {
    let mut target = Simulator::matrix(2);
    target.run(50, |_, _, _| 0);
    let found = rule(&target, "max = \"5ns\"");
    assert_eq!((found.outcome, found.bounds[0].finer_than_clock), (Outcome::Passed, true));
    let page = held(&target, "[[limit]]\nmax = \"5ns\"\n").text(&Options::default());
    assert!(page.contains("below a step of the clock (16 ns)"), "{page}");
    assert!(!rule(&target, "max = \"16ns\"").bounds[0].finer_than_clock);
}

#[test]
fn times_that_are_not_the_machine_s_own_say_so() {
    let mut target = Simulator::standard(2);
    target.run(50, quiet);
    let notes = |target: &Simulator, text: &str| held(target, text).limits.expect("held").notes.join("; ");
    assert!(notes(&target, "[[limit]]\nmax = \"1us\"\n").contains("an emulator's"));
    assert_eq!(notes(&target, "[[limit]]\nlost = 0\n"), "");
    target.scope = VerdictScope::Silicon;
    assert_eq!(notes(&target, "[[limit]]\nmax = \"1us\"\n"), "");
}

#[test]
fn limits_of_another_target_are_not_held_and_exit_with_three() {
    let mut target = Simulator::standard(4);
    target.run(50, |_, _, _| 1_000_000);
    for (header, words) in [
        ("machine = \"rock-5b\"", &["machine `rock-5b`", "`virt`"][..]),
        ("board = \"rock-5b\"", &["board `rock-5b`"]),
        ("cores = 8", &["8 cores", "has 4"]),
        ("scope = \"silicon\"", &["silicon", "emulated"]),
        ("plan = \"matrix\"", &["`matrix`", "`standard`"]),
        ("midr = [0x410fd034]", &["0x410fd034", "core 0", "0x000f0510"]),
        ("midr = [0xf0510, 0xf0510]", &["2 cores", "core 2"]),
    ] {
        let report = held(&target, &format!("[target]\n{header}\n[[limit]]\nmax = \"1ns\"\n"));
        let limits = report.limits.as_ref().expect("limits were named");
        assert_eq!((report.exit_code(), limits.rules.len()), (exit::MISUSED, 0), "{header}");
        let mismatch = limits.mismatch.join("; ");
        for word in words {
            assert!(mismatch.contains(word), "{header}: no {word:?} in {mismatch:?}");
        }
        let page = report.text(&Options::default());
        assert!(page.contains("not for this target"), "{page}");
        let xml = junit::of_report(&report);
        assert!(xml.contains("errors=\"2\"") && xml.contains("name=\"target\""), "{xml}");
    }
    // What is known before a run is refused before it.
    let text = "[target]\nboard = \"rock-5b\"\n[[limit]]\nlost = 0\n";
    let limits = Limits::parse(Path::new("board.toml"), text.into()).expect("is taken");
    assert!(limits.are_for(&Known { board: Some("rock-5b"), ..Known::default() }).is_ok());
    assert!(limits.are_for(&Known::default()).is_ok());
    let error = limits.are_for(&Known { board: Some("virt"), ..Known::default() }).expect_err("another board");
    assert_eq!(error.exit_code(), exit::MISUSED);
    assert!(error.to_string().contains("rock-5b") && error.to_string().contains("virt"), "{error}");
}

#[test]
fn latencies_that_a_handler_explains_are_left_out_and_counted() {
    use simulator::calls::Wish;
    let mut target = Simulator::calls(4);
    // Two calls to core 2, the second while the handler of the first is at work for 5000 ticks.
    for _ in 0..30 {
        target.call(Context::Thread, 0, 2, Wish::drain(false));
        let begin = target.now + 10;
        let end = target.interrupt(2, trace_ring::calls::IpiKind::CallFunction, begin, |_| 5000);
        target.now = begin + 20;
        target.call(Context::Thread, 1, 2, Wish::drain(false));
        target.now = target.interrupt(2, trace_ring::calls::IpiKind::CallFunction, end + 10, |_| 20) + 50;
    }
    target.end(0);
    let found = rule(&target, "max = \"10us\"\nkind = \"call_function\"\ntimed = false\nper = \"receiver\"\nto = 2");
    assert_eq!((found.outcome, found.bounds[0].left_out), (Outcome::Passed, 30), "{found:#?}");
    assert_eq!(found.bounds[0].n, 30);
    // A stage is a core's own.
    let found = rule(&target, "max = \"10us\"\nstage = \"callback\"");
    let bound = &found.bounds[0];
    assert_eq!((bound.outcome, bound.subject.as_ref().and_then(|subject| subject.to)), (Outcome::Failed, Some(2)));
    assert_eq!(
        rule(&target, "max = \"1ms\"\nstage = \"callback\"\nkind = \"call_function\"\nto = 2").outcome,
        Outcome::Passed
    );
    assert_eq!(rule(&target, "max = \"1ms\"\nstage = \"callback\"\nkind = \"stop\"").outcome, Outcome::Inconclusive);
}

#[test]
fn a_pair_that_was_never_sent_to_is_not_passed() {
    let mut target = Simulator::matrix(3);
    for slot in 0..target.slots.len() {
        if (target.slots[slot].from, target.slots[slot].to) != (2, 1) {
            (0..30).for_each(|round| target.ping(slot, quiet(0, 0, round)));
        }
    }
    for text in ["p50 = \"1us\"", "lost = 0"] {
        let found = rule(&target, text);
        let bound = &found.bounds[0];
        assert_eq!(found.outcome, Outcome::Inconclusive, "{text}");
        let subject = bound.subject.as_ref().map(|subject| (subject.from, subject.to));
        assert_eq!(subject, Some((Some(2), Some(1))), "{text}");
    }
    assert_eq!(rule(&target, "p50 = \"1us\"\nto = [0, 2]").outcome, Outcome::Passed);
}

#[test]
fn a_run_that_was_cut_short_still_breaks_limits() {
    let mut target = Simulator::standard(2);
    target.run(50, quiet);
    target.ended = Some(Ended::Deadline);
    let report = held(&target, "[[limit]]\nmax = \"1us\"\n");
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Incomplete, exit::UNMEASURED));
    let report = held(&target, "[[limit]]\nmax = \"170ns\"\n");
    assert_eq!((report.verdict, report.exit_code()), (Verdict::Failed, exit::FAILED));
}

#[test]
fn where_no_records_are_kept_limits_hold_against_the_counters() {
    let mut target = Simulator::new(PlanRequest { cores: 2, keep: Keep::None, ..PlanRequest::default() });
    target.run(200, quiet);
    assert_eq!(rule(&target, "max = \"192ns\"\nlost = 0\np50 = \"192ns\"").outcome, Outcome::Passed);
    assert_eq!(rule(&target, "max = \"191ns\"").outcome, Outcome::Failed);
    // Without a snapshot nobody knows how long a tick is.
    target.with_snapshot = false;
    assert_eq!(rule(&target, "max = \"1s\"").outcome, Outcome::Inconclusive);
}

/// Elements of some XML in their order, `/` before those that end; panics where they don't nest.
fn elements(xml: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut all = Vec::new();
    let body = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").expect("it begins as XML");
    for part in body.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a tag ends");
        let name = tag.trim_end_matches('/').split_whitespace().next().expect("a name").to_owned();
        match name.strip_prefix('/') {
            Some(end) => assert_eq!(open.pop().as_deref(), Some(end), "{xml}"),
            None if !tag.ends_with('/') => open.push(name.clone()),
            None => {}
        }
        all.push(name);
    }
    assert!(open.is_empty(), "{open:?} never end in\n{xml}");
    all
}

#[test]
fn junit_has_a_case_for_the_verdict_and_one_for_each_rule() {
    let target = slow_core_2(100);
    let text = "name = \"a & b\"\n[[limit]]\nname = \"tail <1 us> & \\\"more\\\"\"\nmax = \"1us\"\n\
                [[limit]]\nname = \"lost\"\nlost = 0\n[[limit]]\nname = \"p99\"\np99 = \"1us\"\n";
    let report = held(&target, text);
    let xml = junit::of_report(&report);
    let all = elements(&xml);
    let count = |name: &str| all.iter().filter(|element| *element == name).count();
    assert_eq!((count("testsuites"), count("testsuite"), count("testcase")), (1, 1, 4));
    // The verdict and the tail failed; p99 of a hundred samples can't be told.
    assert_eq!((count("failure"), count("error")), (2, 1));
    assert!(xml.contains("<testsuites name=\"ipiscope\" tests=\"4\" failures=\"2\" errors=\"1\">"), "{xml}");
    assert!(
        xml.contains("name=\"ipiscope.virt.matrix\"") && xml.contains("timestamp=\"2026-01-02T03:04:05Z\""),
        "{xml}"
    );
    assert!(xml.contains("classname=\"ipiscope.limits\" name=\"tail &lt;1 us&gt; &amp; &quot;more&quot;\""), "{xml}");
    for property in [
        "name=\"tag.lot\" value=\"7\"",
        "name=\"core0.midr\" value=\"0xf0510\"",
        "name=\"clock.hz\" value=\"62500000\"",
        "name=\"limits.name\" value=\"a &amp; b\"",
        "name=\"verdict\" value=\"failed\"",
    ] {
        assert!(xml.contains(property), "no {property} in\n{xml}");
    }
    assert!(xml.contains("pair 0 to 2, sgi0, wfi"), "{xml}");
    // Without limits the verdict alone.
    let clean = {
        let mut target = Simulator::matrix(2);
        target.run(50, quiet);
        junit::of_report(&target.report())
    };
    assert!(clean.contains("tests=\"1\" failures=\"0\" errors=\"0\""), "{clean}");
    elements(&clean);
}

#[test]
fn limits_with_long_names_fit_every_terminal() {
    let text = "[[limit]]\nname = \"what nobody may break, whatever the state of the receiver may be\"\nmax = \"1us\"\n\
                [[limit]]\nname = \"a_name_that_is_one_word_and_longer_than_a_column_of_the_table_should_be\"\nlost = 0\n";
    let report = held(&slow_core_2(50), text);
    assert_eq!(report.limits.as_ref().map(|limits| (limits.passed, limits.failed)), Some((1, 1)));
    for width in [40, 80, 120, 200] {
        let plain = report.text(&Options { color: false, width, unicode: true });
        let widest = plain.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= usize::from(width), "{widest} of {width} columns\n{plain}");
        // Colours change nothing else: not even the spaces at the end of a line.
        let coloured = report.text(&Options { color: true, width, unicode: true });
        let mut pieces = coloured.split('\u{1b}');
        let first = pieces.next().unwrap().to_owned();
        let without = pieces.fold(first, |text, piece| text + piece.split_once('m').unwrap().1);
        assert_eq!(without, plain);
    }
}
