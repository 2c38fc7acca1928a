//! The listeners that could not be opened: another program has the port, or svcproxy may not have it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use foldhash::HashMap;

use super::NodeState;
use crate::desired::{DesiredState, FrontendKey, Problem};
use crate::mode::NodeError;
use crate::mode::ipvs::plan::Scope;
use crate::model::ObjectName;
use crate::notice::Reason;

/// The addresses at which the last plans could not listen, each with the reason.
#[derive(Debug)]
pub(super) struct Unopened(BTreeMap<(FrontendKey, SocketAddr), String>);

impl Unopened {
    /// None.
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Forgets those that a plan of this scope tries again, or no longer needs.
    pub(super) fn forget(&mut self, scope: Scope<'_>) {
        match scope {
            Scope::Full => self.0.clear(),
            Scope::Touched(touched) => {
                self.0
                    .retain(|(key, _), _| !touched.frontends.contains(key));
            }
        }
    }

    /// Records a failure.
    pub(super) fn record(&mut self, key: FrontendKey, address: SocketAddr, error: &NodeError) {
        let source = std::error::Error::source(error);
        let source = source.map(|source| format!(": {source}"));
        let reason = format!("{error}{}", source.unwrap_or_default());
        self.0.insert((key, address), reason);
    }

    /// The problems, one for each address: of all Services, or of one.
    pub(super) fn problems(
        &self,
        desired: &DesiredState,
        of: Option<&ObjectName>,
    ) -> impl Iterator<Item = Problem> {
        self.0.iter().filter_map(move |((key, _), reason)| {
            let service = &desired.frontend(key)?.owner.service;
            let is_asked = of.is_none_or(|of| of == service);
            is_asked.then(|| Problem {
                service: service.clone(),
                field: "spec.ports".to_owned(),
                reason: Reason::ListenFailed,
                message: format!("{reason}; it is not served there until svcproxy can"),
            })
        })
    }

    /// The frontends without any listener, each with a reason.
    pub(super) fn not_served(&self, node: &NodeState) -> HashMap<FrontendKey, String> {
        let all = self.0.iter();
        let without = all.filter(|((key, _), _)| !node.listeners.contains_key(key));
        without
            .map(|((key, _), reason)| (*key, reason.clone()))
            .collect()
    }
}
