//! Derives endpoint slices from Pods, for Services with a selector, as the control plane's
//! endpoint-slice controller does (kubernetes `staging/src/k8s.io/endpointslice`). For sources
//! without a control plane.
//!
//! There are two differences. A Pod counts even if its Node is unknown; the controller leaves it
//! out until the Node is known. And the annotation `service.kubernetes.io/topology-mode` yields no
//! hints, which depend on the processors of all nodes of the cluster.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::model::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Family, Hints, Node, ObjectName,
    PortName, Protocol, Service, ServicePort,
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
    let mut hostnames = BTreeMap::<_, Vec<_>>::new();
    for pod in pods.into_iter().filter(|pod| !pod.finished) {
        let ports = selection.ports_of(service, pod);
        let node = pod.node.as_deref().and_then(&node);
        for family in &selection.families {
            if let Some(endpoint) = endpoint(selection, pod, node, *family) {
                let group = groups.entry((*family, ports.clone())).or_default();
                if let Some(name) = pod.hostname_in(service) {
                    hostnames
                        .entry(endpoint.address)
                        .or_default()
                        .push(name.clone());
                }
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
            let named = |endpoint: &Endpoint| {
                let names = hostnames.get(&endpoint.address).into_iter().flatten();
                names
                    .cloned()
                    .map(|name| (endpoint.address, name))
                    .collect::<Vec<_>>()
            };
            let mut names: Vec<_> = endpoints.iter().flat_map(named).collect();
            names.sort_unstable();
            names.dedup();
            slice.hostnames = names.into();
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

/// The parts of a Pod that its endpoint depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `status.podIPs`: at most one address per family.
    pub addresses: Box<[IpAddr]>,
    /// `ports` of `spec.containers`, then of those `spec.initContainers` that are sidecars
    /// (`restartPolicy: Always`); only ports with a name.
    pub ports: Box<[ContainerPort]>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`: its addresses are the node's.
    pub host_network: bool,
    /// `spec.hostname`.
    pub hostname: Option<Arc<str>>,
    /// `spec.subdomain`: the Service whose endpoint has the host name.
    pub subdomain: Option<Arc<str>>,
    /// Condition `Ready`.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase` is `Succeeded` or `Failed`: the Pod is no endpoint.
    pub finished: bool,
}

impl Pod {
    /// A Pod that is not ready, without labels, ports or addresses.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            labels: BTreeMap::new(),
            addresses: Box::default(),
            ports: Box::default(),
            node: None,
            host_network: false,
            hostname: None,
            subdomain: None,
            ready: false,
            terminating: false,
            finished: false,
        }
    }

    /// The host name of its endpoint of a Service (`ShouldSetHostname` in the controller).
    fn hostname_in(&self, service: &Service) -> Option<&Arc<str>> {
        let is_its = self.subdomain.as_deref() == Some(service.name.name());
        self.hostname.as_ref().filter(|_| is_its)
    }

    /// Its address of a family. With `hostNetwork` it is the node's address, which the kubelet
    /// writes into the Pod's status, but which a hand-written manifest may omit.
    fn address(&self, family: Family, node: Option<&Node>) -> Option<IpAddr> {
        let host = node.filter(|_| self.host_network && self.addresses.is_empty());
        let addresses = host.map_or(&self.addresses, |node| &node.addresses);
        let mut addresses = addresses.iter().copied();
        addresses.find(|address| Family::of(address) == family)
    }
}

/// A named port of a Pod's container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerPort {
    /// Name, which a Service's `targetPort` may refer to.
    pub name: PortName,
    /// Protocol.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: NonZeroU16,
}

impl ContainerPort {
    /// A port of a container.
    pub fn new(name: PortName, protocol: Protocol, port: NonZeroU16) -> Self {
        Self {
            name,
            protocol,
            port,
        }
    }
}

/// The parts of a Service with a selector that its slices depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// `spec.selector`: the labels that a Pod must have.
    pub labels: BTreeMap<String, String>,
    /// `targetPort` of each of `spec.ports`.
    pub targets: Box<[TargetPort]>,
    /// `spec.ipFamilies`.
    pub families: Box<[Family]>,
    /// `spec.publishNotReadyAddresses`: every Pod counts as ready.
    pub publish_not_ready_addresses: bool,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<TrafficDistribution>,
}

impl Selection {
    /// Selects Pods with these labels; without ports or address families.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let labels = labels.into_iter();
        Self {
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            targets: Box::default(),
            families: Box::default(),
            publish_not_ready_addresses: false,
            traffic_distribution: None,
        }
    }

    /// Whether a Pod of the Service's namespace has all labels.
    pub fn selects(&self, pod: &Pod) -> bool {
        let mut labels = self.labels.iter();
        labels.all(|(key, value)| pod.labels.get(key) == Some(value))
    }

    /// The port number in this Pod for each port of the Service; none for a named one that the Pod
    /// does not have.
    fn ports_of(&self, service: &Service, pod: &Pod) -> Vec<Option<NonZeroU16>> {
        let ports = service.ports.iter().zip(&self.targets);
        let number = |(port, target): (&ServicePort, &TargetPort)| match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let named =
                    |own: &&ContainerPort| own.name == *name && own.protocol == port.protocol;
                pod.ports.iter().find(named).map(|own| own.port)
            }
        };
        ports.map(number).collect()
    }
}

/// `spec.ports[].targetPort`: the port in the Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetPort {
    /// A number, the same in each Pod.
    Number(NonZeroU16),
    /// The port of a container with this name and the Service port's protocol.
    Name(PortName),
}

/// `spec.trafficDistribution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrafficDistribution {
    /// Endpoints of the client's zone; `PreferClose` means the same.
    PreferSameZone,
    /// Endpoints of the client's node, else of its zone.
    PreferSameNode,
}
