//! Any text as what the command line takes in words: an error that says something, or a value that is printed and read again as the same.
#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use host::fault::Fault;
use host::plan::{CoreList, Keep};
use host::stop::StopOn;
use libfuzzer_sys::fuzz_target;
use virtual_probe::knobs::Knob;

fn read<T: FromStr<Err: Display> + Display + PartialEq>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            let again = printed.parse::<T>().unwrap_or_else(|error| panic!("{printed}: {error}"));
            assert!(again == value, "{printed}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    read::<Fault>(text);
    read::<CoreList>(text);
    read::<Keep>(text);
    read::<StopOn>(text);
    let _ = text.parse::<Knob>().map_err(|error| error.to_string());
});
