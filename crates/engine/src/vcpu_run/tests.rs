mod aarch64;

use trapline_arch::Gva;

use super::slots::{Role, SlotPlan};
use crate::contract::{Capabilities, HardwarePoint, HardwarePoints, PointAccess};

const FOUR: Capabilities = Capabilities {
    hardware_breakpoints: 4,
    watchpoints: 4,
    ..Capabilities::NONE
};

fn execute(address: u64) -> HardwarePoint {
    HardwarePoint {
        address: Gva(address),
        len_bytes: 1,
        access: PointAccess::Execute,
    }
}

fn points(used: &[usize]) -> HardwarePoints {
    let mut points = HardwarePoints::default();
    for &slot in used {
        points.set(slot, Some(execute(slot as u64)));
    }
    points
}

fn role(plan: &SlotPlan, number: usize) -> Role {
    let (_, role) = plan.hit_roles(1 << number).next().unwrap();
    role
}

#[test]
fn the_guests_points_take_the_slots_that_are_left() {
    let mut plan = SlotPlan::new(points(&[0, 2]));
    plan.add_guest_points(&points(&[0, 1, 3]), &FOUR);
    assert_eq!(role(&plan, 0), Role::Debugger);
    assert_eq!(role(&plan, 1), Role::Guest);
    assert_eq!(role(&plan, 2), Role::Debugger);
    assert_eq!(role(&plan, 3), Role::Guest);
    // What the guest finds is numbered as it numbered it.
    assert_eq!(plan.guest_cause(0b1010, &points(&[0, 1, 3])), 0b11);
    assert_eq!(plan.guest_cause(0b0101, &points(&[0, 1, 3])), 0);
    assert!(plan.hits_guest(0b1000) && !plan.hits_guest(0b0101));
}

#[test]
fn a_point_that_the_guest_has_switched_off_is_no_cause() {
    let mut plan = SlotPlan::new(points(&[0]));
    plan.add_guest_points(&points(&[1, 2]), &FOUR);
    assert_eq!(plan.guest_cause(0b110, &points(&[2])), 0b100);
    assert_eq!(plan.guest_cause(0b110, &points(&[])), 0);
    // The same point in another of the guest's registers.
    let mut moved = HardwarePoints::default();
    moved.set(3, Some(execute(1)));
    assert_eq!(plan.guest_cause(0b110, &moved), 0b1000);
}

#[test]
fn every_hit_counts_where_the_guests_own_registers_are_in_force() {
    let plan = SlotPlan::new(HardwarePoints::default());
    assert!(plan.has_role(0b1000));
    assert!(!plan.has_role(0));
}

#[test]
fn a_slot_that_is_off_has_no_role() {
    let plan = SlotPlan::new(points(&[1]));
    assert!(plan.has_role(0b0010));
    assert!(!plan.has_role(0b1101));
    assert!(!plan.has_role(1 << 31));
}

#[test]
fn a_trap_that_must_be_set_takes_the_last_slot_by_force() {
    let mut plan = SlotPlan::new(points(&[0, 1, 2, 3]));
    assert!(!plan.insert(execute(9), Role::Target, &FOUR));
    plan.insert_by_force(execute(9), Role::Target, &FOUR);
    assert_eq!(role(&plan, 3), Role::Target);
    assert_eq!(plan.points().slot(3), Some(execute(9)));
    assert_eq!(role(&plan, 2), Role::Debugger);
    // Without any slot there is nothing to take.
    let mut none = SlotPlan::new(HardwarePoints::default());
    none.insert_by_force(execute(9), Role::Target, &Capabilities::NONE);
    assert!(none.is_empty());
}
