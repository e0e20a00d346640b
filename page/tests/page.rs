//! The page as text: nothing breaks out of it, everything stands in it, and it does not grow without bound.

mod support;

use report_page::{MOST_BYTES, Trail, html};
use serde_json::{Value, json};

/// Every string of a report that is text for people.
fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

fn replace(value: &mut Value, by: &str) {
    match value {
        Value::String(text) => *text = by.into(),
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, by)),
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, by)),
        _ => {}
    }
}

/// What stands before the data.
fn static_part(page: &str) -> &str {
    page.split("<script type=\"application/json\"").next().unwrap_or_default()
}

#[test]
fn no_string_of_a_report_breaks_out_of_the_page() {
    for evil in ["</script><b id=evil>", "<!--<script>", "\"'><b id=evil>", "]]>&lt;\u{2028}", "{{data}}{{script}}"] {
        for mut report in [support::late(), support::machine(3)] {
            let plain = html(&report, &[support::trail()]);
            replace(&mut report, evil);
            let mut trail = support::trail();
            trail.title = evil.into();
            trail.events.iter_mut().for_each(|event| event.what = evil.into());
            let page = html(&report, &[trail]);
            assert!(!page.contains("<b id=evil>"), "{evil}");
            assert!(!page.contains("\"'>"), "{evil}");
            for tag in ["<script", "</script", "<!--", "<style", "</style"] {
                assert_eq!(page.matches(tag).count(), plain.matches(tag).count(), "{tag} with {evil}");
            }
            // What was put in is never filled again.
            assert_eq!(page.matches("\"use strict\"").count(), 1);
            // The data is JSON still, with the string as it was.
            let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("data");
            let data: Value = serde_json::from_str(data).expect("JSON");
            let mut found = Vec::new();
            strings(&data["report"]["distributions"], &mut found);
            assert!(!found.is_empty() && found.iter().all(|text| text == evil), "{found:?}");
        }
    }
}

#[test]
fn every_suspect_advisory_and_note_stands_in_the_page_without_a_script() {
    let mut report = support::machine(4);
    let suspect = |index: usize| {
        json!({ "core": index % 4, "role": "sender", "from": null, "to": null, "detector": "late",
            "evidence": format!("evidence <{index}> & so on"), "effect_ns": null, "q_value": null })
    };
    report["suspects"] = (0..150).map(suspect).collect();
    report["advisories"] = (150..300).map(suspect).collect();
    report["notes"] = (0..150).map(|index| json!(format!("note <{index}>"))).collect();
    let page = html(&report, &[]);
    let page = static_part(&page);
    for index in 0..300 {
        assert!(page.contains(&format!("evidence &lt;{index}&gt; &amp; so on")), "{index}");
    }
    for index in 0..150 {
        assert!(page.contains(&format!("<li>note &lt;{index}&gt;</li>")), "{index}");
    }
    assert!(page.contains("<strong>Verdict: suspect</strong> <span>core 0 as sender (late) and 149 more</span>"));
}

#[test]
fn the_tables_of_a_report_stand_in_the_page_without_a_script() {
    let page = html(&support::late(), &[support::trail()]);
    let page = static_part(&page);
    for id in [
        "phases",
        "pairs",
        "core-figures",
        "distributions",
        "cores",
        "counters",
        "plan-phases",
        "lanes",
        "trail-events-0",
    ] {
        assert!(page.contains(&format!("<table id=\"{id}\"")), "{id}");
    }
    for id in ["stages", "linux-paths", "limits", "faults"] {
        assert!(!page.contains(&format!("<table id=\"{id}\"")), "{id} has no rows, and is not shown");
    }
}

#[test]
fn limits_sweeps_and_linux_sections_are_shown_where_they_are() {
    let mut report = support::machine(4);
    report["limits"] = json!({
        "file": "lab.toml", "name": "lab", "crc32": "0x1", "text": "rule", "outcome": "failed", "mismatch": [], "passed": 0,
        "failed": 1, "inconclusive": 0, "notes": ["a note of the limits"],
        "rules": [{ "name": "fast", "line": 3, "select": "all pairs", "per": "pair", "outcome": "failed", "bounds": [{
            "bound": "p99", "unit": "ns", "limit": 500.0, "worst": 20_000.0, "n": 900, "outcome": "failed", "figures": 12, "broken": 3,
            "undecided": 0, "left_out": 0, "finer_than_clock": false, "message": "why",
            "subject": { "from": 1, "to": 5, "kind": "sgi0", "state": "wfi", "phase": null, "stage": null } }] }],
    });
    report["sweeps"] = json!([{ "from": 0, "to": 1, "transition": "wfi", "worst_offset_ns": -20.0, "steps": [
        { "offset_ns": -20.0, "sent": 5, "timed": 5, "min_ns": 40.0, "max_ns": 90.0, "given_up": 0 }] }]);
    report["linux"] = json!({
        "file": "t.txt", "format": "text", "resolution_ns": 1000, "events": [["ipi_raise", 77]], "others": 0, "unknown": 0, "lost": 0,
        "call_sites": [], "unannounced": [[3, "Rescheduling interrupts", 4]],
        "paths": [{ "from": 0, "to": 1, "reason": "Function call interrupts", "callback": "flush_tlb", "n": 3, "max_ns": 9000.0 }],
        "unanswered": [{ "from": 2, "to": 3, "reason": "Rescheduling interrupts", "sent_at_ns": 5, "age_ns": 123_000 }],
    });
    let page = html(&report, &[]);
    let page = static_part(&page);
    for text in [
        "pair 1 to 5, sgi0, wfi",
        "a note of the limits",
        "1 limit is broken",
        "-20 ns",
        "flush_tlb",
        "ipi_raise",
        "123 us",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(page.contains("<td class=\"number\">3</td><td>Rescheduling interrupts</td><td class=\"number\">4</td>"));
}

#[test]
fn a_report_of_an_error_alone_and_whatever_else_makes_a_page() {
    let error = json!({
        "schema": "ipiscope.report/1", "verdict": "incomplete", "ended": null,
        "error": { "kind": "firmware", "message": "no firmware <here>", "next_step": "build it" },
    });
    let page = html(&error, &[]);
    assert!(page.contains("<strong>Verdict: incomplete</strong> <span>no firmware &lt;here&gt;</span>"));
    assert!(page.contains("<p>build it</p>"));
    assert!(!page.contains("<table"), "what the report does not have is not shown");
    // Fields of another form than the contract says are left out, and nothing panics.
    let odd = json!({ "verdict": 7, "pairs": [1, "x", null, { "from": "a" }], "sweeps": ["x", { "steps": [1] }],
        "limits": { "rules": [{ "bounds": [3] }] }, "linux": { "events": [1, []], "unannounced": [{}] }, "series": [1],
        "queue_depth": [null], "target": { "cores": [4], "tags": 3, "counter_hz": 0 }, "suspects": [1], "notes": [2] });
    for value in [json!({}), json!(null), json!([1]), odd] {
        assert!(html(&value, &[Trail::default()]).ends_with("</html>\n"), "{value}");
    }
}

#[test]
fn a_page_of_512_cores_with_every_pair_stays_below_its_bound_and_says_what_it_left_out() {
    let report = support::machine(512);
    assert_eq!(report["pairs"].as_array().map(Vec::len), Some(512 * 511));
    let page = html(&report, &[support::trail()]);
    eprintln!("512 cores: {} bytes; 64 cores: {}", page.len(), html(&support::machine(64), &[]).len());
    assert!(page.len() < MOST_BYTES, "{}", page.len());
    let said = static_part(&page).matches("class=\"left-out\"").count();
    assert!(said >= 2, "what was left out is said: {said}");
    assert!(page.contains("left out, or the page would be too large"));
}

#[test]
fn long_trails_and_many_are_cut_and_the_page_says_so() {
    let mut long = support::trail();
    long.events = std::iter::repeat_n(long.events[0].clone(), 700).collect();
    let page = html(&support::machine(3), &[long]);
    assert!(page.contains("The slowest IPI: 2 to 5: at most 500 of 700 events and 2 IPIs"));
    assert_eq!(page.matches("\"what\":\"call queued\"").count(), 500);
    let page = html(&support::machine(3), &vec![support::trail(); 20]);
    assert!(page.contains("The first 16 of 20 trails are here"));
}
