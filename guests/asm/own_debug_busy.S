/* A guest that sets breakpoints in its own debug registers and then does nothing that leaves the guest:
 * no port, no MMIO, no HLT. What it sets must come into force all the same, and what it switches off
 * must not be delivered any more (rule R9).
 *
 * `round_begin` and `round_end` are executed once in each round.
 */
#include "common.inc"
ROUNDS 3
VARIABLE watched
VARIABLE db_count
VARIABLE last_dr6
VARIABLE last_rip

/* So often a loop waits for a breakpoint to hit: minutes, if that is in vain. */
#define PATIENCE 0x400000000
/* So often that is done which a breakpoint was for. */
#define QUIET 100000

.macro SET_DR7 value
    mov eax, \value
    mov dr7, rax
.endm

.text
FUNCTION _start
    call init
    GATE 1, db_handler
main_loop:
round_begin:
    nop

/* An execution breakpoint in DR0 */
    mov qword ptr [db_count], 0
    mov rax, offset target
    mov dr0, rax
    mov rcx, PATIENCE
    SET_DR7 0x00000402
1:  dec rcx
    REQUIRE nz, 1
    call target
    cmp qword ptr [db_count], 0
    je 1b
    mov rax, offset target
    cmp [last_rip], rax
    REQUIRE e, 2
    mov rax, [last_dr6]
    and eax, 0xe00f
    cmp eax, 1
    REQUIRE e, 3

/* Off again */
    SET_DR7 0x400
    mov qword ptr [db_count], 0
    mov rcx, QUIET
2:  call target
    dec rcx
    jnz 2b
    cmp qword ptr [db_count], 0
    REQUIRE e, 4

/* A write watchpoint of 8 bytes in DR1 */
    mov rax, offset watched
    mov dr1, rax
    mov rcx, PATIENCE
    SET_DR7 0x00900408
3:  dec rcx
    REQUIRE nz, 5
    mov dword ptr [watched + 4], ecx
after_write:
    cmp qword ptr [db_count], 0
    je 3b
    mov rax, offset after_write
    cmp [last_rip], rax
    REQUIRE e, 6
    mov rax, [last_dr6]
    and eax, 0xe00f
    cmp eax, 2
    REQUIRE e, 7

/* Off again */
    SET_DR7 0x400
    mov qword ptr [db_count], 0
    mov rcx, QUIET
4:  mov dword ptr [watched + 4], ecx
    dec rcx
    jnz 4b
    cmp qword ptr [db_count], 0
    REQUIRE e, 8
round_end:
    nop
    AGAIN main_loop
    EXIT 0
END _start

FUNCTION target
    nop
    ret
END target

/* Notes where and why, clears DR6, and lets an execution breakpoint's instruction pass. */
FUNCTION db_handler
    push rax
    push rcx
    inc qword ptr [db_count]
    mov rax, [rsp + 16]
    mov [last_rip], rax
    mov rcx, dr6
    mov [last_dr6], rcx
    or dword ptr [rsp + 32], FLAG_RF
    mov eax, 0xffff0ff0
    mov dr6, rax
    pop rcx
    pop rax
    iretq
END db_handler
