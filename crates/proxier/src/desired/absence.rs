//! Why a port of a Service has no endpoints.

use std::fmt;

use ipvs::Family;

use super::Config;
use crate::model::{EndpointSlice, PortName, Protocol, ServicePort};
use crate::store::ServiceView;

/// Maximum number of port names listed.
const MAX_NAMES: usize = 5;

/// Why a port of a Service has no endpoints that this node may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoEndpoints {
    /// The Service has no endpoint slice.
    NoSlice,
    /// All endpoint slices have the other address family.
    OtherFamily,
    /// The endpoint slices contain no endpoints.
    Empty,
    /// No slice has a port of this protocol with the name of the Service's port.
    NoSuchPort {
        /// Protocol of the Service's port.
        protocol: Protocol,
        /// Name of the Service's port.
        wanted: PortName,
        /// Names of the slices' ports of this protocol, at most five.
        found: Box<[PortName]>,
    },
    /// This many endpoints exist, none of them ready.
    NotReady(usize),
    /// This many ready endpoints exist, all with weight 0.
    WithoutWeight(usize),
    /// Traffic policy `Local`: this many endpoints are on other nodes.
    OnOtherNodes(usize),
    /// Traffic policy `Local`: this many endpoints have no node name.
    NodeUnknown(usize),
}

impl NoEndpoints {
    /// Why no endpoint in the slices of this family can be used. `local` limits the search to
    /// endpoints on this node.
    pub(super) fn find(
        view: ServiceView<'_>,
        port: &ServicePort,
        family: Family,
        local: bool,
        config: &Config,
    ) -> Self {
        if view.slices().next().is_none() {
            return Self::NoSlice;
        }
        let slices: Vec<_> = view
            .slices()
            .filter(|slice| slice.family == family)
            .collect();
        if slices.is_empty() {
            return Self::OtherFamily;
        }
        if slices.iter().all(|slice| slice.endpoints.is_empty()) {
            return Self::Empty;
        }
        let has_port = |slice: &&&EndpointSlice| {
            let mut ports = slice.ports.iter();
            ports.any(|target| target.name == port.name && target.protocol == port.protocol)
        };
        let endpoints = slices.iter().filter(has_port);
        let endpoints: Vec<_> = endpoints.flat_map(|slice| &slice.endpoints).collect();
        if endpoints.is_empty() {
            let ports = slices.iter().flat_map(|slice| &slice.ports);
            let names = ports.filter(|target| target.protocol == port.protocol);
            let mut found: Vec<_> = names.map(|target| target.name.clone()).collect();
            found.sort_unstable();
            found.dedup();
            found.truncate(MAX_NAMES);
            return Self::NoSuchPort {
                protocol: port.protocol,
                wanted: port.name.clone(),
                found: found.into(),
            };
        }
        let answers = endpoints.iter().filter(|endpoint| {
            let conditions = endpoint.conditions;
            conditions.ready || (conditions.serving && conditions.terminating)
        });
        let answers: Vec<_> = answers.collect();
        let here = |node: &str| node == &*config.node_name;
        let with_weight = answers.iter().filter(|endpoint| endpoint.weight > 0);
        if with_weight.count() == 0 && !answers.is_empty() {
            return Self::WithoutWeight(answers.len());
        }
        let elsewhere = answers.iter().filter(|endpoint| {
            let node = endpoint.node.as_deref();
            node.is_some_and(|node| !here(node))
        });
        match (answers.len(), elsewhere.count()) {
            (0, _) => Self::NotReady(endpoints.len()),
            (_, count) if local && count > 0 => Self::OnOtherNodes(count),
            (count, _) if local => Self::NodeUnknown(count),
            (_, _) => Self::NotReady(endpoints.len()),
        }
    }
}

impl fmt::Display for NoEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlice => f.write_str("the Service has no endpoint slice"),
            Self::OtherFamily => f.write_str("its endpoint slices have the other address family"),
            Self::Empty => f.write_str("its endpoint slices are empty"),
            Self::NoSuchPort {
                protocol,
                wanted,
                found,
            } => {
                write!(f, "its endpoint slices have no {protocol} port ")?;
                match wanted.is_unnamed() {
                    true => f.write_str("without a name")?,
                    false => write!(f, "named {wanted:?}")?,
                }
                for (index, name) in found.iter().enumerate() {
                    f.write_str(if index == 0 { ", only: " } else { ", " })?;
                    match name.is_unnamed() {
                        true => f.write_str("unnamed")?,
                        false => write!(f, "{name:?}")?,
                    }
                }
                Ok(())
            }
            Self::NotReady(count) => write!(f, "{count} not ready"),
            Self::WithoutWeight(count) => write!(f, "{count} with weight 0"),
            Self::OnOtherNodes(count) => write!(f, "{count} on other nodes"),
            Self::NodeUnknown(count) => write!(f, "{count} without a node name"),
        }
    }
}
