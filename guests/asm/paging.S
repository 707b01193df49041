/* Reads `cell` through aliases in every paging mode that the processor has, each at its own label:
 *
 *   in_paging32    0x40000000+ by a 4 MiB page,  0x80000000+ by a 4 KiB page
 *   in_pae         0x40000000+ by a 2 MiB page,  0x80000000+ by a 4 KiB page
 *   in_4level      0x8000000000+ by a 1 GiB page (if there are such), 0x10000000000+ by a 2 MiB page,
 *                  0xffff800000000000+ by a 4 KiB page
 *   in_5level      the same below 0x1000000000000+ (if the processor has 5-level paging)
 *   in_lam         0xffff800000000000+ with other bits in 62:57 (if the processor has LAM)
 *
 * `has_1gib`, `has_5level` and `has_lam` say which were tried.
 */
#include "common.inc"
ROUNDS 3
#define MAGIC 0x1badb002cafef00d
#define MAGIC_LOW 0xcafef00d
VARIABLE has_1gib
VARIABLE has_5level
VARIABLE has_lam
VARIABLE saved_cr3
VARIABLE saved_rsp
VARIABLE read_back
RESERVE pd32, 4096, 4096
RESERVE pt32, 4096, 4096
RESERVE pdpt_pae, 32, 32
RESERVE pd_pae, 4*4096, 4096
RESERVE pt_pae, 4096, 4096
RESERVE pdpt_1gib, 4096, 4096
RESERVE pdpt_2mib, 4096, 4096
RESERVE pd_2mib, 4096, 4096
RESERVE pdpt_4kib, 4096, 4096
RESERVE pd_4kib, 4096, 4096
RESERVE pml5, 4096, 4096
.pushsection .data
    .balign 4096
    .globl cell
cell:
    .quad MAGIC
    .balign 4096
.popsection

.macro ENTRY table, index, value
    mov eax, offset \value
    mov [\table + (\index) * 8], rax
.endm

/* Requires that the 64 bits at `base` plus cell's offset are MAGIC. */
.macro READ_ALIAS base, offset, number
    mov rax, \base
    mov ecx, offset \offset
    add rax, rcx
    mov rax, [rax]
    mov [read_back], rax
    cmp rax, [cell]
    REQUIRE e, \number
.endm

.text
FUNCTION _start
    call init
    mov rax, cr3
    mov [saved_cr3], rax
    mov [saved_rsp], rsp
    call build_32
    call probe
    call build_long
main_loop:
    call build_pae
    call read_long
    mov rbx, offset use_32
    jmp leave_long
END _start

/* Fills the tables of 32-bit paging. */
FUNCTION build_32
    mov dword ptr [pd32], 0x83
    mov dword ptr [pd32 + 256 * 4], 0x83
    mov eax, offset pt32 + 3
    mov [pd32 + 512 * 4], eax
    mov eax, offset cell + 3
    mov [pt32], eax
    ret
END build_32

/* Fills the tables of PAE paging. It is done in each round: QEMU's emulator sets the accessed bit of
 * a PDPTE, which is reserved there, and then takes it for an error. */
FUNCTION build_pae
    ENTRY pdpt_pae, 0, (pd_pae + 1)
    ENTRY pdpt_pae, 1, (pd_pae + 4096 + 1)
    ENTRY pdpt_pae, 2, (pd_pae + 8192 + 1)
    mov qword ptr [pd_pae], 0x83
    mov qword ptr [pd_pae + 8], 0x200083
    mov qword ptr [pd_pae + 4096], 0x83
    ENTRY (pd_pae + 8192), 0, (pt_pae + 3)
    ENTRY pt_pae, 0, (cell + 3)
    ret
END build_pae

/* Asks the processor what it has. */
FUNCTION probe
    mov eax, 0x80000001
    cpuid
    bt edx, 26
    setc [has_1gib]
    xor eax, eax
    cpuid
    cmp eax, 7
    jb 1f
    mov eax, 7
    xor ecx, ecx
    cpuid
    bt ecx, 16
    setc [has_5level]
    test eax, eax
    jz 1f
    mov eax, 7
    mov ecx, 1
    cpuid
    bt eax, 26
    setc [has_lam]
1:  ret
END probe

/* Adds the aliases to the loader's 4-level tables, and puts a fifth level on top. */
FUNCTION build_long
    mov rdx, [saved_cr3]
    mov eax, offset pdpt_1gib + 3
    mov [rdx + 8], rax
    mov eax, offset pdpt_2mib + 3
    mov [rdx + 16], rax
    mov eax, offset pdpt_4kib + 3
    mov [rdx + 256 * 8], rax
    mov qword ptr [pdpt_1gib], 0x83
    ENTRY pdpt_2mib, 0, (pd_2mib + 3)
    mov qword ptr [pd_2mib], 0x83
    ENTRY pdpt_4kib, 0, (pd_4kib + 3)
    ENTRY pd_4kib, 0, (pt_pae + 3)
    lea rax, [rdx + 3]
    mov [pml5], rax
    mov [pml5 + 8], rax
    mov [pml5 + 511 * 8], rax
    ret
END build_long

/* Reads in 4-level paging, and with LAM on. */
FUNCTION read_long
in_4level:
    cmp qword ptr [has_1gib], 0
    je 1f
    READ_ALIAS 0x8000000000, cell, 1
1:  READ_ALIAS 0x10000000000, cell, 2
    READ_ALIAS 0xffff800000000000, 0, 3
    cmp qword ptr [has_lam], 0
    je 2f
    mov rax, cr4
    bts rax, 28
    mov cr4, rax
in_lam:
    READ_ALIAS 0xd5ff800000000000, 0, 4
    mov rax, cr4
    btr rax, 28
    mov cr4, rax
2:  ret
END read_long

/* Turns paging off and goes on at ebx in 32-bit protected mode. */
FUNCTION leave_long
    push CODE32
    push offset compat
    retfq
.code32
compat:
    mov eax, DATA32
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    jmp ebx
END leave_long

FUNCTION use_32
    mov ecx, MSR_EFER
    rdmsr
    and eax, ~0x100
    wrmsr
    mov eax, 0x10
    mov cr4, eax
    mov eax, offset pd32
    call paging_on
in_paging32:
    mov eax, [cell + 0x40000000]
    cmp eax, MAGIC_LOW
    REQUIRE e, 5
    mov eax, [0x80000000]
    cmp eax, MAGIC_LOW
    REQUIRE e, 6
    call paging_off

    mov eax, 0x20
    mov cr4, eax
    mov eax, offset pdpt_pae
    call paging_on
in_pae:
    mov eax, [cell + 0x40000000]
    cmp eax, MAGIC_LOW
    REQUIRE e, 7
    mov eax, [0x80000000]
    cmp eax, MAGIC_LOW
    REQUIRE e, 8
    call paging_off

    mov ecx, MSR_EFER
    rdmsr
    or eax, 0x100
    wrmsr
    cmp dword ptr [has_5level], 0
    je 1f
    mov eax, 0x1020
    mov cr4, eax
    mov eax, offset pml5
    call paging_on
    FAR_JUMP KERNEL_CS, five_levels
after_5level:
1:  mov eax, 0x20
    mov cr4, eax
    mov eax, [saved_cr3]
    call paging_on
    FAR_JUMP KERNEL_CS, back_in_64
END use_32

FUNCTION paging_on
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    ret
END paging_on

FUNCTION paging_off
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    ret
END paging_off
.code64

FUNCTION five_levels
in_5level:
    READ_ALIAS 0x1000000000000, cell, 9
    READ_ALIAS 0x1010000000000, cell, 10
    READ_ALIAS 0x1800000000000, 0, 11
    READ_ALIAS 0xffff800000000000, 0, 12
    mov rbx, offset after_5level
    jmp leave_long
END five_levels

FUNCTION back_in_64
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, [saved_rsp]
    AGAIN main_loop
    EXIT 0
END back_in_64
