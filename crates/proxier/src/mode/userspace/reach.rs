//! Which virtual IPs the proxy can make local, and how.
//!
//! A listener gets packets only to addresses that are local to the node. One route makes a Service
//! CIDR local. An address outside needs a route that takes it away from its owner with all its
//! ports, so it gets one only if it cannot be another machine's as far as the node knows.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use ipvs::{Protocol, Scheduler};

use super::NodeState;
use crate::desired::{Config, DesiredState, Frontend, FrontendKind, Need, Problem};
use crate::mode::ipvs::plan::{LocalRoute, local_route};
use crate::model::ObjectName;
use crate::notice::Reason;

/// Why a frontend is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// SCTP cannot be proxied by sockets of this kind.
    Sctp,
    /// svcproxy may not add the route that it needs.
    NoPermission,
    /// The node is attached to its network, so another machine may have the address.
    Attached,
    /// It is in the network of pods.
    Pods,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sctp => "mode userspace does not serve SCTP",
            Self::NoPermission => "svcproxy may not add routes (needs CAP_NET_ADMIN)",
            Self::Attached => {
                "it may be the address of another machine of a network that this node is attached to: \
                 add it to an interface of this node, or name it by --listen"
            }
            Self::Pods => "it is in the network of pods",
        })
    }
}

/// Whether a frontend's address is or can be made local.
pub(super) fn reach(
    frontend: &Frontend,
    config: &Config,
    node: &NodeState,
) -> Result<(), Unreachable> {
    let address = frontend.key.address;
    if !matches!(frontend.key.protocol, Protocol::Tcp | Protocol::Udp) {
        return Err(Unreachable::Sctp);
    }
    if frontend.key.is_node_port() || node.owns(address) || node.is_given(address) {
        return Ok(());
    }
    if !node.may_route {
        return Err(Unreachable::NoPermission);
    }
    match frontend.kind {
        FrontendKind::ClusterIp => Ok(()),
        _ => may_take(address, config, node),
    }
}

/// Whether a route may take an address outside the Service CIDRs as a whole.
fn may_take(address: IpAddr, config: &Config, node: &NodeState) -> Result<(), Unreachable> {
    let attached = config.attached.iter();
    if node.is_attached_to(address) || attached.clone().any(|net| net.contains(&address)) {
        return Err(Unreachable::Attached);
    }
    let mut pods = config.cluster_cidrs.iter();
    match pods.any(|pods| pods.contains(&address)) {
        true => Err(Unreachable::Pods),
        false => Ok(()),
    }
}

/// The separate route of an address outside the Service CIDRs, if it needs one and may have it.
pub(super) fn host_route(
    vip: IpAddr,
    desired: &DesiredState,
    node: &NodeState,
) -> Option<LocalRoute> {
    let config = desired.config();
    let is_cluster_ip = desired.needs(&Need::Route(vip));
    let has_way = node.owns(vip) || node.is_given(vip) || config.in_service_cidr(vip);
    let is_allowed = is_cluster_ip || may_take(vip, config, node).is_ok();
    (node.may_route && !has_way && is_allowed)
        .then(|| local_route(config, IpNet::from(vip)))
        .flatten()
}

/// What Services request and mode userspace does not serve on a node: of all, or of one. A missing
/// permission is reported once, for the node.
pub fn problems(
    desired: &DesiredState,
    node: Option<&NodeState>,
    of: Option<&ObjectName>,
) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    // A Service may be refused at several ports of an address.
    let mut seen = BTreeSet::new();
    let mut report = |frontend: &Frontend| {
        let Some(Err(why)) = node.map(|node| reach(frontend, desired.config(), node)) else {
            return;
        };
        let field = match why {
            Unreachable::NoPermission => return,
            Unreachable::Sctp => "spec.ports",
            _ => frontend.kind.field(),
        };
        let message = match why {
            Unreachable::Sctp => why.to_string(),
            why => format!("{} is not served: {why}", frontend.key.address),
        };
        let problem = Problem {
            service: frontend.owner.service.clone(),
            field: field.to_owned(),
            reason: Reason::AddressRefused,
            message,
        };
        if seen.insert((
            problem.service.clone(),
            problem.field.clone(),
            problem.message.clone(),
        )) {
            problems.push(problem);
        }
    };
    match of {
        Some(service) => desired.frontends_of(service).for_each(|f| report(f)),
        None => desired.frontends().for_each(|f| report(f)),
    }
    match of {
        Some(service) => {
            let scheduler = desired.chosen_scheduler(service);
            problems.extend(scheduler.and_then(|chosen| ignored(service, chosen)));
            let forwards = desired.has_chosen_forwarding(service);
            problems.extend(forwards.then(|| connects(service)));
        }
        None => {
            let schedulers = desired.chosen_schedulers();
            problems.extend(schedulers.filter_map(|(service, chosen)| ignored(service, chosen)));
            problems.extend(desired.chosen_forwarding().map(connects));
        }
    }
    problems
}

/// Whether the proxy can choose endpoints as this scheduler does.
pub(super) const fn is_supported(scheduler: Scheduler) -> bool {
    use Scheduler as S;
    !matches!(
        scheduler,
        S::LocalityBasedLeastConnection
            | S::LocalityBasedLeastConnectionWithReplication
            | S::DestinationHash
            | S::NoScheduler
            | S::Other(_)
    )
}

fn ignored(service: &ObjectName, scheduler: Scheduler) -> Option<Problem> {
    (!is_supported(scheduler)).then(|| Problem {
        service: service.clone(),
        field: "metadata.annotations[svcproxy.io/scheduler]".to_owned(),
        reason: Reason::SchedulerIgnored,
        message: format!("{scheduler} is ignored: mode userspace uses round robin instead"),
    })
}

fn connects(service: &ObjectName) -> Problem {
    Problem {
        service: service.clone(),
        field: "forwarding".to_owned(),
        reason: Reason::ForwardingIgnored,
        message: "mode userspace connects to endpoints itself".to_owned(),
    }
}
