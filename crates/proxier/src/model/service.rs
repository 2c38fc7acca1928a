//! `v1/Service`.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use ipvs::{Flags, Scheduler, Tunnel};

use super::{ObjectName, PortName, Protocol, Uid};
use crate::model::notice::Reason;

/// A Service: virtual IPs and their ports.
///
/// Headless Services and those of type `ExternalName` have no [`cluster_ips`](Self::cluster_ips).
/// They need nothing on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `spec.clusterIPs`: at most one address per family; empty for an
    /// [unproxied](Self::unproxied) Service. They define
    /// the Service's families, which all its other addresses and its node ports have too.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.externalIPs`, without cluster IPs.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip`, without cluster IPs and without addresses of `ipMode`
    /// `Proxy`: traffic to those must go through the load balancer.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`: the clients that may use the load-balancer IPs, without
    /// overlaps. Empty means everyone. If all ranges have one family, no client of the other may.
    pub load_balancer_source_ranges: Box<[IpNet]>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// `spec.sessionAffinity` and its timeout.
    pub session_affinity: SessionAffinity,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`: the port on which the node reports whether it has endpoints.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Annotation `svcproxy.io/scheduler`.
    pub scheduler: Option<Scheduler>,
    /// Annotation `svcproxy.io/scheduler-flags`. If set, [`scheduler`](Self::scheduler) is set too.
    pub scheduler_flags: Option<Flags>,
    /// How packets reach the endpoints. The API has no field for it.
    pub forwarding: Forwarding,
    /// Annotation `svcproxy.io/proxy-protocol`: tells endpoints the address of a TCP client, in mode
    /// userspace.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `metadata.creationTimestamp` in seconds since 1970, if known. If two Services claim one
    /// address and port, the older one gets it.
    pub created: Option<i64>,
    /// Label `svcproxy.io/metrics: "true"`: whether to export the Service's traffic as metrics.
    pub metrics: bool,
    /// `metadata.uid`, if known.
    pub uid: Option<Uid>,
    /// Invalid parts of the object that were left out.
    pub unusable: Box<[Unusable]>,
    /// What clients find under the Service's name, if this node has nothing to do for it.
    pub unproxied: Option<Box<Unproxied>>,
}

/// A Service that needs nothing on a node, but has a name.
///
/// Its [`cluster_ips`](Service::cluster_ips) are empty, so no mode serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unproxied {
    /// `spec.clusterIP: None`: clients find the endpoints.
    Headless {
        /// `spec.publishNotReadyAddresses`: also those that are not ready.
        publish_not_ready_addresses: bool,
    },
    /// `spec.externalName` of type `ExternalName`.
    ExternalName(Box<str>),
    /// The cluster IPs of a Service with the label `service.kubernetes.io/service-proxy-name`, which
    /// another service proxy serves.
    OtherProxy(Box<[IpAddr]>),
}

/// An invalid part of a Service that is left out; the rest of the Service works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unusable {
    /// Path of the field.
    pub field: String,
    /// The kind of problem.
    pub reason: Reason,
    /// What is wrong.
    pub message: String,
}

impl Unusable {
    /// An invalid part in this field.
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
            forwarding: Forwarding::Masquerade,
            proxy_protocol: None,
            created: None,
            metrics: false,
            uid: None,
            unusable: Box::default(),
            unproxied: None,
        }
    }
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// Name: it maps to the ports of endpoint slices with the same name.
    pub name: PortName,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the virtual IP.
    pub port: NonZeroU16,
    /// `nodePort`: the port on the addresses of the node.
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

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`: which endpoints get connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TrafficPolicy {
    /// All endpoints in the cluster.
    #[default]
    Cluster,
    /// The endpoints on the node that receives the packets.
    Local,
}

/// How packets reach the endpoints of a Service. IPVS mode only; iptables mode masquerades, with a
/// [`Problem`](crate::desired::Problem).
///
/// With methods other than masquerade, endpoints answer clients directly, and not through this node.
/// Each endpoint must have the virtual IP, for instance on `lo`, and must not answer ARP for it. Its
/// port must be the Service's port. Connections from the node itself do not work: the answers would
/// come from an address that the node itself has.
///
/// Where the method cannot work, the virtual IP is served by masquerade, and a
/// [`Problem`](crate::desired::Problem) gives the reason: at node ports, with endpoints on another port, and
/// at cluster IPs whose clients are masqueraded
/// ([`cluster_cidrs`](crate::desired::Config::cluster_cidrs)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Forwarding {
    /// The destination address is rewritten, and the source address of answers.
    #[default]
    Masquerade,
    /// The frame goes to the endpoint unchanged, which must be on a network of this node.
    DirectRouting,
    /// The packet is encapsulated.
    Tunnel(Tunnel),
}

impl From<Forwarding> for ipvs::Forwarding {
    fn from(forwarding: Forwarding) -> Self {
        match forwarding {
            Forwarding::Masquerade => Self::Masquerade,
            Forwarding::DirectRouting => Self::DirectRouting,
            Forwarding::Tunnel(tunnel) => Self::Tunnel(tunnel),
        }
    }
}

/// The version of the PROXY protocol, in whose header an endpoint finds the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// `spec.sessionAffinity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SessionAffinity {
    /// The scheduler chooses an endpoint for each connection.
    #[default]
    None,
    /// A client keeps its endpoint for this many seconds after its last connection
    /// (`spec.sessionAffinityConfig.clientIP.timeoutSeconds`).
    ClientIp(NonZeroU32),
}
