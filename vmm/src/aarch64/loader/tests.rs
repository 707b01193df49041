//! Images of each kind, whole, cut short and with lies in their headers.

use std::io::Cursor;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Entry, ImageKind, LoadError, Request, load};
use crate::{
    KernelFormat,
    aarch64::layout::{RAM, device_tree},
    loader::Initrd,
    memory,
};

const MEMORY_BYTES: u64 = 16 << 20;

fn guest_memory() -> GuestMemoryMmap {
    memory::allocate(MEMORY_BYTES).expect("16 MiB of address space")
}

/// An Image of 4 KiB that asks for `image_size` bytes.
fn image(text_offset: u64, image_size: u64) -> Vec<u8> {
    let mut image = vec![0x5a; 4096];
    image[8..16].copy_from_slice(&text_offset.to_le_bytes());
    image[16..24].copy_from_slice(&image_size.to_le_bytes());
    image[24..32].copy_from_slice(&0_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn load_from(
    bytes: &[u8],
    format: KernelFormat,
    initrd: Option<Initrd>,
) -> Result<(ImageKind, Entry, GuestMemoryMmap), LoadError> {
    let memory = guest_memory();
    let request = Request {
        cmdline: "quiet",
        initrd,
    };
    let (kind, entry) = load(&mut Cursor::new(bytes), format, &memory, &request)?;
    Ok((kind, entry, memory))
}

#[test]
fn an_image_is_loaded_at_its_offset_and_gets_a_console() {
    let bytes = image(0x8_0000, 0x10_0000);
    let (kind, entry, memory) =
        load_from(&bytes, KernelFormat::Detect, None).expect("a good image");
    assert_eq!(kind, ImageKind::LinuxImage);
    assert_eq!(entry.pc, RAM + 0x8_0000);
    assert_eq!(entry.cmdline, "console=ttyS0 quiet");
    let mut read = vec![0; bytes.len()];
    memory
        .read_slice(&mut read, GuestAddress(entry.pc))
        .expect("in memory");
    assert_eq!(read, bytes);
}

#[test]
fn an_image_that_needs_more_than_there_is_is_refused() {
    let too_big = image(0, MEMORY_BYTES);
    let refused = load_from(&too_big, KernelFormat::Detect, None);
    assert!(matches!(refused, Err(LoadError::OutsideMemory { .. })));
    let initrd = Initrd {
        start: RAM + 0x1000,
        len_bytes: 0x1000,
    };
    let on_initrd = load_from(&image(0, 0x2000), KernelFormat::Detect, Some(initrd));
    assert!(matches!(on_initrd, Err(LoadError::OutsideMemory { .. })));
}

#[test]
fn what_is_no_kernel_is_said_to_be_none() {
    for bytes in [&b"#!/bin/sh"[..], &[], &image(0, 0)[..40]] {
        let refused = load_from(bytes, KernelFormat::Detect, None);
        assert!(matches!(refused, Err(LoadError::NotAKernel(_))));
    }
    let mut big_endian = image(0, 0x1000);
    big_endian[24] = 1;
    assert!(matches!(
        load_from(&big_endian, KernelFormat::Detect, None),
        Err(LoadError::Unsupported(_))
    ));
}

#[test]
fn flat_code_is_entered_where_it_was_put() {
    let (kind, entry, _) =
        load_from(b"code", KernelFormat::Flat(RAM + 0x1000), None).expect("free memory");
    assert_eq!((kind, entry.pc), (ImageKind::Flat, RAM + 0x1000));
    assert_eq!(entry.cmdline, "quiet");
    let tree = device_tree(RAM + MEMORY_BYTES);
    for (address, bytes) in [
        (0, &b"code"[..]),
        (tree, b"code"),
        (RAM + 2, b"code"),
        (RAM, b""),
    ] {
        assert!(load_from(bytes, KernelFormat::Flat(address), None).is_err());
    }
}
