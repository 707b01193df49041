/* Code that rewrites itself: an immediate operand, and the one-byte instruction at `victim`, which
 * is CLC or STC in turn. For breakpoints that stand where the guest writes.
 */
#include "common.inc"
ROUNDS 500
VARIABLE carries

.text
FUNCTION _start
    call init
    xor ebx, ebx
main_loop:
    mov [patched + 1], ebx
    call patched
    cmp eax, ebx
    REQUIRE e, 1
    mov eax, ebx
    and eax, 1
    lea ecx, [eax + 0xf8]
write_victim:
    mov [victim], cl
    call carry
    movzx ecx, al
    mov eax, ebx
    and eax, 1
    cmp eax, ecx
    REQUIRE e, 2
    add [carries], rax
    inc ebx
    AGAIN main_loop
    shr rbx, 1
    cmp [carries], rbx
    REQUIRE e, 3
    EXIT 0
END _start

FUNCTION patched
    mov eax, 0x11223344
    ret
END patched

FUNCTION carry
    nop
victim:
    clc
after_victim:
    setc al
    ret
END carry
