/* All vCPUs meet at a barrier and call `meet` at the same moment; then each in turn calls `serve`
 * and hands `turn` on. For simultaneous hits, and for stops while the others run.
 */
#include "common.inc"
#include "apic.inc"
ROUNDS 200
VARIABLE turn
VARIABLE arrived
VARIABLE generation
VARIABLE stop
VARIABLE finished
VARIABLE meetings, 0, MAX_VCPUS*8
VARIABLE serves, 0, MAX_VCPUS*8

.text
FUNCTION _start
    call init
    call start_aps
    xor edi, edi
    jmp ap_main
END _start

/* Every vCPU's main loop; rdi is its index. */
FUNCTION ap_main
    mov r12, rdi
ping_pong_loop:
    call barrier
    call meet
    call await_turn
    call serve
    call pass_on
    test r12, r12
    jnz 1f
    dec qword ptr [rounds]
    jnz 1f
    mov qword ptr [stop], 1
1:  call barrier
    cmp qword ptr [stop], 0
    je ping_pong_loop
    lock inc qword ptr [finished]
    test r12, r12
    jz check
2:  hlt
    jmp 2b
END ap_main

/* Waits until every vCPU has come here. */
FUNCTION barrier
    mov rbx, [generation]
    mov eax, 1
    lock xadd [arrived], rax
    inc rax
    cmp rax, [vcpu_count]
    jne 1f
    mov qword ptr [arrived], 0
    inc qword ptr [generation]
    ret
1:  pause
    cmp [generation], rbx
    je 1b
    ret
END barrier

FUNCTION meet
    inc qword ptr [meetings + r12 * 8]
    ret
END meet

FUNCTION await_turn
1:  cmp [turn], r12
    je 2f
    pause
    jmp 1b
2:  ret
END await_turn

FUNCTION serve
    inc qword ptr [serves + r12 * 8]
    ret
END serve

FUNCTION pass_on
    lea rax, [r12 + 1]
    cmp rax, [vcpu_count]
    jb 1f
    xor eax, eax
1:  mov [turn], rax
    ret
END pass_on

/* The boot processor looks whether all did the same number of rounds. */
FUNCTION check
1:  pause
    mov rax, [finished]
    cmp rax, [vcpu_count]
    jb 1b
    xor ecx, ecx
2:  mov rax, [meetings + rcx * 8]
    cmp rax, [meetings]
    REQUIRE e, 1
    cmp rax, [serves + rcx * 8]
    REQUIRE e, 2
    inc rcx
    cmp rcx, [vcpu_count]
    jb 2b
    EXIT 0
END check
