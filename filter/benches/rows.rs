//! How many rows a filter is asked of, rows/s on one core.
//!
//! `cargo bench -p filter`. Rows lie in memory (32 bytes each, 64 Ki of them: a second-level cache holds them), so that
//! what is measured is the filter, not the source. The best of several repetitions is told: the machine may be busy.

use std::hint::black_box;
use std::time::Instant;

use filter::{Clock, Cpus, FieldId, Filter, Row, Schema};

const ROWS: usize = 1 << 16;
const ROUNDS: usize = 64;
const REPETITIONS: usize = 15;

/// The goal for the first filter, rows/s.
const GOAL: f64 = 50e6;

struct Ipi {
    latency: u64,
    callback: &'static str,
    target: u32,
    sender: u32,
}

const TARGET: FieldId = FieldId(0);
const SENDER: FieldId = FieldId(1);
const LATENCY: FieldId = FieldId(4);
const CALLBACK: FieldId = FieldId(10);

impl Row for Ipi {
    #[inline]
    fn cpus(&self, field: FieldId) -> Cpus<'_> {
        match field {
            TARGET => Cpus::One(self.target),
            SENDER => Cpus::One(self.sender),
            _ => Cpus::Unknown,
        }
    }

    #[inline]
    fn number(&self, field: FieldId) -> Option<u64> {
        (field == LATENCY).then_some(self.latency)
    }

    #[inline]
    fn text(&self, field: FieldId) -> Option<&str> {
        (field == CALLBACK).then_some(self.callback)
    }
}

fn main() {
    let schema = Schema::ipi(Clock::Ns);
    for (name, id) in [("target", TARGET), ("sender", SENDER), ("latency", LATENCY), ("callback", CALLBACK)] {
        assert_eq!(schema.find(name), Some(id), "{name}");
    }
    // xorshift64: rows in no order that a branch predictor could learn.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let rows: Vec<Ipi> = (0..ROWS)
        .map(|_| Ipi {
            latency: random() % 20_000,
            callback: ["drain_local+0x0/0x48", "flush_tlb_func+0x0/0x1c0"][random() as usize % 2],
            target: random() as u32 % 8,
            sender: random() as u32 % 8,
        })
        .collect();
    let goal = "target & CPUS{4} && latency > 10us";
    for text in [
        goal,
        "latency > 10us",
        "!(pair == 0->4) && (latency in 5us..15us || target & CPUS{0-3})",
        "callback ~ \"drain*\"",
        "callback == flush_tlb_func",
    ] {
        let Ok(filter) = Filter::parse(text, &schema) else { panic!("{text}") };
        let mut best = 0.0_f64;
        let mut picked = 0;
        for _ in 0..REPETITIONS {
            let begin = Instant::now();
            picked =
                (0..ROUNDS).map(|_| black_box(&rows).iter().filter(|row| filter.picks(*row)).count()).sum::<usize>();
            best = best.max((ROWS * ROUNDS) as f64 / begin.elapsed().as_secs_f64());
        }
        let share = 100.0 * picked as f64 / (ROWS * ROUNDS) as f64;
        let told = if text == goal { format!(", goal {:.0} M", GOAL / 1e6) } else { String::new() };
        println!("{:7.1} M rows/s  {text}  (picks {share:.1} %{told})", best / 1e6);
    }
}
