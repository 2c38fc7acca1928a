//! `v1/Pod`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::model::{Family, Node, ObjectName, PortName, Protocol};

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
            ready: false,
            terminating: false,
            finished: false,
        }
    }

    /// Its address of a family. With `hostNetwork` it is the node's address, which the kubelet
    /// writes into the Pod's status, but which a hand-written manifest may omit.
    pub(super) fn address(&self, family: Family, node: Option<&Node>) -> Option<IpAddr> {
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
