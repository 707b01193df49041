//! A terminal with the shell in it: what is typed goes in, what is on the screen comes out.

use core::num::NonZero;
use core::time::Duration;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// How long the screen may take to show what is expected.
const PATIENCE: Duration = Duration::from_secs(20);

const ROWS: u16 = 60;
const COLUMNS: u16 = 120;

pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";
pub(crate) const CTRL_R: &str = "\x12";
pub(crate) const UP: &str = "\x1b[A";

pub(crate) struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Kept so that the settings can be looked at after the program has ended.
    line: File,
    program: Child,
}

impl Terminal {
    /// Starts `trapline shell SOCKET` on a new terminal. `folder` is the user's home.
    pub(crate) fn start(socket: &Path, folder: &Path, environment: &[(&str, &str)]) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let line = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let size = Winsize {
            ws_row: ROWS,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&line, size).unwrap();
        let end = || Stdio::from(OwnedFd::from(line.try_clone().unwrap()));
        // Ctrl-C is a signal only on the terminal that controls the program's session.
        let program = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_trapline"), "shell"])
            .arg(socket)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TERM", "xterm-256color")
            .env("HOME", folder)
            .env("PAGER", "cat")
            .envs(environment.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let mut output = File::from(controller);
        let keyboard = output.try_clone().unwrap();
        let [rows, columns] = [ROWS, COLUMNS].map(|count| NonZero::new(count).unwrap());
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().process(&buffer[..len]);
            }
        });
        Self {
            keyboard,
            screen,
            line,
            program,
        }
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line and waits until the prompt is there again.
    pub(crate) fn enter(&mut self, line: &str) {
        let prompts = self.prompts();
        self.type_in(&format!("{line}\r"));
        self.expect("another prompt", |terminal| terminal.prompts() > prompts);
    }

    /// Returns what the screen shows, without the empty lines at its end.
    pub(crate) fn text(&self) -> String {
        let screen = self.screen.lock().unwrap().screen().contents();
        screen.trim_end_matches('\n').to_owned()
    }

    /// Returns the line that the cursor is in, without the spaces at its end.
    pub(crate) fn current_line(&self) -> String {
        let parser = self.screen.lock().unwrap();
        let (row, _) = parser.screen().cursor_position();
        let mut rows = parser.screen().rows(0, COLUMNS);
        rows.nth(row.into()).unwrap().trim_end().to_owned()
    }

    /// Returns the number of lines that begin with a prompt.
    fn prompts(&self) -> usize {
        let is_prompt = |line: &&str| line.starts_with("vcpu ") && line.contains('>');
        self.text().lines().filter(is_prompt).count()
    }

    /// Returns whether any character on the screen has a colour.
    pub(crate) fn has_colours(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let cells = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        cells
            .filter_map(|(row, column)| parser.screen().cell(row, column))
            .any(|cell| cell.fgcolor() != vt100::Color::Default)
    }

    /// Waits until the screen shows a text.
    pub(crate) fn expect_text(&self, text: &str) {
        self.expect(text, |terminal| terminal.text().contains(text));
    }

    /// Waits until the cursor's line is this one.
    pub(crate) fn expect_line(&self, line: &str) {
        self.expect(line, |terminal| terminal.current_line() == line);
    }

    /// Waits until something is so.
    pub(crate) fn expect(&self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_there(self) {
            let text = self.text();
            assert!(Instant::now() < deadline, "no {what:?} in:\n{text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the program has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.program.try_wait().unwrap() {
                return status;
            }
            let text = self.text();
            assert!(Instant::now() < deadline, "it goes on:\n{text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns whether the terminal does what it did before the program began: it shows what is
    /// typed and takes Ctrl-C for a signal.
    pub(crate) fn is_restored(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The program may have ended already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
