//! What the guest is given: where things go in memory, and its device tree.

use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::Node;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use thiserror::Error;

use crate::Span;
use crate::board::Board;

/// A kernel begins at a multiple of 2 MiB (Linux, "Booting AArch64 Linux").
const KERNEL_ALIGNMENT_BYTES: u64 = 2 << 20;

/// A device tree is at most this long.
const TREE_BYTES: u64 = 2 << 20;

/// Why a guest cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandoverError {
    /// The kernel is no arm64 Image.
    #[error("the guest's kernel is no arm64 Image (a compressed one has to be unpacked first)")]
    NoImage,
    /// There is no room.
    #[error("there is no free memory for {len_bytes} bytes of the guest's {what}")]
    NoRoom {
        /// How much.
        len_bytes: u64,
        /// What for.
        what: &'static str,
    },
}

/// Where the guest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The kernel.
    pub kernel: Span,
    /// The device tree.
    pub tree: Span,
    /// The initial file system.
    pub initrd: Option<Span>,
}

/// The header of an arm64 Image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// How far behind a multiple of 2 MiB it begins.
    pub text_offset: u64,
    /// How much memory it takes from its beginning on.
    pub image_len_bytes: u64,
}

impl ImageHeader {
    /// Reads the header. Images that say no size take what is in the file and 16 MiB.
    ///
    /// # Errors
    /// [`HandoverError::NoImage`].
    pub fn read(image: &[u8]) -> Result<Self, HandoverError> {
        let number = |at: usize| {
            let bytes = image.get(at..at.checked_add(8)?)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        if image.get(56..60) != Some(b"ARM\x64") {
            return Err(HandoverError::NoImage);
        }
        let (text_offset, len_bytes) = (number(8), number(16));
        let (Some(text_offset), Some(len_bytes)) = (text_offset, len_bytes) else {
            return Err(HandoverError::NoImage);
        };
        let in_file = image.len() as u64;
        if text_offset >= KERNEL_ALIGNMENT_BYTES {
            return Err(HandoverError::NoImage);
        }
        Ok(Self {
            text_offset,
            image_len_bytes: if len_bytes == 0 {
                in_file.saturating_add(16 << 20)
            } else {
                len_bytes.max(in_file)
            },
        })
    }
}

/// Finds room for a guest beside what is `taken`, which is the hypervisor, the bundle and the device
/// tree that it was given.
///
/// # Errors
/// [`HandoverError::NoRoom`].
pub fn place(
    board: &Board,
    taken: &[Span],
    kernel: ImageHeader,
    initrd: Option<Span>,
) -> Result<Placement, HandoverError> {
    let mut taken: Vec<Span> = taken.iter().chain(&board.reserved).copied().collect();
    let kernel_len = kernel.image_len_bytes.saturating_add(kernel.text_offset);
    let room = find(board, &taken, kernel_len, "kernel")?;
    taken.push(room);
    let tree = find(board, &taken, TREE_BYTES, "device tree")?;
    Ok(Placement {
        kernel: Span::new(
            room.start.saturating_add(kernel.text_offset),
            kernel.image_len_bytes,
        ),
        tree,
        // It is used where it is.
        initrd,
    })
}

/// Returns the first room of that length, aligned as a kernel is.
fn find(
    board: &Board,
    taken: &[Span],
    len_bytes: u64,
    what: &'static str,
) -> Result<Span, HandoverError> {
    for memory in &board.memory {
        let mut start = memory.start;
        // Each round begins behind another of those that are taken.
        for _ in 0..=taken.len() {
            let aligned = start.checked_next_multiple_of(KERNEL_ALIGNMENT_BYTES);
            let end = aligned.and_then(|start| start.checked_add(len_bytes));
            let room = aligned.zip(end).filter(|(_, end)| *end <= memory.end);
            let Some(candidate) = room.map(|(start, end)| Span { start, end }) else {
                break;
            };
            let in_the_way = taken.iter().filter(|taken| taken.overlaps(candidate));
            match in_the_way.map(|taken| taken.end).max() {
                Some(end) => start = end,
                None => return Ok(candidate),
            }
        }
    }
    Err(HandoverError::NoRoom { len_bytes, what })
}

/// Makes the guest's device tree: without the hypervisor's memory and its serial ports, with the
/// guest's command line and initial file system, and with all else as it was.
pub fn edit(
    tree: &mut DeviceTree,
    board: &Board,
    own_memory: Span,
    withheld: &[&str],
    command_line: &str,
    initrd: Option<Span>,
) {
    for path in withheld {
        if let Some(node) = tree.find_node_mut(path) {
            set(node, "status", text("disabled"));
        }
    }
    rewrite_memory(tree, board, own_memory);
    let chosen = match tree.root.child_mut("chosen") {
        Some(chosen) => chosen,
        None => tree
            .root
            .add_child_mut(DeviceTreeNode::new_unchecked("chosen")),
    };
    let console = board.console.and_then(|index| board.uarts.get(index));
    if console.is_some_and(|console| withheld.contains(&console.path.as_str())) {
        chosen.remove_property("stdout-path");
    }
    if !command_line.is_empty() {
        set(chosen, "bootargs", text(command_line));
    }
    chosen.remove_property("linux,initrd-start");
    chosen.remove_property("linux,initrd-end");
    if let Some(initrd) = initrd {
        set(
            chosen,
            "linux,initrd-start",
            initrd.start.to_be_bytes().to_vec(),
        );
        set(
            chosen,
            "linux,initrd-end",
            initrd.end.to_be_bytes().to_vec(),
        );
    }
}

/// Replaces the memory nodes by one that leaves the hypervisor's memory out: what is only reserved a
/// guest may map all the same.
fn rewrite_memory(tree: &mut DeviceTree, board: &Board, own: Span) {
    let names: Vec<String> = tree
        .root
        .children()
        .map(|child| String::from(child.name()))
        .filter(|name| name == "memory" || name.starts_with("memory@"))
        .collect();
    for name in &names {
        tree.root.remove_child(name);
    }
    let cells = |name| {
        let value = crate::board::value(&tree.root, name).unwrap_or(&[0, 0, 0, 2]);
        usize::from(value.last().copied().unwrap_or(2)).clamp(1, 2)
    };
    let (address_cells, size_cells) = (cells("#address-cells"), cells("#size-cells"));
    let mut reg = Vec::new();
    for span in left_over(&board.memory, own) {
        push_cells(&mut reg, span.start, address_cells);
        push_cells(&mut reg, span.len_bytes(), size_cells);
    }
    let first = board.memory.first().map_or(0, |span| span.start);
    let mut node = DeviceTreeNode::new_unchecked(alloc::format!("memory@{first:x}"));
    set(&mut node, "device_type", text("memory"));
    set(&mut node, "reg", reg);
    tree.root.add_child(node);
}

/// Returns memory without the hypervisor's.
#[must_use]
pub fn left_over(memory: &[Span], own: Span) -> Vec<Span> {
    let pieces = memory.iter().flat_map(|span| {
        let before = Span {
            start: span.start,
            end: span.end.min(own.start),
        };
        let behind = Span {
            start: span.start.max(own.end),
            end: span.end,
        };
        if span.overlaps(own) {
            [before, behind]
        } else {
            [*span, Span { start: 0, end: 0 }]
        }
    });
    pieces.filter(|piece| piece.start < piece.end).collect()
}

fn push_cells(bytes: &mut Vec<u8>, value: u64, cells: usize) {
    let wide = value.to_be_bytes();
    let from = if cells == 1 { 4 } else { 0 };
    bytes.extend_from_slice(wide.get(from..).unwrap_or_default());
}

fn set(node: &mut DeviceTreeNode, name: &str, value: Vec<u8>) {
    node.remove_property(name);
    node.add_property(DeviceTreeProperty::new_unchecked(name, value.as_slice()));
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests;
