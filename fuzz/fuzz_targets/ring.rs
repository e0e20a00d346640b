//! Any bytes as a region, some of which change while it is read: each lane's accounts add up, and what is handed on has its numbers.
#![no_main]

use std::fmt;

use libfuzzer_sys::fuzz_target;
use trace_ring::layout::LANES_PER_CORE;
use trace_ring::reader::{Drained, LaneReader, Loss, Region, RegionSource, Writer, records};

/// Memory ends here; what the input does not say of it is zero.
const END: u64 = 4 << 20;

/// Bytes of the input that say how one word changes: before which read, where, to what.
const POKE: usize = 16;

struct Memory<'a> {
    bytes: Vec<u8>,
    pokes: &'a [u8],
    reads: u32,
}

#[derive(Debug)]
struct Beyond;

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("beyond the end of memory")
    }
}

impl std::error::Error for Beyond {}

impl RegionSource for Memory<'_> {
    type Error = Beyond;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Beyond> {
        self.reads += 1;
        for poke in self.pokes.chunks_exact(POKE) {
            let at = u32::from_le_bytes([poke[4], poke[5], poke[6], poke[7]]) as usize;
            let now = u32::from_le_bytes([poke[0], poke[1], poke[2], poke[3]]) == self.reads;
            if let (true, Some(word)) = (now, self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..8))) {
                word.copy_from_slice(&poke[8..]);
            }
        }
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= END).ok_or(Beyond)?;
        let have = self.bytes.len() as u64;
        let (first, last) = (offset.min(have) as usize, end.min(have) as usize);
        let (known, rest) = buffer.split_at_mut(last - first);
        known.copy_from_slice(&self.bytes[first..last]);
        rest.fill(0);
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, Beyond> {
        let mut word = [0; 8];
        self.read(offset, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}

/// What a lane handed on.
#[derive(Default)]
struct Seen {
    next: u64,
    accepted: u64,
    lapped: u64,
    torn: u64,
    dropped: u64,
}

impl Seen {
    fn drain(&mut self, reader: &mut LaneReader, source: &mut Memory<'_>, writer: Writer, most: u64) {
        // A read that fails loses nothing.
        let _ = reader.drain_some(source, writer, most, |drained| match drained {
            Drained::Records { first, bytes } => {
                assert_eq!(first, self.next, "records follow one another");
                let count = bytes.len() as u64 / 32;
                assert!(count > 0 && bytes.len() % 32 == 0);
                assert!(records(first, bytes).map(|record| record.index).eq(first..first + count));
                self.next += count;
                self.accepted += count;
            }
            Drained::Lost { first, count, cause } => {
                assert_eq!(first, self.next, "what is lost follows what was read");
                assert!(count > 0);
                match cause {
                    Loss::Lapped => self.lapped += count,
                    Loss::Torn => self.torn += count,
                    Loss::Dropped => self.dropped += count,
                }
                if cause != Loss::Dropped {
                    self.next += count;
                }
            }
        });
        let account = reader.account();
        assert!(account.is_whole(), "{account:?}");
        assert_eq!(
            (account.accepted, account.lapped, account.torn, account.dropped, account.left),
            (self.accepted, self.lapped, self.torn, self.dropped, 0)
        );
        assert_eq!(account.written, self.next + self.dropped);
    }
}

fuzz_target!(|data: &[u8]| {
    let [first, rest @ ..] = data else { return };
    let pokes = usize::from(first & 7) * POKE;
    let Some((pokes, bytes)) = rest.split_at_checked(pokes) else { return };
    let writer = if first & 8 == 0 { Writer::Live } else { Writer::Quiescent };
    let mut source = Memory { bytes: bytes.to_vec(), pokes, reads: 0 };
    let Ok(region) = Region::open(&mut source) else { return };
    let cores = region.directory.core_count as usize;
    assert_eq!(region.lanes.len(), cores * LANES_PER_CORE);
    for lane in 0..region.lanes.len() {
        let (mut reader, mut seen) = (region.lane(lane), Seen::default());
        seen.drain(&mut reader, &mut source, writer, 1 + u64::from(first >> 4));
        seen.drain(&mut reader, &mut source, writer, u64::MAX);
        seen.drain(&mut reader, &mut source, Writer::Quiescent, u64::MAX);
        reader.abandon(u64::from_le_bytes([*first; 8]));
        assert!(reader.account().is_whole());
        if lane >= 64 {
            break; // 16 cores are like 512
        }
    }
    let _ = region.status(&mut source);
    for read in [
        region.heads(&mut source).map(|all| all.len()),
        region.core_entries(&mut source).map(|all| all.len()),
        region.faults(&mut source).map(|all| all.len()),
        region.truth(&mut source).map(|all| all.len()),
        region.live(&mut source).map(|all| all.len()),
    ] {
        assert!(read.is_err() || read.is_ok_and(|count| count == cores));
    }
    let directory = &region.directory;
    for (read, count) in [
        (region.phases(&mut source).map(|all| all.len()), directory.phase_count as usize),
        (region.meta(&mut source).map(|all| all.len()), directory.meta_len as usize),
        (region.slots(&mut source).map(|all| all.len()), directory.slot_count as usize),
        (region.descriptors(&mut source).map(|all| all.len()), directory.descriptor_count as usize),
        (region.histograms(&mut source).map(|all| all.len() / 512), directory.histogram_count as usize),
    ] {
        assert!(read.is_err() || read.is_ok_and(|found| found == count));
    }
    for core in 0..cores.min(4) {
        let _ = region.log(&mut source, core);
    }
});
