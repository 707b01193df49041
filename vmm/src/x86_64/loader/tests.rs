//! Images of each kind, whole, cut short and with lies in their headers.

use std::io::Cursor;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Entry, ImageKind, Initrd, LoadError, Request, load};
use crate::{
    KernelFormat, memory,
    x86_64::layout::{BOOT_INFO, COMMAND_LINE, HIGH_RAM},
};

const MEMORY_BYTES: u64 = 16 << 20;
const CODE: &[u8] = b"\xf4the code";

fn guest_memory() -> GuestMemoryMmap {
    memory::allocate(MEMORY_BYTES).expect("16 MiB of address space")
}

fn request(cmdline: &str) -> Request<'_> {
    Request {
        cmdline,
        initrd: None,
        rsdp: 0xe_0000,
    }
}

fn load_from(
    bytes: &[u8],
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<(ImageKind, Entry), LoadError> {
    load(
        &mut Cursor::new(bytes),
        KernelFormat::Detect,
        memory,
        request,
    )
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A bzImage with one setup sector besides the boot sector.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    put(&mut image, 0x1f4, &words(&[2]));
    put(&mut image, 0x1fe, &[0x55, 0xaa]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020f_u16.to_le_bytes());
    image[0x211] = 1;
    put(&mut image, 0x214, &words(&[0x10_0000]));
    put(&mut image, 0x22c, &words(&[0x7fff_ffff]));
    put(&mut image, 0x236, &1_u16.to_le_bytes());
    put(&mut image, 0x238, &words(&[2047]));
    put(&mut image, 0x260, &words(&[0x10_0000]));
    image.extend_from_slice(CODE);
    image.resize(1024 + 2 * 16, 0);
    image
}

/// An ELF image with a segment at 2 MiB and, for PVH, a note with its entry point.
fn elf64(pvh_entry: Option<u32>) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0x20_0000_u64, 64, 0] {
        image.extend_from_slice(&word.to_le_bytes());
    }
    image.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    let note = pvh_entry.map(|entry| {
        let mut note = words(&[4, 4, 18]);
        note.extend_from_slice(b"Xen\0");
        note.extend_from_slice(&entry.to_le_bytes());
        note
    });
    let note_bytes = note.as_ref().map_or(0, Vec::len) as u64;
    let (code, code_bytes) = (64 + 2 * 56, CODE.len() as u64);
    let load = [code, 0x20_0000, 0x20_0000, code_bytes, 0x1000, 4096];
    let notes = [code + code_bytes, 0, 0, note_bytes, note_bytes, 4];
    for (kind, fields) in [(1_u32, load), (4, notes)] {
        image.extend_from_slice(&kind.to_le_bytes());
        image.extend_from_slice(&7_u32.to_le_bytes());
        fields
            .iter()
            .for_each(|field| image.extend_from_slice(&field.to_le_bytes()));
    }
    image.extend_from_slice(CODE);
    image.extend_from_slice(&note.unwrap_or_default());
    image
}

/// A Multiboot image with addresses in its header, which stands 16 bytes into the file.
fn multiboot() -> Vec<u8> {
    let flags = 1_u32 << 16;
    let magic = 0x1bad_b002_u32;
    let checksum = 0_u32.wrapping_sub(magic.wrapping_add(flags));
    let mut image = vec![0x90; 16];
    image.extend_from_slice(&words(&[
        magic, flags, checksum, 0x10_0010, 0x10_0000, 0, 0x10_2000, 0x10_0030,
    ]));
    image.extend_from_slice(CODE);
    image
}

/// A 32-bit ELF image with a Multiboot header in its only segment.
fn multiboot_elf() -> Vec<u8> {
    let mut image = b"\x7fELF\x01\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend_from_slice(&[2, 0, 3, 0, 1, 0, 0, 0]);
    image.extend_from_slice(&words(&[0x10_000c, 52, 0, 0]));
    image.extend_from_slice(&[52, 0, 32, 0, 1, 0, 40, 0, 0, 0, 0, 0]);
    image.extend_from_slice(&words(&[
        1,
        84,
        0xc010_0000,
        0x10_0000,
        21,
        0x1000,
        7,
        4096,
    ]));
    let magic = 0x1bad_b002_u32;
    image.extend_from_slice(&words(&[magic, 0, 0_u32.wrapping_sub(magic)]));
    image.extend_from_slice(CODE);
    image
}

fn text_at(memory: &GuestMemoryMmap, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .expect("in memory");
    bytes
}

fn word_at(memory: &GuestMemoryMmap, address: u64) -> u32 {
    memory.read_obj(GuestAddress(address)).expect("in memory")
}

#[test]
fn bzimage_is_entered_at_its_64_bit_entry_point() {
    let memory = guest_memory();
    let loaded = load_from(&bzimage(), &memory, &request("root=/dev/vda")).expect("a good image");
    assert_eq!(
        loaded,
        (ImageKind::LinuxBzImage, Entry::Long { rip: 0x10_0200 })
    );
    assert_eq!(text_at(&memory, 0x10_0000, CODE.len()), CODE);
    let line = b"console=ttyS0 root=/dev/vda\0";
    assert_eq!(text_at(&memory, COMMAND_LINE, line.len()), line);
    assert_eq!(word_at(&memory, BOOT_INFO + 0x228), 0x2_0000);
    assert_eq!(
        text_at(&memory, BOOT_INFO + 0x1e8, 1),
        [3],
        "entries of the memory map"
    );
    assert_eq!(word_at(&memory, BOOT_INFO + 0x70), 0xe_0000, "RSDP");
}

#[test]
fn a_console_that_the_user_names_is_left_alone() {
    let memory = guest_memory();
    load_from(&bzimage(), &memory, &request("console=tty0 quiet")).expect("a good image");
    let line = b"console=tty0 quiet\0";
    assert_eq!(text_at(&memory, COMMAND_LINE, line.len()), line);
}

#[test]
fn bzimage_without_64_bit_entry_is_entered_in_protected_mode() {
    let mut image = bzimage();
    image[0x236] = 0;
    let (_, entry) = load_from(&image, &guest_memory(), &request("")).expect("a good image");
    let expected = Entry::Protected {
        eip: 0x10_0000,
        eax: 0,
        ebx: 0,
        esi: 0x7000,
    };
    assert_eq!(entry, expected);
}

#[test]
fn bzimage_that_needs_more_memory_than_there_is_is_refused() {
    let mut image = bzimage();
    put(&mut image, 0x260, &words(&[0x100_0000]));
    let error = load_from(&image, &guest_memory(), &request("")).expect_err("16 MiB from 1 MiB");
    assert!(
        matches!(
            error,
            LoadError::OutsideMemory {
                what: "the kernel",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_command_line_longer_than_the_kernel_takes_is_refused() {
    let line = "x".repeat(3000);
    let error = load_from(&bzimage(), &guest_memory(), &request(&line)).expect_err("too long");
    assert!(
        matches!(error, LoadError::CommandLine { most: 2047, .. }),
        "{error}"
    );
}

#[test]
fn an_initrd_inside_the_kernel_is_refused() {
    let initrd = Some(Initrd {
        start: HIGH_RAM,
        len_bytes: 4096,
    });
    for image in [bzimage(), elf64(Some(0x20_0000)), multiboot_elf()] {
        let request = Request {
            initrd,
            ..request("")
        };
        let error = load_from(&image, &guest_memory(), &request).expect_err("they overlap");
        assert!(matches!(error, LoadError::OutsideMemory { .. }), "{error}");
    }
}

#[test]
fn plain_elf_is_loaded_by_physical_addresses() {
    let memory = guest_memory();
    let loaded = load_from(&elf64(None), &memory, &request("endless")).expect("a good image");
    assert_eq!(loaded, (ImageKind::Elf64, Entry::Long { rip: 0x20_0000 }));
    assert_eq!(text_at(&memory, 0x20_0000, CODE.len()), CODE);
    assert_eq!(text_at(&memory, COMMAND_LINE, 8), b"endless\0");
}

#[test]
fn an_elf_note_makes_it_pvh() {
    let memory = guest_memory();
    let loaded = load_from(&elf64(Some(0x20_0004)), &memory, &request("")).expect("a good image");
    let entry = Entry::Protected {
        eip: 0x20_0004,
        eax: 0,
        ebx: 0x7000,
        esi: 0,
    };
    assert_eq!(loaded, (ImageKind::Pvh, entry));
    assert_eq!(word_at(&memory, BOOT_INFO), 0x336e_c578);
    assert_eq!(
        word_at(&memory, BOOT_INFO + 48),
        3,
        "entries of the memory map"
    );
}

#[test]
fn multiboot_images_are_loaded_by_header_and_by_elf() {
    for (image, eip) in [(multiboot(), 0x10_0030), (multiboot_elf(), 0x10_000c)] {
        let memory = guest_memory();
        let (kind, entry) = load_from(&image, &memory, &request("a b")).expect("a good image");
        assert_eq!(kind, ImageKind::Multiboot);
        let expected = Entry::Protected {
            eip,
            eax: 0x2bad_b002,
            ebx: 0x7000,
            esi: 0,
        };
        assert_eq!(entry, expected);
        assert_eq!(text_at(&memory, eip.into(), CODE.len()), CODE);
        assert_eq!(
            word_at(&memory, BOOT_INFO + 8),
            (15 << 20) >> 10,
            "KiB above 1 MiB"
        );
    }
}

#[test]
fn multiboot_features_that_are_required_and_unknown_are_refused() {
    let mut image = multiboot();
    let flags = 1_u32 << 16 | 1 << 2;
    let sum = 0x1bad_b002_u32.wrapping_add(flags);
    put(&mut image, 20, &words(&[flags, 0_u32.wrapping_sub(sum)]));
    let error = load_from(&image, &guest_memory(), &request("")).expect_err("a video mode");
    assert!(matches!(error, LoadError::Unsupported(_)), "{error}");
}

#[test]
fn flat_images_go_where_they_are_told() {
    let cases = [
        (0x7c00, Entry::Real { cs: 0, ip: 0x7c00 }),
        (0x8_0008, Entry::Real { cs: 0x8000, ip: 8 }),
        (0x20_0000, Entry::Long { rip: 0x20_0000 }),
    ];
    for (address, expected) in cases {
        let memory = guest_memory();
        let mut image = Cursor::new(CODE);
        let loaded = load(
            &mut image,
            KernelFormat::Flat(address),
            &memory,
            &request(""),
        );
        assert_eq!(loaded.expect("room"), (ImageKind::Flat, expected));
        assert_eq!(text_at(&memory, address, CODE.len()), CODE);
    }
    for address in [
        0,
        0x400,
        0x9_fbff,
        0xf_0000,
        MEMORY_BYTES - 4,
        0xfee0_0000,
        u64::MAX,
    ] {
        let mut image = Cursor::new(CODE);
        let loaded = load(
            &mut image,
            KernelFormat::Flat(address),
            &guest_memory(),
            &request(""),
        );
        assert!(
            matches!(loaded, Err(LoadError::OutsideMemory { .. })),
            "{address:#x}"
        );
    }
}

#[test]
fn what_is_no_kernel_is_said_to_be_none() {
    let files: [&[u8]; 4] = [
        b"",
        b"#!/bin/sh\necho hello\n",
        &[0; 9000],
        b"PK\x03\x04zip",
    ];
    for file in files {
        let error = load_from(file, &guest_memory(), &request("")).expect_err("no kernel");
        assert!(matches!(error, LoadError::NotAKernel(_)), "{error}");
        assert!(error.to_string().contains("supported are"));
    }
    let error = load_from(b"#!/bin/sh", &guest_memory(), &request("")).expect_err("no kernel");
    assert!(error.to_string().contains("23212f62696e2f7368"), "{error}");
}

#[test]
fn elf_files_that_are_no_kernels_are_refused_with_the_reason() {
    let changed = |at: usize, value: u8| {
        let mut image = elf64(None);
        image[at] = value;
        load_from(&image, &guest_memory(), &request("")).expect_err("not for this machine")
    };
    assert!(
        matches!(changed(18, 183), LoadError::Unsupported(_)),
        "AArch64"
    );
    assert!(
        matches!(changed(16, 3), LoadError::Unsupported(_)),
        "position independent"
    );
    assert!(matches!(changed(4, 9), LoadError::BadHeader(_)), "class");
    assert!(
        matches!(changed(26, 0x90), LoadError::Entry(_)),
        "entry outside"
    );
}

/// The images of every kind, each with a name.
fn all_kinds() -> [(&'static str, Vec<u8>); 5] {
    [
        ("bzImage", bzimage()),
        ("ELF", elf64(None)),
        ("PVH", elf64(Some(0x20_0000))),
        ("Multiboot", multiboot()),
        ("Multiboot ELF", multiboot_elf()),
    ]
}

#[test]
fn images_cut_short_anywhere_never_panic_and_say_so_if_code_is_missing() {
    let memory = guest_memory();
    for (name, image) in all_kinds() {
        for length in 0..image.len() {
            let loaded = load_from(&image[..length], &memory, &request(""));
            // A bzImage counts in units of 16 bytes. Multiboot takes its size from the file here, and
            // PVH may lose its note alone.
            let tells = match name {
                "bzImage" => length <= image.len() - 16,
                "ELF" | "Multiboot ELF" => true,
                _ => false,
            };
            assert!(loaded.is_err() || !tells, "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn lies_in_headers_never_panic() {
    let memory = guest_memory();
    for (_, image) in all_kinds() {
        for at in 0..image.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut image = image.clone();
                image[at] = value;
                let _ = load_from(&image, &memory, &request(""));
                let end = image.len().min(at + 8);
                image[at..end].fill(value);
                let _ = load_from(&image, &memory, &request(""));
            }
        }
    }
}
