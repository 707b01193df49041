//! What a guest of AArch64 is answered: its registers, and by name what is not done for it.

use alloc::vec::Vec;

use trapline_arch::aarch64::registers::{
    self, CPSR, ELR_EL1, ESR_EL1, FAR_EL1, PC, SCTLR_EL1, SPSR_EL1, TCR_EL1, TTBR0_EL1, VBAR_EL1,
};
use trapline_arch::{Architecture, RegisterFile};

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
fn what_only_one_architecture_has_is_refused_by_name() {
    let mut arm = world();
    for (line, refusal) in [
        (
            "idt",
            "error: AArch64 has no interrupt descriptor table; 'vectors' shows where exceptions lead",
        ),
        (
            "gdt",
            "error: AArch64 has no segments; 'map' shows what is mapped",
        ),
        (
            "layout i386",
            "error: 'i386' cannot be chosen: AArch64 guests have one layout",
        ),
    ] {
        expect(&mut arm, line, refusal);
    }
    let mut x86 = World::new();
    let refusal = "error: x86-64 has no exception vectors; 'idt' shows where exceptions lead";
    expect(&mut x86, "vectors", refusal);
    expect_parts(&mut x86, "exception", &["x86-64 has no exception syndrome"]);
}

/// The same vCPU without translation, with the vectors at 0x8000 and code at 0x9000.
fn flat() -> World {
    flat_with(|_| ())
}

fn flat_with(change: impl FnOnce(&mut RegisterFile)) -> World {
    let mut file = registers::file();
    file.set_u64(PC, 0x9000);
    file.set_u64(CPSR, 0x3c5);
    file.set_u64(VBAR_EL1, 0x8000);
    file.set_u64(ESR_EL1, 0x9600_0046);
    file.set_u64(FAR_EL1, 0xdead);
    file.set_u64(ELR_EL1, 0x9004);
    file.set_u64(SPSR_EL1, 0x8000_0000);
    change(&mut file);
    let world = World::of(Architecture::Aarch64, file);
    let put = |address, words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        world.vm.ram.put(address, &bytes);
    };
    // nop; b +0xffc, twice.
    put(0x8000, &[0xd503_201f, 0x1400_03ff]);
    put(0x8200, &[0xd503_201f, 0x1400_03ff]);
    // stp; bl; str.
    put(0x9000, &[0xa9bf_7bfd, 0x9400_0010, 0xf900_0020]);
    world
}

#[test]
fn code_is_shown() {
    let mut world = flat();
    world.monitor("break 0x9004");
    expect(
        &mut world,
        "disassemble pc 3",
        "
        =>  0000000000009000  fd 7b bf a9   stp x29, x30, [sp, #-0x10]!
          * 0000000000009004  10 00 00 94   bl 0x9044
            0000000000009008  20 00 00 f9   str x0, [x1]
        ",
    );
    let mut world = flat_with(|file| file.set_u64(CPSR, 0x10));
    let refusal = "error: vCPU 0 is in AArch32 state, whose code is not disassembled here";
    expect(&mut world, "disassemble 0x9000", refusal);
}

#[test]
fn the_vectors_and_the_last_exception_are_shown() {
    let mut world = flat();
    expect_parts(
        &mut world,
        "vectors",
        &[
            "vCPU 0, vectors at 0x8000\n",
            "0x8000  EL1t          synchronous  0x9000",
            "0x8200  EL1h          synchronous  0x9200",
            "0x8480  EL0, AArch64  IRQ",
            "0x8780  EL0, AArch32  SError",
        ],
    );
    expect(
        &mut world,
        "exception",
        "
        vCPU 0, the last exception that was taken to EL1
        esr_el1   0x96000046  data abort from the same level: translation fault, level 2, of a write
        far_el1   0xdead
        elr_el1   0x9004
        spsr_el1  0x80000000  EL0t
        ",
    );
    expect(&mut world, "esr 0xf2000800", "BRK #0x800");
    let mut world = flat_with(|file| file.set_u64(VBAR_EL1, 0xffff_0000));
    expect_parts(&mut world, "vectors", &["nothing is mapped at 0xffff0000"]);
}

#[test]
fn translation_is_explained() {
    let mut world = flat();
    expect(
        &mut world,
        "translate 0x9000",
        "0x9000 is at physical 0x9000: no translation",
    );
    let mut world = flat_with(|file| {
        file.set_u64(SCTLR_EL1, 1);
        // 39 bits, 4 KiB, in both halves, without tables for the upper one.
        file.set_u64(TCR_EL1, 25 | 25 << 16 | 0b10 << 30 | 1 << 23);
        file.set_u64(TTBR0_EL1, 0x1000);
    });
    world.vm.ram.put(0x1000, &0x2003_u64.to_le_bytes());
    world
        .vm
        .ram
        .put(0x2000, &0x0040_0000_0000_0701_u64.to_le_bytes());
    expect(
        &mut world,
        "translate 0x1234",
        "0x1234 is at physical 0x1234: 2 MiB page, rwx kernel, memory type 0, accessed, global",
    );
    expect_parts(
        &mut world,
        "pt 0x1234",
        &["level 1", "table 0x2000", "level 2", "block 0x0", "AF"],
    );
    expect_parts(
        &mut world,
        "translate 0xffff800000000000",
        &[
            "is not mapped: ",
            "'pt 0xffff800000000000' shows the entries",
        ],
    );
    expect_parts(
        &mut world,
        "map",
        &["0000000000000000", "2 MiB  rwx kernel"],
    );
}

#[test]
fn lldb_is_told_how_many_bits_an_address_has() {
    let mut world = flat_with(|file| file.set_u64(TCR_EL1, 16 << 16 | 25));
    for packet in ["qHostInfo", "qProcessInfo"] {
        world.packet(world.id, packet);
        let reply = world.take_output(world.id);
        for part in [
            "low_mem_addressing_bits:39;",
            "high_mem_addressing_bits:48;",
        ] {
            assert!(reply.contains(part) || packet == "qProcessInfo", "{reply}");
        }
        assert!(reply.contains("ptrsize:8"), "{reply}");
        let cputype = match packet {
            "qHostInfo" => "cputype:16777228;cpusubtype:0;",
            _ => "cputype:100000c;cpusubtype:0;",
        };
        assert!(reply.contains(cputype), "{reply}");
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
