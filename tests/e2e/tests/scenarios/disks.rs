//! Disks: a stock kernel that lives on one, and files that are no disk.

use core::time::Duration;
use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use trapline_e2e::{GuestBuilder, Image, LIMIT, Reason, RunningGuest, Stage};
use trapline_guests::COUNTER;
use trapline_test_machine::{GuestImage, guest_disk};

use crate::{startup, stock};

crate::scenarios! {
    Gdb Hardware a_stock_kernel_lives_on_a_disk_and_is_debugged_while_it_reads;
    Neither Hardware a_disk_that_may_not_be_written_is_read_only_to_the_guest;
    Neither AnyKvm a_file_that_is_no_disk_is_named;
}

/// How long a stock kernel may take to its first turn, in an emulated machine on a busy computer.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
const DATA_WORDS: u32 = 1 << 18;
const SECTOR_BYTES: usize = 512;
/// The second disk: a sector that stays as it is, and one that the guest writes.
const MARK: &[u8; 16] = b"not to be read! ";

/// The disks of a guest and what is on them.
struct Disks {
    /// Their paths where the guest runs.
    paths: [String; 2],
    /// The SHA-256 of the data on the first, in hexadecimal.
    hash: String,
}

fn a_stock_kernel_lives_on_a_disk_and_is_debugged_while_it_reads(stage: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disks = disks(stage, directory.path(), Access::ReadWrite)?;
    let guest = boot(stage, directory.path(), &disks)?;
    guest.expect("ext4 rw", LIMIT)?;
    let turn = format!(", {}", disks.hash);
    guest.expect(&turn, BOOT_LIMIT)?;
    let mut debugger = stage.debugger()?;
    debugger.connect(guest.socket())?;
    // Where the file system gives a request to the disk, software and hardware.
    for hardware in [false, true] {
        let place = "submit_bio".into();
        let point = if hardware {
            debugger.hbreak(&place)?
        } else {
            debugger.break_at(&place)?
        };
        for _ in 0..3 {
            let stop = debugger.cont_to(point)?;
            ensure!(stop.function.as_deref() == Some("submit_bio"), "{stop:?}");
        }
        let frames = debugger.backtrace(20)?;
        let names: Vec<_> = frames.iter().flat_map(|frame| &frame.function).collect();
        ensure!(names.len() > 3, "{names:?}");
        debugger.delete(point)?;
    }
    for _ in 0..5 {
        debugger.resume()?;
        guest.expect_anew("trapline-disk: turn", LIMIT)?;
        debugger.interrupt()?;
        let stop = debugger.wait_stop(LIMIT)?;
        ensure!(stop.reason == Reason::Signal("SIGINT".into()), "{stop:?}");
    }
    debugger.detach()?;
    // All that was read in between was right.
    for _ in 0..3 {
        guest.expect_anew(&turn, LIMIT)?;
    }
    let console = guest.output();
    let turns = console.matches("trapline-disk: turn").count();
    ensure!(console.matches(&turn).count() == turns, "{console}");
    ensure!(!console.contains("cannot be written"), "{console}");
    ensure!(!console.contains("I/O error"), "{console}");
    drop(guest);
    let [_, second] = &disks.paths;
    let content = read(stage, second)?;
    ensure!(content.starts_with(MARK), "the first sector was written");
    let written = content.get(SECTOR_BYTES..).unwrap_or_default();
    ensure!(written.starts_with(b"written in turn "), "{written:?}");
    Ok(())
}

fn a_disk_that_may_not_be_written_is_read_only_to_the_guest(stage: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disks = disks(stage, directory.path(), Access::ReadOnly)?;
    let guest = boot(stage, directory.path(), &disks)?;
    guest.expect(&format!("turn 2, {}", disks.hash), BOOT_LIMIT)?;
    guest.expect("vdb cannot be written", LIMIT)?;
    let console = guest.output();
    ensure!(console.contains("ext4 ro"), "{console}");
    ensure!(console.contains("/ cannot be written"), "{console}");
    drop(guest);
    let content = read(stage, &disks.paths[1])?;
    ensure!(content.iter().skip(MARK.len()).all(|&byte| byte == 0));
    Ok(())
}

fn a_file_that_is_no_disk_is_named(stage: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let (kernel, small, whole) = (path("kernel"), path("small"), path("whole"));
    fs::write(&kernel, COUNTER.elf)?;
    fs::write(&small, [0; SECTOR_BYTES - 1])?;
    fs::write(&whole, [0; SECTOR_BYTES])?;
    let refused = |disk: &Path, reason: &str| -> Result<()> {
        let mut command = startup::trapline()?;
        command.arg("--kernel").arg(&kernel).arg("--disk").arg(disk);
        let text = startup::refused(&mut command)?;
        ensure!(text.contains(&disk.display().to_string()), "{text}");
        ensure!(text.contains(reason), "{text}");
        Ok(())
    };
    refused(&path("absent"), "No such file")?;
    refused(&small, "511 bytes, less than one sector of 512")?;
    refused(directory.path(), "irectory")?;
    refused(
        Path::new("/dev/null"),
        "neither a regular file nor a block device",
    )?;
    let mut user = stage
        .guest(&COUNTER)
        .options(&["--disk", &whole.display().to_string()])
        .start()?;
    refused(&whole, "another virtual machine uses it")?;
    let mut client = stage.client(&user)?;
    ensure!(client.ask("D")? == "OK");
    user.expect_passed()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

/// Makes the two disks where guests run.
fn disks(stage: &Stage, directory: &Path, access: Access) -> Result<Disks> {
    let local = |name: &str| directory.join(name);
    let data: Vec<u8> = (0..DATA_WORDS)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b1).to_le_bytes())
        .collect();
    fs::write(local("data"), &data)?;
    let sum = Command::new("sha256sum").arg(local("data")).output()?;
    let sum = String::from_utf8(sum.stdout)?;
    let hash = sum.split_whitespace().next().context("no hash")?.to_owned();
    guest_disk(stage.environment(), &data, &local("root"))?;
    let mut second = vec![0; 8 * SECTOR_BYTES];
    second
        .get_mut(..MARK.len())
        .context("room")?
        .copy_from_slice(MARK);
    fs::write(local("second"), second)?;
    let paths = match stage.place().remote() {
        None => host_disks(directory, access)?,
        Some(machine) => {
            // A file system of its own, so that it can be made read-only for the whole of it.
            let folder = "/run/disks";
            let make = format!(
                "umount {folder} 2>/dev/null; mkdir -p {folder} && mount -t tmpfs disks {folder}"
            );
            ensure!(machine.run(&make, LIMIT)?.status == 0, "{make}");
            let paths = ["root", "second"].map(|name| format!("{folder}/{name}"));
            for (name, path) in ["root", "second"].into_iter().zip(&paths) {
                machine.put(&local(name), path, 0o600)?;
            }
            if access == Access::ReadOnly {
                let output = machine.run(&format!("mount -o remount,ro {folder}"), LIMIT)?;
                ensure!(output.status == 0, "{output:?}");
            }
            paths
        }
    };
    Ok(Disks { paths, hash })
}

/// On this computer the disks stay where they are; root may write whatever the mode says.
fn host_disks(directory: &Path, access: Access) -> Result<[String; 2]> {
    use std::os::unix::fs::PermissionsExt as _;
    let paths = ["root", "second"].map(|name| directory.join(name));
    if access == Access::ReadOnly {
        if rustix::process::geteuid().is_root() {
            bail!("root may write any file of this computer; run this as another user");
        }
        for path in &paths {
            fs::set_permissions(path, fs::Permissions::from_mode(0o400))?;
        }
    }
    Ok(paths.map(|path| path.display().to_string()))
}

fn boot(stage: &Stage, directory: &Path, disks: &Disks) -> Result<RunningGuest> {
    let image = GuestImage {
        modules: ["virtio_mmio", "virtio_blk"].map(str::to_owned).into(),
        ..GuestImage::default()
    };
    let (kernel, initrd) = stock::files(stage, directory, &image)?;
    let image = Image::Files(kernel, initrd);
    let builder = GuestBuilder::new(stage.place().clone(), image, stage.transcript().clone());
    let [first, second] = &disks.paths;
    builder
        .cpus(2)
        .cmdline("console=ttyS0 panic=0 trapline.guest=root")
        .options(&["--console", "stdio", "--memory", "512M"])
        .options(&["--disk", first, "--disk", second])
        .running()
        .start_until("trapline-disk: up from", BOOT_LIMIT)
}

fn read(stage: &Stage, path: &str) -> Result<Vec<u8>> {
    Ok(match stage.place().remote() {
        None => fs::read(path)?,
        Some(machine) => machine.get(path)?,
    })
}
