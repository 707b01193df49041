// Into the guest and back.
//
// enter_guest(x0 = &mut Frame) -> x0 = which vector (0 synchronous, 1 IRQ, 2 FIQ, 3 SError)
//   1. The hypervisor's own registers that a function keeps are put on the stack.
//   2. The guest's general registers, pc and PSTATE are loaded; ERET.
//   3. The processor takes an exception to EL2, through `vectors`.
//   4. The guest's registers are stored and the hypervisor's are taken from the stack; it returns.
// While the guest runs TPIDR_EL2 holds the frame and SP_EL2 the stack of step 1. All other registers of EL1
// and EL0 stay where they are.

    .text
    .global enter_guest
    .type   enter_guest, %function
enter_guest:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    msr     tpidr_el2, x0
    ldp     x1, x2, [x0, #{PC}]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    dsb     nsh
    isb
    .size   enter_guest, . - enter_guest

leave_guest:                            // x0, x1 of the guest on the stack; x1 = which vector
    mrs     x0, tpidr_el2
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [x0, #{PC}]
    mov     x0, x1
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

.macro from_guest number
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\number
    b       leave_guest
.endm

.macro from_hypervisor number
    .balign 128
    mov     x0, #\number
    mov     x1, sp
    mrs     x2, elr_el2
    mrs     x3, esr_el2
    mrs     x4, far_el2
    b       hypervisor_fault
.endm

    .balign 2048
    .global vectors
vectors:
    from_hypervisor 0                   // with SP_EL0, which the hypervisor never uses
    from_hypervisor 1
    from_hypervisor 2
    from_hypervisor 3
    from_hypervisor 0
    from_hypervisor 1
    from_hypervisor 2
    from_hypervisor 3
    from_guest 0                        // AArch64
    from_guest 1
    from_guest 2
    from_guest 3
    from_guest 0                        // AArch32
    from_guest 1
    from_guest 2
    from_guest 3
