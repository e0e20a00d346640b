//! What is wrong with a filter, shown at its place.

use std::fmt;

/// Most of a filter that an error shows to each side of its place, characters.
const SHOWN: usize = 60;

/// Most possibilities that are shown; [`FilterError::possible`] has all.
const MOST_SHOWN: usize = 12;

/// A filter that can't be read. Its text is the filter, a caret under the place, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The filter, as it was given.
    pub text: String,
    /// The place: bytes from the begin of `text`.
    pub column: usize,
    /// What was expected there, a sentence.
    pub expected: String,
    /// What could stand there, the closest to what stands there first. Empty: too many to tell.
    pub possible: Vec<String>,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column =
            (0..=self.column.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let (before, after) = self.text.split_at(column);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let skipped = before.chars().count().saturating_sub(SHOWN);
        let left: String = before.chars().skip(skipped).map(plain).collect();
        let right: String = after.chars().take(SHOWN).map(plain).collect();
        let (cut_left, cut_right) =
            (if skipped > 0 { "…" } else { "" }, if after.chars().nth(SHOWN).is_some() { "…" } else { "" });
        let width = left.chars().count() + cut_left.chars().count();
        writeln!(f, "{}", format!("{cut_left}{left}{right}{cut_right}").trim_end())?;
        write!(f, "{:width$}^ {}", "", self.expected)?;
        if !self.possible.is_empty() {
            let shown = self.possible.iter().take(MOST_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            write!(f, "\n{:width$}  possible: {shown}", "")?;
            if self.possible.len() > MOST_SHOWN {
                write!(f, " and {} more", self.possible.len() - MOST_SHOWN)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for FilterError {}

/// `names`, those that are spelt most like `word` first; equals keep their order.
pub(crate) fn closest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    // Far ones keep the order of the schema, which is one that people know.
    let near = |name: &str| match distance(word, name) {
        far if far > 1 + name.len() / 3 => usize::MAX,
        near => near,
    };
    let mut all: Vec<(usize, &str)> = names.map(|name| (near(name), name)).collect();
    all.sort_by_key(|(far, _)| *far);
    all.into_iter().map(|(_, name)| name.to_string()).collect()
}

/// Letters to change, add or leave out (Levenshtein's distance), of the first 32 of each, whatever their case.
fn distance(one: &str, other: &str) -> usize {
    let letters = |text: &str| text.chars().take(32).map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>();
    let (one, other) = (letters(one), letters(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.iter().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (cell, against) in row.iter_mut().skip(1).zip(&other) {
            let changed = diagonal + usize::from(letter != against);
            diagonal = *cell;
            left = changed.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(one.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters() {
        for (one, other, far) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("target", "tarket", 1), ("lat", "late", 1)]
        {
            assert_eq!(distance(one, other), far, "{one} {other}");
        }
        assert_eq!(closest("latncy", ["t", "target", "latency"].into_iter()), ["latency", "t", "target"]);
    }

    #[test]
    fn a_long_filter_is_shown_around_its_place() {
        let error =
            FilterError { text: "é".repeat(500), column: 501, expected: "no".into(), possible: vec![] }.to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[0].chars().count(), 2 * SHOWN + 2);
        assert_eq!(lines[1].trim_start(), "^ no");
        assert_eq!(lines[1].chars().position(|c| c == '^'), Some(SHOWN + 1));
    }
}
