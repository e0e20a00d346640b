// Exception vectors: one table for each way of answering an SGI, all but the IRQ entry alike.
//
// Threads run on SP_EL0, exceptions on SP_EL1: an IRQ comes through the group "current EL with SP_EL0", and a fault inside
// a handler through "current EL with SP_ELx". An overflowed thread stack still has a good exception stack to report on.
//
// The IRQ entry is the measured path. It stamps the counter as its second instruction (the first frees a register;
// exception entry is a context synchronisation event, so the read needs no ISB), saves what a call may clobber
// (x0-x17 and x30; the softfloat target has no other state) and calls the handler: 10 STP, 2 MRS, BL, 10 LDP, ERET.
// ELR_EL1 and SPSR_EL1 need no saving because interrupts stay masked in the handler.

    .macro save_clobbered
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x30, [sp, #144]
    .endm

    .macro restore_clobbered
    ldp x2, x3, [sp, #16]
    ldp x4, x5, [sp, #32]
    ldp x6, x7, [sp, #48]
    ldp x8, x9, [sp, #64]
    ldp x10, x11, [sp, #80]
    ldp x12, x13, [sp, #96]
    ldp x14, x15, [sp, #112]
    ldp x16, x17, [sp, #128]
    ldp x18, x30, [sp, #144]
    ldp x0, x1, [sp], #160
    .endm

    .macro irq_entry handler
    stp x0, x1, [sp, #-160]!
    mrs x0, cntvct_el0                    // the entry stamp
    save_clobbered
    mrs x1, tpidr_el1                     // this core
    bl \handler
    restore_clobbered
    eret
    .balign 128
    .endm

// The entry of plans that call: it saves everything, so that a crash stop can tell it, with ELR_EL1 and SPSR_EL1, because an NMI may
// interrupt the handler; and it lays a frame record, so that the handler's frames lead to the interrupted code.
    .macro irq_entry_calls
    stp x0, x1, [sp, #-288]!
    mrs x0, cntvct_el0                    // the entry stamp
    b irq_calls_common
    .balign 128
    .endm

    .macro fault_entry kind
    sub sp, sp, #272
    stp x0, x1, [sp]
    mov x0, #\kind
    b fault_common
    .balign 128
    .endm

    .macro vector_table name, handler
    .balign 2048
    .global \name
\name:
    fault_entry 1                         // current EL, SP_EL0: threads
    irq_entry \handler
    fault_entry 3
    fault_entry 2
    fault_entry 1                         // current EL, SP_ELx: inside a handler
    fault_entry 4
    fault_entry 3
    fault_entry 2
    .rept 8                               // lower levels: there are none
    fault_entry 1
    .endr
    .endm

    .section .text.vectors, "ax"
    vector_table vectors_off, irq_off
    vector_table vectors_ipi, irq_ipi
    vector_table vectors_bounded, irq_bounded
    vector_table vectors_stages, irq_stages
    vector_table vectors_wide, irq_wide
    vector_table vectors_twin, irq_twin

// Plans that call: an IRQ may also come while a handler works, as an NMI.
    .balign 2048
    .global vectors_calls
vectors_calls:
    fault_entry 1                         // current EL, SP_EL0: threads
    irq_entry_calls
    fault_entry 3
    fault_entry 2
    fault_entry 1                         // current EL, SP_ELx: inside a handler
    irq_entry_calls
    fault_entry 3
    fault_entry 2
    .rept 8                               // lower levels: there are none
    fault_entry 1
    .endr

// x0: the stamp; x0 and x1 of the interrupted code lie on the stack. The frame: x0..x30, ELR_EL1, SPSR_EL1, frame record.
irq_calls_common:
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x19, [sp, #144]
    stp x20, x21, [sp, #160]
    stp x22, x23, [sp, #176]
    stp x24, x25, [sp, #192]
    stp x26, x27, [sp, #208]
    stp x28, x29, [sp, #224]
    mrs x2, elr_el1
    mrs x3, spsr_el1
    stp x30, x2, [sp, #240]
    str x3, [sp, #256]
    stp x29, x2, [sp, #264]
    add x29, sp, #264
    mrs x1, tpidr_el1                     // this core
    mov x2, sp
    bl irq_calls
    ldp x30, x2, [sp, #240]
    ldr x3, [sp, #256]
    msr elr_el1, x2
    msr spsr_el1, x3
    ldr x29, [sp, #232]                   // x19..x28 are as the handler found them
    ldp x2, x3, [sp, #16]
    ldp x4, x5, [sp, #32]
    ldp x6, x7, [sp, #48]
    ldp x8, x9, [sp, #64]
    ldp x10, x11, [sp, #80]
    ldp x12, x13, [sp, #96]
    ldp x14, x15, [sp, #112]
    ldp x16, x17, [sp, #128]
    ldr x18, [sp, #144]
    ldp x0, x1, [sp], #288
    eret

// A fault: x0 kind, old x0 and x1 on the stack. Saves all registers for the record.
fault_common:
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x19, [sp, #144]
    stp x20, x21, [sp, #160]
    stp x22, x23, [sp, #176]
    stp x24, x25, [sp, #192]
    stp x26, x27, [sp, #208]
    stp x28, x29, [sp, #224]
    str x30, [sp, #240]
    mov x1, sp
    bl fault_main
    b .
