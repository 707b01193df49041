//! The demo's guest under the hypervisor for EL2, on an emulated Arm board.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use trapline_test_machine::{Architecture, Board, Environment, GuestImage, guest_initramfs};

use crate::command::{shown, succeed};

/// Everything on the board's first serial port.
const COMMAND_LINE: &str = "console=ttyAMA0 panic=-1";

/// Puts the hypervisor's image and the guest into one, in `directory`, and starts that. The guest's console is the
/// child's standard output; the debug link is in `directory`, too.
///
/// # Errors
/// When the image cannot be made or the board not be started.
pub(super) fn start(
    image: &Path,
    environment: &Environment,
    programs: &Path,
    directory: &Path,
) -> Result<Child> {
    let contents = GuestImage {
        architecture: Architecture::Arm64,
        ..GuestImage::default()
    };
    let initrd = directory.join("initrd");
    fs::write(&initrd, guest_initramfs(environment, &contents)?)?;
    let bundle = directory.join("bundle");
    let mut command = Command::new(programs.join("trapline"));
    command.arg("bundle").arg("--hypervisor").arg(image);
    command.arg("--kernel").arg(environment.kernel_arm64()?);
    command.arg("--initrd").arg(&initrd);
    command.args(["--append", COMMAND_LINE, "-o"]).arg(&bundle);
    println!("   $ {}", shown(&command));
    succeed(&mut command)?;
    let mut board = Board::new(bundle);
    board.cpus = 2;
    let mut command = board.command(environment, directory)?;
    println!("   $ {}", shown(&command));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(directory.join("qemu.log"))?)
        .spawn()
        .with_context(|| format!("cannot run {}", shown(&command)))
}
