//! Nodes and ServiceCIDRs.

use prost::Message;

use super::super::{self as api, Loose};
use super::{Metadata, all, filled_text, whole};

#[derive(Message)]
pub(in crate::source) struct Node {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    spec: Option<NodeSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<NodeStatus>,
}

#[derive(Message)]
struct NodeSpec {
    #[prost(string, tag = "1")]
    pod_cidr: String,
    #[prost(message, repeated, tag = "5")]
    taints: Vec<Taint>,
    #[prost(string, repeated, tag = "7")]
    pod_cidrs: Vec<String>,
}

#[derive(Message)]
struct Taint {
    #[prost(string, tag = "1")]
    key: String,
}

#[derive(Message)]
struct NodeStatus {
    #[prost(message, repeated, tag = "5")]
    addresses: Vec<NodeAddress>,
}

#[derive(Message)]
struct NodeAddress {
    #[prost(string, tag = "1")]
    type_: String,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Message)]
pub(in crate::source) struct ServiceCidr {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ServiceCidrSpec>,
}

#[derive(Message)]
struct ServiceCidrSpec {
    #[prost(string, repeated, tag = "1")]
    cidrs: Vec<String>,
}

impl From<Node> for api::Node {
    fn from(node: Node) -> Self {
        Self {
            metadata: whole(node.metadata),
            spec: whole(node.spec),
            status: whole(node.status),
        }
    }
}

impl From<NodeSpec> for api::NodeSpec {
    fn from(spec: NodeSpec) -> Self {
        let taints = spec.taints.into_iter();
        Self {
            pod_cidr: filled_text(spec.pod_cidr),
            pod_cidrs: all(spec.pod_cidrs),
            taints: taints.map(|Taint { key }| api::Taint { key }).collect(),
        }
    }
}

impl From<NodeStatus> for api::NodeStatus {
    fn from(status: NodeStatus) -> Self {
        Self {
            addresses: all(status.addresses),
        }
    }
}

impl From<NodeAddress> for api::NodeAddress {
    fn from(NodeAddress { type_, address }: NodeAddress) -> Self {
        Self {
            type_,
            // JSON has it even if it is empty.
            address: Some(Loose::Right(address)),
        }
    }
}

impl From<ServiceCidr> for api::ServiceCidr {
    fn from(object: ServiceCidr) -> Self {
        let ServiceCidrSpec { cidrs } = object.spec.unwrap_or_default();
        Self {
            metadata: whole(object.metadata),
            spec: api::ServiceCidrSpec { cidrs: all(cidrs) },
        }
    }
}
