/* A guest that debugs itself: execution breakpoints and watchpoints in its own debug registers,
 * single-steps by RFLAGS.TF, INT3, INT 3 by number and ICEBP. Each must reach the guest's own handler
 * exactly as hardware delivers it (rule R9).
 */
#include "common.inc"
ROUNDS 3
VARIABLE watched
VARIABLE db_count
VARIABLE bp_count
VARIABLE last_dr6
VARIABLE both_dr6
VARIABLE last_rip
VARIABLE last_bp_rip
VARIABLE steps
VARIABLE step_trace, 0, 16*8

/* Requires one #DB since the last call of this, with `bits` in DR6 at `rip`. */
.macro EXPECT_DB bits, rip, number
    cmp qword ptr [db_count], 1
    REQUIRE e, \number
    mov rax, [last_dr6]
    and eax, 0xe00f
    cmp eax, \bits
    REQUIRE e, (\number + 1)
    mov rax, offset \rip
    cmp [last_rip], rax
    REQUIRE e, (\number + 2)
    mov qword ptr [db_count], 0
.endm

.macro SET_DR7 value
    mov eax, \value
    mov dr7, rax
.endm

.text
FUNCTION _start
    call init
    GATE 1, db_handler
    GATE 3, bp_handler
main_loop:
    mov qword ptr [db_count], 0
    mov qword ptr [bp_count], 0

/* Execution breakpoint in DR0: a fault, before the instruction */
    mov rax, offset exec_target
    mov dr0, rax
    SET_DR7 0x00000402
    xor ebx, ebx
exec_target:
    inc ebx
    SET_DR7 0x400
    EXPECT_DB 1, exec_target, 1
    cmp ebx, 1
    REQUIRE e, 4

/* Write watchpoint of 8 bytes in DR1: a trap, after the instruction */
    mov rax, offset watched
    mov dr1, rax
    SET_DR7 0x00900408
    mov rax, [watched]
    cmp qword ptr [db_count], 0
    REQUIRE e, 5
watch_write:
    mov dword ptr [watched + 4], 7
after_watch_write:
    SET_DR7 0x400
    EXPECT_DB 2, after_watch_write, 6

/* Read and write watchpoint of 1 byte in DR3, hit by a read */
    mov rax, offset watched
    mov dr3, rax
    SET_DR7 0x30000480
watch_read:
    movzx ecx, byte ptr [watched]
after_watch_read:
    SET_DR7 0x400
    EXPECT_DB 8, after_watch_read, 10

/* Two slots at once: DR2 and DR3 on the same word. Processors report both; QEMU's emulator only the
 * first. `both_dr6` keeps what was reported. */
    mov rax, offset watched
    mov dr2, rax
    mov dr3, rax
    SET_DR7 0xdd0004a0
watch_two:
    mov dword ptr [watched], 9
after_watch_two:
    SET_DR7 0x400
    mov rax, [last_dr6]
    mov [both_dr6], rax
    and dword ptr [last_dr6], ~8
    test eax, 4
    REQUIRE nz, 17
    EXPECT_DB 4, after_watch_two, 14

/* The registers read back as written */
    mov rax, dr2
    mov rcx, offset watched
    cmp rax, rcx
    REQUIRE e, 18
    mov rax, dr7
    cmp rax, 0x400
    REQUIRE e, 19

/* Single-steps: the instruction after POPF is the first that traps */
    mov qword ptr [steps], 0
    push 2 | FLAG_TF
    popfq
    nop
step_1:
    nop
step_2:
    pushfq
step_3:
    and qword ptr [rsp], ~FLAG_TF
step_4:
    popfq
step_5:
    nop
    cmp qword ptr [steps], 5
    REQUIRE e, 20
    mov rax, offset step_1
    cmp [step_trace], rax
    REQUIRE e, 21
    mov rax, offset step_3
    cmp [step_trace + 16], rax
    REQUIRE e, 22
    mov rax, offset step_5
    cmp [step_trace + 32], rax
    REQUIRE e, 23
    mov qword ptr [db_count], 0

/* INT3 in both encodings: the return address is past the instruction */
own_int3:
    int3
after_int3:
    mov rax, offset after_int3
    cmp [last_bp_rip], rax
    REQUIRE e, 24
own_int_3:
    .byte 0xcd, 3
after_int_3:
    mov rax, offset after_int_3
    cmp [last_bp_rip], rax
    REQUIRE e, 25
    cmp qword ptr [bp_count], 2
    REQUIRE e, 26
    cmp qword ptr [db_count], 0
    REQUIRE e, 27

/* ICEBP: a #DB that sets no bit */
own_icebp:
    .byte 0xf1
after_icebp:
    EXPECT_DB 0, after_icebp, 28
    AGAIN main_loop
    EXIT 0
END _start

/* Notes where and why, clears DR6, and lets an execution breakpoint's instruction pass. */
FUNCTION db_handler
    push rax
    push rcx
    inc qword ptr [db_count]
    mov rax, [rsp + 16]
    mov [last_rip], rax
    mov rcx, dr6
    mov [last_dr6], rcx
    test ecx, 0x4000
    jz 1f
    mov rcx, [steps]
    cmp rcx, 16
    REQUIRE b, 40
    mov [step_trace + rcx * 8], rax
    inc qword ptr [steps]
1:  or dword ptr [rsp + 32], FLAG_RF
    mov eax, 0xffff0ff0
    mov dr6, rax
    pop rcx
    pop rax
db_return:
    iretq
END db_handler

FUNCTION bp_handler
    push rax
    inc qword ptr [bp_count]
    mov rax, [rsp + 8]
    mov [last_bp_rip], rax
    pop rax
    iretq
END bp_handler
