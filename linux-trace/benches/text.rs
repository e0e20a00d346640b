//! How fast ftrace's text becomes events: `cargo bench -p linux-trace --bench text [-- MILLIONS]`.
//!
//! The text is what a kernel of today prints for synchronous calls, seven events a call, in the shares that real captures have. A
//! block of it is read again and again: as many bytes as a file of ten million events has, without the file.

use std::io::{self, Read};
use std::time::Instant;

use linux_trace::{Names, text};

/// Calls of a block.
const CALLS: u64 = 20_000;

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

fn main() {
    let millions: u64 = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(10);
    for (what, trace_cmd) in [("kernel", false), ("trace-cmd -t", true)] {
        let block = block(trace_cmd);
        let rounds = (millions * 1_000_000).div_ceil(7 * CALLS);
        let (mut best, mut events, mut sum) = (f64::INFINITY, 0, 0);
        for _ in 0..3 {
            let begin = Instant::now();
            let input = Again { block: &block, at: 0, left: rounds - 1 };
            let sink = |event: &linux_trace::Event, _: &mut Names| -> Result<(), std::convert::Infallible> {
                sum ^= event.t;
                Ok(())
            };
            let Ok((_, tally)) = text::read(input, &text::NoMarks, &mut Names::new(), sink);
            best = best.min(begin.elapsed().as_secs_f64());
            events = tally.events;
            assert_eq!(tally.unknown, 0, "{:?}", tally.first_unknown);
        }
        let bytes = rounds * block.len() as u64;
        println!(
            "{what:12}: {events} events, {:.0} MB, {best:.3} s, {:.1} M events/s, {:.0} MB/s ({sum:x})",
            bytes as f64 / 1e6,
            events as f64 / best / 1e6,
            bytes as f64 / best / 1e6
        );
    }
}
