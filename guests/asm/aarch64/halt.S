/* WFI with the timer on; with the command line `idle`, then with nothing left to wake it.
 *   wait        the WFI
 *   woken       how often it has returned
 */
#include "common.inc"
#include "gic.inc"
ROUNDS 50
VARIABLE woken
.set PERIOD, 100000

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    mov x21, x0
    bl init
    bl enable_timer
    mov x20, #0
main_loop:
    /* Masked, it wakes WFI even if it comes before. */
    ldr x0, =PERIOD
    bl rearm
wait:
    wfi
    add x20, x20, #1
    msr daifclr, #2
    isb
    msr daifset, #2
    STORE x20, woken
    AGAIN main_loop
    mov x0, x21
    ADDRESS x1, idle_text
    bl tree_contains
    cbz x0, 1f
    msr cntv_ctl_el0, xzr
    isb
    msr daifclr, #2
halt_alone:
    wfi
    b halt_alone
1:  EXIT 0
END main

FUNCTION on_irq
    stp x0, x9, [sp, #-16]!
    stp x10, x30, [sp, #-16]!
    bl acknowledge
    msr cntv_ctl_el0, xzr
    isb
    bl end_interrupt
    ldp x10, x30, [sp], #16
    ldp x0, x9, [sp], #16
    eret
END on_irq

.pushsection .data
idle_text:
    .asciz "idle"
.popsection
