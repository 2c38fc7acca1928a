//! The steps of a plan by the Service that they are for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipvs::VirtualServerKey;
use proxier::desired::{DesiredState, FrontendKey};
use proxier::mode::ipvs::plan::{Element, LocalRoute, NodeState, Plan, Scope, Step};
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
    let of_route = |route: &LocalRoute| {
        let is_host = route.prefix.prefix_len() == route.prefix.max_prefix_len();
        is_host.then(|| of_address(route.prefix.addr())).flatten()
    };
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
