//! The thread that serves a disk's requests.

use core::sync::atomic::{AtomicU32, Ordering};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use rustix::event::{PollFd, PollFlags, poll};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{block, disk::Disk};
use crate::event::{Event, borrow};

/// What the transport and the worker share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The request queue. The worker takes it only while the driver says that the device is ready.
    pub(super) queue: Mutex<Queue>,
    /// The interrupt status register.
    pub(super) interrupt_status: AtomicU32,
    /// The interrupt line.
    pub(super) interrupt: EventFd,
    /// The guest has put something in the queue.
    pub(super) kick: EventFd,
    /// The worker is to end.
    pub(super) stop: Event,
    pub(super) memory: GuestMemoryMmap,
    pub(super) disk: Disk,
}

/// The running thread. Dropping it waits for the request that is being served.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let its_own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("disk".into())
            .spawn(move || run(&its_own))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    while let Ok(true) = wait(shared) {
        let _ = shared.kick.read();
        serve(shared);
    }
}

/// Serves what is in the queue, and raises the interrupt if the guest wants it.
pub(super) fn serve(shared: &Shared) {
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.ready() && block::serve(&mut queue, &shared.memory, &shared.disk) {
        shared
            .interrupt_status
            .fetch_or(VIRTIO_MMIO_INT_VRING, Ordering::SeqCst);
        let _ = shared.interrupt.write(1);
    }
}

/// Waits for a kick, which is `true`, or for the end.
fn wait(shared: &Shared) -> io::Result<bool> {
    let mut fds = [
        PollFd::new(&shared.stop, PollFlags::IN),
        PollFd::from_borrowed_fd(borrow(&shared.kick), PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(fds[0].revents().is_empty()),
        Err(error) => Err(error.into()),
    }
}
