//! What the live view draws: a function of what is known and of what the user chose, so that tests draw without a terminal.
//!
//! Four lines always stand on top: what runs, how far it is, what became of the IPIs, how the drain keeps up. Below, as far as there
//! is room: the matrix, the pair under the cursor, the worst IPIs with the trail of one of them. Colours rise in lightness too,
//! so that they can be told apart by everybody; without colours the figures alone stand.

use std::ops::Range;
use std::time::Duration;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget as _};
use trace_ring::layout::{Context, run_state};

use super::matrix::{self, Groups, Metric, Pairs};
use super::{About, State};
use crate::detect;

/// Lightness rises from step to step (xterm's 256 colours, after viridis).
const STEPS: [u8; 8] = [53, 60, 66, 72, 78, 149, 185, 226];
/// From here on a step is light, and its text dark.
const LIGHT: usize = 3;

/// Below this the matrix has no room.
const LEAST: (u16, u16) = (44, 13);
/// From here on the panels stand beside the matrix.
const WIDE: u16 = 104;

/// Which phases the matrix is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// The one that runs.
    #[default]
    Newest,
    /// One.
    Phase(usize),
    /// All together.
    All,
}

/// What the user chose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// What cells show.
    pub metric: Metric,
    /// Of which phases.
    pub shown: Shown,
    /// Sender and receiver under the cursor; `None`: the first pair there is.
    pub cursor: Option<(u16, u16)>,
    /// Senders and receivers that fill the matrix; `None`: all.
    pub zoom: Option<(Vec<u16>, Vec<u16>)>,
    /// Which of the worst IPIs shows its trail.
    pub worst: usize,
    /// The keys are explained.
    pub help: bool,
    /// How often the user asked to end the run.
    pub asked: u32,
    /// Senders and receivers as they were drawn last: where the cursor can go.
    pub drawn: (Groups, Groups),
}

impl View {
    /// The phase that the matrix is of, where it is of one.
    pub fn phase(&self, state: &State) -> Option<usize> {
        match self.shown {
            Shown::Newest => state.moment.as_ref().map(|moment| moment.status.phase as usize),
            Shown::Phase(phase) => Some(phase),
            Shown::All => None,
        }
    }

    /// Moves the cursor by so many rows and columns.
    pub fn go(&mut self, rows: isize, columns: isize) {
        let (from, to) = &self.drawn;
        let moved = |groups: &Groups, core: u16, by: isize| {
            let at = groups.find(core).unwrap_or(0).saturating_add_signed(by).min(groups.len().saturating_sub(1));
            groups.get(at).first().copied().unwrap_or(core)
        };
        if let Some((sender, receiver)) = self.cursor {
            self.cursor = Some((moved(from, sender, rows), moved(to, receiver, columns)));
        }
    }

    /// Fills the matrix with the cell under the cursor, where that is of several pairs.
    pub fn zoom_in(&mut self) {
        let (from, to) = &self.drawn;
        let Some((sender, receiver)) = self.cursor.filter(|_| from.are_many() || to.are_many()) else { return };
        let cores = |groups: &Groups, core| groups.find(core).map_or(Vec::new(), |index| groups.get(index).to_vec());
        self.zoom = Some((cores(from, sender), cores(to, receiver)));
    }
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, about: &About, state: &State, view: &mut View, pairs: &Pairs) {
    let area = frame.area();
    let page = Page { about, state };
    let [top, body, keys] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    frame.render_widget(Paragraph::new(page.head(view, area.width)), top);
    frame.render_widget(Paragraph::new(page.keys(view, area.width)), keys);
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = "no room for the matrix";
        frame.render_widget(Paragraph::new(Line::from(words).style(page.dim())), body);
    } else if state.moment.is_none() {
        frame.render_widget(Paragraph::new(Line::from("waiting for the first counters").style(page.dim())), body);
    } else {
        page.body(frame, body, view, pairs);
    }
    if view.help {
        page.help(frame, area);
    }
}

struct Page<'a> {
    about: &'a About,
    state: &'a State,
}

impl Page<'_> {
    fn paint(&self, color: Color) -> Style {
        if self.about.color { Style::new().fg(color) } else { Style::new() }
    }

    fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    const fn dot(&self) -> &'static str {
        if self.about.unicode { " \u{b7} " } else { ", " }
    }

    fn block(&self, title: String) -> Block<'static> {
        let ascii = border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        };
        let set = if self.about.unicode { border::PLAIN } else { ascii };
        Block::bordered().border_set(set).border_style(self.dim()).title(title)
    }

    /// The four lines on top.
    fn head(&self, view: &View, width: u16) -> Vec<Line<'static>> {
        let About { title, plan, .. } = self.about;
        let dot = self.dot();
        let mut first = vec![
            Span::styled("ipiscope", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(" {title}{dot}plan {plan}")),
        ];
        let Some(moment) = &self.state.moment else {
            first.push(Span::raw(format!("{dot}starting")));
            return vec![Line::from(first)];
        };
        let up = format!("{dot}{} of {} cores up", moment.status.cores_up, moment.directory.core_count);
        first.push(Span::raw(up));
        first.push(Span::raw(format!("{dot}{}", clock(self.state.elapsed))));
        let totals = self.state.totals;
        let bad = |count: u64, words: String| {
            if count > 0 {
                Span::styled(words, self.paint(Color::Red).add_modifier(Modifier::BOLD))
            } else {
                Span::raw(words)
            }
        };
        let count = |count: u64| grouped(count);
        let outcomes = Line::from(vec![
            Span::raw(format!("IPIs   {}", count(totals.sent))),
            Span::raw(rate(self.state.ipi_rate)),
            Span::raw(format!("{dot}coalesced {}{dot}", count(totals.coalesced))),
            bad(totals.lost, format!("lost {}", count(totals.lost))),
            Span::raw(dot),
            bad(totals.unknown, format!("unknown {}", count(totals.unknown))),
        ]);
        vec![Line::from(first), self.progress(view, width), outcomes, self.drain()]
    }

    fn progress(&self, view: &View, width: u16) -> Line<'static> {
        let Some(moment) = &self.state.moment else { return Line::default() };
        if let Some((done, total)) = self.state.fetching {
            return self.bar("fetching what is left".into(), done as f64 / total.max(1) as f64, String::new(), width);
        }
        let doing = match moment.status.state {
            run_state::RUNNING => {
                let phases = &self.about.phases;
                let phase = moment.status.phase as usize;
                match phases.get(phase) {
                    Some(meta) => format!("{} of {}, {}", phase + 1, phases.len(), meta.name),
                    None => (phase + 1).to_string(),
                }
            }
            run_state::ENDED | run_state::ABORTED => "ended".into(),
            _ => "starting cores".into(),
        };
        let doing = if view.asked > 0 { format!("{doing}, asked to end") } else { doing };
        let Some(share) = self.share() else { return Line::from(format!("phase  {doing}")) };
        let seconds = self.state.running.as_secs_f64();
        let left = match share {
            share if share >= 1.0 => "about to end".to_string(),
            share if share > 0.02 => {
                format!("{} left", clock(Duration::from_secs_f64(seconds * (1.0 - share) / share)))
            }
            _ => String::new(),
        };
        self.bar(doing, share, left, width)
    }

    /// How much of the plan is done.
    fn share(&self) -> Option<f64> {
        let share = match self.about.duration {
            Some(duration) => self.state.running.as_secs_f64() / duration.as_secs_f64().max(1e-3),
            None if self.about.expected > 0 => self.state.totals.sent as f64 / self.about.expected as f64,
            None => return None,
        };
        Some(share.clamp(0.0, 1.0))
    }

    fn bar(&self, doing: String, share: f64, left: String, width: u16) -> Line<'static> {
        const STEPS: usize = 20;
        let done = (share * STEPS as f64).round() as usize;
        let (full, empty) = if self.about.unicode { ("\u{2588}", "\u{2591}") } else { ("#", ".") };
        let bar = format!("{}{}", full.repeat(done), empty.repeat(STEPS - done));
        let mut line = format!("phase  {doing}  ");
        // What runs comes first where there is no room for both.
        if line.chars().count() + STEPS + 6 <= usize::from(width) {
            line.push_str(&format!("{bar} {:3.0} %", share * 100.0));
        } else {
            line.push_str(&format!("{:3.0} %", share * 100.0));
        }
        if !left.is_empty() {
            line.push_str(&format!("{}{left}", self.dot()));
        }
        Line::from(line)
    }

    /// How the drain keeps up with the target.
    fn drain(&self) -> Line<'static> {
        let Some(moment) = &self.state.moment else { return Line::default() };
        let dot = self.dot();
        let behind: u64 = moment.lanes.iter().map(|lane| lane.backlog).sum();
        let accepted: u64 = moment.lanes.iter().map(|lane| lane.accepted).sum();
        let missed: u64 = moment.lanes.iter().map(|lane| lane.missed).sum();
        let fullest = moment.lanes.iter().max_by_key(|lane| lane.backlog.saturating_mul(1000) / lane.capacity.max(1));
        let fill = fullest.filter(|lane| lane.backlog > 0).map_or(String::new(), |lane| {
            let share = lane.backlog as f64 * 100.0 / lane.capacity.max(1) as f64;
            let context = Context::ALL.get(usize::from(lane.context)).map_or("", |context| context.name());
            format!(" (core {} {context} {share:.0} %)", lane.core)
        });
        let lag = match self.state.record_rate {
            Some(rate) if rate > 0.0 && behind > 0 => {
                format!(" = {}", detect::duration(behind as f64 * 1e9 / rate, 1e6))
            }
            _ => String::new(),
        };
        let missed = if missed > 0 {
            let most = moment.lanes.iter().max_by_key(|lane| lane.missed).map_or(0, |lane| lane.core);
            let words = format!("missed {}, most of core {most}", grouped(missed));
            Span::styled(words, self.paint(Color::Red).add_modifier(Modifier::BOLD))
        } else {
            Span::raw("missed 0")
        };
        Line::from(vec![
            Span::raw(format!("trace  {}", grouped(accepted))),
            Span::raw(rate(self.state.record_rate)),
            Span::raw(dot),
            missed,
            Span::raw(format!("{dot}behind {}{lag}{fill}", grouped(behind))),
        ])
    }

    fn keys(&self, view: &View, width: u16) -> Line<'static> {
        if view.asked > 0 {
            let words = if view.asked == 1 {
                "the run was asked to end; q again cuts it short"
            } else {
                "the run is being cut short"
            };
            return Line::from(words).style(self.paint(Color::Yellow).add_modifier(Modifier::BOLD));
        }
        let long = "m metric  p phase  arrows pair  Enter zoom  w worst  ? keys  q end the run";
        let text = if usize::from(width) > long.len() { long } else { "? keys  q end" };
        Line::from(text).style(self.dim())
    }

    fn body(&self, frame: &mut Frame<'_>, area: Rect, view: &mut View, pairs: &Pairs) {
        let cores = u16::try_from(pairs.cores.len()).unwrap_or(u16::MAX);
        let (matrix, pair, worst) = if area.width >= WIDE {
            let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(area);
            let [pair, worst] = Layout::vertical([Constraint::Length(10), Constraint::Fill(1)]).areas(right);
            (left, pair, worst)
        } else {
            // The matrix takes what it needs, if that leaves a little to the rest; else what leaves all there is of a pair.
            let need = cores.saturating_add(3);
            let height =
                if need.saturating_add(4) <= area.height { need } else { area.height.saturating_sub(8).max(6) };
            let [top, bottom] = Layout::vertical([Constraint::Length(height), Constraint::Fill(1)]).areas(area);
            let [pair, worst] = Layout::horizontal([Constraint::Length(33), Constraint::Fill(1)]).areas(bottom);
            (top, pair, worst)
        };
        self.matrix(frame, matrix, view, pairs);
        self.pair(frame, pair, view, pairs);
        self.worst(frame, worst, view);
    }

    /// The matrix's title says what it is of.
    fn subject(&self, view: &View) -> String {
        let phases = &self.about.phases;
        match view.phase(self.state) {
            None => "all phases".into(),
            Some(phase) => match phases.get(phase) {
                Some(meta) if meta.state == "unknown" => meta.name.clone(),
                Some(meta) => format!("{} ({})", meta.name, meta.state),
                None => format!("phase {}", phase + 1),
            },
        }
    }

    fn matrix(&self, frame: &mut Frame<'_>, area: Rect, view: &mut View, pairs: &Pairs) {
        let title = format!(" {}{}{} ", view.metric.name(), self.dot(), self.subject(view));
        let block = self.block(title);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let (senders, receivers) = view.zoom.clone().unwrap_or_else(|| (pairs.cores.clone(), pairs.cores.clone()));
        if senders.is_empty() || inner.height < 2 || inner.width < 12 {
            frame.render_widget(Paragraph::new(Line::from("nobody sends here").style(self.dim())), inner);
            view.drawn = (Groups::default(), Groups::default());
            return;
        }
        let rows = usize::from(inner.height - 1);
        let most = senders.iter().chain(&receivers).max().copied().unwrap_or(0);
        let label = most.to_string().len().max(2);
        // The widest cells that show every core; else wide cells of several cores each.
        let fits = |cell: usize, label: usize| (usize::from(inner.width).saturating_sub(label + 1)) / cell;
        let single =
            [7, 6, 5, 2, 1].into_iter().find(|cell| senders.len() <= rows && receivers.len() <= fits(*cell, label));
        let (cell, label) = match single {
            Some(cell) => (cell, label),
            None => (2 * label + 2, 2 * label + 1),
        };
        let columns = fits(cell, label).max(1);
        let (from, to) = if single.is_some() {
            (Groups::of(&senders, rows), Groups::of(&receivers, columns))
        } else {
            let both = rows.min(columns);
            (Groups::of(&senders, both), Groups::of(&receivers, both))
        };
        let first = |groups: &Groups, index| groups.get(index).first().copied();
        let other = first(&to, 1).or(first(&to, 0)).unwrap_or(0);
        let (sender, receiver) = *view.cursor.get_or_insert((first(&from, 0).unwrap_or(0), other));
        let (row, column) = (from.find(sender), to.find(receiver));
        if row.is_none() || column.is_none() {
            view.cursor = None;
        }
        let cells: Vec<Vec<Option<f64>>> = (0..from.len())
            .map(|row| {
                let value = |column| pairs.cell(from.get(row), to.get(column), view.metric).map(|cell| cell.value);
                (0..to.len()).map(value).collect()
            })
            .collect();
        let known = || cells.iter().flatten().filter_map(|value| *value);
        let range = known().fold(f64::INFINITY, f64::min)..known().fold(0.0, f64::max);
        let lines = Cells { cells: &cells, range, metric: view.metric, width: cell, label };
        lines.draw(frame.buffer_mut(), inner, &from, &to, (row, column), self);
        view.drawn = (from, to);
    }

    fn pair(&self, frame: &mut Frame<'_>, area: Rect, view: &View, pairs: &Pairs) {
        let (from, to) = &view.drawn;
        let resolution = self.resolution();
        let Some(cursor) = view.cursor else { return };
        let (Some(row), Some(column)) = (from.find(cursor.0), to.find(cursor.1)) else { return };
        // Of a cell of several pairs, the one that gives it its value.
        let several = from.get(row).len() * to.get(column).len() > 1;
        let (sender, receiver) = match pairs.cell(from.get(row), to.get(column), view.metric) {
            Some(cell) if several => cell.of,
            _ => cursor,
        };
        let of = if several { format!(", of {} > {}", from.label(row), to.label(column)) } else { String::new() };
        let block = self.block(format!(" core {sender} > {receiver}{of} "));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let Some(figures) = pairs.get(sender, receiver) else {
            frame.render_widget(Paragraph::new(Line::from("no IPI").style(self.dim())), inner);
            return;
        };
        let time = |value: Option<f64>| value.map_or("-".into(), |value| matrix::words(value, Metric::Max, resolution));
        let lines = vec![
            Line::from(format!("median {:>9}  p99 {:>9}", time(figures.median), time(figures.p99))),
            Line::from(format!("least  {:>9}  max {:>9}", time(figures.min), time(figures.max))),
            Line::from(format!("mean   {:>9}  of {}", time(figures.mean), grouped(figures.timed))),
            Line::from(format!("sent {}{}", grouped(figures.sent), rate(figures.rate))),
            Line::from(format!("lost {}, unknown {}", grouped(figures.lost), grouped(figures.unknown))),
            Line::from(format!("coalesced {}", grouped(figures.coalesced))),
        ];
        frame.render_widget(Paragraph::new(lines), inner);
    }

    fn resolution(&self) -> f64 {
        let hz = self.state.moment.as_ref().map_or(0, |moment| moment.directory.counter_hz);
        1e9 / hz.max(1) as f64
    }

    fn worst(&self, frame: &mut Frame<'_>, area: Rect, view: &View) {
        let block = self.block(" worst so far ".into());
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let resolution = self.resolution();
        let hz = self.state.moment.as_ref().map_or(1, |moment| moment.directory.counter_hz.max(1)) as f64;
        let worst = &self.state.worst;
        if worst.is_empty() {
            let words = "no IPI was answered yet";
            frame.render_widget(Paragraph::new(Line::from(words).style(self.dim())), inner);
            return;
        }
        let chosen = view.worst.min(worst.len() - 1);
        let list = worst.len().min(usize::from(inner.height / 3).max(1));
        // The chosen one stands in the part of the list that is shown.
        let first = chosen.saturating_sub(list - 1);
        let mut lines = Vec::new();
        for (index, one) in worst.iter().enumerate().skip(first).take(list) {
            let phase =
                one.phase.and_then(|phase| self.about.phases.get(phase)).map_or("", |phase| phase.name.as_str());
            let mark = if index == chosen { ">" } else { " " };
            let ns = one.ticks as f64 * 1e9 / hz;
            let time = detect::duration(ns, resolution);
            let text = format!("{mark} {time:>9}  core {} > {}  SGI {}  {phase}", one.from, one.to, one.intid);
            let style = if index == chosen { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
            lines.push(Line::from(text).style(style));
        }
        if let Some(one) = worst.get(chosen) {
            for (ticks, core, words) in &one.trail {
                let time = detect::duration(*ticks as f64 * 1e9 / hz, resolution);
                lines.push(Line::from(format!("{time:>9} c{core} {words}")).style(self.dim()));
            }
        }
        frame.render_widget(Paragraph::new(lines), inner);
    }

    fn help(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines = [
            "m, M       next metric, the one before",
            "p, P       next phase, the one before",
            "f          the phase that runs (as at first)",
            "a          all phases together",
            "arrows     another pair (also h j k l)",
            "Enter      only the cores of this cell",
            "Esc        all cores again",
            "w, W       trail of the next of the worst",
            "?          these keys",
            "q, Ctrl-C  end the run and report; again:",
            "           cut it short",
        ];
        let (width, height) = (46.min(area.width), (lines.len() as u16 + 2).min(area.height));
        let place =
            Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
        frame.render_widget(Clear, place);
        let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
        frame.render_widget(Paragraph::new(lines).block(self.block(" keys ".into())), place);
    }
}

/// The cells of a matrix as they are put on the screen.
struct Cells<'a> {
    cells: &'a [Vec<Option<f64>>],
    range: Range<f64>,
    metric: Metric,
    /// Columns of a cell, and of what stands left of a row.
    width: usize,
    label: usize,
}

impl Cells<'_> {
    fn draw(
        &self,
        buffer: &mut Buffer,
        area: Rect,
        from: &Groups,
        to: &Groups,
        cursor: (Option<usize>, Option<usize>),
        page: &Page<'_>,
    ) {
        let at = |row: usize, column: usize| {
            let x = area.x as usize + self.label + 1 + column * self.width;
            (u16::try_from(x).unwrap_or(u16::MAX), area.y + 1 + row as u16)
        };
        let corner = if self.label >= 7 { "from/to" } else { "" };
        Line::from(corner).style(page.dim()).render(Rect { height: 1, ..area }, buffer);
        // Where cells are narrow, some columns alone are named.
        let widest = (0..to.len()).map(|column| to.label(column).len()).max().unwrap_or(1);
        let every = (widest + 1).div_ceil(self.width).max(1);
        for column in (0..to.len()).step_by(every) {
            let (x, _) = at(0, column);
            let label = to.label(column);
            let text = if every == 1 { format!("{label:>width$}", width = self.width - 1) } else { label };
            let room = usize::from(area.right().saturating_sub(x));
            buffer.set_stringn(x, area.y, &text, room, page.dim());
        }
        for (row, values) in self.cells.iter().enumerate() {
            let (_, y) = at(row, 0);
            buffer.set_stringn(
                area.x,
                y,
                format!("{:>width$}", from.label(row), width = self.label),
                self.label,
                page.dim(),
            );
            for (column, value) in values.iter().enumerate() {
                let (x, y) = at(row, column);
                let mut style = self.style(*value, page);
                if cursor == (Some(row), Some(column)) {
                    style = style.add_modifier(Modifier::REVERSED | Modifier::BOLD);
                }
                // One column parts wide cells; narrow ones have none to spare.
                let (text, width) = if self.width >= 5 {
                    let text = value.map_or(String::new(), |value| matrix::brief(value, self.metric));
                    (format!("{text:>width$}", width = self.width - 1), self.width - 1)
                } else {
                    (format!("{:width$}", self.narrow(*value, page), width = self.width), self.width)
                };
                buffer.set_stringn(x, y, &text, width, style);
            }
        }
    }

    fn style(&self, value: Option<f64>, page: &Page<'_>) -> Style {
        let Some(value) = value else { return page.dim() };
        if self.metric == Metric::Lost {
            return if value > 0.0 { page.paint(Color::Red).add_modifier(Modifier::BOLD) } else { page.dim() };
        }
        if !page.about.color {
            return Style::new();
        }
        let step = matrix::step(value, &self.range, STEPS.len());
        let color = STEPS.get(step).copied().unwrap_or(0);
        let text = if step >= LIGHT { Color::Black } else { Color::White };
        Style::new().bg(Color::Indexed(color)).fg(text)
    }

    /// A cell that has no room for its figure: a digit from 0, the least, to 9, the greatest.
    fn narrow(&self, value: Option<f64>, page: &Page<'_>) -> String {
        match value {
            None => if page.about.unicode { "\u{b7}" } else { "." }.into(),
            Some(value) if self.metric == Metric::Lost => {
                if value > 9.0 {
                    "+".into()
                } else {
                    format!("{value:.0}")
                }
            }
            Some(value) => matrix::step(value, &self.range, 10).to_string(),
        }
    }
}

/// A rate behind a count; nothing where it is not known.
fn rate(rate: Option<f64>) -> String {
    rate.map_or(String::new(), |rate| format!(" ({}/s)", matrix::brief(rate, Metric::Rate)))
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02} h", seconds / 3600, seconds / 60 % 60),
    }
}

/// 1234567 as 1,234,567.
fn grouped(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}
