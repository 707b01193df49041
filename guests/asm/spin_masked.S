/* Spins with interrupts off. */
#include "common.inc"
ROUNDS 100000
VARIABLE spins

.text
FUNCTION _start
    call init
    cli
spin:
    inc qword ptr [spins]
    AGAIN spin
    EXIT 0
END _start
