//! A long capture of a target that does not exist: the same records for the same arguments, of any number, in little memory.
//!
//! It has a plan and records, and no snapshot: all counts are then of the records, which is the most that joining ever does.

use std::collections::BTreeMap;
use std::path::Path;

use host::capture::{Attachment, CaptureWriter, Ended, Ending, LaneAccount, PLAN_ATTACHMENT, RunInfo, VerdictScope};
use host::plan::{PlanRequest, compile};
use trace_ring::layout::{Context, LANES_PER_CORE};
use trace_ring::plan::Plan;
use trace_ring::record::{Event, FLAG_DELIVERED, Kind, SLOT_SHIFT};
use zerocopy::IntoBytes;

/// Records that all lanes gather between two looks of the drain.
const DRAINED: u64 = 1 << 16;

/// What the cores do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One IPI outstanding, pair after pair: a send and its answer, 2 records for each IPI.
    Matrix,
    /// Two senders at each receiver, one of which sends twice: one acknowledge answers all, 5 records for 3 IPIs.
    Storm,
}

impl Shape {
    /// Its name, which is that of its plan.
    pub const fn name(self) -> &'static str {
        match self {
            Shape::Matrix => "matrix",
            Shape::Storm => "storm",
        }
    }
}

type Failed = Box<dyn std::error::Error>;

/// A place of the plan where IPIs are counted.
struct Slot {
    from: u16,
    to: u16,
    intid: u8,
    state: u8,
    /// Which (from, to, INTID) numbers its messages.
    flow: usize,
}

struct Target {
    now: u64,
    state: u64,
    /// The newest message of each flow.
    numbers: Vec<u32>,
    lanes: Vec<(u64, Vec<u8>)>,
    records: u64,
}

impl Target {
    fn emit(&mut self, core: u16, context: Context, event: Event) {
        if let Some((next, bytes)) = self.lanes.get_mut(usize::from(core) * LANES_PER_CORE + context as usize) {
            bytes.extend_from_slice(event.words(*next).as_bytes());
            *next += 1;
            self.records += 1;
        }
    }

    /// A number below `below`, by xorshift64*.
    fn draw(&mut self, below: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }

    /// Sends a message of a slot; gives its number and its time.
    fn send(&mut self, index: usize, slot: &Slot) -> (u32, u64) {
        let number = &mut self.numbers[slot.flow];
        *number += 1;
        let (msg, t) = (*number, self.now);
        let arg = (index as u64) << SLOT_SHIFT | 2;
        let (peer, intid) = (slot.to, slot.intid);
        self.emit(slot.from, Context::Thread, Event { t, kind: Kind::Send, flags: 0, peer, msg, intid, extra: 0, arg });
        self.now += 3 + self.draw(4);
        (msg, t)
    }

    /// The receiver of a slot answers its newest message, and `extra` older ones, now.
    fn answer(&mut self, slot: &Slot, (msg, arg): (u32, u64), extra: u8, delivered: bool) {
        let flags = slot.state | if delivered { FLAG_DELIVERED } else { 0 };
        let (t, peer, intid) = (self.now, slot.from, slot.intid);
        self.emit(slot.to, Context::Irq, Event { t, kind: Kind::Receive, flags, peer, msg, intid, extra, arg });
    }

    fn drain(&mut self, writer: &mut CaptureWriter) -> Result<(), Failed> {
        for (lane, (next, bytes)) in self.lanes.iter_mut().enumerate().filter(|(_, (_, bytes))| !bytes.is_empty()) {
            let (core, context) = ((lane / LANES_PER_CORE) as u16, (lane % LANES_PER_CORE) as u8);
            writer.lane_records(core, context, *next - bytes.len() as u64 / 32, bytes)?;
            bytes.clear();
        }
        Ok(())
    }
}

/// Writes a capture of at least so many records; gives how many it has.
pub fn write(path: &Path, shape: Shape, cores: u16, records: u64) -> Result<u64, Failed> {
    let request = PlanRequest { plan: Some(shape.name().into()), cores, nonce: 1, ..PlanRequest::default() };
    let compiled = compile(&request)?;
    let mut aligned = vec![0_u64; compiled.blob.len().div_ceil(8)];
    aligned.as_mut_bytes()[..compiled.blob.len()].copy_from_slice(&compiled.blob);
    let plan = Plan::parse(aligned.as_bytes()).map_err(|error| format!("the plan: {error:?}"))?;
    let mut flows = BTreeMap::new();
    let mut slots = Vec::new();
    for slot in plan.slots.iter() {
        let count = flows.len();
        let flow = *flows.entry((slot.from, slot.to, slot.intid)).or_insert(count);
        slots.push(Slot { from: slot.from, to: slot.to, intid: slot.intid, state: slot.state, flow });
    }
    let info = RunInfo {
        created: "2026-01-02T03:04:05Z".into(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        source: "qemu".into(),
        machine: "virt".into(),
        board: "virt".into(),
        cpu: "max".into(),
        accel: "tcg".into(),
        verdict_scope: VerdictScope::Emulated,
        deterministic: false,
        qemu_version: String::new(),
        qemu_arguments: Vec::new(),
        tags: BTreeMap::new(),
        plan: compiled.meta.clone(),
        firmware_build_id: String::new(),
        nonce: 1,
        cores,
        notes: vec!["made by hand: no target ran".into()],
    };
    let data = compiled.blob.clone();
    let plan = Attachment { name: PLAN_ATTACHMENT.into(), media_type: "application/octet-stream".into(), data };
    let mut writer = CaptureWriter::create(path, &info, &[plan])?;
    let mut target = Target {
        now: 1_000_000,
        state: 1,
        numbers: vec![0; flows.len()],
        lanes: vec![(0, Vec::new()); usize::from(cores) * LANES_PER_CORE],
        records: 0,
    };
    // Pairs for the storm: slots of one receiver and INTID, next to each other.
    let mut order: Vec<usize> = (0..slots.len()).filter(|index| slots[*index].from != slots[*index].to).collect();
    if shape == Shape::Storm {
        order.sort_by_key(|index| (slots[*index].to, slots[*index].intid, slots[*index].from));
    }
    let mut drained = 0;
    while target.records < records {
        let before = target.records;
        for at in order.chunks(if shape == Shape::Storm { 2 } else { 1 }) {
            match at {
                [one] => {
                    let sent = target.send(*one, &slots[*one]);
                    target.now += 10 + target.draw(50);
                    target.answer(&slots[*one], sent, 0, true);
                }
                [a, b] => {
                    let (first, second) = (&slots[*a], &slots[*b]);
                    if (first.to, first.intid) != (second.to, second.intid) || first.flow == second.flow {
                        continue;
                    }
                    target.send(*a, first);
                    let of_b = target.send(*b, second);
                    let of_a = target.send(*a, first);
                    target.now += 10 + target.draw(50);
                    target.answer(first, of_a, 1, true);
                    target.answer(second, of_b, 0, false);
                }
                _ => {}
            }
            target.now += 20;
            if target.records - drained >= DRAINED {
                drained = target.records;
                target.drain(&mut writer)?;
            }
        }
        if target.records == before {
            return Err("the plan has no pairs".into());
        }
    }
    target.drain(&mut writer)?;
    let lanes = target.lanes.iter().enumerate().map(|(lane, (written, _))| LaneAccount {
        core: (lane / LANES_PER_CORE) as u16,
        context: (lane % LANES_PER_CORE) as u8,
        written: *written,
        accepted: *written,
        lapped: 0,
        torn: 0,
        dropped: 0,
        left: 0,
    });
    writer.finish(&Ending { lanes: lanes.collect(), ..Ending::new(Ended::Complete, 1.0) })?;
    Ok(target.records)
}
