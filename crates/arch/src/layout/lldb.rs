//! LLDB's register information, one register per `qRegisterInfo` reply.

use alloc::string::String;
use core::fmt::Write as _;

use super::LayoutEntry;

/// Renders the reply for one register.
///
/// ```text
/// name:rip;alt-name:pc;bitsize:64;offset:128;encoding:uint;format:hex;set:General Purpose
/// Registers;ehframe:16;dwarf:16;generic:pc;
/// ```
pub(super) fn register_info(entry: &LayoutEntry) -> String {
    let (register, view) = (entry.register, entry.view);
    let mut reply = String::new();
    let mut key = |name: &str, value: &dyn core::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = write!(reply, "{name}:{value};");
    };
    key("name", &view.name);
    if let Some(alt_name) = register.alt_name {
        key("alt-name", &alt_name);
    }
    key("bitsize", &entry.bits);
    key("offset", &entry.offset_bytes);
    key("encoding", &register.encoding.name());
    key("format", &register.format.name());
    key("set", &register.set);
    if let Some(ehframe) = view.ehframe {
        key("ehframe", &ehframe);
    }
    if let Some(dwarf) = view.dwarf {
        key("dwarf", &dwarf);
    }
    if let Some(role) = view.generic.and_then(|generic| generic.name()) {
        key("generic", &role);
    }
    reply
}
