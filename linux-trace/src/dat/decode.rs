//! Records to events, by the file's own formats and names.

use super::bprint;
use super::bytes::number;
use super::format::{Field, Format, Formats, Kind};
use super::symbols::{Symbols, Wanted};
use crate::mask::MOST_CPUS;
use crate::{Event, Mask, Name, Names, What};

/// What of a mark in raw bytes is told, bytes.
const RAW_BYTES: usize = 64;

/// All that a record's meaning depends on.
pub(super) struct Decoder {
    pub(super) formats: Formats,
    pub(super) symbols: Symbols,
    pub(super) big: bool,
    /// Bytes of the kernel's `long`.
    pub(super) long: usize,
}

/// A record's bytes with the formats' view of them.
struct Record<'a> {
    bytes: &'a [u8],
    format: Format,
    big: bool,
}

impl<'a> Record<'a> {
    #[inline]
    fn field(&self, at: usize) -> Option<Field> {
        self.format.fields.get(at).copied()
    }

    #[inline]
    fn value(&self, at: usize) -> Option<u64> {
        self.field(at)?.get(self.bytes, self.big)
    }

    fn bytes(&self, at: usize) -> Option<&'a [u8]> {
        self.field(at)?.bytes(self.bytes, self.big)
    }

    fn text(&self, at: usize) -> Option<&'a [u8]> {
        self.field(at)?.text(self.bytes, self.big)
    }

    fn cpu(&self, at: usize) -> Option<u16> {
        u16::try_from(self.value(at)?).ok().filter(|cpu| usize::from(*cpu) < MOST_CPUS)
    }

    fn common(&self, field: Option<Field>) -> Option<u64> {
        field?.get(self.bytes, self.big)
    }
}

impl Decoder {
    /// The event of a record; `Ok(None)`: one of another kind; `Err`: why it is not understood.
    pub(super) fn event(&mut self, bytes: &[u8], cpu: u16, t: u64, names: &mut Names) -> Result<Option<Event>, String> {
        let format = *self.formats.of(bytes, self.big).map_err(|id| match id {
            Some(id) => format!("event {id} has no format in this file"),
            None => format!("a record of {} bytes", bytes.len()),
        })?;
        if format.kind == Kind::Other {
            return Ok(None);
        }
        let record = Record { bytes, format, big: self.big };
        let what = self.what(&record, names).ok_or_else(|| {
            let kind = format.kind;
            format!(
                "a record of {} bytes is no {kind:?}: a field is beyond it, or a CPU beyond {MOST_CPUS}",
                bytes.len()
            )
        })?;
        let pid = record.common(format.pid).and_then(|pid| u32::try_from(pid).ok());
        let comm = pid.map_or(Name::NONE, |pid| self.symbols.name(pid.into(), Wanted::Task, names));
        Ok(Some(Event { t, cpu, pid, comm, flags: flags(&record), what }))
    }

    #[inline]
    fn what(&mut self, record: &Record<'_>, names: &mut Names) -> Option<What> {
        let symbols = &mut self.symbols;
        let mut name = |at, wanted| Some(symbols.name(record.value(at)?, wanted, names));
        Some(match record.format.kind {
            Kind::Raise => {
                What::Raise { targets: mask(record.bytes(0)?, self.long, self.big)?, reason: name(1, Wanted::Text)? }
            }
            Kind::Entry => What::Entry { reason: name(0, Wanted::Text)? },
            Kind::Exit => What::Exit { reason: name(0, Wanted::Text)? },
            Kind::SendCpu => What::SendCpu {
                cpu: record.cpu(0)?,
                callsite: name(1, Wanted::Place)?,
                callback: name(2, Wanted::Place)?,
            },
            Kind::SendMask => What::SendMask {
                targets: mask(record.bytes(0)?, self.long, self.big)?,
                callsite: name(1, Wanted::Place)?,
                callback: name(2, Wanted::Place)?,
            },
            Kind::Queue => What::Queue {
                cpu: record.cpu(0)?,
                callsite: name(1, Wanted::Place)?,
                function: name(2, Wanted::Function)?,
                csd: record.value(3)?,
            },
            Kind::FunctionEntry => What::FunctionEntry { function: name(0, Wanted::Function)?, csd: record.value(1)? },
            Kind::FunctionExit => What::FunctionExit { function: name(0, Wanted::Function)?, csd: record.value(1)? },
            Kind::IrqEntry => What::IrqEntry { irq: record.value(0)? as u32, name: names.add(record.text(1)?) },
            Kind::IrqExit => What::IrqExit { irq: record.value(0)? as u32 },
            Kind::Idle => {
                let state = record.value(0)? as u32;
                What::Idle { state: (state != u32::MAX).then_some(state) }
            }
            Kind::Switch => What::Switch { from: record.value(0)? as u32, to: record.value(1)? as u32 },
            Kind::Print | Kind::Bprint | Kind::Bputs | Kind::Raw | Kind::Other => return self.mark(record, names),
        })
    }

    /// Free text.
    fn mark(&mut self, record: &Record<'_>, names: &mut Names) -> Option<What> {
        let (text, function) = match record.format.kind {
            Kind::Print => (record.text(1)?.to_vec(), record.value(0)?),
            Kind::Bputs => {
                let string = record.value(1)?;
                (self.symbols.text(string, Wanted::Text), record.value(0)?)
            }
            Kind::Bprint => {
                let format = record.value(1)?;
                let text = match self.symbols.string(format) {
                    Some(format) => bprint::format(format, record.bytes(2)?, self.long, self.big, &self.symbols),
                    None => self.symbols.text(format, Wanted::Text),
                };
                (text, record.value(0)?)
            }
            // As the kernel prints it (`trace_raw_data`, kernel/trace/trace_output.c).
            _ => {
                let mut text = format!("# {:x} buf:", record.value(0)?);
                for byte in record.bytes(1)?.iter().take(RAW_BYTES) {
                    text.push_str(&format!(" {byte:02x}"));
                }
                return Some(What::Mark { function: Name::NONE, text: names.add(text.as_bytes()), user: true });
            }
        };
        let text = names.add(text.trim_ascii_end());
        let function = self.symbols.name(function, Wanted::Function, names);
        // The write calls of `trace_marker` (kernel/trace/trace.c).
        let user =
            ["tracing_mark_", "write_marker_to_buffer"].iter().any(|call| names.text(function).starts_with(call));
        Some(What::Mark { function: if user { Name::NONE } else { function }, text, user })
    }
}

/// A kernel bitmap: an array of its `long`s, CPU 0 in the lowest bit of the first. `None`: a CPU is beyond what a mask holds.
fn mask(bytes: &[u8], long: usize, big: bool) -> Option<Mask> {
    let mut words = [0; MOST_CPUS / 64];
    for (at, bytes) in bytes.chunks(long).enumerate() {
        let bit = at * long * 8;
        let value = number(bytes, big);
        match words.get_mut(bit / 64) {
            Some(word) => *word |= value << (bit % 64),
            None if value == 0 => {}
            None => return None,
        }
    }
    Some(Mask::from_words(words))
}

/// Bits of `common_flags` (`enum trace_flag_type`, include/linux/trace_events.h).
pub(super) mod flag {
    pub(in crate::dat) const IRQS_OFF: u64 = 0x01;
    /// `TRACE_FLAG_NEED_RESCHED_LAZY` since 6.13 and in RT; earlier an architecture that cannot tell whether interrupts are off,
    /// which arm64 never was.
    pub(in crate::dat) const RESCHED_LAZY: u64 = 0x02;
    pub(in crate::dat) const RESCHED: u64 = 0x04;
    pub(in crate::dat) const HARDIRQ: u64 = 0x08;
    pub(in crate::dat) const SOFTIRQ: u64 = 0x10;
    pub(in crate::dat) const PREEMPT_RESCHED: u64 = 0x20;
    pub(in crate::dat) const NMI: u64 = 0x40;
    pub(in crate::dat) const BH_OFF: u64 = 0x80;
}

/// The flags column as the kernel prints it (`trace_print_lat_fmt`, kernel/trace/trace_output.c): interrupts off, reschedule wanted,
/// context, preempt depth, migrate-disable depth. RT kernels with `common_preempt_lazy_count` print seven.
fn flags(record: &Record<'_>) -> [u8; 8] {
    let mut text = [0; 8];
    let format = &record.format;
    let Some((bits, depth)) = record.common(format.flags).zip(record.common(format.preempt)) else { return text };
    let lazy_count = record.common(format.lazy);
    let has = |flag| bits & flag != 0;
    let depth_digit = |depth: u64| if depth == 0 { b'.' } else { b"0123456789abcdef"[depth as usize & 15] };
    let irqs = match (has(flag::IRQS_OFF), has(flag::BH_OFF)) {
        (true, true) => b'D',
        (true, false) => b'd',
        (false, true) => b'b',
        (false, false) => b'.',
    };
    let lazy = has(flag::RESCHED_LAZY);
    let resched = match (has(flag::RESCHED), has(flag::PREEMPT_RESCHED), lazy && lazy_count.is_none()) {
        (true, true, true) => b'B',
        (true, true, false) => b'N',
        (false, true, true) => b'L',
        (true, false, true) => b'b',
        (true, false, false) => b'n',
        (false, false, true) => b'l',
        (false, true, false) => b'p',
        (false, false, false) => b'.',
    };
    let context = match (has(flag::NMI), has(flag::HARDIRQ), has(flag::SOFTIRQ)) {
        (true, true, _) => b'Z',
        (true, false, _) => b'z',
        (false, true, true) => b'H',
        (false, true, false) => b'h',
        (false, false, true) => b's',
        (false, false, false) => b'.',
    };
    let migrate = record.common(format.migrate).unwrap_or(depth >> 4 & 15).min(15);
    let (depth, migrate) = (depth_digit(depth & 15), depth_digit(migrate));
    match lazy_count {
        None => text[..5].copy_from_slice(&[irqs, resched, context, depth, migrate]),
        Some(count) => {
            let lazy = if lazy { b'L' } else { b'.' };
            text[..7].copy_from_slice(&[irqs, resched, lazy, context, depth, depth_digit(count.min(15)), migrate]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_is_longs_of_the_kernel() {
        let text = |bytes: &[u8], long, big| mask(bytes, long, big).map(|mask| mask.to_string());
        assert_eq!(text(&[2, 0, 0, 0, 0, 0, 0, 0x80], 8, false), Some("1,63".into()));
        assert_eq!(text(&[0, 0, 0, 2, 0, 0, 0, 1], 4, true), Some("1,32".into()));
        assert_eq!(text(&[0, 0, 0, 0, 0, 0, 0, 2], 8, true), Some("1".into()));
        assert_eq!(text(&[0; 100], 8, false), Some(String::new()));
        assert_eq!(text(&[255; 100], 8, false), None);
    }

    #[test]
    fn flags_are_the_kernels_letters() {
        let field = |at| Some(Field { at, size: 1, ..Field::default() });
        let mut format = Format {
            kind: Kind::Entry,
            flags: field(0),
            preempt: field(1),
            lazy: None,
            migrate: None,
            pid: None,
            fields: Default::default(),
        };
        let text = |format: Format, bytes: &[u8]| {
            let flags = flags(&Record { bytes, format, big: false });
            String::from_utf8_lossy(&flags).trim_end_matches('\0').to_owned()
        };
        for (bits, depth, expected) in [
            (0x00, 0x00, "....."),
            (0x01, 0x00, "d...."),
            (0x2D, 0x00, "dNh.."),
            (0x81, 0x21, "D..12"),
            (0x06, 0x00, ".b..."),
            (0x02, 0x00, ".l..."),
            (0x26, 0x00, ".B..."),
            (0x48, 0x0A, "..Za."),
            (0x18, 0x00, "..H.."),
        ] {
            assert_eq!(text(format, &[bits, depth]), expected);
        }
        format.lazy = field(2);
        assert_eq!(text(format, &[0x0B, 0x11, 2]), "d.Lh121");
        format.flags = None;
        assert_eq!(text(format, &[0x0B, 0x11, 2]), "");
    }
}
