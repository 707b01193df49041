/* Counts, by functions with known names: for interrupts from outside, steps, breakpoints, false
 * conditions and watchpoints.
 *   tick     adds one to `counter`
 *   hot      is called with the round in rdi and stores it in `hot_argument`
 *   scatter  writes 1, 2, 4 and 8 bytes into `cells`, and reads them back
 */
#include "common.inc"
ROUNDS 1000
VARIABLE counter
VARIABLE hot_argument
VARIABLE cells, 0, 32
VARIABLE sum

.text
FUNCTION _start
    call init
    mov rsi, offset hello
    call puts
    xor ebx, ebx
main_loop:
    call tick
    mov rdi, rbx
    call hot
    call scatter
    inc rbx
    AGAIN main_loop
    cmp [counter], rbx
    REQUIRE e, 1
    lea rax, [rbx - 1]
    cmp [hot_argument], rax
    REQUIRE e, 2
    EXIT 0
END _start

FUNCTION tick
    inc qword ptr [counter]
tick_done:
    ret
END tick

FUNCTION hot
    mov [hot_argument], rdi
    ret
END hot

FUNCTION scatter
    mov eax, ebx
write_1:
    mov [cells], al
write_2:
    mov [cells + 2], ax
write_4:
    mov [cells + 4], eax
write_8:
    mov [cells + 8], rbx
read_8:
    mov rax, [cells + 8]
    add [sum], rax
    ret
END scatter

.pushsection .data
hello:
    .asciz "counter\r\n"
.popsection
