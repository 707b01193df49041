//! Registers, descriptor tables and page tables of the boot processor.

use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    VmmError,
    error::kvm,
    x86_64::layout::{BOOT_INFO, GDT, PAGE_TABLES, STACK_TOP},
    x86_64::loader::Entry,
};

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 1 << 1;

const PAGE_PRESENT: u64 = 1 << 0;
const PAGE_WRITABLE: u64 = 1 << 1;
const PAGE_LARGE: u64 = 1 << 7;
const PAGE_BYTES: u64 = 4096;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
const ENTRIES: u64 = 512;
const DIRECTORIES: u64 = 4;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, write-back by default.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Selectors of the start-up GDT, which are those of Linux's 64-bit boot protocol.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
/// Segment types (SDM vol. 3A, "Code- and Data-Segment Descriptor Types").
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_TSS: u8 = 0xb;

/// Writes the identity mapping of the first 4 GiB by 2 MiB pages.
pub(crate) fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), VmmError> {
    let pdpt = PAGE_TABLES + PAGE_BYTES;
    let directories = pdpt + PAGE_BYTES;
    let table = PAGE_PRESENT | PAGE_WRITABLE;
    put(memory, PAGE_TABLES, pdpt | table)?;
    for directory in 0..DIRECTORIES {
        put(
            memory,
            pdpt + directory * 8,
            (directories + directory * PAGE_BYTES) | table,
        )?;
    }
    for page in 0..DIRECTORIES * ENTRIES {
        let entry = (page * LARGE_PAGE_BYTES) | table | PAGE_LARGE;
        put(memory, directories + page * 8, entry)?;
    }
    Ok(())
}

/// Sets the boot processor's registers for `entry`, and writes the GDT that they speak of.
pub(crate) fn set_entry(
    vcpu: &VcpuFd,
    memory: &GuestMemoryMmap,
    entry: Entry,
    vcpu_count: u32,
) -> Result<(), VmmError> {
    let mut sregs = vcpu.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
    let mut regs = kvm_regs {
        rflags: RFLAGS,
        ..Default::default()
    };
    match entry {
        Entry::Long { rip } => {
            set_flat_segments(&mut sregs, memory, true)?;
            sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
            sregs.efer = EFER_LME | EFER_LMA | EFER_NXE;
            regs.rip = rip;
            regs.rsi = BOOT_INFO;
            regs.rdi = vcpu_count.into();
            regs.rsp = STACK_TOP;
        }
        Entry::Protected { eip, eax, ebx, esi } => {
            set_flat_segments(&mut sregs, memory, false)?;
            sregs.cr0 = CR0_PE | CR0_ET;
            regs.rip = eip.into();
            regs.rax = eax.into();
            regs.rbx = ebx.into();
            regs.rsi = esi.into();
            regs.rsp = STACK_TOP;
        }
        Entry::Real { cs, ip } => {
            sregs.cs.selector = cs;
            sregs.cs.base = u64::from(cs) << 4;
            regs.rip = ip.into();
            regs.rsp = 0x7c00;
            // The BIOS's number of the first hard disk.
            regs.rdx = 0x80;
        }
    }
    vcpu.set_sregs(&sregs).map_err(kvm("KVM_SET_SREGS"))?;
    vcpu.set_regs(&regs).map_err(kvm("KVM_SET_REGS"))
}

/// Writes a GDT with flat segments and loads all segment registers from it.
fn set_flat_segments(
    sregs: &mut kvm_sregs,
    memory: &GuestMemoryMmap,
    long: bool,
) -> Result<(), VmmError> {
    let code = flat_segment(CODE, TYPE_CODE, long);
    let data = flat_segment(DATA, TYPE_DATA, false);
    for (selector, value) in [
        (0, 0),
        (8, 0),
        (CODE, descriptor(&code)),
        (DATA, descriptor(&data)),
    ] {
        put(memory, GDT + u64::from(selector), value)?;
    }
    sregs.gdt = kvm_dtable {
        base: GDT,
        limit: DATA + 7,
        ..Default::default()
    };
    sregs.idt = kvm_dtable {
        base: 0,
        limit: 0,
        ..Default::default()
    };
    sregs.cs = code;
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    // VM entry on Intel processors wants a busy TSS, even if the guest never uses it.
    sregs.tr = kvm_segment {
        limit: 0x67,
        type_: TYPE_TSS,
        present: 1,
        ..Default::default()
    };
    Ok(())
}

/// Returns a segment over all addresses.
fn flat_segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        l: u8::from(long),
        db: u8::from(!long),
        ..Default::default()
    }
}

/// Returns the descriptor of a flat segment (SDM vol. 3A, "Segment Descriptors").
fn descriptor(segment: &kvm_segment) -> u64 {
    const LIMIT: u64 = 0x000f_0000_0000_ffff;
    const CODE_OR_DATA: u64 = 1 << 44;
    const PRESENT: u64 = 1 << 47;
    const GRANULARITY: u64 = 1 << 55;
    LIMIT
        | CODE_OR_DATA
        | PRESENT
        | GRANULARITY
        | u64::from(segment.type_) << 40
        | u64::from(segment.l) << 53
        | u64::from(segment.db) << 54
}

/// Sets the model-specific registers that firmware would have set.
pub(crate) fn set_msrs(vcpu: &VcpuFd) -> Result<(), VmmError> {
    let entries = [
        (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
        (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ];
    // One by one: a KVM that does not know one of them should still take the other, and a guest can
    // do without both.
    for (index, data) in entries {
        let entry = kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        if let Ok(msrs) = Msrs::from_entries(&[entry]) {
            vcpu.set_msrs(&msrs).map_err(kvm("KVM_SET_MSRS"))?;
        }
    }
    Ok(())
}

fn put(memory: &GuestMemoryMmap, address: u64, value: u64) -> Result<(), VmmError> {
    memory
        .write_obj(value, GuestAddress(address))
        .map_err(|_| VmmError::NoRoom("page tables and segment descriptors"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_linux_boot_protocol() {
        assert_eq!(
            descriptor(&flat_segment(CODE, TYPE_CODE, true)),
            0x00af_9b00_0000_ffff
        );
        assert_eq!(
            descriptor(&flat_segment(CODE, TYPE_CODE, false)),
            0x00cf_9b00_0000_ffff
        );
        assert_eq!(
            descriptor(&flat_segment(DATA, TYPE_DATA, false)),
            0x00cf_9300_0000_ffff
        );
    }

    #[test]
    fn page_tables_map_every_address_below_4_gib_to_itself() {
        let memory = crate::memory::allocate(4 << 20).expect("guest memory");
        write_page_tables(&memory).expect("room");
        let read = |address: u64| {
            memory
                .read_obj::<u64>(GuestAddress(address))
                .expect("in memory")
        };
        for address in [0_u64, 0x20_0000, 0x1234_5678, 0xfee0_0000, 0xffff_ffff] {
            let pml4e = read(PAGE_TABLES);
            let pdpte = read((pml4e & !0xfff) + (address >> 30) * 8);
            let pde = read((pdpte & !0xfff) + (address >> 21 & 511) * 8);
            assert_eq!(pde & 0xfff, 0x83);
            assert_eq!((pde & !0xfff) + (address & 0x1f_ffff), address);
        }
    }
}
