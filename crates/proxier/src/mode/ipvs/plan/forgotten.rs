//! Firewall-mark virtual servers without an ownership record in nftables.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};
use ipvs::{Protocol, RealServerKey, VirtualServer, VirtualServerKey};

use super::NodeState;
use crate::desired::Backend;

/// The upper byte of svcproxy's tags: the protocol number of its routes.
const SVCPROXY: u8 = 73;

/// The tag of firewall-mark virtual servers: it identifies svcproxy and the transport protocol. The
/// mark alone does not: any program may choose the same number, and IPVS knows neither its owner
/// nor its protocol.
pub(super) fn tag(protocol: Protocol) -> u16 {
    let [_, number] = protocol.number().to_be_bytes();
    u16::from_be_bytes([SVCPROXY, number])
}

/// The protocol of a firewall-mark virtual server with svcproxy's tag.
pub(super) fn tagged(server: &VirtualServer) -> Option<Protocol> {
    let [owner, number] = server.tag.to_be_bytes();
    let is_mark = matches!(server.key, VirtualServerKey::FirewallMark { .. });
    (is_mark && owner == SVCPROXY).then(|| Protocol::from_number(number.into()))
}

/// The forgotten virtual servers of a node: they are draining, or another program flushed nftables
/// while svcproxy was stopped.
#[derive(Default)]
pub(super) struct Forgotten {
    servers: BTreeMap<VirtualServerKey, Known>,
    by_real_server: HashMap<RealServerKey, Vec<VirtualServerKey>>,
}

/// A forgotten virtual server.
struct Known {
    protocol: Protocol,
    /// The number of its real servers.
    real_servers: usize,
}

impl Forgotten {
    pub(super) fn of(node: &NodeState) -> Self {
        let mut servers = BTreeMap::new();
        let mut by_real_server = HashMap::<_, Vec<_>>::new();
        for (key, state) in &node.virtual_servers {
            let Some(protocol) = tagged(&state.server).filter(|_| node.frontend_of(key).is_none())
            else {
                continue;
            };
            let real_servers = state.real_servers.len();
            servers.insert(
                *key,
                Known {
                    protocol,
                    real_servers,
                },
            );
            for real_server in &state.real_servers {
                by_real_server
                    .entry(real_server.key)
                    .or_default()
                    .push(*key);
            }
        }
        Self {
            servers,
            by_real_server,
        }
    }

    /// Chooses a virtual server for a frontend with these backends: the one whose real servers
    /// match best, with at least one match, so that its connections continue.
    pub(super) fn adopt(
        &mut self,
        protocol: Protocol,
        backends: &[Backend],
        fits: impl Fn(&VirtualServerKey) -> bool,
    ) -> Option<VirtualServerKey> {
        if self.servers.is_empty() {
            return None;
        }
        let mut common = BTreeMap::<_, usize>::new();
        for backend in backends {
            let key = RealServerKey::new(backend.address, backend.port.get());
            for server in self.by_real_server.get(&key).into_iter().flatten() {
                *common.entry(*server).or_default() += 1;
            }
        }
        let difference = |(key, common): (VirtualServerKey, usize)| {
            let one = self.servers.get(&key)?;
            let fits = one.protocol == protocol && fits(&key);
            fits.then_some((one.real_servers + backends.len() - 2 * common, key))
        };
        let (_, adopted) = common.into_iter().filter_map(difference).min()?;
        self.servers.remove(&adopted);
        Some(adopted)
    }

    /// The virtual servers that no frontend has adopted.
    pub(super) fn left(self) -> impl Iterator<Item = (VirtualServerKey, Protocol)> {
        let left = self.servers.into_iter();
        left.map(|(key, server)| (key, server.protocol))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use ipvs::RealServer;

    use super::*;
    use crate::desired::Place;
    use crate::mode::ipvs::plan::VirtualServerState;

    fn server(key: &str, tag: u16, pods: &[u8]) -> (VirtualServerKey, VirtualServerState) {
        let key = key.parse().unwrap();
        let real_server =
            |pod: &u8| RealServer::new(RealServerKey::new([10, 244, 0, *pod].into(), 80));
        let state = VirtualServerState {
            server: VirtualServer::new(key).with_tag(tag),
            real_servers: pods.iter().map(real_server).collect(),
        };
        (key, state)
    }

    fn backends(pods: &[u8]) -> Vec<Backend> {
        let backend = |pod: &u8| Backend {
            address: [10, 244, 0, *pod].into(),
            port: 80.try_into().unwrap(),
            place: Place::Elsewhere,
            weight: NonZeroU16::MIN,
        };
        pods.iter().map(backend).collect()
    }

    #[test]
    fn the_nearest_of_the_protocol_that_fits_is_adopted() {
        let tcp = tag(Protocol::Tcp);
        let node = NodeState {
            virtual_servers: [
                server("fwmark 1 ipv4", tcp, &[1, 2]),
                server("fwmark 2 ipv4", tcp, &[1]),
                server("fwmark 3 ipv4", tag(Protocol::Udp), &[1]),
                server("fwmark 4 ipv4", 0, &[1]),
                server("fwmark 5 ipv4", tcp, &[9]),
                server("tcp 10.96.0.1:80", tcp, &[1]),
            ]
            .into_iter()
            .collect(),
            ..NodeState::default()
        };
        let mut forgotten = Forgotten::of(&node);
        let mut adopt = |pods: &[u8], fits: bool| {
            let adopted = forgotten.adopt(Protocol::Tcp, &backends(pods), |_| fits);
            adopted.map(|key| key.to_string())
        };
        assert_eq!(adopt(&[1], false), None);
        assert_eq!(adopt(&[7, 8], true), None);
        assert_eq!(adopt(&[1], true), Some("fwmark 2 ipv4".to_owned()));
        assert_eq!(adopt(&[1], true), Some("fwmark 1 ipv4".to_owned()));
        assert_eq!(adopt(&[1], true), None);
        let left: Vec<_> = forgotten.left().map(|(key, _)| key.to_string()).collect();
        assert_eq!(left, ["fwmark 3 ipv4", "fwmark 5 ipv4"]);
    }
}
