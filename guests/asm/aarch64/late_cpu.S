/* A vCPU that is started late by PSCI, turns itself off and is started again, `rounds` times. At the end the guest
 * looks whether its code is what it was at the start.
 *   late_start   its first instruction
 *   starts       how often it has started
 */
#include "common.inc"
ROUNDS 5
VARIABLE starts
.set PSCI_AFFINITY_INFO, 0xc4000004

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    bl sum_code
    mov x22, x0
    mov x20, #0
main_loop:
    add x20, x20, #1
    ldr w0, =PSCI_CPU_ON
    mov x1, #1
    ADDRESS x2, late_start
    mov x3, x20
    bl psci
    cmp w0, #0
    REQUIRE eq, 1
    /* QEMU's firmware says that a processor is off until it has run. */
wait_start:
    LOAD x0, starts
    cmp x0, x20
    b.ne wait_start
wait_off:
    ldr w0, =PSCI_AFFINITY_INFO
    mov x1, #1
    mov x2, #0
    bl psci
    cmp w0, #1
    b.ne wait_off
    AGAIN main_loop
    bl sum_code
    cmp x0, x22
    REQUIRE eq, 2
    EXIT 0
END main

/* x0 = sum of the code, in which each word counts by its place. */
FUNCTION sum_code
    ADDRESS x1, _start
    ADDRESS x2, text_end
    mov x0, #0
1:  ldr w3, [x1], #4
    ror x0, x0, #1
    add x0, x0, x3
    cmp x1, x2
    b.lo 1b
    ret
END sum_code

FUNCTION late_start
    ADDRESS x9, second_stack_top
    mov sp, x9
    mov x20, x0
    bl set_vectors
    bl enable_mmu
    STORE x20, starts
late_off:
    ldr w0, =PSCI_CPU_OFF
    bl psci
    EXIT 3
END late_start
