//! What Services request and only some modes have: schedulers, forwarding methods, and the PROXY
//! protocol.

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
    let headers = headers(desired, None, mode);
    schedulers.chain(methods).chain(headers).collect()
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
    let header = headers(desired, Some(service), mode);
    scheduler.into_iter().chain(method).chain(header)
}

/// Endpoints that expect a header with the client's address, which only mode userspace sends.
pub(super) fn headers(desired: &DesiredState, of: Option<&ObjectName>, mode: &str) -> Vec<Problem> {
    let problem = |service: &ObjectName| Problem {
        service: service.clone(),
        field: "metadata.annotations[svcproxy.io/proxy-protocol]".to_owned(),
        reason: Reason::ForwardingIgnored,
        message: format!(
            "ignored: mode {mode} sends no PROXY protocol, and endpoints that expect it refuse its \
             connections"
        ),
    };
    let all = desired.with_header();
    match of {
        Some(of) => all.get(of).map(problem).into_iter().collect(),
        None => all.iter().map(problem).collect(),
    }
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
