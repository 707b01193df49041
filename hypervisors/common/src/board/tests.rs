use dtoolkit::model::DeviceTreeProperty;

use super::*;

fn node(name: &str, properties: &[(&str, &[u8])]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new_unchecked(*name, *value));
    }
    node
}

fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

/// A machine like QEMU's `virt` with two serial ports.
fn virt() -> DeviceTree {
    let mut tree = DeviceTree::new();
    tree.root = node(
        "",
        &[
            ("#address-cells", &cells(&[2])),
            ("#size-cells", &cells(&[2])),
        ],
    );
    let uart = |name, base, spi| {
        let reg = cells(&[0, base, 0, 0x1000]);
        let interrupts = cells(&[0, spi, 4]);
        let compatible: &[u8] = b"arm,pl011\0arm,primecell\0";
        let properties = [
            ("compatible", compatible),
            ("reg", &reg),
            ("interrupts", &interrupts),
        ];
        node(name, &properties)
    };
    let mut cpus = node(
        "cpus",
        &[
            ("#address-cells", &cells(&[1])),
            ("#size-cells", &cells(&[0])),
        ],
    );
    for number in 0..2 {
        let reg = cells(&[number]);
        let name = alloc::format!("cpu@{number}");
        cpus.add_child(node(&name, &[("device_type", b"cpu\0"), ("reg", &reg)]));
    }
    let reg = cells(&[0, 0x4000_0000, 0, 0x2000_0000]);
    let gic = cells(&[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0xf6_0000]);
    for child in [
        node(
            "memory@40000000",
            &[("device_type", b"memory\0"), ("reg", &reg)],
        ),
        cpus,
        node(
            "psci",
            &[
                ("compatible", b"arm,psci-1.0\0arm,psci\0"),
                ("method", b"smc\0"),
            ],
        ),
        node(
            "intc@8000000",
            &[("compatible", b"arm,gic-v3\0"), ("reg", &gic)],
        ),
        uart("pl011@9040000", 0x904_0000, 8),
        uart("pl011@9000000", 0x900_0000, 1),
        node("chosen", &[("stdout-path", b"/pl011@9000000\0")]),
    ] {
        tree.root.add_child(child);
    }
    tree
}

#[test]
fn a_machine_is_read() {
    let board = Board::read(&virt()).unwrap();
    assert_eq!(board.memory, [Span::new(0x4000_0000, 0x2000_0000)]);
    assert_eq!(board.processors, [0, 1]);
    assert_eq!(board.psci, Some(Conduit::Smc));
    assert_eq!(board.console, Some(1));
    assert_eq!(board.uarts[0].interrupt, Some(40));
    let Gic::V3 { redistributors, .. } = &board.gic else {
        panic!("{:?}", board.gic);
    };
    assert_eq!(redistributors, &[Span::new(0x80a_0000, 0xf6_0000)]);
}

#[test]
fn the_debug_port_is_the_one_that_is_named_or_that_is_left() {
    let board = Board::read(&virt()).unwrap();
    assert_eq!(board.debug_uart(None), Some(0));
    assert_eq!(board.debug_uart(Some("uart1")), Some(1));
    assert_eq!(board.debug_uart(Some("0x9040000")), Some(0));
    assert_eq!(board.debug_uart(Some("/pl011@9000000")), Some(1));
    for wrong in ["uart2", "0x9040001", "/pl011", "", "uart"] {
        assert_eq!(board.debug_uart(Some(wrong)), None, "{wrong}");
    }
    let mut only = virt();
    only.root.remove_child("pl011@9040000");
    assert_eq!(Board::read(&only).unwrap().debug_uart(None), None);
}

#[test]
fn the_console_is_found_in_a_tree_that_is_refused() {
    let mut tree = virt();
    tree.root.remove_child("intc@8000000");
    assert!(Board::read(&tree).is_err());
    assert_eq!(Board::console_of(&tree).unwrap().path, "/pl011@9000000");
    // Where no console is named it is the first port, which then is not the debugger's.
    let mut tree = virt();
    tree.root.remove_child("chosen");
    let board = Board::read(&tree).unwrap();
    assert_eq!((board.console, board.debug_uart(None)), (Some(0), Some(1)));
    tree.root.remove_child("pl011@9000000");
    tree.root.remove_child("pl011@9040000");
    assert_eq!(Board::console_of(&tree), None);
}

#[test]
fn what_is_missing_is_named() {
    let without = |name: &str| {
        let mut tree = virt();
        tree.root.remove_child(name).unwrap();
        Board::read(&tree).unwrap_err()
    };
    assert_eq!(without("memory@40000000"), BoardError::NoMemory);
    assert_eq!(without("cpus"), BoardError::NoProcessors);
    assert_eq!(without("intc@8000000"), BoardError::NoGic);
    let mut tree = virt();
    let gic = tree.root.child_mut("intc@8000000").unwrap();
    gic.property_mut("compatible")
        .unwrap()
        .set_value(b"arm,gic-400\0".as_slice());
    assert_eq!(Board::read(&tree).unwrap_err(), BoardError::NoVirtualGic);
}

#[test]
fn a_device_that_is_off_is_not_there() {
    let mut tree = virt();
    let uart = tree.root.child_mut("pl011@9040000").unwrap();
    uart.add_property(DeviceTreeProperty::new_unchecked("status", "disabled"));
    assert_eq!(Board::read(&tree).unwrap().uarts.len(), 1);
}

#[test]
fn strange_numbers_are_no_panic() {
    let mut tree = virt();
    for child in ["cpus", "memory@40000000", "intc@8000000", "pl011@9040000"] {
        for value in [&[][..], &[1_u8], &[0xff; 7], &[0xff; 64]] {
            let child = tree.root.child_mut(child).unwrap();
            for name in ["reg", "interrupts", "#address-cells", "#size-cells"] {
                child.remove_property(name);
                child.add_property(DeviceTreeProperty::new_unchecked(name, value));
            }
            let _ = Board::read(&tree);
        }
    }
    tree.root
        .property_mut("#address-cells")
        .unwrap()
        .set_value([0xff_u8; 4]);
    let _ = Board::read(&tree);
}
