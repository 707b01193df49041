//! What LLDB is told of a kernel's image that a layer above has found.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::aarch64::registers::{self, CPSR, PC, VBAR_EL1};
use trapline_arch::{Architecture, Gva};

use super::world::World;
use crate::contract::{
    FindProgress, GuestMemory, GuestOs, KernelImage, SymbolAt, Systems, VirtualView,
};
use crate::session::Access;

const TEXT: u64 = 0x8000;

/// Finds an image in so many calls, if a vCPU knows this address of its code.
struct Layer {
    code: Gva,
    calls_left: u32,
    is_found: bool,
}

impl GuestOs for Layer {
    fn refresh(&mut self, _: &dyn GuestMemory, _: &dyn VirtualView) -> bool {
        self.is_found
    }
    fn find_image(&mut self, view: &dyn VirtualView) -> FindProgress {
        if !view.code_addresses().contains(&self.code) {
            return FindProgress::Done;
        }
        self.calls_left = self.calls_left.saturating_sub(1);
        self.is_found = self.calls_left == 0;
        match self.is_found {
            true => FindProgress::Done,
            false => FindProgress::More,
        }
    }
    fn image(&self) -> Option<KernelImage> {
        self.is_found.then_some(KernelImage {
            address: Gva(TEXT),
            uuid: *b"0123456789abcdef",
            triple: "arm64-apple-macosx",
            cpu_subtype: 2,
        })
    }
    fn forget(&mut self) {
        self.is_found = false;
    }
    fn description(&self) -> Option<String> {
        self.is_found.then(|| "a system".into())
    }
    fn symbol_at(&self, _: Gva) -> Option<SymbolAt> {
        None
    }
    fn address_of(&self, _: &str) -> Option<Gva> {
        None
    }
    fn complete(&self, _: &str, _: usize) -> Vec<String> {
        Vec::new()
    }
    fn text_placement(&self) -> Option<(Gva, u64)> {
        None
    }
    fn symbol_file_len(&self) -> Option<u64> {
        None
    }
    fn read_symbol_file(
        &self,
        _: &dyn GuestMemory,
        _: &dyn VirtualView,
        _: u64,
        _: &mut [u8],
    ) -> usize {
        0
    }
}

fn layer(code: u64, calls: u32) -> Box<dyn GuestOs> {
    Box::new(Layer {
        code: Gva(code),
        calls_left: calls,
        is_found: false,
    })
}

/// vCPU 0 with vectors at 0x9000, vCPU 1 with others.
fn world(os: Box<dyn GuestOs>) -> World {
    let mut file = registers::file();
    file.set_u64(PC, 0x1000);
    file.set_u64(CPSR, 0x3c5);
    file.set_u64(VBAR_EL1, 0x9000);
    let mut world = World::with_os(Architecture::Aarch64, file, os);
    world.vm.files[1].set_u64(VBAR_EL1, 0xa000);
    world
}

fn ask(world: &mut World, packet: &str) -> String {
    world.packet(world.id, packet);
    world.take_output(world.id)
}

/// What another client is answered, for LLDB gets words in another way.
#[track_caller]
fn expect_line(world: &mut World, line: &str, part: &str) {
    let id = world.connect(Access::Full);
    let answer = world.monitor_of(id, line);
    assert!(answer.contains(part), "{answer}");
}

/// `arm64-apple-macosx` in hex digits.
const TRIPLE: &str = "triple:61726d36342d6170706c652d6d61636f7378;";

fn expect_image(world: &mut World) {
    let host = ask(world, "qHostInfo");
    assert!(host.contains(TRIPLE), "{host}");
    assert!(host.contains("cputype:16777228;cpusubtype:2;"), "{host}");
    assert!(host.contains("ptrsize:8;"), "{host}");
    let process = ask(world, "qProcessInfo");
    assert!(process.contains(TRIPLE), "{process}");
    assert!(
        process.contains("cputype:100000c;cpusubtype:2;"),
        "{process}"
    );
    let place = ask(world, "qShlibInfoAddr");
    assert!(place.starts_with("$8000#"), "{place}");
    // LLDB moves the kernel's file by itself.
    assert_eq!(ask(world, "qOffsets"), "$#00");
}

#[test]
fn lldb_is_told_of_a_kernels_image() {
    // By vectors, by the program counter, and by those of another vCPU; at once and in many turns.
    for (code, calls) in [(0x9000, 1), (0x1000, 1), (0xa000, 1), (0xa000, 40)] {
        let mut world = world(layer(code, calls));
        expect_image(&mut world);
        expect_line(&mut world, "info", "system");
        expect_line(&mut world, "info", "a system");
    }
}

#[test]
fn without_an_image_nothing_is_made_up() {
    let mut world = world(layer(0xdead_0000, 1));
    let host = ask(&mut world, "qHostInfo");
    // aarch64-unknown-none
    let triple = "triple:616172636836342d756e6b6e6f776e2d6e6f6e65;";
    assert!(host.contains(triple), "{host}");
    assert!(host.contains("cpusubtype:0;"), "{host}");
    let place = ask(&mut world, "qShlibInfoAddr");
    assert!(place.starts_with("$E01"), "{place}");
    let offsets = ask(&mut world, "qOffsets");
    assert!(offsets.contains("Text=0;Data=0;Bss=0"), "{offsets}");
}

#[test]
fn an_image_that_is_gone_is_no_longer_told() {
    let mut world = world(layer(0x9000, 1));
    expect_image(&mut world);
    world.engine.handle_reset();
    let place = ask(&mut world, "qShlibInfoAddr");
    assert!(place.starts_with("$E01"), "{place}");
}

#[test]
fn of_several_layers_the_one_that_knows_answers() {
    let nobody = || layer(0xdead_0000, 1);
    let layers = Vec::from([nobody(), layer(0x9000, 3), nobody()]);
    let mut world = world(Box::new(Systems::new(layers)));
    expect_line(&mut world, "info", "not known");
    expect_image(&mut world);
    expect_line(&mut world, "info", "system");
    expect_line(&mut world, "info", "a system");
}

#[test]
fn no_image_is_looked_for_where_another_system_is_known() {
    struct Known;
    impl GuestOs for Known {
        fn refresh(&mut self, _: &dyn GuestMemory, _: &dyn VirtualView) -> bool {
            true
        }
        fn forget(&mut self) {}
        fn description(&self) -> Option<String> {
            Some("another".into())
        }
        fn symbol_at(&self, _: Gva) -> Option<SymbolAt> {
            None
        }
        fn address_of(&self, name: &str) -> Option<Gva> {
            (name == "here").then_some(Gva(0x1234))
        }
        fn complete(&self, _: &str, _: usize) -> Vec<String> {
            Vec::new()
        }
        fn text_placement(&self) -> Option<(Gva, u64)> {
            None
        }
        fn symbol_file_len(&self) -> Option<u64> {
            None
        }
        fn read_symbol_file(
            &self,
            _: &dyn GuestMemory,
            _: &dyn VirtualView,
            _: u64,
            _: &mut [u8],
        ) -> usize {
            0
        }
    }
    let layers = Vec::from([layer(0x9000, 1), Box::new(Known) as Box<dyn GuestOs>]);
    let mut world = world(Box::new(Systems::new(layers)));
    let place = ask(&mut world, "qHostInfo");
    assert!(!place.contains(TRIPLE), "{place}");
    expect_line(&mut world, "symbol here", "0x1234");
    expect_line(&mut world, "symbols", "another");
}
