//! What a vCPU's page says of a port instruction.
#![expect(unsafe_code, reason = "reads memory that the kernel writes")]

use core::mem::offset_of;

use kvm_bindings::kvm_run;

use super::RunPage;

impl RunPage {
    /// Returns the bytes of one access of the port instruction that `KVM_EXIT_IO` was about.
    pub(crate) fn io_access_bytes(&self) -> u8 {
        // SAFETY: the offset is that of a field of `kvm_run`, which the mapping holds.
        let field = unsafe {
            self.page
                .as_ptr()
                .add(offset_of!(kvm_run, __bindgen_anon_1.io.size))
        };
        // SAFETY: the byte is valid while `self` is, and any value is a `u8`.
        unsafe { field.read_volatile() }
    }
}
