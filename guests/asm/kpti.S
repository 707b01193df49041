/* Page-table isolation as Linux does it: two PML4s, the user's one page after the kernel's, so that
 * bit 12 of CR3 selects it. The kernel is linked at the top of the address space; the user's tables
 * hold nothing of it but one page of entry code and one of entry data (rule M1).
 *
 *   0xffffffff80200000  entry code      in both
 *   0xffffffff80201000  entry data      in both: stack, TSS, GDT
 *   0xffffffff80202000  kernel          in the kernel's tables alone
 *   0x100000            user code, and the start-up code that builds the tables
 */
#include "common.inc"
ROUNDS 2000
#define HIGH 0xffffffff80000000
#define CR3_USER (1 << 12)
RESERVE pml4_kernel, 8192, 8192
RESERVE pdpt_low, 4096, 4096
RESERVE pd_low, 4096, 4096
RESERVE pdpt_kernel, 4096, 4096
RESERVE pd_kernel, 4096, 4096
RESERVE pdpt_user, 4096, 4096
RESERVE pd_user, 4096, 4096
RESERVE pt_user, 4096, 4096
RESERVE user_stack, 4096
RESERVE user_stack_top, 16

.macro ENTRY_OF table, index, target, bits
    mov eax, offset \target + \bits
    mov [\table + (\index) * 8], rax
.endm

.text
FUNCTION _start
    call init
    ENTRY_OF pml4_kernel, 0, pdpt_low, 7
    ENTRY_OF pml4_kernel + 4096, 0, pdpt_low, 7
    ENTRY_OF pdpt_low, 0, pd_low, 7
    mov qword ptr [pd_low], 0x87
    ENTRY_OF pml4_kernel, 511, pdpt_kernel, 3
    ENTRY_OF pdpt_kernel, 510, pd_kernel, 3
    mov qword ptr [pd_kernel + 8], 0x200083
    ENTRY_OF pml4_kernel + 4096, 511, pdpt_user, 3
    ENTRY_OF pdpt_user, 510, pd_user, 3
    ENTRY_OF pd_user, 1, pt_user, 3
    mov qword ptr [pt_user], 0x200003
    mov qword ptr [pt_user + 8], 0x201003
    mov eax, offset pml4_kernel
    mov cr3, rax
    mov ecx, MSR_EFER
    rdmsr
    or eax, 1
    wrmsr
    mov rax, ((USER_CS32 | 3) << 48) | (KERNEL_CS << 32)
    WRITE_MSR MSR_STAR, rax
    mov rax, offset syscall_entry
    WRITE_MSR MSR_LSTAR, rax
    mov eax, 0x47700
    WRITE_MSR MSR_SFMASK, rax
    mov rax, offset kernel_start
    jmp rax
END _start

/* The user's part: counts, and calls the kernel with the count in rdi. */
FUNCTION user_loop
    xor ebx, ebx
1:  inc rbx
    mov rdi, rbx
user_syscall:
    syscall
user_after_syscall:
    cmp rax, rbx
    REQUIRE e, 1
    jmp 1b
END user_loop

.pushsection .high, "awx"
    .globl entry_code
entry_code:
FUNCTION syscall_entry
    mov [entry_scratch], rsp
    mov rsp, cr3
    and rsp, ~CR3_USER
    mov cr3, rsp
    mov rsp, offset kernel_stack_top
    movabs rax, offset kernel_syscall
    call rax
    mov rsp, cr3
    or rsp, CR3_USER
    mov cr3, rsp
syscall_leave:
    mov rsp, [entry_scratch]
    sysretq
END syscall_entry

/* Leaves the kernel for the first time: the tables change on the common page. */
FUNCTION first_leave
    mov rax, cr3
    or rax, CR3_USER
    mov cr3, rax
    iretq
END first_leave

    .balign 4096
    .globl entry_data
entry_data:
entry_scratch:
    .quad 0
high_tss:
    .long 0
    .quad entry_stack_top
    .zero 92
    .balign 16
high_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
high_gdt_tss:
    .quad 0
    .quad 0
high_gdt_pointer:
    .word 63
    .quad high_gdt
    .balign 16
    .zero 1024
entry_stack_top:
    .balign 4096
    .globl kernel_secret
kernel_secret:
    .ascii "kernel only"
    .balign 8
    .globl kernel_calls
kernel_calls:
    .quad 0

/* Runs with the kernel's tables on a high address; goes to user mode. */
FUNCTION kernel_start
    mov rax, offset high_tss
    mov ecx, eax
    and ecx, 0xffffff
    shl rcx, 16
    mov edx, eax
    shr edx, 24
    shl rdx, 56
    or rcx, rdx
    mov rdx, 0x0000890000000067
    or rcx, rdx
    mov [high_gdt_tss], rcx
    shr rax, 32
    mov [high_gdt_tss + 8], rax
    lgdt [high_gdt_pointer]
    mov eax, TSS_SEL
    ltr ax
    mov rsp, offset entry_stack_top
    push USER_DS | 3
    push offset user_stack_top
    push 0x202
    push USER_CS | 3
    push offset user_loop
    mov rax, offset first_leave
    jmp rax
END kernel_start

/* Counts a call and returns its number in rax. */
FUNCTION kernel_syscall
    cmp word ptr [kernel_secret], 0x656b
    REQUIRE e, 2
    inc qword ptr [kernel_calls]
    AGAIN 1f
    EXIT 0
1:  mov rax, [kernel_calls]
    ret
END kernel_syscall

    .balign 16
    .zero 4096
    .globl kernel_stack_top
kernel_stack_top:
    .quad 0
.popsection
