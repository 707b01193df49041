//! `g G p P` and LLDB's saved registers.

use alloc::vec::Vec;

use trapline_arch::{
    Gva, Layout, LayoutEntry, LayoutKind, RegisterError, RegisterGroup, RegisterGroups, Writable,
    aarch64, x86_64,
};
use trapline_rsp::{Encoder, HexBytes, ThreadSpec};

use super::{Answer, Answered, Refusal, Session, reply};
use crate::contract::VcpuId;
use crate::core::Context;
use crate::cpu::CONTROL;

/// The most register states a client may keep (rule S3).
const MAX_SAVED: usize = 64;

impl Session {
    pub(super) fn read_registers(
        &mut self,
        thread: Option<ThreadSpec>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let vcpu = self.vcpu(thread, context)?;
        let layout = self.layout(context);
        let entries = self.general(&layout);
        context.registers(vcpu, groups_of(entries) | CONTROL)?;
        let mut values = Vec::with_capacity(layout.g_len_bytes());
        for entry in entries {
            read_entry(vcpu, entry, &mut values, context)?;
        }
        out.hex_bytes(&values);
        Ok(Answer::Reply)
    }

    pub(super) fn write_registers(
        &mut self,
        data: HexBytes<'_>,
        thread: Option<ThreadSpec>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let vcpu = self.vcpu(thread, context)?;
        let layout = self.layout(context);
        let values = data.to_vec();
        let mut rest = values.as_slice();
        for entry in self.general(&layout) {
            let Some((value, tail)) = rest.split_at_checked(entry.len_bytes()) else {
                break;
            };
            rest = tail;
            let mut current = Vec::new();
            read_entry(vcpu, entry, &mut current, context)?;
            // A register that keeps its value is left alone: GDB sends all of them to change one.
            if current != value && entry.register.writable != Writable::No {
                write_entry(vcpu, entry, value, context)?;
            }
        }
        reply::ok(out)
    }

    pub(super) fn read_register(
        &mut self,
        number: u32,
        thread: Option<ThreadSpec>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let vcpu = self.vcpu(thread, context)?;
        let layout = self.layout(context);
        let entry = layout
            .by_number(number)
            .ok_or_else(|| no_such_register(number))?;
        if !self.is_agreed(&layout, number) {
            return Ok(unavailable(entry, out));
        }
        let mut value = Vec::new();
        read_entry(vcpu, entry, &mut value, context)?;
        out.hex_bytes(&value);
        Ok(Answer::Reply)
    }

    /// Returns the registers of `g`. A client that has not read the description expects those of its
    /// own, which begins with the same registers and goes on with others: it is sent no more than
    /// that, since GDB refuses a reply that is longer than it expects.
    fn general<'a>(&self, layout: &'a Layout) -> &'a [LayoutEntry] {
        let all = layout.g_entries();
        let agreed = all
            .iter()
            .take_while(|entry| self.is_agreed(layout, entry.number));
        all.get(..agreed.count()).unwrap_or_default()
    }

    /// Returns whether the client means the same register by a number.
    fn is_agreed(&self, layout: &Layout, number: u32) -> bool {
        let last = match layout.kind() {
            LayoutKind::X86_64 | LayoutKind::I386 => x86_64::registers::GS,
            LayoutKind::Aarch64 => aarch64::registers::FPCR,
        };
        self.has_description || layout.number_of(last).is_some_and(|last| number <= last)
    }

    pub(super) fn write_register(
        &mut self,
        number: u32,
        value: HexBytes<'_>,
        thread: Option<ThreadSpec>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let vcpu = self.vcpu(thread, context)?;
        let layout = self.layout(context);
        let entry = layout
            .by_number(number)
            .ok_or_else(|| no_such_register(number))?;
        if !self.is_agreed(&layout, number) {
            return Err(Refusal::text(
                reply::EINVAL,
                "this client has not read which registers there are (target.xml)",
            ));
        }
        write_entry(vcpu, entry, &value.to_vec(), context)?;
        reply::ok(out)
    }

    pub(super) fn save_registers(
        &mut self,
        thread: Option<ThreadSpec>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        if self.saved_registers.len() >= MAX_SAVED {
            return Err(Refusal::text(
                reply::EINVAL,
                alloc::format!("{MAX_SAVED} register states are kept already"),
            ));
        }
        let vcpu = self.vcpu(thread, context)?;
        let groups = saved_groups();
        let file = context.registers(vcpu, groups)?;
        let mut copy = trapline_arch::RegisterFile::new(file.table());
        copy.copy_groups(file, groups);
        let last = self
            .saved_registers
            .keys()
            .next_back()
            .copied()
            .unwrap_or(0);
        let id = last.wrapping_add(1);
        self.saved_registers.insert(id, copy);
        out.display(id);
        Ok(Answer::Reply)
    }

    pub(super) fn restore_registers(
        &mut self,
        id: u32,
        thread: Option<ThreadSpec>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let vcpu = self.vcpu(thread, context)?;
        let saved = self.saved_registers.remove(&id).ok_or_else(|| {
            Refusal::text(
                reply::EINVAL,
                alloc::format!("no registers are kept under {id}"),
            )
        })?;
        for group in [RegisterGroup::General, RegisterGroup::Fpu] {
            context.update_registers(vcpu, group, |file| {
                file.copy_groups(&saved, group.into());
                Ok::<(), Refusal>(())
            })?;
        }
        reply::ok(out)
    }
}

/// What an expression evaluated in the guest may change and LLDB wants back.
fn saved_groups() -> RegisterGroups {
    RegisterGroups::GENERAL | RegisterGroups::FPU
}

fn groups_of(entries: &[LayoutEntry]) -> RegisterGroups {
    entries
        .iter()
        .map(|entry| RegisterGroups::from(entry.register.group))
        .collect()
}

/// Writes a value that the client shows as unavailable.
fn unavailable(entry: &LayoutEntry, out: &mut Encoder<'_>) -> Answer {
    for _ in 0..entry.len_bytes() {
        out.text("xx");
    }
    Answer::Reply
}

fn no_such_register(number: u32) -> Refusal {
    Refusal::text(
        reply::EINVAL,
        alloc::format!("there is no register {number}"),
    )
}

fn is_pc(entry: &LayoutEntry, context: &Context<'_>) -> bool {
    entry.id == context.core.config.architecture.pc_register()
}

/// Appends a register's value in target byte order. The pc is the linear one, so that it can be
/// compared with breakpoint addresses where the code segment has a base.
pub(crate) fn read_entry(
    vcpu: VcpuId,
    entry: &LayoutEntry,
    value: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Result<(), Refusal> {
    if is_pc(entry, context) {
        let pc = context.pc(vcpu)?.0.to_le_bytes();
        value.extend_from_slice(pc.get(..entry.len_bytes()).unwrap_or(&pc));
        return Ok(());
    }
    let file = context.registers(vcpu, entry.register.group.into())?;
    entry.read(file, value);
    Ok(())
}

/// Writes a register, the pc as [`read_entry`] reads it.
pub(crate) fn write_entry(
    vcpu: VcpuId,
    entry: &LayoutEntry,
    value: &[u8],
    context: &mut Context<'_>,
) -> Result<(), Refusal> {
    if entry.register.writable == Writable::No {
        let name = entry.register.name;
        return Err(Refusal::text(
            reply::EINVAL,
            alloc::format!("{name} cannot be written"),
        ));
    }
    if is_pc(entry, context) {
        return write_pc(vcpu, value, context);
    }
    context.update_registers(vcpu, entry.register.group, |file| {
        entry
            .write(file, value)
            .map_err(|error: RegisterError| Refusal::from(error))
    })
}

fn write_pc(vcpu: VcpuId, value: &[u8], context: &mut Context<'_>) -> Result<(), Refusal> {
    let mut bytes = [0; 8];
    for (byte, given) in bytes.iter_mut().zip(value) {
        *byte = *given;
    }
    set_pc(vcpu, Gva(u64::from_le_bytes(bytes)), context)
}

/// Sets a vCPU's pc to a linear address, tagged or not (rule M2).
pub(crate) fn set_pc(vcpu: VcpuId, pc: Gva, context: &mut Context<'_>) -> Result<(), Refusal> {
    let architecture = context.core.config.architecture;
    let pc = context.address_space(vcpu)?.untag(pc);
    context.registers(vcpu, CONTROL)?;
    context.update_registers(vcpu, RegisterGroup::General, |file| {
        architecture
            .set_pc(file, pc)
            .map_err(|error| Refusal::text(reply::EINVAL, alloc::format!("{error}")))
    })
}
