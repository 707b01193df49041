//! The extended state of a vCPU, whose length KVM tells at run time.
#![expect(unsafe_code, reason = "KVM copies as many bytes as it has said before")]

use kvm_bindings::{Xsave, kvm_xsave, kvm_xsave2};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vmm_sys_util::errno;
use vmm_sys_util::fam::FamStruct;

/// Bytes of the area of kernels that do not tell its length.
const LEGACY_LEN_BYTES: usize = size_of::<kvm_xsave>();

/// A buffer for the extended state of vCPUs of one VM.
#[derive(Debug)]
pub(crate) struct XsaveArea {
    buffer: Xsave,
    len_bytes: usize,
    by_length: bool,
}

impl XsaveArea {
    /// Makes a buffer as long as `vm` asks for.
    pub(crate) fn new(vm: &VmFd) -> Result<Self, errno::Error> {
        let told = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let len_bytes = told.max(LEGACY_LEN_BYTES);
        let extra = len_bytes.saturating_sub(LEGACY_LEN_BYTES);
        let entries = extra.div_ceil(size_of::<<kvm_xsave2 as FamStruct>::Entry>());
        let buffer = Xsave::new(entries).map_err(|_| errno::Error::new(libc::ENOMEM))?;
        Ok(Self {
            buffer,
            len_bytes,
            by_length: told != 0,
        })
    }

    /// Fills the buffer from `vcpu` and returns its words.
    pub(crate) fn load(&mut self, vcpu: &VcpuFd) -> Result<(), errno::Error> {
        if self.by_length {
            // SAFETY: the buffer is as long as KVM_CAP_XSAVE2 told for this VM. The answer can only
            // change by arch_prctl before the VM's first vCPU, and this buffer is made after it.
            unsafe { vcpu.get_xsave2(&mut self.buffer) }
        } else {
            self.legacy_mut().region = vcpu.get_xsave()?.region;
            Ok(())
        }
    }

    /// Writes the buffer to `vcpu`.
    pub(crate) fn store(&self, vcpu: &VcpuFd) -> Result<(), errno::Error> {
        // SAFETY: as in `load`; kernels without KVM_CAP_XSAVE2 copy the fixed part only.
        unsafe { vcpu.set_xsave2(&self.buffer) }
    }

    /// Returns the state in the standard format, `kvm_xsave.region` and what follows it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let fixed = self.buffer.as_fam_struct_ref().xsave.region;
        let words = fixed.iter().chain(self.buffer.as_slice());
        words
            .flat_map(|word| word.to_le_bytes())
            .take(self.len_bytes)
            .collect()
    }

    /// Replaces the state; what `bytes` is too short for stays.
    pub(crate) fn set_bytes(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        for (to, from) in self.legacy_mut().region.iter_mut().zip(&mut words) {
            *to = from;
        }
        for (to, from) in self.buffer.as_mut_slice().iter_mut().zip(words) {
            *to = from;
        }
    }

    fn legacy_mut(&mut self) -> &mut kvm_xsave {
        // SAFETY: the length field, which the wrapper relies on, is not part of what is returned.
        let whole = unsafe { self.buffer.as_mut_fam_struct() };
        &mut whole.xsave
    }
}
