/* Repeated string instructions, each under its own label: one step is one iteration, a watchpoint
 * may hit in the middle, and a page may end there.
 */
#include "common.inc"
ROUNDS 4
#define LENGTH 9000
RESERVE source, LENGTH, 4096
RESERVE target, LENGTH, 4096

.text
FUNCTION _start
    call init
main_loop:
    cld
    mov rdi, offset source
    mov ecx, LENGTH
    mov al, 0x5a
rep_stosb:
    rep stosb
    cmp rdi, offset source + LENGTH
    REQUIRE e, 1
    mov byte ptr [source + LENGTH - 3], 0x77
    mov rsi, offset source
    mov rdi, offset target
    mov ecx, LENGTH
rep_movsb:
    rep movsb
    test ecx, ecx
    REQUIRE z, 2
    mov rsi, offset source
    mov rdi, offset target
    mov ecx, LENGTH
repe_cmpsb:
    repe cmpsb
    REQUIRE e, 3
    mov rdi, offset target
    mov ecx, LENGTH
    mov al, 0x77
repne_scasb:
    repne scasb
    REQUIRE e, 4
    cmp ecx, 2
    REQUIRE e, 5
    mov rdi, offset target
    mov ecx, LENGTH / 8
    mov rax, 0x0123456789abcdef
rep_stosq:
    rep stosq
    cmp [target + LENGTH - 16], rax
    REQUIRE e, 6
    mov rsi, offset target
    mov ecx, 64
rep_lodsq:
    rep lodsq
    cmp rsi, offset target + 512
    REQUIRE e, 7
    std
    mov rsi, offset target + 511
    mov rdi, offset source + 511
    mov ecx, 512
rep_movsb_backwards:
    rep movsb
    cld
    mov rax, [target]
    cmp [source], rax
    REQUIRE e, 8
    xor ecx, ecx
rep_zero_times:
    rep stosb
    AGAIN main_loop
    EXIT 0
END _start
