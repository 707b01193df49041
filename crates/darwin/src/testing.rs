//! Made-up memory with images in it.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use trapline_arch::{Gpa, Gva, PhysicalMemory};
use trapline_engine::{GuestMemory, MemoryRegion, VirtualView};

pub(crate) const UUID: [u8; 16] = *b"0123456789abcdef";
pub(crate) const MH_EXECUTE: u32 = 2;
pub(crate) const MH_FILESET: u32 = 12;
pub(crate) const MH_DYLDLINK: u32 = 4;

/// Virtual memory: what is mapped from where on.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) pieces: BTreeMap<u64, Vec<u8>>,
    /// Addresses of code that the vCPU knows of.
    pub(crate) code: Vec<Gva>,
    /// How often it was read.
    pub(crate) reads: Cell<u32>,
}

impl Memory {
    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        self.pieces.insert(address, bytes.to_vec());
    }

    /// Maps zeroes.
    pub(crate) fn map(&mut self, address: u64, len_bytes: usize) {
        self.pieces.insert(address, vec![0; len_bytes]);
    }

    /// Puts bytes into what is mapped.
    pub(crate) fn overwrite(&mut self, address: u64, bytes: &[u8]) {
        let (start, piece) = self.pieces.range_mut(..=address).next_back().unwrap();
        let from = usize::try_from(address - start).unwrap();
        piece[from..from + bytes.len()].copy_from_slice(bytes);
    }
}

impl VirtualView for Memory {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        self.reads.set(self.reads.get() + 1);
        let Some((start, piece)) = self.pieces.range(..=address.0).next_back() else {
            return 0;
        };
        let from = usize::try_from(address.0 - start).unwrap_or(usize::MAX);
        let rest = piece.get(from..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }

    fn code_addresses(&self) -> Vec<Gva> {
        self.code.clone()
    }
}

/// Physical memory, which nothing here asks for.
pub(crate) struct NoMemory;

impl PhysicalMemory for NoMemory {
    fn read_physical(&self, _: Gpa, _: &mut [u8]) -> usize {
        0
    }
}

impl GuestMemory for NoMemory {
    fn write_physical(&self, _: Gpa, _: &[u8]) -> usize {
        0
    }
    fn regions(&self) -> Vec<MemoryRegion> {
        Vec::new()
    }
}

/// A header with its load commands, to be.
pub(crate) struct Header {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) cpu_type: u32,
    pub(crate) commands: Vec<Vec<u8>>,
}

impl Header {
    pub(crate) fn new(kind: u32) -> Self {
        Self {
            kind,
            flags: 1,
            cpu_type: 0x0100_000c,
            commands: Vec::new(),
        }
    }

    /// A kernel that is to be mapped at `text`.
    pub(crate) fn kernel(text: u64) -> Self {
        let header = Self::new(MH_EXECUTE);
        let header = header.segment(b"__TEXT", text).uuid(UUID);
        header.segment(b"__KLD", text + 0x4000).platform(2)
    }

    pub(crate) fn segment(self, name: &[u8], address: u64) -> Self {
        let mut body = name.to_vec();
        body.resize(16, 0);
        for word in [address, 0x4000, 0, 0x4000] {
            body.extend(word.to_le_bytes());
        }
        body.resize(64, 0);
        self.command(0x19, &body)
    }

    pub(crate) fn uuid(self, uuid: [u8; 16]) -> Self {
        self.command(0x1b, &uuid)
    }

    pub(crate) fn platform(self, number: u32) -> Self {
        let mut body = number.to_le_bytes().to_vec();
        body.resize(16, 0);
        self.command(0x32, &body)
    }

    /// An entry of a collection.
    pub(crate) fn entry(self, name: &[u8], address: u64) -> Self {
        let mut body = address.to_le_bytes().to_vec();
        body.extend([0; 8]);
        body.extend(32_u32.to_le_bytes());
        body.extend([0; 4]);
        body.extend(name);
        body.resize((body.len() + 8) & !7, 0);
        self.command(0x8000_0035, &body)
    }

    pub(crate) fn command(mut self, number: u32, body: &[u8]) -> Self {
        let len = u32::try_from(body.len() + 8).unwrap();
        let mut command = number.to_le_bytes().to_vec();
        command.extend(len.to_le_bytes());
        command.extend(body);
        self.commands.push(command);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let commands = self.commands.concat();
        let words = [
            0xfeed_facf,
            self.cpu_type,
            2,
            self.kind,
            u32::try_from(self.commands.len()).unwrap(),
            u32::try_from(commands.len()).unwrap(),
            self.flags,
            0,
        ];
        let mut bytes: Vec<u8> = words
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect();
        bytes.extend(commands);
        bytes
    }
}
