//! The Kubernetes API's objects, reduced to the fields that svcproxy reads.
//!
//! Other fields are skipped without being kept. Null and a missing field mean the same. A single
//! port, address or range of a wrong type does not make the object undecodable: it is kept as
//! `Loose::Wrong`, so that [`convert`](super::convert) can leave out that value alone and name it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Annotations that svcproxy reads. Others are not kept: `kubectl apply` writes the whole object
/// into one.
pub(crate) mod annotation {
    /// The IPVS scheduler for a Service.
    pub(crate) const SCHEDULER: &str = "svcproxy.io/scheduler";
    /// The scheduler's flags.
    pub(crate) const SCHEDULER_FLAGS: &str = "svcproxy.io/scheduler-flags";
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

    pub(super) const ALL: [&str; 8] = [
        SCHEDULER,
        SCHEDULER_FLAGS,
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
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) annotations: Annotations,
    pub(super) creation_timestamp: Option<Loose<String>>,
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
    pub(super) node_name: Option<Loose<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) node_name: Option<Loose<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_network: bool,
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

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Decodes a struct from a map, or the default from null. serde's derive would also accept a list.
fn mapping<'de, D: Deserializer<'de>, T: Mapping<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(MappingVisitor(PhantomData))
}

trait Mapping<'de>: Default {
    fn of<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

impl<'de, T: Mapping<'de>> Mapping<'de> for Option<T> {
    fn of<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        T::of(map).map(Some)
    }
}

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

struct MappingVisitor<T>(PhantomData<T>);

impl<'de, T: Mapping<'de>> Visitor<'de> for MappingVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::of(map)
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

/// The known [`annotation`]s, with their values.
#[derive(Debug, Clone, Default)]
pub(super) struct Annotations(Vec<(&'static str, String)>);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnnotationsVisitor)
    }
}

struct AnnotationsVisitor;

impl<'de> Visitor<'de> for AnnotationsVisitor {
    type Value = Annotations;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
        let mut kept = Vec::new();
        while let Some(KnownKey(key)) = map.next_key()? {
            match key {
                Some(key) => kept.push((key, map.next_value()?)),
                // A value that is not a string is an error, as in the API server.
                None => map.next_value::<AnyString>().map(drop)?,
            }
        }
        Ok(Annotations(kept))
    }
}

/// One of [`annotation::ALL`].
struct KnownKey(Option<&'static str>);

impl<'de> Deserialize<'de> for KnownKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = KnownKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<KnownKey, E> {
                let known = annotation::ALL.into_iter().find(|known| *known == text);
                Ok(KnownKey(known))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// A string that is checked and dropped.
struct AnyString;

impl<'de> Deserialize<'de> for AnyString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;
        impl Visitor<'_> for AnyVisitor {
            type Value = AnyString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, _: &str) -> Result<AnyString, E> {
                Ok(AnyString)
            }
        }
        deserializer.deserialize_str(AnyVisitor)
    }
}

/// A value of the right type, or the text of a wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loose<T> {
    Right(T),
    Wrong(String),
}

/// The types of [`Loose`] values.
pub(super) trait FromAny<'de>: Sized {
    /// The expected type, for messages.
    const EXPECTED: &'static str;

    fn from_str(_: &str) -> Option<Self> {
        None
    }

    fn from_integer(_: i64) -> Option<Self> {
        None
    }

    /// None if the type is not a map; then `map` is unused.
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        skip_map(map).map(|()| None)
    }
}

impl FromAny<'_> for String {
    const EXPECTED: &'static str = "a string";

    fn from_str(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl FromAny<'_> for i32 {
    const EXPECTED: &'static str = "a whole number";

    fn from_integer(number: i64) -> Option<Self> {
        number.try_into().ok()
    }
}

impl FromAny<'_> for IntOrString {
    const EXPECTED: &'static str = "a whole number or a string";

    fn from_str(text: &str) -> Option<Self> {
        Some(Self::String(text.to_owned()))
    }

    fn from_integer(number: i64) -> Option<Self> {
        number.try_into().ok().map(Self::Int)
    }
}

from_maps!(Port Endpoint Subset EndpointAddress PodIp NodeAddress Ingress);

impl<'de, T: FromAny<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor(PhantomData))
    }
}

struct LooseVisitor<T>(PhantomData<T>);

impl<'de, T: FromAny<'de>> LooseVisitor<T> {
    fn either(value: Option<T>, written: impl fmt::Display) -> Loose<T> {
        value.map_or_else(|| Loose::Wrong(written.to_string()), Loose::Right)
    }
}

impl<'de, T: FromAny<'de>> Visitor<'de> for LooseVisitor<T> {
    type Value = Loose<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Loose<T>, E> {
        Ok(Self::either(T::from_str(text), format_args!("{text:?}")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Loose<T>, E> {
        Ok(Self::either(T::from_integer(number), number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Loose<T>, E> {
        let value = i64::try_from(number).ok().and_then(T::from_integer);
        Ok(Self::either(value, number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Loose<T>, E> {
        // kubectl writes YAML's 80.0 as JSON's 80.
        let whole = number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        let value = whole.then_some(number as i64).and_then(T::from_integer);
        Ok(Self::either(value, number))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Loose<T>, E> {
        Ok(Loose::Wrong(value.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Loose<T>, E> {
        Ok(Loose::Wrong("null".to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Loose<T>, A::Error> {
        Ok(Self::either(T::from_map(map)?, "a mapping"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Loose<T>, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Wrong("a list".to_owned()))
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}
