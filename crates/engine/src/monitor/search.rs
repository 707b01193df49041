//! `find`: bytes in memory.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use memchr::memmem;
use trapline_arch::{Gpa, Gva};

use super::commands::{Command, Completes, Family, LOOKS};
use super::memory::Space;
use super::output::Output;
use super::{Call, Failure, fail, parse};
use crate::session::work::Work;

/// The most memory that one search goes through, in bytes.
const MAX_LEN_BYTES: u64 = 256 << 20;

/// How much is read at a time, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// How often that is done in one turn: others are served between two turns.
const TURN_CHUNKS: usize = 4;

/// The most places that are listed.
const MAX_FOUND: usize = 32;

/// The longest pattern in bytes.
const MAX_PATTERN_BYTES: usize = 256;

/// How far memory that is missing is skipped, in bytes, where no region tells where it goes on.
const HOLE_BYTES: u64 = 4096;

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "find",
    aliases: &[("search", "")],
    arguments: "ADDR LEN BYTES",
    completes: &[Completes::Address, Completes::Nothing],
    summary: "find bytes, or a text in quotation marks, in LEN bytes from ADDR on",
    details: "find 0xffffffff81000000 16M 0f 0b, find rsp 4K \"Linux\". What is not mapped is skipped.\n\
        After 'phys on' the addresses are physical.",
    family: Family::Memory,
    run: find,
    ..LOOKS
}];

fn find(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let mut finding = match call.session.work.take() {
        Some(Work::Find(finding)) => finding,
        _ => Box::new(Finding::begin(call)?),
    };
    for _ in 0..TURN_CHUNKS {
        let Some(places) = finding.step(call)? else {
            finding.finish(call);
            return Ok(());
        };
        for place in places {
            if !finding.show(place, call) {
                call.out = finding.out;
                return Ok(());
            }
        }
    }
    call.session.work = Some(Work::Find(finding));
    Ok(())
}

/// A search under way. `window` ends at `next`.
#[derive(Debug)]
pub(crate) struct Finding {
    space: Space,
    next: u64,
    end: u64,
    /// What was asked for beyond `end`, in bytes.
    left_out_bytes: u64,
    window: Vec<u8>,
    pattern: Vec<u8>,
    /// How many places were found, and the lines that say where.
    found: usize,
    out: Output,
}

impl Finding {
    fn begin(call: &mut Call<'_, '_>) -> Result<Self, Failure> {
        let start = call.need_address()?;
        let wanted = parse::count(call.arguments.need("the length")?, "length")?;
        let pattern = parse::bytes(call.arguments.take_rest())?;
        if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES {
            return Err(fail!("a pattern has 1 to {MAX_PATTERN_BYTES} bytes"));
        }
        Ok(Self {
            space: call.space(),
            end: start.saturating_add(wanted.min(MAX_LEN_BYTES)),
            left_out_bytes: wanted.saturating_sub(MAX_LEN_BYTES),
            next: start,
            window: Vec::new(),
            pattern,
            found: 0,
            out: Output::default(),
        })
    }

    /// Adds a place that was found. Returns whether there is room for more.
    fn show(&mut self, place: u64, call: &Call<'_, '_>) -> bool {
        if self.found == MAX_FOUND {
            self.out.rest(format_args!(
                "there are more; 'find {place:#x} {} ...' goes on",
                self.end.saturating_sub(place)
            ));
            return false;
        }
        self.found = self.found.saturating_add(1);
        let line = format!("{place:016x}  {}", call.suffix(place).trim());
        self.out.line(line.trim_end());
        true
    }

    /// Says what there is to be said at the end.
    fn finish(mut self, call: &mut Call<'_, '_>) {
        if self.found == 0 {
            self.out.line("not found");
        }
        if self.left_out_bytes > 0 {
            self.out.rest(format_args!(
                "'find {:#x} {} ...' searches the rest",
                self.end, self.left_out_bytes
            ));
        }
        call.out = self.out;
    }

    /// Searches one more chunk. Returns where the pattern is in it, or `None` at the end.
    fn step(&mut self, call: &mut Call<'_, '_>) -> Result<Option<Vec<u64>>, Failure> {
        if self.next >= self.end {
            return Ok(None);
        }
        let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(CHUNK_BYTES);
        let bytes = call.fetch(self.space, self.next, left.min(CHUNK_BYTES))?;
        if bytes.is_empty() {
            self.window.clear();
            self.next = self.skip(call)?;
            return Ok(Some(Vec::new()));
        }
        self.window.extend_from_slice(&bytes);
        self.next = self.next.saturating_add(bytes.len() as u64);
        let start = self.next.wrapping_sub(self.window.len() as u64);
        let places = memmem::find_iter(&self.window, &self.pattern)
            .map(|index| start.wrapping_add(index as u64))
            .take(MAX_FOUND.saturating_add(1))
            .collect();
        // A pattern may lie across two chunks.
        let keep = self.pattern.len().saturating_sub(1);
        let drop = self.window.len().saturating_sub(keep);
        self.window.drain(..drop);
        Ok(Some(places))
    }

    /// Returns where memory may go on behind a hole.
    fn skip(&self, call: &mut Call<'_, '_>) -> Result<u64, Failure> {
        let page = Gva(self.next).align_down(HOLE_BYTES).0;
        let behind_page = page.saturating_add(HOLE_BYTES);
        let behind = match self.space {
            Space::Virtual => {
                let vcpu = call.vcpu();
                let space = call.context.address_space(vcpu)?;
                let region = space.region(call.context.machine.memory(), Gva(self.next));
                let hole = region.filter(|region| region.allowed.is_none());
                hole.map(|hole| hole.last.0.saturating_add(1))
            }
            Space::Physical => {
                let regions = call.context.machine.memory().regions();
                let next = regions.iter().find(|region| region.start > Gpa(self.next));
                Some(next.map_or(u64::MAX, |region| region.start.0))
            }
        };
        Ok(behind.unwrap_or(behind_page).max(behind_page))
    }
}
