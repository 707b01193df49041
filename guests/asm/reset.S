/* Asks for a reset: by the keyboard controller, or by the reset control register at port 0xcf9 if
 * the command line starts with "pci".
 */
#include "common.inc"
ROUNDS 1

.text
FUNCTION _start
    call init
    mov rsi, [boot_params]
    mov eax, [rsi + 0x228]
    test eax, eax
    jz by_keyboard
    mov eax, [rax]
    and eax, 0xffffff
    cmp eax, 0x696370
    je by_pci
by_keyboard:
    mov al, 0xfe
    out 0x64, al
    EXIT 1
by_pci:
    mov edx, 0xcf9
    mov al, 2
    out dx, al
    mov al, 6
    out dx, al
    EXIT 2
END _start
