//! Executes a plan; shared by all backends.

use std::collections::HashSet;

use crate::mode::ipvs::plan::{Part, Plan, Step};
use crate::mode::{ApplyReport, BackendError};

/// Calls `take` for each run of consecutive steps for one part of the node, with the index of the
/// first step.
///
/// After a failed step, steps for the same virtual server in later runs are skipped: a virtual
/// server that could not be recorded must not be created, and one that could not be deleted stays
/// recorded.
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
