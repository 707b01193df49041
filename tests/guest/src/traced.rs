//! A process that is traced, and watchpoints in it.
#![expect(
    unsafe_code,
    reason = "the dependencies set no hardware watchpoints, and tell no signal's address"
)]

use core::mem::size_of;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use libc::{c_uint, iovec};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What the process is started with.
pub(crate) const ARGUMENT: &str = "traced";

/// The register set of hardware watchpoints (Linux, `include/uapi/linux/elf.h`, `NT_ARM_HW_WATCH`).
const NT_ARM_HW_WATCH: c_uint = 0x403;
/// Enabled, for stores, to all eight bytes (Linux, `arch/arm64/include/asm/hw_breakpoint.h`, `decode_ctrl_reg`).
const WATCH_STORES: u32 = 0xff << 5 | 2 << 3 | 1;
/// How long the process may take to stop, in an emulated machine on a busy computer, and while a debugger has stopped it.
const LIMIT: Duration = Duration::from_secs(120);
/// Between looks whether it has.
const TICK: Duration = Duration::from_millis(1);
/// A signal's code for a hardware breakpoint or watchpoint.
const TRAP_HWBKPT: i32 = 4;

/// `struct user_hwdebug_state` with one register (Linux, `arch/arm64/include/uapi/asm/ptrace.h`).
#[repr(C)]
struct Watchpoints {
    info: u32,
    padding: u32,
    address: u64,
    control: u32,
    padding_of_first: u32,
}

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Says where its variable is and writes it for ever.
pub(crate) fn be_traced() -> Result<()> {
    println!("{:x}", WRITTEN.as_ptr().addr());
    loop {
        let next = WRITTEN.load(Ordering::Relaxed).wrapping_add(1);
        WRITTEN.store(next, Ordering::Relaxed);
        for _ in 0..100 {
            core::hint::spin_loop();
        }
    }
}

/// The process, which is stopped between rounds.
pub(crate) struct Traced {
    // Kept for its pipe: the process is this one's for ever.
    _child: Child,
    process: Pid,
    address: u64,
}

impl Traced {
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("it has no output")?;
        let mut line = String::new();
        BufReader::new(output.take(64)).read_line(&mut line)?;
        let address = u64::from_str_radix(line.trim(), 16)?;
        let process = Pid::from_raw(i32::try_from(child.id())?);
        ptrace::attach(process)?;
        let traced = Self {
            _child: child,
            process,
            address,
        };
        traced.wait_for(Signal::SIGSTOP, "attaching")?;
        Ok(traced)
    }

    /// Has it stopped by a watchpoint `count` times, and once without any.
    pub(crate) fn stop_times(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.watch(WATCH_STORES)?;
            ptrace::cont(self.process, None)?;
            self.wait_for(Signal::SIGTRAP, "a watchpoint")?;
            let (code, address) = self.signal()?;
            ensure!(
                code == TRAP_HWBKPT && address == self.address,
                "a stop with code {code} at {address:#x} instead of {:#x}",
                self.address
            );
            self.watch(0)?;
            // The store itself.
            ptrace::step(self.process, None)?;
            self.wait_for(Signal::SIGTRAP, "a step")?;
        }
        ptrace::cont(self.process, None)?;
        kill(self.process, Signal::SIGSTOP)?;
        self.wait_for(Signal::SIGSTOP, "a signal")
    }

    fn wait_for(&self, signal: Signal, after: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            match waitpid(self.process, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => thread::sleep(TICK),
                WaitStatus::Stopped(_, stopped) if stopped == signal => return Ok(()),
                other => bail!("{other:?} instead of {signal} after {after}"),
            }
        }
        bail!("no {signal} after {after} within {LIMIT:?}")
    }

    /// The code and the address of the signal that has stopped it.
    fn signal(&self) -> Result<(i32, u64)> {
        let info = ptrace::getsiginfo(self.process)?;
        // SAFETY: SIGTRAP has an address.
        let address = unsafe { info.si_addr() };
        Ok((info.si_code, address.addr() as u64))
    }

    fn watch(&self, control: u32) -> Result<()> {
        let mut points = Watchpoints {
            info: 0,
            padding: 0,
            address: self.address,
            control,
            padding_of_first: 0,
        };
        let mut vector = iovec {
            iov_base: (&raw mut points).cast(),
            iov_len: size_of::<Watchpoints>(),
        };
        // SAFETY: the kernel reads as many bytes as the vector says, and the registers outlive the call.
        let result = unsafe {
            libc::ptrace(
                libc::PTRACE_SETREGSET,
                self.process.as_raw(),
                NT_ARM_HW_WATCH,
                &raw mut vector,
            )
        };
        ensure!(
            result == 0,
            "no watchpoint: {}",
            std::io::Error::last_os_error()
        );
        Ok(())
    }
}
