//! What stands on top, and the lists of single values: verdict, suspects, notes, target, clock, plan, build.

use std::fmt::Write as _;

use serde_json::Value;

use crate::table::{Kind, at, column, count, list, number, shown, words};
use crate::text::{escape, escaped, grouped};

/// One tick, ns; `None`: nobody knows the counter's rate.
pub(crate) fn tick(report: &Value) -> Option<f64> {
    number(report, "target/counter_hz").filter(|hz| *hz >= 1.0).map(|hz| 1e9 / hz)
}

/// What the page is of, in a line.
pub(crate) fn title(report: &Value) -> String {
    let plan = match words(report, "linux/file") {
        "" => words(report, "plan/name"),
        file => file,
    };
    let machine = words(report, "target/machine");
    match (plan, machine) {
        ("", "") => "IPI report".into(),
        (plan, "") => format!("IPI report: {plan}"),
        ("", machine) => format!("IPI report: {machine}"),
        (plan, machine) => format!("IPI report: {plan} on {machine}"),
    }
}

/// A suspect's core or pair, in words.
fn subject(suspect: &Value) -> String {
    let core = at(suspect, "core").map(Value::to_string);
    let pair = at(suspect, "from").zip(at(suspect, "to"));
    match (words(suspect, "role"), core, pair) {
        (_, _, Some((from, to))) => format!("pair {from} to {to}"),
        ("clock", Some(core), _) => format!("clock of core {core}"),
        ("clock", None, _) => "the counter".into(),
        ("host", ..) => "the host".into(),
        ("receiver", Some(core), _) => format!("core {core} as receiver"),
        ("sender", Some(core), _) => format!("core {core} as sender"),
        ("callback", Some(core), _) => format!("callback on core {core}"),
        (_, Some(core), _) => format!("core {core}"),
        _ => "the target".into(),
    }
}

/// What the verdict says, in a line: as the last line of the report for a terminal.
fn verdict_words(report: &Value) -> String {
    let suspects = list(report, "suspects");
    let sent = count(report, "ipis/sent");
    let unknown = count(report, "ipis/unknown");
    match words(report, "verdict") {
        "clean" if words(report, "ended") == "interrupted" => {
            "nothing is wrong with what was measured before the early end".into()
        }
        "clean" => format!("{} IPIs, none lost, nothing suspect", grouped(sent)),
        "suspect" | "failed" => {
            let who = suspects.first().map(|first| {
                let more = suspects.len() - 1;
                let who = format!("{} ({})", subject(first), words(first, "detector"));
                if more > 0 { format!("{who} and {more} more") } else { who }
            });
            let broken = count(report, "limits/failed");
            let rules = if broken == 1 { "limit is" } else { "limits are" };
            match (who, broken) {
                (Some(who), 0) => who,
                (Some(who), _) => format!("{who}; {broken} {rules} broken"),
                (None, 0) => String::new(),
                (None, _) => format!("{broken} {rules} broken"),
            }
        }
        "inconclusive" if !list(report, "limits/mismatch").is_empty() => "the limits are not for this target".into(),
        "inconclusive" if unknown == 0 && at(report, "limits").is_some() => {
            format!("{} limits could not be told", count(report, "limits/inconclusive"))
        }
        "inconclusive" => {
            format!("{} IPIs have no known end: the host was too busy to say; run it again", grouped(unknown))
        }
        "incomplete" => match words(report, "error/message") {
            "" if sent == 0 => "nothing was measured".into(),
            "" => format!("the run ended early ({})", words(report, "ended")),
            message => message.into(),
        },
        _ => String::new(),
    }
}

/// Whose time it is.
fn scope_words(scope: &str) -> &str {
    match scope {
        "silicon" => "the machine's own",
        "virtualized" => "a hypervisor's: it shares the machine out, so latencies are advice, not a verdict",
        "emulated" => "an emulator's: its delays are the host's, so latencies compare runs and say nothing of silicon",
        "instructions" => "counted instructions: 1 ns is one instruction, the same in every run",
        "linux trace" => {
            "a Linux kernel's, as it stamped its events: tracing itself takes about a microsecond an event"
        }
        other => other,
    }
}

fn findings(html: &mut String, name: &str, heading: &str, found: &[Value]) {
    if found.is_empty() {
        return;
    }
    let _ =
        write!(html, "<section class=\"found {name}\" aria-labelledby=\"{name}\"><h2 id=\"{name}\">{heading}</h2><ol>");
    for one in found {
        let _ = write!(
            html,
            "<li><strong>{}</strong> <span class=\"detector\">{}</span><p>",
            escaped(&subject(one)),
            escaped(words(one, "detector"))
        );
        escape(words(one, "evidence"), html);
        html.push_str("</p></li>");
    }
    html.push_str("</ol></section>");
}

/// What the reader should see first.
pub(crate) fn top(report: &Value, html: &mut String) {
    let _ = write!(html, "<h1>{}</h1>", escaped(&title(report)));
    let verdict = match words(report, "verdict") {
        "" => "no verdict",
        verdict => verdict,
    };
    let class = match verdict {
        "clean" => "good",
        "suspect" | "failed" => "bad",
        _ => "doubt",
    };
    let _ = write!(
        html,
        "<p id=\"verdict\" class=\"verdict {class}\"><strong>Verdict: {}</strong> <span>{}</span></p>",
        escaped(verdict),
        escaped(&verdict_words(report))
    );
    findings(html, "suspects", "Suspects", list(report, "suspects"));
    if let Some(error) = at(report, "error") {
        let _ = write!(
            html,
            "<section class=\"found error\" aria-labelledby=\"error\"><h2 id=\"error\">Error</h2><p>{}</p><p>{}</p></section>",
            escaped(words(error, "message")),
            escaped(words(error, "next_step"))
        );
    }
    summary(report, html);
    findings(html, "advisories", "Worth a look (not judged)", list(report, "advisories"));
    let notes = list(report, "notes").iter().chain(list(report, "limits/notes"));
    let notes: Vec<&str> = notes.chain(list(report, "limits/mismatch")).filter_map(Value::as_str).collect();
    if !notes.is_empty() {
        html.push_str("<section aria-labelledby=\"notes\"><h2 id=\"notes\">Notes</h2><ul class=\"notes\">");
        for note in notes {
            let _ = write!(html, "<li>{}</li>", escaped(note));
        }
        html.push_str("</ul></section>");
    }
}

fn item(html: &mut String, label: &str, text: &str) {
    if !text.is_empty() {
        let _ = write!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escaped(label), escaped(text));
    }
}

/// What became of the IPIs, and of what it is the report.
fn summary(report: &Value, html: &mut String) {
    let mut items = String::new();
    if at(report, "ipis").is_some() {
        let parts: Vec<String> = ["delivered", "coalesced", "lost", "misrouted", "in_flight", "unknown"]
            .into_iter()
            .map(|name| (name, count(report, &format!("ipis/{name}"))))
            .filter(|(name, count)| *count > 0 || *name == "lost")
            .map(|(name, count)| format!("{} {}", grouped(count), name.replace('_', " ")))
            .collect();
        item(&mut items, "IPIs", &format!("{} sent = {}", grouped(count(report, "ipis/sent")), parts.join(" + ")));
        let besides: Vec<String> =
            [("late", "late"), ("duplicate", "received twice"), ("spurious", "received without a message")]
                .into_iter()
                .map(|(name, words)| (count(report, &format!("ipis/{name}")), words))
                .filter(|(count, _)| *count > 0)
                .map(|(count, words)| format!("{} {words}", grouped(count)))
                .collect();
        item(&mut items, "Besides", &besides.join(", "));
    }
    if at(report, "target").is_some() {
        let cores = match at(report, "linux") {
            Some(_) => format!("{} CPUs", count(report, "target/core_count")),
            None => format!("{} of {} cores up", count(report, "target/cores_up"), count(report, "target/core_count")),
        };
        item(&mut items, "Cores", &cores);
    }
    item(&mut items, "Time", scope_words(words(report, "verdict_scope")));
    item(&mut items, "Ended", &words(report, "ended").replace('_', " "));
    if let Some(stopped) = at(report, "stopped_by") {
        item(&mut items, "Stopped by", &format!("{} ({})", words(stopped, "expression"), words(stopped, "values")));
    }
    if let Some(filter) = at(report, "filter") {
        let picked = format!(
            "{}: {} of {} IPIs; judged: {}",
            words(filter, "expression"),
            grouped(count(filter, "picked")),
            grouped(count(filter, "of")),
            words(filter, "judged")
        );
        item(&mut items, "Filter", &picked);
    }
    for injected in list(report, "injected") {
        let struck = at(injected, "struck").and_then(Value::as_u64);
        let struck = struck.map_or(String::new(), |count| format!(", struck {} times", grouped(count)));
        item(&mut items, "Injected", &format!("{}{struck}", words(injected, "fault")));
    }
    if !items.is_empty() {
        let _ = write!(html, "<dl class=\"facts summary\">{items}</dl>");
    }
}

/// Single values: (path, label, kind).
type Values = &'static [(&'static str, &'static str, Kind)];

const TARGET: Values = &[
    ("target/machine", "Machine", Kind::Text),
    ("target/board", "Board", Kind::Text),
    ("target/source", "Data from", Kind::Text),
    ("target/cpu", "CPU asked for", Kind::Text),
    ("target/accel", "Accelerator", Kind::Text),
    ("target/core_count", "Cores asked for", Kind::Count),
    ("target/cores_up", "Cores up", Kind::Count),
    ("target/entry_el", "Entered at EL", Kind::Core),
    ("target/run_el", "Runs at EL", Kind::Core),
    ("target/psci_conduit", "PSCI by", Kind::Text),
    ("target/hypervisor", "Hypervisor UID", Kind::Text),
    ("target/gic/version", "GIC version", Kind::Core),
    ("target/gic/iidr", "GICD_IIDR", Kind::Text),
    ("target/gic/typer", "GICD_TYPER", Kind::Text),
    ("target/gic/pidr2", "GICD_PIDR2", Kind::Text),
    ("stolen/heartbeat_ns", "Heartbeat", Kind::Time),
    ("stolen/gap_ns", "Shortest gap", Kind::Time),
    ("stolen/ipis_stolen", "IPIs excused by stolen time", Kind::Count),
    ("stolen/ipis_doubtful", "IPIs doubtful for it", Kind::Count),
];

const CLOCK: Values = &[
    ("target/counter_hz", "Counter, Hz", Kind::Count),
    ("target/resolution_ns", "A step, ns", Kind::Number),
    ("clock/trusted", "Trusted", Kind::Flag),
    ("clock/tested", "Cores compared", Kind::Flag),
    ("clock/tested_after", "Compared after the plan", Kind::Flag),
    ("clock/monotonic", "Never went back", Kind::Flag),
    ("clock/step_backs", "Stamps that went back", Kind::Count),
    ("clock/backwards_ipis", "IPIs answered before they were sent", Kind::Count),
    ("clock/read_cost_ticks", "A read, ticks", Kind::Count),
    ("clock/read_cost_max_ticks", "A read at most, ticks", Kind::Count),
    ("clock/step_ticks", "Least step, ticks", Kind::Count),
    ("clock/proven_skew_ticks", "Skew to the boot core, proven, ticks", Kind::Count),
    ("clock/max_skew_ticks", "Skew to the boot core, possible, ticks", Kind::Count),
    ("clock/skew_before/proven_ticks", "Skew before the plan, proven, ticks", Kind::Count),
    ("clock/skew_before/possible_ticks", "Skew before the plan, possible, ticks", Kind::Count),
    ("clock/skew_after/proven_ticks", "Skew after the plan, proven, ticks", Kind::Count),
    ("clock/skew_after/possible_ticks", "Skew after the plan, possible, ticks", Kind::Count),
    ("clock/ecv", "FEAT_ECV", Kind::Flag),
    ("clock/self_synchronised", "Reads CNTVCTSS_EL0", Kind::Flag),
    ("clock/host_checked", "Held against the host's clock", Kind::Flag),
    ("clock/host_unchecked", "Why not", Kind::Text),
    ("clock/measured_hz", "By the host's clock, Hz", Kind::Number),
    ("clock/measured_hz_uncertainty", "± Hz", Kind::Number),
];

const PLAN: Values = &[
    ("plan/name", "Plan", Kind::Text),
    ("plan/cores", "Cores", Kind::Count),
    ("plan/level", "Trace level", Kind::Text),
    ("plan/policy", "A full lane", Kind::Text),
    ("plan/keep", "Records kept", Kind::Text),
    ("plan/faults", "Faults put in", Kind::Text),
    ("plan/deterministic", "Time counts instructions", Kind::Flag),
    ("plan/seed", "Seed", Kind::Core),
    ("plan/expected_sends", "Messages of a round", Kind::Count),
    ("plan/expected_records", "Records of a round, at most", Kind::Count),
    ("plan/timeout_ns", "T", Kind::Time),
    ("plan/probe_ns", "Looks at the redistributor after", Kind::Time),
    ("plan/duration_ns", "Repeated for", Kind::Time),
    ("plan/ring_bytes", "Bytes of all lanes", Kind::Count),
    ("plan/slots_without_histogram", "Pairs without histogram", Kind::Count),
    ("timing/planned", "Sends at a time", Kind::Count),
    ("timing/reproduced", "Of those, recorded", Kind::Count),
    ("timing/in_order", "In the plan's order", Kind::Flag),
    ("timing/late_p50_ns", "Behind their time, median", Kind::Length),
    ("timing/late_p99_ns", "Behind their time, p99", Kind::Length),
    ("timing/late_max_ns", "Behind their time, max", Kind::Length),
    ("timing/latest_core", "The latest on core", Kind::Core),
];

const TRACE: Values = &[
    ("trace/records", "Records read", Kind::Count),
    ("trace/lost_records", "Records missed", Kind::Count),
    ("trace/torn_records", "Of those, torn", Kind::Count),
    ("trace/damaged_chunks", "Damaged chunks", Kind::Count),
    ("trace/truncated", "Cut off", Kind::Flag),
    ("trace/rings", "Rings", Kind::Text),
    ("trace/record_ns", "A record takes, ns", Kind::Number),
    ("trace/record_cacheable_ns", "In cacheable memory, ns", Kind::Number),
    ("events_per_ipi", "Records for each IPI", Kind::Number),
    ("instructions_per_ipi", "Instructions for each IPI", Kind::Number),
    ("ipis/from", "IPIs counted by", Kind::Text),
    ("linux/file", "Linux trace", Kind::Text),
    ("linux/format", "Format", Kind::Text),
    ("linux/resolution_ns", "Step of its stamps, ns", Kind::Number),
    ("linux/others", "Events of other kinds", Kind::Count),
    ("linux/unknown", "Lines that could not be read", Kind::Count),
    ("linux/lost", "Events that the kernel lost", Kind::Count),
    ("calls/queued", "Calls queued", Kind::Count),
    ("calls/executed", "Executed", Kind::Count),
    ("calls/not_executed", "Not executed", Kind::Count),
    ("calls/in_flight", "In flight", Kind::Count),
    ("calls/unknown", "Unknown", Kind::Count),
    ("calls/synchronous", "Waited for", Kind::Count),
    ("calls/sends_saved", "Needed no SGI of their own", Kind::Count),
    ("calls/twice", "Executed twice", Kind::Count),
    ("calls/orphaned", "Executed that nobody queued", Kind::Count),
];

const LIMITS: Values = &[
    ("limits/file", "File", Kind::Text),
    ("limits/name", "Name", Kind::Text),
    ("limits/crc32", "CRC-32", Kind::Text),
    ("limits/outcome", "Outcome", Kind::Text),
    ("limits/passed", "Rules passed", Kind::Count),
    ("limits/failed", "Rules failed", Kind::Count),
    ("limits/inconclusive", "Rules inconclusive", Kind::Count),
];

const BUILD: Values = &[
    ("build/created", "Ran", Kind::Text),
    ("build/host", "Run by ipiscope", Kind::Text),
    ("build/reporter", "Reported by ipiscope", Kind::Text),
    ("build/firmware", "Firmware's build id", Kind::Text),
    ("build/qemu", "QEMU", Kind::Text),
    ("build/nonce", "Nonce", Kind::Text),
    ("schema", "Schema", Kind::Text),
];

/// The most bytes of a plan's or a limits file's text that are shown.
const MOST_SOURCE: usize = 64 << 10;

fn source(html: &mut String, label: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    let end = (0..=MOST_SOURCE.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let cut = if end < text.len() {
        format!(" (the first {} of {} bytes; the JSON report has all)", grouped(end as u64), grouped(text.len() as u64))
    } else {
        String::new()
    };
    let _ = write!(html, "<details><summary>{label}{cut}</summary><pre tabindex=\"0\">");
    escape(text.get(..end).unwrap_or_default(), html);
    html.push_str("</pre></details>");
}

/// The lists of what ran, on what, and how it was counted.
pub(crate) fn facts(report: &Value, html: &mut String) {
    let tick = tick(report);
    let section = |html: &mut String, id: &str, heading: &str, values: Values, more: &str| {
        let mut items = String::new();
        for (path, label, kind) in values {
            if let Some(text) = shown(report, &column(path, label, *kind), tick) {
                item(&mut items, label, &text);
            }
        }
        if id == "target"
            && let Some(tags) = at(report, "target/tags").and_then(Value::as_object)
        {
            for (key, value) in tags {
                item(&mut items, key, value.as_str().unwrap_or_default());
            }
        }
        if !items.is_empty() || !more.is_empty() {
            let _ = write!(
                html,
                "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{heading}</h2><dl class=\"facts\">{items}</dl>{more}</section>"
            );
        }
    };
    let mut limits = String::new();
    source(&mut limits, "The limits file", words(report, "limits/text"));
    section(html, "limits-held", "Limits file", LIMITS, &limits);
    section(html, "target", "Target", TARGET, "");
    section(html, "clock", "Clock", CLOCK, "");
    let mut plan = String::new();
    source(&mut plan, "The plan's text", words(report, "plan/source"));
    section(html, "plan", "Plan", PLAN, &plan);
    section(html, "trace", "Trace", TRACE, "");
    let arguments: Vec<&str> = list(report, "build/qemu_arguments").iter().filter_map(Value::as_str).collect();
    let mut build = String::new();
    source(&mut build, "QEMU's arguments", &arguments.join(" "));
    section(html, "build", "Build", BUILD, &build);
}
