//! What each core owns, and what all share: in work memory, found through TPIDR_EL1.
//!
//! Lines are laid out by who writes them. The mailbox row of a sender is written by that sender alone, the answered row of a
//! receiver by that receiver (and by a sender that took its message back), the pending line of a receiver by everyone.
// UNSAFETY: the tables are sized at boot, so they are reached through raw pointers.
#![expect(unsafe_code)]

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use trace_ring::calls::{CallDescriptor, CallQueue, LiveEntry};
use trace_ring::layout::{
    Context, CoreEntry, FaultEntry, LANES_PER_CORE, LogHeader, MAX_CORES, PairSlot, PhaseResult, Status, Truth,
};
use trace_ring::plan::{Plan, TraceLevel, Twin};
use trace_ring::record::{FLAG_DELIVERED, Kind};
use trace_ring::writer::LaneWriter;

use crate::arch::{read_register, write_register};
use crate::clock::Exchange;
use crate::machine::Conduit;
use crate::sweep;
use crate::twins::{self, Dice, Twins};
use crate::watch::Watch;

/// One sender's mailbox for one target and INTID: 16 bytes, which the receiver takes with one load of a pair.
#[repr(C, align(16))]
pub struct Mail {
    /// Newest message: [`trace_ring::mailbox`]'s word.
    pub word: AtomicU64,
    /// Where it is counted: see [`place`].
    pub place: AtomicU64,
}

/// Bit of [`Mail::place`]: the answer needs care. There is no histogram, or it is a broadcast, whose time stands in the row's
/// head.
pub const CARE: u64 = 1 << 63;
/// Bit of [`Mail::place`]: a broadcast.
pub const BROADCAST: u64 = 1 << 62;
/// Bit of [`Mail::place`]: no histogram.
pub const BARE: u64 = 1 << 61;

/// Where messages are counted: byte offset of the pair slot in bits 31..0, index of its histogram in bits 55..32.
pub fn place(slot: u32, histogram: u32, broadcast: bool) -> u64 {
    let bare = histogram == trace_ring::layout::NO_HISTOGRAM;
    let flag = |set: bool, bits: u64| if set { bits } else { 0 };
    let index = if bare { 0 } else { u64::from(histogram) };
    (u64::from(slot) * size_of::<PairSlot>() as u64)
        | (index << 32)
        | flag(bare, BARE | CARE)
        | flag(broadcast, BROADCAST | CARE)
}

/// Head of a sender's row: the time of its broadcast. One line.
#[repr(C, align(64))]
pub struct RowHead {
    /// Send time of the broadcast under way, ticks; 0 while its words are being filled.
    pub broadcast_time: AtomicU64,
    /// Broadcasts sent.
    pub broadcasts: AtomicU32,
}

/// The senders that want something of a core: one bit each, for one INTID. One line holds 512.
#[repr(C, align(64))]
pub struct Pending(pub [AtomicU64; 8]);

/// Where the tables lie. The same for all cores.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Rows of [`Mail`], one a sender, each with a [`RowHead`].
    pub rows: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// Answered numbers: one row of `AtomicU32` a receiver.
    pub answered: u64,
    /// Bytes of such a row.
    pub answered_bytes: u64,
    /// Numbers of the newest messages: one row of `AtomicU32` a sender, read by that sender alone.
    pub numbers: u64,
    /// [`Pending`] lines: `sgi_count` a receiver.
    pub pending: u64,
    /// SGIs that tables are made for.
    pub sgi_count: u64,
    /// Words of a pending line in use.
    pub words: u64,
    /// Pair slots of the region.
    pub slots: *mut PairSlot,
    /// Histograms of the region.
    pub histograms: *mut u32,
}

/// What a core owns.
#[repr(C, align(128))]
pub struct Core {
    /// What the handler needs, first and side by side.
    pub hot: Hot,
    /// The lanes.
    pub lanes: [LaneWriter<'static>; LANES_PER_CORE],
    /// Layout of the shared tables.
    pub layout: Layout,
    /// This core's id.
    pub id: u64,
    /// INTID of the virtual timer.
    pub timer: u32,
    /// MPIDR affinity.
    pub affinity: u64,
    /// RD_base of its redistributor.
    pub redistributor: u64,
    /// Its entry in the region.
    pub entry: *mut CoreEntry,
    /// Its fault entry.
    pub fault: *mut FaultEntry,
    /// Its log.
    pub log: *mut LogHeader,
    /// What its twins did.
    pub truth: *mut Truth,
    /// The call layer's part.
    pub calls: Calls,
    /// Its twins.
    pub twins: Twins,
    /// What they remember.
    pub twin_memory: twins::Memory,
    /// When the `mask` twin enables its SGIs again, ticks; 0: they are enabled.
    pub masked_until: Cell<u64>,
    /// When the wait under way ends without an answer, ticks; 0: nobody waits.
    pub wait_until: Cell<u64>,
    /// Whether it was away.
    pub watch: Watch,
    /// It has CNTVCTSS_EL0.
    pub self_synchronised: Cell<bool>,
    /// Frame buffer of the logger.
    pub log_frame: Cell<[u8; 120]>,
    /// Bytes in it; above its size: the frame was too long.
    pub log_length: Cell<usize>,
    /// Interrupt mask to restore after a log frame.
    pub log_daif: Cell<u64>,
    /// Memory that operation PRESSURE works over.
    pub pressure: *mut u64,
    /// Words of it.
    pub pressure_words: usize,
    /// Where in it posture PRESSURE goes on.
    pub pressure_at: Cell<usize>,
    /// The power state for CPU_SUSPEND; `None`: it does not work here, or the plan does not use it.
    pub standby: Cell<Option<u32>>,
    /// Most turns of an empty loop before each message of a PING; 0: none.
    pub dither: Cell<u32>,
    /// Where the generator that draws them stands.
    pub random: Cell<u64>,
    /// Where its program stands.
    pub program_counter: AtomicU32,
    /// Whether it takes part: set by itself once its interrupts are on, in time.
    pub up: AtomicBool,
    /// What its SWEEPs do.
    pub sweep: Cell<sweep::Range>,
    /// Written by others, from here on.
    pub inbox: Inbox,
    /// Where a sender's SWEEP and this receiver agree.
    pub rendezvous: sweep::Rendezvous,
}

/// What the call layer keeps for a core. Queues and the two words behind them are written by others, the rest by this core.
#[repr(C, align(128))]
pub struct Calls {
    /// The call single queue.
    pub queue: CallQueue,
    /// Work of the core's own.
    pub work: CallQueue,
    /// Set by the last hop of the chain that this core began.
    pub chain: AtomicU32,
    /// RELEASE: the HOLD under way is to end.
    pub released: AtomicBool,
    /// Interrupts are masked by a HOLD.
    pub masked: AtomicBool,
    /// It is parked by a stop.
    pub parked: AtomicBool,
    /// This core's line of the region.
    pub live: *mut LiveEntry,
    /// The descriptors of all cores, in the region.
    pub descriptors: *mut CallDescriptor,
    /// Cores of the plan.
    pub cores: u32,
    /// The context that runs: a [`Context`].
    pub context: Cell<u8>,
    /// The row in which calls of chains are counted.
    pub row: Cell<u32>,
    /// The row in which ticks are counted.
    pub tick_row: Cell<u32>,
    /// When the timer shall tick, ticks; 0: it shall not.
    pub tick_at: Cell<u64>,
    /// Ticks of other cores' timers that came.
    pub ticks: Cell<u64>,
    /// Callbacks that were begun.
    pub begun: Cell<u64>,
    /// Of those that somebody waits for, the ones that ended.
    pub waited: Cell<u64>,
    /// How crash stop and backtrace come to this core: a [`trace_ring::calls::Delivery`].
    pub delivery: Cell<u8>,
    /// [`trace_ring::layout::core_feature`] bits.
    pub features: Cell<u32>,
    /// ICC_PMR_EL1 that masks IRQs but no pseudo-NMI.
    pub masking: Cell<u64>,
    /// What callback `drain` empties.
    pub list: [Cell<u64>; 16],
    /// What it emptied.
    pub drained: Cell<u64>,
    /// What callback `gather` found.
    pub gathered: Cell<u64>,
}

/// What the IRQ handler reads: one line and a little, written by this core alone. The addresses are those of this core's own
/// row or column, so that the handler adds one product for the sender.
#[repr(C, align(64))]
pub struct Hot {
    /// This core's [`Pending`] line for INTID 0.
    pub pending: u64,
    /// Word 1 of a `Receive` record without `peer` and number: kind, and in the flags what the thread is doing.
    pub template: Cell<u64>,
    /// The [`Mail`] that core 0 would send this core, INTID 0.
    pub mail: u64,
    /// Bytes from one sender's row to the next.
    pub row_bytes: u64,
    /// This core's answered row.
    pub answered: u64,
    /// SGIs that tables are made for.
    pub sgi_count: u64,
    /// Pair slots of the region.
    pub slots: u64,
    /// Histograms of the region.
    pub histograms: u64,
}

/// What other cores write to make a core look up. One line.
#[repr(C, align(128))]
pub struct Inbox {
    /// Bumped by whoever changed something this core may be waiting for.
    pub attention: AtomicU32,
    /// Posture asked for.
    pub posture: AtomicU8,
    /// Posture taken, by the core itself.
    pub posture_taken: AtomicU8,
}

/// What all cores share.
pub struct Shared {
    /// The plan.
    pub plan: Plan<'static>,
    /// The cores' blocks, by id; null for those that the plan does not use.
    pub cores: [*const Core; MAX_CORES],
    /// How many the plan uses.
    pub core_count: usize,
    /// Status line of the region.
    pub status: *mut Status,
    /// The host's request word.
    pub request: *const AtomicU32,
    /// Phase results of the region.
    pub phases: *mut PhaseResult,
    /// Cores that take part.
    pub live: AtomicU32,
    /// Set once the boot core has counted the live ones: nobody joins after that.
    pub closed: AtomicBool,
    /// Barrier: cores that arrived.
    pub arrived: AtomicU32,
    /// Barrier: how often it opened.
    pub generation: AtomicU32,
    /// Whose turn it is; `NOBODY` between chains.
    pub turn: AtomicU32,
    /// Why everybody is to stop: a [`trace_ring::layout::abort_reason`].
    pub abort: AtomicU32,
    /// Counter at the begin of the phase.
    pub phase_started: AtomicU64,
    /// Whether another round follows.
    pub again: AtomicBool,
    /// Counter comparison.
    pub exchange: Exchange,
    /// How to reach PSCI.
    pub conduit: Conduit,
    /// T in ticks.
    pub timeout: u64,
    /// How long an SGI may stay pending or active, in ticks.
    pub patience: u64,
    /// Probe time in ticks.
    pub probe: u64,
    /// Deadline of barriers and turns in ticks.
    pub deadline: u64,
    /// Whether the request word is read.
    pub listens: bool,
    /// How routines record: a mode of `ipi`.
    pub mode: u8,
    /// What is recorded.
    pub level: TraceLevel,
    /// The plan uses IPI kinds and calls.
    pub calls: bool,
    /// Latency that fires policy `trigger`, ticks.
    pub trigger: u64,
    /// Ticks for which the plan is repeated; 0: once.
    pub duration: u64,
    /// The core that booted.
    pub boot_core: usize,
    /// The twins' generators, in the order of the plan's twins.
    pub dice: Dice,
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(core::ptr::null_mut());

/// Nobody's turn.
pub const NOBODY: u32 = u32::MAX;

// SAFETY: fields that change are atomics; pointers lead to memory whose words have one writer each.
unsafe impl Sync for Shared {}

impl Core {
    /// This core's block.
    #[inline(always)]
    pub fn this() -> &'static Core {
        // SAFETY: TPIDR_EL1 is set before interrupts and before the first call.
        unsafe { &*(read_register!("tpidr_el1") as *const Core) }
    }

    /// Ends this core's part in everything.
    pub fn retire() -> ! {
        if Core::try_this().is_some_and(|core| core.up.load(Ordering::Relaxed)) {
            crate::gic::leave_service();
        }
        crate::arch::park()
    }

    /// This core's block, if the boot has come that far.
    pub fn try_this() -> Option<&'static Core> {
        let pointer = read_register!("tpidr_el1") as *const Core;
        // SAFETY: `enter` wrote 0 or a block.
        unsafe { pointer.as_ref() }
    }

    /// Makes `core` this core's block.
    pub fn enter(core: *const Core) {
        write_register!("tpidr_el1", core as u64);
    }

    /// The context that runs now.
    pub fn context(&self) -> Context {
        match self.calls.context.get() {
            1 => Context::Irq,
            2 => Context::Nmi,
            _ => Context::Thread,
        }
    }

    /// The lane of a context.
    #[inline(always)]
    pub fn lane(&self, context: Context) -> &LaneWriter<'static> {
        &self.lanes[context as usize]
    }

    /// The entry in `sender`'s row for SGI `intid` to `target`.
    #[inline(always)]
    pub fn mail(&self, sender: u64, target: u64, intid: u64) -> *const Mail {
        let layout = &self.layout;
        let column = target * layout.sgi_count + intid;
        (layout.rows + sender * layout.row_bytes + 64 + column * 16) as *const Mail
    }

    /// Head of `sender`'s row.
    #[inline(always)]
    pub fn row_head(&self, sender: u64) -> &'static RowHead {
        // SAFETY: rows were laid out for every id of the plan.
        unsafe { &*((self.layout.rows + sender * self.layout.row_bytes) as *const RowHead) }
    }

    /// The number that `receiver` has answered of `sender`'s messages on `intid`.
    #[inline(always)]
    pub fn answered(&self, receiver: u64, sender: u64, intid: u64) -> &'static AtomicU32 {
        let layout = &self.layout;
        let column = sender * layout.sgi_count + intid;
        // SAFETY: as `row_head`.
        unsafe { &*((layout.answered + receiver * layout.answered_bytes + column * 4) as *const AtomicU32) }
    }

    /// The number of this core's newest message to `target` on `intid`.
    pub fn number(&self, target: u64, intid: u64) -> &'static AtomicU32 {
        let layout = &self.layout;
        let column = target * layout.sgi_count + intid;
        // SAFETY: as `row_head`.
        unsafe { &*((layout.numbers + self.id * layout.answered_bytes + column * 4) as *const AtomicU32) }
    }

    /// Takes a state on, for the records of interrupts that come from now on.
    #[inline(always)]
    pub fn enter_state(&self, state: u8) {
        self.hot.template.set(u64::from(Kind::Receive.code()) << 32 | u64::from(state | FLAG_DELIVERED) << 40);
    }

    /// The flags of a `Receive` record now.
    pub fn receive_flags(&self) -> u8 {
        (self.hot.template.get() >> 40) as u8
    }

    /// The pending line of `receiver` for `intid`.
    #[inline(always)]
    pub fn pending(&self, receiver: u64, intid: u64) -> &'static Pending {
        // SAFETY: as `row_head`.
        unsafe { &*((self.layout.pending + (receiver * self.layout.sgi_count + intid) * 64) as *const Pending) }
    }

    /// A pair slot.
    #[inline(always)]
    pub fn slot(&self, index: u64) -> *mut PairSlot {
        self.layout.slots.wrapping_add(index as usize)
    }
}

impl Shared {
    /// The one that [`Shared::install`] was given.
    #[inline(always)]
    pub fn get() -> &'static Shared {
        // SAFETY: installed before the first core enters its program.
        unsafe { &*SHARED.load(Ordering::Relaxed) }
    }

    /// It, if the boot has come that far.
    pub fn try_get() -> Option<&'static Shared> {
        // SAFETY: null, or what `install` was given.
        unsafe { SHARED.load(Ordering::Acquire).as_ref() }
    }

    /// Makes `shared` the one.
    pub fn install(shared: &'static Shared) {
        SHARED.store(core::ptr::from_ref(shared).cast_mut(), Ordering::Release);
    }

    /// A core that takes part, by id.
    pub fn core(&self, id: usize) -> Option<&'static Core> {
        let pointer = *self.cores.get(id)?;
        // SAFETY: null, or a block that lives for ever.
        unsafe { pointer.as_ref() }.filter(|core| core.up.load(Ordering::Acquire))
    }

    /// All cores that take part.
    pub fn live_cores(&self) -> impl Iterator<Item = &'static Core> + '_ {
        (0..self.core_count).filter_map(|id| self.core(id))
    }

    /// The plan's twins of a core.
    pub fn twins_of(&self, id: u64) -> impl Iterator<Item = &'static Twin> + '_ {
        self.plan.twins.iter().filter(move |twin| u64::from(twin.core) == id)
    }

    /// Sets the reason to stop, if there is none yet.
    pub fn stop(&self, reason: u32, detail: u32) {
        if self.abort.compare_exchange(0, reason, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // SAFETY: only the one who set the reason writes it down; the status line is mapped.
            unsafe {
                core::ptr::addr_of_mut!((*self.status).detail).write_volatile(detail);
                core::ptr::addr_of_mut!((*self.status).reason).write_volatile(reason);
            }
        }
    }
}
