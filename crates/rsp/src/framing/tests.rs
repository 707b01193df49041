use super::{AckMode, Deframer, Event};
use crate::client::encode_packet;
use alloc::vec::Vec;

/// An event with its body, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Packet(Vec<u8>),
    Notification(Vec<u8>),
    Interrupt,
    Ack,
    Nack,
    BadChecksum,
    Oversize,
}

fn drain(deframer: &mut Deframer, mut input: &[u8], seen: &mut Vec<Seen>) {
    while let Some(event) = deframer.next(&mut input) {
        seen.push(match event {
            Event::Packet(body) => Seen::Packet(body.to_vec()),
            Event::Notification(body) => Seen::Notification(body.to_vec()),
            Event::Interrupt => Seen::Interrupt,
            Event::Ack => Seen::Ack,
            Event::Nack => Seen::Nack,
            Event::BadChecksum => Seen::BadChecksum,
            Event::Oversize => Seen::Oversize,
        });
    }
    assert!(input.is_empty());
}

const MAX_BYTES: usize = 256;

/// What a server sees, the same wherever the input is split.
fn requests(input: &[u8]) -> Vec<Seen> {
    split_everywhere(&|| Deframer::new(MAX_BYTES), input)
}

/// What a client sees, the same wherever the input is split.
fn replies(input: &[u8]) -> Vec<Seen> {
    split_everywhere(&|| Deframer::for_replies(MAX_BYTES), input)
}

fn split_everywhere(new: &dyn Fn() -> Deframer, input: &[u8]) -> Vec<Seen> {
    let mut whole = Vec::new();
    drain(&mut new(), input, &mut whole);
    for at in 0..=input.len() {
        let (mut deframer, mut seen) = (new(), Vec::new());
        drain(&mut deframer, &input[..at], &mut seen);
        drain(&mut deframer, &input[at..], &mut seen);
        assert_eq!(seen, whole, "split at {at}");
    }
    let (mut deframer, mut seen) = (new(), Vec::new());
    for byte in input {
        drain(&mut deframer, core::slice::from_ref(byte), &mut seen);
    }
    assert_eq!(seen, whole, "split into single bytes");
    whole
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_packet(payload, &mut out);
    out
}

fn seen_packet(body: &[u8]) -> Seen {
    Seen::Packet(body.to_vec())
}

#[test]
fn packets_acks_and_interrupts_come_in_order() {
    let seen = requests(b"+$?#3f-\x03$g#67");
    let expected = [
        Seen::Ack,
        seen_packet(b"?"),
        Seen::Nack,
        Seen::Interrupt,
        seen_packet(b"g"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn an_empty_body_is_a_packet() {
    assert_eq!(replies(b"$#00"), [seen_packet(b"")]);
}

#[test]
fn checksum_digits_have_either_case() {
    assert_eq!(
        requests(b"$M0#7D$M0#7d"),
        [seen_packet(b"M0"), seen_packet(b"M0")]
    );
}

#[test]
fn junk_between_packets_is_ignored() {
    assert_eq!(
        requests(b"GET / #}*\r\n$g#67\0\xff#00$?#3f"),
        [seen_packet(b"g"), seen_packet(b"?")]
    );
}

#[test]
fn truncation_at_every_length_yields_nothing() {
    let whole = packet(b"X1000,3:a}\x03b");
    for len in 0..whole.len() {
        assert_eq!(requests(&whole[..len]), [], "{len}");
    }
}

#[test]
fn a_bad_checksum_is_told_and_the_next_packet_is_good() {
    for bad in [b"$g#66", b"$g#6x", b"$g#x7", b"$g#76"] {
        let mut input = bad.to_vec();
        input.extend_from_slice(b"$g#67");
        assert_eq!(requests(&input), [Seen::BadChecksum, seen_packet(b"g")]);
    }
}

#[test]
fn every_flipped_bit_of_a_packet_is_noticed() {
    let whole = packet(b"m1000,40");
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let seen = requests(&damaged);
        // The case of a checksum's digit is one bit that may flip.
        let is_case = bit / 8 >= whole.len() - 2 && bit % 8 == 5 && whole[bit / 8] >= b'a';
        assert_eq!(seen.contains(&seen_packet(b"m1000,40")), is_case, "{bit}");
    }
}

#[test]
fn without_acks_the_checksum_is_not_looked_at() {
    let (mut deframer, mut seen) = (Deframer::new(MAX_BYTES), Vec::new());
    deframer.set_ack_mode(AckMode::NoAck);
    assert_eq!(deframer.ack_mode(), AckMode::NoAck);
    drain(&mut deframer, b"$g#00$?#zz", &mut seen);
    assert_eq!(seen, [seen_packet(b"g"), seen_packet(b"?")]);
}

#[test]
fn an_interrupt_within_a_packet_is_told_at_once_and_not_part_of_it() {
    let expected = [Seen::Interrupt, seen_packet(b"m10,4")];
    let whole = packet(b"m10,4");
    for at in 0..whole.len() {
        let mut input = whole.clone();
        input.insert(at, 3);
        assert_eq!(requests(&input), expected, "{at}");
    }
    let mut twice = whole;
    twice.splice(2..2, [3, 3]);
    assert_eq!(
        requests(&twice),
        [Seen::Interrupt, Seen::Interrupt, seen_packet(b"m10,4")]
    );
}

#[test]
fn binary_data_in_requests_may_hold_any_byte() {
    let heads: [&[u8]; 5] = [
        b"X1000,3:",
        b"vFile:pwrite:5,10,",
        b"qXfer:siginfo:write:annex:0:",
        b"qSearch:memory:1000;10;",
        b"vFlashWrite:1000:",
    ];
    for head in heads {
        let body = [head, b"\x03$*!\x03"].concat();
        assert_eq!(requests(&packet(&body)), [seen_packet(&body)]);
    }
}

#[test]
fn the_head_of_a_binary_packet_is_not_data() {
    let input = b"$X10\x0300,1:\x03#b3";
    assert_eq!(
        requests(input),
        [Seen::Interrupt, seen_packet(b"X1000,1:\x03")]
    );
    // A `read` has no data.
    let read = packet(b"qXfer:features:read:a:0,\x0310");
    let seen = requests(&read);
    assert_eq!(seen.first(), Some(&Seen::Interrupt));
}

#[test]
fn escapes_give_every_byte() {
    let input = packet(b"X0,4:}\x03}\x04}]}\x0a");
    assert_eq!(requests(&input), [seen_packet(b"X0,4:#$}*")]);
    assert_eq!(
        replies(&packet(b"b}\x03}\x04}]}\x0a\x03")),
        [seen_packet(b"b#$}*\x03")]
    );
}

#[test]
fn an_escape_cut_off_by_the_end_mark_adds_nothing() {
    assert_eq!(replies(&packet(b"ab}")), [seen_packet(b"ab")]);
}

#[test]
fn the_manuals_run_lengths_are_expanded() {
    // "Overview": `0* ` is `0000`; eight zeros are `0*"00`.
    assert_eq!(replies(&packet(b"0* ")), [seen_packet(b"0000")]);
    assert_eq!(replies(&packet(b"0*\"00")), [seen_packet(b"00000000")]);
    assert_eq!(
        replies(&packet(b"x*~y")),
        [seen_packet(&[[b'x'; 98].as_slice(), b"y"].concat())]
    );
}

#[test]
fn a_run_may_repeat_any_raw_byte_and_have_any_printable_count() {
    for count in (b' '..=b'~').filter(|count| !matches!(count, b'#' | b'$')) {
        let body = [b'7', b'*', count];
        let expected = alloc::vec![b'7'; usize::from(count) - 29 + 1];
        assert_eq!(replies(&packet(&body)), [Seen::Packet(expected)], "{count}");
    }
    assert_eq!(
        replies(&packet(b"}\x04* ")),
        [seen_packet(b"$\x04\x04\x04")]
    );
}

#[test]
fn a_star_that_starts_no_run_is_kept() {
    for body in [b"* ".as_slice(), b"a*\x1f", b"a*\x7f", b"a*"] {
        assert_eq!(replies(&packet(body)), [seen_packet(body)], "{body:?}");
    }
}

#[test]
fn a_new_start_drops_the_packet_before() {
    assert_eq!(requests(b"$m100$g#67"), [seen_packet(b"g")]);
    assert_eq!(requests(b"$m100#$g#67"), [seen_packet(b"g")]);
    assert_eq!(requests(b"$m100#1$g#67"), [seen_packet(b"g")]);
    assert_eq!(requests(b"$m1*$g#67"), [seen_packet(b"g")]);
}

#[test]
fn an_oversize_packet_is_dropped_and_told() {
    let fits = packet(&[b'a'; MAX_BYTES]);
    assert_eq!(requests(&fits), [Seen::Packet([b'a'; MAX_BYTES].to_vec())]);
    let mut input = packet(&[b'a'; MAX_BYTES + 1]);
    input.extend_from_slice(b"$g#67");
    assert_eq!(requests(&input), [Seen::Oversize, seen_packet(b"g")]);
    // Damaged as well, it has to be asked for again first.
    let len = input.len();
    input[len - 6] ^= 1;
    assert_eq!(requests(&input), [Seen::BadChecksum, seen_packet(b"g")]);
}

#[test]
fn runs_count_expanded_against_the_limit() {
    let body = b"a*~*~*~";
    assert_eq!(replies(&packet(body)), [Seen::Oversize]);
}

#[test]
fn an_endless_packet_takes_no_more_memory_than_the_limit() {
    let (mut deframer, mut seen) = (Deframer::new(MAX_BYTES), Vec::new());
    drain(&mut deframer, b"$", &mut seen);
    for _ in 0..1000 {
        drain(&mut deframer, &[b'a'; 1000], &mut seen);
        drain(&mut deframer, b"a*~\x03", &mut seen);
    }
    assert!(deframer.body.capacity() <= 2 * MAX_BYTES);
    assert!(seen.iter().all(|event| *event == Seen::Interrupt) && seen.len() == 1000);
}

#[test]
fn notifications_are_told_apart_and_lost_when_damaged() {
    let stop = b"%Stop:T05#99";
    assert_eq!(replies(stop), [Seen::Notification(b"Stop:T05".to_vec())]);
    assert_eq!(replies(b"%Stop:T05#00"), []);
    let mut oversize = packet(&[b'a'; MAX_BYTES + 1]);
    oversize[0] = b'%';
    assert_eq!(replies(&oversize), []);
}

#[test]
fn a_client_takes_no_interrupts() {
    assert_eq!(replies(b"\x03$b\x03#65\x03"), [seen_packet(b"b\x03")]);
}
