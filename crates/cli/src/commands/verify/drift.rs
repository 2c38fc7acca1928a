//! The steps of a plan by the Service that they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipvs::VirtualServerKey;
use proxier::desired::{Backend, DesiredState, Frontend, FrontendKey};
use proxier::host::{Route, Ways};
use proxier::mode::ipvs::plan::{Element, LocalRoute, NodeState, Plan, Scope, Step};
use proxier::mode::userspace::{self, Served};
use proxier::mode::{iptables, nftables};

/// A step that leads from the kernel's state to the planned one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// `NAMESPACE/NAME`; `None` for what Services share.
    pub(super) service: Option<String>,
    /// The step, for people.
    pub(super) step: String,
}

impl Difference {
    fn new(service: Option<String>, step: impl ToString) -> Self {
        let step = step.to_string();
        Self { service, step }
    }
}

/// The Service of a recorded comment: a Service's name contains no colon.
fn service_of(comment: Option<&str>) -> Option<String> {
    let comment = comment?;
    let (service, _) = comment.split_once(':').unwrap_or((comment, ""));
    Some(service.to_owned())
}

/// The Service that has a key in the plan.
fn planned(desired: &DesiredState, key: &FrontendKey) -> Option<String> {
    let frontend = desired.frontend(key)?;
    Some(frontend.owner.service.to_string())
}

/// What differs in mode ipvs.
pub(super) fn of_ipvs(desired: &DesiredState, node: &NodeState) -> Vec<Difference> {
    let plan = Plan::new(desired, node, Scope::Full);
    let mut marked = BTreeMap::new();
    let mut recorded = BTreeMap::new();
    for (element, comment) in node.elements.iter() {
        if let Some((key, service)) = element.frontend().zip(service_of(comment.as_deref())) {
            recorded.insert(key, service);
        }
    }
    for step in &plan {
        if let Step::AddElement(element, _) = step {
            marked.extend(element.recorded().zip(element.frontend()));
        }
    }
    let of_key = |key: FrontendKey| {
        let planned = planned(desired, &key);
        planned.or_else(|| recorded.get(&key).cloned())
    };
    let of_server = |server: VirtualServerKey| {
        let key = marked.get(&server).copied();
        key.or_else(|| node.frontend_of(&server)).and_then(of_key)
    };
    let by_address = by_address(desired);
    let of_address = |address: IpAddr| by_address.get(&address).cloned();
    let of_route = |route: &LocalRoute| of_address(single(route)?);
    let of_element = |element: &Element| match element {
        Element::CapturedAddress(address) => of_address(*address),
        other => other.frontend().and_then(of_key),
    };
    let difference = |step: &Step| {
        let service = match step {
            Step::AddElement(element, _) | Step::DeleteElement(element) => of_element(element),
            Step::Ipvs(change) => change.virtual_server().and_then(of_server),
            Step::AddRoute(route) | Step::DeleteRoute(route) => of_route(route),
            // They follow from the other steps.
            Step::DeleteFlows(_) => return None,
            _ => None,
        };
        Some(Difference::new(service, step))
    };
    plan.into_iter().filter_map(difference).collect()
}

/// The Services by their addresses; node ports have none.
fn by_address(desired: &DesiredState) -> BTreeMap<IpAddr, String> {
    let keys = desired.frontends().filter(|of| !of.key.is_node_port());
    keys.map(|of| (of.key.address, of.owner.service.to_string()))
        .collect()
}

/// What differs in mode iptables.
pub(super) fn of_iptables(desired: &DesiredState, node: &iptables::NodeState) -> Vec<Difference> {
    let plan = iptables::Plan::new(desired, node, Scope::Full);
    let mut all = Vec::new();
    for step in plan.steps() {
        match step {
            iptables::Step::Restore(transaction) => {
                let program = match transaction.family {
                    ipvs::Family::V4 => "iptables",
                    ipvs::Family::V6 => "ip6tables",
                };
                all.extend(transaction.differences().into_iter().map(|of| {
                    let service = of.owner.map(|owner| owner.service.to_string());
                    Difference::new(service, format_args!("{program}: {}", of.step))
                }));
            }
            iptables::Step::DeleteFlows(_) => {}
            other => all.push(Difference::new(None, other)),
        }
    }
    all
}

/// What differs in mode nftables.
pub(super) fn of_nftables(desired: &DesiredState, node: &nftables::NodeState) -> Vec<Difference> {
    let plan = nftables::Plan::new(desired, node, Scope::Full);
    let recorded = |key: &FrontendKey| {
        let mut elements = node.elements.of(key);
        elements.find_map(|(_, comment)| service_of(comment.as_deref()))
    };
    let of_element = |element: &nftables::Element| {
        let key = element.frontend()?;
        planned(desired, &key).or_else(|| recorded(&key))
    };
    let difference = |step: &nftables::Step| {
        let service = match step {
            nftables::Step::AddElement(element, _) | nftables::Step::DeleteElement(element) => {
                of_element(element)
            }
            // The next audit removes chains that no Service needs any more.
            nftables::Step::DeleteFlows(_) | nftables::Step::DeleteChooser(_) => return None,
            _ => None,
        };
        Some(Difference::new(service, step))
    };
    plan.steps().iter().filter_map(difference).collect()
}

/// What differs in mode userspace: listeners and routes of the node, and what the proxy says that it
/// serves.
pub(super) fn of_userspace(desired: &DesiredState, node: &userspace::NodeState) -> Vec<Difference> {
    let mut node = node.clone();
    for (key, served) in &mut node.served {
        if let Some(planned) = desired.frontend(key) {
            let frontend = Arc::new(with_unasked(&served.frontend, planned));
            *served = Arc::new(Served::with_pods(frontend, Arc::clone(&served.pods)));
        }
    }
    let recorded = |key: &FrontendKey| {
        let served = node.served.get(key)?;
        Some(served.frontend.owner.service.to_string())
    };
    let of_key = |key: &FrontendKey| planned(desired, key).or_else(|| recorded(key));
    let by_address = by_address(desired);
    let of_route = |route: &LocalRoute| by_address.get(&single(route)?).cloned();
    let plan = userspace::Plan::new(desired, &node, Scope::Full);
    let difference = |step: &userspace::Step| {
        let service = match step {
            userspace::Step::Serve(served) => of_key(&served.frontend.key),
            userspace::Step::Listen(key, _)
            | userspace::Step::Close(key, _)
            | userspace::Step::Withdraw(key) => of_key(key),
            userspace::Step::AddRoute(route) | userspace::Step::DeleteRoute(route) => {
                of_route(route)
            }
            // What drains is no difference.
            userspace::Step::EndConnections(..) => return None,
            _ => None,
        };
        Some(Difference::new(service, step))
    };
    plan.steps().iter().filter_map(difference).collect()
}

/// The address of a route for one.
fn single(route: &LocalRoute) -> Option<IpAddr> {
    let prefix = route.prefix;
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
}

/// A frontend of the proxy, with what the proxy does not ask for as the plan has it: the kind of its
/// address, how packets are forwarded, and where its endpoints are.
fn with_unasked(served: &Frontend, planned: &Frontend) -> Frontend {
    let mut frontend = served.clone();
    frontend.kind = planned.kind;
    frontend.forwarding = planned.forwarding;
    frontend.scheduler_flags = planned.scheduler_flags;
    let external = planned.external.iter().flat_map(|all| all.iter());
    let known = planned.backends.iter().chain(external);
    let places: BTreeMap<_, _> = known.map(|of| ((of.address, of.port), of.place)).collect();
    let place = |of: &Backend| Backend {
        place: places
            .get(&(of.address, of.port))
            .copied()
            .unwrap_or(of.place),
        ..*of
    };
    frontend.backends = frontend.backends.iter().map(place).collect();
    let external = frontend.external.as_ref();
    frontend.external = external.map(|all| all.iter().map(place).collect());
    frontend
}

/// The virtual IPs of the plan for which svcproxy adds no route, because they are in `--listen`.
pub(super) fn given(desired: &DesiredState, node: &userspace::NodeState) -> BTreeSet<IpAddr> {
    let keys = desired.frontends().map(|of| of.key);
    let addresses = keys
        .filter(|key| !key.is_node_port())
        .map(|key| key.address);
    addresses.filter(|vip| node.is_given(*vip)).collect()
}

/// Those of them that no route makes local.
pub(super) fn unrouted(
    desired: &DesiredState,
    given: &BTreeSet<IpAddr>,
    ways: &Ways,
) -> Vec<Difference> {
    let by_address = by_address(desired);
    let unrouted = given
        .iter()
        .filter(|vip| ways.routes.get(vip) != Some(&Route::Local));
    let difference = |vip: &IpAddr| {
        let step = format!(
            "need a local route to {vip}, which is in --listen, so svcproxy adds none: ip route add local \
             {vip} dev lo"
        );
        Difference::new(by_address.get(vip).cloned(), step)
    };
    unrouted.map(difference).collect()
}
