//! Constructors for the rows of the register table.

use crate::{
    Encoding, Format, GdbGroup, GdbType, GenericRole, Register, RegisterGroup, View, Writable,
};

/// The set in which LLDB lists general-purpose registers; the name is LLDB's own.
const GENERAL_SET: &str = "General Purpose Registers";

/// Target description features. GDB knows those under `org.gnu.gdb` by name.
/// Source: GDB manual, "i386 Features".
pub(super) mod feature {
    pub(in super::super) const CORE: &str = "org.gnu.gdb.i386.core";
    pub(in super::super) const SEGMENTS: &str = "org.gnu.gdb.i386.segments";
    pub(in super::super) const SSE: &str = "org.gnu.gdb.i386.sse";
    pub(in super::super) const AVX: &str = "org.gnu.gdb.i386.avx";
    pub(in super::super) const AVX512: &str = "org.gnu.gdb.i386.avx512";
    pub(in super::super) const PKEYS: &str = "org.gnu.gdb.i386.pkeys";
    pub(in super::super) const SYSTEM: &str = "org.trapline.x86.system";
    pub(in super::super) const DESCRIPTORS: &str = "org.trapline.x86.descriptors";
    pub(in super::super) const DEBUG: &str = "org.trapline.x86.debug";
    pub(in super::super) const MSR: &str = "org.trapline.x86.msr";
    pub(in super::super) const XSTATE: &str = "org.trapline.x86.xstate";
}

/// A row of 64 bits without a 32-bit form, in hexadecimal; the rest is set by the methods.
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

/// A general-purpose register whose lower half is not a register of the 32-bit layout.
pub(super) const fn wide(gdb_type: GdbType) -> Register {
    row(RegisterGroup::General, feature::CORE, gdb_type, 64)
}

/// A general-purpose register whose lower half has the type `narrow` in the 32-bit layout.
pub(super) const fn general(gdb_type: GdbType, narrow: GdbType) -> Register {
    wide(gdb_type).narrow_as(narrow)
}

/// A segment selector: 16 bits, which clients read as 32.
pub(super) const fn selector() -> Register {
    let mut register = row(
        RegisterGroup::System,
        feature::CORE,
        GdbType::Builtin("int32"),
        16,
    );
    register.view.bits = 32;
    register.narrow_unnamed(32)
}

/// A system register of `bits` bits.
pub(super) const fn system(feature: &'static str, gdb_type: GdbType, bits: u16) -> Register {
    let mut register = row(RegisterGroup::System, feature, gdb_type, bits);
    register.gdb_group = GdbGroup::System;
    register.set = "System Registers";
    register.narrow_unnamed(bits)
}

/// A debug register.
pub(super) const fn debug(gdb_type: GdbType) -> Register {
    let mut register = system(feature::DEBUG, gdb_type, 64);
    register.group = RegisterGroup::Debug;
    register.set = "Debug Registers";
    register
}

/// A model-specific register.
pub(super) const fn msr(gdb_type: GdbType) -> Register {
    let mut register = system(feature::MSR, gdb_type, 64);
    register.group = RegisterGroup::Msr;
    register.writable = Writable::Masked;
    register.set = "Model-Specific Registers";
    register
}

/// A register of the floating-point and vector state.
const fn fpu(feature: &'static str, gdb_type: GdbType, bits: u16) -> Register {
    let mut register = row(RegisterGroup::Fpu, feature, gdb_type, bits);
    register.gdb_group = GdbGroup::Vector;
    register.set = "Vector Registers";
    register
}

/// An element of the x87 stack.
pub(super) const fn x87() -> Register {
    let register = fpu(feature::CORE, GdbType::Builtin("i387_ext"), 80);
    register.bytes().float().narrow_unnamed(80)
}

/// A control register of the x87 unit, `bits` wide; clients read 32.
pub(super) const fn x87_control(bits: u16) -> Register {
    let mut register = fpu(feature::CORE, GdbType::Builtin("int"), bits);
    register.view.bits = 32;
    register.float().narrow_unnamed(32)
}

/// A vector register or a part of one.
pub(super) const fn vector(feature: &'static str, gdb_type: GdbType, bits: u16) -> Register {
    fpu(feature, gdb_type, bits).bytes()
}

/// A control or mask register of the vector state.
pub(super) const fn vector_control(
    feature: &'static str,
    gdb_type: GdbType,
    bits: u16,
) -> Register {
    fpu(feature, gdb_type, bits).narrow_unnamed(bits)
}

impl Register {
    /// Names the 32-bit form and numbers it in DWARF.
    /// Source: System V ABI, Intel386 supplement, "DWARF Register Number Mapping".
    pub(super) const fn narrow(mut self, name: &'static str, dwarf: u16) -> Self {
        if let Some(narrow) = &mut self.alternative {
            narrow.name = name;
        }
        self.narrow_dwarf(dwarf)
    }

    /// Gives the register a form in the 32-bit layout under its own name.
    pub(super) const fn narrow_unnamed(mut self, bits: u16) -> Self {
        let mut view = self.view;
        view.bits = bits;
        self.alternative = Some(view);
        self
    }

    /// Gives the register a 32-bit form of another type under its own name.
    pub(super) const fn narrow_as(self, gdb_type: GdbType) -> Self {
        let mut register = self.narrow_unnamed(32);
        if let Some(narrow) = &mut register.alternative {
            narrow.gdb_type = gdb_type;
        }
        register
    }

    /// Puts the 32-bit form into another feature of the target description.
    pub(super) const fn narrow_in(mut self, feature: &'static str) -> Self {
        if let Some(narrow) = &mut self.alternative {
            narrow.feature = feature;
        }
        self
    }

    /// Makes this the flags register, of which clients see 32 bits as `eflags`.
    pub(super) const fn eflags(mut self) -> Self {
        self.view.name = "eflags";
        self.view.bits = 32;
        self.alt("flags")
            .dwarf(49)
            .role(GenericRole::Flags)
            .narrow("eflags", 9)
    }

    /// Numbers the 32-bit form.
    pub(super) const fn narrow_dwarf(mut self, number: u16) -> Self {
        if let Some(narrow) = &mut self.alternative {
            narrow.dwarf = Some(number);
            narrow.ehframe = Some(number);
        }
        self
    }

    pub(super) const fn group(mut self, group: RegisterGroup) -> Self {
        self.group = group;
        self
    }
}
