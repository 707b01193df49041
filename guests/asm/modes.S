/* Goes down from 64-bit mode to real mode and back up, with a counter in each mode:
 *
 *   in_64 -> in_compat -> in_protected -> in_protected16 -> in_real -> in_protected_again -> in_64
 *
 * In the 16-bit modes the segments have base 0x10000, so the pc is not the linear address.
 */
#include "common.inc"
ROUNDS 10
#define LOW_BASE 0x10000
#define REAL_SEGMENT (LOW_BASE >> 4)
#define REAL_VECTOR 0x60
VARIABLE seen_64
VARIABLE seen_compat
VARIABLE seen_protected
VARIABLE seen_protected16
VARIABLE seen_real
VARIABLE seen_real_interrupt
VARIABLE saved_cr3
VARIABLE saved_rsp

.text
FUNCTION _start
    call init
    mov rax, cr3
    mov [saved_cr3], rax
    mov [saved_rsp], rsp
main_loop:
in_64:
    inc qword ptr [seen_64]
    push CODE32
    push offset compat
    retfq
END _start

.code32
FUNCTION compat
    mov eax, DATA32
    mov ds, eax
    mov es, eax
    mov ss, eax
in_compat:
    inc dword ptr [seen_compat]
    mov eax, cr0
    and eax, 0x7fffffff
paging_off:
    mov cr0, eax
    mov ecx, MSR_EFER
    rdmsr
    and eax, ~0x100
    wrmsr
in_protected:
    inc dword ptr [seen_protected]
    FAR_JUMP CODE16, (protected16 - LOW_BASE)
END compat

FUNCTION protected_again
    mov eax, DATA32
    mov ds, eax
    mov es, eax
    mov ss, eax
in_protected_again:
    inc dword ptr [seen_protected]
    movzx eax, word ptr [real_count]
    mov [seen_real], eax
    movzx eax, word ptr [real_interrupts]
    mov [seen_real_interrupt], eax
    movzx eax, word ptr [protected16_count]
    mov [seen_protected16], eax
    lidt [idt_pointer]
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, [saved_cr3]
    mov cr3, eax
    mov ecx, MSR_EFER
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
paging_on:
    mov cr0, eax
    FAR_JUMP KERNEL_CS, back_in_64
END protected_again
.code64

FUNCTION back_in_64
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, [saved_rsp]
    AGAIN main_loop
    mov rax, [seen_64]
    cmp [seen_compat], rax
    REQUIRE e, 1
    cmp [seen_protected16], rax
    REQUIRE e, 2
    cmp [seen_real], rax
    REQUIRE e, 3
    cmp [seen_real_interrupt], rax
    REQUIRE e, 4
    add rax, rax
    cmp [seen_protected], rax
    REQUIRE e, 5
    EXIT 0
END back_in_64

.pushsection .low, "awx"
.code16
FUNCTION protected16
    mov ax, DATA16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0xfff0
in_protected16:
    inc word ptr [protected16_count - LOW_BASE]
    lidt [real_idt_pointer - LOW_BASE]
    mov eax, cr0
    and eax, ~1
protection_off:
    mov cr0, eax
    .byte 0xea
    .word real - LOW_BASE, REAL_SEGMENT
END protected16

FUNCTION real
    mov ax, cs
    mov ds, ax
    mov ss, ax
    mov sp, 0xfff0
    xor ax, ax
    mov es, ax
    mov word ptr es:[REAL_VECTOR * 4], offset real_interrupt - LOW_BASE
    mov word ptr es:[REAL_VECTOR * 4 + 2], REAL_SEGMENT
in_real:
    inc word ptr [real_count - LOW_BASE]
real_int:
    int REAL_VECTOR
after_real_int:
    pushf
    popf
    mov eax, cr0
    or eax, 1
protection_on:
    mov cr0, eax
    FAR_JUMP CODE32, protected_again, FROM_16_BITS
END real

FUNCTION real_interrupt
    inc word ptr [real_interrupts - LOW_BASE]
    iret
END real_interrupt

    .balign 8
real_idt_pointer:
    .word 0x3ff
    .long 0
real_count:
    .word 0
real_interrupts:
    .word 0
protected16_count:
    .word 0
.code64
.popsection
