/* A guest that uses BRK, a hardware breakpoint and a watchpoint itself.
 *   own_brk      its BRK, whose immediate is 0x4c1
 *   own_target   where its hardware breakpoint is
 *   own_write    the instruction that its watchpoint stops, about `own_cell`
 *   handled      how many of its debug exceptions have come
 */
#include "common.inc"
ROUNDS 20
VARIABLE handled
VARIABLE own_cell
VARIABLE expected_class
VARIABLE expected_pc
VARIABLE last_far

.macro EXPECT class, label
    mov x9, #\class
    adrp x10, expected_class
    str x9, [x10, :lo12:expected_class]
    ADDRESS x9, \label
    adrp x10, expected_pc
    str x9, [x10, :lo12:expected_pc]
.endm

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    msr oslar_el1, xzr
    isb
    msr daifclr, #8
    mov x20, #0
main_loop:
    EXPECT 0x3c, own_brk
own_brk:
    brk #0x4c1
    EXPECT 0x31, own_target
    ADDRESS x9, own_target
    msr dbgbvr0_el1, x9
    mov x9, #0x1e3
    msr dbgbcr0_el1, x9
    mov x9, #0xa000
    msr mdscr_el1, x9
    isb
    nop
own_target:
    nop
    msr dbgbcr0_el1, xzr
    EXPECT 0x35, own_write
    ADDRESS x9, own_cell
    msr dbgwvr0_el1, x9
    mov x9, #0x1ff3
    msr dbgwcr0_el1, x9
    isb
    ADDRESS x9, own_cell
own_write:
    str x20, [x9]
    msr dbgwcr0_el1, xzr
    msr mdscr_el1, xzr
    isb
    LOAD x0, own_cell
    cmp x0, x20
    REQUIRE eq, 2
    add x20, x20, #1
    AGAIN main_loop
    LOAD x0, handled
    add x9, x20, x20, lsl #1
    cmp x0, x9
    REQUIRE eq, 3
    EXIT 0
END main

/* Checks the class and the address, and goes on: behind BRK, and with the breakpoint or watchpoint off. */
FUNCTION on_sync
    stp x9, x10, [sp, #-16]!
    stp x11, x12, [sp, #-16]!
    mrs x9, esr_el1
    lsr x9, x9, #26
    LOAD x10, expected_class
    cmp x9, x10
    REQUIRE eq, 0x10
    mrs x10, elr_el1
    LOAD x11, expected_pc
    cmp x10, x11
    REQUIRE eq, 0x11
    cmp x9, #0x3c
    b.ne 1f
    mrs x11, esr_el1
    and x11, x11, #0xffff
    mov x12, #0x4c1
    cmp x11, x12
    REQUIRE eq, 0x12
    add x10, x10, #4
    msr elr_el1, x10
1:  mrs x11, far_el1
    STORE x11, last_far
    msr dbgbcr0_el1, xzr
    msr dbgwcr0_el1, xzr
    isb
    LOAD x11, handled
    add x11, x11, #1
    STORE x11, handled
    ldp x11, x12, [sp], #16
    ldp x9, x10, [sp], #16
    eret
END on_sync
