//! Any bytes as a `trace.dat`: no panic, events that are legal, and work and memory in proportion to the input.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use linux_trace::{Event, Names, What, dat, mask};

fuzz_target!(|data: &[u8]| {
    let read = || {
        let (mut names, mut given, mut lost, mut sum) = (Names::new(), 0_u64, 0_u64, 0_u64);
        let mut take = |event: Event, names: &mut Names| {
            assert!(usize::from(event.cpu) < mask::MOST_CPUS && (event.comm.0 as usize) < names.iter().len());
            if let What::SendCpu { cpu, .. } | What::Queue { cpu, .. } = event.what {
                assert!(usize::from(cpu) < mask::MOST_CPUS);
            }
            given += 1;
            lost += u64::from(matches!(event.what, What::Lost { .. }));
            sum = sum.rotate_left(1) ^ event.t;
        };
        let read = dat::read(Cursor::new(data), &mut names, &mut take);
        (read.map_err(|error| error.to_string()), given, lost, sum)
    };
    let (result, given, lost, sum) = read();
    if let Ok((_, tally)) = &result {
        assert_eq!((tally.events, tally.gaps), (given, lost));
    }
    assert!(read() == (result, given, lost, sum), "the same file gives the same events");
});
