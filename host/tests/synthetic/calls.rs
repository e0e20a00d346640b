//! The call layer, on targets in miniature: every call once, whatever the order of the lanes; what is missing is unknown; each
//! fault gives its own suspect and no other.

use host::capture::{Ended, VerdictScope};
use host::correlate::From;
use host::detect::Role;
use host::report::{Options, Report, Verdict};
use proptest::prelude::*;
use serde_json::Value;
use trace_ring::calls::{Delivery, DescriptorUse, Function, IpiKind, Onward, call_flag, call_state, doing};
use trace_ring::layout::{Context, LANES_PER_CORE, abort_reason, core_feature, fault_kind, run_state};
use trace_ring::record::{Event, Kind, PROBE_ENABLED};

use crate::simulator::calls::{Wish, address};
use crate::simulator::{HZ, Order, Simulator};
use crate::{named, sum_holds};

/// What a callback takes where nothing is wrong: 20 to 22 ticks.
fn usual(core: u16, _: Function) -> u64 {
    20 + u64::from(core) % 3
}

/// One tick, ns.
const TICK: f64 = 1e9 / HZ as f64;

fn counts(report: &Report) -> host::correlate::calls::CallCounts {
    report.calls.as_ref().expect("calls are reported").counts
}

/// Everybody calls everybody: alone and together, waiting and not; chains, work, and every other kind.
fn busy(cores: u16, rounds: u64) -> Simulator {
    let mut target = Simulator::calls(cores);
    // Interrupts of different cores come one after another here: how long each waits says nothing.
    target.compiled.meta.phases[0].timed = false;
    for round in 0..rounds {
        for caller in 0..cores {
            let others: Vec<u16> = (0..cores).filter(|core| *core != caller).collect();
            let next = (caller + 1) % cores;
            target.call(Context::Thread, caller, next, Wish::drain(round % 2 == 0));
            target.quiesce(usual);
            target.call_many(caller, &others, Wish { function: Function::Gather, info: 0, wait: true });
            // Before the interrupts are taken: these queues are in use.
            target.call(Context::Thread, next, others[0].max(1) % cores, Wish::drain(false));
            target.quiesce(usual);
            let route = Onward { origin: caller, hops: 3, stride: 1 };
            let wish = Wish { function: Function::Onward, info: route.info(), wait: false };
            target.call(Context::Thread, caller, next, wish);
            target.work(caller, Wish::drain(false));
            target.quiesce(usual);
            for kind in [IpiKind::Reschedule, IpiKind::TimerBroadcast] {
                target.send_kind(Context::Thread, kind, caller, next);
                target.quiesce(usual);
            }
        }
    }
    target.end(0);
    target
}

#[test]
fn every_call_is_executed_once_and_a_clean_run_has_no_suspect() {
    for cores in [3, 4, 17] {
        let report = busy(cores, 6).report();
        sum_holds(&report);
        assert_eq!((report.verdict, report.suspects.len()), (Verdict::Clean, 0), "{:?}", report.suspects);
        assert!(report.advisories.is_empty(), "{:?}", report.advisories);
        let counts = counts(&report);
        // Each round of a core: one call, one to all others, one into a queue in use, a chain of four, one piece of work.
        let calls = 6 * u64::from(cores) * (1 + u64::from(cores - 1) + 1 + 4 + 1);
        assert_eq!((counts.queued, counts.executed), (calls, calls));
        assert_eq!((counts.not_executed, counts.in_flight, counts.unknown), (0, 0, 0));
        assert_eq!((counts.twice, counts.orphaned), (0, 0));
        assert_eq!(counts.synchronous, u64::from(cores) * (3 + 6 * u64::from(cores - 1)));
        // Each call that sent one, and the two other kinds.
        assert_eq!(report.ipis.counts.sent, counts.queued - counts.sends_saved + 12 * u64::from(cores));
        assert!(counts.sends_saved > 0);
        let functions = if cores == 3 { 3 * 3 } else { 3 * usize::from(cores) };
        assert_eq!(report.callbacks.len(), functions);
        assert_eq!(report.callbacks.iter().map(|callback| callback.latency.n).sum::<u64>(), calls);
        for stage in ["queue_to_callback", "callback"] {
            let n: u64 = report.stages.iter().filter(|row| row.stage == stage).map(|row| row.latency.n).sum();
            assert_eq!(n, calls, "{stage}");
        }
        let sent: u64 = report.stages.iter().filter(|row| row.stage == "queue_to_send").map(|row| row.latency.n).sum();
        assert_eq!(sent, counts.queued - counts.sends_saved);
    }
}

#[test]
fn stages_say_where_the_time_of_a_call_went() {
    let mut target = Simulator::calls(3);
    target.call(Context::Thread, 0, 2, Wish::drain(true));
    // Queued at t, sent at t + 1, now t + 2.
    target.interrupt(2, IpiKind::CallFunction, target.now + 9, |_| 20);
    let report = target.report();
    let stage = |name: &str| {
        let row = report.stages.iter().find(|row| row.stage == name);
        let row = row.unwrap_or_else(|| panic!("no stage {name}: {:?}", report.stages));
        assert_eq!((row.kind.as_str(), row.latency.n), ("call_function", 1));
        (row.core, (row.latency.max_ns.unwrap() / TICK).round())
    };
    for (name, expected) in [
        ("queue_to_send", (0, 1.0)),
        ("send_to_entry", (2, 10.0)),
        ("entry_to_acknowledge", (2, 2.0)),
        ("acknowledge_to_callback", (2, 4.0)),
        ("callback", (2, 20.0)),
        ("callback_to_end", (2, 4.0)),
        ("queue_to_callback", (2, 17.0)),
    ] {
        assert_eq!(stage(name), expected, "{name}");
    }
    assert_eq!(report.stages.len(), 7, "an interrupt with a callback has no `acknowledge_to_end`");
    let slowest = &report.calls.as_ref().unwrap().slowest[0];
    assert_eq!((slowest.caller, slowest.target, slowest.sent, slowest.synchronous), (0, 2, true, true));
    assert_eq!((slowest.queue_to_callback_ns / TICK).round(), 17.0);
}

#[test]
fn a_call_on_a_queue_in_use_needs_no_sgi_and_makes_it_deeper() {
    let mut target = Simulator::calls(5);
    target.now += 1000;
    let begun = target.now;
    for caller in 1..5 {
        target.call(Context::Thread, caller, 0, Wish::drain(false));
    }
    target.now += 100;
    target.quiesce(usual);
    target.end(0);
    let report = target.report();
    let counts = counts(&report);
    assert_eq!((counts.queued, counts.executed, counts.sends_saved, report.ipis.counts.sent), (4, 4, 3, 1));
    assert_eq!(report.verdict, Verdict::Clean);
    let depth = &report.queue_depth[0];
    assert_eq!((report.queue_depth.len(), depth.core, depth.kind, depth.max), (1, 0, "call_function", 4));
    // The fourth call was queued six ticks after the first, 1006 ticks after the plan's begin.
    assert_eq!((depth.max_at_ns / TICK).round(), (begun + 6 - 1_000_000) as f64);
    assert!(depth.mean > 0.0 && depth.mean < 1.0, "{depth:?}");
    assert!(depth.series.iter().any(|(_, most)| *most == 4), "{depth:?}");
    assert_eq!(depth.series.last().map(|(_, most)| *most), Some(0), "{depth:?}");
}

#[test]
fn a_send_to_many_is_a_message_for_each_target_and_for_no_other() {
    let mut target = Simulator::calls(70);
    target.send_many(Context::Thread, IpiKind::TimerBroadcast, 3, &[0, 1, 2, 64, 69]);
    target.quiesce(usual);
    // Of a second one, two targets are not reached before the run is cut short.
    target.send_many(Context::Thread, IpiKind::TimerBroadcast, 3, &[0, 1, 2]);
    target.now += 10;
    target.interrupt(1, IpiKind::TimerBroadcast, target.now, |_| 0);
    target.state = run_state::ABORTED;
    target.ended = Some(Ended::Interrupted);
    for order in [Order::Pieces, Order::Lanes, Order::Backwards] {
        for with_snapshot in [true, false] {
            (target.order, target.with_snapshot) = (order, with_snapshot);
            let report = target.report();
            sum_holds(&report);
            let all = report.ipis.counts;
            assert_eq!(
                (all.sent, all.delivered, all.in_flight, all.unknown),
                (8, 6, 2, 0),
                "{order:?} {with_snapshot}"
            );
            let of = |to: u16| {
                let pair = report.pairs.iter().find(|pair| (pair.from, pair.to) == (3, to)).unwrap();
                assert_eq!((pair.kind.as_str(), pair.delivery), ("timer_broadcast", Some("irq")));
                (pair.counts.sent, pair.counts.delivered, pair.latency.n)
            };
            assert_eq!((of(0), of(1), of(2), of(64), of(69)), ((2, 1, 1), (2, 2, 2), (2, 1, 1), (1, 1, 1), (1, 1, 1)));
            assert_eq!(report.verdict, Verdict::Clean, "{:?}", report.suspects);
        }
    }
}

#[test]
fn messages_of_thread_and_handler_to_one_core_are_told_apart_in_any_order() {
    let mut target = Simulator::calls(3);
    let kind = IpiKind::CallFunction;
    // Numbers 1 to 6 to core 2, in turn from the thread, from the handler, and to many; some answered together.
    for round in 0..20 {
        target.send_kind(Context::Thread, kind, 0, 2);
        target.now += 3;
        if round % 3 == 0 {
            target.interrupt(2, kind, target.now, |_| 0);
            target.now += 30;
        }
        target.send_kind(Context::Irq, kind, 0, 2);
        target.now += 3;
        target.send_many(Context::Thread, kind, 0, &[1, 2]);
        target.send_many(Context::Irq, kind, 0, &[2]);
        target.send_kind(Context::Irq, kind, 0, 2);
        target.now += 3;
        target.send_many(Context::Irq, kind, 0, &[1, 2]);
        target.now += 5;
        target.interrupt(2, kind, target.now, |_| 0);
        target.interrupt(1, kind, target.now + 1, |_| 0);
        target.now += 40;
    }
    target.end(0);
    let expected = target.report();
    sum_holds(&expected);
    assert_eq!(expected.ipis.counts.sent, 20 * 8);
    assert_eq!(expected.ipis.counts.delivered + expected.ipis.counts.coalesced, 20 * 8);
    assert_eq!(expected.verdict, Verdict::Clean, "{:?}", expected.suspects);
    same_in_every_order(&mut target);
}

/// Counters and records, and every order of the lanes, say the same.
fn same_in_every_order(target: &mut Simulator) {
    target.order = Order::Pieces;
    target.with_snapshot = true;
    let by_counters = target.report();
    for with_snapshot in [true, false] {
        target.with_snapshot = with_snapshot;
        target.order = Order::Pieces;
        let first = target.report();
        sum_holds(&first);
        assert_eq!(first.ipis.from, if with_snapshot { From::Target } else { From::Records });
        assert_eq!(first.ipis.counts, by_counters.ipis.counts);
        let pairs =
            |report: &Report| report.pairs.iter().map(|pair| (pair.from, pair.to, pair.counts)).collect::<Vec<_>>();
        assert_eq!(pairs(&first), pairs(&by_counters));
        assert_eq!(counts(&first), counts(&by_counters));
        let expected = first.json();
        for order in [Order::Lanes, Order::Backwards, Order::Shuffled(7), Order::Shuffled(0x1234_5678)] {
            target.order = order;
            let differing = differences(&target.report().json(), &expected);
            assert!(differing.is_empty(), "{order:?}, snapshot {with_snapshot}: {differing:#?}");
        }
    }
    target.with_snapshot = true;
}

/// The places in which two reports differ, and what stands there: reports are long.
fn differences(got: &Value, expected: &Value) -> Vec<String> {
    fn walk(place: &str, got: &Value, expected: &Value, list: &mut Vec<String>) {
        match (got, expected) {
            (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
                for (key, value) in a {
                    walk(&format!("{place}/{key}"), value, &b[key], list);
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (at, (a, b)) in a.iter().zip(b).enumerate() {
                    walk(&format!("{place}/{at}"), a, b, list);
                }
            }
            _ if got != expected && list.len() < 10 => list.push(format!("{place}: {got} instead of {expected}")),
            _ => {}
        }
    }
    let mut list = Vec::new();
    walk("", got, expected, &mut list);
    list
}

#[test]
fn the_order_in_which_lanes_are_drained_changes_nothing() {
    let mut target = busy(4, 5);
    same_in_every_order(&mut target);
}

#[test]
fn what_lossy_lanes_do_not_tell_is_unknown_and_never_claimed() {
    let mut unknown = 0;
    for core in 0..4 {
        for context in [Context::Thread, Context::Irq] {
            for order in [Order::Pieces, Order::Lanes, Order::Shuffled(3)] {
                let mut target = busy(4, 6);
                target.order = order;
                let lane = core * LANES_PER_CORE + context as usize;
                let records = target.lanes[lane].len();
                target.lapped.insert(lane, (records / 3, records / 2));
                let report = target.report();
                sum_holds(&report);
                let whole = counts(&busy(4, 6).report());
                let counts = counts(&report);
                assert!(counts.is_whole(), "{counts:?}");
                assert_eq!((counts.not_executed, counts.twice, counts.orphaned), (0, 0, 0), "{counts:?}");
                assert_eq!((report.verdict, report.suspects.len()), (Verdict::Clean, 0), "{:?}", report.suspects);
                assert!(report.advisories.is_empty(), "{:?}", report.advisories);
                assert_eq!(report.ipis.counts.delivered + report.ipis.counts.coalesced, report.ipis.counts.sent);
                assert_eq!(report.ipis.spurious + report.ipis.duplicate, 0);
                match context {
                    // A caller's records are missing: its calls ran all the same.
                    Context::Thread => {
                        assert_eq!((counts.queued, counts.executed), (whole.queued, whole.executed));
                    }
                    _ => {
                        assert!(counts.queued <= whole.queued && counts.executed < whole.executed, "{counts:?}");
                        unknown += counts.unknown;
                    }
                }
                // Without counters, what was lapped is not made up either.
                target.with_snapshot = false;
                let report = target.report();
                sum_holds(&report);
                assert_eq!((report.ipis.from, report.ipis.counts.lost), (From::Records, 0));
                assert_eq!(report.ipis.spurious + report.ipis.duplicate, 0);
            }
        }
    }
    assert!(unknown > 0);
}

#[test]
fn a_slow_callback_is_the_callbacks_and_its_core_stays_clean() {
    let slow = |core: u16, function: Function| usual(core, function) + if core == 2 { 5000 } else { 0 };
    let mut target = Simulator::calls(4);
    for round in 0..60 {
        for core in 0..4 {
            let caller = (core + 1) % 4;
            target.call(Context::Thread, caller, core, Wish::drain(round % 2 == 0));
            let entry = target.now + 10;
            let end = target.interrupt(core, IpiKind::CallFunction, entry, |function| slow(core, function));
            // While it runs, another core wakes this one: that waits for the handler's end.
            target.now = entry + 15;
            target.send_kind(Context::Thread, IpiKind::Reschedule, caller, core);
            target.interrupt(core, IpiKind::Reschedule, end + 4, |_| 0);
            target.now = end + 60;
            target.send_kind(Context::Thread, IpiKind::Reschedule, caller, core);
            target.interrupt(core, IpiKind::Reschedule, target.now + 11, |_| 0);
            target.now += 100;
        }
    }
    target.end(0);
    for order in [Order::Pieces, Order::Backwards] {
        target.order = order;
        target.scope = VerdictScope::Instructions;
        let report = target.report();
        sum_holds(&report);
        assert_eq!(named(&report.suspects), [("slow_callback", Role::Callback, Some(2), None, None)]);
        assert!(report.advisories.is_empty(), "{:?}", report.advisories);
        assert_eq!((report.verdict, report.ipis.late), (Verdict::Suspect, 0));
        let effect = report.suspects[0].effect_ns.unwrap() / TICK;
        assert!((effect - 5000.0).abs() < 3.0, "{effect}");
        assert!(report.suspects[0].q_value.unwrap() < 1e-6);
        let most = |stage: &str, core: u16| {
            let rows = report.stages.iter().filter(|row| row.stage == stage && row.core == core);
            rows.filter_map(|row| row.latency.max_ns).fold(0.0, f64::max) / TICK
        };
        for core in 0..4 {
            assert!(most("send_to_entry", core) < 15.0, "core {core}: {}", most("send_to_entry", core));
        }
        assert!(most("send_to_entry_busy", 2) > 4900.0 && most("send_to_entry_busy", 1) < 50.0);
        assert!(most("callback", 2) > 4900.0 && most("callback", 1) < 50.0);
        // Where time is the host's, it is advice.
        target.scope = VerdictScope::Emulated;
        let report = target.report();
        assert_eq!((report.verdict, report.suspects.len()), (Verdict::Clean, 0), "{:?}", report.suspects);
        assert_eq!(named(&report.advisories), [("slow_callback", Role::Callback, Some(2), None, None)]);
    }
}

#[test]
fn a_core_that_is_late_is_not_blamed_on_its_callbacks() {
    let mut target = Simulator::calls(4);
    for _ in 0..60 {
        for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to) {
            target.call(Context::Thread, from, to, Wish::drain(true));
            let slow = |lasts: u64| if to == 3 { lasts * 40 } else { lasts };
            target.now = target.interrupt(to, IpiKind::CallFunction, target.now + slow(10), |_| slow(20)) + 50;
        }
    }
    target.end(0);
    let report = target.report();
    assert_eq!(named(&report.suspects), [("late", Role::Receiver, Some(3), None, None)]);
    // Each message to it, none of the others.
    assert_eq!(report.ipis.late, 3 * 60);
}

#[test]
fn arguments_that_ask_for_time_are_no_slow_callbacks() {
    let mut target = Simulator::calls(4);
    for round in 0..80 {
        for core in 1..4 {
            // Core 3 is asked for ten times as much.
            let info = if core == 3 { 10_000 } else { 1000 };
            target.call(Context::Thread, 0, core, Wish { function: Function::Slow, info, wait: round % 2 == 0 });
            target.now = target.interrupt(core, IpiKind::CallFunction, target.now + 10, |_| info / 16) + 50;
        }
    }
    let report = target.report();
    assert_eq!((report.verdict, report.suspects.len()), (Verdict::Clean, 0), "{:?}", report.suspects);
}

/// Core 1 waits for a call to core 2; the run is given up seconds later.
fn given_up() -> Simulator {
    let mut target = busy(4, 2);
    target.call(Context::Thread, 1, 2, Wish::drain(true));
    let index = DescriptorUse::Waiting.index(1, 4);
    let live = &mut target.live[1];
    (live.doing, live.since, live.waits_for, live.waits_descriptor) = (doing::CALL, target.now, 2, index + 1);
    target.state = run_state::ABORTED;
    target.reason = abort_reason::DEADLINE;
    target.ended = Some(Ended::Deadline);
    target
}

#[test]
fn a_core_that_never_leaves_a_callback_is_stuck_whatever_ended_the_run() {
    let mut target = given_up();
    // It took the interrupt, and has been in the callback ever since.
    let index = DescriptorUse::Waiting.index(1, 4);
    let begun = target.now + 10;
    target.begin_callback(2, index, begun);
    target.call(Context::Thread, 3, 2, Wish::drain(false));
    target.now += 5 * HZ;
    let report = target.report();
    sum_holds(&report);
    assert_eq!(named(&report.suspects), [("stuck_core", Role::Core, Some(2), None, None)]);
    assert_eq!((report.verdict, report.exit_code(), report.ended), (Verdict::Failed, 1, Ended::Deadline));
    let evidence = &report.suspects[0].evidence;
    for part in [&format!("{:#x}", address(Function::Drain)), "1 call is pending", "core 1 waits for it", "5.00 s"] {
        assert!(evidence.contains(part), "{part}: {evidence}");
    }
    let counts = counts(&report);
    assert_eq!((counts.in_flight, counts.not_executed, counts.unknown), (1, 0, 0), "{counts:?}");
    // The same machine without anybody who waits: nothing is proven.
    for live in &mut target.live {
        live.doing = doing::WAITING;
        (live.waits_for, live.waits_descriptor) = (0xFFFF, 0);
    }
    target.forget_queue(2);
    let report = target.report();
    assert_eq!((report.verdict, report.exit_code(), report.suspects.len()), (Verdict::Incomplete, 2, 0));
}

#[test]
fn a_snapshot_that_is_older_than_the_records_accuses_nobody() {
    let mut target = given_up();
    let index = DescriptorUse::Waiting.index(1, 4);
    target.begin_callback(2, index, target.now + 10);
    target.state = run_state::RUNNING;
    target.ended = None;
    let live = target.live.clone();
    // What is written later than the snapshot: the callback ends, and the core does a second of other things.
    target.heads_behind = 2;
    let event =
        |t: u64, extra: u8| Event { t, kind: Kind::Stage, flags: 0, peer: 0xFFFF, msg: 0, intid: 1, extra, arg: 0 };
    target.emit(2, Context::Irq, event(target.now + 30, 1));
    target.emit(2, Context::Irq, event(target.now + 5 * HZ, 0));
    assert_eq!(target.live, live);
    let report = target.report();
    assert_eq!((report.verdict, report.suspects.len()), (Verdict::Incomplete, 0), "{:?}", report.suspects);
    // The same without them: it stood still until the newest record of the others.
    target.heads_behind = 0;
    let lane = &mut target.lanes[2 * LANES_PER_CORE + Context::Irq as usize];
    lane.truncate(lane.len() - 2);
    target.emit(3, Context::Thread, Event { kind: Kind::Mark, ..event(target.now + 5 * HZ, 0) });
    assert_eq!(named(&target.report().suspects), [("stuck_core", Role::Core, Some(2), None, None)]);
}

#[test]
fn a_core_that_stays_masked_while_others_wait_is_stuck() {
    let mut target = given_up();
    target.live[2].doing = doing::MASKED;
    target.live[2].since = target.now;
    target.now += 5 * HZ;
    let report = target.report();
    assert_eq!(named(&report.suspects), [("stuck_core", Role::Core, Some(2), None, None)]);
    assert!(report.suspects[0].evidence.contains("masked"), "{}", report.suspects[0].evidence);
    assert_eq!(report.verdict, Verdict::Failed);
    // One that was masked a moment ago is not.
    target.live[2].since = target.now - 10;
    let report = target.report();
    assert!(report.suspects.iter().all(|suspect| suspect.detector != "stuck_core"), "{:?}", report.suspects);
}

#[test]
fn a_call_whose_sgi_never_came_is_lost_though_the_run_was_given_up() {
    let mut target = given_up();
    target.now += 5 * HZ;
    let report = target.report();
    assert_eq!(named(&report.suspects), [("call_lost", Role::Callback, Some(2), None, None)]);
    assert_eq!(report.verdict, Verdict::Failed);
    let evidence = &report.suspects[0].evidence;
    assert!(evidence.contains("by core 1") && evidence.contains("was sent"), "{evidence}");
    // Core 3 calls two cores: before it can send to core 0, it waits for a lock that core 2 should have opened. Core 0 is no suspect.
    let mut target = given_up();
    let wish = Wish { function: Function::Gather, info: 0, wait: true };
    let index = target.call_many_halfway(3, 0, wish);
    let live = &mut target.live[3];
    (live.doing, live.since, live.waits_for, live.waits_descriptor) = (doing::CALL, target.now, 2, index + 1);
    target.now += 5 * HZ;
    let report = target.report();
    assert_eq!(named(&report.suspects), [("call_lost", Role::Callback, Some(2), None, None)]);
}

#[test]
fn a_descriptor_that_stays_locked_is_blamed_on_its_target() {
    let mut target = given_up();
    let index = DescriptorUse::Waiting.index(1, 4);
    let end = target.interrupt(2, IpiKind::CallFunction, target.now + 10, |_| 20);
    let descriptor = &mut target.descriptors[index as usize];
    (descriptor.flags, descriptor.state) = (call_flag::LOCK | call_flag::SYNCHRONOUS, call_state::EXECUTED);
    // The caller says so after T.
    target.now = end + 3 * HZ;
    let arg = target.now - target.live[1].since;
    let (t, intid, extra) = (target.now, 1, descriptor_generation(&target, index));
    target.emit(
        1,
        Context::Thread,
        Event { t, kind: Kind::CallWait, flags: 0, peer: 2, msg: index, intid, extra, arg },
    );
    target.now += 2 * HZ;
    let report = target.report();
    assert_eq!(named(&report.suspects), [("csd_lock", Role::Callback, Some(2), None, None)]);
    assert_eq!((report.verdict, report.exit_code(), report.ended), (Verdict::Failed, 1, Ended::Deadline));
    assert!(report.suspects[0].evidence.contains("still locked"), "{}", report.suspects[0].evidence);
    assert!(report.advisories.is_empty(), "the wait is explained: {:?}", report.advisories);
    assert_eq!(report.calls.as_ref().unwrap().waits.len(), 1);
    // A caller that waits for something else accuses nobody.
    target.live[1].waits_descriptor = 0;
    let report = target.report();
    assert_eq!((report.verdict, report.suspects.len()), (Verdict::Incomplete, 0), "{:?}", report.suspects);
    assert_eq!(named(&report.advisories), [("call_wait", Role::Callback, Some(2), None, None)]);
}

fn descriptor_generation(target: &Simulator, index: u32) -> u8 {
    target.descriptors[index as usize].generation as u8
}

#[test]
fn a_call_that_is_never_executed_is_lost() {
    for reused in [false, true] {
        let mut target = busy(4, 2);
        target.call(Context::Thread, 3, 1, Wish::drain(false));
        target.forget_queue(1);
        target.quiesce(usual);
        if reused {
            // The descriptor is used again, and that call runs.
            target.call(Context::Thread, 3, 1, Wish::drain(false));
            target.quiesce(usual);
        }
        for order in [Order::Pieces, Order::Lanes, Order::Backwards] {
            target.order = order;
            let report = target.report();
            sum_holds(&report);
            assert_eq!((counts(&report).not_executed, counts(&report).unknown), (1, 0));
            assert_eq!(named(&report.suspects), [("call_lost", Role::Callback, Some(1), None, None)], "{order:?}");
            assert_eq!((report.verdict, report.exit_code()), (Verdict::Failed, 1));
            assert!(report.suspects[0].evidence.contains("by core 3"), "{}", report.suspects[0].evidence);
        }
    }
}

#[test]
fn an_ipi_that_is_lost_explains_the_calls_that_waited_for_it() {
    let mut target = busy(4, 2);
    target.call(Context::Thread, 3, 1, Wish::drain(false));
    target.forget_queue(1);
    let slot = target.row(IpiKind::CallFunction, 3, 1);
    target.retire(slot, PROBE_ENABLED);
    let report = target.report();
    sum_holds(&report);
    assert_eq!(report.ipis.counts.lost, 1);
    assert_eq!(named(&report.suspects), [("lost", Role::Pair, None, Some(3), Some(1))]);
}

#[test]
fn a_call_that_is_executed_again_is_executed_twice() {
    let mut target = busy(4, 2);
    target.call(Context::Thread, 3, 1, Wish::drain(false));
    target.quiesce(usual);
    target.now += 100;
    let index = DescriptorUse::Single.index(3, 4);
    target.execute_again(1, index, target.now);
    for order in [Order::Pieces, Order::Lanes, Order::Backwards] {
        target.order = order;
        let report = target.report();
        assert_eq!((counts(&report).twice, counts(&report).orphaned), (1, 0));
        assert_eq!(named(&report.suspects), [("call_twice", Role::Callback, Some(1), None, None)], "{order:?}");
        assert_eq!(report.verdict, Verdict::Failed);
    }
    // One that nobody queued is told, and accuses nobody.
    let mut target = busy(4, 2);
    let index = DescriptorUse::Single.index(3, 4);
    let descriptor = &mut target.descriptors[index as usize];
    (descriptor.function, descriptor.generation) = (address(Function::Drain), descriptor.generation + 1);
    target.execute_again(1, index, target.now + 100);
    let report = target.report();
    assert_eq!((counts(&report).twice, counts(&report).orphaned), (0, 1));
    assert_eq!((report.verdict, report.suspects.len()), (Verdict::Clean, 0), "{:?}", report.suspects);
    assert_eq!(named(&report.advisories), [("call_orphaned", Role::Callback, Some(1), None, None)]);
}

#[test]
fn calls_are_joined_over_clocks_that_are_apart() {
    for ahead in [0, 1] {
        let mut target = Simulator::calls(4);
        // A millisecond: what one core queues runs before it was queued, by the clock of the other.
        target.skew[ahead] = 62_500;
        target.cores[1].skew_before_low = if ahead == 1 { 62_400 } else { -62_600 };
        target.cores[1].skew_before_high = if ahead == 1 { 62_600 } else { -62_400 };
        target.compiled.meta.phases[0].timed = false;
        for round in 0..40 {
            for (from, to) in [(0, 1), (1, 0), (2, 1), (1, 3)] {
                target.call(Context::Thread, from, to, Wish::drain(round % 2 == 0));
                target.quiesce(usual);
            }
        }
        target.end(0);
        for order in [Order::Pieces, Order::Lanes, Order::Backwards] {
            target.order = order;
            let report = target.report();
            sum_holds(&report);
            assert_eq!((counts(&report).queued, counts(&report).executed), (160, 160), "{order:?}");
            assert_eq!(named(&report.suspects), [("clock", Role::Clock, Some(1), None, None)], "{order:?}");
        }
    }
}

#[test]
fn calls_that_a_broken_clock_keeps_apart_accuse_the_clock_alone() {
    let mut target = busy(4, 2);
    target.skew[1] = 62_500;
    // The self-test saw that this clock goes back, not how far it is ahead.
    target.cores[1].backwards = 3;
    target.call(Context::Thread, 1, 2, Wish::drain(true));
    target.quiesce(usual);
    target.end(0);
    let report = target.report();
    sum_holds(&report);
    let counts = counts(&report);
    assert_eq!((counts.not_executed, counts.orphaned), (1, 1), "{counts:?}");
    assert_eq!(named(&report.suspects), [("clock", Role::Clock, Some(1), None, None)]);
    assert!(report.advisories.is_empty(), "{:?}", report.advisories);
    assert_eq!(report.verdict, Verdict::Suspect);
}

#[test]
fn a_descriptor_used_three_hundred_times_keeps_its_calls_apart() {
    // The records hold eight bits of the number of uses. Clocks are apart by as much as fifty of them take.
    let mut target = Simulator::calls(3);
    (target.skew[1], target.cores[1].skew_before_low, target.cores[1].skew_before_high) = (2000, 1900, 2100);
    for round in 0..700 {
        target.call(Context::Thread, 0, 1 + round % 2, Wish::drain(false));
        target.quiesce(usual);
    }
    target.end(0);
    for order in [Order::Pieces, Order::Lanes, Order::Backwards, Order::Shuffled(11)] {
        target.order = order;
        let report = target.report();
        let counts = counts(&report);
        assert_eq!((counts.queued, counts.executed, counts.twice, counts.orphaned), (700, 700, 0, 0), "{order:?}");
        let longest = report.calls.unwrap().slowest[0].queue_to_callback_ns / TICK;
        assert!(longest < 2040.0, "{order:?}: a call is joined with the execution of another: {longest}");
    }
}

#[test]
fn crash_stops_are_no_faults_and_come_as_the_records_say() {
    let mut target = Simulator::calls(4);
    for core in &mut target.cores {
        core.features = core_feature::PSEUDO_NMI;
    }
    for (to, delivery) in [(1, Delivery::Irq), (2, Delivery::PseudoNmi), (3, Delivery::Nmi)] {
        target.send_kind(Context::Thread, IpiKind::CrashStop, 0, to);
        target.now += 12;
        let end = target.interrupt_as(delivery, to, IpiKind::CrashStop, target.now, |_| 0);
        target.now = end + 10;
        let fault = &mut target.faults[usize::from(to)];
        (fault.kind, fault.elr, fault.sp) = (fault_kind::CRASH_STOP, 0xFFFF_FFFF_8000_4000 + u64::from(to), 0x1000);
    }
    target.end(0);
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.verdict, report.suspects.len()), (Verdict::Clean, 0), "{:?}", report.suspects);
    assert!(report.faults.is_empty());
    let stops: Vec<(u16, &str)> = report.crash_stops.iter().map(|stop| (stop.core, stop.pc.as_str())).collect();
    assert_eq!(stops, [(1, "0xffffffff80004001"), (2, "0xffffffff80004002"), (3, "0xffffffff80004003")]);
    let ways: Vec<_> = report.pairs.iter().map(|pair| (pair.to, pair.kind.as_str(), pair.delivery)).collect();
    let name = "crash_stop";
    assert_eq!(ways, [(1, name, Some("irq")), (2, name, Some("pseudo_nmi")), (3, name, Some("nmi"))]);
    let kinds: Vec<_> = report.kinds.iter().map(|kind| (kind.kind, kind.delivery, kind.counts.sent)).collect();
    assert_eq!(kinds, [(name, Some("irq"), 1), (name, Some("pseudo_nmi"), 1), (name, Some("nmi"), 1)]);
    assert_eq!(report.target.cores[1].nmi, Some("pseudo_nmi"));
    let text = report.text(&Options::default());
    assert!(text.contains("core 2 was at PC 0xffffffff80004002"), "{text}");
}

#[test]
fn what_a_parked_core_makes_wait_is_not_late() {
    let mut target = Simulator::calls(4);
    for _ in 0..40 {
        for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to) {
            target.send_kind(Context::Thread, IpiKind::Reschedule, from, to);
            let entry = target.now + 10;
            if to != 2 {
                target.now = target.interrupt(to, IpiKind::Reschedule, entry, |_| 0) + 20;
                continue;
            }
            // Core 2 is stopped just before, and woken long after.
            target.send_kind(Context::Thread, IpiKind::Stop, from, to);
            let stopped = target.interrupt(to, IpiKind::Stop, target.now + 8, |_| 0);
            target.park(to, IpiKind::Stop, stopped + 1, 0);
            target.now += 3000;
            target.send_kind(Context::Thread, IpiKind::Wakeup, from, to);
            let woken = target.interrupt(to, IpiKind::Wakeup, target.now + 9, |_| 0);
            target.park(to, IpiKind::Stop, woken + 1, 1);
            target.now = target.interrupt(to, IpiKind::Reschedule, woken + 6, |_| 0) + 20;
        }
    }
    target.end(0);
    let report = target.report();
    sum_holds(&report);
    assert_eq!((report.verdict, report.suspects.len()), (Verdict::Clean, 0), "{:?}", report.suspects);
    assert_eq!(report.ipis.late, 0);
}

#[test]
fn the_text_of_calls_fits_its_terminal() {
    for cores in [3, 8, 17] {
        let mut target = busy(cores, 30);
        target.faults[1].kind = fault_kind::CRASH_STOP;
        target.faults[1].elr = 0xFFFF_FFFF_8000_4000;
        let report = target.report();
        let text = report.text(&Options { color: false, width: 80, unicode: true });
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 80, "{cores} cores: {widest} columns\n{text}");
        for part in
            ["IPI kinds", "reschedule", "queue_to_callback", "needed no SGI", "most calls on a queue", "Crash stops"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        if std::env::var_os("SHOW").is_some() {
            println!("{text}");
        }
    }
}

#[test]
fn the_json_of_calls_is_the_contract() {
    let mut target = Simulator::calls(2);
    target.call(Context::Thread, 0, 1, Wish::drain(true));
    target.work(1, Wish::drain(false));
    target.quiesce(usual);
    target.call(Context::Thread, 0, 1, Wish::drain(false));
    target.call_many(0, &[1], Wish { function: Function::Gather, info: 0, wait: true });
    target.quiesce(usual);
    target.send_kind(Context::Thread, IpiKind::CrashStop, 0, 1);
    target.interrupt_as(Delivery::PseudoNmi, 1, IpiKind::CrashStop, target.now + 9, |_| 0);
    target.faults[1].kind = fault_kind::CRASH_STOP;
    target.end(0);
    let json = target.report().json();
    // The rest is that of every report.
    let keys = ["calls", "callbacks", "queue_depth", "kinds", "pairs", "stages", "crash_stops"];
    let part = keys.into_iter().map(|key| (key.to_owned(), json[key].clone())).collect();
    crate::compare_golden("calls.json", &Value::Object(part));
}

#[test]
fn damaged_captures_of_calls_never_panic() {
    let mut target = busy(3, 2);
    target.order = Order::Shuffled(5);
    let folder = tempfile::tempdir().unwrap();
    let path = target.saved(folder.path());
    let bytes = std::fs::read(path).unwrap();
    for at in (0..bytes.len()).step_by((bytes.len() / 150).max(1)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xFF;
        crate::survives(&folder, &damaged);
        crate::survives(&folder, &bytes[..at]);
    }
}

#[test]
fn hostile_records_of_calls_never_panic() {
    let mut target = busy(3, 1);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    for _ in 0..20_000 {
        let word = draw();
        let kind = Kind::from_code((word % 19) as u8);
        let (core, context) =
            ((draw() % 3) as u16, [Context::Thread, Context::Irq, Context::Nmi][(draw() % 3) as usize]);
        let small = word >> 60 != 0;
        let event = Event {
            t: if small { target.now + draw() % 1000 } else { draw() },
            kind,
            flags: draw() as u8,
            peer: if small { (draw() % 4) as u16 } else { draw() as u16 },
            msg: if small { (draw() % 40) as u32 } else { draw() as u32 },
            intid: if small { (draw() % 8) as u8 } else { draw() as u8 },
            extra: draw() as u8,
            arg: draw(),
        };
        target.emit(core, context, event);
        target.now += 3;
    }
    for (place, live) in target.live.iter_mut().enumerate() {
        live.doing = (draw() % 9) as u8;
        (live.function, live.function_since, live.since) = (draw(), draw(), draw());
        (live.waits_for, live.waits_descriptor) = (place as u16, draw() as u32);
    }
    for with_snapshot in [true, false] {
        target.with_snapshot = with_snapshot;
        for state in [run_state::ENDED, run_state::ABORTED, run_state::RUNNING] {
            target.state = state;
            let report = target.report();
            sum_holds(&report);
            report.text(&Options::default());
            report.json();
        }
    }
}

/// What can happen next.
#[derive(Clone, Debug)]
enum Step {
    Call(u16, u16, bool),
    Many(u16, u8, bool),
    Work(u16),
    Chain(u16, u16),
    Kind(u16, u16, u8),
    Tick(u16, u8),
    Interrupt(u16),
    GiveUp(u16, u16, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let core = || 0..4_u16;
    let kinds = || prop_oneof![Just(0_u8), Just(1), Just(4), Just(7)];
    let step = prop_oneof![
        6 => (core(), core(), any::<bool>()).prop_map(|(from, to, wait)| Step::Call(from, to, wait)),
        3 => (core(), any::<u8>(), any::<bool>()).prop_map(|(from, mask, wait)| Step::Many(from, mask, wait)),
        1 => core().prop_map(Step::Work),
        1 => (core(), 1..4_u16).prop_map(|(from, stride)| Step::Chain(from, stride)),
        3 => (core(), core(), kinds()).prop_map(|(from, to, kind)| Step::Kind(from, to, kind)),
        1 => (core(), any::<u8>()).prop_map(|(from, mask)| Step::Tick(from, mask)),
        7 => core().prop_map(Step::Interrupt),
        1 => (core(), core(), kinds()).prop_map(|(from, to, kind)| Step::GiveUp(from, to, kind)),
    ];
    proptest::collection::vec(step, 0..200)
}

fn others(from: u16, mask: u8) -> Vec<u16> {
    (0..4).filter(|core| *core != from && mask >> core & 1 == 1).collect()
}

fn play(target: &mut Simulator, step: Step) {
    let contexts = [Context::Thread, Context::Irq];
    match step {
        Step::Call(from, to, wait) if from != to && target.is_free(from, Wish::drain(wait)) => {
            target.call(Context::Thread, from, to, Wish::drain(wait));
        }
        Step::Many(from, mask, wait) if target.are_free(from, &others(from, mask)) => {
            target.call_many(from, &others(from, mask), Wish { function: Function::Gather, info: 0, wait });
        }
        Step::Work(core) if target.is_idle(DescriptorUse::Work.index(core, 4)) => {
            target.work(core, Wish::drain(false));
        }
        Step::Chain(from, stride) => {
            let next = (from + stride) % 4;
            let info = Onward { origin: from, hops: 3, stride }.info();
            let wish = Wish { function: Function::Onward, info, wait: false };
            let hops = (0..4).all(|core| target.is_idle(DescriptorUse::Onward(from).index(core, 4)));
            if next != from && target.is_free(from, wish) && hops {
                target.call(Context::Thread, from, next, wish);
            }
        }
        Step::Kind(from, to, kind) if from != to => {
            let context = contexts[usize::from(kind) % 2];
            target.send_kind(context, IpiKind::from_intid(kind).unwrap(), from, to);
        }
        Step::Tick(from, mask) => {
            target.send_many(Context::Irq, IpiKind::TimerBroadcast, from, &others(from, mask));
        }
        Step::Interrupt(core) => {
            if let Some(kind) = target.pending_kinds(core).last().copied() {
                let entry = target.now + 2;
                target.now = entry;
                target.now = target.interrupt(core, kind, entry, |_| 5).max(target.now) + 1;
            }
        }
        Step::GiveUp(from, to, kind) => {
            let slot = target.row(IpiKind::from_intid(kind).unwrap(), from, to);
            // What carries calls is not given up here: they would stand on their queue for ever.
            if kind != 1 && target.waits_for(slot) {
                target.retire(slot, PROBE_ENABLED);
            }
        }
        _ => {}
    }
    target.now += 2;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn calls_and_outcomes_add_up_in_any_order_of_the_lanes(steps in steps(), interrupted in any::<bool>(), seed in any::<u64>()) {
        let mut target = Simulator::calls(4);
        for step in steps {
            play(&mut target, step);
        }
        if interrupted {
            target.state = run_state::ABORTED;
            target.ended = Some(Ended::Interrupted);
        } else {
            // As long as those of `play`: callbacks that take longer on one core are a finding.
        target.quiesce(|_, _| 5);
        }
        let by_counters = target.report();
        sum_holds(&by_counters);
        prop_assert_eq!(by_counters.ipis.spurious + by_counters.ipis.duplicate, 0);
        let calls = counts(&by_counters);
        prop_assert!(calls.is_whole());
        prop_assert_eq!(calls.queued, calls.executed + calls.in_flight);
        prop_assert!(interrupted || calls.in_flight == 0);
        prop_assert_eq!((calls.twice, calls.orphaned), (0, 0));
        target.with_snapshot = false;
        let by_records = target.report();
        sum_holds(&by_records);
        prop_assert_eq!(by_counters.ipis.counts, by_records.ipis.counts);
        let pairs = |report: &Report| report.pairs.iter().map(|p| (p.from, p.to, p.kind.clone(), p.counts)).collect::<Vec<_>>();
        prop_assert_eq!(pairs(&by_counters), pairs(&by_records));
        for order in [Order::Backwards, Order::Shuffled(seed)] {
            target.order = order;
            prop_assert_eq!(differences(&target.report().json(), &by_records.json()), Vec::<String>::new());
        }
    }

    #[test]
    fn lost_records_of_calls_are_never_made_up(steps in steps(), lane in 0..8_usize, from in 0..100_usize, length in 1..100_usize) {
        let mut target = Simulator::calls(4);
        for step in steps {
            play(&mut target, step);
        }
        // As long as those of `play`: callbacks that take longer on one core are a finding.
        target.quiesce(|_, _| 5);
        let whole = counts(&target.report());
        // Thread or IRQ lane of each core.
        let lane = lane / 2 * LANES_PER_CORE + lane % 2;
        let records = target.lanes[lane].len();
        let (from, until) = (from * records / 100, ((from + length) * records / 100).min(records));
        if from < until {
            target.lapped.insert(lane, (from, until));
        }
        for order in [Order::Pieces, Order::Backwards] {
            target.order = order;
            let report = target.report();
            sum_holds(&report);
            let calls = counts(&report);
            prop_assert!(calls.is_whole());
            prop_assert!(calls.queued <= whole.queued && calls.executed <= whole.executed);
            prop_assert_eq!((calls.not_executed, calls.twice, calls.orphaned, calls.in_flight), (0, 0, 0, 0));
            prop_assert_eq!(report.ipis.spurious + report.ipis.duplicate, 0);
            prop_assert!(report.suspects.iter().all(|suspect| suspect.detector == "lost"), "{:?}", report.suspects);
        }
    }
}
