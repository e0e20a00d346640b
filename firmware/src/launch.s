// Launcher: what a debug probe runs on the boot core before it writes the image.
//
// The probe writes memory behind the caches (its access port does not snoop), and stops a boot loader that left them on:
// dirty lines would later be written over the image, clean ones would answer for it. So this code, copied to a free page, runs
// first: it cleans and invalidates the range that will be written, turns MMU and caches off, tells the probe, and waits
// to be sent to the image. The state it leaves is the arm64 boot protocol's (Linux, Documentation/arch/arm64/booting).
//
// x0..x1: the range, by physical addresses, mapped where they are (boot loaders do). x2: where to go. x3: x0 then.
// x4: a word in the same page: 0; 1, when the caches are off; the probe writes 2 to let the core go.

    .section .head.launcher, "a"
    .balign 8
    .global _launcher
_launcher:
    dsb sy
    mov x10, #2                           // twice: what is fetched ahead while the caches are still on goes the second time
1:  mrs x5, ctr_el0
    ubfx x5, x5, #16, #4                  // CTR_EL0.DminLine: log2 of words (DDI 0487, D24.2.34)
    mov x6, #4
    lsl x5, x6, x5
    sub x6, x5, #1
    bic x7, x0, x6
2:  dc civac, x7
    add x7, x7, x5
    cmp x7, x1
    b.lo 2b
    dsb sy
    mov x6, #0x1005                       // SCTLR_ELx: I, C, M
    mrs x8, CurrentEL
    cmp x8, #0xC
    b.eq 5f
    cmp x8, #0x8
    b.eq 4f
    mrs x9, sctlr_el1
    bic x9, x9, x6
    msr sctlr_el1, x9
    b 6f
4:  mrs x9, sctlr_el2
    bic x9, x9, x6
    msr sctlr_el2, x9
    b 6f
5:  mrs x9, sctlr_el3
    bic x9, x9, x6
    msr sctlr_el3, x9
6:  isb
    subs x10, x10, #1
    b.ne 1b
    ic iallu
    dsb sy
    isb
    mov w9, #1
    str w9, [x4]
    dsb sy
7:  yield
    ldr w9, [x4]
    cmp w9, #2
    b.ne 7b
    dsb sy
    ic iallu                              // the image is new to this core
    dsb sy
    isb
    mov x0, x3
    mov x1, xzr
    mov x3, xzr
    mov x9, x2
    mov x2, xzr
    br x9
    .global _launcher_end
_launcher_end:
