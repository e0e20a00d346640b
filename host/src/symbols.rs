//! Names for code addresses, from the firmware's ELF, in the forms that Linux prints.
//!
//! Functions come from the symbol table by their size; labels of assembly, which have none, reach to the next symbol. An
//! address that no name covers stays a number: a name that is nearly right would mislead.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::capture::{Capture, ELF_ATTACHMENT};

/// One function or label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    address: u64,
    size: u64,
    name: String,
}

/// The names of one firmware. Without an ELF there are none, and every address stays a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// By address.
    functions: Vec<Symbol>,
    /// Labels without a size, by address; they reach to the next symbol of any kind.
    labels: Vec<Symbol>,
    /// Of a Linux trace: the names themselves. Its "addresses" are their numbers.
    names: Vec<String>,
}

impl Symbols {
    /// The names of the firmware that a capture holds; none where it holds no ELF, or one that can't be read.
    pub fn of(capture: &Capture) -> Symbols {
        if let Some(table) = capture.linux() {
            return Symbols { names: table.names.clone(), ..Symbols::default() };
        }
        let elf = capture.attachment(ELF_ATTACHMENT).ok().flatten();
        elf.as_deref().map(Symbols::from_elf).unwrap_or_default()
    }

    /// The names in an ELF; none where it can't be read.
    pub fn from_elf(elf: &[u8]) -> Symbols {
        let Ok(file) = object::File::parse(elf) else { return Symbols::default() };
        let code: Vec<(u64, u64)> = file
            .sections()
            .filter(|section| section.kind() == object::SectionKind::Text && section.size() > 0)
            .map(|section| (section.address(), section.address().saturating_add(section.size())))
            .collect();
        let mut found = Vec::new();
        for symbol in file.symbols() {
            let address = symbol.address();
            let Some((_, end)) = code.iter().find(|(start, end)| (*start..*end).contains(&address)) else { continue };
            let Ok(name) = symbol.name() else { continue };
            let function = symbol.kind() == object::SymbolKind::Text;
            let label = matches!(symbol.kind(), object::SymbolKind::Unknown | object::SymbolKind::Label);
            // Mapping symbols ($x, $d) and the assembler's own labels name nothing.
            if name.is_empty() || name.starts_with(['$', '.']) || !(function || label) {
                continue;
            }
            found.push(Found { address, size: symbol.size(), end: *end, function, name });
        }
        Symbols::of_found(found)
    }

    fn of_found(mut found: Vec<Found<'_>>) -> Symbols {
        // Of several names for one address the best comes first: a function, one with a size, the shortest.
        found.sort_by(|a, b| {
            let rank = |symbol: &Found<'_>| (symbol.address, !symbol.function, symbol.size == 0, symbol.name.len());
            rank(a).cmp(&rank(b)).then(a.name.cmp(b.name))
        });
        found.dedup_by_key(|symbol| symbol.address);
        let next: Vec<u64> = found.iter().skip(1).map(|symbol| symbol.address).chain([u64::MAX]).collect();
        let mut symbols = Symbols::default();
        for (symbol, next) in found.iter().zip(next) {
            let Found { address, size, end, .. } = *symbol;
            let list = if size > 0 { &mut symbols.functions } else { &mut symbols.labels };
            let size = if size > 0 { size } else { next.min(end) - address };
            list.push(Symbol { address, size, name: plain(symbol.name) });
        }
        symbols
    }

    /// Whether there are no names at all.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.labels.is_empty() && self.names.is_empty()
    }

    /// The function that holds an address: Linux's `%ps`, without its number for what has no name.
    pub fn name(&self, address: u64) -> Option<String> {
        self.named(address).or_else(|| self.find(address).map(|symbol| symbol.name.clone()))
    }

    /// `name+0xOFFSET/0xSIZE`: Linux's `%pS`. A number where no name covers the address.
    pub fn at(&self, address: u64) -> String {
        self.place(address, address)
    }

    /// The same of an address that a call returns to: Linux's `%pB`. The call may be the last instruction of its function, so
    /// the byte before is looked up, and the offset is the address's own.
    pub fn at_return(&self, address: u64) -> String {
        self.place(address, address.saturating_sub(1))
    }

    /// A name of a Linux trace, by its number.
    fn named(&self, number: u64) -> Option<String> {
        let name = self.names.get(usize::try_from(number).ok()?)?;
        (!name.is_empty()).then(|| name.clone())
    }

    fn place(&self, address: u64, inside: u64) -> String {
        if let Some(name) = self.named(address) {
            return name;
        }
        match self.find(inside) {
            Some(symbol) => format!("{}+{:#x}/{:#x}", symbol.name, address - symbol.address, symbol.size),
            None => format!("{address:#x}"),
        }
    }

    fn find(&self, address: u64) -> Option<&Symbol> {
        // A label inside a function that knows its size is part of that function.
        [&self.functions, &self.labels].into_iter().find_map(|list| {
            let after = list.partition_point(|symbol| symbol.address <= address);
            let symbol = list.get(after.checked_sub(1)?)?;
            (address - symbol.address < symbol.size).then_some(symbol)
        })
    }
}

/// A symbol in an executable section.
struct Found<'a> {
    address: u64,
    size: u64,
    /// Of its section.
    end: u64,
    function: bool,
    name: &'a str,
}

/// A name as a person writes it: demangled, without its hash, without blanks, which would end a field of a trace line.
fn plain(name: &str) -> String {
    let demangled = format!("{:#}", rustc_demangle::demangle(name));
    demangled.split_whitespace().collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xFFFF_FFFF_8000_1000;

    /// `<firmware::ring::Lane as core::fmt::Write>::write_str`, in the older of Rust's manglings.
    const METHOD: &str = "_ZN57_$LT$firmware..ring..Lane$u20$as$u20$core..fmt..Write$GT$9write_str17h0123456789abcdefE";

    fn found(address: u64, size: u64, function: bool, name: &str) -> Found<'_> {
        Found { address: BASE + address, size, end: BASE + 0x1000, function, name }
    }

    fn symbols() -> Symbols {
        Symbols::of_found(vec![
            found(0x800, 0, false, "vectors_ipi"),
            found(0x100, 0x40, true, "drain_local_list"),
            found(0x140, 0x20, true, "_RNvNtCs1234_8firmware5calls11call_single"),
            found(0x150, 0, false, "inner_label"),
            found(0, 0, false, "_text_start"),
            found(0, 0, false, "_start"),
            found(0x200, 0x10, true, METHOD),
            found(0x80, 0, false, "boot_el1"),
        ])
    }

    #[test]
    fn addresses_are_printed_as_linux_prints_them() {
        let symbols = symbols();
        for (offset, expected) in [
            (0x100, "drain_local_list+0x0/0x40"),
            (0x13F, "drain_local_list+0x3f/0x40"),
            (0x148, "firmware::calls::call_single+0x8/0x20"),
            (0x154, "firmware::calls::call_single+0x14/0x20"),
            (0x4, "_start+0x4/0x80"),
            (0x90, "boot_el1+0x10/0x80"),
            (0xA80, "vectors_ipi+0x280/0x800"),
            (0x204, "<firmware::ring::Lane_as_core::fmt::Write>::write_str+0x4/0x10"),
        ] {
            assert_eq!(symbols.at(BASE + offset), expected, "{offset:#x}");
        }
        assert_eq!(symbols.name(BASE + 0x120).as_deref(), Some("drain_local_list"));
    }

    #[test]
    fn what_no_name_covers_stays_a_number() {
        let symbols = symbols();
        assert_eq!(symbols.at(0), "0x0");
        assert_eq!(symbols.at_return(0), "0x0");
        assert_eq!(symbols.at(BASE - 1), "0xffffffff80000fff");
        // Between the end of a sized function and the next symbol, and behind the section.
        assert_eq!(symbols.at(BASE + 0x240), "0xffffffff80001240");
        assert_eq!(symbols.at(BASE + 0x1000), "0xffffffff80002000");
        assert_eq!(symbols.name(0x1234), None);
        assert_eq!(Symbols::default().at(0x1234), "0x1234");
    }

    #[test]
    fn a_return_address_behind_a_function_belongs_to_it() {
        let symbols = symbols();
        assert_eq!(symbols.at(BASE + 0x140), "firmware::calls::call_single+0x0/0x20");
        assert_eq!(symbols.at_return(BASE + 0x140), "drain_local_list+0x40/0x40");
        assert_eq!(symbols.at_return(BASE + 0x144), "firmware::calls::call_single+0x4/0x20");
    }

    #[test]
    fn what_is_no_elf_gives_no_names() {
        for bytes in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0", &[0xFF; 4096]] {
            assert!(Symbols::from_elf(bytes).is_empty());
        }
    }

    #[test]
    fn a_real_symbol_table_is_read() {
        // The test's own executable: it has this function, whatever else it has.
        let elf = std::fs::read(std::env::current_exe().expect("it has a path")).expect("it can be read");
        let symbols = Symbols::from_elf(&elf);
        let own = symbols.functions.iter().find(|symbol| symbol.name.ends_with("symbols::plain")).expect("is there");
        assert!(own.size > 0 && !own.name.contains(' '), "{own:?}");
        assert_eq!(symbols.at(own.address + 1), format!("{}+0x1/{:#x}", own.name, own.size));
        assert_eq!(symbols.name(own.address), Some(own.name.clone()));
    }
}
