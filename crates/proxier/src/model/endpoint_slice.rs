//! `discovery.k8s.io/v1/EndpointSlice`.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{Family, ObjectName, PortName, Protocol, Timestamp};

/// A slice of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: ObjectName,
    /// `addressType`.
    pub family: Family,
    /// `ports`: every endpoint of the slice serves all of them.
    pub ports: Box<[EndpointPort]>,
    /// `endpoints`.
    pub endpoints: Box<[Endpoint]>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`: when the pod or Service
    /// changed whose change led to this version of the slice.
    pub last_change: Option<Timestamp>,
}

impl EndpointSlice {
    /// A slice without ports or endpoints.
    pub fn new(name: ObjectName, service: ObjectName, family: Family) -> Self {
        Self {
            name,
            service,
            family,
            ports: Box::default(),
            endpoints: Box::default(),
            last_change: None,
        }
    }
}

/// One port of a slice. The Service's port with the same name maps to this port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointPort {
    /// Name of the Service's port.
    pub name: PortName,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the endpoint.
    pub port: NonZeroU16,
}

impl EndpointPort {
    /// A port of a slice.
    pub fn new(name: PortName, protocol: Protocol, port: NonZeroU16) -> Self {
        Self {
            name,
            protocol,
            port,
        }
    }
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The first of `addresses`. The API gives further ones no meaning.
    pub address: IpAddr,
    /// `conditions`.
    pub conditions: EndpointConditions,
    /// Its share of new connections, relative to the other endpoints of the port. Annotation
    /// `svcproxy.io/weight` of the slice.
    ///
    /// With 0 it gets no new connections and drains, as if it were no longer in the slice. If all
    /// endpoints have 0, the Service has none. Of the schedulers of IPVS, `rr`, `lc` and `dh` ignore
    /// other weights; a Service that chooses no scheduler gets `wrr` for `rr` and `wlc` for `lc`
    /// while the weights of its endpoints differ.
    pub weight: u16,
    /// `nodeName`, if known.
    pub node: Option<Arc<str>>,
    /// `zone`, if known.
    pub zone: Option<Arc<str>>,
    /// `hints`: the clients that should use the endpoint; `None` means all.
    pub hints: Option<Box<Hints>>,
}

impl Endpoint {
    /// A ready endpoint of weight 1 on an unknown node.
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            conditions: EndpointConditions::default(),
            weight: 1,
            node: None,
            zone: None,
            hints: None,
        }
    }
}

/// `endpoints[].hints`: the zones and nodes whose traffic an endpoint should take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Box<[Arc<str>]>,
    /// `forNodes[].name`.
    pub nodes: Box<[Arc<str>]>,
}

impl Hints {
    /// Hints for these zones and these nodes.
    pub fn new(zones: impl Into<Box<[Arc<str>]>>, nodes: impl Into<Box<[Arc<str>]>>) -> Self {
        Self {
            zones: zones.into(),
            nodes: nodes.into(),
        }
    }
}

/// `endpoints[].conditions`, with the API's defaults for unset fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointConditions {
    /// Accepts new connections; unset means true.
    pub ready: bool,
    /// Answers connections, even while it terminates; unset means the value of `ready`.
    pub serving: bool,
    /// Is being deleted; unset means false.
    pub terminating: bool,
}

impl EndpointConditions {
    /// Conditions from the API's optional fields.
    pub fn new(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        let ready = ready.unwrap_or(true);
        Self {
            ready,
            serving: serving.unwrap_or(ready),
            terminating: terminating.unwrap_or(false),
        }
    }
}

impl Default for EndpointConditions {
    fn default() -> Self {
        Self::new(None, None, None)
    }
}
