//! Steps and debug exceptions of an AArch64 vCPU whose exits are written down.

#![expect(clippy::cast_possible_truncation, reason = "all numbers are small")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use trapline_arch::aarch64::debug::{DebugRegisters, LoadStore, Watchpoint, split_watch};
use trapline_arch::aarch64::registers::{
    CPSR, ELR_EL1, ESR_EL1, FAR_EL1, MDSCR_EL1, PC, SPSR_EL1, VBAR_EL1, X1,
};
use trapline_arch::{Architecture, Gpa, Gva, PhysicalMemory, RegisterFile, RegisterGroup};

use crate::contract::{
    AccessError, Capabilities, Entry, GuestMemory, MemoryRegion, PassFirst, PointAccess,
    ResumeAction, ResumeRequest, StepMethod, StopReason, Vcpu, VmExit, WatchKind,
};
use crate::points::{PointKey, PointKind, PointSet, PointTable};
use crate::session::SessionId;
use crate::vcpu_run::{Next, VcpuRun};

const ARM: Capabilities = Capabilities {
    step: StepMethod::SoftwareStep,
    software_breakpoints: true,
    hardware_breakpoints: 6,
    watchpoints: 4,
    slots_are_shared: false,
    ..Capabilities::NONE
};
const VECTORS: u64 = 0x800;
const EL1H: u64 = 0x5;
const SS: u64 = 1 << 21;
const STEPPED: VmExit = VmExit::Debug {
    step: true,
    slots: 0,
    data_address: None,
};
const NOP: u32 = 0xd503_201f;
/// `str x0, [x1]`.
const STORE: u32 = 0xf900_0020;

/// A vCPU with 4 KiB of memory at 0, without translation.
struct Model {
    file: RegisterFile,
    memory: Vec<AtomicU8>,
}

impl Model {
    /// Creates one at EL1 before the instructions in `code`, which begin at 0x100.
    fn at(code: &[u32]) -> Self {
        let mut file = Architecture::Aarch64.new_register_file();
        file.set_u64(PC, 0x100);
        file.set_u64(CPSR, EL1H);
        file.set_u64(VBAR_EL1, VECTORS);
        let memory = (0..0x1000).map(|_| AtomicU8::new(0)).collect();
        let model = Self { file, memory };
        let words = code.iter().flat_map(|word| word.to_le_bytes());
        model.write_physical(Gpa(0x100), &words.collect::<Vec<u8>>());
        model
    }

    fn pc(&self) -> u64 {
        self.file.u64(PC)
    }
}

impl PhysicalMemory for Model {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let from = self.memory.get(address.0 as usize..).unwrap_or_default();
        for (byte, cell) in buffer.iter_mut().zip(from) {
            *byte = cell.load(Ordering::Relaxed);
        }
        buffer.len().min(from.len())
    }
}

impl GuestMemory for Model {
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let to = self.memory.get(address.0 as usize..).unwrap_or_default();
        for (byte, cell) in bytes.iter().zip(to) {
            cell.store(*byte, Ordering::Relaxed);
        }
        bytes.len().min(to.len())
    }
    fn regions(&self) -> Vec<MemoryRegion> {
        Vec::new()
    }
}

impl Vcpu for Model {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        file.copy_groups(&self.file, group.into());
        Ok(())
    }
    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        self.file.copy_groups(file, group.into());
        Ok(())
    }
    fn memory(&self) -> &dyn GuestMemory {
        self
    }
    fn pending_vector(&mut self) -> Result<Option<u8>, AccessError> {
        Ok(None)
    }
    fn inject_breakpoint(&mut self) -> Result<(), AccessError> {
        unreachable!("delivery to a guest of this architecture is by registers")
    }
    fn inject_debug(&mut self, _: u64) -> Result<(), AccessError> {
        unreachable!("delivery to a guest of this architecture is by registers")
    }
}

/// Returns the points of one client.
fn points(model: &Model, keys: &[(PointKind, u64, u64)]) -> Arc<PointSet> {
    let mut table = PointTable::new(Architecture::Aarch64, ARM);
    for &(kind, address, len) in keys {
        let key = PointKey {
            kind,
            address: Gva(address),
            len,
        };
        let gpa = Some(Gpa(address));
        table.insert(SessionId(1), key, Vec::new(), gpa).unwrap();
    }
    table.publish(model)
}

fn begin(action: ResumeAction, points: Arc<PointSet>) -> VcpuRun {
    let mut run = VcpuRun::new(Architecture::Aarch64, &ARM);
    run.begin(ResumeRequest {
        action,
        pass_first: PassFirst::No,
        points,
    });
    run
}

fn enter(run: &mut VcpuRun, model: &mut Model) -> Entry {
    match run.next(model) {
        Next::Enter(entry) => entry,
        other => panic!("{other:?}"),
    }
}

fn stop(run: &mut VcpuRun, model: &mut Model) -> StopReason {
    match run.next(model) {
        Next::Stop(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_brk_of_the_guests_own_is_taken_to_el1() {
    let brk_7 = 0xd420_00e0;
    let mut model = Model::at(&[brk_7]);
    let mut run = begin(ResumeAction::Continue, Arc::default());
    assert!(!enter(&mut run, &mut model).step);
    run.handle_exit(&mut model, VmExit::BreakpointInstruction);
    enter(&mut run, &mut model);
    assert_eq!(model.pc(), VECTORS + 0x200);
    assert_eq!(model.file.u64(ELR_EL1), 0x100);
    assert_eq!(model.file.u64(ESR_EL1), 0xf200_0007);
    assert_eq!(model.file.u64(SPSR_EL1), EL1H);
}

#[test]
fn a_step_of_a_brk_of_the_guests_own_ends_at_its_handler() {
    let mut model = Model::at(&[0xd420_0000]);
    let mut run = begin(ResumeAction::Step, Arc::default());
    assert!(enter(&mut run, &mut model).step);
    run.handle_exit(&mut model, VmExit::BreakpointInstruction);
    assert_eq!(stop(&mut run, &mut model), StopReason::Step);
    assert_eq!(model.pc(), VECTORS + 0x200);
}

#[test]
fn a_brk_of_the_debuggers_is_a_stop() {
    let mut model = Model::at(&[NOP, NOP]);
    let set = points(&model, &[(PointKind::SoftwareBreakpoint, 0x104, 4)]);
    let mut planted = [0; 4];
    model.read_physical(Gpa(0x104), &mut planted);
    assert_eq!(planted, 0xd420_0000_u32.to_le_bytes());
    let mut run = begin(ResumeAction::Continue, set);
    enter(&mut run, &mut model);
    model.file.set_u64(PC, 0x104);
    run.handle_exit(&mut model, VmExit::BreakpointInstruction);
    let expected = StopReason::SoftwareBreakpoint {
        address: Gva(0x104),
        gpa: Some(Gpa(0x104)),
    };
    assert_eq!(stop(&mut run, &mut model), expected);
}

#[test]
fn the_step_bit_that_an_exception_has_saved_is_cleared() {
    let svc = 0xd400_0001;
    for (mdscr, own, expected) in [(0, 0, 0), (1, SS, SS)] {
        let mut model = Model::at(&[svc]);
        model.file.set_u64(MDSCR_EL1, mdscr);
        model.file.set_u64(CPSR, own);
        let mut run = begin(ResumeAction::Step, Arc::default());
        assert!(enter(&mut run, &mut model).step);
        model.file.set_u64(PC, VECTORS + 0x400);
        model.file.set_u64(CPSR, 0x3c5);
        model.file.set_u64(SPSR_EL1, SS);
        run.handle_exit(&mut model, STEPPED);
        assert_eq!(stop(&mut run, &mut model), StopReason::Step);
        assert_eq!(model.file.u64(SPSR_EL1), expected);
    }
}

#[test]
fn a_return_to_code_that_the_guest_steps_keeps_its_step() {
    let eret = 0xd69f_03e0;
    let mut model = Model::at(&[eret]);
    model.file.set_u64(MDSCR_EL1, 1);
    model.file.set_u64(SPSR_EL1, SS);
    let mut run = begin(ResumeAction::Step, Arc::default());
    enter(&mut run, &mut model);
    model.file.set_u64(PC, 0x400);
    model.file.set_u64(CPSR, 0);
    run.handle_exit(&mut model, STEPPED);
    assert_eq!(stop(&mut run, &mut model), StopReason::Step);
    assert_eq!(model.file.u64(CPSR), SS);
}

#[test]
fn the_guests_own_step_reaches_the_guest_when_the_debugger_steps_too() {
    let mut model = Model::at(&[NOP]);
    model.file.set_u64(MDSCR_EL1, 1);
    model.file.set_u64(CPSR, SS);
    let mut run = begin(ResumeAction::Step, Arc::default());
    enter(&mut run, &mut model);
    model.file.set_u64(PC, 0x104);
    model.file.set_u64(CPSR, 0);
    run.handle_exit(&mut model, STEPPED);
    assert_eq!(stop(&mut run, &mut model), StopReason::Step);
    assert_eq!(model.pc(), VECTORS + 0x400);
    assert_eq!(model.file.u64(ELR_EL1), 0x104);
    // Software step, from a lower level, with ISV.
    assert_eq!(model.file.u64(ESR_EL1), 0xcb00_0022);
}

#[test]
fn a_watchpoint_stops_before_the_access_and_is_passed_by_a_step_without_it() {
    let mut model = Model::at(&[STORE]);
    model.file.set_u64(X1, 0x7fc);
    let watch = PointKind::Watchpoint(WatchKind::Write);
    let set = points(&model, &[(watch, 0x802, 2), (watch, 0x900, 8)]);
    let mut run = begin(ResumeAction::Continue, Arc::clone(&set));
    let entry = enter(&mut run, &mut model);
    let watched: Vec<_> = entry.hardware.iter().collect();
    assert_eq!(watched.len(), 2);
    assert!(
        watched
            .iter()
            .all(|(_, point)| point.access == PointAccess::Write)
    );
    // The processor gives the access's own address, below what is watched.
    let hit = VmExit::Watchpoint {
        address: Gva(0x7fc),
        syndrome: 0xd600_0062,
    };
    run.handle_exit(&mut model, hit);
    let StopReason::Watchpoint {
        kind,
        watched,
        address,
    } = stop(&mut run, &mut model)
    else {
        panic!("no watchpoint");
    };
    assert_eq!(
        (kind, watched, address),
        (WatchKind::Write, Gva(0x802), Gva(0x802))
    );
    run.begin(ResumeRequest {
        action: ResumeAction::Continue,
        pass_first: PassFirst::Yes,
        points: set,
    });
    let entry = enter(&mut run, &mut model);
    assert!(entry.step && entry.hold_interrupts);
    let left: Vec<_> = entry
        .hardware
        .iter()
        .map(|(_, point)| point.address)
        .collect();
    assert_eq!(left, [Gva(0x900)]);
    model.file.set_u64(PC, 0x104);
    run.handle_exit(&mut model, STEPPED);
    let entry = enter(&mut run, &mut model);
    assert!(!entry.step);
    assert_eq!(entry.hardware.iter().count(), 2);
}

/// Sets a watchpoint of the guest's own on the doubleword at `address`.
fn watch_as_guest(model: &mut Model, address: u64) {
    let piece = split_watch(Gva(address), 8, 1).unwrap();
    let mut own = DebugRegisters::default();
    own.watchpoints[2] = Watchpoint::on(piece[0], LoadStore::Both);
    own.write(&mut model.file);
}

#[test]
fn a_watchpoint_of_the_guests_own_reaches_the_guest() {
    // The debugger's is so near that FAR could be of either; the instruction tells, or, if it is none
    // that is known, the nearer one has it.
    for (instruction, far) in [(STORE, 0xa00), (NOP, 0xa00)] {
        let mut model = Model::at(&[instruction]);
        model.file.set_u64(X1, 0xa00);
        watch_as_guest(&mut model, 0xa00);
        let watch = PointKind::Watchpoint(WatchKind::Access);
        let set = points(&model, &[(watch, 0xa10, 8)]);
        let mut run = begin(ResumeAction::Continue, set);
        enter(&mut run, &mut model);
        let hit = VmExit::Watchpoint {
            address: Gva(far),
            syndrome: 0xd200_0062,
        };
        run.handle_exit(&mut model, hit);
        enter(&mut run, &mut model);
        assert_eq!(model.pc(), VECTORS + 0x200);
        assert_eq!(model.file.u64(FAR_EL1), far);
        // Watchpoint, same level, write.
        assert_eq!(model.file.u64(ESR_EL1), 0xd600_0062);
    }
}

#[test]
fn a_watchpoint_that_both_have_stops_and_then_reaches_the_guest() {
    let mut model = Model::at(&[STORE]);
    model.file.set_u64(X1, 0xa00);
    watch_as_guest(&mut model, 0xa00);
    let watch = PointKind::Watchpoint(WatchKind::Write);
    let set = points(&model, &[(watch, 0xa04, 1)]);
    let mut run = begin(ResumeAction::Continue, Arc::clone(&set));
    enter(&mut run, &mut model);
    let hit = VmExit::Watchpoint {
        address: Gva(0xa00),
        syndrome: 0xd600_0062,
    };
    run.handle_exit(&mut model, hit);
    let expected = StopReason::Watchpoint {
        kind: WatchKind::Write,
        watched: Gva(0xa04),
        address: Gva(0xa04),
    };
    assert_eq!(stop(&mut run, &mut model), expected);
    run.begin(ResumeRequest {
        action: ResumeAction::Continue,
        pass_first: PassFirst::Yes,
        points: set,
    });
    let entry = enter(&mut run, &mut model);
    assert!(entry.step && entry.hardware.is_empty());
    run.handle_exit(&mut model, hit);
    assert!(!enter(&mut run, &mut model).step);
    assert_eq!(model.pc(), VECTORS + 0x200);
    assert_eq!(model.file.u64(ELR_EL1), 0x100);
}

#[test]
fn a_hit_of_an_access_that_is_not_known_is_of_the_only_watchpoint() {
    let mut model = Model::at(&[NOP]);
    let watch = PointKind::Watchpoint(WatchKind::Read);
    let set = points(&model, &[(watch, 0xa00, 8)]);
    let mut run = begin(ResumeAction::Continue, set);
    enter(&mut run, &mut model);
    let hit = VmExit::Watchpoint {
        address: Gva(0xb00),
        syndrome: 0xd600_0022,
    };
    run.handle_exit(&mut model, hit);
    let expected = StopReason::Watchpoint {
        kind: WatchKind::Read,
        watched: Gva(0xa00),
        address: Gva(0xb00),
    };
    assert_eq!(stop(&mut run, &mut model), expected);
}

#[test]
fn a_watchpoint_that_took_the_place_of_one_that_was_met_is_met() {
    let mut model = Model::at(&[STORE]);
    model.file.set_u64(X1, 0xa00);
    let watch = PointKind::Watchpoint(WatchKind::Write);
    let former = points(&model, &[(watch, 0xa00, 4)]);
    let mut run = begin(ResumeAction::Continue, former);
    enter(&mut run, &mut model);
    let hit = VmExit::Watchpoint {
        address: Gva(0xa00),
        syndrome: 0xd600_0062,
    };
    run.handle_exit(&mut model, hit);
    stop(&mut run, &mut model);
    run.begin(ResumeRequest {
        action: ResumeAction::Step,
        pass_first: PassFirst::Yes,
        points: points(&model, &[(watch, 0xa04, 4)]),
    });
    let entry = enter(&mut run, &mut model);
    let on: Vec<_> = entry
        .hardware
        .iter()
        .map(|(_, point)| point.address)
        .collect();
    assert_eq!(on, [Gva(0xa04)]);
}

#[test]
fn the_step_bit_is_cleared_whatever_exception_a_step_has_met() {
    for vector in (0..0x800).step_by(0x80) {
        let mut model = Model::at(&[NOP]);
        let mut run = begin(ResumeAction::Step, Arc::default());
        enter(&mut run, &mut model);
        model.file.set_u64(PC, VECTORS + vector);
        model.file.set_u64(SPSR_EL1, SS | EL1H);
        run.handle_exit(&mut model, STEPPED);
        stop(&mut run, &mut model);
        assert_eq!(model.file.u64(SPSR_EL1), EL1H, "vector {vector:#x}");
    }
}

#[test]
fn a_hardware_breakpoint_of_the_guests_own_is_told_from_the_debuggers() {
    let mut model = Model::at(&[NOP, NOP]);
    let set = points(&model, &[(PointKind::HardwareBreakpoint, 0x104, 4)]);
    let mut run = begin(ResumeAction::Continue, set);
    enter(&mut run, &mut model);
    run.handle_exit(&mut model, VmExit::HardwareBreakpoint);
    enter(&mut run, &mut model);
    assert_eq!(model.pc(), VECTORS + 0x200);
    assert_eq!(model.file.u64(ESR_EL1), 0xc600_0022);
    model.file.set_u64(PC, 0x104);
    run.handle_exit(&mut model, VmExit::HardwareBreakpoint);
    let expected = StopReason::HardwareBreakpoint {
        address: Gva(0x104),
    };
    assert_eq!(stop(&mut run, &mut model), expected);
}

#[test]
fn a_sequence_of_exclusive_accesses_is_one_step_of_a_range() {
    // 1: ldxr w0, [x1]; add w0, w0, #1; stxr w2, w0, [x1]; cbnz w2, 1b
    let code = [0x885f_7c20, 0x1100_0400, 0x8802_7c20, 0x35ff_ffa2];
    let mut model = Model::at(&code);
    let range = ResumeAction::RangeStep {
        start: Gva(0x100),
        end: Gva(0x104),
    };
    let mut run = begin(range, Arc::default());
    let entry = enter(&mut run, &mut model);
    assert!(!entry.step && entry.hold_interrupts);
    let targets: Vec<_> = entry
        .hardware
        .iter()
        .map(|(_, point)| point.address)
        .collect();
    // Behind the sequence, and where a fault in it leads.
    assert_eq!(targets, [Gva(0x10c), Gva(VECTORS + 0x200)]);
    model.file.set_u64(PC, 0x10c);
    run.handle_exit(&mut model, VmExit::HardwareBreakpoint);
    assert_eq!(stop(&mut run, &mut model), StopReason::Step);
    // One step that a client asks for is one instruction.
    let mut run = begin(ResumeAction::Step, Arc::default());
    model.file.set_u64(PC, 0x100);
    assert!(enter(&mut run, &mut model).step);
}
