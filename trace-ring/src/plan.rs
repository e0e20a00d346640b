//! The plan: a small program for each core, compiled by the host, interpreted by the firmware.
//!
//! ```text
//! PlanHeader | Op[op_count] | CoreProgram[core_count] | PlanSlot[slot_count] | twins: Twin[twin_count] | CoreMask[mask_count] | meta
//! ```
//!
//! Every section begins at the byte offset that the header names, on an 8-byte boundary. The whole blob carries a CRC-32.
//! A new stress pattern needs no new firmware, and a recorded trace is just another program.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of a plan: "IPIPLAN1", little-endian.
pub const PLAN_MAGIC: u64 = u64::from_le_bytes(*b"IPIPLAN1");

/// Last SGI that a plan of bare messages may measure. SGI 6 wakes waiting cores and 7 is the backtrace's: see
/// [`crate::calls::IpiKind`].
pub const LAST_MEASURED_SGI: u8 = 5;

/// SGIs that a plan with [`plan_flag::CALLS`] measures: all kinds.
pub const KIND_SGIS: u8 = 8;

/// Smallest lane, as a power of two: the guard takes two slots of it.
pub const LEAST_LOG2_RECORDS: u8 = 4;

/// Greatest lane, as a power of two.
pub const MOST_LOG2_RECORDS: u8 = 40;

/// The SGI that wakes waiting cores: [`crate::calls::IpiKind::Wakeup`]. Without a message in the mailbox it is the kit's own.
pub const WAKE_SGI: u8 = 6;

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TraceLevel {
    /// Nothing: counters and histograms only.
    Off,
    /// A record for each send with its window, and one for each sender answered.
    #[default]
    Ipi,
    /// Adds acknowledge and end of interrupt.
    Stages,
    /// Adds the call layer.
    Calls,
}

impl TraceLevel {
    /// The number in plan and directory.
    pub const fn code(self) -> u8 {
        match self {
            TraceLevel::Off => 0,
            TraceLevel::Ipi => 1,
            TraceLevel::Stages => 2,
            TraceLevel::Calls => 3,
        }
    }

    /// The level of a number; unknown ones read as `Ipi`.
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => TraceLevel::Off,
            2 => TraceLevel::Stages,
            3 => TraceLevel::Calls,
            _ => TraceLevel::Ipi,
        }
    }

    /// Its name on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            TraceLevel::Off => "off",
            TraceLevel::Ipi => "ipi",
            TraceLevel::Stages => "stages",
            TraceLevel::Calls => "calls",
        }
    }
}

/// What a full lane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Overwrites the oldest record: a flight recorder.
    #[default]
    Overwrite,
    /// Keeps what it has and counts what it turns away.
    Stop,
    /// Overwrites until a latency exceeds [`PlanHeader::trigger_ns`], then writes half a ring more, then stops.
    Trigger,
}

impl Policy {
    /// The number in plan and directory.
    pub const fn code(self) -> u8 {
        match self {
            Policy::Overwrite => 0,
            Policy::Stop => 1,
            Policy::Trigger => 2,
        }
    }

    /// The policy of a number; unknown ones read as `Overwrite`.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Policy::Stop,
            2 => Policy::Trigger,
            _ => Policy::Overwrite,
        }
    }

    /// Its name on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Overwrite => "overwrite",
            Policy::Stop => "stop",
            Policy::Trigger => "trigger",
        }
    }
}

/// Bits of [`PlanHeader::flags`].
pub mod plan_flag {
    /// Never read the host's request word, never let host timing in.
    pub const DETERMINISTIC: u32 = 1;
    /// Map the region Normal non-cacheable (a live memory AP does not snoop).
    pub const NON_CACHEABLE: u32 = 2;
    /// Measure clock skew before and after the plan.
    pub const CLOCK_TEST: u32 = 4;
    /// The plan uses the call layer and the IPI kinds: tables for all of [`super::KIND_SGIS`], call descriptors, NMIs.
    pub const CALLS: u32 = 8;
    /// Each send of the call layer also records its sender's frames.
    pub const BACKTRACE: u32 = 16;
}

/// The head of a plan. 224 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PlanHeader {
    /// [`PLAN_MAGIC`].
    pub magic: u64,
    /// [`crate::layout::ABI_VERSION`].
    pub version: u32,
    /// Bytes of this struct.
    pub header_len: u32,
    /// Bytes of the whole plan.
    pub total_len: u64,
    /// [`checksum`] of the whole plan.
    pub crc: u32,
    /// [`plan_flag`] bits.
    pub flags: u32,
    /// Nonce of the run.
    pub nonce: u64,
    /// Cores that the plan was compiled for: programs and lanes for each. The machine may have more (they stay off).
    pub core_count: u32,
    /// Phases.
    pub phase_count: u32,
    /// Operations.
    pub op_count: u32,
    /// Pair slots.
    pub slot_count: u32,
    /// Histograms that the slots use.
    pub histogram_count: u32,
    /// Fault twins.
    pub twin_count: u32,
    /// Byte offset of the operations.
    pub ops: u64,
    /// Byte offset of the [`CoreProgram`]s.
    pub programs: u64,
    /// Byte offset of the [`PlanSlot`]s.
    pub slots: u64,
    /// Byte offset of the [`Twin`]s.
    pub twins: u64,
    /// T: how long a sender waits for an answer before it retires the message, ns.
    pub timeout_ns: u64,
    /// How long a sender waits before it looks at the target's redistributor, once for each message, ns.
    pub probe_ns: u64,
    /// How long a core that was started may take to arrive, ns.
    pub boot_ns: u64,
    /// How long a barrier or a turn may take, ns: the run is aborted then.
    pub deadline_ns: u64,
    /// Repeat the plan until this much time has passed since its start, ns; 0: run it once.
    pub duration_ns: u64,
    /// Latency that fires policy `trigger`, ns.
    pub trigger_ns: u64,
    /// [`TraceLevel`].
    pub trace_level: u8,
    /// [`Policy`].
    pub policy: u8,
    /// Mailbox rows are sized for SGIs 0..sgi_count: the largest INTID that the plan measures, plus one.
    pub sgi_count: u8,
    /// Reserved, 0.
    pub reserved0: u8,
    /// Reserved, 0.
    pub reserved1: u32,
    /// How long a sender waits at most for an SGI that its target's redistributor shows as pending or active, ns: such a
    /// message is not lost, so T does not end the wait. 0: eight times T.
    pub patience_ns: u64,
    /// Byte offset and bytes of what the host calls the plan (JSON), which the firmware copies into the region unread.
    pub meta: u64,
    /// See above; 0: there is none.
    pub meta_len: u64,
    /// Byte offset of the [`crate::calls::CoreMask`]s.
    pub masks: u64,
    /// How many there are.
    pub mask_count: u32,
    /// The power state for PSCI CPU_SUSPEND; 0: the device tree's first standby state that a core names, or 0 where it names none.
    pub suspend_state: u32,
    /// How long a waiting core goes without a heartbeat, ns: its timer then interrupts it, and tells when that comes late. 0: never.
    pub heartbeat_ns: u64,
    /// How late a heartbeat, or how far apart two looks of a polling loop, are a gap, ns; 0: gaps are not looked for.
    pub gap_ns: u64,
    /// Seed of what a core draws by itself (DITHER), not 0. Each core mixes its id in.
    pub seed: u64,
    /// Reserved, 0.
    pub reserved: u64,
}

/// The most [`crate::record::Kind::Gap`] and `Heartbeat` records of each context of a core in one round; beyond, counters alone.
pub const MOST_GAPS: u32 = 256;

/// The most turns of an empty loop that DITHER may ask for.
pub const MOST_DITHER: u32 = 65_536;

/// Turns of an empty loop that a dithered sender always goes through: longer than a handler takes to end and a core to fall asleep.
pub const SETTLING_TURNS: u32 = 256;

/// Postures that are no [`crate::record::ReceiverState`], in PHASE and POSTURE.
pub mod posture {
    /// Waits like `spin`, and reads and writes over the core's pressure memory while it does.
    pub const PRESSURE: u8 = 0x40;
}

/// What a receiver does at the planned time of a SWEEP. Before it, it polls the counter, interrupts enabled (for `UNMASK`: masked by
/// PSTATE.I); after it, it waits for the message.
pub mod transition {
    /// Enters WFI (interrupts masked by PSTATE.I, taken when it wakes).
    pub const WFI: u8 = 0;
    /// Unmasks its interrupts.
    pub const UNMASK: u8 = 1;
    /// Ends an interrupt: it sends itself the wake-up SGI, whose handler then runs.
    pub const END_OF_INTERRUPT: u8 = 2;
    /// Calls PSCI CPU_SUSPEND.
    pub const SUSPEND: u8 = 3;
    /// Enters WFE.
    pub const WFE: u8 = 4;

    /// Its name in plans and reports.
    pub const fn name(code: u8) -> &'static str {
        match code {
            WFI => "wfi",
            UNMASK => "unmask",
            END_OF_INTERRUPT => "end_of_interrupt",
            SUSPEND => "suspend",
            WFE => "wfe",
            _ => "unknown",
        }
    }
}

/// A core's entry into the operations, and the size of its lanes. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CoreProgram {
    /// Index of its first operation.
    pub first_op: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// Each lane's capacity as a power of two, in the order of [`crate::layout::Context::ALL`]:
    /// [`LEAST_LOG2_RECORDS`] to [`MOST_LOG2_RECORDS`].
    pub log2_records: [u8; 4],
    /// Reserved, 0.
    pub reserved1: u32,
}

/// The constant part of a [`crate::layout::PairSlot`]. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PlanSlot {
    /// Sender's core id.
    pub from: u16,
    /// Receiver's core id.
    pub to: u16,
    /// Index of the phase.
    pub phase: u16,
    /// INTID.
    pub intid: u8,
    /// [`crate::record::ReceiverState`].
    pub state: u8,
    /// Index of its histogram or [`crate::layout::NO_HISTOGRAM`].
    pub histogram: u32,
    /// As in [`crate::layout::PairSlot::kind`].
    pub kind: u8,
    /// As in [`crate::layout::PairSlot::delivery`].
    pub delivery: u8,
    /// Reserved, 0.
    pub reserved: u16,
}

/// A fault twin of one core. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Twin {
    /// [`twin_kind`].
    pub kind: u32,
    /// The core whose code is replaced.
    pub core: u16,
    /// The other core of the pair, for kinds that name one.
    pub peer: u16,
    /// Ticks, for kinds that delay.
    pub ticks: u64,
    /// A probability in units of 2^-32, for kinds that strike at random: the twin draws from a xorshift64* generator
    /// seeded with `seed`, and strikes where the draw's high 32 bits are below it. 2^32 and above: always.
    pub rate: u64,
    /// Seed of the generator, not 0.
    pub seed: u64,
}

/// What a twin does.
pub mod twin_kind {
    /// Sends from `core` to `peer` skip the write of ICC_SGI1R_EL1, at `rate`.
    pub const DROP: u32 = 1;
    /// `core` waits `ticks` in the vector before it takes the entry stamp, at `rate`.
    pub const LATE: u32 = 2;
    /// `core` clears its GICR_ISENABLER0 bit for `ticks` after each end of interrupt.
    pub const MASK: u32 = 3;
    /// `core` is started but never arrives.
    pub const DEAD: u32 = 4;
    /// `core` executes an undefined instruction when its first phase has begun.
    pub const CRASH: u32 = 5;
    /// `core` overflows its thread stack when its first phase has begun.
    pub const OVERFLOW: u32 = 6;
    /// Callbacks on `core` take `ticks` longer, inside the function.
    pub const SLOW_CALLBACK: u32 = 7;
    /// In callback number `ticks` (from 1), `core` masks its interrupts and never comes back.
    pub const STUCK: u32 = 8;
    /// After callback number `ticks` (from 1) that somebody waits for, `core` leaves the descriptor locked.
    pub const CSD_LOCK: u32 = 9;
    /// Sends of `core` wait `ticks` between their stamp and the write of ICC_SGI1R_EL1, at `rate`.
    pub const SLOW_SENDER: u32 = 10;
    /// The same for sends from `core` to `peer` alone.
    pub const SLOW_PAIR: u32 = 11;
    /// `core` waits `ticks` in the vector before it takes the entry stamp when it was in state `peer`
    /// ([`crate::record::ReceiverState`]).
    pub const SLOW_WAKE: u32 = 12;
    /// Sends from `core` to `peer` go to core `ticks` instead, at `rate`.
    pub const MISROUTE: u32 = 13;
    /// After the end of a measured SGI, `core` sends itself the same INTID again, at `rate`.
    pub const DUPLICATE: u32 = 14;
    /// `core` sends itself measured SGI 0 without a message when it has waited a while, at `rate` for each heartbeat (or, without
    /// heartbeats, 20 us after the end of a measured SGI, at `rate` for each).
    pub const SPURIOUS: u32 = 15;
    /// After the end of a measured SGI, at `rate`, `core` holds measured SGIs back by their priority until it takes another interrupt:
    /// they stay pending and enabled, and nobody signals them.
    pub const STALL: u32 = 16;
    /// `core` does nothing for `ticks` with its interrupts masked, while it waits, at `rate` for each heartbeat or measured SGI.
    pub const STEAL: u32 = 17;
    /// The counter of `core` is ahead by `ticks` (two's complement) in everything that it stamps.
    pub const SKEW: u32 = 18;
    /// The same from the measured SGI (or send) number `rate` of the core on.
    pub const JUMP: u32 = 19;
    /// At `rate`, a stamp of `core` is behind by `ticks`.
    pub const STEP_BACK: u32 = 20;
    /// When its first phase has begun, `core` makes the distributor's last SPI pending for itself.
    pub const STRAY: u32 = 21;
}

/// Operation codes.
///
/// `a`, `b`, `c`, `d` are the fields of [`Op`]. "Waits" means: in the core's posture (WFI unless a phase or another core
/// set it otherwise), answering interrupts, with the run's deadline.
pub mod op {
    /// The program ends.
    pub const END: u8 = 0;
    /// All cores meet; the last to arrive stamps the begin of phase `c`. `a`: the posture ([`crate::record::ReceiverState`])
    /// in which this core waits until the phase's end.
    pub const PHASE: u8 = 1;
    /// All cores meet; the last to arrive stamps the end of phase `c`.
    pub const PHASE_END: u8 = 2;
    /// Waits until the turn is this core's. `c`: index of this core's PASS operation of the same chain.
    pub const TURN: u8 = 3;
    /// Passes the turn to core `b`; 0xFFFF: the chain ends. `c`: index of that core's TURN operation. A core that is not up
    /// is passed over by following its PASS.
    pub const PASS: u8 = 4;
    /// Sets core `b`'s posture to `a` and waits until it says that it took it. Left out where `b` is not up or this core.
    pub const POSTURE: u8 = 5;
    /// Sends SGI `a` to core `b` and waits for the answer, `c` times. `d`: the pair slot.
    pub const PING: u8 = 6;
    /// Sends SGI `a` to core `b` without waiting, `c` times. `d`: the pair slot.
    pub const SEND: u8 = 7;
    /// Sends SGI `a` to every other core that is up with one write (IRM = 1) and waits for all answers, `c` times. `d`: the
    /// pair slot of core 0; that of core k is `d + k` (the sender's own is unused).
    pub const BROADCAST: u8 = 8;
    /// Waits until every message this core has sent was answered, or retires it after T.
    pub const SETTLE: u8 = 9;
    /// Busy for `d` ns, interrupts enabled, with YIELD.
    pub const DELAY: u8 = 10;
    /// Busy until `d` ns after the phase's begin.
    pub const AT: u8 = 11;
    /// Interrupts masked by PSTATE.I for `d` ns.
    pub const MASK: u8 = 12;
    /// Waits in posture `a` for `d` ns.
    pub const IDLE: u8 = 13;
    /// Reads and writes over `c` KiB of memory of its own for `d` ns, interrupts enabled.
    pub const PRESSURE: u8 = 14;
    /// The operations up to the matching LOOP_END run `c` times. Loops nest four deep.
    pub const LOOP: u8 = 15;
    /// End of a LOOP.
    pub const LOOP_END: u8 = 16;
    /// Writes a mark with number `c`.
    pub const MARK: u8 = 17;
    /// All cores meet without a stamp.
    pub const BARRIER: u8 = 18;
    /// All cores meet; if the plan's duration has not passed and nobody asked to stop, they go on at operation `c`.
    pub const AGAIN: u8 = 19;

    // From here on: only in plans with `plan_flag::CALLS`. A *row* is the pair slot of core 0; that of core k is k more.

    /// Calls function `a` & 0x3F ([`crate::calls::Function`]) on core `b` with `info` `d`. `a` bit 7: waits until it has run; bit 6:
    /// sends the SGI even where the queue was not empty. `c`: the row. A chain ([`crate::calls::Function::Onward`]) always waits for its last hop.
    pub const CALL: u8 = 20;
    /// The same on all cores of mask `b` that are up, but not on this one.
    pub const CALL_MANY: u8 = 21;
    /// Sends the IPI of kind `a` & 0x7F ([`crate::calls::IpiKind`]; its handler finds no work where it has some elsewhere) to core
    /// `b` and waits for the answer, `d` times. `a` bit 7: does not wait. `c`: the pair slot.
    pub const IPI: u8 = 22;
    /// Arms this core's timer for `d` ns from now; its interrupt broadcasts the tick to all others that are up. Waits for all
    /// answers. `c`: the row.
    pub const TICK: u8 = 23;
    /// Queues function `a` & 0x7F with `info` `d` as work of this core's own, and raises IPI IRQ work. `a` bit 7: waits until it
    /// has run. `c`: the row.
    pub const IRQ_WORK: u8 = 24;
    /// Masks interrupts until another core says RELEASE, polling with YIELD; the run's deadline ends it, too. `a` 0: by PSTATE.I;
    /// 1: by ICC_PMR_EL1 (by PSTATE.I where pseudo-NMIs don't work); 2: by whichever still lets crash stop and backtrace in as
    /// this core takes them now (DELIVERY), and not at all where it takes them as IRQs. `b`: the core that releases it, 0xFFFF
    /// for several; left out where that one is not up, since nobody would.
    pub const HOLD: u8 = 25;
    /// Ends the HOLD of core `b`.
    pub const RELEASE: u8 = 26;
    /// Waits, polling with YIELD, until core `b` is masked (`a` 0), parked (`a` 1), or neither (`a` 2).
    pub const AWAIT: u8 = 27;
    /// From now on this core takes crash stop and backtrace as `a` ([`crate::calls::Delivery`]), or as the next less urgent one
    /// that it has.
    pub const DELIVERY: u8 = 28;
    /// From now on this core's onward calls (the hops of chains) are counted in row `c`.
    pub const ROW: u8 = 29;

    // In every plan again.

    /// From now on this core goes through [`super::SETTLING_TURNS`] turns of an empty loop and 0 to `c` more, drawn at random from the
    /// plan's seed, before each message of PING: its receiver is out of the handler of the one before, and send times fall anywhere
    /// between two ticks. `c` 0: no more.
    pub const DITHER: u8 = 30;
    /// What the SWEEPs that follow on this core do: the receiver makes transition `a` ([`super::transition`]); the first message is
    /// sent `d` ticks (two's complement) after its planned time, each further one `c` ticks later.
    pub const SWEEP_RANGE: u8 = 31;
    /// Sends SGI `a` to core `b`, `c` times, each at its own distance from the receiver's transition, and waits for the answer.
    /// `d`: the pair slot. Left out where `b` is not up or this core, or where its transition is SUSPEND and it can't.
    pub const SWEEP: u8 = 32;
    /// Waits in posture `a` until `d` ns after the phase's begin; at once where that has passed.
    pub const IDLE_UNTIL: u8 = 33;

    /// Of `a` in CALL, CALL_MANY and IRQ_WORK: waits until the function has run.
    pub const WAITS: u8 = 0x80;
    /// Of `a` in IPI: does not wait for the answer.
    pub const GOES_ON: u8 = 0x80;
    /// Of `a` in CALL and CALL_MANY: sends the SGI even where the queue was not empty.
    pub const ALWAYS_SENDS: u8 = 0x40;
}

/// One operation. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Op {
    /// [`op`].
    pub code: u8,
    /// See the operation.
    pub a: u8,
    /// See the operation.
    pub b: u16,
    /// See the operation.
    pub c: u32,
    /// See the operation.
    pub d: u64,
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<PlanHeader>() == 224);
    assert!(size_of::<CoreProgram>() == 16);
    assert!(size_of::<PlanSlot>() == 16);
    assert!(size_of::<Twin>() == 32);
    assert!(size_of::<Op>() == 16);
};

/// What is wrong with a plan's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Shorter than its header, or than the length that the header names.
    Short {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// It does not begin with [`PLAN_MAGIC`].
    Magic(u64),
    /// Another version of the ABI.
    Version(u32),
    /// The bytes were damaged.
    Crc {
        /// The checksum of the bytes.
        computed: u32,
        /// What the header says.
        stored: u32,
    },
    /// A section lies outside the plan, or is not aligned.
    Section {
        /// Its name.
        name: &'static str,
    },
    /// A value that no firmware can run.
    Value {
        /// The field.
        name: &'static str,
        /// What it holds.
        value: u64,
    },
}

impl core::fmt::Display for PlanError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PlanError::Short { have, need } => write!(f, "plan has {have} bytes, needs {need}"),
            PlanError::Magic(word) => write!(f, "not a plan: it begins with {word:#018x}"),
            PlanError::Version(version) => {
                write!(f, "plan of ABI version {version}, this is {}", crate::layout::ABI_VERSION)
            }
            PlanError::Crc { computed, stored } => {
                write!(f, "plan is damaged: CRC {computed:#010x}, header {stored:#010x}")
            }
            PlanError::Section { name } => write!(f, "plan section `{name}` lies outside the plan"),
            PlanError::Value { name, value } => write!(f, "plan field `{name}` can't be {value}"),
        }
    }
}

impl core::error::Error for PlanError {}

/// A plan in memory, checked: sections lie inside it and every index in it is in range.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The header.
    pub header: &'a PlanHeader,
    /// All operations.
    pub ops: &'a [Op],
    /// One for each core.
    pub programs: &'a [CoreProgram],
    /// Pair slots.
    pub slots: &'a [PlanSlot],
    /// Fault twins.
    pub twins: &'a [Twin],
    /// Sets of cores.
    pub masks: &'a [crate::calls::CoreMask],
    /// What the host calls it.
    pub meta: &'a [u8],
}

fn section<'a, T: FromBytes + Immutable + KnownLayout>(
    bytes: &'a [u8],
    offset: u64,
    count: u32,
    name: &'static str,
) -> Result<&'a [T], PlanError> {
    let error = PlanError::Section { name };
    let start = usize::try_from(offset).map_err(|_| error)?;
    let rest = bytes.get(start..).ok_or(error)?;
    let (items, _) = <[T]>::ref_from_prefix_with_elems(rest, count as usize).map_err(|_| error)?;
    Ok(items)
}

impl<'a> Plan<'a> {
    /// Checks and borrows a plan. `bytes` must lie on an 8-byte boundary.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PlanError> {
        let have = bytes.len() as u64;
        let need = size_of::<PlanHeader>() as u64;
        let (header, _) = PlanHeader::ref_from_prefix(bytes).map_err(|_| PlanError::Short { have, need })?;
        if header.magic != PLAN_MAGIC {
            return Err(PlanError::Magic(header.magic));
        }
        if header.version != crate::layout::ABI_VERSION {
            return Err(PlanError::Version(header.version));
        }
        if header.total_len > have || header.total_len < need || u64::from(header.header_len) != need {
            return Err(PlanError::Short { have, need: header.total_len.max(need) });
        }
        let bytes = &bytes[..header.total_len as usize];
        let computed = checksum(bytes);
        if computed != header.crc {
            return Err(PlanError::Crc { computed, stored: header.crc });
        }
        let plan = Plan {
            header,
            ops: section(bytes, header.ops, header.op_count, "ops")?,
            programs: section(bytes, header.programs, header.core_count, "programs")?,
            slots: section(bytes, header.slots, header.slot_count, "slots")?,
            twins: section(bytes, header.twins, header.twin_count, "twins")?,
            masks: match header.mask_count {
                0 => &[],
                count => section(bytes, header.masks, count, "masks")?,
            },
            meta: match u32::try_from(header.meta_len) {
                Ok(0) => &[],
                Ok(length) => section(bytes, header.meta, length, "meta")?,
                Err(_) => return Err(PlanError::Section { name: "meta" }),
            },
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), PlanError> {
        fn range(name: &'static str, value: u64, allowed: core::ops::RangeInclusive<u64>) -> Result<(), PlanError> {
            if allowed.contains(&value) { Ok(()) } else { Err(PlanError::Value { name, value }) }
        }
        fn bound(name: &'static str, value: u64, limit: u64) -> Result<(), PlanError> {
            if value < limit { Ok(()) } else { Err(PlanError::Value { name, value }) }
        }
        let header = self.header;
        let cores = u64::from(header.core_count);
        range("core_count", cores, 1..=crate::layout::MAX_CORES as u64)?;
        let calls = header.flags & plan_flag::CALLS != 0;
        let sgis = u64::from(KIND_SGIS);
        let sgi_range = if calls { sgis..=sgis } else { 1..=u64::from(LAST_MEASURED_SGI) + 1 };
        range("sgi_count", header.sgi_count.into(), sgi_range)?;
        for program in self.programs {
            bound("first_op", program.first_op.into(), self.ops.len() as u64)?;
            for log2 in program.log2_records {
                range("log2_records", log2.into(), LEAST_LOG2_RECORDS.into()..=MOST_LOG2_RECORDS.into())?;
            }
        }
        for slot in self.slots {
            bound("slot.from", slot.from.into(), cores)?;
            bound("slot.to", slot.to.into(), cores)?;
            bound("slot.phase", slot.phase.into(), header.phase_count.into())?;
            bound("slot.intid", slot.intid.into(), header.sgi_count.into())?;
            if slot.kind != 0 && (!calls || slot.kind != slot.intid + 1) {
                return Err(PlanError::Value { name: "slot.kind", value: slot.kind.into() });
            }
            range("slot.delivery", slot.delivery.into(), 0..=2)?;
            if slot.histogram != crate::layout::NO_HISTOGRAM {
                bound("slot.histogram", slot.histogram.into(), header.histogram_count.into())?;
            }
        }
        for mask in self.masks {
            if let Some(outside) = (header.core_count as u16..512).find(|core| mask.contains(*core)) {
                return Err(PlanError::Value { name: "mask.core", value: outside.into() });
            }
        }
        for twin in self.twins {
            bound("twin.core", twin.core.into(), cores)?;
            if matches!(twin.kind, twin_kind::SLOW_CALLBACK | twin_kind::STUCK | twin_kind::CSD_LOCK) {
                range("twin.ticks", twin.ticks, 1..=u64::MAX)?;
                if !calls {
                    return Err(PlanError::Value { name: "twin.kind", value: twin.kind.into() });
                }
            }
            match twin.kind {
                twin_kind::DROP | twin_kind::SLOW_PAIR => bound("twin.peer", twin.peer.into(), cores)?,
                twin_kind::MISROUTE => {
                    bound("twin.peer", twin.peer.into(), cores)?;
                    bound("twin.ticks", twin.ticks, cores)?;
                }
                _ => {}
            }
            range("twin.seed", twin.seed, 1..=u64::MAX)?;
        }
        let (ops, slots) = (self.ops.len() as u64, self.slots.len() as u64);
        for word in self.ops {
            match word.code {
                op::PING | op::SEND => {
                    bound("op.to", word.b.into(), cores)?;
                    bound("op.slot", word.d, slots)?;
                    bound("op.intid", word.a.into(), header.sgi_count.into())?;
                }
                op::BROADCAST => {
                    bound("op.slot", word.d.saturating_add(cores - 1), slots)?;
                    bound("op.intid", word.a.into(), header.sgi_count.into())?;
                }
                op::SWEEP => {
                    bound("op.to", word.b.into(), cores)?;
                    bound("op.slot", word.d, slots)?;
                    bound("op.intid", word.a.into(), header.sgi_count.into())?;
                }
                op::SWEEP_RANGE => range("op.transition", word.a.into(), 0..=transition::WFE.into())?,
                op::DITHER => range("op.dither", word.c.into(), 0..=MOST_DITHER.into())?,
                op::PHASE | op::PHASE_END => bound("op.phase", word.c.into(), header.phase_count.into())?,
                op::TURN | op::AGAIN => bound("op.jump", word.c.into(), ops)?,
                op::PASS if word.b != 0xFFFF => {
                    bound("op.next", word.b.into(), cores)?;
                    bound("op.jump", word.c.into(), ops)?;
                }
                op::POSTURE => bound("op.core", word.b.into(), cores)?,
                op::CALL..=op::ROW if !calls => bound("op.code", word.code.into(), op::CALL.into())?,
                op::CALL | op::CALL_MANY | op::IRQ_WORK => {
                    let functions = crate::calls::Function::ALL.len() as u64;
                    let function = word.a & !(op::WAITS | op::ALWAYS_SENDS);
                    bound("op.function", function.into(), functions)?;
                    bound("op.row", u64::from(word.c) + cores - 1, slots)?;
                    match word.code {
                        op::CALL => bound("op.to", word.b.into(), cores)?,
                        op::CALL_MANY => bound("op.mask", word.b.into(), self.masks.len() as u64)?,
                        _ => {}
                    }
                    let stride = u64::from(crate::calls::Onward::from_info(word.d).stride);
                    if function == crate::calls::Function::Onward as u8 {
                        bound("op.origin", crate::calls::Onward::from_info(word.d).origin.into(), cores)?;
                        range("op.stride", stride, 1..=cores.saturating_sub(1).max(1))?;
                    }
                }
                op::IPI => {
                    use crate::calls::IpiKind;
                    // Calls come with a descriptor: by themselves they mean nothing.
                    let known = IpiKind::from_intid(word.a & !op::GOES_ON);
                    if known.is_none_or(|kind| kind == IpiKind::CallFunction) {
                        return Err(PlanError::Value { name: "op.kind", value: word.a.into() });
                    }
                    bound("op.to", word.b.into(), cores)?;
                    bound("op.slot", word.c.into(), slots)?;
                }
                op::TICK | op::ROW => bound("op.row", u64::from(word.c) + cores - 1, slots)?,
                op::RELEASE => bound("op.core", word.b.into(), cores)?,
                op::AWAIT => {
                    bound("op.core", word.b.into(), cores)?;
                    range("op.state", word.a.into(), 0..=2)?;
                }
                op::HOLD => range("op.hold", word.a.into(), 0..=2)?,
                op::DELIVERY => range("op.delivery", word.a.into(), 0..=2)?,
                _ => {}
            }
        }
        // Whoever runs off the end of the operations must meet an END.
        match self.ops.last() {
            Some(last) if last.code == op::END => Ok(()),
            _ => Err(PlanError::Value { name: "last op", value: self.ops.last().map_or(0, |word| word.code.into()) }),
        }
    }

    /// Call descriptors that its cores need.
    pub fn descriptors(&self) -> u64 {
        let cores = self.header.core_count;
        let each = crate::calls::descriptors_per_core(cores);
        if self.header.flags & plan_flag::CALLS == 0 { 0 } else { u64::from(cores) * u64::from(each) }
    }

    /// The shape of the region that this plan needs on a machine of `cores` cores.
    pub fn shape(&self) -> crate::layout::Shape {
        let records = self.programs.iter().flat_map(|program| program.log2_records).map(|log2| 1u64 << log2).sum();
        crate::layout::Shape {
            cores: self.header.core_count.into(),
            phases: self.header.phase_count.into(),
            meta: self.header.meta_len,
            slots: self.header.slot_count.into(),
            histograms: self.header.histogram_count.into(),
            descriptors: self.descriptors(),
            records,
        }
    }
}

/// CRC-32 of a whole plan, its `crc` field read as zero.
pub fn checksum(plan: &[u8]) -> u32 {
    const FIELD: core::ops::Range<usize> =
        core::mem::offset_of!(PlanHeader, crc)..core::mem::offset_of!(PlanHeader, flags);
    let bytes = plan.iter().enumerate().map(|(index, byte)| if FIELD.contains(&index) { 0 } else { *byte });
    crc32(bytes)
}

/// CRC-32 with the polynomial of IEEE 802.3, reflected, as zlib computes it.
pub(crate) fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xEDB8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.fold(!0, |crc, byte| crc >> 8 ^ TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_zlib() {
        assert_eq!(crc32(b"123456789".iter().copied()), 0xCBF4_3926);
    }
}
