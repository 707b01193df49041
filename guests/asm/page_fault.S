/* Demand mapping: `touch` faults once a page, `page_fault` maps a frame there and returns, and the
 * instruction is executed again. The pages are unmapped after each round.
 */
#include "common.inc"
ROUNDS 10
#define PAGES 32
#define WINDOW 0x8000000000       /* the second entry of the PML4 */
VARIABLE faults
VARIABLE last_cr2
RESERVE window_pdpt, 4096, 4096
RESERVE window_pd, 4096, 4096
RESERVE window_pt, 4096, 4096
RESERVE frames, PAGES*4096, 4096

.text
FUNCTION _start
    call init
    GATE 14, page_fault
    mov rdx, cr3
    mov eax, offset window_pdpt + 3
    mov [rdx + 8], rax
    mov eax, offset window_pd + 3
    mov [window_pdpt], rax
    mov eax, offset window_pt + 3
    mov [window_pd], rax
round:
    mov r12, WINDOW
    xor ebx, ebx
next_page:
    mov rax, rbx
touch:
    mov [r12 + 8], rax
    cmp [r12 + 8], rbx
    REQUIRE e, 1
    add r12, 4096
    inc ebx
    cmp ebx, PAGES
    jb next_page
    cmp qword ptr [faults], PAGES
    REQUIRE e, 2
    mov qword ptr [faults], 0
    xor ecx, ecx
1:  mov qword ptr [window_pt + rcx * 8], 0
    inc ecx
    cmp ecx, PAGES
    jb 1b
    mov rax, cr3
    mov cr3, rax
    AGAIN round
    EXIT 0
END _start

FUNCTION page_fault
    push rax
    push rcx
    mov rcx, cr2
    mov [last_cr2], rcx
    test qword ptr [rsp + 16], 1
    REQUIRE z, 3
    mov rax, WINDOW
    sub rcx, rax
    and rcx, -4096
    cmp rcx, PAGES * 4096
    REQUIRE b, 4
    lea rax, [rcx + frames + 3]
    shr ecx, 12
    mov [window_pt + rcx * 8], rax
    inc qword ptr [faults]
    pop rcx
    pop rax
    add rsp, 8
page_fault_return:
    iretq
END page_fault
