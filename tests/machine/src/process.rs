//! A command that runs inside a machine.

use core::{
    fmt::{self, Debug},
    time::Duration,
};
use std::{
    net::{Shutdown, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{
    MachineError,
    deadline::{tail, wait_until},
    protocol::{Frame, Kind, MAX_PAYLOAD_BYTES, receive, send},
};

/// How much of the output an error message repeats, in bytes.
const SHOWN_BYTES: usize = 4096;

/// What a finished command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit status; 128 + N after signal N.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A command that runs inside a machine. Dropping it kills the command and its children.
pub struct RemoteProcess {
    connection: TcpStream,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Both, in the order in which they arrived.
    transcript: String,
    /// Up to where [`RemoteProcess::expect`] has read the transcript.
    read: usize,
    end: Option<Result<i32, String>>,
}

impl RemoteProcess {
    /// Takes over a connection on which a run was requested.
    pub(crate) fn new(connection: TcpStream) -> Result<Self, MachineError> {
        let shared = Arc::new(Shared::default());
        let (input, state) = (connection.try_clone()?, Arc::clone(&shared));
        thread::spawn(move || state.collect(&input));
        Ok(Self { connection, shared })
    }

    /// Waits until `text` appears in the output, standard output and error together, after what an earlier
    /// call found. Yields the output from there up to and with `text`.
    ///
    /// # Errors
    /// [`MachineError::TimedOut`], and [`MachineError::Ended`] when the command ends without saying it.
    pub fn expect(&self, text: &str, limit: Duration) -> Result<String, MachineError> {
        let (state, found) = wait_until(&self.shared.changed, self.lock(), limit, |state| {
            state
                .find(text)
                .map(Ok)
                .or_else(|| state.end.clone().map(Err))
        });
        match found {
            Some(Ok(output)) => Ok(output),
            Some(Err(end)) => Err(MachineError::Ended {
                reason: match end {
                    Ok(status) => format!("the command ended with status {status} before {text:?}"),
                    Err(error) => error,
                },
                console: tail(&state.transcript, SHOWN_BYTES).to_owned(),
            }),
            None => Err(MachineError::TimedOut {
                what: format!("the output {text:?}"),
                limit,
                seen: tail(&state.transcript, SHOWN_BYTES).to_owned(),
            }),
        }
    }

    /// Waits for the end of the command and of its output.
    ///
    /// # Errors
    /// [`MachineError::TimedOut`], and [`MachineError::Ended`] when the machine goes away.
    pub fn wait(&self, limit: Duration) -> Result<Output, MachineError> {
        let (state, end) = wait_until(&self.shared.changed, self.lock(), limit, |state| {
            state.end.clone()
        });
        match end {
            Some(Ok(status)) => {
                let (stdout, stderr) = (state.stdout.clone(), state.stderr.clone());
                Ok(Output {
                    status,
                    stdout,
                    stderr,
                })
            }
            Some(Err(reason)) => Err(MachineError::Ended {
                reason,
                console: tail(&state.transcript, SHOWN_BYTES).to_owned(),
            }),
            None => Err(MachineError::TimedOut {
                what: "the end of the command".to_owned(),
                limit,
                seen: tail(&state.transcript, SHOWN_BYTES).to_owned(),
            }),
        }
    }

    /// Lets the next [`RemoteProcess::expect`] begin with what comes from now on.
    pub fn skip_output(&self) {
        let mut state = self.lock();
        state.read = state.transcript.len();
    }

    /// Everything the command has said so far, standard output and error in the order of arrival.
    #[must_use]
    pub fn transcript(&self) -> String {
        self.lock().transcript.clone()
    }

    /// The exit status, if the command has ended.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        self.lock()
            .end
            .as_ref()
            .and_then(|end| end.as_ref().ok().copied())
    }

    /// Writes to the command's standard input.
    ///
    /// # Errors
    /// [`MachineError::Connection`].
    pub fn write(&self, bytes: &[u8]) -> Result<(), MachineError> {
        for piece in bytes.chunks(MAX_PAYLOAD_BYTES) {
            send(&self.connection, Kind::Data, piece)?;
        }
        Ok(())
    }

    /// Closes the command's standard input.
    ///
    /// # Errors
    /// [`MachineError::Connection`].
    pub fn close_input(&self) -> Result<(), MachineError> {
        Ok(send(&self.connection, Kind::End, b"")?)
    }

    /// Sends a signal, by its short name such as `INT` or `KILL`, to the command and its children.
    ///
    /// # Errors
    /// [`MachineError::Connection`].
    pub fn signal(&self, name: &str) -> Result<(), MachineError> {
        Ok(send(&self.connection, Kind::Signal, name.as_bytes())?)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives frames until the command or the connection ends.
    fn collect(&self, connection: &TcpStream) {
        loop {
            let frame = receive(connection);
            let mut state = self.lock();
            match frame {
                Ok(Some(frame)) => state.take(&frame),
                Ok(None) => state.end = Some(Err("the machine closed the connection".to_owned())),
                Err(error) => state.end = Some(Err(error.to_string())),
            }
            let ended = state.end.is_some();
            drop(state);
            self.changed.notify_all();
            if ended {
                return;
            }
        }
    }
}

impl State {
    fn take(&mut self, frame: &Frame) {
        match frame.kind {
            Kind::Stdout => self.stdout.extend_from_slice(&frame.payload),
            Kind::Stderr => self.stderr.extend_from_slice(&frame.payload),
            Kind::Exit => {
                self.end = Some(Ok(frame.text().parse().unwrap_or(255)));
                return;
            }
            _ => {
                self.end = Some(Err(frame.text()));
                return;
            }
        }
        self.transcript.push_str(&frame.text());
    }

    fn find(&mut self, text: &str) -> Option<String> {
        let unread = self.transcript.get(self.read..)?;
        let found = unread.get(..unread.find(text)? + text.len())?.to_owned();
        self.read += found.len();
        Some(found)
    }
}

impl Debug for RemoteProcess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RemoteProcess")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Drop for RemoteProcess {
    fn drop(&mut self) {
        // The agent takes the end of the connection for an order to kill.
        let _ = self.connection.shutdown(Shutdown::Both);
    }
}
