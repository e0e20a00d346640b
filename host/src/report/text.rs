//! The report as text: what ran, how long IPIs took, what became of them, who is to blame; the verdict last.
//!
//! No line is wider than the terminal (40 columns at least), and no prose than 100 columns. A table that is too wide leaves out the
//! columns that are needed least, and says which.
//!
//! Medians of pairs are a matrix of cores where it fits, up to [`MATRIX`] cores and not for a few pairs of many cores. Beyond, rows and
//! columns are clusters, the slowest first; with more clusters than fit, a list of the slow ones. Below both stand the receivers,
//! senders and pairs that are slow for their phase; a pair is named where neither its sender nor its receiver explains it. Suspects that
//! are alike are one entry. Above [`MANY`] cores lists are half as long: what they leave out is counted. No figure shows more than a
//! tick justifies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, Table, Width};

use super::{CallbackReport, CrashStop, Latency, Options, Pair, Report, Skews, Stage, SweepReport, mean_digits};
use crate::capture::{Ended, VerdictScope};
use crate::detect::{Role, Suspect, Verdict, duration};
use crate::limits::{Outcome, show};
use crate::plan::CoreList;
use crate::terminal;

/// Pairs, cores or clusters that a list of the slowest ones names.
const WORST: usize = 8;

/// Rows of a matrix of cores, and of one of clusters.
const MATRIX: usize = 32;
const CLUSTERS: usize = 16;

/// Up to so many cores a matrix is shown although most of its cells are empty.
const FEW: usize = 9;

/// So many cores that one detector has in one part are told together, with what is known of the worst of them.
const ALIKE: usize = 4;

/// Letters of such a list of cores.
const LONGEST: usize = 24;

/// A machine of more cores than that gets shorter lists.
const MANY: u16 = 64;

/// So many times the median of all is slow.
const SLOW: f64 = 1.5;

/// Lanes, faults and suspects of one kind that are listed.
const LISTED: usize = 10;

/// Advisories that are listed: on a busy host there are many, and none counts.
const ADVISED: usize = 3;

impl Report {
    /// The report for a terminal.
    pub fn text(&self, options: &Options) -> String {
        let mut page = Page { report: self, options, markdown: false, text: String::new() };
        page.header();
        page.phases();
        page.states();
        page.slowest_receivers();
        page.paths();
        page.call_sites();
        page.timing();
        page.kinds();
        page.matrices();
        page.sweeps();
        page.stages();
        page.outcomes();
        page.stolen();
        page.calls();
        page.limits();
        page.suspects("Suspects", &self.suspects, AnsiColor::Red, LISTED);
        page.suspects("Worth a look (not judged)", &self.advisories, AnsiColor::Yellow, ADVISED);
        page.faults();
        page.crash_stops();
        page.losses();
        page.notes();
        page.verdict();
        page.text
    }
}

impl Report {
    /// The report in Markdown, for a ticket: the verdict first, and what it rests on.
    pub fn markdown(&self) -> String {
        let options = Options { color: false, width: u16::MAX, unicode: true };
        let mut page = Page { report: self, options: &options, markdown: true, text: String::new() };
        page.verdict();
        page.suspects("Suspects", &self.suspects, AnsiColor::Red, LISTED);
        page.suspects("Worth a look (not judged)", &self.advisories, AnsiColor::Yellow, ADVISED);
        page.heading("Run");
        page.header();
        page.limits();
        page.phases();
        page.states();
        page.slowest_receivers();
        page.paths();
        page.timing();
        page.kinds();
        page.outcomes();
        page.stolen();
        page.calls();
        page.faults();
        page.crash_stops();
        page.losses();
        page.notes();
        page.text.trim_start().to_owned()
    }
}

/// A text that Markdown takes as it is.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => plain.push_str("&lt;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '~' => plain.extend(['\\', letter]),
            letter if letter.is_control() => plain.push(' '),
            letter => plain.push(letter),
        }
    }
    plain
}

struct Page<'a> {
    report: &'a Report,
    options: &'a Options,
    markdown: bool,
    text: String,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn paint(&self, text: &str, color: AnsiColor, bold: bool) -> String {
        if !self.options.color {
            return text.into();
        }
        let style = Style::new().fg_color(Some(color.into()));
        let style = if bold { style.bold() } else { style };
        format!("{style}{text}{style:#}")
    }

    fn heading(&mut self, text: &str) {
        if self.markdown {
            return self.line(&format!("\n### {}\n", plain(text)));
        }
        self.text.push('\n');
        let start = self.text.len();
        self.item("", 0, text);
        if self.options.color {
            let bold = Style::new().bold();
            let plain = self.text.split_off(start);
            let _ = writeln!(self.text, "{bold}{}{bold:#}", plain.trim_end());
        }
    }

    /// `label` and text, wrapped under itself.
    fn item(&mut self, label: &str, indent: usize, text: &str) {
        if self.markdown {
            let deeper = if label.is_empty() && indent == 4 { "  " } else { "" };
            let label = label.trim().trim_end_matches(':');
            let label = if label.is_empty() { String::new() } else { format!("**{}** ", plain(label)) };
            return self.line(&format!("{deeper}- {label}{}", plain(text)));
        }
        self.text += &terminal::wrapped(label, indent, text, self.options);
    }

    fn table(&self) -> Table {
        terminal::table(self.options)
    }

    /// A table; the columns that are left out first where it is too wide.
    fn put(&mut self, table: Table, least_needed: &[usize]) {
        if self.markdown {
            return self.put_markdown(&table);
        }
        self.text += &terminal::fitted(table, least_needed, self.options);
    }

    fn put_markdown(&mut self, table: &Table) {
        let cells = |row: &comfy_table::Row| -> Vec<String> {
            row.cell_iter().map(|cell| plain(&cell.content().replace('\n', " "))).collect()
        };
        let Some(header) = table.header() else { return };
        let header = cells(header);
        self.line(&format!("| {} |", header.join(" | ")));
        self.line(&format!("|{}", "---|".repeat(header.len())));
        for row in table.row_iter() {
            self.line(&format!("| {} |", cells(row).join(" | ")));
        }
        // A line right behind would be a row.
        self.text.push('\n');
    }

    fn header(&mut self) {
        let report = self.report;
        let target = &report.target;
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        for core in target.cores.iter().filter(|core| core.up) {
            *classes.entry(core.class.as_str()).or_default() += 1;
        }
        let kinds: Vec<String> = classes.iter().map(|(class, count)| format!("{count} x {class}")).collect();
        let name = if target.machine.is_empty() { "board not named" } else { &target.machine };
        let mut text = match &report.linux {
            Some(_) => format!("{name}, {} CPUs", target.core_count),
            None => format!("{name}, {} of {} cores up", target.cores_up, target.core_count),
        };
        if !kinds.is_empty() {
            let _ = write!(text, " ({})", kinds.join(", "));
        }
        if let Some(gic) = &target.gic {
            let _ = write!(text, ", GICv{}", gic.version);
        }
        if let (Some(entry), Some(run)) = (target.entry_el, target.run_el) {
            let _ = write!(text, ", entered at EL{entry}, runs at EL{run}");
        }
        match target.psci_conduit {
            Some("none") => text += ", no PSCI",
            Some(conduit) => {
                let _ = write!(text, ", PSCI by {}", conduit.to_uppercase());
            }
            None => {}
        }
        self.item("Target", 8, &text);
        if let Some(hypervisor) = &target.hypervisor {
            self.item("", 8, &format!("under a hypervisor (UID {hypervisor})"));
        }
        for (key, value) in &target.tags {
            self.item("", 8, &format!("{key} = {value}"));
        }
        let text = self.clock();
        self.item("Clock", 8, &text);
        let whose = match report.verdict_scope {
            VerdictScope::Silicon => "the machine's own",
            VerdictScope::Virtualized => {
                "a hypervisor's: it shares the machine out, so latencies are advice, not a verdict"
            }
            VerdictScope::Emulated => {
                "an emulator's: its delays are the host's, so latencies compare runs and say nothing of silicon"
            }
            VerdictScope::Instructions => "counted instructions: 1 ns is one instruction, the same in every run",
            VerdictScope::LinuxTrace => {
                "a Linux kernel's, as it stamped its events: tracing itself takes about a microsecond an event"
            }
        };
        self.item("Time", 8, whose);
        if let Some(filter) = &report.filter {
            let rest = match filter.judged {
                "all" => "; verdict and suspects are those of all, since it asks for results",
                _ => "",
            };
            let (picked, of) = (grouped(filter.picked), grouped(filter.of));
            self.item("Filter", 8, &format!("{}: {picked} of {of} IPIs{rest}", filter.expression));
        }
        if let Some(linux) = &report.linux {
            let text = format!(
                "{} ({}), {} events{}",
                linux.file,
                linux.format,
                grouped(report.trace.records),
                match report.trace.lost_records {
                    0 => String::new(),
                    lost => format!(", {} lost", grouped(lost)),
                }
            );
            return self.item("Trace", 8, &text);
        }
        let mut text = format!("{}, trace level {}", report.plan.name, report.trace.level);
        for injected in &report.injected {
            let struck = injected.struck.map_or(String::new(), |count| format!(" (struck {} times)", grouped(count)));
            let _ = write!(text, ", injected {}{struck}", injected.fault);
        }
        if let (Some("non-cacheable"), Some(there), Some(elsewhere)) =
            (report.trace.rings, report.trace.record_ns, report.trace.record_cacheable_ns)
        {
            let _ = write!(
                text,
                ", rings non-cacheable (a record takes {} to write there, {} in cacheable memory)",
                self.record_cost(there),
                self.record_cost(elsewhere)
            );
        }
        self.item("Plan", 8, &text);
    }

    /// What is known of the counters.
    fn clock(&self) -> String {
        let (target, clock) = (&self.report.target, &self.report.clock);
        if let Some(linux) = &self.report.linux {
            return match linux.resolution_ns {
                0 => "counts events or jiffies, no time: there are no latencies".into(),
                step => format!("the trace's, in steps of {step} ns; nobody compared the CPUs"),
            };
        }
        let (Some(hz), Some(step)) = (target.counter_hz, target.resolution_ns) else {
            return "unknown: the capture holds no snapshot of the target".into();
        };
        let mut text = format!("{} MHz", trimmed(hz as f64 / 1e6, 3));
        let rates: BTreeSet<u32> = clock.cores.iter().map(|core| core.cntfrq).collect();
        if let (Some(least), Some(most)) = (rates.first(), rates.last())
            && least != most
        {
            let [least, most] = [least, most].map(|hz| trimmed(f64::from(*hz) / 1e6, 3));
            let _ = write!(text, " (cores DISAGREE: CNTFRQ_EL0 says {least} to {most} MHz)");
        }
        match (clock.measured_hz, clock.measured_hz_uncertainty, clock.host_unchecked) {
            (Some(hz), Some(error), _) => {
                let digits = mean_digits(error.max(1.0) / 1e6).clamp(0, 6) as usize;
                let _ = write!(text, ", by the host's clock {:.digits$} +- {:.digits$} MHz", hz / 1e6, error / 1e6);
            }
            (_, _, Some(why)) => {
                let _ = write!(text, " (not held against the host's clock: {why})");
            }
            _ => {}
        }
        let _ = write!(text, "; {} ns a step", trimmed(step, 1));
        if let Some(cost) = clock.read_cost_ticks {
            let _ = write!(text, ", a read takes {}", self.ticks(cost.into()));
        }
        if let Some(most) = clock.read_cost_max_ticks.filter(|most| Some(*most) > clock.read_cost_ticks) {
            let _ = write!(text, " (at most {})", self.ticks(most.into()));
        }
        let stamps = clock.step_backs + clock.backwards_ipis;
        match clock.monotonic {
            Some(false) => text += ", WENT BACK",
            _ if stamps > 0 => {
                let _ = write!(text, ", {} time stamps WENT BACK", grouped(stamps));
            }
            Some(true) => text += ", never went back",
            None => {}
        }
        let skew = |skews: Skews, when: &str| match skews {
            Skews { proven_ticks: 0, possible_ticks } => format!("at most {} {when}", self.ticks(possible_ticks)),
            Skews { proven_ticks, possible_ticks } => {
                format!("{} to {} {when}", self.ticks(proven_ticks), self.ticks(possible_ticks))
            }
        };
        let before = clock.skew_before.map(|skews| skew(skews, "before the plan"));
        let after = clock.skew_after.map(|skews| skew(skews, "after it"));
        let skews: Vec<String> = before.into_iter().chain(after).collect();
        if !skews.is_empty() {
            let _ = write!(text, "; cores apart by {}", skews.join(", "));
        } else if !clock.tested {
            text += "; captured WITHOUT clock test: nobody compared the cores";
        }
        let mut busy: Vec<f64> = clock.cores.iter().filter_map(|core| core.cycles_per_tick_busy).collect();
        if let Some(cycles) = crate::stats::median(&mut busy) {
            let runs = |goes: bool| clock.cores.iter().any(|core| core.cycles_run_in_wfi == Some(goes));
            let waiting = match (runs(true), runs(false)) {
                (true, false) => ", goes on in WFI",
                (false, true) => ", stops in WFI",
                (true, true) => ", stops in WFI on some cores",
                (false, false) => "",
            };
            let _ = write!(text, "; cycle counter: {} a tick{waiting}", trimmed(cycles, 1));
        } else if !clock.cores.is_empty() {
            text += "; no cycle counter";
        }
        text
    }

    /// What a record took to write: the mean of many, so finer than a tick.
    fn record_cost(&self, nanoseconds: f64) -> String {
        duration(nanoseconds, self.report.tick_ns / f64::from(trace_ring::layout::COST_RECORDS))
    }

    /// Ticks as a length of time.
    fn ticks(&self, count: u64) -> String {
        let tick = self.report.tick_ns;
        if count == 0 { "less than a tick".into() } else { duration(count as f64 * tick, tick) }
    }

    /// A length of time, or a dash; what is below a tick says so.
    fn length(&self, nanoseconds: Option<f64>) -> String {
        match nanoseconds {
            Some(length) if self.report.target.counter_hz.unwrap_or(0) > 0 => whole_ticks(length, self.report.tick_ns),
            _ => "-".into(),
        }
    }

    /// The CPUs of a Linux trace as receivers, those first that keep others waiting longest on average.
    fn slowest_receivers(&mut self) {
        const SHOWN: usize = 8;
        if self.report.linux.is_none() {
            return;
        }
        let receivers = self.report.core_figures.iter().filter(|core| core.role == "receiver");
        let mut receivers: Vec<_> = receivers.filter_map(|core| Some((core.latency.mean_ns?, core))).collect();
        if receivers.len() < 2 {
            return;
        }
        receivers.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.heading("Receivers, by the mean of their latencies");
        let mut table = self.table();
        table.set_header(["core", "kind", "state", "IPIs", "mean", "p50", "p90", "p99", "max"]);
        for (mean, core) in receivers.iter().take(SHOWN) {
            let Latency { n, p50_ns, p90_ns, p99_ns, max_ns, .. } = core.latency;
            let mut row = vec![core.core.to_string(), core.kind.clone(), core.state.into(), grouped(n)];
            row.extend([Some(*mean), p50_ns, p90_ns, p99_ns, max_ns].map(|length| self.length(length)));
            table.add_row(row);
        }
        self.put_numbers(table, 3, &[2, 6, 5]);
        if receivers.len() > SHOWN {
            self.item("  ", 2, &format!("{} more: see --json", receivers.len() - SHOWN));
        }
    }

    /// How far a plan's times were kept.
    fn timing(&mut self) {
        let Some(timing) = &self.report.timing else { return };
        self.heading("Timing: sends against the times that the plan has for them");
        let order = if timing.in_order { "in order on every core" } else { "not all in the order of the plan" };
        let (reproduced, planned) = (grouped(timing.reproduced), grouped(timing.planned));
        let mut text = format!("{reproduced} of {planned} sends, {order}");
        if let Some(max) = timing.late_max_ns {
            let p50 = self.length(timing.late_p50_ns);
            let _ = write!(text, "; behind their time by {p50} (median), ");
            if timing.late_p99_ns.is_some() {
                let _ = write!(text, "{} (p99), ", self.length(timing.late_p99_ns));
            }
            let _ = write!(text, "at most {}", self.length(Some(max)));
            if let Some(core) = timing.latest_core {
                let _ = write!(text, " (core {core})");
            }
        }
        self.item("", 2, &text);
    }

    /// Which IPIs of a Linux trace came latest, by ends, reason and callback.
    fn paths(&mut self) {
        const SHOWN: usize = 8;
        let Some(linux) = self.report.linux.as_ref().filter(|linux| !linux.paths.is_empty()) else { return };
        self.heading("Slowest by sender, receiver and what was asked for");
        let mut table = self.table();
        table.set_header(["from", "to", "IPIs", "p50", "p99", "max", "for", "callback"]);
        for path in linux.paths.iter().take(SHOWN) {
            let Latency { n, p50_ns, p99_ns, max_ns, .. } = path.latency;
            let mut row = vec![path.from.to_string(), path.to.to_string(), grouped(n)];
            row.extend([p50_ns, p99_ns, max_ns].map(|length| self.length(length)));
            row.extend([path.reason.clone(), path.callback.clone().unwrap_or_else(|| "-".into())]);
            table.add_row(row);
        }
        for column in 0..6 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.put(table, &[3, 4]);
        if linux.paths.len() > SHOWN {
            self.item("  ", 2, &format!("{} more: see --json", linux.paths.len() - SHOWN));
        }
    }

    /// Who sends most in a Linux trace.
    fn call_sites(&mut self) {
        const SHOWN: usize = 8;
        let Some(linux) = self.report.linux.as_ref().filter(|linux| !linux.call_sites.is_empty()) else { return };
        self.heading("Who sends most");
        let mut table = self.table();
        table.set_header(["core", "IPIs", "for", "from"]);
        for site in linux.call_sites.iter().take(SHOWN) {
            let from = site.call_site.as_deref().unwrap_or("-");
            table.add_row([site.from.to_string(), grouped(site.sent), site.reason.clone(), from.into()]);
        }
        for column in [0, 1] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.put(table, &[]);
        if linux.call_sites.len() > SHOWN {
            self.item("  ", 2, &format!("{} more: see --json", linux.call_sites.len() - SHOWN));
        }
    }

    fn phases(&mut self) {
        let report = self.report;
        if report.phases.is_empty() {
            return;
        }
        self.heading(match report.linux {
            Some(_) => "Latency, from ipi_raise to ipi_entry",
            None => "Latency, from the send to the first instruction of the receiver's vector",
        });
        let mut table = self.table();
        table.set_header(["phase", "state", "IPIs", "IPIs/s", "min", "p50", "p90", "p99", "max"]);
        for phase in &report.phases {
            let Latency { min_ns, p50_ns, p90_ns, p99_ns, max_ns, .. } = phase.latency;
            let mut row = vec![phase.name.clone(), phase.state.clone(), grouped(phase.counts.sent)];
            row.push(phase.ipis_per_second.map_or("-".into(), |rate| grouped(three_digits(rate))));
            row.extend([min_ns, p50_ns, p90_ns, p99_ns, max_ns].map(|length| self.length(length)));
            table.add_row(row);
        }
        self.put_numbers(table, 2, &[3, 6, 4, 1]);
        // Of dithered sends, a mean says more than a tick.
        let finer = |latency: &Latency| latency.mean_ci_ns.is_some_and(|interval| interval < report.tick_ns);
        let known = report.target.counter_hz.unwrap_or(0) > 0;
        let means: Vec<String> = report
            .phases
            .iter()
            .filter(|phase| known && finer(&phase.latency))
            .take(LISTED)
            .filter_map(|phase| {
                Some(format!("{} {}", phase.name, mean(phase.latency.mean_ns?, phase.latency.mean_ci_ns?)))
            })
            .collect();
        if !means.is_empty() {
            self.item("", 2, &format!("means: {}", means.join(", ")));
        }
    }

    /// Latencies by the receiver's state, where there is more than one.
    fn states(&mut self) {
        let report = self.report;
        let rows: Vec<_> = report.distributions.iter().filter(|row| row.distance.is_none()).collect();
        if rows.iter().map(|row| row.state).collect::<BTreeSet<_>>().len() < 2 {
            return;
        }
        self.heading("Latency by receiver state");
        let mut table = self.table();
        table.set_header(["kind", "state", "n", "min", "p50", "p99", "p99.9", "max"]);
        for row in rows {
            let Latency { n, min_ns, p50_ns, p99_ns, p999_ns, max_ns, .. } = row.latency;
            let mut cells = vec![row.kind.clone(), row.state.into(), grouped(n)];
            cells.extend([min_ns, p50_ns, p99_ns, p999_ns, max_ns].map(|length| self.length(length)));
            table.add_row(cells);
        }
        self.put_numbers(table, 2, &[6, 3, 5]);
    }

    fn sweeps(&mut self) {
        let report = self.report;
        if report.sweeps.is_empty() {
            return;
        }
        self.heading("Sends timed against a transition of their receiver");
        let mut table = self.table();
        table.set_header(["from", "to", "transition", "steps", "IPIs", "given up", "min", "max", "worst at"]);
        let least = |sweep: &SweepReport| sweep.steps.iter().filter_map(|step| step.min_ns).reduce(f64::min);
        let most = |sweep: &SweepReport| sweep.steps.iter().filter_map(|step| step.max_ns).reduce(f64::max);
        let given_up = |sweep: &SweepReport| sweep.steps.iter().map(|step| step.given_up).sum::<u64>();
        // Lost ones first, then the latest.
        let mut sweeps: Vec<_> = report.sweeps.iter().collect();
        sweeps.sort_by(|a, b| {
            let longest = |sweep| most(sweep).unwrap_or(0.0);
            given_up(b).cmp(&given_up(a)).then(longest(b).total_cmp(&longest(a)))
        });
        for sweep in sweeps.iter().take(LISTED) {
            let sent = sweep.steps.iter().map(|step| step.sent).sum();
            let worst = sweep.worst_offset_ns.map_or("-".into(), |offset| match self.length(Some(offset.abs())) {
                _ if offset == 0.0 => "0".into(),
                length if offset < 0.0 => format!("-{length}"),
                length => format!("+{length}"),
            });
            table.add_row([
                sweep.from.to_string(),
                sweep.to.to_string(),
                sweep.transition.replace('_', " "),
                grouped(sweep.steps.len() as u64),
                grouped(sent),
                grouped(given_up(sweep)),
                self.length(least(sweep)),
                self.length(most(sweep)),
                worst,
            ]);
        }
        self.put_numbers(table, 3, &[3, 4, 6]);
        if sweeps.len() > LISTED {
            self.item("  ", 2, &format!("and {} more (see --json)", sweeps.len() - LISTED));
        }
    }

    /// Time that was taken from cores, and whether anybody watched for it.
    fn stolen(&mut self) {
        /// Cores that are named, those that lost most.
        const NAMED: usize = 4;
        let report = self.report;
        let stolen = &report.stolen;
        let live = matches!(report.verdict_scope, VerdictScope::Emulated | VerdictScope::Virtualized);
        let gaps: u64 = stolen.cores.iter().map(|core| core.gaps).sum();
        let excused = stolen.ipis_stolen + stolen.ipis_doubtful;
        let heartbeats: u64 = stolen.cores.iter().map(|core| core.heartbeats).sum();
        let watched = heartbeats > 0 || stolen.gap_ns.is_some_and(|gap| gap > 0);
        if gaps == 0 && excused == 0 && (watched || !live) {
            return;
        }
        self.heading("Stolen time");
        if !watched {
            self.item("", 2, "nobody watched: time that the host took from cores can't be told from late IPIs");
        }
        if gaps > 0 {
            let total: f64 = stolen.cores.iter().map(|core| core.total_ns).sum();
            let longest = stolen.cores.iter().map(|core| core.longest_ns).fold(0.0, f64::max);
            let mut text = format!(
                "cores were away {} times, {} together, {} at most",
                grouped(gaps),
                self.length(Some(total)),
                self.length(Some(longest))
            );
            if let Some(gap) = stolen.gap_ns.filter(|gap| *gap > 0) {
                let _ = write!(text, "; what is shorter than {} us was not seen", trimmed(gap as f64 / 1e3, 3));
            }
            self.item("", 2, &text);
            let mut cores: Vec<_> = stolen.cores.iter().filter(|core| core.gaps > 0).collect();
            cores.sort_by(|a, b| b.total_ns.total_cmp(&a.total_ns).then(a.core.cmp(&b.core)));
            let named: Vec<String> = cores
                .iter()
                .take(NAMED)
                .map(|core| {
                    let total = self.length(Some(core.total_ns));
                    format!("core {}: {} times, {total}", core.core, grouped(core.gaps))
                })
                .collect();
            let more = cores.len().saturating_sub(NAMED);
            let more = if more > 0 { format!("; and {more} more cores") } else { String::new() };
            self.item("", 2, &format!("most: {}{more}", named.join("; ")));
        }
        if excused > 0 {
            let text = format!(
                "{} IPIs were late because of that for the greater part, {} in part: not judged",
                grouped(stolen.ipis_stolen),
                grouped(stolen.ipis_doubtful)
            );
            self.item("", 2, &text);
        }
        let unrecorded: u64 = stolen.cores.iter().map(|core| core.unrecorded).sum();
        if unrecorded > 0 {
            let text = format!("{} gaps have no record: IPIs that they made late are judged", grouped(unrecorded));
            self.item("", 2, &text);
        }
    }

    /// A table whose columns from `first` on hold numbers.
    fn put_numbers(&mut self, mut table: Table, first: usize, least_needed: &[usize]) {
        for column in table.column_iter_mut().skip(first) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self.put(table, least_needed);
    }

    fn kinds(&mut self) {
        let report = self.report;
        if report.kinds.is_empty() {
            return;
        }
        self.heading("IPI kinds");
        let mut table = self.table();
        table.set_header(["kind", "came as", "sent", "delivered", "p50", "p99", "max"]);
        for kind in &report.kinds {
            let Latency { p50_ns, p99_ns, max_ns, .. } = kind.latency;
            let way = kind.delivery.unwrap_or("-").replace('_', "-");
            let mut row = vec![kind.kind.into(), way, grouped(kind.counts.sent), grouped(kind.counts.delivered)];
            row.extend([p50_ns, p99_ns, max_ns].map(|length| self.length(length)));
            table.add_row(row);
        }
        self.put_numbers(table, 2, &[5, 3, 1]);
    }

    fn stages(&mut self) {
        let report = self.report;
        if report.stages.iter().any(|stage| stage.kind != "sgi") {
            return self.stages_of_calls();
        }
        /// At most this many stages are told one by one, the longest.
        const MOST: usize = 16;
        if report.stages.is_empty() {
            return;
        }
        self.heading("Stages of an interrupt on its core");
        let mut table = self.table();
        table.set_header(["stage", "core", "n", "p50", "p99", "max"]);
        let mut stages: Vec<_> = report.stages.iter().collect();
        stages.sort_by(|a, b| b.latency.max_ns.unwrap_or(0.0).total_cmp(&a.latency.max_ns.unwrap_or(0.0)));
        let more = stages.len().saturating_sub(MOST);
        for stage in stages.into_iter().take(MOST) {
            let mut row = vec![stage.stage.clone(), stage.core.to_string(), grouped(stage.latency.n)];
            let Latency { p50_ns, p99_ns, max_ns, .. } = stage.latency;
            row.extend([p50_ns, p99_ns, max_ns].map(|length| self.length(length)));
            table.add_row(row);
        }
        self.put_numbers(table, 1, &[4, 2]);
        if more > 0 {
            self.item("  ", 2, &format!("and {more} shorter ones (see --json)"));
        }
    }

    /// Where the time of calls goes: each stage on the core where its median is longest.
    fn stages_of_calls(&mut self) {
        let mut worst: Vec<&Stage> = Vec::new();
        let mut others: BTreeSet<&str> = BTreeSet::new();
        for stage in &self.report.stages {
            if !["call_function", "irq_work"].contains(&stage.kind.as_str()) {
                others.insert(&stage.kind);
                continue;
            }
            match worst.iter_mut().find(|other| other.stage == stage.stage && other.kind == stage.kind) {
                Some(other) if other.median_ns >= stage.median_ns => {}
                Some(other) => *other = stage,
                None => worst.push(stage),
            }
        }
        if !worst.is_empty() {
            // The kinds one after another; the stages of each stand in the order of a call's life.
            worst.sort_by(|a, b| a.kind.cmp(&b.kind).then(a.order.cmp(&b.order)));
            self.heading("Stages of calls, each on the core where its median is longest");
            let mut table = self.table();
            table.set_header(["kind", "stage", "core", "n", "p50", "p99", "max"]);
            for stage in worst {
                let mut row = vec![stage.kind.clone(), stage.stage.clone()];
                row.extend([stage.core.to_string(), grouped(stage.latency.n)]);
                let Latency { p50_ns, p99_ns, max_ns, .. } = stage.latency;
                row.extend([p50_ns, p99_ns, max_ns].map(|length| self.length(length)));
                table.add_row(row);
            }
            self.put_numbers(table, 2, &[5, 3, 2]);
        }
        if !others.is_empty() {
            let names: Vec<&str> = others.into_iter().collect();
            self.item("", 2, &format!("stages of {}: see --json", names.join(", ")));
        }
    }

    fn calls(&mut self) {
        let Some(calls) = &self.report.calls else { return };
        let counts = &calls.counts;
        self.heading("Calls");
        let mut parts = vec![format!("{} executed", grouped(counts.executed))];
        for (count, name) in
            [(counts.not_executed, "not executed"), (counts.in_flight, "in flight"), (counts.unknown, "unknown")]
        {
            if count > 0 {
                parts.push(format!("{} {name}", grouped(count)));
            }
        }
        self.item("", 2, &format!("{} queued = {}", grouped(counts.queued), parts.join(" + ")));
        // Of a Linux trace, neither is known.
        let mut parts = match self.report.linux {
            Some(_) => Vec::new(),
            None => vec![
                format!("{} were waited for", grouped(counts.synchronous)),
                format!("{} needed no SGI of their own", grouped(counts.sends_saved)),
            ],
        };
        for (count, name) in [(counts.twice, "executed twice"), (counts.orphaned, "executed that nobody queued")] {
            if count > 0 {
                parts.push(format!("{} {name}", grouped(count)));
            }
        }
        if !parts.is_empty() {
            self.item("", 2, &parts.join(", "));
        }
        self.queues();
        self.callbacks();
    }

    /// The limits: a line for each bound, and why those that don't pass don't.
    fn limits(&mut self) {
        /// Beyond so many lines, those that passed are counted only.
        const MOST: usize = 48;
        let Some(limits) = &self.report.limits else { return };
        let name = limits.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        self.heading(&format!("Limits: {}{name}", limits.file));
        if !limits.mismatch.is_empty() {
            for mismatch in &limits.mismatch {
                self.item("", 2, &format!("not held against this run: {mismatch}"));
            }
            return;
        }
        let tick = self.report.target.counter_hz.filter(|hz| *hz > 0).map(|_| self.report.tick_ns);
        let lines: usize = limits.rules.iter().map(|rule| rule.bounds.len()).sum();
        let told = |outcome: Outcome| lines <= MOST || outcome != Outcome::Passed;
        let mut table = self.table();
        table.set_header(["rule", "bound", "limit", "worst", "where", "outcome"]);
        let mut rows = 0;
        for rule in &limits.rules {
            let mut name = rule.name.as_str();
            for bound in rule.bounds.iter().filter(|bound| told(bound.outcome)).take(MOST.saturating_sub(rows)) {
                let worst = bound.worst.map_or_else(|| "-".into(), |worst| show(worst, bound.unit, tick));
                let place = bound.subject.as_ref().map_or_else(String::new, ToString::to_string);
                let outcome = Cell::new(bound.outcome.name());
                let outcome = match bound.outcome {
                    _ if !self.options.color => outcome,
                    Outcome::Passed => outcome.fg(Color::Green),
                    Outcome::Inconclusive => outcome.fg(Color::Yellow),
                    Outcome::Failed => outcome.fg(Color::Red),
                };
                let mut row = [name, bound.bound].map(Cell::new).to_vec();
                row.extend(
                    [show(bound.limit, bound.unit, None), worst]
                        .map(|text| Cell::new(text).set_alignment(CellAlignment::Right)),
                );
                row.extend([Cell::new(place), outcome]);
                table.add_row(row);
                name = "";
                rows += 1;
            }
        }
        if rows > 0 {
            self.put(table, &[]);
        }
        for rule in &limits.rules {
            for bound in rule.bounds.iter().filter(|bound| bound.outcome != Outcome::Passed).take(LISTED) {
                let mut text = format!("{}, {}: ", rule.name, bound.bound);
                if bound.figures > 1 {
                    let _ = write!(text, "{} of {} figures broken", bound.broken, bound.figures);
                    if bound.undecided > 0 {
                        let _ = write!(text, ", {} not to be told", bound.undecided);
                    }
                    text += if bound.message.is_some() { "; the worst: " } else { "" };
                }
                match &bound.message {
                    Some(message) => self.item("", 2, &format!("{text}{message}")),
                    None if bound.figures > 1 => self.item("", 2, &text),
                    None => {}
                }
            }
        }
        let bounds = || limits.rules.iter().flat_map(|rule| &rule.bounds);
        if bounds().any(|bound| bound.finer_than_clock) {
            let step = self.report.target.resolution_ns.unwrap_or(0.0);
            self.item(
                "",
                2,
                &format!("a limit below a step of the clock ({} ns) tells no shorter time from it", trimmed(step, 1)),
            );
        }
        let left_out = bounds().map(|bound| bound.left_out).max().unwrap_or(0);
        if left_out > 0 {
            self.item("", 2, &format!("{} latencies were left out: something else explains them", grouped(left_out)));
        }
        for note in &limits.notes {
            self.item("", 2, note);
        }
        let text = format!(
            "{} of {} rules passed, {} failed, {} inconclusive",
            limits.passed,
            limits.rules.len(),
            limits.failed,
            limits.inconclusive
        );
        self.item("", 2, &text);
    }

    /// The fullest queues.
    fn queues(&mut self) {
        const NAMED: usize = 4;
        let mut depths: Vec<_> = self.report.queue_depth.iter().filter(|depth| depth.kind == "call_function").collect();
        depths.sort_by(|a, b| b.max.cmp(&a.max).then(b.mean.total_cmp(&a.mean)));
        let named: Vec<String> = depths
            .iter()
            .take(NAMED)
            .map(|depth| format!("{} on core {} (mean {:.2})", depth.max, depth.core, depth.mean))
            .collect();
        if !named.is_empty() {
            self.item("", 2, &format!("most calls on a queue: {}", named.join(", ")));
        }
    }

    fn callbacks(&mut self) {
        let report = self.report;
        let mut functions: BTreeMap<&str, Vec<&CallbackReport>> = BTreeMap::new();
        for callback in &report.callbacks {
            functions.entry(&callback.function).or_default().push(callback);
        }
        if functions.is_empty() {
            return;
        }
        self.text.push('\n');
        let mut table = self.table();
        table.set_header(["callback", "n", "median", "slowest core", "its median", "its max"]);
        let total = functions.len();
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by_key(|(_, cores)| std::cmp::Reverse(cores.iter().map(|core| core.latency.n).sum::<u64>()));
        for (address, cores) in functions.into_iter().take(LISTED) {
            let mut medians: Vec<f64> = cores.iter().map(|core| core.median_ns).collect();
            let usual = crate::stats::median(&mut medians);
            let Some(worst) = cores.iter().max_by(|a, b| a.median_ns.total_cmp(&b.median_ns)) else { continue };
            let name: String = worst.symbol.as_deref().unwrap_or(address).chars().take(28).collect();
            table.add_row([
                name,
                grouped(cores.iter().map(|core| core.latency.n).sum()),
                self.length(usual),
                worst.core.to_string(),
                self.length(Some(worst.median_ns)),
                self.length(worst.latency.max_ns),
            ]);
        }
        self.put_numbers(table, 1, &[5, 1]);
        if total > LISTED {
            self.item("", 2, &format!("and {} more functions (see --json)", total - LISTED));
        }
    }

    fn crash_stops(&mut self) {
        if self.report.crash_stops.is_empty() {
            return;
        }
        self.heading("Crash stops");
        // Cores that stood at the same place stand together.
        let mut places: Vec<(&CrashStop, Vec<u16>)> = Vec::new();
        for stop in &self.report.crash_stops {
            match places.iter_mut().find(|(first, _)| first.pc == stop.pc) {
                Some((_, cores)) => cores.push(stop.core),
                None => places.push((stop, vec![stop.core])),
            }
        }
        let most = self.listed(LISTED);
        let more: usize = places.iter().skip(most).map(|(_, cores)| cores.len()).sum();
        for (stop, cores) in places.into_iter().take(most) {
            let place = stop.symbol.as_ref().map_or(String::new(), |symbol| format!(" in {symbol}"));
            let text = match cores.len() {
                1 => format!("core {} was at PC {}{place}, SP {}", stop.core, stop.pc, stop.sp),
                _ => format!("cores {} were at PC {}{place}", CoreList(cores), stop.pc),
            };
            self.item("", 2, &text);
        }
        if more > 0 {
            self.item("  ", 2, &format!("and {more} cores more (see --json)"));
        }
    }

    fn matrices(&mut self) {
        let mut indices: Vec<u16> =
            self.report.pairs.iter().filter(|pair| pair.timed).map(|pair| pair.phase_index).collect();
        indices.dedup();
        for index in indices {
            let pairs: Vec<&Pair> = self
                .report
                .pairs
                .iter()
                .filter(|pair| pair.phase_index == index && pair.from != pair.to && pair.median_ns.is_some())
                .collect();
            // One pair is told by the table above.
            if pairs.len() > 1 {
                self.matrix(&pairs);
            }
        }
    }

    fn matrix(&mut self, pairs: &[&Pair]) {
        let Some(first) = pairs.first() else { return };
        let cores: BTreeSet<u16> = pairs.iter().flat_map(|pair| [pair.from, pair.to]).collect();
        let title =
            format!("Median by sender (row) and receiver (column): {}, receiver in {}", first.phase, first.state);
        let dense = cores.len() <= FEW || pairs.len() * 4 >= cores.len() * cores.len();
        if cores.len() <= MATRIX && dense {
            let table = self.cells(pairs, |pair| (usize::from(pair.from), usize::from(pair.to)), "core");
            if terminal::width(&table) <= terminal::room(self.options) {
                self.heading(&title);
                return self.put(table, &[]);
            }
        }
        let clusters: BTreeMap<u16, usize> =
            self.report.target.cores.iter().map(|core| (core.id, core.cluster)).collect();
        let cluster = |core: u16| clusters.get(&core).copied().unwrap_or(0);
        let count = cores.iter().map(|core| cluster(*core)).collect::<BTreeSet<_>>().len();
        if count > 1 {
            let table = self.cells(pairs, |pair| (cluster(pair.from), cluster(pair.to)), "cluster");
            if count <= CLUSTERS && terminal::width(&table) <= terminal::room(self.options) {
                self.heading(&format!("{title}, by cluster, the slowest first"));
                self.put(table, &[]);
            } else {
                self.heading(&format!(
                    "Median by cluster, the slowest first: {}, receiver in {}",
                    first.phase, first.state
                ));
                self.clusters(pairs, cluster);
            }
        } else {
            self.heading(&format!("Median by pair: {}, receiver in {}", first.phase, first.state));
        }
        self.slow(pairs);
    }

    /// The slowest of many clusters.
    fn clusters(&mut self, pairs: &[&Pair], cluster: impl Fn(u16) -> usize) {
        #[derive(Default)]
        struct Cluster<'a> {
            cores: BTreeSet<u16>,
            to: Vec<f64>,
            from: Vec<f64>,
            slowest: Option<&'a Pair>,
        }
        let mut clusters: BTreeMap<usize, Cluster<'_>> = BTreeMap::new();
        for pair in pairs {
            let median = pair.median_ns.unwrap_or(0.0);
            let mut tell = |core: u16, receives: bool| {
                let place = clusters.entry(cluster(core)).or_default();
                place.cores.insert(core);
                if receives {
                    place.to.push(median)
                } else {
                    place.from.push(median)
                }
                if place.slowest.and_then(|slowest| slowest.median_ns).is_none_or(|slowest| slowest < median) {
                    place.slowest = Some(*pair);
                }
            };
            tell(pair.to, true);
            tell(pair.from, false);
        }
        let mut rows: Vec<_> = clusters
            .into_iter()
            .map(|(id, mut place)| {
                let [to, from] = [&mut place.to, &mut place.from].map(|medians| crate::stats::median(medians));
                (id, place, to, from)
            })
            .collect();
        let worst = |to: Option<f64>, from: Option<f64>| to.unwrap_or(0.0).max(from.unwrap_or(0.0));
        rows.sort_by(|a, b| worst(b.2, b.3).total_cmp(&worst(a.2, a.3)));
        // The slowest one, and whichever is slow besides.
        let mut medians: Vec<f64> = pairs.iter().filter_map(|pair| pair.median_ns).collect();
        let slow = crate::stats::median(&mut medians).unwrap_or(0.0) * SLOW;
        let slow = rows.iter().take_while(|(.., to, from)| worst(*to, *from) > slow).count();
        let most = slow.clamp(1, self.listed(WORST));
        let mut table = self.table();
        table.set_header(["cluster", "cores", "to it", "from it", "slowest pair", "its median"]);
        for (id, place, to, from) in rows.iter().take(most) {
            let slowest = place.slowest.map_or("-".into(), |pair| format!("{} to {}", pair.from, pair.to));
            let cores = CoreList(place.cores.iter().copied().collect());
            let mut row = vec![id.to_string(), cores.to_string()];
            row.extend([self.length(*to), self.length(*from), slowest]);
            row.push(self.length(place.slowest.and_then(|pair| pair.median_ns)));
            table.add_row(row);
        }
        self.put_numbers(table, 2, &[1]);
        if let Some((.., to, from)) = rows.get(most) {
            let length = self.length(Some(worst(*to, *from)));
            self.item("", 2, &format!("and {} more clusters, {length} at most", rows.len() - most));
        }
    }

    /// A matrix of medians; a cell of several pairs is the median of theirs.
    /// Those of clusters stand the slowest first.
    fn cells(&self, pairs: &[&Pair], place: impl Fn(&Pair) -> (usize, usize), what: &str) -> Table {
        let mut cells: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
        for pair in pairs {
            if let Some(median) = pair.median_ns {
                cells.entry(place(pair)).or_default().push(median);
            }
        }
        let cells: BTreeMap<(usize, usize), f64> = cells
            .into_iter()
            .filter_map(|(place, mut medians)| Some((place, crate::stats::median(&mut medians)?)))
            .collect();
        let mut all: Vec<f64> = cells.values().copied().collect();
        let usual = crate::stats::median(&mut all).unwrap_or(0.0);
        // One unit for the whole matrix, so that cells can be compared by eye.
        let most = all.last().copied().unwrap_or(0.0);
        let (scale, unit) = match most {
            most if most >= 1e7 => (1e6, "ms"),
            most if most >= 1e4 => (1e3, "us"),
            _ => (1.0, "ns"),
        };
        let tick = self.report.tick_ns / scale;
        let digits = (-tick.log10().floor()).clamp(0.0, if scale == 1.0 { 2.0 } else { 1.0 }) as usize;
        let mut rows: Vec<usize> = cells.keys().map(|(row, _)| *row).collect::<BTreeSet<_>>().into_iter().collect();
        let mut columns: Vec<usize> =
            cells.keys().map(|(_, column)| *column).collect::<BTreeSet<_>>().into_iter().collect();
        if what == "cluster" {
            // In ticks: what looks the same stays in its order.
            let most = |wanted: &dyn Fn((usize, usize)) -> bool| {
                let medians = cells.iter().filter(|(place, _)| wanted(**place)).map(|(_, median)| *median);
                std::cmp::Reverse((medians.fold(0.0, f64::max) / self.report.tick_ns).round() as u64)
            };
            rows.sort_by_cached_key(|row| most(&|place| place.0 == *row));
            columns.sort_by_cached_key(|column| most(&|place| place.1 == *column));
        }
        let mut table = self.table();
        let corner = format!("{what}, {unit}");
        let header: Vec<Cell> = std::iter::once(Cell::new(corner))
            .chain(columns.iter().map(|column| Cell::new(column).set_alignment(CellAlignment::Right)))
            .collect();
        table.set_header(header);
        for row in rows {
            let mut line = vec![Cell::new(row)];
            for column in &columns {
                let cell = match cells.get(&(row, *column)).copied() {
                    Some(0.0) => Cell::new(format!("<{}", below(tick, digits))),
                    Some(median) => {
                        let cell = Cell::new(format!("{:.digits$}", median / scale));
                        if self.options.color { cell.fg(heat(median, usual)) } else { cell }
                    }
                    None => Cell::new("."),
                };
                line.push(cell.set_alignment(CellAlignment::Right));
            }
            table.add_row(line);
        }
        if let Some(column) = table.column_mut(0) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(6)));
        }
        table
    }

    /// The receivers, senders and pairs of a phase that are slow among the others.
    fn slow(&mut self, pairs: &[&Pair]) {
        /// Pairs that a core must have before it is told as one: of fewer, the pairs are told.
        const CARRY: usize = 3;
        let mut medians: Vec<f64> = pairs.iter().filter_map(|pair| pair.median_ns).collect();
        let Some(usual) = crate::stats::median(&mut medians) else { return };
        let [least, middle, most] =
            [medians.first().copied(), Some(usual), medians.last().copied()].map(|median| self.length(median));
        let slow = usual * SLOW;
        let none = if medians.last().is_some_and(|most| *most > slow) { "" } else { " none" };
        let pairs_in_all = grouped(pairs.len() as u64);
        let text =
            format!("{pairs_in_all} pairs: {least} to {most}, the middle one {middle}; above {SLOW} times that:{none}");
        self.item("", 2, &text);
        // The medians of cores whose pairs are slow for the greater part.
        let cores = |end: &dyn Fn(&Pair) -> u16| {
            let mut cores: BTreeMap<u16, Vec<f64>> = BTreeMap::new();
            for pair in pairs {
                cores.entry(end(pair)).or_default().extend(pair.median_ns);
            }
            let medians = cores.into_iter().filter(|(_, medians)| medians.len() >= CARRY);
            let medians = medians.filter_map(|(core, mut medians)| Some((core, crate::stats::median(&mut medians)?)));
            medians.filter(|(_, median)| *median > slow).collect::<BTreeMap<u16, f64>>()
        };
        let (receivers, senders) = (cores(&|pair| pair.to), cores(&|pair| pair.from));
        self.slow_cores("receivers:", &receivers);
        self.slow_cores("senders:", &senders);
        let explained = |pair: &Pair| {
            let core = |cores: &BTreeMap<u16, f64>, core: u16| cores.get(&core).copied().unwrap_or(0.0);
            core(&receivers, pair.to).max(core(&senders, pair.from)).max(usual)
        };
        let alone = |pair: &&Pair| pair.median_ns.is_some_and(|median| median > explained(pair) * SLOW);
        let mut alone: Vec<&Pair> = pairs.iter().copied().filter(alone).collect();
        alone.sort_by(|a, b| b.median_ns.unwrap_or(0.0).total_cmp(&a.median_ns.unwrap_or(0.0)));
        let named = alone
            .iter()
            .take(self.listed(WORST))
            .map(|pair| format!("{} to {}: {}", pair.from, pair.to, self.length(pair.median_ns)));
        self.slow_ones("pairs:", named.collect(), alone.len());
    }

    /// Slow cores, the slowest first; those that take as long stand together.
    fn slow_cores(&mut self, label: &str, cores: &BTreeMap<u16, f64>) {
        let mut ordered: Vec<(u16, f64)> = cores.iter().map(|(core, median)| (*core, *median)).collect();
        ordered.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut groups: Vec<(String, Vec<u16>)> = Vec::new();
        for (core, median) in ordered {
            let length = self.length(Some(median));
            let full = groups.len() == WORST;
            match groups.last_mut() {
                Some((last, cores)) if *last == length => cores.push(core),
                _ if full => break,
                _ => groups.push((length, vec![core])),
            }
        }
        let mut named = Vec::new();
        let mut listed = 0;
        for (length, mut group) in groups {
            group.sort_unstable();
            listed += group.len();
            named.push(format!("{}: {length}", CoreList(group)));
        }
        let hidden = cores.len() - listed;
        let told = named.len();
        self.slow_ones(label, named, told + hidden);
    }

    fn slow_ones(&mut self, label: &str, named: Vec<String>, all: usize) {
        if named.is_empty() {
            return;
        }
        let more = all - named.len();
        let more = if more > 0 { format!("; {} more", grouped(more as u64)) } else { String::new() };
        self.item(&format!("    {label}"), 15, &format!("{}{more}", named.join("; ")));
    }

    /// How many of a list's entries are shown.
    fn listed(&self, most: usize) -> usize {
        if self.report.target.core_count > MANY && !self.markdown { most.div_ceil(2) } else { most }
    }

    fn outcomes(&mut self) {
        let ipis = &self.report.ipis;
        let counts = &ipis.counts;
        self.heading("Outcomes");
        let mut parts = vec![format!("{} delivered", grouped(counts.delivered))];
        for (count, name, always) in [
            (counts.coalesced, "coalesced", true),
            (counts.lost, "lost", true),
            (counts.misrouted, "misrouted", false),
            (counts.in_flight, "in flight", false),
            (counts.unknown, "unknown", false),
        ] {
            if always || count > 0 {
                parts.push(format!("{} {name}", grouped(count)));
            }
        }
        self.item("", 2, &format!("{} sent = {}", grouped(counts.sent), parts.join(" + ")));
        let mut parts = Vec::new();
        for (count, name) in
            [(ipis.late, "late"), (ipis.duplicate, "received twice"), (ipis.spurious, "received without a message")]
        {
            if count > 0 {
                parts.push(format!("{} {name}", grouped(count)));
            }
        }
        if !parts.is_empty() {
            self.item("", 2, &format!("besides: {}", parts.join(", ")));
        }
        let by_records = ipis.from == crate::correlate::From::Records && self.report.filter.is_none();
        if by_records && self.report.linux.is_none() {
            self.item("", 2, "counted from the records, because the target's own counters are not there");
        }
        if let Some(count) = self.report.instructions_per_ipi {
            self.item("", 2, &format!("{count:.1} instructions an IPI, sender and receiver together"));
        }
    }

    fn suspects(&mut self, title: &str, suspects: &[Suspect], color: AnsiColor, most: usize) {
        if suspects.is_empty() {
            return;
        }
        self.heading(title);
        let alike = alike(suspects);
        let most = self.listed(most);
        for group in alike.iter().take(most) {
            let Some((subject, worst)) = subject(group).zip(worst(group)) else { continue };
            if self.markdown {
                self.line(&format!("- **{}**: {}", plain(&subject), plain(worst.detector)));
            } else {
                let start = self.text.len();
                self.item("  ", 2, &format!("{subject}: {}", worst.detector));
                let told = self.text.split_off(start).replacen(&subject, &self.paint(&subject, color, true), 1);
                self.text += &told;
            }
            let others = if group.len() > 1 { "; the others: see --json" } else { "" };
            self.item("", 4, &format!("{}{others}", worst.evidence));
        }
        if alike.len() > most {
            let mut detectors: BTreeMap<&str, usize> = BTreeMap::new();
            for suspect in alike.iter().skip(most).flatten() {
                *detectors.entry(suspect.detector).or_default() += 1;
            }
            let counts: Vec<String> = detectors.iter().map(|(name, count)| format!("{count} x {name}")).collect();
            let text = format!("and {} more (see --json): {}", detectors.values().sum::<usize>(), counts.join(", "));
            self.item("  ", 2, &text);
        }
    }

    fn faults(&mut self) {
        if self.report.faults.is_empty() {
            return;
        }
        self.heading("Faults on the target");
        let most = self.listed(LISTED);
        for fault in self.report.faults.iter().take(most) {
            let place = fault.symbol.as_ref().map_or(String::new(), |symbol| format!(" in {symbol}"));
            self.item("", 2, &format!("core {}: {}{place}", fault.core, fault.kind));
            self.item(
                "",
                4,
                &format!("ESR_EL1 {} ELR_EL1 {} FAR_EL1 {} SP {}", fault.esr, fault.elr, fault.far, fault.sp),
            );
            if !fault.message.is_empty() {
                self.item("", 4, &fault.message);
            }
        }
        let more: Vec<u16> = self.report.faults.iter().skip(most).map(|fault| fault.core).collect();
        if !more.is_empty() {
            self.item("  ", 2, &format!("and {} more (see --json): cores {}", more.len(), CoreList(more)));
        }
    }

    fn losses(&mut self) {
        let mut lossy: Vec<_> = self.report.lanes.iter().filter(|lane| lane.lost() > 0).collect();
        if lossy.is_empty() {
            return;
        }
        lossy.sort_by_key(|lane| std::cmp::Reverse(lane.lost()));
        let most = self.listed(LISTED);
        self.heading("Trace records that were missed (the counters above are whole all the same)");
        let mut table = self.table();
        table.set_header(["lane", "written", "read", "lapped", "torn", "turned away", "missing"]);
        for lane in lossy.iter().take(most) {
            let numbers = [lane.written, lane.accepted, lane.lapped, lane.torn, lane.dropped, lane.missing];
            let mut row = vec![Cell::new(format!("core {} {}", lane.core, lane.context))];
            row.extend(numbers.map(|count| Cell::new(grouped(count)).set_alignment(CellAlignment::Right)));
            table.add_row(row);
        }
        self.put(table, &[4, 6]);
        if lossy.len() > most {
            let rest = lossy.iter().skip(most).fold(0_u64, |sum, lane| sum.saturating_add(lane.lost()));
            self.item("  ", 2, &format!("and {} more lanes with {} records", lossy.len() - most, grouped(rest)));
        }
    }

    fn notes(&mut self) {
        let report = self.report;
        let told = |core: u16| report.suspects.iter().any(|suspect| suspect.core == Some(core));
        let missing = report.target.cores.iter().filter(|core| !core.up && !told(core.id));
        let mut reasons: Vec<(&str, Vec<u16>)> = Vec::new();
        for (core, error) in missing.filter_map(|core| Some((core.id, core.error.as_deref()?))) {
            match reasons.iter_mut().find(|(other, _)| *other == error) {
                Some((_, cores)) => cores.push(core),
                None => reasons.push((error, vec![core])),
            }
        }
        if report.notes.is_empty() && reasons.is_empty() && report.error.is_none() {
            return;
        }
        self.text.push('\n');
        if let Some(error) = &report.error {
            self.item("error: ", 7, &format!("{}; {}", error.message, error.next_step));
        }
        let more = reasons.len().saturating_sub(LISTED);
        for (error, cores) in reasons.into_iter().take(LISTED) {
            let text = match cores.as_slice() {
                [core] => format!("core {core} {error}"),
                _ => format!("cores {}: each {error}", CoreList(cores)),
            };
            self.item("note: ", 6, &text);
        }
        for note in &report.notes {
            self.item("note: ", 6, note);
        }
        if more > 0 {
            self.item("note: ", 6, &format!("and {more} more cores are missing (see --json)"));
        }
    }

    fn verdict(&mut self) {
        let report = self.report;
        let counts = &report.ipis.counts;
        let first = report.suspects.first();
        let (color, text) = match report.verdict {
            Verdict::Clean => (
                AnsiColor::Green,
                match report.ended {
                    Ended::Interrupted => "nothing is wrong with what was measured before the early end".into(),
                    _ => format!("{} IPIs, none lost, nothing suspect", grouped(counts.sent)),
                },
            ),
            Verdict::Suspect | Verdict::Failed => {
                let broken = report.limits.as_ref().map_or(0, |limits| limits.failed);
                let alike = alike(&report.suspects);
                let first_group = alike.first().map_or(&[][..], Vec::as_slice);
                let subject = match (subject(first_group), first) {
                    (Some(subject), Some(first)) => format!("{subject} ({})", first.detector),
                    _ => "see above".into(),
                };
                let more = report.suspects.len() - first_group.len();
                let subject = if more > 0 { format!("{subject} and {more} more") } else { subject };
                let rules = if broken == 1 { "limit is" } else { "limits are" };
                let text = match (broken, first) {
                    (0, _) => subject,
                    (_, None) => format!("{broken} {rules} broken"),
                    (_, Some(_)) => format!("{subject}; {broken} {rules} broken"),
                };
                (AnsiColor::Red, text)
            }
            Verdict::Inconclusive if report.limits.as_ref().is_some_and(|limits| !limits.mismatch.is_empty()) => {
                (AnsiColor::Yellow, "the limits are not for this target".into())
            }
            Verdict::Inconclusive if counts.unknown == 0 && report.limits.is_some() => (
                AnsiColor::Yellow,
                format!("{} limits could not be told", report.limits.as_ref().map_or(0, |limits| limits.inconclusive)),
            ),
            Verdict::Inconclusive => (
                AnsiColor::Yellow,
                format!(
                    "{} IPIs have no known end: the host was too busy to say; run it again",
                    grouped(counts.unknown)
                ),
            ),
            Verdict::Incomplete => {
                let text = match &report.error {
                    Some(error) => error.message.clone(),
                    None if counts.sent == 0 => "nothing was measured".into(),
                    None => format!("the run ended early ({})", report.ended.name()),
                };
                (AnsiColor::Yellow, text)
            }
        };
        self.text.push('\n');
        if self.markdown {
            return self.line(&format!("## ipiscope: {}: {}", report.verdict.name(), plain(&text)));
        }
        let name = report.verdict.name();
        let mut line = terminal::shown(&format!("{name}: {text}"), self.options);
        // One line, which scripts read: all of an error's message stands above.
        let room = terminal::room(self.options).saturating_sub("Verdict: ".len());
        if line.chars().count() > room {
            line = line.chars().take(room.saturating_sub(4)).collect::<String>().trim_end().to_owned() + " ...";
        }
        let line = line.replacen(name, &self.paint(name, color, true), 1);
        self.line(&format!("Verdict: {line}"));
    }
}

/// Suspects in groups: many cores that one detector has in one part are one group, everybody else is alone. A group stands where its
/// first suspect stood.
fn alike(suspects: &[Suspect]) -> Vec<Vec<&Suspect>> {
    let same =
        |a: &Suspect, b: &Suspect| a.core.is_some() && b.core.is_some() && (a.detector, a.role) == (b.detector, b.role);
    let mut groups: Vec<Vec<&Suspect>> = Vec::new();
    for suspect in suspects {
        let many = suspects.iter().filter(|other| same(suspect, other)).count() >= ALIKE;
        match groups.iter_mut().find(|group| many && group.first().is_some_and(|first| same(first, suspect))) {
            Some(group) => group.push(suspect),
            None => groups.push(vec![suspect]),
        }
    }
    groups
}

/// Whom a group of suspects is about, in words.
fn subject(group: &[&Suspect]) -> Option<String> {
    let first = group.first()?;
    if group.len() == 1 {
        return Some(first.subject());
    }
    let mut cores: Vec<u16> = group.iter().filter_map(|suspect| suspect.core).collect();
    cores.sort_unstable();
    cores.dedup();
    let count = cores.len();
    let list = CoreList(cores).to_string();
    // Scattered cores would fill lines.
    let cores = match list.get(..LONGEST).and_then(|begin| begin.rsplit_once(',')) {
        Some((begin, _)) if list.len() > LONGEST => format!("{begin},... ({count} cores)"),
        _ => list,
    };
    Some(match first.role {
        Role::Receiver => format!("cores {cores} as receivers"),
        Role::Sender => format!("cores {cores} as senders"),
        Role::Clock => format!("clocks of cores {cores}"),
        Role::Callback => format!("callbacks on cores {cores}"),
        Role::Core | Role::Pair | Role::Host => format!("cores {cores}"),
    })
}

/// The one of a group with the greatest effect; of several, or where no effect is known, the first.
fn worst<'a>(group: &[&'a Suspect]) -> Option<&'a Suspect> {
    let effect = |suspect: &Suspect| suspect.effect_ns.unwrap_or(0.0);
    group.iter().copied().reduce(|worst, next| if effect(next) > effect(worst) { next } else { worst })
}

/// The colour of a cell against the usual one.
fn heat(median: f64, usual: f64) -> Color {
    match median / usual.max(f64::MIN_POSITIVE) {
        share if share <= 1.1 => Color::Green,
        share if share <= 1.5 => Color::DarkGreen,
        share if share <= 2.0 => Color::Yellow,
        share if share <= 5.0 => Color::DarkRed,
        _ => Color::Red,
    }
}

/// A number with its thousands apart.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate with no more than three digits that mean something.
fn three_digits(rate: f64) -> u64 {
    if !rate.is_finite() || rate < 1.0 {
        return 0;
    }
    let scale = 10_f64.powi((rate.log10().floor() as i32 - 2).max(0));
    ((rate / scale).round() * scale) as u64
}

/// A length of time as a whole number of ticks (both ns), in three digits at most: nobody saw what lies between. Percentiles of
/// buckets and medians of medians may lie there.
fn whole_ticks(nanoseconds: f64, tick: f64) -> String {
    match (nanoseconds / tick).round() * tick {
        0.0 => format!("<{} ns", trimmed(tick, 1)),
        length => duration(length, tick),
    }
}

/// A mean and its interval, ns: the mean has the interval's digits.
fn mean(mean: f64, interval: f64) -> String {
    let (scale, unit, finest) = match mean.abs() {
        mean if mean >= 1e6 => (1e6, "ms", 9),
        mean if mean >= 1e4 => (1e3, "us", 6),
        _ => (1.0, "ns", 3),
    };
    // A thousandth of a nanosecond is nobody's.
    let interval = interval.max(0.001);
    let digits = mean_digits(interval / scale).clamp(0, finest) as usize;
    format!("{:.digits$} +- {:.digits$} {unit}", mean / scale, interval / scale)
}

/// A tick in a table of so many digits, which must not round it to nothing.
fn below(tick: f64, digits: usize) -> String {
    let text = format!("{tick:.digits$}");
    if text.bytes().any(|digit| matches!(digit, b'1'..=b'9')) { text } else { trimmed(tick, digits + 2) }
}

/// A number without zeroes at its end.
fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_cut_to_what_they_mean() {
        assert_eq!([0, 12, 123, 1234, 1_234_567].map(grouped), ["0", "12", "123", "1,234", "1,234,567"]);
        assert_eq!(three_digits(84_217.3), 84_200);
        assert_eq!(three_digits(0.0), 0);
        assert_eq!((trimmed(62.5, 3), trimmed(8.0, 3)), ("62.5".to_owned(), "8".to_owned()));
    }

    #[test]
    fn suspects_are_one_entry_from_four_alike_on_and_the_worst_speaks_for_them() {
        let suspect = |core: u16, role: Role, effect_ns: Option<f64>| Suspect {
            core: Some(core),
            role,
            from: None,
            to: None,
            detector: "late",
            evidence: String::new(),
            effect_ns,
            q_value: None,
        };
        let mut suspects: Vec<Suspect> = [3, 1, 2].map(|core| suspect(core, Role::Receiver, None)).into();
        suspects.insert(1, suspect(9, Role::Sender, Some(5.0)));
        assert_eq!(alike(&suspects).len(), 4);
        suspects.push(suspect(7, Role::Receiver, Some(2.0)));
        let groups = alike(&suspects);
        let told: Vec<_> =
            groups.iter().map(|group| (subject(group), worst(group).and_then(|worst| worst.core))).collect();
        let expected = [("cores 1-3,7 as receivers", 7), ("core 9 as sender", 9)];
        assert_eq!(told, expected.map(|(subject, core)| (Some(subject.to_owned()), Some(core))));
    }

    #[test]
    fn lengths_are_whole_ticks_with_no_digit_below_one() {
        for (tick, lengths) in [
            (
                125.0,
                [
                    (0.0, "<125 ns"),
                    (60.0, "<125 ns"),
                    (125.0, "125 ns"),
                    // A bucket's middle.
                    (437.5, "500 ns"),
                    (1187.5, "1250 ns"),
                    (12_375.0, "12.4 us"),
                    (1_234_625.0, "1.23 ms"),
                ],
            ),
            (
                16.0,
                [
                    (0.0, "<16 ns"),
                    (16.0, "16 ns"),
                    (183.5, "176 ns"),
                    (248.1, "256 ns"),
                    (9984.0, "9984 ns"),
                    (20_016.0, "20.0 us"),
                    (3_000_000_016.0, "3.00 s"),
                ],
            ),
        ] {
            for (length, expected) in lengths {
                assert_eq!(whole_ticks(length, tick), expected, "{length} of {tick}");
            }
        }
        // 96 MHz: a tick is no whole number of nanoseconds.
        assert_eq!(
            [0.0, 10.416_666, 104.166_66].map(|length| whole_ticks(length, 10.416_666)),
            ["<10.4 ns", "10 ns", "104 ns"]
        );
        assert_eq!((below(0.016, 1), below(16.0, 0), below(0.125, 1)), ("0.016".into(), "16".into(), "0.1".into()));
    }

    #[test]
    fn a_mean_has_the_digits_of_its_interval_in_every_unit() {
        for (length, interval, expected) in [
            (163.42, 0.31, "163.42 +- 0.31 ns"),
            (163.4, 2.9, "163.4 +- 2.9 ns"),
            (1600.0, 125.0, "1600 +- 125 ns"),
            (12_345.6, 7.5, "12.3456 +- 0.0075 us"),
            (12_350.0, 125.0, "12.35 +- 0.12 us"),
            (7_654_321.0, 16_000.0, "7.654 +- 0.016 ms"),
            (42.0, 0.0, "42.000 +- 0.001 ns"),
        ] {
            assert_eq!(mean(length, interval), expected);
        }
    }
}
