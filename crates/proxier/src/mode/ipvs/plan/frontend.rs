//! Plans one frontend.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipvs::{
    Change, Flags, Protocol, RealServer, RealServerKey, Scheduler, VirtualServer, VirtualServerKey,
};

use super::diff::Builder;
use super::lower::{elements, virtual_server};
use super::{Audience, Comment, Element, Purpose, Step, VirtualServerState};
use crate::desired::{Frontend, FrontendKey};
use crate::hash::{fnv1a, spread};
use crate::mode::Flows;

/// Whether connections of a protocol drain. UDP does not: a sender would not notice that it must
/// reconnect, so a flow has no end that could be waited for.
pub(crate) fn drains(protocol: Protocol) -> bool {
    protocol != Protocol::Udp
}

impl Builder<'_> {
    /// Plans everything of one address and port.
    pub(super) fn frontend(&mut self, key: FrontendKey) {
        let frontend = self.desired.frontend(&key).map(Arc::clone);
        let comment = || {
            frontend
                .as_ref()
                .map(|f| f.owner.to_text(&mut String::new()))
        };
        self.filter_elements(key, frontend.as_deref(), comment);
        if let Some(server) = key.virtual_server() {
            let backends = frontend.as_ref().map(|f| &f.backends);
            let after = frontend.as_deref().zip(backends.filter(|b| !b.is_empty()));
            let after = after.map(|(f, backends)| virtual_server(server, f, backends));
            let stays = self.server(key, server, frontend.is_some(), after);
            self.element(Element::VirtualServer(key), stays, comment);
        }
        for purpose in [Purpose::NodePort, Purpose::External] {
            self.marked_server(key, purpose, frontend.as_deref(), comment);
        }
    }

    /// Plans the elements that reject, drop, restrict and capture.
    fn filter_elements(
        &mut self,
        key: FrontendKey,
        frontend: Option<&Frontend>,
        comment: impl Fn() -> Comment,
    ) {
        let config = self.desired.config();
        let wanted = frontend.map(|f| elements(f, config)).unwrap_or_default();
        let there = &self.node.elements;
        // Old networks are deleted in the transaction that adds the new ones.
        let wanted_ranges: HashSet<_> = wanted.iter().collect();
        let ranges = there.source_ranges(&key);
        let mut stale_ranges: Vec<_> = ranges
            .map(|range| Element::SourceRange(key, range))
            .filter(|range| !wanted_ranges.contains(range))
            .collect();
        if wanted.contains(&Element::Restricted(key)) {
            self.open
                .extend(stale_ranges.drain(..).map(Step::DeleteElement));
        }
        let captured = there.mark(key, Purpose::Capture);
        let captured = captured.map(|mark| Element::Mark {
            key,
            purpose: Purpose::Capture,
            mark,
        });
        for element in &wanted {
            if let (Element::Mark { .. }, Some(old)) = (element, captured)
                && old != *element
            {
                self.open.push(Step::DeleteElement(old));
            }
            self.element(*element, true, &comment);
        }
        let recaptured = wanted.iter().any(|e| matches!(e, Element::Mark { .. }));
        let may_be_there = [
            Element::NoEndpoints(key),
            Element::Dropped(key, Audience::All),
            Element::Dropped(key, Audience::External),
            Element::Restricted(key),
        ];
        let stale = may_be_there
            .into_iter()
            .filter(|element| !wanted.contains(element));
        let stale = stale
            .chain(captured.filter(|_| !recaptured))
            .chain(stale_ranges);
        for element in stale {
            self.element(element, false, || None);
        }
    }

    /// Plans a virtual server. Returns whether it exists afterwards. Without backends it stays, if
    /// it `drains`, until its connections have ended; nftables rejects new ones.
    pub(super) fn server(
        &mut self,
        of: FrontendKey,
        key: VirtualServerKey,
        drains: bool,
        after: Option<VirtualServerState>,
    ) -> bool {
        let before = self.node.virtual_servers.get(&key);
        match (before, after) {
            (None, None) => false,
            (Some(before), None) => {
                if drains && !before.real_servers.is_empty() && self.can_drain(of, &before.server) {
                    self.drain(key, before);
                    return true;
                }
                self.delete(key, before, Some(of));
                false
            }
            (None, Some(after)) => {
                self.ipvs
                    .push(Step::Ipvs(Change::AddVirtualServer(after.server)));
                self.add_real_servers(key, after.real_servers);
                self.forget_flows(of, None);
                true
            }
            (Some(before), Some(after)) => {
                if before.server != after.server {
                    self.ipvs
                        .push(Step::Ipvs(Change::UpdateVirtualServer(after.server)));
                }
                if before.real_servers.iter().all(|r| r.weight == 0) {
                    self.forget_flows(of, None);
                }
                let drains = self.can_drain(of, &after.server);
                self.real_servers(of, key, &before.real_servers, &after.real_servers, drains);
                true
            }
        }
    }

    /// Sets the weight of all real servers to 0, so that they drain.
    pub(super) fn drain(&mut self, virtual_server: VirtualServerKey, before: &VirtualServerState) {
        let active = before.real_servers.iter().filter(|old| old.weight > 0);
        self.ipvs.extend(active.map(|old| {
            Step::Ipvs(Change::UpdateRealServer {
                virtual_server,
                real_server: old.with_weight(0),
            })
        }));
    }

    /// Deletes a virtual server with its real servers and connections.
    pub(super) fn delete(
        &mut self,
        key: VirtualServerKey,
        before: &VirtualServerState,
        of: Option<FrontendKey>,
    ) {
        self.ipvs.push(Step::Ipvs(Change::DeleteVirtualServer(key)));
        let Some(of) = of else { return };
        let gone = before.real_servers.iter().map(|r| r.key);
        gone.for_each(|gone| self.forget_flows(of, Some(gone)));
    }

    /// Whether connections of a protocol drain under these settings.
    pub(super) fn drains(&self, protocol: Protocol) -> bool {
        !self.desired.config().drain_timeout.is_zero() && drains(protocol)
    }

    /// Whether a removed endpoint's real server can drain with weight 0. The hashing schedulers
    /// still choose a real server of weight 0, and then reject the connection unless they may
    /// choose again (`is_unavailable` in the kernel's ip_vs_sh.c and ip_vs_mh.c,
    /// `ip_vs_dh_schedule` in ip_vs_dh.c).
    fn can_drain(&self, of: FrontendKey, server: &VirtualServer) -> bool {
        let avoids_weight_0 = match server.scheduler {
            Scheduler::SourceHash => server.flags.contains(Flags::SH_FALLBACK),
            Scheduler::MaglevHash => server.flags.contains(Flags::MH_FALLBACK),
            Scheduler::DestinationHash => false,
            _ => true,
        };
        self.drains(of.protocol) && avoids_weight_0
    }

    /// Plans the deletion of UDP and SCTP flows that connection tracking would keep sending to a
    /// removed backend, or to no backend although there is one now. TCP connections end by
    /// themselves.
    fn forget_flows(&mut self, to: FrontendKey, backend: Option<RealServerKey>) {
        if to.protocol == Protocol::Tcp {
            return;
        }
        let flows = Flows::to(to);
        let flows = backend.map_or(flows, |backend| flows.answered_by(backend.address));
        self.flows.push(Step::DeleteFlows(flows));
    }

    /// Adds real servers before it removes others, so that a virtual server always has one that
    /// accepts connections.
    fn real_servers(
        &mut self,
        of: FrontendKey,
        virtual_server: VirtualServerKey,
        before: &[RealServer],
        after: &[RealServer],
        drains: bool,
    ) {
        let update = |real_server| {
            Step::Ipvs(Change::UpdateRealServer {
                virtual_server,
                real_server,
            })
        };
        let (mut new_ones, mut gone) = (Vec::new(), Vec::new());
        let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.key.cmp(&new.key),
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            match (old, new) {
                (None, Some(new)) => new_ones.push(*new),
                (Some(old), Some(new)) if old != new => self.ipvs.push(update(*new)),
                // A real server of weight 0 is already draining.
                (Some(old), None) if !drains || old.weight > 0 => gone.push(*old),
                _ => {}
            }
        }
        self.add_real_servers(virtual_server, new_ones);
        for old in gone {
            if drains {
                self.ipvs.push(update(old.with_weight(0)));
                continue;
            }
            self.ipvs.push(Step::Ipvs(Change::DeleteRealServer {
                virtual_server,
                real_server: old.key,
            }));
            self.forget_flows(of, Some(old.key));
        }
    }

    /// Adds real servers in an order that differs between nodes: schedulers that take them in turn
    /// begin with the one added last, which must not be the same on every node.
    fn add_real_servers(&mut self, virtual_server: VirtualServerKey, mut new: Vec<RealServer>) {
        self.shuffle(&mut new);
        self.ipvs.extend(new.into_iter().map(|real_server| {
            Step::Ipvs(Change::AddRealServer {
                virtual_server,
                real_server,
            })
        }));
    }

    fn shuffle(&self, real_servers: &mut [RealServer]) {
        if real_servers.len() < 2 {
            return;
        }
        let node = self.desired.config().node_name.as_bytes();
        real_servers.sort_by_cached_key(|real_server| {
            let RealServerKey { address, port } = real_server.key;
            let address = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            let octets = address.octets();
            let own = node.iter().copied();
            spread(fnv1a(
                octets.into_iter().chain(port.to_be_bytes()).chain(own),
            ))
        });
    }
}
