//! Captures in other tools' formats, read again by those tools: protoc, trace-cmd, and the kit's own import.

#[expect(dead_code, reason = "each test file uses its own part of the simulator")]
mod simulator;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::capture::Capture;
use host::correlate::message::Outcome;
use host::correlate::{correlate, correlate_heard};
use host::export::{Export, Format, rows};
use host::import::{self, Request};
use simulator::Simulator;

fn exported(capture: &Capture, to: Format, filter: Option<&str>) -> Vec<u8> {
    let export = Export::prepare(capture, to, filter).expect("can be exported");
    let mut out = Vec::new();
    export.write(true, &mut out).expect("is written");
    out
}

fn captured(folder: &Path, target: &Simulator) -> Capture {
    Capture::open(&target.saved(folder)).expect("a capture")
}

/// What a tool prints of a file; `None`: it is not installed.
fn tool(program: &str, arguments: &[&str], input: Option<&[u8]>) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(bytes) = input {
        let mut file = tempfile::tempfile().expect("a file");
        std::io::Write::write_all(&mut file, bytes).expect("written");
        std::io::Seek::rewind(&mut file).expect("rewound");
        command.stdin(Stdio::from(file));
    }
    let Ok(output) = command.output() else {
        // ./setup.sh installs it.
        assert!(std::env::var_os("CI").is_none(), "no {program} here, and under CI nothing is skipped");
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program}: {said}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// IPIs of which both ends are known: those that arrows stand for.
fn answered(capture: &Capture) -> usize {
    let mut count = 0;
    correlate_heard(capture, &mut |message| {
        let ends = message.sent.is_some() && message.entry.is_some() && message.from.is_some();
        count += usize::from(ends && message.outcome != Some(Outcome::Misrouted));
        true
    })
    .expect("a whole capture");
    count
}

/// Checks the arrows of a Perfetto trace by what protoc says; gives their number.
fn arrows(capture: &Capture, filter: Option<&str>) -> Option<usize> {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../perfetto/tests");
    let arguments = ["--decode=perfetto.protos.Trace", "--proto_path", schema, "trace.proto"];
    let text = tool("protoc", &arguments, Some(&exported(capture, Format::Perfetto, filter)))?;
    let ids = |field: &str| -> Vec<u64> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(field)?.strip_prefix(": "));
        lines.map(|id| id.parse().expect("a number")).collect()
    };
    let (begun, ended) = (ids("flow_ids"), ids("terminating_flow_ids"));
    let (begins, ends): (BTreeSet<u64>, BTreeSet<u64>) =
        (begun.iter().copied().collect(), ended.iter().copied().collect());
    assert_eq!((begun.len(), ended.len()), (begins.len(), ends.len()), "an arrow has one begin and one end");
    assert_eq!(begins, ends);
    let count = |kind: &str| text.lines().filter(|line| line.trim() == format!("type: {kind}")).count();
    assert_eq!(count("TYPE_SLICE_BEGIN"), count("TYPE_SLICE_END"), "what begins ends");
    Some(begins.len())
}

#[test]
fn every_ipi_that_was_answered_has_one_arrow_for_each_target() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = captured(folder.path(), &Simulator::eventful());
    let Some(all) = arrows(&capture, None) else { return };
    let counts = correlate(&capture).expect("a whole capture").totals;
    assert_eq!(all as u64, counts.delivered + counts.coalesced);
    assert_eq!(all, answered(&capture));
    // A filter takes its events and their arrows alone.
    let mut of_pair = 0;
    correlate_heard(&capture, &mut |message| {
        of_pair += usize::from((message.from, message.to) == (Some(2), 1) && message.entry.is_some());
        true
    })
    .expect("a whole capture");
    assert!(of_pair > 0);
    assert_eq!(arrows(&capture, Some("pair == 2->1")), Some(of_pair));
}

#[test]
fn csv_and_json_have_a_line_for_each_ipi_in_the_order_of_the_sends() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = captured(folder.path(), &Simulator::eventful());
    let counts = correlate(&capture).expect("a whole capture").totals;
    let text = String::from_utf8(exported(&capture, Format::Json, None)).expect("text");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sum = |outcome: &str| -> u64 {
        lines
            .iter()
            .filter(|line| line["outcome"] == outcome)
            .map(|line| line["count"].as_u64().expect("a count"))
            .sum()
    };
    assert_eq!((sum("delivered"), sum("coalesced"), sum("lost")), (counts.delivered, counts.coalesced, counts.lost));
    let times: Vec<u64> =
        lines.iter().filter_map(|line| line["sent_ns"].as_u64().or(line["entry_ns"].as_u64())).collect();
    assert!(times.is_sorted() && times.len() == lines.len());
    let keys: Vec<&String> = lines[0].as_object().expect("an object").keys().collect();
    assert_eq!(keys.len(), rows::COLUMNS.len());
    assert!(keys.iter().all(|key| rows::COLUMNS.contains(&key.as_str())), "{keys:?}");
    let csv = exported(&capture, Format::Csv, None);
    let mut reader = csv::Reader::from_reader(csv.as_slice());
    assert_eq!(reader.headers().expect("names").iter().collect::<Vec<_>>(), rows::COLUMNS);
    let records: Vec<csv::StringRecord> = reader.records().map(|record| record.expect("a row")).collect();
    assert_eq!(records.len(), lines.len());
    for (record, line) in records.iter().zip(&lines) {
        for (column, value) in rows::COLUMNS.iter().zip(record) {
            let expected = match &line[column] {
                serde_json::Value::Null => String::new(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(value, expected, "{column}");
        }
    }
    // Nothing to tell: the names of the columns alone.
    let none = String::from_utf8(exported(&capture, Format::Csv, Some("sender == 0 && sender == 1"))).expect("text");
    assert_eq!(none.lines().collect::<Vec<_>>(), [rows::COLUMNS.join(",")]);
}

/// IPIs of a capture by their ends: how many, and the sum of their latencies in ns.
type Ends = BTreeMap<(u16, u16, &'static str), (u64, f64)>;

fn ends(capture: &Capture, tick_ns: f64) -> Ends {
    let mut all = Ends::new();
    correlate_heard(capture, &mut |message| {
        let Some((from, outcome)) = message.from.zip(message.outcome) else { return true };
        let (count, sum) = all.entry((from, message.to, outcome.name())).or_default();
        *count += message.count;
        *sum += message.latency.map_or(0.0, |latency| latency as f64 * tick_ns);
        true
    })
    .expect("a whole capture");
    all
}

fn imported(folder: &Path, file: &Path) -> Capture {
    let request =
        Request { file: file.into(), out: Some(folder.join("again.mcap")), rules: Vec::new(), tags: BTreeMap::new() };
    Capture::open(&import::import(&request).expect("an import").capture).expect("a capture")
}

#[test]
fn trace_cmd_prints_as_many_events_as_were_written_and_they_are_the_same_ipis() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut target = Simulator::matrix(4);
    target.run(40, |from, to, round| 10 + (u64::from(from) + 3 * u64::from(to) + round) % 9);
    let capture = captured(folder.path(), &target);
    let file = folder.path().join("trace.dat");
    std::fs::write(&file, exported(&capture, Format::TraceDat, None)).expect("written");
    let text = String::from_utf8(exported(&capture, Format::Ftrace, None)).expect("text");
    let events = text.lines().filter(|line| !line.starts_with('#')).count();
    if let Some(printed) = tool("trace-cmd", &["report", "-i", file.to_str().expect("a path")], None) {
        let printed = printed.lines().filter(|line| line.contains(": ipi_")).count();
        assert_eq!((printed, events > 900), (events, true));
    }
    let other = tempfile::tempdir().expect("a folder");
    let again = imported(other.path(), &file);
    let tick = 1e9 / simulator::HZ as f64;
    let (before, after) = (ends(&capture, tick), ends(&again, 1.0));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (key, (count, sum)) in &before {
        let (again, sum_again) = after[key];
        assert_eq!(*count, again, "{key:?}");
        // Times are whole ns there: each end is less than one off.
        assert!((sum - sum_again).abs() <= 2.0 * *count as f64, "{key:?}: {sum} and {sum_again}");
    }
}

#[test]
fn the_trails_of_a_report_hold_the_latest_ipis_with_their_arrows() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut target = Simulator::matrix(4);
    target.run(20, |_, _, round| 10 + round % 3);
    let (slow, slower) = (target.slot(1, 2), target.slot(3, 0));
    target.ping(slow, 400);
    target.ping(slower, 900);
    let capture = captured(folder.path(), &target);
    let trails = host::trail::trails(&capture, None).expect("trails");
    assert_eq!(trails.len(), 3);
    let tick = 1e9 / simulator::HZ as f64;
    for (trail, (from, to, ticks)) in trails.iter().zip([(3, 0, 900.0), (1, 2, 400.0)]) {
        assert_eq!(trail.cores[..2], [from, to], "{trail:?}");
        let arrow = trail.arrows.iter().find(|arrow| (arrow.from_core, arrow.to_core) == (from, to)).expect("an arrow");
        let latency = arrow.latency.expect("a latency");
        assert!((latency - ticks * tick).abs() < 0.01, "{latency}");
        assert!((arrow.to_t - arrow.from_t - latency).abs() <= 2.0, "{arrow:?}");
        let has = |core: u16, what: &str| trail.events.iter().any(|event| event.core == core && event.what == what);
        assert!(has(from, "ipi_raise") && has(to, "ipi_entry"), "{trail:?}");
    }
    // A trace without latencies has none.
    let capture = captured(folder.path(), &Simulator::matrix(2));
    assert!(host::trail::trails(&capture, None).expect("none").is_empty());
}

/// The reference set, where it is: it does not come with the project.
fn traces() -> Option<PathBuf> {
    let folder = std::env::var_os("IPISCOPE_LINUX_TRACES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/linux-ftrace"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

#[test]
fn a_kernels_trace_keeps_its_ipis_through_every_format() {
    let Some(folder) = traces() else { return };
    for name in [
        "k612-smp8-slow-throttle/slow-throttle.trace.txt.xz",
        "k612-smp4-tracecmd/v6.dat.xz",
        "k61-smp4-small/ring.trace.txt",
    ] {
        let place = tempfile::tempdir().expect("a folder");
        let capture = imported(place.path(), &folder.join(name));
        let counts = correlate(&capture).expect("a whole capture").totals;
        if let Some(all) = arrows(&capture, None) {
            assert_eq!(all, answered(&capture), "{name}");
        }
        let file = place.path().join("trace.dat");
        std::fs::write(&file, exported(&capture, Format::TraceDat, None)).expect("written");
        let text = String::from_utf8(exported(&capture, Format::Ftrace, None)).expect("text");
        let events =
            |text: &str| text.lines().filter(|line| line.contains(": ipi_") || line.contains(": csd_")).count();
        if let Some(printed) = tool("trace-cmd", &["report", "-i", file.to_str().expect("a path")], None) {
            assert_eq!(events(&printed), events(&text), "{name}");
        }
        let other = tempfile::tempdir().expect("a folder");
        let again = imported(other.path(), &file);
        assert_eq!(ends(&again, 1.0), ends(&capture, 1.0), "{name}");
        assert_eq!(correlate(&again).expect("a whole capture").totals, counts, "{name}");
    }
}
