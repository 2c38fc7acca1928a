//! The listeners that could not be opened: another program has the port, or svcproxy may not have it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::mem;
use std::net::SocketAddr;

use super::NodeState;
use crate::desired::{DesiredState, Frontend, FrontendKey, Problem};
use crate::mode::NodeError;
use crate::mode::ipvs::plan::Scope;
use crate::model::ObjectName;
use crate::notice::Reason;

/// The addresses at which the last plans could not listen.
#[derive(Debug)]
pub(super) struct Unopened {
    reasons: BTreeMap<FrontendKey, BTreeMap<SocketAddr, String>>,
    /// The frontends that changed since the last [`Self::take_changed`].
    changed: BTreeSet<FrontendKey>,
}

impl Unopened {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            reasons: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Forgets those that a plan of this scope tries again, or no longer needs.
    pub(super) fn forget(&mut self, scope: Scope<'_>) {
        match scope {
            Scope::Full => self
                .changed
                .extend(mem::take(&mut self.reasons).into_keys()),
            Scope::Touched(touched) => {
                let frontends = touched.frontends.iter().copied();
                let gone = frontends.filter(|key| self.reasons.remove(key).is_some());
                self.changed.extend(gone);
            }
        }
    }

    /// Records a failure.
    pub(super) fn record(&mut self, key: FrontendKey, address: SocketAddr, error: &NodeError) {
        let source = error.source().map(|source| format!(": {source}"));
        let reason = format!("{error}{}", source.unwrap_or_default());
        self.reasons.entry(key).or_default().insert(address, reason);
        self.changed.insert(key);
    }

    /// The problems, one for each address: of all Services, or of one.
    pub(super) fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |frontend: &Frontend| problems.extend(self.problems_of(frontend));
        match of {
            Some(service) => desired.frontends_of(service).for_each(|of| add(of)),
            None => {
                let frontends = self.reasons.keys().filter_map(|key| desired.frontend(key));
                frontends.for_each(|of| add(of));
            }
        }
        problems
    }

    fn problems_of(&self, frontend: &Frontend) -> impl Iterator<Item = Problem> {
        let reasons = self.reasons.get(&frontend.key).into_iter().flatten();
        let service = frontend.owner.service.clone();
        reasons.map(move |(_, reason)| Problem {
            service: service.clone(),
            field: "spec.ports".to_owned(),
            reason: Reason::ListenFailed,
            message: format!("{reason}; it is not served there until svcproxy can"),
        })
    }

    /// The frontends that changed, each with the reason if it has no listener at all.
    pub(super) fn take_changed(
        &mut self,
        node: &NodeState,
    ) -> impl Iterator<Item = (FrontendKey, Option<String>)> {
        mem::take(&mut self.changed).into_iter().map(|key| {
            let reasons = self.reasons.get(&key);
            let reasons = reasons.filter(|_| !node.listeners.contains_key(&key));
            let first = reasons.and_then(|reasons| reasons.values().next());
            (key, first.cloned())
        })
    }
}
