//! The shell in a script.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::thread;

use trapline_engine::{Access, VcpuId};

use crate::fake::{Fake, Kernel, SYSTEM};

fn shell() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trapline"));
    command.arg("shell").env("LC_ALL", "C");
    command
}

/// Carries out commands given on the command line.
fn run(fake: &Fake, commands: &[&str]) -> Output {
    let mut program = shell();
    program.arg(fake.socket());
    for command in commands {
        program.args(["-c", command]);
    }
    program.stdin(Stdio::null()).output().unwrap()
}

/// Carries out commands given on the standard input.
fn pipe(fake: &Fake, input: &str) -> Output {
    let mut child = shell()
        .arg(fake.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn commands_are_carried_out_in_order() {
    let fake = Fake::start();
    let output = run(
        &fake,
        &["interrupt", "step 2", "x/2bx 0x2000", "symbol 0x1002"],
    );
    assert_eq!(stderr(&output), "");
    assert_eq!(
        stdout(&output),
        "vCPU 0 stopped by request, kernel_main+0x0\n\
         vCPU 0 stepped to kernel_main+0x2\n\
         0000000000002000 <kernel_idle+0xf00>:  0x90  0x90\n\
         0x1002 is kernel_main+0x2\n"
    );
    assert!(output.status.success());
    fake.expect_running();
}

#[test]
fn commands_come_from_a_pipe_too() {
    let fake = Fake::start();
    let output = pipe(&fake, "# a comment\n\nsymbol kernel_idle\nquit\nversion\n");
    assert_eq!(stdout(&output), "kernel_idle is at 0x1100\n");
    assert!(output.status.success());
}

#[test]
fn the_first_failure_ends_it() {
    let fake = Fake::start();
    let output = run(&fake, &["read 0xffffff", "version"]);
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).starts_with("error: "), "{output:?}");
    assert_eq!(output.status.code(), Some(1));

    let output = pipe(&fake, "wait soon\nversion\n");
    assert_eq!(
        stderr(&output),
        "error: 'soon' is no number of seconds; usage: wait [SECONDS]\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_script_waits_for_a_breakpoint() {
    let fake = Fake::start();
    let commands = [
        "interrupt",
        "break kernel_idle",
        "continue",
        "wait 30",
        "regs rip",
    ];
    let output = thread::scope(|scope| {
        let shell = scope.spawn(|| run(&fake, &commands));
        fake.expect_breakpoint(0x1100);
        fake.hit(VcpuId(1), 0x1100);
        shell.join().unwrap()
    });
    assert_eq!(stderr(&output), "");
    assert_eq!(
        stdout(&output),
        "vCPU 0 stopped by request, kernel_main+0x0\n\
         1: breakpoint at 0x1100 kernel_idle+0x0, in memory at physical 0x1100\n\
         running; 'interrupt' stops it\n\
         vCPU 1 stopped at breakpoint 1, kernel_idle+0x0\n\
         rip 0000000000001100  kernel_idle+0x0\n"
    );
}

#[test]
fn a_wait_has_an_end() {
    let fake = Fake::start();
    let output = run(&fake, &["wait 0.01"]);
    assert_eq!(stderr(&output), "error: the guest still runs\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_file_of_commands_names_the_line_that_fails() {
    let fake = Fake::start();
    let path = fake.folder().join("commands");
    std::fs::write(&path, "symbol kernel_main\nnonsense\nversion\n").unwrap();
    let output = run(&fake, &[&format!("source {}", path.display())]);
    assert_eq!(stdout(&output), "kernel_main is at 0x1000\n");
    let error = stderr(&output);
    assert!(error.contains("commands:2: 'nonsense' failed"), "{error}");
    assert_eq!(output.status.code(), Some(1));

    std::fs::write(&path, format!("source {}\n", path.display())).unwrap();
    let output = run(&fake, &[&format!("source {}", path.display())]);
    assert!(stderr(&output).contains("too deep"), "{output:?}");
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let fake = Fake::start();
    let script = format!(
        "{} shell {} -c help -c 'read 0x1000 4096' -c help | head -1",
        env!("CARGO_BIN_EXE_trapline"),
        fake.socket().display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(stdout(&output).lines().count(), 1);
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_read_only_session_may_look() {
    let fake = Fake::with(Kernel::Known, Access::ReadOnly);
    let output = run(&fake, &["symbol kernel_main", "interrupt"]);
    assert_eq!(stdout(&output), "kernel_main is at 0x1000\n");
    assert!(stderr(&output).contains("read-only"), "{output:?}");
}

#[test]
fn without_an_address_the_one_server_is_found() {
    let fake = Fake::start();
    let folder = fake.folder().join("trapline");
    std::fs::create_dir(&folder).unwrap();
    let find = || {
        let mut command = shell();
        command.env("XDG_RUNTIME_DIR", fake.folder());
        command.args(["-c", "symbol kernel_main"]).output().unwrap()
    };
    let none = find();
    assert!(
        stderr(&none).contains("no server of yours is running"),
        "{none:?}"
    );
    assert_eq!(none.status.code(), Some(1));

    std::os::unix::fs::symlink(fake.socket(), folder.join("1.sock")).unwrap();
    assert_eq!(stdout(&find()), "kernel_main is at 0x1000\n");

    std::os::unix::fs::symlink(fake.socket(), folder.join("2.sock")).unwrap();
    let several = find();
    let error = stderr(&several);
    assert!(error.contains("several servers are running"), "{error}");
    assert!(
        error.contains("trapline/1.sock") && error.contains("trapline/2.sock"),
        "{error}"
    );
}

#[test]
fn an_address_without_a_server_says_what_to_do() {
    let output = shell()
        .args(["/does/not/exist", "-c", "version"])
        .output()
        .unwrap();
    assert_eq!(
        stderr(&output),
        "trapline: unix:/does/not/exist: no server is there; start one with 'trapline run --kernel \
         IMAGE --listen unix:/does/not/exist'\n"
    );
}

#[test]
fn others_are_served_while_the_kernel_is_looked_for() {
    let fake = Fake::with(Kernel::Late, Access::Full);
    thread::scope(|scope| {
        let first = scope.spawn(|| run(&fake, &["symbols"]));
        // The guest runs, is stopped and looked at. The first waits all the while.
        for _ in 0..20 {
            let output = run(&fake, &["interrupt", "x/2bx 0x2000", "continue"]);
            assert_eq!(stderr(&output), "");
            assert!(stdout(&output).contains("0x90  0x90"), "{output:?}");
        }
        assert!(!first.is_finished());
        fake.let_kernel_be_found();
        let output = first.join().unwrap();
        assert!(stdout(&output).contains(SYSTEM), "{output:?}");
    });
}
