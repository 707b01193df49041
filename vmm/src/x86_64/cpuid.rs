//! What a vCPU says of itself: the host's CPUID as KVM supports it, with this machine's topology.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use crate::{VmmError, error::kvm};

const MONITOR: u32 = 1 << 3;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
/// AMD's performance counter extensions, in ECX of leaf `0x8000_0001`.
const PERF_COUNTER_EXTENSIONS: u32 = 1 << 23 | 1 << 24;
/// Leaf 4: the cache type of an entry that describes no cache.
const NO_CACHE: u32 = 0x1f;
/// Leaf 0xb, level types (SDM vol. 2A, "CPUID").
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Sets the CPUID of vCPU `index` of `count`.
///
/// The topology is one package with `count` cores of one thread. There is no performance counter: its
/// watchdog interrupt cannot be held off, and would hit a guest that was stopped.
pub(crate) fn set_cpuid(
    system: &Kvm,
    vcpu: &VcpuFd,
    index: u32,
    count: u32,
) -> Result<(), VmmError> {
    let supported = system
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline = system.check_extension(Cap::TscDeadlineTimer);
    let mut entries = supported.as_slice().to_vec();
    adapt(&mut entries, index, count, deadline);
    let cpuid = CpuId::from_entries(&entries)
        .map_err(|_| VmmError::KvmLacks("room for the entries of CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(kvm("KVM_SET_CPUID2"))
}

/// Puts topology and the hypervisor's own bits into the entries that KVM supports.
fn adapt(entries: &mut Vec<kvm_cpuid_entry2>, index: u32, count: u32, deadline: bool) {
    entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    for entry in entries.iter_mut() {
        match entry.function {
            1 => adapt_leaf_1(entry, index, count, deadline),
            4 if entry.eax & NO_CACHE != 0 => {
                let cores = ceil_pow2(count).min(64) - 1;
                entry.eax = entry.eax & 0x3fff | sharing(entry, count) << 14 | cores << 26;
            }
            0x8000_001d if entry.eax & NO_CACHE != 0 => {
                entry.eax = entry.eax & 0x3fff | sharing(entry, count) << 14;
            }
            0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            0x8000_0001 => entry.ecx &= !PERF_COUNTER_EXTENSIONS,
            0x8000_0008 => entry.ecx = ceil_pow2(count).ilog2() << 12 | (count - 1),
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
            0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
    let reaches = |leaf| entries.iter().any(|e| e.function == 0 && e.eax >= leaf);
    for leaf in [0xb, 0x1f]
        .into_iter()
        .filter(|leaf| reaches(*leaf))
        .collect::<Vec<_>>()
    {
        entries.extend(topology(leaf, index, count));
    }
}

/// Returns how many threads besides the first share a cache: all share the third level.
fn sharing(entry: &kvm_cpuid_entry2, count: u32) -> u32 {
    if (entry.eax >> 5 & 7) < 3 {
        0
    } else {
        ceil_pow2(count) - 1
    }
}

/// Feature bits, number of vCPUs and the initial APIC identifier.
fn adapt_leaf_1(entry: &mut kvm_cpuid_entry2, index: u32, count: u32, deadline: bool) {
    entry.ecx = entry.ecx & !MONITOR | X2APIC | HYPERVISOR;
    if deadline {
        entry.ecx |= TSC_DEADLINE;
    }
    entry.edx = if count > 1 {
        entry.edx | HTT
    } else {
        entry.edx & !HTT
    };
    entry.ebx = entry.ebx & 0xffff | ceil_pow2(count).min(128) << 16 | index << 24;
}

/// Returns the extended topology: one thread a core, `count` cores.
fn topology(function: u32, index: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    // KVM_CPUID_FLAG_SIGNIFCANT_INDEX: ECX selects among the entries.
    let level = |level: u32, eax, ebx, kind: u32| kvm_cpuid_entry2 {
        function,
        index: level,
        flags: 1,
        eax,
        ebx,
        ecx: kind << 8 | level,
        edx: index,
        ..Default::default()
    };
    let core_bits = ceil_pow2(count).ilog2();
    [
        level(0, 0, 1, LEVEL_SMT),
        level(1, core_bits, count, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

/// Returns the smallest power of two that is not below `count`.
fn ceil_pow2(count: u32) -> u32 {
    count.max(1).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(index: u32, count: u32) -> Vec<kvm_cpuid_entry2> {
        let leaf = |function, eax| kvm_cpuid_entry2 {
            function,
            eax,
            ..Default::default()
        };
        let mut entries = vec![
            leaf(0, 0x1f),
            leaf(1, 0),
            leaf(4, 0x121),
            leaf(4, 0),
            leaf(0xa, 7),
        ];
        adapt(&mut entries, index, count, true);
        entries
    }

    #[test]
    fn each_vcpu_has_its_own_apic_identifier() {
        for index in 0..6 {
            let entries = adapted(index, 6);
            assert_eq!(entries[1].ebx >> 24, index);
            assert_eq!(entries[1].ebx >> 16 & 0xff, 8);
            let levels: Vec<_> = entries.iter().filter(|e| e.function == 0xb).collect();
            assert_eq!(levels.len(), 3);
            assert!(levels.iter().all(|level| level.edx == index));
            assert_eq!((levels[1].eax, levels[1].ebx), (3, 6));
        }
    }

    #[test]
    fn there_is_no_performance_counter() {
        let entries = adapted(0, 1);
        assert!(
            entries
                .iter()
                .filter(|e| e.function == 0xa)
                .all(|e| e.eax == 0)
        );
    }

    #[test]
    fn an_entry_without_a_cache_stays_empty() {
        let entries = adapted(0, 4);
        assert_eq!(entries[2].eax >> 26, 3);
        assert_eq!(entries[3].eax, 0);
    }
}
