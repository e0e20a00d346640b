//! Sets of CPUs in every spelling that tracers print.

use std::fmt;

use crate::words;

/// The most CPUs that a mask holds, as many as the kit drives.
pub const MOST_CPUS: usize = 512;

/// The words of a mask.
const WORDS: usize = MOST_CPUS / 64;

/// A set of CPUs: bit *n* of its words is CPU *n*.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mask {
    words: [u64; WORDS],
}

impl Mask {
    /// One CPU; `None`: it is beyond [`MOST_CPUS`].
    #[must_use]
    pub fn of(cpu: u32) -> Option<Mask> {
        let mut mask = Mask::default();
        mask.insert(cpu).then_some(mask)
    }

    /// Adds a CPU. `false`: it is beyond [`MOST_CPUS`].
    pub fn insert(&mut self, cpu: u32) -> bool {
        let word = self.words.get_mut(cpu as usize / 64);
        word.map(|word| *word |= 1 << (cpu % 64)).is_some()
    }

    /// Whether a CPU is in it.
    #[must_use]
    pub fn contains(&self, cpu: u16) -> bool {
        self.words.get(usize::from(cpu) / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// How many CPUs are in it.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words == [0; WORDS]
    }

    /// The words, lowest CPUs first.
    #[must_use]
    pub const fn words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// A mask of words, lowest CPUs first.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Mask {
        Mask { words }
    }

    /// Its CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<> {
        let words = self.words;
        (0..WORDS).flat_map(move |at| {
            let mut word = words[at];
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.wrapping_sub(1);
                (bit < 64).then_some((at as u32 * 64 + bit) as u16)
            })
        })
    }

    /// Reads a mask as tracers print it:
    /// - groups of eight hexadecimal digits, the highest first (`00000000,0000000e`; `%*pb`, `lib/vsprintf.c`), one group of eight or
    ///   more, or any behind `0x`;
    /// - a list of CPUs, `1-3,7` (`%*pbl`; trace-cmd's report of a cpumask): its numbers have no leading zeros;
    /// - the bytes of the bitmap, the lowest first: `04,00,00,00,00,00,00,00` (option `fields`), `ARRAY[04, 00, …]` (trace-cmd `-R`).
    ///
    /// `None`: it is none of these, or names a CPU beyond [`MOST_CPUS`].
    #[must_use]
    #[inline]
    pub fn parse(text: &[u8]) -> Option<Mask> {
        // What a kernel of up to 64 CPUs prints.
        if let Ok([a, b, c, d, e, f, g, h, b',', low @ ..]) = <&[u8; 17]>::try_from(text) {
            let mut mask = Mask::default();
            let high = words::hexadecimal(&[*a, *b, *c, *d, *e, *f, *g, *h])?;
            mask.words[0] = u64::from(high) << 32 | u64::from(words::hexadecimal(low)?);
            return Some(mask);
        }
        Mask::spelled(text)
    }

    /// Any other spelling.
    fn spelled(text: &[u8]) -> Option<Mask> {
        if let Some(list) = text.strip_prefix(b"ARRAY[").and_then(|rest| rest.strip_suffix(b"]")) {
            return Mask::bytes(list);
        }
        if let Some(digits) = text.strip_prefix(b"0x") {
            return Mask::digits(digits);
        }
        let groups = || text.split(|byte| *byte == b',');
        let odd = |group: &[u8]| group[0] == b'0' || group.iter().any(u8::is_ascii_alphabetic);
        if text.contains(&b',') && groups().all(|group| group.len() == 2) && groups().any(odd) {
            return Mask::bytes(text);
        }
        if groups().all(|group| group.len() < 8) && !text.iter().any(u8::is_ascii_alphabetic) {
            return Mask::list(text);
        }
        if !text.contains(&b',') {
            return Mask::digits(text);
        }
        let mut mask = Mask::default();
        for (at, group) in text.rsplit(|byte| *byte == b',').enumerate() {
            mask.put(at, hex(group).filter(|_| group.len() <= 8)?)?;
        }
        Some(mask)
    }

    /// One number of any length.
    fn digits(digits: &[u8]) -> Option<Mask> {
        let mut mask = Mask::default();
        if digits.is_empty() {
            return None;
        }
        for (at, group) in digits.rchunks(8).enumerate() {
            mask.put(at, hex(group)?)?;
        }
        Some(mask)
    }

    fn list(text: &[u8]) -> Option<Mask> {
        let mut mask = Mask::default();
        for range in std::str::from_utf8(text).ok()?.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            if last as usize >= MOST_CPUS || first > last {
                return None;
            }
            for cpu in first..=last {
                mask.insert(cpu);
            }
        }
        Some(mask)
    }

    /// 32 bits of it.
    fn put(&mut self, at: usize, value: u64) -> Option<()> {
        match self.words.get_mut(at / 2) {
            Some(word) => *word |= value << (at % 2 * 32),
            None if value == 0 => {}
            None => return None,
        }
        Some(())
    }

    fn bytes(list: &[u8]) -> Option<Mask> {
        let mut mask = Mask::default();
        for (at, byte) in list.split(|byte| *byte == b',').enumerate() {
            let value = hex(byte.trim_ascii())?;
            match mask.words.get_mut(at / 8) {
                Some(word) if value <= 0xFF => *word |= value << (at % 8 * 8),
                None if value == 0 => {}
                _ => return None,
            }
        }
        Some(mask)
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

/// As Linux prints lists of CPUs (`%*pbl`): `0-3,7`.
impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_read_in_every_spelling() {
        for (text, cpus) in [
            ("00000000,0000000e", "1-3"),
            ("0000007f,fffffffe", "1-38"),
            ("00000000,000000ff,ffffffff,fffffffe", "1-71"),
            ("e", "1-3"),
            ("0xe", "1-3"),
            ("0x3", "0-1"),
            ("1-3", "1-3"),
            ("1", "1"),
            ("0", "0"),
            ("0,2-3,510-511", "0,2-3,510-511"),
            ("1000000000000000a", "1,3,64"),
            ("04,00,00,00,00,00,00,00", "2"),
            ("00,01", "8"),
            ("0e,00,00,00,00,00,00,00", "1-3"),
            ("e1,00,00,00,00,00,00,00", "0,5-7"),
            ("10,12,14", "10,12,14"),
            ("ARRAY[04, 00, 00, 00, 00, 00, 00, 80]", "2,63"),
            ("00000000", ""),
        ] {
            assert_eq!(Mask::parse(text.as_bytes()).map(|mask| mask.to_string()), Some(cpus.into()), "{text}");
        }
        for text in [
            "",
            ",",
            "xyz",
            "00000000,",
            "123456789,0",
            "ARRAY[",
            "ARRAY[zz]",
            "ARRAY[100]",
            "3-0",
            "512",
            "0-4294967295",
            "1-",
        ] {
            assert_eq!(Mask::parse(text.as_bytes()), None, "{text}");
        }
        let wide = format!("1{}", ",00000000".repeat(16));
        assert_eq!(Mask::parse(wide.as_bytes()), None, "CPU 512 is beyond");
    }

    #[test]
    fn a_mask_holds_what_was_put_in() {
        let mut mask = Mask::default();
        assert!(mask.is_empty() && mask.insert(0) && mask.insert(511) && !mask.insert(512));
        assert_eq!((mask.len(), mask.iter().collect::<Vec<_>>()), (2, vec![0, 511]));
        assert!(mask.contains(511) && !mask.contains(510) && !mask.contains(600));
        assert_eq!(Mask::of(512), None);
    }
}
