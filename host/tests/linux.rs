//! Linux traces in: what is imported, what the report says of it, and what comes out again. Real traces where they are at hand, and
//! traces made here whose truth is known.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use host::capture::Capture;
use host::choice::Choice;
use host::error::exit;
use host::export::{Export, Format};
use host::import::{self, Imported, Request};
use host::report::{self, Latency, Report, Verdict};

/// The reference set, where it is: it does not come with the project.
fn traces() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/linux-ftrace");
    let folder = std::env::var_os("IPISCOPE_LINUX_TRACES").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} holds no reference traces", folder.display());
    None
}

fn import(file: &Path, folder: &Path) -> Imported {
    let request = Request { file: file.into(), out: Some(folder.join("trace.mcap")), ..Request::default() };
    import::import(&request).unwrap_or_else(|failure| panic!("{}: {failure}", file.display()))
}

/// Imports a real trace and reports on it.
fn real(folder: &Path, name: &str) -> Report {
    let place = tempfile::tempdir().expect("a folder");
    report::build(&import(&folder.join(name), place.path()).capture).expect("a report")
}

/// Imports a text and reports on it.
fn made(text: &str) -> Report {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("made.txt");
    std::fs::write(&file, text).expect("written");
    report::build(&import(&file, place.path()).capture).expect("a report")
}

/// What an import fails with: message and next step.
fn refused(bytes: &[u8]) -> String {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("made.txt");
    std::fs::write(&file, bytes).expect("written");
    let out = place.path().join("trace.mcap");
    let failure = import::import(&Request { file, out: Some(out.clone()), ..Request::default() }).expect_err("refused");
    assert_eq!(failure.exit_code, exit::MISUSED, "{failure}");
    assert!(!out.exists(), "an import that failed leaves nothing behind");
    assert!(!failure.next_step.is_empty());
    failure.message
}

#[test]
fn an_import_that_fails_leaves_the_capture_that_had_its_name() {
    let place = tempfile::tempdir().expect("a folder");
    let (file, out) = (place.path().join("not.txt"), place.path().join("old.mcap"));
    std::fs::write(&out, "an older capture").expect("written");
    // Other events alone, more of them than the window holds, and what is no trace at all.
    let others = "            init-1       [000] d....     8.034540: cpu_idle: state=1 cpu_id=0\n".repeat(300_000);
    for text in [others.as_str(), "hello\n", ""] {
        std::fs::write(&file, text).expect("written");
        let request = Request { file: file.clone(), out: Some(out.clone()), ..Request::default() };
        let failure = import::import(&request).expect_err("refused");
        assert_eq!((failure.kind.as_str(), failure.exit_code), ("import", exit::MISUSED), "{failure}");
        assert_eq!(std::fs::read_to_string(&out).ok().as_deref(), Some("an older capture"));
    }
    // An IPI behind them is found, and what was left out is told.
    let text = format!("{others}            init-1       [000] d....     8.034541: ipi_entry: (IRQ work interrupts)\n");
    std::fs::write(&file, text).expect("written");
    let imported = import(&file, place.path());
    assert!(
        imported.notes.iter().any(|note| note.contains("before the first IPI were left out")),
        "{:?}",
        imported.notes
    );
    assert_eq!(imported.table.count("ipi_entry"), 1);
}

fn suspects(report: &Report) -> Vec<String> {
    report.suspects.iter().map(|it| format!("{} {}", it.subject(), it.detector)).collect()
}

// --- real traces ----------------------------------------------------------------------------------------------------

fn texts(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => texts(&path, into),
            false if path.to_string_lossy().trim_end_matches(".xz").ends_with(".trace.txt") => into.push(path),
            false => {}
        }
    }
    into.sort();
}

#[test]
fn every_real_trace_pairs_as_its_summary_does_and_no_clean_one_has_a_suspect() {
    let Some(folder) = traces() else { return };
    let mut files = Vec::new();
    texts(&folder, &mut files);
    // By the README of the set: what is wrong, and with whom.
    let guilty = BTreeMap::from([
        ("k61-smp4-slow-throttle", vec!["core 1 as receiver late"]),
        ("k612-icount-slow-irqoff", vec!["core 2 as receiver tail"]),
        ("k612-smp8-slow-throttle", vec!["core 5 as receiver late"]),
        ("k612-smp4-stuck", vec!["core 3 as receiver unanswered"]),
    ]);
    let place = tempfile::tempdir().expect("a folder");
    let (mut compared, mut accused) = (0, 0);
    for file in &files {
        let shown = file.strip_prefix(&folder).expect("inside").display().to_string();
        let no_fields = ["v-raw.", "v-hex.", "v-no-context-info.", "v-function-graph."];
        if no_fields.iter().any(|name| shown.contains(name)) {
            let out = Some(place.path().join("no.mcap"));
            let failure =
                import::import(&Request { file: file.clone(), out, ..Request::default() }).expect_err("refused");
            assert!(failure.exit_code == exit::MISUSED && failure.message.contains("lines are"), "{shown}: {failure}");
            continue;
        }
        let imported = import(file, place.path());
        assert_eq!(imported.table.unknown, 0, "{shown}");
        let report = report::build(&imported.capture).expect("a report");
        let counts = report.ipis.counts;
        assert!(counts.is_whole(), "{shown}");
        let group = shown.split('/').next().unwrap_or_default();
        let expected = guilty.get(group).cloned().unwrap_or_default();
        assert_eq!(suspects(&report), expected, "{shown}: {:?}", report.suspects);
        accused += usize::from(!expected.is_empty());

        // One entry answers all that is open: the rule of the summaries, where nothing was lost and a time is a time.
        let name = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split(".trace").next());
        let summary = file.with_file_name(format!("{}.summary.json", name.expect("a name")));
        let Ok(summary) = std::fs::read(summary) else { continue };
        let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
        let reading = &summary["reference_reading"];
        let strange = ["v-overrun", "v-pipe-lost", "v-percpu1", "clock-uptime"];
        if !reading.is_object() || strange.iter().any(|name| shown.contains(name)) {
            continue;
        }
        let number = |pointer: &str| reading.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let unanswered: u64 = reading["unanswered"]
            .as_object()
            .map_or(0, |open| open.values().filter_map(serde_json::Value::as_u64).sum());
        assert_eq!(counts.sent, number("/targets"), "{shown}: sent");
        assert_eq!(counts.coalesced, number("/merged_raises"), "{shown}: merged");
        assert_eq!(counts.in_flight + counts.unknown, unanswered, "{shown}: unanswered");
        let linux = report.linux.as_ref().expect("a Linux trace");
        let unannounced: u64 = linux.unannounced.iter().map(|(.., count)| count).sum();
        assert_eq!(unannounced, number("/entries_without_raise"), "{shown}: entries without raise");
        if linux.resolution_ns > 0 {
            let longest = report.phases[0].latency.max_ns.expect("latencies");
            assert_eq!(longest as u64, number("/latency_ns/max"), "{shown}: the longest");
            assert_eq!(report.phases[0].latency.n, number("/latency_ns/n"), "{shown}: latencies");
        }
        compared += 1;
    }
    println!("{} traces, {compared} compared with their summaries, {accused} with a suspect", files.len());
    assert!(compared > 60 && accused == guilty.len(), "{compared} compared, {accused} accused");
}

#[test]
fn the_cpu_that_was_disturbed_is_the_first_of_the_receivers_where_its_ground_truth_ranks_it_first() {
    let Some(folder) = traces() else { return };
    for (name, cpu) in [
        ("k61-smp4-slow-throttle/slow-throttle.trace.txt.xz", 1),
        ("k612-icount-slow-irqoff/slow-irqoff.trace.txt.xz", 2),
        ("k612-smp4-slow-irqoff-busy/slow-irqoff.trace.txt.xz", 2),
        ("k612-smp4-slow-irqoff/slow-irqoff.trace.txt.xz", 2),
        ("k612-smp8-slow-throttle/slow-throttle.trace.txt.xz", 5),
        ("k612rt-smp4-slow-hwlat/slow-hwlat.trace.txt.xz", 1),
    ] {
        let report = real(&folder, name);
        let receivers =
            report.core_figures.iter().filter(|core| core.role == "receiver" && core.kind == "call_function");
        let worst = receivers.max_by(|a, b| a.latency.mean_ns.partial_cmp(&b.latency.mean_ns).expect("means"));
        assert_eq!(worst.map(|core| core.core), Some(cpu), "{name}");
    }
}

#[test]
fn the_recipes_excerpts_are_the_sends_and_handlers_that_their_marks_tell() {
    let Some(folder) = traces() else { return };
    // Sender; receiver, latency and handler's time in us.
    for (name, from, expected) in [
        ("origin-recipe/cpu3-to-0-and-1.txt", 3, [(0, 5.0, 4.0), (1, 4.0, 5.0)]),
        ("origin-recipe/cpu4-to-1-and-7.txt", 4, [(1, 4.0, 4.0), (7, 3.0, 3.0)]),
    ] {
        let report = real(&folder, name);
        assert_eq!((report.ipis.counts.sent, report.ipis.counts.delivered), (2, 2), "{name}");
        for (to, latency, handler) in expected {
            let pair = report.pairs.iter().find(|pair| (pair.from, pair.to) == (from, to)).expect("the pair");
            assert_eq!(pair.latency.max_ns, Some(latency * 1000.0), "{name}: to {to}");
            assert_eq!(pair.kind, "call_function");
            let stage = report.stages.iter().find(|stage| stage.stage == "entry_to_exit" && stage.core == to);
            assert_eq!(stage.and_then(|stage| stage.latency.max_ns), Some(handler * 1000.0), "{name}: handler of {to}");
        }
    }
}

#[test]
fn a_kernels_own_text_comes_out_as_it_went_in() {
    let Some(folder) = traces() else { return };
    for name in [
        "k612-smp4-variants/v-default.trace.txt.xz",
        "k612-smp4-variants/v-odd-comm.trace.txt",
        "k73-smp4-mixed/mixed.trace.txt.xz",
        "k61-smp4-small/ring.trace.txt",
        "k612-icount-smp40-mixed/module.trace.txt.xz",
    ] {
        let place = tempfile::tempdir().expect("a folder");
        let imported = import(&folder.join(name), place.path());
        let capture = Capture::open(&imported.capture).expect("opens");
        let mut out = Vec::new();
        let export = Export::prepare(&capture, Format::Ftrace, None).expect("can be exported");
        export.write(false, &mut out).expect("written");
        let mut text = String::new();
        let (_, mut file) = linux_trace::input::open(&folder.join(name)).expect("opens");
        std::io::Read::read_to_string(&mut file, &mut text).expect("read");
        let kinds = ["ipi_", "csd_"].map(|kind| format!(": {kind}"));
        let events = |text: &str| -> Vec<String> {
            let lines =
                text.lines().filter(|line| !line.starts_with('#') && kinds.iter().any(|kind| line.contains(kind)));
            lines.map(str::to_owned).collect()
        };
        let (went_in, came_out) = (events(&text), events(&String::from_utf8(out).expect("text")));
        for (line, (went_in, came_out)) in went_in.iter().zip(&came_out).enumerate() {
            assert_eq!(went_in, came_out, "{name}: event {line}");
        }
        assert_eq!(went_in.len(), came_out.len(), "{name}");
    }
}

#[test]
fn text_and_trace_dat_of_one_run_give_the_same_ipis() {
    let Some(folder) = traces() else { return };
    let outcome = |report: &Report| {
        let counts = report.ipis.counts;
        let pairs: Vec<String> = report
            .pairs
            .iter()
            .map(|pair| {
                let Latency { n, min_ns, max_ns, mean_ns, .. } = pair.latency;
                format!("{}->{} {} {n} {min_ns:?} {mean_ns:?} {max_ns:?}", pair.from, pair.to, pair.kind)
            })
            .collect();
        let callbacks: Vec<String> =
            report.callbacks.iter().map(|it| format!("{:?} on {}: {}", it.symbol, it.core, it.latency.n)).collect();
        (counts, pairs, callbacks, suspects(report))
    };
    for (binary, text) in [
        ("k612-icount-slow-irqoff/slow-irqoff.dat", "k612-icount-slow-irqoff/slow-irqoff.report-ns.txt.xz"),
        ("k612-smp4-tracecmd/v7.dat", "k612-smp4-tracecmd/v7.report-ns.txt.xz"),
        ("k61-smp4-tracecmd/v7-mono-nocomp.dat.xz", "k61-smp4-tracecmd/v7-mono-nocomp.report-ns.txt.xz"),
    ] {
        let (binary, text) = (real(&folder, binary), real(&folder, text));
        assert_eq!(outcome(&binary), outcome(&text));
        let (binary, text) = (binary.linux.expect("Linux"), text.linux.expect("Linux"));
        assert_eq!((binary.events, binary.unknown), (text.events, 0));
        assert!(binary.format.starts_with("trace.dat v7"), "{}", binary.format);
    }
    // The kernel's own text rounds to microseconds: the same IPIs all the same.
    let (binary, text) = (
        real(&folder, "k612-icount-slow-irqoff/slow-irqoff.dat"),
        real(&folder, "k612-icount-slow-irqoff/slow-irqoff.trace.txt.xz"),
    );
    assert_eq!((binary.ipis.counts, suspects(&binary)), (text.ipis.counts, suspects(&text)));
    let report = real(&folder, "k612-smp4-tracecmd/v6.dat.xz");
    assert!(report.ipis.counts.delivered > 400 && report.suspects.is_empty());
    assert_eq!(report.target.machine, "Linux 6.12.95+deb12-arm64");
}

// --- traces whose truth is known ------------------------------------------------------------------------------------

/// A trace as a kernel of today prints it, made event by event. Times in ns.
#[derive(Default)]
struct Trace {
    lines: Vec<(u64, String)>,
}

const CALL: &str = "Function call interrupts";

impl Trace {
    fn event(&mut self, t: u64, cpu: u16, event: &str) {
        let line = format!(
            "{:>16}-{:<7} [{cpu:03}] d.h.. {:>5}.{:09}: {event}",
            "task",
            100 + cpu,
            t / 1_000_000_000,
            t % 1_000_000_000
        );
        self.lines.push((t, line));
    }

    fn raise(&mut self, t: u64, from: u16, mask: u64) {
        self.event(t, from, &format!("ipi_raise: target_mask={:08x},{:08x} ({CALL})", mask >> 32, mask & 0xFFFF_FFFF));
    }

    fn handler(&mut self, t: u64, cpu: u16) {
        self.event(t, cpu, &format!("ipi_entry: ({CALL})"));
        self.event(t + 500, cpu, &format!("ipi_exit: ({CALL})"));
    }

    fn note(&mut self, t: u64, line: &str) {
        self.lines.push((t, line.to_owned()));
    }

    fn text(mut self) -> String {
        self.lines.sort_by_key(|(t, _)| *t);
        let mut text = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 9/9   #P:4\n#\n".to_owned();
        for (_, line) in self.lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// All pairs of four CPUs in turn; `late` says how much later than usual an IPI is answered, ns.
fn all_pairs(rounds: u64, late: impl Fn(u16, u64) -> u64) -> Trace {
    let mut trace = Trace::default();
    let mut t = 1_000_000_000;
    for round in 0..rounds {
        for from in 0..4u16 {
            for to in (0..4u16).filter(|to| *to != from) {
                trace.raise(t, from, 1 << to);
                trace.handler(t + 1500 + (round * 7 + u64::from(from)) % 200 + late(to, round), to);
                t += 200_000;
            }
        }
    }
    trace
}

#[test]
fn a_late_cpu_is_named_and_a_quiet_machine_is_clean() {
    let clean = made(&all_pairs(40, |_, _| 0).text());
    assert_eq!((clean.verdict, clean.ipis.counts.sent), (Verdict::Clean, 480));
    let late = made(&all_pairs(40, |to, _| if to == 2 { 3000 } else { 0 }).text());
    assert_eq!(suspects(&late), ["core 2 as receiver late"]);
    assert_eq!(late.verdict, Verdict::Suspect);
    let sometimes = made(&all_pairs(200, |to, round| if to == 1 && round % 10 == 0 { 90_000 } else { 0 }).text());
    assert_eq!(suspects(&sometimes), ["core 1 as receiver tail"]);
}

#[test]
fn an_entry_answers_all_that_is_open_and_each_waited_from_its_own_raise() {
    let mut trace = Trace::default();
    trace.raise(1_000_000, 0, 0b1000);
    trace.raise(1_001_000, 1, 0b1100);
    trace.handler(1_005_000, 3);
    trace.handler(1_006_000, 2);
    // Nobody raised this one.
    trace.handler(1_009_000, 1);
    let report = made(&trace.text());
    let counts = report.ipis.counts;
    assert_eq!((counts.sent, counts.delivered, counts.coalesced), (3, 2, 1));
    let latency = |from, to| {
        let pair = report.pairs.iter().find(|pair| (pair.from, pair.to) == (from, to)).expect("the pair");
        pair.latency.max_ns
    };
    assert_eq!((latency(0, 3), latency(1, 3), latency(1, 2)), (Some(5000.0), Some(4000.0), Some(5000.0)));
    assert_eq!((report.ipis.spurious, report.linux.expect("Linux").unannounced), (0, vec![(1, CALL.into(), 1)]));
}

#[test]
fn where_events_were_lost_what_was_open_is_unknown_and_never_late() {
    for lost in ["CPU:3 [LOST 12 EVENTS]", "CPU:3 [EVENTS DROPPED]", "##### CPU 3 buffer started ####"] {
        let mut trace = Trace::default();
        trace.raise(1_000_000, 0, 0b1000);
        trace.raise(1_000_500, 0, 0b0100);
        trace.note(90_000_000, lost);
        trace.handler(90_001_000, 3);
        trace.handler(90_002_000, 2);
        let report = made(&trace.text());
        let counts = report.ipis.counts;
        assert_eq!((counts.sent, counts.delivered, counts.unknown), (2, 1, 1), "{lost}");
        assert_eq!(report.pairs.iter().filter(|pair| pair.latency.n > 0).count(), 1, "{lost}");
        assert!(report.notes.iter().any(|note| note.contains("lost events")), "{lost}: {:?}", report.notes);
    }
}

#[test]
fn the_two_events_of_one_send_are_one_and_tell_who_asked() {
    let mut trace = Trace::default();
    let queue = "csd_queue_cpu: cpu=1 callsite=caller+0x10/0x20 func=work csd=000000000000abcd";
    trace.event(1_000_000, 0, queue);
    let callback = "generic_smp_call_function_single_interrupt+0x0/0x30";
    trace.event(1_001_000, 0, &format!("ipi_send_cpu: cpu=1 callsite=caller+0x10/0x20 callback={callback}"));
    trace.raise(1_002_000, 0, 0b10);
    trace.event(1_005_000, 1, &format!("ipi_entry: ({CALL})"));
    trace.event(1_006_000, 1, "csd_function_entry: func=work, csd=000000000000abcd");
    trace.event(1_036_000, 1, "csd_function_exit: func=work, csd=000000000000abcd");
    trace.event(1_037_000, 1, &format!("ipi_exit: ({CALL})"));
    let with_raise = trace.text();
    let without_raise: String =
        with_raise.lines().filter(|line| !line.contains("ipi_raise")).map(|line| format!("{line}\n")).collect();
    for (text, latency) in [(with_raise, 3000.0), (without_raise, 4000.0)] {
        let report = made(&text);
        assert_eq!((report.ipis.counts.sent, report.ipis.counts.delivered), (1, 1));
        assert_eq!((report.pairs[0].kind.as_str(), report.pairs[0].latency.max_ns), ("call_function", Some(latency)));
        let linux = report.linux.as_ref().expect("Linux");
        assert_eq!(linux.call_sites[0].call_site.as_deref(), Some("caller+0x10/0x20"));
        let calls = report.calls.as_ref().expect("calls");
        assert_eq!((calls.counts.queued, calls.counts.executed), (1, 1));
        assert_eq!(report.callbacks[0].symbol.as_deref(), Some("work"));
        assert_eq!(report.callbacks[0].latency.max_ns, Some(30_000.0));
        let stage =
            |name: &str| report.stages.iter().find(|stage| stage.stage == name).and_then(|stage| stage.latency.max_ns);
        assert_eq!(stage("queue_to_callback"), Some(6000.0));
        assert_eq!(stage("entry_to_exit"), Some(32_000.0));
    }
}

#[test]
fn an_ipi_that_is_never_answered_is_told_apart_from_one_that_the_end_cut() {
    let mut trace = all_pairs(10, |_, _| 0);
    let end = 1_000_000_000 + 10 * 12 * 200_000;
    trace.raise(end, 1, 0b1000);
    // The trace goes on for 50 ms without an answer of CPU 3.
    for step in 1..50 {
        trace.raise(end + step * 1_000_000, 0, 0b0100);
        trace.handler(end + step * 1_000_000 + 2000, 2);
    }
    trace.raise(end + 50_000_000, 0, 0b0100);
    let report = made(&trace.text());
    assert_eq!(suspects(&report), ["core 3 as receiver unanswered"]);
    assert_eq!((report.ipis.counts.unknown, report.ipis.counts.in_flight), (1, 1));
    let linux = report.linux.expect("Linux");
    assert_eq!((linux.unanswered[0].from, linux.unanswered[0].age_ns), (1, 50_000_000));
}

#[test]
fn events_that_a_tracer_printed_late_stand_in_their_order_again() {
    let text = all_pairs(30, |_, _| 0).text();
    let mut lines: Vec<&str> = text.lines().collect();
    let head = lines.iter().take_while(|line| line.starts_with('#')).count();
    // As where buffers of CPUs are printed one after the other, in pieces.
    for piece in lines[head..].chunks_mut(200) {
        piece.reverse();
    }
    let report = made(&(lines.join("\n") + "\n"));
    let (whole, counts) = (made(&text), report.ipis.counts);
    assert_eq!((counts.delivered, counts.in_flight), (360, 0));
    assert_eq!(report.phases[0].latency.max_ns, whole.phases[0].latency.max_ns);
}

#[test]
fn reasons_that_no_kernel_had_yet_pass_through() {
    let mut trace = Trace::default();
    trace.event(1_000_000, 0, "ipi_raise: target_mask=00000000,00000002 (Quantum leap interrupts)");
    trace.event(1_002_000, 1, "ipi_entry: (Quantum leap interrupts)");
    let report = made(&trace.text());
    assert_eq!((report.pairs[0].kind.as_str(), report.ipis.counts.delivered), ("Quantum leap interrupts", 1));
}

#[test]
fn a_clock_that_counts_events_gives_outcomes_and_no_latency() {
    let text = "\
            init-1       [000] d....        17: ipi_raise: target_mask=00000000,00000002 (Rescheduling interrupts)
          <idle>-0       [001] d.h..        18: ipi_entry: (Rescheduling interrupts)
";
    let report = made(text);
    assert_eq!((report.ipis.counts.delivered, report.phases[0].latency.n), (1, 0));
    assert!(report.notes.iter().any(|note| note.contains("not time")), "{:?}", report.notes);
    // Jiffies: who was first, nobody knows.
    let report = made(&text.replace("18:", "17:"));
    assert_eq!((report.ipis.counts.unknown, report.verdict), (1, Verdict::Inconclusive));
}

#[test]
fn what_is_no_trace_is_refused_with_what_it_is() {
    for (bytes, words) in [
        (&b""[..], "it is empty"),
        (b"\x7fELF\x02\x01\x01\x00garbage\n\xFF\xFE", "no ftrace text (line 1"),
        (b"hello\nworld\n", "no ftrace text (line 1"),
        (b"            init-1       [000] d....     8.1: sched_waking: comm=rcu_sched pid=17\n", "other kinds"),
        (b"1 3 8034539664 type: 228\n", "event numbers without their fields"),
        (b"ipi_entry: (Rescheduling interrupts)\n", "without time and CPU"),
        (&[0x1F, 0x8B, 8, 0, 0, 0, 0, 0], "can't be unpacked"),
        (&[0; 1 << 20], "no ftrace text"),
        (b"\x17\x08Dtracing", "ends at byte"),
        (b"\x17\x08Dtracing9\0\0\x08\0\x10\0\0", "version"),
    ] {
        let message = refused(bytes);
        assert!(message.contains(words), "expected {words:?} in {message}");
    }
}

#[test]
fn a_trace_that_was_cut_or_damaged_gives_what_it_has_and_says_what_is_missing() {
    let text = all_pairs(200, |_, _| 0).text();
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("made.txt");
    std::fs::write(&file, &text.as_bytes()[..text.len() / 2]).expect("written");
    let report = report::build(&import(&file, place.path()).capture).expect("a report");
    assert!(report.ipis.counts.delivered > 1000 && report.suspects.is_empty(), "{:?}", report.ipis.counts);

    let damaged = text.replacen("ipi_raise: target_mask=0", "ipi_raise: target_mask=z", 3);
    let report = made(&damaged);
    assert!(report.notes.iter().any(|note| note.starts_with("3 lines could not be read")), "{:?}", report.notes);
    assert_eq!(report.linux.map(|linux| linux.unknown), Some(3));
}

#[test]
fn two_traces_of_one_machine_compare_and_a_late_cpu_is_the_difference() {
    let place = tempfile::tempdir().expect("a folder");
    let capture = |name: &str, text: String| {
        let file = place.path().join(format!("{name}.txt"));
        std::fs::write(&file, text).expect("written");
        let out = place.path().join(format!("{name}.mcap"));
        import::import(&Request { file, out: Some(out), ..Request::default() }).expect("imported").capture
    };
    let golden = capture("golden", all_pairs(60, |_, _| 0).text());
    let again = capture("again", all_pairs(60, |_, round| round % 3).text());
    let late = capture("late", all_pairs(60, |to, _| if to == 2 { 4000 } else { 0 }).text());
    let compare = |other: PathBuf| {
        let request = host::compare::Request { captures: vec![golden.clone(), other], force: false, filter: None };
        host::compare::compare(&request).expect("compared").json()
    };
    assert_eq!(compare(again)["verdict"], "no_difference");
    let changed = compare(late);
    assert_ne!(changed["verdict"], "no_difference", "{changed}");
    assert!(changed.to_string().contains("\"to\":2"), "{changed}");
}

#[test]
fn filters_ask_for_callback_call_site_and_task_and_latencies_are_told_by_callback() {
    let mut trace = Trace::default();
    for round in 0..40u64 {
        let t = 1_000_000_000 + round * 1_000_000;
        let (function, lasts) = if round % 4 == 0 { ("flush", 9000) } else { ("read", 2000) };
        trace.event(
            t,
            0,
            &format!(
                "csd_queue_cpu: cpu=1 callsite=caller+0x10/0x20 func={function} csd=00000000000000{:02x}",
                round + 1
            ),
        );
        trace.event(t + 100, 0, "ipi_send_cpu: cpu=1 callsite=caller+0x10/0x20 callback=generic_smp_call+0x0/0x30");
        trace.raise(t + 200, 0, 0b10);
        trace.event(t + 200 + lasts, 1, &format!("ipi_entry: ({CALL})"));
        trace.event(t + 300 + lasts, 1, &format!("ipi_exit: ({CALL})"));
    }
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("trace.txt");
    std::fs::write(&file, trace.text()).expect("written");
    let capture = Capture::open(&import(&file, place.path()).capture).expect("a capture");
    let of = |filter: &str| {
        let choice = Choice::of_counts(filter, &capture, "a report").expect("a filter");
        report::build_of(&capture, None, Some(&choice)).expect("a report")
    };
    assert_eq!(of("callback == flush").ipis.counts.sent, 10);
    assert_eq!(of("callback == read && latency == 2us").ipis.counts.sent, 30);
    assert_eq!(of("callsite ~ caller* && task == task && pid == 100").ipis.counts.sent, 40);
    assert_eq!(of("callsite == nobody").ipis.counts.sent, 0);
    // Times are those since the begin of the trace: its first event is the first call, 200 ns before the first raise.
    assert_eq!(of("t in 200ns..=2000200ns").ipis.counts.sent, 3);
    assert_eq!(of("kind == call_function && reason == \"Function call interrupts\"").ipis.counts.sent, 40);
    let whole = report::build_of(&capture, None, None).expect("a report");
    let paths = whole.linux.expect("Linux").paths;
    let told: Vec<_> =
        paths.iter().map(|path| (path.callback.as_deref(), path.latency.n, path.latency.max_ns)).collect();
    assert_eq!(told, [(Some("flush"), 10, Some(9000.0)), (Some("read"), 30, Some(2000.0))]);
}
