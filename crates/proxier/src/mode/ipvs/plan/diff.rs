//! The difference between what a node has and what it should have.

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
use super::{Comment, Element, NodeState, Step};
use crate::desired::{DesiredState, FrontendKey, Need, Touched};
use crate::mode::ipvs::rules::Ruleset;

/// Steps that lead from a [`NodeState`] to a [`DesiredState`], in order.
///
/// Sysctls and the packet filter come first, so that no virtual server carries traffic before its
/// rules do; then routes; then virtual servers with their real servers, the API server's and the
/// cluster's DNS before all others; what is no longer needed goes last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
    /// Frontends for which there was no mark left.
    unmarked: Vec<FrontendKey>,
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
            Scope::Touched(touched) => builder.keys(&Keys::touched(touched)),
        }
        // Most of the steps stay where they are.
        let mut steps = builder.ipvs;
        steps.splice(..0, builder.open);
        steps.append(&mut builder.flows);
        steps.append(&mut builder.close);
        Self {
            steps,
            unmarked: builder.unmarked,
        }
    }

    /// The plan that removes all of a [`NodeState`]: virtual servers, then routes, then elements.
    /// The rules go with their table, which is the backend's to remove.
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

    /// The steps, in the order in which they must be taken.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What is not served because the mask of marks has no number left for it.
    pub fn unmarked(&self) -> &[FrontendKey] {
        &self.unmarked
    }

    /// Puts elements back before all that rests on them.
    pub(crate) fn restore(&mut self, elements: Vec<(Element, Comment)>) {
        let rules = |step: &Step| matches!(step, Step::InstallRuleset(_));
        let behind = self.steps.iter().position(rules).map_or(0, |at| at + 1);
        let adds = elements.into_iter();
        let adds = adds.map(|(element, comment)| Step::AddElement(element, comment));
        self.steps.splice(behind..behind, adds);
    }

    /// Takes the steps of another plan behind its own.
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
    /// A plan of one's own.
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

/// What a plan looks at, sorted, each once.
#[derive(Default)]
struct Keys {
    frontends: Vec<FrontendKey>,
    needs: Vec<Need>,
}

impl Keys {
    /// All that is desired and all that is there.
    fn everything(desired: &DesiredState, node: &NodeState) -> Self {
        let mut keys = Self::default();
        keys.frontends
            .extend(desired.frontends().map(|frontend| frontend.key));
        // The others are among those that are desired, mostly.
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
    /// Virtual servers of marks that may be adopted.
    pub(super) forgotten: Forgotten,
    /// Marks of virtual servers that this plan makes.
    pub(super) allotted: HashSet<(Family, NonZeroU32)>,
    pub(super) unmarked: Vec<FrontendKey>,
    /// What must be there before virtual servers change.
    pub(super) open: Vec<Step>,
    pub(super) ipvs: Vec<Step>,
    /// What connection tracking must forget after that.
    pub(super) flows: Vec<Step>,
    /// What may go only after they have changed.
    pub(super) close: Vec<Step>,
}

impl Builder<'_> {
    /// Makes room for the steps of so many frontends with some backends each: to move steps time and
    /// again, as vectors grow, takes longer than to make them.
    fn reserve(&mut self, frontends: usize) {
        self.open.reserve(frontends);
        self.ipvs.reserve(5 * frontends);
    }

    /// What does not depend on the Services, and what is left of former settings.
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
        let ruleset = Ruleset::new(config);
        if self.node.ruleset != Some(ruleset.fingerprint()) {
            self.open.push(Step::InstallRuleset(ruleset));
        }
        // Behind the rules, which have the kernel load connection tracking.
        let conntrack = conntrack_sysctls(&config.conntrack, &self.node.sysctls);
        let set = conntrack.map(|(sysctl, least)| Step::SetSysctl(sysctl, least));
        self.open.extend(set);
        let networks: BTreeSet<_> = base_elements(config).collect();
        // Before those that take their place: intervals must not overlap.
        let mut stale: Vec<_> = self.node.elements.keys().copied().collect();
        stale.retain(|element| match element {
            Element::ServiceCidr(prefix) => !networks.contains(element) && !self.is_stray(*prefix),
            Element::NodePortAddresses(_) => !networks.contains(element),
            _ => false,
        });
        stale.sort_unstable();
        self.open.extend(stale.into_iter().map(Step::DeleteElement));
    }

    /// What is refused unless a virtual server has it comes behind the virtual servers' elements:
    /// another proxy may serve them already, and its connections go on.
    fn networks(&mut self) {
        let config = self.desired.config();
        let networks: BTreeSet<_> = base_elements(config).collect();
        networks
            .iter()
            .for_each(|network| self.element(*network, true, || None));
        let routes: BTreeSet<_> = base_routes(config).collect();
        let missing = routes.difference(&self.node.routes);
        self.open
            .extend(missing.map(|route| Step::AddRoute(*route)));

        // One with another source is replaced, not deleted.
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

    /// Whether a virtual IP has a route of its own.
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
            }
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
            || (key.port.get() == 53 && service.namespace() == "kube-system")
    }

    /// Any rule of one's own makes all routing on a node a little slower, so this one is there
    /// only while something needs it.
    fn policy_route(&mut self, family: Family, wanted: bool) {
        let route = policy_route(self.desired.config(), family);
        let there = self.node.policy_routes.contains(&route);
        match (there, wanted) {
            (false, true) => self.open.push(Step::AddPolicyRoute(route)),
            (true, false) => self.close.push(Step::DeletePolicyRoute(route)),
            _ => {}
        }
    }

    fn stray_vip(&mut self, prefix: IpNet, wanted: bool) {
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

    /// One element of a set, and its comment if it is to be there.
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
                    // A comment cannot be changed in place; both go out in one transaction.
                    self.open.push(Step::DeleteElement(element));
                    self.open.push(Step::AddElement(element, new));
                }
            }
            (None, false) => {}
        }
    }
}
