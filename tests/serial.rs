//! Results over a console: live over QEMU's serial line, over a bad line, and from its log.

mod console;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use console::{
    BadLine, Content, Machine, PATIENCE, SMALL, SMALL_SENT, card, content, flip, from_log, random, serial, until,
};
use host::child::Guarded;
use system_tests::{Run, alone, can_run, command, finish, wait};
use trace_ring::line::{Line, Scanner};

/// Everything came, nothing is wrong, the accounts add up.
fn expect_whole(run: &Run) {
    run.expect(0, "clean");
    assert_eq!(run.text("/target/source"), "serial", "{run}");
    assert_eq!(run.number("/ipis/sent"), SMALL_SENT, "{run}");
    assert_eq!((run.number("/trace/lost_records"), run.number("/trace/torn_records")), (0, 0), "{run}");
    assert!(run.number("/trace/records") >= 2 * SMALL_SENT, "{run}");
    assert!(!run.stderr.contains("missing"), "{run}");
}

/// A run whose console was recorded: the log, and what its capture holds. `asked`: nothing was sent by itself, so no byte of
/// the region comes twice.
struct Recorded {
    log: Vec<u8>,
    content: Content,
}

fn recorded(results: &str) -> Recorded {
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let card = card(folder.path(), SMALL, &["--results", results]);
    let machine = Machine::boot(folder.path(), &card, &format!("ipiscope.results={results}"), &[]);
    let run = serial(folder, &[&machine.device(), "--log-to", "console.log"]);
    expect_whole(&run);
    let log = std::fs::read(run.folder.path().join("console.log")).expect("a log");
    Recorded { log, content: content(&run.capture) }
}

fn by_itself() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(|| recorded("console"))
}

fn when_asked() -> &'static Recorded {
    static RECORDED: OnceLock<Recorded> = OnceLock::new();
    RECORDED.get_or_init(|| recorded("none"))
}

/// The lines of ours in a log: where each begins and ends, and what part of the region it tells.
fn lines(log: &[u8]) -> Vec<(std::ops::Range<usize>, std::ops::Range<u64>)> {
    let mut scanner = Scanner::new();
    let mut start = 0;
    let mut lines = Vec::new();
    for (at, byte) in log.iter().enumerate() {
        if *byte == b'~' {
            start = at;
        }
        match scanner.push(*byte) {
            Some(Line::Data { offset, bytes }) => lines.push((start..at + 1, offset..offset + bytes.len() as u64)),
            Some(Line::Zeros { offset, length }) => lines.push((start..at + 1, offset..offset + length)),
            _ => {}
        }
    }
    lines
}

/// Where the records begin, from the region's start.
fn records_at(content: &Content) -> u64 {
    content.prefix.len() as u64
}

#[test]
fn a_console_brings_the_whole_run_and_so_does_its_log() {
    if !can_run() {
        return;
    }
    for recorded in [by_itself(), when_asked()] {
        let run = from_log(&recorded.log, &[]);
        expect_whole(&run);
        assert!(content(&run.capture) == recorded.content, "the log says something else: {:?}", recorded.content);
    }
}

#[test]
fn a_terminal_that_is_opened_after_the_run_brings_it_and_is_left_as_it_was() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let card = card(folder.path(), SMALL, &[]);
    let path = |name: &str| card.join(name);
    // QEMU says which terminal it took: "char device redirected to /dev/pts/3 (label console)".
    let said = folder.path().join("qemu");
    let mut command = Command::new("qemu-system-aarch64");
    command
        .args(["-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-smp", "4", "-m", "256", "-nic", "none"])
        .args(["-display", "none", "-monitor", "none", "-nodefaults", "-chardev", "pty,id=console"])
        .args(["-serial", "chardev:console", "-append", "ipiscope.results=none"])
        .arg("-kernel")
        .arg(path("Image"))
        .arg("-initrd")
        .arg(path("plan.bin"))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&said).expect("a file"));
    let _qemu = Guarded::spawn(&mut command).expect("QEMU starts");
    let mut terminal = String::new();
    until("QEMU names its terminal", || {
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        let named = said.split_whitespace().find(|word| word.starts_with("/dev/"));
        terminal = named.unwrap_or_default().to_string();
        said.ends_with('\n') && !terminal.is_empty()
    });
    let settings = || {
        let output = Command::new("stty").args(["-g", "-F", &terminal]).output().expect("stty starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let before = settings();
    // Time for the run: nobody listens, so all it says is lost.
    std::thread::sleep(Duration::from_secs(5));
    let run = serial(folder, &[&terminal, "--baud", "9600"]);
    let after = settings();
    expect_whole(&run);
    assert!(!before.is_empty());
    assert_eq!(before, after, "the terminal's settings");
}

#[test]
fn a_line_that_flips_one_in_a_hundred_bytes_brings_all_in_the_end() {
    if !can_run() {
        return;
    }
    for results in ["console", "none"] {
        let folder = tempfile::tempdir().expect("a folder");
        let _alone = alone();
        let card = card(folder.path(), SMALL, &[]);
        let machine = Machine::boot(folder.path(), &card, &format!("ipiscope.results={results}"), &[]);
        let line = BadLine::open(folder.path(), &machine);
        let run = serial(folder, &[&line.device, "--deadline", "40s"]);
        expect_whole(&run);
        let flipped = line.flipped.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert!(flipped[0] > 500 && flipped[1] > 5, "the line was good: {flipped:?}");
    }
}

#[test]
fn a_damaged_log_says_exactly_which_records_are_missing() {
    if !can_run() {
        return;
    }
    let Recorded { log, content: whole } = when_asked();
    let records = records_at(whole);
    let mut random = random(7);
    let mut damaged = log.clone();
    let mut lost = BTreeSet::new();
    for (text, bytes) in lines(log).into_iter().filter(|(_, bytes)| bytes.start >= records) {
        // About every second line, as with one in a hundred bytes.
        let mut line = log[text.clone()].to_vec();
        flip(&mut line, &mut random);
        if line != log[text.clone()] {
            damaged[text].copy_from_slice(&line);
            // Lanes begin on a record's boundary.
            lost.extend(bytes.start / 32..bytes.end.div_ceil(32));
        }
    }
    assert!(lost.len() > 50, "the test damages records");
    let run = from_log(&damaged, &[]);
    // The target's counters came whole: the verdict stands.
    run.expect(0, "clean");
    assert_eq!(run.number("/ipis/sent"), SMALL_SENT, "{run}");
    assert_eq!(run.number("/trace/torn_records"), lost.len() as u64, "{run}");
    let found = content(&run.capture);
    assert_eq!(found.records.len() + lost.len(), whole.records.len(), "{found:?}");
    assert!(found.records.iter().all(|(key, record)| whole.records.get(key) == Some(record)));

    // The notes name each lane's missing records by number.
    let mut named = BTreeSet::new();
    for note in run.stderr.lines().filter_map(|line| line.split_once("missing: lane ")) {
        let words: Vec<&str> = note.1.split_whitespace().collect();
        let [context, "of", "core", core, count, ref rest @ ..] = words[..] else { panic!("{note:?}") };
        let context = ["thread", "irq", "nmi", "fault"].iter().position(|name| *name == context).expect("a context");
        let core: u16 = core.trim_end_matches(':').parse().expect("a core");
        let before = named.len();
        for range in &rest[1..] {
            let range = range.trim_end_matches(',');
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse::<u64>().expect("a number");
            named.extend((number(first)..=number(last)).map(|number| (core, context as u8, number)));
        }
        assert_eq!(count.parse(), Ok(named.len() - before), "{note:?}");
    }
    let expected: BTreeSet<_> = whole.records.keys().filter(|key| !found.records.contains_key(key)).copied().collect();
    assert_eq!(named, expected, "{run}");
    for lane in &found.lanes {
        assert_eq!(lane.written, lane.accepted + lane.lost(), "{lane:?}");
    }
}

#[test]
fn a_log_without_what_a_verdict_needs_exits_with_2_and_names_it() {
    if !can_run() {
        return;
    }
    let Recorded { log, content: whole } = by_itself();
    let mut snapshot = host::capture::SnapshotSource::new(&whole.prefix);
    let sections = trace_ring::reader::Region::open(&mut snapshot).expect("a region").directory.sections;
    let without = |at: u64| -> Vec<u8> {
        let mut damaged = log.clone();
        for (text, _) in lines(log).into_iter().filter(|(_, bytes)| bytes.contains(&at)) {
            damaged[text.start + 1] = b'!';
        }
        damaged
    };
    for (at, name) in [
        (sections.cores + 200, "cores"),
        (sections.heads + 64, "heads"),
        (sections.lanes + 40, "lanes"),
        (sections.phases, "phases"),
        (sections.meta + 100, "meta"),
        (sections.slots, "slots"),
        (sections.histograms + 4, "histograms"),
        (sections.faults, "faults"),
    ] {
        let run = from_log(&without(at), &[]);
        run.expect(2, "incomplete");
        assert_eq!(run.text("/error/kind"), "incomplete", "{run}");
        assert!(run.text("/error/message").contains(&format!("section `{name}`")), "{run}");
        assert!(!run.text("/error/next_step").is_empty(), "{run}");
        assert_eq!(run.suspects(), [], "nobody is blamed for what did not come\n{run}");
    }
    // Without the directory nothing can be told at all, and that is said.
    let run = from_log(&without(64), &[]);
    assert_eq!((run.code, run.text("/error/kind")), (2, "incomplete"), "{run}");
    assert!(run.text("/error/message").contains("the directory: 48 of 512 bytes"), "{run}");
    assert!(!run.capture.exists(), "{run}");

    // All of it through a bad line.
    let mut damaged = log.clone();
    flip(&mut damaged, &mut random(11));
    let run = from_log(&damaged, &[]);
    assert_eq!((run.code, run.text("/error/kind")), (2, "incomplete"), "{run}");
}

#[test]
fn time_stamps_and_lines_of_others_change_nothing() {
    if !can_run() {
        return;
    }
    let Recorded { log, content: whole } = by_itself();
    let text = String::from_utf8_lossy(log);
    let mut random = random(3);
    let mut stamped = String::new();
    let mut cut = 0;
    for (number, line) in text.lines().map(|line| line.trim_end_matches('\r')).enumerate() {
        let stamp = |extra: usize| format!("[2026-03-01 12:{:02}:{:02}.{extra:03}] ", number / 60 % 60, number % 60);
        stamped.push_str(&stamp(0));
        match random(10) {
            0 => stamped.push_str(&format!("console-server: 2 clients; ~idle\r\n{}", stamp(1))),
            1 if line.starts_with('~') && line.len() > 20 => {
                // Somebody else's line stands in the middle of ours.
                let (head, tail) = line.split_at(9 + random(line.len() as u64 - 12) as usize);
                stamped.push_str(&format!("{head}\r\n{}kernel: eth0: link is up\r\n{}{tail}\r\n", stamp(2), stamp(3)));
                cut += 1;
                continue;
            }
            _ => {}
        }
        stamped.push_str(line);
        stamped.push_str(if number % 3 == 0 { "\n" } else { "\r\n" });
    }
    assert!(cut > 20, "the test cuts lines");
    let run = from_log(stamped.as_bytes(), &[]);
    expect_whole(&run);
    assert!(content(&run.capture) == *whole, "{run}");
}

#[test]
fn a_log_that_was_cut_off_keeps_what_it_has() {
    if !can_run() {
        return;
    }
    let Recorded { log, content: whole } = when_asked();
    let records = records_at(whole);
    let lines = lines(log);
    let of_records: Vec<_> = lines.iter().filter(|(_, bytes)| bytes.start >= records).collect();
    let middle = of_records[of_records.len() / 2].0.start + 20;
    let run = from_log(&log[..middle], &[]);
    run.expect(0, "clean");
    let found = content(&run.capture);
    assert!(!found.records.is_empty() && found.records.len() < whole.records.len(), "{found:?}");
    assert_eq!(run.number("/trace/torn_records") as usize, whole.records.len() - found.records.len(), "{run}");
    assert!(run.stderr.contains("missing: lane "), "{run}");
    // Cut off before its records began.
    let run = from_log(&log[..lines[lines.len() / 8].0.start], &[]);
    assert_eq!(run.code, 2, "{run}");
    // From a log in which nothing is, nothing comes, and that was asked wrongly.
    for (log, names) in [(&b""[..], "0 bytes came"), (b"U-Boot 2023.01\n=> boot\n", "no whole line")] {
        let run = from_log(log, &[]);
        assert_eq!((run.code, run.text("/error/kind")), (3, "serial"), "{run}");
        assert!(run.text("/error/message").contains(names), "{run}");
    }
}

#[test]
fn of_two_runs_in_a_log_the_last_whole_one_is_reported() {
    if !can_run() {
        return;
    }
    let (first, second) = (by_itself(), when_asked());
    let run = from_log(&[&first.log[..], &second.log].concat(), &[]);
    expect_whole(&run);
    assert!(content(&run.capture) == second.content, "{run}");
    assert!(run.stderr.contains("holds 2 runs; this is number 2, the last"), "{run}");
    let run = from_log(&[&first.log[..], &second.log[..second.log.len() / 2]].concat(), &[]);
    expect_whole(&run);
    assert!(content(&run.capture) == first.content, "{run}");
    assert!(run.stderr.contains("number 1, the last whole one"), "{run}");
}

/// A card whose results take a while to send: some thousand records.
fn long_card(folder: &Path) -> std::path::PathBuf {
    let plan = "name = \"long\"\n[[phase]]\nname = \"pair\"\npattern = \"ping\"\ncount = 8000\n";
    card(folder, plan, &["--cores", "2"])
}

/// Starts `ipiscope serial` and waits until `bytes` of the console have come.
fn started(folder: &Path, machine: &Machine, bytes: u64) -> std::process::Child {
    let device = machine.device();
    let arguments = ["serial", &device, "--log-to", "console.log", "--json", "report.json", "--out", "run.mcap"];
    let child = command(folder, &arguments).spawn().expect("the tool starts");
    until("the console speaks", || std::fs::metadata(folder.join("console.log")).is_ok_and(|log| log.len() > bytes));
    child
}

#[test]
fn a_target_that_dies_while_it_sends_leaves_what_had_come() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let _alone = alone();
    let card = long_card(folder.path());
    let mut machine = Machine::boot(folder.path(), &card, "ipiscope.results=console", &[]);
    let child = started(folder.path(), &machine, 150_000);
    machine.qemu.kill();
    let run = finish(folder, wait(child), start);
    run.expect(0, "clean");
    assert!(run.stderr.contains("the line was closed before all data had come"), "{run}");
    assert!(run.stderr.contains("missing: lane "), "{run}");
    assert_eq!(run.number("/ipis/sent"), 16_000, "{run}");
    let (records, torn) = (run.number("/trace/records"), run.number("/trace/torn_records"));
    assert!(records > 500 && torn > 500, "{run}");
}

#[test]
fn a_target_that_dies_in_the_plan_could_not_be_measured() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let _alone = alone();
    let card = card(folder.path(), SMALL, &["--duration", "120s"]);
    let mut machine = Machine::boot(folder.path(), &card, "ipiscope.results=console", &[]);
    let child = started(folder.path(), &machine, 100);
    machine.qemu.kill();
    let run = finish(folder, wait(child), start);
    assert_eq!((run.code, run.text("/error/kind")), (2, "serial"), "{run}");
    assert!(run.text("/error/message").contains("closed before any results came"), "{run}");
}

#[test]
fn a_target_that_is_reset_while_it_sends_is_taken_from_the_start() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let _alone = alone();
    let card = long_card(folder.path());
    let monitor = folder.path().join("monitor");
    let chardev = format!("socket,id=monitor,path={},server=on,wait=off", monitor.display());
    let arguments = ["-chardev", chardev.as_str(), "-mon", "chardev=monitor,mode=readline"];
    let machine = Machine::boot(folder.path(), &card, "ipiscope.results=console", &arguments);
    let child = started(folder.path(), &machine, 100_000);
    let mut stream = UnixStream::connect(&monitor).expect("QEMU's monitor is there");
    stream.write_all(b"system_reset\n").expect("is written");
    let run = finish(folder, wait(child), start);
    run.expect(0, "clean");
    assert!(run.stderr.contains("the target started again"), "{run}");
    assert_eq!(run.stderr.matches("ipiscope START").count(), 2, "{run}");
    assert_eq!((run.number("/ipis/sent"), run.number("/trace/lost_records")), (16_000, 0), "{run}");
}

#[test]
fn a_silent_line_is_given_up_and_an_interrupt_reports_what_came() {
    if !can_run() {
        return;
    }
    // Somebody who takes all that is said and says nothing.
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("silent");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the tool connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("is set");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    });
    let run = serial(folder, &[&format!("unix:{}", socket.display()), "--deadline", "4s"]);
    assert_eq!((run.code, run.text("/error/kind")), (2, "serial"), "{run}");
    assert!(run.text("/error/message").contains("nothing new for 4s"), "{run}");
    assert!(run.took >= Duration::from_secs(4) && run.took < Duration::from_secs(20), "{run}");
    // It was asked for the directory, once.
    let heard = heard.join().expect("the listener ends");
    let mut scanner = Scanner::new();
    let asked: Vec<u64> = heard
        .iter()
        .filter_map(|byte| match scanner.push(*byte) {
            Some(Line::Request { offset, length }) => Some(offset + length),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [512], "{heard:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let _alone = alone();
    let card = long_card(folder.path());
    let machine = Machine::boot(folder.path(), &card, "ipiscope.results=console", &[]);
    let child = started(folder.path(), &machine, 150_000);
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
    assert!(status.success());
    let run = finish(folder, wait(child), start);
    run.expect(0, "clean");
    assert!(run.stderr.contains("stopped before all data had come"), "{run}");
    assert!(run.number("/trace/records") > 500 && run.number("/trace/torn_records") > 500, "{run}");
}

#[test]
fn a_summary_leaves_the_records_on_the_target() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let card = card(folder.path(), SMALL, &[]);
    let machine = Machine::boot(folder.path(), &card, "ipiscope.results=summary", &[]);
    let run = serial(folder, &[&machine.device(), "--summary", "--tag", "unit=A17", "--board", "virt"]);
    run.expect(0, "clean");
    assert_eq!(run.number("/ipis/sent"), SMALL_SENT, "{run}");
    assert_eq!(run.number("/trace/records"), 0, "{run}");
    assert!(run.stderr.contains("left on the target"), "{run}");
    assert_eq!((run.text("/target/board"), run.text("/target/tags/unit")), ("virt", "A17"), "{run}");
}
