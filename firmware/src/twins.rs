//! Fault twins: what a core does wrong on purpose, each as `trace_ring::plan::twin_kind` says, each counted in its truth line.
//!
//! They stand beside the code that they replace: a core without twins has routines and vectors that hold no trace of them. Only
//! measured SGIs are struck; wake-ups and the timer are the kit's own, and so is an SGI that a twin raised. Waits and deadlines
//! keep to the true time.
// UNSAFETY: a core's own truth line is written through a raw pointer.
#![expect(unsafe_code)]

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use trace_ring::calls::IpiKind;
use trace_ring::layout::Truth;
use trace_ring::plan::{Twin, WAKE_SGI, twin_kind};
use trace_ring::record::FLAG_STATE_MASK;

use crate::percore::{Core, Shared};
use crate::{arch, clock, gic, sgi, wait};

/// What kinds of twins a core has: other routines are chosen then.
#[derive(Clone, Copy, Default)]
pub struct Twins {
    /// Ticks that the INTID stays disabled after each end of interrupt.
    pub mask: u64,
    /// Ticks that callbacks take longer.
    pub slow_callback: u64,
    /// The callback that never ends, by number from 1.
    pub stuck: Option<u64>,
    /// The call whose descriptor stays locked, by number from 1 of those that somebody waits for.
    pub csd_lock: Option<u64>,
    /// Something strikes where interrupts are taken.
    pub receives: bool,
    /// Something strikes at each heartbeat, or while the core waits.
    pub waits: bool,
    /// Stamps may lie.
    pub clock: bool,
}

impl Twins {
    /// Those of core `id`.
    pub fn of(twins: &[Twin], id: u64) -> Self {
        let mut own = Twins::default();
        for twin in twins.iter().filter(|twin| u64::from(twin.core) == id) {
            match twin.kind {
                twin_kind::LATE | twin_kind::SLOW_WAKE | twin_kind::DUPLICATE | twin_kind::STALL => own.receives = true,
                twin_kind::MASK => (own.mask, own.receives) = (twin.ticks, true),
                twin_kind::SPURIOUS | twin_kind::STEAL => (own.receives, own.waits) = (true, true),
                twin_kind::SKEW | twin_kind::JUMP | twin_kind::STEP_BACK => (own.receives, own.clock) = (true, true),
                twin_kind::SLOW_CALLBACK => own.slow_callback = twin.ticks,
                twin_kind::STUCK => own.stuck = Some(twin.ticks.max(1)),
                twin_kind::CSD_LOCK => own.csd_lock = Some(twin.ticks.max(1)),
                _ => {}
            }
        }
        own
    }
}

/// What a core's twins remember. Its own alone.
#[derive(Default)]
pub struct Memory {
    /// SGIs that a twin raised and that were not taken yet, a bit for each INTID.
    raised: Cell<u32>,
    /// SGIs that STALL holds back, a bit for each INTID.
    held: Cell<u32>,
    /// Ticks that STEAL is to take at the next chance.
    steal: Cell<u64>,
    /// When SPURIOUS strikes, ticks; 0: it does not.
    spurious_at: Cell<u64>,
    /// Measured SGIs taken and sends made.
    events: Cell<u64>,
}

impl Memory {
    /// When the timer is to come for a twin's sake, ticks; 0: it is not.
    pub fn due(&self) -> u64 {
        self.spurious_at.get()
    }
}

/// A generator for each twin: xorshift64* (S. Vigna, "An experimental exploration of Marsaglia's xorshift generators").
#[derive(Clone, Copy)]
pub struct Dice(pub &'static [AtomicU64]);

impl Dice {
    /// Puts each generator at its seed.
    pub fn seed(&self, twins: &[Twin]) {
        for (state, twin) in self.0.iter().zip(twins) {
            state.store(twin.seed, Ordering::Relaxed);
        }
    }
}

/// The next number of a generator at `state`, not 0.
pub fn draw(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// Goes through the twins of a core; `strike` says whether one strikes now, by its rate.
fn each(core: &Core, mut tell: impl FnMut(&Twin, &dyn Fn() -> bool)) {
    let shared = Shared::get();
    for (twin, state) in shared.plan.twins.iter().zip(shared.dice.0) {
        if u64::from(twin.core) == core.id {
            tell(twin, &|| {
                let mut at = state.load(Ordering::Relaxed); // this core's own
                let drawn = draw(&mut at) >> 32;
                state.store(at, Ordering::Relaxed);
                twin.rate == 0 || drawn < twin.rate
            });
        }
    }
}

/// Writes something down in this core's truth line.
fn confess(core: &Core, write: impl FnOnce(&mut Truth)) {
    // SAFETY: this core's own line; the host reads it when the run is over.
    unsafe { write(&mut *core.truth) }
}

/// Busy for so many ticks, as whoever reads the true counter sees it.
fn spend(ticks: u64) {
    let begun = arch::counter();
    while arch::counter().wrapping_sub(begun) < ticks {
        arch::yield_now();
    }
}

// --- stamps ---------------------------------------------------------------------------------------------------------

/// The counter as this core stamps it, after all that comes before.
#[inline(always)]
pub fn now(core: &Core) -> u64 {
    stamp(core, arch::counter_ordered())
}

/// What this core stamps at the true time `t`.
#[inline(always)]
pub fn stamp(core: &Core, t: u64) -> u64 {
    if core.twins.clock { lie(core, t) } else { t }
}

#[cold]
#[inline(never)]
fn lie(core: &Core, t: u64) -> u64 {
    let mut stamp = t;
    each(core, |twin, strikes| match twin.kind {
        twin_kind::SKEW => stamp = stamp.wrapping_add(twin.ticks),
        twin_kind::JUMP if core.twin_memory.events.get() >= twin.rate => stamp = stamp.wrapping_add(twin.ticks),
        twin_kind::STEP_BACK if strikes() => stamp = stamp.wrapping_sub(twin.ticks),
        _ => {}
    });
    if stamp != t {
        confess(core, |truth| truth.shifted += 1);
    }
    stamp
}

fn count_event(core: &Core) {
    core.twin_memory.events.set(core.twin_memory.events.get() + 1);
}

// --- sends ----------------------------------------------------------------------------------------------------------

/// What becomes of a send.
pub struct Fate {
    /// Ticks to wait between the stamp and the SGI.
    pub hold: u64,
    /// Affinity of the core that gets the SGI; `None`: nobody.
    pub to: Option<u64>,
}

impl Fate {
    /// What is written to ICC_SGI1R_EL1 for SGI `intid`; `None`: nothing is.
    pub fn value(&self, intid: u8) -> Option<u64> {
        self.to.map(|affinity| sgi::to_core(affinity, intid))
    }
}

/// Whether a twin of this core may touch its sends to `target`.
pub fn concerns(core: &Core, target: &Core) -> bool {
    let mut found = core.twins.clock;
    each(core, |twin, _| {
        found |= match twin.kind {
            twin_kind::SLOW_SENDER => true,
            twin_kind::DROP | twin_kind::SLOW_PAIR | twin_kind::MISROUTE => u64::from(twin.peer) == target.id,
            _ => false,
        };
    });
    found
}

/// What becomes of this core's next SGI to `target`.
#[cold]
#[inline(never)]
pub fn fate(core: &Core, target: &Core) -> Fate {
    count_event(core);
    let mut fate = Fate { hold: 0, to: Some(target.affinity) };
    each(core, |twin, strikes| {
        let pair = u64::from(twin.peer) == target.id;
        match twin.kind {
            twin_kind::SLOW_SENDER if strikes() => fate.hold += twin.ticks,
            twin_kind::SLOW_PAIR if pair && strikes() => fate.hold += twin.ticks,
            twin_kind::MISROUTE if pair && strikes() => {
                confess(core, |truth| truth.misdirected += 1);
                fate.to = Shared::get().core(twin.ticks as usize).map(|other| other.affinity);
            }
            twin_kind::DROP if pair && strikes() => {
                confess(core, |truth| truth.dropped += 1);
                fate.to = None;
            }
            _ => {}
        }
    });
    fate
}

/// What becomes of a broadcast: twins of a pair leave it alone. Returns the ticks to wait.
pub fn broadcast_hold(core: &Core) -> u64 {
    let mut hold = 0;
    count_event(core);
    each(core, |twin, strikes| {
        if twin.kind == twin_kind::SLOW_SENDER && strikes() {
            hold += twin.ticks;
        }
    });
    hold
}

/// Holds a send back.
#[inline(always)]
pub fn hold_back(core: &Core, ticks: u64) {
    if ticks != 0 {
        held_back(core, ticks);
    }
}

#[cold]
#[inline(never)]
fn held_back(core: &Core, ticks: u64) {
    confess(core, |truth| truth.held_back += 1);
    spend(ticks);
}

// --- receptions -----------------------------------------------------------------------------------------------------

/// Whether an INTID is one that twins strike.
pub fn is_measured(core: &Core, intid: u64) -> bool {
    intid < core.layout.sgi_count.min(WAKE_SGI.into())
}

/// In the vector, before a measured SGI is acknowledged. `entry`: the true one; returns the one to stamp.
pub fn before(core: &Core, entry: u64, intid: u64) -> u64 {
    count_event(core);
    if core.twin_memory.raised.get() & 1 << intid != 0 {
        return entry;
    }
    let state = core.receive_flags() & FLAG_STATE_MASK;
    let mut ticks = 0;
    each(core, |twin, strikes| {
        ticks += match twin.kind {
            twin_kind::LATE if strikes() => twin.ticks,
            twin_kind::SLOW_WAKE if twin.peer == state.into() && strikes() => twin.ticks,
            _ => 0,
        };
    });
    if ticks == 0 {
        return entry;
    }
    confess(core, |truth| truth.delayed += 1);
    let mut now = entry;
    while now.wrapping_sub(entry) < ticks {
        now = arch::counter();
    }
    now
}

/// After the end of a measured SGI.
pub fn after(core: &Core, intid: u64) {
    let memory = &core.twin_memory;
    let bit = 1 << intid;
    if memory.raised.get() & bit != 0 {
        return memory.raised.set(memory.raised.get() & !bit);
    }
    if core.twins.mask != 0 {
        wait::mask_twin(core);
    }
    let beats = core.watch.heartbeat.get() != 0;
    // A stop that nobody sent would park the core, and nobody would wake it.
    let parks =
        Shared::get().calls && matches!(IpiKind::from_intid(intid as u8), Some(IpiKind::Stop | IpiKind::CrashStop));
    each(core, |twin, strikes| match twin.kind {
        twin_kind::DUPLICATE if !parks && strikes() => {
            confess(core, |truth| truth.repeated += 1);
            raise(core, intid as u8);
        }
        twin_kind::SPURIOUS if !beats && strikes() => {
            memory.spurious_at.set(arch::counter() + clock::ticks(SPURIOUS_NS));
            wait::rearm(core);
        }
        twin_kind::STALL if memory.held.get() == 0 && strikes() => {
            confess(core, |truth| truth.stalled += 1);
            let sgis = (1 << core.layout.sgi_count.min(WAKE_SGI.into())) - 1;
            memory.held.set(gic::hold_back(core.redistributor, sgis));
        }
        twin_kind::STEAL if strikes() => steal_soon(core, twin.ticks),
        _ => {}
    });
}

/// How long after an interrupt SPURIOUS strikes in a plan without heartbeats, ns.
const SPURIOUS_NS: u64 = 20_000;

/// After an interrupt of the kit's own: what STALL held back is let through.
pub fn let_through(core: &Core) {
    let held = core.twin_memory.held.replace(0);
    if held != 0 {
        gic::let_through(core.redistributor, held);
    }
}

/// Sends an SGI to this core itself.
fn raise(core: &Core, intid: u8) {
    core.twin_memory.raised.set(core.twin_memory.raised.get() | 1 << intid);
    sgi::send(sgi::to_core(core.affinity, intid));
}

fn invent(core: &Core) {
    confess(core, |truth| truth.invented += 1);
    raise(core, 0);
}

// --- while the core waits -------------------------------------------------------------------------------------------

/// At a heartbeat.
pub fn at_heartbeat(core: &Core) {
    each(core, |twin, strikes| match twin.kind {
        twin_kind::SPURIOUS if strikes() => invent(core),
        twin_kind::STEAL if strikes() => steal_soon(core, twin.ticks),
        _ => {}
    });
}

/// At the timer's interrupt, `now`: the time of SPURIOUS may have come. `waiting`: the core does.
pub fn at_timer(core: &Core, now: u64, waiting: bool) {
    let at = &core.twin_memory.spurious_at;
    if at.get() != 0 && now >= at.get() {
        at.set(0);
        if waiting {
            invent(core);
        }
    }
}

/// The wait takes note of it when it looks up.
fn steal_soon(core: &Core, ticks: u64) {
    core.twin_memory.steal.set(ticks);
    core.inbox.attention.fetch_add(1, Ordering::Release);
}

/// Takes the core away if STEAL wants it. In the thread, in a wait.
pub fn steal(core: &Core) {
    let ticks = core.twin_memory.steal.replace(0);
    if ticks != 0 {
        confess(core, |truth| {
            truth.stolen += 1;
            truth.stolen_ticks += ticks;
        });
        arch::without_interrupts(|| spend(ticks));
    }
}
