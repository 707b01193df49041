//! The server's event loop, by a client that sends packets as it likes.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use trapline_engine::Access;

use crate::fake::{Fake, Kernel};

const INTERRUPT: u8 = 0x03;

/// Sends a monitor command.
fn command(stream: &mut UnixStream, text: &str) {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let body = format!("qRcmd,{digits}");
    let sum = body.bytes().fold(0, u8::wrapping_add);
    write!(stream, "+${body}#{sum:02x}").unwrap();
}

/// Returns the words of the next reply, none of which is a `#`.
fn words(stream: &mut UnixStream) -> String {
    let mut reply = Vec::new();
    while !reply.contains(&b'#') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        reply.extend(byte.iter().filter(|byte| !b"+$".contains(byte)));
    }
    reply
        .chunks_exact(2)
        .map_while(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).ok())
        .map(char::from)
        .collect()
}

#[test]
fn an_interrupt_ends_a_million_steps_that_are_answered_at_once() {
    let fake = Fake::with(Kernel::Unknown, Access::Full);
    let mut client = UnixStream::connect(fake.socket()).unwrap();
    command(&mut client, "interrupt");
    assert!(words(&mut client).contains("stopped by request"));
    command(&mut client, "step 1000000");
    fake.expect_away_from(0x1000);
    client.write_all(&[INTERRUPT]).unwrap();
    let text = words(&mut client);
    assert!(text.contains(" of 1000000 steps)"), "{text}");
}

#[test]
fn others_are_served_while_one_steps() {
    let fake = Fake::with(Kernel::Unknown, Access::Full);
    let mut stepping = UnixStream::connect(fake.socket()).unwrap();
    command(&mut stepping, "interrupt");
    assert!(words(&mut stepping).contains("stopped by request"));
    command(&mut stepping, "step 1000000");
    fake.expect_away_from(0x1000);
    let mut other = UnixStream::connect(fake.socket()).unwrap();
    command(&mut other, "interrupt");
    assert!(words(&mut other).contains("step"));
    assert!(words(&mut stepping).contains(" of 1000000 steps)"));
}
