//! Programs on this computer and in a machine, behind one set of verbs.

use core::time::Duration;
use std::{
    io::Read,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use trapline_test_machine::RemoteProcess;

use crate::Transcript;

/// A program that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) enum Process {
    /// On this computer.
    Local(LocalProcess),
    /// In a machine.
    Remote(RemoteProcess),
}

/// A program on this computer whose output is collected.
#[derive(Debug)]
pub(crate) struct LocalProcess {
    child: Child,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    /// What has been waited for by [`LocalProcess::expect`].
    seen_bytes: usize,
    open_pipes: usize,
}

impl LocalProcess {
    /// Starts `command` with its output collected and no input.
    pub(crate) fn start(command: &mut Command, transcript: &Transcript, who: &str) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        transcript.say(who, format!("{command:?}"));
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let output = Arc::new(Output::default());
        output.lock().open_pipes = 2;
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        for pipe in pipes.into_iter().flatten() {
            let (output, transcript, who) = (output.clone(), transcript.clone(), who.to_owned());
            thread::spawn(move || output.collect(pipe, &transcript, &who));
        }
        Ok(Self { child, output })
    }

    /// Waits until the output holds `text`, after what an earlier call found.
    pub(crate) fn expect(&self, text: &str, limit: Duration) -> Result<()> {
        let found = self.output.wait(limit, |state| {
            let unseen = state.text.get(state.seen_bytes..).unwrap_or_default();
            match unseen.find(text) {
                Some(start) => {
                    state.seen_bytes += start + text.len();
                    Some(true)
                }
                None => (state.open_pipes == 0).then_some(false),
            }
        });
        match found {
            Some(true) => Ok(()),
            Some(false) => bail!("the program ended before it said {text:?}: {}", self.text()),
            None => bail!(
                "the program did not say {text:?} in {limit:?}: {}",
                self.text()
            ),
        }
    }

    /// Waits for the end of the program. Yields its exit status, 128 + N after signal N.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        // Both pipes close when the program ends, and nothing else has them.
        let ended = self
            .output
            .wait(limit, |state| (state.open_pipes == 0).then_some(()));
        if ended.is_none() {
            bail!("the program did not end in {limit:?}");
        }
        let status = self.child.wait()?;
        Ok(status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .unwrap_or(-1))
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id())?;
        kill_process(Pid::from_raw(id).context("a process number")?, signal)?;
        Ok(())
    }

    fn skip_output(&self) {
        let mut state = self.output.lock();
        state.seen_bytes = state.text.len();
    }

    /// Everything it has said.
    pub(crate) fn text(&self) -> String {
        self.output.lock().text.clone()
    }
}

impl Drop for LocalProcess {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, mut pipe: impl Read, transcript: &Transcript, who: &str) {
        let mut buffer = [0; 4096];
        loop {
            let count = pipe.read(&mut buffer).unwrap_or(0);
            let piece = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
            transcript.say(who, &piece);
            let mut state = self.lock();
            state.text.push_str(&piece);
            if count == 0 {
                state.open_pipes -= 1;
            }
            drop(state);
            self.changed.notify_all();
            if count == 0 {
                return;
            }
        }
    }

    /// Waits until `look` finds what it looks for.
    fn wait<T>(&self, limit: Duration, look: impl Fn(&mut State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Process {
    /// Waits until the output holds `text`.
    pub(crate) fn expect(&self, text: &str, limit: Duration) -> Result<()> {
        match self {
            Self::Local(process) => process.expect(text, limit),
            Self::Remote(process) => Ok(process.expect(text, limit).map(drop)?),
        }
    }

    /// Waits for the end. Yields the exit status, 128 + N after signal N.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<i32> {
        match self {
            Self::Local(process) => process.wait(limit),
            Self::Remote(process) => Ok(process.wait(limit)?.status),
        }
    }

    /// Lets the next [`Process::expect`] begin with what comes from now on.
    pub(crate) fn skip_output(&self) {
        match self {
            Self::Local(process) => process.skip_output(),
            Self::Remote(process) => process.skip_output(),
        }
    }

    /// Everything it has said.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Local(process) => process.text(),
            Self::Remote(process) => process.transcript(),
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> Result<()> {
        match self {
            Self::Local(process) => process.signal(Signal::TERM),
            Self::Remote(process) => Ok(process.signal("TERM")?),
        }
    }
}
