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
    /// Nothing that concerns anybody: a signal, or a vCPU that has just been started.
    Again,
    /// A device has answered. The instruction is completed by the next `KVM_RUN`.
    Device(AfterExit),
    /// HLT, and KVM does not wait by itself.
    Halt,
    /// A debug exception or a breakpoint instruction.
    Debug(kvm_debug_exit_arch),
    /// KVM could not go on; this is its reason.
    Internal(u32),
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
        VcpuExit::IoIn(port, data) => {
            for element in data.chunks_mut(element_len(page)) {
                bus.pio_read(vcpu, port, element);
            }
            RunExit::Device(AfterExit::Resume)
        }
        VcpuExit::IoOut(port, data) => RunExit::Device(write_port(vcpu, port, data, page, bus)),
        VcpuExit::MmioRead(address, data) => {
            bus.mmio_read(vcpu, Gpa(address), data);
            RunExit::Device(AfterExit::Resume)
        }
        VcpuExit::MmioWrite(address, data) => {
            RunExit::Device(bus.mmio_write(vcpu, Gpa(address), data))
        }
        VcpuExit::Intr => RunExit::Again,
        VcpuExit::Hlt => RunExit::Halt,
        VcpuExit::Debug(debug) => RunExit::Debug(debug),
        VcpuExit::Shutdown => RunExit::End(GuestEnd::TripleFault),
        VcpuExit::FailEntry(reason, _) => RunExit::End(GuestEnd::EntryFailed(reason)),
        VcpuExit::InternalError => RunExit::Internal(page.internal_suberror()),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => RunExit::End(GuestEnd::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => RunExit::End(GuestEnd::Reset),
        mut other => RunExit::Device(bus.other_exit(vcpu, &mut other)),
    })
}

fn write_port(
    vcpu: VcpuId,
    port: u16,
    data: &[u8],
    page: &RunPage,
    bus: &dyn DeviceBus,
) -> AfterExit {
    for element in data.chunks(element_len(page)) {
        let after = bus.pio_write(vcpu, port, element);
        if after != AfterExit::Resume {
            return after;
        }
    }
    AfterExit::Resume
}

/// Returns the length of one element of a string instruction, which is all of a plain one's.
fn element_len(page: &RunPage) -> usize {
    usize::from(page.io_access_bytes()).max(1)
}
