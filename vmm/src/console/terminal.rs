//! Terminals: raw mode that is always taken back, and pseudo-terminals.

use core::time::Duration;
use std::{
    fs::File,
    io::{self, IsTerminal},
    os::fd::{AsFd, OwnedFd},
    panic,
    path::PathBuf,
    sync::{Mutex, Once, PoisonError},
    thread,
};

use rustix::{
    fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use super::{
    ConsoleError,
    thread::{Ends, Kept},
};

/// How long a program that has a handler of its own for the signals that end it may take to end. One
/// that has none ends after that.
const GRACE: Duration = Duration::from_secs(1);

/// The terminal's mode from before raw mode, while raw mode is on.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Takes raw mode back from the terminal at standard input. It may be called at any time, and does
/// nothing if raw mode is not on.
///
/// It is called when a [`Vm`](crate::Vm) is dropped, by a panic, and by the signals that end a
/// program; a program that ends by `std::process::exit` calls it itself.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &saved);
    }
}

/// Raw mode of the terminal at standard input, while it lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal at standard input in raw mode.
fn enter_raw_mode() -> io::Result<RawMode> {
    let stdin = io::stdin();
    let before = tcgetattr(stdin.as_fd())?;
    restore_at_the_end()?;
    let mut raw = before.clone();
    raw.make_raw();
    *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    let guard = RawMode(());
    tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
    Ok(guard)
}

/// Sees to it that no way out of the program leaves the terminal raw.
fn restore_at_the_end() -> io::Result<()> {
    static ONCE: Once = Once::new();
    if ONCE.is_completed() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                restore();
                thread::sleep(GRACE);
                let _ = emulate_default_handler(signal);
            }
        })?;
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
    Ok(())
}

/// Opens standard input and output as a console.
pub(super) fn open_stdio() -> Result<Ends, ConsoleError> {
    let copy = |fd: io::Result<OwnedFd>| fd.map(File::from).map_err(ConsoleError::Host);
    let input = copy(io::stdin().as_fd().try_clone_to_owned())?;
    let output = open_stdout().map_err(ConsoleError::Host)?;
    let is_terminal = io::stdin().is_terminal();
    let kept = if is_terminal {
        let guard = enter_raw_mode().map_err(ConsoleError::RawMode)?;
        Kept::RawMode { _guard: guard }
    } else {
        Kept::Nothing
    };
    Ok(Ends {
        input: Some(input),
        output: Some(output),
        escapes: is_terminal,
        _kept: kept,
        path: None,
    })
}

/// Returns standard output. A terminal or pipe is opened anew, so that writes to it need not wait,
/// without a change for the other programs that have it open. A file keeps its position.
fn open_stdout() -> io::Result<File> {
    let stdout = io::stdout();
    let kind = FileType::from_raw_mode(fstat(&stdout)?.st_mode);
    if matches!(kind, FileType::CharacterDevice | FileType::Fifo) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(anew) = rustix::fs::open("/proc/self/fd/1", flags, Mode::empty()) {
            return Ok(anew.into());
        }
    }
    Ok(stdout.as_fd().try_clone_to_owned()?.into())
}

/// Makes a pseudo-terminal. Its terminal end is held open, so that the other end never reports a
/// hang-up while nobody is connected.
pub(super) fn open_pty() -> io::Result<Ends> {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&main)?;
    unlockpt(&main)?;
    let name = ptsname(&main, Vec::new())?;
    let path = PathBuf::from(name.to_string_lossy().into_owned());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let held = rustix::fs::open(&path, flags, Mode::empty())?;
    let mut mode = tcgetattr(&held)?;
    mode.make_raw();
    tcsetattr(&held, OptionalActions::Now, &mode)?;
    // It is said to have room as soon as one byte fits, and a write would wait for the rest.
    let flags = fcntl_getfl(&main)?;
    fcntl_setfl(&main, flags | OFlags::NONBLOCK)?;
    let main = File::from(main);
    Ok(Ends {
        input: Some(main.try_clone()?),
        output: Some(main),
        escapes: false,
        _kept: Kept::Terminal { _descriptor: held },
        path: Some(path),
    })
}
