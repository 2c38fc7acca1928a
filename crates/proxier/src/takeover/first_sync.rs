//! Judges whether kube-proxy has completed its first sync on a node. Pure.

use std::mem;
use std::time::{Duration, Instant};

use ipvs::VirtualServerKey;

use super::Presence;

/// How long kube-proxy must have changed nothing to count as synced. In its first sync, it adds the
/// addresses of its virtual servers one by one, without a pause.
const REST: Duration = Duration::from_secs(10);

/// kube-proxy's first sync on a node where svcproxy has virtual servers.
///
/// Before it is complete, those of svcproxy's virtual servers that kube-proxy has not reached yet
/// look like svcproxy's own, and their removal would cut connections.
#[derive(Debug)]
pub struct FirstSync {
    own: Vec<VirtualServerKey>,
    presence: Presence,
    /// When kube-proxy last changed something.
    changed: Instant,
}

impl FirstSync {
    /// `own` are svcproxy's virtual servers.
    pub fn new(mut own: Vec<VirtualServerKey>, presence: Presence, now: Instant) -> Self {
        // kube-proxy has no virtual servers for firewall marks.
        own.retain(|key| matches!(key, VirtualServerKey::Address { .. }));
        Self {
            own,
            presence,
            changed: now,
        }
    }

    /// Records what kube-proxy has now.
    pub fn observe(&mut self, presence: Presence, now: Instant) {
        if mem::replace(&mut self.presence, presence) != self.presence {
            self.changed = now;
        }
    }

    /// Whether it is complete: kube-proxy has all of svcproxy's virtual servers, or has served
    /// Services for some time without a change.
    pub fn is_complete(&self, now: Instant) -> bool {
        let has_all = match &self.presence {
            Presence::Absent => return true,
            Presence::Servers(servers) => self.own.iter().all(|key| servers.has(key)),
            Presence::Rules(_) => false,
        };
        let is_at_rest = now.saturating_duration_since(self.changed) >= REST;
        self.presence.serves() && (has_all || is_at_rest)
    }

    /// What kube-proxy has, as last observed.
    pub fn into_presence(self) -> Presence {
        self.presence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::takeover::leftovers::Record;
    use crate::takeover::{KubeProxyRules, KubeProxyServers};

    const ONE: &str = "10.96.0.1:80";
    const OTHER: &str = "10.96.0.2:80";

    fn key(address: &str) -> VirtualServerKey {
        VirtualServerKey::tcp(address.parse().unwrap())
    }

    fn servers(addresses: &[&str]) -> Presence {
        let vips = addresses.iter().filter_map(|address| match key(address) {
            VirtualServerKey::Address { address, .. } => Some(address),
            _ => None,
        });
        Presence::Servers(KubeProxyServers(Record {
            vips: vips.collect(),
            ..Record::default()
        }))
    }

    fn rules(chains: usize) -> Presence {
        Presence::Rules(KubeProxyRules { chains })
    }

    #[test]
    fn it_is_complete_when_kube_proxy_has_every_virtual_server() {
        let now = Instant::now();
        let mark = VirtualServerKey::firewall_mark(7.try_into().unwrap(), ipvs::Family::V4);
        let own = vec![key(ONE), key(OTHER), mark];
        let mut sync = FirstSync::new(own, servers(&[]), now);
        for (addresses, is_complete) in [(&[][..], false), (&[ONE], false), (&[ONE, OTHER], true)] {
            sync.observe(servers(addresses), now);
            assert_eq!(sync.is_complete(now), is_complete, "{addresses:?}");
        }
    }

    /// A Service may have been deleted while svcproxy was stopped.
    #[test]
    fn it_is_complete_when_kube_proxy_rests() {
        let now = Instant::now();
        let mut sync = FirstSync::new(vec![key(OTHER)], servers(&[ONE]), now);
        assert!(!sync.is_complete(now + REST / 2));
        assert!(sync.is_complete(now + REST));
        let later = now + REST;
        sync.observe(servers(&[ONE, "10.96.0.3:80"]), later);
        assert!(!sync.is_complete(later + REST / 2), "it has gone on");
        sync.observe(servers(&[ONE, "10.96.0.3:80"]), later + REST);
        assert!(sync.is_complete(later + REST));
        for (presence, is_complete) in [(rules(3), true), (rules(0), false)] {
            let sync = FirstSync::new(vec![key(ONE)], presence, now);
            assert!(!sync.is_complete(now));
            assert_eq!(sync.is_complete(now + REST), is_complete);
        }
    }

    #[test]
    fn a_proxy_that_serves_nothing_has_not_synced() {
        let now = Instant::now();
        let sync = FirstSync::new(vec![key(ONE)], servers(&[]), now);
        assert!(!sync.is_complete(now + REST * 100));
        let gone = FirstSync::new(vec![key(ONE)], Presence::Absent, now);
        assert!(gone.is_complete(now));
    }
}
