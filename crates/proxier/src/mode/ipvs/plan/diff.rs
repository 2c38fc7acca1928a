//! The difference between the observed and the desired state of a node.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::slice;

use foldhash::{HashSet, HashSetExt};
use ipnet::IpNet;
use ipvs::{Change, Family};

use super::forgotten::Forgotten;
use super::lower::{
    base_elements, base_routes, base_sysctls, conntrack_sysctls, local_route, policy_route,
    timeouts,
};
use super::{Comment, Element, LocalRoute, NodeState, Step};
use crate::desired::{DesiredState, FrontendKey, Need, Touched};
use crate::mode::ipvs::rules::{Parts, Ruleset};

/// Steps that lead from a [`NodeState`] to a [`DesiredState`], in order.
///
/// Sysctls and the packet filter come first, so that rules are in effect before their virtual
/// server gets traffic; then routes; then virtual servers with their real servers, the API server's
/// and the cluster DNS's first; and last the removal of what is no longer needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
    /// Frontends without a free mark.
    unmarked: Vec<FrontendKey>,
}

/// The scope of a plan.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Scope<'a> {
    /// Everything.
    Full,
    /// The changes since the last plan.
    Touched(&'a Touched),
}

impl<'a> Scope<'a> {
    /// The changes since the last plan, unless it is everything.
    pub(crate) const fn touched(self) -> Option<&'a Touched> {
        match self {
            Self::Full => None,
            Self::Touched(touched) => Some(touched),
        }
    }
}

impl Plan {
    /// Compares the desired state with the node.
    pub fn new(desired: &DesiredState, node: &NodeState, scope: Scope<'_>) -> Self {
        let mut builder = Builder {
            desired,
            node,
            forgotten: Forgotten::default(),
            allotted: HashSet::new(),
            unmarked: Vec::new(),
            open: Vec::new(),
            ipvs: Vec::new(),
            flows: Vec::new(),
            close: Vec::new(),
        };
        match scope {
            Scope::Full => {
                builder.forgotten = Forgotten::of(node);
                builder.base();
                let keys = Keys::everything(desired, node);
                if node.virtual_servers.is_empty() {
                    builder.reserve(keys.frontends.len());
                }
                builder.keys(&keys);
                builder.networks();
                builder.leave_forgotten();
            }
            Scope::Touched(touched) => {
                let keys = Keys::touched(touched);
                builder.keys(&keys);
                builder.parts(&keys.needs);
            }
        }
        // Reuse the longest vector, so that most steps are not moved.
        let mut steps = builder.ipvs;
        steps.splice(..0, builder.open);
        steps.append(&mut builder.flows);
        steps.append(&mut builder.close);
        Self {
            steps,
            unmarked: builder.unmarked,
        }
    }

    /// The plan that removes everything in a [`NodeState`]: virtual servers, then routes, then
    /// elements. The backend removes the rules with their table.
    pub fn removal(node: &NodeState) -> Self {
        let servers: BTreeSet<_> = node.virtual_servers.keys().copied().collect();
        let deletes = servers
            .into_iter()
            .map(|key| Step::Ipvs(Change::DeleteVirtualServer(key)));
        let routes = node.routes.iter().map(|route| Step::DeleteRoute(*route));
        let by_mark = node.policy_routes.iter();
        let by_mark = by_mark.map(|route| Step::DeletePolicyRoute(*route));
        deletes.chain(routes).chain(by_mark).collect()
    }

    /// The steps, in the order of execution.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The frontends that are not served because no mark is free.
    pub(crate) fn unmarked(&self) -> &[FrontendKey] {
        &self.unmarked
    }

    /// Restores elements before the steps that need them.
    pub(crate) fn restore(&mut self, elements: Vec<(Element, Comment)>) {
        let rules = |step: &Step| matches!(step, Step::InstallRuleset(_));
        let behind = self.steps.iter().position(rules).map_or(0, |at| at + 1);
        let adds = elements.into_iter();
        let adds = adds.map(|(element, comment)| Step::AddElement(element, comment));
        self.steps.splice(behind..behind, adds);
    }

    /// Appends the steps of another plan.
    pub(crate) fn append(&mut self, mut then: Self) {
        self.steps.append(&mut then.steps);
        self.unmarked.append(&mut then.unmarked);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl FromIterator<Step> for Plan {
    /// A plan of these steps.
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        let steps = steps.into_iter().collect();
        Self {
            steps,
            unmarked: Vec::new(),
        }
    }
}

impl<'a> IntoIterator for &'a Plan {
    type Item = &'a Step;
    type IntoIter = slice::Iter<'a, Step>;

    fn into_iter(self) -> Self::IntoIter {
        self.steps.iter()
    }
}

/// The scope of a plan, sorted, without duplicates.
#[derive(Default)]
struct Keys {
    frontends: Vec<FrontendKey>,
    needs: Vec<Need>,
}

impl Keys {
    /// Everything that is desired or observed.
    fn everything(desired: &DesiredState, node: &NodeState) -> Self {
        let mut keys = Self::default();
        keys.frontends
            .extend(desired.frontends().map(|frontend| frontend.key));
        // Most observed frontends are also desired.
        let is_new = |key: &FrontendKey| desired.frontend(key).is_none();
        let servers = node.virtual_servers.keys();
        let servers = servers.filter_map(|key| node.frontend_of(key));
        keys.frontends.extend(servers.filter(is_new));
        keys.needs.extend(desired.all_needs());
        keys.needs
            .extend([Family::V4, Family::V6].map(Need::Delivery));
        for element in node.elements.keys() {
            keys.frontends.extend(element.frontend().filter(is_new));
            keys.needs.extend(match element {
                Element::Hairpin(address) => Some(Need::Hairpin(*address)),
                Element::CapturedAddress(address) => Some(Need::Capture(*address)),
                Element::HealthCheck(family, port) => Some(Need::HealthCheck(*family, *port)),
                _ => None,
            });
        }
        keys.sorted()
    }

    fn touched(touched: &Touched) -> Self {
        let keys = Self {
            frontends: touched.frontends.iter().copied().collect(),
            needs: touched.needs.iter().copied().collect(),
        };
        keys.sorted()
    }

    fn sorted(mut self) -> Self {
        self.frontends.sort_unstable();
        self.frontends.dedup();
        self.needs.sort_unstable();
        self.needs.dedup();
        self
    }
}

pub(super) struct Builder<'a> {
    pub(super) desired: &'a DesiredState,
    pub(super) node: &'a NodeState,
    /// Firewall-mark virtual servers that may be adopted.
    pub(super) forgotten: Forgotten,
    /// Marks that this plan allocates.
    pub(super) allotted: HashSet<(Family, NonZeroU32)>,
    pub(super) unmarked: Vec<FrontendKey>,
    /// Steps before changes of virtual servers.
    pub(super) open: Vec<Step>,
    pub(super) ipvs: Vec<Step>,
    /// Deletions of flows, after the changes of virtual servers.
    pub(super) flows: Vec<Step>,
    /// Steps after changes of virtual servers.
    pub(super) close: Vec<Step>,
}

impl Builder<'_> {
    /// Reserves memory for the steps of this number of frontends with some backends each. Moving
    /// steps whenever a vector grows takes longer than creating them.
    fn reserve(&mut self, frontends: usize) {
        self.open.reserve(frontends);
        self.ipvs.reserve(5 * frontends);
    }

    /// Plans everything that does not depend on Services, and the removal of what earlier settings
    /// left.
    fn base(&mut self) {
        let config = self.desired.config();
        for (sysctl, wanted) in base_sysctls(config) {
            let there = self.node.sysctls.get(&sysctl);
            if there.is_none_or(|there| *there != wanted.to_string()) {
                self.open.push(Step::SetSysctl(sysctl, wanted));
            }
        }
        let timeouts = timeouts(config.timeouts, self.node.timeouts);
        let timeouts = timeouts.map(Change::SetTimeouts);
        self.ipvs.extend(timeouts.map(Step::Ipvs));
        self.open.extend(self.ruleset());
        // After the rules, because they make the kernel load connection tracking, which creates
        // these sysctls.
        let conntrack = conntrack_sysctls(&config.conntrack, &self.node.sysctls);
        let set = conntrack.map(|(sysctl, least)| Step::SetSysctl(sysctl, least));
        self.open.extend(set);
        let networks: BTreeSet<_> = base_elements(config).collect();
        // Before the new ones, because intervals must not overlap.
        let mut stale: Vec<_> = self.node.elements.keys().copied().collect();
        stale.retain(|element| match element {
            Element::ServiceCidr(prefix) => !networks.contains(element) && !self.is_stray(*prefix),
            Element::NodePortAddresses(_) => !networks.contains(element),
            _ => false,
        });
        stale.sort_unstable();
        self.open.extend(stale.into_iter().map(Step::DeleteElement));
    }

    /// The rules, if the node has others.
    fn ruleset(&self) -> Option<Step> {
        let ruleset = Ruleset::needed(self.desired, self.node.is_filtered);
        let is_new = self.node.ruleset != Some(ruleset.fingerprint());
        is_new.then_some(Step::InstallRuleset(ruleset))
    }

    /// Replaces the rules if their parts change: before the virtual servers that need a part, and
    /// after everything of those that no longer do.
    fn parts(&mut self, changed: &[Need]) {
        let mut changed = changed
            .iter()
            .filter(|need| Parts::depend_on(need))
            .peekable();
        if changed.peek().is_none() {
            return;
        }
        let ruleset = self.ruleset();
        match changed.any(|need| self.desired.needs(need)) {
            true => self.open.extend(ruleset),
            false => self.close.extend(ruleset),
        }
    }

    /// Service CIDRs, which reject everything without a virtual server, come after the elements of
    /// the virtual servers: another proxy may serve them already, and its connections must
    /// continue.
    fn networks(&mut self) {
        let config = self.desired.config();
        let networks: BTreeSet<_> = base_elements(config).collect();
        networks
            .iter()
            .for_each(|network| self.element(*network, true, || None));
        let routes: BTreeSet<_> = base_routes(config).collect();
        let missing = routes.iter().filter(|route| !self.has_route(route));
        let missing: Vec<_> = missing.copied().map(Step::AddRoute).collect();
        self.open.extend(missing);

        // A route with another source is replaced, not deleted.
        let is_wanted = |prefix| routes.iter().any(|r| r.prefix == prefix) || self.is_stray(prefix);
        let there = self.node.routes.iter();
        let stale_routes = there.filter(|route| !is_wanted(route.prefix));
        let stale_routes: Vec<_> = stale_routes.copied().map(Step::DeleteRoute).collect();
        self.close.extend(stale_routes);
        let by_mark = self.node.policy_routes.iter();
        let stale = by_mark.filter(|route| **route != policy_route(config, route.family));
        self.close
            .extend(stale.map(|route| Step::DeletePolicyRoute(*route)));
    }

    /// Whether this is the separate route of a virtual IP.
    fn is_stray(&self, prefix: IpNet) -> bool {
        prefix.prefix_len() == prefix.max_prefix_len()
            && self.desired.needs(&Need::Route(prefix.addr()))
    }

    fn keys(&mut self, keys: &Keys) {
        let (first, others): (Vec<&FrontendKey>, Vec<&FrontendKey>) =
            keys.frontends.iter().partition(|key| self.goes_first(key));
        for key in first.into_iter().chain(others) {
            self.frontend(*key);
        }
        for need in &keys.needs {
            let wanted = self.desired.needs(need);
            match *need {
                Need::Route(vip) => self.stray_vip(vip.into(), wanted),
                Need::Hairpin(address) => self.element(Element::Hairpin(address), wanted, || None),
                Need::Capture(address) => {
                    self.element(Element::CapturedAddress(address), wanted, || None);
                }
                Need::Delivery(family) => self.policy_route(family, wanted),
                // Their rules are planned at once.
                Need::Marks | Need::Refusal | Need::SourceRanges => {}
                Need::HealthCheck(family, port) => {
                    self.element(Element::HealthCheck(family, port), wanted, || None);
                }
            }
        }
    }

    /// Whether this virtual server comes first: nodes and pods find everything else through the API
    /// server and DNS.
    fn goes_first(&self, key: &FrontendKey) -> bool {
        let Some(frontend) = self.desired.frontend(key) else {
            return false;
        };
        let service = &frontend.owner.service;
        service.as_str() == "default/kubernetes"
            || (key.port.get() == 53 && service.namespace() == "kube-system")
    }

    /// Any additional routing rule makes all routing of a node slightly slower, so it exists only
    /// while something needs it.
    fn policy_route(&mut self, family: Family, wanted: bool) {
        let route = policy_route(self.desired.config(), family);
        let there = self.node.policy_routes.contains(&route);
        match (there, wanted) {
            (false, true) => self.open.push(Step::AddPolicyRoute(route)),
            (true, false) => self.close.push(Step::DeletePolicyRoute(route)),
            _ => {}
        }
    }

    /// Whether a route is there, and the first to its prefix.
    fn has_route(&self, route: &LocalRoute) -> bool {
        self.node.routes.contains(route) && !self.node.is_behind(&route.prefix)
    }

    fn stray_vip(&mut self, prefix: IpNet, wanted: bool) {
        self.element(Element::ServiceCidr(prefix), wanted, || None);
        let Some(route) = local_route(self.desired.config(), prefix) else {
            return;
        };
        if wanted && !self.has_route(&route) {
            self.open.push(Step::AddRoute(route));
        } else if !wanted {
            let gone = self.node.routes_to(&prefix);
            self.close
                .extend(gone.map(|there| Step::DeleteRoute(*there)));
        }
    }

    /// Plans one element of a set, with its comment if it should exist.
    pub(super) fn element(
        &mut self,
        element: Element,
        wanted: bool,
        comment: impl FnOnce() -> Comment,
    ) {
        match (self.node.elements.get(&element), wanted) {
            (None, true) => self.open.push(Step::AddElement(element, comment())),
            (Some(_), false) => self.close.push(Step::DeleteElement(element)),
            (Some(old), true) => {
                let new = comment();
                if *old != new {
                    // A comment cannot be changed in place. Both steps are in one transaction.
                    self.open.push(Step::DeleteElement(element));
                    self.open.push(Step::AddElement(element, new));
                }
            }
            (None, false) => {}
        }
    }
}
