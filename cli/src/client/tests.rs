//! The client against servers of a few lines, in threads of this process.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;

use tempfile::TempDir;
use trapline_rsp::client::encode_packet;
use trapline_rsp::{AckMode, Deframer, Event};

use super::*;

/// What a fake server answers to a request's body: bytes as they are sent, or the connection's end.
type Answer = fn(&[u8]) -> Option<Vec<u8>>;

fn packet(body: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_packet(body, &mut bytes);
    Some(bytes)
}

fn hex_packet(mark: &str, text: &str) -> Vec<u8> {
    let mut body = mark.as_bytes().to_vec();
    hex::append(text.as_bytes(), &mut body);
    packet(&body).unwrap()
}

fn notification(text: &str) -> Vec<u8> {
    let mut bytes = hex_packet("Trapline:", text);
    bytes[0] = b'%';
    bytes
}

/// Serves one client: acknowledgements until they are switched off, then `answer`.
fn serve(mut stream: UnixStream, answer: Answer) {
    let mut deframer = Deframer::new(0x2_0000);
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        let mut rest = &buffer[..len];
        while let Some(event) = deframer.next(&mut rest) {
            let body = match event {
                Event::Packet(body) => body.to_vec(),
                Event::Interrupt => b"\x03".to_vec(),
                _ => continue,
            };
            let reply = match body.as_slice() {
                b"QStartNoAckMode" => packet(b"OK"),
                supported if supported.starts_with(b"qSupported") => packet(b"error-message+"),
                body => answer(body),
            };
            let Some(reply) = reply else { return };
            if deframer.ack_mode() == AckMode::Ack {
                stream.write_all(b"+").unwrap();
            }
            if body == b"QStartNoAckMode" {
                deframer.set_ack_mode(AckMode::NoAck);
            }
            stream.write_all(&reply).unwrap();
        }
    }
}

struct Fake {
    folder: TempDir,
}

impl Fake {
    fn start(answer: Answer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        thread::spawn(move || serve(listener.accept().unwrap().0, answer));
        Self { folder }
    }

    fn address(&self) -> ListenAddress {
        ListenAddress::Unix(self.folder.path().join("s"))
    }

    fn connect(&self) -> Client {
        Client::connect(&self.address(), |_| {}).unwrap()
    }
}

/// Returns the text of a command in hexadecimal.
fn command_of(body: &[u8]) -> String {
    let bytes = decode_hex(body.strip_prefix(b"qRcmd,").unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_command_gives_its_text() {
    let fake = Fake::start(|body| match command_of(body).as_str() {
        "regs" => Some([hex_packet("O", "rax "), hex_packet("", "is 1\n")].concat()),
        "nothing" => packet(b"OK"),
        _ => Some(hex_packet("", "some\nerror: none\n")),
    });
    let mut client = fake.connect();
    let regs = client.command("regs").unwrap();
    assert_eq!((regs.text.as_str(), regs.failure()), ("rax is 1\n", None));
    assert_eq!(client.command("nothing").unwrap().text, "");
    let failed = client.command("wrong").unwrap();
    assert_eq!(failed.failure(), Some(("some\n", "error: none")));
}

#[test]
fn refusals_of_every_form_are_failures() {
    let fake = Fake::start(|body| match command_of(body).as_str() {
        "gdb" => packet(b"E.not now"),
        "lldb" => packet(b"E16;6e6f"),
        "number" => packet(b"E16"),
        "none" => packet(b""),
        _ => packet(b"xyz"),
    });
    let mut client = fake.connect();
    for (command, failure) in [
        ("gdb", "error: not now"),
        ("lldb", "error: no"),
        ("number", "error: the server refused it (error 16)"),
    ] {
        let outcome = client.command(command).unwrap();
        assert_eq!(outcome.failure(), Some(("", failure)));
    }
    let none = client.command("none").unwrap_err();
    assert!(matches!(none, ClientError::Unsupported { .. }));
    let junk = client.command("junk").unwrap_err().to_string();
    assert!(junk.contains("'xyz'"), "{junk}");
}

#[test]
fn notices_arrive_while_nobody_waits() {
    let fake =
        Fake::start(|_| Some([packet(b"OK").unwrap(), notification("vCPU 1 stopped")].concat()));
    let (sender, notices) = mpsc::channel();
    let on_notice = move |notice| sender.send(notice).unwrap();
    let mut client = Client::connect(&fake.address(), on_notice).unwrap();
    client.command("x").unwrap();
    assert_eq!(
        notices.recv().unwrap(),
        Notice::Event("vCPU 1 stopped".into())
    );
}

#[test]
fn a_server_that_vanishes_is_told_of_both_ways() {
    let fake = Fake::start(|_| None);
    let (sender, notices) = mpsc::channel();
    let on_notice = move |notice| sender.send(notice).unwrap();
    let mut client = Client::connect(&fake.address(), on_notice).unwrap();
    let error = client.command("x").unwrap_err();
    assert!(matches!(error, ClientError::Gone { .. }));
    assert_eq!(notices.recv().unwrap(), Notice::Gone);
    let again = client.command("x").unwrap_err().to_string();
    assert!(again.contains("the server is gone"), "{again}");
}

#[test]
fn a_wait_is_given_up_and_the_late_reply_is_not_taken_for_another() {
    let fake = Fake::start(|body| match body {
        // The first command is answered with the second one's answer, late.
        b"qRcmd,61" => Some(Vec::new()),
        _ => Some([hex_packet("", "late"), hex_packet("", "own")].concat()),
    });
    let mut client = fake.connect();
    client.set_patience(Some(Duration::from_millis(1)));
    let error = client.command("a").unwrap_err();
    assert!(matches!(error, ClientError::Interrupted));
    client.set_patience(None);
    assert_eq!(client.command("b").unwrap().text, "own");
}

#[test]
fn the_user_asks_the_guest_to_stop_first() {
    let fake = Fake::start(|body| match body {
        b"\x03" => Some(hex_packet("", "stopped")),
        _ => Some(Vec::new()),
    });
    let mut client = fake.connect();
    let flag = client.give_up_flag();
    flag.store(true, Ordering::Relaxed);
    assert_eq!(client.command("step").unwrap().text, "stopped");
    assert!(!flag.load(Ordering::Relaxed));
}

#[test]
fn files_are_read_in_pieces() {
    fn answer(body: &[u8]) -> Option<Vec<u8>> {
        match body {
            b"qXfer:exec-file:read::0,f000" => packet(b"m/a"),
            b"qXfer:exec-file:read::2,f000" => packet(b"l/b"),
            b"vFile:open:2f612f62,0,0" => packet(b"F5"),
            b"vFile:pread:5,f000,0" => packet(b"F3;ab}\x03"),
            b"vFile:pread:5,f000,3" => packet(b"F0;"),
            b"vFile:close:5" => packet(b"F0"),
            _ => packet(b"F-1,2"),
        }
    }
    let mut client = Fake::start(answer).connect();
    assert_eq!(client.exec_file().unwrap(), "/a/b");
    assert_eq!(client.read_file("/a/b").unwrap(), b"ab#");
    let error = client.read_file("/x").unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }));
}

#[test]
fn a_file_that_is_shorter_than_said_is_refused() {
    let mut client = Fake::start(|body| match body {
        open if open.starts_with(b"vFile:open") => packet(b"F0"),
        _ => packet(b"F9;abc"),
    })
    .connect();
    let error = client.read_file("/x").unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }));
}

fn connect_error(address: &ListenAddress) -> String {
    Client::connect(address, |_| {}).unwrap_err().to_string()
}

#[test]
fn addresses_without_a_server_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| ListenAddress::Unix(folder.path().join(name));
    let missing = connect_error(&at("missing"));
    assert!(missing.contains("missing: no server is there"), "{missing}");
    assert!(missing.contains("trapline run --kernel"), "{missing}");

    drop(UnixListener::bind(folder.path().join("stale")).unwrap());
    assert!(connect_error(&at("stale")).contains("has ended"));

    std::fs::write(folder.path().join("file"), "").unwrap();
    assert!(connect_error(&at("file")).contains("no socket"));

    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let address = parse_address(&free.to_string()).unwrap();
    assert!(connect_error(&address).contains("no server is there"));

    let serial = parse_address("serial:/dev/ttyS9").unwrap();
    assert!(connect_error(&serial).contains("Unix sockets and TCP"));
}

#[test]
fn a_socket_of_another_user_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    let result = Stream::connect(&ListenAddress::Unix(path));
    // The superuser may connect all the same.
    match result {
        Ok(_) => assert!(rustix::process::geteuid().is_root()),
        Err(error) => assert!(error.to_string().contains("permission denied"), "{error}"),
    }
}

#[test]
fn whoever_does_not_speak_the_protocol_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 16];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
    });
    let address = ListenAddress::Unix(path);
    assert!(connect_error(&address).contains("closed the connection at once"));
    assert!(connect_error(&address).contains("does not answer as a debug server"));
    server.join().unwrap();
}
