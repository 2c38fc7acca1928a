//! Trees of rules, because iptables tries the rules of a chain one after another.
//!
//! Each branch jumps to at most sixteen others. So a packet passes some tens of rules instead of
//! one for each Service, and a change rewrites only a few chains.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::name::Word;
use super::rule::Match;
use super::{Name, Table};
use crate::desired::FrontendKey;
use crate::mode::iptables::name::{HAIRPIN, NODE_PORTS, VIPS};

/// Prefix lengths of the levels for IPv4. Most Service CIDRs have /12 to /20.
const LEVELS_V4: [u8; 4] = [16, 20, 24, 28];
/// Prefix lengths of the levels for IPv6. Service CIDRs have /108 to /120, and addresses of nodes
/// and load balancers mostly differ in earlier bits.
const LEVELS_V6: [u8; 6] = [64, 108, 112, 116, 120, 124];
/// Number of node ports on one branch of each level.
const LEVELS_PORT: [u16; 3] = [4096, 256, 16];

/// A place in a tree.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) table: Table,
    pub(super) root: Word,
    way: Way,
    /// The match of the leaf.
    pub(super) leaf: Match,
}

/// The property by which branches divide packets.
#[derive(Debug, Clone, Copy)]
enum Way {
    Destination(IpAddr),
    Port(Protocol, NonZeroU16),
}

impl Place {
    /// The place of a frontend.
    pub(super) fn of_frontend(table: Table, key: FrontendKey) -> Self {
        let (protocol, port) = (key.protocol, key.port);
        if key.is_node_port() {
            return Self {
                table,
                root: NODE_PORTS,
                way: Way::Port(protocol, port),
                leaf: Match::all().port(protocol, port),
            };
        }
        let destination = Match::all().destination(key.address.into());
        Self {
            table,
            root: VIPS,
            way: Way::Destination(key.address),
            leaf: destination.port(protocol, port),
        }
    }

    /// The place of a backend's connections to itself.
    pub(super) fn of_hairpin(address: IpAddr) -> Self {
        let itself = IpNet::from(address);
        Self {
            table: Table::Nat,
            root: HAIRPIN,
            way: Way::Destination(address),
            leaf: Match::all().source(itself).destination(itself),
        }
    }

    /// The matches of the branches, from the leaf to the root.
    pub(super) fn branches(&self) -> Box<dyn Iterator<Item = Match>> {
        match self.way {
            Way::Destination(address) => {
                let levels: &[u8] = match Family::of(&address) {
                    Family::V4 => &LEVELS_V4,
                    Family::V6 => &LEVELS_V6,
                };
                let networks = levels.iter().rev();
                let networks = networks.filter_map(move |length| IpNet::new(address, *length).ok());
                Box::new(networks.map(|network| Match::all().destination(network)))
            }
            Way::Port(protocol, port) => Box::new(LEVELS_PORT.iter().rev().map(move |width| {
                let first = port.get() / width * width;
                Match::all().ports(protocol, &(first..=first + (width - 1)))
            })),
        }
    }

    /// The chain that a branch jumps to.
    pub(super) fn chain(&self, branch: &Match) -> Name {
        let (root, way) = (Name::of(self.root), branch.as_str());
        Name::hashed(super::name::Class::Branch, format_args!("{root} {way}"))
    }
}
