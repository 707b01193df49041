/* What stands before the kernel in Mach-O format: it maps the kernel's image, which follows behind it at a
 * multiple of 16 KiB, at the addresses that were chosen for it, and enters it with two processors.
 *   kernel_address   where the image's header is to be, and
 *   kernel_entry     where the kernel begins; both are filled in when the two are joined
 */
#include "common.inc"
ROUNDS 0
VARIABLE kernel_address
VARIABLE kernel_entry

FUNCTION main
    ADDRESS x9, stack_top
    mov sp, x9
    bl init
    bl map_kernel
    bl enable_upper_half
    ldr w0, =PSCI_CPU_ON
    mov x1, #1
    ADDRESS x2, second_start
    bl psci
    mov x0, #0
    b enter
END main

FUNCTION second_start
    ADDRESS x9, second_stack_top
    mov sp, x9
    bl set_vectors
    bl enable_mmu
    bl enable_upper_half
    mov x0, #1
    b enter
END second_start

/* x0 = number of the processor. */
FUNCTION enter
    LOAD x9, kernel_entry
    br x9
END enter

/* Maps the 2 MiB around the kernel's address, by pages of 4 KiB. */
FUNCTION map_kernel
    LOAD x0, kernel_address
    ADDRESS x1, image_end
    mov x2, #0x3fff
    add x1, x1, x2
    bic x1, x1, x2
    and x2, x0, #0x1fffff
    sub x1, x1, x2
    ADDRESS x3, upper_tables
    add x4, x3, #0x1000
    add x5, x4, #0x1000
    ubfx x6, x0, #30, #9
    orr x7, x4, #3
    str x7, [x3, x6, lsl #3]
    ubfx x6, x0, #21, #9
    orr x7, x5, #3
    str x7, [x4, x6, lsl #3]
    mov x6, #0
    mov w8, #0x703
1:  orr x7, x1, x8
    str x7, [x5, x6, lsl #3]
    add x1, x1, #0x1000
    add x6, x6, #1
    cmp x6, #512
    b.lo 1b
    dsb ish
    ret
END map_kernel

/* As the lower half: 39 bits, 4 KiB. Where the processor signs pointers it is let to. */
FUNCTION enable_upper_half
    ADDRESS x9, upper_tables
    msr ttbr1_el1, x9
    ldr x9, =0x2b5193519
    msr tcr_el1, x9
    isb
    tlbi vmalle1
    dsb nsh
    isb
    mrs x9, id_aa64isar1_el1
    ubfx x9, x9, #4, #8
    mrs x10, S3_0_C0_C6_2
    ubfx x10, x10, #12, #4
    orr x9, x9, x10
    cbz x9, 1f
    ldr x9, =0x0123456789abcdef
    msr S3_0_C2_C1_0, x9
    msr S3_0_C2_C1_1, x9
    mrs x9, sctlr_el1
    orr x9, x9, #1 << 31
    msr sctlr_el1, x9
    isb
1:  ret
END enable_upper_half

.pushsection .bss
.balign 4096
upper_tables:
    .zero 3 * 4096
.popsection
