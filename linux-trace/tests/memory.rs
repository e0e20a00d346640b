//! Memory stays bounded, however long an input is and whatever it claims.
//!
//! A process has one peak of memory, so this binary holds one test.

mod writer;

use std::convert::Infallible;
use std::io::{self, Cursor, Read, Write};

use linux_trace::text::{self, NoMarks, Told};
use linux_trace::{Event, Names, Tally, dat, input};
use writer::{CALL, Value, Writer};

/// A block again and again, so many bytes of it in all.
struct Endless<'a> {
    block: &'a [u8],
    at: usize,
    left: u64,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.block[self.at..];
        let count = buffer.len().min(rest.len()).min(self.left as usize);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at = (self.at + count) % self.block.len();
        self.left -= count as u64;
        Ok(count)
    }
}

/// The most memory that this process ever had, bytes (`VmHWM` of `/proc/self/status`, proc_pid_status(5)); `None`: not Linux.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn read(input: impl Read) -> (Told, Tally) {
    let ignore = |_: &Event, _: &mut Names| -> Result<(), Infallible> { Ok(()) };
    let Ok(read) = text::read(input, &NoMarks, &mut Names::new(), ignore);
    read
}

/// Bytes of lines: as many as debug builds read in seconds, and several times what may be kept.
const STREAM: u64 = 200 << 20;

/// What a reader may add to the peak.
const ROOM: u64 = 64 << 20;

#[test]
fn memory_stays_bounded_whatever_comes() {
    let lines = concat!(
        "            init-1       [003] d.h..     8.034540: ipi_entry: (Rescheduling interrupts)\n",
        "            init-1       [003] d.h..     8.034541: ipi_exit: (Rescheduling interrupts)\n",
        "            init-1       [003] d.h..     8.034542: softirq_entry: vec=7 [action=SCHED]\n",
    );
    let lines = lines.repeat(2000);
    let Some(before) = peak() else { return eprintln!("skipped: no /proc here") };

    // Many lines.
    let whole = STREAM / lines.len() as u64;
    let (_, tally) = read(Endless { block: lines.as_bytes(), at: 0, left: whole * lines.len() as u64 });
    assert_eq!((tally.events, tally.others, tally.unknown), (whole * 4000, whole * 2000, 0));

    // One line of a gigabyte, without an end, and of zeros.
    for byte in [b'x', 0] {
        let (_, tally) = read(Endless { block: &[byte; 1 << 16], at: 0, left: 1 << 30 });
        assert_eq!((tally.events, tally.unknown), (0, 1));
        assert!(tally.first_unknown.is_some_and(|(_, why)| why.contains("longer than a trace's lines")));
    }

    // A bomb: 256 MiB of one letter in two, and a trace behind them.
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file.reopen().unwrap(), flate2::Compression::fast());
    for _ in 0..256 {
        gzip.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    gzip.write_all(b"\n").unwrap();
    gzip.write_all(lines.as_bytes()).unwrap();
    gzip.finish().unwrap();
    assert!(file.as_file().metadata().unwrap().len() < 2 << 20);
    let (packing, bomb) = input::open(file.path()).unwrap();
    let (told, tally) = read(bomb);
    assert_eq!((packing, told.cut, tally.events, tally.unknown), (input::Packing::Gzip, None, 4000, 1));

    // Sizes of a trace.dat that are claims: each where a length, a place or a count stands.
    for file in [sample(false, 8).v6(), sample(true, 4).v7("none"), sample(false, 8).v7("zlib")] {
        for claim in [1 << 63, u64::MAX, 1 << 31, u64::from(u32::MAX), 255 << 20] {
            for at in (10..file.len().min(700)).step_by(3) {
                let mut file = file.clone();
                for (place, byte) in file[at..].iter_mut().zip(claim.to_le_bytes()) {
                    *place = byte;
                }
                // It may be refused or read; it must not take memory for what is not there.
                let _ = dat::read(Cursor::new(file), &mut Names::new(), &mut |_, _| {});
            }
        }
    }
    let grown = peak().unwrap() - before;
    println!("the peak grew by {} KiB", grown >> 10);
    assert!(grown < ROOM, "{grown} bytes more at the peak");
}

fn sample(big: bool, long: usize) -> Writer {
    let mut writer = Writer::new(big, long, 2);
    for cpu in 0..2 {
        let record = writer.record("ipi_entry", 0, &[Value::Number(CALL)]);
        writer.event(cpu, 10, &record);
    }
    writer
}
