/* PSCI CPU_SUSPEND to a state of standby with the timer on, `rounds` times; it must not return before the timer is there.
 *   suspended    the call
 *   woken        how often it has returned
 */
#include "common.inc"
#include "gic.inc"
ROUNDS 50
VARIABLE woken
.set PERIOD, 100000
.set PSCI_CPU_SUSPEND, 0xc4000001
/* The timer's interrupt is asserted. */
.set ISTATUS, 1 << 2

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    bl enable_timer
    mov x20, #0
main_loop:
    ldr x0, =PERIOD
    bl rearm
    ldr x0, =PSCI_CPU_SUSPEND
    mov x1, #0
    mov x2, #0
    mov x3, #0
suspended:
    bl psci
    cmp w0, #0
    REQUIRE eq, 1
    mrs x9, cntv_ctl_el0
    tst x9, #ISTATUS
    REQUIRE ne, 2
    add x20, x20, #1
    msr daifclr, #2
    isb
    msr daifset, #2
    STORE x20, woken
    AGAIN main_loop
    EXIT 0
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
