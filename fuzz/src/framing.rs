use trapline_rsp::{AckMode, Deframer, Encoder, Event, RunLength};

const MAX_BYTES: usize = 64;

/// Reads `data` as a byte stream from either side, and as data to be carried in a packet.
pub fn framing(data: &[u8]) {
    for new in [Deframer::new, Deframer::for_replies] {
        for ack_mode in [AckMode::Ack, AckMode::NoAck] {
            let at_once = events(new, ack_mode, data.chunks(data.len().max(1)));
            assert_eq!(
                at_once,
                events(new, ack_mode, data.chunks(1)),
                "split into bytes"
            );
            assert_eq!(
                at_once,
                events(new, ack_mode, data.chunks(7)),
                "split into sevens"
            );
        }
    }
    for run_length in [RunLength::On, RunLength::Off] {
        carried(data, run_length);
    }
}

fn events<'a>(
    new: fn(usize) -> Deframer,
    ack_mode: AckMode,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Vec<String> {
    let mut deframer = new(MAX_BYTES);
    deframer.set_ack_mode(ack_mode);
    let mut seen = Vec::new();
    for mut piece in pieces {
        while let Some(event) = deframer.next(&mut piece) {
            if let Event::Packet(body) | Event::Notification(body) = event {
                assert!(body.len() <= MAX_BYTES);
            }
            seen.push(format!("{event:?}"));
        }
        assert!(piece.is_empty(), "all input is taken");
    }
    seen
}

/// What an encoder writes, a deframer reads back, and nothing in it ends or starts a frame.
fn carried(data: &[u8], run_length: RunLength) {
    let mut wire = Vec::new();
    let limit_bytes = data.len() * 2;
    let mut encoder = Encoder::packet(&mut wire, limit_bytes);
    encoder.binary(data);
    encoder
        .finish(run_length)
        .expect("escapes at most double the length");
    let body_range = 1..wire.len() - 3;
    assert!(
        !wire[body_range]
            .iter()
            .any(|byte| matches!(byte, b'#' | b'$'))
    );
    let mut deframer = Deframer::for_replies(data.len());
    let mut input = wire.as_slice();
    assert_eq!(deframer.next(&mut input), Some(Event::Packet(data)));
    assert!(input.is_empty());
}
