//! What Services request and do not get.

use std::fmt;

use super::{Claim, DesiredState};
use crate::desired::Frontend;
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};

/// Something that a Service requests and does not get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Problem {
    /// The Service.
    pub service: ObjectName,
    /// Path of the field that requests it.
    pub field: String,
    /// The kind of problem.
    pub reason: Reason,
    /// Why it does not get it.
    pub message: String,
}

impl From<Problem> for Notice {
    fn from(problem: Problem) -> Self {
        let message = format!("{}: {}", problem.field, problem.message);
        Self::of_service(problem.service, problem.reason, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Service {}: {}: {}",
            self.service, self.field, self.message
        )
    }
}

impl Claim {
    /// The problem of a Service that does not get the key.
    fn lost_by(&self, loser: &Frontend) -> Problem {
        let holder = &self.holder.frontend.owner.service;
        Problem {
            service: loser.owner.service.clone(),
            field: loser.kind.field().to_owned(),
            reason: Reason::AddressConflict,
            message: format!("{} belongs to Service {holder}", loser.key),
        }
    }
}

impl DesiredState {
    /// What Services request and do not get, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let own = self.problems.values().flatten().cloned();
        let contested = self.contested.iter().filter_map(|key| self.claims.get(key));
        let lost = contested.flat_map(|claim| {
            let losers = claim.others.iter();
            losers.map(|loser| claim.lost_by(&loser.frontend))
        });
        let captured = self.captured.keys();
        let captured = captured.flat_map(|service| self.captured_of(service));
        let ports = self.health_port_problems();
        sorted(own.chain(lost).chain(captured).chain(ports))
    }

    /// What one Service requests and does not get, sorted.
    pub fn problems_of(&self, service: &ObjectName) -> Vec<Problem> {
        let own = self.problems.get(service).into_iter().flatten().cloned();
        let lost = self.frontends_of(service).filter_map(|frontend| {
            let claim = self.claims.get(&frontend.key)?;
            (claim.holder.frontend.owner.service != *service).then(|| claim.lost_by(frontend))
        });
        let captured = self.captured_of(service);
        let ports = self.health_port_problems_of(service);
        sorted(own.chain(lost).chain(captured).chain(ports))
    }
}

fn sorted(problems: impl Iterator<Item = Problem>) -> Vec<Problem> {
    let mut problems: Vec<_> = problems.collect();
    problems.sort();
    problems
}
