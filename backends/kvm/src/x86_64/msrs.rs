//! Model-specific registers that the register table names.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use trapline_arch::x86_64::registers as ids;
use trapline_arch::{RegisterFile, RegisterId};
use trapline_engine::contract::AccessError;
use vmm_sys_util::errno;

/// Register and MSR number. Source: SDM vol. 4, "Architectural MSRs"; `SPEC_CTRL` and `XSS` too.
const TABLE: [(RegisterId, u32); 15] = [
    (ids::KERNEL_GS_BASE, 0xc000_0102),
    (ids::STAR, 0xc000_0081),
    (ids::LSTAR, 0xc000_0082),
    (ids::CSTAR, 0xc000_0083),
    (ids::SFMASK, 0xc000_0084),
    (ids::SYSENTER_CS, 0x174),
    (ids::SYSENTER_ESP, 0x175),
    (ids::SYSENTER_EIP, 0x176),
    (ids::PAT, 0x277),
    (ids::MISC_ENABLE, 0x1a0),
    (ids::DEBUGCTL, 0x1d9),
    (ids::TSC, 0x10),
    (ids::TSC_AUX, 0xc000_0103),
    (ids::XSS, 0xda0),
    (ids::SPEC_CTRL, 0x48),
];

/// The MSRs of [`TABLE`] that a vCPU has, and what was last read of them.
#[derive(Debug)]
pub(super) struct MsrSet {
    known: Vec<(RegisterId, u32)>,
    loaded: Vec<u64>,
}

impl MsrSet {
    /// Finds out by reading which of the MSRs `vcpu` has.
    pub(super) fn of(vcpu: &VcpuFd) -> Result<Self, errno::Error> {
        let mut known = Vec::new();
        for (id, number) in TABLE {
            let mut one = request(&[(number, 0)])?;
            // KVM returns how many it could read: 0 for one that this vCPU does not have.
            if matches!(vcpu.get_msrs(&mut one), Ok(1)) {
                known.push((id, number));
            }
        }
        Ok(Self {
            known,
            loaded: Vec::new(),
        })
    }

    /// Fills the MSRs of `file`; those that the vCPU has not read 0.
    pub(super) fn load(
        &mut self,
        vcpu: &VcpuFd,
        file: &mut RegisterFile,
    ) -> Result<(), errno::Error> {
        let wanted: Vec<_> = self.known.iter().map(|&(_, number)| (number, 0)).collect();
        let mut msrs = request(&wanted)?;
        let read = vcpu.get_msrs(&mut msrs)?;
        self.loaded = msrs
            .as_slice()
            .iter()
            .take(read)
            .map(|entry| entry.data)
            .collect();
        for (&(id, _), value) in self.known.iter().zip(&self.loaded) {
            file.set_u64(id, *value);
        }
        Ok(())
    }

    /// Writes those MSRs that differ in `file` from what was read last. Others are left alone: to
    /// write back a time stamp counter read earlier would turn the guest's clock back.
    pub(super) fn store(&mut self, vcpu: &VcpuFd, file: &RegisterFile) -> Result<(), AccessError> {
        for (&(id, number), old) in self.known.iter().zip(&mut self.loaded) {
            let value = file.u64(id);
            if value == *old {
                continue;
            }
            let refused = |error: errno::Error| AccessError::Refused(error.errno());
            let one = request(&[(number, value)]).map_err(refused)?;
            match vcpu.set_msrs(&one) {
                Ok(1) => *old = value,
                // KVM tells a value it does not take by a count of 0.
                Ok(_) => return Err(AccessError::Refused(libc::EINVAL)),
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(())
    }
}

fn request(entries: &[(u32, u64)]) -> Result<Msrs, errno::Error> {
    let entries: Vec<_> = entries
        .iter()
        .map(|&(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).map_err(|_| errno::Error::new(libc::ENOMEM))
}
