//! Writes `trace.dat` files of any version, byte order and word size, for tests and for the benchmark.

#![allow(dead_code, reason = "tests and benchmark use different parts")]

/// Addresses that the files name.
pub const CALL: u64 = 0x1000;
pub const RESCHEDULE: u64 = 0x1020;
pub const FORMAT: u64 = 0x1040;
pub const TEXT: u64 = 0x1060;
/// `sender`, `handler` of a module, and the function behind `trace_marker`.
pub const SENDER: u64 = 0x8000_1000;
pub const HANDLER: u64 = 0x8000_2000;
pub const MARKER: u64 = 0x8000_3000;

const KALLSYMS: &str = "80001000 T sender\n80002000 t handler\t[mod]\n80003000 t tracing_mark_write\n80004000 T end\n";
const PRINTK: &str = "0x1000 : \"Function call interrupts\"\n0x1020 : \"Rescheduling interrupts\"\n\
    0x1040 : \"%d of %s by %ps\\n\"\n0x1060 : \"constant text\\n\"\n";

/// System, name, number, and fields: a declaration and its bytes; 0: the word's size, 1: open to the record's end.
type Declared = (&'static str, &'static str, u16, &'static [(&'static str, usize)]);

const EVENTS: [Declared; 16] = [
    ("ftrace", "print", 5, &[("unsigned long ip", 0), ("char buf[]", 1)]),
    ("ftrace", "bprint", 6, &[("unsigned long ip", 0), ("const char * fmt", 0), ("u32 buf[]", 1)]),
    ("ftrace", "bputs", 14, &[("unsigned long ip", 0), ("const char * str", 0)]),
    ("ftrace", "raw_data", 18, &[("unsigned int id", 4), ("char buf[]", 1)]),
    ("ipi", "ipi_raise", 229, &[("__data_loc unsigned long[] target_cpus", 4), ("const char * reason", 0)]),
    ("ipi", "ipi_entry", 230, &[("const char * reason", 0)]),
    ("ipi", "ipi_exit", 231, &[("const char * reason", 0)]),
    ("ipi", "ipi_send_cpu", 232, &[("unsigned int cpu", 4), ("void * callsite", 0), ("void * callback", 0)]),
    (
        "ipi",
        "ipi_send_cpumask",
        233,
        &[("__data_loc cpumask_t cpumask", 4), ("void * callsite", 0), ("void * callback", 0)],
    ),
    (
        "csd",
        "csd_queue_cpu",
        404,
        &[("unsigned int cpu", 4), ("void * callsite", 0), ("void * func", 0), ("void * csd", 0)],
    ),
    ("csd", "csd_function_entry", 405, &[("void * func", 0), ("void * csd", 0)]),
    ("csd", "csd_function_exit", 406, &[("void * func", 0), ("void * csd", 0)]),
    ("irq", "irq_handler_entry", 101, &[("int irq", 4), ("__data_loc char[] name", 4)]),
    ("irq", "irq_handler_exit", 102, &[("int irq", 4), ("int ret", 4)]),
    ("power", "cpu_idle", 300, &[("u32 state", 4), ("u32 cpu_id", 4)]),
    ("sched", "sched_wakeup", 301, &[("pid_t pid", 4)]),
];

/// A field's value.
pub enum Value<'a> {
    /// Of the field's size.
    Number(u64),
    /// Bytes that stand behind the record, or in its open end.
    Bytes(&'a [u8]),
    /// A bitmap that stands behind the record.
    Mask(u64),
}

/// One CPU's ring.
#[derive(Default, Clone)]
pub struct Ring {
    pages: Vec<u8>,
    page: Vec<u8>,
    t: u64,
    /// Of the page that is being written.
    missed: Option<Option<u64>>,
}

/// A file in the making.
#[derive(Clone)]
pub struct Writer {
    pub big: bool,
    pub long: usize,
    pub page_size: usize,
    pub rings: Vec<Ring>,
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Writer {
    pub fn new(big: bool, long: usize, cpus: usize) -> Writer {
        Writer { big, long, page_size: 4096, rings: vec![Ring::default(); cpus], options: Vec::new() }
    }

    pub fn put(&self, out: &mut Vec<u8>, value: u64, size: usize) {
        match self.big {
            true => out.extend_from_slice(&value.to_be_bytes()[8 - size..]),
            false => out.extend_from_slice(&value.to_le_bytes()[..size]),
        }
    }

    /// The declared size, offset by offset: natural alignment, as a compiler does.
    fn fields(&self, declared: &[(&'static str, usize)]) -> Vec<(&'static str, usize, usize)> {
        let mut at = 8_usize;
        let mut fields = Vec::new();
        for (name, size) in declared {
            let open = *size == 1;
            let size = if *size == 0 { self.long } else { *size };
            at = at.next_multiple_of(if open { 4 } else { size });
            fields.push((*name, at, if open { 0 } else { size }));
            at += if open { 0 } else { size };
        }
        fields
    }

    fn format(&self, event: usize) -> String {
        let (_, name, id, declared) = EVENTS[event];
        let mut text = format!(
            "name: {name}\nID: {id}\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n\
             \tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n\
             \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
        );
        for (field, at, size) in self.fields(declared) {
            text += &format!("\tfield:{field};\toffset:{at};\tsize:{size};\tsigned:0;\n");
        }
        text + "\nprint fmt: \"x\", 1\n"
    }

    /// A record's bytes.
    pub fn record(&self, name: &str, pid: u32, values: &[Value<'_>]) -> Vec<u8> {
        let (.., id, declared) = EVENTS.into_iter().find(|event| event.1 == name).unwrap();
        let fields = self.fields(declared);
        let mut bytes = Vec::new();
        self.put(&mut bytes, id.into(), 2);
        bytes.extend_from_slice(&[0x09, 0x01]);
        self.put(&mut bytes, pid.into(), 4);
        let mut behind = fields.last().map_or(8, |(_, at, size)| at + size);
        let mut tail = Vec::new();
        for ((_, at, size), value) in fields.into_iter().zip(values) {
            bytes.resize(at, 0);
            match value {
                Value::Number(value) => self.put(&mut bytes, *value, size),
                Value::Bytes(open) if size == 0 => bytes.extend_from_slice(open),
                Value::Bytes(text) => {
                    self.put(&mut bytes, (text.len() << 16 | behind) as u64, 4);
                    tail.extend_from_slice(text);
                    behind += text.len();
                }
                Value::Mask(cpus) => {
                    self.put(&mut bytes, (8 << 16 | behind) as u64, 4);
                    for word in 0..8 / self.long {
                        let value = if self.long == 8 { *cpus } else { cpus >> (32 * word) & 0xFFFF_FFFF };
                        self.put(&mut tail, value, self.long);
                    }
                    behind += 8;
                }
            }
        }
        bytes.extend_from_slice(&tail);
        bytes
    }

    fn head(&self, out: &mut Vec<u8>, kind: u32, delta: u64) {
        let delta = delta as u32 & ((1 << 27) - 1);
        self.put(out, u64::from(if self.big { kind << 27 | delta } else { delta << 5 | kind }), 4);
    }

    /// Puts an event into a CPU's ring, on a new page where it does not fit.
    pub fn event(&mut self, cpu: usize, t: u64, record: &[u8]) {
        let room = self.page_size - 8 - self.long - 8;
        let mut ring = std::mem::take(&mut self.rings[cpu]);
        if ring.page.len() + record.len() + 20 > room {
            self.close(&mut ring);
        }
        if ring.page.is_empty() {
            ring.page.resize(8 + self.long, 0);
            let mut stamp = Vec::new();
            self.put(&mut stamp, t, 8);
            ring.page[..8].copy_from_slice(&stamp);
            ring.t = t;
        }
        let mut delta = t - ring.t;
        ring.t = t;
        if delta >> 27 != 0 {
            self.head(&mut ring.page, 30, delta);
            self.put(&mut ring.page, delta >> 27, 4);
            delta = 0;
        }
        let len = record.len().next_multiple_of(4);
        if len / 4 <= 28 {
            self.head(&mut ring.page, len as u32 / 4, delta);
        } else {
            self.head(&mut ring.page, 0, delta);
            self.put(&mut ring.page, len as u64 + 4, 4);
        }
        let end = ring.page.len() + len;
        ring.page.extend_from_slice(record);
        ring.page.resize(end, 0);
        self.rings[cpu] = ring;
    }

    /// A record that is no event: its kind, the time in its head, and the words that follow.
    pub fn odd(&mut self, cpu: usize, kind: u32, delta: u64, words: &[u32]) {
        let mut page = std::mem::take(&mut self.rings[cpu].page);
        self.head(&mut page, kind, delta);
        for word in words {
            self.put(&mut page, u64::from(*word), 4);
        }
        self.rings[cpu].page = page;
    }

    /// The time that the next event's delta counts from.
    pub fn set_time(&mut self, cpu: usize, t: u64) {
        self.rings[cpu].t = t;
    }

    /// Ends a CPU's page; the next says that events are missing in front of it.
    pub fn missed(&mut self, cpu: usize, count: Option<u64>) {
        let mut ring = std::mem::take(&mut self.rings[cpu]);
        self.close(&mut ring);
        ring.missed = Some(count);
        self.rings[cpu] = ring;
    }

    fn close(&self, ring: &mut Ring) {
        if ring.page.is_empty() {
            return;
        }
        let len = (ring.page.len() - 8 - self.long) as u64;
        let mut commit = Vec::new();
        let flags = match ring.missed.take() {
            None => 0,
            Some(None) => 1 << 31,
            Some(Some(count)) => {
                let mut stored = Vec::new();
                self.put(&mut stored, count, self.long);
                ring.page.extend_from_slice(&stored);
                3 << 30
            }
        };
        self.put(&mut commit, len | flags, self.long);
        ring.page[8..8 + self.long].copy_from_slice(&commit);
        ring.page.resize(self.page_size, 0);
        ring.pages.append(&mut ring.page);
    }

    fn data(&self) -> Vec<Vec<u8>> {
        let close = |ring: &Ring| {
            let mut ring = ring.clone();
            self.close(&mut ring);
            ring.pages
        };
        self.rings.iter().map(close).collect()
    }

    fn sized(&self, out: &mut Vec<u8>, text: &[u8], size: usize) {
        self.put(out, text.len() as u64, size);
        out.extend_from_slice(text);
    }

    fn initial(&self, version: &str) -> Vec<u8> {
        let mut out = b"\x17\x08\x44tracing".to_vec();
        out.extend_from_slice(version.as_bytes());
        out.extend_from_slice(&[0, u8::from(self.big), 8]);
        self.put(&mut out, self.page_size as u64, 4);
        out
    }

    fn header_info(&self) -> Vec<u8> {
        let (long, data) = (self.long, 8 + self.long);
        let page = format!(
            "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
             \tfield: local_t commit;\toffset:8;\tsize:{long};\tsigned:1;\n\
             \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
             \tfield: char data;\toffset:{data};\tsize:{};\tsigned:1;\n",
            self.page_size - data
        );
        let mut out = b"header_page\0".to_vec();
        self.sized(&mut out, page.as_bytes(), 8);
        out.extend_from_slice(b"header_event\0");
        self.sized(&mut out, b"# compressed entry header\n", 8);
        out
    }

    fn ftrace_events(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out, 4, 4);
        for event in 0..4 {
            self.sized(&mut out, self.format(event).as_bytes(), 8);
        }
        out
    }

    fn event_formats(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out, EVENTS.len() as u64 - 4, 4);
        for (event, (system, ..)) in EVENTS.iter().enumerate().skip(4) {
            out.extend_from_slice(system.as_bytes());
            out.push(0);
            self.put(&mut out, 1, 4);
            self.sized(&mut out, self.format(event).as_bytes(), 8);
        }
        out
    }

    /// Version 6.
    pub fn v6(&self) -> Vec<u8> {
        let mut out = self.initial("6");
        out.append(&mut self.header_info());
        out.append(&mut self.ftrace_events());
        out.append(&mut self.event_formats());
        self.sized(&mut out, KALLSYMS.as_bytes(), 4);
        self.sized(&mut out, PRINTK.as_bytes(), 4);
        self.sized(&mut out, b"7 task\n", 8);
        self.put(&mut out, self.rings.len() as u64, 4);
        out.extend_from_slice(b"options  \0");
        for (id, value) in &self.options {
            self.put(&mut out, (*id).into(), 2);
            self.sized(&mut out, value, 4);
        }
        self.put(&mut out, 0, 2);
        out.extend_from_slice(b"flyrecord\0");
        let data = self.data();
        let mut at = (out.len() + data.len() * 16).next_multiple_of(self.page_size);
        let begin = at;
        for data in &data {
            self.put(&mut out, at as u64, 8);
            self.put(&mut out, data.len() as u64, 8);
            at += data.len();
        }
        out.resize(begin, 0);
        out.extend(data.into_iter().flatten());
        out
    }

    /// Version 7; `packing` is `none`, `zlib` or `zstd`. Chunks are of two pages.
    pub fn v7(&self, packing: &str) -> Vec<u8> {
        let pack = |bytes: &[u8]| match packing {
            "zlib" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, bytes).unwrap();
                encoder.finish().unwrap()
            }
            _ => zstd::bulk::compress(bytes, 1).unwrap(),
        };
        let packed = packing != "none";
        let mut out = self.initial("7");
        out.extend_from_slice(packing.as_bytes());
        out.extend_from_slice(b"\x001.0\0");
        let options_at = out.len();
        out.resize(options_at + 8, 0);
        let mut options = Vec::new();
        let text = |text: &[u8], size| {
            let mut out = Vec::new();
            self.sized(&mut out, text, size);
            out
        };
        for (id, section) in [
            (16, self.header_info()),
            (17, self.ftrace_events()),
            (18, self.event_formats()),
            (19, text(KALLSYMS.as_bytes(), 4)),
            (20, text(PRINTK.as_bytes(), 4)),
            (21, text(b"7 task\n", 8)),
        ] {
            let mut at = Vec::new();
            self.put(&mut at, out.len() as u64, 8);
            options.push((id, at));
            self.section(&mut out, id, packed, &section, &pack);
        }
        options.extend(self.options.iter().cloned());
        // Data: the section's head, then every CPU's at a page's begin.
        let mut buffer = Vec::new();
        self.put(&mut buffer, out.len() as u64, 8);
        buffer.extend_from_slice(b"\0mono\0");
        self.put(&mut buffer, self.page_size as u64, 4);
        self.put(&mut buffer, self.rings.len() as u64, 4);
        self.put(&mut out, 3, 2);
        self.put(&mut out, packed.into(), 2);
        self.put(&mut out, 0, 4);
        self.put(&mut out, 0, 8);
        for (cpu, data) in self.data().into_iter().enumerate() {
            out.resize(out.len().next_multiple_of(self.page_size), 0);
            let begin = out.len();
            self.put(&mut buffer, cpu as u64, 4);
            self.put(&mut buffer, begin as u64, 8);
            if packed {
                self.put(&mut out, data.len().div_ceil(2 * self.page_size) as u64, 4);
                for chunk in data.chunks(2 * self.page_size) {
                    let packed = pack(chunk);
                    self.put(&mut out, packed.len() as u64, 4);
                    self.put(&mut out, chunk.len() as u64, 4);
                    out.extend_from_slice(&packed);
                }
                self.put(&mut buffer, (out.len() - begin - 4) as u64, 8);
            } else {
                self.put(&mut buffer, data.len() as u64, 8);
                out.extend_from_slice(&data);
            }
        }
        options.push((3, buffer));
        // Two sections of options, as trace-cmd writes them.
        let last = options.split_off(options.len() - 1);
        let mut next = 0;
        for part in [last, options] {
            let mut bytes = Vec::new();
            for (id, value) in part {
                self.put(&mut bytes, id.into(), 2);
                self.sized(&mut bytes, &value, 4);
            }
            self.put(&mut bytes, 0, 2);
            self.put(&mut bytes, 8, 4);
            self.put(&mut bytes, next, 8);
            next = out.len() as u64;
            self.section(&mut out, 0, false, &bytes, &pack);
        }
        let mut at = Vec::new();
        self.put(&mut at, next, 8);
        out[options_at..options_at + 8].copy_from_slice(&at);
        out
    }

    fn section(&self, out: &mut Vec<u8>, id: u16, packed: bool, bytes: &[u8], pack: &dyn Fn(&[u8]) -> Vec<u8>) {
        self.put(out, id.into(), 2);
        self.put(out, packed.into(), 2);
        self.put(out, 0, 4);
        if !packed {
            return self.sized(out, bytes, 8);
        }
        let packed = pack(bytes);
        self.put(out, packed.len() as u64 + 8, 8);
        self.put(out, packed.len() as u64, 4);
        self.put(out, bytes.len() as u64, 4);
        out.extend_from_slice(&packed);
    }
}

/// IPIs round the CPUs, six events each: the rings that a capture of synchronous calls has.
pub fn calls(writer: &mut Writer, count: usize) {
    let cpus = writer.rings.len();
    let name = Value::Number;
    for call in 0..count {
        let (from, to) = (call % cpus, (call + 1) % cpus);
        let (t, csd) = (1000 + call as u64 * 3000, name(0x9000_0000 + to as u64 * 64));
        let queue = [name(to as u64), name(SENDER + 0x54), name(HANDLER), csd];
        let record = writer.record("csd_queue_cpu", 7, &queue);
        writer.event(from, t, &record);
        let record = writer.record("ipi_raise", 7, &[Value::Mask(1 << (to % 64)), name(CALL)]);
        writer.event(from, t + 100, &record);
        let record = writer.record("ipi_entry", 0, &[name(CALL)]);
        writer.event(to, t + 900, &record);
        let called = [name(HANDLER), name(0x9000_0000 + to as u64 * 64)];
        let record = writer.record("csd_function_entry", 0, &called);
        writer.event(to, t + 1000, &record);
        let record = writer.record("csd_function_exit", 0, &called);
        writer.event(to, t + 1100, &record);
        let record = writer.record("ipi_exit", 0, &[name(CALL)]);
        writer.event(to, t + 1200, &record);
    }
}
