//! Limits of iptables mode.

use ipvs::Scheduler;

use crate::desired::{DesiredState, Problem};
use crate::model::ObjectName;
use crate::notice::Reason;

/// Requests of Services that iptables mode cannot serve, one per Service: a choice of scheduler.
/// The operator's default scheduler is not reported here.
pub fn limits(desired: &DesiredState) -> Vec<Problem> {
    let chosen = desired.chosen_schedulers();
    let problems = chosen.map(|(service, scheduler)| ignored(service, scheduler));
    problems.collect()
}

/// The limit that one Service meets, if any.
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
            "{scheduler} is ignored: iptables chooses the endpoint of each connection at random"
        ),
    }
}
