//! Inputs that somebody made to do harm, or a broken machine left: what can be read is, the rest is refused by its name.

mod writer;

use std::convert::Infallible;
use std::io::Cursor;

use linux_trace::dat::{self, DatError};
use linux_trace::text::{self, NoMarks};
use linux_trace::{Event, Names, Tally, What};
use writer::{CALL, Value, Writer};

fn read(input: &[u8]) -> Tally {
    let ignore = |_: &Event, _: &mut Names| -> Result<(), Infallible> { Ok(()) };
    let Ok((_, tally)) = text::read(input, &NoMarks, &mut Names::new(), ignore);
    tally
}

/// A header that claims what cannot be is refused, and the message says which claim it was.
#[test]
fn a_claim_that_cannot_be_is_refused_by_its_name() {
    let mut writer = Writer::new(false, 8, 2);
    let record = writer.record("ipi_entry", 0, &[Value::Number(CALL)]);
    writer.event(1, 10, &record);
    let file = writer.v6();
    let place = |text: &[u8]| file.windows(text.len()).position(|bytes| bytes == text).unwrap() + text.len();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        dat::read(Cursor::new(file), &mut Names::new(), &mut |_, _| {}).map(drop).unwrap_err()
    };
    let huge = (1_u64 << 63).to_le_bytes();
    for (at, what) in [(place(b"header_page\0"), "header_page"), (place(b"header_event\0"), "header_event")] {
        let error = with(at, &huge);
        assert!(matches!(&error, DatError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{what} is a length of 9223372036854775808")), "{error}");
    }
    let cpus = place(b"7 task\n");
    let error = with(cpus, &(1_u32 << 31).to_le_bytes()).to_string();
    assert!(error.contains("the number of CPUs is 2147483648"), "{error}");
    // The other byte order: every number is one of the other end.
    let error = with(12, &[1]).to_string();
    assert!(error.contains("byte ") && error.contains("copy it again"), "{error}");
    let error = with(14, &u32::MAX.to_le_bytes()).to_string();
    assert!(error.contains("the page size is 4294967295"), "{error}");
}

/// Found by the fuzzer: the host sizes its tables by the greatest CPU, and no mask names one of these.
#[test]
fn a_cpu_beyond_what_a_mask_holds_gives_no_event() {
    let mut writer = Writer::new(false, 8, 601);
    for (cpu, to) in [(0, 511), (0, 512), (0, u64::from(u32::MAX)), (511, 0), (512, 0), (600, 0)] {
        let call = [Value::Number(to), Value::Number(0), Value::Number(0), Value::Number(1)];
        let record = writer.record("csd_queue_cpu", 7, &call);
        writer.event(cpu, 10, &record);
    }
    for file in [writer.v6(), writer.v7("none")] {
        let mut cpus = Vec::new();
        let mut keep = |event: Event, _: &mut Names| {
            let What::Queue { cpu, .. } = event.what else { panic!("{event:?}") };
            cpus.push((event.cpu, cpu));
        };
        let (header, tally) = dat::read(Cursor::new(file), &mut Names::new(), &mut keep).unwrap();
        assert_eq!((header.cpus, cpus), (601, vec![(0, 511), (511, 0)]));
        assert_eq!((tally.events, tally.unknown), (2, 4), "{tally:?}");
        let (_, why) = tally.first_unknown.unwrap();
        assert!(why.contains("CPU 512 is beyond the 512 that are read"), "{why}");
    }
}

#[test]
fn bytes_of_zero_are_text_like_any_other() {
    let line = b"            init-1       [003] d.h..     8.034540: ipi_entry: (Rescheduling interrupts)\n".as_slice();
    let mut zeros = vec![0; 5000];
    zeros.push(b'\n');
    let mut name = line.to_vec();
    name[5] = 0;
    let tally = read(&[line, &zeros, &name, line].concat());
    assert_eq!((tally.events, tally.unknown), (3, 1), "{tally:?}");
    // A page of zeros at the end, as a machine that lost its power leaves it.
    let tally = read(&[line, &[0; 4096]].concat());
    assert_eq!((tally.events, tally.unknown), (1, 1), "{tally:?}");
}
