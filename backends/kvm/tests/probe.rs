//! The probe on this machine's KVM.

mod common;

use core::time::Duration;

use trapline_engine::StepMethod;
use trapline_kvm::{FindingState, HostKind, Probe};
use trapline_test_machine::this_did_not_run;

#[test]
fn probe_is_quick_and_says_what_each_absence_costs() {
    // The first run pays for the kernel's own preparations.
    let first = Probe::run();
    let report = Probe::run();
    println!("{report}(first run: {} ms)", first.elapsed().as_millis());
    if let Some(problem) = report.problem() {
        this_did_not_run(&problem.to_string());
        return;
    }
    let limit = Duration::from_millis(if common::runs_on_tcg() { 2_000 } else { 100 });
    assert!(report.elapsed() < limit, "took {:?}", report.elapsed());
    assert_eq!(report.capabilities().host, report.kind().description());
    assert!(
        report
            .findings()
            .iter()
            .all(|finding| !finding.lost.is_empty())
    );
    if report.kind() == HostKind::Interpreted {
        assert!(report.to_string().contains("kvm_pvm"));
    }
}

#[test]
fn hardware_virtualization_can_do_everything() {
    let report = Probe::run();
    match (report.problem(), report.kind()) {
        (Some(problem), _) => this_did_not_run(&problem.to_string()),
        (None, HostKind::IntelVmx | HostKind::AmdSvm) => {
            assert_eq!(report.capabilities().step, StepMethod::TrapFlag);
            let broken = report
                .findings()
                .iter()
                .filter(|finding| matches!(finding.state, FindingState::Broken(_)))
                // QEMU's emulated SVM never intercepts int3.
                .filter(|finding| {
                    finding.subject != "software breakpoint" || !common::runs_on_tcg()
                });
            assert_eq!(broken.collect::<Vec<_>>(), Vec::<&_>::new());
        }
        (None, kind) => this_did_not_run(&format!("this is {}", kind.description())),
    }
}
