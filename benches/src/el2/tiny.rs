//! The tiny guest `counter` on a computer, with a client of its debug server.

use core::time::Duration;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use trapline_guests::aarch64::COUNTER;
use trapline_rsp::client::decode_hex;

use super::Bench;
use super::computer::{Below, Computer, Contents};
use crate::client::{Client, Packet};

/// Long enough for the guest to have left its start-up code.
const START_UP: Duration = Duration::from_millis(500);
/// Where QEMU puts the instructions that lead to an image: the start of memory.
const LOADER: core::ops::Range<u64> = 0x4000_0000..0x4000_1000;
/// More than QEMU's instructions before an image, and than the instructions of a round.
const MAX_STEPS: u32 = 1000;
/// GDB's number of the pc (GDB manual, "AArch64 Features").
const PC: u32 = 32;

/// The guest, stopped in its main loop.
pub(super) struct Tiny {
    pub(super) client: Client,
    /// Added to the image's addresses.
    base: u64,
    _computer: Computer,
}

impl Tiny {
    pub(super) fn new(bench: &Bench, below: Below) -> Result<Self> {
        let mut computer = Computer::start(bench, below, Contents::Tiny(&COUNTER), 1)?;
        let mut tiny = Self {
            client: computer.connect_to_held()?,
            base: 0,
            _computer: computer,
        };
        if below != Below::Hypervisor {
            tiny.leave_loader()?;
        }
        tiny.base = tiny.register(PC)?.wrapping_sub(tiny.address("_start")?);
        tiny.client.go()?;
        thread::sleep(START_UP);
        tiny.client.stop()?;
        ensure!(
            tiny.count()? > 0,
            "the guest does not come to its main loop"
        );
        Ok(tiny)
    }

    /// Steps to the guest's first instruction.
    fn leave_loader(&mut self) -> Result<()> {
        for _ in 0..MAX_STEPS {
            if !LOADER.contains(&self.register(PC)?) {
                return Ok(());
            }
            self.step()?;
        }
        bail!("QEMU's loader does not come to the guest");
    }

    /// The address of one of the guest's labels.
    pub(super) fn address(&self, label: &str) -> Result<u64> {
        let address = COUNTER.symbol(label);
        let address = address.with_context(|| format!("the guest has no label {label}"))?;
        Ok(address.wrapping_add(self.base))
    }

    /// How many rounds of its main loop the guest has done.
    pub(super) fn count(&mut self) -> Result<u64> {
        self.client.read_u64(self.address("counter")?)
    }

    /// Makes one step and takes the stop reply.
    pub(super) fn step(&mut self) -> Result<()> {
        let reply = self.client.request(&Packet::new("vCont;s:1"))?;
        ensure!(reply.starts_with(b"T05"), "a step does not end in a step");
        Ok(())
    }

    /// Reads a register of 64 bits by GDB's number.
    pub(super) fn register(&mut self, number: u32) -> Result<u64> {
        let reply = self.client.ask(&format!("p{number:x}"))?;
        let bytes = decode_hex(reply.as_bytes()).ok();
        match bytes.and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => Ok(u64::from_le_bytes(bytes)),
            None => bail!("register {number} cannot be read: {reply}"),
        }
    }

    /// Sends a request that is answered by OK.
    pub(super) fn order(&mut self, body: &str) -> Result<()> {
        let reply = self.client.ask(body)?;
        ensure!(reply == "OK", "{body} is answered by {reply:?}");
        Ok(())
    }

    /// Goes on until the pc is that of a label that the guest comes by in every round.
    pub(super) fn go_to(&mut self, label: &str) -> Result<()> {
        let address = self.address(label)?;
        self.order(&format!("Z0,{address:x},4"))?;
        self.client.go()?;
        self.client.reply()?;
        self.order(&format!("z0,{address:x},4"))?;
        let pc = self.register(PC)?;
        ensure!(
            pc == address,
            "the guest stops at {pc:#x} and not at {label}"
        );
        Ok(())
    }

    /// The number of instructions of one round of the main loop.
    pub(super) fn instructions_per_round(&mut self) -> Result<u32> {
        self.go_to("main_loop")?;
        let address = self.address("main_loop")?;
        for count in 1..=MAX_STEPS {
            self.step()?;
            if self.register(PC)? == address {
                return Ok(count);
            }
        }
        bail!("the guest does not come back to its main loop");
    }
}
