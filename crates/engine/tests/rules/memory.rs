//! Guest memory by virtual addresses (rule M1).

use crate::model::memory::{ALIAS, Code, KERNEL, LEN_BYTES, PAGE_TABLE, UNMAPPED, own_code};
use crate::model::{Choices, Config, World};

const PAGE: u64 = 0x1000;

/// A guest whose page at [`UNMAPPED`] is there, filled with 5a, and the next is not.
fn guest() -> (World, usize) {
    let mut world = World::new(Config::vcpus(1), Choices::Fair(0));
    world.program(own_code(0), Code::default().spin());
    world.model.ram.put(own_code(2), &[0x5a; PAGE as usize]);
    map(&world, UNMAPPED, own_code(2));
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    (world, gdb)
}

fn map(world: &World, address: u64, physical: u64) {
    let entry = PAGE_TABLE + 8 * (address >> 12);
    world.model.ram.put_u64(entry, physical | 3);
}

/// Reads with `m` and with `x`, which must agree, and returns how many bytes came.
#[track_caller]
fn read(world: &mut World, client: usize, address: u64, length: u64) -> Option<usize> {
    let hex = world.ask(client, &format!("m{address:x},{length:x}"));
    let binary = world.ask(client, &format!("x{address:x},{length:x}"));
    if hex.starts_with('E') {
        assert!(hex.starts_with("E."), "{hex}");
        assert_eq!(binary, hex);
        return None;
    }
    assert!(binary.starts_with('b'), "{binary}");
    assert_eq!(binary.len() - 1, hex.len() / 2, "no byte here is escaped");
    Some(hex.len() / 2)
}

#[test]
fn a_read_gives_the_mapped_part_of_its_range() {
    let (mut world, gdb) = guest();
    let end = UNMAPPED + PAGE;
    for (before, length) in [(1, 2), (8, 16), (8, 8), (16, 0x8000), (PAGE, 2 * PAGE)] {
        let there = before.min(length) as usize;
        let found = read(&mut world, gdb, end - before, length);
        assert_eq!(
            found,
            Some(there),
            "{length} bytes, {before} before the end"
        );
    }
    for (address, length) in [(end, 1), (end, 0x1000), (end - 1 + PAGE, 8)] {
        assert_eq!(read(&mut world, gdb, address, length), None, "{address:x}");
    }
}

#[test]
fn a_read_does_not_go_on_behind_a_hole() {
    let (mut world, gdb) = guest();
    map(&world, UNMAPPED + 2 * PAGE, own_code(2));
    let found = read(&mut world, gdb, UNMAPPED + PAGE - 4, 2 * PAGE);
    assert_eq!(found, Some(4));
    let found = read(&mut world, gdb, UNMAPPED + PAGE, 2 * PAGE);
    assert_eq!(found, None, "its first byte is in the hole");
}

#[test]
fn a_page_without_memory_behind_it_is_as_good_as_unmapped() {
    let (mut world, gdb) = guest();
    for physical in [LEN_BYTES, 1 << 32, 0x000f_ffff_ffff_f000] {
        map(&world, UNMAPPED + PAGE, physical);
        let found = read(&mut world, gdb, UNMAPPED + PAGE - 4, 8);
        assert_eq!(found, Some(4), "{physical:x}");
        let found = read(&mut world, gdb, UNMAPPED + PAGE, 8);
        assert_eq!(found, None, "{physical:x}");
    }
}

#[test]
fn a_read_ends_where_addresses_do() {
    let (mut world, gdb) = guest();
    let last = KERNEL + LEN_BYTES - 4;
    assert_eq!(read(&mut world, gdb, last, 8), Some(4));
    assert_eq!(read(&mut world, gdb, ALIAS + LEN_BYTES - 4, 8), Some(4));
    for address in [u64::MAX, u64::MAX - 3, 0x0000_7fff_ffff_fffc, 1 << 63] {
        assert_eq!(read(&mut world, gdb, address, 8), None, "{address:x}");
    }
}

/// A reply is read in blocks, and one of them ends with the last address.
#[test]
fn a_read_does_not_go_on_at_the_first_address_behind_the_last() {
    const BLOCK: u64 = 0x4000;
    let (mut world, gdb) = guest();
    let [high, directory] = [0x2000, 0x3000];
    world.model.ram.put_u64(high + 511 * 8, directory | 3);
    world.model.ram.put_u64(directory + 511 * 8, PAGE_TABLE | 3);
    for page in 508..512 {
        map(&world, page * PAGE, own_code(2));
    }
    let start = BLOCK.wrapping_neg();
    let found = read(&mut world, gdb, start, 2 * BLOCK);
    assert_eq!(found, Some(BLOCK as usize));
    let sum = world.ask(gdb, &format!("qCRC:{start:x},{BLOCK:x}"));
    assert!(sum.starts_with('C'), "{sum}");
    let sum = world.ask(gdb, &format!("qCRC:{start:x},{:x}", BLOCK + 1));
    assert!(sum.contains("behind the last address"), "{sum}");
}

/// What is mapped has been written then, and the debugger knows where to look.
#[test]
fn a_write_that_leaves_mapped_memory_says_where_it_ended() {
    let (mut world, gdb) = guest();
    let at = UNMAPPED + PAGE - 2;
    let reply = world.ask(gdb, &format!("M{at:x},4:01020304"));
    assert!(reply.starts_with("E."), "{reply}");
    let missing = format!("{:x}", UNMAPPED + PAGE);
    assert!(reply.contains(&missing), "it names the first byte: {reply}");
    let end = own_code(2) + PAGE;
    assert_eq!(
        world.model.ram.copy()[end as usize - 3..][..4],
        [0x5a, 1, 2, 0]
    );
}
