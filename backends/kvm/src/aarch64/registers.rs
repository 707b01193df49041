//! Registers between KVM and the register file.
//!
//! KVM gives each register by a call of its own, so what was read since the vCPU left the guest is
//! kept, and only what has changed is written.

use trapline_arch::aarch64::registers as ids;
use trapline_arch::aarch64::{control::Pstate, mode};
use trapline_arch::{RegisterFile, RegisterGroup, RegisterGroups, RegisterId};
use vmm_sys_util::errno;

use super::one_reg::{self, OneReg};
use super::vcpu::KvmVcpu;
use crate::sys::host_registers;

/// Bits of one quadword of a vector.
const QUADWORD_BYTES: u64 = 16;

/// What is known of a vCPU's registers since it left the guest.
#[derive(Debug)]
pub(super) struct RegisterCache {
    file: RegisterFile,
    known: RegisterGroups,
}

impl RegisterCache {
    pub(super) fn new() -> Self {
        Self {
            file: ids::file(),
            known: RegisterGroups::empty(),
        }
    }

    /// Forgets all values.
    pub(super) fn forget(&mut self) {
        self.known = RegisterGroups::empty();
    }

    fn forget_group(&mut self, group: RegisterGroup) {
        self.known.remove(group.into());
    }
}

/// The registers of one vCPU that KVM lets be read, by group.
#[derive(Clone, Debug, Default)]
pub(super) struct RegisterSet {
    general: Vec<(RegisterId, OneReg)>,
    system: Vec<(RegisterId, OneReg)>,
    fpu: Vec<(RegisterId, OneReg)>,
    debug: Vec<(RegisterId, OneReg)>,
    other: Vec<(RegisterId, OneReg)>,
    /// The vector length of SVE in quadwords, if there is SVE.
    pub(super) vector_quadwords: Option<u8>,
}

impl RegisterSet {
    /// Makes the set of those for which `has` is true.
    pub(super) fn new(has: impl Fn(OneReg) -> bool, vector_quadwords: Option<u8>) -> Self {
        let nth = |first: RegisterId, number: usize| {
            RegisterId(
                first
                    .0
                    .saturating_add(u16::try_from(number).unwrap_or(u16::MAX)),
            )
        };
        let mut general: Vec<_> = (0..31)
            .map(|number| (nth(ids::X0, number), one_reg::x(number)))
            .collect();
        general.extend([(ids::PC, one_reg::PC), (ids::CPSR, one_reg::PSTATE)]);
        let mut fpu = Vec::new();
        if vector_quadwords.is_some() {
            fpu.extend((0..32).map(|number| (nth(ids::Z0, number), one_reg::z(number as u64))));
            // FFR stands behind p15, here and in the table.
            fpu.extend((0..17).map(|number| (nth(ids::P0, number), one_reg::p(number as u64))));
        } else {
            fpu.extend((0..32).map(|number| (nth(ids::V0, number), one_reg::v(number))));
        }
        fpu.extend([(ids::FPSR, one_reg::FPSR), (ids::FPCR, one_reg::FPCR)]);
        let mut debug = one_reg::DEBUG.to_vec();
        debug.extend((0..ids::MAX_DEBUG_SLOTS).flat_map(one_reg::debug_slot));
        let present = |registers: &[(RegisterId, OneReg)]| {
            let present = registers.iter().filter(|(_, number)| has(*number));
            present.copied().collect()
        };
        Self {
            general,
            system: present(&one_reg::SYSTEM),
            fpu,
            debug: present(&debug),
            other: present(&one_reg::OTHER),
            vector_quadwords,
        }
    }

    fn group(&self, group: RegisterGroup) -> &[(RegisterId, OneReg)] {
        match group {
            RegisterGroup::General => &self.general,
            RegisterGroup::System => &self.system,
            RegisterGroup::Fpu => &self.fpu,
            RegisterGroup::Debug => &self.debug,
            RegisterGroup::Msr => &self.other,
        }
    }
}

impl KvmVcpu {
    /// Returns the registers with `group` among what is known.
    pub(super) fn known(&mut self, group: RegisterGroup) -> Result<&RegisterFile, errno::Error> {
        if self.cache.known.contains(group.into()) {
            return Ok(&self.cache.file);
        }
        for (id, number) in self.set.group(group) {
            let bytes = self.cache.file.bytes_mut(*id);
            if bytes.len() < number.len_bytes() {
                // The process state has 64 bits in KVM and 32 in the table.
                let mut wide = [0; 8];
                self.fd.get_one_reg(number.0, &mut wide)?;
                let len = bytes.len();
                bytes.copy_from_slice(wide.get(..len).unwrap_or(&[0; 4]));
            } else {
                self.fd.get_one_reg(number.0, bytes)?;
            }
        }
        self.add_derived(group)?;
        self.cache.known |= group.into();
        Ok(&self.cache.file)
    }

    /// Fills registers that KVM does not give as such.
    fn add_derived(&mut self, group: RegisterGroup) -> Result<(), errno::Error> {
        match group {
            RegisterGroup::General => {
                let number = self.stack_pointer();
                let value = one_reg::read(&self.fd, number)?;
                self.cache.file.set_u64(ids::SP, value);
            }
            RegisterGroup::Fpu => {
                if let Some(quadwords) = self.set.vector_quadwords {
                    let granules = u64::from(quadwords) * QUADWORD_BYTES / 8;
                    self.cache.file.set_u64(ids::VG, granules);
                }
            }
            RegisterGroup::Msr => {
                let file = &mut self.cache.file;
                file.set_u64(ids::CNTFRQ_EL0, host_registers::counter_hz());
                file.set_u64(ids::DCZID_EL0, host_registers::dczid());
                let cache = file.u64(ids::CSSELR_EL1);
                let ccsidr = one_reg::read(&self.fd, one_reg::ccsidr(cache));
                self.cache
                    .file
                    .set_u64(ids::CCSIDR_EL1, ccsidr.unwrap_or(0));
            }
            RegisterGroup::System | RegisterGroup::Debug => {}
        }
        Ok(())
    }

    /// Returns KVM's number of the stack pointer that is in use.
    fn stack_pointer(&self) -> OneReg {
        match mode::banked_sp(&self.cache.file) {
            Some(ids::SP_EL1) => one_reg::SP_EL1,
            _ => one_reg::SP_EL0,
        }
    }

    /// Writes what is different in `file` from what is known of `group`.
    pub(super) fn store_changes(
        &mut self,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), errno::Error> {
        self.known(group)?;
        self.cache.forget_group(group);
        for (id, number) in self.set.group(group) {
            let register = file.register(*id);
            let writable = register.is_some_and(|it| it.writable != trapline_arch::Writable::No);
            if !writable || file.bytes(*id) == self.cache.file.bytes(*id) {
                continue;
            }
            if file.bytes(*id).len() < number.len_bytes() {
                one_reg::write(&self.fd, *number, file.u64(*id))?;
            } else {
                self.fd.set_one_reg(number.0, file.bytes(*id))?;
            }
        }
        match group {
            RegisterGroup::General => {
                Pstate::read(file).write(&mut self.cache.file);
                one_reg::write(&self.fd, self.stack_pointer(), file.u64(ids::SP))?;
                // It shows as a banked register there.
                self.cache.forget_group(RegisterGroup::System);
            }
            RegisterGroup::System => self.cache.forget_group(RegisterGroup::General),
            RegisterGroup::Fpu | RegisterGroup::Debug | RegisterGroup::Msr => {}
        }
        Ok(())
    }
}

impl OneReg {
    /// Returns the register's width in bytes.
    pub(super) fn len_bytes(self) -> usize {
        1 << (self.0 >> 52 & 0xf)
    }
}
