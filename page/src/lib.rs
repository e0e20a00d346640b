//! The report as one HTML file: verdict, suspects and tables as plain HTML, charts by a script, nothing from the network.
//!
//! [`html`] takes the report's JSON (`ipiscope.report/1`) and shows what is there; a field that a report does not have is not shown.
//! What comes from a trace or a plan is hostile: in HTML it is escaped, for the script it is data, and the script puts it in as text.

// No input makes the host panic. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

mod facts;
mod table;
mod tables;
mod text;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use table::{Table, at, list, number};

/// The most bytes of a page of a machine of up to 512 cores: browsers open it at once, mail takes it.
pub const MOST_BYTES: usize = 10_000_000;

/// Left of [`MOST_BYTES`] for what is not counted before it is written.
const SPARE: usize = 300_000;

/// The most bytes of any table but the pairs'.
const TABLE_BYTES: usize = 250_000;

/// The most bytes of all latencies over time, and of all queues.
const SERIES_BYTES: usize = 1_200_000;

/// The most trails of a page.
const MOST_TRAILS: usize = 16;

/// The most events of a trail, and the most arrows.
const MOST_EVENTS: usize = 500;

/// The events around an IPI.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trail {
    /// What it shows, in a line.
    pub title: String,
    /// The cores, in the order of their lines.
    pub cores: Vec<u16>,
    /// What happened, in any order.
    pub events: Vec<TrailEvent>,
    /// What went from core to core.
    pub arrows: Vec<Arrow>,
}

/// One event on one core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrailEvent {
    /// When, ns; from whatever begin all of a trail have.
    pub t_ns: f64,
    /// Where.
    pub core: u16,
    /// What: `send`, `acknowledge` …
    pub what: String,
    /// What else is known of it.
    #[serde(default)]
    pub detail: Option<String>,
}

/// An IPI on its way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arrow {
    /// When it was sent, ns.
    pub from_t: f64,
    /// By whom.
    pub from_core: u16,
    /// When it was taken, ns.
    pub to_t: f64,
    /// By whom.
    pub to_core: u16,
    /// Its latency, ns; `None`: it has none.
    #[serde(default)]
    pub latency: Option<f64>,
}

impl Trail {
    /// When it begins, ns.
    fn begin(&self) -> Option<f64> {
        let events = self.events.iter().map(|event| event.t_ns);
        events.chain(self.arrows.iter().map(|arrow| arrow.from_t)).reduce(f64::min)
    }
}

/// The page of a report: one file that needs no other.
///
/// Of the trails, the first 16 are shown, and the first 500 events and arrows of each: the page says where there were more.
pub fn html(report: &Value, trails: &[Trail]) -> String {
    let mut left_out = Vec::new();
    let trails = shortened(trails, &mut left_out);
    let made = tables::Made::of(report, &trails);
    let mut all = tables::tables(report, &made);

    let mut parts = serde_json::Map::new();
    parts.insert("tick".into(), json!(facts::tick(report)));
    parts.insert("scope".into(), at(report, "verdict_scope").cloned().unwrap_or_default());
    parts.insert("suspects".into(), suspects(report));
    parts.insert("clusters".into(), clusters(report));
    parts.insert("distributions".into(), distributions(report));
    parts.insert("pair_cdfs".into(), cdfs(report, "pairs", &["from", "to", "phase", "kind", "state", "delivery"]));
    parts.insert("core_cdfs".into(), cdfs(report, "core_figures", &["core", "role", "kind", "state"]));
    parts.insert("trails".into(), json!(trails));
    for name in ["series", "queue_depth"] {
        let (value, note) = over_time(report, name);
        parts.insert(name.into(), value);
        left_out.extend(note);
    }
    // The pairs get what the rest leaves.
    let mut data: Vec<String> = Vec::new();
    let parts = Value::Object(parts).to_string();
    let mut used = parts.len();
    for table in all.iter_mut().filter(|table| table.id != "pairs") {
        let (value, notes) = table.data(TABLE_BYTES);
        used += value.len();
        data.push(format!("\"{}\":{value}", table.id));
        left_out.extend(notes);
    }
    let (mut top, mut rest) = (String::new(), String::new());
    facts::top(report, &mut top);
    facts::facts(report, &mut rest);
    let tick = facts::tick(report);
    let fixed = |tables: &[Table<'_>]| {
        let mut html = String::new();
        tables.iter().for_each(|table| table.html(tick, &mut html));
        html
    };
    used += top.len() + rest.len() + fixed(&all).len() + TEMPLATE.len() + STYLE.len() + SCRIPT.len();
    for table in all.iter_mut().filter(|table| table.id == "pairs") {
        let (value, notes) = table.data(MOST_BYTES.saturating_sub(used + SPARE));
        data.push(format!("\"{}\":{value}", table.id));
        left_out.extend(notes);
    }
    let title = text::escaped(&facts::title(report));
    let mut notes = String::new();
    for note in left_out {
        notes.push_str("<p class=\"left-out\">");
        text::escape(&note, &mut notes);
        notes.push_str("</p>");
    }
    let tables = fixed(&all);
    let data = embedded(&format!("{{\"report\":{parts},\"tables\":{{{}}}}}", data.join(",")));
    fill(&[
        ("title", &title),
        ("style", STYLE),
        ("top", &top),
        ("left-out", &notes),
        ("tables", &tables),
        ("facts", &rest),
        ("data", &data),
        ("script", SCRIPT),
    ])
}

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The template with its places filled, in their order: what was put in is never looked at again.
fn fill(places: &[(&str, &str)]) -> String {
    let mut html = String::with_capacity(TEMPLATE.len() + places.iter().map(|(_, text)| text.len()).sum::<usize>());
    let mut rest = TEMPLATE;
    for (name, text) in places {
        if let Some((before, after)) = rest.split_once(&format!("{{{{{name}}}}}")) {
            html.push_str(before);
            html.push_str(text);
            rest = after;
        }
    }
    html.push_str(rest);
    html
}

/// JSON that no HTML parser takes for its own, whatever the strings in it are: the characters that could end the element are written
/// as escapes (HTML, "Restrictions on the contents of script elements").
fn embedded(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + text.len() / 64);
    for c in text.chars() {
        match c {
            '<' => safe.push_str("\\u003c"),
            '>' => safe.push_str("\\u003e"),
            '&' => safe.push_str("\\u0026"),
            '\u{2028}' => safe.push_str("\\u2028"),
            '\u{2029}' => safe.push_str("\\u2029"),
            c => safe.push(c),
        }
    }
    safe
}

/// The trails, none longer than a picture can show.
fn shortened(trails: &[Trail], left_out: &mut Vec<String>) -> Vec<Trail> {
    let mut shown: Vec<Trail> = trails.iter().take(MOST_TRAILS).cloned().collect();
    for trail in &mut shown {
        if trail.events.len() > MOST_EVENTS || trail.arrows.len() > MOST_EVENTS {
            let (events, arrows) = (trail.events.len(), trail.arrows.len());
            left_out.push(format!("{}: at most {MOST_EVENTS} of {events} events and {arrows} IPIs", trail.title));
            trail.events.truncate(MOST_EVENTS);
            trail.arrows.truncate(MOST_EVENTS);
        }
    }
    if shown.len() < trails.len() {
        left_out.push(format!("The first {MOST_TRAILS} of {} trails are here", trails.len()));
    }
    shown
}

/// Whom the charts show first.
fn suspects(report: &Value) -> Value {
    let some = list(report, "suspects").iter().map(|suspect| {
        json!({ "core": suspect.get("core"), "from": suspect.get("from"), "to": suspect.get("to"), "role": suspect.get("role") })
    });
    some.collect()
}

/// The cluster of each core.
fn clusters(report: &Value) -> Value {
    let cluster = |core: &Value| Some((at(core, "id")?.to_string(), at(core, "cluster")?.clone()));
    Value::Object(list(report, "target/cores").iter().filter_map(cluster).collect())
}

/// Names and points of the distributions.
fn distributions(report: &Value) -> Value {
    let one = |one: &Value| {
        json!({
            "kind": one.get("kind"), "state": one.get("state"), "distance": one.get("distance"), "n": one.get("n"),
            "cdf": one.get("cdf"),
        })
    };
    list(report, "distributions").iter().map(one).collect()
}

/// Points of the rows that have them, by what the rows are of: its values with `|` between them.
fn cdfs(report: &Value, name: &str, key: &[&str]) -> Value {
    let word = |row: &Value, key: &&str| match row.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "null".to_owned(),
    };
    let one = |row: &Value| {
        let words: Vec<String> = key.iter().map(|key| word(row, key)).collect();
        Some((words.join("|"), row.get("cdf")?.clone()))
    };
    Value::Object(list(report, name).iter().filter_map(one).collect())
}

/// What stands in the report for each core over time: of the cores with the greatest values where all would be too much.
fn over_time(report: &Value, name: &str) -> (Value, Option<String>) {
    let thousandths = |value: Option<f64>| value.map(|value| (value * 1e3).round() / 1e3);
    let mut lines: Vec<(f64, Value)> = Vec::new();
    for line in list(report, name) {
        if name == "queue_depth" {
            let most = number(line, "max").unwrap_or(0.0);
            lines.push((most, json!({ "core": line["core"], "kind": line["kind"], "series": line["series"] })));
            continue;
        }
        let points = list(line, "points");
        let of = |key: &str| -> Value { points.iter().map(|point| json!(thousandths(number(point, key)))).collect() };
        let most = points.iter().filter_map(|point| number(point, "max_ns")).fold(0.0, f64::max);
        let line = json!({
            "core": line["core"], "start": line["start_ns"], "piece": line["piece_ns"],
            "n": of("n"), "mean": of("mean_ns"), "min": of("min_ns"), "max": of("max_ns"),
        });
        lines.push((most, line));
    }
    let all = lines.len();
    let mut order: Vec<usize> = (0..all).collect();
    let most = |index: &usize| lines.get(*index).map_or(0.0, |(most, _)| *most);
    order.sort_by(|a, b| most(b).total_cmp(&most(a)));
    let mut room = SERIES_BYTES;
    let mut kept: Vec<usize> = order
        .into_iter()
        .take_while(|index| {
            let size = lines.get(*index).map_or(0, |(_, line)| line.to_string().len());
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        })
        .collect();
    kept.sort_unstable();
    let note = (kept.len() < all).then(|| {
        let what = if name == "series" { "Latencies over time" } else { "Queues over time" };
        format!("{what}: those of the {} cores with the greatest values, of {all}; the JSON report has all", kept.len())
    });
    let kept = kept.into_iter().filter_map(|index| lines.get(index)).map(|(_, line)| line.clone());
    (kept.collect(), note)
}
