//! What no debugger sends on purpose: pieces, heaps, packets without an end, addresses that are nowhere.

use anyhow::{Result, ensure};
use trapline_e2e::{RawClient, RunningGuest, Stage};
use trapline_guests::COUNTER;
use trapline_rsp::client::encode_packet;

crate::scenarios! {
    Neither AnyKvm packets_in_pieces_and_in_heaps_are_answered_in_order;
    Each AnyKvm an_endless_packet_holds_nobody_up;
    Neither AnyKvm an_address_that_is_not_there_is_named;
    Neither AnyKvm what_a_guest_does_not_have_is_named;
}

/// More than the server keeps for a client, several times.
const ENDLESS_BYTES: usize = 16 << 20;
const CHUNK_BYTES: usize = 64 << 10;

/// Two clients whose packets arrive byte by byte in turns, then each a hundred at once.
fn packets_in_pieces_and_in_heaps_are_answered_in_order(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let (mut first, mut second) = (stage.client(&guest)?, stage.client(&guest)?);
    let (tick, hot) = (guest.symbol("tick")?, guest.symbol("hot")?);
    let at_tick = first.ask(&format!("m{tick:x},64"))?;
    let at_hot = second.ask(&format!("m{hot:x},64"))?;
    let (one, other) = (
        frame(&format!("m{tick:x},64")),
        frame(&format!("m{hot:x},64")),
    );
    ensure!(one.len() == other.len());
    for (one, other) in one.iter().zip(&other) {
        first.send(&[*one])?;
        second.send(&[*other])?;
    }
    ensure!(first.answer()? == at_tick);
    ensure!(second.answer()? == at_hot);
    let heap: Vec<u8> = (1..=100)
        .flat_map(|length| frame(&format!("m{tick:x},{length:x}")))
        .collect();
    first.send(&heap)?;
    second.send(&heap)?;
    for length in 1..=100 {
        for client in [&mut first, &mut second] {
            let answer = client.answer()?;
            ensure!(
                Some(answer.as_str()) == at_tick.get(..2 * length),
                "{length}: {answer}"
            );
        }
    }
    ensure!(first.ask("D")? == "OK");
    ensure!(second.ask("D")? == "OK");
    guest.expect_passed()
}

/// One client sends a packet that does not end. A debugger works meanwhile, and afterwards so can the client.
fn an_endless_packet_holds_nobody_up(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let mut client = stage.client(&guest)?;
    let point = debugger.break_at(&guest.symbol("tick")?.into())?;
    client.send(b"$X0,1:")?;
    for count in 0..4 {
        for _ in 0..ENDLESS_BYTES / CHUNK_BYTES / 4 {
            client.send(&[b'x'; CHUNK_BYTES])?;
        }
        debugger.cont_to(point)?;
        ensure!(debugger.read_u64(guest.symbol("counter")?)? == count);
    }
    client.send(b"#00")?;
    let answer = client.answer()?;
    ensure!(answer.is_empty() || answer.starts_with('E'), "{answer}");
    ensure!(client.ask("qC")?.starts_with("QC"));
    drop(client);
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// A client that understands errors in words.
fn reader(stage: &Stage, guest: &RunningGuest) -> Result<RawClient> {
    let mut client = stage.client(guest)?;
    let features = client.ask("qSupported:error-message+")?;
    ensure!(features.contains("error-message+"), "{features}");
    Ok(client)
}

fn is_told(client: &mut RawClient, packet: &str, words: &[&str]) -> Result<()> {
    let answer = client.ask(packet)?;
    ensure!(answer.starts_with("E."), "{packet}: {answer:?}");
    for word in words {
        ensure!(answer.contains(word), "{packet}: no {word:?} in {answer:?}");
    }
    Ok(())
}

/// Unmapped in the lower half, and not canonical.
fn an_address_that_is_not_there_is_named(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut client = reader(stage, &guest)?;
    for address in ["7fffdead0000", "8000000000000000", "ffffffffffffffff"] {
        for packet in [
            format!("m{address},1"),
            format!("x{address},1"),
            format!("M{address},1:00"),
            format!("X{address},1:z"),
        ] {
            is_told(&mut client, &packet, &[address])?;
        }
        let text = client.monitor(&format!("x 0x{address}"));
        ensure!(format!("{text:?}").contains(address), "{text:?}");
        let text = client.monitor(&format!("translate 0x{address}"));
        ensure!(format!("{text:?}").contains(address), "{text:?}");
    }
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

/// Registers, threads, slots and lengths.
fn what_a_guest_does_not_have_is_named(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut client = reader(stage, &guest)?;
    is_told(&mut client, "Hg63", &["thread 99"])?;
    is_told(&mut client, "T63", &["thread 99"])?;
    is_told(&mut client, "vCont;s:63", &["thread 99"])?;
    is_told(&mut client, "p3fff", &["register"])?;
    is_told(&mut client, "P3fff=00", &["register"])?;
    is_told(&mut client, "P0=00", &["byte"])?;
    let tick = guest.symbol("tick")?;
    for slot in 0..4 {
        ensure!(client.ask(&format!("Z1,{:x},1", tick + slot))? == "OK");
    }
    is_told(
        &mut client,
        &format!("Z1,{:x},1", tick + 4),
        &["4", "breakpoint"],
    )?;
    ensure!(client.ask("qC")?.starts_with("QC"));
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

fn frame(body: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_packet(body.as_bytes(), &mut frame);
    frame
}
