//! The memory an instruction accesses.

use super::Instruction;
use crate::{
    Gva, RegisterFile,
    aarch64::{
        control::Dczid,
        debug::{Access, LoadStore},
        registers,
        tags::PointerTags,
    },
};

/// Where an access is and how long, before tags are removed.
type Raw = (u64, u64, LoadStore);

impl Instruction {
    /// Returns the memory that the instruction accesses when it executes with `registers`, without
    /// tags in the address.
    ///
    /// `None` if it accesses none, or if more than its encoding decides how much: SVE and SME, memory
    /// copy and set. Prefetches, cache maintenance other than DC ZVA, allocation tags and the
    /// fetch of the instruction do not count. An atomic that may not write counts as if it did.
    ///
    /// The groups `General` and `System` must be loaded, for DC ZVA `Msr` too.
    ///
    /// Source: Arm ARM, "Loads and Stores" (encodings).
    #[must_use]
    pub fn access(self, registers: &RegisterFile) -> Option<Access> {
        let (address, len_bytes, kind) = if self.is(0x0a00_0000, 0x0800_0000) {
            self.load_store(registers)?
        } else {
            self.data_cache_zero(registers)?
        };
        let address = PointerTags::from_registers(registers).strip(Gva(address));
        Some(Access {
            address,
            len_bytes,
            kind,
        })
    }

    /// Tells the groups of loads and stores apart by bits 29:24.
    fn load_store(self, registers: &RegisterFile) -> Option<Raw> {
        match self.field(24, 6) {
            0b00_1000 => self.exclusive_or_ordered(registers),
            0b00_1100 => self.structures(registers),
            0b00_1101 => self.single_structure(registers),
            0b01_1000 | 0b01_1100 => self.literal(registers),
            0b01_1001 | 0b01_1101 => self.unscaled_ordered_or_tag(registers),
            0b10_1000 | 0b10_1001 | 0b10_1100 | 0b10_1101 => self.pair(registers),
            0b11_1000 | 0b11_1100 => self.register_offset_and_kin(registers),
            0b11_1001 | 0b11_1101 => {
                let (len_bytes, kind) = self.size_and_kind()?;
                let offset = u64::from(self.field(10, 12)).wrapping_mul(len_bytes);
                Some((self.base(registers).wrapping_add(offset), len_bytes, kind))
            }
            _ => None,
        }
    }

    /// DC ZVA and DC GZVA, which clear the block around an address.
    fn data_cache_zero(self, registers: &RegisterFile) -> Option<Raw> {
        let operation = self.0 & !0x1f;
        if operation != 0xd50b_7420 && operation != 0xd50b_7480 {
            return None;
        }
        let len_bytes = Dczid::read(registers).block_bytes();
        let address = Gva(general(registers, self.register(0)));
        Some((address.align_down(len_bytes).0, len_bytes, LoadStore::Store))
    }

    /// Returns the value of the base register, of which number 31 is the stack pointer.
    fn base(self, registers: &RegisterFile) -> u64 {
        match self.register(5) {
            31 => registers.u64(registers::SP),
            number => general(registers, number),
        }
    }

    /// The size of one general-purpose register's access: 1, 2, 4 or 8 bytes.
    const fn size_bytes(self) -> u64 {
        1 << self.field(30, 2)
    }

    const fn is_simd(self) -> bool {
        self.bit(26)
    }

    /// Returns the length and kind of a load or store of one register; `None` for a prefetch.
    const fn size_and_kind(self) -> Option<(u64, LoadStore)> {
        let opc = self.field(22, 2);
        if self.is_simd() {
            let len_bytes = match (self.field(30, 2), opc) {
                (0, 0b10 | 0b11) => 16,
                _ => self.size_bytes(),
            };
            return Some((len_bytes, direction(opc & 1 == 1)));
        }
        match (self.field(30, 2), opc) {
            (0b11, 0b10) => None,
            _ => Some((self.size_bytes(), direction(opc != 0))),
        }
    }

    fn exclusive_or_ordered(self, registers: &RegisterFile) -> Option<Raw> {
        let address = self.base(registers);
        let is_load = self.bit(22);
        // o2 and o1.
        match (self.bit(23), self.bit(21)) {
            (false, true) if self.bit(31) => {
                Some((address, pair_bytes(self.size_bytes()), direction(is_load)))
            }
            // CASP, whose size is encoded in bit 30 alone.
            (false, true) => {
                let register_bytes = if self.bit(30) { 8 } else { 4 };
                Some((address, pair_bytes(register_bytes), LoadStore::Both))
            }
            // CAS.
            (true, true) => Some((address, self.size_bytes(), LoadStore::Both)),
            (_, false) => Some((address, self.size_bytes(), direction(is_load))),
        }
    }

    fn literal(self, registers: &RegisterFile) -> Option<Raw> {
        let len_bytes = match (self.is_simd(), self.field(30, 2)) {
            (false, 0b00 | 0b10) | (true, 0b00) => 4,
            (_, 0b01) => 8,
            (true, 0b10) => 16,
            // PRFM, and what is not allocated.
            _ => return None,
        };
        let offset = self.signed_field(5, 19).wrapping_mul(4);
        let address = registers.u64(registers::PC).wrapping_add_signed(offset);
        Some((address, len_bytes, LoadStore::Load))
    }

    /// LDAPUR and STLUR, and the stores of allocation tags that write data too.
    fn unscaled_ordered_or_tag(self, registers: &RegisterFile) -> Option<Raw> {
        let base = self.base(registers);
        if !self.bit(21) {
            let is_ordered = match self.field(10, 2) {
                0b00 => !self.is_simd(),
                0b10 => self.is_simd(),
                _ => false,
            };
            let (len_bytes, kind) = self.size_and_kind().filter(|_| is_ordered)?;
            let address = base.wrapping_add_signed(self.signed_field(12, 9));
            return Some((address, len_bytes, kind));
        }
        if self.field(24, 8) != 0b1101_1001 {
            return None;
        }
        let offset = self.signed_field(12, 9).wrapping_mul(16);
        // STZG clears 16 bytes and STZ2G 32; the others touch allocation tags alone.
        let len_bytes = match (self.field(22, 2), self.field(10, 2)) {
            (_, 0b00) => return None,
            (0b01, _) => 16,
            (0b11, _) => 32,
            _ => return None,
        };
        let address = match self.field(10, 2) {
            0b01 => base,
            _ => base.wrapping_add_signed(offset),
        };
        Some((address & !0xf, len_bytes, LoadStore::Store))
    }

    fn pair(self, registers: &RegisterFile) -> Option<Raw> {
        let is_load = self.bit(22);
        let register_bytes: u64 = match (self.is_simd(), self.field(30, 2), is_load) {
            (true, 0b00, _) | (false, 0b00, _) | (false, 0b01, true) => 4,
            (true, 0b01, _) | (false, 0b10, _) => 8,
            // STGP stores 16 bytes of data, and its offset counts them.
            (false, 0b01, false) => {
                let address = self.pair_address(registers, 16);
                return Some((address, 16, LoadStore::Store));
            }
            (true, 0b10, _) => 16,
            // LDTP and STTP.
            (false, 0b11, _) => 8,
            _ => return None,
        };
        let address = self.pair_address(registers, register_bytes.cast_signed());
        Some((address, pair_bytes(register_bytes), direction(is_load)))
    }

    fn pair_address(self, registers: &RegisterFile, scale_bytes: i64) -> u64 {
        let base = self.base(registers);
        // Post-indexed.
        if self.field(23, 3) & 0b11 == 0b01 {
            return base;
        }
        base.wrapping_add_signed(self.signed_field(15, 7).wrapping_mul(scale_bytes))
    }

    fn register_offset_and_kin(self, registers: &RegisterFile) -> Option<Raw> {
        let base = self.base(registers);
        match (self.bit(21), self.field(10, 2)) {
            // Post-indexed.
            (false, 0b01) => {
                let (len_bytes, kind) = self.size_and_kind()?;
                Some((base, len_bytes, kind))
            }
            // Unscaled, unprivileged, pre-indexed.
            (false, _) => {
                let (len_bytes, kind) = self.size_and_kind()?;
                let address = base.wrapping_add_signed(self.signed_field(12, 9));
                Some((address, len_bytes, kind))
            }
            (true, 0b10) => {
                let (len_bytes, kind) = self.size_and_kind()?;
                let shift = if self.bit(12) { len_bytes.ilog2() } else { 0 };
                let offset = self.extended_index(registers).unbounded_shl(shift);
                Some((base.wrapping_add(offset), len_bytes, kind))
            }
            (true, 0b00) if !self.is_simd() => self.atomic(base),
            // LDRAA and LDRAB authenticate their base, so that its signature is stripped.
            (true, 0b01 | 0b11) if self.field(30, 2) == 0b11 && !self.is_simd() => {
                let sign = if self.bit(22) { -0x1000 } else { 0 };
                let offset = i64::from(self.field(12, 9)).wrapping_mul(8);
                let base = PointerTags::from_registers(registers).strip(Gva(base)).0;
                let address = base.wrapping_add_signed(offset.wrapping_add(sign));
                Some((address, 8, LoadStore::Load))
            }
            _ => None,
        }
    }

    /// Returns the index register's value as the instruction extends it.
    fn extended_index(self, registers: &RegisterFile) -> u64 {
        let value = general(registers, self.register(16));
        let word = value & u64::from(u32::MAX);
        match self.field(13, 3) {
            0b010 => word,
            0b110 => word
                .unbounded_shl(32)
                .cast_signed()
                .wrapping_shr(32)
                .cast_unsigned(),
            _ => value,
        }
    }

    /// LSE atomics, LDAPR, and the accesses of 64 bytes.
    fn atomic(self, base: u64) -> Option<Raw> {
        let is_doubleword = self.field(30, 2) == 0b11;
        // o3 and opc.
        match self.field(12, 4) {
            0b1001..=0b1011 if is_doubleword => Some((base, 64, LoadStore::Store)),
            0b1101 if is_doubleword => Some((base, 64, LoadStore::Load)),
            0b1100 => Some((base, self.size_bytes(), LoadStore::Load)),
            0b0000..=0b1000 => Some((base, self.size_bytes(), LoadStore::Both)),
            _ => None,
        }
    }

    /// LD1 to LD4 and ST1 to ST4 of whole registers.
    fn structures(self, registers: &RegisterFile) -> Option<Raw> {
        let register_count: u64 = match self.field(12, 4) {
            0b0000 | 0b0010 => 4,
            0b0100 | 0b0110 => 3,
            0b1000 | 0b1010 => 2,
            0b0111 => 1,
            _ => return None,
        };
        let register_bytes = if self.bit(30) { 16 } else { 8 };
        Some((
            self.base(registers),
            register_count.saturating_mul(register_bytes),
            direction(self.bit(22)),
        ))
    }

    /// LD1 to LD4 and ST1 to ST4 of one element of each register, or one replicated.
    fn single_structure(self, registers: &RegisterFile) -> Option<Raw> {
        let opcode = self.field(13, 3);
        let element_count: u64 = match (opcode & 1, self.bit(21)) {
            (0, false) => 1,
            (0, true) => 2,
            (_, false) => 3,
            (_, true) => 4,
        };
        let size = self.field(10, 2);
        let element_bytes = match (opcode >> 1, size) {
            (0b00, _) => 1,
            (0b01, _) => 2,
            (0b10, 0b00) => 4,
            (0b10, 0b01) => 8,
            (0b11, 0b00) => 1,
            (0b11, 0b01) => 2,
            (0b11, 0b10) => 4,
            (0b11, 0b11) => 8,
            _ => return None,
        };
        Some((
            self.base(registers),
            element_count.saturating_mul(element_bytes),
            direction(self.bit(22)),
        ))
    }
}

const fn direction(is_load: bool) -> LoadStore {
    if is_load {
        LoadStore::Load
    } else {
        LoadStore::Store
    }
}

const fn pair_bytes(register_bytes: u64) -> u64 {
    register_bytes.saturating_mul(2)
}

/// Returns the value of a general-purpose register, of which number 31 is zero.
fn general(registers: &RegisterFile, number: u8) -> u64 {
    registers::x(number).map_or(0, |id| registers.u64(id))
}
