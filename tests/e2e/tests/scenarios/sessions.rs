//! Clients that come, go, share, misbehave and die.

use anyhow::{Result, ensure};
use trapline_e2e::{Answer, LIMIT, RawClient, Reason, Stage};
use trapline_guests::{COUNTER, SMP_PING_PONG, SYSCALL_HEAVY};

crate::scenarios! {
    Each [AnyKvm KvmArm64 El2] a_debugger_killed_at_a_stop_leaves_nothing;
    Each [AnyKvm KvmArm64 El2] a_debugger_killed_while_the_guest_runs_leaves_nothing;
    Each [AnyKvm KvmArm64 El2] a_debugger_killed_in_the_middle_of_steps_leaves_nothing;
    Each Hardware a_debugger_killed_in_the_middle_of_steps_leaves_nothing_in_user_mode;
    Neither [AnyKvm KvmArm64 El2] a_client_that_goes_in_the_middle_of_a_packet_leaves_nothing;
    Each [AnyKvm KvmArm64 El2] a_debugger_comes_back_after_a_detach;
    Each [AnyKvm KvmArm64] a_second_client_reads_while_the_guest_runs;
    Each [AnyKvm KvmArm64] what_one_client_stops_is_stopped_for_the_other;
    Each [AnyKvm KvmArm64] bad_packets_of_another_client_do_no_harm;
    Neither [AnyKvm KvmArm64 El2] a_bad_checksum_is_asked_for_again;
    Neither [AnyKvm KvmArm64 El2] malformed_packets_are_errors_and_unknown_ones_empty;
    Neither [AnyKvm KvmArm64] an_oversize_packet_is_refused_and_the_session_goes_on;
    Neither [AnyKvm KvmArm64] a_read_only_client_changes_nothing;
    Neither AnyKvm a_socket_is_its_users_alone;
    Neither AnyKvm a_flood_of_requests_without_reading_harms_nobody_else;
}

fn a_debugger_killed_at_a_stop_leaves_nothing(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let point = debugger.break_at(&guest.symbol("tick")?.into())?;
    debugger.hbreak(&guest.symbol("hot")?.into())?;
    debugger.cont_to(point)?;
    debugger.kill()?;
    stage.let_go(&guest)?;
    guest.expect_passed()
}

fn a_debugger_killed_while_the_guest_runs_leaves_nothing(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut debugger = stage.attach(&guest)?;
    let hot = debugger.break_at(&guest.symbol("hot")?.into())?;
    debugger.cont_to(hot)?;
    debugger.condition(hot, &format!("${} == -1", stage.names().argument))?;
    debugger.resume()?;
    debugger.kill()?;
    // A new client lets it come to its end: two more rounds, and the checks that follow.
    let mut client = stage.client(&guest)?;
    ensure!(client.resume("?")?.starts_with('T'));
    let rounds = guest.symbol("rounds")?;
    ensure!(client.ask(&format!("M{rounds:x},8:0200000000000000"))? == "OK");
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

fn a_debugger_killed_in_the_middle_of_steps_leaves_nothing(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let point = debugger.break_at(&guest.symbol("tick")?.into())?;
    debugger.cont_to(point)?;
    for _ in 0..20 {
        debugger.step()?;
    }
    debugger.start_step()?;
    debugger.kill()?;
    stage.let_go(&guest)?;
    guest.expect_passed()
}

fn a_debugger_killed_in_the_middle_of_steps_leaves_nothing_in_user_mode(
    stage: &Stage,
) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&SYSCALL_HEAVY)?;
    let point = debugger.break_at(&guest.symbol("user_syscall")?.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    for _ in 0..20 {
        debugger.step()?;
    }
    debugger.start_step()?;
    debugger.kill()?;
    guest.expect_passed()
}

fn a_client_that_goes_in_the_middle_of_a_packet_leaves_nothing(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let tick = guest.symbol("tick")?;
    let mut client = stage.client(&guest)?;
    let kind = stage.breakpoint_kind();
    ensure!(client.ask(&format!("Z0,{tick:x},{kind}"))? == "OK");
    client.resume("vCont;c")?;
    client.send(format!("$M{tick:x},100:0000").as_bytes())?;
    drop(client);
    stage.let_go(&guest)?;
    guest.expect_passed()
}

fn a_debugger_comes_back_after_a_detach(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut rounds = 0;
    for _ in 0..3 {
        let mut debugger = stage.attach(&guest)?;
        let point = debugger.break_at(&guest.symbol("tick")?.into())?;
        debugger.cont_to(point)?;
        let now = debugger.read_u64(guest.symbol("counter")?)?;
        ensure!(now >= rounds);
        rounds = now;
        debugger.detach()?;
    }
    Ok(())
}

fn a_second_client_reads_while_the_guest_runs(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut debugger = stage.attach(&guest)?;
    let hot = debugger.break_at(&guest.symbol("hot")?.into())?;
    debugger.cont_to(hot)?;
    debugger.delete(hot)?;
    let mut looker = RawClient::without_acks(guest.read_only_socket(), stage.transcript())?;
    debugger.resume()?;
    let counter = guest.symbol("counter")?;
    let mut last = 0;
    for _ in 0..1000 {
        let digits = looker.ask(&format!("m{counter:x},8"))?;
        let bytes: [u8; 8] = match trapline_rsp::client::decode_hex(digits.as_bytes()) {
            Ok(bytes) if bytes.len() == 8 => {
                core::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))
            }
            _ => anyhow::bail!("a read of a running guest: {digits}"),
        };
        let now = u64::from_le_bytes(bytes);
        ensure!(now >= last);
        if last != 0 && now > last {
            debugger.interrupt()?;
            let stop = debugger.wait_stop(LIMIT)?;
            ensure!(stop.reason == Reason::Signal("SIGINT".into()), "{stop:?}");
            return Ok(());
        }
        last = now;
    }
    anyhow::bail!("the guest does not run while it is read")
}

fn what_one_client_stops_is_stopped_for_the_other(stage: &Stage) -> Result<()> {
    let guest = stage
        .guest(&SMP_PING_PONG)
        .cpus(2)
        .cmdline("endless")
        .start()?;
    let mut debugger = stage.attach(&guest)?;
    let mut client = stage.client(&guest)?;
    debugger.resume()?;
    let serve = guest.symbol("serve")?;
    let kind = stage.breakpoint_kind();
    ensure!(client.ask(&format!("Z0,{serve:x},{kind}"))? == "OK");
    // The breakpoint of one stops the guest for both.
    let stop = debugger.wait_stop(LIMIT)?;
    ensure!(stop.pc == serve, "{stop:?}");
    ensure!(client.ask(&format!("z0,{serve:x},{kind}"))? == "OK");
    debugger.resume()?;
    debugger.interrupt()?;
    debugger.wait_stop(LIMIT)?;
    Ok(())
}

fn bad_packets_of_another_client_do_no_harm(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let point = debugger.break_at(&guest.symbol("tick")?.into())?;
    let mut client = RawClient::connect(guest.socket(), stage.transcript())?;
    let noise: [&[u8]; 8] = [
        b"junk between packets",
        b"$m1,1#00",
        b"$Z9,0,0#zz",
        b"$#00$#00$#00",
        b"$Gnothex#41",
        b"$vCont;q#12",
        b"\x00\xff\x7f+-+-}}}}",
        b"$vMustReplyEmpty#3a",
    ];
    for count in 0..3 {
        for bytes in noise {
            client.send(bytes)?;
        }
        debugger.cont_to(point)?;
        ensure!(debugger.read_u64(guest.symbol("counter")?)? == count);
    }
    drop(client);
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_bad_checksum_is_asked_for_again(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = RawClient::connect(guest.socket(), stage.transcript())?;
    client.send(b"$qC#00")?;
    ensure!(client.receive(LIMIT)? == Answer::Nack);
    client.send(b"$qC#b4")?;
    ensure!(client.receive(LIMIT)? == Answer::Ack);
    let answer = client.receive(LIMIT)?;
    ensure!(
        matches!(&answer, Answer::Packet(body) if body.starts_with(b"QC")),
        "{answer:?}"
    );
    // What was not understood is sent again.
    client.send(b"-")?;
    ensure!(client.receive(LIMIT)? == answer);
    client.send(b"+")
}

fn malformed_packets_are_errors_and_unknown_ones_empty(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    for unknown in ["vMustReplyEmpty", "qNothingLikeThis", "!!", "vNothing;1"] {
        let answer = client.ask(unknown)?;
        ensure!(answer.is_empty(), "{unknown}: {answer}");
    }
    let malformed = [
        "m",
        "mzz,1",
        "m0",
        "M0,4:00",
        "Gxy",
        "p",
        "pzzzz",
        "Pffff=00",
        "Z0",
        "Z0,zz,1",
        "z0,0",
        "Hg",
        "Hgzz",
        "T",
        "vCont;",
        "vCont;s:zz",
        "X0,10:",
        "qRcmd,0",
        "qXfer:features:read:target.xml:zz",
    ];
    for packet in malformed {
        let answer = client.ask(packet)?;
        ensure!(answer.starts_with('E'), "{packet}: {answer:?}");
    }
    let absent = [
        "Hg63",
        "T63",
        "p3fff",
        "m7fffdead0000,8",
        "m8000000000000000,8",
    ];
    for packet in absent {
        let answer = client.ask(packet)?;
        ensure!(answer.starts_with('E'), "{packet}: {answer:?}");
    }
    ensure!(client.ask("qC")?.starts_with("QC"));
    Ok(())
}

fn an_oversize_packet_is_refused_and_the_session_goes_on(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    let long = format!("M100000,40000:{}", "0".repeat(0x8_0000));
    let answer = client.ask(&long)?;
    ensure!(answer.is_empty() || answer.starts_with('E'), "{answer}");
    // A packet without an end is as good as none: the server keeps no more than its limit.
    client.send(b"$M0,1:")?;
    for _ in 0..64 {
        client.send(&[b'0'; 65536])?;
    }
    client.send(b"#00")?;
    let answer = client.answer()?;
    ensure!(answer.is_empty() || answer.starts_with('E'), "{answer}");
    ensure!(client.ask("qC")?.starts_with("QC"));
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

fn a_read_only_client_changes_nothing(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut client = RawClient::without_acks(guest.read_only_socket(), stage.transcript())?;
    let counter = guest.symbol("counter")?;
    ensure!(client.ask(&format!("m{counter:x},8"))? == "0000000000000000");
    ensure!(!client.ask("g")?.starts_with('E'));
    let changes = [
        format!("M{counter:x},1:01"),
        "P0=0100000000000000".to_owned(),
        format!("Z0,{counter:x},1"),
        format!("Z1,{counter:x},1"),
        "vCont;c".to_owned(),
        "vCont;s:1".to_owned(),
        "c".to_owned(),
        "s".to_owned(),
        "k".to_owned(),
    ];
    for packet in changes.iter().take(8) {
        let answer = client.ask(packet)?;
        ensure!(answer.starts_with('E'), "{packet}: {answer:?}");
    }
    drop(client);
    let mut client = stage.client(&guest)?;
    ensure!(client.ask(&format!("m{counter:x},8"))? == "0000000000000000");
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

fn a_socket_is_its_users_alone(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let guest = stage.guest(&COUNTER).start()?;
    let mode = std::fs::metadata(guest.socket())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    Ok(())
}

/// It sends and never reads: its replies back up, and only its own.
fn a_flood_of_requests_without_reading_harms_nobody_else(stage: &Stage) -> Result<()> {
    use core::time::Duration;
    use std::{io::Write as _, os::unix::net::UnixStream};
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut flood = UnixStream::connect(guest.socket())?;
    flood.set_write_timeout(Some(Duration::from_millis(200)))?;
    let mut packet = Vec::new();
    trapline_rsp::client::encode_packet(b"m100000,8000", &mut packet);
    for _ in 0..20_000 {
        if flood.write_all(&packet).is_err() {
            break;
        }
    }
    let mut client = stage.client(&guest)?;
    for _ in 0..100 {
        ensure!(client.ask("qC")?.starts_with("QC"));
    }
    ensure!(client.ask("D")? == "OK");
    drop(flood);
    guest.expect_passed()
}
