//! How fast a live lane is drained: copy, guard and check of numbers, on one core, records/s.
//!
//! `cargo bench -p trace-ring --bench drain`. The region is memory of this process, full of records; each round the writer
//! comes round the ring once more (which is not timed) and the reader drains it (which is), as `Writer::Live`. Two sizes of
//! lane: one that fits a second-level cache, and one that comes from memory, which is what a long run looks like.
//!
//! The copy out of the region is the source's, and part of the figure: here a plain memcpy, as from a mapped file.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use trace_ring::reader::{Drained, LaneReader, RegionSource, Writer};
use trace_ring::record::{Event, Kind, RECORD_BYTES};

/// Measured time of one repetition, and how many there are.
const REPETITION: Duration = Duration::from_millis(300);
const REPETITIONS: usize = 7;

/// What docs and design ask for, records/s.
const GOAL: f64 = 50e6;

/// A lane in memory whose writer is part of this program; the head lies behind the records.
struct Lane {
    bytes: Vec<u8>,
    head: u64,
}

impl Lane {
    fn new(log2: u32) -> Self {
        Lane { bytes: vec![0; (RECORD_BYTES as usize) << log2], head: 0 }
    }

    fn capacity(&self) -> u64 {
        self.bytes.len() as u64 / RECORD_BYTES
    }

    /// Appends `count` records, over the oldest.
    fn write(&mut self, count: u64) {
        for index in self.head..self.head + count {
            let event = Event {
                t: index * 60,
                kind: Kind::Send,
                flags: 0,
                peer: 3,
                msg: index as u32,
                intid: 1,
                extra: 0,
                arg: 17,
            };
            let slot = (index % self.capacity() * RECORD_BYTES) as usize;
            for (chunk, word) in
                self.bytes[slot..slot + RECORD_BYTES as usize].chunks_exact_mut(8).zip(event.words(index))
            {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
        }
        self.head += count;
    }

    fn end(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl RegionSource for Lane {
    type Error = Infallible;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Infallible> {
        buffer.copy_from_slice(&black_box(&self.bytes)[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, Infallible> {
        // Behind the records: the head, then the count of dropped records, of which there are none.
        Ok(black_box(if offset == self.end() { self.head } else { 0 }))
    }
}

/// Records/s of one repetition.
fn repetition(lane: &mut Lane, reader: &mut LaneReader, least: Duration) -> f64 {
    let (mut spent, mut records) = (Duration::ZERO, 0);
    // Two less than the lane holds: all of it is accepted, none is lost to the guard.
    let batch = lane.capacity() - 2;
    loop {
        lane.write(batch);
        let mut handed_on = 0;
        let start = Instant::now();
        let Ok(()) = reader.drain(lane, Writer::Live, |drained| match drained {
            Drained::Records { bytes, .. } => handed_on += black_box(bytes).len() as u64 / RECORD_BYTES,
            lost @ Drained::Lost { .. } => panic!("nothing can be lost here, but: {lost:?}"),
        }) else {
            unreachable!("this memory does not fail")
        };
        spent += start.elapsed();
        assert_eq!(handed_on, batch);
        records += handed_on;
        if spent >= least {
            return records as f64 / spent.as_secs_f64();
        }
    }
}

fn main() {
    // `cargo bench` passes --bench; `cargo test --all-targets` runs this too, and must not wait for a measurement.
    let (least, repetitions) = if std::env::args().any(|argument| argument == "--bench") {
        (REPETITION, REPETITIONS)
    } else {
        (Duration::ZERO, 1)
    };
    println!("{:>12} {:>14} {:>14} {:>14}  M records/s, goal {}", "lane records", "min", "median", "max", GOAL / 1e6);
    for log2 in [12, 20] {
        let mut lane = Lane::new(log2);
        let mut reader = LaneReader::new(0, log2, lane.end(), lane.end() + 8);
        repetition(&mut lane, &mut reader, Duration::ZERO); // the first round pays for the pages
        let mut rates: Vec<f64> = (0..repetitions).map(|_| repetition(&mut lane, &mut reader, least)).collect();
        rates.sort_by(f64::total_cmp);
        let [min, median, max] = [rates[0], rates[rates.len() / 2], rates[rates.len() - 1]].map(|rate| rate / 1e6);
        println!("{:>12} {min:>14.1} {median:>14.1} {max:>14.1}", lane.capacity());
    }
}
