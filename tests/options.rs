//! Options that change a run: what is kept, who sends, for how long, under which name.

use system_tests::{can_run, qemu, run};

#[test]
fn keep_decides_what_the_capture_holds_and_never_what_is_counted() {
    if !can_run() {
        return;
    }
    let all = qemu(&["--plan", "storm"]);
    for keep in ["none", "worst:5"] {
        let run = qemu(&["--plan", "storm", "--keep", keep]);
        run.expect(0, "clean");
        assert_eq!(run.number("/ipis/sent"), all.number("/ipis/sent"), "{run}");
        assert_eq!(run.number("/ipis/lost"), 0, "{run}");
        assert_eq!(run.text("/ipis/from"), "target", "{run}");
        let length = |run: &system_tests::Run| std::fs::metadata(&run.capture).expect("a capture").len();
        assert!(length(&run) < length(&all), "{keep} keeps less than all");
    }
}

#[test]
fn from_and_to_restrict_every_plan() {
    if !can_run() {
        return;
    }
    for plan in ["standard", "matrix", "storm"] {
        let run = qemu(&["--plan", plan, "--from", "1-2", "--to", "3"]);
        run.expect(0, "clean");
        let pairs = run.report["pairs"].as_array().expect("pairs");
        let timed: Vec<_> = pairs.iter().filter(|pair| pair["n"].as_u64() > Some(0)).collect();
        assert!(!timed.is_empty(), "{run}");
        for pair in timed {
            let from = pair["from"].as_u64().expect("a sender");
            assert!((1..=2).contains(&from), "{plan}: {pair}");
        }
    }
}

#[test]
fn duration_repeats_a_plan_and_counts_every_round() {
    if !can_run() {
        return;
    }
    let once = qemu(&["--plan", "self"]);
    let run = qemu(&["--plan", "self", "--duration", "2s"]);
    run.expect(0, "clean");
    let (rounds, rest) =
        (run.number("/ipis/sent") / once.number("/ipis/sent"), run.number("/ipis/sent") % once.number("/ipis/sent"));
    assert!(rounds >= 2 && rest == 0, "whole rounds, and more than one: {rounds} and {rest}\n{run}");
    assert!(run.took.as_secs_f64() >= 2.0, "{run}");
}

#[test]
fn policies_account_for_what_they_turn_away() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--plan", "self", "--policy", "stop", "--ring-records", "64"]);
    run.expect(0, "clean");
    let lanes = run.report["lanes"].as_array().expect("lanes");
    assert!(lanes.iter().any(|lane| lane["dropped"].as_u64() > Some(0) && lane["accepted"] == 64), "{run}");
    assert!(lanes.iter().all(|lane| lane["lapped"] == 0 && lane["torn"] == 0), "a full prefix is kept\n{run}");
    // Every latency is above a nanosecond, so the trigger fires at once, and half a ring more is kept.
    let run = qemu(&["--plan", "self", "--policy", "trigger", "--trigger", "1ns", "--ring-records", "64"]);
    run.expect(0, "clean");
    let lanes = run.report["lanes"].as_array().expect("lanes");
    assert!(lanes.iter().any(|lane| lane["dropped"].as_u64() > Some(0)), "{run}");
}

#[test]
fn a_capture_is_reported_alike_offline() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--tag", "unit=A17", "--deterministic"]);
    run.expect(0, "clean");
    let (code, stdout, stderr) = system_tests::run(run.folder.path(), &["report", "run.mcap", "--json", "again.json"]);
    assert_eq!((code, stdout.as_str()), (run.code, run.stdout.as_str()), "{stderr}");
    let again: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.folder.path().join("again.json")).expect("a report")).expect("JSON");
    assert_eq!(again, run.report);
    assert_eq!(run.text("/target/tags/unit"), "A17");
}

#[test]
fn a_script_runs_every_operation_of_a_plan() {
    if !can_run() {
        return;
    }
    let plan = r#"
name = "every-operation"
[[phase]]
name = "script"
pattern = "script"
[[phase.program]]
cores = 0
ops = [
  { mark = 7 },
  { ping = { to = 1, count = 10 } },
  { send = { to = 1, count = 10 } },
  "settle",
  { delay = "10us" },
  { at = "50us" },
  { mask = "10us" },
  { pressure = { kib = 64, time = "100us" } },
  { loop = { count = 3, ops = [{ ping = { to = 1, count = 2 } }] } },
  { broadcast = { count = 2 } },
  "barrier",
]
[[phase.program]]
cores = 1
ops = [{ idle = { state = "wfi", time = "100us" } }, "barrier"]
"#;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("every.toml");
    std::fs::write(&file, plan).expect("a plan");
    let run = qemu(&["--cores", "2", "--plan", file.to_str().expect("a path"), "--deterministic"]);
    run.expect(0, "clean");
    // 10 pings, 10 sends, 3 times 2 pings, 2 broadcasts to one other core.
    assert_eq!(run.number("/ipis/sent"), 28, "{run}");
}

#[test]
fn completions_and_man_pages_are_made_for_every_verb() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let (code, stdout, said) = run(path, &["generate", "--out", "made"]);
    assert_eq!((code, stdout.as_str()), (0, ""), "{said}");
    let read = |name: &str| {
        std::fs::read_to_string(path.join("made").join(name)).unwrap_or_else(|_| panic!("no {name}: {said}"))
    };
    let main = read("man/ipiscope.1");
    for verb in ["qemu", "probe", "report", "compare", "export", "import", "replay", "selftest"] {
        assert!(main.contains(verb), "{verb}");
        let page = read(&format!("man/ipiscope-{verb}.1"));
        assert!(page.starts_with(".ie") && page.contains(r"\-\-"), "{verb}: {page}");
        assert!(page.contains("ipiscope "), "{verb} shows an example");
    }
    for (name, word) in [("ipiscope.bash", "--filter"), ("_ipiscope", "--filter"), ("ipiscope.fish", "-l filter")] {
        assert!(read(&format!("completions/{name}")).contains(word), "{name}");
    }
    let checked =
        std::process::Command::new("bash").arg("-n").arg(path.join("made/completions/ipiscope.bash")).status();
    assert!(checked.expect("bash").success());
    // A folder that can't be made is named.
    std::fs::write(path.join("file"), "").expect("written");
    let (code, _, said) = run(path, &["generate", "--out", "file/x"]);
    assert!(code == 2 && said.contains("file/x"), "{code}: {said}");
}

#[test]
fn a_report_comes_as_a_page_and_as_markdown_from_one_call() {
    if !can_run() {
        return;
    }
    let run_of_four = qemu(&[
        "--deterministic",
        "--plan",
        "matrix",
        "--inject",
        "late:2:500",
        "--html",
        "page.html",
        "--markdown",
        "ticket.md",
    ]);
    let path = run_of_four.folder.path();
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (page, ticket) = (read("page.html"), read("ticket.md"));
    assert!(page.to_ascii_lowercase().starts_with("<!doctype html>") && page.contains("core 2 as receiver"));
    // Namespaces are names, not places.
    let places = page.replace("http://www.w3.org/", "");
    assert!(!places.contains("http://") && !places.contains("https://"), "nothing is fetched");
    assert!(ticket.starts_with("## ipiscope: suspect: core 2 as receiver"), "{ticket}");
    let (code, text, said) = run(path, &["report", "run.mcap", "--html", "-"]);
    assert!(code == 1 && text == page, "{said}");
    let (code, _, said) = run(path, &["report", "run.mcap", "--html", "no/such/folder.html"]);
    assert!(code == 2 && said.contains("no/such/folder.html"), "{code}: {said}");
}
