/* 1,200 functions, function_0 to function_1199, called one after the other: for many breakpoints. */
#include "common.inc"
ROUNDS 3
#define FUNCTIONS 1200
VARIABLE calls

.altmacro
.macro MAKE_FUNCTION n
    .balign 16
    FUNCTION function_&n
    add x20, x20, #1
    nop
    ret
    END function_&n
.endm
.macro MAKE_CALL n
    bl function_&n
.endm

.set index, 0
.rept FUNCTIONS
    MAKE_FUNCTION %index
    .set index, index + 1
.endr

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
main_loop:
    mov x20, #0
    .set index, 0
    .rept FUNCTIONS
    MAKE_CALL %index
    .set index, index + 1
    .endr
    STORE x20, calls
    cmp x20, #FUNCTIONS
    REQUIRE eq, 1
    AGAIN main_loop
    EXIT 0
END main
