//! What hosts of AArch64 guests do alike.

use trapline_arch::aarch64::debug::{
    Beside, Breakpoint, DebugRegisters, LoadStore, Watchpoint, split_watch,
};

use super::{Capabilities, HardwarePoint, HardwarePoints, PointAccess};

impl HardwarePoints {
    /// Returns the debug registers for an entry into a guest whose own are `guest` (rule R9).
    #[must_use]
    pub fn beside(&self, guest: &DebugRegisters, capabilities: &Capabilities) -> Beside {
        let points = || self.iter().map(|(_, point)| point);
        let breakpoints = points().filter(|point| point.access == PointAccess::Execute);
        guest.beside(
            breakpoints.map(|point| Breakpoint::at(point.address)),
            points().filter_map(HardwarePoint::watchpoint),
            capabilities.hardware_breakpoints,
            capabilities.watchpoints,
        )
    }
}

impl HardwarePoint {
    /// Returns the register pair of a watchpoint, or `None` if the point is no watchpoint or cannot
    /// be held by one.
    pub(crate) fn watchpoint(self) -> Option<Watchpoint> {
        let kind = match self.access {
            PointAccess::Execute => return None,
            PointAccess::Read => LoadStore::Load,
            PointAccess::Write => LoadStore::Store,
            PointAccess::ReadWrite => LoadStore::Both,
        };
        let pieces = split_watch(self.address, self.len_bytes, 1).ok()?;
        pieces.first().map(|piece| Watchpoint::on(*piece, kind))
    }
}
