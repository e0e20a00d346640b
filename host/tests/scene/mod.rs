//! A target's memory, made by hand: cores, what they do, descriptors, records. A test says what lies where; nothing runs.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;

use host::capture::{Attachment, CaptureWriter, ELF_ATTACHMENT, Ended, Ending, LaneAccount, RunInfo, VerdictScope};
use host::monitor::CorePicture;
use host::plan::{Keep, PlanMeta, PlanRequest, compile};
use trace_ring::calls::{CallDescriptor, IpiKind, LiveEntry, descriptors_per_core};
use trace_ring::layout::{
    ABI_VERSION, Context, CoreEntry, Directory, FaultEntry, HeadLine, LANES_PER_CORE, LOG_STRIDE, LaneDescriptor,
    MAGIC, NO_HISTOGRAM, PairSlot, Sections, Shape, core_state, lay_out, run_state,
};
use trace_ring::reader::Loss;
use trace_ring::record::{Event, Kind, RECORD_BYTES, Words};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// Where the image is linked.
pub const CODE: u64 = 0xFFFF_FFFF_8000_0000;

/// Functions of the firmware: name, offset from [`CODE`], bytes.
pub const FUNCTIONS: [(&str, u64, u64); 4] = [
    ("drain_local_list", 0x1000, 0x40),
    ("slow_callback", 0x1040, 0x80),
    ("call_single", 0x1100, 0x100),
    ("generic_smp_call_function_single_interrupt", 0x1200, 0x60),
];

/// Address of a function.
pub fn function(name: &str) -> u64 {
    let (_, offset, _) = FUNCTIONS.iter().find(|(known, ..)| *known == name).expect("is one of them");
    CODE + offset
}

/// Capacity of each lane, as a power of two.
const LOG2_RECORDS: u32 = 6;

/// Physical address of the image.
pub const IMAGE: u64 = 0x4020_0000;

/// Physical address of the region.
pub const REGION: u64 = 0x4800_0000;

pub struct Scene {
    pub hz: u64,
    pub calls: bool,
    pub level: &'static str,
    pub keep: Keep,
    pub cores: Vec<CoreEntry>,
    pub live: Vec<LiveEntry>,
    pub slots: Vec<PairSlot>,
    pub descriptors: Vec<CallDescriptor>,
    pub faults: Vec<FaultEntry>,
    pub state: u32,
    pub reason: u32,
    pub detail: u32,
    pub now: u64,
    pub lanes: Vec<Vec<Words>>,
    pub elf: bool,
    pub snapshot: bool,
    pub picture: Option<Vec<CorePicture>>,
    pub ended: Option<Ended>,
    /// Records of a lane that the target wrote beyond those that are here.
    pub left: BTreeMap<usize, u64>,
}

impl Scene {
    /// Cores that are up, and a slot of kind `call_function` for each pair and one of a bare SGI 2 from core 0 to 1.
    pub fn new(cores: u16) -> Scene {
        let count = usize::from(cores);
        let entry = |id: usize| CoreEntry {
            mpidr: ((id as u64 / 16) << 8) | (id as u64 % 16),
            state: core_state::UP,
            gicr_pa: 0x80A_0000 + id as u64 * 0x2_0000,
            ..CoreEntry::new_zeroed()
        };
        let mut slots = Vec::new();
        for from in 0..cores {
            for to in 0..cores {
                let kind = IpiKind::CallFunction.slot_code();
                slots.push(PairSlot { from, to, intid: 1, kind, histogram: NO_HISTOGRAM, ..PairSlot::new_zeroed() });
            }
        }
        slots.push(PairSlot { from: 0, to: 1, intid: 2, histogram: NO_HISTOGRAM, ..PairSlot::new_zeroed() });
        Scene {
            hz: 62_500_000,
            calls: true,
            level: "calls",
            keep: Keep::All,
            cores: (0..count).map(entry).collect(),
            live: vec![LiveEntry { waits_for: 0xFFFF, ..LiveEntry::default() }; count],
            slots,
            descriptors: vec![CallDescriptor::default(); count * descriptors_per_core(cores.into()) as usize],
            faults: (0..count).map(|_| FaultEntry::new_zeroed()).collect(),
            state: run_state::ENDED,
            reason: 0,
            detail: 0,
            now: 0,
            lanes: vec![Vec::new(); count * LANES_PER_CORE],
            elf: true,
            snapshot: true,
            picture: None,
            ended: Some(Ended::Complete),
            left: BTreeMap::new(),
        }
    }

    pub fn slot(&self, from: u16, to: u16) -> u64 {
        u64::from(from) * self.cores.len() as u64 + u64::from(to)
    }

    /// The slot of the bare SGI.
    pub fn bare_slot(&self) -> u64 {
        self.slots.len() as u64 - 1
    }

    pub fn emit(&mut self, core: u16, context: Context, event: Event) {
        let lane = &mut self.lanes[usize::from(core) * LANES_PER_CORE + context as usize];
        lane.push(event.words(lane.len() as u64));
    }

    /// An event with nothing in it.
    pub fn event(t: u64, kind: Kind, peer: u16, intid: u8) -> Event {
        Event { t, kind, flags: 0, peer, msg: 0, intid, extra: 0, arg: 0 }
    }

    fn plan(&self) -> PlanMeta {
        let request = PlanRequest { plan: Some("ping".into()), cores: 2, ..PlanRequest::default() };
        let mut meta = compile(&request).expect("the plan compiles").meta;
        (meta.name, meta.level, meta.keep) = ("calls".into(), self.level.into(), self.keep);
        meta.cores = self.cores.len() as u16;
        meta
    }

    fn layout(&self) -> (Sections, u64) {
        lay_out(Shape {
            cores: self.cores.len() as u64,
            phases: 0,
            meta: 0,
            slots: self.slots.len() as u64,
            histograms: 0,
            descriptors: if self.calls { self.descriptors.len() as u64 } else { 0 },
            records: (self.lanes.len() as u64) << LOG2_RECORDS,
        })
    }

    /// Physical address of a descriptor.
    pub fn csd(&self, index: usize) -> u64 {
        REGION + self.layout().0.calls + 64 * index as u64
    }

    /// The whole region, records included.
    pub fn region(&self) -> Vec<u8> {
        let (sections, length) = self.layout();
        let mut region = vec![0; length as usize];
        let mut directory = Directory::new_zeroed();
        directory.magic = MAGIC;
        directory.version = ABI_VERSION;
        directory.header_len = size_of::<Directory>() as u32;
        directory.nonce = 42;
        directory.region_pa = REGION;
        directory.region_len = length;
        (directory.image_pa, directory.image_len) = (IMAGE, 0x10_0000);
        directory.counter_hz = self.hz;
        directory.sections = sections;
        directory.core_count = self.cores.len() as u32;
        directory.slot_count = self.slots.len() as u32;
        directory.log_stride = LOG_STRIDE as u32;
        directory.descriptor_count = if self.calls { self.descriptors.len() as u32 } else { 0 };
        directory.status.state = self.state;
        directory.status.reason = self.reason;
        directory.status.detail = self.detail;
        directory.status.ended = self.now;
        let mut put = |at: u64, bytes: &[u8]| region[at as usize..][..bytes.len()].copy_from_slice(bytes);
        put(0, directory.as_bytes());
        put(sections.cores, self.cores.as_bytes());
        put(sections.slots, self.slots.as_bytes());
        put(sections.faults, self.faults.as_bytes());
        put(sections.live, self.live.as_bytes());
        if self.calls {
            put(sections.calls, self.descriptors.as_bytes());
        }
        for (core, lanes) in self.lanes.chunks(LANES_PER_CORE).enumerate() {
            let line =
                HeadLine { head: std::array::from_fn(|lane| lanes[lane].len() as u64), dropped: [0; LANES_PER_CORE] };
            put(sections.heads + core as u64 * 64, line.as_bytes());
            for (context, lane) in lanes.iter().enumerate() {
                let index = (core * LANES_PER_CORE + context) as u64;
                let offset = sections.records + (index << LOG2_RECORDS) * RECORD_BYTES;
                let descriptor = LaneDescriptor {
                    offset,
                    log2_records: LOG2_RECORDS,
                    context: context as u16,
                    core: core as u16,
                    reserved: [0; 2],
                };
                put(sections.lanes + index * 32, descriptor.as_bytes());
                for (number, words) in lane.iter().enumerate() {
                    let slot = number as u64 & ((1 << LOG2_RECORDS) - 1);
                    put(offset + slot * RECORD_BYTES, words.as_bytes());
                }
            }
        }
        region
    }

    pub fn info(&self) -> RunInfo {
        RunInfo {
            created: "2026-01-02T03:04:05Z".into(),
            tool_version: "0.1.0".into(),
            source: "qemu".into(),
            machine: "virt".into(),
            board: "virt".into(),
            cpu: "max".into(),
            accel: "tcg".into(),
            verdict_scope: VerdictScope::Emulated,
            deterministic: false,
            qemu_version: "10.0.0".into(),
            qemu_arguments: Vec::new(),
            tags: BTreeMap::new(),
            plan: self.plan(),
            firmware_build_id: "00ff".into(),
            nonce: 42,
            cores: self.cores.len() as u16,
            notes: Vec::new(),
        }
    }

    /// Writes it as a capture, lane after lane.
    pub fn capture(&self, path: &Path) {
        let whole: Vec<Batch> =
            (0..self.lanes.len()).map(|lane| Batch::Records(lane, 0, self.lanes[lane].len())).collect();
        self.capture_in(path, &whole);
    }

    /// Writes it as a capture whose lanes come in these batches.
    pub fn capture_in(&self, path: &Path, batches: &[Batch]) {
        let elf =
            Attachment { name: ELF_ATTACHMENT.into(), media_type: "application/x-elf".into(), data: elf(&FUNCTIONS) };
        let attachments = if self.elf { vec![elf] } else { Vec::new() };
        let mut capture = CaptureWriter::create(path, &self.info(), &attachments).expect("is created");
        for batch in batches {
            let place = |lane: usize| ((lane / LANES_PER_CORE) as u16, (lane % LANES_PER_CORE) as u8);
            match *batch {
                Batch::Records(_, first, end) if first == end => {}
                Batch::Records(lane, first, end) => {
                    let (core, context) = place(lane);
                    let bytes = self.lanes[lane][first..end].as_bytes();
                    capture.lane_records(core, context, first as u64, bytes).expect("is written");
                }
                Batch::Lost(lane, first, count, cause) => {
                    let (core, context) = place(lane);
                    capture.lane_loss(core, context, first as u64, count as u64, cause).expect("is written");
                }
            }
        }
        if self.snapshot {
            let region = self.region();
            let records = self.layout().0.records as usize;
            capture.snapshot(&region[..records]).expect("is written");
        }
        if let Some(picture) = &self.picture {
            capture.picture(picture).expect("is written");
        }
        let Some(ended) = self.ended else { return };
        let lanes = (0..self.lanes.len()).map(|lane| {
            let accepted = self.lanes[lane].len() as u64;
            let left = self.left.get(&lane).copied().unwrap_or(0);
            LaneAccount {
                core: (lane / LANES_PER_CORE) as u16,
                context: (lane % LANES_PER_CORE) as u8,
                written: accepted + left,
                accepted,
                lapped: 0,
                torn: 0,
                dropped: 0,
                left,
            }
        });
        let ending = Ending { lanes: lanes.collect(), ..Ending::new(ended, 1.0) };
        capture.finish(&ending).expect("is finished");
    }
}

/// What a capture holds of a lane, in the order of the file.
#[derive(Clone, Copy, Debug)]
pub enum Batch {
    /// Records `.1..` to `.2`.
    Records(usize, usize, usize),
    /// `.2` records from `.1` on were missed.
    Lost(usize, usize, usize, Loss),
}

/// An ELF with these functions and nothing else.
pub fn elf(functions: &[(&str, u64, u64)]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut symbols = vec![0; 24];
    for (name, offset, size) in functions {
        symbols.extend((strings.len() as u32).to_le_bytes());
        // STT_FUNC, local; section 1.
        symbols.extend([2, 0, 1, 0]);
        symbols.extend((CODE + offset).to_le_bytes());
        symbols.extend(size.to_le_bytes());
        strings.extend(name.bytes().chain([0]));
    }
    let names = b"\0.text\0.symtab\0.strtab\0";
    let header = 64;
    let (symbols_at, strings_at) = (header, header + symbols.len());
    let names_at = strings_at + strings.len();
    let sections_at = (names_at + names.len()).next_multiple_of(8);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 183, 0, 1, 0, 0, 0]);
    file.extend([0; 16]);
    file.extend((sections_at as u64).to_le_bytes());
    file.extend([0; 4]);
    for half in [64u16, 56, 0, 64, 4, 3] {
        file.extend(half.to_le_bytes());
    }
    file.extend(&symbols);
    file.extend(&strings);
    file.extend(names);
    file.resize(sections_at, 0);
    // Name, type, flags, address, offset, size, link, info, alignment, entry size. The last one holds all names.
    let length = strings.len() as u64;
    for (name, kind, flags, address, offset, size, link, info, entry) in [
        (0u32, 0u32, 0u64, 0u64, 0u64, 0u64, 0u32, 0u32, 0u64),
        (1, 1, 6, CODE + 0x1000, 0, 0x1000, 0, 0, 0),
        (7, 2, 0, 0, symbols_at as u64, symbols.len() as u64, 3, functions.len() as u32 + 1, 24),
        (15, 3, 0, 0, strings_at as u64, length + names.len() as u64, 0, 0, 0),
    ] {
        let name = if kind == 0 { 0 } else { length as u32 + name };
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for word in [flags, address, offset, size] {
            file.extend(word.to_le_bytes());
        }
        file.extend(link.to_le_bytes());
        file.extend(info.to_le_bytes());
        file.extend(8u64.to_le_bytes());
        file.extend(entry.to_le_bytes());
    }
    file
}
