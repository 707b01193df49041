//! The first processor, from `entry.S` to the guest.

#![expect(
    unsafe_code,
    reason = "assembly calls into this, and memory is taken from the machine"
)]

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::model::DeviceTree;
use trapline_arch::{Architecture, FeatureSet, LayoutKind};
use trapline_darwin::DarwinGuest;
use trapline_el2::tables::{Attributes, Tables};
use trapline_engine::{Capabilities, Engine, GuestConfig, Start, StepMethod, Systems};
use trapline_hypervisor::Span;
use trapline_hypervisor::board::{self, Board, Conduit, Gic as GicNode, UartNode};
use trapline_hypervisor::bundle::{Bundle, Part};
use trapline_hypervisor::handover::{self, ImageHeader, Placement};
use trapline_hypervisor::lanes::{Hub, Lanes};
use trapline_hypervisor::link::Link;
use trapline_hypervisor::uart::{Uart, UartKind};
use trapline_linux::LinuxGuest;

use super::console::say;
use super::gic::{self, Gic};
use super::guest_memory::Ram;
use super::hub::{self, El2, Shared, affinity, hub};
use super::mmio::{Mmio, RegisterWidth, UartRegisters};
use super::sysreg::{clean_and_drop, dsb, isb, mrs, msr, sync_code, wfi};
use super::traps::Context;
use super::{HEAP, MAX_PROCESSORS, console, power, run_loop, stage2};

/// How much the engine, the device tree and the symbols of the guest's kernel may take.
const HEAP_BYTES: usize = 2304 << 10;

/// A device tree may be at most this long.
const MAX_TREE_BYTES: usize = 2 << 20;

#[repr(C, align(4096))]
struct HeapMemory([u8; HEAP_BYTES]);

static mut HEAP_MEMORY: HeapMemory = HeapMemory([0; HEAP_BYTES]);

/// Why the guest cannot be started: for the console.
type Refusal = String;

/// The hypervisor's options, from the bundle.
#[derive(Debug, Default)]
struct Options<'a> {
    /// `debug=UART`.
    debug: Vec<&'a str>,
    /// `wait`: hold the guest before its first instruction.
    waits: bool,
}

impl<'a> Options<'a> {
    fn read(text: &'a str) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("debug", name)) => options.debug.push(name),
                None if word == "wait" => options.waits = true,
                _ => {
                    return Err(alloc::format!(
                        "option '{word}' is not known; there are debug=UART and wait"
                    ));
                }
            }
        }
        Ok(options)
    }
}

fn stop_here() -> ! {
    loop {
        wfi();
    }
}

/// # Safety
/// It is called once.
unsafe fn take_heap() {
    let start = &raw mut HEAP_MEMORY;
    // SAFETY: nothing else names the memory, and this is done once.
    unsafe { HEAP.begin(start.cast(), HEAP_BYTES) };
}

/// Called by `entry.S`.
///
/// # Safety
/// Only `entry.S` calls it, once, with the addresses that it was entered with.
#[unsafe(no_mangle)]
unsafe extern "C" fn boot_main(tree: usize, start: u64, end: u64, is_host_fixed: u64) -> ! {
    // SAFETY: boot happens once.
    unsafe { take_heap() };
    // SAFETY: the boot protocol has x0 point at a device tree, which is mapped.
    let Some((mut tree, tree_span)) = (unsafe { read_tree(tree) }) else {
        // Without a device tree there is no console to say it on.
        stop_here();
    };
    let own = Span { start, end };
    if is_host_fixed != 0 {
        find_console(&tree);
        say!(
            "this processor has the virtualization host extensions always on (HCR_EL2.E2H), \
             which is not supported"
        );
        stop_here();
    }
    // SAFETY: this is the boot of `boot_main`'s caller.
    match unsafe { start_guest(&mut tree, tree_span, own) } {
        Ok(context) => run_loop::run(context),
        Err(refusal) => {
            say!("the guest cannot be started: {refusal}");
            stop_here();
        }
    }
}

/// Called by `entry.S` if the boot loader has left EL2 already.
///
/// # Safety
/// As for [`boot_main`].
#[unsafe(no_mangle)]
unsafe extern "C" fn below_main(tree: usize) -> ! {
    // SAFETY: as in `boot_main`.
    unsafe { take_heap() };
    // SAFETY: as in `boot_main`.
    if let Some((tree, _)) = unsafe { read_tree(tree) } {
        find_console(&tree);
        say!(
            "entered at EL1, but a hypervisor needs EL2: have the firmware or boot loader start it there \
             (QEMU: -machine virt,virtualization=on)"
        );
    }
    stop_here();
}

/// # Safety
/// `address` is of a device tree, or of nothing that is one, and its gibibyte is mapped.
unsafe fn read_tree(address: usize) -> Option<(DeviceTree, Span)> {
    if address == 0 || !address.is_multiple_of(8) {
        return None;
    }
    // SAFETY: the caller's promise.
    let head = unsafe { core::slice::from_raw_parts(address as *const u8, 8) };
    let len = u32::from_be_bytes(head.get(4..8)?.try_into().ok()?);
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= MAX_TREE_BYTES)?;
    // SAFETY: the caller's promise; the length is the tree's own.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, len) };
    Some((
        board::unflatten(bytes)?,
        Span::new(address as u64, len as u64),
    ))
}

fn find_console(tree: &DeviceTree) {
    if let Some(node) = Board::console_of(tree) {
        console::set(port(&node));
    }
}

fn port(node: &UartNode) -> Uart<UartRegisters> {
    let width = match node.kind {
        UartKind::Ns16550 { shift: 0 } => RegisterWidth::Byte,
        UartKind::Ns16550 { .. } | UartKind::Pl011 => RegisterWidth::Word,
    };
    Uart::new(node.kind, UartRegisters(device(node.registers), width))
}

fn device(span: Span) -> Mmio {
    // SAFETY: the span is of the device tree's, and `use_own_tables` maps what is in it as a device; the
    // early tables map all but memory so.
    unsafe { Mmio::new(to_usize(span.start), to_usize(span.len_bytes())) }
}

/// # Safety
/// It is called once, at boot, with the image's own addresses.
unsafe fn start_guest(
    tree: &mut DeviceTree,
    tree_span: Span,
    own: Span,
) -> Result<Context, Refusal> {
    find_console(tree);
    let board = Board::read(tree).map_err(|error| alloc::format!("{error}"))?;
    match board.psci {
        Some(Conduit::Smc) => (),
        Some(Conduit::Hvc) => {
            return Err("firmware is called by HVC: there is another hypervisor below".into());
        }
        None => say!("the device tree names no PSCI: no processor but this one can be started"),
    }
    say!(
        "EL2, {} processors, {} MiB of memory, {} KiB of it the hypervisor's",
        board.processors.len(),
        board
            .memory
            .iter()
            .map(|span| span.len_bytes())
            .sum::<u64>()
            >> 20,
        own.len_bytes() >> 10
    );
    if board.processors.len() > MAX_PROCESSORS {
        return Err(alloc::format!(
            "more than {MAX_PROCESSORS} processors are not supported"
        ));
    }
    // SAFETY: memory behind the image is mapped, as far as it is in the image's gibibyte.
    let bundle_bytes = unsafe { bundle_bytes(&board, own) }?;
    let bundle = Bundle::read(bundle_bytes).map_err(|error| alloc::format!("{error}"))?;
    let bundle_span = Span::new(own.end, bundle_bytes.len() as u64);
    let options = Options::read(bundle.text(Part::Options))?;
    let ports = debug_ports(&board, &options)?;

    // SAFETY: the caller's promise.
    unsafe { use_own_tables(&board, own) }?;

    let header = bundle.part(Part::Kernel).unwrap_or_default();
    let header = ImageHeader::read(header).map_err(|error| alloc::format!("{error}"))?;
    let initrd = bundle
        .part(Part::Initrd)
        .map(|bytes| Span::new(bytes.as_ptr() as u64, bytes.len() as u64));
    let taken = [own, bundle_span, tree_span];
    let placement = handover::place(&board, &taken, header, initrd)
        .map_err(|error| alloc::format!("{error}"))?;
    let withheld: Vec<&str> = ports
        .iter()
        .filter_map(|index| board.uarts.get(*index))
        .map(|node| node.path.as_str())
        .collect();
    let command_line = bundle.text(Part::CommandLine);
    handover::edit(tree, &board, own, &withheld, command_line, initrd);
    // SAFETY: `place` has found memory that nothing else is in.
    unsafe {
        put(
            &placement,
            bundle.part(Part::Kernel).unwrap_or_default(),
            &tree.to_dtb(),
        )
    }?;

    set_up_machine(&board, own, &ports, &options, &placement)
}

/// Returns the bundle behind the image, or as much of it as there can be.
///
/// # Safety
/// The memory behind the image is mapped.
unsafe fn bundle_bytes(board: &Board, own: Span) -> Result<&'static [u8], Refusal> {
    let mut memory = board.memory.iter();
    let memory = memory.find(|span| span.contains(own.end));
    let left = memory.map_or(0, |span| span.end - own.end);
    let head_len = left.min(64);
    // SAFETY: the caller's promise; the length is within memory.
    let head = unsafe { core::slice::from_raw_parts(own.end as *const u8, to_usize(head_len)) };
    let len = Bundle::len_bytes(head).map_err(|error| alloc::format!("{error}"))?;
    // SAFETY: as above.
    Ok(unsafe { core::slice::from_raw_parts(own.end as *const u8, to_usize(len.min(left))) })
}

/// Chooses the serial ports for debuggers.
fn debug_ports(board: &Board, options: &Options<'_>) -> Result<Vec<usize>, Refusal> {
    let known = || {
        let mut names = String::new();
        for (index, uart) in board.uarts.iter().enumerate() {
            names.push_str(&alloc::format!(" uart{index} is {}", uart.path));
        }
        names
    };
    let chosen = if options.debug.is_empty() {
        alloc::vec![board.debug_uart(None).ok_or_else(|| alloc::format!(
            "no serial port is left for the debugger: the console needs the only one. \
             There are:{}; choose one with 'trapline bundle --debug-uart'",
            known()
        ))?]
    } else {
        let mut chosen = Vec::new();
        for name in &options.debug {
            let index = board.debug_uart(Some(name));
            chosen.push(index.ok_or_else(|| {
                alloc::format!("there is no serial port '{name}'; there are:{}", known())
            })?);
        }
        chosen
    };
    for index in &chosen {
        if board
            .uarts
            .get(*index)
            .is_none_or(|uart| uart.interrupt.is_none())
        {
            return Err(alloc::format!("serial port uart{index} has no interrupt"));
        }
    }
    Ok(chosen)
}

/// Leaves the early tables for ones that map memory as memory and devices as devices, and nothing else.
///
/// # Safety
/// It is called once, on the boot processor.
unsafe fn use_own_tables(board: &Board, own: Span) -> Result<(), Refusal> {
    let mut tables = stage2::own_tables();
    let mut map = |span: Span, attributes| {
        tables
            .map(span, attributes)
            .map_err(|error| alloc::format!("{error}"))
    };
    map(own, Attributes::OWN)?;
    for span in handover::left_over(&board.memory, own) {
        map(span, Attributes::MEMORY)?;
    }
    for uart in &board.uarts {
        map(uart.registers, Attributes::DEVICE)?;
    }
    for span in gic_spans(&board.gic) {
        map(span, Attributes::DEVICE)?;
    }
    switch_to(&tables);
    Ok(())
}

fn gic_spans(gic: &GicNode) -> Vec<Span> {
    match gic {
        GicNode::V3 { .. } => gic::guarded_spans(gic),
        GicNode::V2 {
            distributor,
            cpu,
            hypervisor,
            virtual_cpu,
        } => alloc::vec![*distributor, *cpu, *hypervisor, *virtual_cpu],
    }
}

fn switch_to(tables: &Tables<'_>) {
    dsb();
    msr!("TTBR0_EL2", tables.root());
    isb();
    // SAFETY: both trees map what the program is in alike.
    unsafe {
        core::arch::asm!(
            "tlbi alle2",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}

/// Copies the kernel and the device tree to where they go.
///
/// # Safety
/// The placement is memory that is mapped and that nothing is in.
unsafe fn put(placement: &Placement, kernel: &[u8], tree: &[u8]) -> Result<(), Refusal> {
    if tree.len() as u64 > placement.tree.len_bytes() {
        return Err(alloc::format!(
            "the device tree is {} bytes long",
            tree.len()
        ));
    }
    for (span, bytes) in [(placement.kernel, kernel), (placement.tree, tree)] {
        // SAFETY: the caller's promise; `ImageHeader` has made the kernel's room as long as its file.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), span.start as *mut u8, bytes.len());
        }
        sync_code(to_usize(span.start), bytes.len());
        // The guest begins with its caches off.
        clean_and_drop(to_usize(span.start), to_usize(span.len_bytes()));
    }
    if let Some(initrd) = placement.initrd {
        clean_and_drop(to_usize(initrd.start), to_usize(initrd.len_bytes()));
    }
    Ok(())
}

fn set_up_machine(
    board: &Board,
    own: Span,
    ports: &[usize],
    options: &Options<'_>,
    placement: &Placement,
) -> Result<Context, Refusal> {
    let nodes: Vec<&UartNode> = ports
        .iter()
        .filter_map(|index| board.uarts.get(*index))
        .collect();
    let interrupts = nodes.iter().filter_map(|node| node.interrupt).collect();
    // SAFETY: the node is the device tree's, and `use_own_tables` maps it as devices.
    let gic = unsafe { Gic::new(&board.gic, interrupts) };
    let mut hidden = alloc::vec![own];
    hidden.extend(nodes.iter().map(|node| node.registers));
    hidden.extend(gic::guarded_spans(&board.gic));
    stage2::prepare(hidden);
    if let Some((span, target)) = gic::redirection(&board.gic) {
        stage2::redirect(span, target).map_err(|error| alloc::format!("{error}"))?;
    }

    let capabilities = capabilities();
    let shared = hub::set_shared(Shared {
        gic,
        processors: board.processors.clone(),
        capabilities,
        lanes: Lanes::new(board.processors.len()),
    });
    // SAFETY: `use_own_tables` maps all memory, and the hypervisor's is left out.
    let ram = unsafe { Ram::new(handover::left_over(&board.memory, own)) };
    let config = GuestConfig {
        architecture: Architecture::Aarch64,
        vcpu_count: u32::try_from(board.processors.len()).unwrap_or(1),
        features: features(),
        layout: LayoutKind::Aarch64,
        capabilities,
    };
    let links = nodes.iter().map(|node| Link::new(port(node))).collect();
    let file = Architecture::Aarch64.new_register_file();
    let linux = LinuxGuest::new(Architecture::Aarch64);
    let os = Systems::new(alloc::vec![Box::new(DarwinGuest::new()), Box::new(linux)]);
    let engine = Engine::new(config, Some(Box::new(os)));
    let mut machine = Hub::new(engine, links, ram, capabilities, &file, &shared.lanes);
    let here = hub::number_of(affinity()).ok_or("this processor is not in the device tree")?;
    machine.set_registers(here, |file| {
        power::begin_at(file, placement.kernel.start, placement.tree.start);
    });
    hub::set_hub(machine);
    let context = Context::new(here);
    if context.interface.is_none() {
        return Err("this processor has no redistributor in the device tree".into());
    }
    let start = if options.waits {
        Start::Held
    } else {
        Start::Running
    };
    hub().start(start, &El2);
    for node in nodes {
        say!("debuggers are served on {}", node.path);
    }
    say!("the guest begins at {:#x}", placement.kernel.start);
    if board
        .console
        .is_some_and(|console| ports.contains(&console))
    {
        say!("from here on this port is a debugger's, and there is no console");
        console::give_up();
    }
    Ok(context)
}

fn capabilities() -> Capabilities {
    let (breakpoints, watchpoints) = debug_slots();
    Capabilities {
        host: "Trapline at EL2",
        step: StepMethod::SoftwareStep,
        holds_interrupts: true,
        software_breakpoints: true,
        hardware_breakpoints: breakpoints,
        watchpoints,
        slots_are_shared: false,
        hides_pauses: false,
    }
}

fn features() -> FeatureSet {
    let mut features = FeatureSet::empty();
    let isar1 = mrs!("ID_AA64ISAR1_EL1");
    let isar2 = mrs!("S3_0_C0_C6_2");
    if isar1 & 0xff0 != 0 || isar2 >> 12 & 0xf != 0 {
        features |= FeatureSet::PAUTH;
    }
    let (breakpoints, watchpoints) = debug_slots();
    features.with_debug_slots(breakpoints, watchpoints)
}

/// How many breakpoints and watchpoints the processor has (Arm ARM, `ID_AA64DFR0_EL1`, BRPs and WRPs: one less than
/// there are).
fn debug_slots() -> (u8, u8) {
    let dfr = mrs!("ID_AA64DFR0_EL1");
    let count = |low: u32| u8::try_from((dfr >> low & 0xf) + 1).unwrap_or(2);
    (count(12), count(20))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses have 64 bits here"
)]
const fn to_usize(value: u64) -> usize {
    value as usize
}
