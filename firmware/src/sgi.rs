//! The measured path's few instructions at the GIC: send, acknowledge, end of interrupt.
//!
//! Behind this small interface a GICv2 could stand. Each barrier has its reason beside it, and every piece clobbers memory:
//! a register access without that lets the compiler move or delete the store that the other core is meant to see.
// UNSAFETY: inline assembly of ICC_* registers and the barriers around them.
#![expect(unsafe_code)]

use core::arch::asm;

/// ICC_SGI1R_EL1's value that sends `intid` to the core of `affinity` (IHI 0069, 12.2.22): the target list holds Aff0 modulo
/// 16, the range selector Aff0 divided by 16.
pub const fn to_core(affinity: u64, intid: u8) -> u64 {
    let aff0 = affinity & 0xFF;
    let (aff1, aff2, aff3) = (affinity >> 8 & 0xFF, affinity >> 16 & 0xFF, affinity >> 32 & 0xFF);
    aff3 << 48 | (aff0 / 16) << 44 | aff2 << 32 | (intid as u64) << 24 | aff1 << 16 | 1 << (aff0 % 16)
}

/// ICC_SGI1R_EL1's value that sends `intid` to a list of cores: bit n stands for the core whose Aff0 is `affinity`'s plus n;
/// `affinity` has Aff0 modulo 16 zero.
pub const fn to_list(affinity: u64, intid: u8, list: u64) -> u64 {
    to_core(affinity, intid) & !0xFFFF | list & 0xFFFF
}

/// ICC_SGI1R_EL1's value that sends `intid` to every core but this one (IRM = 1).
pub const fn to_others(intid: u8) -> u64 {
    1 << 40 | (intid as u64) << 24
}

/// Sends. All stores before it are visible to the target when it takes the interrupt.
///
/// DSB ISHST: a system-register write is no memory access, so only a DSB orders stores before it (IHI 0069, 12.1). ISB: the
/// write has left this core when the next counter read is made; together they bound the send's window.
#[inline(always)]
pub fn send(value: u64) {
    // SAFETY: sends an interrupt to cores whose vectors are up.
    unsafe { asm!("dsb ishst", "msr S3_0_C12_C11_5, {}", "isb", in(reg) value, options(nostack, preserves_flags)) };
}

/// Acknowledges the highest pending group 1 interrupt: INTID in bits 23..0, 1020..=1023 for none.
///
/// DSB SY: the read of ICC_IAR1_EL1 has taken effect at the GIC before any load after it, so that a message whose SGI was
/// merged into this acknowledge is seen by the look into the mailbox (IHI 0069, 4.1.1; Linux does the same).
#[inline(always)]
pub fn acknowledge() -> u64 {
    let value: u64;
    // SAFETY: called in the IRQ handler only.
    unsafe { asm!("mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// The INTID that an acknowledge would return now (ICC_HPPIR1_EL1), without acknowledging it. For the fault twins.
pub fn highest_pending() -> u64 {
    crate::arch::read_register!("S3_0_C12_C12_2") & 0xFF_FFFF
}

/// Acknowledges the highest pending interrupt of superpriority (ICC_NMIAR1_EL1, FEAT_GICv3_NMI), as [`acknowledge`] does.
pub fn acknowledge_nmi() -> u64 {
    let value: u64;
    // SAFETY: called in the IRQ handler of a core that has the register.
    unsafe { asm!("mrs {}, S3_0_C12_C9_5", "dsb sy", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Ends the interrupt (EOImode 0: priority drop and deactivation). ISB: it has taken effect before the ERET.
#[inline(always)]
pub fn end_of_interrupt(intid: u64) {
    // SAFETY: called once for each acknowledge.
    unsafe { asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) intid, options(nostack, preserves_flags)) };
}
