//! Bytes that come late, twice, broken or in floods (rules S2, S3).

use trapline_engine::{Access, Time};
use trapline_rsp::PACKET_SIZE_BYTES;
use trapline_rsp::client::encode_packet;

use crate::model::memory::{CODE, Code, DATA, own_code};
use crate::model::{Choices, Config, World};

/// A client that acknowledges, and is not held to anything.
fn guest() -> (World, usize) {
    let mut world = World::new(Config::vcpus(1), Choices::Fair(0));
    world.program(own_code(0), Code::default().nop().nop().spin());
    let client = world.open(Access::Full);
    world.clients[client].is_checked = false;
    (world, client)
}

fn packet(payload: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_packet(payload.as_bytes(), &mut bytes);
    bytes
}

/// Sends bytes and returns all that comes back.
fn exchange(world: &mut World, client: usize, bytes: &[u8]) -> String {
    world.clients[client].raw.clear();
    world.send_raw(client, bytes);
    world.ticks(40);
    String::from_utf8_lossy(&world.clients[client].raw).into_owned()
}

#[test]
fn packets_are_acknowledged_until_the_client_ends_that() {
    let (mut world, client) = guest();
    assert_eq!(exchange(&mut world, client, &packet("qC")), "+$QC1#c5");
    assert_eq!(exchange(&mut world, client, b"+"), "");
    let reply = exchange(&mut world, client, &packet("QStartNoAckMode"));
    assert_eq!(reply, "+$OK#9a");
    assert_eq!(exchange(&mut world, client, b"+"), "");
    assert_eq!(exchange(&mut world, client, &packet("qC")), "$QC1#c5");
}

#[test]
fn a_session_ends_when_its_last_reply_is_acknowledged() {
    let (mut world, client) = guest();
    assert_eq!(exchange(&mut world, client, &packet("D")), "+$OK#9a");
    assert!(!world.engine.is_finished(world.clients[client].id));
    assert_eq!(exchange(&mut world, client, b"+"), "");
    assert!(world.engine.is_finished(world.clients[client].id));
}

#[test]
fn a_client_that_does_not_acknowledge_its_detach_is_given_up() {
    let (mut world, client) = guest();
    let id = world.clients[client].id;
    exchange(&mut world, client, &packet("?"));
    world.send_raw(client, b"+");
    assert_eq!(world.engine.work_due(), None);
    assert_eq!(exchange(&mut world, client, &packet("D")), "+$OK#9a");
    let due = world.engine.work_due().unwrap();
    world.engine.work(&mut world.model, Time(due.0 - 1));
    assert!(!world.engine.is_finished(id));
    world.engine.work(&mut world.model, due);
    assert!(world.engine.is_finished(id));
    assert_eq!(world.engine.work_due(), None);
    world.close(client);
    assert!(!world.is_stopped(), "the guest that it let go runs");
}

#[test]
fn a_client_that_does_not_read_its_detach_is_given_up() {
    let (mut world, client) = guest();
    let id = world.clients[client].id;
    // Nobody takes the output.
    let (model, bytes) = (&mut world.model, packet("D"));
    world.engine.handle_input(id, &bytes, model, Time(5));
    world.engine.work(model, Time(2_000_000_005));
    assert!(world.engine.is_finished(id) && world.engine.output(id).is_empty());
}

#[test]
fn a_bad_checksum_is_answered_by_a_nack_and_does_nothing() {
    let (mut world, client) = guest();
    let broken = format!("$M{DATA:x},1:55#00");
    assert_eq!(exchange(&mut world, client, broken.as_bytes()), "-");
    assert_eq!(world.model.ram.byte(DATA), 0);
    let again = packet(&format!("M{DATA:x},1:55"));
    assert_eq!(exchange(&mut world, client, &again), "+$OK#9a");
    assert_eq!(world.model.ram.byte(DATA), 0x55);
}

#[test]
fn a_nack_gets_the_last_reply_again() {
    let (mut world, client) = guest();
    exchange(&mut world, client, &packet("qC"));
    assert_eq!(exchange(&mut world, client, b"-"), "$QC1#c5");
    assert_eq!(exchange(&mut world, client, b"-"), "$QC1#c5");
    assert_eq!(exchange(&mut world, client, b"+"), "");
    // A stop reply too.
    exchange(&mut world, client, &packet("?"));
    let stop = exchange(&mut world, client, &packet("s"));
    assert_eq!(exchange(&mut world, client, b"-"), stop[1..]);
    assert_eq!(world.executed.len(), 1);
}

#[test]
fn a_late_acknowledgement_is_nothing() {
    let (mut world, client) = guest();
    let reply = exchange(&mut world, client, &[packet("qC"), packet("qC")].concat());
    assert_eq!(reply, "+$QC1#c5+$QC1#c5");
    assert_eq!(exchange(&mut world, client, b"++++"), "");
}

#[test]
fn a_resume_that_comes_twice_is_answered_once() {
    let (mut world, client) = guest();
    exchange(&mut world, client, &packet("?"));
    world.clients[client].raw.clear();
    world.send_raw(client, &packet("c"));
    world.ticks(5);
    world.send_raw(client, &packet("c"));
    world.ticks(30);
    world.interrupt(client);
    world.ticks(30);
    let all = String::from_utf8_lossy(&world.clients[client].raw).into_owned();
    assert_eq!(all.matches("$T").count(), 1, "{all}");
    assert!(world.is_stopped());
}

#[test]
fn junk_is_ignored_and_half_a_packet_waits() {
    let (mut world, client) = guest();
    assert_eq!(exchange(&mut world, client, b"junk\0\xff\n#00"), "");
    assert_eq!(exchange(&mut world, client, b"$q"), "");
    assert_eq!(exchange(&mut world, client, b"C#"), "");
    assert_eq!(exchange(&mut world, client, b"b4"), "+$QC1#c5");
}

#[test]
fn unknown_and_malformed_packets_leave_the_session_alone() {
    let (mut world, client) = guest();
    for unknown in ["", "!", "qFoo", "vFoo", "QFoo:1", "~", "jUnknown:{}"] {
        let reply = exchange(&mut world, client, &packet(unknown));
        assert_eq!(reply, "+$#00", "{unknown:?}");
    }
    for malformed in [
        "m", "m,", "mxyz,1", "M0,2:0", "Z0", "Z0,,", "P", "pzz", "vCont;x", "Hg",
    ] {
        let reply = exchange(&mut world, client, &packet(malformed));
        assert!(
            reply.starts_with("+$E") || reply == "+$#00",
            "{malformed:?}: {reply}"
        );
    }
    assert_eq!(exchange(&mut world, client, &packet("qC")), "+$QC1#c5");
    assert!(world.executed.is_empty());
}

#[test]
fn an_oversize_packet_is_refused_and_dropped() {
    let (mut world, client) = guest();
    let huge = "m".repeat(PACKET_SIZE_BYTES + 1);
    let reply = exchange(&mut world, client, &packet(&huge));
    assert_eq!(reply, "+$E16#ac");
    assert_eq!(exchange(&mut world, client, &packet("qC")), "+$QC1#c5");
}

#[test]
fn a_reply_never_outgrows_the_packet() {
    let (mut world, client) = guest();
    for request in [
        "m0,ffffffffffffffff".to_string(),
        "x0,ffffffffffffffff".into(),
        "qXfer:features:read:target.xml:0,ffffffff".into(),
        "qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff".into(),
        "jThreadsInfo".into(),
        format!("qEcho:{}", "}]".repeat(70_000)),
        format!("qCRC:{CODE:x},ffffffff"),
    ] {
        let reply = exchange(&mut world, client, &packet(&request));
        assert!(reply.starts_with("+$"), "{request:.20}");
        let len_bytes = world.clients[client].raw.len();
        assert!(len_bytes <= PACKET_SIZE_BYTES + 6, "{len_bytes}");
    }
}

#[test]
fn a_client_that_does_not_read_is_not_answered_for_ever() {
    let (mut world, client) = guest();
    let id = world.clients[client].id;
    let flood = packet("qXfer:features:read:target.xml:0,ffff").repeat(10);
    for _ in 0..1000 {
        if !world.engine.wants_input(id) {
            break;
        }
        let time = Time(1);
        world
            .engine
            .handle_input(id, &flood, &mut world.model, time);
        assert!(world.engine.output(id).len() < 5 * PACKET_SIZE_BYTES);
    }
    assert!(!world.engine.wants_input(id), "its input is bounded");
    // When it reads, all its requests are answered.
    let mut read = 0;
    while !world.engine.output(id).is_empty() {
        read += 1;
        world
            .engine
            .consume_output(id, 1000, &mut world.model, Time(2));
        assert!(read < 10_000_000);
    }
    assert!(world.engine.wants_input(id));
}

#[test]
fn a_flood_of_nacks_is_bounded() {
    let (mut world, client) = guest();
    let id = world.clients[client].id;
    let time = Time(1);
    let request = packet("qXfer:features:read:target.xml:0,ffff");
    world
        .engine
        .handle_input(id, &request, &mut world.model, time);
    let nacks = vec![b'-'; PACKET_SIZE_BYTES];
    world
        .engine
        .handle_input(id, &nacks, &mut world.model, time);
    assert!(world.engine.output(id).len() < 4 * PACKET_SIZE_BYTES);
}
