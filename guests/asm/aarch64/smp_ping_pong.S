/* Two vCPUs: both call `both` at the same moment, then each calls `turn` in its turn.
 * The second is started by PSCI CPU_ON at `second_start`, its very first instruction.
 *   meetings   how often both have met, counted by the first
 *   turns      how often either has had its turn
 */
#include "common.inc"
ROUNDS 200
VARIABLE meetings
VARIABLE turns
VARIABLE arrived, 0, 16
VARIABLE whose_turn

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    ldr w0, =PSCI_CPU_ON
    mov x1, #1
    ADDRESS x2, second_start
    mov x3, #0x5a
    bl psci
    cmp w0, #0
    REQUIRE eq, 1
    mov x20, #0
    ADDRESS x21, arrived
main_loop:
    add x20, x20, #1
    str x20, [x21]
    dmb ish
1:  ldr x9, [x21, #8]
    cmp x9, x20
    b.lo 1b
    bl both
    LOAD x9, meetings
    add x10, x9, #1
    STORE x10, meetings
    mov x0, #0
    bl turn
    AGAIN main_loop
    LOAD x0, meetings
    cmp x0, x20
    REQUIRE eq, 2
    EXIT 0
END main

FUNCTION second_start
    cmp x0, #0x5a
    REQUIRE eq, 3
    ADDRESS x9, second_stack_top
    mov sp, x9
    bl set_vectors
    bl enable_mmu
    mov x20, #0
    ADDRESS x21, arrived
second_loop:
    add x20, x20, #1
    str x20, [x21, #8]
    dmb ish
1:  ldr x9, [x21]
    cmp x9, x20
    b.lo 1b
    bl both
    mov x0, #1
    bl turn
    b second_loop
END second_start

FUNCTION both
    ret
END both

/* x0 = number of the vCPU: waits until it is its turn, and passes the turn on. */
FUNCTION turn
    ADDRESS x9, whose_turn
1:  ldar x10, [x9]
    cmp x10, x0
    b.ne 1b
    LOAD x11, turns
    add x12, x11, #1
    adrp x11, turns
    str x12, [x11, :lo12:turns]
turn_passed:
    eor x10, x10, #1
    stlr x10, [x9]
    ret
END turn
