//! `trapline bundle`: a hypervisor and its guest in one image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use trapline_hypervisor::bundle::{self, Part};

/// Where the header of an arm64 Linux Image has its magic number, and its size in memory (Linux, "Booting AArch64
/// Linux").
const MAGIC_OFFSET: usize = 56;
const MAGIC: &[u8] = b"ARM\x64";
const SIZE_OFFSET: usize = 16;
/// The guest's bundle begins where the image ends, at a page.
const PAGE_BYTES: usize = 4096;

/// Options of `trapline bundle`.
#[derive(Args, Debug)]
pub(crate) struct BundleArguments {
    /// The hypervisor's image without a guest, as './x build' makes it
    #[arg(long, value_name = "IMAGE")]
    hypervisor: PathBuf,
    /// The guest's kernel, an uncompressed arm64 Linux Image
    #[arg(long, value_name = "IMAGE")]
    kernel: PathBuf,
    /// The guest's initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The guest's command line
    #[arg(long, value_name = "TEXT", default_value = "")]
    append: String,
    /// A serial port for debuggers, by its path, alias or address in the device tree; may be repeated [default:
    /// the first that is not the console]
    #[arg(long, value_name = "NAME")]
    debug_uart: Vec<String>,
    /// Hold the guest before its first instruction until a debugger resumes it
    #[arg(long)]
    wait: bool,
    /// Where to write the image
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes the image and says how large it is.
///
/// # Errors
/// A text for the user.
pub(crate) fn main(arguments: &BundleArguments) -> anyhow::Result<ExitCode> {
    let hypervisor = read(&arguments.hypervisor)?;
    let kernel = read(&arguments.kernel)?;
    let initrd = arguments.initrd.as_deref().map(read).transpose()?;
    for (path, image) in [
        (&arguments.hypervisor, &hypervisor),
        (&arguments.kernel, &kernel),
    ] {
        ensure!(
            is_image(image),
            "{}: is no arm64 Linux Image (a compressed one is to be unpacked first)",
            path.display()
        );
    }
    let options = options(arguments);
    let mut parts = vec![(Part::Kernel, kernel.as_slice())];
    parts.extend(initrd.as_deref().map(|initrd| (Part::Initrd, initrd)));
    parts.push((Part::CommandLine, arguments.append.as_bytes()));
    parts.push((Part::Options, options.as_bytes()));
    let image = append(hypervisor, &bundle::write(&parts))
        .with_context(|| format!("{}: cannot take a guest", arguments.hypervisor.display()))?;
    fs::write(&arguments.output, &image)
        .with_context(|| format!("{}: cannot write it", arguments.output.display()))?;
    println!(
        "{}: {} KiB, to be started as a Linux kernel at EL2",
        arguments.output.display(),
        image.len().div_ceil(1024)
    );
    Ok(ExitCode::SUCCESS)
}

/// The hypervisor's own options, as words.
fn options(arguments: &BundleArguments) -> String {
    let ports = arguments.debug_uart.iter();
    let ports = ports.map(|name| format!("debug={name}"));
    let wait = arguments.wait.then(|| "wait".to_owned());
    ports.chain(wait).collect::<Vec<_>>().join(" ")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{}: cannot read it", path.display()))
}

fn is_image(bytes: &[u8]) -> bool {
    bytes
        .get(MAGIC_OFFSET..)
        .is_some_and(|rest| rest.starts_with(MAGIC))
}

/// Puts a bundle behind a hypervisor, whose header tells boot loaders the size of both.
fn append(mut image: Vec<u8>, bundle: &[u8]) -> anyhow::Result<Vec<u8>> {
    let own_bytes = image.get(SIZE_OFFSET..).and_then(|rest| rest.first_chunk());
    let own_bytes = u64::from_le_bytes(*own_bytes.context("it is cut short")?);
    ensure!(
        usize::try_from(own_bytes).is_ok_and(|bytes| bytes == image.len())
            && image.len().is_multiple_of(PAGE_BYTES),
        "it has {} bytes, and its header says {own_bytes}: it is cut short, or was changed",
        image.len()
    );
    image.extend_from_slice(bundle);
    let size = u64::try_from(image.len())?.to_le_bytes();
    if let Some(place) = image.get_mut(SIZE_OFFSET..SIZE_OFFSET + size.len()) {
        place.copy_from_slice(&size);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; PAGE_BYTES];
        image[SIZE_OFFSET..SIZE_OFFSET + 8].copy_from_slice(&4096_u64.to_le_bytes());
        image[MAGIC_OFFSET..MAGIC_OFFSET + 4].copy_from_slice(MAGIC);
        image
    }

    #[test]
    fn a_bundle_stands_behind_the_image_and_counts_for_its_size() {
        let both = append(image(), b"bundle").unwrap();
        assert!(is_image(&both));
        assert_eq!(&both[PAGE_BYTES..], b"bundle");
        assert_eq!(both[SIZE_OFFSET..SIZE_OFFSET + 8], 4102_u64.to_le_bytes());
    }

    #[test]
    fn an_image_that_is_cut_short_takes_no_guest() {
        let mut cut = append(image(), &[0; PAGE_BYTES]).unwrap();
        cut.truncate(PAGE_BYTES);
        assert!(append(cut, b"bundle").is_err());
    }

    #[test]
    fn what_is_too_short_for_a_header_is_refused() {
        assert!(!is_image(b""));
        assert!(append(vec![0; 20], b"bundle").is_err());
    }
}
