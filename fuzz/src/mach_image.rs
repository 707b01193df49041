use trapline_arch::Gva;
use trapline_darwin::{DarwinGuest, Kernel};
use trapline_engine::{FindProgress, GuestOs, VirtualView};

/// Where the input is in memory.
const START: u64 = 0xffff_fff0_0700_4000;
/// More calls than it takes to look at all places of a search.
const CALLS: usize = 100;

/// The input as all that is mapped, with a program counter in it.
pub fn mach_image(data: &[u8]) {
    let memory = Memory(data);
    let kernel = Kernel::read(&memory, Gva(START));
    if let Some(kernel) = kernel {
        assert_eq!(Kernel::read(&memory, kernel.address), Some(kernel));
        assert!(kernel.platform.triple().starts_with("arm64-apple-"));
    }
    let mut guest = DarwinGuest::new();
    for _ in 0..CALLS {
        if guest.find_image(&memory) == FindProgress::Done {
            // In the upper places of the input there may be another.
            assert!(kernel.is_none() || guest.image().is_some());
            return;
        }
    }
    panic!("the search does not end");
}

struct Memory<'a>(&'a [u8]);

impl VirtualView for Memory<'_> {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(address.0.wrapping_sub(START)).unwrap();
        let rest = self.0.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }

    fn code_addresses(&self) -> Vec<Gva> {
        vec![Gva(START + self.0.len() as u64), Gva(START)]
    }
}
