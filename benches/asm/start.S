/* A 64 KiB firmware that does nothing but what `trapline run` does by itself for a plain 64-bit ELF
 * image, so that QEMU's guest begins in the same state:
 *
 *   before  the processor's reset state (SDM vol. 3A, "First Instruction Executed"); the image is in
 *           memory; `start_entry` and `start_vcpu_count` were filled in by whoever wrote the file
 *   after   64-bit mode, interrupts off, the first 4 GiB identity mapped by 2 MiB pages,
 *           RSI = boot_params with the command line "endless", RDI = number of vCPUs,
 *           RSP = a small stack, RIP = the image's entry
 *
 * The firmware appears at 0xf0000 and below 4 GiB; it runs at 0xf0000. Page tables, stack and
 * boot_params are where the VMM has them.
 */
.intel_syntax noprefix

#define BASE 0xf0000
#define BOOT_PARAMS 0x7000
#define CMD_LINE_PTR 0x228
#define STACK_TOP 0x8ff0
#define PML4 0x9000
#define PDPT 0xa000
#define DIRECTORIES 0xb000
#define CODE32 0x08
#define CODE64 0x10
#define DATA 0x18
#define MSR_EFER 0xc0000080

.text
.code16
    .globl start
start:
    cli
    mov ax, cs
    mov ds, ax
    lgdt [start_gdt_pointer - BASE]
    mov eax, 0x11
    mov cr0, eax
    .byte 0x66, 0xea
    .long start_32
    .word CODE32

.code32
start_32:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    cld
    mov edi, BOOT_PARAMS
    mov ecx, (0xf000 - BOOT_PARAMS) / 4
    xor eax, eax
    rep stosd
    mov dword ptr [BOOT_PARAMS + CMD_LINE_PTR], offset start_command_line
    mov dword ptr [PML4], PDPT + 3
    mov edi, PDPT
    mov eax, DIRECTORIES + 3
1:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    cmp edi, PDPT + 4 * 8
    jb 1b
    mov edi, DIRECTORIES
    mov eax, 0x83
2:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    jnc 2b
    mov eax, 0x620
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, MSR_EFER
    xor edx, edx
    mov eax, 0x900
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    .byte 0xea
    .long start_64
    .word CODE64

.code64
start_64:
    mov esi, BOOT_PARAMS
    mov edi, [start_vcpu_count]
    mov esp, STACK_TOP
    mov eax, [start_entry]
    jmp rax

    .balign 8
start_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
start_gdt_pointer:
    .word 31
    .long start_gdt
start_command_line:
    .asciz "endless"

/* The last bytes of the file: the values that are filled in, then the reset vector. */
    .org 0xffe0
start_entry:
    .long 0
start_vcpu_count:
    .long 0
    .org 0xfff0
.code16
    .byte 0xe9
    .word start - reset_end
reset_end:
    .org 0x10000
