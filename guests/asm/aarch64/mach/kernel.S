/* A kernel in Mach-O format, as small as can be, with the segment __KLD by which LLDB knows kernels. Sections are
 * named as there, SEGMENT,SECTION. It is entered with x0 = number of the processor, and the console mapped where it
 * is in physical memory.
 *   _clock_tick    called for ever by the first processor; calls
 *   _count_tick    which counts `_ticks`
 *   _idle_thread   where the second one is
 * Return addresses are signed, where the processor can.
 */
.arch armv8.3-a
.set CONSOLE, 0x09000000

.section "__TEXT,__text", "ax", %progbits
.balign 4
.globl _start
_start:
    adrp x9, _vectors
    add x9, x9, :lo12:_vectors
    msr vbar_el1, x9
    isb
    adrp x9, _stacks
    add x9, x9, :lo12:_stacks
    add x10, x0, #1
    add x9, x9, x10, lsl #12
    mov sp, x9
    mov x29, #0
    mov x30, #0
    cbnz x0, 1f
    bl _kernel_bootstrap
1:  bl _idle_thread

.globl _kernel_bootstrap
_kernel_bootstrap:
    paciasp
    stp x29, x30, [sp, #-16]!
    mov x29, sp
    adrp x9, _second_is_up
    add x9, x9, :lo12:_second_is_up
1:  ldar x10, [x9]
    cbz x10, 1b
    adrp x9, _greeting
    add x9, x9, :lo12:_greeting
    mov x10, #CONSOLE
2:  ldrb w11, [x9], #1
    cbz w11, 3f
    strb w11, [x10]
    b 2b
3:  bl _clock_tick
    b 3b

.globl _clock_tick
_clock_tick:
    paciasp
    stp x29, x30, [sp, #-16]!
    mov x29, sp
    adrp x0, _ticks
    add x0, x0, :lo12:_ticks
    bl _count_tick
    ldp x29, x30, [sp], #16
    autiasp
    ret

.globl _count_tick
_count_tick:
    ldr x9, [x0]
    add x9, x9, #1
    str x9, [x0]
    ret

.globl _idle_thread
_idle_thread:
    mov x9, #1
    adrp x10, _second_is_up
    add x10, x10, :lo12:_second_is_up
    stlr x9, [x10]
1:  yield
    b 1b

.balign 2048
.globl _vectors
_vectors:
    .rept 16
    b .
    .balign 128
    .endr

.section "__KLD,__text", "ax", %progbits
.balign 4
.globl _kld_start
_kld_start:
    ret

.section "__DATA,__data", "aw", %progbits
.balign 8
.globl _ticks
_ticks:
    .quad 0
.globl _second_is_up
_second_is_up:
    .quad 0
.globl _greeting
_greeting:
    .asciz "the Mach-O kernel runs\r\n"
.balign 16
.globl _stacks
_stacks:
    .zero 2 * 4096
