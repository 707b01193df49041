//! Decoded instructions, and what those compute that need nothing but the stack.

/// One decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Pops the result and stops.
    End,
    /// Pushes a constant.
    Constant(u64),
    /// Pushes the register with this number.
    Register(u16),
    /// Replaces an address by the unsigned value of `size_bytes` there.
    Reference { size_bytes: u8 },
    /// Replaces the top by a function of it.
    Unary(Unary),
    /// Replaces the top two by a function of them.
    Binary(Binary),
    /// Replaces the top two by a quotient or a remainder.
    Divide(Division),
    /// Continues at `target`.
    Goto { target: u16 },
    /// Pops a value and continues at `target` if it is not zero.
    IfGoto { target: u16 },
    /// Pushes a copy of the cell that lies `depth` below the top.
    Pick { depth: u8 },
    /// Pops `count` cells.
    Discard { count: u8 },
    /// Demands that there is a top.
    Keep,
    /// Exchanges the top two.
    Swap,
    /// Moves the top below the two under it.
    Rotate,
}

/// A function of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    LogNot,
    BitNot,
    /// Sign extension from this many bits.
    Ext(u8),
    /// Zero extension from this many bits.
    ZeroExt(u8),
}

impl Unary {
    pub(super) fn apply(self, a: u64) -> u64 {
        match self {
            Self::LogNot => u64::from(a == 0),
            Self::BitNot => !a,
            Self::Ext(bits) => {
                let spare = spare_bits(bits);
                let left = a.unbounded_shl(spare).cast_signed();
                left.unbounded_shr(spare).cast_unsigned()
            }
            Self::ZeroExt(bits) => {
                let spare = spare_bits(bits);
                a.unbounded_shl(spare).unbounded_shr(spare)
            }
        }
    }
}

/// Returns how many bits lie above the lowest `bits` of a cell.
fn spare_bits(bits: u8) -> u32 {
    u64::BITS.saturating_sub(bits.into())
}

/// A function of two cells that has a value for all of them; `b` is the top, `a` the one below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Lsh,
    RshSigned,
    RshUnsigned,
    BitAnd,
    BitOr,
    BitXor,
    Equal,
    LessSigned,
    LessUnsigned,
}

impl Binary {
    pub(super) fn apply(self, a: u64, b: u64) -> u64 {
        match self {
            Self::Add => a.wrapping_add(b),
            Self::Sub => a.wrapping_sub(b),
            Self::Mul => a.wrapping_mul(b),
            Self::Lsh => a.unbounded_shl(shift_count(b)),
            Self::RshSigned => a
                .cast_signed()
                .unbounded_shr(shift_count(b))
                .cast_unsigned(),
            Self::RshUnsigned => a.unbounded_shr(shift_count(b)),
            Self::BitAnd => a & b,
            Self::BitOr => a | b,
            Self::BitXor => a ^ b,
            Self::Equal => u64::from(a == b),
            Self::LessSigned => u64::from(a.cast_signed() < b.cast_signed()),
            Self::LessUnsigned => u64::from(a < b),
        }
    }
}

fn shift_count(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A division of `a`, the cell below the top, by `b`, the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Division {
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
}

impl Division {
    /// Returns `None` if `b` is zero.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a divisor of zero returns first"
    )]
    pub(super) fn apply(self, a: u64, b: u64) -> Option<u64> {
        if b == 0 {
            return None;
        }
        let (signed_a, signed_b) = (a.cast_signed(), b.cast_signed());
        Some(match self {
            Self::DivSigned => signed_a.wrapping_div(signed_b).cast_unsigned(),
            Self::DivUnsigned => a / b,
            Self::RemSigned => signed_a.wrapping_rem(signed_b).cast_unsigned(),
            Self::RemUnsigned => a % b,
        })
    }
}
