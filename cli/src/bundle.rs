//! `trapline bundle`: a bare-metal hypervisor and its guest in one image.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use trapline_hypervisor::bundle::{self, Part};
use trapline_hypervisor::handover::ImageHeader;

/// Where an arm64 Image's header has the length of the image in memory (Linux, "Booting `AArch64`
/// Linux").
const IMAGE_SIZE: core::ops::Range<usize> = 16..24;

/// Options of `trapline bundle`.
#[derive(Args, Debug)]
pub(crate) struct BundleArguments {
    /// The hypervisor's image, as './x build' makes it
    #[arg(long, value_name = "FILE")]
    hypervisor: PathBuf,
    /// The guest's kernel: an uncompressed arm64 Image, or what boots like one
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The guest's initial file system
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The guest's command line
    #[arg(
        long,
        visible_alias = "cmdline",
        value_name = "TEXT",
        default_value = ""
    )]
    append: String,
    /// The serial port for debuggers: a device tree path, the address of its registers (0x…), or
    /// uartN. May be given several times [default: the first that is not the console]
    #[arg(long, value_name = "UART")]
    debug_uart: Vec<String>,
    /// Hold the guest before its first instruction until a debugger resumes it
    #[arg(long)]
    wait: bool,
    /// Where to write the image
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes the image and says what it is.
///
/// # Errors
/// A text for the user.
pub(crate) fn main(arguments: &BundleArguments) -> anyhow::Result<ExitCode> {
    let mut image = read(&arguments.hypervisor)?;
    check_hypervisor(&image)
        .with_context(|| format!("{}: not a hypervisor", arguments.hypervisor.display()))?;
    let kernel = read(&arguments.kernel)?;
    check_kernel(&kernel).with_context(|| arguments.kernel.display().to_string())?;
    let initrd = arguments.initrd.as_deref().map(read).transpose()?;
    let options = options(arguments)?;
    let mut parts: Vec<(Part, &[u8])> = vec![(Part::Kernel, &kernel)];
    parts.extend(initrd.as_deref().map(|bytes| (Part::Initrd, bytes)));
    parts.push((Part::CommandLine, arguments.append.as_bytes()));
    parts.push((Part::Options, options.as_bytes()));
    image.extend(bundle::write(&parts));
    let len = (image.len() as u64).to_le_bytes();
    image[IMAGE_SIZE].copy_from_slice(&len);
    let output = arguments.output.display();
    std::fs::write(&arguments.output, &image)
        .with_context(|| format!("{output}: cannot write it"))?;
    println!(
        "{output}: {} KiB; start it at EL2 like a Linux Image",
        image.len() >> 10
    );
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}: cannot read it", path.display()))
}

fn check_hypervisor(image: &[u8]) -> anyhow::Result<()> {
    let header = ImageHeader::read(image)?;
    ensure!(
        header.image_len_bytes == image.len() as u64,
        "its header has another length than the file: it is bundled already, or a kernel"
    );
    Ok(())
}

fn check_kernel(kernel: &[u8]) -> anyhow::Result<()> {
    match kernel {
        [0x1f, 0x8b, ..] => {
            bail!("the kernel is compressed; unpack it first: gunzip -c FILE > Image")
        }
        _ => ImageHeader::read(kernel).map(drop).map_err(Into::into),
    }
}

fn options(arguments: &BundleArguments) -> anyhow::Result<String> {
    let mut options = Vec::new();
    for name in &arguments.debug_uart {
        ensure!(
            !name.is_empty() && !name.contains(char::is_whitespace),
            "'{name}' is no name of a serial port"
        );
        options.push(format!("debug={name}"));
    }
    if arguments.wait {
        options.push("wait".into());
    }
    Ok(options.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(len: u64) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[56..60].copy_from_slice(b"ARM\x64");
        image[IMAGE_SIZE].copy_from_slice(&len.to_le_bytes());
        image
    }

    #[test]
    fn an_image_that_is_bundled_is_not_bundled_again() {
        assert!(check_hypervisor(&image(4096)).is_ok());
        let error = check_hypervisor(&image(8192)).unwrap_err().to_string();
        assert!(error.contains("bundled already"), "{error}");
        assert!(check_hypervisor(&[0; 4096]).is_err());
    }

    #[test]
    fn a_compressed_kernel_is_told_from_what_is_no_kernel() {
        let error = check_kernel(&[0x1f, 0x8b, 8, 0]).unwrap_err().to_string();
        assert!(error.contains("gunzip"), "{error}");
        let error = check_kernel(&[0; 100]).unwrap_err().to_string();
        assert!(error.contains("no arm64 Image"), "{error}");
        assert!(check_kernel(&image(0)).is_ok());
    }
}
