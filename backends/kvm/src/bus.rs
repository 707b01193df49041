//! What the hypervisor's owner provides: its devices, and an ear for vCPUs that stop.

use kvm_ioctls::VcpuExit;
use trapline_arch::Gpa;
use trapline_engine::{GuestEnd, StopReason, VcpuId};

/// What follows an exit that a device has dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExit {
    /// The guest goes on.
    Resume,
    /// The guest is at its end, such as after a write to a reset port.
    End(GuestEnd),
}

/// The devices of a guest, called on the thread of the vCPU that accesses them.
///
/// Several vCPUs may call at once. Each call is about one access of the guest's: a string
/// instruction makes as many calls as it moves elements.
///
/// A vCPU that stops for the debugger never stops between a device's answer and the end of the
/// instruction that asked.
pub trait DeviceBus: Send + Sync {
    /// Answers a read from an I/O port; `data` has 1, 2 or 4 bytes and is to be filled.
    fn pio_read(&self, vcpu: VcpuId, port: u16, data: &mut [u8]);

    /// Takes a write of 1, 2 or 4 bytes to an I/O port.
    fn pio_write(&self, vcpu: VcpuId, port: u16, data: &[u8]) -> AfterExit;

    /// Answers a read of 1 to 8 bytes from an address without memory; `data` is to be filled.
    fn mmio_read(&self, vcpu: VcpuId, address: Gpa, data: &mut [u8]);

    /// Takes a write of 1 to 8 bytes to an address without memory.
    fn mmio_write(&self, vcpu: VcpuId, address: Gpa, data: &[u8]) -> AfterExit;

    /// Deals with an exit that is neither a device access nor the debugger's: a filtered MSR, a
    /// hypercall, an end of interrupt on a split interrupt controller, a Xen or Hyper-V exit.
    ///
    /// The default ends the guest, because nobody has done what the guest asked for.
    fn other_exit(&self, vcpu: VcpuId, exit: &mut VcpuExit<'_>) -> AfterExit {
        let _ = (vcpu, exit);
        AfterExit::End(GuestEnd::InternalError(UNHANDLED_EXIT))
    }
}

/// The code of [`GuestEnd::InternalError`] for an exit that nobody has handled.
pub const UNHANDLED_EXIT: u64 = 1 << 33;

/// The offset of an error number of `KVM_RUN` in the code of [`GuestEnd::InternalError`]. Codes
/// below it are KVM's own (KVM API, `KVM_EXIT_INTERNAL_ERROR`, `suberror`).
pub const RUN_ERROR: u64 = 1 << 32;

/// A guest without devices: reads give all ones, writes go nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDevices;

impl DeviceBus for NoDevices {
    fn pio_read(&self, _: VcpuId, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn pio_write(&self, _: VcpuId, _: u16, _: &[u8]) -> AfterExit {
        AfterExit::Resume
    }

    fn mmio_read(&self, _: VcpuId, _: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&self, _: VcpuId, _: Gpa, _: &[u8]) -> AfterExit {
        AfterExit::Resume
    }
}

/// Who is told when a vCPU has stopped.
pub trait StopListener: Send + Sync {
    /// Takes the answer to one [`Command::Run`](trapline_engine::Command::Run).
    ///
    /// It is called on the vCPU's thread while no lock of this crate is held, so it may call back
    /// into the pool. The vCPU can be read and commanded at once. It should hand the message on
    /// and return: the vCPU cannot run again before it does.
    fn vcpu_stopped(&self, vcpu: VcpuId, reason: StopReason);
}

impl<F: Fn(VcpuId, StopReason) + Send + Sync> StopListener for F {
    fn vcpu_stopped(&self, vcpu: VcpuId, reason: StopReason) {
        self(vcpu, reason);
    }
}
