//! The page in a browser: it loads from a file, asks nothing of the network, shows the report's numbers, and can be worked with.

mod support;

use std::path::PathBuf;

use report_page::html;
use serde_json::{Value, json};
use support::chromium::{self, Browser};

/// A browser that shows the page of a report.
fn shown(report: &Value) -> Browser {
    let mut browser = Browser::start();
    browser.size(1366, 768);
    let file = write(&browser, report);
    browser.open(&file);
    browser
}

fn write(browser: &Browser, report: &Value) -> PathBuf {
    let file = browser.folder().join("report.html");
    std::fs::write(&file, html(report, &[support::trail()])).expect("written");
    file
}

#[test]
fn a_page_loads_from_a_file_without_an_error_or_a_request() {
    if !chromium::is_here() {
        return;
    }
    for report in [support::late(), support::machine(4), support::machine(80), json!({})] {
        let browser = shown(&report);
        assert_eq!(browser.complaints(), Vec::<String>::new());
    }
}

#[test]
fn an_error_and_a_request_would_be_heard() {
    if !chromium::is_here() {
        return;
    }
    for (body, heard) in [
        ("<script>throw new Error('thrown')</script>", "thrown"),
        ("<script>console.error('said')</script>", "said"),
        ("<img src='other.png'>", "other.png"),
        ("<script>fetch('http://127.0.0.1:9/asked').catch(() => {})</script>", "127.0.0.1:9/asked"),
    ] {
        let mut browser = Browser::start();
        let file = browser.folder().join("broken.html");
        std::fs::write(&file, format!("<!DOCTYPE html><title>x</title>{body}")).expect("written");
        browser.open(&file);
        // An answer of the page comes behind what it did before.
        browser.eval("new Promise((done) => setTimeout(done, 50))");
        let complaints = browser.complaints();
        assert!(complaints.iter().any(|complaint| complaint.contains(heard)), "{body}: {complaints:?}");
    }
}

#[test]
fn verdict_and_suspect_stand_in_the_first_screen_of_a_desktop_and_a_phone() {
    if !chromium::is_here() {
        return;
    }
    let mut browser = Browser::start();
    let file = write(&browser, &support::late());
    for (width, height) in [(1366, 768), (390, 844)] {
        browser.size(width, height);
        browser.open(&file);
        for what in ["#verdict", ".found.suspects li"] {
            let inside = browser.eval(&format!(
                "(() => {{ const r = document.querySelector({what:?}).getBoundingClientRect();
                   return r.width > 0 && r.height > 0 && r.left >= 0 && r.top >= 0 && r.right <= innerWidth && r.bottom <= innerHeight; }})()"
            ));
            assert_eq!(inside, json!(true), "{what} at {width} x {height}");
        }
        let text = browser.eval("document.querySelector('.found.suspects li').innerText");
        assert!(text.as_str().is_some_and(|text| text.starts_with("core 3 as receiver")), "{text}");
        let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(overflow, json!(0), "nothing stands out of the page at {width}");
    }
}

/// All cells of the heatmap: sender, receiver, what it says to a screen reader.
fn cells(browser: &mut Browser) -> Vec<(u64, u64, String)> {
    let cells = browser.eval(
        "[...document.querySelectorAll('#heatmap-box td[data-from]')].map((td) => [+td.dataset.from, +td.dataset.to, td.getAttribute('aria-label')])",
    );
    let cell = |cell: &Value| Some((cell[0].as_u64()?, cell[1].as_u64()?, cell[2].as_str()?.to_owned()));
    cells.as_array().expect("cells").iter().filter_map(cell).collect()
}

/// Takes an option of a list by its label.
fn pick(browser: &mut Browser, form: &str, label: &str, value: &str) {
    let found = browser.eval(&format!(
        "(() => {{ const label = [...document.querySelectorAll('#{form} label')].find((l) => l.firstChild.textContent === {label:?});
           const box = label.querySelector('select'); box.value = {value:?};
           box.dispatchEvent(new Event('change')); return box.value; }})()"
    ));
    assert_eq!(found, json!(value));
}

#[test]
fn the_distribution_of_a_pair_and_of_a_core_is_their_own() {
    if !chromium::is_here() {
        return;
    }
    let report = support::machine(6);
    let mut browser = shown(&report);
    browser.eval("document.querySelector('#heatmap-box td[data-from=\"1\"][data-to=\"2\"]').click()");
    pick(&mut browser, "spread-controls", "Core", "4");
    let curves = "[...document.querySelectorAll('#cdf path[data-whose]')].map((path) => path.dataset.whose)";
    assert_eq!(browser.eval(curves), json!(["all", "core", "pair"]));
    let bars = "[...document.querySelectorAll('#histogram rect title')].map((title) => title.textContent)";
    let of_all = browser.eval(bars);
    pick(&mut browser, "spread-controls", "Histogram of", "pair");
    let pair = report["pairs"].as_array().and_then(|pairs| pairs.iter().find(|row| row["from"] == 1 && row["to"] == 2));
    let points = pair.and_then(|row| row["cdf"].as_array()).expect("a pair with its distribution");
    let of_pair = browser.eval(bars);
    let of_pair = of_pair.as_array().expect("bars");
    assert_eq!(of_pair.len(), points.len());
    for (bar, share) in of_pair.iter().zip([200; 5]) {
        assert!(bar.as_str().is_some_and(|text| text.ends_with(&format!(": {share}"))), "{bar}");
    }
    pick(&mut browser, "spread-controls", "Histogram of", "core");
    let of_core = browser.eval(bars);
    assert!(
        of_core
            .as_array()
            .is_some_and(|bars| bars.iter().all(|bar| bar.as_str().is_some_and(|text| text.ends_with(": 1,000")))),
        "{of_core}"
    );
    pick(&mut browser, "spread-controls", "Histogram of", "all");
    assert_eq!(browser.eval(bars), of_all);
    // A pair that the report has no distribution of is shown by its figures, and the histogram is that of all.
    let mut report = report;
    report["pairs"].as_array_mut().into_iter().flatten().for_each(|row| {
        row.as_object_mut().map(|row| row.remove("cdf"));
    });
    let mut browser = shown(&report);
    browser.eval("document.querySelector('#heatmap-box td[data-from=\"1\"][data-to=\"2\"]').click()");
    pick(&mut browser, "spread-controls", "Histogram of", "pair");
    assert_eq!(browser.eval(curves), json!(["all", "core"]));
    assert_eq!(browser.eval(bars), of_all);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_heatmap_shows_the_report_s_numbers_and_follows_figure_phase_and_keys() {
    if !chromium::is_here() {
        return;
    }
    let report = support::late();
    let mut browser = shown(&report);
    let pairs = report["pairs"].as_array().expect("pairs");
    let phases = ["wfi", "state/masked"];
    let names: Vec<Value> = {
        let names =
            browser.eval("[...document.querySelectorAll('#heatmap-controls select')[1].options].map((o) => o.text)");
        names.as_array().expect("names").clone()
    };
    assert_eq!(names.len(), phases.len(), "{names:?}");
    for (group, phase) in phases.iter().enumerate() {
        assert!(names[group].as_str().is_some_and(|name| name.starts_with(phase)), "{names:?}");
        pick(&mut browser, "heatmap-controls", "Phase, kind, state", &group.to_string());
        for (metric, name) in [("p50_ns", "median"), ("max_ns", "max"), ("lost", "lost")] {
            pick(&mut browser, "heatmap-controls", "Figure", metric);
            let cells = cells(&mut browser);
            assert_eq!(cells.len(), 64);
            for (from, to, told) in cells {
                let pair =
                    pairs.iter().find(|pair| pair["phase"] == *phase && pair["from"] == from && pair["to"] == to);
                let expected = match pair.map(|pair| pair[metric].as_f64().expect("measured")) {
                    None => format!("{from} to {to}: not measured"),
                    Some(count) if metric == "lost" => format!("{from} to {to}: lost {count}"),
                    // All of them are whole nanoseconds below 10 us, and a tick is one.
                    Some(ns) => {
                        assert!(ns < 1e4 && ns.fract() == 0.0);
                        format!("{from} to {to}: {name} {ns} ns")
                    }
                };
                assert_eq!(told, expected, "{phase}");
            }
        }
    }
    // The distribution is that of the same kind and state.
    let spread = browser.eval("document.getElementById('spread-readout').textContent");
    let masked = report["distributions"].as_array().and_then(|all| all.iter().find(|one| one["state"] == "masked"));
    let n = masked.and_then(|one| one["n"].as_u64()).expect("a distribution").to_string();
    let n = format!("{},{} latencies", &n[..1], &n[1..]);
    assert!(
        spread.as_str().is_some_and(|text| text.starts_with("sgi0, receiver in masked") && text.ends_with(&n)),
        "{spread}"
    );
    // What is shown in a cell is what it says.
    pick(&mut browser, "heatmap-controls", "Figure", "max_ns");
    let text = browser.eval("document.querySelector('#heatmap-box td[data-from=\"0\"][data-to=\"1\"]').textContent");
    let pair =
        pairs.iter().find(|pair| pair["phase"] == phases[1] && pair["from"] == 0 && pair["to"] == 1).expect("a pair");
    assert_eq!(text, json!(format!("{}", pair["max_ns"].as_f64().expect("measured"))));
    let core = browser.eval("document.querySelectorAll('#spread-controls select')[1].value");
    assert_eq!(core, json!("3"), "the suspect's core is shown first");
    // A click chooses a pair, arrow keys move it, the readout and the distribution follow.
    browser.eval("document.querySelector('#heatmap-box td[data-from=\"0\"][data-to=\"1\"]').click()");
    let readout = "document.getElementById('heatmap-readout').textContent";
    assert!(browser.eval(readout).as_str().is_some_and(|text| text.starts_with("0 to 1: min ")));
    browser.press("ArrowRight");
    browser.press("ArrowDown");
    let text = browser.eval(readout);
    assert!(text.as_str().is_some_and(|text| text.starts_with("1 to 2: min ")), "{text}");
    let marked = browser.eval(
        "[...document.querySelectorAll('#heatmap-box td.chosen')].map((td) => td.dataset.from + ' ' + td.dataset.to)",
    );
    assert_eq!(marked, json!(["1 2"]));
    assert_eq!(browser.eval("document.activeElement.dataset.to"), json!("2"), "the focus moves with it");
    let key = browser.eval("document.querySelector('#cdf .key').textContent");
    assert!(key.as_str().is_some_and(|key| key.contains("pair 1 to 2")), "{key}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_large_machine_is_drawn_with_the_report_s_numbers_and_zooms() {
    if !chromium::is_here() {
        return;
    }
    let mut browser = shown(&support::machine(80));
    browser.eval("document.querySelector('#heatmap-box canvas').scrollIntoView({ behavior: 'instant' })");
    browser.eval("document.querySelector('#heatmap-box canvas').focus()");
    let readout = "document.getElementById('heatmap-readout').textContent";
    // The suspect's slowest is chosen at first.
    let first = browser.eval(readout);
    assert!(first.as_str().is_some_and(|text| text.contains(" to 5: min ")), "{first}");
    for _ in 0..3 {
        browser.press("ArrowRight");
    }
    let text = browser.eval(readout).as_str().unwrap_or_default().to_owned();
    let (from, rest) = text.split_once(" to ").expect("a pair");
    let from: usize = from.parse().expect("a core");
    assert!(rest.starts_with("8: "), "{text}");
    let expected = format!("median {} ns", support::median(from, 8));
    assert!(text.contains(&expected), "{expected}: {text}");
    // The colour under the pointer is that of the value, and the pointer's readout tells it.
    let frame = browser.eval(
        "(() => { const r = document.querySelector('#heatmap-box canvas').getBoundingClientRect(); return [r.left, r.top, r.width]; })()",
    );
    let at = |index: f64, origin: f64| origin + (index + 0.5) * ((frame[2].as_f64().unwrap_or(0.0) - 40.0) / 80.0);
    let (x, y) = (at(70.0, frame[0].as_f64().unwrap_or(0.0) + 40.0), at(10.0, frame[1].as_f64().unwrap_or(0.0) + 20.0));
    browser.call("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": x, "y": y }));
    let hover = browser.eval("document.getElementById('heatmap-hover').textContent");
    assert_eq!(hover, json!(format!("Pointer: 10 to 70: median {} ns", support::median(10, 70))));
    browser.press("+");
    browser.press("+");
    let zoomed = browser.eval("document.querySelector('#heatmap-box .hint').textContent");
    assert!(zoomed.as_str().is_some_and(|text| text.starts_with("senders ")), "{zoomed}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn tables_sort_by_mouse_and_keys_and_what_has_no_value_stands_last() {
    if !chromium::is_here() {
        return;
    }
    let mut report = support::machine(12);
    report["pairs"][7]["p50_ns"] = Value::Null;
    let mut browser = shown(&report);
    let head = |name: &str| {
        format!("[...document.querySelectorAll('#pairs th button')].find((b) => b.textContent === {name:?})")
    };
    // `Show more` until all 132 stand there.
    browser.eval("document.querySelector('#pairs-figure .more button').click()");
    let column = |browser: &mut Browser, index: usize| -> Vec<String> {
        let cells = browser.eval(&format!(
            "[...document.querySelectorAll('#pairs tbody tr')].map((tr) => tr.cells[{index}].textContent)"
        ));
        cells.as_array().expect("cells").iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
    };
    let index =
        browser.eval(&format!("{}.closest('th').cellIndex", head("median"))).as_u64().expect("a column") as usize;
    let mut expected: Vec<f64> =
        report["pairs"].as_array().expect("pairs").iter().filter_map(|pair| pair["p50_ns"].as_f64()).collect();
    expected.sort_by(|a, b| b.total_cmp(a));
    let as_text = |values: &[f64]| -> Vec<String> {
        values.iter().map(|ns| format!("{ns} ns")).chain(["–".to_owned()]).collect()
    };
    assert_eq!(column(&mut browser, index), as_text(&expected), "the greatest medians first");
    browser.eval(&format!("{}.click()", head("median")));
    expected.reverse();
    assert_eq!(column(&mut browser, index), as_text(&expected));
    // By the keyboard: another column, and back.
    for name in ["from", "median", "median"] {
        browser.eval(&format!("{}.focus()", head(name)));
        browser.press("Enter");
        if name == "from" {
            let senders = column(&mut browser, 0);
            assert!(senders.iter().map(|from| from.parse::<u32>().unwrap_or(99)).is_sorted(), "{senders:?}");
        }
    }
    assert_eq!(column(&mut browser, index), as_text(&expected));
    let order = browser.eval(&format!("{}.closest('th').getAttribute('aria-sort')", head("median")));
    assert_eq!(order, json!("ascending"));
    let title = browser.eval(&format!("document.querySelector('#pairs tbody tr:last-child').cells[{index}].title"));
    assert_eq!(title, json!("the sample is too small for this figure"));
}

#[test]
fn a_table_is_saved_as_csv_with_every_row_and_correct_quotes() {
    if !chromium::is_here() {
        return;
    }
    let mut report = support::machine(12);
    report["linux"] = json!({ "file": "a.txt", "call_sites": [
        { "from": 1, "call_site": "say \"hi\", twice", "reason": "line\nbreak", "sent": 9 },
        { "from": 2, "call_site": null, "reason": "=1+1", "sent": 12345 },
    ] });
    let mut browser = shown(&report);
    let folder = browser.folder().join("saved");
    std::fs::create_dir(&folder).expect("a folder");
    browser.call(
        "Browser.setDownloadBehavior",
        json!({ "behavior": "allow", "downloadPath": folder, "eventsEnabled": true }),
    );
    let mut saved = |id: &str| -> String {
        browser.events.clear();
        browser.eval(&format!("document.querySelector('#{id}-figure .save').click()"));
        browser.wait("Browser.downloadProgress", |told| told["state"] == "completed");
        std::fs::read_to_string(folder.join(format!("{id}.csv"))).expect("saved")
    };
    assert_eq!(
        saved("linux-call-sites"),
        "from,sent,reason,call_site\r\n2,12345,=1+1,\r\n1,9,\"line\nbreak\",\"say \"\"hi\"\", twice\"\r\n"
    );
    let pairs = saved("pairs");
    let mut lines = pairs.split("\r\n");
    let heads: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let place = |name: &str| heads.iter().position(|head| *head == name).expect("a column");
    let mut rows = 0;
    for line in lines.filter(|line| !line.is_empty()) {
        let cells: Vec<&str> = line.split(',').collect();
        let (from, to) = (cells[place("from")].parse().expect("a core"), cells[place("to")].parse().expect("a core"));
        assert_eq!(cells[place("p50_ns")], support::median(from, to).to_string(), "{line}");
        assert_eq!((cells[place("exact")], cells[place("mean_ci_ns")]), ("true", "2.5"));
        rows += 1;
    }
    assert_eq!(rows, 12 * 11, "all, not those shown");
}

#[test]
fn the_script_writes_the_same_text_as_the_page_without_it() {
    if !chromium::is_here() {
        return;
    }
    let mut report = support::machine(12);
    // Ties, odd sizes, all units.
    for (index, ns) in
        [0.5, 2.5, 9999.5, 10_050.0, 12_345.0, 12_350.0, 999_999.0, 1_005_000.0, 2.5e9, 0.0].into_iter().enumerate()
    {
        report["pairs"][index]["p50_ns"] = json!(ns);
        report["pairs"][index]["mean_ns"] = json!(ns * 1e3 + 1e12);
        report["pairs"][index]["mean_ci_ns"] = json!(ns / 7.0);
    }
    for report in [support::late(), report] {
        let mut browser = Browser::start();
        let file = write(&browser, &report);
        let texts = "[...document.querySelectorAll('.table td')].map((td) => td.textContent)";
        browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
        browser.open(&file);
        let without = browser.eval(texts);
        assert_eq!(browser.eval("document.querySelectorAll('.table button').length"), json!(0), "no script ran");
        let suspect = browser.eval("document.querySelector('.found.suspects li p').textContent");
        assert_eq!(suspect, report["suspects"][0]["evidence"]);
        browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": false }));
        browser.open(&file);
        let with = browser.eval(texts);
        assert!(browser.eval("document.querySelectorAll('.table button').length").as_u64() > Some(50), "it ran");
        assert!(without.as_array().is_some_and(|cells| cells.len() > 500));
        assert_eq!(without, with);
    }
}

#[test]
fn strings_of_a_report_are_text_and_never_elements() {
    if !chromium::is_here() {
        return;
    }
    let mut report = support::machine(3);
    report["linux"] = json!({ "file": "f", "call_sites": [{ "from": 1, "call_site": "s", "reason": "r", "sent": 9 }] });
    let evil = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\"><!--<script>";
    replace(&mut report, evil);
    report["verdict"] = json!("suspect");
    let mut browser = Browser::start();
    let mut trail = support::trail();
    trail.title = evil.into();
    for event in &mut trail.events {
        (event.what, event.detail) = (evil.into(), Some(evil.into()));
    }
    let file = browser.folder().join("report.html");
    std::fs::write(&file, html(&report, &[trail])).expect("written");
    browser.open(&file);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(browser.eval("document.querySelectorAll('img').length"), json!(0));
    assert_eq!(browser.eval("document.querySelectorAll('script').length"), json!(2));
    let title = browser.eval("document.title");
    assert!(title.as_str().is_some_and(|title| title.contains("</script>")), "as text: {title}");
}

/// Puts a string in place of every string of a value.
fn replace(value: &mut Value, evil: &str) {
    match value {
        Value::String(text) => *text = evil.into(),
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, evil)),
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, evil)),
        _ => {}
    }
}

#[test]
fn it_can_be_worked_by_the_keyboard_in_light_and_dark() {
    if !chromium::is_here() {
        return;
    }
    let mut browser = shown(&support::late());
    let paper = "getComputedStyle(document.body).backgroundColor";
    let light = browser.eval(paper);
    browser.eval("document.getElementById('theme').focus()");
    browser.press("Enter");
    let dark = browser.eval(paper);
    assert_ne!(light, dark);
    browser.press("Enter");
    assert_eq!(browser.eval(paper), light);
    // As the system says.
    browser.eval("delete document.documentElement.dataset.theme");
    browser.call(
        "Emulation.setEmulatedMedia",
        json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] }),
    );
    assert_eq!(browser.eval(paper), dark);
    // Tab reaches the heatmap's one cell, a sort button and a save button, and shows where it is.
    browser.eval("document.getElementById('theme').focus()");
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..80 {
        browser.press("Tab");
        let at = browser.eval(
            "(() => { const a = document.activeElement; return [a.dataset.from ? 'cell' : a.closest('th') ? 'sort' : a.className, getComputedStyle(a).outlineStyle]; })()",
        );
        assert_ne!(at[1], json!("none"), "the focus is seen: {at}");
        reached.insert(at[0].as_str().unwrap_or_default().to_owned());
    }
    assert!(["cell", "sort", "save"].iter().all(|what| reached.contains(*what)), "{reached:?}");
    // Every chart has a text in its place.
    let nameless = browser.eval("[...document.querySelectorAll('svg, canvas')].filter((c) => c.getAttribute('role') !== 'img' || !c.getAttribute('aria-label')).length");
    assert_eq!(nameless, json!(0));
}

#[test]
fn a_page_prints() {
    if !chromium::is_here() {
        return;
    }
    let mut browser = shown(&support::late());
    assert!(browser.print().starts_with(b"%PDF-"));
}
