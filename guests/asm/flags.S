/* Instructions that store, load or mask the flags. Each stores what it saw in `records`; the values
 * must be the same run freely and single-stepped (rule R8), so the guest compares them itself.
 * On failure the status is the number of the first wrong record plus one.
 */
#include "common.inc"
#include "user.inc"
ROUNDS 2
#define RECORDS 40
#define BASE 2                    /* bit 1 of RFLAGS is always set */
#define ZF_PF 0x44
#define IF_ON FLAG_IF
RESERVE records, RECORDS*8
RESERVE handler_flags, 8

/* Appends `value` to the records; the flags stay. */
.macro RECORD value
    mov [r15], \value
    lea r15, [r15 + 8]
.endm

/* What the record must be: the value, under a mask. */
.macro EXPECT value, mask=0xffffffffffffffff
    .pushsection .data.expected, "aw"
    .quad \value, \mask
    .popsection
.endm
.pushsection .data.expected, "aw"
expected:
.popsection

/* Arithmetic flags to a known state: ZF and PF set, the rest clear. */
.macro KNOWN_FLAGS
    xor eax, eax
.endm

.text
FUNCTION _start
    call init
    call open_pages_to_user
    mov rdi, offset syscall_entry
    mov esi, 0x47700
    call set_up_syscall
    GATE 3, int3_handler, 3
    GATE 6, ud_handler
    GATE 0x80, int80_handler, 3
    GATE 0x81, finish, 3
main_loop:
    mov r15, offset records

/* Kernel mode: PUSHF, POPF, LAHF, SAHF, STI, CLI */
    KNOWN_FLAGS
pushf_1:
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | ZF_PF
    KNOWN_FLAGS
    stc
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | ZF_PF | FLAG_CF
    push BASE | 0x40cd5             /* AC, DF, OF, SF, ZF, AF, PF, CF */
popf_1:
    popfq
    pushfq
    pop rax
    cld
    RECORD rax
    EXPECT BASE | 0x40cd5
    push BASE
    popfq
    xor eax, eax
    stc
lahf_1:
    lahf
    RECORD rax
    EXPECT 0x4700
    mov ah, 0xd7
sahf_1:
    sahf
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | 0xd5
    KNOWN_FLAGS
    sti
pushf_after_sti:
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | ZF_PF | IF_ON
    cli
pushf_after_cli:
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | ZF_PF
    push BASE | IF_ON
popf_if:
    popfq
    pushfq
    pop rax
    cli
    RECORD rax
    EXPECT BASE | IF_ON

/* 16-bit forms */
    KNOWN_FLAGS
    mov rax, -1
    push rax
pushfw_1:
    pushfw
    pop ax
    add rsp, 8
    RECORD rax
    EXPECT 0xffffffffffff0000 | BASE | ZF_PF
    push BASE
    popfq
    push word ptr (BASE | FLAG_CF)
popfw_1:
    popfw
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | FLAG_CF

/* A load of SS holds debug traps off for one instruction */
    KNOWN_FLAGS
    mov ecx, ss
    mov ss, ecx
pushf_after_mov_ss:
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | ZF_PF

/* INT n: what the processor pushed, and what the handler runs with */
    KNOWN_FLAGS
int80_1:
    int 0x80
after_int80:
    RECORD rax
    EXPECT BASE | ZF_PF
    mov rax, [handler_flags]
    RECORD rax
    EXPECT BASE, 0xfffffffffffff72a
    RECORD rcx
    EXPECT after_int80
    KNOWN_FLAGS
    sti
    int 0x80
    cli
    RECORD rax
    EXPECT BASE | ZF_PF | IF_ON
    mov rax, [handler_flags]
    RECORD rax
    EXPECT BASE, 0xfffffffffffff72a

/* INT3 to the guest's own handler */
    KNOWN_FLAGS
int3_1:
    int3
after_int3:
    RECORD rax
    EXPECT BASE | ZF_PF
    RECORD rcx
    EXPECT after_int3

/* A fault; it may push RF */
    KNOWN_FLAGS
ud2_1:
    ud2
after_ud2:
    RECORD rax
    EXPECT BASE | ZF_PF, 0xfffffffffffeffff
    RECORD rcx
    EXPECT ud2_1

/* IRET in kernel mode */
    mov rax, rsp
    push KERNEL_DS
    push rax
    push BASE | FLAG_CF | IF_ON
    push KERNEL_CS
    push offset iret_target
iret_1:
    iretq
iret_target:
    pushfq
    pop rax
    cli
    RECORD rax
    EXPECT BASE | FLAG_CF | IF_ON

/* User mode: POPF must not change IF; SYSCALL saves flags in r11 and masks; SYSRET restores */
    TO_USER user_code, BASE | IF_ON
END _start

FUNCTION user_code
    KNOWN_FLAGS
user_pushf:
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | ZF_PF | IF_ON
    push BASE | FLAG_CF
user_popf:
    popfq
    pushfq
    pop rax
    RECORD rax
    EXPECT BASE | FLAG_CF | IF_ON
    KNOWN_FLAGS
user_syscall:
    syscall
after_syscall:
    mov rbx, r11
    pushfq
    pop rdx
    RECORD rax                      /* flags inside the entry */
    EXPECT BASE, 0xfffffffffffff72a
    RECORD rbx                      /* r11 */
    EXPECT BASE | ZF_PF | IF_ON
    RECORD rcx
    EXPECT after_syscall
    RECORD rdx                      /* flags after SYSRET */
    EXPECT BASE | ZF_PF | IF_ON
    KNOWN_FLAGS
user_int80:
    int 0x80
    RECORD rax
    EXPECT BASE | ZF_PF | IF_ON
    KNOWN_FLAGS
user_int3:
    int3
    RECORD rax
    EXPECT BASE | ZF_PF | IF_ON
user_end:
    int 0x81
END user_code

/* Entry of SYSCALL: returns its own flags in rax. */
FUNCTION syscall_entry
    mov rbx, rsp
    mov rsp, offset exception_stack_top
    pushfq
    pop rax
    mov rsp, rbx
sysret_1:
    sysretq
END syscall_entry

/* Returns the flags that the processor pushed in rax, the address in rcx, and leaves its own flags
 * in `handler_flags`. */
FUNCTION int80_handler
    pushfq
    pop [handler_flags]
    mov rcx, [rsp]
    mov rax, [rsp + 16]
iret_from_int80:
    iretq
END int80_handler

FUNCTION int3_handler
    mov rcx, [rsp]
    mov rax, [rsp + 16]
    iretq
END int3_handler

/* As the above; goes on after UD2. */
FUNCTION ud_handler
    mov rcx, [rsp]
    mov rax, [rsp + 16]
    add qword ptr [rsp], 2
    iretq
END ud_handler

/* Compares the records. */
FUNCTION finish
    xor edi, edi
    mov rsi, offset expected
    mov rdx, offset records
1:  inc edi
    mov rax, [rdx]
    xor rax, [rsi]
    and rax, [rsi + 8]
    jnz exit
    add rsi, 16
    add rdx, 8
    cmp rsi, offset expected_end
    jb 1b
    cmp rdx, r15
    REQUIRE e, 0x7f
    mov rsp, offset main_stack_top
    AGAIN main_loop
    EXIT 0
END finish
RESERVE main_stack, 4096
RESERVE main_stack_top, 16
.pushsection .data.expected, "aw"
expected_end:
.popsection
