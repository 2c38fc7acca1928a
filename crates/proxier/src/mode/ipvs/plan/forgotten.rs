//! Virtual servers of marks that the packet filter says nothing of.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};
use ipvs::{Protocol, RealServerKey, VirtualServer, VirtualServerKey};

use super::NodeState;
use crate::desired::Backend;

/// The upper byte of our tags, the number that our routes have for their protocol.
const OURS: u8 = 73;

/// What virtual servers of marks are tagged with: that they are ours, and whose packets they take.
/// A mark is a number that anyone may choose, and IPVS knows neither for whom it is nor for which
/// protocol.
pub(super) fn tag(protocol: Protocol) -> u16 {
    let [_, number] = protocol.number().to_be_bytes();
    u16::from_be_bytes([OURS, number])
}

/// The protocol of a virtual server of a mark that is ours by its tag.
pub(super) fn tagged(server: &VirtualServer) -> Option<Protocol> {
    let [owner, number] = server.tag.to_be_bytes();
    let is_mark = matches!(server.key, VirtualServerKey::FirewallMark { .. });
    (is_mark && owner == OURS).then(|| Protocol::from_number(number.into()))
}

/// Those of a node. Either they are leaving, or somebody has emptied the packet filter while
/// nobody was there to remember.
#[derive(Default)]
pub(super) struct Forgotten {
    servers: BTreeMap<VirtualServerKey, Known>,
    by_real_server: HashMap<RealServerKey, Vec<VirtualServerKey>>,
}

/// What is known of one.
struct Known {
    protocol: Protocol,
    /// How many it has.
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

    /// Takes one for a frontend with these backends: the one whose real servers they are most nearly,
    /// and not without any of them, so that connections go on.
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

    /// Those that nobody has adopted.
    pub(super) fn left(self) -> impl Iterator<Item = (VirtualServerKey, Protocol)> {
        let left = self.servers.into_iter();
        left.map(|(key, server)| (key, server.protocol))
    }
}

#[cfg(test)]
mod tests {
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
