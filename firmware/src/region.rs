//! The region: laid out in memory as `trace_ring::layout` says, so that a host that reads it at any time finds its way.
// UNSAFETY: the region is raw memory that this module turns into typed parts, each with one writer.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64};

use trace_ring::calls::{CallDescriptor, LiveEntry};
use trace_ring::layout::{
    ABI_VERSION, COST_RECORDS, Context, CoreEntry, Directory, FaultEntry, HeadLine, LANES_PER_CORE, LOG_STRIDE,
    LaneDescriptor, LogHeader, MAGIC, PairSlot, PhaseResult, Sections, Status, Truth, lay_out,
};
use trace_ring::plan::{Plan, Policy};
use trace_ring::record::{Event, Kind};
use trace_ring::sync::{Slot, Slots};
use trace_ring::writer::LaneWriter;
use zerocopy::FromZeros;

use crate::arch;

/// A region under construction, and then in use.
#[derive(Clone, Copy)]
pub struct Region {
    base: u64,
    sections: Sections,
}

impl Region {
    /// Bytes that a plan's region takes.
    pub fn length(plan: &Plan<'_>) -> u64 {
        lay_out(plan.shape()).1
    }

    /// Lays a region out at `base`, which is mapped and free: everything before the records is zeroed, lanes and slots are
    /// described. Records stay as they are: nobody reads above a head.
    pub fn build(base: u64, plan: &Plan<'_>) -> Self {
        let (sections, _) = lay_out(plan.shape());
        let region = Region { base, sections };
        // SAFETY: the caller found this memory free and mapped it.
        unsafe { core::ptr::write_bytes(base as *mut u8, 0, sections.records as usize) };
        let mut offset = sections.records;
        for (core, program) in plan.programs.iter().enumerate() {
            for (context, log2) in program.log2_records.into_iter().enumerate() {
                let lane = LaneDescriptor {
                    offset,
                    log2_records: log2.into(),
                    context: context as u16,
                    core: core as u16,
                    reserved: [0; 2],
                };
                // SAFETY: inside the lane section.
                unsafe { region.at::<LaneDescriptor>(sections.lanes, core * LANES_PER_CORE + context).write(lane) };
                offset += trace_ring::record::RECORD_BYTES << log2;
            }
        }
        for (index, slot) in plan.slots.iter().enumerate() {
            let place = region.at::<PairSlot>(sections.slots, index);
            // SAFETY: inside the slot section, zeroed above.
            unsafe {
                (*place).from = slot.from;
                (*place).to = slot.to;
                (*place).phase = slot.phase;
                (*place).intid = slot.intid;
                (*place).state = slot.state;
                (*place).histogram = slot.histogram;
                (*place).kind = slot.kind;
                (*place).delivery = slot.delivery;
                (*place).min = u64::MAX;
            }
        }
        // SAFETY: inside the meta section, which `lay_out` made for as many bytes.
        unsafe { core::ptr::copy_nonoverlapping(plan.meta.as_ptr(), region.at(sections.meta, 0), plan.meta.len()) };
        region
    }

    fn at<T>(&self, section: u64, index: usize) -> *mut T {
        ((self.base + section) as *mut T).wrapping_add(index)
    }

    /// Ticks that [`COST_RECORDS`] records take in this memory, which holds a lane of 16 behind a line for its head. The
    /// loop is the measured path's own append, warmed up once.
    pub fn record_cost(memory: u64) -> u32 {
        const LOG2: u32 = 4;
        let event = Event { t: 0, kind: Kind::Mark, flags: 0, peer: 0, msg: 0, intid: 0, extra: 0, arg: 0 };
        // SAFETY: the caller's own memory, mapped writable, 64 bytes and 16 records long, read by nobody yet.
        let (slots, head, dropped) = unsafe {
            let word = memory as *const AtomicU64;
            (Slots::from_raw((memory + 64) as *const Slot, LOG2), &*word, &*word.add(1))
        };
        let lane = LaneWriter::new(slots, head, dropped, Policy::Overwrite);
        let run = || (0..COST_RECORDS).for_each(|_| lane.append(event));
        run();
        let start = arch::counter_ordered();
        run();
        let ticks = arch::counter_ordered() - start;
        head.store(0, core::sync::atomic::Ordering::Relaxed);
        ticks as u32
    }

    /// The region's records, for [`Region::record_cost`]: nobody reads above a head.
    pub fn records(&self) -> u64 {
        self.base + self.sections.records
    }

    /// Writes the directory; its magic last.
    pub fn publish(&self, directory: Directory) {
        let place = self.base as *mut Directory;
        // SAFETY: the region's first bytes. Field by field would be no safer: nobody reads before the magic stands.
        unsafe {
            place.write(Directory {
                magic: 0,
                version: ABI_VERSION,
                region_pa: self.base,
                sections: self.sections,
                ..directory
            });
            arch::synchronize();
            core::ptr::addr_of_mut!((*place).magic).write_volatile(MAGIC);
        }
        arch::synchronize();
    }

    /// An empty directory to fill in.
    pub fn blank() -> Directory {
        Directory {
            header_len: size_of::<Directory>() as u32,
            log_stride: LOG_STRIDE as u32,
            ..Directory::new_zeroed()
        }
    }

    /// The status line.
    pub fn status(&self) -> *mut Status {
        (self.base + core::mem::offset_of!(Directory, status) as u64) as *mut Status
    }

    /// The host's request word.
    pub fn request(&self) -> *const AtomicU32 {
        (self.base + core::mem::offset_of!(Directory, request) as u64) as *const AtomicU32
    }

    /// A core's entry.
    pub fn core(&self, id: usize) -> *mut CoreEntry {
        self.at(self.sections.cores, id)
    }

    /// A core's fault entry.
    pub fn fault(&self, id: usize) -> *mut FaultEntry {
        self.at(self.sections.faults, id)
    }

    /// A core's twin truth.
    pub fn truth(&self, id: usize) -> *mut Truth {
        self.at(self.sections.truth, id)
    }

    /// A core's log.
    pub fn log(&self, id: usize) -> *mut LogHeader {
        (self.base + self.sections.logs + id as u64 * LOG_STRIDE) as *mut LogHeader
    }

    /// A core's own line.
    pub fn live(&self, id: usize) -> *mut LiveEntry {
        self.at(self.sections.live, id)
    }

    /// The call descriptors.
    pub fn descriptors(&self) -> *mut CallDescriptor {
        self.at(self.sections.calls, 0)
    }

    /// Phase results.
    pub fn phases(&self) -> *mut PhaseResult {
        self.at(self.sections.phases, 0)
    }

    /// Pair slots.
    pub fn slots(&self) -> *mut PairSlot {
        self.at(self.sections.slots, 0)
    }

    /// Histograms.
    pub fn histograms(&self) -> *mut u32 {
        self.at(self.sections.histograms, 0)
    }

    /// The records of a lane, to be read by the context that writes them, and the count of those that it turned away.
    pub fn records_of(&self, id: usize, context: Context) -> (Slots<'static>, &'static AtomicU64) {
        let heads: *mut HeadLine = self.at(self.sections.heads, id);
        let index = context as usize;
        // SAFETY: as in `lanes`. Nobody writes through these.
        unsafe {
            let lane = *self.at::<LaneDescriptor>(self.sections.lanes, id * LANES_PER_CORE + index);
            let slots = Slots::from_raw((self.base + lane.offset) as *const Slot, lane.log2_records);
            (slots, &*core::ptr::addr_of!((*heads).dropped[index]).cast::<AtomicU64>())
        }
    }

    /// The writing ends of a core's lanes. To be called once for each core.
    pub fn lanes(&self, id: usize, policy: Policy) -> [LaneWriter<'static>; LANES_PER_CORE] {
        let heads: *mut HeadLine = self.at(self.sections.heads, id);
        Context::ALL.map(|context| {
            let index = context as usize;
            // SAFETY: the descriptor was written by `build`; records and head words lie inside the region, which stays
            // mapped for ever; each lane gets one writer.
            unsafe {
                let lane = *self.at::<LaneDescriptor>(self.sections.lanes, id * LANES_PER_CORE + index);
                let slots = Slots::from_raw((self.base + lane.offset) as *const Slot, lane.log2_records);
                let head = &*core::ptr::addr_of!((*heads).head[index]).cast::<AtomicU64>();
                let dropped = &*core::ptr::addr_of!((*heads).dropped[index]).cast::<AtomicU64>();
                LaneWriter::new(slots, head, dropped, policy)
            }
        })
    }
}
