//! The difference between what a node has and what it should have.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::slice;
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::{Change, Protocol, Scheduler, VirtualServer, VirtualServerKey};

use super::lower::{base_elements, base_routes, base_sysctls, local_route, virtual_server};
use super::{Comment, Element, NodeState, Step, VirtualServerState};
use crate::desired::{DesiredState, Frontend, FrontendKey, Touched};
use crate::netfilter::Ruleset;

/// Steps that lead from a [`NodeState`] to a [`DesiredState`], in order.
///
/// Sysctls and the packet filter come first, so that no virtual server carries traffic before its
/// rules do; then routes; then virtual servers with their real servers, the API server's and the
/// cluster's DNS before all others; what is no longer needed goes last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
}

/// How much of the state a plan looks at.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Scope<'a> {
    /// All of it.
    Full,
    /// What changed since the last plan.
    Touched(&'a Touched),
}

impl Plan {
    /// Compares the desired state with the node's.
    pub fn new(desired: &DesiredState, node: &NodeState, scope: Scope<'_>) -> Self {
        let mut builder = Builder {
            desired,
            node,
            open: Vec::new(),
            ipvs: Vec::new(),
            close: Vec::new(),
        };
        match scope {
            Scope::Full => {
                builder.base();
                builder.keys(&Keys::everything(desired, node));
            }
            Scope::Touched(touched) => builder.keys(&Keys::touched(touched)),
        }
        let mut steps = builder.open;
        steps.append(&mut builder.ipvs);
        steps.append(&mut builder.close);
        Self { steps }
    }

    /// The plan that removes all of a [`NodeState`]: virtual servers, then routes, then elements.
    /// The rules go with their table, which is the backend's to remove.
    pub fn removal(node: &NodeState) -> Self {
        let servers: BTreeSet<_> = node.virtual_servers.keys().copied().collect();
        let deletes = servers
            .into_iter()
            .map(|key| Step::Ipvs(Change::DeleteVirtualServer(key)));
        let routes = node.routes.iter().map(|route| Step::DeleteRoute(*route));
        Self {
            steps: deletes.chain(routes).collect(),
        }
    }

    /// The steps, in the order in which they must be taken.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl FromIterator<Step> for Plan {
    /// A plan of one's own.
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        let steps = steps.into_iter().collect();
        Self { steps }
    }
}

impl<'a> IntoIterator for &'a Plan {
    type Item = &'a Step;
    type IntoIter = slice::Iter<'a, Step>;

    fn into_iter(self) -> Self::IntoIter {
        self.steps.iter()
    }
}

/// What a plan looks at, sorted, each once.
#[derive(Default)]
struct Keys {
    frontends: Vec<FrontendKey>,
    local_backends: Vec<IpAddr>,
    stray_vips: Vec<IpAddr>,
}

impl Keys {
    /// All that is desired and all that is there.
    fn everything(desired: &DesiredState, node: &NodeState) -> Self {
        let mut keys = Self::default();
        keys.frontends
            .extend(desired.frontends().map(|frontend| frontend.key));
        let servers = node.virtual_servers.keys();
        keys.frontends
            .extend(servers.filter_map(|key| FrontendKey::try_from(*key).ok()));
        keys.local_backends.extend(desired.local_backends());
        keys.stray_vips.extend(desired.stray_vips());
        for element in node.elements.keys() {
            match element {
                Element::VirtualServer(key) | Element::NoEndpoints(key) => {
                    keys.frontends.push(*key)
                }
                Element::Hairpin(address) => keys.local_backends.push(*address),
                Element::ServiceCidr(_) => {}
            }
        }
        keys.sorted()
    }

    fn touched(touched: &Touched) -> Self {
        let keys = Self {
            frontends: touched.frontends.iter().copied().collect(),
            local_backends: touched.local_backends.iter().copied().collect(),
            stray_vips: touched.stray_vips.iter().copied().collect(),
        };
        keys.sorted()
    }

    fn sorted(mut self) -> Self {
        self.frontends.sort_unstable();
        self.frontends.dedup();
        for addresses in [&mut self.local_backends, &mut self.stray_vips] {
            addresses.sort_unstable();
            addresses.dedup();
        }
        self
    }
}

struct Builder<'a> {
    desired: &'a DesiredState,
    node: &'a NodeState,
    /// What must be there before virtual servers change.
    open: Vec<Step>,
    ipvs: Vec<Step>,
    /// What may go only after they have changed.
    close: Vec<Step>,
}

impl Builder<'_> {
    /// What does not depend on the Services, and what is left of former settings.
    fn base(&mut self) {
        let config = self.desired.config();
        for sysctl in base_sysctls(config) {
            if self
                .node
                .sysctls
                .get(&sysctl)
                .is_none_or(|value| value != "1")
            {
                self.open.push(Step::SetSysctl(sysctl));
            }
        }
        let ruleset = Ruleset::new(config.cluster_cidrs.clone());
        if self.node.ruleset != Some(ruleset.fingerprint()) {
            self.open.push(Step::InstallRuleset(ruleset));
        }
        let cidrs: BTreeSet<_> = base_elements(config).collect();
        cidrs
            .iter()
            .for_each(|cidr| self.element(*cidr, true, || None));
        let routes: BTreeSet<_> = base_routes(config).collect();
        let missing = routes.difference(&self.node.routes);
        self.open
            .extend(missing.map(|route| Step::AddRoute(*route)));

        let is_stray = |prefix: IpNet| {
            prefix.prefix_len() == prefix.max_prefix_len()
                && self.desired.is_stray_vip(&prefix.addr())
        };
        let mut stale: Vec<_> = self.node.elements.keys().copied().collect();
        stale.retain(|element| match element {
            Element::ServiceCidr(prefix) => !cidrs.contains(element) && !is_stray(*prefix),
            _ => false,
        });
        stale.sort_unstable();
        // One with another source is replaced, not deleted.
        let is_wanted = |prefix| routes.iter().any(|r| r.prefix == prefix) || is_stray(prefix);
        let stale_routes = self
            .node
            .routes
            .iter()
            .filter(|route| !is_wanted(route.prefix));
        self.close
            .extend(stale_routes.map(|route| Step::DeleteRoute(*route)));
        self.close
            .extend(stale.into_iter().map(Step::DeleteElement));
    }

    fn keys(&mut self, keys: &Keys) {
        for vip in &keys.stray_vips {
            self.stray_vip((*vip).into());
        }
        for address in &keys.local_backends {
            let wanted = self.desired.is_local_backend(address);
            self.element(Element::Hairpin(*address), wanted, || None);
        }
        let (first, others): (Vec<&FrontendKey>, Vec<&FrontendKey>) =
            keys.frontends.iter().partition(|key| self.goes_first(key));
        for key in first.into_iter().chain(others) {
            self.frontend(*key);
        }
    }

    /// Whether a node is lost without this one: nodes and pods find all else through the API
    /// server and DNS.
    fn goes_first(&self, key: &FrontendKey) -> bool {
        let Some(frontend) = self.desired.frontend(key) else {
            return false;
        };
        let service = &frontend.owner.service;
        service.as_str() == "default/kubernetes"
            || (service.namespace() == "kube-system" && key.port.get() == 53)
    }

    fn stray_vip(&mut self, prefix: IpNet) {
        let wanted = self.desired.is_stray_vip(&prefix.addr());
        self.element(Element::ServiceCidr(prefix), wanted, || None);
        let Some(route) = local_route(self.desired.config(), prefix) else {
            return;
        };
        if wanted && !self.node.routes.contains(&route) {
            self.open.push(Step::AddRoute(route));
        } else if !wanted {
            let gone = self
                .node
                .routes
                .iter()
                .filter(|there| there.prefix == prefix);
            self.close
                .extend(gone.map(|there| Step::DeleteRoute(*there)));
        }
    }

    fn frontend(&mut self, key: FrontendKey) {
        let frontend = self.desired.frontend(&key);
        let after = frontend.and_then(|frontend| virtual_server(frontend));
        let comment =
            |frontend: Option<&Arc<Frontend>>| frontend.map(|f| f.owner.to_string().into());
        self.element(Element::VirtualServer(key), after.is_some(), || {
            comment(frontend)
        });
        let refused = frontend.is_some() && after.is_none();
        self.element(Element::NoEndpoints(key), refused, || comment(frontend));

        let key = VirtualServerKey::from(key);
        match (self.node.virtual_servers.get(&key), after) {
            (None, None) => {}
            (Some(_), None) => self.ipvs.push(Step::Ipvs(Change::DeleteVirtualServer(key))),
            (None, Some(after)) => {
                self.ipvs
                    .push(Step::Ipvs(Change::AddVirtualServer(after.server)));
                self.real_servers(key, &[], &after.real_servers, false);
            }
            (Some(before), Some(after)) => self.change(key, before, &after),
        }
    }

    fn change(
        &mut self,
        key: VirtualServerKey,
        before: &VirtualServerState,
        after: &VirtualServerState,
    ) {
        if before.server != after.server {
            self.ipvs
                .push(Step::Ipvs(Change::UpdateVirtualServer(after.server)));
        }
        let drains = self.drains(&after.server);
        self.real_servers(key, &before.real_servers, &after.real_servers, drains);
    }

    /// Whether a real server that goes keeps its connections for a while, with weight 0. A
    /// datagram's sender would not notice that it should go elsewhere. The hashing schedulers go
    /// on to choose a real server of weight 0, and then refuse (`is_unavailable` in the kernel's
    /// ip_vs_sh.c, `ip_vs_dh_schedule` in ip_vs_dh.c).
    fn drains(&self, server: &VirtualServer) -> bool {
        let by_hash = [Scheduler::SourceHash, Scheduler::DestinationHash];
        !self.desired.config().drain_timeout.is_zero()
            && server.key.protocol() != Some(Protocol::Udp)
            && !by_hash.contains(&server.scheduler)
    }

    /// Adds and updates come before deletes: a virtual server is never left without real servers.
    fn real_servers(
        &mut self,
        virtual_server: VirtualServerKey,
        before: &[ipvs::RealServer],
        after: &[ipvs::RealServer],
        drains: bool,
    ) {
        let mut gone = Vec::new();
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
            self.ipvs.extend(match (old, new) {
                (None, Some(new)) => Some(Step::Ipvs(Change::AddRealServer {
                    virtual_server,
                    real_server: *new,
                })),
                (Some(old), Some(new)) if old != new => {
                    Some(Step::Ipvs(Change::UpdateRealServer {
                        virtual_server,
                        real_server: *new,
                    }))
                }
                (Some(old), None) if drains && old.weight > 0 => {
                    Some(Step::Ipvs(Change::UpdateRealServer {
                        virtual_server,
                        real_server: old.with_weight(0),
                    }))
                }
                // Until its connections have ended.
                (Some(_), None) if drains => None,
                (Some(old), None) => {
                    let real_server = old.key;
                    gone.push(Step::Ipvs(Change::DeleteRealServer {
                        virtual_server,
                        real_server,
                    }));
                    None
                }
                _ => None,
            });
        }
        self.ipvs.append(&mut gone);
    }

    /// One element of a set, and its comment if it is to be there.
    fn element(&mut self, element: Element, wanted: bool, comment: impl FnOnce() -> Comment) {
        match (self.node.elements.get(&element), wanted) {
            (None, true) => self.open.push(Step::AddElement(element, comment())),
            (Some(_), false) => self.close.push(Step::DeleteElement(element)),
            (Some(old), true) => {
                let new = comment();
                if *old != new {
                    // A comment cannot be changed in place; both go out in one transaction.
                    self.open.push(Step::DeleteElement(element));
                    self.open.push(Step::AddElement(element, new));
                }
            }
            (None, false) => {}
        }
    }
}
