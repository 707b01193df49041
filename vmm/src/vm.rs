//! A virtual machine, ready to run.

use std::{
    fs::File,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    Devices, Image, VmConfig, VmmError,
    config::MAX_VCPUS,
    console::{self, ConsoleThread, Output},
    devices::{Disk, EndEvents, SerialPort, VirtioMmio},
    error::kvm,
    event::Event,
    host::{
        self,
        layout::{MAX_DISKS, SERIAL_GSI, VIRTIO_GSI, VIRTIO_MMIO, VIRTIO_MMIO_BYTES},
    },
    loader::{self, ImageKind, Initrd, LoadError},
    memory,
};

/// The version of the KVM API, which has not changed since 2007.
const KVM_API_VERSION: i32 = 12;

/// A virtual machine with its image loaded and its devices at work, whose vCPUs have not run yet.
///
/// The boot processor, vCPU 0, is at the image's entry point; all others wait for a start-up interrupt.
/// The owner runs the vCPUs, hands their port and MMIO accesses to [`devices`](Self::devices), and
/// drops the `Vm` after the last of them has ended: that writes the console's last output, gives the
/// terminal back and waits for the disks.
#[derive(Debug)]
pub struct Vm {
    vcpus: Vec<VcpuFd>,
    #[expect(dead_code, reason = "it has to live as long as the machine")]
    interrupt_controller: host::InterruptController,
    /// Last output goes out before the rest is torn down.
    console: ConsoleThread,
    devices: Arc<Devices>,
    end: EndEvents,
    image_kind: ImageKind,
    system: Kvm,
    /// Before the memory that it refers to.
    vm: Arc<VmFd>,
    memory: GuestMemoryMmap,
}

impl Vm {
    /// Makes the machine and loads its image.
    ///
    /// # Errors
    /// As [`VmmError`] says; nothing is left behind then.
    pub fn new(config: &VmConfig) -> Result<Self, VmmError> {
        let system = open_kvm()?;
        check_counts(config, &system)?;
        let memory = memory::allocate(config.memory_bytes)?;
        let vm = host::make_vm(&system, &memory)?;
        let (vcpus, interrupt_controller) = host::make_vcpus(&system, &vm, config.vcpu_count)?;
        let initrd = config
            .initrd
            .as_deref()
            .map(|path| load_initrd(path, &memory))
            .transpose()?;
        let image_kind = host::boot(config, &vcpus, &interrupt_controller, &memory, initrd)?;

        let end = EndEvents::new()?;
        let disks = attach_disks(&config.disks, &vm, &memory)?;
        let (serial, console) = attach_console(config, &vm, &end)?;
        let devices = Arc::new(Devices::new(serial, disks, end.clone()));
        Ok(Self {
            vcpus,
            interrupt_controller,
            console,
            devices,
            end,
            image_kind,
            system,
            vm,
            memory,
        })
    }

    /// Takes the vCPUs, in the order of their numbers; a second call gives none.
    pub fn take_vcpus(&mut self) -> Vec<VcpuFd> {
        core::mem::take(&mut self.vcpus)
    }

    /// Returns the descriptor of `/dev/kvm` that the machine was made with.
    #[must_use]
    pub const fn system(&self) -> &Kvm {
        &self.system
    }

    /// Returns the machine's KVM descriptor. Its memory lives as long as the `Vm`.
    #[must_use]
    pub const fn vm_fd(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Returns the guest's memory; a clone refers to the same memory.
    #[must_use]
    pub const fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Returns the devices.
    #[must_use]
    pub const fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// Returns what tells that a device or the console has ended the guest. A triple fault is a VM
    /// exit and not told here.
    #[must_use]
    pub const fn end_events(&self) -> &EndEvents {
        &self.end
    }

    /// Returns what the image was taken for.
    #[must_use]
    pub const fn image_kind(&self) -> ImageKind {
        self.image_kind
    }

    /// Returns the name of the console's pseudo-terminal, if it has one.
    #[must_use]
    pub fn console_path(&self) -> Option<&Path> {
        self.console.path().map(PathBuf::as_path)
    }
}

/// Opens `/dev/kvm` and checks what cannot be done without.
fn open_kvm() -> Result<Kvm, VmmError> {
    let system = Kvm::new().map_err(|error| match std::io::Error::from(error).kind() {
        std::io::ErrorKind::NotFound => VmmError::NoKvm,
        std::io::ErrorKind::PermissionDenied => VmmError::KvmPermission,
        _ => VmmError::Kvm {
            call: "open of /dev/kvm",
            source: error,
        },
    })?;
    if system.get_api_version() != KVM_API_VERSION {
        return Err(VmmError::KvmLacks("version 12 of its interface"));
    }
    match host::NEEDED
        .into_iter()
        .find(|(capability, _)| !system.check_extension(*capability))
    {
        Some((_, what)) => Err(VmmError::KvmLacks(what)),
        None => Ok(system),
    }
}

/// Checks the numbers of vCPUs and disks.
fn check_counts(config: &VmConfig, system: &Kvm) -> Result<(), VmmError> {
    let most = u32::try_from(system.get_max_vcpus())
        .unwrap_or(u32::MAX)
        .min(MAX_VCPUS);
    if config.vcpu_count == 0 || config.vcpu_count > most {
        return Err(VmmError::VcpuCount {
            asked: config.vcpu_count,
            most,
        });
    }
    if config.disks.len() > MAX_DISKS {
        return Err(VmmError::DiskCount(config.disks.len()));
    }
    Ok(())
}

fn load_initrd(path: &Path, memory: &GuestMemoryMmap) -> Result<Initrd, VmmError> {
    let loaded = File::open(path)
        .map_err(LoadError::from)
        .and_then(|mut file| loader::load_initrd(&mut file, memory));
    loaded.map_err(|source| VmmError::Initrd {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn load_kernel(
    config: &VmConfig,
    memory: &GuestMemoryMmap,
    request: &host::Request<'_>,
) -> Result<(ImageKind, host::Entry), VmmError> {
    let (name, loaded) = match &config.kernel {
        Image::File(path) => {
            let loaded = open_image(path)
                .and_then(|mut file| host::load(&mut file, config.format, memory, request));
            (path.clone(), loaded)
        }
        Image::Bytes(name, bytes) => {
            let loaded = host::load(&mut Cursor::new(*bytes), config.format, memory, request);
            (PathBuf::from(name), loaded)
        }
    };
    loaded.map_err(|source| VmmError::Kernel { name, source })
}

/// Opens an image, which must be a regular file: others cannot be read at any place.
fn open_image(path: &Path) -> Result<File, LoadError> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(LoadError::Unsupported(
            "reading at any place (it is no regular file)",
        ));
    }
    Ok(file)
}

fn attach_disks(
    paths: &[PathBuf],
    vm: &VmFd,
    memory: &GuestMemoryMmap,
) -> Result<Vec<VirtioMmio>, VmmError> {
    let attach = |(number, path): (u32, &PathBuf)| {
        let base = VIRTIO_MMIO + u64::from(number) * VIRTIO_MMIO_BYTES;
        Disk::open(path)
            .and_then(|disk| VirtioMmio::new(vm, base, VIRTIO_GSI + number, memory.clone(), disk))
            .map_err(|source| VmmError::Disk {
                path: path.clone(),
                source,
            })
    };
    (0..).zip(paths).map(attach).collect()
}

fn attach_console(
    config: &VmConfig,
    vm: &VmFd,
    end: &EndEvents,
) -> Result<(SerialPort, ConsoleThread), VmmError> {
    let interrupt = EventFd::new(EFD_NONBLOCK)?;
    vm.register_irqfd(&interrupt, SERIAL_GSI)
        .map_err(kvm("KVM_IRQFD"))?;
    let input_taken = Event::new()?;
    let output = Output::new()?;
    let serial = SerialPort::new(interrupt, input_taken.try_clone()?, output.clone());
    let ends = console::open(&config.console)?;
    let console = ConsoleThread::start(ends, serial.clone(), input_taken, output, end.clone())?;
    Ok((serial, console))
}
