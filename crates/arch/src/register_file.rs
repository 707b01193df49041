//! The values of one vCPU's registers.

use alloc::{boxed::Box, vec};
use core::{fmt, ptr};

use crate::{Register, RegisterGroups, RegisterId};

/// The values of all registers of one vCPU, as one block of bytes laid out by the table.
///
/// Values are little-endian. Which of them are up to date is the owner's business: a hypervisor
/// fills and stores them by [`RegisterGroup`](crate::RegisterGroup).
#[derive(Clone)]
pub struct RegisterFile {
    table: &'static [Register],
    bytes: Box<[u8]>,
}

impl RegisterFile {
    /// Makes a register file of zeros for the registers of `table`.
    #[must_use]
    pub fn new(table: &'static [Register]) -> Self {
        let len_bytes = table.iter().map(end_of).max().unwrap_or(0);
        Self {
            table,
            bytes: vec![0; len_bytes].into_boxed_slice(),
        }
    }

    /// Returns the table that lays the file out.
    #[must_use]
    pub const fn table(&self) -> &'static [Register] {
        self.table
    }

    /// Returns what is known of a register, or `None` if the architecture has none of this id.
    #[must_use]
    pub fn register(&self, id: RegisterId) -> Option<&'static Register> {
        self.table.get(usize::from(id.0))
    }

    /// Returns a register's bytes, least significant first; none for an unknown register.
    #[must_use]
    pub fn bytes(&self, id: RegisterId) -> &[u8] {
        self.register(id)
            .and_then(|register| {
                self.bytes
                    .get(usize::from(register.offset)..end_of(register))
            })
            .unwrap_or_default()
    }

    /// Returns a register's bytes for writing; none for an unknown register.
    pub fn bytes_mut(&mut self, id: RegisterId) -> &mut [u8] {
        self.register(id)
            .and_then(|register| {
                self.bytes
                    .get_mut(usize::from(register.offset)..end_of(register))
            })
            .unwrap_or_default()
    }

    /// Returns the low 64 bits of a register, zero-extended; 0 for an unknown register.
    #[must_use]
    pub fn u64(&self, id: RegisterId) -> u64 {
        let mut value = [0; 8];
        copy_common(&mut value, self.bytes(id));
        u64::from_le_bytes(value)
    }

    /// Sets a register to `value`, truncated or zero-extended to its width. An unknown register
    /// is left alone.
    pub fn set_u64(&mut self, id: RegisterId, value: u64) {
        let bytes = self.bytes_mut(id);
        bytes.fill(0);
        copy_common(bytes, &value.to_le_bytes());
    }

    /// Copies the registers of `groups` from a file of the same architecture. A file of another
    /// architecture is ignored.
    pub fn copy_groups(&mut self, from: &Self, groups: RegisterGroups) {
        if !ptr::eq(self.table, from.table) {
            return;
        }
        for register in self.table {
            let range = usize::from(register.offset)..end_of(register);
            if !groups.contains(register.group.into()) {
                continue;
            }
            if let (Some(to), Some(from)) =
                (self.bytes.get_mut(range.clone()), from.bytes.get(range))
            {
                to.copy_from_slice(from);
            }
        }
    }
}

impl PartialEq for RegisterFile {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.table, other.table) && self.bytes == other.bytes
    }
}

impl Eq for RegisterFile {}

impl fmt::Debug for RegisterFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (index, register) in self.table.iter().enumerate() {
            let bytes = u16::try_from(index).map(|index| self.bytes(RegisterId(index)));
            if let Ok(bytes) = bytes
                && bytes.iter().any(|byte| *byte != 0)
            {
                map.entry(&register.name, &format_args!("{}", Hex(bytes)));
            }
        }
        map.finish()
    }
}

/// Bytes of a little-endian value, shown as one hexadecimal number.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0
            .iter()
            .rev()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

const fn end_of(register: &Register) -> usize {
    (register.offset as usize).saturating_add(register.len_bytes())
}

/// Copies as many leading bytes as both slices have.
pub(crate) fn copy_common(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
