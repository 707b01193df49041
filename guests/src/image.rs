//! A guest's image, and what is in it.

use object::{Object, ObjectSegment, ObjectSymbol};

/// How a guest comes to its end by itself, when its `rounds` are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It writes status 0 to the debug-exit port.
    Passed,
    /// It powers the machine off.
    PowerOff,
    /// It asks for a reset.
    Reset,
    /// It meets a triple fault.
    TripleFault,
}

/// On which KVM a guest can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Any that was tried.
    AnyKvm,
    /// One with VMX or SVM, emulated or not. A KVM that interprets the guest's instructions (module
    /// `kvm_pvm`) lacks what the guest is about: INT n and SYSRET, data breakpoints, or paging
    /// without PAE.
    Hardware,
}

/// A tiny guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Its name, which is its source's too.
    pub name: &'static str,
    /// The ELF image, with symbols and line numbers.
    pub elf: &'static [u8],
    /// How it ends.
    pub ending: Ending,
    /// On which KVM it can run.
    pub needs: Needs,
}

impl Guest {
    /// Returns the image without its ELF headers, as it lies in memory without bss: an arm64 Image, of a
    /// guest of AArch64.
    #[must_use]
    pub fn flat(&self) -> Option<&'static [u8]> {
        let file = object::File::parse(self.elf).ok()?;
        let segment = file.segments().next()?;
        segment.data().ok()
    }

    /// Returns the guest-virtual address of a label, function or variable of the guest.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let file = object::File::parse(self.elf).ok()?;
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name))?;
        Some(symbol.address())
    }
}

#[cfg(test)]
mod tests {
    use crate::{aarch64, all};

    #[test]
    fn every_guest_has_an_entry_and_rounds() {
        for guest in all() {
            assert!(guest.symbol("_start").is_some(), "{}", guest.name);
            assert!(guest.symbol("rounds").is_some(), "{}", guest.name);
            assert!(guest.symbol("no such label").is_none(), "{}", guest.name);
        }
    }

    #[test]
    fn guests_of_aarch64_are_images_and_elf_files() {
        if !aarch64::are_built() {
            return;
        }
        for guest in aarch64::all() {
            assert!(guest.symbol("_start").is_some(), "{}", guest.name);
            assert!(guest.symbol("rounds").is_some(), "{}", guest.name);
            let image = guest.flat().expect("a segment");
            assert_eq!(&image[56..60], b"ARM\x64", "{}", guest.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().iter().map(|guest| guest.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn the_kernel_of_kpti_is_linked_high() {
        let address = crate::KPTI
            .symbol("kernel_syscall")
            .expect("a label of kpti.S");
        assert!(address > 0xffff_ffff_8020_2000);
    }
}
