//! The writer of `trace.dat`: what is written is read again, by the own reader and by trace-cmd.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use linux_trace::dat::{self, Counts, Meta, Writer};
use linux_trace::{Clock, Event, Mask, Name, Names, Tally, What};
use proptest::prelude::*;

/// The real traces; `None`: they are not on this machine.
fn traces() -> Option<PathBuf> {
    let folder = match std::env::var_os("IPISCOPE_LINUX_TRACES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/linux-ftrace"),
    };
    folder.is_dir().then_some(folder)
}

/// Whether trace-cmd is here; under CI it must be.
fn has_trace_cmd() -> bool {
    let has = Command::new("trace-cmd").arg("--version").output().is_ok();
    // ./setup.sh installs it.
    assert!(has || std::env::var_os("CI").is_none(), "no trace-cmd here, and under CI nothing is skipped");
    if !has {
        eprintln!("skipped: trace-cmd is not installed");
    }
    has
}

/// A file's bytes, or what `xz` makes of it.
fn bytes(path: &Path) -> Vec<u8> {
    if path.extension().is_none_or(|end| end != "xz") {
        return std::fs::read(path).unwrap();
    }
    let output = Command::new("xz").arg("-dc").arg(path).output().expect("xz unpacks the traces");
    assert!(output.status.success(), "{path:?}");
    output.stdout
}

fn meta(cpus: u16, clock: Clock) -> Meta {
    Meta { cpus, clock, machine: "board, bare metal".into(), recorder: "ipiscope test".into() }
}

fn write(meta: Meta, events: &[Event], names: &Names) -> (Vec<u8>, Counts) {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, Cursor::new(Vec::new()), meta);
    for event in events {
        writer.event(event, names).unwrap();
    }
    let counts = writer.finish(names).unwrap();
    assert_eq!(counts.bytes, out.len() as u64);
    (out, counts)
}

fn read(file: &[u8]) -> (dat::Header, Tally, Vec<Event>, Names) {
    let (mut names, mut events) = (Names::new(), Vec::new());
    let (header, tally) = dat::read(Cursor::new(file), &mut names, &mut |event, _| events.push(event)).unwrap();
    (header, tally, events, names)
}

/// What `trace-cmd report` prints of a file, which it must take without a word of warning.
fn report(file: &[u8], options: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.dat");
    std::fs::write(&path, file).unwrap();
    let output = Command::new("trace-cmd").arg("report").args(options).arg("-i").arg(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// One event of every kind on two CPUs, in the spelling of a kernel's text.
fn sample(names: &mut Names) -> Vec<Event> {
    let mut name = |text: &str| names.add(text.as_bytes());
    let reason = name("Function call interrupts");
    let (callsite, callback) = (name("generic_exec_single+0x54/0x178"), name("handler+0x0/0x40 [mod]"));
    let (function, raw) = (name("handler [mod]"), name("0xffff800080012345"));
    let (task, ipi) = (name("task"), name("IPI"));
    let (text, mark) = (name("from \"user\" space"), name(&"long ".repeat(60)));
    let flags = |text: &[u8]| {
        let mut flags = [0; 8];
        flags[..text.len()].copy_from_slice(text);
        flags
    };
    let mut targets = Mask::of(1).unwrap();
    targets.insert(33);
    let csd = 0xFFFF_0000_0900_0040;
    [
        (0, 100, 7, "d..2.", What::Queue { cpu: 1, callsite, function, csd }),
        (0, 150, 7, "d..2.", What::SendCpu { cpu: 1, callsite, callback }),
        (0, 160, 7, "d..2.", What::SendCpu { cpu: 1, callsite: raw, callback: Name::NONE }),
        (0, 170, 7, "d..2.", What::SendMask { targets, callsite, callback }),
        (0, 200, 7, "d.h2.", What::Raise { targets, reason }),
        (1, 1_000_000_000, 0, "d.h1.", What::IrqEntry { irq: 2, name: ipi }),
        (1, 1_000_000_001, 0, "dNh11", What::Entry { reason }),
        (1, 1_000_000_002, 0, "D.Z..", What::FunctionEntry { function, csd }),
        (1, 1_000_000_003, 0, "b.s..", What::FunctionExit { function, csd: 0 }),
        (1, 1_000_000_004, 0, ".....", What::Exit { reason }),
        (1, 1_000_000_005, 0, "d.h1.", What::IrqExit { irq: 2 }),
        (1, 1_000_000_006, 0, "d..1.", What::Idle { state: Some(1) }),
        (1, 1_000_000_007, 0, "d..1.", What::Idle { state: None }),
        (1, 1_000_000_008, 0, "d..2.", What::Switch { from: 0, to: 7 }),
        (0, 1_000_000_009, 7, ".....", What::Mark { function: Name::NONE, text, user: true }),
        (0, 1_000_000_010, 7, ".....", What::Mark { function, text: mark, user: false }),
    ]
    .into_iter()
    .map(|(cpu, t, pid, column, what)| Event {
        t,
        cpu,
        pid: Some(pid),
        comm: if pid == 0 { Name::NONE } else { task },
        flags: flags(column.as_bytes()),
        what,
    })
    .collect()
}

/// What trace-cmd prints of it, behind the task's column.
const SAMPLE: [&str; 16] = [
    "[000] 0.000000100: csd_queue_cpu: cpu=1 callsite=generic_exec_single+0x54 func=handler csd=0xffff000009000040",
    "[000] 0.000000150: ipi_send_cpu: cpu=1 callsite=generic_exec_single+0x54 callback=handler+0x0",
    "[000] 0.000000160: ipi_send_cpu: cpu=1 callsite=0xffff800080012345 callback=0x0",
    "[000] 0.000000170: ipi_send_cpumask: cpumask=1,33 callsite=generic_exec_single+0x54 callback=handler+0x0",
    "[000] 0.000000200: ipi_raise: target_mask=00000002,00000002 (Function call interrupts)",
    "[001] 1.000000000: irq_handler_entry: irq=2 name=IPI",
    "[001] 1.000000001: ipi_entry: (Function call interrupts)",
    "[001] 1.000000002: csd_function_entry: func=handler, csd=0xffff000009000040",
    "[001] 1.000000003: csd_function_exit: func=handler, csd=(nil)",
    "[001] 1.000000004: ipi_exit: (Function call interrupts)",
    "[001] 1.000000005: irq_handler_exit: irq=2 ret=handled",
    "[001] 1.000000006: cpu_idle: state=1 cpu_id=1",
    "[001] 1.000000007: cpu_idle: state=4294967295 cpu_id=1",
    "[001] 1.000000008: sched_switch: swapper/1:0 [120] R ==> task:7 [120]",
    "[000] 1.000000009: print: tracing_mark_write: from \"user\" space",
    "[000] 1.000000010: print: handler: long",
];

/// A line's words, with one space between them.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn trace_cmd_prints_the_kernels_words_of_every_kind() {
    if !has_trace_cmd() {
        return;
    }
    let mut names = Names::new();
    let events = sample(&mut names);
    let (file, counts) = write(meta(2, Clock::Mono), &events, &names);
    assert_eq!(counts, Counts { events: 16, pages: 2, bytes: file.len() as u64, ..Counts::default() });
    let lines = report(&file, &["-t"]);
    assert_eq!(lines[0], "cpus=2");
    assert_eq!(lines.len(), SAMPLE.len() + 1);
    for ((line, expected), event) in lines[1..].iter().zip(SAMPLE).zip(&events) {
        let task = if event.pid == Some(7) { "task-7" } else { "<idle>-0" };
        let line = words(line).replace(&["long"; 60].join(" "), "long");
        assert_eq!(line, format!("{task} {expected}"));
    }
    // The flags, as far as trace-cmd 3.1.6 knows them: nothing of bottom halves, one letter for hard interrupts and NMIs.
    let lines = report(&file, &["-l"]);
    let columns: Vec<&str> = lines[1..].iter().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    let expected = ["0d..2.", "0d..2.", "0d..2.", "0d..2.", "0d.h2.", "1d.h1.", "1dNh11", "1d.h..", "1..s..", "1....."];
    assert_eq!(columns[..10], expected);
}

#[test]
fn trace_cmd_prints_every_loss_and_every_time() {
    if !has_trace_cmd() {
        return;
    }
    let mut names = Names::new();
    let one = sample(&mut names)[6];
    let lost = |count| What::Lost { count };
    let times = [
        (5, one.what),
        (20, lost(Some(17))),
        (21, one.what),
        // Back within a page, and far ahead over the end of 59 bits.
        (10, one.what),
        (11, one.what),
        (1 << 60, one.what),
        ((1 << 60) + (1 << 27), one.what),
        (u64::MAX - 1, lost(Some(18))),
        (u64::MAX - 1, lost(None)),
        (u64::MAX, one.what),
        // Back where a stamp has not bits enough.
        ((1 << 60) + 7, one.what),
        ((1 << 60) + 7, lost(Some(19))),
    ];
    let events = times.map(|(t, what)| Event { t, what, pid: Some(0), ..one });
    let (file, counts) = write(meta(2, Clock::Local), &events, &names);
    let (_, tally, told, _) = read(&file);
    assert_eq!(counts, Counts { events: 8, gaps: 4, lost: 54, backwards: 2, pages: 7, bytes: file.len() as u64 });
    // Two losses have no event behind them.
    assert_eq!(tally, Tally { events: 12, others: 2, lost: 54, gaps: 4, ..Tally::default() });
    assert_eq!(told.iter().map(|event| event.t).collect::<Vec<_>>(), times.map(|(t, _)| t));
    let lines: Vec<String> = report(&file, &["-t"])[1..]
        .iter()
        .map(|line| match line.split_once("[001]") {
            None => line.clone(),
            Some((_, rest)) => words(rest),
        })
        .collect();
    let entry = |time: &str| format!("{time}: ipi_entry: (Function call interrupts)");
    let nothing = |time: &str| format!("{time}: nothing: no event behind this loss");
    assert_eq!(
        lines,
        [
            entry("0.000000005"),
            "CPU:1 [17 EVENTS DROPPED]".into(),
            entry("0.000000021"),
            entry("0.000000010"),
            entry("0.000000011"),
            entry("1152921504.606846976"),
            entry("1152921504.741064704"),
            "CPU:1 [18 EVENTS DROPPED]".into(),
            nothing("18446744073.709551614"),
            "CPU:1 [EVENTS DROPPED]".into(),
            entry("18446744073.709551615"),
            entry("1152921504.606846983"),
            "CPU:1 [19 EVENTS DROPPED]".into(),
            nothing("1152921504.606846983"),
        ]
    );
}

#[test]
fn a_file_without_events_and_one_of_512_cpus_are_files() {
    let mut names = Names::new();
    let one = sample(&mut names)[4];
    for cpus in [0, 1, 512] {
        let (file, _) = write(meta(cpus, Clock::Local), &[], &names);
        let (header, tally, ..) = read(&file);
        assert_eq!((header.cpus, tally), (u32::from(cpus.max(1)), Tally::default()));
        assert_eq!((header.clock, header.uname.as_deref()), (Clock::Local, Some("board, bare metal")));
        assert_eq!(header.recorder.as_deref(), Some("ipiscope test"));
        if has_trace_cmd() {
            let lines = report(&file, &[]);
            assert!(lines.iter().all(|line| line.ends_with(" is empty") || line.starts_with("cpus=")), "{lines:?}");
        }
        // An event on every CPU, and on one more than was said where there can be one.
        let all = (cpus.max(1) + 1).min(512);
        let events: Vec<Event> = (0..all).map(|cpu| Event { cpu, t: u64::from(cpu), ..one }).collect();
        let (file, counts) = write(meta(cpus, Clock::Local), &events, &names);
        assert_eq!(counts.events, events.len() as u64);
        let (header, tally, ..) = read(&file);
        assert_eq!((header.cpus, tally.events), (u32::from(all), events.len() as u64));
        if has_trace_cmd() {
            let lines = report(&file, &["-t"]);
            let raised = lines.iter().filter(|line| line.contains("ipi_raise:")).count();
            assert_eq!(raised, events.len());
            // As many longs as the CPUs need: one, or eight.
            let longs = usize::from(cpus).div_ceil(64).max(1);
            let mask = format!("target_mask={}00000002,00000002 (", "00000000,00000000,".repeat(longs - 1));
            assert!(lines.last().unwrap().contains(&mask), "{mask}");
        }
    }
}

#[test]
fn a_cpu_beyond_those_that_are_read_is_refused() {
    let mut names = Names::new();
    let one = sample(&mut names)[4];
    let mut writer = Writer::new(Vec::new(), Cursor::new(Vec::new()), Meta::default());
    let error = writer.event(&Event { cpu: 512, ..one }, &names).unwrap_err();
    assert_eq!(error.to_string(), "an event of CPU 512: a trace.dat has CPUs 0 to 511");
}

/// The real files that the writer must give again: recording, report, and how that was made.
const REAL: [(&str, &str, &[&str]); 8] = [
    ("k612-icount-slow-irqoff/slow-irqoff.dat", "k612-icount-slow-irqoff/slow-irqoff.report-ns.txt.xz", &["-t"]),
    ("k61-smp4-tracecmd/v7.dat", "k61-smp4-tracecmd/v7.report-ns.txt.xz", &["-t"]),
    ("k61-smp4-tracecmd/v7.dat", "k61-smp4-tracecmd/v7.report-latency.txt.xz", &["-l"]),
    ("k61-smp4-tracecmd/v6.dat.xz", "k61-smp4-tracecmd/v6.report.txt.xz", &[]),
    ("k612-smp4-tracecmd/v7.dat", "k612-smp4-tracecmd/v7.report-ns.txt.xz", &["-t"]),
    ("k612-smp4-tracecmd/v7.dat", "k612-smp4-tracecmd/v7.report-latency.txt.xz", &["-l"]),
    ("k612-smp4-tracecmd/v6.dat.xz", "k612-smp4-tracecmd/v6.report.txt.xz", &[]),
    ("k612-smp4-tracecmd/v7-mono-nocomp.dat.xz", "k612-smp4-tracecmd/v7-mono-nocomp.report-ns.txt.xz", &["-t"]),
];

/// A report's line as far as an event carries it: `sched_switch` without states, priorities, and names that come later.
fn carried(line: &str) -> String {
    let Some((head, rest)) = line.split_once("sched_switch:") else { return line.into() };
    let pid = |text: &str| text.split(" [").next().unwrap().rsplit(':').next().unwrap().to_owned();
    let (from, to) = rest.split_once(" ==> ").unwrap();
    format!("{head}sched_switch: {} {}", pid(from), pid(to))
}

#[test]
fn real_events_written_again_give_the_reports_of_the_real_files() {
    let Some(folder) = traces().filter(|_| has_trace_cmd()) else {
        return eprintln!("no real traces here; IPISCOPE_LINUX_TRACES names their folder");
    };
    for (dat, expected, options) in REAL {
        let (header, _, events, names) = read(&bytes(&folder.join(dat)));
        let (file, counts) = write(meta(header.cpus as u16, header.clock), &events, &names);
        assert_eq!((counts.events, counts.backwards), (events.len() as u64, 0), "{dat}");
        let (_, tally, again, new) = read(&file);
        assert_eq!(tally, Tally { events: events.len() as u64, ..Tally::default() }, "{dat}");
        for (event, again) in events.iter().zip(&again) {
            assert_eq!(told(event, &names), told(again, &new), "{dat}");
        }
        let expected = String::from_utf8(bytes(&folder.join(expected))).unwrap();
        let lines = report(&file, options);
        assert_eq!(lines.len(), expected.lines().count(), "{dat} {options:?}");
        for (line, expected) in lines.iter().zip(expected.lines()) {
            assert_eq!(carried(line), carried(expected), "{dat} {options:?}");
        }
    }
}

/// All that an event says, with its names as texts.
fn told(event: &Event, names: &Names) -> String {
    let mut text = format!("{event:?}");
    // `Name(7)` to the name: numbers are given in the order of use.
    while let Some((head, rest)) = text.split_once("Name(") {
        let (number, rest) = rest.split_once(')').unwrap();
        text = format!("{head}<{}>{rest}", names.text(Name(number.parse().unwrap())).escape_debug());
    }
    text
}

/// A symbol in the kernel's spelling, and what the reader gives of it as a place and as a function.
#[derive(Debug, Clone)]
struct Symbol {
    written: String,
    place: String,
    function: String,
}

fn symbol() -> impl Strategy<Value = Symbol> {
    let same = |text: String| Symbol { written: text.clone(), place: text.clone(), function: text };
    let offset = prop_oneof![0_u64..0x2000, 0_u64..(16 << 20)];
    // Where the file's own names lie no address of AArch64 is.
    let address = (1_u64..).prop_filter("the file's own", |at| !(0x10..0x20).contains(&(at >> 48)));
    let named = ("[a-z_]{1,3}(\\.[a-z]{2})?", offset, any::<bool>(), prop::option::of("[a-z_]{1,5}"));
    let named = named.prop_map(|(name, offset, size, module)| {
        let module = module.map_or(String::new(), |module| format!(" [{module}]"));
        let size = if size { "/0x1000000" } else { "" };
        Symbol {
            written: format!("{name}+{offset:#x}{size}{module}"),
            place: format!("{name}+{offset:#x}{module}"),
            function: format!("{name}{module}"),
        }
    });
    prop_oneof![1 => Just(same(String::new())), 1 => address.prop_map(move |at| same(format!("{at:#x}"))), 6 => named]
}

/// A text of the kernel that is no number.
fn string() -> impl Strategy<Value = String> {
    "[ -/1-~\t\né]{0,60}"
}

fn mask() -> impl Strategy<Value = Mask> {
    prop::collection::vec(0_u32..512, 0..5).prop_map(|cpus| {
        let mut mask = Mask::default();
        cpus.into_iter().for_each(|cpu| assert!(mask.insert(cpu)));
        mask
    })
}

/// What an event is made of.
#[derive(Debug, Clone)]
struct Drawn {
    kind: u8,
    from: Symbol,
    to: Symbol,
    text: String,
    targets: Mask,
    numbers: (u16, u32, u32, u64),
    count: Option<u64>,
}

impl Drawn {
    /// As it is written, or as it is read again: a symbol is read as a place, or as a function.
    fn what(&self, names: &mut Names, read: bool) -> What {
        let (targets, (cpu, a, b, csd)) = (self.targets, self.numbers);
        let mut add = |text: &str| names.add(text.as_bytes());
        let mut symbol = |written, read_as| add(if read { read_as } else { written });
        let callsite = symbol(&self.from.written, &self.from.place);
        let callback = symbol(&self.to.written, &self.to.place);
        let function = symbol(&self.to.written, &self.to.function);
        let reason = add(&self.text);
        // A mark's text is given without the white space at its end.
        let text = add(self.text.trim_ascii_end());
        match self.kind {
            0 => What::SendCpu { cpu, callsite, callback },
            1 => What::SendMask { targets, callsite, callback },
            2 => What::Queue { cpu, callsite, function, csd },
            3 => What::FunctionEntry { function, csd },
            4 => What::FunctionExit { function, csd },
            5 => What::Raise { targets, reason },
            6 => What::Entry { reason },
            7 => What::Exit { reason },
            8 => What::IrqEntry { irq: a, name: reason },
            9 => What::IrqExit { irq: a },
            10 => What::Idle { state: (a != u32::MAX).then_some(a) },
            11 => What::Idle { state: None },
            12 => What::Switch { from: a, to: b },
            13 => What::Mark { function: Name::NONE, text, user: true },
            14 => What::Mark { function, text, user: false },
            _ => What::Lost { count: self.count },
        }
    }
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let numbers = (0_u16..512, any::<u32>(), any::<u32>(), any::<u64>());
    (0_u8..16, symbol(), symbol(), string(), mask(), numbers, prop::option::of(any::<u64>())).prop_map(
        |(kind, from, to, text, targets, numbers, count)| Drawn { kind, from, to, text, targets, numbers, count },
    )
}

/// A step of a CPU's clock: none, short, over 27 bits, over 59 bits, and back.
fn step() -> impl Strategy<Value = i128> {
    let bits = |from: u32, to: u32| 1_i128 << from..1_i128 << to;
    prop_oneof![
        2 => Just(0),
        6 => bits(0, 20),
        2 => bits(20, 40),
        1 => bits(40, 63),
        1 => bits(0, 62).prop_map(|ns| -ns),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(
        cpus in 1_u16..=512,
        rows in prop::collection::vec(
            (0_u16..5, step(), prop::option::of(0_u32..9), "[.dDb][.nNpLlbB][.zZhHs][.1-9a-f][.1-9a-f]", drawn()),
            0..400,
        ),
    ) {
        let (mut names, mut new) = (Names::new(), Names::new());
        let mut clocks = [1_i128 << 40; 5];
        let (mut events, mut expected) = (Vec::new(), vec![Vec::new(); 5]);
        for (cpu, step, pid, column, drawn) in rows {
            let clock = &mut clocks[usize::from(cpu)];
            *clock = (*clock + step).clamp(0, u64::MAX.into());
            let mut flags = [0; 8];
            flags[..5].copy_from_slice(column.as_bytes());
            let (what, read) = (drawn.what(&mut names, false), drawn.what(&mut new, true));
            let comm = |names: &mut Names, idle: &str| match pid {
                None => Name::NONE,
                Some(0) => names.add(idle.as_bytes()),
                Some(pid) => names.add(format!("task {pid}").as_bytes()),
            };
            let event = Event { t: *clock as u64, cpu, pid, comm: comm(&mut names, "swapper"), flags, what };
            events.push(event);
            let comm = comm(&mut new, "<idle>");
            let read = match what {
                What::Lost { .. } => Event { pid: None, comm: Name::NONE, flags: [0; 8], what: read, ..event },
                _ => Event { comm, what: read, ..event },
            };
            expected[usize::from(cpu)].push((told(&read, &new), drawn));
        }
        let (file, counts) = write(meta(cpus, Clock::Mono), &events, &names);
        let (header, tally, again, new) = read(&file);
        prop_assert_eq!(tally.events, events.len() as u64);
        prop_assert_eq!((tally.unknown, tally.gaps, tally.lost), (0, counts.gaps, counts.lost));
        prop_assert!(header.cpus >= u32::from(cpus) && header.remarks.is_empty());
        for (cpu, expected) in expected.iter().enumerate() {
            let mut again = again.iter().filter(|event| usize::from(event.cpu) == cpu);
            for (expected, drawn) in expected {
                prop_assert_eq!(&told(again.next().unwrap(), &new), expected, "{:?}", drawn);
            }
        }
    }
}
