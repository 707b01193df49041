/* Reset by PSCI. */
#include "common.inc"
ROUNDS 1

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
reset:
    ldr w0, =PSCI_SYSTEM_RESET
    bl psci
    EXIT 1
END main
