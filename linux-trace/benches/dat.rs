//! How fast a `trace.dat` becomes events: `cargo bench -p linux-trace --bench dat [-- CALLS]`.

#[path = "../tests/writer/mod.rs"]
mod writer;

use std::io::Cursor;
use std::time::Instant;

use linux_trace::{Names, dat};

fn main() {
    let calls = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(500_000);
    for cpus in [4, 64] {
        let mut writer = writer::Writer::new(false, 8, cpus);
        writer::calls(&mut writer, calls);
        for (what, file) in [("v6", writer.v6()), ("v7 zstd", writer.v7("zstd")), ("v7 zlib", writer.v7("zlib"))] {
            let mut best = f64::INFINITY;
            let mut sum = 0;
            let mut events = 0;
            for _ in 0..5 {
                let begin = Instant::now();
                let mut names = Names::new();
                let read = dat::read(Cursor::new(&file), &mut names, &mut |event, _| sum ^= event.t);
                best = best.min(begin.elapsed().as_secs_f64());
                events = read.map_or(0, |(_, tally)| tally.events);
            }
            let rate = events as f64 / best / 1e6;
            let size = file.len() as f64 / 1e6;
            println!(
                "{cpus:3} CPUs, {what:8}: {events} events, {size:.0} MB, {best:.3} s, {rate:.1} M events/s ({sum:x})"
            );
        }
    }
}
