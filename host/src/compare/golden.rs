//! Golden captures become limits: for each kind, state and distance what was measured, and a margin.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::CompareError;
use super::side::Side;
use crate::capture::VerdictScope;
use crate::correlate::Slot;
use crate::detect::{Verdict, duration};
use crate::stats::distribution::Distribution;

/// Percentiles that limits are made of, and how many latencies a figure must be of to carry one, with a tenth to spare: a run
/// that leaves some out still carries it.
const PERCENTILES: [(&str, f64, u64); 3] = [("p50", 0.5, 22), ("p90", 0.9, 110), ("p99", 0.99, 1100)];

/// What is alike: kind, state, distance, and the phase where phases with several IPIs under way are all there is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    kind: String,
    state: &'static str,
    distance: u8,
}

/// The worst of a figure, and where it was.
struct Worst {
    ticks: u64,
    place: String,
}

/// What the golden captures show of a group when its figures are taken over pairs, receivers or all.
struct Table {
    /// The least number of latencies of any figure.
    least: u64,
    worst: BTreeMap<&'static str, Worst>,
}

/// The text of a limits file.
pub(super) fn limits(goldens: &[Side], margin: f64, force: bool) -> Result<String, CompareError> {
    if let Some(side) = goldens.iter().find(|side| !force && side.verdict != Verdict::Clean) {
        return Err(CompareError::NotGolden { file: side.path.clone(), verdict: side.verdict.name() });
    }
    let Some(first) = goldens.first() else { return Err(CompareError::Nothing { file: "".into() }) };
    let scope = first.info.verdict_scope;
    let mut text = header(goldens, first, margin);
    let groups: BTreeSet<Group> = goldens.iter().flat_map(|side| groups(side, scope).into_keys()).collect();
    let timed = first.info.plan.phases.iter().any(|phase| phase.timed);
    let mut rules = 0;
    for group in groups {
        rules += rule(&mut text, goldens, &group, margin, timed);
    }
    if rules == 0 {
        return Err(CompareError::Nothing { file: first.path.clone() });
    }
    text += "\n# Nothing may get lost, whatever was sent.\n[[limit]]\nname = \"outcomes\"\nper = \"all\"\nlost = 0\nmisrouted = 0\n";
    let up = goldens.iter().map(|side| side.up().count()).min().unwrap_or(0);
    let _ = write!(text, "\n[[limit]]\nname = \"cores\"\ncores_up = {up}\n");
    Ok(text)
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

fn header(goldens: &[Side], first: &Side, margin: f64) -> String {
    let info = &first.info;
    let mut text = String::from("# Made by `ipiscope compare --make-limits` from\n");
    for side in goldens {
        // A comment ends with its line, whatever a file is called.
        let file = side.path.display().to_string().replace(char::is_control, "?");
        let tags: String = side.info.tags.iter().map(|(key, value)| format!(", {key}={value}")).collect();
        let _ = writeln!(
            text,
            "#   {file} ({}, {}{})",
            side.info.created,
            side.verdict.name(),
            tags.replace(char::is_control, "?")
        );
    }
    let _ = writeln!(text, "# Each limit is the worst that any of them showed, and {:.0} % more.", margin * 100.0);
    let machine = [&info.board, &info.machine].into_iter().find(|name| !name.is_empty());
    let name = format!("{}, plan {}", machine.map_or("a target", String::as_str), info.plan.name);
    let _ = writeln!(text, "name = {}\n\n[target]", quoted(&name));
    for (key, value) in [("machine", &info.machine), ("board", &info.board), ("plan", &info.plan.name)] {
        if !value.is_empty() {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        }
    }
    let _ = writeln!(text, "cores = {}\nscope = {}", info.plan.cores, quoted(info.verdict_scope.name()));
    let midrs: BTreeSet<u32> = first.up().map(|(_, core)| core.midr).collect();
    // Of several types of core each is named, and then all must be up to be named.
    let list: Vec<String> = match midrs.len() {
        1 => midrs.iter().map(|midr| format!("{midr:#010x}")).collect(),
        _ if first.up().count() == usize::from(info.plan.cores) => {
            first.up().map(|(_, core)| format!("{:#010x}", core.midr)).collect()
        }
        _ => Vec::new(),
    };
    if !list.is_empty() {
        let _ = writeln!(text, "midr = [{}]", list.join(", "));
    }
    text
}

fn group(side: &Side, slot: &Slot) -> Group {
    Group { kind: slot.kind_name(), state: slot.state.name(), distance: side.distance(slot.from, slot.to) }
}

fn groups(side: &Side, scope: VerdictScope) -> BTreeMap<Group, Vec<&Slot>> {
    // Rules look at phases with one IPI under way at a time, where the plan has such.
    let timed = side.info.plan.phases.iter().any(|phase| phase.timed);
    let is_timed = |slot: &&Slot| side.info.plan.phases.get(usize::from(slot.phase)).is_some_and(|phase| phase.timed);
    let mut all: BTreeMap<Group, Vec<&Slot>> = BTreeMap::new();
    for slot in side.timed(scope).filter(|slot| !timed || is_timed(slot)) {
        all.entry(group(side, slot)).or_default().push(slot);
    }
    all
}

/// The figures of a group, taken over pairs, receivers or all.
fn table(goldens: &[Side], wanted: &Group, per: &str) -> Table {
    let mut table = Table { least: u64::MAX, worst: BTreeMap::new() };
    for side in goldens {
        let mut figures: BTreeMap<(u16, Option<u16>, Option<u16>), Distribution> = BTreeMap::new();
        for slot in groups(side, side.info.verdict_scope).remove(wanted).unwrap_or_default() {
            let key = match per {
                "pair" => (slot.phase, Some(slot.from), Some(slot.to)),
                "receiver" => (slot.phase, None, Some(slot.to)),
                _ => (slot.phase, None, None),
            };
            let latencies = slot.free.as_ref().map_or(&slot.figures, |free| &free.figures);
            figures.entry(key).or_default().merge(&Distribution::of(latencies));
        }
        for ((_, from, to), all) in figures {
            table.least = table.least.min(all.len());
            let place = match (from, to) {
                (Some(from), Some(to)) => format!("pair {from} to {to}"),
                (None, Some(to)) => format!("receiver {to}"),
                _ => "all".into(),
            };
            let place = format!("{place} in {}", side.path.display().to_string().replace(char::is_control, "?"));
            let mut see = |name: &'static str, ticks: Option<u64>| {
                let Some(ticks) = ticks else { return };
                let worst = table.worst.entry(name).or_insert_with(|| Worst { ticks, place: place.clone() });
                if ticks > worst.ticks {
                    *worst = Worst { ticks, place: place.clone() };
                }
            };
            for (name, share, _) in PERCENTILES {
                see(name, all.quantile(share).map(|(_, high)| high));
            }
            see("max", all.max());
        }
    }
    if table.worst.is_empty() {
        table.least = 0;
    }
    table
}

/// Writes the rules of a group: one over pairs, and another for what only many pairs together carry. Gives how many.
fn rule(text: &mut String, goldens: &[Side], group: &Group, margin: f64, timed: bool) -> usize {
    let hz = goldens.first().map_or(1, |side| side.hz).max(1);
    let tick_ns = 1e9 / hz as f64;
    let Group { kind, state, distance } = group;
    let name = format!("{kind} {state} distance {distance}");
    let mut told: BTreeSet<&str> = BTreeSet::new();
    let mut rules = 0;
    for per in ["pair", "receiver", "all"] {
        let table = table(goldens, group, per);
        let mut lines: Vec<String> = Vec::new();
        let mut needed = 0;
        let mut line = |key: &'static str, worst: &Worst| {
            let measured = worst.ticks as f64 * tick_ns;
            // At least two ticks of room: a figure that is no longer than that has no margin of its own.
            let limit =
                rounded((measured * (1.0 + margin)).max(measured + 2.0 * tick_ns * f64::from(u8::from(margin > 0.0))));
            lines.push(format!("{key} = \"{limit}\" # {}, {}", duration(measured, tick_ns), worst.place));
        };
        for (key, _, least) in PERCENTILES {
            if let Some(worst) = table.worst.get(key).filter(|_| table.least >= least && !told.contains(key)) {
                line(key, worst);
                told.insert(key);
                needed = least * 10 / 11;
            }
        }
        if per == "pair"
            && let Some(worst) = table.worst.get("max")
        {
            line("max", worst);
            lines.push("lost = 0".into());
            needed = needed.max(1);
        }
        if lines.is_empty() {
            continue;
        }
        let title = if per == "pair" { name.clone() } else { format!("{name}, per {per}") };
        let _ = write!(
            text,
            "\n[[limit]]\nname = {}\nkind = \"{kind}\"\nstate = \"{state}\"\ndistance = {distance}\n",
            quoted(&title)
        );
        if !timed {
            // The plan has no phase with one IPI under way at a time.
            *text += "timed = false\n";
        }
        if per != "pair" {
            let _ = writeln!(text, "per = \"{per}\"");
        }
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "min_samples = {needed}");
        rules += 1;
    }
    rules
}

/// A limit for the file: at least four digits, rounded up, none below a hundredth of a nanosecond.
fn rounded(ns: f64) -> String {
    let (scale, unit) = match ns {
        ns if ns >= 1e7 => (1e6, "ms"),
        ns if ns >= 1e4 => (1e3, "us"),
        _ => (1.0, "ns"),
    };
    let value = ns / scale;
    let places = (3 - value.max(1e-2).log10().floor() as i32).clamp(0, 2);
    let step = 10_f64.powi(-places);
    // The last bit of the division must not make it a step more.
    let value = (value / step - 1e-6).ceil() * step;
    format!("{value:.*}{unit}", places as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_rounded_up_and_never_down() {
        for (ns, text) in [
            (160.0, "160.0ns"),
            (1234.56, "1235ns"),
            (12_341.0, "12.35us"),
            (0.5, "0.50ns"),
            (41.6667, "41.67ns"),
            (15_077_001.0, "15.08ms"),
            (2e9, "2000ms"),
        ] {
            assert_eq!(rounded(ns), text, "{ns}");
            assert!(crate::limits::length(text).unwrap() >= ns - 1e-6, "{ns}");
        }
    }
}
