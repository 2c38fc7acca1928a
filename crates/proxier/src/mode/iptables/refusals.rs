//! Whose rules iptables refuses for what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use crate::desired::{DesiredState, Problem, ServicePortName, Touched};
use crate::mode::Refused;
use crate::model::{ObjectName, PortName};
use crate::notice::{Notice, Reason};

/// The Service ports that keep the rules that they had, with what iptables said when it refused
/// others first. One is tried again when its Service changes, or when all are.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    standing: BTreeMap<ServicePortName, String>,
    /// Those that stood before the last plan, and that it tries again.
    retried: BTreeMap<ServicePortName, String>,
    /// Services of which nothing is refused any more.
    accepted: BTreeSet<ObjectName>,
}

impl Refusals {
    /// All are tried again.
    pub(crate) fn retry_all(&mut self) {
        self.retried = mem::take(&mut self.standing);
    }

    /// Those of Services that changed are tried again: what is to be looked at, if they make it more
    /// than what changed.
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

    /// Whether the last plan tries this one again.
    pub(crate) fn is_retried(&self, owner: &ServicePortName) -> bool {
        self.retried.contains_key(owner)
    }

    /// Takes in who was refused. If not all else was done, those that were to be tried again may not
    /// have been.
    pub(crate) fn settle(&mut self, refused: &[Refused], is_done: bool) {
        let mut retried = mem::take(&mut self.retried);
        for Refused { owner, error, .. } in refused {
            // It is told once, and a line's number is another each time.
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

    /// Tells once of the Services that are still there and of which nothing is refused any more.
    pub(crate) fn take_accepted(&mut self, desired: &DesiredState) -> Vec<Notice> {
        let mut accepted = mem::take(&mut self.accepted);
        accepted.retain(|service| {
            self.of(service).next().is_none() && desired.frontends_of(service).next().is_some()
        });
        let notices = accepted.into_iter().map(|service| {
            let message = "iptables takes its rules now, and they are in force";
            Notice::of_service(service, Reason::RulesAccepted, message)
        });
        notices.collect()
    }

    /// What is the matter, once a Service.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let services: BTreeSet<_> = self.standing.keys().map(|owner| &owner.service).collect();
        services
            .into_iter()
            .filter_map(|service| self.problem_of(service))
    }

    /// What is the matter with a Service.
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
                "iptables refuses rules, and those that were there stay; they are tried again at \
                 each change and audit: {said}{others}"
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
