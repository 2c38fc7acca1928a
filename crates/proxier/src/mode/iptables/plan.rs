//! The difference between the observed and the desired rules of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipvs::Family;

use super::draft::{Chain, Draft};
use super::transaction::{Part, Written};
use super::{Jump, Rules, Table, Transaction, base};
use crate::desired::{DesiredState, FrontendKey, Need};
use crate::mode::flows::{may_be_stale, stale};
use crate::mode::ipvs::plan::{Scope, missing_sysctls};
use crate::mode::{Flows, StepKind, Sysctl};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// svcproxy's state on a node in iptables mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeState {
    /// Values of the sysctls that svcproxy uses.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// The rules for IPv4.
    pub v4: Rules,
    /// The rules for IPv6.
    pub v6: Rules,
}

impl NodeState {
    /// A node with these values of sysctls and these rules.
    pub const fn new(sysctls: BTreeMap<Sysctl, String>, v4: Rules, v6: Rules) -> Self {
        Self { sysctls, v4, v6 }
    }

    /// The rules for a family.
    pub const fn rules(&self, family: Family) -> &Rules {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Records an executed plan, except for the failed steps with these indices.
    pub fn record(&mut self, plan: &Plan, failed: &[usize]) {
        for (place, step) in plan.steps.iter().enumerate() {
            if failed.contains(&place) {
                continue;
            }
            match step {
                Step::SetSysctl(sysctl, value) => {
                    self.sysctls.insert(*sysctl, value.to_string());
                }
                Step::Restore(transaction) => transaction.record(match transaction.family {
                    Family::V4 => &mut self.v4,
                    Family::V6 => &mut self.v6,
                }),
                Step::DeleteFlows(_) => {}
            }
        }
    }
}

/// One step of a plan. `Display` is a summary; a [`Transaction`]'s is its text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Set a sysctl.
    SetSysctl(Sysctl, u32),
    /// Have iptables-restore(8) change one family's tables.
    Restore(Transaction),
    /// Delete stale flows from connection tracking.
    DeleteFlows(Flows),
}

/// The number of chains that a summary names.
const NAMED: usize = 4;

impl Step {
    /// The flows that it deletes.
    #[cfg(feature = "iptables")]
    pub(super) const fn flows(&self) -> Option<&Flows> {
        match self {
            Self::DeleteFlows(flows) => Some(flows),
            _ => None,
        }
    }

    /// What it changes.
    pub(crate) const fn kind(&self) -> StepKind {
        match self {
            Self::SetSysctl(..) => StepKind::Sysctl,
            Self::Restore(_) => StepKind::Rules,
            Self::DeleteFlows(_) => StepKind::Flows,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl(sysctl, value) => write!(f, "set sysctl {sysctl} = {value}"),
            Self::Restore(transaction) => {
                let (family, chains) = (transaction.family, transaction.chains());
                write!(f, "restore {chains} chains ({family})")?;
                let (named, left_out) = transaction.names(NAMED);
                write!(f, ": {}", named.join(", "))?;
                match left_out {
                    0 => Ok(()),
                    _ => write!(f, ", and {left_out} more"),
                }
            }
            Self::DeleteFlows(flows) => write!(f, "delete flows {flows}"),
        }
    }
}

/// Steps that lead from a [`NodeState`] to a [`DesiredState`], in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
}

impl FromIterator<Step> for Plan {
    /// A plan of these steps.
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self {
            steps: steps.into_iter().collect(),
        }
    }
}

impl Plan {
    /// Compares the desired state with the node.
    pub fn new(desired: &DesiredState, node: &NodeState, scope: Scope<'_>) -> Self {
        let mut steps = Vec::new();
        if matches!(scope, Scope::Full) {
            let missing = missing_sysctls(desired.config(), &node.sysctls);
            steps.extend(missing.map(|(sysctl, value)| Step::SetSysctl(sysctl, value)));
        }
        let mut flows = Vec::new();
        for family in FAMILIES {
            let (there, changes) = (
                node.rules(family),
                Changes::new(desired, node, family, scope),
            );
            let Changes {
                draft,
                jumps,
                flows: keys,
            } = changes;
            let parts = parts(draft, jumps, there);
            flows.extend(keys.into_iter().flat_map(|key| {
                let frontend = desired.frontend(&key);
                stale(key, frontend.map(AsRef::as_ref), &there.backends(key))
            }));
            if !parts.is_empty() {
                steps.push(Step::Restore(Transaction { family, parts }));
            }
        }
        steps.extend(flows.into_iter().map(Step::DeleteFlows));
        Self { steps }
    }

    /// A plan of these steps.
    #[cfg(feature = "iptables")]
    pub(super) const fn of(steps: Vec<Step>) -> Self {
        Self { steps }
    }

    /// The plan that removes all rules of a node.
    #[must_use]
    pub fn removal(node: &NodeState) -> Self {
        let all = FAMILIES.map(|family| Transaction::removal(family, node.rules(family)));
        let all = all
            .into_iter()
            .filter(|transaction| !transaction.is_empty());
        let steps = all.map(Step::Restore).collect();
        Self { steps }
    }

    /// The steps, in the order of execution.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Appends the steps of another plan.
    pub(crate) fn append(&mut self, mut then: Self) {
        self.steps.append(&mut then.steps);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// The scope of a plan in one family.
struct Changes<'a> {
    draft: Draft<'a>,
    /// The desired rules in built-in chains; `None` if they are out of scope.
    jumps: Option<Vec<Jump>>,
    /// The frontends whose flows may be stale.
    flows: BTreeSet<FrontendKey>,
}

impl<'a> Changes<'a> {
    fn new(desired: &DesiredState, node: &'a NodeState, family: Family, scope: Scope<'_>) -> Self {
        let config = desired.config();
        let there = node.rules(family);
        let mut flows = BTreeSet::new();
        let mut draft_of = |draft: &mut Draft<'_>, key: FrontendKey, frontend| {
            if key.family() == family {
                draft.frontend(key, frontend, config);
                flows.extend(may_be_stale(key).then_some(key));
            }
        };
        let hairpin = |need: &Need| hairpin(need).filter(|ip| Family::of(ip) == family);
        match scope {
            Scope::Touched(touched) => {
                let mut draft = Draft::of(there);
                for key in &touched.frontends {
                    let frontend = desired.frontend(key).map(AsRef::as_ref);
                    draft_of(&mut draft, *key, frontend);
                }
                for address in touched.needs.iter().filter_map(hairpin) {
                    draft.hairpin(address, desired.needs(&Need::Hairpin(address)));
                }
                let is_check =
                    |need: &Need| matches!(need, Need::HealthCheck(of, _) if *of == family);
                if touched.needs.iter().any(is_check) {
                    draft.health_checks(desired.health_checks().map(|check| check.port));
                }
                Self {
                    draft,
                    jumps: None,
                    flows,
                }
            }
            Scope::Full => {
                let mut draft = Draft::from_scratch();
                // A family that is not served is not touched.
                let speaks = config.serves(family);
                if speaks {
                    draft.base(config, family);
                    draft.health_checks(desired.health_checks().map(|check| check.port));
                }
                for frontend in desired.frontends() {
                    draft_of(&mut draft, frontend.key, Some(frontend));
                }
                for address in desired.all_needs().filter_map(hairpin) {
                    draft.hairpin(address, true);
                }
                flows.extend(there.frontends(family).filter(|key| may_be_stale(*key)));
                let jumps = speaks.then(base::jumps).into_iter().flatten();
                let jumps = Some(jumps.collect());
                Self {
                    draft,
                    jumps,
                    flows,
                }
            }
        }
    }
}

/// The address of a backend that may be its own client. The other needs are for IPVS only.
fn hairpin(need: &Need) -> Option<IpAddr> {
    match need {
        Need::Hairpin(address) => Some(*address),
        _ => None,
    }
}

/// The changes of each table. Chains that the draft lacks are deleted only if the draft is
/// complete. Rules of table filter that reject or drop are added before the changes of table nat,
/// and removed after them, so that no packet goes astray in between; they handle only packets that
/// nothing has translated. On a node without svcproxy's rules, they are added after table nat: the
/// mode ipvs may have been in effect until now, and they would reject its packets before IPVS sees
/// them.
pub(super) fn parts(draft: Draft<'_>, jumps: Option<Vec<Jump>>, there: &Rules) -> Vec<Part> {
    let mut parts = Parts::default();
    let mut is_closing = false;
    if draft.is_everything() {
        for (key, old) in &there.chains {
            if !draft.chains.contains_key(key) {
                let (table, name) = key;
                parts
                    .of(*table)
                    .deleted
                    .insert(name.clone(), Arc::clone(old));
            }
        }
    }
    let mut chains: Vec<_> = draft.chains.into_iter().collect();
    chains.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (key, chain) in chains {
        let was = there.chains.get(&key).map(Arc::clone);
        let (table, name) = key;
        if chain.rules.is_empty() && !chain.is_fixed {
            if let Some(was) = was {
                parts.of(table).deleted.insert(name, was);
            }
        } else if was.as_deref() != Some(chain.rules.as_slice()) {
            let is_new = |rule| !was.as_deref().unwrap_or_default().contains(rule);
            is_closing |= table == Table::Filter && chain.rules.iter().any(is_new);
            let Chain { rules, owner, .. } = chain;
            let rules = rules.into();
            let written = Written { rules, owner, was };
            parts.of(table).rewritten.insert(name, written);
        }
    }
    if let Some(wanted) = jumps {
        let mut left = there.jumps.clone();
        for jump in wanted {
            match left.iter().position(|other| *other == jump) {
                Some(at) => drop(left.remove(at)),
                None => parts.of(jump.table).inserted.push(jump),
            }
        }
        for jump in left {
            parts.of(jump.table).removed.push(jump);
        }
    }
    let mut in_order: Vec<_> = parts
        .0
        .into_values()
        .filter(|part| !part.is_empty())
        .collect();
    let filter_is_first = is_closing && !there.is_empty();
    let is_late = |part: &Part| (part.table == Table::Filter) != filter_is_first;
    in_order.sort_by_key(is_late);
    in_order
}

#[derive(Default)]
struct Parts(BTreeMap<Table, Part>);

impl Parts {
    fn of(&mut self, table: Table) -> &mut Part {
        self.0.entry(table).or_insert_with(|| Part::new(table))
    }
}
