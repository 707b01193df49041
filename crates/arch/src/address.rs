//! Guest addresses as distinct types, so that a virtual one is never used as a physical one.

use core::fmt;

macro_rules! address_type {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the address `len_bytes` further on, or `None` past the end of the address
            /// space.
            #[must_use]
            pub const fn checked_add(self, len_bytes: u64) -> Option<Self> {
                match self.0.checked_add(len_bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Returns the address `len_bytes` further on, modulo 2^64.
            #[must_use]
            pub const fn wrapping_add(self, len_bytes: u64) -> Self {
                Self(self.0.wrapping_add(len_bytes))
            }

            /// Returns the offset inside the naturally aligned block of `size_bytes`, which must
            /// be a power of two.
            #[must_use]
            pub const fn offset_in(self, size_bytes: u64) -> u64 {
                self.0 & size_bytes.wrapping_sub(1)
            }

            /// Returns the start of the naturally aligned block of `size_bytes`, which must be a
            /// power of two.
            #[must_use]
            pub const fn align_down(self, size_bytes: u64) -> Self {
                Self(self.0 & !size_bytes.wrapping_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

address_type! {
    /// A guest-virtual address: the linear address of x86, the virtual address of Arm.
    Gva
}

address_type! {
    /// A guest-physical address: what Arm calls an intermediate physical address.
    Gpa
}
