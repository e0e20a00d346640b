//! `docs/ring-protocol.md` says what the code says: the numbers of its tables, and the files that it names.

use trace_ring::calls::{CallDescriptor, LiveEntry};
use trace_ring::layout::{
    ABI_VERSION, CoreEntry, FaultEntry, HISTOGRAM_BYTES, HeadLine, LANES_PER_CORE, LOG_STRIDE, LaneDescriptor,
    PairSlot, PhaseResult, Shape, Truth, lay_out,
};
use trace_ring::plan::{LEAST_LOG2_RECORDS, MOST_LOG2_RECORDS};
use trace_ring::reader::GUARD_RECORDS;
use trace_ring::record::{Kind, RECORD_BYTES};

const PAGE: &str = include_str!("../../docs/ring-protocol.md");

#[test]
fn the_table_of_numbers_holds_the_numbers_of_the_code() {
    let constants = [
        ("RECORD_BYTES", RECORD_BYTES),
        ("LANES_PER_CORE", LANES_PER_CORE as u64),
        ("GUARD_RECORDS", GUARD_RECORDS),
        ("HEAD_LINE_BYTES", size_of::<HeadLine>() as u64),
        ("LEAST_LOG2_RECORDS", LEAST_LOG2_RECORDS.into()),
        ("MOST_LOG2_RECORDS", MOST_LOG2_RECORDS.into()),
        ("ABI_VERSION", ABI_VERSION.into()),
    ];
    let table: Vec<(&str, u64)> = PAGE
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().strip_suffix('`')?, cells.next()?.trim().parse().ok()?))
        })
        .collect();
    assert_eq!(table, constants);
}

/// The rows of the table in a chapter: the number in the first cell, and the other cells.
fn rows(chapter: &str) -> Vec<(u64, Vec<&'static str>)> {
    let (_, text) = PAGE.split_once(&format!("\n## {chapter}\n")).unwrap();
    let text = text.split("\n## ").next().unwrap();
    let cells = |line: &'static str| line.strip_prefix("| ")?.strip_suffix(" |").map(|line| line.split(" | "));
    let row = |line| {
        let mut cells = cells(line)?;
        Some((cells.next()?.parse().ok()?, cells.collect()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_table_of_record_kinds_has_all_of_them_by_their_numbers() {
    let kinds: Vec<(u64, String)> =
        rows("Record kinds").into_iter().map(|(number, cells)| (number, cells[0].to_string())).collect();
    let known = |code: u8| !matches!(Kind::from_code(code), Kind::Unknown(_));
    let expected: Vec<(u64, String)> = (0..=u8::MAX)
        .filter(|code| known(*code))
        .map(|code| (code.into(), format!("`{:?}`", Kind::from_code(code))))
        .collect();
    assert_eq!(kinds, expected);
}

#[test]
fn the_table_of_sections_has_all_of_them_in_the_order_and_size_in_which_they_lie() {
    // Counts that differ, so that a section of another's length is noticed.
    let shape = Shape { cores: 1, phases: 3, meta: 64, slots: 5, histograms: 7, descriptors: 9, records: 0 };
    let (at, _) = lay_out(shape);
    let lines = [
        ("cores", at.cores, size_of::<CoreEntry>() as u64, shape.cores),
        ("heads", at.heads, size_of::<HeadLine>() as u64, shape.cores),
        ("lanes", at.lanes, size_of::<LaneDescriptor>() as u64, LANES_PER_CORE as u64),
        ("phases", at.phases, size_of::<PhaseResult>() as u64, shape.phases),
        ("meta", at.meta, 1, shape.meta),
        ("slots", at.slots, size_of::<PairSlot>() as u64, shape.slots),
        ("histograms", at.histograms, HISTOGRAM_BYTES, shape.histograms),
        ("faults", at.faults, size_of::<FaultEntry>() as u64, shape.cores),
        ("logs", at.logs, LOG_STRIDE, shape.cores),
        ("truth", at.truth, size_of::<Truth>() as u64, shape.cores),
        ("live", at.live, size_of::<LiveEntry>() as u64, shape.cores),
        ("calls", at.calls, size_of::<CallDescriptor>() as u64, shape.descriptors),
    ];
    let expected: Vec<(u64, Vec<String>)> = (1..)
        .zip(lines)
        .map(|(place, (name, _, bytes, _))| (place, vec![format!("`{name}`"), bytes.to_string()]))
        .collect();
    let told: Vec<(u64, Vec<String>)> = rows("Sections")
        .into_iter()
        .map(|(place, cells)| (place, cells[..2].iter().map(|cell| cell.to_string()).collect()))
        .collect();
    assert_eq!(told, expected);
    // And they lie in that order, one right behind the other.
    let ends = lines.map(|(_, offset, bytes, count)| offset + (bytes * count).next_multiple_of(64));
    let begins = lines.map(|(_, offset, ..)| offset);
    assert_eq!(begins[1..], ends[..11]);
    assert_eq!(at.records, ends[11].next_multiple_of(4096));
}

#[test]
fn the_files_that_the_page_names_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let names = PAGE.split('`').filter(|word| word.starts_with("trace-ring/"));
    assert!(names.clone().count() > 3);
    for name in names {
        assert!(root.join(name).exists(), "{name} is named in docs/ring-protocol.md and is not there");
    }
}
