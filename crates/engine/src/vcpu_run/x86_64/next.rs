//! The instruction that a step is about to execute, and where it leads.

use trapline_arch::x86_64::control::Rflags;
use trapline_arch::x86_64::instruction::{self, Decoded, StepClass};
use trapline_arch::x86_64::mode::{self, CpuMode};
use trapline_arch::x86_64::registers;
use trapline_arch::{Gva, RegisterFile};

use super::{After, BREAKPOINT_VECTOR, DEBUG_VECTOR, TF_IN_SECOND_BYTE};
use crate::address_space::AddressSpace;
use crate::contract::{AccessError, GuestMemory, Vcpu};
use crate::points::PointSet;
use crate::vcpu_run::VcpuRun;

/// Where an instruction leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// Anywhere the trap flag can follow.
    Next,
    /// To the instruction behind it, which the trap flag would miss.
    Behind,
    /// To the handler of an interrupt vector.
    Vector(u8),
    /// To the address in a register.
    Register(trapline_arch::RegisterId),
}

/// The instruction about to be stepped.
pub(super) struct NextInstruction {
    pub(super) pc: Gva,
    pub(super) decoded: Option<Decoded>,
    pub(super) len_bytes: u64,
    pub(super) class: Option<StepClass>,
    /// The size of the values that an IRET takes from the stack.
    return_size_bytes: u8,
}

impl NextInstruction {
    pub(super) fn read(run: &mut VcpuRun, mut vcpu: &mut dyn Vcpu) -> Result<Self, AccessError> {
        let pc = run.cpu.pc(&mut vcpu)?;
        let space = run.cpu.address_space(&mut vcpu)?;
        let mut bytes = [0; instruction::MAX_LEN_BYTES];
        let read = space.read(vcpu.memory(), &run.points, pc, &mut bytes);
        let code = bytes.get(..read).unwrap_or_default();
        let decoded = instruction::decode_next(code, run.cpu.file());
        Ok(Self {
            pc,
            decoded,
            len_bytes: decoded
                .as_ref()
                .map_or(0, |decoded| decoded.len_bytes() as u64),
            class: decoded.as_ref().map(Decoded::class),
            return_size_bytes: decoded
                .and_then(|decoded| decoded.interrupt_return_size_bytes())
                .unwrap_or(0),
        })
    }

    pub(super) fn lead(&self, file: &RegisterFile) -> Lead {
        let is_long = CpuMode::of(file) == CpuMode::Long64;
        match self.class {
            Some(StepClass::SoftwareInterrupt { vector }) => Lead::Vector(vector),
            Some(StepClass::Int3) => Lead::Vector(BREAKPOINT_VECTOR),
            Some(StepClass::Into) if Rflags::read(file).of() => Lead::Vector(4),
            Some(StepClass::Icebp) => Lead::Vector(DEBUG_VECTOR),
            Some(StepClass::Syscall) if is_long => Lead::Register(registers::LSTAR),
            Some(StepClass::Syscall) => Lead::Register(registers::CSTAR),
            Some(StepClass::Sysenter) => Lead::Register(registers::SYSENTER_EIP),
            Some(StepClass::Sysret) => Lead::Register(registers::RCX),
            Some(StepClass::Sysexit) => Lead::Register(registers::RDX),
            Some(StepClass::LoadSs) => Lead::Behind,
            _ => Lead::Next,
        }
    }

    pub(super) fn after(
        &self,
        run: &mut VcpuRun,
        mut vcpu: &mut dyn Vcpu,
    ) -> Result<After, AccessError> {
        let image_offset = match self.class {
            Some(StepClass::PushFlags) => return Ok(After::ClearPushed),
            Some(StepClass::PopFlags) => 0,
            Some(StepClass::InterruptReturn) => u64::from(self.return_size_bytes).wrapping_mul(2),
            _ => return Ok(After::Nothing),
        };
        let stack = mode::linear_sp(run.cpu.file());
        let space = run.cpu.address_space(&mut vcpu)?;
        let second = second_byte(
            &space,
            vcpu.memory(),
            &run.points,
            stack.wrapping_add(image_offset),
        );
        Ok(second.map_or(After::Nothing, |byte| {
            After::LoadTf(byte & TF_IN_SECOND_BYTE != 0)
        }))
    }
}

fn second_byte(
    space: &AddressSpace,
    memory: &dyn GuestMemory,
    points: &PointSet,
    image: Gva,
) -> Option<u8> {
    let mut byte = [0];
    let read = space.read(memory, points, image.wrapping_add(1), &mut byte);
    (read == 1).then_some(byte[0])
}
