//! Endpoint slices.

use prost::Message;

use super::super::{self as api, Loose};
use super::{Metadata, all, whole};

#[derive(Message)]
pub(in crate::source) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Endpoint>,
    #[prost(message, repeated, tag = "3")]
    ports: Vec<EndpointPort>,
    #[prost(string, tag = "4")]
    address_type: String,
}

#[derive(Message)]
struct Endpoint {
    #[prost(string, repeated, tag = "1")]
    addresses: Vec<String>,
    #[prost(message, optional, tag = "2")]
    conditions: Option<Conditions>,
    #[prost(string, optional, tag = "3")]
    hostname: Option<String>,
    #[prost(string, optional, tag = "6")]
    node_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    zone: Option<String>,
    #[prost(message, optional, tag = "8")]
    hints: Option<Hints>,
}

#[derive(Message)]
struct Conditions {
    #[prost(bool, optional, tag = "1")]
    ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    terminating: Option<bool>,
}

#[derive(Message)]
struct Hints {
    #[prost(message, repeated, tag = "1")]
    for_zones: Vec<Named>,
    #[prost(message, repeated, tag = "2")]
    for_nodes: Vec<Named>,
}

#[derive(Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Message)]
struct EndpointPort {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    protocol: Option<String>,
    #[prost(int32, optional, tag = "3")]
    port: Option<i32>,
}

impl From<EndpointSlice> for api::EndpointSlice {
    fn from(slice: EndpointSlice) -> Self {
        Self {
            metadata: whole(slice.metadata),
            address_type: slice.address_type,
            ports: all(slice.ports),
            endpoints: all(slice.endpoints),
        }
    }
}

impl From<Endpoint> for api::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        let conditions = endpoint.conditions.unwrap_or_default();
        Self {
            addresses: all(endpoint.addresses),
            conditions: api::Conditions {
                ready: conditions.ready,
                serving: conditions.serving,
                terminating: conditions.terminating,
            },
            hostname: endpoint.hostname.map(Loose::Right),
            node_name: endpoint.node_name.map(Loose::Right),
            zone: endpoint.zone.map(Loose::Right),
            hints: endpoint.hints.map(Into::into),
        }
    }
}

impl From<Hints> for api::Hints {
    fn from(hints: Hints) -> Self {
        let named = |names: Vec<Named>| {
            let names = names.into_iter();
            names.map(|Named { name }| api::Named { name }).collect()
        };
        Self {
            for_zones: named(hints.for_zones),
            for_nodes: named(hints.for_nodes),
        }
    }
}

impl From<EndpointPort> for api::Port {
    fn from(port: EndpointPort) -> Self {
        Self {
            name: port.name.map(Loose::Right),
            protocol: port.protocol.map(Loose::Right),
            port: port.port.map(Loose::Right),
            ..Self::default()
        }
    }
}
