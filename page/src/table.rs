//! Tables: one description of columns makes the static rows, and the same rows for the script to sort and to save.
//!
//! A report of 512 cores has 261,632 pairs. Its columns are written as columns, runs of one value as one, names by their number;
//! what then is beyond a budget is left out by columns first, by rows last, and the page says so.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::text::{duration, escape, escaped, grouped, mean, trimmed, whole_ticks};

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
    may_go("mean_ci_ns", "± (95 %)", Kind::Interval, 8),
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
    /// By which columns it is sorted at first, the greatest first: the first of these that there is. None: as the report has it.
    pub sort: &'static [&'static str],
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

/// A number as JSON, without digits that mean nothing.
fn short(value: f64) -> String {
    // Of nanoseconds, a thousandth is nobody's.
    let rounded = (value * 1e3).round() / 1e3;
    if rounded.abs() < 9e15 && rounded.fract() == 0.0 { format!("{rounded:.0}") } else { format!("{rounded}") }
}

/// A column of all rows as JSON: `{"v": values}` or `{"r": [value, how often, …]}`, of texts with `"d"`: the texts by number.
fn encode(rows: &[&Value], column: &Column) -> Value {
    let mut texts: Vec<String> = Vec::new();
    let mut numbers: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    let mut values: Vec<Value> = Vec::with_capacity(rows.len());
    for row in rows {
        values.push(match at(row, column.path) {
            None => Value::Null,
            Some(Value::Bool(flag)) => json!(u8::from(*flag)),
            Some(Value::Number(number)) if column.kind != Kind::Text => {
                let number = number.as_f64().unwrap_or(0.0);
                let short = if column.kind == Kind::Number { number.to_string() } else { short(number) };
                serde_json::from_str(&short).unwrap_or(Value::Null)
            }
            Some(other) => {
                let text = plain(other);
                let next = numbers.len();
                json!(*numbers.entry(text).or_insert_with_key(|text| {
                    texts.push(text.clone());
                    next
                }))
            }
        });
    }
    let mut runs: Vec<(Value, usize)> = Vec::new();
    for value in &values {
        match runs.last_mut() {
            Some((last, times)) if last == value => *times += 1,
            _ => runs.push((value.clone(), 1)),
        }
    }
    let mut encoded = serde_json::Map::new();
    if runs.len() * 2 < values.len() {
        let flat = runs.into_iter().flat_map(|(value, times)| [value, json!(times)]).collect();
        encoded.insert("r".into(), Value::Array(flat));
    } else {
        encoded.insert("v".into(), Value::Array(values));
    }
    if !texts.is_empty() {
        encoded.insert("d".into(), json!(texts));
    }
    Value::Object(encoded)
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
    }

    fn sorted_by(&self) -> Option<usize> {
        self.sort.iter().find_map(|path| self.columns.iter().position(|column| column.path == *path))
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

    /// The data for the script, in no more than about `budget` bytes, and what had to be left out for that.
    pub fn data(&mut self, budget: usize) -> (Value, Vec<String>) {
        let mut left_out = Vec::new();
        let encode_all =
            |table: &Self| -> Vec<Value> { table.columns.iter().map(|column| encode(&table.rows, column)).collect() };
        let size = |columns: &[Value]| -> usize { columns.iter().map(|column| column.to_string().len() + 80).sum() };
        let mut columns = encode_all(self);
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
            columns = encode_all(self);
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
            .map(|column| json!({ "key": key(column), "label": column.label, "kind": column.kind.name() }))
            .collect();
        let data = json!({
            "title": self.title,
            "rows": self.rows.len(),
            "sort": self.sorted_by(),
            "columns": heads,
            "data": columns,
        });
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
        let _ = write!(
            html,
            "</figcaption><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-title\">\
             <table id=\"{id}\" aria-labelledby=\"{id}-title\"><thead><tr>"
        );
        let shown_columns = || self.columns.iter().enumerate().filter(|(_, column)| column.kind != Kind::Interval);
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
        assert_eq!(encode(&rows, &COLUMNS[0]).to_string(), r#"{"v":[0,1,2,3,4,5,6,7,8,9]}"#);
        assert_eq!(encode(&rows, &COLUMNS[1]).to_string(), r#"{"d":["ipi"],"r":[0,10]}"#);
        assert_eq!(encode(&rows, &COLUMNS[2]).to_string(), r#"{"r":[2,10]}"#);
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
            };
            let (data, left_out) = table.data(budget);
            (data["rows"].as_u64(), data["columns"].as_array().map(Vec::len), left_out, data.to_string().len())
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
    fn a_figure_that_a_small_sample_does_not_carry_is_a_dash_with_its_reason() {
        let row = json!({ "n": 3, "min_ns": 5.0, "p50_ns": null, "max_ns": 9.0 });
        let mut table = Table {
            id: "t".into(),
            title: "T".into(),
            about: "",
            columns: LATENCY.to_vec(),
            rows: vec![&row],
            sort: &[],
        };
        table.trim();
        let mut html = String::new();
        table.html(Some(1.0), &mut html);
        let dashes = html.matches(&format!("<td class=\"number\" title=\"{SMALL}\">{DASH}</td>")).count();
        assert_eq!(dashes, 3, "median, p90, p99: {html}");
        assert!(!html.contains("p99.9"), "nobody has it: {html}");
    }
}
