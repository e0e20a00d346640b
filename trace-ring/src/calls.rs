//! The call layer's part of the memory: IPI kinds, call descriptors, the call single queue, and what each core does now.
//!
//! Named and shaped after Linux (kernel/smp.c, include/linux/smp_types.h, arch/arm64/kernel/smp.c): a caller fills a descriptor,
//! pushes it on the target's `call_single_queue`, and sends the SGI only if the queue was empty. Descriptors and the cores' own
//! lines lie in the region, so that whoever can read memory sees every pending call of a target that is stuck. The heads of the
//! queues lie in the firmware's own memory: they are changed by exclusives, which not every non-cacheable memory takes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sync::{AtomicU64, Ordering};

/// What an SGI asks of its target. The number is the INTID.
///
/// Numbers 0..=6 and their texts are those of Linux arm64 v5.10 to v6.6 (`enum ipi_msg_type` and `ipi_types` of
/// arch/arm64/kernel/smp.c). v6.7 dropped the wake-up and put the backtrace in its place (6); v6.12 made 3 a "CPU stop NMI".
/// Here the backtrace has the number that is left of SGIs 0..=7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum IpiKind {
    /// Wakes a waiting core: Linux's scheduler would look for another task.
    Reschedule = 0,
    /// Runs what stands on the target's call single queue.
    CallFunction = 1,
    /// Parks the target.
    Stop = 2,
    /// Parks the target once its registers are saved. May come as an NMI.
    CrashStop = 3,
    /// A tick of another core's timer.
    TimerBroadcast = 4,
    /// Runs what stands on the target's own list of work, in interrupt context.
    IrqWork = 5,
    /// Ends a park.
    Wakeup = 6,
    /// Makes the target record its own frames. May come as an NMI.
    Backtrace = 7,
}

impl IpiKind {
    /// All kinds, by number.
    pub const ALL: [IpiKind; 8] = [
        IpiKind::Reschedule,
        IpiKind::CallFunction,
        IpiKind::Stop,
        IpiKind::CrashStop,
        IpiKind::TimerBroadcast,
        IpiKind::IrqWork,
        IpiKind::Wakeup,
        IpiKind::Backtrace,
    ];

    /// The kind of an INTID; `None` above 7.
    pub const fn from_intid(intid: u8) -> Option<Self> {
        if (intid as usize) < Self::ALL.len() { Some(Self::ALL[intid as usize]) } else { None }
    }

    /// The INTID of its SGI.
    pub const fn intid(self) -> u8 {
        self as u8
    }

    /// What [`crate::layout::PairSlot::kind`] holds for it; 0 there is a bare SGI that asks for nothing.
    pub const fn slot_code(self) -> u8 {
        self as u8 + 1
    }

    /// The kind of a slot; `None`: a bare SGI, or a number that this version does not know.
    pub const fn from_slot_code(code: u8) -> Option<Self> {
        match code.checked_sub(1) {
            Some(intid) => Self::from_intid(intid),
            None => None,
        }
    }

    /// Its name in plans and reports.
    pub const fn name(self) -> &'static str {
        match self {
            IpiKind::Reschedule => "reschedule",
            IpiKind::CallFunction => "call_function",
            IpiKind::Stop => "stop",
            IpiKind::CrashStop => "crash_stop",
            IpiKind::TimerBroadcast => "timer_broadcast",
            IpiKind::IrqWork => "irq_work",
            IpiKind::Wakeup => "wakeup",
            IpiKind::Backtrace => "backtrace",
        }
    }

    /// Linux's text for it, as `ipi_raise`, `ipi_entry` and `ipi_exit` print it between parentheses.
    pub const fn reason(self) -> &'static str {
        match self {
            IpiKind::Reschedule => "Rescheduling interrupts",
            IpiKind::CallFunction => "Function call interrupts",
            IpiKind::Stop => "CPU stop interrupts",
            IpiKind::CrashStop => "CPU stop (for crash dump) interrupts",
            IpiKind::TimerBroadcast => "Timer broadcast interrupts",
            IpiKind::IrqWork => "IRQ work interrupts",
            IpiKind::Wakeup => "CPU wake-up interrupts",
            IpiKind::Backtrace => "CPU backtrace interrupts",
        }
    }
}

/// How an interrupt reached a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Delivery {
    /// As an IRQ, which PSTATE.I masks.
    #[default]
    Irq = 0,
    /// As a pseudo-NMI: by a priority that ICC_PMR_EL1 lets through where it masks everything else.
    PseudoNmi = 1,
    /// As a real NMI: superpriority, FEAT_NMI and FEAT_GICv3_NMI; only PSTATE.ALLINT masks it.
    Nmi = 2,
}

impl Delivery {
    /// The delivery of a number; what is not known to this version is `Irq`.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Delivery::PseudoNmi,
            2 => Delivery::Nmi,
            _ => Delivery::Irq,
        }
    }

    /// Its name in plans and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Delivery::Irq => "irq",
            Delivery::PseudoNmi => "pseudo_nmi",
            Delivery::Nmi => "nmi",
        }
    }
}

/// The functions that plans can have called. The number stands in operations, the address in descriptors and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Function {
    /// Empties a per-core list, as `lru_add_drain` does.
    Drain = 0,
    /// Adds this core's counters up, as a statistics file's reader asks for.
    Gather = 1,
    /// Makes this core refetch its instructions, after text was changed.
    SyncIcache = 2,
    /// Busy for `info` ns.
    Slow = 3,
    /// Calls on: `info` is a [`Onward`].
    Onward = 4,
}

impl Function {
    /// All functions, by number.
    pub const ALL: [Function; 5] =
        [Function::Drain, Function::Gather, Function::SyncIcache, Function::Slow, Function::Onward];

    /// The function of a number.
    pub const fn from_code(code: u8) -> Option<Self> {
        if (code as usize) < Self::ALL.len() { Some(Self::ALL[code as usize]) } else { None }
    }

    /// Its name in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Function::Drain => "drain",
            Function::Gather => "gather",
            Function::SyncIcache => "sync_icache",
            Function::Slow => "slow",
            Function::Onward => "onward",
        }
    }

    /// Its symbol in the firmware.
    pub const fn symbol(self) -> &'static str {
        match self {
            Function::Drain => "drain_local_list",
            Function::Gather => "gather_local_statistics",
            Function::SyncIcache => "sync_icache",
            Function::Slow => "slow_callback",
            Function::Onward => "call_onward",
        }
    }
}

/// `info` of [`Function::Onward`]: the route of a chain of calls, each made by the callback of the one before.
///
/// Bits 15..0: the core where the chain began; 31..16: hops that are left after this one; 47..32: the stride from core to core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    /// The core that waits for the chain's end.
    pub origin: u16,
    /// Hops that are left.
    pub hops: u16,
    /// The next core is this one plus the stride, modulo the cores of the plan; one that is not up is passed over.
    pub stride: u16,
}

impl Onward {
    /// As `info` holds it.
    pub const fn info(self) -> u64 {
        self.origin as u64 | (self.hops as u64) << 16 | (self.stride as u64) << 32
    }

    /// From `info`.
    pub const fn from_info(info: u64) -> Self {
        Onward { origin: info as u16, hops: (info >> 16) as u16, stride: (info >> 32) as u16 }
    }
}

/// Bits of [`CallDescriptor::flags`].
pub mod call_flag {
    /// The descriptor is in use: set by the caller, cleared by the target (Linux's CSD_FLAG_LOCK).
    pub const LOCK: u32 = 1;
    /// The caller waits: the target unlocks after the function, not before it (Linux's CSD_TYPE_SYNC).
    pub const SYNCHRONOUS: u32 = 2;
}

/// Where a descriptor stands, [`CallDescriptor::state`].
pub mod call_state {
    /// Not in use.
    pub const FREE: u8 = 0;
    /// On the target's queue.
    pub const QUEUED: u8 = 1;
    /// Its function runs, and the caller waits for it.
    pub const RUNNING: u8 = 2;
    /// Its function has run, and the caller that waits was not yet told. (One that nobody waits for is free before it runs.)
    pub const EXECUTED: u8 = 3;
    /// Never written by the target: a host that lacks the descriptor puts this in its place.
    pub const UNKNOWN: u8 = 0xFF;
}

/// A call descriptor: Linux's `struct __call_single_data`, with what an inspector wants to know besides. 64 bytes, one line.
///
/// The caller writes it before the push. From there until it is unlocked it is the target's, which turns `next` round, moves
/// `state` on, and at last clears `flags`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CallDescriptor {
    /// The queue's link: index of the descriptor that was pushed before this one, plus 1; 0: none.
    pub next: u64,
    /// Address of the function.
    pub function: u64,
    /// Its argument.
    pub info: u64,
    /// When it was queued, ticks.
    pub queued: u64,
    /// Address behind the call: who asked.
    pub call_site: u64,
    /// [`call_flag`] bits.
    pub flags: u32,
    /// How often it was used, this time included.
    pub generation: u32,
    /// The core that calls.
    pub source: u16,
    /// The core that is called.
    pub target: u16,
    /// [`call_state`].
    pub state: u8,
    /// INTID of the queue that it is meant for: [`IpiKind::CallFunction`] or [`IpiKind::IrqWork`].
    pub intid: u8,
    /// Reserved, 0.
    pub reserved: [u16; 5],
}

/// Where the descriptors of one core lie among its [`descriptors_per_core`]: one for each target of a call to many, as Linux's
/// per-CPU `cfd_data` has them; one for each core whose chain may pass; one for single calls that wait for nothing (`csd_data`);
/// one for those that wait (on the stack in Linux); one for work of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorUse {
    /// A call to many, to this target.
    Many(u16),
    /// The next hop of a chain that this core began.
    Onward(u16),
    /// A single call without waiting.
    Single,
    /// A single call that waits.
    Waiting,
    /// IRQ work.
    Work,
}

impl DescriptorUse {
    /// The descriptor's index in the section, for a caller `source` of `cores`.
    pub const fn index(self, source: u16, cores: u32) -> u32 {
        let within = match self {
            DescriptorUse::Many(target) => target as u32,
            DescriptorUse::Onward(origin) => cores + origin as u32,
            DescriptorUse::Single => 2 * cores,
            DescriptorUse::Waiting => 2 * cores + 1,
            DescriptorUse::Work => 2 * cores + 2,
        };
        source as u32 * descriptors_per_core(cores) + within
    }
}

/// Descriptors that each of `cores` cores has.
pub const fn descriptors_per_core(cores: u32) -> u32 {
    2 * cores + 3
}

/// What a core does, [`LiveEntry::doing`].
pub mod doing {
    /// It was never up.
    pub const OFF: u8 = 0;
    /// It runs the plan.
    pub const RUNNING: u8 = 1;
    /// It waits in its posture: for a barrier, a turn, or time to pass.
    pub const WAITING: u8 = 2;
    /// It waits for an answer to a message.
    pub const ANSWER: u8 = 3;
    /// It waits for a descriptor's lock (Linux's `csd_lock_wait`).
    pub const CALL: u8 = 4;
    /// It is masked: PSTATE.I is set for a while.
    pub const MASKED: u8 = 5;
    /// It is masked by ICC_PMR_EL1: only a pseudo-NMI reaches it.
    pub const PRIORITY_MASKED: u8 = 6;
    /// Its part in the plan is over.
    pub const DONE: u8 = 7;
    /// Never written by the target: a host that lacks the entry puts this in its place.
    pub const UNKNOWN: u8 = 0xFF;
}

/// What a core does now, written by that core alone. 64 bytes, one line. An abort leaves it as it was.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LiveEntry {
    /// [`doing`]: the thread.
    pub doing: u8,
    /// INTID plus 1 of the interrupt that its IRQ handler works on; 0: none.
    pub irq: u8,
    /// The same of its NMI handler.
    pub nmi: u8,
    /// INTID plus 1 of the SGI that parked it; 0: it is not parked.
    pub parked: u8,
    /// Index of the plan's operation.
    pub op: u32,
    /// Since when the thread does it, ticks.
    pub since: u64,
    /// Address behind the call that waits: where it waits.
    pub site: u64,
    /// The core that it waits for; 0xFFFF: none in particular.
    pub waits_for: u16,
    /// Reserved, 0.
    pub reserved0: u16,
    /// Index plus 1 of the descriptor that it waits for; 0: none.
    pub waits_descriptor: u32,
    /// Address of the callback that runs; 0: none.
    pub function: u64,
    /// Since when it runs, ticks.
    pub function_since: u64,
    /// Its argument.
    pub function_info: u64,
    /// Callbacks that were run to their end.
    pub executed: u64,
}

const _: () = {
    assert!(size_of::<CallDescriptor>() == 64);
    assert!(size_of::<LiveEntry>() == 64);
};

/// A queue of descriptors that any core and context may push on, and that its core takes whole: Linux's `llist`.
///
/// A link is a descriptor's index plus 1, 0 the end. Whoever pushes on an empty queue must send the SGI; whoever does not, may
/// rely on the SGI of the one that did: that one comes after its push, and the target takes the queue after the acknowledge.
///
/// The queue alone does not keep that order. A push that finds the zero of a take must send its SGI behind the acknowledge that came
/// before the take, else that acknowledge swallows it: so there is a DSB between acknowledge and take, and one between push and
/// the write of ICC_SGI1R_EL1 (`sgi.rs` in the firmware). The model shows the lost wake-up without the first.
#[derive(Debug, Default)]
pub struct CallQueue {
    head: AtomicU64,
}

impl CallQueue {
    /// An empty one.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        CallQueue { head: AtomicU64::new(0) }
    }

    /// An empty one.
    #[cfg(loom)]
    pub fn new() -> Self {
        CallQueue { head: AtomicU64::new(0) }
    }

    /// Pushes descriptor `index`, whose link is `next`. `true`: the queue was empty, and the SGI is to be sent.
    ///
    /// Lock-free: a failed exchange means that another push, or a take, succeeded.
    #[inline]
    pub fn push(&self, index: u32, next: &AtomicU64) -> bool {
        let mut first = self.head.load(Ordering::Relaxed);
        loop {
            next.store(first, Ordering::Relaxed); // published by the exchange below
            // Release: pairs with the Acquire of `take`; the descriptor's fields and its link are visible with the head.
            match self.head.compare_exchange_weak(first, u64::from(index) + 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return first == 0,
                Err(now) => first = now,
            }
        }
    }

    /// Takes all that is queued, the newest first: a link.
    #[inline]
    pub fn take(&self) -> u64 {
        // Acquire: pairs with every Release of `push` that the taken list is made of (each is a read-modify-write of the head,
        // so the release sequence of the older ones goes through the newer).
        self.head.swap(0, Ordering::Acquire)
    }

    /// Whether nothing is queued, at the moment of the look.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == 0
    }
}

/// Turns a taken list round, so that the oldest comes first; returns its link. `link`: the link word of a descriptor by index.
#[inline]
pub fn reverse<'a>(mut newest: u64, link: impl Fn(u32) -> &'a AtomicU64) -> u64 {
    let mut reversed = 0;
    while newest != 0 {
        let next = link(newest as u32 - 1);
        let older = next.load(Ordering::Relaxed); // this core owns the list since `take`
        next.store(reversed, Ordering::Relaxed);
        reversed = newest;
        newest = older;
    }
    reversed
}

/// A set of cores, as plans hold it: bit `n % 64` of word `n / 64`. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CoreMask(pub [u64; 8]);

impl CoreMask {
    /// Whether a core is in it.
    pub const fn contains(&self, core: u16) -> bool {
        let word = core as usize / 64;
        word < 8 && self.0[word] >> (core % 64) & 1 == 1
    }

    /// Puts a core in; ids from 512 on are left out.
    pub const fn insert(&mut self, core: u16) {
        let word = core as usize / 64;
        if word < 8 {
            self.0[word] |= 1 << (core % 64);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn kinds_go_by_their_numbers() {
        for (number, kind) in IpiKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.intid()), number);
            assert_eq!(IpiKind::from_intid(kind.intid()), Some(kind));
            assert_eq!(IpiKind::from_slot_code(kind.slot_code()), Some(kind));
        }
        assert_eq!(IpiKind::from_intid(8), None);
        assert_eq!(IpiKind::from_slot_code(0), None);
        for (number, function) in Function::ALL.into_iter().enumerate() {
            assert_eq!(function as usize, number);
        }
    }

    #[test]
    fn a_queue_is_taken_in_the_order_of_its_pushes() {
        let links: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let queue = CallQueue::new();
        assert!(queue.push(2, &links[2]));
        assert!(!queue.push(0, &links[0]));
        assert!(!queue.push(3, &links[3]));
        let mut link = reverse(queue.take(), |index| &links[index as usize]);
        let mut order = Vec::new();
        while link != 0 {
            order.push(link - 1);
            link = links[link as usize - 1].load(Ordering::Relaxed);
        }
        assert_eq!(order, [2, 0, 3]);
        assert!(queue.is_empty() && queue.push(1, &links[1]));
    }

    #[test]
    fn descriptors_of_all_uses_are_different() {
        let cores = 5u32;
        let mut seen = std::collections::BTreeSet::new();
        for source in 0..cores as u16 {
            for other in 0..cores as u16 {
                assert!(seen.insert(DescriptorUse::Many(other).index(source, cores)));
                assert!(seen.insert(DescriptorUse::Onward(other).index(source, cores)));
            }
            for one in [DescriptorUse::Single, DescriptorUse::Waiting, DescriptorUse::Work] {
                assert!(seen.insert(one.index(source, cores)));
            }
        }
        assert_eq!(seen.len() as u32, cores * descriptors_per_core(cores));
        assert_eq!(seen.last(), Some(&(cores * descriptors_per_core(cores) - 1)));
    }

    #[test]
    fn a_route_survives_its_info() {
        let route = Onward { origin: 511, hops: 1000, stride: 7 };
        assert_eq!(Onward::from_info(route.info()), route);
    }
}
