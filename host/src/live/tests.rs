//! The live view drawn without a terminal: what stands where, at every size.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Modifier;
use zerocopy::FromZeros as _;

use super::matrix::{Counters, Metric, Pairs};
use super::screen::{self, Shown, View};
use super::*;

fn phase(name: &str, timed: bool) -> PhaseMeta {
    PhaseMeta {
        name: name.into(),
        pattern: "all_pairs".into(),
        timed,
        state: "wfi".into(),
        intid: 1,
        pairs: 12,
        sends: 100,
        dither: 0,
        pressure: false,
        transition: None,
    }
}

fn about() -> About {
    About {
        title: "qemu virt".into(),
        plan: "standard".into(),
        phases: vec![phase("pairs", true), phase("storm", false)],
        expected: 1000,
        duration: None,
        symbols: Symbols::default(),
        color: true,
        unicode: true,
    }
}

/// A run of so many cores: from core a to core b took 1000 + 10 a + b ticks of a nanosecond.
fn state(cores: u16) -> State {
    let mut directory = Directory::new_zeroed();
    (directory.counter_hz, directory.core_count, directory.phase_count) = (1_000_000_000, cores.into(), 2);
    let mut status = Status::new_zeroed();
    (status.state, status.cores_up) = (run_state::RUNNING, cores.into());
    let pairs = (0..cores).flat_map(|from| (0..cores).map(move |to| (from, to))).filter(|(from, to)| from != to);
    let slots = pairs.map(|(from, to)| {
        let mut slot = PairSlot::new_zeroed();
        (slot.from, slot.to, slot.histogram) = (from, to, u32::MAX);
        (slot.sent, slot.delivered) = (1, 1);
        let ticks = 1000 + 10 * u64::from(from) + u64::from(to);
        (slot.sum, slot.min, slot.max) = (ticks, ticks, ticks);
        slot.lost = u64::from((from, to) == (1, 2));
        slot
    });
    let lane = LaneNow { core: 1, context: 1, accepted: 1234, missed: 0, backlog: 100, capacity: 1024 };
    let worst = Worst {
        from: 3,
        to: 1,
        intid: 1,
        ticks: 12_345,
        entry: 50_000,
        phase: Some(0),
        trail: vec![(0, 3, "sent SGI 1 to core 1, message 7".into()), (12_345, 1, "took SGI 1 of core 3".into())],
    };
    let slots: Arc<[PairSlot]> = slots.collect();
    State {
        number: 1,
        totals: Totals::of(&slots),
        moment: Some(Moment { directory, status, slots, lanes: [lane].into() }),
        worst: [worst].into(),
        ipi_rate: Some(41_234.0),
        record_rate: Some(82_000.0),
        elapsed: Duration::from_secs(75),
        running: Duration::from_secs(10),
        ..State::default()
    }
}

fn draw(width: u16, height: u16, about: &About, state: &State, view: &mut View) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("draws anywhere");
    let pairs = Counters::of(state).map_or(Pairs::default(), |counters| Pairs::of(&counters, view.phase(state)));
    terminal.draw(|frame| screen::draw(frame, about, state, view, &pairs)).expect("draws");
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..buffer.area.height).map(|y| row(y).trim_end().to_string()).collect()
}

fn text(buffer: &Buffer) -> String {
    lines(buffer).join("\n")
}

#[test]
fn four_cores_on_80_columns_show_all_there_is() {
    let mut view = View { metric: Metric::Max, ..View::default() };
    let buffer = draw(80, 24, &about(), &state(4), &mut view);
    let lines = lines(&buffer);
    assert_eq!(lines[0], "ipiscope qemu virt · plan standard · 4 of 4 cores up · 1:15 min");
    assert!(lines[1].starts_with("phase  1 of 2, pairs  "), "{}", lines[1]);
    assert_eq!(lines[2], "IPIs   12 (41k/s) · coalesced 0 · lost 1 · unknown 0");
    assert_eq!(lines[3], "trace  1,234 (82k/s) · missed 0 · behind 100 = 1 ms (core 1 irq 10 %)");
    assert!(lines[4].contains("greatest latency · pairs (wfi)"), "{}", lines[4]);
    let row = lines[6].trim_matches('│').split_whitespace().collect::<Vec<_>>();
    assert_eq!(row, ["0", "1.0u", "1.0u", "1.0u"], "row of sender 0: {:?}", lines[6]);
    let all = text(&buffer);
    for part in [
        "core 0 > 1",
        "worst so far",
        "12.3 us  core 3 > 1  SGI 1  pairs",
        "12.3 us c1 took SGI 1 of core 3",
        "q end the run",
    ] {
        assert!(all.contains(part), "{part} is missing in\n{all}");
    }
}

#[test]
fn every_size_can_be_drawn_and_nothing_is_invented_before_the_first_counters() {
    for width in [1, 10, 43, 44, 60, 80, 104, 250] {
        for height in [1, 3, 5, 12, 13, 20, 24, 60] {
            for cores in [1, 2, 4, 64] {
                let metric = Metric::ALL[usize::from(width + height) % Metric::ALL.len()];
                let mut view = View { metric, help: height % 2 == 0, ..View::default() };
                draw(width, height, &about(), &state(cores), &mut view);
            }
            draw(width, height, &about(), &State::default(), &mut View::default());
        }
    }
    draw(80, 24, &about(), &state(512), &mut View::default());
    let all = text(&draw(80, 24, &about(), &State::default(), &mut View::default()));
    assert!(all.contains("starting") && all.contains("waiting for the first counters"), "{all}");
}

#[test]
fn many_cores_share_cells_and_enter_shows_those_of_one() {
    let (about, state) = (about(), state(64));
    let mut view = View { metric: Metric::Max, ..View::default() };
    let all = text(&draw(80, 24, &about, &state, &mut view));
    assert!(all.contains("0-7") && all.contains("56-63"), "{all}");
    // Of eight by eight pairs, the greatest is told, and whose it is.
    assert!(all.contains("core 7 > 15, of 0-7 > 8-15"), "{all}");
    assert!(all.contains("1.1u"), "{all}");
    view.go(1, 0);
    view.zoom_in();
    let all = text(&draw(80, 24, &about, &state, &mut view));
    assert!(all.contains("core 8 > 8") && !all.contains("56-63"), "{all}");
    assert_eq!((view.drawn.0.len(), view.drawn.1.len()), (8, 8));
    view.go(9, 9);
    assert_eq!(view.cursor, Some((15, 15)), "the cursor stays within what is drawn");
    // A terminal that is large shows every core.
    view.zoom = None;
    draw(220, 80, &about, &state, &mut view);
    assert_eq!((view.drawn.0.len(), view.drawn.0.are_many()), (64, false));
}

#[test]
fn the_metric_and_the_phase_are_what_was_chosen() {
    let (about, state) = (about(), state(4));
    let mut view = View { metric: Metric::Lost, ..View::default() };
    let all = text(&draw(80, 24, &about, &state, &mut view));
    assert!(all.contains("lost IPIs · pairs (wfi)"), "{all}");
    view.shown = Shown::Phase(1);
    let all = text(&draw(80, 24, &about, &state, &mut view));
    assert!(all.contains("lost IPIs · storm (wfi)") && all.contains("nobody sends here"), "{all}");
    view.shown = Shown::All;
    assert!(text(&draw(80, 24, &about, &state, &mut view)).contains("lost IPIs · all phases"));
}

#[test]
fn without_colours_and_unicode_it_is_plain_ascii() {
    let about = About { color: false, unicode: false, ..about() };
    for (width, height, cores) in [(80, 24, 4), (80, 24, 64), (220, 80, 64)] {
        for metric in Metric::ALL {
            let mut view = View { metric, help: true, ..View::default() };
            let buffer = draw(width, height, &about, &state(cores), &mut view);
            let all = text(&buffer);
            assert!(all.is_ascii(), "{all}");
            let painted = buffer
                .content
                .iter()
                .find(|cell| cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset);
            assert_eq!(painted, None);
        }
    }
}

#[test]
fn the_cursor_and_losses_are_seen_without_colours() {
    let about = About { color: false, ..about() };
    let buffer = draw(80, 24, &about, &state(4), &mut View { metric: Metric::Max, ..View::default() });
    let reversed = buffer.content.iter().filter(|cell| cell.modifier.contains(Modifier::REVERSED)).count();
    assert!(reversed >= 4, "the cell under the cursor is {reversed} columns wide");
    let bold: String =
        buffer.content.iter().filter(|cell| cell.modifier.contains(Modifier::BOLD)).map(|cell| cell.symbol()).collect();
    assert!(bold.contains("lost 1"), "{bold}");
}

#[test]
fn an_end_that_was_asked_for_is_said() {
    let all = text(&draw(80, 24, &about(), &state(4), &mut View { asked: 1, ..View::default() }));
    assert!(all.contains("q again cuts it short") && all.contains("asked to end"), "{all}");
    let fetching = State { fetching: Some((3, 4)), ..state(4) };
    let all = text(&draw(80, 24, &about(), &fetching, &mut View::default()));
    assert!(all.contains("fetching what is left") && all.contains("75 %"), "{all}");
}

#[test]
fn rates_follow_what_is_counted() {
    let mut rate = None;
    smooth(&mut rate, 100, Duration::ZERO);
    assert_eq!(rate, None);
    smooth(&mut rate, 100, Duration::from_millis(100));
    assert_eq!(rate, Some(1000.0));
    for _ in 0..100 {
        smooth(&mut rate, 0, Duration::from_millis(100));
    }
    assert!(rate.is_some_and(|rate| rate < 1.0), "{rate:?}");
}
