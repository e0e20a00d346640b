//! Lines over a console: what arrives is what was sent, or it is missing.

use proptest::prelude::*;
use trace_ring::line::{Line, MOST_BYTES, MOST_LINE, Scanner};

/// A line that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Data(u64, Vec<u8>),
    Zeros(u64, u64),
    Begin(u64, u64),
    End(u64, u64),
    Request(u64, u64),
    Done(u64),
}

impl Owned {
    fn of(line: Line<'_>) -> Self {
        match line {
            Line::Data { offset, bytes } => Owned::Data(offset, bytes.to_vec()),
            Line::Zeros { offset, length } => Owned::Zeros(offset, length),
            Line::Begin { region_len, nonce } => Owned::Begin(region_len, nonce),
            Line::End { lines, nonce } => Owned::End(lines, nonce),
            Line::Request { offset, length } => Owned::Request(offset, length),
            Line::Done { nonce } => Owned::Done(nonce),
        }
    }

    fn text(&self) -> Vec<u8> {
        let line = match *self {
            Owned::Data(offset, ref bytes) => Line::Data { offset, bytes },
            Owned::Zeros(offset, length) => Line::Zeros { offset, length },
            Owned::Begin(region_len, nonce) => Line::Begin { region_len, nonce },
            Owned::End(lines, nonce) => Line::End { lines, nonce },
            Owned::Request(offset, length) => Line::Request { offset, length },
            Owned::Done(nonce) => Line::Done { nonce },
        };
        let mut text = [0; MOST_LINE];
        let length = line.encode(&mut text);
        text[..length].to_vec()
    }
}

/// The lines in `text`, and how many were damaged.
fn scan(text: &[u8]) -> (Vec<Owned>, u64) {
    let mut scanner = Scanner::new();
    let mut lines = Vec::new();
    for byte in text {
        lines.extend(scanner.push(*byte).map(Owned::of));
    }
    (lines, scanner.damaged())
}

fn any_line() -> impl Strategy<Value = Owned> {
    prop_oneof![
        4 => (any::<u64>(), prop::collection::vec(any::<u8>(), 1..=MOST_BYTES))
            .prop_map(|(offset, bytes)| Owned::Data(offset, bytes)),
        1 => any::<(u64, u64)>().prop_map(|(offset, length)| Owned::Zeros(offset, length)),
        1 => any::<(u64, u64)>().prop_map(|(length, nonce)| Owned::Begin(length, nonce)),
        1 => any::<(u64, u64)>().prop_map(|(lines, nonce)| Owned::End(lines, nonce)),
        1 => any::<(u64, u64)>().prop_map(|(offset, length)| Owned::Request(offset, length)),
        1 => any::<u64>().prop_map(Owned::Done),
    ]
}

#[test]
fn the_format_is_what_the_module_says() {
    let text = |line: Owned| String::from_utf8(line.text()).unwrap();
    // The checksums were computed by Python's zlib.crc32.
    assert_eq!(text(Owned::Data(0x200, b"ipiscope".to_vec())), "~d200:aXBpc2NvcGU:e42538c8;");
    assert_eq!(text(Owned::Request(0xABCD, 0x30)), "~rabcd:30:7232f897;");
    assert_eq!(text(Owned::Done(0)), "~x0:0:a8d45c2a;");
}

#[test]
fn the_longest_line_fits_and_a_line_has_no_byte_that_a_console_changes() {
    let longest = Owned::Data(u64::MAX, vec![0xFF; MOST_BYTES]).text();
    assert_eq!(longest.len(), 93);
    assert!(longest.len() <= MOST_LINE);
    assert!(longest.iter().all(|byte| byte.is_ascii_graphic() && !b"<>&\"'\\`$".contains(byte)));
}

#[test]
fn lines_survive_time_stamps_foreign_text_and_every_way_to_end_a_line() {
    let lines: Vec<_> = (0..40u64).map(|at| Owned::Data(at * 48, vec![at as u8; 1 + at as usize])).collect();
    let mut text = b"U-Boot 2025.01\r\nroot@lab:~# ~d\n~ ~~ ~d0 ~zebra;\n".to_vec();
    for (index, line) in lines.iter().enumerate() {
        text.extend(format!("[{:>10}.{index:06}] lab-7| ", index * 1000).bytes());
        text.extend(line.text());
        text.extend([&b"\r\n"[..], b"\n", b"\r", b"", b" \x1b[0m\r\r\n"][index % 5]);
        if index % 7 == 0 {
            text.extend(b"\nlogin: ~/bin; [  12.3] usb 1-1: new device\n\xff\0\n");
        }
    }
    assert_eq!(scan(&text).0, lines);
}

#[test]
fn a_folded_line_is_whole() {
    let line = Owned::Data(0x1234, (0..48).collect());
    let mut text = line.text();
    for at in [80, 40, 2, 1] {
        text.splice(at..at, *b"\r\n");
    }
    assert_eq!(scan(&text), (vec![line], 0));
}

#[test]
fn text_inside_a_line_costs_that_line_alone() {
    let (first, second) = (Owned::Data(0, vec![7; 48]), Owned::Zeros(48, 4096));
    // From behind "~d0", which is the least that looks like a line, to before the last digit.
    for at in 3..first.text().len() - 1 {
        for foreign in [&b"[ 1.0] oops\n"[..], b"A", b"~", b"0", b":", b";", b"~d12:"] {
            let mut text = first.text();
            text.splice(at..at, foreign.iter().copied());
            text.extend(second.text());
            let (lines, damaged) = scan(&text);
            assert_eq!(lines, std::slice::from_ref(&second), "{foreign:?} at {at}");
            assert!(damaged >= 1, "{foreign:?} at {at}");
        }
    }
}

#[test]
fn a_cut_line_does_not_swallow_the_next() {
    let (first, second) = (Owned::Begin(2 << 20, 9), Owned::End(0, 9));
    for length in 0..first.text().len() {
        let mut text = first.text();
        text.truncate(length);
        text.extend(b"\r\n");
        text.extend(second.text());
        assert_eq!(scan(&text), (vec![second.clone()], u64::from(length > 2)), "cut at {length}");
    }
}

#[test]
fn a_percent_of_flipped_bytes_loses_lines_and_alters_none() {
    let lines: Vec<_> = (0..4000u64).map(|at| Owned::Data(at * 48, vec![(at * 7) as u8; 48])).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    };
    let mut text = Vec::new();
    for line in &lines {
        text.extend(line.text());
        text.extend(b"\r\n");
    }
    for byte in &mut text {
        if random() % 100 == 0 {
            *byte ^= 1 << (random() % 8);
        }
    }
    let (got, damaged) = scan(&text);
    let mut rest = lines.iter();
    assert!(got.iter().all(|line| rest.any(|sent| sent == line)), "a line that nobody sent, or out of order");
    // 0.99^80 of the lines are whole: 44 %.
    assert!((1200..2600).contains(&got.len()), "{} of {}", got.len(), lines.len());
    assert!(damaged > 1000, "{damaged}");
}

#[test]
fn what_is_whole_but_makes_no_sense_is_no_line() {
    // Right checksums over wrong contents; the encoder writes none of these.
    for body in ["d0:", "d0:A", "d0:AB", "d:AA", "x1:0", "z0:12345678901234567", "q0:0", "e1", "b0:0:0", "z0:A"] {
        let text = format!("~{body}:{:08x};", zlib_crc(body.as_bytes()));
        assert_eq!(scan(text.as_bytes()).0, [], "{text}");
    }
}

/// CRC-32 bit by bit, to hold the shipped table against.
fn zlib_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

proptest! {
    #[test]
    fn every_line_comes_back(lines in prop::collection::vec(any_line(), 1..20)) {
        let text: Vec<u8> = lines.iter().flat_map(Owned::text).collect();
        prop_assert_eq!(scan(&text), (lines, 0));
    }

    #[test]
    fn garbage_is_no_line_and_hides_none(garbage in prop::collection::vec(any::<u8>(), 0..400), line in any_line()) {
        let (lines, _) = scan(&garbage);
        prop_assert_eq!(lines.len(), 0);
        let mut text = garbage;
        text.extend(line.text());
        prop_assert_eq!(scan(&text).0, vec![line]);
    }

    #[test]
    fn garbage_of_the_right_letters_is_no_line(garbage in "(~|[dzberx]|[0-9a-f]|[A-Za-z0-9+/]|:|;){0,300}") {
        let (lines, _) = scan(garbage.as_bytes());
        prop_assert_eq!(lines.len(), 0);
    }

    #[test]
    fn one_changed_byte_is_found(line in any_line(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = line.text();
        let at = at.index(text.len());
        prop_assume!(text[at] != byte);
        text[at] = byte;
        prop_assert_eq!(scan(&text).0, vec![]);
    }
}
