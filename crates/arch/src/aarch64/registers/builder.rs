//! Constructors for the rows of the register table.

use super::types;
use crate::{Encoding, Format, GdbGroup, GdbType, Register, RegisterGroup, View, Writable};

/// The set in which LLDB lists general-purpose registers; the name is LLDB's own.
const GENERAL_SET: &str = "General Purpose Registers";

/// Target description features. GDB knows those under `org.gnu.gdb` by name.
/// Source: GDB manual, "AArch64 Features".
pub(super) mod feature {
    pub(in super::super) const CORE: &str = "org.gnu.gdb.aarch64.core";
    pub(in super::super) const FPU: &str = "org.gnu.gdb.aarch64.fpu";
    pub(in super::super) const SVE: &str = "org.gnu.gdb.aarch64.sve";
    /// The name that GDB 13.2 and later take for the masks of both halves. Under the older name
    /// `pauth` GDB 9 to 12 crash on any description with features of its own.
    pub(in super::super) const PAUTH: &str = "org.gnu.gdb.aarch64.pauth_v2";
    pub(in super::super) const SYSTEM: &str = "org.trapline.aarch64.system";
    pub(in super::super) const DEBUG: &str = "org.trapline.aarch64.debug";
    pub(in super::super) const TIMER: &str = "org.trapline.aarch64.timer";
    pub(in super::super) const IDENTIFICATION: &str = "org.trapline.aarch64.id";
}

/// A row in hexadecimal; the rest is set by the methods.
const fn row(
    group: RegisterGroup,
    feature: &'static str,
    gdb_type: GdbType,
    bits: u16,
) -> Register {
    Register {
        name: "",
        alt_name: None,
        bits,
        offset: 0,
        group,
        writable: Writable::Yes,
        encoding: Encoding::Uint,
        format: Format::Hex,
        gdb_group: GdbGroup::General,
        set: GENERAL_SET,
        view: View {
            name: "",
            bits,
            scalable: false,
            gdb_type,
            feature,
            dwarf: None,
            ehframe: None,
            generic: None,
        },
        alternative: None,
    }
}

/// A general-purpose register, or the pc.
pub(super) const fn general(gdb_type: GdbType) -> Register {
    row(RegisterGroup::General, feature::CORE, gdb_type, 64)
}

/// The process state.
pub(super) const fn cpsr() -> Register {
    let mut register = row(RegisterGroup::General, feature::CORE, types::CPSR, 32);
    register.writable = Writable::Masked;
    register
}

const fn fpu(feature: &'static str, gdb_type: GdbType, bits: u16) -> Register {
    let mut register = row(RegisterGroup::Fpu, feature, gdb_type, bits);
    register.gdb_group = GdbGroup::Vector;
    register.set = "Vector Registers";
    register
}

/// A SIMD and floating-point register.
pub(super) const fn simd() -> Register {
    fpu(feature::FPU, types::V, 128).bytes()
}

/// A control or status register of the floating-point unit. GDB wants it in the feature of the
/// vector registers, whichever those are.
pub(super) const fn fp_control(gdb_type: GdbType) -> Register {
    let mut register = fpu(feature::FPU, gdb_type, 32).float();
    let mut view = register.view;
    view.feature = feature::SVE;
    register.alternative = Some(view);
    register
}

/// A scalable register of `quadword_bits` bits for each 128 bits of the vector length, with room
/// for the longest.
pub(super) const fn scalable(gdb_type: GdbType, quadword_bits: u16) -> Register {
    let room = quadword_bits.saturating_mul(super::MAX_VECTOR_QUADWORDS as u16);
    let mut register = fpu(feature::SVE, gdb_type, room).bytes();
    register.view.bits = quadword_bits;
    register.view.scalable = true;
    register
}

/// The vector length in units of 64 bits. GDB lays the vectors out by it.
pub(super) const fn vector_granule() -> Register {
    let mut register = fpu(feature::SVE, types::INT, 64);
    register.writable = Writable::No;
    register
}

/// A system register, loaded with all that address translation and exceptions depend on.
pub(super) const fn system(gdb_type: GdbType) -> Register {
    let mut register = row(RegisterGroup::System, feature::SYSTEM, gdb_type, 64);
    register.writable = Writable::Masked;
    register.gdb_group = GdbGroup::System;
    register.set = "System Registers";
    register
}

/// A mask of the bits of a pointer that hold its authentication code, computed and not stored.
pub(super) const fn pauth_mask() -> Register {
    let mut register = system(types::INT64);
    register.view.feature = feature::PAUTH;
    register.set = "Pointer Authentication Registers";
    register.read_only()
}

/// A view of fields of the process state, which is written through `cpsr`.
pub(super) const fn pstate_view() -> Register {
    let mut register = system(types::CPSR_64);
    register.group = RegisterGroup::General;
    register.read_only()
}

/// A debug register.
pub(super) const fn debug(gdb_type: GdbType) -> Register {
    let mut register = system(gdb_type);
    register.group = RegisterGroup::Debug;
    register.view.feature = feature::DEBUG;
    register.set = "Debug Registers";
    register
}

/// A register of the generic timer.
pub(super) const fn timer() -> Register {
    let mut register = system(types::UINT64);
    register.group = RegisterGroup::Msr;
    register.view.feature = feature::TIMER;
    register.set = "Timer Registers";
    register
}

/// A register that says what the processor is.
pub(super) const fn identification() -> Register {
    let mut register = system(types::UINT64);
    register.group = RegisterGroup::Msr;
    register.view.feature = feature::IDENTIFICATION;
    register.set = "Identification Registers";
    register.read_only()
}

impl Register {
    pub(super) const fn read_only(self) -> Self {
        self.writable(Writable::No)
    }

    pub(super) const fn freely_writable(self) -> Self {
        self.writable(Writable::Yes)
    }
}
