//! The server on a serial line, by a client at the line's other end.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::fake::Fake;

/// Returns the client's end of a line, and the device that the server is to use.
fn line() -> (File, PathBuf) {
    let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&end).unwrap();
    unlockpt(&end).unwrap();
    let device = ptsname(&end, Vec::new()).unwrap();
    (File::from(end), PathBuf::from(device.to_str().unwrap()))
}

/// Sends a packet and returns the reply's body.
fn ask(line: &mut File, body: &str) -> String {
    let sum = body.bytes().fold(0, u8::wrapping_add);
    write!(line, "${body}#{sum:02x}").unwrap();
    let mut reply = Vec::new();
    while reply.iter().rev().nth(2) != Some(&b'#') {
        let mut byte = [0];
        line.read_exact(&mut byte).unwrap();
        reply.push(byte[0]);
    }
    line.write_all(b"+").unwrap();
    let reply = String::from_utf8(reply).unwrap();
    let body = reply.trim_start_matches('+').trim_start_matches('$');
    body.split('#').next().unwrap_or_default().to_owned()
}

#[test]
fn a_serial_line_is_served_to_one_client_after_another() {
    let (mut line, device) = line();
    let fake = Fake::on_line(device);
    for _ in 0..2 {
        // What the line had before the client came is no packet.
        line.write_all(b"\r\nlogin: ").unwrap();
        assert!(ask(&mut line, "?").starts_with("T05"));
        assert_eq!(ask(&mut line, "m1000,2"), "9090");
        assert_eq!(ask(&mut line, "D"), "OK");
        fake.expect_running();
    }
}
