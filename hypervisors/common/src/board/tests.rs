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

/// The same machine with its devices below two buses, the second of 32 bits, both of which renumber addresses.
fn system_on_chip() -> DeviceTree {
    let mut tree = virt();
    let outer = cells(&[0, 0, 0xf, 0, 0, 0x8000_0000]);
    let two = cells(&[2]);
    let outer = [
        ("#address-cells", two.as_slice()),
        ("#size-cells", &two),
        ("ranges", &outer),
    ];
    let one = cells(&[1]);
    let inner = cells(&[
        0x7e00_0000,
        0,
        0x0800_0000,
        0x0100_0000,
        0x7f00_0000,
        0,
        0x0900_0000,
        0x0010_0000,
    ]);
    let inner = [
        ("#address-cells", one.as_slice()),
        ("#size-cells", &one),
        ("ranges", &inner),
        ("interrupt-parent", &one),
    ];
    let mut bus = node("bus@7e000000", &inner);
    for (name, reg) in [
        (
            "intc@8000000",
            &[0x7e00_0000, 0x1_0000, 0x7e0a_0000, 0xf6_0000][..],
        ),
        ("pl011@9040000", &[0x7f04_0000, 0x1000]),
        ("pl011@9000000", &[0x7f00_0000, 0x1000]),
    ] {
        let mut device = tree.root.remove_child(name).unwrap();
        device.property_mut("reg").unwrap().set_value(cells(reg));
        if name.starts_with("intc") {
            device.add_property(DeviceTreeProperty::new_unchecked("phandle", one.clone()));
        }
        bus.add_child(device);
    }
    let mut soc = node("soc", &outer);
    soc.add_child(bus);
    tree.root.add_child(soc);
    tree
}

#[test]
fn addresses_of_buses_are_told_as_the_processors_have_them() {
    const BASE: u64 = 0xf_0000_0000;
    let tree = system_on_chip();
    let board = Board::read(&tree).unwrap();
    assert_eq!(
        board.gic,
        Gic::V3 {
            distributor: Span::new(BASE + 0x800_0000, 0x1_0000),
            redistributors: alloc::vec![Span::new(BASE + 0x80a_0000, 0xf6_0000)],
        }
    );
    let uart = &board.uarts[0];
    assert_eq!(uart.registers, Span::new(BASE + 0x904_0000, 0x1000));
    assert_eq!(uart.path, "/soc/bus@7e000000/pl011@9040000");
    assert_eq!(uart.interrupt, Some(40));
    // What no window has is not there: behind the first, and across its end.
    for start in [0x7f10_0000, 0x7f0f_f800] {
        let mut tree = system_on_chip();
        let uart = tree.find_node_mut(&uart.path).unwrap();
        let reg = cells(&[start, 0x1000]);
        uart.property_mut("reg").unwrap().set_value(reg);
        assert_eq!(Board::read(&tree).unwrap().uarts.len(), 1);
    }
    // A bus without `ranges` has addresses that are no memory's.
    let mut tree = tree;
    let soc = tree.root.child_mut("soc").unwrap();
    soc.remove_property("ranges");
    assert_eq!(Board::read(&tree), Err(BoardError::NoGic));
}

#[test]
fn an_interrupt_at_another_controller_is_none() {
    let mut tree = system_on_chip();
    let path = "/soc/bus@7e000000/pl011@9040000";
    let uart = tree.find_node_mut(path).unwrap();
    uart.add_property(DeviceTreeProperty::new_unchecked(
        "interrupt-parent",
        cells(&[2]),
    ));
    assert_eq!(Board::read(&tree).unwrap().uarts[0].interrupt, None);
    for (parent, expected) in [(1, Some(41)), (2, None)] {
        let uart = tree.find_node_mut(path).unwrap();
        uart.remove_property("interrupts-extended");
        uart.add_property(DeviceTreeProperty::new_unchecked(
            "interrupts-extended",
            cells(&[parent, 0, 9, 4]),
        ));
        assert_eq!(Board::read(&tree).unwrap().uarts[0].interrupt, expected);
    }
}

#[test]
fn names_that_are_too_long_are_read_and_kept() {
    let long = "trapline,a-property-with-more-than-31-characters";
    let mut tree = virt();
    tree.root
        .add_property(DeviceTreeProperty::new_unchecked(long, cells(&[7])));
    tree.root
        .add_child(node("a-node-with-more-than-31-characters@1", &[]));
    let blob = tree.to_dtb();
    assert!(Fdt::new(&blob).is_err());
    let read = unflatten(&blob).unwrap();
    assert_eq!(Board::read(&read), Board::read(&virt()));
    assert_eq!(read.to_dtb(), blob);
    assert!(unflatten(&blob[..40]).is_none());
    assert!(unflatten(b"no tree").is_none());
}

#[test]
fn strange_numbers_are_no_panic() {
    let mut tree = virt();
    for child in ["cpus", "memory@40000000", "intc@8000000", "pl011@9040000"] {
        for value in [&[][..], &[1_u8], &[0xff; 7], &[0xff; 64]] {
            let child = tree.root.child_mut(child).unwrap();
            for name in [
                "reg",
                "interrupts",
                "ranges",
                "#address-cells",
                "#size-cells",
            ] {
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
