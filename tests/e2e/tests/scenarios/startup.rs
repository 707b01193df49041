//! What goes wrong before a guest runs, and what is said of it.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Result, ensure};
use trapline_e2e::{Stage, harness::did_not_run};
use trapline_guests::COUNTER;
use trapline_test_machine::Environment;

crate::scenarios! {
    Neither AnyKvm a_file_that_does_not_exist_is_named;
    Neither AnyKvm a_file_that_is_no_kernel_is_named;
    Neither AnyKvm a_socket_in_use_is_refused_and_stays_with_its_owner;
    Neither AnyKvm a_socket_that_nobody_serves_any_more_is_taken_over;
    Neither AnyKvm no_permission_for_kvm_is_said;
    Neither AnyKvm no_kvm_is_said;
    Neither AnyKvm an_address_for_other_machines_needs_a_flag;
}

/// Runs `trapline run` to its end, which must be a failure, and yields what it said.
pub(crate) fn refused(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it was not refused: {text}");
    ensure!(text.starts_with("trapline: "), "{text}");
    ensure!(!text.contains("panicked"), "{text}");
    Ok(text)
}

pub(crate) fn trapline() -> Result<Command> {
    let mut command = Command::new(Environment::program("trapline")?);
    command.args(["run", "--console", "none", "--memory", "16M"]);
    Ok(command)
}

fn a_file_that_does_not_exist_is_named(_: &Stage) -> Result<()> {
    let text = refused(trapline()?.args(["--kernel", "/nonexistent/kernel"]))?;
    ensure!(text.contains("/nonexistent/kernel"), "{text}");
    ensure!(text.contains("No such file"), "{text}");
    let directory = tempfile::tempdir()?;
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, COUNTER.elf)?;
    let text = refused(
        trapline()?
            .arg("--kernel")
            .arg(&kernel)
            .args(["--initrd", "/none"]),
    )?;
    ensure!(text.contains("/none"), "{text}");
    let text = refused(
        trapline()?
            .arg("--kernel")
            .arg(&kernel)
            .args(["--disk", "/none"]),
    )?;
    ensure!(text.contains("/none"), "{text}");
    Ok(())
}

fn a_file_that_is_no_kernel_is_named(_: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("text");
    let cut = COUNTER.elf.get(..100).unwrap_or_default();
    for content in [&b"this is no kernel"[..], b"", b"\x7fELF", cut] {
        fs::write(&path, content)?;
        let text = refused(trapline()?.arg("--kernel").arg(&path))?;
        ensure!(text.contains(&path.display().to_string()), "{text}");
    }
    Ok(())
}

fn a_socket_in_use_is_refused_and_stays_with_its_owner(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    let address = format!("unix:{}", guest.socket().display());
    let image = guest.image_path()?;
    let mut second = trapline()?;
    second
        .arg("--kernel")
        .arg(&image)
        .args(["--listen", &address]);
    let text = refused(&mut second)?;
    ensure!(
        text.contains(&guest.socket().display().to_string()),
        "{text}"
    );
    ensure!(client.ask("qC")?.starts_with("QC"));
    drop(client);
    let mut client = stage.client(&guest)?;
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

/// A server that was killed leaves its socket's file.
fn a_socket_that_nobody_serves_any_more_is_taken_over(stage: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&path)?);
    let address = format!("unix:{}", path.display());
    let guest = stage
        .guest(&COUNTER)
        .options(&["--listen", &address])
        .start()?;
    let mut client = trapline_e2e::RawClient::without_acks(&path, stage.transcript())?;
    ensure!(client.ask("qC")?.starts_with("QC"));
    drop(guest);
    Ok(())
}

fn no_permission_for_kvm_is_said(_: &Stage) -> Result<()> {
    const NOBODY: u32 = 65534;
    let what = "startup::no_permission_for_kvm_is_said";
    if !rustix::process::geteuid().is_root() {
        did_not_run(what, "only root can run a program as another user");
        return Ok(());
    }
    // The program's folder may be closed to others, and a copy of it is not.
    let directory = tempfile::tempdir_in("/tmp")?;
    let program = directory.path().join("trapline");
    fs::copy(Environment::program("trapline")?, &program)?;
    let open = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    open(directory.path())?;
    open(&program)?;
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, COUNTER.elf)?;
    let mut command = Command::new(&program);
    command
        .args(["run", "--console", "none", "--kernel"])
        .arg(&kernel);
    command.uid(NOBODY).gid(NOBODY);
    let text = refused(&mut command)?;
    ensure!(text.contains("/dev/kvm"), "{text}");
    ensure!(
        text.to_lowercase().contains("permission") || text.contains("group"),
        "{text}"
    );
    Ok(())
}

/// In a mount namespace whose `/dev` is empty.
fn no_kvm_is_said(_: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, COUNTER.elf)?;
    let script = "mount -t tmpfs none /dev && echo mounted && exec \"$0\" run --console none --kernel \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command.arg(Environment::program("trapline")?).arg(&kernel);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !String::from_utf8_lossy(&output.stdout).contains("mounted") {
        did_not_run(
            "startup::no_kvm_is_said",
            &format!("no mount namespace: {text}"),
        );
        return Ok(());
    }
    ensure!(!output.status.success(), "{text}");
    ensure!(text.contains("/dev/kvm"), "{text}");
    Ok(())
}

fn an_address_for_other_machines_needs_a_flag(_: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, COUNTER.elf)?;
    let mut command = trapline()?;
    command
        .arg("--kernel")
        .arg(&kernel)
        .args(["--listen", "tcp:0.0.0.0:0"]);
    let text = refused(&mut command)?;
    ensure!(text.contains("0.0.0.0"), "{text}");
    ensure!(text.contains("--allow-remote"), "{text}");
    Ok(())
}
