//! Breakpoints and watchpoints by command.

use trapline_arch::x86_64::registers as x86;
use trapline_arch::{Gpa, Gva};

use super::running::{OPENAT2, hit};
use super::world::{CODE_GPA, DATA, World};
use super::{expect, expect_parts};
use crate::contract::{StopReason, Time, WatchKind};
use crate::session::Access;

#[test]
fn breakpoints_are_set_listed_and_deleted() {
    let mut world = World::new();
    expect(
        &mut world,
        "breakpoints",
        "there are none; 'break ADDR' and 'watch ADDR' set them",
    );
    expect(
        &mut world,
        "break do_sys_openat2",
        "1: breakpoint at 0xffffffff81000140 do_sys_openat2+0x0, in memory at physical 0x10140",
    );
    expect(
        &mut world,
        "break schedule hw",
        "2: hardware breakpoint at 0xffffffff81000200 schedule+0x0, in a hardware slot",
    );
    expect(
        &mut world,
        "watch init_task 4 r",
        "3: read watchpoint, 4 bytes at 0xffffffff81010100 init_task+0x0, in a hardware slot",
    );
    expect(
        &mut world,
        "breakpoints",
        "
           kind                      address             symbol              stands in                   stops  set by
        1  breakpoint                0xffffffff81000140  do_sys_openat2+0x0  memory at physical 0x10140  0      session 1 (client), this one
        2  hardware breakpoint       0xffffffff81000200  schedule+0x0        a hardware slot             0      session 1 (client), this one
        3  read watchpoint, 4 bytes  0xffffffff81010100  init_task+0x0       a hardware slot             0      session 1 (client), this one
        ",
    );
    expect(&mut world, "delete 2", "2 removed");
    expect(
        &mut world,
        "delete 2",
        "error: there is no breakpoint 2; 'breakpoints' lists them",
    );
    expect(&mut world, "delete all", "2 points removed");
    expect_parts(
        &mut world,
        "delete",
        &["error: the number is missing; usage: delete"],
    );
}

#[test]
fn points_that_cannot_be_set_say_why() {
    let mut world = World::new();
    expect(
        &mut world,
        "watch init_task 100",
        "error: cannot watch 100 bytes: they do not fit into the hardware slots",
    );
    expect(
        &mut world,
        "break pc soft",
        "error: 'soft' is no kind of breakpoint; 'hw' is the only one",
    );
    expect(
        &mut world,
        "watch pc x",
        "error: 'x' is no length and none of r, w, a",
    );
    world.monitor("watch init_task 32");
    expect(
        &mut world,
        "watch init_task+64 8 a",
        "error: all 4 hardware slots are in use; delete a hardware breakpoint or watchpoint first",
    );
    expect_parts(
        &mut world,
        "break 0x1000",
        &["error: 0x1000 is not mapped now, and no hardware slot is free"],
    );
    expect(
        &mut world,
        "break 0x8000000000000000",
        "error: 0x8000000000000000 is not canonical: no instruction and no data can be there",
    );
}

#[test]
fn a_breakpoint_stops_the_guest_for_all_and_is_counted() {
    let mut world = World::new();
    world.monitor("break do_sys_openat2");
    world.monitor("events on");
    world.monitor("continue");
    world.text(world.id);
    hit(&mut world, 1, OPENAT2);
    assert_eq!(
        world.text(world.id),
        "% vCPU 1 stopped at breakpoint 1, do_sys_openat2+0x0\n"
    );
    expect_parts(
        &mut world,
        "vcpus",
        &["*  1     stopped  0xffffffff81000140", "breakpoint 1"],
    );
    expect_parts(
        &mut world,
        "breakpoints",
        &["physical 0x10140  1      session 1 (shell), this one"],
    );
}

#[test]
fn a_hit_that_waits_is_shown_as_pending() {
    let mut world = World::new();
    world.monitor("break do_sys_openat2");
    world.monitor("continue");
    for vcpu in 0..2 {
        world.vm.files[vcpu].set_u64(x86::RIP, OPENAT2);
    }
    // Both hit before the engine can stop either.
    let reason = StopReason::SoftwareBreakpoint {
        address: Gva(OPENAT2),
        gpa: Some(Gpa(CODE_GPA + 0x140)),
    };
    for vcpu in [1, 0] {
        world.vm.running[vcpu as usize] = None;
        let id = crate::contract::VcpuId(vcpu);
        world
            .engine
            .handle_stopped(id, reason, &mut world.vm, Time::default());
    }
    world.pump();
    expect_parts(
        &mut world,
        "vcpus",
        &[
            "0x1000  breakpoint 1 (pending)\n*  1 ",
            "0x1000  breakpoint 1\n",
        ],
    );
}

#[test]
fn watchpoints_name_what_was_accessed() {
    let mut world = World::new();
    world.monitor("watch init_task 8 w");
    world.monitor("events on");
    world.monitor("continue");
    world.text(world.id);
    let reason = StopReason::Watchpoint {
        kind: WatchKind::Write,
        watched: Gva(DATA + 0x100),
        address: Gva(DATA + 0x104),
    };
    world.stop(0, reason);
    assert_eq!(
        world.text(world.id),
        "% vCPU 0 stopped at watchpoint 1: 0xffffffff81010104 was written, start_kernel+0x0\n"
    );
}

#[test]
fn another_sessions_breakpoint_is_not_deleted() {
    let mut world = World::new();
    let gdb = world.connect(Access::Full);
    world.packet(gdb, "qSupported:swbreak+;qRelocInsn+");
    world.packet(gdb, "Z0,ffffffff81000140,1");
    world.take_output(gdb);
    expect_parts(
        &mut world,
        "breakpoints",
        &["1  breakpoint", "session 2 (GDB)\n"],
    );
    expect(
        &mut world,
        "delete 1",
        "error: breakpoint 1 is not this session's but was set by session 2 (GDB), which has to \
         remove it",
    );
    // The user's own at the same place outlives the debugger's.
    world.monitor_of(gdb, "break do_sys_openat2");
    world.packet(gdb, "z0,ffffffff81000140,1");
    expect_parts(
        &mut world,
        "breakpoints",
        &["1  breakpoint", "session 2 (GDB)\n"],
    );
    world
        .engine
        .close_session(gdb, &mut world.vm, Time::default());
    expect_parts(&mut world, "breakpoints", &["there are none"]);
}

#[test]
fn gdb_is_not_told_that_another_clients_breakpoint_is_its_own() {
    let mut world = World::new();
    let gdb = world.connect(Access::Full);
    world.packet(gdb, "qSupported:swbreak+;hwbreak+");
    world.monitor("break do_sys_openat2");
    for own in [false, true] {
        if own {
            world.packet(gdb, "Z0,ffffffff81000140,1");
        }
        world.packet(gdb, "vCont;c");
        world.take_output(gdb);
        hit(&mut world, 0, OPENAT2);
        let reply = world.take_output(gdb);
        assert!(reply.starts_with("$T05thread:1;"), "{reply}");
        assert_eq!(reply.contains("swbreak:;"), own, "{reply}");
    }
}
