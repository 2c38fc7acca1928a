//! The Service ports whose rules iptables rejects permanently.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use crate::desired::{DesiredState, Problem, ServicePortName, Touched};
use crate::mode::Refused;
use crate::model::{ObjectName, PortName};
use crate::notice::{Notice, Reason};

/// The rejected Service ports, which keep their previous rules, with the first message of iptables.
/// A Service port is tried again when its Service changes, or when all are.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    standing: BTreeMap<ServicePortName, String>,
    /// Rejected before the last plan, which tries them again.
    retried: BTreeMap<ServicePortName, String>,
    /// Services whose rules are all accepted again.
    accepted: BTreeSet<ObjectName>,
}

impl Refusals {
    /// Marks all for a retry.
    pub(crate) fn retry_all(&mut self) {
        self.retried = mem::take(&mut self.standing);
    }

    /// Marks those of changed Services for a retry. Returns the extended scope, if it is larger
    /// than the changes.
    pub(crate) fn retry(&mut self, desired: &DesiredState, touched: &Touched) -> Option<Touched> {
        self.retried.clear();
        for service in &touched.services {
            let ports: Vec<_> = self.of(service).map(|(owner, _)| owner.clone()).collect();
            let ports = ports
                .into_iter()
                .filter_map(|port| self.standing.remove_entry(&port));
            self.retried.extend(ports);
        }
        if self.retried.is_empty() {
            return None;
        }
        let mut more = touched.clone();
        let services: BTreeSet<_> = self.retried.keys().map(|owner| &owner.service).collect();
        let frontends = services
            .into_iter()
            .flat_map(|service| desired.frontends_of(service));
        let frontends = frontends.filter(|frontend| self.is_retried(&frontend.owner));
        more.frontends
            .extend(frontends.map(|frontend| frontend.key));
        Some(more)
    }

    /// Whether the last plan retries this Service port.
    pub(crate) fn is_retried(&self, owner: &ServicePortName) -> bool {
        self.retried.contains_key(owner)
    }

    /// Records the rejections of a plan. If the plan failed in part, some retries may not have
    /// happened.
    pub(crate) fn settle(&mut self, refused: &[Refused], is_done: bool) {
        let mut retried = mem::take(&mut self.retried);
        for Refused { owner, error, .. } in refused {
            // Keep the first message: the line number differs each time, and the problem is
            // reported once.
            let said = retried.remove(owner);
            let said = said.unwrap_or_else(|| error.to_string());
            self.standing.entry(owner.clone()).or_insert(said);
        }
        if is_done {
            self.accepted = retried.into_keys().map(|owner| owner.service).collect();
        } else {
            self.standing.append(&mut retried);
        }
    }

    /// The notices of existing Services whose rules are accepted again; each once.
    pub(crate) fn take_accepted(&mut self, desired: &DesiredState) -> Vec<Notice> {
        let mut accepted = mem::take(&mut self.accepted);
        accepted.retain(|service| {
            self.of(service).next().is_none() && desired.frontends_of(service).next().is_some()
        });
        let notices = accepted.into_iter().map(|service| {
            let message = "iptables accepts the rules of the Service now";
            Notice::of_service(service, Reason::RulesAccepted, message)
        });
        notices.collect()
    }

    /// The problems, one per Service.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let services: BTreeSet<_> = self.standing.keys().map(|owner| &owner.service).collect();
        services
            .into_iter()
            .filter_map(|service| self.problem_of(service))
    }

    /// The problem of a Service, if any.
    pub(crate) fn problem_of(&self, service: &ObjectName) -> Option<Problem> {
        let mut ports = self.of(service);
        let (_, said) = ports.next()?;
        let others = match ports.count() {
            0 => String::new(),
            count => format!(", and {count} more of its ports"),
        };
        Some(Problem {
            service: service.clone(),
            field: "spec.ports".to_owned(),
            reason: Reason::RulesRefused,
            message: format!(
                "iptables rejects rules of the Service; the previous ones stay in effect, and \
                 svcproxy retries at each change of the Service and at each audit: {said}{others}"
            ),
        })
    }

    fn of(&self, service: &ObjectName) -> impl Iterator<Item = (&ServicePortName, &String)> {
        let first = ServicePortName {
            service: service.clone(),
            port: PortName::UNNAMED,
        };
        let ports = self.standing.range(first..);
        ports.take_while(move |(owner, _)| owner.service == *service)
    }
}
