//! What an instruction of AArch64 does, as far as frames depend on it.
//!
//! Source: Arm Architecture Reference Manual for A-profile, "A64 Instruction Set Encoding".

/// What an instruction does. Amounts are in bytes, distances in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    /// `stp x29, x30, [sp, #offset]`, after the stack has grown by `pushed`.
    SaveRecord { pushed: u32, offset: u32 },
    /// `ldp x29, x30, [sp, #offset]`, after which the stack shrinks by `popped`.
    LoadRecord { offset: u32, popped: u32 },
    /// `add x29, sp, #offset`.
    SetFramePointer { offset: u32 },
    /// The stack grows by that much, or shrinks by a negative amount.
    Grow(i64),
    /// `mov sp, xN` with anything but the frame pointer.
    SwitchStack,
    /// `mov x9, x30`: the return address is kept over a call for tracing.
    KeepReturnAddress,
    /// A call.
    Call,
    /// A jump by that distance.
    Jump { distance: i32, is_conditional: bool },
    /// A return, or a jump to where a register says.
    Leave,
    /// Another pair of registers is stored at an offset from the stack pointer.
    StorePair { first: u8, second: u8, offset: u32 },
    /// Another pair of registers is loaded from an offset from the stack pointer.
    LoadPair { offset: u32 },
    /// `msr elr_el1, xN`.
    SetReturnOfException,
    /// `msr sp_el0, xN`.
    SetUserStack,
    /// Nothing, which may stand before anything: a hint, or a bit of PSTATE.
    Prelude,
    /// Anything else.
    Other,
}

const SP: u32 = 31;
const FRAME_POINTER: u32 = 29;
const LINK_REGISTER: u32 = 30;

const MOV_X9_X30: u32 = 0xaa1e_03e9;
const MOV_W0_W0: u32 = 0x2a00_03e0;

impl Instruction {
    pub(super) fn decode(word: u32) -> Self {
        match word {
            MOV_X9_X30 => return Self::KeepReturnAddress,
            // A 32-bit process's entry begins so.
            MOV_W0_W0 => return Self::Prelude,
            _ => {}
        }
        pair(word)
            .or_else(|| single(word))
            .or_else(|| immediate(word))
            .or_else(|| branch(word))
            .or_else(|| system(word))
            .unwrap_or(Self::Other)
    }
}

const fn field(word: u32, low: u32, bits: u32) -> u32 {
    word.wrapping_shr(low) & 1_u32.wrapping_shl(bits).wrapping_sub(1)
}

const fn signed_field(word: u32, low: u32, bits: u32) -> i32 {
    let unused = 32_u32.wrapping_sub(bits);
    field(word, low, bits)
        .wrapping_shl(unused)
        .cast_signed()
        .wrapping_shr(unused)
}

/// Loads and stores of pairs by the stack pointer: general registers and vectors.
fn pair(word: u32) -> Option<Instruction> {
    if word & 0x3a00_0000 != 0x2800_0000 || field(word, 5, 5) != SP {
        return None;
    }
    let (size, is_vector) = (field(word, 30, 2), field(word, 26, 1) == 1);
    let scale = match (is_vector, size) {
        (_, 3) => return None,
        (true, size) => 4_i32.wrapping_shl(size),
        (false, 2) => 8,
        (false, _) => 4,
    };
    let bytes = signed_field(word, 15, 7).wrapping_mul(scale);
    let is_load = field(word, 22, 1) == 1;
    let (first, second) = (field(word, 0, 5), field(word, 10, 5));
    let is_general = !is_vector && size == 2;
    let is_record = is_general && (first, second) == (FRAME_POINTER, LINK_REGISTER);
    let (up, down) = (u32::try_from(bytes), u32::try_from(bytes.wrapping_neg()));
    Some(match (field(word, 23, 2), is_load) {
        (3, false) if is_record => Instruction::SaveRecord {
            pushed: down.ok()?,
            offset: 0,
        },
        (1, true) if is_record => Instruction::LoadRecord {
            offset: 0,
            popped: up.ok()?,
        },
        (1 | 3, _) => Instruction::Grow(i64::from(bytes).wrapping_neg()),
        (_, false) if is_record => Instruction::SaveRecord {
            pushed: 0,
            offset: up.ok()?,
        },
        (_, true) if is_record => Instruction::LoadRecord {
            offset: up.ok()?,
            popped: 0,
        },
        (_, false) if is_general => Instruction::StorePair {
            first: u8::try_from(first).ok()?,
            second: u8::try_from(second).ok()?,
            offset: up.ok()?,
        },
        (_, true) if is_general => Instruction::LoadPair { offset: up.ok()? },
        _ => Instruction::Other,
    })
}

/// Loads and stores of one register that move the stack pointer.
fn single(word: u32) -> Option<Instruction> {
    let moves_stack = word & 0x3b20_0400 == 0x3800_0400 && field(word, 5, 5) == SP;
    let bytes = i64::from(signed_field(word, 12, 9));
    moves_stack.then_some(Instruction::Grow(bytes.wrapping_neg()))
}

/// `add` and `sub` of a constant, 64 bits wide.
fn immediate(word: u32) -> Option<Instruction> {
    let is_add = match word & 0xff80_0000 {
        0x9100_0000 => true,
        0xd100_0000 => false,
        _ => return None,
    };
    let shift = field(word, 22, 1).wrapping_mul(12);
    let amount = field(word, 10, 12).wrapping_shl(shift);
    Some(match (field(word, 0, 5), field(word, 5, 5)) {
        (SP, SP) if is_add => Instruction::Grow(i64::from(amount).wrapping_neg()),
        (SP, SP) => Instruction::Grow(amount.into()),
        (FRAME_POINTER, SP) if is_add => Instruction::SetFramePointer { offset: amount },
        (SP, from) if from != FRAME_POINTER && amount == 0 => Instruction::SwitchStack,
        _ => Instruction::Other,
    })
}

fn branch(word: u32) -> Option<Instruction> {
    let jump = |distance, is_conditional| Instruction::Jump {
        distance,
        is_conditional,
    };
    if word & 0xfc00_0000 == 0x1400_0000 {
        return Some(jump(signed_field(word, 0, 26), false));
    }
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return Some(jump(signed_field(word, 5, 19), true));
    }
    if word & 0x7e00_0000 == 0x3600_0000 {
        return Some(jump(signed_field(word, 5, 14), true));
    }
    if word & 0xfc00_0000 == 0x9400_0000 {
        return Some(Instruction::Call);
    }
    // By a register, some of them with its signature checked.
    let kind = (word & 0xfe00_0000 == 0xd600_0000).then(|| field(word, 21, 3))?;
    match kind {
        1 => Some(Instruction::Call),
        0 | 2 | 4 => Some(Instruction::Leave),
        _ => None,
    }
}

fn system(word: u32) -> Option<Instruction> {
    match word & 0xffff_ffe0 {
        0xd518_4020 => return Some(Instruction::SetReturnOfException),
        0xd518_4100 => return Some(Instruction::SetUserStack),
        _ => {}
    }
    let is_hint = word & 0xffff_f01f == 0xd503_201f;
    let is_pstate = word & 0xfff8_f01f == 0xd500_401f;
    (is_hint || is_pstate).then_some(Instruction::Prelude)
}
