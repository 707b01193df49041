//! The bodies of the fuzz targets, as plain functions, so that a stable compiler can run them too.
//!
//! Each takes any bytes and panics if a promise is broken.

mod framing;
mod instructions_aarch64;
mod kallsyms;
mod mach_image;
mod page_walk;
mod page_walk_aarch64;
mod request;
mod session;
mod vmcoreinfo;

pub use framing::framing;
pub use instructions_aarch64::instructions_aarch64;
pub use kallsyms::kallsyms;
pub use mach_image::mach_image;
pub use page_walk::page_walk;
pub use page_walk_aarch64::page_walk_aarch64;
pub use request::request;
pub use session::{session, session_aarch64};
pub use vmcoreinfo::vmcoreinfo;

/// A fuzz target: the name of its seed folder and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Targets of which one run takes about as long as a hundred of the others.
pub const SLOW: &[&str] = &["session", "session_aarch64"];

/// All targets.
pub const TARGETS: &[Target] = &[
    ("framing", framing),
    ("instructions_aarch64", instructions_aarch64),
    ("kallsyms", kallsyms),
    ("mach_image", mach_image),
    ("page_walk", page_walk),
    ("page_walk_aarch64", page_walk_aarch64),
    ("request", request),
    ("session", session),
    ("session_aarch64", session_aarch64),
    ("vmcoreinfo", vmcoreinfo),
];
