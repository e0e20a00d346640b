//! The region: what lies where in the memory that the firmware writes and the host reads.
//!
//! ```text
//! image:   arm64 header | Locator --------------------+  (at LOCATOR_OFFSET of the image, found by scanning for the image)
//! region:  Directory  <--------------- directory_pa --+  (2 MiB aligned, whole 2 MiB blocks, one memory attribute)
//!          CoreEntry[core_count]      who the cores are, what became of them, their clock
//!          HeadLine[core_count]       the lanes' heads, one 64-byte line a core, packed so that one read polls all
//!          LaneDescriptor[4 * cores]  where each lane's records lie
//!          PhaseResult[phase_count]   when each phase of the plan began and ended
//!          meta                       the plan as the host named it, JSON: whoever finds the region can tell what ran
//!          PairSlot[slot_count]       counters of one (from, to, phase, INTID, state)
//!          [u32; 512][hist_count]     histograms of pair slots
//!          FaultEntry[core_count]     exceptions and panics
//!          LogHeader + bytes [cores]  defmt frames
//!          Truth[core_count]          what the fault twins did: never shown to a detector
//!          LiveEntry[core_count]      what each core does now
//!          CallDescriptor[...]        the call layer's descriptors, where the plan calls; descriptors_per_core() for each core
//!          records                    32 bytes each, lane by lane
//! ```
//!
//! Sections are found by the offsets in the directory, in bytes from the region's start. All addresses are physical. A host
//! never trusts an offset without checking it against `region_len`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of everything in this crate that two separately built programs share: region, records, plan.
pub const ABI_VERSION: u32 = 4;

/// First word of a live [`Directory`]: "ipiscope" in ASCII, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ipiscope");

/// First word of a [`Locator`]: [`MAGIC`] disguised, so that a scan of RAM for a live region does not stop at an image.
pub const LOCATOR_MAGIC: u64 = MAGIC ^ u64::MAX;

/// Where the [`Locator`] lies in the image: right behind the arm64 Image header of 64 bytes.
pub const LOCATOR_OFFSET: u64 = 64;

/// Alignment and granule of the region: one attribute to each 2 MiB block.
pub const REGION_ALIGN: u64 = 2 << 20;

/// Lanes a core: one to each exception context that can write records.
pub const LANES_PER_CORE: usize = 4;

/// Bytes of one histogram.
pub const HISTOGRAM_BYTES: u64 = 4 * crate::histogram::STRIDE as u64;

/// A core's name for itself in `from`, `to`, `peer`: its place in the device tree.
pub const MAX_CORES: usize = 512;

/// The exception context that writes a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Context {
    /// The plan's own code.
    Thread,
    /// The IRQ handler.
    Irq,
    /// A non-maskable interrupt's handler.
    Nmi,
    /// A synchronous exception, an SError or a panic.
    Fault,
}

impl Context {
    /// All contexts, in the order of a core's lanes.
    pub const ALL: [Context; LANES_PER_CORE] = [Context::Thread, Context::Irq, Context::Nmi, Context::Fault];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Context::Thread => "thread",
            Context::Irq => "irq",
            Context::Nmi => "nmi",
            Context::Fault => "fault",
        }
    }
}

/// In the image, right behind its header: where the host finds the region, and patches what a loader can't say otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Locator {
    /// [`LOCATOR_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// Physical address of the directory; 0 until the region is whole.
    pub directory_pa: u64,
    /// Affinity fields (MPIDR_EL1 & 0xFF_00FF_FFFF) of the core that goes first when all enter at EL3 at once.
    pub primary_mpidr: u64,
    /// Physical address of the device tree where no loader passes one in x0; 0: there is none.
    pub device_tree_pa: u64,
    /// Physical address and bytes of the plan where no tree names an initrd; 0: the tree does.
    pub plan_pa: u64,
    /// Bytes of the plan at `plan_pa`.
    pub plan_len: u64,
    /// Identity of the build: the same in the ELF, in the image and in the region.
    pub build_id: [u8; 32],
    /// Where in the image, in bytes from its start, a debug probe finds the code that makes room for it: position-independent,
    /// to be copied anywhere and run by the boot core (`launch.s` in the firmware says what it expects).
    pub launcher_offset: u32,
    /// Its bytes; 0: there is none.
    pub launcher_len: u32,
}

/// State of a run, [`Status::state`].
pub mod run_state {
    /// The directory is being filled.
    pub const BOOTING: u32 = 0;
    /// Cores are being started.
    pub const STARTING: u32 = 1;
    /// The plan runs.
    pub const RUNNING: u32 = 2;
    /// The plan ended; nothing is written any more.
    pub const ENDED: u32 = 3;
    /// The plan was cut short ([`super::Status::reason`] says why); nothing is written any more.
    pub const ABORTED: u32 = 4;
}

/// Why a run was cut short, [`Status::reason`].
pub mod abort_reason {
    /// It was not.
    pub const NONE: u32 = 0;
    /// The host asked for it.
    pub const REQUESTED: u32 = 1;
    /// A core took an exception or panicked: see its fault entry.
    pub const FAULT: u32 = 2;
    /// A barrier or a turn was not reached within the run's deadline; `Status::detail` is the core that waited.
    pub const DEADLINE: u32 = 3;
    /// The plan holds a word the firmware does not know; `Status::detail` is its index.
    pub const BAD_OP: u32 = 4;
}

/// Where the sections begin, in bytes from the region's start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sections {
    /// [`CoreEntry`] for each core.
    pub cores: u64,
    /// [`HeadLine`] for each core.
    pub heads: u64,
    /// [`LaneDescriptor`], [`LANES_PER_CORE`] for each core.
    pub lanes: u64,
    /// [`PhaseResult`] for each phase.
    pub phases: u64,
    /// What the host calls the plan, its phases and its limits: [`Directory::meta_len`] bytes of JSON, copied from the plan.
    pub meta: u64,
    /// [`PairSlot`] for each slot.
    pub slots: u64,
    /// Histograms, [`HISTOGRAM_BYTES`] each.
    pub histograms: u64,
    /// [`FaultEntry`] for each core.
    pub faults: u64,
    /// [`LogHeader`] and its bytes for each core.
    pub logs: u64,
    /// [`Truth`] for each core.
    pub truth: u64,
    /// [`crate::calls::LiveEntry`] for each core.
    pub live: u64,
    /// [`crate::calls::CallDescriptor`]: [`Directory::descriptor_count`].
    pub calls: u64,
    /// The lanes' records.
    pub records: u64,
}

/// The head of the region. 512 bytes: constant lines, one line that the target writes, one that the host writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Directory {
    /// [`MAGIC`], written last.
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Bytes of this struct.
    pub header_len: u32,
    /// Nonce of the run, from the plan: a change between two polls means that the target rebooted.
    pub nonce: u64,
    /// Physical address of this struct.
    pub region_pa: u64,
    /// Bytes of the region.
    pub region_len: u64,
    /// CNTFRQ_EL0 of the boot core, ticks per second.
    pub counter_hz: u64,
    /// Physical address of the image.
    pub image_pa: u64,
    /// Bytes of the image, with its zeroed part.
    pub image_len: u64,
    /// Build id of the firmware.
    pub build_id: [u8; 32],
    /// Sections.
    pub sections: Sections,
    /// Cores in the device tree.
    pub core_count: u32,
    /// Pair slots.
    pub slot_count: u32,
    /// Histograms.
    pub histogram_count: u32,
    /// Phases of the plan.
    pub phase_count: u32,
    /// Bytes of one core's log: the header and the ring behind it.
    pub log_stride: u32,
    /// Physical address of GICD, low and high word.
    pub gicd_pa_low: u32,
    /// High word of the above.
    pub gicd_pa_high: u32,
    /// GICD_TYPER.
    pub gicd_typer: u32,
    /// GICD_IIDR.
    pub gicd_iidr: u32,
    /// GICD_PIDR2.
    pub gicd_pidr2: u32,
    /// Exception level of the boot core at entry.
    pub entry_el: u8,
    /// Exception level at which the plan runs.
    pub run_el: u8,
    /// [`conduit`].
    pub psci_conduit: u8,
    /// [`crate::plan::TraceLevel`] in force.
    pub trace_level: u8,
    /// [`crate::plan::Policy`] in force.
    pub policy: u8,
    /// 0: the region is mapped Normal write-back cacheable; 1: Normal non-cacheable.
    pub non_cacheable: u8,
    /// 1 when the plan ran with `deterministic` (the request word is not read).
    pub deterministic: u8,
    /// [`platform_flag`] bits.
    pub platform: u8,
    /// UID of a hypervisor that answered the SMCCC vendor call 0x8600_FF01; zeroes: none did.
    pub hypervisor_uid: [u32; 4],
    /// PSCI_VERSION's answer, 0 without PSCI.
    pub psci_version: u32,
    /// The boot core's id.
    pub boot_core: u32,
    /// Bytes of the section `meta`; 0: the plan came without.
    pub meta_len: u64,
    /// Ticks that [`COST_RECORDS`] records took to write in the region's memory, before the plan.
    pub record_ticks: u32,
    /// The same in ordinary cacheable memory: what the region's attribute costs is the difference.
    pub record_ticks_cacheable: u32,
    /// Call descriptors; 0: the plan does not call.
    pub descriptor_count: u32,
    /// Reserved, 0.
    pub reserved0: u32,
    /// Room for later constants.
    pub reserved: [u64; 11],
    /// Written by the target while it runs.
    pub status: Status,
    /// Written by the host.
    pub request: Request,
}

/// What the device tree says of the machine, [`Directory::platform`].
pub mod platform_flag {
    /// The root node is compatible with `linux,dummy-virt`: an emulator's or a hypervisor's generic machine.
    pub const VIRT_TREE: u8 = 1;
}

/// Records behind [`Directory::record_ticks`].
pub const COST_RECORDS: u32 = 1024;

/// The PSCI conduit, [`Directory::psci_conduit`].
pub mod conduit {
    /// There is no PSCI.
    pub const NONE: u8 = 0;
    /// HVC.
    pub const HVC: u8 = 1;
    /// SMC.
    pub const SMC: u8 = 2;
}

/// The line of the directory that the target writes while it runs. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Status {
    /// [`run_state`].
    pub state: u32,
    /// The phase that runs.
    pub phase: u32,
    /// Rounds of the whole plan that were completed.
    pub rounds: u32,
    /// [`abort_reason`].
    pub reason: u32,
    /// More on the reason.
    pub detail: u32,
    /// Cores that came up.
    pub cores_up: u32,
    /// Counter at the start of the plan.
    pub started: u64,
    /// Counter at its end.
    pub ended: u64,
    /// Reserved, 0.
    pub reserved: [u64; 3],
}

/// The line of the directory that the host writes. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// 0: nothing; 1: stop at the next operation of the plan.
    pub stop: u32,
    /// Reserved, 0.
    pub reserved: [u32; 15],
}

/// What became of a core, [`CoreEntry::state`].
pub mod core_state {
    /// It was not started yet.
    pub const OFF: u32 = 0;
    /// CPU_ON was called, it has not arrived.
    pub const STARTING: u32 = 1;
    /// It runs the plan.
    pub const UP: u32 = 2;
    /// CPU_ON failed: [`super::CoreEntry::error`] is PSCI's code.
    pub const REFUSED: u32 = 3;
    /// CPU_ON succeeded, but the core did not arrive within the boot deadline.
    pub const NO_SHOW: u32 = 4;
    /// It arrived, but no redistributor carries its affinity, or that frame did not wake.
    pub const NO_REDISTRIBUTOR: u32 = 5;
    /// It took an exception or panicked.
    pub const FAULTED: u32 = 6;
    /// The device tree says that it is not to be used (`status` is not "okay").
    pub const DISABLED: u32 = 7;
    /// Its affinity level 0 is 16 or above, and the distributor has no range selector (GICD_TYPER.RSS): no SGI reaches it.
    pub const UNREACHABLE: u32 = 8;
    /// Never written: a host that lacks an entry puts this in its place.
    pub const UNKNOWN: u32 = u32::MAX;
}

/// One core: who it is, what became of it, its clock, and the time that somebody took from it. 320 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CoreEntry {
    /// Affinity fields of MPIDR_EL1, from the device tree.
    pub mpidr: u64,
    /// MIDR_EL1.
    pub midr: u32,
    /// REVIDR_EL1.
    pub revidr: u32,
    /// [`core_state`].
    pub state: u32,
    /// PSCI's error code where `state` is `REFUSED`.
    pub error: i32,
    /// Physical address of its redistributor's RD_base; 0: none.
    pub gicr_pa: u64,
    /// GICR_TYPER.
    pub gicr_typer: u64,
    /// GICR_IIDR.
    pub gicr_iidr: u32,
    /// CNTFRQ_EL0 as this core reads it; 32 bits (the register's width that Arm defines).
    pub cntfrq: u32,
    /// Least ticks between two reads of the counter in a row.
    pub read_cost_min: u32,
    /// Greatest common divisor of the steps that were seen between reads, ticks: the counter's own step.
    pub resolution: u32,
    /// Reads that went backwards in the self-test.
    pub backwards: u32,
    /// Bit 0: ID_AA64MMFR0_EL1.ECV != 0; bit 1: PMUv3 is there; bit 2: skew was measured before the plan; bit 3: after it.
    pub clock_flags: u32,
    /// Bounds of this core's counter minus the boot core's, in ticks, before the plan: it lies in [low, high].
    pub skew_before_low: i64,
    /// See above.
    pub skew_before_high: i64,
    /// The same after the plan.
    pub skew_after_low: i64,
    /// See above.
    pub skew_after_high: i64,
    /// Acknowledges of SGIs that the plan measures.
    pub acknowledges: u64,
    /// Of those, the ones that found no message.
    pub empty_acknowledges: u64,
    /// Acknowledges that returned 1020..=1023.
    pub spurious_intids: u64,
    /// Interrupts of the kit's own (wake-ups, timer), and LPIs.
    pub other_interrupts: u64,
    /// Plan operations that were left out because the other core is not up.
    pub skipped_ops: u64,
    /// [`core_feature`] bits.
    pub features: u32,
    /// ICC_PMR_EL1 while IRQs are masked by priority; 0 where pseudo-NMIs were not tried or did not work.
    pub masking_priority: u32,
    /// Waits in which this core was away for at least the plan's `gap_ns`: its timer's interrupt came that late, or two looks at
    /// the counter of a polling loop lay that far apart.
    pub gaps: u64,
    /// Ticks of all of them together.
    pub gap_ticks: u64,
    /// The longest, ticks.
    pub gap_longest: u64,
    /// Heartbeats taken: timer interrupts while the core waited, whether on time or late.
    pub heartbeats: u64,
    /// Greatest ticks between two ordered reads in a row in the self-test: a read that took that long was interrupted.
    pub read_cost_max: u32,
    /// Pairs of reads in the self-test of which the second was further on than a pair can take and the next was back: a counter
    /// that misreads (as of Cortex-A73 erratum 858921).
    pub misreads: u32,
    /// `backwards` of the self-test that was made after the plan.
    pub backwards_after: u32,
    /// `misreads` of that one.
    pub misreads_after: u32,
    /// Least ticks of a round trip to this core and back, before the plan; 0: not measured.
    pub round_trip_before: u32,
    /// The same after the plan.
    pub round_trip_after: u32,
    /// PMCCNTR_EL0 cycles in `cycle_ticks_busy` ticks of a busy loop; 0: there is none, or it does not run.
    pub cycles_busy: u32,
    /// See above.
    pub cycle_ticks_busy: u32,
    /// PMCCNTR_EL0 cycles in `cycle_ticks_wfi` ticks of WFI.
    pub cycles_wfi: u32,
    /// See above.
    pub cycle_ticks_wfi: u32,
    /// The power state that this core hands to PSCI CPU_SUSPEND.
    pub suspend_state: u32,
    /// What CPU_SUSPEND answered when it was tried: 0 or PSCI's error code; [`SUSPEND_UNTRIED`].
    pub suspend_error: i32,
    /// `Receive`s whose counter was behind their message's send time: the sender's counter is ahead.
    pub untimed: u64,
    /// Reserved, 0.
    pub reserved: [u64; 11],
}

/// [`CoreEntry::suspend_error`] of a core on which CPU_SUSPEND was not tried.
pub const SUSPEND_UNTRIED: i32 = i32::MIN;

/// [`CoreEntry::features`] bits, found where the plan uses IPI kinds.
pub mod core_feature {
    /// An SGI of higher priority was taken while ICC_PMR_EL1 held others back: pseudo-NMIs work.
    pub const PSEUDO_NMI: u32 = 1;
    /// FEAT_NMI on the core and GICD_TYPER.NMI: real NMIs.
    pub const NMI: u32 = 2;
}

/// [`CoreEntry::clock_flags`] bits.
pub mod clock_flag {
    /// FEAT_ECV.
    pub const ECV: u32 = 1;
    /// PMUv3.
    pub const PMU: u32 = 2;
    /// `skew_before_*` are measured.
    pub const SKEW_BEFORE: u32 = 4;
    /// `skew_after_*` are measured.
    pub const SKEW_AFTER: u32 = 8;
    /// Ordered reads use CNTVCTSS_EL0 (FEAT_ECV), which orders itself.
    pub const SELF_SYNCHRONISED: u32 = 16;
    /// `cycles_busy` and `cycles_wfi` are measured.
    pub const CYCLES: u32 = 32;
    /// The self-test was repeated after the plan.
    pub const TESTED_AFTER: u32 = 64;
}

/// The heads of a core's lanes. 64 bytes: one line, written by this core alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HeadLine {
    /// Records published in each lane, ever.
    pub head: [u64; LANES_PER_CORE],
    /// Records that a full lane of policy `stop` (or a fired `trigger`) turned away.
    pub dropped: [u64; LANES_PER_CORE],
}

/// One lane's place. 32 bytes, constant.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LaneDescriptor {
    /// Bytes from the region's start to record 0.
    pub offset: u64,
    /// Capacity in records is 2 to the power of this.
    pub log2_records: u32,
    /// Index of the lane in [`Context::ALL`].
    pub context: u16,
    /// The core's id.
    pub core: u16,
    /// Reserved, 0.
    pub reserved: [u64; 2],
}

/// One phase of the plan. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PhaseResult {
    /// Counter when the last core arrived at its begin, in the newest round.
    pub started: u64,
    /// Counter when the last core arrived at its end.
    pub ended: u64,
    /// Sum of `ended - started` over all rounds.
    pub elapsed: u64,
    /// Rounds that were completed.
    pub rounds: u32,
    /// Reserved, 0.
    pub reserved0: u32,
    /// Reserved, 0.
    pub reserved: [u64; 4],
}

/// No histogram: the slot lies beyond the plan's budget for them.
pub const NO_HISTOGRAM: u32 = u32::MAX;

/// Counters of one (from, to, phase, INTID, receiver state). 192 bytes: three lines by who writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PairSlot {
    /// Sender's core id.
    pub from: u16,
    /// Receiver's core id.
    pub to: u16,
    /// Index of the plan's phase.
    pub phase: u16,
    /// INTID of the SGI.
    pub intid: u8,
    /// [`crate::record::ReceiverState`] that the plan sets for the receiver.
    pub state: u8,
    /// Index of its histogram, [`NO_HISTOGRAM`] for none.
    pub histogram: u32,
    /// What its SGIs ask for: [`crate::calls::IpiKind::slot_code`]; 0: bare SGIs.
    pub kind: u8,
    /// How its SGIs shall come: [`crate::calls::Delivery`]. Records tell how they came.
    pub delivery: u8,
    /// Reserved, 0.
    pub reserved0: u16,
    /// Reserved, 0.
    pub reserved1: [u64; 6],
    /// Written by the sender: messages sent.
    pub sent: u64,
    /// Messages retired as lost.
    pub lost: u64,
    /// Messages retired as unknown.
    pub unknown: u64,
    /// Ticks that the sender spent in the operations of this slot.
    pub busy: u64,
    /// Probes that found the INTID disabled in the target's redistributor while it was pending.
    pub probes_masked: u32,
    /// Probes that found it enabled and pending: the core did not take it.
    pub probes_pending: u32,
    /// Probes that found it neither pending nor active.
    pub probes_absent: u32,
    /// Probes that found it active.
    pub probes_active: u32,
    /// Reserved, 0.
    pub reserved2: [u64; 2],
    /// Written by the receiver: acknowledges that count as delivered here.
    pub delivered: u64,
    /// Sum of latencies, ticks, wrapping.
    pub sum: u64,
    /// Least latency, ticks; `u64::MAX` while there is none.
    pub min: u64,
    /// Greatest latency, ticks.
    pub max: u64,
    /// Messages answered by an acknowledge that counts elsewhere.
    pub coalesced: u64,
    /// Answers with a latency that do not count as delivered, minus delivered ones without a latency (two's complement):
    /// what [`PairSlot::timed`] adds, so that the common answer needs one counter.
    pub timed_adjust: u64,
    /// Reserved, 0.
    pub reserved3: [u64; 2],
}

impl PairSlot {
    /// Latencies in `sum`, `min`, `max` and in the histogram: at most one for each answer.
    pub const fn timed(&self) -> u64 {
        self.delivered.wrapping_add(self.timed_adjust)
    }
}

/// What a [`FaultEntry`] tells of.
pub mod fault_kind {
    /// Nothing happened.
    pub const NONE: u32 = 0;
    /// A synchronous exception.
    pub const SYNCHRONOUS: u32 = 1;
    /// An SError.
    pub const SERROR: u32 = 2;
    /// An FIQ, which nobody expects.
    pub const FIQ: u32 = 3;
    /// A panic; `message` has its text.
    pub const PANIC: u32 = 4;
    /// The machine can't run the plan; `message` says why (bad tree, bad plan, no GIC …).
    pub const REFUSED: u32 = 5;
    /// No fault: the registers that IPI `crash_stop` saved before it parked the core.
    pub const CRASH_STOP: u32 = 6;
    /// An interrupt that nobody handles; `message` names its INTID, and `elr`, `spsr`, `sp` are those of the code that it interrupted.
    pub const UNHANDLED: u32 = 7;
}

/// An exception or a panic. 512 bytes. `kind` is written last.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FaultEntry {
    /// [`fault_kind`].
    pub kind: u32,
    /// Bytes of `message` that count.
    pub message_len: u32,
    /// ESR_EL1.
    pub esr: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// The interrupted stack pointer.
    pub sp: u64,
    /// Counter.
    pub t: u64,
    /// x0..x30.
    pub x: [u64; 31],
    /// Reserved, 0.
    pub reserved: u64,
    /// UTF-8 text, cut where it does not fit.
    pub message: [u8; 200],
}

/// Head of a core's log ring; the bytes follow. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LogHeader {
    /// Bytes published, ever. The ring keeps whole frames only: what did not fit was dropped whole.
    pub head: u64,
    /// Frames dropped because they did not fit.
    pub dropped: u64,
    /// Bytes of the ring (a power of two).
    pub capacity: u64,
    /// Reserved, 0.
    pub reserved: [u64; 5],
}

/// What the fault twins of a core did. 128 bytes. Only the selftest and the report's `injected` read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Truth {
    /// Sends that were not written to ICC_SGI1R_EL1.
    pub dropped: u64,
    /// Interrupts whose entry was delayed.
    pub delayed: u64,
    /// Times that the INTID was disabled in the redistributor.
    pub masked: u64,
    /// Callbacks that took longer than they would.
    pub slowed: u64,
    /// 1: the core masked its interrupts inside a callback, for good.
    pub stuck: u64,
    /// Descriptors that were never unlocked.
    pub left_locked: u64,
    /// Sends that were held back between their stamp and the write of ICC_SGI1R_EL1.
    pub held_back: u64,
    /// Sends that went to another core.
    pub misdirected: u64,
    /// Interrupts that were raised again after they had been answered.
    pub repeated: u64,
    /// Interrupts that nobody asked for.
    pub invented: u64,
    /// Times that SGIs stayed pending until another interrupt came.
    pub stalled: u64,
    /// Times that the core was taken away.
    pub stolen: u64,
    /// Ticks that were stolen, together.
    pub stolen_ticks: u64,
    /// Times that the counter was made to lie.
    pub shifted: u64,
    /// Reserved, 0.
    pub reserved: [u64; 2],
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Locator>() == 96);
    assert!(size_of::<Directory>() == 512);
    assert!(offset_of!(Directory, status) == 384);
    assert!(offset_of!(Directory, request) == 448);
    assert!(size_of::<Status>() == 64);
    assert!(size_of::<Request>() == 64);
    assert!(size_of::<CoreEntry>() == 320);
    assert!(size_of::<HeadLine>() == 64);
    assert!(size_of::<LaneDescriptor>() == 32);
    assert!(size_of::<PhaseResult>() == 64);
    assert!(size_of::<PairSlot>() == 192);
    assert!(offset_of!(PairSlot, sent) == 64);
    assert!(offset_of!(PairSlot, delivered) == 128);
    assert!(size_of::<FaultEntry>() == 512);
    assert!(size_of::<LogHeader>() == 64);
    assert!(size_of::<Truth>() == 128);
};

/// Bytes of one core's log: header and ring.
pub const LOG_STRIDE: u64 = 64 + 4096;

/// What the sections need to be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Cores.
    pub cores: u64,
    /// Phases.
    pub phases: u64,
    /// Bytes of the plan's `meta`.
    pub meta: u64,
    /// Pair slots.
    pub slots: u64,
    /// Histograms.
    pub histograms: u64,
    /// Call descriptors.
    pub descriptors: u64,
    /// Records of all lanes together.
    pub records: u64,
}

/// Lays the sections out one after another, each on a 64-byte line; returns them and the region's length, rounded up to
/// whole blocks of [`REGION_ALIGN`]. Target and host call the same function, so the host knows the size beforehand.
pub const fn lay_out(shape: Shape) -> (Sections, u64) {
    const fn line(bytes: u64) -> u64 {
        bytes.next_multiple_of(64)
    }
    let cores = 512;
    let heads = cores + line(shape.cores * 320);
    let lanes = heads + line(shape.cores * 64);
    let phases = lanes + line(shape.cores * LANES_PER_CORE as u64 * 32);
    let meta = phases + line(shape.phases * 64);
    let slots = meta + line(shape.meta);
    let histograms = slots + line(shape.slots * 192);
    let faults = histograms + line(shape.histograms * HISTOGRAM_BYTES);
    let logs = faults + line(shape.cores * 512);
    let truth = logs + line(shape.cores * LOG_STRIDE);
    let live = truth + line(shape.cores * 128);
    let calls = live + line(shape.cores * 64);
    let records = (calls + line(shape.descriptors * 64)).next_multiple_of(4096);
    let length = (records + shape.records * crate::record::RECORD_BYTES).next_multiple_of(REGION_ALIGN);
    (
        Sections { cores, heads, lanes, phases, meta, slots, histograms, faults, logs, truth, live, calls, records },
        length,
    )
}
