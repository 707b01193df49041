//! Steps into which no interrupt comes (rule R6).
//!
//! KVM has nothing to hold interrupts off by, so they are masked by PSTATE.I for the one instruction,
//! and that is hidden from the guest:
//!
//! | what shows PSTATE.I | how the mask is hidden |
//! |---|---|
//! | nothing, for most instructions | PSTATE.I is cleared after the step |
//! | an exception to EL1 saves it | it is cleared in `SPSR_EL1` where the step has ended at a vector |
//! | MRS and MSR of DAIF, `DAIFSet`, `DAIFClr`, ERET | they are carried out here, on the registers |
//!
//! WFI and WFE are carried out here as well, as NOPs, which they may be: in KVM a step over them would
//! wait for an interrupt.
//!
//! Source: Arm ARM, "Process state, PSTATE"; "WFI, Wait For Interrupt".

use trapline_arch::aarch64::control::Pstate;
use trapline_arch::aarch64::delivery::is_synchronous_vector;
use trapline_arch::aarch64::instruction::{Instruction, LEN_BYTES, StepClass, SystemRegister};
use trapline_arch::aarch64::paging::PagingState;
use trapline_arch::aarch64::{CpuMode, ExceptionLevel, mode, registers as ids};
use trapline_arch::{RegisterFile, RegisterGroup};
use vmm_sys_util::errno;

use super::enter::STEPPED;
use super::guest_debug::Mode;
use super::one_reg;
use super::vcpu::KvmVcpu;
use crate::run::{Entered, Surroundings};

/// The register DAIF.
const DAIF: SystemRegister = SystemRegister {
    op0: 3,
    op1: 3,
    crn: 4,
    crm: 2,
    op2: 1,
};
/// op1 of `DAIFSet` and `DAIFClr`, and the op2 of each.
const DAIF_FIELD: u8 = 3;
const DAIF_SET: u8 = 6;
const DAIF_CLEAR: u8 = 7;
/// ERET without authentication.
const ERET: Instruction = Instruction(0xd69f_03e0);
/// Where exceptions to EL1 begin, each 128 bytes behind the one before.
const VECTOR_BYTES: u64 = 0x80;

impl KvmVcpu {
    /// Executes one instruction without an interrupt before or behind it.
    pub(super) fn step_without_interrupts(
        &mut self,
        mode: &Mode,
        around: &Surroundings<'_>,
    ) -> Result<Entered, errno::Error> {
        let before = Pstate::read(self.known(RegisterGroup::General)?);
        let instruction = self.instruction()?;
        if let Some(instruction) = instruction
            && self.carry_out(instruction)?
        {
            return Ok(Entered::Exit(STEPPED));
        }
        let returns = instruction.is_some_and(|it| it.step_class() == StepClass::ExceptionReturn);
        if before.i() || returns {
            return self.run(mode, around);
        }
        self.set_pstate(before.with_i(true))?;
        let entered = self.run(mode, around);
        self.unmask()?;
        entered
    }

    /// Takes the mask out of what the guest can see of the instruction that was executed.
    fn unmask(&mut self) -> Result<(), errno::Error> {
        let file = self.known(RegisterGroup::General)?;
        let after = Pstate::read(file);
        let pc = mode::pc(file);
        let may_be_vector = CpuMode::of_pstate(after).level() == Some(ExceptionLevel::El1)
            && pc.0.is_multiple_of(VECTOR_BYTES);
        if may_be_vector {
            let mut file = self.known(RegisterGroup::System)?.clone();
            if is_synchronous_vector(&file, pc) {
                let saved = Pstate::from_bits(file.u64(ids::SPSR_EL1)).with_i(false);
                file.set_u64(ids::SPSR_EL1, saved.into_bits());
                return self.store_changes(RegisterGroup::System, &file);
            }
        }
        self.set_pstate(after.with_i(false))
    }

    fn set_pstate(&mut self, state: Pstate) -> Result<(), errno::Error> {
        self.cache.forget();
        one_reg::write(&self.fd, one_reg::PSTATE, state.into_bits())
    }

    /// Returns the instruction that the pc points to, if it is one of A64 and mapped.
    fn instruction(&mut self) -> Result<Option<Instruction>, errno::Error> {
        let general = self.known(RegisterGroup::General)?;
        if Pstate::read(general).n_rw() {
            return Ok(None);
        }
        let pc = mode::pc(general);
        let tables = PagingState::from_registers(self.known(RegisterGroup::System)?);
        let memory = &*self.memory.0;
        let Ok(translation) = tables.translate(memory, pc) else {
            return Ok(None);
        };
        let mut code = [0; LEN_BYTES];
        let read = memory.read_physical(translation.gpa, &mut code) == code.len();
        Ok(Instruction::from_bytes(&code).filter(|_| read))
    }

    /// Carries an instruction out on the registers, if it is one of those that must be. Returns
    /// whether it was.
    fn carry_out(&mut self, instruction: Instruction) -> Result<bool, errno::Error> {
        let mut file = self.known(RegisterGroup::General)?.clone();
        let state = Pstate::read(&file);
        let is_el1 = CpuMode::of_pstate(state).level() == Some(ExceptionLevel::El1);
        if state.il() || state.btype() != 0 {
            return Ok(false);
        }
        let done = match instruction.step_class() {
            StepClass::WaitForInterrupt | StepClass::WaitForEvent => true,
            StepClass::ExceptionReturn if is_el1 && instruction == ERET => {
                return self.return_from_exception();
            }
            class => is_el1 && access_masks(&mut file, instruction, class),
        };
        if done {
            let next = file.u64(ids::PC).wrapping_add(LEN_BYTES as u64);
            file.set_u64(ids::PC, next);
            self.store_changes(RegisterGroup::General, &file)?;
        }
        Ok(done)
    }

    /// Carries ERET out, if it leads to A64 code in an ordinary way.
    ///
    /// Source: Arm ARM, "Exception return".
    fn return_from_exception(&mut self) -> Result<bool, errno::Error> {
        let system = self.known(RegisterGroup::System)?;
        let saved = Pstate::from_bits(system.u64(ids::SPSR_EL1));
        let target = system.u64(ids::ELR_EL1);
        let is_ordinary = matches!(
            CpuMode::of_pstate(saved).level(),
            Some(ExceptionLevel::El0 | ExceptionLevel::El1)
        ) && !saved.n_rw()
            && !saved.il()
            && matches!(target >> 48, 0 | 0xffff)
            && target.is_multiple_of(LEN_BYTES as u64);
        if is_ordinary {
            one_reg::write(&self.fd, one_reg::PC, target)?;
            self.set_pstate(saved)?;
        }
        Ok(is_ordinary)
    }
}

/// Carries out an access to PSTATE's mask bits, if the instruction is one. Returns whether it is.
fn access_masks(file: &mut RegisterFile, instruction: Instruction, class: StepClass) -> bool {
    let state = Pstate::read(file);
    let register = u8::try_from(instruction.0 & 0x1f).unwrap_or(0);
    let masks = match class {
        StepClass::ReadSystemRegister(DAIF) => {
            if let Some(register) = ids::x(register) {
                file.set_u64(register, state.masks_in_place());
            }
            return true;
        }
        StepClass::WriteSystemRegister(DAIF) => {
            let value = ids::x(register).map_or(0, |register| file.u64(register));
            Pstate::from_bits(value)
        }
        StepClass::WritePstateField {
            op1: DAIF_FIELD,
            op2: op2 @ (DAIF_SET | DAIF_CLEAR),
        } => {
            // Bits 11:8 are D, A, I and F, in the order in which PSTATE has them from bit 6 on.
            let chosen = u64::from(instruction.0 >> 8 & 0xf) << 6;
            let bits = state.into_bits();
            Pstate::from_bits(if op2 == DAIF_SET {
                bits | chosen
            } else {
                bits & !chosen
            })
        }
        _ => return false,
    };
    state
        .with_d(masks.d())
        .with_a(masks.a())
        .with_i(masks.i())
        .with_f(masks.f())
        .write(file);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(instruction: u32, state: u64, x3: u64) -> Option<(u64, u64)> {
        let mut file = ids::file();
        file.set_u64(ids::CPSR, state);
        file.set_u64(ids::X3, x3);
        let instruction = Instruction(instruction);
        let done = access_masks(&mut file, instruction, instruction.step_class());
        done.then(|| (file.u64(ids::CPSR), file.u64(ids::X3)))
    }

    #[test]
    fn the_masks_are_read_and_written_as_the_processor_does() {
        // mrs x3, daif
        assert_eq!(
            after(0xd53b_4223, 0x6000_0245, 9),
            Some((0x6000_0245, 0x240))
        );
        // msr daif, x3
        assert_eq!(
            after(0xd51b_4223, 0x6000_03c5, 0x80),
            Some((0x6000_0085, 0x80))
        );
        // msr daifset, #2
        assert_eq!(after(0xd503_42df, 0x5, 0), Some((0x85, 0)));
        // msr daifclr, #3
        assert_eq!(after(0xd503_43ff, 0x3c5, 0), Some((0x305, 0)));
        // msr pan, #1
        assert_eq!(after(0xd500_419f, 0x5, 0), None);
        // mrs x3, currentel
        assert_eq!(after(0xd538_4243, 0x5, 0), None);
    }
}
