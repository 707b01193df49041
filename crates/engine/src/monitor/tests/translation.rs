//! Commands about page tables and descriptor tables.

use trapline_arch::x86_64::registers as x86;

use super::world::{CODE, DATA_GPA, World};
use super::{expect, expect_parts};

#[test]
fn addresses_are_translated() {
    let mut world = World::new();
    expect(
        &mut world,
        "v2p linux_banner+0x10",
        "0xffffffff81010010 is at physical 0x20010: 4 KiB page, rw- kernel, accessed, dirty, global",
    );
    expect(
        &mut world,
        "translate 0x1000",
        "0x1000 is not mapped: the PML4E is not present; 'pt 0x1000' shows the entries",
    );
    expect(
        &mut world,
        "pt pc",
        "
        vCPU 0, 4-level paging, cr3 0x1000
        entry  at physical  value             leads to      flags
        PML4E  0x1ff8       0000000000002023  table 0x2000  P RW A
        PDPTE  0x2ff0       0000000000003023  table 0x3000  P RW A
        PDE    0x3040       0000000000004023  table 0x4000  P RW A
        PTE    0x4000       0000000000010121  page 0x10000  P A G
        0xffffffff81000000 is at physical 0x10000: 4 KiB page, r-x kernel, accessed, global
        ",
    );
    expect(
        &mut world,
        "pt 0x1000",
        "
        vCPU 0, 4-level paging, cr3 0x1000
        entry  at physical  value             leads to
        PML4E  0x1000       0000000000000000  -
        0x1000 is not mapped: the PML4E is not present
        ",
    );
    expect_parts(
        &mut world,
        "pt 0x8000000000000000",
        &["is not mapped: it does not fit 48 bits, of which the highest is repeated above them"],
    );
}

#[test]
fn faults_of_every_kind_are_explained() {
    let mut world = World::new();
    // The table that the page directory points to is not in memory, or the entry is no good.
    world.vm.ram.put(0x3040, &0x7fff_f003_u64.to_le_bytes());
    expect_parts(
        &mut world,
        "pt pc",
        &["is not mapped: there is no memory at physical 0x7ffff000, where the PTE should be"],
    );
    world.vm.ram.put(0x2ff0, &0x3083_u64.to_le_bytes());
    expect_parts(
        &mut world,
        "pt pc",
        &["is not mapped: the PDPTE has reserved bits set", "P RW PS"],
    );
}

#[test]
fn what_is_mapped_is_listed() {
    let mut world = World::new();
    expect(
        &mut world,
        "map",
        "
        from              to                size    access      first symbol
        ffffffff81000000  ffffffff8100ffff  64 KiB  r-x kernel  start_kernel+0x0
        ffffffff81010000  ffffffff8101ffff  64 KiB  rw- kernel  linux_banner+0x0
        ",
    );
    expect(
        &mut world,
        "map 0xffffffff82000000",
        "nothing is mapped from 0xffffffff82000000 on",
    );
    expect(
        &mut world,
        "memory",
        "
        from              to                size     kind
        0000000000000000  000000000003ffff  256 KiB  RAM
        256 KiB in all
        ",
    );
}

#[test]
fn long_lists_say_how_to_go_on() {
    let mut world = World::new();
    // Every second page is writable: 256 regions of one page each.
    for page in 0..512_u64 {
        let entry = DATA_GPA | 0x21 | (page % 2) << 1;
        world.vm.ram.put(0x4000 + page * 8, &entry.to_le_bytes());
    }
    let answer = world.monitor("map");
    assert_eq!(answer.lines().count(), 66);
    assert!(
        answer.ends_with("\n... 'map 0xffffffff81040000' goes on from there\n"),
        "{answer}"
    );
    expect_parts(
        &mut world,
        "map 0xffffffff81040000",
        &["ffffffff81040000  ffffffff81040fff"],
    );
}

#[test]
fn interrupt_gates_are_shown() {
    let mut world = World::new();
    expect_parts(
        &mut world,
        "idt",
        &["error: there is no gate: vector 0x0 is past the end of the interrupt table"],
    );
    world.vm.files[0].set_u64(x86::IDTR_LIMIT, 0xfff);
    let gate = |offset: u64, ty: u64, ist: u64, dpl: u64| {
        offset & 0xffff
            | 0x10 << 16
            | ist << 32
            | ty << 40
            | dpl << 45
            | 1 << 47
            | (offset >> 16 & 0xffff) << 48
    };
    let high = (0xffff_ffff_u64).to_le_bytes();
    world.vm.ram.put(
        DATA_GPA + 0x2020,
        &gate(CODE + 0x200, 0xe, 2, 0).to_le_bytes(),
    );
    world.vm.ram.put(DATA_GPA + 0x2028, &high);
    world
        .vm
        .ram
        .put(DATA_GPA + 0x2030, &gate(CODE, 0xf, 0, 3).to_le_bytes());
    world.vm.ram.put(DATA_GPA + 0x2038, &high);
    // A new stop makes the engine fetch registers anew.
    world.monitor("step");
    expect(
        &mut world,
        "idt",
        "
        vCPU 0, idt at 0xffffffff81012000, limit 0xfff
        vector  handler             symbol            selector  gate       dpl  ist
        0x02    0xffffffff81000200  schedule+0x0      0x0010    interrupt  0    2
        0x03    0xffffffff81000000  start_kernel+0x0  0x0010    trap       3
        ",
    );
    expect_parts(
        &mut world,
        "idt 4",
        &["error: there is no gate: the gate of vector 0x4"],
    );
}

#[test]
fn segments_are_shown() {
    let mut world = World::new();
    expect_parts(&mut world, "gdt", &["limit 0x0\nit is empty"]);
    world.vm.files[0].set_u64(x86::GDTR_LIMIT, 0x37);
    let descriptors: [u64; 6] = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x8100_8b01_0000_206f,
        0xffff_ffff,
    ];
    for (index, descriptor) in (0..).zip(descriptors) {
        world
            .vm
            .ram
            .put(DATA_GPA + 0x3000 + index * 8, &descriptor.to_le_bytes());
    }
    // A new stop makes the engine fetch registers anew.
    world.monitor("step");
    expect(
        &mut world,
        "gdt",
        "
        vCPU 0, gdt at 0xffffffff81013000, limit 0x37
        selector  base                limit       dpl  kind
        0x0008    0x0                 0xffffffff  0    32-bit code
        0x0010    0x0                 0xffffffff  0    64-bit code
        0x0018    0x0                 0xffffffff  0    data, writable
        0x0020    0xffffffff81010000  0x206f      0    TSS, busy
        ",
    );
}
