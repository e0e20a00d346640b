//! What the call layer's patterns and steps become, that none of it can hang, and that nothing of it is lost.

use std::collections::BTreeSet;

use trace_ring::plan::{MOST_GAPS, Op, Plan, plan_flag};
use zerocopy::IntoBytes;

use super::super::super::{CompiledPlan, CoreList, Keep, PlanRequest, builtins};
use super::super::compile;
use super::super::tests::{check, parsed, request, script};
use super::*;

const CALLING: [&str; 4] = ["calls", "kinds", "chain", "fan-in"];

/// Messages of one operation of the call layer; its slots are checked.
pub(in super::super) fn sends(plan: &Plan<'_>, core: usize, word: Op) -> u64 {
    let cores = plan.programs.len();
    let at = |slot: u32, to: usize, kind: IpiKind| {
        let slot = plan.slots[slot as usize];
        assert_eq!((usize::from(slot.from), usize::from(slot.to)), (core, to), "{word:?}");
        assert_eq!((slot.intid, slot.kind), (kind.intid(), kind.slot_code()), "{word:?}");
    };
    let row = |kind| (0..cores).for_each(|to| at(word.c + to as u32, to, kind));
    match word.code {
        op::CALL => {
            row(IpiKind::CallFunction);
            assert_ne!(usize::from(word.b), core);
            let chain = word.a & 0x7F == Function::Onward as u8;
            1 + if chain { u64::from(Onward::from_info(word.d).hops) } else { 0 }
        }
        op::CALL_MANY => {
            row(IpiKind::CallFunction);
            let mask = plan.masks[usize::from(word.b)];
            (0..cores as u16).filter(|to| mask.contains(*to) && usize::from(*to) != core).count() as u64
        }
        op::IPI => {
            at(word.c, word.b.into(), IpiKind::from_intid(word.a).unwrap());
            word.d
        }
        op::TICK => {
            row(IpiKind::TimerBroadcast);
            cores as u64 - 1
        }
        op::IRQ_WORK => {
            row(IpiKind::IrqWork);
            1
        }
        op::ROW => {
            row(IpiKind::CallFunction);
            0
        }
        _ => 0,
    }
}

/// A compiled plan as the firmware has it.
fn with_plan<T>(compiled: &CompiledPlan, look: impl FnOnce(&Plan<'_>) -> T) -> T {
    let words = parsed(compiled);
    look(&Plan::parse(words.as_bytes()).unwrap())
}

/// A core's operations of the phase `name`, from before its PHASE to after its PHASE_END.
fn phase_ops(compiled: &CompiledPlan, name: &str, core: usize) -> Vec<Op> {
    let index = compiled.meta.phases.iter().position(|phase| phase.name == name).unwrap() as u32;
    with_plan(compiled, |plan| {
        let ops = &plan.ops[plan.programs[core].first_op as usize..];
        let begin = ops.iter().position(|word| (word.code, word.c) == (op::PHASE, index)).unwrap();
        let end = ops.iter().position(|word| (word.code, word.c) == (op::PHASE_END, index)).unwrap();
        ops[begin..=end].to_vec()
    })
}

/// Its lines as a person reads them: operation, `a`, `b`.
fn codes(ops: &[Op]) -> Vec<(u8, u8, u16)> {
    ops.iter().map(|word| (word.code, word.a, word.b)).collect()
}

fn one_program(core: u16, ops: &str) -> String {
    format!("name = \"x\"\n[[phase]]\npattern = \"script\"\n[[phase.program]]\ncores = {core}\nops = [{ops}]\n")
}

#[test]
fn every_step_becomes_its_operation() {
    let third = r#"
        [[phase.program]]
        cores = 3
        ops = [{ delivery = "nmi" }, "barrier", { hold = "priority" }, "barrier", { hold = "daif" }]
        "#;
    let compiled = script(
        &(one_program(
            0,
            r#"
            { delivery = "irq" },
            { call = { to = 1, function = "drain" } },
            { call = { to = 2, function = "slow", wait = false, time = "50us", count = 3 } },
            { call = { to = "1-2", function = "gather" } },
            { call = { to = [1, 2], function = "sync_icache", wait = false } },
            { call = { to = "all", function = "drain" } },
            { call = { to = [3], function = "drain" } },
            { call = { to = 1, function = "onward", hops = 5, stride = 2 } },
            { ipi = { kind = "reschedule", to = [1, 3], count = 7 } },
            { ipi = { kind = "stop", to = 1 } }, { await = { core = 1, state = "parked" } },
            { ipi = { kind = "wakeup", to = 1 } }, { await = { core = 1, state = "open" } },
            { ipi = { kind = "backtrace", to = 2 } },
            { tick = { after = "50us" } },
            { irq_work = { function = "slow", time = "2us" } },
            { irq_work = { function = "drain", wait = false } },
            "barrier",
            { await = { core = 3, state = "masked" } },
            { ipi = { kind = "crash_stop", to = 3 } }, { ipi = { kind = "wakeup", to = 3 } },
            { release = 3 }, "barrier", { release = [2, 3] },
            { loop = { count = 2, ops = [{ call = { to = 1, function = "drain" } }] } },
            "#,
        ) + third),
        4,
    )
    .unwrap();
    check(&compiled);
    let ops = phase_ops(&compiled, "script", 0);
    assert_eq!(
        codes(&ops),
        [
            (op::PHASE, 2, 0),
            (op::CALL, 0x80, 1),
            (op::LOOP, 0, 0),
            (op::CALL, 3, 2),
            (op::LOOP_END, 0, 0),
            (op::CALL_MANY, 0x81, 0),
            (op::CALL_MANY, 2, 0),
            (op::CALL_MANY, 0x80, 1),
            (op::CALL_MANY, 0x80, 2),
            (op::CALL, 0x84, 1),
            (op::IPI, 0, 1),
            (op::IPI, 0, 3),
            (op::IPI, 2, 1),
            (op::AWAIT, 1, 1),
            (op::IPI, 6, 1),
            (op::AWAIT, 2, 1),
            (op::IPI, 7, 2),
            (op::TICK, 0, 0),
            (op::IRQ_WORK, 0x83, 0),
            (op::IRQ_WORK, 0, 0),
            (op::BARRIER, 0, 0),
            (op::AWAIT, 0, 3),
            (op::IPI, 3, 3),
            (op::IPI, 6, 3),
            (op::RELEASE, 0, 3),
            (op::BARRIER, 0, 0),
            (op::RELEASE, 0, 2),
            (op::RELEASE, 0, 3),
            (op::LOOP, 0, 0),
            (op::CALL, 0x80, 1),
            (op::LOOP_END, 0, 0),
            (op::SETTLE, 0, 0),
            (op::PHASE_END, 0, 0),
        ]
    );
    let of = |code: u8| ops.iter().filter(|word| word.code == code).copied().collect::<Vec<_>>();
    assert_eq!((of(op::LOOP)[0].c, of(op::CALL)[1].d), (3, 50_000));
    let route = Onward { origin: 0, hops: 4, stride: 2 };
    assert_eq!(Onward::from_info(of(op::CALL)[2].d), route);
    assert_eq!((of(op::IPI)[0].d, of(op::IPI)[2].d), (7, 1));
    assert_eq!((of(op::TICK)[0].d, of(op::IRQ_WORK)[0].d), (50_000, 2_000));
    let row = of(op::CALL)[0].c;
    assert!([of(op::CALL), of(op::CALL_MANY)].concat().iter().all(|word| word.c == row), "one row for all calls");
    assert_eq!(
        codes(&phase_ops(&compiled, "script", 3))[1..5],
        [(op::BARRIER, 0, 0), (op::HOLD, 1, 0), (op::BARRIER, 0, 0), (op::HOLD, 0, 0)],
        "core 0 alone releases it"
    );
    with_plan(&compiled, |plan| {
        assert_eq!((plan.header.flags & plan_flag::CALLS, plan.header.sgi_count), (plan_flag::CALLS, 8));
        assert_eq!(plan.header.trace_level, TraceLevel::Calls.code());
        // Two lists that name the same cores are one set; the caller itself may be in one.
        let masks: Vec<u64> = plan.masks.iter().map(|mask| mask.0[0]).collect();
        assert_eq!(masks, [0b0110, 0b1111, 0b1000]);
        let ops = plan.ops;
        let first = |core: usize| ops[plan.programs[core].first_op as usize];
        assert_eq!((first(0).code, first(0).a), (op::DELIVERY, Delivery::Irq as u8));
        assert_eq!((first(3).code, first(3).a), (op::DELIVERY, Delivery::Nmi as u8));
        // A chain may pass a core that has just left the barrier of the phase's begin: its row is known before.
        assert_eq!((first(1).code, ops[plan.programs[1].first_op as usize + 1].code), (op::ROW, op::PHASE));
        assert_eq!(
            (ops[plan.programs[0].first_op as usize + 1].code, plan.slots[first(1).c as usize].from),
            (op::ROW, 1)
        );
        // Behind the phase they take them as every core does from the start.
        let resets = ops.iter().filter(|word| (word.code, word.a) == (op::DELIVERY, Delivery::PseudoNmi as u8));
        assert_eq!(resets.count(), 2);
        let slot = |kind: IpiKind, to: u16| {
            let mut found =
                plan.slots.iter().filter(|slot| (slot.from, slot.to, slot.kind) == (0, to, kind.slot_code()));
            *found.next().unwrap()
        };
        assert_eq!(slot(IpiKind::CrashStop, 3).delivery, Delivery::Nmi as u8, "as its program says");
        assert_eq!(slot(IpiKind::Backtrace, 2).delivery, Delivery::PseudoNmi as u8, "as every core does");
        assert_eq!(slot(IpiKind::Wakeup, 1).delivery, Delivery::Irq as u8, "no NMI");
        assert_eq!(slot(IpiKind::Reschedule, 1).delivery, Delivery::Irq as u8);
        let states = [1, 3].map(|to| ReceiverState::from_code(slot(IpiKind::Reschedule, to).state));
        assert_eq!(states, [ReceiverState::Wfi, ReceiverState::Unknown], "core 3 does things of its own");
    });
    assert_eq!(run(&compiled, 1, &[]), Ok(()));
}

#[test]
fn a_hold_names_who_releases_it_if_that_is_one_core() {
    let releasers = |second: &str| {
        let text = one_program(0, "{ hold = \"reachable\" }")
            + "[[phase.program]]\ncores = 1\nops = [{ loop = { count = 2, ops = [{ release = 0 }] } }]\n"
            + &format!("[[phase.program]]\ncores = 2\nops = [{second}]\n");
        let ops = phase_ops(&script(&text, 3).unwrap(), "script", 0);
        codes(&ops)[1]
    };
    assert_eq!(releasers("{ mark = 1 }"), (op::HOLD, 2, 1));
    assert_eq!(releasers("{ release = \"all\" }"), (op::HOLD, 2, NOBODY));
}

#[test]
fn wrong_steps_say_what_is_wrong_and_what_to_do() {
    let two =
        |other: &str, ops: &str| one_program(0, ops) + &format!("[[phase.program]]\ncores = 1\nops = [{other}]\n");
    let phase = |body: &str| format!("name = \"x\"\n[[phase]]\npattern = {body}\n");
    let nested =
        |step: &str| (0..4).fold(step.to_owned(), |ops, _| format!("{{ loop = {{ count = 2, ops = [{ops}] }} }}"));
    for (text, parts) in [
        (one_program(0, "{ call = { to = 0, function = \"drain\" } }"), ["core 0 calls itself", "irq_work"]),
        (one_program(0, "{ call = { to = [0], function = \"drain\" } }"), ["core 0 calls itself", "name another core"]),
        (one_program(0, "{ call = { to = 9, function = \"drain\" } }"), ["`call.to`", "there is no core 9"]),
        (one_program(0, "{ call = { to = 1, function = \"lru\" } }"), ["unknown variant `lru`", "sync_icache"]),
        (one_program(0, "{ call = { to = 1, function = \"drain\", speed = 1 } }"), ["unknown field `speed`", "`wait`"]),
        (one_program(0, "{ call = { to = 1, function = \"slow\" } }"), ["\"slow\" without `time`", "time = \"50us\""]),
        (
            one_program(0, "{ call = { to = 1, function = \"gather\", time = \"1us\" } }"),
            ["`time` means nothing to function gather", "call slow"],
        ),
        (
            one_program(0, "{ call = { to = 1, function = \"drain\", hops = 2 } }"),
            ["mean nothing to function drain", "call onward"],
        ),
        (one_program(0, "{ call = { to = 1, function = \"drain\", count = 0 } }"), ["count = 0", "at least once"]),
        (
            one_program(0, &nested("{ call = { to = 1, function = \"drain\", count = 2 } }")),
            ["count = 2 inside 4 loops", "only once"],
        ),
        (one_program(0, "{ call = { to = 1, function = \"onward\" } }"), ["has no `hops`", "hops = 5"]),
        (one_program(0, "{ call = { to = \"1-2\", function = \"onward\", hops = 2 } }"), ["no single core", "to = 1"]),
        (
            one_program(0, "{ call = { to = 1, function = \"onward\", hops = 2, wait = false } }"),
            ["wait = false in a chain", "remove it"],
        ),
        (one_program(0, "{ call = { to = 1, function = \"onward\", hops = 0 } }"), ["hops = 0", "1 to 65536"]),
        (one_program(0, "{ call = { to = 1, function = \"onward\", hops = 65537 } }"), ["hops = 65537", "in between"]),
        (
            one_program(0, "{ call = { to = 1, function = \"onward\", hops = 2, stride = 4 } }"),
            ["stride = 4 on 4 cores", "raise --cores"],
        ),
        (
            one_program(0, "{ ipi = { kind = \"call_function\", to = 1 } }"),
            ["unknown variant `call_function`", "`wakeup`"],
        ),
        (one_program(0, "{ ipi = { kind = \"stop\", to = 0 } }"), ["core 0 sends stop to itself", "another core"]),
        (one_program(0, "{ ipi = { kind = \"crash_stop\", to = 1, count = 2 } }"), ["2 times crash_stop", "wakeup"]),
        (one_program(0, "{ ipi = { kind = \"reschedule\", to = 1, count = 0 } }"), ["count = 0", "at least 1"]),
        (
            one_program(0, "{ ipi = { kind = \"stop\", to = 1 } }"),
            ["stopped 1 times and woken 0", "kind = \"wakeup\", to = 1"],
        ),
        (one_program(0, "{ irq_work = { function = \"onward\" } }"), ["irq_work of function onward", "choose drain"]),
        (one_program(0, "{ tick = { after = \"soon\" } }"), ["`soon` is no length of time", "10us"]),
        (one_program(0, "{ hold = \"ipi\" }"), ["unknown variant `ipi`", "`priority`"]),
        (one_program(0, "{ hold = \"daif\" }"), ["holds 1 times and is released 0", "release = 0"]),
        (
            two("{ loop = { count = 3, ops = [{ hold = \"daif\" }] } }", "{ release = 1 }"),
            ["core 1 holds 3 times and is released 1", "release = 1"],
        ),
        (one_program(0, "{ release = 0 }"), ["core 0 releases itself", "another core"]),
        (one_program(0, "{ await = { core = 0, state = \"open\" } }"), ["core 0 awaits itself", "another core"]),
        (one_program(0, "{ await = { core = 7, state = \"open\" } }"), ["`await.core`", "there is no core 7"]),
        (one_program(0, "{ await = { core = 1, state = \"up\" } }"), ["unknown variant `up`", "`parked`"]),
        (
            one_program(0, "{ mark = 1 }, { delivery = \"irq\" }"),
            ["in the middle of the program of core 0", "put it first"],
        ),
        (one_program(0, "{ delivery = \"fiq\" }"), ["unknown variant `fiq`", "`pseudo_nmi`"]),
        (
            one_program(0, "{ tick = { after = \"1us\" } }, { ping = { to = 1, intid = 3 } }"),
            ["intid = 3 in a plan that uses the call layer: there SGI 3 is IPI crash_stop", "use 0"],
        ),
        (
            phase("\"matrix\"\ncount = 1\nintid = 1\n[[phase]]\npattern = \"fan-in\"\ncount = 1"),
            ["SGI 1 is IPI call_function, and makes its target work", "use 0"],
        ),
        (phase("\"calls\""), ["it has no `count`", "how many calls"]),
        (phase("\"kinds\""), ["it has no `count`", "of each kind"]),
        (phase("\"calls\"\ncount = 5\nbudget = 7"), ["`budget` means nothing to pattern `calls`", "remove it"]),
        (phase("\"calls\"\nbudget = 7"), ["`budget` means nothing to pattern `calls`", "remove it"]),
        (phase("\"calls\"\ncount = 2000000"), ["count = 2000000 calls", "--duration"]),
        (phase("\"calls\"\ncount = 5\nfunctions = []"), ["`functions` is empty", "gather"]),
        (phase("\"calls\"\ncount = 5\nfunctions = [\"onward\"]"), ["`functions` names onward", "chains"]),
        (phase("\"calls\"\ncount = 5\nintid = 0"), ["`intid` means nothing to pattern `calls`", "remove it"]),
        (phase("\"matrix\"\ncount = 5\nseed = 2"), ["`seed` means nothing to pattern `matrix`", "remove it"]),
        (phase("\"storm\"\ncount = 5\npause = \"1us\""), ["`pause` means nothing to pattern `storm`", "remove it"]),
        (phase("\"calls\"\ncount = 5\nmost_pairs = 2"), ["`most_pairs` means nothing to pattern `calls`", "remove it"]),
        (phase("\"kinds\"\ncount = 5\nmost_pairs = 0"), ["most_pairs = 0", "above 0"]),
        (phase("\"chain\"\ncount = 5\nto = 1"), ["`to` means nothing to pattern `chain`", "remove it"]),
        (phase("\"chain\"\ncount = 5\nstride = 0"), ["stride = 0 on 4 cores", "from 1"]),
        (phase("\"fan-in\"\ncount = 5\nhops = 2"), ["`hops` means nothing to pattern `fan-in`", "remove it"]),
        ("name = \"x\"\ndefaults = { level = \"all\" }\nphase = []\n".into(), ["unknown variant `all`", "`calls`"]),
    ] {
        let message = script(&text, 4).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{text}\n-> {message}\nlacks {part}");
        }
    }
}

#[test]
fn a_plan_names_at_most_65535_sets_of_cores() {
    let asked = request("calls", 64);
    let job = toml::from_str(builtins().iter().find(|builtin| builtin.name == "calls").unwrap().toml).unwrap();
    let mut compiler = Compiler::new(&asked, &job).unwrap();
    let set = |number: u64| CoreMask([number, 0, 0, 0, 0, 0, 0, 0]);
    for number in 1..=65_535 {
        assert_eq!(compiler.mask("calls", set(number)).unwrap(), number as u16 - 1);
    }
    assert_eq!(compiler.mask("calls", set(7)).unwrap(), 6, "known ones are found again");
    let message = compiler.mask("calls", set(65_536)).unwrap_err().to_string();
    assert!(message.contains("more than 65535 different sets") && message.contains("--duration"), "{message}");
}

#[test]
fn the_same_seed_makes_the_same_calls() {
    let plan = |seed: u64| {
        format!("name = \"x\"\n[[phase]]\npattern = \"calls\"\ncount = 500\npause = \"20us\"\nseed = {seed}\n")
    };
    // The nonce and the rest of the request are the same: only the calls differ.
    let ops = |text: &str| with_plan(&script(text, 6).unwrap(), |plan| (plan.ops.to_vec(), plan.masks.to_vec()));
    let blob = |text: &str| script(text, 6).unwrap().blob;
    assert_eq!(blob(&plan(7)), blob(&plan(7)));
    assert_ne!(ops(&plan(7)), ops(&plan(8)));
    assert_eq!(ops(&plan(1)), ops(&plan(1).replace("seed = 1\n", "")), "1 is the default");
}

#[test]
fn random_calls_are_of_every_sort() {
    let compiled = compile(&request("calls", 8)).unwrap();
    with_plan(&compiled, |plan| {
        let calls: Vec<Op> =
            plan.ops.iter().filter(|word| [op::CALL, op::CALL_MANY].contains(&word.code)).copied().collect();
        assert_eq!(calls.len(), 12_000);
        let sorts: BTreeSet<(u8, u8)> = calls.iter().map(|word| (word.code, word.a)).collect();
        let expected = [op::CALL, op::CALL_MANY]
            .into_iter()
            .flat_map(|code| (0..4).flat_map(move |function| [(code, function), (code, function | WAITS)]));
        assert_eq!(sorts, expected.collect(), "each function, waited for and not, on one and on several");
        let single = calls.iter().filter(|word| word.code == op::CALL).count();
        let all =
            calls.iter().filter(|word| word.code == op::CALL_MANY && plan.masks[usize::from(word.b)].0[0] == 0xFF);
        assert!((5_700..6_300).contains(&single), "{single}");
        assert!((1_300..1_700).contains(&all.count()));
        let sizes: BTreeSet<u32> = plan.masks.iter().map(|mask| mask.0[0].count_ones()).collect();
        assert_eq!(sizes, (2..=8).collect(), "two of seven others to all eight cores");
        for word in &calls {
            let slow = word.a & !WAITS == Function::Slow as u8;
            assert!(if slow { (1_000..=5_000).contains(&word.d) } else { word.d == 0 }, "{word:?}");
        }
        let delays: Vec<u64> = plan.ops.iter().filter(|word| word.code == op::DELAY).map(|word| word.d).collect();
        assert!(delays.len() > 11_900 && delays.iter().all(|delay| (1..=20_000).contains(delay)));
        for program in plan.programs {
            let end = plan.ops[program.first_op as usize..].iter().position(|word| word.code == op::END).unwrap();
            let codes: Vec<u8> =
                plan.ops[program.first_op as usize + end - 2..][..3].iter().map(|word| word.code).collect();
            assert_eq!(codes, [op::SETTLE, op::PHASE_END, op::END]);
        }
        // Every pair was called, none else has a histogram, and nobody is told that one is missing.
        let histograms = plan.slots.iter().filter(|slot| slot.histogram != NO_HISTOGRAM);
        assert!(histograms.clone().all(|slot| slot.from != slot.to));
        assert_eq!((plan.slots.len(), histograms.count()), (64, 56));
    });
    assert_eq!((compiled.meta.phases[0].pairs, compiled.meta.slots_without_histogram), (56, 0));
    assert_eq!(compiled.meta.phases[0].state, "unknown");
}

#[test]
fn random_choices_keep_their_bounds_and_reach_all() {
    let mut random = Random(1);
    let seen: BTreeSet<u64> = (0..1_000).map(|_| random.below(7)).collect();
    assert_eq!(seen, (0..7).collect());
    assert!((0..100).all(|_| random.below(1) == 0));
    let cores: Vec<u16> = (10..15).collect();
    let chosen: BTreeSet<Vec<u16>> = (0..2_000).map(|_| some_of(&mut random, &cores)).collect();
    // Of five: ten pairs, ten threes, five fours, and all.
    assert_eq!(chosen.len(), 26);
    assert!(chosen.iter().all(|some| some.is_sorted() && some.len() >= 2));
    assert_eq!(thin_out(&[0, 1, 2, 3, 4, 5], 3), [0, 2, 4]);
    assert_eq!(thin_out(&[0, 1], 9), [0, 1]);
    assert!(thin_out::<u16>(&[], 3).is_empty());
}

#[test]
fn kinds_are_phases_of_their_own_in_both_directions() {
    let compiled = compile(&request("kinds", 3)).unwrap();
    check(&compiled);
    let names: Vec<&str> = compiled.meta.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "reschedule",
            "call_function",
            "stop",
            "crash_stop",
            "timer_broadcast",
            "irq_work",
            "wakeup",
            "backtrace",
            "backtrace/masked/pseudo_nmi",
            "backtrace/masked/nmi",
            "crash_stop/masked/pseudo_nmi",
            "crash_stop/masked/nmi",
        ]
    );
    let timed: Vec<&str> =
        compiled.meta.phases.iter().filter(|phase| phase.timed).map(|phase| phase.name.as_str()).collect();
    assert_eq!(
        timed,
        ["reschedule", "irq_work", "wakeup", "backtrace", "backtrace/masked/pseudo_nmi", "backtrace/masked/nmi"]
    );
    for phase in &compiled.meta.phases {
        let (pairs, sends) = match phase.name.as_str() {
            "irq_work" => (3, 60),
            name if name.contains("stop") => (12, 240), // the wake-ups, too
            _ => (6, 120),
        };
        assert_eq!((phase.pairs, phase.sends), (pairs, sends), "{}", phase.name);
        let state = match phase.name.as_str() {
            "irq_work" => "spin",
            name if name.contains("masked") => "masked",
            _ => "wfi",
        };
        assert_eq!(phase.state, state, "{}", phase.name);
    }
    let own = |name: &str, core: usize| {
        let ops = phase_ops(&compiled, name, core);
        let inner = codes(&ops).into_iter().filter(|word| ![op::PHASE, op::PHASE_END].contains(&word.0));
        inner.collect::<Vec<_>>()
    };
    assert_eq!(own("reschedule", 1), [(op::TURN, 0, 0), (op::IPI, 0, 0), (op::IPI, 0, 2), (op::PASS, 0, 2)]);
    let stops = |to: u16, kind: IpiKind, after: Awaited| {
        [
            (op::LOOP, 0, 0),
            (op::IPI, kind.intid(), to),
            (op::AWAIT, Awaited::Parked as u8, to),
            (op::IPI, IpiKind::Wakeup.intid(), to),
            (op::AWAIT, after as u8, to),
            (op::LOOP_END, 0, 0),
        ]
    };
    for (name, kind) in [("stop", IpiKind::Stop), ("crash_stop", IpiKind::CrashStop)] {
        let expected = [
            &[(op::TURN, 0, 0)][..],
            &stops(1, kind, Awaited::Open),
            &stops(2, kind, Awaited::Open),
            &[(op::PASS, 0, 1)],
        ];
        assert_eq!(own(name, 0), expected.concat(), "{name}");
    }
    // Six steps of one pair each, with barriers in between: 0 to 1, 0 to 2, 1 to 0, 1 to 2, 2 to 0, 2 to 1.
    let barrier = (op::BARRIER, 0, 0);
    let to_one =
        |kind: &[(u8, u8, u16)]| [&[(op::AWAIT, Awaited::Masked as u8, 1)][..], kind, &[(op::RELEASE, 0, 1)]].concat();
    for delivery in ["pseudo_nmi", "nmi"] {
        for (name, sent) in [
            ("backtrace", vec![(op::IPI, IpiKind::Backtrace.intid(), 1)]),
            ("crash_stop", stops(1, IpiKind::CrashStop, Awaited::Masked).to_vec()),
        ] {
            let name = format!("{name}/masked/{delivery}");
            let ops = own(&name, 0);
            let steps: Vec<&[(u8, u8, u16)]> = ops.split(|word| *word == barrier).collect();
            let hold = |releaser| vec![(op::HOLD, job::Hold::Reachable as u8, releaser)];
            assert_eq!(steps.len(), 6, "{name}");
            assert_eq!(steps[0], to_one(&sent), "{name}");
            assert_eq!([steps[2], steps[3], steps[4], steps[5]], [&hold(1)[..], &[], &hold(2), &[]], "{name}");
        }
    }
    // What each phase has crash stops and backtraces come as: set before it begins.
    with_plan(&compiled, |plan| {
        let ops = &plan.ops[plan.programs[2].first_op as usize..];
        let mut delivery = Delivery::PseudoNmi as u8;
        for word in ops {
            match word.code {
                op::DELIVERY => delivery = word.a,
                op::PHASE => {
                    let expected = match names[word.c as usize] {
                        "crash_stop" | "backtrace" => Delivery::Irq,
                        name if name.ends_with("/nmi") => Delivery::Nmi,
                        name if name.ends_with("/pseudo_nmi") => Delivery::PseudoNmi,
                        _ => continue,
                    };
                    assert_eq!(delivery, expected as u8, "{}", names[word.c as usize]);
                    for slot in plan.slots.iter().filter(|slot| u32::from(slot.phase) == word.c) {
                        let wakeup = slot.kind == IpiKind::Wakeup.slot_code();
                        let expected = if wakeup { Delivery::Irq } else { expected };
                        assert_eq!(slot.delivery, expected as u8, "{}", names[word.c as usize]);
                        let masked = wakeup || names[word.c as usize].contains("masked");
                        assert_eq!(slot.state == ReceiverState::Masked.code(), masked);
                    }
                }
                op::END => break,
                _ => {}
            }
        }
        assert_eq!(delivery, Delivery::PseudoNmi as u8, "as before the first phase");
    });
}

#[test]
fn kinds_work_at_most_so_many_pairs_spread_over_the_machine() {
    let of = |cores: u16, most: u32| {
        let text = format!(
            "name = \"x\"\n[[phase]]\nname = \"k\"\npattern = \"kinds\"\nstates = [\"wfi\", \"spin\"]\ncount = 1\nmost_pairs = {most}\n"
        );
        let compiled = script(&text, cores).unwrap();
        check(&compiled);
        let meta = compiled.meta.phases.iter().find(|phase| phase.name == "k/spin/reschedule").unwrap().clone();
        let pairs: Vec<(u16, u16)> = with_plan(&compiled, |plan| {
            plan.slots.iter().filter(|slot| slot.phase == 0).map(|slot| (slot.from, slot.to)).collect()
        });
        let most = compiled
            .meta
            .phases
            .iter()
            .filter(|phase| phase.name.ends_with("timer_broadcast"))
            .map(|phase| phase.pairs)
            .max();
        assert_eq!((meta.state.as_str(), meta.pairs as usize), ("spin", pairs.len()));
        (pairs, most.unwrap())
    };
    assert_eq!(of(2, 16), (vec![(0, 1), (1, 0)], 2));
    assert_eq!(of(64, 4), (vec![(0, 1), (1, 0), (32, 33), (33, 32)], 63));
    assert_eq!(of(4, 1), (vec![(0, 1)], 3));
    // With one core there is only its own work.
    let alone = compile(&request("kinds", 1)).unwrap();
    assert_eq!(alone.meta.phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>(), ["irq_work"]);
    assert!(alone.notes.iter().any(|note| note.contains("left out") && note.contains("backtrace/masked/nmi")));
}

#[test]
fn a_chain_names_rows_for_every_core_that_it_passes() {
    let text = "name = \"x\"\n[[phase]]\npattern = \"chain\"\nfrom = [0, 3]\ncount = 5\nhops = 7\nstride = 2\n";
    let compiled = script(text, 6).unwrap();
    check(&compiled);
    assert_eq!((compiled.meta.phases[0].sends, compiled.meta.phases[0].timed), (2 * 5 * 7, false));
    // From 0 over 2 and 4 and round again; from 3 over 5 and 1.
    assert_eq!(compiled.meta.phases[0].pairs, 6);
    with_plan(&compiled, |plan| {
        let used: BTreeSet<(u16, u16)> =
            plan.slots.iter().filter(|slot| slot.histogram != NO_HISTOGRAM).map(|slot| (slot.from, slot.to)).collect();
        assert_eq!(used, [(0, 2), (2, 4), (4, 0), (3, 5), (5, 1), (1, 3)].into());
        for (core, program) in plan.programs.iter().enumerate() {
            let first = plan.ops[program.first_op as usize];
            assert_eq!((first.code, plan.ops[program.first_op as usize + 1].code), (op::ROW, op::PHASE));
            assert_eq!(usize::from(plan.slots[first.c as usize].from), core);
        }
    });
    assert_eq!(
        codes(&phase_ops(&compiled, "chain", 3))[1..],
        [
            (op::TURN, 0, 0),
            (op::LOOP, 0, 0),
            (op::CALL, 0x84, 5),
            (op::LOOP_END, 0, 0),
            (op::PASS, 0, 0xFFFF),
            (op::PHASE_END, 0, 0)
        ]
    );
    // Nobody else has one.
    for name in ["calls", "kinds", "fan-in"] {
        let others = with_plan(&compile(&request(name, 4)).unwrap(), |plan| {
            plan.ops.iter().filter(|word| word.code == op::ROW).count()
        });
        assert_eq!(others, 0, "{name}");
    }
}

#[test]
fn all_fan_in_to_one_with_and_without_waiting() {
    let text = "name = \"x\"\n[[phase]]\npattern = \"fan-in\"\ncount = 10\n";
    let compiled = script(text, 4).unwrap();
    check(&compiled);
    assert_eq!((compiled.meta.phases[0].sends, compiled.meta.phases[0].pairs), (3 * 2 * 10, 3));
    let expected = [
        (op::PHASE, 2, 0),
        (op::LOOP, 0, 0),
        (op::CALL, 0, 0),
        (op::CALL, WAITS, 0),
        (op::LOOP_END, 0, 0),
        (op::SETTLE, 0, 0),
        (op::PHASE_END, 0, 0),
    ];
    assert_eq!(codes(&phase_ops(&compiled, "fan-in", 2)), expected);
    assert_eq!(codes(&phase_ops(&compiled, "fan-in", 0)), [(op::PHASE, 2, 0), (op::PHASE_END, 0, 0)]);
    // --to names another one.
    let mut asked = request("fan-in", 4);
    asked.to = Some(CoreList(vec![3]));
    let compiled = compile(&asked).unwrap();
    assert!(phase_ops(&compiled, "fan-in", 0).iter().all(|word| word.code != op::CALL || word.b == 3));
}

#[test]
fn from_and_to_narrow_a_script_s_calls() {
    let text = one_program(
        0,
        "{ call = { to = \"all\", function = \"drain\" } }, { call = { to = 1, function = \"drain\" } }, \
         { ipi = { kind = \"stop\", to = 1 } }, { await = { core = 1, state = \"parked\" } }, \
         { ipi = { kind = \"wakeup\", to = 1 } }, { irq_work = { function = \"drain\" } }, { tick = { after = \"1us\" } }",
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    std::fs::write(&path, text).unwrap();
    let mut asked = request(path.to_str().unwrap(), 4);
    asked.to = Some(CoreList(vec![2, 3]));
    let compiled = compile(&asked).unwrap();
    check(&compiled);
    let expected =
        [(op::PHASE, 2, 0), (op::CALL_MANY, WAITS, 0), (op::TICK, 0, 0), (op::SETTLE, 0, 0), (op::PHASE_END, 0, 0)];
    assert_eq!(codes(&phase_ops(&compiled, "script", 0)), expected);
    assert_eq!(with_plan(&compiled, |plan| plan.masks[0].0[0]), 0b1101, "two of three others, and the caller");
    asked.from = Some(CoreList(vec![1]));
    let compiled = compile(&asked).unwrap();
    let expected = [(op::PHASE, 2, 0), (op::SETTLE, 0, 0), (op::PHASE_END, 0, 0)];
    assert_eq!(codes(&phase_ops(&compiled, "script", 0)), expected);
}

#[test]
fn the_level_is_the_command_line_s_else_the_plan_s_else_what_the_plan_needs() {
    let level = |plan: &str, asked: Option<TraceLevel>, keep: Keep| {
        compile(&PlanRequest { level: asked, keep, ..request(plan, 4) }).unwrap().meta.level
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let says_stages =
        file("a", "name = \"x\"\ndefaults = { level = \"stages\" }\n[[phase]]\npattern = \"fan-in\"\ncount = 1\n");
    let says_nothing = file("b", "name = \"x\"\n[[phase]]\npattern = \"fan-in\"\ncount = 1\n");
    for (plan, asked, keep, expected) in [
        ("matrix", None, Keep::All, "ipi"),
        ("matrix", Some(TraceLevel::Stages), Keep::All, "stages"),
        ("calls", None, Keep::All, "calls"),
        ("calls", Some(TraceLevel::Ipi), Keep::All, "ipi"),
        ("calls", None, Keep::None, "off"),
        (&says_stages, None, Keep::All, "stages"),
        (&says_stages, Some(TraceLevel::Calls), Keep::All, "calls"),
        (&says_nothing, None, Keep::Worst(3), "calls"),
    ] {
        assert_eq!(level(plan, asked, keep), expected, "{plan} {asked:?} {keep}");
    }
}

#[test]
fn a_backtrace_is_for_plans_that_call() {
    let asked = |plan: &str| PlanRequest { backtrace: true, ..request(plan, 4) };
    for name in CALLING {
        let compiled = compile(&asked(name)).unwrap();
        let flags = with_plan(&compiled, |plan| plan.header.flags);
        assert_eq!(flags & (plan_flag::BACKTRACE | plan_flag::CALLS), plan_flag::BACKTRACE | plan_flag::CALLS);
    }
    assert_eq!(with_plan(&compile(&request("calls", 4)).unwrap(), |plan| plan.header.flags & plan_flag::BACKTRACE), 0);
    let message = compile(&asked("matrix")).unwrap_err().to_string();
    assert!(message.contains("--backtrace: plan `matrix` does not use the call layer"), "{message}");
    assert!(message.contains("--plan calls"), "{message}");
    let low = PlanRequest { level: Some(TraceLevel::Stages), ..asked("calls") };
    let message = compile(&low).unwrap_err().to_string();
    assert!(message.contains("this run records level `stages`") && message.contains("leave out --level"), "{message}");
}

#[test]
fn a_fault_in_a_callback_needs_a_callback() {
    let with = |plan: &str, fault: &str| PlanRequest { faults: vec![fault.parse().unwrap()], ..request(plan, 4) };
    for fault in ["slow-callback:1:500", "stuck:1", "csd-lock:1"] {
        let message = compile(&with("matrix", fault)).unwrap_err().to_string();
        assert!(message.contains(&format!("--inject {fault}: plan `matrix` has no function called")), "{message}");
        assert!(message.contains("--plan calls"), "{message}");
        let compiled = compile(&with("calls", fault)).unwrap();
        assert!(compiled.notes.is_empty(), "{:?}", compiled.notes);
        assert_eq!(compiled.meta.faults, [fault]);
    }
    // In `fan-in` only core 0 is called, and every second caller waits.
    let compiled = compile(&with("fan-in", "stuck:1")).unwrap();
    let note = &compiled.notes[0];
    assert!(note.contains("fault `stuck:1` strikes too late: core 1 runs 0 callbacks in a round"), "{note}");
    assert!(compile(&with("fan-in", "csd-lock:0:3000")).unwrap().notes.is_empty());
    let compiled = compile(&with("fan-in", "csd-lock:0:3001")).unwrap();
    assert!(compiled.notes[0].contains("core 0 runs 3000 callbacks that somebody waits for"), "{:?}", compiled.notes);
}

#[test]
fn a_stuck_core_ends_a_run_in_about_a_minute() {
    let seconds =
        |request: &PlanRequest| with_plan(&compile(request).unwrap(), |plan| plan.header.deadline_ns as f64 / 1e9);
    let live = seconds(&request("calls", 8));
    assert!((60.0..75.0).contains(&live), "{live} s");
    let counted = seconds(&PlanRequest { deterministic: true, ..request("calls", 8) });
    assert!((0.05..0.1).contains(&counted), "{counted} s of counted instructions");
    for name in ["kinds", "chain", "fan-in"] {
        let live = seconds(&request(name, 8));
        assert!((30.0..60.0).contains(&live), "{name}: {live} s");
    }
    let stuck = PlanRequest { faults: vec!["stuck:3".parse().unwrap()], ..request("calls", 8) };
    assert_eq!(seconds(&stuck), live, "a core that never comes back needs no more time");
    // One microsecond a tick, and each callback of one core of eight.
    let slow = PlanRequest { faults: vec!["slow-callback:3:1000".parse().unwrap()], ..request("calls", 8) };
    assert!((3.0..7.0).contains(&(seconds(&slow) - live)), "{}", seconds(&slow));
    let slow = PlanRequest { deterministic: true, ..slow };
    assert!((0.003..0.007).contains(&(seconds(&slow) - counted)), "{}", seconds(&slow));
    let dead = PlanRequest { deterministic: true, faults: vec!["dead:3".parse().unwrap()], ..request("chain", 8) };
    let boot = with_plan(&compile(&dead).unwrap(), |plan| plan.header.boot_ns as f64 / 1e9);
    assert!(seconds(&dead) > boot, "the first barrier waits for a core that does not come");
    let busy = "name = \"x\"\n[[phase]]\npattern = \"script\"\n[[phase.program]]\ncores = 0\n\
                ops = [{ call = { to = 1, function = \"slow\", time = \"2s\", count = 10 } }, \
                { loop = { count = 3, ops = [{ delay = \"1s\" }, { idle = { state = \"wfi\", time = \"500ms\" } }] } }]\n";
    let compiled = script(busy, 2).unwrap();
    let deadline = with_plan(&compiled, |plan| plan.header.deadline_ns);
    assert_eq!(
        deadline,
        30_000_000_000 + 10 * 2_000_000_000 + 10 * 3_000_000 + 3 * 1_500_000_000,
        "what it says it needs"
    );
    // The host is the last to give up, however slow its emulator is.
    let compiled = compile(&request("calls", 8)).unwrap();
    assert!(compiled.host_deadline.as_secs_f64() > live + 240.0);
}

/// The records of one round that the lanes of a core can get, from its operations alone: thread, IRQ, NMI.
fn most_records(plan: &Plan<'_>, level: TraceLevel, backtrace: bool) -> Vec<[u64; 3]> {
    let cores = plan.programs.len();
    let mut lanes = vec![[0_u64; 3]; cores];
    let (answer, calls) = match level {
        TraceLevel::Ipi => (1, 0),
        TraceLevel::Stages => (3, 0),
        TraceLevel::Calls => (3, 1),
        TraceLevel::Off => unreachable!("nothing is recorded"),
    };
    let frames = if backtrace { 8 } else { 0 };
    let send = 1 + calls + frames;
    let mask = (cores as u64).div_ceil(64) + 1 + frames;
    for (core, program) in plan.programs.iter().enumerate() {
        let (mut factor, mut loops) = (1, Vec::new());
        for word in &plan.ops[program.first_op as usize..] {
            let function = Function::from_code(word.a & 0x7F);
            let wait = u64::from(word.a & WAITS != 0);
            match word.code {
                op::END => break,
                op::LOOP => {
                    loops.push(factor);
                    factor *= u64::from(word.c);
                }
                op::LOOP_END => factor = loops.pop().unwrap(),
                op::PHASE | op::PHASE_END => lanes[core][0] += factor,
                op::CALL => {
                    lanes[core][0] += factor * (send + 2 * calls);
                    lanes[usize::from(word.b)][1] += factor * (2 * answer + 2 * calls);
                    let route = Onward::from_info(word.d);
                    if function == Some(Function::Onward) {
                        let mut at = usize::from(word.b);
                        for _ in 0..route.hops {
                            let next = (at + usize::from(route.stride)) % cores;
                            lanes[at][1] += 2 * factor * (send + calls);
                            lanes[next][1] += 2 * factor * (2 * answer + 2 * calls);
                            at = next;
                        }
                    }
                }
                op::CALL_MANY => {
                    let set = plan.masks[usize::from(word.b)];
                    let targets = (0..cores).filter(|to| *to != core && set.contains(*to as u16));
                    lanes[core][0] += factor * mask;
                    for to in targets {
                        lanes[core][0] += factor * calls * (2 + wait);
                        lanes[to][1] += factor * (2 * answer + 2 * calls);
                    }
                }
                op::IPI => {
                    let sent = factor * word.d;
                    lanes[core][0] += sent * (send + 1);
                    let more = match IpiKind::from_intid(word.a).unwrap() {
                        IpiKind::Stop | IpiKind::CrashStop => 2,
                        IpiKind::Backtrace => 16,
                        _ => 0,
                    };
                    lanes[usize::from(word.b)][1] += sent * (2 * answer + more * calls);
                    let phase = plan.slots[word.c as usize].phase;
                    let urgent = plan.slots.iter().any(|slot| slot.phase == phase && slot.delivery != 0);
                    if urgent {
                        lanes[usize::from(word.b)][2] += sent * (2 * answer + more * calls);
                    }
                }
                op::TICK => {
                    lanes[core][1] += factor * mask;
                    (0..cores).filter(|to| *to != core).for_each(|to| lanes[to][1] += factor * 2 * answer);
                }
                op::IRQ_WORK => {
                    lanes[core][0] += factor * (send + 3 * calls);
                    lanes[core][1] += factor * (2 * answer + 2 * calls);
                }
                _ => {}
            }
        }
    }
    // Each phase writes two marks of its own kind, wherever it begins and ends.
    lanes
}

#[test]
fn lanes_hold_every_record_of_a_round() {
    for name in CALLING {
        for (level, backtrace) in [
            (TraceLevel::Ipi, false),
            (TraceLevel::Stages, false),
            (TraceLevel::Calls, false),
            (TraceLevel::Calls, true),
        ] {
            for cores in [2, 8, 70] {
                let asked =
                    PlanRequest { level: Some(level), backtrace, ring_memory_cap: 1 << 40, ..request(name, cores) };
                let compiled = compile(&asked).unwrap();
                let place = format!("{name} on {cores} cores at {level:?}, backtrace {backtrace}");
                with_plan(&compiled, |plan| {
                    let expected = most_records(plan, level, backtrace);
                    for (program, records) in plan.programs.iter().zip(&expected) {
                        let log2 = |records: u64, gaps: u32| match records + u64::from(gaps) {
                            0 => 4,
                            some => (some + super::super::SLACK).next_power_of_two().ilog2().max(6) as u8,
                        };
                        let [thread, irq, nmi] = *records;
                        // Gaps are seen by threads and by their timer's interrupt.
                        let lanes = [log2(thread, MOST_GAPS), log2(irq, MOST_GAPS), log2(nmi, 0), 4];
                        assert_eq!(program.log2_records, lanes, "{place}: {records:?}");
                    }
                    let sum: u64 = expected.iter().flatten().sum();
                    assert_eq!(compiled.meta.expected_records, sum, "{place}");
                });
            }
        }
    }
    // Plans that don't call have no records of NMIs.
    with_plan(&compile(&request("matrix", 4)).unwrap(), |plan| {
        assert!(plan.programs.iter().all(|program| program.log2_records[2..] == [4, 4]));
    });
}

/// A core of the machine below.
#[derive(Clone, Default)]
struct Actor {
    at: usize,
    loops: Vec<(u32, usize)>,
    /// How it is masked while it holds.
    held: Option<u8>,
    released: bool,
    parked: bool,
    delivery: u8,
    /// Barriers that it came to.
    met: u64,
    waits: bool,
    done: bool,
}

impl Actor {
    /// Whether an IPI of a kind gets through to it.
    fn takes(&self, kind: IpiKind) -> bool {
        let urgent = matches!(kind, IpiKind::CrashStop | IpiKind::Backtrace);
        match (self.parked, self.held) {
            (true, _) => kind == IpiKind::Wakeup,
            (false, None) => true,
            (false, Some(mask)) => match (mask, self.delivery) {
                (2, _) | (1, 1..) | (0, 2) => urgent,
                _ => false,
            },
        }
    }
}

/// Runs a plan on a machine that has what waits for what, and nothing else. Cores take their steps in a random order; those in
/// `dead` are not up. An error: nobody can go on, and where each stands.
fn run(compiled: &CompiledPlan, seed: u64, dead: &[usize]) -> Result<(), String> {
    with_plan(compiled, |plan| {
        let mut random = Random(seed);
        let mut turn = None;
        let start = |program: &trace_ring::plan::CoreProgram| Actor {
            at: program.first_op as usize,
            delivery: Delivery::PseudoNmi as u8,
            ..Actor::default()
        };
        let mut cores: Vec<Actor> = plan.programs.iter().map(start).collect();
        for core in dead {
            (cores[*core].done, cores[*core].met) = (true, u64::MAX);
        }
        let up = |core: usize| !dead.contains(&core);
        let mut idle = 0;
        while cores.iter().any(|core| !core.done) {
            // So many vain tries in a row: whoever could have gone on would have.
            idle += 1;
            if idle > 64 * cores.len() {
                let stands = cores.iter().map(|core| format!("{:?}", plan.ops[core.at]));
                return Err(stands.collect::<Vec<_>>().join("\n"));
            }
            let id = random.index(cores.len());
            if cores[id].done || cores[id].parked {
                continue;
            }
            let word = plan.ops[cores[id].at];
            let to = usize::from(word.b);
            let goes_on = match word.code {
                op::PHASE | op::PHASE_END | op::BARRIER => {
                    if !cores[id].waits {
                        (cores[id].waits, cores[id].met) = (true, cores[id].met + 1);
                        idle = 0;
                        let met = cores[id].met;
                        if word.code == op::PHASE && cores.iter().all(|core| core.met >= met) {
                            turn = (0..cores.len()).filter(|core| up(*core)).find(|core| {
                                let rest = &plan.ops[cores[*core].at..];
                                let first = rest.iter().find(|word| [op::TURN, op::PHASE_END].contains(&word.code));
                                first.is_some_and(|word| word.code == op::TURN)
                            });
                        }
                    }
                    let met = cores[id].met;
                    let all = cores.iter().all(|core| core.met >= met);
                    cores[id].waits = !all;
                    all
                }
                op::TURN => turn == Some(id),
                op::PASS => {
                    // A core that is not up is passed over by following its PASS.
                    let mut pass = word;
                    while pass.b != 0xFFFF && !up(pass.b.into()) {
                        pass = plan.ops[plan.ops[pass.c as usize].c as usize];
                    }
                    turn = (pass.b != 0xFFFF).then_some(pass.b.into());
                    true
                }
                op::IPI | op::CALL | op::RELEASE | op::AWAIT if !up(to) => true,
                op::HOLD if word.b != NOBODY && !up(to) => true,
                op::IPI => {
                    let kind = IpiKind::from_intid(word.a).unwrap();
                    let taken = cores[to].takes(kind);
                    if taken && matches!(kind, IpiKind::Stop | IpiKind::CrashStop) {
                        assert_eq!(word.d, 1, "a parked core answers no second stop");
                        cores[to].parked = true;
                    } else if taken && kind == IpiKind::Wakeup {
                        cores[to].parked = false;
                    }
                    taken
                }
                op::CALL => word.a & WAITS == 0 || cores[to].takes(IpiKind::CallFunction),
                op::CALL_MANY => {
                    let mask = plan.masks[to];
                    let mut targets =
                        (0..cores.len()).filter(|core| *core != id && mask.contains(*core as u16) && up(*core));
                    word.a & WAITS == 0 || targets.all(|core| cores[core].takes(IpiKind::CallFunction))
                }
                op::TICK => {
                    (0..cores.len()).all(|core| core == id || !up(core) || cores[core].takes(IpiKind::TimerBroadcast))
                }
                op::HOLD => {
                    let released = std::mem::take(&mut cores[id].released);
                    idle = if released || cores[id].held.is_none() { 0 } else { idle };
                    cores[id].held = (!released).then_some(word.a);
                    released
                }
                op::RELEASE => {
                    cores[to].released = true;
                    true
                }
                op::AWAIT => match (word.a, cores[to].held, cores[to].parked) {
                    (0, held, parked) => held.is_some() && !parked,
                    (1, _, parked) => parked,
                    (_, held, parked) => held.is_none() && !parked,
                },
                op::DELIVERY => {
                    cores[id].delivery = word.a;
                    true
                }
                op::LOOP => {
                    let after = cores[id].at + 1;
                    cores[id].loops.push((word.c, after));
                    true
                }
                op::LOOP_END => {
                    let (left, start) = cores[id].loops.pop().unwrap();
                    if left > 1 {
                        cores[id].loops.push((left - 1, start));
                        cores[id].at = start - 1;
                    }
                    true
                }
                op::END => {
                    cores[id].done = true;
                    idle = 0;
                    continue;
                }
                _ => true,
            };
            if goes_on {
                cores[id].at += 1;
                idle = 0;
            }
        }
        Ok(())
    })
}

#[test]
fn no_order_of_events_makes_a_plan_of_ours_hang() {
    for name in CALLING {
        for cores in [2, 3, 4, 8] {
            let compiled = compile(&request(name, cores)).unwrap();
            for seed in 0..if name == "kinds" { 20 } else { 2 } {
                let stands = run(&compiled, seed, &[]);
                assert!(stands.is_ok(), "{name} on {cores} cores, seed {seed}:\n{}", stands.unwrap_err());
            }
            for dead in (0..cores.into()).filter(|_| cores < 8) {
                let stands = run(&compiled, 5, &[dead]);
                assert!(stands.is_ok(), "{name} on {cores} cores without {dead}:\n{}", stands.unwrap_err());
            }
        }
    }
    // The machine that says so can see one that hangs.
    let hangs = one_program(0, "{ await = { core = 1, state = \"masked\" } }");
    assert!(run(&script(&hangs, 2).unwrap(), 1, &[]).unwrap_err().contains("code: 27"));
}

#[test]
fn a_script_may_ask_for_more_than_there_are_numbers() {
    let steps = "{ call = { to = \"all\", function = \"slow\", time = \"1s\" } }, { call = { to = 1, function = \"onward\", hops = 65536 } }, \
                 { ipi = { kind = \"backtrace\", to = 1 } }, { tick = { after = \"1s\" } }, { irq_work = { function = \"drain\" } }, \
                 { mark = 1 }, { ping = { to = 1, count = 4000 } }, { release = 1 }, { delay = \"1s\" }";
    let steps = (0..4).fold(steps.to_owned(), |ops, _| format!("{{ loop = {{ count = 4294967295, ops = [{ops}] }} }}"));
    let text = one_program(0, &steps) + "[[phase]]\npattern = \"matrix\"\ncount = 1\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    std::fs::write(&path, text).unwrap();
    for duration in [None, Some(std::time::Duration::from_secs(1))] {
        let compiled = compile(&PlanRequest { duration, ..request(path.to_str().unwrap(), 3) }).unwrap();
        assert_eq!(compiled.meta.expected_records, u64::MAX);
        assert!(compiled.meta.ring_bytes <= 256 << 20 && compiled.notes.iter().any(|note| note.contains("lapped")));
    }
    let asked = PlanRequest { ring_records: Some(u32::MAX), ..request("matrix", 2) };
    assert_eq!(compile(&asked).unwrap().meta.ring_bytes, (2 * 4 * 32) << 31);
}

#[test]
fn the_examples_of_the_plans_page_compile_and_end() {
    let page = include_str!("../../../../../docs/plans.md");
    let examples: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let calling: Vec<&&str> = examples.iter().filter(|text| text.contains("call = ")).collect();
    assert!(examples.len() >= 2 && !calling.is_empty());
    for text in examples {
        let compiled = script(text, 4).unwrap_or_else(|error| panic!("{text}\n{error}"));
        check(&compiled);
        assert_eq!(run(&compiled, 3, &[]), Ok(()), "{text}");
    }
}
