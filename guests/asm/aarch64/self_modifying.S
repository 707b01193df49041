/* Code that rewrites itself: `patched` returns what was last written into it. */
#include "common.inc"
ROUNDS 100
VARIABLE written

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    mov x20, #0
main_loop:
    and w1, w20, #0xff
    mov w2, #0x52800000
    orr w2, w2, w1, lsl #5
    ADDRESS x9, patched
rewrite:
    str w2, [x9]
    dc cvau, x9
    dsb ish
    ic ivau, x9
    dsb ish
    isb
    bl patched
    and w1, w20, #0xff
    cmp w0, w1
    REQUIRE eq, 1
    add x20, x20, #1
    AGAIN main_loop
    EXIT 0
END main

FUNCTION patched
    mov w0, #0
    ret
END patched
