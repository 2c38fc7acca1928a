//! The Kubernetes API's objects, reduced to the fields that svcproxy reads.
//!
//! Other fields are skipped without being kept. Null and a missing field mean the same. A single
//! port, address or range of a wrong type does not make the object undecodable: it is kept as
//! `Loose::Wrong`, so that [`convert`](super::convert) can leave out that value alone and name it.

mod decode;
#[cfg(feature = "kube")]
mod protobuf;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess};

pub(super) use self::decode::{Annotations, FromAny, Loose, Seconds};
use self::decode::{Mapping, mapping, or_default};
#[cfg(feature = "kube")]
pub(super) use self::protobuf::Object;

/// Annotations that svcproxy reads. Others are not kept: `kubectl apply` writes the whole object
/// into one.
pub(crate) mod annotation {
    /// The IPVS scheduler for a Service.
    pub(crate) const SCHEDULER: &str = "svcproxy.io/scheduler";
    /// The scheduler's flags.
    pub(crate) const SCHEDULER_FLAGS: &str = "svcproxy.io/scheduler-flags";
    /// The version of the PROXY protocol towards a Service's endpoints.
    pub(crate) const PROXY_PROTOCOL: &str = "svcproxy.io/proxy-protocol";
    /// The weights of a slice's endpoints.
    pub(crate) const WEIGHT: &str = "svcproxy.io/weight";
    /// The predecessor of `spec.loadBalancerSourceRanges`.
    pub(crate) const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    /// Requests topology hints; the older name.
    pub(crate) const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    /// Requests topology hints.
    pub(crate) const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
    /// The time of the change that led to the slice's last change.
    pub(crate) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
    /// Marks Endpoints that are a leader-election lock.
    pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

    pub(super) const ALL: [&str; 9] = [
        SCHEDULER,
        SCHEDULER_FLAGS,
        PROXY_PROTOCOL,
        WEIGHT,
        SOURCE_RANGES,
        TOPOLOGY_HINTS,
        TOPOLOGY_MODE,
        LAST_CHANGE,
        LEADER,
    ];
}

/// Lets structs be decoded from maps only.
macro_rules! from_maps {
    ($($type:ty)*) => {$(
        impl<'de> FromAny<'de> for $type {
            const EXPECTED: &'static str = "a mapping";

            fn from_map<A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
                Self::deserialize(MapAccessDeserializer::new(map)).map(Some)
            }
        }
    )*};
}

/// A `v1/Service`, decoded.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    #[serde(deserialize_with = "mapping")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "mapping")]
    pub(super) spec: Option<ServiceSpec>,
    #[serde(deserialize_with = "mapping")]
    pub(super) status: ServiceStatus,
}

/// A `discovery.k8s.io/v1/EndpointSlice`, decoded.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    #[serde(deserialize_with = "mapping")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(super) address_type: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<Loose<Port>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) endpoints: Vec<Loose<Endpoint>>,
}

/// A `v1/Endpoints`, decoded.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    #[serde(deserialize_with = "mapping")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(super) subsets: Vec<Loose<Subset>>,
}

/// A `v1/Pod`, decoded.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    #[serde(deserialize_with = "mapping")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "mapping")]
    pub(super) spec: Option<PodSpec>,
    #[serde(deserialize_with = "mapping")]
    pub(super) status: Option<PodStatus>,
}

/// A `v1/Node`, decoded.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    #[serde(deserialize_with = "mapping")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "mapping")]
    pub(super) spec: NodeSpec,
    #[serde(deserialize_with = "mapping")]
    pub(super) status: NodeStatus,
}

/// A `networking.k8s.io/v1/ServiceCIDR`, decoded.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    #[serde(deserialize_with = "mapping")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "mapping")]
    pub(super) spec: ServiceCidrSpec,
}

/// The header of every object, as far as it can be read from an invalid one.
#[cfg(feature = "manifest")]
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Header {
    pub(super) api_version: Option<Loose<String>>,
    pub(super) kind: Option<Loose<String>>,
    metadata: Option<Loose<HeaderMetadata>>,
}

#[cfg(feature = "manifest")]
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeaderMetadata {
    name: Option<Loose<String>>,
    namespace: Option<Loose<String>>,
}

#[cfg(feature = "manifest")]
impl Header {
    pub(super) fn name(&self) -> Option<&str> {
        text(self.metadata()?.name.as_ref())
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        text(self.metadata()?.namespace.as_ref())
    }

    fn metadata(&self) -> Option<&HeaderMetadata> {
        match self.metadata.as_ref()? {
            Loose::Right(metadata) => Some(metadata),
            Loose::Wrong(_) => None,
        }
    }
}

#[cfg(feature = "manifest")]
from_maps!(HeaderMetadata);

/// A string, or none if the value has another type.
#[cfg(feature = "manifest")]
pub(super) fn text(written: Option<&Loose<String>>) -> Option<&str> {
    match written? {
        Loose::Right(text) => Some(text),
        Loose::Wrong(_) => None,
    }
}

impl ServiceCidr {
    #[cfg(feature = "kube")]
    pub(super) fn name(&self) -> Option<&str> {
        self.metadata.name.as_deref()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    #[cfg(feature = "kube")]
    pub(super) resource_version: Option<Loose<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) annotations: Annotations,
    pub(super) creation_timestamp: Option<Loose<Seconds>>,
    pub(super) deletion_timestamp: Option<IgnoredAny>,
}

impl Metadata {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// One of [`annotation`].
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        let mut all = self.annotations.0.iter();
        all.find(|(known, _)| *known == key)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(super) type_: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<Loose<String>>,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub(super) cluster_ips: Vec<Loose<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ip_families: Vec<String>,
    pub(super) ip_family_policy: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<Loose<Port>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) selector: BTreeMap<String, String>,
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    pub(super) external_ips: Vec<Loose<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) load_balancer_source_ranges: Vec<Loose<String>>,
    pub(super) session_affinity: Option<String>,
    #[serde(deserialize_with = "mapping")]
    pub(super) session_affinity_config: Option<SessionAffinityConfig>,
    pub(super) internal_traffic_policy: Option<String>,
    pub(super) external_traffic_policy: Option<String>,
    pub(super) health_check_node_port: Option<Loose<i32>>,
    pub(super) traffic_distribution: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) publish_not_ready_addresses: bool,
    pub(super) external_name: Option<Loose<String>>,
}

/// A port of a Service, a slice, Endpoints or a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Port {
    pub(super) name: Option<Loose<String>>,
    pub(super) protocol: Option<Loose<String>>,
    pub(super) port: Option<Loose<i32>>,
    pub(super) target_port: Option<Loose<IntOrString>>,
    pub(super) node_port: Option<Loose<i32>>,
    pub(super) container_port: Option<Loose<i32>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IntOrString {
    Int(i32),
    String(String),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SessionAffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "mapping")]
    pub(super) client_ip: Option<ClientIpConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClientIpConfig {
    pub(super) timeout_seconds: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceStatus {
    #[serde(deserialize_with = "mapping")]
    pub(super) load_balancer: LoadBalancerStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoadBalancerStatus {
    #[serde(deserialize_with = "or_default")]
    pub(super) ingress: Vec<Loose<Ingress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Ingress {
    pub(super) ip: Option<Loose<String>>,
    pub(super) ip_mode: Option<Loose<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoint {
    #[serde(deserialize_with = "or_default")]
    pub(super) addresses: Vec<Loose<String>>,
    #[serde(deserialize_with = "mapping")]
    pub(super) conditions: Conditions,
    pub(super) hostname: Option<Loose<String>>,
    pub(super) node_name: Option<Loose<String>>,
    pub(super) zone: Option<Loose<String>>,
    #[serde(deserialize_with = "mapping")]
    pub(super) hints: Option<Hints>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hints {
    #[serde(deserialize_with = "or_default")]
    pub(super) for_zones: Vec<Named>,
    #[serde(deserialize_with = "or_default")]
    pub(super) for_nodes: Vec<Named>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subset {
    #[serde(deserialize_with = "or_default")]
    pub(super) addresses: Vec<Loose<EndpointAddress>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) not_ready_addresses: Vec<Loose<EndpointAddress>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<Loose<Port>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointAddress {
    pub(super) ip: Option<Loose<String>>,
    pub(super) hostname: Option<Loose<String>>,
    pub(super) node_name: Option<Loose<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) node_name: Option<Loose<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_network: bool,
    pub(super) hostname: Option<Loose<String>>,
    pub(super) subdomain: Option<Loose<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub(super) init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<Loose<Port>>,
    pub(super) restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<Loose<String>>,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub(super) pod_ips: Vec<Loose<PodIp>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) conditions: Vec<PodCondition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    pub(super) ip: Option<Loose<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(super) type_: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: Option<Loose<String>>,
    #[serde(rename = "podCIDRs", deserialize_with = "or_default")]
    pub(super) pod_cidrs: Vec<Loose<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) taints: Vec<Taint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Taint {
    #[serde(deserialize_with = "or_default")]
    pub(super) key: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    #[serde(deserialize_with = "or_default")]
    pub(super) addresses: Vec<Loose<NodeAddress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeAddress {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(super) type_: String,
    pub(super) address: Option<Loose<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceCidrSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) cidrs: Vec<Loose<String>>,
}

/// An object with a name.
#[cfg(feature = "manifest")]
pub(super) trait Identified {
    /// Name and namespace as written.
    fn identity(&self) -> (Option<&str>, Option<&str>);
}

#[cfg(feature = "manifest")]
macro_rules! named {
    ($($type:ty)*) => {$(
        impl Identified for $type {
            fn identity(&self) -> (Option<&str>, Option<&str>) {
                let Metadata { name, namespace, .. } = &self.metadata;
                (name.as_deref(), namespace.as_deref())
            }
        }
    )*};
}

#[cfg(feature = "manifest")]
named!(Service EndpointSlice Endpoints Pod Node);

macro_rules! mappings {
    ($($type:ty)*) => {$(
        impl<'de> Mapping<'de> for $type {
            fn of<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
                Self::deserialize(MapAccessDeserializer::new(map))
            }
        }
    )*};
}

mappings!(
    Metadata ServiceSpec ServiceStatus LoadBalancerStatus SessionAffinityConfig ClientIpConfig
    Conditions Hints PodSpec PodStatus NodeSpec NodeStatus ServiceCidrSpec
);

from_maps!(Port Endpoint Subset EndpointAddress PodIp NodeAddress Ingress);
