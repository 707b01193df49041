/* Powers the machine off through the ACPI PM1 control register: sleep type 0 (S5), sleep enable. */
#include "common.inc"
ROUNDS 1

.text
FUNCTION _start
    call init
    mov edx, PM1_CONTROL
    mov eax, 0x2000
power_off:
    out dx, ax
    EXIT 1
END _start
