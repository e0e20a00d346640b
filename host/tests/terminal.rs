//! The report in terminals of 80 and of 200 columns, with and without colour, for machines of 1, 4, 64 and 512 cores. No QEMU.
//!
//! Each text is compared with a file of `tests/golden/terminal`, which `IPISCOPE_BLESS=1` writes anew; what holds for all of them is
//! checked besides, in more widths and without line-drawing characters.

// What other tests need of it stands unused here.
#[expect(dead_code, reason = "each test file uses its own part of the simulator")]
mod simulator;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use host::plan::PlanRequest;
use host::report::{Options, Report, Verdict};
use simulator::Simulator;
use trace_ring::layout::{LANES_PER_CORE, core_state};

/// Widths of the files.
const WIDTHS: [u16; 2] = [80, 200];

/// Lines that a report of 512 cores may have in 80 columns.
const SUMMARY: usize = 72;

/// A latency of a quiet machine: 10 to 12 ticks.
fn quiet(from: u16, to: u16, round: u64) -> u64 {
    10 + (u64::from(from) + 2 * u64::from(to) + round) % 3
}

/// One core that sends to itself: clean.
fn one() -> Simulator {
    let mut target = Simulator::standard(1);
    target.run(40, quiet);
    target
}

/// Four cores: core 2 is late, and core 0 loses two IPIs to core 1.
fn four() -> Simulator {
    let mut target = Simulator::matrix(4);
    target.run(50, |from, to, round| quiet(from, to, round) + if to == 2 { 300 } else { 0 });
    for _ in 0..2 {
        let slot = target.slot(0, 1);
        target.lose(slot);
    }
    target
}

/// Four clusters of 16: the receivers of cluster 2 are slow, core 5 is slower, and so is the way from core 7 to core 60.
fn sixty_four() -> Simulator {
    let mut target = Simulator::matrix(64);
    target.run(12, |from, to, round| {
        let more = match (from, to) {
            (_, 5) => 200,
            (7, 60) => 90,
            (_, 32..48) => 25,
            _ => 0,
        };
        quiet(from, to, round) + more
    });
    target
}

/// 32 clusters of 16: core 300 did not come up, cores 500 to 503 are disabled, core 16 loses IPIs from everybody, cluster 9 is slow, and
/// records are missing.
fn many() -> Simulator {
    let mut target = Simulator::standard(512);
    target.cores[300].state = core_state::NO_SHOW;
    for core in 500..504 {
        target.cores[core].state = core_state::DISABLED;
    }
    target.run(12, |from, to, round| quiet(from, to, round) + if (144..160).contains(&to) { 60 } else { 0 });
    let to_16: Vec<usize> = (0..target.slots.len())
        .filter(|slot| target.slots[*slot].to == 16 && target.slots[*slot].from != 16 && target.slots[*slot].phase == 0)
        .collect();
    assert!(to_16.len() > 16, "{} pairs", to_16.len());
    for slot in to_16 {
        target.lose(slot);
    }
    for core in 40..60 {
        target.lapped.insert(core * LANES_PER_CORE, (2, 3 + core % 5));
    }
    target
}

/// Cores and their report; made once for all tests.
fn reports() -> &'static [(u16, Report)] {
    static REPORTS: OnceLock<Vec<(u16, Report)>> = OnceLock::new();
    REPORTS.get_or_init(|| {
        [(1, one()), (4, four()), (64, sixty_four()), (512, many())]
            .map(|(cores, target)| (cores, target.report()))
            .into()
    })
}

fn text(report: &Report, width: u16, color: bool, unicode: bool) -> String {
    report.text(&Options { color, width, unicode })
}

/// A text without the sequences `ESC [ ... m`.
fn uncoloured(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |plain, piece| {
        let (style, rest) = piece.split_once('m').expect("a style ends");
        assert!(style.starts_with('['), "{style:?} is no style");
        plain + rest
    })
}

fn golden(cores: u16, width: u16, color: bool) -> PathBuf {
    let color = if color { "-color" } else { "" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/terminal/{cores}-cores-{width}{color}.txt"))
}

/// The first line that differs, as the files have it.
fn difference(expected: &str, got: &str) -> Option<String> {
    let (mut expected, mut got) = (expected.split('\n'), got.split('\n'));
    for number in 1.. {
        match (expected.next(), got.next()) {
            (None, None) => break,
            (expected, got) if expected == got => {}
            (expected, got) => {
                let line = |line: Option<&str>| line.map_or("(no line)".into(), |line| format!("{line:?}"));
                return Some(format!("line {number}\n  expected: {}\n       got: {}", line(expected), line(got)));
            }
        }
    }
    None
}

#[test]
fn the_report_in_a_terminal_is_the_one_of_the_files() {
    let mut different = Vec::new();
    for (cores, report) in reports() {
        for (width, color) in WIDTHS.into_iter().flat_map(|width| [(width, false), (width, true)]) {
            let (file, text) = (golden(*cores, width, color), text(report, width, color, true));
            if std::env::var_os("IPISCOPE_BLESS").is_some() {
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(&file, &text).unwrap();
            }
            let expected = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some(line) = difference(&expected, &text) {
                different.push(format!("{}: {line}", file.display()));
            }
        }
    }
    let help = "set IPISCOPE_BLESS=1 to write the files anew, and look at the difference";
    assert!(different.is_empty(), "{help}\n{}", different.join("\n"));
}

#[test]
fn the_files_are_those_of_the_test() {
    let folder = golden(1, 80, false).parent().unwrap().to_owned();
    let mut there: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let machines = [1, 4, 64, 512].into_iter();
    let mut compared: Vec<PathBuf> = machines
        .flat_map(|cores| {
            WIDTHS.into_iter().flat_map(move |width| [false, true].map(|color| golden(cores, width, color)))
        })
        .collect();
    there.sort();
    compared.sort();
    assert_eq!((there.len(), there), (16, compared));
}

#[test]
fn every_line_fits_and_the_verdict_is_the_last() {
    for (cores, report) in reports() {
        for width in [40, 50, 60, 72, 80, 100, 132, 200, 500] {
            for (color, unicode) in [(false, false), (false, true), (true, false), (true, true)] {
                let plain = uncoloured(&text(report, width, color, unicode));
                for line in plain.lines() {
                    let columns = line.chars().count();
                    assert!(columns <= usize::from(width), "{cores} cores: {columns} of {width} columns: {line}");
                }
                let last = plain.lines().last().unwrap();
                assert!(last.starts_with(&format!("Verdict: {}: ", report.verdict.name())), "{last}");
            }
        }
    }
}

#[test]
fn a_terminal_of_no_width_gets_forty_columns() {
    for (cores, report) in reports() {
        assert_eq!(text(report, 0, false, true), text(report, 40, false, true), "{cores} cores");
    }
}

#[test]
fn colour_is_all_that_a_terminal_without_it_lacks() {
    for (cores, report) in reports() {
        for width in [40, 80, 200] {
            for unicode in [false, true] {
                let (plain, coloured) = (text(report, width, false, unicode), text(report, width, true, unicode));
                assert!(!plain.contains('\u{1b}'), "{cores} cores, {width} columns: {plain:?}");
                assert!(coloured.contains('\u{1b}'), "{cores} cores, {width} columns: no colour");
                assert_eq!(difference(&plain, &uncoloured(&coloured)), None, "{cores} cores, {width} columns");
            }
        }
    }
}

#[test]
fn line_drawing_is_all_that_a_terminal_without_unicode_lacks() {
    for (cores, report) in reports() {
        for width in [40, 80, 200] {
            for color in [false, true] {
                let (ascii, drawn) = (text(report, width, color, false), text(report, width, color, true));
                assert!(ascii.is_ascii(), "{cores} cores, {width} columns: {ascii}");
                assert!(!drawn.is_ascii(), "{cores} cores, {width} columns: no line is drawn");
                let replaced = drawn.replace('\u{2500}', "-");
                assert_eq!(difference(&replaced, &ascii), None, "{cores} cores, {width} columns");
            }
        }
    }
}

#[test]
fn many_cores_are_a_summary() {
    let (_, report) = reports().iter().find(|(cores, _)| *cores == 512).unwrap();
    for width in [80, 120, 200] {
        let text = text(report, width, false, true);
        let lines = text.lines().count();
        assert!(lines <= SUMMARY, "{lines} lines in {width} columns\n{text}");
    }
}

/// The lines from the one that begins with `first` on, up to an empty one.
fn section<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    text.lines().skip_while(|line| !line.starts_with(first)).take_while(|line| !line.is_empty()).collect()
}

#[test]
fn the_slowest_cluster_core_and_pair_are_named_first() {
    let (_, report) = reports().iter().find(|(cores, _)| *cores == 64).unwrap();
    assert_eq!(report.verdict, Verdict::Suspect);
    let text = text(report, 80, false, false);
    let matrix = section(&text, "Median by sender");
    let header = matrix.iter().find(|line| line.starts_with("cluster, ns")).expect("a matrix of clusters");
    assert_eq!(header.split_whitespace().collect::<Vec<_>>(), ["cluster,", "ns", "2", "0", "1", "3"], "{text}");
    let slow = |label: &str| {
        let line =
            text.lines().find_map(|line| line.trim_start().strip_prefix(label)).unwrap_or_else(|| panic!("{text}"));
        line.trim().to_owned()
    };
    // 211 and 36 ticks of 16 ns: core 5 alone, and all of cluster 2.
    assert_eq!(slow("receivers:"), "5: 3376 ns; 32-47: 576 ns");
    assert_eq!(slow("pairs:"), "7 to 60: 1616 ns");
    assert!(!text.contains("senders:"), "{text}");
}

#[test]
fn of_many_clusters_the_slowest_are_listed_and_missing_cores_stand_together() {
    let (_, report) = reports().iter().find(|(cores, _)| *cores == 512).unwrap();
    assert_eq!(report.verdict, Verdict::Failed);
    let text = text(report, 80, false, false);
    let table = section(&text, "Median by cluster");
    let first = table.iter().skip_while(|line| !line.starts_with("---")).nth(1).expect("a row");
    assert!(first.starts_with("9 ") && first.contains("144-159"), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("note: cores 500-503: each is disabled in the device tree"), "{text}");
    assert!(words.contains("core 300: core_missing"), "{text}");
}

#[test]
fn scattered_suspects_fill_no_lines() {
    let mut target = Simulator::standard(128);
    for core in (1..128).step_by(2) {
        target.cores[core].state = core_state::NO_SHOW;
    }
    target.run(12, quiet);
    let report = target.report();
    assert_eq!(report.suspects.len(), 64);
    for width in [40, 80] {
        let text = text(&report, width, false, true);
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
        assert!(text.lines().count() <= SUMMARY, "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("Suspects cores 1,3,5,7,9,11,13,15,17,... (64 cores): core_missing core 1 (MPIDR 0x1)"),
            "{text}"
        );
    }
}

#[test]
fn what_a_target_says_can_not_steer_the_terminal() {
    let mut target = Simulator::new(PlanRequest { cores: 2, ..PlanRequest::default() });
    target.run(10, quiet);
    let mut report = target.report();
    report.target.tags.insert("unit\u{1b}]0;".into(), "\u{9b}31m \u{1b}[2J".into());
    let text = text(&report, 80, false, true);
    assert!(text.contains("unit?]0; = ?31m ?[2J"), "{text}");
    assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{text:?}");
}
