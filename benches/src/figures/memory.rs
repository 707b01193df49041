//! Reading memory in bulk: the same bytes of both guests, at the packet size that is best for each
//! server and packet. The bytes have no pattern, so that one in 64 has to be escaped; memory of
//! zeros, with nothing to escape, is shown beside it.

use core::fmt::Write as _;
use std::time::Instant;

use anyhow::{Result, ensure};
use trapline_guests::COUNTER;

use super::Bench;
use crate::client::{Client, Packet};
use crate::echo::EchoClient;
use crate::report::{Bar, Figure};
use crate::rounds::{Party, Plan, measure};
use crate::servers::Who;

/// Guest-physical and virtual address of what is read; the guest does not use it.
const START: u64 = 0x100_0000;
/// How much is read over and over.
const AREA_BYTES: u64 = 1 << 20;
/// Bytes of one request that fills the area.
const FILL_BYTES: u64 = 512;

/// Sizes that are tried, in bytes of data. QEMU's packets hold 2 KiB of hexadecimal data.
const QEMU_SIZES: &[u64] = &[512, 1024, 2048];
const HEX_SIZES: &[u64] = &[2048, 8192, 16384, 32768, 65536];
const BINARY_SIZES: &[u64] = &[2048, 16384, 32768, 65536, 98304, 126_976];

/// About as long as a request to read is.
const REQUEST_BYTES: usize = 20;

/// Samples to choose a size by.
const TRIAL: u32 = 60;

pub(super) fn read(bench: &Bench) -> Result<Figure> {
    let (_first, mut hex) = bench.stopped_server(Who::Trapline, &COUNTER)?;
    let (_second, mut binary) = bench.stopped_server(Who::Trapline, &COUNTER)?;
    let (_third, mut zeros) = bench.stopped_server(Who::Trapline, &COUNTER)?;
    let (_fourth, mut qemu) = bench.stopped_server(Who::Qemu, &COUNTER)?;
    for client in [&mut hex, &mut binary, &mut qemu] {
        fill(client, Content::Dense)?;
    }
    fill(&mut zeros, Content::Zeros)?;
    let (mut hex, hex_size) = Reader::best(&mut hex, 'm', HEX_SIZES)?;
    let (mut binary, binary_size) = Reader::best(&mut binary, 'x', BINARY_SIZES)?;
    let (mut zeros, zeros_size) = Reader::best(&mut zeros, 'x', BINARY_SIZES)?;
    let (mut qemu, qemu_size) = Reader::best(&mut qemu, 'm', QEMU_SIZES)?;
    let plan = Plan {
        rounds: bench.rounds * 3,
        warm_up: 10,
        samples: 100,
    };
    let mut echo_hex = Limit::new(bench, &mut hex)?;
    let mut echo_binary = Limit::new(bench, &mut binary)?;
    let measured = measure(
        plan,
        [
            Party::new("trapline m", || hex.sample()),
            Party::new("trapline x", || binary.sample()),
            Party::new("trapline x, of zeros", || zeros.sample()),
            Party::new("qemu m", || qemu.sample()),
            Party::new("echo server, as trapline m", || echo_hex.sample()),
            Party::new("echo server, as trapline x", || echo_binary.sample()),
        ],
    )?;
    let [hex, binary, _, qemu, _, _] = &measured;
    Ok(Figure::new("memory reads", "MiB/s")
        .values(&measured)
        .ratio(hex, qemu, Bar::AtLeast(15.0))
        .ratio(binary, qemu, Bar::AtLeast(40.0))
        .note(format!(
            "bytes of data in a packet: {hex_size} by trapline's m, {binary_size} by its x, \
             {zeros_size} of zeros, {qemu_size} by qemu's m"
        )))
}

/// What the area holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Bytes without a pattern, the same for every guest.
    Dense,
    Zeros,
}

fn fill(client: &mut Client, content: Content) -> Result<()> {
    let mut state = u32::from(content == Content::Dense);
    for offset in (0..AREA_BYTES).step_by(usize::try_from(FILL_BYTES)?) {
        let mut digits = String::new();
        for _ in 0..FILL_BYTES / 4 {
            // Xorshift: every value but zero comes once in 2^32, and zero stays zero.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            write!(digits, "{state:08x}")?;
        }
        let address = START + offset;
        let reply = client.ask(&format!("M{address:x},{FILL_BYTES:x}:{digits}"))?;
        ensure!(
            reply == "OK",
            "the guest's memory cannot be written: {reply}"
        );
    }
    Ok(())
}

/// A client that reads the area piece by piece.
struct Reader<'a> {
    client: &'a mut Client,
    packets: Vec<Packet>,
    next: usize,
    binary: bool,
}

impl<'a> Reader<'a> {
    fn new(client: &'a mut Client, command: char, size: u64) -> Self {
        let step = usize::try_from(size).unwrap_or(usize::MAX);
        let packets = (0..=AREA_BYTES - size).step_by(step).map(|offset| {
            let address = START + offset;
            Packet::new(&format!("{command}{address:x},{size:x}"))
        });
        Self {
            client,
            packets: packets.collect(),
            next: 0,
            binary: command == 'x',
        }
    }

    /// Chooses the size with the best median.
    fn best(client: &'a mut Client, command: char, sizes: &[u64]) -> Result<(Self, u64)> {
        let plan = Plan {
            rounds: 3,
            warm_up: 10,
            samples: TRIAL,
        };
        let mut best = (0.0, 0);
        for &size in sizes {
            let mut reader = Reader::new(client, command, size);
            let [measured] = measure(plan, [Party::new("size", || reader.sample())])?;
            let rate = measured.summary().median;
            if rate > best.0 {
                best = (rate, size);
            }
        }
        Ok((Self::new(client, command, best.1), best.1))
    }

    /// Reads one piece and returns the rate in MiB/s.
    fn sample(&mut self) -> Result<f64> {
        let (bytes, _, seconds) = self.read_next()?;
        mib_per_second(bytes, seconds)
    }

    /// Reads one piece and returns the bytes of data, those of the reply, and the seconds it took.
    fn read_next(&mut self) -> Result<(usize, usize, f64)> {
        let index = self.next % self.packets.len().max(1);
        self.next = index + 1;
        let Some(packet) = self.packets.get(index) else {
            anyhow::bail!("there is nothing to read");
        };
        let start = Instant::now();
        let body = self.client.request(packet)?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(
            body.first() != Some(&b'E'),
            "refused: {}",
            String::from_utf8_lossy(body)
        );
        let bytes = if self.binary {
            let escapes = body.iter().filter(|byte| **byte == b'}').count();
            body.len().saturating_sub(1 + escapes)
        } else {
            body.len() / 2
        };
        Ok((bytes, body.len(), seconds))
    }
}

/// What an echo server makes of messages as long as those of a read.
struct Limit {
    echo: EchoClient,
    data_bytes: usize,
}

impl Limit {
    fn new(bench: &Bench, reader: &mut Reader<'_>) -> Result<Self> {
        let (data_bytes, reply_bytes, _) = reader.read_next()?;
        // The frame of a packet is no matter at these sizes.
        let echo = bench.echo.connect(REQUEST_BYTES, reply_bytes)?;
        Ok(Self { echo, data_bytes })
    }

    fn sample(&mut self) -> Result<f64> {
        mib_per_second(self.data_bytes, self.echo.round_trip()? / 1e6)
    }
}

fn mib_per_second(bytes: usize, seconds: f64) -> Result<f64> {
    Ok(f64::from(u32::try_from(bytes)?) / seconds / f64::from(1 << 20))
}
