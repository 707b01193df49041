//! The distribution's own kernel, booted to its first process and ended in every way it knows.

use core::time::Duration;
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

use trapline_engine::{GuestEnd, StopReason};
use trapline_test_machine::{
    Environment, GuestImage, HostKvm, Machine, MachineOptions, guest_initramfs, ran_after_all,
};
use trapline_vmm::{Console, Image, VmConfig};

use crate::host::{on_this_computer, run};

/// Say where kernel and root file system are, to this program inside the emulated machine.
const KERNEL: &str = "TRAPLINE_VMM_TEST_KERNEL";
const INITRD: &str = "TRAPLINE_VMM_TEST_INITRD";
/// This program inside the emulated machine.
const SELF: &str = "/test/kvm";
const LIMIT: Duration = Duration::from_secs(600);

const DISK_SECTORS: u64 = 8192;
/// What a kernel says after it has waited for a clock or a keyboard controller that is not there.
const TIMED_OUT: [&str; 3] = [
    "Unable to read current time from RTC",
    "rtc_cmos",
    "i8042: No controller",
];

#[test]
fn stock_kernel_boots_and_ends() {
    if let (Some(kernel), Some(initrd)) = (env::var_os(KERNEL), env::var_os(INITRD)) {
        return boot_in_every_way(kernel.as_ref(), initrd.as_ref());
    }
    let environment = Environment::load();
    if HostKvm::probe().runs_stock_kernel() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let initrd = folder.path().join("initrd");
        let image = guest_initramfs(&environment, &guest_image()).expect("a root file system");
        fs::write(&initrd, image).expect("a writable folder");
        return boot_in_every_way(environment.kernel().expect("a kernel"), &initrd);
    }
    on_emulated_hardware(&environment);
}

fn guest_image() -> GuestImage {
    GuestImage {
        modules: vec!["virtio_mmio".into(), "virtio_blk".into()],
        ..GuestImage::default()
    }
}

/// Runs this test and those of the tiny guests inside an emulated machine.
fn on_emulated_hardware(environment: &Environment) {
    let program = env::current_exe().expect("this test's program");
    let options = MachineOptions::default().file(SELF, program);
    let machine = Machine::boot(environment, &options).expect("an emulated machine");
    let (kernel, initrd) = machine
        .put_guest(environment, &guest_image())
        .expect("a guest in the machine");
    for test in [
        "linux::stock_kernel_boots_and_ends",
        "every_guest_passes_its_own_checks",
    ] {
        let command =
            format!("{KERNEL}={kernel} {INITRD}={initrd} {SELF} --exact {test} --nocapture 2>&1");
        let output = machine.run(&command, LIMIT).expect("an answer");
        println!("{}", output.text());
        assert_eq!(
            output.status,
            0,
            "{test} in the emulated machine:\n{}",
            output.text()
        );
        assert!(output.text().contains("1 passed"), "{test} was run");
        assert!(
            !output.text().contains("did not run"),
            "all guests can run there"
        );
    }
    for guest in trapline_guests::all() {
        ran_after_all(&on_this_computer(guest));
    }
}

fn boot_in_every_way(kernel: &Path, initrd: &Path) {
    let off = boot(kernel, initrd, "trapline.guest=poweroff");
    assert_eq!(
        off.reason,
        StopReason::Ended(GuestEnd::PowerOff),
        "{}",
        off.console
    );
    for text in [
        "trapline-guest: up with 2 processors",
        &format!("trapline-guest: disk vda has {DISK_SECTORS} sectors"),
        "clocksource: Switched to clocksource kvm-clock",
        "reboot: Power down",
    ] {
        assert!(
            off.console.contains(text),
            "'{text}' is missing:\n{}",
            off.console
        );
    }
    let seconds = kernel_seconds(&off.console, "reboot: Power down").expect("a time stamp");
    println!(
        "boot and end: {:?} in all, {seconds} s by the guest's clock",
        off.duration
    );
    let waited = TIMED_OUT
        .into_iter()
        .find(|text| off.console.contains(text));
    assert_eq!(waited, None, "a device that is not there:\n{}", off.console);

    let reset = boot(kernel, initrd, "trapline.guest=reboot");
    assert_eq!(
        reset.reason,
        StopReason::Ended(GuestEnd::Reset),
        "{}",
        reset.console
    );
}

/// What came of a boot.
struct Boot {
    reason: StopReason,
    console: String,
    duration: Duration,
}

/// Boots with two vCPUs and a disk, until the guest ends.
fn boot(kernel: &Path, initrd: &Path, cmdline: &str) -> Boot {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let disk = File::create(path("disk")).expect("a writable folder");
    disk.set_len(DISK_SECTORS * 512).expect("room for a disk");
    let mut config = VmConfig::new(Image::File(kernel.to_owned()));
    config.initrd = Some(initrd.to_owned());
    config.cmdline = cmdline.into();
    config.vcpu_count = 2;
    config.memory_bytes = 512 << 20;
    config.disks = vec![path("disk")];
    config.console = Console::File(path("console"));
    let start = Instant::now();
    let outcome = run(&config);
    let duration = start.elapsed();
    let console = fs::read(path("console")).expect("the console's file");
    let console = String::from_utf8_lossy(&console).into_owned();
    Boot {
        reason: outcome.reason,
        console,
        duration,
    }
}

/// Returns the kernel's time stamp of the line that contains `text`.
fn kernel_seconds(console: &str, text: &str) -> Option<f64> {
    let line = console.lines().find(|line| line.contains(text))?;
    line.split_once('[')?
        .1
        .split_once(']')?
        .0
        .trim()
        .parse()
        .ok()
}
