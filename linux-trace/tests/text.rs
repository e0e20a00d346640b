//! Text of real kernels: every capture of the reference set is read whole, and counts what its summary counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use linux_trace::{Event, Names, Tally, input, text};

/// The reference set, where it is: it does not come with the project.
fn traces() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/linux-ftrace");
    let folder = std::env::var_os("IPISCOPE_LINUX_TRACES").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} holds no reference traces", folder.display());
    None
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
    into.sort();
}

struct Read {
    told: text::Told,
    tally: Tally,
    counts: BTreeMap<&'static str, u64>,
}

fn read(path: &Path) -> Read {
    let mut counts = BTreeMap::new();
    let keep = |event: &Event, _: &mut Names| -> Result<(), std::convert::Infallible> {
        *counts.entry(event.what.name()).or_default() += 1;
        Ok(())
    };
    let (_, file) = input::open(path).expect("opens");
    let (told, tally) = text::read(file, &text::NoMarks, &mut Names::new(), keep).expect("reads");
    Read { told, tally, counts }
}

#[test]
fn every_real_trace_is_read_whole_and_counts_what_its_summary_counts() {
    let Some(folder) = traces() else { return };
    let mut all = Vec::new();
    files(&folder, &mut all);
    let (mut seen, mut compared) = (0, 0);
    for path in &all {
        let shown = path.strip_prefix(&folder).expect("inside").display().to_string();
        let plain = shown.trim_end_matches(".xz");
        let ends = [".trace.txt", ".report.txt", ".report-ns.txt", ".report-latency.txt", ".report-raw.txt"];
        if !ends.iter().any(|end| plain.ends_with(end)) {
            continue;
        }
        let Read { told, tally, counts } = read(path);
        seen += 1;
        assert_eq!(tally.unknown, 0, "{shown}: {:?}", tally.first_unknown);
        let no_time = ["v-raw.trace", "v-hex.trace", "v-no-context-info.trace", "v-function-graph.trace"];
        if no_time.iter().any(|name| shown.contains(name)) {
            assert!(told.untimed > 0 && counts.is_empty() && told.untimed_layout.is_some(), "{shown}: {told:?}");
            continue;
        }
        assert!(tally.events > 0, "{shown}");
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split(".trace").next());
        let Ok(summary) = std::fs::read(path.with_file_name(format!("{}.summary.json", stem.expect("a name")))) else {
            continue;
        };
        let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
        let by_event = summary.pointer("/reference_reading/by_event").and_then(serde_json::Value::as_object);
        let Some(by_event) = by_event else { continue };
        for (event, count) in
            by_event.iter().filter(|(event, _)| event.starts_with("ipi_") || event.starts_with("csd_"))
        {
            let found = counts.get(event.as_str()).copied().unwrap_or(0);
            assert_eq!(Some(found), count.as_u64(), "{shown}: {event}");
        }
        if let Some(cpus) = told.cpus {
            assert_eq!(Some(u64::from(cpus)), summary["cpus"].as_u64(), "{shown}");
        }
        compared += 1;
    }
    println!("{seen} files read, {compared} compared with their summaries");
    assert!(seen > 80 && compared > 60, "{seen} files, {compared} compared");
}
