#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]

use alloc::vec;
use alloc::vec::Vec;

use trapline_arch::aarch64::registers::{
    self, CPSR, SCTLR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1, VBAR_EL1,
};

use super::*;

/// Physical memory from 0 on.
struct Ram(Vec<u8>);

impl Ram {
    fn put(&mut self, address: u64, value: u64) {
        let at = usize::try_from(address).unwrap();
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

impl PhysicalMemory for Ram {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        len
    }
}

/// Where a kernel of 39 bits has its trampoline and, elsewhere, its own memory.
const TRAMPOLINE: u64 = 0xffff_ffff_c000_0000;
const KERNEL: u64 = 0xffff_ffc0_0000_0000;
const PAGE: u64 = 0x0040_0000_0000_0703;
const TABLE: u64 = 3;

/// A vCPU in user mode under Linux's page-table isolation: the tables with the trampoline alone are
/// at 0x1000, two pages before the kernel's own.
fn isolated(cpsr: u64) -> (Ram, RegisterFile) {
    let mut ram = Ram(vec![0; 0x1_0000]);
    let index = |address: u64| (address >> 30 & 0x1ff) * 8;
    ram.put(0x1000 + index(TRAMPOLINE), 0x4000 | TABLE);
    ram.put(0x3000 + index(TRAMPOLINE), 0x4000 | TABLE);
    ram.put(0x4000, 0x5000 | TABLE);
    ram.put(0x5000, 0x8000 | PAGE);
    ram.put(0x3000 + index(KERNEL), 0x6000 | TABLE);
    ram.put(0x6000, 0x7000 | TABLE);
    ram.put(0x7000, 0x9000 | PAGE);
    let mut file = registers::file();
    file.set_u64(CPSR, cpsr);
    file.set_u64(SCTLR_EL1, 1);
    // 39 bits in both halves; 4 KiB.
    file.set_u64(TCR_EL1, 25 | 25 << 16 | 0b10 << 30);
    file.set_u64(TTBR0_EL1, 0xf000);
    // With an ASID, whose lowest bit says that it is the user's.
    file.set_u64(TTBR1_EL1, 0x0003 << 48 | 0x1000);
    file.set_u64(VBAR_EL1, TRAMPOLINE);
    (ram, file)
}

fn gpa(ram: &Ram, file: &RegisterFile) -> Option<Gpa> {
    AddressSpace::of(Architecture::Aarch64, file).gpa(ram, Gva(KERNEL + 0x123))
}

#[test]
fn kernel_memory_is_readable_from_user_mode_of_an_isolated_arm_kernel() {
    let (ram, file) = isolated(0);
    assert_eq!(gpa(&ram, &file), Some(Gpa(0x9123)));
    // In the kernel TTBR1 says what is mapped.
    let (ram, file) = isolated(0x3c5);
    assert_eq!(gpa(&ram, &file), None);
}

#[test]
fn tables_that_do_not_map_the_vectors_alike_are_not_the_kernels() {
    let (mut ram, file) = isolated(0);
    ram.put(0x3000 + (TRAMPOLINE >> 30 & 0x1ff) * 8, 0x6000 | TABLE);
    assert_eq!(gpa(&ram, &file), None);
    ram.put(0x3000 + (TRAMPOLINE >> 30 & 0x1ff) * 8, 0);
    assert_eq!(gpa(&ram, &file), None);
}
