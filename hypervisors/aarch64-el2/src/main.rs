//! The hypervisor's image. See the library for what it is.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod machine;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "trapline-el2 runs on bare metal: build it for aarch64-unknown-none-softfloat \
         (./x build el2 does)"
    );
    std::process::exit(2);
}
