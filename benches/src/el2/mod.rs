//! Figures of the hypervisor for EL2, on QEMU's emulation of an Arm computer.
//!
//! There are computers of the same kind with the hypervisor below the guest and without it. Without it the
//! guest's kernel is told not to use EL2, so that it runs at EL1 on both. All have the same kernel, initial
//! RAM disk and command line. What a debugger does is compared with QEMU's own stub.

mod computer;
mod condition;
mod size;
mod slow_down;
mod steps;
mod stop;
mod tiny;

use core::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;
use trapline_guests::aarch64;
use trapline_test_machine::{Architecture, Environment, GuestImage, guest_initramfs};

use crate::report::Figure;

/// A program for the stock guest; see `asm/work.S`. It is empty where there was no compiler for it.
const WORK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/work"));

/// A way to measure figures.
pub(crate) type Measure = fn(&Bench) -> Result<Vec<Figure>>;

/// Every group of figures by the name of `--only`.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("guest", slow_down::measure_work),
    ("instructions", slow_down::measure_instructions),
    ("boot", slow_down::measure_boot),
    ("stop", stop::measure_all),
    ("steps", steps::measure_all),
    ("condition", condition::measure_all),
    ("size", size::measure_all),
];

/// What the figures share.
pub(crate) struct Bench {
    environment: Environment,
    directory: PathBuf,
    /// The stock guest's root file system.
    initrd: PathBuf,
    /// Rounds of each figure.
    rounds: u32,
    computers: Cell<u32>,
}

impl Bench {
    /// Prepares what the guests are made of, in `directory`.
    ///
    /// # Errors
    /// When something is not there.
    pub(crate) fn new(environment: Environment, directory: PathBuf, rounds: u32) -> Result<Self> {
        let mut files = Vec::new();
        for (name, content) in [
            ("init", include_bytes!("init.sh").as_slice()),
            ("work", WORK),
        ] {
            let path = directory.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            files.push((format!("/bench/{name}"), path));
        }
        let contents = GuestImage {
            architecture: Architecture::Arm64,
            files,
            ..GuestImage::default()
        };
        let initrd = directory.join("initrd");
        fs::write(&initrd, guest_initramfs(&environment, &contents)?)?;
        Ok(Self {
            environment,
            directory,
            initrd,
            rounds,
            computers: Cell::new(0),
        })
    }
}

/// Returns an error that names what lacks, if something does.
pub(crate) fn check(environment: &Environment) -> Result<()> {
    environment.qemu_arm64()?;
    environment.kernel_arm64()?;
    environment.busybox_arm64()?;
    Environment::el2_image()?;
    Environment::program("trapline")?;
    anyhow::ensure!(
        aarch64::are_built() && !WORK.is_empty(),
        "the tiny guests of AArch64 were not built: there is no C compiler for AArch64"
    );
    Ok(())
}
