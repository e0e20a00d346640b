//! Any text as a limits file: an error that names the file, or rules that say something, and twice the same.
#![no_main]

use std::path::Path;

use host::limits::{Limits, LimitsError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("limits.toml");
    let read = Limits::parse(path, text.to_owned());
    match &read {
        Ok(limits) => {
            assert!(!limits.rules.is_empty() && limits.rules.iter().all(|rule| !rule.bounds.is_empty()));
            for rule in &limits.rules {
                assert!((1..=text.lines().count()).contains(&rule.line), "line {}", rule.line);
            }
        }
        Err(LimitsError::Rule { line, .. }) => assert!((1..=text.lines().count()).contains(line), "line {line}"),
        Err(error) => assert!(error.to_string().contains("limits.toml")),
    }
    assert_eq!(format!("{:?}", Limits::parse(path, text.to_owned())), format!("{read:?}"));
});
