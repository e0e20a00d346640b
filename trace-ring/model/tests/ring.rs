//! The ring under the model checker: the shipped writer and the shipped reader, in every order that memory allows.
//!
//! `LaneWriter`, `LaneReader`, `Slots` and the two seams are trace-ring's own source files, built with loom's atomics. What
//! the models add is a memory: a [`Lane`] of loom atomics, and a [`Wires`] that turns them into bytes as a `RegionSource`
//! must, each word on its own, an Acquire fence after each read. loom then runs every interleaving, and answers every
//! relaxed load with every store that the memory model still allows, old ones too: that is what a guard is for.
//!
//! A model that can't fail proves nothing. So the same models run with a guard of one, with a writer that publishes by a
//! store-release instead of barrier and store, and with one that has no barrier: each must be caught.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Most;

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;
use trace_ring_under_loom::plan::Policy;
use trace_ring_under_loom::reader::{Account, Drained, GUARD_RECORDS, LaneReader, Loss, RegionSource, Writer, records};
use trace_ring_under_loom::record::{Event, Kind, RECORD_BYTES};
use trace_ring_under_loom::sync::{Slot, Slots, store_record};
use trace_ring_under_loom::writer::LaneWriter;

/// Where the head and the dropped word lie in the address space of [`Wires`]; records begin at 0.
const HEAD: u64 = 1 << 20;
const DROPPED: u64 = HEAD + 8;

/// One lane in the modelled memory.
struct Lane {
    slots: Vec<Slot>,
    head: AtomicU64,
    dropped: AtomicU64,
}

impl Lane {
    fn new(log2: u32) -> Arc<Self> {
        let slots = (0..1 << log2).map(|_| Slot::zeroed()).collect();
        Arc::new(Lane { slots, head: AtomicU64::new(0), dropped: AtomicU64::new(0) })
    }
}

/// The bus between reader and lane: words are read one by one, or in halves, in program order from one read to the next.
struct Wires<'a> {
    lane: &'a Lane,
    narrow: bool,
}

impl Wires<'_> {
    /// A word as a bus of 32 bits finds it: two reads that may see two stores.
    fn load(&self, cell: &AtomicU64) -> u64 {
        let low = cell.load(Ordering::Relaxed);
        let high = if self.narrow { cell.load(Ordering::Relaxed) } else { low };
        low & 0xFFFF_FFFF | high & !0xFFFF_FFFF
    }
}

impl RegionSource for Wires<'_> {
    type Error = Infallible;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Infallible> {
        for (chunk, at) in buffer.chunks_exact_mut(8).zip((offset..).step_by(8)) {
            let slot = &self.lane.slots[(at / RECORD_BYTES) as usize];
            let word = self.load(&slot.0[(at % RECORD_BYTES / 8) as usize]);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        fence(Ordering::Acquire); // pairs with the fence in publish_barrier
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, Infallible> {
        let word = match offset {
            HEAD => self.lane.head.load(Ordering::Relaxed),
            DROPPED => self.lane.dropped.load(Ordering::Relaxed),
            _ => unreachable!("the reader asked for a word at {offset}"),
        };
        fence(Ordering::Acquire); // pairs with the fence in publish_barrier
        Ok(word)
    }
}

/// What record `index` says. Every half of every word differs from that of every other record, so that a record mixed of
/// two is known even where both copies of its number are right.
fn event(index: u64) -> Event {
    let byte = index as u8;
    let (t, msg, arg) = (index << 32 | (1000 + index), 2000 + index as u32, !(index << 32 | index));
    Event { t, kind: Kind::Mark, flags: byte, peer: index as u16, msg, intid: byte, extra: byte, arg }
}

/// Everything a reader handed on, checked as it comes.
#[derive(Default)]
struct Seen {
    next: u64,
    account: Account,
}

impl Seen {
    fn take(&mut self, drained: Drained<'_>) {
        match drained {
            Drained::Records { first, bytes } => {
                assert_eq!(self.account.dropped, 0, "a record after what was dropped");
                assert_eq!(first, self.next, "records out of order, or twice");
                let count = bytes.len() as u64 / RECORD_BYTES;
                let mut decoded = 0;
                for record in records(first, bytes) {
                    assert_eq!(
                        record.event,
                        event(record.index),
                        "record {} was never written like this",
                        record.index
                    );
                    decoded += 1;
                }
                assert_eq!(decoded, count, "a record that does not carry its number");
                self.next += count;
                self.account.accepted += count;
            }
            Drained::Lost { first, count, cause } => {
                assert_eq!(first, self.next, "a loss out of order");
                match cause {
                    Loss::Lapped => self.account.lapped += count,
                    Loss::Torn => self.account.torn += count,
                    Loss::Dropped => self.account.dropped += count,
                }
                if cause != Loss::Dropped {
                    self.next += count;
                }
            }
        }
    }

    /// One drain, after which the accounts must add up and agree with what was handed on.
    fn drain(&mut self, reader: &mut LaneReader, mut wires: Wires<'_>, writer: Writer) {
        reader.drain(&mut wires, writer, |drained| self.take(drained)).expect("wires don't fail");
        let account = reader.account();
        assert!(account.is_whole(), "{account:?}");
        assert_eq!(account, Account { written: account.written, ..self.account });
        assert_eq!(account.written, self.next + self.account.dropped);
        // The guard turns away all that a running writer can have touched. Numbers that don't match mean damage, only.
        assert_eq!(account.torn, 0, "torn though the guard let it pass: {account:?}");
    }
}

/// How often loom may take the processor from a thread that could go on, in one run. Each model is small enough besides that
/// no word has more than the seven stores that loom remembers which a reader may still see.
const PREEMPTIONS: usize = 3;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// Fails unless loom finds a run in which the model's asserts fail with this text.
#[track_caller]
fn assert_caught(expected: &str, model: impl Fn() + Sync + Send + 'static) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(model))) else {
        panic!("the model checker found no fault in a ring that has one: it can't be trusted with the real one");
    };
    let got = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    assert!(got.is_some_and(|text| text.contains(expected)), "expected: {expected}\ngot: {got:?}");
}

/// One lane's life: `drained` records were written and read, `waiting` more written, before the reader's thread starts; it
/// drains `drains` times while `during` more are written. Then the writer stops and the rest is read.
#[derive(Clone, Copy)]
struct Run {
    log2: u32,
    drained: u64,
    waiting: u64,
    during: u64,
    drains: usize,
    policy: Policy,
    guard: u64,
    narrow: bool,
}

/// Four slots, two records waiting in the upper half, and a writer that comes round to the first of them: the least in
/// which a guard of two turns some records away and keeps others.
const LAPPING: Run = Run {
    log2: 2,
    drained: 2,
    waiting: 2,
    during: 3,
    drains: 1,
    policy: Policy::Overwrite,
    guard: GUARD_RECORDS,
    narrow: false,
};

impl Run {
    /// Runs it with an `append`, which is given the lane, a writer for it and the number of the record. Returns the
    /// accounts after the last live drain, and in the end.
    fn run(self, append: impl Fn(&Lane, &LaneWriter<'_>, u64)) -> [Account; 2] {
        let lane = Lane::new(self.log2);
        let slots = Slots::new(&lane.slots).expect("the capacity is a power of two");
        let writer = LaneWriter::new(slots, &lane.head, &lane.dropped, self.policy);
        let mut reader = LaneReader::new(0, self.log2, HEAD, DROPPED).with_policy(self.policy).with_guard(self.guard);
        let mut seen = Seen::default();
        let started = self.drained + self.waiting;
        (0..self.drained).for_each(|index| append(&lane, &writer, index));
        seen.drain(&mut reader, Wires { lane: &lane, narrow: self.narrow }, Writer::Quiescent);
        (self.drained..started).for_each(|index| append(&lane, &writer, index));
        let reading = {
            let lane = lane.clone();
            thread::spawn(move || {
                for _ in 0..self.drains {
                    seen.drain(&mut reader, Wires { lane: &lane, narrow: self.narrow }, Writer::Live);
                }
                (reader, seen)
            })
        };
        (started..started + self.during).for_each(|index| append(&lane, &writer, index));
        let (mut reader, mut seen) = reading.join().expect("loom stops the model where a thread panics");
        let live = reader.account();
        seen.drain(&mut reader, Wires { lane: &lane, narrow: self.narrow }, Writer::Quiescent);
        assert_eq!(reader.account().written, started + self.during);
        [live, reader.account()]
    }

    /// Runs it with the shipped writer.
    fn shipped(self) -> [Account; 2] {
        self.run(|_, writer, index| writer.append(event(index)))
    }
}

#[test]
fn a_live_reader_accepts_whole_records_only_and_accounts_for_all() {
    // The most that a live drain accepted, and that it turned away: a model that never sees either would prove nothing.
    static ACCEPTED: Most = Most::new(0);
    static LAPPED: Most = Most::new(0);
    check(|| {
        let [live, _] = LAPPING.shipped();
        ACCEPTED.fetch_max(live.accepted - LAPPING.drained, Ordering::Relaxed);
        LAPPED.fetch_max(live.lapped, Ordering::Relaxed);
    });
    assert_eq!(ACCEPTED.load(Ordering::Relaxed), 2, "the most that was accepted from a running writer");
    assert_eq!(LAPPED.load(Ordering::Relaxed), 3, "the most that was lapped by a running writer");
}

#[test]
fn a_reader_that_comes_back_while_the_writer_runs_misses_nothing_uncounted() {
    check(|| {
        Run { drains: 2, ..LAPPING }.shipped();
    });
}

#[test]
fn a_reader_of_an_empty_lane_follows_its_writer() {
    check(|| {
        Run { drained: 0, waiting: 0, during: 5, ..LAPPING }.shipped();
    });
    check(|| {
        Run { drained: 0, waiting: 0, during: 3, drains: 2, ..LAPPING }.shipped();
    });
}

#[test]
fn a_bus_of_32_bits_reads_the_same_records() {
    check(|| {
        Run { narrow: true, ..LAPPING }.shipped();
    });
}

#[test]
fn a_lane_of_two_slots_keeps_its_accounts_though_it_can_accept_nothing_live() {
    static ACCEPTED: Most = Most::new(0);
    check(|| {
        let [live, _] = Run { log2: 1, drained: 0, drains: 2, ..LAPPING }.shipped();
        ACCEPTED.fetch_max(live.accepted, Ordering::Relaxed);
    });
    assert_eq!(ACCEPTED.load(Ordering::Relaxed), 0);
}

#[test]
fn policy_stop_keeps_a_complete_prefix_from_a_live_reader() {
    check(|| {
        let run = Run { drained: 1, waiting: 1, during: 4, drains: 2, policy: Policy::Stop, ..LAPPING };
        let [_, end] = run.run(|_, writer, index| writer.append_bounded(event(index)));
        assert_eq!(end, Account { written: 6, accepted: 4, lapped: 0, torn: 0, dropped: 2, left: 0 });
    });
}

#[test]
fn policy_trigger_stops_half_a_ring_after_it_fired() {
    check(|| {
        let run = Run { drained: 3, waiting: 1, during: 4, policy: Policy::Trigger, ..LAPPING };
        let [_, end] = run.run(|_, writer, index| {
            writer.append_bounded(event(index));
            if index >= 4 {
                writer.fire(); // again and again: only the first counts
            }
        });
        // Fired with five in the lane: two more are kept, the last one is turned away.
        assert_eq!((end.written, end.dropped), (8, 1));
    });
}

#[test]
fn a_guard_of_one_slot_is_caught() {
    assert_caught("was never written like this", || {
        Run { guard: 1, ..LAPPING }.shipped();
    });
}

#[test]
fn a_store_release_of_the_head_instead_of_barrier_and_store_is_caught() {
    // STLR orders what came before it, not what comes after: nothing bounds how far later records run ahead of the head.
    assert_caught("was never written like this", || {
        LAPPING.run(|lane, _, index| {
            let slots = Slots::new(&lane.slots).expect("the capacity is a power of two");
            store_record(slots.get(index), event(index).words(index));
            lane.head.store(index + 1, Ordering::Release);
        });
    });
}

#[test]
fn a_writer_without_a_barrier_is_caught() {
    assert_caught("torn though the guard let it pass", || {
        LAPPING.run(|lane, _, index| {
            let slots = Slots::new(&lane.slots).expect("the capacity is a power of two");
            store_record(slots.get(index), event(index).words(index));
            lane.head.store(index + 1, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_count_of_dropped_records_without_a_barrier_before_it_is_caught() {
    assert_caught("a record after what was dropped", || {
        let run = Run { drained: 2, waiting: 1, during: 2, drains: 2, policy: Policy::Stop, ..LAPPING };
        run.run(|lane, writer, index| {
            if index < 4 {
                writer.append(event(index));
            } else {
                lane.dropped.store(index - 3, Ordering::Relaxed);
            }
        });
    });
}
