//! What a guest of AArch64 is answered: its registers, and by name what is not done for it.

use trapline_arch::Architecture;
use trapline_arch::aarch64::registers::{self, CPSR, PC, SCTLR_EL1, TCR_EL1, TTBR0_EL1};

use super::world::World;
use super::{expect, expect_parts};

/// vCPU registers of a kernel at EL1 that signs pointers.
fn world() -> World {
    let mut file = registers::file();
    file.set_u64(PC, 0xffff_8000_0008_0000);
    file.set_u64(CPSR, 0x6000_03c5);
    file.set_u64(TCR_EL1, 16 << 16 | 16);
    file.set_u64(SCTLR_EL1, 1 << 31 | 1);
    file.set_u64(TTBR0_EL1, 0x4100_0000);
    World::of(Architecture::Aarch64, file)
}

#[test]
fn vcpus_are_listed_with_their_exception_level() {
    let parts = ["0xffff800000080000", "EL1h", "0x41000000"];
    expect_parts(&mut world(), "vcpus", &parts);
    let line = "vCPU 1: stopped, EL1h, at 0xffff800000080000";
    expect(&mut world(), "vcpu 1", line);
    expect_parts(&mut world(), "info", &["AArch64"]);
}

#[test]
fn registers_are_shown_and_set_by_name() {
    let mut world = world();
    expect_parts(&mut world, "regs", &["x30", "pc  ", "cpsr"]);
    expect_parts(&mut world, "regs daif", &["3c0"]);
    expect_parts(&mut world, "regs pauth_cmask_high", &["ff7f000000000000"]);
    expect_parts(&mut world, "regs ttbr0", &["0000000041000000"]);
    world.monitor("set x5 0x1234");
    expect(&mut world, "regs x5", "x5 0000000000001234");
}

#[test]
fn a_signed_pointer_can_become_the_pc() {
    let mut world = world();
    world.monitor("set pc 0x00b0800000081234");
    assert_eq!(world.vm.files[0].u64(PC), 0xffff_8000_0008_1234);
    world.packet(world.id, "p20");
    let pc = world.take_output(world.id);
    assert!(pc.contains("341208000080ffff"), "{pc}");
}

#[test]
fn what_only_x86_has_is_refused_by_name() {
    let refusal = "this is not done for AArch64 guests";
    for line in ["idt", "gdt", "disassemble 0", "layout i386"] {
        expect_parts(&mut world(), line, &[refusal]);
    }
}

#[test]
fn clients_are_given_the_registers_of_aarch64() {
    let mut world = world();
    world.packet(world.id, "qXfer:features:read:target.xml:0,400");
    let xml = world.take_output(world.id);
    assert!(
        xml.contains("<architecture>aarch64</architecture>"),
        "{xml}"
    );
    world.packet(world.id, "qHostInfo");
    let host = world.take_output(world.id);
    let triple = "616172636836342d756e6b6e6f776e2d6e6f6e65";
    assert!(
        host.contains(triple) && host.contains("ptrsize:8"),
        "{host}"
    );
}
