use std::string::ToString;

use super::*;

fn esr(class: ExceptionClass, iss: u32) -> Esr {
    Esr::new().with_ec(class).with_iss(iss).with_il(true)
}

#[test]
fn fields_are_where_the_manual_has_them() {
    let esr = Esr::from_bits(0xf200_4242);
    assert_eq!(esr.ec(), ExceptionClass::BRK64);
    assert!(esr.il());
    assert_eq!(esr.iss(), 0x4242);
    assert_eq!(Esr::from_bits(0x00ab_cdef_0000_0000).iss2(), 0x00ab_cdef);
}

#[test]
fn debug_exceptions_are_decoded() {
    let decode = |class, iss| esr(class, iss).debug_exception();
    for class in [
        ExceptionClass::BREAKPOINT_LOWER,
        ExceptionClass::BREAKPOINT_SAME,
    ] {
        assert_eq!(decode(class, 0x22), Some(DebugException::Breakpoint));
    }
    let comment = DebugException::BreakpointInstruction { comment: 0x4242 };
    assert_eq!(decode(ExceptionClass::BRK64, 0x4242), Some(comment));
    assert_eq!(decode(ExceptionClass::BKPT32, 0x4242), Some(comment));
    assert_eq!(
        decode(ExceptionClass::VECTOR_CATCH, 0),
        Some(DebugException::VectorCatch)
    );
    assert_eq!(decode(ExceptionClass::DATA_ABORT_LOWER, 0x22), None);
    assert_eq!(decode(ExceptionClass::HVC64, 0), None);
}

#[test]
fn a_step_says_whether_it_was_a_load_exclusive() {
    let step = |iss| match esr(ExceptionClass::STEP_LOWER, iss).debug_exception() {
        Some(DebugException::SoftwareStep(step)) => step,
        other => panic!("{other:?}"),
    };
    let plain = step(1 << 24 | 0x22);
    assert!(plain.isv() && !plain.ex());
    assert_eq!(plain.ifsc(), 0x22);
    assert!(step(1 << 24 | 1 << 6).ex());
    assert!(!step(0x22).isv());
}

#[test]
fn fields_of_a_watchpoint_are_where_the_manual_has_them() {
    let watch = |bit: u32| WatchpointSyndrome::from_bits(1 << bit);
    assert!(watch(6).w_n_r());
    assert!(watch(8).cm());
    assert!(watch(10).fn_v());
    assert!(watch(15).fn_p());
    assert!(watch(16).wpf());
    assert!(watch(17).wptv());
    assert_eq!(WatchpointSyndrome::from_bits(0x00fc_0000).wpt(), 0x3f);
    let same = esr(ExceptionClass::WATCHPOINT_SAME, 0x62).debug_exception();
    let Some(DebugException::Watchpoint(syndrome)) = same else {
        panic!("{same:?}");
    };
    assert!(syndrome.w_n_r());
}

#[test]
fn classes_have_names_and_unknown_ones_a_number() {
    assert_eq!(ExceptionClass::SMC64.to_string(), "SMC");
    assert_eq!(
        ExceptionClass::from_bits(0x3f).to_string(),
        "exception class 0x3f"
    );
    for bits in 0..=u8::MAX {
        assert_eq!(ExceptionClass::from_bits(bits).into_bits(), bits & 0x3f);
    }
}

#[test]
fn syndromes_are_put_into_words() {
    for (bits, text) in [
        (0x5600_0000, "SVC #0x0"),
        (0xf200_0800, "BRK #0x800"),
        (
            0x9600_0046,
            "data abort from the same level: translation fault, level 2, of a write",
        ),
        (
            0x9200_000f,
            "data abort from a lower level: permission fault, level 3, of a read",
        ),
        (
            0x8600_000c,
            "instruction abort from the same level: permission fault, level 0",
        ),
        // MRS x0, MIDR_EL1.
        (
            0x6230_0001,
            "MSR, MRS or system instruction: read of s3_0_c0_c0_0",
        ),
        (0xd600_0062, "watchpoint from the same level, of a write"),
        (0x0200_0000, "unknown reason"),
        (0x3600_0003, "branch target exception, iss 0x3"),
        (0xfc00_0000, "exception class 0x3f"),
    ] {
        assert_eq!(Esr::from_bits(bits).to_string(), text, "{bits:#x}");
    }
    for status in 0..64 {
        assert!(!FaultStatus(status).to_string().is_empty());
    }
}
