//! What of the interrupt controller's registers the guest may change.
//!
//! The guest programs the distributor, and on `GICv3` its redistributors, itself. It would turn off what it
//! does not know: Linux begins with turning off every interrupt. So its accesses are made by the
//! hypervisor, without the fields of the interrupts that are the hypervisor's own.
//!
//! Each kind of register has one field of equal width for each interrupt, in the order of their numbers:
//!
//! ```text
//!  offset   bits  fields                       a write to a guarded field
//!  0x080    1     group                        is undone
//!  0x100    1     enable, pending, active,     does nothing: the bit is written as 0
//!                 each a set and a clear bank
//!  0x400    8     priority                     is undone
//!  0x800    8     targets (`GICv2`)            is undone
//!  0xc00    2     edge or level                is undone
//!  0xd00    1     group modifier               is undone
//!  0xe00    2     non-secure access            is undone
//!  0x6000   64    route (`GICv3`)              is undone
//! ```
//!
//! Source: Arm, "GIC Architecture Specification, `GICv3` and `GICv4`", "Distributor register map".

use bitfield_struct::bitfield;

/// The control register, of the distributor and of a redistributor.
pub const CTLR: u64 = 0;

/// Set-enable and clear-enable registers of the first 32 interrupts.
pub const ISENABLER0: u64 = 0x100;
/// See [`ISENABLER0`].
pub const ICENABLER0: u64 = 0x180;

/// A bank of registers.
struct Bank {
    offset: u64,
    end: u64,
    width: u64,
    /// Writing 0 to a field does nothing.
    is_by_ones: bool,
}

const BANKS: [Bank; 8] = [
    bank(0x080, 0x100, 1, false),
    bank(0x100, 0x400, 1, true),
    bank(0x400, 0x800, 8, false),
    bank(0x800, 0xc00, 8, false),
    bank(0xc00, 0xd00, 2, false),
    bank(0xd00, 0xe00, 1, false),
    bank(0xe00, 0xf00, 2, false),
    bank(0x6000, 0x8000, 64, false),
];

/// Registers with one bit for an interrupt come in banks of 0x80 bytes.
const BIT_BANK_BYTES: u64 = 0x80;

const fn bank(offset: u64, end: u64, width: u64, is_by_ones: bool) -> Bank {
    Bank {
        offset,
        end,
        width,
        is_by_ones,
    }
}

/// `GICD_SGIR` of a `GICv2`, by which a processor sends an interrupt to others.
///
/// Source: Arm, "GIC Architecture Specification, GIC architecture version 2.0", "Software Generated Interrupt
/// Register, `GICD_SGIR`".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Sgir {
    /// The interrupt, 0 to 15.
    #[bits(4)]
    pub interrupt: u32,
    #[bits(11)]
    __: u16,
    /// Which security state's interrupt, for a secure sender.
    pub nsatt: bool,
    /// A bit for each CPU interface.
    pub targets: u8,
    /// Whether the targets count: 0 does, 1 means all but the sender, 2 the sender alone.
    #[bits(2)]
    pub target_list_filter: u8,
    #[bits(6)]
    __: u8,
}

impl Sgir {
    /// Returns the CPU interfaces that receive the interrupt, where `sender` is the sender's bit.
    #[must_use]
    pub const fn receivers(self, sender: u8) -> u8 {
        match self.target_list_filter() {
            0 => self.targets(),
            1 => !sender,
            2 => sender,
            _ => 0,
        }
    }
}

/// Returns which bits of an access to `len_bytes` bytes at `offset` are of interrupts in `guarded`.
#[must_use]
pub fn guarded_bits(offset: u64, len_bytes: u64, guarded: &[u32]) -> u64 {
    let Some(bank) = bank_at(offset) else {
        return 0;
    };
    let base = if bank.width == 1 {
        offset & !(BIT_BANK_BYTES - 1)
    } else {
        bank.offset
    };
    let first = (offset - base) * 8;
    let bits = (0..len_bytes.min(8) * 8).filter(|bit| {
        let interrupt = (first + bit) / bank.width;
        guarded
            .iter()
            .any(|guarded| u64::from(*guarded) == interrupt)
    });
    bits.fold(0, |mask, bit| mask | 1 << bit)
}

/// Returns what is to be written for a guest's write of `value`, where `now` is what reading gives.
#[must_use]
pub fn permitted(offset: u64, len_bytes: u64, value: u64, now: u64, guarded: &[u32]) -> u64 {
    let mask = guarded_bits(offset, len_bytes, guarded);
    let is_by_ones = bank_at(offset).is_some_and(|bank| bank.is_by_ones);
    if is_by_ones {
        value & !mask
    } else {
        value & !mask | now & mask
    }
}

fn bank_at(offset: u64) -> Option<&'static Bank> {
    BANKS
        .iter()
        .find(|bank| bank.offset <= offset && offset < bank.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_interrupt_stays_enabled() {
        // Interrupt 40 is bit 8 of the second register of each bank.
        let all = 0xffff_ffff;
        assert_eq!(permitted(0x184, 4, all, 0, &[40]), 0xffff_feff);
        assert_eq!(permitted(0x180, 4, all, 0, &[40]), all);
        assert_eq!(permitted(0x384, 4, all, 0, &[40]), 0xffff_feff);
    }

    #[test]
    fn what_is_no_set_or_clear_register_keeps_guarded_fields() {
        assert_eq!(permitted(0x084, 4, 0, 0xffff_ffff, &[40]), 0x100);
        assert_eq!(permitted(0x428, 4, 0xa0a0_a0a0, 0x11, &[40]), 0xa0a0_a011);
        assert_eq!(permitted(0x428, 1, 0xa0, 0x11, &[40]), 0x11);
        assert_eq!(permitted(0x429, 1, 0xa0, 0x11, &[40]), 0xa0);
        assert_eq!(permitted(0xc08, 4, 0, 0x3_0000, &[40]), 0x3_0000);
        assert_eq!(permitted(0x6140, 8, 5, 7, &[40]), 7);
        assert_eq!(permitted(0x6148, 8, 5, 7, &[40]), 5);
    }

    #[test]
    fn the_second_word_of_a_route_is_guarded_too() {
        assert_eq!(permitted(0x6144, 4, 5, 7, &[40]), 7);
    }

    #[test]
    fn software_interrupts_reach_whom_they_name() {
        let listed = Sgir::from_bits(0x0006_0003);
        assert_eq!(
            (listed.interrupt(), listed.receivers(0b1)),
            (3, 0b0000_0110)
        );
        assert_eq!(Sgir::from_bits(0x0106_0000).receivers(0b100), 0b1111_1011);
        assert_eq!(Sgir::from_bits(0x0206_0000).receivers(0b100), 0b100);
        assert_eq!(Sgir::from_bits(0x03ff_0000).receivers(0b100), 0);
    }

    #[test]
    fn what_is_of_no_interrupt_is_not_touched() {
        assert_eq!(guarded_bits(CTLR, 4, &[0, 1, 40]), 0);
        assert_eq!(guarded_bits(0xffe8, 4, &[40]), 0);
    }
}
