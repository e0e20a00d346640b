//! `docs/filters.md` is true: what it shows is read, printed, refused and handed to the kernel as it says.

use filter::{Clock, FIELDS, Filter, LONGEST, MOST_DEPTH, MOST_NEIGHBOURS, Schema, Type};

const PAGE: &str = include_str!("../../docs/filters.md");

fn schema() -> Schema {
    Schema::ipi(Clock::Ticks(24_000_000))
}

/// The fenced blocks of a language, by their lines.
fn blocks(language: &str) -> Vec<Vec<&'static str>> {
    let mut all: Vec<Vec<&str>> = Vec::new();
    let mut open: Option<&str> = None;
    for line in PAGE.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(_), Some(_)) => open = None,
            (Some(named), None) => {
                open = Some(named);
                if named == language {
                    all.push(Vec::new());
                }
            }
            (None, Some(named)) if named == language => all.last_mut().expect("a block").push(line),
            _ => {}
        }
    }
    assert!(open.is_none() && !all.is_empty(), "the page has closed blocks of `{language}`");
    all
}

#[test]
fn no_block_of_the_page_escapes_these_tests() {
    let known = ["filter", "same", "error", "kernel"];
    for fence in PAGE.lines().filter_map(|line| line.strip_prefix("```")).step_by(2) {
        assert!(known.contains(&fence), "`{fence}`");
    }
}

#[test]
fn every_example_is_read_and_prints_as_what_reads_the_same() {
    for line in blocks("filter").concat() {
        let read = Filter::parse(line, &schema()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Filter::parse(&read.to_string(), &schema()).as_ref(), Ok(&read), "{line}");
    }
}

#[test]
fn texts_that_are_the_same_print_alike() {
    for line in blocks("same").concat() {
        let (left, right) = line.split_once(" => ").expect("two texts");
        let read = Filter::parse(left, &schema()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.to_string(), right, "{left}");
    }
}

#[test]
fn every_error_is_produced_exactly() {
    for block in blocks("error") {
        let error = Filter::parse(block[0], &schema()).expect_err(block[0]);
        assert_eq!(error.to_string(), block.join("\n"));
    }
}

#[test]
fn the_kernel_is_written_to_as_the_page_says() {
    for block in blocks("kernel") {
        let read = Filter::parse(block[0], &schema()).unwrap_or_else(|error| panic!("{error}"));
        let told: Vec<String> = match read.kernel() {
            Ok(lines) => lines.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(told, block[1..], "{}", block[0]);
    }
}

#[test]
fn the_table_has_every_field_and_every_synonym() {
    let table: String = PAGE.lines().filter(|line| line.starts_with("| ")).collect();
    for field in FIELDS {
        for name in field.synonyms.iter().chain([&field.name]) {
            assert!(table.contains(&format!("`{name}`")), "{name}");
        }
        if let Type::Enum(words) = field.kind {
            assert!(!words.is_empty() && words.len() <= 64, "{}", field.name);
        }
    }
    for number in [LONGEST, MOST_DEPTH, MOST_NEIGHBOURS as usize] {
        assert!(PAGE.contains(&number.to_string()), "{number}");
    }
}
