//! What else was seen: gaps that excuse latencies, heartbeats that woke an SGI, clocks that went back, sweeps, series, and what the
//! report says of them. Whatever the order in which lanes were drained.

use host::correlate::witness::{Excused, Gap, GapTotals, Recovered, StepBack, SweepStep};
use host::correlate::{Ipis, correlate};
use trace_ring::plan::transition;
use trace_ring::record::{Kind, Witness};

use super::simulator::Order;
use super::*;

const ORDERS: [Order; 6] =
    [Order::Pieces, Order::Lanes, Order::Backwards, Order::Shuffled(1), Order::Shuffled(29), Order::Shuffled(4242)];

/// 50 us.
const GAP: u64 = HZ / 20_000;

/// The text with its lines joined.
fn flat(report: &Report) -> String {
    report.text(&Options::default()).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn joined(target: &Simulator) -> Ipis {
    let folder = tempfile::tempdir().unwrap();
    correlate(&Capture::open(&target.saved(folder.path())).unwrap()).unwrap()
}

/// The joined IPIs in every order of the lanes.
fn in_every_order(target: &mut Simulator, check: impl Fn(&Ipis)) {
    for order in ORDERS {
        target.order = order;
        let ipis = joined(target);
        for slot in &ipis.slots {
            assert!(slot.counts.is_whole(), "{order:?}: {slot:?}");
            let timed = slot.latency.map_or(0, |latency| latency.n);
            let judged = slot.judged().map_or(0, |latency| latency.n);
            assert_eq!(timed, judged + slot.excused.stolen + slot.excused.doubtful, "{order:?}: {slot:?}");
        }
        check(&ipis);
    }
}

/// A machine with gaps of each kind around the messages of pair 0 to 1.
fn robbed() -> Simulator {
    let mut target = Simulator::standard(4);
    target.watch(1_000_000, 50_000);
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    // Away for nearly all of it: the timer, which was due all along, is taken after the SGI.
    let start = target.now;
    target.now += 100;
    target.send(slot, 2);
    target.now += 100_000;
    target.acknowledge(1, 0, target.now);
    target.now += 30;
    target.gap(1, Context::Irq, start);
    target.heartbeat(1, start, 0);
    // Sent at the end of a gap that its receiver's polling loop saw: short, and explained all the same.
    target.now += 1000;
    let start = target.now;
    target.now += 2 * GAP;
    target.send(slot, 2);
    target.now += 60;
    target.acknowledge(1, 0, target.now);
    target.now += 10;
    target.gap(1, Context::Thread, start);
    // Away for a small part of it.
    target.now += 1000;
    target.send(slot, 2);
    let start = target.now + 3000;
    target.now += 3000 + GAP;
    target.gap(1, Context::Irq, start);
    target.now += 40_000;
    target.acknowledge(1, 0, target.now);
    // The sender was away before its SGI left.
    target.now += 1000;
    target.send(slot, GAP as u32);
    target.acknowledge(1, 0, target.now + GAP + 12);
    target.now += GAP + 1000;
    // A gap of another core excuses nothing.
    target.send(slot, 2);
    let start = target.now;
    target.now += 5000;
    target.gap(2, Context::Thread, start);
    target.acknowledge(1, 0, target.now);
    target.now += 1000;
    // A gap between messages excuses nothing either.
    let start = target.now;
    target.now += 5000;
    target.gap(1, Context::Irq, start);
    target.ping(slot, 11);
    target
}

#[test]
fn a_latency_that_a_gap_covers_is_not_judged_whatever_the_order_of_lanes() {
    let mut target = robbed();
    let slot = target.slot(0, 1);
    in_every_order(&mut target, |ipis| {
        let pair = &ipis.slots[slot];
        let expected = Excused { stolen: 3, stolen_longest: 100_000, doubtful: 1, doubtful_longest: 43_000 + GAP };
        assert_eq!(pair.excused, expected);
        assert_eq!(pair.latency.unwrap().max, 100_000.0);
        let judged = pair.judged().unwrap();
        assert_eq!((judged.n, judged.max), (22, 5000.0));
        assert_eq!((pair.judged_above(4999), pair.judged_above(5000)), (1, 0));
        let others = ipis.slots.iter().enumerate().filter(|(index, _)| *index != slot);
        assert!(others.into_iter().all(|(_, other)| other.excused == Excused::default() && other.free.is_none()));
        assert_eq!(ipis.gaps.len(), 5);
        assert!(ipis.gaps.is_sorted_by_key(|gap| gap.from));
        let Gap { core, from, to, witness } = ipis.gaps[0];
        assert_eq!((core, to - from, witness), (1, 100_130, Witness::Timer));
        let totals = &ipis.gap_totals;
        assert_eq!(totals.len(), 4);
        assert_eq!(
            (totals[1].count, totals[1].longest, totals[1].heartbeats, totals[1].unrecorded),
            (4, 100_130, 1, 0)
        );
        assert_eq!(totals[2], GapTotals { count: 1, ticks: 5000, longest: 5000, heartbeats: 0, unrecorded: 0 });
    });
}

#[test]
fn stolen_time_is_reported_and_gaps_without_records_are_counted() {
    let mut target = robbed();
    let report = target.report();
    sum_holds(&report);
    let stolen = &report.stolen;
    assert_eq!((stolen.heartbeat_ns, stolen.gap_ns), (Some(1_000_000), Some(50_000)));
    assert_eq!((stolen.ipis_stolen, stolen.ipis_doubtful), (3, 1));
    let cores: Vec<_> = stolen.cores.iter().map(|core| (core.core, core.gaps, core.longest_ns)).collect();
    assert_eq!(cores, [(1, 4, 100_130.0 * 16.0), (2, 1, 80_000.0)]);
    let pair = report.pairs.iter().find(|pair| (pair.from, pair.to, pair.phase.as_str()) == (0, 1, "pairs/wfi"));
    let pair = pair.unwrap_or(&report.pairs[0]);
    assert_eq!((pair.stolen, pair.doubtful), (3, 1));
    let text = flat(&report);
    for part in [
        "Stolen time",
        "cores were away 5 times",
        "what is shorter than 50 us was not seen",
        "most: core 1: 4 times, 1.83 ms; core 2: 1 times, 80.0 us",
        "3 IPIs were late because of that for the greater part, 1 in part",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("have no record"), "{text}");
    // Two more by the counter than by the records.
    target.cores[1].gaps += 2;
    let report = target.report();
    assert_eq!(report.stolen.cores[0].unrecorded, 2);
    assert!(flat(&report).contains("2 gaps have no record"));
}

#[test]
fn who_did_not_watch_is_told_on_an_emulator_alone() {
    for (scope, heartbeat, told) in [
        (VerdictScope::Emulated, 0, true),
        (VerdictScope::Virtualized, 0, true),
        (VerdictScope::Emulated, 1_000_000, false),
        (VerdictScope::Silicon, 0, false),
        (VerdictScope::Instructions, 0, false),
    ] {
        let mut target = Simulator::standard(2);
        target.scope = scope;
        target.watch(heartbeat, heartbeat / 20);
        target.run(20, quiet);
        let text = flat(&target.report());
        assert_eq!(text.contains("nobody watched"), told, "{scope:?} {heartbeat}: {text}");
        assert_eq!(text.contains("Stolen time"), told);
    }
}

#[test]
fn an_sgi_that_only_a_heartbeat_woke_is_recovered_and_one_that_came_late_with_it_is_not() {
    let mut target = Simulator::standard(4);
    target.watch(1_000_000, 50_000);
    target.run(20, quiet);
    let (slot, other) = (target.slot(0, 1), target.slot(0, 2));
    // Pending for a while when the heartbeat came, on time.
    target.send(slot, 2);
    target.now += 30_000;
    target.heartbeat(1, target.now - 20, 1);
    target.now += 200;
    target.acknowledge(1, 0, target.now);
    target.now += 1000;
    // It came while the handler was entered.
    let due = target.now + 10;
    target.send(slot, 2);
    target.now += 60;
    target.heartbeat(1, due, 1);
    target.now += 60;
    target.acknowledge(1, 0, target.now);
    target.now += 1000;
    // Another INTID was pending, and another core's heartbeat.
    target.send(slot, 2);
    target.now += 30_000;
    target.heartbeat(1, target.now - 20, 2);
    target.heartbeat(2, target.now - 20, 1);
    target.now += 200;
    target.acknowledge(1, 0, target.now);
    target.now += 1000;
    // The core was away, all of it.
    target.send(other, 2);
    let start = target.now + 400;
    target.now += 200_000;
    target.heartbeat(2, start, 1);
    target.gap(2, Context::Irq, start);
    target.now += 200;
    target.acknowledge(2, 0, target.now);
    target.now += 1000;
    in_every_order(&mut target, |ipis| {
        assert_eq!(ipis.slots[slot].recovered, Recovered { count: 1, longest: 30_200 });
        assert_eq!(ipis.slots[other].recovered, Recovered::default());
        assert_eq!(ipis.slots[other].excused.stolen, 1);
        assert!(ipis.step_backs.is_empty());
    });
    assert_eq!(target.report().pairs.iter().map(|pair| pair.recovered).sum::<u64>(), 1);
}

#[test]
fn answers_before_their_message_are_counted_where_one_is_outstanding() {
    let mut target = Simulator::standard(3);
    target.skew[2] = 40;
    target.run(10, quiet);
    let backwards =
        |ipis: &Ipis| ipis.slots.iter().map(|slot| (slot.from, slot.to, slot.backwards)).collect::<Vec<_>>();
    let timed: Vec<bool> =
        target.slots.iter().map(|slot| target.compiled.meta.phases[usize::from(slot.phase)].timed).collect();
    in_every_order(&mut target, |ipis| {
        for ((from, to, count), timed) in backwards(ipis).into_iter().zip(&timed) {
            // Core 2 is ahead: what it sends is answered before.
            assert_eq!(count, if from == 2 && to != 2 && *timed { 10 } else { 0 }, "{from} to {to}");
        }
        assert_eq!(ipis.spurious + ipis.duplicate, 0);
    });
    let clock = target.report().clock;
    assert!(clock.backwards_ipis >= 20, "{}", clock.backwards_ipis);
}

#[test]
fn an_answer_before_its_message_proves_nothing_unless_others_follow() {
    let mut target = Simulator::standard(3);
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    // The vector is entered for something else; then the message is sent, and the acknowledge gives its SGI.
    let early = |target: &mut Simulator| {
        target.now += 14;
        target.send(slot, 2);
        target.acknowledge(1, 0, target.now - 4);
        target.now += 1000;
    };
    early(&mut target);
    target.ping(slot, 10);
    early(&mut target);
    early(&mut target);
    target.ping(slot, 10);
    in_every_order(&mut target, |ipis| assert!(ipis.slots.iter().all(|slot| slot.backwards == 0)));
    (0..4).for_each(|_| early(&mut target));
    target.ping(slot, 10);
    in_every_order(&mut target, |ipis| {
        let backwards: Vec<u64> = ipis.slots.iter().map(|slot| slot.backwards).filter(|count| *count > 0).collect();
        assert_eq!(backwards, [4]);
    });
}

#[test]
fn empty_acknowledges_wait_for_what_explains_them_however_many_they_are() {
    let mut target = Simulator::standard(3);
    target.watch(0, 0);
    let (a, b) = (target.slot(1, 0), target.slot(2, 0));
    let (step, rounds) = (target.compiled.meta.timeout_ns * HZ / 1_000_000_000 / 100, 66_000);
    for _ in 0..rounds {
        // The handler of the first answers the second, whose own interrupt finds nothing.
        target.send(a, 2);
        let entry = target.now + 10;
        target.now += 14;
        target.send(b, 2);
        target.acknowledge(0, 0, entry);
        target.acknowledge(0, 0, entry + 20);
        target.now += step;
    }
    // The receiver's lane comes before those of its senders.
    target.order = Order::Lanes;
    let ipis = joined(&target);
    assert_eq!((ipis.spurious, ipis.duplicate, ipis.totals.delivered), (0, 0, rounds));
}

#[test]
fn a_time_stamp_before_the_one_before_it_is_a_step_back() {
    let mut target = Simulator::standard(3);
    target.run(20, quiet);
    let (slot, now) = (target.slot(1, 0), target.now);
    target.ping(slot, 10);
    // One send stamp lies in the past; the next is right again.
    target.now -= 500;
    target.send(slot, 2);
    target.now += 530;
    target.acknowledge(0, 0, target.now);
    target.now += 100;
    target.ping(slot, 10);
    in_every_order(&mut target, |ipis| {
        let back = StepBack { core: 1, context: Context::Thread, t: now + 30 - 500, before: now };
        assert_eq!(ipis.step_backs, [back]);
    });
    // And one vector entry.
    let entry = target.now;
    target.send(slot, 2);
    target.now += 10;
    target.acknowledge(0, 0, entry - 700);
    in_every_order(&mut target, |ipis| {
        assert_eq!(ipis.step_backs.len(), 2);
        assert!(ipis.step_backs.iter().any(|back| (back.core, back.context) == (0, Context::Irq)));
    });
    let report = target.report();
    assert_eq!(report.clock.step_backs, 2);
    assert!(flat(&report).contains("2 time stamps WENT BACK"));
}

#[test]
fn a_sweep_has_its_latencies_by_distance_without_what_a_gap_covers() {
    let mut target = Simulator::standard(3);
    target.watch(1_000_000, 50_000);
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    for round in 0..3 {
        for offset in [-200_i64, -100, 0, 100, 200] {
            target.sweep(slot, transition::WFI, offset);
            let latency = match (offset, round) {
                (100, 1) => 3000,
                (0, 2) => 90_000,
                _ => 20 + round,
            };
            let start = target.now;
            target.now += latency;
            target.acknowledge(1, 0, target.now);
            if latency == 90_000 {
                target.gap(1, Context::Irq, start);
            }
            target.now += 100;
        }
    }
    target.sweep(slot, transition::WFI, 200);
    target.retire(slot, PROBE_ENABLED);
    let back = target.slot(1, 0);
    target.sweep(back, transition::UNMASK, 7);
    target.acknowledge(0, 0, target.now + 11);
    target.now += 100;
    in_every_order(&mut target, |ipis| {
        let [wfi, unmask] = ipis.sweeps.as_slice() else { panic!("{:?}", ipis.sweeps) };
        assert_eq!((wfi.from, wfi.to, wfi.transition), (0, 1, transition::WFI));
        let step = |offset, sent, timed, max, given_up| SweepStep { offset, sent, timed, min: 20, max, given_up };
        let expected = [
            step(-200, 3, 3, 22, 0),
            step(-100, 3, 3, 22, 0),
            step(0, 3, 2, 21, 0),
            step(100, 3, 3, 3000, 0),
            step(200, 4, 3, 22, 1),
        ];
        assert_eq!(wfi.steps, expected);
        assert_eq!((unmask.from, unmask.to, unmask.steps.len()), (1, 0, 1));
        assert_eq!((unmask.steps[0].offset, unmask.steps[0].max), (7, 11));
    });
    let report = target.report();
    sum_holds(&report);
    assert_eq!(report.sweeps[0].worst_offset_ns, Some(3200.0));
    assert_eq!(report.sweeps[0].steps[3].max_ns, Some(48_000.0));
    let text = report.text(&Options::default());
    assert!(text.contains("Sends timed against a transition"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    // Without the lost one, the latest is the worst.
    let mut target = Simulator::standard(3);
    target.run(5, quiet);
    for (offset, latency) in [(-5, 30), (3, 40), (9, 40)] {
        let slot = target.slot(0, 1);
        target.sweep(slot, transition::WFE, offset);
        target.acknowledge(1, 0, target.now + latency);
        target.now += 100;
    }
    assert_eq!(target.report().sweeps[0].worst_offset_ns, Some(48.0));
}

#[test]
fn a_sweep_whose_send_is_missing_is_left_out() {
    let mut target = Simulator::standard(3);
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    target.sweep(slot, transition::WFI, 10);
    target.acknowledge(1, 0, target.now + 20);
    let sent = target.lanes[0].len() - 1;
    target.lapped.insert(0, (sent, sent + 1));
    target.now += 100;
    target.ping(slot, 10);
    assert!(joined(&target).sweeps.is_empty());
}

#[test]
fn latencies_over_time_are_all_there_in_at_most_128_pieces() {
    let mut target = Simulator::standard(4);
    target.run(50, quiet);
    let mut first = None;
    for order in ORDERS {
        target.order = order;
        let ipis = joined(&target);
        let timed: u64 = ipis.slots.iter().filter_map(|slot| slot.latency).map(|latency| latency.n).sum();
        let points = || ipis.series.receivers.iter().flat_map(|line| &line.points);
        assert_eq!(points().map(|point| point.n).sum::<u64>(), timed);
        assert!(ipis.series.receivers.iter().all(|line| (64..=128).contains(&line.points.len())));
        let first = first.get_or_insert_with(|| ipis.series.clone());
        assert_eq!(first, &ipis.series, "{order:?}");
    }
    let report = target.report();
    let cores: Vec<u16> = report.series.iter().map(|series| series.core).collect();
    assert_eq!(cores, [0, 1, 2, 3]);
    let series = &report.series[1];
    let end = series.start_ns + series.piece_ns * series.points.len() as f64;
    assert!(series.start_ns <= 0.0 && end >= (target.now - 1_000_000) as f64 * 16.0 - 1000.0, "{series:?}");
    let point = series.points.iter().flatten().next().unwrap();
    assert!(point.min_ns >= 160.0 && point.max_ns <= 192.0 && point.min_ns <= point.mean_ns);
    // With some of the latencies only there is no series.
    let plan = Some("ping".into());
    let mut target = Simulator::new(PlanRequest { plan, cores: 2, keep: Keep::Worst(5), ..PlanRequest::default() });
    target.run(50, quiet);
    assert!(target.report().series.is_empty());
}

#[test]
fn distributions_and_cores_add_up_to_the_pairs() {
    let mut target = Simulator::standard(17);
    target.run(20, quiet);
    let slot = target.slot(0, 1);
    target.lose(slot);
    let report = target.report();
    let n: u64 = report.pairs.iter().map(|pair| pair.latency.n).sum();
    let all: Vec<_> = report.distributions.iter().filter(|row| row.distance.is_none()).collect();
    assert_eq!(all.iter().map(|row| row.latency.n).sum::<u64>(), n);
    // Two clusters: within one, between them, and to oneself.
    let apart: Vec<_> = report.distributions.iter().filter(|row| row.distance.is_some()).collect();
    assert_eq!(apart.iter().map(|row| row.latency.n).sum::<u64>(), n);
    assert!(apart.iter().all(|row| matches!(row.distance, Some(0..=2))));
    for row in &report.distributions {
        let (first, last) = (row.cdf[0], row.cdf[row.cdf.len() - 1]);
        assert_eq!((Some(first.0), Some(last.0), last.1), (row.latency.min_ns, row.latency.max_ns, row.latency.n));
    }
    // Each pair and each core has its own, and the one that lost its only message has none.
    let pairs = report.pairs.iter().map(|row| (&row.latency, &row.cdf));
    for (latency, cdf) in pairs.chain(report.core_figures.iter().map(|row| (&row.latency, &row.cdf))) {
        let ends = cdf.as_ref().map(|cdf| (cdf[0].0, cdf[cdf.len() - 1]));
        let expected = latency.min_ns.zip(latency.max_ns).map(|(min, max)| (min, (max, latency.n)));
        assert_eq!(ends, expected);
    }
    for role in ["sender", "receiver"] {
        let figures = || report.core_figures.iter().filter(|figures| figures.role == role);
        assert_eq!(figures().map(|figures| figures.latency.n).sum::<u64>(), n);
        let lost: Vec<_> = figures().filter(|figures| figures.lost > 0).map(|f| (f.core, f.lost)).collect();
        assert_eq!(lost, [(if role == "sender" { 0 } else { 1 }, 1)]);
    }
}

#[test]
fn the_clock_is_told_core_by_core_and_a_capture_without_a_clock_test_says_so() {
    let mut target = Simulator::standard(3);
    target.run(20, quiet);
    for core in &mut target.cores {
        core.read_cost_max = 70;
        core.clock_flags |= clock_flag::CYCLES | clock_flag::TESTED_AFTER | clock_flag::ECV;
        (core.cycles_busy, core.cycle_ticks_busy) = (1600, 100);
        (core.cycles_wfi, core.cycle_ticks_wfi) = (10, 100);
        core.gicr_iidr = 0x43B;
        (core.round_trip_before, core.round_trip_after) = (5, 6);
    }
    target.cores[1].backwards_after = 2;
    target.cores[2].suspend_state = 0x10000;
    target.cores[2].suspend_error = -2;
    let report = target.report();
    let clock = &report.clock;
    assert_eq!((clock.tested, clock.read_cost_max_ticks, clock.ecv), (true, Some(70), Some(true)));
    assert_eq!((clock.tested_after, clock.self_synchronised, clock.monotonic), (Some(true), Some(false), Some(false)));
    assert!(!clock.host_checked && clock.host_unchecked.is_some());
    assert_eq!(clock.cores.len(), 3);
    let core = &clock.cores[1];
    assert_eq!((core.cycles_per_tick_busy, core.cycles_run_in_wfi), (Some(16.0), Some(false)));
    assert_eq!((core.backwards, core.backwards_after), (0, Some(2)));
    let skew = core.skew_before.unwrap();
    assert_eq!((skew.low, skew.high, skew.round_trip), (-2, 3, 5));
    assert_eq!(clock.skew_pairs.len(), 3);
    assert_eq!(report.target.cores[0].gicr_iidr.as_deref(), Some("0x43b"));
    assert_eq!(report.target.cores[0].suspend, None);
    let suspend = report.target.cores[2].suspend.as_ref().unwrap();
    assert_eq!((suspend.state.as_str(), suspend.error.as_deref()), ("0x10000", Some("INVALID_PARAMETERS (-2)")));
    let text = flat(&report);
    for part in ["62.5 MHz", "16 ns a step", "WENT BACK", "before the plan", "after it", "stops in WFI"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for core in &mut target.cores {
        core.clock_flags = 0;
    }
    let report = target.report();
    assert!(!report.clock.tested && report.clock.skew_before.is_none() && report.clock.skew_pairs.is_empty());
    assert!(flat(&report).contains("captured WITHOUT clock test"));
}

#[test]
fn a_table_by_receiver_state_is_shown_where_there_are_several() {
    let mut target = Simulator::standard(4);
    target.run(20, quiet);
    let text = target.report().text(&Options::default());
    assert!(
        text.contains("Latency by receiver state") && text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let mut target = Simulator::new(PlanRequest { plan: Some("ping".into()), cores: 2, ..PlanRequest::default() });
    target.run(20, quiet);
    let report = target.report();
    assert!(report.distributions.len() == 1 && !flat(&report).contains("Latency by receiver state"));
}

/// What else can happen in between.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ping(usize, u64),
    Gap(u16, bool, u64),
    Heartbeat(u16, u64),
    Sweep(usize, i64),
    Lose(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..12_usize, 0..9000_u64).prop_map(|(slot, latency)| Event::Ping(slot, latency)),
        3 => (0..4_u16, any::<bool>(), 1..9000_u64).prop_map(|(core, timer, length)| Event::Gap(core, timer, length)),
        1 => (0..4_u16, 0..4000_u64).prop_map(|(core, late)| Event::Heartbeat(core, late)),
        2 => (0..12_usize, -50..50_i64).prop_map(|(slot, offset)| Event::Sweep(slot, offset)),
        1 => (0..12_usize).prop_map(Event::Lose),
    ];
    proptest::collection::vec(event, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn witnesses_are_the_same_in_every_order_and_sums_hold(events in events()) {
        let mut target = Simulator::standard(4);
        target.watch(1_000_000, 50_000);
        for event in events {
            match event {
                Event::Ping(slot, latency) => target.ping(slot, latency),
                Event::Gap(core, timer, length) => {
                    let context = if timer { Context::Irq } else { Context::Thread };
                    target.gap(core, context, target.now - length);
                }
                Event::Heartbeat(core, late) => target.heartbeat(core, target.now - late, 1),
                Event::Sweep(slot, offset) => {
                    target.sweep(slot, transition::WFI, offset);
                    let (to, intid) = (target.slots[slot].to, target.slots[slot].intid);
                    target.acknowledge(to, intid, target.now + 15);
                    target.now += 20;
                }
                Event::Lose(slot) => target.lose(slot),
            }
            target.now += 5;
        }
        let told = |ipis: &Ipis| {
            let slots: Vec<_> = ipis
                .slots
                .iter()
                .map(|slot| (slot.counts, slot.excused, slot.recovered, slot.backwards, slot.latency, slot.judged()))
                .collect();
            (slots, ipis.gaps.clone(), ipis.gap_totals.clone(), ipis.sweeps.clone(), ipis.series.clone())
        };
        let mut first = None;
        for order in ORDERS {
            target.order = order;
            let ipis = joined(&target);
            for slot in &ipis.slots {
                prop_assert!(slot.counts.is_whole());
                let timed = slot.latency.map_or(0, |latency| latency.n);
                let judged = slot.judged().map_or(0, |latency| latency.n);
                prop_assert_eq!(timed, judged + slot.excused.stolen + slot.excused.doubtful);
            }
            let now = told(&ipis);
            let first = first.get_or_insert_with(|| now.clone());
            prop_assert_eq!(&*first, &now, "{:?}", order);
        }
        // By brute force: every tick of every latency.
        let ipis = joined(&target);
        let mut stolen = 0;
        let mut doubtful = 0;
        for core in 0..4_u16 {
            let lane = &target.lanes[usize::from(core) * LANES_PER_CORE + Context::Irq as usize];
            for (index, words) in (0..).zip(lane) {
                let event = trace_ring::record::Record::from_words(*words, index).unwrap().event;
                if event.kind == Kind::Receive && event.arg != 0 {
                    let away = |t: &u64| ipis.gaps.iter().any(|gap| gap.core == core && (gap.from..gap.to).contains(t));
                    let covered = (event.arg..event.t).filter(away).count() as u64;
                    let most = 2 * covered > event.t - event.arg;
                    stolen += u64::from(most);
                    doubtful += u64::from(covered > 0 && !most);
                }
            }
        }
        prop_assert_eq!(ipis.slots.iter().map(|slot| slot.excused.stolen).sum::<u64>(), stolen);
        prop_assert_eq!(ipis.slots.iter().map(|slot| slot.excused.doubtful).sum::<u64>(), doubtful);
    }
}
