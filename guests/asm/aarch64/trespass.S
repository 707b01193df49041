/* A guest that reads, writes and calls memory that is not its own: at 0x40200000, where the boot loader puts
 * a hypervisor on a machine whose RAM begins at 1 GiB. Each is to be an external abort, and nothing else.
 *   aborts   how many there were
 */
#include "common.inc"
ROUNDS 1
VARIABLE aborts
.set NOT_OURS, 0x40200000

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    mov x20, #NOT_OURS
    mov x21, #0
main_loop:
    mov w22, #0x25
    ADDRESS x23, 1f
    ldr x0, [x20]
1:  add x21, x21, #1
    ADDRESS x23, 2f
    str x21, [x20, #64]
2:  add x21, x21, #1
    mov w22, #0x21
    ADDRESS x23, 3f
    blr x20
3:  add x21, x21, #1
    AGAIN main_loop
    LOAD x0, aborts
    cmp x0, x21
    REQUIRE eq, 1
    EXIT 0
END main

/* Checks that it is an abort of the class in w22 by an access to what is outside, and goes on at x23. */
FUNCTION on_sync
    mrs x9, esr_el1
    lsr x10, x9, #26
    cmp w10, w22
    REQUIRE eq, 2
    and w10, w9, #0x3f
    cmp w10, #0x10
    REQUIRE eq, 3
    LOAD x10, aborts
    add x10, x10, #1
    STORE x10, aborts
    msr elr_el1, x23
    eret
END on_sync
