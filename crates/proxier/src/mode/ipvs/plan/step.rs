//! One step of a plan.

use std::fmt;

use ipvs::{Change, VirtualServerKey};

use super::{Comment, Element, Flows, LocalRoute, PolicyRoute, Sysctl};
use crate::mode::ipvs::rules::Ruleset;

/// One change of the node's state. Each backend call is decided here; a backend only carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Set a sysctl.
    SetSysctl(Sysctl, u32),
    /// Put our packet-filter rules in place of whatever our table holds; set elements stay.
    InstallRuleset(Ruleset),
    /// Add an element to a set of our table.
    AddElement(Element, Comment),
    /// Remove an element from a set of our table.
    DeleteElement(Element),
    /// Add a route with our protocol number, in place of one of ours to the same prefix.
    AddRoute(LocalRoute),
    /// Remove a route with our protocol number.
    DeleteRoute(LocalRoute),
    /// Deliver packets of a mark to this node.
    AddPolicyRoute(PolicyRoute),
    /// Do so no more.
    DeletePolicyRoute(PolicyRoute),
    /// Change IPVS.
    Ipvs(Change),
    /// Make connection tracking forget flows that would go on as they were.
    DeleteFlows(Flows),
}

/// A part of the node. Steps for one part that follow one another can be taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// Sysctls.
    Sysctls,
    /// The packet filter's rules and sets.
    PacketFilter,
    /// Routes.
    Routes,
    /// IPVS.
    Ipvs,
    /// Connection tracking.
    Conntrack,
}

impl Step {
    /// The part of the node it changes.
    pub fn part(&self) -> Part {
        match self {
            Self::SetSysctl(..) => Part::Sysctls,
            Self::InstallRuleset(_) | Self::AddElement(..) | Self::DeleteElement(_) => {
                Part::PacketFilter
            }
            Self::AddRoute(_)
            | Self::DeleteRoute(_)
            | Self::AddPolicyRoute(_)
            | Self::DeletePolicyRoute(_) => Part::Routes,
            Self::Ipvs(_) => Part::Ipvs,
            Self::DeleteFlows(_) => Part::Conntrack,
        }
    }

    /// The virtual server this step is for, if it is for one.
    ///
    /// When a step fails, the steps for the same virtual server that come after it in another
    /// part of the node must not be taken: a virtual server whose record in the packet filter
    /// could not be made must not be made either, and one that could not be deleted stays
    /// recorded.
    pub fn virtual_server(&self) -> Option<VirtualServerKey> {
        match self {
            Self::AddElement(element, _) | Self::DeleteElement(element) => element.recorded(),
            Self::Ipvs(change) => change.virtual_server(),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl(sysctl, value) => write!(f, "set sysctl {sysctl} = {value}"),
            Self::InstallRuleset(_) => write!(f, "install packet-filter rules"),
            Self::AddElement(element, None) => write!(f, "add element {element}"),
            Self::AddElement(element, Some(comment)) => {
                write!(f, "add element {element} ({comment})")
            }
            Self::DeleteElement(element) => write!(f, "delete element {element}"),
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::DeleteRoute(route) => write!(f, "delete route {route}"),
            Self::AddPolicyRoute(route) => write!(f, "add policy route {route}"),
            Self::DeletePolicyRoute(route) => write!(f, "delete policy route {route}"),
            Self::Ipvs(change) => change.fmt(f),
            Self::DeleteFlows(flows) => write!(f, "delete flows {flows}"),
        }
    }
}
