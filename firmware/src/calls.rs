//! The call layer: what Linux's kernel/smp.c does, in its smallest form. Descriptors, queues, locks, and who is told.
//!
//! A caller takes a descriptor's lock, fills it in, pushes it on the target's queue and sends SGI 1 if the queue was empty. The
//! target's handler takes the whole queue and runs it. See `docs/call-layer.md`. Nothing here is on the measured path of plans
//! that do not call.
// UNSAFETY: descriptors and the cores' own lines are tables of the region, reached through raw pointers; each field has one
// writer at a time. Entry points called by name from assembly.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use trace_ring::calls::{
    CallDescriptor, CoreMask, DescriptorUse, Function, IpiKind, LiveEntry, Onward, call_flag, call_state, doing,
    reverse,
};
use trace_ring::layout::{Context, abort_reason};
use trace_ring::mailbox;
use trace_ring::plan::{TraceLevel, op, plan_flag};
use trace_ring::record::{Event, FLAG_SYNCHRONOUS, FRAME_SENDER, Kind, PEER_ALL, SLOT_SHIFT};

use crate::ipi::{self, OFF, Series};
use crate::percore::{Core, Shared};
use crate::wait::Stop;
use crate::{arch, callbacks, clock, sgi, twins, unwind, wait};

// The caller's return address is the call site, as Linux's _RET_IP_ is. It stands in x30 and nowhere else, so these hand it on.
core::arch::global_asm!(
    ".section .text.calls, \"ax\"",
    ".global smp_call_function_single, smp_call_function_many, irq_work_queue, smp_send_ipi",
    ".type smp_call_function_single, %function",
    "smp_call_function_single:", // (target, function | wait, info, row)
    "mov x4, x30",
    "b call_single_from",
    ".size smp_call_function_single, . - smp_call_function_single",
    ".type smp_call_function_many, %function",
    "smp_call_function_many:", // (mask, function | wait, info, row)
    "mov x4, x30",
    "b call_many_from",
    ".size smp_call_function_many, . - smp_call_function_many",
    ".type irq_work_queue, %function",
    "irq_work_queue:", // (function | wait, info, row)
    "mov x3, x30",
    "b irq_work_from",
    ".size irq_work_queue, . - irq_work_queue",
    ".type smp_send_ipi, %function",
    "smp_send_ipi:", // (target, kind, slot, count)
    "mov x4, x30",
    "b send_ipi_from",
    ".size smp_send_ipi, . - smp_send_ipi",
);

unsafe extern "C" {
    fn smp_call_function_single(target: u64, function: u64, info: u64, row: u64) -> u64;
    fn smp_call_function_many(mask: *const CoreMask, function: u64, info: u64, row: u64) -> u64;
    fn irq_work_queue(function: u64, info: u64, row: u64) -> u64;
    fn smp_send_ipi(target: u64, kind: u64, slot: u64, count: u64) -> u64;
}

/// Bit of an operation's function: the caller waits.
const WAIT: u64 = op::WAITS as u64;
/// Bit of an operation's function: the SGI is sent whatever the queue holds.
const ALWAYS: u64 = op::ALWAYS_SENDS as u64;
/// The function's number without those.
const NUMBER: u64 = 0xFF & !(WAIT | ALWAYS);
/// What the entry points give back: go on, or leave the program.
const GO_ON: u64 = 0;
const STOP: u64 = 1;

const fn outcome(code: u64) -> Result<(), Stop> {
    if code == GO_ON { Ok(()) } else { Err(Stop) }
}

/// Calls a function on another core ([`trace_ring::plan::op::CALL`]).
#[inline(always)]
pub fn single(target: u16, function: u8, info: u64, row: u32) -> Result<(), Stop> {
    // SAFETY: the trampoline only adds the return address.
    outcome(unsafe { smp_call_function_single(target.into(), function.into(), info, row.into()) })
}

/// Calls a function on all cores of a mask that are up, but this one ([`trace_ring::plan::op::CALL_MANY`]).
#[inline(always)]
pub fn many(mask: &CoreMask, function: u8, info: u64, row: u32) -> Result<(), Stop> {
    // SAFETY: as above.
    outcome(unsafe { smp_call_function_many(mask, function.into(), info, row.into()) })
}

/// Queues work of this core's own ([`trace_ring::plan::op::IRQ_WORK`]).
#[inline(always)]
pub fn work(function: u8, info: u64, row: u32) -> Result<(), Stop> {
    // SAFETY: as above.
    outcome(unsafe { irq_work_queue(function.into(), info, row.into()) })
}

/// Sends an IPI without a call and waits for its answer, or goes on, `count` times ([`trace_ring::plan::op::IPI`]).
#[inline(always)]
pub fn ipi(target: u16, kind: u8, slot: u32, count: u64) -> Result<(), Stop> {
    // SAFETY: as above.
    outcome(unsafe { smp_send_ipi(target.into(), kind.into(), slot.into(), count) })
}

/// A descriptor in the region.
#[derive(Clone, Copy)]
pub struct Descriptor {
    at: *mut CallDescriptor,
    /// Its index in the section.
    pub index: u32,
}

impl Descriptor {
    fn new(core: &Core, index: u32) -> Self {
        Descriptor { at: core.calls.descriptors.wrapping_add(index as usize), index }
    }

    fn of(core: &Core, purpose: DescriptorUse) -> Self {
        Descriptor::new(core, purpose.index(core.id as u16, core.calls.cores))
    }

    /// The queue's link.
    fn link(&self) -> &'static AtomicU64 {
        // SAFETY: inside the section, which stays mapped; the word is only used as an atomic.
        unsafe { &*core::ptr::addr_of!((*self.at).next).cast::<AtomicU64>() }
    }

    fn flags(&self) -> &'static AtomicU32 {
        // SAFETY: as `link`.
        unsafe { &*core::ptr::addr_of!((*self.at).flags).cast::<AtomicU32>() }
    }

    fn locked(&self) -> bool {
        // Acquire: pairs with the Release of `unlock`: what the function did is visible to whoever waited for it.
        self.flags().load(Ordering::Acquire) & call_flag::LOCK != 0
    }

    fn set_state(&self, state: u8) {
        // SAFETY: inside the section. Volatile: a host may look at any time.
        unsafe { core::ptr::addr_of_mut!((*self.at).state).write_volatile(state) };
    }

    /// Gives the descriptor back.
    fn unlock(&self) {
        self.flags().store(0, Ordering::Release); // pairs with `locked`
    }

    fn read(&self) -> CallDescriptor {
        // SAFETY: inside the section; the target reads what the caller wrote before its push.
        unsafe { self.at.read() }
    }

    /// Takes the lock and fills it in. It is free: the caller waited for that.
    fn fill(&self, call: CallDescriptor) {
        // SAFETY: inside the section, and nobody else's while it is free. Field by field: `next` and `flags` are atomics that
        // others may look at.
        unsafe {
            let at = self.at;
            core::ptr::addr_of_mut!((*at).function).write_volatile(call.function);
            core::ptr::addr_of_mut!((*at).info).write_volatile(call.info);
            core::ptr::addr_of_mut!((*at).queued).write_volatile(call.queued);
            core::ptr::addr_of_mut!((*at).call_site).write_volatile(call.call_site);
            core::ptr::addr_of_mut!((*at).generation).write_volatile((*at).generation.wrapping_add(1));
            core::ptr::addr_of_mut!((*at).source).write_volatile(call.source);
            core::ptr::addr_of_mut!((*at).target).write_volatile(call.target);
            core::ptr::addr_of_mut!((*at).intid).write_volatile(call.intid);
            core::ptr::addr_of_mut!((*at).state).write_volatile(call_state::QUEUED);
        }
        self.flags().store(call.flags | call_flag::LOCK, Ordering::Relaxed); // published by the push
    }
}

/// Appends a record to the lane of the context that this core is in.
pub fn record(core: &Core, event: Event) {
    if Shared::get().mode != OFF {
        core.lane(core.context()).append_bounded(event);
    }
}

/// Whether the call layer's own records are written.
pub fn traced() -> bool {
    Shared::get().level == TraceLevel::Calls
}

const fn low(address: u64) -> u64 {
    address & 0xFFFF_FFFF
}

/// Says what this core's thread does now, for whoever inspects it. An abort leaves the last word standing.
pub fn say(core: &Core, what: u8, waits_for: u16, descriptor: u32, site: u64) {
    let live = core.calls.live;
    // SAFETY: this core's own line of the region. Volatile: a host may look at any time.
    unsafe {
        core::ptr::addr_of_mut!((*live).since).write_volatile(arch::counter());
        core::ptr::addr_of_mut!((*live).waits_for).write_volatile(waits_for);
        core::ptr::addr_of_mut!((*live).waits_descriptor).write_volatile(descriptor);
        core::ptr::addr_of_mut!((*live).site).write_volatile(site);
        core::ptr::addr_of_mut!((*live).doing).write_volatile(what);
    }
}

/// Says that this core's thread runs its plan again.
pub fn say_running(core: &Core) {
    say(core, doing::RUNNING, PEER_ALL, 0, 0);
}

/// This core's own line of the region.
pub fn live(core: &Core) -> *mut LiveEntry {
    core.calls.live
}

// --- sending --------------------------------------------------------------------------------------------------------

/// Who sends, for the records.
#[derive(Clone, Copy)]
pub struct Sender {
    /// The call site's address.
    pub site: u64,
    /// The callback's address, 0: none.
    pub callback: u64,
}

/// Puts this core's next message to a target into the mailbox.
fn post(series: &Series, time: u64) -> u32 {
    let number = series.number.load(Ordering::Relaxed).wrapping_add(1);
    series.number.store(number, Ordering::Relaxed);
    series.mail.word.store(mailbox::pack(time, number), Ordering::Relaxed);
    series.pending.fetch_or(series.bit, Ordering::Release); // as in `ipi::run`
    // SAFETY: `sent` of this slot has this core as its one writer.
    unsafe {
        let sent = core::ptr::addr_of_mut!((*series.slot).sent);
        sent.write_volatile(sent.read_volatile() + 1);
    }
    number
}

/// Sends one SGI to one core, from any context. Returns the true send time.
///
/// IRQs are masked from the message's number to the write: a handler of this core's own may send to the same target.
pub fn send_one(core: &'static Core, target: &'static Core, kind: IpiKind, slot: u32, sender: Sender) -> u64 {
    arch::without_interrupts(|| {
        let intid = kind.intid();
        let series = Series::new(core, target, intid, slot, false);
        let value = sgi::to_core(target.affinity, intid);
        // Drawn before the stamp, as in `ipi::run`.
        let fate = series.twins.then(|| twins::fate(core, target));
        let fate = fate.map(|fate| (fate.hold, fate.value(intid)));
        let since = arch::counter_ordered();
        let before = twins::stamp(core, since);
        let number = post(&series, before);
        match fate {
            Some((hold, value)) => ipi::send_by_fate(core, hold, value),
            None => sgi::send(value),
        }
        let window = arch::counter().wrapping_sub(since);
        let peer = target.id as u16;
        let arg = (u64::from(slot) << SLOT_SHIFT) + window;
        record(core, Event { t: before, kind: Kind::Send, flags: 0, peer, msg: number, intid, extra: 0, arg });
        if traced() {
            tell_site(core, before, peer, number, intid, sender);
        }
        since
    })
}

/// The records behind a send: who it was, and its frames where the plan wants them.
fn tell_site(core: &Core, t: u64, peer: u16, msg: u32, intid: u8, sender: Sender) {
    let arg = low(sender.site) | low(sender.callback) << 32;
    record(core, Event { t, kind: Kind::CallSite, flags: 0, peer, msg, intid, extra: 0, arg });
    if Shared::get().plan.header.flags & plan_flag::BACKTRACE != 0 {
        frames(core, t, peer, intid, FRAME_SENDER, unwind::SENDER_FRAMES, arch::frame_pointer());
    }
}

/// Records the frames from a frame pointer on.
pub fn frames(core: &Core, t: u64, peer: u16, intid: u8, flags: u8, most: u8, pointer: u64) {
    let mut depth = 0;
    unwind::walk(pointer, |address| {
        record(core, Event { t, kind: Kind::Frame, flags, peer, msg: 0, intid, extra: depth, arg: address });
        depth += 1;
        depth < most
    });
}

/// Sends one SGI to a set of cores, with one write for each group of sixteen that a target list reaches (IHI 0069, 12.2.22).
///
/// Each target's message carries the time before its own write. The record holds exactly the targets that were written.
pub fn send_many(core: &'static Core, targets: &CoreMask, kind: IpiKind, row: u32, sender: Sender) {
    let shared = Shared::get();
    let intid = kind.intid();
    arch::without_interrupts(|| {
        let mut written = CoreMask::default();
        let mut first = 0;
        let mut group: Option<(u64, u64)> = None; // (affinity / 16, target list)
        let mut hold = 0; // of the group, by a twin
        let mut at = 0;
        let mut begun = 0;
        let mut stamp = 0;
        let ids = || (0..shared.core_count as u16).filter(|id| targets.contains(*id));
        // A group ends where the next target's affinity differs from it in anything but the list; the last, at the end.
        for id in ids().map(Some).chain([None]) {
            let target = id.and_then(|id| shared.core(id.into()));
            let key = target.map(|target| target.affinity >> 4);
            if let Some((open, list)) = group
                && (id.is_none() || key.is_some_and(|key| key != open))
            {
                twins::hold_back(core, core::mem::take(&mut hold));
                sgi::send(sgi::to_list(open << 4, intid, list));
                at = arch::counter();
                group = None;
            }
            let Some(target) = target else { continue };
            if group.is_none() {
                let now = arch::counter_ordered();
                stamp = twins::stamp(core, now);
                if begun == 0 {
                    (begun, first) = (now, stamp);
                }
            }
            let series = Series::new(core, target, intid, row + target.id as u32, false);
            post(&series, stamp);
            let list = group.map_or(0, |(_, list)| list);
            let own = 1 << (target.affinity & 0xF);
            let bit = if series.twins {
                let fate = twins::fate(core, target);
                hold += fate.hold;
                if let Some(other) = fate.to.filter(|other| *other != target.affinity) {
                    sgi::send(sgi::to_core(other, intid));
                }
                if fate.to == Some(target.affinity) { own } else { 0 }
            } else {
                own
            };
            group = Some((target.affinity >> 4, list | bit));
            written.insert(target.id as u16);
        }
        if begun == 0 {
            return; // an empty set: nothing was written, nothing is recorded
        }
        let window = u32::try_from(at.wrapping_sub(begun)).unwrap_or(u32::MAX);
        let mut left = written.0.iter().filter(|word| **word != 0).count() as u8;
        for (word, mask) in written.0.into_iter().enumerate().filter(|(_, mask)| *mask != 0) {
            left -= 1;
            let peer = word as u16 * 64;
            let event =
                Event { t: first, kind: Kind::SendMask, flags: 0, peer, msg: window, intid, extra: left, arg: mask };
            record(core, event);
        }
        tell_site(core, first, 0, row, intid, sender);
    });
}

// --- calling --------------------------------------------------------------------------------------------------------

/// How long a caller spins before it naps between looks, ns. On silicon a call is over by then. Where it is not, the caller
/// makes room: under an emulator or beside a busy host its target may need the very processor that it spins on.
const SPIN_NS: u64 = 100_000;
/// Such a nap, ns.
const NAP_NS: u64 = 50_000;

/// Waits until a descriptor is unlocked: Linux's `csd_lock_wait`. `site`: where that happens, for inspection.
fn csd_lock_wait(core: &'static Core, descriptor: Descriptor, site: u64) -> Result<(), Stop> {
    if !descriptor.locked() {
        return Ok(());
    }
    let shared = Shared::get();
    let waits_for = descriptor.read().target;
    let since = arch::counter();
    let (spin, nap) = (clock::ticks(SPIN_NS), clock::ticks(NAP_NS));
    let mut warned = false;
    let mut polls = 0u32;
    say(core, doing::CALL, waits_for, descriptor.index + 1, site);
    loop {
        arch::yield_now();
        if !descriptor.locked() {
            say_running(core);
            return Ok(());
        }
        polls = polls.wrapping_add(1);
        if !polls.is_multiple_of(16) {
            continue;
        }
        if shared.abort.load(Ordering::Relaxed) != 0 {
            return Err(Stop);
        }
        let waited = arch::counter().wrapping_sub(since);
        if waited > spin {
            wait::nap(core, nap);
            polls |= 15; // look at once, and at the clock behind it
        }
        if !warned && waited > shared.timeout {
            warned = true;
            if traced() {
                let generation = descriptor.read().generation as u8;
                record(
                    core,
                    Event {
                        t: twins::now(core),
                        kind: Kind::CallWait,
                        flags: 0,
                        peer: waits_for,
                        msg: descriptor.index,
                        intid: IpiKind::CallFunction.intid(),
                        extra: generation,
                        arg: waited,
                    },
                );
            }
        }
        if waited > shared.deadline {
            shared.stop(abort_reason::DEADLINE, core.id as u32);
            ipi::wake_all();
            return Err(Stop);
        }
    }
}

/// What a caller wants.
#[derive(Clone, Copy)]
struct Request {
    function: Function,
    info: u64,
    sync: bool,
    site: u64,
    kind: IpiKind,
}

/// Fills a free descriptor in, records it, and pushes it on its queue. `true`: the queue was empty.
fn enqueue(core: &Core, descriptor: Descriptor, target: &Core, request: Request) -> bool {
    let Request { function, info, sync, site, kind } = request;
    let intid = kind.intid();
    let address = callbacks::address(function);
    let now = twins::now(core);
    let flags = if sync { call_flag::SYNCHRONOUS } else { 0 };
    descriptor.fill(CallDescriptor {
        function: address,
        info,
        queued: now,
        call_site: site,
        flags,
        source: core.id as u16,
        target: target.id as u16,
        intid,
        ..CallDescriptor::default()
    });
    if traced() {
        record(
            core,
            Event {
                t: now,
                kind: Kind::Queued,
                flags: if sync { FLAG_SYNCHRONOUS } else { 0 },
                peer: target.id as u16,
                msg: descriptor.index,
                intid,
                extra: descriptor.read().generation as u8,
                arg: low(address) | low(site) << 32,
            },
        );
    }
    let queue = if kind == IpiKind::IrqWork { &target.calls.work } else { &target.calls.queue };
    queue.push(descriptor.index, descriptor.link())
}

fn caller(site: u64) -> Sender {
    Sender { site, callback: generic_smp_call_function_single_interrupt as *const () as u64 }
}

/// [`trace_ring::plan::op::CALL`], and each hop of a chain. `function`: number, and [`WAIT`].
#[unsafe(no_mangle)]
extern "C" fn call_single_from(target: u64, function: u64, info: u64, row: u64, site: u64) -> u64 {
    let core = Core::this();
    let Some(target) = Shared::get().core(target as usize).filter(|target| target.id != core.id) else {
        return GO_ON;
    };
    let Some(called) = Function::from_code((function & NUMBER) as u8) else { return GO_ON };
    let chain = called == Function::Onward;
    let sync = function & WAIT != 0 && !chain;
    let hop = core.context() != Context::Thread;
    let purpose = match (hop, sync) {
        (true, _) => DescriptorUse::Onward(Onward::from_info(info).origin),
        (false, true) => DescriptorUse::Waiting,
        (false, false) => DescriptorUse::Single,
    };
    let descriptor = Descriptor::of(core, purpose);
    // A hop's descriptor is free: its chain has one call under way, and this is it.
    if !hop {
        core.calls.chain.store(0, Ordering::Relaxed);
        if csd_lock_wait(core, descriptor, site).is_err() {
            return STOP;
        }
    }
    let request = Request { function: called, info, sync, site, kind: IpiKind::CallFunction };
    arch::without_interrupts(|| {
        if enqueue(core, descriptor, target, request) || function & ALWAYS != 0 {
            send_one(core, target, request.kind, row as u32 + target.id as u32, caller(site));
        }
    });
    if sync && csd_lock_wait(core, descriptor, site).is_err() {
        return STOP;
    }
    if chain && !hop && chain_wait(core, target.id as u16, site).is_err() {
        return STOP;
    }
    GO_ON
}

/// Waits until the last hop of this core's chain has run.
fn chain_wait(core: &'static Core, first: u16, site: u64) -> Result<(), Stop> {
    let done = || core.calls.chain.load(Ordering::Acquire) != 0; // pairs with the Release of `callbacks::end_chain`
    poll(core, first, doing::CALL, site, true, done)
}

/// Polls with YIELD until `done`, at most until the run's deadline. `naps`: interrupts are open, and it may sleep between looks.
pub fn poll(
    core: &'static Core,
    waits_for: u16,
    what: u8,
    site: u64,
    naps: bool,
    done: impl Fn() -> bool,
) -> Result<(), Stop> {
    let shared = Shared::get();
    let since = arch::counter();
    let (spin, nap) = (clock::ticks(SPIN_NS), clock::ticks(NAP_NS));
    let mut polls = 0u32;
    say(core, what, waits_for, 0, site);
    while !done() {
        arch::yield_now();
        polls = polls.wrapping_add(1);
        if !polls.is_multiple_of(16) {
            continue;
        }
        if shared.abort.load(Ordering::Relaxed) != 0 {
            return Err(Stop);
        }
        let waited = arch::counter().wrapping_sub(since);
        if naps && waited > spin {
            wait::nap(core, nap);
            polls |= 15; // as in `csd_lock_wait`
        }
        if waited > shared.deadline {
            shared.stop(abort_reason::DEADLINE, core.id as u32);
            ipi::wake_all();
            return Err(Stop);
        }
    }
    say_running(core);
    Ok(())
}

/// [`trace_ring::plan::op::CALL_MANY`].
#[unsafe(no_mangle)]
extern "C" fn call_many_from(mask: &CoreMask, function: u64, info: u64, row: u64, site: u64) -> u64 {
    let core = Core::this();
    let shared = Shared::get();
    let Some(called) = Function::from_code((function & NUMBER) as u8) else { return GO_ON };
    let sync = function & WAIT != 0;
    let targets = || {
        let named = (0..shared.core_count).filter(|id| mask.contains(*id as u16));
        named.filter_map(|id| shared.core(id)).filter(|target| target.id != core.id)
    };
    let mut send = CoreMask::default();
    for target in targets() {
        let descriptor = Descriptor::of(core, DescriptorUse::Many(target.id as u16));
        if csd_lock_wait(core, descriptor, site).is_err() {
            return STOP;
        }
        let request = Request { function: called, info, sync, site, kind: IpiKind::CallFunction };
        if arch::without_interrupts(|| enqueue(core, descriptor, target, request)) || function & ALWAYS != 0 {
            send.insert(target.id as u16);
        }
    }
    send_many(core, &send, IpiKind::CallFunction, row as u32, caller(site));
    if sync {
        for target in targets() {
            let descriptor = Descriptor::of(core, DescriptorUse::Many(target.id as u16));
            if csd_lock_wait(core, descriptor, site).is_err() {
                return STOP;
            }
        }
    }
    GO_ON
}

/// [`trace_ring::plan::op::IRQ_WORK`].
#[unsafe(no_mangle)]
extern "C" fn irq_work_from(function: u64, info: u64, row: u64, site: u64) -> u64 {
    let core = Core::this();
    let Some(called) = Function::from_code((function & NUMBER) as u8) else { return GO_ON };
    let sync = function & WAIT != 0;
    let descriptor = Descriptor::of(core, DescriptorUse::Work);
    if csd_lock_wait(core, descriptor, site).is_err() {
        return STOP;
    }
    let request = Request { function: called, info, sync, site, kind: IpiKind::IrqWork };
    arch::without_interrupts(|| {
        if enqueue(core, descriptor, core, request) {
            let sender = Sender { site, callback: callbacks::address(called) };
            send_one(core, core, request.kind, row as u32 + core.id as u32, sender);
        }
    });
    if sync && csd_lock_wait(core, descriptor, site).is_err() {
        return STOP;
    }
    GO_ON
}

/// [`trace_ring::plan::op::IPI`].
#[unsafe(no_mangle)]
extern "C" fn send_ipi_from(target: u64, kind: u64, slot: u64, count: u64, site: u64) -> u64 {
    let core = Core::this();
    let waits = kind & u64::from(op::GOES_ON) == 0;
    let Some(kind) = IpiKind::from_intid(kind as u8 & !op::GOES_ON) else { return GO_ON };
    let Some(target) = Shared::get().core(target as usize) else {
        // SAFETY: this core's own entry.
        unsafe { (*core.entry).skipped_ops += 1 };
        return GO_ON;
    };
    for _ in 0..count.max(1) {
        let since = send_one(core, target, kind, slot as u32, Sender { site, callback: 0 });
        if !waits {
            continue;
        }
        say(core, doing::ANSWER, target.id as u16, 0, site);
        let series = Series::new(core, target, kind.intid(), slot as u32, false);
        if !ipi::wait_for_answer(core, &series, since) {
            return STOP;
        }
        say_running(core);
    }
    GO_ON
}

/// Broadcasts this core's tick to all others that are up: called by the timer's handler.
pub fn broadcast_tick(core: &'static Core) {
    let mut others = CoreMask::default();
    for other in Shared::get().live_cores().filter(|other| other.id != core.id) {
        others.insert(other.id as u16);
    }
    // One instruction in: a symbolizer looks for a call site in front of the address, and in front of the first is another function.
    let site = broadcast_tick as *const () as u64 + 4;
    send_many(core, &others, IpiKind::TimerBroadcast, core.calls.tick_row.get(), Sender { site, callback: 0 });
}

/// [`trace_ring::plan::op::TICK`].
pub fn tick(core: &'static Core, row: u32, after: u64) -> Result<(), Stop> {
    let at = arch::counter() + clock::ticks(after);
    core.calls.tick_row.set(row);
    core.calls.tick_at.set(at);
    let patience = at + Shared::get().deadline;
    // The timer's handler broadcasts; this wait only lets it.
    if !wait::until(core, patience, || core.calls.tick_at.get() == 0)? {
        Shared::get().stop(abort_reason::DEADLINE, core.id as u32);
        ipi::wake_all();
        return Err(Stop);
    }
    ipi::settle(core);
    Ok(())
}

// --- running --------------------------------------------------------------------------------------------------------

/// Runs what stands on this core's call single queue. Named as in Linux, because scripts know it as the callback of a send.
#[unsafe(no_mangle)]
pub extern "C" fn generic_smp_call_function_single_interrupt() {
    let core = Core::this();
    flush(core, core.calls.queue.take(), IpiKind::CallFunction);
}

/// Runs this core's own work.
pub fn run_work(core: &'static Core) {
    flush(core, core.calls.work.take(), IpiKind::IrqWork);
}

/// Runs a taken list: first the calls that somebody waits for, in the order of their pushes, then the others (as Linux does).
fn flush(core: &'static Core, taken: u64, kind: IpiKind) {
    let descriptor = |index: u32| Descriptor::new(core, index);
    let first = reverse(taken, |index| descriptor(index).link());
    let synchronous = |descriptor: Descriptor| descriptor.flags().load(Ordering::Relaxed) & call_flag::SYNCHRONOUS != 0;
    // Those that are left for the second pass stay linked; the others leave the list before they are unlocked.
    let mut others: [u64; 2] = [0, 0]; // first, last
    let mut link = first;
    while link != 0 {
        let call = descriptor(link as u32 - 1);
        let next = call.link().load(Ordering::Relaxed); // this core's own until it is unlocked
        if synchronous(call) {
            call.set_state(call_state::RUNNING);
            execute(core, &call.read(), call.index, kind, true);
            call.set_state(call_state::EXECUTED);
            if !leaves_locked(core) {
                call.set_state(call_state::FREE);
                call.unlock();
            }
        } else {
            call.link().store(0, Ordering::Relaxed);
            match others {
                [0, _] => others = [link, link],
                [_, last] => {
                    descriptor(last as u32 - 1).link().store(link, Ordering::Relaxed);
                    others[1] = link;
                }
            }
        }
        link = next;
    }
    let mut link = others[0];
    while link != 0 {
        let call = descriptor(link as u32 - 1);
        let next = call.link().load(Ordering::Relaxed);
        let copy = call.read();
        call.set_state(call_state::FREE);
        call.unlock();
        execute(core, &copy, call.index, kind, false);
        link = next;
    }
}

/// Runs one call.
fn execute(core: &'static Core, call: &CallDescriptor, index: u32, kind: IpiKind, sync: bool) {
    let event = |kind_of_record: Kind, t: u64| Event {
        t,
        kind: kind_of_record,
        flags: if sync { FLAG_SYNCHRONOUS } else { 0 },
        peer: call.source,
        msg: index,
        intid: kind.intid(),
        extra: call.generation as u8,
        arg: low(call.function) | low(call.info) << 32,
    };
    let begun = twins::now(core);
    if traced() {
        record(core, event(Kind::FunctionEntry, begun));
    }
    let live = core.calls.live;
    // SAFETY: this core's own line.
    unsafe {
        core::ptr::addr_of_mut!((*live).function_info).write_volatile(call.info);
        core::ptr::addr_of_mut!((*live).function_since).write_volatile(begun);
        core::ptr::addr_of_mut!((*live).function).write_volatile(call.function);
    }
    core.calls.begun.set(core.calls.begun.get() + 1);
    callbacks::run(call.function, call.info);
    let ended = twins::now(core);
    // SAFETY: as above.
    unsafe {
        core::ptr::addr_of_mut!((*live).function).write_volatile(0);
        let executed = core::ptr::addr_of_mut!((*live).executed);
        executed.write_volatile(executed.read_volatile() + 1);
    }
    if traced() {
        record(core, event(Kind::FunctionExit, ended));
    }
}

/// The `csd-lock` twin: after so many calls that somebody waits for, this one's descriptor stays locked.
fn leaves_locked(core: &Core) -> bool {
    let Some(at) = core.twins.csd_lock else { return false };
    core.calls.waited.set(core.calls.waited.get() + 1);
    if core.calls.waited.get() != at {
        return false;
    }
    // SAFETY: this core's own truth line.
    unsafe { (*core.truth).left_locked += 1 };
    true
}
