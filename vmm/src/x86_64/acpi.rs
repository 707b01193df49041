//! The ACPI tables of the machine (ACPI specification 6.5, "ACPI Software Programming Model").
//!
//! They tell a kernel which processors and interrupt controllers there are, that there is no
//! keyboard controller and no CMOS clock (a stock Linux would wait for both), how to power off and
//! reset, and where the serial port and the virtio-mmio devices are. The machine has the PM1 registers
//! of a PC, so that kernels without support for "hardware-reduced" ACPI find what they know.

use acpi_tables::{
    Aml,
    aml::{self, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate},
    facs::FACS,
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    VmmError,
    x86_64::layout::{
        ACPI, ACPI_END, IO_APIC, LOCAL_APIC, PM_TIMER_PORT, PM1_CONTROL_PORT, PM1_EVENT_PORT,
        RESET_PORT, SCI, SERIAL_GSI, SERIAL_PORT, VIRTIO_GSI, VIRTIO_MMIO, VIRTIO_MMIO_BYTES,
    },
};

const OEM: [u8; 6] = *b"TRAPLN";
const OEM_TABLE: [u8; 8] = *b"TRAPLINE";
const OEM_REVISION: u32 = 1;
/// What a write to the reset register must be.
pub(crate) const RESET_VALUE: u8 = 6;
/// `IAPC_BOOT_ARCH`: legacy devices on the LPC bus, no VGA, no CMOS clock, and no 8042.
const BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 2 | 1 << 5;
/// MADT flag: there are two 8259 controllers beside the I/O APIC.
const PCAT_COMPAT: u32 = 1;
/// Interrupt source override flags: active high, level triggered.
const HIGH_LEVEL: u16 = 0b1101;

/// Writes the tables and returns the address of the RSDP.
pub(crate) fn write_tables(
    memory: &GuestMemoryMmap,
    vcpu_count: u32,
    disk_count: usize,
) -> Result<u64, VmmError> {
    let mut place = Place {
        memory,
        next: ACPI + 64,
    };
    let facs = place.put(&bytes(&FACS::new()))?;
    let dsdt = place.put(dsdt(disk_count).as_slice())?;
    let fadt = place.put(&bytes(&fadt(facs, dsdt).finalize()))?;
    let madt = place.put(madt(vcpu_count).as_slice())?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place.put(&bytes(&xsdt))?;
    place.next = ACPI;
    place.put(&bytes(&Rsdp::new(OEM, xsdt)))
}

/// Where the next table goes.
struct Place<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Place<'_> {
    /// Writes a table on the next 64-byte boundary, as the FACS wants it, and returns its address.
    fn put(&mut self, table: &[u8]) -> Result<u64, VmmError> {
        const NO_ROOM: VmmError = VmmError::NoRoom("the ACPI tables");
        let address = self.next;
        let end = address + table.len() as u64;
        if end > ACPI_END {
            return Err(NO_ROOM);
        }
        self.next = end.next_multiple_of(64);
        self.memory
            .write_slice(table, GuestAddress(address))
            .map_err(|_| NO_ROOM)?;
        Ok(address)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(0)
}

/// The fixed description: ports of the power-management and reset registers, what is absent.
fn fadt(facs: u64, dsdt: u64) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_32(low(facs))
        .dsdt_32(low(dsdt))
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(PM_TIMER_PORT).into();
    fadt.pm_tmr_len = 4;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(RESET_PORT),
    );
    fadt.reset_value = RESET_VALUE;
    fadt
}

/// The processors and interrupt controllers ("Multiple APIC Description Table").
fn madt(vcpu_count: u32) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&LOCAL_APIC.to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for index in 0..vcpu_count {
        let id = u8::try_from(index).unwrap_or(u8::MAX);
        madt.append_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    let mut io_apic = vec![1, 12, 0, 0];
    io_apic.extend_from_slice(&IO_APIC.to_le_bytes());
    io_apic.extend_from_slice(&[0; 4]);
    madt.append_slice(&io_apic);
    // The timer of the ISA bus is wired to pin 2, and the SCI is a level interrupt.
    for (source, pin, flags) in [(0, 2, 0), (SCI, SCI, HIGH_LEVEL)] {
        let mut entry = vec![2, 10, 0, source, pin, 0, 0, 0];
        entry.extend_from_slice(&flags.to_le_bytes());
        madt.append_slice(&entry);
    }
    // LINT1 of every local APIC is the non-maskable interrupt.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

/// The devices and the sleep state "off", as AML.
fn dsdt(disk_count: usize) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    let off = Package::new(vec![&aml::ZERO, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    dsdt.append_slice(&bytes(&Name::new("_S5_".into(), &off)));

    let ports = IO::new(SERIAL_PORT, SERIAL_PORT, 0, 8);
    let interrupt = edge_interrupt(SERIAL_GSI);
    let resources = ResourceTemplate::new(vec![&ports, &interrupt]);
    let hardware = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let unique = Name::new("_UID".into(), &aml::ZERO);
    let current = Name::new("_CRS".into(), &resources);
    let serial = aml::Device::new("COM1".into(), vec![&hardware, &unique, &current]);
    let mut devices = bytes(&serial);
    for index in 0..disk_count {
        devices.extend_from_slice(&virtio_mmio(index));
    }
    let devices = Raw(devices);
    dsdt.append_slice(&bytes(&aml::Scope::new("_SB_".into(), vec![&devices])));
    dsdt
}

/// AML that is ready.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn edge_interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

/// The device of disk `index`; `LNRO0005` is how Linux knows a virtio-mmio device.
fn virtio_mmio(index: usize) -> Vec<u8> {
    let number = low(index as u64);
    let base = low(VIRTIO_MMIO) + number * low(VIRTIO_MMIO_BYTES);
    let window = Memory32Fixed::new(true, base, low(VIRTIO_MMIO_BYTES));
    let interrupt = edge_interrupt(VIRTIO_GSI + number);
    let resources = ResourceTemplate::new(vec![&window, &interrupt]);
    let name: Path = format!("VR{index:02}").as_str().into();
    bytes(&aml::Device::new(
        name,
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &number),
            &Name::new("_CCA".into(), &aml::ONE),
            &Name::new("_CRS".into(), &resources),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(memory: &GuestMemoryMmap, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("in memory");
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
    }

    /// Returns a whole table after checking its sum.
    fn table(memory: &GuestMemoryMmap, address: u64, signature: &[u8]) -> Vec<u8> {
        let header = read(memory, address, 36);
        assert_eq!(&header[..4], signature);
        let table = read(memory, address, word(&header, 4) as usize);
        assert_eq!(
            sum(&table),
            0,
            "checksum of {}",
            String::from_utf8_lossy(signature)
        );
        table
    }

    #[test]
    fn every_table_can_be_reached_and_has_a_right_checksum() {
        let memory = crate::memory::allocate(4 << 20).expect("guest memory");
        for (vcpus, disks) in [(1, 0), (2, 1), (254, 8)] {
            let rsdp = write_tables(&memory, vcpus, disks).expect("room");
            let root = read(&memory, rsdp, 36);
            assert_eq!(&root[..8], b"RSD PTR ");
            assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
            let xsdt = table(&memory, word(&root, 24).into(), b"XSDT");
            assert_eq!(xsdt.len(), 36 + 2 * 8);
            let fadt = table(&memory, word(&xsdt, 36).into(), b"FACP");
            let madt = table(&memory, word(&xsdt, 44).into(), b"APIC");
            assert_eq!(madt.len(), 44 + 8 * vcpus as usize + 12 + 20 + 6);
            table(&memory, word(&fadt, 40).into(), b"DSDT");
            assert_eq!(word(&fadt, 36) % 64, 0, "the FACS is aligned");
            assert_eq!(read(&memory, word(&fadt, 36).into(), 4), b"FACS");
        }
    }

    #[test]
    fn the_fixed_description_says_what_is_absent() {
        let fadt = bytes(&fadt(0x1000, 0x2000).finalize());
        assert_eq!(fadt[109] & 0b10_0110, 0b10_0100);
        assert_eq!(word(&fadt, 64), u32::from(PM1_CONTROL_PORT));
        assert_eq!(word(&fadt, 112) >> 20 & 1, 0, "not hardware-reduced");
    }
}
