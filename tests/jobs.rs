//! The README's recipes for the five jobs, line by line as they stand there.
//!
//! A recipe's lines are run in a folder of their own by the tool as tests build it: `cargo run --release -p host --` stands for it.
//! `# exit N` behind a line says how it ends where that is not 0, `&` that it goes on beside the next ones.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use system_tests::{alone, can_run, command, root, run, wait};

const TOOL: &str = "cargo run --release -p host -- ";

/// A line of a recipe.
struct Step {
    arguments: Vec<String>,
    exit: i32,
    beside: bool,
    line: String,
}

/// The lines behind `<!-- job: NAME -->`.
fn recipe(name: &str) -> Vec<Step> {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README is there");
    let marker = format!("<!-- job: {name} -->\n```sh\n");
    let (_, rest) = readme.split_once(&marker).unwrap_or_else(|| panic!("README.md has no recipe `{name}`"));
    let (block, _) = rest.split_once("```").expect("the recipe ends");
    let steps: Vec<Step> = block.lines().filter(|line| !line.trim().is_empty()).map(step).collect();
    assert!(!steps.is_empty(), "the recipe `{name}` has no line");
    steps
}

fn step(line: &str) -> Step {
    let (text, comment) = line.split_once(" #").unwrap_or((line, ""));
    let exit = comment.split_once("exit ").map_or(0, |(_, code)| code[..1].parse().expect("a code"));
    let beside = text.trim_end().ends_with('&');
    let text = text.trim_end().trim_end_matches('&');
    let text = text.strip_prefix(TOOL).unwrap_or_else(|| panic!("not a line of the tool: {line}"));
    Step { arguments: words(text), exit, beside, line: line.into() }
}

/// Words as a shell parts them, with double quotes.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(String::from)),
            _ => words.push(part.into()),
        }
    }
    words
}

/// Runs a recipe in a folder; what each line printed.
fn follow(name: &str, folder: &Path) -> Vec<String> {
    let mut printed = Vec::new();
    let mut beside: Vec<Child> = Vec::new();
    for step in recipe(name) {
        let arguments: Vec<&str> = step.arguments.iter().map(String::as_str).collect();
        if step.beside {
            beside.push(command(folder, &arguments).spawn().expect("the tool starts"));
            wait_for_a_run(folder);
            continue;
        }
        let (code, stdout, stderr) = run(folder, &arguments);
        assert_eq!(code, step.exit, "{}\n{stdout}\n{stderr}", step.line);
        printed.push(stdout);
    }
    for child in beside {
        let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
        assert!(status.success());
        let output = wait(child);
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(output.status.code(), Some(0), "{name}: what went on beside said\n{}\n{}", said[0], said[1]);
    }
    printed
}

/// Until the run beside has something to look into.
fn wait_for_a_run(folder: &Path) {
    let start = Instant::now();
    // A run that is ended before its first IPI has measured nothing, and says so with exit code 2.
    while !run(folder, &["inspect", "--live"]).1.contains("` runs") {
        assert!(start.elapsed() < Duration::from_secs(60), "the run does not get under way");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn try_it() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let printed = follow("try it", folder.path());
    assert!(printed[0].contains("Median by sender (row) and receiver (column)"), "{}", printed[0]);
    assert!(printed[0].contains("Verdict: clean"), "{}", printed[0]);
}

#[test]
fn qualify_a_board() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let printed = follow("qualify", folder.path());
    let (good, bad) = (&printed[printed.len() - 2], &printed[printed.len() - 1]);
    assert!(good.contains("Verdict: clean"), "{good}");
    assert!(bad.contains("Verdict: "), "{bad}");
    let junit = std::fs::read_to_string(folder.path().join("result.xml")).expect("the result is there");
    assert!(junit.starts_with("<?xml") && junit.contains("<failure"), "{junit}");
    assert!(folder.path().join("result.html").exists());
}

#[test]
fn find_the_bad_core() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let printed = follow("find", folder.path());
    assert!(printed[0].contains("core 5 as receiver"), "{}", printed[0]);
    let (code, json, _) = run(folder.path(), &["report", "bad.mcap", "--json", "-"]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let suspects = report["suspects"].as_array().expect("suspects");
    assert_eq!((code, suspects.len(), suspects[0]["core"].as_u64()), (1, 1, Some(5)), "{}", report["suspects"]);
}

#[test]
fn start_from_the_field() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    // A trace as Linux prints it: of the call layer, which is shaped like Linux's.
    for arguments in [
        &["qemu", "--plan", "kinds", "--cores", "4", "--deterministic", "--out", "device.mcap"][..],
        &["export", "device.mcap", "--to", "ftrace", "--out", "device.txt"],
    ] {
        let (code, _, stderr) = run(folder.path(), arguments);
        assert_eq!(code, 0, "{stderr}");
    }
    std::fs::remove_file(folder.path().join("device.mcap")).expect("was there");
    let printed = follow("field", folder.path());
    let [_, traced, _, replayed] = &printed[..] else { panic!("{printed:?}") };
    assert!(traced.contains("a Linux kernel's"), "{traced}");
    // What was raised is sent again: not the stops and wake-ups, which `replay` names.
    assert!(replayed.contains("640 of 640 sends, in order on every core"), "{replayed}");
    assert!(replayed.contains("Verdict: clean"), "{replayed}");
}

#[test]
fn look_inside() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let printed = follow("inside", folder.path());
    assert!(printed[0].contains("core 0") && printed[0].contains("core 3"), "{}", printed[0]);
}
