//! Any bytes as a capture, judged: report, inspection, log, trails and exports end without a panic, and the report is the same twice.
#![no_main]

use std::io;

use fuzz::{InputFile, repair};
use host::capture::Capture;
use host::export::{Export, Format};
use host::report::{self, Options};
use host::{inspect, log, replay, trail};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    repair(&mut bytes);
    let file = InputFile::of(&bytes);
    let path = file.path();
    let Ok(capture) = Capture::open(&path) else { return };
    let Ok(report) = report::build_of(&capture, None, None) else { return };
    let json = report.json().to_string();
    let text = report.text(&Options::default());
    let again = report::build_of(&capture, None, None).expect("built before");
    assert!(again.json().to_string() == json && again.text(&Options::default()) == text);
    if let Ok(inspection) = inspect::of_capture(&path, 4) {
        assert!(!inspection.text(80).is_empty());
        let _ = inspection.json();
    }
    let _ = log::read(&capture);
    let _ = trail::trails(&capture, None);
    for format in [Format::Csv, Format::Json, Format::Ftrace, Format::Perfetto, Format::TraceDat] {
        if let Ok(export) = Export::prepare(&capture, format, None) {
            let _ = export.write(true, &mut io::sink());
        }
    }
    let _ = replay::replay(&replay::Request::of(&path));
});
