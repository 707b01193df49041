//! A vCPU in 64-bit mode without an operating system: what the probe, tests and tiny guests start
//! from.

use kvm_bindings::{kvm_segment, kvm_sregs};
use trapline_arch::Gpa;
use trapline_engine::contract::GuestMemory;

/// Bytes that [`LongMode`] takes of guest memory.
pub const LEN_BYTES: u64 = 0x8000;

/// Bytes mapped, from address 0 on, at equal virtual and physical addresses.
pub const MAPPED_BYTES: u64 = PAGE_DIRECTORIES << 30;

const PDPT: u64 = 0x1000;
const PAGE_DIRECTORY: u64 = 0x2000;
const GDT: u64 = 0x6000;
const IDT: u64 = 0x7000;

/// How many page directories there are, each of a page and for 1 GiB.
const PAGE_DIRECTORIES: u64 = 4;
const PAGE_BYTES: u64 = 0x1000;

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;

/// A present, writable page-table entry (SDM vol. 3A, "4-Level Paging and 5-Level Paging").
const TABLE: u64 = 0b11;
/// A present, writable 2 MiB page.
const LARGE_PAGE: u64 = TABLE | 1 << 7;
const LARGE_PAGE_BYTES: u64 = 2 << 20;

const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// A present 64-bit interrupt gate at privilege 0, in bits 47:32 of a gate's low word.
const INTERRUPT_GATE: u64 = 0x8e00 << 32;

/// PE, MP, ET, NE, WP and PG.
const CR0: u64 = 0x8001_0033;
/// PAE, OSFXSR and OSXMMEXCPT.
const CR4: u64 = 0x620;
/// LME, LMA and NXE.
const EFER: u64 = 0xd00;

/// Tables in guest memory for 64-bit mode at privilege 0.
///
/// ```text
///  base ─▶ PML4 │ PDPT │ 4 page directories │ GDT │ IDT     one page each
/// ```
///
/// The first four gibibytes are mapped to themselves, the local APIC at its usual place included. The gate of vector n leads to
/// `handlers + n × `[`HANDLER_BYTES`](Self::HANDLER_BYTES).
#[derive(Clone, Copy, Debug)]
pub struct LongMode {
    base: u64,
}

impl LongMode {
    /// Distance between two handlers in bytes.
    pub const HANDLER_BYTES: u64 = 16;

    /// Writes the tables to [`LEN_BYTES`] of memory at `base`, which is page-aligned. Returns
    /// `None` if the memory is not there.
    #[must_use]
    pub fn write(memory: &dyn GuestMemory, base: Gpa, handlers: u64) -> Option<Self> {
        let base = base.0;
        let put = |address: u64, words: &[u64]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            (memory.write_physical(Gpa(address), &bytes) == bytes.len()).then_some(())
        };
        put(base, &[(base + PDPT) | TABLE])?;
        let directories: Vec<u64> = (0..PAGE_DIRECTORIES)
            .map(|n| (base + PAGE_DIRECTORY + n * PAGE_BYTES) | TABLE)
            .collect();
        put(base + PDPT, &directories)?;
        let pages: Vec<u64> = (0..MAPPED_BYTES / LARGE_PAGE_BYTES)
            .map(|n| (n * LARGE_PAGE_BYTES) | LARGE_PAGE)
            .collect();
        put(base + PAGE_DIRECTORY, &pages)?;
        put(base + GDT, &[0, CODE_DESCRIPTOR, DATA_DESCRIPTOR])?;
        let gates: Vec<u64> = (0..256)
            .flat_map(|vector| gate(handlers + vector * Self::HANDLER_BYTES))
            .collect();
        put(base + IDT, &gates)?;
        Some(Self { base })
    }

    /// Puts a vCPU's system registers into 64-bit mode.
    pub fn apply(&self, registers: &mut kvm_sregs) {
        let code = kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: CODE_SELECTOR,
            type_: 0b1011,
            present: 1,
            dpl: 0,
            db: 0,
            s: 1,
            l: 1,
            g: 1,
            avl: 0,
            unusable: 0,
            padding: 0,
        };
        let data = kvm_segment {
            selector: DATA_SELECTOR,
            type_: 0b0011,
            db: 1,
            l: 0,
            ..code
        };
        registers.cs = code;
        [
            registers.ds,
            registers.es,
            registers.fs,
            registers.gs,
            registers.ss,
        ] = [data; 5];
        registers.cr0 = CR0;
        registers.cr3 = self.base;
        registers.cr4 = CR4;
        registers.efer = EFER;
        registers.gdt.base = self.base + GDT;
        registers.gdt.limit = 3 * 8 - 1;
        registers.idt.base = self.base + IDT;
        registers.idt.limit = 256 * 16 - 1;
    }
}

/// Returns the two words of a gate (SDM vol. 3A, "64-Bit Mode IDT").
fn gate(handler: u64) -> [u64; 2] {
    let low = handler & 0xffff | u64::from(CODE_SELECTOR) << 16 | INTERRUPT_GATE;
    [low | (handler >> 16 & 0xffff) << 48, handler >> 32]
}
