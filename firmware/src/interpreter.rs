//! The plan's interpreter: one loop a core over its operations. What each operation means stands in `trace_ring::plan::op`.
//!
//! Between operations, and only there, a core looks whether the host asked to stop.
// UNSAFETY: phase results of the region are written through raw pointers by the last core at a barrier.
#![expect(unsafe_code)]

use core::sync::atomic::Ordering;

use trace_ring::calls::Delivery;
use trace_ring::layout::{Context, abort_reason};
use trace_ring::plan::{op, twin_kind};
use trace_ring::record::{Event, Kind, PEER_ALL};

use crate::console::line;
use crate::ipi::{self, OFF, Waiting};
use crate::percore::{Core, Shared};
use crate::wait::{self, Stop};
use crate::{arch, calls, clock, gic, kinds, sweep, twins, watchdog};

/// Loops nest this deep.
const LOOP_DEPTH: usize = 4;

fn record(core: &Core, kind: Kind, extra: u8, msg: u32) {
    if Shared::get().mode != OFF {
        let t = twins::now(core);
        let event = Event { t, kind, flags: 0, peer: PEER_ALL, msg, intid: 0xFF, extra, arg: 0 };
        core.lane(Context::Thread).append_bounded(event);
    }
}

fn begin_phase(phase: u32) {
    let shared = Shared::get();
    wait::open_turns();
    let now = arch::counter_ordered();
    shared.phase_started.store(now, Ordering::Relaxed);
    // SAFETY: all other cores wait at the barrier; the index was checked with the plan.
    unsafe {
        let result = shared.phases.add(phase as usize);
        (*result).started = now;
        core::ptr::addr_of_mut!((*shared.status).phase).write_volatile(phase);
    }
}

fn end_phase(phase: u32) {
    let shared = Shared::get();
    let now = arch::counter_ordered();
    // SAFETY: as in `begin_phase`.
    unsafe {
        let result = shared.phases.add(phase as usize);
        (*result).ended = now;
        (*result).elapsed += now.wrapping_sub((*result).started);
        (*result).rounds += 1;
    }
}

/// One KTAP line: what the target itself counted in this phase.
fn report_phase(phase: u32) {
    let shared = Shared::get();
    let (mut sent, mut answered, mut lost, mut unknown) = (0, 0, 0, 0);
    for (index, slot) in shared.plan.slots.iter().enumerate() {
        if u32::from(slot.phase) == phase {
            let first = shared.live_cores().next();
            let Some(slot) = first.map(|core| core.slot(index as u64)) else { continue };
            // SAFETY: a slot of the region; its writers wait at the barrier or work in the next phase's slots.
            unsafe {
                sent += (*slot).sent;
                answered += (*slot).delivered + (*slot).coalesced;
                lost += (*slot).lost;
                unknown += (*slot).unknown;
            }
        }
    }
    // SAFETY: written before the barrier opened.
    let (rounds, elapsed) = unsafe {
        let result = shared.phases.add(phase as usize);
        ((*result).rounds, (*result).elapsed)
    };
    if rounds == 1 {
        let verdict = if lost == 0 && unknown == 0 { "ok" } else { "not ok" };
        line!(
            "{verdict} {} phase-{phase} # sent={sent} answered={answered} lost={lost} unknown={unknown} ticks={elapsed}",
            phase + 1
        );
    }
}

/// Runs this core's program to its end.
pub fn run(core: &'static Core) -> Result<(), Stop> {
    let shared = Shared::get();
    let plan = &shared.plan;
    let mut loops = [(0u32, 0u32); LOOP_DEPTH];
    let mut depth = 0;
    let mut pc = plan.programs[core.id as usize].first_op as usize;
    loop {
        let Some(word) = plan.ops.get(pc) else { return Ok(()) };
        pc += 1;
        core.program_counter.store(pc as u32, Ordering::Relaxed);
        // SAFETY: this core's own line of the region. Volatile: a host may look at any time.
        unsafe { core::ptr::addr_of_mut!((*core.calls.live).op).write_volatile(pc as u32 - 1) };
        if shared.abort.load(Ordering::Relaxed) != 0 {
            return Err(Stop);
        }
        if wait::requested(core) {
            shared.stop(abort_reason::REQUESTED, 0);
            ipi::wake_all();
            return Err(Stop);
        }
        match word.code {
            op::END => return Ok(()),
            op::PHASE => {
                core.inbox.posture.store(word.a, Ordering::Release);
                core.watch.begin_phase(core.id, word.c);
                wait::barrier(core, || begin_phase(word.c))?;
                record(core, Kind::Phase, 0, word.c);
                for twin in shared.twins_of(core.id) {
                    match twin.kind {
                        twin_kind::CRASH => arch::undefined_instruction(),
                        twin_kind::OVERFLOW => overflow(0),
                        twin_kind::STRAY => gic::raise_last_spi(core.affinity),
                        _ => {}
                    }
                }
            }
            op::PHASE_END => {
                wait::barrier(core, || end_phase(word.c))?;
                record(core, Kind::Phase, 1, word.c);
                if core.id as usize == shared.boot_core {
                    report_phase(word.c);
                }
            }
            op::TURN => wait::take_turn(core)?,
            op::PASS => wait::pass_turn(word.b, word.c),
            op::BARRIER => wait::barrier(core, || {})?,
            op::POSTURE => {
                if let Some(target) = other(core, word.b) {
                    wait::set_posture(core, target, word.a)?;
                }
            }
            op::PING | op::SEND => match shared.core(word.b.into()) {
                Some(target) => {
                    let waiting = if word.code == op::PING { Waiting::ForAnswer } else { Waiting::No };
                    ipi::send_series(core, target, word.a, word.d as u32, word.c, waiting);
                }
                None => skip(core),
            },
            op::BROADCAST => ipi::broadcast(core, word.a, word.d as u32, word.c),
            op::SETTLE => ipi::settle(core),
            op::DELAY => busy_until(core, arch::counter() + clock::ticks(word.d)),
            op::AT => busy_until(core, shared.phase_started.load(Ordering::Relaxed) + clock::ticks(word.d)),
            op::MASK => {
                arch::mask_interrupts();
                let end = arch::counter() + clock::ticks(word.d);
                while arch::counter() < end {
                    arch::yield_now();
                }
                arch::unmask_interrupts();
            }
            op::IDLE => {
                core.inbox.posture.store(word.a, Ordering::Release);
                wait::idle_until(core, arch::counter() + clock::ticks(word.d))?;
            }
            op::IDLE_UNTIL => {
                core.inbox.posture.store(word.a, Ordering::Release);
                wait::idle_until(core, shared.phase_started.load(Ordering::Relaxed) + clock::ticks(word.d))?;
            }
            op::PRESSURE => pressure(core, word.c, arch::counter() + clock::ticks(word.d)),
            op::LOOP => {
                if depth == LOOP_DEPTH {
                    return bad_op(pc);
                }
                loops[depth] = (word.c, pc as u32);
                depth += 1;
            }
            op::LOOP_END => {
                let Some((left, start)) = depth.checked_sub(1).and_then(|top| loops.get_mut(top)) else {
                    return bad_op(pc);
                };
                *left = left.saturating_sub(1);
                if *left == 0 {
                    depth -= 1;
                } else {
                    pc = *start as usize;
                }
            }
            op::CALL => calls::single(word.b, word.a, word.d, word.c)?,
            op::CALL_MANY => match plan.masks.get(usize::from(word.b)) {
                Some(mask) => calls::many(mask, word.a, word.d, word.c)?,
                None => return bad_op(pc),
            },
            op::IPI => calls::ipi(word.b, word.a, word.c, word.d)?,
            op::TICK => calls::tick(core, word.c, word.d)?,
            op::IRQ_WORK => calls::work(word.a, word.d, word.c)?,
            op::HOLD if word.b != 0xFFFF && shared.core(word.b.into()).is_none() => skip(core),
            op::HOLD => kinds::hold(core, word.a)?,
            op::RELEASE => match shared.core(word.b.into()) {
                Some(target) => target.calls.released.store(true, Ordering::Release),
                None => skip(core),
            },
            op::AWAIT => match shared.core(word.b.into()) {
                Some(target) => kinds::await_state(core, target, word.a)?,
                None => skip(core),
            },
            op::DELIVERY => kinds::set_delivery(core, Delivery::from_code(word.a)),
            op::ROW => core.calls.row.set(word.c),
            op::SWEEP_RANGE => {
                core.sweep.set(sweep::Range { transition: word.a, first: word.d as i64, step: word.c });
            }
            op::SWEEP => match other(core, word.b) {
                Some(target) => {
                    if !sweep::send(core, target, word.a, word.d as u32, word.c)? {
                        skip(core);
                    }
                }
                None => skip(core),
            },
            op::DITHER => core.dither.set(word.c),
            op::MARK => record(core, Kind::Mark, 0, word.c),
            op::AGAIN => {
                wait::barrier(core, decide_again)?;
                if shared.again.load(Ordering::Acquire) {
                    core.watch.new_round();
                    pc = word.c as usize;
                }
            }
            _ => return bad_op(pc),
        }
    }
}

/// The `overflow` twin: calls itself until the guard page under the thread stack stops it.
#[expect(unconditional_recursion, reason = "that is the point")]
#[inline(never)]
fn overflow(depth: u64) {
    let mut frame = [depth; 32];
    // The barrier keeps the frame alive across the call, so that this is no loop.
    core::hint::black_box(&mut frame);
    overflow(frame[0] + 1);
    core::hint::black_box(&mut frame);
}

fn bad_op(pc: usize) -> Result<(), Stop> {
    Shared::get().stop(abort_reason::BAD_OP, pc as u32 - 1);
    ipi::wake_all();
    Err(Stop)
}

/// Another core that takes part.
fn other(core: &'static Core, id: u16) -> Option<&'static Core> {
    Shared::get().core(id.into()).filter(|target| target.id != core.id)
}

fn skip(core: &Core) {
    // SAFETY: this core's own entry.
    unsafe { (*core.entry).skipped_ops += 1 };
}

fn busy_until(core: &Core, end: u64) {
    if watchdog::fed_by(core) {
        while arch::counter() < end {
            watchdog::feed_if_due();
            arch::yield_now();
        }
    }
    while arch::counter() < end {
        arch::yield_now();
    }
}

/// Reads and writes over memory of this core's own.
fn pressure(core: &Core, kibibytes: u32, end: u64) {
    let words = (kibibytes as usize * 128).min(core.pressure_words);
    while arch::counter() < end {
        // One word in each line of 64 bytes.
        for index in (0..words).step_by(8) {
            let cell = core.pressure.wrapping_add(index);
            // SAFETY: inside this core's own pressure memory.
            unsafe { cell.write_volatile(cell.read_volatile().wrapping_add(1)) };
        }
        arch::yield_now();
    }
}

fn decide_again() {
    let shared = Shared::get();
    // SAFETY: all other cores wait at the barrier.
    unsafe {
        let rounds = core::ptr::addr_of_mut!((*shared.status).rounds);
        rounds.write_volatile(rounds.read_volatile() + 1);
        let elapsed = arch::counter_ordered().wrapping_sub((*shared.status).started);
        shared.again.store(elapsed < shared.duration, Ordering::Release);
    }
}
