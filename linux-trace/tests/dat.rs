//! `trace.dat` files, real and made: every event is what trace-cmd prints, and no damage does more than it must.

mod writer;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use linux_trace::dat::{self, DatError, Header};
use linux_trace::{Clock, Event, Mask, Name, Names, Tally, What};
use proptest::prelude::*;
use writer::{CALL, FORMAT, HANDLER, MARKER, SENDER, TEXT, Value, Writer};

/// The real traces; `None`: they are not on this machine.
fn traces() -> Option<PathBuf> {
    let folder = match std::env::var_os("IPISCOPE_LINUX_TRACES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/linux-ftrace"),
    };
    folder.is_dir().then_some(folder)
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

fn read(bytes: &[u8]) -> Result<(Header, Tally, Vec<Event>, Names), DatError> {
    let (mut names, mut events) = (Names::new(), Vec::new());
    let (header, tally) = dat::read(Cursor::new(bytes), &mut names, &mut |event, _| events.push(event))?;
    Ok((header, tally, events, names))
}

/// The kernel's spelling of a mask, of `cpus` CPUs.
fn mask(mask: &Mask, cpus: u32) -> String {
    let words = cpus.div_ceil(64) as usize;
    let groups = mask.words()[..words].iter().rev();
    groups.map(|word| format!("{:08x},{:08x}", word >> 32, word & 0xFFFF_FFFF)).collect::<Vec<_>>().join(",")
}

/// An event's name and arguments as trace-cmd prints them.
fn printed(event: &Event, names: &Names, cpus: u32) -> (&'static str, String) {
    let text = |name: Name| names.text(name).to_owned();
    let place = |name: Name| if name.is_none() { "0x0".into() } else { text(name) };
    let pointer = |csd: u64| if csd == 0 { "(nil)".into() } else { format!("{csd:#x}") };
    match event.what {
        What::Raise { targets, reason } => {
            ("ipi_raise", format!("target_mask={} ({})", mask(&targets, cpus), text(reason)))
        }
        What::Entry { reason } => ("ipi_entry", format!("({})", text(reason))),
        What::Exit { reason } => ("ipi_exit", format!("({})", text(reason))),
        What::SendCpu { cpu, callsite, callback } => {
            ("ipi_send_cpu", format!("cpu={cpu} callsite={} callback={}", place(callsite), place(callback)))
        }
        // trace-cmd prints the bitmap of `ipi_raise` in groups, and this cpumask as a list.
        What::SendMask { targets, callsite, callback } => {
            ("ipi_send_cpumask", format!("cpumask={targets} callsite={} callback={}", place(callsite), place(callback)))
        }
        What::Queue { cpu, callsite, function, csd } => (
            "csd_queue_cpu",
            format!("cpu={cpu} callsite={} func={} csd={}", place(callsite), text(function), pointer(csd)),
        ),
        What::FunctionEntry { function, csd } => {
            ("csd_function_entry", format!("func={}, csd={}", text(function), pointer(csd)))
        }
        What::FunctionExit { function, csd } => {
            ("csd_function_exit", format!("func={}, csd={}", text(function), pointer(csd)))
        }
        What::IrqEntry { irq, name } => ("irq_handler_entry", format!("irq={irq} name={}", text(name))),
        What::IrqExit { irq } => ("irq_handler_exit", format!("irq={irq}")),
        What::Idle { state } => ("cpu_idle", format!("state={}", state.unwrap_or(u32::MAX))),
        What::Switch { from, to } => ("sched_switch", format!("{from} ==> {to}")),
        What::Mark { user: true, text: mark, .. } => ("print", text(mark)),
        What::Mark { function, text: mark, .. } => ("bprint", format!("{}: {}", text(function), text(mark))),
        What::Lost { count } => ("lost", format!("{count:?}")),
    }
}

/// A line of `trace-cmd report`: task, pid, CPU, time, name, arguments.
fn line(line: &str) -> Option<(&str, u32, u16, &str, &str, String)> {
    let (head, rest) = line.split_once(": ")?;
    let (head, time) = head.trim().rsplit_once(' ')?;
    let (task, cpu) = head.trim().rsplit_once(' ')?;
    let (comm, pid) = task.trim().rsplit_once('-')?;
    let cpu = cpu.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    let (name, arguments) = rest.trim().split_once(':')?;
    let mut arguments = arguments.trim().to_owned();
    if name == "sched_switch" {
        let (from, to) = arguments.split_once(" ==> ")?;
        let pid = |text: &str| Some(text.split_once(" [")?.0.rsplit_once(':')?.1.to_owned());
        arguments = format!("{} ==> {}", pid(from)?, pid(to)?);
    }
    Some((comm, pid.parse().ok()?, cpu, time, name, arguments))
}

#[test]
fn every_event_of_the_real_files_is_what_trace_cmd_reports() {
    let Some(folder) = traces() else {
        return eprintln!("no real traces here; IPISCOPE_LINUX_TRACES names their folder");
    };
    let mut files = vec![(
        folder.join("k612-icount-slow-irqoff/slow-irqoff.dat"),
        folder.join("k612-icount-slow-irqoff/slow-irqoff.report-ns.txt.xz"),
    )];
    for kernel in ["k61", "k612"] {
        for (dat, report) in [
            ("v7.dat", "v7.report-ns.txt.xz"),
            ("v7-mono-nocomp.dat.xz", "v7-mono-nocomp.report-ns.txt.xz"),
            ("v6.dat.xz", "v6.report.txt.xz"),
        ] {
            let folder = folder.join(format!("{kernel}-smp4-tracecmd"));
            files.push((folder.join(dat), folder.join(report)));
        }
    }
    for (dat, report) in files {
        let report = String::from_utf8(bytes(&report)).unwrap();
        let expected: Vec<_> = report.lines().filter_map(line).collect();
        let (header, tally, events, names) = read(&bytes(&dat)).unwrap();
        assert_eq!(header.cpus, 4, "{dat:?}");
        assert_eq!((header.other_buffers, header.remarks), (Vec::new(), Vec::new()));
        assert_eq!(expected.len() + 1, report.lines().count(), "all lines but the first are events");
        assert_eq!(events.len(), expected.len(), "{dat:?}");
        assert_eq!(tally, Tally { events: events.len() as u64, ..Tally::default() }, "{dat:?}");
        let mono = dat.to_string_lossy().contains("mono");
        assert_eq!(header.clock, if mono { Clock::Mono } else { Clock::Local });
        assert_eq!(header.recorder.as_deref().map(|text| &text[..5]), Some("3.1.6"));
        for (at, (event, (comm, pid, cpu, time, name, arguments))) in events.iter().zip(&expected).enumerate() {
            let ns = time.split_once('.').unwrap().1.len() == 9;
            let time = time.replace('.', "").parse::<u64>().unwrap();
            // trace-cmd rounds to microseconds.
            let t = if ns { event.t } else { (event.t + 500) / 1000 };
            assert_eq!((t, event.cpu, event.pid), (time, *cpu, Some(*pid)), "{dat:?} event {at}");
            assert_eq!(printed(event, &names, 4), (*name, arguments.clone()), "{dat:?} event {at}");
            let own = names.text(event.comm);
            assert!(own == *comm || (own.is_empty() && *comm == "<...>"), "{dat:?} event {at}: {own} is {comm}");
        }
    }
}

#[test]
fn flags_of_the_real_files_are_those_of_the_latency_report() {
    let Some(folder) = traces() else { return };
    for kernel in ["k61", "k612"] {
        let folder = folder.join(format!("{kernel}-smp4-tracecmd"));
        let (_, _, events, _) = read(&bytes(&folder.join("v7.dat"))).unwrap();
        let report = String::from_utf8(bytes(&folder.join("v7.report-latency.txt.xz"))).unwrap();
        assert_eq!(events.len() + 1, report.lines().count());
        for (event, line) in events.iter().zip(report.lines().skip(1)) {
            let column = line.split_once(": ").unwrap().0.rsplit_once(' ').unwrap().0.trim();
            let column = column.rsplit_once(' ').unwrap().1.trim_start_matches(|letter: char| letter.is_ascii_digit());
            let flags = String::from_utf8_lossy(&event.flags).trim_end_matches('\0').to_owned();
            // trace-cmd 3.1.6 knows one letter for all ways to want a reschedule, and nothing of bottom halves.
            let known = flags.replace('n', "N").replace('D', "d").replace('b', ".");
            assert_eq!(known, column, "{line}");
        }
    }
    // The kernel's own text of the same events knows them all.
    let folder = folder.join("k612-icount-slow-irqoff");
    let (_, _, events, _) = read(&bytes(&folder.join("slow-irqoff.dat"))).unwrap();
    let text = String::from_utf8(bytes(&folder.join("slow-irqoff.trace.txt.xz"))).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(events.len(), lines.len());
    for (event, line) in events.iter().zip(lines) {
        let flags = String::from_utf8_lossy(&event.flags).trim_end_matches('\0').to_owned();
        assert!(line.contains(&format!("[{:03}] {flags} ", event.cpu)), "{flags}: {line}");
    }
}

#[test]
fn the_slow_capture_has_as_many_events_of_each_kind_as_its_text() {
    let Some(folder) = traces() else { return };
    let folder = folder.join("k612-icount-slow-irqoff");
    let (header, _, events, names) = read(&bytes(&folder.join("slow-irqoff.dat"))).unwrap();
    let mut counts = BTreeMap::<_, u64>::new();
    for event in &events {
        *counts.entry(printed(event, &names, 4).0).or_default() += 1;
    }
    let summary = std::fs::read_to_string(folder.join("slow-irqoff.summary.json")).unwrap();
    let section = summary.split_once("\"by_event\": {").unwrap().1.split_once('}').unwrap().0;
    let mut told = 0;
    for pair in section.split(',') {
        let (name, count) = pair.trim().split_once(": ").unwrap();
        assert_eq!(counts.get(name.trim_matches('"')).copied(), count.trim().parse().ok(), "{name}");
        told += 1;
    }
    assert_eq!(told, counts.len());
    let overruns = header.stats.iter().map(|stat| (stat.cpu, stat.overrun)).collect::<Vec<_>>();
    assert_eq!(overruns, [(0, 0), (1, 0), (2, 0), (3, 0)]);
}

/// One event of every kind, on two CPUs, with pauses of every length.
fn sample(big: bool, long: usize) -> Writer {
    let mut writer = Writer::new(big, long, 2);
    let number = Value::Number;
    let mut arguments = Vec::new();
    writer.put(&mut arguments, 3, 4);
    arguments.extend_from_slice(b"ten\0");
    writer.put(&mut arguments, HANDLER + 4, long);
    let fill = "x".repeat(200);
    for (cpu, t, name, pid, values) in [
        (0, 100, "ipi_raise", 7, vec![Value::Mask(1 << 33 | 2), number(CALL)]),
        (1, 100, "ipi_entry", 0, vec![number(CALL)]),
        (1, 150, "ipi_exit", 0, vec![number(CALL)]),
        (0, 1_000_000_000, "ipi_send_cpu", 8, vec![number(1), number(SENDER + 0x54), number(0)]),
        (0, 1_000_000_001, "ipi_send_cpumask", 7, vec![Value::Mask(3), number(SENDER), number(HANDLER)]),
        (0, 1_000_000_002, "csd_queue_cpu", 7, vec![number(1), number(SENDER), number(HANDLER), number(0x9000_0040)]),
        (1, 2_000_000_000, "csd_function_entry", 0, vec![number(HANDLER), number(0x9000_0040)]),
        (1, 2_000_000_001, "csd_function_exit", 0, vec![number(HANDLER), number(0x9000_0040)]),
        (1, 2_000_000_002, "sched_wakeup", 0, vec![number(7)]),
        (1, 2_000_000_003, "irq_handler_entry", 0, vec![number(2), Value::Bytes(b"IPI\0")]),
        (1, 2_000_000_004, "irq_handler_exit", 0, vec![number(2), number(1)]),
        (1, 2_000_000_005, "cpu_idle", 0, vec![number(u32::MAX.into()), number(1)]),
        (0, 2_000_000_006, "print", 7, vec![number(MARKER + 8), Value::Bytes(b"from user space\n\0")]),
        (0, 2_000_000_007, "print", 7, vec![number(SENDER + 8), Value::Bytes(fill.as_bytes())]),
        (0, 2_000_000_008, "bputs", 7, vec![number(SENDER), number(TEXT)]),
        (0, 2_000_000_009, "bprint", 7, vec![number(SENDER), number(FORMAT), Value::Bytes(&arguments)]),
        (0, 2_000_000_010, "raw_data", 7, vec![number(0x1234), Value::Bytes(&[1, 2])]),
    ] {
        let record = writer.record(name, pid, &values);
        writer.event(cpu, t, &record);
    }
    writer
}

#[test]
fn every_version_packing_byte_order_and_word_size_gives_the_same_events() {
    for (big, long) in [(false, 8), (true, 8), (false, 4), (true, 4)] {
        let writer = sample(big, long);
        for (file, packing) in [
            (writer.v6(), "none"),
            (writer.v7("none"), "none"),
            (writer.v7("zlib"), "zlib"),
            (writer.v7("zstd"), "zstd"),
        ] {
            assert!(dat::is_dat(&file[..10]) && !dat::is_dat(b"# tracer: nop"));
            let (header, tally, events, names) = read(&file).unwrap();
            assert_eq!((header.long_size, header.big_endian, header.cpus), (long as u8, big, 2));
            assert_eq!(header.compression, packing);
            assert_eq!(tally, Tally { events: 16, others: 1, ..Tally::default() });
            let lines: Vec<String> = events
                .iter()
                .map(|event| {
                    let (name, arguments) = printed(event, &names, 34);
                    let arguments = arguments.replace(&"x".repeat(200), "long");
                    format!("{} {} {} {name}: {arguments}", names.text(event.comm), event.cpu, event.t)
                })
                .collect();
            let expected = [
                "task 0 100 ipi_raise: target_mask=00000002,00000002 (Function call interrupts)",
                "<idle> 1 100 ipi_entry: (Function call interrupts)",
                "<idle> 1 150 ipi_exit: (Function call interrupts)",
                " 0 1000000000 ipi_send_cpu: cpu=1 callsite=sender+0x54 callback=0x0",
                "task 0 1000000001 ipi_send_cpumask: cpumask=0-1 callsite=sender+0x0 callback=handler+0x0 [mod]",
                "task 0 1000000002 csd_queue_cpu: cpu=1 callsite=sender+0x0 func=handler [mod] csd=0x90000040",
                "<idle> 1 2000000000 csd_function_entry: func=handler [mod], csd=0x90000040",
                "<idle> 1 2000000001 csd_function_exit: func=handler [mod], csd=0x90000040",
                "<idle> 1 2000000003 irq_handler_entry: irq=2 name=IPI",
                "<idle> 1 2000000004 irq_handler_exit: irq=2",
                "<idle> 1 2000000005 cpu_idle: state=4294967295",
                "task 0 2000000006 print: from user space",
                "task 0 2000000007 bprint: sender: long",
                "task 0 2000000008 bprint: sender: constant text",
                "task 0 2000000009 bprint: sender: 3 of ten by handler [mod]",
                "task 0 2000000010 print: # 1234 buf: 01 02",
            ];
            assert_eq!(lines.len(), expected.len());
            for (line, expected) in lines.iter().zip(expected) {
                // A record is padded to a word.
                assert!(line.trim_end_matches(" 00") == expected, "{line}\n{expected} ({packing}, {big}, {long})");
            }
            assert_eq!(&events[0].flags, b"d.h1.\0\0\0");
        }
    }
}

/// Stamps of every kind from `high` on, a discarded event, and two losses.
fn stamps(big: bool, long: usize, high: u64) -> Writer {
    let mut writer = Writer::new(big, long, 1);
    let entry = writer.record("ipi_entry", 0, &[Value::Number(CALL)]);
    writer.event(0, high + 5, &entry);
    // Discarded: 8 bytes with the length, its time counts.
    writer.odd(0, 29, 10, &[8, 0]);
    writer.set_time(0, high + 15);
    writer.event(0, high + 16, &entry);
    // An absolute stamp has no bit 60.
    writer.odd(0, 31, 77, &[1]);
    writer.set_time(0, high + (1 << 27) + 77);
    writer.event(0, high + (1 << 27) + 78, &entry);
    writer.missed(0, Some(528));
    writer.event(0, high + (1 << 28), &entry);
    writer.missed(0, None);
    writer.event(0, high + (1 << 29), &entry);
    writer
}

#[test]
fn losses_stamps_and_discarded_events_keep_the_time() {
    for (big, long) in [(false, 8), (true, 4)] {
        let high = 1 << 60;
        let mut writer = stamps(big, long, high);
        // Nothing more in the page.
        writer.odd(0, 29, 0, &[0xFFFF_FFFF]);
        let (_, tally, events, _) = read(&writer.v6()).unwrap();
        let what: Vec<_> = events.iter().map(|event| (event.t - high, event.what)).collect();
        let entry = events[0].what;
        assert_eq!(
            what,
            [
                (5, entry),
                (16, entry),
                ((1 << 27) + 78, entry),
                (1 << 28, What::Lost { count: Some(528) }),
                (1 << 28, entry),
                (1 << 29, What::Lost { count: None }),
                (1 << 29, entry),
            ]
        );
        assert_eq!(tally, Tally { events: 7, lost: 528, gaps: 2, ..Tally::default() });
    }
}

/// trace-cmd prints the same times, CPUs, process ids, names and losses of a file.
fn agrees_with_trace_cmd(folder: &Path, file: &[u8]) {
    let path = folder.join("trace.dat");
    std::fs::write(&path, file).unwrap();
    let output = Command::new("trace-cmd").args(["report", "-t", "-i"]).arg(&path).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected: Vec<_> = report.lines().skip(1).filter(|line| !line.contains("sched_wakeup")).collect();
    let (_, _, events, names) = read(file).unwrap();
    assert_eq!(events.len(), expected.len(), "{report}");
    for (event, text) in events.iter().zip(expected) {
        if let What::Lost { count } = event.what {
            let count = count.map_or(String::new(), |count| format!("{count} "));
            assert_eq!(text, format!("CPU:{} [{count}EVENTS DROPPED]", event.cpu));
            continue;
        }
        let (comm, pid, cpu, time, name, arguments) = line(text).unwrap();
        assert_eq!((event.t, event.cpu, event.pid), (time.replace('.', "").parse().unwrap(), cpu, Some(pid)), "{text}");
        assert!(matches!(names.text(event.comm), "" if comm == "<...>") || names.text(event.comm) == comm, "{text}");
        let own = printed(event, &names, 64);
        let marks = ["print", "bputs", "bprint", "raw_data"];
        assert!(own.0 == name || matches!(event.what, What::Mark { .. }) && marks.contains(&name), "{text}");
        // The writer's formats print nothing but for this one, which trace-cmd prints itself; it leaves modules out.
        if name == "bprint" && events.len() == 16 && file[11] == 0 {
            assert!(own.1.starts_with(&arguments) || arguments.contains("0x"), "{text}: {}", own.1);
        }
    }
}

#[test]
fn trace_cmd_reads_the_same_of_the_files_made_here() {
    if Command::new("trace-cmd").arg("--version").output().is_err() {
        // ./setup.sh installs it.
        assert!(std::env::var_os("CI").is_none(), "no trace-cmd here, and under CI nothing is skipped");
        eprintln!("skipped: trace-cmd is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (big, long) in [(false, 8), (true, 8), (false, 4), (true, 4)] {
        let mut writer = sample(big, long);
        let mut files = vec![writer.v6(), writer.v7("none"), writer.v7("zstd")];
        let mut tsc = Vec::new();
        for (value, size) in [(3, 4), (1, 4), (70, 8)] {
            writer.put(&mut tsc, value, size);
        }
        writer.options = vec![(4, b"[mono]\0".to_vec()), (7, b"-50\0".to_vec()), (14, tsc)];
        files.push(writer.v6());
        writer.options = vec![(4, b"[mono]\0".to_vec()), (1, b"0x10\0".to_vec())];
        files.push(writer.v7("none"));
        files.push(stamps(big, long, 1 << 60).v6());
        for file in files {
            agrees_with_trace_cmd(folder.path(), &file);
        }
    }
}

#[test]
fn options_are_honoured() {
    let mut writer = sample(false, 8);
    let mut tsc = Vec::new();
    writer.put(&mut tsc, 3, 4);
    writer.put(&mut tsc, 1, 4);
    writer.put(&mut tsc, 999, 8);
    let mut other = vec![0; 8];
    other.extend_from_slice(b"spare\0");
    writer.options = vec![
        (4, b"local [boot] mono\n\0".to_vec()),
        (5, b"Linux board 6.12 aarch64\0".to_vec()),
        (7, b"-50\0".to_vec()),
        (9, b"3.1.6\0".to_vec()),
        (14, tsc),
        (2, b"CPU: 1\nentries: 5\noverrun: 12\ncommit overrun: 3\ndropped events: 4\n\0".to_vec()),
    ];
    writer.options.push((3, other));
    let (header, _, events, _) = read(&writer.v6()).unwrap();
    assert_eq!((header.clock, header.uname.as_deref()), (Clock::Boot, Some("Linux board 6.12 aarch64")));
    assert_eq!((header.recorder.as_deref(), header.offset), (Some("3.1.6"), -50));
    assert_eq!(header.tsc, Some(dat::Tsc { multiplier: 3, shift: 1, offset: 999 }));
    assert_eq!(header.stats, [dat::CpuStat { cpu: 1, overrun: 12, commit_overrun: 3, dropped: 4 }]);
    assert_eq!(header.other_buffers, ["spare"]);
    assert_eq!(events[2].t, 150 * 3 / 2 - 50);
    writer.options = vec![(4, b"local [x86-tsc]\0".to_vec())];
    let (header, ..) = read(&writer.v6()).unwrap();
    assert_eq!((header.clock, header.clock_name.as_str()), (Clock::Unknown, "x86-tsc"));
    assert!(header.remarks[0].contains("clock `x86-tsc` may count ticks"), "{:?}", header.remarks);
    // Version 7 describes its buffers at length.
    let mut other = Vec::new();
    writer.put(&mut other, 64, 8);
    other.extend_from_slice(b"second\0global\0");
    writer.put(&mut other, 4096, 4);
    writer.put(&mut other, 0, 4);
    writer.options = vec![(3, other), (8, vec![9, 0, 0, 0])];
    let (header, tally, ..) = read(&writer.v7("zlib")).unwrap();
    assert_eq!((header.other_buffers, header.clock), (vec!["second".to_owned()], Clock::Mono));
    assert_eq!((header.cpus, tally.events), (9, 16));
    writer.options = vec![(1, b"0x10\0".to_vec())];
    assert_eq!(read(&writer.v7("none")).unwrap().2[0].t, 100 + 16_000);
}

#[test]
fn what_is_no_trace_dat_is_refused_with_what_it_is() {
    let file = sample(false, 8).v6();
    let with = |at: usize, byte: u8| {
        let mut file = file.clone();
        file[at] = byte;
        read(&file).map(drop).unwrap_err().to_string()
    };
    assert!(read(b"").map(drop).unwrap_err().to_string().contains("empty"));
    let text = read(b"# tracer: nop\n").map(drop).unwrap_err().to_string();
    assert!(text.contains("`# tracer: `") && text.contains("no trace.dat"), "{text}");
    assert!(with(10, b'8').contains("version `8`"));
    assert!(with(12, 9).contains("byte order (0: little, 1: big) is 9"), "{}", with(12, 9));
    let at = file.windows(10).position(|bytes| bytes == b"options  \0").unwrap();
    let mut latency = file.clone();
    latency[at..at + 10].copy_from_slice(b"latency  \0");
    assert!(matches!(read(&latency), Err(DatError::Latency)));
    // A place that no file has is one beyond its end.
    let mut far = file.clone();
    far[at + 22..at + 30].fill(0xFF);
    let path = std::env::temp_dir().join(format!("linux-trace-far-{}.dat", std::process::id()));
    std::fs::write(&path, &far).unwrap();
    let read_far = dat::read(std::fs::File::open(&path).unwrap(), &mut Names::new(), &mut |_, _| {});
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read_far.unwrap().1.unknown, 1);
    let mut packed = sample(false, 8).v7("zlib");
    packed[18..22].copy_from_slice(b"lzma");
    assert!(matches!(read(&packed), Err(DatError::Compression(name)) if name == "lzma"));
}

#[test]
fn a_file_that_is_cut_anywhere_gives_what_is_whole() {
    for (file, step) in [(sample(false, 8).v6(), 1), (sample(true, 4).v7("zstd"), 1), (sample(false, 8).v7("none"), 7)]
    {
        let (_, whole, events, names) = read(&file).unwrap();
        // Names are numbered in the order of their use.
        let told = |event: &Event, names: &Names| (event.t, event.cpu, event.pid, printed(event, names, 64));
        let all: Vec<_> = events.iter().map(|event| told(event, &names)).collect();
        let (mut refused, mut cut) = (0, 0);
        for len in (0..file.len()).step_by(step) {
            match read(&file[..len]) {
                Err(
                    DatError::Empty | DatError::NotDat { .. } | DatError::Truncated { .. } | DatError::Beyond { .. },
                ) => {
                    refused += 1;
                }
                Err(other) => panic!("cut at {len}: {other}"),
                Ok((_, tally, events, names)) => {
                    assert!(events.len() <= all.len(), "cut at {len}");
                    for event in &events {
                        assert!(all.contains(&told(event, &names)), "cut at {len}: {event:?}");
                    }
                    assert!(tally == whole || tally.unknown > 0, "cut at {len}: {tally:?}");
                    cut += usize::from(!events.is_empty());
                }
            }
        }
        assert!(refused > 1000, "{refused}");
        // Version 7's options stand at the end: without them nothing is known of the rest.
        assert!(cut > 1000 || file[10] == b'7', "{cut}");
    }
}

#[test]
fn a_damaged_page_is_counted_and_the_next_is_read() {
    let mut writer = Writer::new(false, 8, 1);
    let entry = writer.record("ipi_entry", 0, &[Value::Number(CALL)]);
    for page in 0..3 {
        writer.event(0, 10 * page, &entry);
        writer.event(0, 10 * page + 1, &entry);
        writer.missed(0, None);
    }
    let file = writer.v6();
    let data = file.len() - 3 * 4096;
    for (at, bytes, left, why) in [
        (data + 4096 + 8, [0xFF, 0x7F, 0, 0], 5, "claims 32767 bytes"),
        (data + 4096 + 16, [28, 0, 0, 0], 6, "longer than"),
        (data + 4096 + 20, [0xFF, 0xFF, 0, 0], 7, "event 65535 has no format"),
    ] {
        let mut file = file.clone();
        file[at..at + 4].copy_from_slice(&bytes);
        let (_, tally, events, _) = read(&file).unwrap();
        assert_eq!((events.len(), tally.unknown), (left, 1), "{why}");
        let (place, told) = tally.first_unknown.unwrap();
        assert!(told.contains(why) && place.to_string().starts_with("byte 0x"), "{place}: {told}");
    }
}

#[test]
fn data_of_two_cpus_in_one_place_are_read_once() {
    let mut writer = Writer::new(false, 8, 3);
    let entry = writer.record("ipi_entry", 0, &[Value::Number(CALL)]);
    for cpu in 0..3 {
        writer.event(cpu, 10, &entry);
    }
    let mut file = writer.v6();
    let places = file.windows(10).position(|bytes| bytes == b"flyrecord\0").unwrap() + 10;
    let first = file[places..places + 8].to_vec();
    file[places + 16..places + 24].copy_from_slice(&first);
    let (_, tally, events, _) = read(&file).unwrap();
    assert_eq!((events.len(), tally.unknown), (2, 1), "{tally:?}");
    assert!(tally.first_unknown.unwrap().1.contains("would reach into those of CPU 1"));
}

#[test]
fn rings_of_large_pages_are_read() {
    let mut writer = Writer::new(false, 8, 2);
    writer.page_size = 1 << 16;
    writer::calls(&mut writer, 5000);
    let mut small = writer.v6();
    // The machine's own page, which is not the ring's.
    small[14..18].copy_from_slice(&4096_u32.to_le_bytes());
    for file in [small, writer.v6(), writer.v7("zstd")] {
        let (header, tally, ..) = read(&file).unwrap();
        assert_eq!(header.page_size, 1 << 16);
        assert_eq!(tally, Tally { events: 30_000, ..Tally::default() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_makes_it_panic_or_run_on(
        which in 0_usize..4,
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        near in any::<bool>(),
    ) {
        let mut file = match which {
            0 => sample(false, 8).v6(),
            1 => sample(true, 4).v6(),
            2 => sample(false, 8).v7("none"),
            _ => sample(false, 4).v7("zlib"),
        };
        let end = file.len();
        for (place, byte) in places {
            // Most bytes of a page are empty: every other case aims at its begin.
            let at = if near { end - 4096 * 2 + place.index(600) } else { place.index(end) };
            file[at] = byte;
        }
        if let Ok((_, tally, events, names)) = read(&file) {
            prop_assert_eq!(tally.events, events.len() as u64);
            prop_assert!(tally.events + tally.others + tally.unknown < 20_000);
            prop_assert!(names.iter().len() < 100);
        }
    }
}
