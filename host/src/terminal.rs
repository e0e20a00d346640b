//! Text that fits a terminal: what it can show, words wrapped under themselves, tables without the columns that are needed least.

use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};

use crate::report::Options;

/// Columns of prose: lines that are longer than about this are hard to read, however wide the terminal is.
const PROSE: usize = 100;

/// A terminal that is narrower gets text of so many columns.
const NARROWEST: usize = 40;

/// Spaces behind a cell; another one stands between two columns.
const PADDING: u16 = 1;

/// Whether an environment variable is there and not empty.
pub fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Whether the terminal takes more than ASCII (POSIX locale variables, in the order of their weight).
pub fn is_utf8() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let encoding = names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    encoding.is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        name.contains("utf-8") || name.contains("utf8")
    })
}

/// Columns that a line may have.
pub(crate) fn room(options: &Options) -> usize {
    usize::from(options.width).max(NARROWEST)
}

/// A text whose letters the terminal shows: what would steer it, or what it has no letter for, is a question mark.
pub(crate) fn shown(text: &str, options: &Options) -> String {
    let known = |letter: char| !letter.is_control() && (options.unicode || letter.is_ascii());
    text.chars().map(|letter| if known(letter) { letter } else { '?' }).collect()
}

/// `label` and text, wrapped under itself; its letters are [`shown`] ones.
pub(crate) fn wrapped(label: &str, indent: usize, text: &str, options: &Options) -> String {
    let room = room(options).min(PROSE).saturating_sub(indent);
    let mut lead = format!("{label:<indent$}");
    let mut page = String::new();
    let mut line = String::new();
    let mut end = |line: &mut String| {
        page.push_str(format!("{lead}{line}").trim_end());
        page.push('\n');
        lead = " ".repeat(indent);
        line.clear();
    };
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = shown(word, options).chars().collect();
        if !line.is_empty() && line.chars().count() + 1 + letters.len() > room {
            end(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        // A symbol's name can be longer than the line.
        while letters.len() > room {
            line.extend(letters.drain(..room));
            end(&mut line);
        }
        line.extend(letters);
    }
    end(&mut line);
    page
}

/// An empty table: a rule below its header, and nothing else drawn.
pub(crate) fn table(options: &Options) -> Table {
    let mut table = Table::new();
    let dash = if options.unicode { '\u{2500}' } else { '-' };
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill(dash).junction(dash)));
    table.set_content_arrangement(ContentArrangement::Disabled);
    if options.color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// Columns that a table takes, those that are hidden aside.
pub(crate) fn width(table: &Table) -> usize {
    let contents = table.column_max_content_widths();
    let columns = table.column_iter().zip(contents).filter_map(|(column, content)| match column.constraint() {
        Some(ColumnConstraint::Hidden) => None,
        Some(ColumnConstraint::LowerBoundary(Width::Fixed(least))) => Some(usize::from(content.max(*least))),
        _ => Some(usize::from(content)),
    });
    columns.map(|content| content + usize::from(PADDING) + 1).sum::<usize>().saturating_sub(1)
}

/// A line of a table: what would steer the terminal is a question mark, but for the styles of its cells; and no spaces at its end, nor in
/// front of the end of a style there.
fn finished(line: &str, options: &Options) -> String {
    let mut pieces = line.split('\u{1b}');
    let mut text = shown(pieces.next().unwrap_or_default(), options);
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        let style = piece.split_once('m').filter(|(style, _)| {
            let numbers = style.strip_prefix('[');
            options.color
                && numbers.is_some_and(|numbers| numbers.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b';')))
        });
        match style {
            Some((style, rest)) => {
                if rest.trim().is_empty() && pieces.peek().is_none() {
                    text.truncate(text.trim_end().len());
                }
                text = format!("{text}\u{1b}{style}m{}", shown(rest, options));
            }
            None => text = format!("{text}?{}", shown(piece, options)),
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// A table's lines. While it is too wide, the next of the columns that are needed least is left out, and a line below says so; what is
/// too wide even then is wrapped in its cells.
pub(crate) fn fitted(mut table: Table, least_needed: &[usize], options: &Options) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, PADDING));
    }
    let mut left_out: Vec<String> = Vec::new();
    for column in least_needed {
        if width(&table) <= room(options) {
            break;
        }
        let cell = table.header().and_then(|header| header.cell_iter().nth(*column));
        left_out.extend(cell.map(|cell| cell.content()));
        if let Some(column) = table.column_mut(*column) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    if width(&table) > room(options) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(room(options)).unwrap_or(u16::MAX));
    }
    let mut page = String::new();
    for line in table.to_string().lines() {
        page += &finished(line, options);
        page.push('\n');
    }
    if !left_out.is_empty() {
        page += &wrapped("", 2, &format!("left out to fit: {} (see --json)", left_out.join(", ")), options);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(width: u16) -> Options {
        Options { color: false, width, unicode: false }
    }

    #[test]
    fn words_are_wrapped_under_themselves_and_none_is_longer_than_the_line() {
        let text = format!("one two {} three", "x".repeat(50));
        let expected = format!("A:  one two\n    {}\n    {} three\n", "x".repeat(36), "x".repeat(14));
        assert_eq!(wrapped("A:", 4, &text, &options(40)), expected);
        let prose = wrapped("", 0, &"word ".repeat(100), &options(200));
        assert_eq!(prose.lines().map(str::len).max(), Some(99));
    }

    #[test]
    fn what_would_steer_the_terminal_is_not_printed() {
        assert_eq!(wrapped("", 0, "a\u{1b}[2Jb \u{b5}s", &options(80)), "a?[2Jb ?s\n");
        let unicode = Options { unicode: true, ..options(80) };
        assert_eq!(wrapped("", 0, "a\u{9b}b \u{b5}s", &unicode), "a?b \u{b5}s\n");
        for color in [false, true] {
            let options = Options { color, ..options(80) };
            let mut table = table(&options);
            table.set_header(["name"]);
            table.add_row([comfy_table::Cell::new("a\u{1b}]0;b\u{7}").fg(comfy_table::Color::Red)]);
            let page = fitted(table, &[], &options);
            assert!(page.contains("a?]0;b?"), "{page:?}");
            assert_eq!(page.contains("\u{1b}["), color, "the cell's own colour stays\n{page:?}");
        }
    }

    #[test]
    fn a_table_loses_the_columns_that_are_needed_least_and_says_which() {
        let wide = || {
            let mut table = table(&options(80));
            table.set_header(["phase", "rate", "p50", "p90"]);
            table.add_row(["a".repeat(20), "b".repeat(10), "c".repeat(10), "d".repeat(10)]);
            table
        };
        let all = fitted(wide(), &[1, 3], &options(57));
        assert!(all.contains("rate") && !all.contains("left out"), "{all}");
        let fewer = fitted(wide(), &[1, 3], &options(56));
        assert!(!fewer.contains("bbb") && fewer.contains("ddd"), "{fewer}");
        assert!(fewer.ends_with("  left out to fit: rate (see --json)\n"), "{fewer}");
        // Nothing can be left out: cells are wrapped.
        let narrow = fitted(wide(), &[], &options(40));
        assert!(narrow.lines().all(|line| line.len() <= 40), "{narrow}");
        let cells: String = narrow.lines().skip(2).collect();
        assert_eq!(["a", "b", "c", "d"].map(|letter| cells.matches(letter).count()), [20, 10, 10, 10], "{narrow}");
    }
}
