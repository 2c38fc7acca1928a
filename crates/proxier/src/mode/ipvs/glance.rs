//! A cheap look at all real servers: what `/proc/net/ip_vs` shows of them.
//!
//! Listing real servers over netlink takes a request for each virtual server. The file shows all of
//! them at some tenth of that cost, but not their thresholds, the kind of a tunnel, and the family of
//! a firewall mark. So an audit uses it to find the virtual servers that look as they should, and
//! lists the others over netlink, and some of the first ones in turns.

use std::hash::BuildHasher as _;

use foldhash::HashSet;
use foldhash::fast::FixedState;
use ipvs::VirtualServerKey;

#[cfg(feature = "ipvs")]
pub(crate) use shown::ShownForwarding;
#[cfg(any(feature = "ipvs", feature = "testing", test))]
pub(crate) use shown::{Shown, ShownRealServer, ShownServer};

/// The virtual servers that a look has found to be as known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Glance {
    /// Those whose real servers look as known: addresses, ports, weights and forwarding methods.
    pub right: Vec<VirtualServerKey>,
    /// Whether there is nothing more to look at.
    pub is_last: bool,
}

impl Glance {
    /// A part of a look, or its end.
    pub fn new(right: Vec<VirtualServerKey>, is_last: bool) -> Self {
        Self { right, is_last }
    }
}

/// Which virtual servers an audit lists although they look right: each is listed once in as many
/// audits as there are slices of them.
#[derive(Debug, Default)]
pub(super) struct Turns(u64);

impl Turns {
    /// Those whose turn it is.
    pub(super) fn take(
        &mut self,
        all: &HashSet<VirtualServerKey>,
        slice: usize,
    ) -> Vec<VirtualServerKey> {
        let turns = u64::try_from(all.len().div_ceil(slice.max(1)).max(1)).unwrap_or(u64::MAX);
        self.0 = self.0.wrapping_add(1);
        let turn = self.0 % turns;
        let hasher = FixedState::default();
        let mut taken: Vec<_> = all.iter().copied().collect();
        taken.retain(|key| hasher.hash_one(key) % turns == turn);
        taken
    }
}

#[cfg(any(feature = "ipvs", feature = "testing", test))]
mod shown {
    use std::num::NonZeroU32;

    use foldhash::HashMap;
    use ipvs::{Family, Forwarding, RealServer, RealServerKey, VirtualServerKey};

    use crate::mode::ipvs::plan::VirtualServerState;

    /// A virtual server with its real servers, as shown.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct Shown {
        pub(crate) server: ShownServer,
        pub(crate) real_servers: Vec<ShownRealServer>,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum ShownServer {
        Address(VirtualServerKey),
        /// Its family is not shown.
        Mark(NonZeroU32),
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct ShownRealServer {
        pub(crate) key: RealServerKey,
        pub(crate) weight: u32,
        pub(crate) forwarding: ShownForwarding,
    }

    /// A forwarding method, without the kind of a tunnel.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) enum ShownForwarding {
        Masquerade,
        LocalNode,
        Tunnel,
        DirectRouting,
        Other,
    }

    impl From<Forwarding> for ShownForwarding {
        fn from(forwarding: Forwarding) -> Self {
            match forwarding {
                Forwarding::Masquerade => Self::Masquerade,
                Forwarding::LocalNode => Self::LocalNode,
                Forwarding::Tunnel(_) => Self::Tunnel,
                Forwarding::DirectRouting => Self::DirectRouting,
                _ => Self::Other,
            }
        }
    }

    impl From<&RealServer> for ShownRealServer {
        fn from(real_server: &RealServer) -> Self {
            Self {
                key: real_server.key,
                weight: real_server.weight,
                forwarding: real_server.forwarding.into(),
            }
        }
    }

    impl Shown {
        /// The key of the virtual server, if its real servers look as known.
        pub(crate) fn as_known(
            &mut self,
            known: &HashMap<VirtualServerKey, VirtualServerState>,
        ) -> Option<VirtualServerKey> {
            self.real_servers.sort_unstable();
            let is_as_known = |key: &VirtualServerKey| {
                let known = known.get(key).map(|state| state.real_servers.iter());
                let known = known.map(|known| known.map(ShownRealServer::from));
                known.is_some_and(|known| known.eq(self.real_servers.iter().copied()))
            };
            match self.server {
                ShownServer::Address(key) => Some(key).filter(is_as_known),
                // Without a real server, it may be that of either family.
                ShownServer::Mark(mark) => {
                    let family = Family::of(&self.real_servers.first()?.key.address);
                    Some(VirtualServerKey::firewall_mark(mark, family)).filter(is_as_known)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_has_its_turn_once() {
        for count in [0_u16, 1, 63, 64, 65, 1_000] {
            let all: HashSet<_> = (0..count)
                .map(|n| VirtualServerKey::tcp(([10, 96, 0, 1], n + 1).into()))
                .collect();
            let audits = usize::from(count).div_ceil(64).max(1);
            let mut turns = Turns::default();
            let mut taken = BTreeMap::<_, usize>::new();
            for _ in 0..3 * audits {
                for key in turns.take(&all, 64) {
                    *taken.entry(key).or_default() += 1;
                }
            }
            assert_eq!(taken.len(), all.len());
            assert!(taken.values().all(|times| *times == 3), "{taken:?}");
        }
    }
}
