//! The functions that plans have called, with the shape of the ones that Linux calls most. Each is a symbol of its own.
//!
//! What the twins `slow-callback` and `stuck` do happens inside the function, so that a debugger finds the core there.
// UNSAFETY: fixed names, so that scripts and inspectors find them; a call through the address that a descriptor carries.
#![expect(unsafe_code)]

use core::sync::atomic::Ordering;

use trace_ring::calls::{Function, Onward};

use crate::percore::{Core, Shared};
use crate::{arch, calls, clock};

/// The address of a function.
pub fn address(function: Function) -> u64 {
    (match function {
        Function::Drain => drain_local_list as *const (),
        Function::Gather => gather_local_statistics as *const (),
        Function::SyncIcache => sync_icache as *const (),
        Function::Slow => slow_callback as *const (),
        Function::Onward => call_onward as *const (),
    }) as u64
}

/// Runs the function at `function` if it is one of ours: a descriptor that somebody overwrote must not lead anywhere else.
pub fn run(function: u64, info: u64) {
    if Function::ALL.into_iter().any(|known| address(known) == function) {
        // SAFETY: the address is one of the functions below.
        let called: extern "C" fn(u64) = unsafe { core::mem::transmute(function as *const ()) };
        called(info);
    }
}

/// What the twins of this core do inside its callbacks. Inlined, so that the program counter stays in the callback.
#[inline(always)]
fn twins(core: &'static Core) {
    let twins = &core.twins;
    if twins.slow_callback != 0 {
        // SAFETY: this core's own truth line.
        unsafe { (*core.truth).slowed += 1 };
        let end = arch::counter() + twins.slow_callback;
        while arch::counter() < end {
            arch::yield_now();
        }
    }
    if twins.stuck.is_some_and(|at| at == core.calls.begun.get()) {
        // SAFETY: as above.
        unsafe { (*core.truth).stuck = 1 };
        arch::mask_interrupts();
        loop {
            arch::yield_now();
        }
    }
}

/// Empties this core's own list, as `lru_add_drain_per_cpu` and its kin do: a few lines of memory that nobody else writes.
#[unsafe(no_mangle)]
extern "C" fn drain_local_list(_info: u64) {
    let core = Core::this();
    twins(core);
    let sum = core.calls.list.iter().map(|item| item.take()).fold(0u64, u64::wrapping_add);
    core.calls.drained.set(core.calls.drained.get().wrapping_add(sum).wrapping_add(1));
}

/// Adds up what this core counted, for somebody who asks for statistics.
#[unsafe(no_mangle)]
extern "C" fn gather_local_statistics(_info: u64) {
    let core = Core::this();
    twins(core);
    // SAFETY: this core's own line and entry of the region.
    let counted = unsafe { (*calls::live(core)).executed + (*core.entry).other_interrupts };
    core.calls.gathered.set(counted);
}

/// Makes this core fetch its instructions anew, as after a change of text: Linux's `ipi_sync_core` and `kick_all_cpus_sync`.
#[unsafe(no_mangle)]
extern "C" fn sync_icache(_info: u64) {
    twins(Core::this());
    arch::sync_icache();
}

/// Busy for `info` ns.
#[unsafe(no_mangle)]
extern "C" fn slow_callback(info: u64) {
    twins(Core::this());
    let end = arch::counter() + clock::ticks(info);
    while arch::counter() < end {
        arch::yield_now();
    }
}

/// Calls the next core of a chain, or ends it.
#[unsafe(no_mangle)]
extern "C" fn call_onward(info: u64) {
    let core = Core::this();
    twins(core);
    let shared = Shared::get();
    let route = Onward::from_info(info);
    if route.hops == 0 {
        return end_chain(shared, route);
    }
    let count = shared.core_count as u64;
    // A stride may come round to this core or to cores that are not up: each step at most once.
    let next = (1..=count)
        .map(|step| (core.id + step * u64::from(route.stride)) % count)
        .find(|id| *id != core.id && shared.core(*id as usize).is_some());
    let Some(next) = next else { return end_chain(shared, route) };
    let onward = Onward { hops: route.hops - 1, ..route };
    let outcome = calls::single(next as u16, Function::Onward as u8, onward.info(), core.calls.row.get());
    // Not as a tail call: this function is the call site.
    let _ = core::hint::black_box(outcome);
}

/// Tells the core where the chain began.
fn end_chain(shared: &Shared, route: Onward) {
    if let Some(origin) = shared.core(route.origin.into()) {
        origin.calls.chain.store(1, Ordering::Release); // pairs with the Acquire of `calls::chain_wait`
    }
}
