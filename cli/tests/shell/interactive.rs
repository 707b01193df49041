//! The shell on a terminal.

use trapline_engine::VcpuId;

use crate::fake::{Fake, Line};
use crate::terminal::{CTRL_C, CTRL_D, CTRL_R, Terminal, UP};

const STOPPED: &str = "vcpu 0 stopped>";
const RUNNING: &str = "vcpu 0 running>";

/// Starts the shell, without colours so that texts are easy to compare.
fn shell(fake: &Fake) -> Terminal {
    let terminal = Terminal::start(&fake.socket(), fake.folder(), &[("NO_COLOR", "1")]);
    terminal.expect_line(RUNNING);
    terminal
}

fn stopped_shell(fake: &Fake) -> Terminal {
    let mut terminal = shell(fake);
    terminal.enter("interrupt");
    terminal.expect_line(STOPPED);
    terminal
}

#[test]
fn a_newcomer_is_told_where_he_is_and_what_to_type() {
    let fake = Fake::start();
    let terminal = shell(&fake);
    let text = terminal.text();
    let socket = fake.socket().display().to_string();
    let greeting = format!(
        "unix:{socket}: the guest runs\n'help' lists the commands; Ctrl-C stops the guest, Ctrl-D \
         leaves.\n{RUNNING}"
    );
    assert_eq!(text.trim_end(), greeting);
    assert!(!terminal.has_colours());
}

#[test]
fn help_lists_the_servers_commands_and_the_shells_own() {
    let fake = Fake::start();
    let mut terminal = shell(&fake);
    terminal.enter("help");
    let text = terminal.text();
    for line in ["vcpus", "COMMAND | PROGRAM", "source FILE"] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    terminal.enter("help wait");
    terminal.expect_text("wait [SECONDS]: wait until the guest stops");
}

#[test]
fn ctrl_c_stops_the_guest_and_ctrl_d_leaves_it_running() {
    let fake = Fake::start();
    let mut terminal = shell(&fake);
    terminal.type_in(CTRL_C);
    terminal.expect_line(STOPPED);
    terminal.expect_text("vCPU 0 stopped by request");
    assert!(!fake.is_running());
    terminal.type_in(CTRL_D);
    assert!(terminal.wait().success());
    assert!(terminal.is_restored());
    fake.expect_running();
}

#[test]
fn the_prompt_follows_the_guest() {
    let fake = Fake::start();
    let mut terminal = stopped_shell(&fake);
    terminal.enter("vcpu 1");
    terminal.expect_line("vcpu 1 stopped>");
    terminal.enter("continue");
    terminal.expect_line("vcpu 1 running>");
}

#[test]
fn a_stop_is_told_above_the_prompt_and_what_was_typed_stays() {
    let fake = Fake::start();
    let mut terminal = stopped_shell(&fake);
    terminal.enter("break kernel_idle");
    terminal.enter("continue");
    terminal.expect_line(RUNNING);
    terminal.type_in("regs ri");
    terminal.expect_line(&format!("{RUNNING} regs ri"));
    fake.expect_breakpoint(0x1100);
    fake.hit(VcpuId(1), 0x1100);
    terminal.expect_line("vcpu 1 stopped> regs ri");
    let text = terminal.text();
    let told = text.lines().rev().nth(1).unwrap();
    assert!(
        told.starts_with("vCPU 1 stopped at breakpoint 1, kernel_idle"),
        "{text}"
    );
    terminal.enter("p");
    terminal.expect_text("0x1100");
}

#[test]
fn an_event_is_told_once() {
    let fake = Fake::start();
    let mut terminal = stopped_shell(&fake);
    terminal.enter("step");
    terminal.enter("continue");
    terminal.enter("version");
    terminal.enter("interrupt");
    terminal.enter("version");
    let text = terminal.text();
    assert_eq!(text.matches("vCPU 0 stepped").count(), 1, "{text}");
    assert_eq!(text.matches("the guest runs").count(), 1, "{text}");
    assert_eq!(text.matches("stopped by request").count(), 2, "{text}");
}

#[test]
fn an_empty_line_steps_again_and_reads_on() {
    let fake = Fake::start();
    let mut terminal = stopped_shell(&fake);
    terminal.enter("step");
    terminal.enter("");
    terminal.expect_text("kernel_main+0x2");
    terminal.enter("x/2bx 0x2000");
    terminal.enter("");
    terminal.expect_text("2002");
    terminal.enter("version");
    let versions = terminal.text().matches("trapline").count();
    terminal.enter("");
    assert_eq!(terminal.text().matches("trapline").count(), versions);
}

#[test]
fn commands_registers_and_symbols_are_completed() {
    let fake = Fake::start();
    let mut terminal = stopped_shell(&fake);
    terminal.type_in("conti\t");
    terminal.expect_line(&format!("{STOPPED} continue"));
    terminal.type_in("\x15break kernel_m\t");
    terminal.expect_line(&format!("{STOPPED} break kernel_main"));
    terminal.type_in("\x15x kernel_\t\t");
    terminal.expect_text("kernel_idle  kernel_main");
    terminal.type_in("\x15phys \t\t");
    terminal.expect_text("off  on");
    terminal.type_in("\x15sou\t");
    terminal.expect_line(&format!("{STOPPED} source FILE"));
}

#[test]
fn a_hint_shows_the_arguments() {
    let fake = Fake::start();
    let mut terminal = shell(&fake);
    terminal.type_in("watch ");
    terminal.expect_line(&format!("{RUNNING} watch ADDR [LEN] [r|w|a]"));
}

#[test]
fn lines_are_remembered_from_one_shell_to_the_next() {
    let fake = Fake::start();
    let mut terminal = shell(&fake);
    terminal.enter("version");
    terminal.enter("vcpus");
    terminal.type_in(UP);
    terminal.expect_line(&format!("{RUNNING} vcpus"));
    terminal.enter("");
    terminal.enter("history");
    terminal.expect_text("1  version\n    2  vcpus\n    3  vcpus\n    4  history");
    terminal.type_in("quit\r");
    assert!(terminal.wait().success());

    let mut terminal = shell(&fake);
    terminal.type_in(CTRL_R);
    terminal.type_in("ver");
    terminal.expect_text("(reverse-i-search)`ver': version");
    terminal.type_in("\r");
    terminal.expect_text("a test");
    let history = fake.folder().join(".local/state/trapline/history");
    assert!(std::fs::read_to_string(history).unwrap().contains("vcpus"));
}

#[test]
fn ctrl_c_ends_a_wait() {
    let fake = Fake::start();
    let mut terminal = shell(&fake);
    terminal.type_in("wait\r");
    // Before that the editor has the terminal, and Ctrl-C is a key.
    terminal.expect("the end of editing", Terminal::is_restored);
    terminal.type_in(CTRL_C);
    terminal.expect_text("error: not waited for; the guest runs");
    terminal.expect_line(RUNNING);
}

#[test]
fn failures_are_told_and_the_shell_goes_on() {
    let fake = Fake::start();
    let mut terminal = shell(&fake);
    terminal.enter("nonsense");
    terminal.expect_text("error: there is no command 'nonsense'");
    terminal.enter("source /does/not/exist");
    terminal.expect_text("error: /does/not/exist: cannot read it");
    terminal.enter("version | cat -n");
    terminal.expect_text("1\ttrapline".replace('\t', "  ").as_str());
    terminal.enter("!echo from a program");
    terminal.expect_text("\nfrom a program");
}

#[test]
fn a_server_that_vanishes_ends_the_shell_at_once() {
    let fake = Fake::start();
    let line = Line::to(&fake);
    let mut terminal = Terminal::start(&line.socket(), fake.folder(), &[]);
    terminal.expect_line(RUNNING);
    line.cut();
    assert_eq!(terminal.wait().code(), Some(1));
    terminal.expect_text("the server is gone");
    assert!(terminal.is_restored());
}

#[test]
fn a_terminal_with_colours_has_them() {
    let fake = Fake::start();
    let terminal = Terminal::start(&fake.socket(), fake.folder(), &[]);
    terminal.expect_line(RUNNING);
    assert!(terminal.has_colours());
}

#[test]
fn long_output_goes_through_the_pager() {
    let fake = Fake::start();
    let pager = [("PAGER", "head -2"), ("NO_COLOR", "1")];
    let mut terminal = Terminal::start(&fake.socket(), fake.folder(), &pager);
    terminal.expect_line(RUNNING);
    terminal.enter("read 0x1000 4096");
    let lines = terminal.text().matches("|......").count();
    assert_eq!(lines, 2, "{}", terminal.text());
}
