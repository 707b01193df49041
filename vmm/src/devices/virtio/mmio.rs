//! The MMIO transport of a block device (Virtual I/O Device (VIRTIO) Version 1.2, "Virtio Over MMIO").

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};
use virtio_bindings::{
    virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO},
    virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1},
    virtio_ids::VIRTIO_ID_BLOCK,
    virtio_mmio::{
        VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
        VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
        VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
        VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY,
        VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY,
        VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
        VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
    },
};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::event::Event;

use super::{
    DiskError,
    disk::Disk,
    worker::{Shared, Worker},
};

/// "virt" in little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The transport of virtio 1.0 and later.
const VERSION: u32 = 2;
/// "TRAP" in little-endian.
const VENDOR: u32 = 0x5041_5254;
/// Entries of the queue.
const QUEUE_ENTRIES: u16 = 256;

/// A block device.
#[derive(Debug)]
pub(crate) struct VirtioMmio {
    registers: Mutex<Registers>,
    shared: Arc<Shared>,
    /// Last, so that it ends before what it uses is gone.
    _worker: Worker,
}

/// What the driver has written.
#[derive(Debug, Default)]
struct Registers {
    status: u32,
    queue_select: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
}

impl VirtioMmio {
    /// Makes the device with its registers at `base` and its interrupt at `gsi`, and starts its
    /// thread.
    pub(crate) fn new(
        vm: &VmFd,
        base: u64,
        gsi: u32,
        memory: GuestMemoryMmap,
        disk: Disk,
    ) -> Result<Self, DiskError> {
        let device = Self::without_kvm(memory, disk)?;
        let notify = IoEventAddress::Mmio(base + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
        vm.register_ioevent(&device.shared.kick, &notify, 0_u32)
            .map_err(|error| DiskError::Kvm("KVM_IOEVENTFD", error))?;
        vm.register_irqfd(&device.shared.interrupt, gsi)
            .map_err(|error| DiskError::Kvm("KVM_IRQFD", error))?;
        Ok(device)
    }

    /// Makes the device with events that nobody else knows.
    pub(super) fn without_kvm(memory: GuestMemoryMmap, disk: Disk) -> Result<Self, DiskError> {
        let host = |error| DiskError::Host("an event descriptor or a thread", error);
        let event = || EventFd::new(EFD_NONBLOCK).map_err(host);
        let queue = Queue::new(QUEUE_ENTRIES)
            .map_err(|_| DiskError::Host("a queue", std::io::ErrorKind::InvalidInput.into()))?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            interrupt_status: AtomicU32::new(0),
            interrupt: event()?,
            kick: event()?,
            stop: Event::new().map_err(host)?,
            memory,
            disk,
        });
        let worker = Worker::start(Arc::clone(&shared)).map_err(host)?;
        Ok(Self {
            registers: Mutex::default(),
            shared,
            _worker: worker,
        })
    }

    /// Reads from the device's window. Registers are read by aligned 32-bit accesses; the
    /// configuration space by any.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            let config = self.shared.disk.sectors().to_le_bytes();
            let from = usize::try_from(at)
                .ok()
                .and_then(|at| config.get(at..))
                .unwrap_or_default();
            for (to, from) in data.iter_mut().zip(from) {
                *to = *from;
            }
        } else if data.len() == 4 {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    /// Writes to the device's window. The configuration space is not writable.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Ok(value)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            self.set_register(offset, u32::from_le_bytes(value));
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let registers = self.registers();
        match u32::try_from(offset).unwrap_or(u32::MAX) {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => VIRTIO_ID_BLOCK,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.features(), registers.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX if registers.queue_select == 0 => QUEUE_ENTRIES.into(),
            VIRTIO_MMIO_QUEUE_READY if registers.queue_select == 0 => self.queue().ready().into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.shared.interrupt_status.load(Ordering::SeqCst),
            VIRTIO_MMIO_STATUS => registers.status,
            VIRTIO_MMIO_CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn set_register(&self, offset: u32, value: u32) {
        let mut registers = self.registers();
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => match registers.driver_features_select {
                0 => {
                    registers.driver_features =
                        registers.driver_features >> 32 << 32 | u64::from(value)
                }
                1 => {
                    let low = registers.driver_features & u64::from(u32::MAX);
                    registers.driver_features = u64::from(value) << 32 | low;
                }
                _ => {}
            },
            VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            // KVM turns this write into an event without telling us, where it can.
            VIRTIO_MMIO_QUEUE_NOTIFY => drop(self.shared.kick.write(1)),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.shared
                    .interrupt_status
                    .fetch_and(!value, Ordering::SeqCst);
            }
            VIRTIO_MMIO_STATUS => self.set_status(&mut registers, value),
            _ if registers.queue_select == 0 => self.set_queue_register(offset, value),
            _ => {}
        }
    }

    /// Registers of the selected queue, of which there is one.
    fn set_queue_register(&self, offset: u32, value: u32) {
        let mut queue = self.queue();
        if queue.ready() && offset != VIRTIO_MMIO_QUEUE_READY {
            return;
        }
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_READY => {
                queue.set_ready(value == 1);
                if value == 1 && !queue.is_valid(&self.shared.memory) {
                    queue.set_ready(false);
                }
            }
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// Takes a new device status; 0 resets the device, and returns when no request is being served.
    fn set_status(&self, registers: &mut Registers, value: u32) {
        if value == 0 {
            self.queue().reset();
            self.shared.interrupt_status.store(0, Ordering::SeqCst);
            *registers = Registers::default();
            return;
        }
        let mut value = value;
        let accepted = registers.driver_features & !self.features() == 0
            && registers.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        if value & VIRTIO_CONFIG_S_FEATURES_OK != 0 && !accepted {
            value &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        registers.status = value;
        if value & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            // Requests may be waiting already.
            let _ = self.shared.kick.write(1);
        }
    }

    fn features(&self) -> u64 {
        let read_only = u64::from(self.shared.disk.is_read_only()) << VIRTIO_BLK_F_RO;
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_BLK_F_FLUSH | read_only
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the selected 32 bits of a feature word.
fn half(features: u64, select: u32) -> u32 {
    let half = match select {
        0 => features,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(half & u64::from(u32::MAX)).unwrap_or(0)
}
