/* Instructions that a hypervisor emulates, each under its own label: a step over one of them is one
 * step (rule R5). Ports: the serial line's scratch register. MMIO: the local APIC, and an address
 * where no device is, which reads as ones.
 */
#include "common.inc"
ROUNDS 20
#define NOWHERE 0xd00f0000
VARIABLE bytes_in, 0, 16
VARIABLE last_tsc

.text
FUNCTION _start
    call init
main_loop:
    mov edx, COM1_SCRATCH
    mov al, 0xa5
out_byte:
    out dx, al
    xor eax, eax
in_byte:
    in al, dx
    cmp al, 0xa5
    REQUIRE e, 1
    mov rsi, offset pattern
outs_byte:
    outsb
    mov rdi, offset bytes_in
ins_byte:
    insb
    cmp byte ptr [bytes_in], 0x3c
    REQUIRE e, 2
    mov rsi, offset pattern
    mov ecx, 4
rep_outs:
    rep outsb
    mov rdi, offset bytes_in
    mov ecx, 4
rep_ins:
    rep insb
    cmp dword ptr [bytes_in], 0x66666666
    REQUIRE e, 3

    mov rbx, LAPIC
mmio_read_lapic:
    mov eax, [rbx + LAPIC_VERSION]
    and eax, 0xf0
    cmp eax, 0x10
    REQUIRE e, 4
mmio_write_lapic:
    mov dword ptr [rbx + LAPIC_SVR], 0x1ff

    mov ebx, NOWHERE
mmio_read_4:
    mov eax, [rbx]
    inc eax
    REQUIRE z, 5
mmio_read_8:
    mov rax, [rbx]
    inc rax
    REQUIRE z, 6
mmio_read_1:
    movzx eax, byte ptr [rbx + 3]
    cmp eax, 0xff
    REQUIRE e, 7
mmio_write_4:
    mov dword ptr [rbx], 1
mmio_read_modify_write:
    add dword ptr [rbx], 1
    mov rsi, rbx
    mov rdi, offset bytes_in
mmio_movs:
    movsq
    cmp qword ptr [bytes_in], -1
    REQUIRE e, 8

    xor eax, eax
    xor ecx, ecx
cpuid_insn:
    cpuid
    test eax, eax
    REQUIRE nz, 9
    mov ecx, 0x1b
rdmsr_insn:
    rdmsr
    and eax, 0xfffff000
    cmp eax, LAPIC
    REQUIRE e, 10
    mov ecx, 0xc0000102
    mov eax, 0x12345678
    mov edx, 0x1234
wrmsr_insn:
    wrmsr
    xor eax, eax
    rdmsr
    cmp eax, 0x12345678
    REQUIRE e, 11
rdtsc_insn:
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, [last_tsc]
    REQUIRE a, 12
    mov [last_tsc], rax
    mov rax, cr0
cr_write:
    mov cr0, rax
    AGAIN main_loop
    EXIT 0
END _start

.pushsection .data
pattern:
    .byte 0x3c, 0x11, 0x22, 0x66
.popsection
