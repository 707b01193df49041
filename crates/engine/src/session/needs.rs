//! What a request needs before it can be answered: stopped vCPUs, or the right to change the guest.

use trapline_rsp::Request;
use trapline_rsp::request::FileRequest;

use super::{Access, Refusal, Session};
use crate::monitor;

impl Session {
    /// Returns whether a request can be answered only while all vCPUs are out of the guest.
    pub(super) fn needs_stopped(&self, request: &Request<'_>) -> bool {
        match request {
            Request::ReadRegisters { .. }
            | Request::WriteRegisters { .. }
            | Request::ReadRegister { .. }
            | Request::WriteRegister { .. }
            | Request::SaveRegisters { .. }
            | Request::RestoreRegisters { .. }
            | Request::ThreadExtraInfo(_)
            | Request::ThreadsInfo
            | Request::ThreadStopInfo(_)
            | Request::MemoryRegion(_)
            | Request::InsertBreakpoint(_)
            | Request::RemoveBreakpoint(_)
            | Request::Continue { .. }
            | Request::Step { .. }
            | Request::Resume(_)
            | Request::Detach { .. }
            | Request::Offsets
            | Request::HostInfo
            | Request::ProcessInfo => true,
            Request::Monitor(command) => monitor::needs_stopped(&command.to_vec()),
            Request::ReadMemory { .. }
            | Request::ReadMemoryBinary { .. }
            | Request::WriteMemory { .. }
            | Request::WriteMemoryBinary { .. }
            | Request::Crc { .. }
            | Request::SearchMemory(_) => !self.uses_physical_addresses,
            Request::Transfer(_) | Request::File(FileRequest::Open { .. }) => true,
            // For others it is a request to stop the guest.
            Request::StopReason => self.access == Access::ReadOnly,
            _ => false,
        }
    }

    /// Refuses what a read-only client may not do (rule A1).
    pub(super) fn check_access(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let changes = matches!(
            request,
            Request::Kill
                | Request::KillProcess(_)
                | Request::WriteRegisters { .. }
                | Request::WriteRegister { .. }
                | Request::RestoreRegisters { .. }
                | Request::WriteMemory { .. }
                | Request::WriteMemoryBinary { .. }
                | Request::Continue { .. }
                | Request::Step { .. }
                | Request::Resume(_)
                | Request::Interrupt
                | Request::InsertBreakpoint(_)
        );
        if changes && self.access == Access::ReadOnly {
            return Err(Refusal::text(1, "this session is read-only"));
        }
        Ok(())
    }
}
