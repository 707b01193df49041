//! The agent inside an emulated machine: runs commands, moves files, connects sockets.
//!
//! Started by the machine's `/init` once the network is up. It ends, and with it the machine, when the
//! host's lease ends: a test that is killed leaves no machine behind.

use core::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{
        fs::OpenOptionsExt,
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitCode, ExitStatus, Stdio, exit},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use trapline_test_machine::protocol::{
    AGENT_PORT, Frame, Kind, READY, TOKEN_FILE, receive, send, send_all,
};

/// How long the agent waits for the host's lease before it gives up.
const LEASE_LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trapline-machine-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let token: Arc<[u8]> = fs::read(TOKEN_FILE)?.into();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, AGENT_PORT))?;
    let leased = Arc::new(AtomicBool::new(false));
    let watch = Arc::clone(&leased);
    thread::spawn(move || {
        thread::sleep(LEASE_LIMIT);
        if !watch.load(Ordering::Relaxed) {
            eprintln!("trapline-machine-agent: no lease from the host");
            exit(1);
        }
    });
    println!("{READY}");
    for connection in listener.incoming() {
        let connection = connection?;
        let (token, leased) = (Arc::clone(&token), Arc::clone(&leased));
        // A connection that fails is one request that fails; the host sees it end.
        thread::spawn(move || {
            let _ = answer(&connection, &token, &leased);
            let _ = connection.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

fn answer(connection: &TcpStream, token: &[u8], leased: &AtomicBool) -> io::Result<()> {
    connection.set_nodelay(true)?;
    match receive(connection)? {
        Some(Frame {
            kind: Kind::Hello,
            payload,
        }) if payload == token => {}
        _ => return send(connection, Kind::Refused, b"wrong token"),
    }
    let Some(request) = receive(connection)? else {
        return Ok(());
    };
    let outcome = match request.kind {
        Kind::Lease => return hold_lease(connection, leased),
        Kind::Run => run(connection, &request.text()),
        Kind::Put => put(connection, &request.text()),
        Kind::Get => get(connection, &request.text()),
        Kind::Connect => connect(connection, &request.text()),
        _ => Err(io::Error::other("not a request")),
    };
    outcome.or_else(|error| send(connection, Kind::Refused, error.to_string().as_bytes()))
}

/// Ends the machine when the host's end closes.
fn hold_lease(connection: &TcpStream, leased: &AtomicBool) -> io::Result<()> {
    leased.store(true, Ordering::Relaxed);
    send(connection, Kind::Accepted, b"")?;
    while let Ok(Some(_)) = receive(connection) {}
    exit(0)
}

fn put(connection: &TcpStream, request: &str) -> io::Result<()> {
    let (permissions, path) = request
        .split_once(' ')
        .and_then(|(bits, path)| Some((u32::from_str_radix(bits, 8).ok()?, path)))
        .ok_or_else(|| io::Error::other("malformed request"))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(permissions)
        .open(path)?;
    loop {
        match receive(connection)? {
            Some(Frame {
                kind: Kind::Data,
                payload,
            }) => file.write_all(&payload)?,
            Some(Frame {
                kind: Kind::End, ..
            }) => break,
            _ => return Err(io::Error::other("the file was cut short")),
        }
    }
    send(connection, Kind::Accepted, b"")
}

fn get(connection: &TcpStream, path: &str) -> io::Result<()> {
    send_all(File::open(path)?, connection, Kind::Data)?;
    send(connection, Kind::End, b"")
}

fn connect(connection: &TcpStream, target: &str) -> io::Result<()> {
    if let Some(path) = target.strip_prefix("unix:") {
        let inner = UnixStream::connect(path)?;
        send(connection, Kind::Accepted, b"")?;
        let (to, from) = (inner.try_clone()?, inner.try_clone()?);
        join(connection, to, from, || inner.shutdown(Shutdown::Write))
    } else if let Some(port) = target
        .strip_prefix("tcp:")
        .and_then(|port| port.parse().ok())
    {
        let inner = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        inner.set_nodelay(true)?;
        send(connection, Kind::Accepted, b"")?;
        let (to, from) = (inner.try_clone()?, inner.try_clone()?);
        join(connection, to, from, || inner.shutdown(Shutdown::Write))
    } else {
        Err(io::Error::other("neither tcp:PORT nor unix:PATH"))
    }
}

/// Copies both ways until both are at their end.
fn join(
    connection: &TcpStream,
    mut to: impl Write,
    mut from: impl io::Read + Send,
    shutdown: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = io::copy(&mut from, &mut &*connection);
            let _ = connection.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut &*connection, &mut to);
        let _ = shutdown();
    });
    Ok(())
}

fn run(connection: &TcpStream, command: &str) -> io::Result<()> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that a signal reaches what the shell started as well.
        .process_group(0)
        .spawn()?;
    let output = Mutex::new(connection);
    let group = child.id();
    let input = connection.try_clone()?;
    let stdin = child.stdin.take();
    let ended = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&ended);
    thread::spawn(move || obey(&input, stdin, group, &watched));
    let status = thread::scope(|scope| {
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        scope.spawn(|| stdout.map(|pipe| relay(pipe, &output, Kind::Stdout)));
        scope.spawn(|| stderr.map(|pipe| relay(pipe, &output, Kind::Stderr)));
        Child::wait(&mut child)
    })?;
    ended.store(true, Ordering::Relaxed);
    send(
        connection,
        Kind::Exit,
        exit_status(status).to_string().as_bytes(),
    )
}

/// Follows the host: input and signals for the program, and its end when the host goes away.
///
/// Once the program has ended nothing is signalled any more: its number may be another's by then.
fn obey(connection: &TcpStream, mut stdin: Option<impl Write>, group: u32, ended: &AtomicBool) {
    let signal = |name: &str| {
        if !ended.load(Ordering::Relaxed) {
            signal(name, group);
        }
    };
    loop {
        match receive(connection) {
            Ok(Some(Frame {
                kind: Kind::Data,
                payload,
            })) => {
                // A program that has closed its input is not an error of the host's.
                let _ = stdin.as_mut().map(|pipe| pipe.write_all(&payload));
            }
            Ok(Some(Frame {
                kind: Kind::End, ..
            })) => stdin = None,
            Ok(Some(frame)) if frame.kind == Kind::Signal => signal(&frame.text()),
            _ => return signal("KILL"),
        }
    }
}

fn signal(name: &str, group: u32) {
    let target = format!("-{group}");
    let _ = Command::new("/bin/kill")
        .args(["-s", name, "--", &target])
        .stderr(Stdio::null())
        .status();
}

fn relay(mut pipe: impl io::Read, output: &Mutex<&TcpStream>, kind: Kind) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let connection = output.lock().unwrap_or_else(PoisonError::into_inner);
        if send(*connection, kind, buffer.get(..count).unwrap_or_default()).is_err() {
            return;
        }
    }
}

fn exit_status(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}
