//! Event formats: where the fields of a record stand, by the texts that the kernel itself gives (`events/*/*/format`).
//!
//! Nothing here is fixed but names: identifiers, offsets and sizes differ between builds of one kernel version (6.1-rt has one
//! more common field, and all others move). What the events print is not interpreted.

use super::bytes::{number, number_at};

/// Where a field stands in a record.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Field {
    pub(super) at: usize,
    /// Bytes; 0: to the record's end.
    pub(super) size: usize,
    pub(super) signed: bool,
    pub(super) place: Place,
}

/// What a field's bytes are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum Place {
    /// The value.
    #[default]
    Here,
    /// `__data_loc`: its offset in the record (low 16 bits) and its length (high 16 bits).
    There,
    /// `__rel_loc`: the same, counted from this field's end.
    Behind,
}

impl Field {
    /// A line such as `field:int common_pid; offset:4; size:4; signed:1;`: the field's name, and where it is.
    pub(super) fn parse(line: &str) -> Option<(&str, Field)> {
        let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
        let declaration = parts.next()?;
        let mut field = Field::default();
        for part in parts {
            match part.split_once(':') {
                Some(("offset", value)) => field.at = value.parse().ok().filter(|at| *at <= 0xFFFF)?,
                Some(("size", value)) => field.size = value.parse().ok().filter(|size| *size <= 0xFFFF)?,
                Some(("signed", value)) => field.signed = value == "1",
                _ => {}
            }
        }
        if declaration.starts_with("__data_loc") {
            field.place = Place::There;
        } else if declaration.starts_with("__rel_loc") {
            field.place = Place::Behind;
        }
        let name = declaration.rsplit([' ', '*']).next()?;
        Some((name.split('[').next()?, field))
    }

    /// Its value.
    #[inline]
    pub(super) fn get(self, record: &[u8], big: bool) -> Option<u64> {
        let value = number_at(record, self.at, self.size, big)?;
        Some(match self.signed {
            true => {
                let spare = 64 - self.size as u32 * 8;
                ((value << spare) as i64 >> spare) as u64
            }
            false => value,
        })
    }

    /// Its bytes, wherever they are.
    pub(super) fn bytes(self, record: &[u8], big: bool) -> Option<&[u8]> {
        let (at, len) = match self.place {
            Place::Here if self.size == 0 => return record.get(self.at..),
            Place::Here => (self.at, self.size),
            Place::There | Place::Behind => {
                let word = number_at(record, self.at, 4, big)?;
                let base = if self.place == Place::Behind { self.at + 4 } else { 0 };
                (base + (word & 0xFFFF) as usize, (word >> 16) as usize)
            }
        };
        record.get(at..at + len)
    }

    /// Its text, to the first zero byte.
    pub(super) fn text(self, record: &[u8], big: bool) -> Option<&[u8]> {
        let bytes = self.bytes(record, big)?;
        Some(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
    }
}

/// The events that are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Raise,
    Entry,
    Exit,
    SendCpu,
    SendMask,
    Queue,
    FunctionEntry,
    FunctionExit,
    IrqEntry,
    IrqExit,
    Idle,
    Switch,
    Print,
    Bprint,
    Bputs,
    Raw,
    /// Known to the file, and none of these.
    Other,
}

/// System, event, and its fields in the order in which [`Format::fields`] has them.
const KINDS: [(&str, &str, Kind, &[&str]); 16] = [
    ("ipi", "ipi_raise", Kind::Raise, &["target_cpus", "reason"]),
    ("ipi", "ipi_entry", Kind::Entry, &["reason"]),
    ("ipi", "ipi_exit", Kind::Exit, &["reason"]),
    ("ipi", "ipi_send_cpu", Kind::SendCpu, &["cpu", "callsite", "callback"]),
    ("ipi", "ipi_send_cpumask", Kind::SendMask, &["cpumask", "callsite", "callback"]),
    ("csd", "csd_queue_cpu", Kind::Queue, &["cpu", "callsite", "func", "csd"]),
    ("csd", "csd_function_entry", Kind::FunctionEntry, &["func", "csd"]),
    ("csd", "csd_function_exit", Kind::FunctionExit, &["func", "csd"]),
    ("irq", "irq_handler_entry", Kind::IrqEntry, &["irq", "name"]),
    ("irq", "irq_handler_exit", Kind::IrqExit, &["irq"]),
    ("power", "cpu_idle", Kind::Idle, &["state"]),
    ("sched", "sched_switch", Kind::Switch, &["prev_pid", "next_pid"]),
    ("ftrace", "print", Kind::Print, &["ip", "buf"]),
    ("ftrace", "bprint", Kind::Bprint, &["ip", "fmt", "buf"]),
    ("ftrace", "bputs", Kind::Bputs, &["ip", "str"]),
    ("ftrace", "raw_data", Kind::Raw, &["id", "buf"]),
];

/// One event's layout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Format {
    pub(super) kind: Kind,
    pub(super) flags: Option<Field>,
    pub(super) preempt: Option<Field>,
    /// `common_preempt_lazy_count` of RT kernels up to 6.1.
    pub(super) lazy: Option<Field>,
    /// `common_migrate_disable` of kernels that do not keep it in the preempt count.
    pub(super) migrate: Option<Field>,
    pub(super) pid: Option<Field>,
    pub(super) fields: [Field; 4],
}

/// All layouts of a file.
#[derive(Debug, Default)]
pub(super) struct Formats {
    /// By number.
    table: Vec<Option<Format>>,
    /// `common_type`, the field that numbers events: 2 bytes at the record's begin in every kernel so far.
    id: Field,
    /// Formats that could not be used, and why.
    pub(super) remarks: Vec<String>,
}

impl Formats {
    /// Takes a format's text.
    pub(super) fn add(&mut self, system: &str, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let line = |key| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let Some((name, id)) = line("name:").zip(line("ID:").and_then(|id| id.parse::<u16>().ok())) else {
            self.remark(format!("a format of system {system} without name or number"));
            return;
        };
        let fields: Vec<(&str, Field)> = text.lines().filter_map(Field::parse).collect();
        let find = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, field)| *field);
        let Some(number) = find("common_type").filter(|field| matches!(field.size, 1 | 2 | 4)) else {
            self.remark(format!("{system}:{name} has no common_type"));
            return;
        };
        if self.table.is_empty() {
            self.id = number;
        }
        let mut format = Format {
            kind: Kind::Other,
            flags: find("common_flags"),
            preempt: find("common_preempt_count"),
            lazy: find("common_preempt_lazy_count"),
            migrate: find("common_migrate_disable"),
            pid: find("common_pid"),
            fields: [Field::default(); 4],
        };
        if let Some((.., kind, wanted)) = KINDS.iter().find(|known| (known.0, known.1) == (system, name)) {
            format.kind = *kind;
            for (place, field) in format.fields.iter_mut().zip(*wanted) {
                match find(field) {
                    Some(found) => *place = found,
                    None => {
                        format.kind = Kind::Other;
                        self.remark(format!("{name} has no field `{field}`: these events are not read"));
                    }
                }
            }
        }
        let id = usize::from(id);
        if self.table.len() <= id {
            self.table.resize(id + 1, None);
        }
        if let Some(slot) = self.table.get_mut(id) {
            *slot = Some(format);
        }
    }

    fn remark(&mut self, text: String) {
        if self.remarks.len() < 32 {
            self.remarks.push(text);
        }
    }

    /// The layout of a record; `Err`: its number, which no format of the file has (`None`: the record is too short for one).
    #[inline]
    pub(super) fn of(&self, record: &[u8], big: bool) -> Result<&Format, Option<u64>> {
        let bytes = record.get(self.id.at..self.id.at + self.id.size).filter(|bytes| !bytes.is_empty()).ok_or(None)?;
        let id = number(bytes, big);
        self.table.get(id as usize).and_then(Option::as_ref).ok_or(Some(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name() {
        let line = "\tfield:__data_loc unsigned long[] target_cpus;\toffset:8;\tsize:4;\tsigned:0;";
        let field = Field { at: 8, size: 4, signed: false, place: Place::There };
        assert_eq!(Field::parse(line), Some(("target_cpus", field)));
        let line = "field:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;";
        assert_eq!(Field::parse(line).map(|(name, field)| (name, field.size)), Some(("prev_comm", 16)));
        let line = "field:const char *reason; offset:16; size:8; signed:0;";
        assert_eq!(Field::parse(line).map(|(name, field)| (name, field.at)), Some(("reason", 16)));
        assert_eq!(Field::parse("field:int x; offset:99999999; size:4;"), None);
        assert_eq!(Field::parse("print fmt: \"field:\""), None);
    }

    #[test]
    fn bytes_that_stand_elsewhere_are_found_or_refused() {
        let record = [0, 0, 0, 0, 8, 0, 3, 0, b'I', b'P', 0];
        let mut field = Field { at: 4, size: 4, signed: false, place: Place::There };
        assert_eq!(field.text(&record, false), Some(&b"IP"[..]));
        field.place = Place::Behind;
        assert_eq!(field.bytes(&record, false), None, "8 behind byte 8 is beyond the record");
        assert_eq!(Field { size: 4, signed: true, ..Field::default() }.get(&[255; 4], false), Some(u64::MAX));
    }

    #[test]
    fn a_kind_without_its_fields_is_not_read_and_said() {
        let mut formats = Formats::default();
        formats.add(
            "ipi",
            b"name: ipi_entry\nID: 7\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n",
        );
        assert_eq!(formats.of(&[7, 0], false).map(|format| format.kind), Ok(Kind::Other));
        assert_eq!(formats.of(&[8, 0], false), Err(Some(8)));
        assert_eq!(formats.of(&[7], false), Err(None));
        assert_eq!(formats.remarks, ["ipi_entry has no field `reason`: these events are not read"]);
    }
}
