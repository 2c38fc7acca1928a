//! What iptables cannot do.

use ipvs::Scheduler;

use crate::desired::{DesiredState, Problem};
use crate::model::ObjectName;
use crate::notice::Reason;

/// What Services ask for that iptables mode does not give them, once a Service: a choice of
/// scheduler. The one that the operator chose for all is not reported here.
pub fn limits(desired: &DesiredState) -> Vec<Problem> {
    let chosen = desired.chosen_schedulers();
    let problems = chosen.map(|(service, scheduler)| ignored(service, scheduler));
    problems.collect()
}

/// That of one Service.
pub fn limits_of(service: &ObjectName, desired: &DesiredState) -> Option<Problem> {
    let chosen = desired.chosen_scheduler(service);
    chosen.map(|scheduler| ignored(service, scheduler))
}

fn ignored(service: &ObjectName, scheduler: Scheduler) -> Problem {
    Problem {
        service: service.clone(),
        field: "metadata.annotations[svcproxy.io/scheduler]".to_owned(),
        reason: Reason::SchedulerIgnored,
        message: format!(
            "{scheduler} is not followed: iptables chooses each connection's endpoint at random"
        ),
    }
}
