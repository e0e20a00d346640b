//! Tables: one description of columns makes the static rows, and the same rows for the script to sort and to save.
//!
//! A report of 512 cores has 261,632 pairs. Its columns are written as columns, runs of one value as one, names by their number;
//! what then is beyond a budget is left out by columns first, by rows last, and the page says so.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::text::{duration, escape, escaped, grouped, mean, three_digits, trimmed, whole_ticks};

/// What the cells of a column are, and so how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or a sentence.
    Text,
    /// A core's number.
    Core,
    /// A number of things.
    Count,
    /// A length of time, ns.
    Length,
    /// The same of a figure that a small sample does not carry.
    Quantile,
    /// A mean, ns; the column behind it is its interval.
    Mean,
    /// The interval of a mean: saved, and shown with the mean.
    Interval,
    /// A time, ns, that can be below zero.
    Time,
    /// Another number.
    Number,
    /// How many a second.
    Rate,
    /// Yes or no.
    Flag,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Core => "core",
            Kind::Count => "count",
            Kind::Length => "length",
            Kind::Quantile => "quantile",
            Kind::Mean => "mean",
            Kind::Interval => "interval",
            Kind::Time => "time",
            Kind::Number => "number",
            Kind::Rate => "rate",
            Kind::Flag => "flag",
        }
    }

    const fn is_text(self) -> bool {
        matches!(self, Kind::Text | Kind::Flag)
    }
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Where the value stands in a row, as a path with `/`; its name in a saved file has `_` there.
    pub path: &'static str,
    /// Its heading.
    pub label: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Which columns go first where the page would be too large, the highest first; 0: never.
    pub drop: u8,
}

/// A column that is never left out.
pub(crate) const fn column(path: &'static str, label: &'static str, kind: Kind) -> Column {
    Column { path, label, kind, drop: 0 }
}

const fn may_go(path: &'static str, label: &'static str, kind: Kind, drop: u8) -> Column {
    Column { path, label, kind, drop }
}

/// Up to here, [`Column::drop`] is that of an outcome or a mark: what is the same in every row is told once.
const MINOR: u8 = 3;

/// Up to so many rows, a word that all have stands in each.
const FEW: usize = 3;

/// Figures of latencies.
pub(crate) const LATENCY: &[Column] = &[
    column("n", "n", Kind::Count),
    may_go("min_ns", "min", Kind::Length, 7),
    column("p50_ns", "median", Kind::Quantile),
    may_go("p90_ns", "p90", Kind::Quantile, 5),
    column("p99_ns", "p99", Kind::Quantile),
    may_go("p999_ns", "p99.9", Kind::Quantile, 6),
    column("max_ns", "max", Kind::Length),
    column("mean_ns", "mean", Kind::Mean),
    may_go("mean_ci_ns", "mean's interval", Kind::Interval, 8),
];

/// What became of IPIs.
pub(crate) const OUTCOMES: &[Column] = &[
    column("sent", "sent", Kind::Count),
    may_go("delivered", "delivered", Kind::Count, 2),
    may_go("coalesced", "coalesced", Kind::Count, 1),
    column("lost", "lost", Kind::Count),
    may_go("misrouted", "misrouted", Kind::Count, 1),
    may_go("in_flight", "in flight", Kind::Count, 1),
    may_go("unknown", "unknown", Kind::Count, 1),
];

/// What stands where there is no value.
pub(crate) const DASH: &str = "–";

/// Why a figure is not there.
pub(crate) const SMALL: &str = "the sample is too small for this figure";

/// The longest text of a cell, characters.
const LONGEST: usize = 2000;

/// A table as the report fills it.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    /// Its name in the page.
    pub id: String,
    /// Its caption.
    pub title: String,
    /// What the reader should know of it.
    pub about: &'static str,
    /// Its columns; one of which no row has a value is not shown.
    pub columns: Vec<Column>,
    /// Its rows.
    pub rows: Vec<&'a Value>,
    /// By which columns it is sorted at first, the greatest first: the first of these that any row has. None: as the report has it.
    pub sort: &'static [&'static str],
    /// Columns that say the same in every row, and what: told once, and saved.
    pub same: Vec<(&'static str, String)>,
}

/// The value at a path of a row; null counts as none.
pub(crate) fn at<'a>(row: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').try_fold(row, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// A list of the report; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A text of the report; empty where there is none.
pub(crate) fn words<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// A number of the report.
pub(crate) fn number(value: &Value, path: &str) -> Option<f64> {
    at(value, path).and_then(Value::as_f64)
}

/// A count of the report; 0 where there is none.
pub(crate) fn count(value: &Value, path: &str) -> u64 {
    at(value, path).and_then(Value::as_u64).unwrap_or(0)
}

/// A value as text: text as it is, everything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().nth(LONGEST).is_some() => text.chars().take(LONGEST).chain(['…']).collect(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(plain).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

/// A cell as it is shown; `None`: there is no value.
pub(crate) fn shown(row: &Value, column: &Column, tick: Option<f64>) -> Option<String> {
    let value = at(row, column.path)?;
    let Some(number) = value.as_f64() else {
        return Some(match value {
            Value::Bool(true) => "yes".into(),
            Value::Bool(false) => "no".into(),
            other => plain(other),
        });
    };
    let finest = tick.unwrap_or(1.0);
    Some(match column.kind {
        Kind::Core | Kind::Text | Kind::Flag => value.to_string(),
        Kind::Count => value.as_u64().map_or_else(|| trimmed(number, 3), grouped),
        Kind::Number => trimmed(number, 3),
        Kind::Rate => grouped(three_digits(number)),
        Kind::Length | Kind::Quantile => whole_ticks(number, finest),
        Kind::Time if number == 0.0 => "0 ns".into(),
        Kind::Time => duration(number, finest),
        Kind::Mean | Kind::Interval => {
            let interval = column.path.replace("mean_ns", "mean_ci_ns");
            at(row, &interval)
                .and_then(Value::as_f64)
                .map_or_else(|| duration(number, finest), |interval| mean(number, interval))
        }
    })
}

/// A value as it is embedded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    None,
    Number(f64),
    /// A text, by its number.
    Text(usize),
}

impl Cell {
    /// As JSON, without digits that mean nothing.
    fn write(self, kind: Kind, json: &mut String) {
        let _ = match self {
            Cell::None => write!(json, "null"),
            Cell::Text(index) => write!(json, "{index}"),
            Cell::Number(value) if kind == Kind::Number => write!(json, "{value}"),
            // Of nanoseconds, a thousandth is nobody's.
            Cell::Number(value) => write!(json, "{}", (value * 1e3).round() / 1e3),
        };
    }
}

/// A column on its way into the page.
struct Encoder<'a> {
    column: Column,
    cells: Vec<Cell>,
    texts: Vec<Value>,
    numbers: HashMap<String, usize>,
    /// The text before this one: texts come in runs, and most need no look-up.
    last: Option<(&'a str, usize)>,
}

impl<'a> Encoder<'a> {
    fn new(column: Column) -> Self {
        Encoder { column, cells: Vec::new(), texts: Vec::new(), numbers: HashMap::new(), last: None }
    }

    fn push(&mut self, row: &'a Value) {
        let cell = match at(row, self.column.path) {
            None => Cell::None,
            Some(Value::Bool(flag)) => Cell::Number(f64::from(u8::from(*flag))),
            Some(Value::Number(number)) if self.column.kind != Kind::Text => {
                number.as_f64().map_or(Cell::None, Cell::Number)
            }
            Some(value) => match (value.as_str(), self.last) {
                (Some(text), Some((before, index))) if text == before => Cell::Text(index),
                (text, _) => {
                    let next = self.texts.len();
                    let index = *self.numbers.entry(plain(value)).or_insert_with_key(|text| {
                        self.texts.push(json!(text));
                        next
                    });
                    self.last = text.map(|text| (text, index));
                    Cell::Text(index)
                }
            },
        };
        self.cells.push(cell);
    }

    /// As JSON: `{"v": values}` or `{"r": [value, how often, …]}`, of texts with `"d"`: the texts by number.
    fn finish(self) -> String {
        let kind = self.column.kind;
        let runs: Vec<&[Cell]> = self.cells.chunk_by(|a, b| a == b).collect();
        let in_runs = runs.len() * 2 < self.cells.len();
        let mut json = String::from(if in_runs { "{\"r\":[" } else { "{\"v\":[" });
        if in_runs {
            for run in runs {
                run.first().unwrap_or(&Cell::None).write(kind, &mut json);
                let _ = write!(json, ",{},", run.len());
            }
        } else {
            for cell in &self.cells {
                cell.write(kind, &mut json);
                json.push(',');
            }
        }
        if json.ends_with(',') {
            json.pop();
        }
        json.push(']');
        if !self.texts.is_empty() {
            let _ = write!(json, ",\"d\":{}", Value::Array(self.texts));
        }
        json.push('}');
        json
    }
}

/// All columns of all rows, in one walk over the rows: they are large, and lie far from each other.
fn encode(rows: &[&Value], columns: &[Column]) -> Vec<String> {
    let mut encoders: Vec<Encoder<'_>> = columns.iter().map(|column| Encoder::new(*column)).collect();
    for row in rows {
        encoders.iter_mut().for_each(|encoder| encoder.push(row));
    }
    encoders.into_iter().map(Encoder::finish).collect()
}

/// Rows that stand in the page itself; the script brings the rest.
pub(crate) const STATIC_ROWS: usize = 100;

impl Table<'_> {
    /// Leaves out columns that no row fills. A figure that samples were too small for stays: its dash says so.
    pub fn trim(&mut self) {
        let rows = &self.rows;
        let measured = rows.iter().any(|row| count(row, "n") > 0);
        self.columns.retain(|column| {
            let common = column.kind == Kind::Quantile && column.path != "p999_ns" && measured;
            common || rows.iter().any(|row| at(row, column.path).is_some())
        });
        // Outcomes that nothing had, marks and words that every row has.
        let first = self.rows.first().copied().unwrap_or(&Value::Null);
        let usual = |(index, column): (usize, &Column)| match (column.kind, column.drop) {
            (Kind::Flag, 1..=MINOR) => Some(json!(true)),
            (_, 1..=MINOR) => Some(json!(0)),
            // The first column says what a row is; of a few rows, a word is no burden.
            (Kind::Text, _) if index > 0 && rows.len() > FEW => at(first, column.path).cloned(),
            _ => None,
        };
        let columns = self.columns.iter().enumerate();
        let mut same: Vec<(&Column, Value)> =
            columns.filter_map(|(index, column)| Some((column, usual((index, column))?))).collect();
        for row in rows {
            same.retain(|(column, usual)| at(row, column.path) == Some(usual));
        }
        self.same = same.iter().filter_map(|(column, _)| Some((column.label, shown(first, column, None)?))).collect();
    }

    fn sorted_by(&self) -> Option<usize> {
        let told = |column: &Column| self.rows.iter().any(|row| at(row, column.path).is_some());
        let place = |path: &&str| self.columns.iter().position(|column| column.path == *path);
        self.sort.iter().filter_map(place).find(|index| self.columns.get(*index).is_some_and(told))
    }

    /// Whether a column is not shown: its value stands with the mean, or above the table.
    fn is_hidden(&self, column: &Column) -> bool {
        column.kind == Kind::Interval || self.same.iter().any(|(label, _)| *label == column.label)
    }

    /// The rows as they are shown at first.
    fn ordered(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if let Some(column) = self.sorted_by().and_then(|index| self.columns.get(index)) {
            let keys: Vec<Option<f64>> = self.rows.iter().map(|row| number(row, column.path)).collect();
            let key = |index: &usize| keys.get(*index).copied().flatten();
            order.sort_by(|a, b| match (key(a), key(b)) {
                (Some(a), Some(b)) => b.total_cmp(&a),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            });
        }
        order
    }

    /// The data for the script as JSON, in no more than about `budget` bytes, and what had to be left out for that.
    pub fn data(&mut self, budget: usize) -> (String, Vec<String>) {
        let mut left_out = Vec::new();
        // With what the head of a column takes.
        let size = |columns: &[String]| -> usize { columns.iter().map(|column| column.len() + 80).sum() };
        let mut columns = encode(&self.rows, &self.columns);
        let mut gone: Vec<&str> = Vec::new();
        while size(&columns) > budget
            && let Some(index) =
                (0..self.columns.len()).filter(|index| self.drop(*index) > 0).max_by_key(|index| self.drop(*index))
        {
            gone.push(self.columns.remove(index).label);
            columns.remove(index);
        }
        if !gone.is_empty() {
            left_out.push(format!(
                "{}: column{} {} left out, or the page would be too large; the JSON report has all",
                self.title,
                if gone.len() == 1 { "" } else { "s" },
                gone.join(", ")
            ));
        }
        let all = self.rows.len();
        while size(&columns) > budget && self.rows.len() > STATIC_ROWS {
            // A little more than the excess goes, or this would go on for long.
            let share = budget as f64 / size(&columns) as f64 * 0.95;
            let keep = ((self.rows.len() as f64 * share) as usize).max(STATIC_ROWS);
            let mut kept: Vec<usize> = self.ordered().into_iter().take(keep).collect();
            kept.sort_unstable();
            self.rows = kept.into_iter().filter_map(|index| self.rows.get(index).copied()).collect();
            columns = encode(&self.rows, &self.columns);
        }
        if self.rows.len() < all {
            left_out.push(format!(
                "{}: {} of {} rows are here, the first by {}, or the page would be too large; the JSON report has all",
                self.title,
                grouped(self.rows.len() as u64),
                grouped(all as u64),
                self.sorted_by().and_then(|index| self.columns.get(index)).map_or("the report's order", |by| by.label)
            ));
        }
        let heads: Vec<Value> = self
            .columns
            .iter()
            .map(|column| json!({ "key": key(column), "label": column.label, "kind": column.kind.name(), "hidden": self.is_hidden(column) }))
            .collect();
        let data = format!(
            "{{\"title\":{},\"rows\":{},\"sort\":{},\"columns\":{},\"data\":[{}]}}",
            json!(self.title),
            self.rows.len(),
            json!(self.sorted_by()),
            Value::Array(heads),
            columns.join(",")
        );
        (data, left_out)
    }

    fn drop(&self, index: usize) -> u8 {
        self.columns.get(index).map_or(0, |column| column.drop)
    }

    /// The table as HTML, with the first rows.
    pub fn html(&self, tick: Option<f64>, html: &mut String) {
        let id = &self.id;
        let _ = write!(
            html,
            "<figure class=\"table\" id=\"{id}-figure\"><figcaption><h3 id=\"{id}-title\">{}</h3>",
            escaped(&self.title)
        );
        if !self.about.is_empty() {
            let _ = write!(html, "<p>{}</p>", escaped(self.about));
        }
        if !self.same.is_empty() {
            let same: Vec<String> =
                self.same.iter().map(|(label, value)| format!("{label} {}", escaped(value))).collect();
            let _ = write!(html, "<p>In every row: {}.</p>", same.join(", "));
        }
        let _ = write!(
            html,
            "</figcaption><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-title\">\
             <table id=\"{id}\" aria-labelledby=\"{id}-title\"><thead><tr>"
        );
        let shown_columns = || self.columns.iter().enumerate().filter(|(_, column)| !self.is_hidden(column));
        let sorted = self.sorted_by();
        for (index, column) in shown_columns() {
            let class = if column.kind.is_text() { "" } else { " class=\"number\"" };
            let order = if sorted == Some(index) { " aria-sort=\"descending\"" } else { "" };
            let _ = write!(html, "<th scope=\"col\" data-column=\"{index}\"{class}{order}>{}</th>", column.label);
        }
        html.push_str("</tr></thead><tbody>");
        for row in self.ordered().into_iter().take(STATIC_ROWS).filter_map(|index| self.rows.get(index)) {
            html.push_str("<tr>");
            for (_, column) in shown_columns() {
                let class = if column.kind.is_text() { "" } else { " class=\"number\"" };
                match shown(row, column, tick) {
                    Some(text) => {
                        let _ = write!(html, "<td{class}>");
                        escape(&text, html);
                        html.push_str("</td>");
                    }
                    None if column.kind == Kind::Quantile => {
                        let _ = write!(html, "<td{class} title=\"{SMALL}\">{DASH}</td>");
                    }
                    None => {
                        let _ = write!(html, "<td{class}>{DASH}</td>");
                    }
                }
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>");
        if self.rows.len() > STATIC_ROWS {
            let _ = write!(html, "<p class=\"more\">{STATIC_ROWS} of {} rows</p>", grouped(self.rows.len() as u64));
        }
        html.push_str("</figure>");
    }
}

/// A column's name in a saved file.
fn key(column: &Column) -> String {
    column.path.replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [column("from", "from", Kind::Core), column("kind", "kind", Kind::Text), may_go("x", "x", Kind::Length, 1)];

    #[test]
    fn columns_are_written_as_runs_and_texts_by_their_number() {
        let rows: Vec<Value> = (0..10).map(|index| json!({ "from": index, "kind": "ipi", "x": 2.0 })).collect();
        let rows: Vec<&Value> = rows.iter().collect();
        let expected = [r#"{"v":[0,1,2,3,4,5,6,7,8,9]}"#, r#"{"r":[0,10],"d":["ipi"]}"#, r#"{"r":[2,10]}"#];
        assert_eq!(encode(&rows, &COLUMNS), expected);
    }

    #[test]
    fn beyond_the_budget_columns_go_first_then_the_least_rows_and_the_page_says_so() {
        let rows: Vec<Value> =
            (0..5000).map(|index| json!({ "from": index, "kind": "a", "x": index * 7919 })).collect();
        let table = |budget| {
            let mut table = Table {
                id: "t".into(),
                title: "T".into(),
                about: "",
                columns: COLUMNS.to_vec(),
                rows: rows.iter().collect(),
                sort: &["from"],
                same: Vec::new(),
            };
            let (text, left_out) = table.data(budget);
            let data: Value = serde_json::from_str(&text).unwrap();
            (data["rows"].as_u64(), data["columns"].as_array().map(Vec::len), left_out, text.len())
        };
        assert_eq!(table(1 << 20), (Some(5000), Some(3), vec![], table(1 << 20).3));
        let (rows, columns, left_out, _) = table(30_000);
        assert_eq!((rows, columns), (Some(5000), Some(2)));
        assert!(left_out[0].starts_with("T: column x left out"), "{left_out:?}");
        let (rows, _, left_out, size) = table(10_000);
        assert!(rows < Some(5000) && size < 10_500, "{rows:?} {size}");
        assert!(left_out[1].contains("of 5,000 rows are here, the first by from"), "{left_out:?}");
    }

    #[test]
    fn what_every_row_says_is_told_once_and_saved() {
        let rows: Vec<Value> =
            (0..4).map(|index| json!({ "from": index, "kind": "<b>", "coalesced": 0, "lost": 0 })).collect();
        let columns = [COLUMNS[0], COLUMNS[1], OUTCOMES[2], OUTCOMES[3]].to_vec();
        let mut table = Table {
            id: "t".into(),
            title: "T".into(),
            about: "",
            columns,
            rows: rows.iter().collect(),
            sort: &[],
            same: Vec::new(),
        };
        table.trim();
        let mut html = String::new();
        table.html(None, &mut html);
        assert!(html.contains("<p>In every row: kind &lt;b&gt;, coalesced 0.</p>"), "{html}");
        assert!(
            html.contains("<tr><td class=\"number\">3</td><td class=\"number\">0</td></tr>"),
            "from and lost: {html}"
        );
        let data: Value = serde_json::from_str(&table.data(1 << 20).0).unwrap();
        let hidden: Vec<bool> = (0..4).filter_map(|index| data["columns"][index]["hidden"].as_bool()).collect();
        assert_eq!(hidden, [false, true, true, false]);
    }

    #[test]
    fn a_figure_that_a_small_sample_does_not_carry_is_a_dash_with_its_reason() {
        let row = json!({ "n": 3, "min_ns": 5.0, "p50_ns": null, "max_ns": 9.0 });
        let mut table = Table {
            id: "t".into(),
            title: "T".into(),
            about: "",
            columns: LATENCY.to_vec(),
            rows: vec![&row],
            sort: &[],
            same: Vec::new(),
        };
        table.trim();
        let mut html = String::new();
        table.html(Some(1.0), &mut html);
        let dashes = html.matches(&format!("<td class=\"number\" title=\"{SMALL}\">{DASH}</td>")).count();
        assert_eq!(dashes, 3, "median, p90, p99: {html}");
        assert!(!html.contains("p99.9"), "nobody has it: {html}");
    }
}
