//! The documents are true: commands of the README run, numbers in the pages are measured again, and files that they name exist.

use host::stop::StopOn;
use system_tests::{can_run, qemu, root};

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_readme_s_two_commands_are_what_ci_runs() {
    let (readme, ci) = (page("README.md"), page(".ci/run"));
    for command in ["./setup.sh && cargo run --release -p host -- qemu", "./setup.sh && cargo test --workspace"] {
        assert!(readme.lines().any(|line| line.trim() == command), "README.md has the line `{command}`");
    }
    assert!(ci.contains("./setup.sh\n") && ci.contains("cargo test --workspace"), ".ci/run does the same");
}

#[test]
fn files_that_the_pages_name_exist() {
    let pages = [
        "README.md",
        "CONTRIBUTING.md",
        "docs/design.md",
        "docs/measuring.md",
        "docs/ring-protocol.md",
        "docs/plans.md",
        "docs/adding-a-board.md",
        "docs/u-boot.md",
        "docs/probe.md",
        "docs/call-layer.md",
        "docs/inspect.md",
        "docs/truth.md",
        "docs/limits.md",
        "docs/compare.md",
        "docs/soak.md",
        "docs/linux.md",
        "docs/filters.md",
        "docs/exports.md",
        "docs/replay.md",
        "docs/live.md",
        "docs/stability.md",
        "docs/reliability.md",
        "docs/capture-format.md",
        "docs/performance.md",
        "SECURITY.md",
    ];
    for name in pages {
        let text = page(name);
        // Code spans that look like a path of this project.
        for span in text.split('`').skip(1).step_by(2) {
            let looks_so =
                span.contains('/') && !span.contains([' ', '*', '<', '$', ':']) && !span.starts_with(['/', '.', '-']);
            let known = [
                "docs/",
                "host/",
                "firmware/",
                "trace-ring/",
                "linux-trace/",
                "boards/",
                "tests/",
                "linker/",
                "filter/",
                "page/",
            ];
            if looks_so && known.iter().any(|folder| span.starts_with(folder)) {
                assert!(root().join(span).exists(), "{name} names `{span}`, which is not there");
            }
        }
    }
}

#[test]
fn pictures_that_the_readme_shows_are_there() {
    let readme = page("README.md");
    let pictures: Vec<&str> = readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|path| path.ends_with(".png"))
        .collect();
    assert!(pictures.len() >= 3, "{pictures:?}");
    for picture in pictures {
        let bytes = std::fs::read(root().join(picture)).unwrap_or_else(|error| panic!("{picture}: {error}"));
        assert!(bytes.starts_with(b"\x89PNG"), "{picture} is no picture");
        assert!(bytes.len() < 300_000, "{picture} has {} bytes: every clone carries them", bytes.len());
    }
}

/// The number behind a marker like `<!-- measured: instructions_per_ipi -->` in a page.
fn stated(text: &str, marker: &str) -> f64 {
    let tag = format!("<!-- measured: {marker} -->");
    let line = text.lines().find(|line| line.contains(&tag)).unwrap_or_else(|| panic!("no {tag}"));
    let number = line.split("**").nth(1).unwrap_or_else(|| panic!("no bold number in: {line}"));
    number.replace(',', "").parse().unwrap_or_else(|_| panic!("no number: {number}"))
}

/// Whether compiler and QEMU are those that the page names: instructions are counted, not timed, and come out the same to the last one.
fn is_as_counted(measuring: &str) -> bool {
    let tag = "<!-- counted with -->";
    let line = measuring.lines().find(|line| line.contains(tag)).unwrap_or_else(|| panic!("no {tag}"));
    let (code, stdout, stderr) = system_tests::run(&root(), &["doctor"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let mut versions = line.split('`').skip(1).step_by(2);
    let (rustc, qemu) = (versions.next().expect("rustc"), versions.next().expect("QEMU"));
    let row =
        |name: &str| stdout.lines().find(|row| row.split_whitespace().nth(1) == Some(name)).expect("a row").to_string();
    row("firmware").split_whitespace().any(|word| word == rustc)
        && row("QEMU").split_whitespace().any(|word| word == qemu)
}

#[test]
fn measuring_states_the_counts_that_a_run_gives() {
    if !can_run() {
        return;
    }
    let text = page("docs/measuring.md");
    let traced = qemu(&["--deterministic", "--plan", "ping"]);
    let untraced = qemu(&["--deterministic", "--plan", "ping", "--level", "off"]);
    let count = |run: &system_tests::Run| run.report["instructions_per_ipi"].as_f64().expect("a count");
    for (marker, measured) in [("traced", count(&traced)), ("untraced", count(&untraced))] {
        let stated = stated(&text, marker);
        // Half an instruction is left for a compiler of another version.
        let room = if is_as_counted(&text) { 0.005 } else { 0.5 };
        assert!(
            (stated - measured).abs() <= room,
            "docs/measuring.md states {stated} for {marker}, measured {measured}"
        );
    }
}

#[test]
fn the_page_of_the_call_layer_states_what_a_call_costs() {
    if !can_run() {
        return;
    }
    const CALLS: f64 = 10_000.0;
    let folder = tempfile::tempdir().expect("a folder");
    let plan = folder.path().join("one-call.toml");
    let text = r#"
        name = "one-call"
        defaults.level = "calls"
        [[phase]]
        pattern = "script"
        [[phase.program]]
        cores = 0
        ops = [{ call = { to = 1, function = "drain", count = 10000 } }]
    "#;
    std::fs::write(&plan, text).expect("a plan");
    let plan = plan.to_str().expect("a path");
    let (counts, page) = (page("docs/measuring.md"), page("docs/call-layer.md"));
    for (level, marker) in [("calls", "call traced"), ("off", "call untraced")] {
        let run = qemu(&["--deterministic", "--cores", "2", "--plan", plan, "--level", level]);
        run.expect(0, "clean");
        let elapsed = run.report["phases"][0]["elapsed_ns"].as_f64().expect("the phase was timed");
        let (stated, measured) = (stated(&page, marker), elapsed / CALLS);
        // As above, with 2 % for a compiler of another version: this path is a thousand instructions long.
        let room = if is_as_counted(&counts) { 0.5 } else { 0.02 * stated };
        assert!((stated - measured).abs() <= room, "stated {stated} for {marker}, measured {measured}");
    }
}

#[test]
fn the_readme_shows_what_a_run_prints() {
    if !can_run() {
        return;
    }
    let readme = page("README.md");
    let run = qemu(&[]);
    run.expect(0, "clean");
    // Numbers differ from run to run; the lines' beginnings do not.
    for word in
        ["Target", "Clock", "Time", "Plan", "Outcomes", "Verdict:", "Latency, from the send", "Median by sender"]
    {
        assert!(run.stdout.contains(word), "a report has `{word}`\n{run}");
        assert!(readme.contains(word), "the README's report has `{word}`");
    }
}

#[test]
fn help_of_every_verb_shows_an_example() {
    let verbs = ["qemu", "report", "plans", "boards", "doctor", "export", "inspect", "compare"];
    for verb in verbs {
        let (code, stdout, stderr) = system_tests::run(&root(), &[verb, "--help"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("Example") && stdout.contains(&format!("ipiscope {verb}")), "{stdout}");
    }
}

#[test]
fn the_expressions_of_the_soak_page_parse_and_its_table_names_every_counter() {
    let text = page("docs/soak.md");
    let expressions: Vec<&str> = text.split("--stop-on \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(expressions.len() >= 3, "{expressions:?}");
    for expression in expressions {
        let parsed: Result<StopOn, _> = expression.parse();
        assert_eq!(parsed.is_err(), expression.starts_with("late "), "{expression}: {parsed:?}");
    }
    // What an error lists is what there is.
    let error = "".parse::<StopOn>().expect_err("is empty").to_string();
    let names = error.split("one of ").nth(1).expect("a list").replace("; or a duration:", ",");
    for name in names.split(',') {
        assert!(text.contains(&format!("`{}`", name.trim())), "docs/soak.md does not tell of `{name}`");
    }
}

#[test]
fn the_example_of_the_plans_page_runs() {
    if !can_run() {
        return;
    }
    let text = page("docs/plans.md");
    let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, example).expect("a plan");
    let run = qemu(&["--deterministic", "--plan", file.to_str().expect("a path")]);
    run.expect(0, "clean");
    assert_eq!(run.text("/plan/name"), "mine");
}

#[test]
fn the_limits_of_the_limits_page_are_limits() {
    let text = page("docs/limits.md");
    let examples: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty(), "there is an example");
    for example in examples {
        let limits = host::limits::Limits::parse(std::path::Path::new("example.toml"), example.into());
        limits.unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
    // Every bound and selector that a rule may have stands in the page.
    for word in [
        "p50",
        "p90",
        "p99",
        "p999",
        "max",
        "mean",
        "wake_up",
        "lost",
        "unknown",
        "misrouted",
        "coalesced",
        "duplicate",
        "spurious",
        "cores_up",
        "skew",
        "min_samples",
        "kind",
        "state",
        "phase",
        "distance",
        "from",
        "to",
        "stage",
        "timed",
        "per",
        "machine",
        "board",
        "cores",
        "midr",
        "scope",
        "plan",
    ] {
        assert!(text.contains(&format!("`{word}`")), "docs/limits.md says what `{word}` is");
    }
}

#[test]
fn the_page_of_compare_shows_what_it_says_of_a_late_receiver() {
    if !can_run() {
        return;
    }
    let text = page("docs/compare.md");
    let golden = qemu(&["--deterministic", "--plan", "matrix"]);
    let again = qemu(&["--deterministic", "--plan", "matrix"]);
    let late = qemu(&["--deterministic", "--plan", "matrix", "--inject", "late:2:5000"]);
    let file = |run: &system_tests::Run| run.capture.to_str().expect("a path").to_owned();
    let (golden, again, late) = (file(&golden), file(&again), file(&late));
    let verdict = |captures: [&str; 2], code: i32| {
        let (got, stdout, stderr) = system_tests::run(&root(), &["compare", captures[0], captures[1]]);
        assert_eq!(got, code, "{stdout}\n{stderr}");
        stdout.lines().last().unwrap_or_default().to_owned()
    };
    for (line, begins) in [
        (verdict([&golden, &again], 0), "Verdict: no difference: "),
        (verdict([&golden, &late], 1), "Verdict: differs: receiver 2: median longer by "),
    ] {
        assert!(line.starts_with(begins), "{line}");
        assert!(text.contains(begins), "docs/compare.md shows `{begins}`");
    }
    // And limits made of the golden one hold for it, and not for the other.
    let folder = tempfile::tempdir().expect("a folder");
    let limits = folder.path().join("made.toml");
    let limits = limits.to_str().expect("a path");
    let made = system_tests::run(&root(), &["compare", "--make-limits", &golden, &again, "--out", limits]);
    assert_eq!(made.0, 0, "{}", made.2);
    for (capture, code) in [(&golden, 0), (&again, 0), (&late, 1)] {
        let (got, stdout, stderr) = system_tests::run(&root(), &["report", capture, "--limits", limits]);
        assert_eq!(got, code, "{stdout}\n{stderr}");
    }
}
