//! The block device as a driver sees it: registers, and requests in a queue in guest memory.

use core::time::Duration;
use std::{fs, path::PathBuf, time::Instant};

use tempfile::TempDir;
use virtio_bindings::{
    virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT},
    virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Disk, DiskError, VirtioMmio, disk::SECTOR_BYTES};
use crate::memory;

const DESCRIPTORS: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x1_1000;
const USED: u64 = 0x1_2000;
const HEAD: u64 = 0x1_3000;
const STATUS: u64 = 0x1_3100;
const DATA: u64 = 0x1_4000;
const SECTORS: u64 = 8;

/// A disk with a driver.
struct Driver {
    device: VirtioMmio,
    memory: GuestMemoryMmap,
    requests: u16,
    path: PathBuf,
    _folder: TempDir,
}

impl Driver {
    /// Attaches a disk of which each sector holds its own number, and sets the device up.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk.img");
        let bytes: Vec<u8> = (0..SECTORS * SECTOR_BYTES)
            .map(|at| u8::try_from(at / SECTOR_BYTES).expect("eight sectors"))
            .collect();
        fs::write(&path, bytes).expect("a writable folder");
        let memory = memory::allocate(4 << 20).expect("guest memory");
        let disk = Disk::open(&path).expect("a good file");
        let device = VirtioMmio::without_kvm(memory.clone(), disk).expect("events and a thread");
        let driver = Self {
            device,
            memory,
            requests: 0,
            path,
            _folder: folder,
        };
        driver.set_up();
        driver
    }

    fn read(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, register: u64, value: u64) {
        let value = u32::try_from(value).expect("a register's value");
        self.device.write(register, &value.to_le_bytes());
    }

    fn set_up(&self) {
        self.write(0x70, 1 | 2);
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x70, 1 | 2 | 8);
        assert_eq!(self.read(0x70), 1 | 2 | 8, "the features are accepted");
        self.write(0x30, 0);
        self.write(0x38, 16);
        for (register, address) in [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)] {
            self.write(register, address);
            self.write(register + 4, 0);
        }
        self.write(0x44, 1);
        assert_eq!(self.read(0x44), 1, "the queue is good");
        self.write(0x70, 1 | 2 | 8 | 4);
    }

    fn put_descriptor(&self, index: u64, address: u64, len: u32, flags: u32, next: u16) {
        let at = GuestAddress(DESCRIPTORS + index * 16);
        let flags = u16::try_from(flags).expect("descriptor flags");
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&bytes, at).expect("in memory");
    }

    /// Makes the chain that starts at descriptor 0 available and waits until it is used.
    fn submit(&mut self) {
        let slot = u64::from(self.requests % 16);
        self.memory
            .write_obj(0_u16, GuestAddress(AVAILABLE + 4 + slot * 2))
            .expect("in memory");
        self.requests += 1;
        self.memory
            .write_obj(self.requests, GuestAddress(AVAILABLE + 2))
            .expect("in memory");
        self.write(0x50, 0);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.memory.read_obj::<u16>(GuestAddress(USED + 2)).ok() != Some(self.requests) {
            assert!(Instant::now() < deadline, "the device does not answer");
            std::thread::yield_now();
        }
    }

    /// Carries out a request with `len` bytes at `DATA` and returns its status.
    fn request(&mut self, kind: u32, sector: u64, len: u32) -> u8 {
        let mut head = kind.to_le_bytes().to_vec();
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&head, GuestAddress(HEAD))
            .expect("in memory");
        self.memory
            .write_obj(0xee_u8, GuestAddress(STATUS))
            .expect("in memory");
        let writes = if kind == VIRTIO_BLK_T_OUT {
            0
        } else {
            VRING_DESC_F_WRITE
        };
        self.put_descriptor(0, HEAD, 16, VRING_DESC_F_NEXT, 1);
        self.put_descriptor(1, DATA, len, VRING_DESC_F_NEXT | writes, 2);
        self.put_descriptor(2, STATUS, 1, VRING_DESC_F_WRITE, 0);
        self.submit();
        self.memory
            .read_obj(GuestAddress(STATUS))
            .expect("in memory")
    }

    fn data(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(DATA))
            .expect("in memory");
        bytes
    }
}

#[test]
fn the_device_says_what_it_is() {
    let driver = Driver::new();
    assert_eq!(driver.read(0x00), u32::from_le_bytes(*b"virt"));
    assert_eq!((driver.read(0x04), driver.read(0x08)), (2, 2));
    let mut capacity = [0; 8];
    driver.device.read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    let mut past = [0xaa; 8];
    driver.device.read(0x1000 - 8, &mut past);
    assert_eq!(past, [0; 8]);
}

#[test]
fn a_read_gives_the_files_sectors_and_raises_the_interrupt() {
    let mut driver = Driver::new();
    assert_eq!(driver.request(VIRTIO_BLK_T_IN, 3, 1024), 0);
    let data = driver.data(1024);
    assert!(data[..512].iter().all(|byte| *byte == 3));
    assert!(data[512..].iter().all(|byte| *byte == 4));
    let deadline = Instant::now() + Duration::from_secs(10);
    while driver.read(0x60) & 1 == 0 {
        assert!(Instant::now() < deadline, "no interrupt");
    }
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn a_write_reaches_the_file() {
    let mut driver = Driver::new();
    driver
        .memory
        .write_slice(&[0x5a; 512], GuestAddress(DATA))
        .expect("in memory");
    assert_eq!(driver.request(VIRTIO_BLK_T_OUT, 2, 512), 0);
    assert_eq!(driver.request(VIRTIO_BLK_T_FLUSH, 0, 0), 0);
    let bytes = fs::read(&driver.path).expect("the disk's file");
    assert!(bytes[1024..1536].iter().all(|byte| *byte == 0x5a));
    assert!(bytes[1536..2048].iter().all(|byte| *byte == 3));
}

#[test]
fn the_identification_is_the_files_name() {
    let mut driver = Driver::new();
    assert_eq!(driver.request(VIRTIO_BLK_T_GET_ID, 0, 20), 0);
    assert_eq!(driver.data(9), b"disk.img\0");
}

#[test]
fn requests_past_the_end_fail_and_change_nothing() {
    let mut driver = Driver::new();
    let before = fs::read(&driver.path).expect("the disk's file");
    for sector in [SECTORS, SECTORS - 1, u64::MAX, u64::MAX / 512] {
        assert_eq!(
            driver.request(VIRTIO_BLK_T_OUT, sector, 1024),
            1,
            "sector {sector}"
        );
        assert_eq!(
            driver.request(VIRTIO_BLK_T_IN, sector, 1024),
            1,
            "sector {sector}"
        );
    }
    assert_eq!(driver.request(99, 0, 512), 2, "an unknown request");
    assert_eq!(fs::read(&driver.path).expect("the disk's file"), before);
}

#[test]
fn chains_that_make_no_sense_are_given_back() {
    let mut driver = Driver::new();
    // No room for a status; a descriptor outside memory; a chain that is a circle.
    driver.put_descriptor(0, HEAD, 16, 0, 0);
    driver.submit();
    driver.put_descriptor(0, u64::MAX - 100, 16, VRING_DESC_F_NEXT, 1);
    driver.submit();
    driver.put_descriptor(0, HEAD, 16, VRING_DESC_F_NEXT, 1);
    driver.put_descriptor(1, DATA, u32::MAX, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
    driver.submit();
    assert_eq!(
        driver.request(VIRTIO_BLK_T_IN, 0, 512),
        0,
        "and the device goes on"
    );
}

#[test]
fn a_queue_outside_memory_is_not_taken() {
    let driver = Driver::new();
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x70), 0);
    driver.write(0x38, 16);
    driver.write(0x80, 0xffff_f000);
    driver.write(0x84, 0xffff_ffff);
    driver.write(0x44, 1);
    assert_eq!(driver.read(0x44), 0);
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let driver = Driver::new();
    driver.write(0x70, 0);
    driver.write(0x24, 0);
    driver.write(0x20, 1 << 30);
    driver.write(0x70, 1 | 2 | 8);
    assert_eq!(driver.read(0x70) & 8, 0);
}

#[test]
fn odd_accesses_never_panic() {
    let driver = Driver::new();
    for offset in 0..0x120 {
        for len in 1..=8 {
            let mut bytes = vec![0; len];
            driver.device.read(offset, &mut bytes);
            driver.device.write(offset, &vec![0xff; len]);
        }
    }
}

#[test]
fn a_disk_in_use_is_refused() {
    let driver = Driver::new();
    let error = Disk::open(&driver.path).expect_err("the driver has it");
    assert!(matches!(error, DiskError::InUse), "{error}");
}

#[test]
fn what_is_no_disk_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let small = folder.path().join("small");
    fs::write(&small, "x").expect("a writable folder");
    assert!(matches!(Disk::open(&small), Err(DiskError::TooSmall(1))));
    assert!(Disk::open(folder.path()).is_err());
    assert!(matches!(
        Disk::open("/dev/null".as_ref()),
        Err(DiskError::NotADisk)
    ));
    assert!(matches!(
        Disk::open(&folder.path().join("none")),
        Err(DiskError::Io(_))
    ));
}
