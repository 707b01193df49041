use super::*;
use crate::board::Gic;

fn board(memory: &[Span], reserved: &[Span]) -> Board {
    Board {
        memory: memory.to_vec(),
        reserved: reserved.to_vec(),
        processors: alloc::vec![0],
        psci: None,
        gic: Gic::V3 {
            distributor: Span::new(0, 0),
            redistributors: Vec::new(),
        },
        uarts: Vec::new(),
        console: None,
    }
}

const MIB: u64 = 1 << 20;
const RAM: Span = Span::new(1 << 30, 64 * MIB);

fn header(text_offset: u64, len_bytes: u64) -> ImageHeader {
    ImageHeader {
        text_offset,
        image_len_bytes: len_bytes,
    }
}

#[test]
fn a_kernel_goes_beside_everything_that_is_taken() {
    let taken = [
        Span::new(RAM.start, MIB),
        Span::new(RAM.start + 3 * MIB, MIB),
    ];
    let reserved = [Span::new(RAM.start + 20 * MIB, 4096)];
    let board = board(&[RAM], &reserved);
    let placed = place(&board, &taken, header(0x8_0000, 15 * MIB), None).unwrap();
    let begin = RAM.start + 4 * MIB;
    assert_eq!(placed.kernel, Span::new(begin + 0x8_0000, 15 * MIB));
    assert_eq!(placed.tree.start, RAM.start + 22 * MIB);
}

#[test]
fn no_room_is_an_error_that_names_what_it_is_for() {
    let board = board(&[RAM], &[]);
    let placed = place(&board, &[], header(0, 65 * MIB), None);
    let expected = HandoverError::NoRoom {
        len_bytes: 65 * MIB,
        what: "kernel",
    };
    assert_eq!(placed, Err(expected));
    let placed = place(&board, &[], header(0, 63 * MIB), None);
    assert!(matches!(
        placed,
        Err(HandoverError::NoRoom {
            what: "device tree",
            ..
        })
    ));
}

#[test]
fn the_hypervisors_memory_is_cut_out() {
    let own = Span::new(RAM.start + 2 * MIB, 4 * MIB);
    let left = left_over(&[RAM], own);
    let before = Span::new(RAM.start, 2 * MIB);
    let behind = Span {
        start: own.end,
        end: RAM.end,
    };
    assert_eq!(left, [before, behind]);
    assert_eq!(left_over(&[own], own), []);
    let other = Span::new(0, MIB);
    assert_eq!(left_over(&[other], own), [other]);
}

#[test]
fn an_image_is_known_by_its_header() {
    let mut image = alloc::vec![0; 64];
    assert_eq!(ImageHeader::read(&image), Err(HandoverError::NoImage));
    image[56..60].copy_from_slice(b"ARM\x64");
    image[8..16].copy_from_slice(&0x8_0000_u64.to_le_bytes());
    image[16..24].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    assert_eq!(ImageHeader::read(&image), Ok(header(0x8_0000, 0x100_0000)));
    // Before Linux 3.17 the size was 0.
    image[16..24].fill(0);
    assert_eq!(
        ImageHeader::read(&image),
        Ok(header(0x8_0000, 64 + 16 * MIB))
    );
    assert_eq!(ImageHeader::read(&image[..40]), Err(HandoverError::NoImage));
}

#[test]
fn the_guests_tree_has_its_memory_command_line_and_file_system() {
    let mut tree = DeviceTree::new();
    let mut memory = DeviceTreeNode::new_unchecked("memory@40000000");
    set(&mut memory, "device_type", text("memory"));
    set(
        &mut memory,
        "reg",
        [RAM.start.to_be_bytes(), RAM.len_bytes().to_be_bytes()].concat(),
    );
    set(&mut tree.root, "#address-cells", alloc::vec![0, 0, 0, 2]);
    set(&mut tree.root, "#size-cells", alloc::vec![0, 0, 0, 2]);
    tree.root.add_child(memory);
    let mut uart = DeviceTreeNode::new_unchecked("pl011@9040000");
    set(&mut uart, "reg", alloc::vec![1]);
    tree.root.add_child(uart);
    let board = board(&[RAM], &[]);
    let own = Span::new(RAM.start, 2 * MIB);
    let initrd = Span::new(RAM.start + 8 * MIB, 5);
    edit(
        &mut tree,
        &board,
        own,
        &["/pl011@9040000"],
        "quiet",
        Some(initrd),
    );
    // What is written can be read again.
    let blob = tree.to_dtb();
    let tree = DeviceTree::from_fdt(&dtoolkit::fdt::Fdt::new(&blob).unwrap());
    let value = |path: &str, name: &str| {
        let node = tree.find_node(path).unwrap();
        crate::board::value(node, name).unwrap().to_vec()
    };
    let left = RAM.len_bytes() - own.len_bytes();
    let reg = [own.end.to_be_bytes(), left.to_be_bytes()].concat();
    assert_eq!(value("/memory@40000000", "reg"), reg);
    assert_eq!(value("/chosen", "bootargs"), b"quiet\0");
    assert_eq!(
        value("/chosen", "linux,initrd-end"),
        initrd.end.to_be_bytes()
    );
    assert_eq!(value("/pl011@9040000", "status"), b"disabled\0");
    assert_eq!(value("/pl011@9040000", "reg"), [1]);
}
