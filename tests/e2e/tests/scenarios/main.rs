//! What a user sees of Trapline, over real GDB and real LLDB on real guests.

mod arm;
mod bad_input;
mod basics;
mod boards;
mod breakpoints;
mod churn;
mod disks;
mod ends;
mod interrupts;
mod lldb;
mod lockstep;
mod macho;
mod own;
mod protocol;
mod sessions;
mod smp;
mod startup;
mod steps;
mod stock;
mod watchpoints;

use std::process::ExitCode;

use trapline_e2e::{
    Scenario,
    harness::{Group, run},
};

const GROUPS: &[Group] = &[
    group("arm", arm::SCENARIOS),
    group("bad_input", bad_input::SCENARIOS),
    group("basics", basics::SCENARIOS),
    group("boards", boards::SCENARIOS),
    group("breakpoints", breakpoints::SCENARIOS),
    group("churn", churn::SCENARIOS),
    group("disks", disks::SCENARIOS),
    group("ends", ends::SCENARIOS),
    group("interrupts", interrupts::SCENARIOS),
    group("lldb", lldb::SCENARIOS),
    group("lockstep", lockstep::SCENARIOS),
    group("macho", macho::SCENARIOS),
    group("own", own::SCENARIOS),
    group("protocol", protocol::SCENARIOS),
    group("sessions", sessions::SCENARIOS),
    group("smp", smp::SCENARIOS),
    group("startup", startup::SCENARIOS),
    group("steps", steps::SCENARIOS),
    group("stock", stock::SCENARIOS),
    group("watchpoints", watchpoints::SCENARIOS),
];

const fn group(name: &'static str, scenarios: &'static [Scenario]) -> Group {
    Group { name, scenarios }
}

fn main() -> ExitCode {
    run(GROUPS, Vec::new())
}

/// Makes a list of scenarios of functions: each after who plays it and on what, or on which of several.
macro_rules! scenarios {
    ($($with:ident $needs:tt $name:ident;)*) => {
        pub(crate) const SCENARIOS: &[trapline_e2e::Scenario] = &[$(trapline_e2e::Scenario {
            name: stringify!($name),
            needs: crate::needs!($needs),
            with: trapline_e2e::With::$with,
            run: $name,
        }),*];
    };
}
pub(crate) use scenarios;

macro_rules! needs {
    ([$($needs:ident)*]) => { &[$(trapline_e2e::Needs::$needs),*] };
    ($needs:ident) => { &[trapline_e2e::Needs::$needs] };
}
pub(crate) use needs;
