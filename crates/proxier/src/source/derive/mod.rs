//! Derives endpoint slices from Pods, for Services with a selector, as the control plane's
//! endpoint-slice controller does (kubernetes `staging/src/k8s.io/endpointslice`). For sources
//! without a control plane.
//!
//! There are two differences. A Pod counts even if its Node is unknown; the controller leaves it
//! out until the Node is known. And the annotation `service.kubernetes.io/topology-mode` yields no
//! hints, which depend on the processors of all nodes of the cluster.

mod pod;
mod selection;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use pod::{ContainerPort, Pod};
pub use selection::{Selection, TargetPort, TrafficDistribution};

use crate::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, Hints, Node, ObjectName,
    Service,
};

/// The API server's bound on the endpoints of one slice.
const MAX_ENDPOINTS: usize = 1000;

/// The slices of a Service that selects these Pods: one for each address family and set of port
/// numbers, because a named target port may have a different number in each Pod. `node` finds Nodes
/// by name.
///
/// Endpoints have the order of the Pods. A Service that selects no Pod has no slice.
///
/// ```
/// use proxier::model::{EndpointPort, Family, ObjectName, PortName, Protocol, Service, ServicePort};
/// use proxier::source::derive::{self, Pod, Selection, TargetPort};
///
/// let port = |number| std::num::NonZeroU16::new(number).unwrap();
/// let mut service = Service::new(ObjectName::new("default", "web")?);
/// service.ports = [ServicePort::new(PortName::UNNAMED, Protocol::Tcp, port(80))].into();
/// let mut selection = Selection::new([("app", "web")]);
/// selection.targets = [TargetPort::Number(port(8080))].into();
/// selection.families = [Family::V4].into();
///
/// let mut pod = Pod::new(ObjectName::new("default", "web-0")?);
/// pod.labels = selection.labels.clone();
/// pod.addresses = ["10.244.1.1".parse().unwrap()].into();
/// pod.ready = true;
/// assert!(selection.selects(&pod));
///
/// let slices = derive::slices(&service, &selection, [&pod], |_| None);
/// assert_eq!(slices[0].ports[0].port.get(), 8080);
/// assert!(slices[0].endpoints[0].conditions.ready);
/// # Ok::<(), proxier::model::InvalidName>(())
/// ```
pub fn slices<'a>(
    service: &Service,
    selection: &Selection,
    pods: impl IntoIterator<Item = &'a Pod>,
    node: impl Fn(&str) -> Option<&'a Node>,
) -> Vec<EndpointSlice> {
    // Grouped by family and port numbers, in an order that does not depend on the order of the
    // Pods.
    let mut groups = BTreeMap::<_, Vec<Endpoint>>::new();
    for pod in pods.into_iter().filter(|pod| !pod.finished) {
        let ports = selection.ports_of(service, pod);
        let node = pod.node.as_deref().and_then(&node);
        for family in &selection.families {
            if let Some(endpoint) = endpoint(selection, pod, node, *family) {
                let group = groups.entry((*family, ports.clone())).or_default();
                group.push(endpoint);
            }
        }
    }
    let mut slices = Vec::new();
    for ((family, numbers), endpoints) in &groups {
        let suffix = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let ports = service.ports.iter().zip(numbers);
        let ports = ports.filter_map(|(port, number)| {
            Some(EndpointPort::new(
                port.name.clone(),
                port.protocol,
                (*number)?,
            ))
        });
        let ports: Box<[_]> = ports.collect();
        for endpoints in endpoints.chunks(MAX_ENDPOINTS) {
            let name = format!("{}-derived-{}-{suffix}", service.name.name(), slices.len());
            // Service names are short, so this name is not too long.
            let Ok(name) = ObjectName::new(service.name.namespace(), &name) else {
                continue;
            };
            let mut slice = EndpointSlice::new(name, service.name.clone(), *family);
            slice.ports.clone_from(&ports);
            slice.endpoints = endpoints.into();
            slices.push(slice);
        }
    }
    slices
}

/// A Pod as an endpoint, if it has an address of this family.
fn endpoint(
    selection: &Selection,
    pod: &Pod,
    node: Option<&Node>,
    family: Family,
) -> Option<Endpoint> {
    let mut endpoint = Endpoint::new(pod.address(family, node)?);
    let ready = selection.publish_not_ready_addresses || (pod.ready && !pod.terminating);
    endpoint.conditions =
        EndpointConditions::new(Some(ready), Some(pod.ready), Some(pod.terminating));
    endpoint.node.clone_from(&pod.node);
    endpoint.zone = node.and_then(|node| node.zone.clone());
    if let Some(distribution) = selection.traffic_distribution.filter(|_| ready) {
        let zones: Box<[_]> = endpoint.zone.iter().cloned().collect();
        let nodes: Box<[_]> = match distribution {
            TrafficDistribution::PreferSameZone => Box::default(),
            TrafficDistribution::PreferSameNode => endpoint.node.iter().cloned().collect(),
        };
        if !(zones.is_empty() && nodes.is_empty()) {
            endpoint.hints = Some(Box::new(Hints::new(zones, nodes)));
        }
    }
    Some(endpoint)
}
