//! The model guest's physical memory, and how it is laid out.
//!
//! ```text
//! 06000h  kernel's PML4: [0] low half, [511] kernel half      07000h  user's PML4: [0] only
//! 08000h  IDT          09000h  handlers, 32 bytes each
//! 10000h  code, shared by all vCPUs       11000h + n * 1000h  code of vCPU n
//! 20000h  data         28000h  how often each vector was taken, 4 bytes each
//! 30000h + n * 1000h   stack of vCPU n
//! ```
//!
//! The first 256 KiB are mapped one to one, once more at [`ALIAS`], and once more at [`KERNEL`].

use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard};

use trapline_arch::{Gpa, PhysicalMemory};
use trapline_engine::{GuestMemory, MemoryKind, MemoryRegion};

pub(crate) const LEN_BYTES: u64 = 0x4_0000;
pub(crate) const KERNEL_ROOT: u64 = 0x6000;
pub(crate) const USER_ROOT: u64 = 0x7000;
pub(crate) const IDT: u64 = 0x8000;
pub(crate) const HANDLERS: u64 = 0x9000;
pub(crate) const CODE: u64 = 0x1_0000;
pub(crate) const DATA: u64 = 0x2_0000;
pub(crate) const COUNTERS: u64 = 0x2_8000;
pub(crate) const STACKS: u64 = 0x3_0000;
/// Where the memory is mapped a second time.
pub(crate) const ALIAS: u64 = 0x10_0000;
/// Where the memory is mapped for the kernel.
pub(crate) const KERNEL: u64 = 0xffff_ffff_8000_0000;
/// An address in the lower half that is mapped nowhere.
pub(crate) const UNMAPPED: u64 = 0x18_0000;
/// Where the first page table's entry for a page is.
pub(crate) const PAGE_TABLE: u64 = 0x4000;

/// The code of one vCPU.
pub(crate) const fn own_code(vcpu: usize) -> u64 {
    CODE + 0x1000 * (1 + vcpu as u64)
}

pub(crate) const fn handler(vector: u8) -> u64 {
    HANDLERS + 32 * vector as u64
}

pub(crate) struct Ram {
    bytes: Mutex<Vec<u8>>,
}

impl Ram {
    /// Makes memory with page tables and interrupt handlers that count and return.
    pub(crate) fn new() -> Self {
        let ram = Self {
            bytes: Mutex::new(vec![0; LEN_BYTES as usize]),
        };
        ram.map();
        for vector in 0..64 {
            ram.set_handler(vector);
        }
        ram
    }

    fn map(&self) {
        const TABLE: u64 = 0b11;
        let [low, high, directory] = [0x1000, 0x2000, 0x3000];
        self.put_u64(KERNEL_ROOT, low | TABLE);
        self.put_u64(USER_ROOT, low | TABLE);
        self.put_u64(KERNEL_ROOT + 511 * 8, high | TABLE);
        self.put_u64(low, directory | TABLE);
        self.put_u64(high + 510 * 8, directory | TABLE);
        self.put_u64(directory, PAGE_TABLE | TABLE);
        for page in 0..LEN_BYTES / 4096 {
            let entry = page << 12 | TABLE;
            self.put_u64(PAGE_TABLE + 8 * page, entry);
            self.put_u64(PAGE_TABLE + 8 * (page + (ALIAS >> 12)), entry);
        }
    }

    fn set_handler(&self, vector: u8) {
        let address = handler(vector);
        let low = address & 0xffff | 8 << 16 | 0x8e00 << 32 | (address >> 16 & 0xffff) << 48;
        self.put_u64(IDT + 16 * u64::from(vector), low);
        self.put_u64(IDT + 16 * u64::from(vector) + 8, address >> 32);
        let mut code = Code::default();
        code = code.inc(COUNTERS + 4 * u64::from(vector));
        // The handlers of faults skip the instruction that faulted.
        code = match vector {
            0 | 6 => code.add_top(2),
            14 => code.add_rsp(8).add_top(7),
            8 | 10..=13 | 17 => code.add_rsp(8),
            _ => code,
        };
        self.put(address, &code.iret().0);
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        assert_eq!(self.write_physical(Gpa(address), bytes), bytes.len());
    }

    pub(crate) fn put_u64(&self, address: u64, value: u64) {
        self.put(address, &value.to_le_bytes());
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap()
    }

    pub(crate) fn byte(&self, address: u64) -> u8 {
        self.bytes()[address as usize]
    }

    pub(crate) fn u32(&self, address: u64) -> u32 {
        self.read_u32(Gpa(address)).unwrap()
    }

    /// How often a vector's handler ran.
    pub(crate) fn taken(&self, vector: u8) -> u32 {
        self.u32(COUNTERS + 4 * u64::from(vector))
    }

    /// Puts what code and data the scenarios use into a hash.
    pub(crate) fn hash_parts(&self, hasher: &mut impl Hasher) {
        for start in [CODE, CODE + 0x1000, CODE + 0x2000, DATA] {
            self.bytes()[start as usize..][..64].hash(hasher);
        }
    }

    pub(crate) fn copy(&self) -> Vec<u8> {
        self.bytes().clone()
    }
}

impl PhysicalMemory for Ram {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let bytes = self.bytes();
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let source = bytes.get(start..).unwrap_or_default();
        let len = buffer.len().min(source.len());
        buffer[..len].copy_from_slice(&source[..len]);
        len
    }
}

impl GuestMemory for Ram {
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let mut memory = self.bytes();
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let target = memory.get_mut(start..).unwrap_or_default();
        let len = bytes.len().min(target.len());
        target[..len].copy_from_slice(&bytes[..len]);
        len
    }

    fn regions(&self) -> Vec<MemoryRegion> {
        vec![MemoryRegion {
            start: Gpa(0),
            len_bytes: LEN_BYTES,
            kind: MemoryKind::Ram,
        }]
    }
}

/// Machine code of the instructions that the model knows.
#[derive(Clone, Default)]
pub(crate) struct Code(pub(crate) Vec<u8>);

impl Code {
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn absolute(self, opcode: &[u8], address: u64) -> Self {
        let address = u32::try_from(address).unwrap();
        self.raw(opcode).raw(&address.to_le_bytes())
    }
    pub(crate) fn nop(self) -> Self {
        self.raw(&[0x90])
    }
    pub(crate) fn int3(self) -> Self {
        self.raw(&[0xcc])
    }
    pub(crate) fn icebp(self) -> Self {
        self.raw(&[0xf1])
    }
    pub(crate) fn int(self, vector: u8) -> Self {
        self.raw(&[0xcd, vector])
    }
    pub(crate) fn jmp(self, displacement: i8) -> Self {
        self.raw(&[0xeb, displacement.to_le_bytes()[0]])
    }
    /// A jump to itself.
    pub(crate) fn spin(self) -> Self {
        self.jmp(-2)
    }
    /// `inc dword [address]`, 7 bytes.
    pub(crate) fn inc(self, address: u64) -> Self {
        self.absolute(&[0xff, 0x04, 0x25], address)
    }
    /// `mov eax, [address]`, 7 bytes.
    pub(crate) fn load(self, address: u64) -> Self {
        self.absolute(&[0x8b, 0x04, 0x25], address)
    }
    /// `mov dword [address], value`, 11 bytes.
    pub(crate) fn store(self, address: u64, value: u32) -> Self {
        self.absolute(&[0xc7, 0x04, 0x25], address)
            .raw(&value.to_le_bytes())
    }
    /// `out port, al`; see `cpu` for the ports that end the guest.
    pub(crate) fn out(self, port: u8) -> Self {
        self.raw(&[0xe6, port])
    }
    pub(crate) fn hlt(self) -> Self {
        self.raw(&[0xf4])
    }
    pub(crate) fn pushf(self) -> Self {
        self.raw(&[0x9c])
    }
    pub(crate) fn popf(self) -> Self {
        self.raw(&[0x9d])
    }
    pub(crate) fn push_rax(self) -> Self {
        self.raw(&[0x50])
    }
    pub(crate) fn pop_rax(self) -> Self {
        self.raw(&[0x58])
    }
    pub(crate) fn rep_stosb(self) -> Self {
        self.raw(&[0xf3, 0xaa])
    }
    pub(crate) fn mov_ss_ax(self) -> Self {
        self.raw(&[0x8e, 0xd0])
    }
    pub(crate) fn syscall(self) -> Self {
        self.raw(&[0x0f, 0x05])
    }
    pub(crate) fn sysret(self) -> Self {
        self.raw(&[0x48, 0x0f, 0x07])
    }
    pub(crate) fn ud2(self) -> Self {
        self.raw(&[0x0f, 0x0b])
    }
    /// `mov dr, register`, by numbers; 3 bytes.
    pub(crate) fn mov_dr(self, to: u8, from: u8) -> Self {
        self.raw(&[0x0f, 0x23, 0xc0 | to << 3 | from])
    }
    pub(crate) fn div_ecx(self) -> Self {
        self.raw(&[0xf7, 0xf1])
    }
    pub(crate) fn cli(self) -> Self {
        self.raw(&[0xfa])
    }
    pub(crate) fn sti(self) -> Self {
        self.raw(&[0xfb])
    }
    pub(crate) fn iret(self) -> Self {
        self.raw(&[0x48, 0xcf])
    }
    /// `add qword [rsp], bytes`
    pub(crate) fn add_top(self, bytes: u8) -> Self {
        self.raw(&[0x48, 0x83, 0x04, 0x24, bytes])
    }
    pub(crate) fn add_rsp(self, bytes: u8) -> Self {
        self.raw(&[0x48, 0x83, 0xc4, bytes])
    }
}
