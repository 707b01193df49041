//! Where an interrupt or exception would take a vCPU.

mod descriptor;

use thiserror::Error;

use super::{
    control::{Cr0, Efer},
    registers,
    segment::SegmentRegister,
};
use crate::{Gva, RegisterFile};
use descriptor::{GateDescriptor, SegmentDescriptor, Selector};

/// Linear memory, read as the processor reads its tables.
///
/// It fills the whole buffer and returns true, or returns false if any byte is not mapped.
pub type ReadLinear<'a> = &'a mut dyn FnMut(Gva, &mut [u8]) -> bool;

/// What kind of gate a vector has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateKind {
    /// An entry of the real-mode interrupt vector table.
    RealMode,
    /// An interrupt gate: IF is cleared on entry.
    Interrupt,
    /// A trap gate: IF is kept.
    Trap,
}

/// Where a vector leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The linear address of the handler's first instruction.
    pub handler: Gva,
    /// The handler's code segment.
    pub selector: u16,
    /// What kind of gate it is.
    pub kind: GateKind,
    /// Which entry of the interrupt stack table gives the stack; 0 for none.
    pub ist: u8,
    /// The lowest privilege that may use the gate by an INT instruction.
    pub dpl: u8,
}

/// Why a vector leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GateError {
    /// The table ends before the vector.
    #[error("vector {vector:#x} is past the end of the interrupt table")]
    PastLimit {
        /// The vector.
        vector: u8,
    },
    /// The table or the handler's segment descriptor is not mapped.
    #[error("{address} is not mapped")]
    Unreadable {
        /// Where the descriptor is.
        address: Gva,
    },
    /// The gate is not present.
    #[error("the gate of vector {vector:#x} is not present")]
    NotPresent {
        /// The vector.
        vector: u8,
    },
    /// The entry is a task gate, or no gate at all.
    #[error("the gate of vector {vector:#x} has type {kind:#x}")]
    Kind {
        /// The vector.
        vector: u8,
        /// The descriptor's type.
        kind: u8,
    },
}

/// Finds where `vector` leads, from the vCPU's interrupt table. The groups `General` and `System`
/// must be loaded.
///
/// Source: SDM vol. 3A, "Interrupt Descriptor Table (IDT)" and "Real-Address Mode Operation".
///
/// # Errors
///
/// See [`GateError`].
pub fn gate(registers: &RegisterFile, vector: u8, read: ReadLinear<'_>) -> Result<Gate, GateError> {
    let layout = TableLayout::of(registers);
    let entry_bytes = layout.entry_bytes();
    let offset = u64::from(vector).saturating_mul(entry_bytes);
    let last = offset.saturating_add(entry_bytes).saturating_sub(1);
    if last > registers.u64(registers::IDTR_LIMIT) {
        return Err(GateError::PastLimit { vector });
    }
    let address = Gva(registers.u64(registers::IDTR_BASE)).wrapping_add(offset);
    match layout {
        TableLayout::RealMode => {
            let [ip_low, ip_high, cs_low, cs_high] = read_array(read, address)?;
            let selector = u16::from_le_bytes([cs_low, cs_high]);
            let ip = u16::from_le_bytes([ip_low, ip_high]);
            let handler = Gva(u64::from(selector) << 4).wrapping_add(ip.into());
            Ok(Gate {
                handler,
                selector,
                kind: GateKind::RealMode,
                ist: 0,
                dpl: 3,
            })
        }
        TableLayout::Legacy => {
            let low = GateDescriptor::from_bits(u64::from_le_bytes(read_array(read, address)?));
            // Whether there is a gate at all comes before where it leads.
            let unbased = low.gate(vector, Gva(low.offset(vector)?))?;
            let base = code_base(registers, low.selector(), read)?;
            let handler = Gva(base.wrapping_add(unbased.handler.0) & u64::from(u32::MAX));
            Ok(Gate {
                handler,
                ist: 0,
                ..unbased
            })
        }
        TableLayout::Long => {
            let low = GateDescriptor::from_bits(u64::from_le_bytes(read_array(read, address)?));
            let high = u64::from_le_bytes(read_array(read, address.wrapping_add(8))?);
            let handler = Gva(low.offset(vector)? | high << 32);
            low.gate(vector, handler)
        }
    }
}

/// The layout of the interrupt table.
#[derive(Clone, Copy)]
enum TableLayout {
    /// Far pointers of 4 bytes.
    RealMode,
    /// Gates of 8 bytes.
    Legacy,
    /// Gates of 16 bytes.
    Long,
}

impl TableLayout {
    fn of(registers: &RegisterFile) -> Self {
        match (Cr0::read(registers).pe(), Efer::read(registers).lma()) {
            (false, _) => Self::RealMode,
            (true, false) => Self::Legacy,
            (true, true) => Self::Long,
        }
    }

    const fn entry_bytes(self) -> u64 {
        match self {
            Self::RealMode => 4,
            Self::Legacy => 8,
            Self::Long => 16,
        }
    }
}

/// Returns the base of the code segment that `selector` selects.
fn code_base(
    registers: &RegisterFile,
    selector: u16,
    read: ReadLinear<'_>,
) -> Result<u64, GateError> {
    let selector = Selector::from_bits(selector);
    let table = if selector.local() {
        SegmentRegister::Ldtr.base(registers)
    } else {
        registers.u64(registers::GDTR_BASE)
    };
    let address = Gva(table).wrapping_add(u64::from(selector.index()).saturating_mul(8));
    Ok(SegmentDescriptor::from_bits(u64::from_le_bytes(read_array(read, address)?)).base())
}

fn read_array<const LEN: usize>(
    read: ReadLinear<'_>,
    address: Gva,
) -> Result<[u8; LEN], GateError> {
    let mut bytes = [0; LEN];
    if read(address, &mut bytes) {
        Ok(bytes)
    } else {
        Err(GateError::Unreadable { address })
    }
}

#[cfg(test)]
mod tests;
