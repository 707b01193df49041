//! Registers and memory of a guest.

use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::{Gpa, PhysicalMemory, RegisterFile, RegisterGroup};

use super::{Capabilities, VcpuId};

/// Why registers could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessError {
    /// There is no such vCPU.
    NoSuchVcpu,
    /// The vCPU runs guest code, so its registers are not to be had.
    Running,
    /// This hypervisor has no access to registers of that group.
    Unsupported,
    /// The hypervisor refused a value, such as a reserved bit in a control register. The number is
    /// the host's error code.
    Refused(i32),
    /// The hypervisor has failed on the vCPU's processor, and goes on without it.
    HypervisorFailed,
}

impl core::fmt::Display for AccessError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoSuchVcpu => f.write_str("there is no such vCPU"),
            Self::Running => f.write_str("the vCPU is running"),
            Self::Unsupported => f.write_str("this hypervisor gives no access to that register"),
            Self::Refused(code) => write!(f, "the hypervisor refused the value (error {code})"),
            Self::HypervisorFailed => {
                f.write_str("the hypervisor has failed on its processor; 'monitor log' says how")
            }
        }
    }
}

impl core::error::Error for AccessError {}

/// What stands at a range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Memory that can be read and written.
    Ram,
    /// Memory that the guest can only read. A debugger writes it all the same.
    Rom,
}

/// A range of guest-physical addresses with memory behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First address.
    pub start: Gpa,
    /// Length in bytes.
    pub len_bytes: u64,
    /// What is there.
    pub kind: MemoryKind,
}

/// A guest's physical memory, which may be read and written while the guest runs (rule M3).
pub trait GuestMemory: PhysicalMemory + Sync {
    /// Copies `bytes` to `address` on and returns how many leading bytes were written; fewer than
    /// all means that the memory ends or has a hole there.
    ///
    /// A single byte is written atomically. Where the architecture asks for it, instruction caches
    /// are made to see the change before the call returns.
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize;

    /// Returns the memory's regions in ascending order, without overlaps.
    fn regions(&self) -> Vec<MemoryRegion>;
}

/// Whether a vCPU takes part in running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// It executes instructions when it runs.
    On,
    /// It waits in HLT or WFI for an interrupt.
    Halted,
    /// It waits to be started: for SIPI, or for PSCI `CPU_ON`.
    WaitingForStart,
}

/// A guest as the engine sees it while vCPUs are stopped.
///
/// Calls about a vCPU are made only while that vCPU is stopped, that is, before its first
/// [`Command::Run`](super::Command::Run) or after it was reported by `handle_stopped`.
pub trait Machine {
    /// Returns what the hypervisor can do. The answer never changes.
    fn capabilities(&self) -> &Capabilities;

    /// Returns the guest's memory.
    fn memory(&self) -> &dyn GuestMemory;

    /// Fills one group of `file` from a stopped vCPU.
    ///
    /// RFLAGS.TF is the guest's own, also between two steps of one resume.
    ///
    /// # Errors
    /// As [`AccessError`] says; `file` is then unchanged.
    fn load_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError>;

    /// Writes one group of `file` to a stopped vCPU.
    ///
    /// # Errors
    /// As [`AccessError`] says; the vCPU is then unchanged as far as the hypervisor allows.
    fn store_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError>;

    /// Returns whether a stopped vCPU takes part in running.
    fn power_state(&mut self, vcpu: VcpuId) -> PowerState;

    /// Returns what the hypervisor has said of itself, in lines, the oldest first, for `monitor log`.
    /// `None` if it keeps no such log: what it says is read elsewhere. It may be asked for at any time.
    fn log(&self) -> Option<String> {
        None
    }
}

/// One vCPU as its own thread sees it between two VM entries.
pub trait Vcpu {
    /// Fills one group of `file`. RFLAGS.TF is the guest's own, also while stepping.
    ///
    /// # Errors
    /// As [`AccessError`] says; `file` is then unchanged.
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError>;

    /// Writes one group of `file` to the vCPU. A change of RFLAGS.TF changes the guest's own.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError>;

    /// Returns the guest's memory.
    fn memory(&self) -> &dyn GuestMemory;

    /// Returns the vector of the event that the next entry delivers before any instruction,
    /// whatever it is asked for: one that was injected and has not arrived, or one whose delivery
    /// an exit has cut short. `None` if there is none.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    fn pending_vector(&mut self) -> Result<Option<u8>, AccessError>;

    /// Delivers the breakpoint exception of the guest's own breakpoint instruction at the current
    /// pc, exactly as hardware would have (rule R9): on x86 the return address is past the
    /// instruction.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    fn inject_breakpoint(&mut self) -> Result<(), AccessError>;

    /// Delivers a debug exception of the guest's own at the next VM entry, with `cause` as what it
    /// finds in its status register: on x86 the bits to set in DR6.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    fn inject_debug(&mut self, cause: u64) -> Result<(), AccessError>;
}
