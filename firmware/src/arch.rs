//! What only assembly can say: system registers, barriers, cache maintenance, WFI, interrupt masking.
//!
//! No assembly that is a barrier or masks interrupts carries `nomem`: the compiler must not move a memory access across it.
//! Registers are read by name, so that a reader finds them in the Arm ARM (DDI 0487) as they stand here.
// UNSAFETY: every function is inline assembly; each says why it is sound to call.
#![expect(unsafe_code)]

use core::arch::asm;

/// Reads a system register by its assembler name.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        #[allow(unsafe_code, unused_unsafe, reason = "the macro stands in modules that have no unsafe of their own, and in blocks")]
        // SAFETY: reading this register has no effect but the value.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// Writes a system register by its assembler name. Memory is clobbered: stores before it stay before it.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        #[allow(unsafe_code, unused_unsafe, reason = "as in `read_register`")]
        // SAFETY: the caller writes a register of the kit's own EL1 state and knows what it does.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

pub(crate) use {read_register, write_register};

/// Affinity fields of MPIDR_EL1: Aff3 in bits 39..32, Aff2..Aff0 in bits 23..0 (DDI 0487, D24.2.102).
pub const AFFINITY: u64 = 0xFF_00FF_FFFF;

/// The virtual counter, at once: the read may be speculated ahead of earlier instructions.
#[inline(always)]
pub fn counter() -> u64 {
    read_register!("cntvct_el0")
}

/// The virtual counter, read after all that comes before it in program order (ISB; DDI 0487, D12.2.1).
#[inline(always)]
pub fn counter_ordered() -> u64 {
    let value: u64;
    // SAFETY: a barrier and a read. Memory is clobbered so that the stamp stays between the accesses around it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// The virtual counter, read after all that comes before it in program order, by CNTVCTSS_EL0 (FEAT_ECV; DDI 0487, D12.2.1): it
/// orders itself, without an ISB.
#[inline(always)]
pub fn counter_self_synchronised() -> u64 {
    let value: u64;
    // SAFETY: only where ID_AA64MMFR0_EL1.ECV says that the register is there. As `counter_ordered`.
    unsafe { asm!("mrs {}, S3_3_C14_C0_6", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// CNTFRQ_EL0, ticks per second. Firmware before us wrote it; nothing checks it but the host.
pub fn counter_hz() -> u64 {
    read_register!("cntfrq_el0")
}

/// Affinity of this core.
pub fn affinity() -> u64 {
    read_register!("mpidr_el1") & AFFINITY
}

/// YIELD: under an emulator the one hint that lets another core run; on silicon a hint to the other hardware thread.
#[inline(always)]
pub fn yield_now() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nostack, preserves_flags)) };
}

/// DSB ISHST: stores before it are visible to the inner shareable domain before anything after it happens.
#[inline(always)]
pub fn publish_stores() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// DSB SY.
#[inline(always)]
pub fn synchronize() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// ISB.
#[inline(always)]
pub fn instruction_barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// Masks IRQs (PSTATE.I).
#[inline(always)]
pub fn mask_interrupts() {
    // SAFETY: only delays interrupts. No `nomem`: accesses do not move across.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Unmasks IRQs; a pending one is taken before the next instruction of ours (ISB).
#[inline(always)]
pub fn unmask_interrupts() {
    // SAFETY: vectors and the exception stack are set before the first call. No `nomem`.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack, preserves_flags)) };
}

/// Runs `what` with IRQs masked by PSTATE.I, and leaves them as they were.
#[inline(always)]
pub fn without_interrupts<T>(what: impl FnOnce() -> T) -> T {
    let before = read_register!("daif");
    mask_interrupts();
    let result = what();
    write_register!("daif", before);
    result
}

/// The stack pointer in use.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let value: u64;
    // SAFETY: it only reads.
    unsafe { asm!("mov {}, sp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The frame pointer of the function that this is inlined into.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let value: u64;
    // SAFETY: it only reads.
    unsafe { asm!("mov {}, x29", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Discards what this core fetched ahead: IC IALLU, and the barriers that make it count (DDI 0487, B2.7.4).
pub fn sync_icache() {
    // SAFETY: instructions are fetched again; no content changes.
    unsafe { asm!("ic iallu", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Sleeps until an interrupt is pending, masked or not, then takes it: the body of a wait in WFI.
///
/// Interrupts must be masked on entry, and are masked again on return.
#[inline(always)]
pub fn sleep_and_answer() {
    // SAFETY: as the functions it joins. DSB before WFI is not needed: nothing waits on this core's stores to sleep.
    unsafe { asm!("wfi", "msr daifclr, #2", "isb", "msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Takes what is pending. Interrupts must be masked on entry, and are masked again on return.
#[inline(always)]
pub fn answer() {
    // SAFETY: as the functions it joins.
    unsafe { asm!("msr daifclr, #2", "isb", "msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Whether an IRQ is pending, masked or not (ISR_EL1.I).
#[inline(always)]
pub fn interrupt_pends() -> bool {
    read_register!("isr_el1") & 1 << 7 != 0
}

/// WFI with interrupts as they are: where they are masked, it ends when one is pending, and nobody takes it.
pub fn sleep() {
    // SAFETY: only waits.
    unsafe { asm!("wfi", options(nostack, preserves_flags)) };
}

/// WFE with interrupts as they are.
#[inline(always)]
pub fn wait_for_event() {
    // SAFETY: a hint.
    unsafe { asm!("wfe", options(nostack, preserves_flags)) };
}

/// NOP, which the compiler keeps.
#[inline(always)]
pub fn no_operation() {
    // SAFETY: it does nothing.
    unsafe { asm!("nop", options(nostack, preserves_flags)) };
}

/// UDF: a synchronous exception, for the `crash` twin.
#[inline(never)]
pub fn undefined_instruction() {
    // SAFETY: the exception vector records it and ends the run.
    unsafe { asm!("udf #0", options(nostack)) };
}

/// Stops this core for good, interrupts masked. YIELD: should something wake it all the same, the others still run.
pub fn park() -> ! {
    loop {
        // SAFETY: nothing runs on this core any more.
        unsafe { asm!("msr daifset, #15", "wfi", "yield", options(nostack)) };
    }
}

/// Cleans and invalidates `[start, start + length)` to the point of coherency: what a core reads with its MMU off, or a
/// debug port past the caches.
pub fn clean_to_memory(start: u64, length: u64) {
    // CTR_EL0.DminLine: log2 of words in the smallest data cache line (DDI 0487, D24.2.34).
    let line = 4u64 << (read_register!("ctr_el0") >> 16 & 0xF);
    synchronize();
    let mut address = start & !(line - 1);
    while address < start + length {
        // SAFETY: the range is mapped memory; cleaning changes no content that a core sees.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    synchronize();
}
