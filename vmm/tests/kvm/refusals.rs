//! Configurations that cannot be: each is refused with what is wrong and where.

use core::error::Error;
use std::fs;

use trapline_test_machine::{HostKvm, did_not_run};
use trapline_vmm::{Image, KernelFormat, MAX_VCPUS, Vm, VmConfig};

fn good() -> VmConfig {
    let guest = &trapline_guests::COUNTER;
    VmConfig::new(Image::Bytes(guest.name, guest.elf))
}

/// Requires that a configuration is refused with a message, its causes included, that holds all of
/// `texts`.
fn expect_refused(config: &VmConfig, texts: &[&str]) {
    let error = Vm::new(config).expect_err("refused");
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    for text in texts {
        assert!(message.contains(text), "'{text}' is not in: {message}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    if !HostKvm::probe().runs_tiny_guest() {
        did_not_run("refusals of the VMM", HostKvm::probe().describe());
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("script.sh");
    fs::write(&script, "#!/bin/sh\n").expect("a writable folder");
    let no_kernel = |path: &str| VmConfig::new(Image::File(path.into()));
    let name = script.to_string_lossy().into_owned();

    expect_refused(
        &no_kernel("/nonexistent/vmlinuz"),
        &["/nonexistent/vmlinuz", "No such file"],
    );
    expect_refused(
        &no_kernel(&name),
        &[&name, "no kernel", "23212f62696e2f7368", "bzImage"],
    );
    expect_refused(&no_kernel("/dev/null"), &["/dev/null", "no regular file"]);

    let mut config = good();
    for count in [0, MAX_VCPUS + 1] {
        config.vcpu_count = count;
        expect_refused(&config, &[&count.to_string(), "vCPUs"]);
    }
    let mut config = good();
    config.memory_bytes = (8 << 20) + 1;
    expect_refused(&config, &["8388609 bytes"]);
    let mut config = good();
    config.initrd = Some("/nonexistent/initrd".into());
    expect_refused(&config, &["/nonexistent/initrd", "No such file"]);
    let mut config = good();
    config.disks = vec![folder.path().join("none")];
    expect_refused(&config, &["none", "No such file"]);
    config.disks = vec![script.clone(); 9];
    expect_refused(&config, &["9 disks"]);
    config.disks = vec![script];
    expect_refused(&config, &["script.sh", "512"]);
    let mut config = good();
    config.format = KernelFormat::Flat(0xffff_ffff_ffff_f000);
    expect_refused(
        &config,
        &["counter", "0xfffffffffffff000", "no free memory"],
    );
}
