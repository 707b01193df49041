//! Descriptors and selectors.

use bitfield_struct::bitfield;

use super::{Gate, GateError, GateKind};
use crate::Gva;

/// A selector.
///
/// Source: SDM vol. 3A, "Segment Selectors".
#[bitfield(u16)]
pub(super) struct Selector {
    #[bits(2)]
    pub(super) rpl: u8,
    /// In the local descriptor table.
    pub(super) local: bool,
    #[bits(13)]
    pub(super) index: u16,
}

/// An 8-byte gate, or the low half of a 16-byte gate, whose high half holds bits 63:32 of the
/// offset.
///
/// ```text
///  63         48 47 46 45 44 43  40 39  35 34 32 31       16 15          0
/// ┌─────────────┬──┬─────┬──┬──────┬──────┬─────┬───────────┬─────────────┐
/// │offset 31:16 │P │ DPL │0 │ type │      │ IST │ selector  │ offset 15:0 │
/// └─────────────┴──┴─────┴──┴──────┴──────┴─────┴───────────┴─────────────┘
/// ```
///
/// Source: SDM vol. 3A, "IDT Descriptors" and "64-Bit Mode IDT".
#[bitfield(u64)]
pub(super) struct GateDescriptor {
    offset_15_0: u16,
    pub(super) selector: u16,
    #[bits(3)]
    ist: u8,
    #[bits(5)]
    __: u8,
    #[bits(4)]
    kind: u8,
    /// Clear in a gate.
    s: bool,
    #[bits(2)]
    dpl: u8,
    p: bool,
    offset_31_16: u16,
}

/// Types of gates.
///
/// Source: SDM vol. 3A, "System Descriptor Types".
mod kind {
    pub(super) const INTERRUPT_16: u8 = 0x6;
    pub(super) const TRAP_16: u8 = 0x7;
    pub(super) const INTERRUPT: u8 = 0xe;
    pub(super) const TRAP: u8 = 0xf;
}

impl GateDescriptor {
    /// Returns bits 31:0 of the handler's offset; a 16-bit gate has 15:0 only.
    pub(super) const fn offset(self, vector: u8) -> Result<u64, GateError> {
        let low = self.offset_15_0() as u64;
        match (self.s(), self.kind()) {
            (false, kind::INTERRUPT_16 | kind::TRAP_16) => Ok(low),
            (false, kind::INTERRUPT | kind::TRAP) => Ok(low | (self.offset_31_16() as u64) << 16),
            (_, kind) => Err(GateError::Kind { vector, kind }),
        }
    }

    pub(super) const fn gate(self, vector: u8, handler: Gva) -> Result<Gate, GateError> {
        if !self.p() {
            return Err(GateError::NotPresent { vector });
        }
        let kind = match self.kind() {
            kind::INTERRUPT_16 | kind::INTERRUPT => GateKind::Interrupt,
            kind::TRAP_16 | kind::TRAP => GateKind::Trap,
            kind => return Err(GateError::Kind { vector, kind }),
        };
        let (selector, ist, dpl) = (self.selector(), self.ist(), self.dpl());
        Ok(Gate {
            handler,
            selector,
            kind,
            ist,
            dpl,
        })
    }
}

/// A descriptor of a code or data segment.
///
/// Source: SDM vol. 3A, "Segment Descriptors".
#[bitfield(u64)]
pub(super) struct SegmentDescriptor {
    limit_15_0: u16,
    #[bits(24)]
    base_23_0: u32,
    #[bits(16)]
    attributes: u16,
    base_31_24: u8,
}

impl SegmentDescriptor {
    pub(super) const fn base(self) -> u64 {
        self.base_23_0() as u64 | (self.base_31_24() as u64) << 24
    }
}
