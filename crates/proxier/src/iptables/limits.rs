//! What iptables cannot do.

use std::collections::BTreeSet;

use crate::desired::{DesiredState, Problem};
use crate::notice::Reason;

/// What Services ask for that iptables mode does not give them, once a Service: a choice of
/// scheduler. The one that the operator chose for all is not reported here.
pub fn limits(desired: &DesiredState) -> Vec<Problem> {
    let usual = desired.config().scheduler;
    let chose = desired
        .frontends()
        .filter(|f| f.scheduler != usual || !f.scheduler_flags.is_empty());
    let chose: BTreeSet<_> = chose.map(|f| (&f.owner.service, f.scheduler)).collect();
    let problems = chose.into_iter().map(|(service, scheduler)| Problem {
        service: service.clone(),
        field: "metadata.annotations[svcproxy.io/scheduler]".to_owned(),
        reason: Reason::SchedulerIgnored,
        message: format!(
            "{scheduler} is not followed: iptables chooses each connection's endpoint at random"
        ),
    });
    problems.collect()
}
