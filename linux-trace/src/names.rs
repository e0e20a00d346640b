//! Names (symbols, reasons, tasks) as small numbers.
//!
//! A trace of ten million events has a few hundred names. Each is kept once, and an event carries its number.

use crate::words;

/// The number of a name in [`Names`]; [`Name::NONE`] where a trace names nothing (a call site of `0x0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Name(pub u32);

impl Name {
    /// No name: the empty one, which every table has.
    pub const NONE: Name = Name(0);

    /// Whether this is no name.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// The most names of a table: more come of garbage, not of a kernel.
pub const MOST_NAMES: usize = 1 << 20;

/// The longest name, bytes; the kernel's `KSYM_NAME_LEN` is 512 (`include/linux/kallsyms.h`), a module's name comes on top.
pub const LONGEST_NAME: usize = 640;

/// What gives a name's text.
pub trait Texts {
    /// The text of a name; the empty one where there is no such name.
    fn text(&self, name: Name) -> &str;
}

impl Texts for Names {
    fn text(&self, name: Name) -> &str {
        Names::text(self, name)
    }
}

/// A list by number: [`Names`] as it was stored.
impl Texts for [String] {
    fn text(&self, name: Name) -> &str {
        self.get(name.0 as usize).map_or("", String::as_str)
    }
}

/// A table of names. Number 0 is the empty name.
#[derive(Debug, Clone)]
pub struct Names {
    list: Vec<Box<str>>,
    /// Open addressing over `list`; 0: free.
    slots: Vec<u32>,
    /// Names that were not taken: the table was full.
    refused: u64,
}

impl Default for Names {
    fn default() -> Self {
        Names { list: vec!["".into()], slots: vec![0; 1024], refused: 0 }
    }
}

impl Names {
    /// A table with the empty name alone.
    #[must_use]
    pub fn new() -> Names {
        Names::default()
    }

    /// The number of `name`, a new one where it is new. Bytes that are not UTF-8 are replaced, a name that is too long is cut,
    /// and where the table is full it is [`Name::NONE`] and counted.
    pub fn add(&mut self, name: &[u8]) -> Name {
        let name = name.get(..LONGEST_NAME).unwrap_or(name);
        if name.is_empty() {
            return Name::NONE;
        }
        let mut at = hash(name) as usize;
        loop {
            at &= self.slots.len() - 1;
            match self.slots[at] {
                0 => break,
                number if words::same(self.list[number as usize].as_bytes(), name) => return Name(number),
                _ => at += 1,
            }
        }
        self.insert(name)
    }

    #[cold]
    fn insert(&mut self, name: &[u8]) -> Name {
        let text = String::from_utf8_lossy(name);
        if let std::borrow::Cow::Owned(mended) = &text {
            return self.add(mended.as_bytes().get(..LONGEST_NAME).map_or(mended.as_bytes(), |_| b"?"));
        }
        if self.list.len() >= MOST_NAMES {
            self.refused += 1;
            return Name::NONE;
        }
        self.list.push(text.into());
        if self.list.len() * 2 > self.slots.len() {
            let size = self.slots.len() * 2;
            self.slots = vec![0; size];
            for number in 1..self.list.len() {
                self.place(number as u32);
            }
        } else {
            self.place(self.list.len() as u32 - 1);
        }
        Name(self.list.len() as u32 - 1)
    }

    fn place(&mut self, number: u32) {
        let mut at = hash(self.list[number as usize].as_bytes()) as usize & (self.slots.len() - 1);
        while self.slots[at] != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = number;
    }

    /// The text of a name; the empty one where there is no such number.
    #[must_use]
    pub fn text(&self, name: Name) -> &str {
        self.list.get(name.0 as usize).map_or("", |text| text)
    }

    /// All names, in the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.list.iter().map(|text| &**text)
    }

    /// How many names were not taken because the table was full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// Hashes two words at a time, by the two halves of a product: names are short, and whoever chooses them so that they collide gains
/// nothing but a slow import.
#[inline(always)]
fn hash(bytes: &[u8]) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    // Odd constants without pattern: fractions of the square roots of 2, 3 and 5.
    const SEEDS: [u64; 3] = [0x6A09_E667_F3BC_C909, 0xBB67_AE85_84CA_A73B, 0x3C6E_F372_FE94_F82B];
    let mut hash = SEEDS[0] ^ bytes.len() as u64;
    // Words overlap, so that none has to be made of single bytes.
    let Some((first, last)) = words::word(bytes, 0).zip(bytes.last_chunk().copied().map(u64::from_le_bytes)) else {
        let word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        return fold(word ^ SEEDS[1], hash);
    };
    let mut at = 8;
    while at + 8 < bytes.len() {
        let b = words::word(bytes, at + 8).unwrap_or(last);
        hash = fold(words::word(bytes, at).unwrap_or(last) ^ SEEDS[1], b ^ hash);
        at += 16;
    }
    fold(fold(first ^ SEEDS[1], last ^ hash), SEEDS[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_none_is_the_empty_one() {
        let mut names = Names::new();
        assert_eq!(names.add(b""), Name::NONE);
        let numbers: Vec<Name> = (0..5000).map(|i| names.add(format!("name{i}").as_bytes())).collect();
        for (i, number) in numbers.iter().enumerate() {
            assert_eq!(names.add(format!("name{i}").as_bytes()), *number);
            assert_eq!(names.text(*number), format!("name{i}"));
        }
        assert_eq!(names.iter().len(), 5001);
        assert_eq!(names.text(Name(99_999)), "");
    }

    #[test]
    fn bytes_that_are_no_text_are_mended_and_long_names_cut() {
        let mut names = Names::new();
        let odd = names.add(b"a\xFFb");
        assert_eq!(names.text(odd), "a\u{FFFD}b");
        assert_eq!(names.add(b"a\xFFb"), odd);
        let long = names.add(&[b'x'; 2000]);
        assert_eq!(names.text(long).len(), LONGEST_NAME);
        let hostile = names.add(&[0xFF; LONGEST_NAME]);
        assert_eq!(names.text(hostile), "?");
    }
}
