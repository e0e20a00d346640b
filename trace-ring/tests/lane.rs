//! One lane, its writer and its reader: what is handed on was written, once, and what is missing is counted.
//!
//! The property tests put a [`Target`] on the other side of the reader that does what the ring protocol allows a writer's
//! memory to show, and no more: words of a record land in any order, a head may land as late as the barrier of the next
//! record. It moves while the reader copies, and its wires break. The thread tests run the shipped writer.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use proptest::prelude::*;
use trace_ring::plan::Policy;
use trace_ring::reader::{Account, Drained, GUARD_RECORDS, LaneReader, Loss, ReadError, RegionSource, Writer, records};
use trace_ring::record::{Event, Kind, RECORD_BYTES};
use trace_ring::sync::{Slot, Slots};
use trace_ring::writer::LaneWriter;

/// Where the head and the dropped word lie; records begin at 0.
const HEAD: u64 = 1 << 40;
const DROPPED: u64 = HEAD + 8;

/// What record `index` says: no word of it is like the same word of another.
fn event(index: u64) -> Event {
    let mixed = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Event {
        t: mixed,
        kind: Kind::Send,
        flags: mixed as u8,
        peer: (mixed >> 8) as u16,
        msg: (mixed >> 24) as u32,
        intid: 1,
        extra: 2,
        arg: !mixed,
    }
}

/// A read that failed.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the wire broke")
    }
}

impl std::error::Error for Broken {}

/// Everything a reader handed on, checked as it comes.
#[derive(Debug, Default)]
struct Seen {
    next: u64,
    account: Account,
}

impl Seen {
    fn take(&mut self, drained: Drained<'_>) {
        match drained {
            Drained::Records { first, bytes } => {
                assert_eq!(first, self.next, "records out of order, or twice");
                assert_eq!(self.account.dropped, 0, "a record after what was dropped");
                for record in records(first, bytes) {
                    assert_eq!(record.index, self.next, "a record that does not carry its number");
                    assert_eq!(
                        record.event,
                        event(record.index),
                        "record {} was never written like this",
                        record.index
                    );
                    self.next += 1;
                }
                assert_eq!(self.next, first + bytes.len() as u64 / RECORD_BYTES);
                self.account.accepted += bytes.len() as u64 / RECORD_BYTES;
            }
            Drained::Lost { first, count, cause } => {
                assert_eq!(first, self.next, "a loss out of order");
                assert_ne!(count, 0, "a loss of nothing");
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
        self.account.written = self.next + self.account.dropped;
    }

    /// One drain. Whether it failed or not, reader and log agree, and the accounts add up.
    fn drain<S: RegionSource>(
        &mut self,
        reader: &mut LaneReader,
        source: &mut S,
        writer: Writer,
    ) -> Result<(), ReadError<S::Error>> {
        let result = reader.drain(source, writer, |drained| self.take(drained));
        assert_eq!(reader.account(), self.account);
        assert!(reader.account().is_whole(), "{:?}", reader.account());
        result
    }
}

/// A writer and its memory, one visible store at a time, and the wires to them.
#[derive(Clone, Debug)]
struct Target {
    slots: Vec<[u64; 4]>,
    /// What memory shows.
    head: u64,
    dropped: u64,
    /// A head that was stored and is not visible yet.
    late_head: Option<u64>,
    /// The record being written, and how many of its words are visible.
    index: u64,
    words: usize,
    /// First record number that is turned away.
    limit: u64,
    /// Records it still wants to write.
    left: u64,
    /// Chances in 256: that the writer moves at a word that is read, and that a read fails.
    haste: u8,
    faults: u8,
    random: u64,
}

impl Target {
    fn new(log2: u32, left: u64, haste: u8, faults: u8, seed: u64) -> Self {
        Target {
            slots: vec![[0; 4]; 1 << log2],
            head: 0,
            dropped: 0,
            late_head: None,
            index: 0,
            words: 0,
            limit: u64::MAX,
            left,
            haste,
            faults,
            random: seed | 1,
        }
    }

    /// xorshift64.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 8
    }

    fn chance(&mut self, of_256: u8) -> bool {
        (self.draw() as u8) < of_256
    }

    /// One more store becomes visible.
    fn step(&mut self) {
        if self.late_head.is_some() && self.draw() & 1 == 0 {
            self.head = self.late_head.take().expect("checked above");
            return;
        }
        if self.words == 0 {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            if self.index >= self.limit {
                // The writer's barrier before it counts.
                self.head = self.late_head.take().unwrap_or(self.head);
                self.dropped += 1;
                return;
            }
        }
        // Words land in an order of the record's own.
        let word = (self.words + self.index as usize) % 4;
        let slot = self.index as usize % self.slots.len();
        self.slots[slot][word] = event(self.index).words(self.index)[word];
        self.words += 1;
        if self.words == 4 {
            // The barrier: all of this record and the head before it are visible now, its own head when it pleases.
            self.head = self.late_head.take().unwrap_or(self.head);
            self.words = 0;
            self.index += 1;
            self.late_head = Some(self.index);
        }
    }

    /// Runs until `count` more records are begun.
    fn write(&mut self, count: u64) {
        let until = self.index.saturating_add(count).min(self.limit);
        while self.index < until && self.left > 0 {
            self.step();
        }
    }

    /// Runs until nothing is left to write and all is visible.
    fn finish(&mut self) {
        while self.left > 0 || self.words > 0 || self.late_head.is_some() {
            self.step();
        }
        self.faults = 0;
    }

    fn reader(&self) -> LaneReader {
        LaneReader::new(0, self.slots.len().ilog2(), HEAD, DROPPED)
    }
}

impl RegionSource for Target {
    type Error = Broken;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Broken> {
        let breaks = self.chance(self.faults).then(|| self.draw() as usize % buffer.len());
        for (position, (chunk, at)) in buffer.chunks_exact_mut(8).zip((offset..).step_by(8)).enumerate() {
            while self.chance(self.haste) {
                self.step();
            }
            if breaks == Some(position) {
                chunk.fill(0xEE);
            } else {
                chunk.copy_from_slice(&self.slots[(at / 32) as usize][(at % 32 / 8) as usize].to_le_bytes());
            }
        }
        if breaks.is_some() { Err(Broken) } else { Ok(()) }
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, Broken> {
        while self.chance(self.haste) {
            self.step();
        }
        match offset {
            _ if self.chance(self.faults) => Err(Broken),
            HEAD => Ok(self.head),
            DROPPED => Ok(self.dropped),
            _ => panic!("the reader asked for a word at {offset:#x}"),
        }
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_running_writer_and_broken_wires_lose_nothing_uncounted(
        log2 in 2u32..7, left in 0u64..600, haste in 0u8..240, faults in 0u8..120, seed: u64,
        pauses in prop::collection::vec(0u64..90, 0..12),
    ) {
        let mut target = Target::new(log2, left, haste, faults, seed);
        let (mut reader, mut seen) = (target.reader(), Seen::default());
        for pause in pauses {
            target.write(pause);
            let published = target.head;
            match seen.drain(&mut reader, &mut target, Writer::Live) {
                Ok(()) => prop_assert!(seen.next >= published, "a drain that went well left {} behind", published - seen.next),
                Err(error) => prop_assert!(matches!(error, ReadError::Source(Broken)), "{error:?}"),
            }
        }
        target.finish();
        prop_assert!(seen.drain(&mut reader, &mut target, Writer::Quiescent).is_ok());
        prop_assert_eq!(reader.account().written, left);
        // The writer broke no rule and no memory was damaged: what was missed was overwritten.
        prop_assert_eq!(reader.account().torn, 0);
    }

    #[test]
    fn failed_reads_of_a_lane_that_holds_all_lose_no_record(
        left in 0u64..200, faults in 1u8..200, seed: u64, pauses in prop::collection::vec(0u64..60, 1..20),
    ) {
        let mut target = Target::new(8, left, 0, faults, seed);
        let (mut reader, mut seen) = (target.reader(), Seen::default());
        for pause in pauses {
            target.write(pause);
            let _ = seen.drain(&mut reader, &mut target, Writer::Live);
        }
        target.finish();
        prop_assert!(seen.drain(&mut reader, &mut target, Writer::Quiescent).is_ok());
        prop_assert_eq!(reader.account(), Account { written: left, accepted: left, ..Account::default() });
    }

    #[test]
    fn a_writer_that_died_in_the_middle_of_a_record_is_read_as_a_live_one(
        log2 in 2u32..6, left in 1u64..200, steps in 0usize..1200, seed: u64,
    ) {
        let mut target = Target::new(log2, left, 0, 0, seed);
        (0..steps).for_each(|_| target.step());
        let (mut reader, mut seen) = (target.reader(), Seen::default());
        prop_assert!(seen.drain(&mut reader, &mut target, Writer::Live).is_ok());
        prop_assert_eq!(reader.account().torn, 0);
        prop_assert_eq!(reader.account().written, target.head);
        let kept = (target.slots.len() as u64 - GUARD_RECORDS).min(target.head);
        prop_assert!(reader.account().accepted >= kept, "{:?}", reader.account());
    }

    #[test]
    fn a_lane_of_policy_stop_hands_on_its_whole_prefix_however_it_is_read(
        log2 in 2u32..6, left in 0u64..100, haste in 0u8..240, seed: u64, pauses in prop::collection::vec(0u64..40, 0..6),
    ) {
        let mut target = Target::new(log2, left, haste, 10, seed);
        target.limit = 1 << log2;
        let (mut reader, mut seen) = (target.reader().with_policy(Policy::Stop), Seen::default());
        for pause in pauses {
            target.write(pause);
            let _ = seen.drain(&mut reader, &mut target, Writer::Live);
        }
        target.finish();
        prop_assert!(seen.drain(&mut reader, &mut target, Writer::Live).is_ok());
        let accepted = left.min(1 << log2);
        let expected = Account { written: left, accepted, lapped: 0, torn: 0, dropped: left - accepted, left: 0 };
        prop_assert_eq!(reader.account(), expected);
    }

    #[test]
    fn a_slot_that_does_not_carry_its_number_is_torn_and_its_neighbours_are_not(
        log2 in 2u32..6, left in 1u64..200, damage in prop::collection::vec((0usize..64, 1u64.., any::<bool>()), 0..20),
    ) {
        let mut target = Target::new(log2, left, 0, 0, 1);
        target.finish();
        let oldest = left.saturating_sub(1 << log2);
        let mut damaged = std::collections::BTreeSet::new();
        for (place, bits, first_copy) in damage {
            let index = oldest + place as u64 % (left - oldest);
            let number = if first_copy { 0xFFFF_FFFF & bits.max(1) } else { bits << 48 };
            if number != 0 && damaged.insert(index) {
                target.slots[index as usize % (1 << log2)][if first_copy { 1 } else { 2 }] ^= number;
            }
        }
        let (mut reader, mut seen) = (target.reader(), Seen::default());
        prop_assert!(seen.drain(&mut reader, &mut target, Writer::Quiescent).is_ok());
        let torn = damaged.len() as u64;
        let expected = Account { written: left, accepted: left - oldest - torn, lapped: oldest, torn, dropped: 0, left: 0 };
        prop_assert_eq!(reader.account(), expected);
    }

    #[test]
    fn garbage_in_a_lane_and_in_its_head_never_panics(
        words in prop::collection::vec(any::<[u64; 4]>(), 16), heads in prop::collection::vec((any::<u64>(), 0u32..64), 1..6),
        dropped: u64, shift in 0u32..64, live: bool,
    ) {
        let mut target = Target::new(4, 0, 0, 0, 1);
        target.slots = words;
        let mut reader = target.reader();
        let writer = if live { Writer::Live } else { Writer::Quiescent };
        for (head, head_shift) in heads {
            (target.head, target.dropped) = (head >> head_shift, dropped >> shift);
            let result = reader.drain(&mut target, writer, |_| {});
            prop_assert!(reader.account().is_whole());
            if result.is_ok() {
                prop_assert_eq!(reader.account().written, target.head + target.dropped);
            }
        }
    }
}

#[test]
fn a_head_or_a_count_that_goes_backwards_is_damage_and_changes_no_account() {
    let mut target = Target::new(4, 10, 0, 0, 1);
    target.finish();
    target.dropped = 3;
    let (mut reader, mut seen) = (target.reader(), Seen::default());
    seen.drain(&mut reader, &mut target, Writer::Live).unwrap();
    let before = reader.account();
    assert_eq!(before, Account { written: 13, accepted: 10, lapped: 0, torn: 0, dropped: 3, left: 0 });
    for (head, dropped, damaged) in
        [(9, 3, "head"), (0, 3, "head"), (u64::MAX, 3, "head"), (10, 2, "dropped"), (10, u64::MAX, "dropped")]
    {
        (target.head, target.dropped) = (head, dropped);
        let error = seen.drain(&mut reader, &mut target, Writer::Live).unwrap_err();
        assert!(
            matches!(error, ReadError::Corrupt { field, .. } if field == damaged),
            "expected: {damaged}\ngot: {error:?}"
        );
        assert_eq!(reader.account(), before);
    }
}

#[test]
fn a_head_that_goes_backwards_while_records_are_copied_is_damage() {
    /// Shows a head of 10 once, then a target that was restarted.
    struct Restarting(Target, bool);
    impl RegionSource for Restarting {
        type Error = Broken;
        fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Broken> {
            self.1 = true;
            self.0.read(offset, buffer)
        }
        fn read_u64(&mut self, offset: u64) -> Result<u64, Broken> {
            Ok(if offset == DROPPED || self.1 { 0 } else { 10 })
        }
    }
    let mut target = Target::new(4, 10, 0, 0, 1);
    target.finish();
    let (mut reader, mut seen) = (target.reader(), Seen::default());
    let error = seen.drain(&mut reader, &mut Restarting(target, false), Writer::Live).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { field: "head", value: 0 }), "{error:?}");
    assert_eq!(reader.account(), Account::default());
}

/// A lane in this process's memory, written by the shipped writer.
struct Shared {
    slots: Vec<Slot>,
    head: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    fn new(log2: u32) -> Self {
        let slots = (0..1 << log2).map(|_| Slot::zeroed()).collect();
        Shared { slots, head: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }

    fn writer(&self, policy: Policy) -> LaneWriter<'_> {
        LaneWriter::new(Slots::new(&self.slots).unwrap(), &self.head, &self.dropped, policy)
    }

    fn reader(&self) -> LaneReader {
        LaneReader::new(0, self.slots.len().ilog2(), HEAD, DROPPED)
    }
}

impl RegionSource for &Shared {
    type Error = Broken;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Broken> {
        for (chunk, at) in buffer.chunks_exact_mut(8).zip((offset..).step_by(8)) {
            let word = self.slots[(at / 32) as usize].0[(at % 32 / 8) as usize].load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        fence(Ordering::Acquire); // pairs with the fence in publish_barrier
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, Broken> {
        let word = if offset == HEAD { &self.head } else { &self.dropped };
        let word = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire); // pairs with the fence in publish_barrier
        Ok(word)
    }
}

#[test]
fn a_thread_that_writes_flat_out_is_read_whole_or_counted() {
    const WRITTEN: u64 = 400_000;
    for log2 in [2, 4, 10] {
        let lane = Shared::new(log2);
        let (mut reader, mut seen) = (lane.reader(), Seen::default());
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let writer = lane.writer(Policy::Overwrite);
                (0..WRITTEN).for_each(|index| writer.append(event(index)));
            });
            while !writing.is_finished() {
                seen.drain(&mut reader, &mut &lane, Writer::Live).unwrap();
            }
        });
        seen.drain(&mut reader, &mut &lane, Writer::Quiescent).unwrap();
        assert_eq!(reader.account().written, WRITTEN);
        assert_eq!(reader.account().torn, 0, "{:?}", reader.account());
    }
}

#[test]
fn a_thread_under_policy_stop_keeps_its_prefix_and_counts_the_rest() {
    let lane = Shared::new(10);
    let (mut reader, mut seen) = (lane.reader().with_policy(Policy::Stop), Seen::default());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let writer = lane.writer(Policy::Stop);
            (0..100_000).for_each(|index| writer.append_bounded(event(index)));
        });
        while !writing.is_finished() {
            seen.drain(&mut reader, &mut &lane, Writer::Live).unwrap();
        }
    });
    seen.drain(&mut reader, &mut &lane, Writer::Quiescent).unwrap();
    let expected = Account { written: 100_000, accepted: 1024, lapped: 0, torn: 0, dropped: 98_976, left: 0 };
    assert_eq!(reader.account(), expected);
}

#[test]
fn policy_trigger_keeps_half_a_ring_from_before_it_fired_and_half_from_after() {
    let lane = Shared::new(4);
    let writer = lane.writer(Policy::Trigger);
    for index in 0..100 {
        writer.append_bounded(event(index));
        if index == 49 {
            writer.fire();
        }
        if index == 52 {
            writer.fire(); // changes nothing: it has fired
        }
    }
    let (mut reader, mut seen) = (lane.reader(), Seen::default());
    seen.drain(&mut reader, &mut &lane, Writer::Quiescent).unwrap();
    assert_eq!(reader.account(), Account { written: 100, accepted: 16, lapped: 42, torn: 0, dropped: 42, left: 0 });
}

#[test]
fn only_policy_trigger_can_fire() {
    for (policy, written) in [(Policy::Overwrite, 40), (Policy::Stop, 16)] {
        let lane = Shared::new(4);
        let writer = lane.writer(policy);
        for index in 0..40 {
            writer.fire();
            writer.append_bounded(event(index));
        }
        assert_eq!(writer.head(), written, "{policy:?}");
    }
}

#[test]
fn what_is_given_up_is_accounted_for_and_a_lane_can_be_read_in_parts() {
    let lane = Shared::new(5);
    let writer = lane.writer(Policy::Overwrite);
    (0..10).for_each(|index| writer.append(event(index)));
    let mut reader = lane.reader();
    reader.drain_some(&mut &lane, Writer::Quiescent, 4, |_| {}).unwrap();
    assert_eq!(reader.account(), Account { written: 4, accepted: 4, ..Account::default() });
    // A head that is older than what was read, or that no lane ever had, changes nothing.
    reader.abandon(3);
    reader.abandon(u64::MAX);
    assert_eq!(reader.account().left, 0);
    reader.abandon(10);
    assert_eq!(reader.account(), Account { written: 10, accepted: 4, left: 6, ..Account::default() });
    assert!(reader.account().is_whole());
}
