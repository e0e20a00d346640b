//! `--live` in a real terminal: keys, another size, the end, a kill; and what stands in its place where there is no terminal.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use system_tests::terminal::{Terminal, has_tmux};
use system_tests::{alone, can_run, command, processes_with, run, scratch_of, wait};
use virtual_probe::machine::QemuOptions;
use virtual_probe::serve::{Listen, Options, Server};

const RUN: [&str; 7] = ["qemu", "--live", "--out", "run.mcap", "--cores", "4", "--duration"];

fn with<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    RUN.into_iter().chain(rest.iter().copied()).collect()
}

#[test]
fn keys_and_sizes_change_what_is_seen_and_q_ends_the_run_with_its_report() {
    if !can_run() || !has_tmux() {
        return;
    }
    let _alone = alone();
    let terminal = Terminal::start(80, 24, &with(&["100s"]));
    let first = terminal.until("a median", |screen| {
        screen.contains(" left")
            && screen.lines().nth(6).is_some_and(|row| row.split_whitespace().any(|cell| cell.ends_with('u')))
    });
    assert!(terminal.has_other_page());
    let lines: Vec<&str> = first.lines().collect();
    assert!(lines[0].starts_with("ipiscope qemu virt \u{b7} plan standard \u{b7} 4 of 4 cores up"), "{first}");
    assert!(lines[1].starts_with("phase  ") && lines[1].contains(" of 5, ") && lines[1].contains(" left"), "{first}");
    assert!(lines[2].starts_with("IPIs   ") && lines[2].contains("/s)") && lines[2].contains("lost 0"), "{first}");
    assert!(lines[3].starts_with("trace  ") && lines[3].contains("missed 0"), "{first}");
    assert!(first.contains("median latency") && first.contains("worst so far"), "{first}");

    for metric in ["p99 latency", "greatest latency", "mean latency", "IPIs a second", "lost IPIs"] {
        terminal.press(&["m"]);
        terminal.until(metric, |screen| screen.contains(&format!("{metric} ")));
    }
    terminal.press(&["M", "a"]);
    terminal.until("all phases", |screen| screen.contains("IPIs a second \u{b7} all phases"));
    assert!(first.contains("core 0 > 1"), "{first}");
    terminal.press(&["Down", "Down", "Left"]);
    terminal.until("the pair below", |screen| screen.contains("core 2 > 0"));
    terminal.press(&["?"]);
    terminal.until("the keys", |screen| screen.contains("end the run and report; again:"));
    terminal.press(&["?"]);

    for (columns, rows) in [("120", "40"), ("60", "16"), ("30", "5"), ("200", "60")] {
        assert!(terminal.tmux(&["resize-window", "-x", columns, "-y", rows]).0);
        // A picture drawn for this size: first line, last line, and the pair where there is room for it.
        terminal.until(&format!("a picture of {columns} x {rows}"), |screen| {
            let lines: Vec<&str> = screen.lines().collect();
            lines.len() == rows.parse::<usize>().unwrap_or(0)
                && lines.first().is_some_and(|line| line.starts_with("ipiscope "))
                && lines.last().is_some_and(|line| line.contains("q end"))
                && screen.contains("core 2 > 0") == (columns != "30")
        });
    }

    terminal.press(&["q"]);
    terminal.expect_given_back();
    let screen = terminal.screen();
    assert!(screen.contains("EXIT 0") && screen.contains("Verdict: clean"), "{screen}");
    assert!(screen.contains("before the early end"), "{screen}");
}

#[test]
fn a_run_that_ends_by_itself_gives_the_terminal_back_before_its_report() {
    if !can_run() || !has_tmux() {
        return;
    }
    let _alone = alone();
    let terminal = Terminal::start(100, 30, &["qemu", "--live", "--out", "run.mcap", "--plan", "kinds"]);
    terminal.expect_given_back();
    assert!(terminal.screen().contains("Verdict: clean"), "{}", terminal.screen());
}

#[test]
fn a_kill_leaves_a_readable_capture_and_a_closed_window_a_finished_one() {
    if !can_run() || !has_tmux() {
        return;
    }
    let _alone = alone();
    let report = |folder: &Path| {
        let (code, json, stderr) = run(folder, &["report", "run.mcap", "--json", "-"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        (code, json)
    };
    let begun = |terminal: &Terminal| {
        terminal.until("records", |screen| screen.contains("worst so far") && screen.contains("SGI"));
        // What was flushed is what a kill leaves: every 4 MiB or 250 ms.
        std::thread::sleep(Duration::from_millis(800));
    };
    let terminal = Terminal::start(80, 24, &with(&["100s"]));
    begun(&terminal);
    let host = terminal.host();
    let status = Command::new("kill").args(["-9", &host.to_string()]).status().expect("kill starts");
    assert!(status.success());
    // The view stays where it was, and the shell writes over it.
    terminal.until("the shell", |_| !terminal.read("after").is_empty());
    let (code, killed) = report(terminal.path());
    assert_eq!((code, killed["verdict"].as_str()), (2, Some("incomplete")), "{killed}");
    assert!(killed["trace"]["records"].as_u64() > Some(1000), "{}", killed["trace"]);

    let terminal = Terminal::start(80, 24, &with(&["100s"]));
    begun(&terminal);
    let host = terminal.host();
    // The window closes: SIGHUP.
    assert!(terminal.tmux(&["kill-session"]).0);
    let start = Instant::now();
    while Path::new(&format!("/proc/{host}")).exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "the run goes on without its terminal");
        std::thread::sleep(Duration::from_millis(50));
    }
    let left: Vec<PathBuf> = scratch_of(host);
    assert_eq!((processes_with(&format!("ipiscope-{host}-")), left), (Vec::new(), Vec::new()));
    let (code, closed) = report(terminal.path());
    assert_eq!((code, closed["ended"].as_str()), (0, Some("interrupted")), "{closed}");
}

#[test]
fn a_board_behind_a_probe_is_seen_the_same_way() {
    if !can_run() || !has_tmux() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let listen = Listen::Unix(folder.path().join("probe"));
    let server = Server::start(Options { listen, knobs: Vec::new(), stats: None }, QemuOptions::default())
        .expect("the board is there");
    let selector = server.selector();
    let arguments =
        ["probe", "--live", "--board", "qemu-virt", "--probe", selector, "--out", "run.mcap", "--duration", "60s"];
    let terminal = Terminal::start(100, 30, &arguments);
    let screen = terminal.until("a latency", |screen| screen.contains("SGI") && screen.contains("worst so far"));
    assert!(screen.starts_with("ipiscope probe qemu-virt \u{b7} plan standard"), "{screen}");
    terminal.press(&["C-c"]);
    terminal.expect_given_back();
    assert!(terminal.screen().contains("EXIT 0"), "{}", terminal.screen());
}

#[test]
fn without_a_terminal_nothing_is_drawn() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let child = command(folder.path(), &["qemu", "--live", "--out", "run.mcap", "--plan", "ping"]).spawn();
    let output = wait(child.expect("the tool starts"));
    assert_eq!(output.status.code(), Some(0));
    for stream in [&output.stdout, &output.stderr] {
        assert!(!stream.contains(&0x1B), "{}", String::from_utf8_lossy(stream));
    }
    assert!(String::from_utf8_lossy(&output.stdout).contains("Verdict: clean"));
}
