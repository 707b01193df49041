use trapline_engine::StepMethod;

use super::*;

#[test]
fn a_missing_device_is_told_apart_from_one_that_is_not_kvm() {
    let missing = Probe::run_at(Path::new("/nonexistent/kvm"));
    assert!(matches!(missing.problem(), Some(DeviceProblem::Missing(_))));
    assert_eq!(missing.capabilities().step, StepMethod::None);
    let other = Probe::run_at(Path::new("/dev/null"));
    assert!(
        matches!(other.problem(), Some(DeviceProblem::NotKvm(_))),
        "{:?}",
        other.problem()
    );
    assert!(other.to_string().contains("/dev/null is not a KVM device"));
    let directory = Probe::run_at(Path::new("/"));
    assert!(matches!(
        directory.problem(),
        Some(DeviceProblem::NotKvm(_))
    ));
}
