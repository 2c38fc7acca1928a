//! Limits of iptables mode.

use ipvs::Scheduler;

use crate::desired::{DesiredState, Problem};
use crate::model::ObjectName;
use crate::notice::Reason;

/// Requests of Services that iptables mode cannot serve: a choice of scheduler, and one of a
/// forwarding method. The operator's default scheduler is not reported here.
pub fn limits(desired: &DesiredState) -> Vec<Problem> {
    let schedulers = desired.chosen_schedulers();
    let schedulers = schedulers.map(|(service, scheduler)| ignored(service, scheduler));
    let methods = desired.chosen_forwarding().map(always_masquerade);
    schedulers.chain(methods).collect()
}

/// The limits that apply to one Service.
pub fn limits_of(
    service: &ObjectName,
    desired: &DesiredState,
) -> impl Iterator<Item = Problem> + use<> {
    let scheduler = desired.chosen_scheduler(service);
    let scheduler = scheduler.map(|scheduler| ignored(service, scheduler));
    let method = desired.has_chosen_forwarding(service);
    let method = method.then(|| always_masquerade(service));
    scheduler.into_iter().chain(method)
}

fn always_masquerade(service: &ObjectName) -> Problem {
    Problem {
        service: service.clone(),
        field: "forwarding".to_owned(),
        reason: Reason::ForwardingIgnored,
        message: "mode iptables always masquerades".to_owned(),
    }
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
