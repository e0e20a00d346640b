//! The report as text: what ran, how long IPIs took, what became of them, who is to blame; the verdict last.
//!
//! It fits 80 columns up to eight cores. Above, cells are clusters; above that, only the worst pairs are named. No figure
//! shows more than a tick justifies.

use std::collections::BTreeMap;
use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use comfy_table::{
    Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width,
};

use super::{CallbackReport, Latency, Options, Pair, Report, Stage};
use crate::capture::{Ended, VerdictScope};
use crate::detect::{Suspect, Verdict, duration};

/// Pairs that a list of the worst ones names.
const WORST: usize = 8;

/// Lanes, faults and suspects of one kind that are listed.
const LISTED: usize = 10;

/// Advisories that are listed: on a busy host there are many, and none counts.
const ADVISED: usize = 3;

impl Report {
    /// The report for a terminal.
    pub fn text(&self, options: &Options) -> String {
        let mut page = Page { report: self, options, text: String::new() };
        page.header();
        page.phases();
        page.kinds();
        page.matrices();
        page.stages();
        page.outcomes();
        page.calls();
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

struct Page<'a> {
    report: &'a Report,
    options: &'a Options,
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
        let room = usize::from(self.options.width).max(40).saturating_sub(indent);
        let mut lead = format!("{label:<indent$}");
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                self.line(&format!("{lead}{line}"));
                lead = " ".repeat(indent);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(format!("{lead}{line}").trim_end());
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        let dash = if self.options.unicode { '\u{2500}' } else { '-' };
        table.load_style(TableStyle::new().header_separator(LineStyle::none().fill(dash).junction(dash)));
        table.set_content_arrangement(ContentArrangement::Disabled);
        if self.options.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    fn put(&mut self, table: &Table) {
        for line in table.to_string().lines() {
            self.line(line.trim_end());
        }
    }

    fn header(&mut self) {
        let report = self.report;
        let (target, clock) = (&report.target, &report.clock);
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        for core in target.cores.iter().filter(|core| core.up) {
            *classes.entry(core.class.as_str()).or_default() += 1;
        }
        let kinds: Vec<String> = classes.iter().map(|(class, count)| format!("{count} x {class}")).collect();
        let name = if target.machine.is_empty() { "board not named" } else { &target.machine };
        let mut text = format!("{name}, {} of {} cores up", target.cores_up, target.core_count);
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
        let mut text = match (target.counter_hz, target.resolution_ns) {
            (Some(hz), Some(resolution)) => {
                format!("{} MHz, {} ns a step", trimmed(hz as f64 / 1e6, 3), trimmed(resolution, 1))
            }
            _ => "unknown: the capture holds no snapshot of the target".into(),
        };
        if let Some(cost) = clock.read_cost_ticks {
            let _ = write!(text, ", a read takes {}", self.ticks(u64::from(cost)));
        }
        match (clock.proven_skew_ticks, clock.max_skew_ticks) {
            (Some(0), Some(most)) => {
                let _ = write!(text, ", cores apart by at most {}", self.ticks(most));
            }
            (Some(least), Some(most)) => {
                let _ = write!(text, ", cores apart by {} to {}", self.ticks(least), self.ticks(most));
            }
            _ => {}
        }
        match clock.monotonic {
            Some(true) => text += ", monotonic",
            Some(false) => text += ", NOT monotonic",
            None => {}
        }
        if let (Some(hz), Some(error)) = (clock.measured_hz, clock.measured_hz_uncertainty) {
            let _ = write!(text, "; by the host's clock {} +- {} MHz", trimmed(hz / 1e6, 3), trimmed(error / 1e6, 3));
        }
        self.item("Counter", 8, &text);
        let whose = match report.verdict_scope {
            VerdictScope::Silicon => "the machine's own",
            VerdictScope::Virtualized => {
                "a hypervisor's: it shares the machine out, so latencies are advice, not a verdict"
            }
            VerdictScope::Emulated => {
                "an emulator's: its delays are the host's, so latencies compare runs and say nothing of silicon"
            }
            VerdictScope::Instructions => "counted instructions: 1 ns is one instruction, the same in every run",
            VerdictScope::LinuxTrace => "another kernel's trace: latencies are advice, not a verdict",
        };
        self.item("Time", 8, whose);
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
                ", rings non-cacheable (a record takes {there:.1} ns to write there, {elsewhere:.1} ns in cacheable memory)"
            );
        }
        self.item("Plan", 8, &text);
    }

    /// Ticks as a length of time.
    fn ticks(&self, count: u64) -> String {
        let tick = self.report.tick_ns;
        if count == 0 { "less than a tick".into() } else { duration(count as f64 * tick, tick) }
    }

    /// A length of time, or a dash; what is below a tick says so.
    fn length(&self, nanoseconds: Option<f64>) -> String {
        let tick = self.report.tick_ns;
        match nanoseconds {
            None => "-".into(),
            Some(_) if self.report.target.counter_hz.unwrap_or(0) == 0 => "-".into(),
            Some(0.0) => format!("<{} ns", trimmed(tick, 1)),
            Some(length) => duration(length, tick),
        }
    }

    fn phases(&mut self) {
        let report = self.report;
        if report.phases.is_empty() {
            return;
        }
        self.heading("Latency, from the send to the first instruction of the receiver's vector");
        let mut table = self.table();
        table.set_header(["phase", "state", "IPIs", "IPIs/s", "min", "p50", "p90", "p99", "max"]);
        for phase in &report.phases {
            let Latency { min_ns, p50_ns, p90_ns, p99_ns, max_ns, .. } = phase.latency;
            let mut row = vec![phase.name.clone(), phase.state.clone(), grouped(phase.counts.sent)];
            row.push(phase.ipis_per_second.map_or("-".into(), |rate| grouped(three_digits(rate))));
            row.extend([min_ns, p50_ns, p90_ns, p99_ns, max_ns].map(|length| self.length(length)));
            table.add_row(row);
        }
        for column in 2..9 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
        }
        self.put(&table);
    }

    /// A table whose columns from `first` on hold numbers.
    fn put_numbers(&mut self, mut table: Table, first: usize) {
        for column in table.column_iter_mut().skip(first) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
        }
        self.put(&table);
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
        self.put_numbers(table, 2);
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
        self.put_numbers(table, 1);
        if more > 0 {
            self.item("  ", 2, &format!("and {more} shorter ones (see --json)"));
        }
    }

    /// Where the time of calls goes: each stage on the core where its median is longest.
    fn stages_of_calls(&mut self) {
        let mut worst: Vec<&Stage> = Vec::new();
        let mut others: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
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
            self.put_numbers(table, 2);
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
        let mut parts = vec![
            format!("{} were waited for", grouped(counts.synchronous)),
            format!("{} needed no SGI of their own", grouped(counts.sends_saved)),
        ];
        for (count, name) in [(counts.twice, "executed twice"), (counts.orphaned, "executed that nobody queued")] {
            if count > 0 {
                parts.push(format!("{} {name}", grouped(count)));
            }
        }
        self.item("", 2, &parts.join(", "));
        self.queues();
        self.callbacks();
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
        self.put_numbers(table, 1);
        if total > LISTED {
            self.item("", 2, &format!("and {} more functions (see --json)", total - LISTED));
        }
    }

    fn crash_stops(&mut self) {
        if self.report.crash_stops.is_empty() {
            return;
        }
        self.heading("Crash stops");
        for stop in self.report.crash_stops.iter().take(LISTED) {
            let place = stop.symbol.as_ref().map_or(String::new(), |symbol| format!(" in {symbol}"));
            self.item("", 2, &format!("core {} was at PC {}{place}, SP {}", stop.core, stop.pc, stop.sp));
        }
        let more = self.report.crash_stops.len().saturating_sub(LISTED);
        if more > 0 {
            self.line(&format!("  and {more} cores more (see --json)"));
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
        let fit = usize::from(self.options.width.max(40) - 8) / 8;
        let mut cores: Vec<u16> = pairs.iter().flat_map(|pair| [pair.from, pair.to]).collect();
        cores.sort_unstable();
        cores.dedup();
        let clusters: BTreeMap<u16, usize> =
            self.report.target.cores.iter().map(|core| (core.id, core.cluster)).collect();
        let cluster = |core: u16| clusters.get(&core).copied().unwrap_or(0);
        let count = cores.iter().map(|core| cluster(*core)).collect::<std::collections::BTreeSet<_>>().len();
        let title =
            format!("Median by sender (row) and receiver (column): {}, receiver in {}", first.phase, first.state);
        if cores.len() <= fit {
            self.heading(&title);
            self.cells(pairs, |pair| (usize::from(pair.from), usize::from(pair.to)), "core");
            return;
        }
        if (2..=fit).contains(&count) {
            self.heading(&format!("{title}, by cluster"));
            self.cells(pairs, |pair| (cluster(pair.from), cluster(pair.to)), "cluster");
        }
        self.worst(pairs);
    }

    /// A matrix of medians; a cell of several pairs is the median of theirs.
    fn cells(&mut self, pairs: &[&Pair], place: impl Fn(&Pair) -> (usize, usize), what: &str) {
        let mut cells: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
        for pair in pairs {
            if let Some(median) = pair.median_ns {
                cells.entry(place(pair)).or_default().push(median);
            }
        }
        let mut cells: BTreeMap<(usize, usize), f64> = cells
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
        let rows: std::collections::BTreeSet<usize> = cells.keys().map(|(row, _)| *row).collect();
        let columns: std::collections::BTreeSet<usize> = cells.keys().map(|(_, column)| *column).collect();
        let mut table = self.table();
        let corner = format!("{what}, {unit}");
        let header: Vec<Cell> = std::iter::once(Cell::new(corner))
            .chain(columns.iter().map(|column| Cell::new(column).set_alignment(CellAlignment::Right)))
            .collect();
        table.set_header(header);
        for row in rows {
            let mut line = vec![Cell::new(row)];
            for column in &columns {
                let cell = match cells.remove(&(row, *column)) {
                    Some(0.0) => Cell::new(format!("<{tick:.digits$}")),
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
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
        }
        if let Some(column) = table.column_mut(0) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(6)));
        }
        self.put(&table);
    }

    fn worst(&mut self, pairs: &[&Pair]) {
        let mut ordered = pairs.to_vec();
        ordered.sort_by(|a, b| b.median_ns.unwrap_or(0.0).total_cmp(&a.median_ns.unwrap_or(0.0)));
        let (Some(first), Some(middle), Some(last)) = (ordered.first(), ordered.get(ordered.len() / 2), ordered.last())
        else {
            return;
        };
        let medians = (self.length(last.median_ns), self.length(middle.median_ns), self.length(first.median_ns));
        let text = format!(
            "{} pairs in phase {}, receiver in {}: medians from {} over {} to {}; the slowest:",
            grouped(ordered.len() as u64),
            first.phase,
            first.state,
            medians.0,
            medians.1,
            medians.2
        );
        self.text.push('\n');
        self.item("", 0, &text);
        let list: Vec<String> = ordered
            .iter()
            .take(WORST)
            .map(|pair| format!("{} to {}: {}", pair.from, pair.to, self.length(pair.median_ns)))
            .collect();
        self.item("", 2, &list.join(", "));
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
        if ipis.from == crate::correlate::From::Records {
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
        for suspect in suspects.iter().take(most) {
            let subject = self.paint(&suspect.subject(), color, true);
            self.line(&format!("  {subject}: {}", suspect.detector));
            self.item("", 4, &suspect.evidence);
        }
        if suspects.len() > most {
            self.line(&format!("  and {} more (see --json)", suspects.len() - most));
        }
    }

    fn faults(&mut self) {
        if self.report.faults.is_empty() {
            return;
        }
        self.heading("Faults on the target");
        for fault in self.report.faults.iter().take(LISTED) {
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
    }

    fn losses(&mut self) {
        let lossy: Vec<_> = self.report.lanes.iter().filter(|lane| lane.lost() > 0).collect();
        if lossy.is_empty() {
            return;
        }
        self.heading("Trace records that were missed (the counters above are whole all the same)");
        let mut table = self.table();
        table.set_header(["lane", "written", "read", "lapped", "torn", "turned away", "missing"]);
        for lane in lossy.iter().take(LISTED) {
            let numbers = [lane.written, lane.accepted, lane.lapped, lane.torn, lane.dropped, lane.missing];
            let mut row = vec![Cell::new(format!("core {} {}", lane.core, lane.context))];
            row.extend(numbers.map(|count| Cell::new(grouped(count)).set_alignment(CellAlignment::Right)));
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
        }
        self.put(&table);
        if lossy.len() > LISTED {
            let rest = lossy.iter().skip(LISTED).fold(0_u64, |sum, lane| sum.saturating_add(lane.lost()));
            self.line(&format!("and {} more lanes with {} records", lossy.len() - LISTED, grouped(rest)));
        }
    }

    fn notes(&mut self) {
        let report = self.report;
        let told = |core: u16| report.suspects.iter().any(|suspect| suspect.core == Some(core));
        let missing = report.target.cores.iter().filter(|core| !core.up && !told(core.id));
        let missing: Vec<String> =
            missing.filter_map(|core| Some(format!("core {} {}", core.id, core.error.as_ref()?))).collect();
        if report.notes.is_empty() && missing.is_empty() && report.error.is_none() {
            return;
        }
        self.text.push('\n');
        if let Some(error) = &report.error {
            self.item("error: ", 7, &format!("{}; {}", error.message, error.next_step));
        }
        for note in missing.iter().take(LISTED).chain(&report.notes) {
            self.item("note: ", 6, note);
        }
        if missing.len() > LISTED {
            self.line(&format!("note: and {} cores more", missing.len() - LISTED));
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
                let subject =
                    first.map_or("see above".into(), |suspect| format!("{} ({})", suspect.subject(), suspect.detector));
                let more = report.suspects.len().saturating_sub(1);
                (AnsiColor::Red, if more > 0 { format!("{subject} and {more} more") } else { subject })
            }
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
        let name = self.paint(report.verdict.name(), color, true);
        let line = format!("Verdict: {name}: {text}");
        self.line(&line);
    }
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
}
