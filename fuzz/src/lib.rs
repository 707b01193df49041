//! The bodies of the fuzz targets, as plain functions, so that a stable compiler can run them too.
//!
//! Each takes any bytes and panics if a promise is broken.

mod framing;
mod kallsyms;
mod page_walk;
mod request;
mod session;
mod vmcoreinfo;

pub use framing::framing;
pub use kallsyms::kallsyms;
pub use page_walk::page_walk;
pub use request::request;
pub use session::session;
pub use vmcoreinfo::vmcoreinfo;

/// A fuzz target: the name of its seed folder and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Targets of which one run takes about as long as a hundred of the others.
pub const SLOW: &[&str] = &["session"];

/// All targets.
pub const TARGETS: &[Target] = &[
    ("framing", framing),
    ("kallsyms", kallsyms),
    ("page_walk", page_walk),
    ("request", request),
    ("session", session),
    ("vmcoreinfo", vmcoreinfo),
];
