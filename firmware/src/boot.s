// Entry: from whatever exception level and address a loader chose, to EL1 with the MMU on at the linked address.
//
// Runs with the MMU off and position-independent: only PC-relative addresses, which here are physical ones. It drops from EL3
// or EL2 to EL1, maps the 2 MiB blocks of the image twice (where they are, and where they were linked), and jumps up.
// Everything later (W^X, devices, memory) is mapped by Rust code. Register names are those of DDI 0487 (Arm ARM).

    .equ LOCATOR_PRIMARY, 24              // offset of Locator::primary_mpidr
    .equ SCTLR_RES1, 0x30D00800           // SCTLR_EL1 with everything off (DDI 0487, D24.2.175)
    .equ SPSR_EL1H_MASKED, 0x3C5          // EL1 with SP_EL1, DAIF set

    .section .head.header, "a"
    .global _head
_head:
    b _start                              // code0
    .word 0                               // code1
    .quad 0                               // text_offset: any 2 MiB boundary
    .quad _image_size                     // with everything behind the file's end
    .quad 0xA                             // little-endian, 4 KiB pages, anywhere in memory
    .quad 0, 0, 0                         // reserved
    .ascii "ARM\x64"
    .word 0                               // offset of a PE header: none yet

    .section .text.boot, "ax"

// --- the boot core --------------------------------------------------------------------------------------------------
    .global _start
_start:
    msr daifset, #0xF
    mov x19, x0                           // device tree, or anything
    adrp x21, _image_start                // where we are
    ic iallu                              // a debugger that wrote the image may have left old instructions in the cache
    dsb nsh
    isb
    b leave_loader                        // comes back
loader_left:
    adr x28, boot_el1
    b drop_to_el1

// The boot protocol wants MMU and data cache off. A loader's `go` leaves them on, with an identity map: what it wrote of the
// image may still be in the cache only, so that it is cleaned before they go off. With the MMU off nothing is done: a cache
// that is off holds nothing of ours, and what it may hold of others must not be written over the image. Uses x0-x5.
leave_loader:
    mrs x4, CurrentEL
    cmp x4, #0xC
    b.eq 1f
    cmp x4, #0x8
    b.eq 2f
    mrs x0, sctlr_el1
    b 3f
1:  mrs x0, sctlr_el3
    b 3f
2:  mrs x0, sctlr_el2
3:  tbz x0, #0, loader_left               // M
    mov x1, x21
    adrp x2, _image_end
    mrs x3, ctr_el0
    ubfx x3, x3, #16, #4                  // DminLine: log2 of words (DDI 0487, D24.2.34)
    mov x5, #4
    lsl x3, x5, x3
    dsb sy
4:  dc civac, x1
    add x1, x1, x3
    cmp x1, x2
    b.lo 4b
    dsb sy
    mov x1, #0x1005                       // I, C, M
    bic x0, x0, x1
    cmp x4, #0xC
    b.eq 5f
    cmp x4, #0x8
    b.eq 6f
    msr sctlr_el1, x0
    b 7f
5:  msr sctlr_el3, x0
    b 7f
6:  msr sctlr_el2, x0
7:  isb
    ic iallu
    dsb nsh
    isb
    b loader_left

// A core that PSCI starts: x0 is the physical address of its BootArguments.
    .global _secondary
_secondary:
    msr daifset, #0xF
    mov x19, x0
    adr x28, secondary_el1
    // falls through

// Goes on at x28 in EL1; x20 says which level it came from. Uses x0-x3.
drop_to_el1:
    mrs x20, CurrentEL
    lsr x20, x20, #2
    cmp x20, #3
    b.eq 3f
    cmp x20, #2
    b.eq 2f
    br x28

3:  // EL3: all that a secure monitor would have set for the levels below.
    mov x0, #0x531                        // SCR_EL3: NS, RES1 (bits 4, 5), HCE, RW
    movk x0, #0x3, lsl #16                // APK, API: pointer authentication does not trap
    msr scr_el3, x0
    msr cptr_el3, xzr
    msr mdcr_el3, xzr
    isb
    mov x0, #0xF                          // SRE, DFB, DIB, Enable
    msr S3_6_C12_C12_5, x0                // ICC_SRE_EL3
    isb
    adr x0, monitor_vectors
    msr vbar_el3, x0
    mrs x0, id_aa64pfr0_el1
    ubfx x0, x0, #8, #4                   // EL2 implemented?
    cbz x0, 1f
    bl prepare_el2
1:  mov x0, #SCTLR_RES1 & 0xFFFF
    movk x0, #SCTLR_RES1 >> 16, lsl #16
    msr sctlr_el1, x0
    mov x0, #SPSR_EL1H_MASKED
    msr spsr_el3, x0
    msr elr_el3, x28
    isb
    eret

2:  // EL2
    bl prepare_el2
    mov x0, #SCTLR_RES1 & 0xFFFF
    movk x0, #SCTLR_RES1 >> 16, lsl #16
    mrs x1, hcr_el2
    tbnz x1, #34, 4f                      // E2H: here `sctlr_el1` would name SCTLR_EL2 (DDI 0487, D8.10)
    msr sctlr_el1, x0
    b 5f
4:  msr S3_5_C1_C0_0, x0                  // SCTLR_EL12
5:  mov x0, #SPSR_EL1H_MASKED
    msr spsr_el2, x0
    msr elr_el2, x28
    isb
    eret

// EL2's registers, so that EL1 runs untrapped. Called at EL2, or at EL3 with SCR_EL3.NS set.
prepare_el2:
    mov x0, #(1 << 31)                    // HCR_EL2.RW: EL1 is AArch64
    orr x0, x0, #(3 << 40)                // APK, API
    // Cores without FEAT_E2H0 have HCR_EL2.E2H fixed at 1 (ID_AA64MMFR4_EL1.E2H0 is negative), and older ones that do so say
    // nothing: what is read back decides. It changes where the fields of other registers lie, so it comes first.
    mrs x1, S3_0_C0_C7_4                  // ID_AA64MMFR4_EL1
    tbz x1, #27, 1f
    orr x0, x0, #(1 << 34)                // E2H
1:  msr hcr_el2, x0
    isb
    mrs x1, hcr_el2
    mov x0, #3                            // CNTHCTL_EL2.EL1PCTEN, EL1PCEN: EL1 may use the physical counter and timer
    mov x2, #0x33FF                       // CPTR_EL2: RES1 bits; neither FP nor the CPACR is trapped
    tbz x1, #34, 1f
    lsl x0, x0, #10                       // the same, with E2H
    mov x2, #0x300000                     // FPEN: no trap, with E2H
1:  msr cnthctl_el2, x0                   // whole: what a loader left of event streams and traps goes
    msr cptr_el2, x2
    msr cntvoff_el2, xzr
    msr hstr_el2, xzr
    msr vttbr_el2, xzr
    mrs x0, midr_el1
    msr vpidr_el2, x0
    mrs x0, mpidr_el1
    msr vmpidr_el2, x0
    mrs x0, id_aa64dfr0_el1
    ubfx x1, x0, #8, #4                   // PMUVer
    cbz x1, 1f
    cmp x1, #0xF
    b.eq 1f
    mrs x0, pmcr_el0
    ubfx x0, x0, #11, #5                  // PMCR_EL0.N
    msr mdcr_el2, x0                      // HPMN: all counters belong to EL1
1:  mrs x0, id_aa64mmfr0_el1
    ubfx x0, x0, #56, #4                  // FGT
    cbz x0, 1f
    msr S3_4_C1_C1_4, xzr                 // HFGRTR_EL2
    msr S3_4_C1_C1_5, xzr                 // HFGWTR_EL2
    msr S3_4_C1_C1_6, xzr                 // HFGITR_EL2
    msr S3_4_C3_C1_4, xzr                 // HDFGRTR_EL2
    msr S3_4_C3_C1_5, xzr                 // HDFGWTR_EL2
1:  mrs x0, id_aa64mmfr1_el1
    ubfx x0, x0, #40, #4                  // HCX
    cbz x0, 1f
    msr S3_4_C1_C2_2, xzr                 // HCRX_EL2: its traps are UNKNOWN out of reset
1:  adr x0, hypervisor_vectors            // before what may be undefined
    msr vbar_el2, x0
    isb
    mrs x0, id_aa64pfr0_el1
    ubfx x0, x0, #24, #4                  // GIC system registers?
    cbz x0, 1f
    mov x0, #0xF
    msr S3_4_C12_C9_5, x0                 // ICC_SRE_EL2
    isb
    // Where EL3 left ICC_SRE_EL3.SRE at 0, SRE reads as 0 here and the ICH registers are undefined: leave them, EL1 will
    // find out and say so. ICC_SRE_EL3.Enable at 0 traps the write above to EL3; the boot protocol forbids that.
    mrs x0, S3_4_C12_C9_5
    tbz x0, #0, 1f
    msr S3_4_C12_C11_0, xzr               // ICH_HCR_EL2: no virtual interrupts
1:  isb
    ret

// --- EL1, MMU off ---------------------------------------------------------------------------------------------------
boot_el1:
    cmp x20, #3
    b.ne 1f
    mrs x0, mpidr_el1                     // EL3: all cores may have arrived here; one goes on
    ubfx x1, x0, #32, #8
    and x0, x0, #0xFFFFFF
    orr x0, x0, x1, lsl #32
    adrp x1, LOCATOR
    add x1, x1, :lo12:LOCATOR
    ldr x1, [x1, #LOCATOR_PRIMARY]
    cmp x0, x1
    b.ne park
1:
    // A line of the tables that a loader left dirty must not be written over them while they are filled past the cache.
    bl invalidate_boot_tables
    // Boot tables: 0-2 for the linked address (TTBR1), 3-5 for the address we are at (TTBR0).
    adrp x0, _boot_tables
    adrp x1, _boot_tables_end
2:  stp xzr, xzr, [x0], #16
    cmp x0, x1
    b.lo 2b
    adrp x0, _boot_tables
    mov x9, #0x1000
    orr x3, xzr, #3                       // table descriptor
    // TTBR1: VA 0xFFFF_FFFF_8000_0000 has L0 index 511, L1 index 510, L2 index 0.
    add x1, x0, x9                        // table 1
    orr x2, x1, x3
    str x2, [x0, #511 * 8]
    add x4, x1, x9                        // table 2
    orr x2, x4, x3
    str x2, [x1, #510 * 8]
    adrp x5, _image_end
    sub x5, x5, x21                       // bytes
    mov x6, #0x701                        // block: AF, inner shareable, attribute 0, EL1 read/write/execute
    orr x6, x6, x21
3:  str x6, [x4], #8
    add x6, x6, #0x200000
    subs x5, x5, #0x200000
    b.hi 3b
    // TTBR0: the first block of the image, where it is.
    add x0, x0, x9, lsl #1
    add x0, x0, x9                        // table 3
    add x1, x0, x9                        // table 4
    add x4, x1, x9                        // table 5
    ubfx x5, x21, #39, #9
    orr x2, x1, x3
    str x2, [x0, x5, lsl #3]
    ubfx x5, x21, #30, #9
    orr x2, x4, x3
    str x2, [x1, x5, lsl #3]
    ubfx x5, x21, #21, #9
    mov x6, #0x701
    orr x6, x6, x21
    str x6, [x4, x5, lsl #3]
    // Nor must the cache answer for these tables with what it fetched ahead, when it comes on.
    bl invalidate_boot_tables
    adrp x1, _boot_tables                 // TTBR1
    add x0, x1, x9, lsl #1
    add x0, x0, x9                        // TTBR0
    bl make_tcr                           // x2
    mov x3, #0x44FF                       // MAIR: 0 Normal WB, 1 Normal NC, 2 Device-nGnRnE
    adr x5, boot_high_address
    ldr x5, [x5]
    b enable_mmu

// Invalidates the boot tables to the point of coherency. Uses x0-x3.
invalidate_boot_tables:
    mrs x2, ctr_el0
    ubfx x2, x2, #16, #4                  // DminLine
    mov x3, #4
    lsl x2, x3, x2
    adrp x0, _boot_tables
    adrp x1, _boot_tables_end
    dsb sy
1:  dc ivac, x0
    add x0, x0, x2
    cmp x0, x1
    b.lo 1b
    dsb sy
    ret

// TCR_EL1 in x2: 48-bit both halves, 4 KiB, inner shareable, write-back walks, IPS as the core has it.
make_tcr:
    mrs x2, id_aa64mmfr0_el1
    and x2, x2, #0xF
    cmp x2, #5                            // 48 bits of output at most
    mov x4, #5
    csel x2, x4, x2, hi
    lsl x2, x2, #32
    mov x4, #0x3510                       // T0SZ 16, IRGN0/ORGN0 WBWA, SH0 inner
    movk x4, #0xB510, lsl #16             // T1SZ 16, the same for TTBR1, TG1 4 KiB
    orr x2, x2, x4
    ret

// x0 TTBR0, x1 TTBR1, x2 TCR, x3 MAIR, x5 where to go on.
enable_mmu:
    msr mair_el1, x3
    msr tcr_el1, x2
    msr ttbr0_el1, x0
    msr ttbr1_el1, x1
    isb
    tlbi vmalle1
    dsb nsh
    ic iallu
    dsb nsh
    isb
    mov x0, #SCTLR_RES1 & 0xFFFF
    movk x0, #SCTLR_RES1 >> 16, lsl #16
    mov x1, #0x1005                       // I, C, M
    orr x0, x0, x1
    msr sctlr_el1, x0
    isb
    br x5

    .balign 8
boot_high_address:
    .quad boot_high

// --- the boot core at its linked address ----------------------------------------------------------------------------
boot_high:
    msr spsel, #1                         // a debugger may have entered with SP_EL0
    adrp x0, _boot_stack_exception
    mov sp, x0                            // SP_EL1: exceptions
    msr spsel, #0
    adrp x0, _boot_stack_thread
    mov sp, x0                            // SP_EL0: the plan
    adrp x0, _bss_start
    adrp x1, _bss_end
1:  stp xzr, xzr, [x0], #16
    cmp x0, x1
    b.lo 1b
    mov x29, xzr
    mov x30, xzr
    mov x0, x19
    mov x1, x21
    mov x2, x20
    bl boot_main
    b .

// --- secondaries ----------------------------------------------------------------------------------------------------
// x19: BootArguments { ttbr0, ttbr1, tcr, mair, entry, exception stack, thread stack, core }
secondary_el1:
    ldp x0, x1, [x19]
    ldp x2, x3, [x19, #16]
    ldr x5, [x19, #32]                    // secondary_high
    b enable_mmu

    .global secondary_high
secondary_high:
    msr spsel, #1
    ldp x0, x1, [x19, #40]                // the arguments lie in memory that is mapped where it is
    mov sp, x0
    msr spsel, #0
    mov sp, x1
    ldr x0, [x19, #56]
    mov x29, xzr
    mov x30, xzr
    bl secondary_main
    b .

// --- from the boot tables to the final ones -------------------------------------------------------------------------
// replace_tables(x0 TTBR0, x1 TTBR1, x2 where the image is minus where it was linked), at the linked address.
//
// The new tables map the same addresses in other sizes, so no translation of the old ones may be cached when the new ones
// come into force (break before make: DDI 0487, D8.16.1). Each half is replaced by way of an empty table, while the code runs
// in the other half. Touches no memory.
    .global replace_tables
replace_tables:
    adr x3, 1f
    add x3, x3, x2
    br x3
1:  adrp x4, _boot_tables_empty           // physical: we run where the image is
    msr ttbr1_el1, x4
    isb
    tlbi vmalle1
    dsb nsh
    isb
    msr ttbr1_el1, x1
    isb
    adr x3, 2f
    sub x3, x3, x2
    br x3
2:  msr ttbr0_el1, x4
    isb
    tlbi vmalle1
    dsb nsh
    isb
    msr ttbr0_el1, x0
    isb
    ret

// A core that came up at EL3 beside the boot core: waits for its line in the release table.
// { count, (mpidr, arguments)[count] }, whose address the boot core writes last.
park:
    adrp x1, RELEASE_TABLE
    add x1, x1, :lo12:RELEASE_TABLE
1:  wfe
    yield
    ldr x2, [x1]
    cbz x2, 1b
    dmb sy
    ldr x3, [x2], #8
2:  cbz x3, 3f
    ldp x4, x5, [x2], #16
    sub x3, x3, #1
    cmp x4, x0
    b.ne 2b
    mov x19, x5
    b secondary_el1
3:  wfe                                   // not in the plan
    b 3b

// --- vectors of the levels above, for an EL3 or EL2 entry -----------------------------------------------------------
// EL3 keeps one service: SMC with w0 = 0xC3000001 writes w2 to the 32-bit register at x1 with Secure access, because
// GICD_CTLR.DS can only be set from there and the distributor's address is known only after the tree was read. An offset
// of 0x400 is a synchronous exception from a lower level in AArch64.
    .balign 2048
monitor_vectors:
    .rept 8
    b .
    .balign 128
    .endr
    mov w3, #0x0001
    movk w3, #0xC300, lsl #16
    cmp w0, w3
    b.ne 1f
    str w2, [x1]                          // EL3's own accesses are Secure
    dsb sy
    mov x0, #0
    eret
1:  mov x0, #-1
    eret
    .balign 128
    .rept 7
    b .
    .balign 128
    .endr

    .balign 2048
hypervisor_vectors:
    .rept 16
    wfe
    b . - 4
    .balign 128
    .endr
