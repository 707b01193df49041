//! The limit of every round trip: a process that reads and writes the same number of bytes on the
//! same kind of socket, and does nothing else; or nothing but a step in between.

use std::env;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use trapline_guests::COUNTER;

use crate::bare::Bare;
use crate::client::connect_soon;
use crate::servers::KillOnDrop;

/// An echo server in a process of its own, as a debug server is.
pub(crate) struct Echo {
    _process: KillOnDrop,
    path: std::path::PathBuf,
}

/// What the server does between a request and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    None = 0,
    /// One bare step of a guest of its own.
    Step = 1,
}

/// A connection to it, with the sizes of its messages agreed.
pub(crate) struct EchoClient {
    stream: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Echo {
    /// Starts the server at a path.
    pub(crate) fn start(path: &Path) -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .arg("--echo")
            .arg(path)
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self {
            _process: KillOnDrop(child),
            path: path.to_owned(),
        })
    }

    /// Connects for messages of these sizes.
    pub(crate) fn connect(&self, request_bytes: usize, reply_bytes: usize) -> Result<EchoClient> {
        self.connect_for(request_bytes, reply_bytes, Work::None)
    }

    /// Does the same, and says what is to be done before each reply.
    pub(crate) fn connect_for(
        &self,
        request_bytes: usize,
        reply_bytes: usize,
        work: Work,
    ) -> Result<EchoClient> {
        let mut stream = connect_soon(&self.path)?;
        for number in [request_bytes, reply_bytes, work as usize] {
            stream.write_all(&u32::try_from(number)?.to_le_bytes())?;
        }
        Ok(EchoClient {
            stream,
            request: vec![b'x'; request_bytes],
            reply: vec![0; reply_bytes],
        })
    }
}

impl EchoClient {
    /// Makes one round trip and returns how long it took, in microseconds.
    pub(crate) fn round_trip(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.stream.write_all(&self.request)?;
        self.stream.read_exact(&mut self.reply)?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

/// Serves until it is killed.
pub(crate) fn serve(path: &Path) -> Result<()> {
    for stream in UnixListener::bind(path)?.incoming() {
        let stream = stream?;
        // A client that goes away ends its connection, not the server.
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: UnixStream) -> Result<()> {
    let mut numbers = [[0; 4]; 3];
    for number in &mut numbers {
        stream.read_exact(number)?;
    }
    let [request, reply, work] = numbers.map(u32::from_le_bytes);
    let mut guest = (work == Work::Step as u32)
        .then(|| Bare::new(&COUNTER))
        .transpose()?;
    let mut request = vec![0; usize::try_from(request)?];
    let reply = vec![b'x'; usize::try_from(reply)?];
    loop {
        stream.read_exact(&mut request)?;
        if let Some(guest) = &mut guest {
            guest.step()?;
        }
        stream.write_all(&reply)?;
    }
}
