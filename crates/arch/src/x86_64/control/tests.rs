use super::*;

/// A flag's accessor and its bit.
type Flag<R> = (fn(R) -> bool, u32);

fn check<R: From<u64> + Copy>(flags: &[Flag<R>]) {
    for (flag, bit) in flags {
        assert!(flag(R::from(1 << bit)), "{bit}");
        assert!(!flag(R::from(!(1 << bit))), "{bit}");
    }
}

#[test]
fn flags_are_where_the_manual_has_them() {
    check::<Rflags>(&[
        (|r| r.cf(), 0),
        (|r| r.pf(), 2),
        (|r| r.af(), 4),
        (|r| r.zf(), 6),
        (|r| r.sf(), 7),
        (|r| r.tf(), 8),
        (|r| r.r#if(), 9),
        (|r| r.df(), 10),
        (|r| r.of(), 11),
        (|r| r.nt(), 14),
        (|r| r.rf(), 16),
        (|r| r.vm(), 17),
        (|r| r.ac(), 18),
        (|r| r.vif(), 19),
        (|r| r.vip(), 20),
        (|r| r.id(), 21),
    ]);
    assert_eq!(Rflags::from_bits(2 << 12).iopl(), 2);
    assert_eq!(Rflags::new().into_bits(), 2);
}

#[test]
fn control_bits_are_where_the_manual_has_them() {
    check::<Cr0>(&[
        (|r| r.pe(), 0),
        (|r| r.mp(), 1),
        (|r| r.em(), 2),
        (|r| r.ts(), 3),
        (|r| r.et(), 4),
        (|r| r.ne(), 5),
        (|r| r.wp(), 16),
        (|r| r.am(), 18),
        (|r| r.nw(), 29),
        (|r| r.cd(), 30),
        (|r| r.pg(), 31),
    ]);
    check::<Cr3>(&[(|r| r.lam_u57(), 61), (|r| r.lam_u48(), 62)]);
    assert_eq!(
        Cr3::from_bits(0x000f_ffff_ffff_f000).frame(),
        0xff_ffff_ffff
    );
    assert_eq!(Cr3::from_bits(0xfff).pcid(), 0xfff);
    check::<Cr4>(&[
        (|r| r.vme(), 0),
        (|r| r.pvi(), 1),
        (|r| r.tsd(), 2),
        (|r| r.de(), 3),
        (|r| r.pse(), 4),
        (|r| r.pae(), 5),
        (|r| r.mce(), 6),
        (|r| r.pge(), 7),
        (|r| r.pce(), 8),
        (|r| r.osfxsr(), 9),
        (|r| r.osxmmexcpt(), 10),
        (|r| r.umip(), 11),
        (|r| r.la57(), 12),
        (|r| r.vmxe(), 13),
        (|r| r.smxe(), 14),
        (|r| r.fsgsbase(), 16),
        (|r| r.pcide(), 17),
        (|r| r.osxsave(), 18),
        (|r| r.kl(), 19),
        (|r| r.smep(), 20),
        (|r| r.smap(), 21),
        (|r| r.pke(), 22),
        (|r| r.cet(), 23),
        (|r| r.pks(), 24),
        (|r| r.uintr(), 25),
        (|r| r.lass(), 27),
        (|r| r.lam_sup(), 28),
    ]);
    check::<Efer>(&[
        (|r| r.sce(), 0),
        (|r| r.lme(), 8),
        (|r| r.lma(), 10),
        (|r| r.nxe(), 11),
        (|r| r.svme(), 12),
        (|r| r.lmsle(), 13),
        (|r| r.ffxsr(), 14),
        (|r| r.tce(), 15),
    ]);
}

#[test]
fn reserved_bits_survive() {
    let bits = 0xa5a5_5a5a_c3c3_3c3c;
    assert_eq!(
        Cr4::from_bits(bits).with_la57(true).into_bits(),
        bits | 1 << 12
    );
    assert_eq!(
        Rflags::from_bits(bits).with_tf(true).into_bits(),
        bits | 1 << 8
    );
}

#[test]
fn flags_in_target_descriptions_agree() {
    use crate::{GdbType, x86_64::registers::TABLE};
    let fields = |id: RegisterId| match TABLE[usize::from(id.0)].view.gdb_type {
        GdbType::Flags { fields, .. } => fields,
        _ => &[],
    };
    let bit = |id, name| {
        let field = fields(id).iter().find(|field| field.name == name).unwrap();
        assert_eq!(field.start, field.end);
        1 << field.start
    };
    assert!(Rflags::from_bits(bit(Rflags::REGISTER, "TF")).tf());
    assert!(Rflags::from_bits(bit(Rflags::REGISTER, "RF")).rf());
    assert!(Cr0::from_bits(bit(Cr0::REGISTER, "PG")).pg());
    assert!(Cr0::from_bits(bit(Cr0::REGISTER, "WP")).wp());
    assert!(Cr4::from_bits(bit(Cr4::REGISTER, "LA57")).la57());
    assert!(Cr4::from_bits(bit(Cr4::REGISTER, "LAM_SUP")).lam_sup());
    assert!(Cr3::from_bits(bit(Cr3::REGISTER, "LAM_U57")).lam_u57());
    assert!(Efer::from_bits(bit(Efer::REGISTER, "NXE")).nxe());
}
