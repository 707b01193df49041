//! The real-time signal that brings a thread out of `KVM_RUN`.
#![expect(
    unsafe_code,
    reason = "installs a signal handler and sends signals to threads"
)]

use core::cell::Cell;
use core::mem;
use core::ptr;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use libc::{c_int, siginfo_t};

/// The kernel's number of a thread; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(pub(crate) i32);

impl ThreadId {
    /// Returns the calling thread's. It is asked for at each step, so the kernel is asked once.
    pub(crate) fn current() -> Self {
        thread_local! {
            // SAFETY: gettid has no preconditions.
            static CURRENT: ThreadId = ThreadId(unsafe { libc::gettid() });
        }
        CURRENT.with(|current| *current)
    }
}

/// A signal whose only effect is that a blocking system call returns EINTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KickSignal(c_int);

/// Does nothing: delivery alone ends `KVM_RUN`.
extern "C" fn ignore(_: c_int, _: *mut siginfo_t, _: *mut libc::c_void) {}

impl KickSignal {
    /// Installs a handler for SIGRTMIN + `offset`, once per process.
    ///
    /// # Errors
    /// `InvalidInput` if there is no such signal, `AddrInUse` if somebody else handles it.
    pub(crate) fn install(offset: u8) -> io::Result<Self> {
        static INSTALLED: Mutex<BTreeSet<c_int>> = Mutex::new(BTreeSet::new());
        let number = libc::SIGRTMIN().saturating_add(offset.into());
        if number > libc::SIGRTMAX() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if !installed.contains(&number) {
            if disposition(number)? != libc::SIG_DFL {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            handle(number)?;
            installed.insert(number);
        }
        Ok(Self(number))
    }

    /// Lets the calling thread receive the signal, should it be blocked.
    pub(crate) fn unblock(self) {
        // SAFETY: an all-zero sigset_t is a valid one.
        let mut set = unsafe { mem::zeroed() };
        // SAFETY: `set` is a valid place for a signal set.
        unsafe { libc::sigemptyset(&raw mut set) };
        // SAFETY: `set` is initialised, and the number was checked to be a signal.
        unsafe { libc::sigaddset(&raw mut set, self.0) };
        // SAFETY: `set` is initialised, and the old mask is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
    }

    /// Does the same at the thread's first call.
    pub(crate) fn unblock_once(self) {
        thread_local! {
            static DONE: Cell<bool> = const { Cell::new(false) };
        }
        if !DONE.replace(true) {
            self.unblock();
        }
    }

    /// Sends the signal to a thread of this process. A thread that has ended is no error.
    pub(crate) fn send(self, thread: ThreadId) {
        // SAFETY: getpid has no preconditions.
        let process = unsafe { libc::getpid() };
        // SAFETY: tgkill takes plain numbers, and the signal has a handler that does nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread.0, self.0) };
    }
}

fn disposition(number: c_int) -> io::Result<usize> {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: no new action is given, and `old` is a valid place for the present one.
    let result = unsafe { libc::sigaction(number, ptr::null(), &raw mut old) };
    if result == 0 {
        Ok(old.sa_sigaction)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn handle(number: c_int) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = ignore as *const () as usize;
    // SA_RESTART keeps other system calls of the thread undisturbed. KVM_RUN returns EINTR anyhow.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and is async-signal-safe.
    let result = unsafe { libc::sigaction(number, &raw const action, ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
