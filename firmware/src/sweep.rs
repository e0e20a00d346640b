//! Sweeps: messages that are sent at a chosen distance from a moment at which their receiver changes its state.
//!
//! Sender and receiver agree on a time in the receiver's rendezvous. The receiver polls the counter until then and makes its
//! transition ([`trace_ring::plan::transition`]); the sender polls until that time plus the message's distance, and sends. Races live
//! where a state changes: a sweep goes through the distances one by one.
// UNSAFETY: cores' entries of the region are reached through raw pointers.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use trace_ring::calls::doing;
use trace_ring::layout::Context;
use trace_ring::plan::{WAKE_SGI, transition};
use trace_ring::record::{Event, Kind, ReceiverState};

use crate::ipi::{self, OFF, Series, Waiting};
use crate::percore::{Core, Shared};
use crate::wait::{self, Stop};
use crate::{arch, calls, clock, sgi, twins};

/// Where a sender and this receiver agree. `order` and `at` are the sender's while it has the place, `ready` is the receiver's.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Rendezvous {
    /// What is to be done, [`Order`] as a word; 0: nobody wants anything.
    pub order: AtomicU64,
    /// The order that the receiver is ready for, or has done.
    pub ready: AtomicU64,
    /// When, ticks; 0: not yet agreed.
    at: AtomicU64,
}

/// What a sender wants of a receiver. Each message has one of its own.
#[derive(Clone, Copy)]
struct Order {
    transition: u8,
    intid: u8,
    sender: u16,
    number: u32,
}

impl Order {
    fn word(self) -> u64 {
        (u64::from(self.transition) + 1)
            | (u64::from(self.intid) << 8)
            | (u64::from(self.sender) << 16)
            | (u64::from(self.number) << 32)
    }

    fn from_word(word: u64) -> Self {
        let [first, intid, low, high, ..] = word.to_le_bytes();
        let sender = u16::from_le_bytes([low, high]);
        Order { transition: first.wrapping_sub(1), intid, sender, number: (word >> 32) as u32 }
    }
}

/// What SWEEP_RANGE set for the SWEEPs of a core.
#[derive(Clone, Copy, Default)]
pub struct Range {
    /// The receiver's [`transition`].
    pub transition: u8,
    /// Ticks from the receiver's time to the first message; negative: before it.
    pub first: i64,
    /// Ticks from each message's distance to the next one's.
    pub step: u32,
}

/// From the agreement to the earlier of both times, ns: the receiver has seen it by then.
const MARGIN_NS: u64 = 5_000;

/// Sends `count` messages, each at its own distance from a transition of `target`, and waits for each answer. `false`: `target` can't
/// make that transition.
pub fn send(core: &'static Core, target: &'static Core, intid: u8, slot: u32, count: u32) -> Result<bool, Stop> {
    let shared = Shared::get();
    let Range { transition, first, step } = core.sweep.get();
    // SAFETY: the target's own entry, which it wrote before it was up.
    let suspends = unsafe { core::ptr::addr_of!((*target.entry).suspend_error).read_volatile() } == 0;
    if transition == transition::SUSPEND && !suspends {
        return Ok(false);
    }
    let series = Series::new(core, target, intid, slot, false);
    let place = &target.rendezvous;
    let margin = clock::ticks(MARGIN_NS);
    for index in 0..count {
        let distance = first.wrapping_add(i64::from(step).wrapping_mul(index.into()));
        let number = series.number.load(Ordering::Relaxed).wrapping_add(1);
        let order = Order { transition, intid, sender: core.id as u16, number }.word();
        // AcqRel: the place is free, and whoever had it has cleared the time.
        let taken = || place.order.compare_exchange(0, order, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        poll(core, target, taken)?;
        ipi::wake(target);
        let ready = poll(core, target, || place.ready.load(Ordering::Acquire) == order);
        if ready.is_ok() {
            let at = arch::counter_ordered() + margin + distance.min(0).unsigned_abs();
            place.at.store(at, Ordering::Release); // pairs with the Acquire in `receive`
            if shared.mode != OFF {
                core.lane(Context::Thread).append_bounded(Event {
                    t: twins::now(core),
                    kind: Kind::Sweep,
                    flags: 0,
                    peer: target.id as u16,
                    msg: number,
                    intid,
                    extra: transition,
                    arg: at,
                });
            }
            let due = at.wrapping_add_signed(distance);
            while arch::counter() < due {
                arch::yield_now();
            }
            ipi::send_prepared(core, &series, 1, Waiting::ForAnswer, false);
        }
        place.at.store(0, Ordering::Relaxed);
        place.order.store(0, Ordering::Release); // the receiver goes on, whatever became of the message
        if !series.is_answered(number) {
            ipi::wake(target);
        }
        ready?;
    }
    Ok(true)
}

fn poll(core: &'static Core, target: &Core, done: impl Fn() -> bool) -> Result<(), Stop> {
    calls::poll(core, target.id as u16, doing::ANSWER, 0, true, done)
}

/// The order that this core has not carried out yet, if there is one.
#[inline(always)]
pub fn wanted(core: &Core) -> Option<u64> {
    let order = core.rendezvous.order.load(Ordering::Acquire);
    if order != 0 && order != core.rendezvous.ready.load(Ordering::Relaxed) { Some(order) } else { None }
}

/// Carries an order out: makes the transition at its time, and waits for the message, at most until `deadline`. In a wait whose timer
/// is armed for that.
#[cold]
#[inline(never)]
pub fn receive(core: &'static Core, order: u64, deadline: u64) {
    let place = &core.rendezvous;
    let Order { transition, intid, sender, number } = Order::from_word(order);
    let answered = core.answered(core.id, sender.into(), intid.into());
    let is_over = || {
        place.order.load(Ordering::Acquire) != order
            || Shared::get().abort.load(Ordering::Relaxed) != 0
            || arch::counter() >= deadline
    };
    let unmasks = transition == transition::UNMASK;
    if unmasks {
        core.enter_state(ReceiverState::Masked.code());
        arch::mask_interrupts();
    } else {
        core.enter_state(ReceiverState::Spin.code());
    }
    place.ready.store(order, Ordering::Release); // pairs with the Acquire in `send`
    let at = loop {
        let at = place.at.load(Ordering::Acquire); // pairs with the Release in `send`
        if at != 0 || is_over() {
            break at.min(deadline);
        }
        arch::yield_now();
    };
    // What comes late until then comes late because this core has it so; and the timer keeps away from the transition.
    core.watch.begin_wait_at(at);
    wait::rearm(core);
    while arch::counter() < at {
        arch::yield_now();
    }
    let is_done = || answered.load(Ordering::Acquire) == number || is_over();
    match transition {
        transition::UNMASK => {
            arch::unmask_interrupts();
            core.enter_state(ReceiverState::Spin.code());
        }
        // Its handler runs now, and ends.
        transition::END_OF_INTERRUPT => sgi::send(sgi::to_core(core.affinity, WAKE_SGI)),
        transition::WFE => {
            core.enter_state(ReceiverState::Wfe.code());
            while !is_done() {
                // An interrupt since the look leaves its return as an event: WFE then falls through.
                arch::wait_for_event();
                arch::yield_now();
            }
        }
        transition::SUSPEND => {
            core.enter_state(ReceiverState::Suspend.code());
            arch::mask_interrupts();
            while !is_done() && wait::suspend(core) {
                arch::answer();
            }
            arch::unmask_interrupts();
        }
        _ => {
            core.enter_state(ReceiverState::Wfi.code());
            arch::mask_interrupts();
            // Masked before the look: a message that comes behind it pends, and WFI falls through.
            while !is_done() {
                arch::sleep_and_answer();
            }
            arch::unmask_interrupts();
        }
    }
    while !is_done() {
        arch::yield_now();
    }
    core.enter_state(ReceiverState::Unknown.code());
}
