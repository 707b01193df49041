use super::{EncodeError, Encoder, RunLength};
use crate::framing::{Deframer, Event};
use crate::thread_id::{ProcessId, ThreadId, ThreadSpec};
use alloc::string::String;
use alloc::vec::Vec;

/// Writes to an encoder by a chain of calls.
trait Build: for<'e, 'b> FnOnce(&'e mut Encoder<'b>) -> &'e mut Encoder<'b> {}
impl<F> Build for F where F: for<'e, 'b> FnOnce(&'e mut Encoder<'b>) -> &'e mut Encoder<'b> {}

fn built(build: impl Build) -> String {
    built_with(RunLength::Off, build)
}

fn built_with(run_length: RunLength, build: impl Build) -> String {
    let mut out = Vec::new();
    let mut encoder = Encoder::packet(&mut out, 4096);
    build(&mut encoder);
    encoder.finish(run_length).unwrap();
    String::from_utf8(out).unwrap()
}

fn shortened(text: &str) -> String {
    let packet = built_with(RunLength::On, |encoder| encoder.text(text));
    let (body, _) = packet.strip_prefix('$').unwrap().rsplit_once('#').unwrap();
    body.into()
}

fn round_trip(build: impl Build, run_length: RunLength) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::packet(&mut out, 1 << 20);
    build(&mut encoder);
    encoder.finish(run_length).unwrap();
    let mut deframer = Deframer::for_replies(1 << 20);
    let mut input = out.as_slice();
    let Some(Event::Packet(body)) = deframer.next(&mut input) else {
        panic!("no packet")
    };
    body.to_vec()
}

#[test]
fn standard_replies_are_exact() {
    assert_eq!(built(|e| e.ok()), "$OK#9a");
    assert_eq!(built(|e| e.unsupported()), "$#00");
    assert_eq!(built(|e| e.error(0x0e)), "$E0e#da");
    assert_eq!(
        built(|e| e.stop(5).register(0x10, &[0, 1])),
        "$T0510:0001;#50"
    );
    assert_eq!(built(|e| e.error_text("no #1 slot")), "$E.no ?1 slot#c2");
    assert_eq!(built(|e| e.error_lldb(1, "no")), "$E01;6e6f#18");
}

#[test]
fn numbers_and_bytes_are_written() {
    let packet = built(|e| {
        e.hex_u64(0)
            .text(",")
            .hex_u64(0x1_0000)
            .text(",")
            .hex_u64_le(0x1234, 4);
        e.text(",")
            .hex_u64_le(1, 9)
            .text(",")
            .hex_text("hi")
            .text(",")
            .hex_bytes(&[0xff, 0])
    });
    assert!(
        packet.starts_with("$0,10000,34120000,0100000000000000,6869,ff00#"),
        "{packet}"
    );
}

#[test]
fn pairs_are_written() {
    let thread = ThreadSpec::with_process(ProcessId::new(1), ThreadId::new(0x2a));
    let packet = built(|e| {
        e.key_thread("thread", thread)
            .key_hex("watch", 0xffff_8000)
            .key_text("swbreak", "");
        e.key_hex_text("name", "vm")
            .key_display("ptrsize", 8)
            .register(0x100, &[7])
    });
    let expected = "$thread:p1.2a;watch:ffff8000;swbreak:;name:766d;ptrsize:8;100:07;#";
    assert!(packet.starts_with(expected), "{packet}");
}

#[test]
fn notifications_have_their_own_mark() {
    let mut out = b"+".to_vec();
    let mut encoder = Encoder::notification(&mut out, "Stop", 100);
    encoder.stop(5);
    encoder.finish(RunLength::Off).unwrap();
    assert_eq!(out, b"+%Stop:T05#99");
}

#[test]
fn reserved_bytes_are_escaped() {
    let mut out = Vec::new();
    let mut encoder = Encoder::packet(&mut out, 100);
    encoder.binary(b"a#$}*\x03");
    encoder.finish(RunLength::Off).unwrap();
    assert!(out.starts_with(b"$a}\x03}\x04}]}\x0a\x03#"));
}

#[test]
fn runs_are_the_manuals() {
    assert_eq!(shortened("0000"), "0* ");
    assert_eq!(shortened("00000000"), "0*\"00");
    assert_eq!(shortened("000"), "000");
    assert_eq!(shortened("abbbbbc"), "ab*!c");
    assert_eq!(shortened(&"x".repeat(98)), "x*~");
    assert_eq!(shortened(&"x".repeat(99)), "x*~x");
}

#[test]
fn every_length_of_run_survives_and_never_grows() {
    for len in 0..400 {
        let data = alloc::vec![b'0'; len];
        assert_eq!(round_trip(|e| e.binary(&data), RunLength::On), data);
        let text = shortened(&"0".repeat(len));
        assert!(text.len() <= len);
        assert!(!text.contains(['#', '$', '+', '-']), "{text}");
    }
}

#[test]
fn escapes_and_runs_do_not_mix() {
    let samples: [&[u8]; 6] = [
        b"}}}}}}}}",
        b"********",
        b"]]]]]]]]",
        b"}]]]]]]]]",
        b"#\x03\x03\x03\x03\x03",
        b"\x0a*\x0a\x0a\x0a\x0a\x0a",
    ];
    for data in samples {
        assert_eq!(round_trip(|e| e.binary(data), RunLength::On), data);
    }
}

#[test]
fn all_byte_values_at_all_alignments_round_trip() {
    let data: Vec<u8> = (0..=255).cycle().take(1024).collect();
    for start in 0..64 {
        for run_length in [RunLength::On, RunLength::Off] {
            let part = &data[start..];
            assert_eq!(round_trip(|e| e.binary(part), run_length), part);
        }
    }
}

#[test]
fn a_body_past_the_limit_leaves_no_trace() {
    let mut out = b"+".to_vec();
    let mut encoder = Encoder::packet(&mut out, 4);
    encoder.text("ab").hex_bytes(&[1, 2]).text("c");
    assert_eq!(
        encoder.finish(RunLength::Off),
        Err(EncodeError::TooLong { limit_bytes: 4 })
    );
    assert_eq!(out, b"+");
}

#[test]
fn the_limit_counts_bytes_as_sent() {
    for (data, limit_bytes) in [(b"ab".as_slice(), 2), (b"a#", 3)] {
        let fits = |limit_bytes| {
            let mut out = Vec::new();
            let mut encoder = Encoder::packet(&mut out, limit_bytes);
            encoder.binary(data);
            encoder.finish(RunLength::Off).is_ok()
        };
        assert!(fits(limit_bytes) && !fits(limit_bytes - 1));
    }
    let mut out = Vec::new();
    let mut encoder = Encoder::packet(&mut out, 2);
    encoder.hex_u64(0x100);
    assert_eq!(encoder.remaining_bytes(), 2);
    assert!(encoder.finish(RunLength::Off).is_err());
}

#[test]
fn a_prefix_takes_what_fits() {
    for (data, limit_bytes, taken) in [
        (b"abcd".as_slice(), 3, 3),
        (b"a#cd", 2, 1),
        (b"a#cd", 3, 2),
        (b"ab", 9, 2),
        (b"##", 0, 0),
    ] {
        let mut out = Vec::new();
        let mut encoder = Encoder::packet(&mut out, limit_bytes);
        assert_eq!(encoder.binary_prefix(data), taken);
        encoder.finish(RunLength::Off).unwrap();
    }
}

#[test]
fn a_dropped_encoder_leaves_no_trace() {
    let mut out = b"+".to_vec();
    Encoder::packet(&mut out, 100).text("half");
    assert_eq!(out, b"+");
}
