/* The boot processor works alone for `rounds` rounds before it starts the others; they then call
 * `late_work`, which writes `late_cells`. Then it puts them back by INIT and starts them a second
 * time. For breakpoints and watchpoints that stand before a vCPU's first instruction (rules R4, B3).
 */
#include "common.inc"
#include "apic.inc"
ROUNDS 1000
VARIABLE alone
VARIABLE late_cells, 0, MAX_VCPUS*8
VARIABLE late_sum

.text
FUNCTION _start
    call init
work_alone:
    inc qword ptr [alone]
    AGAIN work_alone
first_start:
    call start_aps
    mov r13d, 1
    call await_work
second_start:
    call start_aps
    mov r13d, 2
    call await_work
    EXIT 0
END _start

/* Waits until every other vCPU has done its work r13 times. */
FUNCTION await_work
    mov rcx, [vcpu_count]
1:  dec rcx
    jz 3f
2:  pause
    cmp [late_cells + rcx * 8], r13
    jb 2b
    jmp 1b
3:  ret
END await_work

FUNCTION ap_main
    call late_work
1:  hlt
    jmp 1b
END ap_main

FUNCTION late_work
    lock inc qword ptr [late_sum]
    /* Last: when the boot processor sees it, the vCPU may be put back at once. */
    inc qword ptr [late_cells + rdi * 8]
    ret
END late_work
