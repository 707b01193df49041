//! Guests run to their end on KVM, without a debugger: tiny ones on this computer's, whatever its
//! kind, and all of them with a stock kernel on one with VMX or SVM, which may be emulated.

#![expect(clippy::expect_used, reason = "the whole crate is a test")]

mod host;
mod linux;
mod refusals;

use std::fs;

use trapline_engine::{GuestEnd, StopReason};
use trapline_guests::{Ending, Guest};
use trapline_vmm::{Console, Image, KernelFormat, VmConfig};

use host::{Outcome, can_run, run};

/// Runs a guest with two vCPUs and returns how it ended.
fn run_guest(guest: &Guest, cmdline: &str) -> Option<Outcome> {
    if !can_run(guest) {
        return None;
    }
    let mut config = VmConfig::new(Image::Bytes(guest.name, guest.elf));
    config.memory_bytes = 16 << 20;
    config.vcpu_count = 2;
    config.cmdline = cmdline.into();
    Some(run(&config))
}

fn expect_ending(guest: &Guest, outcome: &Outcome) {
    let (reason, status) = match guest.ending {
        Ending::Passed => (GuestEnd::PowerOff, Some(0)),
        Ending::PowerOff => (GuestEnd::PowerOff, None),
        Ending::Reset => (GuestEnd::Reset, None),
        Ending::TripleFault => (GuestEnd::TripleFault, None),
    };
    let name = guest.name;
    assert_eq!(outcome.reason, StopReason::Ended(reason), "{name}");
    assert_eq!(outcome.status, status, "{name}: the check that failed");
}

#[test]
fn every_guest_passes_its_own_checks() {
    for guest in trapline_guests::all() {
        if let Some(outcome) = run_guest(guest, "") {
            expect_ending(guest, &outcome);
        }
    }
}

#[test]
fn reset_by_the_pci_port_ends_the_guest() {
    if let Some(outcome) = run_guest(&trapline_guests::RESET, "pci") {
        expect_ending(&trapline_guests::RESET, &outcome);
    }
}

#[test]
fn the_serial_line_goes_to_the_console_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("console");
    let guest = &trapline_guests::COUNTER;
    if !can_run(guest) {
        return;
    }
    let mut config = VmConfig::new(Image::Bytes(guest.name, guest.elf));
    config.console = Console::File(path.clone());
    expect_ending(guest, &run(&config));
    assert_eq!(fs::read(&path).expect("the console's file"), b"counter\r\n");
}

#[test]
fn flat_code_is_entered_in_real_mode_and_in_64_bit_mode() {
    // mov al, 0x2a; out 0xf4, al; hlt: the same bytes in both modes.
    static CODE: &[u8] = &[0xb0, 0x2a, 0xe6, 0xf4, 0xf4];
    if !can_run(&trapline_guests::MODES) {
        return;
    }
    for address in [0x7c00, 0x8_0000, 0x20_0000] {
        let mut config = VmConfig::new(Image::Bytes("flat code", CODE));
        config.format = KernelFormat::Flat(address);
        let outcome = run(&config);
        assert_eq!(outcome.status, Some(0x2a), "entered at {address:#x}");
    }
}
