/* Counts, by functions with known names: for interrupts from outside, steps, breakpoints, false
 * conditions and watchpoints.
 *   tick     adds one to `counter`
 *   hot      is called with the round in x0 and stores it in `hot_argument`
 *   scatter  writes 1, 2, 4, 8 and 16 bytes into `cells`, and reads some of them back
 */
#include "common.inc"
ROUNDS 1000
VARIABLE counter
VARIABLE hot_argument
VARIABLE cells, 0, 48
VARIABLE sum

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    ADDRESS x0, hello
    bl puts
    mov x20, #0
main_loop:
    bl tick
    mov x0, x20
    bl hot
    bl scatter
    add x20, x20, #1
    AGAIN main_loop
    LOAD x0, counter
    cmp x0, x20
    REQUIRE eq, 1
    LOAD x0, hot_argument
    add x0, x0, #1
    cmp x0, x20
    REQUIRE eq, 2
    EXIT 0
END main

FUNCTION tick
    ADDRESS x9, counter
    ldr x10, [x9]
    add x10, x10, #1
tick_store:
    str x10, [x9]
tick_done:
    ret
END tick

FUNCTION hot
    STORE x0, hot_argument
    ret
END hot

FUNCTION scatter
    ADDRESS x9, cells
write_1:
    strb w20, [x9]
write_2:
    strh w20, [x9, #2]
write_4:
    str w20, [x9, #4]
write_8:
    str x20, [x9, #8]
write_16:
    stp x20, x20, [x9, #16]
read_8:
    ldr x10, [x9, #8]
    ADDRESS x11, sum
    ldr x12, [x11]
    add x12, x12, x10
    str x12, [x11]
    ret
END scatter

.pushsection .data
hello:
    .asciz "counter\r\n"
.popsection
