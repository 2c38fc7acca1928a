//! The difference between the observed and the desired state of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::element::LASTING;
use super::{Choice, Chooser, Element, Elements, Ruleset, Target};
use crate::desired::{
    Backend, Config, DesiredState, Frontend, FrontendKey, FrontendKind, Need, WithoutBackends,
};
use crate::hash::fnv1a;
#[cfg(feature = "nftables")]
use crate::mode::Item;
use crate::mode::flows::{may_be_stale, stale};
use crate::mode::ipvs::plan::{Audience, Comment, Scope, missing_sysctls};
use crate::mode::ipvs::rules::{Fingerprint, split_range};
use crate::mode::{Flows, StepKind, Sysctl};
use crate::model::SessionAffinity;

/// svcproxy's state on a node in nftables mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeState {
    /// Values of the sysctls that svcproxy uses.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// The rules; `None` if they are missing or were changed.
    pub ruleset: Option<Fingerprint>,
    /// The chains that choose an endpoint, if they are complete and selected by their choice.
    pub choosers: BTreeSet<Chooser>,
    /// Chains that are selected by their choice, but have other rules: those of another version, or
    /// changed ones.
    pub outdated: BTreeSet<Chooser>,
    /// The elements of the sets, without the clients that the kernel adds.
    pub elements: Elements,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Set a sysctl.
    SetSysctl(Sysctl, u32),
    /// Replace the rules. Of the chains that choose, these stay as they are, so that Services are
    /// served throughout; all others go. Set elements stay.
    InstallRuleset(Ruleset, BTreeSet<Chooser>),
    /// Add a chain that chooses an endpoint.
    AddChooser(Chooser),
    /// Replace the rules of such a chain at once.
    ReplaceChooser(Chooser),
    /// Delete such a chain.
    DeleteChooser(Chooser),
    /// Add an element to a set.
    AddElement(Element, Comment),
    /// Delete an element from a set.
    DeleteElement(Element),
    /// Delete stale flows from connection tracking.
    DeleteFlows(Flows),
}

impl Step {
    /// The element that it adds with a comment, or deletes without one.
    const fn element(&self) -> Option<(&Element, Option<&Comment>)> {
        match self {
            Self::AddElement(element, comment) => Some((element, Some(comment))),
            Self::DeleteElement(element) => Some((element, None)),
            _ => None,
        }
    }

    /// The destination whose element it changes.
    fn destination(&self) -> Option<FrontendKey> {
        self.element()?.0.frontend()
    }

    /// Whether it adds an element that each destination has, in each audience.
    const fn begins(&self) -> bool {
        use Element::{Dropped, NoEndpoints, Service};
        matches!(
            self,
            Self::AddElement(Service { .. } | NoEndpoints(_) | Dropped(..), _)
        )
    }

    fn is_for_same(&self, next: &Self) -> bool {
        let key = self.destination();
        key.is_some() && key == next.destination()
    }

    /// The flows that it deletes.
    #[cfg(feature = "nftables")]
    pub(super) const fn flows(&self) -> Option<&Flows> {
        match self {
            Self::DeleteFlows(flows) => Some(flows),
            _ => None,
        }
    }

    /// The item that it belongs to, if it is a single one.
    #[cfg(feature = "nftables")]
    pub(super) fn item(&self) -> Option<Item> {
        if let Self::DeleteFlows(flows) = self {
            return Some(Item::Frontend(flows.to));
        }
        let (element, _) = self.element()?;
        match *element {
            Element::Hairpin(address) => Some(Item::Need(Need::Hairpin(address))),
            Element::HealthCheck(family, port) => Some(Item::Need(Need::HealthCheck(family, port))),
            _ => element.frontend().map(Item::Frontend),
        }
    }

    /// What it changes.
    pub(crate) const fn kind(&self) -> StepKind {
        match self {
            Self::SetSysctl(..) => StepKind::Sysctl,
            Self::InstallRuleset(..)
            | Self::AddChooser(_)
            | Self::ReplaceChooser(_)
            | Self::DeleteChooser(_) => StepKind::Rules,
            Self::AddElement(..) | Self::DeleteElement(_) => StepKind::Element,
            Self::DeleteFlows(_) => StepKind::Flows,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl(sysctl, value) => write!(f, "set sysctl {sysctl} = {value}"),
            Self::InstallRuleset(..) => f.write_str("install packet-filter rules"),
            Self::AddChooser(chooser) => write!(f, "add chain {chooser}"),
            Self::ReplaceChooser(chooser) => write!(f, "replace the rules of chain {chooser}"),
            Self::DeleteChooser(chooser) => write!(f, "delete chain {chooser}"),
            Self::AddElement(element, None) => write!(f, "add element {element}"),
            Self::AddElement(element, Some(comment)) => {
                write!(f, "add element {element} ({comment})")
            }
            Self::DeleteElement(element) => write!(f, "delete element {element}"),
            Self::DeleteFlows(flows) => write!(f, "delete flows {flows}"),
        }
    }
}

/// Steps that lead from a [`NodeState`] to a [`DesiredState`], in order: rules and chains first, then
/// elements that restrict or that others need, and last the removal of what is no longer needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// Compares the desired state with the node.
    pub fn new(desired: &DesiredState, node: &NodeState, scope: Scope<'_>) -> Self {
        let mut builder = Builder {
            desired,
            node,
            choosers: BTreeSet::new(),
            open: Vec::new(),
            close: Vec::new(),
            flows: Vec::new(),
            text: String::new(),
        };
        match scope {
            Scope::Full => builder.everything(),
            Scope::Touched(touched) => {
                for key in &touched.frontends {
                    let frontend = desired.frontend(key).map(AsRef::as_ref);
                    builder.frontend(*key, frontend);
                }
                for need in &touched.needs {
                    builder.need(need);
                }
            }
        }
        builder.finish(matches!(scope, Scope::Full))
    }

    /// The steps, in the order of execution.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Appends the steps of another plan.
    pub(crate) fn append(&mut self, mut then: Self) {
        self.steps.append(&mut then.steps);
    }
}

impl FromIterator<Step> for Plan {
    /// A plan of these steps.
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self {
            steps: steps.into_iter().collect(),
        }
    }
}

impl NodeState {
    /// Records an executed plan, except for the failed steps with these ascending indices.
    pub fn record(&mut self, plan: &Plan, failed: &[usize]) {
        let mut place = 0;
        if self.elements.is_empty() {
            let destinations = plan.steps.iter().filter(|step| step.begins());
            self.elements.reserve(destinations.count());
        }
        // A plan changes the elements of a destination one after another.
        for run in plan.steps.chunk_by(Step::is_for_same) {
            let took_effect = run
                .iter()
                .zip(place..)
                .filter(|(_, place)| failed.binary_search(place).is_err())
                .map(|(step, _)| step);
            match run.first().and_then(Step::destination) {
                Some(key) => {
                    let changes = took_effect.filter_map(Step::element);
                    self.elements.change(key, changes);
                }
                None => took_effect.for_each(|step| self.record_step(step)),
            }
            place += run.len();
        }
    }

    fn record_step(&mut self, step: &Step) {
        match step {
            Step::SetSysctl(sysctl, value) => {
                self.sysctls.insert(*sysctl, value.to_string());
            }
            Step::InstallRuleset(ruleset, kept) => {
                self.ruleset = Some(ruleset.fingerprint());
                self.choosers.retain(|chooser| kept.contains(chooser));
                self.outdated.retain(|chooser| kept.contains(chooser));
            }
            Step::AddChooser(chooser) => _ = self.choosers.insert(*chooser),
            Step::ReplaceChooser(chooser) => {
                self.outdated.remove(chooser);
                self.choosers.insert(*chooser);
            }
            Step::DeleteChooser(chooser) => {
                self.outdated.remove(chooser);
                self.choosers.remove(chooser);
            }
            Step::AddElement(element, comment) => self.elements.insert(*element, comment.clone()),
            Step::DeleteElement(element) => self.elements.remove(element),
            Step::DeleteFlows(_) => {}
        }
    }
}

struct Builder<'a> {
    desired: &'a DesiredState,
    node: &'a NodeState,
    /// The chains that are needed, as far as this plan knows.
    choosers: BTreeSet<Chooser>,
    open: Vec<Step>,
    close: Vec<Step>,
    flows: Vec<Flows>,
    /// For texts that are composed.
    text: String,
}

impl Builder<'_> {
    fn everything(&mut self) {
        let (desired, node) = (self.desired, self.node);
        let frontends = desired.frontends().map(|one| (one.key, Some(one.as_ref())));
        let mut frontends: Vec<_> = frontends.collect();
        let gone = node.elements.frontends();
        let gone = gone.filter(|key| desired.frontend(key).is_none());
        frontends.extend(gone.map(|key| (*key, None)));
        frontends.sort_unstable_by_key(|(key, _)| *key);
        for (key, frontend) in frontends {
            self.frontend(key, frontend);
        }
        let mut others: BTreeSet<_> = desired.all_needs().filter_map(of_need).collect();
        // Service CIDRs, which reject everything that is no Service, come last: another proxy may
        // serve them already, and its connections must continue.
        others.extend(base_elements(desired.config()));
        let stale = node.elements.others();
        let stale = stale.filter(|element| !others.contains(element)).copied();
        let (networks, stale): (Vec<_>, Vec<_>) = stale.partition(Element::is_network);
        self.close
            .extend(stale.into_iter().map(Step::DeleteElement));
        let missing = others.into_iter();
        let missing = missing.filter(|element| !node.elements.contains(element));
        let (new_networks, missing): (Vec<_>, Vec<_>) = missing.partition(Element::is_network);
        let add = |element| Step::AddElement(element, None);
        self.open.extend(missing.into_iter().map(add));
        // Networks before the new ones, because intervals must not overlap; and in one transaction,
        // because an address may be in an old and in a new one.
        self.open
            .extend(networks.into_iter().map(Step::DeleteElement));
        self.open.extend(new_networks.into_iter().map(add));
    }

    fn need(&mut self, need: &Need) {
        let Some(element) = of_need(need) else {
            return;
        };
        match (
            self.node.elements.contains(&element),
            self.desired.needs(need),
        ) {
            (false, true) => self.open.push(Step::AddElement(element, None)),
            (true, false) => self.close.push(Step::DeleteElement(element)),
            _ => {}
        }
    }

    /// `frontend` is what the key is to serve, if anything.
    fn frontend(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        let elements = &self.node.elements;
        let there: BTreeMap<_, _> = elements.of(&key).collect();
        let before = Before::of(there.keys().copied());
        let wanted = match frontend {
            Some(frontend) => wanted(frontend, &before, &mut self.text),
            None => Vec::new(),
        };
        if may_be_stale(key) {
            self.flows.extend(stale(key, frontend, &before.backends()));
        }
        let mut gone: BTreeSet<_> = there.keys().copied().copied().collect();
        for (element, comment) in wanted {
            if let Element::Service {
                audience, choice, ..
            } = element
            {
                self.choosers.insert(Chooser {
                    family: key.family(),
                    is_node_port: key.is_node_port(),
                    audience,
                    choice,
                });
            }
            if !there.is_empty() {
                if there.get(&element).is_some_and(|old| **old == comment) {
                    gone.remove(&element);
                    continue;
                }
                // Both in one transaction, so that the element is never missing.
                let old = gone.range(element.first_in_its_place()..).next().copied();
                if let Some(old) = old.filter(|old| old.excludes(&element)) {
                    gone.remove(&old);
                    self.open.push(Step::DeleteElement(old));
                }
            }
            self.open.push(Step::AddElement(element, comment));
        }
        // What leads to others before these.
        let rank = |element: &Element| match element {
            Element::Service { .. } => 0,
            Element::Number { .. } => 1,
            _ => 2,
        };
        let mut gone: Vec<_> = gone.into_iter().collect();
        gone.sort_by_key(rank);
        self.close.extend(gone.into_iter().map(Step::DeleteElement));
    }

    fn finish(self, is_full: bool) -> Plan {
        let (config, node) = (self.desired.config(), self.node);
        let mut steps = Vec::new();
        if is_full {
            let missing = missing_sysctls(config, &node.sysctls);
            steps.extend(missing.map(|(sysctl, value)| Step::SetSysctl(sysctl, value)));
            let ruleset = Ruleset::new(config);
            if node.ruleset != Some(ruleset.fingerprint()) {
                // Even those that nothing needs any more: elements that select them go later.
                let kept = node.choosers.union(&node.outdated).copied().collect();
                steps.push(Step::InstallRuleset(ruleset, kept));
            }
        }
        let needed = self.choosers.iter().copied();
        let needed = needed.filter(|chooser| !node.choosers.contains(chooser));
        steps.extend(
            needed.map(|chooser| match node.outdated.contains(&chooser) {
                true => Step::ReplaceChooser(chooser),
                false => Step::AddChooser(chooser),
            }),
        );
        // A first sync has far more of these: they stay where they are.
        let first = mem::replace(&mut steps, self.open);
        steps.splice(..0, first);
        steps.extend(self.close);
        if is_full {
            let there = node.choosers.union(&node.outdated);
            let unused = there.filter(|chooser| !self.choosers.contains(chooser));
            steps.extend(unused.copied().map(Step::DeleteChooser));
        }
        steps.extend(self.flows.into_iter().map(Step::DeleteFlows));
        Plan { steps }
    }
}

/// What a destination has, in each audience.
#[derive(Default)]
struct Before {
    /// The endpoints by the number that is drawn.
    targets: BTreeMap<Audience, BTreeMap<u32, Target>>,
    /// The lasting numbers of endpoints.
    lasting: BTreeMap<Audience, BTreeMap<Target, u32>>,
}

impl Before {
    fn backends(&self) -> BTreeSet<SocketAddr> {
        let targets = self.targets.values().flat_map(BTreeMap::values);
        let addresses = targets.map(|to| SocketAddr::new(to.address, to.port.get()));
        addresses.collect()
    }

    fn of<'a>(elements: impl Iterator<Item = &'a Element> + Clone) -> Self {
        let mut before = Self::default();
        let mut by_lasting = BTreeMap::new();
        for element in elements.clone() {
            let Element::Endpoint {
                audience,
                number,
                to,
                ..
            } = element
            else {
                continue;
            };
            if *number < LASTING {
                let targets = before.targets.entry(*audience).or_default();
                targets.insert(*number, *to);
            } else {
                let lasting = before.lasting.entry(*audience).or_default();
                lasting.insert(*to, *number);
                by_lasting.insert((*audience, *number), *to);
            }
        }
        for element in elements {
            if let Element::Number {
                audience,
                number,
                lasting,
                ..
            } = element
                && let Some(to) = by_lasting.get(&(*audience, *lasting))
            {
                let targets = before.targets.entry(*audience).or_default();
                targets.insert(*number, *to);
            }
        }
        before
    }
}

/// The lasting numbers of endpoints: those that they have, or else a hash of address and port, or the
/// next number that no other endpoint has.
fn lasting(targets: &BTreeSet<Target>, before: &BTreeMap<Target, u32>) -> BTreeMap<Target, u32> {
    let mut numbers: BTreeMap<_, _> = targets
        .iter()
        .filter_map(|to| Some((*to, *before.get(to)?)))
        .collect();
    let mut taken: BTreeSet<_> = numbers.values().copied().collect();
    for to in targets {
        numbers.entry(*to).or_insert_with(|| {
            let hash = fnv1a(to.to_string().into_bytes());
            let [.., a, b, c, d] = (hash ^ hash >> 32).to_be_bytes();
            let mut number = LASTING | u32::from_be_bytes([a, b, c, d]) & (LASTING - 1);
            while !taken.insert(number) {
                number = LASTING | number.wrapping_add(1) & (LASTING - 1);
            }
            number
        });
    }
    numbers
}

/// The clients of a frontend, with their backends.
fn audiences(frontend: &Frontend) -> impl Iterator<Item = (Audience, &Arc<[Backend]>)> {
    let external = frontend.external.iter();
    let external = external.map(|backends| (Audience::External, backends));
    [(Audience::All, &frontend.backends)]
        .into_iter()
        .chain(external)
}

/// The elements of a frontend, in the order in which they are added: those that restrict, then those
/// that others need, then those that admit.
fn wanted(frontend: &Frontend, before: &Before, text: &mut String) -> Vec<(Element, Comment)> {
    let key = frontend.key;
    let mut owner = || Some(frontend.owner.to_text(text));
    let affinity = match frontend.session_affinity {
        SessionAffinity::None => None,
        SessionAffinity::ClientIp(seconds) => Some(seconds),
    };
    // One for each backend and the Service's.
    let mut wanted = Vec::with_capacity(frontend.backends.len() + 1);
    if let Some(ranges) = &frontend.source_ranges {
        let networks = ranges.iter().flat_map(|range| split_range(*range));
        let ranges = networks.map(|network| Element::SourceRange(key, network));
        let ranges = ranges.chain([Element::Restricted(key)]);
        wanted.extend(ranges.map(|element| (element, None)));
    }
    let is_masqueraded = matches!(
        (frontend.kind, &frontend.external),
        (FrontendKind::LoadBalancer | FrontendKind::ExternalIp, None)
    );
    if is_masqueraded {
        wanted.push((Element::Masqueraded(key), None));
    }
    let (no_targets, no_numbers) = (BTreeMap::new(), BTreeMap::new());
    for (audience, backends) in audiences(frontend) {
        let targets = before.targets.get(&audience).unwrap_or(&no_targets);
        let numbered = number(backends, targets);
        let Some(count) = u32::try_from(numbered.len()).ok().and_then(NonZeroU32::new) else {
            wanted.push(match (audience, frontend.without_backends) {
                (Audience::All, WithoutBackends::Refuse) => (Element::NoEndpoints(key), owner()),
                _ => (Element::Dropped(key, audience), owner()),
            });
            continue;
        };
        let endpoint = |(to, number): (Target, u32)| Element::Endpoint {
            key,
            audience,
            number,
            to,
        };
        if affinity.is_some() {
            let all = numbered.iter().copied().collect();
            let before = before.lasting.get(&audience).unwrap_or(&no_numbers);
            let lasting = lasting(&all, before);
            wanted.extend(
                lasting
                    .iter()
                    .map(|(to, number)| (endpoint((*to, *number)), None)),
            );
            let numbers = numbered.iter().zip(0..).filter_map(|(to, number)| {
                let lasting = *lasting.get(to)?;
                Some(Element::Number {
                    key,
                    audience,
                    number,
                    lasting,
                })
            });
            wanted.extend(numbers.map(|element| (element, None)));
        } else {
            let endpoints = numbered.into_iter().zip(0..).map(endpoint);
            wanted.extend(endpoints.map(|element| (element, None)));
        }
        let choice = Choice { count, affinity };
        wanted.push((
            Element::Service {
                key,
                audience,
                choice,
            },
            owner(),
        ));
    }
    wanted
}

/// The most numbers that weights may take.
const MOST_NUMBERS: u64 = 4096;

/// The endpoints by number, each as often as its weight says. An endpoint keeps the numbers that it
/// has, as far as there are as many.
fn number(backends: &[Backend], before: &BTreeMap<u32, Target>) -> Vec<Target> {
    let mut left = shares(backends);
    let count: u64 = left.iter().map(|(_, shares)| shares).sum();
    let count = u32::try_from(count).unwrap_or(u32::MAX).min(Choice::MOST);
    let one_by_one = |left: Vec<(Target, u64)>| {
        let each = left.into_iter();
        each.flat_map(|(to, shares)| (0..shares).map(move |_| to))
    };
    if before.is_empty() {
        let all = (0..count).zip(one_by_one(left));
        return all.map(|(_, to)| to).collect();
    }
    let mut take = |to: &Target| {
        let place = left.binary_search_by_key(to, |(to, _)| *to).ok()?;
        let (to, shares) = left.get_mut(place).filter(|(_, shares)| *shares > 0)?;
        *shares -= 1;
        Some(*to)
    };
    let kept: Vec<_> = (0..count)
        .map(|number| before.get(&number).and_then(&mut take))
        .collect();
    let mut rest = one_by_one(left);
    let all = kept.into_iter().map(|kept| kept.or_else(|| rest.next()));
    all.flatten().collect()
}

/// How many numbers each endpoint gets, in the order of endpoints.
fn shares(backends: &[Backend]) -> Vec<(Target, u64)> {
    let weights = || {
        backends
            .iter()
            .map(|backend| u64::from(backend.weight.get()))
    };
    let divisor = weights().fold(0, greatest_common_divisor).max(1);
    let sum: u64 = weights().map(|weight| weight / divisor).sum();
    let most = MOST_NUMBERS.max(u64::try_from(backends.len()).unwrap_or(u64::MAX));
    let share = |backend: &Backend| {
        let weight = u64::from(backend.weight.get()) / divisor;
        match sum > most {
            true => (weight * most / sum).max(1),
            false => weight,
        }
    };
    let shares = backends.iter().map(|one| (Target::from(one), share(one)));
    let mut shares: Vec<_> = shares.collect();
    shares.sort_unstable();
    // The same endpoint twice has the shares of both.
    shares.dedup_by(|(to, shares), (kept, all)| {
        let is_same = to == kept;
        if is_same {
            *all += *shares;
        }
        is_same
    });
    shares
}

const fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => greatest_common_divisor(b, a % b),
    }
}

/// The element that something shared needs; the other needs are for IPVS only.
fn of_need(need: &Need) -> Option<Element> {
    match need {
        Need::Hairpin(address) => Some(Element::Hairpin(*address)),
        Need::HealthCheck(family, port) => Some(Element::HealthCheck(*family, *port)),
        _ => None,
    }
}

/// The elements that do not depend on Services.
fn base_elements(config: &Config) -> impl Iterator<Item = Element> {
    let node_ports = config.node_port_networks().into_iter();
    let service_cidrs = config.service_cidrs.iter();
    let service_cidrs = service_cidrs.map(|cidr| Element::ServiceCidr(cidr.trunc()));
    service_cidrs.chain(node_ports.map(Element::NodePortAddresses))
}

#[cfg(test)]
mod tests;
