//! Lines: pieces of the region as printable text, for a way to the host that is nothing but a console.
//!
//! A console server puts time stamps in front, other text gets in between, a byte flips. So every line says where its bytes
//! belong and carries a checksum: a line arrives as it was sent, or it is missing, and what is missing can be asked for again.
//!
//! ```text
//! ~ kind offset : payload : crc ;        no blanks; numbers in lowercase hexadecimal
//!
//! d  offset in the region   1 to 48 bytes as base64 without padding   target -> host
//! z  offset in the region   how many bytes are zero from there        target -> host
//! b  bytes of the region    nonce of the run                          target -> host: lines follow
//! e  lines since `b`        nonce of the run                          target -> host: that was all
//! r  offset in the region   how many bytes to send again              host -> target
//! x  0                      nonce of the run                          host -> target: nothing is missing
//! ```
//!
//! `crc` is the CRC-32 of zlib, eight digits, over everything from the kind to before the colon in front of it. No character
//! of a line is special to a terminal, a shell's log or XML. What ends a line on the wire is nobody's business: CR and LF
//! are skipped, inside a line too, because some loggers fold.

use crate::plan::crc32;

/// Most bytes in one [`Line::Data`].
pub const MOST_BYTES: usize = 48;

/// Most characters of a line.
pub const MOST_LINE: usize = 128;

/// Characters of the checksum.
const CRC_DIGITS: usize = 8;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What one line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Bytes of the region.
    Data {
        /// Where they belong, from the region's start.
        offset: u64,
        /// One to [`MOST_BYTES`] of them.
        bytes: &'a [u8],
    },
    /// A run of zeros in the region.
    Zeros {
        /// Where it begins.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The target begins to send.
    Begin {
        /// Bytes of the region, sent or not.
        region_len: u64,
        /// Nonce of the run.
        nonce: u64,
    },
    /// The target has sent all that it sends unasked.
    End {
        /// `Data` and `Zeros` lines since `Begin`, answers to requests among them.
        lines: u64,
        /// Nonce of the run.
        nonce: u64,
    },
    /// The host wants bytes again.
    Request {
        /// Where they begin.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// The host has everything.
    Done {
        /// Nonce of the run.
        nonce: u64,
    },
}

/// Appends characters to a line under construction.
struct Text<'a> {
    place: &'a mut [u8; MOST_LINE],
    length: usize,
}

impl Text<'_> {
    fn put(&mut self, byte: u8) {
        // The longest line is 93 characters: see the assertion below.
        if let Some(place) = self.place.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn hex(&mut self, value: u64) {
        let digits = (64 - value.leading_zeros()).div_ceil(4).max(1);
        self.digits(value, digits);
    }

    fn digits(&mut self, value: u64, digits: u32) {
        for digit in (0..digits).rev() {
            self.put(b"0123456789abcdef"[(value >> (4 * digit) & 0xF) as usize]);
        }
    }

    fn base64(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(3) {
            let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for place in 0..=chunk.len() {
                self.put(ALPHABET[(group >> (18 - 6 * place) & 0x3F) as usize]);
            }
        }
    }
}

// Tilde, kind, offset, colon, payload, colon, checksum, semicolon.
const LONGEST: usize =
    "~".len() + "d".len() + 16 + ":".len() + MOST_BYTES.div_ceil(3) * 4 + ":".len() + CRC_DIGITS + ";".len();
const _: () = assert!(LONGEST <= MOST_LINE);

impl Line<'_> {
    /// Writes the line, without CR or LF; returns its length. Of `Data` the first [`MOST_BYTES`] count.
    pub fn encode(&self, out: &mut [u8; MOST_LINE]) -> usize {
        let mut text = Text { place: out, length: 0 };
        let (kind, first, second) = match *self {
            Line::Data { offset, .. } => (b'd', offset, 0),
            Line::Zeros { offset, length } => (b'z', offset, length),
            Line::Begin { region_len, nonce } => (b'b', region_len, nonce),
            Line::End { lines, nonce } => (b'e', lines, nonce),
            Line::Request { offset, length } => (b'r', offset, length),
            Line::Done { nonce } => (b'x', 0, nonce),
        };
        text.put(b'~');
        text.put(kind);
        text.hex(first);
        text.put(b':');
        match self {
            Line::Data { bytes, .. } => text.base64(&bytes[..bytes.len().min(MOST_BYTES)]),
            _ => text.hex(second),
        }
        let crc = crc32(text.place[1..text.length].iter().copied());
        text.put(b':');
        text.digits(crc.into(), CRC_DIGITS as u32);
        text.put(b';');
        text.length
    }
}

/// Finds lines in whatever a console says, byte by byte.
///
/// A `~` begins a line, also inside another one, which is then given up. A line that fails is skipped: nothing is guessed.
#[derive(Clone, Debug)]
pub struct Scanner {
    text: [u8; MOST_LINE],
    length: usize,
    inside: bool,
    bytes: [u8; MOST_BYTES],
    damaged: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// One that has seen nothing.
    pub const fn new() -> Self {
        Scanner { text: [0; MOST_LINE], length: 0, inside: false, bytes: [0; MOST_BYTES], damaged: 0 }
    }

    /// Takes the next byte; the line that it completes, if it does.
    pub fn push(&mut self, byte: u8) -> Option<Line<'_>> {
        match byte {
            b'~' => {
                self.give_up();
                self.inside = true;
            }
            _ if !self.inside => {}
            b'\r' | b'\n' => {}
            b';' => {
                let length = self.length;
                self.inside = false;
                self.length = 0;
                let kind = parse(&self.text[..length], &mut self.bytes);
                if kind.is_none() && length >= LIKE_A_LINE {
                    self.damaged += 1;
                }
                return kind.map(|parsed| parsed.line(&self.bytes));
            }
            _ => match self.text.get_mut(self.length) {
                Some(place) if fits(byte, self.length) => {
                    *place = byte;
                    self.length += 1;
                }
                _ => self.give_up(),
            },
        }
        None
    }

    /// How many things began like a line and were none: what was cut, interrupted or damaged. A lower bound: where the
    /// damage hit the beginning itself, nothing looked like a line.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn give_up(&mut self) {
        if self.inside && self.length >= LIKE_A_LINE {
            self.damaged += 1;
        }
        self.inside = false;
        self.length = 0;
    }
}

/// A tilde, a kind and a digit are like a line; a home directory's tilde is not.
const LIKE_A_LINE: usize = 2;

/// Whether `byte` can stand at `place` behind the tilde.
fn fits(byte: u8, place: usize) -> bool {
    match place {
        0 => matches!(byte, b'd' | b'z' | b'b' | b'e' | b'r' | b'x'),
        1 => hex_digit(byte).is_some(),
        _ => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b':'),
    }
}

/// A line whose bytes, if any, stand elsewhere.
enum Parsed {
    Data { offset: u64, length: usize },
    Other(Line<'static>),
}

impl Parsed {
    fn line(self, bytes: &[u8; MOST_BYTES]) -> Line<'_> {
        match self {
            Parsed::Data { offset, length } => Line::Data { offset, bytes: &bytes[..length] },
            Parsed::Other(line) => line,
        }
    }
}

/// `text`: everything between tilde and semicolon.
fn parse(text: &[u8], bytes: &mut [u8; MOST_BYTES]) -> Option<Parsed> {
    let (body, crc) = text.split_at_checked(text.len().checked_sub(CRC_DIGITS + 1)?)?;
    let (colon, crc) = crc.split_first()?;
    if *colon != b':' || number(crc)? != u64::from(crc32(body.iter().copied())) {
        return None;
    }
    let (kind, rest) = body.split_first()?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let (first, payload) = (number(&rest[..colon])?, &rest[colon + 1..]);
    let line = match kind {
        b'd' => return Some(Parsed::Data { offset: first, length: base64(payload, bytes)? }),
        b'z' => Line::Zeros { offset: first, length: number(payload)? },
        b'b' => Line::Begin { region_len: first, nonce: number(payload)? },
        b'e' => Line::End { lines: first, nonce: number(payload)? },
        b'r' => Line::Request { offset: first, length: number(payload)? },
        b'x' if first == 0 => Line::Done { nonce: number(payload)? },
        _ => return None,
    };
    Some(Parsed::Other(line))
}

fn hex_digit(byte: u8) -> Option<u64> {
    match byte {
        b'0'..=b'9' => Some(u64::from(byte - b'0')),
        b'a'..=b'f' => Some(u64::from(byte - b'a') + 10),
        _ => None,
    }
}

/// One to sixteen hexadecimal digits.
fn number(text: &[u8]) -> Option<u64> {
    if !(1..=16).contains(&text.len()) {
        return None;
    }
    text.iter().try_fold(0, |value, byte| Some(value << 4 | hex_digit(*byte)?))
}

/// Decodes 1 to [`MOST_BYTES`] bytes; bits that no byte takes must be zero.
fn base64(text: &[u8], bytes: &mut [u8; MOST_BYTES]) -> Option<usize> {
    let length = text.len() * 6 / 8;
    if text.len() % 4 == 1 || !(1..=MOST_BYTES).contains(&length) {
        return None;
    }
    for (digits, place) in text.chunks(4).zip(bytes.chunks_mut(3)) {
        let mut group = 0;
        for digit in digits {
            group = group << 6 | sextet(*digit)?;
        }
        group <<= 6 * (4 - digits.len());
        let [_, whole @ ..] = group.to_be_bytes();
        let (kept, rest) = whole.split_at(digits.len() - 1);
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        place[..kept.len()].copy_from_slice(kept);
    }
    Some(length)
}

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}
