//! What a device tree says of the machine.
//!
//! Sources: "Devicetree Specification", "Device Nodes"; Linux, "Devicetree bindings" of the devices named.

mod bus;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dtoolkit::error::FdtErrorKind;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};
use thiserror::Error;

use crate::Span;
use crate::uart::UartKind;
use bus::Bus;

/// The deepest nesting of nodes that is looked at.
const MAX_DEPTH: usize = 16;

/// The interrupt numbers of shared peripheral interrupts begin here.
const FIRST_SPI: u32 = 32;

/// The machine, as far as a hypervisor must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// RAM, ascending.
    pub memory: Vec<Span>,
    /// What of it firmware keeps for itself.
    pub reserved: Vec<Span>,
    /// The processors' affinities, as MPIDR has them, in the order of the device tree.
    pub processors: Vec<u64>,
    /// How PSCI is called.
    pub psci: Option<Conduit>,
    /// The interrupt controller.
    pub gic: Gic,
    /// Serial ports, in the order of the device tree.
    pub uarts: Vec<UartNode>,
    /// Which of them is the console, by its index.
    pub console: Option<usize>,
}

/// How firmware is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC: there is a hypervisor below already.
    Hvc,
}

/// The interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gic {
    /// `GICv3` or later.
    V3 {
        /// The distributor.
        distributor: Span,
        /// Regions of redistributors.
        redistributors: Vec<Span>,
    },
    /// `GICv2` with the virtualization extensions.
    V2 {
        /// The distributor.
        distributor: Span,
        /// The processor's interface.
        cpu: Span,
        /// The hypervisor's interface to the list registers.
        hypervisor: Span,
        /// The interface that the guest gets in place of the processor's.
        virtual_cpu: Span,
    },
}

/// A serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UartNode {
    /// Its node's path.
    pub path: String,
    /// Which kind.
    pub kind: UartKind,
    /// Its registers.
    pub registers: Span,
    /// Its interrupt's number at the GIC.
    pub interrupt: Option<u32>,
}

/// Why a device tree cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BoardError {
    /// It names no memory.
    #[error("the device tree names no memory")]
    NoMemory,
    /// It names no processors.
    #[error("the device tree names no processors")]
    NoProcessors,
    /// It names no GIC.
    #[error(
        "the device tree names no interrupt controller of a kind that is supported: GICv2 or GICv3"
    )]
    NoGic,
    /// The GIC has no virtualization extensions, or they are not named.
    #[error("the GICv2 has no virtualization extensions (GICH, GICV) in the device tree")]
    NoVirtualGic,
}

/// Reads a flattened device tree into one that can be edited. Returns `None` if it is none.
///
/// The library holds names to the specification, and most boards have some of more than 31 characters. Such a tree is
/// read all the same.
#[must_use]
pub fn unflatten(blob: &[u8]) -> Option<DeviceTree> {
    use FdtErrorKind::{InvalidNodeName, InvalidPropertyName};
    let tree = match Fdt::new(blob) {
        Ok(tree) => tree,
        Err(error) if matches!(error.kind, InvalidNodeName | InvalidPropertyName) => {
            Fdt::new_unchecked(blob)
        }
        Err(_) => return None,
    };
    Some(DeviceTree::from_fdt(&tree))
}

impl Board {
    /// Reads a device tree.
    ///
    /// # Errors
    /// As [`BoardError`] says.
    pub fn read(tree: &DeviceTree) -> Result<Self, BoardError> {
        let mut found = Found::default();
        found.visit(&tree.root, "", &Bus::of_processors(&tree.root), 0);
        for reservation in &tree.memory_reservations {
            let span = Span::new(reservation.address(), reservation.size());
            found.reserved.push(span);
        }
        found.memory.sort_unstable();
        if found.memory.is_empty() {
            return Err(BoardError::NoMemory);
        }
        if found.processors.is_empty() {
            return Err(BoardError::NoProcessors);
        }
        let uarts = found.uarts();
        let console = console_among(&uarts, tree);
        Ok(Self {
            memory: found.memory,
            reserved: found.reserved,
            processors: found.processors,
            psci: found.psci,
            gic: found.gic.unwrap_or(Err(BoardError::NoGic))?,
            uarts,
            console,
        })
    }

    /// Returns the console of a machine, also where [`read`](Self::read) refuses its device tree: the
    /// refusal is to be said somewhere.
    #[must_use]
    pub fn console_of(tree: &DeviceTree) -> Option<UartNode> {
        let mut found = Found::default();
        found.visit(&tree.root, "", &Bus::of_processors(&tree.root), 0);
        let uarts = found.uarts();
        let console = console_among(&uarts, tree)?;
        uarts.into_iter().nth(console)
    }

    /// Chooses the serial port for the debug link: the one that `name` names by path, by the address
    /// of its registers, or as `uartN` by its index; if none is named, the first that is not the
    /// console and has an interrupt.
    #[must_use]
    pub fn debug_uart(&self, name: Option<&str>) -> Option<usize> {
        let Some(name) = name else {
            let mut usable = self.uarts.iter().enumerate();
            return usable
                .find(|(index, uart)| Some(*index) != self.console && uart.interrupt.is_some())
                .map(|(index, _)| index);
        };
        let index = name
            .strip_prefix("uart")
            .and_then(|number| number.parse().ok());
        let address = name.strip_prefix("0x");
        let address = address.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let mut uarts = self.uarts.iter();
        uarts
            .position(|uart| uart.path == name || Some(uart.registers.start) == address)
            .or(index.filter(|index| *index < self.uarts.len()))
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    memory: Vec<Span>,
    reserved: Vec<Span>,
    processors: Vec<u64>,
    psci: Option<Conduit>,
    gic: Option<Result<Gic, BoardError>>,
    /// The GIC's phandle.
    gic_handle: Option<u64>,
    /// With the phandle of the interrupt controller.
    uarts: Vec<(UartNode, Option<u64>)>,
}

impl Found {
    /// Looks at what is on a bus, and at the buses below.
    fn visit(&mut self, node: &DeviceTreeNode, path: &str, bus: &Bus, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        for child in node.children().filter(|child| is_available(child)) {
            let path = alloc::format!("{path}/{}", child.name());
            self.take(child, &path, bus);
            if let Some(below) = bus.below(child, &path) {
                self.visit(child, &path, &below, depth.saturating_add(1));
            }
        }
    }

    fn take(&mut self, node: &DeviceTreeNode, path: &str, bus: &Bus) {
        let kind = value(node, "device_type").map(text);
        match kind.as_deref() {
            Some("memory") => {
                let spans = bus.registers(node).into_iter();
                self.memory
                    .extend(spans.filter(|span| span.len_bytes() > 0));
            }
            Some("cpu") => {
                let reg = value(node, "reg").unwrap_or_default();
                self.processors.extend(number(reg, 0, bus.cells.address));
            }
            _ => (),
        }
        if path.starts_with("/reserved-memory/") {
            self.reserved.extend(bus.registers(node));
        }
        let names = value(node, "compatible").unwrap_or_default();
        for name in names.split(|byte| *byte == 0) {
            match name {
                b"arm,psci" | b"arm,psci-0.2" | b"arm,psci-1.0" => self.psci = conduit(node),
                b"arm,gic-v3" => self.add_gic(node, gic_v3(&bus.registers(node), node)),
                b"arm,gic-400" | b"arm,cortex-a15-gic" | b"arm,cortex-a7-gic" => {
                    self.add_gic(node, gic_v2(&bus.registers(node)));
                }
                b"arm,pl011" | b"arm,pl011-axi" | b"arm,sbsa-uart" => {
                    return self.add_uart(UartKind::Pl011, node, path, bus);
                }
                b"ns16550" | b"ns16550a" | b"snps,dw-apb-uart" | b"nvidia,tegra20-uart" => {
                    let shift = value(node, "reg-shift").and_then(|value| number(value, 0, 1));
                    let shift = shift
                        .and_then(|shift| u8::try_from(shift).ok())
                        .unwrap_or(0);
                    return self.add_uart(UartKind::Ns16550 { shift }, node, path, bus);
                }
                _ => (),
            }
        }
    }

    fn add_gic(&mut self, node: &DeviceTreeNode, gic: Result<Gic, BoardError>) {
        self.gic = Some(gic);
        self.gic_handle = cell(node, "phandle");
    }

    fn add_uart(&mut self, kind: UartKind, node: &DeviceTreeNode, path: &str, bus: &Bus) {
        let Some(registers) = bus.registers(node).first().copied() else {
            return;
        };
        let own_parent = cell(node, "interrupt-parent").or(bus.interrupt_parent);
        let (parent, interrupt) = match value(node, "interrupts-extended") {
            Some(extended) => (number(extended, 0, 1), extended.get(4..)),
            None => (own_parent, value(node, "interrupts")),
        };
        let uart = UartNode {
            path: path.to_string(),
            kind,
            registers,
            interrupt: interrupt.and_then(shared_interrupt),
        };
        self.uarts.push((uart, parent));
    }

    /// Returns the serial ports. An interrupt at another controller than the GIC is as good as none.
    fn uarts(&mut self) -> Vec<UartNode> {
        let gic = self.gic_handle;
        let uarts = core::mem::take(&mut self.uarts).into_iter();
        uarts
            .map(|(mut uart, parent)| {
                if gic.is_some() && parent.is_some() && parent != gic {
                    uart.interrupt = None;
                }
                uart
            })
            .collect()
    }
}

/// Returns the number of a shared peripheral interrupt, as a GIC's `interrupts` have it.
fn shared_interrupt(cells: &[u8]) -> Option<u32> {
    let is_shared = number(cells, 0, 1)? == 0;
    let index = u32::try_from(number(cells, 1, 1)?).ok()?;
    is_shared.then(|| index.checked_add(FIRST_SPI))?
}

fn conduit(node: &DeviceTreeNode) -> Option<Conduit> {
    match text(value(node, "method")?).as_str() {
        "smc" => Some(Conduit::Smc),
        "hvc" => Some(Conduit::Hvc),
        _ => None,
    }
}

fn gic_v3(ranges: &[Span], node: &DeviceTreeNode) -> Result<Gic, BoardError> {
    let regions = value(node, "#redistributor-regions").and_then(|value| number(value, 0, 1));
    let regions = regions
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1);
    let (distributor, rest) = ranges.split_first().ok_or(BoardError::NoGic)?;
    let redistributors: Vec<Span> = rest.iter().take(regions).copied().collect();
    if redistributors.is_empty() {
        return Err(BoardError::NoGic);
    }
    Ok(Gic::V3 {
        distributor: *distributor,
        redistributors,
    })
}

fn gic_v2(ranges: &[Span]) -> Result<Gic, BoardError> {
    match ranges {
        [distributor, cpu, hypervisor, virtual_cpu, ..] => Ok(Gic::V2 {
            distributor: *distributor,
            cpu: *cpu,
            hypervisor: *hypervisor,
            virtual_cpu: *virtual_cpu,
        }),
        _ => Err(BoardError::NoVirtualGic),
    }
}

fn is_available(node: &DeviceTreeNode) -> bool {
    value(node, "status").is_none_or(|status| matches!(text(status).as_str(), "okay" | "ok"))
}

/// Returns which serial port is the console: the one that the tree names, or the first.
fn console_among(uarts: &[UartNode], tree: &DeviceTree) -> Option<usize> {
    let named = console_path(tree).and_then(|path| uarts.iter().position(|uart| uart.path == path));
    named.or((!uarts.is_empty()).then_some(0))
}

fn console_path(tree: &DeviceTree) -> Option<String> {
    let chosen = tree.root.child("chosen")?;
    let path = text(value(chosen, "stdout-path")?);
    let path = path.split(':').next().unwrap_or_default();
    if path.starts_with('/') {
        return Some(path.into());
    }
    let aliases = tree.root.child("aliases")?;
    value(aliases, path).map(text)
}

/// Returns the number that a property's first cell holds.
fn cell(node: &DeviceTreeNode, name: &str) -> Option<u64> {
    number(value(node, name)?, 0, 1)
}

/// Returns the bytes of a property.
pub(crate) fn value<'a>(node: &'a DeviceTreeNode, name: &str) -> Option<&'a [u8]> {
    let property = node.properties().find(|property| property.name() == name)?;
    property.value_as().ok()
}

/// Returns a property's text up to its first zero.
fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Returns the number in `count` cells, at most two, from cell `first` on.
fn number(value: &[u8], first: usize, count: usize) -> Option<u64> {
    let start = first.checked_mul(4)?;
    let cells = value.get(start..start.checked_add(count.checked_mul(4)?)?)?;
    (count <= 2).then(|| {
        cells
            .iter()
            .fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
    })
}

#[cfg(test)]
mod tests;
