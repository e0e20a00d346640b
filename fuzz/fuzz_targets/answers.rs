//! Any bytes as what a host says to the firmware's sender: it ends, sends whole lines of its region as they are, and nothing else.
#![no_main]

#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/options.rs"]
mod options;
#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/serial.rs"]
mod serial;

use fuzz::small_region;
use libfuzzer_sys::fuzz_target;
use options::Results;
use serial::{Port, Sender};
use trace_ring::line::{Line, Scanner};

/// Bytes that a host says at most: each request may ask for all of the region.
const MOST_SAID: usize = 1024;

/// A sender that answers to more than this has lost its measure: bytes.
const MOST_SENT: usize = 64 << 20;

/// The region, what the host says and when, what it hears.
struct Fake<'a> {
    region: &'a [u8],
    says: &'a [u8],
    /// Bytes that are sent between two that come in.
    pace: usize,
    since: usize,
    heard: Vec<u8>,
}

impl Port for &mut Fake<'_> {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.region[offset as usize..][..bytes.len()]);
    }

    fn put(&mut self, byte: u8) {
        self.heard.push(byte);
        assert!(self.heard.len() < MOST_SENT);
        self.since += 1;
    }

    fn get(&mut self) -> Option<u8> {
        if self.since < self.pace {
            return None;
        }
        self.since = 0;
        let (byte, rest) = self.says.split_first()?;
        self.says = rest;
        Some(*byte)
    }

    fn rest(&mut self) -> bool {
        self.since = self.pace;
        !self.says.is_empty()
    }
}

fuzz_target!(|data: &[u8]| {
    let [choice, pokes, rest @ ..] = data else { return };
    let mut region = small_region();
    // Records, heads and logs of any value: three bytes of place and eight of what stands there. The directory and where the
    // lanes lie are the firmware's own, and stay.
    let Some((pokes, says)) = rest.split_at_checked(usize::from(pokes & 7) * 11) else { return };
    let says = &says[..says.len().min(MOST_SAID)];
    let kept = size_of::<trace_ring::layout::Directory>();
    for poke in pokes.chunks_exact(11) {
        let at = usize::from(poke[0]) << 16 | usize::from(poke[1]) << 8 | usize::from(poke[2]);
        let at = kept + at % (region.len() - kept - 8);
        region[at..at + 8].copy_from_slice(&poke[3..]);
    }
    let results = [Results::None, Results::Summary, Results::Console, Results::None][usize::from(choice & 3)];
    let pace = usize::from(choice >> 2) * 16;
    let mut fake = Fake { region: &region, says, pace, since: 0, heard: Vec::new() };
    Sender::new(&mut fake).run(results);
    let mut scanner = Scanner::new();
    let (mut lines, mut ended) = (0_u64, None);
    for byte in &fake.heard {
        match scanner.push(*byte) {
            Some(Line::Data { offset, bytes }) => {
                assert_eq!(&region[offset as usize..][..bytes.len()], bytes);
                lines += 1;
            }
            Some(Line::Zeros { offset, length }) => {
                assert!(region[offset as usize..][..length as usize].iter().all(|byte| *byte == 0));
                lines += 1;
            }
            Some(Line::Begin { region_len, .. }) => assert!(lines == 0 && region_len == region.len() as u64),
            Some(Line::End { lines: told, .. }) => {
                assert_eq!(told, lines);
                assert_eq!(ended.replace(told), None);
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    assert_eq!(scanner.damaged(), 0);
    assert!(results != Results::None || ended.is_none());
});
