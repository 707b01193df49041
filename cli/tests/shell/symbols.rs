//! `trapline symbols`.

use std::path::Path;
use std::process::{Command, Output};

use trapline_engine::Access;

use crate::fake::{Fake, Kernel, symbol_file};

fn symbols(fake: &Fake, output: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trapline"))
        .arg("symbols")
        .arg(fake.socket())
        .arg("-o")
        .arg(output)
        .output()
        .unwrap()
}

#[test]
fn the_whole_file_is_written_and_its_use_is_told() {
    let fake = Fake::start();
    let path = fake.folder().join("symbols.elf");
    std::fs::write(&path, "an older one").unwrap();
    let output = symbols(&fake, &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(&path).unwrap(), symbol_file());
    let text = String::from_utf8(output.stdout).unwrap();
    let (file, socket) = (path.display(), fake.socket());
    assert_eq!(
        text,
        format!(
            "{file}: 2 symbols of Fakix 1.0, where they are since this boot\n  \
             gdb {file} -ex 'target remote {0}'\n  \
             lldb {file} -o 'process connect unix-connect://{0}'\n",
            socket.display()
        )
    );
}

#[test]
fn a_kernel_that_is_not_known_leaves_no_file() {
    let fake = Fake::with(Kernel::Unknown, Access::Full);
    let path = fake.folder().join("symbols.elf");
    let output = symbols(&fake, &path);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("the guest's kernel is not known yet"),
        "{error}"
    );
    assert!(!path.exists());
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let fake = Fake::start();
    let output = symbols(&fake, Path::new("/does/not/exist/symbols.elf"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("/does/not/exist/symbols.elf: cannot write it"),
        "{error}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_device_is_written_to_and_not_replaced() {
    let fake = Fake::start();
    assert!(symbols(&fake, Path::new("/dev/null")).status.success());
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}
