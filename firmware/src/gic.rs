//! GICv3 set-up: distributor, redistributors found by affinity, CPU interface. The measured path is in `sgi.rs`.
//!
//! What a boot loader set up stays: bits are added to GICD_CTLR, no LPI table is touched, no pending SGI is cleared. Register
//! offsets are those of IHI 0069 (12.9 distributor, 12.11 redistributor). Set-up is our own rather than a crate's, because
//! every wait here has a deadline and frames are matched by affinity over several regions.
// UNSAFETY: GIC registers are reached through raw pointers to mapped device frames.
#![expect(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::{self, read_register, write_register};
use crate::machine::{Machine, Range, Ranges};

/// Offset of the SGI frame from a redistributor's RD_base.
const SGI_FRAME: u64 = 0x1_0000;
/// Priority of everything the kit takes: the middle, as Linux has it.
const PRIORITY: u32 = 0xA0A0_A0A0;
/// How long a register write may take to show (GICD_CTLR.RWP, GICR_WAKER.ChildrenAsleep), ns.
const PATIENCE_NS: u64 = 100_000_000;

fn read(address: u64) -> u32 {
    // SAFETY: a 32-bit register inside a frame that the machine description names, mapped as device memory.
    unsafe { core::ptr::read_volatile(address as *const u32) }
}

fn write(address: u64, value: u32) {
    // SAFETY: as in `read`.
    unsafe { core::ptr::write_volatile(address as *mut u32, value) }
}

fn wait_until(mut done: impl FnMut() -> bool) -> bool {
    let deadline = arch::counter() + crate::clock::ticks(PATIENCE_NS);
    while !done() {
        if arch::counter() > deadline {
            return false;
        }
        arch::yield_now();
    }
    true
}

/// Why the interrupt controller can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicError {
    /// ID_AA64PFR0_EL1.GIC is 0, or ICC_SRE_EL1.SRE does not stick.
    NoSystemRegisters,
    /// GICD_PIDR2 does not say GICv3 or GICv4.
    Architecture(u32),
    /// GICD_CTLR.RWP or GICD_CTLR.ARE_NS did not behave.
    Distributor(u32),
}

impl core::fmt::Display for GicError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            GicError::NoSystemRegisters => f.write_str("no GICv3 system registers (ID_AA64PFR0_EL1.GIC, ICC_SRE_EL1)"),
            GicError::Architecture(pidr2) => write!(f, "GICD_PIDR2 is {pidr2:#x}: not a GICv3 or GICv4"),
            GicError::Distributor(control) => {
                write!(f, "GICD_CTLR reads {control:#x}: affinity routing did not turn on")
            }
        }
    }
}

/// What the distributor says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// GICD_TYPER.
    pub typer: u32,
    /// GICD_IIDR.
    pub iidr: u32,
    /// GICD_PIDR2.
    pub pidr2: u32,
}

/// Turns affinity routing and group 1 on. `from_el3`: nobody set the GIC's security up, and EL3 is our own stub.
pub fn set_up_distributor(machine: &Machine, from_el3: bool) -> Result<Identity, GicError> {
    const CTLR: u64 = 0x0;
    const RWP: u32 = 1 << 31;
    const DS: u32 = 1 << 6;
    const ARE_NS: u32 = 1 << 4;
    const ENABLE_GROUP1: u32 = 1 << 1 | 1; // EnableGrp1A and EnableGrp1 seen from Non-secure; both groups with DS = 1
    if read_register!("id_aa64pfr0_el1") >> 24 & 0xF == 0 {
        return Err(GicError::NoSystemRegisters);
    }
    // A level above that keeps the memory-mapped interface leaves SRE at 0, and every ICC register undefined.
    if !enable_system_registers() {
        return Err(GicError::NoSystemRegisters);
    }
    let base = machine.distributor.start;
    let identity = Identity { typer: read(base + 0x4), iidr: read(base + 0x8), pidr2: read(base + 0xFFE8) };
    if !matches!(identity.pidr2 >> 4 & 0xF, 3 | 4) {
        return Err(GicError::Architecture(identity.pidr2));
    }
    if from_el3 {
        // One security state: SGIs then belong to us without a group set-up in Secure state.
        secure_write(base + CTLR, DS);
        wait_until(|| read(base + CTLR) & RWP == 0);
    }
    let control = read(base + CTLR);
    if control & ARE_NS == 0 {
        // ARE may only change while groups are off (IHI 0069, 12.9.4).
        write(base + CTLR, control & !ENABLE_GROUP1 & !RWP | ARE_NS);
        wait_until(|| read(base + CTLR) & RWP == 0);
    }
    write(base + CTLR, read(base + CTLR) & !RWP | ARE_NS | ENABLE_GROUP1);
    let settled = wait_until(|| read(base + CTLR) & RWP == 0);
    let control = read(base + CTLR);
    if !settled || control & ARE_NS == 0 {
        return Err(GicError::Distributor(control));
    }
    DISTRIBUTOR.store(base, Ordering::Relaxed);
    Ok(identity)
}

/// The distributor's frame, once it is set up; 0 before.
static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);

/// Routes the last SPI there is to a core, enables it and makes it pending (the `stray` twin).
pub fn raise_last_spi(affinity: u64) {
    const LAST: u32 = 1019; // above come special INTIDs (IHI 0069, 2.2)
    let base = DISTRIBUTOR.load(Ordering::Relaxed);
    let lines = read(base + 0x4) & 0x1F; // GICD_TYPER.ITLinesNumber: 32 x (N + 1) INTIDs, SGIs and PPIs among them
    if base == 0 || lines == 0 {
        return;
    }
    let intid = (32 * (lines + 1) - 1).min(LAST);
    let (word, bit) = (u64::from(intid / 32) * 4, 1 << (intid % 32));
    let priority = base + 0x400 + u64::from(intid & !3); // GICD_IPRIORITYR
    let shift = (intid & 3) * 8;
    let router = base + 0x6000 + u64::from(intid) * 8; // GICD_IROUTER: Aff3 in bits 39..32, Aff2 to Aff0 in 23..0, as in MPIDR
    write(base + 0x80 + word, read(base + 0x80 + word) | bit); // GICD_IGROUPR: group 1
    write(priority, read(priority) & !(0xFF << shift) | (PRIORITY & 0xFF) << shift);
    write(router, affinity as u32 & 0xFF_FFFF);
    write(router + 4, (affinity >> 32) as u32 & 0xFF);
    write(base + 0x100 + word, bit); // GICD_ISENABLER
    wait_until(|| read(base) & 1 << 31 == 0); // GICD_CTLR.RWP
    write(base + 0x200 + word, bit); // GICD_ISPENDR
}

/// GICD_TYPER.
pub fn distributor_typer(machine: &Machine) -> u32 {
    read(machine.distributor.start + 0x4)
}

/// Has the EL3 stub write a register with Secure access.
fn secure_write(address: u64, value: u32) {
    // SAFETY: only reached when EL3 is our own stub, whose one service this is; it clobbers x0 and x3.
    unsafe {
        asm!("smc #0", inout("x0") 0xC300_0001_u64 => _, in("x1") address, in("x2") u64::from(value), out("x3") _,
             options(nostack));
    }
}

/// A redistributor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redistributor {
    /// Physical address of RD_base; 0: there is none.
    pub base: u64,
    /// GICR_TYPER.
    pub typer: u64,
    /// GICR_IIDR.
    pub iidr: u32,
}

/// Walks all redistributor regions and tells of each frame: its affinity, and the frame. GICR_TYPER.Last ends a region, not
/// the walk. `stride`: 0 where the frames say it.
pub fn for_each_redistributor(regions: &Ranges, stride: u64, mut tell: impl FnMut(u64, Redistributor)) {
    for region in regions.iter() {
        let mut base = region.start;
        while base + 2 * SGI_FRAME <= region.start + region.length {
            let typer = u64::from(read(base + 0x8)) | u64::from(read(base + 0xC)) << 32;
            // Bits 63..32 are Aff3..Aff0.
            let packed = typer >> 32;
            let affinity = (packed & 0xFF00_0000) << 8 | packed & 0xFF_FFFF;
            tell(affinity, Redistributor { base, typer, iidr: read(base + 0x4) });
            let own = if typer & 1 << 1 != 0 { 4 * SGI_FRAME } else { 2 * SGI_FRAME }; // VLPIS: two more frames
            base += if stride != 0 { stride } else { own };
            if typer & 1 << 4 != 0 {
                break;
            }
        }
    }
}

/// Memory that a redistributor uses on its own, because an earlier owner of the machine turned LPIs on: it reads the table of
/// their properties and writes the table of pending ones, and on many implementations can't be stopped. Nothing of ours may
/// lie there. (properties, pending), each empty where LPIs are off. `typer`: GICD_TYPER.
pub fn lpi_tables(redistributor: Redistributor, typer: u32) -> (Range, Range) {
    const ENABLE_LPIS: u32 = 1; // GICR_CTLR
    if read(redistributor.base) & ENABLE_LPIS == 0 {
        return (Range::default(), Range::default());
    }
    let wide = |offset| {
        let address = redistributor.base + offset;
        u64::from(read(address)) | u64::from(read(address + 4)) << 32
    };
    let (properties, pending) = (wide(0x70), wide(0x78)); // GICR_PROPBASER, GICR_PENDBASER (IHI 0069, 12.11)
    // IDbits is the number of INTID bits less one, and no more than GICD_TYPER.IDbits counts. There is a byte and a bit for
    // each INTID; that the bytes of the first 8192 are left out does not matter here.
    let intids = 2u64 << (properties & 0x1F).min(u64::from(typer >> 19 & 0x1F));
    let (properties, pending) = (properties & 0x000F_FFFF_FFFF_F000, pending & 0x000F_FFFF_FFFF_0000);
    (Range { start: properties, length: intids }, Range { start: pending, length: intids / 8 })
}

/// ICC_SRE_EL1.SRE; `false`: it does not stick.
fn enable_system_registers() -> bool {
    write_register!("S3_0_C12_C12_5", 1);
    arch::instruction_barrier();
    read_register!("S3_0_C12_C12_5") & 1 == 1
}

/// Wakes this core's redistributor and CPU interface and enables SGIs 0..=7 and `timer`. `false`: the frame did not wake.
pub fn set_up_core(redistributor: Redistributor, timer: u32) -> bool {
    const WAKER: u64 = 0x14;
    const PROCESSOR_SLEEP: u32 = 1 << 1;
    const CHILDREN_ASLEEP: u32 = 1 << 2;
    let base = redistributor.base;
    if read(base + WAKER) & CHILDREN_ASLEEP != 0 {
        write(base + WAKER, read(base + WAKER) & !PROCESSOR_SLEEP);
        if !wait_until(|| read(base + WAKER) & CHILDREN_ASLEEP == 0) {
            return false;
        }
    }
    let sgi = base + SGI_FRAME;
    let ours = 0xFF | 1 << timer;
    write(sgi + 0x80, read(sgi + 0x80) | ours); // GICR_IGROUPR0: group 1
    for offset in [0u64, 4] {
        write(sgi + 0x400 + offset, PRIORITY); // GICR_IPRIORITYR0, 1: SGIs 0..=7
    }
    set_priority(base, timer, PRIORITY & 0xFF);
    write(sgi + 0x100, ours); // GICR_ISENABLER0: writing ones sets
    wait_until(|| read(base) & 1 << 3 == 0); // GICR_CTLR.RWP
    if !enable_system_registers() {
        return false;
    }
    write_register!("S3_0_C4_C6_0", 0xFF); // ICC_PMR_EL1: everything passes
    write_register!("S3_0_C12_C12_3", 0); // ICC_BPR1_EL1
    write_register!("S3_0_C12_C12_4", 0); // ICC_CTLR_EL1: EOImode 0, one write ends and deactivates
    write_register!("S3_0_C12_C9_0", 0); // ICC_AP1R0_EL1: no stale active priority
    arch::instruction_barrier();
    write_register!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    arch::instruction_barrier();
    true
}

/// Priority of what shall pass where IRQs are held back, as Linux's GICV3_PRIO_NMI: numerically below [`PRIORITY`].
const URGENT: u32 = 0x20;

/// Raises an SGI's priority above that of the others, or lowers it to theirs. On this core's own frame.
pub fn set_urgent(redistributor: u64, intid: u32, urgent: bool) {
    set_priority(redistributor, intid, if urgent { URGENT } else { PRIORITY & 0xFF });
    synchronize_frame(redistributor);
}

/// The word of GICR_IPRIORITYR that holds an INTID's priority, and where in it.
fn priority_field(redistributor: u64, intid: u32) -> (u64, u32) {
    (redistributor + SGI_FRAME + 0x400 + u64::from(intid & !3), (intid & 3) * 8)
}

fn priority(redistributor: u64, intid: u32) -> u32 {
    let (word, shift) = priority_field(redistributor, intid);
    read(word) >> shift & 0xFF
}

fn set_priority(redistributor: u64, intid: u32, priority: u32) {
    let (word, shift) = priority_field(redistributor, intid);
    write(word, read(word) & !(0xFF << shift) | priority << shift);
}

/// Lowers the priority of those of these SGIs that have the usual one so far that no value of ICC_PMR_EL1 lets them pass (the `stall`
/// twin); returns which. On this core's own frame.
pub fn hold_back(redistributor: u64, sgis: u32) -> u32 {
    const LOWEST: u32 = 0xFF;
    let usual = |intid: &u32| sgis & 1 << intid != 0 && priority(redistributor, *intid) == PRIORITY & 0xFF;
    let held = (0..16).filter(usual).fold(0, |held, intid| held | 1 << intid);
    (0..16).filter(|intid| held & 1 << intid != 0).for_each(|intid| set_priority(redistributor, intid, LOWEST));
    synchronize_frame(redistributor);
    held
}

/// Gives these SGIs the usual priority again.
pub fn let_through(redistributor: u64, sgis: u32) {
    (0..16)
        .filter(|intid| sgis & 1 << intid != 0)
        .for_each(|intid| set_priority(redistributor, intid, PRIORITY & 0xFF));
    synchronize_frame(redistributor);
}

/// Gives an SGI superpriority, or takes it (GICR_INMIR0, FEAT_GICv3_NMI; IHI 0069, 12.11).
pub fn set_superpriority(redistributor: u64, intid: u32, superior: bool) {
    let register = redistributor + SGI_FRAME + 0xF80;
    let bit = 1 << intid;
    write(register, if superior { read(register) | bit } else { read(register) & !bit });
    synchronize_frame(redistributor);
}

/// Enables exactly these of the first 32 INTIDs that the kit uses (SGIs 0..=7 and the timer's); returns what was enabled.
pub fn enable_only(redistributor: u64, wanted: u32) -> u32 {
    let sgi = redistributor + SGI_FRAME;
    let before = read(sgi + 0x100); // GICR_ISENABLER0
    write(sgi + 0x180, !wanted); // GICR_ICENABLER0: writing ones clears
    write(sgi + 0x100, wanted);
    synchronize_frame(redistributor);
    before
}

/// The frame's writes have taken effect: GICR_CTLR.RWP is clear, and a read has come back.
fn synchronize_frame(redistributor: u64) {
    wait_until(|| read(redistributor) & 1 << 3 == 0);
    arch::synchronize();
}

/// The value of ICC_PMR_EL1 that holds back SGIs of the usual priority and lets urgent ones pass; `None`: neither candidate does.
///
/// How priorities look from here depends on GICD_CTLR.DS and SCR_EL3.FIQ: Non-secure writes to GICR_IPRIORITYR may be shifted
/// down and ICC_PMR_EL1 may not (IHI 0069, 4.8.1). So it is tried: SGIs 0 and 7 to this core itself, PSTATE.I set, and
/// ISR_EL1.I says what would be taken.
pub fn find_masking_priority(redistributor: u64, affinity: u64) -> Option<u64> {
    const USUAL: u8 = 0;
    const NMI: u8 = 7;
    const CANDIDATES: [u64; 2] = [0x80, 0xC0];
    let signalled = || read_register!("isr_el1") & 1 << 7 != 0;
    let pending = |intid: u8| read(redistributor + SGI_FRAME + 0x200) & 1 << intid != 0;
    let acknowledge = |intid: u8| {
        let found = crate::sgi::acknowledge() & 0xFF_FFFF;
        if found < 1020 {
            crate::sgi::end_of_interrupt(found);
        }
        found == u64::from(intid)
    };
    set_urgent(redistributor, NMI.into(), true);
    let found = CANDIDATES.into_iter().find(|candidate| {
        write_register!("S3_0_C4_C6_0", *candidate);
        arch::instruction_barrier();
        crate::sgi::send(crate::sgi::to_core(affinity, USUAL));
        let arrived = wait_until(|| pending(USUAL));
        let held_back = arrived && !signalled();
        crate::sgi::send(crate::sgi::to_core(affinity, NMI));
        let arrived = wait_until(|| pending(NMI));
        let passes = arrived && held_back && wait_until(signalled) && acknowledge(NMI);
        // Whatever is left is taken out again, with everything open.
        write_register!("S3_0_C4_C6_0", 0xFF);
        arch::synchronize();
        for _ in 0..2 {
            if wait_until(|| !pending(USUAL) && !pending(NMI) || signalled()) && signalled() {
                acknowledge(USUAL);
            }
        }
        passes
    });
    set_urgent(redistributor, NMI.into(), false);
    found
}

/// Takes this core out of service: nothing stays pending for it, so that WFI really sleeps with interrupts masked.
pub fn leave_service() {
    write_register!("S3_0_C12_C12_7", 0); // ICC_IGRPEN1_EL1
    arch::instruction_barrier();
}

/// Leaves `timer` alone of this core's interrupts, so that WFI sleeps until the timer fires: after the run nobody answers.
pub fn keep_timer_only(redistributor: u64, timer: u32) {
    write(redistributor + SGI_FRAME + 0x180, !(1 << timer)); // GICR_ICENABLER0: writing ones clears
    wait_until(|| read(redistributor) & 1 << 3 == 0);
}

/// What a target's redistributor says of an SGI: (enabled, pending, active). Any core may read any frame.
pub fn look_at(redistributor: u64, intid: u32) -> (bool, bool, bool) {
    let sgi = redistributor + SGI_FRAME;
    let bit = 1 << intid;
    // Pending first: an acknowledge between the reads then shows as active or gone, never as disabled.
    let pending = read(sgi + 0x200) & bit != 0;
    let active = read(sgi + 0x300) & bit != 0;
    (read(sgi + 0x100) & bit != 0, pending, active)
}

/// The SGIs that are pending at a redistributor, a bit for each.
pub fn pending_sgis(redistributor: u64) -> u32 {
    read(redistributor + SGI_FRAME + 0x200) & 0xFFFF // GICR_ISPENDR0
}

/// Disables or enables an SGI in a redistributor (the `mask` twin).
pub fn set_enabled(redistributor: u64, intid: u32, enabled: bool) {
    let sgi = redistributor + SGI_FRAME;
    write(sgi + if enabled { 0x100 } else { 0x180 }, 1 << intid);
    wait_until(|| read(redistributor) & 1 << 3 == 0);
}
