//! Text eight bytes at a time: the digits, blanks and numbers of a trace's line, without a branch for each byte.
//!
//! A word holds its first byte in its lowest bits. Sums over a word's bytes must not carry from one into the next: bytes lose their
//! highest bit first where they could, and that bit is looked at alone.

/// One in every byte.
const ONES: u64 = u64::from_ne_bytes([1; 8]);
/// The highest bit of every byte.
const HIGHEST: u64 = 0x80 * ONES;
/// Eight blanks.
pub(crate) const BLANKS: u64 = b' ' as u64 * ONES;
/// Eight digits 0.
const ZEROS: u64 = b'0' as u64 * ONES;

/// The eight bytes at `at`; `None`: they are not all there.
#[inline(always)]
pub(crate) fn word(text: &[u8], at: usize) -> Option<u64> {
    text.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// The highest bit of every byte that is greater than `most`, which is below 128.
#[inline(always)]
const fn above(word: u64, most: u8) -> u64 {
    (((word & !HIGHEST) + (0x7F - most) as u64 * ONES) | word) & HIGHEST
}

/// How many bytes stand in front of the first whose highest bit is set; 8: none is.
#[inline(always)]
const fn first(marked: u64) -> usize {
    marked.trailing_zeros() as usize / 8
}

/// How many bytes stand in front of the first that is zero; 8: none is.
#[inline(always)]
pub(crate) const fn first_zero(word: u64) -> usize {
    // A borrow marks bytes behind the first zero only.
    first(word.wrapping_sub(ONES) & !word & HIGHEST)
}

/// How many zero bytes a word begins with.
#[inline(always)]
pub(crate) const fn leading_zeros(word: u64) -> usize {
    first(word)
}

/// How many decimal digits a word begins with.
#[inline(always)]
pub(crate) const fn digits(word: u64) -> usize {
    first(above(word ^ ZEROS, 9))
}

/// The number that the first `count` (1 to 8) bytes make, which are decimal digits.
#[inline(always)]
pub(crate) const fn decimal(word: u64, count: usize) -> u64 {
    // Digits in front of the first are zero. Then one, two, four digits make the next larger lane.
    let ones = (word ^ ZEROS) << (64 - 8 * count);
    let twos = (ones * 10 + (ones >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (twos * 100 + (twos >> 16)) & 0x0000_FFFF_0000_FFFF;
    (fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF
}

/// The number of eight hexadecimal digits; `None`: they are not all digits.
#[inline(always)]
pub(crate) fn hexadecimal(digits: &[u8; 8]) -> Option<u32> {
    let word = u64::from_le_bytes(*digits);
    // Letters have bit 6, digits have not.
    let letters = word & (0x40 * ONES);
    let ones = (word & (0x0F * ONES)) + 9 * (letters >> 6);
    // Each byte must be what its value is printed as: letters in lower case here, `0` + 0x27 + 10 is `a`.
    let printed = ones + ZEROS + 0x27 * (((ones + 6 * ONES) >> 4) & ONES);
    if (printed ^ (word | letters >> 1)) | (ones & (0xF0 * ONES)) != 0 {
        return None;
    }
    let twos = (ones << 4 | ones >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = (twos << 8 | twos >> 16) & 0x0000_FFFF_0000_FFFF;
    Some((fours << 16 | fours >> 32) as u32)
}

/// The number of sixteen hexadecimal digits; `None`: they are not all digits.
#[inline(always)]
pub(crate) fn long_hexadecimal(digits: &[u8; 16]) -> Option<u64> {
    let (high, low) = (digits.first_chunk()?, digits.last_chunk()?);
    Some(u64::from(hexadecimal(high)?) << 32 | u64::from(hexadecimal(low)?))
}

/// Where the first blank at or behind `from` stands.
#[inline(always)]
pub(crate) fn blank(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(word) = word(text, at) {
        let blank = first_zero(word ^ BLANKS);
        if blank < 8 {
            return Some(at + blank);
        }
        at += 8;
    }
    text.get(at..)?.iter().position(|byte| *byte == b' ').map(|blank| at + blank)
}

/// Whether two texts are the same; inline, as they are short and mostly so.
#[inline(always)]
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let (mut rest_a, mut rest_b) = (a, b);
    while let (Some((a, behind_a)), Some((b, behind_b))) =
        (rest_a.split_first_chunk::<16>(), rest_b.split_first_chunk::<16>())
    {
        if a != b {
            return false;
        }
        (rest_a, rest_b) = (behind_a, behind_b);
    }
    // The last sixteen bytes overlap those that were compared.
    match (a.last_chunk::<16>(), b.last_chunk::<16>()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn a_word_is_read_as_its_bytes_are(
            any in any::<[u8; 8]>(),
            text in "[0-9a-gA-G /:@`é ]{8}",
            number in any::<u64>(),
            width in 1_usize..=8,
        ) {
            for bytes in [any, *text.as_bytes().first_chunk().unwrap()] {
                let word = u64::from_le_bytes(bytes);
                let count = |is: fn(&u8) -> bool| bytes.iter().take_while(|byte| is(byte)).count();
                prop_assert_eq!(digits(word), count(u8::is_ascii_digit));
                prop_assert_eq!(first_zero(word ^ BLANKS), count(|byte| *byte != b' '));
                prop_assert_eq!(leading_zeros(word ^ BLANKS), count(|byte| *byte == b' '));
                prop_assert_eq!(blank(&bytes, 3), (3..8).find(|at| bytes[*at] == b' '));
                let plain = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains('+'));
                prop_assert_eq!(hexadecimal(&bytes), plain.and_then(|text| u32::from_str_radix(text, 16).ok()));
            }
            let value = number % 10_u64.pow(width as u32);
            let decimals = format!("{value:0width$}{text}");
            prop_assert_eq!(decimal(word(decimals.as_bytes(), 0).unwrap(), width), value);
            for digits in [format!("{number:016x}"), format!("{number:016X}")] {
                prop_assert_eq!(long_hexadecimal(digits.as_bytes().first_chunk().unwrap()), Some(number));
            }
        }

        #[test]
        fn texts_are_the_same_where_all_bytes_are(text in prop::collection::vec(any::<u8>(), 0..40), at in 0_usize..40) {
            let mut other = text.clone();
            prop_assert!(same(&text, &other));
            if let Some(byte) = other.get_mut(at) {
                *byte ^= 1;
                prop_assert!(!same(&text, &other));
            }
            other.push(0);
            prop_assert!(!same(&text, &other));
        }
    }
}
