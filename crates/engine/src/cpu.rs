//! The registers of one vCPU at one stop, fetched group by group, and what follows from them: the
//! pc, and where virtual addresses lead.

use trapline_arch::{Architecture, Gva, RegisterFile, RegisterGroup, RegisterGroups};

use crate::address_space::AddressSpace;

use crate::contract::{AccessError, Machine, Vcpu, VcpuId};

/// Where registers come from and go to.
pub(crate) trait RegisterSource {
    /// Fills one group of `file`.
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError>;
    /// Writes one group of `file`.
    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError>;
}

impl RegisterSource for &mut dyn Vcpu {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        Vcpu::load(*self, group, file)
    }
    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        Vcpu::store(*self, group, file)
    }
}

/// One stopped vCPU of a machine.
pub(crate) struct Stopped<'a> {
    /// The machine.
    pub(crate) machine: &'a mut dyn Machine,
    /// Which of its vCPUs.
    pub(crate) vcpu: VcpuId,
}

impl RegisterSource for Stopped<'_> {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        self.machine.load_registers(self.vcpu, group, file)
    }
    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        self.machine.store_registers(self.vcpu, group, file)
    }
}

/// The groups that the pc, the mode and address translation depend on.
pub(crate) const CONTROL: RegisterGroups = RegisterGroups::GENERAL.union(RegisterGroups::SYSTEM);

/// The registers of one vCPU, each group fetched at most once until [`invalidate`].
///
/// [`invalidate`]: Self::invalidate
#[derive(Debug)]
pub(crate) struct Cpu {
    architecture: Architecture,
    file: RegisterFile,
    loaded: RegisterGroups,
}

impl Cpu {
    pub(crate) fn new(architecture: Architecture) -> Self {
        let file = architecture.new_register_file();
        Self {
            architecture,
            file,
            loaded: RegisterGroups::empty(),
        }
    }

    /// Forgets all registers: the vCPU is about to run.
    pub(crate) fn invalidate(&mut self) {
        self.loaded = RegisterGroups::empty();
    }

    /// Fetches what is missing of `groups`.
    pub(crate) fn ensure(
        &mut self,
        source: &mut dyn RegisterSource,
        groups: RegisterGroups,
    ) -> Result<&RegisterFile, AccessError> {
        for group in RegisterGroup::ALL {
            let flag = RegisterGroups::from(group);
            if groups.contains(flag) && !self.loaded.contains(flag) {
                source.load(group, &mut self.file)?;
                self.architecture.complete(&mut self.file, group);
                self.loaded |= flag;
            }
        }
        Ok(&self.file)
    }

    /// Changes registers of `group` and writes the group to the vCPU. On an error the group is
    /// fetched anew, since the vCPU may have taken a part of the change.
    pub(crate) fn update<E: From<AccessError>>(
        &mut self,
        source: &mut dyn RegisterSource,
        group: RegisterGroup,
        change: impl FnOnce(&mut RegisterFile) -> Result<(), E>,
    ) -> Result<(), E> {
        self.ensure(source, group.into())?;
        let result =
            change(&mut self.file).and_then(|()| source.store(group, &self.file).map_err(E::from));
        if result.is_err() {
            self.loaded.remove(group.into());
        }
        self.architecture.complete(&mut self.file, group);
        result
    }

    /// Returns the guest's architecture.
    pub(crate) fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Returns the registers fetched so far.
    pub(crate) fn file(&self) -> &RegisterFile {
        &self.file
    }

    /// Returns the virtual address of the next instruction.
    pub(crate) fn pc(&mut self, source: &mut dyn RegisterSource) -> Result<Gva, AccessError> {
        let architecture = self.architecture;
        let groups = match architecture {
            // The code segment has a base.
            Architecture::X86_64 => CONTROL,
            Architecture::Aarch64 => RegisterGroups::GENERAL,
        };
        Ok(architecture.pc(self.ensure(source, groups)?))
    }

    /// Returns how virtual addresses are translated now.
    pub(crate) fn address_space(
        &mut self,
        source: &mut dyn RegisterSource,
    ) -> Result<AddressSpace, AccessError> {
        let architecture = self.architecture;
        let file = self.ensure(source, CONTROL)?;
        Ok(AddressSpace::of(architecture, file))
    }
}
