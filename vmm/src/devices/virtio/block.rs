//! Requests of a virtio block device (Virtual I/O Device (VIRTIO) Version 1.2, "Block Device").

use std::io::{self, Read, Write};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::{DescriptorChain, Queue, QueueT, Reader, Writer};
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::disk::Disk;

/// Bytes moved between file and guest at a time.
const CHUNK: usize = 64 << 10;
/// The most chains taken per round; the queue has no more entries.
const MAX_CHAINS: usize = 256;

/// The head of a request: `struct virtio_blk_req` without data and status.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct RequestHead {
    /// What to do.
    pub(super) kind: u32,
    /// Unused.
    pub(super) reserved: u32,
    /// First sector.
    pub(super) sector: u64,
}

const _: () = assert!(size_of::<RequestHead>() == 16);

#[expect(unsafe_code, reason = "the layout is the device's")]
// SAFETY: the structure is `repr(C)`, has no padding, and any bytes are a valid value of it.
unsafe impl ByteValued for RequestHead {}

/// Serves all requests in the queue and says whether the guest wants an interrupt for that.
///
/// A chain that makes no sense is given back with nothing written; a ring that makes no sense ends
/// the round.
pub(super) fn serve(queue: &mut Queue, memory: &GuestMemoryMmap, disk: &Disk) -> bool {
    for _ in 0..MAX_CHAINS {
        let Some(chain) = queue.pop_descriptor_chain(memory) else {
            break;
        };
        let head = chain.head_index();
        let written = serve_chain(chain, memory, disk).unwrap_or(0);
        if queue.add_used(memory, head, written).is_err() {
            break;
        }
    }
    queue.needs_notification(memory).unwrap_or(true)
}

/// Serves one request and returns how many bytes of guest memory were written, or `None` if there
/// is not even room for a status.
fn serve_chain(
    chain: DescriptorChain<&GuestMemoryMmap>,
    memory: &GuestMemoryMmap,
    disk: &Disk,
) -> Option<u32> {
    let mut reader: Reader<'_> = chain.clone().reader(memory).ok()?;
    let mut data: Writer<'_> = chain.writer(memory).ok()?;
    let mut status = data.split_at(data.available_bytes().checked_sub(1)?).ok()?;
    let head = reader.read_obj::<RequestHead>().ok()?;
    let code = match head.kind {
        VIRTIO_BLK_T_IN => done(read(&mut data, head.sector, disk)),
        VIRTIO_BLK_T_OUT => done(write(&mut reader, head.sector, disk)),
        VIRTIO_BLK_T_FLUSH => done(disk.flush()),
        VIRTIO_BLK_T_GET_ID => done(data.write_all(&disk.id())),
        _ => VIRTIO_BLK_S_UNSUPP,
    };
    status.write_obj(u8::try_from(code).ok()?).ok()?;
    u32::try_from(data.bytes_written() + 1).ok()
}

fn done(result: io::Result<()>) -> u32 {
    if result.is_ok() {
        VIRTIO_BLK_S_OK
    } else {
        VIRTIO_BLK_S_IOERR
    }
}

/// Copies from the disk into the guest's buffers.
fn read(data: &mut Writer<'_>, sector: u64, disk: &Disk) -> io::Result<()> {
    let mut left = data.available_bytes();
    let mut offset = place(disk, sector, left)?;
    let mut buffer = vec![0; left.min(CHUNK)];
    while left > 0 {
        let count = left.min(CHUNK);
        let chunk = buffer.get_mut(..count).ok_or(io::ErrorKind::InvalidInput)?;
        disk.read(chunk, offset)?;
        data.write_all(chunk)?;
        left -= count;
        offset += count as u64;
    }
    Ok(())
}

/// Copies from the guest's buffers to the disk.
fn write(data: &mut Reader<'_>, sector: u64, disk: &Disk) -> io::Result<()> {
    if disk.is_read_only() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut left = data.available_bytes();
    let mut offset = place(disk, sector, left)?;
    let mut buffer = vec![0; left.min(CHUNK)];
    while left > 0 {
        let count = left.min(CHUNK);
        let chunk = buffer.get_mut(..count).ok_or(io::ErrorKind::InvalidInput)?;
        data.read_exact(chunk)?;
        disk.write(chunk, offset)?;
        left -= count;
        offset += count as u64;
    }
    Ok(())
}

/// Returns where on the disk a transfer begins, if it ends on the disk.
fn place(disk: &Disk, sector: u64, len_bytes: usize) -> io::Result<u64> {
    let place = disk.offset(sector, len_bytes as u64);
    place.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
