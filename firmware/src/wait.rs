//! Waiting: postures, barriers, turns. Cores sleep in WFI unless a plan wants them otherwise, and every wait has a deadline.
//!
//! Whoever changes something that another core may wait for bumps that core's `attention` and sends it the wake-up SGI. A
//! waiting core looks at its condition only when `attention` changed, so the loop around WFI is a handful of instructions:
//! load, compare, branch, WFI, unmask, ISB, mask.
// UNSAFETY: result lines of the region are written through raw pointers.
#![expect(unsafe_code)]

use core::sync::atomic::Ordering;

use trace_ring::calls::doing;
use trace_ring::layout::abort_reason;
use trace_ring::plan::{op, posture};
use trace_ring::record::{PEER_ALL, ReceiverState};

use crate::arch::{self, write_register};
use crate::percore::{Core, NOBODY, Shared};
use crate::watch::{self, Looker};
use crate::{gic, ipi, psci, sweep, twins, watchdog};

/// The run is to end: leave the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop;

/// Posture in which a core answers counter comparisons: above all receiver states.
pub const COMPARE: u8 = 0x80;

const CNTV_ENABLE: u64 = 1;

fn arm_timer(core: &Core, at: u64) {
    write_register!("cntv_cval_el0", at);
    write_register!("cntv_ctl_el0", CNTV_ENABLE);
    arch::instruction_barrier();
    core.watch.armed.set(at);
}

fn disarm_timer(core: &Core) {
    write_register!("cntv_ctl_el0", 0);
    arch::instruction_barrier();
    core.watch.armed.set(0);
}

/// Does `what` with the timer armed for so many ticks from now, interrupts masked: it wakes, and nobody takes it.
pub fn with_timer<T>(core: &Core, ticks: u64, what: impl FnOnce() -> T) -> T {
    arm_timer(core, arch::counter() + ticks);
    let result = what();
    disarm_timer(core);
    result
}

/// The virtual timer's interrupt: a heartbeat, the end of a wait, or of a `mask` twin's time. `entry`: of its handler.
pub fn timer_interrupt(core: &'static Core, entry: u64) {
    let due = core.watch.armed.get();
    if core.wait_until.get() != 0 {
        watch::heartbeat(core, entry, due);
    }
    let now = arch::counter_ordered();
    let mut look_up = false;
    let masked_until = core.masked_until.get();
    if masked_until != 0 && now >= masked_until {
        core.masked_until.set(0);
        for intid in 0..core.layout.sgi_count {
            gic::set_enabled(core.redistributor, intid as u32, true);
        }
    }
    let tick_at = core.calls.tick_at.get();
    if tick_at != 0 && now >= tick_at {
        crate::calls::broadcast_tick(core);
        core.calls.tick_at.set(0);
        look_up = true;
    }
    let wait_until = core.wait_until.get();
    if wait_until != 0 && now >= wait_until {
        core.wait_until.set(0); // told once: a timer that stays in the past would interrupt for ever
        look_up = true;
    }
    let beat_at = core.watch.beat_at.get();
    if beat_at != 0 && now >= beat_at {
        core.watch.beat_at.set(now + core.watch.heartbeat.get());
        if core.twins.waits {
            twins::at_heartbeat(core);
        }
    }
    twins::at_timer(core, now, wait_until != 0);
    // A heartbeat alone changes nothing that anybody waits for.
    if look_up {
        core.inbox.attention.fetch_add(1, Ordering::Release);
    }
    // Either way the timer's line falls before the end of interrupt. What it is armed for next takes one write: each is a lock
    // that all cores share under an emulator.
    match next(core) {
        Some(at) => {
            write_register!("cntv_cval_el0", at);
            arch::instruction_barrier();
            core.watch.armed.set(at);
        }
        None => disarm_timer(core),
    }
}

/// Arms the timer for whatever comes first.
pub fn rearm(core: &Core) {
    if let Some(at) = next(core) {
        arm_timer(core, at);
    }
}

/// What comes first, ticks.
fn next(core: &Core) -> Option<u64> {
    let times = [
        core.masked_until.get(),
        core.wait_until.get(),
        core.calls.tick_at.get(),
        core.watch.beat_at.get(),
        core.twin_memory.due(),
    ];
    // 0 is none: one less is then the greatest.
    let first = times.into_iter().fold(u64::MAX, |first, at| first.min(at.wrapping_sub(1)));
    first.checked_add(1)
}

/// The `mask` twin: takes the measured SGIs off for its ticks, after an end of interrupt.
#[cold]
pub fn mask_twin(core: &Core) {
    if core.masked_until.get() == 0 {
        for intid in 0..core.layout.sgi_count {
            gic::set_enabled(core.redistributor, intid as u32, false);
        }
        // SAFETY: this core's own truth line.
        unsafe { (*core.truth).masked += 1 };
        core.masked_until.set(arch::counter_ordered() + core.twins.mask);
        rearm(core);
    }
}

/// Waits until `condition` holds, at most until `deadline` (ticks). `false`: the deadline passed. Interrupts are answered.
pub fn until(core: &'static Core, deadline: u64, condition: impl Fn() -> bool) -> Result<bool, Stop> {
    let shared = Shared::get();
    crate::calls::say(core, doing::WAITING, PEER_ALL, 0, 0);
    core.wait_until.set(deadline);
    core.watch.begin_wait();
    rearm(core);
    let feeds = watchdog::fed_by(core);
    let mut looker = None;
    let outcome = loop {
        let seen = core.inbox.attention.load(Ordering::Acquire); // pairs with the Release of whoever bumped it
        if condition() {
            break Ok(true);
        }
        if shared.abort.load(Ordering::Relaxed) != 0 {
            break Err(Stop);
        }
        if arch::counter() >= deadline {
            break Ok(false);
        }
        if feeds {
            watchdog::feed_if_due();
            core.wait_until.set(deadline.min(watchdog::due()));
            rearm(core);
        }
        if let Some(order) = sweep::wanted(core) {
            looker = None;
            core.watch.stop_looking();
            sweep::receive(core, order, deadline);
            continue;
        }
        let posture = core.inbox.posture.load(Ordering::Acquire);
        core.inbox.posture_taken.store(posture, Ordering::Release);
        sit(core, posture, seen, &mut looker);
        if core.twins.waits {
            twins::steal(core);
        }
        core.enter_state(ReceiverState::Unknown.code());
    };
    core.wait_until.set(0);
    core.watch.end_wait();
    disarm_timer(core);
    if core.masked_until.get() | core.calls.tick_at.get() | core.twin_memory.due() != 0 {
        rearm(core); // what goes on beside waits
    }
    if outcome.is_ok() {
        crate::calls::say_running(core);
    }
    outcome
}

/// Stays in a posture until `attention` is no longer as it was `seen`. `looker`: of the loop before, if that polled, too.
#[inline(always)]
fn sit(core: &'static Core, posture: u8, seen: u32, looker: &mut Option<Looker>) {
    let attention = || core.inbox.attention.load(Ordering::Relaxed) == seen;
    let watched = core.watch.gap.get() != 0;
    let polls = [ReceiverState::Spin.code(), ReceiverState::Masked.code(), posture::PRESSURE];
    if !polls.contains(&posture) && looker.take().is_some() {
        core.watch.stop_looking();
    }
    match posture {
        COMPARE => {
            core.enter_state(ReceiverState::Unknown.code());
            let exchange = &Shared::get().exchange;
            while attention() {
                exchange.answer(core);
                arch::yield_now();
            }
        }
        posture if posture == ReceiverState::Spin.code() => {
            core.enter_state(posture);
            if watched {
                return look_about(core, looker, attention, || {});
            }
            while attention() {
                arch::yield_now();
            }
        }
        posture if posture == ReceiverState::Wfe.code() => {
            core.enter_state(posture);
            while attention() {
                arch::wait_for_event();
                arch::yield_now();
            }
        }
        posture::PRESSURE => {
            core.enter_state(ReceiverState::Spin.code());
            let work = || press(core);
            if watched {
                return look_about(core, looker, attention, work);
            }
            while attention() {
                work();
                arch::yield_now();
            }
        }
        posture if posture == ReceiverState::Masked.code() => {
            core.enter_state(posture);
            let poll = || {
                if arch::interrupt_pends() {
                    arch::answer();
                }
            };
            arch::mask_interrupts();
            if watched {
                look_about(core, looker, attention, poll);
            } else {
                while attention() {
                    poll();
                    arch::yield_now();
                }
            }
            arch::unmask_interrupts();
        }
        posture if posture == ReceiverState::Suspend.code() && core.standby.get().is_some() => {
            core.enter_state(posture);
            arch::mask_interrupts();
            while attention() && suspend(core) {
                arch::answer();
            }
            arch::unmask_interrupts();
        }
        _ => {
            core.enter_state(ReceiverState::Wfi.code());
            arch::mask_interrupts();
            while attention() {
                arch::sleep_and_answer();
            }
            arch::unmask_interrupts();
        }
    }
}

/// Sleeps in CPU_SUSPEND until an interrupt is pending; they are masked. `false`: PSCI refused, and will not be asked again.
pub fn suspend(core: &Core) -> bool {
    let Some(state) = core.standby.get() else { return false };
    let answer = psci::cpu_suspend(Shared::get().conduit, state);
    if let Err(code) = answer {
        core.standby.set(None);
        // SAFETY: this core's own entry.
        unsafe { (*core.entry).suspend_error = code };
    }
    answer.is_ok()
}

/// Reads and writes a slice of this core's pressure memory: small, so that the loop around it sees what it waits for.
fn press(core: &Core) {
    const LINES: usize = 16;
    let mut at = core.pressure_at.get();
    for _ in 0..LINES {
        if at >= core.pressure_words {
            at = 0;
        }
        if core.pressure_words == 0 {
            return;
        }
        let cell = core.pressure.wrapping_add(at);
        // SAFETY: inside this core's own pressure memory.
        unsafe { cell.write_volatile(cell.read_volatile().wrapping_add(1)) };
        at += 8; // one word in each line of 64 bytes
    }
    core.pressure_at.set(at);
}

/// Polls with YIELD while `attention`, looks at the counter now and then, and does `work` each turn.
#[inline(never)]
fn look_about(core: &'static Core, looker: &mut Option<Looker>, attention: impl Fn() -> bool, mut work: impl FnMut()) {
    let looker = looker.get_or_insert_with(|| Looker::new(core));
    while attention() {
        for _ in 0..watch::TURNS {
            if !attention() {
                break;
            }
            work();
            arch::yield_now();
        }
        looker.look(core);
    }
}

/// Sleeps in WFI for at most so many ticks, answering what wakes it. For waits whose end nobody tells: they look again.
pub fn nap(core: &'static Core, ticks: u64) {
    core.enter_state(ReceiverState::Wfi.code());
    // Masked before the timer is armed: an interrupt of it that came before the WFI would leave nothing to wake from.
    arch::mask_interrupts();
    core.wait_until.set(arch::counter() + ticks);
    core.watch.begin_wait();
    rearm(core);
    arch::sleep_and_answer();
    if core.twins.waits {
        twins::steal(core);
        arch::unmask_interrupts(); // the timer's interrupt tells that it came late
        arch::mask_interrupts();
    }
    core.wait_until.set(0);
    core.watch.end_wait();
    disarm_timer(core);
    rearm(core);
    arch::unmask_interrupts();
    core.enter_state(ReceiverState::Unknown.code());
}

/// Waits in the core's posture for at most the run's deadline; a deadline that passes ends the run.
pub fn wait_for(core: &'static Core, condition: impl Fn() -> bool) -> Result<(), Stop> {
    let shared = Shared::get();
    let deadline = arch::counter().saturating_add(shared.deadline);
    if until(core, deadline, condition)? {
        return Ok(());
    }
    shared.stop(abort_reason::DEADLINE, core.id as u32);
    ipi::wake_all();
    Err(Stop)
}

/// Waits in the core's posture until `at` (ticks), or the run's end.
pub fn idle_until(core: &'static Core, at: u64) -> Result<(), Stop> {
    until(core, at, || false).map(|_| ())
}

/// All live cores meet. The last to arrive runs `last` before anyone goes on.
pub fn barrier(core: &'static Core, last: impl FnOnce()) -> Result<(), Stop> {
    let shared = Shared::get();
    let generation = shared.generation.load(Ordering::Acquire);
    // AcqRel: what each did before it arrived is visible to the last, and what the last does to all.
    if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.live.load(Ordering::Acquire) {
        shared.arrived.store(0, Ordering::Relaxed);
        last();
        shared.generation.store(generation.wrapping_add(1), Ordering::Release);
        ipi::wake_all();
        return if shared.abort.load(Ordering::Relaxed) == 0 { Ok(()) } else { Err(Stop) };
    }
    wait_for(core, || shared.generation.load(Ordering::Acquire) != generation)
}

/// Gives the first turn of a phase: to the lowest live core whose program has a TURN before its next PHASE_END.
pub fn open_turns() {
    let shared = Shared::get();
    let has_turn = |core: &&'static Core| {
        let from = core.program_counter.load(Ordering::Relaxed) as usize;
        let next =
            shared.plan.ops.iter().skip(from).find(|word| matches!(word.code, op::TURN | op::PHASE_END | op::END));
        next.is_some_and(|word| word.code == op::TURN)
    };
    let first = shared.live_cores().find(has_turn).map_or(NOBODY, |core| core.id as u32);
    shared.turn.store(first, Ordering::Release);
}

/// Waits for this core's turn.
pub fn take_turn(core: &'static Core) -> Result<(), Stop> {
    let shared = Shared::get();
    wait_for(core, || u64::from(shared.turn.load(Ordering::Acquire)) == core.id)
}

/// Passes the turn to core `next` whose TURN is operation `turn`, or past it along the chain to one that is up.
pub fn pass_turn(mut next: u16, mut turn: u32) {
    let shared = Shared::get();
    // A chain visits each core at most once.
    for _ in 0..shared.core_count {
        if next == 0xFFFF {
            break;
        }
        if let Some(target) = shared.core(next.into()) {
            shared.turn.store(next.into(), Ordering::Release);
            return ipi::wake(target);
        }
        // The TURN names its PASS, the PASS names the next.
        let pass = shared.plan.ops.get(turn as usize).and_then(|word| shared.plan.ops.get(word.c as usize));
        match pass {
            Some(pass) if pass.code == op::PASS => (next, turn) = (pass.b, pass.c),
            _ => break,
        }
    }
    shared.turn.store(NOBODY, Ordering::Release);
}

/// Sets another core's posture and waits until it took it.
pub fn set_posture(core: &'static Core, target: &'static Core, posture: u8) -> Result<(), Stop> {
    let shared = Shared::get();
    if target.inbox.posture.swap(posture, Ordering::AcqRel) == posture {
        return Ok(());
    }
    ipi::wake(target);
    let deadline = arch::counter().saturating_add(shared.deadline);
    while target.inbox.posture_taken.load(Ordering::Acquire) != posture {
        if shared.abort.load(Ordering::Relaxed) != 0 {
            return Err(Stop);
        }
        if arch::counter() > deadline {
            shared.stop(abort_reason::DEADLINE, core.id as u32);
            ipi::wake_all();
            return Err(Stop);
        }
        arch::yield_now();
    }
    Ok(())
}

/// What a core does between operations: feeds watchdogs, and says whether the host asked to stop. Nothing of that in a
/// deterministic run: control flow must not hang on what the host wrote, nor on a watchdog.
pub fn requested(core: &Core) -> bool {
    let shared = Shared::get();
    if !shared.listens {
        return false;
    }
    if watchdog::fed_by(core) {
        watchdog::feed_if_due();
    }
    // SAFETY: the request word of the mapped region.
    unsafe { (*shared.request).load(Ordering::Relaxed) != 0 }
}
