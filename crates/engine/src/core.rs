//! What all sessions share: the guest's vCPUs, its breakpoints and what is known of it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::{
    Architecture, FeatureSet, Gpa, Gva, LayoutKind, RegisterFile, RegisterGroup, RegisterGroups,
};

use crate::address_space::AddressSpace;
use crate::contract::{
    AccessError, Capabilities, FindProgress, GuestMemory, GuestOs, KernelImage, Machine,
    ResumeAction, StopReason, Time, VcpuId, VirtualView,
};
use crate::cpu::{Cpu, Stopped};
use crate::monitor;
use crate::points::{PointKey, PointKind, PointOwner, PointSet, PointTable};
use crate::run_control::{Phase, RunControl};
use crate::session::SessionId;

/// How often the guest's operating system is looked for without a client asking for it.
const OS_LOOK_INTERVAL_NS: u64 = 250_000_000;

/// What the engine is told of a guest when it is created.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// The guest's architecture.
    pub architecture: Architecture,
    /// How many vCPUs it has, at least one.
    pub vcpu_count: u32,
    /// Which optional registers its vCPUs have.
    pub features: FeatureSet,
    /// Which registers clients are shown, unless they choose another way.
    pub layout: LayoutKind,
    /// What the hypervisor can do.
    pub capabilities: Capabilities,
}

/// What all sessions share.
pub(crate) struct Core {
    pub(crate) config: GuestConfig,
    pub(crate) run: RunControl,
    pub(crate) points: PointTable,
    pub(crate) os: Option<Box<dyn GuestOs>>,
    /// Whether the guest has run since the engine took it over, or a client said that it may.
    pub(crate) has_started: bool,
    /// Whether a client's going away leaves a stopped guest stopped.
    pub(crate) stays_stopped: bool,
    pub(crate) monitor: monitor::Shared,
    /// Not before this is the guest's operating system looked for without being asked for.
    next_os_look: Time,
    /// Whose request was left unfinished last, to go on in another turn, and when.
    pub(crate) last_turn: (SessionId, Time),
    /// On whose behalf each vCPU's last hit counted when it came.
    pub(crate) counted_for: BTreeMap<VcpuId, Vec<PointOwner>>,
    /// Whose resume is in force.
    pub(crate) resumer: Option<SessionId>,
    cpus: Vec<Cpu>,
}

/// A request's view of the engine: what all sessions share, and the machine itself.
pub(crate) struct Context<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) machine: &'a mut dyn Machine,
    pub(crate) now: Time,
}

impl Core {
    pub(crate) fn new(config: GuestConfig, os: Option<Box<dyn GuestOs>>) -> Self {
        Self {
            run: RunControl::new(config.vcpu_count),
            points: PointTable::new(config.architecture, config.capabilities),
            os,
            has_started: false,
            stays_stopped: false,
            monitor: monitor::Shared::new(config.layout),
            next_os_look: Time(0),
            last_turn: (SessionId(0), Time(0)),
            counted_for: BTreeMap::new(),
            resumer: None,
            cpus: (0..config.vcpu_count)
                .map(|_| Cpu::new(config.architecture))
                .collect(),
            config,
        }
    }

    /// Takes a vCPU's answer to its run.
    pub(crate) fn handle_stopped(&mut self, vcpu: VcpuId, reason: StopReason) {
        if reason != StopReason::Paused {
            self.counted_for.remove(&vcpu);
        }
        self.run.handle_stopped(vcpu, reason);
    }

    pub(crate) fn forget_registers(&mut self) {
        self.cpus.iter_mut().for_each(Cpu::invalidate);
    }
}

impl Context<'_> {
    /// Fetches registers of a stopped vCPU.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    pub(crate) fn registers(
        &mut self,
        vcpu: VcpuId,
        groups: RegisterGroups,
    ) -> Result<&RegisterFile, AccessError> {
        let cpu = self
            .core
            .cpus
            .get_mut(vcpu.index())
            .ok_or(AccessError::NoSuchVcpu)?;
        cpu.ensure(
            &mut Stopped {
                machine: self.machine,
                vcpu,
            },
            groups,
        )
    }

    /// Changes registers of one group of a stopped vCPU.
    ///
    /// # Errors
    /// What `change` returns, or as [`AccessError`] says.
    pub(crate) fn update_registers<E: From<AccessError>>(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        change: impl FnOnce(&mut RegisterFile) -> Result<(), E>,
    ) -> Result<(), E> {
        let cpu = self
            .core
            .cpus
            .get_mut(vcpu.index())
            .ok_or(AccessError::NoSuchVcpu)?;
        cpu.update(
            &mut Stopped {
                machine: self.machine,
                vcpu,
            },
            group,
            change,
        )
    }

    /// Returns the virtual address of a stopped vCPU's next instruction.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    pub(crate) fn pc(&mut self, vcpu: VcpuId) -> Result<Gva, AccessError> {
        let cpu = self
            .core
            .cpus
            .get_mut(vcpu.index())
            .ok_or(AccessError::NoSuchVcpu)?;
        cpu.pc(&mut Stopped {
            machine: self.machine,
            vcpu,
        })
    }

    /// Returns how a stopped vCPU translates virtual addresses.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    pub(crate) fn address_space(&mut self, vcpu: VcpuId) -> Result<AddressSpace, AccessError> {
        let cpu = self
            .core
            .cpus
            .get_mut(vcpu.index())
            .ok_or(AccessError::NoSuchVcpu)?;
        cpu.address_space(&mut Stopped {
            machine: self.machine,
            vcpu,
        })
    }

    /// Returns the address spaces in which an address of `vcpu` may be looked up, its own first:
    /// another vCPU's tables may map the kernel where this one's leave it out.
    ///
    /// # Errors
    /// As [`AccessError`] says of the vCPU itself.
    pub(crate) fn address_spaces(
        &mut self,
        vcpu: VcpuId,
    ) -> Result<Vec<AddressSpace>, AccessError> {
        let mut spaces = Vec::from([self.address_space(vcpu)?]);
        for other in self.core.run.vcpu_ids().filter(|other| *other != vcpu) {
            spaces.extend(self.address_space(other).ok());
        }
        Ok(spaces)
    }

    /// Reads virtual memory as `vcpu` sees it. Returns how many leading bytes could be read.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    pub(crate) fn read_virtual(
        &mut self,
        vcpu: VcpuId,
        address: Gva,
        buffer: &mut [u8],
    ) -> Result<usize, AccessError> {
        let own = self.address_space(vcpu)?;
        let read = own.read(
            self.machine.memory(),
            &self.core.points.published(),
            address,
            buffer,
        );
        if read > 0 || buffer.is_empty() || !is_kernel_half(own.untag(address)) {
            return Ok(read);
        }
        let points = self.core.points.published();
        for space in self.address_spaces(vcpu)?.iter().skip(1) {
            let read = space.read(self.machine.memory(), &points, address, buffer);
            if read > 0 {
                return Ok(read);
            }
        }
        Ok(0)
    }

    /// Writes virtual memory under the breakpoints that stand there. Returns how many leading bytes
    /// could be written.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    pub(crate) fn write_virtual(
        &mut self,
        vcpu: VcpuId,
        address: Gva,
        bytes: &[u8],
    ) -> Result<usize, AccessError> {
        for space in self.address_spaces(vcpu)? {
            let memory = self.machine.memory();
            let points = &self.core.points;
            let written = space.for_each_piece(memory, address, bytes.len(), |gpa, range| {
                points.write(memory, gpa, bytes.get(range).unwrap_or_default())
            });
            if written > 0 || !is_kernel_half(space.untag(address)) {
                return Ok(written);
            }
        }
        Ok(0)
    }

    /// Reads physical memory without breakpoint instructions.
    pub(crate) fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let read = self.machine.memory().read_physical(address, buffer);
        self.core
            .points
            .mask(address, buffer.get_mut(..read).unwrap_or_default());
        read
    }

    /// Writes physical memory under the breakpoints that stand there.
    pub(crate) fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        self.core
            .points
            .write(self.machine.memory(), address, bytes)
    }

    /// Returns the guest-physical address of a virtual one.
    ///
    /// # Errors
    /// As [`AccessError`] says.
    pub(crate) fn translate(
        &mut self,
        vcpu: VcpuId,
        address: Gva,
    ) -> Result<Option<Gpa>, AccessError> {
        let own = self.address_space(vcpu)?;
        let found = own.gpa(self.machine.memory(), address);
        if found.is_some() || !is_kernel_half(own.untag(address)) {
            return Ok(found);
        }
        let spaces = self.address_spaces(vcpu)?;
        Ok(spaces
            .iter()
            .find_map(|space| space.gpa(self.machine.memory(), address)))
    }

    /// Lets the operating-system layer look for its system, with little work, unless it has just
    /// done so: a client that steps stops thousands of times a second.
    pub(crate) fn refresh_os(&mut self, vcpu: VcpuId) {
        if self.now < self.core.next_os_look {
            return;
        }
        self.core.next_os_look = self.now.after(OS_LOOK_INTERVAL_NS);
        self.with_os(vcpu, |os, memory, view| os.refresh(memory, view));
    }

    /// Tells the operating-system layer that a client wants to know of its system.
    pub(crate) fn ask_for_os(&mut self) {
        if let Some(os) = &mut self.core.os {
            os.ask();
        }
    }

    /// Lets the operating-system layer look for its system because a client asked.
    pub(crate) fn find_os(&mut self, vcpu: VcpuId) -> FindProgress {
        let progress = self.with_os(vcpu, |os, memory, view| os.find(memory, view));
        progress.unwrap_or(FindProgress::Done)
    }

    /// Lets the operating-system layer look for the kernel's image because a debugger connects.
    pub(crate) fn find_image(&mut self, vcpu: VcpuId) -> FindProgress {
        let progress = self.with_os(vcpu, |os, _, view| os.find_image(view));
        progress.unwrap_or(FindProgress::Done)
    }

    /// Returns the kernel's image, if it is known and says what it is.
    pub(crate) fn image(&self) -> Option<KernelImage> {
        self.core.os.as_ref()?.image()
    }

    /// Copies a part of the symbol file that the operating-system layer offers, and returns how many
    /// bytes were copied, or `None` without such a layer.
    pub(crate) fn read_symbol_file(
        &mut self,
        vcpu: VcpuId,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let read = self.with_os(vcpu, |os, memory, view| {
            os.read_symbol_file(memory, view, offset_bytes, buffer)
        });
        // The guest may run: then nothing is mapped, but memory can be read.
        read.or_else(|| {
            let (os, memory) = (self.core.os.as_ref()?, self.machine.memory());
            Some(os.read_symbol_file(memory, &Unmapped, offset_bytes, buffer))
        })
    }

    fn with_os<T>(
        &mut self,
        vcpu: VcpuId,
        act: impl FnOnce(&mut dyn GuestOs, &dyn GuestMemory, &dyn VirtualView) -> T,
    ) -> Option<T> {
        let mut os = self.core.os.take()?;
        let pc = self.pc(vcpu).ok();
        let space = self.address_space(vcpu).ok();
        let result = space.map(|space| {
            let memory = self.machine.memory();
            let view = View {
                space: &space,
                memory,
                points: self.core.points.published(),
                pc,
            };
            act(os.as_mut(), memory, &view)
        });
        self.core.os = Some(os);
        result
    }

    /// Lets all vCPUs go on that have something to do.
    pub(crate) fn take_up(&mut self) {
        let points = self.core.points.publish(self.machine.memory());
        for vcpu in self.core.run.vcpu_ids() {
            if self.core.run.action(vcpu).is_none() {
                continue;
            }
            let was_told = self.core.run.told_pc(vcpu).is_some();
            let pc = was_told.then(|| self.pc(vcpu).ok()).flatten();
            let pass_first = self.core.run.pass_first(vcpu, pc);
            self.core.run.run(vcpu, pass_first, Arc::clone(&points));
            self.core.has_started = true;
        }
        self.core.forget_registers();
    }

    /// Brings breakpoints out of and into guest memory now, if no vCPU is in the guest.
    pub(crate) fn publish_points(&mut self) {
        if self.core.run.all_out() {
            self.core.points.publish(self.machine.memory());
        }
    }

    /// Gives each vCPU its part of a client's resume.
    pub(crate) fn resume(&mut self, action: impl Fn(VcpuId) -> Option<ResumeAction>) {
        self.core.monitor.note_resume();
        self.core.has_started = true;
        self.core.run.set_actions(action);
    }

    /// Stops the guest because a client asked for it. Steps made as one end with the present one.
    pub(crate) fn interrupt(&mut self) {
        self.core.monitor.end_steps();
        self.core.run.interrupt();
    }

    /// Returns whether the vCPUs' registers can be had now.
    pub(crate) fn is_stopped(&self) -> bool {
        self.core.run.all_out() && self.core.run.phase() != Phase::Running
    }

    /// Returns the key of a point at `address` without its tag bits.
    pub(crate) fn point_key(
        &mut self,
        vcpu: VcpuId,
        kind: PointKind,
        address: Gva,
        len: u64,
    ) -> Result<PointKey, AccessError> {
        let address = self.address_space(vcpu)?.untag(address);
        Ok(PointKey { kind, address, len })
    }
}

/// Virtual memory of one vCPU for the operating-system layer.
struct View<'a> {
    space: &'a AddressSpace,
    memory: &'a dyn GuestMemory,
    points: Arc<PointSet>,
    pc: Option<Gva>,
}

impl VirtualView for View<'_> {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        self.space.read(self.memory, &self.points, address, buffer)
    }

    fn code_addresses(&self) -> Vec<Gva> {
        let addresses = self.space.vectors().into_iter().chain(self.pc);
        addresses.map(|address| self.space.untag(address)).collect()
    }
}

/// Whether an address is in the upper half, where kernels live.
fn is_kernel_half(address: Gva) -> bool {
    address.0 >> 63 != 0
}

/// The virtual memory of a vCPU that cannot be asked.
struct Unmapped;

impl VirtualView for Unmapped {
    fn read_virtual(&self, _: Gva, _: &mut [u8]) -> usize {
        0
    }
}
