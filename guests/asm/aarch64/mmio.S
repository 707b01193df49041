/* Instructions that the hypervisor emulates: MMIO of each width, and identification registers.
 *   emulated      the first of them; after_1 to after_4 are behind each
 */
#include "common.inc"
ROUNDS 100

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    mov x22, #CONSOLE
main_loop:
    mov x1, #1
emulated:
    ldrb w2, [x22, #5]
after_1:
    ldr w3, [x22, #4]
after_2:
    mrs x4, id_aa64mmfr0_el1
after_3:
    strb wzr, [x22, #7]
after_4:
    add x1, x1, #1
    cmp x1, #2
    REQUIRE eq, 1
    AGAIN main_loop
    EXIT 0
END main
