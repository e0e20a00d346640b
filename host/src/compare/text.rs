//! A comparison as text: what was compared, what changed, the worst first; the verdict last, in one line.
//!
//! It fits its terminal as a report does; but for the verdict, which stays one line for scripts, however long its evidence is.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::CellAlignment;

use super::{Change, Comparison, Finding, Input};
use crate::capture::VerdictScope;
use crate::detect::duration;
use crate::report::Options;
use crate::terminal;

/// Changes that are listed.
const LISTED: usize = 12;

/// Of those that are not judged.
const ADVISED: usize = 6;

/// A chance for people.
pub(super) fn chance(p: f64) -> String {
    match p {
        p if p >= 0.001 => format!("{p:.3}"),
        p if p >= 1e-9 => format!("{p:.0e}"),
        _ => "<1e-9".into(),
    }
}

fn input(input: &Input) -> String {
    let mut text = format!("{}: {}, plan {}, {}", input.file, input.machine, input.plan, input.created);
    for (key, value) in &input.tags {
        let _ = write!(text, ", {key}={value}");
    }
    if !input.faults.is_empty() {
        let _ = write!(text, ", injected {}", input.faults.join(", "));
    }
    let _ = write!(text, "; its own verdict: {}", input.verdict.name());
    text
}

impl Comparison {
    /// The comparison for a terminal.
    pub fn text(&self, options: &Options) -> String {
        let mut text = String::new();
        let item =
            |text: &mut String, label: &str, said: &str| text.push_str(&terminal::wrapped(label, 10, said, options));
        for side in &self.a {
            item(&mut text, "A", &input(side));
        }
        item(&mut text, "B", &input(&self.b));
        let whose = match self.verdict_scope {
            VerdictScope::Silicon => "the machine's own",
            VerdictScope::Virtualized => "a hypervisor's: of latencies only a receiver's at its best are judged",
            VerdictScope::Emulated => "an emulator's: of latencies only a receiver's at its best are judged",
            VerdictScope::Instructions => "counted instructions: 1 ns is one",
            VerdictScope::LinuxTrace => "another kernel's: of latencies only a receiver's at its best are judged",
        };
        item(&mut text, "Time", whose);
        let floors = &self.floors;
        let told = format!(
            "{:.0} ticks ({}), {:.0} % of A, {:.0} times the spread among like pairs; false alarms {:.0} %",
            floors.ticks,
            duration(floors.ns, self.tick_ns),
            floors.share * 100.0,
            floors.spreads,
            floors.false_share * 100.0
        );
        item(&mut text, "Floors", &told);
        let few = if self.too_few > 0 { format!("; {} have too few latencies", self.too_few) } else { String::new() };
        item(&mut text, "Compared", &format!("{} pairs{few}", self.compared));
        self.table(&mut text, "What changed", &self.changes, LISTED, options);
        self.table(&mut text, "Worth a look (not judged)", &self.advisories, ADVISED, options);
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            text += &terminal::wrapped("note: ", 6, note, options);
        }
        let (color, words) = self.verdict_line();
        let style = if options.color { Style::new().fg_color(Some(color.into())).bold() } else { Style::new() };
        let _ = writeln!(text, "\nVerdict: {style}{}{style:#}: {words}", self.verdict.name());
        text
    }

    fn verdict_line(&self) -> (AnsiColor, String) {
        match (self.verdict, self.changes.first()) {
            (Finding::Differs, Some(first)) => {
                let more = self.changes.len() - 1;
                let more = if more > 0 { format!("; and {more} more") } else { String::new() };
                (AnsiColor::Red, format!("{}: {}{more}", first.name, first.evidence))
            }
            (Finding::NotComparable, _) => (
                AnsiColor::Yellow,
                format!(
                    "{} of {} pairs have too few latencies on one side",
                    self.too_few,
                    self.too_few + self.compared
                ),
            ),
            _ => {
                let sent: u64 = self.pairs.iter().map(|pair| pair.sent.iter().sum::<u64>()).sum();
                let looks = match self.advisories.len() {
                    0 => String::new(),
                    1 => "; one change is worth a look".into(),
                    more => format!("; {more} changes are worth a look"),
                };
                (AnsiColor::Green, format!("{} pairs, {sent} IPIs on both sides{looks}", self.compared))
            }
        }
    }

    fn table(&self, text: &mut String, title: &str, changes: &[Change], most: usize, options: &Options) {
        if changes.is_empty() {
            return;
        }
        let bold = if options.color { Style::new().bold() } else { Style::new() };
        let _ = writeln!(text, "\n{bold}{title}{bold:#}");
        let mut table = terminal::table(options);
        table.set_header(["whose", "figure", "A", "B", "change", "delta", "q", "where"]);
        for change in changes.iter().take(most) {
            let value = |value: f64| match change.unit {
                "ns" => duration(value, self.tick_ns),
                "share" => format!("{:.3} %", value * 100.0),
                _ => {
                    if value > 0.0 {
                        "up".into()
                    } else {
                        "not up".into()
                    }
                }
            };
            let grown = change.b - change.a;
            let by = match change.unit {
                "ns" => {
                    let sign = if grown < 0.0 { '-' } else { '+' };
                    format!(
                        "{sign}{} ({:+.0} %)",
                        duration(grown.abs(), self.tick_ns),
                        grown / change.a.max(self.tick_ns) * 100.0
                    )
                }
                "share" => format!("{:+.3} %", grown * 100.0),
                _ => String::new(),
            };
            table.add_row([
                change.name.clone(),
                change.figure.clone(),
                value(change.a),
                value(change.b),
                by,
                change.cliffs_delta.map_or("-".into(), |delta| format!("{delta:+.2}")),
                change.q_value.map_or("-".into(), chance),
                change.phases.join(", "),
            ]);
        }
        for column in 2..7 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        text.push_str(&terminal::fitted(table, &[5, 6], options));
        if changes.len() > most {
            let _ = writeln!(text, "and {} more (see --json)", changes.len() - most);
        }
    }
}
