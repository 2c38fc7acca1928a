//! One step of a plan.

use std::fmt;

use ipvs::{Change, VirtualServerKey};

use super::{Comment, Element, LocalRoute, PolicyRoute};
use crate::mode::ipvs::rules::Ruleset;
use crate::mode::{Flows, StepKind, Sysctl};

/// One change of the node's state. Plans make all choices; a `Kernel` only executes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Set a sysctl.
    SetSysctl(Sysctl, u32),
    /// Replace the rules of svcproxy's table; set elements stay.
    InstallRuleset(Ruleset),
    /// Add an element to a set.
    AddElement(Element, Comment),
    /// Delete an element from a set.
    DeleteElement(Element),
    /// Add a `local` route before those of other programs, or replace svcproxy's route of the same
    /// prefix.
    AddRoute(LocalRoute),
    /// Delete a `local` route of svcproxy.
    DeleteRoute(LocalRoute),
    /// Deliver packets with a mark to this node.
    AddPolicyRoute(PolicyRoute),
    /// Stop delivering them.
    DeletePolicyRoute(PolicyRoute),
    /// Change IPVS.
    Ipvs(Change),
    /// Delete stale flows from connection tracking.
    DeleteFlows(Flows),
}

/// A part of the node. Consecutive steps for one part can be executed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// Sysctls.
    Sysctls,
    /// nftables rules and sets.
    PacketFilter,
    /// Routes.
    Routes,
    /// IPVS.
    Ipvs,
    /// Connection tracking.
    Conntrack,
}

impl Step {
    /// What it changes.
    pub(crate) const fn kind(&self) -> StepKind {
        match self {
            Self::SetSysctl(..) => StepKind::Sysctl,
            Self::InstallRuleset(_) => StepKind::Rules,
            Self::AddElement(..) | Self::DeleteElement(_) => StepKind::Element,
            Self::AddRoute(_)
            | Self::DeleteRoute(_)
            | Self::AddPolicyRoute(_)
            | Self::DeletePolicyRoute(_) => StepKind::Route,
            Self::Ipvs(
                Change::AddRealServer { .. }
                | Change::UpdateRealServer { .. }
                | Change::DeleteRealServer { .. },
            ) => StepKind::RealServer,
            Self::Ipvs(Change::SetTimeouts(_)) => StepKind::IpvsTimeouts,
            Self::Ipvs(_) => StepKind::VirtualServer,
            Self::DeleteFlows(_) => StepKind::Flows,
        }
    }

    /// The part of the node that it changes.
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

    /// The virtual server of this step, if any.
    ///
    /// After a failed step, later steps for the same virtual server in other parts of the node must
    /// be skipped: a virtual server that could not be recorded in nftables must not be created, and
    /// one that could not be deleted stays recorded.
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
