/* Instructions that store, load or mask the flags. Each stores what it saw in `records`; the values
 * must be the same run freely and single-stepped (rule R8), so the guest compares them itself.
 * On failure the status is the number of the first wrong record plus one.
 */
#include "common.inc"
#include "user.inc"
ROUNDS 2
#define RECORDS 64
#define BASE 2                    /* bit 1 of RFLAGS is always set */
#define ZF_PF 0x44
#define IF_ON FLAG_IF
#define FLAG_AC (1 << 18)
RESERVE records, RECORDS*8
RESERVE handler_flags, 8
VARIABLE fault_flags
VARIABLE fault_rip
VARIABLE fault_bytes

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

/* Prepares for a fault at `label`, an instruction of `bytes` bytes: what it is to push, should the
 * processor not raise it. Changes rax. */
.macro FAULT label, bytes
    mov qword ptr [fault_bytes], \bytes
    mov qword ptr [fault_flags], BASE | ZF_PF
    mov rax, offset \label
    mov [fault_rip], rax
.endm

/* Records what the fault at `label` has pushed. Changes rax. */
.macro FAULT_RECORDS label
    mov rax, [fault_flags]
    RECORD rax
    EXPECT BASE | ZF_PF, 0xfffffffffffeffff
    mov rax, [fault_rip]
    RECORD rax
    EXPECT \label
.endm

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
    GATE 0, fault_handler
    GATE 6, ud_handler
    GATE 7, fault_handler
    GATE 12, fault_with_code_handler
    GATE 13, fault_with_code_handler
    GATE 16, fault_handler
    GATE 17, fault_with_code_handler
    GATE 19, fault_handler
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

/* Rarer faults: what is pushed does not show a step. An emulator that does not raise one records what
 * is right beforehand. */
    FAULT 1f, 2
    xor edx, edx
    KNOWN_FLAGS
1:  div edx                         /* #DE */
    FAULT_RECORDS 1b
    mov rdx, 0x8000000000000000 >> 4
    FAULT 1f, 2
    KNOWN_FLAGS
1:  mov eax, [rdx]                  /* #GP: not canonical */
    FAULT_RECORDS 1b
    mov rbp, rdx
    FAULT 1f, 3
    KNOWN_FLAGS
1:  mov eax, [rbp + 0]              /* #SS: the same on the stack */
    FAULT_RECORDS 1b
    mov rdx, cr0
    mov rax, rdx
    or eax, 0x2a                    /* NE, TS, MP */
    mov cr0, rax
    FAULT 1f, 1
    KNOWN_FLAGS
1:  fwait                           /* #NM */
    FAULT_RECORDS 1b
    FAULT 1f, 2
    KNOWN_FLAGS
1:  fld1                            /* #NM */
    FAULT_RECORDS 1b
    mov rax, rdx
    and al, ~0x0c                   /* TS, EM */
    or eax, 0x22
    mov cr0, rax
    fninit
    push 0x37b                      /* all masked but #Z */
    fldcw [rsp]
    fldz
    fld1
    fdiv st, st(1)                  /* 1 / 0 waits to be told */
    FAULT 1f, 1
    KNOWN_FLAGS
1:  fwait                           /* #MF */
    FAULT_RECORDS 1b
    fnclex
    fninit
    pop rax
    mov rcx, cr4
    mov rax, rcx
    or eax, 0x600                   /* OSFXSR, OSXMMEXCPT */
    mov cr4, rax
    push 0x1d80                     /* all masked but #Z */
    ldmxcsr [rsp]
    mov eax, 0x3f800000
    movd xmm0, eax
    xorps xmm1, xmm1
    FAULT 1f, 4
    KNOWN_FLAGS
1:  divss xmm0, xmm1                /* #XM */
    FAULT_RECORDS 1b
    mov dword ptr [rsp], 0x1f80
    ldmxcsr [rsp]
    pop rax
    mov rax, cr4
    and eax, ~0x600
    mov cr4, rax
    mov cr0, rdx

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

    mov rax, cr0
    or eax, 1 << 18                 /* AM */
    mov cr0, rax

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
    FAULT user_misaligned, 4
    push BASE | ZF_PF | IF_ON | FLAG_AC
    popfq
    mov qword ptr [fault_flags], BASE | ZF_PF | IF_ON | FLAG_AC
user_misaligned:
    mov eax, [rsp - 7]              /* #AC */
    push BASE | ZF_PF | IF_ON
    popfq
    mov rax, [fault_flags]
    RECORD rax
    EXPECT BASE | ZF_PF | IF_ON | FLAG_AC, 0xfffffffffffeffff
    mov rax, [fault_rip]
    RECORD rax
    EXPECT user_misaligned
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

/* Notes what the processor pushed, and goes on behind the instruction. */
FUNCTION fault_with_code_handler
    add rsp, 8
    jmp fault_handler
END fault_with_code_handler

FUNCTION fault_handler
    push rax
    mov rax, [rsp + 8]
    mov [fault_rip], rax
    mov rax, [rsp + 24]
    mov [fault_flags], rax
    mov rax, [fault_bytes]
    add [rsp + 8], rax
    pop rax
    iretq
END fault_handler

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
