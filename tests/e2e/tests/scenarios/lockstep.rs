//! Each step of a stock kernel's boot, against what QEMU says that the board's processor has executed.
//!
//! The hypervisor does not hide time, so no two boots are the same; the record is one of the same boot. Of each step it must say
//! that the processor has executed the one instruction at the stop's pc, on the registers that the server has told, and that no
//! interrupt was taken to EL1; and that the registers with which the guest came out are those with which it went in again.

use core::time::Duration;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use trapline_e2e::{
    Answer, Block, Detail, Exception, ExecutionLog, GuestBuilder, Image, LIMIT, RawClient,
    RunningGuest, Stage, Stepping, TraceEvent, harness::is_long,
};
use trapline_test_machine::GuestImage;

crate::scenarios! {
    Neither El2 each_step_is_what_the_machine_has_executed;
}

/// How far to step where.
struct Plan {
    /// Steps from the first instruction on, then when the kernel begins to speak, then in user mode.
    at_each: u32,
    /// How often between the latter two, as the boot goes on.
    rounds: u32,
    /// Steps in a round.
    in_round: u32,
    /// All registers are read each so many steps.
    all_registers_each: u32,
}

const SHORT: Plan = Plan {
    at_each: 3_000,
    rounds: 0,
    in_round: 0,
    all_registers_each: 32,
};
/// 1,000,000 steps.
const LONG: Plan = Plan {
    at_each: 100_000,
    rounds: 35,
    in_round: 20_000,
    all_registers_each: 256,
};
/// The long version says each so many steps how far it is.
const PROGRESS: u32 = 20_000;
/// How long the guest runs before each round.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(200);
/// For so many steps at each place the log has every instruction, whatever the state of software step. After them it has the
/// first block after each entry, which must be one of a single instruction.
const EACH_INSTRUCTION: u32 = 300;
/// How long a stock kernel may take to its first process, in an emulated machine on a busy computer.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// The memory that no code of the guest's is executed in; the hypervisor's is.
const HYPERVISOR: core::ops::Range<u64> = 0x4000_0000..0x4100_0000;
/// Where exceptions from EL1 and EL0 are taken, by offset from the vector base: synchronous ones, and interrupts.
const LOWER_LEVEL_VECTORS: [u64; 2] = [0x400, 0x480];
/// The alignment of a vector base.
const VECTORS_BYTES: u64 = 0x800;
/// PSTATE.SS.
const STEP_BIT: u64 = 1 << 21;
/// PSTATE.M's exception level.
const LEVEL: u64 = 0b1100;
/// The exception class of HVC.
const HVC: u8 = 0x16;
/// The exception class of SMC.
const SMC: u8 = 0x17;
/// The exception class of the step exception.
const STEP: u8 = 0x32;
/// System calls that do not return to where they came from: exit, `exit_group`, `rt_sigreturn`, execve.
const NO_RETURN: [u64; 4] = [93, 94, 139, 221];
/// How often an entry to the kernel is waited for that returns.
const ENTRIES: u32 = 50;
/// How long a return is waited for. A signal may lead elsewhere.
const RETURN_LIMIT: Duration = Duration::from_secs(10);
/// What a kernel says that was harmed.
const HARM: [&str; 4] = ["Internal error", "Unable to handle", "Kernel panic", "Oops"];
/// How long a guest may be stepped at one place without complaining of lost time.
const PATIENCE: Duration = Duration::from_secs(15);

fn each_step_is_what_the_machine_has_executed(stage: &Stage) -> Result<()> {
    let plan = if is_long() { LONG } else { SHORT };
    let directory = tempfile::tempdir()?;
    let contents = GuestImage {
        architecture: stage.place().architecture(),
        ..GuestImage::default()
    };
    let (kernel, initrd) = super::stock::files(stage, directory.path(), &contents)?;
    let image = Image::Files(kernel, initrd);
    let builder =
        GuestBuilder::new(stage.place().clone(), image, stage.transcript().clone()).cmdline(
            &format!("console={} earlycon panic=0", stage.place().console()),
        );
    let vectors = vectors(stage, builder.clone())?;
    let filter = filter(&LOWER_LEVEL_VECTORS.map(|offset| vectors + offset));
    let guest = builder.logged(&filter).start()?;
    let mut walk = Walk::new(stage, &guest, plan.all_registers_each)?;
    walk.steps("the first instruction", plan.at_each)?;
    walk.go_on()?;
    guest.expect("Booting Linux", BOOT_LIMIT)?;
    walk.interrupt()?;
    walk.steps("the kernel's start", plan.at_each)?;
    for round in 0..plan.rounds {
        walk.go_on()?;
        ensure!(walk.client.receive(BETWEEN_ROUNDS).is_err());
        walk.interrupt()?;
        walk.steps(&format!("round {round}"), plan.in_round)?;
    }
    walk.go_on()?;
    guest.expect("trapline-guest: up", BOOT_LIMIT)?;
    walk.interrupt()?;
    walk.enter_user_mode()?;
    walk.steps("user mode", plan.at_each)?;
    ensure!(walk.client.ask("D")? == "OK");
    println!("lockstep: {}", walk.summary());
    ensure!(walk.follower.in_user_mode > 0, "no step in user mode");
    ensure!(walk.follower.exceptions > 0, "no step took an exception");
    guest.expect_anew("heartbeat", BOOT_LIMIT)?;
    guest.expect_anew("heartbeat", LIMIT)?;
    is_unharmed(&guest, walk.longest)
}

/// The address of the hypervisor's exception vectors, from a boot of its own.
fn vectors(stage: &Stage, builder: GuestBuilder) -> Result<u64> {
    let guest = builder.logged(&filter(&[])).start()?;
    let mut client = stage.client(&guest)?;
    client.ask("?")?;
    let mut log = ExecutionLog::new(&guest)?;
    log.turn_on(Detail::Entries)?;
    client.resume("vCont;s:1")?;
    let events = log.events()?;
    let vector = events.iter().find_map(|event| match event {
        TraceEvent::Exception(exception) if exception.from < 2 => Some(exception.vector),
        _ => None,
    });
    let base = vector.context("a step without an exception")? & !(VECTORS_BYTES - 1);
    ensure!(HYPERVISOR.contains(&base), "{base:#x}");
    Ok(base)
}

/// What is logged, by address: all that can be the guest's, and of the hypervisor's the instructions at these addresses.
fn filter(vectors: &[u64]) -> String {
    let mut filter = format!(
        "0x0..{:#x},{:#x}..{:#x}",
        HYPERVISOR.start - 1,
        HYPERVISOR.end,
        u64::MAX
    );
    for vector in vectors {
        filter += &format!(",{vector:#x}..{:#x}", vector + 3);
    }
    filter
}

fn is_unharmed(guest: &RunningGuest, longest: Duration) -> Result<()> {
    let console = guest.output();
    let complaints: &[&str] = if longest < PATIENCE {
        &["Call trace"]
    } else {
        &[]
    };
    let mut bad = HARM.iter().chain(complaints);
    let found = bad.find(|text| console.contains(**text));
    ensure!(found.is_none(), "the guest says {found:?}:\n{console}");
    Ok(())
}

/// A stop as the server tells it.
#[derive(Clone, Debug)]
struct Stop {
    pc: u64,
    sp: u64,
    /// X29.
    frame: u64,
    pstate: u64,
    /// X0 to X30, if they were read.
    general: Option<Vec<u64>>,
}

impl Stop {
    fn parse(reply: &str) -> Result<Self> {
        ensure!(reply.starts_with("T05thread:1;"), "{reply}");
        let value = |number: &str| {
            let mut pairs = reply.split(';').filter_map(|pair| pair.split_once(':'));
            let found = pairs.find(|(key, _)| *key == number);
            little_endian(found.with_context(|| format!("no register {number}"))?.1)
        };
        Ok(Self {
            frame: value("1d")?,
            sp: value("1f")?,
            pc: value("20")?,
            pstate: value("21")?,
            general: None,
        })
    }

    /// Takes the answer to `g` over, which says the same.
    fn read(&mut self, all: &str) -> Result<()> {
        let value = |number: usize| {
            let digits = all.get(16 * number..16 * number + 16);
            little_endian(digits.context("a register in the answer to g")?)
        };
        let general = (0..31).map(value).collect::<Result<Vec<_>>>()?;
        ensure!(general.last_chunk() == Some(&[self.frame, value(30)?]));
        ensure!((value(31)?, value(32)?) == (self.sp, self.pc), "{all}");
        self.general = Some(general);
        Ok(())
    }

    /// Whether a block was entered with these registers.
    fn is_before(&self, block: &Block) -> bool {
        let frame = block.general.get(29);
        let general = self.general.as_deref();
        (self.pc, self.sp, self.pstate) == (block.pc, block.sp, block.pstate & !STEP_BIT)
            && frame == Some(&self.frame)
            && general.is_none_or(|general| general == block.general)
    }
}

fn little_endian(digits: &str) -> Result<u64> {
    ensure!(matches!(digits.len(), 8 | 16), "{digits}");
    let value = u64::from_str_radix(digits, 16)?;
    Ok(value.swap_bytes() >> (64 - 4 * digits.len()))
}

/// Steps a guest and compares.
struct Walk {
    client: RawClient,
    log: ExecutionLog,
    follower: Follower,
    stop: Stop,
    all_registers_each: u32,
    count: u32,
    time: Duration,
    longest: Duration,
}

impl Walk {
    fn new(stage: &Stage, guest: &RunningGuest, all_registers_each: u32) -> Result<Self> {
        let mut client = stage.client(guest)?;
        let stop = Stop::parse(&client.ask("?")?)?;
        Ok(Self {
            client,
            log: ExecutionLog::new(guest)?,
            follower: Follower::default(),
            stop,
            all_registers_each,
            count: 0,
            time: Duration::ZERO,
            longest: Duration::ZERO,
        })
    }

    fn go_on(&mut self) -> Result<()> {
        self.client.packet("vCont;c")
    }

    fn interrupt(&mut self) -> Result<()> {
        self.client.send(b"\x03")?;
        let reply = self.client.answer()?;
        let reply = reply.replacen("T02", "T05", 1);
        self.stop = Stop::parse(&reply)?;
        Ok(())
    }

    /// Lets the guest run to the end of an entry to the kernel.
    fn enter_user_mode(&mut self) -> Result<()> {
        let description = self.client.ask("qXfer:features:read:target.xml:0,10000")?;
        let number = |name: &str| {
            let (_, rest) = description.split_once(&format!("name=\"{name}\""))?;
            let rest = rest.split_once("regnum=\"")?.1;
            rest.split('"').next()?.parse::<u32>().ok()
        };
        let vectors = number("vbar_el1").context("VBAR_EL1's number")?;
        let link = number("elr_el1").context("ELR_EL1's number")?;
        let entry = self.register(vectors)? + LOWER_LEVEL_VECTORS[0];
        for _ in 0..ENTRIES {
            ensure!(self.run_to(entry, LIMIT)?, "nobody calls the kernel");
            let call = self.register(8)?;
            let back = self.register(link)?;
            if !NO_RETURN.contains(&call) && self.run_to(back, RETURN_LIMIT)? {
                ensure!(self.stop.pstate & LEVEL == 0, "{:x?}", self.stop);
                return Ok(());
            }
        }
        bail!("no entry to the kernel returns")
    }

    fn register(&mut self, number: u32) -> Result<u64> {
        little_endian(&self.client.ask(&format!("p{number:x}"))?)
    }

    /// Lets the guest run to an address. Yields whether it came there within `limit`; if not it is stopped elsewhere.
    fn run_to(&mut self, address: u64, limit: Duration) -> Result<bool> {
        ensure!(self.client.ask(&format!("Z1,{address:x},4"))? == "OK");
        self.go_on()?;
        match self.client.receive(limit) {
            Ok(Answer::Packet(reply)) => self.stop = Stop::parse(str::from_utf8(&reply)?)?,
            Ok(other) => bail!("expected a stop, not {other:?}"),
            Err(_) => self.interrupt()?,
        }
        ensure!(self.client.ask(&format!("z1,{address:x},4"))? == "OK");
        Ok(self.stop.pc == address)
    }

    fn steps(&mut self, place: &str, count: u32) -> Result<()> {
        let start = Instant::now();
        let time_before = self.time;
        self.follower.left = None;
        self.log.turn_on(Detail::EachInstruction)?;
        for number in 0..count {
            if number == EACH_INSTRUCTION {
                self.log.turn_on(Detail::Entries)?;
            }
            if number % self.all_registers_each == 0 {
                let all = self.client.ask("g")?;
                self.stop.read(&all)?;
            }
            if is_long() && self.count.is_multiple_of(PROGRESS) {
                println!("lockstep: at {place}: {}", self.summary());
            }
            self.step()
                .with_context(|| format!("step {number} from {place}, at {:x?}", self.stop))?;
            self.count += 1;
            self.time = time_before + start.elapsed();
        }
        self.log.turn_off()?;
        self.longest = self.longest.max(start.elapsed());
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let reply = self.client.resume("vCont;s:1")?;
        let after = Stop::parse(&reply)?;
        let events = self.log.events()?;
        let result = self.follower.follow(&self.stop, &after, &events);
        result.with_context(|| format!("{reply}\nafter {events:x?}"))?;
        self.stop = after;
        Ok(())
    }

    fn summary(&self) -> String {
        let follower = &self.follower;
        format!(
            "{} steps in {:.0} s, {:.0}/s; {} in user mode, {} that took exceptions, {} that the hypervisor emulated, {} met by \
             interrupts",
            self.count,
            self.time.as_secs_f64(),
            f64::from(self.count) / self.time.as_secs_f64().max(0.001),
            follower.in_user_mode,
            follower.exceptions,
            follower.emulated,
            follower.interrupted
        )
    }
}

/// Holds steps against the log.
#[derive(Default)]
struct Follower {
    /// With what the guest last came out, if that was seen.
    left: Option<Left>,
    in_user_mode: u32,
    exceptions: u32,
    emulated: u32,
    interrupted: u32,
}

/// With what the guest came out.
struct Left {
    pstate: u64,
    general: Option<[u64; 31]>,
    /// In how many registers an instruction may have a result that the hypervisor has emulated.
    results: usize,
}

/// How far a step has come.
#[derive(Default)]
struct Progress {
    /// A block was entered.
    has_begun: bool,
    is_done: bool,
    /// The vector of an exception to EL1.
    vector: Option<u64>,
    /// The class of the last exception to EL2 that did not end the step.
    trap: Option<u8>,
}

impl Follower {
    fn follow(&mut self, before: &Stop, after: &Stop, events: &[TraceEvent]) -> Result<()> {
        let mut step = Progress::default();
        for event in events {
            match event {
                TraceEvent::Block(block) if block.level >= 2 => {
                    let left = self.left.as_mut().context("an exit without an exception")?;
                    left.general = Some(block.general);
                }
                TraceEvent::Block(block) => {
                    self.enter(before, after, block, &mut step)?;
                }
                TraceEvent::NotExecuted => step.has_begun = false,
                TraceEvent::Exception(exception) if exception.from >= 2 => {}
                TraceEvent::Exception(exception) if exception.to < 2 => {
                    ensure!(!exception.is_asynchronous(), "an interrupt in a step");
                    ensure!(!step.is_done && step.vector.is_none(), "two exceptions");
                    step.vector = Some(exception.vector);
                }
                TraceEvent::Exception(exception) => {
                    self.leave(before, after, exception, &mut step)?;
                }
            }
        }
        self.in_user_mode += u32::from(before.pstate & LEVEL == 0);
        self.exceptions += u32::from(step.vector.is_some());
        if !step.is_done {
            self.emulate(before, after, &step)?;
        }
        Ok(())
    }

    /// The guest goes in.
    fn enter(
        &mut self,
        before: &Stop,
        after: &Stop,
        block: &Block,
        step: &mut Progress,
    ) -> Result<()> {
        if block.stepping == Stepping::None {
            // The step exception comes before the instruction here.
            ensure!(block.pc == after.pc);
            return Ok(());
        }
        ensure!(!step.is_done, "one more instruction");
        ensure!(block.stepping == Stepping::One, "a block that may be long");
        ensure!(before.is_before(block), "other registers than told");
        if let Some(left) = self.left.take() {
            let general = left.general.context("an exit was not seen")?;
            let pairs = general.iter().zip(&block.general);
            let changed = pairs.filter(|(left, now)| left != now).count();
            ensure!(changed <= left.results, "{changed} registers have changed");
            ensure!(left.pstate == block.pstate & !STEP_BIT, "another PSTATE");
        }
        step.has_begun = true;
        Ok(())
    }

    /// The guest comes out.
    fn leave(
        &mut self,
        before: &Stop,
        after: &Stop,
        exception: &Exception,
        step: &mut Progress,
    ) -> Result<()> {
        self.left = Some(Left {
            pstate: exception.spsr & !STEP_BIT,
            general: None,
            results: 0,
        });
        let has_executed = exception.spsr & STEP_BIT == 0;
        if exception.is_asynchronous() {
            self.interrupted += 1;
            if !has_executed {
                return Ok(());
            }
        } else if exception.class != STEP {
            let is_behind = exception.class == HVC && exception.elr == before.pc + 4;
            ensure!(exception.elr == before.pc || is_behind, "elsewhere");
            step.trap = Some(exception.class);
            return Ok(());
        }
        ensure!(has_executed, "a step exception before the step");
        let can_be_done = step.has_begun || step.vector.is_some() || step.is_done;
        ensure!(can_be_done, "a step exception without an instruction");
        ensure!(step.vector.is_none_or(|vector| vector == exception.elr));
        let told = (after.pc, after.pstate);
        ensure!((exception.elr, exception.spsr) == told, "another end");
        step.is_done = true;
        Ok(())
    }

    /// The hypervisor has carried the instruction out, or has ended the step in its place.
    fn emulate(&mut self, before: &Stop, after: &Stop, step: &Progress) -> Result<()> {
        let class = step.trap.context("nothing was executed")?;
        ensure!(step.vector.is_none(), "an exception without an end");
        ensure!(after.pc == before.pc + 4, "not the next instruction");
        self.emulated += 1;
        if let Some(left) = &mut self.left {
            // The calling convention of firmware has results in X0 to X17.
            left.results = if [HVC, SMC].contains(&class) { 18 } else { 1 };
        }
        Ok(())
    }
}
