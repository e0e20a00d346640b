//! What stands in front of the data: version 6 in one sequence, version 7 as sections that options point to.
//!
//! Layouts by trace-cmd's manual pages `trace-cmd.dat.v6(5)` and `trace-cmd.dat.v7(5)`.

use std::collections::HashSet;
use std::io::{Read, Seek};

use super::bytes::{Bytes, Input, LONGEST_TEXT};
use super::format::{Field, Formats};
use super::page::LaneAt;
use super::symbols::Symbols;
use super::{CpuStat, DatError, Header, Tsc};
use crate::Clock;

/// The first bytes of every `trace.dat`.
pub(super) const MAGIC: &[u8; 10] = b"\x17\x08\x44tracing";

/// The most CPUs: the kernel's largest `NR_CPUS` (`arch/x86/Kconfig`, MAXSMP; arm64 has 4096).
pub(super) const MOST_CPUS: u32 = 8192;

/// The largest page of a ring, bytes (`buffer_subbuf_size_kb` allows pages of pages).
const LARGEST_PAGE: u32 = 1 << 20;

/// Options, by their numbers in the manual pages.
pub(super) mod option {
    pub(in crate::dat) const DONE: u16 = 0;
    pub(in crate::dat) const DATE: u16 = 1;
    pub(in crate::dat) const CPUSTAT: u16 = 2;
    pub(in crate::dat) const BUFFER: u16 = 3;
    pub(in crate::dat) const TRACECLOCK: u16 = 4;
    pub(in crate::dat) const UNAME: u16 = 5;
    pub(in crate::dat) const OFFSET: u16 = 7;
    pub(in crate::dat) const CPUCOUNT: u16 = 8;
    pub(in crate::dat) const VERSION: u16 = 9;
    pub(in crate::dat) const TIME_SHIFT: u16 = 12;
    pub(in crate::dat) const TSC2NSEC: u16 = 14;
    pub(in crate::dat) const HEADER_INFO: u16 = 16;
    pub(in crate::dat) const FTRACE_EVENTS: u16 = 17;
    pub(in crate::dat) const EVENT_FORMATS: u16 = 18;
    pub(in crate::dat) const KALLSYMS: u16 = 19;
    pub(in crate::dat) const PRINTK: u16 = 20;
    pub(in crate::dat) const CMDLINES: u16 = 21;
    pub(in crate::dat) const BUFFER_TEXT: u16 = 22;
}

/// How data are packed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Packing {
    None,
    Zlib,
    Zstd,
}

/// What the data of a file look like.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) big: bool,
    pub(super) page_size: usize,
    pub(super) commit_at: usize,
    /// Bytes of the kernel's `long`.
    pub(super) commit_size: usize,
    pub(super) data_at: usize,
    pub(super) packing: Packing,
}

/// Everything that stands in front of the data.
pub(super) struct File {
    pub(super) header: Header,
    pub(super) layout: Layout,
    pub(super) formats: Formats,
    pub(super) symbols: Symbols,
    pub(super) lanes: Vec<LaneAt>,
}

/// The texts of a file, as they are collected.
#[derive(Default)]
struct Texts {
    header_page: Vec<u8>,
    formats: Formats,
    kallsyms: Vec<u8>,
    printk: Vec<u8>,
    cmdlines: Vec<u8>,
}

/// One BUFFER option of version 7.
struct Buffer {
    name: String,
    clock: String,
    page_size: u32,
    /// Where its section begins.
    at: u64,
    lanes: Vec<LaneAt>,
}

impl File {
    pub(super) fn open<S: Read + Seek>(input: &mut Input<S>) -> Result<File, DatError> {
        let mut first = Vec::new();
        input.read_at(0, MAGIC.len() as u64, &mut first)?;
        if first.is_empty() {
            return Err(DatError::Empty);
        }
        if !super::is_dat(&first) {
            return Err(DatError::NotDat { first: first.escape_ascii().to_string() });
        }
        let mut bytes = input.from(MAGIC.len() as u64, false)?;
        let version = bytes.string("the version")?;
        if !matches!(version.as_str(), "6" | "7") {
            return Err(DatError::Version(version.escape_default().to_string()));
        }
        let [big, long] = bytes.array("the byte order and the size of a long")?;
        bytes.big = match big {
            0 => false,
            1 => true,
            _ => return Err(malformed("the byte order (0: little, 1: big)", big, bytes.at - 2)),
        };
        let page_size = bytes.u32("the page size")?;
        let mut header = Header {
            version: if version == "6" { 6 } else { 7 },
            big_endian: bytes.big,
            long_size: long,
            page_size,
            ..Header::default()
        };
        let mut texts = Texts::default();
        let (lanes, packing) = match header.version {
            6 => (version_6(bytes, &mut header, &mut texts)?, Packing::None),
            _ => {
                let (name, _) = (bytes.string("the compression's name")?, bytes.string("the compression's version")?);
                let packing = match name.as_str() {
                    "none" => Packing::None,
                    "zlib" => Packing::Zlib,
                    "zstd" => Packing::Zstd,
                    _ => return Err(DatError::Compression(name.escape_default().to_string())),
                };
                header.compression = name;
                let options = bytes.u64("the place of the options")?;
                let big = bytes.big;
                (version_7(input, options, packing, big, &mut header, &mut texts)?, packing)
            }
        };
        // The second field of header_page has the size of the kernel's long; the file's own is that of trace-cmd.
        let (mut commit_at, mut commit_size, mut data_at) = (8, usize::from(header.long_size), None);
        for line in String::from_utf8_lossy(&texts.header_page).lines() {
            match Field::parse(line) {
                Some(("commit", field)) => (commit_at, commit_size) = (field.at, field.size),
                Some(("data", field)) => {
                    data_at = Some(field.at);
                    // A ring's page may be several of the machine's, which version 6 says nowhere else.
                    let page = (field.at + field.size) as u32;
                    if header.version == 6 && page > header.page_size && page.is_multiple_of(header.page_size.max(1)) {
                        header.page_size = page;
                    }
                }
                _ => {}
            }
        }
        if !matches!(commit_size, 4 | 8) {
            return Err(malformed("the size of `commit` in header_page (4 or 8)", commit_size, MAGIC.len() as u64));
        }
        let page_size = header.page_size;
        if !(64..=LARGEST_PAGE).contains(&page_size) || !page_size.is_multiple_of(4) {
            return Err(malformed("the page size", page_size, MAGIC.len() as u64 + 4));
        }
        header.long_size = commit_size as u8;
        let data_at = data_at.unwrap_or(commit_at + commit_size);
        if data_at < 8 || data_at >= page_size as usize {
            return Err(malformed("the offset of `data` in header_page", data_at, MAGIC.len() as u64));
        }
        header.remarks.append(&mut texts.formats.remarks);
        if header.clock == Clock::Unknown && !header.clock_name.is_empty() && header.tsc.is_none() {
            let name = header.clock_name.escape_default();
            header.remarks.push(format!("clock `{name}` may count ticks: its stamps are taken as nanoseconds"));
        }
        let layout =
            Layout { big: header.big_endian, page_size: page_size as usize, commit_at, commit_size, data_at, packing };
        let symbols = Symbols::new(texts.kallsyms, &texts.printk, texts.cmdlines);
        Ok(File { header, layout, formats: texts.formats, symbols, lanes })
    }
}

fn malformed(what: &'static str, value: impl ToString, at: u64) -> DatError {
    DatError::Malformed { what, value: value.to_string(), at }
}

/// The texts in sequence, then options, then where the data are.
fn version_6<R: Read>(mut bytes: Bytes<R>, header: &mut Header, texts: &mut Texts) -> Result<Vec<LaneAt>, DatError> {
    header.compression = "none".into();
    texts.header_info(&mut bytes)?;
    texts.ftrace_events(&mut bytes)?;
    texts.event_formats(&mut bytes)?;
    texts.kallsyms = text_32(&mut bytes, "kallsyms")?;
    texts.printk = text_32(&mut bytes, "printk_formats")?;
    texts.cmdlines = text_64(&mut bytes, "the saved command lines")?;
    header.cpus = bytes.u32("the number of CPUs")?;
    let count = header.cpus;
    if count > MOST_CPUS {
        return Err(malformed("the number of CPUs", count, bytes.at - 4));
    }
    loop {
        let at = bytes.at;
        match &bytes.array::<10>("the kind of data")? {
            b"options  \0" => loop {
                let id = bytes.u16("an option's number")?;
                if id == option::DONE {
                    break;
                }
                let size = bytes.u32("an option's size")?;
                let value = bytes.bytes(size.into(), "an option")?;
                if id == option::BUFFER {
                    let name = value.get(8..).unwrap_or_default();
                    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                    header.other_buffers.push(String::from_utf8_lossy(name).into_owned());
                } else {
                    header.option(id, &value, bytes.at - u64::from(size))?;
                }
            },
            b"latency  \0" => return Err(DatError::Latency),
            b"flyrecord\0" => break,
            other => return Err(malformed("the kind of data", format!("`{}`", other.escape_ascii()), at)),
        }
    }
    let mut lanes = Vec::new();
    for cpu in 0..count {
        let what = "the places of the CPUs' data";
        let (at, size) = (bytes.u64(what)?, bytes.u64(what)?);
        lanes.push(LaneAt { cpu: cpu as u16, at, size, packed: false });
    }
    Ok(lanes)
}

/// Options that point to sections and to more options.
fn version_7<S: Read + Seek>(
    input: &mut Input<S>,
    options: u64,
    packing: Packing,
    big: bool,
    header: &mut Header,
    texts: &mut Texts,
) -> Result<Vec<LaneAt>, DatError> {
    let mut seen = HashSet::new();
    let mut buffers = Vec::new();
    let mut latency = false;
    let mut next = options;
    // Places that were read once are not read again: the chain ends.
    while next != 0 && seen.insert(next) {
        let (_, section) = section(input, next, packing, big, "the options")?;
        let mut bytes = Bytes::of(&section, next + 16, big);
        next = 0;
        while !bytes.is_empty() {
            let id = bytes.u16("an option's number")?;
            let size = bytes.u32("an option's size")?;
            let at = bytes.at;
            let value = bytes.bytes(size.into(), "an option")?;
            let mut value = Bytes::of(&value, at, big);
            match id {
                option::DONE => {
                    next = value.u64("the place of the next options")?;
                    break;
                }
                option::BUFFER => buffers.push(buffer(&mut value)?),
                option::BUFFER_TEXT => latency = true,
                option::HEADER_INFO..=option::CMDLINES => {
                    let at = value.u64("a section's place")?;
                    if !seen.insert(at) {
                        continue;
                    }
                    let (_, section) = self::section(input, at, packing, big, "a section")?;
                    let mut bytes = Bytes::of(&section, at + 16, big);
                    match id {
                        option::HEADER_INFO => texts.header_info(&mut bytes)?,
                        option::FTRACE_EVENTS => texts.ftrace_events(&mut bytes)?,
                        option::EVENT_FORMATS => texts.event_formats(&mut bytes)?,
                        option::KALLSYMS => texts.kallsyms = text_32(&mut bytes, "kallsyms")?,
                        option::PRINTK => texts.printk = text_32(&mut bytes, "printk_formats")?,
                        _ => texts.cmdlines = text_64(&mut bytes, "the saved command lines")?,
                    }
                }
                _ => {
                    let bytes = value.bytes(size.into(), "an option")?;
                    header.option(id, &bytes, at)?;
                }
            }
        }
    }
    // The top instance has no name.
    let top = buffers.iter().position(|buffer: &Buffer| buffer.name.is_empty()).unwrap_or(0);
    if buffers.is_empty() {
        return Err(if latency { DatError::Latency } else { DatError::NoData });
    }
    let top = buffers.remove(top);
    header.other_buffers.extend(buffers.into_iter().map(|buffer| buffer.name));
    if !top.name.is_empty() {
        header.remarks.push(format!("the file has no top buffer: `{}` was read", top.name));
    }
    if !top.clock.is_empty() {
        header.set_clock(&top.clock);
    }
    if top.page_size != 0 {
        header.page_size = top.page_size;
    }
    header.cpus = header.cpus.max(top.lanes.len() as u32);
    let mut head = Vec::new();
    input.read_at(top.at, 4, &mut head)?;
    let flags = super::bytes::number_at(&head, 2, 2, big);
    let flags = flags.ok_or(DatError::Truncated { what: "the head of the data", at: input.len })?;
    Ok(top.lanes.into_iter().map(|lane| LaneAt { packed: flags & 1 != 0, ..lane }).collect())
}

/// A section's head and its bytes, unpacked.
fn section<S: Read + Seek>(
    input: &mut Input<S>,
    at: u64,
    packing: Packing,
    big: bool,
    what: &'static str,
) -> Result<(u16, Vec<u8>), DatError> {
    if at >= input.len {
        return Err(DatError::Beyond { what, at, len: input.len });
    }
    let mut bytes = input.from(at, big)?;
    let (id, flags) = (bytes.u16(what)?, bytes.u16(what)?);
    bytes.u32(what)?; // the number of a description that only people read
    let size = bytes.u64(what)?;
    if flags & 1 == 0 {
        return Ok((id, bytes.bytes(size, what)?));
    }
    let (packed, unpacked) = (bytes.u32(what)?, bytes.u32(what)?);
    let packed = bytes.bytes(packed.into(), what)?;
    let mut section = Vec::new();
    let unpacked = u64::from(unpacked).min(LONGEST_TEXT);
    packing.unpack(&packed, unpacked, &mut section).map_err(|why| malformed(what, why, at))?;
    Ok((id, section))
}

fn buffer(bytes: &mut Bytes<&[u8]>) -> Result<Buffer, DatError> {
    let what = "the description of a buffer";
    let at = bytes.u64(what)?;
    let (name, clock) = (bytes.string(what)?, bytes.string(what)?);
    let (page_size, count) = (bytes.u32(what)?, bytes.u32(what)?);
    if count > MOST_CPUS {
        return Err(malformed("the number of CPUs", count, bytes.at - 4));
    }
    let mut lanes: Vec<LaneAt> = Vec::new();
    for _ in 0..count {
        let (cpu, at, size) = (bytes.u32(what)?, bytes.u64(what)?, bytes.u64(what)?);
        if cpu >= MOST_CPUS {
            return Err(malformed("the number of a CPU", cpu, bytes.at - 20));
        }
        lanes.push(LaneAt { cpu: cpu as u16, at, size, packed: false });
    }
    lanes.sort_by_key(|lane| lane.cpu);
    Ok(Buffer { name, clock, page_size, at, lanes })
}

fn text_32<R: Read>(bytes: &mut Bytes<R>, what: &'static str) -> Result<Vec<u8>, DatError> {
    let size = bytes.u32(what)?;
    bytes.bytes(size.into(), what)
}

fn text_64<R: Read>(bytes: &mut Bytes<R>, what: &'static str) -> Result<Vec<u8>, DatError> {
    let size = bytes.u64(what)?;
    bytes.bytes(size, what)
}

impl Texts {
    fn header_info<R: Read>(&mut self, bytes: &mut Bytes<R>) -> Result<(), DatError> {
        bytes.expect(b"header_page\0", "header_page")?;
        self.header_page = text_64(bytes, "header_page")?;
        bytes.expect(b"header_event\0", "header_event")?;
        text_64(bytes, "header_event").map(drop)
    }

    fn ftrace_events<R: Read>(&mut self, bytes: &mut Bytes<R>) -> Result<(), DatError> {
        for _ in 0..bytes.u32("ftrace's event formats")? {
            let text = text_64(bytes, "ftrace's event formats")?;
            self.formats.add("ftrace", &text);
        }
        Ok(())
    }

    fn event_formats<R: Read>(&mut self, bytes: &mut Bytes<R>) -> Result<(), DatError> {
        let what = "the event formats";
        for _ in 0..bytes.u32(what)? {
            let system = bytes.string(what)?;
            for _ in 0..bytes.u32(what)? {
                let text = text_64(bytes, what)?;
                self.formats.add(&system, &text);
            }
        }
        Ok(())
    }
}

impl Header {
    /// Takes an option that tells something of the whole file.
    fn option(&mut self, id: u16, value: &[u8], at: u64) -> Result<(), DatError> {
        let text = || String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let mut bytes = Bytes::of(value, at, self.big_endian);
        match id {
            option::TRACECLOCK => self.set_clock(&text()),
            option::UNAME => self.uname = Some(text().trim().into()),
            option::VERSION => self.recorder = Some(text().trim().into()),
            // Microseconds to the time of day (trace-cmd record --date).
            option::DATE => self.add_offset("DATE", &text(), 1000),
            option::OFFSET => self.add_offset("OFFSET", &text(), 1),
            option::CPUCOUNT => self.cpus = bytes.u32("the number of CPUs")?,
            option::TSC2NSEC => {
                let what = "TSC2NSEC";
                let (multiplier, shift) = (bytes.u32(what)?, bytes.u32(what)?);
                self.tsc = Some(Tsc { multiplier, shift: shift.min(63), offset: bytes.u64(what)? });
            }
            option::CPUSTAT => {
                let text = text();
                let get = |key: &str| {
                    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
                    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
                };
                let stat = CpuStat {
                    cpu: get("CPU") as u32,
                    overrun: get("overrun"),
                    commit_overrun: get("commit overrun"),
                    dropped: get("dropped events"),
                };
                if self.stats.len() < MOST_CPUS as usize {
                    self.stats.push(stat);
                }
            }
            option::TIME_SHIFT => {
                self.remarks.push("TIME_SHIFT: times stay the guest's, they are not moved to the host's".into());
            }
            _ => {}
        }
        Ok(())
    }

    /// A number in C's spelling, decimal or `0x`, with a sign.
    fn add_offset(&mut self, what: &str, text: &str, unit: i64) {
        let (negative, digits) = match text.trim().as_bytes() {
            [b'-', ..] => (true, &text.trim()[1..]),
            _ => (false, text.trim()),
        };
        let value = match digits.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        match value {
            Ok(value) => {
                let value = value.saturating_mul(if negative { -unit } else { unit });
                self.offset = self.offset.saturating_add(value);
            }
            Err(_) => self.remarks.push(format!("{what} is no number: `{}`", digits.escape_default())),
        }
    }

    /// The text of `trace_clock`: `[local] global counter`, or one name.
    fn set_clock(&mut self, text: &str) {
        let name = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(text, |(name, _)| name);
        self.clock_name = name.trim().into();
        self.clock = Clock::from_name(name.trim());
    }
}
