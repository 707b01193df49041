//! Which optional registers a guest's vCPUs have.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use trapline_arch::FeatureSet;

/// One bit of a CPUID leaf that stands for registers.
struct Bit {
    function: u32,
    index: u32,
    register: fn(&kvm_cpuid_entry2) -> u32,
    bit: u32,
    feature: FeatureSet,
}

/// Source: SDM vol. 2A, "CPUID"; APM vol. 3, "Obtaining Processor Information Via the CPUID
/// Instruction".
const BITS: [Bit; 6] = [
    Bit {
        function: 1,
        index: 0,
        register: |entry| entry.ecx,
        bit: 28,
        feature: FeatureSet::AVX,
    },
    Bit {
        function: 7,
        index: 0,
        register: |entry| entry.ebx,
        bit: 16,
        feature: FeatureSet::AVX512,
    },
    Bit {
        function: 7,
        index: 0,
        register: |entry| entry.ecx,
        bit: 3,
        feature: FeatureSet::PKU,
    },
    Bit {
        function: 7,
        index: 0,
        register: |entry| entry.edx,
        bit: 26,
        feature: FeatureSet::SPEC_CTRL,
    },
    Bit {
        function: 0xd,
        index: 1,
        register: |entry| entry.eax,
        bit: 3,
        feature: FeatureSet::XSAVES,
    },
    Bit {
        function: 0x8000_0001,
        index: 0,
        register: |entry| entry.edx,
        bit: 27,
        feature: FeatureSet::TSC_AUX,
    },
];

/// Returns which optional registers a vCPU with this CPUID has.
#[must_use]
pub fn features(cpuid: &CpuId) -> FeatureSet {
    let has = |bit: &&Bit| {
        cpuid.as_slice().iter().any(|entry| {
            entry.function == bit.function
                && entry.index == bit.index
                && ((bit.register)(entry) >> bit.bit) & 1 != 0
        })
    };
    BITS.iter().filter(has).map(|bit| bit.feature).collect()
}
