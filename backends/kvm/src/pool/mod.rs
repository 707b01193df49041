//! One thread for each vCPU.
//!
//! A thread owns nothing while its vCPU is stopped: the vCPU lies in a mutex that the thread holds
//! only from a command to its answer, so that whoever debugs the guest reads registers by itself.

mod lane;
mod lookout;
mod patrol;
mod watch;

use core::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use trapline_engine::contract::AccessError;
use trapline_engine::{Capabilities, ResumeAction, ResumeRequest, StopReason, VcpuId};

use crate::bus::{DeviceBus, StopListener};
use crate::control::VcpuControl;
use crate::gate::Gate;
use crate::host::{ARCHITECTURE, KvmVcpu};
use crate::memory::{MemoryHandle, SharedMemory};
use crate::sys::KickSignal;
use crate::{KvmError, KvmMachine, KvmReport};

pub(crate) use lane::Shared;
use lane::{Lane, Work};
use watch::{STEP_PATIENCE, Watch};

/// The vCPUs of one guest, each with its thread. Dropping it stops all vCPUs and ends the threads.
#[derive(Debug)]
pub struct VcpuPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    memory: MemoryHandle,
    capabilities: Capabilities,
    signal: KickSignal,
    changes_threads: bool,
    must_look_out: bool,
    /// Who ends a step on the thread that asked for it, should it wait; `None` if there can be
    /// nobody.
    watch: OnceLock<Option<Watch>>,
}

/// What a pool needs beside its vCPUs.
pub struct PoolConfig {
    /// What the probe has found out.
    pub report: KvmReport,
    /// Memory of the guest.
    pub memory: SharedMemory,
    /// Devices of the guest.
    pub bus: Arc<dyn DeviceBus>,
    /// Who is told of stops.
    pub listener: Arc<dyn StopListener>,
    /// The signal that brings vCPUs out of the guest, counted from SIGRTMIN. The pool handles it;
    /// nobody else may, and no thread that runs a vCPU may block it.
    pub kick_signal: u8,
}

impl core::fmt::Debug for PoolConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PoolConfig")
            .field("kick_signal", &self.kick_signal)
            .finish_non_exhaustive()
    }
}

impl VcpuPool {
    /// Starts a thread for each vCPU; all vCPUs are stopped. `vcpus` are in the order of their
    /// numbers.
    ///
    /// # Errors
    /// [`KvmError::OutOfOrder`], [`KvmError::KickSignal`], [`KvmError::RunPage`] or
    /// [`KvmError::Thread`].
    pub fn start(vcpus: Vec<KvmVcpu>, config: PoolConfig) -> Result<Self, KvmError> {
        let offset = config.kick_signal;
        let signal = KickSignal::install(offset)
            .map_err(|source| KvmError::KickSignal { offset, source })?;
        let mut controls = Vec::new();
        let mut lanes = Vec::new();
        for (expected, vcpu) in vcpus.into_iter().enumerate() {
            let id = vcpu.id();
            if id.index() != expected {
                return Err(KvmError::OutOfOrder { vcpu: id, expected });
            }
            let control = vcpu.control(signal);
            controls.push(control.map_err(|source| KvmError::RunPage { vcpu: id, source })?);
            lanes.push(Lane::new(vcpu, ARCHITECTURE, config.report.capabilities()));
        }
        let shared = Arc::new(Shared::new(
            Gate::new(controls),
            lanes,
            config.bus,
            config.listener,
        ));
        let mut pool = Self {
            shared,
            threads: Vec::new(),
            memory: MemoryHandle(config.memory),
            capabilities: *config.report.capabilities(),
            signal,
            changes_threads: config.report.traits().changes_threads,
            must_look_out: !config.report.traits().guards_debug_registers,
            watch: OnceLock::new(),
        };
        pool.spawn()?;
        Ok(pool)
    }

    fn spawn(&mut self) -> Result<(), KvmError> {
        if self.must_look_out {
            let shared = self.shared.clone();
            let thread = thread::Builder::new()
                .name("debug-lookout".to_owned())
                .spawn(move || shared.lookout.work(|vcpu| shared.kick(vcpu)));
            // Without it what the guest writes is seen at its next exit.
            self.threads.extend(thread);
        }
        for id in self.shared.ids() {
            let (shared, signal) = (self.shared.clone(), self.signal);
            let thread = thread::Builder::new()
                .name(format!("vcpu{}", id.0))
                .spawn(move || {
                    signal.unblock();
                    shared.work(id);
                });
            self.threads
                .push(thread.map_err(|source| KvmError::Thread { vcpu: id, source })?);
        }
        Ok(())
    }

    /// Returns the guest as the engine sees it.
    #[must_use]
    pub fn machine(&self) -> KvmMachine {
        KvmMachine::new(
            self.shared.clone(),
            self.memory.0.clone(),
            self.capabilities,
        )
    }

    /// Returns the number of vCPUs.
    #[must_use]
    pub fn vcpu_count(&self) -> usize {
        self.shared.ids().count()
    }

    /// Lets a stopped vCPU run. The answer comes by [`StopListener::vcpu_stopped`]. A vCPU that
    /// does not exist is ignored.
    pub fn run(&self, vcpu: VcpuId, request: ResumeRequest) {
        self.shared.begin(vcpu, Work::Begin(request));
    }

    /// Does the same, but carries a single step out on the calling thread if it can be done there
    /// in a moment, and returns the answer. `None` means that the answer comes by
    /// [`StopListener::vcpu_stopped`].
    ///
    /// It saves the way to another thread and back, which takes longer than the step. It is not
    /// done while another vCPU runs, nor on kernels where a vCPU does not change threads easily.
    /// Devices are called on this thread.
    pub fn run_here(&self, vcpu: VcpuId, request: ResumeRequest) -> Option<StopReason> {
        let alone = self.shared.running.load(Ordering::SeqCst) == 0;
        if request.action != ResumeAction::Step || !alone || !self.changes_threads {
            self.run(vcpu, request);
            return None;
        }
        let Some(watch) = self.watch() else {
            self.run(vcpu, request);
            return None;
        };
        self.signal.unblock_once();
        let _watched = watch.step(vcpu);
        self.shared
            .begin_here(vcpu, request, Instant::now() + STEP_PATIENCE)
    }

    fn watch(&self) -> Option<&Watch> {
        let start = || Watch::start(Arc::clone(&self.shared)).ok();
        self.watch.get_or_init(start).as_ref()
    }

    /// Brings a vCPU out of the guest soon. If it has stopped by itself this does nothing.
    pub fn stop(&self, vcpu: VcpuId) {
        self.shared.gate.request_stop(vcpu);
    }

    /// Wakes a vCPU that waits in HLT, in a VM whose interrupt controller is not KVM's.
    pub fn wake(&self, vcpu: VcpuId) {
        self.shared.gate.wake(vcpu);
    }

    /// Lends a stopped vCPU, for what the engine does not do: snapshots, a reset.
    ///
    /// # Errors
    /// [`AccessError::NoSuchVcpu`], or [`AccessError::Running`] if it runs.
    pub fn with_vcpu<T>(
        &self,
        vcpu: VcpuId,
        use_it: impl FnOnce(&mut KvmVcpu) -> T,
    ) -> Result<T, AccessError> {
        self.shared.with_stopped(vcpu, |vcpu| Ok(use_it(vcpu)))
    }
}

impl Drop for VcpuPool {
    fn drop(&mut self) {
        self.shared.end();
        for thread in self.threads.drain(..) {
            // A thread that has panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl KvmVcpu {
    fn control(&self, signal: KickSignal) -> std::io::Result<VcpuControl> {
        VcpuControl::new(self.file(), signal)
    }
}
