/* A periodic interrupt at a high rate, whose handler is `timer_handler`, while `main_loop` runs
 * straight code: a step in it never lands in the handler (rule R6).
 */
#include "common.inc"
#include "timer.inc"
ROUNDS 1000
VARIABLE work

.text
FUNCTION _start
    call init
    GATE TIMER_VECTOR, timer_handler
    START_TIMER 200000
    sti
    xor ebx, ebx
main_loop:
    .rept 60
    add rbx, 1
    .endr
    mov [work], rbx
main_loop_end:
    cmp qword ptr [ticks], 200
    jb main_loop
    AGAIN main_loop
    cli
    EXIT 0
END _start
