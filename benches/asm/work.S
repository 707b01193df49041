/* What a guest does while its speed is measured, where a shell would do too much beside it: a program for
 * arm64 Linux that needs no library.
 *   work p N   sends a byte there and back N times, between processes on processors 0 and 1
 *   work c 0   prints the virtual counter in nanoseconds
 *   work t N   computes for N rounds on processor 1, beside a process there that sleeps for 50 us at a time
 */
.set SYS_PIPE2, 59
.set SYS_READ, 63
.set SYS_WRITE, 64
.set SYS_EXIT_GROUP, 94
.set SYS_NANOSLEEP, 101
.set SYS_SCHED_SETAFFINITY, 122
.set SYS_KILL, 129
.set SYS_PRCTL, 167
.set SYS_CLONE, 220
.set SYS_WAIT4, 260
.set SIGKILL, 9
.set SIGCHLD, 17
.set PR_SET_TIMERSLACK, 29

/* Pipes, each two numbers: its end for reading and its end for writing. */
.set THERE, 0
.set BACK, 8

.macro CALL number
    mov x8, #\number
    svc #0
.endm

/* To the exit if the last call failed. */
.macro CHECK
    tbnz x0, #63, failed
.endm

.text
.globl _start
_start:
    ldr x0, [sp, #16]
    ldrb w20, [x0]
    ldr x0, [sp, #24]
    bl parse_number
    mov x21, x0
    adrp x19, data
    add x19, x19, :lo12:data
    cmp w20, #'c'
    b.eq clock
    mov x0, #2
    bl run_on
    cmp w20, #'p'
    b.eq ping_pong
    cmp w20, #'t'
    b.eq compute_beside_sleeper
failed:
    mov x0, #1
    CALL SYS_EXIT_GROUP

passed:
    mov x0, #0
    CALL SYS_EXIT_GROUP

clock:
    isb
    mrs x0, cntvct_el0
    mrs x1, cntfrq_el0
    udiv x2, x0, x1
    msub x3, x2, x1, x0
    ldr x4, =1000000000
    mul x3, x3, x4
    udiv x3, x3, x1
    madd x0, x2, x4, x3
    add x1, x19, #128
    mov w2, #'\n'
    strb w2, [x1]
    add x5, x1, #1
    mov x3, #10
1:  udiv x2, x0, x3
    msub x4, x2, x3, x0
    add w4, w4, #'0'
    strb w4, [x1, #-1]!
    mov x0, x2
    cbnz x0, 1b
    sub x2, x5, x1
    mov x0, #1
    CALL SYS_WRITE
    CHECK
    b passed

/* x0 = decimal text; returns the number in x0. */
parse_number:
    mov x1, #0
    mov x3, #10
1:  ldrb w2, [x0], #1
    subs w2, w2, #'0'
    b.lo 2f
    madd x1, x1, x3, x2
    b 1b
2:  mov x0, x1
    ret

/* x0 = mask of processors that the process may run on from now on. */
run_on:
    str x0, [x19, #16]
    mov x0, #0
    mov x1, #8
    add x2, x19, #16
    CALL SYS_SCHED_SETAFFINITY
    CHECK
    ret

/* Returns 0 in the new process, and its number in the old one. */
fork:
    mov x0, #SIGCHLD
    mov x1, #0
    mov x2, #0
    mov x3, #0
    mov x4, #0
    CALL SYS_CLONE
    CHECK
    ret

/* w0 = pipe's end; one byte. */
take:
    add x1, x19, #24
    mov x2, #1
    CALL SYS_READ
    cmp x0, #1
    b.ne failed
    ret

give:
    add x1, x19, #24
    mov x2, #1
    CALL SYS_WRITE
    cmp x0, #1
    b.ne failed
    ret

ping_pong:
    add x0, x19, #THERE
    mov x1, #0
    CALL SYS_PIPE2
    CHECK
    add x0, x19, #BACK
    mov x1, #0
    CALL SYS_PIPE2
    CHECK
    bl fork
    cbz x0, 2f
    mov x22, x0
1:  ldr w0, [x19, #THERE + 4]
    bl give
    ldr w0, [x19, #BACK]
    bl take
    subs x21, x21, #1
    b.ne 1b
    b await
2:  mov x0, #1
    bl run_on
3:  ldr w0, [x19, #THERE]
    bl take
    ldr w0, [x19, #BACK + 4]
    bl give
    subs x21, x21, #1
    b.ne 3b
    b passed

compute_beside_sleeper:
    bl fork
    cbz x0, 2f
    mov x22, x0
    mov x10, #0
    movz x13, #0x4c95, lsl #16
1:  and x11, x10, #0xfff8
    add x11, x11, x19
    ldr x12, [x11, #64]
    madd x12, x12, x13, x10
    str x12, [x11, #64]
    add x10, x10, #72
    subs x21, x21, #1
    b.ne 1b
    mov x0, x22
    mov x1, #SIGKILL
    CALL SYS_KILL
    b await
2:  mov x0, #PR_SET_TIMERSLACK
    mov x1, #1
    CALL SYS_PRCTL
    CHECK
3:  adrp x0, nap
    add x0, x0, :lo12:nap
    mov x1, #0
    CALL SYS_NANOSLEEP
    b 3b

/* x22 = process to wait for. */
await:
    mov x0, x22
    mov x1, #0
    mov x2, #0
    mov x3, #0
    CALL SYS_WAIT4
    CHECK
    b passed

.section .rodata
.balign 8
nap:
    .quad 0, 50000

/* Two pipes, a mask, a byte; from 64 on what is computed with. */
.bss
.balign 4096
data:
    .zero 0x11000
