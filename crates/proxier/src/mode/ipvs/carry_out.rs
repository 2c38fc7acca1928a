//! The way through a plan that all backends share.

use std::collections::HashSet;

use crate::mode::ipvs::plan::{Part, Plan, Step};
use crate::mode::{ApplyReport, BackendError};

/// Hands a plan to `take` in runs of steps for one part of the node, each with the place of its
/// first step.
///
/// A step that failed keeps those for the same virtual server in later runs from being taken: what
/// could not be recorded must not be made, and what could not be deleted stays recorded.
pub(super) fn carry_out(
    plan: &Plan,
    mut take: impl FnMut(Part, &[Step], usize, &mut ApplyReport),
) -> ApplyReport {
    let mut report = ApplyReport::default();
    let mut broken = HashSet::new();
    let mut place = 0;
    for run in plan.steps().chunk_by(|a, b| a.part() == b.part()) {
        let known = report.failures.len();
        let blocked = |step: &Step| {
            !broken.is_empty()
                && step
                    .virtual_server()
                    .is_some_and(|key| broken.contains(&key))
        };
        for steps in run.chunk_by(|a, b| blocked(a) == blocked(b)) {
            if let Some(step) = steps.first().filter(|step| !blocked(step)) {
                take(step.part(), steps, place, &mut report);
            } else {
                (place..)
                    .take(steps.len())
                    .for_each(|at| report.fail(at, BackendError::NotTried));
            }
            place += steps.len();
        }
        let failed = report.failures.iter().skip(known);
        let keys = failed.filter_map(|failure| plan.steps().get(failure.step)?.virtual_server());
        broken.extend(keys);
    }
    report.failures.sort_by_key(|failure| failure.step);
    report
}
