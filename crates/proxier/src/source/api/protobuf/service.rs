//! Services.

use std::collections::BTreeMap;

use prost::Message;

use super::super::{self as api, IntOrString, Loose};
use super::{Metadata, all, filled, filled_number, filled_text, whole};

#[derive(Message)]
pub(in crate::source) struct Service {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<ServiceStatus>,
}

#[derive(Message)]
struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    ports: Vec<ServicePort>,
    #[prost(btree_map = "string, string", tag = "2")]
    selector: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    cluster_ip: String,
    #[prost(string, tag = "4")]
    type_: String,
    #[prost(string, repeated, tag = "5")]
    external_ips: Vec<String>,
    #[prost(string, tag = "7")]
    session_affinity: String,
    #[prost(string, repeated, tag = "9")]
    load_balancer_source_ranges: Vec<String>,
    #[prost(string, tag = "10")]
    external_name: String,
    #[prost(string, tag = "11")]
    external_traffic_policy: String,
    #[prost(int32, tag = "12")]
    health_check_node_port: i32,
    #[prost(bool, tag = "13")]
    publish_not_ready_addresses: bool,
    #[prost(message, optional, tag = "14")]
    session_affinity_config: Option<SessionAffinityConfig>,
    #[prost(string, optional, tag = "17")]
    ip_family_policy: Option<String>,
    #[prost(string, repeated, tag = "18")]
    cluster_ips: Vec<String>,
    #[prost(string, repeated, tag = "19")]
    ip_families: Vec<String>,
    #[prost(string, optional, tag = "22")]
    internal_traffic_policy: Option<String>,
    #[prost(string, optional, tag = "23")]
    traffic_distribution: Option<String>,
}

#[derive(Message)]
struct ServicePort {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    protocol: String,
    #[prost(int32, tag = "3")]
    port: i32,
    #[prost(message, optional, tag = "4")]
    target_port: Option<TargetPort>,
    #[prost(int32, tag = "5")]
    node_port: i32,
}

/// `IntOrString`.
#[derive(Message)]
struct TargetPort {
    /// 0 for a number, 1 for a string.
    #[prost(int64, tag = "1")]
    type_: i64,
    #[prost(int32, tag = "2")]
    number: i32,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Message)]
struct SessionAffinityConfig {
    #[prost(message, optional, tag = "1")]
    client_ip: Option<ClientIpConfig>,
}

#[derive(Message)]
struct ClientIpConfig {
    #[prost(int32, optional, tag = "1")]
    timeout_seconds: Option<i32>,
}

#[derive(Message)]
struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    load_balancer: Option<LoadBalancerStatus>,
}

#[derive(Message)]
struct LoadBalancerStatus {
    #[prost(message, repeated, tag = "1")]
    ingress: Vec<Ingress>,
}

#[derive(Message)]
struct Ingress {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(string, optional, tag = "3")]
    ip_mode: Option<String>,
}

impl From<Service> for api::Service {
    fn from(service: Service) -> Self {
        Self {
            metadata: whole(service.metadata),
            spec: service.spec.map(Into::into),
            status: whole(service.status),
        }
    }
}

impl From<ServiceSpec> for api::ServiceSpec {
    fn from(spec: ServiceSpec) -> Self {
        Self {
            type_: filled(spec.type_),
            cluster_ip: filled_text(spec.cluster_ip),
            cluster_ips: all(spec.cluster_ips),
            ip_families: spec.ip_families,
            ip_family_policy: spec.ip_family_policy,
            ports: all(spec.ports),
            selector: spec.selector,
            external_ips: all(spec.external_ips),
            load_balancer_source_ranges: all(spec.load_balancer_source_ranges),
            session_affinity: filled(spec.session_affinity),
            session_affinity_config: spec.session_affinity_config.map(Into::into),
            internal_traffic_policy: spec.internal_traffic_policy,
            external_traffic_policy: filled(spec.external_traffic_policy),
            health_check_node_port: filled_number(spec.health_check_node_port),
            traffic_distribution: spec.traffic_distribution,
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
            external_name: filled_text(spec.external_name),
        }
    }
}

impl From<ServicePort> for api::Port {
    fn from(port: ServicePort) -> Self {
        let target = port.target_port.map(|target| match target.type_ {
            0 => IntOrString::Int(target.number),
            _ => IntOrString::String(target.name),
        });
        Self {
            name: filled_text(port.name),
            protocol: filled_text(port.protocol),
            // JSON has the number of a port even if it is 0.
            port: Some(Loose::Right(port.port)),
            target_port: target.map(Loose::Right),
            node_port: filled_number(port.node_port),
            container_port: None,
        }
    }
}

impl From<SessionAffinityConfig> for api::SessionAffinityConfig {
    fn from(config: SessionAffinityConfig) -> Self {
        let client_ip = config.client_ip.map(|config| api::ClientIpConfig {
            timeout_seconds: config.timeout_seconds,
        });
        Self { client_ip }
    }
}

impl From<ServiceStatus> for api::ServiceStatus {
    fn from(status: ServiceStatus) -> Self {
        let load_balancer = status.load_balancer.unwrap_or_default();
        Self {
            load_balancer: api::LoadBalancerStatus {
                ingress: all(load_balancer.ingress),
            },
        }
    }
}

impl From<Ingress> for api::Ingress {
    fn from(ingress: Ingress) -> Self {
        Self {
            ip: filled_text(ingress.ip),
            ip_mode: ingress.ip_mode.map(Loose::Right),
        }
    }
}
