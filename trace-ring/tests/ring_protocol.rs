//! `docs/ring-protocol.md` says what the code says: the numbers of its table, and the files that it names.

use trace_ring::layout::{ABI_VERSION, HeadLine, LANES_PER_CORE};
use trace_ring::plan::{LEAST_LOG2_RECORDS, MOST_LOG2_RECORDS};
use trace_ring::reader::GUARD_RECORDS;
use trace_ring::record::RECORD_BYTES;

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

#[test]
fn the_files_that_the_page_names_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let names = PAGE.split('`').filter(|word| word.starts_with("trace-ring/"));
    assert!(names.clone().count() > 3);
    for name in names {
        assert!(root.join(name).exists(), "{name} is named in docs/ring-protocol.md and is not there");
    }
}
