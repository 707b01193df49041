// Where a boot loader or firmware enters.
//
// _head       The header of an arm64 Linux Image, then the boot processor.
//             Before: EL2 (or below), MMU off, x0 = device tree. Source: Linux, "Booting AArch64 Linux".
// _secondary  A processor that PSCI CPU_ON has started.
//             Before: EL2, MMU off, x0 = its Startup.
//
// Both: 1. set up translation, 1:1; 2. take a stack; 3. go on in Rust, with MMU and caches on.

    .section .head, "ax"
    .global _head
_head:
    b       start
    .long   0
    .quad   0                           // anywhere, aligned to 2 MiB
    .global image_size
image_size:
    .quad   _end - _head                // the bundle changes it
    .quad   0xa                         // little-endian, 4 KiB pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

    .text
start:
    mov     x20, x0
    adrp    x21, _head
    adrp    x22, _end

    // Relocate: add the load address to every address in the image.
    adrp    x1, _rela_start
    add     x1, x1, :lo12:_rela_start
    adrp    x2, _rela_end
    add     x2, x2, :lo12:_rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16           // offset; type
    ldr     x5, [x1], #8                // addend
    cmp     w4, #0x403                  // R_AARCH64_RELATIVE
    b.ne    1b
    add     x5, x5, x21
    str     x5, [x3, x21]
    b       1b
2:
    // Early tables: 512 GiB around the image and the first 512 GiB, all device memory but the gibibytes
    // that hold the image and the device tree.
    adrp    x1, early_tables            // level 0, then two of level 1
    add     x2, x1, #4096
    add     x3, x1, #8192
    lsr     x4, x21, #39                // the image's entry of level 0
    orr     x5, x3, #3
    str     x5, [x1]
    orr     x5, x2, #3
    str     x5, [x1, x4, lsl #3]
    mov     x6, #0x401                  // block, AF, attribute 0: device
    movk    x6, #0x0040, lsl #48        // XN
    mov     x7, #0
3:  lsl     x8, x7, #30
    orr     x9, x8, x6
    str     x9, [x3, x7, lsl #3]
    orr     x9, x9, x4, lsl #39
    str     x9, [x2, x7, lsl #3]
    add     x7, x7, #1
    cmp     x7, #512
    b.ne    3b
    mov     x6, #0x705                  // block, AF, inner shareable, attribute 1: memory
    mov     x7, x21
    bl      map_as_memory
    mov     x7, x22
    bl      map_as_memory
    mov     x7, x20
    bl      map_as_memory

    // What was written with the cache off must not be hidden by what is in it.
    mov     x7, x21
4:  dc      ivac, x7
    add     x7, x7, #64
    cmp     x7, x22
    b.lo    4b
    dsb     sy

    adrp    x24, boot_stack_end
    mrs     x23, CurrentEL
    cmp     x23, #8
    b.ne    below
    bl      leave_e2h
    mov     x25, x0
    adrp    x0, early_tables
    bl      translate
    mov     sp, x24
    mov     x0, x20
    mov     x1, x21
    mov     x2, x22
    mov     x3, x25
    bl      boot_main
5:  wfi
    b       5b

// A boot at EL1: just enough to say so.
below:
    adrp    x0, early_tables
    msr     ttbr0_el1, x0
    ldr     x1, =0xff04
    msr     mair_el1, x1
    ldr     x1, =0x100803510            // 48 bits, 4 KiB, inner shareable, write-back; 40 bits out
    msr     tcr_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    mrs     x1, sctlr_el1
    mov     x2, #0x1005
    orr     x1, x1, x2
    bic     x1, x1, #2
    msr     sctlr_el1, x1
    isb
    mov     sp, x24
    mov     x0, x20
    bl      below_main
6:  wfi
    b       6b

// Maps the gibibyte around x7 as memory, if it is in the image's half tebibyte. Changes x8, x9.
map_as_memory:
    lsr     x8, x7, #39
    cmp     x8, x4
    b.ne    7f
    ubfx    x8, x7, #30, #9
    lsr     x9, x7, #30
    lsl     x9, x9, #30
    orr     x9, x9, x6
    str     x9, [x2, x8, lsl #3]
    cbnz    x4, 7f
    str     x9, [x3, x8, lsl #3]
7:  ret

// Turns the host extensions off. After: x0 = 0, or 1 if the processor has them always on.
leave_e2h:
    mrs     x1, hcr_el2
    bic     x1, x1, #(1 << 34)
    bic     x1, x1, #(1 << 27)
    msr     hcr_el2, x1
    isb
    mrs     x1, hcr_el2
    ubfx    x0, x1, #34, #1
    ret

// Turns translation on with the tables at x0. Before: MMU off, mapped 1:1 there. Changes x1, x2.
// Bits 23 and 31 of TCR are reserved as 1; with the host extensions 23 turns the upper half off.
translate:
    msr     ttbr0_el2, x0
    ldr     x1, =0xff04                 // attribute 0: device nGnRE; 1: write-back memory
    msr     mair_el2, x1
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #0xf
    cmp     x2, #5
    b.ls    8f
    mov     x2, #5                      // 48 bits
8:  ldr     x1, =0x80803510             // 48 bits in, 4 KiB, inner shareable, write-back
    orr     x1, x1, x2, lsl #16
    orr     x1, x1, x2, lsl #32
    msr     tcr_el2, x1
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el2, x1
    isb
    tlbi    alle2
    dsb     nsh
    isb
    ldr     x1, =0x30c51835             // reserved bits, EIS, EOS, SA, caches and MMU on, no alignment check
    msr     sctlr_el2, x1
    isb
    ret

    .global _secondary
_secondary:
    mov     x20, x0
    bl      leave_e2h
    ldr     x0, [x20]                   // Startup::tables
    bl      translate
    ldr     x1, [x20, #8]               // Startup::stack_end
    mov     sp, x1
    ldr     x0, [x20, #16]              // Startup::index
    bl      secondary_main
9:  wfi
    b       9b

    .ltorg

    .bss
    .balign 4096
early_tables:
    .space  3 * 4096
boot_stack:
    .space  64 * 1024
boot_stack_end:
