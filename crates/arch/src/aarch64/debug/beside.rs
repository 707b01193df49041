//! A debugger's breakpoints and watchpoints beside those of the guest.

use super::{Breakpoint, DebugRegisters, Privileges, Watchpoint};

/// Of the levels of a guest, EL0.
const EL0: u8 = 0b10;

/// What is in force when a debugger has put points beside the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The guest's debug registers with the debugger's points in those that it leaves unused.
    pub registers: DebugRegisters,
    /// How many of the debugger's points found no register.
    pub left_out: usize,
}

impl DebugRegisters {
    /// Puts a debugger's points into registers that the guest leaves unused, of a processor with
    /// `breakpoint_count` and `watchpoint_count` registers.
    ///
    /// The guest's stay where they are, since some are linked to each other by their numbers. The
    /// debugger's begin at the last register: few breakpoints can be linked to, and they are the last
    /// ones, but a debugger's need no context, and guests begin at the first.
    #[must_use]
    pub fn beside(
        &self,
        breakpoints: impl IntoIterator<Item = Breakpoint>,
        watchpoints: impl IntoIterator<Item = Watchpoint>,
        breakpoint_count: u8,
        watchpoint_count: u8,
    ) -> Beside {
        let mut registers = *self;
        let has_none = breakpoints
            .into_iter()
            .filter(|point| {
                let free = registers.breakpoints.iter_mut();
                let mut free = free.take(breakpoint_count.into()).rev();
                let slot = free.find(|slot| !slot.control.e());
                slot.map(|slot| *slot = *point).is_none()
            })
            .count();
        let has_no_watch = watchpoints
            .into_iter()
            .filter(|point| {
                let free = registers.watchpoints.iter_mut();
                let mut free = free.take(watchpoint_count.into()).rev();
                let slot = free.find(|slot| !slot.control.e());
                slot.map(|slot| *slot = *point).is_none()
            })
            .count();
        registers.mdscr = registers.mdscr.with_mde(true);
        Beside {
            registers,
            left_out: has_none.saturating_add(has_no_watch),
        }
    }

    /// Returns what of the registers is in force for a guest at EL1, as MDSCR has it: nothing but steps if
    /// breakpoints are off, and nothing at EL1 if exceptions from there are not taken.
    #[must_use]
    pub fn in_force(&self) -> Self {
        let mut registers = *self;
        for slot in &mut registers.breakpoints {
            let mut privileges = Privileges::of_breakpoint(slot.control);
            if !self.mdscr.kde() {
                privileges.pxc &= EL0;
            }
            let is_on = slot.control.e() && self.mdscr.mde() && privileges.pxc != 0;
            slot.control = privileges.in_breakpoint(slot.control).with_e(is_on);
        }
        for slot in &mut registers.watchpoints {
            let mut privileges = Privileges::of_watchpoint(slot.control);
            if !self.mdscr.kde() {
                privileges.pxc &= EL0;
            }
            let is_on = slot.control.e() && self.mdscr.mde() && privileges.pxc != 0;
            slot.control = privileges.in_watchpoint(slot.control).with_e(is_on);
        }
        registers
    }

    /// Returns how many breakpoints and how many watchpoints are on.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        (
            self.breakpoints
                .iter()
                .filter(|slot| slot.control.e())
                .count(),
            self.watchpoints
                .iter()
                .filter(|slot| slot.control.e())
                .count(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;
    use crate::aarch64::debug::{LoadStore, split_watch};

    fn watch(address: u64) -> Watchpoint {
        let pieces = split_watch(Gva(address), 4, 1).unwrap();
        Watchpoint::on(pieces[0], LoadStore::Both)
    }

    #[test]
    fn the_guests_points_stay_where_they_are() {
        let mut guest = DebugRegisters::default();
        guest.breakpoints[0] = Breakpoint::at(Gva(0x1000));
        guest.breakpoints[5] = Breakpoint::at(Gva(0x2000));
        guest.watchpoints[1] = watch(0x3000);
        let ours = [0x4000, 0x5000].map(|address| Breakpoint::at(Gva(address)));
        let both = guest.beside(ours, [watch(0x6000)], 6, 4);
        assert_eq!(both.left_out, 0);
        assert_eq!(both.registers.breakpoints[0], guest.breakpoints[0]);
        assert_eq!(both.registers.breakpoints[5], guest.breakpoints[5]);
        assert_eq!(both.registers.breakpoints[4], ours[0]);
        assert_eq!(both.registers.breakpoints[3], ours[1]);
        assert_eq!(both.registers.watchpoints[1], guest.watchpoints[1]);
        assert_eq!(both.registers.watchpoints[3], watch(0x6000));
        assert!(both.registers.mdscr.mde());
        assert_eq!(both.registers.in_use(), (4, 2));
    }

    #[test]
    fn what_the_guest_has_switched_off_is_not_in_force() {
        let mut guest = DebugRegisters::default();
        guest.breakpoints[0] = Breakpoint::at(Gva(0x1000));
        guest.watchpoints[0] = watch(0x3000);
        assert_eq!(guest.in_force().in_use(), (0, 0));
        guest.mdscr = guest.mdscr.with_mde(true);
        let user = guest.in_force();
        assert_eq!(user.in_use(), (1, 1));
        assert_eq!(user.breakpoints[0].control.pmc(), 0b10);
        assert_eq!(user.watchpoints[0].control.pac(), 0b10);
        guest.mdscr = guest.mdscr.with_kde(true);
        assert_eq!(guest.in_force(), guest);
    }

    #[test]
    fn what_finds_no_register_is_counted() {
        let mut guest = DebugRegisters::default();
        for slot in &mut guest.breakpoints[..2] {
            *slot = Breakpoint::at(Gva(0x1000));
        }
        let ours = [Breakpoint::at(Gva(0x4000)); 3];
        let both = guest.beside(ours, [watch(0); 3], 3, 2);
        assert_eq!(both.left_out, 3);
        assert_eq!(both.registers.in_use(), (3, 2));
    }
}
