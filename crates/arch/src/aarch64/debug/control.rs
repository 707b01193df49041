//! The control registers of debugging as values.

use bitfield_struct::bitfield;

/// A breakpoint control register.
///
/// Source: Arm ARM, "`DBGBCR<n>_EL1`, Debug Breakpoint Control Registers".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Dbgbcr {
    /// The breakpoint is on.
    pub e: bool,
    /// With HMC and SSC, at which exception levels it matches.
    #[bits(2)]
    pub pmc: u8,
    #[bits(2)]
    __: u8,
    /// Which of the four bytes of an instruction select it; all of them but for T32.
    #[bits(4)]
    pub bas: u8,
    #[bits(4)]
    __: u8,
    /// Higher exception levels match.
    pub hmc: bool,
    /// The security states in which it matches.
    #[bits(2)]
    pub ssc: u8,
    /// The context breakpoint that this one is linked to.
    #[bits(4)]
    pub lbn: u8,
    /// What is compared.
    #[bits(4)]
    pub bt: BreakpointType,
    /// The binary logarithm of the length of an address range (`FEAT_ABLE`); 0 for none.
    #[bits(5)]
    pub mask: u8,
    #[bits(35)]
    __: u64,
}

/// A watchpoint control register.
///
/// Source: Arm ARM, "`DBGWCR<n>_EL1`, Debug Watchpoint Control Registers".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Dbgwcr {
    /// The watchpoint is on.
    pub e: bool,
    /// With HMC and SSC, at which exception levels it matches.
    #[bits(2)]
    pub pac: u8,
    /// Which accesses match.
    #[bits(2)]
    pub lsc: LoadStore,
    /// Which bytes of the doubleword are watched, the lowest in bit 0; all for a range.
    pub bas: u8,
    /// Higher exception levels match.
    pub hmc: bool,
    /// The security states in which it matches.
    #[bits(2)]
    pub ssc: u8,
    /// The context breakpoint that this one is linked to.
    #[bits(4)]
    pub lbn: u8,
    /// It matches only in the context of the linked breakpoint.
    pub wt: bool,
    #[bits(3)]
    __: u8,
    /// The binary logarithm of the length of a range, 3 to 31; 0 for none.
    #[bits(5)]
    pub mask: u8,
    #[bits(35)]
    __: u64,
}

/// What a breakpoint compares: the field BT. Its lowest bit says that it is one of two that are
/// linked.
///
/// Source: Arm ARM, "`DBGBCR<n>_EL1`, Debug Breakpoint Control Registers", field BT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct BreakpointType(u8);

impl BreakpointType {
    /// The address of an instruction.
    pub const ADDRESS: Self = Self(0b0000);
    /// The address of an instruction, in the context of another breakpoint.
    pub const LINKED_ADDRESS: Self = Self(0b0001);
    /// CONTEXTIDR, for others to link to.
    pub const LINKED_CONTEXT_ID: Self = Self(0b0011);
    /// The VMID, for others to link to.
    pub const LINKED_VMID: Self = Self(0b1001);

    /// Makes the type of a value, of which the low 4 bits count.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0xf)
    }

    /// Returns the value.
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        self.0
    }

    /// Returns whether the address of an instruction is compared, and it matches when equal.
    #[must_use]
    pub const fn compares_address(self) -> bool {
        matches!(self, Self::ADDRESS | Self::LINKED_ADDRESS)
    }

    /// Returns whether a context is compared: CONTEXTIDR, VMID or both. DBGBVR then holds no address.
    #[must_use]
    pub const fn compares_context(self) -> bool {
        !matches!(self.0 >> 1, 0b000 | 0b010)
    }

    /// Returns whether the breakpoint is one of two that are linked.
    #[must_use]
    pub const fn is_linked(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Which accesses a watchpoint matches: the field LSC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LoadStore {
    /// None: reserved.
    #[default]
    None = 0b00,
    /// Loads.
    Load = 0b01,
    /// Stores.
    Store = 0b10,
    /// Loads and stores.
    Both = 0b11,
}

impl LoadStore {
    const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::None,
            0b01 => Self::Load,
            0b10 => Self::Store,
            _ => Self::Both,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }

    /// Returns whether an access of `other` kind has something that this matches.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self as u8 & other as u8 != 0
    }
}

/// The monitor debug system control register.
///
/// Source: Arm ARM, "`MDSCR_EL1`, Monitor Debug System Control Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Mdscr {
    /// Software step is on.
    pub ss: bool,
    #[bits(11)]
    __: u16,
    /// EL0 traps on the debug communications channel.
    pub tdcc: bool,
    /// Breakpoints, watchpoints and steps are taken at EL1 itself.
    pub kde: bool,
    /// Halting debug.
    pub hde: bool,
    /// Breakpoints and watchpoints are on.
    pub mde: bool,
    #[bits(48)]
    __: u64,
}
