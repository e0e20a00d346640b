//! `trace_printk` with arguments: a format string, and the arguments in binary, as `vbin_printf` of the kernel packs them.
//!
//! `lib/vsprintf.c`: numbers are aligned to their size, those of eight bytes to four; strings stand in place with their zero. The
//! common conversions are printed; from the first that is not, the format's own text stays.

use super::bytes::number_at;
use super::symbols::{Symbols, Wanted};

/// The longest text that is made, bytes: names are not longer either.
const LONGEST: usize = crate::names::LONGEST_NAME;

/// The arguments that are left.
struct Arguments<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Arguments<'a> {
    fn number(&mut self, size: usize) -> Option<u64> {
        let at = self.at.next_multiple_of(size.min(4));
        let value = number_at(self.bytes, at, size, self.big)?;
        self.at = at + size;
        Some(value)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let len = memchr::memchr(0, rest)?;
        self.at += len + 1;
        rest.get(..len)
    }
}

/// What stands between `%` and the conversion's letter.
#[derive(Default)]
struct Spec {
    left: bool,
    zeros: bool,
    alternate: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
    /// Bytes of a number.
    size: usize,
}

/// The text of `format` with its arguments.
pub(super) fn format(format: &[u8], arguments: &[u8], long: usize, big: bool, symbols: &Symbols) -> Vec<u8> {
    let mut arguments = Arguments { bytes: arguments, at: 0, big };
    let mut text = Vec::new();
    let mut rest = format;
    while let Some(percent) = memchr::memchr(b'%', rest).filter(|_| text.len() < LONGEST) {
        text.extend_from_slice(&rest[..percent]);
        let from = &rest[percent..];
        match conversion(from, &mut arguments, long, symbols, &mut text) {
            Some(used) => rest = from.get(used..).unwrap_or_default(),
            None => {
                rest = from;
                break;
            }
        }
    }
    text.extend_from_slice(rest);
    text
}

/// Prints one conversion; the bytes of the format that it took. `None`: it is not known, or its argument is not there.
fn conversion(
    from: &[u8],
    arguments: &mut Arguments<'_>,
    long: usize,
    symbols: &Symbols,
    text: &mut Vec<u8>,
) -> Option<usize> {
    let mut at = 1;
    let mut spec = Spec { size: 4, ..Spec::default() };
    loop {
        match from.get(at)? {
            b'-' => spec.left = true,
            b'0' => spec.zeros = true,
            b'#' => spec.alternate = true,
            b'+' => spec.plus = true,
            b' ' => {}
            _ => break,
        }
        at += 1;
    }
    let mut count = |at: &mut usize| -> Option<usize> {
        if from.get(*at) == Some(&b'*') {
            *at += 1;
            return Some((arguments.number(4)? as usize).min(LONGEST));
        }
        let mut value = 0;
        while let Some(digit @ b'0'..=b'9') = from.get(*at) {
            value = (value * 10 + usize::from(digit - b'0')).min(LONGEST);
            *at += 1;
        }
        Some(value)
    };
    spec.width = count(&mut at)?;
    if from.get(at) == Some(&b'.') {
        at += 1;
        spec.precision = Some(count(&mut at)?);
    }
    let modifiers = from.get(at..)?.iter().take_while(|byte| b"hlLzjt".contains(byte)).count();
    spec.size = match from.get(at..at + modifiers)? {
        b"" => 4,
        b"h" => 2,
        b"hh" => 1,
        b"ll" | b"L" | b"j" => 8,
        b"l" | b"z" | b"t" => long,
        _ => return None,
    };
    at += modifiers;
    let letter = *from.get(at)?;
    at += 1;
    let piece = match letter {
        b'%' => b"%".to_vec(),
        b'c' => vec![arguments.number(1)? as u8],
        b's' => {
            let string = arguments.string()?;
            string.get(..spec.precision.unwrap_or(usize::MAX)).unwrap_or(string).to_vec()
        }
        b'd' | b'i' => {
            let spare = 64 - spec.size as u32 * 8;
            let value = (arguments.number(spec.size)? << spare) as i64 >> spare;
            let sign = if value < 0 {
                "-"
            } else if spec.plus {
                "+"
            } else {
                ""
            };
            digits(sign, value.unsigned_abs().to_string(), &spec)
        }
        b'u' => digits("", arguments.number(spec.size)?.to_string(), &spec),
        b'x' | b'X' | b'o' => {
            let value = arguments.number(spec.size)?;
            let (prefix, value) = match letter {
                b'x' => ("0x", format!("{value:x}")),
                b'X' => ("0X", format!("{value:X}")),
                _ => ("0", format!("{value:o}")),
            };
            digits(if spec.alternate { prefix } else { "" }, value, &spec)
        }
        b'p' => {
            let wanted = match from.get(at) {
                Some(b's' | b'f') => Some(Wanted::Function),
                Some(b'S' | b'F') => Some(Wanted::Place),
                Some(b'x' | b'K') => None,
                // Others were made text when they were recorded.
                Some(other) if other.is_ascii_alphanumeric() => {
                    let len = from.get(at..)?.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
                    text.extend_from_slice(arguments.string()?);
                    return Some(at + len);
                }
                _ => {
                    let value = arguments.number(long)?;
                    text.extend_from_slice(format!("{value:0width$x}", width = long * 2).as_bytes());
                    return Some(at);
                }
            };
            at += 1;
            let value = arguments.number(long)?;
            match wanted {
                Some(wanted) => symbols.text(value, wanted),
                None => format!("{value:x}").into_bytes(),
            }
        }
        _ => return None,
    };
    let pad = spec.width.saturating_sub(piece.len());
    if !spec.left {
        text.resize(text.len() + pad, b' ');
    }
    text.extend_from_slice(&piece);
    if spec.left {
        text.resize(text.len() + pad, b' ');
    }
    Some(at)
}

/// A number with its sign or prefix and the zeros that it wants in front.
fn digits(prefix: &str, digits: String, spec: &Spec) -> Vec<u8> {
    let wanted = match spec.precision {
        Some(precision) => precision,
        None if spec.zeros && !spec.left => spec.width.saturating_sub(prefix.len()),
        None => 0,
    };
    format!("{prefix}{digits:0>wanted$}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_conversions_are_printed_as_the_kernel_does() {
        let kallsyms = b"0000000000001000 T handler\n0000000000002000 T other\n".to_vec();
        let symbols = Symbols::new(kallsyms, b"", Vec::new());
        let mut arguments = Vec::new();
        arguments.extend_from_slice(&(-5_i32).to_le_bytes());
        arguments.extend_from_slice(&7_u32.to_le_bytes());
        arguments.extend_from_slice(b"ab\0x");
        arguments.extend_from_slice(&0x1234_u64.to_le_bytes());
        arguments.extend_from_slice(&0x1010_u64.to_le_bytes());
        arguments.extend_from_slice(&0x1010_u64.to_le_bytes());
        let print = |text: &str, big| String::from_utf8(format(text.as_bytes(), &arguments, 8, big, &symbols)).unwrap();
        assert_eq!(
            print("%d %03u|%-4s|%c %#lx %pS %ps 100%%\n", false),
            "-5 007|ab  |x 0x1234 handler+0x10 handler 100%\n"
        );
        assert_eq!(print("%5d|%-5u|%s%c%16llx %px", false), "   -5|7    |abx            1234 1010");
        assert_eq!(print("%d %q rest", false), "-5 %q rest");
        let numbers = "%lx ".repeat(6);
        assert!(print(&numbers, false).ends_with("%lx "), "arguments that are not there leave the format");
        assert_eq!(print("plain", true), "plain");
    }
}
