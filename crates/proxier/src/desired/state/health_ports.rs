//! Ports of health checks, which no node port and no second health check may have.
//!
//! The API server allows it: it allocates both from one range, but only if they are not set by hand
//! (kubernetes/kubernetes#63617, #60749). A node port would answer the load balancer's check.

use std::num::NonZeroU16;

use ipvs::{Family, Protocol};

use super::{DesiredState, Problem, Touched, replace_needs};
use crate::desired::need::{health_check_needs, needs};
use crate::desired::{Frontend, FrontendKey, HealthCheck};
use crate::model::ObjectName;
use crate::notice::Reason;

/// The node ports with this number that a health check takes.
fn node_ports(port: NonZeroU16) -> [FrontendKey; 2] {
    [Family::V4, Family::V6].map(|family| FrontendKey::node_port(Protocol::Tcp, family, port))
}

impl DesiredState {
    /// The Service whose health check has the port of this node port: the first by name.
    pub(super) fn health_check_at(&self, key: &FrontendKey) -> Option<&ObjectName> {
        if !key.is_node_port() || key.protocol != Protocol::Tcp {
            return None;
        }
        self.health_ports.get(&key.port)?.first()
    }

    /// Takes a change of a Service's health check into account.
    pub(super) fn update_health_port(
        &mut self,
        name: &ObjectName,
        new: Option<&HealthCheck>,
        touched: &mut Option<&mut Touched>,
    ) {
        let before = self.health_checks.get(name);
        let [old_port, new_port] = [before, new].map(|check| check.map(|check| check.port));
        if old_port == new_port {
            return;
        }
        let [went, came] = [before, new].map(|check| health_check_needs(check, &self.config));
        replace_needs(&mut self.needs, went, came, touched);
        for port in old_port.into_iter().chain(new_port) {
            let keys = node_ports(port);
            let served = keys.map(|key| self.frontend(&key).cloned());
            let checks = self.health_ports.entry(port).or_default();
            if let Some(touched) = touched {
                touched.services.extend(checks.iter().cloned());
            }
            if Some(port) == new_port {
                checks.insert(name.clone());
            } else {
                checks.remove(name);
            }
            if checks.is_empty() {
                self.health_ports.remove(&port);
            }
            for (key, was) in keys.into_iter().zip(served) {
                let is = self.frontend(&key).cloned();
                if was == is {
                    continue;
                }
                let of = |frontend| needs(frontend, &self.config);
                let (went, came) = (
                    was.iter().flat_map(|f| of(f)),
                    is.iter().flat_map(|f| of(f)),
                );
                replace_needs(&mut self.needs, went, came, touched);
                if let Some(touched) = touched {
                    touched.frontends.insert(key);
                    touched.passed_on.insert(key);
                }
            }
        }
    }

    /// What Services do not get because of health checks.
    pub(super) fn health_port_problems(&self) -> impl Iterator<Item = Problem> {
        self.health_ports.iter().flat_map(|(port, checks)| {
            let first = checks.first();
            let others = checks.iter().skip(1);
            let others = others.filter_map(move |other| Some(second(other, *port, first?)));
            let claims = node_ports(*port).into_iter();
            let claims = claims.filter_map(|key| self.claims.get(&key));
            let claimants =
                claims.flat_map(|claim| [&claim.holder].into_iter().chain(&claim.others));
            let node_ports = claimants.filter_map(move |of| Some(taken(&of.frontend, first?)));
            others.chain(node_ports)
        })
    }

    /// What one Service does not get because of health checks.
    pub(super) fn health_port_problems_of(
        &self,
        service: &ObjectName,
    ) -> impl Iterator<Item = Problem> {
        let check = self.health_checks.get(service);
        let port = check.map(|check| check.port);
        let second = port.and_then(|port| {
            let first = self.health_ports.get(&port)?.first()?;
            (first != service).then(|| second(service, port, first))
        });
        let node_ports = self.frontends_of(service).filter_map(|frontend| {
            let first = self.health_check_at(&frontend.key)?;
            Some(taken(frontend, first))
        });
        second.into_iter().chain(node_ports)
    }
}

/// The problem of the second Service with a health check at a port.
fn second(service: &ObjectName, port: NonZeroU16, first: &ObjectName) -> Problem {
    Problem {
        service: service.clone(),
        field: "spec.healthCheckNodePort".to_owned(),
        reason: Reason::AddressConflict,
        message: format!("{port} belongs to the health check of Service {first}"),
    }
}

/// The problem of a Service with a node port that a health check has.
fn taken(frontend: &Frontend, by: &ObjectName) -> Problem {
    Problem {
        service: frontend.owner.service.clone(),
        field: frontend.kind.field().to_owned(),
        reason: Reason::AddressConflict,
        message: format!(
            "{} belongs to the health check of Service {by}",
            frontend.key
        ),
    }
}
