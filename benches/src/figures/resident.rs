//! Memory that a server keeps beside the guest's own.

use std::fs;

use anyhow::{Context as _, Result};
use trapline_guests::COUNTER;

use super::Bench;
use crate::report::{Bar, Figure};
use crate::servers::{GUEST_MIB, Server, Who};
use crate::stats::Summary;

/// The most memory that a server may keep, in MiB.
pub(super) const BAR_MIB: f64 = 12.0;

pub(super) fn measure_all(bench: &Bench) -> Result<Figure> {
    let mut figure = Figure::new("resident memory beyond the guest's", "MiB");
    for (who, name) in [(Who::Trapline, "trapline"), (Who::Qemu, "qemu")] {
        let (server, mut client) = bench.stopped_server(who, &COUNTER)?;
        client.ask("g")?;
        client.ask("m1000000,400")?;
        let value = resident_mib(&server)?;
        figure = figure.value(name, value);
        if who == Who::Trapline {
            figure = figure.check("trapline", value, Bar::AtMost(BAR_MIB));
        }
    }
    Ok(figure.note(NOTE))
}

/// How it is measured.
pub(super) const NOTE: &str =
    "the sum of Rss in /proc/PID/smaps without the mapping of the guest's memory";

fn resident_mib(server: &Server) -> Result<Summary> {
    let path = format!("/proc/{}/smaps", server.process_id());
    let smaps = fs::read_to_string(&path).context(path)?;
    Ok(summary_of(&smaps, GUEST_MIB))
}

/// Returns what a process keeps beside a guest of so much memory, in MiB.
pub(super) fn summary_of(smaps: &str, guest_mib: u64) -> Summary {
    Summary::of(&[in_mib(resident_bytes(smaps, guest_mib << 20))])
}

/// Returns a number of bytes in MiB.
fn in_mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}

/// Returns the bytes that a process has in memory, by its `/proc/PID/smaps`, without mappings as
/// large as the guest's memory is, which are the guest's memory.
fn resident_bytes(smaps: &str, guest_bytes: u64) -> u64 {
    let mut resident = 0;
    let mut is_guest = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        let number = words.next().and_then(|word| word.parse::<u64>().ok());
        match (key, number) {
            ("Size:", Some(size)) => is_guest = size << 10 >= guest_bytes,
            ("Rss:", Some(rss)) if !is_guest => resident += rss << 10,
            _ => {}
        }
    }
    resident
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_does_not_count() {
        let smaps = "7f00-7f10 rw-p 0 00:00 0\nSize: 64 kB\nRss: 8 kB\nPss: 4 kB\n\
                     7f20-7f30 rw-p 0 00:00 0\nSize: 65536 kB\nRss: 60000 kB\n\
                     7f40-7f50 r-xp 0 00:00 0\nSize: 128 kB\nRss: 100 kB\n";
        assert_eq!(resident_bytes(smaps, 64 << 20), 108 << 10);
    }

    #[test]
    fn bytes_are_shown_in_mib() {
        assert!((in_mib(3 << 19) - 1.5).abs() < 1e-9);
    }
}
