//! Every command, by the packets of a client.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]

mod aarch64;
mod images;
mod inspection;
mod memory;
mod points;
mod running;
mod translation;
mod world;

use alloc::string::String;

use super::commands;
use crate::contract::{Capabilities, StepMethod};
use crate::session::Access;
use world::{CAPABILITIES, World};

/// Asserts what a command answers. Lines of `expected` are indented like the test.
#[track_caller]
fn expect(world: &mut World, line: &str, expected: &str) {
    let answer = world.monitor(line);
    assert_eq!(answer, dedent(expected), "(trapline) {line}\n{answer}");
}

/// Asserts that an answer has these parts.
#[track_caller]
fn expect_parts(world: &mut World, line: &str, parts: &[&str]) {
    let answer = world.monitor(line);
    for part in parts {
        assert!(
            answer.contains(part),
            "no '{part}' in the answer to '{line}':\n{answer}"
        );
    }
}

fn dedent(text: &str) -> String {
    let Some(block) = text.strip_prefix('\n') else {
        return alloc::format!("{text}\n");
    };
    let lines = block.lines().filter(|line| !line.trim().is_empty());
    let indents = lines.map(|line| line.len() - line.trim_start_matches(' ').len());
    let indent = indents.min().unwrap_or(0);
    let mut lines = String::new();
    for line in block.trim_end_matches(' ').lines() {
        lines.push_str(line.get(indent..).unwrap_or_default());
        lines.push('\n');
    }
    lines
}

#[test]
fn help_lists_every_command_once() {
    let mut world = World::new();
    let help = world.monitor("help");
    for command in commands::all() {
        let listed = help
            .lines()
            .filter(|line| line.starts_with(&alloc::format!("  {} ", command.usage())))
            .count();
        assert_eq!(listed, 1, "{}\n{help}", command.name);
    }
    assert!(
        help.lines().all(|line| line.chars().count() <= 100),
        "{help}"
    );
}

#[test]
fn help_explains_each_command_and_its_other_names() {
    let mut world = World::new();
    for command in commands::all() {
        let text = world.monitor(&alloc::format!("help {}", command.name));
        assert!(text.starts_with(command.name), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        for (alias, _) in command.aliases {
            assert!(text.contains(alias), "{text}");
        }
    }
    expect(
        &mut world,
        "help step",
        "
        step [COUNT]: execute one or COUNT instructions of the chosen vCPU
        The other vCPUs stay stopped. The answer comes when the steps are done, or when a
        breakpoint, a watchpoint or 'interrupt' ends them.
        Also: s, si, stepi
        ",
    );
    expect(
        &mut world,
        "help nothing",
        "error: there is no command 'nothing'; 'help' lists them",
    );
}

#[test]
fn names_and_aliases_are_all_different() {
    let mut seen = alloc::vec::Vec::new();
    for command in commands::all() {
        let aliases = command.aliases.iter().map(|(alias, _)| *alias);
        for name in aliases.chain([command.name]) {
            assert!(!seen.contains(&name), "{name} twice");
            seen.push(name);
        }
    }
}

#[test]
fn log_shows_what_the_hypervisor_has_said() {
    let mut world = World::new();
    expect(&mut world, "log", "error: this hypervisor keeps no log");
    world.vm.log = Some("".into());
    expect(&mut world, "log", "nothing was said");
    world.vm.log = Some("EL2, 4 processors\nthe guest begins\n".into());
    expect(
        &mut world,
        "log",
        "
        EL2, 4 processors
        the guest begins
        ",
    );
    expect(
        &mut world,
        "log 3",
        "error: '3' is one word too many; usage: log",
    );
}

#[test]
fn commands_can_be_shortened() {
    let mut world = World::new();
    for (short, long) in [("vers", "version"), ("dis", "disassemble"), ("i", "info")] {
        assert_eq!(world.monitor(short), world.monitor(long));
    }
    expect(&mut world, "re", "error: 're' could be read, regs");
    expect(
        &mut world,
        "frobnicate 1",
        "error: there is no command 'frobnicate'; 'help' lists them",
    );
    expect(
        &mut world,
        "  ",
        "error: no command was given; 'help' lists them",
    );
    expect(
        &mut world,
        "read/4x 0",
        "error: 'read' takes no format; only 'x' does, as in x/4gx",
    );
}

#[test]
fn too_few_and_too_many_words_are_answered_by_the_usage() {
    let mut world = World::new();
    expect(
        &mut world,
        "translate",
        "error: the address is missing; usage: translate ADDR",
    );
    expect(
        &mut world,
        "vcpus all of them",
        "error: 'all' is one word too many; usage: vcpus",
    );
    expect(
        &mut world,
        "set rax",
        "error: the value is missing; usage: set REGISTER VALUE",
    );
}

#[test]
fn lines_are_completed() {
    let mut world = World::new();
    expect(&mut world, "complete re", "\n        read\n        regs\n");
    expect(
        &mut world,
        "complete break do_",
        "
        break do_sys_open
        break do_sys_openat2
        ",
    );
    expect(
        &mut world,
        "complete break pc+linux_",
        "break pc+linux_banner",
    );
    expect(&mut world, "complete break schedule h", "break schedule hw");
    expect(
        &mut world,
        "complete set gdtr_",
        "\n    set gdtr_base\n    set gdtr_limit\n",
    );
    expect(
        &mut world,
        "complete help vc",
        "\n    help vcpu\n    help vcpus\n",
    );
    expect(&mut world, "complete layout i", "layout i386");
    assert_eq!(world.monitor("complete nonsense x"), "OK");
    assert_eq!(world.monitor("complete break "), "OK");
}

#[test]
fn info_shows_what_the_host_can_do() {
    let mut world = World::new();
    expect(
        &mut world,
        "info",
        "
        host                       a test
        guest                      2 vCPUs, x86-64, 256 KiB of memory
        system                     Linux 6.1.0-trapline
        state                      vCPU 0 is held before its first instruction, start_kernel+0x0
        single step                trap flag
        interrupts in a step       held off
        software breakpoints       yes
        hardware slots             4 for breakpoints and watchpoints, 0 in use
        pauses                     the guest's clock is told of them
        when the last client goes  a stopped guest runs on

        Sessions:
           session  client  access  points
        *  1        client  full    0
        ",
    );
}

#[test]
fn info_says_what_is_lost_for_each_absent_capability() {
    let mut world = World::with(Capabilities::NONE, false);
    expect_parts(
        &mut world,
        "info",
        &[
            "system                     not known; 'symbols' says why",
            "single step                none",
            "interrupts in a step       -",
            "Not to be had on this host:\n  single steps: ",
            "\n  software breakpoints: ",
            "\n  hardware breakpoints: ",
            "\n  watchpoints: ",
            "\n  telling the guest's clock",
        ],
    );
    let unmasked = Capabilities {
        holds_interrupts: false,
        ..CAPABILITIES
    };
    let mut world = World::with(unmasked, true);
    expect_parts(&mut world, "info", &["\n  holding interrupts off: "]);
    let separate = Capabilities {
        slots_are_shared: false,
        step: StepMethod::SoftwareStep,
        ..CAPABILITIES
    };
    let mut world = World::with(separate, true);
    expect_parts(
        &mut world,
        "info",
        &[
            "4 for breakpoints, 4 for watchpoints, 0 in use",
            "software step",
        ],
    );
}

#[test]
fn info_knows_the_debuggers() {
    let mut world = World::new();
    let gdb = world.connect(Access::Full);
    world.packet(gdb, "qSupported:swbreak+;qRelocInsn+");
    let lldb = world.connect(Access::ReadOnly);
    world.packet(lldb, "qHostInfo");
    let shell = world.connect(Access::Full);
    world.monitor_of(shell, "events on");
    expect_parts(
        &mut world,
        "info",
        &[
            "*  1        client  full       0",
            "   2        GDB     full       0",
            "   3        LLDB    read-only  0",
            "   4        shell   full       0",
        ],
    );
}

#[test]
fn info_takes_topics() {
    let mut world = World::new();
    for (topic, command) in [
        ("registers", "regs"),
        ("threads", "vcpus"),
        ("symbols", "symbols"),
    ] {
        assert_eq!(
            world.monitor(&alloc::format!("info {topic}")),
            world.monitor(command)
        );
    }
    expect_parts(
        &mut world,
        "info step",
        &["error: there is no topic 'step'"],
    );
    expect_parts(
        &mut world,
        "info info",
        &["error: there is no topic 'info'"],
    );
}

#[test]
fn a_read_only_session_changes_nothing() {
    let mut world = World::new();
    let id = world.connect(Access::ReadOnly);
    for line in [
        "set rax 1",
        "write pc 90",
        "pwrite 0 90",
        "break pc",
        "watch pc",
        "delete all",
        "step",
        "continue",
        "interrupt",
        "detach-policy stop",
    ] {
        let answer = world.monitor_of(id, line);
        assert!(
            answer.starts_with("error: this session is read-only"),
            "{line}: {answer}"
        );
    }
    let answer = world.monitor_of(id, "layout i386");
    assert!(
        answer.starts_with("error: this session is read-only"),
        "{answer}"
    );
    assert!(
        world
            .monitor_of(id, "regs rip")
            .starts_with("rip ffffffff81000000")
    );
}

#[test]
fn version_is_shown() {
    let mut world = World::new();
    expect_parts(&mut world, "version", &["trapline  0.", "host      a test"]);
}

#[test]
fn hostile_lines_are_answered() {
    let mut world = World::new();
    let long = "a".repeat(60_000);
    for line in [
        &long,
        "x/99999999999999999999x 0",
        "read 0xffffffffffffffff 99999999",
        "read -",
        "read +1",
        "read 0x",
        "read 0x10000000000000000",
        "read 1++2",
        "read ffffffffffffffffff",
        "disassemble 0xffffffffffffffff 100000",
        "map 0xffffffffffffffff",
        "find 0 0xffffffffffffffff 00",
        "find 0xffffffffffffffff 0xffffffffffffffff 00",
        "step 0",
        "step 18446744073709551615",
        "step -1",
        "vcpu 4294967296",
        "delete 18446744073709551615",
        "watch 0xffffffffffffffff 32 a",
        "set xmm0 0x111111111111111111111111111111111111111111",
        "symbol \u{fffd}\u{1f600}",
        "complete \u{1f600} \u{1f600}",
        "pt 0xffffffffffffffff",
        "idt 256",
    ] {
        let answer = world.monitor(line);
        assert!(!answer.is_empty(), "{line}");
    }
    let named = alloc::format!("symbol {long}");
    assert!(world.monitor(&named).starts_with("error: "));
}

#[test]
fn lldb_is_answered_by_console_output() {
    let mut world = World::new();
    let lldb = world.connect(Access::Full);
    world.packet(lldb, "qHostInfo");
    world.take_output(lldb);
    // "regs cs", then "step": an answer at once, and one that comes later.
    world.packet(lldb, "qRcmd,72656773206373");
    assert_eq!(world.take_output(lldb), "$O637320303031300a#a2$OK#9a");
    world.packet(lldb, "qRcmd,73746570");
    let answer = world.take_output(lldb);
    assert!(
        answer.starts_with("$O76435055") && answer.ends_with("$OK#9a"),
        "{answer}"
    );
}
