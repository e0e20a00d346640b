//! How fast ftrace's text becomes events: `cargo bench -p linux-trace --bench text`.
//!
//! The text is what a kernel of today prints for synchronous calls, seven events a call, in the shares that real captures have. A
//! block of it is read again and again: as many bytes as a file of ten million events has, without the file. Times are of the wall
//! clock: on a machine that does other work, the lowest of several runs counts.

use std::convert::Infallible;
use std::io::{self, Read};
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use linux_trace::{Event, Names, text};

/// Calls of a block.
const CALLS: u64 = 20_000;

/// Events of a call.
const EVENTS: u64 = 7;

/// Events that are read in one go.
const ALL: u64 = 10_000_000;

fn block(trace_cmd: bool) -> Vec<u8> {
    let mut out = String::new();
    let mut t = 1_000_000_000u64;
    for call in 0..CALLS {
        let (from, to) = (call % 8, (call * 5 + 3) % 8);
        let mut event = |cpu: u64, name: &str, arguments: &str| {
            t += 1234;
            let (seconds, rest) = (t / 1_000_000_000, t % 1_000_000_000);
            let line = match trace_cmd {
                true => {
                    let name = format!("{name}:");
                    format!(
                        "{:>16}-{:<5} [{cpu:03}] {seconds:>5}.{rest:09}: {name:<20} {arguments}\n",
                        "worker",
                        300 + cpu
                    )
                }
                false => format!(
                    "{:>16}-{:<7} [{cpu:03}] d.h.. {seconds:>5}.{:06}: {name}: {arguments}\n",
                    "worker",
                    300 + cpu,
                    rest / 1000
                ),
            };
            out.push_str(&line);
        };
        let csd = 0xffff_0966_ffb6_0000 + 64 * (8 * from + to);
        let site = "callsite=generic_exec_single+0x54/0x178";
        event(from, "csd_queue_cpu", &format!("cpu={to} {site} func=__perf_event_read csd={csd:016x}"));
        let callback = "callback=generic_smp_call_function_single_interrupt+0x0/0x30";
        event(from, "ipi_send_cpu", &format!("cpu={to} {site} {callback}"));
        event(from, "ipi_raise", &format!("target_mask=00000000,{:08x} (Function call interrupts)", 1 << to));
        event(to, "ipi_entry", "(Function call interrupts)");
        event(to, "csd_function_entry", &format!("func=__perf_event_read, csd={csd:016x}"));
        event(to, "csd_function_exit", &format!("func=__perf_event_read, csd={csd:016x}"));
        event(to, "ipi_exit", "(Function call interrupts)");
    }
    out.into_bytes()
}

/// A block again and again.
struct Again<'a> {
    block: &'a [u8],
    at: usize,
    left: u64,
}

impl Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            if self.left == 0 {
                return Ok(0);
            }
            (self.at, self.left) = (0, self.left - 1);
        }
        let count = buffer.len().min(self.block.len() - self.at);
        buffer[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("text");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(12));
    let rounds = ALL.div_ceil(EVENTS * CALLS);
    let events = rounds * EVENTS * CALLS;
    group.throughput(Throughput::Elements(events));
    for (what, trace_cmd) in [("kernel", false), ("trace-cmd", true)] {
        let block = block(trace_cmd);
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                let input = Again { block: &block, at: 0, left: rounds - 1 };
                let mut sum = 0;
                let sink = |event: &Event, _: &mut Names| -> Result<(), Infallible> {
                    sum ^= event.t;
                    Ok(())
                };
                let Ok((_, tally)) = text::read(input, &text::NoMarks, &mut Names::new(), sink);
                assert_eq!((tally.events, tally.unknown), (events, 0), "{:?}", tally.first_unknown);
                sum
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
