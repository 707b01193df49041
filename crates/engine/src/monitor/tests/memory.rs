//! Commands that read and write memory, and how addresses are written.

use alloc::format;

use super::world::{CODE_GPA, DATA, DATA_GPA, World};
use super::{expect, expect_parts};

#[test]
fn memory_is_read_and_goes_on() {
    let mut world = World::new();
    expect(
        &mut world,
        "read linux_banner 40",
        "
        ffffffff81010000  4c 69 6e 75 78 20 76 65  72 73 69 6f 6e 20 36 2e  |Linux version 6.|
        ffffffff81010010  31 2e 30 2d 74 72 61 70  6c 69 6e 65 0a 00 00 00  |1.0-trapline....|
        ffffffff81010020  00 00 00 00 00 00 00 00                           |........|
        ",
    );
    expect_parts(&mut world, "read", &["ffffffff81010028  00"]);
    expect_parts(&mut world, "read", &["ffffffff810100a8  00"]);
    let answer = world.monitor("read linux_banner 64K");
    assert_eq!(answer.lines().count(), 513);
    assert!(
        answer.ends_with(
            "\n... 8192 of 65536 bytes; 'read 0xffffffff81012000 57344' shows the rest\n"
        ),
        "{answer}"
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let mut world = World::new();
    expect(
        &mut world,
        "read 0x1000",
        "error: nothing is mapped at 0x1000; 'pt 0x1000' shows why",
    );
    let end = DATA + 0xfff0;
    expect(
        &mut world,
        &format!("read {end:x} 32"),
        "
        ffffffff8101fff0  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
        ... nothing is mapped at 0xffffffff81020000; 'pt 0xffffffff81020000' shows why
        ",
    );
    expect(
        &mut world,
        "pread 1G",
        "error: there is no memory at physical 0x40000000; 'memory' shows where there is",
    );
    expect(
        &mut world,
        "read linux_banner lots",
        "error: 'lots' is no length; type a number such as 16, 0x10 or 4K",
    );
}

#[test]
fn addresses_say_what_is_wrong_with_them() {
    let mut world = World::new();
    for (address, says) in [
        (
            "dead",
            "'dead' is no decimal number; a hexadecimal one begins with 0x: 0xdead",
        ),
        (
            "12z",
            "'12z' is no number; type one such as 4096, 0x1000 or 4K",
        ),
        ("$foo", "there is no register 'foo'; 'regs all' lists them"),
        ("xmm0", "xmm0 is 128 bits wide, too wide for an address"),
        (
            "do_sys_openat3",
            "'do_sys_openat3' is no number, register or symbol; there is do_sys_openat2",
        ),
        ("quux", "'quux' is no number, register or symbol"),
        (
            "pc+",
            "'pc+' is no address; type one such as 0xffffffff81000000, rsp+8 or do_sys_openat2+0x10",
        ),
    ] {
        expect(
            &mut world,
            &format!("translate {address}"),
            &format!("error: {says}"),
        );
    }
    let mut unknown = World::with(super::CAPABILITIES, false);
    expect(
        &mut unknown,
        "translate schedule",
        "error: 'schedule' is no number and no register, and the guest's symbols are not known; see \
         'symbols'",
    );
}

#[test]
fn memory_is_examined_as_gdb_does() {
    let mut world = World::new();
    expect(
        &mut world,
        "x/4gx rsp",
        "
        ffffffff81010108 <init_task+0x8>:   0xfffffffffffffff0  0x0000000000000000
        ffffffff81010118 <init_task+0x18>:  0x0000000000000000  0x0000000000000000
        ",
    );
    expect(
        &mut world,
        "x/2wd rsp",
        "ffffffff81010108 <init_task+0x8>:  -16  -1",
    );
    expect(&mut world, "x", "ffffffff81010110 <init_task+0x10>:  0");
    expect(
        &mut world,
        "x/1a init_task",
        "ffffffff81010100 <init_task+0x0>:  0xffffffff81000208  schedule+0x8",
    );
    expect(
        &mut world,
        "x/s linux_banner",
        "ffffffff81010000 <linux_banner+0x0>:  \"Linux version 6.1.0-trapline\\n\"",
    );
    expect(
        &mut world,
        "x/2cb linux_banner",
        "ffffffff81010000 <linux_banner+0x0>:   76 'L'  105 'i'",
    );
    expect(
        &mut world,
        "x/2hu linux_banner",
        "ffffffff81010000 <linux_banner+0x0>:  26956  30062",
    );
    expect(
        &mut world,
        "x/3q pc",
        "error: 'q' is no format; the letters are x d u c a s i, the sizes b h w g",
    );
    expect(
        &mut world,
        "x/0x pc",
        "error: the count in '0x' is not 1 to 2048",
    );
}

#[test]
fn memory_is_written() {
    let mut world = World::new();
    expect(
        &mut world,
        "write linux_banner 41 42",
        "2 bytes written at 0xffffffff81010000",
    );
    expect(
        &mut world,
        "pwrite 0x20002 \"C\"",
        "1 byte written at 0x20002",
    );
    assert_eq!(world.vm.ram.byte(DATA_GPA + 1), b'B');
    assert_eq!(world.vm.ram.byte(DATA_GPA + 2), b'C');
    expect(
        &mut world,
        "write pc 0f0b",
        "2 bytes written at 0xffffffff81000000",
    );
    assert_eq!(world.vm.ram.byte(CODE_GPA), 0x0f);
    expect(
        &mut world,
        "write 0 90",
        "error: nothing is mapped at 0x0; 'pt 0x0' shows why",
    );
    expect(
        &mut world,
        "write pc",
        "error: the bytes are missing; type them in hexadecimal, such as 90 cc",
    );
    expect_parts(
        &mut world,
        "write pc 9",
        &["error: '9' is no byte; type two hexadecimal digits"],
    );
    expect_parts(
        &mut world,
        "write pc \"x",
        &["error: the text has no closing quotation mark"],
    );
}

#[test]
fn addresses_are_physical_if_wanted() {
    let mut world = World::new();
    expect(&mut world, "phys", "addresses are virtual");
    expect(&mut world, "phys on", "addresses are guest-physical");
    expect(
        &mut world,
        "read 0x20000 16",
        "0000000000020000  4c 69 6e 75 78 20 76 65  72 73 69 6f 6e 20 36 2e  |Linux version 6.|",
    );
    expect(&mut world, "phys off", "addresses are virtual");
    expect(
        &mut world,
        "phys maybe",
        "error: 'maybe' is neither on nor off",
    );
}

#[test]
fn bytes_are_found() {
    let mut world = World::new();
    expect(
        &mut world,
        "find linux_banner 64 \"version\"",
        "ffffffff81010006  <linux_banner+0x6>",
    );
    // The code before the data is one range with it, and what lies before it is not mapped.
    expect(
        &mut world,
        "find 0xffffffff80ffff00 16M 4c 69 6e",
        "ffffffff81010000  <linux_banner+0x0>",
    );
    expect(&mut world, "find linux_banner 8 \"version\"", "not found");
    world.monitor("phys on");
    expect(&mut world, "find 0 1M \"Linux\"", "0000000000020000");
    expect_parts(
        &mut world,
        "find 0 8K 00",
        &["\n... there are more; 'find 0x20 8160 ...' goes on"],
    );
    expect_parts(&mut world, "find 0 8K", &["error: the bytes are missing"]);
}
