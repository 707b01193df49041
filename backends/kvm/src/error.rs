//! Why a vCPU or a pool of them could not be set up.

use std::io;

use thiserror::Error;
use trapline_engine::VcpuId;
use trapline_engine::contract::AccessError;
use vmm_sys_util::errno;

/// Why a vCPU or a pool of them could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KvmError {
    /// KVM refused a call; the vCPU or VM is not usable.
    #[error("KVM refused {call}")]
    Refused {
        /// The call by the KVM API's name.
        call: &'static str,
        /// The kernel's reason.
        #[source]
        source: errno::Error,
    },
    /// The page that a vCPU shares with KVM could not be mapped.
    #[error("the shared page of {vcpu} cannot be mapped")]
    RunPage {
        /// The vCPU.
        vcpu: VcpuId,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The signal that is to bring vCPUs out of the guest has another owner in this process, or
    /// there is no such signal.
    #[error("signal SIGRTMIN+{offset} cannot be used to interrupt vCPUs")]
    KickSignal {
        /// Counted from SIGRTMIN.
        offset: u8,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A vCPU's thread could not be started.
    #[error("the thread of {vcpu} cannot be started")]
    Thread {
        /// The vCPU.
        vcpu: VcpuId,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// vCPUs were not given in the order of their numbers, from 0 on.
    #[error("{vcpu} stands where vCPU {expected} belongs")]
    OutOfOrder {
        /// The vCPU.
        vcpu: VcpuId,
        /// The number that belongs there.
        expected: usize,
    },
}

impl KvmError {
    /// Returns a converter for errors of `call`.
    pub(crate) fn refused(call: &'static str) -> impl Fn(errno::Error) -> Self {
        move |source| Self::Refused { call, source }
    }
}

/// Describes a call about registers that KVM has refused.
pub(crate) fn refused(error: errno::Error) -> AccessError {
    AccessError::Refused(error.errno())
}
