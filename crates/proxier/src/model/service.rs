//! `v1/Service`.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use ipvs::{Flags, Scheduler};

use super::{ObjectName, PortName, Protocol, Uid};
use crate::notice::Reason;

/// A Service: virtual IPs and the ports on which they answer.
///
/// Headless Services and those of type `ExternalName` have no [`cluster_ips`](Self::cluster_ips)
/// and ask nothing of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `spec.clusterIPs`: at most one address a family; none for a headless Service. They say of
    /// which families the Service is: all its other addresses and its node ports are of these.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.externalIPs`; none of the cluster IPs.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip`, but for those whose `ipMode` is `Proxy`: to reach the
    /// Service by them, traffic must go through the load balancer. None of the cluster IPs.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`: who may use the load balancer's addresses, without overlaps.
    /// Empty: anyone. Ranges of one family only: nobody of the other.
    pub load_balancer_source_ranges: Box<[IpNet]>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// `spec.sessionAffinity` and its timeout.
    pub session_affinity: SessionAffinity,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, where the node is to say whether it has endpoints.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Annotation `svcproxy.io/scheduler`.
    pub scheduler: Option<Scheduler>,
    /// Annotation `svcproxy.io/scheduler-flags`: flags of the scheduler, which is set then.
    pub scheduler_flags: Option<Flags>,
    /// `metadata.creationTimestamp` in seconds since 1970, where known: of two Services that
    /// claim one address and port, the older one has it.
    pub created: Option<i64>,
    /// Label `svcproxy.io/metrics: "true"`: metrics tell the Service's own traffic.
    pub metrics: bool,
    /// `metadata.uid`, where known.
    pub uid: Option<Uid>,
    /// What stands in the object and cannot be used.
    pub unusable: Box<[Unusable]>,
}

/// Something in a Service that cannot be used, though the Service can.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unusable {
    /// Path of the field.
    pub field: String,
    /// Of which kind it is.
    pub reason: Reason,
    /// What is wrong with it.
    pub message: String,
}

impl Unusable {
    /// What stands in this field, for this reason.
    pub fn new(field: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason,
            message: message.into(),
        }
    }
}

impl Service {
    /// A Service without addresses, ports or affinity.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            cluster_ips: Box::default(),
            external_ips: Box::default(),
            load_balancer_ips: Box::default(),
            load_balancer_source_ranges: Box::default(),
            ports: Box::default(),
            session_affinity: SessionAffinity::None,
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_traffic_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            scheduler: None,
            scheduler_flags: None,
            created: None,
            metrics: false,
            uid: None,
            unusable: Box::default(),
        }
    }
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// Name, by which the endpoint slices' ports are found.
    pub name: PortName,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the virtual IP.
    pub port: NonZeroU16,
    /// `nodePort`: port on the nodes' own addresses.
    pub node_port: Option<NonZeroU16>,
}

impl ServicePort {
    /// A port of a Service.
    pub fn new(name: PortName, protocol: Protocol, port: NonZeroU16) -> Self {
        Self {
            name,
            protocol,
            port,
            node_port: None,
        }
    }
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`: which endpoints answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TrafficPolicy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those on the node that gets the packets.
    Local,
}

/// `spec.sessionAffinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SessionAffinity {
    /// Each connection goes where the scheduler says.
    #[default]
    None,
    /// A client keeps its endpoint for this many seconds after its last connection
    /// (`spec.sessionAffinityConfig.clientIP.timeoutSeconds`).
    ClientIp(NonZeroU32),
}
