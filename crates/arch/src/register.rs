//! What is known of one register, in terms every architecture shares.
//!
//! Each architecture has one static table of [`Register`] values. The target description for GDB,
//! the register information for LLDB, the order and widths of the `g`, `p` and `P` packets and
//! the documents all come from that table.

use bitflags::bitflags;

/// The index of a register in its architecture's table.
///
/// It names the same register in every session, unlike the number a client uses, which depends on
/// the session's [`Layout`](crate::Layout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct RegisterId(pub u16);

/// The part of the register file that a hypervisor loads and stores as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterGroup {
    /// General-purpose registers, program counter and flags (x86) or process state (Arm).
    General,
    /// x86: segments, control registers, descriptor tables. Arm: the system registers that address
    /// translation and exceptions depend on.
    System,
    /// Floating-point and vector state, with everything that configures it.
    Fpu,
    /// Debug registers.
    Debug,
    /// x86: model-specific registers. Arm: the other system registers, which are the generic timer's
    /// and those that identify the processor.
    Msr,
}

impl RegisterGroup {
    /// Every group, in the order of the table.
    pub const ALL: [Self; 5] = [
        Self::General,
        Self::System,
        Self::Fpu,
        Self::Debug,
        Self::Msr,
    ];
}

bitflags! {
    /// A set of [`RegisterGroup`]s.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct RegisterGroups: u8 {
        /// [`RegisterGroup::General`].
        const GENERAL = 1 << 0;
        /// [`RegisterGroup::System`].
        const SYSTEM = 1 << 1;
        /// [`RegisterGroup::Fpu`].
        const FPU = 1 << 2;
        /// [`RegisterGroup::Debug`].
        const DEBUG = 1 << 3;
        /// [`RegisterGroup::Msr`].
        const MSR = 1 << 4;
    }
}

impl From<RegisterGroup> for RegisterGroups {
    fn from(group: RegisterGroup) -> Self {
        match group {
            RegisterGroup::General => Self::GENERAL,
            RegisterGroup::System => Self::SYSTEM,
            RegisterGroup::Fpu => Self::FPU,
            RegisterGroup::Debug => Self::DEBUG,
            RegisterGroup::Msr => Self::MSR,
        }
    }
}

/// Whether a debugger may write a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    /// Every value is accepted.
    Yes,
    /// The processor accepts some values only, so a hypervisor may refuse a write.
    Masked,
    /// The register only reports something.
    No,
}

/// The role a register plays in every architecture, by LLDB's name for it.
///
/// Source: LLDB, "Register Numbering" (`generic` in `qRegisterInfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenericRole {
    /// The program counter.
    Pc,
    /// The stack pointer.
    Sp,
    /// The frame pointer.
    Fp,
    /// The return address.
    Ra,
    /// The flags.
    Flags,
    /// The register of the n-th integer argument, counted from 1.
    Argument(u8),
}

impl GenericRole {
    /// Returns LLDB's name of the role; arguments past the eighth have none.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Pc => "pc",
            Self::Sp => "sp",
            Self::Fp => "fp",
            Self::Ra => "ra",
            Self::Flags => "flags",
            Self::Argument(1) => "arg1",
            Self::Argument(2) => "arg2",
            Self::Argument(3) => "arg3",
            Self::Argument(4) => "arg4",
            Self::Argument(5) => "arg5",
            Self::Argument(6) => "arg6",
            Self::Argument(7) => "arg7",
            Self::Argument(8) => "arg8",
            Self::Argument(_) => return None,
        })
    }
}

/// How LLDB reads a register's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// An unsigned integer.
    Uint,
    /// Raw bytes.
    Vector,
}

impl Encoding {
    /// Returns LLDB's name of the encoding.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uint => "uint",
            Self::Vector => "vector",
        }
    }
}

/// How LLDB shows a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Hexadecimal.
    Hex,
    /// A list of bytes.
    VectorUint8,
}

impl Format {
    /// Returns LLDB's name of the format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::VectorUint8 => "vector-uint8",
        }
    }
}

/// The group in which GDB's `info registers` lists a register.
///
/// Source: GDB manual, "Target Description Format", attribute `group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GdbGroup {
    /// `general`.
    General,
    /// `float`.
    Float,
    /// `vector`.
    Vector,
    /// `system`.
    System,
}

impl GdbGroup {
    /// Returns GDB's name of the group.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Float => "float",
            Self::Vector => "vector",
            Self::System => "system",
        }
    }
}

/// A field of a flags type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagField {
    /// The manual's name of the field.
    pub name: &'static str,
    /// The lowest bit, counted from 0.
    pub start: u8,
    /// The highest bit.
    pub end: u8,
}

/// A register's type in a target description.
///
/// Source: GDB manual, "Target Description Format", "Types" and "Predefined Target Types".
#[derive(Clone, Copy, Debug)]
pub enum GdbType {
    /// One that GDB predefines.
    Builtin(&'static str),
    /// A set of named bits.
    Flags {
        /// The type's name.
        id: &'static str,
        /// The size in bytes.
        size_bytes: u8,
        /// The fields, lowest first. Bits of no field are shown by number.
        fields: &'static [FlagField],
    },
    /// Several elements of one type.
    Vector {
        /// The type's name.
        id: &'static str,
        /// The element.
        element: &'static Self,
        /// How many elements there are.
        count: u8,
    },
    /// As many elements of one type as the vector length has room for.
    ScalableVector {
        /// The type's name.
        id: &'static str,
        /// The element.
        element: &'static Self,
        /// How many elements there are for each 128 bits of the vector length.
        per_quadword: u8,
    },
    /// One value under several types.
    Union {
        /// The type's name.
        id: &'static str,
        /// Name and type of each alternative.
        fields: &'static [(&'static str, Self)],
    },
}

impl GdbType {
    /// Returns the type's name.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        match self {
            Self::Builtin(id)
            | Self::Flags { id, .. }
            | Self::Vector { id, .. }
            | Self::ScalableVector { id, .. }
            | Self::Union { id, .. } => id,
        }
    }
}

/// How a register looks to the clients of one kind of layout.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The name in this layout (`rax` or `eax`).
    pub name: &'static str,
    /// The width on the wire in bits, a multiple of 8. It may be wider than the register (a
    /// selector takes 32 bits) or narrower (`eax`).
    pub bits: u16,
    /// Whether the width is that for each 128 bits of the vector length.
    pub scalable: bool,
    /// The type in the target description.
    pub gdb_type: GdbType,
    /// The target description's feature in which the register stands.
    pub feature: &'static str,
    /// The number in DWARF debug information.
    pub dwarf: Option<u16>,
    /// The number in `.eh_frame`.
    pub ehframe: Option<u16>,
    /// The role the register plays, if any.
    pub generic: Option<GenericRole>,
}

impl View {
    /// Returns the width on the wire in bits where the vector length is `quadwords` times 128 bits.
    #[must_use]
    pub const fn wire_bits(&self, quadwords: u8) -> u16 {
        if self.scalable {
            self.bits.saturating_mul(quadwords as u16)
        } else {
            self.bits
        }
    }
}

/// One register.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// The name the manuals use, in lower case.
    pub name: &'static str,
    /// Another name for it.
    pub alt_name: Option<&'static str>,
    /// The width in the register file in bits, a multiple of 8.
    pub bits: u16,
    /// The byte offset in the register file.
    pub offset: u16,
    /// The unit in which a hypervisor loads and stores it.
    pub group: RegisterGroup,
    /// Whether a debugger may write it.
    pub writable: Writable,
    /// How LLDB reads it.
    pub encoding: Encoding,
    /// How LLDB shows it.
    pub format: Format,
    /// The group in which GDB lists it.
    pub gdb_group: GdbGroup,
    /// The register set in which LLDB lists it.
    pub set: &'static str,
    /// How the architecture's native layout shows it.
    pub view: View,
    /// How the architecture's second layout shows it: on x86 the 32-bit one, which has no other
    /// registers than these; on AArch64 that of a vCPU with SVE, where it differs.
    pub alternative: Option<View>,
}

impl Register {
    /// Returns the width in the register file in bytes.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        (self.bits / 8) as usize
    }
}
