//! Several clients on one guest (rules S1, R10, A1).

use trapline_engine::{Access, MAX_SESSIONS};
use trapline_rsp::client::encode_packet;

use crate::model::memory::{Code, DATA, own_code};
use crate::model::{Choices, Config, World};

fn loops() -> Code {
    Code::default().nop().inc(DATA).jmp(-10)
}

/// Two vCPUs in loops, and a client that has looked around.
fn guest() -> (World, usize) {
    let mut world = World::new(Config::vcpus(2), Choices::Fair(0));
    world.program(own_code(0), loops());
    world.program(own_code(1), loops());
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    (world, gdb)
}

const AT: u64 = own_code(0) + 1;

#[test]
fn one_client_looks_while_the_other_runs_the_guest() {
    let (mut world, first) = guest();
    world.send(first, "vCont;c");
    world.ticks(20);
    let second = world.connect();
    let pc = world.pc(second);
    assert!((own_code(0)..own_code(0) + 10).contains(&pc), "{pc:x}");
    assert_eq!(world.ask(second, &format!("m{AT:x},1")), "ff");
    world.ok(second, "Hg2");
    let pc = world.pc(second);
    assert!((own_code(1)..own_code(1) + 10).contains(&pc), "{pc:x}");
    assert!(
        world.clients[first].awaits_stop,
        "the first sees nothing of it"
    );
    let before = world.executed.len();
    world.ticks(40);
    assert!(world.executed.len() > before, "the guest goes on");
}

#[test]
fn a_step_goes_on_after_a_pause() {
    let (mut world, first) = guest();
    let second = world.connect();
    world.send(first, "vCont;s:2");
    let pc = world.pc(second);
    assert!(pc == own_code(0));
    let stop = world.next(first);
    assert!(stop.contains("thread:2;"), "{stop}");
    assert_eq!(world.executed, [(1, own_code(1))]);
}

#[test]
fn a_breakpoint_of_one_client_stops_the_resume_of_another() {
    let (mut world, first) = guest();
    let second = world.connect();
    world.send(first, "vCont;c");
    world.ticks(20);
    world.ok(second, &format!("Z0,{AT:x},1"));
    let stop = world.next(first);
    assert!(stop.starts_with("T05thread:1;"), "{stop}");
    assert!(
        !stop.contains("swbreak"),
        "GDB takes a breakpoint that it does not know for one it has removed"
    );
    assert_eq!(world.pc(first), AT);
    assert_eq!(world.pc(second), AT);
}

#[test]
fn a_hit_that_nobody_waits_for_is_told_at_the_next_resume() {
    let (mut world, first) = guest();
    let second = world.connect();
    world.ask(second, "?");
    world.ok(second, &format!("Z0,{AT:x},1"));
    // The first client's resume takes the stop from the second, then it goes.
    world.send(first, "vCont;c:2");
    world.ticks(10);
    world.close(first);
    world.ticks(100);
    assert!(world.is_stopped(), "the hit stops the guest");
    assert!(world.clients[second].inbox.is_empty());
    assert_eq!(world.pc(second), AT);
    let before = world.executed.len();
    let stop = world.ask(second, "vCont;c");
    assert!(stop.contains("thread:1;swbreak"), "{stop}");
    assert_eq!(world.executed.len(), before, "told before anything runs");
    // Only once.
    let stop = world.ask(second, "vCont;c");
    assert!(stop.contains("swbreak"), "{stop}");
    assert_eq!(world.times(0, AT), 1);
    world.close(second);
    world.ticks(40);
    assert!(world.executed.len() > before + 10, "the guest runs on");
}

#[test]
fn both_clients_are_told_of_a_stop_that_both_wait_for() {
    let (mut world, first) = guest();
    let second = world.connect();
    world.ok(first, &format!("Z0,{AT:x},1"));
    world.send(first, "vCont;c");
    world.send(second, "?");
    let (one, other) = (world.next(first), world.next(second));
    assert_eq!(one[3..11], other[3..11]);
    // The second resumes; the first is told nothing, for it did not.
    world.send(second, "vCont;c");
    world.ticks(100);
    assert!(!world.clients[second].awaits_stop);
    assert!(world.clients[first].inbox.is_empty());
}

#[test]
fn the_guest_stays_stopped_for_the_client_that_holds_it() {
    let (mut world, first) = guest();
    world.ask(first, "vCont;s:1");
    let second = world.connect();
    world.ask(second, "?");
    let before = world.executed.len();
    world.close(second);
    world.ticks(30);
    assert_eq!(world.executed.len(), before);
    world.close(first);
    world.ticks(30);
    assert!(world.executed.len() > before);
}

#[test]
fn a_client_may_vanish_at_every_byte_of_an_exchange() {
    let mut exchange = Vec::new();
    for packet in [
        "?".to_string(),
        format!("Z0,{AT:x},1"),
        format!("Z2,{DATA:x},4"),
        "vCont;c".into(),
        "g".into(),
        "vCont;s:1".into(),
        format!("z0,{AT:x},1"),
        "vCont;c".into(),
        "D".into(),
    ] {
        encode_packet(packet.as_bytes(), &mut exchange);
    }
    for cut in 0..=exchange.len() {
        for ticks in [0, 7] {
            let mut world = World::new(Config::vcpus(2), Choices::Fair(cut));
            world.program(own_code(0), loops());
            world.program(own_code(1), loops());
            let before = world.model.ram.copy();
            // A client that began before and waits keeps the guest running.
            let other = world.connect();
            world.ask(other, "?");
            world.send(other, "vCont;c");
            let client = world.connect();
            world.clients[client].is_checked = false;
            world.clients[other].is_checked = false;
            world.send_raw(client, &exchange[..cut]);
            world.ticks(ticks);
            world.close(client);
            world.close(other);
            world.ticks(60);
            world.assert_clean(&before);
            let executed = world.executed.len();
            world.ticks(20);
            assert!(world.executed.len() > executed, "cut at {cut}");
            assert!(!world.uses_slots(0) && !world.uses_slots(1));
        }
    }
}

#[test]
fn a_read_only_client_changes_nothing() {
    let (mut world, gdb) = guest();
    let eyes = world.connect_as(Access::ReadOnly);
    world.clients[eyes].is_checked = false;
    for packet in [
        "vCont;c".to_string(),
        "c".into(),
        "s".into(),
        "k".into(),
        "vKill;1".into(),
        "vCtrlC".into(),
        format!("M{DATA:x},1:00"),
        format!("X{DATA:x},1:a"),
        "P0=0000000000000000".into(),
        format!("Z0,{AT:x},1"),
        "QRestoreRegisterState:1".into(),
    ] {
        let reply = world.ask(eyes, &packet);
        assert!(reply.starts_with('E'), "{packet}: {reply}");
    }
    assert!(world.executed.is_empty());
    assert_eq!(world.end, None);
    // It looks, also while the guest runs, and even if it asks why that is stopped.
    world.send(gdb, "vCont;c");
    world.ticks(20);
    assert!(world.ask(eyes, "?").starts_with('T'));
    assert!(world.ask(eyes, "g").len() > 100);
    world.interrupt(eyes);
    world.ticks(40);
    assert!(world.clients[gdb].awaits_stop);
    world.ok(eyes, "D");
    world.close(eyes);
    let before = world.executed.len();
    world.ticks(40);
    assert!(world.executed.len() > before);
}

#[test]
fn there_is_a_limit_to_clients() {
    let (mut world, _) = guest();
    for _ in 1..MAX_SESSIONS {
        world.open(Access::Full);
    }
    assert!(world.engine.open_session(Access::Full).is_err());
    world.close(3);
    assert!(world.engine.open_session(Access::Full).is_ok());
}

#[test]
fn many_vcpus_fit_into_every_reply() {
    for count in [1, 32, 255, 1024] {
        let mut world = World::new(Config::vcpus(count), Choices::Fair(0));
        let lldb = world.connect();
        world.ok(lldb, "QThreadSuffixSupported");
        world.ok(lldb, "QListThreadsInStopReply");
        let stop = world.ask(lldb, "?");
        let after = |key| stop.split(key).nth(1).unwrap().split(';').next().unwrap();
        assert_eq!(after("threads:").split(',').count(), count);
        assert_eq!(after("thread-pcs:").split(',').count(), count);
        assert_eq!(world.ask(lldb, "qfThreadInfo").split(',').count(), count);
        world.clients[lldb].is_checked = false;
        let last = world.ask(lldb, &format!("qThreadStopInfo{count:x}"));
        assert!(last.contains(&format!("thread:{count:x};")), "{last}");

        let json = world.ask(lldb, "jThreadsInfo");
        assert_eq!(json.matches("\"tid\":").count(), count);
        let pcs = json.matches("\"16\":\"").count();
        let flags = json.matches("\"17\":\"").count();
        let others = json.matches("\"0\":\"").count();
        let expected = match count {
            0..=32 => (count, count),
            33..=255 => (count, 0),
            _ => (0, 0),
        };
        assert_eq!((pcs, others), expected);
        assert_eq!(flags, pcs);

        let mut xml = String::new();
        while !xml.contains("</threads>") {
            let offset = xml.len();
            let piece = world.ask(lldb, &format!("qXfer:threads:read::{offset:x},fff"));
            xml.push_str(&piece[1..]);
        }
        assert_eq!(xml.matches("<thread id=").count(), count);
    }
}

#[test]
fn the_list_of_libraries_is_json() {
    let mut world = World::new(Config::vcpus(1), Choices::Fair(0));
    let lldb = world.connect();
    world.clients[lldb].is_checked = false;
    let libraries = world.ask(lldb, "jGetLoadedDynamicLibrariesInfos:{}");
    assert_eq!(libraries, "{\"images\":[]}");
}
