//! [`Kernel`] of made-up headers.

use super::{Kernel, Platform, uuid_text};
use crate::testing::{Header, MH_DYLDLINK, MH_EXECUTE, MH_FILESET, Memory, UUID};
use trapline_arch::Gva;

const TEXT: u64 = 0xffff_fff0_0700_4000;

fn read(header: &Header) -> Option<Kernel> {
    let mut memory = Memory::default();
    memory.put(TEXT, &header.bytes());
    Kernel::read(&memory, Gva(TEXT))
}

#[test]
fn a_kernel_is_read() {
    let kernel = read(&Header::kernel(TEXT)).unwrap();
    assert_eq!(kernel.address, Gva(TEXT));
    assert_eq!(kernel.uuid, UUID);
    assert_eq!(kernel.cpu_subtype, 2);
    assert_eq!(kernel.platform, Platform::Ios);
    assert_eq!(kernel.platform.triple(), "arm64-apple-ios");
    assert_eq!(
        uuid_text(&kernel.uuid),
        "30313233-3435-3637-3839-616263646566"
    );
}

#[test]
fn what_is_no_kernel_is_told_from_one() {
    let whole = || Header::kernel(TEXT);
    assert!(read(&whole()).is_some());
    let program = Header {
        flags: MH_DYLDLINK,
        ..whole()
    };
    assert!(read(&program).is_none(), "a program with a dynamic linker");
    let library = Header { kind: 6, ..whole() };
    assert!(read(&library).is_none());
    let other = Header {
        cpu_type: 0x0100_0007,
        ..whole()
    };
    assert!(read(&other).is_none(), "a kernel for x86-64");
    let text = Header::new(MH_EXECUTE).segment(b"__TEXT", TEXT);
    assert!(read(&text.uuid(UUID)).is_none(), "firmware");
    let nameless = Header::new(MH_EXECUTE).segment(b"__TEXT", TEXT);
    assert!(read(&nameless.segment(b"__KLD", TEXT)).is_none());
}

#[test]
fn the_kernel_of_a_collection_is_found_wherever_it_was_moved() {
    let linked = 0xffff_fff0_0700_4000;
    for moved_by in [0, 0x1a60_0000] {
        let outer = Header::new(MH_FILESET)
            .segment(b"__TEXT", linked)
            .entry(b"com.apple.driver", linked + 0x8000)
            .entry(b"com.apple.kernel", linked + 0x2_0000);
        let mut memory = Memory::default();
        memory.put(linked + moved_by, &outer.bytes());
        let inner = linked + 0x2_0000 + moved_by;
        memory.put(inner, &Header::kernel(inner).bytes());
        let kernel = Kernel::read(&memory, Gva(linked + moved_by)).unwrap();
        assert_eq!(kernel.address, Gva(inner));
    }
}

#[test]
fn a_collection_of_collections_is_no_endless_search() {
    let outer = Header::new(MH_FILESET).segment(b"__TEXT", TEXT);
    assert!(read(&outer.entry(b"com.apple.kernel", TEXT)).is_none());
}

#[test]
fn truncated_and_damaged_headers_are_no_kernels_and_end() {
    let bytes = Header::kernel(TEXT).bytes();
    for len in 0..bytes.len() {
        let mut memory = Memory::default();
        memory.put(TEXT, &bytes[..len]);
        assert!(Kernel::read(&memory, Gva(TEXT)).is_none(), "{len} bytes");
    }
    for index in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[index] = value;
            let mut memory = Memory::default();
            memory.put(TEXT, &damaged);
            // Whatever it says, it is about this image.
            let kernel = Kernel::read(&memory, Gva(TEXT));
            assert!(kernel.is_none_or(|kernel| kernel.address == Gva(TEXT)));
        }
    }
}

#[test]
fn commands_of_hostile_length_are_not_read() {
    let mut bytes = Header::kernel(TEXT).bytes();
    bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut memory = Memory::default();
    memory.put(TEXT, &bytes);
    assert!(Kernel::read(&memory, Gva(TEXT)).is_none());
}
