//! Writes a guest's root file system to a file.
//!
//! ```text
//! cargo run -p trapline-test-machine --example guest -- [--arm64] FILE
//! ```

use core::error::Error;
use std::{env, fs};

use trapline_test_machine::{Architecture, Environment, GuestImage, guest_initramfs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1).peekable();
    let architecture = match arguments.next_if(|argument| argument == "--arm64") {
        Some(_) => Architecture::Arm64,
        None => Architecture::X86_64,
    };
    let file = arguments.next().ok_or("usage: guest [--arm64] FILE")?;
    let image = GuestImage {
        architecture,
        ..GuestImage::default()
    };
    fs::write(file, guest_initramfs(&Environment::load(), &image)?)?;
    Ok(())
}
