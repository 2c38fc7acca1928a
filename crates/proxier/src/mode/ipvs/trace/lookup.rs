//! Lookups of a packet in the sets.

use std::num::NonZeroU32;

use ipnet::IpNet;
use ipvs::Family;

use crate::mode::ipvs::plan::{Audience, Comment, Element, Elements, Purpose};
use crate::mode::ipvs::rules::Set;
use crate::mode::trace::Packet;

/// The sets of a node.
pub(super) struct Lookup<'a> {
    elements: &'a Elements,
    /// Networks, which are few; finding them takes a walk through all elements.
    service_cidrs: Vec<IpNet>,
    node_port_addresses: Vec<IpNet>,
}

/// An element that matches, with its mark if it is in a map.
pub(super) struct Found {
    pub(super) comment: Comment,
    pub(super) mark: Option<NonZeroU32>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(elements: &'a Elements) -> Self {
        let mut all = Self {
            elements,
            service_cidrs: Vec::new(),
            node_port_addresses: Vec::new(),
        };
        for element in elements.keys() {
            match element {
                Element::ServiceCidr(network) => all.service_cidrs.push(*network),
                Element::NodePortAddresses(network) => all.node_port_addresses.push(*network),
                _ => {}
            }
        }
        all
    }

    /// The element of a set that a packet matches.
    pub(super) fn find(&self, set: Set, packet: &Packet) -> Option<Found> {
        let (key, node_port) = (packet.key(), packet.node_port());
        let element = match set {
            Set::VirtualServers(_) => Element::VirtualServer(key),
            Set::NoEndpoints(_) => Element::NoEndpoints(key),
            Set::NoEndpointsNodePorts(_) => Element::NoEndpoints(node_port),
            Set::Hairpin(_) if packet.source == packet.destination => {
                Element::Hairpin(packet.source)
            }
            Set::Hairpin(_) => return None,
            Set::ServiceCidrs(family) => return in_network(&self.service_cidrs, family, packet),
            Set::NodePortAddresses(family) => {
                return in_network(&self.node_port_addresses, family, packet);
            }
            Set::NodePorts(_) => self.marked(node_port, Purpose::NodePort)?,
            Set::ExternalNodePorts(_) => self.marked(node_port, Purpose::External)?,
            Set::External(_) => self.marked(key, Purpose::External)?,
            Set::Captured(_) => self.marked(key, Purpose::Capture)?,
            Set::CapturedAddresses(_) => Element::CapturedAddress(packet.destination),
            Set::Restricted(_) => Element::Restricted(key),
            // A network takes its length from the statement.
            Set::SourceRanges(_) => return None,
            Set::Dropped(_) => Element::Dropped(key, Audience::All),
            Set::DroppedExternal(_) => Element::Dropped(key, Audience::External),
            Set::DroppedExternalNodePorts(_) => Element::Dropped(node_port, Audience::External),
            Set::HealthChecks(family) if packet.protocol == ipvs::Protocol::Tcp => {
                Element::HealthCheck(family, packet.port)
            }
            Set::HealthChecks(_) => return None,
        };
        let comment = self.elements.get(&element)?.clone();
        let mark = match element {
            Element::Mark { mark, .. } => Some(mark),
            _ => None,
        };
        Some(Found { comment, mark })
    }

    /// Whether the network of the source, of this length, is among the source ranges.
    pub(super) fn is_in_range(&self, packet: &Packet, length: u8) -> bool {
        let network = IpNet::new(packet.source, length).map(|network| network.trunc());
        network.is_ok_and(|network| {
            let element = Element::SourceRange(packet.key(), network);
            self.elements.contains(&element)
        })
    }

    fn marked(&self, key: crate::desired::FrontendKey, purpose: Purpose) -> Option<Element> {
        let mark = self.elements.mark(key, purpose)?;
        Some(Element::Mark { key, purpose, mark })
    }
}

fn in_network(networks: &[IpNet], family: Family, packet: &Packet) -> Option<Found> {
    let mut networks = networks.iter();
    let of_family = |network: &IpNet| Family::of(&network.addr()) == family;
    networks
        .any(|network| of_family(network) && network.contains(&packet.destination))
        .then_some(Found {
            comment: None,
            mark: None,
        })
}
