//! Addresses to names: kallsyms, printk_formats, and process ids to saved command lines.
//!
//! kallsyms has some hundred thousand lines, of which a trace of IPIs uses a few dozen: it is sorted once, and a name is made when
//! an event first needs it.

use std::collections::HashMap;
use std::ops::Range;

use memchr::{memchr, memrchr};

use crate::{Name, Names};

/// How far from its symbol an address still is in it, bytes: no function is larger, and modules lie far from the kernel.
pub(super) const LONGEST_FUNCTION: u64 = 16 << 20;

/// Slots of the cache, one address each.
const CACHE: usize = 4096;

/// What is wanted of an address.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    /// `%pS`: `name+0xoffset [module]`.
    Place,
    /// `%ps`: `name [module]`.
    Function,
    /// The string that stands there.
    Text,
    /// The task of this process id.
    Task,
}

/// The tables of a file.
#[derive(Debug)]
pub(super) struct Symbols {
    kallsyms: Vec<u8>,
    /// Address, and where the name and the module stand in `kallsyms`; ascending, aliases in the order of the file.
    list: Vec<(u64, u32, u32)>,
    /// Strings of the kernel, by address.
    strings: HashMap<u64, Vec<u8>>,
    cmdlines: Vec<u8>,
    tasks: HashMap<u32, Range<usize>>,
    /// Direct mapped: names by what they were made of.
    cache: Vec<Option<(u64, Wanted, Name)>>,
}

impl Symbols {
    pub(super) fn new(kallsyms: Vec<u8>, printk_formats: &[u8], cmdlines: Vec<u8>) -> Self {
        let mut tasks = HashMap::new();
        for line in lines(&cmdlines) {
            let text = &cmdlines[line.clone()];
            let Some(space) = memchr(b' ', text) else { continue };
            if let Some(pid) = std::str::from_utf8(&text[..space]).ok().and_then(|pid| pid.parse().ok()) {
                tasks.insert(pid, line.start + space + 1..line.end);
            }
        }
        Symbols {
            list: addresses(&kallsyms),
            kallsyms,
            strings: strings(printk_formats),
            cmdlines,
            tasks,
            cache: vec![None; CACHE],
        }
    }

    /// The name of `value`, an address or a process id. What has no name is the number in hexadecimal (a task: no name).
    #[inline]
    pub(super) fn name(&mut self, value: u64, wanted: Wanted, names: &mut Names) -> Name {
        let at = (value ^ value >> 12).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52;
        let at = (at as usize ^ wanted as usize) % CACHE;
        if let Some(Some((known, what, name))) = self.cache.get(at)
            && (*known, *what) == (value, wanted)
        {
            return *name;
        }
        let name = names.add(&self.text(value, wanted));
        if let Some(slot) = self.cache.get_mut(at) {
            *slot = Some((value, wanted, name));
        }
        name
    }

    /// The same as text.
    pub(super) fn text(&self, value: u64, wanted: Wanted) -> Vec<u8> {
        let known = match wanted {
            Wanted::Task if value == 0 => return b"<idle>".to_vec(),
            Wanted::Task => {
                let range = u32::try_from(value).ok().and_then(|pid| self.tasks.get(&pid)).cloned();
                return range.and_then(|range| self.cmdlines.get(range)).unwrap_or_default().to_vec();
            }
            _ if value == 0 => return Vec::new(),
            Wanted::Text => self.strings.get(&value).cloned(),
            Wanted::Place | Wanted::Function => self.symbol(value, wanted == Wanted::Place),
        };
        known.unwrap_or_else(|| format!("{value:#x}").into_bytes())
    }

    /// A string of the kernel.
    pub(super) fn string(&self, address: u64) -> Option<&[u8]> {
        self.strings.get(&address).map(Vec::as_slice)
    }

    fn symbol(&self, address: u64, offset: bool) -> Option<Vec<u8>> {
        let above = self.list.partition_point(|symbol| symbol.0 <= address);
        let start = self.list.get(above.checked_sub(1)?)?.0;
        let first = self.list.partition_point(|symbol| symbol.0 < start);
        let (_, from, to) = *self.list.get(first)?;
        let distance = address - start;
        if distance >= LONGEST_FUNCTION {
            return None;
        }
        // `name` or `name\t[module]`.
        let line = self.kallsyms.get(from as usize..to as usize)?;
        let (name, module) = line.split_at(memchr(b'\t', line).unwrap_or(line.len()));
        let mut text = name.to_vec();
        if offset {
            text.extend_from_slice(format!("+{distance:#x}").as_bytes());
        }
        if let [b'\t', module @ ..] = module {
            text.push(b' ');
            text.extend_from_slice(module);
        }
        Some(text)
    }
}

/// The ranges of a text's lines, without their ends.
fn lines(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        let len = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = at..at + len;
        at += len + 1;
        Some(line)
    })
}

/// Lines such as `ffffd605d54f3000 T wakeup_preempt\t[module]`. Left out are, as trace-cmd does, absolute symbols (per-CPU offsets of
/// x86) and the assembler's marks (`$x`, `$d`); addresses of 0 are kptr_restrict's.
fn addresses(kallsyms: &[u8]) -> Vec<(u64, u32, u32)> {
    let mut list = Vec::with_capacity(kallsyms.len() / 40);
    for line in lines(kallsyms) {
        let text = &kallsyms[line.clone()];
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let [b' ', kind, b' ', name @ ..] = &text[digits..] else { continue };
        if digits > 16 || matches!(kind, b'A' | b'a') || matches!(name, [] | [b'$', ..]) {
            continue;
        }
        let address = text[..digits].iter().fold(0, |value, digit| value << 4 | hex(*digit));
        let (from, to) = (line.start + digits + 3, line.end);
        if address != 0
            && let (Ok(from), Ok(to)) = (u32::try_from(from), u32::try_from(to))
        {
            list.push((address, from, to));
        }
    }
    if !list.is_sorted_by_key(|symbol| symbol.0) {
        list.sort_by_key(|symbol| symbol.0);
    }
    list
}

fn hex(digit: u8) -> u64 {
    u64::from(match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    })
}

/// Lines such as `0xffffb5b668930ae0 : "Rescheduling interrupts"`, with C's escapes (`t_show` of `kernel/trace/trace_printk.c`).
fn strings(printk_formats: &[u8]) -> HashMap<u64, Vec<u8>> {
    let mut strings = HashMap::new();
    for line in lines(printk_formats) {
        let line = &printk_formats[line];
        let Some(colon) = memchr(b':', line) else { continue };
        let address = std::str::from_utf8(&line[..colon]).ok().map(str::trim).and_then(|text| text.strip_prefix("0x"));
        let Some(address) = address.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else { continue };
        let Some((from, to)) = memchr(b'"', line).zip(memrchr(b'"', line)) else { continue };
        let mut text = Vec::new();
        let mut bytes = line.get(from + 1..to).unwrap_or_default().iter();
        while let Some(byte) = bytes.next() {
            text.push(match byte {
                b'\\' => match bytes.next() {
                    Some(b'n') => b'\n',
                    Some(b't') => b'\t',
                    Some(b'r') => b'\r',
                    Some(other) => *other,
                    None => b'\\',
                },
                byte => *byte,
            });
        }
        strings.insert(address, text);
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        let kallsyms =
            b"0000000000000000 A zero\nffff000000002000 t second\nffff000000001000 T first\nffff000000001000 T alias\n\
            ffff000000001008 t $x\nffff800000000000 t of_module\t[ipigt]\nnonsense\n";
        let formats = b"0xffff1 : \"Function call interrupts\"\n0xffff2 : \"a \\\"b\\\"\\n\"\nbroken\n0xzz : \"\"\n";
        Symbols::new(kallsyms.to_vec(), formats, b"12 a b\n7 init\nx\n".to_vec())
    }

    #[test]
    fn an_address_has_the_first_symbol_at_or_below_it() {
        let symbols = symbols();
        let text = |value, wanted| String::from_utf8(symbols.text(value, wanted)).unwrap();
        assert_eq!(text(0xFFFF_0000_0000_1054, Wanted::Place), "first+0x54");
        assert_eq!(text(0xFFFF_0000_0000_1054, Wanted::Function), "first");
        assert_eq!(text(0xFFFF_0000_0000_2000, Wanted::Place), "second+0x0");
        assert_eq!(text(0xFFFF_8000_0000_0010, Wanted::Place), "of_module+0x10 [ipigt]");
        assert_eq!(text(0xFFFF_8000_0000_0010, Wanted::Function), "of_module [ipigt]");
        assert_eq!(text(0xFFFF_9000_0000_0000, Wanted::Place), "0xffff900000000000", "too far from any");
        assert_eq!(text(0x10, Wanted::Place), "0x10");
        assert_eq!(text(0, Wanted::Place), "");
    }

    #[test]
    fn strings_and_tasks_are_found() {
        let mut symbols = symbols();
        let mut names = Names::new();
        let name = symbols.name(0xFFFF1, Wanted::Text, &mut names);
        assert_eq!(names.text(name), "Function call interrupts");
        assert_eq!(symbols.name(0xFFFF1, Wanted::Text, &mut names), name);
        assert_eq!(symbols.text(0xFFFF2, Wanted::Text), b"a \"b\"\n");
        assert_eq!(symbols.text(12, Wanted::Task), b"a b");
        assert_eq!(symbols.text(0, Wanted::Task), b"<idle>");
        assert_eq!(symbols.name(99, Wanted::Task, &mut names), Name::NONE);
    }
}
