//! A console whose other end is a pipe, a pseudo-terminal or a terminal.

use core::time::Duration;
use std::{
    env,
    fs::File,
    io::{Read, Write, pipe},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    termios::{LocalModes, tcgetattr},
};
use trapline_engine::GuestEnd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{ConsoleThread, Ends, Output, open, terminal};
use crate::{Console, EndEvents, EndedBy, devices::SerialPort, event::Event};

const LIMIT: Duration = Duration::from_secs(10);
/// Tells [`child_with_a_terminal`] how to end.
const CHILD: &str = "TRAPLINE_VMM_TEST_CHILD";

/// Waits until `condition` gives something.
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

/// Starts a console with a serial port.
fn start(ends: Ends) -> (SerialPort, ConsoleThread, EndEvents) {
    let interrupt = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let taken = Event::new().expect("an eventfd");
    let output = Output::new().expect("an eventfd");
    let clone = taken.try_clone().expect("an eventfd");
    let serial = SerialPort::new(interrupt, clone, output.clone());
    let end = EndEvents::new().expect("an eventfd");
    let console = ConsoleThread::start(ends, serial.clone(), taken, output, end.clone());
    (serial, console.expect("a thread"), end)
}

/// Reads what the guest would read from its serial port.
fn receive(serial: &SerialPort, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let byte = eventually("input for the guest", || {
            (serial.read(5) & 1 != 0).then(|| serial.read(0))
        });
        bytes.push(byte);
    }
    bytes
}

#[test]
fn input_reaches_the_guest_however_slowly_it_reads() {
    let (reader, mut writer) = pipe().expect("a pipe");
    let ends = Ends {
        input: Some(File::from(OwnedFd::from(reader))),
        ..Ends::default()
    };
    let (serial, _console, _) = start(ends);
    let text: Vec<u8> = (0..1000_u32)
        .map(|n| b'a' + u8::try_from(n % 26).expect("small"))
        .collect();
    writer.write_all(&text).expect("a reader");
    assert_eq!(receive(&serial, text.len()), text);
}

#[test]
fn the_escape_character_is_special_only_at_a_terminal() {
    for escapes in [true, false] {
        let (reader, mut writer) = pipe().expect("a pipe");
        let ends = Ends {
            input: Some(File::from(OwnedFd::from(reader))),
            escapes,
            ..Ends::default()
        };
        let (serial, _console, end) = start(ends);
        writer.write_all(b"a\x01\x01b\x01x").expect("a reader");
        if escapes {
            assert_eq!(receive(&serial, 3), b"a\x01b");
            let end = eventually("the end", || end.end());
            assert_eq!((end.end, end.by), (GuestEnd::PowerOff, EndedBy::Console));
        } else {
            assert_eq!(receive(&serial, 6), b"a\x01\x01b\x01x");
            assert_eq!(end.end(), None);
        }
    }
}

#[test]
fn output_is_written_before_the_console_ends() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("log");
    let ends = open(&Console::File(path.clone())).expect("a writable folder");
    let (serial, console, _) = start(ends);
    for _ in 0..10_000 {
        serial.write(0, b'x');
    }
    drop(console);
    assert_eq!(std::fs::read(&path).expect("the file"), vec![b'x'; 10_000]);
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let error = open(&Console::File("/nonexistent/log".into())).expect_err("no such folder");
    assert!(error.to_string().contains("/nonexistent/log"), "{error}");
}

#[test]
fn a_pseudo_terminal_carries_both_directions_and_outlives_its_users() {
    let (serial, console, _) = start(open(&Console::Pty).expect("a pseudo-terminal"));
    let path = console.path().expect("its name").clone();
    for _ in 0..2 {
        let mut user = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("it is there");
        serial.write(0, b'o');
        let mut byte = [0];
        user.read_exact(&mut byte).expect("what the guest wrote");
        assert_eq!(&byte, b"o");
        user.write_all(b"i").expect("room");
        assert_eq!(receive(&serial, 1), b"i");
    }
}

#[test]
fn a_pseudo_terminal_that_nobody_reads_does_not_hold_the_guest() {
    let (serial, _console, _) = start(open(&Console::Pty).expect("a pseudo-terminal"));
    let start = Instant::now();
    for _ in 0..300_000 {
        serial.write(0, b'x');
    }
    assert!(
        start.elapsed() < LIMIT,
        "a vCPU waited {:?}",
        start.elapsed()
    );
}

/// Not a test by itself: the child of the test below, with a terminal as standard input.
#[test]
fn child_with_a_terminal() {
    let Some(way) = env::var_os(CHILD) else {
        return;
    };
    let ends = terminal::open_stdio().expect("a terminal");
    match way.to_str() {
        Some("drop") => {
            thread::sleep(Duration::from_millis(300));
            drop(ends);
        }
        Some("panic") => {
            thread::sleep(Duration::from_millis(300));
            let thread = thread::spawn(|| panic!("this panic is part of a test"));
            let _ = thread.join();
            // Raw mode is gone although its guard lives.
            core::mem::forget(ends);
        }
        _ => thread::sleep(Duration::from_secs(60)),
    }
}

/// Starts the child with the terminal `path`.
fn spawn_child(path: &Path, way: &str) -> Child {
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a terminal");
    Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "console::tests::child_with_a_terminal"])
        .env(CHILD, way)
        .stdin(Stdio::from(terminal))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child")
}

#[test]
fn the_terminal_is_given_back_in_every_way_out() {
    for (way, signal) in [
        ("drop", None),
        ("panic", None),
        ("signal", Some(Signal::TERM)),
        ("signal", Some(Signal::INT)),
        ("signal", Some(Signal::HUP)),
        ("signal", Some(Signal::QUIT)),
    ] {
        let (_main, path) = cooked_terminal();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let terminal = rustix::fs::open(&path, flags, Mode::empty()).expect("a terminal");
        let is_raw = || {
            let mode = tcgetattr(&terminal).expect("a terminal's mode");
            !mode.local_modes.contains(LocalModes::ICANON)
        };
        assert!(!is_raw());
        let mut child = spawn_child(&path, way);
        eventually("raw mode", || is_raw().then_some(()));
        if let Some(signal) = signal {
            let id = i32::try_from(child.id())
                .ok()
                .and_then(Pid::from_raw)
                .expect("a process");
            kill_process(id, signal).expect("a child");
        }
        child.wait().expect("a child");
        assert!(!is_raw(), "{way} {signal:?}");
    }
}

/// Returns a pseudo-terminal in the mode that a terminal begins in, and its name.
fn cooked_terminal() -> (OwnedFd, std::path::PathBuf) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&main).expect("ours");
    unlockpt(&main).expect("ours");
    let name = ptsname(&main, Vec::new()).expect("a name");
    (main, name.to_string_lossy().into_owned().into())
}
