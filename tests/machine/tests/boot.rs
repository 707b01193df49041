//! Boots a real emulated machine and uses every way into it.

#![expect(clippy::unwrap_used, reason = "the whole file is a test")]

use core::time::Duration;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use trapline_test_machine::{
    Architecture, Environment, GuestImage, Machine, MachineError, MachineOptions, this_did_not_run,
};

const LIMIT: Duration = Duration::from_secs(60);

/// One machine for all checks, because its boot is the greater part of the time.
#[test]
fn a_machine_runs_commands_moves_files_and_forwards_sockets() {
    let environment = Environment::load();
    let machine = Machine::boot(&environment, &options(Architecture::X86_64)).unwrap();
    kvm_is_there(&machine, "cat /sys/module/kvm_amd/parameters/npt");
    every_way_works(&machine, &environment, Architecture::X86_64);
}

#[test]
fn an_arm_machine_runs_commands_moves_files_and_forwards_sockets() {
    let environment = Environment::load();
    let machine = match Machine::boot(&environment, &options(Architecture::Arm64)) {
        Ok(machine) => machine,
        Err(error @ (MachineError::NotSetUp { .. } | MachineError::NotBuilt(_))) => {
            return this_did_not_run(&error.to_string());
        }
        Err(error) => panic!("{error}"),
    };
    kvm_is_there(&machine, "dmesg | grep 'mode initialized successfully'");
    every_way_works(&machine, &environment, Architecture::Arm64);
}

fn options(architecture: Architecture) -> MachineOptions {
    MachineOptions::of(architecture)
        .file("/etc/greeting", file!().replace("tests/machine/", ""))
        .serial_port("debug")
}

fn every_way_works(machine: &Machine, environment: &Environment, architecture: Architecture) {
    commands_have_output_and_status(machine);
    commands_run_side_by_side(machine);
    input_and_signals_reach_a_command(machine);
    files_go_in_and_out(machine);
    tcp_is_forwarded(machine);
    unix_sockets_are_forwarded(machine);
    serial_ports_are_sockets(machine);
    a_guest_image_is_put(machine, environment, architecture);
}

fn kvm_is_there(machine: &Machine, more: &str) {
    let command = format!("ls -l /dev/kvm && {more}");
    let output = machine.run(&command, LIMIT).unwrap();
    assert_eq!(output.status, 0, "{}", machine.console_log());
    assert!(output.text().starts_with('c'), "{}", output.text());
}

fn commands_have_output_and_status(machine: &Machine) {
    let output = machine
        .run("echo out; echo error >&2; exit 7", LIMIT)
        .unwrap();
    assert_eq!(output.text(), "out\n");
    assert_eq!(output.stderr, b"error\n");
    assert_eq!(output.status, 7);
    let output = machine.run("kill -TERM $$", LIMIT).unwrap();
    assert_eq!(output.status, 128 + 15);
    let large = machine
        .run("dd if=/dev/zero bs=1M count=4 2>/dev/null", LIMIT)
        .unwrap();
    assert_eq!(large.stdout.len(), 4 << 20);
}

fn commands_run_side_by_side(machine: &Machine) {
    machine.run("mkfifo /tmp/fifo", LIMIT).unwrap();
    let reader = machine
        .spawn("echo waiting; cat /tmp/fifo; echo done")
        .unwrap();
    reader.expect("waiting", LIMIT).unwrap();
    machine.run("echo through > /tmp/fifo", LIMIT).unwrap();
    reader.expect("through\ndone", LIMIT).unwrap();
    assert_eq!(reader.wait(LIMIT).unwrap().status, 0);
    let error = reader.expect("never", LIMIT).unwrap_err();
    assert!(matches!(error, MachineError::Ended { .. }), "{error}");
}

fn input_and_signals_reach_a_command(machine: &Machine) {
    let cat = machine.spawn("cat; echo end").unwrap();
    cat.write(b"some input\n").unwrap();
    cat.expect("some input\n", LIMIT).unwrap();
    cat.close_input().unwrap();
    assert_eq!(cat.wait(LIMIT).unwrap().text(), "some input\nend\n");

    let sleeper = machine
        .spawn("echo $$ > /tmp/pid; echo up; sleep 1000")
        .unwrap();
    sleeper.expect("up", LIMIT).unwrap();
    let error = sleeper
        .expect("never", Duration::from_millis(50))
        .unwrap_err();
    assert!(matches!(error, MachineError::TimedOut { .. }), "{error}");
    sleeper.signal("TERM").unwrap();
    assert_eq!(sleeper.wait(LIMIT).unwrap().status, 128 + 15);

    // A dropped process is gone, and so are its children.
    let dropped = machine
        .spawn("mkfifo /tmp/end; sleep 1000 > /tmp/end; true")
        .unwrap();
    let watcher = machine
        .spawn("until [ -p /tmp/end ]; do :; done; cat /tmp/end; echo gone")
        .unwrap();
    machine.run("until pidof sleep; do :; done", LIMIT).unwrap();
    drop(dropped);
    watcher.expect("gone", LIMIT).unwrap();
}

fn files_go_in_and_out(machine: &Machine) {
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    machine.put_bytes(&content, "/tmp/large", 0o600).unwrap();
    assert_eq!(machine.get("/tmp/large").unwrap(), content);
    let output = machine.run("stat -c %a /tmp/large", LIMIT).unwrap();
    assert_eq!(output.text(), "600\n");
    assert!(
        machine
            .get("/etc/greeting")
            .unwrap()
            .starts_with(b"//! Boots")
    );
    let error = machine.get("/nonexistent").unwrap_err();
    assert!(matches!(&error, MachineError::Refused(reason) if reason.contains("No such file")));
    let error = machine
        .put_bytes(&content, "/nonexistent/file", 0o600)
        .unwrap_err();
    assert!(matches!(&error, MachineError::Refused(_)), "{error}");
}

fn ask(mut connection: impl Read + Write) {
    connection.write_all(b"hello\n").unwrap();
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello\n");
}

fn tcp_is_forwarded(machine: &Machine) {
    // The server shows the socket it listens on before anything connects to it.
    let server =
        machine.spawn("nc -ll -p 2345 -e cat & until netstat -lnt | grep 2345; do :; done; wait");
    let server = server.unwrap();
    server.expect("LISTEN", LIMIT).unwrap();
    let port = machine.forward(2345).unwrap();
    ask(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    ask(machine.connect_tcp(2345).unwrap());
    ask(UnixStream::connect(machine.forward_socket("tcp:2345").unwrap()).unwrap());
    let error = machine.connect_tcp(2346).unwrap_err();
    assert!(matches!(error, MachineError::Refused(_)), "{error}");
}

fn unix_sockets_are_forwarded(machine: &Machine) {
    let error = machine.connect_unix("/tmp/none.socket").unwrap_err();
    assert!(matches!(error, MachineError::Refused(_)), "{error}");
}

fn serial_ports_are_sockets(machine: &Machine) {
    // The port is at its end for as long as nobody is connected here.
    let echo = machine
        .spawn(
            "exec 3<>/dev/virtio-ports/debug; echo open; while :; do cat <&3 >&3; sleep 0.1; done",
        )
        .unwrap();
    echo.expect("open", LIMIT).unwrap();
    let port = UnixStream::connect(machine.serial_port("debug")).unwrap();
    port.set_read_timeout(Some(LIMIT)).unwrap();
    ask(port);
}

fn a_guest_image_is_put(machine: &Machine, environment: &Environment, architecture: Architecture) {
    let image = GuestImage {
        architecture,
        ..GuestImage::default()
    };
    let (kernel, initrd) = machine.put_guest(environment, &image).unwrap();
    let output = machine
        .run(
            &format!("zcat {initrd} 2>/dev/null || cpio -t < {initrd}"),
            LIMIT,
        )
        .unwrap();
    assert!(output.text().contains("bin/busybox"), "{}", output.text());
    assert!(
        machine
            .run(&format!("test -s {kernel}"), LIMIT)
            .unwrap()
            .status
            == 0
    );
}
