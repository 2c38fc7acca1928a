//! The cells of the table as packets, to compare what is said of a packet with what the table says.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::cluster::{Cluster, Try};
use super::services::Place;
use super::table::{Cell, Client, Expected, Seen, Way, Who};
use crate::Protocol;

/// The first packet of a connection of the table.
#[derive(Debug, Clone)]
pub struct TablePacket {
    /// The cell, for messages.
    pub cell: String,
    /// The client's address.
    pub source: IpAddr,
    /// Whether the client is the node itself.
    pub from_node: bool,
    /// The destination.
    pub to: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// What becomes of it.
    pub fate: Fate,
}

/// What the table says of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The client gets an error at once.
    Refused,
    /// The client gets no answer.
    Dropped,
    /// No Service: it reaches the owner of the address.
    Owner,
    /// One of these endpoints gets it.
    Reached {
        /// The endpoints.
        endpoints: BTreeSet<SocketAddr>,
        /// Those that see the node's address.
        masqueraded: BTreeSet<SocketAddr>,
    },
}

impl Cluster<'_> {
    /// The packets of these cells, for every protocol and both families.
    #[must_use]
    pub fn packets(&self, cells: &[Cell]) -> Vec<TablePacket> {
        let tries = self.tries(cells).into_iter();
        tries.map(|one| self.packet(one)).collect()
    }

    fn packet(&self, one: Try) -> TablePacket {
        let Try { cell, family, port } = one;
        let to = cell.service.address(cell.way, family, port);
        let fate = match cell.expected {
            // The node itself refuses: no rule does, and no program listens there.
            Expected::Refused if cell.way == Way::Loopback => Fate::Owner,
            Expected::Refused | Expected::Reset => Fate::Refused,
            Expected::Dropped => Fate::Dropped,
            Expected::Reached {
                who: Who::Owner, ..
            } => Fate::Owner,
            Expected::Reached { who, see, itself } => {
                let places = match who {
                    Who::Local => &[Place::Here][..],
                    _ => cell.service.places(),
                };
                let endpoint =
                    |place: &Place| SocketAddr::new(self.endpoint(*place, family), port.target);
                let own = (cell.from == Client::Itself).then(|| endpoint(&Place::Here));
                let is_masqueraded = |at: &SocketAddr| {
                    let see = if own == Some(*at) { itself } else { see };
                    see == Seen::Node
                };
                let endpoints: BTreeSet<_> = places.iter().map(endpoint).collect();
                Fate::Reached {
                    masqueraded: endpoints.iter().copied().filter(is_masqueraded).collect(),
                    endpoints,
                }
            }
        };
        let source = match cell.way {
            Way::Loopback if cell.from == Client::Node => to.ip(),
            _ => self.source(Seen::Client, one),
        };
        TablePacket {
            cell: format!("{cell}, {} {to}", port.name),
            source,
            from_node: cell.from == Client::Node,
            to,
            protocol: port.protocol,
            fate,
        }
    }
}
