//! Opening a region: nothing in a directory is believed, whatever it holds, and a restarted target is noticed.

use proptest::prelude::*;
use trace_ring::calls::{CallDescriptor, LiveEntry, call_state, descriptors_per_core, doing};
use trace_ring::layout::{
    ABI_VERSION, Directory, HeadLine, LANES_PER_CORE, LOG_STRIDE, LaneDescriptor, MAGIC, Sections, Shape, lay_out,
};
use trace_ring::plan::Policy;
use trace_ring::reader::{ReadError, Region, RegionSource, Writer};
use trace_ring::record::{Event, Kind, RECORD_BYTES};
use zerocopy::{FromZeros, IntoBytes};

const CORES: u64 = 2;
const LOG2_RECORDS: u32 = 4;
const NONCE: u64 = 0x1234_5678_9ABC_DEF0;

/// A region of that many records, of a plan that calls.
const fn shape(records: u64) -> Shape {
    let descriptors = CORES * descriptors_per_core(CORES as u32) as u64;
    Shape { cores: CORES, phases: 1, meta: 0, slots: 2, histograms: 1, descriptors, records }
}

/// What core `core` does in [`region`].
fn live(core: u64) -> LiveEntry {
    LiveEntry {
        doing: doing::CALL,
        op: 5,
        waits_for: 1,
        waits_descriptor: 3,
        since: 100 + core,
        ..LiveEntry::default()
    }
}

/// Call descriptor `index` in [`region`].
fn descriptor(index: u64) -> CallDescriptor {
    CallDescriptor { next: index, info: 1000 + index, state: call_state::QUEUED, ..CallDescriptor::default() }
}

/// A read beyond the end of memory.
#[derive(Debug)]
struct Beyond;

impl std::fmt::Display for Beyond {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no memory there")
    }
}

impl std::error::Error for Beyond {}

/// Memory that ends somewhere, and how far it was read.
struct Memory {
    bytes: Vec<u8>,
    furthest: u64,
}

impl RegionSource for Memory {
    type Error = Beyond;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Beyond> {
        let end = offset.checked_add(buffer.len() as u64).expect("a read past the end of all addresses");
        self.furthest = self.furthest.max(end);
        let range = usize::try_from(offset).map_err(|_| Beyond)?..usize::try_from(end).map_err(|_| Beyond)?;
        buffer.copy_from_slice(self.bytes.get(range).ok_or(Beyond)?);
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, Beyond> {
        assert_eq!(offset % 8, 0, "a word that no writer stores whole");
        let mut word = [0; 8];
        self.read(offset, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}

/// A small, right region: one record in each lane.
fn region() -> Vec<u8> {
    let records = CORES * LANES_PER_CORE as u64 * (1 << LOG2_RECORDS);
    let (sections, length) = lay_out(shape(records));
    let mut directory = Directory::new_zeroed();
    directory.magic = MAGIC;
    directory.version = ABI_VERSION;
    directory.header_len = size_of::<Directory>() as u32;
    directory.nonce = NONCE;
    directory.region_len = length;
    directory.sections = sections;
    directory.core_count = CORES as u32;
    directory.phase_count = 1;
    directory.slot_count = 2;
    directory.histogram_count = 1;
    directory.descriptor_count = shape(0).descriptors as u32;
    directory.log_stride = LOG_STRIDE as u32;
    let mut bytes = vec![0; length as usize];
    let mut put = |offset: u64, value: &[u8]| bytes[offset as usize..][..value.len()].copy_from_slice(value);
    put(0, directory.as_bytes());
    let event = Event { t: 7, kind: Kind::Mark, flags: 0, peer: 0, msg: 1, intid: 0, extra: 0, arg: 9 };
    for index in 0..shape(0).descriptors {
        put(sections.calls + index * 64, descriptor(index).as_bytes());
    }
    for core in 0..CORES {
        put(sections.live + core * 64, live(core).as_bytes());
        put(sections.heads + core * 64, HeadLine { head: [1; 4], dropped: [0; 4] }.as_bytes());
        for context in 0..LANES_PER_CORE as u64 {
            let lane = core * LANES_PER_CORE as u64 + context;
            let offset = sections.records + (lane << LOG2_RECORDS) * RECORD_BYTES;
            let (context, core) = (context as u16, core as u16);
            let place = LaneDescriptor { offset, log2_records: LOG2_RECORDS, context, core, reserved: [0; 2] };
            put(sections.lanes + lane * 32, place.as_bytes());
            put(offset, event.words(0).as_bytes());
        }
    }
    bytes
}

fn memory() -> Memory {
    Memory { bytes: region(), furthest: 0 }
}

/// Reads all there is to read, as a host that took the region for good would.
fn read_all(region: &Region, source: &mut Memory) {
    let _ = region.status(source);
    let _ = region.heads(source);
    let _ = region.core_entries(source);
    let _ = region.phases(source);
    let _ = region.slots(source);
    let _ = region.histograms(source);
    let _ = region.faults(source);
    let _ = region.truth(source);
    let _ = region.live(source);
    let _ = region.descriptors(source);
    let _ = region.log(source, region.directory.core_count as usize - 1);
    // Many of a damaged region's lanes are alike: the first and the last few reach both ends of the table.
    let lanes = region.lanes.len();
    for index in (0..lanes.min(4)).chain(lanes.saturating_sub(4)..lanes) {
        for writer in [Writer::Live, Writer::Quiescent] {
            let mut reader = region.lane(index);
            let _ = reader.drain(source, writer, |_| {});
            assert!(reader.account().is_whole());
        }
    }
}

/// Opens it and reads all; fails where that leaves the region that its directory describes.
fn survive(bytes: Vec<u8>) {
    let mut source = Memory { bytes, furthest: 0 };
    let opened = Region::open(&mut source);
    let length = source.bytes.get(32..40).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap()));
    // The directory itself is read before its word on lengths can be.
    let end = length.max(size_of::<Directory>() as u64);
    assert!(source.furthest <= end, "open read to {:#x}, the region ends at {end:#x}", source.furthest);
    if let Ok(region) = opened {
        read_all(&region, &mut source);
        assert!(source.furthest <= end, "read to {:#x}, the region ends at {end:#x}", source.furthest);
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Words that are often wrong in interesting ways.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u64..64).prop_map(|low| low.wrapping_neg()),
        0u64..4096
    ]
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_damaged_directory_never_panics_or_leads_out_of_the_region(
        damage in prop::collection::vec((1usize..64, word()), 1..5), lanes in prop::collection::vec((0usize..32, word()), 0..3),
        cut in prop_oneof![4 => Just(usize::MAX), 1 => 0usize..20_000],
    ) {
        let mut bytes = region();
        let table = lay_out(shape(0)).0.lanes as usize;
        for (index, word) in damage {
            bytes[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        bytes[8..12].copy_from_slice(&ABI_VERSION.to_le_bytes());
        for (index, word) in lanes {
            bytes[table + index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        bytes.truncate(cut);
        survive(bytes);
    }

    #[test]
    fn a_directory_of_pure_noise_never_panics_or_leads_out_of_the_region(
        noise in prop::collection::vec(any::<u8>(), 0..2048), cores in 0u64..8, near: bool,
    ) {
        let mut bytes = noise;
        let counts = std::mem::offset_of!(Directory, core_count);
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        let meta = std::mem::offset_of!(Directory, meta_len);
        for (at, value) in [(0, MAGIC), (8, ABI_VERSION.into()), (32, 1 << 46), (counts, cores), (meta, cores)] {
            put(at, &value.to_le_bytes());
        }
        put(std::mem::offset_of!(Directory, log_stride), &(LOG_STRIDE as u32).to_le_bytes());
        // Sections that lie somewhere in the first bytes, all over each other: what follows them is looked at, too.
        let sections = std::mem::offset_of!(Directory, sections);
        if near && let Some(offsets) = bytes.get_mut(sections..counts) {
            for word in offsets.chunks_exact_mut(8) {
                let offset = u64::from(word[0]) % 128 * 8;
                word.copy_from_slice(&offset.to_le_bytes());
            }
        }
        survive(bytes);
    }
}

#[test]
fn a_right_region_opens_and_every_lane_has_its_record() {
    let mut source = memory();
    let region = Region::open(&mut source).unwrap();
    assert_eq!(region.lanes.len(), CORES as usize * LANES_PER_CORE);
    for index in 0..region.lanes.len() {
        let mut reader = region.lane(index);
        let mut handed_on = 0;
        reader.drain(&mut source, Writer::Live, |_| handed_on += 1).unwrap();
        assert_eq!((handed_on, reader.account().accepted), (1, 1), "lane {index}");
    }
    read_all(&region, &mut source);
    assert!(source.furthest <= region.directory.region_len);
}

#[test]
fn what_cores_do_and_what_they_called_is_read_as_it_stands() {
    let mut source = memory();
    let region = Region::open(&mut source).unwrap();
    assert_eq!(region.live(&mut source).unwrap(), [live(0), live(1)]);
    let expected: Vec<CallDescriptor> = (0..14).map(descriptor).collect();
    assert_eq!(region.descriptors(&mut source).unwrap(), expected);
    // It is memory that is read, not what was there at open.
    let at = region.directory.sections.calls as usize + 13 * 64 + 52;
    source.bytes[at] = call_state::EXECUTED;
    assert_eq!(region.descriptors(&mut source).unwrap()[13].state, call_state::EXECUTED);

    // A plan that does not call has no descriptors, wherever its section is said to be.
    let mut source = memory();
    let at = std::mem::offset_of!(Directory, descriptor_count);
    source.bytes[at..][..4].fill(0);
    let region = Region::open(&mut source).unwrap();
    assert_eq!(region.descriptors(&mut source).unwrap(), []);
}

#[test]
fn a_section_of_the_call_layer_that_is_crooked_or_leads_out_is_named() {
    let length = region().len() as u64;
    let sections = std::mem::offset_of!(Directory, sections);
    let live = sections + std::mem::offset_of!(Sections, live);
    let calls = sections + std::mem::offset_of!(Sections, calls);
    for (field, at, bytes) in [("live", live, CORES * 64), ("calls", calls, shape(0).descriptors * 64)] {
        let open = |offset: u64| {
            let mut source = memory();
            source.bytes[at..][..8].copy_from_slice(&offset.to_le_bytes());
            Region::open(&mut source).map(|region| (region, source))
        };
        // Its last byte may be the region's last, and not one more.
        let (region, mut source) = open(length - bytes).unwrap();
        assert!(region.live(&mut source).is_ok() && region.descriptors(&mut source).is_ok());
        for wrong in [length - bytes + 8, length, length - bytes - 1, u64::MAX - 7, u64::MAX, 1 << 63] {
            let error = open(wrong).map(|_| ()).expect_err(field);
            let named = matches!(error, ReadError::Corrupt { field: name, value } if name == field && value == wrong);
            assert!(named, "`{field}` at {wrong:#x}\ngot: {error:?}");
        }
    }
    // Any other number than the cores' own: an index could not be told from another use.
    for count in [1, shape(0).descriptors - 1, shape(0).descriptors + 1, u32::MAX.into()] {
        let mut source = memory();
        let at = std::mem::offset_of!(Directory, descriptor_count);
        source.bytes[at..][..4].copy_from_slice(&(count as u32).to_le_bytes());
        let error = Region::open(&mut source).map(|_| ()).unwrap_err();
        let named = matches!(error, ReadError::Corrupt { field: "descriptor_count", value } if value == u64::from(count as u32));
        assert!(named, "{count}: {error:?}");
    }
}

#[test]
fn a_region_takes_its_policy_to_its_lanes() {
    for (policy, accepted) in [(Policy::Overwrite, 14), (Policy::Stop, 16)] {
        let mut source = memory();
        let at = std::mem::offset_of!(Directory, policy);
        source.bytes[at] = policy.code();
        let region = Region::open(&mut source).unwrap();
        let event = Event { t: 7, kind: Kind::Mark, flags: 0, peer: 0, msg: 1, intid: 0, extra: 0, arg: 9 };
        for index in 0..16u64 {
            let slot = (region.lanes[0].offset + index * RECORD_BYTES) as usize;
            source.bytes[slot..][..32].copy_from_slice(event.words(index).as_bytes());
        }
        source.bytes[region.directory.sections.heads as usize] = 16;
        let mut reader = region.lane(0);
        reader.drain(&mut source, Writer::Live, |_| {}).unwrap();
        assert_eq!(reader.account().accepted, accepted, "a full lane of policy {policy:?}, read live");
    }
}

#[test]
fn each_thing_that_is_wrong_is_named() {
    type Check = fn(&ReadError<Beyond>) -> bool;
    let table = lay_out(shape(0)).0.lanes as usize;
    let sections = std::mem::offset_of!(Directory, sections);
    let counts = std::mem::offset_of!(Directory, core_count);
    let cases: [(&str, usize, Vec<u8>, Check); 11] = [
        ("magic", 0, vec![0], |error| matches!(error, ReadError::Magic(_))),
        ("version", 8, vec![99], |error| matches!(error, ReadError::Version(99))),
        ("no cores", counts, vec![0; 4], |error| matches!(error, ReadError::Corrupt { field: "core_count", value: 0 })),
        ("many cores", counts, vec![0, 0, 1], |error| matches!(error, ReadError::Corrupt { field: "core_count", .. })),
        ("region too long", 39, vec![1], |error| matches!(error, ReadError::Corrupt { field: "region_len", .. })),
        ("log stride", counts + 16, vec![1], |error| matches!(error, ReadError::Corrupt { field: "log_stride", .. })),
        ("crooked section", sections, vec![1], |error| matches!(error, ReadError::Corrupt { field: "cores", .. })),
        ("section outside", sections + 13, vec![1], |error| matches!(error, ReadError::Corrupt { field: "heads", .. })),
        ("lane too small", table + 8, vec![3], |error| {
            matches!(error, ReadError::Corrupt { field: "lane.log2_records", .. })
        }),
        ("lane outside", table + 4, vec![1], |error| matches!(error, ReadError::Corrupt { field: "lane.offset", .. })),
        ("crooked lane", table, vec![8], |error| matches!(error, ReadError::Corrupt { field: "lane.offset", .. })),
    ];
    for (what, at, bytes, expected) in cases {
        let mut source = memory();
        source.bytes[at..][..bytes.len()].copy_from_slice(&bytes);
        let error = Region::open(&mut source).expect_err(what);
        assert!(expected(&error), "{what}\ngot: {error:?}");
    }
}

#[test]
fn a_nonce_that_changes_is_a_restart() {
    let mut source = memory();
    let region = Region::open(&mut source).unwrap();
    assert!(region.status(&mut source).is_ok());
    source.bytes[16] ^= 1;
    let error = region.status(&mut source).unwrap_err();
    assert!(matches!(error, ReadError::Restarted { expected: NONCE, found } if found == NONCE ^ 1), "{error:?}");
}

#[test]
fn a_huge_count_ends_where_memory_ends_and_not_in_an_allocation() {
    let mut source = memory();
    source.bytes[32..40].copy_from_slice(&(1u64 << 46).to_le_bytes());
    let at = std::mem::offset_of!(Directory, slot_count);
    source.bytes[at..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let region = Region::open(&mut source).unwrap();
    assert!(matches!(region.slots(&mut source), Err(ReadError::Source(Beyond))));
}
