//! Following a function's code from its first instruction to its last.
//!
//! ```text
//!  nop; nop; paciasp               the caller's stack pointer is sp
//!  stp x29, x30, [sp, #-48]!       … is sp + 48, and the frame record is at sp
//!  mov x29, sp                     … is x29 + 48, and the caller's x29 is where x29 points to
//!  cbz x0, 1f                      a jump carries what holds to where it leads
//!  ldp x29, x30, [sp], #48         … is sp
//!  autiasp; ret                    what follows is as it was before, or as a jump says
//!  1: …
//! ```
//!
//! Kernels are built so that every function that calls another one makes a frame record
//! (`CONFIG_FRAME_POINTER`, which arm64 always has), and x29 points to it.

use super::instruction::Instruction;
use super::program::{Base, Cfa, PROGRAM_BYTES, Program, Row};

/// How many jumps ahead are remembered.
const MAX_JUMPS: usize = 16;

/// Where `struct user_pt_regs`, with which `struct pt_regs` begins, has the program counter (Linux,
/// `arch/arm64/include/uapi/asm/ptrace.h`).
pub(super) const REGISTERS_PC: u32 = 256;

/// What a piece of code is to a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Function,
    /// A function that goes on on another stack.
    StackSwitch,
    /// Where an exception from the kernel enters, or returns.
    KernelException,
    /// Where an exception from user mode enters, or returns.
    UserException,
}

/// What was found of a function.
pub(super) struct Description {
    pub(super) kind: Kind,
    pub(super) program: [u8; PROGRAM_BYTES],
}

/// What is known of a function's frame at some instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    cfa: Cfa,
    /// How far below the caller's stack pointer x29 and x30 are stored, in bytes, if they are.
    record: Option<u32>,
}

impl Frame {
    /// As a call leaves it.
    pub(super) const ENTRY: Self = Self {
        cfa: Cfa::ENTRY,
        record: None,
    };
    /// A frame of which no more is known than that x29 points to its record.
    pub(super) const RECORD: Self = Self {
        cfa: Cfa {
            base: Base::FramePointer,
            offset: 16,
        },
        record: Some(16),
    };

    /// What a debugger is told: x29 is the caller's until it points to the record.
    fn row(&self) -> Row {
        let points_to_record = self.cfa.base == Base::FramePointer;
        let record = self.record.filter(|_| points_to_record);
        Row {
            cfa: self.cfa,
            saved: record.map(|distance| distance / 8),
        }
    }
}

/// A function that is being followed.
pub(super) struct Scan {
    program: Program,
    /// What holds before the next instruction.
    frame: Frame,
    /// What holds where nothing tells how the code is reached.
    usual: Frame,
    /// The function's own frame was set up once.
    is_framed: bool,
    jumps: Jumps,
    /// The last instruction does not go on to the next one.
    has_left: bool,
    /// The last instruction has kept the return address for a call that gives it back.
    is_kept: bool,
    switches_stack: bool,
    exception: Exception,
}

impl Scan {
    /// Begins with a function that is called, or with a part of one that is jumped to.
    pub(super) fn new(first: Frame) -> Self {
        let mut program = Program::new();
        program.row(0, first.row());
        Self {
            program,
            frame: first,
            usual: first,
            is_framed: false,
            jumps: Jumps::new(),
            has_left: false,
            is_kept: false,
            switches_stack: false,
            exception: Exception::default(),
        }
    }

    /// Takes up instruction number `at`.
    pub(super) fn step(&mut self, at: u32, word: u32) {
        let instruction = Instruction::decode(word);
        let carried = self.jumps.take(at);
        if self.has_left {
            self.frame = carried.unwrap_or(self.usual);
        }
        self.program.row(at, self.frame.row());
        self.exception.step(at, instruction);
        self.has_left = false;
        let is_kept = core::mem::take(&mut self.is_kept);
        match instruction {
            Instruction::KeepReturnAddress => self.is_kept = true,
            Instruction::Call => self.call(is_kept),
            Instruction::SwitchStack => {
                self.switches_stack |= self.frame.cfa.base == Base::FramePointer;
            }
            Instruction::Leave => self.has_left = true,
            Instruction::Jump {
                distance,
                is_conditional,
            } => {
                self.has_left = !is_conditional;
                let target = u32::try_from(distance).ok().and_then(|d| at.checked_add(d));
                if let Some(target) = target.filter(|_| self.frame != self.usual || !self.is_framed)
                {
                    self.jumps.add(target, self.frame);
                }
            }
            _ => self.stack(instruction),
        }
    }

    /// A call destroys x30. Code that has made no frame keeps to that of its caller, or to the one
    /// that was made for it, as the first function of a task does.
    fn call(&mut self, is_kept: bool) {
        if self.frame.record.is_none() && !is_kept {
            self.frame = Frame::RECORD;
            if !self.is_framed {
                self.usual = self.frame;
            }
        }
    }

    /// What an instruction does to the stack and the frame pointer.
    fn stack(&mut self, instruction: Instruction) {
        let Frame {
            cfa: Cfa { base, offset },
            record,
        } = &mut self.frame;
        match (instruction, *base) {
            (
                Instruction::SaveRecord {
                    pushed,
                    offset: place,
                },
                Base::Sp,
            ) => {
                *offset = offset.saturating_add(pushed);
                let distance = offset.checked_sub(place);
                let is_whole = |distance: &u32| *distance >= 16 && distance.is_multiple_of(8);
                *record = record.or(distance.filter(is_whole));
            }
            (Instruction::SetFramePointer { offset: place }, Base::Sp) if record.is_some() => {
                *offset = offset.saturating_sub(place);
                *base = Base::FramePointer;
                if !self.is_framed {
                    self.is_framed = true;
                    self.usual = self.frame;
                }
            }
            (
                Instruction::LoadRecord {
                    offset: place,
                    popped,
                },
                _,
            ) => {
                let from_sp = match (*base, *record) {
                    (Base::FramePointer, Some(distance)) => distance.saturating_add(place),
                    _ => *offset,
                };
                self.frame = Frame {
                    cfa: Cfa {
                        base: Base::Sp,
                        offset: from_sp.saturating_sub(popped),
                    },
                    record: None,
                };
            }
            (Instruction::Grow(bytes), Base::Sp) => {
                let grown = i64::from(*offset).saturating_add(bytes);
                *offset = u32::try_from(grown.max(0)).unwrap_or(u32::MAX);
            }
            _ => {}
        }
    }

    /// Returns what was found.
    pub(super) fn finish(self) -> Description {
        if let Some((kind, program)) = self.exception.finish() {
            return Description {
                kind,
                program: *program.bytes(),
            };
        }
        Description {
            kind: if self.switches_stack {
                Kind::StackSwitch
            } else {
                Kind::Function
            },
            program: *self.program.bytes(),
        }
    }
}

/// Jumps ahead, and what holds where they lead.
struct Jumps {
    list: [Option<(u32, Frame)>; MAX_JUMPS],
}

impl Jumps {
    const fn new() -> Self {
        Self {
            list: [None; MAX_JUMPS],
        }
    }

    fn add(&mut self, target: u32, frame: Frame) {
        let is_known = |jump: &Option<(u32, Frame)>| jump.is_some_and(|(known, _)| known == target);
        if self.list.iter().any(is_known) {
            return;
        }
        if let Some(free) = self.list.iter_mut().find(|jump| jump.is_none()) {
            *free = Some((target, frame));
        }
    }

    /// Forgets the jumps up to instruction `at`, and returns what one to there says.
    fn take(&mut self, at: u32) -> Option<Frame> {
        let mut found = None;
        for jump in &mut self.list {
            if let Some((target, frame)) = *jump
                && target <= at
            {
                *jump = None;
                found = found.or((target == at).then_some(frame));
            }
        }
        found
    }
}

/// What tells the entry and the return of exceptions: all registers are stored in a
/// `struct pt_regs` at the stack pointer, x0 and x1 first, or loaded from there.
#[derive(Default)]
struct Exception {
    /// Whether it begins with storing x0 and x1.
    is_entry: Option<bool>,
    /// Where the program counter is stored.
    stored_at: Option<u32>,
    /// x29 becomes part of a frame record, which links to the interrupted function.
    has_record: bool,
    is_loaded: bool,
    is_return: bool,
    sets_user_stack: bool,
    /// Where the stack pointer leaves the registers behind.
    popped_at: Option<u32>,
}

impl Exception {
    fn step(&mut self, at: u32, instruction: Instruction) {
        match instruction {
            Instruction::Prelude => return,
            Instruction::StorePair {
                first: 0,
                second: 1,
                offset: 0,
            } if self.is_entry.is_none() => self.is_entry = Some(true),
            Instruction::StorePair {
                offset: REGISTERS_PC,
                ..
            } => {
                self.stored_at.get_or_insert(at);
            }
            Instruction::StorePair {
                first: 29, offset, ..
            } => self.has_record |= offset > REGISTERS_PC,
            Instruction::LoadPair {
                offset: REGISTERS_PC,
            } => self.is_loaded = true,
            Instruction::SetReturnOfException => self.is_return |= self.is_loaded,
            Instruction::SetUserStack => self.sets_user_stack = true,
            Instruction::Grow(..0) if self.is_loaded => {
                self.popped_at.get_or_insert(at);
            }
            _ => {}
        }
        self.is_entry.get_or_insert(false);
    }

    fn finish(&self) -> Option<(Kind, Program)> {
        let is_entry = self.is_entry == Some(true);
        let mut program = Program::new();
        let from_kernel = match (is_entry, self.is_return) {
            (true, _) => self.has_record,
            (false, true) => !self.sets_user_stack,
            (false, false) => return None,
        };
        if is_entry {
            program.pc_undefined(0);
            program.pc_as_initially(self.stored_at?.saturating_add(1));
        }
        if let Some(at) = self.popped_at {
            program.pc_undefined(at.saturating_add(1));
        }
        let kind = if from_kernel {
            Kind::KernelException
        } else {
            Kind::UserException
        };
        Some((kind, program))
    }
}
