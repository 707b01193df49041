//! What one client session sees of the registers: their numbers, order and widths.
//!
//! A layout is chosen once per session and never changes, because GDB takes the target
//! description when it connects and lays out the `g` packet by it for good. The registers of the
//! `g` packet are the first numbers: GDB accepts a `g` reply that stops early and asks for every
//! later register by `p`.

mod lldb;
mod target_xml;

use alloc::{string::String, vec::Vec};

use bitflags::bitflags;
use thiserror::Error;

use crate::{
    GenericRole, Register, RegisterFile, RegisterGroups, RegisterId, View, Writable, aarch64,
    register_file::copy_common, x86_64,
};

/// The shape of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayoutKind {
    /// All registers of x86-64, numbered as QEMU and GDB number them.
    X86_64,
    /// The 32-bit view of the same vCPU, for a client that debugs 16- or 32-bit code as such.
    I386,
    /// All registers of AArch64, numbered as GDB numbers them.
    Aarch64,
}

impl LayoutKind {
    /// Returns the architecture's name in a target description.
    #[must_use]
    pub const fn gdb_architecture(self) -> &'static str {
        match self {
            Self::X86_64 => "i386:x86-64",
            Self::I386 => "i386",
            Self::Aarch64 => "aarch64",
        }
    }

    const fn table(self) -> &'static [Register] {
        match self {
            Self::X86_64 | Self::I386 => x86_64::registers::TABLE,
            Self::Aarch64 => aarch64::registers::TABLE,
        }
    }

    fn order(self, features: FeatureSet) -> Vec<Run> {
        match self {
            Self::X86_64 | Self::I386 => x86_64::registers::order(self, features),
            Self::Aarch64 => aarch64::registers::order(features),
        }
    }

    fn view(self, register: &'static Register, features: FeatureSet) -> Option<&'static View> {
        match (self, &register.alternative) {
            (Self::Aarch64, Some(view)) if features.contains(FeatureSet::SVE) => Some(view),
            (Self::X86_64 | Self::Aarch64, _) => Some(&register.view),
            (Self::I386, alternative) => alternative.as_ref(),
        }
    }
}

bitflags! {
    /// Registers that only some vCPUs have.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct FeatureSet: u32 {
        /// x86: AVX, the upper halves of `ymm0`–`ymm15`.
        const AVX = 1 << 0;
        /// x86: AVX-512, `zmm0`–`zmm31` and the opmask registers. It needs [`Self::AVX`].
        const AVX512 = 1 << 1;
        /// x86: protection keys for user pages, `pkru`.
        const PKU = 1 << 2;
        /// x86: `XSAVES`, the MSR `IA32_XSS`.
        const XSAVES = 1 << 3;
        /// x86: `RDTSCP` or `RDPID`, the MSR `IA32_TSC_AUX`.
        const TSC_AUX = 1 << 4;
        /// x86: the MSR `IA32_SPEC_CTRL`.
        const SPEC_CTRL = 1 << 5;
        /// Arm: the Scalable Vector Extension. [`Self::with_sve`] adds the vector length.
        const SVE = 1 << 8;
        /// Arm: pointer authentication, the masks that GDB takes.
        const PAUTH = 1 << 9;
        /// Arm: memory tagging with tag checks.
        const MTE = 1 << 10;
        /// Arm: the register `TCR2_EL1`.
        const TCR2 = 1 << 11;
        /// Arm: permission indirection at stage 1, `PIR_EL1` and `PIRE0_EL1`.
        const S1PIE = 1 << 12;
        /// Arm: how many breakpoints there are beyond the two that every processor has, a number
        /// of 4 bits. [`Self::with_debug_slots`] sets it.
        const BREAKPOINTS = 0xf << 16;
        /// Arm: how many watchpoints there are beyond the two that every processor has, a number
        /// of 4 bits. [`Self::with_debug_slots`] sets it.
        const WATCHPOINTS = 0xf << 20;
        /// Arm: the vector length of SVE in units of 128 bits, less one, a number of 4 bits.
        const VECTOR_LENGTH = 0xf << 24;
    }
}

impl FeatureSet {
    /// Adds SVE with a vector length of `quadwords` times 128 bits, 1 to 16; other numbers are
    /// taken for the nearest of these.
    #[must_use]
    pub fn with_sve(self, quadwords: u8) -> Self {
        let less_one = quadwords.clamp(1, 16).saturating_sub(1);
        self.with_number(Self::VECTOR_LENGTH, less_one) | Self::SVE
    }

    /// Returns the vector length of SVE in units of 128 bits, 1 to 16; 1 where there is no SVE.
    #[must_use]
    pub fn vector_quadwords(self) -> u8 {
        if self.contains(Self::SVE) {
            self.number(Self::VECTOR_LENGTH).saturating_add(1)
        } else {
            1
        }
    }

    /// Says how many breakpoints and watchpoints an Arm processor has, 2 to 16 of each; other
    /// numbers are taken for the nearest of these.
    ///
    /// Source: Arm ARM, "`ID_AA64DFR0_EL1`, AArch64 Debug Feature Register 0", fields BRPs and WRPs.
    #[must_use]
    pub fn with_debug_slots(self, breakpoints: u8, watchpoints: u8) -> Self {
        let beyond = |count: u8| count.clamp(2, 16).saturating_sub(2);
        self.with_number(Self::BREAKPOINTS, beyond(breakpoints))
            .with_number(Self::WATCHPOINTS, beyond(watchpoints))
    }

    /// Returns how many breakpoints and how many watchpoints an Arm processor has.
    #[must_use]
    pub fn debug_slots(self) -> (u8, u8) {
        let count = |field| self.number(field).saturating_add(2).min(16);
        (count(Self::BREAKPOINTS), count(Self::WATCHPOINTS))
    }

    fn number(self, field: Self) -> u8 {
        let bits = self.intersection(field).bits();
        let number = bits.unbounded_shr(field.bits().trailing_zeros());
        u8::try_from(number).unwrap_or(0)
    }

    fn with_number(self, field: Self, number: u8) -> Self {
        let bits = u32::from(number).unbounded_shl(field.bits().trailing_zeros());
        self.difference(field) | Self::from_bits_truncate(bits).intersection(field)
    }
}

/// Why a register could not be written or a packet not be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RegisterError {
    /// The client's value has the wrong length.
    #[error("register {number} takes {expected} bytes, not {given}")]
    Length {
        /// The client's number for the register.
        number: u32,
        /// The register's width in bytes.
        expected: usize,
        /// The value's length in bytes.
        given: usize,
    },
    /// The client wrote a register that cannot be written.
    #[error("register {number} is read-only")]
    ReadOnly {
        /// The client's number for the register.
        number: u32,
    },
}

/// One register as one client session sees it.
#[derive(Clone, Copy, Debug)]
pub struct LayoutEntry {
    /// The client's number, counted from 0 without gaps.
    pub number: u32,
    /// The register.
    pub id: RegisterId,
    /// What the table says of it.
    pub register: &'static Register,
    /// Its name and type in this layout.
    pub view: &'static View,
    /// Its width on the wire in bits, a multiple of 8.
    pub bits: u16,
    /// Its offset in bytes in a block of all registers, of which the `g` packet is the beginning.
    pub offset_bytes: usize,
}

impl LayoutEntry {
    /// Returns the width on the wire in bytes.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        (self.bits / 8) as usize
    }

    /// Appends the register's value, least significant byte first, zero-extended or truncated to
    /// the width on the wire.
    pub fn read(&self, registers: &RegisterFile, value: &mut Vec<u8>) {
        let start = value.len();
        value.resize(start.saturating_add(self.len_bytes()), 0);
        if let Some(value) = value.get_mut(start..) {
            copy_common(value, registers.bytes(self.id));
        }
    }

    /// Sets the register from a value of the wire's width.
    ///
    /// Bits that the wire has and the register has not are dropped. Bits that the register has
    /// and the wire has not keep their value, so that writing back what was read changes nothing.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Length`] if `value` is not [`len_bytes`](Self::len_bytes) long,
    /// [`RegisterError::ReadOnly`] if the register cannot be written.
    pub fn write(&self, registers: &mut RegisterFile, value: &[u8]) -> Result<(), RegisterError> {
        let number = self.number;
        if value.len() != self.len_bytes() {
            let (expected, given) = (self.len_bytes(), value.len());
            return Err(RegisterError::Length {
                number,
                expected,
                given,
            });
        }
        if self.register.writable == Writable::No {
            return Err(RegisterError::ReadOnly { number });
        }
        copy_common(registers.bytes_mut(self.id), value);
        Ok(())
    }
}

/// The registers of one client session, in the order of their numbers.
#[derive(Clone, Debug)]
pub struct Layout {
    kind: LayoutKind,
    features: FeatureSet,
    entries: Vec<LayoutEntry>,
    general_count: usize,
}

impl Layout {
    /// Makes the layout of `kind` with the optional registers of `features`.
    #[must_use]
    pub fn new(kind: LayoutKind, features: FeatureSet) -> Self {
        let mut layout = Self {
            kind,
            features,
            entries: Vec::new(),
            general_count: 0,
        };
        for run in kind.order(features) {
            for id in run.registers() {
                layout.push(id);
            }
            if run.in_g() {
                layout.general_count = layout.entries.len();
            }
        }
        layout
    }

    fn push(&mut self, id: RegisterId) {
        let Some(register) = self.kind.table().get(usize::from(id.0)) else {
            return;
        };
        let Some(view) = self.kind.view(register, self.features) else {
            return;
        };
        let Ok(number) = u32::try_from(self.entries.len()) else {
            return;
        };
        let offset_bytes = self.end_bytes(self.entries.len());
        self.entries.push(LayoutEntry {
            number,
            id,
            register,
            view,
            bits: view.wire_bits(self.features.vector_quadwords()),
            offset_bytes,
        });
    }

    /// Returns where the first `count` registers end in a block of all.
    fn end_bytes(&self, count: usize) -> usize {
        let last = count.checked_sub(1).and_then(|last| self.entries.get(last));
        last.map_or(0, |last| last.offset_bytes.saturating_add(last.len_bytes()))
    }

    /// Returns the kind the layout was made for.
    #[must_use]
    pub const fn kind(&self) -> LayoutKind {
        self.kind
    }

    /// Returns all registers in the order of their numbers.
    #[must_use]
    pub fn entries(&self) -> &[LayoutEntry] {
        &self.entries
    }

    /// Returns the registers of the `g` packet in order.
    #[must_use]
    pub fn g_entries(&self) -> &[LayoutEntry] {
        self.entries.get(..self.general_count).unwrap_or_default()
    }

    /// Returns how many registers there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there is no register.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the register with the client's number `number`.
    #[must_use]
    pub fn by_number(&self, number: u32) -> Option<&LayoutEntry> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    /// Returns the register called `name` here, in the manuals, or as an alternative.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&LayoutEntry> {
        self.entries
            .iter()
            .find(|entry| entry.view.name == name)
            .or_else(|| {
                self.entries.iter().find(|entry| {
                    entry.register.name == name || entry.register.alt_name == Some(name)
                })
            })
    }

    /// Returns the client's number for a register, or `None` if this layout leaves it out.
    #[must_use]
    pub fn number_of(&self, id: RegisterId) -> Option<u32> {
        self.entries
            .iter()
            .find(|entry| entry.id == id)
            .map(|entry| entry.number)
    }

    /// Returns the register that plays `role`.
    #[must_use]
    pub fn by_role(&self, role: GenericRole) -> Option<&LayoutEntry> {
        self.entries
            .iter()
            .find(|entry| entry.view.generic == Some(role))
    }

    /// Returns the client's number for the program counter, which every layout has.
    #[must_use]
    pub fn pc_number(&self) -> u32 {
        self.by_role(GenericRole::Pc)
            .map_or(0, |entry| entry.number)
    }

    /// Returns the groups that must be loaded before a `g` packet is answered.
    #[must_use]
    pub fn g_groups(&self) -> RegisterGroups {
        self.g_entries()
            .iter()
            .map(|entry| RegisterGroups::from(entry.register.group))
            .collect()
    }

    /// Returns the length of the `g` packet's values in bytes, before hexadecimal encoding.
    #[must_use]
    pub fn g_len_bytes(&self) -> usize {
        self.end_bytes(self.general_count)
    }

    /// Appends the values of the `g` packet in order.
    pub fn read_g(&self, registers: &RegisterFile, values: &mut Vec<u8>) {
        for entry in self.g_entries() {
            entry.read(registers, values);
        }
    }

    /// Sets registers from the values of a `G` packet and returns the groups they are in.
    ///
    /// A packet may stop after any whole register. Registers that cannot be written are skipped,
    /// since `G` cannot leave them out.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Length`] if the values end inside a register or go on past the last one
    /// of the `g` packet; nothing is written then.
    pub fn write_g(
        &self,
        registers: &mut RegisterFile,
        values: &[u8],
    ) -> Result<RegisterGroups, RegisterError> {
        self.check_g(values.len())?;
        let mut written = RegisterGroups::empty();
        let mut rest = values;
        for entry in self.g_entries() {
            let Some((value, tail)) = rest.split_at_checked(entry.len_bytes()) else {
                break;
            };
            rest = tail;
            if entry.register.writable != Writable::No {
                entry.write(registers, value)?;
                written |= entry.register.group.into();
            }
        }
        Ok(written)
    }

    fn check_g(&self, given: usize) -> Result<(), RegisterError> {
        let fits =
            |entry: &LayoutEntry| given == entry.offset_bytes.saturating_add(entry.len_bytes());
        if given == 0 || self.g_entries().iter().any(fits) {
            return Ok(());
        }
        let cut = self
            .g_entries()
            .iter()
            .rev()
            .find(|entry| entry.offset_bytes < given);
        Err(RegisterError::Length {
            number: cut.map_or(0, |entry| entry.number),
            expected: self.g_len_bytes(),
            given,
        })
    }

    /// Returns the target description: one XML document without includes.
    ///
    /// Source: GDB manual, "Target Description Format". The attributes LLDB adds (`altname`,
    /// `encoding`, `format`, `generic`, `dwarf_regnum`, `ehframe_regnum`) are there too; GDB
    /// ignores them.
    #[must_use]
    pub fn target_xml(&self) -> String {
        target_xml::render(self)
    }

    /// Returns the answer to LLDB's `qRegisterInfo` for a register, or `None` past the last one.
    ///
    /// Source: LLDB, "GDB Remote Protocol Extensions", `qRegisterInfo`.
    #[must_use]
    pub fn register_info(&self, number: u32) -> Option<String> {
        self.by_number(number).map(lldb::register_info)
    }
}

/// A run of registers with adjacent ids, as a layout lists them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    first: RegisterId,
    last: RegisterId,
    in_g: bool,
}

impl Run {
    /// A run whose registers stand in the `g` packet.
    pub(crate) const fn general(first: RegisterId, last: RegisterId) -> Self {
        Self {
            first,
            last,
            in_g: true,
        }
    }

    /// A run whose registers are asked for one by one.
    pub(crate) const fn single(first: RegisterId, last: RegisterId) -> Self {
        Self {
            first,
            last,
            in_g: false,
        }
    }

    fn registers(self) -> impl Iterator<Item = RegisterId> {
        (self.first.0..=self.last.0).map(RegisterId)
    }

    const fn in_g(self) -> bool {
        self.in_g
    }
}

#[cfg(test)]
mod tests;
