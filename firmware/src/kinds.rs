//! The IPI kinds: the interrupt handler of plans that call, and each kind's work in its smallest form.
//!
//! An IRQ's handler works with IRQs masked by priority and PSTATE.I clear (and PSTATE.ALLINT clear where real NMIs are in use), so
//! that crash stop and backtrace reach a core that is stuck in a callback. They find a context of their own: lane, depth, stack
//! frame. Everything that this handler shares with the measured one (mailbox, slots, counts) is per INTID, so that neither
//! disturbs the other.
// UNSAFETY: the handler is called by name from the vectors; the fault entry and the cores' own lines are written through raw
// pointers.
#![expect(unsafe_code)]

use core::sync::atomic::Ordering;

use trace_ring::calls::{Delivery, IpiKind, doing};
use trace_ring::layout::{Context, core_feature, fault_kind};
use trace_ring::plan::TraceLevel;
use trace_ring::record::{Event, FLAG_NMI, FLAG_PSEUDO_NMI, FRAME_TARGET, Kind, PEER_ALL, ReceiverState};

use crate::arch::{read_register, write_register};
use crate::ipi::{self, BOUNDED, OFF};
use crate::percore::{Core, Shared};
use crate::wait::Stop;
use crate::{arch, calls, gic, sgi, twins, unwind, watch};

/// What the vector saved: x0..x30, ELR_EL1, SPSR_EL1, and a frame record.
#[repr(C)]
struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
    record: [u64; 2],
}

/// ICC_PMR_EL1 that lets everything pass.
const OPEN: u64 = 0xFF;

fn set_priority_mask(mask: u64) {
    write_register!("S3_0_C4_C6_0", mask);
    if mask == OPEN {
        arch::synchronize(); // the redistributor learns that it may forward what it held back (as Linux does)
    }
}

fn priority_mask() -> u64 {
    read_register!("S3_0_C4_C6_0")
}

/// PSTATE.ALLINT (FEAT_NMI): masks even interrupts of superpriority.
fn mask_all(masked: bool) {
    write_register!("S3_0_C4_C3_0", u64::from(masked) << 13);
}

fn real_nmi(core: &Core) -> bool {
    core.calls.delivery.get() == Delivery::Nmi as u8
}

/// Masks IRQs, but not NMIs: by priority where that works, else by PSTATE.I as it is. `true`: PSTATE.I was cleared for it.
fn let_nmis_in(core: &Core) -> bool {
    if real_nmi(core) {
        mask_all(false);
    }
    if core.calls.features.get() & core_feature::PSEUDO_NMI == 0 {
        return false;
    }
    set_priority_mask(core.calls.masking.get());
    arch::unmask_interrupts();
    true
}

fn keep_nmis_out(core: &Core, cleared: bool) {
    if cleared {
        arch::mask_interrupts();
        set_priority_mask(OPEN);
    }
    if real_nmi(core) {
        mask_all(true);
    }
}

/// Answers one interrupt of a plan that calls. `entry`: the counter as the vector's second instruction read it.
#[unsafe(no_mangle)]
extern "C" fn irq_calls(mut entry: u64, core: &'static Core, frame: &Frame) {
    let taken = entry;
    let twins = core.twins.receives;
    if twins {
        let next = sgi::highest_pending();
        if twins::is_measured(core, next) {
            entry = twins::before(core, entry, next);
        }
    }
    // ISR_EL1.IS: the pending interrupt has superpriority (DDI 0487, D24.2.75). ICC_IAR1_EL1 says 1022 for it.
    const SUPERIOR_PENDS: u64 = 1022;
    const SUPERPRIORITY: u64 = 1 << 10;
    let superior = real_nmi(core) && read_register!("isr_el1") & SUPERPRIORITY != 0;
    let mut superior = superior;
    let mut acknowledged = if superior { sgi::acknowledge_nmi() } else { sgi::acknowledge() };
    if acknowledged & 0xFF_FFFF == SUPERIOR_PENDS && real_nmi(core) {
        superior = true; // it came between the two reads
        acknowledged = sgi::acknowledge_nmi();
    }
    let intid = acknowledged & 0xFF_FFFF;
    let before = core.calls.context.get();
    let kind = u8::try_from(intid).ok().and_then(IpiKind::from_intid);
    let Some(kind) = kind else {
        core.calls.context.set(Context::Irq as u8);
        match Shared::get().mode {
            OFF => ipi::other_interrupt::<OFF>(taken, core, intid),
            _ => ipi::other_interrupt::<BOUNDED>(taken, core, intid),
        }
        if twins {
            twins::let_through(core);
        }
        core.calls.context.set(before);
        return;
    };
    if kind == IpiKind::Wakeup && !ipi::is_asked(core, intid) {
        // The kit's own: it has done its work by coming.
        // SAFETY: this core's own entry.
        unsafe { (*core.entry).other_interrupts += 1 };
        watch::note(core, Context::Irq, taken);
        if twins {
            twins::let_through(core);
        }
        return sgi::end_of_interrupt(acknowledged);
    }
    entry = twins::stamp(core, entry);
    let urgent = matches!(kind, IpiKind::CrashStop | IpiKind::Backtrace);
    let delivery = match (superior, urgent && core.calls.delivery.get() == Delivery::PseudoNmi as u8) {
        (true, _) => Delivery::Nmi,
        (false, true) => Delivery::PseudoNmi,
        (false, false) => Delivery::Irq,
    };
    let context = if delivery == Delivery::Irq { Context::Irq } else { Context::Nmi };
    core.calls.context.set(context as u8);
    if before == Context::Thread as u8 {
        watch::note(core, context, taken);
    }
    begin(core, context, kind);
    let cleared = context == Context::Irq && let_nmis_in(core);
    stage(core, kind, 0);
    let flags = core.receive_flags() & !trace_ring::record::FLAG_DELIVERED
        | match delivery {
            Delivery::Irq => 0,
            Delivery::PseudoNmi => FLAG_PSEUDO_NMI,
            Delivery::Nmi => FLAG_NMI,
        };
    if !ipi::answer_all(core, intid, entry, flags, context) {
        nothing_asked(entry, core, kind, flags);
    }
    match kind {
        IpiKind::Reschedule => {
            core.inbox.attention.fetch_add(1, Ordering::Release); // this core's wait looks again
        }
        IpiKind::CallFunction => calls::generic_smp_call_function_single_interrupt(),
        IpiKind::TimerBroadcast => core.calls.ticks.set(core.calls.ticks.get() + 1),
        IpiKind::IrqWork => calls::run_work(core),
        IpiKind::CrashStop => save_registers(core, frame, entry),
        IpiKind::Backtrace => backtrace(core, frame, entry),
        IpiKind::Stop | IpiKind::Wakeup => {}
    }
    if context == Context::Irq {
        keep_nmis_out(core, cleared);
    }
    sgi::end_of_interrupt(acknowledged);
    stage(core, kind, 1);
    if matches!(kind, IpiKind::Stop | IpiKind::CrashStop) {
        park(core, kind);
    }
    if twins && twins::is_measured(core, intid) {
        twins::after(core, intid);
    }
    end(core, context);
    core.calls.context.set(before);
    core.watch.was_busy();
}

/// Says in this core's line what it works on.
fn begin(core: &Core, context: Context, kind: IpiKind) {
    set_working(core, context, kind.intid() + 1);
}

fn end(core: &Core, context: Context) {
    set_working(core, context, 0);
}

fn set_working(core: &Core, context: Context, code: u8) {
    let live = calls::live(core);
    // SAFETY: this core's own line.
    unsafe {
        if context == Context::Nmi {
            core::ptr::addr_of_mut!((*live).nmi).write_volatile(code);
        } else {
            core::ptr::addr_of_mut!((*live).irq).write_volatile(code);
        }
    }
}

/// An SGI that nobody's message explains: a record in this context's own lane.
fn nothing_asked(entry: u64, core: &'static Core, kind: IpiKind, flags: u8) {
    // SAFETY: this core's own entry.
    unsafe { (*core.entry).empty_acknowledges += 1 };
    let intid = kind.intid();
    let event = Event { t: entry, kind: Kind::ReceiveEmpty, flags, peer: PEER_ALL, msg: 0, intid, extra: 0, arg: 0 };
    calls::record(core, event);
}

fn stage(core: &Core, kind: IpiKind, which: u8) {
    if matches!(Shared::get().level, TraceLevel::Stages | TraceLevel::Calls) {
        let t = twins::now(core);
        let intid = kind.intid();
        let event = Event { t, kind: Kind::Stage, flags: 0, peer: PEER_ALL, msg: 0, intid, extra: which, arg: 0 };
        calls::record(core, event);
    }
}

// --- crash stop, stop, wake-up --------------------------------------------------------------------------------------

/// The registers of the interrupted code, for whoever looks after the crash.
fn save_registers(core: &Core, frame: &Frame, entry: u64) {
    const HANDLER_STACK: u64 = 1; // SPSR_EL1.M[0]: SP_EL1 was in use
    let sp = if frame.spsr & HANDLER_STACK != 0 {
        core::ptr::from_ref(frame) as u64 + 288
    } else {
        read_register!("sp_el0")
    };
    // SAFETY: this core's own fault entry; `kind` is written last, so a reader that sees it sees the rest.
    unsafe {
        let saved = core.fault;
        core::ptr::addr_of_mut!((*saved).kind).write_volatile(fault_kind::NONE); // it may have been stopped before
        arch::publish_stores();
        (*saved).elr = frame.elr;
        (*saved).spsr = frame.spsr;
        (*saved).sp = sp;
        (*saved).t = entry;
        (*saved).x = frame.x;
        arch::publish_stores();
        core::ptr::addr_of_mut!((*saved).kind).write_volatile(fault_kind::CRASH_STOP);
    }
}

/// Parks this core until a wake-up comes, with everything else disabled at its redistributor: an SGI that is sent to it
/// meanwhile stays pending, and is taken when the park is over.
fn park(core: &'static Core, by: IpiKind) {
    let shared = Shared::get();
    let wakeup = IpiKind::Wakeup;
    let live = calls::live(core);
    tell_park(core, by, 0);
    // SAFETY: this core's own line.
    unsafe { core::ptr::addr_of_mut!((*live).parked).write_volatile(by.intid() + 1) };
    let mask = priority_mask();
    // Above an interrupt that may be active below this one, and above what a HOLD lets through.
    gic::set_urgent(core.redistributor, wakeup.intid().into(), true);
    let enabled = gic::enable_only(core.redistributor, 1 << wakeup.intid());
    set_priority_mask(OPEN);
    core.calls.parked.store(true, Ordering::Release);
    loop {
        arch::sleep();
        let acknowledged = sgi::acknowledge();
        let entry = twins::stamp(core, arch::counter());
        let intid = acknowledged & 0xFF_FFFF;
        let woken = intid == u64::from(wakeup.intid()) && ipi::is_asked(core, intid);
        if woken {
            stage(core, wakeup, 0);
            ipi::answer_all(core, intid, entry, ReceiverState::Masked.code(), core.context());
        }
        if intid < 1020 {
            sgi::end_of_interrupt(acknowledged);
        }
        if woken {
            stage(core, wakeup, 1);
        }
        if woken || shared.abort.load(Ordering::Relaxed) != 0 {
            break;
        }
        arch::yield_now();
    }
    set_priority_mask(mask);
    gic::enable_only(core.redistributor, enabled);
    gic::set_urgent(core.redistributor, wakeup.intid().into(), false);
    // SAFETY: this core's own line.
    unsafe { core::ptr::addr_of_mut!((*live).parked).write_volatile(0) };
    tell_park(core, by, 1);
    core.calls.parked.store(false, Ordering::Release);
    core.inbox.attention.fetch_add(1, Ordering::Release); // what it was told meanwhile
}

fn tell_park(core: &Core, by: IpiKind, which: u8) {
    if calls::traced() {
        let t = twins::now(core);
        let intid = by.intid();
        calls::record(
            core,
            Event { t, kind: Kind::Park, flags: 0, peer: PEER_ALL, msg: 0, intid, extra: which, arg: 0 },
        );
    }
}

// --- backtrace ------------------------------------------------------------------------------------------------------

/// Records where this core was: the interrupted instruction, then the frames outwards.
fn backtrace(core: &Core, frame: &Frame, entry: u64) {
    if calls::traced() {
        let pointer = core::ptr::from_ref(&frame.record) as u64;
        let intid = IpiKind::Backtrace.intid();
        calls::frames(core, entry, core.id as u16, intid, FRAME_TARGET, unwind::TARGET_FRAMES, pointer);
    }
}

// --- masking, on purpose --------------------------------------------------------------------------------------------

/// How a HOLD masks interrupts ([`trace_ring::plan::op::HOLD`]).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// By PSTATE.I.
    Interrupts,
    /// By ICC_PMR_EL1, so that pseudo-NMIs still come.
    Priority,
    /// Not at all: this core has no NMI that could come.
    Nothing,
}

/// Masks interrupts until somebody releases this core. `how`: as the operation says.
pub fn hold(core: &'static Core, how: u8) -> Result<(), Stop> {
    let pseudo = core.calls.features.get() & core_feature::PSEUDO_NMI != 0;
    let hold = match (how, Delivery::from_code(core.calls.delivery.get())) {
        (0, _) | (2, Delivery::Nmi) => Hold::Interrupts,
        (1, _) | (2, Delivery::PseudoNmi) if pseudo => Hold::Priority,
        (2, _) => Hold::Nothing,
        _ => Hold::Interrupts,
    };
    match hold {
        Hold::Interrupts => arch::mask_interrupts(),
        Hold::Priority => set_priority_mask(core.calls.masking.get()),
        Hold::Nothing => {}
    }
    if hold != Hold::Nothing {
        core.enter_state(ReceiverState::Masked.code());
    }
    core.calls.masked.store(true, Ordering::Release);
    let what = match hold {
        Hold::Interrupts => doing::MASKED,
        Hold::Priority => doing::PRIORITY_MASKED,
        Hold::Nothing => doing::RUNNING,
    };
    let held = calls::poll(core, PEER_ALL, what, 0, false, || core.calls.released.swap(false, Ordering::AcqRel));
    core.calls.masked.store(false, Ordering::Release);
    core.enter_state(ReceiverState::Unknown.code());
    match hold {
        Hold::Interrupts => arch::unmask_interrupts(),
        Hold::Priority => set_priority_mask(OPEN),
        Hold::Nothing => {}
    }
    held
}

/// Waits until another core is masked (0), parked (1) or neither (2).
pub fn await_state(core: &'static Core, target: &'static Core, state: u8) -> Result<(), Stop> {
    let masked = || target.calls.masked.load(Ordering::Acquire);
    let parked = || target.calls.parked.load(Ordering::Acquire);
    calls::poll(core, target.id as u16, doing::ANSWER, 0, true, || match state {
        0 => masked() && !parked(),
        1 => parked(),
        _ => !masked() && !parked(),
    })
}

/// From now on crash stop and backtrace come to this core as `wanted`, or as the next less urgent way that it has.
pub fn set_delivery(core: &Core, wanted: Delivery) {
    const SCTLR_NMI: u64 = 1 << 61; // SCTLR_EL1.NMI; SPINTMASK (62) stays 0: exceptions mask all, the handler opens again
    let features = core.calls.features.get();
    let delivery = match wanted {
        Delivery::Nmi if features & core_feature::NMI != 0 => Delivery::Nmi,
        Delivery::Nmi | Delivery::PseudoNmi if features & core_feature::PSEUDO_NMI != 0 => Delivery::PseudoNmi,
        _ => Delivery::Irq,
    };
    arch::without_interrupts(|| {
        twins::let_through(core);
        for kind in [IpiKind::CrashStop, IpiKind::Backtrace] {
            let intid = u32::from(kind.intid());
            if features & core_feature::NMI != 0 {
                gic::set_superpriority(core.redistributor, intid, delivery == Delivery::Nmi);
            }
            gic::set_urgent(core.redistributor, intid, delivery == Delivery::PseudoNmi);
        }
        if features & core_feature::NMI != 0 {
            let control = read_register!("sctlr_el1") & !SCTLR_NMI;
            if delivery == Delivery::Nmi {
                mask_all(false);
                write_register!("sctlr_el1", control | SCTLR_NMI);
            } else {
                write_register!("sctlr_el1", control);
            }
            arch::instruction_barrier();
        }
        core.calls.delivery.set(delivery as u8);
    });
}

/// Finds out how this core can be reached with interrupts off, before it takes its first one. PSTATE.I is set.
pub fn set_up(core: &Core, gicd_typer: u32) {
    const DISTRIBUTOR_NMI: u32 = 1 << 9; // GICD_TYPER.NMI
    let mut features = 0;
    if let Some(mask) = gic::find_masking_priority(core.redistributor, core.affinity) {
        features |= core_feature::PSEUDO_NMI;
        core.calls.masking.set(mask);
    }
    let core_has = read_register!("id_aa64pfr1_el1") >> 36 & 0xF != 0; // ID_AA64PFR1_EL1.NMI
    if core_has && gicd_typer & DISTRIBUTOR_NMI != 0 {
        features |= core_feature::NMI;
    }
    core.calls.features.set(features);
    // SAFETY: this core's own entry.
    unsafe {
        (*core.entry).features = features;
        (*core.entry).masking_priority = core.calls.masking.get() as u32;
    }
    set_delivery(core, Delivery::PseudoNmi);
}
