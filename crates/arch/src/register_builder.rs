//! What the constructors of rows have in common in every architecture's register table.

use crate::{Encoding, Format, GdbGroup, GenericRole, Register, Writable};

impl Register {
    /// Names the register in every view it has so far.
    pub(crate) const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self.view.name = name;
        if let Some(narrow) = &mut self.alternative {
            narrow.name = name;
        }
        self
    }

    pub(crate) const fn alt(mut self, name: &'static str) -> Self {
        self.alt_name = Some(name);
        self
    }

    /// Numbers the register in DWARF and in `.eh_frame`, which agree in the native layouts.
    /// Source: System V ABI, AMD64 supplement, "DWARF Register Number Mapping"; DWARF for the Arm
    /// 64-bit Architecture, "DWARF register names".
    pub(crate) const fn dwarf(mut self, number: u16) -> Self {
        self.view.dwarf = Some(number);
        self.view.ehframe = Some(number);
        self
    }

    pub(crate) const fn role(mut self, role: GenericRole) -> Self {
        self.view.generic = Some(role);
        // The i386 calling convention passes arguments on the stack.
        if let Some(narrow) = &mut self.alternative
            && !matches!(role, GenericRole::Argument(_))
        {
            narrow.generic = Some(role);
        }
        self
    }

    pub(crate) const fn writable(mut self, writable: Writable) -> Self {
        self.writable = writable;
        self
    }

    pub(crate) const fn bytes(mut self) -> Self {
        self.encoding = Encoding::Vector;
        self.format = Format::VectorUint8;
        self
    }

    pub(crate) const fn float(mut self) -> Self {
        self.gdb_group = GdbGroup::Float;
        self.set = "Floating Point Registers";
        self
    }
}
