/* Sequences of exclusive accesses, which make no progress when they are stepped one by one.
 *   add_one    a loop of Load-Exclusive and Store-Exclusive over `total`; `again` is its start
 *   swap_once  a compare-and-swap with a way out in its middle, over `slot`
 */
#include "common.inc"
ROUNDS 1000
VARIABLE total
VARIABLE slot, 5

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    mov x20, #0
main_loop:
    bl add_one
    bl swap_once
    add x20, x20, #1
    AGAIN main_loop
    LOAD x0, total
    cmp x0, x20
    REQUIRE eq, 1
    LOAD x0, slot
    cmp x0, #7
    REQUIRE eq, 2
    EXIT 0
END main

FUNCTION add_one
    ADDRESS x0, total
again:
    ldxr x1, [x0]
    add x1, x1, #1
    stxr w2, x1, [x0]
    cbnz w2, again
add_one_done:
    ret
END add_one

FUNCTION swap_once
    ADDRESS x0, slot
    mov x3, #7
1:  ldxr x1, [x0]
    cmp x1, #5
    b.ne 2f
    stxr w2, x3, [x0]
    cbnz w2, 1b
2:  ret
END swap_once
