//! What fields are compared with: sets of CPUs, amounts, patterns.

use std::fmt;

/// CPUs that a filter can name, 0 and up; as many as the kit drives.
pub const MOST_CPUS: u32 = 512;

const WORDS: usize = MOST_CPUS as usize / 64;

/// A set of CPUs: bit *n* of its words is CPU *n*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet {
    words: [u64; WORDS],
}

impl CpuSet {
    /// One CPU; `None`: beyond [`MOST_CPUS`].
    #[must_use]
    pub fn of(cpu: u32) -> Option<CpuSet> {
        let mut set = CpuSet::default();
        set.insert(cpu).then_some(set)
    }

    /// Adds a CPU. `false`: it is beyond [`MOST_CPUS`].
    pub fn insert(&mut self, cpu: u32) -> bool {
        self.words.get_mut(cpu as usize / 64).map(|word| *word |= 1 << (cpu % 64)).is_some()
    }

    /// Whether a CPU is in it.
    #[must_use]
    #[inline]
    pub fn contains(&self, cpu: u32) -> bool {
        self.words.get(cpu as usize / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// The CPU, if there is only one.
    #[must_use]
    pub fn only(&self) -> Option<u32> {
        let mut cpus = self.iter();
        cpus.next().filter(|_| cpus.next().is_none())
    }

    /// Its CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        let set = *self;
        (0..MOST_CPUS).filter(move |cpu| set.contains(*cpu))
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }
}

/// As Linux writes lists of CPUs: `0-3,7`.
impl fmt::Display for CpuSet {
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

/// A number with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Of nothing: a number field's.
    Plain(u64),
    /// Nanoseconds.
    Ns(u64),
    /// Ticks of the target's counter.
    Ticks(u64),
    /// A percentile of the field's own values, in millionths of a percent.
    Percentile(u32),
}

/// Units of time and their nanoseconds, the longest first; the suffixes are those that the reports print.
pub(crate) const UNITS: [(&str, u64); 4] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];

/// Exact: what was read reads the same again.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Amount::Plain(value) => write!(f, "{value}"),
            Amount::Ticks(ticks) => write!(f, "{ticks}tk"),
            Amount::Percentile(millionths) => {
                write!(f, "p")?;
                decimal(f, u64::from(millionths), 1_000_000)
            }
            Amount::Ns(ns) => {
                let (unit, size) = UNITS.into_iter().find(|(_, size)| ns >= *size).unwrap_or(("ns", 1));
                decimal(f, ns, size)?;
                f.write_str(unit)
            }
        }
    }
}

/// `value / size`, a power of ten, without zeros at its end.
fn decimal(f: &mut fmt::Formatter<'_>, value: u64, size: u64) -> fmt::Result {
    let (whole, rest) = (value / size, value % size);
    if rest == 0 {
        return write!(f, "{whole}");
    }
    let digits = format!("{:0width$}", rest, width = size.ilog10() as usize);
    write!(f, "{whole}.{}", digits.trim_end_matches('0'))
}

/// `digits[.digits]` times `size`, a power of ten, exactly. `None`: it has more digits than that, or does not fit.
pub(crate) fn scaled(text: &str, size: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut value: u64 = 0;
    for digit in whole.bytes() {
        value = value.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0')?))?;
    }
    value = value.checked_mul(size)?;
    let mut unit = size;
    for digit in fraction.trim_end_matches('0').bytes() {
        if !unit.is_multiple_of(10) {
            return None;
        }
        unit /= 10;
        value = value.checked_add(u64::from(digit.checked_sub(b'0')?).checked_mul(unit)?)?;
    }
    Some(value)
}

/// Whether `text` is like `pattern`: `*` is any text, `?` any one character, all else itself. Takes at most the product
/// of both lengths, and no memory.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands, and up to where it has eaten.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                if p == pattern.len() {
                    return true;
                }
                star = Some((p, t));
            }
            Some(b'?') => {
                t += character(text, t);
                p += 1;
            }
            Some(&wanted) if wanted == byte => {
                t += 1;
                p += 1;
            }
            _ => match &mut star {
                Some((after, eaten)) => {
                    *eaten += character(text, *eaten);
                    (p, t) = (*after, *eaten);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// How long the UTF-8 character at a place is.
fn character(text: &[u8], at: usize) -> usize {
    1 + text.iter().skip(at + 1).take_while(|byte| **byte & 0xC0 == 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_shells_do() {
        for (pattern, text, holds) in [
            ("drain*", "drain_local", true),
            ("drain*", "undrain", false),
            ("*drain*", "undrain", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
            ("?", "é", true),
            ("??", "é", false),
            ("*é?", "ééa", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("*a", "aaaaab", false),
            ("**", "x", true),
            ("[a]", "[a]", true),
        ] {
            assert_eq!(like(pattern, text), holds, "{pattern} {text}");
        }
        assert!(!like(&"*a".repeat(500), &"a".repeat(499)), "a pattern of many stars ends soon");
    }

    #[test]
    fn amounts_are_exact() {
        for (text, size, value) in [
            ("1.5", 1_000, Some(1_500)),
            ("0.3", 1_000_000_000, Some(300_000_000)),
            ("1.50", 10, Some(15)),
            ("1.05", 10, None),
            ("1.0", 1, Some(1)),
            ("1.1", 1, None),
            ("18446744073.709551615", 1_000_000_000, Some(u64::MAX)),
            ("18446744073.709551616", 1_000_000_000, None),
            ("99999999999999999999", 1, None),
        ] {
            assert_eq!(scaled(text, size), value, "{text}");
        }
        for (ns, text) in [(0, "0ns"), (999, "999ns"), (1_500, "1.5us"), (1_000_000_001, "1.000000001s")] {
            assert_eq!(Amount::Ns(ns).to_string(), text);
        }
        assert_eq!(Amount::Percentile(99_900_000).to_string(), "p99.9");
    }
}
