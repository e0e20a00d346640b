//! Any bytes as a console: what is found is a line that is written as it was read; a line that is written is found amid any garbage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trace_ring::line::{Line, MOST_BYTES, MOST_LINE, Scanner};

/// A line that borrows nothing.
fn owned(line: Line<'_>) -> (String, Vec<u8>) {
    let mut text = [0; MOST_LINE];
    let length = line.encode(&mut text);
    (format!("{line:?}"), text[..length].to_vec())
}

/// Every line that is found.
fn find(scanner: &mut Scanner, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    bytes.iter().filter_map(|byte| scanner.push(*byte).map(owned)).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fuzz_target!(|data: &[u8]| {
    for (line, text) in find(&mut Scanner::new(), data) {
        let found = find(&mut Scanner::new(), &text);
        assert!(matches!(&found[..], [(again, _)] if *again == line), "{line}");
    }
    // The input again, cut into garbage and lines: a byte that says which line, 16 of numbers, the payload, garbage.
    let mut scanner = Scanner::new();
    for piece in data.chunks(40) {
        let Some(([kind, numbers @ ..], rest)) = piece.split_first_chunk::<17>() else { return };
        let (first, second) = (number(&numbers[..8]), number(&numbers[8..]));
        let (payload, garbage) = rest.split_at(rest.len() / 2);
        let payload = if payload.is_empty() { &numbers[..] } else { &payload[..payload.len().min(MOST_BYTES)] };
        let line = match kind % 6 {
            0 => Line::Data { offset: first, bytes: payload },
            1 => Line::Zeros { offset: first, length: second },
            2 => Line::Begin { region_len: first, nonce: second },
            3 => Line::End { lines: first, nonce: second },
            4 => Line::Request { offset: first, length: second },
            _ => Line::Done { nonce: second },
        };
        find(&mut scanner, garbage);
        let (said, mut text) = owned(line);
        // A logger folds lines: what ends one inside another is skipped.
        for (at, end) in [(first as usize, b'\n'), (second as usize, b'\r')] {
            text.insert(1 + at % text.len(), end);
        }
        let found = find(&mut scanner, &text);
        assert!(matches!(&found[..], [(again, _)] if *again == said), "{said}: {found:?}");
    }
});
