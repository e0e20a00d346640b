//! Any bytes as ftrace's text: no panic, events that are legal, and the same ones however the input comes in pieces.
#![no_main]

use std::convert::Infallible;
use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use linux_trace::text::{self, Told, Wanted};
use linux_trace::{Event, Names, Tally, What, mask};

/// Every other mark is wanted.
struct Marks;

impl Wanted for Marks {
    fn wants(&self, function: &[u8]) -> bool {
        function.len() % 2 == 0
    }
}

/// Gives at most so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

fn read(input: impl Read) -> (Told, Tally, Vec<Event>, Names) {
    let (mut names, mut events) = (Names::new(), Vec::new());
    let keep = |event: &Event, names: &mut Names| -> Result<(), Infallible> {
        assert!(usize::from(event.cpu) < mask::MOST_CPUS && (event.comm.0 as usize) < names.iter().len());
        events.push(*event);
        Ok(())
    };
    let Ok((told, tally)) = text::read(input, &Marks, &mut names, keep);
    (told, tally, events, names)
}

fuzz_target!(|data: &[u8]| {
    let piece = data.first().map_or(1, |byte| usize::from(*byte) + 1);
    let (told, tally, events, names) = read(data);
    let lost = events.iter().filter(|event| matches!(event.what, What::Lost { .. })).count() as u64;
    assert_eq!(tally.events + tally.gaps, events.len() as u64);
    assert_eq!(tally.gaps, lost);
    let count = lines(data);
    assert!(tally.events + tally.gaps + tally.others + tally.ignored + tally.unknown + told.untimed == count);
    assert!(names.iter().all(|name| name.len() <= linux_trace::names::LONGEST_NAME));
    let again = read(Pieces(data, piece));
    assert!(again.0 == told && again.1 == tally && again.2 == events && again.3.iter().eq(names.iter()));
});

/// Lines: the last need not end.
fn lines(data: &[u8]) -> u64 {
    let ends = data.iter().filter(|byte| **byte == b'\n').count() as u64;
    ends + u64::from(data.last().is_some_and(|byte| *byte != b'\n'))
}
