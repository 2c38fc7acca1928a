//! The API's objects in Protocol Buffers, with only the fields that svcproxy reads.
//!
//! Unknown fields, `managedFields` among them, are skipped without being kept. Numbers and types are
//! those of the `generated.proto` files in k8s.io/api and k8s.io/apimachinery.
//!
//! The API server writes an empty value for an absent one, unless the field is a pointer in Go. JSON
//! leaves out both. So a field that is a pointer in Go is optional here, and an empty value of any
//! other counts as absent: the result is what the JSON of the same object gives.

mod node;
mod service;
mod slice;

use std::collections::BTreeMap;

use prost::Message;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Annotations, EndpointSlice, Loose, Node, Seconds, Service, ServiceCidr, annotation};

/// An object that a server sends in either encoding.
pub(in crate::source) trait Object:
    DeserializeOwned + From<Self::Message>
{
    /// Its form in Protocol Buffers.
    type Message: Message + Default;
}

impl Object for Service {
    type Message = service::Service;
}

impl Object for EndpointSlice {
    type Message = slice::EndpointSlice;
}

impl Object for Node {
    type Message = node::Node;
}

impl Object for ServiceCidr {
    type Message = node::ServiceCidr;
}

#[derive(Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(message, optional, tag = "8")]
    creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    deletion_timestamp: Option<Time>,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
}

/// A time without seconds is none: an absent time that is not a pointer is an empty message.
#[derive(Message)]
struct Time {
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
}

/// A string that is absent if it is empty.
fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn filled_text(text: String) -> Option<Loose<String>> {
    filled(text).map(Loose::Right)
}

fn filled_number(number: i32) -> Option<Loose<i32>> {
    (number != 0).then_some(Loose::Right(number))
}

fn all<A, B: From<A>>(items: Vec<A>) -> Vec<Loose<B>> {
    let items = items.into_iter().map(|item| Loose::Right(item.into()));
    items.collect()
}

/// An absent message is an empty one.
fn whole<A: Default, B: From<A>>(message: Option<A>) -> B {
    message.unwrap_or_default().into()
}

impl From<Metadata> for super::Metadata {
    fn from(metadata: Metadata) -> Self {
        let seconds = metadata.creation_timestamp.and_then(|time| time.seconds);
        Self {
            name: filled(metadata.name),
            namespace: filled(metadata.namespace),
            uid: filled(metadata.uid),
            resource_version: filled_text(metadata.resource_version),
            labels: metadata.labels,
            annotations: known(metadata.annotations),
            creation_timestamp: seconds.map(|seconds| Loose::Right(Seconds(seconds))),
            deletion_timestamp: metadata.deletion_timestamp.map(|_| IgnoredAny),
        }
    }
}

fn known(annotations: BTreeMap<String, String>) -> Annotations {
    let known = annotations.into_iter().filter_map(|(key, value)| {
        let known = annotation::ALL.into_iter().find(|known| *known == key);
        Some((known?, value))
    });
    Annotations(known.collect())
}

#[cfg(test)]
mod tests;
