//! The instructions that the model knows, as `memory::Code` writes them.

use trapline_arch::RegisterId;
use trapline_arch::x86_64::debug::Dr7;
use trapline_arch::x86_64::registers::{
    BY_ENCODING, CR2, DR0, DR1, DR2, DR3, DR7, LSTAR, R11, RAX, RCX, RDI, RFLAGS, RIP, RSP, SFMASK,
};
use trapline_engine::{GuestEnd, VmExit};

use super::cpu::{Access, Cpu, Done, RF, debug};
use super::memory::Ram;

/// `out` to these ends the guest.
const PORT_POWER_OFF: u8 = 0xf0;
const PORT_RESET: u8 = 0x64;
const PORT_TRIPLE_FAULT: u8 = 0xfe;

impl Cpu {
    pub(super) fn execute(&mut self, ram: &Ram) -> Done {
        match self.instruction(ram) {
            Ok(done) => done,
            Err(address) => {
                self.file.set_u64(CR2, address);
                Done::Fault(14, Some(0))
            }
        }
    }

    fn advance(&mut self, len_bytes: u64) {
        let pc = self.pc().wrapping_add(len_bytes);
        self.file.set_u64(RIP, pc);
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each instruction")]
    fn instruction(&mut self, ram: &Ram) -> Result<Done, u64> {
        let pc = self.pc();
        let byte = |offset: u64| self.read(ram, pc.wrapping_add(offset), 1);
        let ran = |accesses: &[Access]| Ok(Done::Ran(accesses.to_vec()));
        let stack = |cpu: &Self, offset: i64, is_write| Access {
            address: cpu.file.u64(RSP).wrapping_add_signed(offset),
            len_bytes: 8,
            is_write,
        };
        match byte(0)? {
            0x90 => self.advance(1),
            0xcc => return Ok(Done::Exit(VmExit::BreakpointInstruction)),
            0xf1 => {
                self.advance(1);
                return Ok(Done::Exit(debug(false, 0)));
            }
            0xcd => {
                let vector = byte(1)? as u8;
                self.advance(2);
                return Ok(match self.deliver(ram, vector, None) {
                    Some(exit) => Done::Exit(exit),
                    None => Done::Ran(Vec::new()),
                });
            }
            0xeb => {
                let displacement = i64::from(byte(1)? as u8 as i8);
                self.advance(2);
                let target = self.pc().wrapping_add_signed(displacement);
                self.file.set_u64(RIP, target);
            }
            opcode @ (0xff | 0x8b | 0xc7) if byte(1)? == 0x04 && byte(2)? == 0x25 => {
                return self.memory_instruction(ram, opcode);
            }
            0xf3 if byte(1)? == 0xaa => return self.store_string(ram),
            // A division by ECX, whose result nobody looks at.
            0xf7 if byte(1)? == 0xf1 => {
                if self.file.u64(RCX) as u32 == 0 {
                    return Ok(Done::Fault(0, None));
                }
                self.advance(2);
            }
            0xe6 => return self.port(byte(1)? as u8),
            0xf4 => {
                self.advance(1);
                self.is_halted = true;
            }
            0x9c => {
                let access = stack(self, -8, true);
                self.push(ram, self.file.u64(RFLAGS) & !RF)?;
                self.advance(1);
                return ran(&[access]);
            }
            0x9d => {
                let access = stack(self, 0, false);
                let flags = self.pop(ram)?;
                self.file.set_u64(RFLAGS, flags & !RF | 2);
                self.advance(1);
                return ran(&[access]);
            }
            0x50 => {
                let access = stack(self, -8, true);
                self.push(ram, self.file.u64(RAX))?;
                self.advance(1);
                return ran(&[access]);
            }
            0x58 => {
                let access = stack(self, 0, false);
                let value = self.pop(ram)?;
                self.file.set_u64(RAX, value);
                self.advance(1);
                return ran(&[access]);
            }
            0x8e if byte(1)? == 0xd0 => {
                self.advance(2);
                self.shadow = true;
            }
            0xfa => {
                self.advance(1);
                self.set_flag(1 << 9, false);
            }
            0xfb => {
                self.advance(1);
                self.set_flag(1 << 9, true);
            }
            0x0f if byte(1)? == 0x05 => {
                self.advance(2);
                let flags = self.file.u64(RFLAGS);
                self.file.set_u64(RCX, self.pc());
                self.file.set_u64(R11, flags);
                self.file
                    .set_u64(RFLAGS, flags & !self.file.u64(SFMASK) | 2);
                self.file.set_u64(RIP, self.file.u64(LSTAR));
            }
            // To a debug register, from one of the first eight registers.
            0x0f if byte(1)? == 0x23 => {
                const ADDRESSES: [RegisterId; 4] = [DR0, DR1, DR2, DR3];
                let operands = byte(2)? as usize;
                let value = self.file.u64(BY_ENCODING[operands & 7]);
                let to = ADDRESSES.get(operands >> 3 & 7).copied().unwrap_or(DR7);
                if Dr7::read(&self.file).gd() {
                    self.note_debug_cause(1 << 13);
                    return Ok(Done::Fault(1, None));
                }
                self.file.set_u64(to, value);
                self.advance(3);
            }
            0x48 if byte(1)? == 0x0f && byte(2)? == 0x07 => {
                self.file.set_u64(RIP, self.file.u64(RCX));
                self.file.set_u64(RFLAGS, self.file.u64(R11) | 2);
            }
            0x48 if byte(1)? == 0x83 && byte(2)? == 0x04 && byte(3)? == 0x24 => {
                let sp = self.file.u64(RSP);
                let value = self.read(ram, sp, 8)?.wrapping_add(byte(4)?);
                let access = stack(self, 0, true);
                self.write(ram, sp, value, 8)?;
                self.advance(5);
                return ran(&[access]);
            }
            0x48 if byte(1)? == 0xcf => return self.interrupt_return(ram),
            0x48 if byte(1)? == 0x83 && byte(2)? == 0xc4 => {
                let sp = self.file.u64(RSP).wrapping_add(byte(3)?);
                self.file.set_u64(RSP, sp);
                self.advance(4);
            }
            _ => return Ok(Done::Fault(6, None)),
        }
        ran(&[])
    }

    /// One iteration of `rep stosb`.
    fn store_string(&mut self, ram: &Ram) -> Result<Done, u64> {
        let (count, address) = (self.file.u64(RCX), self.file.u64(RDI));
        if count == 0 {
            self.advance(2);
            return Ok(Done::Ran(Vec::new()));
        }
        self.write(ram, address, self.file.u64(RAX), 1)?;
        self.file.set_u64(RDI, address.wrapping_add(1));
        self.file.set_u64(RCX, count - 1);
        if count == 1 {
            self.advance(2);
        }
        Ok(Done::Ran(vec![Access {
            address,
            len_bytes: 1,
            is_write: true,
        }]))
    }

    fn memory_instruction(&mut self, ram: &Ram, opcode: u64) -> Result<Done, u64> {
        let pc = self.pc();
        let address = self.read(ram, pc.wrapping_add(3), 4)? as u32 as i32 as i64 as u64;
        let access = |is_write| Access {
            address,
            len_bytes: 4,
            is_write,
        };
        Ok(match opcode {
            0xff => {
                let value = self.read(ram, address, 4)?.wrapping_add(1);
                self.write(ram, address, value, 4)?;
                self.advance(7);
                Done::Ran(vec![access(true)])
            }
            0x8b => {
                let value = self.read(ram, address, 4)?;
                self.file.set_u64(RAX, value);
                self.advance(7);
                Done::Ran(vec![access(false)])
            }
            _ => {
                let value = self.read(ram, pc.wrapping_add(7), 4)?;
                self.write(ram, address, value, 4)?;
                self.advance(11);
                Done::Ran(vec![access(true)])
            }
        })
    }

    /// A port access: the hypervisor completes it. With the trap flag set its emulation ends the
    /// step as hardware would.
    fn port(&mut self, port: u8) -> Result<Done, u64> {
        let end = match port {
            PORT_POWER_OFF => Some(GuestEnd::PowerOff),
            PORT_RESET => Some(GuestEnd::Reset),
            PORT_TRIPLE_FAULT => Some(GuestEnd::TripleFault),
            _ => None,
        };
        if let Some(end) = end {
            return Ok(Done::Exit(VmExit::Ended(end)));
        }
        self.advance(2);
        Ok(Done::Ran(Vec::new()))
    }

    fn interrupt_return(&mut self, ram: &Ram) -> Result<Done, u64> {
        let frame = Access {
            address: self.file.u64(RSP),
            len_bytes: 40,
            is_write: false,
        };
        let pc = self.pop(ram)?;
        self.pop(ram)?;
        let flags = self.pop(ram)?;
        let sp = self.pop(ram)?;
        self.file.set_u64(RIP, pc);
        self.file.set_u64(RFLAGS, flags | 2);
        self.file.set_u64(RSP, sp);
        if let Some(borrowed) = &mut self.in_step {
            borrowed.is_spent = false;
        }
        Ok(Done::Ran(vec![frame]))
    }
}
