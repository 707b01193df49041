//! Breakpoints and watchpoints (rules B1 to B6, R4, R8, R9).

use trapline_arch::x86_64::debug::{DebugRegisters, HardwareSlot, SlotKind, SlotLength};
use trapline_arch::x86_64::registers::{self, RAX};
use trapline_arch::{Gpa, Gva};
use trapline_engine::{Access, GuestMemory};

use crate::model::memory::{
    self, ALIAS, CODE, Code, DATA, KERNEL, PAGE_TABLE, UNMAPPED, handler, own_code,
};
use crate::model::{Choices, Config, World};

/// One vCPU with `code`, and a client that has looked around.
fn guest(code: Code) -> (World, usize) {
    guest_of(Config::vcpus(1), code)
}

fn guest_of(config: Config, code: Code) -> (World, usize) {
    guest_with(config, code, |_| {})
}

fn guest_with(config: Config, code: Code, prepare: impl Fn(&mut World)) -> (World, usize) {
    let mut world = World::new(config, Choices::Fair(0));
    for vcpu in 0..config.vcpu_count {
        world.program(own_code(vcpu), code.clone());
    }
    prepare(&mut world);
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    (world, gdb)
}

/// The guest runs freely and the client is not told of anything.
fn assert_runs(world: &mut World, client: usize, packet: &str) {
    world.send(client, packet);
    world.ticks(100);
    assert!(
        world.clients[client].awaits_stop,
        "{:?}",
        world.clients[client].stops
    );
}

fn halt(world: &mut World, client: usize) {
    world.interrupt(client);
    assert!(world.next(client).starts_with("T02"));
}

const AT: u64 = own_code(0) + 1;

#[test]
fn a_patched_byte_never_shows_in_a_read() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    let read = |world: &mut World, at: u64| world.ask(gdb, &format!("m{at:x},3"));
    let before = read(&mut world, own_code(0));
    world.ok(gdb, &format!("Z0,{AT:x},1"));
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.model.ram.byte(AT), 0xcc, "it stands in memory");
    assert_eq!(read(&mut world, own_code(0)), before);
    assert_eq!(read(&mut world, own_code(0) + ALIAS), before);
    assert_eq!(
        world.ask(gdb, &format!("x{:x},1", AT)),
        "b\u{fffd}",
        "as binary"
    );
    world.ok(gdb, "Qqemu.PhyMemMode:1");
    assert_eq!(read(&mut world, own_code(0)), before);
    // While the guest runs.
    world.ok(gdb, &format!("z0,{AT:x},1"));
    world.ok(gdb, &format!("Z0,{:x},1", handler(9)));
    assert_runs(&mut world, gdb, "vCont;c");
    let other = world.connect();
    world.ok(other, "Qqemu.PhyMemMode:1");
    assert_eq!(world.model.ram.byte(handler(9)), 0xcc);
    assert!(world.ask(other, &format!("m{:x},1", handler(9))) == "ff");
}

#[test]
fn a_write_over_a_patched_byte_changes_what_is_restored() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    world.ok(gdb, &format!("Z0,{AT:x},1"));
    world.ask(gdb, "vCont;s:1");
    world.ok(gdb, &format!("M{:x},3:909192", AT - 1));
    assert_eq!(world.model.ram.byte(AT), 0xcc);
    assert_eq!(world.ask(gdb, &format!("m{:x},3", AT - 1)), "909192");
    world.ok(gdb, &format!("z0,{AT:x},1"));
    world.close(gdb);
    assert_eq!(world.model.ram.byte(AT - 1), 0x90);
    assert_eq!(world.model.ram.byte(AT), 0x91);
    assert_eq!(world.model.ram.byte(AT + 1), 0x92);
}

#[test]
fn a_byte_that_the_guest_overwrites_is_the_guests() {
    let target = own_code(0) + 0x80;
    let code = Code::default().store(target, 0x9090_9091).nop().spin();
    let stop_at = own_code(0) + 11;
    let (mut world, gdb) = guest(code);
    world.ok(gdb, &format!("Z0,{target:x},1"));
    world.ok(gdb, &format!("Z0,{stop_at:x},1"));
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
    assert_eq!(world.ask(gdb, &format!("m{target:x},2")), "9190");
    // What the debugger writes then is what stands there.
    world.ok(gdb, &format!("M{target:x},1:97"));
    assert_eq!(world.ask(gdb, &format!("m{target:x},2")), "9790");
    // The breakpoint is planted again over it.
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.model.ram.byte(target), 0xcc);
    assert_eq!(world.ask(gdb, &format!("m{target:x},2")), "9790");
    world.close(gdb);
    assert_eq!(world.model.ram.byte(target), 0x97);
}

#[test]
fn a_breakpoint_is_removed_where_it_was_planted() {
    let (mut world, gdb) = guest(Code::default().nop().nop().spin());
    let before = world.model.ram.copy();
    let alias = AT + ALIAS;
    world.ok(gdb, &format!("Z0,{alias:x},1"));
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.model.ram.byte(AT), 0xcc);
    // The alias's page goes elsewhere.
    let entry = PAGE_TABLE + 8 * (alias >> 12);
    world.model.ram.put_u64(entry, 0);
    world.ok(gdb, &format!("z0,{alias:x},1"));
    assert_runs(&mut world, gdb, "vCont;c");
    world.assert_clean(&before);
}

#[test]
fn a_patch_met_by_another_virtual_address_is_passed_in_silence() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    world.ok(gdb, &format!("Z0,{:x},1", AT + ALIAS));
    assert_runs(&mut world, gdb, "vCont;c");
    assert_eq!(world.model.ram.u32(DATA), 1);
    assert_eq!(world.model.ram.taken(3), 0);
    halt(&mut world, gdb);
    world.close(gdb);
    assert_eq!(world.model.ram.byte(AT), 0xff);
}

#[test]
fn two_names_of_one_byte_are_two_breakpoints() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    world.ok(gdb, &format!("Z0,{AT:x},1"));
    world.ok(gdb, &format!("Z0,{:x},1", AT + ALIAS));
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
    assert_eq!(world.pc(gdb), AT);
    world.ok(gdb, &format!("z0,{AT:x},1"));
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.model.ram.byte(AT), 0xcc, "the other name keeps it");
    world.ok(gdb, &format!("z0,{:x},1", AT + ALIAS));
    assert_runs(&mut world, gdb, "vCont;c");
    assert_eq!(world.model.ram.byte(AT), 0xff);
}

#[test]
fn insertion_twice_is_one_breakpoint_and_removal_twice_no_error() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    let before = world.model.ram.copy();
    for insert in ["Z0", "Z1", "Z2"] {
        world.ok(gdb, &format!("{insert},{AT:x},1"));
        world.ok(gdb, &format!("{insert},{AT:x},1"));
        let remove = insert.to_lowercase();
        world.ok(gdb, &format!("{remove},{AT:x},1"));
        world.ok(gdb, &format!("{remove},{AT:x},1"));
    }
    assert_runs(&mut world, gdb, "vCont;c");
    world.assert_clean(&before);
}

#[test]
fn removal_is_by_kind() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    world.ok(gdb, &format!("Z0,{AT:x},1"));
    world.ok(gdb, &format!("Z1,{AT:x},1"));
    world.ok(gdb, &format!("z1,{AT:x},1"));
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
}

#[test]
fn exhausted_slots_are_an_error_and_change_nothing() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    for slot in 0..4 {
        world.ok(gdb, &format!("Z1,{:x},1", CODE + slot));
    }
    let refused = world.ask(gdb, &format!("Z1,{AT:x},1"));
    assert!(
        refused.starts_with("E.") && refused.contains('4'),
        "{refused}"
    );
    assert!(world.ask(gdb, &format!("Z2,{DATA:x},4")).starts_with("E."));
    // Three parts do not fit into two slots, and none is taken.
    world.ok(gdb, &format!("z1,{CODE:x},1"));
    world.ok(gdb, &format!("z1,{:x},1", CODE + 1));
    assert!(
        world
            .ask(gdb, &format!("Z2,{:x},7", DATA + 1))
            .starts_with("E.")
    );
    world.ok(gdb, &format!("Z2,{DATA:x},4"));
    assert!(world.ask(gdb, "vCont;c").contains("watch:20000"));
}

#[test]
fn a_bad_watch_length_is_refused() {
    let (mut world, gdb) = guest(Code::default().spin());
    for length in ["0", "21", "ffffffffffffffff"] {
        let reply = world.ask(gdb, &format!("Z2,{DATA:x},{length}"));
        assert!(reply.starts_with("E."), "{reply}");
    }
    assert!(world.ask(gdb, "Z2,fffffffffffffffe,8").starts_with("E."));
}

#[test]
fn a_breakpoint_that_is_not_mapped_waits_in_a_slot() {
    let (mut world, gdb) = guest(Code::default().nop().spin());
    world.ok(gdb, &format!("Z0,{UNMAPPED:x},1"));
    assert_runs(&mut world, gdb, "vCont;c");
    assert!(world.uses_slots(0));
    halt(&mut world, gdb);
    // The page comes.
    let code = Code::default().nop().spin();
    world.program(own_code(2), code);
    world
        .model
        .ram
        .put_u64(PAGE_TABLE + 8 * (UNMAPPED >> 12), own_code(2) | 3);
    world.ok(gdb, &format!("P10={:016x}", UNMAPPED.swap_bytes()));
    let stop = world.ask(gdb, "vCont;c");
    assert!(stop.contains("swbreak"), "{stop}");
    assert_eq!(world.pc(gdb), UNMAPPED);
    assert_runs(&mut world, gdb, "vCont;c");
    halt(&mut world, gdb);
    // With all slots in use there is nowhere to wait.
    for slot in 0..3 {
        world.ok(gdb, &format!("Z1,{:x},1", CODE + slot));
    }
    let reply = world.ask(gdb, &format!("Z0,{:x},1", UNMAPPED + 0x1000));
    assert!(
        reply.starts_with("E.") && reply.contains("mapped"),
        "{reply}"
    );
}

#[test]
fn a_watch_stop_names_its_kind_and_address() {
    let code = Code::default()
        .load(DATA + 4)
        .inc(DATA + 4)
        .load(DATA + 4)
        .nop()
        .spin();
    for (insert, key, after) in [
        ("Z2", "watch", 14),
        ("Z4", "awatch", 7),
        ("Z3", "rwatch", 7),
    ] {
        let (mut world, gdb) = guest(code.clone());
        // What stands there is not zero.
        world.program(DATA + 4, Code::default().raw(&[9, 9, 9, 9]));
        world.ok(gdb, &format!("{insert},{:x},4", DATA + 4));
        let stop = world.ask(gdb, "vCont;c");
        assert!(stop.contains(&format!("{key}:20004;")), "{stop}");
        assert_eq!(world.pc(gdb), own_code(0) + after, "{insert}");
    }
}

#[test]
fn a_read_watchpoint_does_not_stop_at_writes() {
    let code = Code::default()
        .inc(DATA)
        .inc(DATA)
        .load(DATA)
        .load(DATA)
        .spin();
    let (mut world, gdb) = guest(code);
    world.ok(gdb, &format!("Z3,{DATA:x},4"));
    assert!(world.ask(gdb, "vCont;c").contains("rwatch:20000"));
    assert_eq!(world.pc(gdb), own_code(0) + 21);
    // What the debugger itself writes is no write of the guest's.
    world.ok(gdb, &format!("M{DATA:x},1:55"));
    assert!(world.ask(gdb, "vCont;c").contains("rwatch:20000"));
    assert_eq!(world.pc(gdb), own_code(0) + 28);
}

#[test]
fn a_watchpoint_stops_a_step_too() {
    let (mut world, gdb) = guest(Code::default().inc(DATA).spin());
    world.ok(gdb, &format!("Z2,{DATA:x},4"));
    assert!(world.ask(gdb, "vCont;s:1").contains(";watch:20000"));
    assert_eq!(world.pc(gdb), own_code(0) + 7);
}

#[test]
fn a_watchpoint_behind_a_breakpoint_is_not_lost() {
    let (mut world, gdb) = guest(Code::default().nop().inc(DATA).spin());
    world.ok(gdb, &format!("Z0,{AT:x},1"));
    world.ok(gdb, &format!("Z2,{DATA:x},4"));
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
    assert!(world.ask(gdb, "vCont;c").contains(";watch:20000"));
}

#[test]
fn a_breakpoint_behind_a_watchpoint_is_not_lost() {
    let (mut world, gdb) = guest(Code::default().inc(DATA).nop().spin());
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0) + 7));
    world.ok(gdb, &format!("Z2,{DATA:x},4"));
    assert!(world.ask(gdb, "vCont;c").contains(";watch:20000"));
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
    assert_runs(&mut world, gdb, "vCont;c");
}

#[test]
fn every_vcpu_has_every_point() {
    let (mut world, gdb) = guest_of(Config::vcpus(3), Code::default().nop().inc(DATA).hlt());
    world.ok(gdb, &format!("Z2,{DATA:x},4"));
    let mut threads: Vec<String> = (0..3)
        .map(|_| {
            let stop = world.ask(gdb, "vCont;c");
            assert!(stop.contains("watch:20000"), "{stop}");
            stop[3..11].to_string()
        })
        .collect();
    threads.sort();
    assert_eq!(threads, ["thread:1", "thread:2", "thread:3"]);
}

#[test]
fn a_vcpu_that_starts_later_has_every_point() {
    let (mut world, gdb) = guest_of(Config::vcpus(2), Code::default().nop().nop().spin());
    world.model.cpus[1].waits_for_start = true;
    assert_eq!(world.ask(gdb, "qfThreadInfo"), "m1,2", "it is listed");
    let text = world.ask(gdb, "qThreadExtraInfo,2");
    let text = trapline_rsp::client::decode_hex(text.as_bytes()).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("waiting"));
    let at = own_code(1);
    world.ok(gdb, &format!("Z0,{at:x},1"));
    assert_runs(&mut world, gdb, "vCont;c");
    assert_eq!(world.executed.iter().filter(|one| one.0 == 1).count(), 0);
    world.model.cpus[1].waits_for_start = false;
    let stop = world.next(gdb);
    assert!(stop.contains("thread:2;swbreak"), "{stop}");
    assert_eq!(world.executed.iter().filter(|one| one.0 == 1).count(), 0);
}

/// `const8 value; end`
fn constant(value: u8) -> String {
    format!("X3,22{value:02x}27")
}

#[test]
fn a_false_condition_never_surfaces() {
    for insert in ["Z0", "Z1"] {
        let (mut world, gdb) = guest(Code::default().nop().inc(DATA).jmp(-9));
        let no = constant(0);
        world.ok(gdb, &format!("{insert},{AT:x},1;{no}"));
        assert_runs(&mut world, gdb, "vCont;c");
        assert!(world.model.ram.u32(DATA) > 3, "the loop goes on");
        halt(&mut world, gdb);
        // The register's value decides.
        world.ok(gdb, &format!("{insert},{AT:x},1;X4,26000027"));
        world.model.cpus[0].file.set_u64(RAX, 1);
        assert!(world.ask(gdb, "vCont;c").contains("break:"));
    }
}

#[test]
fn a_false_condition_of_a_watchpoint_never_surfaces() {
    let (mut world, gdb) = guest(Code::default().inc(DATA).jmp(-9));
    world.ok(gdb, &format!("Z2,{DATA:x},4;{}", constant(0)));
    assert_runs(&mut world, gdb, "vCont;c");
    assert!(world.model.ram.u32(DATA) > 3);
}

#[test]
fn a_condition_that_cannot_be_evaluated_is_a_hit() {
    // `const8 0; const8 0; div_signed; end`
    let (mut world, gdb) = guest(Code::default().nop().nop().spin());
    world.ok(gdb, &format!("Z0,{AT:x},1;X6,220022000527"));
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
}

#[test]
fn conditions_of_all_points_are_bounded() {
    let (mut world, gdb) = guest(Code::default().spin());
    // 4095 times `const8`'s one-byte kin, then the end.
    let long = format!("X1000,{}27", "28".repeat(4095));
    let mut accepted = 0;
    loop {
        let reply = world.ask(gdb, &format!("Z0,{:x},1;{long}", CODE + accepted));
        if reply != "OK" {
            assert!(
                reply.starts_with("E.") && reply.contains("conditions"),
                "{reply}"
            );
            break;
        }
        accepted += 1;
        assert!(accepted < 1000, "no limit");
    }
    assert!(accepted > 10);
    // What is removed makes room, also by the client's going.
    world.ok(gdb, &format!("z0,{CODE:x},1"));
    world.ok(gdb, &format!("Z0,{CODE:x},1;{long}"));
    world.close(gdb);
    let other = world.connect();
    world.ask(other, "?");
    for point in 0..accepted {
        world.ok(other, &format!("Z0,{:x},1;{long}", CODE + point));
    }
}

#[test]
fn the_guests_own_breakpoint_instruction_reaches_the_guest() {
    let (mut world, gdb) = guest(Code::default().int3().nop().inc(DATA).spin());
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0) + 1));
    let stop = world.ask(gdb, "vCont;c");
    assert!(stop.contains("swbreak"), "{stop}");
    assert_eq!(world.model.ram.taken(3), 1);
    assert_eq!(world.pc(gdb), own_code(0) + 1);
}

#[test]
fn int1_reaches_the_guest() {
    let (mut world, gdb) = guest(Code::default().icebp().nop().spin());
    assert_runs(&mut world, gdb, "vCont;c");
    assert_eq!(world.model.ram.taken(1), 1);
}

#[test]
fn the_guests_debug_registers_work_beside_the_debuggers() {
    let code = Code::default().nop().inc(DATA).inc(DATA + 8).nop().spin();
    for with_ours in [false, true] {
        let own = HardwareSlot {
            address: Gva(DATA + 8),
            kind: SlotKind::Write,
            length: SlotLength::Four,
        };
        let own = DebugRegisters::from_slots([None, Some(own), None, None]);
        let (mut world, gdb) = guest_with(Config::vcpus(1), code.clone(), |world| {
            own.write(&mut world.model.cpus[0].file);
        });
        if with_ours {
            world.ok(gdb, &format!("Z2,{DATA:x},4"));
            assert!(world.ask(gdb, "vCont;c").contains(";watch:20000"));
        }
        assert_runs(&mut world, gdb, "vCont;c");
        assert_eq!(world.model.ram.taken(1), 1, "ours: {with_ours}");
        let cpu = &world.model.cpus[0];
        assert_eq!(cpu.file.u64(registers::DR6) & 0xf, 0b10, "its own number");
        assert_eq!(cpu.file.u64(registers::DR1), DATA + 8);
        assert_eq!(cpu.file.u64(registers::DR0), 0, "ours never shows");
    }
}

#[test]
fn tagged_addresses_name_the_same_breakpoint() {
    // LAM_U48: bits 62 to 48 of a user pointer are free.
    let code = Code::default().nop().inc(DATA).spin();
    let (mut world, gdb) = guest_with(Config::vcpus(1), code, |world| {
        let cr3 = memory::KERNEL_ROOT | 1 << 62;
        world.model.cpus[0].file.set_u64(registers::CR3, cr3);
    });
    let tagged = AT | 0x7abc << 48;
    world.ok(gdb, &format!("Z0,{tagged:x},1"));
    assert_eq!(world.ask(gdb, &format!("m{tagged:x},1")), "ff");
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
    assert_eq!(world.pc(gdb), AT);
    world.ok(gdb, &format!("z0,{AT:x},1"));
    assert_runs(&mut world, gdb, "vCont;c");
    assert_eq!(world.model.ram.byte(AT), 0xff);
}

#[test]
fn a_point_at_an_address_that_is_not_canonical_is_refused() {
    let (mut world, gdb) = guest(Code::default().nop().spin());
    for at in [1 << 63, 1 << 47, u64::MAX << 47 ^ 1 << 60] {
        for packet in ["Z0", "Z1", "Z2", "Z3", "Z4"] {
            let answer = world.ask(gdb, &format!("{packet},{at:x},1"));
            assert!(
                answer.starts_with("E.") && answer.contains("not canonical"),
                "{answer}"
            );
            assert!(answer.contains(&format!("{at:#x}")), "{answer}");
            world.ok(gdb, &format!("z{},{at:x},1", &packet[1..]));
        }
    }
    let answer = world.ask(gdb, "Z2,7ffffffffffc,8");
    assert!(
        answer.contains("0x800000000003 is not canonical"),
        "{answer}"
    );
    // What was refused took no slot, and the addresses beside the hole are as good as any.
    for at in [0x7fff_ffff_ffff, 0xffff_8000_0000_0000, 0x1000, u64::MAX] {
        world.ok(gdb, &format!("Z1,{at:x},1"));
    }
    assert_runs(&mut world, gdb, "vCont;c");
}

#[test]
fn a_breakpoint_for_64_bit_code_can_be_set_before_it_runs() {
    let (mut world, gdb) = guest_with(Config::vcpus(1), Code::default().nop().spin(), |world| {
        world.model.cpus[0].file.set_u64(registers::CR0, 1);
    });
    world.ok(gdb, "Z1,ffffffff81000000,1");
    world.ok(gdb, "Z0,ff11000000000000,1");
    let answer = world.ask(gdb, "Z1,8000000000000000,1");
    assert!(answer.contains("not canonical"), "{answer}");
}

#[test]
fn kernel_memory_is_readable_on_the_users_tables() {
    let code = Code::default().nop().spin();
    let (mut world, gdb) = guest_with(Config::vcpus(1), code, |world| {
        let cpu = &mut world.model.cpus[0];
        cpu.file.set_u64(registers::CR3, memory::USER_ROOT);
        cpu.set_user();
    });
    let at = KERNEL + own_code(0);
    assert_eq!(world.ask(gdb, &format!("m{at:x},2")), "90eb");
    world.ok(gdb, &format!("Z0,{at:x},1"));
    assert_runs(&mut world, gdb, "vCont;c");
    assert_eq!(world.model.ram.byte(own_code(0)), 0xcc);
}

#[test]
fn a_thousand_breakpoints_go_with_their_client() {
    let (mut world, gdb) = guest(Code::default().spin());
    let before = world.model.ram.copy();
    for index in 0..1000 {
        world.ok(gdb, &format!("Z0,{:x},1", 0xa000 + 2 * index));
    }
    assert_runs(&mut world, gdb, "vCont;c");
    assert_eq!(world.model.ram.byte(0xa000 + 1998), 0xcc);
    world.close(gdb);
    world.ticks(50);
    world.assert_clean(&before);
}

#[test]
fn physical_memory_can_be_written_while_the_guest_runs() {
    let (mut world, gdb) = guest(Code::default().spin());
    assert_runs(&mut world, gdb, "vCont;c");
    let other = world.connect_as(Access::Full);
    world.ok(other, "Qqemu.PhyMemMode:1");
    let instructions = world.executed.len();
    world.ok(other, &format!("M{DATA:x},4:01020304"));
    assert_eq!(world.ask(other, &format!("m{DATA:x},4")), "01020304");
    assert_eq!(world.executed.len(), instructions, "answered at once");
    assert!(!world.is_stopped());
    world.model.ram.write_physical(Gpa(DATA), &[0; 4]);
}
