//! From a Linux trace to bare metal: the plan that `replay` makes runs, sends all that was sent, keeps order and times, and a fault that
//! was in the trace is found again where it is put in.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use system_tests::{can_run, run};

const CALL: &str = "Function call interrupts";
const RESCHEDULE: &str = "Rescheduling interrupts";

/// A trace of four CPUs as a kernel of today prints it: calls of 3 and 40 us to an idle CPU and to one that runs, reschedules, and a call
/// of three CPUs at once.
fn trace() -> String {
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut event = |t: u64, cpu: u64, pid: u64, what: &str| {
        let (task, flags) = if pid == 0 { ("<idle>", "d.h..") } else { ("worker", ".....") };
        let (seconds, rest) = (t / 1_000_000_000, t % 1_000_000_000);
        lines.push((t, format!("{task:>16}-{pid:<7} [{cpu:03}] {flags} {seconds:>5}.{rest:09}: {what}\n")));
    };
    for round in 0..60_u64 {
        let t = 5_000_000_000 + round * 400_000;
        let (from, to) = (round % 4, (round + 1) % 4);
        let lasts = if round % 3 == 0 { 40_000 } else { 3000 };
        let runs = if round % 2 == 0 { 0 } else { 100 + to };
        let csd = 0xffff_0000 + 64 * round;
        event(
            t,
            from,
            100 + from,
            &format!("csd_queue_cpu: cpu={to} callsite=caller+0x10/0x20 func=work csd={csd:016x}"),
        );
        event(t + 500, from, 100 + from, &format!("ipi_raise: target_mask=00000000,{:08x} ({CALL})", 1 << to));
        event(t + 2000, to, runs, &format!("ipi_entry: ({CALL})"));
        event(t + 2500, to, runs, &format!("csd_function_entry: func=work, csd={csd:016x}"));
        event(t + 2500 + lasts, to, runs, &format!("csd_function_exit: func=work, csd={csd:016x}"));
        event(t + 3000 + lasts, to, runs, &format!("ipi_exit: ({CALL})"));
        event(t + 100_000, to, 100 + to, &format!("ipi_raise: target_mask=00000000,{:08x} ({RESCHEDULE})", 1 << from));
        event(t + 101_000, from, 0, &format!("ipi_entry: ({RESCHEDULE})"));
        event(t + 101_500, from, 0, &format!("ipi_exit: ({RESCHEDULE})"));
        if round % 10 == 0 {
            event(
                t + 200_000,
                from,
                100 + from,
                &format!("ipi_raise: target_mask=00000000,{:08x} ({CALL})", 0xF & !(1 << from)),
            );
            for other in (0..4).filter(|other| *other != from) {
                event(t + 202_000, other, 0, &format!("ipi_entry: ({CALL})"));
                event(t + 205_000, other, 0, &format!("ipi_exit: ({CALL})"));
            }
        }
    }
    lines.sort_by_key(|(t, _)| *t);
    let mut text = "# tracer: nop\n#\n".to_owned();
    lines.iter().for_each(|(_, line)| {
        let _ = write!(text, "{line}");
    });
    text
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a report")).expect("JSON")
}

/// Runs a plan in counted time: the exit code and the report.
fn counted(folder: &Path, cores: &str, more: &[&str]) -> (i32, Value) {
    let common = [
        "qemu",
        "--cores",
        cores,
        "--plan",
        "replay.toml",
        "--deterministic",
        "--out",
        "run.mcap",
        "--json",
        "run.json",
    ];
    let (code, _, said) = run(folder, &[&common[..], more].concat());
    assert!([0, 1].contains(&code), "{said}");
    (code, json(&folder.join("run.json")))
}

fn whole(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn a_replay_sends_what_the_trace_sent_in_its_order_and_at_its_times() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    std::fs::write(path.join("trace.txt"), trace()).expect("written");
    let (code, _, said) = run(path, &["import", "trace.txt", "--out", "linux.mcap"]);
    assert_eq!(code, 0, "{said}");
    let (code, _, said) = run(path, &["replay", "linux.mcap", "--out", "replay.toml"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("126 sends (138 IPIs) of 4 cores"), "{said}");
    let plan = std::fs::read_to_string(path.join("replay.toml")).expect("a plan");
    assert_eq!(plan.matches("at = ").count(), 126);
    assert_eq!(plan.matches("kind = \"reschedule\"").count(), 60);
    assert_eq!(plan.matches("time = \"40000ns\"").count(), 20);
    assert_eq!(plan.matches("to = [").count(), 6);
    let (code, report) = counted(path, "4", &[]);
    assert_eq!((code, &report["verdict"]), (0, &Value::from("clean")), "{}", report["suspects"]);
    assert_eq!((whole(&report["ipis"]["sent"]), whole(&report["ipis"]["lost"])), (138, 0));
    let timing = &report["timing"];
    assert_eq!((whole(&timing["planned"]), whole(&timing["reproduced"])), (126, 126));
    assert_eq!(timing["in_order"], true);
    // Counted time: what queueing and sending take, in instructions.
    let latest = timing["late_max_ns"].as_f64().expect("a time");
    assert!((1.0..5000.0).contains(&latest), "{timing}");
    // Callbacks are as long as they were.
    let callbacks = report["callbacks"].as_array().expect("callbacks");
    let slow = callbacks
        .iter()
        .find(|callback| callback["function"] == "slow_callback" || callback["symbol"] == "slow_callback");
    let longest = slow.expect("a slow callback")["max_ns"].as_f64().expect("a time");
    assert!((40_000.0..41_000.0).contains(&longest), "{longest}");
    // Both stand side by side without force.
    let (code, text, said) = run(path, &["compare", "linux.mcap", "run.mcap"]);
    assert!([0, 1].contains(&code) && text.contains("queue_to_"), "{code}: {text}{said}");
    // And the replay can be replayed.
    let (code, _, said) = run(path, &["replay", "run.mcap", "--out", "replay.toml"]);
    assert!(code == 0 && said.contains("126 sends (138 IPIs)"), "{said}");
    let (_, again) = counted(path, "4", &[]);
    assert_eq!((whole(&again["ipis"]["sent"]), whole(&again["timing"]["reproduced"])), (138, 126));
}

#[test]
fn parts_of_a_trace_are_replayed_as_they_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    std::fs::write(path.join("trace.txt"), trace()).expect("written");
    let (code, _, said) = run(path, &["import", "trace.txt", "--out", "linux.mcap"]);
    assert_eq!(code, 0, "{said}");
    for (arguments, words) in [
        (&["--only", "kind == reschedule"][..], "60 sends (60 IPIs)"),
        (&["--only", "pair == 0->1 && kind == call_function"], "18 sends (18 IPIs)"),
        (&["--only", "around(t < 1us, 250us)"], "3 sends (5 IPIs)"),
        // All that are as late as the latest.
        (&["--around", "1", "--window", "1us"], "6 sends (18 IPIs)"),
        (&["--scale", "2"], "over 47.4 ms"),
        (&["--longest-gap", "10us"], "126 sends (138 IPIs)"),
    ] {
        let (code, text, said) = run(path, &[&["replay", "linux.mcap"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: expected {words:?} in {said}");
        assert!(text.contains("pattern = \"script\""), "{text}");
    }
    let plan = |seed: &str| run(path, &["replay", "linux.mcap", "--jitter", "5us", "--seed", seed]).1;
    assert!(plan("1") == plan("1") && plan("1") != plan("2"));
    for (arguments, words) in [
        (&["--only", "kind == stop"][..], "holds no IPI that can be replayed: `kind == stop` picks none"),
        (&["--only", "knid == stop"], "`knid` is none"),
        (&["--only", "around(lost, 3)", "--around", "2"], "both choose neighbours"),
        (&["--scale", "0"], "not between"),
    ] {
        let (code, _, said) = run(path, &[&["replay", "linux.mcap"], arguments].concat());
        assert_eq!(code, 3, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: expected {words:?} in {said}");
    }
}

#[test]
fn stamps_too_coarse_to_tell_a_send_from_its_raise_and_traces_without_raises_lose_no_send() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let callback = "generic_smp_call_function_single_interrupt+0x0/0x30";
    // What asks and the raise have one stamp, of a microsecond.
    let mut text = String::new();
    for call in 0..20 {
        let line = |cpu: u64, us: u64, what: String| {
            format!("{:>16}-{:<7} [{cpu:03}] d....     5.{us:06}: {what}\n", "worker", 100 + cpu)
        };
        let us = 1000 * call;
        text += &line(0, us, format!("ipi_send_cpu: cpu=1 callsite=caller+0x10/0x20 callback={callback}"));
        text += &line(0, us, format!("ipi_raise: target_mask=00000000,00000002 ({CALL})"));
        text += &line(1, us + 5, format!("ipi_entry: ({CALL})"));
        text += &line(1, us + 45, format!("ipi_exit: ({CALL})"));
    }
    let without: String =
        text.lines().filter(|line| !line.contains("ipi_raise")).map(|line| format!("{line}\n")).collect();
    for (name, text) in [("both", text), ("sends", without)] {
        std::fs::write(path.join("trace.txt"), text).expect("written");
        let capture = format!("{name}.mcap");
        let (code, _, said) = run(path, &["import", "trace.txt", "--out", &capture]);
        assert_eq!(code, 0, "{said}");
        for more in [&[][..], &["--only", "pair == 0->1"]] {
            let (code, plan, said) = run(path, &[&["replay", capture.as_str()], more].concat());
            assert!(code == 0 && said.contains("20 sends (20 IPIs)"), "{name}, {more:?}: {said}");
            assert_eq!(plan.matches("function = \"slow\", time = \"40000ns\"").count(), 20, "{name}, {more:?}: {plan}");
        }
    }
}

/// The reference set, where it is: it does not come with the project.
fn traces() -> Option<PathBuf> {
    let folder = std::env::var_os("IPISCOPE_LINUX_TRACES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/linux-ftrace"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

#[test]
fn the_throttled_cpu_of_a_real_trace_is_found_again_where_its_delay_is_put_in() {
    let Some(traces) = traces().filter(|_| can_run()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let trace = traces.join("k612-smp8-slow-throttle/slow-throttle.trace.txt.xz");
    let (code, _, said) = run(path, &["import", trace.to_str().expect("a path"), "--out", "linux.mcap"]);
    assert_eq!(code, 0, "{said}");
    let (code, _, said) = run(path, &["replay", "linux.mcap", "--out", "replay.toml"]);
    assert!(code == 0 && said.contains("1403 sends (1403 IPIs) of 8 cores"), "{said}");
    // What `replay` says is what is run.
    let twin = said.split("--inject ").nth(1).and_then(|rest| rest.split('`').next()).expect("a fault");
    assert!(twin.starts_with("late:5:"), "{twin}");
    for (fault, verdict) in [(None, "clean"), (Some(twin), "suspect")] {
        let more: Vec<&str> = fault.iter().flat_map(|fault| ["--inject", fault]).collect();
        let (_, report) = counted(path, "8", &more);
        let timing = &report["timing"];
        assert_eq!((whole(&timing["planned"]), whole(&timing["reproduced"])), (1403, 1403), "{timing}");
        assert_eq!(timing["in_order"], true);
        assert!(timing["late_max_ns"].as_f64().is_some());
        assert_eq!(report["verdict"], verdict, "{}", report["suspects"]);
        let suspects: Vec<(&Value, &Value)> = report["suspects"]
            .as_array()
            .expect("suspects")
            .iter()
            .map(|suspect| (&suspect["core"], &suspect["detector"]))
            .collect();
        match fault {
            None => assert!(suspects.is_empty(), "{suspects:?}"),
            Some(_) => assert_eq!(suspects, [(&Value::from(5), &Value::from("late"))]),
        }
    }
}
