//! What Services request and only mode ipvs has: schedulers, and forwarding methods.

use ipvs::Scheduler;

use crate::desired::{DesiredState, Problem};
use crate::model::ObjectName;
use crate::notice::Reason;

/// Requests of Services that the mode of this name cannot serve: a choice of scheduler, and one of a
/// forwarding method. The operator's default scheduler is not reported here.
pub fn limits(desired: &DesiredState, mode: &str) -> Vec<Problem> {
    let schedulers = desired.chosen_schedulers();
    let schedulers = schedulers.map(|(service, scheduler)| ignored(service, scheduler, mode));
    let methods = desired.chosen_forwarding();
    let methods = methods.map(|service| always_masquerade(service, mode));
    schedulers.chain(methods).collect()
}

/// The limits that apply to one Service.
pub fn limits_of(
    service: &ObjectName,
    desired: &DesiredState,
    mode: &str,
) -> impl Iterator<Item = Problem> + use<> {
    let scheduler = desired.chosen_scheduler(service);
    let scheduler = scheduler.map(|scheduler| ignored(service, scheduler, mode));
    let method = desired.has_chosen_forwarding(service);
    let method = method.then(|| always_masquerade(service, mode));
    scheduler.into_iter().chain(method)
}

fn always_masquerade(service: &ObjectName, mode: &str) -> Problem {
    Problem {
        service: service.clone(),
        field: "forwarding".to_owned(),
        reason: Reason::ForwardingIgnored,
        message: format!("mode {mode} always masquerades"),
    }
}

fn ignored(service: &ObjectName, scheduler: Scheduler, mode: &str) -> Problem {
    Problem {
        service: service.clone(),
        field: "metadata.annotations[svcproxy.io/scheduler]".to_owned(),
        reason: Reason::SchedulerIgnored,
        message: format!(
            "{scheduler} is ignored: {mode} chooses the endpoint of each connection at random"
        ),
    }
}
