//! The call layer: every call runs exactly once, every IPI kind does its work, and whoever hangs is found and shown.

use serde_json::Value;
use system_tests::{Run, can_run, qemu, run};
use trace_ring::calls::IpiKind;

fn stages<'a>(run: &'a Run, stage: &str) -> Vec<&'a Value> {
    let all = run.report["stages"].as_array().expect("stages are listed");
    all.iter().filter(|row| row["stage"] == stage).collect()
}

/// Asserts that every call that was queued was executed, once.
fn expect_each_call_once(run: &Run) {
    assert_eq!(run.number("/calls/queued"), run.number("/calls/executed"), "{run}");
    for none in ["not_executed", "twice", "orphaned", "unknown"] {
        assert_eq!(run.number(&format!("/calls/{none}")), 0, "{none}\n{run}");
    }
}

/// The capture as Linux's trace text.
fn ftrace(run: &Run) -> String {
    let (code, stdout, stderr) = system_tests::run(run.folder.path(), &["export", "run.mcap", "--to", "ftrace"]);
    assert_eq!(code, 0, "{stderr}");
    stdout
}

#[test]
fn ten_thousand_calls_from_eight_cores_run_exactly_once() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--cores", "8", "--plan", "calls"]);
    run.expect(0, "clean");
    assert!(run.number("/calls/queued") >= 10_000, "{run}");
    expect_each_call_once(&run);
    // An SGI goes out only where the queue was empty: fewer than calls, and one message each.
    let saved = run.number("/calls/sends_saved");
    assert!(saved > 0, "eight busy cores find each other's queues in use\n{run}");
    assert_eq!(run.number("/ipis/sent") + saved, run.number("/calls/queued"), "{run}");
    let sources: std::collections::BTreeSet<u64> =
        run.report["pairs"].as_array().expect("pairs").iter().filter_map(|pair| pair["from"].as_u64()).collect();
    assert_eq!(sources.len(), 8, "every core calls\n{run}");
}

#[test]
fn all_eight_kinds_are_sent_received_and_named_as_linux_names_them() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--plan", "kinds", "--cpu", "max"]);
    run.expect(0, "clean");
    let pairs = run.report["pairs"].as_array().expect("pairs are listed");
    let text = ftrace(&run);
    for kind in IpiKind::ALL {
        let rows: Vec<&Value> = pairs.iter().filter(|pair| pair["kind"] == kind.name()).collect();
        let delivered: u64 = rows.iter().filter_map(|pair| pair["n"].as_u64()).sum();
        assert!(delivered > 0, "{} was answered\n{run}", kind.name());
        assert!(run.stdout.contains(kind.name()), "{} has its own row\n{run}", kind.name());
        for event in ["ipi_raise", "ipi_entry", "ipi_exit"] {
            let found = text
                .lines()
                .any(|line| line.contains(&format!(" {event}: ")) && line.ends_with(&format!("({})", kind.reason())));
            assert!(found, "{event} of {}\n{}", kind.name(), text.lines().take(60).collect::<Vec<_>>().join("\n"));
        }
    }
    // Those that reach a core with interrupts off: by priority everywhere, by superpriority where the core has it.
    for kind in [IpiKind::CrashStop, IpiKind::Backtrace] {
        for delivery in ["irq", "pseudo_nmi", "nmi"] {
            let measured = pairs.iter().any(|pair| {
                pair["kind"] == kind.name() && pair["delivery"] == delivery && pair["n"].as_u64() > Some(0)
            });
            assert!(measured, "{} as {delivery}\n{run}", kind.name());
        }
    }
}

#[test]
fn without_feat_nmi_the_kinds_fall_back_to_pseudo_nmis() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--plan", "kinds", "--cpu", "cortex-a72"]);
    run.expect(0, "clean");
    let pairs = run.report["pairs"].as_array().expect("pairs are listed");
    assert!(pairs.iter().all(|pair| pair["delivery"] != "nmi"), "{run}");
    assert!(pairs.iter().any(|pair| pair["delivery"] == "pseudo_nmi"), "{run}");
}

#[test]
fn chains_and_fans_of_calls_are_whole() {
    if !can_run() {
        return;
    }
    for plan in ["chain", "fan-in"] {
        let run = qemu(&["--plan", plan, "--cores", "4"]);
        run.expect(0, "clean");
        assert!(run.number("/calls/queued") > 1000, "{run}");
        expect_each_call_once(&run);
    }
}

/// Plan `calls` for runs that end by their deadline: a short one.
fn short(folder: &tempfile::TempDir) -> String {
    let (code, plan, stderr) = run(folder.path(), &["plans", "calls"]);
    assert_eq!(code, 0, "{stderr}");
    let path = folder.path().join("short.toml");
    let short = plan.replacen("[defaults]", "[defaults]\ndeadline = \"8s\"", 1);
    assert_ne!(plan, short, "the deadline was put in");
    std::fs::write(&path, short).expect("is written");
    path.to_str().expect("a path").to_owned()
}

/// A call to three of four cores, once.
const MASK_OF_THREE: &str = r#"
name = "three"

[defaults]
level = "calls"

[[phase]]
name = "three"
pattern = "script"

[[phase.program]]
cores = 0
ops = [{ call = { to = "1-3", function = "drain" } }]
"#;

#[test]
fn a_call_to_three_cores_is_one_send_and_three_of_everything_else() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let plan = folder.path().join("three.toml");
    std::fs::write(&plan, MASK_OF_THREE).expect("is written");
    let run = qemu(&["--plan", plan.to_str().expect("a path")]);
    run.expect(0, "clean");
    expect_each_call_once(&run);
    let text = ftrace(&run);
    let events: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let place = |what: &str| -> Vec<usize> {
        events.iter().enumerate().filter(|(_, line)| line.contains(what)).map(|(place, _)| place).collect()
    };
    let queued = place(" csd_queue_cpu: ");
    let sent = place(" ipi_send_cpumask: ");
    let (entries, exits) = (place(" csd_function_entry: "), place(" csd_function_exit: "));
    assert_eq!((queued.len(), sent.len(), entries.len(), exits.len()), (3, 1, 3, 3), "{text}");
    assert_eq!(place(" ipi_raise: ").len(), 1, "{text}");
    let send = events[sent[0]];
    assert!(send.contains("cpumask=00000000,0000000e "), "{send}");
    assert!(send.contains("callback=generic_smp_call_function_single_interrupt+0x0/0x"), "{send}");
    let site = send.split("callsite=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a call site");
    assert!(site.contains("interpreter::run+0x"), "{send}");
    assert!(queued.iter().all(|at| events[*at].contains("func=drain_local_list csd=")), "{text}");
    assert!(entries.iter().all(|at| events[*at].contains("func=drain_local_list, csd=")), "{text}");
    // Causes before effects: queued before sent, sent before any entry, each entry before its exit.
    assert!(queued.iter().all(|at| *at < sent[0]), "{text}");
    for (cpu, at) in (1..=3).map(|cpu| (cpu, format!("[{cpu:03}]"))) {
        let here = |list: &[usize]| -> usize {
            let found: Vec<&usize> = list.iter().filter(|place| events[**place].contains(&at)).collect();
            assert_eq!(found.len(), 1, "core {cpu}\n{text}");
            *found[0]
        };
        assert!(sent[0] < here(&entries) && here(&entries) < here(&exits), "core {cpu}\n{text}");
    }
}

#[test]
fn a_slow_callback_is_blamed_on_the_callback_and_not_on_the_core() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--deterministic", "--cores", "4", "--plan", "calls", "--inject", "slow-callback:3:20000"]);
    run.expect(1, "suspect");
    let suspects = run.suspects();
    assert_eq!(suspects.len(), 1, "one fault, one suspect\n{run}");
    assert_eq!(
        (suspects[0].0.as_str(), suspects[0].1.as_str(), suspects[0].2),
        ("slow_callback", "callback", 3),
        "{run}"
    );
    // The callback stage of core 3 carries the whole delay; how fast its interrupts are taken does not change.
    let p50 = |stage: &str, core: u64| {
        let rows = stages(&run, stage);
        let row = rows.iter().find(|row| row["core"] == core && row["kind"] == "call_function");
        row.and_then(|row| row["p50_ns"].as_f64()).unwrap_or_else(|| panic!("{stage} of core {core}\n{run}"))
    };
    assert!(p50("callback", 3) > 20_000.0 && p50("callback", 1) < 10_000.0, "{run}");
    let entries = stages(&run, "send_to_entry");
    let own =
        entries.iter().find(|row| row["core"] == 3 && row["kind"] == "call_function").expect("core 3 is interrupted");
    assert!(own["max_ns"].as_f64() < Some(20_000.0), "no wait of a callback's length is charged to the core: {own}");
    assert!(run.number("/injected/0/struck") > 100, "{run}");
}

#[test]
fn a_stuck_core_ends_the_run_and_is_shown_with_all_that_waits_for_it() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let plan = short(&folder);
    let run = qemu(&["--cores", "4", "--plan", &plan, "--inject", "stuck:2", "--on-hang", "inspect"]);
    run.expect(1, "failed");
    assert_eq!(run.text("/ended"), "deadline", "{run}");
    let suspects = run.suspects();
    assert!(suspects.iter().any(|suspect| suspect.0 == "stuck_core" && suspect.2 == 2), "{run}");
    let (code, stdout, stderr) =
        system_tests::run(run.folder.path(), &["inspect", "run.mcap", "--json", "inspect.json"]);
    assert_eq!(code, 0, "{stderr}");
    let text = std::fs::read(run.folder.path().join("inspect.json")).expect("is written");
    let inspection: Value = serde_json::from_slice(&text).expect("is JSON");
    let core = &inspection["cores"][2];
    assert!(core["function"]["name"].is_string(), "{core}");
    assert!(
        core["pc"]["symbol"].as_str().is_some_and(|pc| {
            ["drain_local_list", "gather_local_statistics", "sync_icache", "slow_callback"]
                .iter()
                .any(|name| pc.starts_with(name))
        }),
        "its program counter stands in a callback: {core}"
    );
    assert_eq!(core["masked"], true, "{core}");
    let queue = core["queue"].as_array().expect("a queue");
    assert!(!queue.is_empty(), "calls pend: {core}");
    for call in queue {
        assert!(call["function"]["name"].is_string() && call["age_ns"].as_f64() > Some(0.0), "{call}");
        assert!(call["source"].is_u64() && call["call_site"]["symbol"].is_string(), "{call}");
    }
    let call_function = &core["sgis"][1];
    assert_eq!(call_function["pending"], true, "its SGI pends: {core}");
    let waiting = inspection["cores"].as_array().expect("cores").iter().filter(|core| core["waits"]["core"] == 2);
    let sites: Vec<&str> = waiting.filter_map(|core| core["waits"]["site"]["symbol"].as_str()).collect();
    assert!(!sites.is_empty(), "somebody waits for it: {inspection}");
    assert!(stdout.contains("drain_local_list") || stdout.contains("gather_local"), "{stdout}");
    assert!(run.stderr.contains("Core 2"), "--on-hang inspect shows it by itself\n{run}");
    // The page shows a real inspection of such a core: what its lines are called must still be so.
    let page = std::fs::read_to_string(system_tests::root().join("docs/inspect.md")).expect("a page");
    let sample =
        page.split("<!-- inspection: stuck -->").nth(1).and_then(|rest| rest.split("```").nth(1)).expect("a sample");
    for label in ["callback", "wanted", "pc", "called by", "SGIs", "queue", "last"] {
        for text in [sample, stdout.as_str()] {
            assert!(text.lines().any(|line| line.starts_with(&format!("  {label} "))), "`{label}`\n{text}");
        }
    }
}

#[test]
fn a_descriptor_that_stays_locked_is_blamed_on_the_core_that_left_it() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let run = qemu(&["--cores", "4", "--plan", &short(&folder), "--inject", "csd-lock:1"]);
    run.expect(1, "failed");
    let suspects = run.suspects();
    assert!(suspects.iter().any(|suspect| suspect.0 == "csd_lock" && suspect.2 == 1), "{run}");
    assert_eq!(run.number("/injected/0/struck"), 1, "{run}");
}

#[test]
fn sends_carry_their_senders_frames_where_asked() {
    if !can_run() {
        return;
    }
    let with = qemu(&["--plan", "chain", "--backtrace"]);
    with.expect(0, "clean");
    // A hop of a chain is sent by a callback, in an interrupt: its frames lead through the handler into the thread below it.
    let text = ftrace(&with);
    let stacks: Vec<Vec<&str>> = text
        .split("<stack trace>\n")
        .skip(1)
        .map(|stack| stack.lines().map_while(|line| line.strip_prefix(" => ")).collect())
        .collect();
    assert_eq!(stacks.len() as u64, with.number("/ipis/sent"), "one stack for each send");
    let hop = stacks.iter().find(|stack| stack.contains(&"call_onward")).expect("a callback sends");
    let place =
        |name: &str| hop.iter().position(|frame| frame.contains(name)).unwrap_or_else(|| panic!("{name}: {hop:?}"));
    assert!(place("call_onward") < place("irq_calls") && place("irq_calls") + 1 < hop.len(), "{hop:?}");
    let (code, _, stderr) = run(with.folder.path(), &["qemu", "--plan", "ping", "--backtrace"]);
    assert_eq!(code, 3, "a plan that does not call has no call layer to ask\n{stderr}");
    assert!(stderr.contains("--backtrace"), "{stderr}");
}
