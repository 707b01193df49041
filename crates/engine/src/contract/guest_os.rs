//! What can be known of the operating system in the guest, from its memory alone.

use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::Gva;

use super::GuestMemory;

/// Virtual memory that a layer above the hypervisor can read.
pub trait VirtualView {
    /// Copies virtual memory from `address` on and returns how many leading bytes were copied.
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize;

    /// Returns addresses of code, the likeliest of the kernel's first: where the vCPU's exceptions lead, and what
    /// it executes next.
    fn code_addresses(&self) -> Vec<Gva> {
        Vec::new()
    }
}

/// A symbol and how far an address is into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolAt {
    /// The symbol's name.
    pub name: String,
    /// Bytes from the symbol's start.
    pub offset_bytes: u64,
}

/// A kernel's image in the guest's memory that says at its beginning which one it is, so that a debugger can find
/// its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Where it begins.
    pub address: Gva,
    /// Which build it is.
    pub uuid: [u8; 16],
    /// What LLVM calls its processor and operating system, such as `"arm64-apple-macosx"`.
    pub triple: &'static str,
    /// What Mach-O files call the processor's kind.
    pub cpu_subtype: u32,
}

/// How far the search for an operating system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindProgress {
    /// There is more to be looked at.
    More,
    /// It is known, or all was looked at that one question is worth.
    Done,
}

/// A layer that knows one kind of guest operating system.
///
/// All it knows it reads from guest memory; it never changes the guest.
pub trait GuestOs: Send {
    /// Looks for the operating system, if it has not been found yet, with bounded work. Called
    /// while vCPUs are stopped. Returns whether it is known now.
    fn refresh(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) -> bool;

    /// Takes note that a client asks for what is known: [`find`](Self::find) follows. A search that
    /// has found nothing may begin anew, if the guest has run since.
    fn ask(&mut self) {}

    /// Looks for the operating system as [`refresh`](Self::refresh) does, but because a client asks
    /// and waits. A call takes less than a millisecond or so; it is repeated, with other clients
    /// served between, until the answer is [`FindProgress::Done`].
    fn find(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) -> FindProgress {
        self.refresh(memory, view);
        FindProgress::Done
    }

    /// Looks for the kernel's image, as far as that is quicker than to look for the system, because a debugger
    /// connects and waits. As [`find`](Self::find) it is repeated until the answer is [`FindProgress::Done`]; the
    /// next call begins anew if nothing was found.
    fn find_image(&mut self, view: &dyn VirtualView) -> FindProgress {
        let _ = view;
        FindProgress::Done
    }

    /// Returns the kernel's image, if it is known and says what it is.
    fn image(&self) -> Option<KernelImage> {
        None
    }

    /// Forgets what was found: the guest was reset (`Engine::handle_reset`).
    fn forget(&mut self);

    /// Returns what runs in the guest, in a few words such as `"Linux 6.1.0-56-cloud-amd64"`.
    fn description(&self) -> Option<String>;

    /// Returns what else is known, or what is not and why, as names and values for a person.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Returns the symbol that `address` lies in.
    fn symbol_at(&self, address: Gva) -> Option<SymbolAt>;

    /// Returns the run-time address of a symbol.
    fn address_of(&self, name: &str) -> Option<Gva>;

    /// Returns at most `limit` symbols whose names start with `prefix`.
    fn complete(&self, prefix: &str, limit: usize) -> Vec<String>;

    /// Returns the run-time address of the kernel's text and by how much it is moved from the
    /// address it was linked for.
    fn text_placement(&self) -> Option<(Gva, u64)>;

    /// Returns the length in bytes of an ELF file with the symbols at their run-time addresses.
    fn symbol_file_len(&self) -> Option<u64>;

    /// Copies a part of that file and returns how many bytes were copied. Parts of it may be made from
    /// guest memory as it is now.
    fn read_symbol_file(
        &self,
        memory: &dyn GuestMemory,
        view: &dyn VirtualView,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> usize;
}
