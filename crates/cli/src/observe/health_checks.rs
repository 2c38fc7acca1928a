//! Health check node ports, kept in sync with the Services.

use std::collections::BTreeSet;

use ipnet::IpNet;
use proxier::Runtime;
use proxier::desired::{Config, DesiredState, HealthCheck};
use proxier::observe::health::{HealthError, ServiceHealth};
use proxier::observe::metrics::Monitor;

use crate::logging::chain;

/// The server, and the checks that it serves.
pub(crate) struct Health {
    runtime: Runtime,
    monitor: Monitor,
    /// The networks of the addresses that it listens on.
    networks: Vec<IpNet>,
    server: ServiceHealth,
    /// The checks in effect; `None` if a port could not be opened.
    checks: Option<Vec<HealthCheck>>,
    reported: Reported,
}

/// The errors that were logged and have not ended.
#[derive(Default)]
struct Reported(BTreeSet<String>);

impl Reported {
    /// The errors that are new since the last call: ports are tried again at each sync.
    fn follow(&mut self, errors: &[HealthError]) -> Vec<String> {
        let now: BTreeSet<_> = errors.iter().map(|error| chain(error)).collect();
        let new = now.difference(&self.0).cloned().collect();
        self.0 = now;
        new
    }
}

impl Health {
    pub(crate) fn new(runtime: Runtime, config: &Config, monitor: Monitor) -> Self {
        let networks = config.node_port_networks();
        Self {
            server: server(&runtime, &networks, &monitor),
            runtime,
            monitor,
            networks,
            checks: Some(Vec::new()),
            reported: Reported::default(),
        }
    }

    /// Updates the checks. Ports that could not be opened are tried again.
    pub(crate) fn follow(&mut self, desired: &DesiredState) {
        let networks = desired.config().node_port_networks();
        if networks != self.networks {
            self.server = server(&self.runtime, &networks, &self.monitor);
            self.networks = networks;
            self.checks = Some(Vec::new());
        }
        let as_before = self
            .checks
            .as_ref()
            .is_some_and(|checks| desired.health_checks().eq(checks));
        if as_before {
            return;
        }
        let checks: Vec<_> = desired.health_checks().cloned().collect();
        let errors = self.server.sync(checks.iter().cloned());
        for error in self.reported.follow(&errors) {
            tracing::warn!("{error}");
        }
        self.checks = errors.is_empty().then_some(checks);
    }
}

fn server(runtime: &Runtime, networks: &[IpNet], monitor: &Monitor) -> ServiceHealth {
    let monitor = monitor.clone();
    ServiceHealth::new(runtime.clone(), networks.to_vec())
        .healthy_while(move || monitor.is_healthy())
}

#[cfg(test)]
mod tests {
    use proxier::model::ObjectName;

    use super::*;

    /// kubernetes/kubernetes#63617: two Services with one port.
    #[test]
    fn a_health_check_port_of_two_services_is_reported_once() {
        let name = |name| ObjectName::new("default", name).unwrap();
        let taken = |service| HealthError::PortTaken {
            service: name(service),
            port: 30_080.try_into().unwrap(),
            by: name("a"),
        };
        let mut reported = Reported::default();
        let new = reported.follow(&[taken("b")]);
        assert_eq!(new.len(), 1);
        assert!(
            new[0].contains("default/b") && new[0].contains("default/a"),
            "{new:?}"
        );
        assert_eq!(reported.follow(&[taken("b")]), [""; 0]);
        assert_eq!(reported.follow(&[taken("b"), taken("c")]).len(), 1);
        // It ends, and returns.
        assert_eq!(reported.follow(&[]), [""; 0]);
        assert_eq!(reported.follow(&[taken("b")]).len(), 1);
    }
}
