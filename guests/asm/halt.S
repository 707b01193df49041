/* Idles in HLT. At first the timer wakes it `rounds` times. With "idle" as the command line it then
 * stops the timer and halts with interrupts on and nothing left that could wake it.
 */
#include "common.inc"
#include "timer.inc"
ROUNDS 50
VARIABLE wakes

.text
FUNCTION _start
    call init
    mov rsi, [boot_params]
    mov r12d, [rsi + 0x228]
    GATE TIMER_VECTOR, timer_handler
    START_TIMER 2000000
halt_with_timer:
    sti
    hlt
halt_woke:
    cli
    inc qword ptr [wakes]
    AGAIN halt_with_timer
    test r12d, r12d
    jz 1f
    cmp dword ptr [r12], 0x656c6469
    je halt_alone
1:  cmp qword ptr [ticks], 50
    REQUIRE ae, 1
    EXIT 0
halt_alone:
    LAPIC_WRITE LAPIC_LVT_TIMER, 0x10000
    sti
1:  hlt
    jmp 1b
END _start
