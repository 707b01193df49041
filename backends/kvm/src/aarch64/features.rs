//! Which optional registers a guest's vCPU has.

use kvm_ioctls::VcpuFd;
use trapline_arch::FeatureSet;
use trapline_arch::aarch64::registers as ids;

use super::one_reg::{self, OneReg};

/// One field of an identification register that stands for registers, if it is not 0.
struct Field {
    register: OneReg,
    shift: u8,
    feature: FeatureSet,
}

/// Source: Arm ARM, "AArch64 System Register Descriptions", the registers `ID_AA64*`.
fn fields() -> Vec<Field> {
    let in_register = |id, shift, feature| {
        let known = one_reg::OTHER.iter().find(|(known, _)| *known == id);
        known.map(|(_, register)| Field {
            register: *register,
            shift,
            feature,
        })
    };
    let pauth = [4, 8, 24, 28].map(|shift| (ids::ID_AA64ISAR1_EL1, shift, FeatureSet::PAUTH));
    let pauth_3 = [8, 12].map(|shift| (ids::ID_AA64ISAR2_EL1, shift, FeatureSet::PAUTH));
    let others = [
        (ids::ID_AA64PFR1_EL1, 8, FeatureSet::MTE),
        (ids::ID_AA64MMFR3_EL1, 0, FeatureSet::TCR2),
        (ids::ID_AA64MMFR3_EL1, 8, FeatureSet::S1PIE),
    ];
    let all = pauth.into_iter().chain(pauth_3).chain(others);
    all.filter_map(|(id, shift, feature)| in_register(id, shift, feature))
        .collect()
}

/// Returns which optional registers a vCPU has, by its identification registers.
pub(super) fn features(fd: &VcpuFd, vector_quadwords: Option<u8>) -> FeatureSet {
    let field = |register, shift: u8| one_reg::read(fd, register).unwrap_or(0) >> shift & 0xf;
    let present = fields()
        .into_iter()
        .filter(|it| field(it.register, it.shift) != 0);
    let features: FeatureSet = present.map(|it| it.feature).collect();
    let count = |shift| u8::try_from(field(one_reg::DFR0, shift) + 1).unwrap_or(2);
    let features = features.with_debug_slots(count(12), count(20));
    match vector_quadwords {
        Some(quadwords) => features.with_sve(quadwords),
        None => features,
    }
}
