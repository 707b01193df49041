/* A loop with all exceptions masked; `spins` counts its rounds. */
#include "common.inc"
ROUNDS 100000
VARIABLE spins

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    msr daifset, #15
    mov x20, #0
spin:
    add x20, x20, #1
    STORE x20, spins
    AGAIN spin
    EXIT 0
END main
