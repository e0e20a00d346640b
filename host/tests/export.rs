//! The export to ftrace: exact text, the kernel's forms, order, loss.

mod scene;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::capture::Capture;
use host::error::{Explain as _, exit};
use host::export::{Export, Format};
use host::plan::Keep;
use proptest::prelude::*;
use scene::{Batch, Scene, function};
use trace_ring::calls::IpiKind;
use trace_ring::layout::{Context, LANES_PER_CORE, core_state};
use trace_ring::reader::Loss;
use trace_ring::record::{
    Event, FLAG_DELIVERED, FLAG_SYNCHRONOUS, Kind, PEER_ALL, ReceiverState, SLOT_SHIFT, code_address,
};

const IRQ: Context = Context::Irq;
const THREAD: Context = Context::Thread;

/// Linux's header from its second line on: the counts are checked by themselves.
const LEGEND: &str = "\
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
";

// --- what happens on the target ---------------------------------------------------------------------------------------

fn bits(address: u64) -> u64 {
    assert_eq!(code_address(address as u32), address);
    address & 0xFFFF_FFFF
}

/// An address that a call in `call_single` returns to.
fn site() -> u64 {
    function("call_single") + 0x84
}

fn handler() -> u64 {
    function("generic_smp_call_function_single_interrupt")
}

impl Scene {
    fn queued(&mut self, t: u64, from: u16, context: Context, to: u16, descriptor: u32) {
        let arg = bits(function("drain_local_list")) | bits(site()) << 32;
        let event =
            Event { msg: descriptor, extra: 1, flags: FLAG_SYNCHRONOUS, arg, ..Scene::event(t, Kind::Queued, to, 1) };
        self.emit(from, context, event);
    }

    /// A send of kind `call_function`, and who it was.
    fn sent(&mut self, t: u64, from: u16, context: Context, to: u16) {
        let arg = self.slot(from, to) << SLOT_SHIFT | 3;
        self.emit(from, context, Event { msg: 7, arg, ..Scene::event(t, Kind::Send, to, 1) });
        let arg = bits(site()) | bits(handler()) << 32;
        self.emit(from, context, Event { msg: 7, arg, ..Scene::event(t, Kind::CallSite, to, 1) });
    }

    /// A send to a set of cores, word by word, and who it was.
    fn sent_to(&mut self, t: u64, from: u16, words: &[(u16, u64)]) {
        for ((first, mask), left) in words.iter().zip((0..words.len() as u8).rev()) {
            let event = Event { extra: left, msg: 9, arg: *mask, ..Scene::event(t, Kind::SendMask, *first, 1) };
            self.emit(from, THREAD, event);
        }
        let arg = bits(site()) | bits(handler()) << 32;
        let first = words.last().map_or(0, |(first, _)| *first);
        self.emit(from, THREAD, Event { arg, ..Scene::event(t, Kind::CallSite, first, 1) });
    }

    fn stage(&mut self, t: u64, core: u16, context: Context, stage: u8) {
        self.emit(core, context, Event { extra: stage, ..Scene::event(t, Kind::Stage, 0, 1) });
    }

    fn received(&mut self, t: u64, core: u16, context: Context, from: u16, state: ReceiverState, sent: u64) {
        let flags = state.code() | FLAG_DELIVERED;
        self.emit(core, context, Event { flags, msg: 7, arg: sent, ..Scene::event(t, Kind::Receive, from, 1) });
    }

    fn function(&mut self, t: u64, core: u16, context: Context, from: u16, descriptor: u32, begins: bool) {
        let kind = if begins { Kind::FunctionEntry } else { Kind::FunctionExit };
        let arg = bits(function("drain_local_list"));
        self.emit(core, context, Event { msg: descriptor, extra: 1, arg, ..Scene::event(t, kind, from, 1) });
    }

    /// One call from end to end, `step` ticks between its points.
    fn call(&mut self, t: u64, from: u16, to: u16, descriptor: u32, step: u64) {
        self.queued(t, from, THREAD, to, descriptor);
        self.sent(t + step, from, THREAD, to);
        self.stage(t + 3 * step, to, IRQ, 0);
        self.received(t + 2 * step, to, IRQ, from, ReceiverState::Wfi, t + step);
        self.function(t + 4 * step, to, IRQ, from, descriptor, true);
        self.function(t + 5 * step, to, IRQ, from, descriptor, false);
        self.stage(t + 6 * step, to, IRQ, 1);
    }

    fn export_in(&self, batches: Option<&[Batch]>, nanoseconds: bool) -> (String, Vec<String>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.mcap");
        match batches {
            Some(batches) => self.capture_in(&path, batches),
            None => self.capture(&path),
        }
        let capture = Capture::open(&path).expect("opens");
        let text = Export::prepare(&capture, Format::Ftrace, None).expect("can be exported");
        let mut bytes = Vec::new();
        text.write(nanoseconds, &mut bytes).expect("is written");
        let written = String::from_utf8(bytes).expect("is text");
        check(&written);
        (written, text.notes())
    }

    /// The lines behind the header.
    fn lines(&self) -> Vec<String> {
        body(&self.export_in(None, false).0)
    }
}

fn body(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.starts_with('#')).map(String::from).collect()
}

/// What is between the time and the end of each line.
fn events(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split_once(": ").map_or(line.as_str(), |(_, event)| event)).collect()
}

// --- the kernel's forms -----------------------------------------------------------------------------------------------

/// Checks a whole text: header, counts, every line, and that time never goes back.
fn check(text: &str) {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("# tracer: nop"));
    assert_eq!(lines.next(), Some("#"));
    let counts =
        lines.next().and_then(|line| line.strip_prefix("# entries-in-buffer/entries-written: ")).expect("counts");
    let (counts, cores) = counts.split_once("   #P:").expect("cores");
    let (have, written) = counts.split_once('/').expect("two counts");
    cores.parse::<u16>().expect("a number of cores");
    assert!(
        text.split_once("\n#\n").expect("a header").1.split_once('\n').expect("more").1.starts_with(LEGEND),
        "{text}"
    );
    let (mut entries, mut lost, mut before) = (0u64, 0u64, (0, 0));
    let mut stack = false;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with(" => ") {
            assert!(stack, "a frame of no stack:\n{line}");
            continue;
        }
        stack = line.ends_with(" <stack trace>");
        match parse(line).unwrap_or_else(|why| panic!("{why}:\n{line}")) {
            Line::Entry { time, .. } => {
                assert!(time >= before, "time goes back at:\n{line}");
                (entries, before) = (entries + 1, time);
            }
            Line::Lost(count) => lost += count,
            Line::Other if stack => entries += 1,
            Line::Other => panic!("not ours:\n{line}"),
        }
    }
    assert_eq!(have.parse::<u64>().expect("a count"), entries);
    assert_eq!(written.parse::<u64>().expect("a count"), entries + lost);
}

/// A line of the default layout.
#[derive(Debug, PartialEq)]
enum Line {
    /// An event: its time, its name, whether it is one of the eight that IPIs and calls have.
    Entry { time: (u64, u64), event: String, known: bool },
    /// Events that were overwritten.
    Lost(u64),
    /// Marks of the ring buffer, and lines of a stack.
    Other,
}

/// Reads `%16s-%-7d [%03d] flags %5lu.%06lu: event: …` (kernel/trace/trace_output.c), nine digits allowed.
fn parse(line: &str) -> Result<Line, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
    if let Some(rest) = line.strip_prefix("CPU:") {
        let (core, rest) = rest.split_once(" [LOST ").ok_or("no [LOST")?;
        number(core)?;
        return Ok(Line::Lost(number(rest.strip_suffix(" EVENTS]").ok_or("no EVENTS]")?)?));
    }
    if line.starts_with("##### CPU ") || line.starts_with(" => ") {
        return Ok(Line::Other);
    }
    let columns = [(16, b'-'), (24, b' '), (25, b'['), (29, b']'), (30, b' '), (36, b' ')];
    if let Some((at, _)) = columns.iter().find(|(at, mark)| line.as_bytes().get(*at) != Some(mark)) {
        return Err(format!("column {at} is not what the kernel has there"));
    }
    let task = line.get(..16).ok_or("no task")?;
    let name = task.trim_start();
    if name.is_empty() || name.len() > 15 || format!("{name:>16}") != task {
        return Err("the task's name is not right-aligned".into());
    }
    let process = line.get(17..24).ok_or("no process")?;
    let process = format!("{:<7}", number(process.trim_end())?) == process;
    if !process || line.get(26..29).is_none_or(|core| !core.bytes().all(|digit| digit.is_ascii_digit())) {
        return Err("process or core is not as it should be".into());
    }
    let flags = line.as_bytes().get(31..36).ok_or("no flags")?;
    let allowed: [&[u8]; 5] = [b".dDbX", b".NnplBL", b".hsHzZ", b".123456789abcdef", b".123456789abcdef"];
    if flags.iter().zip(allowed).any(|(flag, allowed)| !allowed.contains(flag)) {
        return Err(format!("flags {:?}", String::from_utf8_lossy(flags)));
    }
    let rest = line.get(37..).ok_or("no time")?;
    let (time, event) = rest.split_once(": ").ok_or("no event")?;
    let (seconds, fraction) = time.split_once('.').ok_or("no fraction of a second")?;
    let seconds_number = number(seconds.trim_start())?;
    if format!("{seconds_number:>5}") != seconds || ![6, 9].contains(&fraction.len()) {
        return Err(format!("time `{time}`"));
    }
    let time = (seconds_number, number(fraction)? * if fraction.len() == 6 { 1000 } else { 1 });
    if event == "<stack trace>" {
        return Ok(Line::Other);
    }
    let (event, text) = event.split_once(": ").ok_or("no text of the event")?;
    let known = known(event, text)?;
    Ok(Line::Entry { time, event: event.into(), known })
}

/// What stands before a value, and whether the value is good.
type Field = (&'static str, fn(&str) -> bool);

/// Checks the text of the eight events; false: another one.
fn known(event: &str, text: &str) -> Result<bool, String> {
    let fields: &[Field] = match event {
        "csd_queue_cpu" => &[("cpu=", core), (" callsite=", place), (" func=", name), (" csd=", pointer)],
        "ipi_send_cpu" => &[("cpu=", core), (" callsite=", place), (" callback=", place)],
        "ipi_send_cpumask" => &[("cpumask=", mask), (" callsite=", place), (" callback=", place)],
        "ipi_raise" => &[("target_mask=", mask), (" ", reason)],
        "ipi_entry" | "ipi_exit" => &[("", reason)],
        "csd_function_entry" | "csd_function_exit" => &[("func=", name), (", csd=", pointer)],
        _ => return Ok(false),
    };
    let mut rest = text;
    for (index, (label, good)) in fields.iter().enumerate() {
        rest = rest.strip_prefix(label).ok_or_else(|| format!("no `{label}` in `{rest}`"))?;
        let end = fields.get(index + 1).map_or(Some(rest.len()), |(next, _)| rest.find(next));
        let (value, after) = rest.split_at(end.ok_or_else(|| format!("nothing behind `{label}`"))?);
        if !good(value) {
            return Err(format!("`{label}{value}`"));
        }
        rest = after;
    }
    Ok(true)
}

fn core(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|core| core.to_string() == text)
}

fn number_in_hex(text: &str) -> bool {
    text.strip_prefix("0x")
        .is_some_and(|digits| u64::from_str_radix(digits, 16).is_ok_and(|_| !digits.starts_with('+')))
}

/// A symbol of a module has ` [module]` behind it.
fn without_module(text: &str) -> &str {
    text.strip_suffix(']').and_then(|text| text.split_once(" [")).map_or(text, |(text, _)| text)
}

/// `%pS`: `name+0x54/0x178`, or a number where there is no name.
fn place(text: &str) -> bool {
    let text = without_module(text);
    match text.rsplit_once('+').and_then(|(name, place)| Some((name, place.split_once('/')?))) {
        Some((symbol, (offset, size))) => name(symbol) && number_in_hex(offset) && number_in_hex(size),
        None => number_in_hex(text),
    }
}

/// `%ps`: the name alone.
fn name(text: &str) -> bool {
    let text = without_module(text);
    !text.is_empty() && !text.contains([' ', '+', ','])
}

/// `%p`.
fn pointer(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Groups of 32 bits, whole words of 64.
fn mask(text: &str) -> bool {
    let groups: Vec<&str> = text.split(',').collect();
    let good = |group: &&str| group.len() == 8 && group.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    groups.len().is_multiple_of(2) && groups.iter().all(good)
}

fn reason(text: &str) -> bool {
    text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).is_some_and(|reason| !reason.is_empty())
}

#[test]
fn the_parser_refuses_what_the_kernel_does_not_print() {
    let good = "         ipiwork-200     [001] d.h..    12.613243: csd_queue_cpu: cpu=0 callsite=f+0x54/0x178 func=g csd=00000000e6e89df3";
    assert!(matches!(parse(good), Ok(Line::Entry { time: (12, 613_243_000), known: true, .. })));
    for (from, to) in [
        ("         ipiwork", "        ipiwork"),
        ("-200    ", "-0200   "),
        ("[001]", "[1]"),
        ("d.h..", "d.h."),
        ("d.h..", "dqh.."),
        ("    12.613243", "12.613243"),
        ("12.613243", "12.61324"),
        ("cpu=0 ", "cpu=0, "),
        ("cpu=0", "cpu=00"),
        ("f+0x54/0x178", "f+54/0x178"),
        ("f+0x54/0x178", "f g+0x54/0x178"),
        ("func=g", "func=g+0x0/0x4"),
        ("csd=00000000", "csd=0x000000"),
        ("csd_queue_cpu: ", "csd_queue_cpu:"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(parse(&bad).is_err(), "{bad}");
    }
    for (event, bad) in [
        ("ipi_raise", "target_mask=0000000e (x)"),
        ("ipi_raise", "target_mask=00000000,0000000E (x)"),
        ("ipi_raise", "target_mask=00000000,0000000e x"),
        ("ipi_entry", "()"),
        ("csd_function_entry", "func=g csd=00000000e6e89df3"),
        ("ipi_send_cpumask", "cpumask=00000000,0000000e callsite=0x callback=0x0"),
        ("ipi_send_cpu", "cpu=1 callsite=f+0x1/0x2"),
    ] {
        assert!(known(event, bad).is_err(), "{event}: {bad}");
    }
    assert_eq!(known("sched_switch", "anything"), Ok(false));
}

/// The folder of traces that real kernels printed, where there is one: `LINUX_FTRACE`, or beside the checkout.
fn kernel_traces() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/linux-ftrace");
    let folder = std::env::var_os("LINUX_FTRACE").map_or(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

#[test]
fn the_parser_reads_every_line_that_kernels_print_in_the_default_layout() {
    let Some(folder) = kernel_traces() else {
        eprintln!("skipped: there are no kernel traces here (LINUX_FTRACE names their folder)");
        return;
    };
    let mut files = 0;
    let mut seen = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(&folder).expect("is a folder").flatten() {
        for file in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            let path = file.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
            let text = if name.ends_with(".trace.txt") {
                std::fs::read(&path).expect("is read")
            } else if name.ends_with(".trace.txt.xz") {
                match Command::new("xz").args(["-dc"]).arg(&path).output() {
                    Ok(output) if output.status.success() => output.stdout,
                    _ => continue,
                }
            } else {
                continue;
            };
            let text = String::from_utf8_lossy(&text);
            // Layouts with other columns have another legend, and clocks that count no seconds have no seconds. Some options keep
            // the legend and print something else under it; marks of users have line ends of their own.
            let ours = text.contains(LEGEND) && text.starts_with("# tracer: nop") || name.starts_with("v-pipe-lost");
            let other = ["v-fields", "v-hex", "v-marker", "v-no-", "v-raw", "counter", "uptime"];
            if !ours || other.iter().any(|part| name.contains(part)) {
                continue;
            }
            files += 1;
            for line in text.lines().filter(|line| !line.starts_with("# ") && *line != "#") {
                match parse(line).unwrap_or_else(|why| panic!("{}: {why}:\n{line}", path.display())) {
                    Line::Entry { event, known: true, .. } => *seen.entry(event).or_insert(0u64) += 1,
                    Line::Entry { .. } | Line::Other | Line::Lost(_) => {}
                }
            }
        }
    }
    let expected = [
        "csd_function_entry",
        "csd_function_exit",
        "csd_queue_cpu",
        "ipi_entry",
        "ipi_exit",
        "ipi_raise",
        "ipi_send_cpu",
        "ipi_send_cpumask",
    ];
    assert!(files > 0, "{} holds no trace of the default layout", folder.display());
    assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{files} files");
    eprintln!("{files} files, {} lines", seen.values().sum::<u64>());
}

// --- claims -----------------------------------------------------------------------------------------------------------

#[test]
fn a_call_is_printed_as_linux_prints_one() {
    let mut scene = Scene::new(4);
    // 62.5 MHz: 125 ticks are 2 us.
    scene.call(62_500_000 * 12 + 62, 0, 2, 5, 125);
    let csd = format!("{:016x}", scene.csd(5));
    let (text, notes) = scene.export_in(None, false);
    let header = format!("# tracer: nop\n#\n# entries-in-buffer/entries-written: 7/7   #P:4\n{LEGEND}");
    let expected = format!(
        "{header}\
         \x20       ipiscope-1       [000] .....    12.000000: csd_queue_cpu: cpu=2 callsite=call_single+0x84/0x100 func=drain_local_list csd={csd}\n\
         \x20       ipiscope-1       [000] .....    12.000002: ipi_send_cpu: cpu=2 callsite=call_single+0x84/0x100 callback=generic_smp_call_function_single_interrupt+0x0/0x60\n\
         \x20       ipiscope-1       [000] .....    12.000002: ipi_raise: target_mask=00000000,00000004 (Function call interrupts)\n\
         \x20         <idle>-0       [002] d.h..    12.000004: ipi_entry: (Function call interrupts)\n\
         \x20         <idle>-0       [002] d.h..    12.000008: csd_function_entry: func=drain_local_list, csd={csd}\n\
         \x20         <idle>-0       [002] d.h..    12.000010: csd_function_exit: func=drain_local_list, csd={csd}\n\
         \x20         <idle>-0       [002] d.h..    12.000012: ipi_exit: (Function call interrupts)\n"
    );
    assert_eq!(text, expected);
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn times_are_rounded_down_and_have_nine_digits_when_asked() {
    let mut scene = Scene::new(2);
    scene.hz = 3;
    for t in [1, 2, 3, 299_999_999, 3_000_000_002] {
        let arg = scene.bare_slot() << SLOT_SHIFT;
        scene.emit(0, THREAD, Event { arg, ..Scene::event(t, Kind::Send, 1, 2) });
    }
    let times = |nanoseconds| -> Vec<String> {
        let (text, _) = scene.export_in(None, nanoseconds);
        body(&text).iter().map(|line| line[37..].split_once(": ").expect("a time").0.to_string()).collect()
    };
    assert_eq!(times(false), ["    0.333333", "    0.666666", "    1.000000", "99999999.666666", "1000000000.666666"]);
    assert_eq!(
        times(true),
        ["    0.333333333", "    0.666666666", "    1.000000000", "99999999.666666666", "1000000000.666666666"]
    );
}

#[test]
fn bare_sgis_are_told_by_their_number_and_have_no_sender() {
    let mut scene = Scene::new(2);
    let arg = scene.bare_slot() << SLOT_SHIFT | 3;
    scene.emit(0, THREAD, Event { msg: 1, arg, ..Scene::event(1000, Kind::Send, 1, 2) });
    let flags = ReceiverState::Spin.code() | FLAG_DELIVERED;
    scene.emit(1, IRQ, Event { flags, msg: 1, arg: 1000, ..Scene::event(1100, Kind::Receive, 0, 2) });
    scene.emit(1, IRQ, Event { peer: PEER_ALL, ..Scene::event(1200, Kind::ReceiveEmpty, 0, 2) });
    let lines = scene.lines();
    // What is not known to be a message is told by what its INTID stands for.
    assert_eq!(
        events(&lines),
        ["ipi_raise: target_mask=00000000,00000002 (SGI 2)", "ipi_entry: (SGI 2)", "ipi_entry: (CPU stop interrupts)"]
    );
    assert!(
        lines[1].starts_with("        ipiscope-2       [001] d.h.."),
        "a core that spins is not idle: {}",
        lines[1]
    );
    // A plan without kinds has no other reasons.
    scene.calls = false;
    assert_eq!(events(&scene.lines())[2], "ipi_entry: (SGI 2)");
}

#[test]
fn masks_have_as_many_groups_as_the_machine_s_words() {
    for (cores, mask) in [
        (1, "00000000,00000000"),
        (4, "00000000,0000000e"),
        (40, "000000ff,fffffffe"),
        (64, "ffffffff,fffffffe"),
        (65, "00000000,00000001,ffffffff,fffffffe"),
        (72, "00000000,000000ff,ffffffff,fffffffe"),
    ] {
        let mut scene = Scene::new(cores);
        let arg = scene.slot(0, 0) << SLOT_SHIFT;
        scene.emit(0, THREAD, Event { arg, ..Scene::event(1000, Kind::Send, PEER_ALL, 1) });
        assert_eq!(events(&scene.lines()), [format!("ipi_raise: target_mask={mask} (Function call interrupts)")]);
    }
    // All others that are up: the one that did not come up is not raised.
    let mut scene = Scene::new(4);
    scene.cores[2].state = core_state::NO_SHOW;
    let arg = scene.slot(1, 0) << SLOT_SHIFT;
    scene.emit(1, THREAD, Event { arg, ..Scene::event(1000, Kind::Send, PEER_ALL, 1) });
    let (text, _) = scene.export_in(None, false);
    assert!(text.contains("target_mask=00000000,00000009 ") && text.contains("#P:3\n"), "{text}");
}

#[test]
fn a_call_to_many_is_one_send_to_a_mask() {
    let mut scene = Scene::new(72);
    scene.sent_to(1000, 3, &[(0, 0b1010), (64, 0b1000_0001)]);
    let mask = "00000000,00000081,00000000,0000000a";
    let place = "callsite=call_single+0x84/0x100 callback=generic_smp_call_function_single_interrupt+0x0/0x60";
    assert_eq!(
        events(&scene.lines()),
        [
            format!("ipi_send_cpumask: cpumask={mask} {place}"),
            format!("ipi_raise: target_mask={mask} (Function call interrupts)")
        ]
    );
    // A word of it that is missing leaves targets that nobody knows: it is left out, and that is said.
    let lane = 3 * LANES_PER_CORE;
    let batches = [Batch::Records(lane, 0, 1), Batch::Lost(lane, 1, 1, Loss::Torn), Batch::Records(lane, 2, 3)];
    let (text, notes) = scene.export_in(Some(&batches), false);
    assert_eq!(body(&text), ["CPU:3 [LOST 1 EVENTS]"]);
    assert!(notes.iter().any(|note| note.starts_with("1 sends to many cores are left out")), "{notes:?}");
}

#[test]
fn a_call_that_is_its_functions_last_instruction_is_told_as_that_functions() {
    let mut scene = Scene::new(2);
    let slot = scene.slot(0, 1);
    scene.emit(0, THREAD, Event { arg: slot << SLOT_SHIFT, ..Scene::event(1000, Kind::Send, 1, 1) });
    // It returns to where the next function begins; a callback's address is that function's own.
    let (site, callback) = (function("slow_callback"), function("slow_callback"));
    let arg = bits(site) | bits(callback) << 32;
    scene.emit(0, THREAD, Event { arg, ..Scene::event(1000, Kind::CallSite, 1, 1) });
    assert_eq!(
        events(&scene.lines())[0],
        "ipi_send_cpu: cpu=1 callsite=drain_local_list+0x40/0x40 callback=slow_callback+0x0/0x80"
    );
}

#[test]
fn a_sender_without_a_callback_prints_a_zero() {
    let mut scene = Scene::new(2);
    let slot = scene.slot(0, 1);
    scene.slots[slot as usize].kind = IpiKind::Reschedule.slot_code();
    scene.slots[slot as usize].intid = 0;
    scene.emit(0, THREAD, Event { arg: slot << SLOT_SHIFT, ..Scene::event(1000, Kind::Send, 1, 0) });
    scene.emit(0, THREAD, Event { arg: bits(site()), ..Scene::event(1000, Kind::CallSite, 1, 0) });
    // Another call site explains nothing: its send is not here.
    scene.emit(0, THREAD, Event { arg: bits(site()), ..Scene::event(1001, Kind::CallSite, 1, 0) });
    let expected = [
        "ipi_send_cpu: cpu=1 callsite=call_single+0x84/0x100 callback=0x0",
        "ipi_raise: target_mask=00000000,00000002 (Rescheduling interrupts)",
    ];
    assert_eq!(events(&scene.lines()), expected);
    // Without the ELF addresses stay numbers.
    scene.elf = false;
    let (text, notes) = scene.export_in(None, false);
    assert_eq!(events(&body(&text))[0], "ipi_send_cpu: cpu=1 callsite=0xffffffff80001184 callback=0x0");
    assert!(notes.iter().any(|note| note.contains("no ELF")), "{notes:?}");
}

#[test]
fn one_interrupt_that_answers_several_senders_is_one_entry() {
    let mut scene = Scene::new(4);
    let took = |from: u16, flags: u8| Event { flags, msg: 1, arg: 900, ..Scene::event(1000, Kind::Receive, from, 1) };
    scene.stage(1010, 3, IRQ, 0);
    scene.emit(3, IRQ, took(0, FLAG_DELIVERED));
    scene.emit(3, IRQ, took(1, 0));
    scene.emit(3, IRQ, took(2, 0));
    scene.stage(1020, 3, IRQ, 1);
    assert_eq!(
        events(&scene.lines()),
        ["ipi_entry: (Function call interrupts)", "ipi_exit: (Function call interrupts)"]
    );
    // Two interrupts whose entries a slow counter can't tell apart are two: each of them delivered something.
    let mut scene = Scene::new(4);
    scene.emit(3, IRQ, took(0, FLAG_DELIVERED));
    scene.emit(3, IRQ, took(1, FLAG_DELIVERED));
    assert_eq!(scene.lines().len(), 2);
}

#[test]
fn without_stages_there_is_no_exit_and_a_note_says_so() {
    let mut scene = Scene::new(2);
    scene.level = "ipi";
    scene.received(1000, 1, IRQ, 0, ReceiverState::Wfe, 900);
    let (text, notes) = scene.export_in(None, false);
    assert_eq!(events(&body(&text)), ["ipi_entry: (Function call interrupts)"]);
    assert!(body(&text)[0].contains("<idle>-0"), "{text}");
    assert!(notes.iter().any(|note| note.contains("no ipi_exit") && note.contains("`ipi`")), "{notes:?}");
}

#[test]
fn an_nmi_is_told_from_one_that_came_over_an_interrupt() {
    let mut scene = Scene::new(2);
    let nmi = Context::Nmi;
    scene.received(100, 1, nmi, 0, ReceiverState::Masked, 90);
    scene.stage(110, 1, nmi, 1);
    scene.received(200, 1, IRQ, 0, ReceiverState::Wfi, 190);
    scene.received(300, 1, nmi, 0, ReceiverState::Spin, 290);
    scene.stage(310, 1, nmi, 1);
    scene.stage(400, 1, IRQ, 1);
    scene.received(500, 1, nmi, 0, ReceiverState::Spin, 490);
    let flags: Vec<String> = scene.lines().iter().map(|line| line[31..36].to_string()).collect();
    assert_eq!(flags, ["d.z..", "d.z..", "d.h..", "d.Z..", "d.Z..", "d.h..", "d.z.."]);
}

#[test]
fn irq_work_leaves_no_csd_events_as_in_linux() {
    let mut scene = Scene::new(2);
    let work = IpiKind::IrqWork.intid();
    for (t, kind) in [(100, Kind::Queued), (200, Kind::FunctionEntry), (300, Kind::FunctionExit)] {
        scene.emit(1, IRQ, Event { arg: bits(function("slow_callback")), ..Scene::event(t, kind, 1, work) });
    }
    let (text, notes) = scene.export_in(None, false);
    assert!(body(&text).is_empty(), "{text}");
    assert!(notes.iter().any(|note| note.starts_with("IRQ work")), "{notes:?}");
}

#[test]
fn losses_stand_where_they_were() {
    let mut scene = Scene::new(2);
    for index in 0..8 {
        let arg = scene.bare_slot() << SLOT_SHIFT;
        scene.emit(0, THREAD, Event { arg, ..Scene::event(1000 + index, Kind::Send, 1, 2) });
    }
    scene.received(1003, 1, IRQ, 0, ReceiverState::Wfi, 1002);
    scene.left.insert(0, 4);
    let other = LANES_PER_CORE + IRQ as usize;
    let batches = [
        Batch::Records(other, 0, 1),
        // Lapped before the first; a gap that nobody explains; what the policy turned away, and what stayed in the target.
        Batch::Lost(0, 0, 2, Loss::Lapped),
        Batch::Records(0, 2, 3),
        Batch::Records(0, 5, 8),
        Batch::Lost(0, 8, 3, Loss::Dropped),
    ];
    let (text, _) = scene.export_in(Some(&batches), false);
    let lines = body(&text);
    let raise = "ipi_raise: target_mask=00000000,00000002 (SGI 2)";
    let expected = [
        "CPU:0 [LOST 2 EVENTS]",
        raise,
        "ipi_entry: (Function call interrupts)",
        "CPU:0 [LOST 2 EVENTS]",
        raise,
        raise,
        raise,
        // Written are 12: 8 have numbers, 3 were turned away, 1 more is missing.
        "CPU:0 [LOST 4 EVENTS]",
    ];
    assert_eq!(events(&lines), expected);
    assert!(text.contains("entries-written: 5/13 "), "{text}");
}

#[test]
fn a_capture_that_was_cut_or_joined_by_hand_tells_each_record_once() {
    let mut scene = Scene::new(2);
    for t in 1000..1004 {
        let arg = scene.bare_slot() << SLOT_SHIFT;
        scene.emit(0, THREAD, Event { arg, ..Scene::event(t, Kind::Send, 1, 2) });
    }
    // Nobody says how many were written: what was turned away is told by itself.
    scene.ended = None;
    let batches = [Batch::Records(0, 0, 3), Batch::Records(0, 1, 4), Batch::Lost(0, 4, 3, Loss::Dropped)];
    let lines = body(&scene.export_in(Some(&batches), false).0);
    let raise = "ipi_raise: target_mask=00000000,00000002 (SGI 2)";
    assert_eq!(events(&lines), [raise, raise, raise, raise, "CPU:0 [LOST 3 EVENTS]"]);
}

#[test]
fn what_the_capture_was_not_made_to_keep_is_not_lost() {
    let mut scene = Scene::new(2);
    scene.keep = Keep::Worst(2);
    for t in [1000, 2000, 3000] {
        scene.received(t, 1, IRQ, 0, ReceiverState::Wfi, t - t / 100);
    }
    let (text, notes) = scene.export_in(None, false);
    assert_eq!(body(&text).len(), 2, "{text}");
    assert!(!text.contains("LOST"), "{text}");
    assert!(notes.iter().any(|note| note.contains("--keep")), "{notes:?}");
}

#[test]
fn what_happens_in_one_tick_is_told_in_the_order_of_causes() {
    // Every point of a call in one tick: the receiver's lanes come first in the file, and its core has the lower number.
    let mut scene = Scene::new(2);
    scene.call(1000, 1, 0, 5, 0);
    let names: Vec<String> =
        scene.lines().iter().map(|line| line[37..].split(": ").nth(1).expect("a name").to_string()).collect();
    let expected = [
        "csd_queue_cpu",
        "ipi_send_cpu",
        "ipi_raise",
        "ipi_entry",
        "csd_function_entry",
        "csd_function_exit",
        "ipi_exit",
    ];
    assert_eq!(names, expected);

    // A chain, still in the same tick: the callback on core 1 calls core 0.
    let mut scene = Scene::new(3);
    scene.queued(1000, 2, THREAD, 1, 5);
    scene.sent(1000, 2, THREAD, 1);
    scene.received(1000, 1, IRQ, 2, ReceiverState::Wfi, 1000);
    scene.function(1000, 1, IRQ, 2, 5, true);
    scene.queued(1000, 1, IRQ, 0, 6);
    scene.sent(1000, 1, IRQ, 0);
    scene.function(1000, 1, IRQ, 2, 5, false);
    scene.stage(1000, 1, IRQ, 1);
    scene.received(1000, 0, IRQ, 1, ReceiverState::Wfi, 1000);
    scene.function(1000, 0, IRQ, 1, 6, true);
    scene.function(1000, 0, IRQ, 1, 6, false);
    scene.stage(1000, 0, IRQ, 1);
    let order: Vec<(String, String)> = scene
        .lines()
        .iter()
        .map(|line| (line[26..29].to_string(), line[37..].split(": ").nth(1).expect("a name").to_string()))
        .collect();
    let at = |core: &str, name: &str| {
        order.iter().position(|(on, event)| (on.as_str(), event.as_str()) == (core, name)).expect("is there")
    };
    for (cause, effect) in [
        (("002", "ipi_raise"), ("001", "ipi_entry")),
        (("002", "csd_queue_cpu"), ("001", "csd_function_entry")),
        (("001", "csd_function_entry"), ("001", "csd_queue_cpu")),
        (("001", "ipi_raise"), ("000", "ipi_entry")),
        (("001", "csd_queue_cpu"), ("000", "csd_function_entry")),
    ] {
        assert!(at(cause.0, cause.1) < at(effect.0, effect.1), "{cause:?} before {effect:?} in {order:?}");
    }

    // A function that begins in the tick in which another callback queued it: its own interrupt came before.
    let mut scene = Scene::new(3);
    scene.received(900, 0, IRQ, 2, ReceiverState::Wfi, 800);
    scene.function(1000, 0, IRQ, 1, 6, true);
    scene.received(1000, 1, IRQ, 2, ReceiverState::Wfi, 800);
    scene.queued(1000, 1, IRQ, 0, 6);
    let names: Vec<String> =
        scene.lines().iter().map(|line| line[37..].split(": ").nth(1).expect("a name").to_string()).collect();
    assert_eq!(names, ["ipi_entry", "ipi_entry", "csd_queue_cpu", "csd_function_entry"]);

    // A descriptor that is used again in the same tick was freed before by the core that took it.
    let mut scene = Scene::new(2);
    scene.queued(1000, 1, THREAD, 0, 5);
    let again = Event { msg: 5, extra: 2, ..Scene::event(1000, Kind::Queued, 0, 1) };
    scene.emit(1, THREAD, again);
    scene.received(1000, 0, IRQ, 1, ReceiverState::Wfi, 900);
    scene.function(1000, 0, IRQ, 1, 5, true);
    let names: Vec<String> =
        scene.lines().iter().map(|line| line[37..].split(": ").nth(1).expect("a name").to_string()).collect();
    assert_eq!(names, ["csd_queue_cpu", "ipi_entry", "csd_function_entry", "csd_queue_cpu"]);

    // A thread goes on only when the interrupt above it has ended.
    let mut scene = Scene::new(2);
    scene.received(900, 0, IRQ, 1, ReceiverState::Spin, 800);
    scene.stage(1000, 0, IRQ, 1);
    scene.sent(1000, 0, THREAD, 1);
    let names: Vec<String> =
        scene.lines().iter().map(|line| line[37..].split(": ").nth(1).expect("a name").to_string()).collect();
    assert_eq!(names, ["ipi_entry", "ipi_exit", "ipi_send_cpu", "ipi_raise"]);
}

#[test]
fn lanes_are_merged_whatever_the_order_of_the_file() {
    let mut scene = Scene::new(4);
    for round in 0..60 {
        let from = (round % 4) as u16;
        scene.call(1_000 + round * 700, from, (from + 1 + (round / 4 % 3) as u16) % 4, round as u32, 100);
    }
    let expected = scene.export_in(None, false).0;
    let ends: Vec<usize> = scene.lanes.iter().map(Vec::len).collect();
    // A live drain: a little of every lane in turn; more batches than a stretch holds.
    let mut small = Vec::new();
    for first in 0..ends.iter().copied().max().unwrap_or(0) {
        small.extend(
            (0..ends.len()).filter(|lane| first < ends[*lane]).map(|lane| Batch::Records(lane, first, first + 1)),
        );
    }
    assert!(small.len() > 300);
    // The last lane whole before the first; and the same record by record, so that late stretches hold early times.
    let backwards: Vec<Batch> = (0..ends.len()).rev().map(|lane| Batch::Records(lane, 0, ends[lane])).collect();
    let one_by_one = |lane: usize| (0..ends[lane]).map(move |first| Batch::Records(lane, first, first + 1));
    let lane_by_lane: Vec<Batch> = (0..ends.len()).rev().flat_map(one_by_one).collect();
    for batches in [small, backwards, lane_by_lane] {
        assert_eq!(scene.export_in(Some(&batches), false).0, expected);
    }
}

#[test]
fn a_capture_that_does_not_tell_its_clock_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.mcap");
    for (snapshot, hz, names) in [(false, 1, "no snapshot"), (true, 0, "CNTFRQ_EL0")] {
        let mut scene = Scene::new(2);
        (scene.snapshot, scene.hz) = (snapshot, hz);
        scene.capture(&path);
        let capture = Capture::open(&path).expect("opens");
        let error = Export::prepare(&capture, Format::Ftrace, None).expect_err("has no clock");
        assert!(error.to_string().contains(names), "{error}");
        assert_eq!(error.exit_code(), exit::UNMEASURED);
    }
}

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipiscope"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn the_verb_writes_text_and_a_reader_that_leaves_is_content() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.mcap");
    let mut scene = Scene::new(4);
    for round in 0..2000 {
        scene.call(1_000 + round * 700, 0, 2, 5, 100);
    }
    scene.capture(&path);
    let capture = path.to_str().expect("a path");
    let out = folder.path().join("a.txt");
    let output = tool(&["export", capture, "--to", "ftrace", "--ns", "--out", out.to_str().expect("a path")]).output();
    let output = output.expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let written = std::fs::read_to_string(&out).expect("was written");
    check(&written);
    assert_eq!(body(&written).len(), 14_000);

    // The text is longer than a pipe holds: the tool meets the end of its reader.
    let mut child = tool(&["export", capture, "--to", "ftrace"]).spawn().expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));

    // What would destroy the capture is refused, and the capture stays.
    let before = std::fs::read(&path).expect("is there");
    let output = tool(&["export", capture, "--to", "ftrace", "--out", capture]).output().expect("runs");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(std::fs::read(&path).expect("is there"), before);
    // A disk that is full, and a folder that is not there.
    if Path::new("/dev/full").exists() {
        let output = tool(&["export", capture, "--to", "ftrace", "--out", "/dev/full"]).output().expect("runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("/dev/full") && stderr.contains("next step"), "{stderr}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever records a lane holds: the text has the kernel's forms, its counts are right, time never goes back.
    #[test]
    fn any_records_give_lines_in_order(
        records in prop::collection::vec((0u16..5, 0u8..4, 0u64..40, 1u8..20, any::<[u8; 4]>(), any::<u64>()), 0..120),
        cut in 0usize..200,
    ) {
        let mut scene = Scene::new(4);
        scene.lanes.resize(5 * LANES_PER_CORE, Vec::new());
        for (core, context, t, kind, [flags, peer, extra, intid], arg) in records {
            let event = Event {
                t: if t == 39 { u64::MAX } else { t },
                kind: Kind::from_code(kind),
                flags,
                peer: if peer == 255 { PEER_ALL } else { peer.into() },
                msg: arg as u32 & 3,
                intid: intid & 7,
                extra: extra & 3,
                arg,
            };
            scene.emit(core, Context::ALL[usize::from(context)], event);
        }
        let mut batches = Vec::new();
        for lane in 0..scene.lanes.len() {
            let end = scene.lanes[lane].len();
            let cut = cut.min(end);
            batches.extend([Batch::Records(lane, cut, end), Batch::Records(lane, 0, cut)]);
        }
        scene.lanes.truncate(4 * LANES_PER_CORE);
        let batches: Vec<Batch> = batches
            .into_iter()
            .filter(|batch| matches!(batch, Batch::Records(lane, ..) if *lane < 4 * LANES_PER_CORE))
            .collect();
        // `export_in` checks every line.
        scene.export_in(Some(&batches), false);
    }
}
