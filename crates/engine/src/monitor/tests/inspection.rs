//! Commands that look at the guest or change its registers and memory.

use alloc::format;

use trapline_arch::x86_64::registers as x86;

use super::world::{CODE_GPA, World, real_mode};
use super::{expect, expect_parts};
use crate::contract::PowerState;

#[test]
fn vcpus_are_listed_with_where_they_are() {
    let mut world = World::new();
    world.vm.power[1] = PowerState::WaitingForStart;
    expect(
        &mut world,
        "vcpus",
        "
           vcpu  state                  pc                  where             mode         ring  cr3     stopped for
        *  0     stopped                0xffffffff81000000  start_kernel+0x0  64-bit mode  0     0x1000  held before its first instruction
           1     waiting to be started  0xffffffff81000000  start_kernel+0x0  64-bit mode  0     0x1000
        ",
    );
}

#[test]
fn a_vcpu_is_chosen_for_the_commands_that_follow() {
    let mut world = World::new();
    world.vm.files[1].set_u64(x86::RAX, 7);
    expect(
        &mut world,
        "vcpu 1",
        "vCPU 1: stopped, 64-bit mode, ring 0, at start_kernel+0x0",
    );
    expect(&mut world, "regs rax", "rax 0000000000000007");
    expect_parts(&mut world, "vcpus", &["\n*  1 "]);
    expect(
        &mut world,
        "vcpu 2",
        "error: there is no vCPU 2: the vCPUs are 0 to 1",
    );
    expect_parts(&mut world, "vcpu x", &["error: 'x' is no number of a vCPU"]);
}

#[test]
fn general_registers_are_shown_in_columns() {
    let mut world = World::new();
    expect(
        &mut world,
        "regs",
        "
        vCPU 0: stopped, 64-bit mode, ring 0, at start_kernel+0x0
        rax 0000000000000000  rbx 0000000000000000  rcx 0000000000000000  rdx 0000000000000000
        rsi 0000000000000000  rdi 0000000000000000  rbp 0000000000000000  rsp ffffffff81010108
        r8  0000000000000000  r9  0000000000000000  r10 0000000000000000  r11 0000000000000000
        r12 0000000000000000  r13 0000000000000000  r14 0000000000000000  r15 0000000000000000
        rip ffffffff81000000  start_kernel+0x0
        rflags 0000000000000246  [PF ZF IF]
        cs 0010  ss 0000  ds 0000  es 0000  fs 0000  gs 0000
        ",
    );
}

#[test]
fn registers_are_shown_by_name_and_group() {
    let mut world = World::new();
    expect(
        &mut world,
        "regs cr0 $rsp eflags",
        "
        cr0 0000000080050033  [PE MP ET NE WP AM PG]
        rsp ffffffff81010108  init_task+0x8
        rflags 0000000000000246  [PF ZF IF]
        ",
    );
    expect_parts(
        &mut world,
        "regs system",
        &[
            "gdtr_base       ffffffff81013000  idtr_base       ffffffff81012000",
            "\ncr4  ",
        ],
    );
    expect_parts(&mut world, "regs vector", &["xmm0   0000", "ymm15h 0000"]);
    expect_parts(
        &mut world,
        "regs msr",
        &[
            "not to be had: star, lstar,",
            "(this hypervisor gives no access to that register)",
        ],
    );
    expect_parts(&mut world, "regs all", &["rax 0", "\nst7    0", "dr7  "]);
    expect(
        &mut world,
        "regs r16",
        "error: there is no register or group 'r16'; the groups are general, system, fpu, vector, \
         debug, msr, pauth, all",
    );
}

#[test]
fn registers_are_set() {
    let mut world = World::new();
    expect(&mut world, "set rax 0x1234", "rax 0000000000001234");
    expect(&mut world, "set rbx rax+4", "rbx 0000000000001238");
    assert_eq!(world.vm.files[0].u64(x86::RBX), 0x1238);
    expect(
        &mut world,
        "set pc schedule",
        "rip ffffffff81000200  schedule+0x0",
    );
    expect(
        &mut world,
        "set xmm1 0x0102",
        &format!("xmm1 {}0102", "0".repeat(28)),
    );
    world.monitor("set rcx 0xffffffffffffffff");
    expect(&mut world, "set ecx 5", "ecx 00000005");
    assert_eq!(world.vm.files[0].u64(x86::RCX), 0xffff_ffff_0000_0005);
}

#[test]
fn bad_values_of_registers_are_refused() {
    let mut world = World::new();
    expect(
        &mut world,
        "set cs 0x12345",
        "error: 0x12345 is too large for a register of 16 bits",
    );
    expect(
        &mut world,
        "set cr0 0xbad",
        "error: the hypervisor refused the value (error 22)",
    );
    expect(
        &mut world,
        "set xmm0 hello",
        "error: 'hello' is no value of 16 bytes in hexadecimal digits",
    );
    expect_parts(
        &mut world,
        "set r99 1",
        &["error: there is no register or group 'r99'"],
    );
    expect(
        &mut world,
        "set star 1",
        "error: this hypervisor gives no access to that register",
    );
}

#[test]
fn code_is_shown_with_symbols() {
    let mut world = World::new();
    world.monitor("break pc+1");
    expect(
        &mut world,
        "disassemble pc 5",
        "
        start_kernel:
        =>  ffffffff81000000  55                              push %rbp
          * ffffffff81000001  48 89 e5                        mov %rsp,%rbp
            ffffffff81000004  e8 f7 00 00 00                  call 0xffffffff81000100  <do_sys_open+0x0>
            ffffffff81000009  48 8b 05 f0 ff 00 00            mov 0xfff0(%rip),%rax  # 0xffffffff81010000  <linux_banner+0x0>
            ffffffff81000010  5d                              pop %rbp
        ",
    );
    expect_parts(
        &mut world,
        "x/2i schedule-1",
        &["do_sys_openat2+0xbf:", "\nschedule+0x1:"],
    );
    let answer = world.monitor("disassemble schedule 1000");
    assert_eq!(answer.lines().count(), 514);
    assert!(
        answer.ends_with("\n... 'disassemble 0xffffffff81000600 488' shows the rest\n"),
        "{answer}"
    );
    expect_parts(
        &mut world,
        "disassemble 0x1000",
        &["error: nothing is mapped at 0x1000"],
    );
}

#[test]
fn real_mode_code_is_shown_as_such() {
    let mut world = World::new();
    world.vm.files[0] = real_mode();
    // mov %cs:0x1234,%ax; jmp 0
    world
        .vm
        .ram
        .put(CODE_GPA, &[0x2e, 0xa1, 0x34, 0x12, 0xeb, 0xfa]);
    expect(
        &mut world,
        "disassemble pc 2",
        "
        16-bit code; the code segment begins at 0x10000
        =>  0000000000010000  2e a1 34 12                     mov %cs:0x1234,%ax
            0000000000010004  eb fa                           jmp 0
        ",
    );
    expect_parts(
        &mut world,
        "regs",
        &[
            "vCPU 0: stopped, real mode, ring 0, at 0x10000",
            "the linear address of cs:rip is 0x10000",
        ],
    );
    expect(
        &mut world,
        "translate 0x1234",
        "0x1234 is at physical 0x1234: no paging",
    );
    expect_parts(
        &mut world,
        "pt 0",
        &["no paging: virtual addresses are physical ones"],
    );
    expect_parts(&mut world, "idt 0x10", &["0x10    0x0", "real mode"]);
}

#[test]
fn symbols_are_looked_up() {
    let mut world = World::new();
    expect(
        &mut world,
        "symbols",
        "
        system       Linux 6.1.0-trapline
        text         0xffffffff81000000
        moved by     0x1000000
        build ID     00ff
        symbols      6
        symbol file  1234 bytes, served to debuggers
        ",
    );
    expect(
        &mut world,
        "symbol schedule",
        "schedule is at 0xffffffff81000200",
    );
    expect(
        &mut world,
        "symbol schedule+8",
        "0xffffffff81000208 is schedule+0x8",
    );
    expect(
        &mut world,
        "symbol rip",
        "0xffffffff81000000 is start_kernel+0x0",
    );
    expect(
        &mut world,
        "symbol do_s",
        "
        there is no do_s, but
          do_sys_open
          do_sys_openat2
        ",
    );
    expect(
        &mut world,
        "symbol 0x1000",
        "error: 0x1000 is in no symbol of the kernel",
    );
    expect_parts(
        &mut world,
        "symbol quux",
        &["error: 'quux' is no number, register or symbol"],
    );
    let mut unknown = World::with(super::CAPABILITIES, false);
    expect(
        &mut unknown,
        "symbols",
        "kernel  not found in 256 KiB of memory",
    );
    expect(
        &mut unknown,
        "symbol 0x1000",
        "error: the guest's symbols are not known; see 'symbols'",
    );
}

#[test]
fn layouts_are_chosen_for_new_connections() {
    let mut world = World::new();
    expect(&mut world, "layout", "registers are shown as x86-64");
    let gdb = world.connect(crate::session::Access::Full);
    world.packet(gdb, "qXfer:features:read:target.xml:0,fff");
    world.take_output(gdb);
    let answer = world.monitor_of(gdb, "layout i386");
    assert_eq!(
        answer,
        "this connection has the registers of x86-64, new ones those of i386; connect again to have \
         them\n"
    );
    let again = world.connect(crate::session::Access::Full);
    world.packet(again, "qXfer:features:read:target.xml:0,fff");
    assert!(
        world
            .take_output(again)
            .contains("<architecture>i386</architecture>")
    );
    expect(
        &mut world,
        "layout arm",
        "error: 'arm' is no layout; they are auto, x86-64 and i386",
    );
}

#[test]
fn the_automatic_layout_fits_the_mode() {
    let mut world = World::new();
    expect(&mut world, "layout auto", "registers are shown as auto");
    for (is_real, name) in [(false, "i386:x86-64"), (true, "i386")] {
        if is_real {
            world.vm.files[0] = real_mode();
            world.monitor("continue");
            world.monitor("interrupt");
        }
        let id = world.connect(crate::session::Access::Full);
        world.packet(id, "qXfer:features:read:target.xml:0,fff");
        let wanted = format!("<architecture>{name}</architecture>");
        assert!(world.take_output(id).contains(&wanted), "{name}");
    }
}
