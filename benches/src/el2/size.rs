//! The image's size, and the memory that the hypervisor keeps.

use std::fs;

use anyhow::Result;
use trapline_test_machine::Environment;

use super::Bench;
use super::computer::{Below, Computer, Contents, number_before};
use crate::report::{Bar, Figure};
use crate::stats::Summary;

/// Processors of the computer for which the bar is set.
const CPUS: u32 = 4;
/// What the hypervisor may keep, in MiB.
const BAR_MIB: f64 = 4.0;

pub(super) fn measure_all(bench: &Bench) -> Result<Vec<Figure>> {
    let image_bytes = fs::metadata(Environment::el2_image()?)?.len();
    let image_kib = f64::from(u32::try_from(image_bytes)?) / 1024.0;
    let mut with = Computer::start(bench, Below::Hypervisor, Contents::Stock, CPUS)?;
    let (_, line) = with.expect("of it the hypervisor's")?;
    let own_kib = number_before(&line, " KiB of it")?;
    let with_kib = memory_of_guest(&mut with)?;
    drop(with);
    let mut without = Computer::start(bench, Below::Nothing, Contents::Stock, CPUS)?;
    let without_kib = memory_of_guest(&mut without)?;
    let one = |kib: f64| Summary::of(&[kib / 1024.0]);
    let figure = Figure::new("size of the hypervisor, 4 processors", "MiB")
        .value("image, without a guest", one(image_kib))
        .value("memory that it keeps", one(own_kib))
        .value("MemTotal of the guest, less", one(without_kib - with_kib))
        .check("memory that it keeps", one(own_kib), Bar::AtMost(BAR_MIB))
        .note(format!(
            "the image has {image_bytes} bytes; its heap, stacks and tables are inside"
        ))
        .note(
            "MemTotal: what the stock kernel has to give; its device tree takes 1 MiB of QEMU's, less of the \
             hypervisor's",
        );
    Ok(vec![figure])
}

/// The stock kernel's `MemTotal` in KiB.
fn memory_of_guest(computer: &mut Computer) -> Result<f64> {
    let (_, line) = computer.expect("trapline-bench: ready")?;
    number_before(&line, " kB")
}
