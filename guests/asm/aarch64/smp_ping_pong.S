/* All vCPUs, up to 8, meet at a barrier and call `meet` at the same moment; then each in turn calls `serve`
 * and hands `turn` on. For simultaneous hits, and for stops while the others run. The others are started by
 * PSCI CPU_ON at `late_start`, their very first instruction.
 */
#include "common.inc"
.set MAX_VCPUS, 8
ROUNDS 200
VARIABLE vcpu_count, 1
VARIABLE turn
VARIABLE arrived
VARIABLE generation
VARIABLE stop
VARIABLE finished
VARIABLE meetings, 0, MAX_VCPUS*8
VARIABLE serves, 0, MAX_VCPUS*8

/* x0 = the variable plus one, which other vCPUs may change as well. */
.macro ADD_ONE name
    ADDRESS x9, \name
778:
    ldaxr x0, [x9]
    add x0, x0, #1
    stlxr w10, x0, [x9]
    cbnz w10, 778b
.endm

/* Counts in this vCPU's element of an array. */
.macro COUNT_OWN name
    ADDRESS x9, \name
    ldr x10, [x9, x20, lsl #3]
    add x10, x10, #1
    str x10, [x9, x20, lsl #3]
.endm

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    mov x21, #1
1:  ldr w0, =PSCI_CPU_ON
    mov x1, x21
    ADDRESS x2, late_start
    mov x3, x21
    bl psci
    cmp w0, #0
    b.ne 2f
    add x21, x21, #1
    cmp x21, #MAX_VCPUS
    b.lo 1b
2:  STORE x21, vcpu_count
    mov x20, #0
    mov x10, #1
    ADDRESS x9, is_counted
    stlr x10, [x9]
    b ping_pong_loop
END main

FUNCTION late_start
    mov x20, x0
    ADDRESS x9, stacks
    add x9, x9, x20, lsl #12
    mov sp, x9
    bl set_vectors
    bl enable_mmu
    ADDRESS x9, is_counted
1:  ldar x10, [x9]
    cbz x10, 1b
END late_start

/* Every vCPU's main loop; x20 is its number. */
ping_pong_loop:
    bl barrier
    bl meet
    bl await_turn
    bl serve
    bl pass_on
    cbnz x20, 1f
    ADDRESS x9, rounds
    ldr x10, [x9]
    sub x10, x10, #1
    str x10, [x9]
    cbnz x10, 1f
    mov x10, #1
    STORE x10, stop
1:  bl barrier
    LOAD x10, stop
    cbz x10, ping_pong_loop
    ADD_ONE finished
    cbz x20, check
2:  wfi
    b 2b

/* Waits until every vCPU has come here. */
FUNCTION barrier
    ADDRESS x11, generation
    ldar x12, [x11]
    ADD_ONE arrived
    LOAD x10, vcpu_count
    cmp x0, x10
    b.ne 1f
    STORE xzr, arrived
    add x12, x12, #1
    stlr x12, [x11]
    ret
1:  yield
    ldar x10, [x11]
    cmp x10, x12
    b.eq 1b
    ret
END barrier

FUNCTION meet
    COUNT_OWN meetings
    ret
END meet

FUNCTION await_turn
    ADDRESS x9, turn
1:  yield
    ldar x10, [x9]
    cmp x10, x20
    b.ne 1b
    ret
END await_turn

FUNCTION serve
    COUNT_OWN serves
    ret
END serve

FUNCTION pass_on
    LOAD x10, vcpu_count
    add x11, x20, #1
    cmp x11, x10
    csel x11, x11, xzr, lo
    ADDRESS x9, turn
    stlr x11, [x9]
    ret
END pass_on

/* The first vCPU looks whether all did the same number of rounds. */
FUNCTION check
    ADDRESS x9, finished
    LOAD x11, vcpu_count
1:  ldar x10, [x9]
    cmp x10, x11
    b.lo 1b
    ADDRESS x12, meetings
    ADDRESS x13, serves
    ldr x14, [x12]
2:  sub x11, x11, #1
    ldr x9, [x12, x11, lsl #3]
    cmp x9, x14
    REQUIRE eq, 1
    ldr x9, [x13, x11, lsl #3]
    cmp x9, x14
    REQUIRE eq, 2
    cbnz x11, 2b
    EXIT 0
END check

.pushsection .data
.balign 8
is_counted:
    .quad 0
.popsection
.pushsection .bss
.balign 4096
    .zero 4096
stacks:
    .zero MAX_VCPUS * 4096
.popsection
