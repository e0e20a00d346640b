//! Who took the core away: heartbeats that come late, polling loops that look at the counter, and what both tell.
//!
//! A timer's interrupt is the core's own and is due at a known tick. Taken late, the core was away, and nobody's IPI is to blame.
//! Only time in which the core was ready to be interrupted counts: what it spends in handlers or with interrupts masked is its own.
//! See `docs/truth.md`, "Stolen time". Where a plan wants none of this, nothing of it is on any path.
// UNSAFETY: a core's own entry of the region is written through a raw pointer.
#![expect(unsafe_code)]

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use trace_ring::layout::{Context, LANES_PER_CORE};
use trace_ring::plan::{MOST_GAPS, PlanSlot, WAKE_SGI};
use trace_ring::record::{Event, Kind, PEER_ALL, Witness};
use trace_ring::sync::Slots;

use crate::arch::{read_register, write_register};
use crate::ipi::OFF;
use crate::percore::{Core, Shared};
use crate::{arch, clock, gic, ipi, twins};

/// What a core keeps for this.
pub struct Watch {
    /// Ticks between heartbeats in this phase; 0: none.
    pub heartbeat: Cell<u64>,
    /// Ticks that make a gap; 0: gaps are not looked for.
    pub gap: Cell<u64>,
    /// When the next heartbeat is due, ticks; 0: nobody waits.
    pub beat_at: Cell<u64>,
    /// What the timer is armed for, ticks; 0: it is off.
    pub armed: Cell<u64>,
    /// Since when nothing of the core's own kept it from the timer's interrupt, ticks.
    pub open_since: Cell<u64>,
    /// The loop that polls is the witness: it sees what the timer sees, and more.
    looks: Cell<bool>,
    /// Entry of the first interrupt since the loop's last look; 0: none was noted.
    since_look: Cell<u64>,
    /// All handlers of this core note their entries; else the measured ones leave records only.
    notes_all: bool,
    /// The records of the IRQ lane, to be read here.
    records: Slots<'static>,
    /// Records that this lane turned away.
    dropped: &'static AtomicU64,
    /// Records told in this round, by context.
    told: [Cell<u32>; LANES_PER_CORE],
}

impl Watch {
    /// A core that is not watched yet.
    pub fn new(notes_all: bool, records: Slots<'static>, dropped: &'static AtomicU64) -> Self {
        Watch {
            heartbeat: Cell::new(0),
            gap: Cell::new(0),
            beat_at: Cell::new(0),
            armed: Cell::new(0),
            open_since: Cell::new(0),
            looks: Cell::new(false),
            since_look: Cell::new(0),
            notes_all,
            records,
            dropped,
            told: [const { Cell::new(0) }; LANES_PER_CORE],
        }
    }

    /// The plan begins on this core.
    pub fn begin(&self) {
        self.gap.set(clock::ticks(Shared::get().plan.header.gap_ns));
    }

    /// A phase begins. A core's heart beats where somebody's messages to it are measured: what nobody asks of it needs no witness,
    /// and hundreds of cores that beat take an emulator's whole time.
    pub fn begin_phase(&self, core: u64, phase: u32) {
        let shared = Shared::get();
        let heartbeat = shared.plan.header.heartbeat_ns;
        if heartbeat != 0 {
            let receives = |slot: &PlanSlot| u64::from(slot.to) == core && u32::from(slot.phase) == phase;
            let beats = shared.plan.slots.iter().any(receives);
            self.heartbeat.set(if beats { clock::ticks(heartbeat) } else { 0 });
        }
    }

    /// It is over: what comes then is no evidence of anything.
    pub fn end(&self) {
        self.heartbeat.set(0);
        self.gap.set(0);
    }

    /// Another round of the plan.
    pub fn new_round(&self) {
        self.told.iter().for_each(|told| told.set(0));
    }

    /// A wait begins: from now on the timer may be judged, and a heartbeat is due in time. The timer is still to be armed.
    pub fn begin_wait(&self) {
        if self.heartbeat.get() | self.gap.get() != 0 {
            self.begin_wait_at(arch::counter());
        }
    }

    /// The same from the time `at` on.
    pub fn begin_wait_at(&self, at: u64) {
        let heartbeat = self.heartbeat.get();
        self.open_since.set(at);
        self.beat_at.set(if heartbeat == 0 { 0 } else { at + heartbeat });
    }

    /// The wait is over.
    pub fn end_wait(&self) {
        self.beat_at.set(0);
        self.looks.set(false);
    }

    /// No loop polls any more: the timer is the witness again.
    pub fn stop_looking(&self) {
        self.looks.set(false);
    }

    /// The core's own work kept it from its timer until now.
    pub fn was_busy(&self) {
        if self.gap.get() != 0 {
            self.open_since.set(arch::counter_ordered());
        }
    }

    /// Whether every interrupt leaves its entry somewhere, noted or in a record.
    fn knows_entries(&self) -> bool {
        self.notes_all || Shared::get().mode != OFF && self.dropped.load(Ordering::Relaxed) == 0
    }

    /// Entry of the first interrupt at or after `since`. `noted`: of those that are noted. `None`: nobody can say.
    fn first_entry(&self, head: u64, since: u64, noted: u64) -> Option<u64> {
        // More than that many in a row is a flood, in which the core is anything but away.
        const MOST: u64 = 64;
        if !self.knows_entries() {
            return None;
        }
        let mut first = if noted == 0 { None } else { Some(noted) };
        if self.notes_all {
            return first;
        }
        for back in 1..=head {
            let t = self.records.get(head - back).0[0].load(Ordering::Relaxed); // this core's own record
            if t < since {
                break;
            }
            if back >= MOST.min(self.records.capacity()) {
                return None;
            }
            first = Some(first.map_or(t, |first| first.min(t)));
        }
        first
    }
}

/// Notes an interrupt that was taken at `entry`, in the handler of `context`; not by the measured handlers. Where the timer was
/// due long before, the core was away.
pub fn note(core: &Core, context: Context, entry: u64) {
    let watch = &core.watch;
    if watch.since_look.get() == 0 {
        watch.since_look.set(entry);
    }
    let (gap, due) = (watch.gap.get(), watch.armed.get());
    // Only a core that waits is ready whenever its timer is.
    if gap == 0 || due == 0 || core.wait_until.get() == 0 || watch.looks.get() {
        return;
    }
    let since = due.max(watch.open_since.get());
    if entry.saturating_sub(since) >= gap {
        late(core, context, since, entry);
    }
}

#[cold]
#[inline(never)]
fn late(core: &Core, context: Context, since: u64, entry: u64) {
    let watch = &core.watch;
    // Others go first where their INTID is lower. The first that was taken shows when the core was back.
    let back = match watch.first_entry(core.lane(Context::Irq).head(), since, entry) {
        None if !watch.knows_entries() => Some(entry),
        known => known,
    };
    watch.open_since.set(entry);
    if let Some(back) = back
        && back - since >= watch.gap.get()
    {
        count(core, context, Witness::Timer, since, back, entry);
    }
}

/// A heartbeat: the timer's interrupt of a core that waits. It was due at `due`, its handler was entered at `entry`.
#[cold]
#[inline(never)]
pub fn heartbeat(core: &'static Core, entry: u64, due: u64) {
    if core.watch.heartbeat.get() == 0 {
        return;
    }
    // SAFETY: this core's own entry.
    unsafe { (*core.entry).heartbeats += 1 };
    let mut pending = gic::pending_sgis(core.redistributor) & ((1 << core.layout.sgi_count) - 1);
    if core.layout.sgi_count > WAKE_SGI.into() && !ipi::is_asked(core, WAKE_SGI.into()) {
        pending &= !(1 << WAKE_SGI); // the kit's own
    }
    if pending != 0 {
        tell(core, Context::Irq, Kind::Heartbeat, entry, pending, 0, due);
    }
}

/// A polling loop that looks at the counter.
pub struct Looker {
    last: u64,
}

/// Turns of a polling loop from one look to the next: far less than a gap, and far apart for emulators, where each read of the
/// counter takes a lock that all cores share.
pub const TURNS: u32 = 64;

impl Looker {
    /// A loop begins.
    pub fn new(core: &Core) -> Self {
        core.watch.looks.set(core.watch.knows_entries());
        let mut looker = Looker { last: 0 };
        looker.restart(core);
        looker
    }

    /// Looks from now on: what came before was the core's own.
    ///
    /// ELR_EL1 is nobody's while no exception is under way, and every exception writes it: it tells whether one was taken.
    pub fn restart(&mut self, core: &Core) {
        write_register!("elr_el1", 0);
        core.watch.since_look.set(0);
        self.last = arch::counter_ordered();
    }

    /// Looks.
    pub fn look(&mut self, core: &'static Core) {
        let now = arch::counter_ordered();
        let watch = &core.watch;
        // Where interrupts were taken, the loop was away until the first of them, and what they took is their own.
        let back = match read_register!("elr_el1") {
            0 => Some(now),
            _ => watch.first_entry(core.lane(Context::Irq).head(), self.last, watch.since_look.get()),
        };
        if let Some(back) = back
            && back.saturating_sub(self.last) >= watch.gap.get()
        {
            arch::without_interrupts(|| count(core, Context::Thread, Witness::Loop, self.last, back, back));
        }
        self.restart(core);
    }
}

#[cold]
#[inline(never)]
fn count(core: &Core, context: Context, witness: Witness, since: u64, back: u64, t: u64) {
    let ticks = back - since;
    // SAFETY: this core's own entry.
    let before = unsafe {
        let entry = core.entry;
        let before = (*entry).gaps;
        (*entry).gaps = before + 1;
        (*entry).gap_ticks += ticks;
        (*entry).gap_longest = (*entry).gap_longest.max(ticks);
        before
    };
    tell(core, context, Kind::Gap, t, before as u32, witness.code(), since);
}

fn tell(core: &Core, context: Context, kind: Kind, t: u64, msg: u32, extra: u8, arg: u64) {
    let told = &core.watch.told[context as usize];
    if Shared::get().mode == OFF || told.get() >= MOST_GAPS {
        return;
    }
    told.set(told.get() + 1);
    // Both ends by the same counter, whatever a twin makes of it.
    let stamp = twins::stamp(core, t);
    let arg = arg.wrapping_add(stamp.wrapping_sub(t));
    core.lane(context).append_bounded(Event { t: stamp, kind, flags: 0, peer: PEER_ALL, msg, intid: 0xFF, extra, arg });
}
