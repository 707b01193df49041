/* Meets a fault with an empty interrupt descriptor table. */
#include "common.inc"
ROUNDS 1

.text
FUNCTION _start
    call init
    lidt [empty_table]
fatal:
    ud2
    EXIT 1
END _start

.pushsection .data
empty_table:
    .word 0
    .quad 0
.popsection
