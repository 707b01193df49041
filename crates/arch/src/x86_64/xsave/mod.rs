//! The XSAVE area: floating-point and vector state as the processor stores it.
//!
//! ```text
//!    0 ┌──────────────────────────────┐
//!      │ legacy region (FXSAVE): x87, │
//!      │ XMM0–15, MXCSR               │
//!  512 ├──────────────────────────────┤
//!      │ header: XSTATE_BV, XCOMP_BV  │
//!  576 ├──────────────────────────────┤
//!      │ components, each where CPUID │
//!      │ leaf 0DH says                │
//!      └──────────────────────────────┘
//! ```
//!
//! Source: SDM vol. 1, "XSAVE Area" and "Managing State Using the XSAVE Feature Set".

mod legacy;

use thiserror::Error;

pub use legacy::{full_tag_word, short_tag_word};

use super::registers;
use crate::{RegisterFile, RegisterId, register_file::copy_common};

/// The length of the legacy region in bytes, which is a whole FXSAVE area.
pub const LEGACY_LEN_BYTES: usize = 512;
/// The length of the legacy region and the header in bytes.
pub const HEADER_END_BYTES: usize = 576;

/// Offset of `XSTATE_BV`.
const XSTATE_BV: usize = 512;
/// Offset of `XCOMP_BV`.
const XCOMP_BV: usize = 520;
/// The bit of `XCOMP_BV` that marks the compacted format.
const COMPACTED: u64 = 1 << 63;

/// A state component outside the legacy region, by its bit in XCR0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Component {
    /// Bits 255:128 of YMM0–15.
    Avx = 2,
    /// K0–7.
    Opmask = 5,
    /// Bits 511:256 of ZMM0–15.
    ZmmHi256 = 6,
    /// ZMM16–31.
    Hi16Zmm = 7,
    /// PKRU.
    Pkru = 9,
}

/// The component of the x87 state, bit 0 of XCR0.
const X87_BIT: u64 = 1 << 0;
/// The component of the SSE state, bit 1 of XCR0.
const SSE_BIT: u64 = 1 << 1;

impl Component {
    /// Every component this crate knows, in the order of their bits.
    pub const ALL: [Self; 5] = [
        Self::Avx,
        Self::Opmask,
        Self::ZmmHi256,
        Self::Hi16Zmm,
        Self::Pkru,
    ];

    /// Returns the component's bit in XCR0 and in `XSTATE_BV`, counted from 0, which is also its
    /// sub-leaf of CPUID leaf 0DH.
    #[must_use]
    pub const fn bit(self) -> u8 {
        self as u8
    }

    const fn mask(self) -> u64 {
        1 << (self as u8)
    }

    /// Returns the component's length in bytes.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Avx => 16 * 16,
            Self::Opmask => 8 * 8,
            Self::ZmmHi256 => 16 * 32,
            Self::Hi16Zmm => 16 * 64,
            Self::Pkru => 4,
        }
    }

    /// Returns the registers of the component in the order of the area.
    fn registers(self) -> impl Iterator<Item = RegisterId> {
        let count = match self {
            Self::Avx | Self::ZmmHi256 => 16,
            Self::Opmask => 8,
            // Three parts of each of sixteen registers.
            Self::Hi16Zmm => 48,
            Self::Pkru => 1,
        };
        (0..count).filter_map(move |index: usize| match self {
            Self::Avx => registers::ymmh(index),
            Self::Opmask => registers::k(index),
            Self::ZmmHi256 => registers::zmmh(index),
            Self::Hi16Zmm => hi16_zmm_part(index),
            Self::Pkru => Some(registers::PKRU),
        })
    }
}

/// Returns the part `index` of ZMM16–31: each takes 16, 16 and 32 bytes in turn.
fn hi16_zmm_part(index: usize) -> Option<RegisterId> {
    let number = (index / 3).checked_add(16)?;
    match index % 3 {
        0 => registers::xmm(number),
        1 => registers::ymmh(number),
        _ => registers::zmmh(number),
    }
}

/// Where the components are in a processor's standard-format XSAVE areas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XsaveLayout {
    offsets: [Option<usize>; Component::ALL.len()],
}

impl XsaveLayout {
    /// Makes a layout of the legacy region and the header only.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            offsets: [None; Component::ALL.len()],
        }
    }

    /// Adds a component at `offset_bytes`: EBX of CPUID leaf 0DH, sub-leaf
    /// [`bit`](Component::bit). An offset inside the legacy region or the header (0 is what CPUID
    /// says of a component that is absent) leaves the component out.
    #[must_use]
    pub fn with(mut self, component: Component, offset_bytes: usize) -> Self {
        let slots = Component::ALL.into_iter().zip(&mut self.offsets);
        for (_, slot) in slots.filter(|(candidate, _)| *candidate == component) {
            *slot = (offset_bytes >= HEADER_END_BYTES).then_some(offset_bytes);
        }
        self
    }

    /// Returns the components of the layout and where they start.
    pub fn components(&self) -> impl Iterator<Item = (Component, usize)> {
        let slots = Component::ALL.into_iter().zip(self.offsets);
        slots.filter_map(|(component, offset)| Some((component, offset?)))
    }

    /// Returns the length in bytes of an area that holds every component of the layout.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        let ends = self
            .components()
            .map(|(component, offset)| offset.saturating_add(component.len_bytes()));
        ends.max().unwrap_or(HEADER_END_BYTES)
    }
}

/// Why an area cannot be taken apart or filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum XsaveError {
    /// The area is shorter than its layout.
    #[error("the XSAVE area has {given} bytes, its layout {needed}")]
    TooShort {
        /// The length the layout needs, in bytes.
        needed: usize,
        /// The area's length in bytes.
        given: usize,
    },
    /// The area is in the compacted format, whose offsets the layout does not hold.
    #[error("the XSAVE area is in the compacted format")]
    Compacted,
}

/// Loads the registers of the group `Fpu` from a standard-format area. Components that
/// `XSTATE_BV` says are in their initial state get that; components that are not in the layout
/// keep what they hold, as does XCR0.
///
/// # Errors
///
/// See [`XsaveError`]; nothing is loaded then.
pub fn load(
    layout: &XsaveLayout,
    area: &[u8],
    registers: &mut RegisterFile,
) -> Result<(), XsaveError> {
    let xstate_bv = check(layout, area)?;
    if xstate_bv & X87_BIT != 0 {
        legacy::load_x87(area, registers);
    } else {
        legacy::initialize_x87(registers);
    }
    legacy::load_sse(area, registers, xstate_bv & SSE_BIT != 0);
    for (component, offset) in layout.components() {
        let present = xstate_bv & component.mask() != 0;
        let mut rest = area.get(offset..).unwrap_or_default();
        for id in component.registers() {
            let register = registers.bytes_mut(id);
            if let Some((value, tail)) = rest.split_at_checked(register.len()) {
                rest = tail;
                if present {
                    copy_common(register, value);
                } else {
                    register.fill(0);
                }
            }
        }
    }
    Ok(())
}

/// Stores the registers of the group `Fpu` in a standard-format area that was filled by the
/// hypervisor before, so that the components and bytes this crate does not know stay as they are.
///
/// `XSTATE_BV` gets the bits of components that are not in their initial state, and loses none:
/// a bit for a component the guest has not enabled would make the area invalid.
///
/// # Errors
///
/// See [`XsaveError`]; nothing is stored then.
pub fn store(
    layout: &XsaveLayout,
    registers: &RegisterFile,
    area: &mut [u8],
) -> Result<(), XsaveError> {
    let mut xstate_bv = check(layout, area)?;
    legacy::store_x87(registers, area);
    if !legacy::is_initial_x87(registers) {
        xstate_bv |= X87_BIT;
    }
    if legacy::store_sse(registers, area) == Contents::Used {
        xstate_bv |= SSE_BIT;
    }
    for (component, offset) in layout.components() {
        if store_component(
            component,
            registers,
            area.get_mut(offset..).unwrap_or_default(),
        ) == Contents::Used
        {
            xstate_bv |= component.mask();
        }
    }
    if let Some(header) = area.get_mut(XSTATE_BV..XCOMP_BV) {
        header.copy_from_slice(&xstate_bv.to_le_bytes());
    }
    Ok(())
}

/// Whether a component holds more than its initial state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    Initial,
    Used,
}

fn store_component(component: Component, registers: &RegisterFile, area: &mut [u8]) -> Contents {
    let mut contents = Contents::Initial;
    let mut rest = area;
    for id in component.registers() {
        let register = registers.bytes(id);
        let Some((value, tail)) = rest.split_at_mut_checked(register.len()) else {
            break;
        };
        value.copy_from_slice(register);
        rest = tail;
        if register.iter().any(|byte| *byte != 0) {
            contents = Contents::Used;
        }
    }
    contents
}

/// Checks an area against its layout and returns its `XSTATE_BV`.
fn check(layout: &XsaveLayout, area: &[u8]) -> Result<u64, XsaveError> {
    let (needed, given) = (layout.len_bytes(), area.len());
    if given < needed {
        return Err(XsaveError::TooShort { needed, given });
    }
    if u64_at(area, XCOMP_BV) & COMPACTED != 0 {
        return Err(XsaveError::Compacted);
    }
    Ok(u64_at(area, XSTATE_BV))
}

/// Loads the x87 and SSE registers from an FXSAVE area.
///
/// # Errors
///
/// [`XsaveError::TooShort`] if the area has less than [`LEGACY_LEN_BYTES`]; nothing is loaded
/// then.
pub fn load_fxsave(area: &[u8], registers: &mut RegisterFile) -> Result<(), XsaveError> {
    check_fxsave(area)?;
    legacy::load_x87(area, registers);
    legacy::load_sse(area, registers, true);
    Ok(())
}

/// Stores the x87 and SSE registers in an FXSAVE area, whose other bytes stay as they are.
///
/// # Errors
///
/// [`XsaveError::TooShort`] if the area has less than [`LEGACY_LEN_BYTES`]; nothing is stored
/// then.
pub fn store_fxsave(registers: &RegisterFile, area: &mut [u8]) -> Result<(), XsaveError> {
    check_fxsave(area)?;
    legacy::store_x87(registers, area);
    legacy::store_sse(registers, area);
    Ok(())
}

const fn check_fxsave(area: &[u8]) -> Result<(), XsaveError> {
    if area.len() < LEGACY_LEN_BYTES {
        return Err(XsaveError::TooShort {
            needed: LEGACY_LEN_BYTES,
            given: area.len(),
        });
    }
    Ok(())
}

/// Returns the little-endian word at `offset`, of which bytes past the end count as 0.
fn u64_at(area: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    copy_common(&mut bytes, area.get(offset..).unwrap_or_default());
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests;
