/* 1,200 functions, function_0 to function_1199, called one after the other: for many breakpoints. */
#include "common.inc"
ROUNDS 3
#define FUNCTIONS 1200
VARIABLE calls

.altmacro
.macro MAKE_FUNCTION n
    .balign 16
    FUNCTION function_&n
    inc qword ptr [calls]
    nop
    ret
    END function_&n
.endm
.macro MAKE_CALL n
    call function_&n
.endm

.text
.set index, 0
.rept FUNCTIONS
    MAKE_FUNCTION %index
    .set index, index + 1
.endr

FUNCTION _start
    call init
main_loop:
    mov qword ptr [calls], 0
    .set index, 0
    .rept FUNCTIONS
    MAKE_CALL %index
    .set index, index + 1
    .endr
    cmp qword ptr [calls], FUNCTIONS
    REQUIRE e, 1
    AGAIN main_loop
    EXIT 0
END _start
