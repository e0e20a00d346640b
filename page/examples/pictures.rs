//! Pictures of pages, for the eye: `cargo run -p report-page --example pictures FOLDER [NAME]` takes those of the JSON reports in a
//! folder and of made-up machines of 64 and 512 cores, at desktop, phone, dark and on paper. Needs Chromium.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use report_page::html;
use serde_json::json;
use support::chromium::Browser;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().expect("usage: pictures FOLDER [NAME]"));
    let mut reports =
        vec![("made-64".to_owned(), support::machine(64)), ("made-512".to_owned(), support::machine(512))];
    for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            reports.push((name, serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON")));
        }
    }
    if let Some(only) = arguments.next() {
        reports.retain(|(name, _)| *name == only.to_string_lossy());
    }
    for (name, report) in reports {
        let picture = |what: &str| folder.join(format!("{name}-{what}.png"));
        let mut browser = Browser::start();
        let file = browser.folder().join("page.html");
        std::fs::write(&file, html(&report, &[support::trail()])).expect("written");
        eprintln!("{name}: {} bytes", std::fs::metadata(&file).expect("a file").len());
        let mut take = |width, height, dark: bool, what: &str, file: &Path| {
            browser.size(width, height);
            let scheme = if dark { "dark" } else { "light" };
            browser.call(
                "Emulation.setEmulatedMedia",
                json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
            );
            browser.open(file);
            let took = "(() => { const [n] = performance.getEntriesByType('navigation'); return Math.round(n.loadEventEnd); })()";
            eprintln!("{name}, {what}: loaded in {} ms", browser.eval(took));
            browser.picture(&picture(what), false);
            if !dark {
                let long =
                    browser.eval("Math.min(8000, document.documentElement.scrollHeight)").as_u64().unwrap_or(5000);
                browser.size(width, long as u32);
                browser.picture(&picture(&format!("{what}-whole")), false);
            }
        };
        take(1366, 768, false, "desktop", &file);
        take(1366, 3000, true, "dark", &file);
        take(390, 844, false, "phone", &file);
        std::fs::write(folder.join(format!("{name}.pdf")), browser.print()).expect("written");
    }
}
