/* Straight code under a fast periodic interrupt.
 *   straight    the straight code: 16 times `add x20, x20, #1`
 *   on_irq      the handler, which counts `interrupts`
 */
#include "common.inc"
#include "gic.inc"
ROUNDS 20000
VARIABLE interrupts
.set PERIOD, 5000

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    bl enable_timer
    ldr x0, =PERIOD
    bl rearm
    msr daifclr, #2
    mov x20, #0
main_loop:
straight:
    .rept 16
    add x20, x20, #1
    .endr
straight_end:
    AGAIN main_loop
    tst x20, #15
    REQUIRE eq, 1
    LOAD x0, interrupts
    cmp x0, #0
    REQUIRE ne, 2
    EXIT 0
END main

FUNCTION on_irq
    stp x0, x9, [sp, #-16]!
    stp x10, x11, [sp, #-16]!
    stp x12, x30, [sp, #-16]!
    bl acknowledge
    mov x11, x0
    ldr x0, =PERIOD
    bl rearm
    LOAD x10, interrupts
    add x10, x10, #1
    STORE x10, interrupts
    mov x0, x11
    bl end_interrupt
    ldp x12, x30, [sp], #16
    ldp x10, x11, [sp], #16
    ldp x0, x9, [sp], #16
    eret
END on_irq
