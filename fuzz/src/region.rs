//! A small region as the firmware leaves it: two cores, a few messages, in memory that a fuzzer's input can reach all over.

use trace_ring::layout::{
    ABI_VERSION, Context, CoreEntry, Directory, LANES_PER_CORE, LOG_STRIDE, LaneDescriptor, MAGIC, PairSlot, Shape,
    core_state, lay_out, run_state,
};
use trace_ring::plan::LEAST_LOG2_RECORDS;
use trace_ring::record::{Event, FLAG_DELIVERED, Kind, RECORD_BYTES};
use zerocopy::{FromZeros as _, IntoBytes as _};

const CORES: u64 = 2;
const LOG2: u32 = LEAST_LOG2_RECORDS as u32;
/// More messages than a lane has room for.
const MESSAGES: u64 = (1 << LOG2) + 5;

/// The region, whole blocks of it as they lie in memory.
pub fn small_region() -> Vec<u8> {
    let lanes = CORES * LANES_PER_CORE as u64;
    let shape =
        Shape { cores: CORES, phases: 1, meta: 2, slots: 1, histograms: 1, descriptors: 0, records: lanes << LOG2 };
    let (sections, region_len) = lay_out(shape);
    let mut region = vec![0; region_len as usize];
    let mut put = |offset: u64, bytes: &[u8]| {
        if let Some(place) = region.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..bytes.len())) {
            place.copy_from_slice(bytes);
        }
    };
    let mut directory = Directory {
        magic: MAGIC,
        version: ABI_VERSION,
        header_len: size_of::<Directory>() as u32,
        nonce: 0x00C0_FFEE,
        region_len,
        counter_hz: 62_500_000,
        sections,
        core_count: CORES as u32,
        slot_count: 1,
        histogram_count: 1,
        phase_count: 1,
        meta_len: 2,
        log_stride: LOG_STRIDE as u32,
        trace_level: 1,
        ..Directory::new_zeroed()
    };
    directory.status.state = run_state::ENDED;
    put(0, directory.as_bytes());
    put(sections.meta, b"{}");
    let slot = PairSlot { to: 1, sent: MESSAGES, ..PairSlot::new_zeroed() };
    put(sections.slots, slot.as_bytes());
    for core in 0..CORES {
        let entry = CoreEntry { mpidr: core, state: core_state::UP, cntfrq: 62_500_000, ..CoreEntry::new_zeroed() };
        put(sections.cores + core * size_of::<CoreEntry>() as u64, entry.as_bytes());
    }
    for lane in 0..lanes {
        let descriptor = LaneDescriptor {
            offset: sections.records + (lane << LOG2) * RECORD_BYTES,
            log2_records: LOG2,
            context: (lane % LANES_PER_CORE as u64) as u16,
            core: (lane / LANES_PER_CORE as u64) as u16,
            reserved: [0; 2],
        };
        put(sections.lanes + lane * size_of::<LaneDescriptor>() as u64, descriptor.as_bytes());
    }
    // Core 0 sends from its thread, core 1 receives in its interrupt's handler.
    for (core, context, kind, later) in [(0, Context::Thread, Kind::Send, 0), (1, Context::Irq, Kind::Receive, 10)] {
        let lane = core * LANES_PER_CORE as u64 + context as u64;
        for index in 0..MESSAGES {
            let sent = 1000 * index;
            let event = Event {
                t: sent + later,
                kind,
                flags: FLAG_DELIVERED,
                peer: 1 - core as u16,
                msg: index as u32,
                intid: 0,
                extra: 0,
                arg: if later == 0 { 0 } else { sent },
            };
            let slot = (lane << LOG2) + index % (1 << LOG2);
            put(sections.records + slot * RECORD_BYTES, event.words(index).as_bytes());
        }
        put(sections.heads + core * 64 + context as u64 * 8, &MESSAGES.to_le_bytes());
    }
    region
}
