//! Facts, and what a scenario works with to hold one.

use anyhow::{Result, ensure};
use trapline_guests::Guest;
use trapline_test_machine::{Architecture, Environment};

use crate::{
    Debugger, GdbSession, GuestBuilder, Image, Kind, LldbSession, Names, Needs, Place, RawClient,
    RunningGuest, Transcript,
};

/// A fact, and the code that fails where it does not hold.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The fact.
    pub name: &'static str,
    /// On what it is played, on each of them.
    pub needs: &'static [Needs],
    /// With which debugger.
    pub with: With,
    /// Holds the fact.
    pub run: fn(&Stage) -> Result<()>,
}

/// With which debugger a scenario is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// With each of the two.
    Each,
    /// With GDB alone.
    Gdb,
    /// With LLDB alone.
    Lldb,
    /// With neither: it speaks the protocol itself, or starts no guest.
    Neither,
}

impl With {
    /// The debuggers; [`None`] for neither.
    pub(crate) fn kinds(self) -> &'static [Option<Kind>] {
        match self {
            Self::Each => &[Some(Kind::Gdb), Some(Kind::Lldb)],
            Self::Gdb => &[Some(Kind::Gdb)],
            Self::Lldb => &[Some(Kind::Lldb)],
            Self::Neither => &[None],
        }
    }
}

/// Where a scenario plays: a place, a debugger and a transcript.
#[derive(Debug)]
pub struct Stage {
    environment: Environment,
    place: Place,
    kind: Option<Kind>,
    transcript: Transcript,
}

impl Stage {
    /// Makes a stage with an empty transcript.
    #[must_use]
    pub fn new(environment: Environment, place: Place, kind: Option<Kind>) -> Self {
        Self {
            environment,
            place,
            kind,
            transcript: Transcript::new(),
        }
    }

    /// What programs and files there are.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Where guests run.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the guest's architecture calls things.
    #[must_use]
    pub fn names(&self) -> &'static Names {
        Names::of(self.place.architecture())
    }

    /// With which debugger this is played; GDB where the scenario asked for none.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind.unwrap_or(Kind::Gdb)
    }

    /// What is shown if the scenario fails.
    #[must_use]
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// A tiny guest to be: that of this name which is of the place's architecture.
    #[must_use]
    pub fn guest(&self, guest: &'static Guest) -> GuestBuilder {
        let all = match self.place.architecture() {
            Architecture::X86_64 => trapline_guests::all(),
            Architecture::Arm64 => trapline_guests::aarch64::all(),
        };
        let mut namesakes = all.iter().filter(|other| other.name == guest.name);
        let image = Image::Tiny(namesakes.next().unwrap_or(guest));
        GuestBuilder::new(self.place.clone(), image, self.transcript.clone())
    }

    /// Starts this scenario's debugger, not yet connected.
    ///
    /// # Errors
    /// When it does not start.
    pub fn debugger(&self) -> Result<Box<dyn Debugger>> {
        Ok(match self.kind() {
            Kind::Gdb => Box::new(self.gdb()?),
            Kind::Lldb => Box::new(LldbSession::start(&self.environment, &self.transcript)?),
        })
    }

    /// Starts GDB, not yet connected.
    ///
    /// # Errors
    /// When it does not start.
    pub fn gdb(&self) -> Result<GdbSession> {
        let program = match self.place.architecture() {
            Architecture::X86_64 => self.environment.gdb()?,
            Architecture::Arm64 => self.environment.gdb_multiarch()?,
        };
        GdbSession::start(program, &self.transcript)
    }

    /// Connects this scenario's debugger to a tiny guest, with the guest's symbols.
    ///
    /// # Errors
    /// When it cannot be connected.
    pub fn attach(&self, guest: &RunningGuest) -> Result<Box<dyn Debugger>> {
        let mut debugger = self.debugger()?;
        debugger.symbols(&guest.image_path()?, guest.slide())?;
        let stop = debugger.connect(guest.socket())?;
        ensure!(stop.thread != 0, "no thread after connecting: {stop:?}");
        Ok(debugger)
    }

    /// Starts a tiny guest with one vCPU, held, and connects this scenario's debugger to it.
    ///
    /// # Errors
    /// When either fails.
    pub fn held(&self, guest: &'static Guest) -> Result<(RunningGuest, Box<dyn Debugger>)> {
        let guest = self.guest(guest).start()?;
        let debugger = self.attach(&guest)?;
        Ok((guest, debugger))
    }

    /// Lets a guest go on whose client has vanished. Nobody hangs up on a serial line: there the next client ends
    /// what the last one has left, and detaches.
    ///
    /// # Errors
    /// When that cannot be connected, or is refused.
    pub fn let_go(&self, guest: &RunningGuest) -> Result<()> {
        if !matches!(self.place, Place::Board) {
            return Ok(());
        }
        let mut client = self.client(guest)?;
        let answer = client.ask("D")?;
        ensure!(answer == "OK", "D: {answer}");
        Ok(())
    }

    /// The kind of a breakpoint in `Z` packets: 1 on x86, the length of an instruction elsewhere.
    #[must_use]
    pub fn breakpoint_kind(&self) -> u64 {
        self.names().instruction_bytes.0
    }

    /// Connects a client that speaks the protocol itself, without acknowledgements.
    ///
    /// # Errors
    /// When it cannot be connected.
    pub fn client(&self, guest: &RunningGuest) -> Result<RawClient> {
        RawClient::without_acks(guest.socket(), &self.transcript)
    }
}
