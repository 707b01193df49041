/* User code that does nothing but system calls. */
#include "common.inc"
#include "user.inc"
ROUNDS 5000
VARIABLE syscalls
VARIABLE user_rsp

.text
FUNCTION _start
    call init
    call open_pages_to_user
    mov rdi, offset syscall_entry
    mov esi, 0x47700
    call set_up_syscall
    TO_USER user_loop
END _start

FUNCTION syscall_entry
    mov [user_rsp], rsp
    mov rsp, offset exception_stack_top
    inc qword ptr [syscalls]
    cmp rdi, [syscalls]
    REQUIRE e, 1
    AGAIN syscall_exit
    EXIT 0
syscall_exit:
    mov rsp, [user_rsp]
    sysretq
END syscall_entry

FUNCTION user_loop
    xor ebx, ebx
1:  inc rbx
    mov rdi, rbx
user_syscall:
    syscall
after_syscall:
    jmp 1b
END user_loop
