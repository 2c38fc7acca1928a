//! The way to a rule among many: iptables tries rules one after another, so they hang in trees.
//!
//! Each branch leads to at most sixteen others, so a packet passes some tens of rules where a flat
//! chain would have one for each Service, and a change rewrites those few chains and no others.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use ipvs::{Family, Protocol};

use super::name::Word;
use super::rule::Match;
use super::{Name, Table};
use crate::desired::FrontendKey;
use crate::iptables::name::{HAIRPIN, NODE_PORTS, VIPS};

/// Lengths of prefixes at which IPv4 addresses part. Service CIDRs are of /12 to /20 mostly.
const LEVELS_V4: [u8; 4] = [16, 20, 24, 28];
/// The same for IPv6, where Service CIDRs are of /108 to /120, and addresses of nodes and load
/// balancers mostly differ before that.
const LEVELS_V6: [u8; 6] = [64, 108, 112, 116, 120, 124];
/// How many node ports hang on one branch.
const LEVELS_PORT: [u16; 3] = [4096, 256, 16];

/// A place in a tree.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) table: Table,
    pub(super) root: Word,
    /// What packets match on the way, from the root on.
    pub(super) branches: Vec<Match>,
    /// What packets match at the end.
    pub(super) leaf: Match,
}

impl Place {
    /// Where packets to a frontend come by.
    pub(super) fn of_frontend(table: Table, key: FrontendKey) -> Self {
        let (protocol, port) = (key.protocol, key.port);
        if key.is_node_port() {
            let branches = port_branches(protocol, port);
            let leaf = Match::all().port(protocol, port);
            let root = NODE_PORTS;
            return Self {
                table,
                root,
                branches,
                leaf,
            };
        }
        let leaf = Match::all()
            .destination(key.address.into())
            .port(protocol, port);
        let branches = address_branches(key.address);
        Self {
            table,
            root: VIPS,
            branches,
            leaf,
        }
    }

    /// Where packets of a backend to itself come by.
    pub(super) fn of_hairpin(address: IpAddr) -> Self {
        let itself = IpNet::from(address);
        Self {
            table: Table::Nat,
            root: HAIRPIN,
            branches: address_branches(address),
            leaf: Match::all().source(itself).destination(itself),
        }
    }

    /// The chain that a branch leads to.
    pub(super) fn chain(&self, branch: &Match) -> Name {
        let (root, way) = (Name::of(self.root), branch.as_str());
        Name::hashed(super::name::Class::Branch, format_args!("{root} {way}"))
    }
}

fn address_branches(address: IpAddr) -> Vec<Match> {
    let levels: &[u8] = match Family::of(&address) {
        Family::V4 => &LEVELS_V4,
        Family::V6 => &LEVELS_V6,
    };
    let networks = levels
        .iter()
        .filter_map(|length| IpNet::new(address, *length).ok());
    networks
        .map(|network| Match::all().destination(network))
        .collect()
}

fn port_branches(protocol: Protocol, port: NonZeroU16) -> Vec<Match> {
    let branch = |width: u16| {
        let first = port.get() / width * width;
        Match::all().ports(protocol, &(first..=first + (width - 1)))
    };
    LEVELS_PORT.map(branch).into()
}
