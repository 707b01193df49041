//! A breakpoint whose condition never holds, as GDB's user writes it: GDB evaluates it by itself for
//! QEMU's stub, and leaves it to Trapline, which offers to.
//!
//! The guest counts how often it comes by. Its counter is read beside GDB while it runs: by a second
//! client of Trapline's, and by QEMU's monitor. Whoever is not measured is frozen meanwhile.

use core::time::Duration;
use std::io::Write as _;
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use trapline_guests::COUNTER;

use super::{Bench, address};
use crate::client::{Client, connect_soon};
use crate::qmp::Qmp;
use crate::report::{Bar, Figure};
use crate::rounds::{Party, Plan, measure};
use crate::servers::{KillOnDrop, Server, Who};

/// How long the guest runs before it is looked at, and while it is.
const WARM_UP: Duration = Duration::from_millis(100);
const WINDOW: Duration = Duration::from_millis(1000);
/// How long GDB may take until the guest comes by its breakpoint.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many times QEMU's hits are to be reached.
const BAR: Bar = Bar::AtLeast(20.0);

pub(super) fn measure_all(bench: &Bench) -> Result<Figure> {
    let mut software = Contender::new(bench, Who::Trapline, "break")?;
    let mut hardware = Contender::new(bench, Who::Trapline, "hbreak")?;
    let mut qemu_hardware = Contender::new(bench, Who::Qemu, "hbreak")?;
    let mut qemu_software = Contender::new(bench, Who::Qemu, "break")?;
    let plan = Plan {
        rounds: bench.rounds,
        warm_up: 0,
        samples: 1,
    };
    let figure = Figure::new("breakpoint with a false condition, in GDB", "hits/s");
    let break_ = Party::new("trapline, break", || software.hits_per_second());
    let hbreak = Party::new("trapline, hbreak", || hardware.hits_per_second());
    let qemu = Party::new("qemu, hbreak", || qemu_hardware.hits_per_second());
    // Not every KVM can tell QEMU of a breakpoint instruction.
    if qemu_software.hits_per_second()? == 0.0 {
        let measured = measure(plan, [break_, hbreak, qemu])?;
        let [break_, hbreak, qemu] = &measured;
        return Ok(figure
            .values(&measured)
            .ratio(break_, qemu, BAR)
            .ratio(hbreak, qemu, BAR)
            .note(
                "qemu does not go on from a software breakpoint on this KVM: both are compared \
                 with its hardware breakpoint",
            ));
    }
    let qemu_break = Party::new("qemu, break", || qemu_software.hits_per_second());
    let measured = measure(plan, [break_, hbreak, qemu_break, qemu])?;
    let [break_, hbreak, qemu_break, qemu_hbreak] = &measured;
    Ok(figure
        .values(&measured)
        .ratio(break_, qemu_break, BAR)
        .ratio(hbreak, qemu_hbreak, BAR))
}

/// A server, GDB with a breakpoint on the guest's function `hot`, and a way to see the counter.
struct Contender {
    server: Server,
    gdb: KillOnDrop,
    /// GDB ends with its input.
    _input: ChildStdin,
    counter: Counter,
    has_come_by: bool,
}

enum Counter {
    Client(Client),
    Monitor(Qmp),
}

impl Contender {
    /// Starts all and freezes it.
    fn new(bench: &Bench, who: Who, command: &str) -> Result<Self> {
        let server = Server::start(&bench.place, who, &COUNTER, 1)?;
        // GDB would not try again if it came too early.
        drop(connect_soon(&server.socket)?);
        let mut child = Command::new(bench.place.environment.gdb()?)
            .args(["-nx", "-q"])
            .arg(&server.elf)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut input = child.stdin.take().context("GDB has no input")?;
        let gdb = KillOnDrop(child);
        writeln!(input, "set confirm off")?;
        writeln!(input, "target remote {}", server.socket.display())?;
        writeln!(input, "{command} hot if $rdi == -1")?;
        writeln!(input, "continue")?;
        let counter = match who {
            Who::Trapline => {
                let mut client = server.connect()?;
                // Physical memory is read without a pause of the guest.
                ensure!(client.ask("Qqemu.PhyMemMode:1")? == "OK");
                Counter::Client(client)
            }
            Who::Qemu => Counter::Monitor(Qmp::connect(&server.monitor)?),
        };
        let mut contender = Self {
            server,
            gdb,
            _input: input,
            counter,
            has_come_by: false,
        };
        contender.wait_for_hits()?;
        contender.freeze(Signal::STOP)?;
        Ok(contender)
    }

    /// Gives GDB and the guest time to come to the breakpoint.
    fn wait_for_hits(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.hits()? < 2 {
            if Instant::now() > deadline {
                return Ok(());
            }
            thread::sleep(WARM_UP);
        }
        self.has_come_by = true;
        Ok(())
    }

    /// Runs the guest for a while and returns how often it came by the breakpoint in a second.
    fn hits_per_second(&mut self) -> Result<f64> {
        if !self.has_come_by {
            return Ok(0.0);
        }
        self.freeze(Signal::CONT)?;
        thread::sleep(WARM_UP);
        let (before, start) = (self.hits()?, Instant::now());
        thread::sleep(WINDOW);
        let (after, seconds) = (self.hits()?, start.elapsed().as_secs_f64());
        self.freeze(Signal::STOP)?;
        Ok(f64::from(u32::try_from(after.wrapping_sub(before))?) / seconds)
    }

    /// Stops or continues both processes.
    fn freeze(&self, signal: Signal) -> Result<()> {
        for id in [self.server.process_id(), self.gdb.0.id()] {
            let id = Pid::from_raw(i32::try_from(id)?).context("a process has no number")?;
            kill_process(id, signal)?;
        }
        Ok(())
    }

    fn hits(&mut self) -> Result<u64> {
        let counter = address(&COUNTER, "counter")?;
        match &mut self.counter {
            Counter::Client(client) => client.read_u64(counter),
            Counter::Monitor(monitor) => monitor.read_u64(counter),
        }
    }
}
