//! What `KVM_RUN` came back with; device accesses are answered on the spot.

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_debug_exit_arch};
use kvm_ioctls::VcpuExit;
use trapline_arch::Gpa;
use trapline_engine::{GuestEnd, VcpuId};
use vmm_sys_util::errno;

use crate::bus::{AfterExit, DeviceBus};
use crate::sys::RunPage;

/// What `KVM_RUN` came back with.
#[derive(Debug)]
pub(super) enum RunExit {
    /// Nothing that concerns anybody: a signal.
    Again,
    /// A device has answered. The instruction is completed by the next `KVM_RUN`.
    Device(AfterExit),
    /// A debug exception.
    Debug(kvm_debug_exit_arch),
    /// The guest is at its end.
    End(GuestEnd),
}

/// Sorts an exit and lets the devices answer it.
///
/// # Errors
/// What `KVM_RUN` itself has failed with.
pub(super) fn sort(
    result: Result<VcpuExit<'_>, errno::Error>,
    vcpu: VcpuId,
    page: &RunPage,
    bus: &dyn DeviceBus,
) -> Result<RunExit, errno::Error> {
    let exit = match result {
        Err(error) => {
            return match error.errno() {
                libc::EINTR | libc::EAGAIN => Ok(RunExit::Again),
                _ => Err(error),
            };
        }
        Ok(exit) => exit,
    };
    Ok(match exit {
        VcpuExit::MmioRead(address, data) => {
            bus.mmio_read(vcpu, Gpa(address), data);
            RunExit::Device(AfterExit::Resume)
        }
        VcpuExit::MmioWrite(address, data) => {
            RunExit::Device(bus.mmio_write(vcpu, Gpa(address), data))
        }
        VcpuExit::Intr => RunExit::Again,
        VcpuExit::Debug(debug) => RunExit::Debug(debug),
        VcpuExit::FailEntry(reason, _) => RunExit::End(GuestEnd::EntryFailed(reason)),
        VcpuExit::InternalError => {
            RunExit::End(GuestEnd::InternalError(page.internal_suberror().into()))
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => RunExit::End(GuestEnd::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => RunExit::End(GuestEnd::Reset),
        mut other => RunExit::Device(bus.other_exit(vcpu, &mut other)),
    })
}
