//! The opcodes of agent expressions, under the names of the manual.
//!
//! `a b ⇒ c` shows the stack before and after, its top to the right. Operands that follow the
//! opcode are named with their length and are big-endian for every guest.
//!
//! Source: GDB manual, appendix "The GDB Agent Expression Mechanism", "Bytecode Descriptions".

/// Prefix of floating-point instructions, never specified further.
pub(super) const FLOAT: u8 = 0x01;
/// `a b ⇒ a+b`
pub(super) const ADD: u8 = 0x02;
/// `a b ⇒ a-b`
pub(super) const SUB: u8 = 0x03;
/// `a b ⇒ a*b`
pub(super) const MUL: u8 = 0x04;
/// `a b ⇒ a/b`
pub(super) const DIV_SIGNED: u8 = 0x05;
/// `a b ⇒ a/b`
pub(super) const DIV_UNSIGNED: u8 = 0x06;
/// `a b ⇒ a%b`
pub(super) const REM_SIGNED: u8 = 0x07;
/// `a b ⇒ a%b`
pub(super) const REM_UNSIGNED: u8 = 0x08;
/// `a b ⇒ a<<b`
pub(super) const LSH: u8 = 0x09;
/// `a b ⇒ a>>b`, sign bits entering
pub(super) const RSH_SIGNED: u8 = 0x0a;
/// `a b ⇒ a>>b`, zeros entering
pub(super) const RSH_UNSIGNED: u8 = 0x0b;
/// `address length ⇒`
pub(super) const TRACE: u8 = 0x0c;
/// `address ⇒ address`; operand: length (1 byte)
pub(super) const TRACE_QUICK: u8 = 0x0d;
/// `a ⇒ !a`
pub(super) const LOG_NOT: u8 = 0x0e;
/// `a b ⇒ a&b`
pub(super) const BIT_AND: u8 = 0x0f;
/// `a b ⇒ a|b`
pub(super) const BIT_OR: u8 = 0x10;
/// `a b ⇒ a^b`
pub(super) const BIT_XOR: u8 = 0x11;
/// `a ⇒ ~a`
pub(super) const BIT_NOT: u8 = 0x12;
/// `a b ⇒ a==b`
pub(super) const EQUAL: u8 = 0x13;
/// `a b ⇒ a<b`
pub(super) const LESS_SIGNED: u8 = 0x14;
/// `a b ⇒ a<b`
pub(super) const LESS_UNSIGNED: u8 = 0x15;
/// `a ⇒ a` sign-extended; operand: how many bits are kept (1 byte)
pub(super) const EXT: u8 = 0x16;
/// `address ⇒ a`
pub(super) const REF8: u8 = 0x17;
/// `address ⇒ a`
pub(super) const REF16: u8 = 0x18;
/// `address ⇒ a`
pub(super) const REF32: u8 = 0x19;
/// `address ⇒ a`
pub(super) const REF64: u8 = 0x1a;
/// `address ⇒ d`, never specified further
pub(super) const REF_FLOAT: u8 = 0x1b;
/// `address ⇒ d`, never specified further
pub(super) const REF_DOUBLE: u8 = 0x1c;
/// `address ⇒ d`, never specified further
pub(super) const REF_LONG_DOUBLE: u8 = 0x1d;
/// `a ⇒ d`, never specified further
pub(super) const L_TO_D: u8 = 0x1e;
/// `d ⇒ a`, never specified further
pub(super) const D_TO_L: u8 = 0x1f;
/// `a ⇒`; operand: target (2 bytes), counted from the first byte of the program
pub(super) const IF_GOTO: u8 = 0x20;
/// `⇒`; operand: target (2 bytes), counted from the first byte of the program
pub(super) const GOTO: u8 = 0x21;
/// `⇒ a`; operand: a (1 byte)
pub(super) const CONST8: u8 = 0x22;
/// `⇒ a`; operand: a (2 bytes)
pub(super) const CONST16: u8 = 0x23;
/// `⇒ a`; operand: a (4 bytes)
pub(super) const CONST32: u8 = 0x24;
/// `⇒ a`; operand: a (8 bytes)
pub(super) const CONST64: u8 = 0x25;
/// `⇒ a`; operand: the register's number (2 bytes)
pub(super) const REG: u8 = 0x26;
/// `a ⇒`, and the result is a
pub(super) const END: u8 = 0x27;
/// `a ⇒ a a`
pub(super) const DUP: u8 = 0x28;
/// `a ⇒`
pub(super) const POP: u8 = 0x29;
/// `a ⇒ a` zero-extended; operand: how many bits are kept (1 byte)
pub(super) const ZERO_EXT: u8 = 0x2a;
/// `a b ⇒ b a`
pub(super) const SWAP: u8 = 0x2b;
/// `⇒ a`; operand: the trace state variable's number (2 bytes)
pub(super) const GETV: u8 = 0x2c;
/// `a ⇒ a`; operand: the trace state variable's number (2 bytes)
pub(super) const SETV: u8 = 0x2d;
/// `⇒`; operand: the trace state variable's number (2 bytes)
pub(super) const TRACEV: u8 = 0x2e;
/// `address length ⇒`
pub(super) const TRACENZ: u8 = 0x2f;
/// `address ⇒ address`; operand: length (2 bytes)
pub(super) const TRACE16: u8 = 0x30;
/// `a … b ⇒ a … b a`; operand: how far a lies below the top (1 byte)
pub(super) const PICK: u8 = 0x32;
/// `a b c ⇒ c a b`
pub(super) const ROT: u8 = 0x33;
/// `arguments function channel ⇒`; operands: the number of arguments (1 byte), the length of the
/// format (2 bytes) and the format, ended by a zero byte
pub(super) const PRINTF: u8 = 0x34;
